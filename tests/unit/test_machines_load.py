"""Loading, composing and overriding machines, and what is said about bad files."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline.errors import InputError
from tierline.machines.load import load_machine
from tierline.units import parse_bytes

_GOOD = '{ value = "7MiB", kind = "datasheet", source = "s" }'
_DOCS = Path(__file__).parents[2] / "docs" / "machines.md"


def _file(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def _minimal(capacity: str = _GOOD, rest: str = "") -> str:
    return f"{rest}\n[tiers.ram]\ncapacity = {capacity}\n"


def test_the_example_of_the_documentation_loads(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", _DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    machine = load_machine(_file(tmp_path, example[1]))
    assert [t.name for t in machine.tiers] == ["hbm", "ddr4", "host", "nvme"]
    assert [(link.name, link.source, link.target) for link in machine.links] == [
        ("ddr4-read", "ddr4", "compute"),
        ("pcie", "host", "hbm"),
        ("disk", "nvme", "host"),
    ]
    dsp, npu = machine.compute
    assert dsp.flop_per_s["int8"].value == 9024 * 2 * 300e6
    assert npu.flop_per_s["bf16"].value == 24.5e12
    assert machine.link("pcie").rate.peak is not None
    assert machine.link("pcie").rate.value == pytest.approx(0.82 * 8 * 16e9 * 128 / 130 / 8)
    assert machine.runtime_bytes is not None
    assert machine.runtime_bytes.value == 300_000_000


def test_no_more_is_free_than_there_is() -> None:
    settings = ["ddr3.capacity=3MiB", "ddr3.free=5MiB"]
    with pytest.raises(InputError, match="nexys-video: tier ddr3 has more bytes free than its capacity"):
        load_machine("nexys-video", settings)
    assert load_machine("nexys-video", ["ddr3.free=5MiB"]).fast.free_bytes is not None


def test_a_peak_that_is_given_stands_without_the_types_efficiency() -> None:
    """What of the type's own rate arrives says nothing about another rate."""
    rate = load_machine("rtx-3090", ["pcie.peak=7GB/s"]).link("pcie").rate
    assert (rate.value, rate.kind) == (7e9, "peak")
    rate = load_machine("rtx-3090", ["pcie.peak=97GB/s"]).link("pcie").rate
    assert (rate.value, rate.kind) == (97e9, "peak")


