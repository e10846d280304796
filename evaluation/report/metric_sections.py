"""What a report says about automatic metrics: values, differences, and how they stand beside votes."""

from dataclasses import asdict

from evaluation.report.blocks import Block, Cell, Listed, Section, Table, Tone, Words
from evaluation.report.model import AutomaticComparison, MetricValue, PseudoVotes, Report
from evaluation.report.numbers import number, percent, ratio, significant
from evaluation.report.study_sections import interval_ends

ARROWS = {
    "higher": "↑ higher",
    "lower": "↓ lower",
    "neutral": "describes",
}
UNBROKEN = "\u00a0"
MEASURES = {
    "accuracy": "Equal verdicts",
    "accuracy_without_ties": "Right sign where people decide",
    "tau_b": "Kendall's τ-b",
}


def metric_sections(report: Report) -> list[Section]:
    """Return the chapters on metrics, differences and votes, those that have something to say."""
    return [*_values(report), *_differences(report), *_beside(report)]


def _values(report: Report) -> list[Section]:
    if not report.metrics:
        return []
    systems = list(dict.fromkeys(item.system for item in report.metrics))
    cells = {(item.metric, item.system): item for item in report.metrics}
    rows = []
    for item in {item.metric: item for item in report.metrics}.values():
        title = item.title + (f" ({item.unit})" if item.unit else "")
        values = (_value(cells.get((item.metric, system))) for system in systems)
        rows.append((Cell(title), *values, Cell(ARROWS[item.direction], "soft")))
    records = tuple(asdict(item) for item in report.metrics)
    head = ("Metric", *systems, "Better")
    blocks: list[Block] = [
        Words(
            "Computed by programs; no person looked. Mean over videos ± standard error (n videos), or one value of the "
            "whole set.",
            soft=True,
        ),
        Table("metrics", "Automatic metrics", head, tuple(rows), records),
        Listed(
            "Signatures: what makes two values comparable",
            tuple(dict.fromkeys(item.signature for item in report.metrics)),
        ),
    ]
    absent = tuple(
        f"{item.title}, {item.system}: {item.absent} without a value ({item.reason})"
        for item in report.metrics
        if item.absent
    )
    blocks += [Listed("Videos without a value", absent)] if absent else []
    return [Section("Metrics", tuple(blocks), tags=("automatic",))]


def _value(item: MetricValue | None) -> Cell:
    if item is None:
        return Cell("not scored", "soft")
    if item.value is None:
        return Cell(item.reason or "no value", "soft")
    error = "" if item.standard_error is None else f" ± {significant(item.standard_error, 2)}"
    without = f", {item.absent} without" if item.absent else ""
    alike = "" if item.comparable else ", not comparable"
    shown = f"{significant(item.value)}{error}".replace(" ", UNBROKEN)
    counted = f"(n{UNBROKEN}{item.n}{without}{alike})"
    return Cell(f"{shown} {counted}", "" if item.comparable else "soft")


def _differences(report: Report) -> list[Section]:
    sections = []
    pairs = dict.fromkeys((item.candidate, item.competitor) for item in report.automatic)
    for candidate, competitor in pairs:
        items = [
            item
            for item in report.automatic
            if (item.candidate, item.competitor) == (candidate, competitor) and item.direction != "neutral"
        ]
        if items:
            name = f"automatic-{candidate}-{competitor}"
            sections.append(
                Section(f"{candidate} against {competitor}", (_difference_table(name, items),), level=3)
            )
    if not sections:
        return []
    words = Words(
        "Differences of metric values on the same prompts, the first system minus the other, with 95 % Student "
        "intervals over prompts, one by one and uncorrected for their number. Good, Same and Bad are the metric's "
        "verdicts by prompt, with as many ties as people saw in the paper. They say what changed, not what people "
        "prefer.",
        soft=True,
    )
    return [Section("Automatic comparisons", (words,), tags=("automatic, no votes",)), *sections]


def _difference_table(name: str, items: list[AutomaticComparison]) -> Table:
    tones: dict[str, Tone] = {"better": "ahead", "worse": "behind"}
    rows, records = [], []
    for item in items:
        record = asdict(item) | interval_ends(item.interval)
        del record["interval"], record["pseudo"]
        records.append(record | _pseudo_record(item.pseudo))
        if item.difference is None:
            rows.append((Cell(item.title), Cell(item.reason or "", "soft"), *(Cell("") for _ in range(5))))
            continue
        low, high = item.interval or (None, None)
        between = f"{significant(low)}{UNBROKEN}…{UNBROKEN}{significant(high)}"
        if item.interval is None:
            between = "too few prompts"
        elif item.difference == low == high == 0:
            between = "identical"
        rows.append(
            (
                Cell(item.title),
                Cell(significant(item.difference)),
                Cell(between, "soft" if item.interval is None else ""),
                Cell(_gsb(item.pseudo)),
                Cell("–" if item.pseudo is None else ratio(item.pseudo.ratio, item.pseudo.interval)),
                Cell(str(item.n)),
                Cell(item.verdict, tones.get(item.verdict, "soft")),
            )
        )
    head = ("Metric", "Difference", "95 % interval", "G/S/B", "(G+S)/(B+S), automatic", "Prompts", "Reading")
    caption = f"{items[0].candidate} minus {items[0].competitor}, automatic"
    return Table(name, caption, head, tuple(rows), tuple(records))


