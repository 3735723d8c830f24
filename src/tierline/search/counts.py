"""The counts of a workload, many at once: which go together, and what is filled in."""

from collections.abc import Mapping

import numpy as np

from tierline.cost.amount import Amount
from tierline.models.defaults import with_defaults
from tierline.models.description import Model
from tierline.models.workload import MOST_TOKENS, Workload, filled
from tierline.search.table import Array


def is_valid(counts: Mapping[str, Amount], rows: int) -> Array:
    """Return which rows `Workload.of` takes; counts are ints, or arrays of `rows` of them."""
    prompt, new = filled(counts.get("prompt_tokens"), counts.get("new"), counts.get("context"))
    valid = np.ones(rows, dtype=bool)
    least = {"batch": 1, "context": 1, "prompt_tokens": 1}
    for name, value in {**counts, "prompt_tokens": prompt, "new": new}.items():
        valid &= (least.get(name, 0) <= value) & (value <= MOST_TOKENS)
    if {"prompt_tokens", "new", "context"} <= set(counts):
        valid &= counts["context"] == prompt + new
    return valid


def workload_of(model: Model, counts: Mapping[str, Amount]) -> Workload:
    """Return the workload of some counts, with what is not given as the command line and the model have it.

    Counts are ints, or arrays of ints; nothing is checked.
    """
    prompt, new = filled(counts.get("prompt_tokens"), counts.get("new"), counts.get("context"))
    images, steps, sources = (counts.get(name) for name in ("images", "steps", "source_tokens"))
    asked = Workload(
        counts.get("batch", 1),
        prompt,
        new,
        0 if images is None else images,
        0 if steps is None else steps,
        0 if sources is None else sources,
    )
    return with_defaults(asked, model, images=images, steps=steps, source_tokens=sources)
