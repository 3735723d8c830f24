"""Turns of a conversation: computed once, carried over, and saved in a file that only their model takes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from tierline.errors import InputError
from tierline.run.conversation import Conversation
from tierline.run.kv.choice import KvChoice
from tierline.run.request import Request
from tierline.run.session import Session
from tierline.run.source import open_source
from tierline.testing.tiny import write_llama, write_tokenizer

TEMPLATE = "{% for m in messages %}{{ m['content'] }} t7 {% endfor %}"
FIRST, SECOND = Request("t3 t141", new=4), Request("t59", new=4)


def nothing(*_: object) -> None:
    """Ignore progress and text."""


@contextmanager
def conversation(
    path: Path, *, kv: KvChoice | None = None, first: Request = FIRST, context: int = 96
) -> Iterator[tuple[Conversation, list[int]]]:
    """Lend a conversation, and the number of tokens that each of its passes computes."""
    with Session(open_source(path), resident=None, memory=None, kv=kv) as opened:
        opened.tokenizer.chat_template = TEMPLATE
        made = Conversation(opened, context, nothing, first)
        lengths: list[int] = []
        opened.engine.model.register_forward_pre_hook(
            lambda _, __, named: lengths.append(named["input_ids"].shape[1]), with_kwargs=True
        )
        yield made, lengths


@pytest.fixture(scope="module")
def tiny_gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 3, whose layers slide: what a cache has dropped cannot come back."""
    folder = tmp_path_factory.mktemp("gemma")
    torch.manual_seed(7)
    config = transformers.Gemma3TextConfig(
        vocab_size=211, hidden_size=48, intermediate_size=112, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, sliding_window=7, max_position_embeddings=128,
        initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=210,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    write_tokenizer(folder, 211)
    return folder


def choices(tmp_path: Path) -> dict[str, KvChoice]:
    return {
        "as computed": KvChoice(),
        "int8": KvChoice("int8:channel"),
        "disk": KvChoice(folder=tmp_path / "kv"),
        "both": KvChoice("int8:channel", tmp_path / "kv"),
    }


def test_each_turn_is_computed_once_and_answers_are_as_from_anew(tiny_llama: Path) -> None:
    with conversation(tiny_llama) as (made, lengths):
        first = made.say(FIRST, nothing)
        second = made.say(SECOND, nothing)
        assert max(lengths[len(first.token_ids) :]) < 12, "the second turn computed the first one again"
        with pytest.raises(InputError, match="more than the 96"):
            made.say(Request("t5", new=90), nothing)
    with conversation(tiny_llama) as (anew, _):
        assert anew.say(FIRST, nothing).token_ids == first.token_ids
    assert len(second.token_ids) > 0


@pytest.mark.parametrize("kind", ["as computed", "int8", "disk", "both"])
def test_a_saved_session_goes_on_where_it_was(tiny_llama: Path, tmp_path: Path, kind: str) -> None:
    kv, file = choices(tmp_path)[kind], tmp_path / "session"
    with conversation(tiny_llama, kv=kv) as (made, _):
        made.say(FIRST, nothing)
        made.save(file)
        expected = made.say(SECOND, nothing)
    with conversation(tiny_llama, kv=kv) as (resumed, lengths):
        tokens = resumed.restore(file)
        found = resumed.say(SECOND, nothing)
        assert tokens > 0
        assert lengths[0] <= 12, "the first turn was computed again"
    assert found.token_ids == expected.token_ids
    assert [p.name for p in tmp_path.iterdir() if p.name != "kv"] == ["session"]


def test_a_window_that_slid_past_is_computed_anew(tiny_gemma: Path, tmp_path: Path) -> None:
    file = tmp_path / "session"
    with conversation(tiny_gemma) as (made, _):
        made.say(FIRST, nothing)
        made.save(file)
        expected = made.say(SECOND, nothing)
    with conversation(tiny_gemma) as (resumed, _):
        resumed.restore(file)
        assert resumed.say(SECOND, nothing).token_ids == expected.token_ids
        resumed._turns.clear()  # other words from the start: the window cannot be wound back
        expected_first = resumed.say(FIRST, nothing)
    with conversation(tiny_gemma) as (anew, _):
        assert anew.say(FIRST, nothing).token_ids == expected_first.token_ids


def test_a_session_of_other_weights_or_another_cache_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "session"
    with conversation(tiny_llama) as (made, _):
        made.say(FIRST, nothing)
        made.save(file)
    other = write_llama(tmp_path / "other", seed=3)  # the same shapes and sizes
    with conversation(other) as (made, _), pytest.raises(InputError, match="made by another model"):
        made.restore(file)
    with (
        conversation(tiny_llama, kv=KvChoice("int8:channel")) as (made, _),
        pytest.raises(InputError, match="kept as bfloat16, not as int8"),
    ):
        made.restore(file)
    with (
        conversation(tiny_llama, context=5) as (made, _),
        pytest.raises(InputError, match="give a larger --context"),
    ):
        made.restore(file)


@pytest.mark.parametrize("damage", ["cut", "flipped", "not one", "empty"])
def test_a_damaged_session_is_refused_and_the_conversation_begins_anew(
    tiny_llama: Path, tmp_path: Path, damage: str
) -> None:
    file = tmp_path / "session"
    with conversation(tiny_llama) as (made, _):
        expected = made.say(FIRST, nothing)
        made.save(file)
        whole = file.read_bytes()
    flipped = bytes([*whole[:-100], whole[-100] ^ 8, *whole[-99:]])
    file.write_bytes(
        {"cut": whole[:-7], "flipped": flipped, "not one": b"hello, this is text", "empty": b""}[damage]
    )
    with conversation(tiny_llama) as (made, _):
        with pytest.raises(InputError, match="session"):
            made.restore(file)
        assert made.say(FIRST, nothing).token_ids == expected.token_ids


def test_what_cannot_be_saved_leaves_the_old_file(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    file = tmp_path / "session"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with conversation(tiny_llama) as (made, _):
        made.say(FIRST, nothing)
        made.save(file)
        before = file.read_bytes()
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left"):
            made.save(file)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["session"]


def test_the_command_saves_and_goes_on(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.kv"
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    program = [sys.executable, "-m", "tierline", "run", str(folder)]
    options = ["--raw", "--new", "4", "--session", str(file), "--json"]
    for text in ("t3 t141 t5", "t3 t141 t5 t9"):
        done = subprocess.run([*program, text, *options], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["token_ids"]
    assert "tokens need not be computed again" in done.stderr
    chat = subprocess.run(
        [*program, "t3", "--session", str(file)], capture_output=True, text=True, check=False
    )
    assert chat.returncode == 2
    assert "no chat template" in chat.stderr
