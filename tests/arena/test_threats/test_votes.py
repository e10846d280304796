"""Threats to votes: two tabs, replays, clips nobody watched, clocks, many at once, floods."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa

from arena.assignment import lease
from arena.columns import now_utc
from arena.database import Database
from arena.errors import VoteRefused
from arena.models import Assignment, Pair, Vote
from arena.ui.limits import TokenBuckets
from arena.ui.security import SESSION_BURST
from arena.voting import submit

JSON = {"X-Arena": "1"}


def test_threat_05_two_tabs_and_replays_store_one_vote(
    client, database: Database, people, count, ballot
) -> None:
    (token,) = people(1)
    tabs = [client(token), client(token)]
    tasks = [tab.ask() for tab in tabs]
    assert tasks[0]["assignment"] == tasks[1]["assignment"]
    for number in range(6):
        answer = tabs[number % 2].vote(ballot(tasks[0], f"click-000{number}"))
        assert answer.json()["stored"]["new"] is (number == 0)
    assert count(Vote) == 1


def test_threat_06_votes_on_clips_nobody_watched_are_refused(
    database: Database, make_study, people, count
) -> None:
    make_study(database, min_watch=1.0)
    (token,) = people(1)
    task = lease(database, token)
    late = now_utc() + timedelta(minutes=1)
    for watched in ((0, 0), (600, 0), (0, 600), (500, 500)):
        times = dict(zip(("watched_left_ms", "watched_right_ms"), watched, strict=True))
        with pytest.raises(VoteRefused, match="must be watched"):
            submit(
                database,
                token=token,
                assignment=task.assignment,
                choice="left",
                client_token="c",
                now=late,
                **times,
            )
    assert count(Vote) == 0


def test_threat_08_a_clock_set_back_neither_loses_nor_reorders_votes(
    database: Database, make_study, people
) -> None:
    make_study(database, min_watch=1.0)
    (token,) = people(1)
    for number, jump in enumerate((timedelta(hours=2), -timedelta(hours=2), timedelta(days=400))):
        task = lease(database, token, now=now_utc() + jump)
        assert task is not None
        moment = now_utc() + jump + timedelta(seconds=5)
        times = {"rt_ms": 900, "watched_left_ms": 700, "watched_right_ms": 700}
        submit(
            database,
            token=token,
            assignment=task.assignment,
            choice="left",
            client_token=f"{number}",
            now=moment,
            **times,
        )
    with database.reading() as session:
        votes = session.scalars(sa.select(Vote).order_by(Vote.id)).all()
        assert [vote.client_token for vote in votes] == ["0", "1", "2"]
        assert all(vote.rt_ms == 900 for vote in votes)


def test_threat_09_many_at_once_are_served_evenly(database: Database, make_study, people) -> None:
    make_study(database, prompts=16, votes_per_pair=4)
    with ThreadPoolExecutor(12) as pool:
        tasks = list(pool.map(lambda token: lease(database, token), people(40)))
    assert all(task is not None for task in tasks)
    with database.reading() as session:
        per_pair = Counter(session.scalars(sa.select(Assignment.pair_id)))
        left = session.execute(sa.select(Pair.id, Pair.slots_left)).all()
    assert max(per_pair.values()) - min(per_pair.values()) <= 1
    assert {pair: 4 - count for pair, count in per_pair.items()} == dict(map(tuple, left))


def test_threat_22_a_flood_is_answered_with_429_and_leaves_others_alone(
    client, database: Database, monkeypatch: pytest.MonkeyPatch, people
) -> None:
    monkeypatch.setattr("arena.ui.security.SESSION_RATE", 0.001)  # however slow this machine is
    noisy, calm = (client(token) for token in people(2))
    answers = [noisy.post("/api/task", json={}, headers=JSON) for _ in range(int(SESSION_BURST) + 10)]
    assert Counter(answer.status_code for answer in answers) == {200: SESSION_BURST, 429: 10}
    assert answers[-1].headers["retry-after"] == "1"
    assert calm.post("/api/task", json={}, headers=JSON).status_code == 200


def test_threat_22_a_bucket_fills_again_and_forgets() -> None:
    now = [0.0]
    buckets = TokenBuckets(rate=2, burst=3, clock=lambda: now[0])
    assert [buckets.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.wait("b") == 0
    now[0] = 0.5
    assert buckets.wait("a") == 0
    assert buckets.wait("a") == pytest.approx(0.5)
    now[0] = 100.0
    for number in range(20_001):
        buckets.wait(str(number))
    assert len(buckets._levels) <= 20_000
