"""What to answer where a vision tower asks for values that the meta device does not have.

Models ask which images are real and which are padding. Every image here is real and every sequence has as
many as the next, so a mask selects everything, is true, and counts share equally.
"""

from typing import Any

import torch


def asks_values(name: str, args: tuple[Any, ...]) -> bool:
    """Say whether this torch function needs a mask's values: truth, a list of counts, an indexing by it."""
    if name in ("__bool__", "tolist"):
        return bool(args[0].is_meta)
    if name == "split":
        sizes = args[1] if len(args) > 1 else None
        return isinstance(sizes, list) and bool(sizes) and not any(sizes)
    index = args[1] if name == "__getitem__" else None
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool and index.is_meta


def answer(name: str, args: tuple[Any, ...]) -> Any:  # noqa: ANN401 - as loose as the functions it answers for
    """Return what a full mask gives: true, equal shares (as zeros, which `split` reads so), everything."""
    match name:
        case "__bool__":
            return True
        case "tolist":
            return [0] * args[0].numel()
        case "split":
            return args[0].chunk(len(args[1]))
        case _:
            return args[0].flatten(0, args[1].dim() - 1)


def together(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Move tensors with values (image grids) to the meta device where they meet one that has none."""
    if not any(isinstance(a, torch.Tensor) and a.is_meta for a in args):
        return args
    return tuple(
        a.to("meta") if isinstance(a, torch.Tensor) and a.dim() and not a.is_meta else a for a in args
    )
