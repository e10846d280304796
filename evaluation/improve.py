"""Rounds of learning: candidates, automatic verdicts, tuning, a comparison with the parent, and the gate's word.

A round draws new prompts, makes several candidates of each, lets the sprites judge say which are better, tunes an
adapter on those preferences, and compares the tuned model with its parent on prompts that no tuning ever saw. The
child is kept if it is preferred beyond doubt and no metric of the gate regresses; otherwise the parent goes on. A
second adapter, tuned on the same pairs with shuffled labels, is the control that must not help.

Everything is on disk as soon as it is made; an interrupted run goes on where it was.
"""

import hashlib
import io
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from evaluation.errors import EvaluationError
from evaluation.gate.compare import GateResult
from evaluation.gate.specification import GateSpec, MetricGate
from evaluation.improve_compare import (
    Comparison,
    accuracy_of,
    decide_round,
    preference_of,
    report,
    to_dict,
)
from evaluation.judge_votes import BAND, Reading, read_frames, verdict
from evaluation.preferences import Tally, decide, write_set
from evaluation.report.write import write_text

if TYPE_CHECKING:
    from magicvideo.pipeline import MagicVideoPipeline
    from magicvideo.sprites.judge import SpritesJudge
    from magicvideo.training.preference import PreferenceConfig

Say = Callable[[str], None]
SETTINGS_FILE, ROUND_FILE, REPORT_FILE = "improve.json", "round.json", "report.md"
HELD_OUT_STREAM = 1_000_000  # keeps the draws of held-out prompts apart from those of tuning prompts
DEFAULT_GATE = GateSpec(
    metrics={
        "clip": MetricGate(tolerance=0.5),
        "temporal": MetricGate(tolerance=0.03),
        "sharpness": MetricGate(tolerance=5, direction="higher"),
    }
)


@dataclass(frozen=True, kw_only=True)
class ImproveConfig:
    """What every round does.

    Attributes:
        checkpoint: the first parent: a sprites checkpoint.
        prompts: tuning prompts of a round.
        seeds: candidates of each.
        pair_share: share of all prompts that have two objects.
        held_out: prompts of the comparison; their combinations of attributes are in no training set.
        held_out_seeds: images of each held-out prompt and model; the seeds are the same for all models.
        videos: held-out prompts whose whole videos go into a blinded study and through the gate; 0 leaves it out.
        until: last stage of those videos.
        band: scores this close are the same.
        method: how the child and its control are tuned: dpo, sft or reward-weighted.
        baselines: further methods, tuned and compared beside the child.
        tuning: options of ``magicvideo.training.preference.PreferenceConfig``, without checkpoint and seed.
        seed: of prompts and tuning.
    """

    checkpoint: str = "sprites"
    prompts: int = 96
    seeds: int = 4
    pair_share: float = 0.0
    held_out: int = 96
    held_out_seeds: int = 1
    videos: int = 12
    until: str = "v2v"
    band: float = BAND
    method: str = "dpo"
    baselines: tuple[str, ...] = ()
    tuning: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"prompts": 3, "seeds": 2, "held_out": 2, "held_out_seeds": 1, "videos": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise EvaluationError(f"{name} must be at least {minimum}, got {getattr(self, name)}")
        if not 0 <= self.pair_share <= 1:
            raise EvaluationError(f"pair_share must be from 0 to 1, got {self.pair_share}")
        if self.videos > self.held_out:
            raise EvaluationError(f"{self.videos} videos of {self.held_out} held-out prompts; ask for fewer")
        if self.method in self.baselines:
            raise EvaluationError(f"{self.method} is the child's method; a baseline is another one")
        for name in ("checkpoint", "seed", "method", "shuffle_labels"):
            if name in self.tuning:
                raise EvaluationError(f"{name} is set by the round itself, not among the options of tuning")

    def tuned_by(self, method: str, *, parent: str, seed: int, shuffle: bool = False) -> "PreferenceConfig":
        """Return how one adapter of a round is tuned."""
        from magicvideo.training.preference import preference_config

        own = {"checkpoint": parent, "seed": seed, "method": method, "shuffle_labels": shuffle}
        return preference_config({**self.tuning, **own})


