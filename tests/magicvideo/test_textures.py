"""Moving textures: the flow that comes with them is where things really went."""

import numpy as np
import torch
from torch.nn.functional import interpolate

from magicvideo.training.textures import dead_leaves, textured_gap
from magicvideo.vfi.flow import warp

TIMES = np.array([0, 1 / 3, 0.5, 2 / 3, 1])


def test_each_frame_between_is_the_keyframes_moved_by_the_flow() -> None:
    frames, flow = textured_gap(np.random.default_rng(0), 128, TIMES)
    assert frames.shape == (5, 3, 128, 128)
    assert flow.shape == (3, 4, 32, 32)
    full = interpolate(flow, (128, 128), mode="bilinear", align_corners=False)
    between = frames[1:4].float()
    for keyframe, to in ((frames[0], full[:, :2]), (frames[4], full[:, 2:])):
        key = keyframe.float().expand(3, -1, -1, -1)
        still, moved = ((image - between).abs().mean() for image in (key, warp(key, to)))
        assert moved < still / 4


def test_a_pure_function_of_the_generator() -> None:
    one, two = (textured_gap(np.random.default_rng(3), 64, TIMES) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], textured_gap(np.random.default_rng(4), 64, TIMES)[0])


def test_dead_leaves_have_detail_of_all_sizes() -> None:
    # Natural images have spectra near 1 / f^2 in power: each octave holds about as much as the next.
    texture = dead_leaves(np.random.default_rng(1), 256).mean(0)
    power = torch.fft.fft2(texture - texture.mean()).abs().square()
    frequency = torch.fft.fftfreq(256)
    radius = torch.hypot(frequency[:, None], frequency[None])
    octaves = [
        float(power[(radius >= low) & (radius < 2 * low)].sum()) for low in (1 / 128, 1 / 64, 1 / 32, 1 / 16)
    ]
    assert max(octaves) < 12 * min(octaves)
