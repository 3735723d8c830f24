"""The one account of weight bytes held, so that a budget is checked where memory is taken."""

from threading import Lock

from tierline.errors import BudgetError
from tierline.units import format_bytes


class Ledger:
    """Counts weight bytes held against `allowed_bytes`; `peak_bytes` is the most ever held at once."""

    def __init__(self, allowed_bytes: int) -> None:
        self.allowed_bytes = allowed_bytes
        self.held_bytes = 0
        self.peak_bytes = 0
        self._lock = Lock()

    def take(self, footprint_bytes: int, what: str) -> None:
        """Account for memory about to be taken; raise BudgetError, taking nothing, if it is not allowed."""
        with self._lock:
            held_bytes = self.held_bytes + footprint_bytes
            if held_bytes > self.allowed_bytes:
                raise BudgetError(
                    f"{what} needs {format_bytes(footprint_bytes)} beside the "
                    f"{format_bytes(self.held_bytes)} of weights already held, and "
                    f"{format_bytes(self.allowed_bytes)} are allowed"
                )
            self.held_bytes = held_bytes
            self.peak_bytes = max(self.peak_bytes, held_bytes)

    def give(self, footprint_bytes: int) -> None:
        """Account for memory given back."""
        with self._lock:
            self.held_bytes -= footprint_bytes
