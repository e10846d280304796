"""The gate on real files: what spoils a video is caught, what does not is let through."""

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from scipy.ndimage import uniform_filter
from typer.testing import CliRunner

from evaluation.cli.main import app
from evaluation.engine.record import VideoRecord
from evaluation.gate.compare import compare
from evaluation.gate.run import compare_places, side_of
from evaluation.gate.sides import Side, measure_side, reference_features
from evaluation.gate.specification import GateSpec
from evaluation.systems.sprites_truth import scene_of
from magicvideo.sprites.render import frame_times, render
from magicvideo.sprites.scene import Scene, sample_scene
from magicvideo.video import write_video

COUNT, SIDE, FRAMES = 10, 64, 16
SPEC = {
    "metrics": {
        "clip": {"tolerance": 1.0},
        "temporal": {"tolerance": 0.05},
        "sharpness": {"tolerance": 5.0, "direction": "higher"},
    }
}
MOVING = ("moving left", "moving right", "moving up", "moving down")


def scenes() -> list[Scene]:
    return [
        sample_scene(np.random.default_rng([6, index]), num_objects=1, motion=MOVING[index % 4], size="large")
        for index in range(COUNT)
    ]


def write(folder: Path, change: Callable[[int, np.ndarray], np.ndarray]) -> Path:
    folder.mkdir()
    for index, scene in enumerate(scenes()):
        clip = render(scene, frame_times(FRAMES), SIDE).video
        write_video(folder / f"v{index:02d}.mp4", change(index, clip), Fraction(10))
    return folder


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gate")
    write(root / "truth", lambda index, clip: clip)
    (root / "prompts.txt").write_text("\n".join(scene.caption for scene in scenes()) + "\n")
    (root / "gate.yaml").write_text(yaml.safe_dump(SPEC))
    return root


def blurred(index: int, clip: np.ndarray) -> np.ndarray:
    return np.rint(uniform_filter(clip.astype(np.float32), (0, 7, 7, 0))).astype(np.uint8)


def frozen(index: int, clip: np.ndarray) -> np.ndarray:
    return np.repeat(clip[:1], len(clip), 0)


def dropped(index: int, clip: np.ndarray) -> np.ndarray:
    held = np.arange(len(clip)) // 3 * 3
    return clip[held]


def swapped(index: int, clip: np.ndarray) -> np.ndarray:
    other = scenes()[(index + 3) % COUNT]
    return render(other, frame_times(FRAMES), SIDE).video


@pytest.mark.parametrize(
    ("change", "metric"),
    [(blurred, "sharpness"), (frozen, "frozen videos"), (dropped, "temporal"), (swapped, "clip")],
)
def test_a_spoiled_candidate_is_a_regression(
    truth: Path, tmp_path: Path, change: Callable[[int, np.ndarray], np.ndarray], metric: str
) -> None:
    candidate = write(tmp_path / change.__name__, change)
    spec = GateSpec.model_validate(SPEC)
    result = compare_places(truth / "truth", candidate, spec, prompts=truth / "prompts.txt")
    assert result.verdict == "regression", [row.sentence() for row in result.metrics]
    assert {row.metric: row.verdict for row in result.metrics}[metric] == "regression"


def test_an_identical_candidate_passes_and_a_brightened_one_is_no_regression(
    truth: Path, tmp_path: Path
) -> None:
    def brighter(index: int, clip: np.ndarray) -> np.ndarray:
        return (clip.astype(np.int16) + 1).clip(0, 255).astype(np.uint8)

    places = {
        name: write(tmp_path / name, change)
        for name, change in (("same", lambda i, c: c), ("light", brighter))
    }
    for path in places["same"].glob("*.mp4"):
        path.rename(path.with_suffix(".MP4"))
    spec = GateSpec.model_validate(SPEC)
    found = {
        name: compare_places(truth / "truth", place, spec, prompts=truth / "prompts.txt").verdict
        for name, place in places.items()
    }
    assert found["same"] == "pass"
    assert found["light"] in ("pass", "inconclusive")


