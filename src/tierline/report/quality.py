"""What the weights' format does to a model's answers, beside its bytes: only where it was measured."""

from typing import Any

from tierline.formats.precision import Precision
from tierline.formats.quality import Quality, quality_of


def quality_line(precision: Precision) -> str | None:
    """Return the change of perplexity of the weights' format and of which model, None where not measured."""
    found = _quality(precision)
    if found is None:
        return None
    change, error = f"{found.change_fraction:+.1%}", f"{found.error_fraction.value:.1%}"
    return (
        f"quality: perplexity {change} (± {error}) with {found.format} on {found.model}, the model measured"
    )


def quality_json(precision: Precision) -> dict[str, Any] | None:
    """Return the same as data, None where it was not measured."""
    found = _quality(precision)
    if found is None:
        return None
    return {
        "format": found.format,
        "model": found.model,
        "perplexity": found.perplexity.value,
        "reference_perplexity": found.reference.value,
        "change_fraction": found.change_fraction,
        "error_fraction": found.error_fraction.value,
        "kind": found.perplexity.kind,
        "source": found.perplexity.source,
    }


def _quality(precision: Precision) -> Quality | None:
    return None if precision.weights is None else quality_of(precision.weights.name)
