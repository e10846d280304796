"""Write an ablation's result: JSON, CSV and Markdown."""

import json
from pathlib import Path

from evaluation.ablation.analysis import AblationResult

RESULT = "ablation.json"


def write_result(folder: Path, result: AblationResult) -> list[Path]:
    """Write ``ablation.json``, ``ablation.csv`` and ``ablation.md`` and return their paths."""
    from evaluation.report.write import write_text

    texts = {
        RESULT: json.dumps(result.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "ablation.csv": result.to_frame().to_csv(index=False),
        "ablation.md": to_markdown(result, folder.resolve().name),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def to_markdown(result: AblationResult, name: str) -> str:
    """Return the result as the report says it, without its clips."""
    from evaluation.report.ablation_sections import ablation_chapter
    from evaluation.report.markdown import section_lines
    from evaluation.report.model import AblationSection
    from evaluation.report.sentences import ablation_answer

    content = result.to_dict()
    chapter = ablation_chapter(AblationSection(name, ablation_answer(content), content, ()))
    lines = [line for section in chapter for line in section_lines(section, None)]
    lines += [
        f"{item['file']}: {item['which']} of {item['arm']}, {item['prompt']}" for item in result.examples
    ]
    return "\n\n".join(lines) + "\n"
