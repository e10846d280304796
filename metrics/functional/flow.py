"""Dense optical flow by pyramidal Lucas-Kanade, in torch alone: no weights, the same on every device."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

RADIUS = 4  # of the window, in pixels of each level
DAMPING = 2.0  # squared grey levels per pixel; keeps flat regions still
SMALLEST = 16  # sides below this are not halved again


def optical_flow(a: Tensor, b: Tensor, levels: int = 4, iterations: int = 2) -> Tensor:
    """Estimate the displacement of every pixel of ``a`` into ``b``.

    Iterated Lucas-Kanade (Lucas and Kanade 1981) from the coarsest of ``levels`` halvings to the finest
    (Bouguet 2001), with a square window, gradients of the mean of the two aligned images, and a 3 x 3 average
    of the flow after each step.

    Args:
        a: ``(B, H, W)`` float grey levels in [0, 255].
        b: ``(B, H, W)``, like ``a``.
        levels: at most this many resolutions.
        iterations: alignment steps per resolution.

    Returns:
        ``(B, 2, H, W)`` float32, (dx, dy) in pixels, such that ``a(x) = b(x + flow(x))``.

    Raises:
        ValueError: shapes that do not fit.
    """
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(
            f"expected two (B, H, W) batches of one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    pyramid = [(a[:, None].float(), b[:, None].float())]
    while len(pyramid) < levels and min(pyramid[-1][0].shape[-2:]) >= 2 * SMALLEST:
        first, second = pyramid[-1]
        pyramid.append((avg_pool2d(first, 2), avg_pool2d(second, 2)))
    flow = a.new_zeros((len(a), 2, *pyramid[-1][0].shape[-2:]), dtype=torch.float32)
    for first, second in reversed(pyramid):
        if flow.shape[-2:] != first.shape[-2:]:
            flow = 2 * interpolate(flow, size=first.shape[-2:], mode="bilinear", align_corners=False)
        for _ in range(iterations):
            flow = flow + _step(first, warp(second, flow))
            flow = box_mean(flow, 1)  # without it, more steps diverge
    return flow


def magnitude(flow: Tensor) -> Tensor:
    """Return the length ``(B, H, W)`` of every vector of ``flow`` ``(B, 2, H, W)``."""
    return (flow[:, 0].square() + flow[:, 1].square()).sqrt()


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Sample ``image`` at ``x + flow(x)``, bilinearly, repeating the border.

    Args:
        image: ``(B, C, H, W)`` float.
        flow: ``(B, 2, H, W)`` in pixels.

    Returns:
        ``(B, C, H, W)``.
    """
    height, width = image.shape[-2:]
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    x = torch.arange(width, dtype=flow.dtype, device=flow.device)[None, :]
    grid = torch.stack(
        [(2 * (x + flow[:, 0]) + 1) / width - 1, (2 * (y + flow[:, 1]) + 1) / height - 1], dim=-1
    )
    return grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _step(a: Tensor, b: Tensor) -> Tensor:
    """Solve the damped 2 x 2 normal equations of every window once; at most one pixel of change."""
    mean = pad((a + b) / 2, (1, 1, 1, 1), mode="replicate")
    dx = (mean[..., 1:-1, 2:] - mean[..., 1:-1, :-2]) / 2
    dy = (mean[..., 2:, 1:-1] - mean[..., :-2, 1:-1]) / 2
    dt = b - a
    sums = box_mean(torch.cat([dx * dx, dx * dy, dy * dy, dx * dt, dy * dt], dim=1), RADIUS)
    xx, xy, yy, xt, yt = sums.split(1, dim=1)
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = xx * yy - xy * xy
    step = torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / determinant
    return step.clamp(-1, 1)


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Average ``(..., H, W)`` over squares of 2 ``radius`` + 1; at the border over the part inside the image.

    Sums of 1, 2, 4, ... neighbours are added up, which is several times faster than pooling on a CPU. So
    ``radius`` is a power of two.
    """
    for dim in (-1, -2):
        length = x.shape[dim]
        padded = sums = pad(x, (radius, radius) if dim == -1 else (0, 0, radius, radius))
        width = 1
        while width < 2 * radius:
            kept = sums.shape[dim] - width
            sums, width = sums.narrow(dim, 0, kept) + sums.narrow(dim, width, kept), 2 * width
        x = sums.narrow(dim, 0, length) + padded.narrow(dim, 2 * radius, length)
    columns, rows = (_inside(length, radius, x) for length in (x.shape[-1], x.shape[-2]))
    return x / (rows[:, None] * columns)


def _inside(length: int, radius: int, like: Tensor) -> Tensor:
    """Return, for every place of a line, how many places of its window are on the line."""
    place = torch.arange(length, dtype=like.dtype, device=like.device)
    return 1 + place.clamp(max=radius) + (length - 1 - place).clamp(max=radius)
