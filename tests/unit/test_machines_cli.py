"""`tierline machines`: what is listed and shown, and that its example works."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tierline.cli.machines import machines
from tierline.cli.main import main
from tierline.machines.load import machine_names


def _run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as exited:
        main(["machines", *arguments])
    assert exited.value.code == code
    out, err = capsys.readouterr()
    return err if code else out


def test_the_list_has_every_machine_and_this(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _run(capsys).splitlines()
    assert {line.split()[0] for line in lines[1:]} == {*machine_names(), "this"}
    listed = json.loads(_run(capsys, "--json"))["machines"]
    assert [m["name"] for m in listed] == [*machine_names(), "this"]


def test_a_machine_shows_each_number_with_kind_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    text = _run(capsys, "nexys-video")
    assert re.search(r"ddr3\.capacity +512\.0 MiB +datasheet +digilent-nexys-video", text)
    assert re.search(r"usb2\.sustained +38\.00 MB/s +assumed +plena-nexys", text)
    assert re.search(r"dsp\.int8\.peak +666\.0 GOP/s +assumed", text)
    assert "https://digilent.com/reference/programmable-logic/nexys-video/reference-manual" in text


def test_json_is_in_base_units_with_null_for_the_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(_run(capsys, "artix7-pcie", "--json"))
    ddr3 = shown["tiers"][0]
    assert ddr3["sustained_bytes_per_s"] == {"value": 1e9, "kind": "assumed", "source": "plena-nexys"}
    assert ddr3["latency_s"] is None
    assert shown["links"][0]["to"] == "compute"
    assert shown["compute"] == []
    assert shown["sources"]["plena-custom-a7"]["title"]


def test_the_example_of_the_help_works(capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(r"Try: tierline machines (.*)", machines.__doc__ or "")
    assert example is not None
    assert re.search(r"host\.capacity +48\.0 GiB +assumed", _run(capsys, *shlex.split(example[1])))


def test_every_number_that_can_be_set_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    values = {
        "ddr3.capacity": "7GiB", "ddr3.free": "3GiB", "ddr3.peak": "13GB/s", "ddr3.sustained": "11GB/s",
        "ddr3.latency": "17ns", "ddr3.energy": "19pJ", "usb2.peak": "53MB/s", "usb2.sustained": "47MB/s",
        "usb2.latency": "23us", "usb2.energy": "2.5nJ", "dsp.count": "29", "dsp.clock": "31MHz",
        "dsp.energy": "37fJ", "dsp.int8.sustained": "1.5GOP/s", "runtime": "41MiB",
    }  # fmt: skip
    settings = [part for path, value in values.items() for part in ("--set", f"{path}={value}")]
    text = _run(capsys, "nexys-video", *settings)
    for path, value in values.items():
        number, unit = re.fullmatch(r"([\d.]+)(.*)", value).groups()  # type: ignore[union-attr]
        assert re.search(rf"{re.escape(path)} +{number}(\.0+)? ?{unit} +assumed", text), path
    shown = _run(capsys, "nexys-video", *settings, "--json")
    for path, value in values.items():
        assert f'"--set {path}={value}"' in shown, path


def test_hostile_text_is_escaped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    number = '{ value = "1GiB", kind = "assumed", source = "[red]\\u001b[2J" }'
    path.write_text(f'title = "\\u001b[31m[bold]"\n[tiers.ram]\ncapacity = {number}\n')
    text = _run(capsys, str(path))
    assert "\x1b" not in text
    assert "[bold]" in text
    assert "[red]" in text


@pytest.mark.parametrize("arguments", [["no-such"], ["--set", "a=1"], ["nexys-video", "--set", "a=1"]])
def test_bad_input_is_one_message_and_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert _run(capsys, *arguments, code=2).startswith("tierline: ")