def test_a_candidate_encoded_again_is_no_regression(truth: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    for path in sorted((truth / "truth").glob("*.mp4")):
        with av.open(str(path)) as source, av.open(str(again / path.name), "w") as target:
            stream = target.add_stream("libx264", rate=10, options={"crf": "18"})
            stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
            for number, frame in enumerate(source.decode(video=0)):
                frame.pts, frame.time_base = number, Fraction(1, 10)
                target.mux(stream.encode(frame))
            target.mux(stream.encode())
    tolerances = SPEC["metrics"] | {"sharpness": {"tolerance": 50.0, "direction": "higher"}}
    spec = GateSpec.model_validate({"metrics": tolerances})
    result = compare_places(truth / "truth", again, spec, prompts=truth / "prompts.txt")
    assert result.verdict in ("pass", "inconclusive"), [row.sentence() for row in result.metrics]


@pytest.mark.slow
def test_false_alarms_on_real_values_stay_below_five_in_a_hundred(tmp_path: Path) -> None:
    """Two seeds of the same captions, sides drawn by prompt: no difference but chance, no tolerance at all."""
    count = 48
    metrics = {"clip": {"tolerance": 0}, "temporal": {"tolerance": 0}, "fvd": {"tolerance": 0}}
    spec = GateSpec.model_validate({"metrics": metrics})
    drawn_scenes = [
        sample_scene(np.random.default_rng([9, index]), split="any", num_objects=1, motion=MOVING[index % 4])
        for index in range(count)
    ]
    captions = {f"v{index:02d}": scene.caption for index, scene in enumerate(drawn_scenes)}
    sides = []
    for seed in (1, 2):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        for key, caption in captions.items():
            clip = render(scene_of(caption, seed), frame_times(8), SIDE).video
            write_video(folder / f"{key}.mp4", clip, Fraction(10))
        real = sorted(folder.glob("*.mp4"))
        sides.append(measure_side(folder, dict(captions), spec, reference=real, progress=False))
    reference = reference_features(sorted((tmp_path / "seed1").glob("*.mp4")), spec)
    rng, alarms, keys = np.random.default_rng(0), 0, list(sides[0].prompts)
    for _ in range(200):
        chosen = rng.choice(count, 24, replace=False)
        swapped = rng.random(24) < 0.5
        drawn = [
            part(sides, [keys[place] for place in chosen], list(swapped ^ bool(turn))) for turn in (0, 1)
        ]
        alarms += compare(drawn[0], drawn[1], spec, reference=reference).verdict == "regression"
    assert alarms <= 10


def part(sides: list[Side], keys: list[str], second: list[bool]) -> Side:
    """Return a side whose video of each key comes from one of two."""
    order = list(sides[0].prompts)
    chosen = [sides[int(flag)] for flag in second]
    rows = [(side.features, order.index(key)) for side, key in zip(chosen, keys, strict=True)]
    return Side(
        name="drawn",
        prompts={key: sides[0].prompts[key] for key in keys},
        values={key: side.values[key] for side, key in zip(chosen, keys, strict=True)},
        features=np.stack([features[place] for features, place in rows if features is not None]),
    )


def test_prompts_of_a_bench_are_read_from_its_records(truth: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(truth / "truth", folder)
    (folder / "records").mkdir()
    for index, scene in enumerate(scenes()):
        record = VideoRecord(
            system="x", config_digest="c", prompt=scene.caption, seed=0, outcome="made", sha256="0"
        )
        (folder / "records" / f"v{index:02d}.json").write_text(record.to_json())
    spec = GateSpec.model_validate({"metrics": {"sharpness": {"tolerance": 1, "direction": "higher"}}})
    assert list(side_of(folder, spec).prompts.values()) == [scene.caption for scene in scenes()]
    assert set(side_of(truth / "truth", spec).prompts.values()) == {None}


def test_the_command_needs_no_database_and_its_exit_status_is_the_verdict(
    truth: Path, tmp_path: Path
) -> None:
    candidate = write(tmp_path / "frozen", frozen)
    places = [str(truth / "truth"), str(candidate)]
    options = ["--prompts", str(truth / "prompts.txt"), "--gate", str(truth / "gate.yaml")]
    written = [tmp_path / name for name in ("result.json", "summary.md", "junit.xml")]
    flags = ["--json", str(written[0]), "--markdown", str(written[1]), "--junit", str(written[2])]
    found = CliRunner().invoke(app, ["compare", *places, *options, *flags])
    assert found.exit_code == 1, found.output
    assert "regression" in found.stdout.splitlines()[-1]
    assert all(path.stat().st_size > 0 for path in written)


def test_what_cannot_be_compared_is_never_called_a_regression(truth: Path, tmp_path: Path) -> None:
    gate = ["--gate", str(truth / "gate.yaml")]
    for place, told in ((truth / "gone", gate), (truth / "truth", ["--gate", str(tmp_path / "gone.yaml")])):
        found = CliRunner().invoke(app, ["compare", str(truth / "truth"), str(place), *told])
        assert found.exit_code == 2
        assert found.stderr.splitlines()[-1].startswith("magicvideo: ")
        assert "gone" in found.stderr.splitlines()[-1]
