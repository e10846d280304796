"""Read an ablation's values and say what every part is worth."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from arena.subgroups import holm
from evaluation.ablation.arms import FULL, Arm, at_stage, chain_of
from evaluation.ablation.cost import AblationCost
from evaluation.ablation.effects import (
    AutomaticPreference,
    Effect,
    effect,
    interaction,
    main_effect,
    preference,
    shapley,
)
from evaluation.ablation.specification import AblationSpec
from evaluation.errors import EvaluationError

Values = dict[str, float]  # by prompt
Table = Mapping[tuple[str, str, str], Values]  # by system, metric and signature


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """The full system against one arm on one metric.

    Attributes:
        arm: what it is compared with.
        at: ``end`` for finished videos, else the stage whose own output is compared.
        direction: of the metric; for ``neutral`` ones the advantage is the plain difference.
        full, without: means.
        advantage: of the full system, per prompt; positive is better.
        p_holm: adjusted over all rows of finished videos and directed metrics; None where not counted.
        preference: as Good, Same and Bad of the full system; None for neutral metrics.
        left_out: prompts on which either has no value.
        human: a study's row on the same pair, if there is one.
    """

    arm: str
    at: str
    metric: str
    signature: str
    direction: str
    unit: str
    full: float
    without: float
    advantage: Effect
    p_holm: float | None = None
    preference: AutomaticPreference | None = None
    left_out: int = 0
    human: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class FactorialRow:
    """A main effect, an interaction (``one x two``) or a Shapley share of the factorial design."""

    kind: str
    name: str
    metric: str
    signature: str
    effect: Effect


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """What one part adds to the chain of ``add_one_in``."""

    added: str
    metric: str
    signature: str
    effect: Effect


@dataclass(frozen=True, kw_only=True)
class AblationResult:
    """What an ablation shows; ``study`` is the one of full against each arm, if there is one."""

    prompts: int
    seeds: int
    arms: tuple[str, ...]
    rows: tuple[ArmRow, ...]
    steps: tuple[StepRow, ...] = ()
    factorial: tuple[FactorialRow, ...] = ()
    cost: AblationCost
    notes: tuple[str, ...] = ()
    examples: tuple[dict[str, Any], ...] = ()
    study: str | None = None
    reproduce: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; an interval's end is None where it is infinite."""
        found: dict[str, Any] = _finite(asdict(self) | {"saved": self.cost.saved})
        return found

    def to_frame(self) -> pd.DataFrame:
        """Return one row an arm and metric."""
        flat = []
        for row in self.rows:
            values = asdict(row)
            values |= {f"advantage_{key}": value for key, value in values.pop("advantage").items()}
            for name in ("preference", "human"):
                found = values.pop(name) or {}
                values |= {
                    f"{name}_{key}": found.get(key) for key in ("good", "same", "bad", "ratio", "interval")
                }
            flat.append(values)
        return pd.DataFrame(flat)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def analyse(
    spec: AblationSpec,
    arms: Sequence[Arm],
    scores: Sequence[Mapping[str, Any]],
    cost: AblationCost,
    *,
    prompts: int,
) -> AblationResult:
    """Compare the full system with every arm.

    Args:
        spec: what was asked for.
        arms: of all designs.
        scores: rows of ``arena.catalogue.scores``.
        cost: what it took.
        prompts: how many were asked for.

    Raises:
        EvaluationError: no metric has values of the full system and of any arm.
    """
    table = _table(scores)
    rows = _arm_rows(spec, arms, table)
    if not rows:
        raise EvaluationError(
            "no metric has values of the full system and of an arm; look at the run's notes"
        )
    steps = _steps(spec, table)
    return AblationResult(
        prompts=prompts,
        seeds=len(spec.seeds),
        arms=tuple(arm.name for arm in arms),
        rows=tuple(_corrected(rows)),
        steps=tuple(steps),
        factorial=tuple(_factorial(spec, table)),
        cost=cost,
        notes=tuple(_notes(spec, arms, table, rows, steps)),
    )


