"""``magicvideo db``: make, check and back up a database."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make, check, take back and back up a database.", no_args_is_help=True)
Db = Annotated[
    str | None, typer.Option("--db", help="Database URL; default $MAGICVIDEO_DB, else magicvideo.db here.")
]


@app.command()
def upgrade(db: Db = None) -> None:
    """Make the database, or bring it to the schema of this program; a file is copied first."""
    from arena import database, migrations

    revision = migrations.upgrade(db)
    typer.echo(f"{database.shown(database.resolve_url(db))} is at revision {revision}")


@app.command()
def check(db: Db = None) -> None:
    """Fail unless the database has exactly the tables of this program."""
    from arena import database, migrations

    migrations.check(db)
    typer.echo(f"{database.shown(database.resolve_url(db))} is as this program needs it")


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="Revision to go back to; 'base' empties the database.")],
    db: Db = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take the database back to an older schema; what that cannot hold is lost."""
    from arena import database, migrations

    url = database.shown(database.resolve_url(db))
    if not yes:
        typer.confirm(
            f"Take {url} back to {revision}? What the older schema cannot hold is lost.", abort=True
        )
    migrations.downgrade(db, revision)
    typer.echo(f"{url} is at revision {migrations.current(db) or 'base'}")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="New file to write.")],
    db: Db = None,
) -> None:
    """Copy the database to a new file, also while it is in use."""
    from arena import migrations

    typer.echo(f"written: {migrations.backup(db, file)}")
