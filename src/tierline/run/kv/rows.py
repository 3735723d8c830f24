"""The bytes of a token's row in a cache layer, and how many rows make whole sectors; needs no torch."""

from math import gcd

from tierline.run.direct_io import LARGEST_SECTOR_BYTES

_ROW_UNIT_BYTES = 64  # a sequence's row is padded to this, so that few rows make whole sectors


def sequence_bytes(heads: int, key_bytes: int, value_bytes: int) -> int:
    """Return the bytes of one sequence's token: `key_bytes` and `value_bytes` of each head, padded."""
    return -(-heads * (key_bytes + value_bytes) // _ROW_UNIT_BYTES) * _ROW_UNIT_BYTES


def block_tokens(row_bytes: int) -> int:
    """Return the fewest rows that make whole sectors."""
    return LARGEST_SECTOR_BYTES // gcd(row_bytes, LARGEST_SECTOR_BYTES)


def whole_blocks(tokens: int, row_bytes: int) -> int:
    """Return `tokens` rounded up to whole blocks."""
    block = block_tokens(row_bytes)
    return -(-tokens // block) * block
