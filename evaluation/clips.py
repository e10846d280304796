"""Video files that are there whole or not at all, even after a kill."""

import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np

from evaluation.errors import EvaluationError

PARTIAL = ".partial"  # folder beside the finished files; what is in it may go at any time


def write_clip(path: Path, frames: np.ndarray, fps: Fraction) -> None:
    """Write ``frames`` ``(T, H, W, 3)`` uint8 as mp4; parent folders are made.

    Raises:
        EvaluationError: the place cannot be written.
    """
    from magicvideo.video import write_video  # loads torch

    partial = path.parent / PARTIAL
    try:
        partial.mkdir(parents=True, exist_ok=True)
        write_video(partial / path.name, frames, fps)
        os.replace(partial / path.name, path)
    except OSError as error:
        raise EvaluationError(
            f"cannot write {path}: {error.strerror or error}; choose another place"
        ) from error


def sweep(folder: Path) -> None:
    """Remove what interrupted writes left below ``folder``."""
    for partial in folder.rglob(PARTIAL):
        shutil.rmtree(partial, ignore_errors=True)
