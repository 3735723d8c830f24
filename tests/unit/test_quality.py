"""What formats do to answers: every figure measured, of a model that is named, or no figure at all."""

import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tierline.cli.main import main
from tierline.formats.parse import parse_weights
from tierline.formats.quality import measured_qualities, quality_of
from tierline.machines.sources import references

ROOT = Path(__file__).parents[2]


def test_every_figure_is_measured_and_has_a_source() -> None:
    found = measured_qualities()
    assert len(found) > 10
    for name, quality in found.items():
        assert parse_weights(name).name == name
        for number in (quality.perplexity, quality.reference, quality.error_fraction):
            assert number.kind == "measured"
            assert number.source in references()
        assert quality.perplexity.value > 1
        assert 0 < quality.error_fraction.value < 0.2
        assert quality.model


def test_more_bits_are_no_worse_than_the_error_explains() -> None:
    def change(name: str) -> tuple[float, float]:
        quality = measured_qualities()[name]
        return quality.change_fraction, 3 * quality.error_fraction.value

    order = ["int8:channel", "int4:group=32", "int4:group=128", "int4:channel"]
    for better, worse in pairwise(order):
        assert change(better)[0] <= change(worse)[0] + change(better)[1] + change(worse)[1]
    assert abs(change("int8:channel")[0]) < 0.02


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, Any]]:
    texts = []
    for more in ((), ("--json",)):
        with pytest.raises(SystemExit):
            main(["plan", "smollm2-360m", "--on", "nexys-video", *arguments, *more])
        texts.append(capsys.readouterr().out)
    return texts[0], json.loads(texts[1])


def test_a_plan_shows_it_beside_the_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    text, document = planned(capsys, "--weights", "mxfp4")
    wanted = quality_of("mxfp4")
    assert wanted is not None
    assert f"perplexity {wanted.change_fraction:+.1%}" in text
    assert wanted.model in text  # which is not the model that is planned
    assert document["quality"]["change_fraction"] == wanted.change_fraction
    assert document["quality"]["model"] == wanted.model


@pytest.mark.parametrize("weights", ["q4_k_m", "int2:group=64", "stored"])
def test_what_was_not_measured_has_no_figure(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, document = planned(capsys, *(() if weights == "stored" else ("--weights", weights)))
    assert document["quality"] is None
    assert "perplexity" not in text


def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_quality", ROOT / "benchmarks" / "bench_quality.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_figures_are_those_of_the_command(smollm2_gguf: Path) -> None:
    assert smollm2_gguf.exists()
    module = bench()
    rows = list(module.measured(module.open_bench(), ("mxfp8",)))
    wanted = quality_of("mxfp8")
    assert wanted is not None
    assert rows[0][1] == pytest.approx(wanted.reference.value, rel=1e-3)
    assert rows[1][1] == pytest.approx(wanted.perplexity.value, rel=1e-3)
