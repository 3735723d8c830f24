"""Where a pass stands: the names of the modules that are running, and of the tensors they hold.

A module that stands in two places (a shared block, a tied embedding) is named after the place it is called
from, not after the first one.
"""

import torch
from torch import nn


def own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and persistent buffers that `module` itself holds, by their names in it."""
    skipped = module._non_persistent_buffers_set  # noqa: SLF001 - state_dict() reads it as well
    held: dict[str, torch.Tensor] = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    buffers = module.named_buffers(recurse=False, remove_duplicate=False)
    return held | {name: buffer for name, buffer in buffers if name not in skipped}


def first_tensor(output: object) -> torch.Tensor | None:
    """Return the tensor that a module's output is or begins with, or None."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, tuple | list) and output:
        return first_tensor(output[0])
    return None


def storage_of(tensor: torch.Tensor) -> int:
    """Return the identity of a tensor's storage, which views of it share; on meta there is no address."""
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - the only identity a meta storage has


class Paths:
    """The stack of running modules, each with the path it was called by."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._stack: list[tuple[nn.Module, str]] = []
        self._inside: dict[int, dict[int, str]] = {}
        self._tensors: dict[int, dict[int, str]] = {}
        self._known = {storage_of(t) for module in model.modules() for t in own_tensors(module).values()}

    @property
    def current(self) -> str:
        """The path of the module that runs now; empty outside of all."""
        return self._stack[-1][1] if self._stack else ""

    @property
    def current_module(self) -> nn.Module | None:
        """The module that runs now, or None."""
        return self._stack[-1][0] if self._stack else None

    def enter(self, module: nn.Module) -> None:
        """Note that `module` begins to run."""
        parent, path = self._stack[-1] if self._stack else (self._model, "")
        relative = self._modules_of(parent).get(id(module))
        if relative is None:
            parent, path = self._model, ""
            relative = self._modules_of(parent).get(id(module), "")
        self._stack.append((module, _joined(path, relative)))

    def leave(self) -> str:
        """Note that the module that runs now has returned; return its path."""
        return self._stack.pop()[1]

    def name_of(self, value: object) -> str:
        """Return the full name of the parameter or buffer that `value` is or views; an empty text if none."""
        if not isinstance(value, torch.Tensor):
            return ""
        storage = storage_of(value)
        if storage not in self._known:
            return ""
        for module, path in reversed([(self._model, ""), *self._stack]):
            relative = self._tensors_of(module).get(storage)
            if relative is not None:
                return _joined(path, relative)
        return ""

    def _modules_of(self, module: nn.Module) -> dict[int, str]:
        found = self._inside.get(id(module))
        if found is None:
            found = {}
            for name, inner in module.named_modules(remove_duplicate=False):
                if id(inner) not in found or name.count(".") < found[id(inner)].count("."):
                    found[id(inner)] = name
            self._inside[id(module)] = found
        return found

    def _tensors_of(self, module: nn.Module) -> dict[int, str]:
        found = self._tensors.get(id(module))
        if found is None:
            found = {}
            for path, inner in module.named_modules(remove_duplicate=False):
                for name, tensor in own_tensors(inner).items():
                    found.setdefault(storage_of(tensor), _joined(path, name))
            self._tensors[id(module)] = found
        return found


def _joined(path: str, relative: str) -> str:
    return f"{path}.{relative}" if path and relative else path or relative
