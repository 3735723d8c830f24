"""Experts in slots of memory: those that a pass routes to are found there or read, all of them at once.

What is kept is decided by a policy of place/cache.py. The order of uses alone decides what is found: hits of
a visit come first, then misses by their number, so that a run can be counted again from its routing. Guesses
at what the next router will choose are read into slots of their own while the disk would idle; whether they
come true changes when an expert arrives, never what is kept or counted as a miss.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

from tierline.errors import FaultError
from tierline.place.cache import Cache, Counts, Fifo, Name, Policy
from tierline.run.direct_io import DirectFile, anonymous_memory
from tierline.run.experts.stored import (
    Expert,
    ExpertLayer,
    ExpertRead,
    largest_slot_bytes,
    read_bytes_of,
    reads_of,
)
from tierline.run.meter import Outstanding
from tierline.run.recorder import Recorder
from tierline.run.tiles import whole
from tierline.run.verify import check_tile

_BURST_S = 0.1
_GUESSING = 2  # reads of guesses in flight: one that is wrong holds up what is needed until it ends
_FEWEST_GUESSES = 64
_AHEAD = 16  # experts asked for at once while slots are filled
Key = tuple[int, int]  # layer and expert
Data = tuple[tuple[memoryview, ...], ...]  # bytes of an expert's matrices, as Expert.parts has them


@dataclass(slots=True)
class _Held:
    """An expert in its slot: reads under way, then its bytes."""

    slot: int
    pending: list[tuple[ExpertRead, Future[memoryview]]]
    data: Data | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is written into the slot any more."""
        return all(future.done() for _, future in self.pending)


@dataclass(slots=True)
class ExpertMeter:
    """What experts took so far: bytes of misses, and beside them bytes of guesses that were wrong."""

    read_bytes: int = 0
    wasted_bytes: int = 0
    stall_s: float = 0.0
    guesses: int = 0
    guessed_right: int = 0


