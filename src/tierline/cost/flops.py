"""Arithmetic: 1 multiply-accumulate is 2 FLOP."""

from collections.abc import Mapping
from math import prod

from tierline.cost.amount import Amount, Values
from tierline.cost.kv import keys_touched
from tierline.models.description import Attention, Experts, Operation, Tensor


def linear_flop(rows: Amount, in_features: int, out_features: int) -> Amount:
    """Return `2 * rows * in * out`; a bias is not counted (nor by torch's FlopCounterMode)."""
    return 2 * rows * in_features * out_features


def attention_flop(attention: Attention, rows: Amount, values: Values) -> Amount:
    """Return `2 * rows * keys * (head_dim + value_dim) * heads`: scores, then their product with the values.

    A causal prefill counts the whole rectangle of rows and keys, which is what dense kernels compute and
    what torch's FlopCounterMode counts; a kernel that skips masked tiles does nearly half of it.
    """
    widths = attention.head_dim + attention.value_dim
    return 2 * rows * keys_touched(attention, values) * widths * attention.heads


def experts_flop(rows: Amount, experts: Experts, elements: int) -> Amount:
    """Return `2 * rows * per_token * elements of one expert's matrices`; `elements` are of all that are held.

    Of a part of the experts it is what falls to them where routing is balanced.
    """
    return 2 * rows * experts.per_token * elements // experts.chosen_from


def operation_flop(operation: Operation, tensors: Mapping[str, Tensor], values: Values) -> Amount:
    """Return the FLOP of one operation in a pass; `tensors` are those of its block by name.

    Norms, look-ups, element-wise work and scans count 0: a few per element, and never the bound beside the
    matrix products of the same layer.
    """
    rows = operation.rows.evaluate(values)
    if operation.kind in ("linear", "conv"):
        return linear_flop(rows, operation.in_features, operation.out_features)
    if operation.attention is not None:
        return attention_flop(operation.attention, rows, values)
    if operation.experts is not None:
        used = (tensors[name] for name in operation.weights if name in tensors)
        matrices = sum(prod(t.shape) for t in used if t.kind == "experts" and len(t.shape) > 2)
        return experts_flop(rows, operation.experts, matrices)
    return 0
