"""The numbers that formulas take and return, scalars and arrays alike."""

from collections.abc import Mapping
from typing import Any

# An int, float or Fraction, or a numpy array of them: the formulas broadcast. No common type names them.
Amount = Any

Values = Mapping[str, Amount]


def smaller(first: Amount, second: Amount) -> Amount:
    """Return the smaller of two whole numbers, element by element: (a + b - |a - b|) / 2."""
    return (first + second - abs(first - second)) // 2
