"""The pair after the open one: kept for its person, counted once, given back when its time or its reason is over."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from arena import migrations
from arena.assignment import Turn, again, clip, turn_of
from arena.columns import now_utc
from arena.database import Database
from arena.errors import TooSoon, VoteRefused
from arena.models import Assignment, Pair, StudySystem
from arena.reservations import Reservation
from arena.studies import enrol
from arena.transactions import in_transaction
from arena.voting import Ballot, submit_and_turn

SIXTH = timedelta(milliseconds=600)  # a stand-in clip lasts as long


def _people(database: Database, count: int = 1) -> list[str]:
    with database.session() as session:
        return [enrol(session, "study").token for _ in range(count)]


def _turn(database: Database, token: str, now: datetime | None = None) -> Turn:
    return in_transaction(database, lambda session: turn_of(session, token, now=now, ahead=True))


def _vote(database: Database, token: str, turn: Turn, now: datetime | None = None, **changes: object) -> Turn:
    """Vote on the open task as the page does."""
    assert turn.task is not None
    fields = {"assignment": turn.task.assignment, "choice": "left", "client_token": f"c {turn.task.left}"}
    ballot = Ballot(**{"watched_left_ms": 600, "watched_right_ms": 600} | fields | changes)

    def work(session):
        return submit_and_turn(session, token, ballot, now=now, ahead=True)[1]

    return in_transaction(database, work)


def _taken(database: Database) -> tuple[int, int]:
    """Return the slots that are taken, and those that tasks and reservations account for."""
    with database.reading() as session:
        taken = session.scalar(sa.select(sa.func.sum(Pair.target_votes - Pair.slots_left)))
        tasks = session.scalar(
            sa.select(sa.func.count(Assignment.id))
            .join(Pair, Pair.id == Assignment.pair_id)
            .where(Pair.kind == "main", Assignment.repeat_no == 0, Assignment.state.in_(("leased", "voted")))
        )
        kept = session.scalar(
            sa.select(sa.func.count(Reservation.pair_id))
            .join(Pair, Pair.id == Reservation.pair_id)
            .where(Pair.kind == "main", Reservation.repeat_no == 0)
        )
    return taken, tasks + kept


def test_what_is_told_ahead_is_what_comes_next_and_every_slot_is_accounted_for(
    database: Database, make_study
) -> None:
    checks = {"training_pairs": 1, "gold_share": 0.25, "repeat_share": 0.25, "break_every": 3}
    make_study(database, prompts=8, votes_per_pair=2, **checks)
    (token,) = _people(database)
    turn = _turn(database, token)
    left = [turn.task.remaining]
    while turn.ahead is not None:
        assert _taken(database)[0] == _taken(database)[1]
        told, turn = turn.ahead, _vote(database, token, turn)
        shown = turn.task
        assert (shown.assignment, shown.left, shown.right) == (told.assignment, told.left, told.right)
        assert (shown.prompt, shown.training, shown.rest) == (told.prompt, told.training, told.rest)
        assert (shown.done, shown.seq_no, shown.can_undo) == (told.done, told.seq_no, told.can_undo)
        left.append(shown.remaining)
    assert left[:10] == list(range(12, 2, -1))
    while turn.task is not None:  # repetitions may become due with the very last votes
        turn = _vote(database, token, turn)
    assert turn.done in (12, 13)
    assert _taken(database) == (8, 8)


def test_only_its_person_may_load_what_is_reserved(database: Database, make_study) -> None:
    make_study(database, votes_per_pair=2)
    mine, theirs = _people(database, 2)
    turn = _turn(database, mine)
    with database.reading() as session:
        assert len(clip(session, mine, turn.ahead.left)) == len(clip(session, mine, turn.ahead.right)) == 64
        with pytest.raises(VoteRefused, match="no such clip"):
            clip(session, theirs, turn.ahead.left)
    ballot = Ballot(assignment=turn.ahead.assignment, choice="left", client_token="too early")
    with pytest.raises(VoteRefused, match="not given to you"), database.session() as session:
        submit_and_turn(session, mine, ballot)


def test_asking_again_reserves_nothing_more(database: Database, make_study) -> None:
    make_study(database)
    (token,) = _people(database)
    first, second = _turn(database, token), _turn(database, token)
    assert first.ahead.assignment == second.ahead.assignment
    assert (first.task.remaining, second.task.remaining) == (4, 4)
    assert _taken(database) == (2, 2)


def test_whoever_leaves_gives_both_slots_back_and_finds_them_as_they_were(
    database: Database, make_study
) -> None:
    make_study(database, prompts=2, lease_seconds=60)
    gone, other = _people(database, 2)
    start = now_utc()
    before = _turn(database, gone, start)
    assert _turn(database, other, start + timedelta(seconds=30)).state == "done"
    late = start + timedelta(seconds=61)
    taken = _turn(database, other, late)
    assert {taken.task.prompt, taken.ahead.prompt} == {before.task.prompt, before.ahead.prompt}
    assert _taken(database) == (2, 2)
    assert _turn(database, gone, late).state == "done"
    back = _turn(database, gone, late + timedelta(seconds=61))
    assert before.task.assignment in (back.task.assignment, back.ahead.assignment)
    assert _taken(database) == (2, 2)


def test_time_for_watching_counts_from_when_the_pair_was_put_before_its_person(
    database: Database, make_study
) -> None:
    make_study(database, min_watch=1.0)
    (token,) = _people(database)
    turn = _turn(database, token)
    later = now_utc() + timedelta(minutes=1)
    following = _vote(database, token, turn, now=later)
    with database.session() as session:
        task = session.scalars(sa.select(Assignment).where(Assignment.state == "leased")).one()
        assert task.token == turn.ahead.assignment
        begun = task.created_at
    with pytest.raises(TooSoon):
        _vote(database, token, following, now=begun + SIXTH / 2)
    assert _vote(database, token, following, now=begun + SIXTH).done == 2


def test_undo_leaves_the_pairs_ahead_in_place(database: Database, make_study) -> None:
    make_study(database)
    (token,) = _people(database)
    first = _turn(database, token)
    second = _vote(database, token, first)
    reopened = again(database, token)
    assert (reopened.assignment, reopened.revision) == (first.task.assignment, 1)
    assert (reopened.done, reopened.remaining) == (0, 4)
    changed = {"assignment": reopened.assignment, "revision": 1, "client_token": "second thought"}
    after = _vote(database, token, second, **changed)
    assert (after.task.assignment, after.ahead.assignment) == (
        second.task.assignment,
        second.ahead.assignment,
    )
    assert (after.task.done, after.task.remaining) == (1, 3)


def test_what_is_reserved_of_a_decided_competitor_is_not_shown(database: Database, make_study) -> None:
    plan = {"stopping": "sequential", "assignment": "adaptive", "estimand": "evaluator", "votes_per_pair": 20}
    make_study(database, prompts=3, competitors=("weak", "even"), **plan)
    (token,) = _people(database)
    turn = _turn(database, token)
    with database.session() as session:
        kept = session.scalars(sa.select(Reservation)).one()
        decided = session.get_one(Pair, kept.pair_id).system_b
        session.execute(
            sa.update(StudySystem).where(StudySystem.system_id == decided).values(stopped_at=now_utc())
        )
    following = _vote(database, token, turn)
    assert following.task.assignment != turn.ahead.assignment
    assert _taken(database)[0] == _taken(database)[1]
    with database.reading() as session:
        task = session.scalars(sa.select(Assignment).where(Assignment.state == "leased")).one()
        assert session.get_one(Pair, task.pair_id).system_b != decided
        assert (
            session.get_one(Pair, session.scalars(sa.select(Reservation)).one().pair_id).system_b != decided
        )


def test_many_people_who_load_ahead_fill_every_slot_exactly_once(database: Database, make_study) -> None:
    make_study(database, prompts=12, votes_per_pair=5)

    def work(token: str) -> int:
        turn, done = _turn(database, token), 0
        while turn.task is not None:
            turn, done = _vote(database, token, turn), done + 1
        return done

    people = _people(database, 9)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, people)) == 60
    with database.reading() as session:
        per_pair = Counter(session.scalars(sa.select(Assignment.pair_id)))
        assert session.scalar(sa.select(sa.func.count()).select_from(Reservation)) == 0
    assert set(per_pair.values()) == {5}
    assert _taken(database) == (60, 60)


def test_an_older_program_finds_the_slots_of_reservations_free(database: Database, make_study) -> None:
    make_study(database, votes_per_pair=2)
    _turn(database, _people(database)[0])
    assert _taken(database) == (2, 2)
    database.close()
    migrations.downgrade(database.url, "0004")
    engine = sa.create_engine(database.url)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT SUM(target_votes - slots_left) FROM pairs")) == 1
    engine.dispose()
