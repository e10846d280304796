"""Time the arena's statistics against evalica and choix, in one process on one thread.

Run ``python benchmarks/preference_statistics.py``; ``--votes 30600 1000000 10000000`` sets the sizes. Votes are
drawn from a Davidson model of six systems with one vote in five a tie, 61 evaluators and 500 prompts. Libraries that
are not installed are left out. Memory is what Python and numpy allocate at most, above the votes.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")

import argparse
import importlib
import importlib.util
import json
import platform
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from arena import report_statistics
from arena.ranking import count_pairs, rank_systems, resample_pairs
from arena.tally import VoteRow

SYSTEMS = ("ours", "a", "b", "c", "d", "e")
STRENGTH = np.array([0.9, 0.4, 0.1, -0.2, -0.5, -0.7])
EVALUATORS, PROMPTS = 61, 500
RESAMPLES = 1000
MEBIBYTE = 1024**2
REPORT_UP_TO = 100_000


@dataclass(frozen=True, kw_only=True)
class Votes:
    """Votes as columns: systems, outcome for the first, evaluator, prompt."""

    first: npt.NDArray[np.int8]
    second: npt.NDArray[np.int8]
    outcomes: npt.NDArray[np.int8]
    evaluators: npt.NDArray[np.int16]
    prompts: npt.NDArray[np.int16]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one task, the best of its rounds, and memory above the votes in MiB."""

    task: str
    votes: int
    seconds: float
    memory: float


def draw_votes(count: int, *, star: bool = False, seed: int = 0) -> Votes:
    """Draw votes of a Davidson model; ``star`` has the first system meet each of the others."""
    generator = np.random.default_rng(seed)
    size = len(SYSTEMS)
    first = np.zeros(count, np.int8) if star else generator.integers(0, size, count, np.int8)
    second = (first + generator.integers(1, size, count, np.int8)) % size
    gap = (STRENGTH[first] - STRENGTH[second]).astype(np.float32)
    win, tie = np.exp(gap / 2), np.float32(0.5)
    drawn = generator.random(count, np.float32) * (win + tie + 1 / win)
    outcomes = np.where(drawn < win, 1, np.where(drawn < win + tie, 0, -1)).astype(np.int8)
    numbers = np.arange(count)
    return Votes(
        first=first,
        second=second.astype(np.int8),
        outcomes=outcomes,
        evaluators=(numbers % EVALUATORS).astype(np.int16),
        prompts=(numbers // EVALUATORS % PROMPTS).astype(np.int16),
    )


def timed(task: str, votes: int, work: Callable[[], object], rounds: int = 3) -> Timing:
    """Run some work: by the clock a few times, then once more to see what it allocates at most."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Timing(task=task, votes=votes, seconds=min(seconds), memory=peak / MEBIBYTE)


def davidson(votes: Votes, *, clustered: bool) -> object:
    """Fit Davidson's model with errors and rank intervals from redrawn studies."""
    pairs = count_pairs(votes.first, votes.second, votes.outcomes, SYSTEMS)
    drawn = resample_pairs(
        pairs,
        votes.first,
        votes.second,
        votes.outcomes,
        evaluators=votes.evaluators if clustered else None,
        prompts=votes.prompts if clustered else None,
        resamples=RESAMPLES,
    )
    return rank_systems(pairs, resampled=drawn)


def full_report(votes: Votes) -> object:
    """Compute what ``study report`` says: ratios by every method, ranking with alternatives, agreement."""
    columns = (votes.first, votes.second, votes.outcomes, votes.evaluators, votes.prompts)
    rows = [
        VoteRow(
            candidate=first,
            competitor=second,
            criterion="overall",
            outcome=outcome,
            evaluator=str(evaluator),
            prompt=prompt,
            origin="human",
            on_left=bool((evaluator + prompt) % 2),
        )
        for first, second, outcome, evaluator, prompt in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]
    for competitor in sorted({row.competitor for row in rows}):
        mine = [row for row in rows if row.competitor == competitor]
        shown, clustered = report_statistics.compare(mine, "two-way", 0.95)
        report_statistics.by_method(shown, clustered, mine, "two-way")
    report_statistics.ranking(rows, [], dict(enumerate(SYSTEMS)))
    return report_statistics.agreement_of(rows)


def evalica_fits(votes: Votes) -> list[tuple[str, Callable[[], object]]]:
    """Return evalica's Bradley-Terry and Davidson (Newman) fits of the same votes."""
    evalica = importlib.import_module("evalica")
    left, right = votes.first.tolist(), votes.second.tolist()
    winners = [
        (evalica.Winner.Y, evalica.Winner.Draw, evalica.Winner.X)[1 + o] for o in votes.outcomes.tolist()
    ]
    return [
        ("evalica bradley_terry, one fit", lambda: evalica.bradley_terry(left, right, winners)),
        ("evalica newman, one fit", lambda: evalica.newman(left, right, winners)),
    ]


def choix_fits(votes: Votes) -> list[tuple[str, Callable[[], object]]]:
    """Return choix's spectral fit of the same votes, ties left out, which it cannot take."""
    choix = importlib.import_module("choix")

    def fit() -> object:
        won = votes.outcomes != 0
        first, second, up = votes.first[won], votes.second[won], votes.outcomes[won] > 0
        data = list(
            zip(np.where(up, first, second).tolist(), np.where(up, second, first).tolist(), strict=True)
        )
        return choix.ilsr_pairwise(len(SYSTEMS), data)

    return [("choix ilsr_pairwise without ties, one fit", fit)]


def measure(sizes: list[int], others_up_to: int) -> list[Timing]:
    """Time everything at every size; other libraries only up to a size."""
    found = []
    for count in sizes:
        votes = draw_votes(count)
        ours: list[tuple[str, Callable[[], object]]] = [
            (f"Davidson, {RESAMPLES} resamples", partial(davidson, votes, clustered=False)),
            (f"Davidson, {RESAMPLES} two-way resamples", partial(davidson, votes, clustered=True)),
        ]
        if count <= REPORT_UP_TO:
            ours.append(("full report", partial(full_report, draw_votes(count, star=True))))
        found += [timed(task, count, work) for task, work in ours]
        for name, fits in (("evalica", evalica_fits), ("choix", choix_fits)):
            if count <= others_up_to and importlib.util.find_spec(name):
                found += [timed(task, count, work, rounds=1) for task, work in fits(votes)]
    return found


def main() -> None:
    """Print a table, and the other libraries' time for as many refits over ours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--votes", type=int, nargs="+", default=[30_600, 1_000_000, 10_000_000])
    parser.add_argument(
        "--others-up-to", type=int, default=1_000_000, help="largest size for other libraries"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    found = measure(arguments.votes, arguments.others_up_to)
    if arguments.json:
        print(json.dumps([asdict(row) for row in found], indent=2))
        return
    print(f"CPU seconds on one thread, {platform.processor() or platform.machine()}, numpy {np.__version__}")
    print(f"{'votes':>11}  {'task':46}{'seconds':>9}{'MiB':>8}  times ours, per refit")
    ours = {row.votes: row.seconds for row in found if row.task == f"Davidson, {RESAMPLES} resamples"}
    for row in found:
        other = row.task.startswith(("evalica", "choix"))
        ratio = f"{row.seconds * (RESAMPLES + 1) / ours[row.votes]:,.0f}" if other else ""
        print(f"{row.votes:>11,}  {row.task:46}{row.seconds:>9.3f}{row.memory:>8.0f}  {ratio}")


if __name__ == "__main__":
    main()
