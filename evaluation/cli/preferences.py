"""``magicvideo preferences``: votes of a study as a preference set, and automatic votes by the sprites judge."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evaluation.cli.study_options import Db, Name

app = typer.Typer(
    help="Turn the votes of a study into pairs to tune a model on; `train preference` does the tuning.",
    no_args_is_help=True,
)


class Ties(StrEnum):
    """What becomes of votes for neither."""

    DROP = "drop"
    SMOOTH = "smooth"


class Origin(StrEnum):
    """Whose votes."""

    HUMAN = "human"
    AUTOMATIC = "automatic"
    SIMULATED = "simulated"


@app.command()
def export(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the set.")],
    origin: Annotated[
        Origin, typer.Option(help="Whose votes; those of people and automatic ones never meet.")
    ] = Origin.HUMAN,
    ties: Annotated[
        Ties, typer.Option(help="drop: leave ties out; smooth: half a vote for each side.")
    ] = Ties.DROP,
    test_share: Annotated[float, typer.Option(help="Share of the prompts held out of training.")] = 0.2,
    db: Db = None,
) -> None:
    """Write pairs (winner, loser, prompt, weight) of our own videos as a dataset folder: parquet and mp4."""
    from arena.database import open_database
    from evaluation.preferences import export_preferences

    with open_database(db).reading() as session:
        exported = export_preferences(
            session, name, out, origin=origin.value, ties=ties.value, test_share=test_share
        )
    typer.echo(f"{out}: {exported.sentence}")


@app.command()
def judge(
    name: Name,
    band: Annotated[
        float, typer.Option(min=0, help="Scores this close are the same; 1 is one attribute.")
    ] = 0.25,
    db: Db = None,
) -> None:
    """Let the sprites judge vote on every pair; its votes are stored as automatic, never as a person's."""
    from arena.database import open_database
    from evaluation.improve_compare import preference_of
    from evaluation.judge_votes import automatic_outcomes, vote_study

    database = open_database(db)
    try:
        added = vote_study(database, name, band=band)
        with database.reading() as session:
            outcomes = automatic_outcomes(session, name)
    finally:
        database.close()
    found = preference_of([outcome for _, outcome in outcomes], [prompt for prompt, _ in outcomes])
    typer.echo(f"{added} automatic votes added; the candidate's {found.sentence}")
