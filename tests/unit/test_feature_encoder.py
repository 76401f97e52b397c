import pytest
import torch
from torch import Tensor, nn

from fla.batch import Batch, pad_labels
from fla.build import build_encoder
from fla.description import EncoderShape
from fla.models.features import FeatureEncoder, FrozenEncoder, build_feature_encoder
from fla.models.visual_encoder import VisualEncoder, build_visual_encoder


@pytest.fixture
def encoder() -> VisualEncoder:
    torch.manual_seed(0)
    return build_visual_encoder(sign_width=24, kernel_size=3)


def batch_of(*lengths: int, frames: Tensor | None = None, features: Tensor | None = None) -> Batch:
    names = tuple(f"clip{i}" for i in range(len(lengths)))
    return Batch(
        sample_ids=names,
        references=names,
        frame_lengths=torch.tensor(lengths),
        labels=pad_labels([[5, 2, 38]] * len(lengths)),
        frames=frames,
        features=features,
    )


def freeze(encoder: VisualEncoder, **memory: float) -> FrozenEncoder:
    whole = build_feature_encoder(encoder, input_features="sign_wise", light_t=None)
    return FrozenEncoder(whole, **memory)


def test_a_frozen_encoder_stays_bit_identical(encoder: VisualEncoder):
    frozen = freeze(encoder)
    before = frozen.digest()

    frozen.train()
    frozen(batch_of(2, 3, frames=torch.randn(5, 3, 32, 32)))

    assert frozen.digest() == before
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_the_digest_sees_a_single_statistic(encoder: VisualEncoder):
    frozen = freeze(encoder)
    before = frozen.digest()

    encoder.temporal.norm.running_mean[3] += 1.0

    assert frozen.digest() != before


def test_a_frozen_encoder_puts_features_in_the_place_of_frames(encoder: VisualEncoder):
    frames = torch.randn(5, 3, 32, 32)
    expected = encoder.eval()(frames, torch.tensor([2, 3]))

    batch = freeze(encoder)(batch_of(2, 3, frames=frames))

    assert batch.frames is None
    assert batch.sample_ids == ("clip0", "clip1")
    assert batch.features.dtype == torch.bfloat16
    torch.testing.assert_close(batch.features.float(), expected, rtol=0.1, atol=0.05)


def test_where_bfloat16_is_imitated_the_same_values_are_computed_with_in_float32(
    encoder: VisualEncoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fla.models.features.computes_bfloat16", lambda device: False)
    frozen, batch = freeze(encoder), batch_of(2, 3, frames=torch.randn(5, 3, 32, 32))

    features = frozen(batch).features

    assert {parameter.dtype for parameter in frozen.parameters()} == {torch.bfloat16}
    precise = encoder.float()(batch.frames.bfloat16().float(), batch.frame_lengths)
    assert torch.equal(features, precise.bfloat16())


def test_passes_of_fewer_frames_give_the_same_features(encoder: VisualEncoder):
    batch = batch_of(2, 5, frames=torch.randn(7, 3, 32, 32))
    at_once = freeze(encoder)(batch).features

    three_frames_gib = 3 * 32 * 32 * 80 / 2**30
    in_passes = freeze(encoder, memory_gib=three_frames_gib)(batch).features

    torch.testing.assert_close(in_passes, at_once, rtol=0.05, atol=0.02)


def build(input_features: str) -> FeatureEncoder:
    torch.manual_seed(0)
    light_t = "tiny" if input_features == "light_t" else ""
    shape = EncoderShape(
        sign_width=24, kernel_size=3, input_features=input_features, light_t=light_t
    )
    return build_encoder(shape)


@pytest.mark.parametrize(
    ("input_features", "width"), [("frame_wise", 512), ("sign_wise", 24), ("light_t", 256)]
)
def test_each_kind_of_features_has_its_width(input_features, width):
    encoder = build(input_features).eval()

    features = encoder(batch_of(2, 3, frames=torch.randn(5, 3, 32, 32)))

    assert features.shape == (5, width)


@pytest.mark.parametrize("input_features", ["frame_wise", "sign_wise", "light_t"])
def test_features_of_a_clip_depend_on_no_other_clip(input_features):
    encoder = build(input_features).eval()
    frames = torch.randn(6, 3, 32, 32)

    together = encoder(batch_of(2, 4, frames=frames))
    alone = encoder(batch_of(2, frames=frames[:2]))

    torch.testing.assert_close(together[:2], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("input_features", ["sign_wise", "light_t"])
def test_a_frozen_backbone_and_a_trained_rest_make_the_whole(input_features):
    whole = build(input_features).eval()
    batch = batch_of(2, 3, frames=torch.randn(5, 3, 32, 32))
    expected = whole(batch)

    to_freeze, trained = whole.split("backbone")
    features = trained(FrozenEncoder(to_freeze)(batch))

    assert not any(name.startswith("backbone") for name, _ in trained.named_parameters())
    assert all(parameter.requires_grad for parameter in trained.parameters())
    torch.testing.assert_close(features, expected, rtol=0.1, atol=0.1)


def test_what_is_frozen_and_what_is_trained_follows_the_key():
    whole = build("sign_wise")

    assert whole.split("all") == (whole, None)
    assert whole.split("nothing") == (None, whole)


def test_a_batch_without_what_the_encoder_starts_from_is_refused():
    whole = build("sign_wise")

    with pytest.raises(ValueError, match="needs frames"):
        whole(batch_of(1))
    with pytest.raises(ValueError, match="needs features"):
        whole.split("backbone")[1](batch_of(1))


@pytest.mark.parametrize("input_features", ["frame_wise", "sign_wise", "light_t"])
def test_the_last_layer_is_that_before_the_features(input_features):
    encoder = build(input_features).train()

    encoder(batch_of(2, 3, frames=torch.randn(5, 3, 32, 32))).sum().backward()

    last = nn.ParameterList(encoder.last_layer())
    # Light-T's encoder ends with a norm; what comes before it is the last layer.
    assert all(parameter.grad is not None for parameter in last)
    names = [name for name, p in encoder.named_parameters() if any(p is q for q in last)]
    assert names[0].startswith(
        {
            "frame_wise": "backbone.layer4.1",
            "sign_wise": "temporal",
            "light_t": "light_t.encoder.layers.0",
        }[input_features]
    )
