"""Metrics beside votes: a metric's verdicts on the pairs people voted on, and how far both agree."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from arena.tally import OVERALL, VoteRow
from evaluation.report.metric_tables import Groups, MetricNames, by_prompt, signature_of
from evaluation.report.model import BesideVotes, MetricAgreement, StudySection
from evaluation.report.pseudo import PAPER_BAND, pseudo_votes
from metrics import agreement as statistics
from metrics.stillness import asks_for_motion

Floats = NDArray[np.float64]
HELD_OUT_BAND = "people's tie rate on the other pairs of systems"


@dataclass(frozen=True)
class _Pair:
    """One pair of systems on one metric: per prompt a difference, and the votes on it.

    Attributes:
        differences: ``(P,)``, positive where the candidate is better.
        decided: ``(P,)`` +1, 0, -1 where a frozen video decides, NaN elsewhere.
        votes: outcomes of each prompt by evaluator.
    """

    candidate: str
    competitor: str
    prompts: tuple[str, ...]
    differences: Floats
    decided: Floats
    votes: tuple[Mapping[str, int], ...]

    @property
    def outcomes(self) -> Floats:
        """All votes, one after the other."""
        return np.array([vote for cast in self.votes for vote in cast.values()], np.float64)

    @property
    def repeated(self) -> Floats:
        """The difference behind each vote."""
        return self.differences.repeat([len(cast) for cast in self.votes])

    def verdicts(self, band: float) -> NDArray[np.int64]:
        """Return the metric's verdict of each prompt."""
        judged = statistics.pseudo_verdicts(self.differences, band)
        return np.where(np.isnan(self.decided), judged, np.nan_to_num(self.decided)).astype(np.int64)


