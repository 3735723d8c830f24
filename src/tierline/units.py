"""Parse and format quantities at the edge; the only place that knows 1000 from 1024.

Inside Tierline bytes are `int`, seconds and rates are `float` in base units.
"""

import re
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
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)(/s)?\s*")
_RULE = "write a number and one of " + " ".join(_BYTES) + ", such as 1.5GiB"


def parse_bytes(text: str) -> int:
    """Return the whole number of bytes that `text` names (`44MiB`, `1.2 GB`); raise InputError otherwise.

    A fraction of a byte is rounded down.
    """
    return int(_parse(text, per_second=False))


def parse_rate(text: str) -> float:
    """Return the bytes per second that `text` names (`500MB/s`); raise InputError otherwise."""
    return float(_parse(text, per_second=True))


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


def format_count(count: float) -> str:
    """Return a count of things (parameters, FLOP) with a decimal prefix: 256.5 M, 1.2 T."""
    return _scaled(count, [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")], "").rstrip()


def _parse(text: str, *, per_second: bool) -> Fraction:
    match = _QUANTITY.fullmatch(text)
    suffix = "/s" if per_second else ""
    if match is None or match[2] not in _BYTES or (match[3] or "") != suffix:
        what = "rate" if per_second else "number of bytes"
        raise InputError(f"{text!r} is not a {what}: {_RULE}{suffix}{_hint(match, suffix)}")
    return Fraction(match[1]) * _BYTES[match[2]]


def _hint(match: re.Match[str] | None, suffix: str) -> str:
    """Name the unit that a miswritten one was probably meant to be (`24gb` -> `24GB or 24GiB`)."""
    if match is None:
        return ""
    letters = match[2].lower().removesuffix("ps")
    near = [u for u in _BYTES if u.lower() == letters or (len(letters) < 3 and u.lower()[0] == letters[0])]
    return f"; did you mean {' or '.join(match[1] + u + suffix for u in near)}?" if near else ""


def _scaled(value: float, steps: list[tuple[float, str]], base: str, digits: int = 1) -> str:
    for factor, unit in steps:
        if abs(value) >= factor:
            return f"{value / factor:,.{digits}f} {unit}"
    return f"{value:,.0f} {base}" if value == int(value) else f"{value:,.{digits}f} {base}"
