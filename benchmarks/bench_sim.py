"""How many layer steps a second the simulator takes on one core: `python benchmarks/bench_sim.py`.

One step is one layer's turn: its fetch over the link, its wait, its work. A decode pass begins with a row
of the embedding, needed at once, and ends with a norm too small for a slot. Run on a quiet machine.
"""

import json
import os
import platform
import time
from collections.abc import Callable

from tierline.sim.kernel import LinkSpec
from tierline.sim.pipeline import Fetch, Pass, Pipeline, run, run_events

_LAYERS, _PASSES, _ROUNDS = 80, 5000, 5


def main() -> None:
    """Print steps per second of both engines, the best of several rounds, as JSON."""
    link = LinkSpec("link", 6.5e9, 1e-6)
    streamed = [Fetch(f"layer {i}", 700_000_000, ("link",)) if i % 3 else None for i in range(_LAYERS)]
    one = Pass([f"layer {i}" for i in range(_LAYERS)], streamed, [0.011] * _LAYERS)
    pipeline = Pipeline({"link": link}, 2)
    row = Fetch("row", 8192, ("link",), on_demand=True)
    norm = Fetch("norm", 16384, ("link",), slot=False)
    decode = Pass(["row", *one.names[2:], "norm"], [row, *streamed[2:], norm], one.work)
    chain = Pipeline({"link": link, "disk": LinkSpec("disk", 5e9)}, 3)
    through = [None if f is None else Fetch(f.name, f.traffic_bytes, ("disk", "link")) for f in streamed]
    both = Pass(one.names, through, one.work)
    speeds = {
        "one_fifo_link_steps_per_s": _speed(lambda n: run(pipeline, [one] * n), _PASSES),
        "streamed_decode_steps_per_s": _speed(lambda n: run(pipeline, [decode] * n), _PASSES),
        "one_fifo_link_by_events_steps_per_s": _speed(
            lambda n: run_events(pipeline, [one] * n), _PASSES // 10
        ),
        "two_links_by_events_steps_per_s": _speed(lambda n: run(chain, [both] * n), _PASSES // 10),
    }
    where = {"python": platform.python_version(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps({**speeds, **where}, indent=2))


def _speed(simulate: Callable[[int], object], passes: int) -> int:
    best = float("inf")
    for _ in range(_ROUNDS):
        started_s = time.perf_counter()
        simulate(passes)
        best = min(best, time.perf_counter() - started_s)
    return round(_LAYERS * passes / best)


if __name__ == "__main__":
    main()
