"""Compute and reads at the same time: both need the processor and the memory, so each slows the other."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Beside:
    """While both run: products take `slowdown` times as long, the link gives `bytes_per_s`."""

    slowdown: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """A decode step's compute as slowed by its reads, and the bytes/s of the link over the time it is busy.

    None is the rate of no link.
    """

    compute_s: float
    bytes_per_s: float | None


def overlapped(
    *,
    products_s: float,
    others_s: float,
    read_bytes: int,
    bytes_per_s: float | None,
    beside: Beside | None,
) -> Step:
    """Return a step of `products_s` and `others_s` of compute, and `read_bytes` at `bytes_per_s`, each alone.

    Reads go on all the time that compute does not lack them. If the link is what a step waits for, products
    are slowed all the time, and the link gives less while they run:

        step = slowed + others + (bytes - rate beside x slowed - rate x others) / rate

    If compute is, only the part of it beside which anything is read is slowed. What is not products (norms,
    attention, Python) leaves the link its rate.
    """
    if beside is None or bytes_per_s is None or not read_bytes:
        return Step(products_s + others_s, bytes_per_s)
    slowed_s = products_s * beside.slowdown
    moved_bytes = beside.bytes_per_s * slowed_s + bytes_per_s * others_s
    if moved_bytes <= read_bytes:
        step_s = slowed_s + others_s + (read_bytes - moved_bytes) / bytes_per_s
        return Step(slowed_s + others_s, read_bytes / step_s)
    share = read_bytes / moved_bytes
    busy_s = share * (slowed_s + others_s)
    return Step(share * slowed_s + (1 - share) * products_s + others_s, read_bytes / busy_s)
