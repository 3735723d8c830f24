"""The probe's parts: bounds, factorisation, what is unknown, names in files, the cache on disk."""

import contextlib
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors import safe_open  # noqa: E402

from tierline.errors import InputError  # noqa: E402
from tierline.models.description import Model  # noqa: E402
from tierline.models.serialize import model_from_json, model_to_json  # noqa: E402
from tierline.probe import cache  # noqa: E402
from tierline.probe.probe import probe_model  # noqa: E402
from tierline.probe.resolve import ROW_VARIABLES, resolve  # noqa: E402
from tierline.probe.seams import quiet  # noqa: E402

TINY: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 24, "intermediate_size": 44, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 61, "tie_word_embeddings": True,
}  # fmt: skip


# --- bounds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000"),
        ({"num_hidden_layers": 1001}, "want at most 1,000"),
        ({"model_type": "mixtral", "num_local_experts": 10**7}, "num_local_experts"),
        ({"model_type": "swin", "depths": [2, 10**8]}, "depths"),
        ({"vocab_size": 2**63}, "vocab_size"),
        ({"hidden_size": 2**30, "intermediate_size": 2**30}, "elements"),
        ({"extra": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {}}}}}}}}}}, "nesting"),
        ({"layer_types": ["full_attention"] * 200_000}, "200,000 entries"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
        ({"hidden_size": -3}, "llama|Llama"),
        ({"model_type": "lama"}, "llama"),
        ({"model_type": None}, "no architecture"),
    ],
)
@pytest.mark.timeout(30)  # building any of these would not end
def test_what_cannot_be_built_is_refused_at_once(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        probe_model(TINY | change, "x")


def test_code_that_a_config_names_is_not_run() -> None:
    config = TINY | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "architectures": ["os.system"]}
    assert probe_model(config, "x").unknown == ()


@pytest.mark.slow
def test_a_large_model_takes_no_memory() -> None:
    table = json.loads((Path(__file__).parents[1] / "golden" / "probe_configs.json").read_text())["models"]
    probe_model(TINY, "warm up")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = probe_model(table["deepseek-v3"]["config"], "deepseek-v3")
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert model.parameters * 2 > 10**12
    assert grown_bytes < 10**9


# --- factorisation -------------------------------------------------------------------------------------

ONE = {"batch": 3, "tokens": 13, "context": 19, "images": 5, "source_tokens": 23}
TWO = {"batch": 2, "tokens": 17, "context": 29, "images": 7, "source_tokens": 31}


@given(st.integers(1, 10**6), st.sets(st.sampled_from(ROW_VARIABLES), max_size=3))
def test_any_product_is_found_from_two_sets_of_primes(factor: int, names: set[str]) -> None:
    def count(values: dict[str, int]) -> int:
        product = factor
        for name in names:
            product *= values[name]
        return product

    found = resolve([(ONE, count(ONE)), (TWO, count(TWO))])
    assert found is not None
    third = {"batch": 11, "tokens": 37, "context": 41, "images": 43, "source_tokens": 47}
    assert found.evaluate(third) == count(third)


def test_one_set_alone_could_mislead_and_the_second_refuses() -> None:
    assert str(resolve([(ONE, 39)])) == "39"
    assert resolve([(ONE, 39), (TWO, 35)]) is None
    assert str(resolve([(ONE, 39), (TWO, 34)])) == "batch*tokens"


def test_a_sum_is_not_taken_for_a_product() -> None:
    assert resolve([(ONE, 13 + 4), (TWO, 17 + 4)]) is None


# --- what is unknown -----------------------------------------------------------------------------------


def test_attention_past_every_seam_is_reported_and_its_phases_are_missing() -> None:
    config = {"model_type": "bloom", "hidden_size": 24, "n_head": 4, "n_layer": 2, "vocab_size": 61}
    model = probe_model(config, "bloom")
    assert model.phases == ()
    assert any("cannot name" in reason for reason in model.unknown)
    assert "transformer.h.1.self_attention.dense.weight" in {t.name for t in model.tensors()}


def test_input_that_cannot_be_made_leaves_the_tensors_known() -> None:
    model = probe_model({"model_type": "wav2vec2", "hidden_size": 32, "num_hidden_layers": 1,
                         "num_attention_heads": 4, "intermediate_size": 36}, "x")  # fmt: skip
    assert "input_values" in model.unknown[0]
    assert model.parameters > 0


# --- classes -------------------------------------------------------------------------------------------


