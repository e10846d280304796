"""Flow on known translations; the temporal profile on a small ladder of distortions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from metrics.functional import optical_flow, temporal_profile, warp

MakeClip = Callable[..., Tensor]


def textured(size: int, seed: int = 0) -> Tensor:
    noise = torch.rand(1, 1, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    return 255 * interpolate(noise, size=size, mode="bicubic")[0, 0].clamp(0, 1)


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -2), (3, 2), (-6, 5)])
def test_flow_finds_a_known_translation(shift: tuple[int, int]) -> None:
    image, (dx, dy) = textured(160), shift
    a = image[16:144, 16:144]
    b = image[16 - dy : 144 - dy, 16 - dx : 144 - dx]
    flow = optical_flow(a[None], b[None])[0]
    error = ((flow[0] - dx) ** 2 + (flow[1] - dy) ** 2).sqrt()
    assert error[12:-12, 12:-12].mean() < 0.1


def test_flow_of_a_pair_does_not_depend_on_its_batch(moving_texture: MakeClip) -> None:
    video = moving_texture(frames=4)[:, 0].float()
    together = optical_flow(video[:-1], video[1:])
    alone = torch.cat([optical_flow(video[i : i + 1], video[i + 1 : i + 2]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_warp_undoes_a_translation() -> None:
    image = textured(40)[None, None]
    flow = torch.zeros(1, 2, 40, 40)
    flow[:, 0] = 3
    assert torch.allclose(warp(image, flow)[..., :-3], image[..., 3:], atol=1e-3)


def test_flow_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="one shape"):
        optical_flow(torch.zeros(1, 8, 8), torch.zeros(1, 8, 9))


def noisy(video: Tensor, sigma: float) -> Tensor:
    draw = torch.randn(video.shape, generator=torch.Generator().manual_seed(1))
    return (video + sigma * draw).round().clamp(0, 255).byte()


def flickering(video: Tensor, strength: float) -> Tensor:
    gain = 1 + strength * torch.randn(len(video), 1, 1, 1, generator=torch.Generator().manual_seed(2))
    return (video * gain).round().clamp(0, 255).byte()


def jittered(video: Tensor, pixels: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    moves = torch.randint(-pixels, pixels + 1, (len(video), 2), generator=generator).tolist()
    return torch.stack([torch.roll(frame, move, (1, 2)) for frame, move in zip(video, moves, strict=True)])


def shuffled(video: Tensor) -> Tensor:
    return video[torch.randperm(len(video), generator=torch.Generator().manual_seed(4))]


def ratio(video: Tensor) -> float:
    value = temporal_profile(video, 10)["accel_ratio"]
    assert isinstance(value, float)
    return value


@pytest.mark.parametrize("seed", range(4))
def test_every_temporal_defect_raises_the_acceleration_ratio(seed: int, moving_texture: MakeClip) -> None:
    clean = moving_texture(seed)
    half = torch.arange(len(clean)) // 2 * 2
    defects = {
        "stutter": clean[half],
        "shuffle": shuffled(clean),
        "jitter 1": jittered(clean, 1),
        "jitter 3": jittered(clean, 3),
        "flicker": flickering(clean, 0.05),
        "noise": noisy(clean, 5),
    }
    base = ratio(clean)
    better = [name for name, video in defects.items() if ratio(video) <= base]
    assert not better


def test_stronger_noise_and_flicker_leave_a_larger_residual(moving_texture: MakeClip) -> None:
    clean = moving_texture()
    for distort in (noisy, flickering):
        levels = (0.0, 2.0, 5.0, 10.0) if distort is noisy else (0.0, 0.02, 0.05, 0.1)
        residuals = [temporal_profile(distort(clean, level), 10)["warp_residual"] for level in levels]
        assert residuals == sorted(residuals, key=float)


def test_flicker_is_told_from_noise(moving_texture: MakeClip) -> None:
    clean = moving_texture()
    flicker = temporal_profile(flickering(clean, 0.05), 10)["luminance_flicker"]
    noise = temporal_profile(noisy(clean, 10), 10)["luminance_flicker"]
    assert flicker is not None
    assert noise is not None
    assert flicker > 5 * noise


def test_a_frozen_video_is_static_and_has_no_score(moving_texture: MakeClip) -> None:
    profile = temporal_profile(moving_texture()[:1].expand(12, -1, -1, -1), 10)
    assert profile["static"] is True
    assert profile["accel_ratio"] is None
    assert profile["warp_residual"] is None
    assert profile["luminance_flicker"] is None


def test_noise_on_a_frozen_video_is_not_motion(moving_texture: MakeClip) -> None:
    still = moving_texture()[:1].expand(12, -1, -1, -1)
    assert temporal_profile(noisy(still, 1), 10)["static"] is True


def test_playing_backwards_or_in_other_colours_changes_little(moving_texture: MakeClip) -> None:
    clean = moving_texture()
    base = ratio(clean)
    assert ratio(clean.flip(0)) == pytest.approx(base, abs=0.02)


def test_a_cut_is_counted_and_left_out(moving_texture: MakeClip) -> None:
    clean, other = moving_texture(0), moving_texture(1)
    joined = temporal_profile(torch.cat([clean[:6], 255 - other[6:]]), 10)
    assert joined["cuts"] == 1
    assert isinstance(joined["accel_ratio"], float)
    assert joined["accel_ratio"] < 0.2


def test_speed_is_in_percent_of_the_diagonal_per_second() -> None:
    image = textured(160)
    video = torch.stack([image[16:144, 16 + t : 144 + t] for t in range(6)])[:, None].round().byte()
    expected = 100 * 24 / (2**0.5 * 128)  # one pixel a frame at 24 frames a second
    speed = temporal_profile(video, 24)["speed"]
    assert speed == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("video", "fps"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 10),
        (torch.zeros(4, 3, 8, 8), 10),
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), 0),
        (torch.zeros(4, 8, 8, dtype=torch.uint8), 10),
    ],
)
def test_wrong_input_is_refused(video: Tensor, fps: float) -> None:
    with pytest.raises(ValueError, match=r"expected|frames|fps"):
        temporal_profile(video, fps)
