"""Training one part on a checkpoint: exactly what is named changes, runs resume exactly, files load elsewhere."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from magicvideo.appearance import export_appearance
from magicvideo.backbone import motion_parameters
from magicvideo.components import Components
from magicvideo.config import PipelineConfig, change
from magicvideo.errors import MagicVideoError
from magicvideo.noise_prior import noise_lean
from magicvideo.pipeline import MagicVideoPipeline
from magicvideo.training.batches import Batches
from magicvideo.training.clips import EncodedClip, SpritesClips
from magicvideo.training.denoiser import Denoiser, DenoiserParts, trainable_parameters
from magicvideo.training.dry_run import dry_run
from magicvideo.training.finetune import bare_backbone, finetune, parts_of, resolve, restart
from magicvideo.training.loop import train
from magicvideo.training.recipe import (
    DiffusionRecipe,
    find_recipe,
    make_recipe,
    read_recipe,
    shipped_recipes,
)
from magicvideo.video import write_video

CAPTION = "a small red star growing on a black background"


class Clips:
    """Three random clips of six frames of 4 x 4 latent pixels; the opening frame may be poisoned."""

    def __init__(self, *, start: bool = False, opening: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(3)
        self.clips = []
        for _ in range(3):
            latents = torch.randn(6, 4, 4, 4, generator=generator).half()
            latents[0] += opening
            reference = torch.randint(256, (3, 32, 32), generator=generator, dtype=torch.uint8)
            self.clips.append(EncodedClip(latents, reference, latents + 0.1 if start else None, CAPTION))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> EncodedClip:
        return self.clips[index]


@pytest.fixture(scope="module")
def own_pipe(components: Components, small_config: PipelineConfig) -> MagicVideoPipeline:
    return MagicVideoPipeline(copy.deepcopy(components), small_config)


@pytest.fixture
def pipe(own_pipe: MagicVideoPipeline) -> Iterator[MagicVideoPipeline]:
    """Return a pipeline over parts of its own, for training changes them; afterwards they are as before."""
    before = state_of(own_pipe)
    yield own_pipe
    put_back(own_pipe, before)


@pytest.fixture(scope="module")
def checkpoint(
    components: Components, small_config: PipelineConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    MagicVideoPipeline(components, small_config).save_pretrained(folder)
    return folder


def recipe_of(part: str, pipe: MagicVideoPipeline, **changes: object) -> DiffusionRecipe:
    values: dict[str, object] = {
        "part": part,
        "steps": 2,
        "warmup": 1,
        "learning_rate": 1e-2,
        "batch_size": 2,
        "frames_per_step": 3,
        "log_every": 1,
        "save_every": 2,
        "data": {"size": 32, "frames": 6},
    }
    return resolve(make_recipe(values | changes), pipe.config)


def batches_of(
    pipe: MagicVideoPipeline, recipe: DiffusionRecipe, clips: Clips | None = None
) -> tuple[Batches, dict[str, nn.Parameter]]:
    parts = parts_of(pipe, recipe)
    trained = trainable_parameters(parts, recipe.groups)
    denoiser = Denoiser(parts, appearance=recipe.appearance)
    clips = clips or Clips(start=recipe.part == "v2v")
    return Batches(denoiser, recipe, clips, seed=recipe.seed), trained


def state_of(pipe: MagicVideoPipeline) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, module in pipe.components.modules().items()
        for key, value in module.state_dict().items()
    }


def put_back(pipe: MagicVideoPipeline, state: dict[str, torch.Tensor]) -> None:
    for name, module in pipe.components.modules().items():
        module.load_state_dict({key: state[f"{name}.{key}"] for key in module.state_dict()})
        module.zero_grad(set_to_none=True)


NAMED: dict[str, Callable[[str], bool]] = {
    "t2i": lambda name: name.startswith("unet.") or spatial_of_video(name),
    "i2v": lambda name: name.startswith("i2v_unet.") and "motion_modules" in name,
    "v2v": lambda name: name.startswith("v2v_unet.") and "motion_modules" in name,
    "controlnet": lambda name: name.startswith("controlnet."),
    "appearance": lambda name: "_ip." in name or "encoder_hid_proj" in name,
}


def spatial_of_video(name: str) -> bool:
    """Return whether a layer is the backbone's own: I2V's and V2V's are the very same."""
    return name.startswith(("i2v_unet.", "v2v_unet.")) and "motion_modules" not in name


