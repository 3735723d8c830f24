"""What is asked of a model: two of prompt, new and context give the third, and bad counts name themselves."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.errors import InputError
from tierline.models.workload import Workload

COUNTS = st.none() | st.integers(-3, 40)


@pytest.mark.parametrize(
    ("given_", "prompt_tokens", "new"),
    [
        ({}, 896, 128),
        ({"context": 7}, 4, 3),
        ({"context": 1}, 1, 0),
        ({"prompt_tokens": 13}, 13, 128),
        ({"new": 11}, 1013, 11),
        ({"prompt_tokens": 13, "new": 0}, 13, 0),
        ({"context": 31, "new": 30}, 1, 30),
        ({"context": 31, "prompt_tokens": 31}, 31, 0),
        ({"context": 31, "prompt_tokens": 19, "new": 12}, 19, 12),
    ],
)
def test_what_is_left_out_follows(given_: dict[str, int], prompt_tokens: int, new: int) -> None:
    made = Workload.of(**given_)
    assert (made.prompt_tokens, made.new) == (prompt_tokens, new)
    assert made.context == prompt_tokens + new


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"context": 0}, "--context 0: want 1 to 1,000,000,000"),
        ({"context": 10**9 + 1}, "--context 1000000001: want 1 to"),
        ({"context": 17, "prompt_tokens": 19}, "--context 17 cannot hold --prompt-tokens 19"),
        ({"context": 17, "new": 17}, "--context 17 leaves no prompt before --new 17: want 18 or more"),
        ({"context": 7, "prompt_tokens": 5, "new": 6}, "--context 7 is not --prompt-tokens 5 + --new 6 = 11"),
        ({"prompt_tokens": 0}, "--prompt-tokens 0: want 1 to"),
        ({"new": -1}, "--new -1: want 0 to"),
        ({"batch": 0}, "--batch 0: want 1 to"),
        ({"images": -1}, "--images -1: want 0 to"),
        ({"steps": 10**9 + 1}, "--steps 1000000001: want 0 to"),
        ({"source_tokens": -1}, "--source-tokens -1: want 0 to"),
    ],
)
def test_a_message_names_what_was_given(given_: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Workload.of(**given_)


@given(COUNTS, COUNTS, COUNTS)
def test_whatever_is_given_is_kept_or_refused_by_its_name(
    context: int | None, prompt_tokens: int | None, new: int | None
) -> None:
    asked = {"context": context, "prompt_tokens": prompt_tokens, "new": new}
    stated = {name: count for name, count in asked.items() if count is not None}
    said = ""
    try:
        made = Workload.of(**stated)
    except InputError as error:
        said = str(error)
    if said:
        assert any(f"--{name.replace('_', '-')} {count}" in said for name, count in stated.items())
    else:
        assert made.prompt_tokens >= 1
        assert made.new >= 0
        assert all(getattr(made, name) == count for name, count in stated.items())
