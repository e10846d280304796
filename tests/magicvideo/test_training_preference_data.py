"""Reading preference sets: every fault of one is a sentence."""

from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from magicvideo.errors import MagicVideoError
from magicvideo.training.preference_data import are_images, files_of, read_preferences, set_digest

ROW = {
    "winner_file_name": "a.png",
    "loser_file_name": "b.png",
    "prompt": "x",
    "weight": 1.0,
    "probability": 1.0,
}


def write(folder: Path, *changes: dict[str, object]) -> Path:
    (folder / "train").mkdir(parents=True, exist_ok=True)
    for index, name in enumerate("abcd"):
        pixels = np.full((8, 8, 3), 20 * index, np.uint8)
        Image.fromarray(pixels).save(folder / "train" / f"{name}.png")
    rows = [ROW | change for change in changes]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train" / "metadata.parquet")
    return folder


OTHER = {"winner_file_name": "c.png", "loser_file_name": "d.png", "prompt": "y"}


def test_pairs_are_read_with_their_files(tmp_path: Path) -> None:
    pairs = read_preferences(write(tmp_path, {}, OTHER | {"weight": 0.5, "probability": 0.75}), "train")
    assert [pair.prompt for pair in pairs] == ["x", "y"]
    assert (pairs[1].weight, pairs[1].probability) == (0.5, 0.75)
    assert [path.name for path, _ in files_of(pairs)] == ["a.png", "b.png", "c.png", "d.png"]
    assert are_images(files_of(pairs))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"winner_file_name": "b.png", "loser_file_name": "a.png"}, "contradicts itself: of"),
        ({"winner_file_name": "gone.png"}, "row 2: gone.png is not there"),
        ({"prompt": " "}, "row 2: prompt is empty"),
        ({"weight": 0.0}, "row 2: weight must be above 0"),
        ({"probability": 0.4}, "between 0.5 and 1"),
    ],
)
def test_faulty_rows_are_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(MagicVideoError, match=words):
        read_preferences(write(tmp_path, {}, {"prompt": "y"} | change), "train")


def test_a_single_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MagicVideoError, match="are of one prompt"):
        read_preferences(write(tmp_path, {}, OTHER | {"prompt": "x"}), "train")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MagicVideoError, match="preferences export"):
        read_preferences(tmp_path, "train")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.parquet").write_bytes(b"nothing")
    with pytest.raises(MagicVideoError, match="no Parquet table"):
        read_preferences(tmp_path, "train")
    parquet.write_table(pyarrow.table({"prompt": ["x"]}), tmp_path / "train" / "metadata.parquet")
    with pytest.raises(MagicVideoError, match="no column winner_file_name"):
        read_preferences(tmp_path, "train")


def test_digest_follows_the_pairs(tmp_path: Path) -> None:
    one = set_digest(write(tmp_path / "one", {}, OTHER))
    assert one == set_digest(write(tmp_path / "two", {}, OTHER))
    assert one != set_digest(write(tmp_path / "three", OTHER, {}))
