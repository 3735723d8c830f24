"""One model, open to be run: built, rehearsed, loaded within its budget, and closed again."""

from itertools import pairwise
from types import TracebackType

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tierline.errors import InputError
from tierline.probe.order import execution_order
from tierline.run.attach import attach, fixed_parameters, matrix_modules
from tierline.run.budget import kv_token_bytes, weight_budget
from tierline.run.build import build_model
from tierline.run.generate import Answer, Emit, generate, prompt_ids
from tierline.run.kernels import DENSE_DTYPES, Kernels
from tierline.run.ledger import Ledger
from tierline.run.matrix import Matrix, RowTable
from tierline.run.predict import Prediction, measure_link, measure_matrices
from tierline.run.process_memory import peak_resident_bytes, reset_peak
from tierline.run.report import RunReport, make_report
from tierline.run.request import Request
from tierline.run.source import Source
from tierline.run.weights import Planner, Progress, Weights, open_files, read_whole

_REHEARSED_TOKENS = 8


class Session:
    """A model whose weights are streamed; use it as a context manager, or `close` it."""

    def __init__(
        self, source: Source, *, resident: int | None, memory: int | None, keep_events: bool = False
    ) -> None:
        self.source = source
        self.tokenizer: PreTrainedTokenizerBase = source.tokenizer()
        self.partial = Answer()
        self._resident, self._memory, self._keep_events = resident, memory, keep_events
        self._kernels = Kernels(DENSE_DTYPES[source.compute_format])
        self.model: PreTrainedModel = build_model(source.config, self._kernels.compute)
        self._matrices: dict[str, Matrix] = {}
        self._tables: dict[str, RowTable] = {}
        self._rehearsal = attach(self.model, self._matrices, self._tables, source.rotary_heads())
        self._files = open_files(source.checkpoint.files)
        self._weights: Weights | None = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the readers, give memory and descriptors back; a second call does nothing."""
        if self._weights is not None:
            self._weights.close()
        self._matrices.clear()
        self._tables.clear()
        for file in self._files.values():
            file.close()

    def answer(self, request: Request, *, progress: Progress, emit: Emit) -> RunReport:
        """Run `request` and return what it took; text goes to `emit` as it comes.

        Raises BudgetError where a budget cannot work and FaultError where a read fails; `partial` then
        holds what had come by that time.
        """
        ids = prompt_ids(self.tokenizer, request)
        weights, prediction, reserved_bytes = self._load(ids, request, progress)
        reset_peak()
        generate(
            self.model,
            self.tokenizer,
            ids,
            request,
            self.partial,
            meter=lambda: self._measured(weights),
            emit=emit,
        )
        return make_report(
            self.partial,
            weights,
            prediction,
            allowed_bytes=self._memory,
            reserved_bytes=reserved_bytes,
            measured_bytes=peak_resident_bytes(),
        )

    def _measured(self, weights: Weights) -> tuple[int, float]:
        rows = sum(table.read_bytes for table in self._tables.values())
        if weights.staging is None:
            return rows, 0.0
        return rows + weights.staging.settled_read_bytes(), weights.staging.meter.stall_s

    def _load(
        self, ids: torch.Tensor, request: Request, progress: Progress
    ) -> tuple[Weights, Prediction, int]:
        """Rehearse, place the weights within what is left, load them, and predict the run."""
        fixed_bytes = self._load_fixed()
        overhead_s, reserved_bytes = self._rehearse(ids, request)
        kv_bytes = request.new * kv_token_bytes(self.source.model, self.source.compute_format)
        budget = weight_budget(
            resident=self._resident,
            memory=self._memory,
            reserved_bytes=reserved_bytes - fixed_bytes,
            kv_bytes=kv_bytes,
        )
        order = [self.source.stored(f"{name}.weight") for name in self._matrix_order()]
        tables = [self.source.stored(f"{name}.weight") for name in self._table_modules()]
        plan = Planner(order, tables, self._files, self._kernels, fixed_bytes).plan(budget)
        ledger = Ledger(budget)
        ledger.take(plan.needs.total_bytes, "small tensors and buffers")
        self._weights = weights = Weights(plan, self._files, ledger, self._kernels)
        weights.load(progress, keep_events=self._keep_events)
        self._hand_over(weights)
        prediction = Prediction(
            compute_s=overhead_s + measure_matrices(self._matrices.values(), self._kernels.compute),
            read_bytes=plan.read_bytes,
            read_bytes_per_s=measure_link(weights.staging, len(plan.placement.streamed)),
            peak_bytes=reserved_bytes + plan.held_bytes - fixed_bytes + kv_bytes,
        )
        if weights.staging is not None:
            weights.staging.reset_meter()
        return weights, prediction, reserved_bytes

    def _load_fixed(self) -> int:
        """Read the small tensors (norms, biases) into the model; return the bytes they take."""
        held_bytes = 0
        for name, module, attribute in fixed_parameters(self.model):
            stored = self.source.stored(name)
            value = read_whole(self._files[stored.path], stored, self._kernels.of(stored.format))
            expected = getattr(module, attribute)
            if value.shape != expected.shape:
                raise InputError(
                    f"{stored.path}: {stored.name} has shape {tuple(value.shape)}, but the model's {name} "
                    f"is {tuple(expected.shape)}: the file and its config do not belong together"
                )
            setattr(module, attribute, torch.nn.Parameter(value, requires_grad=False))
            held_bytes += value.nbytes
        return held_bytes

    def _rehearse(self, ids: torch.Tensor, request: Request) -> tuple[float, int]:
        """Run the prompt and a few tokens without weights.

        Returns the seconds per token of everything but the weights, and the most memory the process held:
        the interpreter, the libraries, the cache and the activations of this prompt.
        """
        answer = Answer()
        rehearsed = Request(request.text, new=_REHEARSED_TOKENS)
        # Zero logits choose token 0; that must not end the rehearsal.
        stop = self.model.generation_config.eos_token_id
        self.model.generation_config.eos_token_id = None
        self._rehearsal.on = True
        reset_peak()
        try:
            generate(
                self.model,
                self.tokenizer,
                ids,
                rehearsed,
                answer,
                meter=lambda: (0, 0.0),
                emit=lambda _: None,
            )
        finally:
            self._rehearsal.on = False
            self.model.generation_config.eos_token_id = stop
        steps = sorted(b - a for a, b in pairwise(answer.arrived_s))
        return steps[len(steps) // 2], peak_resident_bytes()

    def _hand_over(self, weights: Weights) -> None:
        """Give every matrix module its stored matrix."""
        for name, module in matrix_modules(self.model):
            stored = self.source.stored(f"{name}.weight")
            if isinstance(module, torch.nn.Embedding):
                self._tables[name] = weights.table(stored)
            else:
                self._matrices[name] = weights.matrix(stored)

    def _matrix_order(self) -> list[str]:
        linear = {name for name, m in matrix_modules(self.model) if isinstance(m, torch.nn.Linear)}
        return [name for name in execution_order(self.model) if name in linear]

    def _table_modules(self) -> list[str]:
        return [name for name, m in matrix_modules(self.model) if isinstance(m, torch.nn.Embedding)]
