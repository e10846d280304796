"""The ladder of distortions: in how many of some seeds each defect is ordered as it must be, by which metric.

    python benchmarks/metrics_ladder.py --seeds 8

Motion is measured on procedural clips (a patterned disc over a panning texture), text and sets of videos on the
sprites domain with the embedded models. Every figure is a rate over seeds or pairs, 1 being always right.
"""

import argparse
import json
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from evaluation.embedded_metrics import (
    DISTORTIONS,
    held_out_pool,
    render_pool,
    validate_clip,
    video_rates,
)
from metrics.embedded import CLIP_WEIGHTS, VIDEO_WEIGHTS
from metrics.features import load_extractor
from metrics.functional import frechet_distance, temporal_profile
from metrics.functional.temporal import Profile
from metrics.stillness import asks_for_motion
from metrics.text_video import CLIPScore, VideoTextScore

FPS = 12.0
CHANGED = {"red", "orange", "yellow", "blue", "purple", "pink"}  # colours that a swap of red and blue turns
Rates = dict[str, float]


def moving_clip(seed: int, frames: int, size: int, pace: float = 1.0) -> Tensor:
    """Return uint8 ``(T, 3, S, S)``: a patterned disc crossing a texture that pans, ``pace`` times as fast."""
    generator = torch.Generator().manual_seed(seed)
    texture = interpolate(torch.rand(1, 3, 28, 28, generator=generator), size=2 * size, mode="bicubic")[0]
    angle = 2 * torch.pi * float(torch.rand(1, generator=generator))
    y, x = torch.meshgrid(torch.arange(size).float(), torch.arange(size).float(), indexing="ij")
    clip = []
    for t in range(frames):
        left, part = divmod(size / 2 + 0.6 * pace * t, 1)
        here, after = (
            texture[:, size // 2 : size // 2 + size, int(left) + k : int(left) + k + size] for k in (0, 1)
        )
        reach = 1.2 * pace * (t - frames / 2)
        cx, cy = size / 2 + np.cos(angle) * reach, size / 2 + np.sin(angle) * reach
        alpha = (size / 7 - ((x - cx) ** 2 + (y - cy) ** 2).sqrt()).clamp(0, 1)
        disc = torch.stack(
            [200 + 40 * torch.sin((x - cx) / 3), 60 + 40 * torch.sin((y - cy) / 4), 80 + 0 * x]
        )
        ground = 20 + 200 * ((1 - part) * here + part * after)
        clip.append(ground * (1 - alpha) + disc * alpha)
    return torch.stack(clip).round().clamp(0, 255).byte()


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + seed)


def noise(clip: Tensor, seed: int, sigma: float) -> Tensor:
    """Add independent noise to every frame."""
    return (clip + sigma * torch.randn(clip.shape, generator=_draw(seed))).round().clamp(0, 255).byte()


def flicker(clip: Tensor, seed: int, strength: float) -> Tensor:
    """Change the brightness of every frame by a random factor."""
    gain = 1 + strength * torch.randn(len(clip), 1, 1, 1, generator=_draw(seed))
    return (clip * gain).round().clamp(0, 255).byte()


def jitter(clip: Tensor, seed: int, pixels: int) -> Tensor:
    """Shift every frame by a random number of pixels in both directions."""
    moves = torch.randint(0, 2, (len(clip), 2), generator=_draw(seed)) * 2 - 1
    return torch.stack(
        [torch.roll(f, (pixels * m).tolist(), (1, 2)) for f, m in zip(clip, moves, strict=True)]
    )


def boil(clip: Tensor, seed: int, strength: float) -> Tensor:
    """Add coarse noise that changes from frame to frame, as textures of generated video do."""
    coarse = torch.randn(len(clip), 3, 12, 12, generator=_draw(seed))
    added = strength * interpolate(coarse, size=clip.shape[-2:], mode="bilinear")
    return (clip + added).round().clamp(0, 255).byte()


def pops(clip: Tensor, seed: int) -> Tensor:
    """Let a square appear and vanish in every third frame."""
    out, side = clip.clone(), clip.shape[-1] // 4
    at = int(torch.randint(0, clip.shape[-1] - side, (1,), generator=_draw(seed)))
    out[1::3, :, at : at + side, at : at + side] = 255
    return out


