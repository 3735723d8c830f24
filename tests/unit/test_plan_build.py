"""Plans of a model small enough to work out by hand, with primes as sizes."""

from dataclasses import replace

import pytest

from tierline.errors import InputError
from tierline.formats.parse import parse_format
from tierline.formats.precision import Precision
from tierline.machines.machine import Compute, Link, Machine, Rate, Tier
from tierline.models.description import (
    Attention,
    Block,
    Component,
    Layer,
    Model,
    Operation,
    Phase,
    Tensor,
)
from tierline.models.extent import Extent
from tierline.models.workload import Workload
from tierline.plan.build import build_plan, compute_rate
from tierline.plan.plan import PhasePlan, Plan
from tierline.plan.remedies import remedies
from tierline.plan.sensitivity import sensitivity
from tierline.report.schema import plan_json
from tierline.sourced import Sourced

ROWS, ONE = Extent.parse("batch*tokens"), Extent.parse("1")
HIDDEN, VOCAB, INNER, LAYERS = 37, 101, 67, 5
LAYER_ELEMENTS = 2 * HIDDEN * INNER
TABLE_ELEMENTS = VOCAB * HIDDEN


def sourced(value: float) -> Sourced:
    return Sourced(value, "assumed", "test")


def rate(value: float, *, peak: bool = False) -> Rate:
    return Rate(sourced(value), None) if peak else Rate(sourced(2 * value), sourced(value))


def tiny_model(*, tied: bool = False) -> Model:
    how = Attention(1, 1, HIDDEN, HIDDEN, Extent.parse("context"), "append", 2 * HIDDEN)
    block = Block(
        (Tensor("up", (INNER, HIDDEN), "mlp"), Tensor("down", (HIDDEN, INNER), "mlp")),
        (
            Operation("attend", "attention", ROWS, HIDDEN, HIDDEN, attention=how),
            Operation("up", "linear", ROWS, HIDDEN, INNER, ("up",)),
            Operation("down", "linear", ROWS, INNER, HIDDEN, ("down",)),
        ),
    )
    table = Tensor("weight", (VOCAB, HIDDEN), "embeddings")
    embed = Block((table,), (Operation("", "embedding", ROWS, 1, HIDDEN, ("weight",)),))
    head_weight = Tensor(
        "weight", (VOCAB, HIDDEN), "head", alias_of="embed.weight" if tied else "", in_file=not tied
    )
    head = Block(
        (head_weight,), (Operation("", "linear", Extent.parse("batch"), HIDDEN, VOCAB, ("weight",)),)
    )
    layers = tuple(Layer(f"layers.{i}", i, block) for i in range(LAYERS))
    prompt = Extent.parse("prompt_tokens")
    return Model(
        name="tiny",
        family="test",
        components=(
            Component("text", (Layer("embed", 0, embed), *layers)),
            Component("head", (Layer("head", 0, head),)),
        ),
        phases=(
            Phase("prefill", ("text", "head"), ONE, prompt, prompt),
            Phase("decode", ("text", "head"), Extent.parse("new"), ONE, Extent.parse("context")),
        ),
        source="test",
    )


