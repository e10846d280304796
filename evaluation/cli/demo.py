"""``magicvideo demo``: prompts, videos, scores, a study, real votes and a report, in one command."""

from pathlib import Path

import typer


def demo(
    folder: Path = typer.Option(Path("demo"), "--dir", help="Folder for the database, videos and report."),
) -> None:
    """Make eight videos with and without V2V and VFI, score them, open a study, import votes, report."""
    from evaluation.demo import STUDY, run_demo

    typer.echo(f"Demo in {folder}; it may be interrupted at any time and run again.")
    report = run_demo(folder, typer.echo)
    database = f"sqlite:///{folder / 'magicvideo.db'}"
    typer.echo(
        f"\nThe report: {report}\n"
        f"To vote on what was made: make arena   (magicvideo arena serve --db {database})\n"
        f"What the votes say:       magicvideo study report {STUDY} --db {database}\n"
        f"The report again:         magicvideo report --db {database} --out {report}"
    )
