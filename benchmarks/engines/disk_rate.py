"""The disk's rate by O_DIRECT, alone and with compute running. Usage: disk_rate.py FILE SECONDS TARGET"""

import json
import sys
from functools import partial
from pathlib import Path

from tierline.calibrate.disk import Disk
from tierline.calibrate.memory import filled_arena
from tierline.models.packed_forms import INT8
from tierline.run.direct_io import DEFAULT_REQUEST_BYTES, DirectFile
from tierline.run.measure_compute import ComputeBench, EngineFormat
from tierline.run.staging import READERS
from tierline.units import MIB

_ARENA_BYTES = 256 * MIB
_ROWS, _COLUMNS = 4096, 2048
_FORMATS = {"bf16": "bf16", "int8": INT8}


def main() -> None:
    """Measure and write."""
    path, seconds, target = sys.argv[1:]
    bench = ComputeBench(filled_arena(_ARENA_BYTES), rows=_ROWS, columns=_COLUMNS)
    found = {}
    with DirectFile(Path(path)) as file:
        disk = Disk(file, largest_bytes=DEFAULT_REQUEST_BYTES, most_readers=READERS)
        try:
            rate = partial(disk.rate, DEFAULT_REQUEST_BYTES, READERS, float(seconds))
            rate()  # a throttled disk begins with a burst
            found["alone_bytes_per_s"] = rate()
            for name, stored in _FORMATS.items():
                product = bench.product(EngineFormat(stored, "bf16"), 1)
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
