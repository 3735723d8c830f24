"""The passes of a phase: all alike, or with a context that grows from one to the next."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tierline.cost.amount import Amount, larger, smaller
from tierline.cost.costing import Costing
from tierline.models.description import Phase


@dataclass(frozen=True, slots=True)
class PassGroup:
    """`passes` passes of `tokens` rows per sequence, the context growing evenly up to `context`.

    Every cost is linear in the context within a group, so that its sum is `passes * (first + last) / 2`.
    """

    passes: Amount
    tokens: Amount
    first_context: Amount
    context: Amount

    def values(self, workload: Mapping[str, Amount], *, first: bool = False) -> dict[str, Amount]:
        """Return the workload's variables with `tokens` and `context` of the last pass, or the first."""
        context = self.first_context if first else self.context
        return {**workload, "tokens": self.tokens, "context": context}

    @property
    def grows(self) -> bool:
        """Whether its passes differ."""
        return self.first_context is not self.context

    def total(self, first: Amount, last: Amount) -> Amount:
        """Return the sum over all passes of what costs `first` in the first and `last` in the last."""
        if first is last:
            return self.passes * first
        return self.passes * (first + last) // 2


def pass_groups(
    phase: Phase, workload: Mapping[str, Amount], costing: Costing, windows: Iterable[int] = ()
) -> tuple[PassGroup, ...]:
    """Return the passes of `phase`, in order; `windows` are the attention windows of its layers.

    A prefill in chunks has passes of `prefill_chunk` rows and one of what is left. A decode averaged over the
    generation has one context per token, from `prompt + 1` to the full one. Anything else has one group.
    Groups end where a window stops the keys from growing, which keeps them linear.
    """
    passes, tokens = phase.passes.evaluate(workload), phase.tokens.evaluate(workload)
    context = phase.context.evaluate(workload)
    if costing.average_decode and phase.name == "decode":
        return tuple(_split(passes, 1, context - passes + 1, 1, windows))
    if costing.prefill_chunk is not None and phase.name == "prefill":
        chunk = costing.prefill_chunk
        whole, rest = tokens // chunk, tokens % chunk
        groups = [*_split(whole, chunk, chunk + 0 * tokens, chunk, windows)]
        last = PassGroup(smaller(rest, 1 + 0 * rest), rest, context, context)
        return tuple(g for g in (*groups, last) if not isinstance(g.passes, int) or g.passes)
    return (PassGroup(passes, tokens, context, context),)


def _split(
    passes: Amount, tokens: int, first_context: Amount, step: int, windows: Iterable[int]
) -> Iterator[PassGroup]:
    """Yield `passes` passes from `first_context` on in steps, cut behind the last whose keys still grow."""
    start = 0 * passes
    ends = [
        smaller(larger((w + tokens - 1 - first_context) // step + 1, start), passes)
        for w in sorted(set(windows))
    ]
    for end in [*ends, passes]:
        count = end - start
        if not isinstance(count, int) or count:
            first = first_context + start * step
            yield PassGroup(count, tokens, first, first + (count - 1) * step)
        start = end
