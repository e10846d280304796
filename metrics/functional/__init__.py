"""Stateless formulas of the metrics, one file per family."""

from metrics.functional.flow import optical_flow, warp
from metrics.functional.frechet import FrechetEstimate, frechet_distance, frechet_estimate
from metrics.functional.kernel import kernel_distance
from metrics.functional.temporal import temporal_profile
from metrics.functional.text_video import clip_score

__all__ = [
    "FrechetEstimate",
    "clip_score",
    "frechet_distance",
    "frechet_estimate",
    "kernel_distance",
    "optical_flow",
    "temporal_profile",
    "warp",
]
