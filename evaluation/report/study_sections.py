"""What a report says about preference studies."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.report.blocks import (
    Block,
    Cell,
    Figure,
    Folded,
    Listed,
    Section,
    Table,
    Tone,
    Warnings,
    Words,
)
from evaluation.report.figures import preference_figure
from evaluation.report.model import Report, StudySection
from evaluation.report.numbers import between, number, percent
from evaluation.report.sentences import verdict

INTRODUCTION = (
    "Good, Same and Bad are votes for, undecided about, and against the candidate. (G+S)/(B+S) above 1 means the "
    "candidate is preferred; an interval that holds 1 leaves it open."
)
METHODS = {
    "naive": "naive, which takes all votes as independent",
    "evaluator": "clustered by evaluator",
    "prompt": "clustered by prompt",
    "two-way": "clustered by evaluator and prompt",
}
COEFFICIENTS = {
    "pairwise": "equal verdicts of two evaluators",
    "alpha_nominal": "Krippendorff's α, nominal",
    "alpha_ordinal": "Krippendorff's α, ordinal",
    "ac2": "Gwet's AC2",
    "repeat_consistency": "same verdict on a repeated pair",
    "side_swap_consistency": "same verdict with sides exchanged",
}
PLAIN = ("candidate", "competitor", "criterion", "good", "same", "bad", "n", "ratio")


def study_sections(report: Report) -> list[Section]:
    """Return the chapter on preference, empty without studies."""
    if not report.studies:
        return []
    return [
        Section("Preference", (Words(INTRODUCTION, soft=True),)),
        *(_section(item) for item in report.studies),
    ]


def _section(study: StudySection) -> Section:
    blocks: list[Block] = [Words(study.answer)]
    if study.votes:
        blocks += [_figure(study), _comparisons(study), Words(_method(study), soft=True)]
        blocks += [Warnings(study.warnings)] if study.warnings else []
        notes = tuple(
            dict.fromkeys(note for item in study.comparisons if item["n"] for note in item["notes"])
        )
        blocks += [Listed("Notes on the numbers", notes)] if notes else []
        blocks += _ranking(study) + _agreement(study)
    blocks += _protocol(study)
    return Section(study.name, tuple(blocks), level=3, tags=tags_of(study), anchor=f"study-{study.name}")


def tags_of(study: StudySection) -> tuple[str, ...]:
    """Return where votes come from, what is not of people, and the study's state."""
    others = [
        f"{study.data_origin[kind]:,} {kind} votes, not counted"
        for kind in ("simulated", "automatic")
        if study.data_origin.get(kind)
    ]
    return (study.data_origin["votes"], *others, study.state)


def _figure(study: StudySection) -> Figure:
    counted = [item for item in study.comparisons if item["n"]]
    return Figure(
        f"preference-{study.name}",
        "Shares of votes, and (G+S)/(B+S) with its interval; the dashed line is 1, no preference.",
        "Shares of good, same and bad votes, and the preference ratio of each pair",
        lambda: preference_figure(counted),
    )


def _comparisons(study: StudySection) -> Table:
    head = (
        "Candidate",
        "Competitor",
        "Good",
        "Same",
        "Bad",
        "Votes",
        "(G+S)/(B+S)",
        "Interval",
        "Ties",
        "G/B",
        "Net pref.",
    )
    rows = [_comparison(item) for item in study.comparisons]
    planned = study.design["planned"].get("candidate", "")
    nothing = (Cell("no votes yet", "soft"), *(Cell("") for _ in head[3:]))
    rows += [(Cell(planned), Cell(name), *nothing) for name in study.unvoted]
    records = [
        {key: item[key] for key in PLAIN}
        | interval_ends(item["interval"])
        | {
            key: item[key]
            for key in ("level", "interval_method", "tie_share", "good_over_bad", "net_preference")
        }
        | {"outcome": item["outcome"], "published_ratio": item["published_ratio"]}
        for item in study.comparisons
    ]
    records += [{"candidate": planned, "competitor": name, "n": 0} for name in study.unvoted]
    return Table(
        f"preference-{study.name}",
        f"Preference, study {study.name}",
        head,
        tuple(rows),
        tuple(records),
        left=2,
    )


