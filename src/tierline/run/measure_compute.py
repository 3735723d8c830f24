"""Samples of what the engine's kernels and its module calls take, for a calibration of this computer."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tierline.errors import BudgetError
from tierline.formats.parse import parse_format
from tierline.models.packed_forms import FORMS, is_packed, is_panelled
from tierline.models.stored import StoredTensor
from tierline.run.attach import attach
from tierline.run.kernels import DENSE_DTYPES, Kernel, Kernels
from tierline.run.kernels.expansions import runnable_blocks
from tierline.run.matrix import Matrix, PinnedTile
from tierline.run.recorder import Recorder
from tierline.run.scratch import CHUNK_ELEMENTS
from tierline.run.tiles import whole
from tierline.units import format_bytes

_PAGE_BYTES = 4096
_ACTIVATION = 2.0**-6
_CALLS, _CALLED_SIZE = 32, 64
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class EngineFormat:
    """A number format that weights can be stored in, and the one that the engine then computes in."""

    stored: str
    compute: str

    @property
    def expands(self) -> bool:
        """Whether the weights are something else than numbers that torch multiplies with."""
        return self.stored != self.compute


def engine_formats() -> tuple[EngineFormat, ...]:
    """Return every stored format that the engine has a kernel for, with what it computes in."""
    dense = (EngineFormat(name, name) for name in DENSE_DTYPES)
    blocks = (EngineFormat(name, "fp32") for name in runnable_blocks() if not is_packed(name))
    packed = (EngineFormat(name, "bf16") for name in FORMS)
    return (*dense, EngineFormat("fp16", "fp32"), EngineFormat("bf16", "fp32"), *blocks, *packed)


class ComputeBench:
    """Blank matrices of `rows` x `columns`, one after another in `arena`, so that none is in a cache."""

    def __init__(
        self, arena: memoryview, *, rows: int, columns: int, clock: Clock = time.perf_counter
    ) -> None:
        self._arena, self._rows, self._columns, self._clock = arena, rows, columns, clock
        self._position = 0
        self._kernels = {name: Kernels(dtype) for name, dtype in DENSE_DTYPES.items()}

    def product(self, form: EngineFormat, batch_rows: int) -> Callable[[float], float]:
        """Return what, given seconds, gives the FLOP/s of `batch_rows` activations times such matrices."""
        kernel, footprint_bytes = self._kernel(form, self._rows)
        x = torch.full((batch_rows, self._columns), _ACTIVATION, dtype=DENSE_DTYPES[form.compute])
        flop = 2 * batch_rows * self._rows * self._columns

        def once() -> None:
            kernel.matmul(x, self._next(footprint_bytes), self._rows)

        return self._sampler(once, lambda often: flop * often)

    def expansion(self, form: EngineFormat) -> Callable[[float], float]:
        """Return what, given seconds, gives the stored bytes/s at which pieces of a matrix are expanded.

        A piece is what the engine expands at a time: it stays in the caches.
        """
        rows = min(self._rows, max(1, CHUNK_ELEMENTS // self._columns))
        kernel, footprint_bytes = self._kernel(form, rows)

        def once() -> None:
            kernel.expand(self._next(footprint_bytes), rows, self._columns)

        return self._sampler(once, lambda often: footprint_bytes * often)

    def calls(self) -> Callable[[float], float]:
        """Return what, given seconds, gives the seconds that the engine takes to call one small module."""
        model = nn.Sequential(*(nn.Linear(_CALLED_SIZE, _CALLED_SIZE, bias=False) for _ in range(_CALLS)))
        shape = (_CALLED_SIZE, _CALLED_SIZE)
        stored = _blank("call", "fp32", shape)
        home = PinnedTile(whole(stored), self._next(stored.footprint_bytes))
        matrix = Matrix(stored, (home,), self._kernels["fp32"].of(stored))
        attach(model, {str(i): matrix for i in range(_CALLS)}, {}, {}, Recorder())
        x = torch.zeros(1, _CALLED_SIZE)
        return self._sampler(lambda: model(x), lambda often: 1 / (_CALLS * often))

    def _kernel(self, form: EngineFormat, rows: int) -> tuple[Kernel, int]:
        stored = _blank("blank", form.stored, (rows, self._columns))
        if stored.footprint_bytes > len(self._arena):
            raise BudgetError(
                f"a matrix of {format_bytes(stored.footprint_bytes)} does not fit the "
                f"{format_bytes(len(self._arena))} of memory that can be measured in: free some memory"
            )
        return self._kernels[form.compute].of(stored), stored.footprint_bytes

    def _next(self, footprint_bytes: int) -> memoryview:
        start = self._position
        if start + footprint_bytes > len(self._arena):
            start = 0
        self._position = start + -(-footprint_bytes // _PAGE_BYTES) * _PAGE_BYTES
        return self._arena[start : start + footprint_bytes]

    def _sampler(
        self, once: Callable[[], object], figure: Callable[[float], float]
    ) -> Callable[[float], float]:
        """Return what, given seconds, gives the figure of how often per second `once` is done.

        It is done a first time here: libraries prepare for a shape when they meet it.
        """
        self._per_second(once, 0.0)
        return lambda seconds: figure(self._per_second(once, seconds))

    @torch.inference_mode()
    def _per_second(self, once: Callable[[], object], seconds: float) -> float:
        """Return how often per second `once` is done, in at least `seconds`."""
        started_s = self._clock()
        count = 0
        while (elapsed_s := self._clock() - started_s) < seconds or not count:
            once()
            count += 1
        return count / elapsed_s


def _blank(name: str, stored: str, shape: tuple[int, int]) -> StoredTensor:
    footprint_bytes = parse_format(stored).footprint_bytes(shape)
    panel_rows = shape[0] if is_panelled(stored) else 1
    return StoredTensor(name, stored, shape, Path(), 0, footprint_bytes, panel_rows)
