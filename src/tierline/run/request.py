"""What is asked of a running model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """A text and how to answer it: `raw` text goes in as it is, otherwise through the model's chat template.

    `new` is the most tokens to generate; `temperature` 0 is greedy, and then `top_p` and `seed` do nothing.
    """

    text: str
    new: int = 128
    raw: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
