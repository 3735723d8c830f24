"""A simulation of several devices as JSON and as tables on a terminal."""

from typing import TYPE_CHECKING

from tierline.report.schema import Json, precision_json, workload_json
from tierline.sim.devices import Busy, ParallelResult, SimulatedPhase
from tierline.units import format_rate, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType

_MOST_LINKS = 24


def devices_json(result: ParallelResult) -> Json:
    """Return a simulation of several devices as JSON-ready data; links and devices are of each phase."""
    main, plan = result.main, result.plan
    return {
        "model": plan.model.name,
        "machine": plan.machine.name,
        "workload": workload_json(plan.workload),
        "precision": precision_json(plan.costing),
        "strategy": plan.strategy,
        "policy": None,
        "tokens_per_s_steady": main.tokens_per_s_steady,
        "time_s": result.phases[-1].end_s,
        "bound": _bound(main),
        "links": [_link(name, busy, main.time_s) for name, busy in main.links.items()],
        "phases": [
            {
                "name": phase.name,
                "passes": phase.passes,
                "time_s": phase.time_s,
                "tokens_per_s_steady": phase.tokens_per_s_steady,
                "links": [_link(name, busy, phase.time_s) for name, busy in phase.links.items()],
                "devices": [
                    {"name": d.name, "compute_s": d.compute_s, "exchange_s": d.exchange_s, "wait_s": d.wait_s}
                    for d in phase.devices
                ],
            }
            for phase in result.phases
        ],
        "notes": list(result.notes),
    }


def print_devices(result: ParallelResult, console: "Console | None" = None) -> None:
    """Print a simulation of several devices: speed, how busy each device and link is."""
    from tierline.report.tables import console_of

    out = console_of(console)
    for part in _parts(result):
        out.print(part)


def _parts(result: ParallelResult) -> "Iterator[RenderableType]":
    from rich.text import Text

    from tierline.report.tables import add_row, open_table, shown

    plan, main = result.plan, result.main
    rate = main.tokens_per_s_steady
    speed = f"{rate:,.3g} tok/s" if rate is not None else format_seconds(main.time_s)
    where = f"{plan.model.name} on {plan.machine.name}, {plan.costing.split}"
    yield Text(shown(f"{where}: {plan.strategy}: {speed}, bound by {_bound(main)}"), style="bold")
    for phase in result.phases:
        table = open_table(f"{phase.name}: {format_seconds(phase.time_s)}", "computes", "exchanges", "waits")
        for device in phase.devices:
            parts = (device.compute_s, device.exchange_s, device.wait_s)
            cells = (f"{format_seconds(s)} ({s / phase.time_s:.0%})" for s in parts)
            add_row(table, device.name, *(cells if phase.time_s else ("-",) * 3))
        yield table
        links = open_table("link", "bytes", "busy", "achieved")
        for name, busy in list(phase.links.items())[:_MOST_LINKS]:
            achieved = format_rate(busy.traffic_bytes / busy.busy_s) if busy.busy_s else "-"
            add_row(links, name, f"{busy.traffic_bytes:,}", f"{busy.busy_s / phase.time_s:.0%}", achieved)
        if phase.links:
            yield links
    yield from (Text(f"note: {shown(note)}", style="dim") for note in result.notes)


def _bound(phase: SimulatedPhase) -> str:
    """Return what is busy longest: the devices' own work, or a link."""
    own = max((d.compute_s for d in phase.devices), default=0.0)
    name, busy = max(
        ((n, b.busy_s) for n, b in phase.links.items()), key=lambda pair: pair[1], default=("", 0.0)
    )
    return f"link:{name}" if busy > own else "devices"


def _link(name: str, busy: Busy, duration_s: float) -> Json:
    return {
        "name": name,
        "traffic_bytes": busy.traffic_bytes,
        "busy_s": busy.busy_s,
        "busy_fraction": busy.busy_s / duration_s if duration_s else 0.0,
        "achieved_bytes_per_s": busy.traffic_bytes / busy.busy_s if busy.busy_s else None,
    }
