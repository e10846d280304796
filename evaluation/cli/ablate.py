"""``magicvideo ablate``: what each stage and part is worth."""

from pathlib import Path
from typing import Annotated

import typer


def ablate(
    file: Annotated[Path, typer.Argument(help="An ablation file; --init writes one.")],
    init: Annotated[bool, typer.Option("--init", help="Write a documented file and stop.")] = False,
    study: Annotated[
        str | None,
        typer.Option(help="Also draft this study of the full system against each arm, or read its votes."),
    ] = None,
    votes_per_pair: Annotated[
        int | None, typer.Option(min=1, help="Evaluators for each pair of the study; 1 by default.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Compare a pipeline with itself without each part; run it again to resume or to add."""
    from evaluation.errors import EvaluationError

    if init:
        from evaluation.ablation.specification import TEMPLATE
        from evaluation.report.write import write_text

        if file.exists():
            raise EvaluationError(f"{file} exists already; name another file or remove it")
        write_text(file, TEMPLATE.format(name=file.stem))
        typer.echo(f"{file} is written; change it and start with: magicvideo ablate {file}")
        return
    from evaluation.ablation.outputs import to_markdown
    from evaluation.ablation.run import run_ablation
    from evaluation.ablation.specification import read_ablation

    folder = file.parent / (read_ablation(file).folder or file.stem)
    result = run_ablation(file, study=study, votes_per_pair=votes_per_pair, progress=not quiet)
    typer.echo(to_markdown(result, file.stem))
    database = result.reproduce["database"]
    if result.study is not None:
        typer.echo(
            f"The study {result.study!r} holds full against each arm; open it to collect votes, and run this again to "
            f"see them here: magicvideo study open {result.study} --db {database}"
        )
    typer.echo(f"As a page, with clips: magicvideo report {folder} --db {database}")
