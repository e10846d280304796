"""Figures of the report: drawings, and how they become part of a page or a file."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GREEN, GREY, PINK = "#5fb878", "#c3c7cd", "#f08bb1"  # good, same, bad
COARSE = (0.05, 0.1, 0.2, 0.33, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20)
FINE = (0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4)
ON_BAR = "#10151c"
INK = "#012345"  # stands for the page's text colour
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "magicvideo",
    "font.family": "sans-serif",
    "text.parse_math": False,
    "font.size": 10,
}


def preference_figure(comparisons: Sequence[Mapping[str, Any]], counted: str = "votes") -> Figure:
    """Draw stacked bars of Good, Same, Bad, with (G+S)/(B+S) and its interval beside them.

    Args:
        comparisons: those with at least one vote, one row each, first on top.
        counted: what the bars count; anything but votes says so on the axis.
    """
    with matplotlib.rc_context(STYLE):
        height = 0.95 + 0.42 * len(comparisons)
        figure = Figure(figsize=(9.0, height))
        bars, ratios = figure.subplots(1, 2, sharey=True, width_ratios=(2.3, 1))
        _draw_bars(bars, comparisons, counted)
        _draw_ratios(ratios, comparisons)
        figure.subplots_adjust(
            left=0.17, right=0.945, bottom=0.5 / height, top=1 - 0.36 / height, wspace=0.06
        )
        return figure


def _draw_bars(axes: Axes, comparisons: Sequence[Mapping[str, Any]], counted: str) -> None:
    rows = range(len(comparisons))
    start = [0.0] * len(comparisons)
    for key, colour in (("good", GREEN), ("same", GREY), ("bad", PINK)):
        shares = [100 * item[key] / item["n"] for item in comparisons]
        axes.barh(rows, shares, left=start, color=colour, height=0.68, label=key.capitalize())
        for row, (left, share) in enumerate(zip(start, shares, strict=True)):
            if share >= 5:
                axes.text(left + share / 2, row, f"{share:.1f}%", ha="center", va="center", color=ON_BAR)
        start = [left + share for left, share in zip(start, shares, strict=True)]
    axes.set_xlim(0, 100)
    axes.set_yticks(rows, [_row_label(item, comparisons) for item in comparisons])
    axes.invert_yaxis()
    axes.set_xlabel(f"share of {counted}, %", color=INK)
    axes.legend(
        ncols=3, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, labelcolor=INK, borderaxespad=0.2
    )
    _quiet(axes)


def _draw_ratios(axes: Axes, comparisons: Sequence[Mapping[str, Any]]) -> None:
    ends = [1.0]
    for row, item in enumerate(comparisons):
        if item["ratio"] is None:
            continue
        axes.plot(item["ratio"], row, "o", color=INK, markersize=5)
        axes.annotate(
            f"{item['ratio']:.2f}", (1.01, row), xycoords=("axes fraction", "data"), va="center", color=INK
        )
        ends.append(item["ratio"])
        if item["interval"] and None not in item["interval"]:
            axes.plot(item["interval"], (row, row), color=INK, linewidth=1.6, solid_capstyle="butt")
            ends.extend(item["interval"])
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    low, high = min(ends), max(ends)
    low, high = min(low / 1.15, 0.8), max(high * 1.15, 1.25)
    axes.set_xlim(low, high)
    ticks = [tick for tick in COARSE if low <= tick <= high]
    if len(ticks) < 3:
        ticks = [tick for tick in FINE if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("(G+S)/(B+S), interval", color=INK)
    axes.tick_params(axis="y", length=0)
    _quiet(axes)


def _row_label(item: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]) -> str:
    label = str(item["competitor"])
    if len({other["candidate"] for other in comparisons}) > 1:
        label = f"{item['candidate']} / {label}"
    if len({other["criterion"] for other in comparisons}) > 1:
        label = f"{label} ({item['criterion']})"
    return label if len(label) <= 26 else label[:25] + "…"


def _quiet(axes: Axes) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=INK, length=0)
    axes.set_facecolor("none")


def inline(figure: Figure, label: str) -> str:
    """Return SVG for a page: no XML prologue, no metadata, no reference, in the page's colour and font."""
    text = svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::xlink)?|version)="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{label}">', text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # several figures share one page
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    return text.replace(INK, "currentColor").strip()


def svg(figure: Figure) -> str:
    """Return a drawing as an SVG file's text, the same each time."""
    buffer = io.StringIO()
    empty = {"Creator": None, "Date": None, "Format": None, "Type": None}
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """Return a drawing as a PNG file's bytes, 200 dots an inch, on white."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=200, facecolor="white")
    return buffer.getvalue()
