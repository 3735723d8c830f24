"""Import transformers without what a run does not use: torch.compile's machinery and torch.distributed.

Plain imports pull in torch._dynamo, torch._inductor and sympy through decorators and one type alone, and
hold some 40 MB of memory for them. The command line's process leaves them until something uses them: nothing
is lost but marks on a few functions of transformers that torch.compile should pass over. `tierline.load`,
whose process is somebody else's, does not. With --lean they stay away
(docs/decisions/017-compile-is-imported-when-used.md).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any, NoReturn

from tierline.errors import InputError

_MACHINERY = "torch._dynamo"
# Decorators that mark functions for who compiles them.
_MARKS = frozenset(("allow_in_graph", "assume_constant_result", "disable", "mark_static_address"))
_TYPE, _TYPE_HOME = "TransformGetItemToIndex", f"{_MACHINERY}._trace_wrapped_higher_order_op"


@contextmanager
def without_compile(*, lean: bool) -> Iterator[None]:
    """Import transformers' generation code without the machinery, which stays away while the block runs.

    Whatever imports a part of it, in the block or later, or needs its type, gets the real one; with `lean` it
    stays away for good, and what needs it raises InputError. Nothing is done where the machinery has
    been imported already: the memory is then spent.
    """
    if _MACHINERY in sys.modules:
        yield
        return
    deferred = None if lean else _Deferred()
    try:
        with _distributed_hidden():
            _stand_in(deferred)
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

        self._disable, self.ended = torch.compiler.disable, False
        sys.meta_path.insert(0, self)

    def end(self) -> None:
        """Take the stand-ins away: what asks for the machinery now imports it. A second call does nothing."""
        import torch

        if self.ended:
            return
        self.ended = True
        sys.meta_path.remove(self)
        for name in (_MACHINERY, _TYPE_HOME):
            sys.modules.pop(name, None)
        vars(torch).pop("_dynamo", None)
        torch.compiler.disable = self._disable

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """Find parts of the machinery, as they are imported."""
        return spec_from_loader(name, _Real(self)) if name.startswith(f"{_MACHINERY}.") else None

    def attribute(self, name: str) -> Any:  # noqa: ANN401 - whatever the machinery has
        """Return what the machinery calls so."""
        self.end()
        return getattr(import_module(_MACHINERY), name)

    def mask_type(self) -> Any:  # noqa: ANN401 - a type of the machinery
        """Return what stands for indices in some attention masks."""
        self.end()
        return getattr(import_module(_TYPE_HOME), _TYPE)()


class _Real(Loader):
    """Loads a part of the machinery once its stand-ins are gone."""

    def __init__(self, deferred: _Deferred) -> None:
        self._deferred = deferred
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module, imported as if nothing had stood in for it."""
        self._deferred.end()
        module = import_module(spec.name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module, which has been executed, its own spec back; some let no attribute be set."""
        vars(module)["__spec__"] = self._spec


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


def _stand_in(deferred: _Deferred | None) -> None:
    """Put stand-ins in the place of the machinery, which is refused to who asks for it, or else deferred."""
    import torch

    type_home = ModuleType(_TYPE_HOME)
    setattr(type_home, _TYPE, _refused if deferred is None else deferred.mask_type)
    machinery = _Absent(deferred)
    sys.modules[_MACHINERY], sys.modules[_TYPE_HOME] = machinery, type_home
    torch._dynamo = machinery  # noqa: SLF001 - torch's own code reads it there
    torch.compiler.disable = _unchanged  # type: ignore[assignment]


def _unchanged(function: Any = None, *_: object, **__: object) -> Any:  # noqa: ANN401 - any decorator
    """Stand for a decorator, with or without arguments: what is never compiled needs no mark."""
    return function if callable(function) else lambda decorated: decorated


class _Absent(ModuleType):
    """Stands for torch._dynamo: marks on functions are left out, all else is the machinery's own."""

    def __init__(self, deferred: _Deferred | None) -> None:
        super().__init__(_MACHINERY)
        self._deferred = deferred

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the machinery has
        if name == "__path__":  # so that parts of it are looked for, and found by who defers it
            return []
        if name.startswith("__"):  # what is asked of any module
            raise AttributeError(name)
        if name in _MARKS and (self._deferred is None or not self._deferred.ended):
            return _unchanged
        return _refused() if self._deferred is None else self._deferred.attribute(name)


def _refused() -> NoReturn:
    """Stand for what is asked of the machinery where it is to stay away."""
    raise InputError("this model needs parts of torch.compile, which --lean leaves out: run without --lean")
