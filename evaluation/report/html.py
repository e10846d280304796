"""Render a ``Report`` as one self-contained page: no script, no font, no image from elsewhere."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from evaluation.report import blocks
from evaluation.report.document import moment, sections_of
from evaluation.report.figures import inline
from evaluation.report.model import Report
from evaluation.report.study_sections import tags_of

KINDS = {
    blocks.Table: "table",
    blocks.Figure: "figure",
    blocks.Words: "words",
    blocks.Warnings: "warnings",
    blocks.Listed: "listed",
    blocks.Folded: "folded",
    blocks.Clips: "clips",
}


def to_html(report: Report) -> str:
    """Return the page; everything that came from users is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    source = (files("evaluation") / "report" / "template.html").read_text("utf-8")
    return environment.from_string(source).render(
        report=report,
        sections=sections_of(report),
        kind=lambda block: KINDS[type(block)],
        drawing=_drawing,
        moment=moment,
        tags_of=tags_of,
    )


def _drawing(figure: blocks.Figure) -> Markup:
    """Return a figure as inline SVG; labels inside are escaped by matplotlib's own writer."""
    return Markup(inline(figure.draw(), figure.label))
