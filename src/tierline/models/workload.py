"""What is asked of a model: how many sequences, tokens, images and denoising steps."""

from dataclasses import dataclass

from tierline.errors import InputError

DEFAULT_CONTEXT = 1024
DEFAULT_NEW = 128
MOST_TOKENS = 10**9


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
        if context is not None:
            _check_context(context, prompt_tokens, new)
        if context is not None and prompt_tokens is not None and new is not None:
            if context != prompt_tokens + new:
                raise InputError(
                    f"--context {context} is not --prompt-tokens {prompt_tokens} + --new {new} "
                    f"= {prompt_tokens + new}: give two of the three"
                )
        elif context is not None and prompt_tokens is not None:
            new = context - prompt_tokens
        elif prompt_tokens is None:
            context = DEFAULT_CONTEXT if context is None else context
            new = min(DEFAULT_NEW, context // 2) if new is None else new
            prompt_tokens = context - new
        else:
            new = DEFAULT_NEW if new is None else new
        counts = {"batch": (batch, 1), "prompt-tokens": (prompt_tokens, 1), "new": (new, 0)}
        counts |= {"images": (images, 0), "steps": (steps, 0), "source-tokens": (source_tokens, 0)}
        for name, (count, least) in counts.items():
            if not least <= count <= MOST_TOKENS:
                raise InputError(f"--{name} {count}: want {least} to {MOST_TOKENS:,}")
        assert prompt_tokens is not None  # noqa: S101 - the branches above set it
        assert new is not None  # noqa: S101
        return cls(batch, prompt_tokens, new, images, steps, source_tokens)


def _check_context(context: int, prompt_tokens: int | None, new: int | None) -> None:
    """Raise InputError if `context` is out of range or cannot hold what else is given."""
    if not 1 <= context <= MOST_TOKENS:
        raise InputError(f"--context {context}: want 1 to {MOST_TOKENS:,}")
    if prompt_tokens is not None and prompt_tokens > context:
        raise InputError(f"--context {context} cannot hold --prompt-tokens {prompt_tokens}, a part of it")
    if prompt_tokens is None and new is not None and new >= context:
        raise InputError(f"--context {context} leaves no prompt before --new {new}: want {new + 1} or more")
