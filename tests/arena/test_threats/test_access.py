"""Threats by people: forged links, other people's tasks, other sites, markup, and answers that tell too much."""

import json
import logging
import secrets
import socket
from datetime import timedelta

import pytest
import sqlalchemy as sa

from arena.assignment import clip, lease
from arena.columns import now_utc
from arena.database import Database
from arena.errors import LinkRefused, VoteRefused
from arena.evaluators import find_enrolment
from arena.exports import FORMS, export
from arena.models import Assignment, Enrolment, Media, Video, Vote
from arena.protocol import Protocol
from arena.studies import enrol, get_study
from arena.ui.results import comparisons_html
from arena.ui.security import ADDRESS_BURST, SECURITY_HEADERS
from arena.voting import submit

SECRET = "organiser-secret-for-tests"
JSON = {"X-Arena": "1"}
PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "javascript:alert(1)",
    "{{7*7}}",
    "</style><script>alert(1)</script>",
)


def test_threat_10_sizes_and_headers_do_not_tell_systems_apart(database: Database, make_clip) -> None:
    from arena.catalogue import add_video, ensure_prompt, ensure_system
    from arena.models import Presentation
    from arena.studies import create_study, open_study

    with database.session() as session:
        for system, frames in (("plain", 3), ("busy", 12)):
            for seed in range(2):
                path = make_clip(f"{system}{seed}.mp4", frames=frames, seed=seed)
                owner = ensure_system(session, system)
                add_video(session, owner, ensure_prompt(session, f"prompt {seed}"), path)
        create_study(session, "study", Protocol(candidate="plain", competitors=("busy",)))
    open_study(database, "study")
    with database.reading() as session:
        rows = session.execute(
            sa.select(Video.prompt_id, Media.byte_size)
            .join(Presentation, Presentation.video_id == Video.id)
            .join(Media, Media.sha256 == Presentation.media_sha256)
        ).all()
        padded = session.scalars(sa.select(Presentation.changes)).all()
    assert len({size for prompt, size in rows if prompt == rows[0].prompt_id}) == 1
    assert len(rows) == len(set(rows)) * 2
    assert all(changes["padding_bytes"] >= 8 for changes in padded)


def test_threat_10_both_clips_of_a_task_are_answered_alike(client, people, ballot) -> None:
    browser = client(people(1)[0])
    for number in range(4):
        task = browser.ask()
        left, right = (browser.get(task[side]) for side in ("left", "right"))
        assert list(left.headers.items()) == list(right.headers.items())
        assert {len(task[side]) for side in ("left", "right", "assignment")} == {26, 26 + len("/clips/")}
        browser.vote(ballot(task, f"click-000{number}"))


def test_threat_11_ten_thousand_forged_links_open_nothing(database: Database, make_study, people) -> None:
    make_study(database)
    tokens = people(8)
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    flipped = {t[:at] + letter + t[at + 1 :] for t in tokens for at in range(26) for letter in alphabet}
    shortened = {token[:at] for token in tokens for at in range(26)} | {token.upper() for token in tokens}
    drawn = {secrets.token_urlsafe(16) for _ in range(4_000)}
    forged = (flipped | shortened | drawn) - set(tokens)
    accepted = 0
    with database.reading() as session:
        for guess in forged:
            try:
                find_enrolment(session, guess)
                accepted += 1
            except LinkRefused:
                pass
        assert {find_enrolment(session, token).state for token in tokens} == {"active"}
    assert len(forged) >= 10_000
    assert accepted == 0


def test_threat_11_forged_links_get_no_cookie(client, people) -> None:
    (token,) = people(1)
    browser = client()
    guesses = [secrets.token_urlsafe(16) for _ in range(200)] + [token[:-1], token.upper(), f"{token}a"]
    assert len(guesses) < ADDRESS_BURST
    answers = [browser.get(f"/join/{guess}") for guess in guesses]
    assert {answer.status_code for answer in answers} == {403}
    assert not any("set-cookie" in answer.headers for answer in answers)
    assert browser.get(f"/join/{token}").status_code == 303
    assert client(guesses[0]).post("/api/task", json={}, headers=JSON).json()["state"] == "sign-in"


def test_threat_11_expired_revoked_and_foreign_links_open_nothing(
    database: Database, make_study, count
) -> None:
    make_study(database)
    with database.session() as session:
        lapsed = enrol(session, "study", expires_at=now_utc() - timedelta(seconds=1)).token
        revoked = enrol(session, "study", pseudonym="gone").token
        session.execute(sa.update(Enrolment).where(Enrolment.expires_at.is_(None)).values(state="revoked"))
    for token in (lapsed, revoked):
        with pytest.raises(LinkRefused):
            lease(database, token)
    assert count(Assignment) == 0


