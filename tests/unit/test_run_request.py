"""What is asked of a running model is checked before anything heavy is imported."""

import pytest

from tierline.errors import InputError
from tierline.run.request import Request


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match=f"--seed {seed}: want"):
        Request("hi", seed=seed)


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63), -1, 0])
def test_every_other_seed_is_taken_by_torch(seed: int) -> None:
    torch = pytest.importorskip("torch")
    torch.Generator().manual_seed(Request("hi", seed=seed).seed)
