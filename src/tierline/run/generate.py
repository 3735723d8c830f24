"""Ask a model something and take its answer token by token, with the time and the bytes of each."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from tierline.run.margins import Margins
from tierline.run.meter import Reading
from tierline.run.request import Request


@dataclass(slots=True)
class Answer:
    """Tokens so far; per pass how many came, when (seconds since the start), and what had been read by then.

    `before` is what had been read when the answer began. `margins` is kept where guessed tokens are checked.
    """

    token_ids: list[int] = field(default_factory=list)
    pass_tokens: list[int] = field(default_factory=list)
    arrived_s: list[float] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    text: str = ""
    before: Reading = field(default_factory=Reading)
    margins: Margins | None = None


Meter = Callable[[], Reading]
Emit = Callable[[str], None]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, request: Request) -> torch.Tensor:
    """Return the prompt's token ids, shape `(1, tokens)`."""
    if request.raw or not tokenizer.chat_template:
        ids: torch.Tensor = tokenizer(request.text, return_tensors="pt")["input_ids"]
        return ids
    return chat_ids(tokenizer, [{"role": "user", "content": request.text}])


def chat_ids(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]]) -> torch.Tensor:
    """Return the token ids of a conversation that waits for an answer, shape `(1, tokens)`.

    Templates of models that look at images want each turn in parts, and leave out what is none.
    """
    said: list[dict[str, Any]] = [dict(turn) for turn in turns]
    apply: Any = tokenizer.apply_chat_template
    if turns[-1]["content"].strip() not in apply(said, add_generation_prompt=True, tokenize=False):
        said = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in said]
    made: Any = apply(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids: torch.Tensor = made["input_ids"]
    return ids


class _Clock(TextStreamer):
    """Notes each token as it comes, and emits text as soon as it is whole."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, answer: Answer, meter: Meter, emit: Emit) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._answer, self._meter, self._emit = answer, meter, emit
        self._started_s = time.perf_counter()
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt once, then what each pass gave."""
        if self._prompt_seen:
            self._answer.readings.append(self._meter())
            self._answer.token_ids += value.reshape(-1).tolist()
            self._answer.pass_tokens.append(value.numel())
            self._answer.arrived_s.append(time.perf_counter() - self._started_s)
        self._prompt_seen = True
        super().put(value)  # type: ignore[no-untyped-call]

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002 - its signature
        """Pass text on."""
        self._answer.text += text
        self._emit(text)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: torch.Tensor,
    request: Request,
    answer: Answer,
    *,
    meter: Meter,
    emit: Emit,
    cache: Cache | None = None,
    seen: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Generate into `answer`; what has arrived stays there if an error ends the run early.

    `cache` holds keys and values of the first of `ids` already; it grows by the rest and the answer. `seen`
    is the prompt as the model takes it, `ids` included, where images are part of it.
    """
    torch.manual_seed(request.seed)
    answer.before = meter()
    choice: dict[str, Any] = request.choice()
    if request.speculate:
        choice["prompt_lookup_num_tokens"] = request.speculate
    if request.speculate and request.temperature == 0:
        answer.margins = Margins(ids.shape[1])
        choice["logits_processor"] = LogitsProcessorList([answer.margins])
    with torch.inference_mode():
        model.generate(  # type: ignore[operator]
            **(seen or {"input_ids": ids, "attention_mask": torch.ones_like(ids)}),
            max_new_tokens=request.new,
            streamer=_Clock(tokenizer, answer, meter, emit),
            past_key_values=cache,
            **choice,
        )
