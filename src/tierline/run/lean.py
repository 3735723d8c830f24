"""Import transformers without what a run does not use: torch.compile's machinery and torch.distributed.

Plain imports pull in torch._dynamo, torch._inductor and sympy through decorators and one type alone, and
hold about 100 MB of memory for them. Without them torch.compile is gone for the whole process, so this is
asked for (`tierline run --lean`), never done unasked.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_MACHINERY = "torch._dynamo"
_TYPE_HOME = f"{_MACHINERY}._trace_wrapped_higher_order_op"


def import_lean() -> None:
    """Import transformers' generation code with torch.compile and torch.distributed out of sight.

    Does nothing where the machinery has been imported already: the memory is then spent.
    """
    if _MACHINERY in sys.modules:
        return
    with _out_of_sight():
        import transformers.generation.utils
        import transformers.modeling_utils  # noqa: F401 - imported for its effect


@contextmanager
def _out_of_sight() -> Iterator[None]:
    """Stand in for the machinery, from now on, and for torch.distributed while the block runs."""
    import torch

    type_home = ModuleType(_TYPE_HOME)
    type_home.TransformGetItemToIndex = _Compiled  # type: ignore[attr-defined]
    machinery = _Absent(_MACHINERY)
    sys.modules[_MACHINERY], sys.modules[_TYPE_HOME] = machinery, type_home
    torch._dynamo = machinery  # noqa: SLF001 - torch's own code reads it there
    torch.compiler.disable = _unchanged  # type: ignore[assignment]
    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = is_available


def _unchanged(function: Any = None, *_: object, **__: object) -> Any:  # noqa: ANN401 - any decorator
    """Stand for a decorator, with or without arguments: what is never compiled needs no mark."""
    return function if callable(function) else lambda decorated: decorated


class _Absent(ModuleType):
    """Stands for torch._dynamo while decorators of it are applied."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever decorator it is
        return _unchanged


class _Compiled:
    """Stands for a type that only compiled attention masks use."""

    def __init__(self) -> None:
        raise RuntimeError("this attention mask needs torch.compile, which --lean leaves out: run without it")
