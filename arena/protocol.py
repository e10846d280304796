"""What a study lays down before the first vote."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from arena.errors import StudyError

QUESTION = "Which video is better overall?"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a study lays down before the first vote.

    Attributes:
        candidate: The system every verdict is relative to.
        competitors: The systems it is compared with.
        votes_per_pair: How many evaluators judge each pair.
        seed: Decides the order of pairs and the sides.
        alpha: One minus the confidence of intervals.
        criteria: What is asked; "overall" is always among them.
        estimand: "two-way" when prompts stand for others like them, "evaluator" for a fixed prompt suite.
        quota: Most votes asked of one evaluator, None for no limit.
        lease_seconds: How long a pair stays with an evaluator who does not answer.
        question: What evaluators read above the buttons.
    """

    candidate: str
    competitors: tuple[str, ...]
    votes_per_pair: int = 1
    seed: int = 0
    alpha: float = 0.05
    criteria: tuple[str, ...] = ("overall",)
    estimand: str = "two-way"
    side_policy: str = "permuted-blocks"
    quota: int | None = None
    lease_seconds: int = 900
    question: str = QUESTION

    def __post_init__(self) -> None:
        checks = (
            (bool(self.competitors), "a study needs at least one competitor"),
            (self.candidate not in self.competitors, f"{self.candidate!r} cannot compete with itself"),
            (len(set(self.competitors)) == len(self.competitors), "a competitor is named twice"),
            (self.votes_per_pair >= 1, f"votes per pair must be 1 or more, received {self.votes_per_pair}"),
            (0 < self.alpha < 1, f"alpha must lie between 0 and 1, received {self.alpha}"),
            ("overall" in self.criteria, "'overall' must be among the criteria"),
            (self.estimand in ("two-way", "evaluator"), f"unknown estimand {self.estimand!r}"),
            (self.side_policy == "permuted-blocks", f"unknown side policy {self.side_policy!r}"),
            (self.quota is None or self.quota >= 1, f"quota must be 1 or more, received {self.quota}"),
            (self.lease_seconds >= 1, f"a lease lasts a second or more, received {self.lease_seconds}"),
        )
        for holds, sentence in checks:
            if not holds:
                raise StudyError(sentence)

    def to_dict(self) -> dict[str, Any]:
        """Return the protocol as plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Protocol":
        """Read a protocol; unknown keys are refused."""
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise StudyError(f"unknown protocol keys {', '.join(unknown)}: known ones are {', '.join(known)}")
        lists: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**lists)


def protocol_digest(protocol: dict[str, Any]) -> str:
    """Return the sha256 of a protocol's canonical JSON."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode("utf-8")).hexdigest()
