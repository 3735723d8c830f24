"""Strategies, capacity and overlap on catalogue models, each against what can be worked out by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tierline.cost.costing import Costing
from tierline.errors import BudgetError, InputError, UnknownRateError
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.build import plan_with
from tierline.plan.plan import Plan
from tierline.sim.break_even import break_even
from tierline.sim.options import POLICIES, Options, Speculation
from tierline.sim.simulate import SimResult, simulate

DECODE = ("decode",)


def planned(
    model: str = "smollm2-135m",
    on: str = "nexys-video",
    overrides: tuple[str, ...] = (),
    *,
    chunk: int | None = None,
    program_bytes: int = 0,
    hoist: bool = True,
    **work: int,
) -> Plan:
    costing = Costing(Precision.of(weights="mxfp8:block=8"), prefill_chunk=chunk, hoist_static=hoist)
    opened = open_model(model)
    work = {"prompt_tokens": 31, "new": 5, "steps": opened.default_steps} | work
    return plan_with(
        opened, load_machine(on, overrides), Workload.of(**work), costing, program_bytes=program_bytes
    )


def link_bytes(result: SimResult, name: str) -> int:
    return next((link.traffic_bytes for link in result.links if link.name == name), 0)


def pass_traffic(result: SimResult, index: int, cause: str | None = None) -> int:
    fetches = [f for f in result.schedule.passes[index].steps.fetches if f is not None]
    return sum(f.traffic_bytes for f in fetches if cause is None or f.cause == cause)


def test_residency_never_exceeds_the_tier_in_any_pass() -> None:
    for policy in POLICIES:
        options = Options(strategy="layer-swap", policy=policy, capacity_bytes=60_000_000)
        result = simulate(planned(), options)
        for traversal in result.schedule.passes:
            assert traversal.weights_bytes + traversal.staging_bytes <= 60_000_000
            assert traversal.resident_bytes <= 512 * 2**20


@pytest.mark.parametrize("policy", POLICIES)
def test_bytes_on_the_link_are_the_loads_reloads_and_rows(policy: str) -> None:
    options = Options(strategy="layer-swap", policy=policy, capacity_bytes=60_000_000, phases=DECODE)  # type: ignore[arg-type]
    result = simulate(planned(), options)
    rows = sum(pass_traffic(result, i, "rows") for i in range(5))
    assert link_bytes(result, "usb2") == result.schedule.counts.moved_bytes + rows
    assert link_bytes(result, "usb2") == sum(pass_traffic(result, i) for i in range(5))


def test_host_stream_moves_what_the_plan_reads_in_every_pass() -> None:
    plan = planned()
    decode = plan.phase("decode")
    assert decode is not None
    result = simulate(plan, Options(strategy="host-stream", phases=DECODE))
    assert [pass_traffic(result, i) for i in range(5)] == [decode.weight_read_bytes_per_pass] * 5
    assert result.schedule.counts.hits == 0


def test_past_local_memory_the_port_moves_nothing_but_the_cache() -> None:
    through = simulate(planned(), Options(strategy="host-stream", phases=DECODE))
    past = simulate(planned(), Options(strategy="host-stream", phases=DECODE, through="bypass"))
    kv = sum(t.kv_read_bytes + t.kv_write_bytes for p in past.schedule.passes for t in p.demand.turns)
    assert link_bytes(past, "ddr3") == kv
    assert link_bytes(through, "ddr3") == kv + link_bytes(through, "usb2")


def test_finer_units_use_more_of_the_same_memory() -> None:
    moved = {
        granularity: link_bytes(
            simulate(
                planned(),
                Options(
                    strategy="layer-swap",
                    policy="pin-spread",
                    capacity_bytes=100_000_000,
                    granularity=granularity,
                    phases=DECODE,
                ),
            ),
            "usb2",
        )
        for granularity in ("layer", "tile")
    }
    assert moved["tile"] < moved["layer"]


def test_pinning_by_value_keeps_what_is_read_most_often() -> None:
    plan = planned("smolvlm2-256m", new=7, images=1)
    options = Options(strategy="layer-swap", policy="pin-by-value", capacity_bytes=170_000_000)
    result = simulate(plan, options)
    # everything that decode reads fits, so that later passes fetch nothing but rows
    assert pass_traffic(result, -1) == pass_traffic(result, -1, "rows")


def test_resident_says_at_which_token_the_cache_is_full() -> None:
    plan = planned("smolvlm2-256m", new=2000, prompt_tokens=6001, overrides=("ddr3.capacity=395MiB",))
    with pytest.raises(BudgetError) as raised:
        simulate(plan, Options(strategy="resident", phases=DECODE))
    token = int(str(raised.value).partition("token ")[2].partition(":")[0].replace(",", ""))
    assert 6001 < token <= 8001
    weights = simulate(planned("smolvlm2-256m"), Options(strategy="resident", phases=DECODE))
    held = weights.schedule.passes[-1].weights_bytes
    others = plan.footprint.others_bytes - plan.footprint.kv_cache_bytes
    per_token = plan.footprint.kv_cache_bytes // plan.workload.context
    assert token == (395 * 2**20 - held - others) // per_token + 1


def test_an_evicting_policy_gives_way_to_the_growing_cache() -> None:
    plan = planned("smolvlm2-256m", new=400, prompt_tokens=9001, overrides=("ddr3.capacity=450MiB",))
    result = simulate(plan, Options(strategy="layer-swap", policy="lru", phases=DECODE))
    assert result.schedule.passes[-1].kv_bytes > result.schedule.passes[0].kv_bytes
    assert all(p.resident_bytes <= 450 * 2**20 for p in result.schedule.passes)


def test_kv_offload_reads_the_whole_cache_back_and_writes_one_token() -> None:
    result = simulate(planned(), Options(strategy="kv-offload", phases=DECODE, warm=True))
    per_token = result.plan.footprint.kv_cache_bytes // 36
    for i in range(5):
        assert pass_traffic(result, i, "kv") == (32 + i) * per_token
    written = sum(t.fetch.traffic_bytes for t in result.timeline.transfers if t.written)
    assert written == 5 * per_token
    assert all(p.kv_bytes == 0 for p in result.schedule.passes)
    assert result.schedule.home_bytes["host"] >= 36 * per_token


def test_tiered_fills_the_faster_tiers_first_and_overflows_to_the_slowest() -> None:
    small = ("host.capacity=30MB", "ddr3.capacity=90MB")
    result = simulate(planned(overrides=small), Options(strategy="tiered", phases=DECODE))
    homes = result.schedule.home_bytes
    assert 0 < homes["host"] <= 30_000_000
    assert homes["nvme"] > 0
    paths = {f.path for p in result.schedule.passes for f in p.steps.fetches if f is not None}
    assert {("usb2",), ("disk", "usb2")} <= paths


def test_what_has_no_home_is_an_error_with_a_fix() -> None:
    tight = ("host.capacity=1MB", "nvme.capacity=1MB", "ddr3.capacity=90MB")
    with pytest.raises(BudgetError, match="no home"):
        simulate(planned(overrides=tight), Options(strategy="host-stream"))


def test_slots_that_do_not_fit_are_an_error_with_a_fix() -> None:
    with pytest.raises(BudgetError, match="--granularity tile"):
        simulate(planned(), Options(strategy="tiered", capacity_bytes=1_000_000))


def test_a_prompt_in_chunks_streams_every_layer_once_per_chunk() -> None:
    whole = simulate(planned(), Options(strategy="host-stream", phases=("prefill",)))
    chunks = simulate(planned(chunk=7), Options(strategy="host-stream", phases=("prefill",)))
    assert len(chunks.schedule.passes) == math.ceil(31 / 7)
    streamed = [
        sum(f.traffic_bytes for f in p.steps.fetches if f is not None and f.cause != "rows")
        for p in (*whole.schedule.passes, *chunks.schedule.passes)
    ]
    assert len(set(streamed)) == 1
    assert sum(p.demand.tokens for p in chunks.schedule.passes) == 31


def test_a_speculative_pass_keeps_the_expected_tokens() -> None:
    guess = Speculation(3, 0.5, 0.011)
    assert guess.tokens_per_pass == 1 + 0.5 + 0.25 + 0.125
    assert Speculation(3, 1.0).tokens_per_pass == 4
    plain = simulate(planned(new=30), Options(strategy="host-stream", phases=DECODE))
    guessed = simulate(
        planned(new=30), Options(strategy="host-stream", phases=DECODE, speculation=Speculation(3, 0.5))
    )
    assert len(guessed.schedule.passes) == 16
    assert sum(p.demand.tokens for p in guessed.schedule.passes) == pytest.approx(30)
    assert guessed.tokens_per_s_steady is not None
    assert plain.tokens_per_s_steady is not None
    # the link binds, so that the rows that are checked cost nothing
    assert guessed.tokens_per_s_steady / plain.tokens_per_s_steady == pytest.approx(1.875, rel=0.02)
    drafted = simulate(
        planned(new=30), Options(strategy="resident", phases=DECODE, speculation=guess, warm=True)
    )
    free = simulate(
        planned(new=30),
        Options(strategy="resident", phases=DECODE, speculation=Speculation(3, 0.5), warm=True),
    )
    assert drafted.time_s - free.time_s == pytest.approx(16 * 3 * 0.011)


def test_a_batch_shares_the_stream() -> None:
    one = simulate(planned(), Options(strategy="host-stream", phases=DECODE))
    five = simulate(planned(batch=5), Options(strategy="host-stream", phases=DECODE))
    assert one.tokens_per_s_steady is not None
    assert five.tokens_per_s_steady is not None
    assert five.tokens_per_s_steady == pytest.approx(5 * one.tokens_per_s_steady, rel=0.01)


def test_static_parts_of_denoising_are_read_once_where_hoisted() -> None:
    hoisted = simulate(planned("smolvla", images=1), Options(strategy="host-stream", phases=("denoise",)))
    repeated = simulate(
        planned("smolvla", images=1, hoist=False), Options(strategy="host-stream", phases=("denoise",))
    )
    steps = len(hoisted.schedule.passes)
    assert steps == 10
    assert pass_traffic(hoisted, 0) == pass_traffic(repeated, 0) == pass_traffic(repeated, -1)
    assert pass_traffic(hoisted, -1) < pass_traffic(hoisted, 0)


def test_phases_may_be_placed_differently() -> None:
    options = Options(strategy="resident", phase_strategies={"prefill": "host-stream"})
    result = simulate(planned(), options)
    prefill, decode = result.phases
    assert prefill.name == "prefill"
    causes = {f.cause for f in result.schedule.passes[0].steps.fetches if f is not None}
    assert "streaming" in causes
    assert result.schedule.counts.reloads > 0  # decode fetches again what prefill let go
    assert not decode.stall_s or pass_traffic(result, -1) == 0


def test_instructions_loaded_once_or_streamed_in_every_pass() -> None:
    plan = planned(program_bytes=1_000_003)
    loaded = simulate(plan, Options(strategy="resident", phases=DECODE, warm=True))
    streamed = simulate(plan, Options(strategy="resident", phases=DECODE, warm=True, instructions="streamed"))
    assert link_bytes(loaded, "usb2") == 0
    assert link_bytes(streamed, "usb2") == 5 * 1_000_003
    here, gone = (r.schedule.passes[0].others_bytes for r in (loaded, streamed))
    assert here - gone == 1_000_003


def test_decompression_is_one_more_stage_with_its_own_rate() -> None:
    slow = simulate(
        planned(),
        Options(strategy="host-stream", phases=DECODE, decompress_bytes_per_s=1e6, prefetch_depth=4),
    )
    assert slow.main.bound == "link:decompress"
    assert link_bytes(slow, "decompress") == link_bytes(slow, "usb2")
    assert slow.main.pass_times_s[-2] == pytest.approx(pass_traffic(slow, 1) / 1e6, rel=0.01)


def test_dma_that_shares_bandwidth_takes_the_sum() -> None:
    apart = simulate(planned(), Options(strategy="host-stream", phases=DECODE, warm=True))
    shared = simulate(planned(), Options(strategy="host-stream", phases=DECODE, dma_shared=True))
    work = sum(w for p in shared.schedule.passes for w in p.steps.work)
    moving = link_bytes(shared, "usb2") / 38e6
    assert shared.time_s == pytest.approx(work + moving)
    assert apart.time_s < shared.time_s
    assert shared.main.overlap_fraction == pytest.approx(0, abs=1e-9)


def test_wrapping_and_depth_hide_the_start_of_a_token() -> None:
    times = [
        simulate(
            planned(), Options(strategy="host-stream", phases=DECODE, wrap=wrap, prefetch_depth=depth)
        ).time_s
        for wrap, depth in ((True, 4), (True, 2), (False, 2), (False, 1))
    ]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_more_memory_is_faster_until_it_is_not_really_free() -> None:
    overrides = ("dram.free=6GiB", "dram.capacity=64GiB")
    speeds = []
    for gib in (4, 5, 6, 7, 8):
        plan = planned("llama-3.1-8b", "desktop-ddr5", overrides, new=4)
        options = Options(
            strategy="layer-swap", policy="pin-spread", capacity_bytes=gib * 2**30 - 2**29, phases=DECODE
        )
        result = simulate(plan, options)
        assert result.tokens_per_s_steady is not None
        speeds.append(result.tokens_per_s_steady)
        assert (result.schedule.page_ins > 0) == (gib > 6)
    assert speeds[0] < speeds[1] < speeds[2]
    assert speeds[3] < speeds[2]


def test_a_machine_that_states_energy_is_added_up() -> None:
    costs = ("ddr3.energy=20pJ", "usb2.energy=300pJ", "dsp.energy=2pJ")
    result = simulate(planned(overrides=costs), Options(phases=DECODE))
    flop = sum(t.flop for p in result.schedule.passes for t in p.demand.turns)
    moved = link_bytes(result, "ddr3") * 20e-12 + link_bytes(result, "usb2") * 300e-12
    assert result.energy_j == pytest.approx(flop * 2e-12 + moved)
    assert simulate(planned(overrides=costs[:2]), Options(phases=DECODE)).energy_j is None


def test_break_even_rates_do_what_they_say() -> None:
    options = Options(strategy="host-stream", phases=DECODE, prefetch_depth=4)
    result = simulate(planned(new=9), options)
    points = break_even(result, wanted_tokens_per_s=3.0)
    assert points.link == "usb2"
    assert points.resident_rate_bytes_per_s is not None
    assert points.wanted_rate_bytes_per_s is not None
    resident = simulate(planned(new=9), Options(strategy="resident", phases=DECODE, warm=True))
    assert points.resident_pass_s == pytest.approx(resident.main.pass_times_s[-1])
    for rate, seconds in (
        (points.resident_rate_bytes_per_s, 1.01 * points.resident_pass_s),
        (points.wanted_rate_bytes_per_s, 1 / 3),
    ):
        overrides = ("usb2.peak=9GB/s", f"usb2.sustained={rate / 1e6:.6f}MB/s")
        there = simulate(planned(new=9, overrides=overrides), options)
        assert there.main.pass_times_s[-2] == pytest.approx(seconds, rel=0.02)


def test_reloads_end_exactly_where_break_even_says() -> None:
    probe = simulate(planned(), Options(strategy="layer-swap", capacity_bytes=60_000_000, phases=DECODE))
    least = break_even(probe).no_reload_capacity_bytes
    reloads = [
        simulate(
            planned(), Options(strategy="layer-swap", policy="lru", capacity_bytes=capacity, phases=DECODE)
        ).schedule.counts.reloads
        for capacity in (least, least - 1)
    ]
    assert reloads[0] == 0 < reloads[1]


def test_unknown_things_are_said_not_guessed() -> None:
    with pytest.raises(InputError, match="vision"):
        simulate(planned(), Options(phases=("vision",)))
    with pytest.raises(InputError, match="1,000,000"):
        simulate(planned(new=10**8), Options(phases=DECODE))
    plan = planned()
    machine = plan.machine
    nameless = replace(machine, tiers=(replace(machine.fast, rate=None), *machine.tiers[1:]))
    with pytest.raises(UnknownRateError, match="ddr3"):
        simulate(replace(plan, machine=nameless), Options())


def test_the_same_seed_gives_the_same_trace() -> None:
    options = Options(strategy="layer-swap", policy="random", seed=11, capacity_bytes=60_000_000)
    assert simulate(planned(), options).events == simulate(planned(), options).events


def test_percentiles_are_nearest_ranks() -> None:
    result = simulate(planned(new=37), Options(phases=DECODE, warm=True))
    times = sorted(result.main.pass_times_s)
    assert result.main.percentile_s(0.5) == times[18]
    assert result.main.percentile_s(0.99) == times[36]


PEER_TO_PEER = """
title = "A card that reads a drive itself"
[tiers.hbm]
capacity = { value = "60MB", kind = "assumed", source = "test" }
peak = { value = "100GB/s", kind = "assumed", source = "test" }
[tiers.dram]
capacity = { value = "30MB", kind = "assumed", source = "test" }
[tiers.drive]
capacity = { value = "1GB", kind = "assumed", source = "test" }
[links.pcie]
from = "dram"
to = "hbm"
peak = { value = "6GB/s", kind = "assumed", source = "test" }
[links.disk]
from = "drive"
to = "dram"
peak = { value = "2GB/s", kind = "assumed", source = "test" }
"""
DIRECT = """
[links.p2p]
from = "drive"
to = "hbm"
peak = { value = "2GB/s", kind = "assumed", source = "test" }
"""


def test_peer_to_peer_bypasses_the_tier_between(tmp_path: Path) -> None:
    used, speed = {}, {}
    for name, text in (("chain", PEER_TO_PEER), ("direct", PEER_TO_PEER + DIRECT)):
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        result = simulate(planned(on=str(path)), Options(strategy="tiered", phases=DECODE))
        used[name] = {f.path for p in result.schedule.passes for f in p.steps.fetches if f is not None}
        speed[name] = result.tokens_per_s_steady or 0.0
    assert used == {"chain": {("pcie",), ("disk", "pcie")}, "direct": {("pcie",), ("p2p",)}}
    # both links feed the card at once, and none of the drive's bytes crosses the other
    assert speed["direct"] > speed["chain"]


def test_layers_too_large_to_stage_are_cut_as_the_planner_cuts_them() -> None:
    plan = planned("llama-3.1-70b", "nexys-video")
    assert plan.strategy == "streamed"
    result = simulate(plan, Options(phases=DECODE))
    assert result.strategy == "tiered"
    assert result.options.granularity == "tile"
    assert all(p.resident_bytes <= 512 * 2**20 for p in result.schedule.passes)


def test_where_no_layer_of_the_pass_streams_none_is_cut() -> None:
    """Only part of a table that is read by the row has no room: the planner stages nothing."""
    workload = Workload.of(images=1, context=1024)
    stored = Costing(Precision.of())
    plan = plan_with(open_model("smolvlm2-256m"), load_machine("nexys-video"), workload, stored)
    assert (plan.strategy, plan.residency.placement.slot_bytes) == ("streamed", 0)
    result = simulate(plan, Options(phases=DECODE, passes=2))
    layers = sum(len(c.layers) for c in plan.model.components)
    assert result.schedule.counts.cold_loads <= layers


def test_a_cache_that_looks_ahead_never_evicts_what_is_still_in_use() -> None:
    small = Options(strategy="layer-swap", policy="fifo", capacity_bytes=10_000_000, phases=DECODE)
    assert simulate(planned(), small).schedule.counts.hits == 0
    # four layers at once, three in use and one on its way, do not fit in 10 MB
    with pytest.raises(BudgetError, match="--prefetch-depth"):
        simulate(planned(), replace(small, prefetch_depth=4))
    # with room for them, looking ahead moves the same bytes in less time
    larger = replace(small, capacity_bytes=40_000_000)
    one, four = (simulate(planned(), replace(larger, prefetch_depth=d)) for d in (1, 4))
    assert link_bytes(one, "usb2") == link_bytes(four, "usb2")
    assert four.time_s < one.time_s
