"""The engine: transformers' model, built empty, rehearsed, and given its weights within a budget."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path

import torch
from torch import nn
from transformers import Cache, PreTrainedModel

from tierline.errors import InputError
from tierline.machines.cgroups import read_limit
from tierline.machines.memory import read_memory
from tierline.models.stored import StoredTensor
from tierline.place.cache import OnlinePolicyName
from tierline.probe.order import execution_order, read_directly
from tierline.run.attach import attach, fixed_parameters, hold_whole, is_table, matrix_modules
from tierline.run.budget import usable_bytes, weight_budget
from tierline.run.build import build_model
from tierline.run.direct_io import DirectFile, open_files
from tierline.run.experts.expected import Routed
from tierline.run.experts.mixture import Mixture
from tierline.run.gguf_config import ROTARY_FACTORS
from tierline.run.guard import guard
from tierline.run.host_tier import HostTier
from tierline.run.images.tower import Tower, prompt_read_bytes
from tierline.run.kernels import DENSE_DTYPES, Kernels
from tierline.run.kernels.packed import refuse_other_cpu
from tierline.run.kv.cache import make_cache
from tierline.run.kv.disk import KvDisk, KvMeter
from tierline.run.large_parts import refuse_large_parts
from tierline.run.ledger import Ledger
from tierline.run.matrix import Matrix, RowTable
from tierline.run.meter import Outstanding, Reading
from tierline.run.overlap import Sharing, Step, under_limit
from tierline.run.predict import (
    Prediction,
    Rehearsed,
    besides,
    measure_handover,
    measure_link,
    measure_steps,
    measure_wide,
    median_s,
)
from tierline.run.process_memory import bound_allocator, return_freed
from tierline.run.recorder import Recorder
from tierline.run.rehearsed import REHEARSED_STEPS, RehearsedSteps, Rehearser
from tierline.run.reserve import known_library_bytes
from tierline.run.room import Room
from tierline.run.slowdown import Slowdown
from tierline.run.source import Source
from tierline.run.staging import Staging, stream_settings
from tierline.run.stand_ins import StandIns
from tierline.run.tiles import tiles_of
from tierline.run.verify import require_checksums
from tierline.run.weights import Planner, Progress, WeightPlan, Weights, read_whole

_REHEARSED_PIECE_BYTES = 2**21
_LIKELY_BYTES_PER_S = 1e10  # of products: it decides how many steps are rehearsed, and nothing else
_SWITCH_INTERVAL_S = 5e-4  # a reader that has its bytes waits at most this long to ask for the next


class Engine:
    """One model on disk, made to run: `load` it once, use `model`, `close` it."""

    def __init__(
        self,
        source: Source,
        *,
        resident: int | None,
        memory: int | None,
        verify: bool = False,
        opener: Callable[[Path], DirectFile] | None = None,
        links: int = 1,
        host: HostTier | None = None,
        expert_policy: OnlinePolicyName | None = None,
    ) -> None:
        """With `verify`, weights are held against the checksums of a packed file before they are used.

        `opener` opens the model's files, where another link than the disk's is put in its place. Requests and
        readers are those that calibration found best for this disk, if it was calibrated: so many readers for
        each of the `links` that files are read over. With a `host` tier, what is streamed comes through it.
        """
        request_bytes, readers = stream_settings(source.path)
        self._readers, self.host = links * readers, host
        if memory is not None:
            bound_allocator()
        if verify:
            require_checksums(source.checkpoint.tensors.values())
        self.source, self._verify = source, verify
        self._resident = resident
        self.allowed_bytes = None if memory is None else usable_bytes(memory)
        refuse_other_cpu(source.checkpoint.metadata, source.path)
        self._kernels = Kernels(DENSE_DTYPES[source.compute_format])
        self.model: PreTrainedModel = build_model(source.config, self._kernels.compute)
        self.recorder = Recorder()
        self._matrices: dict[str, Matrix] = {}
        self._tables: dict[str, RowTable] = {}
        hold_whole(self.model, read_directly(self.model))
        # A state space's cache goes by another name, and transformers then takes a prompt whole.
        self._chunks = "past_key_values" in signature(self.model.forward).parameters
        switch = attach(self.model, self._matrices, self._tables, source.rotary_heads(), self.recorder)
        library_bytes = None if memory is None else known_library_bytes(source)
        self.rehearser = Rehearser(self.model, switch, library_bytes=library_bytes, chunks=self._chunks)
        self.experts = Mixture(self.model, source, self._kernels, switch, self.recorder, expert_policy)
        if host is not None and self.experts.layers:
            raise InputError(f"{source.path}: experts are read from disk: leave out --host")
        self._tower = Tower(self.model, source, switch)
        self._order = execution_order(self.model)
        self._files = open_files(
            source.checkpoint.files, opener or (lambda path: DirectFile(path, request_bytes))
        )
        self.experts.use(self._files)
        self._outstanding = Outstanding()
        self._switch_interval_s = sys.getswitchinterval()
        self.weights: Weights | None = None
        self._kv_disk: KvDisk | None = None
        self._room, self._sharing = Room(1, 1), Sharing()
        self.reserved_bytes = 0

    def close(self) -> None:
        """Stop the readers, give memory and descriptors back; a second call does nothing."""
        self.experts.close()
        if self.host is not None:
            self.host.close()
        if self.weights is not None:
            self.weights.close()
            sys.setswitchinterval(self._switch_interval_s)
        self._matrices.clear()
        self._tables.clear()
        if self._kv_disk is not None:
            self._kv_disk.close()
        for file in self._files.values():
            file.close()

    def load(self, room: Room, progress: Progress) -> Prediction:
        """Rehearse, place the weights within what is left, load them; return what a decode step will take.

        Raises BudgetError where the budget cannot work, FaultError where a read fails.
        """
        self._room = room
        fixed_bytes = self._load_fixed()
        return_freed()  # a tokenizer's JSON leaves tens of MB behind
        steps, self.reserved_bytes = self._rehearse(room)
        self.reserved_bytes += self.experts.beside_bytes
        kv_bytes = room.kv_held_bytes(self.source.model, self.source.compute_format)
        host_bytes = 0 if self.host is None else self.host.capacity_bytes
        planner = self._planner(fixed_bytes)
        others_bytes = kv_bytes + planner.needs.least_bytes
        steps.refuse_thrash(self.allowed_bytes, self.reserved_bytes - fixed_bytes, others_bytes)
        budget = weight_budget(
            resident=self._resident,
            memory=self.allowed_bytes,
            reserved_bytes=self.reserved_bytes - fixed_bytes + host_bytes,
            kv_bytes=kv_bytes,
            least_bytes=planner.needs.least_bytes,
        )
        plan = self.experts.plan(planner, budget)
        ledger = Ledger(budget)
        ledger.take(plan.needs.total_bytes, "small tensors, buffers and experts")
        self.weights = Weights(plan, self._files, ledger, self._kernels, verify=self._verify, host=self.host)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        shared = self._outstanding if self.experts.layers else None
        self.weights.load(progress, self.recorder, shared)
        self.experts.load(plan, progress, self._outstanding, verify=self._verify)
        self._hand_over(self.weights)
        with torch.inference_mode():
            step = self._measure_step(plan, self.weights.staging, steps.step_s)
            routed = self.experts.expect(room.rows, self._head_fraction())
        if self.allowed_bytes is not None:  # what is rehearsed may be longer than what is asked for
            guard(self.model, room, self.allowed_bytes)
        prediction = Prediction(
            compute_s=step.compute_s + (routed.compute_s if routed else 0.0),
            read_bytes=plan.read_bytes + self.cache_read_bytes + round(routed.read_bytes if routed else 0),
            read_bytes_per_s=step.bytes_per_s,
            peak_bytes=self.reserved_bytes + plan.held_bytes - fixed_bytes + kv_bytes + host_bytes,
            rows=room.rows,
            routed=routed,
            prompt_read_bytes=prompt_read_bytes(plan, room),
        )
        if (staging := self.weights.staging) is not None:
            staging.rewind(prelude=bool(room.seen))
            if prediction.read_bytes_per_s:
                staging.slowdown = Slowdown(prediction.read_bytes_per_s, staging.ring_bytes)
        return prediction

    def spare_bytes(self, room: Room) -> int:
        """Return what the budget would leave for pinning with `room`, negative where it has no room for it.

        A pass is rehearsed as by `load`, and nothing is placed.
        """
        fixed_bytes = self._load_fixed()
        _, reserved_bytes = self._rehearse(room)
        allowed = self.allowed_bytes
        if allowed is None:
            allowed = read_memory().free_bytes + reserved_bytes
        kv_bytes = room.kv_held_bytes(self.source.model, self.source.compute_format)
        least_bytes = self._planner(fixed_bytes).needs.least_bytes
        return allowed - (reserved_bytes - fixed_bytes) - kv_bytes - least_bytes

    def _measure_step(self, plan: WeightPlan, staging: Staging | None, others_s: float) -> Step:
        """Return what a decode step will take, of which all but products takes about `others_s`.

        A step is rehearsed with all products, alone and beside reads; the link is measured alone.
        """
        streamed, room = len(plan.placement.streamed), self._room
        matrices = tuple(self._matrices.values())
        about_s = others_s + sum(m.tensor.footprint_bytes for m in matrices) / _LIKELY_BYTES_PER_S

        def rehearse(reads: Staging | None) -> Rehearsed:
            products, prompt = StandIns(matrices, reads), self._rehearsal_prompt(room)
            steps = partial(self.rehearser.with_products, prompt, room, products)
            return measure_steps(steps, about_s, reads)

        alone, beside, handover_s = rehearse(None), None, 0.0
        if staging is not None and streamed:
            product = partial(StandIns(matrices).multiply, matrices[0], room.rows, self._kernels.compute)
            handover_s = measure_handover(staging, streamed, product)
            beside = besides(alone, rehearse(staging), handover_s)
        link = measure_link(staging, streamed, plan.read_bytes) or self.experts.measure_link()
        limit = read_limit(self.source.path)
        self._sharing = Sharing(under_limit(link, limit), beside and beside.within(limit))
        compute_s = alone.step_s + streamed * handover_s
        return self._sharing.step(compute_s=compute_s, read_bytes=plan.read_bytes)

    @property
    def cache_read_bytes(self) -> int:
        """Bytes of keys and values that a decode pass reads from disk, in the middle of the answer."""
        return self._room.kv_read_bytes(self.source.model, self.source.compute_format)

    def new_cache(self) -> Cache | None:
        """Return an empty cache kept as `load` was told to, None where transformers' own will do.

        On disk there is one at a time: the one before is then forgotten.
        """
        kv, tokens = self._room.kv, self._room.sequence_tokens
        if kv.is_default:
            return None
        if kv.folder is not None:
            if self._kv_disk is not None:
                self._kv_disk.close()
            self._kv_disk = KvDisk(kv.folder, self.recorder)
        return make_cache(
            kv, self.model.config, tokens=tokens, dtype=self._kernels.compute, disk=self._kv_disk
        )

    def prompt_s(self, tokens: int) -> float:
        """Return the seconds that a prompt of `tokens` takes besides waiting for reads; `load` comes first.

        Everything but the products is rehearsed, products are timed on a tile of each kind; both are slowed
        by the reads beside them.
        """
        prompt = self._room.seen or {"input_ids": torch.zeros((1, tokens), dtype=torch.long)}
        chunk = min(tokens, self._room.chunk_tokens)
        last, routed = self._head(), self.prompt_routed(tokens)
        with self.rehearser.rehearsing():
            overhead_s = median_s(lambda: self.rehearser.generate(prompt, 1, self._room))
            products_s = measure_wide(self._matrices.values(), last, chunk, self._kernels.compute)
        products_s = tokens / chunk * (products_s + (routed.compute_s if routed else 0.0))
        tiles = () if self.weights is None else self.weights.plan.tile_read_bytes
        read_bytes = -(-tokens // chunk) * sum(tiles)
        return self._sharing.step(compute_s=products_s + overhead_s, read_bytes=read_bytes).compute_s

    def prompt_routed(self, tokens: int) -> Routed | None:
        """Return what experts take in one pass over a prompt of `tokens`; None for a dense model."""
        with torch.inference_mode():
            return self.experts.expect(min(tokens, self._room.chunk_tokens), self._head_fraction())

    def _head(self) -> Matrix | None:
        """Return the matrix that makes logits, None where it is none of those that are streamed."""
        head = self.model.get_output_embeddings()
        return next((m for n, m in self._matrices.items() if self.model.get_submodule(n) is head), None)

    def _head_fraction(self) -> float:
        """Return the head's part of all matrices' bytes."""
        head, total_bytes = self._head(), sum(m.tensor.footprint_bytes for m in self._matrices.values())
        return head.tensor.footprint_bytes / total_bytes if head else 0.0

    def measured(self) -> Reading:
        """Return what was read so far for the steps that were taken, and how long who waited and worked."""
        kv = KvMeter() if self._kv_disk is None else self._kv_disk.meter
        rows = kv.read_bytes + sum(table.read_bytes for table in self._tables.values())
        experts = self.experts.measured()
        read_bytes, stall_s = rows + experts.read_bytes, kv.stall_s + experts.stall_s
        staging = None if self.weights is None else self.weights.staging
        busy_s = self._outstanding.busy_s
        if staging is not None:
            read_bytes += staging.settled_read_bytes()
            stall_s += staging.meter.stall_s
            busy_s = busy_s if self.experts.layers else staging.busy_s()
        return replace(
            experts,
            read_bytes=read_bytes,
            stall_s=stall_s,
            link_busy_s=busy_s,
            host_read_bytes=0 if self.host is None else self.host.disk_read_bytes,
        )

    @property
    def read_sizes_bytes(self) -> tuple[int, ...]:
        """What each streamed tile takes from the disk; each read of an expert where only those are read."""
        tiles = () if self.weights is None else self.weights.plan.tile_read_bytes
        return tiles or self.experts.read_sizes_bytes

    def _planner(self, fixed_bytes: int) -> Planner:
        tables = [self.source.stored(f"{n}.weight") for n, m in matrix_modules(self.model) if is_table(m)]
        return Planner(
            self._matrix_order(),
            tables,
            self._files,
            self._kernels,
            fixed_bytes + self._tower.held_bytes,
            readers=self._readers,
            experts_bytes=self.experts.least_bytes,
            prelude=self._tower.order,
        )

    def _load_fixed(self) -> int:
        """Read the small tensors (norms, biases) into the model; return the bytes they take."""
        held_bytes = 0
        refuse_large_parts(self.source, self.model, self._resident, self.allowed_bytes)
        for name, module, attribute in fixed_parameters(self.model):
            value = self._whole(name)
            expected = getattr(module, attribute)
            if value.shape != expected.shape:
                raise InputError(
                    f"{self.source.path}: the tensor for {name} has shape {tuple(value.shape)}, but the "
                    f"model wants {tuple(expected.shape)}: the file and its config do not belong together"
                )
            setattr(module, attribute, nn.Parameter(value, requires_grad=False))
            held_bytes += value.nbytes
        if ROTARY_FACTORS in self.source.checkpoint.tensors:
            self._scale_rotary()
        return held_bytes

    def _whole(self, name: str) -> torch.Tensor:
        stored = self.source.stored(name)
        return read_whole(self._files[stored.path], stored, self._kernels.of(stored), verify=self._verify)

    def _scale_rotary(self) -> None:
        stored = self.source.checkpoint.tensors[ROTARY_FACTORS]
        factors = read_whole(self._files[stored.path], stored, self._kernels.of(stored))
        for module in self.model.modules():
            frequencies = getattr(module, "inv_freq", None)
            if isinstance(frequencies, torch.Tensor):
                frequencies.div_(factors.to(frequencies.dtype))

    def _rehearse(self, room: Room) -> tuple[RehearsedSteps, int]:
        """Rehearse a prompt and a few tokens: return what the passes showed, and what to keep for them."""
        prompt = self._rehearsal_prompt(room)
        rows = room.batch * prompt["input_ids"].shape[1]
        return self.rehearser.run(prompt, room, lambda: self._rehearse_products(rows))

    def _rehearsal_prompt(self, room: Room) -> Mapping[str, torch.Tensor]:
        longest = (self.source.model.max_context or sys.maxsize) - REHEARSED_STEPS - 1
        tokens = max(1, min(room.prompt_tokens, room.chunk_tokens, longest))
        return room.seen or {"input_ids": torch.zeros((room.batch, tokens), dtype=torch.long)}

    def _rehearse_products(self, rows: int) -> None:
        """Multiply a blank piece of each kind of matrix: libraries keep buffers of each shape they meet."""
        kinds = {(t.format, t.shape): t for t in self._matrix_order()}
        for stored in kinds.values():
            tile = next(tiles_of(stored, _REHEARSED_PIECE_BYTES))
            blank = memoryview(bytearray(tile.footprint_bytes))
            for count in (rows, 1):
                x = torch.zeros(count, stored.shape[1], dtype=self._kernels.compute)
                self._kernels.of(stored).matmul(x, blank, tile.stop - tile.start)
        self.experts.rehearse(rows)

    def _matrix_order(self) -> list[StoredTensor]:
        """Return the matrices that a decode step multiplies with, in its order."""
        modules = dict(matrix_modules(self.model))
        used = (name for name in self._order if name in modules and not is_table(modules[name]))
        return [self.source.stored(f"{name}.weight") for name in used]

    def _hand_over(self, weights: Weights) -> None:
        """Give every matrix module its stored matrix, and long prompts their chunks."""
        for name, module in matrix_modules(self.model):
            stored = self.source.stored(f"{name}.weight")
            if is_table(module):
                self._tables[name] = weights.table(stored)
            else:
                self._matrices[name] = weights.matrix(stored)
        self._tower.hand_over(weights)
        generation = self.model.generation_config
        if generation is not None and generation.prefill_chunk_size is None and self._chunks:
            generation.prefill_chunk_size = self._room.chunk_tokens
