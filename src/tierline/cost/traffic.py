"""Weight bytes that an operation reads in one pass."""

from tierline.cost.amount import Amount, smaller
from tierline.models.description import Experts


def distinct_experts(experts: Experts, rows: Amount) -> Amount:
    """Return how many experts `rows` tokens are expected to visit: `E * (1 - (1 - k/E)^rows)`.

    Routing is taken as uniform and independent; each token visits k different ones of E.
    """
    share = experts.per_token / experts.count
    return experts.count * (1 - (1 - share) ** rows)


def table_read_bytes(rows: Amount, table_rows: int, row_bytes: int, table_bytes: int) -> Amount:
    """Return the bytes of `rows` looked-up rows: `rows * row_bytes`, and never more than the table.

    Repeated tokens are counted as often as they occur until the table's size caps them.
    """
    if row_bytes * table_rows > table_bytes:  # what the table holds once is not read again with each row
        return smaller(rows * row_bytes, table_bytes + 0 * rows)
    return smaller(rows, table_rows + 0 * rows) * row_bytes


def experts_read_bytes(experts: Experts, rows: Amount, table_bytes: int) -> Amount:
    """Return the expected bytes of the experts that `rows` tokens visit: `distinct * bytes / E`."""
    return distinct_experts(experts, rows) * (table_bytes / experts.count)
