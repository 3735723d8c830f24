"""The event kernel by itself."""

from fractions import Fraction
from pathlib import Path

import tierline.sim.kernel
from tierline.sim.kernel import Kernel, Link, LinkSpec, Slots


def test_the_kernel_stays_small() -> None:
    assert len(Path(tierline.sim.kernel.__file__).read_text(encoding="utf-8").splitlines()) <= 150


def test_events_come_by_time_then_priority_then_order_of_asking() -> None:
    kernel, seen = Kernel(Fraction(0)), list[str]()
    for name, time, priority in (("e", 5, 0), ("c", 3, 1), ("a", 3, -1), ("b", 3, 0), ("d", 3, 1)):
        kernel.at(Fraction(time), lambda name=name: seen.append(name), priority)  # type: ignore[misc]
    kernel.run()
    assert "".join(seen) == "abcde"
    assert kernel.now == 5


def test_slots_run_out_and_come_back() -> None:
    slots = Slots(2)
    assert [slots.take(), slots.take(), slots.take()] == [True, True, False]
    slots.give()
    assert slots.take()


def test_latency_passes_while_another_request_is_served() -> None:
    def ends(in_flight: int) -> list[Fraction]:
        kernel, found = Kernel(Fraction(0)), list[Fraction]()
        link = Link(kernel, LinkSpec("link", Fraction(7), Fraction(3), 0, "fifo", in_flight))
        for _ in range(3):
            link.request(14, lambda _, end: found.append(end))
        kernel.run()
        return found

    assert ends(1) == [5, 10, 15]
    assert ends(2) == [5, 7, 10]
    assert ends(3) == [5, 7, 9]


def test_an_urgent_request_goes_before_all_that_waits_and_costs_at_least_the_minimum() -> None:
    kernel, order = Kernel(Fraction(0)), list[tuple[str, Fraction]]()
    link = Link(kernel, LinkSpec("link", Fraction(1), minimum_bytes=5))
    for name, count in (("first", 7), ("second", 11)):
        link.request(count, lambda _, end, name=name: order.append((name, end)))  # type: ignore[misc]
    kernel.at(Fraction(3), lambda: link.request(1, lambda _, end: order.append(("urgent", end)), urgent=True))
    kernel.run()
    assert order == [("first", Fraction(7)), ("urgent", Fraction(12)), ("second", Fraction(23))]


def test_an_urgent_request_goes_before_what_was_asked_for_at_the_same_instant() -> None:
    kernel, order = Kernel(Fraction(0)), list[tuple[str, Fraction]]()
    link = Link(kernel, LinkSpec("link", Fraction(1)))
    link.request(7, lambda _, end: order.append(("first", end)))
    link.request(2, lambda _, end: order.append(("urgent", end)), urgent=True)
    kernel.run()
    assert order == [("urgent", Fraction(2)), ("first", Fraction(9))]
