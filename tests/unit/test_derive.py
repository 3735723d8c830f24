"""Derivations: every printed product is what stands beside it, every sum is the plan's."""

import re
import runpy
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import pytest

from tierline.cli.main import main
from tierline.cost.activations import ACTIVATION_POLICIES
from tierline.cost.costing import Costing
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.catalogue import catalogue_names
from tierline.models.description import Layer, Model
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.build import plan_with
from tierline.plan.plan import Plan
from tierline.report.derivation import derive
from tierline.report.derivation_markdown import TIMES, derivation_markdown

WORK = Workload.of(batch=3, prompt_tokens=113, new=7, images=2, steps=5, source_tokens=11)
VLA = ("--weights", "int8", "--activations", "int8", "--kv", "int8", "--activation-policy", "layer-io")


def planned(name: str, machine: str = "alveo-u280", work: Workload = WORK, **options: Any) -> Plan:
    formats = {k: str(options.pop(k)) for k in ("weights", "kv", "activations") if k in options}
    costing = Costing(Precision.of(**formats), **options)
    return plan_with(open_model(name), load_machine(machine), work, costing)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("smolvla", {"weights": "int8", "activations": "int8", "kv": "int8", "activation_policy": "layer-io"}),
    ("smolvla", {"include": "layer-matrices", "activation_policy": "layer-io"}),
    ("smolvla", {"hoist_static": False, "activation_policy": "materialised"}),
    ("smolvlm2-256m", {"weights": "mxfp8:block=8", "kv": "mxfp8:block=8", "activations": "fp32"}),
    ("llama-3.1-8b", {"weights": "q4_k_m", "activation_policy": "materialised", "kv_block_tokens": 16}),
    ("llama-2-7b", {"weights": "int4:group=128", "activations": "int4", "activation_policy": "none"}),
]
CASES += [(name, {}) for name in catalogue_names()]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_terms_add_up_to_the_plan(name: str, options: dict[str, Any]) -> None:
    plan = planned(name, **options)
    derivation = derive(plan)
    assert {
        n: sum(t.total for t in terms) for n, terms in derivation.held
    } == plan.footprint.by_component_bytes
    assert sum(t.total for t in derivation.cache) == plan.footprint.kv_cache_bytes
    assert [phase.plan for phase in derivation.phases] == list(plan.phases)
    for phase in derivation.phases:
        assert phase.total("weights") == phase.plan.weight_read_bytes
        assert phase.total("kv") == phase.plan.kv_read_bytes + phase.plan.kv_write_bytes
        assert phase.total("activations") == phase.plan.activation_traffic_bytes
        assert phase.total("flop") == phase.plan.flop


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_every_printed_product_is_the_printed_result(name: str, options: dict[str, Any]) -> None:
    rows = list(products(derivation_markdown(derive(planned(name, **options)))))
    assert len(rows) > 3
    for numbers, result in rows:
        assert abs(evaluated(numbers) - result) < 1, numbers


def products(page: str) -> Iterator[tuple[str, int]]:
    """Yield the `with numbers` and the result of every row of the tables of formulas."""
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) in (4, 5) and TIMES in cells[2]:
            yield cells[2], int(cells[3].replace(",", ""))


def evaluated(numbers: str) -> Fraction:
    """Return the product that is printed: whole numbers, fractions, and the share of experts visited."""
    total = Fraction(1)
    for factor in numbers.replace(",", "").split(f" {TIMES} "):
        experts = re.fullmatch(r"\((\d+) \(1 - \(1 - (\d+)/(\d+)\)\^(\d+)\)\)", factor)
        if experts:
            held, visited, count, rows = map(int, experts.groups())
            total *= floor(held * (1 - (1 - Fraction(visited, count)) ** rows) + Fraction(1, 2))
        else:
            total *= Fraction(factor)
    return total


def test_the_three_totals_of_smolvla(capsys: pytest.CaptureFixture[str]) -> None:
    for extra, total in (
        ((), "1,287,600,256"),
        (("--no-hoist",), "1,302,345,856"),
        (("--include", "layer-matrices"), "1,243,561,984"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["derive", "smolvla", "--on", "alveo-u280", *VLA, *extra])
        assert stopped.value.code == 0
        assert f"| **{total}** |" in capsys.readouterr().out


def test_one_unit_system_and_known_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["derive", "smolvla", "--on", "alveo-u280", *VLA])
    page = capsys.readouterr().out
    assert not re.search(r"\b[KMGT]i?B/?s?\b", page.replace("GB/s", "").replace(" MB", ""))
    assert f"| 12 {TIMES} 4 {TIMES} 768 {TIMES} 768 {TIMES} 1 | 28,311,552 | 28.311552 |" in page
    assert f"| 8 {TIMES} 2 {TIMES} 320 {TIMES} 320 {TIMES} 1 | 1,638,400 | 1.6384 |" in page
    assert "| hbm | 118,738,176 B | 425 GB/s (sustained, measured) |" in page
    assert "Actions: " in page


@pytest.mark.parametrize("policy", ACTIVATION_POLICIES)
def test_every_policy_is_put_in_words(policy: str) -> None:
    assert f"(`{policy}`)" in derivation_markdown(derive(planned("smolvla", activation_policy=policy)))


def test_a_streamed_plan_shows_its_links_and_what_is_missing() -> None:
    plan = planned("llama-3.1-70b", "rtx-3090", weights="q8_0")
    page = derivation_markdown(derive(plan))
    assert "are missing." in page
    assert "| decode | pcie |" in page
    assert f"{plan.footprint.weights_bytes:,}" in page


def test_names_cannot_break_the_page() -> None:
    plan = planned("smolvlm2-256m")
    hostile = replace(plan, model=renamed(plan.model, "a|b`c<script>\n# d"))
    page = derivation_markdown(derive(hostile))
    assert page.startswith("# a\\|b\\`c\\<script\\>\\\\n\\# d on ")
    assert "<script" not in page.replace("\\<script", "")


def renamed(model: Model, name: str) -> Model:
    first, *others = model.components
    layers = tuple(Layer(f"{name}.{x.name}", x.index, x.block) for x in first.layers)
    return replace(model, name=name, components=(replace(first, layers=layers), *others))


def test_the_shipped_pages_and_plots_are_fresh(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    from tierline.report.figures.draw import draw
    from tierline.report.figures.roofline import roofline_chart

    docs = Path(__file__).parents[2] / "docs"
    generated = runpy.run_path(str(docs / "generate.py"))
    for path, text in generated["texts"]().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is stale: run docs/generate.py"
    for path, roofline in generated["rooflines"]().items():
        shipped = path.read_text(encoding="utf-8")
        assert "operational intensity" in shipped
        draw(roofline_chart(roofline), tmp_path / path.name)
        if f"Matplotlib v{matplotlib.__version__}" in shipped:  # another version draws other paths
            assert shipped == (tmp_path / path.name).read_text(encoding="utf-8"), f"{path} is stale"
