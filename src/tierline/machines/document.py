"""A machine as a plain document, and the list of its numbers: what is shown, printed as JSON and tested."""

from collections.abc import Iterator

from tierline.machines.calibration import Calibration, Measured
from tierline.machines.machine import Compute, Interconnect, Link, Machine, Rate, Tier
from tierline.machines.sources import references, source_keys
from tierline.sourced import Sourced

Document = dict[str, object]


def numbers(machine: Machine) -> Iterator[tuple[str, Sourced]]:
    """Yield every number of `machine` that is known, with its path (`ddr3.capacity`, `gpu.bf16.peak`)."""
    for tier in machine.tiers:
        yield from _known(tier.name, capacity=tier.capacity_bytes, free=tier.free_bytes)
        yield from _rate(tier.name, tier.rate, tier.latency_s)
        yield from _known(tier.name, energy=tier.energy_j_per_byte)
    for link in machine.links:
        yield from _rate(link.name, link.rate, link.latency_s)
        yield from _known(link.name, energy=link.energy_j_per_byte)
    for unit in machine.compute:
        yield from _known(unit.name, count=unit.count, clock=unit.clock_hz, energy=unit.energy_j_per_flop)
        for fmt, rate in unit.flop_per_s.items():
            yield from _rate(f"{unit.name}.{fmt}", rate, None)
    for join in machine.interconnects:
        yield from _rate(join.name, join.rate, join.latency_s)
        yield from _known(join.name, energy=join.energy_j_per_byte)
    if machine.runtime_bytes is not None:
        yield "runtime", machine.runtime_bytes
    others = {d.machine.name: d.machine for d in machine.devices if d.machine.tiers != machine.tiers}
    for name, other in others.items():
        yield from ((f"{name}.{path}", number) for path, number in numbers(other))


def document(machine: Machine) -> Document:
    """Return `machine` as a JSON document: base units, the unit in the key, null where unknown."""
    used = {key for _, number in numbers(machine) for key in source_keys(number.source)}
    return {
        "name": machine.name,
        "title": machine.title,
        "shared_memory": machine.shared_memory,
        "tiers": [_tier(tier) for tier in machine.tiers],
        "links": [_link(link) for link in machine.links],
        "compute": [_compute(unit) for unit in machine.compute],
        "devices": [{"name": d.name, "machine": d.machine.name} for d in machine.devices],
        "interconnects": [_interconnect(join) for join in machine.interconnects],
        "runtime_bytes": _number(machine.runtime_bytes),
        "notes": list(machine.notes),
        "calibration": _calibration(machine.calibration) if machine.calibration else None,
        "sources": {
            key: {
                "title": r.title,
                "address": r.address,
                "address_confirmed": r.confirmed,
                "date": r.date,
                "sentence": r.sentence,
            }
            for key, r in references().items()
            if key in used
        },
    }


def _known(owner: str, **fields: Sourced | None) -> Iterator[tuple[str, Sourced]]:
    for field, number in fields.items():
        if number is not None:
            yield f"{owner}.{field}", number


def _rate(owner: str, rate: Rate | None, latency: Sourced | None) -> Iterator[tuple[str, Sourced]]:
    if rate is not None:
        yield from _known(owner, peak=rate.peak, sustained=rate.sustained)
    yield from _known(owner, latency=latency)


def _number(number: Sourced | None) -> Document | None:
    if number is None:
        return None
    spread = {} if number.spread is None else {"spread": number.spread}
    return {"value": number.value, **spread, "kind": number.kind, "source": number.source}


def _tier(tier: Tier) -> Document:
    return {
        "name": tier.name,
        "capacity_bytes": _number(tier.capacity_bytes),
        "free_bytes": _number(tier.free_bytes),
        "peak_bytes_per_s": _number(tier.rate.peak if tier.rate else None),
        "sustained_bytes_per_s": _number(tier.rate.sustained if tier.rate else None),
        "latency_s": _number(tier.latency_s),
        "energy_j_per_byte": _number(tier.energy_j_per_byte),
    }


def _link(link: Link) -> Document:
    return {"name": link.name, "from": link.source, "to": link.target, **_way(link)}


def _interconnect(join: Interconnect) -> Document:
    return {"name": join.name, "topology": join.topology, "group": join.group, **_way(join)}


def _way(way: Link | Interconnect) -> Document:
    return {
        "peak_bytes_per_s": _number(way.rate.peak),
        "sustained_bytes_per_s": _number(way.rate.sustained),
        "latency_s": _number(way.latency_s),
        "energy_j_per_byte": _number(way.energy_j_per_byte),
    }


def _compute(unit: Compute) -> Document:
    return {
        "name": unit.name,
        "count": _number(unit.count),
        "clock_hz": _number(unit.clock_hz),
        "energy_j_per_flop": _number(unit.energy_j_per_flop),
        "formats": {
            fmt: {
                "peak_flop_per_s": _number(rate.peak),
                "sustained_flop_per_s": _number(rate.sustained),
            }
            for fmt, rate in unit.flop_per_s.items()
        },
    }


def _calibration(found: Calibration) -> Document:
    return {
        "memory_read_bytes_per_s": _measured(found.memory_read),
        "memory_copy_bytes_per_s": _measured(found.memory_copy),
        "call_s": _measured(found.call),
        "reads": [
            {"request_bytes": r.request_bytes, "readers": r.readers, "bytes_per_s": _measured(r.rate)}
            for r in found.reads
        ],
        "products": [
            {"format": p.format, "compute": p.compute, "rows": p.rows, "flop_per_s": _measured(p.rate)}
            for p in found.products
        ],
        "expansions": [
            {"format": e.format, "compute": e.compute, "bytes_per_s": _measured(e.rate)}
            for e in found.expansions
        ],
    }


def _measured(found: Measured | None) -> Document | None:
    if found is None:
        return None
    return {"alone": _number(found.alone), "overlapped": _number(found.overlapped)}
