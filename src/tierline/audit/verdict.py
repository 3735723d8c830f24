"""The verdict on a claim, and what reproduces a figure that does not hold."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Literal

from tierline.audit.claims import Claim
from tierline.audit.figure import COUNT, Figure, Unit, unit
from tierline.audit.options import Options
from tierline.audit.quantities import QUANTITIES
from tierline.audit.variations import Neighbour, applicable, neighbours, together
from tierline.errors import InputError, UnknownRateError

Verdict = Literal["holds", "holds_if", "unit_mix", "wrong", "not_derivable"]
# A figure summed from rounded parts is off by more than its own last digit: up to this share of it.
_ROUNDED_PARTS = Fraction(1, 1000)
_PAIR_DIGITS = 1000
_PLAIN_SLACK = Fraction(1, 50)
_PLAIN_FACTORS = tuple(Fraction(a, b) for a in range(1, 17) for b in (1, 2, 3) if a != b)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found on a claim. `derived` is in bytes, seconds and FLOP; None where it cannot be known.

    `also_unit_mix` says that what reproduces a wrong figure is in the other unit system besides.
    """

    claim: Claim
    derived: Fraction | None
    verdict: Verdict
    diagnosis: str
    also_unit_mix: bool = False

    @property
    def factor(self) -> Fraction | None:
        """Published over derived; None for a range, for 0 and where nothing is derived."""
        if not self.derived or self.claim.published != self.claim.published_high:
            return None
        return self.claim.published * self.claim.unit.size / self.derived


def judge(claim: Claim) -> Finding:
    """Return the verdict on `claim`.

    Raises InputError, beginning with the claim's id, where its scenario cannot be derived at all.
    """
    try:
        figure = claim.expression.evaluate(claim.scenario, {})
    except UnknownRateError as error:
        return Finding(claim, None, "not_derivable", str(error))
    except InputError as error:
        raise InputError(f"{claim.id}: {error}") from None
    if figure.dimension != claim.unit.dimension:
        raise InputError(
            f"{claim.id}: the derived figure is in {figure.dimension}, the published one in {claim.unit.name}"
        )
    if claim.not_derivable:
        return Finding(claim, figure.value, "not_derivable", claim.not_derivable)
    if _matches(figure, claim, claim.unit):
        if claim.assuming:
            return Finding(claim, figure.value, "holds_if", f"holds if {claim.assuming}")
        return Finding(claim, figure.value, "holds", claim.note)
    return _diagnose(claim, figure)


def _diagnose(claim: Claim, figure: Figure) -> Finding:
    """Return what reproduces a figure that does not hold: another unit, the options it was made with, a
    given explanation, a neighbour of the scenario, a plain factor, in this order.
    """
    other = unit(claim.unit.other) if claim.unit.other else None
    if other and (_matches(figure, claim, other) or _close(figure, claim, other)):
        says = f"{written(figure.value, other)}, printed as {claim.unit.name}"
        says += f" ({written(figure.value, claim.unit)})"
        return Finding(
            claim, figure.value, "unit_mix", _with_note(f"the value in {other.name}: {says}", claim)
        )
    if claim.published_with and _matches(_as_published(claim), claim, claim.unit):
        says = ", ".join(f"{option} = {value}" for option, value in claim.published_with.items())
        says = f"holds if {says}; else {written(figure.value, claim.unit)}"
        return Finding(claim, figure.value, "holds_if", _with_note(says, claim))
    for explanation in claim.explained_by:
        reproduced = explanation.expression.evaluate(claim.scenario, {})
        for chosen in filter(None, (claim.unit, other)):
            if _matches(reproduced, claim, chosen):
                says = f"{off(claim, figure)}; {explanation.why}: {written(reproduced.value, chosen)}"
                return Finding(claim, figure.value, "wrong", _with_note(says, claim), chosen is other)
    near = _nearest(claim, other)
    if near is not None:
        neighbour, chosen = near
        else_ = f"; else {written(figure.value, claim.unit)}"
        innocent = (
            chosen is claim.unit and not neighbour.mistake and not claim.stated & set(neighbour.changes)
        )
        if innocent:
            return Finding(
                claim, figure.value, "holds_if", _with_note(f"holds if {neighbour.says}{else_}", claim)
            )
        says = f"{off(claim, figure)}; it is the figure for {neighbour.says}"
        says += f", in {chosen.name}" if chosen is other else ""
        return Finding(claim, figure.value, "wrong", _with_note(says, claim), chosen is other)
    return Finding(
        claim, figure.value, "wrong", _with_note(off(claim, figure) + _plain_factor(claim, figure), claim)
    )


