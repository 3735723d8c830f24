"""How many bytes of weights a run may hold, from what the user allows and what the process takes anyway."""

from tierline.errors import BudgetError
from tierline.machines.memory import read_memory
from tierline.units import MIB, format_bytes


def weight_budget(
    *, resident: int | None, memory: int | None, reserved_bytes: int, kv_bytes: int, least_bytes: int
) -> int:
    """Return the most weight bytes to hold at once, staging included.

    `resident` is that number as the user gave it, `memory` the most for the whole process, of which
    `reserved_bytes` (measured in a rehearsed pass) and the cache's growth come first. Without either, what
    is free on this computer is the process's. Raises BudgetError, with the least that can work, where a
    `memory` leaves less than the `least_bytes` that weights can be streamed in.
    """
    allowed = memory if memory is not None else read_memory().free_bytes + reserved_bytes
    left = allowed - reserved_bytes - kv_bytes
    if memory is not None and left < least_bytes:
        raise too_little_memory(memory, reserved_bytes, kv_bytes, least_bytes)
    return left if resident is None else min(left, resident)


def too_little_memory(memory: int, reserved_bytes: int, kv_bytes: int, least_bytes: int) -> BudgetError:
    """Return the refusal of a `memory` that leaves less than `least_bytes` for weights."""
    least = reserved_bytes + kv_bytes + least_bytes
    return BudgetError(
        f"--memory {format_bytes(memory)} is too little: the process takes "
        f"{format_bytes(reserved_bytes)} without weights (interpreter, libraries, activations), the "
        f"cache of this run {format_bytes(kv_bytes)}, and weights can be streamed in "
        f"{format_bytes(least_bytes)} at the least. Give --memory {-(-least // MIB)}MiB or more"
    )
