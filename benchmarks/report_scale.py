"""How long a report takes: 30,600 votes of 61 evaluators and 5,000 scored videos of six systems.

    python benchmarks/report_scale.py
    python benchmarks/report_scale.py --videos 500 --evaluators 5
    python benchmarks/report_scale.py --keep scale          # keep the database and the report there

Votes and values are drawn, and marked as such in the file's name; only the time means something. Printed as JSON:
seconds of processor and wall clock for reading the database, for the page and for all files, and the page's size.
"""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert, select

from arena import catalogue, exchange, media
from arena.columns import now_utc
from arena.database import Database, open_database
from arena.models import Prompt, Score, System, Video
from evaluation.clips import write_clip
from evaluation.report.build import build_report
from evaluation.report.html import to_html
from evaluation.report.write import write_everything, write_text
from metrics.registry import METRICS

SYSTEMS = ("ours", "MoonValley", "Pika 1.0", "Morph", "Gen-2", "SVD-XT")
SHARES = ((4099, 1242, 759), (4263, 927, 1010), (4129, 1230, 741), (3448, 1279, 1373), (3169, 1591, 1340))
NAMES = (
    "clip",
    "video_text",
    "temporal",
    "accel_ratio",
    "warp_residual",
    "luminance_flicker",
    "speed",
    "static",
)
LIMIT = 10.0  # seconds


def main() -> None:
    """Fill a database, build the report, print what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=5000)
    parser.add_argument("--evaluators", type=int, default=61)
    parser.add_argument("--keep", type=Path, help="folder for the database and the report")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        database = open_database(f"sqlite:///{folder / 'drawn.db'}", create=True)
        votes = fill(database, folder, asked.videos, asked.evaluators)
        print(json.dumps({"votes": votes, "videos": asked.videos} | measure(database, folder), indent=1))
        database.close()


def measure(database: Database, folder: Path) -> dict[str, Any]:
    """Return seconds (wall, processor) of each step."""
    found: dict[str, Any] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        result = step()
        found[name] = [round(time.perf_counter() - wall, 2), round(time.process_time() - processor, 2)]
        return result

    report = timed("read", lambda: build_report(database))
    page = timed("page", lambda: to_html(report))
    write_text(folder / "report.html", page)
    found["page_megabytes"] = round(len(page) / 1e6, 2)
    timed("all files", lambda: write_everything(folder / "everything", report))
    seconds = found["read"][1] + found["page"][1]
    return found | {"limit_seconds": LIMIT, "within": seconds <= LIMIT}


def fill(database: Database, folder: Path, videos: int, evaluators: int) -> int:
    """Enter drawn votes and values; return the number of votes."""
    prompts = [f"prompt number {index} of a drawn study" for index in range(-(-videos // len(SYSTEMS)))]
    with database.session() as session:
        for system in SYSTEMS:
            catalogue.ensure_system(session, system)
        for prompt in prompts:
            catalogue.ensure_prompt(session, prompt)
    _enter_videos(database, folder, videos)
    path = folder / "drawn-votes.csv"
    count = _write_votes(path, prompts[:100], evaluators)
    with database.session() as session:
        exchange.import_votes(session, path, "drawn")
    return count


def _write_votes(path: Path, prompts: list[str], evaluators: int) -> int:
    rng, count = np.random.default_rng(0), 0
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("evaluator", "prompt", "candidate", "competitor", "verdict"))
        for competitor, shares in zip(SYSTEMS[1:], SHARES, strict=True):
            people = evaluators + (competitor == "Pika 1.0")  # Table 1 has one evaluator's votes more there
            drawn = rng.choice(
                ("good", "same", "bad"), (len(prompts), people), p=np.array(shares) / sum(shares)
            )
            for prompt, verdicts in zip(prompts, drawn, strict=True):
                for person, verdict in enumerate(verdicts):
                    rows.writerow((f"e{person:02d}", prompt, SYSTEMS[0], competitor, verdict))
                    count += 1
    return count


def _enter_videos(database: Database, folder: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 255, (12, 16, 16, 3), np.uint8).repeat(16, 1).repeat(16, 2).repeat(8, 0)
    write_clip(folder / "drawn.mp4", frames, Fraction(30))
    with database.session() as session:
        sha256 = media.store(session, folder / "drawn.mp4")
        systems = session.scalars(select(System.id).order_by(System.id)).all()
        prompts = session.scalars(select(Prompt.id).order_by(Prompt.id)).all()
        shape = {"width": 256, "height": 256, "fps_num": 30, "fps_den": 1, "frames": 96, "duration_ms": 3200}
        places = [(system, prompt) for prompt in prompts for system in systems][:count]
        common = {"seed": 0, "variant": "", "media_sha256": sha256, "created_at": now_utc(), **shape}
        session.execute(insert(Video), [{"system_id": s, "prompt_id": p, **common} for s, p in places])
        ids = session.scalars(select(Video.id).order_by(Video.id)).all()
        for name in NAMES:
            values = rng.normal(METRICS[name].range[1] == 1, 1, len(ids))
            rows = [
                {"video_id": id_, "metric": name, "signature": f"{name}|drawn", "value": float(value)}
                for id_, value in zip(ids, values, strict=True)
            ]
            session.execute(insert(Score), [row | {"created_at": now_utc()} for row in rows])


if __name__ == "__main__":
    main()
