"""Where the numbers of the catalogue come from: title, address, date and what was read there."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

from tierline.errors import InputError


@dataclass(frozen=True, slots=True)
class Reference:
    """One source: a document, its address, when it was published or read, and the figures read there.

    `confirmed` is False where the address was not seen to hold the figures: they are from a copy or quoted.
    """

    key: str
    title: str
    address: str
    date: str
    sentence: str
    confirmed: bool = True


@cache
def references() -> Mapping[str, Reference]:
    """Return every source of the shipped data by its key, from all files of `data/sources/`."""
    found: dict[str, Reference] = {}
    for file in sorted((resources.files("tierline") / "data" / "sources").iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".toml"):
            continue
        for key, entry in tomllib.loads(file.read_text(encoding="utf-8")).items():
            if key in found:
                raise InputError(f"data/sources/{file.name}: source {key!r} is already in another file")
            title, address, date, sentence = (
                str(entry.get(k, "")) for k in ("title", "address", "date", "sentence")
            )
            confirmed = entry.get("confirmed", True) is True
            found[key] = Reference(key, title, address, date, sentence, confirmed)
    return MappingProxyType(found)


def source_keys(source: str) -> tuple[str, ...]:
    """Return the keys that a number's `source` names: several are joined by commas."""
    return tuple(key.strip() for key in source.split(","))
