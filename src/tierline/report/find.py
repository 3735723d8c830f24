"""Answers of a search as sentences with their numbers, and as JSON."""

from collections.abc import Mapping
from typing import Any

from tierline.errors import InputError
from tierline.plan.plan import Plan
from tierline.search.find import LINK, MEMORY, Answer
from tierline.search.goal import Goal
from tierline.units import format_bytes, format_rate

_WORDS = {
    "context": "tokens of context",
    "batch": "sequences at once",
    "prompt_tokens": "tokens of prompt",
    "new": "new tokens",
    "images": "images",
    "steps": "denoising steps",
    "source_tokens": "source tokens",
}


def sentence(answer: Answer, goal: Goal, prices: Mapping[str, float]) -> str:
    """Return an answer as a sentence: who, what it needs, what there is, and how fast it then is."""
    who = _subject(answer, prices)
    if answer.reason:
        return f"{who}: {answer.reason}"
    reached = _reached(answer.plan)
    if answer.varied is None:
        verb = "meets" if answer.meets else "misses"
        return f"{who} {verb} {goal}: {reached}"
    if not answer.meets:
        return f"{who}: {_none(answer)} meets {goal}; as it is: {reached}"
    value = answer.value or 0
    if answer.varied == LINK:
        has = "none known" if answer.has is None else f"it has {format_rate(answer.has)}"
        verb = "needs" if answer.has is None or value > answer.has else "needs no more than"
        return f"{who} {verb} {format_rate(value)} of {answer.subject} for {goal}; {has}"
    if answer.varied == MEMORY:
        has = f"it has {format_bytes(answer.has or 0)}"
        exact = f"{format_bytes(value)} ({value:,} bytes)"
        verb = "needs" if value > (answer.has or 0) else "needs no more than"
        return f"{who} {verb} {exact} of {answer.subject} for {goal}; {has}"
    what = _WORDS.get(answer.varied, answer.varied)
    return f"{who}: {value:,} {what} for {goal}: {reached}{_note(answer)}"


def method(answer: Answer) -> str:
    """Return in a sentence how the boundary was found; nothing where none was looked for."""
    if answer.varied is None or answer.plan is None:
        return ""
    if answer.method == "bisection":
        return "Exact, by bisection: along it the goal can change only once."
    if answer.scanned is not None:
        return (
            f"Not monotone in general: every value from {answer.scanned.start:,} to "
            f"{answer.scanned.stop - 1:,} was tried."
        )
    return "Not monotone in general: every placement was tried, and the answer is exact to the byte."


def answer_json(answer: Answer, goal: Goal, prices: Mapping[str, float]) -> dict[str, Any]:
    """Return an answer in base units; `value` is the boundary of what was varied."""
    plan = answer.plan
    main = plan.main_phase if plan else None
    return {
        **answer.given,
        "varied": answer.varied,
        "subject": answer.subject or None,
        "value": answer.value,
        "unit": _unit(answer.varied),
        "has": answer.has,
        "meets": answer.meets,
        "method": answer.method,
        "scanned": [answer.scanned.start, answer.scanned.stop - 1] if answer.scanned else None,
        "price": prices.get(answer.given.get("on", "")),
        "fits": plan.fits if plan else None,
        "total_bytes": plan.footprint.total_bytes if plan else None,
        "tokens_per_s": main.tokens_per_s if main else None,
        "pass_s": main.time_s / main.passes if main and main.time_s is not None else None,
        "time_to_first_token_s": plan.time_to_first_token_s if plan else None,
        "actions_per_s": plan.actions_per_s if plan else None,
        "sentence": sentence(answer, goal, prices),
        "reason": answer.reason or None,
    }


def read_prices(texts: list[str]) -> dict[str, float]:
    """Return the prices that `NAME=NUMBER` texts give; raise InputError for others."""
    found: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            equals = ""
        if not (name and equals) or not 0 <= found[name] < 1e15:
            raise InputError(f"--price {text[:60]!r}: write MACHINE=NUMBER, such as nexys-video=479")
    return found


def _subject(answer: Answer, prices: Mapping[str, float]) -> str:
    given = dict(answer.given)
    model, on = given.pop("model", ""), given.pop("on", "")
    weights = given.pop("weights", "")
    rest = ", ".join(f"{name} {value}" for name, value in given.items())
    price = f" ({prices[on]:,g})" if on in prices else ""
    head = f"{model} in {weights}" if weights else model
    return f"{head} on {on}{price}" + (f" with {rest}" if rest else "")


def _reached(plan: Plan | None) -> str:
    if plan is None:
        return "no plan"
    main = plan.main_phase
    speed = "speed unknown"
    if main is not None and main.tokens_per_s is not None:
        speed = f"{main.tokens_per_s:.3g} tok/s at best"
    elif plan.actions_per_s is not None:
        speed = f"{plan.actions_per_s:.3g} actions/s at best"
    elif main is not None and main.time_s:
        speed = f"{main.passes / main.time_s:.3g} passes/s at best"
    bound = f", bound by {main.bound}" if main is not None and main.bound else ""
    where = "resident" if plan.fits else plan.strategy
    return f"{speed}{bound}, {format_bytes(plan.footprint.total_bytes)} {where}"


def _none(answer: Answer) -> str:
    if answer.varied == LINK:
        return f"no rate of {answer.subject}"
    if answer.varied == MEMORY:
        return f"no capacity of {answer.subject}"
    tried = f" from {answer.scanned.start:,} to {answer.scanned.stop - 1:,}" if answer.scanned else ""
    return f"no number of {_WORDS.get(answer.varied or '', 'that')}{tried}"


def _note(answer: Answer) -> str:
    plan = answer.plan
    most = plan.model.max_context if plan else None
    if plan is None or most is None or plan.workload.context <= most:
        return ""
    return f"; the model was made for {most:,}"


def _unit(varied: str | None) -> str | None:
    return {LINK: "bytes_per_s", MEMORY: "bytes", None: None}.get(varied, "count")
