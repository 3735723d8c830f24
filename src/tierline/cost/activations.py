"""Activations: what crosses the fast tier's port under a stated policy.

Policies:
- `none`: nothing is counted.
- `fused`: what happens inside a layer stays on chip; between layers, rows cross the port (written by one
  layer, read by the next) unless a pass has one row per sequence, as decode has, which stays on chip too.
- `layer-io`: every layer that attends (or scans) reads its input rows and writes its output rows, decode
  included. Images are read as pixels by the convolution that cuts them up, and a projection of image rows
  reads and writes them. What other projections, tables and the head take and give stays on chip.
- `materialised`: every operation reads its inputs from the fast tier and writes its output there; attention
  also writes and reads its scores, and again after the softmax.
"""

from typing import Literal, get_args

from tierline.cost.amount import Amount, Values
from tierline.cost.kv import keys_touched
from tierline.models.description import Block, Operation

ActivationPolicy = Literal["none", "layer-io", "materialised", "fused"]
ACTIVATION_POLICIES: tuple[ActivationPolicy, ...] = get_args(ActivationPolicy)


def traffic_elements(
    block: Block, values: Values, policy: ActivationPolicy, *, one_row: bool
) -> list[Amount]:
    """Return the activation elements that each operation of a layer reads and writes in the fast tier.

    `one_row` says that the pass has one row per sequence (decode).
    """
    if policy == "materialised":
        return [_materialised(operation, values) for operation in block.operations]
    counts: list[Amount] = [0] * len(block.operations)
    if policy == "none" or not counts or (policy == "fused" and one_row):
        return counts
    if any(operation.attention or operation.kind == "scan" for operation in block.operations):
        first, last = block.operations[0], block.operations[-1]
        counts[0] += first.rows.evaluate(values) * first.in_features
        counts[-1] += last.rows.evaluate(values) * last.out_features
        return counts
    return [_image_elements(operation, values) for operation in block.operations]


def _image_elements(operation: Operation, values: Values) -> Amount:
    """Return what an operation outside the layers that attend moves of images: pixels, or rows in and out."""
    if operation.kind not in ("conv", "linear") or not any("images" in v for _, v in operation.rows.terms):
        return 0
    out = 0 if operation.kind == "conv" else operation.out_features
    return operation.rows.evaluate(values) * (operation.in_features + out)


def score_elements(operation: Operation, values: Values) -> Amount:
    """Return the elements of an attention's score matrix: `rows * keys * heads`; 0 for anything else."""
    if operation.attention is None:
        return 0
    keys = keys_touched(operation.attention, values)
    return operation.rows.evaluate(values) * keys * operation.attention.heads


def _materialised(operation: Operation, values: Values) -> Amount:
    widths = operation.in_features + operation.out_features
    moved = operation.rows.evaluate(values) * widths + 4 * score_elements(operation, values)
    how = operation.attention
    if how is None or how.cache != "none":
        return moved
    kv_width = how.kv_heads * (how.head_dim + how.value_dim)  # cached keys and values count as KV traffic
    return moved + values["batch"] * how.keys.evaluate(values) * kv_width
