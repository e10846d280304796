"""Say what a study's votes show: comparisons with their uncertainty, and in words what to beware of."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from arena import caveats
from arena import report_statistics as statistics
from arena.catalogue import system_label
from arena.models import Assignment, Enrolment, Evaluator, Import, Pair, Study, StudyPrompt, Vote
from arena.preference import ClusteredError, Preference, gsb_ratio
from arena.stopping import stopping_report
from arena.studies import get_study
from arena.subgroups import subgroups
from arena.tally import (
    OVERALL,
    CountRow,
    VoteRow,
    collected_votes,
    imported_counts,
    imported_votes,
    systems_by_id,
)

Key = tuple[int, int, str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A candidate against a competitor on one criterion."""

    candidate: str
    competitor: str
    criterion: str
    source: str
    preference: Preference
    clustered: ClusteredError | None
    published_ratio: str | None
    by_method: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the row of a report, as plain JSON values."""
        shown = self.preference
        notes = list(shown.notes)
        if (note := caveats.printed_ratio_note(shown.ratio, self.published_ratio)) is not None:
            notes.append(note)
        return {
            "candidate": self.candidate,
            "competitor": self.competitor,
            "criterion": self.criterion,
            "source": self.source,
            "good": shown.good,
            "same": shown.same,
            "bad": shown.bad,
            "n": shown.n,
            "ratio": shown.ratio,
            "se_log_ratio": shown.se_log_ratio,
            "interval": None if shown.interval is None else list(shown.interval),
            "level": shown.level,
            "interval_method": shown.interval_method,
            "tie_share": shown.tie_share,
            "good_over_bad": shown.good_over_bad,
            "net_preference": shown.net_preference,
            "half_tie_share": shown.half_tie_share,
            "bound": shown.bound,
            "sign_test_p": shown.sign_test_p,
            "exact_p": shown.sign_test_p,
            **self.by_method,
            "outcome": shown.outcome,
            "published_ratio": self.published_ratio,
            "notes": notes,
        }


def study_report(session: Session, slug: str) -> dict[str, Any]:
    """Return everything a report says about a study, as plain JSON values.

    Only votes of people count, and only those of evaluators who were not excluded; the rest is counted in
    ``data_origin``. A pair shown again to the same evaluator counts once; the second vote measures consistency.
    A number that cannot be computed is None, and ``outcome`` or ``notes`` say why.

    Raises:
        StudyError: There is no such study.
    """
    study = get_study(session, slug)
    votes = collected_votes(session, study) if study.kind == "arena" else imported_votes(session, study)
    counts = imported_counts(session, study)
    level = 1 - float(study.protocol.get("alpha", 0.05))
    comparisons = _compare_counts(session, counts, level) + _compare_votes(session, votes, study, level)
    imports = list(session.scalars(select(Import).where(Import.study_id == study.id).order_by(Import.id)))
    origin = _origin(study, votes, counts, imports)
    overall = [
        vote for vote in votes if vote.origin == "human" and not vote.excluded and vote.criterion == OVERALL
    ]
    once = [vote for vote in overall if not vote.repeat]
    design = _design(session, study, votes, comparisons)
    rows = [comparison.to_dict() for comparison in comparisons]
    labels = {key: system_label(system) for key, system in systems_by_id(session).items()}
    warnings = [
        *caveats.about_origin(origin),
        *caveats.about_design(study, design, rows),
        *caveats.about_imports(imports),
        *caveats.about_uncertainty(study, rows, [comparison.clustered for comparison in comparisons]),
        *caveats.about_repeats(votes),
        *caveats.about_order(rows),
    ]
    return {
        "study": study.slug,
        "kind": study.kind,
        "state": study.state,
        "data_origin": origin,
        "design": design,
        "comparisons": rows,
        "ranking": statistics.ranking(
            once,
            [row for row in counts if row.origin == "human" and row.criterion == OVERALL],
            labels,
            estimand=_estimand(study),
            level=level,
        ),
        "subgroups": subgroups(session, study, once, labels, estimand=_estimand(study), level=level),
        "agreement": statistics.agreement_of(overall, names=_pseudonyms(session, study), level=level),
        "stopping": stopping_report(session, study, votes),
        "protocol_missing": _missing(study, votes),
        "warnings": warnings,
    }


def nested_by_method(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report whose comparisons have each error and interval by method, ``shown`` being the default one.

    ``se_log_ratio`` and ``interval`` become objects with naive, evaluator, prompt, two_way, jackknife, bootstrap
    and shown; this is the form of ``study report --json``.
    """
    rows = []
    for row in report["comparisons"]:
        kept = {key: value for key, value in row.items() if not key.endswith("_by_method")}
        errors = {**row["se_by_method"], "shown": row["se_log_ratio"]}
        intervals = {**row["interval_by_method"], "shown": row["interval"]}
        rows.append(kept | {"se_log_ratio": errors, "interval": intervals})
    return report | {"comparisons": rows}


def _estimand(study: Study) -> str:
    return str(study.protocol.get("estimand", "two-way"))


