"""What `import tierline` offers: light to import, and the same answers as the command line."""

import subprocess
import sys

import pytest

import tierline
from tierline.errors import InputError
from tierline.plan.build import plan_with
from tierline.scenario import scenario


def test_a_plan_and_its_simulation_in_a_few_lines() -> None:
    plan = tierline.plan(
        tierline.model("smolvlm2-256m"),
        tierline.machine("nexys-video"),
        weights="mxfp8:block=8",
        kv="mxfp8:block=8",
        context=1024,
    )
    assert plan.fits
    assert plan.workload.images == 1  # it sees: one image if nothing is said
    decode = plan.phase("decode")
    assert decode is not None
    assert decode.weight_read_bytes_per_pass == 151_412_976
    result = tierline.simulate(plan, strategy="host-stream", phases=("decode",))
    assert result.strategy == "host-stream"
    assert result.links[1].traffic_bytes == 128 * 151_412_976


def test_names_do_instead_of_opened_models_and_machines() -> None:
    plan = tierline.plan(
        "smollm2-135m", "h100-sxm", weights="int8", keep={"norms": "bf16"}, new=7, context=31
    )
    assert (plan.model.name, plan.machine.name) == ("smollm2-135m", "h100-sxm")
    assert (plan.workload.prompt_tokens, plan.workload.new) == (24, 7)
    without = tierline.plan("smollm2-135m", "h100-sxm", weights="int8", new=7, context=31)
    assert plan.footprint.weights_bytes > without.footprint.weights_bytes


def test_it_is_the_plan_of_the_command_line() -> None:
    asked = scenario("smolvla", "nexys-video", weights="int8", context=113)
    expected = plan_with(asked.model, asked.machine, asked.workload, asked.costing)
    found = tierline.plan("smolvla", "nexys-video", weights="int8", context=113)
    assert (found.workload, found.phases, found.footprint) == (
        expected.workload,
        expected.phases,
        expected.footprint,
    )


def test_a_machines_numbers_can_be_replaced() -> None:
    machine = tierline.machine("rtx-3090", {"host.capacity": "48GiB", "pcie.gen": 3, "pcie.lanes": 8})
    assert machine.tier("host").capacity_bytes.value == 48 * 2**30
    assert machine.link("pcie").rate.value < tierline.machine("rtx-3090").link("pcie").rate.value


def test_what_is_unknown_is_an_input_error() -> None:
    plan = tierline.plan("smollm2-135m", "nexys-video")
    with pytest.raises(InputError, match="no option 'polcy'"):
        tierline.simulate(plan, polcy="fifo")
    with pytest.raises(InputError, match="no-such-model"):
        tierline.model("no-such-model")
    with pytest.raises(InputError, match="no-such-machine"):
        tierline.machine("no-such-machine")


def test_the_function_keeps_its_name_whatever_is_imported_first_and_nothing_heavy_is() -> None:
    code = (
        "import tierline.plan.build, sys\n"
        "from tierline.plan.plan import Plan\n"
        "import tierline\n"
        "heavy = {'torch', 'transformers', 'numpy', 'matplotlib', 'typer'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert isinstance(tierline.plan('smollm2-135m', 'nexys-video'), Plan)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
