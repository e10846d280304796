"""``magicvideo report``: one page over the studies, scores and videos of a database."""

from pathlib import Path

import typer


def report(
    db: str | None = typer.Option(
        None, "--db", help="Database URL; default $MAGICVIDEO_DB, else magicvideo.db here."
    ),
    out: Path = typer.Option(Path("report.html"), "--out", "-o", help="HTML page to write."),
    json: Path | None = typer.Option(None, "--json", help="Also write the report as JSON."),
    study: list[str] = typer.Option([], "--study", help="Show only this study; may be given again."),
) -> None:
    """Write one self-contained HTML page: who is better, by how much, and how sure we are."""
    from arena.database import open_database
    from evaluation.report.build import build_report
    from evaluation.report.html import to_html
    from evaluation.report.write import write_text

    database = open_database(db)
    try:
        document = build_report(database, study)
    finally:
        database.close()
    write_text(out, to_html(document))
    if json is not None:
        write_text(json, document.to_json())
    typer.echo(document.headline)
    for path in (out, json):
        if path is not None:
            typer.echo(f"written: {path}")
