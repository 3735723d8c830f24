"""One model's weights lodged within any capacity: what does not depend on it is made once."""

from collections.abc import Mapping
from functools import cached_property
from itertools import chain

from tierline.cost.weights import ModelWeights
from tierline.machines.machine import Machine
from tierline.models.description import Model, Phase
from tierline.plan.plan import Residency
from tierline.plan.residency import reside
from tierline.plan.units import StoredLayer, read_order, stored_layers
from tierline.units import KIB

_STAGING_SHARE = 8
_SMALLEST_UNIT_BYTES = 64 * KIB
_MOST_TILES = 2**15


def main_phase(model: Model, values: Mapping[str, int]) -> Phase | None:
    """Return the phase with the most passes, the last of equals: weights that it reads are placed first."""
    return max(reversed(model.phases), key=lambda phase: phase.passes.evaluate(values), default=None)


class Lodging:
    """Where weights live within a capacity, by the layer, or by tiles where two layers are too much to stage.

    `main` is the phase whose weights are placed first. With `unit_bytes` tiles are at most so large.
    """

    def __init__(
        self,
        model: Model,
        machine: Machine,
        weights: ModelWeights,
        main: Phase | None,
        prefetch_depth: int,
        unit_bytes: int | None = None,
    ) -> None:
        self._model, self._machine, self._weights = model, machine, weights
        self._main, self._depth, self._unit_bytes = main, prefetch_depth, unit_bytes
        self._by_tile: dict[int, Mapping[str, StoredLayer]] = {}

    @cached_property
    def _orders(self) -> dict[str, tuple[str, ...]]:
        return {phase.name: read_order(self._weights, phase) for phase in self._model.phases}

    @cached_property
    def _stored(self) -> dict[str, StoredLayer]:
        return stored_layers(self._weights, self._unit_bytes)

    def within(self, capacity_bytes: int) -> tuple[Mapping[str, StoredLayer], Residency]:
        """Return the layers as they are pinned and streamed, and where, if weights may use `capacity_bytes`.

        Impossible where no route comes from a tier that can hold what is streamed, or nothing can be staged.
        """
        found = self._reside(self._stored, capacity_bytes)
        if found.strategy == "impossible" and self._unit_bytes is None:  # layers may be too large
            tile_bytes = _tile_bytes(capacity_bytes, self._depth, self._weights.stored_bytes)
            if tile_bytes:
                tiles = self._tiles(tile_bytes)
                return tiles, self._reside(tiles, capacity_bytes // tile_bytes * tile_bytes)
        return self._stored, found

    def _tiles(self, tile_bytes: int) -> Mapping[str, StoredLayer]:
        if tile_bytes not in self._by_tile:
            self._by_tile[tile_bytes] = stored_layers(self._weights, tile_bytes)
        return self._by_tile[tile_bytes]

    def _reside(self, stored: Mapping[str, StoredLayer], capacity_bytes: int) -> Residency:
        order = self._orders[self._main.name] if self._main else ()
        whole = frozenset(chain.from_iterable(self._orders.values()))
        return reside(self._machine, stored, order, whole, capacity_bytes, prefetch_depth=self._depth)


def _tile_bytes(room_bytes: int, prefetch_depth: int, weights_bytes: int) -> int | None:
    """Return the largest power of two of which the slots use at most an eighth of the room.

    None where not even the smallest tiles can be staged: to cut a large model into millions of them would
    take a minute and help nothing. The room is used in whole tiles, at least 8 of them for every slot.
    """
    tile_bytes = max(_SMALLEST_UNIT_BYTES, weights_bytes // _MOST_TILES)
    if room_bytes < prefetch_depth * tile_bytes:
        return None
    tile_bytes = 1 << (tile_bytes - 1).bit_length()
    while room_bytes >= 2 * tile_bytes * _STAGING_SHARE * prefetch_depth:
        tile_bytes *= 2
    return tile_bytes
