"""The catalogue against tensor lists of meta-device builds that were made without Tierline."""

import gzip
import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PI0ForConditionalGeneration,
)

from tierline.models.catalogue import catalogue_entry, catalogue_model, catalogue_names
from tierline.models.description import Model, Operation
from tierline.models.extent import Extent
from tierline.models.workload import Workload
from tierline.sourced import KINDS

DATA = Path(__file__).parent / "data"
LISTED = sorted(path.name.removesuffix(".json.gz") for path in DATA.glob("*.json.gz"))
TOTALS = {
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "smollm2-135m": 134_515_008,
    "smolvla": 450_046_176,
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
    assert entry.kind in KINDS


def test_every_entry_has_its_source_and_every_source_its_entry() -> None:
    text = (files("tierline") / "data" / "sources" / "models.toml").read_text("utf-8")
    sources = tomllib.loads(text)
    assert sorted(catalogue_entry(n).source for n in catalogue_names()) == sorted(sources)
    for source in sources.values():
        assert set(source) == {"title", "address", "date", "sentence"}
        assert source["address"].startswith("https://")


def test_there_are_at_least_forty_entries() -> None:
    assert len(catalogue_names()) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in catalogue_names() if n != "smolvla"])
def test_names_and_shapes_are_those_of_transformers(name: str) -> None:
    values = catalogue_entry(name).config.values
    given: dict[str, Any] = {k: v for k, v in values.items() if k != "head_copies_embedding"}
    config = AutoConfig.for_model(**given)
    makers: dict[str, Any] = {
        "pi0": PI0ForConditionalGeneration,
        "smolvlm": AutoModelForImageTextToText.from_config,
    }
    with torch.device("meta"):
        modules = makers.get(given["model_type"], AutoModelForCausalLM.from_config)(config)
    expected = {name: tuple(t.shape) for name, t in modules.state_dict().items()}
    assert {t.name: t.tensor.shape for t in catalogue_model(name).tensors()} == expected


def test_smolvla_is_stored_in_the_formats_of_its_checkpoint() -> None:
    expected = {name: stored for name, (_, stored) in listed("smolvla")["tensors"].items()}
    tensors = list(catalogue_model("smolvla").tensors())
    assert {t.name: t.tensor.stored for t in tensors} == expected
    assert sum(t.tensor.elements * (4 if t.tensor.stored == "fp32" else 2) for t in tensors) == 906_639_456


def test_smolvla_reads_what_its_phases_use() -> None:
    """Against the derivation of a published analysis, corrected, in elements and for one camera."""
    model, workload = catalogue_model("smolvla"), Workload.of(prompt_tokens=113, new=0, images=1, steps=10)
    layers, expert, static, projections = 157_286_400 + 30_720, 96_583_680 + 23_760, 1_638_400, 1_603_472
    assert read_elements(model, "vision", workload) == 86_433_024 + 11_796_480
    assert read_elements(model, "prefill", workload) == 48 * 960 + 31_680 + layers
    assert read_elements(model, "denoise", workload) == expert + static + projections
    assert read_elements(model, "denoise", workload, static=False) == expert + projections
    rows = [
        (operation.attention.cache, operation.attention.keys.evaluate(workload.values()))
        for operation in operations(model, "expert")
        if operation.attention
    ]
    assert rows[:3] == [("shared", 113), ("none", 50), ("cross", 113)]
    assert sum(keys for cache, keys in rows if cache != "none") == 16 * 113


def test_pi0_attends_to_what_paligemma_cached_and_to_its_own_rows() -> None:
    model, workload = catalogue_model("pi0"), Workload.of(prompt_tokens=816, new=0, images=3, steps=10)
    values = workload.values()
    phases = {p.name: p for p in model.phases}
    assert phases["prefill"].tokens.evaluate(values) == 3 * 256 + 48
    assert phases["denoise"].tokens.evaluate(values) == 51
    attends = [o.attention for o in operations(model, "expert") if o.attention]
    assert [(a.cache, a.keys.evaluate(values)) for a in attends] == [("shared", 816), ("none", 51)] * 18
    expert = 18 * (2 * 1024 * 2048 + 2 * 1024 * 256 + 3 * 1024 * 4096 + 2 * 1024) + 1024
    around = 2 * (32 * 1024 + 1024) + (2048 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 32 + 32)
    assert read_elements(model, "denoise", workload) == expert + around


def operations(model: Model, component_name: str) -> list[Operation]:
    component = next(c for c in model.components if c.name == component_name)
    return [operation for layer in component.layers for operation in layer.block.operations]


def read_elements(model: Model, phase_name: str, workload: Workload, *, static: bool = True) -> int:
    """Count the weight elements that one pass of a phase reads, written apart from cost/."""
    phase = next(p for p in model.phases if p.name == phase_name)
    values = workload.values()
    values |= {"context": phase.context.evaluate(values), "tokens": phase.tokens.evaluate(values)}
    total = 0
    for component in model.components:
        for layer in component.layers if component.name in phase.components else ():
            shapes = {t.name: t.elements for t in layer.block.tensors}
            for operation in layer.block.operations:
                if operation.static and not static:
                    continue
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
