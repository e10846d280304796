"""Make the measures of the families that are asked for, each with the models it needs, loaded once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metrics.measures import Absent, Flow, Measure
from metrics.registry import FAMILIES, METRICS

if TYPE_CHECKING:
    from metrics.encoders import FrameEncoder
    from metrics.scorer import ScoreOptions
    from metrics.text_video import VideoTextScore


@dataclass(frozen=True)
class FlowChoice:
    """The flow of a run and its name in signatures."""

    function: Flow
    name: str


def load_flow(options: "ScoreOptions") -> FlowChoice:
    """Return the flow that the options name.

    Raises:
        UnknownNameError: no such flow.
        WeightsError: RAFT's weights are missing or do not fit.
    """
    from metrics.errors import UnknownNameError
    from metrics.functional.flow import optical_flow
    from metrics.raft import FLOW_NAMES, RaftFlow

    if options.flow not in FLOW_NAMES:
        raise UnknownNameError("flow", options.flow, FLOW_NAMES)
    if options.flow == "lucas-kanade":
        return FlowChoice(optical_flow, "flow:lucas-kanade")
    raft = RaftFlow(options.flow, options.flow_weights, device=options.device)
    return FlowChoice(raft, raft.provenance)


def build_measures(
    names: Sequence[str], options: "ScoreOptions", flow: FlowChoice, *, has_prompts: bool, has_images: bool
) -> list[Measure]:
    """Return the measures that give the values of ``names``, those that need every frame first.

    Raises:
        WeightsError: a model cannot be loaded.
        UnknownNameError: an unknown encoder.
    """
    from metrics import plugins

    loader = _Loader(options, flow, has_prompts, has_images)
    found: list[Measure] = []
    for family in dict.fromkeys(METRICS[name].family for name in names if name in METRICS):
        if family != "distance":
            found.append(loader.builders()[family]())
    for name in names:
        if name not in METRICS:
            plugin = plugins.metric(name)
            measure = plugin.build()
            measure.provenance = "|".join(filter(None, [f"plugin:{plugin.origin}", measure.provenance]))
            found.append(measure)
    return sorted(found, key=lambda measure: measure.sampling != "native")


class _Loader:
    """Build measures, sharing the models they have in common."""

    def __init__(
        self, options: "ScoreOptions", flow: FlowChoice, has_prompts: bool, has_images: bool
    ) -> None:
        self.options, self.flow = options, flow
        self.has_prompts, self.has_images = has_prompts, has_images
        self._encoder: FrameEncoder | None = None
        self._video_text: VideoTextScore | None = None

    def builders(self) -> dict[str, Callable[[], Measure]]:
        """Return the builder of every family of videos."""
        return {
            "clip": self.clip,
            "video_text": self.video_text,
            "xclip": self.xclip,
            "attributes": self.attributes,
            "temporal": self.temporal,
            "consistency": self.consistency,
            "reference": self.reference,
            "vmaf": self.vmaf,
            "adherence": self.adherence,
            "stage": self.stage,
            "vbench": self.vbench,
        }

    def clip(self) -> Measure:
        """CLIP score."""
        from metrics.text_video import CLIPScore, PromptMeasure

        options = self.options
        if not self.has_prompts:
            return Absent(FAMILIES["clip"], options.clip_sampling, "the video has no prompt")
        metric = CLIPScore(options.clip_model, options.clip_pretrained)
        return PromptMeasure("clip", metric, options.clip_sampling, options.device)

    def video_text(self) -> Measure:
        """Video-text score."""
        from metrics.text_video import PromptMeasure

        if not self.has_prompts:
            return Absent(FAMILIES["video_text"], self._video_sampling(), "the video has no prompt")
        return PromptMeasure("video_text", self._video_metric(), self._video_sampling(), self.options.device)

    def attributes(self) -> Measure:
        """Attribute accuracy."""
        from metrics.text_video import AttributeMeasure

        if not self.has_prompts:
            return Absent(FAMILIES["attributes"], self._video_sampling(), "the video has no prompt")
        return AttributeMeasure(self._video_metric(), self._video_sampling(), self.options.device)

    def xclip(self) -> Measure:
        """X-CLIP score."""
        from metrics.text_video import XClipMeasure

        if self.options.xclip is None:
            reason = "X-CLIP needs its weights: give a folder or hub id such as microsoft/xclip-base-patch32"
            return Absent(FAMILIES["xclip"], "uniform:8", reason)
        return XClipMeasure(self.options.xclip, self.options.device)

    def temporal(self) -> Measure:
        """Temporal family."""
        from metrics.motion import TemporalMeasure

        return TemporalMeasure(self.options.temporal_sampling, self.flow.name)

    def consistency(self) -> Measure:
        """Likeness over time."""
        from metrics.likeness import ConsistencyMeasure

        return ConsistencyMeasure(
            self._frame_encoder(), self.flow.function, self.flow.name, self.options.device
        )

    def reference(self) -> Measure:
        """Closeness to the true video."""
        from metrics.reference import ReferenceMeasure

        return ReferenceMeasure(self.options.lpips_weights, self.options.device)

    def vmaf(self) -> Measure:
        """VMAF against the true video."""
        from metrics.vmaf import VmafMeasure

        return VmafMeasure()

    def adherence(self) -> Measure:
        """Closeness to the reference image."""
        from metrics.reference import AdherenceMeasure

        if not self.has_images:
            return Absent(FAMILIES["adherence"], AdherenceMeasure.sampling, "no reference images were given")
        return AdherenceMeasure(self._frame_encoder(), self.options.device)

    def stage(self) -> Measure:
        """Sharpness and cadence."""
        from metrics.reference import StageMeasure

        return StageMeasure()

    def vbench(self) -> Measure:
        """VBench's formulas."""
        from metrics.likeness import VBenchMeasure

        options = self.options
        raft = options.flow_weights if options.flow == "raft_large" else None
        return VBenchMeasure(options.vbench_dino, options.vbench_clip, raft, options.device)

    def _frame_encoder(self) -> "FrameEncoder":
        from metrics.encoders import load_encoder

        if self._encoder is None:
            self._encoder = load_encoder(self.options.encoder, self.options.encoder_weights)
        return self._encoder

    def _video_metric(self) -> "VideoTextScore":
        from metrics.text_video import VideoTextScore

        if self._video_text is None:
            self._video_text = VideoTextScore()
        return self._video_text

    def _video_sampling(self) -> str:
        from metrics.embedded import VIDEO_CONFIG

        return f"uniform:{VIDEO_CONFIG['frames']}"
