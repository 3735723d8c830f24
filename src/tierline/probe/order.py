"""The order in which a decode step calls the modules that hold parameters."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from tierline.errors import InputError
from tierline.probe.seams import installed, quiet, use_seams


def meta_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model of the same class and config on the meta device, its dropout off; no memory is used."""
    with torch.device("meta"), no_init_weights():
        twin: PreTrainedModel = type(model)(copy.deepcopy(model.config))
    twin.train(mode=False)
    return twin


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[str]]:
    """Collect the name of each module that owns parameters, whenever it is called."""
    calls: list[str] = []

    def note(name: str) -> Any:  # noqa: ANN401 - torch's hook type is as loose
        return lambda _module, _args: calls.append(name)

    handles = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _prompt(model: PreTrainedModel, tokens: int) -> dict[str, Any]:
    ids = torch.zeros((1, tokens), dtype=torch.long)
    if not model.config.is_encoder_decoder:
        return {"input_ids": ids}
    # The encoder's own pass is not part of a decode step: hand over its result.
    width = model.config.hidden_size
    return {"decoder_input_ids": ids, "encoder_outputs": (torch.empty((1, 3, width)),)}


def execution_order(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that own parameters, in the order in which a decode step calls them.

    The step is one token after a prompt of two, run on a meta copy of `model` (a transformers model), so
    `model` itself is neither run nor changed. A module called twice in a step is named twice. A module
    that is not called (a vision tower, or one whose parameters another module reads directly, such as
    Mamba2's convolution) is left out. Raises InputError if `model` has no config to copy it from or
    cannot run a step on the meta device.
    """
    with _twin_of(model) as twin, recorded(twin) as calls:
        _prompt_and_step(twin, calls.clear)
    return tuple(calls)


def read_directly(model: nn.Module) -> frozenset[str]:
    """Return the names of the modules whose parameters other modules compute with, without calling them.

    Mamba's step reads the weight of its convolution and of `dt_proj`, and some heads that of the embedding.
    Observed as `execution_order` does, in the prompt's pass too. Raises InputError as that does.
    """
    with _twin_of(model) as twin, _DirectReads(twin) as reads:
        _prompt_and_step(twin, lambda: None)
    return frozenset(reads.found)


@contextmanager
def _twin_of(model: nn.Module) -> Iterator[PreTrainedModel]:
    """Give a meta copy of `model` to observe; raise InputError if that is not possible."""
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise InputError(f"{name} is not a transformers model: its order cannot be observed")
    with quiet(), installed(), torch.no_grad(), torch.device("meta"):
        twin = meta_copy(model)
        use_seams(twin)
        try:
            yield twin
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
            raise InputError(f"{name} cannot run a step on the meta device: {error}") from error


def _prompt_and_step(twin: PreTrainedModel, between: Callable[[], object]) -> None:
    prefill = twin(**_prompt(twin, 2), use_cache=True)
    cache = getattr(prefill, "past_key_values", None)
    if cache is not None:
        between()
        twin(**_prompt(twin, 1), past_key_values=cache, use_cache=True)


class _DirectReads(TorchFunctionMode):
    """Notes modules whose parameters are computed with while they themselves are not being called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._owners = {id(p): name for name, m in model.named_modules() for p in m.parameters(recurse=False)}
        self._active: list[str] = []
        for name, module in model.named_modules():
            if next(module.parameters(recurse=False), None) is not None:
                module.register_forward_pre_hook(self._entered(name))
                module.register_forward_hook(lambda *_: self._active.pop() and None)

    def _entered(self, name: str) -> Any:  # noqa: ANN401 - torch's hook type is as loose
        return lambda _module, _args: self._active.append(name)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):  # not a question after a shape or a dtype
            for part in (*args, *(kwargs or {}).values()):
                owner = self._owners.get(id(part))
                if owner is not None and owner not in self._active:
                    self.found.add(owner)
        return result
