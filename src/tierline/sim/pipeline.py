"""Passes through a pipeline of links, staging slots and one compute: who moves what when.

Two engines give the same times: `run_events` for any links on the event kernel, `run_fifo` for one FIFO link,
a max-plus recurrence that takes a fraction of a microsecond per step. `run` chooses. Of what could begin on a
link at the same instant, what compute waits for goes first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tierline.sim.kernel import Kernel, Link, LinkSpec, Number, Slots
from tierline.sim.recurrence import HERE, NEEDED, QUEUED, RIDING, Steps, run_fifo


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bytes that cross the links of `path`, one after another, before compute may use them.

    A fetch `on_demand` is asked for when compute needs it (a page fault, the row of a token just made) and
    takes no staging slot; nor does a small one with `slot` False, which is asked for in its turn. `requests`
    is in how many pieces, each of which pays every link's latency. `cause` says why it is needed.
    """

    name: str
    traffic_bytes: int
    path: tuple[str, ...]
    on_demand: bool = False
    requests: int = 1
    cause: str = "streaming"
    slot: bool = True


@dataclass(frozen=True, slots=True)
class Pass:
    """One traversal: at each step what is fetched before (or None), seconds of work, what is written after.

    The sequences are of equal length, `writes` may be empty instead. Nobody waits for a write.
    """

    names: Sequence[str]
    fetches: Sequence[Fetch | None]
    work: Sequence[Number]
    writes: Sequence[Fetch | None] = ()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Links by name, and how far fetches run ahead of compute.

    With `prefetch_depth` d, a fetch starts when the d-th fetch before it has been used, that is when one of d
    staging slots is free. With `by_step` it starts when the d-th step before it is done: a cache, where a
    step without a fetch holds its unit too. Depth 1 is fetch on demand, always by step. With `staging_bytes`
    a fetch takes as much of a ring of so many bytes as it has, and `prefetch_depth` does not count. Without
    `wrap`, fetches of a pass start when the pass before has ended.
    """

    links: Mapping[str, LinkSpec]
    prefetch_depth: int = 2
    by_step: bool = False
    wrap: bool = True
    staging_bytes: int | None = None

    @property
    def counts_steps(self) -> bool:
        """Whether every step holds a slot, not only those that fetch."""
        return self.staging_bytes is None and (self.by_step or self.prefetch_depth == 1)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One crossing of one link for the step `step`, counted over all passes."""

    step: int
    link: str
    start: Number
    end: Number
    fetch: Fetch
    written: bool = False


@dataclass
class Timeline:
    """What happened: when each step began and ended its work, and every transfer in order of its end."""

    starts: list[Number] = field(default_factory=list)
    ends: list[Number] = field(default_factory=list)
    record: Callable[[], list[Transfer]] = list

    @cached_property
    def transfers(self) -> list[Transfer]:
        """Every crossing of a link, put together when it is first asked for."""
        return self.record()


def run(pipeline: Pipeline, passes: Sequence[Pass], zero: Number = 0.0) -> Timeline:
    """Return the times of `passes`, the first starting at `zero` with all slots free."""
    fetches = [f for p in passes for f in p.fetches if f is not None]
    paths = {f.path for f in fetches}
    plain = pipeline.staging_bytes is None
    if plain and len(paths) <= 1 and not any(w is not None for p in passes for w in p.writes):
        specs = [pipeline.links[name] for path in paths for name in path]
        if not specs or (len(specs) == 1 and _one_by_one(specs[0], fetches)):
            return _fast(pipeline, passes, specs[0] if specs else None, zero)
    return run_events(pipeline, passes, zero)


def _one_by_one(spec: LinkSpec, fetches: Sequence[Fetch]) -> bool:
    """Return whether a link serves `fetches` one after another, each as if alone."""
    if spec.discipline != "fifo":
        return False
    return spec.in_flight == 1 or (not spec.latency and not any(f.on_demand for f in fetches))


def _fast(pipeline: Pipeline, passes: Sequence[Pass], spec: LinkSpec | None, zero: Number) -> Timeline:
    known: dict[int, tuple[list[int], list[Number]]] = {}  # passes that are alike share their fetches
    seconds: dict[int, Number] = {}  # and so do steps
    kinds: list[int] = []
    transfers: list[Number] = []
    works: list[Number] = []
    limits: list[int] = []
    for traversal in passes:
        fetches = traversal.fetches
        if id(fetches) not in known:
            for fetch in fetches:
                if id(fetch) not in seconds:
                    seconds[id(fetch)] = zero if fetch is None or spec is None else _seconds(fetch, spec)
            known[id(fetches)] = [_kind(f) for f in fetches], [seconds[id(f)] for f in fetches]
        kinds += known[id(fetches)][0]
        transfers += known[id(fetches)][1]
        works += traversal.work
        limits.append(len(works))
    begun, starts, ends = run_fifo(
        Steps(kinds, transfers, works, limits),
        pipeline.prefetch_depth,
        by_step=pipeline.counts_steps,
        wrap=pipeline.wrap,
        zero=zero,
    )
    return Timeline(starts, ends, lambda: _transfers(passes, begun, spec))


