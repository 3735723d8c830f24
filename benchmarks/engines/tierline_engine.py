"""Tierline itself. Usage: tierline_engine.py MODEL TOKENS TARGET MEMORY_BYTES

What the plan says is written to TARGET.plan before the first token. The simulation of it is made of the same
numbers, but afterwards: its memory is not the engine's. Where the budget is too small, TARGET holds the
message as `refused`.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from steps import Steps

from tierline.errors import BudgetError
from tierline.run.lean import without_compile
from tierline.run.request import Request
from tierline.run.source import open_source

if TYPE_CHECKING:
    from tierline.compare.forecast import Figures
    from tierline.run.session import Prepared
    from tierline.run.weights import WeightPlan

_PROMPT = "t3 t4 t5 t6"


def main() -> None:
    """Load, predict, write that down, run, write that down."""
    from tierline.run.session import Session

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
        prompt_s, prediction = session.engine.prompt_s(prepared.ids.shape[1]), prepared.prediction
        planned = {
            "tokens_per_s": prediction.tokens_per_s,
            "read_bytes_per_token": prediction.read_bytes,
            "peak_bytes": prediction.peak_bytes,
        }
        plan = Path(f"{target}.plan")
        plan.write_text(json.dumps({"planned": planned}), encoding="utf-8")
        steps.begin()
        report = session.execute(prepared, arrived)
        weights = session.engine.weights
        assert weights is not None  # noqa: S101 - it has run
        steps.write(
            target,
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
        simulated = asdict(simulate(weights.plan, prepared, prompt_s))
        plan.write_text(json.dumps({"planned": planned, "simulated": simulated}), encoding="utf-8")


def simulate(plan: "WeightPlan", prepared: "Prepared", prompt_s: float) -> "Figures":
    """Return what the engine's own tiles do in virtual time, by what was known before the run."""
    from tierline.compare.forecast import predict
    from tierline.compare.passes import Workload

    prediction = prepared.prediction
    work = Workload(
        prompt_tokens=prepared.ids.shape[1],
        prefill_passes=1,
        decode_passes=prepared.request.new - 1,
        prefill_s=prompt_s,
        decode_s=prediction.compute_s,
    )
    return predict(plan, work, prediction).simulated


if __name__ == "__main__":
    with without_compile(lean=False):  # as the command line
        main()