def _comparison(item: Mapping[str, Any]) -> tuple[Cell, ...]:
    what = item["competitor"] + ("" if item["criterion"] == "overall" else f" ({item['criterion']})")
    tones: dict[str, Tone] = {"ahead": "ahead", "behind": "behind", "undecided": "key"}
    return (
        Cell(item["candidate"]),
        Cell(what),
        *(Cell(number(item[key], 0)) for key in ("good", "same", "bad", "n")),
        Cell(item["outcome"] if item["ratio"] is None else number(item["ratio"]), tones[verdict(item)]),
        Cell(between(item["interval"])),
        Cell(percent(item["tie_share"])),
        Cell(number(item["good_over_bad"])),
        Cell(percent(item["net_preference"])),
    )


def interval_ends(interval: Sequence[float | None] | None) -> dict[str, float | None]:
    """Return an interval as two plain values."""
    low, high = interval or (None, None)
    return {"low": low, "high": high}


def _method(study: StudySection) -> str:
    used = dict.fromkeys(item["interval_method"] for item in study.comparisons if item["n"])
    words = f"Intervals: {', '.join(METHODS.get(name, name) for name in used)}."
    for source in study.data_origin["sources"]:
        words += f" Source: {source['file']}, sha256 {source['sha256'][:12]}."
    return words


def _ranking(study: StudySection) -> list[Block]:
    found = study.ranking
    if found is None:
        return []
    order = sorted(found["systems"], key=lambda name: (found["ranks"][name] is None, found["ranks"][name]))
    if len(order) < 3:
        return []  # a pair is its own ranking
    places = {name: found["rank_intervals"][name] for name in order}
    rows = tuple(
        (
            Cell(name),
            Cell("–" if found["ranks"][name] is None else str(found["ranks"][name])),
            Cell("–" if places[name] is None else " to ".join(map(str, places[name]))),
            Cell(number(found["strength"][name])),
            Cell(number(found["standard_error"][name])),
        )
        for name in order
    )
    records = tuple(
        {
            "system": name,
            "rank": found["ranks"][name],
            "rank_low": (places[name] or [None, None])[0],
            "rank_high": (places[name] or [None, None])[1],
            "strength": found["strength"][name],
            "standard_error": found["standard_error"][name],
        }
        for name in order
    )
    caption = (
        f"Ranking, study {study.name}: {found['model'].title()} strengths; ranks hold together with "
        f"{found['level']:.0%} confidence, {found['resamples']:,} studies redrawn over {found['redrawn']}"
    )
    head = ("System", "Rank", "Rank between", "Strength", "Standard error")
    table = Table(f"ranking-{study.name}", caption, head, rows, records)
    notes = tuple(found["notes"])
    return [table, *([Listed("Notes on the ranking", notes)] if notes else [])]


def _agreement(study: StudySection) -> list[Block]:
    found = study.agreement
    measured = [(title, found[key]) for key, title in COEFFICIENTS.items() if found.get(key)]
    if not measured:
        reasons = " ".join(found.get("notes", ()))
        return (
            [Words(f"Agreement between evaluators: not computable. {reasons}", soft=True)] if reasons else []
        )
    rows = tuple(
        (
            Cell(title),
            Cell(number(item["value"], 3)),
            Cell(
                "–" if item["interval"] is None else " to ".join(number(end, 3) for end in item["interval"])
            ),
            Cell(f"{item['pairs']:,}"),
        )
        for title, item in measured
    )
    records = tuple(
        {
            "coefficient": item["name"],
            "value": item["value"],
            **interval_ends(item["interval"]),
            "pairs": item["pairs"],
        }
        for _, item in measured
    )
    caption = (
        f"Agreement, study {study.name}: {found['evaluators']:,} evaluators on {found['units']:,} pairs of videos; "
        f"{measured[0][1]['level']:.0%} intervals"
    )
    head = ("Coefficient", "Value", "Interval", "Pairs of votes")
    absent = [title for key, title in COEFFICIENTS.items() if not found.get(key)]
    blocks: list[Block] = [Table(f"agreement-{study.name}", caption, head, rows, records)]
    if absent:
        blocks.append(Words(f"Not computable from these votes: {', '.join(absent)}.", soft=True))
    return blocks


def _protocol(study: StudySection) -> list[Block]:
    stated = [item for item in study.protocol if item.value is not None]
    missing = [item.name for item in study.protocol if item.value is None]
    rows = tuple((Cell(item.name), Cell(item.value or "")) for item in stated)
    records = tuple({"field": item.name, "value": item.value} for item in study.protocol)
    table = Table(
        f"protocol-{study.name}", f"Protocol, study {study.name}", ("Field", "As done"), rows, records, left=2
    )
    blocks: list[Block] = [Folded("Protocol", (table,))]
    if missing:
        blocks.append(Words(f"Protocol fields that nothing states: {', '.join(missing)}.", soft=True))
    return blocks
