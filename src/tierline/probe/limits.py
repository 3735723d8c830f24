"""Bounds on a model before and while it is built, because its config is a stranger's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from tierline.errors import InputError

MAX_LAYERS = 1_000
MAX_EXPERTS = 4_096
MAX_COUNT = 2**40
MAX_FIELDS = 10_000
MAX_DEPTH = 8
MAX_LIST = 100_000
MAX_TENSORS = 200_000
MAX_MODULES = 1_000_000
MAX_ELEMENTS = 10**14


def check_config(config: Mapping[str, object]) -> None:
    """Raise InputError if a count in `config` is too large to build: layers, experts, any number, nesting.

    A field counts layers if its name has `layer`, `depth`, `block` or `stage` in it and is a whole number
    (or a list of them), and experts if it has `expert`.
    """
    fields = 0
    pending: list[tuple[str, object, int]] = [("config", dict(config), 0)]
    while pending:
        where, value, depth = pending.pop()
        fields += 1
        if fields > MAX_FIELDS or depth > MAX_DEPTH:
            raise InputError(f"config: over {MAX_FIELDS:,} fields or {MAX_DEPTH} levels of nesting")
        if isinstance(value, Mapping):
            pending += [(str(key), inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            if len(value) > MAX_LIST:
                raise InputError(f"config: {where[:60]} has {len(value):,} entries, at most {MAX_LIST:,}")
            numbers = {v for v in value if isinstance(v, int)}
            pending += [(where, number, depth + 1) for number in sorted(numbers)[-1:]]
            pending += [(where, v, depth + 1) for v in value if isinstance(v, Mapping | list)]
        elif isinstance(value, int) and not isinstance(value, bool):
            _check_count(where, value)


def _check_count(name: str, value: int) -> None:
    most = MAX_COUNT
    if any(word in name for word in ("layer", "depth", "block", "stage")) and "size" not in name:
        most = MAX_LAYERS
    elif "expert" in name and not any(word in name for word in ("size", "dim", "capacity")):
        most = MAX_EXPERTS
    if abs(value) > most:
        raise InputError(f"config: {name[:60]} is {value:,}: want at most {most:,}")


@contextmanager
def watched() -> Iterator[None]:
    """Raise InputError as soon as what is being built has too many modules, tensors or elements.

    The counts that names do not give away are caught here, while the model grows.
    """
    modules = tensors = elements = 0

    def count_module(_module: nn.Module, _name: str, _child: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        if modules > MAX_MODULES:
            raise InputError(f"config: builds over {MAX_MODULES:,} modules")

    def count_tensor(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, elements
        tensors += 1
        elements += 0 if parameter is None else parameter.numel()
        if tensors > MAX_TENSORS or elements > MAX_ELEMENTS:
            raise InputError(f"config: builds over {MAX_TENSORS:,} tensors or {MAX_ELEMENTS:,} elements")

    handles = (
        register_module_module_registration_hook(count_module),
        register_module_parameter_registration_hook(count_tensor),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
