"""Every format, every model of the catalogue and every machine, through the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tierline.cli.main import main
from tierline.formats.mix import MIXES
from tierline.formats.parse import format_names, parse_weights
from tierline.formats.plain import ALIASES
from tierline.machines.load import machine_names
from tierline.machines.sources import references
from tierline.models.catalogue import catalogue_entry, catalogue_names

# What the issue names, written as a user does; `format_names()` has these without their options.
NAMED = [
    "fp32", "tf32", "fp16", "bf16", "fp8", "fp8_e5m2", "int8", "int8:tensor", "int8:channel",
    "int8:group=128", "int4", "int4:group=64", "int4:group=32,scale=fp16", "int4:group=64,zero=int",
    "int4:group=64,zero=float,scale=bf16", "int2:group=64", "ternary", "mxfp8", "mxfp8:block=8", "mxfp6",
    "mxfp4", "mxint8", "nvfp4", "gptq", "awq", "nf4", "nf4:double", "q4_k_m", "q5_k_m", "q6_k", "q8_0",
]  # fmt: skip
FORMATS = sorted({*NAMED, *format_names(), *MIXES, *ALIASES})
PARAMETERS = 1_235_814_400
STRATEGIES = {"resident", "streamed", "impossible"}
# One of each kind of model and of machine.
SOME_MODELS = (
    "llama-2-7b",
    "deepseek-v3",
    "gpt-oss-20b",
    "gemma-3-1b",
    "falcon-40b",
    "smolvlm2-256m",
    "smolvla",
)
SOME_MACHINES = ("nexys-video", "artix7-pcie", "h100-sxm", "alveo-v80", "apple-m2-max", "raspberry-pi-5")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, "plan", *arguments, "--json")
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    assert document["strategy"] in STRATEGIES
    assert document["fits"] == (document["strategy"] == "resident")
    return document


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_a_plan(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = planned(capsys, "llama-3.2-1b", "--on", "h100-sxm", "--weights", name)
    assert document["fits"]
    weights_bytes = document["footprint"]["weights_bytes"]
    # A lower bound that holds whatever a format adds: no parameter is stored in less than a bit.
    assert PARAMETERS / 8 < weights_bytes <= 8.01 * PARAMETERS
    narrow = planned(capsys, "llama-3.2-1b", "--on", "h100-sxm", "--weights", "fp64")["footprint"]
    assert weights_bytes <= narrow["weights_bytes"]
    assert parse_weights(name).name


@pytest.mark.parametrize(
    "name", ["mxfp9", "int4:group=7x", "q4_k_xl", "BF16", "int8:scale=fp64", "nf4:", "", "a" * 999]
)
def test_what_is_no_format_is_one_clear_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "plan", "llama-3.2-1b", "--on", "h100-sxm", "--weights", name)
    assert (code, out) == (2, "")
    assert err.startswith("tierline: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "machine"),
    [
        pytest.param(
            model,
            machine,
            marks=() if model in SOME_MODELS and machine in SOME_MACHINES else pytest.mark.slow,
        )
        for model in catalogue_names()
        for machine in machine_names()
    ],
)
def test_every_model_on_every_machine(model: str, machine: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = planned(capsys, model, "--on", machine)
    assert document["parameters"]["total"] == catalogue_entry(model).parameters
    assert {p["name"] for p in document["phases"]} & {"decode", "denoise"}
    if document["strategy"] != "impossible":
        assert all(phase["time_s"] > 0 for phase in document["phases"])
    # No one change may be enough where weights and KV cache are each too large: then it says impossible.
    assert document["fits"] or document["remedies"] or document["strategy"] == "impossible"


@pytest.mark.parametrize("name", catalogue_names())
def test_every_model_shows_its_parameters_and_its_source(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = catalogue_entry(name)
    code, out, _ = run(capsys, "models", name)
    assert code == 0
    assert f"{entry.parameters:,}" in out
    assert references()[entry.source].address in "".join(out.split())


@pytest.mark.parametrize("name", machine_names())
def test_every_machine_shows_its_numbers_and_their_sources(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "machines", name)
    assert code == 0
    _, written, _ = run(capsys, "machines", name, "--json")
    sources = json.loads(written)["sources"]
    assert sources
    flat = "".join(out.split())
    for key in sources:
        assert "".join(references()[key].title.split()) in flat
        assert "".join(references()[key].address.split()) in flat


def test_weights_of_an_unknown_architecture_have_an_exact_footprint_and_no_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "lamma"}')
    shapes = {"a.0.weight": (13, 7), "a.1.weight": (13, 7), "head": (17, 13)}
    save_file({n: np.zeros(shape, np.float16) for n, shape in shapes.items()}, tmp_path / "m.safetensors")
    document = planned(capsys, str(tmp_path), "--on", "nexys-video")
    assert document["footprint"]["weights_bytes"] == 2 * (2 * 13 * 7 + 17 * 13)
    assert document["phases"] == []
    assert document["time_to_first_token_s"] is None
    assert any("'lamma'" in note and "nearest known" in note for note in document["notes"])
    _, out, _ = run(capsys, "plan", str(tmp_path), "--on", "nexys-video")
    assert "unknown" in out
