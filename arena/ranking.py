"""Rank two or more systems from votes between pairs of them, ties included.

Models, with log-strengths x and a first system i against a second system j:

* Davidson (JASA 1970): win : tie : loss = exp(x_i) : nu exp((x_i + x_j)/2) : exp(x_j);
* Rao and Kupper (JASA 1967): P(win) = 1/(1 + theta exp(x_j - x_i)), P(loss) likewise, a tie is the rest;
* Bradley and Terry (Biometrika 1952): P(win) = 1/(1 + exp(x_j - x_i)), a tie is half a win for either.

A side effect (Davidson and Beaver, Biometrics 1977) adds a constant to x_i of the system shown on the left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse, stats
from scipy.sparse import csgraph

from arena.paired_models import Cells, Fit, Model, fit
from arena.resampling import VOTES_AT_ONCE, Floats, resampled_tables

ELO = 400 / math.log(10)


@dataclass(frozen=True, kw_only=True)
class PairCounts:
    """Votes between pairs of systems.

    Attributes:
        systems: Names of the systems.
        first: ``(C,)`` index of the first system of each pair; the one on the left when sides are kept.
        second: ``(C,)`` index of the other.
        counts: ``(C, 3)`` wins of the first, ties, wins of the second.
        sides: Whether (i, j) and (j, i) are kept apart.
    """

    systems: tuple[str, ...]
    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    counts: Floats
    sides: bool = False


@dataclass(frozen=True, kw_only=True)
class GoodnessOfFit:
    """The likelihood ratio G2 of the model against one free distribution for every pair.

    ``p`` takes votes as independent: clustered votes make it too small.
    """

    statistic: float
    degrees_of_freedom: int
    p: float | None


@dataclass(frozen=True, kw_only=True)
class SideEffect:
    """What being shown on the left adds to a log-strength, with its interval."""

    value: float
    standard_error: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Strengths of systems, and how far their order can be trusted.

    Attributes:
        model: Name of the model.
        systems: Names of the systems; the next four go by them.
        strength: Log-strengths, zero on average within a component; None for a system alone in its own.
        standard_error: Their standard errors, by ``error_method``.
        rank: Place within the component, 1 the strongest.
        rank_interval: Simultaneous interval of the place within the component.
        nu: Tie parameter, common to all pairs; theta for Rao and Kupper; None when each pair has its own.
        nu_by_pair: (first, second, nu) of each pair when each has its own.
        log_likelihood: Sum of log-probabilities of the votes (with ties halved, for Bradley and Terry).
        goodness_of_fit: None when the model leaves nothing to test.
        side_effect: None unless it was asked for.
        components: Groups of systems that wins and ties connect in both directions.
        error_method: What was redrawn for the errors, or "naive".
        resamples, failed_resamples: Studies drawn, and those among them without finite strengths.
        notes: What to beware of, in sentences.
    """

    model: Model
    systems: tuple[str, ...]
    strength: tuple[float | None, ...]
    standard_error: tuple[float | None, ...]
    rank: tuple[int | None, ...]
    rank_interval: tuple[tuple[int, int] | None, ...]
    level: float
    nu: float | None
    nu_by_pair: tuple[tuple[str, str, float], ...]
    log_likelihood: float | None
    goodness_of_fit: GoodnessOfFit | None
    side_effect: SideEffect | None
    components: tuple[tuple[str, ...], ...]
    error_method: str
    resamples: int
    failed_resamples: int
    notes: tuple[str, ...]

    def elo(self, anchor: str) -> tuple[float | None, ...]:
        """Return strengths on the Elo scale (400 points a factor of ten), relative to ``anchor``."""
        zero = self.strength[self.systems.index(anchor)]
        return tuple(None if x is None or zero is None else ELO * (x - zero) for x in self.strength)


def count_pairs(
    first: npt.NDArray[np.integer],
    second: npt.NDArray[np.integer],
    outcomes: npt.NDArray[np.integer],
    systems: Sequence[str],
    *,
    sides: bool = False,
) -> PairCounts:
    """Count votes by pair of systems.

    Args:
        first: ``(N,)`` index into ``systems``.
        second: ``(N,)`` index into ``systems``, never the same as ``first``.
        outcomes: ``(N,)`` +1 the first won, 0 tie, -1 the second won.
        systems: Names, at least two.
        sides: Keep apart which of the two came first (was on the left).

    Raises:
        ValueError: An index or outcome is out of range, or a system meets itself.
    """
    size = len(systems)
    totals = np.zeros(size * size * 3, np.int64)
    for start in range(0, len(outcomes), VOTES_AT_ONCE):
        part = slice(start, start + VOTES_AT_ONCE)
        totals += np.bincount(_cells(first[part], second[part], outcomes[part], size), minlength=len(totals))
    table = np.zeros(len(totals))
    np.add.at(table, _canonical(size, sides), totals)
    if table.reshape(size, size, 3)[np.arange(size), np.arange(size)].any():
        raise ValueError("first and second must be two different systems")
    return _pair_counts(table.reshape(-1, 3), systems, sides)


