"""Videos that exist already as a system: a folder, a manifest, a Parquet data set, or a list of URLs.

Videos are matched to prompts by text. File names may have lost punctuation and case, may be cut short, and may end
in ``-N`` for the N-th video of the prompt (as VBench names them); the N is the seed. What matches no prompt, and
prompts without a video, are reported and never guessed.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evaluation.engine.scratch import scratch_file, unusable
from evaluation.errors import EvaluationError
from evaluation.systems.base import ClipFile, Details, MissingError, digest_of
from evaluation.systems.download import DownloadLimits, download

SUFFIXES = (".mp4", ".mov", ".m4v")
SHORTEST_PREFIX = 20  # characters of a cut-off name that must agree
Kind = Literal["folder", "manifest", "parquet", "urls"]
_Index = tuple[dict[tuple[str, int], str], tuple[str, ...], tuple[str, ...]]


class ImportedSpec(BaseModel):
    """Existing videos in a bench file; exactly one source.

    Attributes:
        folder: of mp4 files named after their prompts, or numbered in the order of ``order``.
        manifest: CSV or JSONL with ``file`` (relative to it), ``prompt`` and maybe ``seed``.
        parquet: a file, or a folder of them, with a prompt column and a video column (bytes, a mapping with
            ``bytes`` or ``path``, or a path).
        urls: CSV or JSONL with ``url``, ``prompt`` and maybe ``seed``.
        order: text file of prompts, one a line, for files named by number (``0000.mp4`` is the first).
        prompt_column, video_column: of ``parquet``.
        model: id and version of what made the videos.
        accessed: when, e.g. ``2024-01-09``.
        limits: of downloads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    folder: Path | None = None
    manifest: Path | None = None
    parquet: Path | None = None
    urls: Path | None = None
    order: Path | None = None
    prompt_column: str = "prompt"
    video_column: str = "video"
    model: str = ""
    accessed: str = ""
    limits: Annotated[DownloadLimits, Field(default_factory=DownloadLimits)]

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [
            name for name in ("folder", "manifest", "parquet", "urls") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError("give exactly one of folder, manifest, parquet and urls")
        if self.order is not None and self.folder is None:
            raise ValueError("order belongs to folder")
        return self

    @property
    def kind(self) -> Kind:
        """Which source is given."""
        return next(
            name for name in ("folder", "manifest", "parquet", "urls") if getattr(self, name) is not None
        )


@dataclass(frozen=True)
class Entry:
    """One existing video: where it is, and what it says of its prompt and seed."""

    place: str
    prompt: str
    seed: int | None = None
    exact: bool = True  # whether ``prompt`` is the text itself, not a file name made of it


@dataclass(frozen=True)
class MatchReport:
    """How existing videos fit prompts and seeds.

    Attributes:
        found: place by prompt and seed.
        missing: prompts and seeds without a video.
        extra: places that match no prompt, or a seed nobody asked for.
        duplicate: places left out because an earlier one has their prompt and seed.
    """

    found: dict[tuple[str, int], str]
    missing: tuple[tuple[str, int], ...]
    extra: tuple[str, ...]
    duplicate: tuple[str, ...]

    def sentence(self) -> str:
        """Say it in words."""
        counts = (("missing", self.missing), ("extra", self.extra), ("duplicate", self.duplicate))
        listed = ", ".join(f"{len(items)} {name} (e.g. {_show(items[0])})" for name, items in counts if items)
        return f"{len(self.found)} videos matched" + (f"; {listed}" if listed else "")


class ImportedSystem:
    """Looks videos up instead of making them."""

    device = "none"

    def __init__(
        self, name: str, spec: ImportedSpec, *, base: Path | None = None, prompts: Sequence[str] = ()
    ) -> None:
        """Name the source.

        Args:
            name: of the system.
            spec: where the videos are.
            base: what relative paths are relative to.
            prompts: all that will be asked for; a cut-off file name must fit only one of them.
        """
        self.name, self.spec, self.prompts = name, spec, tuple(prompts)
        self.source: Path = (base or Path()) / getattr(spec, spec.kind)
        self.order = None if spec.order is None else (base or Path()) / spec.order
        self._indexed: dict[tuple[str, ...], _Index] = {}

    @property
    def config(self) -> Mapping[str, Any]:
        """What made the videos; more of them may be added to the source later."""
        spec = self.spec
        return {"imported": spec.kind, "model": spec.model, "accessed": spec.accessed}

    @property
    def config_digest(self) -> str:
        """Digest of the config."""
        return digest_of({**self.config, "name": self.name})

    @cached_property
    def entries(self) -> list[Entry]:
        """All videos of the source.

        Raises:
            EvaluationError: it cannot be read, or holds none.
        """
        readers = {
            "folder": _of_folder,
            "manifest": _of_table,
            "parquet": self._of_parquet,
            "urls": _of_table,
        }
        if not self.source.exists():
            raise EvaluationError(f"{self.name}: there is no {self.spec.kind} {self.source}")
        entries = list(readers[self.spec.kind](self.source))
        if not entries:
            raise EvaluationError(f"{self.name}: {self.source} holds no video")
        return _numbered(entries, self.order) if self.order is not None else entries

    def check(self) -> list[str]:
        """Return what is missing to run here."""
        try:
            _ = self.entries
        except EvaluationError as error:
            return [str(error)]
        return []

    def match(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> MatchReport:
        """Match every video to a prompt and seed; one that states no seed is of seed 0."""
        places, extra, duplicate = self._index(tuple(prompts))
        found = {key: place for key, place in places.items() if key[1] in seeds}
        unasked = [place for key, place in places.items() if key[1] not in seeds]
        missing = tuple((prompt, seed) for prompt in prompts for seed in seeds if (prompt, seed) not in found)
        return MatchReport(found, missing, (*extra, *unasked), duplicate)

    def generate(self, prompt: str, seed: int) -> ClipFile:
        """Return the existing video.

        Raises:
            MissingError: there is none.
        """
        places, _, _ = self._index(tuple(dict.fromkeys((*self.prompts, prompt))))
        place = places.get((prompt, seed))
        if place is None:
            raise MissingError(f"{self.source} has no video of this prompt and seed")
        model = " ".join(part for part in (self.spec.model, self.spec.accessed) if part)
        details = Details(model=model, seed_used=False)
        if self.spec.kind == "parquet":
            return self._from_parquet(place, details)
        if self.spec.kind == "urls":
            return ClipFile(download(place, self.spec.limits), details, temporary=True)
        path = Path(place) if self.spec.kind == "folder" else self.source.parent / place
        if not path.is_file():
            raise EvaluationError(f"{self.name}: the video {path} named by {self.source} does not exist")
        return ClipFile(path, details)

    def _index(self, prompts: tuple[str, ...]) -> _Index:
        """Return places by prompt and seed, those that match no prompt, and the repeated ones."""
        if prompts not in self._indexed:
            by_text = {_plain(prompt): prompt for prompt in reversed(prompts)}
            places: dict[tuple[str, int], str] = {}
            extra, duplicate = [], []
            for entry in self.entries:
                matched = _match(entry, by_text)
                if matched is None:
                    extra.append(entry.place)
                elif places.setdefault(matched, entry.place) != entry.place:
                    duplicate.append(entry.place)
            self._indexed = {prompts: (places, tuple(extra), tuple(duplicate))}
        return self._indexed[prompts]

    def _of_parquet(self, source: Path) -> Iterator[Entry]:
        for file in _parquet_files(source):
            table = _read_parquet(file, [self.spec.prompt_column], optional="seed")
            for row, values in enumerate(table):
                prompt = values[self.spec.prompt_column]
                yield Entry(f"{file}#{row}", str(prompt), _seed_of(values.get("seed")))

    def _from_parquet(self, place: str, details: Details) -> ClipFile:
        file, _, row = place.rpartition("#")
        value = _read_parquet(Path(file), [self.spec.video_column])[int(row)][self.spec.video_column]
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return ClipFile(Path(file).parent / value, details)
        if not isinstance(value, bytes):
            raise EvaluationError(
                f"{place}: the column {self.spec.video_column} holds neither bytes nor a path"
            )
        output = scratch_file()
        try:
            output.write_bytes(value)
        except OSError as error:
            raise unusable(error) from error
        return ClipFile(output, details, temporary=True)


def _match(entry: Entry, by_text: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the prompt and seed an entry is a video of; None if that cannot be told."""
    plain = _plain(entry.prompt)
    if plain in by_text:
        return by_text[plain], entry.seed or 0
    if entry.exact:
        return None
    numbered = re.fullmatch(r"(?P<text>.+?)[-_ ](?:seed)?(?P<seed>\d{1,9})", entry.prompt)
    text, seed = (numbered["text"], int(numbered["seed"])) if numbered else (entry.prompt, 0)
    # Names of our own store end in a digest of the prompt.
    own = re.fullmatch(r".+-(?P<digest>[0-9a-f]{8})", text)
    for prompt in by_text.values() if own else ():
        if own and hashlib.sha256(prompt.encode()).hexdigest()[:8] == own["digest"]:
            return prompt, seed
    plain = _plain(text)
    if plain in by_text:
        return by_text[plain], seed
    begins = [prompt for key, prompt in by_text.items() if key.startswith(plain)]
    return (begins[0], seed) if len(plain) >= SHORTEST_PREFIX and len(begins) == 1 else None


def _of_folder(folder: Path) -> Iterator[Entry]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            yield Entry(str(path), path.stem, exact=False)


def _numbered(entries: Sequence[Entry], order: Path) -> list[Entry]:
    """Give files named by number the prompt of that line, the first being 0."""
    from evaluation.prompt_suites.formats import lines, read_file

    texts = [item.text for item in read_file(order, lines)]
    result = []
    for entry in entries:
        number = re.fullmatch(r"\D*(\d+)", entry.prompt)
        known = number is not None and int(number[1]) < len(texts)
        result.append(Entry(entry.place, texts[int(number[1])]) if number and known else entry)
    return result


def _of_table(path: Path) -> Iterator[Entry]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows: list[dict[str, Any]] = list(csv.DictReader(text.splitlines()))
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        for row in rows:
            place = row.get("file") or row["url"]
            yield Entry(str(place), str(row["prompt"]), _seed_of(row.get("seed")))
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise EvaluationError(
            f"{path}: expected CSV or JSON lines with file (or url), prompt and maybe seed ({error!r})"
        ) from error


def _parquet_files(source: Path) -> list[Path]:
    return sorted(source.rglob("*.parquet")) if source.is_dir() else [source]


def _read_parquet(path: Path, columns: list[str], optional: str | None = None) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow import parquet as pq
    except ImportError as error:
        raise EvaluationError("Parquet data sets need pyarrow: pip install pyarrow") from error
    try:
        names = pq.read_schema(path).names
        absent = [name for name in columns if name not in names]
        if absent:
            raise EvaluationError(f"{path} has no column {absent[0]!r}; it has {', '.join(names)}")
        return pq.read_table(path, columns=[*columns, *([optional] if optional in names else [])]).to_pylist()
    except (OSError, ArrowException) as error:
        raise EvaluationError(f"{path} cannot be read as Parquet: {error}") from error


def _seed_of(value: Any) -> int | None:
    return None if value is None or value == "" else int(value)


def _plain(text: str) -> str:
    """Return lower-case letters and digits with single spaces between words."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def _show(item: Any) -> str:
    return repr(item[0]) if isinstance(item, tuple) else Path(item).name
