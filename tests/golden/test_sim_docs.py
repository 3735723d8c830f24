"""The tables of docs/simulator.md are what the simulator says; run this file to write them anew."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.place.cache import Belady, Cache, Fifo, Found, Lru, Pinned, Policy, RandomChoice, walk
from tierline.place.placement import Unit, place
from tierline.plan.build import build_plan
from tierline.plan.plan import Plan
from tierline.sim.kernel import LinkSpec
from tierline.sim.options import Options
from tierline.sim.pipeline import Fetch, Pass, Pipeline, run
from tierline.sim.simulate import SimResult, simulate

DOCS = Path(__file__).parents[2] / "docs" / "simulator.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
DECODE = ("decode",)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
    return "\n".join((title, "", *lines))


def tables() -> str:
    return "\n\n".join((board(), caches(), unit_case(), where_to_pin(), cliff(), gpu()))


def plan(on: str, overrides: tuple[str, ...] = (), weights: str = "mxfp8:block=8", **work: int) -> Plan:
    model = "llama-3.1-70b" if on == "rtx-3090" else "smolvlm2-256m"
    return build_plan(
        open_model(model), load_machine(on, overrides), Workload.of(**work), Precision.of(weights=weights)
    )


def rate(result: SimResult) -> str:
    speed = result.tokens_per_s_steady
    return "-" if speed is None else f"{speed:.2f}" if speed >= 1 else f"{speed:.3f}"


def board() -> str:
    """SmolVLM2-256M on the boards: what the published analysis asks, strategy by strategy."""
    nexys, artix = plan("nexys-video", context=1024, new=10), plan("artix7-pcie", context=1024, new=10)
    short = {"strategy": "layer-swap", "capacity_bytes": 151_000_000}
    cases: list[tuple[str, Plan, dict[str, object]]] = [
        ("resident", nexys, {"strategy": "resident", "warm": True}),
        ("host-stream over USB 2.0", nexys, {"strategy": "host-stream", "prefetch_depth": 4}),
        ("layer-swap in 512 MiB, fifo", nexys, {"strategy": "layer-swap", "policy": "fifo"}),
        *(
            (f"layer-swap in 151 MB, {p}", nexys, {**short, "policy": p})
            for p in ("fifo", "random", "belady")
        ),
        *(
            (f"layer-swap in 151 MB, {p}", nexys, {**short, "policy": p})
            for p in ("pin-prefix", "pin-spread")
        ),
        ("KV in the host", nexys, {"strategy": "kv-offload", "warm": True}),
        ("custom board, DDR3 alone", artix, {"strategy": "resident", "warm": True}),
        ("custom board, PCIe alone", artix, {"strategy": "host-stream", "prefetch_depth": 4}),
        ("custom board, both at once", artix, {"strategy": "tiered", "warm": True}),
    ]
    rows = []
    for name, planned, options in cases:
        result = simulate(planned, Options(phases=DECODE, **options))  # type: ignore[arg-type]
        counts = result.schedule.counts
        over = sum(link.traffic_bytes for link in result.links[1:])
        stall = result.main.stall_s_per_pass
        rows.append(
            [
                name,
                f"{over:,}",
                str(counts.cold_loads),
                str(counts.evictions),
                str(counts.reloads),
                f"{stall:.3f}",
                rate(result),
                result.main.bound,
            ]
        )
    title = (
        "SmolVLM2-256M in mxfp8:block=8, ten decode steps up to a context of 1,024, bytes over the host link:"
    )
    columns = ["case", "bytes", "cold loads", "evictions", "reloads", "stall s/token", "tok/s", "bound"]
    return table(title, columns, rows)


def caches() -> str:
    """Hit rates on a cycle, against their closed forms."""
    rows = []
    for capacity in (40, 60, 76):
        uses = [unit for _ in range(80) for unit in range(80)]
        policies: list[Policy] = [Lru(), RandomChoice(0), Belady(uses), Belady(uses, bypass=True)]
        policies.append(Pinned(frozenset(range(capacity - 1))))
        shares = []
        for policy in policies:
            found = walk(Cache(capacity, policy), [(unit, 1) for unit in uses])[80:]
            shares.append(f"{found.count(Found.HIT) / len(found):.3f}")
        rows.append([str(capacity), *shares])
    title = "Hits on a cycle of 80 equal units, averaged over 79 warm passes:"
    return table(title, ["capacity", "lru = fifo", "random", "belady", "belady-bypass", "pin C-1"], rows)


def unit_case() -> str:
    """Thirty layers of 9.6 MB, ten passes."""
    rows = []
    for capacity in (288_000_000, 287_000_000, 144_000_000):
        moved = [_moved(capacity, None)] + [_moved(capacity, tile) for tile in (9_600_000, 100_000)]
        rows.append([f"{capacity // 10**6} MB", *(f"{count / 1e6:,.0f} MB" for count in moved)])
    title = "Bytes moved in ten passes over 30 layers of 9.6 MB:"
    return table(title, ["capacity", "fifo", "pinned by layer", "pinned by 100 kB"], rows)


def _moved(capacity: int, tile_bytes: int | None) -> int:
    size = tile_bytes or 9_600_000
    units = [Unit(f"{i}", size) for i in range(288_000_000 // size)]
    cache = Cache(capacity, Fifo())
    if tile_bytes is not None:
        placed = place(units, capacity, slots=1, slot_bytes=9_600_000)
        assert placed is not None
        cache = Cache(capacity - placed.staging_bytes, Pinned(frozenset(u.name for u in placed.pinned)))
    walk(cache, [(u.name, u.footprint_bytes) for u in units] * 10)
    return cache.counts.moved_bytes


def where_to_pin() -> str:
    """The period of a token when half of 80 layers is pinned."""
    rows = []
    for transfer in (1, 2, 4):
        orders = ([False] * 40 + [True] * 40, [False, True] * 40)
        periods = [
            _period(orders[0], transfer, 2),
            _period(orders[1], transfer, 2),
            _period(orders[1], transfer, 1),
        ]
        rows.append([str(transfer), *(f"{value:g}" for value in periods)])
    title = "Steps per token, 80 layers of which 40 are pinned, two slots, a transfer of x steps:"
    return table(title, ["x", "pinned prefix", "spread", "spread, on demand"], rows)


def _period(order: Sequence[bool], transfer: int, depth: int) -> float:
    fetches = [Fetch("unit", transfer, ("link",)) if streamed else None for streamed in order]
    one = Pass(["unit"] * len(order), fetches, [1.0] * len(order))
    ends = run(Pipeline({"link": LinkSpec("link", 1.0)}, depth), [one] * 3).ends
    return float(ends[-1] - ends[-1 - len(order)])


def cliff() -> str:
    """Speed against the memory that weights may use where 6 GiB are really free."""
    rows = []
    for gib in (4, 5, 6, 7, 8):
        planned = build_plan(
            open_model("llama-3.1-8b"),
            load_machine("desktop-ddr5", ("dram.free=6GiB",)),
            Workload.of(prompt_tokens=31, new=4),
            Precision.of(weights="mxfp8:block=8"),
        )
        options = Options(
            strategy="layer-swap", policy="pin-spread", capacity_bytes=gib * 2**30 - 2**29, phases=DECODE
        )
        result = simulate(planned, options)
        rows.append([f"{gib - 0.5} GiB", str(result.schedule.page_ins), rate(result)])
    title = "Llama-3.1-8B in mxfp8:block=8 from NVMe, 6 GiB of memory really free (the cliff):"
    return table(title, ["weights may use", "page-ins", "tok/s"], rows)


def gpu() -> str:
    """The published runs of a 70B model on a 24 GB card at PCIe 3.0 x8."""
    rows = []
    for weights, kept, published in (("q6_k", 26, "0.18-0.2"), ("q4_k_m", 36, "0.3")):
        overrides = ("pcie.gen=3", "pcie.lanes=8", "host.capacity=48GiB")
        planned = plan("rtx-3090", overrides, weights, prompt_tokens=32, new=6)
        for name, capacity in (("published", room_for(planned, kept)), ("capacities alone", None)):
            result = simulate(planned, Options(strategy="tiered", phases=DECODE, capacity_bytes=capacity))
            streamed = streamed_layers(result)
            rows.append([weights, name, f"{80 - streamed} / {streamed}", published, rate(result)])
    title = "Llama-3.1-70B on an RTX 3090, PCIe 3.0 x8, 48 GiB of host memory, layers in VRAM / host:"
    return table(title, ["weights", "tier sizes", "layers", "published tok/s", "simulated tok/s"], rows)


def room_for(planned: Plan, layers: int) -> int:
    """Return the bytes in which so many layers stay beside the head and two slots of the largest unit."""
    sizes = [n for n in _layer_bytes(planned) if n > 100e6]
    blocks, head = sorted(sizes)[:80], max(sizes)
    return layers * sum(blocks) // len(blocks) + head + 2 * max(blocks) + 2**20


def _layer_bytes(planned: Plan) -> Iterator[int]:
    from tierline.cost.weights import weigh

    weights = weigh(planned.model, planned.costing.precision)
    for entry in weights.of(tuple(c.name for c in planned.model.components)):
        yield entry.weights.stored_bytes


def streamed_layers(result: SimResult) -> int:
    names = {f.name for f in result.schedule.passes[-1].steps.fetches if f is not None}
    return sum(".layers." in name for name in names)


def test_the_tables_are_what_the_simulator_says() -> None:
    text = DOCS.read_text(encoding="utf-8")
    generated = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert generated == tables()


if __name__ == "__main__":
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCS.write_text(f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}", encoding="utf-8")
