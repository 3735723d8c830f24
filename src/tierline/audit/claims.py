"""Claims files: what a publication says, read from TOML and bounded before it is believed."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from tierline.audit.expression import Expression, read_expression
from tierline.audit.figure import Unit, unit
from tierline.audit.options import OPTIONS, Options, Value, read_options
from tierline.errors import InputError

Relation = Literal["equal", "at_most", "at_least"]
_MOST_BYTES, _MOST_CLAIMS, _MOST_FIGURE = 2**20, 2000, 10**18
_CLAIM_KEYS = (
    "id", "where", "says", "derive", "published", "published_high", "unit", "tolerance", "relation",
    "assuming", "not_derivable", "scenario", "published_with", "explained_by", "note",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a figure may have come about: an expression that gives it, and why in words."""

    expression: Expression
    why: str


@dataclass(frozen=True, slots=True)
class Claim:
    """One published figure and what it is a figure of.

    `published` to `published_high` is what was printed, in `unit`; `tolerance` is half a step of its last
    digit unless the file gives another. `relation` `at_most` says that the derived value must not exceed the
    published one, `at_least` that it must not fall below. `stated` are the options that the publication
    states, `published_with` those under which it seems to have reckoned. `assuming` is what the derivation
    takes for granted, `not_derivable` why there is none.
    """

    id: str
    where: str
    says: str
    expression: Expression
    published: Fraction
    published_high: Fraction
    unit: Unit
    tolerance: Fraction
    relation: Relation
    scenario: Options
    stated: frozenset[str]
    published_with: Mapping[str, Value]
    explained_by: tuple[Explanation, ...]
    assuming: str
    not_derivable: str
    note: str


@dataclass(frozen=True, slots=True)
class ClaimsFile:
    """The claims of one publication."""

    name: str
    title: str
    claims: tuple[Claim, ...]


def read_claims(path: Path) -> tuple[ClaimsFile, ...]:
    """Return the claims file at `path`, or those in a directory; raise InputError for a bad one."""
    if path.is_dir():
        found = sorted(path.glob("*.toml"))
        if not found:
            raise InputError(f"{path}: there is no .toml file in this directory")
        return tuple(_read_file(file) for file in found)
    return (_read_file(path),)


def _read_file(path: Path) -> ClaimsFile:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise InputError(f"{path}: is larger than 1 MiB, which no claims file needs")
        # Figures are kept as they were printed: 7.50 is a claim about two decimals.
        table = tomllib.loads(data.decode("utf-8"), parse_float=_Printed)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not a TOML file: {str(error)[:200] or 'nested too deeply'}") from None
    return _claims_file(table, path)


class _Printed(str):
    """A decimal number as it was written."""

    __slots__ = ()


def _claims_file(table: Mapping[str, object], path: Path) -> ClaimsFile:
    where = str(path)
    _reject(table, ("title", "source", "note", "scenario", "claim"), where)
    claims, scenario = table.get("claim"), _table(table, "scenario", where)
    if not isinstance(claims, list) or not 0 < len(claims) <= _MOST_CLAIMS:
        raise InputError(f"{where}: want 1 to {_MOST_CLAIMS} [[claim]] tables")
    shared = read_options(scenario, OPTIONS, f"{where}: scenario")
    made = tuple(_claim(entry, i, shared, where) for i, entry in enumerate(claims))
    names = [claim.id for claim in made]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise InputError(f"{where}: two claims are called {double!r}")
    return ClaimsFile(path.stem, _text(table, "title", where) or path.stem, made)


def _claim(entry: object, index: int, shared: Mapping[str, Value], file: str) -> Claim:
    if not isinstance(entry, dict):
        raise InputError(f"{file}: claim {index + 1} is not a table")
    name = str(entry.get("id") or f"claim-{index + 1}")[:80]
    where = f"{file}: {name}"
    _reject(entry, _CLAIM_KEYS, where)
    own = read_options(_table(entry, "scenario", where), OPTIONS, f"{where}: scenario")
    expression = read_expression(entry.get("derive"), where)
    if "unit" not in entry or "published" not in entry:
        raise InputError(f"{where}: needs published = NUMBER and unit = TEXT")
    low, step = _figure(entry, "published", where)
    high, _ = _figure(entry, "published_high", where) if "published_high" in entry else (low, step)
    tolerance = _figure(entry, "tolerance", where)[0] if "tolerance" in entry else step / 2
    terms = {option for leaf in expression.leaves() for option in leaf.options}
    return Claim(
        id=name,
        where=_text(entry, "where", where),
        says=_text(entry, "says", where),
        expression=expression,
        published=low,
        published_high=high,
        unit=unit(str(entry["unit"])),
        tolerance=tolerance,
        relation=_relation(entry, where),
        scenario=Options({**shared, **own}),
        stated=frozenset({*shared, *own, *terms}),
        published_with=read_options(
            _table(entry, "published_with", where), OPTIONS, f"{where}: published_with"
        ),
        explained_by=tuple(_explanations(entry, where)),
        assuming=_text(entry, "assuming", where),
        not_derivable=_text(entry, "not_derivable", where),
        note=_text(entry, "note", where),
    )


def _explanations(entry: Mapping[str, object], where: str) -> list[Explanation]:
    written = entry.get("explained_by", [])
    if not isinstance(written, list) or len(written) > 8:
        raise InputError(f"{where}: explained_by wants a list of at most 8 tables")
    found = []
    for table in written:
        if not isinstance(table, dict) or set(table) != {"derive", "why"}:
            raise InputError(f"{where}: explained_by wants tables of derive and why")
        found.append(Explanation(read_expression(table["derive"], where), _text(table, "why", where)))
    return found


def _relation(entry: Mapping[str, object], where: str) -> Relation:
    text = entry.get("relation", "equal")
    for relation in get_args(Relation):
        if text == relation:
            return relation  # type: ignore[no-any-return]  # get_args loses the type
    raise InputError(f"{where}: relation {str(text)[:40]!r}: want one of {', '.join(get_args(Relation))}")


def _figure(entry: Mapping[str, object], key: str, where: str) -> tuple[Fraction, Fraction]:
    """Return a number exactly as it was written, and the step of its last digit."""
    written = entry[key]
    if isinstance(written, int) and not isinstance(written, bool) and abs(written) <= _MOST_FIGURE:
        return Fraction(written), Fraction(1)
    if (
        isinstance(written, _Printed)
        and len(written) <= 40
        and written.replace(".", "").strip("+-").isdigit()
    ):
        return Fraction(written), Fraction(1, 10 ** len(written.partition(".")[2]))
    raise InputError(f"{where}: {key} is {str(written)[:40]!r}; want a plain number up to {_MOST_FIGURE:,}")


def _table(entry: Mapping[str, object], key: str, where: str) -> Mapping[str, object]:
    table = entry.get(key, {})
    if not isinstance(table, dict):
        raise InputError(f"{where}: {key} wants a table of options")
    return table


def _text(entry: Mapping[str, object], key: str, where: str) -> str:
    text = entry.get(key, "")
    if not isinstance(text, str) or len(text) > 600:
        raise InputError(f"{where}: {key} wants text of at most 600 letters")
    return text


def _reject(table: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    unknown = next((key for key in table if key not in known), None)
    if unknown is not None:
        raise InputError(f"{where}: unknown key {unknown[:40]!r}; known are {', '.join(known)}")
