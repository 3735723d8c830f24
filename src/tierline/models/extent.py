"""A count written in a workload's variables: `batch*tokens`, `64*images + 48`, `3`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from tierline.errors import InputError

VARIABLES = ("batch", "tokens", "context", "prompt_tokens", "new", "images", "steps", "source_tokens")
_TERM = re.compile(r"[a-z_]+|[0-9]+")

Number = TypeVar("Number")


@dataclass(frozen=True, slots=True)
class Extent:
    """A polynomial with whole coefficients in VARIABLES, as `(coefficient, sorted variable names)` terms.

    Costs evaluate it on ints, Fractions or numpy arrays alike: only `+` and `*` are used.
    """

    terms: tuple[tuple[int, tuple[str, ...]], ...]

    @classmethod
    def parse(cls, text: str) -> "Extent":
        """Return the extent that `text` writes as a sum of products; raise InputError for anything else."""
        merged: dict[tuple[str, ...], int] = {}
        for product in text.replace(" ", "").split("+"):
            factors = product.split("*")
            if not all(_TERM.fullmatch(f) and (f.isdigit() or f in VARIABLES) for f in factors):
                known = ", ".join(VARIABLES)
                raise InputError(f"extent {text!r}: want sums of products of whole numbers and {known}")
            coefficient = 1
            for factor in factors:
                coefficient *= int(factor) if factor.isdigit() else 1
            names = tuple(sorted(f for f in factors if not f.isdigit()))
            merged[names] = merged.get(names, 0) + coefficient
        return cls(tuple((c, names) for names, c in sorted(merged.items()) if c))

    def __str__(self) -> str:
        written = [
            "*".join(([str(c)] if c != 1 or not names else []) + list(names)) for c, names in self.terms
        ]
        return " + ".join(written) or "0"

    def evaluate(self, values: Mapping[str, Number]) -> Number:
        """Return the extent's value at `values`; a variable that is missing raises KeyError."""
        total: Any = None  # arrays are not added to 0, nor multiplied by 1
        for coefficient, names in self.terms:
            product: Any = None if coefficient == 1 else coefficient
            for name in names:
                product = values[name] if product is None else product * values[name]
            product = coefficient if product is None else product
            total = product if total is None else total + product
        return cast("Number", 0 if total is None else total)
