from pathlib import Path

import pytest

from evaluation.errors import EvaluationError
from evaluation.prompts import demo_prompts, read_prompts
from evaluation.systems.sprites_truth import scene_of


def test_remarks_blanks_and_repetitions_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# remark\n\n a  red   star \nthe sea\na red star\n", "utf-8")
    assert read_prompts(file) == ["a red star", "the sea"]


@pytest.mark.parametrize("content", [b"", b"# only a remark\n", b"\xff\xfe\x00"])
def test_file_without_a_prompt_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(EvaluationError, match=r"prompts\.txt"):
        read_prompts(file)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"absent\.txt"):
        read_prompts(tmp_path / "absent.txt")


def test_demo_prompts_are_eight_different_scenes_two_of_them_held_out() -> None:
    scenes = [scene_of(prompt, 0) for prompt in demo_prompts()]
    assert len(scenes) == 8
    assert [scene.caption for scene in scenes] == demo_prompts()
    assert len({scene.objects[0].colour for scene in scenes}) == 8
    assert len({scene.objects[0].shape for scene in scenes}) == 8
    assert len({scene.background for scene in scenes}) == 6
    assert sum(scene.held_out for scene in scenes) == 2
