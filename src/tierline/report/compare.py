"""A comparison as a table and as JSON."""

from typing import TYPE_CHECKING

from tierline.report.run import pace_json, pace_line
from tierline.units import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from tierline.compare.compare import Comparison, Row

_WIDTH = 100


def compare_json(comparison: "Comparison") -> dict[str, object]:
    """Return the rows in base units; `error_fraction` is the plan's, and each is (predicted - measured) /
    measured, for shares of time (unit `fraction`) predicted - measured.
    """
    report = comparison.report
    return {
        "text": report.text,
        "tokens": len(report.token_ids),
        "bound": report.prediction.bound,
        "paced": pace_json(report.prediction.pace),
        "rows": [
            {
                "quantity": row.quantity,
                "unit": row.unit,
                "planned": row.planned,
                "simulated": row.simulated,
                "measured": row.measured,
                "error_fraction": row.error_fraction,
                "simulated_error_fraction": row.simulated_error_fraction,
            }
            for row in comparison.rows
        ],
    }


def print_comparison(comparison: "Comparison") -> None:
    """Print planned | simulated | measured to stdout, with the error of both predictions."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    console.print(compare_table(comparison))
    pace = comparison.report.prediction.pace
    if pace is not None:
        copied = comparison.report.prediction.host is not None
        console.print(pace_line(pace, copied=copied), soft_wrap=True)


def compare_table(comparison: "Comparison") -> "Table":
    """Return the table planned | simulated | measured, with the error of both predictions."""
    from rich import box
    from rich.table import Table

    report = comparison.report
    title = f"{len(report.token_ids)} tokens, bound: {report.prediction.bound}"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("planned", "simulated", "measured", "plan error", "sim error"):
        table.add_column(heading, justify="right")
    for row in comparison.rows:
        shown = [_shown(value, row.unit) for value in (row.planned, row.simulated, row.measured)]
        table.add_row(
            row.quantity, *shown, _error(row, row.error_fraction), _error(row, row.simulated_error_fraction)
        )
    return table


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "B":
        return format_bytes(value)
    return f"{value:.1%}" if unit == "fraction" else f"{value:.3g} {unit}"


def _error(row: "Row", error: float | None) -> str:
    if error is None:
        return "-"
    return f"{100 * error:+.1f} pp" if row.unit == "fraction" else f"{error:+.1%}"
