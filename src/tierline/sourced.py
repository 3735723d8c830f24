"""A number with its kind and its source, so that every figure can be traced to a sentence somewhere."""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["datasheet", "measured", "derived", "assumed"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Sourced:
    """A number in base units (bytes, bytes/s, seconds, FLOP/s, Hz, counts), how it is known, and from where.

    `source` is a key of `data/sources/*.toml`, or for a user's own machine file any non-empty text. `spread`
    is half the interquartile range of a measurement's repetitions as a fraction of `value`, their median;
    None where it is not known.
    """

    value: float
    kind: Kind
    source: str
    spread: float | None = None
