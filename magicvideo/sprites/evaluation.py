"""The table of bars of a sprites checkpoint: what it draws on held-out prompts, read by the judge.

Prompts, seeds and the held-out combinations are fixed, so two checkpoints are asked the same. Every finished prompt
is a line of ``references.jsonl`` or ``verdicts.jsonl`` in the working folder; an evaluation that was interrupted goes
on from there.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from magicvideo.errors import MagicVideoError
from magicvideo.identity import part_digest
from magicvideo.pipeline import MagicVideoPipeline, VideoResult
from magicvideo.sprites.judge import FRAMES, SIDE, SpritesJudge, agreement, load_judge
from magicvideo.sprites.render import render
from magicvideo.sprites.scene import Scene, distinct_scenes, sample_scene
from magicvideo.vfi.quality import gap_quality, psnr

PROMPTS, PAIR_PROMPTS = 256, 64
SEED = 77  # of the prompts; never used in training
REAL_CLIPS = 512
DIVERSITY_PROMPTS = 16


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One line of the table.

    Attributes:
        name: what was measured.
        value: mean or share.
        low: lower end of a 95 % interval; None where the value is not a share.
        high: upper end.
        n: how many prompts, frames or gaps it stands on.
        wanted: what the value should reach; None where it is only reported.
        most: whether ``wanted`` is a most instead of a least.
    """

    name: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None
    wanted: float | None = None
    most: bool = False

    @property
    def reached(self) -> bool | None:
        """Whether the value reaches what is wanted; None where nothing is."""
        if self.wanted is None:
            return None
        return self.value <= self.wanted if self.most else self.value >= self.wanted


def held_out_scenes(count: int, num_objects: int) -> list[Scene]:
    """Return the first ``count`` held-out scenes of that many objects, no caption twice; a fixed list."""

    def draw(index: int, found: int) -> Scene:
        rng = np.random.default_rng([SEED, num_objects, index])
        return sample_scene(rng, split="held_out", num_objects=num_objects)

    return distinct_scenes(count, draw)


def evaluate(
    pipe: MagicVideoPipeline,
    folder: Path,
    *,
    prompts: int = PROMPTS,
    references: int = PROMPTS,
    pair_prompts: int = PAIR_PROMPTS,
    judge: SpritesJudge | None = None,
) -> list[Bar]:
    """Make and judge videos of held-out prompts and return the table.

    Args:
        pipe: the pipeline of a sprites checkpoint.
        folder: for the verdicts; those already there are of use only for the same pipeline and judge.
        prompts: how many prompts of one object become videos.
        references: how many become reference images, which take a second each.
        pair_prompts: how many prompts of two objects become both.
        judge: the embedded one by default.

    Raises:
        MagicVideoError: ``folder`` holds the verdicts of another pipeline or judge.
    """
    judge = judge or load_judge()
    two = held_out_scenes(pair_prompts, 2)
    identity = f"{pipe.digest()} {part_digest(judge)[:16]}"
    folder.mkdir(parents=True, exist_ok=True)

    def read_image(scene: Scene) -> dict[str, Any]:
        image = pipe.reference_image(scene.caption, seed=0)
        return {
            name: bool(value) for name, value in agreement(judge.judge(image[None, None]), [scene]).items()
        }

    def read_video(scene: Scene) -> dict[str, Any]:
        return read_result(judge, pipe(scene.caption, seed=0, progress=False), scene)

    asked = [*held_out_scenes(references, 1), *two]
    images = list(_verdicts(folder / "references.jsonl", identity, asked, read_image))
    rows = list(
        _verdicts(folder / "verdicts.jsonl", identity, [*held_out_scenes(prompts, 1), *two], read_video)
    )
    single, pairs = rows[:prompts], rows[prompts:]
    table = [*judge_bars(judge, pipe), autoencoder_bar(pipe)]
    table += [
        _share("reference image: shape and colour", images[:references], "object", 0.90),
        _share("reference image: background", images[:references], "background", 0.90),
        _share("final video: shape and colour", single, "object", 0.85),
        _share("final video: motion", single, "motion", 0.80),
        _share("final video: background", single, "background", 0.90),
        _share("two objects, reference image: shapes and colours", images[references:], "object", None),
        _share("two objects, final video: shapes and colours", pairs, "object", None),
        _share("two objects, final video: motions", pairs, "motion", None),
        _mean("cadence ratio on generated keyframes", single, "cadence_ratio", 1.05, most=True),
        _mean("sharpness of generated in-between frames, of keyframes", single, "sharpness", 0.99),
        diversity_bar(pipe),
    ]
    return [bar for bar in table if bar.n > 0]


def judge_bars(judge: SpritesJudge, pipe: MagicVideoPipeline) -> list[Bar]:
    """Return the judge's own accuracy on held-out scenes of one object, drawn by the renderer.

    On clips; on first frames, which are all that a reference image shows; and on first frames that went through the
    autoencoder, as everything generated does.
    """
    names = (
        "clips: shape and colour",
        "clips: motion",
        "clips: background",
        "first frames: shape and colour",
        "first frames through the autoencoder: shape and colour",
    )
    right: dict[str, list[bool]] = {name: [] for name in names}
    for scene in held_out_scenes(REAL_CLIPS, 1):
        clip = agreement(judge.judge(_drawn(scene, np.linspace(0, 1, FRAMES), SIDE)[None]), [scene])
        opening = _drawn(scene, np.zeros(1), pipe.config.v2v.size)
        decoded = (_through(pipe, opening) * 255).round().to(torch.uint8)
        first, through = (agreement(judge.judge(frames[None]), [scene]) for frames in (opening, decoded))
        verdicts = (clip["object"], clip["motion"], clip["background"], first["object"], through["object"])
        for name, verdict in zip(names, verdicts, strict=True):
            right[name].append(bool(verdict))
    return [_interval(f"judge on real {name}", values, 0.97) for name, values in right.items()]


