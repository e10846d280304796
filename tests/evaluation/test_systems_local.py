"""Adapters that work on this machine: command, Python function, imported videos, our pipeline's variants, cards."""

import json
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from evaluation.cli.systems import app
from evaluation.errors import EvaluationError
from evaluation.systems.base import ClipFile, MissingError, RefusedError, TransientError
from evaluation.systems.card import card_names, check_card, load_card
from evaluation.systems.command import CommandSpec, CommandSystem, fill
from evaluation.systems.imported import ImportedSpec, ImportedSystem
from evaluation.systems.pipeline import MagicVideoSpec
from evaluation.systems.python_function import PythonSpec, PythonSystem
from evaluation.systems.specification import Builder, SystemSpec
from magicvideo.video import write_video

PROMPTS = (
    "A cat, sitting on a mat!",
    "a dog runs through the tall grass of a meadow in summer",
    "a dog runs through the tall grass of a meadow in winter",
)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_video(path, np.full((4, 16, 16, 3), 80, np.uint8), Fraction(8))
    return path


def program(text: str, **more: object) -> CommandSystem:
    run = (sys.executable, "-c", text, "{prompt}", "{seed}", "{out}")
    return CommandSystem("program", CommandSpec(run=run, timeout=30, **more))  # type: ignore[arg-type]


def test_command_gets_prompt_seed_and_place_and_its_file_is_taken(video: Path) -> None:
    text = "import shutil, sys; assert sys.argv[1:3] == ['a \\x7bseed\\x7d \"b\" $HOME', '7']; "
    text += f"shutil.copy({str(video)!r}, sys.argv[3])"
    made = program(text).generate('a {seed} "b" $HOME', 7)
    assert made.path.read_bytes() == video.read_bytes()
    assert (made.temporary, made.details.seed_used) == (True, True)
    made.path.unlink()


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("import sys; sys.exit('no memory')", EvaluationError, "exit status 1: no memory"),
        ("import sys; print('not allowed', file=sys.stderr); sys.exit(3)", RefusedError, "not allowed"),
        ("import sys; sys.exit(4)", TransientError, "no message"),
        ("import os; os.abort()", EvaluationError, "signal 6"),
        ("pass", EvaluationError, "wrote no video"),
    ],
)
def test_command_endings_are_told_apart(text: str, kind: type[EvaluationError], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        program(text, refused_exit=3, retry_exit=4).generate("x", 0)


def test_command_that_takes_too_long_is_stopped() -> None:
    run = (sys.executable, "-c", "import time; time.sleep(600)", "{prompt}{out}")
    with pytest.raises(EvaluationError, match=r"longer than 0\.5 s"):
        CommandSystem("slow", CommandSpec(run=run, timeout=0.5)).generate("x", 0)


def test_values_are_filled_in_once() -> None:
    assert fill("{prompt} {seed} {other}", {"prompt": "{seed}", "seed": "1"}) == "{seed} 1 {other}"


def test_python_function_of_a_file_and_its_absence(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "import numpy as np\ndef f(prompt, seed, size):\n    return np.full((3, size, size, 3), seed, np.uint8), 7.5\n"
    )
    system = PythonSystem("p", PythonSpec(target="m.py:f", options={"size": 16}), base=tmp_path)
    clip = system.generate("x", 9)
    assert (clip.frames.shape, int(clip.frames[0, 0, 0, 0]), clip.fps) == ((3, 16, 16, 3), 9, Fraction(15, 2))
    assert system.check() == []
    for target in ("m.py:g", "n.py:f", "no_such_module_here:f"):
        [missing] = PythonSystem("p", PythonSpec(target=target), base=tmp_path).check()
        assert f"cannot load {target}" in missing


def folder(tmp_path: Path, video: Path, *names: str) -> ImportedSystem:
    home = tmp_path / "videos"
    home.mkdir()
    for name in names:
        shutil.copy(video, home / name)
    return ImportedSystem("i", ImportedSpec(folder=home), prompts=PROMPTS)


def test_folder_is_matched_by_text_index_and_unambiguous_beginning(tmp_path: Path, video: Path) -> None:
    system = folder(
        tmp_path,
        video,
        "a cat sitting on a mat.mp4",
        "A cat, sitting on a mat!-1.mp4",
        "a-cat--sitting-on-a-mat.mp4",
        "a dog runs through the tall grass.mp4",
        "a dog runs through the tall grass of a meadow in su.mp4",
        "something else.mp4",
        "notes.txt",
    )
    report = system.match(PROMPTS, (0, 1))
    assert {key: Path(place).name for key, place in report.found.items()} == {
        (PROMPTS[0], 0): "a cat sitting on a mat.mp4",
        (PROMPTS[0], 1): "A cat, sitting on a mat!-1.mp4",
        (PROMPTS[1], 0): "a dog runs through the tall grass of a meadow in su.mp4",
    }
    assert [Path(place).name for place in report.extra] == [
        "a dog runs through the tall grass.mp4",
        "something else.mp4",
    ]
    assert [Path(place).name for place in report.duplicate] == ["a-cat--sitting-on-a-mat.mp4"]
    assert set(report.missing) == {(PROMPTS[1], 1), (PROMPTS[2], 0), (PROMPTS[2], 1)}
    assert "3 missing" in report.sentence()
    made = system.generate(PROMPTS[0], 1)
    assert (made.path.name, made.temporary, made.details.seed_used) == (
        "A cat, sitting on a mat!-1.mp4",
        False,
        False,
    )
    with pytest.raises(MissingError):
        system.generate(PROMPTS[2], 0)


def test_numbered_files_follow_the_order_of_a_list(tmp_path: Path, video: Path) -> None:
    system = folder(tmp_path, video, "0000.mp4", "0002.mp4", "0009.mp4")
    (tmp_path / "order.txt").write_text("\n".join(PROMPTS))
    spec = ImportedSpec(folder=tmp_path / "videos", order=tmp_path / "order.txt")
    report = ImportedSystem("i", spec).match(PROMPTS)
    assert {prompt for prompt, _ in report.found} == {PROMPTS[0], PROMPTS[2]}
    assert [Path(place).name for place in report.extra] == ["0009.mp4"]
    assert len(system.entries) == 3


def test_manifest_and_parquet_are_matched_exactly(tmp_path: Path, video: Path) -> None:
    shutil.copy(video, tmp_path / "x.mp4")
    rows = [{"file": "x.mp4", "prompt": PROMPTS[0], "seed": 5}, {"file": "gone.mp4", "prompt": PROMPTS[1]}]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    system = ImportedSystem("i", ImportedSpec(manifest=tmp_path / "m.jsonl"), prompts=PROMPTS)
    assert system.generate(PROMPTS[0], 5).path == tmp_path / "x.mp4"
    with pytest.raises(EvaluationError, match=r"gone\.mp4 .* does not exist"):
        system.generate(PROMPTS[1], 0)
    table = pandas.DataFrame({"prompt": [PROMPTS[0]], "video": [{"bytes": video.read_bytes(), "path": "x"}]})
    table.to_parquet(tmp_path / "d.parquet")
    made = ImportedSystem("i", ImportedSpec(parquet=tmp_path / "d.parquet")).generate(PROMPTS[0], 0)
    assert isinstance(made, ClipFile)
    assert made.path.read_bytes() == video.read_bytes()
    made.path.unlink()
    other = ImportedSystem("i", ImportedSpec(parquet=tmp_path / "d.parquet", prompt_column="text"))
    assert "has no column 'text'; it has prompt, video" in other.check()[0]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("a,b\n1,2\n", "expected CSV or JSON lines"), ("file,prompt\n", "holds no video")],
)
def test_bad_manifest_is_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "m.csv").write_text(content)
    [missing] = ImportedSystem("i", ImportedSpec(manifest=tmp_path / "m.csv")).check()
    assert sentence in missing


