"""Experts as a packed file has them: one by one, each weight as the module fuses it."""

from collections.abc import Iterator

from torch import nn

from tierline.errors import InputError
from tierline.models.stored import MX_CODES, StoredTensor
from tierline.run.attach import expert_weights
from tierline.run.source import Source


def expert_matrices(
    source: Source, path: str, module: nn.Module
) -> Iterator[tuple[str, tuple[StoredTensor, ...], bool]]:
    """Yield (name, stored matrices whose rows make it up, whether it is turned), expert by expert.

    The name of a weight of expert 3 is `PATH.3.WEIGHT`: the reader of checkpoints knows it.
    """
    weights = expert_weights(module)
    by_weight = {weight: source.experts(f"{path}.{weight}") for weight in weights}
    for parts in by_weight.values():
        if parts[0][0].format == MX_CODES:
            raise InputError(
                f"{source.path}: its experts are in MXFP4 already, and run as they are: nothing to pack"
            )
    turned = bool(getattr(module, "is_transposed", False))
    for expert in range(len(by_weight[weights[0]])):
        for weight in weights:
            yield f"{path}.{expert}.{weight}", by_weight[weight][expert], turned


def expert_sources(source: Source, path: str, module: nn.Module) -> set[str]:
    """Return the names of the stored tensors that the weights of the experts at `path` come from."""
    return {name for weight in expert_weights(module) for name in source.part_names(f"{path}.{weight}")}
