"""A contact sheet of finished videos: what every stage made of each prompt."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from magicvideo.pipeline import MagicVideoPipeline, VideoResult
from magicvideo.v2v import resize_frames

TILE, LINE, GUTTER = (
    116,
    21,
    8,
)  # pixels: side of a picture, height of a line of text, space between the columns
COLUMNS, TIMES = 2, 4  # rows beside each other; frames of the finished video in a row
HEADING = "reference image · I2V · V2V (half way) · the video at four times"


def draw(pipe: MagicVideoPipeline, prompts: Sequence[str]) -> Image.Image:
    """Make a video of each prompt with seed 0 and return their contact sheet."""
    bar = tqdm(prompts, desc="contact sheet", mininterval=5)
    return contact_sheet([pipe(prompt, seed=0, progress=False) for prompt in bar])


def contact_sheet(results: Sequence[VideoResult]) -> Image.Image:
    """Lay out a row a video under its prompt: reference image, I2V and V2V half way, then the video at four times.

    Args:
        results: of pipelines that ran all four stages.
    """
    pictures = [_pictures(result) for result in results]
    width = len(pictures[0]) * TILE
    rows = -(-len(results) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + GUTTER) - GUTTER, LINE + rows * (LINE + TILE)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    draw.text((3, 2), HEADING, "black", font)
    for index, (result, row) in enumerate(zip(results, pictures, strict=True)):
        left, top = index % COLUMNS * (width + GUTTER), LINE + index // COLUMNS * (LINE + TILE)
        draw.text((left + 3, top + 2), result.prompt, "black", font)
        for place, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture.numpy()), (left + place * TILE, top + LINE))
    return sheet


def _pictures(result: VideoResult) -> torch.Tensor:
    """Return a row's pictures ``(7, TILE, TILE, 3)`` uint8."""
    times = torch.linspace(0, len(result.frames) - 1, TIMES).round().long()
    chosen = [result.stages["t2i"], *(_middle(result.stages[name]) for name in ("i2v", "v2v"))]
    small = [resize_frames(frames.float() / 255, TILE) for frames in (*chosen, result.frames[times])]
    return (torch.cat(small) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _middle(frames: torch.Tensor) -> torch.Tensor:
    return frames[len(frames) // 2][None]
