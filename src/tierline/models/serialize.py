"""A model description as JSON and back: blocks once each, layers by the number of their block."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

from tierline.errors import InputError
from tierline.models.description import (
    Attention,
    Block,
    CacheKind,
    Component,
    Experts,
    Layer,
    Model,
    Operation,
    OperationKind,
    Phase,
    Tensor,
    TensorClass,
)
from tierline.models.extent import Extent

FORMAT = 1
_MISTAKES = (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError)


def model_to_json(model: Model) -> str:
    """Return `model` as one JSON document that `model_from_json` reads back equal."""
    blocks: dict[Block, int] = {}
    components = [
        {
            "name": part.name,
            "layers": [[x.name, x.index, blocks.setdefault(x.block, len(blocks))] for x in part.layers],
        }
        for part in model.components
    ]
    document = {
        "format": FORMAT,
        "name": model.name,
        "family": model.family,
        "source": model.source,
        "max_context": model.max_context,
        "image_tokens": model.image_tokens,
        "default_steps": model.default_steps,
        "unknown": model.unknown,
        "notes": model.notes,
        "phases": [_phase(phase) for phase in model.phases],
        "components": components,
        "blocks": [
            {"tensors": [asdict(t) for t in b.tensors], "operations": [_operation(o) for o in b.operations]}
            for b in blocks
        ],
    }
    return json.dumps(document, separators=(",", ":"))


def model_from_json(text: str) -> Model:
    """Return the model that `model_to_json` wrote; raise InputError if `text` is anything else."""
    try:
        return _model(json.loads(text))
    except InputError:
        raise
    except _MISTAKES as error:
        raise InputError(f"not a model description: {type(error).__name__} at {str(error)[:120]}") from error


def _phase(phase: Phase) -> dict[str, object]:
    return {
        "name": phase.name,
        "components": phase.components,
        "passes": str(phase.passes),
        "tokens": str(phase.tokens),
        "context": str(phase.context),
    }


def _operation(operation: Operation) -> dict[str, object]:
    written = asdict(operation) | {"rows": str(operation.rows)}
    if operation.attention:
        written["attention"]["keys"] = str(operation.attention.keys)
    return written


def _model(document: Mapping[str, Any]) -> Model:
    if document["format"] != FORMAT:
        raise InputError(f"a model description of format {document['format']!r}: want {FORMAT}")
    blocks = [_read_block(block) for block in document["blocks"]]
    components = tuple(
        Component(
            _text(part["name"]),
            tuple(Layer(_text(n), _count(i), blocks[_count(b)]) for n, i, b in part["layers"]),
        )
        for part in document["components"]
    )
    longest = document["max_context"]
    return Model(
        name=_text(document["name"]),
        family=_text(document["family"]),
        components=components,
        phases=tuple(_read_phase(phase) for phase in document["phases"]),
        source=_text(document["source"]),
        max_context=None if longest is None else _count(longest),
        image_tokens=_count(document["image_tokens"]),
        default_steps=_count(document["default_steps"]),
        unknown=_texts(document["unknown"]),
        notes=_texts(document["notes"]),
    )


def _read_block(block: Mapping[str, Any]) -> Block:
    return Block(
        tuple(_read_tensor(tensor) for tensor in block["tensors"]),
        tuple(_read_operation(operation) for operation in block["operations"]),
    )


def _read_tensor(held: Mapping[str, Any]) -> Tensor:
    return Tensor(
        name=_text(held["name"]),
        shape=tuple(_count(side) for side in held["shape"]),
        kind=_one_of(held["kind"], TensorClass),
        stored=_text(held["stored"]),
        stored_name=_text(held["stored_name"]),
        alias_of=_text(held["alias_of"]),
        in_file=held["in_file"] is True,
    )


def _read_operation(held: Mapping[str, Any]) -> Operation:
    experts = held["experts"]
    return Operation(
        name=_text(held["name"]),
        kind=_one_of(held["kind"], OperationKind),
        rows=Extent.parse(_text(held["rows"])),
        in_features=_count(held["in_features"]),
        out_features=_count(held["out_features"]),
        weights=_texts(held["weights"]),
        attention=_read_attention(held["attention"]) if held["attention"] else None,
        experts=Experts(_count(experts["count"]), _count(experts["per_token"])) if experts else None,
        static=held["static"] is True,
    )


def _read_attention(held: Mapping[str, Any]) -> Attention:
    return Attention(
        heads=_count(held["heads"]),
        kv_heads=_count(held["kv_heads"]),
        head_dim=_count(held["head_dim"]),
        value_dim=_count(held["value_dim"]),
        keys=Extent.parse(_text(held["keys"])),
        cache=_one_of(held["cache"], CacheKind),
        cache_width=_count(held["cache_width"]),
        window=None if held["window"] is None else _count(held["window"]),
        causal=held["causal"] is True,
    )


def _read_phase(held: Mapping[str, Any]) -> Phase:
    passes, tokens, context = (Extent.parse(_text(held[k])) for k in ("passes", "tokens", "context"))
    return Phase(_text(held["name"]), _texts(held["components"]), passes, tokens, context)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r}, want text")
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{str(values)[:40]!r}, want a list")
    return tuple(_text(value) for value in values)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise TypeError(f"{str(value)[:40]!r}, want a whole number from 0")
    return value


def _one_of(value: object, choices: Any) -> Any:  # noqa: ANN401 - any Literal and one of its values
    if value not in get_args(choices):
        raise ValueError(f"{str(value)[:40]!r}, want one of {', '.join(get_args(choices))}")
    return value
