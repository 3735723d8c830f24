"""A cache kept narrower or on disk, against transformers' own."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Cache, DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedConfig

from tierline.errors import BudgetError, FaultError, InputError
from tierline.run.kv.cache import make_cache
from tierline.run.kv.choice import KvChoice, kv_format
from tierline.run.kv.codec import AsComputed, Int8
from tierline.run.kv.disk import KvDisk
from tierline.run.kv.rows import block_tokens

CONFIG = LlamaConfig(
    vocab_size=101,
    hidden_size=48,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=3,
    head_dim=8,
    max_position_embeddings=512,
)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(7)
    made: LlamaForCausalLM = LlamaForCausalLM(CONFIG).eval()
    return made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[KvDisk]:
    disk = KvDisk(tmp_path)
    yield disk
    disk.close()


def _cache(
    choice: KvChoice, disk: KvDisk | None, tokens: int = 256, config: PreTrainedConfig = CONFIG
) -> Cache:
    return make_cache(choice, config, tokens=tokens, dtype=torch.float32, disk=disk)


@torch.inference_mode()
def _logits(model: LlamaForCausalLM, cache: Cache, passes: list[torch.Tensor], crop: int = 0) -> torch.Tensor:
    """Return the logits of all passes; before the last, `crop` tokens are taken back."""
    found = []
    for index, ids in enumerate(passes):
        if index == len(passes) - 1 and crop:
            cache.crop(-crop)
        found.append(model(input_ids=ids, past_key_values=cache, use_cache=True).logits)
    return torch.cat(found, dim=1)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    batch=st.integers(1, 3),
    offloaded=st.booleans(),
    data=st.data(),
)
def test_a_cache_as_computed_gives_the_same_bits_wherever_it_is(
    model: LlamaForCausalLM,
    tmp_path: Path,
    lengths: list[int],
    batch: int,
    offloaded: bool,
    data: st.DataObject,
) -> None:
    passes = [torch.randint(0, 101, (batch, n)) for n in lengths]
    crop = data.draw(st.integers(0, sum(lengths[:-1]) - 1))
    expected = _logits(model, DynamicCache(config=CONFIG), passes, crop)
    disk = KvDisk(tmp_path) if offloaded else None
    ours = _cache(KvChoice(folder=tmp_path if offloaded else None), disk)
    if not offloaded:  # the default choice makes transformers' own layers; ask for ours
        ours = _cache(KvChoice(format="int8:channel"), None)
        for layer in ours.layers:
            layer._codec = AsComputed(torch.float32)  # type: ignore[union-attr]
    assert torch.equal(_logits(model, ours, passes, crop), expected)
    if disk is not None:
        disk.close()


def test_int8_is_within_half_a_step_of_what_came() -> None:
    codec, states = Int8(torch.float32), torch.randn(5, 3, 2, 37)
    back = codec.decode(codec.encode(states), 37)
    step = states.abs().amax(-1, keepdim=True) / 127
    assert ((back - states).abs() <= step / 2 * 1.0001).all()
    assert not torch.equal(back, states)
    assert torch.equal(codec.decode(codec.encode(torch.zeros(1, 4)), 4), torch.zeros(1, 4))
    assert codec.encode(states).shape[-1] == codec.width_bytes(37) == 37 + 4


@pytest.mark.parametrize("offloaded", [False, True])
def test_int8_answers_nearly_as_before(model: LlamaForCausalLM, disk: KvDisk, offloaded: bool) -> None:
    passes = [torch.randint(0, 101, (2, n)) for n in (70, 1, 1, 1)]
    expected = _logits(model, DynamicCache(config=CONFIG), passes)
    choice = KvChoice("int8:channel", disk.folder if offloaded else None)
    found = _logits(model, _cache(choice, disk if offloaded else None), passes)
    assert not torch.equal(found, expected)
    kl = torch.nn.functional.kl_div(
        found.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert kl < 1e-3


def test_generate_with_beams_reorders_rows_on_disk(model: LlamaForCausalLM, disk: KvDisk) -> None:
    ids = torch.randint(3, 101, (1, 90))
    options: dict[str, Any] = {"max_new_tokens": 23, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    untyped: Any = model
    expected = untyped.generate(input_ids=ids, **options)
    found = untyped.generate(
        input_ids=ids, past_key_values=_cache(KvChoice(folder=disk.folder), disk), **options
    )
    assert torch.equal(found, expected)


def test_what_is_read_and_held_is_what_was_said(model: LlamaForCausalLM, disk: KvDisk) -> None:
    from tierline.models.open import open_model

    path = disk.folder / "config.json"
    CONFIG.save_pretrained(disk.folder)
    described, choice = open_model(str(path)), KvChoice(folder=disk.folder)
    cache = _cache(choice, disk, tokens=211)
    _logits(model, cache, [torch.randint(0, 101, (1, 130))])
    for cached in range(130, 200):
        before = disk.meter.read_bytes
        _logits(model, cache, [torch.randint(0, 101, (1, 1))])
        said = choice.read_bytes(described, batch=1, tokens=cached, computed="fp32")
        assert disk.meter.read_bytes - before == said
    row = 3 * 8 * 4 * 2
    assert said == 3 * (199 // block_tokens(row)) * block_tokens(row) * row
    held = choice.held_bytes(described, batch=1, tokens=211, computed="fp32")
    tails = sum(layer._rows._tail.nbytes for layer in cache.layers)  # type: ignore[union-attr]
    assert sum(map(len, disk._buffers)) + tails <= held
    assert KvChoice().held_bytes(described, batch=1, tokens=211, computed="fp32") == 211 * row * 3


def test_more_tokens_than_room_are_refused(model: LlamaForCausalLM, disk: KvDisk) -> None:
    cache = _cache(KvChoice(folder=disk.folder), disk, tokens=32)
    with pytest.raises(BudgetError, match="kept room for 64"):
        _logits(model, cache, [torch.randint(0, 101, (1, 65))])


@pytest.mark.parametrize("call", ["preadv", "pwritev"])
def test_a_disk_that_fails_is_named(
    model: LlamaForCausalLM, disk: KvDisk, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    cache = _cache(KvChoice(folder=disk.folder), disk)
    _logits(model, cache, [torch.randint(0, 101, (1, 64))])

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fail)
    passes = [torch.randint(0, 101, (1, 64))] * 2
    with pytest.raises(FaultError, match=r"the cache of layer \d .*Input/output error"):
        _logits(model, cache, passes)


def test_a_full_disk_is_refused_at_the_start(
    model: LlamaForCausalLM, disk: KvDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match="No space left"):
        _logits(model, _cache(KvChoice(folder=disk.folder), disk), [torch.randint(0, 101, (1, 3))])


def test_closing_gives_thread_and_file_back(tmp_path: Path, model: LlamaForCausalLM) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    disk = KvDisk(tmp_path)
    _logits(model, _cache(KvChoice(folder=tmp_path), disk), [torch.randint(0, 101, (1, 80))] * 2)
    disk.close()
    disk.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not list(tmp_path.iterdir())


def test_only_formats_that_can_be_written_are_taken() -> None:
    assert kv_format("int8") == "int8:channel"
    assert kv_format(None) is None
    with pytest.raises(InputError, match="--kv mxfp4"):
        kv_format("mxfp4")
