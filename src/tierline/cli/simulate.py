"""`tierline simulate`: the plan event by event in virtual time."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tierline.cli import options
from tierline.cli.asking import Asked, asks
from tierline.cli.auto import AutoOption, auto_json, chosen_for, said
from tierline.cli.figures import (
    SIMULATE_FIGURES,
    Figures,
    PlotOption,
    SimulateFigureOption,
    check_plot,
    plot_one,
)
from tierline.errors import InputError
from tierline.plan.build import plan_with
from tierline.sim.options import (
    DISCIPLINES,
    GRANULARITIES,
    INSTRUCTIONS,
    POLICIES,
    STRATEGIES,
    THROUGH,
    Options,
    simulation_options,
)
from tierline.trace import chrome_trace
from tierline.units import parse_bytes

if TYPE_CHECKING:
    from tierline.plan.plan import Plan
    from tierline.search.auto import Chosen
    from tierline.sim.simulate import SimResult

StrategyOption = Annotated[
    str, typer.Option(metavar="|".join(STRATEGIES), help="Where weights and KV live and how they are moved.")
]
CachePolicyOption = Annotated[
    str | None,
    typer.Option("--policy", metavar="|".join(POLICIES), help="What the fast tier keeps."),
]
CapacityOption = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES", help="Fast memory for weights, staging included; what is left if not given."
    ),
]
GranularityOption = Annotated[
    str, typer.Option(metavar="|".join(GRANULARITIES), help="What is kept, evicted and fetched as a whole.")
]
TileOption = Annotated[str, typer.Option("--tile", metavar="BYTES", help="The largest tile.")]
DepthOption = Annotated[
    int | None, typer.Option(help="Staging slots; 1 is fetch on demand. The strategy's own if not given.")
]
WrapOption = Annotated[bool, typer.Option("--wrap/--no-wrap", help="Prefetch from one pass into the next.")]
InFlightOption = Annotated[int, typer.Option(help="Requests outstanding on a link.")]
DisciplineOption = Annotated[
    str, typer.Option("--link-sharing", metavar="|".join(DISCIPLINES), help="How transfers share a link.")
]
MinimumOption = Annotated[
    str, typer.Option("--minimum-transfer", metavar="BYTES", help="What a transfer costs at least.")
]
DecompressOption = Annotated[
    str | None, typer.Option(metavar="RATE", help="Rate of a decompression stage behind the links.")
]
DmaOption = Annotated[
    bool | None,
    typer.Option("--dma-shared/--dma-separate", help="Transfers take turns with compute; the machine's own."),
]
ThroughOption = Annotated[
    str, typer.Option(metavar="|".join(THROUGH), help="Streamed weights pass local memory or go past it.")
]
ProgramOption = Annotated[str, typer.Option("--program", metavar="BYTES", help="Instructions of a pass.")]
InstructionsOption = Annotated[
    str, typer.Option(metavar="|".join(INSTRUCTIONS), help="Loaded once, or streamed in every pass.")
]
PhaseOption = Annotated[list[str] | None, typer.Option("--phase", help="Only this phase; repeatable.")]
PhaseStrategyOption = Annotated[
    list[str] | None,
    typer.Option("--phase-strategy", metavar="PHASE=STRATEGY", help="Another one for a phase; repeatable."),
]
SpeculateOption = Annotated[int, typer.Option(help="Draft tokens that each decode pass checks.")]
AcceptOption = Annotated[float, typer.Option(help="Chance that a draft token is right.")]
DraftTimeOption = Annotated[str, typer.Option(metavar="TIME", help="Compute time of one draft token.")]
PassesOption = Annotated[
    int | None, typer.Option(help="Only the last so many passes of each phase; all of them if not given.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of the random policy.")]
WarmOption = Annotated[bool, typer.Option("--warm", help="Start with what is kept already in place.")]
WantOption = Annotated[float | None, typer.Option(help="tok/s for which to find the link rate.")]
TraceOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write a trace that Perfetto and chrome://tracing open.")
]


@asks("source_tokens", "average_decode", "runtime", "all_logits")
def simulate(
    called: typer.Context,
    asked: Asked,
    strategy: StrategyOption = "auto",
    policy: CachePolicyOption = None,
    capacity: CapacityOption = None,
    granularity: GranularityOption = "layer",
    tile: TileOption = "1MiB",
    prefetch_depth: DepthOption = None,
    wrap: WrapOption = True,
    reads_in_flight: InFlightOption = 1,
    link_sharing: DisciplineOption = "fifo",
    minimum_transfer: MinimumOption = "0B",
    decompress: DecompressOption = None,
    dma_shared: DmaOption = None,
    through: ThroughOption = "local",
    program: ProgramOption = "0B",
    instructions: InstructionsOption = "loaded",
    phase: PhaseOption = None,
    phase_strategy: PhaseStrategyOption = None,
    speculate: SpeculateOption = 0,
    accept: AcceptOption = 0.0,
    draft_time: DraftTimeOption = "0s",
    passes: PassesOption = None,
    seed: SeedOption = 0,
    warm: WarmOption = False,
    want: WantOption = None,
    trace: TraceOption = None,
    plot: PlotOption = None,
    figure: SimulateFigureOption = None,
    auto: AutoOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Execute the plan event by event in virtual time: what is fetched when, who waits for whom, how fast.

    Example: tierline simulate smolvlm2-256m --on nexys-video --weights mxfp8:block=8 --strategy layer-swap
    --phase decode --capacity 151MB --policy fifo
    """
    if auto:
        from tierline.search.options import known_options

        chosen = chosen_for(called, known_options())
        _check(want, plot, figure, None)
        _print(chosen.result, want, as_json=as_json, chosen=chosen)
        _write(chosen.result, trace, plot, figure)
        return
    asked_for = simulation_options(
        strategy=strategy,
        policy=policy,
        capacity=capacity,
        granularity=granularity,
        tile=tile,
        prefetch_depth=prefetch_depth,
        wrap=wrap,
        reads_in_flight=reads_in_flight,
        link_sharing=link_sharing,
        minimum_transfer=minimum_transfer,
        decompress=decompress,
        dma_shared=dma_shared,
        through=through,
        instructions=instructions,
        phase=phase,
        phase_strategy=phase_strategy,
        speculate=speculate,
        accept=accept,
        draft_time=draft_time,
        passes=passes,
        seed=seed,
        warm=warm,
    )
    parallel = asked.options["parallel"] is not None
    _check(want, plot, figure, asked_for if parallel else None)
    program_bytes = _program_bytes(program, instructions)
    named = asked.scenario()
    planned = plan_with(
        named.model, named.machine, named.workload, named.costing, program_bytes=program_bytes
    )
    if parallel:
        _simulate_devices(planned, asked_for, trace, as_json=as_json)
    else:
        _write(_shown(planned, asked_for, want, as_json=as_json), trace, plot, figure)


