"""Say which part of a model stops it from being streamed, before that part is read."""

from torch import nn

from tierline.errors import BudgetError
from tierline.run.attach import fixed_parameters
from tierline.run.source import Source
from tierline.units import MIB, format_bytes

_SMALL_BYTES = 64 * MIB  # below, the plan's own refusal says how much all of it needs


def refuse_large_parts(source: Source, model: nn.Module, *limits_bytes: int | None) -> None:
    """Raise BudgetError, naming the largest, where parameters that cannot be streamed are over a limit.

    Those are all but linear layers, embeddings and experts that transformers lets one compute one by one.
    """
    allowed_bytes = min((n for n in limits_bytes if n is not None), default=None)
    held = [(source.stored(n).footprint_bytes, n, module) for n, module, _ in fixed_parameters(model)]
    held_bytes = sum(footprint_bytes for footprint_bytes, _, _ in held)
    if allowed_bytes is None or held_bytes <= max(allowed_bytes, _SMALL_BYTES):
        return
    largest_bytes, name, module = max(held, key=lambda part: part[0])
    raise BudgetError(
        f"{source.path}: {format_bytes(held_bytes)} of this model have to be held: they are neither of "
        "linear layers, nor read by the row, nor experts that transformers lets one compute one by one. "
        f"{format_bytes(allowed_bytes)} are allowed. The largest is {name}, {format_bytes(largest_bytes)}, "
        f"of a {type(module).__name__}"
    )
