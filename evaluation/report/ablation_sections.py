"""What a report says about ablations."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.report.blocks import Block, Cell, Clips, Figure, Listed, Section, Shown, Table, Tone, Words
from evaluation.report.figures import preference_figure
from evaluation.report.model import AblationSection, Report
from evaluation.report.numbers import difference, number, ratio, seconds, significant
from evaluation.report.study_sections import interval_ends

TAG = "automatic, no votes"
Row = Mapping[str, Any]


def ablation_sections(report: Report) -> list[Section]:
    """Return a chapter for each ablation."""
    return [section for item in report.ablations for section in ablation_chapter(item)]


def ablation_chapter(ablation: AblationSection) -> list[Section]:
    """Return the sections of one ablation."""
    result, name = ablation.result, ablation.name
    blocks: list[Block] = [
        Words(ablation.answer),
        Words(
            f"{len(result['arms'])} arms on {result['prompts']} prompts and {result['seeds']} seeds. The noise of "
            "every stage is the same in all arms, and so are the outputs of the stages before the one that differs; "
            "what follows it runs on what it gets. Advantages of full are means over prompts of paired differences, "
            "positive is better, with Student's intervals one by one; p is corrected by Holm over all rows with a "
            "direction. Good, Same and Bad are a metric's verdicts by prompt.",
            soft=True,
        ),
    ]
    ends = [row for row in result["rows"] if row["at"] == "end"]
    blocks += _figures(name, ends)
    blocks.append(_arms(f"ablation-{name}", f"Full against each arm, ablation {name}", ends))
    early = [row for row in result["rows"] if row["at"] != "end"]
    if early:
        blocks.append(
            _arms(f"ablation-{name}-at-stage", "The same at the stage itself, before what follows it", early)
        )
    blocks += _steps(name, result) + _factorial(name, result)
    blocks += [Words(_saved(result["cost"], result["saved"])), _cost(name, result["cost"])]
    if result["notes"]:
        blocks.append(Listed("Notes on the ablation", tuple(result["notes"])))
    sections = [Section(f"Ablation {name}", tuple(blocks), tags=(TAG,), anchor=f"ablation-{name}")]
    if ablation.clips:
        clips = Clips(tuple(Shown("", clip.caption, clip.clip) for clip in ablation.clips))
        sections.append(Section(f"Worst, median and best clips, ablation {name}", (clips,), level=3))
    return sections


def _figures(name: str, rows: Sequence[Row]) -> list[Block]:
    """Draw the automatic verdicts on the first metric, in the paper's form but never as votes."""
    judged = [row for row in rows if row["preference"] is not None]
    first = [
        row
        for row in judged
        if (row["metric"], row["signature"]) == (judged[0]["metric"], judged[0]["signature"])
    ]
    if not first:
        return []
    comparisons = [
        row["preference"]
        | {"candidate": "full", "competitor": row["arm"], "criterion": "overall", "n": row["advantage"]["n"]}
        for row in first
    ]
    metric = first[0]["metric"]
    return [
        Figure(
            f"ablation-{name}",
            f"Verdicts of {metric} by prompt, full against each arm. Automatic: nobody voted.",
            f"Automatic verdicts of {metric}: shares of good, same and bad prompts of full against each arm",
            lambda: preference_figure(comparisons, counted=f"prompts by {metric}, automatic"),
        )
    ]


def _arms(name: str, caption: str, rows: Sequence[Row]) -> Table:
    people = any(row["human"] for row in rows)
    head: tuple[str, ...] = (
        "Arm",
        "Metric",
        "Full",
        "Arm's",
        "Advantage of full",
        "p (Holm)",
        "G/S/B",
        "(G+S)/(B+S), automatic",
    )
    ways: dict[str, set[str]] = {}
    for row in rows:
        ways.setdefault(row["metric"], set()).add(row["signature"])
    cells = []
    for row in rows:
        found, tone = row["preference"], _tone(row)
        metric = row["metric"] + (f", {_way(row['signature'])}" if len(ways[row["metric"]]) > 1 else "")
        cells.append(
            (
                Cell(row["arm"] + ("" if row["at"] == "end" else f" at {row['at']}")),
                Cell(metric),
                Cell(significant(row["full"])),
                Cell(significant(row["without"])),
                Cell(effect(row["advantage"]), tone),
                Cell("–" if row["p_holm"] is None else f"{row['p_holm']:.3g}"),
                Cell("–" if found is None else f"{found['good']}/{found['same']}/{found['bad']}"),
                Cell("–" if found is None else ratio(found["ratio"], found["interval"], "none bad or same")),
                *([_people(row["human"])] if people else []),
            )
        )
    head = (*head, "(G+S)/(B+S), people") if people else head
    return Table(name, caption, head, tuple(cells), tuple(_record(row) for row in rows), left=2)


