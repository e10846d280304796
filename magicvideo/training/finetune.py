"""Train one part of the denoiser on top of a checkpoint, as a recipe says."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import ControlNetModel, MotionAdapter
from diffusers.models.embeddings import ImageProjection

from magicvideo.appearance import export_appearance, takes_patches
from magicvideo.backbone import bare_backbone, extract_motion_adapter, zero_motion_output
from magicvideo.components import Components
from magicvideo.config import PipelineConfig
from magicvideo.errors import MagicVideoError
from magicvideo.noise_prior import MIXED_SHARE
from magicvideo.pipeline import MagicVideoPipeline
from magicvideo.training.batches import NO_DROPOUT, Batches
from magicvideo.training.clips import Clips, Degradation, EncodedClips, SpritesClips, decode, encode_clips
from magicvideo.training.denoiser import Denoiser, DenoiserParts, trainable_parameters
from magicvideo.training.folder import VideoFolder
from magicvideo.training.loop import save_tensors, train, write_json
from magicvideo.training.preview import Sample, draw_sheet
from magicvideo.training.recipe import DiffusionRecipe, Group

logger = logging.getLogger(__name__)

RUN_FILE = "training.json"


def finetune(
    recipe: DiffusionRecipe,
    out_dir: Path,
    *,
    device: str = "cpu",
    cache: Path | None = None,
    progress: bool = True,
) -> dict[str, object]:
    """Train what ``recipe`` names; an interrupted run goes on from ``out_dir``.

    Args:
        recipe: what, on what, how.
        out_dir: gets the trained part (``i2v_motion/``, ``appearance.safetensors``, ``controlnet/``, ...), the
            whole pipeline in ``checkpoint/`` unless the recipe says otherwise, ``curve.jsonl``, contact sheets
            in ``sheets/``, ``recipe.json`` and the state to resume from.
        device: of models and batches.
        cache: folder of encoded clips, ``out_dir/latents`` by default; runs may share one.
        progress: show bars.

    Returns:
        The recipe with its loss curve and validation figures.

    Raises:
        MagicVideoError: the checkpoint or the data cannot be used, or ``out_dir`` holds another run.
    """
    pipe = MagicVideoPipeline.from_pretrained(recipe.checkpoint, device=device)
    recipe = resolve(recipe, pipe.config)
    out_dir.mkdir(parents=True, exist_ok=True)
    folder = cache or out_dir / "latents"
    clips, held_out, images = _data(recipe, pipe.components, folder, progress)
    _claim(out_dir, recipe, clips, images)
    parts = parts_of(pipe, recipe)
    if recipe.start == "scratch":
        motion = getattr(pipe.components, f"{_stage(recipe)}_motion")
        restart(parts, motion, recipe.groups, recipe.seed)
    denoiser = Denoiser(parts, appearance=recipe.appearance)
    if recipe.gradient_checkpointing:
        denoiser.checkpoint_gradients()
    batches = Batches(denoiser, recipe, clips, images, seed=recipe.seed)
    monitor = Monitor(pipe, denoiser, recipe, held_out, out_dir / "sheets")
    result = train(
        recipe.part,
        trainable_parameters(parts, recipe.groups),
        batches.loss,
        recipe.train_config(),
        out_dir,
        monitor=monitor,
        monitor_every=recipe.validation.every,
        progress=progress,
    )
    denoiser.release()
    save_parts(pipe, parts, recipe, out_dir)
    return result


def resolve(recipe: DiffusionRecipe, config: PipelineConfig) -> DiffusionRecipe:
    """Fill in what the recipe leaves to the checkpoint: sizes, frames, strength, the noise's prior."""
    stage = config.v2v if recipe.part == "v2v" else config.t2i if recipe.part == "t2i" else config.i2v
    data = recipe.data
    frames = 1 if recipe.part == "t2i" else config.i2v.num_frames
    filled = {
        "size": data.size or stage.size,
        "frames": data.frames or frames,
        "stride": data.stride or (1 if data.source == "sprites" else 4),
    }
    prior = "none" if recipe.part == "v2v" else config.i2v.prior
    correlated = MIXED_SHARE if prior == "mixed" else 0.0
    leant = config.i2v.prior_strength if prior in ("matched", "mixed") else None
    return recipe.model_copy(
        update={
            "data": data.model_copy(update=filled),
            "degrade": recipe.degrade.model_copy(update={"size": recipe.degrade.size or config.i2v.size}),
            "strength": recipe.strength or config.v2v.strength,
            "shared_noise": correlated if recipe.shared_noise is None else recipe.shared_noise,
            "prior_strength": leant if recipe.prior_strength is None else recipe.prior_strength,
        }
    )


