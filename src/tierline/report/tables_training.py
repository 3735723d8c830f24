"""Text for people: a training step as tables on a terminal."""

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.text import Text

from tierline.plan.plan import TierUse
from tierline.plan.training import TrainingPlan, training_remedies
from tierline.report.schema import weights_name
from tierline.report.tables import add_row, console_of, open_table, phase_table, shown, tier_table
from tierline.units import format_bytes, format_count


def print_training(plan: TrainingPlan, console: Console | None = None) -> None:
    """Print a planned step: verdict, footprint, arithmetic, time, remedies and notes."""
    out = console_of(console)
    for part in _parts(plan):
        out.print(part)


def _parts(plan: TrainingPlan) -> Iterator[RenderableType]:
    fast, work, how = plan.machine.fast, plan.workload, plan.training
    total, allowed = format_bytes(plan.total_bytes), format_bytes(plan.allowed_bytes)
    verdict = f"fits in {fast.name}"
    if not plan.fits:
        short = format_bytes(plan.total_bytes - plan.allowed_bytes)
        verdict = f"impossible: needs {total}, {fast.name} allows {allowed}; short by {short}"
    yield Text(shown(f"training {plan.model.name} on {plan.machine.name}: {verdict}"), style="bold")
    formats = f"weights {weights_name(plan.costing.precision)}, activations "
    formats += f"{plan.costing.precision.activations.name}; {how.name}, {how.checkpointing} checkpointing"
    yield Text(shown(f"{formats}; batch {work.batch}, {work.prompt_tokens:,} tokens each"), style="dim")
    yield Text()
    table = open_table("footprint", "parameters", "bytes", "")
    held, trained = plan.footprint, f"{plan.trained_parameters:,}"
    rows = {
        "weights": (f"{plan.model.tied_parameters:,}", held.weights_bytes),
        "copy in fp32": (trained, held.master_bytes),
        "gradients": (trained, held.gradient_bytes),
        "optimizer states": (trained, held.optimizer_bytes),
        "activations": ("", plan.activation_bytes),
        "runtime": ("", plan.runtime_bytes),
        "total": ("", plan.total_bytes),
    }
    for name, (count, size) in rows.items():
        if size:
            add_row(table, name, count, f"{size:,}", format_bytes(size))
    yield table
    used = TierUse(fast.name, int(fast.capacity_bytes.value), plan.allowed_bytes, plan.total_bytes)
    yield tier_table([used])
    yield phase_table([plan.phase])
    flop = plan.flop
    parts = {"forward": flop.forward, "backward": flop.backward, "computed again": flop.recomputed}
    yield Text("FLOP: " + ", ".join(f"{format_count(count)} {name}" for name, count in parts.items()))
    lines = training_remedies(plan)
    if lines:
        yield Text("what to change:", style="bold")
    yield from (Text(f"  {shown(line)}") for line in lines)
    yield from (Text(f"note: {shown(note)}", style="dim") for note in plan.notes)
