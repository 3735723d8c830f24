"""What is asked of a running model."""

from dataclasses import dataclass

from tierline.errors import InputError

_SEEDS = 2**63  # torch's generator takes a signed 64-bit seed


@dataclass(frozen=True, slots=True)
class Request:
    """A text and how to answer it: `raw` text goes in as it is, otherwise through the model's chat template.

    `new` is the most tokens to generate; `temperature` 0 is greedy, and then `top_p` and `seed` do nothing.
    Raises InputError for a seed that no generator takes.
    """

    text: str
    new: int = 128
    raw: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not -_SEEDS <= self.seed < _SEEDS:
            raise InputError(f"--seed {self.seed}: want {-_SEEDS} to {_SEEDS - 1}")
