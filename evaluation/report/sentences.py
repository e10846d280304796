"""The report's answers in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.report.model import AutomaticComparison, StudySection
from evaluation.report.numbers import difference, ratio

Comparison = Mapping[str, Any]


def ratio_text(comparison: Comparison) -> str:
    """Write a ratio with its interval, or the reason why there is none."""
    absent = str(comparison.get("outcome") or "not computable")
    return ratio(comparison["ratio"], comparison["interval"], absent)


def verdict(comparison: Comparison) -> str:
    """Name what the interval says: ``ahead``, ``behind`` or ``undecided``."""
    low, high = comparison["interval"] or (None, None)
    if low is not None and low > 1:
        return "ahead"
    if high is not None and high < 1:
        return "behind"
    return "undecided"


def study_answer(
    name: str,
    state: str,
    comparisons: Sequence[Comparison],
    vote_command: str,
) -> str:
    """Say in one sentence what a study found, or that nobody has voted yet."""
    counted = [item for item in comparisons if item["n"]]
    if not counted:
        how = f": vote with {vote_command}" if state == "open" else f"; it is {state}"
        return f"No votes yet in study {name}{how}."
    overall = [item for item in counted if item["criterion"] == "overall"] or counted
    votes = sum(item["n"] for item in overall)
    tail = f"{votes:,} human votes"
    if len(overall) == 1:
        return _one(overall[0], tail)
    if len({item["candidate"] for item in overall}) == 1:
        return _several(overall, tail)
    ahead = sum(verdict(item) != "undecided" for item in overall)
    return f"{len(overall)} pairs of systems were compared, {ahead} of them with a clear winner; {tail}."


def ablation_answer(result: Mapping[str, Any]) -> str:
    """Say in one sentence what taking a part out does to the first metric with a direction."""
    rows = [row for row in result["rows"] if row["at"] == "end" and row["direction"] != "neutral"]
    first = [
        row for row in rows if (row["metric"], row["signature"]) == (rows[0]["metric"], rows[0]["signature"])
    ]
    if not first:
        return "No metric of this ablation says what is better."
    sign = -1 if first[0]["direction"] == "lower" else 1
    parts = []
    for row in sorted(first, key=lambda item: -abs(item["advantage"]["mean"])):
        effect = row["advantage"]
        ends = [effect["low"], effect["high"]]
        low, high = sorted(-sign * end for end in ends) if None not in ends else ends
        parts.append(f"{difference(-sign * effect['mean'], low, high)} for {row['arm']}")
    unit = f" ({first[0]['unit']})" if first[0]["unit"] else ""
    return (
        f"Automatic, no votes: against full, {first[0]['metric']}{unit} changes by {', '.join(parts)}; "
        f"{first[0]['advantage']['n']} prompts, intervals one by one."
    )


def comparison_answer(comparisons: Sequence[AutomaticComparison]) -> str | None:
    """Say in one sentence what the first metric with an interval shows, None without one."""
    item = next((item for item in comparisons if item.interval and item.direction != "neutral"), None)
    if item is None or item.interval is None or item.difference is None:
        return None
    low, high = item.interval
    others = len({other.competitor for other in comparisons}) - 1
    more = f"; {others} other systems below" if others else ""
    return (
        f"Automatic, no votes: {item.title} of {item.candidate} minus {item.competitor} is "
        f"{difference(item.difference, low, high)} on {item.n} prompts, {item.direction} is better{more}."
    )


def headline(
    sections: Sequence[StudySection], automatic: Sequence[str] = (), *, videos: int = 0, scores: int = 0
) -> str:
    """Pick the sentence a reader should see first: votes before automatic values, both before advice.

    Args:
        sections: the studies.
        automatic: what ablations and metrics say, in sentences.
        videos: number of videos.
        scores: number of metric values.
    """
    voted = [section for section in sections if section.votes]
    if voted:
        here = [item for item in voted if item.data_origin.get("votes") == "collected here"]
        return max(here or voted, key=lambda item: item.votes).answer
    if automatic:
        return automatic[0]
    if sections:
        return sections[0].answer
    if videos:
        seen = "automatic scores" if scores else "unscored videos"
        return (
            f"Nobody has been asked yet: this database holds {videos:,} videos with {seen}, but no "
            "preference study. Make one with magicvideo study create."
        )
    return (
        "This database is empty: it holds no study, no video and no score. Begin with make demo, or bring in "
        "votes with magicvideo study import."
    )


def _one(item: Comparison, tail: str) -> str:
    meaning = {
        "ahead": f"{item['candidate']} was preferred to {item['competitor']}",
        "behind": f"{item['candidate']} lost to {item['competitor']}",
        "undecided": f"Whether {item['candidate']} or {item['competitor']} is better is not decided",
    }[verdict(item)]
    return f"{meaning}: (G+S)/(B+S) = {ratio_text(item)}, {tail}."


def _several(items: Sequence[Comparison], tail: str) -> str:
    groups: dict[str, list[Comparison]] = {"ahead": [], "undecided": [], "behind": []}
    for item in items:
        groups[verdict(item)].append(item)
    candidate = items[0]["candidate"]
    if len(groups["ahead"]) == len(items):
        opening = f"{candidate} was preferred to all {len(items)} competitors"
    elif len(groups["behind"]) == len(items):
        opening = f"All {len(items)} competitors were preferred to {candidate}"
    else:
        words = {"ahead": "preferred to", "undecided": "not decided against", "behind": "behind"}
        parts = [
            f"{words[key]} {', '.join(str(item['competitor']) for item in group)}"
            for key, group in groups.items()
            if group
        ]
        opening = f"{candidate} was {', '.join(parts)}"
    known = sorted((item for item in items if item["ratio"] is not None), key=lambda item: item["ratio"])
    if len(known) < 2:
        return f"{opening}; {tail}."
    low, high = known[0], known[-1]
    return (
        f"{opening}: (G+S)/(B+S) from {ratio_text(low)} against {low['competitor']} to {ratio_text(high)} "
        f"against {high['competitor']}, {tail}."
    )
