"""What a tensor is for, and which part of the model a module stands in."""

import re
from collections.abc import Iterable

from tierline.models.description import Operation, TensorClass

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_ROUTER = re.compile(r"(^|\.)(router|gate|shared_expert_gate)(\.|$)")
_POSITION = re.compile(r"(^|[._])(pos|wpe|position|positions|relative)([._]|$)|position", re.IGNORECASE)
_VISION = ("vision_model", "vision_tower", "visual", "vision_encoder", "vision_embed_tokens", "image_encoder")
_CONNECTOR = (
    "connector",
    "multi_modal_projector",
    "mm_projector",
    "modality_projection",
    "merger",
    "perceiver",
)


def is_positional(path: str) -> bool:
    """Say whether a table or tensor of this name holds positions."""
    return bool(_POSITION.search(path))


def tensor_class(name: str, users: Iterable[Operation], *, head: str) -> TensorClass:
    """Return the class of the tensor `name`, given the operations of its layer in execution order.

    Norms keep their biases; every other one-dimensional tensor called a bias is of class `biases`, except
    the correction of a router. What no operation uses is `other`.
    """
    operations = tuple(users)
    user = next((o for o in operations if name in o.weights), None)
    owner = name.rpartition(".")[0]
    if user is not None and user.kind == "norm":
        return "norms"
    if name.endswith("correction_bias"):
        return "router"
    if name.endswith("bias"):
        return "biases"
    if user is None:
        return "other"
    if owner == head:
        return "head"
    fixed: dict[str, TensorClass] = {
        "experts": "experts", "conv": "conv", "scan": "state", "attention": "attention",
        "embedding": "embeddings", "positions": "positions",
    }  # fmt: skip
    if user.kind in fixed:
        return fixed[user.kind]
    if user.kind == "elementwise":
        return "positions" if is_positional(name) else "other"
    return _matrix_class(owner, operations)


def _matrix_class(owner: str, operations: tuple[Operation, ...]) -> TensorClass:
    """Return the class of a matrix by where it stands in its layer."""
    if any(o.kind == "experts" for o in operations) and _ROUTER.search(owner):
        mixture = next(o.name for o in operations if o.kind == "experts").rpartition(".")[0]
        if owner.startswith(mixture) and ".shared_expert." not in owner and ".shared_experts." not in owner:
            return "router"
    if _ATTENTION.search(owner):
        return "attention"
    if any(o.kind == "scan" and owner.startswith(f"{o.name}.") for o in operations):
        return "projection"
    return "mlp" if any(o.kind in ("attention", "scan") for o in operations) else "projection"


def component_of(path: str, *, head: str, decoder: str, fallback: str) -> str:
    """Return the component in which the module `path` stands.

    The output embedding is `head`. With an encoder and a decoder, what stands under the decoder (or runs
    with it) is `decoder` and all else `encoder`. Otherwise a path through a connector's usual name is
    `connector`, through a vision tower's `vision`, and all else is `fallback`: `vision` for what only
    images run through, `text`, or what the model is.
    """
    if head and (path == head or path.startswith(f"{head}.")):
        return "head"
    if decoder:
        return "decoder" if path == decoder or path.startswith(f"{decoder}.") else "encoder"
    steps = path.split(".")
    if any(step in _CONNECTOR for step in steps):
        return "connector"
    return "vision" if any(step in _VISION for step in steps) else fallback
