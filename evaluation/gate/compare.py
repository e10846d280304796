"""Lay a candidate beside a baseline, metric by metric; one rule gives the verdict, its words and the exit status."""

import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from evaluation.gate.paired import (
    Paired,
    Verdict,
    judge,
    paired_jackknife,
    paired_mean,
    prompts_needed,
    sign_test,
    simultaneous_level,
)
from evaluation.gate.sides import Side
from evaluation.gate.specification import GateSpec
from evaluation.report.numbers import IDENTICAL, without_noise

EXIT_STATUS: dict[Verdict, int] = {"pass": 0, "regression": 1, "incomparable": 2, "inconclusive": 3}
SEVERITY: tuple[Verdict, ...] = ("incomparable", "regression", "inconclusive", "pass")
FROZEN = "frozen videos"


@dataclass(frozen=True, kw_only=True)
class MetricVerdict:
    """One line of the gate.

    Attributes:
        metric: name; ``frozen videos`` is the check that comes with the temporal family.
        direction: which way is better.
        unit: of the values.
        baseline: mean of the baseline's values.
        candidate: mean of the candidate's.
        improvement: mean over prompts, positive is better.
        low: lower end of the interval of ``improvement``.
        high: upper end.
        tolerance: how much worse is accepted.
        n: prompts compared.
        needed: prompts that would decide if nothing else changed; None if decided or if no number would.
        better: prompts that improved.
        worse: prompts that got worse.
        reason: why the verdict is not a matter of the interval.
    """

    metric: str
    verdict: Verdict
    direction: Literal["higher", "lower"]
    unit: str = ""
    baseline: float | None = None
    candidate: float | None = None
    improvement: float | None = None
    low: float | None = None
    high: float | None = None
    tolerance: float
    n: int = 0
    needed: int | None = None
    better: int = 0
    worse: int = 0
    reason: str | None = None

    @property
    def identical(self) -> bool:
        """Whether no prompt's value differs."""
        return self.improvement == self.low == self.high == 0

    @property
    def shown(self) -> str:
        """The improvement for people, empty if there is none."""
        if self.identical:
            return IDENTICAL
        value = self.improvement
        if value is not None and self.low is not None and self.high is not None:
            value = without_noise(value, self.high - self.low)
        return "" if value is None else f"{value:+.4g}" if value else "0"

    def sentence(self) -> str:
        """Say the verdict in words."""
        if self.reason:
            return f"{self.metric}: {self.verdict}, {self.reason}"
        words = f"{self.metric}: {self.verdict}, "
        if self.identical:
            words += f"identical on all {self.n} prompts"
        else:
            words += f"{self.shown} {self.unit}".rstrip()
            words += f" (positive is better; {self.low:+.4g} to {self.high:+.4g}, "
            words += f"tolerance {self.tolerance:g}, {self.n} prompts)"
        if self.verdict == "inconclusive":
            more = None if self.needed is None else self.needed - self.n
            words += (
                "; no number of prompts would decide" if more is None else f"; about {more} more would decide"
            )
        return words


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """The verdict over all metrics: the most severe of theirs."""

    baseline: str
    candidate: str
    confidence: float
    metrics: tuple[MetricVerdict, ...]
    problems: tuple[str, ...] = ()
    fail_on_inconclusive: bool = False

    @property
    def verdict(self) -> Verdict:
        """The most severe verdict of a metric; ``incomparable`` if the sides do not fit together."""
        found = {"incomparable"} if self.problems else {row.verdict for row in self.metrics}
        return next(verdict for verdict in SEVERITY if verdict in found)

    @property
    def exit_status(self) -> int:
        """0 pass, 1 regression, 2 incomparable, 3 inconclusive."""
        return EXIT_STATUS[self.verdict]

    @property
    def failed(self) -> bool:
        """Whether a job that stands on this gate should stop."""
        return self.verdict in ("regression", "incomparable") or (
            self.verdict == "inconclusive" and self.fail_on_inconclusive
        )

    def sentence(self) -> str:
        """Say the overall verdict in words."""
        if self.problems:
            return f"incomparable: {self.problems[0]}"
        decisive = [row.metric for row in self.metrics if row.verdict == self.verdict]
        if self.verdict == "pass":
            checks = f"all {len(decisive)} checks" if len(decisive) > 1 else decisive[0]
            return f"pass: {self.candidate} is no worse than {self.baseline} within tolerance on {checks}"
        return f"{self.verdict}: {', '.join(decisive)} ({self.candidate} against {self.baseline})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {
            "verdict": self.verdict,
            "exit_status": self.exit_status,
            "failed": self.failed,
        }


