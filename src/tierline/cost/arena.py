"""One block of memory that all buffers of a pass are placed in beforehand: its size, fragmentation included.

As ggml's graph allocator does it (ggml/src/ggml-alloc.c): buffers are placed in the order in which they are
made, each in the smallest gap that holds it, else at the end; a gap that is freed joins its neighbours.
"""

from collections.abc import Sequence

from tierline.cost.buffers import LAYER_INPUT, Buffer, LayerBuffers

_ENDLESS = 1 << 62


class _Arena:
    """Places buffers by best fit; `top` is the most bytes that it came to."""

    def __init__(self) -> None:
        self.gaps: list[tuple[int, int]] = [(0, _ENDLESS)]
        self.top = 0

    def place(self, size: int) -> tuple[int, int]:
        """Return (offset, size) of a new buffer; of gaps that fit alike it takes the last."""
        within = [(length, -start) for start, length in self.gaps[:-1] if length >= size]
        start, length = self.gaps[-1] if not within else (-min(within)[1], min(within)[0])
        self.gaps.remove((start, length))
        if length > size:
            self.gaps.append((start + size, length - size))
            self.gaps.sort()
        self.top = max(self.top, start + size)
        return start, size

    def free(self, block: tuple[int, int]) -> None:
        """Give a buffer's bytes back."""
        joined: list[tuple[int, int]] = []
        for start, length in sorted([*self.gaps, block]):
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((start, length))
        self.gaps = joined


def arena_bytes(layers: Sequence[LayerBuffers], *, other_inputs: bool) -> int:
    """Return the bytes in which the buffers of `layers`, run one after another, find place.

    Each layer's input is the output of the one before. `other_inputs` places what llama.cpp's graph holds for
    batches that come as embeddings, or as a mix of them and tokens, though a batch of tokens uses neither
    (`build_inp_embd`): the rows given, never freed; rows to mix in and the tokens' rows gathered for that,
    freed; and the copy that they are mixed in, never freed.
    """
    arena = _Arena()
    width = int(_input_of(layers[0]).footprint_bytes)
    if other_inputs:
        arena.place(width)
        given = arena.place(width)
        stream = arena.place(width)
        gathered = arena.place(width)
        arena.place(width)
        arena.free(given)
        arena.free(gathered)
    else:
        stream = arena.place(width)
    for made in layers:
        stream = _run(arena, made, stream)
    return arena.top


def _run(arena: _Arena, made: LayerBuffers, stream: tuple[int, int]) -> tuple[int, int]:
    """Place a layer's buffers step by step; return where its output is."""
    source, result = _input_of(made), made.buffers[-1]
    placed = {id(source): stream}
    for step in range(len(made.steps)):
        for buffer in made.buffers:
            if buffer.first == step and buffer is not source:
                placed[id(buffer)] = arena.place(int(buffer.footprint_bytes))
        for buffer in made.buffers:
            if buffer.last == step and buffer is not result:
                arena.free(placed[id(buffer)])
    return placed[id(result)]


def _input_of(made: LayerBuffers) -> Buffer:
    return next(b for b in made.buffers if b.name == LAYER_INPUT)
