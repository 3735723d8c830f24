"""One number of a machine file: `{ value = "512MiB", kind = "datasheet", source = "..." }`."""

from collections.abc import Callable, Collection

from tierline.errors import InputError
from tierline.machines.sources import source_keys
from tierline.sourced import KINDS, Kind, Sourced
from tierline.units import (
    parse_bit_rate,
    parse_bytes,
    parse_energy,
    parse_hertz,
    parse_operation_rate,
    parse_rate,
    parse_seconds,
)

Parser = Callable[[str], float]
_LARGEST = 1e21  # above every real capacity, rate and count; keeps all arithmetic on them finite
_MAX_TEXT = 2000
_WIDEST_SPREAD = 1000


def parse_count(text: str) -> int:
    """Return the positive whole number that `text` writes; raise InputError otherwise."""
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise InputError(f"{text[:40]!r} is not a whole number: write digits only, such as 16")
    return int(text)


def parse_factor(text: str) -> float:
    """Return the positive number that `text` writes; raise InputError otherwise."""
    whole, _, rest = text.partition(".")
    if not (text.isascii() and (whole + rest).isdigit() and len(text) <= 24):
        raise InputError(f"{text[:40]!r} is not a number: write it as 2 or 0.82")
    return float(text)


PARSERS: dict[str, Parser] = {
    "capacity": parse_bytes,
    "free": parse_bytes,
    "runtime": parse_bytes,
    "price": parse_factor,
    "peak": parse_rate,
    "sustained": parse_rate,
    "latency": parse_seconds,
    "energy": parse_energy,
    "count": parse_count,
    "clock": parse_hertz,
    "ops_per_cycle": parse_factor,
    "gen": parse_count,
    "gbit": parse_count,
    "lanes": parse_count,
    "line_rate": parse_bit_rate,
    "efficiency": parse_factor,
}
OPERATION_PARSERS: dict[str, Parser] = {"peak": parse_operation_rate, "sustained": parse_operation_rate}
_BARE = (parse_count, parse_factor)


def read_quantity(value: object, parser: Parser, where: str) -> float:
    """Return `value` in base units; raise InputError that begins with `where` for anything but a sane one."""
    if parser in _BARE and isinstance(value, int | float) and not isinstance(value, bool):
        value = repr(value) if abs(value) < _LARGEST else "inf"
    if not isinstance(value, str):
        hint = "a number" if parser in _BARE else "text with a unit, such as " + _example(parser)
        raise InputError(f"{where}: want {hint}, not {shown(value)}")
    try:
        number = parser(value)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if not 0 < number < _LARGEST:
        raise InputError(f"{where}: {value[:40]!r} has to be above 0 and below {_LARGEST:g} in base units")
    return number


def read_sourced(entry: object, parser: Parser, where: str, known_sources: Collection[str] | None) -> Sourced:
    """Return the number that the table `entry` gives with its kind and source.

    `known_sources` are the keys a source has to be one of (or several, joined by commas); None takes any
    text. Raises InputError, beginning with `where`, for anything missing, unknown or not positive.
    """
    if not isinstance(entry, dict):
        raise InputError(f'{where}: write {{ value = ..., kind = "datasheet", source = "..." }}')
    reject_unknown(entry, ("value", "spread", "kind", "source"), where)
    if "value" not in entry:
        raise InputError(f"{where}: has no value")
    kind, source = read_provenance(entry, where, known_sources)
    return Sourced(read_quantity(entry["value"], parser, where), kind, source, _spread(entry, where))


def read_provenance(
    entry: dict[str, object], where: str, known_sources: Collection[str] | None
) -> tuple[Kind, str]:
    """Return the kind and source of `entry`; raise InputError where one is missing or unknown."""
    kind = next((k for k in KINDS if k == entry.get("kind")), None)
    if kind is None:
        raise InputError(f"{where}: kind is {shown(entry.get('kind'))}; write one of {', '.join(KINDS)}")
    source = entry.get("source")
    if not isinstance(source, str) or not source.strip() or len(source) > _MAX_TEXT:
        raise InputError(f'{where}: has no source; add source = "where the number is from"')
    if known_sources is not None:
        for key in source_keys(source):
            if key not in known_sources:
                raise InputError(f"{where}: source {key!r} is not in data/sources/; add it there")
    return kind, source


def _spread(entry: dict[str, object], where: str) -> float | None:
    """Return the spread of a measurement, a fraction of its value; None where it is not given."""
    spread = entry.get("spread")
    if spread is None:
        return None
    if isinstance(spread, bool) or not isinstance(spread, int | float) or not 0 <= spread <= _WIDEST_SPREAD:
        raise InputError(f"{where}: spread has to be a bare number from 0 to {_WIDEST_SPREAD}, such as 0.02")
    return float(spread)


def reject_unknown(table: Collection[str], known: Collection[str], where: str) -> None:
    """Raise InputError where `table` has a key that is not one of `known`."""
    for key in table:
        if key not in known:
            raise InputError(f"{where}: unknown key {key[:40]!r}; known are {', '.join(known)}")


def shown(value: object) -> str:
    """Return `value` as an error message may show it: short, escaped, and never a huge integer's digits."""
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + "...")
    return "missing" if value is None else f"of type {type(value).__name__}"


def _example(parser: Parser) -> str:
    examples: dict[Parser, str] = {
        parse_bytes: "512MiB",
        parse_rate: "1.6GB/s",
        parse_seconds: "2us",
        parse_energy: "12.5pJ",
        parse_hertz: "100MHz",
    }
    return repr(examples.get(parser, "989TFLOP/s" if parser is parse_operation_rate else "8GT/s"))
