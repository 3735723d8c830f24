"""`tierline machines`: the machines that are known, and every number of one with where it is from."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tierline.errors import InputError
from tierline.machines.document import document, numbers
from tierline.machines.load import THIS, load_machine, machine_names
from tierline.machines.machine import Machine, Rate
from tierline.report.calibration import calibration_table
from tierline.report.sources import machine_references, number_text
from tierline.report.tables import shown
from tierline.units import format_bytes, format_rate

_WIDTH = 100


def machines(
    name: Annotated[
        str | None,
        typer.Argument(metavar="MACHINE", help="A catalogue name, a TOML file, `this`, or CARD+HOST."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override a number; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document in base units.")] = False,
) -> None:
    """List the machines that Tierline knows by name, or show every number of one with its source.

    Try: tierline machines rtx-3090+desktop-ddr5 --set host.capacity=48GiB
    """
    if name is not None:
        machine = load_machine(name, overrides or ())
        if as_json:
            typer.echo(json.dumps(document(machine), indent=2))
            return
        _print(_parts(machine))
        return
    if overrides:
        raise InputError(f"--set {overrides[0][:80]!r}: name the machine whose number it is to override")
    known = [load_machine(known_name) for known_name in machine_names()]
    if as_json:
        listed = [{"name": m.name, "title": m.title} for m in known]
        typer.echo(json.dumps({"machines": [*listed, {"name": THIS, "title": "This computer"}]}, indent=2))
        return
    _print([_list(known)])


def _print(parts: Iterator[RenderableType] | list[RenderableType]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    for part in parts:
        console.print(part)


def _list(known: list[Machine]) -> Table:
    table = _table("name", "fast tier", "capacity", "rate", "first link", "rate")
    for machine in known:
        fast, link = machine.fast, machine.links[0]
        capacity = format_bytes(fast.capacity_bytes.value)
        row = (fast.name, capacity, _format_rate(fast.rate), link.name, _format_rate(link.rate))
        table.add_row(machine.name, *row)
    table.add_row(THIS, "dram", "measured", "measured", "disk", "measured")
    return table


def _format_rate(rate: Rate | None) -> str:
    if rate is None:
        return "unknown"
    return format_rate(rate.value) + (" peak" if rate.kind == "peak" else "")


def _parts(machine: Machine) -> Iterator[RenderableType]:
    yield Text(shown(f"{machine.name}: {machine.title}"), style="bold")
    for link in machine.links:
        yield Text(f"  link {link.name}: {link.source} -> {link.target}")
    if machine.devices:
        kinds = Counter(device.machine.name for device in machine.devices)
        yield Text(shown("  devices: " + ", ".join(f"{n} x {name}" for name, n in kinds.items())))
    for join in machine.interconnects:
        reach = "all devices" if join.group is None else f"{join.group} neighbours"
        yield Text(f"  interconnect {join.name}: a {join.topology} that joins {reach}")
    if machine.shared_memory:
        yield Text("  links and compute share one memory's bandwidth")
    yield Text()
    table = _table("number", "value", "kind", "source")
    for path, number in numbers(machine):
        table.add_row(path, number_text(path, number.value), number.kind, Text(shown(number.source)))
    yield table
    yield Text()
    if machine.calibration is not None:
        yield calibration_table(machine.calibration)
        yield Text()
    for source in machine_references(machine):
        yield Text(f"{source.key}: {source.title} ({source.date})")
        doubt = "" if source.confirmed else " (not confirmed to hold these figures)"
        yield Text(f"  {source.address}{doubt}", style="dim")
    for note in machine.notes:
        yield Text(f"note: {shown(note)}", style="dim")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
