"""Likeness over time as torchmetrics classes: NaN for a static video, which would otherwise be the best."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrics.encoders import FrameEncoder
from metrics.functional import consistency as formulas
from metrics.functional.consistency import Flow, Interpolator
from metrics.functional.flow import optical_flow
from metrics.functional.temporal import grey_frames, temporal_profile
from metrics.per_video import PerVideoMetric
from metrics.sampling import chosen_frames, sampled_rate

NONE = float("nan")


class _MovingVideoMetric(PerVideoMetric):
    """Measure each video that moves.

    Args:
        flow: what finds the motion of grey frames.
        count_static: measure static videos too, as VBench does.
    """

    def __init__(self, flow: Flow = optical_flow, *, count_static: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flow, self.count_static = flow, count_static

    def update(self, videos: Tensor | Sequence[Tensor], fps: float) -> None:
        """Add uint8 videos ``(B, T, 3, H, W)``, or B tensors ``(T, 3, H, W)``, of one frame rate.

        Raises:
            ValueError: another shape or dtype, too few frames, or an fps that is not above 0.
        """
        for video in videos:
            static = not self.count_static and temporal_profile(video, fps, self.flow)["static"]
            self.add(torch.tensor(NONE) if static else self.measure(video, fps))

    @abstractmethod
    def measure(self, video: Tensor, fps: float) -> Tensor:
        """Return the value of one uint8 ``(T, 3, H, W)`` video, NaN where it has none."""


class _EncodedMetric(_MovingVideoMetric):
    """Measure embeddings of frames.

    Args:
        encoder: maps uint8 frames to embeddings.
        flow: see above.
        count_static: see above.
    """

    def __init__(self, encoder: FrameEncoder, flow: Flow = optical_flow, **kwargs: Any) -> None:
        super().__init__(flow, **kwargs)
        self.encoder = encoder


class SubjectConsistency(_EncodedMetric):
    """Mean cosine of frames with the previous and the first one; see ``metrics.functional.frame_consistency``.

    With ``count_static`` it is VBench's subject consistency on DINO, and its background consistency on CLIP.
    """

    higher_is_better = True

    def measure(self, video: Tensor, fps: float) -> Tensor:
        """Return ``frame_consistency`` of the embeddings."""
        return formulas.frame_consistency(self.encoder(video))


class BackgroundConsistency(_EncodedMetric):
    """As ``SubjectConsistency`` on what moves least, see ``metrics.functional.consistency.still_parts``."""

    higher_is_better = True

    def measure(self, video: Tensor, fps: float) -> Tensor:
        """Return ``frame_consistency`` of the embeddings of the still parts."""
        still = formulas.still_parts(formulas.thumbnails(video), self.flow)
        return formulas.frame_consistency(self.encoder(still))


class IdentityDrift(_EncodedMetric):
    """How far the last quarter of the frames is from the first; see ``metrics.functional.identity_drift``."""

    higher_is_better = False

    def measure(self, video: Tensor, fps: float) -> Tensor:
        """Return ``identity_drift`` of the embeddings."""
        return formulas.identity_drift(self.encoder(video))


class LongHorizon(_EncodedMetric):
    """Mean cosine of frames one second apart; NaN for a video not longer than that."""

    higher_is_better = True

    def measure(self, video: Tensor, fps: float) -> Tensor:
        """Return the point at one second of ``metrics.functional.horizon_curve``."""
        second = round(fps)
        curve = formulas.horizon_curve(self.encoder(video), [second])
        return torch.tensor(curve.get(second, NONE), dtype=torch.float64)


class MotionSmoothness(_MovingVideoMetric):
    """How well every second frame is rebuilt from its neighbours; see ``metrics.functional.motion_smoothness``.

    Args:
        interpolator: what rebuilds; by default the neighbours moved along ``flow``.
        flow: see above.
        count_static: see above.
    """

    higher_is_better = True

    def __init__(
        self, interpolator: Interpolator | None = None, flow: Flow = optical_flow, **kwargs: Any
    ) -> None:
        super().__init__(flow, **kwargs)
        self.interpolator = interpolator

    def measure(self, video: Tensor, fps: float) -> Tensor:
        """Return ``motion_smoothness`` of frames of at most 256 pixels."""
        return formulas.motion_smoothness(formulas.thumbnails(video), self.interpolator or self._moved)

    def _moved(self, a: Tensor, b: Tensor) -> Tensor:
        return formulas.flow_interpolator(a, b, self.flow)


class WarpingError(_MovingVideoMetric):
    """What motion does not explain of neighbours, squared; see ``metrics.functional.warping_error``."""

    higher_is_better = False

    def measure(self, video: Tensor, fps: float) -> Tensor:
        """Return ``warping_error`` of frames of at most 256 pixels."""
        return formulas.warping_error(formulas.thumbnails(video), self.flow)


class DynamicDegree(_MovingVideoMetric):
    """Speed of the fastest twentieth of the frame at 8 frames per second; describes, static videos included."""

    higher_is_better = None

    def __init__(self, flow: Flow = optical_flow, **kwargs: Any) -> None:
        super().__init__(flow, count_static=True, **kwargs)

    def measure(self, video: Tensor, fps: float) -> Tensor:
        """Return ``metrics.functional.peak_speed`` of the frames chosen."""
        times, sampling = np.arange(len(video)) / fps, formulas.peak_sampling(fps)
        chosen = chosen_frames(times, fps, sampling, "the video")
        if len(chosen) < 2:
            return torch.tensor(NONE)
        rate = sampled_rate(times[chosen], fps, sampling)
        return formulas.peak_speed(grey_frames([video[torch.from_numpy(chosen)]]), rate, self.flow)
