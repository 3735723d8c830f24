"""`tierline models`: the models that are known by name, and what one is made of, with its source."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tierline.machines.sources import references
from tierline.models.catalogue import catalogue_entry, catalogue_names
from tierline.models.description import Component, Model
from tierline.probe.open import open_any_model
from tierline.report.tables import shown
from tierline.units import format_count

_WIDTH = 100


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A catalogue name, config.json, model directory, weights file or index, or a hub id.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """List the models that Tierline knows by name, or show what one is made of.

    Try: tierline models smolvlm2-256m
    """
    if name is None:
        _show(_catalogue_json()) if as_json else _print([_catalogue_table()])
        return
    model = open_any_model(name)
    _show(model_summary(model)) if as_json else _print(_parts(model))


def model_summary(model: Model) -> dict[str, Any]:
    """Return a model's parameters, components and phases as one JSON document; counts are elements."""
    return {
        "name": model.name,
        "family": model.family,
        "source": model.source,
        "max_context_tokens": model.max_context,
        "image_tokens": model.image_tokens,
        "default_steps": model.default_steps,
        "parameters": {
            "total": model.parameters,
            "tied_total": model.tied_parameters,
            "by_component": {c.name: sum(_elements(c).values()) for c in model.components},
            "by_stored_format": dict(_by_format(model)),
        },
        "components": [
            {"name": c.name, "layers": len(c.layers), "parameters_by_class": dict(_elements(c))}
            for c in model.components
        ],
        "phases": [
            {
                "name": p.name,
                "components": list(p.components),
                "passes": str(p.passes),
                "tokens": str(p.tokens),
                "context": str(p.context),
            }
            for p in model.phases
        ],
        "unknown": list(model.unknown),
        "notes": list(model.notes),
        "sources": _references([model.source]),
    }


def _elements(component: Component) -> Counter[str]:
    """Return the stored elements of a component by tensor class."""
    counted: Counter[str] = Counter()
    for layer in component.layers:
        for tensor in layer.block.tensors:
            if tensor.in_file:
                counted[tensor.kind] += tensor.elements
    return counted


def _by_format(model: Model) -> Counter[str]:
    """Return the stored elements of a model by number format."""
    counted: Counter[str] = Counter()
    for placed in model.tensors():
        if placed.tensor.in_file:
            counted[placed.tensor.stored] += placed.tensor.elements
    return counted


def _catalogue_json() -> dict[str, Any]:
    entries = [catalogue_entry(n) for n in catalogue_names()]
    return {
        "models": [
            {
                "name": e.name,
                "title": e.title,
                "family": e.config.text("model_type"),
                "parameters": {"total": e.parameters, "tied_total": e.tied_parameters},
                "source": e.source,
                "kind": e.kind,
            }
            for e in entries
        ],
        "sources": _references([e.source for e in entries]),
    }


def _references(keys: Iterable[str]) -> dict[str, Any]:
    """Return what is known of the sources with these keys; a user's own file is none of them."""
    known = references()
    return {
        key: {"title": known[key].title, "address": known[key].address, "date": known[key].date}
        for key in keys
        if key in known
    }


def _show(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2))


def _print(parts: Iterable[RenderableType]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    for part in parts:
        console.print(part)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column == "parameters" else "left")
    return table


def _catalogue_table() -> Table:
    table = _table("name", "title", "family", "parameters")
    for entry in (catalogue_entry(n) for n in catalogue_names()):
        table.add_row(entry.name, entry.title, entry.config.text("model_type"), f"{entry.parameters:,}")
    return table


def _parts(model: Model) -> Iterator[RenderableType]:
    yield Text(shown(f"{model.name}: {model.family}, {model.parameters:,} parameters stored"), style="bold")
    if model.tied_parameters != model.parameters:
        yield Text(f"  {model.tied_parameters:,} without what is stored twice")
    formats = ", ".join(f"{name} {format_count(count)}" for name, count in _by_format(model).most_common())
    yield Text(shown(f"  stored as {formats}"))
    if model.max_context:
        yield Text(f"  made for a context of up to {model.max_context:,} tokens")
    if model.image_tokens:
        yield Text(f"  an image takes {model.image_tokens:,} tokens of the prompt")
    yield Text()
    yield _component_table(model)
    yield Text()
    if model.phases:
        yield _phase_table(model)
    yield from (Text(shown(f"unknown: {reason}"), style="yellow") for reason in model.unknown)
    yield from (Text(shown(f"note: {note}"), style="dim") for note in model.notes)
    yield from (Text(shown(line), style="dim") for line in _source(model))


def _component_table(model: Model) -> Table:
    table = _table("component", "layers", "parameters", "of which")
    for component in model.components:
        counted = _elements(component)
        classes = ", ".join(f"{kind} {format_count(n)}" for kind, n in counted.most_common())
        table.add_row(component.name, str(len(component.layers)), f"{sum(counted.values()):,}", classes)
    return table


def _phase_table(model: Model) -> Table:
    table = _table("phase", "runs through", "passes", "tokens", "context")
    for phase in model.phases:
        through = ", ".join(phase.components)
        table.add_row(phase.name, through, str(phase.passes), str(phase.tokens), str(phase.context))
    return table


def _source(model: Model) -> Iterator[str]:
    """Yield where the description is from: the published configuration, or the user's own file."""
    known = references().get(model.source)
    if known is None:
        yield f"from {model.source}"
        return
    yield f"from {known.title} ({known.date})"
    yield f"  {known.address}"
