"""How a video moves: speed, smoothness of motion, and what motion does not explain.

Every score without a reference that only asks for similar frames is best on a frozen video. The acceleration
ratio is not: where nothing moves it is undefined, and the video is reported as static.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from metrics.functional.flow import magnitude, optical_flow, warp

FLOW_SIDE = 128  # shorter side, in pixels, at which motion is measured
# A still sprites clip reads at most 0.26 after H.264 at crf 28, the slowest moving one 2.8.
STATIC_SPEED = 0.5  # % of the diagonal per second
STATIC_WINDOW = 0.25  # seconds over which flow is averaged first
STILL_PAIR = 0.25  # of the mean motion of the video
CUT_RESIDUAL = 12.0  # grey levels
CUT_RATIO = 4.0  # times the median of the other residuals
CHUNK = 16  # frames of full size in a part
PAIRS = 4  # frame pairs at once; more of them leave the cache of a processor
GREY_CHUNK = 4  # frames of full size at once
LUMA = (0.299, 0.587, 0.114)

Profile = dict[str, float | int | bool | None]
Flow = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def temporal_profile(video: Tensor, fps: float, flow: Flow = optical_flow) -> Profile:
    """Measure the motion of one video.

    With F_t the flow from frame t to t + 1 and M_t its non-occluded pixels (forward and backward flow agree):

    A static video has None for every value that judges it.

    * ``speed``: mean of ‖F‖, in % of the frame's diagonal per second.
    * ``static``: whether the fastest tenth of the frame stays below ``STATIC_SPEED`` once flow is averaged over
      ``STATIC_WINDOW``, so that neither the noise of a codec nor that of a generator counts as motion.
    * ``accel_ratio``: Σ‖F_{t+1} - F_t‖ / Σ(‖F_{t+1}‖ + ‖F_t‖), 0 for constant velocity, 1 for stop-and-go,
      jitter or shuffled frames; None below three frames.
    * ``warp_residual``: mean over M of |I_t - I_{t+1}(x + F)| in grey levels, forwards and backwards in time, both
      softened alike because warping softens one of them; over the moving frame pairs, so that holding a frame
      does not lower it.
    * ``luminance_flicker``: standard deviation over the moving frame pairs of the gain that best maps the
    warped
      frame onto its neighbour; None below two such pairs.
    * ``cuts``: frame pairs whose residual stands out; they are left out of the values above.
    * ``sharpness``: variance of the Laplacian, since blur lowers ``warp_residual``.
    * ``still_share``: share of frame pairs that move less than ``STILL_PAIR`` of the mean.

    Args:
        video: ``(T, C, H, W)`` uint8, C = 1 or 3, at least two frames.
        fps: frames per second, above 0.
        flow: what finds the motion of grey frames, like ``optical_flow``.

    Raises:
        ValueError: another shape or dtype, fewer than two frames, or an fps that is not above 0.
    """
    return profile_of_parts(video.split(CHUNK), fps, flow)


@torch.no_grad()
def profile_of_parts(parts: Iterable[Tensor], fps: float, flow: Flow = optical_flow) -> Profile:
    """Measure a video that comes in parts ``(n, C, H, W)``, as ``temporal_profile`` does, in bounded memory."""
    grey = grey_frames(parts)
    if len(grey) < 2:
        raise ValueError(f"motion needs at least 2 frames, got {len(grey)}")
    if not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"fps must be above 0, got {fps}")
    flows, residuals, gains = _pairs(grey, flow)
    kept = residuals <= _cut_limit(residuals)
    scale = 100 * fps / math.hypot(*grey.shape[-2:])
    magnitudes = magnitude(flows)
    fastest = _fastest(flows)
    moving = kept & (fastest >= STILL_PAIR * fastest[kept].mean())
    steady = _fastest(_averaged(flows[kept], round(fps * STATIC_WINDOW))).mean() * scale
    static = bool(steady < STATIC_SPEED)
    return {
        "speed": float(magnitudes.mean((1, 2))[kept].mean() * scale),
        "static": static,
        "accel_ratio": None if static else _accel_ratio(flows, magnitudes, kept),
        "warp_residual": None if static else float(residuals[moving].mean()),
        "luminance_flicker": None
        if static or int(moving.sum()) < 2
        else float(gains[moving].std(correction=0)),
        "cuts": int((~kept).sum()),
        "sharpness": float(laplacian(grey).var()),
        "still_share": 1.0 if static else float((~moving[kept]).float().mean()),
    }


def grey_frames(parts: Iterable[Tensor], side: int = FLOW_SIDE) -> Tensor:
    """Return ``(T, h, w)`` float luma with the shorter side at most ``side``, antialiased.

    Args:
        parts: uint8 ``(n, 1 or 3, H, W)`` frames in order.
        side: pixels.

    Raises:
        ValueError: another shape or dtype.
    """
    # Small results that stay, one for every large part that goes, would keep the heap from shrinking: they are
    # copied into one tensor, which doubles when it is full.
    scratch: dict[torch.Size, Tensor] = {}
    grey, count = torch.empty(0), 0
    for part in (part for whole in parts for part in whole.split(GREY_CHUNK)):
        found = _grey(part, side, scratch)
        if count + len(found) > len(grey):
            larger = found.new_empty(max(64, 2 * (count + len(found))), *found.shape[1:])
            if count:
                larger[:count] = grey[:count]
            grey = larger
        grey[count : count + len(found)] = found
        count += len(found)
    return grey[:count]


def _grey(part: Tensor, side: int, scratch: dict[torch.Size, Tensor]) -> Tensor:
    if part.ndim != 4 or part.shape[1] not in (1, 3) or part.dtype != torch.uint8:
        raise ValueError(f"expected uint8 (T, 1 or 3, H, W), got {part.dtype} {tuple(part.shape)}")
    weights = LUMA if part.shape[1] == 3 else (1.0,)
    height, width = part.shape[-2:]
    factor = min(1.0, side / min(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    shape = torch.Size((2, len(part), 1, height, width))
    if shape not in scratch:
        scratch[shape] = torch.empty(shape, device=part.device)
    luma, product = scratch[shape]
    torch.mul(part[:, :1], weights[0], out=luma)
    for channel, weight in enumerate(weights[1:], 1):
        luma += torch.mul(part[:, channel : channel + 1], weight, out=product)
    if size == (height, width):
        return luma[:, 0].clone()
    return interpolate(luma, size=size, mode="bilinear", antialias=True, align_corners=False)[:, 0]


def _pairs(grey: Tensor, flow: Flow) -> tuple[Tensor, Tensor, Tensor]:
    """Return flow ``(T-1, 2, h, w)``, residual ``(T-1,)`` and gain ``(T-1,)`` of neighbouring frames."""
    flows, residuals, gains = [], [], []
    for a, b in zip(grey[:-1].split(PAIRS), grey[1:].split(PAIRS), strict=True):
        forward, backward = flow(a, b), flow(b, a)
        ahead, gain = _unexplained(a, b, forward, non_occluded(forward, backward))
        back, _ = _unexplained(b, a, backward, non_occluded(backward, forward))
        residuals.append((ahead + back) / 2)
        gains.append(gain)
        flows.append(forward)
    return torch.cat(flows), torch.cat(residuals), torch.cat(gains)


def _unexplained(a: Tensor, b: Tensor, flow: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ``(B,)`` residual of ``b`` moved onto ``a`` where ``seen``, and the gain that maps it best."""
    first, second = _soften(a[:, None]), _soften(warp(b[:, None], flow))
    total = seen.sum((1, 2, 3)).clamp(min=1)
    residual = ((first - second).abs() * seen).sum((1, 2, 3)) / total
    power = (second * second * seen).sum((1, 2, 3)).clamp(min=1e-6)
    return residual, (first * second * seen).sum((1, 2, 3)) / power


