"""The arena's routes: joining, one vote per task, clips by range, and nothing that tells who made what."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from arena import evaluators, studies
from arena.columns import now_utc
from arena.models import Enrolment, Media, RegistrationCode, Study, Video, Vote
from arena.ui.limits import TokenBuckets
from arena.ui.routes import MAX_BODY_BYTES, build_routes
from arena.ui.security import SECURITY_HEADERS, Guard, hosts_for
from arena.ui.service import Service

JSON = {"X-Arena": "1"}
SECRET = "organiser-secret-for-tests"
Open = Callable[..., TestClient]


@pytest.fixture
def open_client(setting) -> Iterator[Open]:
    clients = []

    def make(token: str | None = None, **changes) -> TestClient:
        service = Service(
            database=setting.database, study="zephyrine-against-quagmire", organiser_token=SECRET
        )
        service = replace(service, **changes)
        guard = Middleware(Guard, allowed_hosts=hosts_for("127.0.0.1", service.public_url))
        app = Starlette(routes=build_routes(service), middleware=[guard])
        client = TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)
        clients.append(client)
        if token is not None:
            assert client.get(f"/join/{token}").status_code == 303
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def voter(setting, open_client) -> TestClient:
    return open_client(setting.invite())


def ask(client: TestClient) -> dict:
    answer = client.post("/api/task", json={}, headers=JSON)
    assert answer.status_code == 200
    return answer.json()


def ballot(task: dict, choice: str = "left", client_token: str = "click-0001") -> dict:
    return {
        "assignment": task["assignment"],
        "choice": choice,
        "client_token": client_token,
        "rt_ms": 2500,
        "watched_left_ms": 1200,
        "watched_right_ms": 1300,
    }


def count_votes(setting) -> int:
    with setting.database.reading() as session:
        return session.scalar(select(func.count()).select_from(Vote))


def test_link_becomes_a_cookie_no_script_can_read(setting, open_client) -> None:
    answer = open_client().get(f"/join/{setting.invite()}")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


def test_cookies_are_secure_behind_https(setting, open_client) -> None:
    client = open_client(public_url="https://arena.example.org")
    assert "secure" in client.get(f"/join/{setting.invite()}").headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "change", [lambda t: t[:-1] + ("a" if t[-1] != "a" else "b"), lambda t: t[:10], str.upper]
)
def test_forged_link_is_refused(setting, open_client, change) -> None:
    answer = open_client().get(f"/join/{change(setting.invite())}")
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_revoked_link_is_refused(setting, open_client) -> None:
    token = setting.invite()
    with setting.database.session() as session:
        session.execute(Enrolment.__table__.update().values(state="revoked"))
    assert open_client().get(f"/join/{token}").status_code == 403


def test_stranger_is_asked_to_sign_in_and_leases_nothing(setting, open_client) -> None:
    assert ask(open_client()) == {"state": "sign-in", "registration": "invited"}


def test_task_holds_only_opaque_names(voter) -> None:
    standing = ask(voter)
    assert standing["state"] == "vote"
    task = standing["task"]
    plain = {"pace", "done", "remaining", "training", "revision", "rest", "can_undo"}
    assert set(task) == set(standing["ahead"]) == {"assignment", "prompt", "left", "right"} | plain
    assert task["pace"] == 1 / 16
    assert re.fullmatch(r"[a-z2-7]{26}", task["assignment"])
    assert re.fullmatch(r"/clips/[a-z2-7]{26}", task["left"])
    assert (task["done"], task["done"] + task["remaining"]) == (0, 4)


def test_asking_again_gives_the_same_task(voter) -> None:
    assert ask(voter)["task"] == ask(voter)["task"]


def test_vote_is_answered_with_the_next_pair(setting, voter) -> None:
    standing = ask(voter)
    first, ahead = standing["task"], standing["ahead"]
    answer = voter.post("/api/vote", json=ballot(first, "right"), headers=JSON)
    assert answer.status_code == 200
    body = answer.json()
    assert body["stored"] == {"assignment": first["assignment"], "choice": "right", "new": True}
    assert body["task"]["assignment"] == ahead["assignment"] != first["assignment"]
    assert (body["task"]["left"], body["task"]["prompt"]) == (ahead["left"], ahead["prompt"])
    assert body["task"]["done"] == 1
    with setting.database.reading() as session:
        vote = session.scalars(select(Vote)).one()
    assert (vote.raw_choice, vote.rt_ms, vote.watched_left_ms, vote.watched_right_ms) == (
        "right",
        2500,
        1200,
        1300,
    )


def test_vote_sent_twice_is_stored_once(setting, voter) -> None:
    task = ask(voter)["task"]
    first, again = (voter.post("/api/vote", json=ballot(task), headers=JSON) for _ in range(2))
    other = voter.post("/api/vote", json=ballot(task, "right", "click-0002"), headers=JSON)
    assert [answer.status_code for answer in (first, again, other)] == [200, 200, 200]
    assert [answer.json()["stored"]["new"] for answer in (first, again, other)] == [True, False, False]
    assert other.json()["stored"]["choice"] == "left"
    assert count_votes(setting) == 1


def test_all_pairs_are_voted_once_then_done(setting, voter) -> None:
    standing = ask(voter)
    for number in range(4):
        assert standing["state"] == "vote"
        vote = ballot(standing["task"], "same", f"click-100{number}")
        standing = voter.post("/api/vote", json=vote, headers=JSON).json()
    assert standing["state"] == "done"
    assert count_votes(setting) == 4


def test_the_last_vote_can_be_given_again(setting, voter) -> None:
    first = ask(voter)["task"]
    voter.post("/api/vote", json=ballot(first), headers=JSON)
    shown = voter.post("/api/undo", json={}, headers=JSON).json()["task"]
    assert (shown["assignment"], shown["revision"], shown["done"]) == (first["assignment"], 1, 0)
    vote = ballot(first, "right", "click-0002") | {"revision": 1}
    assert voter.post("/api/vote", json=vote, headers=JSON).json()["stored"]["new"]
    assert count_votes(setting) == 2
    voter.post("/api/vote", json=ballot(ask(voter)["task"], "same", "click-0003"), headers=JSON)
    assert voter.post("/api/vote", json=vote | {"revision": 2}, headers=JSON).status_code == 409


def test_a_voter_is_told_the_own_link_and_nobody_else_is(setting, open_client) -> None:
    token = setting.invite()
    answer = open_client(token).post("/api/link", json={}, headers=JSON)
    assert answer.json() == {"link": f"http://127.0.0.1:8501/join/{token}"}
    assert open_client().post("/api/link", json={}, headers=JSON).status_code == 401


def test_foreign_task_is_refused(setting, voter, open_client) -> None:
    task = ask(voter)["task"]
    other = open_client(setting.invite())
    ask(other)
    answer = other.post("/api/vote", json=ballot(task), headers=JSON)
    assert answer.status_code == 409
    assert count_votes(setting) == 0


def test_vote_without_a_session_is_kept_for_its_owner(setting, voter, open_client) -> None:
    task = ask(voter)["task"]
    answer = open_client().post("/api/vote", json=ballot(task), headers=JSON)
    assert answer.status_code == 401
    assert count_votes(setting) == 0


def test_closed_study_takes_no_vote(setting, voter) -> None:
    task = ask(voter)["task"]
    studies.close_study(setting.database, "zephyrine-against-quagmire")
    assert voter.post("/api/vote", json=ballot(task), headers=JSON).status_code == 409
    assert ask(voter)["state"] == "stopped"
    assert count_votes(setting) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"choice": "both"},
        {"rt_ms": -1},
        {"rt_ms": False},
        {"rt_ms": "5"},
        {"assignment": "../../etc/passwd"},
        {"client_token": ""},
        {"system": "x"},
        {"watched_left_ms": 2**40},
    ],
)
def test_malformed_vote_is_refused_in_one_sentence(setting, voter, change) -> None:
    answer = voter.post("/api/vote", json=ballot(ask(voter)["task"]) | change, headers=JSON)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert count_votes(setting) == 0


def test_form_post_missing_header_and_foreign_origin_are_refused(setting, voter) -> None:
    vote = ballot(ask(voter)["task"])
    refusals = [
        voter.post("/api/vote", data=vote, headers=JSON),
        voter.post("/api/vote", json=vote, headers={"Content-Type": "text/plain", **JSON}),
        voter.post("/api/vote", json=vote),
        voter.post("/api/vote", json=vote, headers=JSON | {"Origin": "http://elsewhere.example"}),
        voter.post("/api/vote", json=vote, headers=JSON | {"Host": "elsewhere.example"}),
        voter.post(
            "/api/vote",
            content=b"{" * (MAX_BODY_BYTES + 1),
            headers=JSON | {"Content-Type": "application/json"},
        ),
    ]
    assert [answer.status_code for answer in refusals] == [415, 415, 403, 403, 400, 413]
    assert count_votes(setting) == 0


def test_clip_comes_whole_and_by_range(voter) -> None:
    address = ask(voter)["task"]["left"]
    whole = voter.get(address)
    assert whole.status_code == 200
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.content[4:8] == b"ftyp"
    size = len(whole.content)
    cases = {
        "bytes=0-": (0, size),
        "bytes=10-99": (10, 100),
        "bytes=-50": (size - 50, size),
        f"bytes=5-{size * 2}": (5, size),
    }
    for asked, (start, stop) in cases.items():
        part = voter.get(address, headers={"Range": asked})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert part.content == whole.content[start:stop]
    for asked in (f"bytes={size}-", "bytes=9-3", "bytes=-0"):
        assert voter.get(address, headers={"Range": asked}).status_code == 416
    for unknown in ("lines=1-2", "bytes=1-2,4-5", "bytes=-"):
        assert voter.get(address, headers={"Range": unknown}).content == whole.content


def test_clip_of_another_voter_is_not_found(setting, voter, open_client) -> None:
    address = ask(voter)["task"]["left"]
    assert open_client(setting.invite()).get(address).status_code == 404
    assert open_client().get(address).status_code == 404


def test_clip_names_cannot_leave_the_study(setting, voter) -> None:
    with setting.database.reading() as session:
        names = [*session.scalars(select(Media.sha256)), *map(str, session.scalars(select(Video.id)))]
    for name in [*names, "..%2f..%2fetc%2fpasswd", "a" * 26]:
        assert voter.get(f"/clips/{name}").status_code == 404


def test_clip_headers_tell_neither_age_nor_identity(voter) -> None:
    headers = voter.get(ask(voter)["task"]["left"]).headers
    assert "last-modified" not in headers
    assert "etag" not in headers
    assert headers["cache-control"].startswith("private")


def test_every_answer_carries_the_security_headers(voter) -> None:
    for answer in (
        voter.get("/join/x"),
        voter.get("/clips/x"),
        voter.post("/api/task"),
        voter.get("/api/none"),
    ):
        assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    for path in ("/_stcore/metrics", "/_stcore/upload_file/x", "/_stcore/agent/x"):
        assert voter.get(path).status_code == 404


def test_nothing_sent_to_a_voter_names_a_system_or_a_file(setting, voter, clips) -> None:
    standing, sent = ask(voter), []
    for number in range(4):
        task = standing["task"]
        sent += [voter.get(task[side]) for side in ("left", "right")]
        answer = voter.post("/api/vote", json=ballot(task, "left", f"click-200{number}"), headers=JSON)
        sent.append(answer)
        standing = answer.json()
    sent += [voter.get("/join/forged-token-000000"), voter.post("/api/vote", json={}, headers=JSON)]
    with setting.database.reading() as session:
        hashes = list(session.scalars(select(Media.sha256)))
    secrets = ["zephyrine", "quagmire", "x264", "lavf", "lavc", *hashes]
    for answer in sent:
        spoken = f"{answer.url} {dict(answer.headers)}".encode() + answer.content
        assert not [secret for secret in secrets if secret.encode() in spoken.lower()]


def test_open_registration_enrols_a_new_voter_once(setting, open_client) -> None:
    client = open_client(registration="open")
    assert client.post("/api/register", json={}, headers=JSON).status_code == 200
    assert ask(client)["state"] == "vote"
    voter = ask(client)["voter"]
    assert client.post("/api/register", json={}, headers=JSON).status_code == 200
    assert ask(client)["voter"] == voter


def test_registration_by_code_and_by_invitation_only(setting, open_client) -> None:
    coded = open_client(registration="code", join_code="blue harbour")
    assert coded.post("/api/register", json={"code": "guess"}, headers=JSON).status_code == 403
    assert coded.post("/api/register", json={"code": " blue harbour "}, headers=JSON).status_code == 200
    invited = open_client()
    assert invited.post("/api/register", json={"code": ""}, headers=JSON).status_code == 403


@pytest.fixture
def make_code(setting, make_study) -> Callable[..., str]:
    """Make a code for another open study than the served one; it asks for consent."""
    make_study(setting.database, "other", consent="I take part of my own will.")

    def make(code: str = "red lantern", places: int = 5, slug: str = "other", **options: object) -> str:
        with setting.database.session() as session:
            study = studies.get_study(session, slug)
            evaluators.add_code(session, study, code, places=places, by="test", **options)
        return code

    return make


def places_left(setting) -> list[int]:
    with setting.database.reading() as session:
        return list(session.scalars(select(RegistrationCode.places_left).order_by(RegistrationCode.id)))


def test_the_form_for_a_code_needs_no_script_and_names_its_field(open_client) -> None:
    answer = open_client().get("/join")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "<html lang=en>" in answer.text
    assert re.search(r"<label>[^<]+<input name=code required", answer.text)
    assert "<form method=post action=/join>" in answer.text
    assert "<script" not in answer.text
    # Else browsers, under the header's no-referrer, send the form with "Origin: null", which is refused.
    assert "<meta name=referrer content=same-origin>" in answer.text


def test_a_code_leads_to_the_consent_of_its_own_study(setting, open_client, make_code) -> None:
    make_code(cohort="crowd")
    client = open_client()
    answer = client.post("/join", data={"code": " Red  LANTERN "}, headers={"Origin": "http://127.0.0.1"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert ask(client)["state"] == "consent"
    with setting.database.reading() as session:
        joined = session.scalars(select(Enrolment)).one()
        assert (joined.study.slug, joined.cohort) == ("other", "crowd")
    assert places_left(setting) == [4]


def test_wrong_expired_and_used_up_codes_get_one_plain_page(setting, open_client, make_code) -> None:
    make_code("used up code", places=1)
    assert open_client().post("/join", data={"code": "used up code"}).status_code == 303
    make_code("expired code", expires_at=now_utc() + timedelta(days=1))
    with setting.database.session() as session:
        session.execute(
            update(RegistrationCode)
            .values(expires_at=now_utc() - timedelta(days=1))
            .where(RegistrationCode.expires_at.is_not(None))
        )
    refusals = [
        open_client(registration=registration, **code).post("/join", data={"code": given})
        for given in ("used up code", "expired code", "<b>never made", "x" * 2000)
        for registration, code in (("invited", {}), ("open", {}), ("code", {"join_code": "blue harbour"}))
    ]
    assert {answer.status_code for answer in refusals} == {403}
    assert len({answer.text for answer in refusals}) == 1
    assert "<h1>This code does not work</h1>" in refusals[0].text
    assert not [answer for answer in refusals if "set-cookie" in answer.headers]
    assert places_left(setting) == [0, 5]


def test_the_same_code_again_takes_no_second_place_but_another_study_does(
    setting, open_client, make_code
) -> None:
    first, second = make_code(), make_code("blue lantern", slug="zephyrine-against-quagmire")
    client = open_client()
    client.post("/join", data={"code": first})
    voter = ask(client)["voter"]
    again = client.post("/join", data={"code": first})
    assert (again.status_code, "set-cookie" in again.headers) == (303, False)
    assert (ask(client)["voter"], places_left(setting)) == (voter, [4, 5])
    client.post("/join", data={"code": second})
    assert ask(client)["state"] == "vote"
    assert (ask(client)["voter"] != voter, places_left(setting)) == (True, [4, 4])


def test_both_kinds_of_code_work_on_both_pages(setting, open_client, make_code) -> None:
    code = make_code()
    client = open_client(registration="code", join_code="blue harbour")
    assert client.post("/api/register", json={"code": code}, headers=JSON).status_code == 200
    assert ask(client)["state"] == "consent"
    other = open_client(registration="code", join_code="blue harbour")
    assert other.post("/join", data={"code": "blue harbour"}).status_code == 303
    assert ask(other)["state"] == "vote"


def test_a_code_of_a_study_that_takes_nobody_is_told_so(setting, open_client) -> None:
    with setting.database.session() as session:
        session.execute(update(Study).values(state="closed"))
    client = open_client(registration="code", join_code="blue harbour")
    answer = client.post("/join", data={"code": "blue harbour"})
    assert answer.status_code == 409
    assert "takes no new participants" in answer.text


def test_codes_from_other_sites_and_in_other_forms_are_refused(setting, open_client, make_code) -> None:
    code, client = make_code(), open_client()
    refusals = [
        client.post("/join", data={"code": code}, headers={"Origin": "http://elsewhere.example"}),
        client.post("/join", data={"code": code}, headers={"Origin": "null"}),
        client.post("/join", json={"code": code}),
        client.post("/join", data={"code": "x" * (MAX_BODY_BYTES + 1)}),
    ]
    assert [answer.status_code for answer in refusals] == [403, 403, 415, 413]
    assert places_left(setting) == [5]


def test_codes_are_limited_like_links(setting) -> None:
    service = Service(database=setting.database, study="any", organiser_token=SECRET)
    guard = Guard(Starlette(routes=build_routes(service)))
    guard.addresses = TokenBuckets(rate=1.0, burst=3.0, clock=lambda: 0.0)
    with TestClient(guard, base_url="http://127.0.0.1") as client:
        tried = [client.post("/join", data={"code": f"guess {number}"}).status_code for number in range(4)]
        assert tried == [403, 403, 403, 429]
        assert client.get("/join/guessed-token-000000").status_code == 429


def test_organiser_link_opens_results_only_with_the_secret(open_client) -> None:
    client = open_client()
    assert client.get("/organiser/guess").status_code == 403
    answer = client.get(f"/organiser/{SECRET}")
    assert answer.headers["location"] == "/?view=results"
    assert "httponly" in answer.headers["set-cookie"].lower()


def test_database_trouble_is_a_503_without_a_traceback(setting, voter) -> None:
    task = ask(voter)["task"]
    with setting.database.engine.connect() as connection:
        connection.exec_driver_sql("ALTER TABLE votes RENAME TO votes_gone")
        connection.commit()
    answer = voter.post("/api/vote", json=ballot(task), headers=JSON)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "votes" not in answer.text


def test_a_bound_network_address_accepts_the_names_people_use() -> None:
    assert hosts_for("0.0.0.0", "http://127.0.0.1:8501") == frozenset()
    assert hosts_for("127.0.0.1", "https://arena.example.org") == {
        "127.0.0.1",
        "localhost",
        "::1",
        "arena.example.org",
    }
