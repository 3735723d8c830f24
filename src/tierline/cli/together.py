"""Which options of `tierline run` do not go together: each way of running names what it excludes."""

from collections.abc import Mapping
from dataclasses import dataclass

from tierline.errors import InputError


@dataclass(frozen=True, slots=True)
class _Way:
    """A way of running: the option that asks for it, what it does, and what would then do nothing."""

    option: str
    does: str
    without: tuple[str, ...]


_WAYS = (
    _Way(
        "--benchmark",
        "measures and answers nothing",
        ("TEXT", "--chat", "--session", "--prompts", "-o", "--batch", "--speculate", "--image", "--live",
         "--trace", "--raw", "--temperature"),
    ),
    _Way(
        "--image",
        'is for one conversation, and guesses are of text; a line of --prompts has "image"',
        ("--prompts", "--speculate"),
    ),
    _Way(
        "--chat",
        "reads what to ask line by line",
        ("TEXT", "--raw", "--json", "--prompts", "-o", "--batch"),
    ),
    _Way(
        "--prompts",
        "answers what is in the file, many at once, and a guess is checked for one sequence",
        ("TEXT", "--session", "--speculate"),
    ),
)  # fmt: skip
_BENCHMARKS = ("--prompt-tokens", "--repeat")


def refuse_mixed(given: Mapping[str, object]) -> None:
    """Raise InputError where options of `given` exclude each other or lack their partner.

    Keys are the options as they are written; a value that is false was not given.
    """
    for way in _WAYS:
        beside = [name for name in way.without if given.get(name)] if given.get(way.option) else []
        if beside:
            raise InputError(f"{way.option} {way.does}: leave out {', '.join(beside)}")
    if not given.get("--benchmark") and any(given.get(name) for name in _BENCHMARKS):
        raise InputError(f"{' and '.join(_BENCHMARKS)} belong to --benchmark")
    batched = [bool(given.get(name)) for name in ("--prompts", "-o")]
    if any(batched) != all(batched) or (given.get("--batch") and not any(batched)):
        raise InputError("--prompts FILE.jsonl and -o OUT.jsonl belong together, and --batch to them")
