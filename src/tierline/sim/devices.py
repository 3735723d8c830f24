"""A plan over several devices in virtual time: every device computes its steps, every link is a resource.

A visit is one pass of one micro-batch through a stage. A device takes its visits in order; within one it
takes its layers in order: weights that are streamed arrive through its staging slots, the layer is computed,
and its exchanges hold it until all of the group have them. Then the rows go to the next stage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tierline.errors import InputError, UnknownRateError
from tierline.machines.machine import Interconnect, Link, Machine, Rate
from tierline.plan.devices import DevicePlan, Parallel, Use
from tierline.plan.exchanges import HAND_OVER
from tierline.plan.parallel import INDEPENDENT
from tierline.plan.plan import PhasePlan, Plan, Step
from tierline.plan.shards import shared_links
from tierline.sim.kernel import Kernel, LinkSpec, Slots
from tierline.sim.kernel import Link as Port
from tierline.trace import TraceEvent

_MOST_STEPS = 100_000


@dataclass(slots=True)
class Busy:
    """What a link did: bytes, and the seconds in which it moved them."""

    traffic_bytes: int = 0
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DevicePhase:
    """A device in a phase: seconds of compute, of its own exchanges, and waiting for weights or others."""

    name: str
    compute_s: float
    exchange_s: float
    wait_s: float


@dataclass(frozen=True)
class SimulatedPhase:
    """A phase of all devices from `start_s` to `end_s`, `passes` of the plan's passes simulated.

    `pass_ends_s` are the ends of each pass of the last micro-batch in the last stage.
    """

    name: str
    start_s: float
    end_s: float
    passes: int
    pass_ends_s: tuple[float, ...]
    tokens_per_pass: int
    devices: tuple[DevicePhase, ...]
    links: Mapping[str, Busy]
    events: tuple[TraceEvent, ...]

    @property
    def time_s(self) -> float:
        """Seconds that it takes."""
        return self.end_s - self.start_s

    @property
    def tokens_per_s_steady(self) -> float | None:
        """Tokens per second after the first pass; of a single pass, of all of it. None without tokens."""
        if not self.tokens_per_pass or self.time_s <= 0:
            return None
        if len(self.pass_ends_s) < 2:
            return self.tokens_per_pass * self.passes / self.time_s
        steady_s = self.pass_ends_s[-1] - self.pass_ends_s[0]
        return self.tokens_per_pass * (len(self.pass_ends_s) - 1) / steady_s if steady_s > 0 else None


@dataclass(frozen=True)
class ParallelResult:
    """All phases one after another."""

    plan: Plan
    phases: tuple[SimulatedPhase, ...]
    notes: tuple[str, ...]

    @property
    def main(self) -> SimulatedPhase:
        """The phase with the most passes, the last of equals."""
        return max(reversed(self.phases), key=lambda p: p.passes)

    @property
    def events(self) -> list[TraceEvent]:
        """Everything that happened, in order of its start."""
        return sorted((e for p in self.phases for e in p.events), key=lambda e: (e.start_s, e.resource))


def simulate_devices(plan: Plan, phases: Sequence[str] = ()) -> ParallelResult:
    """Execute a plan over several devices in virtual time, all its phases or those called `phases`.

    Raises InputError for a phase that it has not, a plan that is impossible, and one of a single device;
    UnknownRateError where a rate that is used is not known.
    """
    if plan.parallel is None:
        raise InputError(f"{plan.machine.name}: the plan is of a single device; use --parallel")
    if plan.strategy == "impossible":
        raise InputError(f"{plan.model.name} on {plan.machine.name}: impossible, nothing to simulate")
    known = [p.name for p in plan.phases]
    for name in phases:
        if name not in known:
            raise InputError(f"--phase {name[:40]!r}: {plan.model.name} has {', '.join(known)} here")
    made: list[SimulatedPhase] = []
    notes: list[str] = []
    for phase in plan.phases:
        if not phases or phase.name in phases:
            passes = _bounded(plan.parallel, phase)
            if passes < phase.passes:
                notes.append(f"{phase.name}: {passes} of {phase.passes} passes are simulated")
            start_s = made[-1].end_s if made else 0.0
            made.append(_Run(plan, plan.parallel, phase, passes, start_s).run())
    return ParallelResult(plan, tuple(made), (*plan.notes, *notes))


def _bounded(parallel: Parallel, phase: PhasePlan) -> int:
    """Return how many passes are simulated: all, or as many as stay within 100,000 steps (at least 3)."""
    steps = sum(len(p.steps) for d in parallel.devices if (p := d.plan.phase(phase.name)))
    return min(phase.passes, max(3, _MOST_STEPS // max(1, steps * parallel.split.micro_batches)))


@dataclass(slots=True)
class _State:
    """Where a device is: its visit and step, what has arrived, and what it did so far."""

    device: DevicePlan
    steps: Sequence[Step]
    work_s: Sequence[float]
    fetch_bytes: Sequence[int]
    exchanges: Mapping[str, Sequence[Use]]
    slots: Slots
    ready: set[int] = field(default_factory=set)
    visit: int = 0
    step: int = 0
    fetched: int = 0
    arrived: set[int] = field(default_factory=set)
    busy: bool = False
    free_since: float = 0.0
    compute_s: float = 0.0
    exchange_s: float = 0.0
    wait_s: float = 0.0


class _Run:
    """One phase."""

    def __init__(self, plan: Plan, parallel: Parallel, phase: PhasePlan, passes: int, start_s: float) -> None:
        self._plan, self._parallel, self._phase, self._passes = plan, parallel, phase, passes
        self._start_s = start_s
        self._kernel = Kernel(start_s)
        self._micro = parallel.split.micro_batches
        self._visits = passes * self._micro
        self._states = [s for d in parallel.devices if (s := self._state(d)) is not None]
        self._stages = sorted({s.device.ranks.pp for s in self._states})
        self._by_rank = {_rank(s.device): s for s in self._states}
        self._shared = set(shared_links(plan.machine))
        self._ports: dict[str, Port] = {}
        self._met: dict[tuple[object, ...], list[tuple[_State, Callable[[], None]]]] = {}
        self._links: dict[str, Busy] = {}
        self._events: list[TraceEvent] = []
        self._ends: list[float] = []

    def run(self) -> SimulatedPhase:
        independent = self._phase.name in INDEPENDENT
        for state in self._states:
            if state.device.ranks.pp == self._stages[0]:
                state.ready.update(range(self._visits if independent else self._micro))
            self._issue(state)
        for state in self._states:
            self._advance(state)
        self._kernel.run()
        rows = self._plan.workload.batch * self._phase.tokens
        return SimulatedPhase(
            self._phase.name,
            self._start_s,
            max([self._start_s, *self._ends]),
            self._passes,
            tuple(self._ends),
            rows if self._phase.tokens_per_s is not None else 0,
            tuple(DevicePhase(s.device.name, s.compute_s, s.exchange_s, s.wait_s) for s in self._states),
            self._links,
            tuple(self._events),
        )

    def _state(self, device: DevicePlan) -> _State | None:
        planned = device.plan.phase(self._phase.name)
        if planned is None or not planned.steps:
            return None
        exchanges: dict[str, list[Use]] = {}
        for use in device.uses:
            if use.phase == self._phase.name:
                for layer in use.layers:
                    exchanges.setdefault(layer, []).append(use)
        route = device.plan.residency.route
        uneven = device.imbalance.get(self._phase.name, 1.0)
        return _State(
            device,
            planned.steps,
            [_work_s(step, device.plan.machine, uneven) for step in planned.steps],
            [
                sum(r.traffic_bytes for r in step.reads if route and r.link == route[0])
                for step in planned.steps
            ],
            exchanges,
            Slots(max(1, device.plan.prefetch_depth)),
            free_since=self._start_s,
        )

    def _port(self, device: DevicePlan, name: str) -> Port:
        """Return the resource that is a link: one of the host or a bus for all devices, else the device's."""
        join = next((j for j in self._plan.machine.interconnects if j.name == name), None)
        common = name in self._shared or (join is not None and join.topology == "bus")
        key = name if common else f"{device.name} {name}"
        if key not in self._ports:
            link: Link | Interconnect = join if join is not None else _whole(self._plan.machine, device, name)
            latency_s = link.latency_s.value if link.latency_s else 0.0
            self._ports[key] = Port(self._kernel, LinkSpec(key, _known(key, link.rate), latency_s))
        return self._ports[key]

    def _issue(self, state: _State) -> None:
        """Ask for the weights of the steps to come, as many as there are staging slots."""
        count, route = len(state.steps), state.device.plan.residency.route
        while state.fetched < count * self._visits:
            wanted = state.fetch_bytes[state.fetched % count]
            if wanted and not state.slots.take():
                return
            index, state.fetched = state.fetched, state.fetched + 1
            if wanted:
                self._fetch(state, index, wanted, list(route))

    def _fetch(self, state: _State, index: int, wanted: int, path: list[str]) -> None:
        if not path:
            state.arrived.add(index)
            self._advance(state)
            return
        name = state.steps[index % len(state.steps)].layer
        self._move(
            state.device, path[0], wanted, 1, name, lambda: self._fetch(state, index, wanted, path[1:])
        )

    def _move(
        self, device: DevicePlan, link: str, count: int, rounds: int, name: str, then: Callable[[], None]
    ) -> None:
        port = self._port(device, link)
        busy = self._links.setdefault(port.spec.name, Busy())

        def moved(start: float, end: float) -> None:
            busy.traffic_bytes += count
            busy.busy_s += end - start
            self._events.append(TraceEvent(f"link:{port.spec.name}", "read", name, start, end, count))
            then()

        port.request(count, moved, rounds)

    def _advance(self, state: _State) -> None:
        """Begin the next step of a device that is idle, if its rows and its weights are there."""
        if state.busy or state.visit == self._visits or state.visit not in state.ready:
            return
        index = state.visit * len(state.steps) + state.step
        if state.fetch_bytes[state.step] and index not in state.arrived:
            return
        state.busy = True
        now, work_s = self._kernel.now, state.work_s[state.step]
        state.wait_s += now - state.free_since
        state.compute_s += work_s
        layer = state.steps[state.step].layer
        self._events.append(TraceEvent(f"{state.device.name} compute", "compute", layer, now, now + work_s))
        self._kernel.at(now + work_s, lambda: self._computed(state))

    def _computed(self, state: _State) -> None:
        if state.fetch_bytes[state.step]:
            state.arrived.discard(state.visit * len(state.steps) + state.step)
            state.slots.give()
            self._issue(state)
        state.free_since = self._kernel.now
        uses = list(state.exchanges.get(state.steps[state.step].layer, ()))
        self._exchange(state, uses, 0)

    def _exchange(self, state: _State, uses: Sequence[Use], number: int) -> None:
        """Meet the group for one exchange after the other, then go on."""
        if number == len(uses):
            self._next_step(state)
            return
        use = uses[number]
        key = (use.group, _group(state.device, use.group), state.visit, state.step, number)
        waiting = self._met.setdefault(key, [])
        waiting.append((state, lambda: self._exchange(state, uses, number + 1)))
        if len(waiting) < use.collective.devices:
            return
        for member, then in self._met.pop(key):
            self._send(member, use, then)

    def _send(self, state: _State, use: Use, then: Callable[[], None]) -> None:
        made, began = use.collective, self._kernel.now
        state.wait_s += began - state.free_since

        def done() -> None:
            state.exchange_s += self._kernel.now - began
            state.free_since = self._kernel.now
            then()

        self._move(state.device, use.link, made.serial_bytes, made.rounds, use.operation, done)

    def _next_step(self, state: _State) -> None:
        state.step += 1
        if state.step < len(state.steps):
            state.busy = False
            self._advance(state)
            return
        handed = state.exchanges.get(HAND_OVER, ())
        if handed:
            self._send(state, handed[0], lambda: self._hand_over(state))
        else:
            self._hand_over(state)

    def _hand_over(self, state: _State) -> None:
        """End a visit: its rows are at the next stage, or its token back at the first."""
        visit, ranks = state.visit, state.device.ranks
        state.visit, state.step, state.busy = visit + 1, 0, False
        later = [stage for stage in self._stages if stage > ranks.pp]
        following = visit if later else visit + self._micro
        if not later:
            self._end(visit)
        target = self._by_rank.get((later[0] if later else self._stages[0], *_rank(state.device)[1:]))
        if target is not None and following < self._visits:
            target.ready.add(following)
            self._advance(target)
        self._advance(state)

    def _end(self, visit: int) -> None:
        """Note the end of a pass: that of the last micro-batch, on the last device to have it."""
        number, now = visit // self._micro, self._kernel.now
        while len(self._ends) <= number:
            self._ends.append(now)
        self._ends[number] = max(self._ends[number], now)


