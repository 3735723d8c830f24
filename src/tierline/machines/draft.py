"""A machine file read but not yet put together: the form in which files compose and are overridden."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tierline.errors import InputError
from tierline.machines.calibration import Calibration
from tierline.machines.calibration_file import read_calibration
from tierline.machines.links import link_type
from tierline.machines.machine import TOPOLOGIES, Topology
from tierline.machines.number import (
    OPERATION_PARSERS,
    PARSERS,
    Parser,
    parse_count,
    read_provenance,
    read_quantity,
    read_sourced,
    reject_unknown,
    shown,
)
from tierline.sourced import Sourced

COMPUTE_FORMATS = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8", "int4")
HOST = "host"
_TIER_FIELDS = ("capacity", "free", "peak", "sustained", "latency", "energy")
_LINK_FIELDS = ("peak", "sustained", "latency", "energy", "count")
_COMPUTE_FIELDS = ("count", "clock", "energy")
_FORMAT_FIELDS = ("peak", "sustained", "ops_per_cycle")
_KNOWN = (
    *("title", "host", "shared_memory", "notes", "price", "runtime", "tiers", "links", "compute"),
    *("calibration", "devices", "interconnects"),
)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_MOST_PARTS = 64
MOST_DEVICES = 1024


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """Devices of one kind: another machine's name, and how many of it there are.

    `draft` is that machine, None for the first kind, which the machine itself then describes.
    """

    machine: str
    count: int
    draft: "Draft | None" = None


@dataclass(frozen=True, slots=True)
class Join:
    """What joins devices: its topology, how many neighbours one of it joins (None: all), its link type."""

    topology: Topology
    group: int | None
    type: str | None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a link goes, and the name of its type if it has one."""

    source: str
    target: str
    type: str | None


@dataclass(frozen=True, slots=True)
class Draft:
    """Parts by name, and every number under its path (`ddr3.capacity`, `pcie.gen`, `gpu.bf16.peak`)."""

    name: str
    title: str
    host: str | None
    shared_memory: bool
    notes: tuple[str, ...]
    tiers: tuple[str, ...]
    links: Mapping[str, Route]
    compute: tuple[str, ...]
    numbers: Mapping[str, Sourced]
    calibration: Calibration | None = None
    devices: tuple[DeviceKind, ...] = ()
    joins: Mapping[str, Join] = field(default_factory=dict)

    def paths(self) -> tuple[str, ...]:
        """Return every path that can be set, numbers that are still missing included."""
        fields = {
            **dict.fromkeys(self.tiers, _TIER_FIELDS),
            **{name: _link_fields(link.type) for name, link in self.links.items()},
            **{name: _link_fields(join.type) for name, join in self.joins.items()},
            **dict.fromkeys(self.compute, _COMPUTE_FIELDS),
        }
        parts = [f"{name}.{field}" for name, known in fields.items() for field in known]
        operations = [
            f"{name}.{fmt}.{f}" for name in self.compute for fmt in COMPUTE_FORMATS for f in _FORMAT_FIELDS
        ]
        return (*parts, *operations, "runtime", "price")

    def listed_paths(self) -> tuple[str, ...]:
        """Return the paths that are worth listing: all but those of formats that no rate is known for."""
        return tuple(p for p in self.paths() if p.count(".") < 2 or p in self.numbers)


def read_draft(
    name: str, table: Mapping[str, object], where: str, known_sources: Collection[str] | None
) -> Draft:
    """Return the draft that a parsed TOML `table` describes.

    `known_sources` are the allowed keys of sources, or None for any text. Raises InputError, beginning with
    `where` (the file), for a missing or unknown key and for every number without unit, kind or source.
    """
    reject_unknown(table, _KNOWN, where)
    reader = _Reader(where, known_sources, {})
    tiers = reader.parts(table, "tiers")
    links = reader.parts(table, "links")
    compute = reader.parts(table, "compute")
    joins = reader.parts(table, "interconnects")
    _reject_shared_names([*tiers, *links, *compute, *joins], where)
    for tier, entry in tiers.items():
        reader.numbers_of(tier, entry, _TIER_FIELDS, PARSERS)
    routes = {link: reader.route(link, entry) for link, entry in links.items()}
    for unit, entry in compute.items():
        reader.compute(unit, entry)
    for key in ("runtime", "price"):
        if key in table:
            reader.number(key, table[key], PARSERS[key])
    shared = table.get("shared_memory", False)
    if not isinstance(shared, bool):
        raise InputError(f"{where}: shared_memory is {shown(shared)}; write true or false")
    return Draft(
        name=name,
        title=reader.text(table, "title") or name,
        host=reader.text(table, "host"),
        shared_memory=shared,
        notes=reader.notes(table),
        tiers=tuple(tiers),
        links=routes,
        compute=tuple(compute),
        numbers=reader.numbers,
        calibration=read_calibration(table.get("calibration"), where, known_sources),
        devices=reader.devices(table),
        joins={name: reader.join(name, entry) for name, entry in joins.items()},
    )