def pair_counts(rows: Sequence[tuple[str, str, float, float, float]]) -> PairCounts:
    """Make pair counts of rows (first, second, wins of the first, ties, wins of the second)."""
    systems = tuple(dict.fromkeys(name for row in rows for name in row[:2]))
    table = np.zeros((len(systems), len(systems), 3))
    for first, second, *counts in rows:
        i, j = systems.index(first), systems.index(second)
        if i == j:
            raise ValueError(f"{first!r} cannot meet itself")
        table[min(i, j), max(i, j)] += counts if i < j else counts[::-1]
    return _pair_counts(table.reshape(-1, 3), systems, False)


def _cells(
    first: npt.NDArray[np.integer],
    second: npt.NDArray[np.integer],
    outcomes: npt.NDArray[np.integer],
    size: int,
) -> npt.NDArray[np.int64]:
    """Number the (first, second, outcome) of each vote, from first's win to second's."""
    for name, values, low, high in (
        ("first", first, 0, size - 1),
        ("second", second, 0, size - 1),
        ("outcomes", outcomes, -1, 1),
    ):
        if len(values) and not low <= int(values.min()) <= int(values.max()) <= high:
            raise ValueError(f"{name} must lie from {low} to {high}")
    cells = first.astype(np.int64)
    cells *= size
    cells += second
    cells *= 3
    cells -= outcomes
    cells += 1
    return cells


def _canonical(size: int, sides: bool) -> npt.NDArray[np.int64]:
    """Say where each cell of `_cells` is counted: without sides, where the lower index comes first."""
    cells = np.arange(size * size * 3).reshape(size, size, 3)
    if not sides:
        low, high = np.tril_indices(size, -1)
        cells[low, high] = cells[high, low][:, ::-1]
    return cells.ravel()


def _pair_counts(table: Floats, systems: Sequence[str], sides: bool) -> PairCounts:
    met = np.flatnonzero(table.sum(axis=1) > 0)
    return PairCounts(
        systems=tuple(systems),
        first=met // len(systems),
        second=met % len(systems),
        counts=table[met],
        sides=sides,
    )


