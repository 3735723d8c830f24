"""The vocabulary of claims files as Markdown tables, for docs/audit.md."""

from collections.abc import Iterator

from tierline.audit import subject
from tierline.audit.expression import JOININGS
from tierline.audit.figure import units
from tierline.audit.options import OPTIONS
from tierline.audit.quantities import QUANTITIES

_JOINED = {
    "sum": "all terms added; they must be in one unit",
    "difference": "the first less all others",
    "product": "all terms multiplied, units included",
    "ratio": "the first over the second",
    "saving": "1 less the ratio of the first to the second",
    "min": "the least",
    "max": "the greatest",
    "floor": "the largest whole number not above it",
}
_GROUPS = {
    "tensors": subject.TENSORS,
    "layers": subject.LAYERS,
    "precision": subject.PRECISION,
    "workload": subject.WORKLOAD,
    "machine": subject.MACHINE,
}
_TYPES = {str: "text", int: "whole number", bool: "true or false", tuple: "list of texts"}


def vocabulary_markdown() -> str:
    """Return the tables of quantities, operations, options and units."""
    return "\n".join([*_quantities(), *_joinings(), *_options(), *_units()])


def _quantities() -> Iterator[str]:
    yield from (
        "### Quantities",
        "",
        "| quantity | what it is | unit | options it reads |",
        "| --- | --- | --- | --- |",
    )
    for name, quantity in QUANTITIES.items():
        yield f"| `{name}` | {quantity.says} | {quantity.dimension} | {_grouped(quantity.uses)} |"
    yield from ("", "Groups of options:", "")
    yield from (f"- *{group}*: {', '.join(options)}" for group, options in _GROUPS.items())
    yield ""


def _grouped(uses: tuple[str, ...]) -> str:
    """Return the options by group where all of a group are read, the others by name."""
    left, found = list(dict.fromkeys(uses)), []
    for group, options in _GROUPS.items():
        if all(option in left for option in options):
            found.append(f"*{group}*")
            left = [option for option in left if option not in options]
    return ", ".join([*found, *left])


def _joinings() -> Iterator[str]:
    yield from ("### Operations", "", "| operation | what it gives | terms |", "| --- | --- | --- |")
    for name, (_, (least, most)) in JOININGS.items():
        yield f"| `{name}` | {_JOINED[name]} | {least if least == most else f'{least} to {most}'} |"
    yield ""


def _options() -> Iterator[str]:
    yield from ("### Options", "", "| option | meaning | written as |", "| --- | --- | --- |")
    for name, (types, meaning) in OPTIONS.items():
        yield f"| `{name}` | {meaning} | {' or '.join(_TYPES[kind] for kind in types)} |"
    yield ""


def _units() -> Iterator[str]:
    yield from ("### Units", "", "One row per unit without prefix, which is how `derived` is given.", "")
    yield from ("| unit | as printed |", "| --- | --- |")
    by_base: dict[str, list[str]] = {}
    for name, unit in units().items():
        by_base.setdefault(unit.base, []).append(f"`{name}`")
    for base, names in by_base.items():
        yield f"| `{base}` | {' '.join(names)} |"
    yield ""
