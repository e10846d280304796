"""A gate's result as text, Markdown, JUnit XML and GitHub annotations; all say what ``GateResult.verdict`` says."""

import xml.etree.ElementTree as ET

from evaluation.gate.compare import GateResult, MetricVerdict

HEADER = ("metric", "verdict", "baseline", "candidate", "improvement", "interval", "tolerance", "prompts")


def text(result: GateResult) -> str:
    """Return the result for a terminal: one line a metric, the overall verdict last."""
    lines = [row.sentence() for row in result.metrics]
    return "\n".join([*lines, *result.problems[1:], result.sentence()])


def markdown(result: GateResult) -> str:
    """Return the result as a Markdown section, as a job summary shows it."""
    rows = [_cells(row) for row in result.metrics]
    table = [HEADER, tuple("---" for _ in HEADER), *rows] if rows else []
    lines = [f"### Gate: {result.verdict}", "", result.sentence(), ""]
    lines += [f"* {problem}" for problem in result.problems]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    lines += [
        "",
        f"Improvements are means over prompts of paired differences, positive is better; the intervals hold "
        f"together with {result.confidence:.0%} confidence. Automatic values, no votes.",
    ]
    return "\n".join(lines) + "\n"


def junit(result: GateResult) -> str:
    """Return the result as JUnit XML, one test case a metric."""
    cases = [_case(row.metric, row.verdict, row.sentence(), result) for row in result.metrics]
    cases += [_case("pairing", "incomparable", problem, result) for problem in result.problems]
    suite = ET.Element(
        "testsuite",
        name=f"gate {result.candidate} against {result.baseline}",
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
    )
    suite.extend(cases)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def github(result: GateResult) -> str:
    """Return workflow commands that annotate a GitHub Actions run."""
    kinds = {"pass": "notice", "regression": "error", "incomparable": "error", "inconclusive": "warning"}
    said: list[tuple[str, str]] = [
        (row.verdict, row.sentence()) for row in result.metrics if row.verdict != "pass"
    ]
    said += [("incomparable", problem) for problem in result.problems]
    said = said or [(result.verdict, result.sentence())]
    return "\n".join(
        f"::{kinds[verdict]} title=magicvideo gate::{_escaped(words)}" for verdict, words in said
    )


def _cells(row: MetricVerdict) -> tuple[str, ...]:
    known = row.low is not None and row.high is not None and not row.identical
    interval = f"{row.low:+.4g} to {row.high:+.4g}" if known else ""
    return (
        row.metric + (f" ({row.unit})" if row.unit else ""),
        row.verdict + (f": {row.reason}" if row.reason else ""),
        "" if row.baseline is None else f"{row.baseline:.4g}",
        "" if row.candidate is None else f"{row.candidate:.4g}",
        row.shown,
        interval,
        f"{row.tolerance:g}",
        str(row.n) + (f" (needs {row.needed})" if row.needed else ""),
    )


def _case(name: str, verdict: str, words: str, result: GateResult) -> ET.Element:
    case = ET.Element("testcase", classname="magicvideo.gate", name=name)
    kind = {"regression": "failure", "incomparable": "error", "inconclusive": "skipped"}.get(verdict)
    if verdict == "inconclusive" and result.fail_on_inconclusive:
        kind = "failure"
    if kind is not None:
        ET.SubElement(case, kind, message=words)
    else:
        ET.SubElement(case, "system-out").text = words
    return case


def _escaped(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
