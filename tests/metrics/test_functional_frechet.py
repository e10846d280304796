"""Fréchet distance: closed forms, an independent implementation, invariants."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from metrics.functional import frechet_distance, frechet_estimate


def features_with(mean: Tensor, covariance: Tensor, count: int, seed: int) -> Tensor:
    """Return ``count`` samples whose sample mean and covariance (ddof 1) are exactly the given ones."""
    noise = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis = torch.linalg.qr(noise - noise.mean(0)).Q  # orthonormal columns of mean zero
    return basis * (count - 1) ** 0.5 @ torch.linalg.cholesky(covariance).T + mean


def normal(count: int, dim: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", [8, 200])
def test_two_gaussians_have_the_closed_form(count: int) -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0, 0.25]).double(), torch.tensor([4.0, 1.0, 2.25, 1.0]).double()
    mean = torch.tensor([1.0, -2.0, 0.5, 0.0]).double()
    x = features_with(mean, a.diag(), count, 0)
    y = features_with(torch.zeros(4).double(), b.diag(), count + 3, 1)
    expected = float(mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert float(frechet_distance(x, y)) == pytest.approx(expected, rel=1e-12)


def test_a_set_has_no_distance_to_itself_even_with_fewer_samples_than_dimensions() -> None:
    x = normal(16, 400, 0)
    assert float(frechet_distance(x, x)) < 1e-10
    assert float(frechet_distance(x, x.flip(0))) < 1e-10


def test_equal_to_torchmetrics_on_well_conditioned_features() -> None:
    x, y = normal(300, 20, 0), normal(260, 20, 1, 1.3) + 0.2
    expected = _compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    assert float(frechet_distance(x, y)) == pytest.approx(float(expected), abs=1e-9)


def test_reduction_by_qr_does_not_change_the_distance() -> None:
    x, y = normal(50, 12, 0), normal(40, 12, 1)
    padded = [torch.cat([z, torch.zeros(len(z), 60)], 1).double() for z in (x, y)]  # N < D: no reduction
    assert float(frechet_distance(*padded)) == pytest.approx(float(frechet_distance(x, y)), rel=1e-12)


def test_ddof_divides_covariances_by_n() -> None:
    x, y = normal(10, 3, 0), normal(10, 3, 1)
    shift = float((x.mean(0) - y.mean(0)).square().sum())
    ratio = (float(frechet_distance(x, y, ddof=0)) - shift) / (float(frechet_distance(x, y, ddof=1)) - shift)
    assert ratio == pytest.approx(0.9, rel=1e-12)


def test_symmetric_and_unmoved_by_a_common_shift() -> None:
    x, y = normal(30, 8, 0), normal(20, 8, 1, 2.0)
    value = float(frechet_distance(x, y))
    assert float(frechet_distance(y, x)) == pytest.approx(value, rel=1e-12)
    assert float(frechet_distance(x + 1000, y + 1000)) == pytest.approx(value, rel=1e-9)


def test_corrected_value_is_nearer_to_the_truth_and_error_covers_it() -> None:
    estimates = [frechet_estimate(normal(128, 32, 2 * s), normal(128, 32, 2 * s + 1)) for s in range(8)]
    plain = torch.tensor([e.value for e in estimates])
    corrected = torch.tensor([e.corrected for e in estimates])
    errors = torch.tensor([e.standard_error for e in estimates])
    assert plain.mean() > 2.0  # the truth is 0
    assert corrected.mean().abs() < 0.3
    assert float(errors.mean()) == pytest.approx(float(corrected.std()), rel=1.0)


def test_what_cannot_be_known_is_absent_with_its_reason() -> None:
    few = frechet_estimate(normal(20, 4, 0), normal(100, 4, 1))
    assert few.standard_error is None
    assert few.corrected is None
    assert "needs 32 videos" in (few.reason or "")
    narrow = frechet_estimate(normal(40, 64, 0), normal(100, 64, 1))
    assert narrow.standard_error is not None
    assert narrow.corrected is None
    assert "64 videos" in (narrow.reason or "")


@pytest.mark.parametrize(
    ("x", "y", "ddof"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 2), 1),
        (torch.zeros(1, 3), torch.zeros(4, 3), 1),
        (torch.zeros(4), torch.zeros(4), 1),
        (torch.zeros(4, 3), torch.zeros(4, 3), 2),
        (torch.full((4, 3), torch.nan), torch.zeros(4, 3), 1),
    ],
)
def test_wrong_input_is_refused(x: Tensor, y: Tensor, ddof: int) -> None:
    with pytest.raises(ValueError, match=r"expected|needs|ddof|finite"):
        frechet_distance(x, y, ddof)


def test_no_version_of_scipy_can_change_the_distance() -> None:
    program = (
        "import sys; sys.modules['scipy'] = None; import torch; from metrics.functional import frechet_distance;"
        "x = torch.randn(8, 4, dtype=torch.float64); assert abs(frechet_distance(x, x + 1) - 4) < 1e-9"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=250)
