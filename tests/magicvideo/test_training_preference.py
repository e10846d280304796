"""Preference tuning: the loss against closed forms, exact resume, and a model that takes the winners' side."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file

from magicvideo.components import Components
from magicvideo.config import PipelineConfig
from magicvideo.errors import MagicVideoError
from magicvideo.lora import LORA_FILE
from magicvideo.pipeline import MagicVideoPipeline
from magicvideo.training.adapter import add_adapter
from magicvideo.training.preference import (
    DenoisingErrors,
    PreferenceConfig,
    PreferenceObjective,
    diffusion_dpo_loss,
    preference_config,
    rewards,
    shuffled,
    tune,
)
from magicvideo.training.preference_data import PreferencePair, read_preferences
from magicvideo.training.preference_model import load_model
from magicvideo.video import write_video

Rows = list[dict[str, object]]
SHORT = PreferenceConfig(steps=2, batch_size=2, rank=2, warmup=1, save_every=1, precision="float32")


def errors_of(
    winner: float, loser: float, reference_winner: float, reference_loser: float
) -> DenoisingErrors:
    values = (winner, loser, reference_winner, reference_loser)
    w, l, rw, rl = (torch.tensor([value]) for value in values)  # noqa: E741 (the paper's letters)
    return DenoisingErrors(winner=w, loser=l, reference_winner=rw, reference_loser=rl)


def write_set(folder: Path, rows: dict[str, Rows]) -> Path:
    for split, content in rows.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(content), folder / split / "metadata.parquet")
    return folder


def write_images(folder: Path, size: int = 48) -> Path:
    """Write a set in which red pictures win over blue ones: four prompts to train on, one held out."""
    rows: dict[str, Rows] = {"train": [], "test": []}
    rng = np.random.default_rng(0)
    for index, prompt in enumerate(("one", "two", "three", "four", "five")):
        split = "test" if index == 4 else "train"
        (folder / split).mkdir(parents=True, exist_ok=True)
        for kind, colour in (("winner", (230, 30, 30)), ("loser", (30, 30, 230))):
            pixels = np.clip(np.array(colour) + rng.integers(-20, 20, (size, size, 3)), 0, 255).astype(
                np.uint8
            )
            Image.fromarray(pixels).save(folder / split / f"{kind}-{index}.png")
        rows[split].append(
            {
                "winner_file_name": f"winner-{index}.png",
                "loser_file_name": f"loser-{index}.png",
                "prompt": f"a {prompt} star",
                "weight": 1.0,
                "probability": 1.0,
            }
        )
    return write_set(folder, rows)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def checkpoint(
    components: Components, small_config: PipelineConfig, tmp_path_factory: pytest.TempPathFactory
) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    MagicVideoPipeline(components, small_config).save_pretrained(folder)
    return str(folder)


def objective_of(
    pipe: MagicVideoPipeline, folder: Path, config: PreferenceConfig, latents: Path
) -> PreferenceObjective:
    pairs = read_preferences(folder, "train")
    motion = config.layers == "spatial+motion"
    model = load_model(pipe, pairs, stages=config.stages, motion=motion, folder=latents, progress=False)
    add_adapter(model.unet, rank=config.rank, targets=config.targets, motion=motion, seed=config.seed)
    return PreferenceObjective(model, pairs, config)


def test_loss_is_ln_2_where_model_and_reference_agree() -> None:
    assert diffusion_dpo_loss(errors_of(0.3, 0.1, 0.3, 0.1), beta=5000).item() == pytest.approx(
        math.log(2), rel=1e-6
    )


def test_loss_is_the_published_formula() -> None:
    # Winner better by 0.001 and loser worse by 0.0005 than the reference: z = 0.5 * 2000 * 0.0015.
    errors = errors_of(0.099, 0.2005, 0.1, 0.2)
    assert errors.margin(2000).item() == pytest.approx(1.5, rel=1e-4)
    assert diffusion_dpo_loss(errors, beta=2000).item() == pytest.approx(math.log1p(math.exp(-1.5)), rel=1e-4)


def test_smoothing_and_probability_mix_both_labels() -> None:
    errors, z = errors_of(0.099, 0.2005, 0.1, 0.2), 1.5
    won, lost = math.log1p(math.exp(-z)), math.log1p(math.exp(z))
    smoothed = diffusion_dpo_loss(errors, beta=2000, label_smoothing=0.1)
    assert smoothed.item() == pytest.approx(0.9 * won + 0.1 * lost, rel=1e-4)
    even = diffusion_dpo_loss(errors, beta=2000, probability=torch.tensor([0.5]), weight=torch.tensor([3.0]))
    assert even.item() == pytest.approx(3 * (0.5 * won + 0.5 * lost), rel=1e-4)


def test_winner_penalty_counts_only_winners_denoised_worse() -> None:
    better, worse = errors_of(0.099, 0.2005, 0.1, 0.2), errors_of(0.101, 0.2035, 0.1, 0.2)
    assert better.margin(2000, 50) == better.margin(2000)
    # Worse by 0.001, which counts 1 + 3 times; the loser is worse by 0.0035: z = -0.5 * 2000 * (4 * 0.001 - 0.0035).
    assert worse.margin(2000, 3).item() == pytest.approx(-0.5, rel=1e-3)
    loss = diffusion_dpo_loss(worse, beta=2000, winner_penalty=3)
    assert loss.item() == pytest.approx(math.log1p(math.exp(0.5)), rel=1e-3)


def test_exchanging_winner_and_loser_turns_the_margin_round() -> None:
    assert errors_of(0.1, 0.3, 0.2, 0.2).margin(10).item() == -errors_of(0.3, 0.1, 0.2, 0.2).margin(10).item()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_first_step_of_a_fresh_adapter_is_ln_2(
    pipe: MagicVideoPipeline, images: Path, tmp_path: Path, precision: str
) -> None:
    objective = objective_of(pipe, images, SHORT, tmp_path)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        loss = objective.loss(0)
        loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    found = [value.grad for value in objective.model.unet.parameters() if value.grad is not None]
    assert max(value.abs().max().item() for value in found) > 0


def test_winner_and_loser_see_the_same_noise(pipe: MagicVideoPipeline, images: Path, tmp_path: Path) -> None:
    objective = objective_of(pipe, images, SHORT, tmp_path)
    asked = {}

    def record(noisy: torch.Tensor, timesteps: torch.Tensor, files: list[Path]) -> torch.Tensor:
        asked.update(noisy=noisy, timesteps=timesteps, clean=objective.model.latents(files), files=files)
        return torch.zeros_like(noisy)

    objective.model.predict = record  # type: ignore[method-assign, assignment]
    objective.loss(3)
    alpha = pipe.components.scheduler.alphas_cumprod[asked["timesteps"]].view(-1, 1, 1, 1, 1)
    noise = (asked["noisy"] - alpha.sqrt() * asked["clean"]) / (1 - alpha).sqrt()
    torch.testing.assert_close(*noise.chunk(2), atol=2e-3, rtol=0)
    winners, losers = asked["files"][:2], asked["files"][2:]
    assert [path.name for path in losers] == [path.name.replace("winner", "loser") for path in winners]


def test_tuned_model_takes_the_winners_side_on_held_out_prompts(
    checkpoint: str, images: Path, tmp_path: Path
) -> None:
    config = replace(
        SHORT, checkpoint=checkpoint, steps=10, rank=4, targets="all", learning_rate=1e-2, ema_decay=0.5
    )
    result = tune(config, images, tmp_path, progress=False)
    last = result["monitored"][-1]  # type: ignore[index]
    assert last["held_out_agreement"] > 0.8
    assert last["held_out_loss"] < 0.6
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert rows[-1]["held_out_agreement"] == last["held_out_agreement"]
    assert json.loads((tmp_path / "adapter" / "adapter.json").read_text())["stages"] == "t2i"


@pytest.mark.slow
def test_interrupted_tuning_equals_an_uninterrupted_one(
    checkpoint: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SHORT, checkpoint=checkpoint)
    tune(config, images, tmp_path / "whole", progress=False)
    loss: Callable[[PreferenceObjective, int], torch.Tensor] = PreferenceObjective.loss

    def stop_after_first(self: PreferenceObjective, step: int) -> torch.Tensor:
        if step == 1:
            raise KeyboardInterrupt
        return loss(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(PreferenceObjective, "loss", stop_after_first)
        with pytest.raises(KeyboardInterrupt):
            tune(config, images, tmp_path / "parts", progress=False)
    assert not (tmp_path / "parts" / "adapter").exists()
    tune(config, images, tmp_path / "parts", progress=False)
    whole, parts = (load_file(tmp_path / name / "adapter" / LORA_FILE) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    with pytest.raises(MagicVideoError, match="differs in beta"):
        tune(replace(config, beta=2000.0), images, tmp_path / "parts", progress=False)


def test_rewards_weigh_the_error_of_every_file(
    pipe: MagicVideoPipeline, images: Path, tmp_path: Path
) -> None:
    objective = objective_of(pipe, images, replace(SHORT, method="reward-weighted"), tmp_path)
    with torch.no_grad():
        once = objective.loss(0)
        objective.files = {path: 2 * weight for path, weight in objective.files.items()}
        assert objective.loss(0).item() == pytest.approx(2 * once.item(), rel=1e-5)


def test_rewards_are_shares_of_pairs_won() -> None:
    a, b, c = Path("a"), Path("b"), Path("c")
    pairs = [
        PreferencePair(prompt="p", winner=a, loser=b),
        PreferencePair(prompt="p", winner=a, loser=c, probability=0.75),
        PreferencePair(prompt="p", winner=b, loser=c, weight=3.0),
    ]
    assert rewards(pairs) == pytest.approx({a: 0.875, b: 0.75, c: 0.0625})


def test_sft_trains_on_winners_and_reward_weights_have_mean_one(
    pipe: MagicVideoPipeline, images: Path, tmp_path: Path
) -> None:
    chosen = objective_of(pipe, images, replace(SHORT, method="sft"), tmp_path).files
    assert {path.name[:6] for path in chosen} == {"winner"}
    weighted = objective_of(pipe, images, replace(SHORT, method="reward-weighted"), tmp_path).files
    assert np.mean(list(weighted.values())) == pytest.approx(1)
    by_kind = {path.name[:5]: weight for path, weight in weighted.items()}
    assert by_kind["winne"] / by_kind["loser"] == pytest.approx(math.exp(1 / 0.5), rel=1e-5)


def test_shuffling_exchanges_about_half_and_nothing_else() -> None:
    pairs = [PreferencePair(prompt="p", winner=Path(f"w{i}"), loser=Path(f"l{i}")) for i in range(400)]
    drawn = shuffled(pairs, 0)
    exchanged = sum(pair.winner.name[0] == "l" for pair in drawn)
    assert 160 < exchanged < 240
    assert all({a.winner, a.loser} == {b.winner, b.loser} for a, b in zip(pairs, drawn, strict=True))
    assert drawn == shuffled(pairs, 0)
    assert drawn != shuffled(pairs, 1)


def write_videos(folder: Path, frames: int, size: int = 48) -> Path:
    rows: dict[str, Rows] = {"train": [], "test": []}
    rng = np.random.default_rng(1)
    for index in range(3):
        split = "test" if index == 2 else "train"
        (folder / split).mkdir(parents=True, exist_ok=True)
        for kind in ("winner", "loser"):
            pixels = rng.integers(0, 256, (frames, size, size, 3)).astype(np.uint8)
            write_video(folder / split / f"{kind}-{index}.mp4", pixels, 10)
        rows[split].append(
            {
                "winner_file_name": f"winner-{index}.mp4",
                "loser_file_name": f"loser-{index}.mp4",
                "prompt": f"prompt {index}",
                "weight": 0.5,
                "probability": 0.75,
            }
        )
    return write_set(folder, rows)


@pytest.mark.parametrize("frames", [7, 3])
def test_videos_tune_i2v_with_its_motion_modules(
    components: Components, small_config: PipelineConfig, tmp_path: Path, frames: int
) -> None:
    folder = write_videos(tmp_path / "set", frames)  # three keyframes, with and without interpolated ones
    own = MagicVideoPipeline(copy.deepcopy(components), small_config)
    config = replace(SHORT, stages="all", layers="spatial+motion")
    objective = objective_of(own, folder, config, tmp_path / "latents")
    assert objective.model.latents([objective.pairs[0].winner]).shape == (1, 4, 3, 4, 4)
    loss = objective.loss(0)
    # A pair of weight one half, whatever its probability.
    assert loss.item() == pytest.approx(0.5 * math.log(2), abs=1e-5)
    loss.backward()
    moved = {name for name, value in objective.model.unet.named_parameters() if value.grad is not None}
    assert any("motion_modules" in name for name in moved)
    assert any("attentions" in name for name in moved)
    assert all("lora_" in name for name in moved)


def test_text_to_image_learns_from_opening_frames(pipe: MagicVideoPipeline, tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "set", 5)
    objective = objective_of(pipe, folder, SHORT, tmp_path / "latents")
    assert objective.model.latents([objective.pairs[0].winner]).shape == (1, 4, 1, 6, 6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "ppo"}, "unknown method 'ppo'; known: dpo"),
        ({"beta": 0.0}, "beta must be above 0"),
        ({"label_smoothing": 0.5}, "below 0.5"),
        ({"winner_penalty": -1.0}, "winner_penalty must be at least 0"),
        ({"layers": "spatial+motion"}, "text-to-image has no motion modules"),
        ({"lowest_timestep": 1.0}, "lowest_timestep"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(MagicVideoError, match=words):
        PreferenceConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"betta": 1.0}, "unknown option 'betta' of tuning; known: checkpoint"),
        ({"beta": "high"}, "beta must be of type float"),
        ({"steps": 1.5}, "steps must be of type int"),
        ({"shuffle_labels": 1}, "shuffle_labels must be of type bool"),
    ],
)
def test_options_of_another_type_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(MagicVideoError, match=words):
        preference_config(values)


def test_whole_numbers_are_read_as_fractions() -> None:
    assert preference_config({"beta": 2000}).beta == 2000


def test_sets_that_do_not_fit_the_checkpoint_are_refused(pipe: MagicVideoPipeline, tmp_path: Path) -> None:
    motion = replace(SHORT, stages="all", layers="spatial+motion")
    with pytest.raises(MagicVideoError, match="learn nothing from images"):
        objective_of(pipe, write_images(tmp_path / "images"), motion, tmp_path)
    with pytest.raises(MagicVideoError, match="64x64, and this checkpoint makes 48x48"):
        objective_of(pipe, write_images(tmp_path / "large", size=64), SHORT, tmp_path)
    with pytest.raises(MagicVideoError, match="videos of 5 frames"):
        objective_of(pipe, write_videos(tmp_path / "short", 5), replace(SHORT, stages="all"), tmp_path)
