"""The arena's own HTTP routes: joining, tasks, votes and clips.

A browser proves who it is by an HttpOnly cookie which holds the evaluator's token. Requests that change
anything must be JSON and carry the header ``X-Arena``, which no foreign page can send. Answers name nothing
but this person's own task: no system, no pair, no file. Messages to voters are written here, never taken from
an exception, whose text may name a study or a system.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, quote

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from arena import assignment, audit, evaluators, exports, media, oversight, studies, voting
from arena.assignment import Task, Turn
from arena.errors import ArenaError, LinkRefused, StudyError, TooSoon, VoteRefused
from arena.models import Enrolment
from arena.studies import study_protocol
from arena.tally import OVERALL
from arena.transactions import in_transaction
from arena.ui.plain import NO_STORE, code_page, page, wrong_code_page, wrong_link_page
from arena.ui.service import ORGANISER_COOKIE, VOTER_COOKIE, Service
from arena.ui.writer import GroupWriter

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024
CHUNK_BYTES = 256 * 1024
POSTGRESQL_WRITERS = 16
COOKIE_SECONDS = 30 * 24 * 3600
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,64}")
NONCE = re.compile(r"[a-z2-7]{26}")
BYTE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
SIGN_IN_AGAIN = "Please open your personal link again, then your choice will be sent."
NO_PLACES = "This study takes no new participants at the moment."

Endpoint = Callable[[Request], Awaitable[Response]]
B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")


class Refusal(Exception):  # noqa: N818 (an answer to a request, not a failure of ours)
    """A request which gets an error answer: HTTP status and one sentence for the person."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class AlreadyEnrolled(StudyError):  # noqa: N818 (a refusal is an answer, named as one)
    """Report a code of a study which somebody is in already."""


class VoteBody(BaseModel):
    """What a browser sends for one vote; times are milliseconds."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    assignment: str = Field(pattern=r"^[a-z2-7]{26}$")
    choice: Literal["left", "same", "right"]
    client_token: str = Field(pattern=r"^[A-Za-z0-9-]{8,64}$")
    rt_ms: int = Field(ge=0, lt=2**31)
    watched_left_ms: int = Field(ge=0, lt=2**31)
    watched_right_ms: int = Field(ge=0, lt=2**31)
    revision: int = Field(default=0, ge=0, lt=1000)
    details: dict[str, Literal["left", "same", "right"]] = Field(default_factory=dict, max_length=20)
    comment: str = Field(default="", max_length=2000)


class RegisterBody(BaseModel):
    """What a browser sends to join without an invitation."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    code: str = Field(default="", max_length=evaluators.CODE_LENGTHS[1])


class ConsentBody(BaseModel):
    """What a browser sends when somebody agrees to take part."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    agreed: Literal[True]


def build_routes(service: Service) -> list[BaseRoute]:
    """Build the routes over one service; Streamlit's own routes come after them."""
    routes = ArenaRoutes(service)
    return [
        Route("/join", _answering(routes.ask_code), methods=["GET"]),
        Route("/join", _answering(routes.join_by_code), methods=["POST"]),
        Route("/join/{token}", _answering(routes.join), methods=["GET"]),
        Route("/organiser/{token}", _answering(routes.organiser), methods=["GET"]),
        Route("/api/register", _answering(routes.register), methods=["POST"]),
        Route("/api/task", _answering(routes.task), methods=["POST"]),
        Route("/api/vote", _answering(routes.vote), methods=["POST"]),
        Route("/api/undo", _answering(routes.undo), methods=["POST"]),
        Route("/api/consent", _answering(routes.consent), methods=["POST"]),
        Route("/api/export", _answering(routes.export), methods=["GET"]),
        Route("/api/link", _answering(routes.link), methods=["POST"]),
        Route(
            "/api/{path:path}", _answering(routes.nothing), methods=["GET", "POST", "PUT", "PATCH", "DELETE"]
        ),
        Route("/clips/{nonce}", _answering(routes.clip), methods=["GET"]),
    ]


