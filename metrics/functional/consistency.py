"""Likeness of frames over time, and how well motion explains neighbours.

All of these are best on a frozen video: report them beside the static flag, never alone.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from metrics.functional.flow import magnitude, optical_flow, warp
from metrics.functional.temporal import grey_frames, non_occluded

CHUNK = 2  # frame pairs at once; more of them leave the cache of a processor
SMOOTHNESS_SIDE = 256  # shorter side, in pixels, of what is rebuilt
PEAK_RATE = 8.0  # frames per second at which the fastest motion is measured
LAGS = (2, 5, 10, 20, 50)
Flow = Callable[[Tensor, Tensor], Tensor]
Interpolator = Callable[[Tensor, Tensor], Tensor]


def drift_curve(embeddings: Tensor) -> Tensor:
    """Return the cosine of the first frame with every later one.

    Args:
        embeddings: ``(T, D)``, T of at least 2.

    Returns:
        ``(T - 1,)`` float64 in [-1, 1].
    """
    unit = _unit(embeddings)
    return unit[1:] @ unit[0]


def identity_drift(embeddings: Tensor) -> Tensor:
    """Return 1 - mean cosine of the first frame with the last quarter of the frames, float64 in [0, 2].

    Args:
        embeddings: ``(T, D)``, T of at least 2.
    """
    return 1 - drift_curve(embeddings)[-max(1, len(embeddings) // 4) :].mean()


def horizon_curve(embeddings: Tensor, lags: Sequence[int] = LAGS) -> dict[int, float]:
    """Return, for every lag in frames that fits, the mean cosine of frames that far apart.

    Args:
        embeddings: ``(T, D)``, T of at least 2.
        lags: in frames.
    """
    unit = _unit(embeddings)
    fitting = [lag for lag in lags if 0 < lag < len(unit)]
    return {lag: float((unit[lag:] * unit[:-lag]).sum(1).mean()) for lag in fitting}


def frame_consistency(embeddings: Tensor) -> Tensor:
    """Return mean_t ½ [max(0, e_t · e_{t-1}) + max(0, e_t · e_1)] over t ≥ 2.

    The formula of VBench's subject (DINO) and background (CLIP) consistency.

    Args:
        embeddings: ``(T, D)``, T of at least 2.

    Returns:
        Scalar float64 in [0, 1]; 1 for a frozen video.
    """
    unit = _unit(embeddings)
    previous = (unit[1:] * unit[:-1]).sum(1).clamp(min=0)
    first = (unit[1:] @ unit[0]).clamp(min=0)
    return ((previous + first) / 2).mean()


@torch.no_grad()
def motion_smoothness(video: Tensor, interpolator: Interpolator) -> Tensor:
    """Return 1 - mean |I_t - Î_t| / 255, Î_t being frame t rebuilt from t - 1 and t + 1, for odd t.

    The formula of VBench's motion smoothness, whose interpolator is AMT.

    Args:
        video: ``(T, C, H, W)`` uint8, T of at least 3.
        interpolator: maps two float ``(n, C, H, W)`` batches in [0, 255] to the frames halfway between.

    Returns:
        Scalar float64 in [0, 1]; 1 for a frozen video.
    """
    if len(video) < 3:
        raise ValueError(f"expected at least 3 frames, got {len(video)}")
    before, middle, after = video[:-2:2], video[1:-1:2], video[2::2]
    errors = [
        (interpolator(a.float(), c.float()).clamp(0, 255) - b.float()).abs().flatten(1).mean(1)
        for a, b, c in zip(before.split(CHUNK), middle.split(CHUNK), after.split(CHUNK), strict=True)
    ]
    return 1 - torch.cat(errors).double().mean() / 255


def flow_interpolator(a: Tensor, b: Tensor, flow: Flow = optical_flow) -> Tensor:
    """Return the frames halfway between ``a`` and ``b`` ``(n, C, H, W)``, both moved half the way."""
    motion = flow(a.mean(1), b.mean(1))
    return (warp(a, -motion / 2) + warp(b, motion / 2)) / 2


@torch.no_grad()
def warping_error(video: Tensor, flow: Flow = optical_flow, side: int = 128) -> Tensor:
    """Return the mean over t of Σ M ‖I_t - W(I_{t+1})‖² / Σ M (Lai et al. 2018, equation 11).

    M leaves out occlusions and motion boundaries (Ruder et al. 2016, equations 5 and 6).

    Args:
        video: ``(T, 3, H, W)`` uint8, T of at least 2; intensities enter as [0, 1].
        flow: what finds the motion of grey frames.
        side: shorter side in pixels at which the error is taken.

    Returns:
        Scalar float64; 0 for a frozen video.
    """
    if len(video) < 2:
        raise ValueError(f"expected at least 2 frames, got {len(video)}")
    errors = []
    for at in range(0, len(video) - 1, CHUNK):
        frames = shrunk(video[at : at + CHUNK + 1], side)
        grey = frames.mean(1)
        forward, backward = flow(grey[:-1], grey[1:]), flow(grey[1:], grey[:-1])
        seen = non_occluded(forward, backward) * (1 - _boundaries(forward))
        gap = ((frames[:-1] - warp(frames[1:], forward)) / 255).square().sum(1, keepdim=True)
        errors.append((gap * seen).sum((1, 2, 3)) / seen.sum((1, 2, 3)).clamp(min=1))
    return torch.cat(errors).double().mean()


@torch.no_grad()
def still_parts(video: Tensor, flow: Flow = optical_flow) -> Tensor:
    """Return the video ``(T, 3, H, W)`` uint8 with the half of the pixels that moves faster over time grey."""
    grey = grey_frames([video])
    pairs = zip(grey[:-1].split(CHUNK), grey[1:].split(CHUNK), strict=True)
    speed = torch.stack([magnitude(flow(a, b)).sum(0) for a, b in pairs]).sum(0)
    region = (speed <= speed.median()).float()[None, None]
    mask = interpolate(region, size=video.shape[-2:], mode="nearest")
    return torch.cat([(part * mask + 127 * (1 - mask)).round().byte() for part in video.split(16)])


def peak_sampling(fps: float) -> str:
    """Return the sampling at which ``peak_speed`` is to be measured."""
    return f"fps:{PEAK_RATE:g}" if fps > PEAK_RATE else "native"


@torch.no_grad()
def peak_speed(grey: Tensor, fps: float, flow: Flow = optical_flow) -> Tensor:
    """Return the mean flow of the fastest twentieth of the frame in % of its diagonal per second.

    Args:
        grey: ``(T, h, w)`` float grey frames, T of at least 2.
        fps: frames per second of ``grey``.
        flow: what finds the motion of grey frames.
    """
    pairs = zip(grey[:-1].split(CHUNK), grey[1:].split(CHUNK), strict=True)
    fastest = torch.cat([fastest_twentieth(flow(a, b)) for a, b in pairs])
    return 100 * fps * fastest.double().mean() / math.hypot(*grey.shape[-2:])


@torch.no_grad()
def fastest_twentieth(flows: Tensor) -> Tensor:
    """Return ``(N,)`` mean magnitudes of the fastest 5 % of each field ``(N, 2, h, w)``."""
    magnitudes = magnitude(flows).flatten(1)
    return magnitudes.topk(max(1, int(magnitudes.shape[1] * 0.05)), dim=1).values.mean(1)


def shrunk(frames: Tensor, side: int) -> Tensor:
    """Return float frames with the shorter side at most ``side``, antialiased."""
    height, width = frames.shape[-2:]
    factor = min(1.0, side / min(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    if size == (height, width):
        return frames.float()
    return interpolate(frames.float(), size=size, mode="bilinear", antialias=True, align_corners=False)


def thumbnails(frames: Tensor) -> Tensor:
    """Return uint8 frames with the shorter side at most 256, at which smoothness and errors are measured."""
    return shrunk(frames, SMOOTHNESS_SIDE).round().byte()


def _boundaries(flow: Tensor) -> Tensor:
    """Return ``(N, 1, h, w)`` 1 where the motion changes abruptly: |∇u|² + |∇v|² > 0.01 |w|² + 0.002."""
    dx = flow[..., :, 1:] - flow[..., :, :-1]
    dy = flow[..., 1:, :] - flow[..., :-1, :]
    gradient = torch.zeros_like(flow)
    gradient[..., :, :-1] += dx.square()
    gradient[..., :-1, :] += dy.square()
    limit = 0.01 * flow.square().sum(1, keepdim=True) + 0.002
    return (gradient.sum(1, keepdim=True) > limit).float()


def _unit(embeddings: Tensor) -> Tensor:
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(f"expected (T, D) embeddings of at least 2 frames, got {tuple(embeddings.shape)}")
    return normalize(embeddings.double(), dim=-1)
