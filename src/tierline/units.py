"""Parse and format quantities at the edge; the only place that knows 1000 from 1024.

Inside Tierline bytes are `int`, seconds and rates are `float` in base units.
"""

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction

from tierline.errors import InputError

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": TIB,
}
_SECONDS = {"s": Fraction(1), "ms": Fraction(1, 10**3), "us": Fraction(1, 10**6), "ns": Fraction(1, 10**9)}
_JOULES = {
    "J": Fraction(1),
    "mJ": Fraction(1, 10**3),
    "uJ": Fraction(1, 10**6),
    "nJ": Fraction(1, 10**9),
    "pJ": Fraction(1, 10**12),
    "fJ": Fraction(1, 10**15),
}
_HERTZ = {"Hz": 1, "kHz": 10**3, "MHz": 10**6, "GHz": 10**9}
_OPERATIONS = {
    prefix + unit: factor
    for unit in ("FLOP/s", "OP/s")
    for prefix, factor in (("M", 10**6), ("G", 10**9), ("T", 10**12), ("P", 10**15))
}
_BITS = {
    prefix + unit: factor
    for unit in ("bit/s", "T/s")
    for prefix, factor in (("M", 10**6), ("G", 10**9), ("T", 10**12))
}
# Digits are bounded: Python refuses to convert very long ones, and no quantity needs them.
_QUANTITY = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z]+(?:/s)?)\s*")


def parse_bytes(text: str) -> int:
    """Return the whole number of bytes that `text` names (`44MiB`, `1.2 GB`); raise InputError otherwise.

    A fraction of a byte is rounded down.
    """
    return int(_parse(text, _BYTES, "number of bytes", "1.5GiB"))


def parse_rate(text: str) -> float:
    """Return the bytes per second that `text` names (`500MB/s`); raise InputError otherwise."""
    per_second = {f"{unit}/s": factor for unit, factor in _BYTES.items()}
    return float(_parse(text, per_second, "rate", "1.5GB/s"))


def parse_seconds(text: str) -> float:
    """Return the seconds that `text` names (`1.5us`); raise InputError otherwise."""
    return float(_parse(text, _SECONDS, "time", "1.5us"))


def parse_energy(text: str) -> float:
    """Return the joules that `text` names (`12.5pJ`); raise InputError otherwise."""
    return float(_parse(text, _JOULES, "energy", "12.5pJ"))


def parse_hertz(text: str) -> float:
    """Return the cycles per second that `text` names (`100MHz`); raise InputError otherwise."""
    return float(_parse(text, _HERTZ, "frequency", "100MHz"))


def parse_operation_rate(text: str) -> float:
    """Return the operations per second that `text` names (`989TFLOP/s`, `24.5TOP/s`).

    Raises InputError for anything else.
    """
    return float(_parse(text, _OPERATIONS, "rate of operations", "989TFLOP/s"))


def parse_bit_rate(text: str) -> float:
    """Return the bits per second on one wire that `text` names (`480Mbit/s`, `8GT/s`).

    Raises InputError for anything else.
    """
    return float(_parse(text, _BITS, "bit rate", "8GT/s"))


def format_bytes(count: float) -> str:
    """Return a capacity or footprint in B, KiB, MiB, GiB or TiB."""
    return _scaled(count, [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")], "B")


def format_rate(bytes_per_s: float) -> str:
    """Return a rate in B/s, kB/s, MB/s, GB/s or TB/s (decimal, as links are sold)."""
    return _scaled(
        bytes_per_s, [(1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")], "B/s", digits=2
    )


def format_seconds(seconds: float) -> str:
    """Return a duration in s, ms, us or ns, with three significant figures; long ones in min and h."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(seconds) >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def format_energy(joules: float) -> str:
    """Return an energy in J, mJ, uJ, nJ, pJ or fJ, with three significant figures."""
    for scale, unit in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "uJ"), (1e-9, "nJ"), (1e-12, "pJ")):
        if abs(joules) >= scale:
            return f"{joules / scale:.3g} {unit}"
    return f"{joules / 1e-15:.3g} fJ"


def format_count(count: float) -> str:
    """Return a count of things (parameters, FLOP) with a decimal prefix: 256.5 M, 1.2 T."""
    return _scaled(count, [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")], "").rstrip()


def _parse(text: str, units: Mapping[str, int | Fraction], what: str, example: str) -> Fraction:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        shown = text if len(text) <= 40 else text[:37] + "..."
        rule = f"write a number and one of {' '.join(units)}, such as {example}"
        article = "an" if what[0] in "aeiou" else "a"
        raise InputError(f"{shown!r} is not {article} {what}: {rule}{_hint(match, units)}")
    return Fraction(match[1]) * units[match[2]]


def _hint(match: re.Match[str] | None, units: Iterable[str]) -> str:
    """Name the unit that a miswritten one was probably meant to be (`24gb` -> `24GB or 24GiB`)."""
    if match is None:
        return ""
    letters = _letters(match[2])
    near = [u for u in units if _letters(u) == letters or (len(letters) < 3 and u.lower()[0] == letters[0])]
    return f"; did you mean {' or '.join(match[1] + u for u in near)}?" if near else ""


def _letters(unit: str) -> str:
    return unit.lower().removesuffix("/s").removesuffix("ps")


def _scaled(value: float, steps: list[tuple[float, str]], base: str, digits: int = 1) -> str:
    for factor, unit in steps:
        if abs(value) >= factor:
            return f"{value / factor:,.{digits}f} {unit}"
    return f"{value:,.0f} {base}" if value == int(value) else f"{value:,.{digits}f} {base}"
