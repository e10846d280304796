"""What any interpolator must beat: hold the keyframe, or cross-fade between two."""

import torch
from torch import Tensor

from magicvideo.vfi.interpolator import interpolate


def repeat(frames: Tensor, factor: int = 3) -> Tensor:
    """Hold each keyframe: ``(T, 3, H, W)`` in [0, 1] to ``((T - 1) * factor + 1, 3, H, W)``."""
    return interpolate(frames, factor, hold)


def blend(frames: Tensor, factor: int = 3) -> Tensor:
    """Cross-fade linearly between keyframes; shapes as in `repeat`."""
    return interpolate(frames, factor, fade)


def hold(first: Tensor, second: Tensor, times: tuple[float, ...]) -> Tensor:
    """Predict the first keyframe at every time, see `Predictor`."""
    return torch.stack([first for _ in times], 1)


def fade(first: Tensor, second: Tensor, times: tuple[float, ...]) -> Tensor:
    """Predict ``(1 - t) first + t second``, see `Predictor`."""
    return torch.stack([torch.lerp(first, second, time) for time in times], 1)
