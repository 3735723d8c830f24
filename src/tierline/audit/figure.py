"""Exact figures with a dimension, and the units in which publications print them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from types import MappingProxyType

from tierline.errors import InputError
from tierline.units import GIB, KIB, MIB, TIB

_GIVEN = re.compile(r"\s*(-?[0-9]{1,24}(?:\.[0-9]{1,18})?)\s*(\S{0,20})\s*")
_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": KIB, "Mi": MIB, "Gi": GIB, "Ti": TIB}
_BELOW_ONE = {"m": 10**3, "u": 10**6, "µ": 10**6, "n": 10**9}
_BIT = Fraction(1, 8)


@dataclass(frozen=True, slots=True)
class Dimension:
    """Powers of the byte, the second and the FLOP; things that are counted (tokens, parameters) have none."""

    bytes: int = 0
    seconds: int = 0
    flop: int = 0

    def __mul__(self, other: "Dimension") -> "Dimension":
        return Dimension(self.bytes + other.bytes, self.seconds + other.seconds, self.flop + other.flop)

    def __truediv__(self, other: "Dimension") -> "Dimension":
        return Dimension(self.bytes - other.bytes, self.seconds - other.seconds, self.flop - other.flop)

    def __str__(self) -> str:
        powers = {"FLOP": self.flop, "B": self.bytes, "s": self.seconds}
        above = "*".join(n if p == 1 else f"{n}^{p}" for n, p in powers.items() if p > 0)
        below = "/".join(n if p == -1 else f"{n}^{-p}" for n, p in powers.items() if p < 0)
        return (above or "1" if above or below else "a plain number") + (f"/{below}" if below else "")


COUNT, BYTES, SECONDS, FLOP = Dimension(), Dimension(bytes=1), Dimension(seconds=1), Dimension(flop=1)
PER_SECOND = COUNT / SECONDS
BYTE_RATE, FLOP_RATE, INTENSITY = BYTES / SECONDS, FLOP / SECONDS, FLOP / BYTES


@dataclass(frozen=True, slots=True)
class Figure:
    """An exact value in bytes, seconds and FLOP."""

    value: Fraction
    dimension: Dimension


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as printed: its size in bytes, seconds and FLOP, and the unit without prefix that JSON uses.

    `other` is the unit of the same letter in the other system (MB and MiB), empty where there is none.
    """

    name: str
    dimension: Dimension
    size: Fraction
    base: str
    other: str = ""


def unit(name: str) -> Unit:
    """Return the unit called `name`; raise InputError with the known ones otherwise."""
    known = units()
    if name not in known:
        raise InputError(f"no unit is called {name[:30]!r}; known are {', '.join(known)}")
    return known[name]


def parse_given(text: str) -> Figure:
    """Return the figure that `text` names, a number and a unit (`38 MB/s`, `9024`); raise InputError."""
    match = _GIVEN.fullmatch(text)
    if match is None:
        raise InputError(f"{text[:40]!r} is not a figure: write a number and a unit, such as '38 MB/s'")
    chosen = unit(match[2] or "count")
    return Figure(Fraction(match[1]) * chosen.size, chosen.dimension)


@cache
def units() -> Mapping[str, Unit]:
    """Return every unit by its name."""
    return MappingProxyType({u.name: u for u in _units()})


def _units() -> Iterator[Unit]:
    for suffix, dimension in {
        "": BYTES,
        "/s": BYTE_RATE,
        "/token": BYTES,
        "/param": BYTES,
        "/elem": BYTES,
    }.items():
        yield from _both_systems("B", suffix, dimension, Fraction(1))
    for suffix, dimension in {"": BYTES, "/s": BYTE_RATE}.items():
        yield from _both_systems("bit", suffix, dimension, _BIT)
    for name in ("bits", "bits/elem", "bits/weight"):
        yield Unit(name, BYTES, _BIT, name)
    scaled = {
        "params": COUNT, "FLOP": FLOP, "FLOP/s": FLOP_RATE, "OP/s": FLOP_RATE, "Hz": PER_SECOND,
        "T/s": PER_SECOND, "FLOP/B": INTENSITY, "OP/B": INTENSITY, "tokens": COUNT,
    }  # fmt: skip
    for base, dimension in scaled.items():
        for prefix, factor in _DECIMAL.items():
            yield Unit(
                prefix + base,
                dimension,
                Fraction(factor),
                base.replace("OP/", "FLOP/").replace("FLFLOP", "FLOP"),
            )
    for base in ("s", "s/token"):
        yield Unit(base, SECONDS, Fraction(1), base)
        for prefix, factor in _BELOW_ONE.items():
            yield Unit(prefix + base, SECONDS, Fraction(1, factor), base)
    for name in ("tok/s", "actions/s"):
        yield Unit(name, PER_SECOND, Fraction(1), name)
    for name in ("count", "x", "fraction", "elements"):
        yield Unit(name, COUNT, Fraction(1), name)
    yield Unit("%", COUNT, Fraction(1, 100), "fraction")


def _both_systems(letter: str, suffix: str, dimension: Dimension, size: Fraction) -> Iterator[Unit]:
    """Yield a unit with decimal and binary prefixes; `K` is read as 1000, the way `KB` is printed."""
    base = letter + suffix
    for prefix, factor in {**_DECIMAL, "K": 1000}.items():
        binary = prefix.upper() + "i"
        other = f"{binary}{base}" if binary in _BINARY else ""
        yield Unit(prefix + base, dimension, size * factor, base, other)
    for prefix, factor in _BINARY.items():
        decimal = prefix[0].replace("K", "k")
        yield Unit(prefix + base, dimension, size * factor, base, decimal + base)