@pytest.mark.parametrize("part", NAMED)
def test_exactly_the_named_parameters_change(part: str, pipe: MagicVideoPipeline, tmp_path: Path) -> None:
    recipe = recipe_of(part, pipe)
    before = state_of(pipe)
    batches, trained = batches_of(pipe, recipe)
    train(part, trained, batches.loss, recipe.train_config(), tmp_path, progress=False)
    changed = {name for name, value in state_of(pipe).items() if not torch.equal(value, before[name])}
    foreign = {name for name in changed if not NAMED[part](name)}
    if part == "t2i":
        foreign = {name for name in changed if "_ip." in name or "hid_proj" in name or not NAMED[part](name)}
    assert not foreign
    of_named = {name for name in before if NAMED[part](name) and not name.endswith("pos_embed.pe")}
    if part == "t2i":
        of_named = {name for name in of_named if "_ip." not in name and "hid_proj" not in name}
    assert of_named == changed


def test_interrupted_joint_training_equals_uninterrupted(pipe: MagicVideoPipeline, tmp_path: Path) -> None:
    recipe = recipe_of("i2v", pipe, steps=4, image_ratio=0.5, accumulation=2, log_every=3)
    start = state_of(pipe)
    batches, trained = batches_of(pipe, recipe)
    assert {batches.is_image(step) for step in range(8)} == {True, False}

    def stopped(step: int) -> torch.Tensor:
        if step == 7:  # between the two batches of the last step
            raise InterruptedError
        return batches.loss(step)

    def run(folder: Path, loss_of: Callable[[int], torch.Tensor]) -> object:
        put_back(pipe, start)
        result = train("i2v", trained, loss_of, recipe.train_config(), folder, progress=False)
        return result["curve"], [value.detach().clone() for value in trained.values()]

    curve, whole = run(tmp_path / "whole", batches.loss)  # type: ignore[misc]
    with pytest.raises(InterruptedError):
        run(tmp_path / "cut", stopped)
    resumed_curve, resumed = run(tmp_path / "cut", batches.loss)  # type: ignore[misc]
    assert resumed_curve == curve
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_loss_falls_on_one_image(pipe: MagicVideoPipeline, tmp_path: Path) -> None:
    dropout = {"text": 0, "image": 0, "both": 0}
    recipe = recipe_of(
        "t2i", pipe, steps=60, learning_rate=3e-3, ema_decay=0.0, image_batch_size=8, dropout=dropout
    )
    clips = Clips()
    first = clips[0]
    clips.clips = [EncodedClip(first.latents[:1], first.reference, None, CAPTION)]
    batches, trained = batches_of(pipe, recipe, clips)

    def unseen() -> float:
        with torch.no_grad():
            return sum(float(batches.loss(step)) for step in range(1000, 1004))

    before = unseen()
    train("t2i", trained, batches.loss, recipe.train_config(), tmp_path, progress=False)
    assert unseen() < 0.6 * before


def test_images_as_one_frame_videos_teach_no_queries_and_bypassed_ones_nothing(
    pipe: MagicVideoPipeline,
) -> None:
    recipe = recipe_of("i2v", pipe, image_ratio=1.0, trainable=["motion", "spatial"])
    batches, _ = batches_of(pipe, recipe)
    batches.loss(0).backward()
    motion = motion_parameters(pipe.components.i2v_unet)
    largest = max(value.grad.abs().max() for value in motion.values() if value.grad is not None)
    for name, value in motion.items():
        assert value.grad is not None
        if ".to_q." in name or ".to_k." in name:  # softmax over one frame is constant
            assert float(value.grad.abs().max()) < 1e-6 * float(largest)
        elif ".to_v." in name or ".proj_out.weight" in name:
            assert value.grad.any()
    for value in motion.values():
        value.grad = None
    bypass = recipe_of(
        "i2v", pipe, image_ratio=1.0, trainable=["motion", "spatial"], bypass_motion_for_images=True
    )
    batches, trained = batches_of(pipe, bypass)
    batches.loss(0).backward()
    assert all(value.grad is None for value in motion.values())
    assert trained["spatial:conv_in.weight"].grad is not None


