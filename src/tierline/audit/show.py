"""Findings as JSON-ready data and as a table."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tierline.audit.claims import ClaimsFile
from tierline.audit.figure import unit
from tierline.audit.verdict import Finding, written
from tierline.report.tables import shown

_STYLES = {
    "holds": "green",
    "holds_if": "cyan",
    "unit_mix": "yellow",
    "wrong": "red",
    "not_derivable": "dim",
}
_WIDTH = 130


def findings_json(findings: Sequence[tuple[ClaimsFile, Finding]]) -> dict[str, Any]:
    """Return the findings as JSON-ready data; `derived` is in `derived_unit`, a unit without prefix.

    `derived_exact` is the same value as a whole number or a fraction, for those who compare exactly.
    """
    return {
        "claims": [_finding_json(file, finding) for file, finding in findings],
        "verdicts": _counts(findings),
    }


def print_findings(findings: Sequence[tuple[ClaimsFile, Finding]], console: Console | None = None) -> None:
    """Print a table per file, and how often each verdict was given."""
    out = console or Console(highlight=False)
    if not out.is_terminal:
        out.width = max(out.width, _WIDTH)
    files = list(dict.fromkeys(file.name for file, _ in findings))
    for name in files:
        of_file = [(file, finding) for file, finding in findings if file.name == name]
        out.print(Text(shown(of_file[0][0].title), style="bold"))
        out.print(_table([finding for _, finding in of_file]))
        out.print()
    total = ", ".join(f"{count} {verdict}" for verdict, count in _counts(findings).items() if count)
    out.print(Text(f"{len(findings)} claims: {total}", style="bold"))


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("claim", "published", "derived", "verdict", "diagnosis"):
        table.add_column(
            column, overflow="fold", justify="right" if column in ("published", "derived") else "left"
        )
    for finding in findings:
        claim = finding.claim
        derived = "-" if finding.derived is None else written(finding.derived, unit(claim.unit.base))
        cells = (claim.id, published(finding), derived, finding.verdict, finding.diagnosis)
        style = _STYLES[finding.verdict]
        texts = [Text(shown(cell), style=style if i == 3 else "") for i, cell in enumerate(cells)]
        table.add_row(*texts)
    return table


def published(finding: Finding) -> str:
    """Return the figure as it was published."""
    claim = finding.claim
    figures = dict.fromkeys((claim.published, claim.published_high))
    return f"{' to '.join(f'{float(f):,.10g}' for f in figures)} {claim.unit.name}"


def _finding_json(file: ClaimsFile, finding: Finding) -> dict[str, Any]:
    claim = finding.claim
    base = unit(claim.unit.base)
    derived = None if finding.derived is None else finding.derived / base.size
    entry: dict[str, Any] = {
        "id": claim.id,
        "file": file.name,
        "where": claim.where,
        "says": claim.says,
        "quantity": str(claim.expression),
        "published": _number(claim.published),
        "published_unit": claim.unit.name,
        "derived": None if derived is None else _number(derived),
        "derived_exact": None if derived is None else str(derived),
        "derived_unit": base.name,
        "factor": None if finding.factor is None else float(finding.factor),
        "verdict": finding.verdict,
        "diagnosis": finding.diagnosis,
    }
    if claim.published != claim.published_high:
        entry["published_high"] = _number(claim.published_high)
    if finding.also_unit_mix:
        entry["also"] = ["unit_mix"]
    return entry


def _counts(findings: Sequence[tuple[ClaimsFile, Finding]]) -> dict[str, int]:
    counted = Counter(finding.verdict for _, finding in findings)
    return {verdict: counted[verdict] for verdict in _STYLES}  # type: ignore[index]  # its keys are the verdicts


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)
