"""A layer cut for tensor and expert parallelism: what one device holds of it, computes and exchanges.

Attention is cut by heads and feed-forward by its inner width: products into them by columns, out of them by
rows, with one sum over the devices behind each (Shoeybi et al., Megatron-LM, arXiv 1909.08053, section 3).
Tables and the head are cut by words. Where there are fewer key heads than devices, each is held by several.
Latents, routers and norms are whole everywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tierline.errors import InputError
from tierline.models.description import Attention, Block, Operation, Tensor
from tierline.models.share import Exchange, Share, scaled, with_constant

_WORDS = ("embeddings", "head")


@dataclass(frozen=True, slots=True)
class Place:
    """Which device: its share of every matrix, its share of the experts, the sequences that reach them."""

    tensor: Share
    expert: Share
    expert_batch: int


@dataclass(frozen=True, slots=True)
class CutBlock:
    """A block as one device has it, and what it exchanges with others."""

    block: Block
    exchanges: tuple[Exchange, ...]


def cut_block(block: Block, place: Place, where: str) -> CutBlock:
    """Return what the device at `place` has of `block`.

    A layer whose heads do not divide is whole on every device if it keeps no cache (an image encoder); else
    InputError, beginning with `where`, says which degrees there are.
    """
    attention = next((o.attention for o in block.operations if o.attention), None)
    tensors = {t.name: t for t in block.tensors}
    if place.tensor.of > 1 and attention is not None and not _divides(attention, place.tensor.of):
        if attention.cache != "none":
            raise InputError(f"{where}: {_indivisible(attention, place.tensor.of)}")
        return CutBlock(block, ())
    cutter = _Cutter(place, tensors)
    if place.tensor.of > 1:
        if attention is not None:
            cutter.attention(block.operations, attention)
        cutter.feed_forward(block.operations)
        cutter.words(block.operations)
    cutter.experts(block.operations)
    operations = tuple(cutter.operations.get(o.name, o) for o in block.operations)
    made = Block(tuple(cutter.tensors[t.name] for t in block.tensors), operations)
    return CutBlock(made, tuple(_merged(block.operations, cutter.exchanges)))


def cut_counts(block: Block) -> Iterator[int]:
    """Yield the counts that are divided in `block`: two devices with equal parts of all are alike."""
    for operation in block.operations:
        if operation.attention is not None:
            yield operation.attention.heads
        yield from (operation.in_features, operation.out_features)
    yield from (size for t in block.tensors if t.kind in (*_WORDS, "mlp", "experts") for size in t.shape)


def _divides(how: Attention, devices: int) -> bool:
    return how.heads % devices == 0 and (how.kv_heads % devices == 0 or devices % how.kv_heads == 0)


def _indivisible(how: Attention, devices: int) -> str:
    fitting = [str(n) for n in range(2, how.heads + 1) if _divides(how, n)]
    return (
        f"{how.heads} heads over {how.kv_heads} key heads cannot be divided among tp={devices} devices; "
        f"tp may be {', '.join(fitting[:12]) or '1 only'}"
    )


class _Cutter:
    """Collects the operations and tensors of a block as they are cut."""

    def __init__(self, place: Place, tensors: dict[str, Tensor]) -> None:
        self._place, self.tensors = place, dict(tensors)
        self.operations: dict[str, Operation] = {}
        self.exchanges: list[Exchange] = []

    def attention(self, operations: Sequence[Operation], how: Attention) -> None:
        """Cut attention by heads: what leads to it by columns, what follows it by rows."""
        local = _local(how, self._place.tensor.of)
        inner, outer = how.heads * how.head_dim, how.heads * how.value_dim
        at = [i for i, o in enumerate(operations) if o.attention is not None]
        before = [o for o in operations[: at[0]] if o.kind == "linear"]
        last_width = 0
        for operation in operations[: at[0]]:
            if operation.kind == "linear" and not _latent(operation, before, how):
                last_width = operation.out_features
                self._column(operation, _head_width(last_width, how, local))
            elif operation.kind == "norm" and last_width and operation.in_features == last_width:
                self._same(operation, _head_width(last_width, how, local))
            elif operation.kind == "norm" and operation.rows != operations[0].rows:
                self._per_head(operation, how, local)
        for operation in (operations[i] for i in at):
            own = replace(
                operation,
                in_features=local.heads * how.head_dim
                if operation.in_features == inner
                else operation.in_features,
                out_features=local.heads * how.value_dim,
                attention=_local(operation.attention or how, self._place.tensor.of),
            )
            self.operations[operation.name] = own
            self._vectors(operation, how.heads, local.heads)
        after = (o for o in operations[at[-1] + 1 :] if o.kind == "linear" and o.in_features == outer)
        for operation in list(after)[:1]:
            self._row(operation, local.heads * how.value_dim)

    def feed_forward(self, operations: Sequence[Operation]) -> None:
        """Cut each chain of dense products by its inner width: the last by rows, those before by columns."""
        chains: dict[str, list[Operation]] = {}
        for operation in operations:
            kinds = {self.tensors[n].kind for n in operation.weights if n in self.tensors}
            if "mlp" in kinds and operation.kind == "linear":
                chains.setdefault(operation.name.rpartition(".")[0], []).append(operation)
        for prefix, chain in chains.items():
            if len(chain) < 2:
                continue
            width = chain[-1].in_features
            own = self._place.tensor.part(width)
            for operation in chain[:-1]:
                self._column(operation, operation.out_features // width * own)
            for operation in operations:
                inside = operation.kind == "elementwise" and operation.name.rpartition(".")[0] == prefix
                if inside and operation.in_features % width == 0:
                    self._same(operation, operation.in_features // width * own)
            self._row(chain[-1], own)

    def words(self, operations: Sequence[Operation]) -> None:
        """Cut tables and the head by words: looked-up rows are summed, logits gathered."""
        for operation in operations:
            names = [n for n in operation.weights if n in self.tensors]
            kind = next((self.tensors[n].kind for n in names if self.tensors[n].kind in _WORDS), None)
            if kind == "embeddings" and operation.kind == "embedding":
                words = self.tensors[names[0]].shape[0]
                self._shape(names[0], words, self._place.tensor.part(words))
                self._exchange("all-reduce", operation, operation.out_features)
            elif kind == "head" and operation.kind == "linear":
                self._column(operation, self._place.tensor.part(operation.out_features))
                self._exchange("all-gather", operation, operation.out_features)

    def experts(self, operations: Sequence[Operation]) -> None:
        """Give the device its experts, cut by their inner width; rows travel to their experts and back."""
        for operation in operations:
            if operation.experts is None:
                continue
            how, shares = operation.experts, self._place
            if shares.expert.of > how.count:
                raise InputError(f"ep={shares.expert.of}: there are {how.count} experts to divide; use fewer")
            held = shares.expert.part(how.count)
            for name in (n for n in operation.weights if n in self.tensors):
                self._expert_tensor(name, held, operation.in_features)
            rows = operation.rows
            if shares.expert.of > 1:
                rows = with_constant(rows, {"batch": shares.expert_batch})
                width = operation.in_features * how.per_token
                for _ in ("to the experts", "and back"):
                    self._exchange("all-to-all", operation, width, group="ep")
            local = replace(how, count=held, total=how.count, first=shares.expert.start(how.count))
            self.operations[operation.name] = replace(
                operation, rows=rows, experts=local if shares.expert.of > 1 else how
            )
            if shares.tensor.of > 1:
                self._exchange("all-reduce", operation, operation.out_features)

    def _expert_tensor(self, name: str, held: int, hidden: int) -> None:
        tensor = self.tensors[name]
        inner = [size for size in tensor.shape[1:] if size != hidden]
        shape = (held, *tensor.shape[1:])
        if self._place.tensor.of > 1 and (inner or len(shape) > 2):
            at = shape.index(inner[0], 1) if inner else 1
            shape = (*shape[:at], self._place.tensor.part(shape[at]), *shape[at + 1 :])
        self.tensors[name] = replace(tensor, shape=shape)

    def _column(self, operation: Operation, width: int) -> None:
        """Cut a product by its outputs, biases with them."""
        self._change(operation, out_features=width)
        for name in operation.weights:
            self._shape(name, operation.out_features, width)

    def _row(self, operation: Operation, width: int) -> None:
        """Cut a product by its inputs; its outputs are summed over the devices. A bias is whole."""
        self._change(operation, in_features=width)
        for name in operation.weights:
            if name in self.tensors and len(self.tensors[name].shape) > 1:
                self._shape(name, operation.in_features, width, inputs=True)
        self._exchange("all-reduce", operation, operation.out_features)

    def _same(self, operation: Operation, width: int) -> None:
        """Cut an operation that has as many outputs as inputs."""
        self._change(operation, in_features=width, out_features=width)
        self._vectors(operation, operation.in_features, width)

    def _per_head(self, operation: Operation, how: Attention, local: Attention) -> None:
        """Cut the rows of a norm of single heads; its weights are one head's."""
        count = max((c for c, _ in operation.rows.terms), default=1)
        of, own = (how.heads, local.heads) if count % how.heads == 0 else (how.kv_heads, local.kv_heads)
        if count % of == 0:
            self.operations[operation.name] = replace(operation, rows=scaled(operation.rows, own, of))

    def _vectors(self, operation: Operation, length: int, own: int) -> None:
        for name in operation.weights:
            if name in self.tensors and self.tensors[name].shape == (length,):
                self.tensors[name] = replace(self.tensors[name], shape=(own,))

    def _change(self, operation: Operation, **widths: int) -> None:
        known = self.operations.get(operation.name, operation)
        self.operations[operation.name] = replace(known, **widths)  # type: ignore[arg-type]  # widths are ints

    def _shape(self, name: str, count: int, own: int, *, inputs: bool = False) -> None:
        """Cut the axis of `count` of a tensor; where both are of it, the second is that of its inputs."""
        tensor = self.tensors.get(name)
        if tensor is None or count not in tensor.shape:
            return
        axes = [i for i, size in enumerate(tensor.shape) if size == count]
        at = axes[-1 if inputs else 0]
        self.tensors[name] = replace(tensor, shape=(*tensor.shape[:at], own, *tensor.shape[at + 1 :]))

    def _exchange(self, kind: str, operation: Operation, width: int, *, group: str = "tp") -> None:
        self.exchanges.append(Exchange(kind, group, operation.name, operation.rows, width))  # type: ignore[arg-type]  # literals


