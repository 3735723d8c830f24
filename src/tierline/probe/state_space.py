"""Stand-ins for the state-space functions of transformers' Mamba modules, which are called by name.

Each module file has its own copies: `causal_conv1d_fn` and `_update`, `mamba2_chunk_scan` and
`mamba2_selective_state_update` (Mamba2), `mamba_selective_scan` and `mamba_selective_state_update` (Mamba).
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tierline.probe.observe import Observer
from tierline.probe.seams import replaced


@contextmanager
def scans_seen(model: nn.Module, observer: Observer) -> Iterator[None]:
    """Have the state-space functions that `model` calls tell `observer` instead of computing."""
    stand_ins = _StandIns(observer).by_name()
    homes = {type(module).__module__ for module in model.modules()}
    with ExitStack() as stack:
        for home in (sys.modules[name] for name in sorted(homes) if name in sys.modules):
            for name, function in stand_ins.items():
                if hasattr(home, name):
                    stack.enter_context(replaced(home, name, function))
        yield


@dataclass(frozen=True, slots=True)
class _StandIns:
    """What is called in place of the state-space functions: shapes in, an observation, empty tensors out."""

    observer: Observer

    def by_name(self) -> dict[str, Callable[..., Any]]:
        """Return them by the names under which transformers' modules import the originals."""
        return {
            "causal_conv1d_fn": self.convolve,
            "causal_conv1d_update": self.update,
            "mamba2_chunk_scan": self.chunk_scan,
            "mamba2_selective_state_update": self.state_update,
            "mamba_selective_scan": self.selective_scan,
            "mamba_selective_state_update": self.selective_update,
        }

    def convolve(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: object = None, **_: object
    ) -> torch.Tensor:
        """Stand for a causal convolution over a prompt."""
        return self.observer.convolve_state(hidden, weight, bias)

    def update(
        self,
        hidden: torch.Tensor,
        _state: object,
        weight: torch.Tensor,
        bias: object = None,
        *_: object,
        **__: object,
    ) -> torch.Tensor:
        """Stand for a causal convolution of one token."""
        return self.observer.convolve_state(hidden, weight, bias)

    def chunk_scan(
        self, hidden: torch.Tensor, _dt: object, _a: object, b: torch.Tensor, *_: object, **options: object
    ) -> Any:  # noqa: ANN401
        """Stand for Mamba 2's scan over a prompt."""
        batch, rows, heads, width = hidden.shape
        groups, state = b.shape[-2:]
        self.observer.scan(batch * rows, heads, width, state, groups)
        out = torch.empty_like(hidden)
        final = hidden.new_empty((batch, heads, width, state))
        return (out, final) if options.get("return_final_states") else out

    def state_update(
        self,
        _state: object,
        hidden: torch.Tensor,
        _dt: object,
        _a: object,
        b: torch.Tensor,
        *_: object,
        **__: object,
    ) -> torch.Tensor:
        """Stand for Mamba 2's step of one token."""
        heads, width = hidden.shape[-2:]
        self.observer.scan(hidden.shape[0], heads, width, b.shape[-1], b.shape[-2])
        return torch.empty_like(hidden)

    def selective_scan(
        self, hidden: torch.Tensor, _dt: object, _a: object, b: torch.Tensor, *_: object, **options: object
    ) -> Any:  # noqa: ANN401
        """Stand for Mamba's scan over a prompt."""
        batch, width, rows = hidden.shape
        state = b.shape[-2]
        self.observer.scan(batch * rows, 1, width, state, 1)
        out = torch.empty_like(hidden)
        final = hidden.new_empty((batch, width, state))
        return (out, final) if options.get("return_last_state") else out

    def selective_update(
        self,
        _state: object,
        hidden: torch.Tensor,
        _dt: object,
        _a: object,
        b: torch.Tensor,
        *_: object,
        **__: object,
    ) -> torch.Tensor:
        """Stand for Mamba's step of one token."""
        self.observer.scan(hidden.shape[0], 1, hidden.shape[-1], b.shape[-1], 1)
        return torch.empty_like(hidden)
