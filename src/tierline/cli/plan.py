"""`tierline plan`: does it fit, where does every byte live, how fast can it go, and what to change."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tierline.cli import options
from tierline.cli.asking import Asked, asks
from tierline.cli.auto import AutoOption, auto_json, chosen_for, said
from tierline.cli.figures import PLAN_FIGURES, Figures, PlanFigureOption, PlotOption, check_plot, plot_one
from tierline.cost.training import Training
from tierline.errors import InputError
from tierline.formats.parse import parse_format
from tierline.plan.build import plan_with
from tierline.plan.guesses import Guesses, weigh_guesses
from tierline.plan.residency import PREFETCH_DEPTH
from tierline.plan.sensitivity import DEFAULT_FORMATS
from tierline.plan.sensitivity import sensitivity as find_sensitivity
from tierline.scenario import Scenario

if TYPE_CHECKING:
    from tierline.plan.plan import Plan
    from tierline.search.auto import Chosen

SensitivityOption = Annotated[
    bool, typer.Option("--sensitivity", help="What keeping each class and component in another format costs.")
]
SensitivityFormatsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sensitivity-format", metavar="FMT", help="A format to try; repeatable; several if not given."
    ),
]
SpeculateOption = Annotated[
    int | None,
    typer.Option(help="What guessing this many tokens a pass takes, and when it pays.", min=1, max=1024),
]
DraftOption = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Who guesses, as it is stored; without it, the text itself."),
]


def _training(
    text: str | None, checkpointing: str | None, new: int | None, *, sensitivity: bool
) -> Training | None:
    """Return how to train, None where inference is asked for; refuse options that would do nothing."""
    if text is None:
        if checkpointing is not None:
            raise InputError(f"--checkpointing {checkpointing}: goes with --training")
        return None
    if new is not None:
        raise InputError(f"--new {new}: a training step generates nothing; its tokens are --prompt-tokens")
    if sensitivity:
        raise InputError("--sensitivity: is of inference; leave it out, or --training")
    return Training.of(text, checkpointing or "none")


def _plot(planned: "Plan", path: Path | None, name: str | None) -> None:
    """Draw a figure of the plan, where one is asked for."""
    if path is None:
        return
    from tierline.report.figures.footprint import footprint_by_context, footprint_by_format
    from tierline.report.figures.memory import memory_map
    from tierline.report.figures.speed import speed_by_link, speed_by_memory
    from tierline.report.figures.traffic import traffic_per_pass
    from tierline.sim.simulate import simulate

    figures: Figures = {
        "memory": lambda: memory_map(planned),
        "formats": lambda: footprint_by_format(planned),
        "context": lambda: footprint_by_context(planned),
        "traffic": lambda: traffic_per_pass(planned),
        "budget": lambda: speed_by_memory(planned),
        "link": lambda: speed_by_link(simulate(planned)),
    }
    plot_one(path, name, figures)


def _guesses(planned: "Plan", tokens: int | None, draft: str | None, asked: Asked) -> Guesses | None:
    """Return what guessing takes, where it is asked for; the draft runs on the same machine and context."""
    if tokens is None:
        if draft is not None:
            raise InputError(f"--draft {draft}: goes with --speculate N, the tokens that it guesses a pass")
        return None
    guesser = None
    if draft is not None:
        work = planned.workload
        shared = {name: asked.options[name] for name in ("on", "overrides")}
        drafting = Asked({"model": draft, **shared, "prompt_tokens": work.prompt_tokens, "new": work.new})
        named = drafting.scenario()
        guesser = plan_with(named.model, named.machine, named.workload, named.costing)
    return weigh_guesses(planned, tokens, guesser)


def _chosen(called: typer.Context, how: Training | None) -> "Chosen":
    """Return what a search chooses, by simulations; raise InputError where none is of this."""
    if how is not None:
        raise InputError("--auto: searches inference; leave it out, or --training")
    from tierline.search.options import scenario_options

    return chosen_for(called, scenario_options())


def _plan_training(asked: Scenario, how: Training, *, as_json: bool) -> None:
    """Plan a training step and print it."""
    if asked.costing.split is not None:
        _plan_training_parallel(asked, how, as_json=as_json)
        return
    from tierline.plan.training import plan_training

    planned = plan_training(asked.model, asked.machine, asked.workload, asked.costing, how)
    if as_json:
        from tierline.report.schema_training import training_json

        typer.echo(json.dumps(training_json(planned), indent=2))
        return
    from tierline.report.tables_training import print_training

    print_training(planned)


def _plan_training_parallel(asked: Scenario, how: Training, *, as_json: bool) -> None:
    """Plan a training step over several devices and print it."""
    from tierline.plan.training_parallel import plan_training_parallel

    planned = plan_training_parallel(asked.model, asked.machine, asked.workload, asked.costing, how)
    if as_json:
        from tierline.report.schema_parallel import training_parallel_json

        typer.echo(json.dumps(training_parallel_json(planned), indent=2))
        return
    from tierline.report.tables_parallel import print_training_parallel

    print_training_parallel(planned)


@asks()
def plan(
    called: typer.Context,
    asked: Asked,
    training: options.TrainingOption = None,
    checkpointing: options.CheckpointingOption = None,
    sensitivity: SensitivityOption = False,
    sensitivity_formats: SensitivityFormatsOption = None,
    speculate: SpeculateOption = None,
    draft: DraftOption = None,
    plot: PlotOption = None,
    figure: PlanFigureOption = None,
    auto: AutoOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Does it fit, where does every byte live, how many bytes cross each link, how fast, what to change.

    Example: tierline plan smolvlm2-256m --on nexys-video --weights mxfp8:block=8 --context 1024
    """
    how = _training(training, checkpointing, asked.options["new"], sensitivity=sensitivity)
    check_plot(plot, figure, PLAN_FIGURES)
    if how and plot is not None:
        raise InputError(f"--plot {plot}: figures are of inference; leave it out, or --training")
    chosen = _chosen(called, how) if auto else None
    changes: dict[str, object] = {"new": 0} if how else {}
    if chosen is not None:
        changes = {"batch": chosen.batch, "prefill_chunk": chosen.prefill_chunk}
    named = asked.scenario(**changes)
    if how:
        _plan_training(named, how, as_json=as_json)
        return
    formats = [parse_format(name) for name in sensitivity_formats or DEFAULT_FORMATS]
    depth = chosen.prefetch_depth if chosen else PREFETCH_DEPTH
    planned = plan_with(named.model, named.machine, named.workload, named.costing, prefetch_depth=depth)
    kept = find_sensitivity(planned, formats) if sensitivity else ()
    guesses = _guesses(planned, speculate, draft, asked)
    _plot(planned, plot, figure)
    if as_json:
        from tierline.report.schema import guesses_json, plan_json, sensitivity_json

        document = plan_json(planned)
        if sensitivity:
            document["sensitivity"] = sensitivity_json(kept)
        if guesses is not None:
            document["guesses"] = guesses_json(guesses)
        document |= {"auto": auto_json(chosen)} if chosen else {}
        typer.echo(json.dumps(document, indent=2))
        return
    from tierline.report.tables import print_guesses, print_plan, print_sensitivity

    print_plan(planned)
    if chosen is not None:
        typer.echo(said(chosen))
    if guesses is not None:
        print_guesses(guesses)
    if sensitivity:
        print_sensitivity(kept)
