"""The numbers that formulas take and return, scalars and arrays alike."""

from collections.abc import Iterable, Mapping
from typing import Any

from tierline.formats.format import Format

# An int, float or Fraction, or a numpy array of them: the formulas broadcast. No common type names them.
# Arrays of int64 hold up to 9.2e18; workloads whose FLOP exceed that need arrays of float64.
Amount = Any

Values = Mapping[str, Amount]


def smaller(first: Amount, second: Amount) -> Amount:
    """Return the smaller of two whole numbers, element by element: (a + b - |a - b|) / 2."""
    return (first + second - abs(first - second)) // 2


def larger(first: Amount, second: Amount) -> Amount:
    """Return the larger of two whole numbers, element by element: (a + b + |a - b|) / 2."""
    return (first + second + abs(first - second)) // 2


def nearest(amount: Amount) -> Amount:
    """Return the nearest whole number, element by element: an int for a scalar, a float array for one."""
    if isinstance(amount, int):
        return amount
    whole = (amount + 0.5) // 1
    return int(whole) if isinstance(whole, float) else whole


def total(amounts: Iterable[Amount]) -> Amount:
    """Return the sum; zeros cost nothing, which beside arrays they would."""
    return sum(amount for amount in amounts if not (isinstance(amount, int) and not amount))


def element_bytes(elements: Amount, number_format: Format) -> Amount:
    """Return the bytes of a run of elements, rounded up: `elements * bits / 8`."""
    if isinstance(elements, int) and not elements:
        return 0
    bits = number_format.bits_per_element
    if bits.denominator == 1 and not bits.numerator % 8:
        return elements * (bits.numerator // 8)
    return -(-elements * bits.numerator // (8 * bits.denominator))