def _way(signature: str) -> str:
    """Name the part of a signature that tells two measurements of one ablation apart: its frames."""
    part = next((part for part in signature.split("|") if part.startswith("sampling:")), signature)
    return {"sampling:native": "own frame rate"}.get(part, part.removeprefix("sampling:").replace(":", " "))


def _people(found: Row | None) -> Cell:
    if not found:
        return Cell("no votes yet", "soft")
    return Cell(
        ratio(found["ratio"], found["interval"], "none bad or same") + f", {found['n']:,} votes", "key"
    )


def _tone(row: Row) -> Tone:
    if row["p_holm"] is None or row["p_holm"] > 0.05:
        return ""
    return "ahead" if row["advantage"]["mean"] > 0 else "behind"


def _record(row: Row) -> dict[str, Any]:
    record = {
        key: row[key] for key in ("arm", "at", "metric", "signature", "direction", "unit", "full", "without")
    }
    record |= {f"advantage_{key}": value for key, value in row["advantage"].items()}
    record |= {"p_holm": row["p_holm"], "left_out": row["left_out"]}
    for name, title in (("preference", "automatic"), ("human", "people")):
        found = row[name] or {}
        record |= {f"{title}_{key}": found.get(key) for key in ("good", "same", "bad", "ratio")}
        record |= {f"{title}_{key}": value for key, value in interval_ends(found.get("interval")).items()}
    return record


def effect(found: Row) -> str:
    """Write a mean with its interval."""
    alone = " (1 prompt)" if found["low"] is None or found["high"] is None else ""
    return difference(found["mean"], found["low"], found["high"]) + alone


def _steps(name: str, result: Row) -> list[Block]:
    return _effects(
        f"ablation-{name}-steps",
        "Parts added one after the other: gain, positive is better",
        ("Added", "Metric", "Gain"),
        result["steps"],
        ("added", "metric"),
    )


def _factorial(name: str, result: Row) -> list[Block]:
    return _effects(
        f"ablation-{name}-factorial",
        "Factorial design: main effects, interactions, and Shapley shares, which add up to all parts against none",
        ("", "Part", "Metric", "Worth"),
        result["factorial"],
        ("kind", "name", "metric"),
    )


def _effects(
    name: str, caption: str, head: tuple[str, ...], rows: Sequence[Row], keys: tuple[str, ...]
) -> list[Block]:
    if not rows:
        return []
    cells = tuple((*(Cell(row[key]) for key in keys), Cell(effect(row["effect"]))) for row in rows)
    records = tuple({key: row[key] for key in (*keys, "signature")} | row["effect"] for row in rows)
    return [Table(name, caption, head, cells, records, left=len(keys))]


def _saved(cost: Row, saved: float) -> str:
    return (
        f"{seconds(cost['spent'])} instead of {seconds(cost['whole'])}: outputs that arms have in common were made "
        f"once, which saved {saved:.0%}; {len(cost['arms'])} full runs would have taken {seconds(cost['full_runs'])}."
    )


def _cost(name: str, cost: Row) -> Table:
    stages = list(dict.fromkeys(stage for arm in cost["arms"].values() for stage in arm["by_stage"]))
    head = (
        "Arm",
        *(f"{stage}, s a video" for stage in stages),
        "All videos, from the start",
        "As it was",
        "Peak memory",
    )
    rows, records = [], []
    for arm, spent in cost["arms"].items():
        peak = spent["peak_memory"]
        rows.append(
            (
                Cell(arm),
                *(Cell(number(spent["by_stage"].get(stage))) for stage in stages),
                Cell(seconds(spent["whole"])),
                Cell(seconds(spent["spent"])),
                Cell("–" if peak is None else f"{peak / 2**30:.2f} GiB"),
            )
        )
        by_stage = {f"{stage}_seconds": spent["by_stage"].get(stage) for stage in stages}
        records.append(
            {"arm": arm, **by_stage, "whole": spent["whole"], "spent": spent["spent"], "peak_memory": peak}
        )
    return Table(f"ablation-{name}-cost", "What each arm costs", head, tuple(rows), tuple(records))
