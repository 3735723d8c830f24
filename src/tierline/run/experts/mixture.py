"""All routed experts of a model: what of the budget they get, where they come from, what they will take."""

import time
from collections.abc import Hashable, Mapping
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean, median

import torch
from transformers import PreTrainedModel

from tierline.cost.traffic import distinct_experts
from tierline.errors import BudgetError, InputError
from tierline.models.description import Experts
from tierline.place.cache import OnlinePolicyName, online_policy
from tierline.run.attach import Rehearsal, expert_weights, is_experts
from tierline.run.direct_io import DirectFile
from tierline.run.experts.cache import ExpertCache
from tierline.run.experts.corrections import Corrections
from tierline.run.experts.expected import GUESSED_RIGHT, Routed, RoutedLayer
from tierline.run.experts.forward import (
    ExpertsForward,
    Home,
    router_of,
    use_streamed_experts,
)
from tierline.run.experts.stored import (
    LEAST_SLOTS,
    Expert,
    ExpertLayer,
    expert_layer,
    joined,
    largest_slot_bytes,
    least_slots_bytes,
    read_bytes_of,
    reads_of,
)
from tierline.run.kernels import Kernels
from tierline.run.meter import Outstanding, Reading
from tierline.run.recorder import Recorder
from tierline.run.source import Source
from tierline.run.weights import Planner, Progress, WeightPlan
from tierline.units import MIB

# Over the routing of moe_2gb.json with random weights, 46 % of experts in memory: lfu finds 55 % of those
# that are visited, lru 47, fifo 46, random 46, and who knew all that comes 78.
_POLICY: OnlinePolicyName = "lfu"
READERS = 4  # reads of experts in flight: several are known at once, and nothing else keeps the disk busy
_BESIDE_BYTES = 6 * MIB  # 3 to 5 MB were seen (moe_2gb.json, 40 tokens)
_TIMED, _ROUNDS = 16, 4
_LINK_SAMPLE_S = 0.5
_GUESSES = 2  # while a layer's attention runs, no more are read; other slots serve better as cache
_LEAST_SHARE = 8  # slots for each of those that guesses take


