"""A flood beside honest voters, on a served study: theirs are answered, and the figure is how fast.

The flood comes from another address of this machine. The pace a session may keep is lowered, so that it is a flood
however slow the machine is; ``benchmarks/arena_load.py --flood`` measures at the true pace. How long answers take is
logged (``--log-cli-level=INFO``); it is the machine's, so no test depends on it.
"""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

import arena
from arena.database import Database
from arena.models import Vote

logger = logging.getLogger(__name__)
ROOT = Path(arena.__file__).resolve().parent.parent
PATIENCE_S = 180
VOTERS, VOTES, THINK_S = 6, 8, 0.1
FLOODERS = 8
FLOOD_ADDRESS = "127.0.0.2"
JSON = {"X-Arena": "1"}
SERVER = """
import sys
from arena.database import open_database
from arena.ui import security
from arena.ui.server import serve
from arena.ui.service import Service
security.SESSION_RATE, security.SESSION_BURST = 1.0, 20.0
service = Service(database=open_database(sys.argv[1]), study="study", organiser_token="organiser-secret-for-tests")
serve(service, host="127.0.0.1", port=int(sys.argv[2]))
"""


@pytest.fixture
def address(database: Database, make_study) -> Iterator[str]:
    """Where a study with room for everybody is served."""
    make_study(database, prompts=2 * VOTES, votes_per_pair=VOTERS + 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen([sys.executable, "-c", SERVER, database.url, str(port)], env=environment)
    deadline = time.monotonic() + PATIENCE_S
    with socket.socket() as probe:
        while probe.connect_ex(("127.0.0.1", port)):
            assert server.poll() is None, "the arena ended before it served"
            assert time.monotonic() < deadline, f"the arena did not start within {PATIENCE_S} seconds"
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(60)


def _client(address: str, token: str, local: str = "127.0.0.1") -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(local_address=local)
    cookies = {"arena_voter": token}
    return httpx.AsyncClient(
        transport=transport, base_url=address, cookies=cookies, headers=JSON, timeout=PATIENCE_S
    )


async def _vote(address: str, token: str) -> list[float]:
    """Vote as one person does and return the milliseconds of each answer."""
    times = []
    async with _client(address, token) as client:
        standing = (await client.post("/api/task", json={})).json()
        for _ in range(VOTES):
            await asyncio.sleep(THINK_S)
            task = standing["task"]
            ballot = {"assignment": task["assignment"], "choice": "same", "client_token": task["left"][-26:]}
            times_told = {"rt_ms": 900, "watched_left_ms": 700, "watched_right_ms": 700}
            began = time.perf_counter()
            answer = await client.post("/api/vote", json=ballot | times_told)
            times.append(1000 * (time.perf_counter() - began))
            assert answer.status_code == 200
            standing = answer.json()
    return times


async def _flood(address: str, token: str, over: asyncio.Event, refused: asyncio.Event) -> Counter[int]:
    answers: Counter[int] = Counter()
    async with _client(address, token, FLOOD_ADDRESS) as client:
        while not over.is_set():
            status = (await client.post("/api/task", json={})).status_code
            answers[status] += 1
            if status == 429:
                refused.set()
    return answers


async def _together(address: str, tokens: list[str], flooder: str) -> tuple[list[float], Counter[int]]:
    """Let people vote once the flood is refused; return their times and what the flood was answered."""
    over, refused = asyncio.Event(), asyncio.Event()
    floods = [asyncio.create_task(_flood(address, flooder, over, refused)) for _ in range(FLOODERS)]
    try:
        await asyncio.wait_for(refused.wait(), PATIENCE_S)
        times = await asyncio.gather(*(_vote(address, token) for token in tokens))
    finally:
        over.set()
    answers = sum(await asyncio.gather(*floods), Counter())
    return [each for person in times for each in person], answers


@pytest.mark.timeout(600)
def test_threat_22_honest_voters_are_answered_under_a_flood(
    address: str, database: Database, people, count
) -> None:
    flooder, *tokens = people(VOTERS + 1)

    async def calm() -> list[list[float]]:
        return await asyncio.gather(*(_vote(address, token) for token in tokens))

    before = np.concatenate(asyncio.run(calm()))
    under, answers = asyncio.run(_together(address, tokens, flooder))
    for when, times in (("before", before), ("under the flood", under)):
        logger.info("votes answered %s: %.0f ms (p50), %.0f ms (p95)", when, *np.percentile(times, [50, 95]))
    logger.info("the flood of %d connections was answered %s", FLOODERS, dict(answers))
    assert len(under) == VOTERS * VOTES  # every one of them with 200, see _vote
    assert count(Vote) == 2 * VOTERS * VOTES
    assert set(answers) == {200, 429}
    with database.reading() as session:
        assert session.scalar(sa.select(sa.func.count(sa.distinct(Vote.evaluator_id)))) == VOTERS