def compose(card: Draft, host: Draft) -> Draft:
    """Return `card` in `host`: the host's first tier becomes the tier `host`, its other parts follow.

    The host's compute is left out: the card computes. Raises InputError where a name would be used twice.
    """
    renamed = {host.tiers[0]: HOST} if host.tiers else {}

    def new(name: str) -> str:
        return renamed.get(name, name)

    tiers = [new(t) for t in host.tiers]
    links = {n: Route(new(r.source), new(r.target), r.type) for n, r in host.links.items()}
    name = f"{card.name}+{host.name}"
    _reject_shared_names([*card.tiers, *card.links, *card.compute, *tiers, *links], name)
    kept = {*host.tiers, *host.links}
    numbers = {
        f"{new(owner)}.{field}": number
        for owner, _, field, number in ((*p.partition("."), n) for p, n in host.numbers.items())
        if owner in kept
    }
    return replace(
        card,
        name=name if card.host != host.name else card.name,
        host=None,
        tiers=(*card.tiers, *tiers),
        links={**card.links, **links},
        numbers={**card.numbers, **numbers},
        notes=(*card.notes, *host.notes),
    )


def override(draft: Draft, settings: Sequence[str]) -> Draft:
    """Return `draft` with numbers replaced by `PATH=VALUE` settings (`host.capacity=48GiB`, `pcie.gen=3`).

    A new generation or width of a link drops the rates that were given for the old one, a new capacity the
    bytes that were free. Raises InputError for a path that names nothing, with the paths that exist, and
    for a value that does not parse.
    """
    numbers = dict(draft.numbers)
    known = draft.paths()
    for setting in sorted(settings, key=lambda s: not _displaced(s.partition("=")[0].strip(), draft)):
        path, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or path not in known:
            listed = ", ".join(draft.listed_paths())
            raise InputError(
                f"--set {setting[:80]!r}: write PATH=VALUE with a path of {draft.name}: {listed}"
            )
        for other in _displaced(path, draft):
            numbers.pop(other, None)
        owner, field = path.partition(".")[0], path.rpartition(".")[2]
        parsers = {**PARSERS, **OPERATION_PARSERS} if owner in draft.compute else PARSERS
        quantity = read_quantity(value, parsers[field], f"--set {path}")
        numbers[path] = Sourced(quantity, "assumed", f"--set {path}={value}")
    return replace(draft, numbers=numbers)


def _displaced(path: str, draft: Draft) -> tuple[str, ...]:
    """Return the paths whose numbers no longer hold once `path` is set."""
    owner, _, field = path.partition(".")
    if (owner in draft.links or owner in draft.joins) and field not in _LINK_FIELDS:
        return (f"{owner}.peak", f"{owner}.sustained")
    return (f"{owner}.free",) if field == "capacity" else ()


def _link_fields(type_name: str | None) -> tuple[str, ...]:
    parameters = link_type(type_name, "link").parameters if type_name else ()
    return (*parameters, *_LINK_FIELDS)


