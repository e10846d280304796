"""Plan a preference study: how many votes, evaluators and prompts show a ratio, and what buys power.

With tie share s, the error of log R = log((G+S)/(B+S)) of N votes is, by the delta method,

    se^2 = (1 - s) (1 + R)^2 / (N R (1 + s)^2) * deff,   deff = 1 + (m_e - 1) rho_e + (m_p - 1) rho_p,

where m_e = N/E votes share an evaluator and m_p = N/P votes share a prompt, with correlations rho_e, rho_p
(Kish 1965 for one such grouping). Power is that of the two-sided normal test of R = 1.
"""

import math
from dataclasses import dataclass, replace

from scipy import optimize, stats


@dataclass(frozen=True, kw_only=True)
class Design:
    """A planned comparison of a candidate with one competitor.

    Attributes:
        ratio: The ratio (G+S)/(B+S) to be shown, above 0, not 1.
        ties: Tie share expected, in [0, 1).
        evaluators, prompts: How many take part.
        votes_per_evaluator: Votes each gives in this comparison; every prompt once by default.
        rho_evaluator, rho_prompt: Correlation of two votes that share an evaluator, or a prompt.
        alpha: Two-sided level of the test.
    """

    ratio: float
    ties: float
    evaluators: int
    prompts: int
    votes_per_evaluator: int | None = None
    rho_evaluator: float = 0.05
    rho_prompt: float = 0.10
    alpha: float = 0.05

    def __post_init__(self) -> None:
        _check_ratio(self.ratio, self.ties)
        _check_level("alpha", self.alpha)
        checks = {"evaluators": self.evaluators, "prompts": self.prompts}
        if self.votes_per_evaluator is not None:
            checks["votes_per_evaluator"] = self.votes_per_evaluator
        for name, count in checks.items():
            if count < 1:
                raise ValueError(f"{name} must be 1 or more, received {count}")
        rho = (self.rho_evaluator, self.rho_prompt)
        if min(rho) < 0 or sum(rho) > 1:
            raise ValueError(
                f"rho_evaluator and rho_prompt must be 0 or more, at most 1 together, received {rho}"
            )

    @property
    def each(self) -> int:
        """Return the votes of one evaluator."""
        return self.prompts if self.votes_per_evaluator is None else self.votes_per_evaluator

    @property
    def votes(self) -> int:
        """Return N."""
        return self.evaluators * self.each

    @property
    def design_effect(self) -> float:
        """Return by how much clustering inflates the variance."""
        shared = self.votes / self.prompts
        return 1 + (self.each - 1) * self.rho_evaluator + (shared - 1) * self.rho_prompt

    @property
    def standard_error(self) -> float:
        """Return the error of log R."""
        return math.sqrt(_unit_variance(self.ratio, self.ties) * self.design_effect / self.votes)

    @property
    def power(self) -> float:
        """Return the probability that the two-sided test of R = 1 rejects."""
        reach = float(stats.norm.ppf(1 - self.alpha / 2))
        shift = math.log(self.ratio) / self.standard_error
        return float(stats.norm.cdf(shift - reach) + stats.norm.cdf(-shift - reach))

    @property
    def half_width(self) -> float:
        """Return the factor by which the confidence interval extends to either side of R."""
        return math.exp(float(stats.norm.ppf(1 - self.alpha / 2)) * self.standard_error)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to change a design, with the power it gives."""

    name: str
    design: Design


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a design gives, what would give more, and what is needed for the power asked for.

    Attributes:
        design: The design itself.
        options: The same design, and with twice the prompts, evaluators or votes of each evaluator.
        power_wanted: Power asked for.
        votes_if_independent: Votes needed if none shared an evaluator or prompt.
        evaluators_needed: With these prompts; None if no number is enough.
        prompts_needed: With these evaluators; None if no number is enough.
        detectable_ratio: Smallest ratio above 1 shown with ``power_wanted``; None if the ties forbid it.
        sentence: What buys power here.
    """

    design: Design
    options: tuple[Option, ...]
    power_wanted: float
    votes_if_independent: int
    evaluators_needed: int | None
    prompts_needed: int | None
    detectable_ratio: float | None
    sentence: str


def required_votes(
    ratio: float, ties: float = 0.0, *, power: float = 0.8, alpha: float = 0.05, design_effect: float = 1.0
) -> float:
    """Return N = (z_{1-alpha/2} + z_power)^2 (1-s)(1+R)^2 / (R (1+s)^2 ln^2 R) * deff, not rounded.

    Args:
        ratio: R to be shown, between the bounds s and 1/s that the ties set.
        ties: Tie share s.
        power: Probability to show it.
        alpha: Two-sided level.
        design_effect: Inflation by clustering.

    Raises:
        ValueError: An argument is out of range, or no votes can have this ratio with these ties.
    """
    _check_ratio(ratio, ties)
    _check_level("power", power)
    _check_level("alpha", alpha)
    quantiles = float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power))
    return quantiles**2 * _unit_variance(ratio, ties) / math.log(ratio) ** 2 * design_effect


