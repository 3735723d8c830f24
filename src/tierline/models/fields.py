"""Read JSON that a stranger wrote: everything is bounded and typed before it is believed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tierline.errors import InputError

MAX_JSON_BYTES = 64 * 2**20
MAX_COUNT = 2**31
MAX_LAYERS = 2048
MAX_EXPERTS = 4096


def read_json(path: Path, limit_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """Return the JSON object in `path`; raise InputError if unreadable, over `limit_bytes`, or no object."""
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > limit_bytes:
        raise InputError(f"{path}: over {limit_bytes:,} bytes, too much for a description")
    return parse_json(content, str(path))


def parse_json(content: bytes, where: str) -> dict[str, object]:
    """Return the JSON object in `content`; raise InputError naming `where` for anything else."""
    try:
        parsed = json.loads(content, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON: {str(error)[:200]}") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{where}: want a JSON object, got {type(parsed).__name__}")
    return parsed


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object, refusing a key that occurs twice: readers would disagree about which one counts."""
    built = dict(pairs)
    if len(built) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return built


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one JSON object; `where` names it in errors. A field that is null counts as absent."""

    values: Mapping[str, object]
    where: str

    def count(self, *names: str, default: int | None = None, least: int = 1, most: int = MAX_COUNT) -> int:
        """Return the first whole number that is present under `names`; raise InputError if out of range."""
        for name in names:
            value = self.values.get(name)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                    raise self.error(name, value, f"a whole number from {least} to {most:,}")
                return value
        if default is None:
            raise InputError(f"{self.where}: {' or '.join(names)} is missing")
        return default

    def optional_count(self, *names: str, most: int = MAX_COUNT) -> int | None:
        """Return the first whole number of at least 1 under `names`, or None if absent or not positive."""
        present = [n for n in names if self.values.get(n) not in (None, 0, -1)]
        return self.count(*present, most=most) if present else None

    def flag(self, name: str, default: bool) -> bool:
        """Return the true or false under `name`, or `default`."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def text(self, *names: str, default: str = "") -> str:
        """Return the first text that is present under `names`, or `default`."""
        for name in names:
            value = self.values.get(name)
            if value is not None:
                if not isinstance(value, str):
                    raise self.error(name, value, "text")
                return value
        return default

    def items(self, name: str) -> list[object] | None:
        """Return the list under `name`, or None if absent."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, list):
            raise self.error(name, value, "a list")
        return value

    def inner(self, name: str) -> "Fields":
        """Return the object under `name`; raise InputError if it is missing or something else."""
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise self.error(name, value, "an object")
        return Fields(value, f"{self.where}: {name}")

    def error(self, name: str, value: object, want: str) -> InputError:
        """Return the error that says what `name` holds and what it has to."""
        return InputError(f"{self.where}: {name} is {str(value)[:60]!r}: want {want}")
