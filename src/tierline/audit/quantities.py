"""The quantities that a claim can name: a registry of functions from options to an exact figure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from tierline.audit import rates, subject
from tierline.audit.figure import (
    BYTE_RATE,
    BYTES,
    COUNT,
    FLOP,
    FLOP_RATE,
    INTENSITY,
    PER_SECOND,
    SECONDS,
    Dimension,
)
from tierline.audit.options import Options
from tierline.audit.subject import LAYERS, MACHINE, MODEL, PRECISION, TENSORS, WORKLOAD
from tierline.cost import activations, kv
from tierline.cost.amount import element_bytes
from tierline.cost.footprint import kv_cache_bytes, phase_values, working_set_bytes
from tierline.cost.operations import OperationCost, operation_costs
from tierline.cost.passes import pass_groups
from tierline.errors import UnknownRateError
from tierline.formats.parse import parse_format
from tierline.machines.links import link_type
from tierline.plan.build import plan_with
from tierline.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity: what it is, what options it reads, its dimension, and how it is derived."""

    says: str
    uses: tuple[str, ...]
    dimension: Dimension
    derive: Callable[[Options], Fraction]


def _parameters(options: Options) -> Fraction:
    return Fraction(sum(tensor.elements for tensor, _ in subject.tensors_of(options)))


def _footprint_bytes(options: Options) -> Fraction:
    return Fraction(sum(count for _, count in subject.tensors_of(options)))


def _kv_cache_bytes(options: Options) -> Fraction:
    weights = subject.layers_of(options)
    if options.text("kv_heads", "grouped") == "all":
        weights = subject.with_all_heads(weights)
    values = subject.workload_of(options).values()
    chosen = kv_cache_bytes(subject.model_of(options), weights, values, subject.costing_of(options))
    return Fraction(chosen)


def _kv_token_bytes(options: Options) -> Fraction:
    weights, number_format = subject.layers_of(options), subject.precision_of(options).kv
    if options.text("kv_heads", "grouped") == "all":
        weights = subject.with_all_heads(weights)
    attends = (o.attention for e in weights.layers for o in e.weights.block.operations)
    return Fraction(sum(kv.token_bytes(a, number_format) for a in attends if a and a.cache == "append"))


def _pass(options: Options) -> Iterator[OperationCost]:
    """Yield what each chosen operation costs in the last pass of the phase, hoisted ones left out."""
    phase, costing = subject.phase_of(options), subject.costing_of(options)
    workload = subject.workload_of(options).values()
    weights = subject.layers_of(options)
    group = pass_groups(phase, workload, costing)[-1]
    for entry in weights.of(phase.components):
        costs = operation_costs(entry.weights, phase, group.values(workload), costing)
        yield from (cost for cost in costs if not cost.once)


def _weight_read_bytes(options: Options) -> Fraction:
    if options.text("read", "phase") == "all":
        return Fraction(subject.layers_of(options).stored_bytes)
    return sum((Fraction(cost.weight_read_bytes) for cost in _pass(options)), Fraction(0))


def _sum_of(field: str) -> Callable[[Options], Fraction]:
    return lambda options: sum((Fraction(getattr(cost, field)) for cost in _pass(options)), Fraction(0))


def _plan(options: Options) -> Plan:
    return plan_with(
        subject.model_of(options),
        subject.machine_of(options),
        subject.workload_of(options),
        subject.costing_of(options),
    )


def _traffic_bytes(options: Options) -> Fraction:
    model, costing = subject.model_of(options), subject.costing_of(options)
    workload, weights = subject.workload_of(options).values(), subject.layers_of(options)
    total = 0
    for phase in model.phases:
        for group in pass_groups(phase, workload, costing):
            values = group.values(workload)
            for kind, count in weights.kinds(phase.components):
                for cost in operation_costs(kind, phase, values, costing):
                    moved = cost.weight_read_bytes + cost.activation_bytes
                    moved += cost.kv_read_bytes + cost.kv_write_bytes
                    total += count * moved * (min(1, group.passes) if cost.once else group.passes)
    return Fraction(total)


def _working_set_bytes(options: Options) -> Fraction:
    values = subject.workload_of(options).values()
    weights, costing = subject.layers_of(options), subject.costing_of(options)
    return Fraction(working_set_bytes(subject.model_of(options), weights, values, costing))


