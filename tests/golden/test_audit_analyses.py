"""The five shipped analyses: every verdict and value against arithmetic done apart from Tierline."""

import json
import tomllib
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tierline.audit.claims import read_claims
from tierline.audit.expression import read_expression
from tierline.audit.figure import unit
from tierline.audit.options import Options
from tierline.audit.verdict import Finding, judge
from tierline.cli.main import main

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
EXPECTED: dict[str, list[str]] = tomllib.loads((DATA / "audit_expected.toml").read_text(encoding="utf-8"))
REFERENCES: list[dict[str, Any]] = tomllib.loads(
    (DATA / "audit_references.toml").read_text(encoding="utf-8")
)["reference"]


@pytest.fixture(scope="module")
def found() -> dict[str, Finding]:
    files = read_claims(ROOT / "audits")
    return {claim.id: judge(claim) for file in files for claim in file.claims}


def test_every_claim_is_there_and_none_besides(found: dict[str, Finding]) -> None:
    assert set(found) == set(EXPECTED)
    assert len(found) == 160


@pytest.mark.parametrize("name", EXPECTED)
def test_a_claim(name: str, found: dict[str, Finding]) -> None:
    verdict, exact, base = EXPECTED[name]
    finding = found[name]
    assert finding.verdict == verdict, finding.diagnosis
    assert finding.claim.unit.base == base
    assert finding.derived is not None
    assert finding.derived / unit(base).size == Fraction(exact)


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: r["id"])
def test_a_reference(reference: dict[str, Any]) -> None:
    figure = read_expression(reference["derive"], reference["id"]).evaluate(Options({}), {})
    assert figure.dimension == unit(reference["unit"]).dimension
    assert figure.value / unit(reference["unit"]).size == Fraction(reference["exact"])


def test_there_are_sixty_references() -> None:
    assert len({r["id"] for r in REFERENCES}) == 60


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("000-usb-sec", "every weight instead of those that the pass reads"),
        ("003-oi-connector-bf16", "one row instead of all"),
        ("002-70b-gen4", "PCI Express gen 3"),
        ("003-p-vis", "only the layers that repeat"),
        ("001-p-act", "without norms and biases"),
        ("001-ca-static", "MiB"),
    ],
)
def test_what_the_registry_of_neighbours_names(name: str, words: str, found: dict[str, Finding]) -> None:
    assert words in found[name].diagnosis


def test_every_wrong_figure_but_four_is_reproduced(found: dict[str, Finding]) -> None:
    wrong = [f for f in found.values() if f.verdict == "wrong"]
    unexplained = {f.claim.id for f in wrong if not any(w in f.diagnosis for w in (";", "it is the figure"))}
    assert unexplained == {"001-norm-pct", "001-vlm-266", "002-5x", "002-upstream48"}


def test_the_command_prints_all_verdicts_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["audit", str(ROOT / "audits"), "--json"])
    assert stopped.value.code == 0
    document = json.loads(capsys.readouterr().out)
    keys = {"id", "quantity", "published", "published_unit", "derived", "derived_unit", "factor", "verdict"}
    assert all(keys | {"diagnosis"} <= set(claim) for claim in document["claims"])
    counted = Counter(claim["verdict"] for claim in document["claims"])
    assert counted == {"holds": 61, "holds_if": 31, "unit_mix": 22, "wrong": 41, "not_derivable": 5}
    assert document["verdicts"] == counted


def test_a_table_is_printed_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["audit", str(ROOT / "audits" / "smolvla-traffic.toml")])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    counts = Counter(v for name, (v, *_) in EXPECTED.items() if name.startswith("001-"))
    total = ", ".join(f"{counts[v]} {v}" for v in ("holds", "holds_if", "unit_mix", "wrong"))
    assert lines[-1] == f"{sum(counts.values())} claims: {total}"
    assert any(line.startswith("001-ctx") and "wrong" in line for line in lines)
