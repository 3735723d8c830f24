"""Several sequences in one pass: padded on the left, each chosen and ended as it was asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper
from transformers.generation.streamers import BaseStreamer

from tierline.run.request import Request
from tierline.run.session import Session

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence: its prompt, and how it is answered (the text of `request` aside).

    `images` are those that are part of the prompt, decoded. `take` gets each token that is chosen for it, and
    returns whether the sequence ends with that.
    """

    ids: Sequence[int]
    request: Request
    take: Callable[[int], bool]
    images: Sequence["Image"] = ()


def generate_rows(session: Session, rows: Sequence[Row], passed: Callable[[], None]) -> None:
    """Answer `rows` together, calling `passed` after each pass; the last to end ends it.

    The cache holds as many tokens of each as the longest prompt and the longest answer have together. Each
    sequence has its own seed, so what is chosen does not depend on who else is there, except where rows of
    different lengths round differently. Raises FaultError where a read fails.
    """
    engine = session.engine
    pad = pad_token(session)
    ids, mask = left_padded([row.ids for row in rows], pad)
    images = [image for row in rows for image in row.images]
    seen = {"input_ids": ids, "attention_mask": mask}
    if images:
        seen = session.looker.inputs(ids, session.looker.look(images), mask)
    ended = torch.zeros(len(rows), dtype=torch.bool)
    with torch.inference_mode():
        engine.model.generate(  # type: ignore[operator]
            **seen,
            max_new_tokens=max(row.request.new for row in rows),
            pad_token_id=pad,
            past_key_values=engine.new_cache(),
            do_sample=False,
            logits_processor=LogitsProcessorList([_Choosing([row.request for row in rows])]),
            streamer=_Taking(rows, ended, passed),
            stopping_criteria=StoppingCriteriaList([_Ended(ended)]),
        )


def left_padded(group: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask, both of shape `(sequences, longest)`, padded on the left."""
    longest = max(map(len, group))
    padded = torch.tensor([[pad] * (longest - len(ids)) + list(ids) for ids in group])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in group])
    return padded, mask


def pad_token(session: Session) -> int:
    """Return what stands where a sequence has nothing: a token that the mask hides."""
    tokenizer: Any = session.tokenizer
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def end_tokens(session: Session) -> set[int]:
    """Return the tokens with which the model ends an answer."""
    ends = getattr(session.engine.model.generation_config, "eos_token_id", None)
    return set() if ends is None else set(ends) if isinstance(ends, list) else {ends}


class _Choosing(LogitsProcessor):
    """Samples for each row as it asks, and leaves the chosen token as the only one; greedy rows stay."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._warpers = {i: _warpers(r) for i, r in enumerate(requests) if r.temperature > 0}
        self._generators = {i: torch.Generator().manual_seed(requests[i].seed) for i in self._warpers}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return `scores`, shape `(rows, vocabulary)`, from which the greatest will be taken."""
        for i, warpers in self._warpers.items():
            ids: Any = input_ids[i : i + 1]
            own: Any = scores[i : i + 1]
            chances = warpers(ids, own).softmax(dim=-1)
            token = torch.multinomial(chances, 1, generator=self._generators[i])
            scores[i] = -torch.inf
            scores[i, token] = 0.0
        return scores


def _warpers(request: Request) -> LogitsProcessorList:
    cut = [TopPLogitsWarper(request.top_p)] if request.top_p < 1 else []
    return LogitsProcessorList([TemperatureLogitsWarper(request.temperature), *cut])


class _Taking(BaseStreamer):
    """Hands each row its token, until it has ended."""

    def __init__(self, rows: Sequence[Row], ended: torch.Tensor, passed: Callable[[], None]) -> None:
        self._rows, self._ended, self._passed = rows, ended, passed
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompts once, then a token of every row."""
        if self._prompt_seen:
            for i, (row, token) in enumerate(zip(self._rows, value.tolist(), strict=True)):
                if not self._ended[i]:
                    self._ended[i] = row.take(token)
            self._passed()
        self._prompt_seen = True

    def end(self) -> None:
        """Do nothing more."""


class _Ended(StoppingCriteria):
    """Says which rows have ended."""

    def __init__(self, ended: torch.Tensor) -> None:
        self._ended = ended

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> Any:  # noqa: ANN401, ARG002
        """Return a flag for every row."""
        return self._ended