def _as_published(claim: Claim) -> Figure:
    return claim.expression.evaluate(claim.scenario.with_(claim.published_with), {})


def _nearest(claim: Claim, other: Unit | None) -> tuple[Neighbour, Unit] | None:
    """Return the first neighbour that gives the published figure; any in the printed unit comes first.

    Two neighbours together are tried where the figure has digits enough that it is hardly chance.
    """
    used = frozenset(option for leaf in claim.expression.leaves() for option in QUANTITIES[leaf.name].uses)
    tried = [n for n in neighbours(_seen_by(claim)) if applicable(n, used)]
    for chosen in filter(None, (claim.unit, other)):
        for neighbour in tried:
            if _reproduces(claim, neighbour, chosen):
                return neighbour, chosen
    if claim.tolerance * _PAIR_DIGITS > abs(claim.published):
        return None
    pairs = (together(a, b) for a, b in combinations([n for n in tried if n.pairs], 2))
    found = (pair for pair in pairs if pair and _reproduces(claim, pair, claim.unit))
    return next(((pair, claim.unit) for pair in found), None)


def _seen_by(claim: Claim) -> Options:
    """Return the scenario with the options of the claim's quantities in it, the first of each counting."""
    merged = dict(claim.scenario.values)
    for leaf in reversed(list(claim.expression.leaves())):
        merged.update(leaf.options)
    return Options(merged)


def _reproduces(claim: Claim, neighbour: Neighbour, chosen: Unit) -> bool:
    try:
        figure = claim.expression.evaluate(claim.scenario, neighbour.changes)
    except (InputError, UnknownRateError):  # a neighbour that this model or machine has not
        return False
    return _matches(figure, claim, chosen)


def _matches(figure: Figure, claim: Claim, chosen: Unit) -> bool:
    """Return whether the figure is the published one, read in the unit `chosen`."""
    if figure.dimension != chosen.dimension:
        return False
    value = figure.value / chosen.size
    if claim.relation == "at_most" and value <= claim.published_high:
        return True
    if claim.relation == "at_least" and value >= claim.published:
        return True
    return claim.published - claim.tolerance <= value <= claim.published_high + claim.tolerance


def _close(figure: Figure, claim: Claim, chosen: Unit) -> bool:
    value = figure.value / chosen.size
    return abs(value - claim.published) <= _ROUNDED_PARTS * claim.published


def _plain_factor(claim: Claim, figure: Figure) -> str:
    if not figure.value:
        return ""
    factor = claim.published * claim.unit.size / figure.value
    slack = claim.tolerance * claim.unit.size / figure.value
    if slack > factor * _PLAIN_SLACK:
        return ""
    plain = next((f for f in _PLAIN_FACTORS if abs(f - factor) <= slack), None)
    return "" if plain is None else f", {plain} times it within what was printed"


def off(claim: Claim, figure: Figure) -> str:
    """Return by what the published figure is off."""
    derived = written(figure.value, claim.unit)
    if not figure.value or not claim.published:
        return f"derived {derived}"
    factor = claim.published * claim.unit.size / figure.value
    digits = 6 if abs(factor - 1) < _PLAIN_SLACK else 4
    return f"derived {derived}: published is {float(factor):.{digits}g} times that"


def written(value: Fraction, chosen: Unit) -> str:
    """Return a value in a unit, whole where it is whole, else with up to six significant figures."""
    number = value / chosen.size
    text = f"{int(number):,}" if number.denominator == 1 else f"{float(number):,.6g}"
    return text if chosen.dimension == COUNT and chosen.name == "count" else f"{text} {chosen.name}"


def _with_note(says: str, claim: Claim) -> str:
    return f"{says}. {claim.note}" if claim.note else says
