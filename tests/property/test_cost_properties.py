"""What holds for every workload: totals are sums, more asks for more, capacity is never exceeded."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.build import build_plan
from tierline.plan.plan import Plan

MODEL, BOARD = open_model("smolvlm2-256m"), load_machine("nexys-video")
FORMATS = st.sampled_from(["bf16", "int8", "mxfp8:block=8", "mxfp4", "int4:group=64", "fp32", "q8_0"])
WORKLOADS = st.builds(
    lambda batch, prompt, new, images: Workload.of(batch=batch, prompt_tokens=prompt, new=new, images=images),
    st.integers(1, 8),
    st.integers(1, 4096),
    st.integers(0, 512),
    st.integers(0, 3),
)


def planned(work: Workload, weights: str, resident_bytes: int | None = None) -> Plan:
    precision = Precision.of(weights=weights, kv="bf16")
    return build_plan(MODEL, BOARD, work, precision, resident_bytes=resident_bytes)


@settings(max_examples=25, deadline=None)
@given(WORKLOADS, FORMATS, st.one_of(st.none(), st.integers(1, 400_000_000)))
def test_steps_add_up_and_capacity_holds(work: Workload, weights: str, cap: int | None) -> None:
    plan = planned(work, weights, cap)
    for phase in plan.phases:
        links = {use.name: use.traffic_bytes for use in phase.links}
        crossed = dict.fromkeys(links, 0)
        for step in phase.steps:
            for read in step.reads:
                crossed[read.link] += phase.passes * read.traffic_bytes
        assert crossed == links
        moved = phase.weight_read_bytes + phase.kv_read_bytes + phase.kv_write_bytes
        assert links["ddr3"] == moved + phase.activation_traffic_bytes
        assert phase.flop == phase.passes * sum(step.flop for step in phase.steps)
    if plan.strategy != "impossible":
        assert plan.tiers[0].used_bytes <= plan.tiers[0].allowed_bytes
        held = plan.residency.pinned_bytes + plan.residency.streamed_bytes
        assert held == plan.footprint.weights_bytes
        assert cap is None or plan.residency.held_bytes <= cap


@settings(max_examples=15, deadline=None)
@given(WORKLOADS, st.integers(1, 1000))
def test_a_longer_prompt_never_costs_less(work: Workload, more: int) -> None:
    longer = Workload.of(
        batch=work.batch, prompt_tokens=work.prompt_tokens + more, new=work.new, images=work.images
    )
    before, after = planned(work, "mxfp4"), planned(longer, "mxfp4")
    assert after.footprint.total_bytes > before.footprint.total_bytes
    for name in ("prefill", "decode"):
        one, other = before.phase(name), after.phase(name)
        if one is not None and other is not None:
            assert other.flop > one.flop
            assert other.kv_read_bytes + other.kv_write_bytes > one.kv_read_bytes + one.kv_write_bytes
