"""The places where transformers lets us stand in for attention and experts while a model runs on meta."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.integrations.moe import ExpertsInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface, PreTrainedModel

NAME = "tierline_probe"

Attend = Callable[..., tuple[torch.Tensor, None]]
Route = Callable[..., torch.Tensor]
Mask = Callable[..., torch.Tensor | None]


def blank_attention(
    module: nn.Module,  # noqa: ARG001 - the signature is transformers'
    query: torch.Tensor,
    key: torch.Tensor,  # noqa: ARG001
    value: torch.Tensor,
    mask: torch.Tensor | None,  # noqa: ARG001
    **options: Any,  # noqa: ANN401, ARG001
) -> tuple[torch.Tensor, None]:
    """Return an empty tensor of the shape that attention has: (batch, rows, heads, value width)."""
    batch, heads, rows, _ = query.shape
    return query.new_empty((batch, rows, heads, value.shape[-1])), None


def blank_experts(
    module: nn.Module,  # noqa: ARG001 - the signature is transformers'
    hidden: torch.Tensor,
    *routing: Any,  # noqa: ANN401, ARG001
    **options: Any,  # noqa: ANN401, ARG001
) -> torch.Tensor:
    """Return an empty tensor of the shape of `hidden`: routing needs values, which meta does not have."""
    return torch.empty_like(hidden)


def blank_mask(**options: Any) -> torch.Tensor | None:  # noqa: ANN401, ARG001
    """Return no mask: our attention does not read one."""
    return None


@contextmanager
def installed(
    attend: Attend = blank_attention, route: Route = blank_experts, mask: Mask = blank_mask
) -> Iterator[None]:
    """Have transformers know our functions as the implementation NAME while the context lasts.

    Its warning about padding is off meanwhile: it looks into token ids, which meta does not have.
    """
    mappings: tuple[tuple[dict[str, Any], Any], ...] = (
        (AttentionInterface._global_mapping, attend),  # noqa: SLF001 - register() has no counterpart
        (ExpertsInterface._global_mapping, route),  # noqa: SLF001
        (AttentionMaskInterface._global_mapping, mask),  # noqa: SLF001
    )
    for mapping, function in mappings:
        mapping[NAME] = function
    try:
        with replaced(PreTrainedModel, "warn_if_padding_and_no_attention_mask", _ignore):
            yield
    finally:
        for mapping, _ in mappings:
            del mapping[NAME]


def _ignore(*_args: object, **_options: object) -> None:
    return None


@contextmanager
def replaced(home: object, name: str, function: Any) -> Iterator[None]:  # noqa: ANN401
    """Have `home.name` be `function` while the context lasts."""
    original = getattr(home, name)
    setattr(home, name, function)
    try:
        yield
    finally:
        setattr(home, name, original)


def use_seams(model: PreTrainedModel) -> None:
    """Let `model` call what is installed as NAME wherever its code goes through transformers' interfaces.

    Parts that do not (Falcon's attention) keep their own code and are seen through torch's functions.
    """
    for part in model.modules():
        config = getattr(part, "config", None)
        if not isinstance(part, PreTrainedModel) or config is None:
            continue
        if part._can_set_attn_implementation():  # noqa: SLF001 - what the public setter asks as well
            config._attn_implementation_internal = NAME  # noqa: SLF001
    if any(hasattr(part, "_apply_gate") for part in model.modules()):
        model.set_experts_implementation(NAME)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Python warnings and transformers' log to ourselves while a model is built and probed."""
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
