"""Advice: every line's command gives the line's figures, and what pays together pays best of all pairs."""

import json
import shlex
from itertools import combinations
from typing import Any

import pytest
from typer.testing import CliRunner

from tierline.cli.main import _app
from tierline.errors import TierlineError
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.report.advise import advised_json
from tierline.search.advise import Advised, advise
from tierline.search.command import changed, simulated

MODEL, MACHINE = "smollm2-135m", "nexys-video"
GIVEN = {
    "model": (MODEL,),
    "on": (MACHINE,),
    "overrides": ("ddr3.capacity=200MiB",),
    "context": ("61",),
    "new": ("3",),
    "hoist": ("false",),
    "activation_policy": ("materialised",),
}


@pytest.fixture(scope="module")
def found() -> Advised:
    machine = load_machine(MACHINE, ["ddr3.capacity=200MiB"])
    return advise(GIVEN, open_model(MODEL), machine, accept=0.7)


def run(command: str) -> dict[str, Any]:
    words = shlex.split(command)[1:]
    done = CliRunner().invoke(_app(words[0]), [*words, "--json"], prog_name="tierline")
    assert done.exit_code == 0, done.output
    return json.loads(done.output)  # type: ignore[no-any-return]


def test_the_command_of_every_line_gives_its_figures(found: Advised) -> None:
    document = advised_json(found)
    lines = [document["now"], *document["advice"], *document["no_gain"], *document["combinations"]]
    assert len(lines) > 30
    for line in lines:
        figures = run(line["command"])
        assert figures["time_s"] == line["time_s"]
        assert figures["tokens_per_s_steady"] == line["tokens_per_s_steady"]
        assert line["gain"] == pytest.approx(document["now"]["sequence_s"] / line["sequence_s"])


def test_advice_is_ranked_by_what_it_gains_and_says_what_it_costs(found: Advised) -> None:
    gains = [advice.gain or 0 for advice in found.single]
    assert gains == sorted(gains, reverse=True)
    assert min(gains) > 1.005
    assert all((advice.gain or 0) <= 1.005 for advice in found.useless)
    kinds = {a.changes[0].kind for a in (*found.single, *found.useless)}
    wanted = {"weights", "kv", "activations", "placement", "depth", "batch", "speculation", "chunk", "hoist"}
    assert wanted | {"memory", "link usb2", "link ddr3", "keep mlp", "pieces"} <= kinds
    narrow = next(a for a in found.single if a.changes[0].what == "weights in mxfp4")
    assert (narrow.accuracy, narrow.buys) == ("lossy", False)
    memory = next(a for a in found.single if a.changes[0].kind == "memory")
    assert (memory.accuracy, memory.buys) == ("lossless", True)


def test_what_pays_together_pays_best_of_all_that_was_tried_and_of_all_pairs(found: Advised) -> None:
    lossless, anything = found.combinations
    assert lossless.accuracy == "lossless"
    assert not lossless.buys
    assert not anything.buys
    best: dict[str, float] = {}
    for advice in (*found.single, *found.useless):
        change = advice.changes[0]
        if not change.buys and change.accuracy == "lossless":
            best.setdefault(change.kind, advice.sequence_s)
    assert lossless.sequence_s <= min(best.values())
    changes = [
        a.changes[0] for a in found.single if a.accuracy == "lossless" and not a.buys and (a.gain or 0) > 1.1
    ]
    for one, other in combinations(changes, 2):
        if one.kind == other.kind:
            continue
        try:
            result = simulated(changed(changed(GIVEN, one.options), other.options))
        except TierlineError:
            continue
        assert lossless.sequence_s <= result.time_s / result.plan.workload.batch * 1.005


def test_what_cannot_run_is_told_and_what_makes_it_run_has_no_gain() -> None:
    setting = ("ddr3.capacity=1MiB", "host.capacity=1MiB", "nvme.capacity=1MiB")
    given = {"model": (MODEL,), "on": (MACHINE,), "overrides": setting, "context": ("16",), "new": ("2",)}
    advised = advise(given, open_model(MODEL), load_machine(MACHINE, list(setting)), accept=0.7)
    assert advised.now is None
    assert advised.reason
    assert all(advice.gain is None for advice in advised.single)


def test_options_of_a_key_replace_that_key_only() -> None:
    given = {"overrides": ("a.capacity=1GiB", "b.capacity=2GiB"), "batch": ("1",)}
    assert changed(given, {"weights": ("int4:group=64",)}) == {**given, "weights": ("int4:group=64",)}
    assert changed({"weights": ("a:b=1",)}, {"weights": ("c:d=2",)}) == {"weights": ("c:d=2",)}
    assert changed(given, {"overrides": ("b.capacity=4GiB",), "batch": ("2",)}) == {
        "overrides": ("a.capacity=1GiB", "b.capacity=4GiB"),
        "batch": ("2",),
    }