def parts_of(pipe: MagicVideoPipeline, recipe: DiffusionRecipe) -> DenoiserParts:
    """Return the modules of the stage that the recipe trains, normalised as its pipeline does.

    Raises:
        MagicVideoError: text-to-image has layers of its own, which do not hang together with those trained here.
    """
    if recipe.part == "t2i" and pipe.components.t2i_unet is not None:
        raise MagicVideoError(
            f"text-to-image of {recipe.checkpoint} has spatial layers of its own (it was tuned with an adapter), and "
            f"part t2i trains those that all stages share; train a checkpoint without them, or use train preference"
        )
    return DenoiserParts.of(pipe, _stage(recipe))


@torch.no_grad()
def restart(parts: DenoiserParts, motion: MotionAdapter, groups: tuple[Group, ...], seed: int) -> None:
    """Start what is trained from nothing, in place.

    Motion modules add nothing at first; a ControlNet starts as the backbone's encoder and adds nothing; image
    keys and values start as those of the text, as IP-Adapter's do.

    Args:
        parts: the modules.
        motion: an adapter configured as the stage's.
        groups: what starts anew.
        seed: of the new weights.

    Raises:
        MagicVideoError: the backbone or the text encoder, or an appearance encoder of the Plus variant.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for group in groups:
            if group == "motion":
                fresh = MotionAdapter.from_config(motion.config)
                zero_motion_output(fresh)
                parts.video_unet.load_motion_modules(fresh)
            elif group == "controlnet":
                _restart_controlnet(parts)
            elif group == "appearance":
                _restart_appearance(parts)
            else:
                raise MagicVideoError(f"{group} layers cannot start from scratch; set start: checkpoint")


def save_parts(
    pipe: MagicVideoPipeline, parts: DenoiserParts, recipe: DiffusionRecipe, out_dir: Path
) -> None:
    """Write what was trained in the formats that others read, each whole or not at all."""
    components, stage = pipe.components, _stage(recipe)
    for group in recipe.groups:
        if group == "motion":
            name = f"{stage}_motion"
            adapter = extract_motion_adapter(parts.video_unet, getattr(components, name))
            setattr(components, name, adapter)
            _write_folder(out_dir / name, adapter.save_pretrained)
        elif group == "appearance":
            save_tensors(out_dir / "appearance.safetensors", export_appearance(parts.video_unet))
        elif group == "controlnet":
            _write_folder(out_dir / "controlnet", parts.controlnet.save_pretrained)
        elif group == "text":
            _write_folder(out_dir / "text_encoder", parts.text_encoder.save_pretrained)
        else:
            _write_folder(out_dir / "unet", bare_backbone(parts.image_unet).save_pretrained)
    if recipe.save_checkpoint:
        pipe.save_pretrained(out_dir / "checkpoint")


class Monitor:
    """Look at a run on its way: the mean loss of fixed draws from held-out clips, and a contact sheet."""

    def __init__(
        self,
        pipe: MagicVideoPipeline,
        denoiser: Denoiser,
        recipe: DiffusionRecipe,
        held_out: EncodedClips,
        folder: Path,
    ) -> None:
        """Draw the fixed batches from ``held_out``; sheets go into ``folder``."""
        self.pipe, self.denoiser, self.recipe, self.folder = pipe, denoiser, recipe, folder
        seed = recipe.validation.seed
        self.batches = Batches(denoiser, recipe, held_out, seed=seed, dropout=NO_DROPOUT)
        self.samples = self._samples(held_out)

    def __call__(self, step: int) -> dict[str, float]:
        """Return the validation loss; write ``step-NNNNNN.png``."""
        losses = [float(self.batches.loss(index)) for index in range(self.recipe.validation.batches)]
        self.denoiser.release()
        if self.samples:
            self.folder.mkdir(exist_ok=True)
            draw_sheet(self.pipe, self.recipe, self.samples, self.folder / f"step-{step:06d}.png")
        return {"validation_loss": round(sum(losses) / len(losses), 6)}

    def _samples(self, held_out: EncodedClips) -> list[Sample]:
        wanted = self.recipe.validation
        if wanted.prompts is not None:
            return [Sample(prompt) for prompt in wanted.prompts[: wanted.sheet]]
        samples = []
        for index in range(min(wanted.sheet, len(held_out))):
            clip = held_out[index]
            keyframes = None if clip.start is None else decode(self.pipe.components.vae, clip.start)
            samples.append(Sample(clip.caption, clip.reference, keyframes))
        return samples


def _stage(recipe: DiffusionRecipe) -> str:
    return "v2v" if recipe.part == "v2v" else "i2v"


def _data(
    recipe: DiffusionRecipe, components: Components, folder: Path, progress: bool
) -> tuple[EncodedClips, EncodedClips, EncodedClips | None]:
    """Return encoded clips to train on, held-out ones, and image clips if they have a folder of their own."""
    data, vae = recipe.data, components.vae
    if data.size is None or data.frames is None or data.stride is None or recipe.degrade.size is None:
        raise ValueError("the recipe must be resolved first")
    degradation = None
    if recipe.part == "v2v":
        degradation = Degradation(
            size=recipe.degrade.size, blur=recipe.degrade.blur, noise=recipe.degrade.noise
        )

    def encoded(clips: Clips) -> EncodedClips:
        return encode_clips(clips, vae, folder, degradation=degradation, progress=progress)

    images = None
    if data.images is not None:
        opened = VideoFolder.open(Path(data.images), size=data.size, num_frames=1, stride=1)
        images = encoded(opened)
    held_out = recipe.validation.clips
    if data.source == "sprites":
        shape = (data.size, data.frames, data.stride)
        clips = encoded(SpritesClips(data.clips, *shape, recipe.seed))
        return clips, encoded(SpritesClips(held_out, *shape, recipe.seed, "held_out")), images
    videos = encoded(
        VideoFolder.open(Path(data.source), size=data.size, num_frames=data.frames, stride=data.stride)
    )
    if len(videos) == 1:
        logger.warning("there is one clip only: it is trained on and validated on")
        return videos, videos, images
    return *videos.split(min(held_out, len(videos) // 2)), images


def _claim(out_dir: Path, recipe: DiffusionRecipe, clips: EncodedClips, images: EncodedClips | None) -> None:
    """Write down what this folder's run is, or refuse to go on with another one's.

    Raises:
        MagicVideoError: the folder holds a run of another recipe or of other clips; what differs is named.
    """
    digests = {"clips": clips.digest, "images": "" if images is None else images.digest}
    run = json.loads(json.dumps(recipe.model_dump() | {"digests": digests}))
    path = out_dir / RUN_FILE
    if not path.exists():
        write_json(path, run)
        return
    before = json.loads(path.read_text())
    changed = sorted(key for key in run.keys() | before.keys() if run.get(key) != before.get(key))
    if changed:
        raise MagicVideoError(
            f"{out_dir} holds another run, which differs in {', '.join(changed)}; give an empty folder, or the "
            f"same recipe and clips to go on with it"
        )


def _write_folder(folder: Path, save: Callable[[Path], object]) -> None:
    """Let ``save`` fill a folder beside ``folder``, then put it in its place."""
    temporary = folder.with_name(folder.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    save(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def _restart_controlnet(parts: DenoiserParts) -> None:
    channels = parts.controlnet.config["conditioning_embedding_out_channels"]
    bare = bare_backbone(parts.image_unet)
    fresh = ControlNetModel.from_unet(bare, conditioning_embedding_out_channels=channels)
    parts.controlnet.load_state_dict(fresh.state_dict())


def _restart_appearance(parts: DenoiserParts) -> None:
    if takes_patches(parts.video_unet):
        raise MagicVideoError("an appearance encoder of the Plus variant cannot start from scratch here")
    projection = parts.video_unet.encoder_hid_proj.image_projection_layers[0]
    linear = projection.image_embeds
    width = linear.out_features // projection.num_image_text_embeds
    fresh = ImageProjection(linear.in_features, width, projection.num_image_text_embeds)
    projection.load_state_dict(fresh.state_dict())
    for name, module in parts.image_unet.named_modules():
        if name.endswith("attn2"):
            module.processor.to_k_ip[0].weight.copy_(module.to_k.weight)
            module.processor.to_v_ip[0].weight.copy_(module.to_v.weight)
