"""Types of link as data (`data/links.toml`): a machine file says `type = "pcie", gen = 2, lanes = 4`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import resources
from types import MappingProxyType

from tierline.errors import InputError
from tierline.machines.number import PARSERS, read_provenance, read_sourced, reject_unknown
from tierline.machines.sources import references
from tierline.sourced import Kind, Sourced


@dataclass(frozen=True, slots=True)
class Variant:
    """One generation of a link type: what one lane carries in each direction, payload bits over line bits."""

    line_rate: Sourced
    encoding: Fraction
    encoding_source: str
    peak: Sourced | None
    sustained: Sourced | None


@dataclass(frozen=True, slots=True)
class LinkType:
    """A type of link: `parameter` (`gen`, `gbit`) chooses a variant, `lanes` are the widths that exist."""

    name: str
    title: str
    parameter: str
    lanes: tuple[int, ...]
    variants: Mapping[int, Variant]
    efficiency: Sourced | None
    latency: Sourced | None

    @property
    def parameters(self) -> tuple[str, ...]:
        """The keys that a machine file gives beside `type`."""
        return (self.parameter, "lanes") if len(self.lanes) > 1 else (self.parameter,)

    def peak(self, chosen: Sourced, lanes: Sourced | None, where: str) -> Sourced:
        """Return the raw rate in bytes/s: line rate x lanes x encoding / 8, or what a datasheet says is less.

        `chosen` is the value of `parameter`; `lanes` is None for the one width there is. Raises InputError,
        beginning with `where`, for a generation or width that does not exist.
        """
        variant = self._variant(chosen, where)
        count = self._lanes(lanes, where)
        if variant.peak is not None:
            return variant.peak
        raw = Fraction(variant.line_rate.value) * count * variant.encoding / 8
        parts = (variant.line_rate, chosen) if lanes is None else (variant.line_rate, chosen, lanes)
        return derived(float(raw), *parts, extra=variant.encoding_source)

    def sustained(self, chosen: Sourced, lanes: Sourced | None, where: str) -> Sourced | None:
        """Return the rate in bytes/s measured on this variant, or the raw rate x the type's efficiency.

        None where neither is known. Raises InputError as `peak` does.
        """
        variant = self._variant(chosen, where)
        if variant.sustained is not None:
            return variant.sustained
        if self.efficiency is None:
            return None
        peak = self.peak(chosen, lanes, where)
        return derived(peak.value * self.efficiency.value, peak, self.efficiency)

    def _variant(self, chosen: Sourced, where: str) -> Variant:
        variant = self.variants.get(int(chosen.value))
        if variant is None:
            known = ", ".join(map(str, self.variants))
            raise InputError(
                f"{where}: {self.name} has no {self.parameter} {chosen.value:.0f}; known are {known}"
            )
        return variant

    def _lanes(self, lanes: Sourced | None, where: str) -> int:
        count = self.lanes[0] if lanes is None else int(lanes.value)
        if count not in self.lanes:
            known = ", ".join(map(str, self.lanes))
            raise InputError(f"{where}: {self.name} has no width of {count} lanes; known are {known}")
        return count


def derived(value: float, *parts: Sourced, extra: str = "") -> Sourced:
    """Return a number computed from `parts`: assumed if any of them is, its source all of theirs."""
    kind: Kind = "assumed" if any(p.kind == "assumed" for p in parts) else "derived"
    keys = [key.strip() for p in parts for key in p.source.split(",")] + ([extra] if extra else [])
    return Sourced(value, kind, ", ".join(dict.fromkeys(keys)))


@cache
def link_types() -> Mapping[str, LinkType]:
    """Return every link type by its name."""
    text = (resources.files("tierline") / "data" / "links.toml").read_text(encoding="utf-8")
    return MappingProxyType({name: _link_type(name, entry) for name, entry in tomllib.loads(text).items()})


def link_type(name: object, where: str) -> LinkType:
    """Return the link type called `name`; raise InputError, beginning with `where`, for an unknown one."""
    found = link_types().get(name) if isinstance(name, str) else None
    if found is None:
        raise InputError(f"{where}: unknown link type; known are {', '.join(link_types())}")
    return found


def _link_type(name: str, entry: dict[str, object]) -> LinkType:
    where = f"data/links.toml: {name}"
    reject_unknown(entry, ("title", "parameter", "lanes", "variants", "efficiency", "latency"), where)
    variants, lanes = entry["variants"], entry.get("lanes", [1])
    if not isinstance(variants, dict) or not isinstance(lanes, list):
        raise InputError(f"{where}: wants a table of variants and a list of lanes")
    return LinkType(
        name=name,
        title=str(entry["title"]),
        parameter=str(entry["parameter"]),
        lanes=tuple(int(n) for n in lanes),
        variants={int(key): _variant(v, f"{where}.{key}") for key, v in variants.items()},
        efficiency=_optional(entry, "efficiency", where),
        latency=_optional(entry, "latency", where),
    )


def _variant(entry: dict[str, object], where: str) -> Variant:
    reject_unknown(entry, ("line_rate", "encoding", "peak", "sustained"), where)
    encoding = entry["encoding"]
    if not isinstance(encoding, dict):
        raise InputError(f"{where}.encoding: want a table")
    _, source = read_provenance(encoding, f"{where}.encoding", references())
    payload, line = str(encoding["value"]).replace("b", "").split("/")
    return Variant(
        line_rate=read_sourced(entry["line_rate"], PARSERS["line_rate"], f"{where}.line_rate", references()),
        encoding=Fraction(int(payload), int(line)),
        encoding_source=source,
        peak=_optional(entry, "peak", where),
        sustained=_optional(entry, "sustained", where),
    )


def _optional(entry: dict[str, object], field: str, where: str) -> Sourced | None:
    if field not in entry:
        return None
    return read_sourced(entry[field], PARSERS[field], f"{where}.{field}", references())
