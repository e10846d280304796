"""What a learned flow leaves over, removed by measuring it: Lucas-Kanade steps between the two moved keyframes.

A network's flow is right to a pixel or so, and keyframes that a generator made differ by more than their motion:
outlines waver. Both show as two outlines where one should be. The keyframes, moved to the time between, say
themselves by how much they miss each other.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from magicvideo.vfi.flow import warp

LEVELS = ((4, 2), (2, 3))  # reduction of the frames, and steps there
SIGMA = 2.0  # of the Gaussian window, in pixels of the level
DAMPING = 1e-4  # added to the squared gradients: nothing is measured where there is no texture
LONGEST = 3.0  # pixels of the level that one step may move


def refine_flow(first: Tensor, second: Tensor, flow: Tensor, time: Tensor) -> Tensor:
    """Correct a flow so that the keyframes agree where they meet.

    The displacement left between the moved keyframes (Lucas and Kanade 1981, with the mean of both gradients, as
    the inverse problem is symmetric) is shared between them as time is: motion stays straight and even.

    Args:
        first: ``(B, 3, H, W)`` keyframe in [0, 1], sides multiples of 4.
        second: ``(B, 3, H, W)``.
        flow: ``(B, 4, h, w)``: dy, dx into ``first``, then into ``second``, in frame pixels.
        time: ``(B,)`` in (0, 1).

    Returns:
        The corrected flow, of the same shape.
    """
    share, size = time.to(flow.dtype).view(-1, 1, 1, 1), flow.shape[2:]
    for scale, steps in LEVELS:
        one, two = F.avg_pool2d(first, scale), F.avg_pool2d(second, scale)
        if flow.shape[2:] != one.shape[2:]:
            flow = F.interpolate(flow, one.shape[2:], mode="bilinear", align_corners=False)
        for _ in range(steps):
            near, far = warp(one, flow[:, :2] / scale), warp(two, flow[:, 2:] / scale)
            rest = scale * residual_motion(near, far).clamp(-LONGEST, LONGEST)
            flow = flow + torch.cat([-share * rest, (1 - share) * rest], 1)
    return flow if flow.shape[2:] == size else F.interpolate(flow, size, mode="area")


def residual_motion(first: Tensor, second: Tensor) -> Tensor:
    """Return by how much each pixel of ``first`` is displaced in ``second``, where that is little.

    Args:
        first: ``(B, C, H, W)`` in [0, 1].
        second: ``(B, C, H, W)``.

    Returns:
        ``(B, 2, H, W)``: dy, dx in pixels; zero where there is no texture.
    """
    dy, dx = _gradients((first + second) / 2)
    change = second - first
    products = (dy * dy, dy * dx, dx * dx, dy * change, dx * change)
    sums = _smoothed(torch.cat([product.sum(1, keepdim=True) for product in products], 1))
    yy, yx, xx, yt, xt = sums.split(1, 1)
    yy, xx = yy + DAMPING, xx + DAMPING
    return torch.cat([yx * xt - xx * yt, yx * yt - yy * xt], 1) / (yy * xx - yx * yx)


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    around = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (
        (around[..., 2:, 1:-1] - around[..., :-2, 1:-1]) / 2,
        (around[..., 1:-1, 2:] - around[..., 1:-1, :-2]) / 2,
    )


def _smoothed(x: Tensor) -> Tensor:
    radius = round(2.5 * SIGMA)
    taps = torch.exp(-(torch.arange(-radius, radius + 1, device=x.device) ** 2) / (2 * SIGMA**2)).to(x.dtype)
    taps, channels = taps / taps.sum(), x.shape[1]
    x = F.pad(x, (radius,) * 4, mode="replicate")
    x = F.conv2d(x, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(x, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