def improve(
    root: Path,
    config: ImproveConfig,
    *,
    rounds: int = 1,
    gate: GateSpec = DEFAULT_GATE,
    say: Say = lambda line: None,
    progress: bool = True,
) -> str:
    """Run rounds until ``rounds`` of them are done; return the checkpoint that stands at the end.

    Args:
        root: folder of the whole run: ``round-NN/`` each with candidates, preference set, adapters, checkpoint of
            the child and ``round.json``; ``improve.db`` with videos, studies and automatic votes; ``report.md``.
        config: what every round does.
        rounds: how many in all, those done before included.
        gate: the metrics that must not regress.
        say: told each step in one line.
        progress: show bars.

    Raises:
        EvaluationError: ``root`` holds a run of another configuration, or the verdicts prefer nothing.
        magicvideo.errors.MagicVideoError: the checkpoint cannot be loaded or tuned.
    """
    root.mkdir(parents=True, exist_ok=True)
    _claim(root, config, gate)
    for method in (config.method, *config.baselines):  # a wrong option is said before any work
        config.tuned_by(method, parent=config.checkpoint, seed=config.seed)
    parent, done = config.checkpoint, []
    for number in range(1, rounds + 1):
        record = Round(root, number, parent, config, gate, say, progress).run()
        done.append(record)
        parent = str(root / record["child"]) if record["kept"] else parent
        write_text(root / REPORT_FILE, report(done))
    return parent


