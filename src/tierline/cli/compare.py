"""`tierline compare`: one plan by formula, in virtual time and for real, side by side."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tierline.cli.figures import PlotOption, check_plot
from tierline.cli.figures import plot as draw_plot
from tierline.cli.session import (
    AnswerJsonOption,
    FilesArgument,
    HostOption,
    ImageOption,
    KvOffloadOption,
    KvOption,
    LeanOption,
    MemoryOption,
    NewOption,
    PaceOption,
    RawOption,
    ResidentOption,
    Setting,
    StripeOption,
    checked_text,
    host_bytes,
    kv_choice,
    memory_bytes,
    opened_session,
    write_trace,
    writer,
)
from tierline.report.compare import compare_json, print_comparison
from tierline.run.images.files import check_images
from tierline.run.pace import find_pace
from tierline.run.request import Request
from tierline.run.source import open_source
from tierline.units import parse_bytes


def compare(
    model: FilesArgument,
    text: Annotated[str, typer.Argument(help="What to ask.")] = "Once upon a time",
    resident: ResidentOption = None,
    memory: MemoryOption = None,
    new: NewOption = 32,
    raw: RawOption = False,
    image: ImageOption = None,
    kv: KvOption = None,
    kv_offload: KvOffloadOption = False,
    pace: PaceOption = None,
    host: HostOption = None,
    stripe: StripeOption = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write the simulated and the measured timeline as one Chrome trace.")
    ] = None,
    plot: PlotOption = None,
    lean: LeanOption = False,
    as_json: AnswerJsonOption = False,
) -> None:
    """Plan, simulate and run the same plan; show what was predicted beside what was measured.

    Example: tierline compare model.gguf "What is the capital of France?" --resident 44MiB
    """
    check_plot(plot)
    setting = Setting(
        source=open_source(model),
        resident=None if resident is None else parse_bytes(resident),
        memory=memory_bytes(memory),
        trace=trace,
        lean=lean,
        pace=None if pace is None else find_pace(pace),
        host=host_bytes(host, pace, stripe),
        stripes=tuple(stripe or ()),
        new=new,
        kv=kv_choice(kv, kv_offload),
        plot=plot,
    )
    images = tuple(image or ())
    check_images(setting.source, images)
    request = Request(checked_text(text), new=new, raw=raw, images=images)
    with opened_session(setting) as (session, bar):
        from tierline.compare.compare import compare as execute
        from tierline.report.figures.timeline import run_timeline

        found = execute(session, request, progress=bar.loading, emit=writer(sys.stderr, bar))
        sys.stderr.write("\n")
        process = setting.source.path.name
        runs = {"simulated": found.forecast.events, "measured": session.events}
        write_trace(trace, {f"{origin} {process}": events for origin, events in runs.items()})
        draw_plot(plot, lambda: run_timeline(f"{process}: one token", runs))
    if as_json:
        sys.stdout.write(json.dumps(compare_json(found)) + "\n")
    else:
        print_comparison(found)
