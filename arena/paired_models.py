"""Maximum likelihood of models of paired comparison by Newton's method, for many tables of counts at once.

All three models see a pair through D = x_i - x_j (+ side effect) and a tie parameter e, and their
log-likelihoods are concave in both. `Cells` says which D and e belong to which counts; the Hessian is put
together from sparse outer products, so a thousand redrawn studies cost little more than one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse, special

from arena.resampling import Floats

Model = Literal["davidson", "rao-kupper", "bradley-terry"]
Indices = npt.NDArray[np.int64]
DIVERGED = 15.0
"""A log-strength beyond this has run away: its system won, or lost, everything it could."""
STEPS = 40
HALVINGS = 12
TOLERANCE = 1e-18


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Which systems meet in which row of counts.

    Attributes:
        first, second: ``(C,)`` indices of systems; first is on the left when there is a side effect.
        groups: Indices of the systems that are centred together; they cover all systems.
        side_effect: Whether D has a constant in favour of the first.
        ties_by_pair: Whether each unordered pair has its own tie parameter.
    """

    first: Indices
    second: Indices
    groups: tuple[Indices, ...]
    side_effect: bool
    ties_by_pair: bool

    @property
    def systems(self) -> int:
        """Return the number of systems."""
        return sum(len(group) for group in self.groups)


class Terms(NamedTuple):
    """Log-likelihood of each table, and its derivatives by D and e of each cell (second ones negated)."""

    value: Floats
    by_d: Floats
    by_e: Floats
    by_dd: Floats
    by_de: Floats
    by_ee: Floats


