"""Rates and capacities of a machine as exact numbers, or as the options give them instead."""

from fractions import Fraction

from tierline.audit.figure import BYTE_RATE, BYTES, FLOP_RATE, PER_SECOND, Dimension, parse_given
from tierline.audit.options import Options
from tierline.audit.subject import machine_of
from tierline.errors import InputError, UnknownRateError
from tierline.machines.links import LinkType, link_type
from tierline.machines.machine import Rate
from tierline.plan.build import compute_rate

_DIMENSIONS: dict[str, tuple[Dimension, ...]] = {
    "peak": (FLOP_RATE,),
    "bandwidth": (BYTE_RATE,),
    "capacity": (BYTES,),
    "line_rate": (BYTE_RATE, PER_SECOND),
}


def given(options: Options, name: str) -> Fraction:
    """Return the figure that an option writes, in bytes, seconds and FLOP; transfers carry one bit each.

    Raises InputError for anything of another dimension.
    """
    figure = parse_given(options.text(name))
    if figure.dimension not in _DIMENSIONS[name]:
        raise InputError(
            f"{name} {options.text(name)!r} is in {figure.dimension}; want {_DIMENSIONS[name][0]}"
        )
    return figure.value / 8 if figure.dimension == PER_SECOND else figure.value


def link_rate(options: Options) -> Fraction:
    """Return the bytes/s of a link, or of a tier's own port, sustained where known unless `rate` is peak.

    Raises InputError for an unknown one, UnknownRateError where no rate is known.
    """
    machine = machine_of(options)
    name = options.text("link", machine.fast.name)
    tiers = {tier.name: tier.rate for tier in machine.tiers}
    return _value(tiers[name] if name in tiers else machine.link(name).rate, options, name)


def bandwidth(options: Options) -> Fraction:
    """Return the bytes/s that `bandwidth` gives, or else those of the link."""
    return given(options, "bandwidth") if "bandwidth" in options.values else link_rate(options)


def peak(options: Options) -> Fraction:
    """Return the FLOP/s that `peak` gives, or else the machine's in `format`.

    Raises UnknownRateError where no rate is known.
    """
    if "peak" in options.values:
        return given(options, "peak")
    rate, note = compute_rate(machine_of(options), options.text("format", "bf16"))
    if rate is None:
        raise UnknownRateError(note)
    return _value(rate, options, "compute")


def capacity(options: Options) -> Fraction:
    """Return the capacity of a tier, by default the fast one."""
    machine = machine_of(options)
    return _exact(machine.tier(options.text("tier", machine.fast.name)).capacity_bytes.value)


def lane_rate(kind: LinkType, generation: int) -> Fraction:
    """Return the bytes/s of one lane: line rate x encoding / 8; raise InputError for an unknown one."""
    variant = kind.variants.get(generation)
    if variant is None:
        raise InputError(
            f"{kind.name} has no {kind.parameter} {generation}; known are {sorted(kind.variants)}"
        )
    return _exact(variant.line_rate.value) * variant.encoding / 8


def link_lanes(options: Options) -> Fraction:
    """Return how many lanes of PCI Express `gen` make up the peak rate of a link."""
    one = lane_rate(link_type("pcie", "link_lanes"), options.count("gen"))
    return Fraction(round(link_rate(options.with_({"rate": "peak"})) / one))


def _value(rate: Rate | None, options: Options, name: str) -> Fraction:
    kind = options.text("rate", "sustained")
    if kind not in ("sustained", "peak"):
        raise InputError(f"rate {kind!r}: want sustained or peak")
    if rate is None or (kind == "peak" and rate.peak is None):
        raise UnknownRateError(f"{options.text('machine')} gives no {kind} rate of {name}")
    return _exact(rate.peak.value if kind == "peak" and rate.peak else rate.value)


def _exact(number: float) -> Fraction:
    """Return the decimal number that a float was written as: rates are sourced with few digits."""
    return Fraction(str(number))
