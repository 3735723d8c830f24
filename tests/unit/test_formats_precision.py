"""Which tensor gets which format: mixes against published files, precision against known totals."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tierline.errors import InputError
from tierline.formats.mix import MIXES, Mix
from tierline.formats.parse import parse_format, parse_weights
from tierline.formats.precision import Precision
from tierline.formats.weight import Weight

DATA = Path(__file__).parent.parent / "golden" / "data"
KINDS = (
    ("biases", r"\.bias$"),
    ("norms", r"norm"),
    ("positions", r"position_embedding"),
    ("conv", r"patch_embedding"),
    ("embeddings", r"embed_tokens"),
    ("head", r"lm_head"),
    ("attention", r"self_attn"),
    ("mlp", r"mlp"),
    ("projection", r"connector"),
)


def weights_of(name: str) -> list[Weight]:
    """Return the tensors of a list that was made with a meta-device model, classified by their names."""
    with gzip.open(DATA / f"{name}.json.gz") as file:
        tensors = json.load(file)["tensors"]
    components = {name: "vision" if "vision" in name else "text" for name in tensors}
    layers = {name: int(m[1]) for name in tensors if (m := re.search(r"layers\.(\d+)\.", name))}
    depths = Counter(
        components[name] for name in tensors if re.search(r"layers\.\d+\.mlp.*(down_proj|fc2).weight", name)
    )
    return [
        Weight(
            component=components[name],
            kind=next((kind for kind, pattern in KINDS if re.search(pattern, name)), "other"),
            name=name,
            shape=tuple(shape),
            layer=layers.get(name, 0),
            layers=depths[components[name]],
        )
        for name, (shape, _) in tensors.items()
    ]


def total_bytes(precision: Precision, weights: Sequence[Weight]) -> int:
    return sum(precision.footprint_bytes(w) for w in weights)


def types(mix: str, weights: Sequence[Weight]) -> Counter[str]:
    precision = Precision.of(weights=mix)
    return Counter(precision.format_of(w).name for w in weights)


@pytest.fixture(scope="module")
def smolvlm2() -> list[Weight]:
    return weights_of("smolvlm2-256m")


@pytest.mark.parametrize(
    ("weights", "keep", "expected"),
    [
        ("fp32", (), 1_025_939_712),
        ("bf16", (), 512_969_856),
        (None, (), 512_969_856),
        ("int8", (), 256_484_928),
        ("mxfp8:block=8", (), 288_545_544),
        ("mxfp8", (), 264_500_082),
        ("mxfp8", ("norms=bf16", "biases=bf16"), 264_652_416),
        ("mxfp8", ("norms=bf16", "biases=bf16", "positions=bf16"), 265_414_272),
        (
            "mxfp8",
            ("norms=bf16", "biases=bf16", "positions=bf16", "embeddings=bf16", "head=bf16"),
            320_410_752,
        ),
        ("mxfp4", (), 256_484_928 * 17 // 32),
    ],
)
def test_smolvlm2_in_bytes(
    smolvlm2: list[Weight], weights: str | None, keep: tuple[str, ...], expected: int
) -> None:
    assert total_bytes(Precision.of(weights=weights, keep=keep), smolvlm2) == expected


def test_183_matrices_of_smolvlm2_need_the_fallback(smolvlm2: list[Weight]) -> None:
    mix = parse_weights("q4_k_m")
    assert isinstance(mix, Mix)
    narrow = [w for w in smolvlm2 if mix.needs_fallback(w)]
    assert len(narrow) == 183
    assert Counter(mix.format_of(w).name for w in narrow) == {
        # Of 30 layers 14 have more bits for v: 0 to 2, 26 to 29, and every third between.
        "q5_0": 30 * 5 + 16 + 1,  # q, k, o, gate, up; v where q4_k was wanted; the embedding
        "q8_0": 14 + 1,  # v where q6_k was wanted; the head
        "fp16": 1,  # the patch kernel
    }


# Tensor counts that llama.cpp prints when it loads a Llama 2 7B file of that type (logs in public
# repositories; q3_k_l from Llama 3.1 8B, which has the same tensors and one more vector).
LLAMA_2_7B = {
    "q8_0": {"q8_0": 226, "fp32": 65},
    "q6_k": {"q6_k": 226, "fp32": 65},
    "q5_k_m": {"q5_k": 193, "q6_k": 33, "fp32": 65},
    "q4_k_m": {"q4_k": 193, "q6_k": 33, "fp32": 65},
    "q3_k_m": {"q3_k": 129, "q4_k": 92, "q5_k": 4, "q6_k": 1, "fp32": 65},
    "q3_k_l": {"q3_k": 129, "q5_k": 96, "q6_k": 1, "fp32": 65},
    "q4_0": {"q4_0": 225, "q6_k": 1, "fp32": 65},
}


@pytest.mark.parametrize("mix", LLAMA_2_7B)
def test_llama_2_7b_has_the_types_that_llama_cpp_prints(mix: str) -> None:
    assert types(mix, weights_of("llama-2-7b")) == LLAMA_2_7B[mix]


def test_smollm2_with_a_tied_embedding_has_the_types_of_its_file() -> None:
    layers = [
        Weight("text", kind, f"{kind}.{name}.weight", shape, layer=i, layers=30)
        for i in range(30)
        for kind, name, shape in (
            ("attention", "q_proj", (576, 576)),
            ("attention", "k_proj", (192, 576)),
            ("attention", "v_proj", (192, 576)),
            ("attention", "o_proj", (576, 576)),
            ("mlp", "gate_proj", (1536, 576)),
            ("mlp", "up_proj", (1536, 576)),
            ("mlp", "down_proj", (576, 1536)),
            ("norms", "input_layernorm", (576,)),
            ("norms", "post_attention_layernorm", (576,)),
        )
    ]
    ends = [
        Weight("text", "embeddings", "embed_tokens.weight", (49152, 576), tied=True),
        Weight("text", "norms", "norm.weight", (576,)),
    ]
    assert types("q4_1", layers + ends) == {"q4_1": 210, "fp32": 61, "q8_0": 1}


# Sizes in GB of bartowski's Llama 3.1 70B files, as copied at
# ozeki.chat/p_8590-understanding-ai-model-files.html; besides the tensors they hold some 8 MB of vocabulary.
LLAMA_3_1_70B_GB = {
    "q8_0": 74.98,
    "q6_k": 57.89,
    "q5_k_m": 49.95,
    "q5_k_s": 48.66,
    "q4_k_m": 42.52,
    "q4_k_s": 40.35,
    "q3_k_l": 37.14,
    "q3_k_m": 34.27,
    "q3_k_s": 30.91,
}


@pytest.mark.parametrize("mix", LLAMA_3_1_70B_GB)
def test_llama_3_1_70b_is_as_large_as_the_published_files(mix: str) -> None:
    tensors = total_bytes(Precision.of(weights=mix), weights_of("llama-3.1-70b"))
    assert (tensors + 8e6) / 1e9 == pytest.approx(LLAMA_3_1_70B_GB[mix], abs=0.006)


def test_exact_bytes_of_published_llama_files() -> None:
    q6_k = total_bytes(Precision.of(weights="q6_k"), weights_of("llama-3.1-70b"))
    assert q6_k == (12_079_595_520 + 56_371_445_760 + 2 * 1_050_673_152) * 210 // 256 + 1_318_912 * 4
    assert q6_k == 57_880_281_088
    assert total_bytes(Precision.of(weights="q8_0"), weights_of("llama-3.1-8b")) == 8_532_934_656


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("attention", "self_attn.v_proj.weight", "q8_0"),
        ("attention", "self_attn.k_proj.weight", "q8_0"),
        ("attention", "self_attn.o_proj.weight", "q5_k"),
        ("attention", "self_attn.q_proj.weight", "q4_k"),
        ("experts", "block_sparse_moe.experts.w2", "q6_k"),
        ("experts", "mlp.experts.down_proj", "q6_k"),
        ("experts", "mlp.experts.gate_up_proj", "q4_k"),
        ("router", "mlp.gate.weight", "fp32"),
    ],
)
def test_a_model_of_eight_experts_spends_more_on_attention(kind: str, name: str, expected: str) -> None:
    shape = (8, 512, 256) if kind == "experts" else (512, 256)
    weight = Weight("text", kind, name, shape, layer=31, layers=32, experts=8)
    assert MIXES["q4_k_m"].format_of(weight).name == expected


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("attention", "attn.c_attn.weight", "q6_k"),
        ("attention", "self_attention.query_key_value.weight", "q6_k"),
        ("attention", "self_attn.qkv_proj.weight", "q6_k"),
        ("attention", "self_attn.kv_b_proj.weight", "q6_k"),
        ("attention", "attention.self.value.weight", "q6_k"),
        ("attention", "attention.output.dense.weight", "q4_k"),
        ("attention", "blk.0.attn_v.weight", "q6_k"),
        ("attention", "blk.0.attn_k.weight", "q4_k"),
        ("mlp", "blk.0.ffn_down.weight", "q6_k"),
        ("mlp", "encoder.layer.0.output.dense.weight", "q6_k"),
        ("mlp", "encoder.layer.0.intermediate.dense.weight", "q4_k"),
        ("mlp", "mlp.fc2.weight", "q6_k"),
        ("mlp", "mlp.fc1.weight", "q4_k"),
        ("mlp", "mlp.c_proj.weight", "q6_k"),
        ("projection", "connector.proj.weight", "q4_k"),
        ("other", "down_proj.weight", "q4_k"),
        ("conv", "patch_embedding.weight", "fp32"),
    ],
)
def test_roles_are_read_from_the_names_that_checkpoints_use(kind: str, name: str, expected: str) -> None:
    assert MIXES["q4_k_m"].format_of(Weight("text", kind, name, (256, 512), layers=32)).name == expected


def test_fp16_stands_in_where_no_block_fits() -> None:
    for mix in ("q4_k_m", "q8_0", "q4_0"):
        assert MIXES[mix].format_of(Weight("text", "mlp", "fc1.weight", (64, 131))).name == "fp16"
        assert MIXES[mix].format_of(Weight("text", "head", "lm_head.weight", (64, 131))).name == "fp16"


def test_the_last_exception_that_matches_counts(smolvlm2: list[Weight]) -> None:
    norm = next(w for w in smolvlm2 if w.kind == "norms" and w.component == "vision")
    by_class_last = Precision.of(weights="int8", keep=["vision=fp16", "norms=fp32"])
    by_component_last = Precision.of(weights="int8", keep=["norms=fp32", "vision=fp16"])
    assert by_class_last.format_of(norm).name == "fp32"
    assert by_component_last.format_of(norm).name == "fp16"
    assert Precision.of(weights="q4_k_m", keep=["norms=bf16"]).format_of(norm).name == "bf16"


def test_weights_as_stored_keep_each_tensors_own_format() -> None:
    stored = Weight("text", "mlp", "fc1.weight", (3, 64), stored="q4_1")
    assert Precision().footprint_bytes(stored) == 3 * 2 * 20


def test_cache_activations_and_logits_are_apart() -> None:
    assert Precision.of() == Precision()
    precision = Precision.of(kv="q8_0", activations="fp16", logits="fp32")
    assert (precision.kv, precision.activations, precision.logits) == tuple(
        map(parse_format, ("q8_0", "fp16", "fp32"))
    )
    assert Precision.of(activations="fp32").logits == parse_format("fp32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": ["norms"]}, "--keep 'norms': write CLASS=FORMAT"),
        ({"keep": ["=bf16"]}, "write CLASS=FORMAT"),
        ({"keep": ["norms=bf16", "mlp=int8", "norms=int8"]}, "--keep norms: given twice"),
        ({"keep": ["norms=q4_k_m"]}, "only --weights takes it"),
        ({"kv": "q4_k_m"}, "only --weights takes it"),
        ({"weights": "q4_k_x"}, "unknown format 'q4_k_x': did you mean"),
    ],
)
def test_bad_options(options: dict[str, str | list[str]], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Precision.of(**options)  # type: ignore[arg-type]  # one option at a time


def test_an_unknown_selector_names_those_that_the_model_has() -> None:
    precision = Precision.of(keep=["norms=bf16", "audio=bf16"])
    with pytest.raises(InputError, match="the model has no 'audio'; it has mlp, norms, text"):
        precision.check_selectors(["text", "norms", "mlp"])
    precision.check_selectors(["norms", "audio"])
