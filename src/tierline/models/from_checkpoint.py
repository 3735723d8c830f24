"""A checkpoint's header to a model: the config's structure with the file's own shapes and formats."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from tierline.errors import InputError, UnknownArchitectureError
from tierline.models.config_reader import ConfigReader, model_from_config, reads
from tierline.models.description import Block, Component, Layer, Model, PlacedTensor, Tensor, TensorClass
from tierline.models.fields import Fields
from tierline.models.gguf_model import gguf_fields, gguf_renaming
from tierline.models.packed_forms import MXFP4
from tierline.models.stored import EXPERT, Checkpoint, StoredTensor, split_mx, stored_parts
from tierline.units import format_bytes

_SHARD = re.compile(r"-[0-9]+-of-[0-9]+\.safetensors$")
Renaming = Callable[[str], str]  # a module's name pattern to the checkpoint's


def model_from_checkpoint(
    name: str, checkpoint: Checkpoint, config: Fields | None, read: ConfigReader = model_from_config
) -> Model:
    """Return the model that a checkpoint holds, its tensors stored in the formats that the file has.

    `config` is the parsed `config.json` beside a safetensors checkpoint, None if there is none; a GGUF file
    brings its own. `read` describes the model of a `config.json`. Where it does not know the architecture,
    or the tensors of a GGUF file, of a quantised checkpoint or of a probed model are not those of the
    modules, the footprint is still exact: one component of all stored tensors, no phases, and `unknown`
    says why. Raises InputError where a natively read `config.json` and the file disagree.
    """
    gguf = checkpoint.kind == "gguf"
    fields = gguf_fields(checkpoint) if gguf else config
    if fields is None:
        return footprint_only(name, checkpoint, "no config.json beside the weights says how they are used")
    try:
        model = (model_from_config if gguf else read)(name, fields, str(checkpoint.path))
        renaming = gguf_renaming(model) if gguf else _prefix(model, checkpoint)
        return _Matching(checkpoint, renaming).match(model)
    except UnknownArchitectureError as error:
        return footprint_only(name, checkpoint, str(error))
    except InputError as error:
        if gguf:
            reason = "the file is not laid out as its architecture is"
        elif "quantization_config" in fields.values:
            reason = "a quantised checkpoint with tensors of its own"
        elif not reads(fields):
            reason = "what its configuration builds is not what the file holds"
        else:
            raise
        return footprint_only(name, checkpoint, f"{reason}: {error}")


@dataclass(slots=True)
class _Matching:
    """One walk over a model that gives each tensor the name and format it has in the file."""

    checkpoint: Checkpoint
    renaming: Renaming
    used: set[str] = field(default_factory=set)
    blocks: dict[tuple[int, tuple[Tensor, ...]], Block] = field(default_factory=dict)
    mixed: list[str] = field(default_factory=list)

    def match(self, model: Model) -> Model:
        components = tuple(
            Component(c.name, tuple(self._layer(layer, c.name) for layer in c.layers))
            for c in model.components
        )
        return replace(model, components=components, notes=(*model.notes, *self._notes()))

    def _layer(self, layer: Layer, component: str) -> Layer:
        tensors = tuple(self._tensor(t, layer, component) for t in layer.block.tensors)
        block = self.blocks.setdefault((id(layer.block), tensors), Block(tensors, layer.block.operations))
        return Layer(layer.name, layer.index, block)

    def _tensor(self, tensor: Tensor, layer: Layer, component: str) -> Tensor:
        own = name_pattern(layer, tensor.name)
        pattern = self._expert_pattern(tensor, own, layer) or self.renaming(tensor.stored_name or own)
        renamed = replace(tensor, stored_name="" if pattern == own else pattern)
        stored = pattern.replace("{i}", str(layer.index))
        placed = PlacedTensor(layer.full_name(tensor.name), stored, renamed, layer, component)
        if tensor.alias_of and stored not in self.checkpoint.tensors:
            return replace(renamed, in_file=False, stored=self._alias_format(tensor))
        if tensor.kind == "experts":
            apart = split_mx(self.checkpoint.tensors, stored, tensor.shape)
            if apart is not None:
                self.used.update(part.name for part in apart)
                return replace(renamed, in_file=True, stored=MXFP4)
        found = [self._stored(name, shape, placed) for name, shape in stored_parts(placed)]
        self.used.update(t.name for t in found)
        if len({t.format for t in found}) > 1:
            self.mixed.append(placed.name)
        return replace(renamed, in_file=True, stored=found[0].format)

    def _expert_pattern(self, tensor: Tensor, own: str, layer: Layer) -> str | None:
        """Return what the file calls experts that it fuses as the module does: one by one, or all in one."""
        if tensor.kind != "experts":
            return None
        path, _, name = own.rpartition(".")
        for pattern in (f"{path}.{EXPERT}.{name}", own):
            if pattern.replace("{i}", str(layer.index)).replace(EXPERT, "0") in self.checkpoint.tensors:
                return pattern
        return None

    def _alias_format(self, tensor: Tensor) -> str:
        """Return the format of the tensor that this one shares."""
        shared = self.checkpoint.tensors.get(self.renaming(tensor.alias_of))
        return shared.format if shared else tensor.stored

    def _stored(self, name: str, shape: tuple[int, ...], placed: PlacedTensor) -> StoredTensor:
        stored = self.checkpoint.tensors.get(name)
        if stored is None:
            raise InputError(
                f"{self.checkpoint.path}: tensor {name!r}, shape {list(shape)} by the configuration, is "
                f"not there{self._shard_hint()}"
            )
        if stored.shape != shape and (1, *stored.shape) != shape:  # GGUF has a matrix of one row as a row
            raise InputError(
                f"{stored.path}: tensor {name!r} has shape {list(stored.shape)}, but the configuration makes "
                f"{placed.name} {list(shape)}"
            )
        return stored

    def _shard_hint(self) -> str:
        path = self.checkpoint.path
        return f"; this is one of several files: name {path.parent}" if _SHARD.search(path.name) else ""

    def _notes(self) -> Iterator[str]:
        others = [t for name, t in self.checkpoint.tensors.items() if name not in self.used]
        if others:
            total = format_bytes(sum(t.footprint_bytes for t in others))
            yield (
                f"{len(others)} stored tensors ({total}) belong to no module and are not counted, such as "
                f"{others[0].name[:120]}"
            )
        if self.mixed:
            yield f"{self.mixed[0]} and {len(self.mixed) - 1} others have parts of more than one format"


def name_pattern(layer: Layer, relative: str) -> str:
    """Return a tensor's full name with `{i}` for the layer's index."""
    numbered = layer.name.endswith(f".{layer.index}")
    path = f"{layer.name.rpartition('.')[0]}.{{i}}" if numbered else layer.name
    return f"{path}.{relative}" if path else relative  # the model itself may hold a tensor (CLIP's scale)


def _prefix(model: Model, checkpoint: Checkpoint) -> Renaming:
    """Return how this checkpoint's names begin: it may hold the base model alone, or a larger one."""
    tensors = list(model.tensors())
    table = next((t for t in tensors if t.tensor.kind == "embeddings"), tensors[0])
    root = table.name.split(".")[0] + "."
    renamings: tuple[Renaming, ...] = (
        lambda name: name,
        lambda name: name.removeprefix(root),
        lambda name: f"language_model.{name}",
        lambda name: f"{root}language_model.{name.removeprefix(root)}" if name.startswith(root) else name,
    )
    return next((r for r in renamings if r(table.name) in checkpoint.tensors), renamings[0])