def test_a_minimal_file_is_a_tier_with_a_capacity(tmp_path: Path) -> None:
    machine = load_machine(_file(tmp_path, _minimal()))
    assert machine.name == "mine"
    assert machine.fast.capacity_bytes.value == 7 * 2**20
    assert machine.fast.rate is None
    assert machine.links == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_minimal('{ value = "7MiB", kind = "datasheet" }'), "no source"),
        (_minimal('{ value = "7MiB", kind = "datasheet", source = " " }'), "no source"),
        (_minimal('{ value = "7MiB", source = "s" }'), "kind is missing"),
        (_minimal('{ value = "7MiB", kind = "guess", source = "s" }'), "'guess'"),
        (_minimal('{ kind = "datasheet", source = "s" }'), "no value"),
        (_minimal('{ value = 7, kind = "datasheet", source = "s" }'), "text with a unit"),
        (_minimal('{ value = "7gb", kind = "datasheet", source = "s" }'), "7GB or 7GiB"),
        (_minimal('{ value = "0MiB", kind = "datasheet", source = "s" }'), "above 0"),
        (_minimal('{ value = "-7MiB", kind = "datasheet", source = "s" }'), "not a number of bytes"),
        (_minimal('{ value = "999999999999TiB", kind = "datasheet", source = "s" }'), "below"),
        (
            _minimal(f'{{ value = "{"9" * 5000}B", kind = "datasheet", source = "s" }}'),
            "not a number of bytes",
        ),
        (_minimal('{ value = "7MiB", kind = "datasheet", source = "s", unit = "x" }'), "'unit'"),
        (_minimal('"7MiB"'), "write { value"),
        (_minimal(rest="speed = 3"), "'speed'"),
        (_minimal(rest="shared_memory = 1"), "true or false"),
        (_minimal(rest="title = 3"), "title"),
        (_minimal(rest="notes = [3]"), "notes"),
        (_minimal(rest="tiers = 3").replace("[tiers.ram]\n", ""), "unknown key"),
        ("[tiers]\n", "no tier"),
        ("", "no tier"),
        ('[tiers."../x"]\ncapacity = ' + _GOOD, "NAME of a-z"),
        ("[tiers.compute]\ncapacity = " + _GOOD, "taken"),
        ("[tiers.ram]\npeak = " + _GOOD, "not a rate"),
        ('[tiers.ram]\nlatency = { value = "7us", kind = "measured", source = "s" }', "no capacity"),
        (_minimal() + '[links.l]\nfrom = "ram"\n', 'to = "TIER"'),
        (_minimal() + '[links.l]\nfrom = "ram"\nto = "ram"\n', "to itself"),
        (_minimal() + '[links.l]\nfrom = "disk"\nto = "ram"\n', "no tier"),
        (_minimal() + '[links.l]\nfrom = "host"\nto = "ram"\n', "desktop-ddr5"),
        (_minimal() + '[links.l]\nfrom = "compute"\nto = "ram"\n', "no tier"),
        (_minimal() + '[links.l]\nfrom = "ram"\nto = "compute"\n', "no rate"),
        (_minimal() + '[links.ram]\nfrom = "ram"\nto = "compute"\n', "taken"),
        (_minimal() + '[links.l]\nfrom = "ram"\nto = "compute"\ntype = "bus"\n', "pcie, nvme, usb"),
        (_minimal() + '[links.l]\nfrom = "ram"\nto = "compute"\ntype = "pcie"\ngen = 3\n', "kind is missing"),
        (
            _minimal() + '[links.l]\nfrom = "ram"\nto = "compute"\ntype = "pcie"\ngen = 3\nkind = "assumed"\n'
            'source = "s"\n',
            "needs lanes",
        ),
        (_minimal() + '[compute.u]\nint3 = { peak = { value = "1TOP/s" } }\n', "'int3'"),
        (_minimal() + "[compute.u]\nint8 = 3\n", "peak or ops_per_cycle"),
        (
            _minimal() + '[compute.u]\ncount = { value = 1.5, kind = "assumed", source = "s" }\n',
            "whole number",
        ),
        (
            _minimal() + '[compute.u]\ncount = { value = inf, kind = "assumed", source = "s" }\n',
            "whole number",
        ),
        (
            _minimal() + '[compute.u]\ncount = { value = nan, kind = "assumed", source = "s" }\n',
            "whole number",
        ),
        (
            _minimal()
            + f'[compute.u]\ncount = {{ value = 0x{"f" * 9000}, kind = "assumed", source = "s" }}\n',
            "whole number",
        ),
        (_minimal() + f"[compute.u]\ncount = {'9' * 9000}\n", "not a TOML file"),
        ("x = " + "[" * 100_000, "not a TOML file"),
        ("[tiers", "not a TOML file"),
        ("#" + "x" * 2**20, "1 MiB"),
        (_minimal(rest='host = "h100-sxm"'), "a card itself"),
        (_minimal(rest='host = "no-such"'), "no machine is called"),
    ],
)
def test_a_bad_file_is_an_error_that_says_where_and_what(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as raised:
        load_machine(_file(tmp_path, text))
    assert len(str(raised.value)) < 700


def test_an_error_names_the_file_and_the_path_in_it(tmp_path: Path) -> None:
    path = _file(tmp_path, _minimal('{ value = "7MiB", kind = "datasheet" }'))
    with pytest.raises(InputError, match=re.escape(f"{path}: ram.capacity: has no source")):
        load_machine(path)


def test_a_file_that_is_not_utf8_or_not_readable_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"title = '\xff'")
    with pytest.raises(InputError, match="not a TOML file"):
        load_machine(str(path))
    with pytest.raises(InputError, match="no such machine file"):
        load_machine(str(tmp_path / "absent.toml"))


def test_an_unknown_name_names_its_neighbours() -> None:
    with pytest.raises(InputError, match="did you mean nexys-video"):
        load_machine("nexys-vidoe")
    with pytest.raises(InputError, match="takes no host"):
        load_machine("desktop-ddr5+server-ddr4")


def test_sustained_above_peak_is_an_error() -> None:
    with pytest.raises(InputError, match=r"sustained .* is above peak"):
        load_machine("nexys-video", ["ddr3.peak=0.5GB/s"])
    machine = load_machine("nexys-video", ["ddr3.peak=0.5GB/s", "ddr3.sustained=0.3GB/s"])
    assert machine.fast.rate is not None
    assert machine.fast.rate.value == 0.3e9


