"""Every threat has a test; the numbers are those of docs/arena.md.

A test in this folder or beside the code it is about carries its threat's number in its name; ``ELSEWHERE`` names
those whose names say something else first.
"""

import ast
from pathlib import Path

TESTS = Path(__file__).parent.parent
WANTED = {*range(1, 21), *range(22, 25), *range(28, 33)}
ELSEWHERE = {
    1: ("test_voting.py::test_no_acknowledged_vote_is_lost_when_the_program_is_killed",),
    7: ("test_ui/test_browser/test_voting_page.py::test_click_survives_lost_connection_and_reload",),
    14: ("test_ui/test_server.py::test_process_is_light_guarded_and_tells_nobody",),
    19: ("test_media.py::test_damaged_videos_raise_nothing_but_media_errors",),
    23: ("test_oversight.py::test_cheats_are_flagged_and_attentive_people_are_not",),
    30: ("test_ui/test_routes.py::test_database_trouble_is_a_503_without_a_traceback",),
    31: ("test_ui/test_browser/test_voting_page.py::test_whole_study_by_keyboard",),
    32: ("test_ui/test_server.py::test_process_is_light_guarded_and_tells_nobody",),
}


def _tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_threat_has_a_test() -> None:
    for tests in ELSEWHERE.values():
        for test in tests:
            file, name = test.split("::")
            assert name in _tests(TESTS / file), test
    found = {name for path in TESTS.glob("**/test_*.py") for name in _tests(path)}
    named = {int(name.split("_")[2]) for name in found if name.startswith("test_threat_")}
    assert WANTED - named - set(ELSEWHERE) == set()
