"""The sprites judge as a voter: right on rendered clips, automatic in the database, never in people's place."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import select
from torch.nn.functional import avg_pool2d, interpolate

from arena import assignment, studies
from arena.database import Database
from arena.models import Pair, Vote
from arena.protocol import Protocol
from arena.report_data import study_report
from evaluation.errors import EvaluationError
from evaluation.judge_votes import Reading, automatic_outcomes, read_frames, verdict, vote_study
from evaluation.runs import make_videos
from evaluation.systems.base import Clip
from evaluation.systems.sprites_truth import SpritesTruth
from magicvideo.sprites.judge import SpritesJudge, load_judge

PROMPTS = (
    "a large red star spinning on a snow background",
    "a small blue circle moving right on a meadow background",
)
WRONG = "a large green cross moving up on an ocean background"


class WrongPrompt(SpritesTruth):
    """The true clip of another prompt."""

    def generate(self, prompt: str, seed: int) -> Clip:
        return super().generate(WRONG, seed)


@pytest.fixture(scope="module")
def judge() -> SpritesJudge:
    return load_judge()


def frames_of(prompt: str, count: int, size: int = 128) -> torch.Tensor:
    clip = SpritesTruth(size=size, num_frames=count).generate(prompt, 3)
    return torch.from_numpy(np.asarray(clip.frames)).permute(0, 3, 1, 2)


def test_true_clip_is_preferred_to_a_wrong_one(judge: SpritesJudge) -> None:
    right, wrong = (read_frames(judge, frames_of(prompt, 6), PROMPTS[0]) for prompt in (PROMPTS[0], WRONG))
    assert set(right.attributes) == {"size", "colour", "shape", "motion", "background", "count"}
    assert right.right > 0.8
    assert wrong.attributes["colour"] < 0.2
    assert (verdict(right, wrong), verdict(wrong, right), verdict(right, right)) == (1, -1, 0)


def test_image_has_no_motion_and_blur_costs_sharpness(judge: SpritesJudge) -> None:
    image = frames_of(PROMPTS[0], 1)
    blurred = interpolate(avg_pool2d(image.float(), 8), scale_factor=8, mode="bilinear").to(torch.uint8)
    sharp, soft = (read_frames(judge, frames, PROMPTS[0]) for frames in (image, blurred))
    assert "motion" not in sharp.attributes
    assert soft.sharpness < 0.5 * sharp.sharpness <= 0.5


def test_both_of_two_objects_must_be_as_asked(judge: SpritesJudge) -> None:
    pair = "a small red star moving up and a small blue circle moving down on a snow background"
    clip = frames_of(pair, 6)
    right = read_frames(judge, clip, pair)
    wrong = read_frames(judge, clip, pair.replace("blue", "green"))
    alone = read_frames(judge, clip, "a small red star moving up on a snow background")
    assert right.right > 0.8
    assert wrong.attributes["colour"] < 0.1 < 0.9 < right.attributes["colour"]
    assert alone.attributes["count"] < 0.1 < 0.9 < right.attributes["count"]


@pytest.mark.parametrize(("motion", "sized"), [("growing", False), ("shrinking", False), ("spinning", True)])
def test_one_frame_of_a_changing_size_is_not_asked_for_it(
    judge: SpritesJudge, motion: str, sized: bool
) -> None:
    prompt = PROMPTS[0].replace("spinning", motion)
    assert ("size" in read_frames(judge, frames_of(prompt, 1), prompt).attributes) == sized
    assert "size" in read_frames(judge, frames_of(prompt, 6), prompt).attributes


def test_band_makes_close_scores_the_same() -> None:
    one, two = (Reading(attributes={"colour": p}, sharpness=1) for p in (0.9, 0.7))
    assert verdict(one, two, band=0.25) == 0
    assert verdict(one, two, band=0.1) == 1


def test_other_prompts_are_refused(judge: SpritesJudge) -> None:
    with pytest.raises(EvaluationError, match="no sprites prompt"):
        read_frames(judge, frames_of(PROMPTS[0], 1), "a dog on a skateboard")


def opened_study(database: Database, folder: Path, systems: Sequence[SpritesTruth]) -> None:
    make_videos(database, systems, PROMPTS, folder=folder, progress=False)
    names = [system.name for system in systems]
    protocol = Protocol(candidate=names[0], competitors=tuple(names[1:]), min_watch=0.0)
    with database.session() as session:
        studies.create_study(session, "study", protocol)
    studies.open_study(database, "study")


def test_votes_are_automatic_and_leave_peoples_slots_alone(
    database: Database, tmp_path: Path, judge: SpritesJudge
) -> None:
    sides = [
        WrongPrompt(size=64, num_frames=6, name="wrong"),
        SpritesTruth(size=64, num_frames=6, name="truth"),
    ]
    opened_study(database, tmp_path / "videos", sides)
    assert vote_study(database, "study", judge=judge) == 2
    assert vote_study(database, "study", judge=judge) == 0  # nothing twice
    with database.reading() as session:
        assert set(session.scalars(select(Vote.origin))) == {"automatic"}
        assert {pair.slots_left for pair in session.scalars(select(Pair))} == {1}
        assert sorted(automatic_outcomes(session, "study")) == sorted((prompt, -1) for prompt in PROMPTS)
        report = study_report(session, "study")
        assert (report["data_origin"]["automatic"], report["data_origin"]["human"]) == (2, 0)
        assert report["comparisons"] == []
        assert studies.study_status(session, "study").votes == 0
    with database.session() as session:
        token = studies.enrol(session, "study").token
    assert assignment.lease(database, token) is not None


def test_closed_studies_take_no_automatic_votes(
    database: Database, tmp_path: Path, judge: SpritesJudge
) -> None:
    sides = [SpritesTruth(size=64, num_frames=2, name=name) for name in ("one", "two")]
    opened_study(database, tmp_path / "videos", sides)
    studies.close_study(database, "study")
    with pytest.raises(EvaluationError, match="is closed"):
        vote_study(database, "study", judge=judge)