class ArenaRoutes:
    """The endpoints; each takes a request and returns an answer or raises ``Refusal``."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._limiter = CapacityLimiter(POSTGRESQL_WRITERS)
        # SQLite has one writer, and writers that meet there wait by sleeping: ours wait together for the disk.
        on_sqlite = service.database.engine.dialect.name == "sqlite"
        self._writer = GroupWriter(service.database) if on_sqlite else None

    async def join(self, request: Request) -> Response:
        """Exchange a personal link for a cookie, so that the token leaves the address bar at once."""
        token = str(request.path_params["token"])
        if await run_in_threadpool(self._enrolment, token) is None:
            return wrong_link_page()
        return self._with_cookie(_go_on(), VOTER_COOKIE, token)

    async def ask_code(self, request: Request) -> Response:
        """Show the form which takes a registration code."""
        return code_page()

    async def join_by_code(self, request: Request) -> Response:
        """Enrol whoever knows a code, then go on to the study; who is in it already stays who they are."""
        if _content_type(request) != "application/x-www-form-urlencoded":
            raise Refusal(415, "Please use the form to send a code.")
        fields = parse_qs((await _received(request)).decode(errors="replace"))
        code = fields.get("code", [""])[0].strip()
        try:
            token = await self._let_in(code, request.cookies.get(VOTER_COOKIE))
        except AlreadyEnrolled:
            return _go_on()
        except LinkRefused as error:
            logger.info("registration refused: %s", error)
            return wrong_code_page()
        except StudyError as error:
            logger.info("registration refused: %s", error)
            return page(409, "Not just now", NO_PLACES)
        return self._with_cookie(_go_on(), VOTER_COOKIE, token)

    async def organiser(self, request: Request) -> Response:
        """Exchange the organiser's link for a cookie which opens the results page."""
        token = str(request.path_params["token"])
        if not self.service.is_organiser(token):
            return wrong_link_page("The organiser's link is printed when the arena starts.")
        answer = RedirectResponse("/?view=results", status_code=303, headers=NO_STORE)
        return self._with_cookie(answer, ORGANISER_COOKIE, token)

    async def register(self, request: Request) -> Response:
        """Enrol whoever may join the served study by themselves; somebody enrolled stays who they are."""
        body = await _body(request, RegisterBody)
        if await run_in_threadpool(self._enrolment, request.cookies.get(VOTER_COOKIE)) is not None:
            return _json({"joined": True})
        try:
            token = await self._let_in(body.code.strip())
        except LinkRefused as error:
            logger.info("registration refused: %s", error)
            raise Refusal(403, "This code is not the right one. Please check it and try again.") from error
        except StudyError as error:
            logger.info("registration refused: %s", error)
            raise Refusal(409, NO_PLACES) from error
        return self._with_cookie(_json({"joined": True}), VOTER_COOKIE, token)

    async def task(self, request: Request) -> Response:
        """Answer with this person's open task, leasing one where there is none."""
        await _body(request, _Nothing)
        return _json(await self._standing(request.cookies.get(VOTER_COOKIE)))

    async def vote(self, request: Request) -> Response:
        """Store a vote, then answer with what was stored and with the next task."""
        body = await _body(request, VoteBody)
        return _json(await self._vote(request.cookies.get(VOTER_COOKIE), body))

    async def undo(self, request: Request) -> Response:
        """Show the last pair once more; the vote on it stands until another one is sent."""
        await _body(request, _Nothing)
        return _json(await run_in_threadpool(self._undo, request.cookies.get(VOTER_COOKIE)))

    async def consent(self, request: Request) -> Response:
        """Record that this person agreed to take part, then answer with the first task."""
        await _body(request, ConsentBody)
        token = request.cookies.get(VOTER_COOKIE)
        if token is not None and await run_in_threadpool(self._enrolment, token) is not None:
            await self._write(lambda session: evaluators.consent(session, token))
        return _json(await self._standing(token))

    async def link(self, request: Request) -> Response:
        """Tell this person their own link, to go on with on another device."""
        await _body(request, _Nothing)
        token = request.cookies.get(VOTER_COOKIE)
        if token is None or await run_in_threadpool(self._enrolment, token) is None:
            raise Refusal(401, "Please open your personal link again.")
        return _json({"link": f"{self.service.public_url}/join/{token}"})

    async def export(self, request: Request) -> Response:
        """Give the organiser a study's votes as a file; while results are hidden, that is written down."""
        if not self.service.is_organiser(request.cookies.get(ORGANISER_COOKIE)):
            raise Refusal(403, "This is for the organiser.")
        slug, form = (request.query_params.get(name, "") for name in ("study", "form"))
        try:
            data = await run_in_threadpool(self._export, slug, form)
        except StudyError as error:
            raise Refusal(404, str(error)) from error
        suffix = {"fastchat": "jsonl", "evalica": "csv", "spreadsheet": "csv"}.get(form, form)
        headers = NO_STORE | {"Content-Disposition": f'attachment; filename="votes-{form}.{suffix}"'}
        return Response(data, headers=headers, media_type="application/octet-stream")

    async def clip(self, request: Request) -> Response:
        """Stream one clip of this person's task, whole or by a single byte range."""
        nonce = str(request.path_params["nonce"])
        sha256, size = await run_in_threadpool(self._find_clip, request.cookies.get(VOTER_COOKIE), nonce)
        asked = _requested_range(request.headers.get("range"), size)
        start, stop = asked or (0, size)
        headers = {
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, max-age=3600",
            "Content-Length": str(stop - start),
        }
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        chunks = self._chunks(sha256, start, stop)
        return StreamingResponse(chunks, 206 if asked else 200, headers=headers, media_type="video/mp4")

    async def nothing(self, request: Request) -> Response:
        """Answer for every other address under ``/api``."""
        raise Refusal(404, "There is nothing here.")

    async def _write(self, work: Callable[[Session], T]) -> T:
        """Run a transaction and return its result once it is on disk."""
        if self._writer is not None:
            return await asyncio.wrap_future(self._writer.run(work))
        database = self.service.database
        return await to_thread.run_sync(lambda: in_transaction(database, work), limiter=self._limiter)

    async def _let_in(self, code: str, held: str | None = None) -> str:
        """Enrol somebody in the served study, or in the one whose code this is, and return the new token.

        Raises:
            AlreadyEnrolled: ``held`` is this person's token in that same study.
            LinkRefused: The code is not one that lets anybody in.
            StudyError: The served study takes nobody.
        """
        served = self.service.may_register(code)
        slug = await run_in_threadpool(self.service.study_to_join) if served else ""
        before = await run_in_threadpool(self._enrolment, held)

        def enrol(session: Session) -> str:
            wanted = (
                studies.get_study(session, slug).id if served else evaluators.study_of_code(session, code)
            )
            if before is not None and before.study_id == wanted:
                raise AlreadyEnrolled("this person is in the study already")
            return (studies.enrol(session, slug) if served else evaluators.register(session, code)).token

        return await self._write(enrol)

    def _enrolment(self, token: str | None) -> Enrolment | None:
        if token is None or not TOKEN.fullmatch(token):
            return None
        try:
            with self.service.database.reading() as session:
                return evaluators.find_enrolment(session, token)
        except StudyError as error:
            logger.info("enrolment refused: %s", error)
            return None

    async def _standing(self, token: str | None) -> dict[str, Any]:
        """Say where this person stands: sign-in, consent, vote (with the task), done, or stopped."""
        if token is None or not TOKEN.fullmatch(token):
            return self._sign_in()
        try:
            turn = await self._write(lambda session: assignment.turn_of(session, token, ahead=True))
        except LinkRefused as error:
            logger.info("no task given: %s", error)
            return self._sign_in()
        return _shown(token, turn)

    def _sign_in(self) -> dict[str, Any]:
        return {"state": "sign-in", "registration": self.service.registration}

    def _undo(self, token: str | None) -> dict[str, Any]:
        standing = self._enrolment(token)
        if token is None or standing is None:
            return self._sign_in()
        task = assignment.again(self.service.database, token)
        if task is None:
            raise Refusal(409, "The last choice cannot be changed any more.")
        protocol = study_protocol(standing.study)
        return _shown(token, Turn(state="vote", protocol=protocol, task=task))

    async def _vote(self, token: str | None, body: VoteBody) -> dict[str, Any]:
        if token is None or not TOKEN.fullmatch(token):
            raise Refusal(401, SIGN_IN_AGAIN)
        try:
            ballot = voting.Ballot(**body.model_dump())
            receipt, turn = await self._write(
                lambda session: voting.submit_and_turn(session, token, ballot, ahead=True)
            )
        except LinkRefused as error:
            logger.info("vote refused: %s", error)
            raise Refusal(401, SIGN_IN_AGAIN) from error
        except TooSoon as error:
            logger.info("vote refused: %s", error)
            raise Refusal(409, "Please watch both videos to the end before you choose.") from error
        except VoteRefused as error:
            logger.info("vote refused: %s", error)
            raise Refusal(
                409, "This choice came too late or was not yours to make. Here is your next pair."
            ) from error
        stored: dict[str, Any] = {
            "assignment": receipt.assignment,
            "choice": receipt.choice,
            "new": receipt.new,
        }
        if receipt.correct is not None:
            stored |= {"correct": receipt.correct, "expected": receipt.expected}
        return {"stored": stored} | _shown(token, turn)

    def _export(self, slug: str, form: str) -> bytes:
        with self.service.database.session() as session:
            data = exports.export(session, slug, form)
            if oversight.results_hidden(studies.get_study(session, slug)):
                audit.record(session, "organiser's page", "votes exported before the end", slug, form=form)
        return data

    def _find_clip(self, token: str | None, nonce: str) -> tuple[str, int]:
        try:
            if token is None or not TOKEN.fullmatch(token) or not NONCE.fullmatch(nonce):
                raise StudyError("no such clip")
            with self.service.database.reading() as session:
                sha256 = assignment.clip(session, token, nonce)
                return sha256, media.size(session, sha256)
        except ArenaError as error:
            raise Refusal(404, "There is no such clip for you.") from error

    def _chunks(self, sha256: str, start: int, stop: int) -> Iterator[bytes]:
        for first in range(start, stop, CHUNK_BYTES):
            with self.service.database.reading() as session:
                chunk = media.read(session, sha256, first, min(first + CHUNK_BYTES, stop))
            yield chunk

    def _with_cookie(self, answer: Response, name: str, value: str) -> Response:
        answer.set_cookie(
            name,
            value,
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="lax",
            secure=self.service.secure_cookies,
        )
        return answer


