"""Rows of a cache layer on disk, of which a few wait in memory until they make whole sectors."""

import torch

from tierline.errors import BudgetError
from tierline.run.kv.disk import KvDisk
from tierline.run.kv.rows import block_tokens, whole_blocks


class DiskRows:
    """Rows of one layer, the whole blocks of them in a file: read back each time that they are used."""

    def __init__(self, disk: KvDisk, row_bytes: int, capacity: int) -> None:
        """Keep room for `capacity` tokens; raises InputError where the disk has none."""
        self._disk, self._row_bytes = disk, row_bytes
        self._block = block_tokens(row_bytes)
        self._capacity = whole_blocks(capacity, row_bytes)
        self._region = disk.region(self._capacity * row_bytes, lambda: self._stored * self._row_bytes)
        self._stored = 0  # tokens in the file; the rest waits in the tail
        self._tail = torch.empty((0, row_bytes), dtype=torch.uint8)

    @property
    def tokens(self) -> int:
        """How many rows there are."""
        return self._stored + len(self._tail)

    def extend(self, rows: torch.Tensor) -> torch.Tensor:
        """Append `rows`, write what makes whole blocks, begin to read what comes after, return all rows.

        Raises BudgetError past the room that was kept, FaultError where the disk fails.
        """
        tokens = self.tokens + len(rows)
        if tokens > self._capacity:
            raise BudgetError(
                f"{tokens:,} tokens in the cache: --kv-offload kept room for {self._capacity:,}; "
                "ask for a longer context when loading, or for fewer tokens"
            )
        buffer = self._disk.load(self._region, self._stored * self._row_bytes)
        room = buffer[: self._capacity * self._row_bytes]
        whole = torch.frombuffer(room, dtype=torch.uint8).view(-1, self._row_bytes)
        whole[self._stored : self.tokens] = self._tail
        whole[self.tokens : tokens] = rows
        full = tokens // self._block * self._block
        if full > self._stored:
            start, stop = self._stored * self._row_bytes, full * self._row_bytes
            self._disk.store(self._region, start, buffer[start:stop])
            self._stored = full
        self._tail = whole[full:tokens].clone()
        self._disk.prefetch_after(self._region)
        return whole[:tokens]

    def truncate(self, tokens: int) -> None:
        """Forget all rows after the first `tokens`; a block that is cut comes back from the disk."""
        if tokens >= self._stored:
            self._tail = self._tail[: tokens - self._stored].clone()
            return
        self._stored = tokens // self._block * self._block
        left = tokens - self._stored
        self._tail = self._tail[:0]
        if left:
            found = self._disk.fetch(self._region, self._stored * self._row_bytes, left * self._row_bytes)
            self._tail = torch.frombuffer(bytearray(found), dtype=torch.uint8).view(-1, self._row_bytes)