def _table(scores: Sequence[Mapping[str, Any]]) -> Table:
    """Average over seeds; videos without a value are left out."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in scores:
        if row["prompt"] is not None and row["value"] is not None:
            found[row["system"], row["metric"], row["signature"]][row["prompt"]].append(row["value"])
    return {
        key: {prompt: float(np.mean(values)) for prompt, values in by_prompt.items()}
        for key, by_prompt in found.items()
    }


def _measured(table: Table, system: str) -> list[tuple[str, str]]:
    """Return the metrics and signatures of a system."""
    return sorted({(metric, signature) for name, metric, signature in table if name == system})


def _arm_rows(spec: AblationSpec, arms: Sequence[Arm], table: Table) -> list[ArmRow]:
    pairs = [(FULL, arm.name, arm.name, "end") for arm in arms if arm.name != FULL]
    if spec.at_stage:
        pairs += [
            (at_stage(FULL, arm.stage), at_stage(arm.name, arm.stage), arm.name, arm.stage)
            for arm in arms
            if len(arm.without) == 1 and arm.stage in ("i2v", "v2v")
        ]
    rows = []
    for full, other, name, at in pairs:
        for metric, signature in _measured(table, full):
            row = _arm_row(spec, table, full, other, name, at, metric, signature)
            rows += [row] if row is not None else []
    asked = {metric: place for place, metric in enumerate(spec.metrics)}
    return sorted(rows, key=lambda row: (row.at != "end", asked.get(row.metric, len(asked))))


def _arm_row(
    spec: AblationSpec, table: Table, full: str, other: str, name: str, at: str, metric: str, signature: str
) -> ArmRow | None:
    from metrics.registry import METRICS

    ours, theirs = table[full, metric, signature], table.get((other, metric, signature), {})
    common = [prompt for prompt in ours if prompt in theirs]
    if not common or metric not in METRICS:
        return None
    info = METRICS[metric]
    one, two = (np.array([values[prompt] for prompt in common]) for values in (ours, theirs))
    advantages = (one - two) * (-1 if info.direction == "lower" else 1)
    band = spec.ties.get(metric)
    if band is None:
        band = 0.1 * float(one.std(ddof=1)) if len(common) > 1 else 0.0
    judged = preference(advantages, band, spec.confidence) if info.direction != "neutral" else None
    return ArmRow(
        arm=name,
        at=at,
        metric=metric,
        signature=signature,
        direction=info.direction,
        unit=info.unit,
        full=float(one.mean()),
        without=float(two.mean()),
        advantage=effect(advantages, spec.confidence),
        preference=judged,
        left_out=len(ours.keys() | theirs.keys()) - len(common),
    )


def _corrected(rows: Sequence[ArmRow]) -> list[ArmRow]:
    """Correct for the number of looks: finished videos and metrics with a direction."""
    from dataclasses import replace

    looks = [
        index
        for index, row in enumerate(rows)
        if row.at == "end" and row.direction != "neutral" and row.advantage.p is not None
    ]
    adjusted = dict(zip(looks, holm([rows[index].advantage.p or 0.0 for index in looks]), strict=True))
    return [replace(row, p_holm=adjusted.get(index)) for index, row in enumerate(rows)]


def _steps(spec: AblationSpec, table: Table) -> list[StepRow]:
    chain = chain_of(spec)
    rows = []
    for before, after, added in zip(chain, chain[1:], spec.add_one_in, strict=False):
        for metric, signature in _measured(table, after):
            found = _oriented(table, [before, after], metric, signature)
            if found is not None:
                gain = effect(found[after] - found[before], spec.confidence)
                rows.append(StepRow(added=added, metric=metric, signature=signature, effect=gain))
    return rows


def _factorial(spec: AblationSpec, table: Table) -> list[FactorialRow]:
    parts = spec.factorial
    if not parts:
        return []
    order = list(spec.all_factors)
    names = {
        frozenset(parts) - frozenset(gone): "".join(f"-{part}" for part in sorted(gone, key=order.index))
        or FULL
        for size in range(len(parts) + 1)
        for gone in combinations(parts, size)
    }
    rows = []
    for metric, signature in _measured(table, FULL):
        found = _oriented(table, list(names.values()), metric, signature)
        if found is None:
            continue
        values = {present: found[name] for present, name in names.items()}
        effects = [("main effect", part, main_effect(values, parts, part)) for part in parts]
        effects += [("Shapley share", part, share) for part, share in shapley(values, parts).items()]
        effects += [
            ("interaction", f"{one} x {two}", interaction(values, parts, one, two))
            for one, two in combinations(parts, 2)
        ]
        rows += [
            FactorialRow(
                kind=kind, name=name, metric=metric, signature=signature, effect=effect(each, spec.confidence)
            )
            for kind, name, each in effects
        ]
    return rows


def _oriented(
    table: Table, systems: Sequence[str], metric: str, signature: str
) -> dict[str, np.ndarray] | None:
    """Return per-prompt values on the prompts that all systems have, larger being better; None if there are none."""
    from metrics.registry import METRICS

    columns = [table.get((system, metric, signature), {}) for system in systems]
    common = [prompt for prompt in columns[0] if all(prompt in column for column in columns)]
    if not common or metric not in METRICS or METRICS[metric].direction == "neutral":
        return None
    sign = -1 if METRICS[metric].direction == "lower" else 1
    return {
        system: sign * np.array([column[prompt] for prompt in common])
        for system, column in zip(systems, columns, strict=True)
    }


def _notes(
    spec: AblationSpec, arms: Sequence[Arm], table: Table, rows: Sequence[ArmRow], steps: Sequence[StepRow]
) -> list[str]:
    notes = []
    for arm in arms:
        lacking = [
            metric
            for metric, signature in _measured(table, FULL)
            if arm.name != FULL and not table.get((arm.name, metric, signature))
        ]
        if lacking:
            notes.append(f"{arm.name}: no value comparable with full of {', '.join(sorted(set(lacking)))}")
    left_out = sum(row.left_out for row in rows)
    if left_out:
        notes.append(f"{left_out} prompts were left out of comparisons because one side has no value")
    for step in steps:
        alone = [
            row
            for row in rows
            if (row.arm, row.at, row.metric, row.signature)
            == (f"-{step.added}", "end", step.metric, step.signature)
        ]
        for row in alone:
            found = (row.advantage, step.effect)
            sure = all(item.low > 0 or item.high < 0 for item in found)
            if sure and found[0].mean * found[1].mean < 0:
                notes.append(
                    f"{step.added} on {step.metric}: leaving it out and adding it in disagree in sign; "
                    "its worth depends on the other parts"
                )
    return notes