def test_a_table_has_the_class_of_the_place_it_is_used_in() -> None:
    """T5 holds `shared` first, which nothing runs: its encoder and decoder look rows up under their names."""
    sizes = {"d_model": 24, "d_ff": 36, "d_kv": 6, "num_layers": 2, "num_heads": 4, "vocab_size": 61}
    model = probe_model({"model_type": "t5", **sizes}, "x")
    tables = {t.name: t.tensor.kind for t in model.tensors() if t.tensor.shape == (61, 24)}
    assert tables == {
        "encoder.embed_tokens.weight": "embeddings",
        "shared.weight": "embeddings",
        "decoder.embed_tokens.weight": "embeddings",
        "lm_head.weight": "head",
    }
    assert "other" not in {t.tensor.kind for t in model.tensors()}


# --- names in files ------------------------------------------------------------------------------------

FILES: list[dict[str, Any]] = [
    TINY,
    TINY | {"model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2},
    TINY | {"model_type": "qwen3_moe", "num_experts": 5, "num_experts_per_tok": 2,
            "moe_intermediate_size": 20},
    TINY | {"model_type": "jamba", "num_experts": 3, "num_hidden_layers": 4, "attn_layer_offset": 1,
            "attn_layer_period": 2, "mamba_dt_rank": 5},
    {"model_type": "gpt2", "n_embd": 24, "n_head": 4, "n_layer": 2, "vocab_size": 61},
    {"model_type": "t5", "d_model": 24, "d_ff": 36, "d_kv": 6, "num_layers": 2, "num_heads": 4},
    {"model_type": "vit", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
     "intermediate_size": 36, "image_size": 24, "patch_size": 6},
]  # fmt: skip


def expanded(model: Model, experts: int) -> set[str]:
    names = (part for t in model.tensors() if t.tensor.in_file for part in t.stored_name.split(" + "))
    return {name.replace("{e}", str(e)) for name in names for e in range(experts if "{e}" in name else 1)}


@pytest.mark.parametrize("config", FILES, ids=lambda c: c["model_type"])
def test_stored_names_are_those_of_a_file_that_transformers_saves(
    config: dict[str, Any], tmp_path: Path
) -> None:
    from tierline.probe.build import build

    described = probe_model(config, "x")
    with quiet():
        model = type(build(config))(transformers.AutoConfig.for_model(**config))
        model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        saved = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    experts = int(config.get("num_local_experts") or config.get("num_experts") or 1)
    assert expanded(described, experts) == set(saved)
    elements = sum(torch.Size(shape).numel() for shape in saved.values())
    assert described.parameters == elements


# --- on disk -------------------------------------------------------------------------------------------


def test_a_description_survives_json() -> None:
    for config in FILES:  # T5 has what runs once, aliases and two kinds of cache
        model = probe_model(config, "x")
        assert model_from_json(model_to_json(model)) == model


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"format": 2}', '{"format": 1}', "[" * 100_000])
def test_what_is_no_description_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError):
        model_from_json(text)


@given(st.data())
def test_a_damaged_description_is_an_input_error_or_another_description(data: st.DataObject) -> None:
    text = model_to_json(DESCRIBED)
    start = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:start] + data.draw(st.text(max_size=3)) + text[start + data.draw(st.integers(0, 9)) :]
    with contextlib.suppress(InputError):
        assert isinstance(model_from_json(damaged), Model)


DESCRIBED = probe_model(TINY, "x")


def test_the_cache_is_used_keyed_and_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = cache.cached_probe(TINY, "a")
    (file,) = (tmp_path / "tierline").iterdir()
    file.write_text(file.read_text().replace('"family":"llama"', '"family":"kept"'))
    assert cache.cached_probe(TINY, "b").family == "kept"
    assert cache.cached_probe(TINY, "b").name == "b"
    assert cache.cached_probe(TINY | {"vocab_size": 67}, "c").family == "llama"
    for damage in ("", "{", file.read_text()[:-9]):
        file.write_text(damage)
        assert cache.cached_probe(TINY, "a") == first
        assert model_from_json(file.read_text()) == first
    versions = {"torch": "0", "transformers": "0", "tierline": "0"}
    key = cache.cache_key(TINY)
    monkeypatch.setattr(cache, "version", versions.__getitem__)
    assert cache.cache_key(TINY) != key


def test_a_cached_description_needs_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.cached_probe(TINY, "a")
    code = (
        "import sys; from tierline.probe.cache import cached_probe\n"
        f"assert cached_probe({TINY!r}, 'a').parameters\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_folder_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tierline").write_text("a file where the folder has to be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cached_probe(TINY, "x") == DESCRIBED
