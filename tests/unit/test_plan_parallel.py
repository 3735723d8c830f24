"""Plans over several devices: against sums by hand, the single device, and the simulator."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import tierline
from tierline.cli.main import main
from tierline.cost.bubble import pipeline_s, round_s
from tierline.cost.collectives import fastest_all_reduce, ring_all_reduce
from tierline.cost.costing import Costing
from tierline.cost.split import Split
from tierline.errors import InputError
from tierline.formats.precision import Precision
from tierline.machines.machine import Machine
from tierline.models.workload import Workload
from tierline.plan.best_split import splits
from tierline.plan.build import plan_with
from tierline.plan.parallel import device_s
from tierline.plan.plan import Plan
from tierline.sim.devices import simulate_devices

NUMBER = '{{ value = "{}", kind = "assumed", source = "test" }}'


def number(value: str) -> str:
    return NUMBER.format(value)


def cluster(tmp_path: Path, devices: int = 4, topology: str = "switch", extra: str = "") -> Machine:
    """Return a machine of prime rates: devices with a memory, a host link and what joins them."""
    (tmp_path / "host.toml").write_text(
        f"[tiers.dram]\ncapacity = {number('4GiB')}\n[tiers.disk]\ncapacity = {number('1TiB')}\n"
        f'[links.ssd]\nfrom = "disk"\nto = "dram"\nsustained = {number("1.3GB/s")}\n'
    )
    (tmp_path / "card.toml").write_text(
        f'host = "{tmp_path}/host.toml"\n'
        f"[tiers.vram]\ncapacity = {number('24GiB')}\nsustained = {number('97GB/s')}\n"
        f'[links.bus]\nfrom = "host"\nto = "vram"\nsustained = {number("7GB/s")}\n'
        f"[compute.gpu]\nbf16 = {{ sustained = {number('11TFLOP/s')} }}\n"
    )
    (tmp_path / "cluster.toml").write_text(
        f'[[devices]]\nmachine = "{tmp_path}/card.toml"\ncount = {devices}\n'
        f'[interconnects.wire]\ntopology = "{topology}"\nsustained = {number("3GB/s")}\n'
        f"latency = {number('5us')}\n{extra}"
    )
    return tierline.machine(tmp_path / "cluster.toml")


def planned(machine: Machine, split: str | None, model: str = "llama-3.2-1b", **workload: int) -> Plan:
    asked = Workload.of(**{"prompt_tokens": 131, "new": 7, **workload})
    precision = Precision.of(weights="bf16", kv="bf16", activations="bf16", keep=())
    costing = Costing(precision, split=None if split is None else Split.parse(split))
    return plan_with(tierline.model(model), machine, asked, costing)


def test_one_device_of_several_is_planned_as_it_is_alone(tmp_path: Path) -> None:
    machine = cluster(tmp_path)
    alone, split = planned(machine, None), planned(machine, "tp=1")
    assert split.footprint == alone.footprint
    for a, b in zip(alone.phases, split.phases, strict=True):
        assert (a.time_s, a.flop, a.weight_read_bytes, a.bound) == (
            b.time_s,
            b.flop,
            b.weight_read_bytes,
            b.bound,
        )


def test_tensor_parallelism_divides_the_work_and_adds_the_sums(tmp_path: Path) -> None:
    machine = cluster(tmp_path)
    alone, split = planned(machine, None), planned(machine, "tp=4", batch=3)
    alone = planned(machine, None, batch=3)
    decode, whole = split.phase("decode"), alone.phase("decode")
    assert decode is not None
    assert whole is not None
    assert decode.flop == whole.flop
    assert split.footprint.kv_cache_bytes == alone.footprint.kv_cache_bytes
    assert split.parallel is not None
    device = split.parallel.devices[2]
    # by hand: a token's 2048 bf16 numbers of 3 sequences, summed over 4 devices behind attention and
    # feed-forward of 16 layers and behind the table; logits gathered
    reduced = fastest_all_reduce(3 * 2048, 4, 2, 3e9, 5e-6, "switch")
    reduced_s = (2 * 16 + 1) * 7 * reduced.time_s(3e9, 5e-6)
    gathered_s = 7 * (3 * 5e-6 + 3 * (3 * 128256 // 4) * 2 / 3e9)
    found_s = sum(use.time_s for use in device.uses if use.phase == "decode")
    assert found_s == pytest.approx(reduced_s + gathered_s)
    own = device.plan.phase("decode")
    assert own is not None
    assert own.time_s is not None
    assert decode.time_s == pytest.approx(own.time_s + found_s)
    assert decode.tokens_per_s == pytest.approx(3 * 7 / (own.time_s + found_s))


def test_bytes_over_the_interconnect_are_those_of_the_collectives(tmp_path: Path) -> None:
    split = planned(cluster(tmp_path), "tp=4", batch=3)
    prefill = split.phase("prefill")
    assert prefill is not None
    wire = next(x for x in prefill.links if x.name == "wire")
    rows = 3 * 131
    reduced = ring_all_reduce(rows * 2048, 4, 2)
    assert reduced.algorithm == "ring"
    gathered = 3 * 3 * 128256 * 2  # n - 1 times the logits of the last positions
    assert wire.traffic_bytes == pytest.approx(33 * reduced.total_bytes + gathered, rel=1e-6)


def test_a_bus_carries_all_bytes_and_a_group_reaches_only_its_neighbours(tmp_path: Path) -> None:
    switch = planned(cluster(tmp_path, 4), "tp=4")
    bus = planned(cluster(tmp_path, 4, "bus"), "tp=4")
    slower = [p.time_s for plan in (switch, bus) for p in plan.phases[:1]]
    assert slower[0] is not None
    assert slower[1] is not None
    assert slower[1] > slower[0]
    pairs = cluster(tmp_path, 4, extra="group = 2\n")
    planned(pairs, "tp=2,dp=2", batch=2)
    with pytest.raises(InputError, match="nothing joins"):
        planned(pairs, "tp=4")
    both = cluster(
        tmp_path,
        4,
        extra=f'group = 2\n[interconnects.net]\ntopology = "switch"\nsustained = {number("1GB/s")}\n',
    )
    made = planned(both, "tp=2,pp=2")
    assert made.parallel is not None
    uses = {(u.group, u.link) for d in made.parallel.devices for u in d.uses}
    assert uses == {("tp", "wire"), ("pp", "net")}


@pytest.mark.parametrize("micro", [1, 2, 5])
def test_a_pipeline_takes_its_formula(tmp_path: Path, micro: int) -> None:
    split = planned(cluster(tmp_path), f"pp=4,micro={micro}", batch=10)
    assert split.parallel is not None
    for phase, staged in zip(split.phases, split.parallel.phases, strict=True):
        stage_s = [s for s in staged.stage_s if s is not None]
        assert len(stage_s) == 4
        whole = pipeline_s(stage_s, micro) if phase.name == "prefill" else 7 * round_s(stage_s, micro)
        assert phase.time_s == pytest.approx(whole)
        busy = micro * sum(stage_s) / (4 * whole / (1 if phase.name == "prefill" else 7))
        assert staged.bubble_fraction == pytest.approx(1 - busy)
    assert (
        split.footprint.kv_cache_bytes == planned(cluster(tmp_path), None, batch=10).footprint.kv_cache_bytes
    )


@pytest.mark.parametrize(
    ("split", "batch"),
    [("tp=4", 1), ("pp=4", 3), ("pp=2,tp=2,micro=3", 6), ("dp=2,tp=2", 2), ("dp=2,pp=2,micro=2", 4)],
)
def test_the_simulator_agrees_with_the_plan_step_by_step(tmp_path: Path, split: str, batch: int) -> None:
    plan = planned(cluster(tmp_path), split, batch=batch)
    result = simulate_devices(plan)
    for phase, run in zip(plan.phases, result.phases, strict=True):
        assert run.passes == phase.passes
        assert phase.time_s is not None
        # a plan takes the larger of sums, a simulation the sum of the larger of each step
        assert run.time_s >= phase.time_s * (1 - 1e-9)
        assert run.time_s <= phase.time_s * 1.12
        sent = sum(b.traffic_bytes for name, b in run.links.items() if "wire" in name)
        assert bool(sent) == any(x.name == "wire" for x in phase.links)


def test_a_simulated_pipeline_is_its_recurrence(tmp_path: Path) -> None:
    plan = planned(cluster(tmp_path), "pp=4,micro=3", batch=9)
    assert plan.parallel is not None
    run = simulate_devices(plan, ["prefill"]).phases[0]
    port, flops = 97e9, 11e12
    stage_s = []
    for device in plan.parallel.devices:
        phase = device.plan.phase("prefill")
        assert phase is not None
        own = sum(max(s.flop / flops, sum(r.traffic_bytes for r in s.reads) / port) for s in phase.steps)
        stage_s.append(own + sum(u.time_s for u in device.uses if u.phase == "prefill"))
    free, done = [0.0] * 4, 0.0
    for _ in range(3):
        ready = 0.0
        for i, seconds in enumerate(stage_s):
            ready = free[i] = max(ready, free[i]) + seconds
        done = ready
    assert run.time_s == pytest.approx(done)


def test_streamed_shards_share_the_disk_of_their_host(tmp_path: Path) -> None:
    machine = cluster(tmp_path, 2)
    plan = planned(machine, "tp=2", "llama-3.1-70b", new=3)
    assert plan.strategy == "streamed"
    assert plan.parallel is not None
    decode = plan.phase("decode")
    assert decode is not None
    assert decode.time_s is not None
    streamed = sum(d.plan.residency.streamed_bytes for d in plan.parallel.devices)
    assert decode.time_s >= 3 * 0.9 * streamed / 1.3e9
    run = simulate_devices(plan, ["decode"]).phases[0]
    assert run.time_s == pytest.approx(decode.time_s, rel=0.03)
    assert run.links["ssd"].busy_s / run.time_s > 0.95
    with pytest.raises(InputError, match="simulate_devices"):
        tierline.simulate(plan)


def test_uneven_experts_slow_the_busiest_device(tmp_path: Path) -> None:
    machine = cluster(tmp_path, 4)
    even = planned(machine, "ep=4", "mixtral-8x7b", batch=4)
    assert even.parallel is not None
    shares = (8.0, 8.0, *[1.0] * 6)
    skewed = plan_with(even.model, machine, even.workload, replace(even.costing, expert_shares=shares))
    assert skewed.parallel is not None
    for phase in ("prefill", "decode"):
        assert even.parallel.devices[0].imbalance[phase] > 1
        assert skewed.parallel.devices[0].imbalance[phase] > even.parallel.devices[0].imbalance[phase]
    # both experts that a token visits most are on the first device: nearly all visits, of four devices'
    assert 2.5 < skewed.parallel.devices[0].imbalance["prefill"] < 4
    device, own = even.parallel.devices[0], even.parallel.devices[0].plan.phase("prefill")
    assert own is not None
    assert own.time_s is not None
    assert device_s(device, own) == pytest.approx(own.time_s * device.imbalance["prefill"], rel=1e-6)


def test_the_best_split_is_the_fastest_of_all_that_fit(tmp_path: Path) -> None:
    machine = cluster(tmp_path, 4)
    best = planned(machine, "auto", batch=4)
    every = []
    for split in splits(best.model, best.workload, 4):
        plan = plan_with(best.model, machine, best.workload, replace(best.costing, split=split))
        decode = plan.phase("decode")
        assert decode is not None
        assert decode.tokens_per_s is not None
        every.append((plan.fits, decode.tokens_per_s, str(split)))
    assert len(every) >= 10
    found = best.phase("decode")
    assert found is not None
    assert (best.fits, found.tokens_per_s) == max(every)[:2]
    assert not best.costing.split.auto if best.costing.split else False


def test_a_model_that_fits_no_device_is_split_until_it_does(tmp_path: Path) -> None:
    machine = cluster(tmp_path, 4)
    assert not planned(machine, None, "mistral-small-24b").fits
    best = planned(machine, "auto", "mistral-small-24b")
    assert best.fits
    assert best.costing.split is not None
    assert best.costing.split.tp * best.costing.split.pp >= 4


@pytest.mark.parametrize(
    ("split", "why"),
    [("tp=5", "takes 5 devices, cluster has 4"), ("ep=2", "has no experts"), ("pp=2,micro=3", "micro=3"),
     ("tp=3", "tp may be 2, 4"), ("ep=16", "takes 16")],
)  # fmt: skip
def test_splits_that_cannot_be_are_refused(tmp_path: Path, split: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        planned(cluster(tmp_path), split)


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "no KEY=VALUE"), ("tp", "no KEY=VALUE"), ("tp=0", "1 to 1,024"), ("tp=2,tp=2", "twice"),
     ("qp=2", "unknown key"), ("tp=1e9", "1 to 1,024"), ("pp=2,layers=1:2:3", "3 stages"),
     ("layers=memory", "one stage"), ("pp=2,layers=y", "proportions"), ("zero=1", "one replica"),
     ("tp=" + "9" * 5000, "1 to 1,024"), ("pp=2,layers=nan:1", "proportions")],
)  # fmt: skip
def test_what_is_no_split_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        Split.parse(text)


@pytest.mark.parametrize(
    "text", ["auto", "tp=4", "tp=2,pp=3,ep=5,dp=7,micro=2", "pp=2,layers=memory", "pp=2,layers=3:2"]
)
def test_a_split_is_written_as_it_is_read(text: str) -> None:
    assert str(Split.parse(text)) == text
    assert Split.parse(str(Split.parse(text))) == Split.parse(text)
    assert Split.parse(text.replace(",", "x")) == Split.parse(text)  # as an axis of a sweep has it


def test_the_command_line_gives_every_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster(tmp_path)
    arguments = ["llama-3.2-1b", "--on", str(tmp_path / "cluster.toml"), "--parallel", "tp=2,pp=2", "--json"]
    for verb in ("plan", "simulate"):
        with pytest.raises(SystemExit) as end:
            main([verb, *arguments])
        assert not end.value.code
        document = json.loads(capsys.readouterr().out)
        if verb == "simulate":
            assert document["tokens_per_s_steady"] > 0
            assert len(document["phases"][0]["devices"]) == 4
            continue
        assert [d["name"][-1] for d in document["devices"]] == ["0", "1", "2", "3"]
        for device in document["devices"]:
            assert device["weights_bytes"] > 0
            assert device["kv_cache_bytes"] > 0
            assert {"vram", "wire"} <= {x["name"] for x in device["links"]}
        assert document["parallel"]["layers"] == [8, 8]
        held = sum(d["kv_cache_bytes"] for d in document["devices"])
        assert held == document["footprint"]["kv_cache_bytes"]


def test_what_a_simulation_of_devices_does_not_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster(tmp_path)
    arguments = ["simulate", "llama-3.2-1b", "--on", str(tmp_path / "cluster.toml"), "--parallel", "tp=2"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--strategy", "layer-swap"])
    assert end.value.code == 2
    assert "only --phase and --trace" in capsys.readouterr().err.replace("\n", " ")


def test_memories_are_each_devices_own_and_the_hosts_are_common() -> None:
    plan = tierline.plan("gpt-oss-120b", "alveo-u280-x2", weights="mxfp4", parallel="tp=2")
    names = [tier.name for tier in plan.tiers]
    assert names[:4] == [f"alveo-u280-{i} {tier}" for i in (0, 1) for tier in ("hbm", "ddr4")]
    assert names[4:] == ["host", "nvme"]
    assert all(tier.used_bytes <= tier.allowed_bytes for tier in plan.tiers)
    streamed = tierline.plan("llama-3.1-70b", "rtx-3090-x2", parallel="tp=2")
    assert streamed.parallel is not None
    held = [d.plan.residency.streamed_bytes for d in streamed.parallel.devices]
    assert next(t for t in streamed.tiers if t.name == "nvme").used_bytes == sum(held)


def test_a_link_that_stages_share_takes_the_time_of_all_its_bytes(tmp_path: Path) -> None:
    plan = planned(cluster(tmp_path, 2), "pp=2", "llama-3.1-70b")
    decode = plan.phase("decode")
    assert decode is not None
    (disk,) = (use for use in decode.links if use.name == "ssd")
    assert disk.traffic_bytes > 0
    assert disk.time_s == pytest.approx(disk.traffic_bytes / 1.3e9, rel=1e-12)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            ["qwen3-30b-a3b", "--parallel", "tp=8"],
            "96.0 MiB of KV cache",
        ),  # 4 key heads: each of 96 MiB twice
        (["mixtral-8x7b", "--parallel", "ep=8", "--batch", "8"], "decode: the device whose experts"),
    ],
)
def test_the_text_says_what_is_held_twice_and_who_is_busiest(
    asked: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *asked, "--on", "dgx-h100"])
    assert not ended.value.code
    assert said in capsys.readouterr().out
