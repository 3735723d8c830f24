"""The runtimes that ship: every number and every rule has a source that exists."""

import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest

from tierline.plan.runtime import load_runtime, runtime_names

DATA = files("tierline") / "data"


def sources_of(value: Any) -> Iterator[str]:
    """Yield the keys of sources that a document names, at any depth."""
    if isinstance(value, dict):
        yield from [value["source"]] if "source" in value else []
        for part in value.values():
            yield from sources_of(part)


@pytest.mark.parametrize("name", runtime_names())
def test_every_number_of_a_runtime_has_a_source(name: str) -> None:
    folder = DATA / "sources"
    known = {key for file in folder.iterdir() for key in tomllib.loads(file.read_text(encoding="utf-8"))}
    document = tomllib.loads((DATA / "runtimes" / f"{name}.toml").read_text(encoding="utf-8"))
    tables = [table for table in document.values() if isinstance(table, dict)]
    assert tables
    for table in tables:
        assert set(sources_of(table))
        assert set(sources_of(table)) <= known


def test_a_process_takes_what_was_measured() -> None:
    process = load_runtime("transformers").process_bytes
    assert process is not None
    assert (process.kind, process.value) == ("measured", 266_000_000)
    assert load_runtime("bare").process_bytes is None
