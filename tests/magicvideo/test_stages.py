"""Levels of frames: what rounding to 256 of them does to a clip."""

import torch

from magicvideo.stages import to_uint8
from magicvideo.vfi.quality import cadence_ratio, relative_sharpness


def test_whole_levels_stay_however_they_are_rounded() -> None:
    levels = torch.arange(256, dtype=torch.uint8)[:, None, None].expand(256, 48, 40)
    for spread in (False, True):
        assert torch.equal(to_uint8(levels.float() / 255, spread=spread), levels)


def test_spread_rounding_cuts_a_step_of_one_level_in_three_alike() -> None:
    clip = (
        torch.tensor([100, 100 + 1 / 3, 100 + 2 / 3, 101])[:, None, None, None].expand(4, 3, 264, 264) / 255
    )
    steps = {
        spread: to_uint8(clip, spread=spread)[None].float().diff(dim=1).abs().mean((0, 2, 3, 4))
        for spread in (False, True)
    }
    assert steps[False].tolist() == [0, 1, 0]
    assert torch.allclose(steps[True], torch.full((3,), 1 / 3), atol=0.02)


def test_spread_rounding_adds_no_grain() -> None:
    ramp = torch.linspace(0.2, 0.3, 264).expand(3, 264, 264)
    clip = torch.stack([ramp + step / 3 / 255 for step in range(4)])
    plain, spread = (to_uint8(clip, spread=value)[None].float() / 255 for value in (False, True))
    assert abs(relative_sharpness(spread) - relative_sharpness(plain)) < 0.1
    assert abs(cadence_ratio(spread) - 1) < 0.02
