"""The probe on published configurations, at their real dimensions: modules, totals, native readers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers import AutoConfig, PreTrainedModel  # noqa: E402

from tierline.errors import InputError  # noqa: E402
from tierline.models.config_reader import model_from_config  # noqa: E402
from tierline.models.description import Block, Model, Operation, Tensor  # noqa: E402
from tierline.models.fields import Fields  # noqa: E402
from tierline.probe.probe import probe_model  # noqa: E402
from tierline.probe.seams import quiet  # noqa: E402

TABLE: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "probe_configs.json").read_text())[
    "models"
]
FAST = ("gpt2", "t5-small", "bert-base-uncased", "whisper-tiny", "vit-base-patch16-224", "jamba-tiny")
NAMES = [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in TABLE]


def modules_on_meta(config: dict[str, Any]) -> PreTrainedModel:
    """Build as anyone would, without the probe: the class that `architectures` names, on the meta device."""
    filled = AutoConfig.for_model(**config)
    maker = getattr(transformers, (config.get("architectures") or [""])[0], None)
    with quiet(), torch.device("meta"):
        if maker is not None:
            model: PreTrainedModel = maker(filled)
        elif config["model_type"] == "llama4_text":
            model = transformers.Llama4ForCausalLM(filled)
        else:
            model = transformers.AutoModel.from_config(filled)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_totals_are_those_of_the_modules(name: str) -> None:
    entry = TABLE[name]
    model = probe_model(entry["config"], name)
    assert model.unknown == ()
    assert model.phases
    expected = {n: tuple(t.shape) for n, t in modules_on_meta(entry["config"]).state_dict().items()}
    assert {t.name: t.tensor.shape for t in model.tensors()} == expected
    if "parameters" in entry:
        assert model.tied_parameters == entry["parameters"]


def native(config: dict[str, Any], name: str) -> Model | None:
    try:
        return model_from_config(name, Fields(config, name), "test")
    except InputError:
        return None


def comparable(block: Block) -> Block:
    """Leave out the two things in which the readers differ on purpose.

    The probe sees norms without weights (Llama 4's of queries and keys) and that routing reads its
    correction, kept in fp32.
    """

    def tensor(one: Tensor) -> Tensor:
        return replace(one, stored="") if one.name.endswith("correction_bias") else one

    def operation(one: Operation) -> Operation:
        return replace(one, weights=tuple(w for w in one.weights if not w.endswith("correction_bias")))

    seen = (operation(o) for o in block.operations if o.kind != "norm" or o.weights)
    return Block(tuple(tensor(t) for t in block.tensors), tuple(seen))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n == "gpt2" else pytest.mark.slow)
        for n in TABLE
        if native(TABLE[n]["config"], n)
    ],
)
def test_native_reader_and_probe_describe_the_same(name: str) -> None:
    config = TABLE[name]["config"]
    ours, theirs = probe_model(config, name), native(config, name)
    assert theirs is not None
    for field in ("family", "phases", "max_context", "image_tokens", "default_steps", "unknown"):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert [part.name for part in ours.components] == [part.name for part in theirs.components]
    for one, other in zip(ours.components, theirs.components, strict=True):
        assert [(x.name, x.index) for x in one.layers] == [(x.name, x.index) for x in other.layers]
        for a, b in zip(one.layers, other.layers, strict=True):
            assert comparable(a.block) == comparable(b.block), a.name


def test_alike_layers_share_one_block() -> None:
    model = probe_model(TABLE["gpt2"]["config"], "gpt2")
    text = next(part for part in model.components if part.name == "text")
    blocks = {id(layer.block) for layer in text.layers if layer.name.startswith("transformer.h.")}
    assert len(blocks) == 1
