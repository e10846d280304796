"""Train the interpolator adversarially on a folder of videos: four frames in a row are a gap with its truth."""

from pathlib import Path

import torch
from torch import Tensor, nn

from magicvideo.errors import MagicVideoError
from magicvideo.pipeline import MagicVideoPipeline
from magicvideo.training.folder import ClipError, VideoFolder
from magicvideo.training.gaps import THIRDS
from magicvideo.training.loop import step_rng, torch_generator, train, write_json
from magicvideo.training.recipe import VFIRecipe
from magicvideo.training.vfi import GapBatch, build_discriminators, generator_loss, reconstruction_loss
from magicvideo.vfi.ema import load_published
from magicvideo.vfi.interpolator import Interpolator

PUBLISHED_EMA = {"width": 16, "depths": (2, 2, 2, 2, 2)}  # ours_small_t
PUBLISHED_JUDGES = 64  # channels after a discriminator's first layer
FRAMES = 4  # keyframe, at 1/3, at 2/3, keyframe


def published_interpolator() -> Interpolator:
    """Return the untrained interpolator of published sizes: LDMVFI's generator on EMA-VFI's small network."""
    return Interpolator(widths=None, scale=1, vqgan={}, ema=PUBLISHED_EMA)


def generator_parameters(model: Interpolator) -> dict[str, nn.Parameter]:
    """Return what the adversarial training trains of the model; its flow stays as it is.

    Raises:
        MagicVideoError: a model without VQ-GAN.
    """
    if model.generator is None or model.fusion is None:
        raise MagicVideoError(
            "this interpolator has no VQ-GAN to train; start from one that has, or from scratch"
        )
    model.requires_grad_(False)
    parts = {"generator": model.generator, "fusion": model.fusion}
    found = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.named_parameters()}
    for value in found.values():
        value.requires_grad_(True)
    return found


def train_vfi_on_folder(
    recipe: VFIRecipe, out_dir: Path, *, device: str = "cpu", progress: bool = True
) -> dict[str, object]:
    """Train as ``recipe`` says, leave the model in ``out_dir/model``; an interrupted run goes on.

    Raises:
        MagicVideoError: no usable video, a model without VQ-GAN, or ``out_dir`` holds another run.
    """
    torch.manual_seed(recipe.seed)
    model = model_of(recipe).to(device).eval()
    critics = build_discriminators(recipe.discriminator_width).to(device)
    gaps = _gaps(recipe)
    held_out = gaps[: max(1, len(gaps) // 10)] if len(gaps) > 1 else gaps
    rest = gaps[len(held_out) :] if len(gaps) > 1 else gaps
    gan_from = int(recipe.gan_start * recipe.steps)

    def loss_of(step: int) -> Tensor:
        batch = draw_gaps(rest, recipe.batch_size, recipe.data.size, recipe.seed, step).to(device)
        return generator_loss(model, critics if step >= gan_from else None, batch)

    def monitor(step: int) -> dict[str, float]:
        batch = draw_gaps(held_out, recipe.batch_size, recipe.data.size, recipe.validation_seed, 0).to(device)
        first, second = (frame.repeat_interleave(2, 0) for frame in (batch.first, batch.second))
        frames = model(first, second, batch.time.flatten()).unflatten(0, (-1, 2))
        return {"validation_loss": round(float(reconstruction_loss(frames, batch)), 6)}

    parameters = generator_parameters(model)
    parameters |= {f"critics.{name}": value for name, value in critics.named_parameters()}
    result = train(
        "vfi",
        parameters,
        loss_of,
        recipe.train_config(),
        out_dir,
        monitor=monitor,
        monitor_every=recipe.validate_every,
        progress=progress,
    )
    model.save_pretrained(out_dir / "model")
    write_json(out_dir / "model" / "recipe.json", result | {"recipe": recipe.model_dump()})
    return result


def draw_gaps(gaps: list[Tensor], count: int, crop: int, seed: int, step: int) -> GapBatch:
    """Draw ``count`` crops, mirrored and reversed by chance, a function of ``(seed, step)`` alone.

    Args:
        gaps: ``(4, 3, S, S)`` uint8 each.
        count: of gaps.
        crop: pixels of a side.
        seed: of the run.
        step: of the run.
    """
    generator = torch_generator(step_rng(seed, step))
    rows = []
    for index in torch.randint(len(gaps), (count,), generator=generator).tolist():
        room = gaps[index].shape[-1] - crop + 1
        top, left = torch.randint(room, (2,), generator=generator).tolist()
        gap = gaps[index][..., top : top + crop, left : left + crop].float() / 255
        turned = [axis for axis in (0, 2, 3) if torch.rand((), generator=generator) < 0.5]
        rows.append(gap.flip(turned) if turned else gap)
    clips = torch.stack(rows)
    time = torch.tensor(THIRDS).expand(count, 2)
    no_flow = torch.zeros(count, 2, 4, crop // 4, crop // 4)  # the flow part is not trained here
    return GapBatch(clips[:, 0], clips[:, 3], time, clips[:, 1:3], no_flow)


def model_of(recipe: VFIRecipe) -> Interpolator:
    """Return the interpolator that a recipe starts from.

    Raises:
        MagicVideoError: the checkpoint has none, or a new one lacks its flow.
    """
    if (
        Path(recipe.checkpoint) / "config.json"
    ).is_file():  # an interpolator alone, as this training writes it
        return Interpolator.from_pretrained(recipe.checkpoint).float()
    if recipe.checkpoint != "published":
        model = MagicVideoPipeline.from_pretrained(recipe.checkpoint).components.interpolator
        if not isinstance(model, Interpolator):
            raise MagicVideoError(
                f"{recipe.checkpoint} has no interpolator of its own; set checkpoint: published"
            )
        return model.float()
    model = published_interpolator()
    if recipe.ema is None:
        raise MagicVideoError(
            "an interpolator from scratch stands on EMA-VFI: give its file, ema: ours_small_t.pkl"
        )
    model.flow.load_state_dict(load_published(Path(recipe.ema)).state_dict())
    return model


def _gaps(recipe: VFIRecipe) -> list[Tensor]:
    """Decode the first four frames at the stride of every video, a margin larger than the crops."""
    margin = recipe.data.size + recipe.data.size // 4
    videos = VideoFolder.open(
        Path(recipe.data.source), size=margin, num_frames=FRAMES, stride=recipe.data.stride
    )
    gaps, left_out = [], list(videos.left_out)
    for index in range(len(videos)):
        try:
            frames = videos.frames(index)
        except ClipError as error:
            left_out.append(str(error))
            continue
        if len(frames) == FRAMES:
            gaps.append(frames)
    if not gaps:
        raise MagicVideoError(f"{recipe.data.source} has no video of {FRAMES} frames: {'; '.join(left_out)}")
    return gaps