def test_a_card_sits_in_the_host_that_is_asked_for() -> None:
    default, other = load_machine("rtx-3090"), load_machine("rtx-3090+server-ddr4")
    assert (default.name, other.name) == ("rtx-3090", "rtx-3090+server-ddr4")
    assert default.tier("host").capacity_bytes.value == 64 * 2**30
    assert other.tier("host").capacity_bytes.value == 512 * 2**30
    assert default.fast == other.fast
    assert other.link("disk").target == "host"
    assert all(unit.name == "gpu" for unit in other.compute)


def test_overrides_reach_every_kind_of_number() -> None:
    machine = load_machine(
        "alveo-v80",
        [
            "host.capacity=47GiB",
            "pcie.gen=3",
            "pcie.lanes = 4",
            "dsp.clock=293MHz",
            "dsp.fp16.peak=3TFLOP/s",
            "hbm.latency=131ns",
            "runtime=11MiB",
            "ddr4.free=5GiB",
        ],
    )
    assert machine.tier("host").capacity_bytes.value == 47 * 2**30
    assert machine.tier("host").capacity_bytes.kind == "assumed"
    assert "--set host.capacity=47GiB" in machine.tier("host").capacity_bytes.source
    assert machine.link("pcie").rate.value == pytest.approx(0.82 * 8e9 * 4 * 128 / 130 / 8)
    rates = machine.compute[0].flop_per_s
    assert rates["int8"].value == 10848 * 2 * 293e6
    assert rates["fp16"].value == 3e12
    assert machine.fast.latency_s is not None
    assert machine.fast.latency_s.value == pytest.approx(131e-9)
    assert machine.runtime_bytes is not None
    assert machine.tier("ddr4").free_bytes is not None


def test_a_new_generation_drops_the_rate_of_the_old_link_whatever_the_order() -> None:
    measured = load_machine("artix7-pcie").link("pcie").rate
    assert measured.value == 1.5e9
    for settings in (["pcie.gen=4"], ["pcie.sustained=3GB/s", "pcie.gen=4"]):
        rate = load_machine("artix7-pcie", settings).link("pcie").rate
        assert rate.peak is not None
        assert rate.peak.value == pytest.approx(16e9 * 4 * 128 / 130 / 8, rel=1e-15)
        assert rate.value == pytest.approx(3e9 if len(settings) > 1 else 0.82 * rate.peak.value)


@pytest.mark.parametrize(
    "setting", ["x.y=1", "pcie", "pcie.width=4", "=3", "ddr3.fp8.peak=1TOP/s", "usb2.gen=3"]
)
def test_a_path_that_names_nothing_lists_those_that_exist(setting: str) -> None:
    with pytest.raises(InputError, match=re.escape("ddr3.capacity, ")) as raised:
        load_machine("nexys-video", [setting])
    assert "usb2.sustained" in str(raised.value)
    assert "disk.gen" in str(raised.value)


@pytest.mark.parametrize(
    "setting", ["ddr3.capacity=7", "ddr3.peak=7GB", "disk.gen=3.5", "disk.gen=99", "disk.gen="]
)
def test_a_value_that_does_not_parse_names_the_path(setting: str) -> None:
    with pytest.raises(InputError, match=re.escape(setting.partition(".")[0])):
        load_machine("nexys-video", [setting])


def test_both_a_rate_and_its_factors_is_an_error() -> None:
    with pytest.raises(InputError, match="not both"):
        load_machine("h100-sxm", ["gpu.bf16.ops_per_cycle=2"])


@given(st.integers(min_value=1, max_value=2**50))
def test_a_capacity_in_bytes_arrives_as_it_was_written(count: int) -> None:
    machine = load_machine("desktop-ddr5", [f"dram.capacity={count}B"])
    assert machine.fast.capacity_bytes.value == count == parse_bytes(f"{count} B")


@given(st.text(max_size=40))
def test_any_value_parses_or_is_an_input_error(text: str) -> None:
    for path in ("dram.capacity", "dram.peak", "dram.latency", "disk.gen"):
        with contextlib.suppress(InputError):
            machine = load_machine("desktop-ddr5", [f"{path}={text}"])
            assert machine.fast.capacity_bytes.value > 0


@given(st.text(alphabet="[]{}=.,\"' \n#0xtierslnkcpau", max_size=200))
def test_any_file_loads_or_is_an_input_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        load_machine(str(path))  # nothing in this alphabet writes a capacity
