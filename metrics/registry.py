"""Every metric by name: what it says, in which unit, and what it needs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torchmetrics import Metric

STATIC = "the video is static"  # why a video that does not move lacks a value


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
        needs: of ``prompt``, ``reference`` (a set of real videos), ``pair`` (the true video of the same name),
            ``image`` (the reference image of the same name), ``weights`` (a published model), ``ffmpeg``
            (the program, with libvmaf) and ``motion``; without them the value is None with a reason.
        per: whether the value belongs to a video or to a set of videos.
        description: one or two sentences.
        family: what computes it; asking for the family's own name yields all its members.
        misses: what it cannot see, or where it misleads.
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
    misses: str = ""


# fmt: off
_ALL = (
    # text and video
    MetricInfo("clip", "CLIP score", "higher", "cosine x 100", (-100, 100), 2, ("prompt", "motion"), "video",
               "Mean cosine of each frame with the prompt. Blind to motion: shuffled frames score the same. None "
               "for a static video whose prompt asks for motion.", "clip", "motion, order of frames"),
    MetricInfo("video_text", "Video-text score", "higher", "cosine x 100", (-100, 100), 2, ("prompt", "motion"),
               "video", "Cosine of the clip as a whole with the prompt, by the embedded video-text model; "
               "sees motion (how well, its recipe says), knows the sprites domain only. None for a static video "
               "whose prompt asks for motion.", "video_text", "everything outside the sprites domain"),
    MetricInfo("xclip", "X-CLIP score", "higher", "cosine x 100", (-100, 100), 2,
               ("prompt", "weights", "motion"), "video", "Cosine of 8 frames as a whole with the prompt, by a "
               "published X-CLIP model. None for a static video whose prompt asks for motion.", "xclip",
               "fine motion; trained on actions of people"),
    MetricInfo("attributes", "Attribute accuracy", "higher", "share", (0, 1), 2, ("prompt", "motion"), "video",
               "Share of the prompt's sizes, colours, shapes, motions and background that the embedded "
               "video-text model prefers to every alternative. None for a static video whose prompt asks for "
               "motion.", "attributes", "everything outside the sprites domain"),
    # sets of videos
    MetricInfo("fvd", "Fréchet video distance", "lower", "", (0, None), 1, ("reference",), "set",
               "Fréchet distance between features of the videos and of reference videos. Biased upwards "
               "for few videos: compare equal numbers, or the corrected value.", "distance",
               "a wrong prompt; small samples mislead"),
    MetricInfo("kvd", "Kernel video distance", "lower", "", (None, None), 1, ("reference",), "set",
               "Unbiased polynomial kernel distance between features standardised by the reference set; "
               "slightly negative values mean no difference.", "distance", "a wrong prompt"),
    MetricInfo("jedi", "JEDi distance", "lower", "x 100", (0, None), 1, ("reference",), "set",
               "Biased polynomial MMD of degree 2 times 100, the statistic of JEDi; JEDi itself when the "
               "extractor is a V-JEPA model.", "distance", "a wrong prompt; biased for few videos"),
    MetricInfo("fvd_infinity", "FVD extrapolated to infinite N", "lower", "", (None, None), 1,
               ("reference",), "set", "Intercept of the Fréchet distance against 1/N on subsets, for parity with "
               "published values; the corrected value of fvd has less error.", "distance",
               "a wrong prompt; noisier than fvd's corrected value"),
    # motion of one video
    MetricInfo("temporal", "Temporal consistency", "higher", "", (0, 1), 2, ("motion",), "video",
               "1 - acceleration ratio: 1 moves evenly, 0 is jitter or stop-and-go. None for a static video, "
               "which counts 0 in the mean of a set unless its prompt asks for stillness.", "temporal",
               "blur, wrong content"),
    MetricInfo("speed", "Speed", "neutral", "% of diagonal / s", (0, None), 2, (), "video",
               "Mean optical flow.", "temporal", "camera and object motion are one"),
    MetricInfo("static", "Static", "neutral", "", (0, 1), 2, (), "video",
               "1 if nothing moves.", "temporal", "very slow motion"),
    MetricInfo("accel_ratio", "Acceleration ratio", "lower", "", (0, 1), 2, ("motion",), "video",
               "Share of motion that changes from one frame pair to the next. None for a static video.",
               "temporal", "blur, wrong content"),
    MetricInfo("warp_residual", "Warp residual", "lower", "grey levels", (0, 255), 2, ("motion",), "video",
               "What remains between neighbours after moving one onto the other. None for a static video; "
               "lower for blurred ones.", "temporal", "blur lowers it; read it with sharpness"),
    MetricInfo("luminance_flicker", "Luminance flicker", "lower", "gain", (0, None), 2, ("motion",), "video",
               "Deviation over time of the brightness gain between neighbours. None for a static video.",
               "temporal", "flicker of colour alone"),
    MetricInfo("cuts", "Cuts", "neutral", "count", (0, None), 2, (), "video",
               "Frame pairs that motion cannot join.", "temporal", "fades"),
    # likeness over time; never for a static video
    MetricInfo("identity_drift", "Identity drift", "lower", "1 - cosine", (0, 2), 1, ("motion",), "video",
               "1 - mean cosine of the first frame with the last quarter of the frames, and the curve over "
               "time. None for a static video.", "consistency", "what the encoder cannot see; camera motion counts"),
    MetricInfo("long_horizon", "Long-horizon likeness", "higher", "cosine", (-1, 1), 1, ("motion",), "video",
               "Mean cosine of frames one second apart, and the curve over 2, 5, 10, 20 and 50 frames. None for "
               "a static video or one shorter than a second.", "consistency",
               "slow video scores higher; compare at equal speed"),
    MetricInfo("subject_consistency", "Subject consistency", "higher", "cosine", (0, 1), 1, ("motion",), "video",
               "Mean over frames of the cosines with the previous and with the first frame, by the chosen image "
               "encoder. None for a static video.", "consistency", "slow video scores higher"),
    MetricInfo("background_consistency", "Background consistency", "higher", "cosine", (0, 1), 1, ("motion",),
               "video", "As subject_consistency on what does not move: the fastest half of the pixels is masked "
               "by the mean grey. None for a static video.", "consistency", "a background that moves with the camera"),
    MetricInfo("motion_smoothness", "Motion smoothness", "higher", "", (0, 1), 1, ("motion",), "video",
               "1 - mean error of every second frame rebuilt from its neighbours by flow, over 255. None for a "
               "static video.", "consistency", "blur and slow motion score higher"),
    MetricInfo("warping_error", "Warping error", "lower", "squared intensity", (0, 1), 1, ("motion",), "video",
               "Mean squared error in [0, 1] intensities between a frame and its neighbour moved onto it, "
               "occlusions and motion boundaries left out (Lai et al. 2018). None for a static video.", "consistency",
               "blur lowers it"),
    MetricInfo("dynamic_degree", "Dynamic degree", "neutral", "% of diagonal / s", (0, None), 1, (), "video",
               "Mean flow of the fastest twentieth of the frame, at 8 frames per second. Jitter and flicker raise "
               "it: it describes, it does not judge.", "consistency", "good and bad motion are one"),
    # one stage against the stage before, or the truth
    MetricInfo("psnr", "PSNR", "higher", "dB", (0, None), 1, ("pair",), "video",
               "Peak signal to noise ratio against the true video, error pooled over frames.", "reference",
               "structure: a shift of one pixel costs as much as noise"),
    MetricInfo("ssim", "SSIM", "higher", "", (-1, 1), 1, ("pair",), "video",
               "Structural similarity with the true video, mean over frames.", "reference", "motion"),
    MetricInfo("ms_ssim", "MS-SSIM", "higher", "", (0, 1), 1, ("pair",), "video",
               "Multi-scale structural similarity with the true video, mean over frames; sides of at least 176.",
               "reference", "motion"),
    MetricInfo("lpips", "LPIPS", "lower", "", (0, None), 1, ("pair", "weights"), "video",
               "Learned perceptual distance (AlexNet) from the true video, mean over frames.", "reference",
               "motion"),
    MetricInfo("tof", "tOF", "lower", "% of diagonal / frame", (0, None), 1, ("pair",), "video",
               "Mean distance between the motion of the video and that of the true one.", "reference",
               "everything but motion"),
    MetricInfo("vmaf", "VMAF", "higher", "", (0, 100), 1, ("pair", "ffmpeg"), "video",
               "Netflix's fusion of detail, contrast and motion against the true video (model v0.6.1), mean over "
               "frames, by an ffmpeg with libvmaf on the PATH.", "vmaf", "wrong content; trained on compression"),
    MetricInfo("adherence", "Adherence to the reference image", "higher", "cosine", (-1, 1), 1,
               ("image", "motion"), "video", "Mean cosine of the frames with the reference image, by the "
               "chosen image encoder. None for a static video.", "adherence",
               "slow video scores higher; compare at equal speed"),
    MetricInfo("sharpness", "Sharpness", "neutral", "squared grey levels", (0, None), 1, (), "video",
               "Variance of the Laplacian at full size. Noise raises it; to be read beside the others.", "stage",
               "detail and noise are one; depends on the frame size"),
    MetricInfo("cadence_ratio", "Cadence ratio", "neutral", "ratio", (0, None), 1, ("motion",), "video",
               "Step between interpolated frames over step between them and keyframes, keyframes every third "
               "frame: 1 is even, above 1 judders. A cross-fade has 1 too: read it with sharpness.", "stage",
               "blur"),
    # VBench's own formulas, for comparison with its tables
    MetricInfo("vbench_subject_consistency", "VBench subject consistency", "neutral", "", (0, 1), 1, ("weights",),
               "video", "VBench's formula on DINO ViT-B/16. A frozen video has 1: for comparison only.", "vbench",
               "a frozen video is the best"),
    MetricInfo("vbench_background_consistency", "VBench background consistency", "neutral", "", (0, 1), 1,
               ("weights",), "video", "VBench's formula on CLIP ViT-B/32. A frozen video has 1: for comparison "
               "only.", "vbench", "a frozen video is the best"),
    MetricInfo("vbench_temporal_flickering", "VBench temporal flickering", "neutral", "", (0, 1), 1, (), "video",
               "1 - mean absolute difference of neighbours over 255. A frozen video has 1: for comparison only.",
               "vbench", "a frozen video is the best"),
    MetricInfo("vbench_motion_smoothness", "VBench motion smoothness", "neutral", "", (0, 1), 1, ("weights",),
               "video", "1 - mean error of every second frame rebuilt from its neighbours by AMT over 255. A frozen "
               "video has 1: for comparison only.", "vbench", "a frozen video is the best"),
    MetricInfo("vbench_dynamic_degree", "VBench dynamic degree", "neutral", "", (0, 1), 1, ("weights",), "video",
               "Whether enough frame pairs at 8 frames per second have a fastest twentieth, by RAFT, above "
               "VBench's threshold. Jitter, flicker and cuts raise it.", "vbench", "good and bad motion are one"),
)
# fmt: on
METRICS: dict[str, MetricInfo] = {info.name: info for info in _ALL}
FAMILIES: dict[str, tuple[MetricInfo, ...]] = {
    family: tuple(info for info in _ALL if info.family == family)
    for family in dict.fromkeys(i.family for i in _ALL)
}


# The torchmetrics class of each metric, as ``module:class``. VBench's own formulas are functions only, in
# ``metrics.functional``; where they ask for an encoder, ``SubjectConsistency(encoder, count_static=True)``.
CLASSES: dict[str, str] = {
    "clip": "metrics.text_video:CLIPScore",
    "video_text": "metrics.text_video:VideoTextScore",
    "xclip": "metrics.text_video:XCLIPScore",
    "attributes": "metrics.text_video:AttributeAccuracy",
    "fvd": "metrics.frechet:FrechetVideoDistance",
    "kvd": "metrics.frechet:KernelVideoDistance",
    "jedi": "metrics.frechet:JediDistance",
    "fvd_infinity": "metrics.frechet:FrechetVideoDistance",  # its method ``infinity``
    **dict.fromkeys((info.name for info in FAMILIES["temporal"]), "metrics.temporal:TemporalConsistency"),
    "identity_drift": "metrics.consistency:IdentityDrift",
    "long_horizon": "metrics.consistency:LongHorizon",
    "subject_consistency": "metrics.consistency:SubjectConsistency",
    "background_consistency": "metrics.consistency:BackgroundConsistency",
    "motion_smoothness": "metrics.consistency:MotionSmoothness",
    "warping_error": "metrics.consistency:WarpingError",
    "dynamic_degree": "metrics.consistency:DynamicDegree",
    "psnr": "metrics.reference:PSNR",
    "ssim": "metrics.reference:SSIM",
    "ms_ssim": "metrics.reference:MultiScaleSSIM",
    "lpips": "metrics.reference:LPIPS",
    "tof": "metrics.reference:FlowError",
    "vmaf": "metrics.vmaf:VMAF",
    "adherence": "metrics.reference:ReferenceAdherence",
    "sharpness": "metrics.reference:Sharpness",
    "cadence_ratio": "metrics.reference:CadenceRatio",
}


def metric_class(name: str) -> "type[Metric]":
    """Return the torchmetrics class of a metric.

    Raises:
        UnknownNameError: no class computes the metric; the message lists those that have one.
    """
    from importlib import import_module

    from metrics.errors import UnknownNameError

    if name not in CLASSES:
        raise UnknownNameError("metric with a class", name, CLASSES)
    module, _, found = CLASSES[name].partition(":")
    loaded: type[Metric] = getattr(import_module(module), found)
    return loaded


def metric_info(name: str) -> MetricInfo:
    """Return a metric by name, built in or of a plug-in.

    Raises:
        UnknownNameError: nothing bears the name; the message lists what does.
        PluginError: the plug-in of that name cannot be loaded.
    """
    if name in METRICS:
        return METRICS[name]
    from metrics import plugins

    return plugins.metric(name).info


def expanded(names: Iterable[str]) -> list[str]:
    """Return metric names with every name of a family replaced by its members, each once.

    Raises:
        UnknownNameError: nothing bears a name.
    """
    found: list[str] = []
    for name in names:
        members = [info.name for info in FAMILIES.get(name, ())] or [metric_info(name).name]
        found += [member for member in members if member not in found]
    return found
