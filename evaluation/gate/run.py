"""Compare two places: folders of videos or kept values."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.engine.record import VideoRecord
from evaluation.engine.store import RECORDS
from evaluation.gate.compare import GateResult, compare
from evaluation.gate.sides import Side, measure_side, read_side, reference_features
from evaluation.gate.specification import GateSpec
from evaluation.video_files import find_videos, read_prompts


def side_of(
    place: Path,
    spec: GateSpec,
    *,
    prompts: Path | None = None,
    reference: Path | None = None,
    device: str = "cpu",
    commit: str | None = None,
) -> Side:
    """Return the side at ``place``: measured if it is a folder of mp4 files, else read.

    Without ``prompts`` the prompts of a bench's videos are taken from the records beside them.

    Raises:
        EvaluationError: it is neither, or the prompts do not fit.
    """
    if place.is_file():
        return read_side(place)
    paths = find_videos([place])
    texts = read_prompts(prompts, paths) if prompts else _recorded_prompts(paths)
    keyed = {path.stem: text for path, text in zip(paths, texts, strict=True)}
    references = find_videos([reference]) if reference else None
    return replace(measure_side(place, keyed, spec, reference=references, device=device), commit=commit)


def _recorded_prompts(videos: Sequence[Path]) -> list[str | None]:
    """Return the prompt of each video that a bench has left a record of."""
    records = [video.parent / RECORDS / f"{video.stem}.json" for video in videos]
    return [
        VideoRecord.from_json(path.read_text("utf-8"), str(path)).prompt if path.is_file() else None
        for path in records
    ]


def compare_sides(
    one: Side, two: Side, spec: GateSpec, *, reference: Path | None = None, device: str = "cpu"
) -> GateResult:
    """Compare two measured sides; real videos are read only where both have features to hold against them."""
    real = None
    if reference is not None and one.features is not None and two.features is not None:
        real = reference_features(find_videos([reference]), spec, device)
    return compare(one, two, spec, reference=real)


def compare_places(
    baseline: Path,
    candidate: Path,
    spec: GateSpec,
    *,
    prompts: Path | None = None,
    reference: Path | None = None,
    device: str = "cpu",
) -> GateResult:
    """Measure or read both places and compare them."""
    one, two = (
        side_of(place, spec, prompts=prompts, reference=reference, device=device)
        for place in (baseline, candidate)
    )
    return compare_sides(one, two, spec, reference=reference, device=device)
