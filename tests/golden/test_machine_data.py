"""The catalogue of machines: every file loads, every number has a kind and a source that exists."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tierline
from tierline.errors import InputError
from tierline.machines.document import document, numbers
from tierline.machines.draft import read_draft
from tierline.machines.load import load_machine, machine_names
from tierline.machines.sources import references, source_keys
from tierline.sourced import KINDS

_DATA = Path(tierline.__file__).parent / "data"
_WANTED = [
    "nexys-video",
    "artix7-pcie",
    "h100-sxm",
    "alveo-u280",
    "alveo-v80",
    "rtx-3090",
    "rtx-5060-ti-16",
    "kria-kv260",
    "zcu102",
    "rtx-4090",
    "rtx-5090",
    "a100-80-sxm",
    "a100-80-pcie",
    "h100-pcie",
    "h200-sxm",
    "b200",
    "mi300x",
    "rtx-pro-6000",
    "jetson-orin-nano-super",
    "jetson-agx-orin-64",
    "apple-m2-max",
    "apple-m3-max",
    "apple-m4-max",
    "apple-m3-ultra",
    "raspberry-pi-5",
    "desktop-ddr5",
]


def test_the_catalogue_has_the_machines_that_people_use() -> None:
    assert set(_WANTED) <= set(machine_names())
    assert len(machine_names()) >= 25


@pytest.mark.parametrize("name", machine_names())
def test_every_number_has_a_kind_and_a_source_that_exists(name: str) -> None:
    machine = load_machine(name)
    found = dict(numbers(machine))
    assert found
    for path, number in found.items():
        assert number.kind in KINDS, path
        assert number.value > 0, path
        assert set(source_keys(number.source)) <= set(references()), path
    assert machine.fast.capacity_bytes.value >= 2**20
    assert machine.fast.rate is not None
    assert machine.links


@pytest.mark.parametrize("name", machine_names())
def test_a_machine_names_what_it_is_and_its_document_has_its_sources(name: str) -> None:
    shown = document(load_machine(name))
    assert shown["title"] != name
    used = {key for _, n in numbers(load_machine(name)) for key in source_keys(n.source)}
    sources = shown["sources"]
    assert isinstance(sources, dict)
    assert used == set(sources)


@pytest.mark.parametrize("key", references())
def test_every_source_has_a_title_an_address_a_date_and_a_sentence(key: str) -> None:
    reference = references()[key]
    assert reference.title
    assert reference.address
    assert reference.date[:2] == "20"
    assert len(reference.sentence) > 20


def test_an_address_that_is_no_page_is_not_called_confirmed() -> None:
    texts = {f.name: f.read_text(encoding="utf-8") for f in (_DATA / "sources").glob("*.toml")}
    entries = {key: e for text in texts.values() for key, e in tomllib.loads(text).items()}
    for key, reference in references().items():
        assert entries[key].get("confirmed") in (None, False), key
        assert reference.confirmed == ("confirmed" not in entries[key]), key
        parts = reference.address.split(", ")
        pages = all(part.split(" ")[0].startswith(("https://", "http://", "docs/")) for part in parts)
        assert pages or not reference.confirmed, key
        assert "(" not in reference.address or not reference.confirmed, key
    assert not references()["ftdi-ft2232h"].confirmed
    assert references()["flash-moe"].confirmed


def _sources_named() -> Iterator[str]:
    def walk(entry: object) -> Iterator[str]:
        if isinstance(entry, dict):
            if isinstance(entry.get("source"), str):
                yield from source_keys(entry["source"])
            for value in entry.values():
                yield from walk(value)

    for path in (*(_DATA / "machines").glob("*.toml"), _DATA / "links.toml"):
        yield from walk(tomllib.loads(path.read_text(encoding="utf-8")))


def test_no_source_of_machines_and_links_is_left_over() -> None:
    named = set(_sources_named())
    for file in ("machines.toml", "links.toml"):
        kept = set(tomllib.loads((_DATA / "sources" / file).read_text(encoding="utf-8")))
        assert kept <= named, file


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (("kind", "guessed"), "kind is 'guessed'"),
        (("source", "no-such-key"), "'no-such-key' is not in data/sources/"),
        (("source", "digilent-nexys-video, no-such-key"), "'no-such-key' is not in data/sources/"),
        (("source", ""), "no source"),
        (("value", "0MiB"), "above 0"),
    ],
)
def test_the_tests_above_can_fail(damage: tuple[str, str], said: str) -> None:
    text = (_DATA / "machines" / "nexys-video.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    read_draft("copy", table, "copy", references())
    field, value = damage
    table["tiers"]["ddr3"]["capacity"][field] = value
    with pytest.raises(InputError, match=said):
        read_draft("copy", table, "copy", references())
    if field == "source" and value:  # in a user's own file any text will do
        read_draft("copy", table, "copy", None)


def test_the_boards_of_the_demo_have_their_published_numbers() -> None:
    nexys = load_machine("nexys-video")
    assert nexys.fast.capacity_bytes.value == 512 * 2**20
    assert nexys.fast.rate is not None
    assert nexys.fast.rate.peak is not None
    assert (nexys.fast.rate.peak.value, nexys.fast.rate.value, nexys.fast.rate.kind) == (
        1.6e9,
        1e9,
        "sustained",
    )
    usb = nexys.link("usb2")
    assert usb.rate.peak is not None
    assert (usb.rate.peak.value, usb.rate.value, usb.target) == (40e6, 38e6, "ddr3")
    artix = load_machine("artix7-pcie")
    pcie = artix.link("pcie")
    assert pcie.rate.peak is not None
    assert (pcie.rate.peak.value, pcie.rate.value, pcie.target) == (2e9, 1.5e9, "compute")
    assert pcie.rate.peak.kind == "assumed"
    h100 = load_machine("h100-sxm")
    assert h100.fast.rate is not None
    assert h100.fast.rate.value == 3.35e12
    assert h100.compute[0].flop_per_s["bf16"].value == pytest.approx(989e12, rel=1e-3)


def test_an_unsourced_clock_leaves_the_rate_of_compute_unknown() -> None:
    for name in ("alveo-v80", "kria-kv260", "zcu102"):
        (dsp,) = load_machine(name).compute
        assert dsp.count is not None
        assert dsp.flop_per_s == {}


def test_one_memory_machines_say_so() -> None:
    shared = {name for name in machine_names() if load_machine(name).shared_memory}
    assert {n for n in machine_names() if n.startswith(("apple", "jetson", "raspberry"))} <= shared
    assert not any(name.startswith(("rtx", "h100", "alveo", "nexys")) for name in shared)