@dataclass(frozen=True, kw_only=True)
class Design:
    """How parameters (strengths, side effect, tie parameters) make D and e of each row of counts."""

    to_d: sparse.csr_array
    to_e: sparse.csr_array
    outer_dd: sparse.csr_array
    outer_de: sparse.csr_array
    outer_ee: sparse.csr_array
    centre: Floats
    absent: npt.NDArray[np.bool_]
    terms: Callable[[Floats, Floats, Floats], Terms]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Estimates for ``B`` tables of counts; errors are those of the first, votes taken as independent."""

    strength: Floats
    ties: Floats
    side: Floats
    log_likelihood: Floats
    converged: npt.NDArray[np.bool_]
    free_parameters: int
    standard_error: Floats
    side_error: float
    parameters: Floats
    design: Design


def fit(cells: Cells, counts: Floats, model: Model, start: Fit | None = None) -> Fit:
    """Fit a model to ``B`` tables of counts.

    Args:
        cells: Which systems meet in which row.
        counts: ``(B, C, 3)`` wins of the first, ties, wins of the second.
        model: Bradley and Terry count a tie as half a win for either side.
        start: A fit to begin from, of the same cells and model.
    """
    if model == "bradley-terry":
        half = counts[..., 1] / 2
        counts = np.stack([counts[..., 0] + half, np.zeros_like(half), counts[..., 2] + half], axis=-1)
    design = _design(cells, counts, model) if start is None else start.design
    if start is None:
        parameters = np.zeros((len(counts), design.to_d.shape[1]))
        parameters[:, cells.systems + cells.side_effect :] = _first_ties(counts, model)
    else:
        parameters = np.repeat(start.parameters[:1], len(counts), axis=0)
    parameters, terms, converged = _newton(design, counts, parameters)
    return _read(cells, design, counts, model, parameters, terms, converged)


def _first_ties(counts: Floats, model: Model) -> float:
    """Return the tie parameter of equal systems with the tie share of all tables together."""
    share = float(np.clip(counts[..., 1].sum() / max(counts.sum(), 1), 1e-3, 1 - 1e-3))
    ratio = (1 + share) / (1 - share) if model == "rao-kupper" else 2 * share / (1 - share)
    return float(np.log(ratio))


def _design(cells: Cells, counts: Floats, model: Model) -> Design:
    """Lay out strengths, side effect and tie parameters; a tie parameter without ties is left out."""
    rows = np.arange(len(cells.first))
    systems, side = cells.systems, int(cells.side_effect)
    low, high = np.minimum(cells.first, cells.second), np.maximum(cells.first, cells.second)
    pair = np.unique(low * systems + high, return_inverse=True)[1].ravel()
    owner = pair if cells.ties_by_pair else np.zeros_like(pair)
    tied = np.bincount(owner, weights=counts[..., 1].sum(axis=0)) > 0
    absent = ~tied[owner]
    number = np.cumsum(tied) - 1
    width = systems + side + int(tied.sum())
    sign = np.ones(len(rows))
    entries = [(sign, rows, cells.first), (-sign, rows, cells.second)]
    if side:
        entries.append((sign, rows, np.full(len(rows), systems)))
    to_d = _sparse(entries, (len(rows), width))
    present = np.flatnonzero(~absent)
    to_e = _sparse([(np.ones(len(present)), present, systems + side + number[owner[present]])], to_d.shape)
    centre = np.zeros((width, width))
    for group in cells.groups:
        centre[np.ix_(group, group)] = 1 / len(group)
    return Design(
        to_d=to_d,
        to_e=to_e,
        outer_dd=_outer(to_d, to_d),
        outer_de=_outer(to_d, to_e) + _outer(to_e, to_d),
        outer_ee=_outer(to_e, to_e),
        centre=centre,
        absent=absent,
        terms=_rao_kupper if model == "rao-kupper" and not absent.all() else _davidson,
    )


def _sparse(entries: list[tuple[Floats, Indices, Indices]], shape: tuple[int, int]) -> sparse.csr_array:
    values, rows, columns = (np.concatenate(part) for part in zip(*entries, strict=True))
    return sparse.csr_array((values, (rows, columns)), shape=shape)


def _outer(left: sparse.csr_array, right: sparse.csr_array) -> sparse.csr_array:
    """Return, for each row, the outer product of two sparse rows as one long sparse row."""
    width = left.shape[1]
    a, b = left.tocoo(), right.tocoo()
    by_row: dict[int, list[tuple[int, float]]] = {}
    for row, column, value in zip(b.row, b.col, b.data, strict=True):
        by_row.setdefault(int(row), []).append((int(column), float(value)))
    found = [
        (value * other, int(row), int(column) * width + place)
        for row, column, value in zip(a.row, a.col, a.data, strict=True)
        for place, other in by_row.get(int(row), ())
    ]
    data = np.array([entry[0] for entry in found], np.float64)
    rows = np.array([entry[1] for entry in found], np.int64)
    columns = np.array([entry[2] for entry in found], np.int64)
    return sparse.csr_array((data, (rows, columns)), shape=(left.shape[0], width * width))


def _davidson(d: Floats, e: Floats, counts: Floats) -> Terms:
    """Win, tie, loss have logits D, D/2 + e, 0: a multinomial logit with scores 1, 1/2, 0 for D."""
    top = np.maximum(np.maximum(d, 0), d / 2 + e)
    win, tie, loss = np.exp(d - top), np.exp(d / 2 + e - top), np.exp(-top)
    scale = win + tie + loss
    win, tie, loss = win / scale, tie / scale, loss / scale
    mean = win + tie / 2
    n = counts.sum(axis=-1)
    probabilities = np.stack([win, tie, loss], axis=-1)
    return Terms(
        value=special.xlogy(counts, probabilities).sum(axis=(-1, -2)),
        by_d=counts[..., 0] + counts[..., 1] / 2 - n * mean,
        by_e=counts[..., 1] - n * tie,
        by_dd=n * (win + tie / 4 - mean**2),
        by_de=n * (tie / 2 - mean * tie),
        by_ee=n * tie * (1 - tie),
    )


def _rao_kupper(d: Floats, e: Floats, counts: Floats) -> Terms:
    """P(win) = s(D - e), P(loss) = s(-D - e), P(tie) = (exp(2e) - 1) P(win) P(loss), s the logistic law."""
    win, loss = special.expit(d - e), special.expit(-d - e)
    first, second = counts[..., 0] + counts[..., 1], counts[..., 1] + counts[..., 2]
    safe = np.where(e > 0, e, 1.0)
    room = -np.expm1(-2 * safe)
    value = special.xlogy(first, win) + special.xlogy(second, loss)
    value = value + counts[..., 1] * (2 * safe + np.log(room))
    a, b = first * win * (1 - win), second * loss * (1 - loss)
    return Terms(
        value=np.where(e > 0, value, -np.inf).sum(axis=-1),
        by_d=first * (1 - win) - second * (1 - loss),
        by_e=-first * (1 - win) - second * (1 - loss) + counts[..., 1] * 2 / room,
        by_dd=a + b,
        by_de=b - a,
        by_ee=a + b + counts[..., 1] * 4 * np.exp(-2 * safe) / room**2,
    )


def _evaluate(design: Design, counts: Floats, parameters: Floats) -> Terms:
    ties = np.where(design.absent, -np.inf, _spread(design.to_e, parameters))
    return design.terms(_spread(design.to_d, parameters), ties, counts)


def _spread(matrix: sparse.csr_array, parameters: Floats) -> Floats:
    """Return a ``(C, P)`` sparse matrix times ``(B, P)`` parameters, as ``(B, C)``."""
    return np.ascontiguousarray((matrix @ parameters.T).T)


def _gather(matrix: sparse.csr_array, values: Floats) -> Floats:
    """Return ``(B, C)`` values times a ``(C, P)`` sparse matrix, as ``(B, P)``."""
    return np.ascontiguousarray((matrix.T @ values.T).T)


def _slopes(design: Design, terms: Terms) -> tuple[Floats, Floats]:
    """Return gradient ``(B, P)`` and information ``(B, P, P)``, made invertible by centring the groups."""
    gradient = _gather(design.to_d, terms.by_d) + _gather(design.to_e, terms.by_e)
    information = _gather(design.outer_dd, terms.by_dd) + _gather(design.outer_ee, terms.by_ee)
    information += _gather(design.outer_de, terms.by_de)
    width = gradient.shape[1]
    information = information.reshape(-1, width, width)
    # A resample of few votes may hold none, or none that tell two systems apart: the floor and the ridge leave its
    # step finite; where the gradient is zero the step is too, so the maximum does not move.
    scale = np.maximum(np.trace(information, axis1=1, axis2=2) / width, 1e-9)[:, None, None]
    return gradient, information + scale * (design.centre + 1e-12 * np.eye(width))


def _variance(design: Design, terms: Terms) -> Floats:
    """Return the diagonal of the inverse information of the first table, strengths centred by group."""
    _, information = _slopes(design, terms)
    width = design.centre.shape[0]
    project = np.eye(width) - design.centre
    inverse = np.linalg.inv(information[0])
    return np.asarray(np.diag(project @ inverse @ project))


def _newton(
    design: Design, counts: Floats, parameters: Floats
) -> tuple[Floats, Terms, npt.NDArray[np.bool_]]:
    """Climb each table's log-likelihood; the last value says which tables got to the top."""
    terms = _evaluate(design, counts, parameters)
    done = np.zeros(len(counts), bool)
    for _ in range(STEPS):
        gradient, information = _slopes(design, terms)
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        decrement = (gradient * step).sum(axis=1)
        done = decrement <= TOLERANCE * (1 + counts.sum(axis=(1, 2)))
        if done.all():
            break
        parameters, terms = _climb(design, counts, parameters, terms, np.where(done[:, None], 0.0, step))
        if np.abs(parameters).max() > 4 * DIVERGED:
            parameters = np.clip(parameters, -4 * DIVERGED, 4 * DIVERGED)
            terms = _evaluate(design, counts, parameters)
    return parameters, terms, done