def beside_votes(
    study: StudySection,
    votes: Sequence[VoteRow],
    groups: Groups,
    names: Mapping[str, MetricNames],
    labels: Mapping[int, str],
    prompts: Mapping[int, str],
) -> tuple[list[BesideVotes], list[MetricAgreement]]:
    """Set every metric that judges videos beside the votes of one study.

    Args:
        study: the study's section.
        votes: its votes; those of people on the overall criterion count, each once.
        groups: score rows of videos by system and metric.
        names: of the metrics.
        labels: names of systems by identifier.
        prompts: texts by identifier.
    """
    cast: dict[tuple[str, str], dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for number, vote in enumerate(votes):
        if vote.origin != "human" or vote.excluded or vote.repeat or vote.criterion != OVERALL:
            continue
        if vote.prompt is not None:
            key = labels[vote.candidate], labels[vote.competitor]
            cast[key][prompts[vote.prompt]][vote.evaluator or f"vote {number}"] = vote.outcome
    rows: list[BesideVotes] = []
    found: list[MetricAgreement] = []
    for metric, named in names.items():
        if named.direction == "neutral":
            continue
        pairs = [_pair(groups, metric, named, *key, cast[key]) for key in cast]
        known = [pair for pair in pairs if pair is not None]
        if known:
            bands, source = _bands(known)
            shown = [
                _row(study, metric, named, pair, band, source)
                for pair, band in zip(known, bands, strict=True)
            ]
            rows += shown
            found.append(_agreement(study, metric, named, known, bands, shown))
    return rows, found


def _pair(
    groups: Groups,
    metric: str,
    named: MetricNames,
    candidate: str,
    competitor: str,
    cast: Mapping[str, Mapping[str, int]],
) -> _Pair | None:
    """Return the pair where both were measured the same way on a prompt somebody voted on."""
    ours, theirs = groups.get((candidate, metric), []), groups.get((competitor, metric), [])
    if not ours or not theirs or signature_of(ours) != signature_of(theirs):
        return None
    values = by_prompt(ours), by_prompt(theirs)
    still = [_still(groups, system) for system in (candidate, competitor)]
    kept, differences, decided = [], [], []
    for prompt in cast:
        frozen = [prompt in stopped and asks_for_motion(prompt) for stopped in still]
        if any(frozen):
            differences.append(0.0)
            decided.append(float(frozen[1]) - float(frozen[0]))
        elif prompt in values[0] and prompt in values[1]:
            sign = -1 if named.direction == "lower" else 1
            differences.append(sign * (values[0][prompt] - values[1][prompt]))
            decided.append(np.nan)
        else:
            continue
        kept.append(prompt)
    if not kept:
        return None
    votes = tuple(cast[prompt] for prompt in kept)
    return _Pair(candidate, competitor, tuple(kept), np.array(differences), np.array(decided), votes)


def _still(groups: Groups, system: str) -> set[str]:
    return {prompt for prompt, value in by_prompt(groups.get((system, "static"), [])).items() if value == 1}


def _bands(pairs: Sequence[_Pair]) -> tuple[list[float], str]:
    """Fit each pair's band on the others; with one pair there is nothing to fit it on but the paper."""
    if len(pairs) < 2:
        return [statistics.tie_band(pair.differences) for pair in pairs], PAPER_BAND
    bands = statistics.held_out_bands([pair.repeated for pair in pairs], [pair.outcomes for pair in pairs])
    return bands, HELD_OUT_BAND


def _row(
    study: StudySection, metric: str, named: MetricNames, pair: _Pair, band: float, source: str
) -> BesideVotes:
    people = next(
        row
        for row in study.comparisons
        if (row["candidate"], row["competitor"], row["criterion"])
        == (pair.candidate, pair.competitor, OVERALL)
    )
    return BesideVotes(
        study=study.name,
        candidate=pair.candidate,
        competitor=pair.competitor,
        metric=metric,
        title=named.title,
        people={key: people[key] for key in ("good", "same", "bad", "n", "ratio", "interval")},
        pseudo=pseudo_votes(pair.verdicts(band), pair.prompts, band, source),
    )


def _agreement(
    study: StudySection,
    metric: str,
    named: MetricNames,
    pairs: Sequence[_Pair],
    bands: Sequence[float],
    rows: Sequence[BesideVotes],
) -> MetricAgreement:
    # Each pair has a band of its own; in units of it all differences can stand in one table. A band of 0 is none.
    if all(bands):
        scaled = [pair.repeated / band for pair, band in zip(pairs, bands, strict=True)]
        differences, band = np.concatenate(scaled), 1.0
    else:
        differences, band = np.concatenate([pair.repeated for pair in pairs]), float(np.median(bands))
    decided = np.concatenate([pair.decided.repeat([len(cast) for cast in pair.votes]) for pair in pairs])
    extreme = np.abs(differences).max() + 1  # a frozen video loses by more than any difference of values
    differences = np.where(np.isnan(decided), differences, np.nan_to_num(decided) * extreme)
    human = np.concatenate([pair.outcomes for pair in pairs])
    measures = asdict(statistics.agreement(differences, human, band))
    return MetricAgreement(
        study=study.name,
        metric=metric,
        title=named.title,
        measures=measures,
        human_ceiling=_ceiling(pairs),
        log_ratio_correlation=_correlation(rows),
        soft_pairwise_accuracy=_soft_accuracy(pairs),
    )


def _ceiling(pairs: Sequence[_Pair]) -> float | None:
    people = {
        name: place for place, name in enumerate({e: 0 for pair in pairs for c in pair.votes for e in c})
    }
    cast = [votes for pair in pairs for votes in pair.votes]
    table = np.full((len(cast), len(people)), np.nan)
    for row, votes in enumerate(cast):
        for evaluator, outcome in votes.items():
            table[row, people[evaluator]] = outcome
    if table.shape[1] < 2 or (~np.isnan(table)).sum(1).max() < 2:
        return None
    return statistics.human_ceiling(table)


def _correlation(rows: Sequence[BesideVotes]) -> float | None:
    """Return Spearman's correlation of log ratios over pairs of systems."""
    from scipy.stats import spearmanr

    known = [
        (row.people["ratio"], row.pseudo.ratio) for row in rows if row.people["ratio"] and row.pseudo.ratio
    ]
    people, automatic = (np.log(np.array(side)) for side in zip(*known, strict=True)) if known else ((), ())
    if len(known) < 3 or np.ptp(people) == 0 or np.ptp(automatic) == 0:
        return None
    return float(spearmanr(people, automatic).statistic)


def _soft_accuracy(pairs: Sequence[_Pair]) -> float | None:
    """Return the soft pairwise accuracy of the candidate and its competitors, if all have the same prompts."""
    first = pairs[0]
    if any((pair.candidate, pair.prompts) != (first.candidate, first.prompts) for pair in pairs):
        return None
    means = [[float(np.mean(list(cast.values()))) for cast in pair.votes] for pair in pairs]
    nothing = np.zeros(len(first.prompts))  # every system is held against the candidate
    human = np.stack([nothing, *(-np.array(row) for row in means)])
    automatic = np.stack([nothing, *(-pair.differences for pair in pairs)])
    return statistics.soft_pairwise_accuracy(human, automatic)


def unanswered(metrics: bool, agreed: Sequence[MetricAgreement]) -> str | None:
    """Say why metrics do not stand beside votes."""
    if agreed or not metrics:
        return None
    return (
        "No pair of systems has both votes of people and values of a metric on the same prompts, so how far the "
        "metrics agree with people is not known here. Without votes to fit it on, the band of Same is set by "
        f"{PAPER_BAND}."
    )
