"""Votes of a study as a preference set: pairs of winner and loser to tune a model on, split by prompt.

Only overall votes on pairs that count are taken, the last revision of each, of one origin (people by default), and
never those of excluded evaluators. Only pairs of two videos of our own pipeline are kept: others say nothing about
its latents. A vote counts as much as its evaluator proved reliable on gold and repeated pairs.
"""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from arena import media
from arena.catalogue import system_label
from arena.models import Assignment, Enrolment, Evaluator, Pair, Run, Study, Video, Vote
from arena.oversight import GOLD_VOTES, REPEAT_VOTES, Conduct, participants
from arena.studies import get_study
from arena.tally import OVERALL, latest_votes
from evaluation.errors import EvaluationError

Ties = Literal["drop", "smooth"]
Content = Callable[[str], tuple[bytes, str]]
Origin = Literal["human", "automatic", "simulated"]
TEST_SHARE = 0.2
TIES_SAID = {
    "drop": "Ties are dropped; a pair's weight is its margin, (won - lost) / (won + lost).",
    "smooth": "Ties count half for each side (conservative DPO): the probability that the winner is preferred is "
    "(won + ties / 2) / votes, and every pair has weight 1.",
}


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Votes on two videos of one prompt, summed over evaluators by their quality.

    Attributes:
        prompt: what both were made from.
        first, second: the two, as the set's writer knows them.
        good, same, bad: votes for the first, for neither, for the second.
    """

    prompt: str
    first: str
    second: str
    good: float
    same: float
    bad: float


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A row of a preference set; see ``magicvideo.training.preference_data.PreferencePair``."""

    prompt: str
    winner: str
    loser: str
    weight: float
    probability: float


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What became a preference set, and what did not.

    Attributes:
        pairs: rows written, by split.
        prompts: prompts, by split.
        left_out: pairs that were left out, by reason.
        ties: how they were treated, in words.
    """

    pairs: Mapping[str, int]
    prompts: Mapping[str, int]
    left_out: Mapping[str, int]
    ties: str

    @property
    def sentence(self) -> str:
        """Say it in words."""
        said = (
            f"{self.pairs['train']} pairs of {self.prompts['train']} prompts to train on, {self.pairs['test']} of "
            f"{self.prompts['test']} to test on. {self.ties}"
        )
        if self.left_out:
            said += " Left out: " + ", ".join(f"{n} {reason}" for reason, n in self.left_out.items()) + "."
        return said


def export_preferences(
    session: Session,
    slug: str,
    folder: Path,
    *,
    origin: Origin = "human",
    ties: Ties = "drop",
    test_share: float = TEST_SHARE,
) -> Exported:
    """Write the votes of a study as a preference set.

    Args:
        session: an open session.
        slug: the study.
        folder: receives the set; must be new or empty.
        origin: whose votes; votes of people and automatic ones never meet in one set.
        ties: see ``TIES_SAID``.
        test_share: share of the prompts that are held out of training.

    Raises:
        arena.errors.StudyError: there is no such study.
        EvaluationError: no votes of that origin, only foreign videos, only contradictory votes, a single prompt,
            or a folder that is in use.
    """
    study = get_study(session, slug)
    if study.kind != "arena":
        raise EvaluationError(
            f"study {slug!r} was imported: its votes name no videos in this database, so nothing can be tuned on them"
        )
    tallies, foreign = tally_votes(session, study, origin)
    videos = {video.id: video for video in _own_videos(session, study)}
    preferences, left_out = decide(tallies, ties, what=f"study {slug!r}")
    if foreign:
        left_out = {"with a foreign system's video": foreign} | left_out

    def content(key: str) -> tuple[bytes, str]:
        video = videos[int(key)]
        return media.read(session, video.media_sha256), ".mp4"

    makers = {str(key): system_label(video.system) for key, video in videos.items()}
    about = f"Votes of study {slug!r}, origin: {origin}."
    return write_set(
        folder,
        preferences,
        content,
        makers=makers,
        ties=ties,
        left_out=left_out,
        about=about,
        test_share=test_share,
    )


def tally_votes(session: Session, study: Study, origin: Origin) -> tuple[list[Tally], int]:
    """Return the votes by pair of our own videos, and how many pairs were foreign.

    Raises:
        EvaluationError: there are no votes of that origin, or all of them are on foreign videos.
    """
    query = (
        latest_votes(study.id)
        .join(Pair, Pair.id == Assignment.pair_id)
        .join(Evaluator, Evaluator.id == Vote.evaluator_id)
        .join(
            Enrolment,
            (Enrolment.study_id == Assignment.study_id) & (Enrolment.evaluator_id == Vote.evaluator_id),
        )
        .where(
            Pair.kind == "main",
            Vote.criterion == OVERALL,
            Vote.origin == origin,
            Assignment.repeat_no == 0,
            Enrolment.state != "excluded",
        )
        .with_only_columns(Pair.video_a, Pair.video_b, Vote.outcome, Evaluator.pseudonym)
    )
    votes = session.execute(query).all()
    if not votes:
        raise EvaluationError(
            f"study {study.slug!r} has no votes of origin {origin!r} that count; collect some, or choose another origin"
        )
    trust = {person.pseudonym: quality(person.conduct) for person in participants(session, study)}
    ours = {video.id: video.prompt.text for video in _own_videos(session, study)}
    counts: dict[tuple[int, int], list[float]] = {}
    foreign = set()
    for first, second, outcome, pseudonym in votes:
        if first not in ours or second not in ours:
            foreign.add((first, second))
            continue
        flipped = first > second
        key = (second, first) if flipped else (first, second)
        found = counts.setdefault(key, [0.0, 0.0, 0.0])
        found[1 - (-outcome if flipped else outcome)] += trust[pseudonym]
    if not counts:
        raise EvaluationError(
            f"all {len(foreign)} pairs of study {study.slug!r} hold a video of a foreign system, whose latent space is "
            f"not this model's; compare arms or seeds of our own pipeline to learn from votes"
        )
    tallies = [
        Tally(prompt=ours[first], first=str(first), second=str(second), good=good, same=same, bad=bad)
        for (first, second), (good, same, bad) in sorted(counts.items())
        if good + same + bad > 0
    ]
    return tallies, len(foreign)


def quality(conduct: Conduct) -> float:
    """Return how much an evaluator's votes count, 0 to 1: the shares of gold and repeated pairs judged as expected.

    A share is taken where there are enough such pairs to judge by (the limits of ``arena.oversight``), else 1.
    """
    gold = conduct.gold_passed / conduct.gold if conduct.gold >= GOLD_VOTES else 1.0
    repeats = conduct.repeats_kept / conduct.repeats if conduct.repeats >= REPEAT_VOTES else 1.0
    return gold * repeats


def decide(tallies: Sequence[Tally], ties: Ties, *, what: str) -> tuple[list[Preference], dict[str, int]]:
    """Return winners and losers with weights and probabilities, and what was left out.

    Raises:
        EvaluationError: nothing is left: the votes contradict one another, or all are ties.
    """
    preferences: list[Preference] = []
    left_out: Counter[str] = Counter()
    for row in tallies:
        won, lost = max(row.good, row.bad), min(row.good, row.bad)
        winner, loser = (row.first, row.second) if row.good >= row.bad else (row.second, row.first)
        if won == lost and (ties == "drop" or won > 0):
            left_out["with contradictory votes" if won else "with nothing but ties"] += 1
            continue
        smooth = ties == "smooth"
        preferences.append(
            Preference(
                prompt=row.prompt,
                winner=winner,
                loser=loser,
                weight=1.0 if smooth else (won - lost) / (won + lost),
                probability=(won + row.same / 2) / (won + row.same + lost) if smooth else 1.0,
            )
        )
    if not any(row.weight * (row.probability - 0.5) > 0 for row in preferences):
        reasons = ", ".join(f"{n} pairs {reason}" for reason, n in left_out.items()) or "every vote is a tie"
        raise EvaluationError(
            f"the votes of {what} prefer nothing ({reasons}); there is nothing to learn from them"
        )
    return preferences, dict(left_out)


def write_set(
    folder: Path,
    preferences: Sequence[Preference],
    content: Content,
    *,
    makers: Mapping[str, str],
    ties: Ties,
    left_out: Mapping[str, int],
    about: str,
    test_share: float = TEST_SHARE,
) -> Exported:
    """Write a preference set as a Hugging Face dataset folder, whole or not at all.

    Args:
        folder: receives it; must be new or empty.
        preferences: its rows.
        content: returns bytes and file ending of a winner or loser.
        makers: the system behind each of them.
        ties: how ties were treated.
        left_out: pairs that were left out, by reason.
        about: a sentence on where the preferences come from.
        test_share: share of the prompts that are held out of training.

    Raises:
        EvaluationError: a single prompt, the folder is in use, or cannot be written.
    """
    splits = split_by_prompt([row.prompt for row in preferences], test_share)
    if folder.exists() and any(folder.iterdir()):
        raise EvaluationError(f"{folder} is not empty; name a new folder for the preference set")
    temporary = folder.with_name(folder.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for split in ("train", "test"):
            rows = [row for row in preferences if splits[row.prompt] == split]
            _write_split(temporary / split, rows, content, makers)
        counts = Counter(splits[row.prompt] for row in preferences)
        exported = Exported(
            pairs={split: counts[split] for split in ("train", "test")},
            prompts=Counter(splits.values()),
            left_out=dict(left_out),
            ties=TIES_SAID[ties],
        )
        (temporary / "README.md").write_text(_card(exported, about), encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    except OSError as error:
        raise EvaluationError(f"{folder} cannot be written: {error}; choose another folder") from error
    return exported


def split_by_prompt(prompts: Sequence[str], test_share: float) -> dict[str, str]:
    """Return ``train`` or ``test`` for each prompt: those whose text has the smallest hashes are held out.

    Raises:
        EvaluationError: one prompt alone, of which none could be held out, or a share that leaves none.
    """
    ordered = sorted(set(prompts), key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    if len(ordered) < 3:
        shown = "prompt" if len(ordered) == 1 else "prompts"
        raise EvaluationError(
            f"the preferences are of {len(ordered)} {shown}; at least two to train on and one to test on are needed, "
            f"so collect votes on more prompts"
        )
    if not 0 < test_share < 1:
        raise EvaluationError(f"the share of prompts to test on must lie between 0 and 1, got {test_share:g}")
    held_out = min(max(1, round(test_share * len(ordered))), len(ordered) - 2)
    return {text: "test" if index < held_out else "train" for index, text in enumerate(ordered)}


def _own_videos(session: Session, study: Study) -> list[Video]:
    """Return the videos of a study that our pipeline made: their runs hold its configuration."""
    pairs = select(Pair.video_a, Pair.video_b).where(Pair.study_id == study.id)
    shown = {video for row in session.execute(pairs) for video in row}
    configs = session.execute(select(Run.id, Run.config)).all()
    runs = {run for run, config in configs if isinstance(config.get("pipeline"), dict)}
    videos = session.scalars(select(Video).order_by(Video.id)).unique()
    return [video for video in videos if video.id in shown and video.run_id in runs]


def _write_split(
    folder: Path, rows: Sequence[Preference], content: Content, makers: Mapping[str, str]
) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise EvaluationError("a preference set needs pyarrow: pip install pyarrow") from error
    folder.mkdir(parents=True)
    names: dict[str, str] = {}
    for key in dict.fromkeys(key for row in rows for key in (row.winner, row.loser)):
        data, ending = content(key)
        names[key] = hashlib.sha256(data).hexdigest()[:32] + ending
        (folder / names[key]).write_bytes(data)
    columns: dict[str, tuple[list[Any], Any]] = {
        "winner_file_name": ([names[row.winner] for row in rows], pyarrow.string()),
        "loser_file_name": ([names[row.loser] for row in rows], pyarrow.string()),
        "prompt": ([row.prompt for row in rows], pyarrow.string()),
        "weight": ([row.weight for row in rows], pyarrow.float64()),
        "probability": ([row.probability for row in rows], pyarrow.float64()),
        "winner_system": ([makers[row.winner] for row in rows], pyarrow.string()),
        "loser_system": ([makers[row.loser] for row in rows], pyarrow.string()),
    }
    table = pyarrow.table({name: pyarrow.array(values, kind) for name, (values, kind) in columns.items()})
    parquet.write_table(table, folder / "metadata.parquet")


def _card(exported: Exported, about: str) -> str:
    """Return the dataset's README, whose head Hugging Face's viewer reads."""
    return (
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: train/*\n  - split: test\n    path: test/*\n"
        "tags:\n- preference\n- text-to-video\n---\n\n"
        f"# Preference set\n\n{about} {exported.sentence}\n\n"
        "Each row of `metadata.parquet` is a pair of files of one prompt: the winner, the loser, the pair's weight\n"
        "and the probability that the winner is preferred. No prompt is in both splits. Files that are equal to the\n"
        "last byte are one file.\n"
    )
