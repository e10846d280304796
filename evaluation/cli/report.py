"""``magicvideo report``: one report over studies, benches and ablations."""

from pathlib import Path

import typer


def report(
    places: list[str] = typer.Argument(
        None,
        help="Folders of benches and ablations, database files or URLs; by default the database of --db.",
        show_default=False,
    ),
    db: str | None = typer.Option(
        None, "--db", help="Database URL; default $MAGICVIDEO_DB, else magicvideo.db here."
    ),
    out: Path = typer.Option(Path("report.html"), "--out", "-o", help="HTML page to write."),
    json: Path | None = typer.Option(None, "--json", help="Also write the report as JSON."),
    markdown: Path | None = typer.Option(
        None, "--markdown", help="Also write it as Markdown, without figures."
    ),
    everything: Path | None = typer.Option(
        None,
        "--all",
        help="Also write every form into this folder: tables as CSV and LaTeX, figures as SVG and PNG.",
    ),
    study: list[str] = typer.Option([], "--study", help="Show only this study; may be given again."),
) -> None:
    """Write one self-contained HTML page: who is better, by how much, and how sure we are."""
    from evaluation.report.build import report_of
    from evaluation.report.html import to_html
    from evaluation.report.markdown import to_markdown
    from evaluation.report.sources import find_sources
    from evaluation.report.write import write_everything, write_text

    document = report_of(find_sources(places or [], db), study)
    write_text(out, to_html(document))
    if json is not None:
        write_text(json, document.to_json())
    if markdown is not None:
        write_text(markdown, to_markdown(document))
    if everything is not None:
        write_everything(everything, document)
    typer.echo(document.headline)
    for path in (out, json, markdown, everything):
        if path is not None:
            typer.echo(f"written: {path}")
