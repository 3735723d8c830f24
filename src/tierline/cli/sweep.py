"""`tierline sweep`: every combination of any options, as rows."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tierline.cli import options
from tierline.cli.axes import with_axes
from tierline.cli.figures import PlotOption, check_plot
from tierline.cli.figures import plot as draw_plot
from tierline.cli.progress import rows_bar
from tierline.errors import InputError

if TYPE_CHECKING:
    from tierline.search.sweep import Question, Runner

_MOST_SHOWN = 100_000

OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Write .csv or .parquet; CSV on stdout if not given."),
]
WorkersOption = Annotated[int | None, typer.Option(help="Worker processes on this computer, by Dask.")]
ClusterOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster, tcp://host:8786.")
]


def _sweep(
    model: options.ModelArgument,
    on: options.OnOption = "this",
    out: OutOption = None,
    workers: WorkersOption = None,
    cluster: ClusterOption = None,
    plot: PlotOption = None,
    as_json: options.JsonOption = False,
    axes: Any = None,  # noqa: ANN401 - filled in by with_axes
) -> None:
    """Cost every combination of lists `a,b,c` and ranges `1024:131072:x2` or `1:512:+1` of any options.

    MODEL, MACHINE (`all`, too) and every option of plan and simulate are axes. A row is the plan of its
    options; with options of simulate it is simulated as well. What cannot be planned is a row with a reason.
    Run the same command again to go on where it was killed. --plot draws speed over memory, and the Pareto
    front.

    Example: tierline sweep smolvlm2-256m --on nexys-video,kria-kv260 --weights mxfp8,mxfp4 --batch 1,8
    """
    check_plot(plot)
    from tierline.search.sweep import Question

    question = Question.of({"model": [model], "on": [on], **axes})
    if out is None:
        if workers is not None or cluster is not None:
            raise InputError("--workers and --cluster write a file: add -o FILE")
        if plot is None:
            _show(question, as_json=as_json)
        else:
            _draw(question, plot, as_json=as_json)
        return
    if plot is not None:
        raise InputError("--plot draws the rows that stdout shows: leave it out, or -o")
    runner = _runner(question, workers, cluster)
    from tierline.search.sweep import sweep as write

    started = time.perf_counter()
    with rows_bar("sweeping") as bar:
        before = write(question, out, runner=runner, progress=bar.rows)
    seconds = time.perf_counter() - started
    made = question.rows - before
    if as_json:
        found = {"file": str(out), "rows": question.rows, "rows_before": before, "seconds": seconds}
        typer.echo(json.dumps({**found, "rows_per_s": made / seconds}))
        return
    again = f" ({before:,} were there already)" if before else ""
    typer.echo(f"{question.rows:,} rows{again} in {seconds:,.1f} s, {made / seconds:,.0f} a second: {out}")


def _runner(question: "Question", workers: int | None, cluster: str | None) -> "Runner":
    from tierline.search.sweep import run_here

    if workers is None and cluster is None:
        return run_here
    from tierline.search.cluster import on_cluster, on_workers

    if cluster is None:
        return on_workers(workers or 0)
    if workers is not None:
        raise InputError("--workers is of this computer: leave it out, or --cluster")
    if any("this" in axis.values for axis in question.evaluator.space.axes if axis.option == "on"):
        raise InputError("--on this is another computer on every worker of a cluster: name a machine file")
    return on_cluster(cluster)


def _show(question: "Question", *, as_json: bool) -> None:
    """Print rows on stdout."""
    import sys

    from tierline.search.files import encode, header
    from tierline.search.sweep import tables

    if not as_json:
        sys.stdout.write(header(list(question.evaluator.columns)).decode())
        for table in tables(question):
            sys.stdout.write(encode(table, "csv").decode())
        return
    typer.echo(json.dumps({"rows": _rows(question, "--json shows")}, indent=2))


def _draw(question: "Question", path: Path, *, as_json: bool) -> None:
    """Print rows on stdout, and draw them."""
    from tierline.report.figures.pareto import sweep_chart

    rows = _rows(question, "--plot draws")
    _show(question, as_json=as_json)
    varied = [axis.column for axis in question.evaluator.space.axes if len(axis) > 1]
    draw_plot(path, lambda: sweep_chart(rows, varied))


def _rows(question: "Question", what: str) -> list[dict[str, object]]:
    from tierline.search.sweep import tables

    if question.rows > _MOST_SHOWN:
        raise InputError(
            f"{question.rows:,} rows are more than the {_MOST_SHOWN:,} that {what}: -o FILE takes any number"
        )
    rows: list[dict[str, object]] = []
    for table in tables(question):
        cells = [column.cells() for column in table.values()]
        rows += (dict(zip(table, row, strict=True)) for row in zip(*cells, strict=True))
    return rows


sweep = with_axes(_sweep)
