"""What a format does to a model's answers, where that was measured: data/quality.toml, and nothing else.

The file is written by benchmarks/bench_quality.py. It holds for the model that it names; how another model
takes the same format is not known, and a format that was not measured has no figure.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from tierline.sourced import Sourced


@dataclass(frozen=True, slots=True)
class Quality:
    """The perplexity of `model` with all matrices in `format`, and with them in bf16, on the same text.

    `error_fraction` is the standard error of the change: tokens are compared one by one, so that what the
    text is like cancels.
    """

    format: str
    model: str
    perplexity: Sourced
    reference: Sourced
    error_fraction: Sourced

    @property
    def change_fraction(self) -> float:
        """How much greater the perplexity is than in bf16: 0.05 is 5 % worse."""
        return self.perplexity.value / self.reference.value - 1


@cache
def measured_qualities() -> Mapping[str, Quality]:
    """Return what was measured by the format's name, as `--weights` and packed files write it."""
    table = tomllib.loads((files("tierline") / "data" / "quality.toml").read_text(encoding="utf-8"))
    model, reference = str(table["model"]), _sourced(table["reference"])
    return MappingProxyType(
        {
            name: Quality(
                name, model, _sourced(entry["perplexity"]), reference, _sourced(entry["error_fraction"])
            )
            for name, entry in table["formats"].items()
        }
    )


def quality_of(name: str) -> Quality | None:
    """Return what was measured of the format with this name, None where nothing was."""
    return measured_qualities().get(name)


def _sourced(entry: Mapping[str, object]) -> Sourced:
    return Sourced(float(str(entry["value"])), "measured", str(entry["source"]))