def non_occluded(forward: Tensor, backward: Tensor) -> Tensor:
    """Return ``(B, 1, h, w)`` 1 where the backward flow undoes the forward one (Sundaram et al. 2010)."""
    returned = warp(backward, forward)
    gap = _power(forward + returned)
    return (gap < 0.01 * (_power(forward) + _power(returned)) + 0.5).float()


def _power(flow: Tensor) -> Tensor:
    return flow[:, :1].square() + flow[:, 1:].square()


def _soften(x: Tensor) -> Tensor:
    """Average with weights 1, 2, 1 in both directions, repeating the border."""
    x = pad(x, (1, 1, 1, 1), mode="replicate")
    x = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    return (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 16


def _cut_limit(residuals: Tensor) -> Tensor:
    """Return the residual above which a pair is a cut; the median pair never is."""
    return (CUT_RATIO * residuals.median()).clamp(min=CUT_RESIDUAL)


def _fastest(flows: Tensor) -> Tensor:
    """Return ``(N,)`` mean magnitudes of the fastest tenth of each field ``(N, 2, h, w)``."""
    magnitudes = magnitude(flows).flatten(1)
    return magnitudes.topk(max(1, magnitudes.shape[1] // 10), dim=1).values.mean(1)


def _averaged(flows: Tensor, window: int) -> Tensor:
    """Return the running mean of ``window`` successive fields, in which codec noise cancels."""
    width = min(max(1, window), len(flows))
    sums = torch.cat([flows.new_zeros(1, *flows.shape[1:]), flows.cumsum(0)])
    return (sums[width:] - sums[:-width]) / width


def _accel_ratio(flows: Tensor, magnitudes: Tensor, kept: Tensor) -> float | None:
    both = kept[1:] & kept[:-1]
    if not bool(both.any()):
        return None
    change = magnitude(flows[1:] - flows[:-1]).mean((1, 2))[both].sum()
    total = (magnitudes[1:] + magnitudes[:-1]).mean((1, 2))[both].sum()
    return float(change / total) if float(total) > 0 else None


def laplacian(grey: Tensor) -> Tensor:
    """Return the discrete Laplacian ``(T, h - 2, w - 2)`` of grey frames ``(T, h, w)``."""
    middle = grey[..., 1:-1, 1:-1]
    beside = grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
    return beside + grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] - 4 * middle