class Mixture:
    """The experts of one model: none for a dense one, and then nothing here does anything."""

    def __init__(
        self,
        model: PreTrainedModel,
        source: Source,
        kernels: Kernels,
        rehearsal: Rehearsal,
        recorder: Recorder,
        policy: OnlinePolicyName | None = None,
    ) -> None:
        """Follow `policy`, `lfu` by default; raise InputError if one is given and there are no experts."""
        self._home, self._recorder, self._policy = Home(), recorder, policy or _POLICY
        self._files: Mapping[Path, DirectFile] = {}
        self._kernels = kernels
        counts = {
            layer.full_name(o.name): o.experts.per_token
            for c in source.model.components
            for layer in c.layers
            for o in layer.block.operations
            if o.experts is not None
        }
        modules = {name: m for name, m in model.named_modules() if is_experts(m)}
        self.layers: tuple[ExpertLayer, ...] = tuple(
            expert_layer(source, path, expert_weights(module), counts[path])
            for path, module in modules.items()
        )
        self._forwards = [
            ExpertsForward(i, modules[layer.path], layer.experts, kernels, self._home, rehearsal, recorder)
            for i, layer in enumerate(self.layers)
        ]
        for forward, after in pairwise(self._forwards):
            forward.next_router = router_of(model, after, self.layers[after.layer].path)
        use_streamed_experts(model, self._forwards)
        for tensor in {
            (t.format, t.shape): t
            for x in self.layers
            for e in x.experts
            for part in e.parts
            for t in joined(part)
        }.values():
            kernels.of(tensor)
        if policy is not None and not self.layers:
            raise InputError(f"{source.path}: has no experts: leave out --expert-policy")
        self._corrections = Corrections(model, source)
        self._slot_bytes = 0
        self.cache: ExpertCache | None = None

    def use(self, files: Mapping[Path, DirectFile]) -> None:
        """Read experts from these files, which hold them."""
        self._files = files
        self._slot_bytes = largest_slot_bytes(self.layers, files) if self.layers else 0

    def rehearse(self, rows: int) -> None:
        """Multiply `rows` with a blank expert of each kind, for what libraries keep from a wide product."""
        for forward in {_kind(f.experts[0]): f for f in self._forwards}.values():
            for part, tensors in enumerate(forward.experts[0].parts):
                blank = tuple(memoryview(bytearray(t.footprint_bytes)) for t in tensors)
                x = torch.zeros(rows, forward.width(part), dtype=self._kernels.compute)
                forward.product(0, part, x, tuple(blank for _ in forward.experts[0].parts))

    @property
    def count(self) -> int:
        """Experts of all layers."""
        return sum(len(layer.experts) for layer in self.layers)

    @property
    def least_bytes(self) -> int:
        """The fewest bytes in which experts can be used."""
        return least_slots_bytes(self.layers, self._files) + self._corrections.footprint_bytes

    @property
    def read_sizes_bytes(self) -> tuple[int, ...]:
        """What each read of an expert takes from the disk."""
        experts = (expert for layer in self.layers for expert in layer.experts)
        reads = (read for expert in experts for read in reads_of(expert, self._files))
        return tuple(self._files[read.path].span_bytes(read.extract) for read in reads)

    @property
    def beside_bytes(self) -> int:
        """What readers of experts and products leave in the allocator, which a rehearsal cannot show."""
        return _BESIDE_BYTES if self.layers else 0

    def plan(self, planner: Planner, allowed_bytes: int) -> WeightPlan:
        """Return the placement of everything else and the slots for experts within `allowed_bytes`.

        What every token reads is pinned first and experts get the rest: a byte of theirs saves a read only
        when its expert is chosen. Where even that does not fit, the experts of one token get a slot each and
        the rest is streamed. Raises BudgetError where that does not work either.
        """
        if not self.layers:
            return planner.plan(allowed_bytes)
        fewest, beside_bytes = min(LEAST_SLOTS, self.count), self._corrections.footprint_bytes
        visited = max(layer.per_token for layer in self.layers)

        def attempt(slots: int) -> WeightPlan | None:
            try:
                found = planner.plan(allowed_bytes - (slots - fewest) * self._slot_bytes)
            except BudgetError:
                if slots == fewest:
                    raise
                return None
            return replace(
                found, needs=replace(found.needs, experts_bytes=slots * self._slot_bytes + beside_bytes)
            )

        low, best = fewest, attempt(visited) or attempt(fewest)
        assert best is not None  # noqa: S101 - the fewest slots are feasible, or BudgetError was raised
        if best.placement.streamed:
            return best
        high = self.count
        while low <= high:
            middle = (low + high) // 2
            found = attempt(middle)
            if found is None or found.placement.streamed:
                high = middle - 1
            else:
                low, best = middle + 1, found
        return best

    def load(self, plan: WeightPlan, progress: Progress, outstanding: Outstanding, *, verify: bool) -> None:
        """Make the slots that `plan` has room for and fill them."""
        self._corrections.load(self._files, self._kernels.compute)
        if not self.layers:
            return
        slots = (plan.needs.experts_bytes - self._corrections.footprint_bytes) // self._slot_bytes
        guesses = self._guesses(slots)
        self.cache = ExpertCache(
            self.layers,
            self._files,
            slots=slots - guesses,
            guesses=guesses,
            readers=READERS,
            recorder=self._recorder,
            outstanding=outstanding,
            verify=verify,
        )
        self._home.lender = self.cache
        for done_bytes in self.cache.preload():
            progress(done_bytes, plan.needs.experts_bytes)
        self.cache.begin(online_policy(self._policy))

    def measure_link(self) -> float | None:
        """Return the bytes/s at which experts that are not in memory are read, None where all are."""
        if self.cache is None or self.cache.slots >= self.count:
            return None
        read_bytes, seconds = self.cache.sample(_LINK_SAMPLE_S)
        self.cache.begin(online_policy(self._policy))
        return read_bytes / seconds

    def close(self) -> None:
        """Stop the readers; a second call does nothing."""
        if self.cache is not None:
            self.cache.close()

    def measured(self) -> Reading:
        """Return what experts took so far."""
        if self.cache is None:
            return Reading()
        meter, counts = self.cache.meter, self.cache.counts
        misses = counts.cold_loads + counts.reloads
        return Reading(
            read_bytes=meter.read_bytes + meter.wasted_bytes,
            stall_s=meter.stall_s,
            expert_hits=counts.hits,
            expert_misses=misses,
            expert_read_bytes=meter.read_bytes,
            wasted_read_bytes=meter.wasted_bytes,
        )

    def _guesses(self, slots: int) -> int:
        """Return how many of `slots` are for guesses: few, and only where others are left."""
        guessing = any(forward.next_router is not None for forward in self._forwards)
        return _GUESSES if guessing and _LEAST_SHARE * _GUESSES <= slots < self.count else 0

    def expect(self, rows: int, head_fraction: float) -> Routed | None:
        """Return what a pass of `rows` tokens will take; None for a dense model. `load` comes first.

        Visited are `E (1 - (1 - k/E)^rows)` of E, and of those as many are missed as do not fit the slots.
        `head_fraction` is the part of other compute that comes after all layers.
        """
        if self.cache is None:
            return None
        missed = 1 - self.cache.slots / self.count if self.cache.slots < self.count else 0.0
        layers: list[RoutedLayer] = []
        last_s = 0.0
        timed: dict[tuple[object, int], float] = {}
        for layer in self.layers:
            visited = float(distinct_experts(Experts(len(layer.experts), layer.per_token), rows))
            kind = _kind(layer.experts[0]), max(1, round(rows * layer.per_token / visited))
            if kind not in timed:
                timed[kind] = self._one_s(*kind)
            one_bytes = fmean(read_bytes_of(reads_of(e, self._files), self._files) for e in layer.experts)
            misses = visited * missed
            guessed = min(misses, self.cache.guesses) * GUESSED_RIGHT if layers else 0.0
            layers.append(
                RoutedLayer(
                    layer.path, misses, misses * one_bytes, guessed * one_bytes, visited * timed[kind]
                )
            )
            last_s += timed[kind] if missed else 0.0
        between = (1 - head_fraction) * (len(layers) - 1) / len(layers)
        return Routed(tuple(layers), last_s, between, self.cache.guesses * self._slot_bytes)

    def _one_s(self, kind: Hashable, rows: int) -> float:
        """Return the seconds that the products of one expert of a kind with `rows` tokens take."""
        assert self.cache is not None  # noqa: S101 - the caller has asked
        alike = (h for h in self.cache.resident() if _kind(self.layers[h[0][0]].experts[0]) == kind)
        ready = list(islice(alike, _TIMED))

        def once() -> float:
            started_s = time.perf_counter()
            for (layer, expert), data in ready:
                forward = self._forwards[layer]
                for part in (0, 1):
                    forward.product(expert, part, inputs[forward.width(part)], data)
            return (time.perf_counter() - started_s) / max(1, len(ready))

        widths = {self._forwards[layer].width(part) for (layer, _), _ in ready for part in (0, 1)}
        inputs = {width: torch.ones(rows, width, dtype=self._kernels.compute) for width in widths}
        return median([once() for _ in range(_ROUNDS)][1:])


def _kind(expert: Expert) -> Hashable:
    """Return what experts that take equally long to compute have in common."""
    return tuple((tensor.format, tensor.shape) for tensor in expert.tensors)
