"""Draw the contact sheet of the README: a row a prompt, each stage in turn, then frames of the finished video.

A row is the reference image, what I2V and V2V make of one moment half way (I2V's enlarged), then the video. The prompts
are those of the demo and four of held-out combinations that nobody chose: the first of their list.

Usage: python examples/contact_sheet.py docs/images/contact-sheet.jpg
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from evaluation.prompts import demo_prompts
from magicvideo import MagicVideoPipeline
from magicvideo.sprites.evaluation import held_out_scenes

COLUMNS = 4  # frames of the video, evenly spaced
HELD_OUT = 4
SIDE, CAPTION = 116, 18
HEADER = "reference image · I2V · V2V (half way) · the video at four times"


def row(pipe: MagicVideoPipeline, prompt: str) -> Image.Image:
    """Return one captioned row of the sheet."""
    result = pipe(prompt, seed=0, progress=False)
    chosen = np.linspace(0, len(result.frames) - 1, COLUMNS).round().astype(int)
    stages = [result.stages[name][len(result.stages[name]) // 2] for name in ("i2v", "v2v")]
    pictures = [result.stages["t2i"][0], *stages, *result.frames[chosen]]
    strip = Image.new("RGB", (SIDE * len(pictures), SIDE + CAPTION), "white")
    font = ImageFont.load_default(size=12)
    ImageDraw.Draw(strip).text((3, 2), prompt, fill="black", font=font)
    for index, picture in enumerate(pictures):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize(
            (SIDE, SIDE), Image.Resampling.LANCZOS
        )
        strip.paste(image, (index * SIDE, CAPTION))
    return strip


def main(path: Path) -> None:
    """Make the twelve videos and write the sheet, two prompts to a row."""
    pipe = MagicVideoPipeline.from_pretrained("sprites")
    prompts = [*demo_prompts(), *(scene.caption for scene in held_out_scenes(HELD_OUT, 1))]
    rows = [row(pipe, prompt) for prompt in tqdm(prompts, desc="prompts")]
    width, height = rows[0].size
    sheet = Image.new("RGB", (2 * width + 8, CAPTION + height * ((len(rows) + 1) // 2)), "white")
    ImageDraw.Draw(sheet).text((3, 2), HEADER, fill="black", font=ImageFont.load_default(size=12))
    for index, strip in enumerate(rows):
        sheet.paste(strip, ((index % 2) * (width + 8), CAPTION + (index // 2) * height))
    sheet.save(path, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
