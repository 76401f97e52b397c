import torch

from fla.models.adapters import Adapter


def test_an_adapter_is_an_mlp_with_one_hidden_relu_layer():
    adapter = Adapter(in_width=6, out_width=4)
    features = torch.randn(5, 6)

    embeddings = adapter(features)

    hidden = (features @ adapter.hidden.weight.T + adapter.hidden.bias).clamp(min=0)
    assert hidden.shape == (5, 4)
    torch.testing.assert_close(embeddings, hidden @ adapter.out.weight.T + adapter.out.bias)


def test_features_of_a_frozen_encoder_fit_an_adapter_of_another_type():
    features = torch.randn(5, 6, dtype=torch.bfloat16)

    assert Adapter(in_width=6, out_width=4)(features).dtype == torch.float32
