"""`tierline run --prompts`: many prompts share each pass over the streamed weights."""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from tierline.cli.answer import metered
from tierline.cli.session import Setting, traced_session
from tierline.report.run import comparison_table, rows_json
from tierline.run.images.files import check_images
from tierline.run.prompts import Answers, Prompt
from tierline.run.request import Request
from tierline.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from tierline.run.predict import Prediction
    from tierline.run.throughput import Served


def answer_all(
    setting: Setting,
    request: Request,
    prompts: Sequence[Prompt],
    output: Path,
    batch: int | None,
    *,
    as_json: bool,
    live: bool = False,
) -> None:
    """Answer every prompt that `output` does not answer yet, and print what it took.

    `live` shows how it goes.
    """
    check_images(setting.source, next((p.images for p in prompts if p.images), ()))
    with (
        Answers(output, prompts) as answers,
        traced_session(setting) as (session, bar),
        ExitStack() as shown,
    ):
        from tierline.run.throughput import serve_prompts

        most_tokens = request.new * (len(prompts) - len(answers.done))
        meters = shown.enter_context(metered(session, most_tokens, sys.stderr, live=live))

        def planned(sequences: int, prediction: "Prediction") -> None:
            _say_plan(sequences, prediction)
            if meters is not None:
                bar.stop()
                shown.enter_context(meters.shown(prediction, sequences))

        served = serve_prompts(
            session,
            prompts,
            answers,
            request,
            batch=batch,
            progress=bar.loading,
            planned=planned,
            served=_say_nothing if live else bar.serving,
        )
    if as_json:
        sys.stdout.write(json.dumps(_served_json(served, output)) + "\n")
    else:
        _print_served(served, output)


def _say_nothing(_answered: int, _of: int, _tokens_per_s: float) -> None:
    """Leave what is answered to the meters."""


def _say_plan(sequences: int, prediction: "Prediction") -> None:
    """Say on stderr, before the first pass, how many go together and how fast that should be."""
    sys.stderr.write(
        f"[planned: {sequences} to a pass, {format_bytes(prediction.read_bytes)} read per pass, "
        f"{sequences * prediction.tokens_per_s:.2f} tok/s, bound: {prediction.bound}]\n"
    )


def _served_json(served: "Served", output: Path) -> dict[str, object]:
    document: dict[str, object] = {
        field.name: getattr(served, field.name) for field in fields(served) if field.name != "prediction"
    }
    document["tokens_per_s"] = served.tokens_per_s
    document["output"] = str(output)
    document["rows"] = rows_json(served.rows)
    return document


def _print_served(served: "Served", output: Path) -> None:
    from rich.console import Console

    console = Console()
    if served.rows:
        title = f"planned | measured, {served.sequences} prompts, {served.batch} to a pass"
        console.print(comparison_table(served.rows, title))
    before = f", {served.done_before} had been before" if served.done_before else ""
    lines = [f"{output}: {served.sequences} answered in {format_seconds(served.total_s)}{before}"]
    if served.passes:
        lines.append(f"compute waited {format_seconds(served.stall_s / served.passes)} per pass for reads")
    if served.allowed_bytes is not None:
        lines.append(
            f"memory: {format_bytes(served.allowed_bytes)} allowed, {format_bytes(served.reserved_bytes)} "
            f"reserved, {format_bytes(served.measured_bytes)} measured"
        )
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
