"""Score files: every requested metric on every video, bad files listed, sets summed up."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metrics.errors import MediaError
from metrics.registry import STATIC, MetricInfo, expanded, metric_info
from metrics.sampling import parse_sampling
from metrics.signature import signature
from metrics.video import Limits, decoder_signature, read_video

if TYPE_CHECKING:
    from metrics.feature_store import FeatureSet
    from metrics.measures import Measure, Value, Video
    from metrics.set_distances import SetDistances


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How to measure; what changes values is stamped into their signatures.

    Attributes:
        clip_model: ``embedded``, an open_clip architecture, ``local-dir:DIR`` or ``hf-hub:ORG/REPO``.
        clip_pretrained: weight tag or file of an architecture.
        extractor: name in ``metrics.features.EXTRACTORS``.
        extractor_weights: its weight file, folder or hub id.
        clip_sampling: frames for the CLIP score.
        temporal_sampling: frames for the temporal family.
        ddof: of the Fréchet distance; by default that of the extractor's protocol, else 1.
        encoder: image encoder of the consistency family and of adherence: ``embedded``, ``clip``, ``dinov2``
            or ``dino``.
        encoder_weights: its weights, see ``metrics.encoders.load_encoder``.
        xclip: folder or hub id of an X-CLIP model.
        lpips_weights: torchvision's AlexNet weight file.
        flow: ``lucas-kanade``, ``raft_small`` or ``raft_large``.
        flow_weights: weight file of RAFT.
        vbench_dino: ``dino_vitbase16_pretrain.pth``.
        vbench_clip: OpenAI's CLIP ViT-B/32 weight file, or its tag ``openai``.
        device: torch device of the models.
        limits: what a file may ask for.
    """

    clip_model: str = "embedded"
    clip_pretrained: str | None = None
    extractor: str = "embedded"
    extractor_weights: str | Path | None = None
    clip_sampling: str = "uniform:16"
    temporal_sampling: str = "native"
    ddof: int | None = None
    encoder: str = "embedded"
    encoder_weights: str | None = None
    xclip: str | None = None
    lpips_weights: Path | None = None
    flow: str = "lucas-kanade"
    flow_weights: Path | None = None
    vbench_dino: Path | None = None
    vbench_clip: str | None = None
    device: str = "cpu"
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class ScoreRow:
    """One value of one video; ``value`` is None with a ``reason`` where it could not be computed.

    ``curve`` holds the (seconds, value) points of a value that sums up a curve.
    """

    path: Path
    prompt: str | None
    metric: str
    value: float | None
    reason: str | None
    signature: str
    curve: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True)
class SetScore:
    """One value of the whole set of ``n`` videos, with its error and counts in ``details``."""

    metric: str
    value: float | None
    reason: str | None
    signature: str
    n: int
    details: dict[str, float | int | str | None]


@dataclass(frozen=True)
class Failure:
    """A file that could not be read; the others were scored."""

    path: Path
    reason: str