def _climb(
    design: Design, counts: Floats, parameters: Floats, terms: Terms, step: Floats
) -> tuple[Floats, Terms]:
    """Take the step, halved for each table until its log-likelihood does not fall."""
    slack = 1e-12 * np.abs(terms.value)
    for _ in range(HALVINGS):
        trial = _evaluate(design, counts, parameters + step)
        falls = ~(trial.value >= terms.value - slack)
        if not falls.any():
            return parameters + step, trial
        step = np.where(falls[:, None], step / 2, step)
    step = np.where(falls[:, None], 0.0, step)
    return parameters + step, _evaluate(design, counts, parameters + step)


def _read(
    cells: Cells,
    design: Design,
    counts: Floats,
    model: Model,
    parameters: Floats,
    terms: Terms,
    converged: npt.NDArray[np.bool_],
) -> Fit:
    systems = cells.systems
    variance = _variance(design, Terms(*(part[:1] for part in terms)))
    ties = np.exp(np.where(design.absent, -np.inf, _spread(design.to_e, parameters)))
    if model == "rao-kupper":
        ties = np.maximum(ties, 1.0)
    strength = parameters[:, :systems]
    return Fit(
        strength=strength,
        ties=ties,
        side=parameters[:, systems] if cells.side_effect else np.zeros(len(parameters)),
        log_likelihood=terms.value,
        converged=converged & (np.abs(strength).max(axis=1) < DIVERGED),
        free_parameters=parameters.shape[1] - len(cells.groups),
        standard_error=np.sqrt(np.maximum(variance[:systems], 0)),
        side_error=float(np.sqrt(variance[systems])) if cells.side_effect else 0.0,
        parameters=parameters,
        design=design,
    )
