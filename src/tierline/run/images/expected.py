"""Room for images that come after the model was loaded: blank ones show beforehand what they take."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tierline.errors import InputError
from tierline.run.direct_io import anonymous_memory
from tierline.run.images.files import MOST_PIXELS, decode_image, read_image
from tierline.run.images.prompt import Looked, Looker
from tierline.run.process_memory import peak_resident_bytes, reset_peak, resident_bytes, return_freed
from tierline.run.room import Room

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDES = (3584, 2048, 1024, 512, 256, 128, 64, 32)  # the first has the pixels of a telephone's photograph
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Expected:
    """Images that are expected in one pass, `looked` at already: to make them ready took `work_bytes`.

    `ids` are prompts with them, shape `(sequences, tokens)`. Each has at most `most_pixels` in its file.
    """

    ids: torch.Tensor
    looked: Looked
    work_bytes: int
    most_pixels: int = MOST_PIXELS

    def check(self, looked: Looked) -> Looked:
        """Return `looked`; raise InputError where it is more than room was kept for."""
        share = min(1.0, len(looked.texts) / len(self.looked.texts))
        if looked.pixels > share * self.looked.pixels:
            raise InputError(
                f"{len(looked.texts)} images come to {looked.pixels:,} numbers, and room was kept for "
                f"{self.looked.pixels:,} ({len(self.looked.texts)} images): show fewer at once, or smaller "
                "ones"
            )
        return looked

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold as much memory as making images ready takes: what is rehearsed meanwhile counts it."""
        memory = anonymous_memory(max(_PAGE_BYTES, self.work_bytes))
        memory[::_PAGE_BYTES] = bytes(len(memory[::_PAGE_BYTES]))  # pages count once they are touched
        try:
            yield
        finally:
            memory.release()

    def room(self, looker: Looker, room: Room) -> Room:
        """Return `room` with prompts that have such images, as long as its first pass, to rehearse with."""
        rows, tokens = self.ids.shape
        blank = torch.zeros(
            room.batch, max(tokens, min(room.prompt_tokens, room.chunk_tokens)), dtype=torch.long
        )
        blank[:rows, :tokens] = self.ids
        return replace(room, seen=looker.inputs(blank, self.looked))


def expect_images(looker: Looker, count: int, most_tokens: int) -> Expected:
    """Return the largest images of which `count` at once take at most `most_tokens` of a prompt.

    Raises InputError where none do.
    """
    for side in _SIDES:
        file = BytesIO()
        _blank(side, file)
        looked, work_bytes = _measured(looker, partial(_decoded, file.getvalue(), count))
        ids = looker.raw_ids("", looked.texts)
        if ids.shape[1] <= most_tokens:
            return Expected(ids, looked, work_bytes, side * side)
    raise InputError(
        f"{count} images of {side} x {side} pixels take more than the {most_tokens:,} tokens that a prompt "
        "may have: give a larger --context, or show fewer images"
    )


def expect_alike(looker: Looker, ids: torch.Tensor, images: Sequence[Path], sequences: int) -> Expected:
    """Return so many prompts like `ids`, shape `(1, tokens)`, each with these images."""
    looked, work_bytes = _measured(looker, lambda: [read_image(path) for path in images] * sequences)
    return Expected(ids.expand(sequences, -1), looked, work_bytes)


def _measured(looker: Looker, decoded: Callable[[], list["Image"]]) -> tuple[Looked, int]:
    """Return images as the model takes them, and the bytes that it took to make them ready."""
    return_freed()  # so that nothing is made ready in what would otherwise be given back
    reset_peak()
    before_bytes = resident_bytes()
    looked = looker.look(decoded())
    return looked, max(0, peak_resident_bytes() - before_bytes)


def _decoded(file: bytes, count: int) -> list["Image"]:
    return [decode_image(file, "a blank image") for _ in range(count)]


def _blank(side: int, file: BytesIO) -> None:
    from PIL import Image

    Image.new("RGB", (side, side)).save(file, "PNG")
