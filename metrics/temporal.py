"""Temporal consistency that a frozen video cannot win."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from metrics.functional.temporal import Profile, temporal_profile
from metrics.motion import consistency

__all__ = ["TemporalConsistency", "consistency"]

KEYS = (
    "speed",
    "static",
    "accel_ratio",
    "warp_residual",
    "luminance_flicker",
    "cuts",
    "sharpness",
    "still_share",
)


class TemporalConsistency(Metric):
    """Evenness of motion, 1 - acceleration ratio, averaged over videos.

    A static video has no consistency of its own. In the mean it counts 0, the worst, because its prompt asked
    for motion; with ``expects_motion`` False it is left out, so that it is neither rewarded nor punished. A
    video of fewer than three frames, or with nothing between its cuts, is left out.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    rows: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(
        self, videos: Tensor | Sequence[Tensor], fps: float, expects_motion: Sequence[bool] | None = None
    ) -> None:
        """Add videos.

        Args:
            videos: ``(B, T, C, H, W)`` uint8, or B tensors ``(T, C, H, W)``.
            fps: frames per second of all of them.
            expects_motion: per video, whether it was asked to move; by default all were.

        Raises:
            ValueError: unequal numbers, or what ``temporal_profile`` refuses.
        """
        wanted = [True] * len(videos) if expects_motion is None else list(expects_motion)
        if len(wanted) != len(videos):
            raise ValueError(f"expected {len(videos)} values of expects_motion, got {len(wanted)}")
        for video, moves in zip(videos, wanted, strict=True):
            self.add_profile(temporal_profile(video, fps), moves)

    def add_profile(self, profile: Profile, expects_motion: bool = True) -> None:
        """Add a video whose profile was measured before."""
        self._computed = None  # torchmetrics does this for ``update`` only
        self._update_count += 1
        values = [float("nan") if profile[key] is None else float(profile[key] or 0) for key in KEYS]
        row = torch.tensor([*values, float(expects_motion)], dtype=torch.float64, device=self.device)
        self.rows.append(row[None])

    def compute(self) -> Tensor:
        """Return the mean over videos in [0, 1], float64; NaN if no video counts."""
        rows = self._table()
        static, ratio, expected = rows[:, 1] > 0, rows[:, 2], rows[:, -1] > 0
        values = torch.where(static, torch.zeros_like(ratio), 1 - ratio)
        return values[torch.where(static, expected, ~ratio.isnan())].mean()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one or several values with matplotlib; return figure and axes."""
        return self._plot(val, ax)

    def num_static(self) -> int:
        """Return how many videos are static."""
        return int((self._table()[:, 1] > 0).sum())

    def profiles(self) -> list[Profile]:
        """Return the profiles of the videos in the order of updates."""
        table: list[Profile] = []
        for row in self._table()[:, :-1].tolist():
            profile: Profile = {
                key: None if value != value else value for key, value in zip(KEYS, row, strict=True)
            }
            profile["static"] = bool(profile["static"])
            profile["cuts"] = int(profile["cuts"] or 0)
            table.append(profile)
        return table

    def _table(self) -> Tensor:
        if isinstance(self.rows, Tensor):
            return self.rows
        return torch.cat(self.rows) if self.rows else torch.zeros(0, len(KEYS) + 1, dtype=torch.float64)