def _rank(device: DevicePlan) -> tuple[int, int, int, int]:
    ranks = device.ranks
    return ranks.pp, ranks.dp, ranks.ep, ranks.tp


def _group(device: DevicePlan, group: str) -> tuple[int, ...]:
    """Return what tells a device's group of one kind from the others."""
    ranks = device.ranks
    return tuple(getattr(ranks, name) for name in ("tp", "pp", "ep", "dp") if name != group)


def _work_s(step: Step, machine: Machine, uneven: float) -> float:
    """Return the seconds of a step on its device: arithmetic beside what crosses the port, or their sum."""
    port = machine.fast.name
    crossed = sum(read.traffic_bytes for read in step.reads if read.link == port)
    port_s = crossed / _known(port, machine.fast.rate) if crossed else 0.0
    compute_s = uneven * (step.compute_s or 0.0)
    return compute_s + port_s if machine.shared_memory else max(compute_s, port_s)


def _whole(machine: Machine, device: DevicePlan, name: str) -> Link:
    """Return a link as it is, not the device's share of it."""
    return (
        machine.link(name) if any(x.name == name for x in machine.links) else device.plan.machine.link(name)
    )


def _known(name: str, rate: Rate | None) -> float:
    if rate is None or not (rate.sustained or rate.peak):
        raise UnknownRateError(f"no rate of {name} is known; add it with --set")
    return rate.value