def test_controlnet_never_makes_the_reference_frame(pipe: MagicVideoPipeline) -> None:
    poisoned = Clips(opening=float("nan"))
    for part, spared in (("controlnet", True), ("i2v", False)):
        batches, _ = batches_of(pipe, recipe_of(part, pipe), poisoned)
        with torch.no_grad():
            losses = torch.stack([batches.loss(step) for step in range(8)])
        assert bool(losses.isfinite().all()) == spared


def test_v2v_sees_no_more_noise_than_its_strength_gives(pipe: MagicVideoPipeline) -> None:
    seen: list[int] = []
    hook = pipe.components.v2v_unet.register_forward_pre_hook(
        lambda module, inputs: seen.extend(inputs[1].tolist())
    )
    batches, _ = batches_of(pipe, recipe_of("v2v", pipe, strength=0.3))
    with torch.no_grad():
        for step in range(12):
            batches.loss(step)
    hook.remove()
    assert len(seen) == 24
    assert max(seen) < 300
    assert max(seen) > 200


def test_noise_of_clips_leans_as_the_checkpoint_samples(pipe: MagicVideoPipeline) -> None:
    def inputs(strength: float) -> tuple[torch.Tensor, ...]:
        config = change(pipe.config, "i2v", prior="matched", prior_strength=strength)
        recipe = resolve(recipe_of("i2v", pipe).model_copy(update={"prior_strength": None}), config)
        given: list[torch.Tensor] = []
        hook = pipe.components.i2v_unet.register_forward_pre_hook(lambda module, args: given.extend(args[:2]))
        with torch.no_grad():
            batches_of(pipe, recipe, clips)[0].loss(0)
        hook.remove()
        return given[0], given[1]

    clips = Clips()
    still = clips[0].latents[:1].expand(6, -1, -1, -1)
    clips.clips = [replace(clips[0], latents=still)]
    (plain, timesteps), (leant, same) = inputs(0.0), inputs(0.5)
    assert torch.equal(timesteps, same)
    alphas = pipe.components.scheduler.alphas_cumprod
    signal, spread = (part[timesteps].sqrt().view(-1, 1, 1, 1, 1) for part in (alphas, 1 - alphas))
    lean, opening = noise_lean(0.5, alphas), still[0].float()[None, :, None]
    noise = (plain - signal * opening) / spread
    expected = signal * opening + spread * (lean * opening + (1 - lean**2) ** 0.5 * noise)
    torch.testing.assert_close(leant, expected, atol=1e-4, rtol=1e-4)


def test_v2v_and_other_priors_lean_nowhere(pipe: MagicVideoPipeline) -> None:
    leant = change(pipe.config, "i2v", prior="mixed", prior_strength=0.4)
    bare = recipe_of("i2v", pipe).model_copy(update={"prior_strength": None})
    assert resolve(bare, leant).prior_strength == 0.4
    assert resolve(bare, change(leant, "i2v", prior="none")).prior_strength is None
    assert resolve(bare.model_copy(update={"part": "v2v"}), leant).prior_strength is None


def test_dropped_text_and_images_are_those_of_guidance(pipe: MagicVideoPipeline) -> None:
    """With everything dropped, captions and references change nothing; with nothing dropped, they do."""
    for chance, same in ((1.0, True), (0.0, False)):
        recipe = recipe_of("i2v", pipe, controlnet=False, dropout={"text": 0, "image": 0, "both": chance})
        losses = []
        for caption, offset in ((CAPTION, 0), ("a large blue circle", 128)):
            clips = Clips()
            clips.clips = [
                EncodedClip(clip.latents, clip.reference + offset, None, caption) for clip in clips.clips
            ]
            with torch.no_grad():
                losses.append(float(batches_of(pipe, recipe, clips)[0].loss(0)))
        assert (losses[0] == losses[1]) == same


