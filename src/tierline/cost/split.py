"""How a model is split over devices: tensor, pipeline, expert and data parallelism, as in `tp=4,pp=2`."""

import re
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from tierline.errors import InputError

AUTO = "auto"
Layers = Literal["even", "memory"]
_DIMENSIONS = ("tp", "pp", "ep", "dp")
_MOST = 1024
_MOST_TEXT = 200


@dataclass(frozen=True, slots=True)
class Split:
    """Degrees of parallelism; `tp * pp * ep * dp` devices are used.

    `tp` cuts every matrix and the heads, `pp` the layers into stages, `ep` the experts (and the sequences of
    everything else), `dp` the sequences. `micro_batches` flow through the stages one behind another. `layers`
    divides the layers among stages `even`ly, by free `memory`, or in proportion to the numbers in it.
    `zero` keeps each optimizer state on one of the `dp` replicas only. `auto` leaves all to a search.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    micro_batches: int = 1
    layers: Layers | tuple[float, ...] = "even"
    zero: int = 0
    auto: bool = False

    @classmethod
    def parse(cls, text: str) -> "Split":
        """Return what `text` means: `auto`, or `KEY=VALUE` joined by commas, or by x within a list of them.

        Keys are tp, pp, ep, dp, micro (micro-batches), layers (`even`, `memory` or `3:2`) and zero (0 or 1).
        Raises InputError for anything else.
        """
        if text.strip() == AUTO:
            return cls(auto=True)
        split, seen = cls(), set[str]()
        for item in re.split(r",|x(?=\s*[a-z]+\s*=)", text[:_MOST_TEXT]):
            key, equals, value = (part.strip() for part in item.partition("="))
            if not equals or key in seen:
                raise _wrong(text, f"{item[:40]!r} is " + ("there twice" if equals else "no KEY=VALUE"))
            seen.add(key)
            split = split._with(key, value, text)
        if isinstance(split.layers, tuple) and len(split.layers) != split.pp:
            raise _wrong(text, f"layers gives {len(split.layers)} stages, pp {split.pp}")
        if split.layers != "even" and split.pp == 1:
            raise _wrong(text, "layers does nothing with one stage; give pp")
        if split.zero and split.dp == 1:
            raise _wrong(text, "zero does nothing with one replica; give dp")
        return split

    def _with(self, key: str, value: str, text: str) -> "Split":
        if key == "layers":
            return replace(self, layers=_layers(value, text))
        limits = {**dict.fromkeys((*_DIMENSIONS, "micro"), (1, _MOST)), "zero": (0, 1)}
        if key not in limits:
            raise _wrong(text, f"unknown key {key[:20]!r}")
        least, most = limits[key]
        number = int(value) if value.isascii() and value.isdigit() and len(value) <= 4 else -1
        if not least <= number <= most:
            raise _wrong(text, f"{key} has to be {least} to {most:,}, not {value[:20]!r}")
        changed = {"micro_batches" if key == "micro" else key: number}
        return replace(self, **changed)  # type: ignore[arg-type]  # keys of `limits` are whole numbers

    @property
    def devices(self) -> int:
        """How many devices it takes."""
        return self.tp * self.pp * self.ep * self.dp

    def __str__(self) -> str:
        if self.auto:
            return AUTO
        parts = [f"{name}={getattr(self, name)}" for name in _DIMENSIONS if getattr(self, name) > 1]
        if self.micro_batches > 1:
            parts.append(f"micro={self.micro_batches}")
        if self.layers != "even":
            how = self.layers if isinstance(self.layers, str) else ":".join(f"{x:g}" for x in self.layers)
            parts.append(f"layers={how}")
        if self.zero:
            parts.append(f"zero={self.zero}")
        return ",".join(parts) or "tp=1"


def _layers(value: str, text: str) -> Layers | tuple[float, ...]:
    named = next((name for name in get_args(Layers) if name == value), None)
    if named is not None:
        return cast("Layers", named)
    try:
        shares = tuple(float(part) for part in value.split(":"))
    except ValueError:
        shares = ()
    if not shares or not all(0 < share < 1e9 for share in shares):
        raise _wrong(text, f"layers has to be even, memory or proportions such as 3:2, not {value[:40]!r}")
    return shares


def _wrong(text: str, why: str) -> InputError:
    return InputError(
        f"--parallel {text[:60]!r}: {why}; write auto, or KEY=VALUE joined by commas with tp, pp, ep, dp, "
        "micro, layers, zero, such as tp=4,pp=2,micro=4"
    )
