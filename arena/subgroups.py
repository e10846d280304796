"""The overall preference within groups of evaluators and within categories of prompts.

Each group has its own ratio with its own interval, clustered like that of the whole study. Groups are many looks
at the same votes, so each table has Holm's corrected p beside the plain one and calls itself exploratory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from sqlalchemy import select
from sqlalchemy.orm import Session

from arena.models import Enrolment, Prompt, Study, StudyPrompt
from arena.preference import ClusteredError, Preference
from arena.report_statistics import compare
from arena.tally import VoteRow

NO_GROUP = "(none)"
NOTE = (
    "Exploratory: a study is planned for its whole, and groups differ by chance. Intervals hold one at a time; p is"
    " corrected by Holm over the rows of a table."
)
Memberships = Mapping[str, Sequence[VoteRow]]


def subgroups(
    session: Session,
    study: Study,
    votes: Sequence[VoteRow],
    labels: Mapping[int, str],
    *,
    estimand: str,
    level: float,
) -> dict[str, Any]:
    """Compare systems within groups of evaluators and within categories of prompts.

    Args:
        session: An open session.
        study: The study.
        votes: Votes that count, on the overall criterion.
        labels: Names of systems by identifier.
        estimand, level: As for the whole study.

    Returns:
        "evaluator_groups" and "prompt_categories", each a list of rows as `group_rows` makes them, empty where
        fewer than two groups have votes; "note" says how to read them.
    """
    cohorts = _cohorts(session, study)
    by_cohort: dict[str, list[VoteRow]] = {}
    for vote in votes:
        by_cohort.setdefault(cohorts.get(vote.evaluator or "", "") or NO_GROUP, []).append(vote)
    by_category = {
        name: [vote for vote in votes if vote.prompt in prompts]
        for name, prompts in _categories(session, study).items()
    }
    return {
        "evaluator_groups": group_rows(by_cohort, labels, estimand=estimand, level=level),
        "prompt_categories": group_rows(by_category, labels, estimand=estimand, level=level),
        "note": NOTE,
    }


def _cohorts(session: Session, study: Study) -> dict[str, str]:
    rows = session.execute(
        select(Enrolment.evaluator_id, Enrolment.cohort).where(Enrolment.study_id == study.id)
    )
    return {str(row[0]): row[1] for row in rows}


def _categories(session: Session, study: Study) -> dict[str, set[int]]:
    """Return the prompts of each category that the protocol names."""
    rows = session.execute(
        select(Prompt.text, Prompt.id)
        .join(StudyPrompt, StudyPrompt.prompt_id == Prompt.id)
        .where(StudyPrompt.study_id == study.id)
    )
    ids = {row[0]: row[1] for row in rows}
    named = study.protocol.get("categories", {})
    return {name: {ids[text] for text in texts if text in ids} for name, texts in named.items()}


def group_rows(
    groups: Memberships, labels: Mapping[int, str], *, estimand: str, level: float
) -> list[dict[str, Any]]:
    """Compare each two systems within each group.

    Returns:
        Rows with "group", "candidate", "competitor", "good", "same", "bad", "n", "ratio", "interval", "level",
        "interval_method", "outcome", "evaluators", "prompts", "p" (two-sided, that the ratio is 1, by the error of
        the interval; None where there is no such error) and "p_holm". Nothing when fewer than two groups
        have votes.
    """
    filled = {name: rows for name, rows in groups.items() if rows}
    if len(filled) < 2:
        return []
    found = [
        _row(name, pair, rows, labels, estimand, level)
        for name in sorted(filled)
        for pair, rows in sorted(_by_pair(filled[name]).items())
    ]
    tested = [row for row in found if row["p"] is not None]
    for row, corrected in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = corrected
    return found


def _by_pair(votes: Sequence[VoteRow]) -> dict[tuple[int, int], list[VoteRow]]:
    found: dict[tuple[int, int], list[VoteRow]] = {}
    for vote in votes:
        found.setdefault((vote.candidate, vote.competitor), []).append(vote)
    return found


def _row(
    name: str,
    pair: tuple[int, int],
    votes: Sequence[VoteRow],
    labels: Mapping[int, str],
    estimand: str,
    level: float,
) -> dict[str, Any]:
    shown, clustered = compare(votes, estimand, level)
    kept = ("good", "same", "bad", "n", "ratio", "level", "interval_method", "outcome")
    return {
        "group": name,
        "candidate": labels[pair[0]],
        "competitor": labels[pair[1]],
        **{key: getattr(shown, key) for key in kept},
        "interval": None if shown.interval is None else list(shown.interval),
        "evaluators": len({vote.evaluator for vote in votes} - {None}) or None,
        "prompts": len({vote.prompt for vote in votes} - {None}) or None,
        "p": _p_value(shown, clustered),
        "p_holm": None,
    }


def _p_value(shown: Preference, clustered: ClusteredError | None) -> float | None:
    """Test that the ratio is 1 by the error and the law of its interval."""
    if clustered is None or not shown.ratio or not shown.se_log_ratio:
        return None
    score = abs(float(np.log(shown.ratio))) / shown.se_log_ratio
    freedom = clustered.degrees_of_freedom
    return 2 * float(stats.norm.sf(score) if freedom is None else stats.t.sf(score, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values (Scand. J. Statist. 6, 1979), in the order given."""
    order = np.argsort(p_values)
    raised = np.asarray(p_values, np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raised))
    return adjusted.tolist()
