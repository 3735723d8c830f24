"""Tokens that a decode pass checks besides its own: how many are free, and from what on guessing pays."""

from dataclasses import dataclass
from math import floor

from tierline.errors import InputError
from tierline.plan.build import plan_with
from tierline.plan.plan import PhasePlan, Plan


@dataclass(frozen=True, slots=True)
class Guesses:
    """Decode passes that check `draft_tokens` guesses each.

    `draft_bytes` is what a draft model, its cache and activations take of the fast tier (0 where guesses come
    from the text itself), `draft_s` what it takes to guess them. `pass_s` is a pass with the guesses, its
    weights streamed in the memory that is left; `plain_pass_s` one without, with all of it. Guessing pays
    where a pass keeps more than `break_even_tokens_per_pass` on average. None where a rate is unknown.
    """

    draft_tokens: int
    draft_bytes: int
    draft_s: float | None
    plain_pass_s: float | None
    pass_s: float | None

    @property
    def break_even_tokens_per_pass(self) -> float | None:
        """Tokens that a pass has to keep for guessing to be as fast as not guessing."""
        if self.pass_s is None or self.draft_s is None or not self.plain_pass_s:
            return None
        return (self.pass_s + self.draft_s) / self.plain_pass_s

    @property
    def pays(self) -> bool | None:
        """Whether any guess can pay: no pass keeps more than all its guesses and its own token."""
        least = self.break_even_tokens_per_pass
        return None if least is None else least < self.draft_tokens + 1


def free_rows(plan: Plan) -> int | None:
    """Return how many more rows a decode pass computes with before compute takes longer than the links.

    `n* = link_s / compute_s` of one row: below it, guesses, a batch's sequences and chunks of a prompt cost
    no time (their cache aside). None where there is no decode, or a rate is unknown.
    """
    phase = _decode(plan)
    if phase is None or not phase.compute_s or (link_s := _link_s(phase)) is None:
        return None
    rows = plan.workload.batch
    return max(0, floor(link_s / (phase.compute_s / rows)) - rows)


def weigh_guesses(plan: Plan, draft_tokens: int, draft: Plan | None = None) -> Guesses:
    """Return what checking `draft_tokens` a pass takes, guessed by the model of `draft` or from the text.

    The draft model lives in the fast tier: its bytes are then not there for pinning. Raises InputError where
    the plan has no decode, the draft does not fit, or either is of several sequences.
    """
    if _decode(plan) is None:
        raise InputError(f"{plan.model.name}: has no decode phase, so there is nothing to guess")
    if plan.workload.batch != 1:
        raise InputError(f"--batch {plan.workload.batch}: guesses are checked for one sequence at a time")
    if draft is not None and not draft.fits:
        raise InputError(
            f"--draft {draft.model.name}: does not fit {draft.machine.name} by itself; a draft that is "
            "streamed costs more than it saves"
        )
    draft_bytes = draft.footprint.total_bytes if draft else 0
    squeezed = plan_with(
        plan.model,
        plan.machine,
        plan.workload,
        plan.costing,
        resident_bytes=plan.resident_bytes,
        program_bytes=plan.footprint.program_bytes + draft_bytes,
        prefetch_depth=plan.prefetch_depth,
    )
    one = _pass_s(draft, 1) if draft else 0.0
    return Guesses(
        draft_tokens=draft_tokens,
        draft_bytes=draft_bytes,
        draft_s=None if one is None else draft_tokens * one,
        plain_pass_s=_pass_s(plan, 1),
        pass_s=_pass_s(squeezed, 1 + draft_tokens),
    )


def _decode(plan: Plan) -> PhasePlan | None:
    return next((phase for phase in plan.phases if phase.name == "decode" and phase.passes), None)


def _link_s(phase: PhasePlan) -> float | None:
    times = [link.time_s for link in phase.links]
    known = [time for time in times if time is not None]
    return max(known, default=0.0) if len(known) == len(times) else None


def _pass_s(plan: Plan, rows: int) -> float | None:
    """Return the seconds of a decode pass of `rows` tokens: the longer of compute and links."""
    phase = _decode(plan)
    if phase is None or phase.compute_s is None or (link_s := _link_s(phase)) is None:
        return None
    return max(link_s, rows * phase.compute_s) / phase.passes
