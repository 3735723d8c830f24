"""Rehearse passes without weights: how long they take, what the process holds, whether it loses pages."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from time import perf_counter

import torch
from transformers import PreTrainedModel

from tierline.errors import BudgetError
from tierline.run.attach import Rehearsal
from tierline.run.process_memory import fetched_bytes, peak_resident_bytes, reset_peak
from tierline.run.reserve import Held
from tierline.run.room import Room
from tierline.run.stand_ins import StandIns
from tierline.units import MIB, format_bytes

REHEARSED_STEPS = 8
# A step that fetches less from storage than this only touches something for the first time.
_LOST_BYTES = 2**18


class RehearsedSteps:
    """Notes, at the end of each pass, the time and what storage gave: nothing else reads then."""

    def __init__(self) -> None:
        self._noted: list[tuple[float, int]] = []

    def note(self, *_: object) -> None:
        """Note the end of a pass; a forward hook."""
        self._noted.append((perf_counter(), fetched_bytes()))

    @property
    def step_s(self) -> float:
        """Seconds of a pass, the median."""
        return median(later[0] - before[0] for before, later in pairwise(self._noted))

    @property
    def lost_bytes(self) -> int:
        """Bytes of libraries that a pass fetches again, as the kernel took their room: the median."""
        return round(median(later[1] - before[1] for before, later in pairwise(self._noted)))

    def refuse_thrash(self, allowed_bytes: int | None, reserved_bytes: int, others_bytes: int) -> None:
        """Raise BudgetError where the process loses its own pages to the limit before it holds a weight.

        What was measured in memory is then too little by what is fetched again in every pass; `others_bytes`
        (the cache, and the least for weights) come on top.
        """
        if allowed_bytes is None or self.lost_bytes < _LOST_BYTES:
            return
        least = reserved_bytes + self.lost_bytes + others_bytes
        raise BudgetError(
            f"--memory {format_bytes(allowed_bytes)} is too little: within this limit each token fetches "
            f"{format_bytes(self.lost_bytes)} of the interpreter's and the libraries' own pages again, "
            f"before any weight is held. Give --memory {-(-least // MIB)}MiB or more"
        )


class Rehearser:
    """Runs the model with its weights left out: it takes the time and the memory of everything else."""

    def __init__(
        self, model: PreTrainedModel, switch: Rehearsal, *, library_bytes: int | None, chunks: bool
    ) -> None:
        """Within a limit of memory, `library_bytes` of files' pages are needed, whatever is seen of them.

        `chunks` says that the model takes a prompt in pieces.
        """
        self._model, self._switch, self._library_bytes, self._chunks = model, switch, library_bytes, chunks
        self.held = Held()
        self.held.note()

    def run(
        self, prompt: Mapping[str, torch.Tensor], room: Room, products: Callable[[], None]
    ) -> tuple[RehearsedSteps, int]:
        """Run a prompt, a few tokens and `products`: return what the passes showed, and what to keep in bytes
        for the interpreter, libraries and the activations of a chunk of the prompt.
        """
        steps = RehearsedSteps()
        reset_peak()
        self.held.anonymous_bytes = 0  # what was freed since then counts no more
        with self.rehearsing():
            if self._library_bytes is not None:
                self._hooked(self.held.note, lambda: self.generate(prompt, 1, room), every_module=True)
            new = (REHEARSED_STEPS + 1) * (1 + room.drafts)
            self._hooked(steps.note, lambda: self.generate(prompt, new, room))
            products()
            if room.seen:  # looking comes first, but on top of all that libraries keep from the rest
                self.generate(prompt, 1, room)
        self.held.note()
        return steps, self.held.reserve_bytes(peak_resident_bytes(), self._library_bytes or 0)

    def with_products(
        self,
        prompt: Mapping[str, torch.Tensor],
        room: Room,
        products: StandIns,
        steps: int,
        note: Callable[[], None],
    ) -> None:
        """Run a prompt, and `steps` decode steps with all `products`; `note` the end of each."""

        def ended(*_: object) -> None:
            self._switch.products = products.multiply  # not in the prompt
            note()

        try:
            with self.rehearsing():
                self._hooked(ended, lambda: self.generate(prompt, (steps + 1) * (1 + room.drafts), room))
        finally:
            self._switch.products = None

    @contextmanager
    def rehearsing(self) -> Iterator[None]:
        """Leave weights out while the block runs."""
        self._switch.on = True
        try:
            with torch.inference_mode():
                yield
        finally:
            self._switch.on = False

    def generate(self, prompt: Mapping[str, torch.Tensor], new: int, room: Room) -> None:
        """Generate `new` tokens after `prompt`, whatever they are."""
        self._model.generate(  # type: ignore[operator]
            **{"attention_mask": torch.ones_like(prompt["input_ids"]), **prompt},
            prefill_chunk_size=room.chunk_tokens if self._chunks else None,
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            # Blank logits always choose the same token, so that every guess of it is right.
            prompt_lookup_num_tokens=room.drafts or None,
        )

    def _hooked(
        self, hook: Callable[..., None], work: Callable[[], None], *, every_module: bool = False
    ) -> None:
        modules = list(self._model.modules()) if every_module else [self._model]
        handles = [module.register_forward_hook(hook) for module in modules]
        try:
            work()
        finally:
            for handle in handles:
                handle.remove()