def _local(how: Attention, devices: int) -> Attention:
    """Return a device's part of an attention; key heads that are fewer are held by several devices."""
    heads, kv_heads = how.heads // devices, max(1, how.kv_heads // devices)
    separate = how.cache_width == how.kv_heads * (how.head_dim + how.value_dim)
    width = kv_heads * (how.head_dim + how.value_dim) if separate else how.cache_width
    return replace(how, heads=heads, kv_heads=kv_heads, cache_width=width)


def _latent(operation: Operation, before: Sequence[Operation], how: Attention) -> bool:
    """Return whether a product makes a latent that others expand, which every device needs whole."""
    expands = {o.in_features for o in before if o is not operation} - {before[0].in_features}
    separate = how.kv_heads * (how.head_dim + how.value_dim)
    compressed = bool(how.cache_width) and how.cache_width not in (separate, 0)
    return operation.out_features in expands or (compressed and operation.out_features == how.cache_width)


def _head_width(width: int, how: Attention, local: Attention) -> int:
    """Return what of a product's output width falls to a device: of queries, keys, values or all of them."""
    widths: list[Callable[[Attention], int]] = [
        lambda a: a.heads * a.head_dim,
        lambda a: a.kv_heads * a.head_dim,
        lambda a: a.kv_heads * a.value_dim,
        lambda a: a.heads * a.head_dim + a.kv_heads * (a.head_dim + a.value_dim),
        lambda a: a.kv_heads * (a.head_dim + a.value_dim),
    ]
    for of in widths:
        if of(how) == width:
            return of(local)
    return width // how.heads * local.heads if width % how.heads == 0 else width


def _merged(operations: Sequence[Operation], exchanges: Sequence[Exchange]) -> Iterator[Exchange]:
    """Yield the exchanges in order; sums of branches that are added up are one sum.

    A norm behind a sum needs all of it; without one in between, attention and feed-forward (or dense and
    routed experts) are added before they are summed over the devices.
    """
    order = {o.name: i for i, o in enumerate(operations)}
    norms = [i for i, o in enumerate(operations) if o.kind == "norm"]
    found = sorted(exchanges, key=lambda e: order[e.operation])
    for i, exchange in enumerate(found):
        here = order[exchange.operation]
        later = [
            order[e.operation]
            for e in found[i + 1 :]
            if e.kind == exchange.kind == "all-reduce" and e.width == exchange.width
        ]
        if later and not any(here < norm <= later[0] for norm in norms):
            continue
        yield exchange
