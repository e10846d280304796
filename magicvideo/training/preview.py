"""Look at a model while it trains: fixed prompts and seed, one row of pictures each, in a PNG."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from magicvideo.appearance import PatchReference, set_appearance_scale, takes_patches
from magicvideo.pipeline import MagicVideoPipeline, stage_seed, to_uint8
from magicvideo.reference import Reference
from magicvideo.t2i import make_image
from magicvideo.training.recipe import DiffusionRecipe

COLUMNS = 6  # frames of a clip that are shown
GAP = 4  # pixels between pictures


@dataclass(frozen=True)
class Sample:
    """What a row of the sheet is made from.

    Attributes:
        prompt: what it shows.
        reference: ``(3, S, S)`` uint8 the reference image; None has text to image make one.
        keyframes: ``(T, 3, S, S)`` uint8 what V2V refines; None has I2V make them.
    """

    prompt: str
    reference: torch.Tensor | None = None
    keyframes: torch.Tensor | None = None


def draw_sheet(pipe: MagicVideoPipeline, recipe: DiffusionRecipe, samples: list[Sample], path: Path) -> None:
    """Generate a row a sample with the stage that is trained, and write the sheet as PNG, whole or not at all."""
    rows = [_row(pipe, recipe, sample) for sample in samples]
    temporary = path.with_name(path.name + ".part")
    Image.fromarray(tile(rows)).save(temporary, format="PNG")
    os.replace(temporary, path)


def tile(rows: list[torch.Tensor]) -> np.ndarray:
    """Lay rows of ``(n, 3, S, S)`` uint8 pictures out as one ``(H, W, 3)`` image on white."""
    size, columns = rows[0].shape[-1], max(map(len, rows))
    sheet = np.full((len(rows) * (size + GAP) + GAP, columns * (size + GAP) + GAP, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row.permute(0, 2, 3, 1).numpy()):
            top, left = y * (size + GAP) + GAP, x * (size + GAP) + GAP
            sheet[top : top + size, left : left + size] = picture
    return sheet


def _row(pipe: MagicVideoPipeline, recipe: DiffusionRecipe, sample: Sample) -> torch.Tensor:
    """Return the pictures of a row: the reference, then what the stage makes of it."""
    size = recipe.data.size or 0
    image = sample.reference
    if image is None or recipe.part == "t2i":
        image = to_uint8(make_image(pipe.t2i, sample.prompt, pipe.config.t2i, _generator(recipe, "t2i")))[0]
    shown = torch.from_numpy(np.array(_picture(image).resize((size, size)))).permute(2, 0, 1)[None]
    if recipe.part == "t2i":
        return shown
    cls = PatchReference if takes_patches(pipe.i2v.unet) else Reference
    reference = cls(_picture(image), pipe.components.feature_extractor)
    if recipe.part != "v2v":
        return torch.cat([shown, _spread(_animate(pipe, recipe, sample.prompt, reference, size))])
    keyframes = sample.keyframes
    if keyframes is None:
        keyframes = _animate(pipe, recipe, sample.prompt, reference, pipe.config.i2v.size)
    refined = _refine(pipe, recipe, sample.prompt, reference, keyframes)
    return torch.cat([shown, _spread(refined)])


def _animate(
    pipe: MagicVideoPipeline, recipe: DiffusionRecipe, prompt: str, reference: Reference, size: int
) -> torch.Tensor:
    settings = pipe.config.i2v
    set_appearance_scale(pipe.components.i2v_unet, settings.appearance_scale if recipe.appearance else 0.0)
    return to_uint8(
        pipe.i2v.animate(
            prompt,
            reference,
            num_frames=recipe.data.frames or settings.num_frames,
            size=size,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            guidance_on=settings.guidance_on,
            prior=settings.prior,
            prior_strength=settings.prior_strength,
            controlnet_scale=settings.controlnet_scale if recipe.controlnet else 0.0,
            generator=_generator(recipe, "i2v"),
        )
    )


def _refine(
    pipe: MagicVideoPipeline,
    recipe: DiffusionRecipe,
    prompt: str,
    reference: Reference,
    keyframes: torch.Tensor,
) -> torch.Tensor:
    settings = pipe.config.v2v
    set_appearance_scale(pipe.components.v2v_unet, settings.appearance_scale if recipe.appearance else 0.0)
    return to_uint8(
        pipe.v2v.refine(
            prompt,
            keyframes.float() / 255,
            reference,
            size=recipe.data.size or settings.size,
            strength=recipe.strength or settings.strength,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            guidance_on=settings.guidance_on,
            controlnet_scale=settings.controlnet_scale if recipe.controlnet else 0.0,
            generator=_generator(recipe, "v2v"),
        )
    )


def _generator(recipe: DiffusionRecipe, stage: str) -> torch.Generator:
    return torch.Generator().manual_seed(stage_seed(recipe.validation.seed, stage))


def _picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _spread(frames: torch.Tensor) -> torch.Tensor:
    """Return at most ``COLUMNS`` frames, the first and the last among them."""
    count = min(COLUMNS, len(frames))
    return frames[torch.linspace(0, len(frames) - 1, count).round().long()]
