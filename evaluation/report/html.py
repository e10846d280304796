"""Render a ``Report`` as one self-contained page: no script, no font, no image from elsewhere."""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from evaluation.report.figures import preference_figure
from evaluation.report.model import MetricValue, Report, StudySection
from evaluation.report.sentences import ends, number, verdict

ARROWS = {
    "higher": "↑ higher is better",
    "lower": "↓ lower is better",
    "neutral": "describes, does not judge",
}
METHODS = {
    "naive": "naive, which takes all votes as independent",
    "evaluator": "clustered by evaluator",
    "prompt": "clustered by prompt",
    "two-way": "clustered by evaluator and prompt",
}


def to_html(report: Report) -> str:
    """Return the page; everything that came from users is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    environment.filters.update(number=number, significant=significant, percent=percent)
    source = (files("evaluation") / "report" / "template.html").read_text("utf-8")
    return environment.from_string(source).render(
        report=report,
        arrows=ARROWS,
        figure=study_figure,
        ends=ends,
        methods=METHODS,
        verdict=verdict,
        metric_grid=metric_grid(report.metrics),
        competitors=list(dict.fromkeys(item.competitor for item in report.automatic)),
    )


def study_figure(section: StudySection) -> Markup:
    """Return the study's bars as inline SVG, empty without votes."""
    counted = [item for item in section.comparisons if item["n"]]
    # Labels inside are escaped by matplotlib's own SVG writer.
    return Markup(preference_figure(counted)) if counted else Markup()


def metric_grid(values: tuple[MetricValue, ...]) -> dict[str, Any]:
    """Arrange metric values as rows of metrics and columns of systems."""
    systems = list(dict.fromkeys(item.system for item in values))
    cells = {(item.metric, item.system): item for item in values}
    metrics = list({item.metric: item for item in values}.values())
    return {"systems": systems, "metrics": metrics, "cells": cells}


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number with ``digits`` significant digits, a dash where there is none."""
    if not value:
        return "–" if value is None else "0"
    if abs(value) >= 1e5 or abs(value) < 1e-4:
        text = f"{value:.{digits - 1}e}"
    elif abs(value) >= 10 ** (digits - 1):
        text = f"{value:,.0f}"
    else:
        text = f"{value:#.{digits}g}".rstrip(".")
    return text.replace("-", "−")


def percent(value: float | None) -> str:
    """Write a share in percent, a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}%".replace("-", "−")
