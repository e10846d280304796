"""Moving textures with their exact flow: what an interpolator learns camera motion and natural detail from.

Sprites move before a smooth background that stands still; an interpolator trained on them alone gains little on a
filmed clip, where everything moves a little and everything has detail. Dead leaves (discs of all sizes that cover one
another) have the statistics of natural images: Lee, Mumford and Huang 2001, "Occlusion models for natural images".
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Path2D:
    """A similarity that grows with time: at time 1 ``shift`` ``(dx, dy)`` pixels, ``turn`` radians, ``zoom``."""

    shift: tuple[float, float]
    turn: float
    zoom: float

    def matrix(self, time: float) -> Tensor:
        """Return ``(2, 3)``: where a point of the layer, in pixels from the centre, is seen at ``time``."""
        angle, scale = self.turn * time, 1 + self.zoom * time
        cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
        return torch.tensor(
            [[cosine, -sine, self.shift[0] * time], [sine, cosine, self.shift[1] * time]],
            dtype=torch.float32,
        )


def textured_gap(rng: np.random.Generator, size: int, times: np.ndarray) -> tuple[Tensor, Tensor]:
    """Draw a textured background and an object before it, each on a path of its own.

    Args:
        rng: the only source of randomness.
        size: pixels per side; a multiple of 4.
        times: ``(T,)`` from 0 to 1, the first and last of them the keyframes.

    Returns:
        Frames ``(T, 3, S, S)`` uint8, and from each time between the flow ``(T - 2, 4, S / 4, S / 4)`` to the first
        keyframe and to the last: dy, dx each, in pixels.
    """
    side = size + size // 2
    layers = [(dead_leaves(rng, side), None), (dead_leaves(rng, side), _blob(rng, side))]
    paths = [_path(rng, 4.0), _path(rng, 7.0)]
    frames = [_compose(layers, paths, time, size) for time in times]
    flows = [
        torch.cat([_flow(layers, paths, float(time), float(key), size) for key in (times[0], times[-1])])
        for time in times[1:-1]
    ]
    return torch.stack(frames), torch.stack(flows)


def dead_leaves(rng: np.random.Generator, side: int) -> Tensor:
    """Return a texture ``(3, side, side)`` in [0, 1]: shaded discs with radii after a power law, and grain."""
    base = _colour(rng, 128.0)
    image = np.empty((side, side, 3), np.float32)
    image[:] = base
    smallest, largest = 3.0, side / 4
    radii = (smallest**-1 - rng.random(400) * (smallest**-1 - largest**-1)) ** -1
    for radius in -np.sort(-radii):
        x, y = rng.uniform(0, side, 2)
        top, left = max(int(y - radius), 0), max(int(x - radius), 0)
        rows, columns = np.ogrid[top : min(int(y + radius) + 1, side), left : min(int(x + radius) + 1, side)]
        cover = np.clip(radius - np.hypot(rows - y, columns - x), 0, 1)[..., None]
        light = 1 + rng.uniform(-0.3, 0.3) * (rows - y + columns - x)[..., None] / (2 * radius)
        colour = 0.5 * base + 0.5 * _colour(rng, float(base.mean()))
        region = image[top : top + cover.shape[0], left : left + cover.shape[1]]
        region += cover * (colour * light - region)
    texture = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    for scale in (1, 2, 4, 8):
        grain = torch.from_numpy(rng.normal(0, 0.012, (1, 1, -(-side // scale), -(-side // scale)))).float()
        texture = texture + F.interpolate(grain, (side, side), mode="bilinear", align_corners=False)
    return texture[0].clamp(0, 1)


def _colour(rng: np.random.Generator, around: float) -> np.ndarray:
    """Draw a colour as muted as nature's: its brightness varies much, its hue little."""
    return np.clip(around + rng.normal(0, 60) + rng.normal(0, 25, 3), 0, 255)


def _blob(rng: np.random.Generator, side: int) -> Tensor:
    """Return the cover ``(1, side, side)`` of an object with a wavy outline, an eighth to a half of a frame wide."""
    centre = side / 2 + rng.uniform(-side / 5, side / 5, 2)
    rows, columns = np.mgrid[:side, :side]
    angle = np.arctan2(rows - centre[0], columns - centre[1])
    outline = rng.uniform(side / 12, side / 6) * np.ones_like(angle)
    for order in range(2, 6):
        outline *= 1 + rng.uniform(0, 0.2) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    cover = np.clip(outline - np.hypot(rows - centre[0], columns - centre[1]) + 0.5, 0, 1)
    return torch.from_numpy(cover).float()[None]


def _path(rng: np.random.Generator, spread: float) -> Path2D:
    dx, dy = np.clip(rng.normal(0, spread, 2), -2.5 * spread, 2.5 * spread)
    return Path2D((float(dx), float(dy)), float(rng.normal(0, 0.02)), float(rng.normal(0, 0.02)))


def _compose(
    layers: list[tuple[Tensor, Tensor | None]], paths: list[Path2D], time: float, size: int
) -> Tensor:
    frame = torch.zeros(3, size, size)
    for (texture, cover), path in zip(layers, paths, strict=True):
        points = _points_of_layer(path, float(time), size, size)
        drawn = _sample(texture, points)
        alpha = torch.ones(1) if cover is None else _sample(cover, points).clamp(0, 1)
        frame = frame + alpha * (drawn - frame)
    return (frame.clamp(0, 1) * 255).round().to(torch.uint8)


def _flow(
    layers: list[tuple[Tensor, Tensor | None]], paths: list[Path2D], time: float, key: float, size: int
) -> Tensor:
    """Return ``(2, S / 4, S / 4)``: dy, dx in pixels from ``time`` to ``key`` of what is seen at ``time``."""
    small = size // 4
    here = _grid(small, size)
    flow = torch.zeros(2, small, small)
    for (_, cover), path in zip(layers, paths, strict=True):
        points = _points_of_layer(path, time, size, small)
        matrix = path.matrix(key)
        moved = points @ matrix[:, :2].T + matrix[:, 2] - here
        seen = torch.ones(1, dtype=torch.bool) if cover is None else _sample(cover, points) > 0.5
        flow = torch.where(seen, moved.flip(-1).permute(2, 0, 1), flow)
    return flow


def _grid(count: int, size: int) -> Tensor:
    """Return the centres ``(count, count, 2)`` of cells of a frame, x and y in pixels from its centre."""
    axis = (torch.arange(count) + 0.5) * (size / count) - size / 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)


def _points_of_layer(path: Path2D, time: float, size: int, count: int) -> Tensor:
    """Return ``(count, count, 2)``: which point of the layer each cell of the frame shows at ``time``."""
    matrix = path.matrix(time)
    return (_grid(count, size) - matrix[:, 2]) @ torch.linalg.inv(matrix[:, :2]).T


def _sample(texture: Tensor, points: Tensor) -> Tensor:
    """Sample ``(C, P, P)`` at points in pixels from its centre."""
    normalised = points / (texture.shape[-1] / 2)
    return F.grid_sample(
        texture[None], normalised[None], mode="bilinear", padding_mode="reflection", align_corners=False
    )[0]