def _layer_io_peak_bytes(options: Options) -> Fraction:
    model, weights = subject.model_of(options), subject.layers_of(options)
    number_format, workload = subject.precision_of(options).activations, subject.workload_of(options)
    most = 0
    for phase in model.phases:
        values = phase_values(phase, workload.values())
        for kind, _ in weights.kinds(phase.components):
            moved = activations.traffic_elements(kind.block, values, "layer-io", one_row=False)
            most = max(most, element_bytes(sum(moved), number_format))
    return Fraction(most)


def _rows(options: Options) -> int:
    given = options.optional_count("rows")
    if given is not None:
        return given
    phase, _, operation = subject.operation_of(options)
    return int(operation.rows.evaluate(phase_values(phase, subject.workload_of(options).values())))


def _buffer_bytes(options: Options) -> Fraction:
    _, _, operation = subject.operation_of(options)
    chosen = parse_format(options.text("format", options.text("activations", "bf16")))
    return Fraction(element_bytes(_rows(options) * operation.out_features, chosen))


def _intensity(options: Options) -> Fraction:
    _, _, operation = subject.operation_of(options)
    rows, inner, outer = _rows(options), operation.in_features, operation.out_features
    element = parse_format(options.text("format", options.text("activations", "bf16"))).bits_per_element / 8
    return Fraction(2 * rows * inner * outer) / ((inner * outer + rows * (inner + outer)) * element)


def _attained(options: Options) -> Fraction:
    return min(rates.peak(options), rates.bandwidth(options) * _intensity(options))


def _decode_rate(options: Options) -> Fraction:
    phase = _plan(options).phase(options.text("phase", "decode"))
    return _known(phase.tokens_per_s if phase else None, "rate of tokens for this phase")


def _known(value: float | None, what: str) -> Fraction:
    if value is None:
        raise UnknownRateError(f"the plan gives no {what}")
    return Fraction(value)


def _reloads(options: Options) -> Fraction:
    layers = [e for e in subject.layers_of(options).layers if e.weights.stored_bytes]
    needed = sum(e.weights.stored_bytes for e in layers)
    return Fraction(0 if needed <= rates.given(options, "capacity") else len(layers))


def _bits_per_weight(options: Options) -> Fraction:
    return parse_format(options.text("format")).bits_per_element / 8


def _pcie_rate(options: Options) -> Fraction:
    return rates.lane_rate(link_type("pcie", "pcie_rate"), options.count("gen")) * options.count("lanes")


_CACHE = (*MODEL, *LAYERS, "kv", *WORKLOAD, "kv_heads")
_OPERATION = (*MODEL, "component", "operation", *WORKLOAD, "rows", "format", "activations")
_PASS = (*MODEL, *LAYERS, *PRECISION, *WORKLOAD, "phase", "hoist_static", "include", "activation_policy")
_PLAN = (*MODEL, *MACHINE, *PRECISION, *WORKLOAD, "hoist_static", "include", "activation_policy")
_PORT = (*MACHINE, "link", "rate")
_PEAK = (*MACHINE, "format", "rate", "peak")
_WEIGHTS = (*MODEL, *PRECISION, *TENSORS)

