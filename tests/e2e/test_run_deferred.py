"""torch.compile's machinery stays out of the command line's process until something uses it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_USES = """
import sys
from tierline.run.lean import without_compile

with without_compile(lean={lean}):
    import torch
    from transformers import masking_utils

    sympy_first = "sympy" in sys.modules
    by_now = "torch._dynamo.eval_frame" in sys.modules
    assert torch.distributed.is_available()
    {use}
print(sympy_first, by_now, "torch._dynamo.eval_frame" in sys.modules)
"""
_MASK = """
    every = lambda batch, head, query, key: query >= key
    made = masking_utils.sdpa_mask(batch_size=1, q_length=3, kv_length=3, mask_function=every,
                                   allow_is_causal_skip=False, use_vmap=True)
    assert made[0, 0].equal(torch.ones(3, 3, dtype=torch.bool).tril())
"""
_ATTRIBUTE = """
    from torch._dynamo import config, disable

    assert disable is torch._dynamo.disable
    assert config is sys.modules["torch._dynamo.config"]
    assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2.0, 2.0]
"""
_COMPILE = """
    import torch._dynamo.config

    assert sys.modules["torch._dynamo.eval_frame"].config is torch._dynamo.config  # loaded once
    assert torch._dynamo.config.__dict__["__spec__"].origin.endswith("config.py")
    assert type(torch._dynamo).__name__ == "module"
    assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2.0, 2.0]
"""


def _run(use: str, *, lean: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `use` in the block, in a process of its own."""
    code = _USES.format(lean=lean, use=use)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_mask_that_needs_the_machinery_gets_it_unless_it_is_to_stay_away() -> None:
    done = _run(_MASK)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "False", "True"]


@pytest.mark.slow
@pytest.mark.parametrize("use", [_COMPILE, _ATTRIBUTE])
def test_what_asks_for_a_part_of_the_machinery_gets_all_of_it(use: str) -> None:
    done = _run(use)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "False", "True"]


@pytest.mark.slow
def test_lean_refuses_such_a_mask() -> None:
    refused = _run(_MASK, lean=True)
    assert refused.returncode == 1
    assert "needs parts of torch.compile, which --lean leaves out" in refused.stderr


@pytest.mark.slow
def test_a_run_imports_none_of_it(tiny_llama: Path) -> None:
    code = (
        "import sys; from tierline.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as ended: assert not ended.code\n"
        "sys.stderr.write(str([n for n in sys.modules if n.startswith('torch._dynamo.')]))"
    )
    words = ["run", str(tiny_llama), "t3 t141 t59", "--raw", "--new", "4", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("[]")
    assert len(json.loads(done.stdout)["token_ids"]) == 4
