"""The organiser's view of evaluators: conduct and flags, links and codes, exclusions with reasons, forgetting."""

from datetime import datetime, timedelta
from html import escape
from typing import Any

import streamlit as st

from arena import evaluators
from arena.columns import now_utc
from arena.models import Study
from arena.oversight import Participant, participants
from arena.studies import enrol, get_study
from arena.ui.actions import guarded
from arena.ui.results import table_html
from arena.ui.service import Service

BY = "organiser's page"


def show_people(service: Service, study: Study) -> None:
    """Draw the table of evaluators and what may be done about them."""
    with service.database.reading() as session:
        found = participants(session, study)
    if found:
        st.html(table_html([_row(person) for person in found]))
        st.caption(
            "Reliability: share of a person's answers that follow the videos rather than a habit of clicking. It"
            " compares the evaluators of this study with one another."
        )
    else:
        st.write("Nobody has been invited yet.")
    if study.state != "closed":
        _invite(service, study)
        _make_code(service, study)
    _show_codes(service, study)
    if found:
        _decide(service, study, found)
        _forget(service, study, found)


def _row(person: Participant) -> dict[str, Any]:
    conduct = person.conduct
    seconds = None if conduct.median_decision_ms is None else conduct.median_decision_ms / 1000
    reason = f": {person.exclusion_reason}" if person.exclusion_reason else ""
    return {
        "Evaluator": person.pseudonym,
        "Group": person.cohort,
        "State": person.state + reason,
        "Finished": person.finished_at is not None,
        "Votes": conduct.votes,
        "Decides in (s)": seconds,
        "Left": conduct.left,
        "Same": conduct.same,
        "Gold": f"{conduct.gold_passed} of {conduct.gold}" if conduct.gold else None,
        "Repeats kept": f"{conduct.repeats_kept} of {conduct.repeats}" if conduct.repeats else None,
        "Reliability": person.reliability,
        "Flags": "; ".join(conduct.flags),
    }


def _invite(service: Service, study: Study) -> None:
    st.subheader("Invite evaluators", anchor=False)
    st.write("Each person needs a link of their own. It is shown once.")
    with st.form("invite", border=False):
        columns = st.columns(3)
        count = columns[0].number_input("How many", 1, 500, 1)
        days = columns[1].number_input("Days until links expire (0: never)", 0, 3650, 0)
        cohort = columns[2].text_input("Group, if any", max_chars=60)
        asked = st.form_submit_button("Make personal links")
    if not asked:
        return
    expires = _expiry(days)
    with service.database.session() as session:
        made = [enrol(session, study.slug, expires_at=expires, cohort=cohort) for _ in range(int(count))]
    st.code("\n".join(f"{service.public_url}/join/{person.token}" for person in made), language=None)


def _expiry(days: float) -> datetime | None:
    return now_utc() + timedelta(days=int(days)) if days else None


def _make_code(service: Service, study: Study) -> None:
    st.subheader("Invite with a code", anchor=False)
    address = f"{service.public_url}/join"
    st.html(f"<p>Whoever types it at {escape(address)} takes part, until its places are taken.</p>")
    with st.form("code", border=False):
        columns = st.columns(4)
        code = columns[0].text_input("Code", max_chars=evaluators.CODE_LENGTHS[1])
        places = columns[1].number_input("Places", 1, 10_000, 20)
        days = columns[2].number_input("Days until the code expires (0: never)", 0, 3650, 0)
        cohort = columns[3].text_input("Group of those who join", max_chars=60)
        asked = st.form_submit_button("Make the code")
    if not asked:
        return

    def make() -> None:
        with service.database.session() as session:
            evaluators.add_code(
                session,
                get_study(session, study.slug),
                code,
                places=int(places),
                by=BY,
                expires_at=_expiry(days),
                cohort=cohort,
            )

    if guarded(make):
        people = "1 person" if places == 1 else f"{places} people"
        st.success(
            f"{people} may join with this code. Note it down: only a hash of it is kept, and the list below"
            " calls it by a number."
        )


def _show_codes(service: Service, study: Study) -> None:
    with service.database.reading() as session:
        made = evaluators.codes(session, study)
    if not made:
        return
    st.html(table_html([_code_row(code) for code in made]))
    open_ones = [code.number for code in made if code.state == "open"]
    if not open_ones or study.state == "closed":
        return
    with st.form("withdraw code", border=False):
        number = st.selectbox("Code to withdraw, by its number", open_ones, index=None, placeholder="Choose")
        asked = st.form_submit_button("Withdraw the code")
    if not asked or number is None:
        return

    def withdraw() -> None:
        with service.database.session() as session:
            evaluators.revoke_code(session, get_study(session, study.slug), number, by=BY)

    if guarded(withdraw):
        st.rerun()


def _code_row(code: evaluators.CodeState) -> dict[str, Any]:
    return {
        "Code": code.number,
        "State": code.state,
        "Places taken": f"{code.taken} of {code.places}",
        "Group": code.cohort,
        "Made": f"{code.created_at:%Y-%m-%d %H:%M} UTC",
        "Expires": None if code.expires_at is None else f"{code.expires_at:%Y-%m-%d %H:%M} UTC",
    }


def _decide(service: Service, study: Study, found: list[Participant]) -> None:
    st.subheader("Exclude or withdraw", anchor=False)
    st.write(
        "Votes are never deleted: an excluded evaluator's votes are left out of results, with your reason."
    )
    flagged = {person.pseudonym: person for person in found}
    with st.form("decide", border=False):
        columns = st.columns([1, 1, 2])
        name = columns[0].selectbox("Evaluator", list(flagged))
        what = columns[1].selectbox("What", ["Exclude", "Count again", "Withdraw the link"])
        reason = columns[2].text_input("Reason", max_chars=evaluators.LONGEST_REASON)
        asked = st.form_submit_button("Record")
    if not asked:
        return

    def decide() -> None:
        with service.database.session() as session:
            current = get_study(session, study.slug)
            if what == "Exclude":
                rule = "; ".join(flagged[name].conduct.flags) or "judgement"
                evaluators.exclude(session, current, name, reason=reason, by=BY, rule=rule)
            elif what == "Count again":
                evaluators.readmit(session, current, name, reason=reason, by=BY)
            else:
                evaluators.revoke(session, current, name, by=BY)

    if guarded(decide):
        st.rerun()


def _forget(service: Service, study: Study, found: list[Participant]) -> None:
    st.subheader("Forget somebody", anchor=False)
    st.write(
        "Erases for good what could tell who a person is: pseudonym, group, link, reasons of exclusions, in every"
        " study. The votes stay and count, under a new pseudonym; files exported before keep what they hold."
    )
    with st.form("forget", border=False, clear_on_submit=True):  # so that no tick is left for the next person
        columns = st.columns(2)
        names = [person.pseudonym for person in found]
        name = columns[0].selectbox("Who asks to be forgotten", names, index=None, placeholder="Choose")
        comments = st.checkbox("Erase this person's comments, too")
        sure = st.checkbox("Yes, erase it for good")
        asked = st.form_submit_button("Forget")
    if not asked:
        return
    if name is None or not sure:
        st.error("Nothing was erased: choose the evaluator and tick that you are sure.")
        return

    def forget() -> None:
        with service.database.session() as session:
            evaluators.forget(session, get_study(session, study.slug), name, by=BY, comments=comments)

    if guarded(forget):
        st.rerun()
