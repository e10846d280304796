"""What each part of the embedded checkpoint is worth at its own stage, on held-out prompts, paired.

Usage: python benchmarks/sprites_parts.py [--prompts 128] [--stage i2v] [--cache FOLDER] [--threads 2] [--json FILE]

I2V without ControlNet, appearance encoder or noise prior: likeness to the reference image. V2V against plain
enlargement: sharpness and attributes at full size. Frames in between against repeated and blended ones. Nothing runs
after the stage in question, so a difference is that stage's. With ``--cache`` an interrupted run goes on, and shares
what stages made with ``magicvideo sprites evaluate --cache``.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from evaluation.gate.paired import paired_mean
from magicvideo.pipeline import MagicVideoPipeline
from magicvideo.presets import ablate
from magicvideo.sprites.evaluation import held_out_scenes
from magicvideo.sprites.judge import SpritesJudge, agreement, load_judge
from magicvideo.sprites.scene import Scene
from magicvideo.stages import StageRun
from magicvideo.vfi.quality import gap_quality, psnr, sharpness
from metrics.encoders import load_encoder
from metrics.functional.reference import adherence

I2V_ARMS = ("-controlnet", "-appearance", "-prior")
KINDS = ("repeat", "blend")
STAGES = ("i2v", "v2v", "vfi")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--stage", choices=STAGES, help="of this one alone; all by default")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipe = MagicVideoPipeline.from_pretrained("sprites", cache_dir=options.cache)
    judge, encoder = load_judge(), load_encoder("embedded")
    rows = [
        {"prompt": scene.caption, "arm": arm, "measure": name, "full": full, "without": without}
        for scene in tqdm(held_out_scenes(options.prompts, 1), desc="held-out prompts", mininterval=5)
        for arm, name, full, without in compared(pipe, judge, encoder, scene, options.stage)
    ]
    table = summary(pd.DataFrame(rows))
    print(table.to_string(index=False, float_format="{:.4f}".format))
    if options.json is not None:
        options.json.write_text(json.dumps(table.to_dict("records"), indent=2) + "\n")


@torch.inference_mode()
def compared(
    pipe: MagicVideoPipeline,
    judge: SpritesJudge,
    encoder: torch.nn.Module,
    scene: Scene,
    only: str | None,
) -> Iterator[tuple[str, str, float, float]]:
    """Yield arm, measure, and its value with and without the part."""
    full = stages(pipe, scene, "full", only or "vfi")
    if only in (None, "i2v"):
        with_all = likeness(encoder, full["i2v"], full["t2i"])
        for arm in I2V_ARMS:
            without = likeness(encoder, stages(pipe, scene, arm, "i2v")["i2v"], full["t2i"])
            for name, value in with_all.items():
                yield arm, name, value, without[name]
    if only in (None, "v2v"):
        enlarged = attributes(judge, stages(pipe, scene, "-v2v", "v2v")["v2v"], scene)
        for name, value in attributes(judge, full["v2v"], scene).items():
            yield "-v2v", name, value, enlarged[name]
    if only in (None, "vfi"):
        smooth = smoothness(full["vfi"].float() / 255)
        for kind in KINDS:
            crude = smoothness(in_between(pipe, full["v2v"], kind))
            for name, value in smooth.items():
                yield f"vfi {kind}", name, value, crude[name]


def stages(pipe: MagicVideoPipeline, scene: Scene, arm: str, last: str) -> dict[str, Tensor]:
    """Run the stages of an arm up to ``last``."""
    run = StageRun(pipe, ablate(pipe.config, arm), scene.caption, 0, None)
    for name in ("t2i", "i2v", "v2v", "vfi"):
        run.stage(name)
        if name == last:
            break
    return run.stages


def likeness(encoder: torch.nn.Module, frames: Tensor, image: Tensor) -> dict[str, float]:
    """Compare keyframes ``(T, 3, h, w)`` with the reference image ``(1, 3, H, W)``, uint8.

    The palette is each frame's levels of a channel in order: where something is, and how it turns, does not matter.
    """
    small = F.interpolate(image.float() / 255, frames.shape[-2:], mode="bilinear", antialias=True).clamp(0, 1)
    levels = frames.float() / 255
    ordered, wanted = (values.flatten(2).sort(-1).values[..., None] for values in (levels, small))
    return {
        "adherence, cosine": float(adherence(encoder(frames), encoder(image)[0])),
        "first frame, dB": float(psnr(levels[:1], small)),
        "palette, dB": float(psnr(ordered, wanted.expand_as(ordered)).mean()),
    }


def attributes(judge: SpritesJudge, frames: Tensor, scene: Scene) -> dict[str, float]:
    """Return sharpness in squared grey levels, and whether shape and colour, and motion, are read as asked."""
    right = agreement(judge.judge(frames[None]), [scene])
    return {
        "sharpness": float(255**2 * sharpness(frames.float() / 255).mean()),
        "shape and colour": float(right["object"]),
        "motion": float(right["motion"]),
    }


def in_between(pipe: MagicVideoPipeline, keyframes: Tensor, kind: str) -> Tensor:
    """Return keyframes in [0, 1] with two repeated or blended frames in every gap."""
    frames = keyframes.float() / 255
    predict = pipe.predictor(kind)  # type: ignore[arg-type]
    pairs = predict(frames[:-1], frames[1:], (1 / 3, 2 / 3))  # (T - 1, 2, 3, H, W)
    return torch.cat([torch.cat([frames[:-1, None], pairs], 1).flatten(0, 1), frames[-1:]])


def smoothness(frames: Tensor) -> dict[str, float]:
    """Return the largest of a gap's three steps over their mean (1 is even), and sharpness beside keyframes."""
    steps = (frames[1:] - frames[:-1]).abs().mean((1, 2, 3)).unflatten(0, (-1, 3)).sum(0)
    return {
        "largest step over mean": float(steps.max() / steps.mean()),
        "sharpness, of keyframes": gap_quality(frames)["sharpness"],
    }


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line an arm and measure: both means and the paired difference with its 95 % interval."""
    lines = []
    for (arm, measure), group in rows.groupby(["arm", "measure"], sort=False):
        group = group.dropna()
        found = paired_mean((group["full"] - group["without"]).tolist(), 0.95)
        lines.append(
            {
                "arm": arm,
                "measure": measure,
                "full": group["full"].mean(),
                "without": group["without"].mean(),
                "difference": found.mean,
                "low": found.low,
                "high": found.high,
                "prompts": len(group),
            }
        )
    return pd.DataFrame(lines)


if __name__ == "__main__":
    main()
