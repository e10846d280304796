"""Prompts from plain text files: one a line, ``#`` starts a remark."""

from importlib.resources import files
from pathlib import Path

from evaluation.errors import EvaluationError


def read_prompts(path: Path) -> list[str]:
    """Read the prompts of a UTF-8 text file in order, each once.

    Raises:
        EvaluationError: the file is missing, no text, or holds no prompt.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"cannot read prompts from {path}: {error}; expected UTF-8 text, one prompt a line"
        ) from error
    lines = (" ".join(line.split()) for line in text.splitlines())
    prompts = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not prompts:
        raise EvaluationError(f"{path} holds no prompt; expected one a line")
    return prompts


def demo_prompts() -> list[str]:
    """Return the prompts of the demo."""
    return read_prompts(Path(str(files("evaluation") / "data" / "prompts" / "demo.txt")))
