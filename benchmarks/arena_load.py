"""Load on the arena: many evaluators at once, each a real HTTP session that joins, asks, votes and checks.

    python benchmarks/arena_load.py --sessions 100 --think 2 --seconds 30
    python benchmarks/arena_load.py --sessions 32 --think 0 --seconds 20
    python benchmarks/arena_load.py --sessions 50 --think 2 --seconds 30 --flood 32

Server and clients run on this machine. Printed as JSON: votes a second, the server's processor time for each,
milliseconds from sending a vote to the next pair (p50, p95, p99), and how many acknowledged votes the database
lacks, which must be none. ``--flood`` opens so many connections of one person who asks without end, from another
address of this machine; what they are answered is counted.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from arena import catalogue, media
from arena.columns import now_utc
from arena.database import Database, open_database
from arena.models import Presentation, Video, Vote
from arena.protocol import Protocol
from arena.studies import create_study, enrol

STUDY = "load"
FLOOD_ADDRESS = "127.0.0.2"
SECRET = "organiser-secret-for-the-benchmark"
SERVER = """
import sys
from arena.database import open_database
from arena.ui.server import serve
from arena.ui.service import Service
service = Service(database=open_database(sys.argv[1]), study="load", organiser_token=sys.argv[3])
serve(service, host="127.0.0.1", port=int(sys.argv[2]))
"""


@dataclass
class Tally:
    """What the sessions saw."""

    votes_ms: list[float] = field(default_factory=list)
    pages_ms: list[float] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    refused: int = 0
    flood: Counter[int] = field(default_factory=Counter)


def fill(database: Database, sessions: int, prompts: int) -> list[str]:
    """Make an open study of stand-in clips and let everybody in."""
    with database.session() as session:
        sha256 = media.store(session, b"stand-in for a clip", mime="application/octet-stream")
        owners = [catalogue.ensure_system(session, name) for name in ("ours", "rival")]
        for number in range(prompts):
            prompt = catalogue.ensure_prompt(session, f"a prompt of ordinary length, number {number}")
            session.add_all(_video(owner.id, prompt.id, sha256) for owner in owners)
        session.flush()
        plan = Protocol(candidate="ours", competitors=("rival",), votes_per_pair=sessions, min_watch=0.0)
        study = create_study(session, STUDY, plan)
        session.add_all(
            Presentation(study_id=study.id, video_id=video.id, media_sha256=sha256, changes={})
            for video in catalogue.find_videos(session)
        )
        study.state = "open"
        return [enrol(session, STUDY).token for _ in range(sessions)]


def _video(system_id: int, prompt_id: int, sha256: str) -> Video:
    return Video(
        system_id=system_id,
        prompt_id=prompt_id,
        seed=0,
        variant="",
        media_sha256=sha256,
        width=512,
        height=512,
        fps_num=8,
        fps_den=1,
        frames=16,
        duration_ms=2000,
        created_at=now_utc(),
    )


class Connection:
    """One keep-alive HTTP/1.1 connection; small, so that clients cost the server's machine little."""

    def __init__(self, port: int, token: str, local: str = "127.0.0.1") -> None:
        self.port, self.token, self.local = port, token, local

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(self.local, 0)
        )

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nCookie: arena_voter={self.token}\r\n"
            f"X-Arena: 1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        first = b""
        while not first:  # the server closes connections that were idle, as it does for browsers
            try:
                self.writer.write(head.encode() + content)
                await self.writer.drain()
                first = await self.reader.readline()
            except ConnectionError:
                first = b""
            if not first:
                await self.open()
        status = int(first.split()[1])
        length = 0
        while (line := await self.reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, await self.reader.readexactly(length)


async def evaluate(number: int, port: int, token: str, think: float, until: float, tally: Tally) -> None:
    """Be one evaluator: open the page, then vote until the time is over."""
    generator = random.Random(number)
    connection = Connection(port, token)
    await asyncio.sleep(generator.uniform(0, think))
    await connection.open()
    began = time.perf_counter()
    await connection.request("GET", "/")
    status, answer = await connection.request("POST", "/api/task", {})
    tally.pages_ms.append(1000 * (time.perf_counter() - began))
    standing = json.loads(answer)
    while time.monotonic() < until and standing.get("state") == "vote":
        await asyncio.sleep(generator.uniform(0.5, 1.5) * think)
        client_token = f"{number:04d}-{generator.getrandbits(64):016x}"
        ballot = {
            "assignment": standing["task"]["assignment"],
            "choice": generator.choice(("left", "same", "right")),
            "client_token": client_token,
            "rt_ms": 3000,
            "watched_left_ms": 2000,
            "watched_right_ms": 2000,
        }
        began = time.perf_counter()
        status, answer = await connection.request("POST", "/api/vote", ballot)
        if status == 200:
            tally.votes_ms.append(1000 * (time.perf_counter() - began))
            tally.acknowledged.add(client_token)
            standing = json.loads(answer)
        else:
            tally.refused += 1
            await asyncio.sleep(0.5)
    connection.writer.close()


async def flood(port: int, token: str, until: float, tally: Tally) -> None:
    """Ask for the open task without end."""
    connection = Connection(port, token, FLOOD_ADDRESS)
    await connection.open()
    while time.monotonic() < until:
        status, _ = await connection.request("POST", "/api/task", {})
        tally.flood[status] += 1
    connection.writer.close()


async def drive(
    port: int, tokens: list[str], think: float, seconds: float, flooders: int
) -> tuple[Tally, float]:
    """Run all sessions at once and return what they saw and how long it took; the last token floods."""
    tally, began = Tally(), time.monotonic()
    until = began + seconds
    *honest, noisy = tokens
    await asyncio.gather(
        *(evaluate(number, port, token, think, until, tally) for number, token in enumerate(honest)),
        *(flood(port, noisy, until, tally) for _ in range(flooders)),
    )
    return tally, time.monotonic() - began


def _share(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def main() -> None:
    """Make a study, serve it, drive it, and print what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--think", type=float, default=2.0, help="seconds between votes of one session")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--flood", type=int, default=0, help="connections of somebody who asks without end")
    parser.add_argument("--db", help="database URL; default a new SQLite file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.db or f"sqlite:///{Path(folder) / 'load.db'}"
        database = open_database(url, create=True)
        tokens = fill(database, options.sessions + 1, options.prompts)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen([sys.executable, "-c", SERVER, url, str(port), SECRET], env=os.environ)
        try:
            _wait(port, server)
            before = _cpu_seconds(server.pid)
            tally, took = asyncio.run(drive(port, tokens, options.think, options.seconds, options.flood))
            server_cpu = _cpu_seconds(server.pid) - before
        finally:
            server.terminate()
            server.wait(30)
        with database.reading() as session:
            stored = set(session.scalars(select(Vote.client_token)))
        database.close()
    found = {
        "sessions": options.sessions,
        "think_seconds": options.think,
        "votes": len(tally.votes_ms),
        "votes_per_second": round(len(tally.votes_ms) / took, 1),
        "vote_ms": {name: _share(tally.votes_ms, share) for name, share in PERCENTILES.items()},
        "page_ms": {name: _share(tally.pages_ms, share) for name, share in PERCENTILES.items()},
        "server_cpu_ms_per_vote": round(1000 * server_cpu / len(tally.votes_ms), 2),
        "refused": tally.refused,
        "lost": len(tally.acknowledged - stored),
        "flood_answers": dict(tally.flood),
    }
    print(json.dumps(found, indent=2))


PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def _cpu_seconds(pid: int) -> float:
    """Return the processor time a process has used: what a vote costs however busy the machine is."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit("the server ended before it served")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit("the server did not start within two minutes")


if __name__ == "__main__":
    main()
