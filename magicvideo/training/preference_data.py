"""Preference sets: pairs of images or videos of one prompt, of which one was preferred, in a folder on disk.

The folder is a dataset as Hugging Face's ImageFolder and VideoFolder read them: ``train/metadata.parquet`` and
``test/metadata.parquet``, one row a pair, beside the files that their ``*_file_name`` columns name. No prompt is in
both splits. `evaluation.preferences` writes such folders from votes.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import torch

from magicvideo.errors import MagicVideoError
from magicvideo.training.folder import IMAGES, ClipError, VideoFolder

COLUMNS = ("winner_file_name", "loser_file_name", "prompt", "weight", "probability")
TABLE = "metadata.parquet"
Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class PreferencePair:
    """Two files made of one prompt.

    Attributes:
        prompt: what both were made from.
        winner: the file that was preferred.
        loser: the other one.
        weight: how much the pair counts, above 0.
        probability: that the winner is preferred, 0.5 to 1; below 1 where ties or contrary votes smooth it.
    """

    prompt: str
    winner: Path
    loser: Path
    weight: float = 1.0
    probability: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Size and length of an image or video; an image has one frame."""

    width: int
    height: int
    frames: int


def read_preferences(folder: Path, split: Split) -> list[PreferencePair]:
    """Read one split of a preference set.

    Raises:
        MagicVideoError: not such a folder; a row that is wrong, a file that is not there; pairs that contradict
            one another; or, of the split to train on, a single prompt.
    """
    table = folder / split / TABLE
    pairs = [_pair(row, table, number) for number, row in enumerate(_rows(table), 1)]
    if not pairs:
        raise MagicVideoError(f"{table} holds no pairs")
    _refuse_contradictions(pairs, table)
    prompts = {pair.prompt for pair in pairs}
    if split == "train" and len(prompts) < 2:
        raise MagicVideoError(
            f"all {len(pairs)} pairs of {table} are of one prompt ({pairs[0].prompt!r}): a model tuned on it would "
            f"learn that prompt by heart; collect votes on more prompts"
        )
    return pairs


def files_of(pairs: list[PreferencePair]) -> list[tuple[Path, str]]:
    """Return every file once, with its prompt, in order of first appearance."""
    found: dict[Path, str] = {}
    for pair in pairs:
        found.setdefault(pair.winner, pair.prompt)
        found.setdefault(pair.loser, pair.prompt)
    return list(found.items())


def geometry(path: Path) -> Geometry:
    """Measure an image or video by decoding it.

    Raises:
        MagicVideoError: it cannot be decoded.
    """
    try:
        with av.open(str(path)) as container:
            frames = [(frame.width, frame.height) for frame in container.decode(container.streams.video[0])]
    except (av.FFmpegError, OSError, IndexError) as error:
        raise MagicVideoError(f"{path} cannot be decoded: {error}") from error
    if not frames:
        raise MagicVideoError(f"{path} holds no picture")
    return Geometry(width=frames[0][0], height=frames[0][1], frames=len(frames))


def check_made_here(files: list[tuple[Path, str]], size: int) -> None:
    """Refuse files of another size than the checkpoint makes: they come from another system's latent space.

    Raises:
        MagicVideoError: naming the first such file.
    """
    for path, _ in files:
        found = geometry(path)
        if (found.width, found.height) != (size, size):
            raise MagicVideoError(
                f"{path} is {found.width}x{found.height}, and this checkpoint makes {size}x{size}: a pair with a "
                f"foreign system's video says nothing about this model's latents; export pairs of its own videos"
            )


def keyframe_stride(files: list[tuple[Path, str]], num_frames: int, factor: int) -> int:
    """Return the stride at which finished videos hold I2V's keyframes: ``factor``, or 1 before interpolation.

    Raises:
        MagicVideoError: videos that are images, too short, or of different lengths.
    """
    lengths = {geometry(path).frames for path, _ in files}
    for stride in (factor, 1):
        if lengths == {(num_frames - 1) * stride + 1}:
            return stride
    shown = ", ".join(str(length) for length in sorted(lengths))
    raise MagicVideoError(
        f"I2V makes {num_frames} keyframes, which finished videos hold at a stride of {factor}; the preference set "
        f"has videos of {shown} frames"
    )