def machine(capacity_bytes: int, **changes: object) -> Machine:
    base = Machine(
        name="board",
        title="a board",
        tiers=(
            Tier("ddr", sourced(capacity_bytes), rate(1009.0)),
            Tier("host", sourced(10**6)),
            Tier("disk", sourced(10**9)),
        ),
        links=(Link("usb", "host", "ddr", rate(11.0)), Link("sata", "disk", "host", rate(101.0))),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


WORK = Workload.of(prompt_tokens=17, new=3)
# (17 + 3) tokens of 2 x 37 elements in each layer
KV_BYTES = 20 * 2 * 2 * HIDDEN * LAYERS
ALL_WEIGHTS = 2 * (2 * TABLE_ELEMENTS + LAYERS * LAYER_ELEMENTS)


def plan_on(capacity_bytes: int, *, tied: bool = False, **changes: object) -> Plan:
    return build_plan(
        tiny_model(tied=tied),
        machine(capacity_bytes, **changes),
        WORK,
        Precision.of(),
        activation_policy="none",
    )


def decode(plan: Plan) -> PhasePlan:
    phase = plan.phase("decode")
    assert phase is not None
    return phase


def test_a_resident_plan_reads_what_a_pass_touches_over_the_fast_port() -> None:
    plan = plan_on(ALL_WEIGHTS + KV_BYTES)
    assert (plan.strategy, plan.fits, plan.short_bytes) == ("resident", True, 0)
    phase = decode(plan)
    weight = 2 * (HIDDEN + LAYERS * LAYER_ELEMENTS + TABLE_ELEMENTS)
    written = 2 * 2 * HIDDEN * LAYERS
    assert phase.weight_read_bytes_per_pass == weight
    assert phase.kv_read_bytes == 3 * KV_BYTES
    assert phase.kv_write_bytes == 3 * written
    [port] = phase.links
    assert (port.name, port.traffic_bytes) == ("ddr", 3 * (weight + KV_BYTES + written))
    assert phase.time_s == port.traffic_bytes / 1009.0
    assert phase.tokens_per_s == pytest.approx(3 / phase.time_s)
    assert [step.layer for step in phase.steps] == ["embed", *(f"layers.{i}" for i in range(5)), "head"]
    assert 3 * sum(r.traffic_bytes for s in phase.steps for r in s.reads) == port.traffic_bytes


def test_one_byte_less_streams_and_tables_read_by_row_go_first() -> None:
    plan = plan_on(ALL_WEIGHTS + KV_BYTES - 1)
    assert (plan.strategy, plan.fits, plan.short_bytes) == ("streamed", False, 1)
    assert plan.residency.placement.streamed == ()  # all that decode reads whole stays
    assert plan.residency.streamed_bytes > 0
    assert decode(plan).weight_read_bytes_per_pass == decode(plan_on(10**6)).weight_read_bytes_per_pass
    usb = next(use for use in decode(plan).links if use.name == "usb")
    assert usb.traffic_bytes == 3 * 2 * HIDDEN  # one row of the embedding per token


def test_what_streams_crosses_its_link_and_the_port_and_capacity_holds() -> None:
    capacity = ALL_WEIGHTS // 2 + KV_BYTES
    plan = plan_on(capacity)
    fast, host, disk = plan.tiers
    assert plan.strategy == "streamed"
    assert fast.used_bytes <= capacity
    assert fast.used_bytes == KV_BYTES + plan.residency.pinned_bytes + plan.residency.placement.staging_bytes
    assert (host.used_bytes, disk.used_bytes) == (plan.residency.streamed_bytes, 0)
    assert plan.residency.pinned_bytes + plan.residency.streamed_bytes == ALL_WEIGHTS
    traffic = {use.name: use.traffic_bytes for use in decode(plan).links}
    assert traffic["usb"] == 3 * (plan.residency.placement.streamed_bytes + 2 * HIDDEN)
    whole = decode(plan_on(10**6)).links[0].traffic_bytes
    assert traffic["ddr"] == whole
    assert decode(plan).bound == "link:usb"


def test_a_link_straight_to_compute_spares_the_port() -> None:
    links = (Link("pcie", "host", "compute", rate(1511.0)),)
    plan = plan_on(ALL_WEIGHTS // 2 + KV_BYTES, links=links)
    traffic = {use.name: use.traffic_bytes for use in decode(plan).links}
    assert sum(traffic.values()) == decode(plan_on(10**6)).links[0].traffic_bytes
    assert traffic["pcie"] == 3 * (plan.residency.placement.streamed_bytes + 2 * HIDDEN)


def test_weights_that_the_near_tier_cannot_hold_come_from_the_far_one() -> None:
    tiers = (*machine(1).tiers[:1], Tier("host", sourced(11)), Tier("disk", sourced(10**9)))
    tiers = (replace(tiers[0], capacity_bytes=sourced(ALL_WEIGHTS // 2 + KV_BYTES)), *tiers[1:])
    plan = plan_on(0, tiers=tiers)
    assert plan.residency.route == ("sata", "usb")
    assert (plan.residency.home, plan.residency.link) == ("disk", "usb")
    traffic = {use.name: use.traffic_bytes for use in decode(plan).links}
    assert traffic["sata"] == traffic["usb"] > 0


@pytest.mark.parametrize("capacity", [KV_BYTES - 1, ALL_WEIGHTS - 1])
def test_without_a_link_or_room_it_is_impossible_and_has_no_time(capacity: int) -> None:
    plan = plan_on(capacity, links=())
    assert (plan.strategy, plan.fits) == ("impossible", False)
    assert plan.short_bytes == ALL_WEIGHTS + KV_BYTES - capacity
    assert [p.time_s for p in plan.phases] == [None, None]
    assert decode(plan).weight_read_bytes > 0


def test_a_tied_head_is_stored_once_and_read_whole() -> None:
    plan = plan_on(10**6, tied=True)
    assert (
        plan.footprint.weights_bytes == plan.footprint.tied_weights_bytes == ALL_WEIGHTS - 2 * TABLE_ELEMENTS
    )
    assert decode(plan).weight_read_bytes_per_pass == decode(plan_on(10**6)).weight_read_bytes_per_pass
    names = [u.name for u in plan.residency.placement.pinned]
    assert names[-1].startswith("embed")  # it is read last, as the head


def test_shared_memory_adds_up_and_a_known_rate_computes() -> None:
    capacity = ALL_WEIGHTS // 2 + KV_BYTES
    dsp = (Compute("dsp", {"bf16": rate(97.0, peak=True)}),)
    apart, shared = (plan_on(capacity, compute=dsp, shared_memory=s) for s in (False, True))
    one, other = decode(apart), decode(shared)
    parts = [use.time_s for use in one.links if use.time_s is not None] + [one.compute_s or 0.0]
    assert one.time_s == max(parts)
    assert other.time_s == pytest.approx(sum(parts))
    assert one.compute_s == one.flop / 97.0
    assert apart.time_to_first_token_s == apart.phases[0].time_s


def test_without_a_compute_rate_the_first_token_has_no_time() -> None:
    plan = plan_on(10**6)
    assert decode(plan).compute_s is None
    assert plan.time_to_first_token_s is None
    assert any("no bf16 compute rate" in note for note in plan.notes)


def test_narrow_numbers_are_computed_in_the_next_wider_float() -> None:
    unit = Compute("u", {"fp16": rate(5.0), "fp32": rate(3.0)})
    found, note = compute_rate(machine(1, compute=(unit,)), "mxfp8:block=8")
    assert found is not None
    assert found.value == 5.0
    assert "computed in fp16" in note
    assert compute_rate(machine(1, compute=(unit,)), "bf16")[0] == unit.flop_per_s["fp32"]
    assert compute_rate(machine(1, compute=(unit,)), "int8")[0] == unit.flop_per_s["fp16"]
    assert compute_rate(machine(1), "int8")[0] is None


def test_resident_bytes_cap_the_weights_held() -> None:
    cap = ALL_WEIGHTS // 2
    plan = build_plan(tiny_model(), machine(10**6), WORK, Precision.of(), resident_bytes=cap, unit_bytes=211)
    assert plan.strategy == "streamed"
    assert cap // 2 < plan.residency.held_bytes <= cap
    assert max(u.footprint_bytes for u in plan.residency.placement.streamed) <= 211


def test_every_remedy_has_the_figures_of_the_plan_it_names() -> None:
    capacity = ALL_WEIGHTS - 1
    lines = remedies(plan_on(capacity))
    assert lines[0].startswith("stream ")
    [weights] = [line for line in lines if "--weights" in line]
    name = weights.split()[2]
    precision = Precision.of(weights=name)
    better = build_plan(tiny_model(), machine(capacity), WORK, precision, activation_policy="none")
    assert better.fits
    assert f"{decode(better).tokens_per_s:.3g} tok/s" in weights
    assert all(line.startswith("use --") for line in remedies(plan_on(10**6)))


def test_json_is_in_base_units_and_its_parts_add_up() -> None:
    text = plan_json(plan_on(ALL_WEIGHTS // 2 + KV_BYTES))
    footprint = text["footprint"]
    parts = ("weights_bytes", "kv_cache_bytes", "activation_bytes", "program_bytes", "runtime_bytes")
    assert footprint["total_bytes"] == sum(footprint[part] for part in parts)
    assert sum(footprint["by_component_bytes"].values()) == footprint["weights_bytes"]
    assert text["parameters"]["total"] == sum(text["parameters"]["by_component"].values())
    assert {phase["name"] for phase in text["phases"]} == {"prefill", "decode"}
    assert text["precision"]["weights"] == "stored"


def test_sensitivity_has_the_bytes_and_rate_of_each_part_in_another_format() -> None:
    plan = plan_on(10**6)
    rows = {(r.selector, r.format.name): r for r in sensitivity(plan, [parse_format("int8")])}
    inner = LAYERS * LAYER_ELEMENTS
    added = {name: -rows[name, "int8"].added_bytes for name in ("text", "head", "mlp", "embeddings")}
    assert added == {
        "text": inner + TABLE_ELEMENTS,
        "head": TABLE_ELEMENTS,
        "mlp": inner,
        "embeddings": TABLE_ELEMENTS,
    }
    assert len(rows) == len(added)
    assert -rows["embeddings", "int8"].added_read_bytes == HIDDEN  # one row each pass
    kept = build_plan(
        tiny_model(), machine(10**6), WORK, Precision.of(keep=["mlp=int8"]), activation_policy="none"
    )
    assert rows["mlp", "int8"].tokens_per_s == decode(kept).tokens_per_s
    assert rows["mlp", "int8"].weights_bytes == ALL_WEIGHTS - inner
    assert sum(r.parameters for r in rows.values() if r.part == "component") == ALL_WEIGHTS // 2


def test_a_kept_class_that_the_model_has_not_is_refused() -> None:
    with pytest.raises(InputError, match="conv"):
        build_plan(tiny_model(), machine(1), WORK, Precision.of(keep=["conv=bf16"]))
