"""Weight bytes that an operation reads in one pass."""

from collections.abc import Sequence
from functools import lru_cache

from tierline.cost.amount import Amount, smaller
from tierline.errors import InputError
from tierline.formats.format import Format, footprint_bytes
from tierline.models.description import Experts


def distinct_experts(experts: Experts, rows: Amount, shares: Sequence[float] | None = None) -> Amount:
    """Return how many of the experts held `rows` tokens are expected to visit, tokens routed independently.

    Each token visits k different ones of E. Uniform routing gives `E * (1 - (1 - k/E)^rows)`; with `shares`,
    how often each expert is visited beside the others, it is `sum over experts of 1 - (1 - p)^rows`, where p
    is the chance that a token visits the expert: k times its share, and never more than 1. Where a part of
    the E is held, the sums are over that part. Raises InputError where there are not E shares, or fewer than
    k experts have one.
    """
    if shares is None:
        share = experts.per_token / experts.chosen_from
        return experts.count * (1 - (1 - share) ** rows)
    held = slice(experts.first, experts.first + experts.count)
    return sum(1 - (1 - chance) ** rows for chance in visit_chances(experts, tuple(shares))[held])


@lru_cache(maxsize=256)
def visit_chances(experts: Experts, shares: tuple[float, ...]) -> tuple[float, ...]:
    """Return each expert's chance to be visited by a token: `min(1, k * share)`, summing to k.

    What an expert cannot take beyond 1 goes to the others in proportion to their shares.
    """
    used = [s for s in shares if s > 0]
    if len(shares) != experts.chosen_from or len(used) < experts.per_token or min(shares) < 0:
        raise InputError(
            f"expert shares: {len(shares)} numbers, {len(used)} above 0; want {experts.chosen_from}, none "
            f"below 0 and at least {experts.per_token} above 0, the experts that a token visits"
        )
    full: set[int] = set()
    while True:
        rest = sum(s for i, s in enumerate(shares) if i not in full)
        left = experts.per_token - len(full)
        chances = [1.0 if i in full else left * s / rest if rest else 0.0 for i, s in enumerate(shares)]
        over = {i for i, c in enumerate(chances) if c > 1}
        if not over:
            return tuple(chances)
        full |= over


def row_bytes(number_format: Format, shape: tuple[int, ...], kind: str = "") -> int:
    """Return what one more row of a table takes: `bytes of 2n rows - bytes of n rows`, over n, rounded up.

    The difference leaves out what the tensor holds once however many rows it has (nf4's tables, the scale of
    a tensor, GPTQ's group indices).
    """
    rows, *rest = shape or (1,)
    if not rows:
        return 0
    once = footprint_bytes(number_format, (rows, *rest), kind)
    twice = footprint_bytes(number_format, (2 * rows, *rest), kind)
    return -(-(twice - once) // rows)


def table_read_bytes(rows: Amount, table_rows: int, row_bytes: int, table_bytes: int) -> Amount:
    """Return the bytes of `rows` looked-up rows: `rows * row_bytes + constants`, at most those of the table.

    The constants are what of the table is in none of its rows; a pass reads them once. Repeated tokens are
    counted as often as they occur until the table's size caps them. No rows read nothing.
    """
    constants = max(0, table_bytes - table_rows * row_bytes)
    whole = smaller(rows * row_bytes + constants, table_bytes + 0 * rows)
    return whole * smaller(rows, 1 + 0 * rows)


def experts_read_bytes(
    experts: Experts, rows: Amount, table_bytes: int, shares: Sequence[float] | None = None
) -> Amount:
    """Return the expected bytes of the experts that `rows` tokens visit: `distinct * bytes / E`."""
    return distinct_experts(experts, rows, shares) * (table_bytes / experts.count)
