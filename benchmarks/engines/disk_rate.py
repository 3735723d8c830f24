"""The disk's rate by O_DIRECT, alone and with compute running in a format.

Usage: disk_rate.py FILE FORMAT SECONDS TARGET
"""

import json
import sys
from functools import partial
from pathlib import Path

from tierline.calibrate.disk import Disk
from tierline.calibrate.memory import filled_arena
from tierline.models.packed_forms import INT4, INT8
from tierline.run.direct_io import DEFAULT_REQUEST_BYTES, DirectFile
from tierline.run.measure_compute import ComputeBench, EngineFormat
from tierline.run.staging import READERS
from tierline.units import MIB

_ARENA_BYTES = 256 * MIB
_ROWS, _COLUMNS = 4096, 2048
# By the formats of files: what most of their weights are stored in, and what is computed in.
_FORMATS = {
    "bf16": EngineFormat("bf16", "bf16"),
    "int8": EngineFormat(INT8, "bf16"),
    "int4": EngineFormat(INT4, "bf16"),
    "q4_k_m": EngineFormat("q4_k", "fp32"),
}


def main() -> None:
    """Measure and write."""
    path, name, seconds, target = sys.argv[1:]
    bench = ComputeBench(filled_arena(_ARENA_BYTES), rows=_ROWS, columns=_COLUMNS)
    found = {}
    with DirectFile(Path(path)) as file:
        disk = Disk(file, largest_bytes=DEFAULT_REQUEST_BYTES, most_readers=READERS)
        try:
            rate = partial(disk.rate, DEFAULT_REQUEST_BYTES, READERS, float(seconds))
            rate()  # a throttled disk begins with a burst
            found["alone_bytes_per_s"] = rate()
            product = bench.product(_FORMATS[name], 1)
            found[f"beside_{name}_bytes_per_s"] = rate(meanwhile=partial(product, 0.0))
            found[f"{name}_flop_per_s"] = product(1.0)
            with disk.reading(DEFAULT_REQUEST_BYTES, READERS):
                found[f"{name}_beside_reads_flop_per_s"] = product(1.0)
            found["call_s"] = bench.calls()(0.5)
        finally:
            disk.close()
    Path(target).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
