"""Kernel distance against torchmetrics and a brute-force sum."""

import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from metrics.functional import kernel_distance


def normal(count: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equal_to_torchmetrics_for_equal_numbers() -> None:
    x, y = normal(30, 5, 0), normal(30, 5, 1) + 0.5
    assert float(kernel_distance(x, y)) == pytest.approx(float(poly_mmd(x, y)), rel=1e-12)
    assert float(kernel_distance(x, y, degree=2, gamma=0.3, coef0=2.0)) == pytest.approx(
        float(poly_mmd(x, y, degree=2, gamma=0.3, coef=2.0)), rel=1e-12
    )


@pytest.mark.parametrize("unbiased", [True, False])
def test_right_for_unequal_numbers_by_brute_force(unbiased: bool) -> None:
    x, y = normal(7, 3, 0), normal(11, 3, 1)

    def mean(a: torch.Tensor, b: torch.Tensor, skip: bool) -> float:
        pairs = [
            (float(a[i] @ b[j]) / 3 + 1.0) ** 3
            for i in range(len(a))
            for j in range(len(b))
            if not (skip and i == j)
        ]
        return sum(pairs) / len(pairs)

    expected = mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)
    assert float(kernel_distance(x, y, unbiased=unbiased)) == pytest.approx(expected, rel=1e-10)


def test_unbiased_value_of_equal_distributions_averages_to_zero() -> None:
    values = torch.stack([kernel_distance(normal(40, 4, s), normal(25, 4, 1000 + s)) for s in range(200)])
    assert values.mean().abs() < 3 * values.std() / 200**0.5


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="expected features"):
        kernel_distance(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(4, 3))
