"""A gate verdict for terminals and CI: table, JSON document and JUnit XML. Pure over the stored rows."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from core.evidence.models import Criterion, CriterionVerdict, GateVerdict

# Exit codes of `manage.py gate`: only a pass is 0.
EXIT_CODES = {"pass": 0, "fail": 1}
EXIT_USAGE = 2
EXIT_UNDECIDED = 3
# Characters XML 1.0 cannot hold.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def exit_code(status: str) -> int:
    """0 pass, 1 fail, 3 inconclusive, not_run or stale."""
    return EXIT_CODES.get(status, EXIT_UNDECIDED)


def criterion_rows(verdict: GateVerdict) -> list[CriterionVerdict]:
    """The criterion verdicts in the gate's order."""
    return list(verdict.criteria.select_related("criterion").order_by("criterion__ordinal"))


def report_document(verdict: GateVerdict, status: str, reasons: list[str]) -> dict[str, Any]:
    """The verdict as JSON. `status` counts today (stale included); numbers are unrounded, worsening positive."""
    return {
        "status": status,
        "exit_code": exit_code(status),
        "sentence": verdict.sentence,
        "stale_because": reasons,
        "gate": {
            "slug": verdict.gate.slug,
            "version": verdict.gate.version,
            "title": verdict.gate.title,
            "digest": verdict.gate.digest,
        },
        "candidate": {"label": verdict.candidate_label, "digest": verdict.candidate_digest},
        "baseline": {"label": verdict.baseline_label, "digest": verdict.baseline_digest},
        "verdict_id": str(verdict.pk),
        "computed_at": verdict.computed_at.isoformat(),
        "inputs_digest": verdict.inputs_digest,
        "runs": [str(run_id) for run_id in verdict.run_ids],
        "criteria": [_criterion_document(row) for row in criterion_rows(verdict)],
    }


def _criterion_document(row: CriterionVerdict) -> dict[str, Any]:
    criterion = row.criterion
    return {
        "key": criterion.key,
        "title": criterion.title,
        "metric": criterion.metric,
        "dataset": criterion.dataset,
        "slice": criterion.slice,
        "severity": criterion.severity,
        "rule": criterion.rule,
        "status": row.status,
        "comparison": row.comparison,
        "sentence": row.sentence,
        "baseline": row.baseline_value,
        "candidate": row.candidate_value,
        "observed": row.observed,
        "low": row.low,
        "high": row.high,
        "level": row.level,
        "n": row.n,
        "p_value": row.p_value,
        "p_adjusted": row.p_adjusted,
        "power": row.power,
        "detectable": row.mde,
        "method": row.method,
        "attribution": row.attribution,
        "playbook": criterion.playbook,
        "runs": [str(run_id) for run_id in row.run_ids],
    }


def report_table(verdict: GateVerdict) -> list[str]:
    """The verdict table as lines: a row of numbers per criterion, its sentence under it."""
    head = ("VERDICT", "CRITERION", "BASELINE", "CANDIDATE", "WORSENING [INTERVAL]", "MARGIN", "N", "POWER")
    rows = criterion_rows(verdict)
    cells = [_cells(row) for row in rows]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]

    def line(parts: tuple[str, ...]) -> str:
        aligned = [
            part.ljust(width) if i < 2 else part.rjust(width)
            for i, (part, width) in enumerate(zip(parts, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    lines = [line(head)]
    for row, parts in zip(rows, cells, strict=True):
        lines += [line(parts), f"    {row.sentence}"]
    return lines


def _cells(row: CriterionVerdict) -> tuple[str, ...]:
    rule = row.criterion.rule
    bound = rule.get("type") == "bound"
    interval = ""
    if row.observed is not None:
        low = "-inf" if row.low is None else f"{row.low:.4g}"
        high = "inf" if row.high is None else f"{row.high:.4g}"
        interval = f"{row.observed:.4g} [{low}, {high}]"
    margin = f"{rule.get('op')} {rule.get('bound'):.4g}" if bound else f"{rule.get('margin', 0):.4g}"
    if rule.get("scale") == "ratio":
        margin = f"{100 * float(rule['margin']):.4g} %"
    status = row.status.replace("_", " ").upper()
    if row.criterion.severity == Criterion.Severity.ADVISORY:
        status += " (advice)"
    return (
        status,
        row.criterion.key,
        "-" if row.baseline_value is None else f"{row.baseline_value:.4g}",
        "-" if row.candidate_value is None else f"{row.candidate_value:.4g}",
        interval or "-",
        margin,
        str(row.n),
        "-" if row.power is None else f"{100 * row.power:.0f} %",
    )


def report_junit(verdict: GateVerdict, status: str, reasons: list[str]) -> bytes:
    """JUnit XML: one test case per criterion. What blocks without a fail is an error; advice that does not pass
    is skipped, so that CI shows it and does not stop for it."""
    rows = criterion_rows(verdict)
    suite = ElementTree.Element("testsuite", name=_xml(f"gate {verdict.gate.slug} v{verdict.gate.version}"))
    counts = {"failure": 0, "error": 0, "skipped": 0}
    for row in rows:
        criterion = row.criterion
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_xml(f"gate.{verdict.gate.slug}.{criterion.dataset or 'all'}"),
            name=_xml(criterion.key),
            time="0",
        )
        kind = _junit_kind(row, status)
        if kind:
            counts[kind] += 1
            words = row.sentence if row.status != "pass" else " ".join(reasons)
            found = ElementTree.SubElement(case, kind, message=_xml(words), type=row.status)
            found.text = _xml(f"{criterion.title}\n{words}")
        else:
            ElementTree.SubElement(case, "system-out").text = _xml(row.sentence)
    suite.set("tests", str(len(rows)))
    suite.set("failures", str(counts["failure"]))
    suite.set("errors", str(counts["error"]))
    suite.set("skipped", str(counts["skipped"]))
    suite.set("timestamp", verdict.computed_at.strftime("%Y-%m-%dT%H:%M:%S"))
    ElementTree.SubElement(suite, "system-out").text = _xml(
        f"{verdict.candidate_label} against {verdict.baseline_label}: {status}. {verdict.sentence}"
    )
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _junit_kind(row: CriterionVerdict, status: str) -> str:
    if row.criterion.severity == Criterion.Severity.ADVISORY:
        return "" if row.status == "pass" else "skipped"
    if row.status == "fail":
        return "failure"
    # A stale gate passes nothing, whatever its criteria said once.
    return "error" if row.status != "pass" or status == "stale" else ""


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
