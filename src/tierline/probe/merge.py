"""The operations of several passes at two sets of sizes -> one list of operations with extents."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tierline.models.description import Attention, CacheKind, Operation
from tierline.models.extent import Extent
from tierline.probe.observe import Seen, SeenAttention
from tierline.probe.passes import Pass
from tierline.probe.resolve import KEY_VARIABLES, resolve

Key = tuple[str, str, int]
Sighting = tuple[Pass, Seen]
CONTEXT = Extent.parse("context")


@dataclass(frozen=True, slots=True)
class Merged:
    """The operations of a model under full names, in execution order, and what could not be resolved."""

    operations: tuple[Operation, ...]
    unknown: tuple[str, ...]


def merge(passes: Sequence[Pass]) -> Merged:
    """Return the operations that `passes` saw, each once, its rows an extent that all passes agree on.

    Passes of one name are the same pass at different sizes. An operation of the prefill that its decode
    leaves out, in a layer that the decode runs, is `static` (K and V of a cross-attention).
    """
    sightings: dict[Key, list[Sighting]] = {}
    unknown: list[str] = []
    order: list[Key] = []
    for one in passes:
        order = _woven(order, _keys(one, sightings))
        unknown += [
            f"{path or 'the model'}: a matrix product that the probe cannot name" for path in one.unnamed
        ]
    times = Counter(one.name for one in passes)
    decoded = {key for key in order if any(one.name == "decode" for one, _ in sightings[key])}
    operations = []
    for key in order:
        seen_in = Counter(one.name for one, _ in sightings[key])
        if any(count != times[name] for name, count in seen_in.items()):
            unknown.append(f"{key[0]}: runs at some sizes only")
            continue
        static = bool(decoded) and set(seen_in) == {"prefill"} and key[1] in ("linear", "norm")
        operation = _operation(sightings[key], static)
        if operation is None:
            unknown.append(
                f"{key[0]}: {sightings[key][0][1].rows} rows are no product of the workload's sizes"
            )
        else:
            operations.append(operation)
    return Merged(tuple(operations), tuple(dict.fromkeys(unknown)))


def _keys(one: Pass, sightings: dict[Key, list[Sighting]]) -> list[Key]:
    """Name each operation of a pass by path, kind and how often it came before; note where it was seen."""
    counts: Counter[tuple[str, str]] = Counter()
    keys: list[Key] = []
    for seen in one.seen:
        key: Key = (seen.path, seen.kind, counts[seen.path, seen.kind])
        counts[seen.path, seen.kind] += 1
        sightings.setdefault(key, []).append((one, seen))
        keys.append(key)
    return keys


def _woven(order: list[Key], keys: Iterable[Key]) -> list[Key]:
    """Return `order` with the keys that are new to it put after the one they follow."""
    known = {key: i for i, key in enumerate(order)}
    slots: dict[int, list[Key]] = {}
    last = len(order) - 1 if not any(key in known for key in keys) else -1
    for key in keys:
        if key in known:
            last = known[key]
        else:
            slots.setdefault(last, []).append(key)
    woven = list(slots.get(-1, []))
    for i, key in enumerate(order):
        woven += [key, *slots.get(i, [])]
    return woven


def _operation(sightings: Sequence[Sighting], static: bool) -> Operation | None:
    seen = sightings[0][1]
    rows = resolve([(one.values, s.rows) for one, s in sightings])
    attention = _attention(sightings) if seen.attention else None
    if rows is None or (seen.attention is not None and attention is None):
        return None
    weights = tuple(dict.fromkeys(name for _, s in sightings for name in s.weights))
    return Operation(
        seen.path,
        seen.kind,
        rows,
        seen.in_features,
        seen.out_features,
        weights,
        attention,
        seen.experts,
        static,
    )


def _attention(sightings: Sequence[Sighting]) -> Attention | None:
    shown = [(one.values, s.attention) for one, s in sightings if s.attention]
    first = shown[0][1]
    if first.state:
        return Attention(
            first.heads, first.kv_heads, first.head_dim, first.value_dim,
            Extent.parse("0"), "state", first.cache_width, causal=True,
        )  # fmt: skip
    keys = _keys_extent(shown, first.window)
    if keys is None:
        return None
    updated = {one.name for one, s in sightings if s.attention and s.attention.cache_width}
    cross = updated == {"prefill"} and any(one.name == "decode" for one, _ in sightings)
    cache_kind: CacheKind = "cross" if cross else "append" if updated else "none"
    return Attention(
        first.heads, first.kv_heads, first.head_dim, first.value_dim, keys, cache_kind,
        max(a.cache_width for _, a in shown), first.window, any(a.causal for _, a in shown),
    )  # fmt: skip


def _keys_extent(
    shown: Sequence[tuple[Mapping[str, int], SeenAttention]], window: int | None
) -> Extent | None:
    """Return the extent of the keys; under a window that cut them, what it leaves says nothing about them."""
    whole = [(values, a.keys) for values, a in shown if window is None or a.keys != window]
    found = resolve(whole, KEY_VARIABLES)
    return CONTEXT if found is None and window is not None else found
