"""Draw a scene at any size and any times, with its exact optical flow and object masks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from magicvideo.sprites.scene import Scene, Sprite

PALETTE = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (250, 216, 40),
    "green": (44, 160, 60),
    "blue": (45, 100, 220),
    "purple": (130, 60, 190),
    "pink": (250, 130, 190),
    "white": (245, 245, 245),
}
GRADIENTS = {  # colour at the top and at the bottom of the frame
    "black": ((14, 14, 16), (14, 14, 16)),
    "grey": ((128, 128, 128), (128, 128, 128)),
    "snow": ((205, 222, 240), (235, 240, 246)),
    "sunset": ((70, 35, 105), (245, 140, 80)),
    "ocean": ((120, 205, 225), (8, 60, 110)),
    "meadow": ((165, 215, 240), (60, 130, 50)),
}
OUTLINE = 0.09  # width of the dark rim, in units of the object's radius


@dataclass(frozen=True)
class Rendered:
    """A drawn clip of ``T`` frames of ``S x S`` pixels.

    Attributes:
        video: ``(T, S, S, 3)`` uint8, sRGB.
        mask: ``(T, S, S)`` uint8; 0 background, ``i + 1`` where ``scene.objects[i]`` is seen.
        flow: ``(T - 1, S, S, 2)`` float32, displacement ``(dx, dy)`` in pixels of the surface point seen in
            frame t to frame t + 1 (in the gaps between ``times``); zero on the background.
    """

    video: np.ndarray
    mask: np.ndarray
    flow: np.ndarray


def render(scene: Scene, times: np.ndarray, size: int, *, rounding: float = 0.0) -> Rendered:
    """Draw ``scene`` at ``times`` ``(T,)`` in [0, 1] as ``size`` x ``size`` pixels.

    Deterministic: the same arguments give the same bytes. Times need not be regular, so the true frame
    between two others is drawn by asking for it. With ``rounding`` corners are rounded off, as models draw them: the
    shape's distance is smoothed by a Gaussian of that deviation, in units of the object's radius.
    """
    times = np.asarray(times, np.float64)
    canvas = np.repeat(_background(scene, size)[None], len(times), 0)
    mask = np.zeros((len(times), size, size), np.uint8)
    flow = np.zeros((max(len(times) - 1, 0), size, size, 2), np.float32)
    for index in reversed(range(len(scene.objects))):
        _draw(scene.objects[index], index + 1, times, rounding, canvas, mask, flow)
    video = np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)
    return Rendered(video, mask, flow)


def frame_times(num_frames: int) -> np.ndarray:
    """Return the times of ``num_frames`` evenly spaced frames from 0 to 1."""
    return np.linspace(0.0, 1.0, num_frames)


def _background(scene: Scene, size: int) -> np.ndarray:
    top, bottom = (np.array(colour, np.float32) for colour in GRADIENTS[scene.background])
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    blend = axis[:, None, None]
    vignette = 1 - 0.25 * ((axis[:, None] - 0.5) ** 2 + (axis[None, :] - 0.5) ** 2)
    return ((1 - blend) * top + blend * bottom) * vignette[..., None] * np.float32(scene.shade)


def _draw(
    item: Sprite,
    label: int,
    times: np.ndarray,
    rounding: float,
    canvas: np.ndarray,
    mask: np.ndarray,
    flow: np.ndarray,
) -> None:
    """Paint one object into ``canvas``, ``mask`` and ``flow``, frame by frame inside its bounding box."""
    size = canvas.shape[1]
    poses = item.pose(times)
    for t, (x, y, radius, angle) in enumerate(poses):
        rows, columns = _box(y, radius, size), _box(x, radius, size)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        px = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5) / size
        py = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) / size
        u, v = _to_local(px[None, :] - np.float32(x), py[:, None] - np.float32(y), radius, angle)
        distance = SHAPE_DISTANCES[item.shape](u, v)
        pixels = np.float32(radius * size)
        if rounding:
            distance = gaussian_filter(distance, rounding * float(pixels), mode="nearest")
        alpha = np.clip(0.5 - distance * pixels, 0, 1)[..., None]
        region = canvas[t, rows, columns]
        region += alpha * (_surface(item.colour, u, v, distance, pixels) - region)
        seen = alpha[..., 0] > 0.5
        mask[t, rows, columns][seen] = label
        if t + 1 < len(times):
            moved = _move(u, v, poses[t + 1])
            step = np.stack([moved[0] - px[None, :], moved[1] - py[:, None]], -1) * np.float32(size)
            flow[t, rows, columns][seen] = step[seen]


def _box(centre: float, radius: float, size: int) -> slice:
    reach = radius * 1.15
    return slice(max(int((centre - reach) * size) - 1, 0), min(int((centre + reach) * size) + 2, size))


def _to_local(dx: np.ndarray, dy: np.ndarray, radius: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    cosine, sine = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
    return dx * cosine + dy * sine, dy * cosine - dx * sine


def _move(u: np.ndarray, v: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y, radius, angle = (np.float32(value) for value in pose)
    cosine, sine = np.cos(angle) * radius, np.sin(angle) * radius
    return x + u * cosine - v * sine, y + u * sine + v * cosine


def _surface(
    colour: str, u: np.ndarray, v: np.ndarray, distance: np.ndarray, pixels: np.float32
) -> np.ndarray:
    """Shade the object in its own frame (light from its upper left, dark rim), so that turning shows."""
    light = 1.0 - 0.28 * (u + v) * np.float32(0.7071)
    gloss = np.exp(-((u + 0.3) ** 2 + (v + 0.32) ** 2) / np.float32(0.035))
    rim = np.clip(0.5 + (distance + OUTLINE) * pixels, 0, 1)
    base = np.array(PALETTE[colour], np.float32) * light[..., None]
    glossy = base + gloss[..., None] * np.float32(0.65) * (255 - base)
    return np.asarray(glossy * (1 - 0.55 * rim[..., None]), np.float32)


# Signed distances in the object's frame (unit circumradius, negative inside); polygons and heart after
# Inigo Quilez, "2D distance functions".
def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - np.float32(0.88)


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.78)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    sides = np.abs(u) * np.float32(0.8660254) - v * np.float32(0.5) - np.float32(0.5)
    return np.maximum(sides, v - np.float32(0.5))


def _diamond(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(u) * np.float32(0.8192) + np.abs(v) * np.float32(0.5736) - np.float32(0.56)


def _hexagon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    folded = np.abs(u) * np.float32(0.8660254) + np.abs(v) * np.float32(0.5)
    return np.maximum(folded, np.abs(v)) - np.float32(0.84)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    across, along = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return np.maximum(along - np.float32(0.92), across - np.float32(0.32))


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    sector = np.float32(2 * np.pi / 5)
    angle = np.abs(np.mod(np.arctan2(u, -v) + sector / 2, sector) - sector / 2)
    radius = np.hypot(u, v)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    # The edge runs from the tip (1, 0) to the inner corner at half a sector and 0.45 of the radius.
    inner = 0.45 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    edge = inner - np.array([1.0, 0.0])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return ((x - 1) * np.float32(normal[0]) + y * np.float32(normal[1])).astype(np.float32)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = np.abs(u) * np.float32(0.62), np.float32(0.5) - v * np.float32(0.62)
    lobe = np.hypot(x - np.float32(0.25), y - np.float32(0.75)) - np.float32(0.35355)
    half = np.maximum(x + y, 0) * np.float32(0.5)
    point = np.minimum(np.hypot(x, y - 1), np.hypot(x - half, y - half)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, point) / np.float32(0.62)


SHAPE_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "diamond": _diamond,
    "hexagon": _hexagon,
    "cross": _cross,
}
