"""Rooflines against arithmetic by hand: intensities, ridges, bounds, totals; what is written."""

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tierline.cli.main import main
from tierline.cost.costing import Costing
from tierline.errors import InputError
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.build import plan_with
from tierline.report.roofline import OperationPoint, Roofline, alike, build_roofline


def costing(name: str, **others: Any) -> Costing:
    return Costing(Precision.of(weights=name, kv=name, activations=name), "materialised", **others)


def built(*formats: str, machine: str = "alveo-u280", phases: tuple[str, ...] = ()) -> Roofline:
    work = Workload.of(prompt_tokens=896, new=128, images=1, steps=10)
    return build_roofline(
        open_model("smolvla"), load_machine(machine), work, [costing(f) for f in formats], phases
    )


def point(roofline: Roofline, phase: str, end: str) -> OperationPoint:
    return next(p for p in roofline.operations if p.phase == phase and p.name.endswith(end))


def product(rows: int, inner: int, outer: int, element_bytes: int, bias: int = 0) -> float:
    """Return 2 n K N over the bytes of weights, input and output, written apart from the code under test."""
    moved = (inner * outer + rows * inner + rows * outer + bias) * element_bytes
    return float(Fraction(2 * rows * inner * outer, moved))


@pytest.mark.parametrize(("name", "element_bytes"), [("int8", 1), ("bf16", 2), ("fp32", 4)])
@pytest.mark.parametrize(
    ("phase", "end", "shape"),
    [
        ("vision", "patch_embedding", (1024, 768, 768, 768)),
        ("vision", "mlp.fc1", (1024, 768, 3072, 3072)),
        ("vision", "modality_projection.proj", (64, 12288, 960, 0)),
        ("prefill", "mlp.gate_proj", (113, 960, 2560, 0)),
        ("prefill", "self_attn.k_proj", (113, 960, 320, 0)),
        ("denoise", "mlp.down_proj", (50, 2048, 720, 0)),
    ],
)
def test_intensities_of_matrix_products(
    name: str, element_bytes: int, phase: str, end: str, shape: tuple[int, int, int, int]
) -> None:
    rows, inner, outer, bias = shape
    found = point(built(name), phase, end)
    assert found.rows == rows
    assert found.reach[0].operational_intensity == product(rows, inner, outer, element_bytes, bias)
    weights = (inner * outer + bias) * element_bytes
    streamed = next(r for r in found.reach if r.link == "pcie")
    assert streamed.operational_intensity == 2 * rows * inner * outer / weights


def test_attention_reads_its_cache_and_no_link_that_brings_weights() -> None:
    cross = next(p for p in built("int8").operations if p.phase == "denoise" and p.name == "self_attn")
    assert cross.kv_bytes == 2 * 113 * 320
    assert cross.weight_read_bytes == 0
    assert all(reach.operational_intensity is None for reach in cross.reach[1:])


def test_bounds_and_attainable_rates() -> None:
    roofline = built("int8")
    by_memory, by_compute = point(roofline, "prefill", "state_proj"), point(roofline, "vision", "mlp.fc1")
    assert by_memory.reach[0].bound == "link:hbm"
    intensity = by_memory.reach[0].operational_intensity
    assert intensity is not None
    assert by_memory.reach[0].flop_per_s == pytest.approx(intensity * 425e9)
    assert by_memory.reach[0].peak_flop_per_s == pytest.approx(intensity * 460e9)
    assert (by_compute.reach[0].bound, by_compute.reach[0].flop_per_s) == ("compute", 24.5e12)
    disk = next(reach for reach in by_compute.reach if reach.link == "disk")
    assert disk.bound == "link:disk"


def test_totals_are_sums_of_the_operations_and_of_the_plan() -> None:
    roofline = built("int8")
    for total in roofline.components:
        members = [p for p in roofline.operations if (p.phase, p.component) == (total.phase, total.component)]
        assert total.flop == sum(p.layers * p.passes * p.flop for p in members)
        assert total.port_bytes == sum(p.layers * p.passes * p.port_bytes for p in members)
        least = max(total.flop / 24.5e12, total.port_bytes / 425e9)
        assert total.time_s is not None
        assert least <= total.time_s * (1 + 1e-12)
        assert total.attained_flop_per_s == pytest.approx(total.flop / total.time_s)
    plan = plan_with(roofline.model, roofline.machine, roofline.workload, roofline.costings[0])
    for phase in plan.phases:
        members = [p for p in roofline.operations if p.phase == phase.name]
        assert sum(p.layers * p.passes * p.flop for p in members) == phase.flop
        weights = sum(p.layers * p.passes * p.weight_read_bytes for p in members)
        assert weights == phase.weight_read_bytes
        moved = sum(p.layers * p.passes * p.port_bytes for p in members)
        port = next(use for use in phase.links if use.name == "hbm")
        assert moved == port.traffic_bytes


def test_an_unknown_compute_rate_leaves_the_links() -> None:
    roofline = built("bf16")
    assert roofline.ceilings[0].rate is None
    assert "no bf16 compute rate is known" in roofline.ceilings[0].note
    assert all(r.bound in (None, "link:hbm", "compute") for p in roofline.operations for r in p.reach[:1])
    assert point(roofline, "vision", "mlp.fc1").reach[0].bound == "link:hbm"


