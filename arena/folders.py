"""Bring folders of videos in: one system a folder, prompts from file names or from a list."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from arena import catalogue
from arena.errors import ImportRefused
from arena.exchange import read_file, read_table
from arena.models import Video

VBENCH_NAME = re.compile(r"(?P<prompt>.+)-(?P<index>\d+)\.(?:mp4|mov|m4v)", re.IGNORECASE)
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v")


def import_videos(
    session: Session, folder: Path, *, system: str, prompts_file: Path | None = None
) -> list[Video]:
    """Import a folder of mp4 or mov files as the videos of one system.

    Args:
        session: An open session; one file that is no video refuses the whole folder.
        folder: Where the files are.
        system: Name of the system that made them.
        prompts_file: CSV (columns file, prompt and optionally seed) or JSONL with the same keys. Without it,
            files are named ``{prompt}-{index}.mp4`` as VBench does, and the index is the seed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImportRefused(f"{folder}: no such folder")
    listed = _named_files(folder) if prompts_file is None else _listed_files(folder, Path(prompts_file))
    owner = catalogue.ensure_system(session, system)
    return [
        catalogue.add_video(session, owner, catalogue.ensure_prompt(session, prompt), path, seed=seed)
        for path, prompt, seed in listed
    ]


def _named_files(folder: Path) -> list[tuple[Path, str, int]]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise ImportRefused(f"{folder}: no mp4 or mov files in this folder")
    listed = []
    for path in files:
        match = VBENCH_NAME.fullmatch(path.name)
        if match is None:
            raise ImportRefused(
                f"{path}: the name does not say its prompt: expected PROMPT-INDEX.mp4, or give a prompts file"
            )
        listed.append((path, match["prompt"], int(match["index"])))
    return listed


def _listed_files(folder: Path, manifest: Path) -> list[tuple[Path, str, int]]:
    if manifest.suffix.lower() == ".jsonl":
        rows: Sequence[tuple[int, Mapping[str, Any]]] = list(_json_lines(manifest))
    else:
        rows = read_table(manifest, ("file", "prompt"), ("seed",)).rows
    listed = []
    root = folder.resolve()
    for line, row in rows:
        path = folder / str(row.get("file", ""))
        if not path.resolve().is_relative_to(root) or not path.is_file():
            raise ImportRefused(f"{manifest}, line {line}: {row.get('file')!r} is no file in {folder}")
        seed = str(row.get("seed") or 0)
        if not re.fullmatch(r"\d{1,18}", seed):
            raise ImportRefused(f"{manifest}, line {line}: seed must be a whole number, found {seed!r}")
        if not str(row.get("prompt", "")).strip():
            raise ImportRefused(f"{manifest}, line {line}: the prompt is empty")
        listed.append((path, str(row["prompt"]), int(seed)))
    return listed


def _json_lines(manifest: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, text in enumerate(read_file(manifest).decode("utf-8", "replace").splitlines(), start=1):
        if text.strip():
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise ImportRefused(f"{manifest}, line {line}: not JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise ImportRefused(f"{manifest}, line {line}: expected an object with file and prompt")
            yield line, row
