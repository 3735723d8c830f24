"""What a run has done by some moment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes read for the steps that were taken, seconds compute waited, seconds a read was outstanding."""

    read_bytes: int = 0
    stall_s: float = 0.0
    link_busy_s: float = 0.0
