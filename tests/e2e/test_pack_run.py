"""Packed models for real: every split gives the same bits, near what was packed, and verified."""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import tierline
from tierline.errors import BudgetError, FaultError, InputError
from tierline.models.checkpoint import open_checkpoint
from tierline.models.packed_forms import FORMS, INT4, INT8, INT8_GROUP, MXFP4, MXFP8
from tierline.run.pack.pack import pack
from tierline.run.source import open_source
from tierline.testing.tiny import write_llama, write_llama_gguf

pytestmark = pytest.mark.usefixtures("brief_samples")
IDS = torch.tensor([[3, 141, 59, 26, 5, 358, 979, 323, 846, 264, 338, 327, 950, 288, 419, 716, 93, 99, 375]])
# Each kind of form, its name in the file, and whether the head is tied to the embedding.
PACKS = [
    ("int8:channel", INT8, True), ("int4:group=32", INT4, False), ("int8:group=128", INT8_GROUP, True),
    ("mxfp8", MXFP8, True),
]  # fmt: skip
MORE = [("int4:group=128", INT4.replace("32", "128"), False), ("mxfp4", MXFP4, False)]


def nothing(*_: object) -> None:
    """Ignore progress."""


def packed(source: Path, folder: Path, weights: str, panel_bytes: int = 3_000) -> Path:
    pack(open_source(source), folder, weights, nothing, panel_bytes=panel_bytes)
    return folder


def made(folder: Path, weights: str, form: str, *, tied: bool) -> Path:
    """Write a tiny Llama into `folder` and beside it the same one packed; return `folder`."""
    shape: dict[str, Any] = {"vocab_size": 992, "hidden_size": 128, "intermediate_size": 256}
    source = write_llama(folder / "source", tie_word_embeddings=tied, num_hidden_layers=3, **shape)
    tensors = open_checkpoint(packed(source, folder / "packed", weights)).tensors
    assert tensors["model.layers.0.mlp.down_proj.weight"].format == form
    # What is read by the row has to be stored by the row.
    table = form if FORMS[form].by_row else INT8
    assert tensors["model.embed_tokens.weight"].format == (table if tied else "bf16")
    return folder