def compare(
    baseline: Side,
    candidate: Side,
    spec: GateSpec,
    *,
    reference: np.ndarray | None = None,
) -> GateResult:
    """Compare two sides measured by the same gate.

    Args:
        baseline: what is there.
        candidate: what may replace it.
        spec: metrics and tolerances.
        reference: ``(M, D)`` features of real videos, for set metrics.
    """
    problems = _problems(baseline, candidate)
    rows: list[MetricVerdict] = []
    if not problems:
        checks = len(spec.metrics) + (1 if _asks_of_motion(spec) else 0)
        comparison = _Comparison(
            baseline, candidate, spec, simultaneous_level(spec.confidence, checks), reference
        )
        rows = [comparison.metric(name) for name in spec.metrics]
        if _asks_of_motion(spec):
            rows.append(comparison.frozen())
    return GateResult(
        baseline=baseline.name,
        candidate=candidate.name,
        confidence=spec.confidence,
        metrics=tuple(rows),
        problems=tuple(problems),
        fail_on_inconclusive=spec.fail_on_inconclusive,
    )


class _Comparison:
    """Two sides whose videos pair up."""

    def __init__(
        self, baseline: Side, candidate: Side, spec: GateSpec, level: float, reference: np.ndarray | None
    ) -> None:
        self.baseline, self.candidate, self.spec, self.level = baseline, candidate, spec, level
        self.reference = reference
        self.clusters = {key: prompt or key for key, prompt in baseline.prompts.items()}

    def metric(self, name: str) -> MetricVerdict:
        from metrics.registry import metric_info

        return self._set(name) if metric_info(name).per == "set" else self._videos(name)

    def frozen(self) -> MetricVerdict:
        """Count videos that stand still on one side only although their prompt asks for motion."""
        from metrics.stillness import asks_for_motion

        worse = better = n = 0
        for key, prompt in self.baseline.prompts.items():
            if prompt is not None and not asks_for_motion(prompt):
                continue
            before, after = (side.values[key]["static"].value for side in (self.baseline, self.candidate))
            n += 1
            worse += before == 0 and after == 1
            better += before == 1 and after == 0
        verdict: Verdict = "pass"
        if worse > better:
            verdict = "regression" if sign_test(worse, better) <= 1 - self.level else "inconclusive"
        return MetricVerdict(
            metric=FROZEN,
            verdict=verdict,
            direction="lower",
            tolerance=0,
            n=n,
            better=better,
            worse=worse,
            reason=f"{worse} of {n} videos froze and {better} came to move",
        )

    def _videos(self, name: str) -> MetricVerdict:
        pairs, refusal = self._pairs(name)
        if refusal is not None:
            frozen = any(
                all(self._is_static(side, key) for key in self.clusters)
                for side in (self.baseline, self.candidate)
            )
            return self._refused(name, refusal, "inconclusive" if frozen else "incomparable")
        before, after = (np.array([row[side] for row in pairs]) for side in (0, 1))
        improvements = (after - before) * self._sign(name)
        return self._verdict(
            name, paired_mean(improvements, self.level), before.mean(), after.mean(), improvements
        )

    def _pairs(self, name: str) -> tuple[list[tuple[float, float]], str | None]:
        """Return (baseline, candidate) per prompt, or why there is no such thing."""
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        lost = []
        for key, cluster in self.clusters.items():
            before, after = (side.values[key].get(name) for side in (self.baseline, self.candidate))
            if before is None or after is None:
                return [], "it was not measured on both sides"
            if before.signature != after.signature:
                return [], f"measured differently: {_difference(before.signature, after.signature)}"
            values = [self._value(name, side, key) for side in (self.baseline, self.candidate)]
            if values[0] is not None and values[1] is not None:
                found[cluster].append((values[0], values[1]))
            elif values[0] is not None and not self._is_static(self.candidate, key):
                lost.append(f"{key} ({after.reason})")
        if lost:
            return [], f"{len(lost)} videos of {self.candidate.name} have no value, e.g. {lost[0]}"
        if not found:
            return [], "no video has a value on both sides"
        means = [tuple(np.mean(rows, axis=0).tolist()) for rows in found.values()]
        return [(before, after) for before, after in means], None

    def _value(self, name: str, side: Side, key: str) -> float | None:
        """Return a video's value; the consistency of a video that froze is 0, the worst."""
        from metrics.stillness import asks_for_motion

        prompt = side.prompts[key]
        if name == "temporal" and self._is_static(side, key) and (prompt is None or asks_for_motion(prompt)):
            return 0.0
        return side.values[key][name].value

    @staticmethod
    def _is_static(side: Side, key: str) -> bool:
        static = side.values[key].get("static")
        return static is not None and static.value == 1

    def _set(self, name: str) -> MetricVerdict:
        before, after = self.baseline.features, self.candidate.features
        if before is None or after is None or self.reference is None:
            return self._refused(
                name, "a distance between sets needs the videos of both sides and --reference"
            )
        clusters = np.array(list(self.clusters.values()))
        prompts = np.unique(clusters)
        if len(prompts) < self.spec.minimum_prompts:
            return self._refused(
                name, f"{len(prompts)} prompts; a set needs {self.spec.minimum_prompts}", "inconclusive"
            )
        distance = _DISTANCES[name](self.reference)
        order = [list(self.candidate.prompts).index(key) for key in self.baseline.prompts]
        after = after[order]

        def improvement(mask: np.ndarray) -> float:
            rows = np.isin(clusters, prompts[mask])
            return self._sign(name) * (distance(after[rows]) - distance(before[rows]))

        found = paired_jackknife(improvement, len(prompts), self.level)
        return self._verdict(name, found, distance(before), distance(after))

    def _verdict(
        self, name: str, found: Paired, before: float, after: float, improvements: np.ndarray | None = None
    ) -> MetricVerdict:
        from metrics.registry import metric_info

        info, tolerance = metric_info(name), self.spec.metrics[name].tolerance
        verdict = judge(found, tolerance, self.spec.minimum_prompts)
        needed = prompts_needed(found, tolerance, self.spec.minimum_prompts, self.level)
        finite = math.isfinite(found.low)
        return MetricVerdict(
            metric=name,
            verdict=verdict,
            direction=self.spec.direction(name),
            unit=info.unit,
            baseline=float(before),
            candidate=float(after),
            improvement=found.mean,
            low=found.low if finite else None,
            high=found.high if finite else None,
            tolerance=tolerance,
            n=found.n,
            needed=needed if verdict == "inconclusive" else None,
            better=0 if improvements is None else int((improvements > 0).sum()),
            worse=0 if improvements is None else int((improvements < 0).sum()),
            reason=None if finite else "one prompt has no interval",
        )

    def _refused(self, name: str, reason: str, verdict: Verdict = "incomparable") -> MetricVerdict:
        from metrics.registry import metric_info

        return MetricVerdict(
            metric=name,
            verdict=verdict,
            direction=self.spec.direction(name),
            unit=metric_info(name).unit,
            tolerance=self.spec.metrics[name].tolerance,
            reason=reason,
        )

    def _sign(self, name: str) -> int:
        return 1 if self.spec.direction(name) == "higher" else -1


