"""Import transformers without what a run does not use: torch.compile's machinery and torch.distributed.

Plain imports pull in torch._dynamo, torch._inductor and sympy through decorators and one type alone, and
hold some 40 MB of memory for them. The command line's process leaves them until something uses them: nothing
is lost but marks on a few functions of transformers that torch.compile should pass over. `tierline.load`,
whose process is somebody else's, does not. With --lean they stay away
(docs/decisions/017-compile-is-imported-when-used.md).
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any, NoReturn

_MACHINERY = "torch._dynamo"
_TYPE, _TYPE_HOME = "TransformGetItemToIndex", f"{_MACHINERY}._trace_wrapped_higher_order_op"


@contextmanager
def without_compile(*, lean: bool) -> Iterator[None]:
    """Import transformers' generation code without the machinery, which stays away while the block runs.

    Whatever imports a part of it, in the block or later, or needs its type, gets the real one; with `lean` it
    stays away for good, and what needs the type raises RuntimeError. Nothing is done where the machinery has
    been imported already: the memory is then spent.
    """
    if _MACHINERY in sys.modules:
        yield
        return
    deferred = None if lean else _Deferred()
    try:
        with _distributed_hidden():
            _stand_in(_refused if deferred is None else deferred.mask_type)
            import transformers.generation.utils
            import transformers.modeling_utils  # noqa: F401 - imported for its effect
        yield
    finally:
        if deferred is not None:
            deferred.end()


class _Deferred:
    """Puts the machinery in the place of its stand-ins as soon as something imports a part of it."""

    def __init__(self) -> None:
        import torch

        self._disable, self._ended = torch.compiler.disable, False
        sys.meta_path.insert(0, self)

    def end(self) -> None:
        """Take the stand-ins away: what asks for the machinery now imports it. A second call does nothing."""
        import torch

        if self._ended:
            return
        self._ended = True
        sys.meta_path.remove(self)
        for name in (_MACHINERY, _TYPE_HOME):
            sys.modules.pop(name, None)
        vars(torch).pop("_dynamo", None)
        torch.compiler.disable = self._disable

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """Find parts of the machinery, as they are imported."""
        if not name.startswith(f"{_MACHINERY}."):
            return None
        self.end()
        return spec_from_loader(name, _Loaded(import_module(name)))

    def mask_type(self) -> Any:  # noqa: ANN401 - a type of the machinery
        """Return what stands for indices in some attention masks."""
        self.end()
        return getattr(import_module(_TYPE_HOME), _TYPE)()


class _Loaded(Loader):
    """Loads what has been loaded."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002 - importlib's signature
        """Return the module."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: it has been executed."""


@contextmanager
def _distributed_hidden() -> Iterator[None]:
    """Have transformers find no torch.distributed while the block runs."""
    import torch

    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = is_available


def _stand_in(mask_type: Callable[[], Any]) -> None:
    """Put stand-ins in the place of the machinery; `mask_type` is called where its one type would be."""
    import torch

    type_home = ModuleType(_TYPE_HOME)
    setattr(type_home, _TYPE, mask_type)
    machinery = _Absent(_MACHINERY)
    sys.modules[_MACHINERY], sys.modules[_TYPE_HOME] = machinery, type_home
    torch._dynamo = machinery  # noqa: SLF001 - torch's own code reads it there
    torch.compiler.disable = _unchanged  # type: ignore[assignment]


def _unchanged(function: Any = None, *_: object, **__: object) -> Any:  # noqa: ANN401 - any decorator
    """Stand for a decorator, with or without arguments: what is never compiled needs no mark."""
    return function if callable(function) else lambda decorated: decorated


class _Absent(ModuleType):
    """Stands for torch._dynamo while decorators of it are applied."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever decorator it is
        if name == "__path__":  # so that parts of it are looked for, and found by who defers it
            return []
        if name.startswith("__"):  # what is asked of any module
            raise AttributeError(name)
        return _unchanged


def _refused() -> NoReturn:
    """Stand for the same where the machinery is to stay away."""
    raise RuntimeError("this attention mask needs torch.compile, which --lean leaves out: run without it")
