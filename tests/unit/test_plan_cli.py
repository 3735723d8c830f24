"""`tierline plan` as a user meets it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tierline.cli.main import main
from tierline.report.tables import shown

DEMO = "smolvlm2-256m --on nexys-video --weights mxfp8:block=8 --kv mxfp8:block=8 --context 1024"


def run(arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *arguments.split()])
    out, err = capsys.readouterr()
    code = stopped.value.code
    return code if isinstance(code, int) else 0, out, err


def as_json(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code, out, _ = run(f"{arguments} --json", capsys)
    assert code == 0
    return json.loads(out)  # type: ignore[no-any-return]


def test_the_text_shows_footprint_tiers_reads_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(DEMO, capsys)
    assert (code, err) == (0, "")
    for part in ("fits", "97,237,152", "512.0 MiB", "151,412,976", "link:ddr3", "6.07"):
        assert part in out


def test_a_file_that_nobody_can_explain_is_planned_by_its_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"x.layers.0.a": np.zeros((5, 7), np.float32)}, tmp_path / "m.safetensors")
    arguments = f"{tmp_path / 'm.safetensors'} --on nexys-video"
    for options in ("", " --weights int8", " --sensitivity"):
        code, out, err = run(arguments + options, capsys)
        assert (code, err) == (0, "")
        assert "unknown: no config.json beside the weights" in out
        assert ("140 B" in out) == ("int8" not in options)
    found = as_json(f"{arguments} --sensitivity", capsys)
    assert (found["footprint"]["total_bytes"], found["phases"]) == (140, [])


def test_json_has_the_keys_of_the_surface(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(DEMO, capsys)
    assert found["strategy"] == "resident"
    decode = found["phases"][-1]
    keys = "name passes weight_read_bytes weight_read_bytes_per_pass kv_read_bytes kv_write_bytes "
    keys += "activation_traffic_bytes flop time_s bound tokens_per_s rate_kind links"
    assert set(keys.split()) <= set(decode)
    assert decode["kv_read_bytes"] == 128 * 1024 * 12_960
    assert {"time_to_first_token_s", "actions_per_s"} <= set(found)


def test_sensitivity_is_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(f"{DEMO} --sensitivity --sensitivity-format bf16", capsys)
    vision = next(row for row in found["sensitivity"] if row.get("component") == "vision")
    assert (vision["format"], vision["added_bytes"]) == ("bf16", 2 * 86_433_024 - 97_237_152)
    assert vision["added_read_bytes_per_pass"] == 0  # a decode step does not read it
    assert vision["tokens_per_s"] == found["phases"][-1]["tokens_per_s"]
    _, out, _ = run(f"{DEMO} --sensitivity --sensitivity-format bf16", capsys)
    assert "+75,628,896" in out


def test_chunks_pages_and_averages_change_what_they_say(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plain = as_json(DEMO, capsys)
    other = as_json(f"{DEMO} --prefill-chunk 100 --average-decode --kv-block-tokens 1000", capsys)
    before, after = ({p["name"]: p for p in found["phases"]} for found in (plain, other))
    assert (before["prefill"]["passes"], after["prefill"]["passes"]) == (1, 9)
    assert after["prefill"]["kv_read_bytes"] == 12_960 * sum(range(100, 900, 100))
    assert after["decode"]["kv_read_bytes"] == 12_960 * sum(range(897, 1025))
    assert other["footprint"]["kv_cache_bytes"] == 2000 * 12_960
    shares = tmp_path / "shares.json"
    shares.write_text("[1, 2, -3]")
    assert "shares.json" in run(f"{DEMO} --expert-shares {shares}", capsys)[2]


def test_impossible_is_an_answer_and_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(f"{DEMO} --context 4000000", capsys)
    assert (found["strategy"], found["fits"]) == ("impossible", False)
    assert found["remedies"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nothing-here --on nexys-video", "nothing-here"),
        ("smolvlm2-256m --on nexys-video --weights mxfp9", "mxfp9"),
        ("smolvlm2-256m --on nexys-video --activation-policy all", "layer-io"),
        ("smolvlm2-256m --on nexys-video --context 9 --prompt-tokens 5 --new 5", "--context 9"),
        ("smolvlm2-256m --on nexys-video --keep nose=bf16", "nose"),
        ("smolvlm2-256m --on nexys-video --images -1", "--images"),
        ("smolvlm2-256m --on nexys-video --prefill-chunk 0", "--prefill-chunk 0"),
        ("smolvlm2-256m --on nexys-video --kv-block-tokens 0", "--kv-block-tokens 0"),
        ("smolvlm2-256m --on nexys-video --include some", "layer-matrices"),
        ("smolvlm2-256m --on nexys-video --runtime onnx", "llama.cpp"),
        ("smolvlm2-256m --on nexys-video --training adam", "adamw-8bit"),
        ("smolvlm2-256m --on nexys-video --training lora:rank=0", "lora:rank=0"),
        ("smolvlm2-256m --on nexys-video --training lora:rank=1000000", "lora:rank=1000000"),
        ("smolvlm2-256m --on nexys-video --training adamw --checkpointing some", "selective"),
        ("smolvlm2-256m --on nexys-video --checkpointing full", "--training"),
        ("smolvlm2-256m --on nexys-video --training adamw --new 3", "--prompt-tokens"),
        ("smolvlm2-256m --on nexys-video --training adamw --weights int8", "no gradients"),
    ],
)
def test_bad_options_say_what_is_wrong(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(arguments, capsys)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_names_from_files_cannot_move_the_cursor() -> None:
    assert shown("a\x1b[2Jb\n[red]") == "a\\x1b[2Jb\\n[red]"


def test_planning_imports_nothing_heavy() -> None:
    script = (
        "import sys; from tierline.cli.main import main\n"
        f"try: main(['plan', *'{DEMO} --json'.split()])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'torch', 'transformers') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_training_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    step = "llama-3.2-1b --on h100-sxm --prompt-tokens 1009 --batch 3"
    whole = as_json(f"{step} --training adamw", capsys)
    trained = 1_235_814_400
    held = whole["footprint"]
    states = (held["weights_bytes"], held["master_bytes"], held["gradient_bytes"], held["optimizer_bytes"])
    assert states == (2 * trained, 4 * trained, 2 * trained, 8 * trained)  # 16 bytes each, as in ZeRO
    assert held["total_bytes"] == sum(states) + held["activation_bytes"] + held["runtime_bytes"]
    assert (whole["fits"], [p["name"] for p in whole["phases"]]) == (True, ["training"])
    phase, figures = whole["phases"][0], whole["training"]
    # 2 FLOP per parameter of a matrix and token (the embedding is looked up, its tied head multiplies), and
    # 4 * layers * width * keys of attention
    matrices, attention = trained - 2048 * (2 * 16 + 1), 4 * 16 * 2048 * 1009
    assert figures["forward_flop"] == 3 * 1009 * (2 * matrices + attention)
    assert (figures["backward_flop"], figures["recomputed_flop"]) == (2 * figures["forward_flop"], 0)
    assert phase["flop"] == 3 * figures["forward_flop"]
    assert phase["time_s"] == pytest.approx(max(phase["compute_s"], phase["links"][0]["time_s"]))
    assert phase["tokens_per_s"] == pytest.approx(3 * 1009 / phase["time_s"])
    full = as_json(f"{step} --training adamw --checkpointing full", capsys)
    assert full["phases"][0]["flop"] == 4 * figures["forward_flop"]
    logits = 3 * 1009 * 128_256 * 4  # log-probabilities in fp32
    kept = full["training"]["kept_activation_bytes"] - logits
    rows = 3 * 1009 * 2048 * 2
    assert kept == 16 * rows + 2 * rows + 3 * 1009 * 2  # inputs of the layers, the last norm, the head; ids


def test_adapters_are_trained_on_frozen_weights(capsys: pytest.CaptureFixture[str]) -> None:
    step = "llama-3.2-1b --on h100-sxm --prompt-tokens 1009 --training lora:rank=13 --weights mxfp4"
    found = as_json(step, capsys)
    shapes = [(2048, 2048)] * 2 + [(512, 2048)] * 2 + [(8192, 2048)] * 3
    trained = 16 * 13 * sum(a + b for a, b in shapes)
    assert found["training"]["trained_parameters"] == trained
    held = found["footprint"]
    assert (held["gradient_bytes"], held["optimizer_bytes"]) == (2 * trained, 8 * trained)
    assert held["weights_bytes"] < 1_235_814_400
    _, out, _ = run(f"{step} --checkpointing selective --batch 2", capsys)
    for part in ("training llama-3.2-1b on h100-sxm", "lora:rank=13, selective", "gradients", "tok/s"):
        assert part in out


def test_a_step_that_does_not_fit_says_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json("llama-3.1-8b --on h100-sxm --training adamw --prompt-tokens 2048", capsys)
    assert (found["fits"], found["strategy"], found["phases"][0]["time_s"]) == (False, "impossible", None)
    assert any("lora:rank=16" in line and "fits" in line for line in found["remedies"])


def test_runtimes_change_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    shape = "llama-3.2-1b --on desktop-ddr5 --prompt-tokens 1009 --new 4"
    bare, paged = (as_json(f"{shape} --runtime {name}", capsys) for name in ("bare", "vllm"))
    assert (bare["runtime"], paged["runtime"]) == ("bare", "vllm")
    token_bytes = 16 * 2 * 8 * 64 * 2
    assert bare["footprint"]["kv_cache_bytes"] == 1013 * token_bytes
    assert paged["footprint"]["kv_cache_bytes"] == 1024 * token_bytes
    eager = as_json(f"{shape} --runtime transformers-eager", capsys)["footprint"]["activation_bytes"]
    assert eager > as_json(f"{shape} --runtime transformers", capsys)["footprint"]["activation_bytes"]
    served = as_json("gemma-2-2b --on desktop-ddr5 --prompt-tokens 8000 --new 5 --runtime llama.cpp", capsys)
    windowed, whole = (4096 + 512) * 13, 8192 * 13  # its windows have room for a pass; both in pages of 256
    assert served["footprint"]["kv_cache_bytes"] == (windowed + whole) * 2 * 4 * 256 * 2
    assert served["phases"][0]["passes"] == 16  # of 512 rows
    every = as_json(f"{shape} --all-logits", capsys)
    assert every["phases"][0]["flop"] - bare["phases"][0]["flop"] == 1008 * 2 * 2048 * 128_256
    assert every["footprint"]["activation_bytes"] > 1009 * 128_256 * 2


def test_static_projections_are_made_once_or_in_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    hoisted, not_hoisted = (
        as_json(f"smolvla --on alveo-u280 --weights int8 --steps 10 {option}", capsys)["phases"][-1]
        for option in ("", "--no-hoist")
    )
    assert (hoisted["name"], hoisted["passes"]) == ("denoise", 10)
    static = not_hoisted["weight_read_bytes_per_pass"] - hoisted["weight_read_bytes_per_pass"]
    assert static > 0
    assert not_hoisted["weight_read_bytes"] - hoisted["weight_read_bytes"] == 9 * static
