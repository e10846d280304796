"""``magicvideo study``: make preference studies, bring votes in and out, and say what they show."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Make preference studies, bring votes in and out, report on them.", no_args_is_help=True
)
importing = typer.Typer(help="Bring in votes, counts or videos.", no_args_is_help=True)
app.add_typer(importing, name="import")

Db = Annotated[
    str | None, typer.Option("--db", help="Database URL; default $MAGICVIDEO_DB, else magicvideo.db here.")
]
Name = Annotated[str, typer.Argument(help="Name of the study.")]
File = Annotated[Path, typer.Argument(help="CSV file.")]
Study = Annotated[str, typer.Option("--study", help="Study to put it in; made if it is new.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


class BothBad(StrEnum):
    """What becomes of a vote that calls both videos bad."""

    SAME = "same"
    DROP = "drop"
    REFUSE = "refuse"


@importing.command("counts")
def import_counts(
    file: File,
    study: Study,
    evaluators: Annotated[int | None, typer.Option(min=1, help="Evaluators the source states.")] = None,
    comparisons: Annotated[
        int | None, typer.Option(min=1, help="Comparisons each, as the source states.")
    ] = None,
    db: Db = None,
) -> None:
    """Import counts: candidate, competitor, good, same, bad; optionally criterion, published_ratio."""
    from arena import exchange
    from arena.database import open_database

    with open_database(db, create=True).session() as session:
        result = exchange.import_counts(
            session, file, study, stated_evaluators=evaluators, stated_comparisons=comparisons
        )
    typer.echo(result.message)


@importing.command("votes")
def import_votes(file: File, study: Study, db: Db = None) -> None:
    """Import votes: evaluator, prompt, candidate, competitor, verdict good|same|bad, maybe criterion."""
    from arena import exchange
    from arena.database import open_database

    with open_database(db, create=True).session() as session:
        result = exchange.import_votes(session, file, study)
    typer.echo(result.message)


@importing.command("genai-bench")
def import_genai_bench(
    file: File,
    study: Study,
    both_bad: Annotated[BothBad, typer.Option(help="What becomes of votes that call both videos bad.")],
    db: Db = None,
) -> None:
    """Import GenAI-Bench's human labels of videos: idx, prompt, human_vote."""
    from arena import exchange
    from arena.database import open_database

    with open_database(db, create=True).session() as session:
        result = exchange.import_genai_bench(session, file, study, both_bad=both_bad.value)
    typer.echo(result.message)


@importing.command("videos")
def import_videos(
    folder: Annotated[Path, typer.Argument(help="Folder of mp4 or mov files.")],
    system: Annotated[str, typer.Option(help="Name of the system that made them.")],
    prompts: Annotated[
        Path | None,
        typer.Option(help="CSV or JSONL with file, prompt, seed; else names say PROMPT-INDEX.mp4."),
    ] = None,
    db: Db = None,
) -> None:
    """Import a folder of videos of one system."""
    from arena import folders
    from arena.database import open_database

    with open_database(db, create=True).session() as session:
        videos = folders.import_videos(session, folder, system=system, prompts_file=prompts)
    typer.echo(f"{len(videos)} videos of {system!r} are in the database")


@app.command()
def create(
    name: Name,
    candidate: Annotated[str, typer.Option(help="System the study is about.")],
    competitor: Annotated[list[str], typer.Option(help="System to compare it with; may be given again.")],
    votes_per_pair: Annotated[int, typer.Option(min=1, help="Evaluators for each pair.")] = 1,
    quota: Annotated[int | None, typer.Option(min=1, help="Most votes asked of one evaluator.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the order of pairs and the sides.")] = 0,
    question: Annotated[str | None, typer.Option(help="What evaluators are asked.")] = None,
    db: Db = None,
) -> None:
    """Draft a study over the videos that both systems have of the same prompts."""
    from arena import protocol, studies
    from arena.database import open_database

    plan = protocol.Protocol(
        candidate=candidate,
        competitors=tuple(competitor),
        votes_per_pair=votes_per_pair,
        quota=quota,
        seed=seed,
        question=question or protocol.QUESTION,
    )
    with open_database(db).session() as session:
        studies.create_study(session, name, plan)
        status = studies.study_status(session, name)
    typer.echo(
        f"study {name!r} is {status.state}: {status.pairs} pairs of {status.prompts} prompts,"
        f" {status.target_votes} votes wanted"
    )


