"""The organiser's page: how far the study is, and what its votes say."""

from html import escape
from pathlib import Path
from typing import Any

import streamlit as st

from arena.report_data import study_report
from arena.studies import StudyStatus, enrol, list_studies, study_status
from arena.ui.service import ORGANISER_COOKIE, Service, current

STYLE = Path(__file__).with_name("assets") / "results.css"


def show_results() -> None:
    """Draw the results for whoever holds the organiser's cookie; others are told what they need."""
    service = current()
    if not service.is_organiser(st.context.cookies.get(ORGANISER_COOKIE)):
        st.title("Results", anchor=False)
        st.write("This page is for the organiser. Its link is printed when the arena starts.")
        return
    with service.database.reading() as session:
        slugs = [study.slug for study in list_studies(session)]
    first = slugs.index(service.study) if service.study in slugs else 0
    slug = st.selectbox("Study", slugs, index=first) if len(slugs) > 1 else slugs[0]
    st.title(slug, anchor=False)
    st.fragment(run_every=5.0)(_show_progress)(service, slug)
    with service.database.reading() as session:
        status = study_status(session, slug)
    if _wanted(status):
        _show_report(service, slug)
    if status.state == "open":
        _show_invitation(service, slug)


def _show_progress(service: Service, slug: str) -> None:
    with service.database.reading() as session:
        status = study_status(session, slug)
    if status.target_votes:
        st.progress(min(status.votes / status.target_votes, 1.0))
    columns = st.columns(4)
    target = f" of {status.target_votes:,}" if status.target_votes else ""
    columns[0].metric("Votes", f"{status.votes:,}{target}")
    collected = status.kind == "arena"
    columns[1].metric("Pairs", f"{status.pairs:,}" if collected else "–")
    columns[2].metric("Evaluators", f"{status.evaluators:,}" if collected else "–")
    columns[3].metric("State", status.state)


def _wanted(status: StudyStatus) -> bool:
    if status.state != "open":
        return True
    return st.toggle(
        "Show interim results",
        help="The study is open. Stopping it because of what stands here makes the intervals too narrow.",
    )


def _show_report(service: Service, slug: str) -> None:
    with service.database.reading() as session:
        report = study_report(session, slug)
    st.html(STYLE)
    st.html(comparisons_html(report))
    for warning in report["warnings"]:
        st.warning(warning)


def _show_invitation(service: Service, slug: str) -> None:
    st.subheader("Invite an evaluator")
    st.write("Each person needs a link of their own. It is shown once.")
    if st.button("Make a personal link"):
        with service.database.session() as session:
            enrolled = enrol(session, slug)
        st.write(f"For {enrolled.pseudonym}:")
        st.code(f"{service.public_url}/join/{enrolled.token}", language=None)


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
        f"<table class=mv-results><caption>{caption}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


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