def resample_pairs(
    pairs: PairCounts,
    first: npt.NDArray[np.integer],
    second: npt.NDArray[np.integer],
    outcomes: npt.NDArray[np.integer],
    *,
    evaluators: npt.NDArray[np.integer] | None = None,
    prompts: npt.NDArray[np.integer] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Floats:
    """Count votes by pair in studies redrawn from this one; see `arena.resampling.resampled_tables`.

    Returns:
        ``(resamples, C, 3)`` counts, in the order of ``pairs``.
    """
    size = len(pairs.systems)
    place = np.full(size * size, -1, np.int64)
    place[pairs.first * size + pairs.second] = np.arange(len(pairs.first))
    canonical = _canonical(size, pairs.sides)
    slot = (place[canonical // 3] * 3 + canonical % 3).astype(np.int16 if size < 100 else np.int32)
    cells = np.empty(len(outcomes), slot.dtype)
    for start in range(0, len(outcomes), VOTES_AT_ONCE):
        part = slice(start, start + VOTES_AT_ONCE)
        cells[part] = slot[_cells(first[part], second[part], outcomes[part], size)]
    drawn = resampled_tables(
        cells,
        3 * len(pairs.first),
        evaluators=evaluators,
        prompts=prompts,
        resamples=resamples,
        seed=seed,
    )
    return drawn.reshape(resamples, -1, 3)


def redraw_counts(pairs: PairCounts, *, resamples: int = 1000, seed: int = 0) -> Floats:
    """Redraw single votes within each pair, when only counts are known: ``(resamples, C, 3)``."""
    generator = np.random.default_rng(seed)
    totals = pairs.counts.sum(axis=1)
    drawn = [
        generator.multinomial(round(total), row / total, size=resamples)
        for total, row in zip(totals, pairs.counts, strict=True)
    ]
    return np.stack(drawn, axis=1).astype(np.float64)


def rank_systems(
    pairs: PairCounts,
    *,
    model: Model = "davidson",
    ties_by_pair: bool = False,
    side_effect: bool = False,
    resampled: Floats | None = None,
    error_method: str = "naive",
    level: float = 0.95,
) -> Ranking:
    """Fit a model of paired comparison, and say which places the systems can take.

    Systems are ranked together only within a component: a group in which each system is reached from each
    other along wins and ties. Otherwise strengths have no finite maximum likelihood estimate.

    Args:
        pairs: Votes by pair.
        model: "davidson", "rao-kupper" or "bradley-terry".
        ties_by_pair: Give each pair a tie parameter of its own (Davidson only).
        side_effect: Estimate what being first adds; ``pairs`` must keep sides.
        resampled: ``(B, C, 3)`` counts of redrawn studies, for errors and rank intervals; without them
            errors are those of independent votes and there are no rank intervals.
        error_method: What was redrawn, in words, for the record.
        level: Confidence of all rank intervals together.

    Raises:
        ValueError: Options contradict one another.
    """
    if ties_by_pair and model != "davidson":
        raise ValueError(f"ties_by_pair needs the model 'davidson', received {model!r}")
    if side_effect and not pairs.sides:
        raise ValueError("side_effect needs counts that keep sides")
    groups = _components(pairs)
    label = np.empty(len(pairs.systems), np.int64)
    for number, group in enumerate(groups):
        label[group] = number
    within = label[pairs.first] == label[pairs.second]
    decided = pairs.counts[within][:, [0, 2]].sum()
    cells = Cells(
        first=pairs.first[within],
        second=pairs.second[within],
        groups=groups,
        side_effect=side_effect,
        ties_by_pair=ties_by_pair,
    )
    if not within.any() or decided == 0:
        return _unranked(pairs, model, groups, level, _notes(pairs, groups, decided=False))
    found = fit(cells, pairs.counts[within][None], model)
    drawn = None if resampled is None else fit(cells, resampled[:, within], model, start=found)
    return _ranking(pairs, cells, model, found, drawn, within, level, error_method)


def _ranking(
    pairs: PairCounts,
    cells: Cells,
    model: Model,
    found: Fit,
    drawn: Fit | None,
    within: npt.NDArray[np.bool_],
    level: float,
    error_method: str,
) -> Ranking:
    size, groups = len(pairs.systems), cells.groups
    strength = found.strength[0]
    kept = np.empty((0, size)) if drawn is None else drawn.strength[drawn.converged]
    redrawn = len(kept) > 1
    errors = kept.std(axis=0, ddof=1) if redrawn else found.standard_error
    rank: list[int | None] = [None] * size
    interval: list[tuple[int, int] | None] = [None] * size
    for group in (members for members in groups if len(members) > 1):
        order = stats.rankdata(-strength[group], method="min")
        places = rank_intervals(strength[group], kept[:, group], level) if redrawn else None
        for place, system in enumerate(group):
            rank[system] = int(order[place])
            interval[system] = None if places is None else places[place]
    alone = {group[0] for group in groups if len(group) == 1}
    names = pairs.systems
    ties = found.ties[0]
    by_pair = [
        (names[i], names[j], float(nu)) for i, j, nu in zip(cells.first, cells.second, ties, strict=True)
    ]
    common = not cells.ties_by_pair and model != "bradley-terry"
    return Ranking(
        model=model,
        systems=names,
        strength=tuple(None if i in alone else float(x) for i, x in enumerate(strength)),
        standard_error=tuple(None if i in alone else float(x) for i, x in enumerate(errors)),
        rank=tuple(rank),
        rank_interval=tuple(interval),
        level=level,
        nu=float(ties[0]) if common else None,
        nu_by_pair=tuple(by_pair) if cells.ties_by_pair else (),
        log_likelihood=float(found.log_likelihood[0]),
        goodness_of_fit=_goodness_of_fit(pairs.counts[within], found, model),
        side_effect=_side_effect(found, drawn, level) if cells.side_effect else None,
        components=tuple(tuple(names[i] for i in group) for group in groups),
        error_method=error_method if redrawn else "naive",
        resamples=0 if drawn is None else len(drawn.converged),
        failed_resamples=0 if drawn is None else int((~drawn.converged).sum()),
        notes=_notes(pairs, groups, decided=True),
    )


def _unranked(
    pairs: PairCounts,
    model: Model,
    groups: Sequence[npt.NDArray[np.int64]],
    level: float,
    notes: tuple[str, ...],
) -> Ranking:
    nothing = (None,) * len(pairs.systems)
    return Ranking(
        model=model,
        systems=pairs.systems,
        strength=nothing,
        standard_error=nothing,
        rank=nothing,
        rank_interval=nothing,
        level=level,
        nu=None,
        nu_by_pair=(),
        log_likelihood=None,
        goodness_of_fit=None,
        side_effect=None,
        components=tuple(tuple(pairs.systems[i] for i in group) for group in groups),
        error_method="none",
        resamples=0,
        failed_resamples=0,
        notes=notes,
    )


def rank_intervals(strength: Floats, resampled: Floats, level: float) -> list[tuple[int, int]]:
    """Say which places each system can take, so that all statements hold together at ``level``.

    Two systems are told apart when their difference exceeds q standard errors, q the ``level`` quantile over
    redrawn studies of the largest studentised error of any difference (max-t). The best place of a system is
    one more than the number of systems told to be above it (Mogstad, Romano, Shaikh and Wilhelm 2024).

    Args:
        strength: ``(K,)`` estimates.
        resampled: ``(B, K)`` estimates in redrawn studies.
        level: Confidence, in (0, 1).

    Returns:
        (best, worst) place of each system, from 1 to K.
    """
    i, j = np.triu_indices(len(strength), 1)
    difference = strength[i] - strength[j]
    error = resampled[:, i] - resampled[:, j] - difference
    spread = np.maximum(error.std(axis=0, ddof=1), 1e-12)
    bound = float(np.quantile(np.abs(error / spread).max(axis=1), level))
    told = np.abs(difference) > bound * spread
    above, below = np.where(difference > 0, i, j)[told], np.where(difference > 0, j, i)[told]
    best = 1 + np.bincount(below, minlength=len(strength))
    worst = len(strength) - np.bincount(above, minlength=len(strength))
    return [(int(low), int(high)) for low, high in zip(best, worst, strict=True)]


def _components(pairs: PairCounts) -> tuple[npt.NDArray[np.int64], ...]:
    """Group systems that wins and ties connect in both directions, larger groups first."""
    size = len(pairs.systems)
    beats = np.zeros((size, size), np.int8)
    won, tied, lost = (pairs.counts > 0).T
    beats[pairs.first, pairs.second] |= won | tied
    beats[pairs.second, pairs.first] |= lost | tied
    count, label = csgraph.connected_components(sparse.csr_array(beats), connection="strong")
    groups = [np.flatnonzero(label == number) for number in range(count)]
    return tuple(sorted(groups, key=lambda group: (-len(group), group[0])))


def _goodness_of_fit(counts: Floats, found: Fit, model: Model) -> GoodnessOfFit | None:
    """Return 2 * sum of n log(n / expected); for halved ties there is no such test."""
    tied = counts[:, 1].sum() > 0
    if model == "bradley-terry" and tied:
        return None
    share = counts / counts.sum(axis=1, keepdims=True)
    best = float(np.where(counts > 0, counts * np.log(np.where(counts > 0, share, 1)), 0).sum())
    freedom = len(counts) * (2 if tied else 1) - found.free_parameters
    statistic = 2 * (best - float(found.log_likelihood[0]))
    p = float(stats.chi2.sf(statistic, freedom)) if freedom > 0 else None
    return GoodnessOfFit(statistic=statistic, degrees_of_freedom=freedom, p=p)


def _side_effect(found: Fit, drawn: Fit | None, level: float) -> SideEffect:
    value = float(found.side[0])
    kept = np.empty(0) if drawn is None else drawn.side[drawn.converged]
    error = float(kept.std(ddof=1)) if len(kept) > 1 else found.side_error
    reach = float(stats.norm.ppf(0.5 + level / 2)) * error
    return SideEffect(value=value, standard_error=error, interval=(value - reach, value + reach))


def _notes(pairs: PairCounts, groups: Sequence[npt.NDArray[np.int64]], *, decided: bool) -> tuple[str, ...]:
    """Say what the graph of comparisons does not allow."""
    names, notes = pairs.systems, []
    if len(groups) > 1:
        listed = " | ".join(", ".join(names[i] for i in group) for group in groups)
        notes.append(
            f"Wins and ties do not connect all systems in both directions: {listed}. Systems of different"
            " groups are not ranked together."
        )
    edges = {frozenset(pair) for pair in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)}
    graph = sparse.coo_array(
        (np.ones(len(pairs.first)), (pairs.first, pairs.second)), shape=(len(names),) * 2
    )
    islands = csgraph.connected_components(graph, directed=False)[0]
    if islands > 1:
        notes.append(f"The comparisons fall into {islands} parts that share no system.")
    elif len(edges) == len(names) - 1 and len(names) > 2:
        shared = set.intersection(*map(set, edges))
        design = f"a star around {names[shared.pop()]}" if shared else "a tree"
        notes.append(
            f"The design is {design}: systems meet along one path only, so whether preferences are"
            " transitive cannot be tested."
        )
    if not decided and len(groups) < len(names):
        notes.append("Every vote within a group is a tie: nothing is known about the order.")
    return tuple(notes)
