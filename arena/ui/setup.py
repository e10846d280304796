"""Setting up a study on the organiser's page: videos in by folder, a protocol, blinded copies, open."""

from pathlib import Path
from typing import Any

import streamlit as st
from sqlalchemy import func, select

from arena import studies
from arena.catalogue import system_label
from arena.folders import VIDEO_SUFFIXES, import_videos
from arena.models import System, Video
from arena.protocol import PRESETS, Protocol
from arena.ui.actions import guarded
from arena.ui.results import table_html
from arena.ui.service import Service

MOST_FOLDERS = 200


def show_setup(service: Service) -> None:
    """Draw the two steps: bring videos in, then draft a study over them."""
    st.title("A new study", anchor=False)
    st.subheader("1. Videos", anchor=False)
    systems = _systems(service)
    if systems:
        st.html(table_html([{"System": name, "Videos": count} for name, count in systems.items()]))
    _bring_in(service)
    st.subheader("2. Protocol", anchor=False)
    if len(systems) < 2:
        st.write("A study needs videos of two systems or more.")
    else:
        _draft(service, list(systems))


def open_with_progress(service: Service, slug: str) -> None:
    """Make the blinded copies a study lacks, telling how far it is, then open it."""
    bar = st.progress(0.0, "Making blinded copies")
    studies.open_study(service.database, slug, lambda made, needed: bar.progress(made / needed))


def _systems(service: Service) -> dict[str, int]:
    with service.database.reading() as session:
        rows = session.execute(
            select(System, func.count(Video.id))
            .join(Video, Video.system_id == System.id)
            .group_by(System.id)
            .order_by(System.name)
        )
        return {system_label(system): count for system, count in rows}


def _bring_in(service: Service) -> None:
    if service.videos_root is None:
        st.write("To bring folders in here, start the arena with --videos FOLDER.")
        return
    found = folders_with_videos(service.videos_root)
    if not found:
        st.write(f"There are no folders with mp4 or mov files in {service.videos_root}.")
        return
    with st.form("videos", border=False):
        columns = st.columns(2)
        folder = columns[0].selectbox("Folder, with files named PROMPT-INDEX.mp4", found)
        system = columns[1].text_input("System that made them", max_chars=200)
        asked = st.form_submit_button("Bring in")
    if not asked:
        return
    path = service.videos_root / folder

    def bring_in() -> None:
        with service.database.session() as session:
            import_videos(session, path, system=system)

    if guarded(bring_in):
        st.rerun()


def folders_with_videos(root: Path) -> list[str]:
    """Return the folders below a root that hold videos, as paths relative to it; links are not followed."""
    found = {
        path.parent.relative_to(root).as_posix()
        for path in sorted(root.glob("**/*"))
        if path.suffix.lower() in VIDEO_SUFFIXES and path.resolve().is_relative_to(root.resolve())
    }
    return sorted(found)[:MOST_FOLDERS]


def _draft(service: Service, systems: list[str]) -> None:
    preset = st.selectbox("Start from", ["plain", *PRESETS])
    keys: dict[str, Any] = {} if preset == "plain" else dict(PRESETS[preset])
    with st.form("draft", border=False):
        name = st.text_input("Name of the study", max_chars=100)
        columns = st.columns(2)
        candidate = columns[0].selectbox("Candidate", systems)
        competitors = columns[1].multiselect("Competitors", systems)
        keys |= _numbers(keys)
        keys |= _texts(keys)
        stopping = st.radio(
            "Results",
            ["fixed", "sequential"],
            captions=["hidden until the study is closed", "intervals that hold at every look"],
            horizontal=True,
        )
        keys |= _sequential()
        asked = st.form_submit_button("Draft the study", type="primary")
    if not asked:
        return
    keys |= {"candidate": candidate, "competitors": competitors, "stopping": stopping}

    def draft() -> None:
        with service.database.session() as session:
            studies.create_study(session, name, Protocol.from_dict(keys))

    if guarded(draft):
        st.success("Drafted. Choose it above to look at it and to open it.")


def _numbers(keys: dict[str, Any]) -> dict[str, Any]:
    columns = st.columns(6)
    votes = columns[0].number_input("Votes per pair", 1, 10_000, keys.get("votes_per_pair", 3))
    quota = columns[1].number_input("Pairs per person (0: all)", 0, 100_000, keys.get("quota") or 0)
    training = columns[2].number_input("Training pairs", 0, 20, keys.get("training_pairs", 2))
    gold = columns[3].number_input("Gold pairs (%)", 0, 50, round(100 * keys.get("gold_share", 0.05)))
    repeat = columns[4].number_input("Repeated pairs (%)", 0, 50, round(100 * keys.get("repeat_share", 0.05)))
    rest = columns[5].number_input("Break after (0: never)", 0, 1000, keys.get("break_every") or 0)
    return {
        "votes_per_pair": int(votes),
        "quota": int(quota) or None,
        "training_pairs": int(training),
        "gold_share": gold / 100,
        "repeat_share": repeat / 100,
        "break_every": int(rest) or None,
    }


def _sequential() -> dict[str, Any]:
    """Ask what only studies with sequential results may choose."""
    columns = st.columns(2)
    assignment = columns[0].radio(
        "Competitors, with sequential results",
        ["balanced", "adaptive"],
        captions=["all are asked about until the last is decided", "each until it is decided"],
        horizontal=True,
    )
    margin = columns[1].number_input(
        "Equally good within this ratio, with sequential results (1: not asked)", 1.0, 10.0, 1.0, step=0.05
    )
    return {"assignment": assignment, "equivalence": margin if margin > 1 else None}


def _texts(keys: dict[str, Any]) -> dict[str, Any]:
    defaults = Protocol(candidate="a", competitors=("b",))
    question = st.text_input("Question", keys.get("question", defaults.question))
    instructions = st.text_area("Instructions (a short standard text if empty)", keys.get("instructions", ""))
    consent = st.text_area("Consent text (nothing is asked if empty)", keys.get("consent", ""))
    columns = st.columns(2)
    code = columns[0].text_input("Finish code, for a panel such as Prolific", keys.get("finish_code", ""))
    back = columns[1].text_input(
        "Return address, https://, {code} becomes the code", keys.get("return_url", "")
    )
    return {
        "question": question,
        "instructions": instructions,
        "consent": consent,
        "finish_code": code,
        "return_url": back,
    }
