"""What is known of a model before it is run: bytes and counts. Usage: known.py MODEL TOKENS TARGET

Loaded with next to nothing pinned, never run: nothing of it is timed.
"""

import json
import sys
from math import prod
from pathlib import Path

from tierline.run.request import Request
from tierline.run.session import Session
from tierline.run.source import open_source
from tierline.units import MIB

_RESIDENT_BYTES = 128 * MIB
_PROMPT = "t3 t4 t5 t6"


def main() -> None:
    """Load, count, write."""
    model, tokens, target = sys.argv[1:]
    # With a budget of the process, as in a cell: the allocator is then bounded.
    session = Session(open_source(Path(model)), resident=_RESIDENT_BYTES, memory=2**40)
    with session:
        prepared = session.prepare(Request(_PROMPT, new=int(tokens), raw=True), lambda *_: None)
        weights = session.engine.weights
        assert weights is not None  # noqa: S101 - it is loaded
        plan = weights.plan
        matrices = {tile.tensor for tile in plan.tiles}
        held = plan.placement.pinned_bytes + plan.placement.staging_bytes
        found = {
            "matrix_bytes": sum(tile.footprint_bytes for tile in plan.tiles),
            "row_bytes": plan.row_read_bytes,
            "besides_bytes": prepared.prediction.peak_bytes - held,
            "flop": 2 * sum(prod(tensor.shape) for tensor in matrices),
            "calls": len(matrices),
        }
    Path(target).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
