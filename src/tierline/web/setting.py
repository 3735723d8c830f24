"""What the page may ask for, bounded: the schema of a setting, and the options of the verbs that it means."""

import re
import shlex
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tierline.cost.activations import ActivationPolicy
from tierline.errors import InputError
from tierline.machines.load import THIS, machine_names
from tierline.models.catalogue import catalogue_model
from tierline.models.description import Model
from tierline.scenario import Scenario, scenario
from tierline.sim.options import Options, PolicyName, Strategy, simulation_options
from tierline.web.uploads import UPLOAD, Uploads

MOST_TOKENS = 2**24
MOST_BATCH = 2**16
MOST_IMAGES = 2**10
MOST_STEPS = 2**12
MOST_SLOTS = 64
MOST_OVERRIDES = 64
MOST_KEPT = 16
SIMULATED_PASSES = 4  # a timeline shows the last of so many; the first ones fill the staging slots
_FORMAT = r"^[a-z0-9_]{1,24}(:[a-z0-9_=,\-]{1,60})?$"
_QUANTITY = r"^[0-9]{1,18}(\.[0-9]{1,9})?\s?[A-Za-z]{1,4}$"
_MODEL = rf"^([a-z0-9][a-z0-9.\-]{{0,79}}|{UPLOAD})$"
_MACHINE = r"^[a-z0-9][a-z0-9.\-]{0,79}(\+[a-z0-9][a-z0-9.\-]{0,79})?$"
_OVERRIDE = r"^[a-z0-9_.\-]{1,80}=[^\s=][^=\n]{0,39}$"
_KEEP = r"^[A-Za-z0-9_.\-]{1,64}=[a-z0-9_:=,\-]{1,90}$"
_NAME = re.compile(r"[a-z0-9][a-z0-9.\-]{0,79}")
# What each pattern asks for, in words.
WANTED: Mapping[str, str] = MappingProxyType(
    {
        _FORMAT: "a format in small letters, such as int8:group=128, mxfp4 or q4_k_m",
        _QUANTITY: "a size with its unit, such as 48GiB or 200MiB",
        _MODEL: "a model of the catalogue, such as smolvlm2-256m, or a dropped file's upload:...",
        _MACHINE: "a machine of the catalogue, such as rtx-4090, or a card in one, rtx-3090+desktop-ddr5",
        _OVERRIDE: "PATH=VALUE in at most 40 characters, such as ddr3.sustained=1.3GB/s",
        _KEEP: "CLASS=FORMAT with the format in small letters, such as norms=fp32",
    }
)

FormatName = Annotated[str, Field(pattern=_FORMAT, max_length=90)]
Tokens = Annotated[int, Field(ge=0, le=MOST_TOKENS)]


class Setting(BaseModel):
    """One setting of the page's controls; what is left out is as the command line has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(pattern=_MODEL)]
    machine: Annotated[str, Field(pattern=_MACHINE)]
    overrides: Annotated[
        tuple[Annotated[str, Field(pattern=_OVERRIDE)], ...],
        Field(max_length=MOST_OVERRIDES),
    ] = ()
    weights: FormatName | None = None
    kv: FormatName = "bf16"
    activations: FormatName = "bf16"
    activation_policy: ActivationPolicy = "fused"
    keep: Annotated[
        tuple[Annotated[str, Field(pattern=_KEEP)], ...],
        Field(max_length=MOST_KEPT),
    ] = ()
    batch: Annotated[int, Field(ge=1, le=MOST_BATCH)] = 1
    prompt_tokens: Tokens | None = None
    new: Tokens | None = None
    context: Tokens | None = None
    images: Annotated[int, Field(ge=0, le=MOST_IMAGES)] | None = None
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    strategy: Strategy = "auto"
    policy: PolicyName | None = None
    prefetch_depth: Annotated[int, Field(ge=1, le=MOST_SLOTS)] | None = None
    capacity: Annotated[str, Field(pattern=_QUANTITY)] | None = None


def scenario_of(setting: Setting, uploads: Uploads) -> Scenario:
    """Return what `setting` names; raise InputError for what is unknown or inconsistent.

    A model is of the catalogue or was uploaded, a machine of the catalogue or this computer: never a path.
    """
    check_machine(setting.machine)
    return scenario(
        model_of(setting.model, uploads),
        setting.machine,
        overrides=setting.overrides,
        weights=setting.weights,
        kv=setting.kv,
        activations=setting.activations,
        activation_policy=setting.activation_policy,
        keep=setting.keep,
        batch=setting.batch,
        prompt_tokens=setting.prompt_tokens,
        new=setting.new,
        context=setting.context,
        images=setting.images,
        steps=setting.steps,
    )


def model_of(name: str, uploads: Uploads) -> Model:
    """Return the model of the catalogue or of the uploads that is called `name`."""
    if re.fullmatch(UPLOAD, name):
        return uploads.model(name)
    return catalogue_model(name)


def check_machine(name: str) -> None:
    """Raise InputError where `name` is no machine of the catalogue, a card in one, or this computer."""
    known = {*machine_names(), THIS}
    for part in name.split("+"):
        if part not in known or not _NAME.fullmatch(part):
            raise InputError(f"no machine is called {part[:80]!r} in the catalogue")


def options_of(setting: Setting, phase: str) -> Options:
    """Return how the plan of `setting` is to be simulated: the last passes of `phase`."""
    return simulation_options(
        strategy=setting.strategy,
        policy=setting.policy,
        prefetch_depth=setting.prefetch_depth,
        capacity=setting.capacity,
        phase=(phase,),
        passes=SIMULATED_PASSES,
    )


def plan_command(setting: Setting, model: str) -> str:
    """Return the command line that plans the same; `model` is what to write for the model."""
    return shlex.join(["tierline", "plan", model, *_shared(setting)])


def report_command(setting: Setting, model: str) -> str:
    """Return the command line that writes the report of the same plan."""
    on, machine, *others = _shared(setting)
    return shlex.join(["tierline", "report", model, on, machine, *others, "-o", "report.html"])


def simulate_command(setting: Setting, model: str, phase: str) -> str:
    """Return the command line that simulates the same."""
    chosen = {
        "strategy": setting.strategy if setting.strategy != "auto" else None,
        "policy": setting.policy,
        "prefetch-depth": setting.prefetch_depth,
        "capacity": setting.capacity,
        "phase": phase,
        "passes": SIMULATED_PASSES,
    }
    own = [word for name, value in chosen.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["tierline", "simulate", model, *_shared(setting), *own])


def _shared(setting: Setting) -> Iterator[str]:
    """Yield the options that the verbs share, in their order, those at their defaults left out."""
    defaults = {name: field.default for name, field in Setting.model_fields.items()}
    yield from ("--on", setting.machine)
    for override in setting.overrides:
        yield from ("--set", override)
    for name in ("weights", "kv", "activations", "activation_policy"):
        yield from _written(name, getattr(setting, name), defaults[name])
    for kept in setting.keep:
        yield from ("--keep", kept)
    for name in ("batch", "prompt_tokens", "new", "context", "images", "steps"):
        yield from _written(name, getattr(setting, name), defaults[name])


def _written(name: str, value: object, default: object) -> Iterator[str]:
    if value != default:
        yield from (f"--{name.replace('_', '-')}", str(value))
