"""A whole number that remembers for which other values everything done with it would have come out alike.

A placement is a step function of the capacity it is made for. To cost a million capacities, the placement is
made once per step: with a `Tracked` capacity, the very code that places weights says how far its step goes.
"""


class Span:
    """The values `low <= x < high` for which every comparison so far comes out as it did; None is endless."""

    __slots__ = ("high", "low")

    def __init__(self) -> None:
        self.low, self.high = 0, None  # type: int, int | None

    def __contains__(self, value: int) -> bool:
        return self.low <= value and (self.high is None or value < self.high)

    def note(self, threshold: int, *, reached: bool) -> None:
        """Take in that x was found to have reached `threshold`, or not."""
        if reached:
            self.low = max(self.low, threshold)
        else:
            self.high = threshold if self.high is None else min(self.high, threshold)


class Tracked(int):
    """`slope * x + offset` for one x, which narrows `span` at every comparison and whole division.

    Sums, differences and products with plain numbers are tracked too, the latter by factors above 0. What
    cannot be tracked raises TypeError rather than to lose the thread.
    """

    span: Span
    slope: int
    offset: int

    @classmethod
    def of(cls, x: int) -> "Tracked":
        """Return `x` itself, tracked from here on."""
        return cls._made(x, Span(), 1, 0)

    @classmethod
    def _made(cls, x: int, span: Span, slope: int, offset: int) -> "Tracked":
        made = cls(slope * x + offset)
        made.span, made.slope, made.offset = span, slope, offset
        return made

    @property
    def _x(self) -> int:
        return (int(self) - self.offset) // self.slope

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)

    def __add__(self, other: int) -> "Tracked":
        if isinstance(other, Tracked):
            raise TypeError("two tracked numbers cannot be added")
        return self._made(self._x, self.span, self.slope, self.offset + other)

    __radd__ = __add__

    def __sub__(self, other: int) -> "Tracked":
        return self + -other

    def __mul__(self, other: int) -> "Tracked":
        if isinstance(other, Tracked) or other < 1:
            raise TypeError("tracked numbers are multiplied by plain ones above 0 only")
        return self._made(self._x, self.span, self.slope * other, self.offset * other)

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> int:
        quotient = int(self) // other
        self._reaches(quotient * other)
        self._reaches((quotient + 1) * other)
        return quotient

    def __ge__(self, other: int) -> bool:
        return self._reaches(int(other))

    def __gt__(self, other: int) -> bool:
        return self._reaches(int(other) + 1)

    def __lt__(self, other: int) -> bool:
        return not self._reaches(int(other))

    def __le__(self, other: int) -> bool:
        return not self._reaches(int(other) + 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and self._reaches(int(other)) and not self._reaches(int(other) + 1)

    __hash__ = int.__hash__

    def __rsub__(self, other: int) -> int:
        raise TypeError("a tracked number cannot be taken from another")

    def __neg__(self) -> int:
        raise TypeError("a tracked number cannot be negated")

    def _reaches(self, value: int) -> bool:
        reached = int(self) >= value
        self.span.note(-(-(value - self.offset) // self.slope), reached=reached)
        return reached
