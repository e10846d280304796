"""Every metric by name: what it says, in which unit, and what it needs."""

from dataclasses import dataclass
from typing import Literal

from metrics.errors import UnknownNameError


@dataclass(frozen=True)
class MetricInfo:
    """A metric.

    Attributes:
        name: key in ``METRICS``.
        title: for tables.
        direction: which way is better; ``neutral`` describes without judging.
        unit: of the value, empty for a pure number.
        range: smallest and largest possible value, None for unbounded.
        version: changes when the same video would get another value.
        needs: of ``prompt``, ``reference`` and ``motion``; without them the value is None with a reason.
        per: whether the value belongs to a video or to a set of videos.
        description: one or two sentences.
        family: what computes it; asking for the family's own name yields all its members.
    """

    name: str
    title: str
    direction: Literal["higher", "lower", "neutral"]
    unit: str
    range: tuple[float | None, float | None]
    version: int
    needs: tuple[str, ...]
    per: Literal["video", "set"]
    description: str
    family: str


_ALL = (
    MetricInfo("clip", "CLIP score", "higher", "cosine x 100", (-100, 100), 1, ("prompt",), "video",
               "Mean cosine of each frame with the prompt. Blind to motion: shuffled frames score the same.",
               "clip"),
    MetricInfo("video_text", "Video-text score", "higher", "cosine x 100", (-100, 100), 1, ("prompt",),
               "video", "Cosine of the clip as a whole with the prompt, by the embedded video-text model; "
               "sees motion (how well, its recipe says), knows the sprites domain only.", "video_text"),
    MetricInfo("fvd", "Fréchet video distance", "lower", "", (0, None), 1, ("reference",), "set",
               "Fréchet distance between features of the videos and of reference videos. Biased upwards "
               "for few videos: compare equal numbers, or the corrected value.", "fvd"),
    MetricInfo("kvd", "Kernel video distance", "lower", "", (None, None), 1, ("reference",), "set",
               "Unbiased polynomial kernel distance between features standardised by the reference set; "
               "slightly negative values mean no difference.", "kvd"),
    MetricInfo("temporal", "Temporal consistency", "higher", "", (0, 1), 1, ("motion",), "video",
               "1 - acceleration ratio: 1 moves evenly, 0 is jitter or stop-and-go. None for a static video, "
               "which counts 0 in the mean of a set unless its prompt asks for stillness.", "temporal"),
    MetricInfo("speed", "Speed", "neutral", "% of diagonal / s", (0, None), 1, (), "video",
               "Mean optical flow.", "temporal"),
    MetricInfo("static", "Static", "neutral", "", (0, 1), 1, (), "video",
               "1 if nothing moves.", "temporal"),
    MetricInfo("accel_ratio", "Acceleration ratio", "lower", "", (0, 1), 1, ("motion",), "video",
               "Share of motion that changes from one frame pair to the next. None for a static video.",
               "temporal"),
    MetricInfo("warp_residual", "Warp residual", "lower", "grey levels", (0, 255), 1, ("motion",), "video",
               "What remains between neighbours after moving one onto the other. None for a static video; "
               "lower for blurred ones.", "temporal"),
    MetricInfo("luminance_flicker", "Luminance flicker", "lower", "gain", (0, None), 1, ("motion",), "video",
               "Deviation over time of the brightness gain between neighbours. None for a static video.",
               "temporal"),
    MetricInfo("cuts", "Cuts", "neutral", "count", (0, None), 1, (), "video",
               "Frame pairs that motion cannot join.", "temporal"),
)  # fmt: skip
METRICS: dict[str, MetricInfo] = {info.name: info for info in _ALL}


def metric_info(name: str) -> MetricInfo:
    """Return a metric by name.

    Raises:
        UnknownNameError: nothing bears the name; the message lists what does.
    """
    try:
        return METRICS[name]
    except KeyError:
        raise UnknownNameError("metric", name, METRICS) from None
