"""Rows of a cache layer in memory."""

import torch


class MemoryRows:
    """Rows in one tensor with room for `capacity` tokens; it grows where more come.

    The room is asked for at once and taken by the system page by page, as rows come.
    """

    def __init__(self, row_bytes: int, capacity: int) -> None:
        self._rows = torch.empty((capacity, row_bytes), dtype=torch.uint8)
        self.tokens = 0

    def extend(self, rows: torch.Tensor) -> torch.Tensor:
        """Append `rows` and return a view of all."""
        stop = self.tokens + len(rows)
        if stop > len(self._rows):
            grown = self._rows.new_empty((2 * stop, self._rows.shape[1]))
            grown[: self.tokens] = self._rows[: self.tokens]
            self._rows = grown
        self._rows[self.tokens : stop] = rows
        self.tokens = stop
        return self._rows[:stop]

    def truncate(self, tokens: int) -> None:
        """Forget all rows after the first `tokens`."""
        self.tokens = min(self.tokens, tokens)
