"""A metric's verdicts counted like votes; never votes."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.report.model import PseudoVotes
from metrics import agreement as statistics

PAPER_BAND = f"the paper's tie rate, {statistics.PAPER_TIE_RATE:.1%}"
RESAMPLES = 1000


def pseudo_votes(
    verdicts: NDArray[np.int64], prompts: Sequence[str], band: float, band_from: str
) -> PseudoVotes:
    """Count verdicts; the interval resamples prompts."""
    found = statistics.pseudo_preference(verdicts, prompts, band=band, resamples=RESAMPLES)
    interval = None if found.ratio is None else (finite(found.low), finite(found.high))
    return PseudoVotes(found.good, found.same, found.bad, found.ratio, interval, band, band_from)


def by_paper(differences: NDArray[np.float64], prompts: Sequence[str]) -> PseudoVotes:
    """Count differences, positive in favour of the candidate, with as many ties as the paper's people saw."""
    band = statistics.tie_band(differences)
    return pseudo_votes(statistics.pseudo_verdicts(differences, band), prompts, band, PAPER_BAND)


def as_comparison(pseudo: PseudoVotes) -> dict[str, Any]:
    """Return the counts in the shape of a study's comparison, for tables and figures."""
    return asdict(pseudo) | {"n": pseudo.good + pseudo.same + pseudo.bad}


def finite(value: float | None) -> float | None:
    """Return a number, or None if it is infinite or undefined."""
    return value if value is not None and math.isfinite(value) else None
