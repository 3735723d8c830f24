"""Link types: raw rates against the arithmetic on paper."""

from fractions import Fraction

import pytest

from tierline.errors import InputError
from tierline.machines.links import link_type, link_types
from tierline.sourced import Sourced


def _given(value: float, kind: str = "datasheet") -> Sourced:
    return Sourced(value, "assumed" if kind == "assumed" else "datasheet", "test")


@pytest.mark.parametrize(
    ("gen", "lanes", "bytes_per_s"),
    [
        (1, 1, Fraction(250_000_000)),
        (2, 4, Fraction(2_000_000_000)),
        (3, 8, Fraction(8 * 10**9 * 8 * 128, 130 * 8)),  # 7,876,923,076.92...
        (4, 8, Fraction(16 * 10**9 * 8 * 128, 130 * 8)),  # 15,753,846,153.8...
        (4, 16, Fraction(16 * 10**9 * 16 * 128, 130 * 8)),
        (5, 16, Fraction(32 * 10**9 * 16 * 128, 130 * 8)),
        (6, 16, Fraction(128_000_000_000)),
    ],
)
def test_pcie_is_transfers_times_lanes_times_encoding(gen: int, lanes: int, bytes_per_s: Fraction) -> None:
    pcie = link_type("pcie", "here")
    peak = pcie.peak(_given(gen), _given(lanes), "here")
    assert peak.value == float(bytes_per_s)
    assert peak.kind == "derived"
    sustained = pcie.sustained(_given(gen), _given(lanes), "here")
    assert sustained is not None
    assert sustained.value == pytest.approx(0.82 * float(bytes_per_s))


def test_the_figures_that_people_quote() -> None:
    pcie = link_type("pcie", "here")
    assert round(pcie.peak(_given(3), _given(8), "").value, 2) == 7_876_923_076.92
    assert round(pcie.peak(_given(4), _given(8), "").value, 1) == 15_753_846_153.8


def test_the_other_types() -> None:
    usb, sata, ethernet, nvme = (link_type(n, "") for n in ("usb", "sata", "ethernet", "nvme"))
    assert usb.peak(_given(2), None, "").value == 60e6
    assert usb.peak(_given(3), None, "").value == 500e6
    assert usb.sustained(_given(3), None, "") is None
    assert sata.peak(_given(3), None, "").value == 560e6  # the drive's, below the wire's 600
    assert ethernet.peak(_given(40), None, "").value == 5e9
    measured = nvme.sustained(_given(3), None, "")
    assert measured is not None
    assert (measured.value, measured.kind) == (3.35e9, "measured")
    assert nvme.peak(_given(3), None, "").value == pytest.approx(4 * 8e9 * 128 / 130 / 8)


def test_a_rate_from_an_assumed_link_is_assumed() -> None:
    pcie = link_type("pcie", "here")
    peak = pcie.peak(_given(3, "assumed"), _given(4), "here")
    assert peak.kind == "assumed"
    assert set(peak.source.split(", ")) == {"synopsys-pcie", "test"}


def test_what_does_not_exist_is_an_error_with_what_does() -> None:
    pcie = link_type("pcie", "here")
    with pytest.raises(InputError, match=r"here: pcie has no gen 9; known are 1, 2, 3, 4, 5, 6"):
        pcie.peak(_given(9), _given(4), "here")
    with pytest.raises(InputError, match=r"no width of 3 lanes; known are 1, 2, 4, 8, 16"):
        pcie.sustained(_given(3), _given(3), "here")
    with pytest.raises(InputError, match="unknown link type"):
        link_type(["pcie"], "here")


def test_a_measured_rate_never_exceeds_the_raw_one() -> None:
    for kind in link_types().values():
        for chosen in kind.variants:
            sustained = kind.sustained(_given(chosen), None, kind.name)
            if sustained is not None:
                assert sustained.value <= kind.peak(_given(chosen), None, kind.name).value
