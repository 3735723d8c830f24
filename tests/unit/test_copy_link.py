"""Copies that stand for a device's link: order, time, and what happens at the end."""

import time

import pytest

from tierline.errors import FaultError
from tierline.run.copy_link import PacedCopyLink
from tierline.run.pace import Pace

QUICK = Pace("card", "pcie", 1e12, 0.0)


def test_bytes_arrive_and_what_lies_behind_them_stays() -> None:
    link = PacedCopyLink(QUICK)
    target = memoryview(bytearray(b"x" * 13))
    link.copy(memoryview(b"seventeen"), target).wait()
    assert bytes(target) == b"seventeenxxxx"
    assert link.name == "pcie"
    link.close()


def test_copies_cross_one_after_another_while_the_caller_goes_on() -> None:
    link = PacedCopyLink(Pace("card", "pcie", 1e6, 0.01))
    source, targets = memoryview(bytes(50_000)), [memoryview(bytearray(50_000)) for _ in range(2)]
    started_s = time.monotonic()
    copies = [link.copy(source, target) for target in targets]
    assert time.monotonic() - started_s < 0.05
    copies[1].wait()
    # The latency of the second passes while the first crosses.
    assert 0.11 <= time.monotonic() - started_s < 0.4
    copies[0].wait()
    link.close()


def test_a_target_that_is_too_small_is_refused() -> None:
    link = PacedCopyLink(QUICK)
    with pytest.raises(ValueError, match="19 B do not fit into 17 B"):
        link.copy(memoryview(bytes(19)), memoryview(bytearray(17)))
    link.close()


def test_closing_ends_copies_that_are_under_way_and_those_to_come() -> None:
    link = PacedCopyLink(Pace("card", "pcie", 100.0, 0.0))
    first, second = (link.copy(memoryview(bytes(1000)), memoryview(bytearray(1000))) for _ in range(2))
    started_s = time.monotonic()
    link.close()
    link.close()
    for copy in (first, second):
        with pytest.raises(FaultError, match="copy link was closed"):
            copy.wait()
    with pytest.raises(FaultError, match="copy link was closed"):
        link.copy(memoryview(b"a"), memoryview(bytearray(1))).wait()
    assert time.monotonic() - started_s < 2
