"""What is asked of a model: how many sequences, tokens, images and denoising steps."""

from dataclasses import dataclass
from typing import Any

from tierline.errors import InputError

DEFAULT_CONTEXT = 1024
DEFAULT_NEW = 128
MOST_TOKENS = 10**9

# An int, or a numpy array of them.
Count = Any


@dataclass(frozen=True, slots=True)
class Workload:
    """The variables in which a model's extents are written.

    `prompt_tokens` are all rows of the decoder's prompt (image tokens included), `new` the tokens then
    generated, `context` their sum, `source_tokens` the rows of a separate encoder (T5, Whisper).
    """

    batch: int
    prompt_tokens: int
    new: int
    images: int = 0
    steps: int = 0
    source_tokens: int = 0

    @property
    def context(self) -> int:
        """Tokens in the cache when the generation ends."""
        return self.prompt_tokens + self.new

    def values(self) -> dict[str, int]:
        """Return the value of every extent variable but `tokens`, which each phase binds for itself."""
        return {
            "batch": self.batch,
            "prompt_tokens": self.prompt_tokens,
            "new": self.new,
            "context": self.context,
            "images": self.images,
            "steps": self.steps,
            "source_tokens": self.source_tokens,
        }

    @classmethod
    def of(
        cls,
        *,
        batch: int = 1,
        prompt_tokens: int | None = None,
        new: int | None = None,
        context: int | None = None,
        images: int = 0,
        steps: int = 0,
        source_tokens: int = 0,
    ) -> "Workload":
        """Return the workload that the given options mean, filling in whichever of the three are missing.

        Raises InputError where `context` is not `prompt_tokens + new`, or a count is out of range.
        """
        if context is not None or prompt_tokens is None:
            _check_context(DEFAULT_CONTEXT if context is None else context, prompt_tokens, new)
        three = context is not None and prompt_tokens is not None and new is not None
        prompt, made = filled(prompt_tokens, new, context)
        if three and context != prompt + made:
            raise InputError(
                f"--context {context} is not --prompt-tokens {prompt} + --new {made} "
                f"= {prompt + made}: give two of the three"
            )
        counts = {"batch": (batch, 1), "prompt-tokens": (prompt, 1), "new": (made, 0)}
        counts |= {"images": (images, 0), "steps": (steps, 0), "source-tokens": (source_tokens, 0)}
        for name, (count, least) in counts.items():
            if not least <= count <= MOST_TOKENS:
                raise InputError(f"--{name} {count}: want {least} to {MOST_TOKENS:,}")
        return cls(batch, prompt, made, images, steps, source_tokens)


def filled(prompt_tokens: Count | None, new: Count | None, context: Count | None) -> tuple[Count, Count]:
    """Return prompt tokens and new ones with whichever is missing filled in; arrays of them alike.

    Where none is given, half of the context is new, at most `DEFAULT_NEW` tokens.
    """
    if prompt_tokens is not None:
        if new is None:
            new = DEFAULT_NEW if context is None else context - prompt_tokens
        return prompt_tokens, new
    context = DEFAULT_CONTEXT if context is None else context
    if new is None:
        half = context // 2
        new = (half + DEFAULT_NEW - abs(half - DEFAULT_NEW)) // 2  # the smaller of the two
    return context - new, new


def _check_context(context: int, prompt_tokens: int | None, new: int | None) -> None:
    """Raise InputError if `context` is out of range or cannot hold what else is given."""
    if not 1 <= context <= MOST_TOKENS:
        raise InputError(f"--context {context}: want 1 to {MOST_TOKENS:,}")
    if prompt_tokens is not None and prompt_tokens > context:
        raise InputError(f"--context {context} cannot hold --prompt-tokens {prompt_tokens}, a part of it")
    if prompt_tokens is None and new is not None and new >= context:
        raise InputError(f"--context {context} leaves no prompt before --new {new}: want {new + 1} or more")
