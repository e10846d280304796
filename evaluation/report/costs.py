"""What videos took, from the records that a run keeps beside them."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median

from evaluation.engine.record import VideoRecord
from evaluation.report.model import SystemCost


def system_costs(records: Iterable[VideoRecord]) -> list[SystemCost]:
    """Add up records by system, in the order they come."""
    by_system: dict[str, list[VideoRecord]] = defaultdict(list)
    for record in records:
        by_system[record.system].append(record)
    return [_cost(name, rows) for name, rows in by_system.items()]


def read_records(folder: Path) -> list[VideoRecord]:
    """Return the records below a run's folder of videos, none where the videos are kept elsewhere.

    Raises:
        EvaluationError: a damaged record; it is named.
    """
    paths = sorted((folder / "videos").glob("*/records/*.json"))
    return [VideoRecord.from_json(path.read_text("utf-8"), str(path)) for path in paths]


def _cost(system: str, records: list[VideoRecord]) -> SystemCost:
    made = [record for record in records if record.outcome == "made"]
    seconds = [record.seconds for record in made if record.seconds is not None]
    stages: dict[str, list[float]] = defaultdict(list)
    peaks = []
    for stage in (stage for record in made for stage in record.stages):
        if not stage["reused"]:
            stages[stage["stage"]].append(stage["seconds"])
        if stage.get("peak_memory"):
            peaks.append(int(stage["peak_memory"]))
    cost: dict[str, float] = defaultdict(float)
    for record in records:
        if record.cost is not None:
            cost[record.currency] += record.cost
    return SystemCost(
        system=system,
        outcomes=dict(Counter(record.outcome for record in records)),
        median_seconds=median(seconds) if seconds else None,
        total_seconds=sum(seconds),
        stages={name: mean(values) for name, values in stages.items()},
        peak_memory=max(peaks) if peaks else None,
        cost=dict(cost),
    )
