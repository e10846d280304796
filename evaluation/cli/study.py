"""``magicvideo study``: make preference studies, bring votes in and out, and say what they show."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from evaluation.cli.study_exchange import MediaStore, export, importing
from evaluation.cli.study_options import (
    Db,
    EvaluatorCorrelation,
    Evaluators,
    Name,
    PromptCorrelation,
    Prompts,
    Ties,
    VotesPerEvaluator,
)
from evaluation.cli.study_people import exclude, forget, invite, people, readmit, revoke
from evaluation.cli.study_simulation import simulate

app = typer.Typer(
    help="Make preference studies, bring votes in and out, report on them.", no_args_is_help=True
)
app.add_typer(importing, name="import")
app.command()(export)
for command in (invite, revoke, exclude, readmit, forget, people, simulate):
    app.command()(command)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
def create(
    name: Name,
    candidate: Annotated[str | None, typer.Option(help="System the study is about.")] = None,
    competitor: Annotated[
        list[str] | None, typer.Option(help="System to compare it with; may be given again.")
    ] = None,
    protocol: Annotated[
        Path | None, typer.Option(help="Protocol file, YAML or JSON; the options here go before it.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Design to start from, such as 'paper'.")] = None,
    votes_per_pair: Annotated[int | None, typer.Option(min=1, help="Evaluators for each pair.")] = None,
    quota: Annotated[int | None, typer.Option(min=1, help="Most pairs asked of one evaluator.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the order of pairs and the sides.")] = None,
    question: Annotated[str | None, typer.Option(help="What evaluators are asked.")] = None,
    videos: Annotated[
        list[str] | None,
        typer.Option(
            help="SYSTEM=FOLDER of files named PROMPT-INDEX.mp4, brought in first; without --candidate"
            " the first one named is it, the others compete."
        ),
    ] = None,
    media_store: MediaStore = None,
    replace: Annotated[bool, typer.Option("--replace", help="Change a study that is still a draft.")] = False,
    db: Db = None,
) -> None:
    """Draft a study over the videos that both systems have of the same prompts."""
    from arena import protocol as protocols
    from arena import studies
    from arena.database import open_database
    from arena.folders import import_videos

    folders = _folders(videos or [])
    if folders and candidate is None:
        candidate, *others = folders
        competitor = competitor or others
    given = {
        "candidate": candidate,
        "competitors": competitor,
        "votes_per_pair": votes_per_pair,
        "quota": quota,
        "seed": seed,
        "question": question,
    }
    keys = protocols.preset(preset) if preset else {}
    keys |= _read_protocol(protocol) if protocol else {}
    keys |= {key: value for key, value in given.items() if value is not None}
    plan = protocols.Protocol.from_dict(keys)
    with open_database(db, create=bool(folders)).session() as session:
        for system, folder in folders.items():
            import_videos(session, folder, system=system, keep_at=media_store)
        studies.create_study(session, name, plan, replace=replace)
        status = studies.study_status(session, name)
    typer.echo(
        f"study {name!r} is {status.state}: {status.pairs} pairs of {status.prompts} prompts,"
        f" {status.target_votes} votes wanted"
    )


def _read_protocol(path: Path) -> dict[str, Any]:
    """Return the keys that a protocol file gives; a wrong one is refused with its line."""
    from dataclasses import fields
    from typing import get_type_hints

    from pydantic import ConfigDict, create_model

    from arena.protocol import Protocol, read_protocol
    from evaluation.yaml_file import read_yaml

    hints = get_type_hints(Protocol)
    keys: dict[str, Any] = {field.name: (hints[field.name], None) for field in fields(Protocol)}
    given = read_protocol(path)
    read_yaml(path, create_model("ProtocolFile", __config__=ConfigDict(extra="forbid"), **keys))
    return given


def _folders(videos: Sequence[str]) -> dict[str, Path]:
    """Read SYSTEM=FOLDER options."""
    found = {}
    for given in videos:
        system, sign, folder = given.partition("=")
        if not (system and sign and folder) or system in found:
            raise typer.BadParameter(f"--videos must be SYSTEM=FOLDER, each system once; received {given!r}")
        found[system] = Path(folder)
    return found


@app.command("protocol")
def show_protocol(name: Name, db: Db = None) -> None:
    """Print a study's protocol as a file that `study create --protocol` reads."""
    import yaml

    from arena import studies
    from arena.database import open_database

    with open_database(db).reading() as session:
        study = studies.get_study(session, name)
        plan = studies.study_protocol(study).to_dict() if study.kind == "arena" else study.protocol
    typer.echo(yaml.safe_dump(plan, sort_keys=False, allow_unicode=True).rstrip())


