"""A roofline as JSON-ready data and as tables."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tierline.machines.machine import Rate
from tierline.report.roofline import Attainable, Ceiling, OperationPoint, Roof, Roofline, alike
from tierline.report.schema import precision_json, workload_json
from tierline.report.tables import shown
from tierline.units import format_bytes, format_count, format_rate, format_seconds

_WIDTH = 160


def roofline_json(roofline: Roofline) -> dict[str, Any]:
    """Return a roofline as JSON-ready data in base units; what is not known is null."""
    return {
        "model": roofline.model.name,
        "machine": roofline.machine.name,
        "workload": workload_json(roofline.workload),
        "precisions": [precision_json(costing) for costing in roofline.costings],
        "compute": [_ceiling_json(ceiling) for ceiling in _all_ceilings(roofline)],
        "links": [_roof_json(roof, _all_ceilings(roofline)) for roof in roofline.roofs],
        "operations": [_point_json(point) for point in roofline.operations],
        "components": [
            {
                "phase": total.phase,
                "component": total.component,
                "format": total.operands,
                "flop": total.flop,
                "port_bytes": total.port_bytes,
                "operational_intensity_flop_per_byte": total.operational_intensity,
                "time_s": total.time_s,
                "attained_flop_per_s": total.attained_flop_per_s,
            }
            for total in roofline.components
        ],
    }


def print_roofline(roofline: Roofline, console: Console | None = None) -> None:
    """Print ceilings, links with their ridge points, operations with arithmetic, and totals."""
    out = console or Console(highlight=False)
    if not out.is_terminal:
        out.width = max(out.width, _WIDTH)
    for part in _parts(roofline):
        out.print(part)


def ridge_points(ceiling: Ceiling, roof: Roof) -> tuple[float | None, float | None]:
    """Return FLOP per byte at which compute and the link take as long: with peaks, with sustained rates."""
    compute, link = _rates(ceiling.rate), _rates(roof.rate)
    at_peak = compute[0] / link[0] if compute[0] and link[0] else None
    usual = compute[1] or compute[0]
    return at_peak, usual / link[1] if usual and link[1] else None


def _rates(rate: Rate | None) -> tuple[float | None, float | None]:
    if rate is None:
        return None, None
    return rate.peak.value if rate.peak else None, rate.sustained.value if rate.sustained else None


def _ceiling_json(ceiling: Ceiling) -> dict[str, Any]:
    peak, sustained = _rates(ceiling.rate)
    note = {"note": ceiling.note} if ceiling.note else {}
    return {"format": ceiling.operands, "peak_flop_per_s": peak, "sustained_flop_per_s": sustained, **note}


def _roof_json(roof: Roof, ceilings: tuple[Ceiling, ...]) -> dict[str, Any]:
    peak, sustained = _rates(roof.rate)
    ridges = []
    for ceiling in ceilings:
        at_peak, usual = ridge_points(ceiling, roof)
        ridges.append(
            {"format": ceiling.operands, "peak_flop_per_byte": at_peak, "sustained_flop_per_byte": usual}
        )
    return {
        "name": roof.name,
        "peak_bytes_per_s": peak,
        "sustained_bytes_per_s": sustained,
        "ridge_points": ridges,
    }


def _point_json(point: OperationPoint) -> dict[str, Any]:
    return {
        "phase": point.phase,
        "component": point.component,
        "operation": point.name,
        "format": point.operands,
        "layers": point.layers,
        "passes": point.passes,
        "rows": point.rows,
        "flop": point.flop,
        "weight_read_bytes": point.weight_read_bytes,
        "kv_bytes": point.kv_bytes,
        "activation_bytes": point.activation_bytes,
        "links": [
            {
                "name": reach.link,
                "operational_intensity_flop_per_byte": reach.operational_intensity,
                "attainable_flop_per_s": reach.flop_per_s,
                "attainable_at_peak_flop_per_s": reach.peak_flop_per_s,
                "bound": reach.bound,
            }
            for reach in point.reach
        ],
    }


def _parts(roofline: Roofline) -> Iterator[RenderableType]:
    policy = roofline.costings[0].activation_policy
    yield Text(shown(f"{roofline.model.name} on {roofline.machine.name}: roofline"), style="bold")
    yield Text(
        f"one pass of each phase, activations {policy}; over {roofline.roofs[0].name} all that an operation "
        "moves, over other links its weights",
        style="dim",
    )
    yield _roof_table(roofline)
    yield _operation_table(roofline)
    yield _component_table(roofline)
    silent = sum(not point.flop for point in roofline.operations)
    if silent:
        yield Text(
            f"note: {silent} operations without counted arithmetic (norms, look-ups) are in the totals",
            style="dim",
        )
    yield from (Text(f"note: {shown(c.note)}", style="dim") for c in roofline.ceilings if c.note)


def _roof_table(roofline: Roofline) -> Table:
    """Return the rates of links and compute, and their ridge points: with peaks / with sustained rates."""
    table = _table("ridge points", "compute")
    for roof in roofline.roofs:
        peak, sustained = (format_rate(rate) if rate else "-" for rate in _rates(roof.rate))
        table.add_column(f"{roof.name} {peak} / {sustained}", justify="right", overflow="fold")
    for ceiling in _all_ceilings(roofline):
        rates = [f"{format_count(rate)}FLOP/s" if rate else "-" for rate in _rates(ceiling.rate)]
        ridges = [ridge_points(ceiling, roof) for roof in roofline.roofs]
        cells = (" / ".join(_figure(ridge) for ridge in pair) for pair in ridges)
        _row(table, ceiling.operands, " / ".join(rates), *cells)
    return table


def _all_ceilings(roofline: Roofline) -> tuple[Ceiling, ...]:
    """Return the ceilings of the operations and then those of the machine's other formats."""
    used = {ceiling.operands for ceiling in roofline.ceilings}
    return (*roofline.ceilings, *(peak for peak in roofline.peaks if peak.operands not in used))


