"""The neighbours of a scenario: options that publications mix up, tried one at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tierline.audit.options import Options, Value
from tierline.audit.subject import model_of
from tierline.machines.draft import COMPUTE_FORMATS

_WHOLE = ("fp32", "bf16", "int8", "int4", "mxfp8", "mxfp8:block=8", "mxfp4", "q8_0", "q4_0", "q4_k_m")
_CACHES = ("fp32", "bf16", "fp8", "int8", "int4", "mxfp8", "mxfp8:block=8")
_ELEMENTS = ("fp32", "bf16", "int8", "int4")
_BLOCKS = (8, 16, 32, 64, 128, 256)
_COUNTS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One other way to count: what it is in words, the options that change, and whether it is a mistake.

    What is no mistake is a choice that a publication may have made without saying so. `pairs` says that it is
    worth trying together with another.
    """

    says: str
    changes: Mapping[str, Value]
    mistake: bool = False
    pairs: bool = True


def neighbours(options: Options) -> Iterator[Neighbour]:
    """Yield every neighbour of a scenario, the likeliest kinds first."""
    for variation in (_scope, _machines, _classes, _formats):
        yield from variation(options)
    for variation in (_workloads, _components):  # too many to pair: something would always fit
        yield from (replace(neighbour, pairs=False) for neighbour in variation(options))


def together(first: Neighbour, second: Neighbour) -> Neighbour | None:
    """Return two neighbours as one, or None where they change the same option."""
    if first.changes.keys() & second.changes.keys():
        return None
    changes = {**first.changes, **second.changes}
    says = f"{first.says} and {second.says} together"
    return Neighbour(says, changes, first.mistake or second.mistake)


def _scope(_: Options) -> Iterator[Neighbour]:
    yield Neighbour("every weight instead of those that the pass reads", {"read": "all"}, mistake=True)
    yield Neighbour("what the pass reads instead of every weight", {"read": "phase"}, mistake=True)
    yield Neighbour("one layer instead of all", {"layers": 0}, mistake=True)
    yield Neighbour("only the layers that repeat", {"layers": "repeated"}, mistake=True)
    yield Neighbour("one row instead of all", {"rows": 1}, mistake=True)
    yield Neighbour("tied tensors once", {"tied": True})
    yield Neighbour("tied tensors as often as the file stores them", {"tied": False})
    yield Neighbour("layer matrices and activations alone", {"include": "layer-matrices"})
    yield Neighbour("everything that is moved", {"include": "all"})
    yield Neighbour("a key/value head for every query head", {"kv_heads": "all"}, mistake=True)


def _classes(options: Options) -> Iterator[Neighbour]:
    already = options.texts("without")
    for says, classes in (
        ("norms and biases", ("norms", "biases")),
        ("norms", ("norms",)),
        ("biases", ("biases",)),
    ):
        yield Neighbour(f"without {says}", {"without": (*already, *classes)})
    for says, classes in (
        ("the embedding", ("embeddings",)),
        ("the head", ("head",)),
        ("embedding and head", ("embeddings", "head")),
        ("positions", ("positions",)),
    ):
        yield Neighbour(f"without {says}", {"without": (*already, *classes)}, mistake=True)


def _components(options: Options) -> Iterator[Neighbour]:
    if "model" not in options.values:
        return
    names = [component.name for component in model_of(options).components]
    if len(names) > 1:
        for name in names:
            yield Neighbour(f"{name} alone", {"component": name}, mistake=True)
            yield Neighbour(
                f"without {name}", {"component": tuple(n for n in names if n != name)}, mistake=True
            )


def _formats(options: Options) -> Iterator[Neighbour]:
    choices = {
        "weights": _WHOLE,
        "kv": _CACHES,
        "activations": _ELEMENTS,
        "format": (*_ELEMENTS, *COMPUTE_FORMATS),
    }
    for option, names in choices.items():
        written = str(options.values.get(option, ""))
        base, _, detail = written.partition(":")
        key = "group" if "group=" in detail else "block"
        blocks = [f"{base}:{key}={n}" for n in _BLOCKS] if base.startswith("mx") or detail else []
        for name in (*blocks, *([base] if detail else []), *dict.fromkeys(names)):
            if name != written:
                yield Neighbour(f"{option} in {name}", {option: name})


def _workloads(options: Options) -> Iterator[Neighbour]:
    for count in _COUNTS:
        yield Neighbour(f"batch {count}", {"batch": count})
        yield Neighbour(f"{count} denoising step{'s' * (count > 1)}", {"steps": count})
        yield Neighbour(f"{count} image{'s' * (count > 1)}", {"images": count})
    for option in ("context", "prompt_tokens"):
        present = options.optional_count(option)
        if present is not None:
            for changed in (present * 2, present // 2, present * 4, present // 4, present * 8):
                if changed:
                    yield Neighbour(f"{option} {changed:,}", {option: changed})
    yield Neighbour("static projections in every pass", {"hoist_static": False})
    yield Neighbour("static projections once", {"hoist_static": True})


def _machines(options: Options) -> Iterator[Neighbour]:
    yield Neighbour("the peak rate", {"rate": "peak"})
    yield Neighbour("the sustained rate", {"rate": "sustained"})
    generation, lanes = options.optional_count("gen"), options.optional_count("lanes")
    for other in (1, 2, 3, 4, 5, 6):
        if generation is not None and other != generation:
            yield Neighbour(f"PCI Express gen {other}", {"gen": other})
    for width in (1, 2, 4, 8, 16):
        if lanes is not None and width != lanes:
            yield Neighbour(f"{width} lanes", {"lanes": width})


def applicable(neighbour: Neighbour, used: frozenset[str]) -> bool:
    """Return whether a quantity among those used reads an option that the neighbour changes."""
    return any(option in used for option in neighbour.changes)