def _reject_shared_names(names: Iterable[str], where: str) -> None:
    seen = {"compute", "runtime"}
    for name in names:
        if name in seen:
            raise InputError(f"{where}: the name {name!r} is taken; every tier, link and unit needs its own")
        seen.add(name)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the parts of one file into `numbers`; every error begins with `where`."""

    where: str
    known_sources: Collection[str] | None
    numbers: dict[str, Sourced]

    def parts(self, table: Mapping[str, object], key: str) -> dict[str, dict[str, object]]:
        entries = table.get(key, {})
        if not isinstance(entries, dict) or len(entries) > _MOST_PARTS:
            raise InputError(f"{self.where}: {key} has to be a table of at most {_MOST_PARTS} parts")
        for name, entry in entries.items():
            if not _NAME.fullmatch(name) or not isinstance(entry, dict):
                raise InputError(
                    f"{self.where}: write [{key}.NAME] with a NAME of a-z, 0-9 and -, not {shown(name)}"
                )
        return entries

    def number(self, path: str, entry: object, parser: Parser) -> None:
        self.numbers[path] = read_sourced(entry, parser, f"{self.where}: {path}", self.known_sources)

    def numbers_of(
        self,
        owner: str,
        entry: dict[str, object],
        fields: Sequence[str],
        parsers: Mapping[str, Parser],
    ) -> None:
        reject_unknown(entry, fields, f"{self.where}: {owner}")
        for name, number in entry.items():
            self.number(f"{owner}.{name}", number, parsers[name])

    def route(self, link: str, entry: dict[str, object]) -> Route:
        ends = [self.text(entry, key) for key in ("from", "to")]
        source, target = (end or "" for end in ends)
        if not source or not target:
            raise InputError(f'{self.where}: {link}: write from = "TIER" and to = "TIER" or "compute"')
        rest = {k: v for k, v in entry.items() if k not in ("from", "to")}
        return Route(source, target, self.way(link, rest))

    def join(self, name: str, entry: dict[str, object]) -> Join:
        topology = next((t for t in TOPOLOGIES if t == entry.get("topology")), None)
        if topology is None:
            raise InputError(f"{self.where}: {name}: topology has to be one of {', '.join(TOPOLOGIES)}")
        rest = {k: v for k, v in entry.items() if k not in ("topology", "group")}
        group = self.count(entry, "group", name) if "group" in entry else None
        return Join(topology, group, self.way(name, rest))

    def devices(self, table: Mapping[str, object]) -> tuple[DeviceKind, ...]:
        entries = table.get("devices", [])
        if not isinstance(entries, list) or len(entries) > _MOST_PARTS:
            raise InputError(
                f"{self.where}: write [[devices]] with a machine and a count, at most {_MOST_PARTS}"
            )
        kinds = []
        for entry in entries:
            if not isinstance(entry, dict):
                raise InputError(f"{self.where}: write [[devices]] with a machine and a count")
            reject_unknown(entry, ("machine", "count"), f"{self.where}: devices")
            machine = self.text(entry, "machine")
            if machine is None:
                raise InputError(f'{self.where}: devices: write machine = "rtx-3090" or another machine')
            kinds.append(DeviceKind(machine, self.count(entry, "count", "devices")))
        if sum(kind.count for kind in kinds) > MOST_DEVICES:
            raise InputError(f"{self.where}: more than {MOST_DEVICES:,} devices are not planned for")
        return tuple(kinds)

    def count(self, entry: Mapping[str, object], key: str, owner: str) -> int:
        return int(read_quantity(entry.get(key), parse_count, f"{self.where}: {owner}.{key}"))

    def way(self, link: str, rest: dict[str, object]) -> str | None:
        """Read the numbers of a link or an interconnect; return the name of its type if it has one."""
        if "type" not in rest:
            self.numbers_of(link, rest, _LINK_FIELDS, PARSERS)
            return None
        where = f"{self.where}: {link}"
        chosen = link_type(rest.pop("type"), where)
        kind, origin = read_provenance(rest, where, self.known_sources)
        for parameter in chosen.parameters:
            if parameter not in rest:
                raise InputError(f"{where}: a link of type {chosen.name} needs {parameter}")
            value = read_quantity(rest.pop(parameter), PARSERS[parameter], f"{where}.{parameter}")
            self.numbers[f"{link}.{parameter}"] = Sourced(value, kind, origin)
        own = {k: v for k, v in rest.items() if k not in ("kind", "source")}
        self.numbers_of(link, own, _LINK_FIELDS, PARSERS)
        return chosen.name

    def compute(self, unit: str, entry: dict[str, object]) -> None:
        reject_unknown(entry, (*_COMPUTE_FIELDS, *COMPUTE_FORMATS), f"{self.where}: {unit}")
        for key, value in entry.items():
            if key in _COMPUTE_FIELDS:
                self.number(f"{unit}.{key}", value, PARSERS[key])
            elif isinstance(value, dict):
                self.numbers_of(f"{unit}.{key}", value, _FORMAT_FIELDS, {**PARSERS, **OPERATION_PARSERS})
            else:
                raise InputError(f"{self.where}: {unit}.{key}: write a table with peak or ops_per_cycle")

    def text(self, table: Mapping[str, object], key: str) -> str | None:
        value = table.get(key)
        if value is not None and (not isinstance(value, str) or not 0 < len(value) <= 300):
            raise InputError(f"{self.where}: {key} is {shown(value)}; write text of at most 300 letters")
        return value

    def notes(self, table: Mapping[str, object]) -> tuple[str, ...]:
        notes = table.get("notes", [])
        if not isinstance(notes, list) or len(notes) > _MOST_PARTS:
            raise InputError(f"{self.where}: notes has to be a list of sentences")
        return tuple(self.text({"notes": note}, "notes") or "" for note in notes)
