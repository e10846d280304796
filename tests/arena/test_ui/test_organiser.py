"""The organiser's page as Streamlit draws it: what is hidden, what is recorded, and a study set up by clicks."""

import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from streamlit.testing.v1 import AppTest

from arena import evaluators
from arena.assignment import lease
from arena.columns import token_hash
from arena.database import Database, open_database
from arena.errors import LinkRefused
from arena.models import Assignment, Enrolment, Evaluator, Flag, RegistrationCode, Vote
from arena.studies import close_study, enrol, get_study, study_status
from arena.ui.service import Service, install
from arena.ui.setup import folders_with_videos
from arena.voting import submit

SECRET = "organiser-secret-for-tests"
Draw = Callable[..., AppTest]


def _study() -> None:
    from arena.ui.organiser import show_study
    from arena.ui.service import current

    show_study(current(), current().study)


def _setup() -> None:
    from arena.ui.service import current
    from arena.ui.setup import show_setup

    show_setup(current())


@pytest.fixture(autouse=True)
def own_main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back the main module that AppTest leaves in place: processes spawned later would import its script."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def voted(sqlite_url: str, make_study) -> Iterator[Database]:
    """An open study in which one person called p1 has voted on everything."""
    database = Database(sqlite_url)
    make_study(database, prompts=3, votes_per_pair=1)
    with database.session() as session:
        token = enrol(session, "study", pseudonym="p1").token
    while (task := lease(database, token)) is not None:
        submit(database, token=token, assignment=task.assignment, choice="left", client_token=task.left)
    yield database
    database.close()


def _person(database: Database, pseudonym: str, *, looks: bool = True) -> None:
    """Let somebody in who always prefers the candidate, or each system every other time."""
    with database.session() as session:
        token = enrol(session, "study", pseudonym=pseudonym).token
    while (task := lease(database, token)) is not None:
        with database.reading() as session:
            on_left = session.scalar(
                sa.select(Assignment.a_on_left).where(Assignment.token == task.assignment)
            )
        likes = looks or task.seq_no % 2 == 0
        choice = "left" if likes == on_left else "right"
        submit(
            database,
            token=token,
            assignment=task.assignment,
            choice=choice,
            client_token=task.left,
            rt_ms=3000,
            comment="they blur" if task.seq_no == 1 else "",
        )


def _shown(page: AppTest) -> str:
    return " ".join(element.proto.body for element in page.get("html"))


def _field(fields: Sequence[Any], label: str) -> Any:
    return next(field for field in fields if field.label == label)


def _draw(database: Database, script: Callable[[], None], study: str = "study", **changes: object) -> AppTest:
    install(Service(database=database, study=study, organiser_token=SECRET, **changes))
    page = AppTest.from_function(script, default_timeout=60).run()
    assert not page.exception
    return page


def _press(page: AppTest, label: str) -> AppTest:
    button = next(button for button in page.button if button.label == label)
    button.click().run()
    assert not page.exception
    return page


def test_results_appear_when_the_study_is_closed(voted: Database) -> None:
    page = _draw(voted, _study)
    assert any("hidden while the study is open" in box.value for box in page.info)
    assert "3 of 3" in [metric.value for metric in page.metric]
    close_study(voted, "study")
    page = page.run()
    assert not page.info


def test_an_exclusion_by_click_is_recorded_with_its_reason(voted: Database) -> None:
    page = _draw(voted, _study)
    _press(page, "Record")
    assert "needs a reason" in page.error[0].value
    next(box for box in page.text_input if box.label == "Reason").input("sleeping <b>")
    _press(page, "Record")
    with voted.reading() as session:
        assert session.scalars(sa.select(Flag.reason)).all() == ["sleeping <b>"]
        assert session.scalars(sa.select(Enrolment.state)).all() == ["excluded"]


def test_links_are_made_by_click(voted: Database) -> None:
    page = _draw(voted, _study)
    next(box for box in page.number_input if box.label == "How many").set_value(2)
    _press(page, "Make personal links")
    links = page.code[0].value.split()
    assert len(links) == 2
    assert all(link.startswith("http://127.0.0.1:8501/join/") for link in links)


