"""What goes into a packed file: which tensors, in which order, each in which format."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import nn
from transformers import PreTrainedModel

from tierline.errors import InputError
from tierline.formats.ggml import ggml_blocks
from tierline.formats.parse import parse_format
from tierline.models.packed_forms import FORMS, INT4, INT8, INT8_GROUP, MXFP4, MXFP8, fits, is_packed
from tierline.models.stored import StoredTensor
from tierline.probe.order import execution_order
from tierline.run.attach import expert_weights, is_experts, is_table
from tierline.run.build import build_model
from tierline.run.gguf_config import ROTARY_FACTORS
from tierline.run.kernels import DENSE_DTYPES
from tierline.run.pack.experts import expert_matrices, expert_sources
from tierline.run.source import Source

KEEP = "keep"
# What --weights takes, and the packed format of matrices by it.
WEIGHTS: Mapping[str, str] = MappingProxyType(
    {
        "int8:channel": INT8,
        "int8:group=128": INT8_GROUP,
        **{f"int4:group={n}": INT4.replace("32", str(n)) for n in (32, 64, 128)},
        "mxfp8": MXFP8,
        "mxfp4": MXFP4,
        KEEP: "",
    }
)
PANEL_BYTES = 2 * 2**20  # one call of a kernel each: smaller ones pay more per call, larger ones stream worse
_PANEL_ROWS = 128  # a multiple of what the threads of a kernel share out
_MOST_INT4_BITS = 5  # GGUF blocks up to here are kept as int4 with scales, wider ones as int8


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor to pack: read from `source`, written as `name` in `format`.

    `pair_heads` is the number of heads whose rotary pairs lie interleaved in the source's rows, 0 if none.
    The rows of `joined` follow those of the source: a module fuses what its file holds apart.
    """

    name: str
    source: StoredTensor
    format: str
    panel_rows: int
    pair_heads: int = 0
    joined: tuple[StoredTensor, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor that is written."""
        return joined_shape((self.source, *self.joined))

    @property
    def rows(self) -> int:
        """Rows of the tensor: a vector's are its elements, a scalar is one."""
        return self.shape[0] if self.shape else 1

    @property
    def footprint_bytes(self) -> int:
        """Bytes in the packed file."""
        if self.format != self.source.format:
            return footprint_of(self.format, self.shape)
        return sum(tensor.footprint_bytes for tensor in (self.source, *self.joined))


def joined_shape(tensors: Sequence[StoredTensor]) -> tuple[int, ...]:
    """Return the shape of `tensors`, the rows of one following those of the other."""
    first = tensors[0].shape
    return (sum(t.shape[0] for t in tensors), *first[1:]) if len(tensors) > 1 else first


def footprint_of(format_name: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor of `shape` in this format."""
    return parse_format(format_name).footprint_bytes(shape or (1,))


def contents(source: Source, weights: str, panel_bytes: int) -> tuple[Item, ...]:
    """Return every tensor of `source` in the order of a decode step, unused ones last.

    Matrices of linear layers get the packed format that `weights` (a key of WEIGHTS) names; `keep` leaves
    them as they are, except that GGUF blocks become what the kernels compute, at about their size. A matrix
    that is also an embedding becomes int8 by row where its format cannot be read by rows, and so does one of
    a shape that the format cannot have. Matrices whose shape no kernel can take, and everything else, stay as
    they are, in bf16 beside packed ones. Experts are written one by one, each weight as its module fuses it,
    what belongs to one expert together. Raises InputError for a GGUF tensor that no module uses.
    """
    model = build_model(source.config, torch.bfloat16)
    choice = _Choice(source, weights, panel_bytes, *_roles(source, model))
    items: dict[StoredTensor, Item] = {}
    held = set[str]()
    for found in _in_order(source, model):
        if isinstance(found, StoredTensor):
            items.setdefault(found, choice.item(found))
            continue
        held |= expert_sources(source, *found)
        for name, parts, turned in expert_matrices(source, *found):
            items.setdefault(parts[0], choice.expert(name, parts, turned=turned))
    used = held | {stored.name for stored in items}
    return (*items.values(), *(choice.item(t) for t in _others(source, used)))


def _in_order(source: Source, model: PreTrainedModel) -> Iterator[StoredTensor | tuple[str, nn.Module]]:
    """Yield stored tensors by the module that uses them, a tied matrix where it is multiplied with.

    In the place of the weights of experts comes their module, with its name.
    """
    modules = dict(model.named_modules())
    tied = {source.stored(f"{n}.weight") for n, m in modules.items() if type(m) is nn.Linear}
    for name in (*execution_order(model), *modules):
        module = modules[name]
        if is_experts(module):
            yield name, module
        for attribute, _ in module.named_parameters(recurse=False):
            if is_experts(module) and attribute in expert_weights(module):
                continue
            stored = _find(source, f"{name}.{attribute}" if name else attribute)
            if stored is not None and not (is_table(module) and stored in tied):
                yield stored


def _find(source: Source, name: str) -> StoredTensor | None:
    """Return a parameter's stored tensor, None where a safetensors file holds it in other parts."""
    try:
        return source.stored(name)
    except InputError:
        if source.checkpoint.kind == "gguf":
            raise
        return None


def _others(source: Source, used: Set[str]) -> Iterator[StoredTensor]:
    for stored in source.checkpoint.tensors.values():
        if stored.name in used:
            continue
        if source.checkpoint.kind == "gguf" and stored.name != ROTARY_FACTORS:
            raise InputError(f"{stored.path}: no module uses {stored.name[:120]!r}: it cannot be packed")
        yield stored


def _roles(source: Source, model: PreTrainedModel) -> tuple[set[StoredTensor], set[StoredTensor]]:
    """Return the tensors that linear layers multiply with, and those whose rows are looked up."""
    products, tables = set(), set()
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            products.add(source.stored(f"{name}.weight"))
        elif is_table(module):
            tables.add(source.stored(f"{name}.weight"))
    return products, tables


@dataclass(frozen=True, slots=True)
class _Choice:
    """Decides a tensor's name, format and panels."""

    source: Source
    weights: str
    panel_bytes: int
    products: set[StoredTensor]
    tables: set[StoredTensor]

    def item(self, stored: StoredTensor) -> Item:
        name, pair_heads = stored.name, 0
        if self.source.checkpoint.kind == "gguf":
            name = self.source.module_name(stored)
            pair_heads = self.source.rotary_heads().get(name.rpartition(".")[0], 0)
        number_format = self._format(stored)
        return Item(name, stored, number_format, self._panel_rows(stored, number_format), pair_heads)

    def expert(self, name: str, parts: tuple[StoredTensor, ...], *, turned: bool) -> Item:
        """Return one matrix of an expert; a `turned` one, `[in, out]`, has no packed form."""
        if len({part.format for part in parts}) > 1:
            formats = " and ".join(f"{part.name} in {part.format}" for part in parts)
            raise InputError(f"{parts[0].path}: {formats}: what a module fuses has to have one format")
        whole = replace(parts[0], shape=joined_shape(parts))
        wanted = self._wanted(whole) if not turned else ""
        number_format = self._fitting(whole, wanted, looked_up=False)
        return Item(name, parts[0], number_format, self._panel_rows(whole, number_format), 0, parts[1:])

    def _format(self, stored: StoredTensor) -> str:
        wanted = self._wanted(stored) if stored in self.products else ""
        return self._fitting(stored, wanted, looked_up=stored in self.tables)

    def _fitting(self, stored: StoredTensor, wanted: str, *, looked_up: bool) -> str:
        """Return the format of a tensor: what is `wanted` where a kernel can take it."""
        if wanted and not (fits(wanted, stored.shape) and (FORMS[wanted].by_row or not looked_up)):
            wanted = INT8
        if wanted and fits(wanted, stored.shape):
            return wanted
        as_it_is = self.weights == KEEP and self.source.checkpoint.kind != "gguf"
        floats = stored.format in DENSE_DTYPES or stored.format in _block_names()
        return stored.format if as_it_is or stored.name == ROTARY_FACTORS or not floats else "bf16"

    def _wanted(self, stored: StoredTensor) -> str:
        if self.weights != KEEP:
            return WEIGHTS[self.weights]
        if stored.format not in _block_names():
            return ""
        bits = parse_format(stored.format).bits_per_element
        return INT4 if bits <= _MOST_INT4_BITS else INT8

    def _panel_rows(self, stored: StoredTensor, number_format: str) -> int:
        rows = max(1, stored.shape[0]) if stored.shape else 1
        row_bytes = max(1, footprint_of(number_format, stored.shape) // rows)
        most = max(1, self.panel_bytes // row_bytes)
        unit = _PANEL_ROWS if is_packed(number_format) and most >= _PANEL_ROWS else 0
        unit = unit or (FORMS[number_format].panel_rows if is_packed(number_format) else 1)
        return min(rows, max(unit, most // unit * unit))


def _block_names() -> set[str]:
    return {blocks.name for blocks in ggml_blocks().values()}
