"""Put report files in place, whole or not at all."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from evaluation.report.model import Report


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; parent folders are made.

    Raises:
        EvaluationError: the place cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; parent folders are made.

    Raises:
        EvaluationError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise EvaluationError(
            f"cannot write {path}: {error.strerror or error}; choose another place"
        ) from error


def write_everything(folder: Path, report: "Report") -> list[Path]:
    """Write the report in every form: page, Markdown, JSON, and each table and figure in files of its own.

    Returns:
        The paths written: ``report.html``, ``report.md``, ``report.json``, ``tables/*.csv|tex`` and
        ``figures/*.svg|png``.

    Raises:
        EvaluationError: the folder cannot be written.
    """
    import pandas as pd

    from evaluation.report import figures
    from evaluation.report.blocks import figures_of, tables_of
    from evaluation.report.document import sections_of
    from evaluation.report.html import to_html
    from evaluation.report.latex import to_latex
    from evaluation.report.markdown import file_name, to_markdown

    sections = sections_of(report)
    files: dict[str, str | bytes] = {
        "report.html": to_html(report),
        "report.md": to_markdown(report, "figures"),
        "report.json": report.to_json(),
    }
    for table in tables_of(sections):
        name = f"tables/{file_name(table.name)}"
        files[f"{name}.csv"] = pd.DataFrame(list(table.records)).to_csv(index=False)
        files[f"{name}.tex"] = to_latex(table)
    for figure in figures_of(sections):
        drawing, name = figure.draw(), f"figures/{file_name(figure.name)}"
        files |= {f"{name}.svg": figures.svg(drawing), f"{name}.png": figures.png(drawing)}
    for name, content in files.items():
        write_bytes(folder / name, content.encode("utf-8") if isinstance(content, str) else content)
    return [folder / name for name in files]
