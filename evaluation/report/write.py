"""Put report files in place, whole or not at all."""

import os
import tempfile
from pathlib import Path

from evaluation.errors import EvaluationError


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; parent folders are made.

    Raises:
        EvaluationError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise EvaluationError(
            f"cannot write {path}: {error.strerror or error}; choose another place"
        ) from error
