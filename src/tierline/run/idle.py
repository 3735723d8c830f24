"""How torch's threads wait between operations: not by spinning, while reads need the processor.

torch for Linux brings GNU OpenMP, whose idle threads spin some 300,000 times before they sleep: for
some 15 ms, on a core that a reader or another program could use. What is set here leaves enough spinning to
go from one operation to the next at once. It is read when torch is imported, and what the user set stays.
"""

import os
import sys

_SPINS = "GOMP_SPINCOUNT"  # libgomp's manual, environment variables
_USERS = (_SPINS, "OMP_WAIT_POLICY")
_FEW = "30000"  # of a pause each: about 1 ms


def wait_idly() -> None:
    """Have idle threads of torch sleep soon; does nothing where torch is imported or the user chose."""
    if "torch" not in sys.modules and not any(name in os.environ for name in _USERS):
        os.environ[_SPINS] = _FEW