@pytest.fixture(
    scope="module",
    params=[*PACKS, *(pytest.param(p, marks=pytest.mark.slow) for p in MORE)],
    ids=lambda p: p[0],
)
def every(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights, form, tied = request.param
    return made(tmp_path_factory.mktemp("packs"), weights, form, tied=tied)


@pytest.fixture(scope="module", params=PACKS[:2], ids=lambda p: p[0])
def packs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights, form, tied = request.param
    return made(tmp_path_factory.mktemp("packs"), weights, form, tied=tied)


@cache
def smallest(path: Path) -> int:
    with pytest.raises(BudgetError) as refused:
        tierline.load(path, resident=1, context=64)
    return int(str(refused.value).rpartition("--resident ")[2].partition("B")[0])


def logits(path: Path, resident: int | None = None, ids: torch.Tensor = IDS, **options: Any) -> torch.Tensor:
    """Return the logits of a wide pass, and after it of a narrow one of two tokens."""
    with tierline.load(path, resident=resident, context=64, **options) as model, torch.inference_mode():
        wide = model(input_ids=ids, use_cache=True)
        narrow = model(input_ids=ids[:, :2], past_key_values=wide.past_key_values)
        assert resident is None or model.weights_held_bytes <= resident
        return torch.cat([wide.logits, narrow.logits], dim=1)


@cache
def whole_logits(path: Path) -> torch.Tensor:
    """Return what the model that is all in memory computes."""
    return logits(path)


@given(share=st.floats(0, 0.99))
@settings(max_examples=2)
def test_every_split_gives_the_bits_of_the_resident_model(every: Path, share: float) -> None:
    path = every / "packed"
    whole = whole_logits(path)
    assert not whole.isnan().any()
    least = smallest(path)
    more = int(share * open_checkpoint(path).footprint_bytes)
    assert torch.equal(logits(path, least + more), whole)


def test_logits_are_those_of_transformers_with_the_weights_expanded(every: Path) -> None:
    """The oracle: transformers' own model in fp32, given what the packed weights stand for."""
    from tierline.run.kernels import Kernels

    model: Any = AutoModelForCausalLM.from_pretrained(every / "source", dtype=torch.float32)
    content = (every / "packed" / "model.safetensors").read_bytes()
    kernels, state = Kernels(torch.bfloat16), {**model.state_dict()}
    for name, t in open_checkpoint(every / "packed").tensors.items():
        raw = memoryview(bytearray(content[t.offset : t.offset + t.footprint_bytes]))
        rows, columns = t.shape if len(t.shape) == 2 else (1, t.shape[0])
        state[name].copy_(kernels.of(t).expand(raw, rows, columns).view(state[name].shape))
    with torch.inference_mode():
        expected = model(input_ids=IDS).logits
    found = logits(every / "packed")[:, : IDS.shape[1]].float()
    error = (found - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    assert float(error) < 0.05


def test_generation_is_the_same_streamed_and_resident(packs: Path) -> None:
    path = packs / "packed"
    found = []
    for resident in (None, smallest(path)):
        with tierline.load(path, resident=resident, context=64) as model:
            found.append(model.generate(input_ids=IDS, max_new_tokens=12, do_sample=False).tolist())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("block_type", "wanted"), [("Q4_0", INT4), ("Q4_1", INT4), ("Q8_0", INT8), ("F16", "bf16")]
)
def test_gguf_is_packed_near_its_size_and_near_its_logits(
    tiny_llama: Path, tmp_path: Path, block_type: str, wanted: str
) -> None:
    source = write_llama_gguf(tmp_path / "tiny.gguf", tiny_llama, block_type)
    folder = packed(source, tmp_path / "packed", "keep")
    formats = {t.name: t.format for t in open_checkpoint(folder).tensors.values()}
    assert formats["model.layers.0.self_attn.q_proj.weight"] == wanted
    assert formats["model.norm.weight"] == "bf16"
    exact, found = logits(source), logits(folder).float()
    # Rotary pairs left interleaved, or another order of rows, would be off by more than the logits are.
    error = (found - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()
    assert float(error) < 0.06


def damaged(folder: Path, into: Path, name: str, row: int) -> tuple[Path, int]:
    """Return a copy with a bit flipped near `row` of tensor `name`, and the offset of the panel it is in."""
    shutil.copytree(folder, into)
    tensor = open_checkpoint(into).tensors[name]
    at = tensor.footprint_bytes // tensor.shape[0] * row
    with (into / "model.safetensors").open("r+b") as file:
        file.seek(tensor.offset + at)
        (byte,) = file.read(1)
        file.seek(tensor.offset + at)
        file.write(bytes([byte ^ 1]))
    panel_bytes = tensor.footprint_bytes // tensor.shape[0] * tensor.panel_rows
    return into, tensor.offset + at // panel_bytes * panel_bytes


@pytest.mark.parametrize("streamed", [False, True])
def test_verify_changes_no_bit(packs: Path, streamed: bool) -> None:
    path, ids = packs / "packed", IDS[:, :2]
    resident = smallest(path) if streamed else None
    assert torch.equal(logits(path, resident, ids, verify=True), logits(path, resident, ids))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_verify_names_the_damaged_panel(packs: Path, tmp_path: Path, name: str, streamed: bool) -> None:
    row = int(IDS[0, 1]) if "embed" in name else 7  # of the table, one that the prompt uses
    path, offset = damaged(packs / "packed", tmp_path / "damaged", name, row)
    resident = smallest(packs / "packed") if streamed else None  # a bit is another, no size is
    with pytest.raises(FaultError, match=rf"{name} at offset {offset:,} .* damaged"):
        logits(path, resident, verify=True)


def test_verify_wants_checksums(tiny_llama: Path) -> None:
    with pytest.raises(InputError, match=r"no checksum.*tierline pack"):
        tierline.load(tiny_llama, verify=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_smollm2_packed_stays_near_the_exact_mode(smollm2_gguf: Path, tmp_path: Path) -> None:
    """KL at most 5e-3 from the exact fp32 mode, over an answer of it, in wide and in narrow passes."""
    folder = tmp_path / "packed"
    pack(open_source(smollm2_gguf), folder, "keep", nothing)
    tokenizer = open_source(smollm2_gguf).tokenizer()
    prompt: Any = tokenizer("The history of the Rhine begins", return_tensors="pt")["input_ids"]
    with tierline.load(smollm2_gguf, context=512) as model, torch.inference_mode():
        ids = model.generate(input_ids=prompt, max_new_tokens=96, do_sample=False)
        exact = model(input_ids=ids).logits.log_softmax(-1)
    with tierline.load(folder, context=512) as model, torch.inference_mode():
        wide = model(input_ids=ids).logits.float().log_softmax(-1)
        cache, parts = None, []
        for part in ids.split(8, dim=1):
            out = model(input_ids=part, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits.float())
        narrow = torch.cat(parts, dim=1).log_softmax(-1)
    for found in (wide, narrow):
        divergence = float((exact.exp() * (exact - found)).sum(-1).mean())
        print(f"KL {divergence:.2e}")  # noqa: T201 - shown with -s, for the record
        assert divergence <= 5e-3
