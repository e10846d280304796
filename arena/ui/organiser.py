"""The organiser's page: how far a study is, who votes and how, what the votes say, and how to set one up."""

from dataclasses import asdict
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from arena import oversight
from arena.exports import FORMS
from arena.models import Study
from arena.report_data import study_report
from arena.stopping import is_sequential, stopping_report
from arena.studies import close_study, get_study, list_studies, pause_study, study_status
from arena.ui.actions import guarded
from arena.ui.people import show_people
from arena.ui.results import comparisons_html, subgroups_html, table_html
from arena.ui.service import ORGANISER_COOKIE, Service, current
from arena.ui.setup import open_with_progress, show_setup

STYLE = Path(__file__).with_name("assets") / "results.css"
NEW = "Set up a new study"
VERDICTS = {
    "better": "candidate better",
    "worse": "candidate worse",
    "equivalent": "equally good",
    "open": "not decided yet",
}


def show_organiser() -> None:
    """Draw the page for whoever holds the organiser's cookie; others are told what they need."""
    service = current()
    if not service.is_organiser(st.context.cookies.get(ORGANISER_COOKIE)):
        st.title("Results", anchor=False)
        st.write("This page is for the organiser. Its link is printed when the arena starts.")
        return
    st.html(STYLE)
    with service.database.reading() as session:
        slugs = [study.slug for study in list_studies(session)]
    first = slugs.index(service.study) if service.study in slugs else 0
    chosen = st.selectbox("Study", [*slugs, NEW], index=first, key="chosen-study")
    if chosen == NEW:
        show_setup(service)
    else:
        show_study(service, chosen)


def show_study(service: Service, slug: str) -> None:
    """Draw one study: progress above, then people, results, balance and protocol."""
    st.title(slug, anchor=False)
    st.fragment(run_every=5.0)(_show_progress)(service, slug)
    with service.database.reading() as session:
        study = get_study(session, slug)
    if study.kind == "arena":
        _show_states(service, study)
        results, people, balance, protocol = st.tabs(["Results", "Evaluators", "Balance", "Protocol"])
        with people:
            show_people(service, study)
        with balance:
            _show_balance(service, study)
        with protocol:
            st.json(study.protocol)
    else:
        results = st.container()
    with results:
        _show_results(service, study)
        _show_exports(study)


def _show_progress(service: Service, slug: str) -> None:
    with service.database.reading() as session:
        status = study_status(session, slug)
    if status.target_votes:
        st.progress(min(status.votes / status.target_votes, 1.0))
    columns = st.columns(6)
    target = f" of {status.target_votes:,}" if status.target_votes else ""
    columns[0].metric("Votes", f"{status.votes:,}{target}")
    collected = status.kind == "arena"
    columns[1].metric("Pairs", f"{status.pairs:,}" if collected else "–")
    columns[2].metric("Finished", f"{status.finished:,} of {status.evaluators:,}" if collected else "–")
    columns[3].metric("Check votes", f"{status.checks:,}" if collected else "–")
    columns[4].metric("State", status.state)
    columns[5].metric("Stopping", status.stopping or "–")
    if status.stopped:
        st.html(f"<p>Decided, and asked about no more: {escape(', '.join(status.stopped))}.</p>")


def _show_states(service: Service, study: Study) -> None:
    """Offer the steps which the study's state allows."""
    slug, database = study.slug, service.database
    with st.container(horizontal=True, vertical_alignment="center"):
        may_open = study.state in ("draft", "paused")
        opens = may_open and st.button("Open for votes", type="primary")
        if opens and guarded(lambda: open_with_progress(service, slug)):
            st.rerun()
        if study.state == "open" and st.button("Pause") and guarded(lambda: pause_study(database, slug)):
            st.rerun()
        if study.state in ("open", "paused"):
            sure = st.checkbox("Yes, end it for good")
            if st.button("Close", disabled=not sure) and guarded(lambda: close_study(database, slug)):
                st.rerun()


def _show_results(service: Service, study: Study) -> None:
    if oversight.results_hidden(study):
        st.info(
            "Results are hidden while the study is open: stopping it because of what stands here would make"
            " every interval too narrow. Close the study to see them."
        )
        return
    with service.database.reading() as session:
        if study.kind == "arena" and study.state != "closed":
            rows = oversight.sequential_rows(session, study)
            _show_sequence(rows, stopping_report(session, study)["sentence"])
            return
        report = study_report(session, study.slug)
    st.html(comparisons_html(report) + subgroups_html(report))
    if is_sequential(study):
        st.html(f"<p>{escape(report['stopping']['sentence'])}</p>")
    for warning in report["warnings"]:
        st.warning(warning.replace("$", "\\$"))


def _show_sequence(rows: list[dict[str, Any]], sentence: str) -> None:
    st.html(f"<p>{escape(sentence)}</p>")
    if rows:
        st.html(table_html([_sequence_row(row) for row in rows]))
    else:
        st.write("Nobody has finished yet.")


def _sequence_row(row: dict[str, Any]) -> dict[str, Any]:
    above = f"{row['upper']:.2f}" if isfinite(row["upper"]) else "no bound"
    return {
        "Candidate against": row["competitor"],
        "Verdict": VERDICTS[row["verdict"]],
        "(G+S)/(B+S)": row["ratio"],
        "Interval at every look": f"{row['lower']:.2f} to {above}",
        "Finished evaluators": row["evaluators"],
    }


def _show_exports(study: Study) -> None:
    st.subheader("Export", anchor=False)
    with st.container(horizontal=True):
        for form in FORMS:
            query = urlencode({"study": study.slug, "form": form})
            st.link_button(form, f"/api/export?{query}")


def _show_balance(service: Service, study: Study) -> None:
    with service.database.reading() as session:
        rows = [asdict(row) for row in oversight.balance(session, study)]
        said = oversight.comments(session, study)
    if rows:
        st.html(table_html([{name.replace("_", " "): value for name, value in row.items()} for row in rows]))
    if said:
        st.subheader("Comments", anchor=False)
        st.html(table_html(said))
