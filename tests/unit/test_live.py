"""Runs that can be watched: only one's own files are believed, and only plain ones."""

import json
import os
import stat
import subprocess
import time
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tierline.cli.live import picture
from tierline.errors import InputError
from tierline.live import LinkNow, Publisher, RunNow, TierNow, read_run, runs, runtime_folder

NOW = RunNow(
    run="1", model="m\x1b[31m.gguf", stage="answering", updated_s=time.time(), elapsed_s=1.5, tokens=3,
    most_tokens=11, tokens_per_s=2.5, predicted_tokens_per_s=2.75, stall_s=0.25, stall_fraction=0.2,
    tiers=(TierNow("dram: weights", 7 * 2**20, 11 * 2**20), TierNow("disk: streamed", 13 * 2**20, None)),
    links=(LinkNow("disk", 17 * 2**20, 1.7e9, 2.5e9),),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return runtime_folder()


def test_a_run_is_listed_as_it_said_last_and_nobody_else_may_read_it(folder: Path) -> None:
    publisher = Publisher(folder)
    now = replace(NOW, run=publisher.run)
    publisher.publish(now)
    publisher.publish(replace(now, tokens=5))
    assert runs(folder) == [json.loads(json.dumps(asdict(replace(now, tokens=5))))]
    assert read_run(folder, publisher.run) == runs(folder)[0]
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_run_whose_process_is_gone_has_failed_and_is_forgotten(folder: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    child = ended.pid
    path = folder / f"run-{child}.json"
    path.write_text(json.dumps(asdict(replace(NOW, run=str(child)))), encoding="utf-8")
    assert [run["stage"] for run in runs(folder)] == ["failed"]
    path.write_text(json.dumps(asdict(replace(NOW, run=str(child), updated_s=1.0))), encoding="utf-8")
    assert runs(folder) == []
    assert not path.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"[", b"[]", b'{"run": "7"}', b"{" * 100_000, b'"' + b"x" * 2**17 + b'"',
     json.dumps(asdict(replace(NOW, run="8"))).encode(),
     json.dumps({**asdict(NOW), "run": "7", "updated_s": "x"}).encode()],
    ids=["empty", "cut", "list", "little", "deep", "large", "another", "no time"],
)  # fmt: skip
def test_a_file_that_is_no_run_is_passed_over(folder: Path, content: bytes) -> None:
    (folder / "run-7.json").write_bytes(content)
    assert (runs(folder), read_run(folder, "7")) == ([], None)


def test_no_link_pipe_or_other_name_is_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "run-7.json"
    outside.write_text(json.dumps(asdict(replace(NOW, run="7"))), encoding="utf-8")
    (folder / "run-7.json").symlink_to(outside)
    os.mkfifo(folder / "run-9.json")
    assert runs(folder) == []
    for name in ("7", "9", "../run-7", "", "7.json\0"):
        assert read_run(folder, name) is None


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "tierline").mkdir(mode=0o755)
    (tmp_path / "tierline").chmod(0o755)
    with pytest.raises(InputError, match="only you can enter"):
        runtime_folder()
    (tmp_path / "tierline").rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "tierline").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="only you can enter"):
        runtime_folder()


def test_the_terminal_shows_what_the_page_shows() -> None:
    console = Console(width=100, file=StringIO())
    console.print(picture(NOW, "Paris\x1b]0;x\x07 is\nlovely"))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("7.0 MiB of 11.0 MiB", "1.70 GB/s of 2.50 GB/s", "3 of 11 tokens, 2.5 tok/s (planned 2.75)",
                  "waits 20% of the time", "lovely", "\\x1b]0;x"):  # fmt: skip
        assert words in said
    assert "\x1b" not in said
