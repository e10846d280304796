"""Stateless formulas of the metrics, one file per family."""

from metrics.functional.consistency import (
    drift_curve,
    flow_interpolator,
    frame_consistency,
    horizon_curve,
    identity_drift,
    motion_smoothness,
    peak_speed,
    warping_error,
)
from metrics.functional.flow import optical_flow, warp
from metrics.functional.frechet import (
    FrechetEstimate,
    frechet_distance,
    frechet_estimate,
    frechet_infinity,
)
from metrics.functional.kernel import kernel_distance
from metrics.functional.reference import (
    adherence,
    cadence_ratio,
    flow_error,
    lpips,
    ms_ssim,
    psnr,
    sharpness,
    ssim,
)
from metrics.functional.temporal import temporal_profile
from metrics.functional.text_video import clip_score
from metrics.functional.vbench import vbench_totals

__all__ = [
    "FrechetEstimate",
    "adherence",
    "cadence_ratio",
    "clip_score",
    "drift_curve",
    "flow_error",
    "flow_interpolator",
    "frame_consistency",
    "frechet_distance",
    "frechet_estimate",
    "frechet_infinity",
    "horizon_curve",
    "identity_drift",
    "kernel_distance",
    "lpips",
    "motion_smoothness",
    "ms_ssim",
    "optical_flow",
    "peak_speed",
    "psnr",
    "sharpness",
    "ssim",
    "temporal_profile",
    "vbench_totals",
    "warp",
    "warping_error",
]