@dataclass(frozen=True)
class ScoreTable:
    """All values of one call of ``score_videos``, and the features behind its distances."""

    rows: tuple[ScoreRow, ...]
    set_values: tuple[SetScore, ...]
    failures: tuple[Failure, ...]
    features: "FeatureSet | None" = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without the features."""
        table = {
            "rows": [asdict(row) for row in self.rows],
            "set_values": [asdict(item) for item in self.set_values],
            "failures": [asdict(item) for item in self.failures],
        }
        for row in (*table["rows"], *table["failures"]):
            row["path"] = str(row["path"])
        for row in table["rows"]:
            if row["curve"] is None:
                del row["curve"]
        return table


def score_videos(
    paths: Sequence[Path],
    prompts: Sequence[str | None] | None = None,
    metrics: Sequence[str] = ("clip", "fvd", "temporal"),
    *,
    reference_paths: Sequence[Path] | None = None,
    reference_images: Sequence[Path] | None = None,
    options: ScoreOptions | None = None,
    progress: bool = True,
) -> ScoreTable:
    """Score video files.

    Args:
        paths: mp4 files.
        prompts: one per path, None where unknown.
        metrics: names in ``metrics.registry.METRICS``, of families or of other packages' metrics; ``temporal``
            also yields the rest of its family.
        reference_paths: real videos: as a set for the distances, and each for the video of the same file name.
        reference_images: PNG or JPEG images, each for the video of the same name but for the ending.
        options: how to measure.
        progress: show a progress bar on stderr.

    Returns:
        Rows in the order of paths, one set value per metric, and the files that failed.

    Raises:
        UnknownNameError: an unknown metric, extractor or sampling, before any file is read.
        WeightsError: a model cannot be loaded.
        ValueError: as many prompts as paths were expected.
    """
    options = options or ScoreOptions()
    texts = list(prompts) if prompts is not None else [None] * len(paths)
    if len(texts) != len(paths):
        raise ValueError(f"expected one prompt per video, got {len(paths)} videos and {len(texts)} prompts")
    job = _Job(expanded(metrics), texts, reference_paths, reference_images, options)
    rows: list[ScoreRow] = []
    failures = job.read_reference(progress)
    for path, prompt in _progress(list(zip(paths, texts, strict=True)), "score", progress):
        try:
            rows += job.score(Path(path), prompt)
        except MediaError as error:
            failures.append(Failure(Path(path), str(error)))
    sets = [job.set_score(name, rows) for name in job.names]
    features = job.distances.generated() if job.distances is not None else None
    return ScoreTable(tuple(rows), tuple(sets), tuple(failures), features)


class _Job:
    """The models one call needs, loaded once, and the features of the sets."""

    def __init__(
        self,
        names: list[str],
        prompts: Sequence[str | None],
        references: Sequence[Path] | None,
        images: Sequence[Path] | None,
        options: ScoreOptions,
    ) -> None:
        from metrics.families import build_measures, load_flow

        if not names:
            raise ValueError("no metric asked for")
        for sampling in (options.clip_sampling, options.temporal_sampling):
            parse_sampling(sampling)
        self.names, self.options, self.references = names, options, list(references or [])
        self.flow = load_flow(options)
        self.pairs = _by_stem(self.references)
        self.images = _by_stem(images or [])
        self.measures = build_measures(
            names, options, self.flow, has_prompts=any(prompts), has_images=bool(images)
        )
        wanted = [name for name in names if metric_info(name).per == "set"]
        self.distances = _set_distances(wanted, options) if self.references and wanted else None
        self.num_videos = 0
        self.cut_prompts: dict[str, set[str]] = {}

    def read_reference(self, progress: bool) -> list[Failure]:
        """Extract the features of the reference videos; return those that cannot be read."""
        failures: list[Failure] = []
        if self.distances is None:
            return failures
        for path in _progress(self.references, "reference", progress):
            try:
                clip = read_video(path, self.options.limits, self.distances.sampling)
                self.distances.add(Path(path), clip.frames, real=True)
            except MediaError as error:
                failures.append(Failure(Path(path), str(error)))
        return failures

    def score(self, path: Path, prompt: str | None) -> list[ScoreRow]:
        """Return the rows of one video and add its features to the set, or raise and add nothing."""
        from metrics.measures import Video

        video = Video(
            path,
            prompt,
            limits=self.options.limits,
            reference_path=self.pairs.get(path.stem),
            image_path=self.images.get(path.stem),
            flow=self.flow.function,
            device=self.options.device,
        )
        found: dict[str, ScoreRow] = {}
        for measure in self.measures:
            values = measure.values(video)
            for info in measure.infos:
                if info.name in self.names:
                    found[info.name] = _row(video, info, values[info.name], measure)
            self._note_cut(measure, prompt)
        if self.distances is not None:
            self.distances.add(path, video.clip(self.distances.sampling).frames, real=False)
        elif not self.measures:
            video.clip("uniform:1")  # a file that cannot be read is reported even if nothing is measured
        self.num_videos += 1
        return [found[name] for name in self.names if name in found]

    def set_score(self, name: str, rows: Iterable[ScoreRow]) -> SetScore:
        """Return the value of one metric over all videos."""
        info = metric_info(name)
        if info.per == "video":
            return self._mean_score(info, list(rows))
        if self.distances is None:
            return SetScore(name, None, "no reference videos were given", _stamp(info), self.num_videos, {})
        found = self.distances.value(name)
        stamp = _stamp(info, *found.parts)
        return SetScore(name, found.value, found.reason, stamp, self.num_videos, found.details)

    def _mean_score(self, info: MetricInfo, all_rows: list[ScoreRow]) -> SetScore:
        rows = [row for row in all_rows if row.metric == info.name]
        values = [row.value for row in rows if row.value is not None]
        details: dict[str, float | int | str | None] = {"n_missing": len(rows) - len(values)}
        static = [row for row in rows if row.reason == STATIC]
        if static or info.name == "temporal":
            details["n_static"] = len(static)
        if info.name == "temporal":
            values += [0.0 for row in static if _counts(row)]
        if info.name in self.cut_prompts:
            details["n_cut_prompts"] = len(self.cut_prompts[info.name])
        stamps = sorted({row.signature for row in rows})
        stamp = stamps[0] if stamps else _stamp(info)
        if not values:
            reasons = sorted({row.reason for row in rows if row.reason})
            return SetScore(
                info.name, None, "; ".join(reasons) or "no video could be read", stamp, 0, details
            )
        if len(stamps) > 1:
            reason = f"the videos were measured in {len(stamps)} different ways, so they have no common mean"
            return SetScore(info.name, None, reason, " & ".join(stamps), len(values), details)
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        mean = statistics.fmean(values)
        return SetScore(info.name, mean, None, stamp, len(values), details | {"standard_error": error})

    def _note_cut(self, measure: "Measure", prompt: str | None) -> None:
        is_cut = getattr(measure, "is_cut", None)
        if is_cut is not None:
            cut = self.cut_prompts.setdefault(measure.infos[0].name, set())
            if prompt and is_cut(prompt):
                cut.add(prompt)


def _set_distances(names: list[str], options: ScoreOptions) -> "SetDistances":
    from metrics.set_distances import SetDistances  # brings torchmetrics along

    return SetDistances(names, options)


def _row(video: "Video", info: MetricInfo, value: "Value", measure: "Measure") -> ScoreRow:
    from metrics.measures import Curve, Missing

    stamp = _stamp(info, *measure.stamp(video))
    if isinstance(value, Missing):
        return ScoreRow(video.path, video.prompt, info.name, None, value.reason, stamp)
    if isinstance(value, Curve):
        return ScoreRow(video.path, video.prompt, info.name, value.value, None, stamp, value.points)
    return ScoreRow(video.path, video.prompt, info.name, float(value), None, stamp)


def _counts(row: ScoreRow) -> bool:
    """Tell whether a static video counts as the worst: unless its prompt asked for stillness."""
    from metrics.stillness import asks_for_motion

    return row.prompt is None or asks_for_motion(row.prompt)


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    return {Path(path).stem: Path(path) for path in paths}


def _stamp(info: MetricInfo, *parts: str) -> str:
    return signature(info.name, info.version, f"decode:{decoder_signature()}", *parts)


def _progress(items: Sequence[Any], title: str, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(items, title, disable=not shown or len(items) < 2)
