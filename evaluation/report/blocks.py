"""What a report is written in: sections of words, tables, figures and clips, whatever the form."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.figure import Figure as Drawing

Tone = Literal["", "key", "ahead", "behind", "soft", "code"]


@dataclass(frozen=True)
class Cell:
    """A shown value."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        left: number of columns, from the first, that hold words and stand on the left.
        records: the same as plain values, one mapping a row, for CSV; ``rows`` may be laid out otherwise.
    """

    name: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    records: tuple[Mapping[str, Any], ...]
    left: int = 1


@dataclass(frozen=True)
class Figure:
    """A figure: ``draw`` makes it anew, ``label`` says to those who cannot see it what it shows."""

    name: str
    caption: str
    label: str
    draw: Callable[[], Drawing]


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str
    soft: bool = False


@dataclass(frozen=True)
class Warnings:
    """What a reader should beware of."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Listed:
    """Sentences one below the other, folded away under ``summary``."""

    summary: str
    items: tuple[str, ...]


@dataclass(frozen=True)
class Folded:
    """Tables folded away under ``summary``."""

    summary: str
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Shown:
    """One video: data URIs of the clip and of some of its frames, and what stands beside them."""

    title: str
    note: str
    clip: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clips:
    """Videos below one another; forms that cannot play them leave them out."""

    items: tuple[Shown, ...]


Block = Table | Figure | Words | Warnings | Listed | Folded | Clips


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        level: 2 for a chapter, 3 for a part of one.
        tags: short marks beside the title, such as "automatic, no votes".
    """

    title: str
    blocks: tuple[Block, ...] = ()
    level: int = 2
    tags: tuple[str, ...] = ()
    anchor: str = ""


def tables_of(sections: Sequence[Section]) -> list[Table]:
    """Return all tables, those folded away included."""
    found: list[Table] = []
    for block in (block for section in sections for block in section.blocks):
        if isinstance(block, Table):
            found.append(block)
        elif isinstance(block, Folded):
            found += block.tables
    return found


def figures_of(sections: Sequence[Section]) -> list[Figure]:
    """Return all figures."""
    return [block for section in sections for block in section.blocks if isinstance(block, Figure)]
