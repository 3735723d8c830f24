"""What the passes of a rehearsal show: how long a step takes without weights, and whether pages are lost."""

from itertools import pairwise
from statistics import median
from time import perf_counter

from tierline.errors import BudgetError
from tierline.run.process_memory import fetched_bytes
from tierline.units import MIB, format_bytes

_LOST_BYTES = (
    2**18
)  # a step that fetches less from storage than this only touches something for the first time


class RehearsedSteps:
    """Notes, at the end of each pass, the time and what storage gave: nothing else reads then."""

    def __init__(self) -> None:
        self._noted: list[tuple[float, int]] = []

    def note(self, *_: object) -> None:
        """Note the end of a pass; a forward hook."""
        self._noted.append((perf_counter(), fetched_bytes()))

    @property
    def step_s(self) -> float:
        """Seconds of a pass, the median."""
        return median(later[0] - before[0] for before, later in pairwise(self._noted))

    @property
    def lost_bytes(self) -> int:
        """Bytes of libraries that a pass fetches again, as the kernel took their room: the median."""
        return round(median(later[1] - before[1] for before, later in pairwise(self._noted)))

    def refuse_thrash(self, allowed_bytes: int | None, reserved_bytes: int, others_bytes: int) -> None:
        """Raise BudgetError where the process loses its own pages to the limit before it holds a weight.

        What was measured in memory is then too little by what is fetched again in every pass; `others_bytes`
        (the cache, and the least for weights) come on top.
        """
        if allowed_bytes is None or self.lost_bytes < _LOST_BYTES:
            return
        least = reserved_bytes + self.lost_bytes + others_bytes
        raise BudgetError(
            f"--memory {format_bytes(allowed_bytes)} is too little: within this limit each token fetches "
            f"{format_bytes(self.lost_bytes)} of the interpreter's and the libraries' own pages again, "
            f"before any weight is held. Give --memory {-(-least // MIB)}MiB or more"
        )
