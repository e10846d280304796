"""Turn the votes of a study into the ranking, the agreement and the errors by method of its report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from arena.agreement import Coefficient, Ratings, agreement, repeat_consistency
from arena.preference import (
    ClusteredError,
    Preference,
    bootstrap_ratio,
    clustered_se,
    count_outcomes,
    gsb_ratio,
    interval_by_method,
    sign_flip_test,
)
from arena.ranking import (
    PairCounts,
    Ranking,
    count_pairs,
    pair_counts,
    rank_systems,
    redraw_counts,
    resample_pairs,
)
from arena.reliability import evaluator_reliability
from arena.resampling import Floats, encode
from arena.tally import CountRow, VoteRow

METHODS = ("naive", "evaluator", "prompt", "two_way", "jackknife", "bootstrap")
AGREEMENT = (
    "pairwise",
    "alpha_nominal",
    "alpha_ordinal",
    "ac2",
    "repeat_consistency",
    "side_swap_consistency",
)
RESAMPLES = 1000


def compare(rows: Sequence[VoteRow], estimand: str, level: float) -> tuple[Preference, ClusteredError | None]:
    """Compute the ratio of votes between two systems, and its errors where it is neither zero nor infinite."""
    outcomes = np.array([row.outcome for row in rows], np.int64)
    good, same, bad = count_outcomes(outcomes)
    clustered = None
    if good + bad > 0 and good + same > 0 and bad + same > 0:
        clustered = clustered_se(outcomes, *identifiers(rows, estimand))
    return gsb_ratio(good, same, bad, level=level, clustered=clustered), clustered


def by_method(
    shown: Preference, error: ClusteredError | None, rows: Sequence[VoteRow] = (), estimand: str = "two-way"
) -> dict[str, Any]:
    """Return the errors and intervals of a comparison by every method its identifiers allow.

    Returns:
        "se_by_method" and "interval_by_method", each with `METHODS` (None where a method cannot be used),
        and "sign_flip_p", the test of G = B that lets votes of one evaluator go together.
    """
    errors: dict[str, float | None] = dict.fromkeys(METHODS)
    intervals: dict[str, Any] = dict.fromkeys(METHODS)
    flip = None
    if error is None:
        if shown.interval_method == "naive":
            errors["naive"], intervals["naive"] = shown.se_log_ratio, shown.interval
    else:
        errors |= {name: getattr(error, name) for name in METHODS if name != "bootstrap"}
        intervals |= interval_by_method(shown.good, shown.same, shown.bad, error, shown.level)
    if rows and shown.outcome == "ok":
        outcomes = np.array([row.outcome for row in rows], np.int64)
        evaluators, prompts = identifiers(rows, estimand)
        drawn = bootstrap_ratio(outcomes, evaluators, prompts, resamples=RESAMPLES, level=shown.level)
        if drawn is not None:
            errors["bootstrap"], intervals["bootstrap"] = drawn.standard_error, drawn.interval
        flip = None if evaluators is None else sign_flip_test(outcomes, evaluators)
    listed = {name: None if pair is None else list(pair) for name, pair in intervals.items()}
    return {"se_by_method": errors, "interval_by_method": listed, "sign_flip_p": flip}


def identifiers(rows: Sequence[VoteRow], estimand: str) -> tuple[list[str] | None, list[int] | None]:
    """Return evaluators and prompts of votes where all are known; a fixed prompt suite is not redrawn."""
    evaluators = [row.evaluator for row in rows if row.evaluator is not None]
    prompts = [row.prompt for row in rows if row.prompt is not None]
    return (
        evaluators if len(evaluators) == len(rows) else None,
        prompts if len(prompts) == len(rows) and estimand != "evaluator" else None,
    )


def ranking(
    votes: Sequence[VoteRow],
    counts: Sequence[CountRow],
    labels: Mapping[int, str],
    *,
    estimand: str = "two-way",
    level: float = 0.95,
) -> dict[str, Any] | None:
    """Rank the systems of a study by the votes of people on one criterion.

    Args:
        votes: Votes to count; counts are used only when there are none.
        counts: Published counts.
        labels: Names of systems by identifier.
        estimand: "evaluator" keeps the prompts when studies are redrawn.
        level: Confidence of the rank intervals together.

    Returns:
        Plain JSON values; None when there is nothing to rank.
    """
    if votes:
        pairs, drawn, redrawn = _from_votes(votes, labels, estimand)
    elif any(row.good + row.same + row.bad for row in counts):
        rows = [
            (labels[row.candidate], labels[row.competitor], row.good, row.same, row.bad) for row in counts
        ]
        pairs = pair_counts(rows)
        drawn, redrawn = redraw_counts(pairs, resamples=RESAMPLES), "votes within each pair"
    else:
        return None
    found = rank_systems(pairs, resampled=drawn, error_method=redrawn, level=level)
    side = None
    sides = sides_of(votes)
    if sides is not None and found.log_likelihood is not None:
        side = _side_effect(votes, sides, labels, estimand, level)
    others = [
        ("davidson, a tie parameter for each pair", rank_systems(pairs, ties_by_pair=True)),
        ("rao-kupper", rank_systems(pairs, model="rao-kupper")),
        ("bradley-terry, ties halved", rank_systems(pairs, model="bradley-terry")),
    ]
    return {
        "model": found.model,
        **_by_system(found),
        "nu": found.nu,
        "log_likelihood": found.log_likelihood,
        "goodness_of_fit": _fit(found),
        "side_effect": side,
        "components": [list(group) for group in found.components],
        "level": level,
        "redrawn": found.error_method,
        "resamples": found.resamples,
        "failed_resamples": found.failed_resamples,
        "alternatives": [
            {
                "model": name,
                "strength": dict(zip(other.systems, other.strength, strict=True)),
                "log_likelihood": other.log_likelihood,
                "goodness_of_fit": _fit(other),
                "nu_by_pair": [list(row) for row in other.nu_by_pair],
            }
            for name, other in others
        ],
        "notes": [*found.notes, *_fit_notes(found)],
    }


def _by_system(found: Ranking) -> dict[str, Any]:
    names = found.systems
    places = [None if place is None else list(place) for place in found.rank_interval]
    return {
        "systems": list(names),
        "strength": dict(zip(names, found.strength, strict=True)),
        "standard_error": dict(zip(names, found.standard_error, strict=True)),
        "ranks": dict(zip(names, found.rank, strict=True)),
        "rank_intervals": dict(zip(names, places, strict=True)),
    }


def _fit(found: Ranking) -> dict[str, Any] | None:
    return None if found.goodness_of_fit is None else asdict(found.goodness_of_fit)


def _fit_notes(found: Ranking) -> list[str]:
    fit, notes = found.goodness_of_fit, []
    if fit is not None and fit.p is not None and fit.p < 0.01:
        notes.append(
            f"One tie parameter and one strength per system do not describe these votes (G2 {fit.statistic:.1f},"
            f" df {fit.degrees_of_freedom}, votes taken as independent): compare the alternative with a tie"
            " parameter for each pair."
        )
    if found.failed_resamples:
        notes.append(
            f"{found.failed_resamples} of {found.resamples} redrawn studies have no finite strengths and are left out."
        )
    return notes


def _coded(votes: Sequence[VoteRow], estimand: str) -> tuple[dict[str, Any], str]:
    evaluators, prompts = identifiers(votes, estimand)
    named = [name for name, ids in (("evaluators", evaluators), ("prompts", prompts)) if ids is not None]
    codes = {
        "evaluators": None if evaluators is None else encode(evaluators),
        "prompts": None if prompts is None else encode(prompts),
    }
    return codes, " and ".join(named) or "votes"


def _from_votes(
    votes: Sequence[VoteRow], labels: Mapping[int, str], estimand: str
) -> tuple[PairCounts, Floats, str]:
    first, second, outcomes, names = _arrays(votes, labels)
    pairs = count_pairs(first, second, outcomes, names)
    codes, redrawn = _coded(votes, estimand)
    drawn = resample_pairs(pairs, first, second, outcomes, resamples=RESAMPLES, **codes)
    return pairs, drawn, redrawn


def _arrays(votes: Sequence[VoteRow], labels: Mapping[int, str]) -> tuple[Any, Any, Any, list[str]]:
    ids = list(dict.fromkeys(system for vote in votes for system in (vote.candidate, vote.competitor)))
    place = {system: number for number, system in enumerate(ids)}
    first = np.array([place[vote.candidate] for vote in votes], np.int64)
    second = np.array([place[vote.competitor] for vote in votes], np.int64)
    outcomes = np.array([vote.outcome for vote in votes], np.int64)
    return first, second, outcomes, [labels[system] for system in ids]


def _side_effect(
    votes: Sequence[VoteRow],
    sides: Sequence[bool],
    labels: Mapping[int, str],
    estimand: str,
    level: float,
) -> dict[str, Any] | None:
    first, second, outcomes, names = _arrays(votes, labels)
    on_left = np.asarray(sides, bool)
    if on_left.all() or not on_left.any():
        return None
    left, right = np.where(on_left, first, second), np.where(on_left, second, first)
    outcomes = np.where(on_left, outcomes, -outcomes)
    pairs = count_pairs(left, right, outcomes, names, sides=True)
    codes, redrawn = _coded(votes, estimand)
    drawn = resample_pairs(pairs, left, right, outcomes, resamples=RESAMPLES, **codes)
    found = rank_systems(pairs, side_effect=True, resampled=drawn, error_method=redrawn, level=level)
    return None if found.side_effect is None else _plain(asdict(found.side_effect))


def sides_of(votes: Sequence[VoteRow]) -> list[bool] | None:
    """Say of each vote whether its candidate was on the left; None where that is not known of all."""
    sides = [vote.on_left for vote in votes if vote.on_left is not None]
    return sides if votes and len(sides) == len(votes) else None


def agreement_of(
    votes: Sequence[VoteRow], *, names: Mapping[str, str] | None = None, level: float = 0.95
) -> dict[str, Any]:
    """Say how far evaluators agree on the same pair of videos, and each with himself on repeated ones.

    An evaluator's first vote on a pair counts for agreement; a second one is compared with the first.

    Args:
        votes: Votes on one criterion, repeated ones among them.
        names: What to call evaluators, by what votes call them; those names by default.
        level: Confidence of the intervals.

    Returns:
        "units", "evaluators", the coefficients of `AGREEMENT` (None where votes do not allow them),
        "reliability" (see `reliability_of`), "notes".
    """
    report: dict[str, Any] = {"units": 0, "evaluators": 0, **dict.fromkeys(AGREEMENT)}
    report |= {"reliability": None, "notes": []}
    if not votes or any(vote.evaluator is None or vote.prompt is None for vote in votes):
        report["notes"] = ["Agreement needs votes that name their evaluator and prompt."]
        return report
    people = encode([str(vote.evaluator) for vote in votes])
    pairs = [(vote.prompt, *sorted((vote.candidate, vote.competitor))) for vote in votes]
    units = encode(pairs)
    turned = np.array([-1 if vote.candidate > vote.competitor else 1 for vote in votes])
    categories = 1 + turned * np.array([vote.outcome for vote in votes])
    sides = sides_of(votes)
    left = None if sides is None else np.asarray(sides, bool) ^ (turned < 0)
    order: dict[tuple[int, int], int] = {}
    first = np.array(
        [
            order.setdefault(key, place)
            for place, key in enumerate(zip(units.tolist(), people.tolist(), strict=True))
        ]
    )
    once = first == np.arange(len(first))
    prompt_of = {unit: pair[0] for unit, pair in zip(units.tolist(), pairs, strict=True)}
    ratings = Ratings(
        units=units[once],
        evaluators=people[once],
        categories=categories[once],
        category_count=3,
        clusters=encode([prompt_of[unit] or 0 for unit in range(len(prompt_of))]),
    )
    report |= {"units": len(prompt_of), "evaluators": int(people.max()) + 1}
    report["reliability"] = reliability_of([votes[place] for place in np.flatnonzero(once).tolist()], names)
    found = agreement(ratings, resamples=RESAMPLES, level=level)
    if found["pairwise"].pairs:
        report |= {name: _shown(coefficient) for name, coefficient in found.items()}
    else:
        report["notes"].append("No pair of videos was judged by two evaluators.")
    again = np.flatnonzero(~once)
    if len(again):
        before = first[again]
        verdicts = (people[again], categories[before], categories[again])
        report["repeat_consistency"] = _shown(repeat_consistency(*verdicts, level=level))
        swapped = np.zeros(len(again), bool) if left is None else left[before] != left[again]
        if swapped.any():
            report["side_swap_consistency"] = _shown(
                repeat_consistency(
                    *(part[swapped] for part in verdicts), name="side-swap consistency", level=level
                )
            )
    return report


def reliability_of(votes: Sequence[VoteRow], names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Say how far each evaluator's answers follow the videos; see `arena.reliability`.

    Args:
        votes: Votes on one criterion that name evaluator and prompt, without repetitions.
        names: What to call evaluators, by what votes call them; those names by default.

    Returns:
        "model", "habits" ("sides", or "verdicts" where sides are not known), "evaluators" by name with "votes",
        "value", "standard_error", "p" and "uninformative", and "uninformative", the names of those who are.
    """
    people = [str(vote.evaluator) for vote in votes]
    answers = np.array([1 - vote.outcome for vote in votes], np.int64)
    sides = sides_of(votes)
    clicks = answers if sides is None else np.where(np.asarray(sides, bool), answers, 2 - answers)
    units = encode([(vote.prompt, vote.candidate, vote.competitor) for vote in votes])
    codes = encode(people)
    found = evaluator_reliability(units, codes, answers, clicks)
    errors = [float(error) if np.isfinite(error) else None for error in found.standard_error]
    columns = (
        [(names or {}).get(name, name) for name in dict.fromkeys(people)],
        np.bincount(codes).tolist(),
        found.value.tolist(),
        errors,
        found.p.tolist(),
        found.uninformative.tolist(),
    )
    keys = ("votes", "value", "standard_error", "p", "uninformative")
    rows = {name: dict(zip(keys, row, strict=True)) for name, *row in zip(*columns, strict=True)}
    return {
        "model": "latent verdicts and habits (MACE)",
        "habits": "verdicts" if sides is None else "sides",
        "evaluators": rows,
        "uninformative": [name for name, row in rows.items() if row["uninformative"]],
    }


def _shown(coefficient: Coefficient) -> dict[str, Any]:
    return _plain(asdict(coefficient))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