def _kind(fetch: Fetch | None) -> int:
    if fetch is None:
        return HERE
    if fetch.on_demand:
        return NEEDED
    return QUEUED if fetch.slot else RIDING


def _seconds(fetch: Fetch, spec: LinkSpec) -> Number:
    return fetch.requests * spec.latency + max(fetch.traffic_bytes, spec.minimum_bytes) / spec.rate


def _transfers(passes: Sequence[Pass], begun: Sequence[Number], spec: LinkSpec | None) -> list[Transfer]:
    if spec is None:
        return []
    fetches = [(i, f) for i, f in enumerate(f for p in passes for f in p.fetches) if f is not None]
    made = []
    for (step, fetch), asked in zip(fetches, begun, strict=True):
        start = asked + fetch.requests * spec.latency  # the link is busy from here on
        end = start + max(fetch.traffic_bytes, spec.minimum_bytes) / spec.rate
        made.append(Transfer(step, spec.name, start, end, fetch))
    return sorted(made, key=lambda t: t.end)


def run_events(pipeline: Pipeline, passes: Sequence[Pass], zero: Number = 0.0) -> Timeline:
    """Return the same as `run`, always by events."""
    return _Run(pipeline, passes, zero).run()


class _Run:
    """Fetches are issued in step order as slots allow; compute takes the steps in order as they arrive."""

    def __init__(self, pipeline: Pipeline, passes: Sequence[Pass], zero: Number) -> None:
        self._pipeline = pipeline
        self._kernel = Kernel(zero)
        self._links = {name: Link(self._kernel, spec) for name, spec in pipeline.links.items()}
        room = pipeline.staging_bytes
        self._slots = Slots(pipeline.prefetch_depth if room is None else room)
        self._fetches = [f for p in passes for f in p.fetches]
        self._work = [w for p in passes for w in p.work]
        self._writes = [w for p in passes for w in (p.writes or [None] * len(p.work))]
        self._pass_start = [start for start, p in _starts(passes) for _ in p.work]
        self._arrived = [f is None for f in self._fetches]
        self._next = 0  # the step whose fetch is issued next
        self._head = 0  # the step that compute does next
        self._busy = False
        self._transfers: list[Transfer] = []
        self._timeline = Timeline(record=lambda: self._transfers)

    def run(self) -> Timeline:
        self._issue()
        self._compute()
        self._kernel.run()
        return self._timeline

    def _held(self, step: int) -> int:
        """Return how many slots, or bytes of the ring, a step holds."""
        fetch = self._fetches[step]
        if self._pipeline.counts_steps:
            return 1
        if fetch is None or not fetch.slot or fetch.on_demand:
            return 0
        return 1 if self._pipeline.staging_bytes is None else fetch.traffic_bytes

    def _issue(self) -> None:
        while self._next < len(self._work):
            step = self._next
            if not self._pipeline.wrap and self._pass_start[step] > self._head:
                return
            if not self._slots.take(self._held(step)):
                return
            self._next += 1
            fetch = self._fetches[step]
            if fetch is not None and not fetch.on_demand:
                self._send(step, fetch, 0, lambda step=step: self._arrive(step))  # type: ignore[misc]

    def _send(
        self, step: int, fetch: Fetch, leg: int, then: Callable[[], None], *, write: bool = False
    ) -> None:
        """Move `fetch` over the links of its path from `leg` on, then do `then`."""
        if leg == len(fetch.path):
            then()
            return
        link = self._links[fetch.path[leg]]

        def moved(start: Number, end: Number) -> None:
            self._transfers.append(Transfer(step, link.spec.name, start, end, fetch, write))
            self._send(step, fetch, leg + 1, then, write=write)

        link.request(fetch.traffic_bytes, moved, fetch.requests, urgent=fetch.on_demand)

    def _arrive(self, step: int) -> None:
        self._arrived[step] = True
        self._compute()

    def _compute(self) -> None:
        """Start the step at the head if compute is idle and its bytes are there."""
        step = self._head
        if self._busy or step == len(self._work):
            return
        if not self._arrived[step]:
            fetch = self._fetches[step]
            if fetch is not None and fetch.on_demand:
                self._busy = True  # it waits for the fault itself
                self._send(step, fetch, 0, lambda: self._work_on(step))
            return
        self._busy = True
        self._work_on(step)

    def _work_on(self, step: int) -> None:
        now = self._kernel.now
        self._timeline.starts.append(now)
        self._kernel.at(now + self._work[step], lambda: self._done(step))

    def _done(self, step: int) -> None:
        self._busy = False
        self._head += 1
        self._timeline.ends.append(self._kernel.now)
        write = self._writes[step]
        if write is not None:
            self._send(step, write, 0, lambda: None, write=True)
        self._slots.give(self._held(step))
        self._compute()  # what compute needs now is asked for before what it needs later
        self._issue()


def _starts(passes: Sequence[Pass]) -> list[tuple[int, Pass]]:
    found, start = [], 0
    for traversal in passes:
        found.append((start, traversal))
        start += len(traversal.work)
    return found
