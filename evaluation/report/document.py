"""The report as sections: one account of what every form shows."""

from collections.abc import Mapping
from typing import Any

from evaluation.report.ablation_sections import ablation_sections
from evaluation.report.blocks import Block, Cell, Clips, Folded, Section, Shown, Table, Words
from evaluation.report.metric_sections import metric_sections
from evaluation.report.model import Report
from evaluation.report.numbers import number, seconds
from evaluation.report.study_sections import study_sections

OUTCOMES = ("made", "refused", "missing", "failed")


def sections_of(report: Report) -> list[Section]:
    """Return the report's sections in the order they are read."""
    return [
        *study_sections(report),
        *ablation_sections(report),
        *metric_sections(report),
        *_cost(report),
        *_examples(report),
        _reproduction(report),
    ]


def _cost(report: Report) -> list[Section]:
    if not report.costs:
        if not report.provenance["videos"]:
            return []
        words = Words(
            "The database holds no record of what its videos cost; name the folder of their run to see it: magicvideo "
            "report FOLDER.",
            soft=True,
        )
        return [Section("Cost", (words,))]
    stages = list(dict.fromkeys(stage for item in report.costs for stage in item.stages))
    head = (
        "System",
        *(name.capitalize() for name in OUTCOMES),
        *stages,
        "Median",
        "All",
        "Paid",
        "Peak memory",
    )
    rows, records = [], []
    for item in report.costs:
        paid = ", ".join(f"{value:,.2f} {currency}" for currency, value in item.cost.items())
        rows.append(
            (
                Cell(item.system),
                *(Cell(str(item.outcomes.get(name, 0))) for name in OUTCOMES),
                *(Cell(seconds(item.stages.get(stage))) for stage in stages),
                Cell(seconds(item.median_seconds)),
                Cell(seconds(item.total_seconds)),
                Cell(paid or "–"),
                Cell("–" if item.peak_memory is None else f"{item.peak_memory / 2**30:.2f} GiB"),
            )
        )
        records.append(
            {"system": item.system}
            | {name: item.outcomes.get(name, 0) for name in OUTCOMES}
            | {f"{stage}_seconds": item.stages.get(stage) for stage in stages}
            | {"median_seconds": item.median_seconds, "total_seconds": item.total_seconds}
            | {"peak_memory": item.peak_memory, "cost": paid}
        )
    words = Words(
        "Seconds of wall clock as the videos were made. A stage's mean leaves out outputs that were reused; a video's "
        "time does not. Refusals by a system's moderation are left out of comparisons in pairs.",
        soft=True,
    )
    return [
        Section("Cost", (words, Table("cost", "What the videos took", head, tuple(rows), tuple(records))))
    ]


def _examples(report: Report) -> list[Section]:
    if not report.examples:
        return []
    sections = [Section("Examples")]
    for example in report.examples:
        clips = tuple(
            Shown(strip.system, strip.geometry, strip.clip, strip.images) for strip in example.strips
        )
        sections.append(Section(f"“{example.prompt}”", (Clips(clips),), level=3))
    return sections


def _reproduction(report: Report) -> Section:
    program = report.provenance["program"]
    commit = _commit(program["git_commit"], program["git_dirty"])
    words = (
        f"Report made by magicvideo {program['packages'].get('magicvideo', '(not installed)')}, {commit}, Python "
        f"{program['python']}, {program['machine']}."
    )
    blocks: list[Block] = [Words(words)]
    for source in report.provenance["sources"]:
        blocks.append(Words(f"Database {source['database']}, {number(source['videos'], 0)} videos."))
    runs = [run for source in report.provenance["sources"] for run in source["manifests"]]
    blocks += [_manifests(runs)] if runs else []
    blocks += _commands(report)
    made = [run for source in report.provenance["sources"] for run in source["runs"]]
    blocks += [_runs(made)] if made else []
    packages = program["packages"]
    table = Table(
        "packages",
        "Package versions",
        ("Package", "Version"),
        tuple((Cell(name), Cell(version)) for name, version in packages.items()),
        tuple({"package": name, "version": version} for name, version in packages.items()),
    )
    blocks.append(Folded("Package versions", (table,)))
    return Section("To make these numbers again", tuple(blocks))


def _commit(commit: str | None, dirty: bool | None) -> str:
    if not commit:
        return "no commit"
    return f"commit {commit[:12]}" + (" with uncommitted changes" if dirty else "")


def _manifests(runs: list[Mapping[str, Any]]) -> Table:
    head = ("File", "State", "Started", "Commit", "Config", "Prompts", "Prompt digest", "Seeds", "Devices")
    rows = tuple(
        (
            Cell(run["file"] or "–", "code"),
            Cell(run["state"]),
            Cell(moment(run["started_at"])),
            Cell(_commit(run["git_commit"], run["git_dirty"])),
            Cell((run["config_digest"] or "–")[:12], "code"),
            Cell(", ".join(f"{source['name']} {source['count']}" for source in run["prompts"] or ())),
            Cell((run["prompt_digest"] or "–")[:12], "code"),
            Cell(", ".join(map(str, run["seeds"] or ()))),
            Cell(", ".join(run["devices"] or ())),
        )
        for run in runs
    )
    return Table("manifests", "Runs of benches and ablations", head, rows, tuple(runs), left=9)


def _commands(report: Report) -> list[Block]:
    runs = [run for source in report.provenance["sources"] for run in source["manifests"]]
    ablated = {item.result["reproduce"].get("command") for item in report.ablations}
    files = dict.fromkeys(run["file"] for run in runs if run["file"])
    benches = [f"magicvideo bench run {file}" for file in files if f"magicvideo ablate {file}" not in ablated]
    commands = (*benches, *sorted(filter(None, ablated)))
    return [Words(f"Commands: {'; '.join(commands)}.")] if commands else []


def _runs(runs: list[Mapping[str, Any]]) -> Table:
    head = ("System", "State", "Seed", "Device", "Config", "Commit", "Started")
    rows = tuple(
        (
            Cell(run["system"]),
            Cell(run["state"]),
            Cell(str(run["seed"])),
            Cell(run["device"]),
            Cell(run["config_digest"][:12], "code"),
            Cell(_commit(run["git_commit"], run["git_dirty"])),
            Cell(moment(run["created_at"])),
        )
        for run in runs
    )
    return Table("runs", f"Generation, the newest {len(runs)}", head, rows, tuple(runs), left=7)


def moment(text: str) -> str:
    """Write a moment for readers."""
    return text.replace("T", " ").replace("+00:00", " UTC")