@app.command()
def audit(db: Db = None) -> None:
    """Check that no entry of the log of changes was altered or taken out."""
    from arena import audit as log
    from arena.database import open_database
    from arena.errors import StudyError

    with open_database(db).reading() as session:
        broken = log.first_broken(session)
        entries = log.count(session)
    if broken is not None:
        raise StudyError(f"entry {broken} of the log does not follow from the one before it")
    typer.echo(f"the log is whole: {entries} entries")


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
    from arena.stopping import stopping_report

    with open_database(db).reading() as session:
        found = asdict(studies.study_status(session, name))
        looked = stopping_report(session, studies.get_study(session, name))
    if as_json:
        typer.echo(json.dumps(found | {"stopping": looked}, indent=2))
        return
    for key, value in found.items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        typer.echo(f"{key.replace('_', ' '):13} {'-' if shown in (None, '') else shown}")
    if looked["comparisons"]:
        typer.echo(f"\n{looked['sentence']}")


@app.command("open")
def open_one(name: Name, media_store: MediaStore = None, db: Db = None) -> None:
    """Make the blinded copies of a study's videos, then let people vote on it."""
    from tqdm import tqdm

    from arena import studies
    from arena.database import open_database

    with tqdm(desc="blinded copies", unit="video", leave=False) as bar:

        def progress(done: int, needed: int) -> None:
            bar.total = needed
            bar.update(done - bar.n)

        study = studies.open_study(open_database(db), name, progress, keep_at=media_store)
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
    from arena.report_data import nested_by_method, study_report

    with open_database(db).reading() as session:
        found = study_report(session, name)
    if as_json:
        typer.echo(json.dumps(nested_by_method(found), indent=2, allow_nan=False))
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
    _echo_subgroups(found["subgroups"])
    _echo_ranking(found["ranking"])
    _echo_agreement(found["agreement"])
    notes = [] if found["ranking"] is None else found["ranking"]["notes"]
    if found["stopping"]["comparisons"]:
        notes = [*notes, found["stopping"]["sentence"]]
    if found["protocol_missing"]:
        notes = [*notes, f"Not said about this study: {', '.join(found['protocol_missing'])}."]
    for warning in [*found["warnings"], *notes]:
        typer.echo(f"\n* {warning}")


def _echo_subgroups(subgroups: Mapping[str, Any]) -> None:
    """Print the comparisons within groups of evaluators and categories of prompts, where there are any."""
    header = ("group", "candidate", "competitor", "votes", "(G+S)/(B+S)", "interval", "p (Holm)")
    tables = {"by group of evaluators": "evaluator_groups", "by category of prompts": "prompt_categories"}
    for title, key in tables.items():
        if subgroups[key]:
            typer.echo(f"\n{title} (exploratory; p corrected by Holm within this table)")
            _echo_table(header, [_subgroup_row(row) for row in subgroups[key]])


def _subgroup_row(row: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        row["group"],
        row["candidate"],
        row["competitor"],
        row["n"],
        _number(row["ratio"], 3) if row["outcome"] == "ok" else row["outcome"],
        "-" if row["interval"] is None else "{:.3f}..{:.3f}".format(*row["interval"]),
        "-" if row["p_holm"] is None else f"{row['p_holm']:.3g}",
    )


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
        for name, found in agreement.items()
        if isinstance(found, dict) and name != "reliability"
    ]
    if rows:
        typer.echo("")
        _echo_table(("agreement", "value", "interval"), rows)
    reliability = agreement["reliability"]
    if reliability is not None:
        values = [person["value"] for person in reliability["evaluators"].values()]
        named = ", ".join(reliability["uninformative"]) or "nobody"
        typer.echo(
            f"\nAnswers that follow the videos rather than a habit: {min(values):.2f} to {max(values):.2f} of each"
            f" evaluator's; no more than chance: {named}."
        )


@app.command()
def plan(
    ratio: Annotated[float, typer.Option(help="Ratio (G+S)/(B+S) the study should be able to show.")],
    ties: Ties = 0.2,
    evaluators: Evaluators = 61,
    prompts: Prompts = 100,
    votes_per_evaluator: VotesPerEvaluator = None,
    rho_evaluator: EvaluatorCorrelation = 0.05,
    rho_prompt: PromptCorrelation = 0.10,
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
