"""How close the choice of each token was: where passes of several rows may round to another one."""

import torch
from transformers import LogitsProcessor


class Margins(LogitsProcessor):
    """Notes, for every generated position, how far the first logit is above the second; changes nothing."""

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._found: dict[int, float] = {}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Note the margin of the token after `input_ids`; one that is tried again counts as it ends."""
        first, second = torch.topk(scores[0].float(), 2).values.tolist()
        self._found[input_ids.shape[1] - self._prompt_tokens] = first - second
        return scores

    def of(self, position: int) -> float:
        """Return the margin of the generated token at `position`, counted from 0."""
        return self._found[position]

    def least(self, tokens: int) -> tuple[int, float] | None:
        """Return the position and margin of the closest choice among the first `tokens`; None without any."""
        known = [(margin, position) for position, margin in self._found.items() if position < tokens]
        return min(known)[::-1] if known else None
