"""What routers add to their scores before they choose (DeepSeek-V3's kind): buffers that a checkpoint brings.

transformers keeps them in fp32 whatever the model computes in, since a choice hangs on their last bits.
"""

from collections.abc import Mapping
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
    """The corrections of a model's routers: none for most, and then nothing here does anything."""

    def __init__(self, model: nn.Module, source: Source) -> None:
        """Find them; raise InputError where the checkpoint lacks one."""
        kept = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
        self._dtype = torch.float32 if CORRECTION in kept else None
        self._found: list[tuple[nn.Module, StoredTensor]] = []
        for path, module in model.named_modules():
            if isinstance(getattr(module, "_buffers", {}).get(CORRECTION), torch.Tensor):
                self._found.append((module, source.stored(f"{path}.{CORRECTION}")))

    @property
    def footprint_bytes(self) -> int:
        """Bytes that they take."""
        return sum(CORRECTION_BYTES * prod(stored.shape) for _, stored in self._found)

    def load(self, files: Mapping[Path, DirectFile], compute: torch.dtype) -> None:
        """Give every router its own; raises FaultError where a read fails."""
        dtype = self._dtype or compute
        for module, stored in self._found:
            kernel = Kernels(torch.float32).of(stored)
            value = read_whole(files[stored.path], stored, kernel)
            setattr(module, CORRECTION, value.to(dtype))
