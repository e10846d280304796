"""The contact sheet: every picture where its row and stage say."""

from fractions import Fraction

import torch

from magicvideo.pipeline import VideoResult
from magicvideo.sprites.sheet import COLUMNS, GUTTER, LINE, TILE, contact_sheet


def grey(frames: int, side: int, level: int) -> torch.Tensor:
    return torch.full((frames, 3, side, side), level, dtype=torch.uint8)


def result(index: int) -> VideoResult:
    """Return a video of grey stages, by its own and the stage's number; it gets lighter by the frame."""
    frames = grey(94, 64, 100 + index) + torch.arange(94, dtype=torch.uint8).view(-1, 1, 1, 1)
    stages = {
        "t2i": grey(1, 64, index),
        "i2v": grey(32, 40, 20 + index),
        "v2v": grey(32, 64, 40 + index),
        "vfi": frames,
    }
    return VideoResult(prompt=f"prompt {index}", frames=frames, fps=Fraction(30), records=[], stages=stages)


def test_rows_hold_the_stages_and_the_video_in_order() -> None:
    sheet = contact_sheet([result(index) for index in range(3)])
    width = 7 * TILE
    assert sheet.size == (COLUMNS * width + GUTTER, LINE + 2 * (LINE + TILE))
    for index in range(3):
        left, top = index % 2 * (width + GUTTER), index // 2 * (LINE + TILE) + 2 * LINE
        shown = [sheet.getpixel((left + place * TILE + TILE // 2, top + TILE // 2)) for place in range(7)]
        levels = (index, 20 + index, 40 + index, *(100 + index + time for time in (0, 31, 62, 93)))
        assert shown == [(level,) * 3 for level in levels]
