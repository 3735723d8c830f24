"""What a cell will reach, from what was measured before any cell like it ran: formulas, no run.

The session measures the disk alone and beside running products, and the products' rates; a model is known by
its tiles' bytes and what its process takes without weights. From those alone
`step = max(c, c + (S - r_beside c) / r_alone)`: while compute runs (`c` seconds) the disk gives `r_beside`,
after that `r_alone`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tierline.run.staging import READERS
from tierline.run.tiles import tile_limit


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a model without weights: bytes, and the seconds of compute of a token."""

    matrix_bytes: int
    row_bytes: int
    besides_bytes: int
    compute_s: float


@dataclass(frozen=True, slots=True)
class Foretold:
    """The figures of a cell before it ran; None where its memory is below the minimum."""

    tokens_per_s: float | None
    read_bytes_per_token: int | None
    peak_bytes: int | None


def foretell(known: Known, memory_bytes: int, disk: Mapping[str, float], form: str) -> Foretold:
    """Return what a run of a model within `memory_bytes` will reach on a disk as it was measured."""
    room_bytes = memory_bytes - known.besides_bytes
    staging_bytes = (READERS + 1) * tile_limit(room_bytes) if room_bytes > 0 else 0
    if room_bytes < staging_bytes or room_bytes <= 0:
        return Foretold(None, None, None)
    pinned_bytes = min(known.matrix_bytes, room_bytes - staging_bytes)
    read_bytes = known.matrix_bytes - pinned_bytes + known.row_bytes
    alone, beside = disk["alone_bytes_per_s"], disk[f"beside_{form}_bytes_per_s"]
    left_bytes = max(0.0, read_bytes - beside * known.compute_s)
    return Foretold(1 / (known.compute_s + left_bytes / alone), read_bytes, memory_bytes)
