"""Score files: every requested metric on every video, bad files listed, sets summed up."""

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from metrics.embedded import sha256_of
from metrics.errors import MediaError
from metrics.registry import METRICS, MetricInfo, metric_info
from metrics.signature import signature
from metrics.video import Limits, VideoClip, decoder_signature, parse_sampling, read_video, resample

TEMPORAL = tuple(name for name, info in METRICS.items() if info.family == "temporal")


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How to measure; what changes values is stamped into their signatures.

    Attributes:
        clip_model: ``embedded``, an open_clip architecture, ``local-dir:DIR`` or ``hf-hub:ORG/REPO``.
        clip_pretrained: weight tag or file of an architecture.
        extractor: name in ``metrics.features.EXTRACTORS``.
        extractor_weights: its weight file.
        clip_sampling: frames for the CLIP score.
        temporal_sampling: frames for the temporal family.
        ddof: of the Fréchet distance.
        device: torch device of the models.
        limits: what a file may ask for.
    """

    clip_model: str = "embedded"
    clip_pretrained: str | None = None
    extractor: str = "embedded"
    extractor_weights: Path | None = None
    clip_sampling: str = "uniform:16"
    temporal_sampling: str = "native"
    ddof: int = 1
    device: str = "cpu"
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class ScoreRow:
    """One value of one video; ``value`` is None with a ``reason`` where it could not be computed."""

    path: Path
    prompt: str | None
    metric: str
    value: float | None
    reason: str | None
    signature: str


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
    """All values of one call of ``score_videos``."""

    rows: tuple[ScoreRow, ...]
    set_values: tuple[SetScore, ...]
    failures: tuple[Failure, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        table = asdict(self)
        for row in (*table["rows"], *table["failures"]):
            row["path"] = str(row["path"])
        return {key: list(value) for key, value in table.items()}


def score_videos(
    paths: Sequence[Path],
    prompts: Sequence[str | None] | None = None,
    metrics: Sequence[str] = ("clip", "fvd", "temporal"),
    *,
    reference_paths: Sequence[Path] | None = None,
    options: ScoreOptions | None = None,
    progress: bool = True,
) -> ScoreTable:
    """Score video files.

    Args:
        paths: mp4 files.
        prompts: one per path, None where unknown.
        metrics: names in ``metrics.registry.METRICS``; ``temporal`` also yields the rest of its family.
        reference_paths: real videos, for ``fvd`` and ``kvd``.
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
    job = _Job(_expanded(metrics), texts, reference_paths, options)
    rows: list[ScoreRow] = []
    failures = job.read_reference(progress)
    for path, prompt in _progress(list(zip(paths, texts, strict=True)), "score", progress):
        try:
            rows += job.score(Path(path), prompt)
        except MediaError as error:
            failures.append(Failure(Path(path), str(error)))
    return ScoreTable(tuple(rows), tuple(job.set_scores(rows)), tuple(failures))


def _expanded(metrics: Sequence[str]) -> list[str]:
    names: list[str] = []
    for name in metrics:
        metric_info(name)
        names += [part for part in (TEMPORAL if name == "temporal" else (name,)) if part not in names]
    if not names:
        raise ValueError(f"no metric asked for; known: {', '.join(METRICS)}")
    return names


