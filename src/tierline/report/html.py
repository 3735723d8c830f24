"""A plan as one HTML file that needs nothing else: verdict, figures, tables, derivation, sources, command."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tierline.errors import InputError, TierlineError
from tierline.machines.document import numbers
from tierline.machines.machine import Machine
from tierline.plan.plan import Plan
from tierline.plan.remedies import remedies, speed, speed_unit
from tierline.plan.sensitivity import Kept
from tierline.report.derivation import derive
from tierline.report.derivation_markdown import derivation_markdown
from tierline.report.figures.figure import Chart, Figure, KeyEntry, Marker
from tierline.report.figures.footprint import footprint_by_context, footprint_by_format
from tierline.report.figures.interactive import plotly_figure
from tierline.report.figures.memory import memory_map
from tierline.report.figures.roofline import roofline_chart
from tierline.report.figures.speed import speed_by_link, speed_by_memory
from tierline.report.figures.timeline import token_timeline
from tierline.report.figures.traffic import traffic_per_pass
from tierline.report.plotly_script import plotly_script
from tierline.report.roofline import build_roofline
from tierline.report.rows import Rows, figure, footprint_rows, phase_rows, sensitivity_rows, used_tiers
from tierline.report.simulation import headline
from tierline.report.sources import machine_references, number_text
from tierline.report.tables import asked, shown, verdict
from tierline.sim.options import Options
from tierline.sim.simulate import SimResult, simulate
from tierline.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from markupsafe import Markup

_SIMULATED_PASSES = 4  # the last of them is drawn; the ones before fill the staging slots
_TITLE_TOKENS = 3  # a heading is its beginning, its text and its end
_PHASES_DRAWN = ("vision", "prefill", "decode", "denoise")


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure that people look for first, with what it means."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure as the page draws it; `problem` says why there is none."""

    title: str = ""
    json: Any = None
    height: int = 0
    key: tuple[str, ...] = ()
    problem: str = ""


def check_report() -> None:
    """Raise InputError where what makes reports is not installed."""
    from importlib.util import find_spec

    missing = [name for name in ("jinja2", "markdown_it", "plotly") if find_spec(name) is None]
    if missing:
        raise InputError(f"a report needs {', '.join(missing)}: pip install 'tierline[report]'")


def report_html(plan: Plan, command: str, kept: Sequence[Kept] = ()) -> str:
    """Return the report of `plan` as one HTML document, with plotly's script in it; nothing is loaded.

    `command` makes it again; `kept` is what other formats would cost (none: the table is left out). What
    cannot be drawn, such as a timeline without a known rate, is replaced by its reason. Every name is
    escaped. Raises InputError as `check_report` does.
    """
    check_report()
    made: str = _environment().get_template("report.html.j2").render(_content(plan, command, kept))
    return made


