"""Which number format each weight, the KV cache, the activations and the logits have."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tierline.errors import InputError
from tierline.formats.format import Format, footprint_bytes
from tierline.formats.mix import Mix
from tierline.formats.parse import parse_format, parse_weights
from tierline.formats.plain import BF16
from tierline.formats.weight import Weight


@dataclass(frozen=True, slots=True)
class Precision:
    """A format for everything that takes memory.

    `weights` None keeps every tensor as it is stored. `keep` holds (selector, format) pairs, where a selector
    is a tensor class or a component; of several that match a tensor the last one given counts.
    """

    weights: Format | Mix | None = None
    kv: Format = BF16
    activations: Format = BF16
    logits: Format = BF16
    keep: tuple[tuple[str, Format], ...] = ()

    @classmethod
    def of(
        cls,
        *,
        weights: str | None = None,
        kv: str = "bf16",
        activations: str = "bf16",
        logits: str | None = None,
        keep: Sequence[str] = (),
    ) -> "Precision":
        """Return the precision that the options name; `keep` is a sequence of `SELECTOR=FORMAT`.

        Logits are in the activations' format unless given. Raises InputError for a name that is unknown
        and a selector that is given twice.
        """
        exceptions = tuple(_exception(text) for text in keep)
        for i, (selector, _) in enumerate(exceptions):
            if selector in dict(exceptions[:i]):
                raise InputError(f"--keep {selector}: given twice; keep one of them")
        return cls(
            weights=None if weights is None else parse_weights(weights),
            kv=parse_format(kv),
            activations=parse_format(activations),
            logits=parse_format(activations if logits is None else logits),
            keep=exceptions,
        )

    def format_of(self, weight: Weight) -> Format:
        """Return the format of one weight tensor."""
        for selector, chosen in reversed(self.keep):
            if selector in (weight.kind, weight.component):
                return chosen
        if self.weights is None:
            return parse_format(weight.stored)
        return self.weights.format_of(weight) if isinstance(self.weights, Mix) else self.weights

    def footprint_bytes(self, weight: Weight) -> int:
        """Return the exact bytes of one weight tensor."""
        return footprint_bytes(self.format_of(weight), weight.shape, weight.kind)

    def check_selectors(self, known: Collection[str]) -> None:
        """Raise InputError if a selector is none of `known`, the classes and components that a model has."""
        for selector, chosen in self.keep:
            if selector not in known:
                raise InputError(
                    f"--keep {selector}={chosen.name}: the model has no {selector!r}; "
                    f"it has {', '.join(sorted(known))}"
                )


def _exception(text: str) -> tuple[str, Format]:
    selector, equals, name = text.partition("=")
    if not (selector and equals and name):
        raise InputError(f"--keep {text!r}: write CLASS=FORMAT, such as norms=bf16 or vision=fp16")
    return selector, parse_format(name)
