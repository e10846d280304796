"""Codes by which people let themselves in, and people who ask to be forgotten."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa

from arena import audit, evaluators
from arena.assignment import lease
from arena.columns import now_utc
from arena.database import Database
from arena.errors import LinkRefused, StudyError
from arena.models import Enrolment, Evaluator, Flag, RegistrationCode, Vote
from arena.oversight import comments
from arena.report_data import study_report
from arena.studies import close_study, enrol, get_study
from arena.transactions import in_transaction
from arena.voting import submit

CODE = "Blue Harbour"


def _make_code(database: Database, code: str = CODE, places: int = 2, **options: object) -> None:
    with database.session() as session:
        study = get_study(session, "study")
        evaluators.add_code(session, study, code, places=places, by="test", **options)


def _join(database: Database, code: str = CODE, **options: object) -> evaluators.Enrolled:
    return in_transaction(database, lambda session: evaluators.register(session, code, **options))


def test_whoever_knows_the_code_gets_in_until_its_places_are_taken(database: Database, make_study) -> None:
    make_study(database)
    _make_code(database, quota=3, cohort="crowd")
    first, second = _join(database, " blue  HARBOUR "), _join(database)
    assert first.token != second.token
    task = lease(database, first.token)
    assert task is not None
    assert task.remaining == 3
    with pytest.raises(LinkRefused, match="every place"):
        _join(database)
    with database.reading() as session:
        assert set(session.scalars(sa.select(Enrolment.cohort))) == {"crowd"}
        stored = session.scalars(sa.select(RegistrationCode)).one()
        assert (stored.places, stored.places_left) == (2, 0)
        assert CODE.lower() not in stored.code_hash
        assert session.scalar(sa.select(sa.func.count(Evaluator.id))) == 2


def test_unknown_expired_and_closed_codes_let_nobody_in(database: Database, make_study) -> None:
    make_study(database)
    _make_code(database, expires_at=now_utc() + timedelta(days=1))
    with pytest.raises(LinkRefused, match="not the right one"):
        _join(database, "red harbour")
    with pytest.raises(LinkRefused, match="expired"):
        _join(database, now=now_utc() + timedelta(days=2))
    close_study(database, "study")
    with pytest.raises(LinkRefused, match="closed"):
        _join(database)
    with pytest.raises(StudyError, match="takes no evaluators"):
        _make_code(database, "another code")
    with database.reading() as session:
        assert session.scalar(sa.select(sa.func.count(Evaluator.id))) == 0
        assert session.scalars(sa.select(RegistrationCode.places_left)).one() == 2


def test_codes_are_listed_with_their_state_and_can_be_withdrawn(database: Database, make_study) -> None:
    make_study(database)
    now = now_utc()
    _make_code(database, "used up", places=1)
    _make_code(database, "expired", places=3, expires_at=now + timedelta(days=1))
    _make_code(database, "revoked", places=3)
    _make_code(database, "still open", places=4, cohort="crowd", expires_at=now + timedelta(days=9))
    for code in ("used up", "revoked", "still open"):
        _join(database, code)
    with database.session() as session:
        study = get_study(session, "study")
        third = evaluators.codes(session, study)[2].number
        evaluators.revoke_code(session, study, third, by="test")
        found = evaluators.codes(session, study, now=now + timedelta(days=2))
        assert [(code.state, code.taken, code.places) for code in found] == [
            ("used", 1, 1),
            ("expired", 0, 3),
            ("revoked", 1, 3),
            ("open", 1, 4),
        ]
        assert found[-1].cohort == "crowd"
        for number in (third, 999):
            with pytest.raises(StudyError, match="no code"):
                evaluators.revoke_code(session, study, number, by="test")
        assert audit.first_broken(session) is None
    with pytest.raises(LinkRefused, match="withdrawn"):
        _join(database, "revoked")
    with database.reading() as session:
        assert session.scalar(sa.select(sa.func.count(Evaluator.id))) == 3


def test_many_at_once_never_get_more_places_than_there_are(database: Database, make_study) -> None:
    make_study(database)
    _make_code(database, places=5)

    def attempt(_: int) -> bool:
        try:
            _join(database)
        except LinkRefused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 5
    with database.reading() as session:
        assert session.scalar(sa.select(sa.func.count(Enrolment.evaluator_id))) == 5


@pytest.mark.parametrize(
    ("code", "places", "said"),
    [("short", 1, "6 to 128 characters"), ("x" * 129, 1, "6 to 128"), ("long enough", 0, "1 person or more")],
)
def test_codes_that_cannot_work_are_refused(sqlite_url: str, make_study, code, places, said) -> None:
    database = Database(sqlite_url)
    make_study(database)
    with pytest.raises(StudyError, match=said):
        _make_code(database, code, places)
    database.close()


def test_a_code_in_use_is_refused(sqlite_url: str, make_study) -> None:
    database = Database(sqlite_url)
    make_study(database)
    _make_code(database)
    with pytest.raises(StudyError, match="in use"):
        _make_code(database, CODE.upper())
    database.close()


def _voted(database: Database) -> str:
    """Let a named person vote with a comment, be excluded and readmitted; return the token."""
    with database.session() as session:
        token = enrol(session, "study", pseudonym="jane-doe", cohort="office 12").token
    while (task := lease(database, token)) is not None:
        submit(
            database,
            token=token,
            assignment=task.assignment,
            choice="left",
            client_token=task.left,
            comment="I am Jane",
        )
    with database.session() as session:
        study = get_study(session, "study")
        evaluators.exclude(session, study, "jane-doe", reason="Jane was ill", by="test")
        evaluators.readmit(session, study, "jane-doe", reason="Jane is well", by="test")
    return token


def test_the_forgotten_lose_names_and_words_and_keep_their_votes(database: Database, make_study) -> None:
    make_study(database)
    token = _voted(database)
    with database.reading() as session:
        before = study_report(session, "study")["comparisons"]
    with database.session() as session:
        called = evaluators.forget(session, get_study(session, "study"), "jane-doe", by="test", comments=True)
    with pytest.raises(LinkRefused, match="not valid"):
        lease(database, token)
    with database.reading() as session:
        assert study_report(session, "study")["comparisons"] == before
        row = session.scalars(sa.select(Enrolment)).one()
        assert (row.evaluator.pseudonym, row.cohort, row.state) == (called, "", "revoked")
        assert set(session.scalars(sa.select(Flag.reason))) == {evaluators.ERASED}
        assert comments(session, get_study(session, "study")) == []
        assert audit.first_broken(session) is None
        assert session.scalar(sa.select(sa.func.count(Vote.id))) == 4
    with database.session() as session, pytest.raises(StudyError, match="no evaluator 'jane-doe'"):
        evaluators.forget(session, get_study(session, "study"), "jane-doe", by="test")


def test_comments_stay_unless_asked_and_the_excluded_stay_excluded(database: Database, make_study) -> None:
    make_study(database)
    _voted(database)
    with database.session() as session:
        study = get_study(session, "study")
        evaluators.exclude(session, study, "jane-doe", reason="Jane asked", by="test")
        evaluators.forget(session, study, "jane-doe", by="test")
    with database.reading() as session:
        row = session.scalars(sa.select(Enrolment)).one()
        assert (row.state, row.exclusion_reason) == ("excluded", evaluators.ERASED)
        assert len(comments(session, get_study(session, "study"))) == 4
        assert study_report(session, "study")["data_origin"]["excluded"] == 4


def test_of_a_vote_only_the_comment_can_go(database: Database, make_study) -> None:
    make_study(database)
    _voted(database)
    for change in ("comment = 'another'", "outcome = 0", "comment = '', rt_ms = 1"):
        with database.session() as session, pytest.raises(sa.exc.DBAPIError, match="append-only"):
            session.execute(sa.text(f"UPDATE votes SET {change}"))
