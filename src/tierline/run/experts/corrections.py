"""Buffers that a checkpoint brings: what routers add to their scores before they choose (DeepSeek-V3's kind).

transformers keeps those in fp32 whatever the model computes in, since a choice hangs on their last bits.
"""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from torch import nn

from tierline.models.decoder import CORRECTION
from tierline.models.stored import StoredTensor
from tierline.run.direct_io import DirectFile
from tierline.run.experts.stored import CORRECTION_BYTES
from tierline.run.kernels import Kernels
from tierline.run.source import Source
from tierline.run.weights import read_whole


class Corrections:
    """The buffers that a checkpoint brings: none for most models, and then nothing here does anything."""

    def __init__(self, model: nn.Module, source: Source) -> None:
        """Find them; raise InputError where the checkpoint lacks the correction of a router."""
        self._kept: Sequence[str] = tuple(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
        self._found: list[tuple[nn.Module, str, StoredTensor]] = []
        for path, module in model.named_modules():
            for name in module._buffers.keys() - module._non_persistent_buffers_set:  # noqa: SLF001 - the only way to tell
                stored = source.checkpoint.tensors.get(f"{path}.{name}")
                if stored is None and name == CORRECTION:
                    stored = source.stored(f"{path}.{name}")
                if stored is not None:
                    self._found.append((module, name, stored))

    @property
    def footprint_bytes(self) -> int:
        """Bytes that they take."""
        return sum(CORRECTION_BYTES * prod(stored.shape) for _, _, stored in self._found)

    def load(self, files: Mapping[Path, DirectFile], compute: torch.dtype) -> None:
        """Give every module its own; raises FaultError where a read fails."""
        for module, name, stored in self._found:
            dtype = torch.float32 if any(kept in stored.name for kept in self._kept) else compute
            value = read_whole(files[stored.path], stored, Kernels(torch.float32).of(stored))
            setattr(module, name, value.to(dtype))
