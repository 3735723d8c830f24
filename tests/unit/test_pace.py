"""Reads at another machine's pace, on a clock that the tests move."""

import heapq
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.errors import InputError
from tierline.run.direct_io import Extract, anonymous_memory
from tierline.run.pace import Pace, PacedFile, PacedLink, find_pace
from tierline.sim.kernel import Kernel, Link, LinkSpec

SLOW = Pace("board", "usb", 1000.0, 0.25)


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now: Any = 0

    def read(self) -> Any:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def paced_by(clock: Clock, pace: Pace = SLOW) -> PacedLink:
    return PacedLink(pace, now=clock.read, wait=clock.wait)


def test_a_read_takes_latency_and_bytes_over_rate() -> None:
    clock = Clock()
    link = paced_by(clock)
    link.until(link.ask(500))
    assert clock.now == 0.25 + 0.5


def test_latency_of_one_passes_while_another_crosses() -> None:
    link = paced_by(Clock())
    assert [link.ask(500), link.ask(500), link.ask(100)] == [0.75, 1.25, 1.35]


def test_an_idle_link_saves_nothing_up() -> None:
    clock = Clock()
    link = paced_by(clock)
    link.until(link.ask(100))
    clock.now = 100.0
    assert link.ask(1000) == 101.25


@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=23),
    readers=st.integers(1, 3),
    latency=st.fractions(0, 3),
    rate=st.integers(1, 2000),
)
def test_readers_cross_as_on_a_simulated_link(
    sizes: list[int], readers: int, latency: Fraction, rate: int
) -> None:
    clock = Clock()
    link = paced_by(clock, Pace("board", "usb", Fraction(rate), latency))  # type: ignore[arg-type]
    free: list[Fraction] = [Fraction(0)] * readers
    crossed: list[Any] = []
    for size in sizes:  # the reader that is free first asks next
        clock.now = heapq.heappop(free)
        crossed.append(link.ask(size))
        heapq.heappush(free, crossed[-1])
    kernel, simulated = Kernel(Fraction(0)), []
    other = Link(kernel, LinkSpec("usb", Fraction(rate), latency, in_flight=readers))
    for size in sizes:
        other.request(size, lambda _, end: simulated.append(end))
    kernel.run()
    assert crossed == simulated


@given(size=st.integers(1, 5000), readers=st.integers(1, 3), latency=st.fractions(0, 9))
def test_the_sustained_rate_is_what_many_requests_reach(size: int, readers: int, latency: Fraction) -> None:
    pace = Pace("board", "usb", Fraction(1009), latency)  # type: ignore[arg-type]
    kernel, ends = Kernel(Fraction(0)), []
    link = Link(kernel, LinkSpec("usb", Fraction(1009), latency, in_flight=readers))
    count = 20 * readers
    for _ in range(2 * count):
        link.request(size, lambda _, end: ends.append(end))
    kernel.run()
    assert pace.sustained_bytes_per_s(size, readers) == count * size / (ends[-1] - ends[count - 1])


def test_a_paced_file_reads_the_same_bytes_later(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(251)) * 40)
    clock = Clock()
    with PacedFile(path, paced_by(clock)) as file:
        extract = Extract("w", 1013, 2003)
        data = file.read(extract, anonymous_memory(file.span_bytes(extract)))
        assert bytes(data) == path.read_bytes()[1013:3016]
        assert clock.now == pytest.approx(0.25 + file.span_bytes(extract) / 1000)


def test_stopping_ends_a_wait_at_once() -> None:
    link = PacedLink(Pace("board", "usb", 1.0, 0.0))
    started_s = time.monotonic()
    threading.Timer(0.05, link.stop).start()
    link.until(link.ask(1000))
    assert time.monotonic() - started_s < 2
    link.until(link.ask(1000))  # and every wait after it
    assert time.monotonic() - started_s < 2


TWO_LINKS = """
[tiers.fast]
capacity = { value = "1GiB", kind = "assumed", source = "test" }
peak = { value = "1GB/s", kind = "assumed", source = "test" }
[tiers.far]
capacity = { value = "8GiB", kind = "assumed", source = "test" }
[links.wide]
from = "far"
to = "fast"
sustained = { value = "700MB/s", kind = "assumed", source = "test" }
[links.narrow]
from = "far"
to = "fast"
sustained = { value = "30MB/s", kind = "assumed", source = "test" }
latency = { value = "2ms", kind = "assumed", source = "test" }
"""


def test_a_machine_is_paced_by_its_slowest_link_unless_another_is_named(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(TWO_LINKS, encoding="utf-8")
    assert find_pace(str(path)) == Pace("board", "narrow", 30e6, 2e-3)
    assert find_pace(f"{path}:wide") == Pace("board", "wide", 700e6, 0.0)
    assert find_pace("nexys-video") == find_pace("nexys-video:usb2") == Pace("nexys-video", "usb2", 38e6, 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nexys-vido", "did you mean nexys-video"),
        ("nexys-video:pcie", "no link 'pcie'"),
        ("nexys-video:", "no link ''"),
    ],
)
def test_an_unknown_pace_is_one_message(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_pace(text)
