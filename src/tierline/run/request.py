"""What is asked of a running model."""

from dataclasses import dataclass
from pathlib import Path

from tierline.errors import InputError

MOST_DRAFT_TOKENS = 64  # more rows than that are a prefill, not a guess
_SEEDS = 2**63  # torch's generator takes a signed 64-bit seed


@dataclass(frozen=True, slots=True)
class Request:
    """A text and how to answer it: `raw` text goes in as it is, otherwise through the model's chat template.

    `new` is the most tokens to generate; `temperature` 0 is greedy, and then `top_p` and `seed` do nothing.
    `speculate` is how many tokens each pass checks besides, guessed from what the text has already said
    (prompt lookup; Saxena: Prompt Lookup Decoding, 2023). `images` are files that the text is about. Raises
    InputError for a seed that no generator takes, or too many guesses.
    """

    text: str
    new: int = 128
    raw: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    speculate: int = 0
    images: tuple[Path, ...] = ()

    def choice(self) -> dict[str, bool | int | float]:
        """Return what transformers' `generate` is told of how to choose a token."""
        if self.temperature == 0:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}

    def __post_init__(self) -> None:
        if not -_SEEDS <= self.seed < _SEEDS:
            raise InputError(f"--seed {self.seed}: want {-_SEEDS} to {_SEEDS - 1}")
        if not 0 <= self.speculate <= MOST_DRAFT_TOKENS:
            raise InputError(f"--speculate {self.speculate}: want 0 to {MOST_DRAFT_TOKENS} tokens")