def _gsb(pseudo: PseudoVotes | None) -> str:
    return "–" if pseudo is None else f"{pseudo.good}/{pseudo.same}/{pseudo.bad}"


def _pseudo_record(pseudo: PseudoVotes | None) -> dict[str, object]:
    if pseudo is None:
        return {}
    values = asdict(pseudo)
    ends = interval_ends(values.pop("interval"))
    return {f"automatic_{key}": value for key, value in (values | ends).items()}


def _beside(report: Report) -> list[Section]:
    if report.unanswered:
        words = Words(report.unanswered, soft=True)
        return [Section("Metrics beside votes", (words,), tags=("automatic",))]
    if not report.agreement:
        return []
    words = Words(
        "How far each metric says what people said, on the same pairs of videos. Differences within the band are Same; "
        f"the band is fitted on {report.beside_votes[0].pseudo.band_from}. Automatic ratios are alarms for "
        "regressions, never substitutes for votes.",
        soft=True,
    )
    studies = dict.fromkeys(item.study for item in report.agreement)
    tables = [table for study in studies for table in (_agreement(report, study), _ratios(report, study))]
    return [Section("Metrics beside votes", (words, *tables), tags=("automatic beside votes of people",))]


def _agreement(report: Report, study: str) -> Table:
    items = [item for item in report.agreement if item.study == study]
    rows = []
    for item in items:
        found = item.measures
        best = found["tie_optimised"]
        rows.append(
            (
                Cell(item.title),
                *(Cell(number(found[key], 3)) for key in MEASURES),
                Cell(f"{number(best['accuracy'], 3)} at {percent(best['tie_rate'])} ties"),
                Cell(percent(found["metric_rate"])),
                Cell(number(item.log_ratio_correlation)),
                Cell(number(item.soft_pairwise_accuracy)),
            )
        )
    records = [
        {"study": item.study, "metric": item.metric}
        | {key: value for key, value in item.measures.items() if key not in ("tie_optimised", "label")}
        | {f"best_{key}": value for key, value in item.measures["tie_optimised"].items()}
        | {
            "human_ceiling": item.human_ceiling,
            "log_ratio_correlation": item.log_ratio_correlation,
            "soft_pairwise_accuracy": item.soft_pairwise_accuracy,
        }
        for item in items
    ]
    found, ceiling = items[0].measures, items[0].human_ceiling
    one = "not computable" if ceiling is None else number(ceiling, 3)
    caption = (
        f"Agreement with people, study {study}: {found['pairs']:,} votes, of which "
        f"people call {percent(found['human_rate'])} Same. Equal verdicts of one person and the "
        f"majority of the others {one}, of always Same "
        f"{number(found['always_tie'], 3)}"
    )
    head = (
        "Metric",
        *MEASURES.values(),
        "Best accuracy",
        "Its ties",
        "ρ of log ratios",
        "Soft pairwise accuracy",
    )
    return Table(f"agreement-with-people-{study}", caption, head, tuple(rows), tuple(records))


def _ratios(report: Report, study: str) -> Table:
    items = [item for item in report.beside_votes if item.study == study]
    rows, records = [], []
    for item in items:
        people = item.people
        rows.append(
            (
                Cell(f"{item.candidate} / {item.competitor}"),
                Cell(item.title),
                Cell(_gsb(item.pseudo)),
                Cell(ratio(item.pseudo.ratio, item.pseudo.interval)),
                Cell(f"{people['good']}/{people['same']}/{people['bad']}"),
                Cell(ratio(people["ratio"], people["interval"]), "key"),
            )
        )
        records.append(
            {
                "study": study,
                "candidate": item.candidate,
                "competitor": item.competitor,
                "metric": item.metric,
            }
            | _pseudo_record(item.pseudo)
            | {f"people_{key}": people[key] for key in ("good", "same", "bad", "ratio")}
        )
    head = (
        "Pair",
        "Metric",
        "G/S/B, automatic",
        "(G+S)/(B+S), automatic",
        "G/S/B, people",
        "(G+S)/(B+S), people",
    )
    caption = f"Ratios of metrics beside those of people, study {study}"
    return Table(f"ratios-beside-votes-{study}", caption, head, tuple(rows), tuple(records), left=2)
