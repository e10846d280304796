"""Named baselines in a folder, and the history of what was measured against them."""

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.errors import EvaluationError
from evaluation.gate.compare import FROZEN, GateResult
from evaluation.gate.sides import Side, read_side

HISTORY = "history.jsonl"


class Baselines:
    """A folder with one ``NAME.json`` a baseline and ``history.jsonl``, to be kept under version control or not."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, which need not exist yet."""
        self.folder = folder

    def names(self) -> list[str]:
        """Return the names of the baselines, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def path(self, name: str) -> Path:
        """Return where a baseline is kept.

        Raises:
            EvaluationError: a name that is no plain word.
        """
        if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", name):
            raise EvaluationError(
                f"{name!r} is no name of a baseline; use letters, digits, '.', '+', '-' and '_'"
            )
        return self.folder / f"{name}.json"

    def read(self, name: str) -> Side:
        """Return a baseline.

        Raises:
            EvaluationError: there is none of that name; the known ones are listed.
        """
        path = self.path(name)
        if not path.exists():
            known = ", ".join(self.names()) or "none yet; make one with `magicvideo baseline promote`"
            raise EvaluationError(f"there is no baseline {name!r} in {self.folder}; known: {known}")
        return read_side(path)

    def promote(self, name: str, side: Side) -> None:
        """Make ``side`` the baseline of that name; what bore it before is in the history."""
        side.write(self.path(name))
        self._append(
            {
                "event": "promote",
                "baseline": name,
                "side": side.name,
                "commit": side.commit,
                "means": means(side),
            }
        )

    def record(self, name: str, side: Side, result: GateResult) -> None:
        """Add a comparison against the baseline ``name`` to the history, distances of whole sets included."""
        measured = {row.metric: row.candidate for row in result.metrics if row.candidate is not None}
        verdicts = {"static" if row.metric == FROZEN else row.metric: row.verdict for row in result.metrics}
        self._append(
            {
                "event": "compare",
                "baseline": name,
                "side": side.name,
                "commit": side.commit,
                "verdict": result.verdict,
                "verdicts": verdicts,
                "means": measured | means(side),
            }
        )

    def history(self) -> pd.DataFrame:
        """Return one row a measured metric: time, event, baseline, side, commit, its verdict, metric, value.

        Raises:
            EvaluationError: a damaged line; it is named.
        """
        path = self.folder / HISTORY
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                common = {key: entry.get(key) for key in ("time", "event", "baseline", "side", "commit")}
                verdicts = entry.get("verdicts", {})
                rows += [
                    common | {"verdict": verdicts.get(name), "metric": name, "value": value}
                    for name, value in entry["means"].items()
                ]
            except (ValueError, KeyError, AttributeError) as error:
                raise EvaluationError(f"{path}, line {number} is damaged ({error!r}); remove it") from error
        columns = ["time", "event", "baseline", "side", "commit", "verdict", "metric", "value"]
        return pd.DataFrame(rows, columns=columns)

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(
            {"time": datetime.now(UTC).isoformat(timespec="seconds")} | entry, ensure_ascii=False
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / HISTORY).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise EvaluationError(f"{self.folder} cannot be written: {error}") from error


def means(side: Side) -> dict[str, float]:
    """Return the mean of each metric over the videos that have a value."""
    found: dict[str, list[float]] = {}
    for row in side.values.values():
        for metric, value in row.items():
            if value.value is not None:
                found.setdefault(metric, []).append(value.value)
    return {metric: sum(values) / len(values) for metric, values in sorted(found.items())}


def plot_history(history: pd.DataFrame, path: Path) -> None:
    """Draw each metric over the recorded commits, one panel a metric, to an SVG, PNG or PDF file.

    Raises:
        EvaluationError: nothing is recorded yet, or the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if history.empty:
        raise EvaluationError("nothing is recorded yet; run `magicvideo compare` with --record first")
    metrics = list(dict.fromkeys(history["metric"]))
    figure, panels = pyplot.subplots(
        len(metrics), 1, figsize=(7, 1.2 + 1.8 * len(metrics)), sharex=True, squeeze=False
    )
    times = list(dict.fromkeys(zip(history["time"], history["side"], strict=True)))
    for panel, metric in zip(panels[:, 0], metrics, strict=True):
        rows = history[history["metric"] == metric]
        places = [times.index(key) for key in zip(rows["time"], rows["side"], strict=True)]
        panel.plot(places, rows["value"], color="#365f8c", lw=1, zorder=1)
        for event, marker in (("promote", "s"), ("compare", "o")):
            chosen = [index for index, name in enumerate(rows["event"]) if name == event]
            failed = [rows["verdict"].iloc[index] == "regression" for index in chosen]
            colours = ["#b3261e" if bad else "#365f8c" for bad in failed]
            panel.scatter(
                [places[i] for i in chosen], rows["value"].iloc[chosen], c=colours, marker=marker, zorder=2
            )
        panel.set_ylabel(metric)
        panel.grid(alpha=0.3)
    shown = history.drop_duplicates(["time", "side"])
    labels = [str(commit or side)[:8] for commit, side in zip(shown["commit"], shown["side"], strict=True)]
    panels[-1, 0].set_xticks(range(len(times)), labels, rotation=45, ha="right")
    figure.suptitle("Squares were promoted to baseline; red is a regression", fontsize=9)
    figure.tight_layout()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be written: {error}; use .svg, .png or .pdf") from error
    finally:
        pyplot.close(figure)