@app.command("list")
def list_all(db: Db = None) -> None:
    """List every study."""
    from arena import studies
    from arena.database import open_database

    with open_database(db).reading() as session:
        rows = [studies.study_status(session, study.slug) for study in studies.list_studies(session)]
    if not rows:
        typer.echo("no studies yet")
        return
    header = ("study", "kind", "state", "pairs", "votes", "wanted")
    table = [
        (row.slug, row.kind, row.state, row.pairs or "", row.votes, row.target_votes or "") for row in rows
    ]
    _echo_table(header, table)


@app.command()
def status(name: Name, as_json: JsonOption = False, db: Db = None) -> None:
    """Say how far a study has come."""
    from dataclasses import asdict

    from arena import studies
    from arena.database import open_database

    with open_database(db).reading() as session:
        found = asdict(studies.study_status(session, name))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        typer.echo(f"{key.replace('_', ' '):13} {shown}")


@app.command("open")
def open_one(name: Name, db: Db = None) -> None:
    """Make the blinded copies of a study's videos, then let people vote on it."""
    from tqdm import tqdm

    from arena import studies
    from arena.database import open_database

    with tqdm(desc="blinded copies", unit="video", leave=False) as bar:

        def progress(done: int, needed: int) -> None:
            bar.total = needed
            bar.update(done - bar.n)

        study = studies.open_study(open_database(db), name, progress)
    typer.echo(f"study {study.slug!r} is {study.state}")


@app.command()
def pause(name: Name, db: Db = None) -> None:
    """Stop handing out pairs; the study can be opened again."""
    from arena import studies
    from arena.database import open_database

    typer.echo(f"study {name!r} is {studies.pause_study(open_database(db), name).state}")


@app.command()
def close(name: Name, db: Db = None) -> None:
    """End a study for good."""
    from arena import studies
    from arena.database import open_database

    typer.echo(f"study {name!r} is {studies.close_study(open_database(db), name).state}")


@app.command()
def report(name: Name, as_json: JsonOption = False, db: Db = None) -> None:
    """Say who is preferred, by how much, and how sure that is."""
    from arena.database import open_database
    from arena.report_data import study_report

    with open_database(db).reading() as session:
        found = study_report(session, name)
    if as_json:
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    origin = found["data_origin"]
    typer.echo(f"study {name} ({found['state']}, {origin['votes']}, {origin['human']:,} votes of people)\n")
    header = (
        "candidate",
        "competitor",
        "good",
        "same",
        "bad",
        "(G+S)/(B+S)",
        "interval",
        "by",
        "ties",
        "G/B",
    )
    _echo_table(header, [_report_row(row) for row in found["comparisons"]])
    _echo_ranking(found["ranking"])
    _echo_agreement(found["agreement"])
    notes = [] if found["ranking"] is None else found["ranking"]["notes"]
    for warning in [*found["warnings"], *notes]:
        typer.echo(f"\n* {warning}")


def _echo_ranking(ranking: Mapping[str, Any] | None) -> None:
    """Print the systems with the places each can take; systems of different groups are not ordered."""
    if ranking is None or ranking["log_likelihood"] is None:
        return
    typer.echo(f"\nranking ({ranking['model']}, places hold together at {ranking['level']:.0%})")
    rows = []
    for group in ranking["components"]:
        for name in sorted(group, key=lambda system: -(ranking["strength"][system] or 0.0)):
            places = ranking["rank_intervals"][name]
            rows.append(
                (
                    "-" if places is None else "-".join(map(str, dict.fromkeys(places))),
                    name,
                    _number(ranking["strength"][name], 3),
                    _number(ranking["standard_error"][name], 3),
                )
            )
    _echo_table(("place", "system", "log-strength", "error"), rows)


def _echo_agreement(agreement: Mapping[str, Any]) -> None:
    rows = [
        (found["name"], _number(found["value"], 3), "-".join(f"{end:.3f}" for end in found["interval"] or ()))
        for found in agreement.values()
        if isinstance(found, dict)
    ]
    if rows:
        typer.echo("")
        _echo_table(("agreement", "value", "interval"), rows)


