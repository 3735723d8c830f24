"""Compute and reads that slow each other, against time in small slices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.run.overlap import Beside, Sharing, overlapped, under_limit


def sliced(compute_s: float, read_bytes: int, rate: float, beside: Beside, slices: int) -> float:
    """The length of a step by its definition: slice after slice, reads spread evenly over what is computed.

    A slice takes as long as it takes beside reads as long as its share of the bytes is not read; after all
    compute the rest of the bytes comes at the link's own rate.
    """
    elapsed_s = read = 0.0
    busy_s = compute_s / slices * beside.slowdown
    moved = busy_s * beside.bytes_per_s
    for _ in range(slices):
        due = min(moved, read_bytes / slices)
        elapsed_s += due / moved * busy_s + (1 - due / moved) * compute_s / slices
        read += due
    return elapsed_s + max(0.0, read_bytes - read) / rate


@given(
    compute_s=st.floats(0.01, 4),
    read_bytes=st.integers(1, 3_000_017),
    rate=st.floats(1e5, 1e7),
    slowdown=st.floats(1, 2.5),
    fraction=st.floats(0.1, 1),
)
def test_a_step_is_as_long_as_its_slices(
    compute_s: float, read_bytes: int, rate: float, slowdown: float, fraction: float
) -> None:
    beside = Beside(slowdown, rate * fraction)
    step = overlapped(compute_s=compute_s, read_bytes=read_bytes, bytes_per_s=rate, beside=beside)
    assert step.bytes_per_s is not None
    expected = sliced(compute_s, read_bytes, rate, beside, slices=200)
    assert max(step.compute_s, read_bytes / step.bytes_per_s) == pytest.approx(expected, rel=1e-6)


def test_alone_nothing_is_slowed() -> None:
    step = overlapped(compute_s=0.81, read_bytes=0, bytes_per_s=13.0, beside=Beside(2, 5))
    assert step.compute_s == 0.81
    assert step.bytes_per_s == 13.0
    assert overlapped(compute_s=0.81, read_bytes=17, bytes_per_s=None, beside=None).bytes_per_s is None


def test_a_slow_link_is_slower_still_while_compute_runs() -> None:
    # 2 s of compute become 3 and let 3 x 50 B pass; what is left of 500 B takes 3.5 s at 100 B/s.
    step = overlapped(compute_s=2, read_bytes=500, bytes_per_s=100, beside=Beside(1.5, 50))
    assert step.compute_s == 3
    assert step.bytes_per_s == pytest.approx(500 / 6.5)


def test_where_compute_is_slower_it_is_slowed_for_as_long_as_anything_is_read() -> None:
    # Beside reads 2 s would become 3 and let 150 B pass; 75 B are read in half of them.
    step = overlapped(compute_s=2, read_bytes=75, bytes_per_s=100, beside=Beside(1.5, 50))
    assert step.compute_s == 2.5
    assert step.bytes_per_s == 50


def test_a_disk_that_nearly_reaches_its_limit_reaches_it() -> None:
    assert under_limit(530.0, 500) == 500
    assert under_limit(463.0, 500) == 500
    assert under_limit(401.0, 500) == 401
    assert under_limit(401.0, None) == 401
    assert under_limit(None, 500) is None


def test_nothing_is_read_faster_than_the_limit_beside_compute_either() -> None:
    assert Beside(1.5, 530).within(500) == Beside(1.5, 500)
    assert Beside(1.5, 230).within(500) == Beside(1.5, 230)
    assert Beside(1.5, 530).within(None) == Beside(1.5, 530)


def test_sharing_of_nothing_slows_nothing() -> None:
    step = Sharing().step(compute_s=0.81, read_bytes=17)
    assert step.compute_s == 0.81
    assert step.bytes_per_s is None
    assert Sharing(100, Beside(1.5, 50)).step(compute_s=2, read_bytes=500).compute_s == 3
