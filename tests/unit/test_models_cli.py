"""`tierline models`: the list, one model, and files with hostile names."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tierline.cli.main import main
from tierline.models.catalogue import catalogue_names


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["models", *arguments])
    out, err = capsys.readouterr()
    return int(exit_.value.code or 0), out, err


def test_the_list_names_every_entry(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(catalogue_names())
    assert "256,484,928" in out


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--json")
    listed = {m["name"]: m for m in json.loads(out)["models"]}
    assert list(listed) == list(catalogue_names())
    sources = json.loads(out)["sources"]
    assert {m["source"] for m in listed.values()} == set(sources)
    assert all(s["address"].startswith("https://") and s["title"] and s["date"] for s in sources.values())
    assert listed["smolvlm2-256m"]["parameters"] == {"total": 256_484_928, "tied_total": 228_099_648}


def test_one_model_is_shown_with_its_parts_and_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "smolvla")
    assert code == 0
    assert "450,046,176" in out
    assert "denoise" in out
    assert "https://huggingface.co/lerobot/smolvla_base" in out


def test_one_model_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "smolvlm2-256m", "--json")
    document = json.loads(out)
    assert document["parameters"]["by_component"] == {
        "vision": 86_433_024, "connector": 7_077_888, "text": 134_588_736, "head": 28_385_280,
    }  # fmt: skip
    assert sum(document["parameters"]["by_component"].values()) == document["parameters"]["total"]
    (source,) = document["sources"].values()
    assert "HuggingFaceTB/SmolVLM2-256M-Video-Instruct" in source["address"]
    assert [p["name"] for p in document["phases"]] == ["vision", "prefill", "decode"]


def test_a_name_from_a_file_cannot_write_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "\x1b[31mred[bold]"}))
    save_file({"\x1b[2Ja": np.zeros(3, np.float32)}, tmp_path / "m.safetensors")
    code, out, _ = run(capsys, str(tmp_path))
    assert code == 0
    assert "\x1b" not in out
    assert "unknown:" in out


@pytest.mark.parametrize("argument", ["no-such-model", "broken.gguf"])
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0))
    code, _, err = run(capsys, argument)
    assert code == 2
    assert err.startswith("tierline: ")
    assert err.count("\n") == 1
