"""Tierline itself. Usage: tierline_engine.py MODEL TOKENS TARGET MEMORY_BYTES

What the plan and the simulation say is written to TARGET.plan before the first token. Where the budget is too
small, TARGET holds the message as `refused`.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from steps import Steps

from tierline.compare.compare import Comparison
from tierline.compare.forecast import forecast
from tierline.errors import BudgetError
from tierline.report.compare import compare_json
from tierline.run.request import Request
from tierline.run.session import Session
from tierline.run.source import open_source

_PROMPT = "t3 t4 t5 t6"


def main() -> None:
    """Load, predict, write that down, run, write that down."""
    model, tokens, target, memory_bytes = sys.argv[1:]
    request = Request(_PROMPT, new=int(tokens), raw=True)
    steps = Steps()
    noted = 0

    def arrived(_: str) -> None:
        # Text comes when the next token shows where a word ends, and that of the last token at once after it.
        nonlocal noted
        noted += 1
        if noted < request.new:
            steps.note()

    with Session(open_source(Path(model)), resident=None, memory=int(memory_bytes)) as session:
        try:
            prepared = session.prepare(request, lambda *_: None)
        except BudgetError as error:
            Path(target).write_text(json.dumps({"refused": str(error)}), encoding="utf-8")
            return
        foretold = forecast(session, prepared)
        figures = {"planned": asdict(foretold.planned), "simulated": asdict(foretold.simulated)}
        Path(f"{target}.plan").write_text(json.dumps(figures), encoding="utf-8")
        steps.begin()
        report = session.execute(prepared, arrived)
        weights = session.engine.weights
        assert weights is not None  # noqa: S101 - it has run
        steps.write(
            target,
            comparison=compare_json(Comparison(foretold, report)),
            tokens_per_s=report.tokens_per_s_steady,
            first_token_s=report.time_to_first_token_s,
            read_bytes_per_token=report.read_bytes_per_token,
            reserved_bytes=report.reserved_bytes,
            staging_bytes=weights.plan.placement.staging_bytes,
            pinned_bytes=report.weights_pinned_bytes,
            matrix_bytes=sum(tile.footprint_bytes for tile in weights.plan.tiles),
            kv_bytes=report.projected_bytes - report.reserved_bytes - weights.plan.held_bytes,
            planned_compute_s=prepared.prediction.compute_s,
            planned_rate_bytes_per_s=prepared.prediction.read_bytes_per_s,
            achieved_bytes_per_s=report.read_bytes_per_s,
            projected_bytes=report.projected_bytes,
            measured_bytes=report.measured_bytes,
            stall_fraction=report.stall_fraction,
        )


if __name__ == "__main__":
    main()
