import json

import numpy as np
import pytest
import torch

from magicvideo.errors import MagicVideoError
from magicvideo.pipeline import MagicVideoPipeline
from magicvideo.sprites import evaluation
from magicvideo.sprites.judge import ABSENT, FRAMES, SIDE, SpritesJudge, Verdicts, agreement, prepare, targets
from magicvideo.sprites.render import render
from magicvideo.sprites.scene import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES, sample_scene
from magicvideo.training.autoencoder import build_autoencoder
from magicvideo.training.judge import WAVER, judge_loss, judged_clips, train_judge, train_on_openings, waver
from magicvideo.training.loop import TrainConfig
from magicvideo.vfi.quality import gap_quality


@pytest.fixture(scope="module")
def judge() -> SpritesJudge:
    torch.manual_seed(0)
    return SpritesJudge().eval()


def test_targets_name_every_attribute_and_leave_an_empty_slot_out() -> None:
    scenes = [
        sample_scene(np.random.default_rng(index), num_objects=count) for index, count in enumerate((1, 2))
    ]
    wanted = targets(scenes)
    first, second = scenes[1].objects
    assert wanted["shape"][1].tolist() == [SHAPES.index(first.shape), SHAPES.index(second.shape)]
    assert wanted["motion"][0].tolist() == [MOTIONS.index(scenes[0].objects[0].motion), ABSENT]
    assert wanted["second"].tolist() == [0, 1]


def test_agreement_asks_for_every_object_of_a_scene() -> None:
    scene = sample_scene(np.random.default_rng(3), num_objects=2)
    truth = {name: targets([scene])[name].clone() for name in ("size", "colour", "shape", "motion")}
    background = torch.tensor([BACKGROUNDS.index(scene.background)])
    right = agreement(Verdicts(background, torch.tensor([2]), truth), [scene])
    assert all(bool(value) for value in right.values())
    wrong = truth | {"colour": truth["colour"].clone()}
    wrong["colour"][0, 1] = (wrong["colour"][0, 1] + 1) % len(COLOURS)
    found = agreement(Verdicts(background, torch.tensor([2]), wrong), [scene])
    assert not bool(found["colour"])
    assert not bool(found["object"])
    assert bool(found["shape"])


def test_the_judge_gives_the_same_verdict_of_a_clip_at_any_size_and_length(judge: SpritesJudge) -> None:
    scene = sample_scene(np.random.default_rng(5))
    clips = [
        torch.from_numpy(render(scene, np.linspace(0, 1, count), SIDE).video).permute(0, 3, 1, 2)
        for count in (FRAMES, 6 * FRAMES - 5)
    ]
    one, two = (judge.judge(clip[None]) for clip in clips)
    assert {name: value.tolist() for name, value in one.objects.items()} == {
        name: value.tolist() for name, value in two.objects.items()
    }


def test_a_single_image_has_no_motion(judge: SpritesJudge) -> None:
    image = torch.zeros(1, 1, 3, 40, 40, dtype=torch.uint8)
    assert set(judge.judge(image).objects) == {"size", "colour", "shape"}
    assert prepare(image).shape == (1, 1, 3, SIDE, SIDE)


def test_untrained_loss_is_that_of_guessing() -> None:
    clips, scenes = judged_clips(2, 0, split="train", num_objects=(2,))
    sizes = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}
    logits = {name: torch.zeros(2, FRAMES, 2, len(words)) for name, words in sizes.items()}
    logits |= {
        "background": torch.zeros(2, FRAMES, len(BACKGROUNDS)),
        "second": torch.zeros(2, FRAMES),
        "motion": torch.zeros(2, 2, len(MOTIONS)),
    }
    guesses = [*(len(words) for words in sizes.values()), len(BACKGROUNDS), 2, len(MOTIONS)]
    assert float(judge_loss(logits, targets(scenes))) == pytest.approx(sum(np.log(guesses)), rel=1e-5)
    assert clips.shape == (2, FRAMES, 3, SIDE, SIDE)


def test_training_lowers_the_loss_and_records_accuracy_on_held_out_clips(tmp_path, monkeypatch) -> None:
    config = TrainConfig(steps=12, batch_size=4, learning_rate=3e-3, warmup=1, log_every=4, autocast=False)
    recipe = train_judge(tmp_path, [config], clips=8, held_out=4)
    curve = [loss for _, loss in recipe["curve"]]
    assert curve[-1] < curve[0]
    assert set(recipe["validation"]) >= {"object", "motion", "background", "object_of_first_frame"}
    loaded = SpritesJudge.from_pretrained(tmp_path / "model")
    assert sum(value.numel() for value in loaded.parameters()) < 200_000