def test_checkpointing_changes_no_gradient_where_frames_stand_at_their_own_positions(
    pipe: MagicVideoPipeline,
) -> None:
    recipe = recipe_of("i2v", pipe)
    gradients = []
    for checkpointed in (False, True):
        batches, trained = batches_of(pipe, recipe)
        if checkpointed:
            batches.denoiser.checkpoint_gradients()
        batches.loss(1).backward()
        gradients.append({name: value.grad for name, value in trained.items()})
        for value in trained.values():
            value.grad = None
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-7), name


def test_starting_from_scratch_adds_nothing_at_first(pipe: MagicVideoPipeline) -> None:
    recipe = recipe_of("i2v", pipe)
    parts = parts_of(pipe, recipe)
    restart(parts, pipe.components.i2v_motion, ("motion", "controlnet", "appearance"), seed=0)
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(1, 4, 3, 4, 4, generator=generator)
    states = torch.randn(3, 24, 128, generator=generator)
    embeds = [torch.zeros(1, 1, 64)]
    with torch.no_grad():
        video = parts.video_unet(noisy, 300, states, added_cond_kwargs={"image_embeds": embeds}).sample
        image_states = (
            states,
            [part.repeat(3, 1, 1, 1) for part in parts.video_unet.encoder_hid_proj(embeds)],
        )
        image = parts.image_unet(noisy[0].transpose(0, 1), 300, image_states).sample
        down, mid = parts.controlnet(
            noisy[0].transpose(0, 1), 300, states, controlnet_cond=torch.rand(3, 3, 32, 32), return_dict=False
        )
    assert torch.allclose(video[0].transpose(0, 1), image, atol=1e-5)
    assert not any(residual.any() for residual in (*down, mid))
    with pytest.raises(MagicVideoError, match="spatial layers cannot start from scratch"):
        restart(parts, pipe.components.i2v_motion, ("spatial",), seed=0)


def test_too_few_frames_and_unknown_predictions_are_refused(pipe: MagicVideoPipeline) -> None:
    with pytest.raises(MagicVideoError, match="needs 7 frames of a clip, and 6 can be had"):
        batches_of(pipe, recipe_of("i2v", pipe, frames_per_step=7))
    recipe = recipe_of("i2v", pipe)
    other = replace(parts_of(pipe, recipe), scheduler=DDIMScheduler(prediction_type="sample"))
    with pytest.raises(MagicVideoError, match="prediction_type='sample'; training knows epsilon, v_pred"):
        Batches(Denoiser(other, appearance=True), recipe, Clips(), seed=0)


def test_text_to_image_with_layers_of_its_own_is_not_trained_beside_them(pipe: MagicVideoPipeline) -> None:
    recipe = recipe_of("t2i", pipe)
    pipe.components.t2i_unet = bare_backbone(pipe.components.unet)
    try:
        with pytest.raises(MagicVideoError, match="spatial layers of its own"):
            parts_of(pipe, recipe)
    finally:
        pipe.components.t2i_unet = None


def small_recipe(checkpoint: Path, part: str, **changes: object) -> DiffusionRecipe:
    values: dict[str, object] = {
        "part": part,
        "checkpoint": str(checkpoint),
        "steps": 2,
        "warmup": 1,
        "learning_rate": 1e-2,
        "frames_per_step": 2,
        "log_every": 1,
        "data": {"size": 32, "frames": 3, "clips": 2, "stride": 3},
        "validation": {"every": 1, "clips": 1, "batches": 2, "sheet": 1},
    }
    return make_recipe(values | changes)