def test_threat_12_nobody_votes_on_or_sees_what_is_another_persons(
    client, database: Database, people, count, ballot
) -> None:
    browsers = [client(token) for token in people(2)]
    tasks: list[list[dict]] = [[], []]
    for number in range(4):  # every task of both, open ones and old ones, against the other person
        for person, browser in enumerate(browsers):
            tasks[person].append(browser.ask())
        for own, other in ((0, 1), (1, 0)):
            for task in tasks[other]:
                vote = ballot(task, f"click-{own}{number}{secrets.token_hex(4)}")
                assert browsers[own].vote(vote).status_code == 409
        assert count(Vote) == 2 * number
        for person, browser in enumerate(browsers):
            assert browser.vote(ballot(tasks[person][-1], f"click-{person}-{number}")).status_code == 200
    for own, other in ((0, 1), (1, 0)):
        for address in (task[side] for task in tasks[other] for side in ("left", "right")):
            assert browsers[own].get(address).status_code == 404
            assert client().get(address).status_code == 404
    assert count(Vote) == 8


def test_threat_12_a_task_of_one_study_is_worth_nothing_in_another(
    database: Database, make_study, people, count
) -> None:
    make_study(database)
    with database.session() as session:
        from arena.studies import create_study

        plan = Protocol(candidate="ours", competitors=("rival",), seed=3, min_watch=0.0)
        create_study(session, "other", plan).state = "open"
    here, there = people(1)[0], people(1, "other")[0]
    tasks = [lease(database, here), lease(database, there)]
    for token, task in ((here, tasks[1]), (there, tasks[0])):
        with pytest.raises(VoteRefused, match="not given to you"):
            submit(database, token=token, assignment=task.assignment, choice="left", client_token="c")
        with database.reading() as session, pytest.raises(VoteRefused, match="no such clip"):
            clip(session, token, task.left)
    assert count(Vote) == 0


def test_threat_13_other_sites_cannot_vote_for_somebody(
    client, database: Database, people, count, ballot
) -> None:
    browser = client(people(1)[0])
    vote = ballot(browser.ask())
    text = json.dumps(vote)
    attempts = [
        browser.post("/api/vote", data=vote, headers=JSON),
        browser.post("/api/vote", content=text, headers={"Content-Type": "text/plain"}),
        browser.post("/api/vote", content=text, headers={"Content-Type": "application/json"}),
        browser.post("/api/vote", json=vote, headers=JSON | {"Origin": "https://elsewhere.example"}),
        browser.post("/api/vote", json=vote, headers=JSON | {"Origin": "null"}),
        browser.get("/api/vote", params={"vote": text}),
    ]
    assert [answer.status_code for answer in attempts] == [415, 415, 403, 403, 403, 404]
    assert count(Vote) == 0


@pytest.mark.parametrize("payload", PAYLOADS)
def test_threat_15_no_text_becomes_markup(client, database: Database, payload: str, people, ballot) -> None:
    row = {
        "candidate": payload,
        "competitor": payload,
        "criterion": payload,
        "good": 1,
        "same": 1,
        "bad": 1,
        "ratio": 1.0,
        "interval": [0.5, 2.0],
        "level": 0.95,
        "interval_method": payload,
        "outcome": payload,
        "notes": [payload],
    }
    shown = comparisons_html({"comparisons": [row]})
    assert "<script" not in shown
    assert "<svg" not in shown
    assert "<img" not in shown
    browser = client(people(1)[0])
    vote = ballot(browser.ask(), comment=payload)
    assert browser.vote(vote).status_code == 200
    for path in (f"/join/{payload}", f"/organiser/{payload}", f"/api/export?form={payload}"):
        answer = browser.get(path)
        assert payload not in answer.text or "json" in answer.headers["content-type"]
    with database.reading() as session:
        assert session.scalars(sa.select(Vote.comment)).one() == payload


def test_threat_16_every_answer_forbids_framing_and_sniffing(
    client, database: Database, people, ballot
) -> None:
    browser = client(people(1)[0])
    task = browser.ask()
    answers = [
        browser.get(path)
        for path in ("/join/x", "/organiser/x", "/api/none", "/api/export", "/clips/x", task["left"])
    ]
    answers.append(browser.vote(ballot(task)))
    answers.append(browser.post("/api/vote", headers={"Content-Length": str(4 * 2**30)}))
    for answer in answers:
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS


def test_threat_29_tokens_are_in_no_log_and_no_export(
    client, database: Database, caplog: pytest.LogCaptureFixture, people, ballot
) -> None:
    caplog.set_level(logging.DEBUG)
    (token,) = people(1)
    browser = client(token)
    browser.get(f"/join/{token}")
    task = browser.ask()
    browser.vote(ballot(task))
    browser.vote(ballot(task, choice="both"))
    browser.vote(ballot(task, "x" * 9, assignment="a" * 26))
    with database.reading() as session:
        written = b"".join(export(session, "study", form) for form in FORMS)
        assert get_study(session, "study").state == "open"
    said = " ".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpx"))
    for secret in (token, SECRET):
        assert secret not in said
        assert secret.encode() not in written
    assert socket.gethostname().encode() not in written


def test_threat_30_an_unforeseen_error_tells_nothing(database: Database) -> None:
    from arena.ui.server import _unforeseen

    answer = _unforeseen(None, RuntimeError("/root/secret/path"))
    assert answer.status_code == 500
    assert b"secret" not in answer.body
