"""What a search is after: a rate, a time, or that it fits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tierline.errors import InputError
from tierline.plan.plan import Plan
from tierline.search.table import Array, Column
from tierline.units import format_seconds, parse_seconds

_UNITS = {"tok/s": "tokens_per_s", "actions/s": "actions_per_s", "passes/s": "passes_per_s"}


@dataclass(frozen=True, slots=True)
class Goal:
    """All that is not None has to hold: rates at least, seconds at most; with `fits` all of it resident."""

    tokens_per_s: float | None = None
    actions_per_s: float | None = None
    passes_per_s: float | None = None
    pass_s: float | None = None
    first_token_s: float | None = None
    fits: bool = False

    @classmethod
    def of(cls, target: str | None, latency: str | None, first_token: str | None, *, fits: bool) -> "Goal":
        """Return the goal that options write: `10tok/s`, `50ms`; raise InputError for none and for others."""
        rates: dict[str, float] = {}
        if target is not None:
            unit = next((u for u in _UNITS if target.endswith(u)), None)
            try:
                rates[_UNITS[unit or ""]] = float(target.removesuffix(unit or "").strip())
            except (KeyError, ValueError):
                known = ", ".join(f"10{u}" for u in _UNITS)
                raise InputError(f"--target {target[:40]!r}: want a rate such as {known}") from None
            if not all(0 < rate < 1e12 for rate in rates.values()):
                raise InputError(f"--target {target[:40]!r}: want a rate above 0")
        goal = cls(
            **rates,
            pass_s=None if latency is None else parse_seconds(latency),
            first_token_s=None if first_token is None else parse_seconds(first_token),
            fits=fits,
        )
        if goal == cls():
            raise InputError(
                "nothing to find: add --target 10tok/s, --latency 50ms, --first-token 1s or --fits"
            )
        return goal

    @property
    def only_fits(self) -> bool:
        """Whether nothing but the footprint counts."""
        return self == Goal(fits=True)

    def wants_throughput(self, varied: str) -> bool:
        """Whether the best is the fastest rather than the most: a batch under a time."""
        return varied == "batch" and self.pass_s is not None

    def met(self, plan: Plan) -> bool:
        """Return whether a plan meets it; what is not known does not."""
        main = plan.main_phase
        pass_s = main.time_s / main.passes if main and main.time_s is not None else None
        return (
            (plan.fits or not self.fits)
            and _at_least(main.tokens_per_s if main else None, self.tokens_per_s)
            and _at_least(plan.actions_per_s, self.actions_per_s)
            and (self.passes_per_s is None or (pass_s is not None and pass_s * self.passes_per_s <= 1))
            and (self.pass_s is None or (pass_s is not None and pass_s <= self.pass_s))
            and (self.first_token_s is None or _at_most(plan.time_to_first_token_s, self.first_token_s))
        )

    def met_in(self, table: Mapping[str, Column]) -> Array:
        """Return which rows of a table meet it."""
        rows = table["strategy"].values >= 0
        if self.fits:
            rows = rows & (table["fits"].values == 1)
        for name, least in (("tokens_per_s", self.tokens_per_s), ("actions_per_s", self.actions_per_s)):
            if least is not None:
                rows = rows & (np.nan_to_num(table[name].values) >= least)
        pass_s = np.nan_to_num(table["pass_s"].values, nan=np.inf)
        if self.passes_per_s is not None:
            rows = rows & (pass_s * self.passes_per_s <= 1)
        if self.pass_s is not None:
            rows = rows & (pass_s <= self.pass_s)
        if self.first_token_s is not None:
            found = np.nan_to_num(table["time_to_first_token_s"].values, nan=np.inf)
            rows = rows & (found <= self.first_token_s)
        return rows

    def __str__(self) -> str:
        parts = [
            f"{value:g} {unit}" for unit, name in _UNITS.items() if (value := getattr(self, name)) is not None
        ]
        parts += [f"at most {format_seconds(self.pass_s)} a pass"] if self.pass_s is not None else []
        if self.first_token_s is not None:
            parts.append(f"the first token within {format_seconds(self.first_token_s)}")
        return " and ".join(parts + (["all of it resident"] if self.fits else []))


def _at_least(value: float | None, least: float | None) -> bool:
    return least is None or (value is not None and value >= least)


def _at_most(value: float | None, most: float) -> bool:
    return value is not None and value <= most
