"""The engine's own plan as passes of the simulator: its tiles, in its order, over its one link."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import cycle

from tierline.run.experts.expected import Routed
from tierline.run.tiles import Tile
from tierline.run.weights import WeightPlan
from tierline.sim.kernel import LinkSpec, Number
from tierline.sim.pipeline import Fetch, Pass, Pipeline

_CACHE_PIECES = 8  # a piece of the cache takes at most this part of the ring


DISK = "disk"  # before a host tier


@dataclass(frozen=True, slots=True)
class Workload:
    """A prompt of `prompt_tokens` in `prefill_passes` chunks, then `decode_passes` single tokens.

    `prefill_s` is what compute takes for the whole prompt, `decode_s` for one token. A decode pass reads
    `cache_read_bytes` of keys and values from disk besides. What experts take of it all is in
    `prefill_routed` (one pass) and `decode_routed`, None for a dense model.
    """

    prompt_tokens: int
    prefill_passes: int
    decode_passes: int
    prefill_s: float
    decode_s: float
    cache_read_bytes: int = 0
    prefill_routed: Routed | None = None
    decode_routed: Routed | None = None


@dataclass(frozen=True, slots=True)
class DiskBefore:
    """The disk before a host tier: what a pass reads there, by tile, at `bytes_per_s`, by so many readers."""

    reads: Mapping[str, int]
    bytes_per_s: float
    readers: int


@dataclass(frozen=True, slots=True)
class LinkRate:
    """The link that weights come over, or `count` alike, among which tiles alternate.

    With `disk`, some of them come from there first, through a host's memory.
    """

    name: str
    bytes_per_s: float
    latency_s: float = 0.0
    count: int = 1
    disk: DiskBefore | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each."""
        return (self.name,) if self.count == 1 else tuple(f"{self.name} {i}" for i in range(self.count))