def test_operations_alike_are_shown_once_under_all_their_names() -> None:
    shown = [name for name, _ in alike(built("int8", phases=("vision",)).operations)]
    assert "self_attn.q_proj, k_proj, v_proj, out_proj" in shown


def test_bad_phases_are_refused() -> None:
    with pytest.raises(InputError, match="smolvla has vision, prefill, denoise"):
        built("int8", phases=("decode",))
    with pytest.raises(InputError, match="no pass of vision"):
        build_roofline(
            open_model("smolvlm2-256m"),
            load_machine("nexys-video"),
            Workload.of(),
            [costing("int8")],
            ("vision",),
        )


def test_json_and_ridge_points(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "roofline",
                "smolvla",
                "--on",
                "alveo-u280",
                "--formats",
                "int8,bf16",
                "--phase",
                "vision",
                "--json",
            ]
        )
    assert stopped.value.code == 0
    document = json.loads(capsys.readouterr().out)
    hbm, *others = document["links"]
    assert (hbm["name"], hbm["peak_bytes_per_s"], hbm["sustained_bytes_per_s"]) == ("hbm", 460e9, 425e9)
    assert {link["name"] for link in others} == {"ddr4-read", "pcie", "disk"}
    ridge = hbm["ridge_points"][0]
    assert ridge["peak_flop_per_byte"] == pytest.approx(24.5e12 / 460e9)
    assert ridge["sustained_flop_per_byte"] == pytest.approx(24.5e12 / 425e9)
    assert {op["format"] for op in document["operations"]} == {"int8", "bf16"}
    assert {op["phase"] for op in document["operations"]} == {"vision"}
    assert all(len(op["links"]) == 4 for op in document["operations"])
    assert document["compute"][1]["peak_flop_per_s"] is None


def test_every_compute_peak_of_the_machine_has_its_ridge_points(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["roofline", "llama-3.2-1b", "--on", "rtx-3090", "--weights", "bf16", "--json"])
    document = json.loads(capsys.readouterr().out)
    rates = {c["format"]: c["peak_flop_per_s"] for c in document["compute"]}
    assert set(rates) >= {"bf16", "fp16", "fp32"}
    vram = document["links"][0]
    ridges = {r["format"]: r["peak_flop_per_byte"] for r in vram["ridge_points"]}
    assert ridges == {name: rate / vram["peak_bytes_per_s"] for name, rate in rates.items()}


def test_the_table_names_what_binds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["roofline", "llama-3.2-1b", "--on", "rtx-3090", "--weights", "bf16"])
    out = capsys.readouterr().out
    assert "lm_head" in out
    assert "link:vram" in out
    assert "decode: text" in out


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_plots_are_written(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tierline.report.figures.draw import draw
    from tierline.report.figures.roofline import roofline_chart

    path = tmp_path / f"plot{suffix}"
    draw(roofline_chart(built("int8", "bf16", phases=("denoise",))), path)
    start = path.read_bytes()[:200]
    assert {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix] in start


def test_what_a_plot_shows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tierline.report.figures.draw import draw
    from tierline.report.figures.roofline import roofline_chart

    path = tmp_path / "plot.svg"
    draw(roofline_chart(built("int8", phases=("vision",))), path)
    text = path.read_text(encoding="utf-8")
    for words in (
        "hbm, 460 GB/s peak",
        "hbm, 425 GB/s sustained",
        "pcie, 12.92 GB/s sustained",
        "int8  24.5 TFLOP/s",
    ):
        assert words in text
    assert "modality_projection.proj" in text
    draw(roofline_chart(built("int8", phases=("vision",))), tmp_path / "again.svg")
    assert text == (tmp_path / "again.svg").read_text(encoding="utf-8")


def test_names_from_a_file_cannot_break_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tierline.report.figures.draw import draw
    from tierline.report.figures.roofline import roofline_chart

    roofline = built("int8", phases=("vision",))
    operations = tuple(replace(p, name=f"$\\frac{{{p.name}") for p in roofline.operations)
    hostile = replace(roofline, operations=operations, model=replace(roofline.model, name="$x^{\n<b>"))
    draw(roofline_chart(hostile), tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert "&lt;b&gt;" in text
    assert "<b>" not in text


def test_a_plot_of_another_kind_and_too_many_formats_are_refused(tmp_path: Path) -> None:
    for arguments in (
        ["--plot", str(tmp_path / "plot.bmp")],
        ["--formats", "int8,int4,fp32,bf16,fp8,mxfp8,mxfp4"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["roofline", "smolvla", "--on", "alveo-u280", *arguments])
        assert stopped.value.code == 2


def test_matplotlib_is_imported_for_a_plot_only() -> None:
    code = (
        "import sys; from tierline.cli.main import main\n"
        "try: main(['roofline', 'smolvla', '--on', 'alveo-u280', '--json'])\n"
        "except SystemExit: pass\n"
        "assert not {'matplotlib', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
