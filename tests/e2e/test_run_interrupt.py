"""Ctrl-C at any time: exit 130 within two seconds, the answer so far kept, nothing left behind."""

import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tierline.run.pace import Pace
from tierline.run.parts import needs_by_header
from tierline.run.request import Request
from tierline.run.session import Session
from tierline.run.slowdown import Slowdown
from tierline.run.source import open_source
from tierline.testing.tiny import write_llama

REQUEST = Request("t3 t141 t59", new=24, raw=True)


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 25 MB: at the 38 MB/s of USB 2.0, loading and each pass take most of a second."""
    folder = tmp_path_factory.mktemp("wide")
    return write_llama(folder, hidden_size=512, intermediate_size=1536, num_hidden_layers=4)


def interrupted(model: Path, resident: str, marker: str) -> tuple[int, str, str, float]:
    """Interrupt a run once `marker` shows on its terminal, or its first text comes where that is empty.

    Returns exit code, stdout, what the terminal showed, and the seconds from the signal to the end.
    """
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "tierline", "run", str(model), "t3 t141 t59", "--raw", "--new", "200"]
    command += ["--resident", resident, "--pace", "nexys-video:usb2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, text=True)
    os.close(slave)
    assert process.stdout is not None
    texts = {master: "", process.stdout.fileno(): ""}
    awaited, deadline = master if marker else process.stdout.fileno(), time.monotonic() + 120
    while not texts[awaited] or marker not in texts[awaited]:
        assert time.monotonic() < deadline, texts
        for ready in select.select(list(texts), [], [], 1)[0]:
            texts[ready] += os.read(ready, 65536).decode(errors="replace")
        if process.poll() is not None:
            break
    process.send_signal(signal.SIGINT)
    started_s = time.monotonic()
    rest, _ = process.communicate(timeout=60)
    took_s = time.monotonic() - started_s
    said, shown = texts[next(n for n in texts if n != master)] + rest, texts[master]
    while select.select([master], [], [], 0)[0]:
        try:
            shown += os.read(master, 65536).decode(errors="replace")
        except OSError:  # the other end is closed, and all has been read
            break
    os.close(master)
    return process.returncode, said, shown, took_s


@pytest.mark.parametrize(
    ("resident", "marker"),
    [
        pytest.param("1GiB", "loading pinned weights", marks=pytest.mark.slow),
        pytest.param("4MiB", "reading the prompt", marks=pytest.mark.slow),
        ("4MiB", ""),
    ],
    ids=["load", "prompt", "decode"],
)
def test_an_interrupt_ends_a_run_at_once(wide_llama: Path, resident: str, marker: str) -> None:
    code, said, shown, took_s = interrupted(wide_llama, resident, marker)
    assert code == 130, shown
    assert took_s < 2
    assert "Traceback" not in shown
    assert "tierline: interrupted" in shown
    if not marker:
        assert re.search(r"t\d+", said), "the answer so far is gone"


def held() -> tuple[int, int]:
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("moment", ["load", "decode"])
def test_an_interrupt_leaves_no_thread_and_no_descriptor(tiny_llama: Path, moment: str) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def nothing(*_: object) -> None:
        """Ignore progress and text."""

    progress, emit = (interrupt, nothing) if moment == "load" else (nothing, interrupt)
    with Session(open_source(tiny_llama), resident=None, memory=None):
        before = held()  # what libraries open once is open
    for _ in range(2):
        with (
            pytest.raises(KeyboardInterrupt),
            Session(open_source(tiny_llama), resident=480_000, memory=None) as session,
        ):
            session.answer(REQUEST, progress=progress, emit=emit)
        assert bool(session.partial.token_ids) == (moment == "decode")
        assert held()[0] <= before[0]
        assert held()[1] < before[1]  # the model that was open then is closed now


def test_a_disk_that_slows_down_a_hundredfold_is_said(
    tiny_llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, fast = open_source(tiny_llama), Pace("board", "usb", 40e6, 0.0)
    needs = needs_by_header(source)
    assert needs is not None
    arrived: list[str] = []
    with Session(source, resident=needs.least_bytes, memory=None, pace=fast) as session:

        def slow_down(text: str) -> None:
            arrived.append(text)
            if len(arrived) == 3:
                assert not caplog.records
                (link,) = session._links  # as a disk does: without telling anybody
                link.pace = Pace("board", "usb", fast.bytes_per_s / 100, 0.0)

        session.answer(Request("t3 t141 t59", new=9, raw=True), progress=lambda *_: None, emit=slow_down)
    (told,) = caplog.records
    expected = r"the disk gives [\d.]+ [kM]B/s now, and gave (3\d|40)\.\d+ MB/s before"
    assert re.search(expected, told.getMessage())
    assert told.levelno == logging.WARNING


def test_a_slowdown_is_told_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    watch = Slowdown(1_000_003.0, 100_003, least_window_s=2.0)
    read_bytes, busy_s = 0, 0.0
    for rate in (1_000_003, 500_009, 90_001, 80_021, 90_001, 700_001, 0):
        for _ in range(8):  # one window
            read_bytes, busy_s = read_bytes + rate // 4, busy_s + 0.25
            watch.look(read_bytes, busy_s)
    assert ["each token waits" in r.getMessage() for r in caplog.records] == [True, False, True]
