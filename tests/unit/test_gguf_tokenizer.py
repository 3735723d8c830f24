"""A GGUF file's tokenizer is converted once, and what is kept is the same tokenizer."""

import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from tierline.errors import BudgetError
from tierline.run import gguf_tokenizer as room
from tierline.run.gguf_tokenizer import convert_apart, gguf_tokenizer
from tierline.run.source import open_source

TEXTS = ("What is the capital of France?", "  def f(x):\n\treturn x", "naïve 漢字 🙂 <|im_end|>", "")
TURNS = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(room, "cache_folder", lambda: tmp_path)
    return tmp_path / "tokenizers"


@pytest.mark.slow
def test_what_is_kept_answers_as_what_was_converted(smollm2_gguf: Path, kept: Path) -> None:
    checkpoint = open_source(smollm2_gguf).checkpoint
    converted: Any = gguf_tokenizer(checkpoint)
    (folder,) = kept.iterdir()
    again: Any = gguf_tokenizer(checkpoint)
    assert again.name_or_path == str(folder)
    for text in TEXTS:
        assert again(text)["input_ids"] == converted(text)["input_ids"]
    for ids in ([504, 3575, 2], list(range(0, 49_000, 997))):
        assert again.decode(ids, skip_special_tokens=True) == converted.decode(ids, skip_special_tokens=True)
    for name in ("eos_token_id", "bos_token_id", "pad_token_id", "chat_template", "padding_side"):
        assert getattr(again, name) == getattr(converted, name)
    made = [t.apply_chat_template(TURNS, add_generation_prompt=True)["input_ids"] for t in (again, converted)]
    assert made[0] == made[1]


def test_what_is_damaged_is_made_again(tiny_gguf: Path, kept: Path) -> None:
    checkpoint = open_source(tiny_gguf).checkpoint
    expected: Any = gguf_tokenizer(checkpoint)
    (folder,) = kept.iterdir()
    whole = (folder / "tokenizer.json").read_text(encoding="utf-8")
    for damaged in ("", "{", whole[: len(whole) // 2], "[]", '{"version": "1.0"}', "\0" * len(whole)):
        (folder / "tokenizer.json").write_text(damaged, encoding="utf-8")
        found: Any = gguf_tokenizer(checkpoint)
        assert found("t3 t141")["input_ids"] == expected("t3 t141")["input_ids"]
        assert (folder / "tokenizer.json").read_text(encoding="utf-8") == whole


def test_a_disk_without_room_keeps_nothing(tiny_gguf: Path, kept: Path) -> None:
    checkpoint = open_source(tiny_gguf).checkpoint
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (997, limits[1]))
    try:
        tokenizer: Any = gguf_tokenizer(checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tokenizer("t3")["input_ids"]
    assert not list(kept.iterdir())


def test_where_nothing_can_be_kept_it_is_converted_each_time(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(room, "cache_folder", lambda: tmp_path / "file")
    assert gguf_tokenizer(open_source(tiny_gguf).checkpoint)("t3")["input_ids"]


@pytest.mark.slow
def test_another_process_converts_what_is_then_kept(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    checkpoint = open_source(tiny_gguf).checkpoint
    convert_apart(checkpoint)
    (folder,) = (tmp_path / "tierline" / "tokenizers").iterdir()
    found: Any = gguf_tokenizer(checkpoint)
    assert found.name_or_path == str(folder)


def test_a_conversion_that_is_killed_is_a_refusal(
    tiny_gguf: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_source(tiny_gguf).checkpoint
    monkeypatch.setattr(sys, "executable", "/bin/sh")  # of which `-m` is an error, and no conversion
    convert_apart(checkpoint)
    killed = kept.parent / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n", encoding="ascii")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(BudgetError, match="takes more memory than its cgroup allows"):
        convert_apart(checkpoint)
    assert not kept.exists()