class _Job:
    """The models one call needs, loaded once, and the features of the sets."""

    def __init__(
        self,
        names: list[str],
        prompts: Sequence[str | None],
        references: Sequence[Path] | None,
        options: ScoreOptions,
    ) -> None:
        from metrics.frechet import FrechetVideoDistance
        from metrics.text_video import CLIPScore, VideoTextScore

        self.names, self.options, self.references = names, options, list(references or [])
        for sampling in (options.clip_sampling, options.temporal_sampling):
            parse_sampling(sampling)
        self.scores: dict[str, CLIPScore | VideoTextScore] = {}
        if any(prompts) and "clip" in names:
            self.scores["clip"] = CLIPScore(options.clip_model, options.clip_pretrained).to(options.device)
        if any(prompts) and "video_text" in names:
            self.scores["video_text"] = VideoTextScore().to(options.device)
        self.distance: FrechetVideoDistance | None = None
        if self.references and {"fvd", "kvd"} & set(names):
            self.distance = FrechetVideoDistance(
                options.extractor, weights=options.extractor_weights, ddof=options.ddof
            ).to(options.device)
        self.reference_digest = ""
        self.read_references = 0
        self.read_videos = 0

    def read_reference(self, progress: bool) -> list[Failure]:
        """Extract the features of the reference videos; return those that cannot be read."""
        failures: list[Failure] = []
        if self.distance is None:
            return failures
        digests = []
        for path in _progress(self.references, "reference", progress):
            try:
                clip = read_video(path, self.options.limits, self.distance.extractor.sampling)
            except MediaError as error:
                failures.append(Failure(Path(path), str(error)))
                continue
            self.distance.update(clip.frames[None].to(self.options.device), real=True)
            digests.append(sha256_of(Path(path)))
        self.read_references = len(digests)
        self.reference_digest = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:12]
        return failures

    def score(self, path: Path, prompt: str | None) -> list[ScoreRow]:
        """Return the rows of one video and add its features to the set."""
        clips = self._read(path)
        found = [
            self._text_row(clips, path, prompt, name) for name in self.names if name in ("clip", "video_text")
        ]
        if set(self.names) & set(TEMPORAL):
            found += self._temporal_rows(clips[self.options.temporal_sampling], prompt)
        if self.distance is not None:
            clip = clips[self.distance.extractor.sampling]
            self.distance.update(clip.frames[None].to(self.options.device), real=False)
        self.read_videos += 1
        return found

    def _read(self, path: Path) -> dict[str, VideoClip]:
        """Return the clip by every sampling that is needed, decoding a native one only once."""
        wanted = set()
        if "clip" in self.scores:
            wanted.add(self.options.clip_sampling)
        if "video_text" in self.scores:
            wanted.add(self._sampling("video_text"))
        if self.distance is not None:
            wanted.add(self.distance.extractor.sampling)
        if set(self.names) & set(TEMPORAL):
            wanted.add(self.options.temporal_sampling)
        if "native" not in wanted:
            samplings = sorted(wanted) or ["uniform:1"]
            return {sampling: read_video(path, self.options.limits, sampling) for sampling in samplings}
        native = read_video(path, self.options.limits)
        return {sampling: resample(native, sampling) for sampling in wanted - {"native"}} | {"native": native}

    def _sampling(self, name: str) -> str:
        if name == "clip":
            return self.options.clip_sampling
        from metrics.embedded import VIDEO_CONFIG

        return f"uniform:{VIDEO_CONFIG['frames']}"

    def _text_row(self, clips: dict[str, VideoClip], path: Path, prompt: str | None, name: str) -> ScoreRow:
        metric = self.scores.get(name)
        parts = [f"sampling:{self._sampling(name)}"] + ([metric.provenance] if metric else [])
        stamp = _stamp(METRICS[name], *parts)
        if metric is None or prompt is None or not prompt.strip():
            return ScoreRow(path, prompt, name, None, "the video has no prompt", stamp)
        unknown = metric.unknown_words(prompt)
        if unknown:
            reason = f"the embedded model does not know {', '.join(unknown)}; choose a published model"
            return ScoreRow(path, prompt, name, None, reason, stamp)
        metric.update([clips[self._sampling(name)].frames.to(self.options.device)], [prompt])
        return ScoreRow(path, prompt, name, float(metric.values()[-1]), None, stamp)

    def _temporal_rows(self, clip: VideoClip, prompt: str | None) -> list[ScoreRow]:
        from metrics.functional.temporal import temporal_profile
        from metrics.temporal import consistency

        names = [name for name in self.names if name in TEMPORAL]
        if len(clip.frames) < 3:
            reason = f"motion needs at least 3 frames, the video has {len(clip.frames)}"
            return [
                ScoreRow(clip.path, prompt, name, None, reason, self._temporal_stamp(clip, name))
                for name in names
            ]
        profile = temporal_profile(clip.frames.to(self.options.device), clip.fps)
        values: dict[str, Any] = dict(profile) | {"temporal": consistency(profile)}
        reason = "the video is static" if profile["static"] else "nothing between its cuts can be judged"
        return [
            ScoreRow(
                clip.path,
                prompt,
                name,
                None if values[name] is None else float(values[name]),
                reason if values[name] is None else None,
                self._temporal_stamp(clip, name),
            )
            for name in names
        ]

    def _temporal_stamp(self, clip: VideoClip, name: str) -> str:
        from metrics.functional.temporal import FLOW_SIDE

        rate = f"sampling:{clip.sampling}|fps:{clip.fps:.6g}"
        return _stamp(METRICS[name], rate, f"resize:{FLOW_SIDE}-bilinear-aa-short", "flow:lucas-kanade")

    def set_scores(self, rows: list[ScoreRow]) -> list[SetScore]:
        """Return one value per metric over all videos."""
        found = []
        for name in self.names:
            if METRICS[name].per == "set":
                found.append(self._distance_score(name))
            else:
                found.append(self._mean_score(name, [row for row in rows if row.metric == name], rows))
        return found

    def _distance_score(self, name: str) -> SetScore:
        stamp = _stamp(METRICS[name])
        if self.distance is None:
            return SetScore(name, None, "no reference videos were given", stamp, self.read_videos, {})
        n, m = self.read_videos, self.read_references
        parts = [f"sampling:{self.distance.extractor.sampling}", self.distance.provenance]
        parts += [f"ddof:{self.options.ddof}"] if name == "fvd" else ["kernel:poly3-standardised-unbiased"]
        stamp = _stamp(METRICS[name], *parts, f"n:{n}", f"reference:{self.reference_digest}x{m}")
        details: dict[str, float | int | str | None] = {"n_reference": m, "dim": self.distance.extractor.dim}
        if min(n, m) < 2:
            reason = f"a distance needs at least 2 videos and 2 references, there are {n} and {m}"
            return SetScore(name, None, reason, stamp, n, details)
        if name == "kvd":
            return SetScore(name, float(self.distance.kernel()), None, stamp, n, details)
        estimate = self.distance.estimate()
        details |= {
            "standard_error": estimate.standard_error,
            "corrected": estimate.corrected,
            "corrected_reason": estimate.reason,
        }
        return SetScore(name, estimate.value, None, stamp, n, details)

    def _mean_score(self, name: str, rows: list[ScoreRow], all_rows: list[ScoreRow]) -> SetScore:
        values = [row.value for row in rows if row.value is not None]
        details: dict[str, float | int | str | None] = {"n_missing": len(rows) - len(values)}
        if name == "temporal":
            static = [row for row in all_rows if row.metric == "static" and row.value == 1.0]
            values += [0.0 for row in static if _counts(row)]
            details["n_static"] = len(static)
        if name == "clip" and "clip" in self.scores:
            details["n_cut_prompts"] = getattr(self.scores["clip"], "num_cut_prompts", 0)
        stamps = sorted({row.signature for row in rows})
        stamp = stamps[0] if stamps else _stamp(METRICS[name])
        if not values:
            reasons = sorted({row.reason for row in rows if row.reason})
            return SetScore(name, None, "; ".join(reasons) or "no video could be read", stamp, 0, details)
        if len(stamps) > 1:
            reason = f"the videos were measured in {len(stamps)} different ways, so they have no common mean"
            return SetScore(name, None, reason, " & ".join(stamps), len(values), details)
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        return SetScore(
            name, statistics.fmean(values), None, stamp, len(values), details | {"standard_error": error}
        )


def _counts(row: ScoreRow) -> bool:
    """Tell whether a static video counts as the worst: unless its prompt asked for stillness."""
    from metrics.temporal import asks_for_motion

    return row.prompt is None or asks_for_motion(row.prompt)


def _stamp(info: MetricInfo, *parts: str) -> str:
    return signature(info.name, info.version, f"decode:{decoder_signature()}", *parts)


def _progress(items: Sequence[Any], title: str, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(items, title, disable=not shown or len(items) < 2)
