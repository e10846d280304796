"""``magicvideo demo``: a bench, an ablation, a gate, a study, real votes and a report, in one command."""

from pathlib import Path

import typer


def demo(
    folder: Path = typer.Option(Path("demo"), "--dir", help="Folder for the database, videos and report."),
) -> None:
    """Bench our pipeline, ablate V2V and VFI, gate, open a study, import votes, report."""
    from evaluation.demo import STUDY, run_demo

    typer.echo(f"Demo in {folder}, a few minutes; it may be interrupted at any time and run again.")
    report = run_demo(folder, typer.echo)
    database = f"sqlite:///{folder / 'magicvideo.db'}"
    typer.echo(
        f"\nTo vote on what was made: make arena   (magicvideo arena serve --db {database})\n"
        f"What the votes say:       magicvideo study report {STUDY} --db {database}\n"
        f"The report again:         magicvideo report {folder} --out {report}\n"
        f"\nThe report: {report}"
    )
