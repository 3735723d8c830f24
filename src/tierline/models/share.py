"""What one device of several holds and exchanges: a part of every count that is divided among them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tierline.models.extent import Extent

ExchangeKind = Literal["all-reduce", "all-gather", "all-to-all"]
Group = Literal["tp", "ep"]


@dataclass(frozen=True, slots=True)
class Share:
    """Part `index` of `of`: what a count is divided into, as evenly as whole numbers allow."""

    index: int = 0
    of: int = 1

    def part(self, count: int) -> int:
        """Return how much of `count` this part is."""
        return count * (self.index + 1) // self.of - self.start(count)

    def start(self, count: int) -> int:
        """Return where in `count` this part begins."""
        return count * self.index // self.of


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the devices of a `group` exchange after an operation of a layer: `rows * width` elements.

    Of an all-reduce and an all-gather that is the whole vector, of an all-to-all what one device sends out,
    to itself included.
    """

    kind: ExchangeKind
    group: Group
    operation: str
    rows: Extent
    width: int


def scaled(extent: Extent, times: int, by: int = 1) -> Extent:
    """Return `extent * times / by`, which has to come out whole."""
    return Extent(tuple((c * times // by, names) for c, names in extent.terms))


def with_constant(extent: Extent, values: Mapping[str, int]) -> Extent:
    """Return `extent` with variables replaced by numbers."""
    terms = []
    for coefficient, names in extent.terms:
        for name in names:
            coefficient *= values.get(name, 1)
        terms.append((coefficient, tuple(name for name in names if name not in values)))
    return Extent(tuple(terms))
