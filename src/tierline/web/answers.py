"""The questions of the page, answered with the functions of the command line."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tierline.cost.activations import ACTIVATION_POLICIES
from tierline.errors import TierlineError
from tierline.formats.mix import MIXES
from tierline.formats.parse import format_names, parse_format
from tierline.machines.document import numbers
from tierline.machines.load import THIS, load_draft, load_machine, machine_names
from tierline.models.catalogue import catalogue_entry, catalogue_names
from tierline.models.description import Model
from tierline.plan.build import plan_with, selectors
from tierline.plan.plan import Plan
from tierline.plan.remedies import remedies
from tierline.plan.sensitivity import DEFAULT_FORMATS
from tierline.plan.sensitivity import sensitivity as find_sensitivity
from tierline.report.figures.interactive import plotly_figure
from tierline.report.figures.memory import memory_map
from tierline.report.figures.roofline import roofline_chart
from tierline.report.figures.timeline import token_timeline
from tierline.report.roofline import build_roofline
from tierline.report.schema import plan_json
from tierline.report.simulation import headline, simulation_json
from tierline.report.sources import number_text
from tierline.report.tables import shown, verdict
from tierline.sim.break_even import break_even
from tierline.sim.options import POLICIES, STRATEGIES
from tierline.sim.simulate import simulate
from tierline.units import format_count, format_seconds
from tierline.web import setting as bounds
from tierline.web.facts import facts
from tierline.web.setting import (
    Setting,
    check_machine,
    model_of,
    options_of,
    plan_command,
    report_command,
    scenario_of,
    simulate_command,
)
from tierline.web.uploads import Uploads

Json = dict[str, Any]
# What a link type or a unit is set by: bare numbers, but for the rate of a line.
_BARE = ("gen", "gbit", "lanes", "efficiency", "ops_per_cycle")


@dataclass(frozen=True, slots=True)
class Answered:
    """A body and its content type."""

    content_type: str
    body: bytes

    @classmethod
    def json(cls, document: Json) -> "Answered":
        """Return `document` as JSON."""
        return cls("application/json", json.dumps(document, allow_nan=False).encode())


def _choices(_question: Json, _content: bytes, _uploads: Uploads) -> Answered:
    """What each control offers."""
    entries = [catalogue_entry(name) for name in catalogue_names()]
    machines = [(name, _title(name)) for name in machine_names()]
    return Answered.json(
        {
            "models": [{"name": e.name, "title": e.title} for e in entries],
            "machines": [
                *({"name": n, "title": t} for n, t in machines),
                {"name": THIS, "title": "This computer"},
            ],
            "formats": list(format_names()),
            "mixes": list(MIXES),
            "strategies": list(STRATEGIES),
            "policies": list(POLICIES),
            "activation_policies": list(ACTIVATION_POLICIES),
            "most": {
                "tokens": bounds.MOST_TOKENS,
                "batch": bounds.MOST_BATCH,
                "images": bounds.MOST_IMAGES,
                "steps": bounds.MOST_STEPS,
                "slots": bounds.MOST_SLOTS,
            },
        }
    )


@lru_cache
def _title(machine: str) -> str:
    return load_machine(machine).title


def _model(question: Json, _content: bytes, uploads: Uploads) -> Answered:
    """What the controls need to know of a model."""
    return Answered.json(_about(model_of(question["name"], uploads), question["name"]))


def _about(model: Model, name: str) -> Json:
    phases = {phase.name for phase in model.phases}
    return {
        "model": name,
        "name": shown(model.name),
        "source": shown(model.source),
        "parameters": model.parameters,
        "parameters_text": format_count(model.parameters),
        "max_context": model.max_context,
        "selectors": sorted(selectors(model)),
        "sees": model.image_tokens > 0 or "vision" in phases,
        "steps": model.default_steps or None,
        "unknown": [shown(what) for what in model.unknown],
    }


def _machine(question: Json, _content: bytes, _uploads: Uploads) -> Answered:
    """The numbers of a machine that can be set, with what they are and where from."""
    name = question["name"]
    check_machine(name)
    draft = load_draft(name)
    known = {**dict(numbers(load_machine(name))), **draft.numbers}
    return Answered.json(
        {
            "name": name,
            "numbers": [
                {
                    "path": path,
                    "text": None if path not in known else _quantity(path, known[path].value),
                    "kind": known[path].kind if path in known else None,
                    "source": shown(known[path].source) if path in known else None,
                }
                for path in draft.listed_paths()
            ],
        }
    )


def _quantity(path: str, value: float) -> str:
    """Return a number of a machine for people to read."""
    field = path.rpartition(".")[2]
    if field == "line_rate":
        return f"{format_count(value)}T/s"
    return f"{value:,.6g}" if field in _BARE else number_text(path, value)


def _upload(question: Json, content: bytes, uploads: Uploads) -> Answered:
    """Describe a header that was dropped."""
    split = question["config_bytes"]
    config = content[:split].decode("utf-8", "replace") if split else None
    name = uploads.add(question["name"], content[split:], question["file_bytes"], config)
    return Answered.json(_about(uploads.model(name), name))


def _planned(question: Json, uploads: Uploads) -> tuple[Setting, Plan]:
    asked = Setting.model_validate(question["setting"])
    meant = scenario_of(asked, uploads)
    return asked, plan_with(meant.model, meant.machine, meant.workload, meant.costing)


def _plan(question: Json, _content: bytes, uploads: Uploads) -> Answered:
    """The plan, its verdict and memory map: what one looks at first."""
    asked, plan = _planned(question, uploads)
    document = plan_json(plan, advised=False)
    return Answered.json(
        {
            "verdict": shown(f"{plan.model.name} on {plan.machine.name}: {verdict(plan)}"),
            "strategy": plan.strategy,
            "facts": facts(document),
            "notes": [shown(note) for note in document["notes"]],
            "command": plan_command(asked, _written(plan.model, asked.model)),
            "memory": plotly_figure(memory_map(plan)),
        }
    )


def _bounds(question: Json, _content: bytes, uploads: Uploads) -> Answered:
    """What bounds the plan, and what would change that."""
    _, plan = _planned(question, uploads)
    lines = [shown(line) for line in remedies(plan)]
    return Answered.json({"fits": plan.fits, "remedies": lines, "roofline": _roofline(plan)})


def _roofline(plan: Plan) -> Json:
    """Return the roofline with what its numbers stand for, or why there is none."""
    try:
        built = build_roofline(plan.model, plan.machine, plan.workload, [plan.costing])
        chart = roofline_chart(built)
    except TierlineError as error:
        return {"message": str(error)}
    return {
        **plotly_figure(chart),
        "key": [shown(entry.text) for entry in chart.key if entry.text[:1].isdigit()],
    }


def _timeline(question: Json, _content: bytes, uploads: Uploads) -> Answered:
    """The last token in virtual time, at its own context."""
    asked, plan = _planned(question, uploads)
    main = plan.main_phase
    if main is None:
        return Answered.json({"message": f"{shown(plan.model.name)}: its passes are not known"})
    result = simulate(plan, options_of(asked, main.name))
    document = simulation_json(result, break_even(result, None))
    del document["notes"], document["phases"]
    return Answered.json(
        {
            "headline": shown(headline(result)),
            "simulation": document,
            "facts": list(_simulated_facts(document)),
            "command": simulate_command(asked, _written(plan.model, asked.model), main.name),
            "timeline": plotly_figure(token_timeline(result)),
        }
    )


def _report(question: Json, _content: bytes, uploads: Uploads) -> Answered:
    """The report of the plan, as `tierline report` writes it."""
    from tierline.report.html import report_html

    asked, plan = _planned(question, uploads)
    kept = find_sensitivity(plan, [parse_format(name) for name in DEFAULT_FORMATS])
    command = report_command(asked, _written(plan.model, asked.model))
    return Answered("text/html", report_html(plan, command, kept).encode())


def _simulated_facts(document: Json) -> Iterator[Json]:
    """Yield the figures of a simulation as `facts` gives those of a plan."""
    rate, stall, overlap = (
        document[k] for k in ("tokens_per_s_steady", "stall_s_per_pass", "overlap_fraction")
    )
    rows = [
        ("strategy", "simulated as", document["strategy"], document["strategy"]),
        ("tokens_per_s_steady", "simulated speed", rate, "none" if rate is None else f"{rate:,.3g} tok/s"),
        ("stall_s_per_pass", "waits per pass", stall, format_seconds(stall)),
        ("overlap_fraction", "overlap", overlap, "none" if overlap is None else f"{overlap:.0%}"),
        ("reloads", "reloads", document["reloads"], f"{document['reloads']:,}"),
    ]
    for key, label, value, text in rows:
        yield {"key": f"simulation.{key}", "label": label, "value": value, "text": text}


def _written(model: Model, name: str) -> str:
    """Return what to write on the command line for a model: a dropped one is a file of that name."""
    return f"./{model.source.split(',')[0]}" if name.startswith("upload:") else name


ANSWERS: Mapping[str, Callable[[Json, bytes, Uploads], Answered]] = {
    "choices": _choices,
    "model": _model,
    "machine": _machine,
    "upload": _upload,
    "plan": _plan,
    "bounds": _bounds,
    "timeline": _timeline,
    "report": _report,
}
