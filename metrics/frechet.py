"""Distances between a set of videos and a reference set, on features that are kept."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from metrics.features import Extractor, load_extractor
from metrics.functional.frechet import (
    FrechetEstimate,
    frechet_distance,
    frechet_estimate,
    frechet_infinity,
)
from metrics.functional.kernel import kernel_distance


class FrechetVideoDistance(Metric):
    """Fréchet distance between the features of generated and of real videos.

    Features are kept, not only their moments, so that standard error, bias correction and kernel distance
    come from the same pass, and any subset can be scored again.

    Args:
        extractor: name in ``metrics.features.EXTRACTORS`` or an ``Extractor``.
        weights: weight file of a named extractor.
        ddof: 1 or 0, see ``frechet_distance``; by default that of the extractor's protocol, else 1.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    real_features: list[Tensor]
    fake_features: list[Tensor]

    def __init__(
        self,
        extractor: str | Extractor = "embedded",
        *,
        weights: str | Path | None = None,
        ddof: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.extractor = load_extractor(extractor, weights) if isinstance(extractor, str) else extractor
        self.ddof = (self.extractor.ddof if self.extractor.ddof is not None else 1) if ddof is None else ddof
        self.provenance = self.extractor.provenance
        self.add_state("real_features", default=[], dist_reduce_fx="cat")
        self.add_state("fake_features", default=[], dist_reduce_fx="cat")

    def update(self, videos: Tensor, real: bool) -> None:
        """Add uint8 videos ``(B, T, 3, H, W)`` to the real or to the generated set."""
        self.update_features(self.extractor(videos), real)

    def update_features(self, features: Tensor, real: bool) -> None:
        """Add ``(B, D)`` features that were extracted before."""
        self._computed = None  # torchmetrics does this for ``update`` only
        self._update_count += 1
        (self.real_features if real else self.fake_features).append(features)

    def compute(self) -> Tensor:
        """Return the plain distance, float64.

        Raises:
            ValueError: fewer than ``ddof + 1`` videos in a set.
        """
        return frechet_distance(*self.features(), self.ddof)

    def estimate(self) -> FrechetEstimate:
        """Return the distance with standard error and bias-corrected value."""
        with self.sync_context(should_sync=self._to_sync):
            return frechet_estimate(*self.features(), self.ddof)

    def kernel(self) -> Tensor:
        """Return the unbiased kernel distance of features standardised by the real set, float64."""
        with self.sync_context(should_sync=self._to_sync):
            fake, real = (part.double() for part in self.features())
            mean, deviation = real.mean(0), real.std(0).clamp(min=1e-12)
            return kernel_distance((fake - mean) / deviation, (real - mean) / deviation)

    def jedi(self) -> Tensor:
        """Return 100 times the biased polynomial MMD of degree 2 (γ = 1/D, no constant), JEDi's statistic."""
        with self.sync_context(should_sync=self._to_sync):
            return 100 * kernel_distance(*self.features(), degree=2, coef0=0.0, unbiased=False)

    def infinity(self) -> float | None:
        """Return the distance extrapolated to infinitely many videos, or None below 32 in a set."""
        with self.sync_context(should_sync=self._to_sync):
            return frechet_infinity(*self.features(), self.ddof)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one or several values with matplotlib; return figure and axes."""
        return self._plot(val, ax)

    def features(self) -> tuple[Tensor, Tensor]:
        """Return generated ``(N, D)`` and real ``(M, D)`` features."""
        return self._joined(self.fake_features), self._joined(self.real_features)

    def _joined(self, parts: list[Tensor] | Tensor) -> Tensor:
        if isinstance(parts, Tensor):
            return parts
        return torch.cat(parts) if parts else torch.zeros(0, self.extractor.dim, device=self.device)


class JediDistance(FrechetVideoDistance):
    """JEDi's statistic on any extractor: biased polynomial MMD of degree 2 times 100; same states."""

    def compute(self) -> Tensor:
        """Return the distance, float64."""
        return self.jedi()


class KernelVideoDistance(FrechetVideoDistance):
    """Unbiased polynomial kernel distance between features standardised by the real set; same states."""

    def compute(self) -> Tensor:
        """Return the distance, float64; slightly negative where there is no difference."""
        return self.kernel()