def blur(clip: Tensor) -> Tensor:
    """Average over 5 x 5 pixels."""
    return avg_pool2d(clip.float(), 5, 1, 2, count_include_pad=False).round().byte()


def stutter(clip: Tensor, hold: int) -> Tensor:
    """Show only every ``hold``-th frame, ``hold`` times."""
    return clip[torch.arange(len(clip)) // hold * hold]


def cut(clip: Tensor, seed: int) -> Tensor:
    """Continue with another scene halfway."""
    other = 255 - moving_clip(seed + 500, len(clip), clip.shape[-1])
    return torch.cat([clip[: len(clip) // 2], other[len(clip) // 2 :]])


def distorted(clip: Tensor, seed: int) -> dict[str, Tensor]:
    """Return every distortion of one clip."""
    still = clip[:1].expand_as(clip)
    found = {"clean": clip, "freeze": still, "freeze + noise 2": noise(still, seed, 2)}
    found |= {f"stutter x{hold}": stutter(clip, hold) for hold in (2, 4)}
    found |= {"shuffle": clip[torch.randperm(len(clip), generator=_draw(seed))], "reverse": clip.flip(0)}
    found |= {f"jitter {p}": jitter(clip, seed, p) for p in (1, 3)}
    found |= {f"noise {s}": noise(clip, seed, s) for s in (2, 5, 10)}
    found |= {f"flicker {s}": flicker(clip, seed, s / 100) for s in (2, 5, 10)}
    found |= {f"boil {s}": boil(clip, seed, s) for s in (4, 8)}
    found |= {
        "blur": blur(clip),
        "cut": cut(clip, seed),
        "pops": pops(clip, seed),
        "colour swap": clip.flip(1),
    }
    return found


def motion_rates(seeds: int, frames: int, size: int) -> dict[str, Rates]:
    """Return rates of right orders by acceleration ratio (A) and warp residual (R), and of the other promises."""
    profiles = []
    for seed in range(seeds):
        clips = distorted(moving_clip(seed, frames, size), seed)
        clips |= {f"pace {pace}": moving_clip(seed, frames, size, pace) for pace in (0.5, 2.0)}
        profiles.append({name: temporal_profile(clip, FPS) for name, clip in clips.items()})

    def rate(test: Callable[[dict[str, Profile]], bool]) -> float:
        return sum(test(profile) for profile in profiles) / seeds

    def value(profile: dict[str, Profile], name: str, key: str) -> float:
        found = profile[name][key]
        return float("nan") if found is None else float(found)

    def above(key: str, *names: str) -> float:
        """Rate of seeds in which the values rise from the first name to the last."""
        return rate(lambda p: all(value(p, a, key) < value(p, b, key) for a, b in pairwise(names)))

    temporal = (
        "stutter x2",
        "stutter x4",
        "shuffle",
        "jitter 1",
        "jitter 3",
        "flicker 5",
        "boil 8",
        "pops",
        "noise 5",
    )
    appearing = ("shuffle", "flicker 2", "flicker 5", "noise 2", "noise 5", "boil 4", "boil 8", "pops")
    judged = ("accel_ratio", "warp_residual", "luminance_flicker")

    def change(profile: dict[str, Profile], key: str, name: str) -> float:
        return abs(value(profile, name, key) / value(profile, "clean", key) - 1)

    ladders = {"jitter": ("jitter 1", "jitter 3"), "noise": ("clean", "noise 2", "noise 5", "noise 10")}
    ladders |= {
        "flicker": ("clean", "flicker 2", "flicker 5", "flicker 10"),
        "boil": ("clean", "boil 4", "boil 8"),
    }
    return {
        "A worse than clean": {name: above("accel_ratio", "clean", name) for name in temporal},
        "A monotone": {name: above("accel_ratio", *steps) for name, steps in ladders.items()},
        "R worse than clean": {name: above("warp_residual", "clean", name) for name in appearing},
        "R monotone": {
            name: above("warp_residual", *steps) for name, steps in ladders.items() if name != "jitter"
        },
        "unchanged within 5 % played backwards": {
            key: rate(lambda p, key=key: change(p, key, "reverse") < 0.05) for key in judged[:2]
        },
        "largest change by a swap of red and blue": {
            key: round(max(change(p, key, "colour swap") for p in profiles), 3) for key in judged[:2]
        },
        "speed follows the pace within 10 %": {
            str(pace): rate(
                lambda p, pace=pace: (
                    abs(value(p, f"pace {pace}", "speed") / value(p, "clean", "speed") / pace - 1) < 0.1
                )
            )
            for pace in (0.5, 2.0)
        },
        "still": {
            "freeze is static and has no judging value": rate(
                lambda p: bool(p["freeze"]["static"]) and all(p["freeze"][key] is None for key in judged)
            ),
            "freeze + noise is static or worse": rate(
                lambda p: (
                    bool(p["freeze + noise 2"]["static"])
                    or value(p, "freeze + noise 2", "accel_ratio") > value(p, "clean", "accel_ratio")
                )
            ),
        },
        "cut is counted": {"cut": rate(lambda p: int(p["cut"]["cuts"] or 0) >= 1)},
        "blur lowers sharpness": {
            "blur": rate(lambda p: value(p, "blur", "sharpness") < value(p, "clean", "sharpness"))
        },
    }


def text_rates(seeds: int, clips: int) -> dict[str, Rates]:
    """Return in which share of all pairs, over seeds, what is wrong or frozen scores lower than what is right."""
    models = {
        "clip": (CLIPScore(), validate_clip, CLIP_WEIGHTS),
        "video": (VideoTextScore(), video_rates, VIDEO_WEIGHTS),
    }
    found: dict[str, Rates] = {}
    for name, (metric, rates, folder) in models.items():
        rows = []
        for seed in range(1, seeds + 1):
            row = rates(folder, clips=clips, seed=seed, progress=False)
            pool = held_out_pool(clips, seed, progress=False)
            rows.append({key.removeprefix("right_over_"): value for key, value in row.items()})
            rows[-1] |= _over_distorted(metric, pool.videos, pool.captions)
        found[name] = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}
    return found


def _over_distorted(metric: CLIPScore | VideoTextScore, videos: Tensor, captions: list[str]) -> Rates:
    """Return how often a clip scores higher than its distorted self, where the caption tells the difference."""
    cases = {
        "frozen": (lambda x: x[:, :1].expand_as(x), lambda c: asks_for_motion(c)),
        "red and blue swapped": (lambda x: x.flip(2), lambda c: not CHANGED.isdisjoint(c.split())),
    }
    rates = {}
    for name, (distort, tells) in cases.items():
        chosen = [i for i, caption in enumerate(captions) if tells(caption)]
        prompts = [captions[i] for i in chosen]
        metric.reset()
        metric.update(videos[chosen], prompts)
        metric.update(distort(videos[chosen]), prompts)
        clean, other = metric.values().split(len(chosen))
        rates[name] = float((clean > other).double().mean())
    return rates


def distance_rates(seeds: int, clips: int) -> Rates:
    """Return in how many seeds the embedded Fréchet distance of a distorted set exceeds that of the clean one."""
    extractor, worse = load_extractor("embedded"), dict.fromkeys(DISTORTIONS, 0)
    for seed in range(seeds):
        pool = render_pool(3 * clips, 8, 64, 50 + seed, split="any", progress=False).videos
        real, fake = extractor(pool[: 2 * clips]), pool[2 * clips :]
        clean = float(frechet_distance(extractor(fake), real))
        for name, distort in DISTORTIONS.items():
            worse[name] += float(frechet_distance(extractor(distort(fake)), real)) > clean
    return {name: count / seeds for name, count in worse.items() if name != "clean"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--clips", type=int, default=128, help="sprites per set; 0 measures motion alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, object] = {"seeds": arguments.seeds, "torch": torch.__version__}
    report["motion"] = motion_rates(arguments.seeds, arguments.frames, arguments.size)
    if arguments.clips:
        report["text"] = text_rates(arguments.seeds, arguments.clips)
        report["fréchet distance over clean"] = distance_rates(arguments.seeds, arguments.clips)
    print(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
