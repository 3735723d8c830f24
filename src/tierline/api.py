"""The public functions of `tierline`; each imports what it needs when it is called."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tierline.machines.machine import Machine
    from tierline.models.description import Model
    from tierline.plan.plan import Plan
    from tierline.sim.simulate import SimResult


def model(source: str | Path) -> "Model":
    """Return the model that `source` names, as data: no weights are read.

    `source` is a catalogue name, a config.json, a model directory or file, or a hub id. Raises InputError
    where it names none, or a file is damaged.
    """
    from tierline.probe.open import open_any_model

    return open_any_model(str(source))


def machine(source: str | Path = "this", overrides: Mapping[str, str | int] | None = None) -> "Machine":
    """Return the machine that `source` names: a catalogue name, a TOML file, or `this` computer.

    `overrides` replaces numbers of it, as in `{"host.capacity": "48GiB", "pcie.gen": 3}`. Raises InputError
    for what is unknown.
    """
    from tierline.machines.load import load_machine

    return load_machine(str(source), [f"{path}={value}" for path, value in (overrides or {}).items()])


def plan(
    model: "Model | str | Path",
    machine: "Machine | str | Path" = "this",
    *,
    weights: str | None = None,
    kv: str = "bf16",
    activations: str = "bf16",
    keep: Mapping[str, str] | None = None,
    batch: int = 1,
    prompt_tokens: int | None = None,
    new: int | None = None,
    context: int | None = None,
    images: int | None = None,
    steps: int | None = None,
    parallel: str | None = None,
) -> "Plan":
    """Return where every byte of `model` lives on `machine`, what crosses each link, how fast it is at best.

    Formats are those of the command line (`weights` None: as stored); `keep` holds other formats for classes
    or components, as in `{"norms": "bf16"}`. Of `prompt_tokens`, `new` and `context`, their sum, two are
    enough. `images` and `steps` are the model's own where not given. `parallel` splits the model over the
    machine's devices, as in "tp=4,pp=2" or "auto". Raises InputError for what is unknown or inconsistent.
    """
    from tierline.cost.costing import Costing
    from tierline.cost.split import Split
    from tierline.formats.precision import Precision
    from tierline.models.defaults import with_defaults
    from tierline.models.workload import Workload
    from tierline.plan.build import plan_with

    kept = [f"{name}={fmt}" for name, fmt in (keep or {}).items()]
    precision = Precision.of(weights=weights, kv=kv, activations=activations, keep=kept)
    counts = {"images": images or 0, "steps": steps or 0}
    asked = Workload.of(batch=batch, prompt_tokens=prompt_tokens, new=new, context=context, **counts)
    described = _opened_model(model)
    workload = with_defaults(asked, described, images=images, steps=steps, source_tokens=None)
    costing = Costing(precision, split=None if parallel is None else Split.parse(parallel))
    return plan_with(described, _opened_machine(machine), workload, costing)


def simulate(plan: "Plan", **options: Any) -> "SimResult":  # noqa: ANN401 - the fields of sim.options.Options
    """Return what happens when `plan` is executed in virtual time.

    `options` are the fields of `tierline.sim.options.Options`, such as `strategy="layer-swap"`,
    `policy="fifo"`, `capacity_bytes=151_000_000`, `phases=("decode",)`. Raises InputError for
    unknown ones and BudgetError at the token at which a capacity is exceeded.
    """
    from dataclasses import fields

    from tierline.errors import InputError
    from tierline.sim.options import Options
    from tierline.sim.simulate import simulate as execute

    known = [f.name for f in fields(Options)]
    for name in options:
        if name not in known:
            raise InputError(f"simulate has no option {name[:40]!r}; it takes {', '.join(known)}")
    return execute(plan, Options(**options))


def _opened_model(source: "Model | str | Path") -> "Model":
    return model(source) if isinstance(source, str | Path) else source


def _opened_machine(source: "Machine | str | Path") -> "Machine":
    return machine(source) if isinstance(source, str | Path) else source
