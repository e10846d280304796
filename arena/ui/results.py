"""Tables of the organiser's page as HTML, every text escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def table_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as an HTML table with their keys as its head; None is a dash, floats have two decimals."""
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row.values())}</tr>" for row in rows
    )
    return f"<table class='mv-results mv-plain'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    return "–" if value is None else escape(str(value))


def comparisons_html(report: dict[str, Any]) -> str:
    """Return the table of comparisons of a study report as HTML, every text escaped.

    Args:
        report: what ``arena.report_data.study_report`` returns.
    """
    rows = report["comparisons"]
    if not rows:
        return "<p>No votes yet.</p>"
    columns = ("Candidate against", "Good", "Same", "Bad", "(G+S)/(B+S)", "Interval", "Good, same, bad")
    head = "".join(f"<th scope=col>{column}</th>" for column in columns)
    caption = (
        "Above 1 the candidate is preferred. Good, same and bad count votes, as seen from the candidate."
    )
    body = "".join(_row(row) for row in rows)
    return (
        f"<table class='mv-results mv-comparisons'><caption>{caption}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def subgroups_html(report: dict[str, Any]) -> str:
    """Return the tables of groups of evaluators and categories of prompts, empty where there are none."""
    found = report["subgroups"]
    titles = {
        "evaluator_groups": "By group of evaluators",
        "prompt_categories": "By category of prompts",
    }
    tables = [
        f"<h3>{title}</h3>{table_html([_subgroup(row) for row in found[key]])}"
        for key, title in titles.items()
        if found[key]
    ]
    return "".join([*tables, f"<p class=mv-note>{escape(found['note'])}</p>"]) if tables else ""


def _subgroup(row: dict[str, Any]) -> dict[str, Any]:
    interval = row["interval"]
    return {
        "Group": row["group"],
        "Candidate against": f"{row['candidate']} against {row['competitor']}",
        "Votes": row["n"],
        "(G+S)/(B+S)": row["ratio"],
        "Interval": None if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}",
        "p (Holm)": None if row["p_holm"] is None else f"{row['p_holm']:.3g}",
    }


def _row(row: dict[str, Any]) -> str:
    name = f"{escape(row['candidate'])}<br><span class=mv-note>against {escape(row['competitor'])}</span>"
    if row.get("criterion", "overall") != "overall":
        name += f"<br><span class=mv-note>{escape(row['criterion'])}</span>"
    ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
    notes = [row["outcome"]] if row.get("outcome", "ok") != "ok" else []
    notes += row.get("notes") or []
    remarks = "".join(f"<br><span class=mv-note>{escape(str(note))}</span>" for note in notes)
    counts = "".join(f"<td>{row[key]}</td>" for key in ("good", "same", "bad"))
    return (
        f"<tr><th scope=row>{name}{remarks}</th>{counts}<td class=ratio>{ratio}</td>"
        f"<td class=interval>{_interval(row)}</td><td class=share>{_bar(row)}</td></tr>"
    )


def _interval(row: dict[str, Any]) -> str:
    if row["interval"] is None:
        return "–"
    low, high = row["interval"]
    how = f"{row['level']:.0%}, {escape(row['interval_method'])}"
    return f"{low:.2f} to {high:.2f}<br><span class=mv-note>{how}</span>"


def _bar(row: dict[str, Any]) -> str:
    total = row["good"] + row["same"] + row["bad"]
    if not total:
        return ""
    parts = [(key, row[key] / total) for key in ("good", "same", "bad")]
    words = ", ".join(f"{key} {share:.0%}" for key, share in parts)
    spans = "".join(
        f'<span class="mv-{key}" style="width:{share:.4%}">{f"{share:.0%}" if share >= 0.12 else ""}</span>'
        for key, share in parts
        if share
    )
    return f'<div class="mv-bar" role="img" aria-label="{words}">{spans}</div>'
