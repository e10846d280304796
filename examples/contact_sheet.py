"""Draw the contact sheet of the README: one row a demo prompt, the reference image, then frames of the video.

Usage: python examples/contact_sheet.py docs/images/contact-sheet.jpg
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from evaluation.prompts import demo_prompts
from magicvideo import MagicVideoPipeline

COLUMNS = 5  # frames of the video, evenly spaced
SIDE, CAPTION = 132, 18


def row(pipe: MagicVideoPipeline, prompt: str) -> Image.Image:
    """Return one captioned row of the sheet."""
    result = pipe(prompt, seed=0, progress=False)
    chosen = np.linspace(0, len(result.frames) - 1, COLUMNS).round().astype(int)
    pictures = [result.stages["t2i"][0], *result.frames[chosen]]
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
    """Make the eight videos and write the sheet, two prompts to a row."""
    pipe = MagicVideoPipeline.from_pretrained("sprites")
    rows = [row(pipe, prompt) for prompt in tqdm(demo_prompts(), desc="prompts")]
    width, height = rows[0].size
    sheet = Image.new("RGB", (2 * width + 8, height * ((len(rows) + 1) // 2)), "white")
    for index, strip in enumerate(rows):
        sheet.paste(strip, ((index % 2) * (width + 8), (index // 2) * height))
    sheet.save(path, quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
