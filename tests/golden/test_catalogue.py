"""The catalogue against tensor lists of meta-device builds that were made without Tierline."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tierline.models.catalogue import catalogue_entry, catalogue_model, catalogue_names
from tierline.models.description import Model
from tierline.models.extent import Extent
from tierline.models.workload import Workload

DATA = Path(__file__).parent / "data"
LISTED = sorted(path.name.removesuffix(".json.gz") for path in DATA.glob("*.json.gz"))
TOTALS = {
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "smollm2-135m": 134_515_008,
    "smolvlm2-256m": 256_484_928,
    "smolvlm2-500m": 507_482_304,
}


def listed(name: str) -> dict[str, Any]:
    with gzip.open(DATA / f"{name}.json.gz") as file:
        content: dict[str, Any] = json.load(file)
    return content


@pytest.mark.parametrize("name", LISTED)
def test_every_name_and_shape_is_that_of_the_meta_build(name: str) -> None:
    expected = {n: tuple(shape) for n, (shape, _) in listed(name)["tensors"].items()}
    model = catalogue_model(name)
    assert {t.name: t.tensor.shape for t in model.tensors() if t.tensor.in_file} == expected
    assert model.parameters == listed(name)["total"]


@pytest.mark.parametrize(("name", "total"), TOTALS.items())
def test_parameters_are_the_published_ones(name: str, total: int) -> None:
    assert catalogue_model(name).parameters == total


@pytest.mark.parametrize("name", catalogue_names())
def test_building_gives_the_parameters_that_the_entry_states(name: str) -> None:
    entry, model = catalogue_entry(name), catalogue_model(name)
    assert (model.parameters, model.tied_parameters) == (entry.parameters, entry.tied_parameters)
    assert entry.title
    assert entry.source.startswith("https://")
    assert entry.kind in ("datasheet", "derived")


def read_elements(model: Model, phase_name: str, workload: Workload) -> int:
    """Count the weight elements that one pass of a phase reads, written apart from cost/."""
    phase = next(p for p in model.phases if p.name == phase_name)
    values = workload.values()
    values |= {"context": phase.context.evaluate(values), "tokens": phase.tokens.evaluate(values)}
    total = 0
    for component in model.components:
        for layer in component.layers if component.name in phase.components else ():
            shapes = {t.name: t.elements for t in layer.block.tensors}
            for operation in layer.block.operations:
                rows = operation.rows.evaluate(values)
                one_row = operation.kind == "embedding"
                total += (
                    rows * operation.out_features if one_row else sum(shapes[w] for w in operation.weights)
                )
    return total


def test_a_decode_step_of_smolvlm_reads_text_head_and_one_embedding_row() -> None:
    model = catalogue_model("smolvlm2-256m")
    assert read_elements(model, "decode", Workload.of(context=1024)) == 134_589_312
    assert model.tied_parameters == 228_099_648


def test_kv_per_token_of_smolvlm_is_23040_bytes_in_bf16() -> None:
    model = catalogue_model("smolvlm2-256m")
    widths = [
        operation.attention.cache_width
        for component in model.components
        for layer in component.layers
        for operation in layer.block.operations
        if operation.attention
    ]
    assert 2 * sum(widths) == 23_040


def test_an_image_of_smolvlm_is_1024_patches_and_64_tokens() -> None:
    model = catalogue_model("smolvlm2-256m")
    vision, connector = model.components[:2]
    assert {o.rows for layer in vision.layers for o in layer.block.operations} == {
        Extent.parse("1024*batch*images")
    }
    (projection,) = connector.layers[0].block.operations
    assert (projection.rows, projection.in_features, projection.out_features) == (
        Extent.parse("64*batch*images"), 12288, 576,
    )  # fmt: skip
    assert model.image_tokens == 64


@pytest.mark.parametrize("name", catalogue_names())
def test_layers_that_are_alike_share_one_block(name: str) -> None:
    model = catalogue_model(name)
    blocks = [layer.block for component in model.components for layer in component.layers]
    assert len({id(b) for b in blocks}) == len(set(blocks))
