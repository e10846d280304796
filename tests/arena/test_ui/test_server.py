"""The whole process: what it imports, what Streamlit is allowed to do in it, and how starting it can fail."""

import json
import os
import socket
import subprocess
import sys

import pytest

from arena.ui.results import comparisons_html
from arena.ui.service import Service

WHOLE_PROCESS = """
import json, sys
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from arena.database import open_database
from arena.ui.security import SECURITY_HEADERS
from arena.ui.server import build_app
from arena.ui.service import Service
from streamlit import config
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

STREAM = "ws://127.0.0.1:8501/_stcore/stream"
CLOSED = ("metrics", "upload_file/x/y", "agent/x")
database = open_database(sys.argv[1])
service = Service(database=database, study="any", organiser_token="organiser-secret-for-tests")
found = {}
with TestClient(build_app(service), base_url="http://127.0.0.1:8501") as client:
    page = client.get("/")
    found["page"] = [page.status_code, all(page.headers.get(n) == v for n, v in SECURITY_HEADERS.items())]
    found["closed"] = [client.get(f"/_stcore/{name}").status_code for name in CLOSED]
    task = client.post("/api/task", json={}, headers={"X-Arena": "1"})
    found["task"] = task.json()
    try:
        with client.websocket_connect(STREAM, headers={"Origin": "http://elsewhere.example"}):
            found["foreign"] = "accepted"
    except WebSocketDisconnect as refusal:
        found["foreign"] = refusal.code
    with client.websocket_connect(STREAM, subprotocols=["streamlit"]) as stream:
        rerun = BackMsg()
        rerun.rerun_script.query_string = ""
        stream.send_bytes(rerun.SerializeToString())
        message = ForwardMsg()
        while message.WhichOneof("type") != "new_session":
            message.ParseFromString(stream.receive_bytes())
        found["usage_stats"] = message.new_session.config.gather_usage_stats
        while message.WhichOneof("type") != "script_finished":
            message.ParseFromString(stream.receive_bytes())
        found["finished"] = message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY
    found["collects"] = config.get_option("runner.postScriptGC")
    found["details"] = config.get_option("client.showErrorDetails")
heavy = ("torch", "diffusers", "open_clip", "torchmetrics")
found["heavy"] = [name for name in heavy if name in sys.modules]
database.close()
print(json.dumps(found))
"""


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | variables
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, env=environment
    )


def test_process_is_light_guarded_and_tells_nobody(setting) -> None:
    done = run("-c", WHOLE_PROCESS, setting.url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "page": [200, True],
        "closed": [404, 404, 404],
        "task": {"state": "sign-in", "registration": "invited"},
        "foreign": 1008,
        "usage_stats": False,
        "finished": True,
        "collects": False,
        "details": "none",
        "heavy": [],
    }


def serve(*options: str) -> subprocess.CompletedProcess[str]:
    command = "import sys; from evaluation.cli.main import main; from evaluation.cli.arena import app; "
    command += "import evaluation.cli.main as program; program.app = app; main()"
    return run("-c", command, "serve", *options)


def test_serving_an_unknown_study_names_the_known_ones(setting) -> None:
    done = serve("--db", setting.url, "--study", "nowhere")
    assert done.returncode == 1
    assert "zephyrine-against-quagmire" in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_without_a_database_is_one_sentence(tmp_path) -> None:
    done = serve("--db", f"sqlite:///{tmp_path / 'none.db'}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("magicvideo: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_taken_port_is_one_sentence(setting) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = serve("--db", setting.url, "--port", str(port))
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize(
    "options",
    [("--admin-token", "short"), ("--join-code", "x", "--open"), ("--public-url", "arena.example.org/votes")],
)
def test_wrong_options_exit_with_two(setting, options) -> None:
    assert serve("--db", setting.url, *options).returncode == 2


def test_service_refuses_settings_that_contradict(setting) -> None:
    secret = "organiser-secret-for-tests"
    with pytest.raises(ValueError, match="organiser_token"):
        Service(database=setting.database, study="x", organiser_token="short")
    with pytest.raises(ValueError, match="join_code"):
        Service(database=setting.database, study="x", organiser_token=secret, registration="code")


ROW = {
    "candidate": "A<script>",
    "competitor": "B&B",
    "criterion": "overall",
    "good": 6,
    "same": 3,
    "bad": 1,
    "ratio": 2.25,
    "interval": [1.1, 4.6],
    "level": 0.95,
    "interval_method": "two-way",
    "outcome": "ok",
    "notes": [],
}


def test_results_show_counts_ratio_and_interval_with_names_escaped() -> None:
    shown = comparisons_html({"comparisons": [ROW]})
    assert "A&lt;script&gt;" in shown
    assert "B&amp;B" in shown
    assert "<td>6</td><td>3</td><td>1</td>" in shown
    assert "2.25" in shown
    assert "1.10 to 4.60<br><span class=mv-note>95%, two-way</span>" in shown
    assert 'aria-label="good 60%, same 30%, bad 10%"' in shown


def test_numbers_that_do_not_exist_are_dashes_with_their_reason() -> None:
    empty = ROW | {"good": 0, "same": 0, "bad": 0, "ratio": None, "interval": None, "outcome": "no votes"}
    shown = comparisons_html({"comparisons": [empty]})
    assert "no votes" in shown
    assert "<td class=ratio>–</td>" in shown
    assert comparisons_html({"comparisons": []}) == "<p>No votes yet.</p>"
