"""What the page's server refuses, and in which words."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tierline.web.app import create_app
from tierline.web.setting import WANTED, Setting

BOARD = {"model": "smolvlm2-256m", "machine": "nexys-video", "weights": "mxfp8:block=8", "context": 1031}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(("testserver",))) as made:
        yield made


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"batch": 0}, "batch"),
        ({"batch": 10**9}, "batch"),
        ({"context": 2**40}, "context"),
        ({"context": "many"}, "context"),
        ({"prefetch_depth": 65}, "prefetch_depth"),
        ({"images": 10**6}, "images"),
        ({"model": "/etc/passwd"}, "model"),
        ({"model": "../x"}, "model: '../x' is not a model of the catalogue"),
        ({"model": "upload:" + "0" * 32}, "drop it on the page again"),
        ({"model": "meta-llama/Llama-3.1-8B"}, "model"),
        ({"model": "no-such-model"}, "no model"),
        ({"machine": "no-such-machine"}, "no machine"),
        ({"machine": "./x.toml"}, "is not a machine of the catalogue, such as rtx-4090"),
        ({"weights": "int5"}, "unknown format"),
        ({"weights": "INT8"}, "weights: 'INT8' is not a format in small letters, such as int8:group=128"),
        ({"capacity": "much"}, "capacity: 'much' is not a size with its unit, such as 48GiB"),
        ({"keep": ["norms fp32"]}, "keep.0: 'norms fp32' is not CLASS=FORMAT with"),
        ({"overrides": ["ddr3"]}, "overrides.0: 'ddr3' is not PATH=VALUE in at most 40 characters"),
        ({"weights": "x" * 1000}, "weights"),
        ({"keep": ["ghosts=fp32"]}, "ghosts"),
        ({"keep": ["norms=fp32"] * 17}, "keep"),
        ({"overrides": ["ddr3.capacity=24gb"]}, "24GB or 24GiB"),
        ({"overrides": ["nothing.capacity=24GB"]}, "write PATH=VALUE"),
        ({"prompt_tokens": 7, "new": 5, "context": 13}, "context"),
        ({"context": None, "new": 5003}, "--context 1024 leaves no prompt before --new 5003: want 5004"),
        ({"surprise": 1}, "surprise: is nothing that can be set: want model, machine, overrides"),
    ],
)
def test_what_cannot_be_is_refused_with_a_message(
    client: TestClient, change: dict[str, Any], says: str
) -> None:
    answer = client.post("/api/plan", json={**BOARD, **change})
    assert answer.status_code == 422
    assert says in answer.json()["message"]
    assert "^" not in answer.json()["message"]  # words, not the pattern


@pytest.mark.parametrize("path", ["/api/model?name=A%20B", "/api/machine?name=%2E%2F", "/api/runs/x"])
def test_a_name_that_cannot_be_one_is_refused_in_words(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, "is not a name that this server gives" in answer.json()["message"]) == (
        422,
        True,
    )


def test_every_pattern_of_a_setting_has_words() -> None:
    def patterns(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from [node["pattern"]] if isinstance(node.get("pattern"), str) else []
            node = list(node.values())
        if isinstance(node, list):
            for inner in node:
                yield from patterns(inner)

    assert set(patterns(Setting.model_json_schema())) == set(WANTED)
