"""Probed descriptions kept on disk: torch is needed once for a config and the versions that read it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from tierline.cache import cache_folder, read_cached, write_cached
from tierline.errors import InputError
from tierline.models.description import Model
from tierline.models.serialize import FORMAT, model_from_json, model_to_json

MAX_BYTES = 64 * 2**20


def cache_key(config: Mapping[str, object]) -> str:
    """Return the hash of `config` and the versions of torch, transformers, Tierline and the format."""
    versions = {name: version(name) for name in ("torch", "transformers", "tierline")}
    try:
        written = json.dumps([config, versions, FORMAT], sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"config: not JSON: {str(error)[:120]}") from error
    return hashlib.sha256(written.encode()).hexdigest()


def cached_probe(config: Mapping[str, object], name: str) -> Model:
    """Return `probe_model(config, name)`, from the cache where it is there.

    Neither torch nor transformers is imported then. A cache file that cannot be read is made again; one
    that cannot be written is done without. Raises InputError as `probe_model` does.
    """
    path = cache_folder() / f"probe-{cache_key(config)}.json"
    found = _read(path)
    if found is not None:
        return replace(found, name=name)
    from tierline.probe.probe import probe_model

    model = probe_model(config, name)
    write_cached(path, model_to_json(model).encode())
    return model


def _read(path: Path) -> Model | None:
    content = read_cached(path, MAX_BYTES)
    try:
        return None if content is None else model_from_json(content.decode())
    except (UnicodeDecodeError, InputError):
        return None
