"""A derivation as Markdown: assumptions, symbols, every formula with its numbers, totals; megabytes only."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

from tierline.machines.machine import Rate
from tierline.plan.build import compute_rate
from tierline.plan.plan import PhasePlan, Plan
from tierline.report.derivation import ComponentPass, Derivation, Factor, PhaseDerivation, Term
from tierline.report.schema import weights_name
from tierline.report.tables import shown

_MB = 10**6
TIMES = "\N{MULTIPLICATION SIGN}"
_SYMBOLS = (
    ("L", "layers alike"),
    ("m", "tensors, operations or ends of a layer alike"),
    ("n", "rows of an operation over the whole batch"),
    ("d, d'", "widths of a matrix or of rows; c h w those of a convolution's kernel"),
    ("c", "tokens whose keys and values are touched, over the whole batch where bytes are counted"),
    ("w", "elements that one token adds to a layer's cache, keys and values together"),
    ("h", "heads; d + d' are then the widths of a key and a value"),
    ("k, E, e", "experts that a row visits, experts there are, elements of one expert's matrices"),
    ("b", "bytes per element, scales and padding included"),
    ("W", "bytes of a table, or of all experts of a layer; W(n) of those that n rows are expected to visit"),
)
_POLICIES = {
    "none": "are not counted",
    "fused": "cross between layers only, and not at all where a pass has one row per sequence",
    "layer-io": "cross at the ends of every layer that attends, with the images and what projects them",
    "materialised": "cross at every operation, attention scores included",
}
_KINDS = {"weights": "weights", "kv": "keys and values", "activations": "activations"}


def derivation_markdown(derivation: Derivation) -> str:
    """Return the derivation as one Markdown document; every number in it is computed."""
    plan = derivation.plan
    parts: list[str] = [f"# {_text(plan.model.name)} on {_text(plan.machine.title)}: derivation", ""]
    parts += _assumptions(plan)
    parts += _symbols()
    parts += _footprint(derivation)
    parts += (line for phase in derivation.phases for line in _phase(phase))
    parts += _totals(derivation)
    parts += _time(derivation)
    return "\n".join(parts) + "\n"


def _assumptions(plan: Plan) -> Iterator[str]:
    precision, work, costing = plan.costing.precision, plan.workload, plan.costing
    yield from ("## Assumptions", "")
    yield f"- Weights are in {weights_name(precision)}, keys and values in {precision.kv.name},"
    yield f"  activations in {precision.activations.name}."
    for selector, chosen in precision.keep:
        yield f"- {_text(selector)} is kept in {chosen.name}."
    yield f"- Activations {_POLICIES[costing.activation_policy]} (`{costing.activation_policy}`)."
    scope = "everything that a pass reads and writes"
    if costing.include == "layer-matrices":
        scope = "the matrices and activations of layers that attend, and nothing else"
    yield f"- Counted is {scope} (`{costing.include}`)."
    images = f", {work.images} image{'s' * (work.images != 1)}" if work.images else ""
    steps = f", {work.steps} denoising steps" if work.steps else ""
    tokens = f"{work.prompt_tokens:,} prompt and {work.new:,} new tokens"
    yield f"- Batch {work.batch}{images}{steps}; {tokens} where a phase depends on"
    yield "  them. Every pass of a phase is costed as its last one."
    if any(o.static for c in plan.model.components for x in c.layers for o in x.block.operations):
        times = "once per phase" if costing.hoist_static else "in every pass"
        yield f"- What is the same in every pass (projections of a fixed prefix) is computed {times}."
    yield "- 1 MB is 1,000,000 bytes throughout. 1 multiply-accumulate is 2 FLOP; norms, look-ups and"
    yield "  element-wise work count 0."
    yield from (f"- {_text(note)}" for note in plan.notes)
    yield ""


def _symbols() -> Iterator[str]:
    yield from ("## Symbols", "", "| symbol | meaning |", "| --- | --- |")
    yield from (f"| {symbol} | {meaning} |" for symbol, meaning in _SYMBOLS)
    yield ""


def _footprint(derivation: Derivation) -> Iterator[str]:
    plan, held = derivation.plan, derivation.plan.footprint
    yield from ("## What is held", "")
    for name, terms in derivation.held:
        yield from (f"### {_text(name)}", "", *_table(terms, "bytes"))
        yield from ("", f"Sum: {_bytes(sum(t.total for t in terms))}", "")
    if derivation.cache:
        yield from ("### keys and values", "", *_table(derivation.cache, "bytes"))
        yield from ("", f"Sum: {_bytes(sum(t.total for t in derivation.cache))}", "")
    yield from ("### all", "", "| part | bytes | MB |", "| --- | ---: | ---: |")
    parts = {
        "weights": held.weights_bytes,
        "keys and values": held.kv_cache_bytes,
        "activations at once": held.activation_bytes,
        "program": held.program_bytes,
        "runtime": held.runtime_bytes,
    }
    yield from (_row(name, f"{count:,}", _mb(count)) for name, count in parts.items() if count)
    yield _row("**total**", f"**{held.total_bytes:,}**", f"**{_mb(held.total_bytes)}**")
    fast = plan.tiers[0]
    fits = "It all fits." if plan.fits else f"{_bytes(plan.short_bytes)} are missing."
    yield from ("", f"{_text(fast.name)} allows {_bytes(fast.allowed_bytes)}. {fits}", "")


def _phase(phase: PhaseDerivation) -> Iterator[str]:
    plan = phase.plan
    yield from (f"## Phase {_text(plan.name)}", "")
    passes = f"{plan.passes:,} pass{'es' * (plan.passes != 1)}"
    yield f"{passes}; what follows is one pass unless it says otherwise."
    yield ""
    for component in phase.components:
        yield from (f"### {_text(plan.name)}: {_text(component.name)}", "")
        yield from _moved_and_computed(component.each)
        if component.once:
            yield from ("Once per phase:", "")
            yield from _moved_and_computed(component.once)
        yield from _component_total(component, plan)
        yield ""


def _moved_and_computed(terms: Sequence[Term]) -> Iterator[str]:
    moved = [term for term in terms if term.kind != "flop"]
    computed = [term for term in terms if term.kind == "flop"]
    if moved:
        yield from (*_table(sorted(moved, key=lambda term: list(_KINDS).index(term.kind)), "bytes"), "")
    if computed:
        yield from (*_table(computed, "FLOP"), "")


def _component_total(component: ComponentPass, plan: PhasePlan) -> Iterator[str]:
    each = sum(component.total(kind) for kind in _KINDS)
    once = sum(component.total(kind, once=True) for kind in _KINDS)
    added = f" + {once:,}" if once else ""
    yield f"- bytes: {plan.passes:,} {TIMES} {each:,}{added} = {_bytes(component.bytes_moved(plan.passes))}"
    each, once = component.total("flop"), component.total("flop", once=True)
    added = f" + {once:,}" if once else ""
    yield f"- FLOP: {plan.passes:,} {TIMES} {each:,}{added} = {plan.passes * each + once:,}"


def _totals(derivation: Derivation) -> Iterator[str]:
    yield from ("## Total traffic", "")
    yield from ("| phase | component | weights | keys and values | activations | bytes | MB |",)
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    sums = dict.fromkeys(_KINDS, 0)
    for phase in derivation.phases:
        for component in phase.components:
            cells = []
            for kind in _KINDS:
                count = phase.plan.passes * component.total(kind) + component.total(kind, once=True)
                sums[kind] += count
                cells.append(f"{count:,}")
            total = component.bytes_moved(phase.plan.passes)
            yield _row(_text(phase.plan.name), _text(component.name), *cells, f"{total:,}", _mb(total))
    grand = sum(sums.values())
    yield _row(
        "**all**", "", *(f"{count:,}" for count in sums.values()), f"**{grand:,}**", f"**{_mb(grand)}**"
    )
    yield ""


def _time(derivation: Derivation) -> Iterator[str]:
    plan = derivation.plan
    yield from ("## Time", "")
    yield "T is the longest of the arithmetic over its rate and the bytes over each link's rate"
    yield (
        "(on memory that link and compute share, their sum)."
        if plan.machine.shared_memory
        else "(they overlap)."
    )
    yield from ("", "| phase | resource | amount | rate | seconds |", "| --- | --- | ---: | ---: | ---: |")
    for phase in derivation.phases:
        yield from _times(phase.plan, plan)
    yield ""
    for phase in derivation.phases:
        done = phase.plan
        if done.time_s is not None:
            rate = f", {done.tokens_per_s:,.6g} tokens/s" if done.tokens_per_s else ""
            bound = f"bound by {done.bound} ({done.rate_kind} rate)"
            yield f"- {_text(done.name)}: {done.time_s:.6g} s, {bound}{rate}."
    if plan.time_to_first_token_s is not None:
        yield f"- Time to the first token: {plan.time_to_first_token_s:.6g} s."
    if plan.actions_per_s is not None:
        yield f"- Actions: {plan.actions_per_s:,.6g} per second."


def _times(phase: PhasePlan, plan: Plan) -> Iterator[str]:
    if phase.compute_s:
        known, _ = compute_rate(plan.machine, plan.costing.precision.activations.name)
        rate = _rate(known, 1e12, "TFLOP/s")
        yield _row(_text(phase.name), "compute", f"{phase.flop:,} FLOP", rate, f"{phase.compute_s:.6g}")
    for use in phase.links:
        fast = plan.machine.fast
        used = fast.rate if use.name == fast.name else plan.machine.link(use.name).rate
        rate = _rate(used, 1e9, "GB/s")
        seconds = "-" if use.time_s is None else f"{use.time_s:.6g}"
        yield _row(_text(phase.name), _text(use.name), f"{use.traffic_bytes:,} B", rate, seconds)


def _rate(rate: Rate | None, scale: float, unit: str) -> str:
    known = rate and (rate.sustained or rate.peak)
    return f"{known.value / scale:,.6g} {unit} ({rate.kind}, {known.kind})" if rate and known else "unknown"


def _table(terms: Sequence[Term], unit: str) -> Iterator[str]:
    mega = unit == "bytes"
    yield _row("what", "formula", "with numbers", unit, *(["MB"] if mega else []))
    yield "| --- | --- | --- | ---: |" + (" ---: |" if mega else "")
    for term in terms:
        written = [_factor(factor) for factor in term.factors]
        if term.last:
            written[-1] = term.last
        numbers = f" {TIMES} ".join(written)
        cells = [_text(term.what), term.symbols, numbers, f"{term.total:,}"]
        yield _row(*cells, *([_mb(term.total)] if mega else []))


def _factor(factor: Factor) -> str:
    if isinstance(factor, Fraction):
        return f"{factor.numerator:,}/{factor.denominator:,}"
    return f"{factor:,}"


def _bytes(count: int) -> str:
    return f"{count:,} B = {_mb(count)} MB"


def _mb(count: int) -> str:
    return f"{count / _MB:,.6f}".rstrip("0").rstrip(".")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """Return a name from a file others wrote, so that it is text and nothing else in Markdown."""
    escaped = shown(text).replace("\\", "\\\\")
    for special in "|`*[]<>#":
        escaped = escaped.replace(special, f"\\{special}")
    return escaped
