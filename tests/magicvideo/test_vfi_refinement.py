"""What a flow leaves over between two keyframes is measured and shared out as time is."""

import pytest
import torch
import torch.nn.functional as F

from magicvideo.vfi.flow import warp
from magicvideo.vfi.refinement import refine_flow, residual_motion

torch.set_num_threads(1)


def _texture(size: int = 64) -> torch.Tensor:
    coarse = torch.rand(1, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)


def _shifted(frame: torch.Tensor, dy: float, dx: float) -> torch.Tensor:
    """Return the frame with its content moved by ``(dy, dx)`` pixels."""
    flow = torch.tensor([-dy, -dx]).view(1, 2, 1, 1).expand(1, 2, *frame.shape[2:])
    return warp(frame, flow, "bicubic")


@pytest.mark.parametrize("shift", [(0.4, 0.0), (0.0, -0.4), (0.3, 0.5)])
def test_a_small_shift_is_measured_in_size_and_sign(shift: tuple[float, float]) -> None:
    frame = _texture()
    found = residual_motion(frame, _shifted(frame, *shift))[..., 12:-12, 12:-12]
    assert found.mean((0, 2, 3)).tolist() == pytest.approx(shift, abs=0.08)


def test_nothing_is_measured_without_texture_or_without_change() -> None:
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert residual_motion(flat, flat + 0.1).abs().max() == 0
    frame = _texture()
    assert residual_motion(frame, frame).abs().max() == 0


@pytest.mark.parametrize("time", [1 / 3, 2 / 3])
def test_a_flow_that_knows_nothing_finds_the_motion_and_keeps_it_even(time: float) -> None:
    first = _texture()
    second = _shifted(first, 2.0, -1.5)
    flow = refine_flow(first, second, torch.zeros(1, 4, 16, 16), torch.tensor([time]))
    expected = [-2 * time, 1.5 * time, 2 * (1 - time), -1.5 * (1 - time)]
    assert flow.shape == (1, 4, 16, 16)
    assert flow[..., 4:-4, 4:-4].mean((0, 2, 3)).tolist() == pytest.approx(expected, abs=0.15)


def test_a_true_flow_stays() -> None:
    first = _texture()
    second = _shifted(first, 3.0, 0.0)
    true = torch.tensor([-1.5, 0.0, 1.5, 0.0]).view(1, 4, 1, 1).expand(1, 4, 16, 16)
    found = refine_flow(first, second, true, torch.tensor([0.5]))[..., 4:-4, 4:-4]
    assert (found - true[..., 4:-4, 4:-4]).abs().mean() < 0.08
