"""Refuse, under a memory budget, the token for which no room in the cache was kept."""

from typing import Any

from torch import nn

from tierline.errors import BudgetError
from tierline.run.room import Room
from tierline.units import format_bytes


def guard(model: nn.Module, room: Room, allowed_bytes: int) -> None:
    """Have `model` raise BudgetError before a pass whose cache would be more than `room` was made for."""

    def check(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named.get("input_ids", arguments[0] if arguments else None)
        cache = named.get("past_key_values")
        if ids is None:
            return
        cached = int(cache.get_seq_length()) if cache is not None else 0
        tokens = ids.shape[0] * (cached + ids.shape[1])
        if tokens > room.tokens:
            raise BudgetError(
                f"{tokens:,} tokens in the cache would outgrow --memory {format_bytes(allowed_bytes)}: room "
                f"was kept for {room.tokens:,}; ask for a longer context when loading, or for fewer tokens"
            )

    model.register_forward_pre_hook(check, with_kwargs=True)
