"""Routed experts computed one by one, as transformers' own eager code does, with weights lent for the moment.

They come through transformers' interface for experts (`ALL_EXPERTS_FUNCTIONS`), so that routers, shared
experts and everything else stay its own code.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from tierline.models.stored import MX_CODES, StoredTensor
from tierline.run.attach import Rehearsal, expert_weights
from tierline.run.experts.cache import Data
from tierline.run.experts.split import by_nibble, join
from tierline.run.experts.stored import Expert, joined
from tierline.run.kernels import Kernels
from tierline.run.kernels.kernel import DenseKernel
from tierline.run.recorder import Recorder

IMPLEMENTATION = "tierline_streamed"
_OURS = "_tierline_experts"


Guess = Callable[[torch.Tensor], Sequence[int]]


class Lender(Protocol):
    """Lends the experts that a router chose, and takes guesses at what the next one will."""

    def visit(self, layer: int, chosen: Sequence[int]) -> Iterator[tuple[int, Data]]:
        """Lend each of the `chosen` until the next is asked for, in any order."""
        ...

    def guess(self, layer: int, likely: Sequence[int]) -> None:
        """Take notice that the `likely` experts of a layer will probably be chosen next."""
        ...


@dataclass(slots=True)
class Home:
    """Where experts come from: filled when weights are loaded, after the modules were attached."""

    lender: Lender | None = None


@dataclass(slots=True)
class ExpertsForward:
    """Takes the place of a module's experts: `layer` counts such modules in the order of a pass.

    `next_router` says what the router of the next layer would choose for the rows of this one: most of it is
    what it will choose, since a layer changes little of what flows through it.
    """

    layer: int
    module: Any  # a class that transformers decorates, which is untyped
    experts: Sequence[Expert]
    kernels: Kernels
    home: Home
    rehearsal: Rehearsal
    recorder: Recorder
    next_router: Guess | None = None

    def __call__(self, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of each row's experts, shape of `hidden`, `(rows, width)`.

        `index` and `weights`, `(rows, experts per token)`, are the router's; an index beyond the last expert
        is skipped. Outputs are added in the order of experts, whatever order they come in.
        """
        chosen = [e for e in torch.unique(index).tolist() if e < len(self.experts)]
        found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for expert, data in self._visit(chosen):
            place, row = torch.where(index.T.eq(expert))
            started_s = perf_counter()
            out = self._expert(expert, hidden[row], data) * weights[row, place, None]
            if not found and self.next_router is not None:  # reads are under way: there is time to guess
                self._guess(hidden)
            found[expert] = row, out.to(hidden.dtype)
            self.recorder.note("compute", "compute", self.experts[expert].name, started_s)
        final = torch.zeros_like(hidden)
        for expert in chosen:
            final.index_add_(0, *found[expert])
        return final

    def _guess(self, hidden: torch.Tensor) -> None:
        if self.home.lender is not None and self.next_router is not None:
            self.home.lender.guess(self.layer + 1, self.next_router(hidden))

    def _visit(self, chosen: Sequence[int]) -> Iterator[tuple[int, Data | None]]:
        if self.rehearsal.on:
            return ((expert, None) for expert in chosen)
        assert self.home.lender is not None  # noqa: S101 - a model is run after it was loaded
        return self.home.lender.visit(self.layer, chosen)

    def _expert(self, expert: int, x: torch.Tensor, data: Data | None) -> torch.Tensor:
        first, last = expert_weights(self.module)
        y = self._biased(self.product(expert, 0, x, data), first, expert)
        y = self.module._apply_gate(y) if self.module.has_gate else self.module.act_fn(y)  # noqa: SLF001
        y = self._biased(self.product(expert, 1, y, data), last, expert)
        return self.module.post_expert_norm(y) if self.module.has_post_expert_norm else y

    def _biased(self, y: torch.Tensor, name: str, expert: int) -> torch.Tensor:
        return y + getattr(self.module, f"{name}_bias")[expert] if self.module.has_bias else y

    def product(self, expert: int, part: int, x: torch.Tensor, data: Data | None) -> torch.Tensor:
        """Return `x` times one weight of an expert (0 into it, 1 out of it); zeros without `data`."""
        tensors = self.experts[expert].parts[part]
        turned = bool(self.module.is_transposed)
        if tensors[0].format == MX_CODES:
            return self._split(tensors, x, None if data is None else data[part])
        if data is None:
            return x.new_zeros(x.shape[0], sum(t.shape[1 if turned else 0] for t in tensors))
        products = [self._multiply(t, raw, x, turned) for t, raw in zip(tensors, data[part], strict=True)]
        return products[0] if len(products) == 1 else torch.cat(products, dim=-1)

    def _split(
        self, tensors: Sequence[StoredTensor], x: torch.Tensor, raw: tuple[memoryview, ...] | None
    ) -> torch.Tensor:
        (matrix,) = joined(tensors)
        if raw is None:
            return x.new_zeros(x.shape[0], matrix.shape[0])
        return self.kernels.of(matrix).matmul(by_nibble(x), join(*raw), matrix.shape[0])

    def _multiply(self, tensor: StoredTensor, raw: memoryview, x: torch.Tensor, turned: bool) -> torch.Tensor:
        kernel = self.kernels.of(tensor)
        if not turned:
            return kernel.matmul(x, raw, tensor.shape[0])
        rows, columns = tensor.shape
        if isinstance(kernel, DenseKernel):
            return x @ kernel.view(raw, rows, columns)
        return x @ kernel.expand(raw, rows, columns)

    def width(self, part: int) -> int:
        """Return how many columns the input of a weight has."""
        return self.experts[0].parts[part][0].shape[0 if self.module.is_transposed else 1]


def router_of(model: nn.Module, forward: ExpertsForward, path: str) -> Guess | None:
    """Return what tells the experts that the router beside the experts at `path` chooses for given rows.

    None where no such module returns indices of experts (DeepSeek's choose them in the block around).
    """
    block = model.get_submodule(path.rpartition(".")[0])
    blank = torch.zeros(1, forward.width(0), dtype=forward.kernels.compute)
    for module in block.children():
        weight = getattr(module, "weight", None)
        if weight is None or tuple(weight.shape) != (len(forward.experts), forward.width(0)):
            continue
        with torch.inference_mode():
            found = module(blank)
        for i, part in enumerate(found if isinstance(found, tuple) else ()):
            if part.dtype == torch.long and part.dim() == 2:
                return partial(_chosen_by, module, i)
    return None


def _chosen_by(router: nn.Module, place: int, rows: torch.Tensor) -> list[int]:
    """Return each expert that is chosen once, the first choices of all rows first: they are surest."""
    return list(dict.fromkeys(router(rows)[place].T.flatten().tolist()))


def use_streamed_experts(model: PreTrainedModel, forwards: Sequence[ExpertsForward]) -> None:
    """Have `model` compute its experts by `forwards`."""
    if not forwards:
        return
    for forward in forwards:
        setattr(forward.module, _OURS, forward)
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _forward)
    model.set_experts_implementation(IMPLEMENTATION)


def _forward(module: nn.Module, *arguments: Any, **named: Any) -> torch.Tensor:  # noqa: ANN401
    out: torch.Tensor = getattr(module, _OURS)(*arguments, **named)
    return out
