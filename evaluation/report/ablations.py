"""What `magicvideo ablate` left in a folder, for the report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.ablation.outputs import RESULT
from evaluation.errors import EvaluationError
from evaluation.report.frames import playable
from evaluation.report.model import AblationSection, ComparedClip, StudySection
from evaluation.report.numbers import signed
from evaluation.report.sentences import ablation_answer

PEOPLE = ("good", "same", "bad", "ratio", "interval", "n")


def ablation_section(folder: Path, studies: Sequence[StudySection]) -> AblationSection | None:
    """Read a folder's ablation, None if it holds none; votes are taken from its study as it is now.

    Raises:
        EvaluationError: the file is damaged, or a clip cannot be decoded.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text("utf-8"))
        votes = next((study for study in studies if study.name == result["study"]), None)
        result["rows"] = [_with_votes(row, votes) for row in result["rows"]]
        answer = ablation_answer(result)
        clips = tuple(_clip(folder, item) for item in result["examples"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path} is no result of `magicvideo ablate` that this version reads ({error!r}); run the ablation again"
        ) from error
    return AblationSection(folder.resolve().name, answer, result, clips)


def _with_votes(row: dict[str, Any], study: StudySection | None) -> dict[str, Any]:
    if study is None or row["at"] != "end":
        return row
    found = next(
        (
            {key: item[key] for key in PEOPLE}
            for item in study.comparisons
            if (item["competitor"], item["criterion"]) == (row["arm"], "overall") and item["n"]
        ),
        None,
    )
    return row | {"human": found}


def _clip(folder: Path, item: Mapping[str, Any]) -> ComparedClip:
    caption = (
        f"{item['which']} for full against {item['arm']} on {item['metric']} ({signed(item['advantage'])}), "
        f"seed {item['seed']}: “{item['prompt']}”; full left, {item['arm']} right"
    )
    return ComparedClip(caption, playable((folder / item["file"]).read_bytes(), item["file"]))
