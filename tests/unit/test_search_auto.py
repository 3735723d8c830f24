"""`--auto` is never worse than any fixed policy, keeps what is given, and its command does the same."""

import json
import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from tierline.cli.main import _app
from tierline.errors import TierlineError
from tierline.search.auto import Chosen, choose
from tierline.search.command import changed, simulated
from tierline.sim.options import PINNING, POLICIES

Options = dict[str, tuple[str, ...]]


def fixed(**options: str) -> Options:
    return {name: (text,) for name, text in options.items()}


FIXED = [
    fixed(),
    fixed(strategy="resident"),
    *(fixed(strategy="host-stream", prefetch_depth=depth) for depth in ("1", "2", "4")),
    *(fixed(strategy="layer-swap", policy=policy) for policy in POLICIES),
    *(
        fixed(strategy=strategy, policy=policy, prefetch_depth=depth)
        for strategy in ("tiered", "kv-offload")
        for policy in PINNING
        for depth in ("1", "2", "3")
    ),
    *(fixed(strategy="tiered", prefill_chunk=rows) for rows in ("16", "64")),
    fixed(strategy="tiered", granularity="tile", tile="4MiB"),
]
SETTINGS: list[Options] = [
    {"model": ("smollm2-135m",), "on": ("nexys-video",), "overrides": ("ddr3.capacity=160MiB",)},
    {"model": ("smollm2-135m",), "on": ("artix7-pcie",), "overrides": ("ddr3.capacity=40MiB",)},
    {"model": ("smolvla",), "on": ("kria-kv260",), "overrides": ("ddr4.capacity=500MiB",), "steps": ("3",)},
    {"model": ("smollm2-135m",), "on": ("apple-m2-max",), "batch": ("3",)},
]


def run(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(_app(words[0]), [*words, "--json"], prog_name="tierline")
    assert done.exit_code == 0, done.output
    return json.loads(done.output)  # type: ignore[no-any-return]


def named(options: Options) -> str:
    return f"{options['model'][0]} on {options['on'][0]}"


@pytest.mark.parametrize(
    "given",
    [
        SETTINGS[0],
        *(pytest.param(given, marks=pytest.mark.slow) for given in SETTINGS[1:3]),
        SETTINGS[3],
    ],
    ids=named,
)
def test_it_is_never_worse_than_a_fixed_policy(given: Options) -> None:
    given = {**given, "context": ("97",), "new": ("5",)}
    chosen = choose(given)
    best = chosen.result.time_s / chosen.batch
    ran = 0
    for policy in FIXED:
        try:
            result = simulated(changed(given, policy))
        except TierlineError:
            continue
        ran += 1
        assert best <= result.time_s / result.plan.workload.batch * (1 + 1e-9), policy
    assert ran > 5
    assert "batch" not in chosen.options or "batch" not in given


def test_the_command_that_it_gives_does_the_same_without_a_search() -> None:
    words = ["simulate", "smollm2-135m", "--on", "nexys-video", "--set", "ddr3.capacity=160MiB"]
    found = run(*words, "--new", "4", "--context", "64", "--auto")
    again = run(*shlex.split(found["auto"]["command"])[1:])
    assert again["time_s"] == found["time_s"]
    assert again["workload"]["batch"] == int(found["auto"]["options"].get("batch", 1))
    assert found["auto"]["simulated"] > 20


@pytest.mark.slow
def test_what_is_given_is_kept_even_where_it_is_the_default() -> None:
    words = ["smollm2-135m", "--on", "nexys-video", "--new", "4", "--context", "64"]
    free = run("simulate", *words, "--auto")
    kept = run("simulate", *words, "--batch", "1", "--prefetch-depth", "3", "--auto")
    assert free["workload"]["batch"] > 1
    assert kept["workload"]["batch"] == 1
    assert not {"batch", "prefetch_depth"} & set(kept["auto"]["options"])


def test_a_plan_takes_what_was_chosen() -> None:
    words = ["smollm2-135m", "--on", "nexys-video", "--new", "4", "--context", "64"]
    planned = run("plan", *words, "--auto")
    options = planned["auto"]["options"]
    assert planned["workload"]["batch"] == int(options["batch"]) > 1
    chunk = options.get("prefill_chunk")
    assert planned["precision"]["prefill_chunk"] == (int(chunk) if chunk else None)
    refused = CliRunner().invoke(_app("plan"), ["plan", *words[:-4], "--auto", "--training", "adamw"])
    assert refused.exit_code != 0


def test_where_nothing_runs_it_says_why() -> None:
    room = ("ddr3.capacity=1MiB", "host.capacity=1MiB", "nvme.capacity=1MiB")
    with pytest.raises(TierlineError, match="nexys-video"):
        choose({"model": ("smollm2-135m",), "on": ("nexys-video",), "overrides": room, "new": ("2",)})


def test_ties_go_to_what_needs_no_option() -> None:
    found: Chosen = choose({"model": ("smollm2-135m",), "on": ("h100-sxm",), "batch": ("1",), "new": ("2",)})
    assert found.options == {}
