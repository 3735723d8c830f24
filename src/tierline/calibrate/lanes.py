"""Several threads that do the same kind of work side by side, and the rate of all together."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from tierline.calibrate.rounds import Clock

Step = Callable[[], int]  # does a piece of work, returns its bytes


class Lanes:
    """Threads for up to `count` lanes; `close` stops them, in the middle of a sample too."""

    def __init__(self, count: int, *, clock: Clock = time.perf_counter) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="tierline-calibrate")
        self._clock = clock
        self._stop = threading.Event()

    def close(self) -> None:
        """Let each thread finish its step and end; a second call does nothing."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def rate(
        self,
        steps: Sequence[Step],
        seconds: float,
        *,
        least: int = 1,
        meanwhile: Callable[[], object] | None = None,
    ) -> float:
        """Return the bytes/s of all `steps` together, each repeated in its own thread.

        Each is done once before the clock starts, then for `seconds` and at least `least` times. The caller's
        thread does `meanwhile` again and again until they have finished.
        """
        for future in [self._pool.submit(step) for step in steps]:
            future.result()
        running = [self._pool.submit(self._repeat, step, seconds, least) for step in steps]
        while meanwhile is not None and not all(future.done() for future in running):
            meanwhile()
        wait(running)
        lanes = [future.result() for future in running]
        started_s, ended_s = min(lane[0] for lane in lanes), max(lane[1] for lane in lanes)
        return sum(lane[2] for lane in lanes) / (ended_s - started_s)

    def run(self, steps: Sequence[Step], until: threading.Event) -> list[Future[None]]:
        """Repeat `steps`, each in its own thread, until the event is set."""
        return [self._pool.submit(self._loop, step, until) for step in steps]

    def _repeat(self, step: Step, seconds: float, least: int) -> tuple[float, float, int]:
        started_s = self._clock()
        total_bytes = count = 0
        while not self._stop.is_set() and (count < least or self._clock() < started_s + seconds):
            total_bytes += step()
            count += 1
        return started_s, self._clock(), total_bytes

    def _loop(self, step: Step, until: threading.Event) -> None:
        while not (until.is_set() or self._stop.is_set()):
            step()