def _pseudonyms(session: Session, study: Study) -> dict[str, str]:
    """Return the pseudonyms of a study's evaluators by what its votes call them."""
    rows = session.execute(
        select(Evaluator.id, Evaluator.pseudonym)
        .join(Enrolment, Enrolment.evaluator_id == Evaluator.id)
        .where(Enrolment.study_id == study.id)
    )
    return {str(row[0]): row[1] for row in rows}


def _missing(study: Study, votes: list[VoteRow]) -> list[str]:
    """Name what a referee asks about a study and its protocol does not say."""
    plan = study.protocol
    if study.kind == "arena":
        asked = {
            "instructions": plan.get("instructions"),
            "consent": plan.get("consent"),
            "training pairs": plan.get("training_pairs"),
            "gold pairs": plan.get("gold_share"),
            "repeated pairs": plan.get("repeat_share"),
        }
        return [name for name, said in asked.items() if not said]
    named = any(vote.evaluator for vote in votes)
    known = {
        "evaluators": plan.get("stated_evaluators") or named,
        "comparisons of each evaluator": plan.get("stated_comparisons") or named,
        "prompts": any(vote.prompt for vote in votes),
    }
    unsaid = (
        "question",
        "instructions on ties",
        "balance of sides",
        "blinding",
        "presentation",
        "exclusions",
    )
    return [name for name, said in known.items() if not said] + list(unsaid)


def _compare_counts(session: Session, counts: list[CountRow], level: float) -> list[Comparison]:
    systems = systems_by_id(session)
    comparisons = []
    for row in counts:
        if row.origin != "human":
            continue
        preference = gsb_ratio(row.good, row.same, row.bad, level=level)
        comparisons.append(
            Comparison(
                candidate=system_label(systems[row.candidate]),
                competitor=system_label(systems[row.competitor]),
                criterion=row.criterion,
                source="counts",
                preference=preference,
                clustered=None,
                published_ratio=row.published_ratio,
                by_method=statistics.by_method(preference, None),
            )
        )
    return comparisons


def _compare_votes(session: Session, votes: list[VoteRow], study: Study, level: float) -> list[Comparison]:
    systems = systems_by_id(session)
    grouped: dict[Key, list[VoteRow]] = {}
    for vote in votes:
        if vote.counts:
            grouped.setdefault((vote.candidate, vote.competitor, vote.criterion), []).append(vote)
    comparisons = []
    for (candidate, competitor, criterion), rows in grouped.items():
        preference, clustered = statistics.compare(rows, _estimand(study), level)
        comparisons.append(
            Comparison(
                candidate=system_label(systems[candidate]),
                competitor=system_label(systems[competitor]),
                criterion=criterion,
                source="votes",
                preference=preference,
                clustered=clustered,
                published_ratio=None,
                by_method=statistics.by_method(preference, clustered, rows, _estimand(study)),
            )
        )
    return comparisons


def _origin(
    study: Study, votes: list[VoteRow], counts: list[CountRow], imports: list[Import]
) -> dict[str, Any]:
    tallied = Counter(vote.origin for vote in votes if not vote.excluded)
    for row in counts:
        tallied[row.origin] += row.good + row.same + row.bad
    imported = "imported counts" if counts else "imported votes"
    return {
        "votes": "collected here" if study.kind == "arena" else imported,
        "human": tallied["human"],
        "simulated": tallied["simulated"],
        "automatic": tallied["automatic"],
        "excluded": sum(vote.excluded for vote in votes),
        "sources": [{"file": item.source, "sha256": item.sha256, "kind": item.kind} for item in imports],
    }


def _design(
    session: Session, study: Study, votes: list[VoteRow], comparisons: list[Comparison]
) -> dict[str, Any]:
    counted = [vote for vote in votes if vote.origin == "human" and not vote.excluded]
    evaluators = {vote.evaluator for vote in counted} - {None}
    prompts = {vote.prompt for vote in counted} - {None}
    observed: dict[str, Any] = {
        "votes": sum(comparison.preference.n for comparison in comparisons),
        "evaluators": len(evaluators) or None,
        "prompts": len(prompts) or None,
    }
    planned: dict[str, Any] = dict(study.protocol)
    if study.kind == "arena":
        pairs, target = session.execute(
            select(func.count(Pair.id), func.sum(Pair.target_votes)).where(
                Pair.study_id == study.id, Pair.kind == "main"
            )
        ).one()
        planned |= {"pairs": pairs, "votes": (target or 0) * len(study.protocol["criteria"])}
        planned["prompts"] = session.scalar(
            select(func.count(StudyPrompt.prompt_id)).where(StudyPrompt.study_id == study.id)
        )
        observed["enrolled"] = session.scalar(
            select(func.count(Enrolment.evaluator_id)).where(Enrolment.study_id == study.id)
        )
        observed["candidate_on_left"] = session.scalar(
            select(func.count(Vote.id))
            .join(Assignment, Assignment.id == Vote.assignment_id)
            .join(Pair, Pair.id == Assignment.pair_id)
            .where(Assignment.study_id == study.id, Assignment.repeat_no == 0, Pair.kind == "main")
            .where(Vote.a_on_left, Vote.origin == "human", Vote.rev == 0, Vote.criterion == OVERALL)
        )
    return {"planned": planned, "observed": observed}