@app.command()
def plan(
    ratio: Annotated[float, typer.Option(help="Ratio (G+S)/(B+S) the study should be able to show.")],
    ties: Annotated[float, typer.Option(help="Share of Same expected.")] = 0.2,
    evaluators: Annotated[int, typer.Option(min=2, help="Evaluators.")] = 61,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts of this comparison.")] = 100,
    votes_per_evaluator: Annotated[
        int | None, typer.Option(min=1, help="Votes of each in this comparison; default: every prompt once.")
    ] = None,
    rho_evaluator: Annotated[float, typer.Option(help="Correlation of two votes of one evaluator.")] = 0.05,
    rho_prompt: Annotated[float, typer.Option(help="Correlation of two votes on one prompt.")] = 0.10,
    power: Annotated[float, typer.Option(help="Power wanted.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Two-sided level of the test.")] = 0.05,
    as_json: JsonOption = False,
) -> None:
    """Say what power a design has against one competitor, and what would buy more."""
    from arena import planning

    try:
        design = planning.Design(
            ratio=ratio,
            ties=ties,
            evaluators=evaluators,
            prompts=prompts,
            votes_per_evaluator=votes_per_evaluator,
            rho_evaluator=rho_evaluator,
            rho_prompt=rho_prompt,
            alpha=alpha,
        )
        found = planning.plan(design, power=power)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    rows = [_plan_row(option.name, option.design) for option in found.options]
    if as_json:
        typer.echo(json.dumps(_plan_json(found, rows), indent=2, allow_nan=False))
        return
    header = ("design", "evaluators", "prompts", "votes", "design effect", "power", "interval")
    _echo_table(
        header,
        [
            (
                row["name"],
                row["evaluators"],
                row["prompts"],
                row["votes"],
                f"{row['design_effect']:.2f}",
                f"{row['power']:.3f}",
                f"R /* {row['half_width']:.3f}",
            )
            for row in rows
        ],
    )
    typer.echo(f"\n{found.sentence}")
    needs = {
        f"evaluators with {prompts} prompts": found.evaluators_needed,
        f"prompts with {evaluators} evaluators": found.prompts_needed,
    }
    told = "; ".join(f"{'no number of' if n is None else n} {what}" for what, n in needs.items())
    typer.echo(f"Power {power:g} for ratio {ratio:g} takes: {told}.")
    if found.detectable_ratio is not None:
        typer.echo(
            f"The smallest ratio this design shows with power {power:g} is {found.detectable_ratio:.3f}."
        )


def _plan_row(name: str, design: Any) -> dict[str, Any]:
    shown = ("evaluators", "prompts", "votes", "design_effect", "standard_error", "half_width", "power")
    return {"name": name} | {key: getattr(design, key) for key in shown}


def _plan_json(found: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from dataclasses import asdict

    kept = (
        "power_wanted",
        "votes_if_independent",
        "evaluators_needed",
        "prompts_needed",
        "detectable_ratio",
        "sentence",
    )
    return {"design": asdict(found.design), "options": rows} | {key: getattr(found, key) for key in kept}


def _report_row(row: Mapping[str, Any]) -> tuple[object, ...]:
    interval = row["interval"]
    criterion = "" if row["criterion"] == "overall" else f" ({row['criterion']})"
    return (
        row["candidate"],
        row["competitor"] + criterion,
        row["good"],
        row["same"],
        row["bad"],
        _number(row["ratio"], 3) if row["outcome"] == "ok" else row["outcome"],
        "-" if interval is None else f"{interval[0]:.3f}..{interval[1]:.3f}",
        row["interval_method"].partition(",")[0],
        "-" if row["tie_share"] is None else f"{row['tie_share']:.1%}",
        _number(row["good_over_bad"], 2),
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _echo_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    lines = [tuple(header), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@app.command()
def invite(
    name: Name,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many evaluators to let in.")] = 1,
    db: Db = None,
) -> None:
    """Let evaluators in: prints a pseudonym and a secret token for each, shown this once."""
    from arena import studies
    from arena.database import open_database

    with open_database(db).session() as session:
        enrolled = [studies.enrol(session, name) for _ in range(count)]
    for person in enrolled:
        typer.echo(f"{person.pseudonym}\t{person.token}")


@app.command()
def export(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV file to write.")],
    db: Db = None,
) -> None:
    """Write the votes of a study to a CSV file which `study import` reads."""
    from arena import exchange
    from arena.database import open_database
    from arena.media import write_file

    with open_database(db).reading() as session:
        text = exchange.export_votes(session, name)
    write_file(out, text.encode("utf-8"))
    typer.echo(f"written: {out}")