def _environment() -> Any:  # noqa: ANN401 - jinja2 is imported only here
    """Return the templates, which escape all that is put into them, unprintable characters first."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def printable(value: object) -> object:
        return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(
        loader=PackageLoader("tierline.report", "assets"),
        autoescape=True,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def _content(plan: Plan, command: str, kept: Sequence[Kept]) -> dict[str, object]:
    result = _simulated(plan)
    return {
        "version": version("tierline"),
        "title": f"{plan.model.name} on {plan.machine.title or plan.machine.name}",
        "scenario": asked(plan),
        "strategy": plan.strategy if not plan.fits else "resident",
        "verdict": _sentence(verdict(plan)),
        "remedies": remedies(plan),
        "remedies_title": "To go faster:" if plan.fits else "What to change:",
        "facts": _facts(plan),
        "has_phases": bool(plan.phases),
        "figures": _figures(plan, result),
        "simulated": headline(result) if isinstance(result, SimResult) else "",
        "tables": _tables(plan, kept),
        "derivation": _derivation(plan),
        "references": machine_references(plan.machine),
        "notes": plan.notes,
        "command": command,
        "css": _asset("report.css"),
        "plotly": _markup(plotly_script().decode()),
        "figures_js": _asset("figures.js"),
        "report_js": _asset("report.js"),
    }


def _simulated(plan: Plan) -> SimResult | str:
    """Return the last passes of the main phase in virtual time, or why they cannot be simulated."""
    if plan.main_phase is None:
        return "No phase is known, so that nothing can be simulated."
    try:
        return simulate(plan, Options(phases=(plan.main_phase.name,), passes=_SIMULATED_PASSES))
    except TierlineError as error:
        return str(error)


def _facts(plan: Plan) -> list[Fact]:
    """Return the figures that come first; `at most` where a rate is not known."""
    main, fast = plan.main_phase, plan.tiers[0]
    allows = f"{fast.name} allows {format_bytes(fast.allowed_bytes)}"
    if plan.short_bytes:
        allows += f": short by {format_bytes(plan.short_bytes)}"
    facts = [Fact("memory needed", format_bytes(plan.footprint.total_bytes), allows)]
    found = speed(plan)
    if main is not None and found:
        note = f"{main.rate_kind} rate" + (", compute left out: at most" if main.compute_s is None else "")
        facts.append(Fact(f"{main.name} speed", f"{figure(found)} {speed_unit(plan)}", note))
    if main is not None and main.bound is not None:
        facts.append(Fact("bound by", main.bound, f"in {main.name}"))
    if plan.time_to_first_token_s is not None:
        facts.append(Fact("time to first token", format_seconds(plan.time_to_first_token_s)))
    if plan.actions_per_s is not None:
        facts.append(Fact("actions", f"{figure(plan.actions_per_s)} per second"))
    if main is not None:
        each = format_bytes(main.weight_read_bytes_per_pass)
        facts.append(Fact("weights read per pass", each, f"{main.weight_read_bytes_per_pass:,} B"))
    return facts


def _figures(plan: Plan, result: SimResult | str) -> dict[str, object]:
    def of_result(make: Callable[[SimResult], Figure]) -> Drawn:
        return Drawn(problem=result) if isinstance(result, str) else _drawn(lambda: make(result))

    return {
        "memory": _drawn(lambda: memory_map(plan)),
        "formats": _drawn(lambda: footprint_by_format(plan)),
        "context": _drawn(lambda: footprint_by_context(plan)),
        "traffic": _drawn(lambda: traffic_per_pass(plan)),
        "rooflines": [_drawn(_roofline(plan, name)) for name in _PHASES_DRAWN if plan.phase(name)],
        "timeline": of_result(token_timeline),
        "budget": _drawn(lambda: speed_by_memory(plan)),
        "link": of_result(speed_by_link),
    }


def _roofline(plan: Plan, phase: str) -> Callable[[], Figure]:
    return lambda: roofline_chart(
        build_roofline(plan.model, plan.machine, plan.workload, [plan.costing], (phase,))
    )


def _drawn(make: Callable[[], Figure]) -> Drawn:
    """Return a figure ready to be drawn, or the reason why there is none."""
    try:
        made = make()
    except TierlineError as error:
        return Drawn(problem=str(error))
    drawn = plotly_figure(made)
    key = tuple(f"{_sign(e)} {e.text}" for e in made.key) if isinstance(made, Chart) else ()
    return Drawn(made.title, _embedded(drawn), drawn["layout"]["height"], key)


def _sign(entry: KeyEntry) -> str:
    """Return the marker of a line of the key as a character."""
    signs: dict[Marker, str] = {
        "circle": "●○",
        "square": "■□",
        "diamond": "◆◇",
        "triangle-up": "▲△",
        "triangle-down": "▼▽",
        "cross": "✚✛",
    }
    return signs[entry.marker][0 if entry.filled else 1]


def _embedded(document: Mapping[str, object]) -> "Markup":
    """Return JSON that may stand in a script element: nothing in it ends one or begins a comment."""
    text = json.dumps(document, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return _markup(text)


def _tables(plan: Plan, kept: Sequence[Kept]) -> dict[str, Rows]:
    tiers = tuple(
        (
            t.name,
            format_bytes(t.used_bytes),
            f"{t.used_bytes:,}",
            format_bytes(t.allowed_bytes),
            f"{share:.0%}",
        )
        for t, share in used_tiers(plan.tiers)
    )
    return {
        "footprint": footprint_rows(plan),
        "tiers": Rows(("tier", "used", "bytes", "allowed", "share"), tiers),
        "phases": phase_rows(plan.phases),
        "links": _links(plan),
        "sensitivity": sensitivity_rows(kept),
        "numbers": _numbers(plan.machine),
    }


def _links(plan: Plan) -> Rows:
    """Return what crosses each link in all passes of each phase."""
    rows = tuple(
        (
            phase.name,
            use.name,
            f"{use.traffic_bytes:,}",
            format_bytes(use.traffic_bytes),
            "-" if use.time_s is None else format_seconds(use.time_s),
            f"{format_rate(use.traffic_bytes / use.time_s)} {use.rate_kind}" if use.time_s else "-",
        )
        for phase in plan.phases
        for use in phase.links
    )
    return Rows(("all passes of", "link", "bytes", "", "time", "at"), rows, words=2)


def _numbers(machine: Machine) -> Rows:
    rows = tuple(
        (path, number_text(path, number.value), number.kind, number.source)
        for path, number in numbers(machine)
    )
    return Rows(("number", "value", "kind", "source"), rows, words=4)


def _derivation(plan: Plan) -> "Markup":
    """Return the derivation as HTML below the report's own headings; HTML in names stays text."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(derivation_markdown(derive(plan)))[_TITLE_TOKENS:]
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + 1)}"
    return _markup(reader.renderer.render(tokens, reader.options, {}))


def _asset(name: str) -> "Markup":
    return _markup((resources.files("tierline.report") / "assets" / name).read_text(encoding="utf-8"))


def _markup(text: str) -> "Markup":
    """Return text that is HTML already: our own files, plotly's script, and what was escaped before."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - see above


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