class Round:
    """One round; every step leaves its result on disk and is skipped where that is there already."""

    def __init__(
        self,
        root: Path,
        number: int,
        parent: str,
        config: ImproveConfig,
        gate: GateSpec,
        say: Say,
        progress: bool,
    ) -> None:
        self.root, self.number, self.parent, self.config, self.gate = root, number, parent, config, gate
        self.folder = root / f"round-{number:02d}"
        self.child = str(self.folder / "checkpoint")
        self._say, self.progress = say, progress
        self._judge: SpritesJudge | None = None

    def run(self) -> dict[str, Any]:
        """Do what is not done yet and return the record of the round."""
        path = self.folder / ROUND_FILE
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        start = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        preferences = self.prefer()
        arms = self.tune()
        held_out = {name: self.held_out_images(name, adapter) for name, adapter in arms.items()}
        comparisons = [self.compare(name, held_out) for name in arms if name != "parent"]
        votes, gate = self.videos()
        kept, reason = decide_round(comparisons[0], votes, gate)
        record = {
            "round": self.number,
            "parent": self.parent,
            "child": str(Path(self.child).relative_to(self.root)),
            "kept": kept,
            "reason": reason,
            "preferences": preferences,
            "comparisons": [to_dict(item) for item in comparisons],
            "video_votes": None if votes is None else asdict(votes),
            "gate": None if gate is None else gate.to_dict(),
            "seconds": round(time.perf_counter() - start, 1),
        }
        write_text(path, json.dumps(record, indent=2) + "\n")
        self.say(f"{'kept' if kept else 'rejected'}: {reason}")
        return record

    def say(self, line: str) -> None:
        """Say one line, with the round's number."""
        self._say(f"round {self.number}: {line}")

    @property
    def judge(self) -> "SpritesJudge":
        """The sprites judge."""
        from magicvideo.sprites.judge import load_judge

        self._judge = self._judge or load_judge()
        return self._judge

    def prefer(self) -> str:
        """Make candidates, judge them and write the preference set; return what it holds in words."""
        said, folder = self.folder / "preferences.txt", self.folder / "preferences"
        if folder.exists() and said.exists():
            return said.read_text(encoding="utf-8")
        prompts = scene_prompts(
            self.config.prompts,
            (self.config.seed, self.number),
            "train",
            pair_share=self.config.pair_share,
        )
        seeds = range(self.config.seeds)
        places = self._images("candidates", prompts, seeds, adapter=None)
        readings = self._read("candidates", places)
        tallies = [
            _tally(prompt, readings, (prompt, one), (prompt, two), self.config.band)
            for prompt in prompts
            for one, two in itertools.combinations(seeds, 2)
        ]
        preferences, left_out = decide(tallies, "drop", what=f"round {self.number}")
        shutil.rmtree(folder, ignore_errors=True)  # written by a run that ended before it could say so
        by_key = {_key(*place): path for place, path in places.items()}
        exported = write_set(
            folder,
            preferences,
            lambda key: (by_key[key].read_bytes(), ".png"),
            makers={_key(prompt, seed): f"{self.parent} seed {seed}" for prompt, seed in places},
            ties="drop",
            left_out=left_out,
            about=f"Automatic verdicts of the sprites judge on candidates of {self.parent}; no person voted.",
        )
        write_text(said, exported.sentence)
        self.say(exported.sentence)
        return exported.sentence

    def tune(self) -> dict[str, Path | None]:
        """Tune the child, its control and the baselines; return every model to compare with its adapter."""
        from magicvideo.training.preference import ADAPTER, tune

        runs = {"child": (self.config.method, False), "shuffled labels": (self.config.method, True)}
        runs |= {method: (method, False) for method in self.config.baselines}
        adapters: dict[str, Path | None] = {"parent": None}
        for name, (method, shuffle) in runs.items():
            out = self.folder / name.replace(" ", "-")
            adapters[name] = out / ADAPTER
            if not (out / "recipe.json").exists() or not (out / ADAPTER).exists():
                seed = self.config.seed + self.number
                settings = self.config.tuned_by(method, parent=self.parent, seed=seed, shuffle=shuffle)
                recipe = tune(settings, self.folder / "preferences", out, progress=self.progress)
                monitored: Any = recipe.get("monitored")
                self.say(f"{name} tuned, {monitored[-1] if monitored else ''}")
        return adapters

    def held_out_images(self, name: str, adapter: Path | None) -> dict[tuple[str, int], Reading]:
        """Return what the judge reads in a model's images of the held-out prompts."""
        folder = f"held-out/{name.replace(' ', '-')}"
        seeds = range(self.config.held_out_seeds)
        return self._read(folder, self._images(folder, self.held_out_prompts, seeds, adapter=adapter))

    @property
    def held_out_prompts(self) -> list[str]:
        """Prompts of combinations that are kept from all training, new in every round."""
        return scene_prompts(
            self.config.held_out,
            (self.config.seed, HELD_OUT_STREAM + self.number),
            "held_out",
            pair_share=self.config.pair_share,
        )

    def compare(self, name: str, held_out: Mapping[str, Mapping[tuple[str, int], Reading]]) -> Comparison:
        """Compare a model with the parent, image by image of the same prompt and seed."""
        before, after = held_out["parent"], held_out[name]
        outcomes = [verdict(after[place], before[place], self.config.band) for place in before]
        found = Comparison(
            name=name,
            votes=preference_of(outcomes, [prompt for prompt, _ in before]),
            accuracy=accuracy_of(before, after),
        )
        self.say(found.sentence)
        return found

    def videos(self) -> tuple[Any, GateResult | None]:
        """Make whole videos of parent and child, let the judge vote in a study, and ask the gate."""
        self._save_child()
        if not self.config.videos:
            return None, None
        from evaluation.improve_videos import compare_videos

        votes, gate = compare_videos(
            self.root / "improve.db",
            self.folder / "videos",
            name=f"round-{self.number:02d}",
            parent=self.parent,
            child=self.child,
            prompts=self.held_out_prompts[: self.config.videos],
            until=self.config.until,
            spec=self.gate,
            judge=self.judge,
            band=self.config.band,
            progress=self.progress,
        )
        self.say(f"videos: {votes.sentence}; gate {gate.sentence()}")
        return votes, gate

    def _save_child(self) -> None:
        from magicvideo.pipeline import CONFIG_FILE

        if not (Path(self.child) / CONFIG_FILE).exists():
            self._load(self.folder / "child" / "adapter").save_pretrained(self.child)

    def _load(self, adapter: Path | None) -> "MagicVideoPipeline":
        from magicvideo.pipeline import MagicVideoPipeline

        return MagicVideoPipeline.from_pretrained(self.parent, adapter=adapter)

    def _images(
        self, folder: str, prompts: Iterable[str], seeds: Iterable[int], *, adapter: Path | None
    ) -> dict[tuple[str, int], Path]:
        """Make the images that are not there yet; return the file of every prompt and seed."""
        from PIL import Image

        place = self.folder / folder
        place.mkdir(parents=True, exist_ok=True)
        paths = {(p, s): place / f"{_key(p, s)}.png" for p, s in itertools.product(prompts, seeds)}
        missing = {key: path for key, path in paths.items() if not path.exists()}
        pipe = self._load(adapter) if missing else None
        for (prompt, seed), path in tqdm(
            missing.items(), desc=folder, disable=not self.progress or not missing, mininterval=5
        ):
            assert pipe is not None  # loaded because something is missing
            buffer = io.BytesIO()
            Image.fromarray(pipe.reference_image(prompt, seed=seed).permute(1, 2, 0).numpy()).save(
                buffer, "PNG"
            )
            temporary = path.with_suffix(".part")
            temporary.write_bytes(buffer.getvalue())
            os.replace(temporary, path)
        return paths

    def _read(self, folder: str, paths: Mapping[tuple[str, int], Path]) -> dict[tuple[str, int], Reading]:
        """Let the judge read images; what it reads is kept as ``readings.jsonl``, marked automatic."""
        import torch
        from PIL import Image

        readings = {}
        for (prompt, seed), path in paths.items():
            with Image.open(path) as image:
                pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)
            readings[prompt, seed] = read_frames(self.judge, pixels[None], prompt)
        lines = [
            {"origin": "automatic", "prompt": prompt, "seed": seed, "file": paths[prompt, seed].name}
            | {"score": round(reading.score, 4), **asdict(reading)}
            for (prompt, seed), reading in readings.items()
        ]
        write_text(
            self.folder / folder / "readings.jsonl", "".join(json.dumps(line) + "\n" for line in lines)
        )
        return readings


