"""How a study was done, field by field, and which fields nothing states."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from arena.protocol import Protocol
from evaluation.report.model import ProtocolField

Design = Mapping[str, Mapping[str, Any]]


def protocol_fields(kind: str, design: Design, origin: Mapping[str, Any]) -> tuple[ProtocolField, ...]:
    """Return what a reader must know to judge a study; a value is None where nothing states it.

    Args:
        kind: ``arena`` for a study collected here, else ``imported``.
        design: planned and observed numbers of ``arena.report_data.study_report``.
        origin: where the votes come from, of the same report.
    """
    observed = design["observed"]
    values = _collected(design) if kind == "arena" else _imported(design["planned"])
    values |= {
        "evaluators who voted": _number(observed["evaluators"]) or values.get("evaluators who voted"),
        "prompts": _number(observed["prompts"]) or values.get("prompts"),
        "votes counted": _number(observed["votes"]),
        "votes of excluded evaluators": f"{origin['excluded']:,}" if kind == "arena" else None,
    }
    return tuple(ProtocolField(name, values.get(name)) for name in FIELDS)


FIELDS = (
    "question",
    "instructions",
    "criteria",
    "evaluators who voted",
    "how evaluators were found",
    "consent",
    "prompts",
    "votes planned for each pair",
    "votes counted",
    "votes of excluded evaluators",
    "sides",
    "identities",
    "presentation",
    "must be watched",
    "training",
    "pairs with a known answer",
    "pairs asked twice",
    "stopping rule",
    "confidence",
    "prompts stand for",
)


def _collected(design: Design) -> dict[str, str | None]:
    planned: dict[str, Any] = {item.name: item.default for item in fields(Protocol)}
    planned |= design["planned"]
    observed = design["observed"]
    left = observed.get("candidate_on_left")
    seen = f"; candidate on the left in {left:,} votes" if left is not None and observed["votes"] else ""
    return {
        "question": planned["question"],
        "instructions": planned["instructions"] or "the program's standard text",
        "criteria": ", ".join(planned["criteria"]),
        "consent": "asked before the first pair" if planned["consent"] else None,
        "prompts": _number(planned.get("prompts")),
        "votes planned for each pair": _number(planned["votes_per_pair"]),
        "sides": f"{planned['side_policy']}{seen}",
        "identities": "hidden; clips re-encoded alike, with random names",
        "presentation": _presentation(planned),
        "must be watched": f"{planned['min_watch']:.0%} of each clip",
        "training": f"{planned['training_pairs']} pairs with feedback, not counted",
        "pairs with a known answer": f"{planned['gold_share']:.0%} of the pairs, not counted",
        "pairs asked twice": f"{planned['repeat_share']:.0%} of the pairs, counted once",
        "stopping rule": str(planned["stopping"]),
        "confidence": f"{1 - planned['alpha']:.0%}",
        "prompts stand for": "others like them" if planned["estimand"] == "two-way" else "themselves alone",
    }


def _imported(planned: Mapping[str, Any]) -> dict[str, str | None]:
    evaluators, each = planned.get("stated_evaluators"), planned.get("stated_comparisons")
    return {
        "evaluators who voted": None if evaluators is None else f"{evaluators:,} stated",
        "votes planned for each pair": None if each is None else f"{each:,} comparisons an evaluator stated",
    }


def _presentation(planned: Mapping[str, Any]) -> str:
    box, fps = planned["presentation_box"], planned["presentation_fps"]
    size = "a box that fits all clips" if box is None else f"{box[0]}×{box[1]}"
    rate = "each its own frame rate" if fps is None else f"{fps} frames per second"
    length = {"keep": "each its own length", "trim": "cut to the shortest"}[planned["presentation_length"]]
    return f"{size}, {rate}, {length}"


def _number(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"