def test_a_sequential_study_tells_its_verdicts_and_what_is_asked_no_more(sqlite_url: str, make_study) -> None:
    database = Database(sqlite_url)
    plan = {"stopping": "sequential", "estimand": "evaluator", "votes_per_pair": 40}
    make_study(database, prompts=2, assignment="adaptive", **plan)
    page = _draw(database, _study)
    assert "sequential" in [metric.value for metric in page.metric]
    assert "0 of 1 comparisons are decided" in _shown(page)
    assert "Nobody has finished yet." in [text.value for text in page.markdown]
    assert not page.info
    _person(database, "p0")
    page = page.run()
    assert "not decided yet" in _shown(page)
    assert "asked about no more" not in _shown(page)
    for number in range(1, 12):
        _person(database, f"p{number}")
    page = page.run()
    with database.reading() as session:
        assert study_status(session, "study").stopped == ("rival",)
    assert "Decided, and asked about no more: rival." in _shown(page)
    assert "<td>candidate better</td>" in _shown(page)
    assert "1 of 1 comparisons are decided" in _shown(page)
    assert "ours is better than rival" in _shown(page)
    close_study(database, "study")
    page = page.run()
    assert not page.exception
    assert "ours is better than rival" in _shown(page)
    database.close()


def test_who_follows_no_videos_is_told_by_reliability_and_flag(sqlite_url: str, make_study) -> None:
    database = Database(sqlite_url)
    make_study(database, prompts=16, votes_per_pair=3)
    for number in range(3):
        _person(database, f"p{number}", looks=number > 0)
    (table,) = [html for html in _shown(_draw(database, _study)).split("<table") if ">Reliability<" in html]
    names = re.findall(r"<th scope=col>([^<]+)", table)
    rows = [
        dict(zip(names, re.findall(r"<td>(.*?)</td>", row), strict=True)) for row in table.split("<tr>")[2:]
    ]
    values = {row["Evaluator"]: float(row["Reliability"]) for row in rows}
    assert values.pop("p0") < 0.7 < min(values.values())
    assert [row["Evaluator"] for row in rows if "uninformative" in row["Flags"]] == ["p0"]
    database.close()


def test_forgetting_by_click_needs_a_name_and_a_tick_and_keeps_the_votes(sqlite_url: str, make_study) -> None:
    database = Database(sqlite_url)
    make_study(database, prompts=2, votes_per_pair=2)
    for name in ("Ann Example", "Bob Example"):
        _person(database, name)
    page = _draw(database, _study)
    _press(page, "Forget")
    assert "Nothing was erased" in page.error[0].value
    _field(page.selectbox, "Who asks to be forgotten").select("Ann Example")
    _press(page, "Forget")
    assert "Nothing was erased" in page.error[0].value
    _field(page.selectbox, "Who asks to be forgotten").select("Ann Example")
    _field(page.checkbox, "Erase this person's comments, too").check()
    _field(page.checkbox, "Yes, erase it for good").check()
    _press(page, "Forget")
    assert not page.error
    assert "Ann Example" not in _shown(page)
    assert _field(page.selectbox, "Who asks to be forgotten").value is None
    with database.reading() as session:
        names = session.scalars(sa.select(Evaluator.pseudonym).order_by(Evaluator.id)).all()
        assert names[0].startswith("forgotten-")
        assert names[1] == "Bob Example"
        assert session.scalar(sa.select(sa.func.count(Vote.id))) == 4
        assert session.scalars(sa.select(Vote.comment).where(Vote.comment != "")).all() == ["they blur"]
    database.close()


