"""Votes by the sprites judge: Good, Same or Bad from ground truth, marked ``automatic`` for good, never a person's.

The judge knows what a sprites prompt asks for. It reads of each video how probable every attribute of the prompt is
(size, colour, shape, background, number of objects and, of clips, the motion) and how sharp the video is beside the
true one, adds them up, and prefers the video with more; within a band the two count as the same.
"""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from arena import media
from arena.columns import new_token, now_utc
from arena.database import Database
from arena.evaluators import enrol_in
from arena.models import Assignment, Enrolment, Evaluator, Pair, Prompt, Study, Video, Vote
from arena.studies import get_study
from arena.tally import OVERALL
from evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from torch import Tensor

    from magicvideo.sprites.judge import SpritesJudge
    from magicvideo.sprites.scene import Scene

ORIGIN = "automatic"
BAND = 0.25  # of the sum of probabilities: a quarter of one attribute
SHARPNESS_WEIGHT = 0.5
CHOICES = {(1, True): "left", (1, False): "right", (-1, True): "right", (-1, False): "left"}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the judge sees of one video or image.

    Attributes:
        attributes: probability that each attribute is as the prompt says, of two objects that it is for both.
        sharpness: variance of the Laplacian as a share of the true video's, at most 1.
    """

    attributes: Mapping[str, float]
    sharpness: float

    @property
    def score(self) -> float:
        """The sum that videos are compared by: 0 to the number of attributes plus ``SHARPNESS_WEIGHT``."""
        return sum(self.attributes.values()) + SHARPNESS_WEIGHT * self.sharpness

    @property
    def right(self) -> float:
        """The share of attributes that are more probably right than not."""
        return sum(value > 0.5 for value in self.attributes.values()) / len(self.attributes)


def read_frames(judge: "SpritesJudge", frames: "Tensor", prompt: str) -> Reading:
    """Read a video, or an image given as a video of one frame.

    Args:
        judge: the sprites judge.
        frames: ``(T, 3, H, W)`` uint8.
        prompt: a sprites prompt of one or two objects.

    Raises:
        EvaluationError: the prompt is none.
    """
    import torch

    from evaluation.systems.sprites_truth import scene_of
    from magicvideo.sprites.judge import FRAMES, prepare
    from magicvideo.sprites.render import render
    from metrics.functional import sharpness

    scene = scene_of(prompt, 0)
    length = len(frames)
    picked = torch.linspace(0, length - 1, FRAMES).round().long() if length > 1 else torch.zeros(1).long()
    shown = frames[picked]
    with torch.inference_mode():
        logits = judge(prepare(shown[None]))
    times = np.linspace(0, 1, len(shown)) if length > 1 else np.zeros(1)
    truth = torch.from_numpy(render(scene, times, frames.shape[-1]).video).permute(0, 3, 1, 2)
    share = float(sharpness(shown)) / max(float(sharpness(truth)), 1e-9)
    return Reading(attributes=_probabilities(logits, scene), sharpness=min(1.0, share))


def verdict(candidate: Reading, competitor: Reading, band: float = BAND) -> int:
    """Return +1, 0 or -1 for good, same or bad, relative to the candidate."""
    difference = candidate.score - competitor.score
    return 0 if abs(difference) <= band else (1 if difference > 0 else -1)


def vote_study(
    database: Database, slug: str, *, judge: "SpritesJudge | None" = None, band: float = BAND
) -> int:
    """Let the judge vote on every pair of a study's main part on which it has not voted yet.

    It takes nobody's place: pairs keep the slots they have for people. Its votes are stored as ``automatic``.

    Args:
        database: where the study is.
        slug: name of the study.
        judge: the embedded one by default.
        band: scores this close are the same.

    Returns:
        How many votes were added.

    Raises:
        arena.errors.StudyError: no such study, or one that takes no votes.
        EvaluationError: a prompt that is no sprites prompt.
    """
    from magicvideo.sprites.judge import load_judge

    judge = judge or load_judge()
    evaluator = _judge_of(database, slug)
    readings: dict[int, Reading] = {}
    added = 0
    for pair, prompt in _open_pairs(database, slug, evaluator):
        for video in (pair.video_a, pair.video_b):
            if video not in readings:
                readings[video] = _read_video(database, judge, video, prompt)
        outcome = verdict(readings[pair.video_a], readings[pair.video_b], band)
        with database.session() as session:
            _store(session, pair, evaluator, outcome)
        added += 1
    return added


def _probabilities(logits: "dict[str, Tensor]", scene: "Scene") -> dict[str, float]:
    """Return the probability of each attribute of a scene, frames averaged in the logarithm.

    One frame has no motion, and no size where objects grow or shrink: a large one that grows begins small.
    """
    from magicvideo.sprites.judge import targets

    wanted = targets([scene])
    means = {name: logits[name].log_softmax(-1).mean(1)[0] for name in ("size", "colour", "shape")}
    if "motion" in logits:
        means["motion"] = logits["motion"][0]
    elif any(item.motion in ("growing", "shrinking") for item in scene.objects):
        del means["size"]
    found = {
        name: math.prod(
            float(values[slot].softmax(-1)[wanted[name][0, slot]]) for slot in range(len(scene.objects))
        )
        for name, values in means.items()
    }
    background = logits["background"].log_softmax(-1).mean(1)[0].softmax(-1)
    found["background"] = float(background[wanted["background"][0]])
    second = logits["second"].mean()
    found["count"] = float((second if len(scene.objects) > 1 else -second).sigmoid())
    return found


def _read_video(database: Database, judge: "SpritesJudge", video_id: int, prompt: str) -> Reading:
    from metrics.video import read_video

    with database.reading() as session:
        content = media.read(session, session.get_one(Video, video_id).media_sha256)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        path.write_bytes(content)
        return read_frames(judge, read_video(path).frames, prompt)


def _judge_of(database: Database, slug: str) -> int:
    """Return the judge's place among a study's evaluators, let in if it is new."""
    pseudonym = f"sprites-judge of {slug}"
    with database.session() as session:
        study = get_study(session, slug)
        if study.state not in ("open", "paused"):
            raise EvaluationError(
                f"study {slug!r} is {study.state}: the judge votes on studies that are open or paused"
            )
        known = session.scalar(
            select(Enrolment.evaluator_id)
            .join(Evaluator, Evaluator.id == Enrolment.evaluator_id)
            .where(Enrolment.study_id == study.id, Evaluator.pseudonym == pseudonym)
        )
        if known is not None:
            return known
        return enrol_in(session, study, pseudonym=pseudonym, origin=ORIGIN).evaluator_id


def _open_pairs(database: Database, slug: str, evaluator: int) -> list[tuple[Pair, str]]:
    with database.reading() as session:
        study = get_study(session, slug)
        voted = select(Assignment.pair_id).where(
            Assignment.study_id == study.id, Assignment.evaluator_id == evaluator
        )
        query = (
            select(Pair, Prompt.text)
            .join(Prompt, Prompt.id == Pair.prompt_id)
            .where(Pair.study_id == study.id, Pair.kind == "main", Pair.id.not_in(voted))
            .order_by(Pair.id)
        )
        return [(pair, text) for pair, text in session.execute(query)]


def _store(session: Session, pair: Pair, evaluator: int, outcome: int) -> None:
    """Write an assignment that is voted already, and its vote; the pair's slots stay for people."""
    moment: datetime = now_utc()
    last = session.scalar(
        select(func.max(Assignment.seq_no)).where(
            Assignment.study_id == pair.study_id, Assignment.evaluator_id == evaluator
        )
    )
    a_on_left = pair.id % 2 == 0
    task = Assignment(
        token=new_token(),
        study_id=pair.study_id,
        pair_id=pair.id,
        evaluator_id=evaluator,
        repeat_no=0,
        seq_no=(last or 0) + 1,
        a_on_left=a_on_left,
        state="voted",
        lease_until=moment,
        nonce_left=new_token(),
        nonce_right=new_token(),
        created_at=moment,
    )
    session.add(task)
    session.flush()
    session.add(
        Vote(
            assignment_id=task.id,
            evaluator_id=evaluator,
            origin=ORIGIN,
            criterion=OVERALL,
            rev=0,
            raw_choice=CHOICES.get((outcome, a_on_left), "same"),
            a_on_left=a_on_left,
            outcome=outcome,
            client_token=new_token(),
            rt_ms=0,
            watched_left_ms=0,
            watched_right_ms=0,
            comment="",
            created_at=moment,
        )
    )
    session.flush()


def automatic_outcomes(session: Session, slug: str) -> list[tuple[str, int]]:
    """Return prompt and verdict (+1, 0, -1 for the candidate) of every automatic vote on a study's main pairs."""
    study: Study = get_study(session, slug)
    query = (
        select(Prompt.text, Vote.outcome)
        .join(Assignment, Assignment.id == Vote.assignment_id)
        .join(Pair, Pair.id == Assignment.pair_id)
        .join(Prompt, Prompt.id == Pair.prompt_id)
        .where(
            Assignment.study_id == study.id,
            Pair.kind == "main",
            Vote.origin == ORIGIN,
            Vote.criterion == OVERALL,
        )
        .order_by(Pair.id)
    )
    found = [(text, outcome) for text, outcome in session.execute(query)]
    if not found:
        raise EvaluationError(f"study {slug!r} has no automatic votes; let the judge vote first")
    return found
