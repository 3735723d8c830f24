"""Weight bytes that an operation reads in one pass."""

from tierline.cost.amount import Amount, smaller
from tierline.formats.format import Format, footprint_bytes
from tierline.models.description import Experts


def distinct_experts(experts: Experts, rows: Amount) -> Amount:
    """Return how many experts `rows` tokens are expected to visit: `E * (1 - (1 - k/E)^rows)`.

    Routing is taken as uniform and independent; each token visits k different ones of E.
    """
    share = experts.per_token / experts.count
    return experts.count * (1 - (1 - share) ** rows)


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
    """Return the bytes of `rows` looked-up rows: `rows * row_bytes + constants`, and never more than the table.

    The constants are what of the table is in none of its rows; a pass reads them once. Repeated tokens are
    counted as often as they occur until the table's size caps them. No rows read nothing.
    """
    constants = max(0, table_bytes - table_rows * row_bytes)
    whole = smaller(rows * row_bytes + constants, table_bytes + 0 * rows)
    return whole * smaller(rows, 1 + 0 * rows)


def experts_read_bytes(experts: Experts, rows: Amount, table_bytes: int) -> Amount:
    """Return the expected bytes of the experts that `rows` tokens visit: `distinct * bytes / E`."""
    return distinct_experts(experts, rows) * (table_bytes / experts.count)
