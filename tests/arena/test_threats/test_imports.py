"""Threats by what is brought in: paths, archives, uploads, playlists, bombs, malicious tables and protocols."""

import contextlib
import gzip
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arena import media
from arena.database import Database
from arena.errors import ArenaError, ImportRefused, MediaError, StudyError
from arena.exchange import import_votes
from arena.folders import import_videos
from arena.models import Media, Study, Video, Vote
from arena.protocol import read_protocol

JSON = {"X-Arena": "1"}


@pytest.mark.parametrize("name", ["../secret.mp4", "/etc/passwd", "sub/../../secret.mp4", "link.mp4", "a\0b"])
def test_threat_17_a_list_cannot_name_files_outside_its_folder(
    database: Database, make_clip, tmp_path: Path, name: str, count
) -> None:
    make_clip("secret.mp4")
    make_clip("clips/x-0.mp4")
    (tmp_path / "clips" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    listed = tmp_path / "list.jsonl"
    listed.write_text(json.dumps({"file": name, "prompt": "p"}) + "\n", encoding="utf-8")
    with pytest.raises(ImportRefused, match="is no file in"), database.session() as session:
        import_videos(session, tmp_path / "clips", system="ours", prompts_file=listed)
    assert [count(model) for model in (Video, Media)] == [0, 0]


def test_threat_17_archives_and_links_are_refused(
    database: Database, make_clip, tmp_path: Path, count
) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside.mp4", b"\0" * 50_000_000)
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "p-0.mp4").symlink_to(make_clip("secret.mp4"))
    with database.session() as session:
        with pytest.raises(ImportRefused, match="no such folder"):
            import_videos(session, bomb, system="ours")
        with pytest.raises(ImportRefused, match="leads out of"):
            import_videos(session, folder, system="ours")
        with pytest.raises(ImportRefused, match="not a UTF-8"):
            import_votes(session, bomb, "mine")
    packed = tmp_path / "votes.csv"
    packed.write_bytes(gzip.compress(b"evaluator,prompt\n" * 10**6))
    with pytest.raises(ImportRefused, match="not a UTF-8"), database.session() as session:
        import_votes(session, packed, "mine")
    assert [count(model) for model in (Video, Media, Study)] == [0, 0, 0]


def test_threat_17_no_upload_is_read(client, database: Database, people, count) -> None:
    browser = client(people(1)[0])
    browser.ask()
    zipped = gzip.compress(b"{" * 10**7)
    answers = [
        browser.post("/api/vote", content=b"x", headers=JSON | {"Content-Length": str(4 * 2**30)}),
        browser.post(
            "/api/vote",
            content=iter([b"x" * 60_000] * 2),
            headers=JSON | {"Content-Type": "application/json"},
        ),
        browser.post(
            "/api/vote",
            content=zipped,
            headers=JSON | {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        ),
    ]
    assert [answer.status_code for answer in answers] == [413, 413, 415]
    assert count(Vote) == 0


class _Canary(BaseHTTPRequestHandler):
    hits = 0

    def do_GET(self) -> None:
        type(self).hits += 1
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_threat_18_no_import_asks_another_host(database: Database, tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Canary)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    folder = tmp_path / "clips"
    folder.mkdir()
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}/a.ts\n#EXT-X-ENDLIST\n".encode()
    disguised = [playlist, b"\0\0\0\x18ftypisom" + playlist, f"ffconcat version 1.0\nfile {address}".encode()]
    try:
        for number, content in enumerate(disguised):
            path = folder / f"p-{number}.mp4"
            path.write_bytes(content)
            with pytest.raises(MediaError):
                media.probe(path)
        with database.session() as session:
            for source in (Path(address), Path(f"{address}/list.csv")):
                with pytest.raises(ArenaError):
                    import_videos(session, source, system="ours")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert _Canary.hits == 0


def test_threat_19_a_video_that_unfolds_to_gigabytes_is_refused_by_its_header(tmp_path: Path) -> None:
    import av
    import numpy as np

    path = tmp_path / "bomb.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 4112, 2320, "yuv420p"
        stream.options = {"preset": "ultrafast"}
        frame = av.VideoFrame.from_ndarray(np.zeros((2320, 4112, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert path.stat().st_size < 200_000
    with pytest.raises(MediaError, match="pixels a frame are more than"):
        media.probe(path)


def test_threat_20_a_protocol_of_aliases_or_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "protocol.yaml"
    layers = "\n".join(f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))
    for text, sentence in (
        (f"k0: &a0 [x]\n{layers}\n", "aliases are not allowed"),
        ("- a list\n", "expected keys and values"),
        ("candidate: [unclosed\n", "not YAML"),
        ("!!python/object/apply:os.system ['true']\n", "not YAML"),
        ("[" * 1500, "not YAML"),
        ("candidate: x\n" * 30_000, "larger than"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(StudyError, match=sentence):
            read_protocol(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_threat_20_no_file_gets_past_an_import_with_a_traceback(tmp_path: Path, content: bytes) -> None:
    from arena.tables import read_table

    for name in ("table.csv", "table.jsonl", "table.parquet", "protocol.yaml"):
        path = tmp_path / name
        path.write_bytes(content)
        with contextlib.suppress(ArenaError):  # anything else is a defect
            read_protocol(path) if name == "protocol.yaml" else read_table(path, ("evaluator",), None)