def _shown(token: str, turn: Turn) -> dict[str, Any]:
    """Turn a person's standing into what the page may know: texts of the protocol and opaque names."""
    protocol, task = turn.protocol, turn.task
    if turn.state not in ("vote", "consent", "done"):
        return {"state": "stopped", "message": _stopped_message(turn.state), "voter": _outbox_name(token)}
    standing: dict[str, Any] = {
        "state": turn.state,
        "voter": _outbox_name(token),
        "question": protocol.question,
        "instructions": protocol.instructions,
        "min_watch": protocol.min_watch,
        "criteria": [name for name in protocol.criteria if name != OVERALL],
        "comments": protocol.comments,
    }
    if turn.state == "consent":
        return standing | {"consent": protocol.consent}
    if task is None:
        url = protocol.return_url.replace("{code}", quote(protocol.finish_code, safe=""))
        paid = {"code": protocol.finish_code, "return_url": url} if turn.done else {}
        return standing | {"done": turn.done} | paid
    ahead = {"ahead": _shown_task(turn.ahead)} if turn.ahead else {}
    return standing | {"task": _shown_task(task)} | ahead


def _shown_task(task: Task) -> dict[str, Any]:
    clips = {"left": f"/clips/{task.left}", "right": f"/clips/{task.right}"}
    plain = (
        "assignment",
        "prompt",
        "pace",
        "done",
        "remaining",
        "training",
        "revision",
        "rest",
        "can_undo",
    )
    return clips | {name: getattr(task, name) for name in plain}