class PreferenceClips(VideoFolder):
    """The files of a preference set as clips to encode; one that cannot be read is an error, not left out."""

    @classmethod
    def of(
        cls, files: list[tuple[Path, str]], *, size: int, num_frames: int, stride: int
    ) -> "PreferenceClips":
        """Take files with prompts; ``num_frames`` of each, ``stride`` apart, at ``size`` pixels a side."""
        return cls(tuple(files), (), size, num_frames, stride)

    def frames(self, index: int) -> torch.Tensor:
        """Decode a file: ``(T, 3, S, S)`` uint8.

        Raises:
            MagicVideoError: it is corrupt or too short.
        """
        try:
            return super().frames(index)
        except ClipError as error:
            raise MagicVideoError(f"the preference set holds a file that cannot be used: {error}") from error


def set_digest(folder: Path) -> str:
    """Return 16 hexadecimal digits of the pairs of both splits; file names are digests of their content."""
    content = hashlib.sha256()
    for split in ("train", "test"):
        path = folder / split / TABLE
        for row in _rows(path) if path.is_file() else []:
            content.update(repr([row.get(name) for name in COLUMNS]).encode())
    return content.hexdigest()[:16]


def are_images(files: list[tuple[Path, str]]) -> bool:
    """Tell whether a set is of images.

    Raises:
        MagicVideoError: it mixes images and videos.
    """
    kinds = {path.suffix.lower() in IMAGES for path, _ in files}
    if len(kinds) > 1:
        raise MagicVideoError("the preference set mixes images and videos; make one set of each")
    return kinds.pop()


def _rows(table: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MagicVideoError(f"{table}: Parquet needs pyarrow: pip install pyarrow") from error
    if not table.is_file():
        raise MagicVideoError(
            f"there is no {table}; give a folder that `magicvideo preferences export` wrote"
        )
    try:
        content = parquet.ParquetFile(table).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise MagicVideoError(f"{table} is no Parquet table: {str(error).splitlines()[0]}") from error
    missing = [name for name in COLUMNS if name not in content.column_names]
    if missing:
        raise MagicVideoError(f"{table} has no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    return content.to_pylist()


def _pair(row: dict[str, Any], table: Path, number: int) -> PreferencePair:
    where = f"{table}, row {number}"
    for name in ("winner_file_name", "loser_file_name", "prompt"):
        if not isinstance(row[name], str) or not row[name].strip():
            raise MagicVideoError(f"{where}: {name} is empty")
    pair = PreferencePair(
        prompt=row["prompt"],
        winner=table.parent / row["winner_file_name"],
        loser=table.parent / row["loser_file_name"],
        weight=float(row["weight"]),
        probability=float(row["probability"]),
    )
    for path in (pair.winner, pair.loser):
        if not path.is_file():
            raise MagicVideoError(f"{where}: {path.name} is not there")
    if not (0 < pair.weight < float("inf") and 0.5 <= pair.probability <= 1):
        raise MagicVideoError(
            f"{where}: weight must be above 0 and probability between 0.5 and 1, got {pair.weight:g} and "
            f"{pair.probability:g}"
        )
    return pair


def _refuse_contradictions(pairs: list[PreferencePair], table: Path) -> None:
    ordered = {(pair.winner, pair.loser) for pair in pairs}
    for pair in pairs:
        if (pair.loser, pair.winner) in ordered:
            raise MagicVideoError(
                f"{table} contradicts itself: of {pair.winner.name} and {pair.loser.name} each is the winner once; "
                f"keep one pair with the votes of both, as `magicvideo preferences export` does"
            )
