"""Commands of ``magicvideo study`` about evaluators: invite, revoke, exclude, readmit, forget, list."""

import json
from typing import Annotated, Any

import typer

from evaluation.cli.study_options import Db, Name

Person = Annotated[str, typer.Argument(help="Pseudonym of the evaluator.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the study's records.")]
BY = "command line"


def invite(
    name: Name,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many evaluators to let in.")] = 1,
    url: Annotated[
        str | None, typer.Option(help="Where the arena is reached; prints whole links instead of tokens.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until the links stop working.")] = None,
    cohort: Annotated[str, typer.Option(help="Group these people belong to.")] = "",
    quota: Annotated[int | None, typer.Option(min=1, help="Most pairs asked of each.")] = None,
    code: Annotated[
        str | None,
        typer.Option(help="Instead of links, a code by which --count people may let themselves in."),
    ] = None,
    db: Db = None,
) -> None:
    """Let evaluators in: prints a pseudonym and a secret token or link for each, shown this once."""
    from datetime import timedelta

    from arena import evaluators, studies
    from arena.columns import now_utc
    from arena.database import open_database

    expires = None if days is None else now_utc() + timedelta(days=days)
    options: dict[str, Any] = {"expires_at": expires, "cohort": cohort, "quota": quota}
    if code is not None:
        with open_database(db).session() as session:
            study = studies.get_study(session, name)
            evaluators.add_code(session, study, code, places=count, by=BY, **options)
        typer.echo(f"{count} people may join study {name!r} with this code")
        return
    with open_database(db).session() as session:
        enrolled = [studies.enrol(session, name, **options) for _ in range(count)]
    for person in enrolled:
        secret = person.token if url is None else f"{url.rstrip('/')}/join/{person.token}"
        typer.echo(f"{person.pseudonym}\t{secret}")


def revoke(name: Name, person: Person, db: Db = None) -> None:
    """Make an evaluator's link stop working; votes already cast count."""
    from arena import evaluators, studies
    from arena.database import open_database

    with open_database(db).session() as session:
        evaluators.revoke(session, studies.get_study(session, name), person, by=BY)
    typer.echo(f"the link of {person} no longer works")


def exclude(name: Name, person: Person, reason: Reason, db: Db = None) -> None:
    """Leave an evaluator's votes out of every result; they stay in the records."""
    from arena import evaluators, studies
    from arena.database import open_database

    with open_database(db).session() as session:
        evaluators.exclude(session, studies.get_study(session, name), person, reason=reason, by=BY)
    typer.echo(f"{person} is excluded")


def readmit(name: Name, person: Person, reason: Reason, db: Db = None) -> None:
    """Count an excluded evaluator's votes again."""
    from arena import evaluators, studies
    from arena.database import open_database

    with open_database(db).session() as session:
        evaluators.readmit(session, studies.get_study(session, name), person, reason=reason, by=BY)
    typer.echo(f"{person} is counted again")


def forget(
    name: Name,
    person: Person,
    comments: Annotated[bool, typer.Option("--comments", help="Erase what this person wrote, too.")] = False,
    db: Db = None,
) -> None:
    """Erase what could tell who an evaluator is; the votes stay and count."""
    from arena import evaluators, studies
    from arena.database import open_database

    with open_database(db).session() as session:
        study = studies.get_study(session, name)
        called = evaluators.forget(session, study, person, by=BY, comments=comments)
    typer.echo(f"{person} is forgotten; the votes are now those of {called}")


def people(name: Name, db: Db = None) -> None:
    """Print each evaluator's conduct as JSON, one a line: votes, gold and repeated pairs, flags."""
    from dataclasses import asdict

    from arena import oversight, studies
    from arena.database import open_database

    with open_database(db).reading() as session:
        found = oversight.participants(session, studies.get_study(session, name))
    for person in found:
        typer.echo(json.dumps(asdict(person), default=str))