def test_wavering_moves_pixels_a_little_and_each_frame_on_its_own() -> None:
    side = 64
    ramp = torch.linspace(0, 1, side).expand(1, 4, 3, side, side)
    moved = waver(ramp, torch.Generator().manual_seed(0))
    shift = (moved - ramp) * (side - 1) / side  # of a ramp as wide as the frame, in units of the side
    assert 0 < float(shift.std()) < WAVER
    assert float((moved[0, 0] - moved[0, 1]).abs().max()) > 0
    assert torch.equal(moved, waver(ramp, torch.Generator().manual_seed(0)))


def test_training_on_openings_reads_single_frames_and_records_them(tmp_path) -> None:
    config = TrainConfig(steps=4, batch_size=2, learning_rate=1e-3, warmup=1, log_every=2, autocast=False)
    torch.manual_seed(0)
    recipe = train_on_openings(
        SpritesJudge(), build_autoencoder(), tmp_path, config, size=48, clips=4, openings=6, held_out=4
    )
    assert {"object", "object_of_first_frame", "object_through_the_autoencoder"} <= set(recipe["validation"])
    assert len(recipe["curve"]) == 2
    SpritesJudge.from_pretrained(tmp_path / "model")


def test_held_out_scenes_are_fixed_and_held_out() -> None:
    scenes = evaluation.held_out_scenes(80, 1)
    assert all(scene.held_out and len(scene.objects) == 1 for scene in scenes)
    assert len({scene.caption for scene in scenes}) == 80
    assert [scene.caption for scene in evaluation.held_out_scenes(3, 1)] == [s.caption for s in scenes[:3]]


def test_share_has_wilsons_interval() -> None:
    # Wilson's interval of 45 of 50, as statsmodels' proportion_confint(45, 50, method="wilson") gives it.
    bar = evaluation._interval("x", [True] * 45 + [False] * 5, 0.85)
    assert (bar.low, bar.high) == pytest.approx((0.786398, 0.956524), abs=1e-5)
    assert bar.reached is True


def test_a_linear_cross_fade_has_even_steps_and_loses_sharpness() -> None:
    generator = torch.Generator().manual_seed(0)
    first, last = (torch.rand(3, 96, 96, generator=generator) for _ in range(2))
    frames = [first, (2 * first + last) / 3, (first + 2 * last) / 3, last]
    clip = torch.stack([(frame * 255).round().to(torch.uint8) for frame in frames])
    found = gap_quality(clip.float() / 255)
    assert found["cadence_ratio"] == pytest.approx(1.0, abs=0.02)
    assert found["sharpness"] == pytest.approx(5 / 9, abs=0.03)  # variance of a blend of independent noise


def test_an_evaluation_asks_more_of_images_than_of_videos_and_goes_on_where_it_was(
    pipe: MagicVideoPipeline, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(evaluation, "REAL_CLIPS", 4)
    asked = {"prompts": 1, "references": 3, "pair_prompts": 1}
    table = {bar.name: bar for bar in evaluation.evaluate(pipe, tmp_path, **asked)}
    assert table["reference image: shape and colour"].n == 3
    assert table["final video: motion"].n == 1
    assert table["two objects, reference image: shapes and colours"].n == 1
    assert table["judge on real first frames: shape and colour"].n == 4
    lines = {
        name: (tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("references", "verdicts")
    }
    assert [len(found) for found in lines.values()] == [4, 2]
    again = {bar.name: bar for bar in evaluation.evaluate(pipe, tmp_path, **asked)}
    assert again == table
    assert (tmp_path / "verdicts.jsonl").read_text().splitlines() == lines["verdicts"]
    with pytest.raises(MagicVideoError, match="or judge"):
        evaluation.evaluate(pipe, tmp_path, judge=SpritesJudge().eval(), **asked)


def test_verdicts_resume_and_those_of_another_checkpoint_are_refused(tmp_path) -> None:
    path = tmp_path / "verdicts.jsonl"
    assert evaluation.read_verdicts(path, "this") == {}
    path.write_text(json.dumps({"of": "this", "prompt": "x"}) + '\n{"pipeline": "th')
    assert list(evaluation.read_verdicts(path, "this")) == ["x"]
    with pytest.raises(MagicVideoError, match="another checkpoint"):
        evaluation.read_verdicts(path, "that")


def test_rows_start_with_what_is_furthest_below_its_bar() -> None:
    bars = [
        evaluation.Bar(name="good", value=0.95, n=9, wanted=0.9),
        evaluation.Bar(name="poor", value=0.1, n=9, wanted=0.9),
        evaluation.Bar(name="short", value=0.85, n=9, wanted=0.9),
        evaluation.Bar(name="told", value=5.0, n=9),
    ]
    assert [row["name"] for row in evaluation.as_rows(bars)][:2] == ["poor", "short"]