def votes_for_precision(
    ratio: float, ties: float, factor: float, *, level: float = 0.95, design_effect: float = 1.0
) -> float:
    """Return the votes after which the interval runs from R/factor to R*factor.

    Raises:
        ValueError: An argument is out of range.
    """
    _check_level("level", level)
    if factor <= 1:
        raise ValueError(f"factor must be above 1, received {factor}")
    reach = float(stats.norm.ppf(0.5 + level / 2))
    return (reach / math.log(factor)) ** 2 * _unit_variance(ratio, ties) * design_effect


def plan(design: Design, *, power: float = 0.8) -> Plan:
    """Say what a design gives and what would give more.

    Raises:
        ValueError: ``power`` is not between 0 and 1.
    """
    _check_level("power", power)
    options = (
        Option(name="as planned", design=design),
        Option(name="twice the prompts", design=replace(design, prompts=2 * design.prompts)),
        Option(name="twice the evaluators", design=replace(design, evaluators=2 * design.evaluators)),
        Option(
            name="twice the votes of each evaluator on the same prompts",
            design=replace(design, votes_per_evaluator=2 * design.each),
        ),
    )
    quantiles = float(stats.norm.ppf(1 - design.alpha / 2) + stats.norm.ppf(power))
    budget = (math.log(design.ratio) / quantiles) ** 2 / _unit_variance(design.ratio, design.ties)
    return Plan(
        design=design,
        options=options,
        power_wanted=power,
        votes_if_independent=math.ceil(
            required_votes(design.ratio, design.ties, power=power, alpha=design.alpha)
        ),
        evaluators_needed=_evaluators_needed(design, budget),
        prompts_needed=_prompts_needed(design, budget),
        detectable_ratio=_detectable(design, quantiles),
        sentence=_sentence(options),
    )


def _sentence(options: tuple[Option, ...]) -> str:
    base, prompts, evaluators, more = (option.design.power for option in options)
    verdict = "buy almost nothing" if more - base < 0.03 else f"give {more:.3f}"
    return (
        f"Power is {base:.3f}. Twice the prompts give {prompts:.3f}, twice the evaluators {evaluators:.3f};"
        f" more votes of the same evaluators on the same prompts {verdict}."
    )


def _evaluators_needed(design: Design, budget: float) -> int | None:
    """Solve (1 - rho_e - rho_p)/(E m) + rho_e/E + rho_p/P = budget for E."""
    left = budget - design.rho_prompt / design.prompts
    if left <= 0:
        return None
    rest = 1 - design.rho_evaluator - design.rho_prompt
    return max(2, math.ceil((rest / design.each + design.rho_evaluator) / left))


def _prompts_needed(design: Design, budget: float) -> int | None:
    """Solve the same for P: every evaluator judges every prompt, unless their votes are limited."""
    rest = 1 - design.rho_evaluator - design.rho_prompt
    if design.votes_per_evaluator is None:
        left, shared = budget - design.rho_evaluator / design.evaluators, rest / design.evaluators
    else:
        left, shared = budget - design.rho_evaluator / design.evaluators - rest / design.votes, 0.0
    if left <= 0:
        return None
    return max(2, math.ceil((shared + design.rho_prompt) / left))


def _detectable(design: Design, quantiles: float) -> float | None:
    """Return the ratio above 1 whose logarithm is ``quantiles`` errors."""
    spread = design.design_effect / design.votes

    def missing(log_ratio: float) -> float:
        return log_ratio - quantiles * math.sqrt(_unit_variance(math.exp(log_ratio), design.ties) * spread)

    top = -math.log(design.ties) if design.ties > 0 else 20.0
    if missing(top) <= 0:
        return None
    return math.exp(float(optimize.brentq(missing, 1e-9, top)))


def _unit_variance(ratio: float, ties: float) -> float:
    """Return N times the variance of log R of independent votes."""
    return (1 - ties) * (1 + ratio) ** 2 / (ratio * (1 + ties) ** 2)


def _check_ratio(ratio: float, ties: float) -> None:
    if not 0 <= ties < 1:
        raise ValueError(f"the tie share must lie from 0 to below 1, received {ties}")
    if ratio <= 0 or ratio == 1 or not math.isfinite(ratio):
        raise ValueError(f"the ratio must be above 0 and not 1, received {ratio}")
    if ties > 0 and not ties <= ratio <= 1 / ties:
        raise ValueError(
            f"with a tie share of {ties} the ratio lies between {ties:.3g} and {1 / ties:.3g}, received {ratio}"
        )


def _check_level(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, received {value}")
