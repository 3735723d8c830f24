"""Activation buffers by name, each with the steps from its making to its last use; the peak is their sum.

A layer is walked through operation by operation. What the walk takes for granted: projections of one branch
read the branch's norm, attention reads all projections since, a feed-forward's second input projection is
multiplied by the activation of the first, and a branch ends by adding its result to the layer's input.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tierline.cost.amount import Amount, Values, element_bytes, larger, total
from tierline.cost.kv import keys_touched, write_bytes
from tierline.formats.format import Format
from tierline.formats.plain import FP32
from tierline.models.description import Attention, Block, Operation

Kernel = Literal["fused", "eager"]


@dataclass(frozen=True, slots=True)
class BufferRules:
    """How a runtime treats its buffers.

    `kernel` `fused` never writes scores out; `eager` scales, masks and normalises the whole matrix, in fp32.
    `expand_kv` copies keys and values to every query head. `rotary` turns queries and keys. `in_place`
    overwrites the input of element-wise work and sums. `fusion` makes no buffer within a norm or a rotation.
    `held` keeps the model's input, a layer's input and a branch's input (and with an eager kernel its scores)
    until the layer returns, as Python's frames do; its cache grows when a layer appends to it, and is not
    there beforehand. `format` is what the runtime computes in whatever it stores, `mask` that of a mask of
    rows by keys that it holds throughout a pass (`same` as the activations): both are names of formats, and
    empty means that of the activations, and no mask. `arena` places all buffers of the largest pass in one
    block beforehand, as llama.cpp does (see `arena`).
    """

    kernel: Kernel = "fused"
    expand_kv: bool = False
    rotary: bool = True
    in_place: bool = True
    fusion: bool = True
    held: bool = False
    format: str = ""
    mask: str = ""
    gate_apart: bool = False
    arena: bool = False


LEAN = BufferRules()
LAYER_INPUT = "layer input"


@dataclass(frozen=True, slots=True)
class Buffer:
    """Bytes that are live from step `first` to step `last` of a layer, both included.

    `kept` says that a backward pass needs them: something other than a sum reads them.
    """

    name: str
    footprint_bytes: Amount
    first: int
    last: int
    kept: bool = True


@dataclass(frozen=True, slots=True)
class LayerBuffers:
    """The steps of a layer and every buffer that is live in them, the layer's input included."""

    steps: tuple[str, ...]
    buffers: tuple[Buffer, ...]

    def live(self, step: int) -> Iterator[Buffer]:
        """Yield the buffers that are live in a step."""
        return (b for b in self.buffers if b.first <= step <= b.last)

    def live_bytes(self) -> list[Amount]:
        """Return the bytes live in each step."""
        return [sum(b.footprint_bytes for b in self.live(step)) for step in range(len(self.steps))]

    @property
    def kept_bytes(self) -> Amount:
        """The bytes of all buffers that a backward pass needs."""
        return sum(b.footprint_bytes for b in self.buffers if b.kept)

    @property
    def peak_bytes(self) -> Amount:
        """The most bytes live in any step."""
        most: Amount = 0
        for step in self._fullest():
            most = larger(most, total(b.footprint_bytes for b in self.live(step)))
        return most

    def _fullest(self) -> Iterator[int]:
        """Yield the steps in which as much is live as in their neighbours and more: before a buffer goes."""
        made, dropped = {b.first for b in self.buffers}, {b.last for b in self.buffers}
        grown = False
        for step in range(len(self.steps)):
            grown = grown or step in made
            if grown and (step in dropped or step == len(self.steps) - 1):
                yield step
                grown = False


def layer_buffers(
    block: Block,
    values: Values,
    number_format: Format,
    rules: BufferRules,
    *,
    kv_format: Format | None = None,
    first_layer: bool = False,
) -> LayerBuffers:
    """Return the buffers of a layer in a pass at `values`, elements in `number_format`.

    The KV cache is no buffer: it counts beside them, in `kv_format`. `first_layer` says that the layer's
    input is the model's own, which is then not held twice.
    """
    walk = _Walk(values, number_format, kv_format or number_format, rules)
    walk.layer(block, first_layer=first_layer)
    return LayerBuffers(tuple(walk.steps), tuple(walk.buffers))


@dataclass(slots=True, eq=False)
class _Live:
    """A buffer that has not been dropped yet. `last_read` is the last step that read it."""

    name: str
    footprint_bytes: Amount
    first: int
    width: int = 0
    role: Literal["product", "attention", "activation"] = "product"
    last_read: int = 0