def _problems(baseline: Side, candidate: Side) -> list[str]:
    found = [
        f"{len(side.failures)} videos of {side.name} cannot be read: {side.failures[0]}"
        for side in (baseline, candidate)
        if side.failures
    ]
    for one, other in ((baseline, candidate), (candidate, baseline)):
        missing = sorted(set(one.prompts) - set(other.prompts))
        if missing:
            found.append(f"{len(missing)} videos of {one.name} are not in {other.name}, e.g. {missing[0]}")
    common = set(baseline.prompts) & set(candidate.prompts)
    renamed = sorted(key for key in common if baseline.prompts[key] != candidate.prompts[key])
    if renamed:
        found.append(f"{len(renamed)} videos were made from other prompts, e.g. {renamed[0]}")
    return found


def _asks_of_motion(spec: GateSpec) -> bool:
    from metrics.registry import metric_info

    return any(metric_info(name).family == "temporal" for name in spec.metrics)


def _difference(before: str, after: str) -> str:
    """Name the parts in which two signatures differ."""
    one, two = before.split("|"), after.split("|")
    only_before = [part for part in one if part not in two]
    only_after = [part for part in two if part not in one]
    return f"{' '.join(only_before) or 'nothing'} against {' '.join(only_after) or 'nothing'}"


def _frechet(reference: np.ndarray) -> Any:
    import torch

    from metrics.functional import frechet_distance

    real = torch.from_numpy(reference)
    return lambda rows: float(frechet_distance(torch.from_numpy(rows), real))


def _kernel(reference: np.ndarray) -> Any:
    import torch

    from metrics.functional import kernel_distance

    mean, deviation = reference.mean(0), np.maximum(reference.std(0, ddof=1), 1e-12)
    real = torch.from_numpy((reference - mean) / deviation)
    return lambda rows: float(kernel_distance(torch.from_numpy((rows - mean) / deviation), real))


def _jedi(reference: np.ndarray) -> Any:
    import torch

    from metrics.functional import kernel_distance

    real = torch.from_numpy(reference)
    return lambda rows: (
        100 * float(kernel_distance(torch.from_numpy(rows), real, degree=2, coef0=0.0, unbiased=False))
    )


_DISTANCES = {"fvd": _frechet, "kvd": _kernel, "jedi": _jedi}