def _check(want: float | None, plot: Path | None, figure: str | None, parallel: Options | None) -> None:
    """Raise InputError for a rate or a figure that cannot be, and for what would do nothing.

    Where several devices are simulated (`parallel` are the options then), they follow their own plans.
    """
    if want is not None and not want > 0:
        raise InputError(f"--want {want}: want more than 0 tok/s")
    check_plot(plot, figure, SIMULATE_FIGURES)
    unused = parallel is not None and (parallel != Options(phases=parallel.phases) or want or plot)
    if unused:
        raise InputError(
            "--parallel: devices are simulated as they are planned; of the options of a simulation only "
            "--phase and --trace apply"
        )


def _simulate_devices(planned: "Plan", asked_for: Options, trace: Path | None, *, as_json: bool) -> None:
    from tierline.report.simulation_parallel import devices_json, print_devices
    from tierline.sim.devices import simulate_devices

    result = simulate_devices(planned, asked_for.phases)
    if trace is not None:
        process = f"{planned.model.name} on {planned.machine.name}"
        trace.write_text(json.dumps(chrome_trace(result.events, process)), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(devices_json(result), indent=2))
    else:
        print_devices(result)


def _shown(planned: "Plan", asked_for: Options, want: float | None, *, as_json: bool) -> "SimResult":
    """Simulate, print what happened and where it would change, and return it."""
    from tierline.sim.simulate import simulate as execute

    result = execute(planned, asked_for)
    _print(result, want, as_json=as_json)
    return result


def _print(result: "SimResult", want: float | None, *, as_json: bool, chosen: "Chosen | None" = None) -> None:
    from tierline.report.simulation import print_simulation, simulation_json
    from tierline.sim.break_even import break_even

    points = break_even(result, want)
    if as_json:
        searched = {"auto": auto_json(chosen)} if chosen else {}
        typer.echo(json.dumps({**simulation_json(result, points), **searched}, indent=2))
        return
    print_simulation(result, points)
    if chosen is not None:
        typer.echo(said(chosen))
        typer.echo(chosen.command)


def _program_bytes(program: str, instructions: str) -> int:
    found = parse_bytes(program)
    if instructions == "streamed" and not found:
        raise InputError("--instructions streamed does nothing without --program")
    return found


def _write(result: "SimResult", trace: Path | None, plot: Path | None, figure: str | None) -> None:
    if trace is not None:
        process = f"{result.plan.model.name} on {result.plan.machine.name}"
        trace.write_text(json.dumps(chrome_trace(result.events, process)), encoding="utf-8")
    _plot(result, plot, figure)


def _plot(result: "SimResult", path: Path | None, name: str | None) -> None:
    """Draw a figure of the simulation, where one is asked for."""
    if path is None:
        return
    from tierline.report.figures.residency import residency_chart
    from tierline.report.figures.speed import speed_by_link
    from tierline.report.figures.timeline import token_timeline

    figures: Figures = {
        "timeline": lambda: token_timeline(result),
        "residency": lambda: residency_chart(result),
        "link": lambda: speed_by_link(result),
    }
    plot_one(path, name, figures)
