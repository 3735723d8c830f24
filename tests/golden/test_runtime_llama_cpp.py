"""The footprint under the profile `llama.cpp` against the buffers that a real load logs."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tierline.cost.costing import Costing
from tierline.formats.precision import Precision
from tierline.machines.load import load_machine
from tierline.models.open import open_model
from tierline.models.workload import Workload
from tierline.plan.build import plan_with
from tierline.plan.runtime import load_runtime

LOGGED = re.compile(r"(model|output|KV|compute) buffer size = +([0-9.]+) MiB")


def logged_bytes(path: Path, context: int) -> dict[str, float]:
    """Return the last figure of each buffer: a load first tries out what fits, with buffers of 0."""
    script = Path(__file__).with_name("load_llama_cpp.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path), str(context)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return {name: float(size) * 2**20 for name, size in LOGGED.findall(done.stdout + done.stderr)}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs xllamacpp on the path")
@pytest.mark.parametrize("context", [1000, 2048, 4096])
def test_a_load_of_smollm2_takes_what_was_planned(smollm2_gguf: Path, context: int) -> None:
    logged = logged_bytes(smollm2_gguf, context)
    assert set(logged) == {"model", "output", "KV", "compute"}
    costing = load_runtime("llama.cpp").costing(Costing(Precision.of(kv="fp16")))
    work = Workload.of(context=context)
    plan = plan_with(open_model(str(smollm2_gguf)), load_machine("desktop-ddr5"), work, costing)
    footprint = plan.footprint
    assert footprint.total_bytes - footprint.runtime_bytes == pytest.approx(sum(logged.values()), rel=0.05)
    assert footprint.kv_cache_bytes == pytest.approx(logged["KV"], rel=1e-4)
    assert footprint.weights_bytes == pytest.approx(logged["model"], rel=0.001)