def scene_prompts(count: int, stream: tuple[int, ...], split: str, *, pair_share: float = 0.0) -> list[str]:
    """Return different captions, a ``pair_share`` of them of two objects, from a stream of their own; a fixed list."""
    from magicvideo.sprites.scene import Scene, distinct_scenes, sample_scene

    def draw(index: int, found: int) -> Scene:
        rng = np.random.default_rng([*stream, index])
        objects = 1 + int((found + 1) * pair_share) - int(found * pair_share)
        return sample_scene(rng, split=split, num_objects=objects)  # type: ignore[arg-type]

    return [scene.caption for scene in distinct_scenes(count, draw)]


def _tally(
    prompt: str,
    readings: Mapping[tuple[str, int], Reading],
    one: tuple[str, int],
    two: tuple[str, int],
    band: float,
) -> Tally:
    outcome = verdict(readings[one], readings[two], band)
    return Tally(
        prompt=prompt,
        first=_key(*one),
        second=_key(*two),
        good=float(outcome == 1),
        same=float(outcome == 0),
        bad=float(outcome == -1),
    )


def _key(prompt: str, seed: int) -> str:
    return f"{hashlib.sha256(prompt.encode()).hexdigest()[:16]}-{seed}"


def _claim(root: Path, config: ImproveConfig, gate: GateSpec) -> None:
    """Write down what this folder's run is, or refuse to go on with another one's."""
    run = json.loads(json.dumps(asdict(config) | {"gate": gate.model_dump()}))
    path = root / SETTINGS_FILE
    if not path.exists():
        write_text(path, json.dumps(run, indent=2) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = sorted(key for key in run.keys() | before.keys() if run.get(key) != before.get(key))
    if changed:
        raise EvaluationError(
            f"{root} holds a run that differs in {', '.join(changed)}; give another folder, or the same options to go "
            f"on with it"
        )
