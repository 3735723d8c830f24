"""A plan over several devices as tables on a terminal."""

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tierline.cost.footprint import kv_cache_bytes
from tierline.cost.weights import weigh
from tierline.plan.devices import DevicePlan, Parallel, Use
from tierline.plan.plan import Plan
from tierline.plan.training_parallel import ParallelTraining
from tierline.report.tables import add_row, console_of, open_table, shown
from tierline.units import format_bytes, format_seconds

_MOST_DEVICES = 16


def parallel_parts(plan: Plan, parallel: Parallel) -> Iterator[RenderableType]:
    """Yield what each device holds, what one of them exchanges, and the stages of a pipeline."""
    yield _devices(parallel.devices)
    yield from _copies(plan)
    busiest = max(parallel.devices, key=lambda d: sum(use.time_s for use in d.uses))
    if busiest.uses:
        yield _exchanges(busiest)
    yield from _uneven(parallel.devices)
    if parallel.split.pp > 1:
        yield from _stages(parallel)


def print_training_parallel(plan: ParallelTraining, console: Console | None = None) -> None:
    """Print a training step over several devices: verdict, what each holds, the time of the step."""
    out = console_of(console)
    verdict = "fits" if plan.fits else "does not fit"
    where = f"training {plan.model.name} on {plan.machine.name}"
    out.print(Text(shown(f"{where}: {verdict}, {plan.split}"), style="bold"))
    work = plan.workload
    how = f"{plan.training.name}, {plan.training.checkpointing} checkpointing"
    out.print(Text(f"{how}; batch {work.batch}, {work.prompt_tokens:,} tokens each", style="dim"))
    table = open_table("device", "weights", "copy", "gradients", "states", "activations", "total", "allowed")
    for device in plan.devices[:_MOST_DEVICES]:
        held = device.held
        sizes = (held.weights_bytes, held.master_bytes, held.gradient_bytes, held.optimizer_bytes)
        more = (device.activation_bytes, device.total_bytes, device.step.allowed_bytes)
        add_row(table, device.name, *(format_bytes(n) for n in (*sizes, *more)))
    out.print(table)
    out.print(Text(f"stages of {', '.join(map(str, plan.layers))} layers"))
    if plan.time_s is not None and plan.tokens_per_s is not None:
        idle = "" if plan.bubble_fraction is None else f"; devices wait {plan.bubble_fraction:.0%} for stages"
        out.print(Text(f"a step takes {format_seconds(plan.time_s)}, {plan.tokens_per_s:,.0f} tok/s{idle}"))
    for note in plan.notes:
        out.print(Text(f"note: {shown(note)}", style="dim"))


def _devices(devices: Sequence[DevicePlan]) -> Table:
    table = open_table("device", "tp pp ep dp", "weights", "KV cache", "activations", "total", "placed")
    for device in devices[:_MOST_DEVICES]:
        held, ranks = device.plan.footprint, device.ranks
        numbers = (held.weights_bytes, held.kv_cache_bytes, held.activation_bytes, held.total_bytes)
        where = f"{ranks.tp}  {ranks.pp}  {ranks.ep}  {ranks.dp}"
        add_row(table, device.name, where, *(format_bytes(n) for n in numbers), device.plan.strategy)
    if len(devices) > _MOST_DEVICES:
        add_row(table, f"and {len(devices) - _MOST_DEVICES} more", *[""] * 6)
    return table


def _copies(plan: Plan) -> Iterator[Text]:
    """Yield how much is held more than once: key heads fewer than `tp`, what `ep` and `dp` do not divide."""
    weights = weigh(plan.model, plan.costing.precision)
    kv_bytes = kv_cache_bytes(plan.model, weights, plan.workload.values(), plan.costing)
    more = {
        "weights": plan.footprint.weights_bytes - weights.stored_bytes,
        "KV cache": plan.footprint.kv_cache_bytes - int(kv_bytes),
    }
    held = [f"{format_bytes(count)} of {what}" for what, count in more.items() if count > 0]
    if held:
        yield Text(f"held again by other devices, beside one copy of all: {', '.join(held)}")


def _uneven(devices: Sequence[DevicePlan]) -> Iterator[Text]:
    """Yield by phase how much more arithmetic the device with the most visited experts has."""
    phases = dict.fromkeys(name for device in devices for name in device.imbalance)
    for phase in phases:
        most = max(device.imbalance.get(phase, 1.0) for device in devices)
        what = f"the device whose experts are visited most computes {most:.2f} times the mean"
        yield Text(shown(f"{phase}: {what}"))


def _exchanges(device: DevicePlan) -> Table:
    table = open_table(f"{device.name} exchanges", "phase", "how", "over", "times", "sends each", "in all")
    for use in device.uses:
        add_row(table, *_cells(use))
    return table


def _cells(use: Use) -> Iterator[str]:
    made = use.collective
    how = made.kind if made.algorithm == "direct" else f"{made.kind} ({made.algorithm})"
    yield use.operation
    yield use.phase
    yield f"{how} of {made.devices}"
    yield use.link
    yield f"{use.count:,}"
    yield f"{made.sent_bytes:,} B"
    yield format_seconds(use.time_s)


def _stages(parallel: Parallel) -> Iterator[Text]:
    yield Text(f"stages of {', '.join(map(str, parallel.layers))} layers")
    for phase in parallel.phases:
        times = ", ".join("unknown" if s is None else format_seconds(s) for s in phase.stage_s)
        idle = (
            "" if phase.bubble_fraction is None else f"; devices wait {phase.bubble_fraction:.0%} of the time"
        )
        yield Text(shown(f"{phase.name}: a pass takes {times} in them{idle}"))
