"""A model on disk as a run needs it: description, stored tensors, config, tokenizer. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tierline.errors import InputError
from tierline.models.checkpoint import open_checkpoint
from tierline.models.description import Model, PlacedTensor
from tierline.models.fields import read_json
from tierline.models.packed_forms import is_packed
from tierline.models.stored import (
    Checkpoint,
    StoredTensor,
    expert_parts,
    slice_of,
    split_expert,
    split_mx,
)
from tierline.probe.open import open_any_model
from tierline.run.gguf_config import gguf_config
from tierline.run.gguf_tokenizer import gguf_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_DENSE = ("fp32", "fp16", "bf16")
# GGUF architectures whose query and key rows llama.cpp's converter stores with rotary pairs interleaved.
_INTERLEAVED_ARCHITECTURES = ("llama",)


@dataclass(frozen=True)
class Source:
    """A model's files, opened by their headers and found to belong together."""

    path: Path
    checkpoint: Checkpoint
    model: Model
    config: Mapping[str, object]

    @property
    def compute_format(self) -> str:
        """The number format to compute in: fp32 for GGUF blocks, else the format of most stored bytes.

        Packed weights are computed in bf16: the kernels that multiply with them know nothing else.
        """
        if self.checkpoint.kind == "gguf":
            return "fp32"
        if any(is_packed(tensor.format) for tensor in self.checkpoint.tensors.values()):
            return "bf16"
        held: dict[str, int] = {}
        for tensor in self.checkpoint.tensors.values():
            if tensor.format != "uint8":  # codes of what is computed in the format of the rest
                held[tensor.format] = held.get(tensor.format, 0) + tensor.footprint_bytes
        return max(held, key=lambda name: held[name])

    def experts(self, name: str) -> tuple[tuple[StoredTensor, ...], ...]:
        """Return, for each expert, the stored matrices of its share of the module tensor `name`.

        The file holds experts apart or fused, and rows that the module joins (gate and up) apart or joined.
        Raises InputError where it does not hold them.
        """
        placed = self._placed.get(name)
        if placed is None:
            raise InputError(f"{self.path}: the checkpoint holds no experts for {name}")
        apart = split_mx(self.checkpoint.tensors, placed.stored_name, placed.tensor.shape)
        if apart is not None:
            return tuple(split_expert(*apart, expert) for expert in range(placed.tensor.shape[0]))
        found: list[list[StoredTensor]] = [[] for _ in range(placed.tensor.shape[0])]
        for expert, part in expert_parts(placed):
            stored = self.checkpoint.tensors.get(part)
            if stored is None:
                raise InputError(f"{self.path}: the checkpoint holds no {part}")
            if expert is None:
                for index, parts in enumerate(found):
                    parts.append(slice_of(stored, index, len(found)))
            else:
                found[expert].append(stored)
        return tuple(tuple(parts) for parts in found)

    def part_names(self, name: str) -> tuple[str, ...]:
        """Return the names of the stored tensors that make up the module tensor `name`; none if unknown."""
        placed = self._placed.get(name)
        if placed is None:
            return ()
        apart = split_mx(self.checkpoint.tensors, placed.stored_name, placed.tensor.shape)
        if apart is not None:
            return tuple(part.name for part in apart)
        return tuple(part for _, part in expert_parts(placed))

    def stored(self, name: str) -> StoredTensor:
        """Return the stored tensor of the module tensor `name`; a tied one is that of its owner."""
        placed = self._placed.get(name)
        if placed is not None and placed.tensor.alias_of and not placed.tensor.in_file:
            placed = self._placed.get(placed.tensor.alias_of)
        found = None if placed is None else self.checkpoint.tensors.get(placed.stored_name)
        if placed is None or found is None:
            raise InputError(f"{self.path}: the checkpoint holds no weights for {name}")
        if placed.tensor.shape == (1, *found.shape):
            return replace(found, shape=placed.tensor.shape)
        return found

    def module_name(self, stored: StoredTensor) -> str:
        """Return the name of the module tensor that `stored` belongs to, its own if it belongs to none."""
        return self._owners.get(stored.name, stored.name)

    @cached_property
    def _owners(self) -> dict[str, str]:
        placed = [p for p in self.model.tensors() if p.tensor.in_file]
        return {p.stored_name: p.name for p in placed if not p.tensor.alias_of}

    @cached_property
    def _placed(self) -> dict[str, PlacedTensor]:
        return {placed.name: placed for placed in self.model.tensors()}

    def rotary_heads(self) -> dict[str, int]:
        """Return, per linear module whose output pairs are interleaved, its number of heads."""
        if self.checkpoint.metadata.get("general.architecture") not in _INTERLEAVED_ARCHITECTURES:
            return {}
        heads: dict[str, int] = {}
        for component in self.model.components:
            for layer in component.layers:
                for operation in layer.block.operations:
                    if operation.attention is not None:
                        path = layer.full_name(operation.name)
                        heads[f"{path}.q_proj"] = operation.attention.heads
                        heads[f"{path}.k_proj"] = operation.attention.kv_heads
        return heads

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Return the tokenizer that the model ships with; imports transformers."""
        from transformers import AutoTokenizer

        try:
            if self.checkpoint.kind == "gguf":
                return gguf_tokenizer(self.checkpoint)
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self.path, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{self.path}: its tokenizer cannot be loaded: {str(error)[:300]}") from error
        return tokenizer


def open_source(path: Path) -> Source:
    """Return the model in a GGUF file or a directory of config.json and safetensors, headers checked.

    Raises InputError where there is no such model, or one that cannot be run.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or directory; `run` needs a model's files on this computer")
    if path.suffix in _PICKLES:
        raise InputError(
            f"{path}: a pickle can run code when it is loaded and is refused; convert the model to "
            "safetensors (transformers: save_pretrained) and run that"
        )
    folder = path if path.is_dir() or path.suffix == ".gguf" else path.parent
    checkpoint = open_checkpoint(path)
    if checkpoint.kind == "safetensors":
        _refuse_quantised(folder, checkpoint)
    model = open_any_model(str(path if checkpoint.kind == "gguf" else folder))
    if not any(phase.name == "decode" for phase in model.phases):
        why = "; ".join(model.unknown) or f"{path}: {model.family} has no decode phase"
        raise InputError(f"cannot be run as a decoder: {why}")
    if checkpoint.kind == "gguf":
        return Source(path, checkpoint, model, gguf_config(checkpoint))
    return Source(folder, checkpoint, model, read_json(folder / "config.json"))


def _refuse_quantised(folder: Path, checkpoint: Checkpoint) -> None:
    """Raise InputError, with what to do, for weights in forms of other libraries, without a kernel here."""
    config = folder / "config.json"
    quantised = read_json(config).get("quantization_config") if config.is_file() else None
    if not isinstance(quantised, dict):
        return
    method = str(quantised.get("quant_method", "an unnamed method"))[:40]
    coded = [t for t in checkpoint.tensors.values() if t.format not in _DENSE and not is_packed(t.format)]
    if coded and method != "mxfp4":  # GPT-OSS's, which is read as it is
        raise InputError(
            f"{folder}: is quantised by {method} ({coded[0].name[:120]} is stored as {coded[0].format}), "
            "which cannot be run: take the model's original weights and `tierline pack` them (--weights "
            "int4:group=64 or int8:channel), or take a GGUF file of the model"
        )
