"""One side of a comparison: the values of a set of videos, keyed so that the other side can be laid beside them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.errors import EvaluationError
from evaluation.gate.specification import GateSpec
from evaluation.report.write import write_text
from evaluation.video_files import find_videos

if TYPE_CHECKING:
    from metrics.scorer import ScoreTable

FORMAT = "magicvideo-gate-side/1"


@dataclass(frozen=True, kw_only=True)
class Value:
    """One value of one video; None with a reason where it could not be computed."""

    value: float | None
    reason: str | None
    signature: str


@dataclass(frozen=True, kw_only=True)
class Side:
    """The videos of one system.

    Attributes:
        name: for the report.
        prompts: prompt of each video by its key (the file's name without its ending); None where unknown.
        values: by key and metric.
        failures: files that could not be read, as sentences.
        features: ``(N, D)`` of the videos in the order of ``prompts``, where set metrics were asked for.
        commit: what the videos were made with, if known.
    """

    name: str
    prompts: dict[str, str | None]
    values: dict[str, dict[str, Value]]
    failures: tuple[str, ...] = ()
    features: np.ndarray | None = None
    commit: str | None = None

    def write(self, path: Path) -> None:
        """Keep the side as JSON (without features), for comparisons to come."""
        content = {
            "format": FORMAT,
            "name": self.name,
            "commit": self.commit,
            "prompts": self.prompts,
            "values": {
                key: {metric: vars(value) for metric, value in row.items()}
                for key, row in self.values.items()
            },
            "failures": list(self.failures),
        }
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_side(path: Path) -> Side:
    """Read what ``Side.write`` wrote.

    Raises:
        EvaluationError: the file is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise KeyError(content["format"])
        values = {
            key: {metric: Value(**value) for metric, value in row.items()}
            for key, row in content["values"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path} is neither a folder of videos nor values kept by `magicvideo compare --keep`: {error!r}"
        ) from error
    return Side(
        name=content["name"],
        prompts=content["prompts"],
        values=values,
        failures=tuple(content["failures"]),
        commit=content["commit"],
    )


def measure_side(
    folder: Path,
    prompts: dict[str, str | None],
    spec: GateSpec,
    *,
    reference: Sequence[Path] | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Side:
    """Measure the mp4 files of a folder.

    Args:
        folder: the videos.
        prompts: by file name without its ending; files that are not in it are not measured.
        spec: which metrics, and how.
        reference: real videos for set metrics.

    Raises:
        EvaluationError: a set metric without reference videos.
        metrics.errors.MetricError: a model that cannot be loaded.
    """
    from metrics.registry import metric_info
    from metrics.scorer import score_videos

    found = {path.stem: path for path in find_videos([folder])}  # its ending may be .MP4
    paths = [found.get(key, folder / f"{key}.mp4") for key in prompts]
    of_videos = [name for name in spec.metrics if metric_info(name).per == "video"]
    families = {metric_info(name).family for name in of_videos}
    asked = of_videos + (["static"] if "temporal" in families and "static" not in of_videos else [])
    options = spec.options(device)
    side = Side(name=folder.name, prompts=prompts, values={key: {} for key in prompts})
    if asked:
        table = score_videos(paths, list(prompts.values()), asked, options=options, progress=progress)
        side = _with_values(side, table)
    of_sets = [name for name in spec.metrics if metric_info(name).per == "set"]
    if of_sets and not side.failures:
        if not reference:
            raise EvaluationError(f"the metric {of_sets[0]!r} needs --reference, a folder of real videos")
        side = replace(side, features=_features(paths, options, progress))
    return side


def reference_features(reference: Sequence[Path], spec: GateSpec, device: str = "cpu") -> np.ndarray:
    """Return ``(M, D)`` features of the reference videos."""
    return _features(list(reference), spec.options(device), progress=True)


def _with_values(side: Side, table: "ScoreTable") -> Side:
    values: dict[str, dict[str, Value]] = {key: {} for key in side.prompts}
    for row in table.rows:
        values[row.path.stem][row.metric] = Value(value=row.value, reason=row.reason, signature=row.signature)
    return replace(side, values=values, failures=tuple(failure.reason for failure in table.failures))


def _features(paths: Sequence[Path], options: Any, progress: bool) -> np.ndarray:
    from tqdm import tqdm

    from metrics.features import load_extractor
    from metrics.video import read_video

    extractor = load_extractor(options.extractor, options.extractor_weights).to(options.device)
    rows = []
    for path in tqdm(paths, desc="features", disable=not progress):
        clip = read_video(path, options.limits, extractor.sampling)
        rows.append(extractor(clip.frames[None].to(options.device))[0].double().cpu().numpy())
    return np.stack(rows)
