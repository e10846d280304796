"""Render a ``Report`` as Markdown, as a repository or a job summary shows it."""

import re
from collections.abc import Sequence

from evaluation.report.blocks import Clips, Figure, Folded, Listed, Section, Shown, Table, Warnings, Words
from evaluation.report.document import moment, sections_of
from evaluation.report.model import Report


def to_markdown(report: Report, figures: str | None = None) -> str:
    """Return the report as Markdown.

    Args:
        figures: folder of the figures' PNG files, as seen from the text; figures are left out without it.
    """
    answers = [study.answer for study in report.studies] + list(report.answers)
    lines = [f"# {report.headline}", f"{report.title}, {moment(report.created_at)}"]
    lines += [_list([answer for answer in answers if answer != report.headline])]
    lines += [_escaped(remark) for remark in report.remarks]
    for section in sections_of(report):
        lines += section_lines(section, figures)
    return "\n\n".join(line for line in lines if line) + "\n"


def section_lines(section: Section, figures: str | None) -> list[str]:
    """Return a section as paragraphs of Markdown."""
    tags = f" ({', '.join(section.tags)})" if section.tags else ""
    lines = [f"{'#' * section.level} {_escaped(section.title + tags)}"]
    for block in section.blocks:
        if isinstance(block, Words):
            lines.append(_escaped(block.text))
        elif isinstance(block, Table):
            lines += table_lines(block)
        elif isinstance(block, Warnings):
            lines.append("\n".join(f"> * {_escaped(item)}" for item in block.items))
        elif isinstance(block, Listed):
            lines += [f"{block.summary}:", _list(block.items)]
        elif isinstance(block, Folded):
            lines += [line for table in block.tables for line in table_lines(table)]
        elif isinstance(block, Figure):
            path = "" if figures is None else f"{figures}/{file_name(block.name)}.png"
            lines += [f"![{_escaped(block.label)}]({path})", f"*{_escaped(block.caption)}*"] if path else []
        elif isinstance(block, Clips):
            lines.append(_list([_clip(item) for item in block.items]))
    return lines


def table_lines(table: Table) -> list[str]:
    """Return a table with its caption."""
    rows = [table.head, tuple("---" if place < table.left else "---:" for place in range(len(table.head)))]
    rows += [tuple(cell.text for cell in row) for row in table.rows]
    text = "\n".join(
        "| " + " | ".join(_escaped(cell).replace("|", "\\|") for cell in row) + " |" for row in rows
    )
    return [f"*{_escaped(table.caption)}*", text]


def file_name(name: str) -> str:
    """Return a name fit for a file."""
    return (
        "".join(letter if letter.isalnum() or letter in "+-." else "-" for letter in name).strip("-.") or "x"
    )


def _clip(item: Shown) -> str:
    return f"{item.title}: {item.note}" if item.title else item.note


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"* {_escaped(item)}" for item in items)


def _escaped(text: str) -> str:
    """Keep text from being read as markup of Markdown or HTML; words with underscores stay readable."""
    text = re.sub(r"[\\`*]|(?<!\w)_|_(?!\w)|(?<=\])\(", r"\\\g<0>", " ".join(text.split()))
    return text.replace("<", "&lt;").replace(">", "&gt;")
