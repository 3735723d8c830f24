"""Room for images that come after the model was loaded: blank ones show beforehand what they take."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import torch

from tierline.errors import InputError
from tierline.run.direct_io import anonymous_memory
from tierline.run.images.files import decode_image
from tierline.run.images.prompt import Looked, Looker
from tierline.run.process_memory import peak_resident_bytes, reset_peak, resident_bytes, return_freed
from tierline.run.room import Room

_SIDES = (3584, 2048, 1024, 512, 256, 128, 64, 32)  # the first has the pixels of a telephone's photograph
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Expected:
    """Images that are expected: `count` at once, each of at most `most_pixels` as it lies in its file.

    `looked` are blank ones of that size; to make them ready took `work_bytes`.
    """

    count: int
    most_pixels: int
    looked: Looked
    work_bytes: int

    def check(self, looked: Looked) -> Looked:
        """Return `looked`; raise InputError where it is more than room was kept for."""
        if looked.pixels > self.looked.pixels:
            raise InputError(
                f"{len(looked.texts)} images come to {looked.pixels:,} numbers, and room was kept for "
                f"{self.looked.pixels:,} ({self.count} images): show fewer at once, or smaller ones"
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

    def seen(self, looker: Looker, room: Room) -> Mapping[str, torch.Tensor]:
        """Return a prompt with such images, of as many tokens as the first pass over one of `room` takes.

        The first of its sequences has the images, `(room.batch, tokens)`.
        """
        ids = looker.raw_ids("", self.looked.texts)
        tokens = max(ids.shape[1], min(room.prompt_tokens, room.chunk_tokens))
        ids = torch.cat([ids, ids.new_zeros(1, tokens - ids.shape[1])], dim=1)
        return looker.inputs(ids, self.looked)


def expect_images(looker: Looker, count: int, most_tokens: int) -> Expected:
    """Return the largest images of which `count` at once take at most `most_tokens` of a prompt.

    Raises InputError where none do.
    """
    for side in _SIDES:
        file = BytesIO()
        _blank(side, file)
        return_freed()  # so that nothing is made ready in what would otherwise be given back
        reset_peak()
        before_bytes = resident_bytes()
        images = [decode_image(file.getvalue(), "a blank image") for _ in range(count)]
        looked = looker.look(images)
        work_bytes = max(0, peak_resident_bytes() - before_bytes)
        if looker.raw_ids("", looked.texts).shape[1] <= most_tokens:
            return Expected(count, side * side, looked, work_bytes)
    raise InputError(
        f"{count} images of {side} x {side} pixels take more than the {most_tokens:,} tokens that a prompt "
        "may have: give a larger --context, or show fewer images"
    )


def _blank(side: int, file: BytesIO) -> None:
    from PIL import Image

    Image.new("RGB", (side, side)).save(file, "PNG")
