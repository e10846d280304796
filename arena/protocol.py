"""What a study lays down before the first vote, and the file it is written in."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from arena.errors import StudyError

QUESTION = "Which video is better overall?"
# Section 3.1 of MagicVideo-V2: 61 evaluators, 100 prompts against each of five systems, one overall preference
# "based on three criteria".
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "votes_per_pair": 61,
        "quota": 500,
        "criteria": ["overall"],
        "break_every": 50,
        "question": "Which video do you prefer overall?",
        "instructions": (
            "You will see two videos at a time, both made from the text above them. Choose the one you prefer"
            " overall, or say that you have no preference. Base your choice on three criteria:\n"
            "1. Which video has higher frame quality and overall visual appeal?\n"
            "2. Which video is more temporally consistent, with better motion range and motion validity?\n"
            "3. Which video has fewer structure errors, or bad cases?"
        ),
    }
}
MAX_FILE_BYTES = 256 * 2**10
LONGEST_TEXT = 20_000


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a study lays down before the first vote.

    Attributes:
        candidate: The system every verdict is relative to.
        competitors: The systems it is compared with.
        votes_per_pair: How many evaluators judge each pair.
        seed: Decides the order of pairs and the sides.
        alpha: One minus the confidence of intervals.
        categories: Names of kinds of prompts and the prompts of each, for a table of results by category; a prompt
            may be of several or of none.
        criteria: What is asked; "overall" is always among them, the others are optional for evaluators.
        estimand: "two-way" when prompts stand for others like them, "evaluator" for a fixed prompt suite.
        stopping: "fixed" hides results until the study is closed; "sequential" shows an interval that stays
            valid at every look, and asks nothing more once every comparison is decided.
        equivalence: With "sequential", a ratio above 1 within which two systems count as equally good: an
            interval between its inverse and it decides a comparison too. None to stop for differences only.
        assignment: "balanced" asks about every competitor alike; "adaptive", with "sequential", asks nothing
            more about a competitor that is decided, so that votes go where the answer is open.
        side_policy: How the candidate's side is drawn.
        quota: Most pairs asked of one evaluator, None for no limit; training, gold and repeated pairs are
            asked on top.
        lease_seconds: How long a pair stays with an evaluator who does not answer.
        min_watch: Share of each clip that must have been played before a vote is taken, 0 to 1.
        training_pairs: Pairs with feedback before the first real one; they are never counted.
        gold_share: Pairs with a known answer for each real pair, such as 0.1 for one in ten.
        repeat_share: Pairs asked a second time, sides exchanged in half of them, for each real pair.
        break_every: Offer a break after so many votes, None for never.
        undo: Whether the last vote may be given again; both stay recorded.
        comments: Whether evaluators may write a comment.
        question: What evaluators read above the prompt.
        instructions: What they read before they start; a short standard text if empty.
        consent: What they must agree to before they start; nothing is asked if empty.
        finish_code: What they are shown at the end, for a panel such as Prolific.
        return_url: Where they go from there; ``{code}`` in it becomes the finish code.
        presentation_box: Width and height of every clip; by default what fits all of them.
        presentation_fps: Frame rate of every clip; by default each keeps its own.
        presentation_length: "keep", or "trim" every clip of a prompt to the shortest of them.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "forbid"}

    candidate: str
    competitors: tuple[str, ...]
    votes_per_pair: int = 1
    seed: int = 0
    alpha: float = 0.05
    criteria: tuple[str, ...] = ("overall",)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    estimand: str = "two-way"
    stopping: str = "fixed"
    equivalence: float | None = None
    assignment: str = "balanced"
    side_policy: str = "permuted-blocks"
    quota: int | None = None
    lease_seconds: int = 900
    min_watch: float = 1.0
    training_pairs: int = 0
    gold_share: float = 0.0
    repeat_share: float = 0.0
    break_every: int | None = None
    undo: bool = True
    comments: bool = False
    question: str = QUESTION
    instructions: str = ""
    consent: str = ""
    finish_code: str = ""
    return_url: str = ""
    presentation_box: tuple[int, int] | None = None
    presentation_fps: int | None = None
    presentation_length: str = "keep"

    def __post_init__(self) -> None:
        for holds, sentence in (*self._design_checks(), *self._people_checks(), *self._shown_checks()):
            if not holds:
                raise StudyError(sentence)

    def _design_checks(self) -> tuple[tuple[bool, str], ...]:
        return (
            (bool(self.competitors), "a study needs at least one competitor"),
            (self.candidate not in self.competitors, f"{self.candidate!r} cannot compete with itself"),
            (len(set(self.competitors)) == len(self.competitors), "a competitor is named twice"),
            (self.votes_per_pair >= 1, f"votes per pair must be 1 or more, received {self.votes_per_pair}"),
            (0 < self.alpha < 1, f"alpha must lie between 0 and 1, received {self.alpha}"),
            ("overall" in self.criteria, "'overall' must be among the criteria"),
            (len(set(self.criteria)) == len(self.criteria), "a criterion is named twice"),
            (all(name.strip() for name in self.criteria), "a criterion needs a name"),
            (
                all(name.strip() and prompts for name, prompts in self.categories.items()),
                "a category needs a name and prompts",
            ),
            (self.estimand in ("two-way", "evaluator"), f"unknown estimand {self.estimand!r}"),
            (self.stopping in ("fixed", "sequential"), f"unknown stopping rule {self.stopping!r}"),
            (
                self.equivalence is None or (self.equivalence > 1 and self.stopping == "sequential"),
                f"equivalence must be a ratio above 1 in a study that stops sequentially, received"
                f" {self.equivalence} with {self.stopping!r}",
            ),
            (self.assignment in ("balanced", "adaptive"), f"unknown assignment {self.assignment!r}"),
            (
                self.assignment == "balanced" or self.stopping == "sequential",
                "assignment 'adaptive' needs stopping 'sequential', whose intervals stay valid",
            ),
            (self.side_policy == "permuted-blocks", f"unknown side policy {self.side_policy!r}"),
        )

    def _people_checks(self) -> tuple[tuple[bool, str], ...]:
        shares = {"gold_share": self.gold_share, "repeat_share": self.repeat_share}
        texts = {
            "question": self.question,
            "instructions": self.instructions,
            "consent": self.consent,
            "finish_code": self.finish_code,
        }
        link = urlsplit(self.return_url)
        return (
            (self.quota is None or self.quota >= 1, f"quota must be 1 or more, received {self.quota}"),
            (self.lease_seconds >= 1, f"a lease lasts a second or more, received {self.lease_seconds}"),
            (0 <= self.min_watch <= 1, f"min_watch must lie between 0 and 1, received {self.min_watch}"),
            (
                0 <= self.training_pairs <= 100,
                f"training_pairs must be 0 to 100, received {self.training_pairs}",
            ),
            *(
                (0 <= share <= 0.5, f"{name} must lie between 0 and 0.5, received {share}")
                for name, share in shares.items()
            ),
            (
                self.break_every is None or self.break_every >= 1,
                f"break_every must be 1 or more, received {self.break_every}",
            ),
            *(
                (len(words) <= LONGEST_TEXT, f"{name} may have {LONGEST_TEXT} characters")
                for name, words in texts.items()
            ),
            (
                not self.return_url or (link.scheme == "https" and bool(link.hostname)),
                f"return_url must begin with https://, received {self.return_url!r}",
            ),
        )

    def _shown_checks(self) -> tuple[tuple[bool, str], ...]:
        box, fps = self.presentation_box, self.presentation_fps
        return (
            (
                box is None or all(16 <= side <= 4096 and side % 2 == 0 for side in box),
                f"presentation_box must be two even numbers from 16 to 4096, received {box}",
            ),
            (fps is None or 1 <= fps <= 120, f"presentation_fps must be 1 to 120, received {fps}"),
            (
                self.presentation_length in ("keep", "trim"),
                f"presentation_length must be 'keep' or 'trim', received {self.presentation_length!r}",
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the protocol as plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Protocol":
        """Read a protocol; unknown keys, and values of another type, are refused."""
        known = [item.name for item in fields(cls)]
        unknown = sorted(str(key) for key in set(values) - set(known))
        if unknown:
            raise StudyError(f"unknown protocol keys {', '.join(unknown)}: known ones are {', '.join(known)}")
        return _from_json(json.dumps(values, sort_keys=True))


@lru_cache(maxsize=64)
def _from_json(text: str) -> Protocol:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Protocol).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StudyError(f"protocol key {where}: {first['msg']}") from error


def protocol_digest(protocol: dict[str, Any]) -> str:
    """Return the sha256 of a protocol's canonical JSON."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode("utf-8")).hexdigest()


def read_protocol(path: Path) -> dict[str, Any]:
    """Read a protocol file, YAML or JSON, as the keys it gives.

    Raises:
        StudyError: It cannot be read, is larger than a protocol can be, is no mapping, or uses YAML's aliases,
            of which a few lines can unfold into gigabytes.
    """
    import yaml

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise StudyError(f"{path}: larger than the {MAX_FILE_BYTES} bytes a protocol may have")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise StudyError(f"{path}: YAML aliases are not allowed in a protocol")
        values = yaml.safe_load(text)
    except OSError as error:
        raise StudyError(f"{path}: cannot read the protocol ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: not a UTF-8 text file (byte {error.start})") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise StudyError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise StudyError(f"{path}: expected keys and values, such as 'candidate: NAME'")
    return values


def preset(name: str) -> dict[str, Any]:
    """Return the protocol keys of a preset.

    Raises:
        StudyError: There is no such preset.
    """
    if name not in PRESETS:
        raise StudyError(f"unknown preset {name!r}: known ones are {', '.join(PRESETS)}")
    return dict(PRESETS[name])
