"""Keeps what happened during a run as trace events, if anybody asked for them."""

from threading import Lock
from time import perf_counter

from tierline.trace import Activity, TraceEvent


class Recorder:
    """Collects events from all threads while `on`; times are seconds since it was made, or since `begin`."""

    def __init__(self, *, on: bool = False) -> None:
        self.on = on
        self.events: list[TraceEvent] = []
        self._origin_s = perf_counter()
        self._lock = Lock()

    def begin(self) -> None:
        """Collect from now on, and count seconds from now."""
        self._origin_s = perf_counter()
        self.on = True

    def note(
        self,
        resource: str,
        activity: Activity,
        name: str,
        started_s: float,
        traffic_bytes: int = 0,
        *,
        stopped_s: float | None = None,
    ) -> None:
        """Keep what `resource` did from `started_s` (of time.perf_counter) until `stopped_s`, None: now."""
        if not self.on:
            return
        # What was under way when collecting began is kept from then on.
        stopped_s = perf_counter() if stopped_s is None else stopped_s
        if stopped_s < self._origin_s:
            return
        start_s, end_s = (max(0.0, at_s - self._origin_s) for at_s in (started_s, stopped_s))
        with self._lock:
            self.events.append(TraceEvent(resource, activity, name, start_s, end_s, traffic_bytes))