class _Walk:
    """Walks through a layer, making and dropping buffers."""

    def __init__(self, values: Values, number_format: Format, kv_format: Format, rules: BufferRules) -> None:
        self.values, self.format, self.kv_format, self.rules = values, number_format, kv_format, rules
        self.steps: list[str] = []
        self.buffers: list[Buffer] = []
        self.held: list[_Live] = []

    def layer(self, block: Block, *, first_layer: bool) -> None:
        """Walk through all branches."""
        if not block.operations:
            return
        first = block.operations[0]
        stream = self._make(LAYER_INPUT, self._bytes(first, first.in_features), first.in_features)
        if self.rules.held:
            self.held.append(stream)
            if not first_layer:
                self.held.append(self._make("model input", stream.footprint_bytes))
        adds = any(o.attention or o.kind == "scan" for o in block.operations)
        for branch in _branches(block.operations):
            stream = self._branch(branch, stream, adds=adds)
        self._drop_all(self.held)
        if stream not in self.held:
            self._drop(stream, kept=False)  # the next layer's input, which is counted there

    def _branch(self, branch: Sequence[Operation], stream: _Live, *, adds: bool) -> _Live:
        """Walk through one branch; return the stream that it leaves."""
        source, pending = stream, list[_Live]()
        to_come = sum(o.attention is not None for o in branch)
        for i, operation in enumerate(branch):
            if operation.kind == "norm":
                into = self._norm(operation)
                if i == 0:
                    source = into
                else:
                    self._drop_all(pending[-1:])
                    pending = [*pending[:-1], into]
            elif operation.attention is not None:
                to_come -= 1
                pending = self._attention(operation, operation.attention, pending, last=not to_come)
            else:
                pending = self._product(operation, source, pending, ahead=bool(to_come))
        if source is not stream:
            self._drop(source, None if self.rules.held else source.last_read)
        if not pending:
            return source
        result = self._result("residual sum", pending[-1], branch[-1], kept=False) if adds else pending[-1]
        self._drop_all(pending[:-1])
        if stream not in self.held:
            self._drop(stream)
        return result

    def _norm(self, operation: Operation) -> _Live:
        """Normalise in fp32: the scaled rows, their copy where the format is another one, and the result.

        A norm with a bias is PyTorch's own kernel, fused wherever it runs; one without is written out.
        """
        count = self._bytes(operation, operation.out_features)
        scratch = []
        if not self.rules.fusion and len(operation.weights) < 2:
            wide = self._bytes(operation, operation.in_features, FP32)
            scratch.append(self._make(f"{operation.name} rows in fp32", wide))
            if self.format.name != "fp32":
                scratch.append(self._make(f"{operation.name} rows narrowed", count))
        made = self._make(operation.name, count, operation.out_features)
        self.steps.append(operation.name)
        self._drop_all(scratch)
        return made

    def _product(
        self, operation: Operation, source: _Live, pending: list[_Live], *, ahead: bool
    ) -> list[_Live]:
        """Multiply by weights, or work on elements; return what is then pending."""
        if operation.kind == "elementwise":
            if not pending:
                return pending
            made = self._result(operation.name, pending[-1], operation)
            made.role, made.width = "activation", operation.out_features
            return [*pending[:-1], made]
        read = _read_of(operation, source, pending, ahead=ahead)
        kept, taken = pending[: len(pending) - read], pending[len(pending) - read :]
        if read == 2:
            taken = [self._gated(operation, taken)]
        scratch = []
        if operation.experts is not None:
            scratch.append(self._make(f"{operation.name} rows by expert", self._expert_bytes(operation)))
        made = self._make(
            operation.name, self._bytes(operation, operation.out_features), operation.out_features
        )
        self.steps.append(operation.name)
        if not read:
            source.last_read = len(self.steps) - 1
        self._drop_all([*scratch, *taken])
        return [*kept, made]

    def _gated(self, operation: Operation, factors: list[_Live]) -> _Live:
        """Multiply the activation by the second projection."""
        if self.rules.in_place and not self.rules.gate_apart:
            self._drop(factors[1])
            return factors[0]
        made = self._make(f"{operation.name} input", factors[0].footprint_bytes, factors[0].width)
        self.steps.append(made.name)
        self._drop_all(factors)
        return made

    def _attention(
        self, operation: Operation, how: Attention, given: list[_Live], *, last: bool
    ) -> list[_Live]:
        """Attend: rotate, append to the cache, score. Return what is then pending."""
        if self.rules.rotary and not self.rules.fusion and how.cache == "append" and len(given) > 1:
            given = self._rotated(operation, how, given)
        if how.cache == "append" and self.rules.held:  # the whole cache is counted beside these buffers
            to_come = write_bytes(how, self.kv_format, self.values)
            self.buffers.append(
                Buffer("cache not yet appended", -to_come, 0, len(self.steps) - 1, kept=False)
            )
        if how.cache == "append":  # keys and values are the cache's now
            self._drop_all(given[1:])
            given = given[:1]
        scratch = []
        if self.rules.expand_kv and how.heads != how.kv_heads:
            wide = self._bytes(operation, how.heads * (how.head_dim + how.value_dim))
            scratch.append(self._make(f"{operation.name} keys and values of every head", wide))
        if self.rules.kernel == "eager":
            (self.held if self.rules.held else scratch).append(self._scores(operation, how))
        count = self._bytes(operation, operation.out_features)
        made = self._make(operation.name, count, operation.out_features)
        made.role = "attention"
        self.steps.append(operation.name)
        self._drop_all(scratch)
        if not last:
            return [*given, made]
        self._drop_all(given)
        return [made]

    def _rotated(self, operation: Operation, how: Attention, given: list[_Live]) -> list[_Live]:
        """Turn queries, then keys: two products and the turned rows are live beside both."""
        turned = []
        for name, width in (("queries", how.heads * how.head_dim), ("keys", how.kv_heads * how.head_dim)):
            count = self._bytes(operation, width)
            products = self._make(f"{operation.name} {name} turning", 2 * count)
            turned.append(self._make(f"{operation.name} {name} turned", count, width))
            self.steps.append(f"{operation.name} rotate {name}")
            self._drop(products, kept=False)
        self._drop_all(given[:2], kept=False)  # a rotation is undone without what it turned
        return [*turned, *given[2:]]

    def _scores(self, operation: Operation, how: Attention) -> _Live:
        """Return the weights after the softmax; before it, one matrix of scores is made from another."""
        rows = operation.rows.evaluate(self.values)
        elements = rows * keys_touched(how, self.values) * how.heads
        count, name = element_bytes(elements, self.format), f"{operation.name} scores"
        if self.rules.in_place:
            return self._make(name, count)
        before = [self._make(name, count), self._make(f"{name} scaled or masked", count)]
        self.steps.append(f"{operation.name} scale")
        self._drop_all(before, kept=False)
        if self.format.name != "fp32":
            wide = element_bytes(elements, FP32)
            within = [self._make(name, count), self._make(f"{name} in fp32, before and after", 2 * wide)]
            self.steps.append(f"{operation.name} softmax")
            self._drop_all(within, kept=False)
        return self._make(f"{name} normalised", count)

    def _result(self, name: str, given: _Live, operation: Operation, *, kept: bool = True) -> _Live:
        """Return the result of element-wise work on `given`, in its place or in a buffer of its own.

        `kept` says whether its backward pass needs `given`.
        """
        if self.rules.in_place:
            return given
        width = operation.out_features
        made = self._make(name, self._bytes(operation, width), width)
        self.steps.append(name)
        self._drop(given, kept=kept)
        return made

    def _expert_bytes(self, operation: Operation) -> Amount:
        """Return the rows gathered for every expert that a token visits, and what comes of each."""
        visited = operation.experts.per_token if operation.experts else 0
        return visited * self._bytes(operation, operation.in_features + operation.out_features)

    def _bytes(self, operation: Operation, width: int, number_format: Format | None = None) -> Amount:
        elements = operation.rows.evaluate(self.values) * width
        return element_bytes(elements, number_format or self.format)

    def _make(self, name: str, footprint_bytes: Amount, width: int = 0) -> _Live:
        return _Live(name, footprint_bytes, len(self.steps), width, last_read=len(self.steps))

    def _drop(self, live: _Live, last: int | None = None, *, kept: bool = True) -> None:
        """End a buffer with the step `last`, or with the one that was made last."""
        end = len(self.steps) - 1 if last is None else last
        self.buffers.append(Buffer(live.name, live.footprint_bytes, live.first, end, kept=kept))

    def _drop_all(self, lives: Iterable[_Live], *, kept: bool = True) -> None:
        for live in lives:
            self._drop(live, kept=kept)


def _read_of(operation: Operation, source: _Live, pending: Sequence[_Live], *, ahead: bool) -> int:
    """Return how many of the pending buffers, from the last, an operation reads; 0 is the branch's input.

    2 are the activation and the projection that it gates. `ahead` says that attention is still to come.
    """
    width = operation.in_features
    if not pending or (ahead and width == source.width):
        return 0
    last = pending[-1]
    before = pending[-2] if len(pending) > 1 else None
    if before is not None and before.role == "activation" and before.width == last.width == width:
        return 2
    gates = last.role == "activation" and width == source.width and operation.out_features == last.width
    if last.role != "product" and last.width == width and not gates:
        return 1
    return 0 if width == source.width else 1


def _branches(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Cut a layer at its norms; one between projections and their attention is part of their branch."""
    branches: list[list[Operation]] = []
    for i, operation in enumerate(operations):
        current = branches[-1] if branches else []
        projecting = any(o.kind == "linear" for o in current) and not any(o.attention for o in current)
        within = projecting and any(o.attention for o in operations[i:])
        if not branches or (operation.kind == "norm" and not within):
            branches.append([])
        branches[-1].append(operation)
    return branches
