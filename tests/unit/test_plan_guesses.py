"""What guessing tokens costs a plan, against the plans themselves."""

import json
import subprocess
import sys
from fractions import Fraction
from math import floor

import pytest

import tierline
from tierline.errors import InputError
from tierline.plan.guesses import free_rows, weigh_guesses
from tierline.plan.plan import Plan


def planned(model: str = "llama-3.1-70b", machine: str = "rtx-3090", batch: int = 1) -> Plan:
    return tierline.plan(model, machine, context=1031, batch=batch)


def decode_links_s(plan: Plan) -> float:
    phase = next(p for p in plan.phases if p.name == "decode")
    return max(link.time_s or 0.0 for link in phase.links) / phase.passes


def test_free_rows_are_those_that_compute_takes_in_the_time_of_the_links() -> None:
    plan = planned("llama-3.1-8b")
    phase = next(p for p in plan.phases if p.name == "decode")
    assert phase.compute_s is not None
    link_s = Fraction(decode_links_s(plan)) * phase.passes
    assert free_rows(plan) == floor(link_s / Fraction(phase.compute_s)) - 1
    rows = free_rows(plan)
    assert rows is not None
    assert (rows + 1) * phase.compute_s <= link_s < (rows + 2) * phase.compute_s


def test_a_draft_takes_its_room_from_what_is_pinned() -> None:
    plan, draft = planned(), planned("llama-3.2-1b")
    guesses = weigh_guesses(plan, 4, draft)
    assert guesses.draft_bytes == draft.footprint.total_bytes
    assert guesses.plain_pass_s == pytest.approx(decode_links_s(plan))
    assert guesses.pass_s is not None
    assert guesses.plain_pass_s is not None
    disk = next(u for p in plan.phases if p.name == "decode" for u in p.links if u.name == "disk")
    assert disk.time_s is not None
    byte_s = disk.time_s / disk.traffic_bytes
    later_s = draft.footprint.total_bytes * byte_s
    unit_s = plan.residency.placement.staging_bytes * byte_s  # pinned in whole units
    assert guesses.pass_s - guesses.plain_pass_s == pytest.approx(later_s, abs=unit_s)
    one = decode_links_s(draft)
    assert guesses.draft_s == pytest.approx(4 * one)
    expected = (guesses.pass_s + 4 * one) / guesses.plain_pass_s
    assert guesses.break_even_tokens_per_pass == pytest.approx(expected)
    assert guesses.pays


def test_guesses_from_the_text_take_no_room_and_pay_at_once_where_rows_are_free() -> None:
    guesses = weigh_guesses(planned(), 4)
    assert (guesses.draft_bytes, guesses.draft_s) == (0, 0.0)
    assert guesses.break_even_tokens_per_pass == 1.0


def test_what_cannot_guess_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit"):
        weigh_guesses(planned(), 4, planned("llama-3.1-70b"))
    with pytest.raises(InputError, match="one sequence at a time"):
        weigh_guesses(planned(batch=2), 4)


def test_the_command_says_it() -> None:
    program = [sys.executable, "-m", "tierline", "plan", "llama-3.1-8b", "--on", "rtx-3090", "--json"]
    done = subprocess.run(
        [*program, "--speculate", "4", "--draft", "llama-3.2-1b"], capture_output=True, text=True, check=True
    )
    document = json.loads(done.stdout)
    assert document["free_rows"] > 0
    assert document["guesses"]["break_even_tokens_per_pass"] > 1
    refused = subprocess.run(
        [*program, "--draft", "llama-3.2-1b"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "--speculate" in refused.stderr
