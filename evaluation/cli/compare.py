"""``magicvideo compare`` and ``magicvideo baseline``: the regression gate."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

baseline_app = typer.Typer(help="Named baselines of the regression gate.", no_args_is_help=True)

Prompts = Annotated[
    Path | None,
    typer.Option(help="Prompts of the videos, as `magicvideo score` takes them.", show_default=False),
]
Gate = Annotated[Path | None, typer.Option(help="Gate file; `magicvideo compare --init FILE` writes one.")]
Reference = Annotated[
    Path | None, typer.Option(help="Folder of real videos, for fvd, kvd and jedi.", show_default=False)
]
Folder = Annotated[Path, typer.Option("--baselines", help="Folder of named baselines.")]
Device = Annotated[str, typer.Option(help="torch device of the models.")]
Commit = Annotated[str | None, typer.Option(help="Commit that made the videos, for the history.")]


def compare(
    base: Annotated[
        str | None, typer.Argument(help="A folder of mp4 files, kept values, or the name of a baseline.")
    ] = None,
    candidate: Annotated[
        Path | None, typer.Argument(help="A folder of mp4 files with the same names, or kept values.")
    ] = None,
    prompts: Prompts = None,
    gate: Gate = None,
    reference: Reference = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result there.")] = None,
    markdown_path: Annotated[Path | None, typer.Option("--markdown", help="Write a summary there.")] = None,
    junit_path: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML there.")] = None,
    github: Annotated[bool, typer.Option(help="Print GitHub annotations too.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep the candidate's values there, as JSON.")] = None,
    record: Annotated[bool, typer.Option(help="Add the comparison to the baselines' history.")] = False,
    baselines: Folder = Path("baselines"),
    commit: Commit = None,
    device: Device = "cpu",
    init: Annotated[Path | None, typer.Option(help="Write a gate file to start from, and stop.")] = None,
) -> None:
    """Is the candidate worse than the baseline? Exit 0 pass, 1 regression, 2 incomparable, 3 inconclusive."""
    import json

    from evaluation.gate import outputs
    from evaluation.gate.specification import TEMPLATE
    from evaluation.report.write import write_text

    if init is not None:
        write_text(init, TEMPLATE)
        typer.echo(f"{init}: edit the metrics and tolerances, then give it as --gate")
        return
    if base is None or candidate is None or gate is None:
        raise typer.BadParameter("BASE, CANDIDATE and --gate are needed (or --init FILE)")

    from evaluation.errors import EvaluationError
    from evaluation.gate.baselines import Baselines
    from evaluation.gate.run import compare_sides, side_of
    from evaluation.gate.specification import read_gate

    with _refusals():
        spec = read_gate(gate)
        kept = Baselines(baselines)
        place = Path(base)
        if not candidate.exists():  # before the base is measured
            raise EvaluationError(f"{candidate} does not exist; give a folder of mp4 files, or kept values")
        one = (
            side_of(place, spec, prompts=prompts, reference=reference, device=device)
            if place.exists()
            else kept.read(base)
        )
        two = side_of(candidate, spec, prompts=prompts, reference=reference, device=device, commit=commit)
        result = compare_sides(one, two, spec, reference=reference, device=device)
        if keep is not None:
            two.write(keep)
        if record:
            kept.record(base, two, result)
        typer.echo(outputs.text(result))
        if github:
            typer.echo(outputs.github(result))
        content = {json_path: json.dumps(result.to_dict(), indent=2) + "\n"} if json_path else {}
        content |= {markdown_path: outputs.markdown(result)} if markdown_path else {}
        content |= {junit_path: outputs.junit(result)} if junit_path else {}
        for path, words in content.items():
            write_text(path, words)
    raise typer.Exit(result.exit_status)


@contextmanager
def _refusals() -> Iterator[None]:
    """End with exit status 2 where nothing can be compared: 1 says that the candidate is worse."""
    from arena.errors import ArenaError
    from evaluation.errors import EvaluationError
    from metrics.errors import MetricError

    try:
        yield
    except (ArenaError, EvaluationError, MetricError) as error:
        typer.echo(f"magicvideo: {error}", err=True)
        raise typer.Exit(2) from error


@baseline_app.command("promote")
def promote(
    name: Annotated[str, typer.Argument(help="Name of the baseline.")],
    videos: Annotated[
        Path, typer.Argument(help="A folder of mp4 files, or values kept by `compare --keep`.")
    ],
    gate: Gate = None,
    prompts: Prompts = None,
    baselines: Folder = Path("baselines"),
    commit: Commit = None,
    device: Device = "cpu",
) -> None:
    """Make the videos the baseline of that name."""
    from evaluation.gate.baselines import Baselines
    from evaluation.gate.run import side_of
    from evaluation.gate.specification import read_gate

    if gate is None:
        raise typer.BadParameter("--gate is needed: it says what to measure")
    kept = Baselines(baselines)
    path = kept.path(name)
    kept.promote(name, side_of(videos, read_gate(gate), prompts=prompts, device=device, commit=commit))
    typer.echo(f"{path}: baseline {name} of {videos}")


@baseline_app.command("list")
def list_baselines(baselines: Folder = Path("baselines")) -> None:
    """List the baselines and the means of their metrics."""
    from evaluation.gate.baselines import Baselines, means

    kept = Baselines(baselines)
    for name in kept.names():
        side = kept.read(name)
        values = ", ".join(f"{metric} {value:.4g}" for metric, value in means(side).items())
        typer.echo(
            f"{name}: {len(side.prompts)} videos of {side.name}, commit {side.commit or 'unknown'}; {values}"
        )


@baseline_app.command("history")
def history(
    baselines: Folder = Path("baselines"),
    plot: Annotated[Path | None, typer.Option(help="Draw it to an SVG, PNG or PDF file instead.")] = None,
) -> None:
    """Show what was measured over time, as CSV or as a plot."""
    from evaluation.gate.baselines import Baselines, plot_history

    found = Baselines(baselines).history()
    if plot is None:
        typer.echo(found.to_csv(index=False).rstrip())
        return
    plot_history(found, plot)
    typer.echo(f"{plot}: {len(found)} values")