QUANTITIES: Mapping[str, Quantity] = MappingProxyType(
    {
        "parameters": Quantity("elements of the chosen tensors", (*MODEL, *TENSORS), COUNT, _parameters),
        "footprint_bytes": Quantity("bytes of the chosen weights", _WEIGHTS, BYTES, _footprint_bytes),
        "kv_cache_bytes": Quantity(
            "bytes of the KV cache at the full context", _CACHE, BYTES, _kv_cache_bytes
        ),
        "kv_token_bytes": Quantity(
            "bytes that one token adds to the caches",
            (*MODEL, *LAYERS, "kv", "kv_heads"), BYTES, _kv_token_bytes,
        ),
        "weight_read_bytes": Quantity(
            "weight bytes that one pass of a phase reads",
            (*_PASS, "read"), BYTES, _weight_read_bytes,
        ),
        "kv_read_bytes": Quantity(
            "cache bytes that one pass of a phase reads", _PASS, BYTES, _sum_of("kv_read_bytes")
        ),
        "kv_write_bytes": Quantity(
            "cache bytes that one pass of a phase writes", _PASS, BYTES, _sum_of("kv_write_bytes")
        ),
        "activation_traffic_bytes": Quantity(
            "activation bytes that one pass of a phase moves", _PASS, BYTES, _sum_of("activation_bytes")
        ),
        "flop": Quantity("arithmetic of one pass of a phase", _PASS, FLOP, _sum_of("flop")),
        "traffic_bytes": Quantity(
            "weights, KV and activations moved by all passes of all phases",
            tuple(option for option in _PASS if option != "phase"), BYTES, _traffic_bytes,
        ),
        "working_set_bytes": Quantity(
            "activations live at once, an upper estimate",
            (*MODEL, *LAYERS, *PRECISION, *WORKLOAD, "activation_policy"), BYTES, _working_set_bytes,
        ),
        "layer_io_peak_bytes": Quantity(
            "the largest input and output of one layer that attends",
            (*MODEL, *LAYERS, "activations", *WORKLOAD), BYTES, _layer_io_peak_bytes,
        ),
        "buffer_bytes": Quantity("the output of one operation", _OPERATION, BYTES, _buffer_bytes),
        "operation_rows": Quantity(
            "output rows of one operation", _OPERATION, COUNT, lambda o: Fraction(_rows(o))
        ),
        "in_features": Quantity(
            "input width of one operation", _OPERATION, COUNT,
            lambda o: Fraction(subject.operation_of(o)[2].in_features),
        ),
        "out_features": Quantity(
            "output width of one operation", _OPERATION, COUNT,
            lambda o: Fraction(subject.operation_of(o)[2].out_features),
        ),
        "layers": Quantity(
            "layers that attend", (*MODEL, "component"), COUNT,
            lambda o: Fraction(sum(e.weights.attends for e in subject.layers_of(o).layers)),
        ),
        "default_steps": Quantity(
            "denoising steps of the model", MODEL, COUNT,
            lambda o: Fraction(subject.model_of(o).default_steps),
        ),
        "operational_intensity": Quantity(
            "2 n K N / ((K N + n (K + N)) bytes per element) of one matrix product",
            _OPERATION, INTENSITY, _intensity,
        ),
        "ridge_point": Quantity(
            "compute peak over bandwidth", (*_PEAK, "link", "bandwidth"), INTENSITY,
            lambda o: rates.peak(o) / rates.bandwidth(o),
        ),
        "attained_flop_per_s": Quantity(
            "min(peak, bandwidth x intensity) of one matrix product",
            (*_OPERATION, *_PEAK, "link", "bandwidth"), FLOP_RATE, _attained,
        ),
        "tokens_per_s": Quantity(
            "tokens of a phase over its time in the plan", (*_PLAN, "phase"), PER_SECOND, _decode_rate
        ),
        "seconds_per_token": Quantity(
            "the inverse of tokens_per_s", (*_PLAN, "phase"), SECONDS, lambda o: 1 / _decode_rate(o)
        ),
        "time_to_first_token_s": Quantity(
            "everything before decode, in the plan", _PLAN, SECONDS,
            lambda o: _known(_plan(o).time_to_first_token_s, "time to the first token"),
        ),
        "actions_per_s": Quantity(
            "actions over the time of all phases, in the plan", _PLAN, PER_SECOND,
            lambda o: _known(_plan(o).actions_per_s, "rate of actions"),
        ),
        "link_rate": Quantity("rate of a link or of a tier's port", _PORT, BYTE_RATE, rates.link_rate),
        "compute_rate": Quantity("rate of arithmetic in a format", _PEAK, FLOP_RATE, rates.peak),
        "capacity_bytes": Quantity("capacity of a tier", (*MACHINE, "tier"), BYTES, rates.capacity),
        "pcie_rate": Quantity(
            "line rate x lanes x encoding / 8 of PCI Express", ("gen", "lanes"), BYTE_RATE, _pcie_rate
        ),
        "link_lanes": Quantity(
            "lanes of a PCI Express link of the machine", (*_PORT, "gen"), COUNT, rates.link_lanes
        ),
        "memory_rate": Quantity(
            "pins x rate of a pin / 8", ("pins", "line_rate"), BYTE_RATE,
            lambda o: o.count("pins") * rates.given(o, "line_rate"),
        ),
        "bits_per_weight": Quantity(
            "one element in a format, scales included", ("format",), BYTES, _bits_per_weight
        ),
        "reloads_per_pass": Quantity(
            "layers that a cache of this capacity loads again in each pass (FIFO or LRU)",
            (*_WEIGHTS, "capacity"), COUNT, _reloads,
        ),
    }
)  # fmt: skip
