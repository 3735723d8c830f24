"""One tensor-parallel layer on two real processes: the right answer, and exactly the bytes planned."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tierline.cost.collectives import ring_all_reduce

HEADER_BYTES = (
    48  # what gloo puts before each message: six 64-bit numbers (operation, slot, offsets, lengths)
)


@pytest.mark.slow
def test_torch_distributed_sends_what_the_formula_says() -> None:
    script = Path(__file__).with_name("gloo_layer.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    if "skip" in found:
        pytest.skip(f"no network namespace of its own: {found['skip']}")

    # the layer that was cut by the planner's rule computes what the whole layer computes
    assert all(rank["difference"] < 1e-5 for rank in found["ranks"])
    assert [list(s) for s in found["ranks"][0]["shapes"].values()][:2] == [[224, 448], [32, 448]]

    # two sums of 211 x 448 floats, each a ring over two devices
    assert found["sums"] == [211 * 448] * 2
    planned = [ring_all_reduce(elements, 2, element_bytes=4) for elements in found["sums"]]
    received = [rank["received"] for rank in found["ranks"]]
    framing = [count - sum(c.sent_bytes for c in planned) for count in received]
    assert framing[0] == framing[1]
    assert 0 < framing[0] < 0.002 * received[0]
    assert framing[0] % HEADER_BYTES == 0
    assert sum(received) == sum(c.total_bytes for c in planned) + 2 * framing[0]
    # the loopback carried that and the headers of its segments (Ethernet 14, IP 20, TCP 32), and little else
    # but what TCP may have sent again
    carried = found["loopback"]["bytes"]
    assert sum(received) < carried < 1.1 * sum(received)
