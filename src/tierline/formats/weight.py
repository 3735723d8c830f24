"""What a precision policy may know about one weight tensor."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight tensor in its place.

    `kind` is the tensor's class in a model's description (`norms`, `mlp`, ...), `name` its module name (the
    end is enough: `self_attn.v_proj.weight`), `stored` the format in the checkpoint. `layer` of `layers` is
    its place among the component's layers of its kind. `tied` marks an embedding that is also the head.
    `experts` is the number of experts that the model routes to, 0 if it is dense.
    """

    component: str
    kind: str
    name: str
    shape: tuple[int, ...]
    stored: str = "bf16"
    layer: int = 0
    layers: int = 1
    tied: bool = False
    experts: int = 0
