"""Options as the command that has them, and what that command simulates: figures anyone can have again."""

import shlex
from collections.abc import Mapping, Sequence

from tierline.models.workload import Workload
from tierline.search.case import Case
from tierline.search.counts import workload_of
from tierline.search.options import COUNTS, KEYED, flag, known_options
from tierline.sim.simulate import SimResult, simulate

Given = Mapping[str, Sequence[str]]


def command(verb: str, given: Given) -> str:
    """Return the command line of `verb` with these options."""
    words = ["tierline", verb, *given["model"]]
    for name, texts in given.items():
        if name == "model":
            continue
        for text in texts:
            if known_options()[name] is bool:
                words.append(flag(name) if text == "true" else "--no-" + flag(name).removeprefix("--"))
            else:
                words += [flag(name), text]
    return shlex.join(words)


def simulated(given: Given) -> SimResult:
    """Return what `tierline simulate` with these options does; raise TierlineError where it would."""
    case = Case({name: texts for name, texts in given.items() if name not in COUNTS})
    counts = {name: int(texts[0]) for name, texts in given.items() if name in COUNTS}
    Workload.of(**counts)  # what is wrong with them is said there
    return simulate(case.plan(workload_of(case.model, counts)), case.options)


def changed(given: Given, changes: Given) -> dict[str, Sequence[str]]:
    """Return options with others in their place; what has a key (`host.capacity=`) is replaced by key."""
    found = dict(given)
    for name, texts in changes.items():
        if name in KEYED:
            keys = {text.partition("=")[0] for text in texts}
            kept = [text for text in found.get(name, ()) if text.partition("=")[0] not in keys]
            found[name] = (*kept, *texts)
        else:
            found[name] = texts
    return found
