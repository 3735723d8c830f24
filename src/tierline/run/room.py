"""What a run is sized for: sequences, tokens, guesses, images, and how its cache is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tierline.models.description import Model
from tierline.run.kv.choice import KvChoice

CHUNK_TOKENS = 512  # of all sequences: enough rows to be compute-bound, few enough for activations


@dataclass(frozen=True, slots=True)
class Room:
    """Room for `batch` sequences of at most `prompt_tokens` and `new` more each.

    Each pass may check `drafts` guessed tokens besides the one it is for; `kv` is how the cache is kept.
    `seen` is the prompt as the model takes it, as tensors by name, where images are part of it.
    """

    prompt_tokens: int
    new: int
    batch: int = 1
    drafts: int = 0
    kv: KvChoice = field(default_factory=KvChoice)
    seen: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def sequence_tokens(self) -> int:
        """Tokens of one sequence in the cache at the end, guesses that turn out wrong included."""
        return self.prompt_tokens + self.new + self.drafts

    @property
    def tokens(self) -> int:
        """Tokens in the cache at the end, of all sequences."""
        return self.batch * self.sequence_tokens

    @property
    def rows(self) -> int:
        """Tokens that a decode pass computes with."""
        return self.batch * (1 + self.drafts)

    @property
    def chunk_tokens(self) -> int:
        """Tokens of each sequence's prompt that a prefill pass takes."""
        return max(1, CHUNK_TOKENS // self.batch)

    def kv_held_bytes(self, model: Model, computed: str) -> int:
        """Return the most bytes of memory that the cache takes; `computed` is the format computed in."""
        return self.kv.held_bytes(model, batch=self.batch, tokens=self.sequence_tokens, computed=computed)

    def kv_read_bytes(self, model: Model, computed: str) -> int:
        """Return what a decode pass reads of the cache from disk, in the middle of what is generated."""
        tokens = self.prompt_tokens + self.new // 2
        return self.kv.read_bytes(model, batch=self.batch, tokens=tokens, computed=computed)
