"""`tierline run --benchmark`: rates against a link whose rate is known, in llama-bench's table."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

# So slow that compute does not matter: the tiny model's pass takes a good part of a second.
BOARD = """
[tiers.ddr]
capacity = { value = "1GiB", kind = "assumed", source = "test" }
peak = { value = "1GB/s", kind = "assumed", source = "test" }
[tiers.host]
capacity = { value = "8GiB", kind = "assumed", source = "test" }
[links.wire]
from = "host"
to = "ddr"
sustained = { value = "800kB/s", kind = "assumed", source = "test" }
"""


def tierline(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tierline", "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_rates_are_those_of_the_link(tiny_llama: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.toml"
    board.write_text(BOARD, encoding="utf-8")
    refused = tierline(tiny_llama, "--benchmark", "--prompt-tokens", "7", "--new", "2", "--resident", "1KiB")
    least = re.search(r"Give --resident (\d+B)", refused.stderr)
    assert least, refused.stderr
    asked = ("--benchmark", "--prompt-tokens", "7", "--new", "2", "--repeat", "2", "--resident", least[1])
    done = tierline(tiny_llama, *asked, "--pace", board, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["read_bytes_per_token"] == pytest.approx(document["weights_streamed_bytes"], rel=0.01)
    prompt, decode = document["tests"]
    assert (prompt["test"], decode["test"]) == ("pp7", "tg2")
    assert len(decode["samples_tokens_per_s"]) == 2
    link = 8e5 / document["weights_streamed_bytes"]
    assert document["planned_tokens_per_s"] == pytest.approx(link, rel=0.02)
    assert 0.85 * link < decode["tokens_per_s"] < 1.05 * link  # never faster, and slower on a busy computer
    # A prompt crosses the link once for all its tokens; part of it lies ready from the pass before.
    assert prompt["tokens_per_s"] > 7 * decode["tokens_per_s"] * 0.9


def test_the_table_is_llama_benchs(tiny_gguf: Path) -> None:
    done = tierline(tiny_gguf, "--benchmark", "--prompt-tokens", "11", "--new", "3", "--repeat", "2")
    assert done.returncode == 0, done.stderr
    heading, rule, prompt, decode, *_ = done.stdout.splitlines()
    assert [cell.strip() for cell in heading.strip("|").split("|")] == [
        "model", "size", "params", "backend", "threads", "test", "t/s",
    ]  # fmt: skip
    assert set(rule) <= set("|-: ")
    assert re.search(r"\| +pp11 \| +[\d.]+ ± [\d.]+ \|$", prompt)
    assert re.search(r"\| +tg3 \| +[\d.]+ ± [\d.]+ \|$", decode)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--benchmark", "a text"), "answers nothing"),
        (("--benchmark", "--chat"), "answers nothing"),
        (("a text", "--repeat", "2"), "belong to --benchmark"),
        (("--benchmark", "--new", "100000"), "was made for"),
    ],
)
def test_what_it_cannot_do_is_refused(tiny_gguf: Path, arguments: tuple[str, ...], why: str) -> None:
    done = tierline(tiny_gguf, *arguments)
    assert (done.returncode, why in done.stderr) == (2, True), done.stderr
