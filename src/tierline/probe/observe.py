"""What one pass of a model on the meta device does: the operations in the order in which they happen.

Matrix products, convolutions and look-ups are seen as torch functions on parameters (by identity of their
storage), norms and activations as calls of their modules, attention, experts and scans at the seams where
transformers lets us stand in for them.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tierline.models.description import Experts, OperationKind
from tierline.probe import full
from tierline.probe.paths import Paths, first_tensor, own_tensors

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SeenAttention:
    """Attention as one pass showed it; `keys` is a number of rows, `cache_width` what one token adds."""

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    keys: int
    cache_width: int = 0
    window: int | None = None
    causal: bool = False
    state: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One operation as one pass showed it: `rows` is a number, `weights` are full names."""

    path: str
    kind: OperationKind
    rows: int
    in_features: int
    out_features: int
    weights: tuple[str, ...] = ()
    attention: SeenAttention | None = None
    experts: Experts | None = None


@dataclass(frozen=True, slots=True)
class Touch:
    """A parameter that some function read, before the operation at `index`; `shape` is what came out."""

    index: int
    name: str
    shape: Shape


class Observer(TorchFunctionMode):
    """Collects the operations of one pass in `seen`; `unnamed` are modules with products it cannot name.

    With `assume_full`, masks select everything (`full`): no image is padding.
    """

    def __init__(self, model: nn.Module, *, assume_full: bool = False) -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self.unnamed: list[str] = []
        self._paths = Paths(model)
        self._touched: dict[str, Touch] = {}
        self._updates: dict[str, int] = {}
        self._assume_full = assume_full

    # --- modules ---------------------------------------------------------------------------------------

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Observe every module of `model` and every torch function while the context lasts."""
        with ExitStack() as stack:
            for module in model.modules():
                stack.callback(module.register_forward_pre_hook(self._enter).remove)
                stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)
            with self:
                yield
            self._attach_touched()

    def _enter(self, module: nn.Module, _args: object) -> None:
        self._paths.enter(module)

    def _leave(self, module: nn.Module, _args: object, output: object) -> None:
        path = self._paths.leave()
        out = first_tensor(output)
        if out is None or not out.dim():
            return
        width = out.shape[-1]
        if _is_activation(module) and self._last_is("experts", path.rpartition(".")[0]):
            return  # between the products of the experts, which are one operation
        if _is_activation(module):
            self._add(Seen(path, "elementwise", out.numel() // width, width, width))
        elif _is_norm(module):
            names = tuple(f"{path}.{name}" for name in own_tensors(module))
            self._add(Seen(path, "norm", out.numel() // width, width, width, names))
        elif isinstance(module, nn.Embedding) and not self._read(f"{path}.weight"):
            self._add(Seen(path, "positions", out.numel() // width, 1, width, (f"{path}.weight",)))

    def _read(self, name: str) -> bool:
        return any(name in seen.weights for seen in self.seen)

    def _add(self, seen: Seen) -> None:
        self.seen.append(seen)

    # --- torch functions -------------------------------------------------------------------------------

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - torch's own signature
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if self._assume_full:
            if full.asks_values(name, args):
                return full.answer(name, args)
            args = full.together(args)
        out = func(*args, **options)
        if name in ("__get__", "size", "dim", "numel") or not isinstance(out, torch.Tensor | tuple):
            return out
        self._note(name, args, options, out)
        return out

    def _note(self, name: str, args: tuple[Any, ...], options: dict[str, Any], out: Any) -> None:  # noqa: ANN401
        """Turn a torch function into an operation, or remember which parameters it read."""
        if name in ("linear", "embedding") and len(args) > 1:
            (self._linear if name == "linear" else self._embedding)(args, options, out)
        elif name in ("conv1d", "conv2d", "conv3d"):
            self._convolution(args, options, out)
        elif name in _PRODUCTS:
            self._product(args[-2:] if name in ("addmm", "baddbmm") else args[:2], args, out)
        elif name == "scaled_dot_product_attention":
            self._attend_directly(args, options)
        elif name == "multi_head_attention_forward":
            self._multi_head(args, options)
        shape = tuple(out.shape) if isinstance(out, torch.Tensor) else ()
        for value in (*args, *options.values()):
            found = self._paths.name_of(value)
            if found:
                self._touched.setdefault(found, Touch(len(self.seen), found, shape))

    def _names(self, *tensors: object) -> tuple[str, ...]:
        return tuple(n for n in (self._paths.name_of(t) for t in tensors) if n)

    def _owner(self, names: tuple[str, ...]) -> str:
        return names[0].rpartition(".")[0] if names else self._paths.current

    def _linear(self, args: tuple[Any, ...], options: dict[str, Any], out: torch.Tensor) -> None:
        names = self._names(args[1], args[2] if len(args) > 2 else options.get("bias"))
        wide, width = args[1].shape
        self._add(Seen(self._owner(names), "linear", out.numel() // wide, width, wide, names))

    def _embedding(self, args: tuple[Any, ...], _options: dict[str, Any], out: torch.Tensor) -> None:
        names, width = self._names(args[1]), args[1].shape[-1]
        self._add(Seen(self._owner(names), "embedding", out.numel() // width, 1, width, names))

    def _convolution(self, args: tuple[Any, ...], options: dict[str, Any], out: torch.Tensor) -> None:
        names = self._names(args[1], args[2] if len(args) > 2 else options.get("bias"))
        channels, *kernel = args[1].shape
        rows = out.numel() // channels
        self._add(Seen(self._owner(names), "conv", rows, prod(kernel), channels, names))

    def _product(self, pair: tuple[Any, ...], args: tuple[Any, ...], out: torch.Tensor) -> None:
        """Note a product of tensors: linear with a parameter, experts with one of 3 dimensions."""
        if len(pair) != 2 or not all(isinstance(t, torch.Tensor) for t in pair):
            self.unnamed.append(self._paths.current)
            return
        weights = [t for t in pair if self._paths.name_of(t)]
        if not weights:
            # An outer product (rotary angles) is element-wise work; anything else is one we cannot name.
            if pair[0].shape[-1] > 1:
                self.unnamed.append(self._paths.current)
            return
        weight = weights[0]
        names = self._names(weight, *(a for a in args if a is not weight))
        inner = pair[0].shape[-1]
        wide = weight.numel() // inner
        if weight.dim() == 3:
            self._dense_experts(names, weight, pair[0])
            return
        self._add(Seen(self._owner(names), "linear", out.numel() // wide, inner, wide, names))

    def _dense_experts(self, names: tuple[str, ...], weight: torch.Tensor, hidden: torch.Tensor) -> None:
        """Note experts that are all computed for all rows (Llama 4): one operation for their products."""
        path, count = self._owner(names), weight.shape[0]
        if self._last_is("experts", path):
            last = self.seen[-1]
            self.seen[-1] = replace(last, weights=last.weights + names)
            return
        rows, width = hidden.shape[-2], hidden.shape[-1]
        self._add(Seen(path, "experts", rows, width, width, names, experts=Experts(count, count)))

    def _last_is(self, kind: OperationKind, path: str) -> bool:
        return bool(self.seen) and self.seen[-1].kind == kind and self.seen[-1].path == path

    def _attend_directly(self, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Note attention that goes past transformers' interface (Falcon); a mask is a causal one."""
        mask = args[3] if len(args) > 3 else options.get("attn_mask")
        causal = bool(options.get("is_causal")) or mask is not None
        self.attend(None, args[0], args[1], args[2], None, is_causal=causal)

    def _multi_head(self, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Note torch's own multi-head attention, which fuses its four products into one function."""
        query, key, _, embed, heads, in_weight, in_bias = args[:7]
        out_weight, out_bias = args[11:13]
        batch = query.shape[1]
        rows, keys = query.shape[0] * batch, key.shape[0] * batch
        inside, outside = self._names(in_weight, in_bias), self._names(out_weight, out_bias)
        path = self._paths.current
        # One fused weight: it is read once, so the queries' share is counted without naming it again.
        self._add(Seen(path, "linear", rows, embed, embed))
        self._add(Seen(path, "linear", keys, embed, 2 * embed, inside))
        width = embed // heads
        how = SeenAttention(heads, heads, width, width, key.shape[0], causal=bool(options.get("is_causal")))
        self._add(Seen(path, "attention", rows, embed, embed, attention=how))
        self._add(Seen(self._owner(outside), "linear", rows, embed, embed, outside))

    def _attach_touched(self) -> None:
        """Give parameters that no operation names yet to their module's operation, or make one for them."""
        named = {name for seen in self.seen for name in seen.weights}
        owners = {seen.path: i for i, seen in enumerate(self.seen)}
        extra: list[tuple[int, Seen]] = []
        for touch in self._touched.values():
            if touch.name in named:
                continue
            owner = touch.name.rpartition(".")[0]
            if owner in owners:
                at = owners[owner]
                self.seen[at] = replace(self.seen[at], weights=(*self.seen[at].weights, touch.name))
            elif touch.shape:
                width = touch.shape[-1]
                rows = prod(touch.shape) // max(1, width)
                extra.append((touch.index, Seen(owner, "elementwise", rows, width, width, (touch.name,))))
        for index, seen in reversed(extra):
            self.seen.insert(index, seen)

    # --- seams -----------------------------------------------------------------------------------------

    def cache_updated(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Note that the running module caches `keys` and `values` (batch, heads, rows, width)."""
        self._updates[self._paths.current] = sum(t.shape[1] * t.shape[-1] for t in (keys, values))

    def attend(
        self,
        module: nn.Module | None,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: object = None,
        **options: Any,  # noqa: ANN401
    ) -> tuple[torch.Tensor, None]:
        """Note an attention and return an empty result: (batch, rows, heads, value width)."""
        batch, heads, rows, width = query.shape
        causal, window = getattr(mask, "tierline_mask", (None, None))
        if causal is None:
            asked = options.get("is_causal")
            causal = getattr(module, "is_causal", False) if asked is None else asked
        window = options.get("sliding_window") or window
        path = self._paths.current
        how = SeenAttention(
            heads, key.shape[1], width, value.shape[-1], key.shape[2], self._updates.pop(path, 0),
            window if isinstance(window, int) else None, bool(causal),
        )  # fmt: skip
        names = self._names(*options.values())
        seen = Seen(path, "attention", batch * rows, heads * width, heads * value.shape[-1], names, how)
        last = self.seen[-1] if self.seen else None
        if last is not None and last.path == path and last.attention == how:
            self.seen[-1] = replace(last, rows=last.rows + seen.rows)  # one call per image
        else:
            self._add(seen)
        return query.new_empty((batch, rows, heads, value.shape[-1])), None

    def route(self, module: nn.Module, hidden: torch.Tensor, *routing: Any, **_options: Any) -> torch.Tensor:  # noqa: ANN401
        """Note a routed set of experts and return an empty result of the shape of `hidden`."""
        path, width = self._paths.current, hidden.shape[-1]
        names = tuple(f"{path}.{name}" for name in own_tensors(module))
        count = max(t.shape[0] for t in own_tensors(module).values())
        how = Experts(count, routing[0].shape[-1])
        self._add(Seen(path, "experts", hidden.numel() // width, width, width, names, experts=how))
        return torch.empty_like(hidden)

    def mask(self, **options: Any) -> torch.Tensor:  # noqa: ANN401
        """Return an empty mask that remembers whether it is causal and which window it has."""
        shape = (options["batch_size"], 1, options["q_length"], options["kv_length"])
        made = torch.empty(shape, dtype=torch.bool, device="meta")
        made.tierline_mask = (_is_causal(options.get("mask_function")), options.get("local_size"))  # type: ignore[attr-defined]
        return made

    def convolve_state(self, hidden: torch.Tensor, weight: torch.Tensor, bias: object) -> torch.Tensor:
        """Note a state-space layer's causal convolution of `hidden` (batch, channels, rows)."""
        names = self._names(weight, bias)
        channels, kernel = weight.shape
        rows = hidden.numel() // channels
        self._add(Seen(self._owner(names), "conv", rows, kernel, channels, names))
        self._updates[self._paths.current] = channels * kernel
        return torch.empty_like(hidden)

    def scan(self, rows: int, heads: int, head_dim: int, state: int, groups: int) -> None:
        """Note a state-space scan of `rows`, whose state holds `heads * head_dim * state` elements."""
        path = self._paths.current
        module = self._paths.current_module
        names = tuple(f"{path}.{name}" for name in own_tensors(module)) if module is not None else ()
        width = heads * head_dim
        held = width * state + self._updates.pop(path, 0)
        how = SeenAttention(heads, groups, head_dim, state, 0, held, causal=True, state=True)
        self._add(Seen(path, "scan", rows, width, width, names, how))


_PRODUCTS = frozenset(("matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "addmm", "baddbmm", "einsum"))


def _is_causal(function: Any) -> bool | None:  # noqa: ANN401
    """Ask a mask function whether it hides the second key from the first query; None if it can't say."""
    zero, one = (torch.tensor(i, device="cpu") for i in (0, 1))
    try:
        return not bool(function(zero, zero, zero, one))
    except (TypeError, RuntimeError, IndexError, NotImplementedError):
        return None


def _is_activation(module: nn.Module) -> bool:
    home = type(module).__module__
    named = home in ("torch.nn.modules.activation", "transformers.activations")
    return named and not isinstance(module, nn.MultiheadAttention | nn.Softmax)


def _is_norm(module: nn.Module) -> bool:
    leaf = next(module.children(), None) is None
    return (
        leaf
        and "norm" in type(module).__name__.lower()
        and all(t.dim() <= 2 for t in own_tensors(module).values())
    )