def _operation_table(roofline: Roofline) -> Table:
    table = _table("operation", "format", "rows", "FLOP", "bytes")
    for column in table.columns:
        column.no_wrap = True
    for roof in roofline.roofs:
        table.add_column(f"{roof.name} FLOP/B", justify="right", overflow="fold")
        table.add_column("FLOP/s", justify="right", no_wrap=True)
    table.add_column("bound", no_wrap=True)
    unknown = {ceiling.operands for ceiling in roofline.ceilings if ceiling.rate is None}
    place = None
    for name, point in alike([p for p in roofline.operations if p.flop]):
        if (point.phase, point.component) != place:
            place = (point.phase, point.component)
            table.add_row(Text(shown(f"{point.phase}: {point.component}"), style="dim"))
        called = f"  {name}" + (f" x{point.layers}" if point.layers > 1 else "")
        most = "≤ " if point.operands in unknown else ""
        reached = [cell for reach in point.reach for cell in _reach(reach, most)]
        count, moved = format_count(point.flop), format_bytes(point.port_bytes)
        _row(
            table,
            called,
            point.operands,
            f"{point.rows:,}",
            count,
            moved,
            *reached,
            point.reach[0].bound or "-",
        )
    return table


def _component_table(roofline: Roofline) -> Table:
    table = _table("all passes", "format", "FLOP", "bytes", "FLOP/B", "time", "attained")
    for total in roofline.components:
        _row(
            table,
            f"{total.phase}, {total.component}",
            total.operands,
            format_count(total.flop),
            format_bytes(total.port_bytes),
            _figure(total.operational_intensity),
            "-" if total.time_s is None else format_seconds(total.time_s),
            "-" if total.attained_flop_per_s is None else f"{format_count(total.attained_flop_per_s)}FLOP/s",
        )
    return table


def _reach(reach: Attainable, most: str) -> tuple[str, str]:
    attained = "-" if reach.flop_per_s is None else f"{most}{format_count(reach.flop_per_s)}"
    return _figure(reach.operational_intensity), "-" if reach.operational_intensity is None else attained


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(shown(cell)) for cell in cells))


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
