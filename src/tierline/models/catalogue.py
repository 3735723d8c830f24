"""The models that ship with Tierline, each a public configuration from which the native readers build.

An entry is a JSON file in `data/models/`: `title`, `kind` and `source` (a key of `data/sources/models.toml`),
`config` (what of the published `config.json` the description depends on), `parameters` (what building it
must give) and perhaps a `note`. Fields of `config` that are not the publisher's: `head_copies_embedding`,
and the flat form in which SmolVLA's are written.
"""

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from tierline.errors import InputError
from tierline.models.config_reader import model_from_config
from tierline.models.description import Model
from tierline.models.fields import Fields, parse_json


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One model of the catalogue: its published configuration and where that is from."""

    name: str
    title: str
    source: str
    kind: str
    parameters: int
    tied_parameters: int
    config: Fields
    note: str = ""


@cache
def catalogue_names() -> tuple[str, ...]:
    """Return the names of the models that ship with Tierline, sorted."""
    return tuple(
        sorted(f.name.removesuffix(".json") for f in _folder().iterdir() if f.name.endswith(".json"))
    )


def catalogue_entry(name: str) -> CatalogueEntry:
    """Return the catalogue's entry for `name`; raise InputError if there is none."""
    if name not in catalogue_names():
        raise InputError(f"no model {name[:80]!r} in the catalogue: `tierline models` lists them")
    where = f"catalogue entry {name}"
    fields = Fields(parse_json((_folder() / f"{name}.json").read_bytes(), where), where)
    parameters = fields.inner("parameters")
    return CatalogueEntry(
        name=name,
        title=fields.text("title"),
        source=fields.text("source"),
        kind=fields.text("kind"),
        parameters=parameters.count("stored", most=2**60),
        tied_parameters=parameters.count("tied", most=2**60),
        config=fields.inner("config"),
        note=fields.text("note"),
    )


def catalogue_model(name: str) -> Model:
    """Return the catalogue's model `name`; raise InputError if there is none."""
    entry = catalogue_entry(name)
    model = model_from_config(name, entry.config, entry.source)
    return replace(model, notes=(*model.notes, entry.note)) if entry.note else model


def _folder() -> Traversable:
    return files("tierline") / "data" / "models"
