"""What people are asked, in which order, what they may take back, and how they are kept out."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from arena import evaluators, schedule
from arena.assignment import again, lease, turn
from arena.columns import now_utc
from arena.database import Database
from arena.errors import LinkRefused, StudyError, TooSoon, VoteRefused
from arena.models import Assignment, AuditEntry, Flag, Pair, Vote
from arena.protocol import Protocol
from arena.report_data import study_report
from arena.studies import enrol, get_study, study_status
from arena.tally import collected_votes, count_human_votes, latest_votes
from arena.voting import Receipt, submit


def _person(database: Database, **options: object) -> str:
    with database.session() as session:
        return enrol(session, "study", **options).token


def _vote(database: Database, token: str, assignment: str, **ballot: object) -> Receipt:
    ballot = {"choice": "left", "client_token": f"{assignment} {ballot.get('revision', 0)}"} | ballot
    return submit(database, token=token, assignment=assignment, **ballot)


def _work(database: Database, token: str) -> Iterator[tuple[str, int]]:
    """Vote on everything there is, yielding the kind of each task and how often its pair was asked."""
    while (task := lease(database, token)) is not None:
        _vote(database, token, task.assignment)
        with database.reading() as session:
            yield session.execute(
                sa.select(Pair.kind, Assignment.repeat_no)
                .join(Assignment, Assignment.pair_id == Pair.id)
                .where(Assignment.token == task.assignment)
            ).one()


def test_training_comes_first_and_checks_are_mixed_in_by_their_shares(database: Database, make_study) -> None:
    make_study(database, prompts=20, training_pairs=2, gold_share=0.2, repeat_share=0.1)
    asked = list(_work(database, _person(database)))
    assert [kind for kind, _ in asked[:2]] == ["training", "training"]
    counts = Counter("repeat" if repeat_no else kind for kind, repeat_no in asked)
    assert counts == {"training": 2, "main": 20, "gold": 4, "repeat": 2}
    with database.reading() as session:
        study = get_study(session, "study")
        votes = collected_votes(session, study)
        status = study_status(session, "study")
        count = count_human_votes(session, study)
        report = study_report(session, "study")
    assert (status.votes, status.checks, status.pairs, status.target_votes) == (20, 8, 20, 20)
    assert count == 20
    assert (report["comparisons"][0]["n"], report["design"]["planned"]["pairs"]) == (20, 20)
    assert any("2 votes are on pairs shown again on purpose" in words for words in report["warnings"])
    assert (status.finished, len(votes)) == (1, 22)  # repetitions are votes too; training and gold are not


def test_remaining_counts_down_to_nothing(database: Database, make_study) -> None:
    make_study(database, prompts=12, training_pairs=1, gold_share=0.25, repeat_share=0.2, quota=8)
    token = _person(database)
    told = []
    while (task := lease(database, token)) is not None:
        told.append((task.done, task.done + task.remaining))
        _vote(database, token, task.assignment)
    assert [done for done, _ in told] == list(range(len(told)))
    assert all(abs(total - len(told)) <= 1 for _, total in told)
    assert told[-1][1] == len(told)


def test_repetitions_exchange_sides_every_other_time_and_take_no_slot(database: Database, make_study) -> None:
    make_study(database, prompts=20, repeat_share=0.2, votes_per_pair=1)
    list(_work(database, _person(database)))
    with database.reading() as session:
        first = {row.pair_id: row for row in session.scalars(sa.select(Assignment).filter_by(repeat_no=0))}
        second = session.scalars(
            sa.select(Assignment).filter_by(repeat_no=1).order_by(Assignment.seq_no)
        ).all()
        assert session.scalars(sa.select(Pair.slots_left)).all() == [0] * 20
    exchanged = [row.a_on_left != first[row.pair_id].a_on_left for row in second]
    assert exchanged == [number % 2 == 0 for number in range(len(second))]
    assert all(row.seq_no - first[row.pair_id].seq_no > schedule.REPEAT_AFTER for row in second)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.05])
def test_shares_are_exact_in_every_block(share: float) -> None:
    size = round(1 / share)
    due = [schedule.due(share, main, "seed", "person") for main in range(10 * size + 1)]
    assert [due[number * size] for number in range(11)] == list(range(11))
    assert due == sorted(due)
    places = {tuple(schedule.due(share, n, "seed", person) for n in range(3 * size)) for person in range(20)}
    assert len(places) > 1


def test_training_tells_whether_the_choice_was_right(database: Database, make_study) -> None:
    make_study(database, prompts=6, training_pairs=4)
    token = _person(database)
    for _ in range(4):
        task = lease(database, token)
        assert task is not None
        assert task.training
        receipt = _vote(database, token, task.assignment)
        assert receipt.expected in ("left", "right")
        assert receipt.correct == (receipt.expected == "left")
        assert again(database, token) is None
    task = lease(database, token)
    assert task is not None
    assert not task.training
    assert _vote(database, token, task.assignment).correct is None


def test_the_last_vote_may_be_given_again_and_both_stay(database: Database, make_study) -> None:
    study = make_study(database, prompts=3)
    token = _person(database)
    first = lease(database, token)
    assert first is not None
    _vote(database, token, first.assignment)
    second = lease(database, token)
    assert second is not None
    assert second.can_undo
    shown = again(database, token)
    assert shown is not None
    assert (shown.assignment, shown.left, shown.revision) == (first.assignment, first.left, 1)
    assert _vote(database, token, first.assignment, choice="right", revision=1).new
    assert not _vote(database, token, first.assignment, choice="same", revision=1).new
    assert not _vote(database, token, first.assignment).new  # the first one, sent once more
    with database.reading() as session:
        stored = session.execute(sa.select(Vote.rev, Vote.raw_choice).order_by(Vote.id)).all()
        assert stored == [(0, "left"), (1, "right")]
        assert [vote.raw_choice for vote in session.scalars(latest_votes(study.id))] == ["right"]
    _vote(database, token, second.assignment)
    with pytest.raises(VoteRefused, match="only your last vote"):
        _vote(database, token, first.assignment, choice="same", revision=2)
    assert again(database, token, now=now_utc() + timedelta(hours=1)) is None


def test_a_protocol_may_forbid_second_thoughts(database: Database, make_study) -> None:
    make_study(database, undo=False)
    token = _person(database)
    task = lease(database, token)
    assert task is not None
    _vote(database, token, task.assignment)
    assert again(database, token) is None
    with pytest.raises(VoteRefused, match="only your last vote"):
        _vote(database, token, task.assignment, revision=1)


def test_votes_on_clips_that_cannot_have_been_watched_are_refused(database: Database, make_study) -> None:
    make_study(database, min_watch=1.0)  # the clips last 600 ms
    token = _person(database)
    task = lease(database, token)
    assert task is not None
    later = now_utc() + timedelta(seconds=2)
    watched = {"watched_left_ms": 600, "watched_right_ms": 600}
    for wrong in ({}, watched | {"watched_right_ms": 500}):
        with pytest.raises(TooSoon):
            _vote(database, token, task.assignment, now=later, **wrong)
    with database.reading() as session:
        given = session.scalars(sa.select(Assignment.created_at)).one()
    with pytest.raises(TooSoon):
        _vote(database, token, task.assignment, now=given + timedelta(milliseconds=100), **watched)
    assert _vote(database, token, task.assignment, now=later, **watched).new


def test_further_criteria_are_stored_with_the_overall_vote(database: Database, make_study) -> None:
    make_study(database, criteria=("overall", "frame quality", "structure errors"))
    token = _person(database)
    task = lease(database, token)
    assert task is not None
    _vote(database, token, task.assignment, details={"frame quality": "right"})
    other = lease(database, token)
    assert other is not None
    with pytest.raises(VoteRefused, match="unknown criterion 'smell'"):
        _vote(database, token, other.assignment, details={"smell": "right"})
    with database.reading() as session:
        rows = session.execute(sa.select(Vote.criterion, Vote.raw_choice).order_by(Vote.id)).all()
    assert rows == [("overall", "left"), ("frame quality", "right")]


def test_nothing_is_asked_before_consent(database: Database, make_study) -> None:
    make_study(database, consent="Do you agree?")
    token = _person(database)
    assert turn(database, token).state == "consent"
    with pytest.raises(VoteRefused, match="asks for consent"):
        lease(database, token)
    with database.session() as session:
        evaluators.consent(session, token)
    assert turn(database, token).state == "vote"


def test_breaks_are_offered_between_votes(database: Database, make_study) -> None:
    make_study(database, prompts=6, break_every=2)
    token = _person(database)
    offered = []
    while (task := lease(database, token)) is not None:
        offered.append(task.rest)
        _vote(database, token, task.assignment)
    assert offered == [False, False, True, False, True, False]


def test_a_revoked_link_gives_nothing_and_its_votes_stay(database: Database, make_study) -> None:
    study = make_study(database)
    token = _person(database, pseudonym="p1", cohort="experts")
    task = lease(database, token)
    assert task is not None
    _vote(database, token, task.assignment)
    with database.session() as session:
        evaluators.revoke(session, get_study(session, "study"), "p1", by="organiser")
    with pytest.raises(LinkRefused):
        lease(database, token)
    with database.reading() as session:
        assert [vote.excluded for vote in collected_votes(session, study)] == [False]


def test_an_exclusion_is_a_reasoned_record_and_can_be_taken_back(database: Database, make_study) -> None:
    study = make_study(database)
    token = _person(database, pseudonym="p1")
    task = lease(database, token)
    assert task is not None
    _vote(database, token, task.assignment)
    with database.session() as session:
        with pytest.raises(StudyError, match="needs a reason"):
            evaluators.exclude(session, study, "p1", reason=" ", by="organiser")
        with pytest.raises(StudyError, match="no evaluator 'p2'"):
            evaluators.exclude(session, study, "p2", reason="x", by="organiser")
        reason = "failed three of four gold pairs"
        evaluators.exclude(
            session, study, "p1", reason=reason, by="organiser", rule="gold pass rate", value=0.25
        )
        assert [vote.excluded for vote in collected_votes(session, study)] == [True]
    with database.session() as session:
        evaluators.readmit(session, study, "p1", reason="the gold pairs were broken", by="organiser")
        assert [vote.excluded for vote in collected_votes(session, study)] == [False]
        flags = session.execute(sa.select(Flag.rule, Flag.value, Flag.reason).order_by(Flag.id)).all()
        assert flags[0] == ("gold pass rate", 0.25, reason)
        assert flags[1][0] == "readmission"
        actions = session.scalars(sa.select(AuditEntry.action).order_by(AuditEntry.seq)).all()
        assert actions[-2:] == ["evaluator excluded", "evaluator readmitted"]
        assert session.scalar(sa.select(sa.func.count(Vote.id))) == 1


def test_gold_needs_enough_videos() -> None:
    with pytest.raises(StudyError, match="gold_share must lie between 0"):
        Protocol(candidate="a", competitors=("b",), gold_share=0.6)
