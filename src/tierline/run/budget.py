"""How many bytes of weights a run may hold, from what the user allows and what the process takes anyway."""

from tierline.errors import BudgetError
from tierline.machines.memory import read_memory
from tierline.units import MIB, format_bytes

# What the kernel itself charges to the cgroup of a process that streams: page tables, and inodes of thousands
# of modules of which it gives some back. 7 to 8 MiB were seen to stay where memory was short.
_KERNEL_BYTES = 8 * MIB


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


def usable_bytes(memory: int) -> int:
    """Return how much of `memory` the process itself may take: in a cgroup, the kernel needs some of it."""
    found = read_memory()
    return min(memory, found.capacity_bytes - _KERNEL_BYTES) if found.is_cgroup else memory


def too_little_memory(allowed: int, reserved_bytes: int, kv_bytes: int, least_bytes: int) -> BudgetError:
    """Return the refusal of a `--memory` that allows less than `least_bytes` for weights."""
    least, found = reserved_bytes + kv_bytes + least_bytes, read_memory()
    within = ""
    if found.is_cgroup and found.capacity_bytes < least + _KERNEL_BYTES:
        group = -(-(least + _KERNEL_BYTES) // MIB)
        within = f" in a cgroup of at least {group}MiB (this one has {format_bytes(found.capacity_bytes)})"
    return BudgetError(
        f"--memory {format_bytes(allowed)} is too little: the process takes "
        f"{format_bytes(reserved_bytes)} without weights (interpreter, libraries, activations), the "
        f"cache of this run {format_bytes(kv_bytes)}, and weights can be streamed in "
        f"{format_bytes(least_bytes)} at the least. Give --memory {-(-least // MIB)}MiB or more{within}"
    )
