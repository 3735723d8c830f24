"""`tierline plan CONFIG.json` for every architecture that is named, with torch and without."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tierline.cli.main import main
from tierline.models.config_reader import reads
from tierline.models.fields import Fields

CONFIGS: dict[str, dict[str, Any]] = {
    name: entry["config"]
    for name, entry in json.loads((Path(__file__).parents[1] / "golden" / "probe_configs.json").read_text())[
        "models"
    ].items()
}
NATIVE = [name for name, config in CONFIGS.items() if reads(Fields(config, name))]
PROBED = [name for name in CONFIGS if name not in NATIVE]
DECODED = ["prefill", "decode"]
PHASES = {
    "bert-base-uncased": ["prefill"],
    "t5-small": ["encode", *DECODED],
    "whisper-tiny": ["encode", *DECODED],
    "vit-base-patch16-224": ["vision"],
    "siglip-base-patch16-224": ["vision", "prefill"],
    "clip-vit-base-patch32": ["vision", "prefill"],
} | {
    name: ["vision", *DECODED]
    for name in ("smolvlm-256m", "smolvlm2-256m", "llava-1.5-7b", "qwen2-vl-2b", "paligemma-3b-224")
}
UNKNOWN = {"unknown": {"model_type": "lamma"}, "none": {}, "hostile": {"model_type": "\x1b[2J" * 99}}
# Everything in one process, because starting one takes longer than planning a model.
WITHOUT_TORCH = """
import contextlib, io, json, sys
for name in ("torch", "transformers", "huggingface_hub", "safetensors", "gguf"):
    sys.modules[name] = None
from tierline.cli.main import main
answers = {}
for path in sys.argv[1:]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["plan", path, "--on", "h100-sxm", "--json"])
        except SystemExit as stopped:
            answers[path] = [stopped.code or 0, out.getvalue(), err.getvalue()]
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every configuration as NAME/config.json."""
    root = tmp_path_factory.mktemp("configs")
    for name, config in (CONFIGS | UNKNOWN).items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="module")
def without_torch(folder: Path) -> dict[str, tuple[int, str, str]]:
    """Exit code, stdout and stderr by name, where torch and all that comes with it is not installed."""
    paths = [str(folder / name / "config.json") for name in (*CONFIGS, *UNKNOWN)]
    command = [sys.executable, "-c", WITHOUT_TORCH, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return {Path(path).parent.name: tuple(answer) for path, answer in json.loads(done.stdout).items()}


def planned(text: str, name: str) -> dict[str, Any]:
    """Return the document, after a look at what every plan must have."""
    document: dict[str, Any] = json.loads(text)
    assert [p["name"] for p in document["phases"]] == PHASES.get(name, DECODED)
    for phase in document["phases"]:
        assert phase["flop"] > 0, phase["name"]
        assert phase["time_s"] > 0, phase["name"]
        assert phase["weight_read_bytes"] > 0, phase["name"]
    return document


def plan_here(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", str(path), "--on", "h100-sxm", "--json"])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


@pytest.mark.parametrize("name", NATIVE)
def test_native_without_torch_and_with_it_alike(
    name: str,
    folder: Path,
    without_torch: dict[str, tuple[int, str, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = without_torch[name]
    assert (code, err) == (0, "")
    document = planned(out, name)
    assert json.loads(plan_here(folder / name / "config.json", capsys)[1]) == document


@pytest.mark.parametrize("name", [*PROBED, *UNKNOWN])
def test_others_without_torch_are_an_error_that_says_what_to_do(
    name: str, without_torch: dict[str, tuple[int, str, str]]
) -> None:
    code, out, err = without_torch[name]
    assert (code, out) == (2, "")
    assert "the nearest known are " in err
    assert "pip install tierline[run]" in err
    assert err.count("\n") == 1
    assert "\x1b" not in err


@pytest.mark.parametrize(
    "name",
    [
        n if n.endswith(("tiny", "small", "16-224")) else pytest.param(n, marks=pytest.mark.slow)
        for n in PROBED
    ],
)
def test_others_with_torch_are_probed(
    name: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code, out, err = plan_here(folder / name / "config.json", capsys)
    assert code == 0, err
    document = planned(out, name)
    assert plan_here(folder / name / "config.json", capsys) == (0, out, "")
    assert document["footprint"]["weights_bytes"] >= 2 * document["parameters"]["tied_total"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_nobody_knows_with_torch(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    code, out, err = plan_here(folder / name / "config.json", capsys)
    assert (code, out) == (2, "")
    assert "has no architecture" in err
    assert ("llama" in err) == (name == "unknown")
    assert "\x1b" not in err


def test_an_encoder_reads_its_source_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")

    def encode(*options: str) -> dict[str, Any]:
        with pytest.raises(SystemExit):
            main(["plan", str(folder / "t5-small"), "--on", "h100-sxm", "--json", *options])
        phases: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["phases"]
        return next(p for p in phases if p["name"] == "encode")

    assert encode("--prompt-tokens", "313", "--new", "7") == encode("--source-tokens", "313")
    assert encode("--source-tokens", "626")["flop"] > 2 * encode("--source-tokens", "313")["flop"]
