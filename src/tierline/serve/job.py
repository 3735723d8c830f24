"""An answer under way: tokens come in from the batch it is in, text goes out to whoever asked."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tierline.run.request import Request

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that came."""

    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The answer is whole: why it ended, and how many tokens the model made for it."""

    reason: FinishReason
    tokens: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The answer will not come, or not to its end."""

    message: str


Event = Piece | End | Failure


class Job:
    """What one client asked for, as token ids `ids`; `emit` gets what comes of it, in the model's thread."""

    def __init__(
        self,
        ids: Sequence[int],
        request: Request,
        *,
        stops: Sequence[str],
        ends: Collection[int],
        images: Sequence[bytes] = (),
        tokenizer: Tokenizer,
        emit: Callable[[Event], None],
    ) -> None:
        """`ends` are the tokens, `stops` the texts with which an answer ends; neither is part of it.

        `images` are the files of those that are part of the prompt.
        """
        self.ids, self.request, self.images = ids, request, tuple(images)
        self.tokens = 0
        self.ended = False
        self.cancelled = False  # whoever asked has gone: the sequence ends with its next token
        self._ends, self._tokenizer, self._emit = ends, tokenizer, emit
        self._decoder, self._text = DecodeStream(skip_special_tokens=True), StopText(stops)

    def take(self, token: int) -> bool:
        """Take the next token; return whether the answer ends with it."""
        self.ended = self.cancelled or self._took(token)
        return self.ended

    def _took(self, token: int) -> bool:
        self.tokens += 1
        if token in self._ends:
            return self._finish("stop")
        text = self._text.add(self._decoder.step(self._tokenizer, token) or "")
        self._send(text)
        if self._text.stopped:
            return self._finish("stop")
        return self.tokens >= self.request.new and self._finish("length")

    def fail(self, message: str) -> None:
        """Say that the answer will not come."""
        self._emit(Failure(message))

    def _send(self, text: str) -> None:
        if text:
            self._emit(Piece(text))

    def _finish(self, reason: FinishReason) -> bool:
        self._send(self._text.rest())
        self._emit(End(reason, self.tokens))
        return True


class StopText:
    """Text that ends before the first of `stops`; what may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(filter(None, stops))
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """Return what can be passed on now that `text` came."""
        if self.stopped:
            return ""
        held = self._held + text
        found = [at for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return held[: min(found)]
        longest = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - longest :]
        return held[: len(held) - longest]

    def rest(self) -> str:
        """Return what was held back: nothing more is to come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how many of the last characters of `text` begin `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