def test_own_videos_train_i2v_and_the_run_can_be_gone_on_with(checkpoint: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for index in range(3):
        write_video(videos / f"clip{index}.mp4", SpritesClips(3, 48, 7, 1, seed=index).frames(0), 8)
        (videos / f"clip{index}.txt").write_text(CAPTION)
    data = {"source": str(videos), "size": 32, "frames": 3, "stride": 3}
    recipe = small_recipe(checkpoint, "i2v", data=data)
    result = finetune(recipe, tmp_path / "out", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "out" / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 1, 2, 2]
    assert {key for line in lines for key in line} == {"step", "loss", "validation_loss"}
    assert sorted(path.name for path in (tmp_path / "out" / "sheets").iterdir()) == [
        "step-000001.png",
        "step-000002.png",
    ]
    trained = load_file(tmp_path / "out" / "i2v_motion" / "diffusion_pytorch_model.safetensors")
    again = MagicVideoPipeline.from_pretrained(str(tmp_path / "out" / "checkpoint"))
    inside = again.components.i2v_motion.state_dict()
    assert all(torch.equal(inside[name], value) for name, value in trained.items())
    before = load_file(checkpoint / "i2v_motion" / "diffusion_pytorch_model.safetensors")
    assert any(not torch.equal(before[name], value) for name, value in trained.items())

    assert finetune(recipe, tmp_path / "out", progress=False)["curve"] == result["curve"]
    with pytest.raises(MagicVideoError, match="holds another run, which differs in min_snr_gamma"):
        finetune(recipe.model_copy(update={"min_snr_gamma": 5.0}), tmp_path / "out", progress=False)


@pytest.mark.filterwarnings("ignore:.*weights_only.*")
def test_trained_appearance_loads_in_diffusers_own_pipeline(checkpoint: Path, tmp_path: Path) -> None:
    recipe = small_recipe(
        checkpoint,
        "appearance",
        start="scratch",
        image_ratio=1.0,
        bypass_motion_for_images=True,
        save_checkpoint=False,
        validation={"every": 9, "clips": 1, "batches": 1, "sheet": 0},
    )
    finetune(recipe, tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "checkpoint").exists()
    written = load_file(tmp_path / "out" / "appearance.safetensors")
    parts = MagicVideoPipeline.from_pretrained(str(checkpoint)).components
    stock = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=bare_backbone(parts.unet),
        scheduler=parts.scheduler,
        safety_checker=None,
        feature_extractor=parts.feature_extractor,
        image_encoder=parts.image_encoder,
        requires_safety_checker=False,
    )
    stock.load_ip_adapter(
        str(tmp_path / "out"),
        subfolder="",
        weight_name="appearance.safetensors",
        image_encoder_folder=None,
        local_files_only=True,
    )
    loaded = export_appearance(stock.unet)
    assert loaded.keys() == written.keys()
    assert all(torch.equal(loaded[name], value) for name, value in written.items())
    save_file(written, tmp_path / "copy.safetensors")
    parts.attach(tmp_path / "copy.safetensors")


def test_dry_run_counts_what_a_step_would_take(checkpoint: Path, pipe: MagicVideoPipeline) -> None:
    recipe = small_recipe(checkpoint, "controlnet", frames_per_step=2)
    cost = dry_run(recipe)
    assert cost.trainable == sum(value.numel() for value in pipe.components.controlnet.parameters())
    assert cost.parameters == count(parts_of(pipe, resolve(recipe, pipe.config)))
    assert cost.flop.keys() == {"video"}
    assert cost.state_bytes == 4 * cost.parameters + 16 * cost.trainable
    assert f"trainable {cost.trainable / 1e6:.1f} M" in cost.table(recipe)


@pytest.mark.slow
def test_checkpointing_trades_operations_for_memory(checkpoint: Path) -> None:
    recipe = small_recipe(checkpoint, "i2v", image_ratio=0.5)
    plain = dry_run(recipe)
    lean = dry_run(recipe.model_copy(update={"gradient_checkpointing": True}))
    assert plain.flop.keys() == {"video", "image"}
    assert lean.activation_bytes < plain.activation_bytes
    assert lean.flop["video"] > plain.flop["video"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name != "vfi.yaml"])
def test_shipped_recipes_take_a_step_at_published_size(name: str) -> None:
    cost = dry_run(read_recipe(find_recipe(name)))
    trained = {"appearance.yaml": 22.3e6, "controlnet.yaml": 361.3e6, "spatial.yaml": 859.5e6}
    assert cost.trainable == pytest.approx(trained.get(name, 453.2e6), rel=1e-3)
    assert cost.activation_bytes + cost.state_bytes < 80 * 2**30


def count(parts: DenoiserParts) -> int:
    modules = (
        parts.video_unet,
        parts.image_unet,
        parts.controlnet,
        parts.text_encoder,
        parts.image_encoder,
    )
    return sum({id(value): value.numel() for part in modules for value in part.parameters()}.values())