def pipeline_of(plan: WeightPlan, link: LinkRate | None, guess_bytes: int = 0) -> Pipeline:
    """Return the engine's pipeline: a ring of bytes, and as many reads in flight as it has readers.

    What guesses at experts have of memory is part of the ring.
    """
    if link is None:
        return Pipeline({})
    in_flight = max(1, plan.readers // link.count)
    specs = {n: LinkSpec(n, link.bytes_per_s, link.latency_s, in_flight=in_flight) for n in link.names}
    if link.disk is not None:
        specs[DISK] = LinkSpec(DISK, link.disk.bytes_per_s, in_flight=link.disk.readers)
    return Pipeline(specs, staging_bytes=plan.placement.staging_bytes + guess_bytes)


def passes_of(plan: WeightPlan, work: Workload, link: LinkRate | None) -> Iterator[Pass]:
    """Yield the passes over the prompt, then those of decode, which are all alike.

    Every pass reads its rows of tables on demand first, then uses the tiles in the engine's order: streamed
    ones are fetched, in whole sectors. The engine begins with a full ring. Compute is shared among tiles by
    their bytes.
    """
    rows = work.prompt_tokens // work.prefill_passes
    prefill = _pass(plan, link, rows, work.prefill_s / work.prefill_passes, work.prefill_routed)
    yield replace(prefill, fetches=list(_read_ahead(prefill.fetches, plan.placement.staging_bytes)))
    yield from (prefill for _ in range(work.prefill_passes - 1))
    decode = _pass(plan, link, 1, work.decode_s, work.decode_routed)
    if link is not None and work.cache_read_bytes:
        decode = _with_cache(decode, work.cache_read_bytes, link, plan.placement.staging_bytes)
    yield from (decode for _ in range(work.decode_passes))


def _pass(
    plan: WeightPlan, link: LinkRate | None, rows: int, compute_s: float, routed: Routed | None
) -> Pass:
    if routed is not None:
        others = _pass(plan, link, rows, max(0.0, compute_s - routed.compute_s), None)
        return _with_experts(others, routed, link)
    paths = cycle([()] if link is None else [(name,) for name in link.names])
    path = next(paths)
    streamed, disk = iter(plan.tile_read_bytes), None if link is None else link.disk
    pinned = {unit.name for unit in plan.placement.pinned}
    total_bytes = sum(tile.footprint_bytes for tile in plan.tiles)
    names, fetches, work = ["rows of tables"], [_rows(plan, path, rows)], [0.0]
    for tile in plan.tiles:
        names.append(tile.name)
        fetches.append(None if tile.name in pinned else _fetch(tile, next(streamed), next(paths), disk))
        work.append(compute_s * tile.footprint_bytes / total_bytes)
    return Pass(names, fetches, work)


def _with_cache(tiles: Pass, read_bytes: int, link: LinkRate, ring_bytes: int) -> Pass:
    """Return the pass with reads of the cache evenly among its steps, in pieces that fit the ring."""
    largest = max(1, ring_bytes // _CACHE_PIECES)
    steps, count = len(tiles.names), -(-read_bytes // largest)
    after = [max(0, steps * (i + 1) // count - 1) for i in range(count)]
    names, fetches, work = list[str](), list[Fetch | None](), list[Number]()
    path, left = (link.names[0],), read_bytes
    for step in range(steps):
        names.append(tiles.names[step])
        fetches.append(tiles.fetches[step])
        work.append(tiles.work[step])
        for _ in range(after.count(step)):
            piece = min(largest, left)
            left -= piece
            names.append("keys and values")
            fetches.append(Fetch("keys and values", piece, path))
            work.append(0.0)
    return Pass(names, fetches, work)


def _with_experts(tiles: Pass, routed: Routed, link: LinkRate | None) -> Pass:
    """Return the pass with each layer's experts evenly among its steps, after what they are routed by.

    What was guessed is fetched in its turn, like a tile, and the other misses when they are needed. While
    they come, others are computed: the step after them has what is left of that, and the last one. The head
    comes after the last layer: its part of the compute stays behind all experts.
    """
    path = () if link is None else (link.names[0],)
    steps, count = len(tiles.names), len(routed.layers)
    after = [round(steps * routed.before_head_fraction * (i + 1) / count) for i in range(count)]
    names, fetches, work = list[str](), list[Fetch | None](), list[Number]()
    for layer, start, stop in zip([*routed.layers, None], [0, *after], [*after, steps], strict=True):
        names += tiles.names[start:stop]
        fetches += tiles.fetches[start:stop]
        work += tiles.work[start:stop]
        if layer is None:
            break
        guessed = round(layer.ahead_bytes)
        missed = round(layer.read_bytes) - guessed
        names += [f"{layer.path} guessed", layer.path]
        fetches.append(Fetch(names[-2], guessed, path) if guessed and path else None)
        fetches.append(Fetch(names[-1], missed, path, on_demand=True) if missed and path else None)
        read_s = missed / link.bytes_per_s if link is not None else 0.0
        last_s = min(layer.compute_s, routed.last_s / count)
        work += [0.0, max(layer.compute_s - read_s, last_s)]
    return Pass(names, fetches, work)


def _fetch(tile: Tile, read_bytes: int, path: tuple[str, ...], disk: DiskBefore | None) -> Fetch:
    """Return how `tile` comes: in whole sectors, or exactly to a device, perhaps through a host's memory."""
    if disk is None:
        return Fetch(tile.name, read_bytes, path)
    return Fetch(tile.name, tile.footprint_bytes, (DISK, *path) if tile.name in disk.reads else path)


def _read_ahead(fetches: Iterable[Fetch | None], ring_bytes: int) -> Iterator[Fetch | None]:
    """Yield the fetches of the first pass, those that the ring holds before it begins as crossing no link."""
    for fetch in fetches:
        if fetch is None or fetch.on_demand:
            yield fetch
            continue
        ring_bytes -= fetch.traffic_bytes
        yield fetch if ring_bytes < 0 else replace(fetch, path=())


def _rows(plan: WeightPlan, path: tuple[str, ...], rows: int) -> Fetch | None:
    if not (plan.row_read_bytes and path):
        return None
    return Fetch("rows of tables", plan.row_read_bytes * rows, path, on_demand=True, requests=rows)