def test_pipeline_changes_settings_and_shares_what_is_loaded() -> None:
    builder = Builder()
    full, weak = (
        builder.build(name, SystemSpec(magicvideo=MagicVideoSpec(**values)))
        for name, values in (("full", {}), ("weak", {"changes": {"v2v.strength": 0.2}, "arms": ("-vfi",)}))
    )
    assert weak.config["pipeline"]["v2v"]["strength"] == 0.2
    assert weak.config["pipeline"]["vfi"]["kind"] == "repeat"
    assert full.config_digest != weak.config_digest
    assert full.pipeline is weak.pipeline  # type: ignore[attr-defined]
    for changes, sentence in (
        ({"v2v.strenght": 1}, "v2v has .*strength"),
        ({"audio.volume": 1}, "a stage of t2i, i2v, v2v, vfi"),
        ({"v2v.strength": 2}, "from 0 to 1"),
    ):
        with pytest.raises(ValidationError, match=sentence):
            MagicVideoSpec(changes=changes)


def test_every_card_reads_and_the_six_systems_of_the_paper_are_there() -> None:
    names = card_names()
    assert {"magicvideo-v2", "moonvalley", "pika-1.0", "morph", "gen-2", "svd-xt"} <= set(names)
    cards = {name: load_card(name) for name in names}
    opened = [card for card in cards.values() if card.run and card.run.diffusers and card.weights]
    assert len(opened) >= 11
    for card in opened:
        assert card.run is not None
        spec = card.run.diffusers
        assert spec is not None
        assert card.weights in (spec.model, spec.info.model, spec.info.motion_adapter)
        native, info = card.native, spec.info
        assert (native.width, native.height, native.fps) == (info.width, info.height, info.fps)
        assert native.frames == (spec.frames or info.frames)


def test_card_that_cannot_run_says_why_and_may_be_imported(tmp_path: Path, video: Path) -> None:
    assert "it can only be imported" in check_card("gen-2")[0]
    with pytest.raises(EvaluationError, match="nothing that can run"):
        Builder().build("gen-2", SystemSpec(card="gen-2"))
    folder(tmp_path, video, f"{PROMPTS[0]}.mp4")
    spec = SystemSpec(card="gen-2", imported=ImportedSpec(folder=tmp_path / "videos"))
    assert Builder().build("gen-2", spec).generate(PROMPTS[0], 0)
    with pytest.raises(EvaluationError, match="no system card 'gen-3'; known: allegro"):
        load_card("gen-3")


def test_systems_are_listed_and_shown() -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["list"]).output
    assert [name for name in card_names() if name not in listed] == []
    assert "1408x768, 24 fps, 96 frames" in runner.invoke(app, ["show", "gen-2"]).output
    assert runner.invoke(app, ["check", "morph"]).exit_code == 1
