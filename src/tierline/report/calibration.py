"""What was calibrated, as a table."""

from rich.table import Table

from tierline.machines.calibration import Calibration
from tierline.report.tables import shown
from tierline.sourced import Sourced
from tierline.units import format_count, format_rate, format_seconds


def calibration_table(calibration: Calibration) -> Table:
    """Return every figure, alone and overlapped, each with its spread."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("calibrated", "alone", "spread", "overlapped", "spread"):
        table.add_column(column, overflow="fold")
    for name, unit, figure in calibration.figures():
        table.add_row(shown(name), *_cells(figure.alone, unit), *_cells(figure.overlapped, unit))
    return table


def _cells(number: Sourced | None, unit: str) -> tuple[str, str]:
    if number is None:
        return "-", "-"
    formats = {"B/s": format_rate, "s": format_seconds}
    value = formats[unit](number.value) if unit in formats else format_count(number.value) + unit
    return value, "-" if number.spread is None else f"{number.spread:.1%}"
