"""The options of a scenario and of a quantity: what there is, of which type, and reading it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from tierline.errors import InputError

Value = str | int | bool | tuple[str, ...]

# Option -> (what may be written, what it means); docs/audit.md is made from this table.
OPTIONS: Mapping[str, tuple[tuple[type, ...], str]] = MappingProxyType(
    {
        "model": ((str,), "catalogue name or path of a model"),
        "machine": ((str,), "catalogue name or path of a machine"),
        "set": ((tuple,), "overrides of the machine, PATH=VALUE"),
        "weights": ((str,), "format of the weights, or stored for what the file has (stored)"),
        "kv": ((str,), "format of the KV cache (bf16)"),
        "activations": ((str,), "format of the activations (bf16)"),
        "keep": ((tuple,), "other formats for classes or components, CLASS=FMT"),
        "activation_policy": ((str,), "none, layer-io, materialised or fused"),
        "hoist_static": ((bool,), "whether static operations run once per phase (true)"),
        "include": ((str,), "all, or layer-matrices: only matrices and activations of layers that attend"),
        "batch": ((int,), "sequences at once (1)"),
        "prompt_tokens": ((int,), "rows of the prompt"),
        "new": ((int,), "tokens to generate"),
        "context": ((int,), "prompt and new tokens together"),
        "images": ((int,), "images; 1 if the model has a vision part"),
        "steps": ((int,), "denoising steps; the model's own if not given"),
        "component": ((str, tuple), "only these components (vision, text, head, ...)"),
        "classes": ((str, tuple), "only tensors of these classes (attention, mlp, norms, ...)"),
        "without": ((str, tuple), "no tensors of these classes"),
        "tensors": ((str, tuple), "only tensors whose full name matches one of these patterns (* and ?)"),
        "layers": ((str, int), "all, repeated (those that attend), or the number of one of these, from 0"),
        "static": ((bool,), "only weights of static operations (true) or only others (false)"),
        "tied": ((bool,), "tied tensors once, whatever the file stores (false)"),
        "kv_heads": ((str,), "grouped (as the model has them) or all (one per query head)"),
        "phase": ((str,), "vision, prefill, decode, denoise, ..."),
        "read": ((str,), "phase (what a pass reads) or all (every weight there is)"),
        "operation": ((str,), "an operation by the end of its name, such as mlp.fc1 or lm_head"),
        "rows": ((int,), "output rows of the operation, in place of those of the workload"),
        "format": ((str,), "a number format"),
        "tier": ((str,), "a tier of the machine"),
        "link": ((str,), "a link of the machine, or a tier for its own port"),
        "rate": ((str,), "sustained (peak where unknown) or peak"),
        "gen": ((int,), "generation of PCI Express"),
        "lanes": ((int,), "lanes of PCI Express"),
        "pins": ((int,), "data pins of a memory, over all its devices"),
        "line_rate": ((str,), "rate of one pin, such as 19.5 Gbit/s"),
        "peak": ((str,), "compute peak, in place of the machine's, such as 18.6 TOP/s"),
        "bandwidth": ((str,), "bytes per second, in place of the link's, such as 300 GB/s"),
        "capacity": ((str,), "bytes of room, such as 512 MB"),
    }
)  # fmt: skip
_LONGEST_TEXT, _MOST_ITEMS, _LARGEST_COUNT = 300, 64, 10**12


@dataclass(frozen=True, slots=True)
class Options:
    """Options by name. The accessors return the value, or the default where it was not given."""

    values: Mapping[str, Value]

    def with_(self, changes: Mapping[str, Value]) -> "Options":
        """Return these options with `changes` in place."""
        return Options({**self.values, **changes})

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text; raise InputError where it is needed and was not given."""
        value = self.values.get(name, default)
        if not isinstance(value, str):
            raise InputError(f"needs {name} = ...: {OPTIONS[name][1]}")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a text, or None."""
        value = self.values.get(name)
        return value if isinstance(value, str) else None

    def count(self, name: str) -> int:
        """Return a whole number; raise InputError where it was not given."""
        value = self.optional_count(name)
        if value is None:
            raise InputError(f"needs {name} = ...: {OPTIONS[name][1]}")
        return value

    def optional_count(self, name: str) -> int | None:
        """Return a whole number, or None."""
        value = self.values.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a truth value."""
        value = self.values.get(name, default)
        return value if isinstance(value, bool) else default

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, one text being a list of one; empty where not given."""
        value = self.values.get(name, ())
        if isinstance(value, str):
            return (value,)
        return value if isinstance(value, tuple) else ()


def read_options(table: Mapping[str, object], allowed: Collection[str], where: str) -> dict[str, Value]:
    """Return the options in `table`; raise InputError, beginning with `where`, for an unknown or bad one."""
    found: dict[str, Value] = {}
    for name, written in table.items():
        if name not in allowed:
            near = get_close_matches(name, allowed, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(allowed))}"
            raise InputError(f"{where}: unknown option {name[:40]!r}; {hint}")
        found[name] = _read(name, written, where)
    return found


def _read(name: str, written: object, where: str) -> Value:
    types, meaning = OPTIONS[name]
    value = tuple(written) if isinstance(written, list) else written
    fits = type(value) in types
    if isinstance(value, tuple):
        fits = fits and len(value) <= _MOST_ITEMS and all(isinstance(item, str) for item in value)
    if isinstance(value, str):
        fits = fits and 0 < len(value) <= _LONGEST_TEXT
    if isinstance(value, int):
        fits = fits and 0 <= value <= _LARGEST_COUNT
    if not fits or not isinstance(value, (str, int, tuple)):
        wanted = " or ".join(
            {str: "text", int: "a whole number", bool: "true or false", tuple: "a list of texts"}[t]
            for t in types
        )
        raise InputError(f"{where}: {name} is {str(written)[:40]!r}; want {wanted}: {meaning}")
    return value
