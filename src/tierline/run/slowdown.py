"""Say so when the disk gives far less than before the run: a wait without a word looks like a hang."""

import logging

from tierline.units import format_rate

_LEAST_WINDOW_S = 2.0
_RINGS_PER_WINDOW = 4  # of staging, at the expected rate: what is in flight then matters little
_FAR_LESS = 0.1


class Slowdown:
    """Watches the rate at which tiles come while compute waits for them.

    It warns through the logger `tierline` (stderr, unless the program says otherwise), once for each time the
    rate falls under a tenth of `expected_bytes_per_s`, and says when it is back.
    """

    def __init__(
        self, expected_bytes_per_s: float, ring_bytes: int, least_window_s: float = _LEAST_WINDOW_S
    ) -> None:
        self._expected = expected_bytes_per_s
        self._window_s = max(least_window_s, _RINGS_PER_WINDOW * ring_bytes / expected_bytes_per_s)
        self._read_bytes, self._busy_s = 0, 0.0
        self._told = False

    def look(self, read_bytes: int, busy_s: float) -> None:
        """Take what was read so far, and the seconds in which a read was outstanding."""
        if read_bytes < self._read_bytes or busy_s < self._busy_s:  # counting began anew
            self._read_bytes, self._busy_s = read_bytes, busy_s
        if busy_s - self._busy_s < self._window_s:
            return
        rate = (read_bytes - self._read_bytes) / (busy_s - self._busy_s)
        self._read_bytes, self._busy_s = read_bytes, busy_s
        slow = rate < _FAR_LESS * self._expected
        if slow != self._told:
            what = "each token waits for it" if slow else "it is back"
            logging.getLogger("tierline").warning(
                "tierline: the disk gives %s now, and gave %s before this run: %s",
                format_rate(rate),
                format_rate(self._expected),
                what,
            )
        self._told = slow