def autoencoder_bar(pipe: MagicVideoPipeline, count: int = 128) -> Bar:
    """Return the autoencoder's mean PSNR in dB on held-out frames at the size of the finished video."""
    values = []
    for index, scene in enumerate(held_out_scenes(count, 1)):
        frame = _drawn(scene, np.array([index / count]), pipe.config.v2v.size)
        values.append(float(psnr(_through(pipe, frame), frame.float() / 255)))
    return Bar(name="autoencoder: PSNR in dB", value=float(np.mean(values)), n=count, wanted=32.0)


def _drawn(scene: Scene, times: np.ndarray, size: int) -> torch.Tensor:
    """Return the true frames ``(T, 3, S, S)`` uint8 of a scene."""
    return torch.from_numpy(render(scene, times, size).video).permute(0, 3, 1, 2)


@torch.inference_mode()
def _through(pipe: MagicVideoPipeline, frames: torch.Tensor) -> torch.Tensor:
    """Return uint8 frames as the autoencoder gives them back, in [0, 1]."""
    vae = pipe.components.vae
    weight = next(vae.parameters())
    encoded = vae.encode((frames.float() / 127.5 - 1).to(weight.device, weight.dtype))
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    return (vae.decode(latents).sample.float() / 2 + 0.5).clamp(0, 1).cpu()


def diversity_bar(pipe: MagicVideoPipeline, count: int = DIVERSITY_PROMPTS) -> Bar:
    """Return how much the reference images of one prompt differ between two seeds, as a mean of 255 levels."""
    values = []
    for scene in tqdm(held_out_scenes(count, 1), desc="seeds", mininterval=5):
        one, two = (pipe.reference_image(scene.caption, seed=seed).float() for seed in (0, 1))
        values.append(float((one - two).abs().mean()))
    return Bar(
        name="two seeds: mean absolute difference of reference images", value=float(np.mean(values)), n=count
    )


def _verdicts(
    path: Path, identity: str, scenes: list[Scene], read: Callable[[Scene], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield one row a scene, from the file or new."""
    known = read_verdicts(path, identity)
    for scene in tqdm(scenes, desc=path.stem, mininterval=5):
        if scene.caption not in known:
            row = {"of": identity, "prompt": scene.caption} | read(scene)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            known[scene.caption] = row
        yield known[scene.caption]


def read_verdicts(path: Path, identity: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a file of verdicts by prompt; a line cut short by a crash is left out.

    Raises:
        MagicVideoError: a row is of another pipeline and judge than ``identity`` names.
    """
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    if any(row["of"] != identity for row in rows):
        raise MagicVideoError(
            f"{path} holds verdicts of another checkpoint, configuration or judge; give an empty folder"
        )
    return {row["prompt"]: row for row in rows}


def read_result(judge: SpritesJudge, result: VideoResult, scene: Scene) -> dict[str, float | bool]:
    """Judge one finished video against its scene, and its frames in between by themselves."""
    final = agreement(judge.judge(result.frames[None]), [scene])
    row: dict[str, float | bool] = {name: bool(value) for name, value in final.items()}
    factor = (len(result.frames) - 1) // max(len(result.stages["v2v"]) - 1, 1)
    if factor == 3:
        row |= gap_quality(result.frames.float() / 255)
    return row


def as_rows(table: list[Bar]) -> list[dict[str, Any]]:
    """Return the table as plain values, what is furthest below its bar first."""
    ordered = sorted(table, key=lambda bar: (bar.reached is not False, _distance(bar)))
    return [asdict(bar) | {"reached": bar.reached} for bar in ordered]


def _distance(bar: Bar) -> float:
    if bar.wanted is None:
        return 0.0
    return (bar.wanted - bar.value if bar.most else bar.value - bar.wanted) / bar.wanted


def _share(name: str, rows: list[dict[str, Any]], key: str, wanted: float | None) -> Bar:
    return _interval(name, [bool(row[key]) for row in rows], wanted)


def _mean(name: str, rows: list[dict[str, Any]], key: str, wanted: float, *, most: bool = False) -> Bar:
    values = [row[key] for row in rows if key in row and math.isfinite(row[key])]
    value = float(np.mean(values)) if values else math.nan
    return Bar(name=name, value=value, n=len(values), wanted=wanted, most=most)


def _interval(name: str, values: list[bool], wanted: float | None) -> Bar:
    """Return a share with its 95 % score interval (Wilson 1927)."""
    n = len(values)
    if n == 0:
        return Bar(name=name, value=math.nan, n=0, wanted=wanted)
    share, z = sum(values) / n, 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Bar(name=name, value=share, n=n, low=middle - half, high=middle + half, wanted=wanted)
