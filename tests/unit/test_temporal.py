import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fla.models.temporal import LocalTemporal

WIDTH = 6


@pytest.fixture
def module() -> LocalTemporal:
    torch.manual_seed(0)
    module = LocalTemporal(in_width=WIDTH, out_width=8)
    nn.init.uniform_(module.norm.running_mean)
    return module


def clips(*lengths: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(sum(lengths), WIDTH), torch.tensor(lengths)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_packed_clips_equal_a_padded_convolution_of_each(kernel_size: int):
    module = LocalTemporal(in_width=WIDTH, out_width=8, kernel_size=kernel_size).eval()
    frames, lengths = clips(4, 1, 7)

    packed = module(frames, lengths)

    alone = [
        functional.conv1d(
            clip.T[None], module.conv.weight, module.conv.bias, padding=kernel_size // 2
        )[0].T
        for clip in frames.split(lengths.tolist())
    ]
    torch.testing.assert_close(packed, torch.relu(module.norm(torch.cat(alone))))


def test_features_do_not_depend_on_neighbours_in_the_batch(module: LocalTemporal):
    module.eval()
    frames, lengths = clips(4, 5, 3)

    together = module(frames, lengths)
    alone = module(frames[4:9], torch.tensor([5]))

    torch.testing.assert_close(together[4:9], alone)


def test_gradients_stay_in_their_clip(module: LocalTemporal):
    module.eval()
    frames, lengths = clips(4, 5, 3)
    frames.requires_grad_()

    module(frames, lengths)[4:9].sum().backward()

    assert frames.grad is not None
    assert frames.grad[:4].count_nonzero() == 0
    assert frames.grad[9:].count_nonzero() == 0
    assert (frames.grad[4:9] != 0).any(dim=1).all()


def test_running_statistics_come_from_real_frames_only(module: LocalTemporal):
    frames, lengths = clips(2, 9)
    alone = [
        module.conv(functional.pad(clip.T[None], (1, 1)))[0].T for clip in frames.split([2, 9])
    ]
    module.norm.reset_running_stats()

    module(frames, lengths)

    torch.testing.assert_close(module.norm.running_mean, 0.1 * torch.cat(alone).mean(dim=0))


def test_a_single_frame_can_be_trained_on(module: LocalTemporal):
    frames, lengths = clips(1)
    before = module.norm.running_mean.clone()

    module.train()
    trained = module(frames, lengths)
    trained.sum().backward()

    module.eval()
    torch.testing.assert_close(trained, module(frames, lengths))
    torch.testing.assert_close(module.norm.running_mean, before)


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="must be odd, got 4"):
        LocalTemporal(in_width=WIDTH, out_width=8, kernel_size=4)
