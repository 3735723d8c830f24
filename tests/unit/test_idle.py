"""Idle threads of torch sleep soon, unless the user chose how they wait or torch is there already."""

import subprocess
import sys
from collections.abc import Mapping

import pytest

_SHOWN = "import os, {first}; import tierline.run.idle; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    ("environment", "first", "expected"),
    [
        ({}, "sys", "30000"),
        ({"GOMP_SPINCOUNT": "17"}, "sys", "17"),
        ({"OMP_WAIT_POLICY": "active"}, "sys", "None"),
        ({}, "sys; sys.modules['torch'] = sys", "None"),
    ],
)
def test_threads_sleep_soon(environment: Mapping[str, str], first: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SHOWN.format(first=first)],
        env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == expected
