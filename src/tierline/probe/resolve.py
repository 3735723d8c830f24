"""Row counts seen at several sizes -> the one product of workload variables that explains them all."""

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from math import prod

from tierline.models.extent import Extent

# Fewer variables first; where a pass binds two alike (a prefill's tokens and context), the earlier one.
ROW_VARIABLES = ("batch", "tokens", "context", "images", "source_tokens")
MAX_FACTORS = 3  # batch*tokens*context, or source_tokens squared (T5's table of relative positions)
KEY_VARIABLES = ("context", "tokens", "images", "source_tokens", "batch")


def resolve(
    counts: Sequence[tuple[Mapping[str, int], int]], variables: tuple[str, ...] = ROW_VARIABLES
) -> Extent | None:
    """Return `factor * product of variables` that equals the count at every set of values, or None.

    `counts` are pairs of values and count, from passes at different primes: a factorisation of one that
    the others do not bear out is rejected. None if no product, or only a sum, explains them.
    """
    if not counts:
        return None
    known = [name for name in variables if all(name in values for values, _ in counts)]
    for size in range(MAX_FACTORS + 1):
        for names in combinations_with_replacement(known, size):
            factor = _common_factor(counts, names)
            if factor:
                return Extent.parse("*".join((str(factor), *names)))
    return None


def _common_factor(counts: Sequence[tuple[Mapping[str, int], int]], names: tuple[str, ...]) -> int:
    factors = set()
    for values, count in counts:
        factor, rest = divmod(count, prod(values[name] for name in names))
        if rest:
            return 0
        factors.add(factor)
    return factors.pop() if len(factors) == 1 else 0
