"""Training: interrupted runs resume exactly, batches depend on (seed, step) alone, losses reach the right parts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from magicvideo.appearance import attach_appearance
from magicvideo.backbone import inflate, motion_parameters, zero_motion_output
from magicvideo.errors import MagicVideoError
from magicvideo.sprites import architecture
from magicvideo.training.autoencoder import build_autoencoder, train_autoencoder
from magicvideo.training.data import frame_pool
from magicvideo.training.diffusion import (
    Conditions,
    ImageBatches,
    LatentPool,
    VideoBatches,
    VideoParts,
    VideoPool,
    add_noise,
    degrade,
    encode_frames,
    image_alphas,
    tokenize,
    train_own_layers,
    video_parameters,
)
from magicvideo.training.loop import TrainConfig, step_rng, torch_generator, train
from magicvideo.training.sprites import mix, train_stage
from magicvideo.training.sprites_pools import seen_often

CONFIG = TrainConfig(
    steps=6, batch_size=4, learning_rate=0.1, warmup=1, save_every=3, log_every=2, autocast=False
)


def line(config: TrainConfig, folder: Path, fail_at: int | None = None) -> float:
    """Fit one weight to noisy data; return it, or stop as a kill would."""
    weight = torch.nn.Parameter(torch.zeros(1))

    def loss_of(step: int) -> torch.Tensor:
        if step == fail_at:
            raise InterruptedError
        target = torch.randn(1, generator=torch_generator(step_rng(config.seed, step))) + 3
        return ((weight - target) ** 2).sum()

    train("a line", {"weight": weight}, loss_of, config, folder, progress=False)
    return float(weight.detach())


def test_interrupted_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = line(CONFIG, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        line(CONFIG, tmp_path / "cut", fail_at=4)
    assert line(CONFIG, tmp_path / "cut") == whole


def test_resuming_with_another_configuration_is_refused(tmp_path: Path) -> None:
    line(CONFIG, tmp_path)
    with pytest.raises(MagicVideoError, match="another configuration"):
        line(replace(CONFIG, learning_rate=0.2), tmp_path)


def test_loss_that_is_not_a_number_stops_with_one_sentence(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(MagicVideoError, match="the loss of bad is nan at step 0"):
        train(
            "bad", {"w": weight}, lambda step: (weight * float("nan")).sum(), CONFIG, tmp_path, progress=False
        )


def test_rate_warms_up_stays_and_falls_to_zero() -> None:
    config = TrainConfig(steps=100, batch_size=1, learning_rate=1.0, warmup=10, cooldown=0.5)
    assert config.rate(0) == pytest.approx(0.1)
    assert config.rate(30) == 1.0
    assert config.rate(75) == pytest.approx(0.5)
    assert config.rate(100) == 0.0


def test_velocity_gives_back_latents_and_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 5, 5, generator=generator).double().unbind(0)
    alphas = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    noisy, velocity = add_noise(latents, noise, alphas)
    signal, spread = alphas.sqrt().view(3, 1, 1, 1), (1 - alphas).sqrt().view(3, 1, 1, 1)
    assert torch.allclose(signal * noisy - spread * velocity, latents)
    assert torch.allclose(spread * noisy + signal * velocity, noise)


def test_autoencoder_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = build_autoencoder()
    pool = frame_pool(8, 64, seed=0, progress=False)
    config = TrainConfig(steps=12, batch_size=2, learning_rate=2e-3, warmup=2, log_every=4)
    recipe = train_autoencoder(vae, pool, config, tmp_path, crop=32)
    curve = [loss for _, loss in recipe["curve"]]  # type: ignore[attr-defined]
    assert curve[-1] < 0.7 * curve[0]
    assert (tmp_path / "recipe.json").exists()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return architecture.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def parts(tokenizer) -> VideoParts:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    unet, motion = architecture.build_unet(), architecture.build_motion_adapter()
    zero_motion_output(motion)
    video_unet, controlnet = inflate(unet, motion), architecture.build_controlnet(unet)
    attach_appearance(video_unet, architecture.IMAGE_DIM)
    return VideoParts(
        unet=video_unet,
        image_unet=unet,
        controlnet=controlnet,
        image_encoder=architecture.build_image_encoder(),
        text_encoder=architecture.build_text_encoder(len(tokenizer)),
    )


def video_pool(tokenizer, start: bool) -> VideoPool:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(3, 32, 4, 5, 5, generator=generator).half()
    return VideoPool(
        latents=latents,
        tokens=tokenize(tokenizer, ["a small red star growing on a black background"] * 3),
        references=torch.randint(256, (3, 3, 40, 40), generator=generator, dtype=torch.uint8),
        objects=torch.ones(3, 32, 1, 5, 5).half(),
        positions=torch.arange(32).expand(3, -1),
        start=latents + 0.1 if start else None,
    )


@pytest.mark.parametrize("start", [False, True])
def test_video_loss_is_a_function_of_the_step_and_moves_the_motion_modules(
    tokenizer, parts: VideoParts, start: bool
) -> None:  # type: ignore[no-untyped-def]
    batches = VideoBatches(
        video_pool(tokenizer, start),
        parts,
        tokenizer,
        architecture.build_scheduler(),
        seed=0,
        clips=2,
        frames=4,
        timesteps=(20, 420),
    )
    loss = batches.loss(5)
    assert float(loss.detach()) == float(batches.loss(5).detach())
    assert float(loss.detach()) != float(batches.loss(6).detach())
    loss.backward()
    moved = [
        name
        for name, value in motion_parameters(parts.unet).items()
        if value.grad is not None and bool(value.grad.abs().max() > 0)
    ]
    assert moved
    assert all("proj_out" in name for name in moved)  # zero output: nothing before it has a gradient yet
    parts.unet.zero_grad(set_to_none=True)


def test_image_loss_trains_backbone_and_text_but_no_motion(tokenizer, parts: VideoParts) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(2)
    pool = LatentPool(
        latents=torch.randn(4, 4, 9, 9, generator=generator).half(),
        tokens=tokenize(tokenizer, ["a small red star growing on a black background"] * 4),
        objects=torch.ones(4, 1, 9, 9).half(),
    )
    scheduler = architecture.build_scheduler()
    batches = ImageBatches([(pool, 3, 1.0)], parts.image_unet, parts.text_encoder, tokenizer, scheduler, 0)
    batches.loss(0).backward()
    assert parts.unet.conv_in.weight.grad is not None
    assert parts.text_encoder.get_input_embeddings().weight.grad is not None
    assert all(value.grad is None for value in motion_parameters(parts.unet).values())
    assert float(image_alphas(scheduler)[-1]) == 0.0


def test_captions_with_all_words_are_seen_as_often_as_the_strongest_rule_says(tokenizer) -> None:  # type: ignore[no-untyped-def]
    captions = [
        "a small red star growing on a black background",
        "a large red hexagon shrinking on a black background",
        "a small red hexagon shrinking on a black background",
        "a large red star growing on a black background",
    ]
    pool = LatentPool(torch.zeros(4, 4, 9, 9), tokenize(tokenizer, captions), torch.ones(4, 1, 9, 9))
    rows = seen_often(pool, tokenizer, {"hexagon": 2, "large shrinking": 4}).rows
    assert rows is not None
    assert rows.tolist() == [0, 1, 1, 1, 1, 2, 2, 3]


def test_images_are_drawn_from_the_rows_of_their_pool(tokenizer, parts: VideoParts) -> None:  # type: ignore[no-untyped-def]
    pool = LatentPool(
        latents=torch.stack([torch.full((4, 9, 9), float("nan")), torch.zeros(4, 9, 9)]).half(),
        tokens=tokenize(tokenizer, ["a small red star growing on a black background"] * 2),
        objects=torch.ones(2, 1, 9, 9).half(),
    )
    scheduler = architecture.build_scheduler()

    def loss(rows: torch.Tensor | None) -> torch.Tensor:
        pools = [(replace(pool, rows=rows), 8, 1.0)]
        return ImageBatches(pools, parts.image_unet, parts.text_encoder, tokenizer, scheduler, 0).loss(0)

    assert loss(torch.tensor([1, 1, 1])).isfinite()
    assert loss(None).isnan()


def test_noise_leans_to_the_first_frame(tokenizer, parts: VideoParts) -> None:  # type: ignore[no-untyped-def]
    pool = video_pool(tokenizer, False)
    still = replace(pool, latents=pool.latents[:, :1].expand(-1, 32, -1, -1, -1), rows=torch.tensor([1]))
    scheduler = architecture.build_scheduler()
    noisy, timesteps = denoiser_inputs(
        VideoBatches(
            still,
            parts,
            tokenizer,
            scheduler,
            seed=0,
            clips=2,
            frames=4,
            conditions=Conditions(noise_lean=1.0),
        )
    )["args"][:2]
    alphas = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1, 1)
    frame = still.latents[1, 0].float()[None, :, None]
    torch.testing.assert_close(noisy, ((alphas.sqrt() + (1 - alphas).sqrt()) * frame).expand_as(noisy))


def test_controlnet_is_silent_in_its_share_of_the_batches(tokenizer, parts: VideoParts) -> None:  # type: ignore[no-untyped-def]
    pool, scheduler = video_pool(tokenizer, False), architecture.build_scheduler()
    bias = parts.controlnet.controlnet_mid_block.bias
    torch.nn.init.ones_(bias)
    heard = {}
    for share in (0.0, 0.5, 1.0):
        batches = VideoBatches(
            pool,
            parts,
            tokenizer,
            scheduler,
            seed=0,
            clips=1,
            frames=2,
            conditions=Conditions(control_drop=share),
        )
        inputs = [denoiser_inputs(batches, step)["kwargs"] for step in range(12)]
        heard[share] = sum(bool(given["mid_block_additional_residual"].any()) for given in inputs)
    torch.nn.init.zeros_(bias)
    assert heard[0.0] == 12
    assert 0 < heard[0.5] < 12
    assert heard[1.0] == 0


def denoiser_inputs(batches: VideoBatches, step: int = 0) -> dict[str, Any]:
    """Return what the denoiser is given in a step, and leave no hooks behind."""
    given: dict[str, Any] = {}
    hook = batches.parts.unet.register_forward_pre_hook(
        lambda module, args, kwargs: given.update(args=args, kwargs=kwargs), with_kwargs=True
    )
    with torch.no_grad():
        batches.loss(step)
    hook.remove()
    return given


def test_own_layers_learn_and_the_shared_ones_stay(tokenizer, parts: VideoParts, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    scheduler = architecture.build_scheduler()
    pool = video_pool(tokenizer, False)
    batches = VideoBatches(pool, parts, tokenizer, scheduler, seed=0, clips=1, frames=2)
    before = {key: value.detach().clone() for key, value in video_parameters(parts).items()}
    config = TrainConfig(steps=2, batch_size=1, learning_rate=1e-3, warmup=1, ema_decay=0.5, autocast=False)
    train_own_layers(batches, config, tmp_path)
    moved = {
        key for key, value in video_parameters(parts).items() if not torch.equal(value.detach(), before[key])
    }
    shared = {f"unet.{key}" for key in dict(parts.image_unet.named_parameters())}
    assert not {key for key in moved if key in shared or key.startswith("text.")}
    assert any("motion_modules" in key for key in moved)
    assert any(key.startswith("controlnet.") for key in moved)


def test_mixing_takes_a_share_but_of_what_is_kept() -> None:
    one, two = (torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)) for _ in range(2))
    first = [value.detach().clone() for value in one.parameters()]
    mix(one, two, 0.25, keep="1.")
    expected = [0.75 * mine + 0.25 * theirs for mine, theirs in zip(first, two.parameters(), strict=True)]
    for value, wanted in zip(one.parameters(), [*expected[:2], *first[2:]], strict=True):
        torch.testing.assert_close(value.detach(), wanted.detach())


def test_degraded_frames_have_the_size_asked_for_and_differ() -> None:
    frames = frame_pool(2, 32, seed=0, progress=False).frames
    vae = build_autoencoder()
    degraded = degrade(vae, frames, 48, torch.Generator().manual_seed(0))
    assert degraded.shape == (2, 3, 48, 48)
    assert degraded.dtype == torch.uint8
    assert encode_frames(vae, frames).shape == (2, 4, 4, 4)


def test_stages_out_of_order_and_unknown_ones_say_so(tmp_path: Path) -> None:
    with pytest.raises(MagicVideoError, match="unknown training stage 'i3v'; known: autoencoder"):
        train_stage("i3v", tmp_path, tmp_path / "checkpoint")
    with pytest.raises(MagicVideoError, match="train the stages in their order"):
        train_stage("t2i", tmp_path, tmp_path / "checkpoint")