def _outbox_name(token: str) -> str:
    """Name the browser's outbox for one voter without telling who it is."""
    return hashlib.sha256(f"outbox {token}".encode()).hexdigest()[:16]


class _Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _answering(endpoint: Endpoint) -> Endpoint:
    """Turn refusals and database trouble into JSON with one sentence, never a traceback."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refusal as refusal:
            return _json({"error": str(refusal)}, refusal.status, refusal.headers)
        except (ArenaError, SQLAlchemyError):
            logger.exception("no answer for %s", request.url.path.split("/")[1])
            sentence = "The arena cannot reach its records just now. Nothing is lost; it will be tried again."
            return _json({"error": sentence}, 503, {"Retry-After": "1"})

    return answer


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip()


async def _received(request: Request) -> bytes:
    if "content-encoding" in request.headers:
        raise Refusal(415, "Requests must not be compressed.")
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MAX_BODY_BYTES:
            raise Refusal(413, f"Requests may hold at most {MAX_BODY_BYTES} bytes.")
    return bytes(received)


async def _body(request: Request, model: type[B]) -> B:
    if _content_type(request) != "application/json":
        raise Refusal(415, "Requests must be application/json.")
    if "x-arena" not in request.headers:
        raise Refusal(403, "Requests must come from the arena's own page.")
    received = await _received(request)
    try:
        return model.model_validate_json(received)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise Refusal(400, f"{where}: {first['msg']}") from error


def _requested_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the half-open byte range which a Range header asks of ``size`` bytes; None if it asks none."""
    match = BYTE_RANGE.fullmatch((header or "").strip())
    if match is None or match.group() == "bytes=-":
        return None
    first, last = match.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    else:
        start, stop = max(size - int(last), 0), size
    if start >= stop:
        raise Refusal(416, "The clip has no such bytes.", {"Content-Range": f"bytes */{size}"})
    return start, stop


def _stopped_message(state: str) -> str:
    if state == "closed":
        return "This study is closed. Thank you for your interest."
    return "This study is not open at the moment. Please come back later; nothing you did is lost."


def _json(
    content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(dict(content), status, headers={**NO_STORE, **(headers or {})})


def _go_on() -> RedirectResponse:
    """Send a browser from a link or a form to the voting page."""
    return RedirectResponse("/", status_code=303, headers=NO_STORE)