def footprint_only(name: str, checkpoint: Checkpoint, reason: str) -> Model:
    """Return a model of which only the stored tensors are known: no operations, no phases."""
    layers: dict[str, list[StoredTensor]] = {}
    for tensor in checkpoint.tensors.values():
        numbered = re.match(r"(.*?\.)([0-9]{1,4})\.", tensor.name)
        path = numbered[0][:-1] if numbered else ""
        layers.setdefault(path, []).append(tensor)
    placed = tuple(_bare_layer(path, tensors) for path, tensors in layers.items())
    return Model(
        name=name,
        family="unknown",
        components=(Component("weights", placed),),
        phases=(),
        source=str(checkpoint.path),
        unknown=(reason,),
    )


def _bare_layer(path: str, stored: list[StoredTensor]) -> Layer:
    index = int(path.rpartition(".")[2]) if path else 0
    tensors = tuple(
        Tensor(t.name[len(path) + 1 :] if path else t.name, t.shape, guess_class(t), t.format) for t in stored
    )
    return Layer(path, index, Block(tensors, ()))


_CLASSES: tuple[tuple[str, TensorClass], ...] = (
    (r"bias$", "biases"),
    (r"norm|(^|\.)ln_", "norms"),
    (r"lm_head|^output\.weight", "head"),
    (r"pos_emb|position_embed|wpe\.", "positions"),
    (r"embed|tok_emb|wte\.", "embeddings"),
    (r"router|gate_inp|mlp\.gate\.", "router"),
    (r"expert|_exps", "experts"),
    (r"attn|attention", "attention"),
    (r"conv", "conv"),
    (r"mlp|ffn|feed_forward|fc[12]\.", "mlp"),
)  # fmt: skip


def guess_class(tensor: StoredTensor) -> TensorClass:
    """Return the class that a tensor's name suggests, `other` if none: the name is all there is to go by."""
    return next((kind for pattern, kind in _CLASSES if re.search(pattern, tensor.name)), "other")
