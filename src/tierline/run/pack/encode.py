"""Turn rows of a stored matrix into one packed panel."""

import math
from typing import Any

import torch

from tierline.errors import InputError
from tierline.models.packed_forms import FORMS, INT4, is_packed
from tierline.models.stored import StoredTensor
from tierline.run.kernels import DENSE_DTYPES, Kernels
from tierline.run.pack.int4_blocks import int4_from_blocks, int4_parts
from tierline.run.pack.quantise import quantise_int4, quantise_int8, quantise_int8_groups, quantise_mx


class Encoder:
    """Makes panels; keeps the kernels that expand what it reads."""

    def __init__(self) -> None:
        self._kernels = Kernels(torch.float32)

    def panel(self, raw: memoryview, source: StoredTensor, rows: int, number_format: str) -> memoryview:
        """Return `rows` rows of `source`, which lie in `raw`, as one panel in `number_format`.

        The panel is written as it is stored: bytes of weights, then of scales. Raises InputError for
        weights that are not finite, or in a format that cannot be read.
        """
        if number_format == source.format:
            return raw
        parts = int4_from_blocks(raw, source.format, rows) if number_format == INT4 else None
        if parts is None:
            columns = math.prod(source.shape[1:])
            values = self._kernels.of(source).expand(raw, rows, columns)
            if not is_packed(number_format):
                return _bytes_of(values.to(DENSE_DTYPES[number_format]))
            parts = _packed(values, number_format) if values.isfinite().all() else (values,)
        if not parts[-1].isfinite().all():
            raise InputError(
                f"{source.path}: {source.name} holds weights that are not finite (or too large for bf16): "
                "they cannot be packed"
            )
        return _join(*parts)


def _packed(values: torch.Tensor, number_format: str) -> tuple[torch.Tensor, ...]:
    """Return what a panel of finite `values` holds in one of FORMS, part by part."""
    form = FORMS[number_format]
    if form.kind == "int4":
        return int4_parts(*quantise_int4(values, form.group))
    if form.kind == "int8":
        return quantise_int8(values)
    if form.kind == "int8 groups":
        weights, scales = quantise_int8_groups(values, form.group)
        return weights.transpose(0, 1), scales.T
    return (quantise_mx(values, number_format),)


def _join(*parts: torch.Tensor) -> memoryview:
    return memoryview(bytearray().join(_bytes_of(part) for part in parts))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    array: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)
