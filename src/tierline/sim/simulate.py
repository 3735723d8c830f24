"""A plan executed in virtual time: `simulate(plan, options) -> SimResult`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tierline.errors import BudgetError, InputError, UnknownRateError
from tierline.machines.machine import Machine, Rate
from tierline.plan.build import compute_rate
from tierline.plan.plan import Plan
from tierline.plan.residency import routes
from tierline.plan.units import stored_layers
from tierline.sim.demand import demand
from tierline.sim.kernel import LinkSpec
from tierline.sim.measure import LinkMeasure, PhaseMeasure, measure
from tierline.sim.options import PINNING, Options, PolicyName, Strategy
from tierline.sim.pipeline import Pipeline, Timeline, run
from tierline.sim.schedule import DECOMPRESS, Rates, Schedule, schedule
from tierline.trace import TraceEvent


@dataclass(frozen=True)
class SimResult:
    """What happened. `policy` is None where nothing is chosen (resident, host-stream).

    Counts and links are over all simulated phases; `bound`, rates and stalls are those of the main phase, the
    one with the most passes. `links` holds the fast tier's port first.
    """

    plan: Plan
    options: Options
    strategy: Strategy
    policy: PolicyName | None
    schedule: Schedule
    pipeline: Pipeline
    rates: Rates
    timeline: Timeline
    phases: tuple[PhaseMeasure, ...]
    links: tuple[LinkMeasure, ...]
    notes: tuple[str, ...]

    @property
    def main(self) -> PhaseMeasure:
        """The phase with the most passes, the last of equals."""
        return max(reversed(self.phases), key=lambda p: len(p.pass_times_s))

    @property
    def time_s(self) -> float:
        """Seconds until the last step is done."""
        return float(self.timeline.ends[-1])

    @property
    def tokens_per_s_steady(self) -> float | None:
        """Tokens per second after the first pass; None for phases that make none."""
        return self.main.tokens_per_s_steady

    @property
    def time_to_first_token_s(self) -> float | None:
        """Seconds until the first decode pass begins, everything before included (None without decode).

        The last pass of the prompt makes the first token, as in `Plan.time_to_first_token_s`.
        """
        names = [p.name for p in self.phases]
        return self.phases[names.index("decode")].start_s if "decode" in names and len(names) > 1 else None

    @property
    def energy_j(self) -> float | None:
        """Joules of everything moved and computed; None where the machine does not say what each costs."""
        machine = self.plan.machine
        per_flop = next((c.energy_j_per_flop for c in machine.compute if c.energy_j_per_flop), None)
        if per_flop is None:
            return None
        total = per_flop.value * sum(t.flop for p in self.schedule.passes for t in p.demand.turns)
        for link in self.links:
            if link.name == DECOMPRESS:
                continue
            is_port = link.name == machine.fast.name
            per_byte = (machine.fast if is_port else machine.link(link.name)).energy_j_per_byte
            if per_byte is None:
                return None
            total += per_byte.value * link.traffic_bytes
        return total

    @cached_property
    def events(self) -> tuple[TraceEvent, ...]:
        """Everything that happened, as the engine reports it."""
        from tierline.sim.events import trace_events

        return tuple(trace_events(self))


def simulate(plan: Plan, options: Options | None = None) -> SimResult:
    """Execute `plan` in virtual time. Raises BudgetError at the token at which a capacity is exceeded,
    UnknownRateError where a link that is used has no known rate, InputError for phases that the plan lacks.
    """
    options = options or Options()
    if plan.parallel is not None:
        raise InputError(
            "a plan over several devices is simulated as a whole: leave out --parallel here, or use "
            "`tierline simulate --parallel` (in Python, tierline.sim.devices.simulate_devices)"
        )
    tile_bytes = options.tile_bytes if options.granularity == "tile" else None
    asked = demand(plan, options.phases, options.speculation, tile_bytes, options.passes)
    if options.strategy == "auto" or "auto" in options.phase_strategies.values():
        options = _resolve(plan, options)
    _check(plan, options, [p.name for p in asked.phases])
    rates, notes = _rates(plan, options)
    scheduled = schedule(asked, options, rates)
    pipeline = _pipeline(plan.machine, options, scheduled, rates)
    timeline = run(pipeline, [p.steps for p in scheduled.passes])
    phases, links = measure(plan.machine, scheduled, timeline, rates)
    chosen = scheduled.strategy not in ("resident", "host-stream")
    return SimResult(
        plan=plan,
        options=options,
        strategy=scheduled.strategy,
        policy=scheduled.policy if chosen else None,
        schedule=scheduled,
        pipeline=pipeline,
        rates=rates,
        timeline=timeline,
        phases=phases,
        links=links,
        notes=tuple(dict.fromkeys([*plan.machine.notes, *notes, *scheduled.notes])),
    )


def _check(plan: Plan, options: Options, simulated: Sequence[str]) -> None:
    """Raise InputError for options that would silently do nothing."""
    for name in options.phase_strategies:
        if plan.phase(name) is None:
            known = ", ".join(p.name for p in plan.phases)
            raise InputError(f"--phase-strategy {name[:40]!r}: {plan.model.name} has {known} here")
    policy = options.policy
    used = {options.strategy_of(name) for name in simulated}
    takes = {"layer-swap"} | ({"tiered", "kv-offload"} if policy in PINNING else set())
    if policy is not None and not used & takes:
        raise InputError(
            f"--policy {policy} does nothing with {', '.join(sorted(used))}: use --strategy layer-swap"
        )


def _resolve(plan: Plan, options: Options) -> Options:
    """Replace `auto` by what the planner thinks best."""
    chosen = _auto(plan, options)
    if options.granularity == "layer" and plan.strategy == "streamed":
        slot_bytes = plan.residency.placement.slot_bytes
        layers = stored_layers(plan.weights).values()
        if 0 < slot_bytes < max(u.footprint_bytes for layer in layers for u in layer.units):
            # whole layers are too large to stage: the planner cut them, and so does this
            options = replace(options, granularity="tile", tile_bytes=max(1, slot_bytes))
    by_phase = {n: chosen if s == "auto" else s for n, s in options.phase_strategies.items()}
    strategy = chosen if options.strategy == "auto" else options.strategy
    return replace(options, strategy=strategy, phase_strategies=by_phase)


def _auto(plan: Plan, options: Options) -> Strategy:
    """Return resident where all of it fits, except where a link can feed compute beside the local memory."""
    if plan.strategy == "impossible" and options.granularity != "tile":
        raise BudgetError(
            f"{plan.model.name} on {plan.machine.name}: nothing that the planner knows works; "
            "try --granularity tile, a shorter --context, smaller --weights, or another --strategy"
        )
    best = next(iter(routes(plan.machine)), None)
    beside = best is not None and best[-1].target == "compute"
    capped = options.capacity_bytes is not None and options.capacity_bytes < plan.footprint.weights_bytes
    return "resident" if plan.fits and not beside and not capped else "tiered"


def _rates(plan: Plan, options: Options) -> tuple[Rates, list[str]]:
    compute, note = compute_rate(plan.machine, plan.costing.precision.activations.name)
    port = _known(plan.machine.fast.name, plan.machine.fast.rate, plan.machine, options)
    shared = plan.machine.shared_memory if options.dma_shared is None else options.dma_shared
    notes = [note] if note else []
    return Rates(compute.value if compute else None, port, shared), notes


def _known(name: str, rate: Rate | None, machine: Machine, options: Options) -> float:
    if name in options.link_rates:
        return options.link_rates[name]
    if rate is None or not (rate.sustained or rate.peak):
        raise UnknownRateError(f"{machine.name}: no rate of {name} is known; add --set {name}.sustained=RATE")
    return rate.value


def _pipeline(machine: Machine, options: Options, scheduled: Schedule, rates: Rates) -> Pipeline:
    fetches = {
        id(f): f for p in scheduled.passes for f in (*p.steps.fetches, *p.steps.writes) if f is not None
    }
    used = {name for f in fetches.values() for name in f.path}
    links = {
        link.name: LinkSpec(
            link.name,
            _known(link.name, link.rate, machine, options),
            link.latency_s.value if link.latency_s else 0.0,
            options.minimum_bytes,
            options.discipline,
            options.reads_in_flight,
        )
        for link in machine.links
        if link.name in used
    }
    if DECOMPRESS in used and options.decompress_bytes_per_s is not None:
        links[DECOMPRESS] = LinkSpec(DECOMPRESS, options.decompress_bytes_per_s)
    depth = 1 if rates.shared else scheduled.prefetch_depth  # transfers and compute take turns
    return Pipeline(links, depth, scheduled.by_step, options.wrap)