class ExpertCache:
    """Slots that experts are read into; `visit` lends those that a router chose.

    `begin` takes the policy that decides which leave. `verify` holds each expert against its checksums when
    it is first read.
    """

    def __init__(
        self,
        layers: Sequence[ExpertLayer],
        files: Mapping[Path, DirectFile],
        *,
        slots: int,
        readers: int,
        recorder: Recorder,
        outstanding: Outstanding,
        guesses: int = 0,
        verify: bool = False,
    ) -> None:
        """Keep `guesses` more slots than the policy has, for experts that are read ahead of a router."""
        self._layers, self._files, self._recorder = layers, files, recorder
        self._outstanding, self._verify = outstanding, verify
        self.slots, self.slot_bytes = slots, largest_slot_bytes(layers, files)
        self._memory = anonymous_memory((slots + guesses) * self.slot_bytes)
        self._free = list(range(slots + guesses - 1, -1, -1))
        self.guesses = guesses
        self._ahead: dict[Key, _Held] = {}
        self._wrong: list[_Held] = []  # guesses that were wrong, a read of which is still under way
        self._held: dict[Key, _Held] = {}
        self._checked: set[Key] = set()
        self._cache = Cache(slots * self.slot_bytes, Fifo(), evicted=self._release)
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="expert reader")
        self._guessing = ThreadPoolExecutor(_GUESSING, thread_name_prefix="expert guess")
        self._asked: list[Future[memoryview]] = []  # reads of the last visit, which guesses wait for
        self.meter = ExpertMeter()

    @property
    def counts(self) -> Counts:
        """Hits, cold loads, reloads and evictions so far."""
        return self._cache.counts

    def begin(self, policy: Policy) -> None:
        """Follow `policy` from now on, and count anew."""
        self._cache.policy, self._cache.counts = policy, Counts()
        self.meter = ExpertMeter()

    def close(self) -> None:
        """Stop the readers and wait for them; a second call does nothing."""
        self._guessing.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)
        self._guessing.shutdown(cancel_futures=True)

    def preload(self) -> Iterator[int]:
        """Fill the slots, layer by layer evenly, before any use; yield the bytes read so far.

        Raises FaultError where a read fails.
        """
        done_bytes = 0
        wanted = self._evenly()
        while some := list(islice(wanted, _AHEAD)):
            for key in some:
                self._cache.load(key, self.slot_bytes)
                self._ask(key)
            for key in some:
                self._arrived(key)
                done_bytes += self.slot_bytes
                yield done_bytes

    def sample(self, seconds: float) -> tuple[int, float]:
        """Read experts that are not in memory for at least `seconds`; return (bytes, seconds).

        What the first visits read is left out: a throttled disk begins with a burst.
        """
        started_s, done_bytes, settled = time.perf_counter(), 0, False
        while True:
            for layer, x in enumerate(self._layers):
                missing = [e for e in range(len(x.experts)) if (layer, e) not in self._cache.resident]
                for expert, _ in self.visit(layer, missing):
                    passed_s = time.perf_counter() - started_s
                    done_bytes += self._read_bytes((layer, expert))
                    if settled and passed_s > seconds:
                        return done_bytes, passed_s
                    if not settled and passed_s > _BURST_S:
                        settled, started_s, done_bytes = True, time.perf_counter(), 0

    def visit(self, layer: int, chosen: Sequence[int]) -> Iterator[tuple[int, Data]]:
        """Lend each of the `chosen` experts (ascending) until the next is asked for, hits before misses.

        All that are missed are asked for at once, as far as slots allow. Raises FaultError where a read
        fails.
        """
        keys = [(layer, expert) for expert in chosen]
        hits = [key for key in keys if key in self._cache.resident]
        misses = deque(key for key in keys if key not in self._cache.resident)
        waiting = set[Name](hits)  # chosen and not used yet: they may not leave
        for key in hits:
            self._cache.use(key, self.slot_bytes)
            self._recorder.note("experts", "hit", self._expert(key).name, time.perf_counter())
        order = deque(hits)
        self._settle(set(keys))
        self._asked = []
        self._issue(misses, waiting, order)
        while order:
            key = order.popleft()
            yield key[1], self._arrived(key)
            waiting.discard(key)
            self._issue(misses, waiting, order)

    def guess(self, layer: int, likely: Sequence[int]) -> None:
        """Read those of the `likely` experts of a layer that are not in memory, after what was asked for.

        Once most guesses turn out wrong, no more are made.
        """
        if self.meter.guesses >= _FEWEST_GUESSES and 2 * self.meter.guessed_right < self.meter.guesses:
            return
        over = [held for held in self._wrong if held.done]
        self._wrong = [held for held in self._wrong if not held.done]
        self._free += [held.slot for held in over]
        for key in ((layer, expert) for expert in likely):
            if len(self._ahead) + len(self._wrong) >= self.guesses:
                return
            if key not in self._cache.resident and key not in self._ahead:
                self._ahead[key] = self._submit(key, self._guessing, after=self._asked)
                self.meter.guesses += 1

    def _settle(self, chosen: set[Key]) -> None:
        """Take back the slots of guesses that are not among the `chosen`."""
        for key in [key for key in self._ahead if key not in chosen]:
            held = self._ahead.pop(key)
            held.pending = [(read, future) for read, future in held.pending if not future.cancel()]
            self.meter.wasted_bytes += read_bytes_of([read for read, _ in held.pending], self._files)
            self._wrong.append(held)

    def _issue(self, misses: deque[Key], waiting: set[Name], order: deque[Key]) -> None:
        """Ask for misses in their order while there is a slot for one that is not wanted itself."""
        while misses and len(waiting) < self.slots:
            key = misses.popleft()
            self._recorder.note("experts", "miss", self._expert(key).name, time.perf_counter())
            self._cache.use(key, self.slot_bytes, waiting)
            waiting.add(key)
            order.append(key)
            self._ask(key)

    def _ask(self, key: Key) -> None:
        """Read an expert now; what a guess has begun to read is not read again."""
        held = self._ahead.pop(key, None)
        if held is None:
            held = self._submit(key, self._pool)
        else:
            self.meter.guessed_right += 1
            for i, (read, future) in enumerate(held.pending):
                if future.cancel():
                    held.pending[i] = read, self._pool.submit(self._read, read, self._place(held.slot, read))
        self._held[key] = held
        self._asked += [future for _, future in held.pending]
        self.meter.read_bytes += self._read_bytes(key)

    def _submit(self, key: Key, pool: ThreadPoolExecutor, after: Sequence[Future[memoryview]] = ()) -> _Held:
        slot = self._free.pop()
        reads = reads_of(self._expert(key), self._files)
        return _Held(slot, [(r, pool.submit(self._read, r, self._place(slot, r), after)) for r in reads])

    def _place(self, slot: int, read: ExpertRead) -> memoryview:
        start = slot * self.slot_bytes
        return self._memory[start + read.place : start + self.slot_bytes]

    def _read_bytes(self, key: Key) -> int:
        return read_bytes_of(reads_of(self._expert(key), self._files), self._files)

    def _read(
        self, read: ExpertRead, into: memoryview, after: Sequence[Future[memoryview]] = ()
    ) -> memoryview:
        wait(after)
        started_s = time.perf_counter()
        file = self._files[read.path]
        with self._outstanding:
            data = file.read(read.extract, into)
        reader, span_bytes = threading.current_thread().name, file.span_bytes(read.extract)
        self._recorder.note(reader, "read", read.extract.name, started_s, span_bytes)
        return data

    def _arrived(self, key: Key) -> Data:
        """Return an expert's bytes once they are there."""
        held = self._held[key]
        if held.data is None:
            started_s = time.perf_counter()
            try:
                found = [(read, future.result()) for read, future in held.pending]
            except CancelledError as error:
                raise FaultError("the weights were closed while a pass was using them") from error
            except BaseException:
                self._cache.evict(key)
                raise
            self.meter.stall_s += time.perf_counter() - started_s
            self._recorder.note("wait", "wait", self._expert(key).name, started_s)
            held.data = self._views(key, found)
            held.pending = []
        return held.data

    def _views(self, key: Key, found: Sequence[tuple[ExpertRead, memoryview]]) -> Data:
        lying = {tensor: read.view(data, tensor) for read, data in found for tensor in read.tensors}
        if self._verify and key not in self._checked:
            for tensor, data in lying.items():
                check_tile(whole(tensor), data)
            self._checked.add(key)
        return tuple(tuple(lying[tensor] for tensor in part) for part in self._expert(key).parts)

    def _release(self, name: Name) -> None:
        """Take back the slot of an expert that was evicted; a read that nobody waited for ends first."""
        held = self._held.pop(cast("Key", name))
        for _, future in held.pending:
            if not future.cancel():
                future.exception()
        self._free.append(held.slot)

    def _evenly(self) -> Iterator[Key]:
        """Yield as many experts as there are slots, the first of each layer, then the second."""
        most = max(len(layer.experts) for layer in self._layers)
        keys = ((i, e) for e in range(most) for i, layer in enumerate(self._layers) if e < len(layer.experts))
        yield from sorted(key for key, _ in zip(keys, range(self.slots), strict=False))

    def resident(self) -> Iterator[tuple[Key, Data]]:
        """Yield the experts that are in their slots, and their bytes."""
        for key in sorted(self._held):
            yield key, self._arrived(key)

    def _expert(self, key: Key) -> Expert:
        return self._layers[key[0]].experts[key[1]]
