"""`tierline run` as a user calls it: the answer, JSON, and every bad input as one clear message."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROMPT = "t3 t141 t59"


def tierline(*arguments: str | Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tierline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


def test_json_is_one_document_and_the_answer_goes_to_stderr(tiny_llama: Path) -> None:
    done = tierline("run", tiny_llama, PROMPT, "--raw", "--new", "8", "--resident", "400KiB", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    wanted = (
        "text token_ids tokens_per_s_steady time_to_first_token_s read_bytes_per_token read_bytes_per_s "
        "stall_s_per_token weights_pinned_bytes weights_streamed_bytes weights_resident_peak_bytes "
        "allowed_bytes reserved_bytes projected_bytes measured_bytes rows"
    )
    assert set(wanted.split()) <= set(document)
    assert document["weights_resident_peak_bytes"] <= 400 * 1024
    assert document["text"].strip() in done.stderr
    assert len(document["token_ids"]) == 8


def test_the_table_compares_planned_with_measured(tiny_llama: Path) -> None:
    done = tierline("run", tiny_llama, PROMPT, "--raw", "--new", "8", "--resident", "400KiB")
    assert done.returncode == 0, done.stderr
    for row in (
        "planned",
        "measured",
        "bytes read per token",
        "disk link rate",
        "decode rate",
        "peak memory",
    ):
        assert row in done.stdout


def truncated(source: Path, folder: Path) -> Path:
    path = folder / source.name
    path.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda gguf, tmp: truncated(gguf, tmp), "truncated"),
        (lambda _, tmp: tmp / "missing.gguf", "no such file"),
        (lambda _, tmp: _written(tmp / "x.gguf", b"not a model"), "GGUF"),
        (lambda _, tmp: _written(tmp / "x.safetensors", (2**60).to_bytes(8, "little")), "header"),
        (lambda _, tmp: _written(tmp / "pytorch_model.bin", b"\x80\x04"), "pickle"),
        (lambda _, tmp: tmp, "holds no"),
    ],
)
def test_a_bad_file_is_one_message_at_once(
    make: Callable[[Path, Path], Path], message: str, tiny_gguf: Path, tmp_path: Path
) -> None:
    path = make(tiny_gguf, tmp_path)
    done = tierline("run", path, PROMPT, timeout_s=20)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("tierline: ")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--resident", "24gb"), "GB or 24GiB"),
        (("--resident", "1KiB"), "Give --resident"),
        (("--memory", "1MiB"), "is too little"),
    ],
)
def test_a_budget_that_cannot_work_is_refused(
    option: tuple[str, str], message: str, tiny_llama: Path
) -> None:
    done = tierline("run", tiny_llama, PROMPT, "--raw", *option)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_packing_answers_in_json(tiny_llama: Path, tmp_path: Path) -> None:
    done = tierline("pack", tiny_llama, tmp_path / "packed", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert Path(document["path"]).stat().st_size == document["file_bytes"]
    assert sum(document["by_format_bytes"].values()) <= document["file_bytes"]


def test_a_derivation_comes_with_its_plan_in_json() -> None:
    done = tierline("derive", "smolvlm2-256m", "--on", "nexys-video", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["plan"]["model"] == "smolvlm2-256m"
    assert f"{document['plan']['footprint']['weights_bytes']:,}" in document["markdown"]
