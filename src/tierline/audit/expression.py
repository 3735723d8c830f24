"""What a claim's figure is made of: quantities and given figures, joined by a few operations.

Nothing is evaluated as code: an expression is a tree of TOML tables, bounded in depth and size.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from functools import reduce
from math import floor
from types import MappingProxyType

from tierline.audit.figure import COUNT, Figure, parse_given
from tierline.audit.options import Options, Value, read_options
from tierline.audit.quantities import QUANTITIES
from tierline.errors import InputError

_DEEPEST, _MOST_TERMS = 8, 32
Joining = Callable[[list[Figure]], Figure]


@dataclass(frozen=True, slots=True)
class Given:
    """A figure that is stated, not derived."""

    text: str
    figure: Figure

    def evaluate(self, scenario: Options, changes: Mapping[str, Value]) -> Figure:
        """Return the figure."""
        del scenario, changes
        return self.figure

    def leaves(self) -> Iterator["Leaf"]:
        """Yield nothing: no option changes it."""
        yield from ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Leaf:
    """A quantity of the registry under options of its own, which come before those of the scenario."""

    name: str
    options: Mapping[str, Value]

    def evaluate(self, scenario: Options, changes: Mapping[str, Value]) -> Figure:
        """Return the derived figure; `changes` come before everything else where the quantity reads them."""
        quantity = QUANTITIES[self.name]
        own = {**self.options, **{k: v for k, v in changes.items() if k in quantity.uses}}
        return Figure(quantity.derive(scenario.with_(own)), quantity.dimension)

    def leaves(self) -> Iterator["Leaf"]:
        """Yield itself."""
        yield self

    def __str__(self) -> str:
        written = ", ".join(f"{name}={_shown(value)}" for name, value in self.options.items())
        return f"{self.name}({written})" if written else self.name


@dataclass(frozen=True, slots=True)
class Joined:
    """An operation on other expressions."""

    name: str
    terms: tuple["Expression", ...]

    def evaluate(self, scenario: Options, changes: Mapping[str, Value]) -> Figure:
        """Return the joined figure; raise InputError where the dimensions of the terms do not fit."""
        return JOININGS[self.name][0]([term.evaluate(scenario, changes) for term in self.terms])

    def leaves(self) -> Iterator[Leaf]:
        """Yield the quantities among its terms."""
        for term in self.terms:
            yield from term.leaves()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.terms))})"


Expression = Given | Leaf | Joined


def read_expression(written: object, where: str, *, depth: int = 0) -> Expression:
    """Return the expression that a table, or the bare name of a quantity, writes.

    `{ quantity = "parameters", component = "vision" }`, `{ given = "38 MB/s" }`,
    `{ ratio = [EXPRESSION, EXPRESSION] }`. Raises InputError, beginning with `where`, for anything else.
    """
    table = {"quantity": written} if isinstance(written, str) else written
    if depth > _DEEPEST or not isinstance(table, dict):
        raise InputError(f"{where}: want a quantity or a table, nested at most {_DEEPEST} deep")
    if set(table) == {"given"}:
        text = str(table["given"])
        return Given(text[:60], parse_given(text))
    joining = next((name for name in table if name in JOININGS), None)
    if joining is not None:
        return _read_joined(table, joining, where, depth)
    name = table.get("quantity")
    if not isinstance(name, str) or name not in QUANTITIES:
        near = get_close_matches(str(name), QUANTITIES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(QUANTITIES)}"
        raise InputError(f"{where}: unknown quantity {str(name)[:40]!r}; {hint}")
    rest = {key: value for key, value in table.items() if key != "quantity"}
    return Leaf(name, read_options(rest, QUANTITIES[name].uses, f"{where}: {name}"))


def _read_joined(table: Mapping[str, object], name: str, where: str, depth: int) -> Joined:
    terms, (least, most) = table[name], JOININGS[name][1]
    if len(table) > 1 or not isinstance(terms, list) or not least <= len(terms) <= most:
        raise InputError(f"{where}: want {name} = [{least} to {most} expressions] and nothing beside it")
    return Joined(name, tuple(read_expression(term, where, depth=depth + 1) for term in terms))


def _alike(figures: list[Figure]) -> list[Fraction]:
    kinds = {figure.dimension for figure in figures}
    if len(kinds) > 1:
        raise InputError(f"terms in {' and '.join(sorted(map(str, kinds)))} cannot be added or compared")
    return [figure.value for figure in figures]


def _sum(figures: list[Figure]) -> Figure:
    return Figure(sum(_alike(figures), Fraction(0)), figures[0].dimension)


def _difference(figures: list[Figure]) -> Figure:
    first, *others = _alike(figures)
    return Figure(first - sum(others), figures[0].dimension)


def _product(figures: list[Figure]) -> Figure:
    return reduce(lambda a, b: Figure(a.value * b.value, a.dimension * b.dimension), figures)


def _ratio(figures: list[Figure]) -> Figure:
    above, below = figures
    if not below.value:
        raise InputError("a ratio divides by 0")
    return Figure(above.value / below.value, above.dimension / below.dimension)


def _saving(figures: list[Figure]) -> Figure:
    _alike(figures)
    return Figure(1 - _ratio(figures).value, COUNT)


def _chosen(choose: Callable[[list[Fraction]], Fraction]) -> Joining:
    return lambda figures: Figure(choose(_alike(figures)), figures[0].dimension)


def _floor(figures: list[Figure]) -> Figure:
    return Figure(Fraction(floor(figures[0].value)), figures[0].dimension)


def _shown(value: Value) -> str:
    return (
        "+".join(value)
        if isinstance(value, tuple)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


# Operation -> (what it does, how many terms it takes).
JOININGS: Mapping[str, tuple[Joining, tuple[int, int]]] = MappingProxyType(
    {
        "sum": (_sum, (1, _MOST_TERMS)),
        "difference": (_difference, (2, _MOST_TERMS)),
        "product": (_product, (1, _MOST_TERMS)),
        "ratio": (_ratio, (2, 2)),
        "saving": (_saving, (2, 2)),
        "min": (_chosen(min), (1, _MOST_TERMS)),
        "max": (_chosen(max), (1, _MOST_TERMS)),
        "floor": (_floor, (1, 1)),
    }
)
