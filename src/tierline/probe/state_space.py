"""Stand-ins for the state-space functions of transformers' Mamba modules, which are called by name.

Each module file has its own copies: `causal_conv1d_fn` and `_update`, `mamba2_chunk_scan` and
`mamba2_selective_state_update` (Mamba2), `mamba_selective_scan` and `mamba_selective_state_update` (Mamba).
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from tierline.probe.observe import Observer
from tierline.probe.seams import replaced


@contextmanager
def scans_seen(model: nn.Module, observer: Observer) -> Iterator[None]:
    """Have the state-space functions that `model` calls tell `observer` instead of computing."""
    stand_ins = _stand_ins(observer)
    homes = {type(module).__module__ for module in model.modules()}
    with ExitStack() as stack:
        for home in (sys.modules[name] for name in sorted(homes) if name in sys.modules):
            for name, function in stand_ins.items():
                if hasattr(home, name):
                    stack.enter_context(replaced(home, name, function))
        yield


def _stand_ins(observer: Observer) -> dict[str, Callable[..., Any]]:
    def convolve(
        hidden: torch.Tensor, weight: torch.Tensor, bias: object = None, **_: object
    ) -> torch.Tensor:
        return observer.convolve_state(hidden, weight, bias)

    def update(
        hidden: torch.Tensor,
        _state: object,
        weight: torch.Tensor,
        bias: object = None,
        *_: object,
        **__: object,
    ) -> torch.Tensor:
        return observer.convolve_state(hidden, weight, bias)

    def chunk_scan(
        hidden: torch.Tensor, _dt: object, _a: object, b: torch.Tensor, *_: object, **options: object
    ) -> Any:  # noqa: ANN401
        batch, rows, heads, width = hidden.shape
        groups, state = b.shape[-2:]
        observer.scan(batch * rows, heads, width, state, groups)
        out = torch.empty_like(hidden)
        final = hidden.new_empty((batch, heads, width, state))
        return (out, final) if options.get("return_final_states") else out

    def state_update(
        _state: object,
        hidden: torch.Tensor,
        _dt: object,
        _a: object,
        b: torch.Tensor,
        *_: object,
        **__: object,
    ) -> torch.Tensor:
        heads, width = hidden.shape[-2:]
        observer.scan(hidden.shape[0], heads, width, b.shape[-1], b.shape[-2])
        return torch.empty_like(hidden)

    def selective_scan(
        hidden: torch.Tensor, _dt: object, _a: object, b: torch.Tensor, *_: object, **options: object
    ) -> Any:  # noqa: ANN401
        batch, width, rows = hidden.shape
        state = b.shape[-2]
        observer.scan(batch * rows, 1, width, state, 1)
        out = torch.empty_like(hidden)
        final = hidden.new_empty((batch, width, state))
        return (out, final) if options.get("return_last_state") else out

    def selective_update(
        _state: object,
        hidden: torch.Tensor,
        _dt: object,
        _a: object,
        b: torch.Tensor,
        *_: object,
        **__: object,
    ) -> torch.Tensor:
        observer.scan(hidden.shape[0], 1, hidden.shape[-1], b.shape[-1], 1)
        return torch.empty_like(hidden)

    return {
        "causal_conv1d_fn": convolve,
        "causal_conv1d_update": update,
        "mamba2_chunk_scan": chunk_scan,
        "mamba2_selective_state_update": state_update,
        "mamba_selective_scan": selective_scan,
        "mamba_selective_state_update": selective_update,
    }