def test_a_code_is_made_by_click_and_lets_somebody_in(voted: Database) -> None:
    page = _draw(voted, _study)
    _field(page.text_input, "Code").input("short")
    _press(page, "Make the code")
    assert "6 to 128 characters" in page.error[0].value
    _field(page.text_input, "Code").input("blue harbour")
    _field(page.number_input, "Places").set_value(3)
    _field(page.number_input, "Days until the code expires (0: never)").set_value(7)
    _field(page.text_input, "Group of those who join").input("crowd")
    _press(page, "Make the code")
    assert "3 people may join" in page.success[0].value
    assert "http://127.0.0.1:8501/join" in _shown(page)
    with voted.session() as session:
        made = session.scalars(sa.select(RegistrationCode)).one()
        assert (made.places, made.cohort, made.code_hash) == (3, "crowd", token_hash("blue harbour"))
        assert round((made.expires_at - made.created_at) / timedelta(days=1)) == 7
        token = evaluators.register(session, "Blue Harbour").token
        assert evaluators.find_enrolment(session, token).study_id == get_study(session, "study").id
    page = page.run()
    assert f"<td>{made.id}</td><td>open</td><td>1 of 3</td><td>crowd</td>" in _shown(page)
    _field(page.selectbox, "Code to withdraw, by its number").select(made.id)
    _press(page, "Withdraw the code")
    assert f"<td>{made.id}</td><td>revoked</td><td>1 of 3</td><td>crowd</td>" in _shown(page)
    with voted.session() as session, pytest.raises(LinkRefused, match="withdrawn"):
        evaluators.register(session, "Blue Harbour")


def test_adaptive_assignment_and_a_margin_are_chosen_by_click(sqlite_url: str, make_study) -> None:
    database = Database(sqlite_url)
    make_study(database)
    page = _draw(database, _setup, "")
    _field(page.text_input, "Name of the study").input("chosen")
    _field(page.selectbox, "Candidate").select("ours")
    page.multiselect[0].select("rival")
    _field(page.radio, "Competitors, with sequential results").set_value("adaptive")
    _field(
        page.number_input, "Equally good within this ratio, with sequential results (1: not asked)"
    ).set_value(1.25)
    _press(page, "Draft the study")
    assert "sequential" in page.error[0].value
    _field(page.radio, "Results").set_value("sequential")
    _press(page, "Draft the study")
    assert not page.error
    with database.reading() as session:
        drafted = get_study(session, "chosen").protocol
    assert (drafted["stopping"], drafted["assignment"], drafted["equivalence"]) == (
        "sequential",
        "adaptive",
        1.25,
    )
    database.close()


def test_two_folders_become_an_open_study_without_the_command_line(
    tmp_path: Path, clips: dict[str, list[Path]]
) -> None:
    for number, paths in enumerate(clips.values()):
        (tmp_path / "in" / f"system{number}").mkdir(parents=True)
        for index, path in enumerate(paths[:2]):
            shutil.copy(path, tmp_path / "in" / f"system{number}" / f"prompt {index}-0.mp4")
    database = open_database(str(tmp_path / "new.db"), create=True)
    page = _draw(database, _setup, "", videos_root=tmp_path / "in")
    for number in range(2):
        page.selectbox[0].select(f"system{number}")
        next(box for box in page.text_input if box.label == "System that made them").input(f"s{number}")
        _press(page, "Bring in")
    next(box for box in page.text_input if box.label == "Name of the study").input("clicked")
    page.multiselect[0].select("s1")
    _press(page, "Draft the study")
    assert not page.error
    page = _draw(database, _study, "clicked")
    _press(page, "Open for votes")
    with database.reading() as session:
        status = study_status(session, "clicked")
    assert (status.state, status.pairs, status.target_votes) == ("open", 2, 6)
    database.close()


def test_folders_outside_the_root_are_not_offered(tmp_path: Path, clips: dict[str, list[Path]]) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (root / "inside").mkdir(parents=True)
    source = next(iter(clips.values()))[0]
    shutil.copy(source, outside / "a-0.mp4")
    shutil.copy(source, root / "inside" / "a-0.mp4")
    (root / "linked").mkdir()
    (root / "linked" / "b-0.mp4").symlink_to(outside / "a-0.mp4")
    assert folders_with_videos(root) == ["inside"]
