import pytest
import torch

from fla.models.visual_encoder import VisualEncoder, build_visual_encoder


@pytest.fixture(scope="module")
def encoder() -> VisualEncoder:
    torch.manual_seed(0)
    encoder = build_visual_encoder(sign_width=16, kernel_size=3)
    # One pass in training mode, so that the statistics are no longer 0 and 1.
    encoder(torch.randn(6, 3, 48, 48), torch.tensor([6]))
    return encoder


def test_a_clips_features_do_not_depend_on_what_it_is_batched_with(encoder: VisualEncoder):
    encoder.eval()
    frames, lengths = torch.randn(9, 3, 48, 48), torch.tensor([2, 4, 3])

    with torch.no_grad():
        together = encoder(frames, lengths)
        alone = encoder(frames[2:6], torch.tensor([4]))

    torch.testing.assert_close(together[2:6], alone)


def test_every_parameter_gets_a_gradient(encoder: VisualEncoder):
    encoder.train()

    encoder(torch.randn(5, 3, 48, 48), torch.tensor([2, 3])).square().sum().backward()

    assert [name for name, value in encoder.named_parameters() if value.grad is None] == []
