"""Where the numbers of a machine come from, in words."""

import re

from tierline.machines.document import numbers
from tierline.machines.machine import Machine
from tierline.machines.sources import Reference, references, source_keys
from tierline.units import format_bytes, format_count, format_energy, format_rate, format_seconds

_NUMBER_FORMAT = re.compile(r"(bf|fp|tf|int|mxfp|mxint|nvfp)[0-9]+")


def machine_references(machine: Machine) -> tuple[Reference, ...]:
    """Return the known sources of the machine's numbers, in order of use."""
    known = references()
    used = dict.fromkeys(key for _, number in numbers(machine) for key in source_keys(number.source))
    return tuple(known[key] for key in used if key in known)


def number_text(path: str, value: float) -> str:
    """Return `value` in the unit that the last part of its `path` has (`ddr3.capacity`, `dsp.int8.peak`)."""
    field = path.rpartition(".")[2]
    if field in ("capacity", "free", "runtime"):
        return format_bytes(value)
    if field == "latency":
        return format_seconds(value)
    if field == "energy":
        return format_energy(value)
    if field == "count":
        return f"{value:,.0f}"
    if field == "clock":
        return f"{value / 1e6:,.0f} MHz"
    of = path.split(".")[-2]
    if not _NUMBER_FORMAT.fullmatch(of):
        return format_rate(value)
    return format_count(value) + ("OP/s" if of.startswith("int") else "FLOP/s")
