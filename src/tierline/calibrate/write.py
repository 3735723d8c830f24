"""A calibration as a machine file."""

import datetime as dt
import json
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from tierline.calibrate.calibrate import Found
from tierline.calibrate.memory import cores
from tierline.machines.calibrated import processor
from tierline.machines.calibration import Calibration, Measured, choose_read
from tierline.machines.cgroups import read_limit
from tierline.machines.this import capacities
from tierline.sourced import Sourced
from tierline.units import format_bytes, format_rate

Table = dict[str, object]
_BUSY_LOAD = 0.5  # of each core, by others, before a measurement: more than this disturbs it


def provenance(path: Path) -> str:
    """Return who measured when and on what: version, date, processor, kernel, and the disk of `path`."""
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    kernel = f"{platform.system()} {platform.release()}"
    return _plain(
        f"tierline {version('tierline')} calibrate, {date}, {processor()}, {cores()} cores, {kernel}, "
        f"disk {_disk_name(path)}"
    )


def disturbance() -> str | None:
    """Return a note where others keep this computer busy: measurements then say less than it can do."""
    load, count = os.getloadavg()[0], cores()
    if load <= _BUSY_LOAD * count:
        return None
    return (
        f"The load average was {load:.1f} on {count} cores when the measurement began: other work took part "
        "of this computer. Measure again when it is quiet."
    )


def machine_table(found: Found, path: Path, source: str, notes: list[str]) -> Table:
    """Return the machine file's table: capacities of now, the rates that plans use, and the calibration."""
    calibration = found.calibration
    request_bytes, readers = choose_read(calibration.reads)
    tiers = capacities(path)
    for parts in tiers.values():
        for entry in parts.values():
            if isinstance(entry, dict):
                entry["source"] = _plain(f"{entry['source']}; {source}")
    if calibration.memory_read is not None:
        tiers["dram"]["sustained"] = _number(calibration.memory_read.alone, "B/s")
    return {
        "title": _plain(f"This computer ({processor()})"),
        "notes": [
            f"Weights stream best by requests of {format_bytes(request_bytes)}, {readers} at a time.",
            *_conditions(found, path),
            *notes,
        ],
        "tiers": tiers,
        "links": {
            "disk": {"from": "storage", "to": "dram", "sustained": _number(found.disk, "B/s")},
        },
        "compute": {"cpu": _peaks(calibration)},
        "calibration": _calibration(calibration),
    }


def to_toml(table: Mapping[str, object]) -> str:
    """Return `table` as TOML; a table with a `value` is written in one line."""
    return "\n".join(_lines(table, "")).lstrip("\n") + "\n"


def save(text: str, path: Path) -> None:
    """Write `text` to `path`, whole or not at all; raise OSError where that cannot be done."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _conditions(found: Found, path: Path) -> Iterator[str]:
    limit = read_limit(path)
    if limit is not None:
        yield f"Our cgroup limits reads of this disk to {format_rate(limit)}: that is what was measured."
    if not found.direct:
        yield "O_DIRECT is refused on this disk: its rate was measured through the page cache."
    if found.cached:
        yield "Too little memory was free to outgrow the caches: rates of memory and compute can be too high."


def _peaks(calibration: Calibration) -> Table:
    """Return the rate in each format that torch multiplies with, of the widest pass."""
    widest = max((p.rows for p in calibration.products), default=0)
    return {
        p.compute: {"sustained": _number(p.rate.alone, "FLOP/s")}
        for p in calibration.products
        if p.rows == widest and p.format == p.compute
    }


def _calibration(found: Calibration) -> Table:
    singles = {
        name: _figure(figure, unit)
        for name, figure, unit in (
            ("memory_read", found.memory_read, "B/s"),
            ("memory_copy", found.memory_copy, "B/s"),
            ("call", found.call, "s"),
        )
        if figure is not None
    }
    return {
        **singles,
        "reads": [
            {"request": f"{r.request_bytes}B", "readers": r.readers, **_figure(r.rate, "B/s")}
            for r in found.reads
        ],
        "products": [
            {"format": p.format, "compute": p.compute, "rows": p.rows, **_figure(p.rate, "FLOP/s")}
            for p in found.products
        ],
        "expansions": [
            {"format": e.format, "compute": e.compute, **_figure(e.rate, "B/s")} for e in found.expansions
        ],
    }


def _figure(found: Measured, unit: str) -> Table:
    figure: Table = {"alone": _number(found.alone, unit)}
    if found.overlapped is not None:
        figure["overlapped"] = _number(found.overlapped, unit)
    return figure


def _number(number: Sourced, unit: str) -> Table:
    value = number.value
    written = {
        "B/s": f"{max(value, 1):.0f}B/s",
        "FLOP/s": f"{max(value / 1e6, 1e-6):.6f}MFLOP/s",
        "s": f"{max(value * 1e9, 1e-3):.3f}ns",
    }
    spread: Table = {} if number.spread is None else {"spread": round(number.spread, 4)}
    return {"value": written[unit], **spread, "kind": number.kind, "source": number.source}


def _lines(table: Mapping[str, object], path: str) -> Iterator[str]:
    inner: list[tuple[str, Mapping[str, object], bool]] = []
    for key, value in table.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict) and "value" not in value:
            inner.append((name, value, False))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            inner.extend((name, entry, True) for entry in value)
        else:
            yield f"{key} = {_value(value)}"
    for name, entry, repeated in inner:
        plain = any(
            not isinstance(v, dict | list) or (isinstance(v, dict) and "value" in v) for v in entry.values()
        )
        if plain or repeated:
            yield ""
            yield f"[[{name}]]" if repeated else f"[{name}]"
        yield from _lines(entry, name)


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    # Text is plain ASCII (see _plain), where JSON and TOML write strings alike.
    return json.dumps(value)


def _disk_name(path: Path) -> str:
    """Return the kernel's name of the device that holds `path`, or its number."""
    number = path.stat().st_dev
    own = f"{os.major(number)}:{os.minor(number)}"
    device = Path("/sys/dev/block") / own
    return device.resolve().name if device.exists() else own


def _plain(text: str) -> str:
    """Return `text` in printable ASCII: names of processors and disks are the manufacturer's."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
