"""Kernel (polynomial maximum mean) distance between two sets of features."""

import torch
from torch import Tensor


def kernel_distance(
    x: Tensor,
    y: Tensor,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    unbiased: bool = True,
) -> Tensor:
    """Return the squared maximum mean discrepancy with kernel (γ x·y + coef0)^degree.

    Gretton et al. 2012, equation 3 (unbiased; may be slightly negative) or 5 (biased); Bińkowski et al. 2018
    for the kernel. The sets need not be of equal size.

    Args:
        x: ``(N, D)`` features, any float dtype; computed in float64.
        y: ``(M, D)`` features.
        degree: of the polynomial.
        gamma: scale of the inner product; 1/D by default.
        coef0: constant inside the polynomial.
        unbiased: leave the diagonal out of the two within-set means.

    Returns:
        Scalar float64.

    Raises:
        ValueError: shapes that do not fit, or too few samples.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"expected features (N, D) and (M, D), got {tuple(x.shape)} and {tuple(y.shape)}")
    needed = 2 if unbiased else 1
    if min(len(x), len(y)) < needed:
        raise ValueError(f"needs at least {needed} samples in each set, got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    scale = 1.0 / x.shape[1] if gamma is None else gamma

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (scale * (a @ b.T) + coef0) ** degree

    between = kernel(x, y).mean()
    return _within(kernel(x, x), unbiased) + _within(kernel(y, y), unbiased) - 2 * between


def _within(gram: Tensor, unbiased: bool) -> Tensor:
    if not unbiased:
        return gram.mean()
    n = len(gram)
    return (gram.sum() - torch.diagonal(gram).sum()) / (n * (n - 1))
