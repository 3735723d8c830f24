"""`tierline calibrate`: this computer measured, and kept as a machine file."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tierline.calibrate.budget import FULL, QUICK
from tierline.calibrate.calibrate import Progress, measure
from tierline.calibrate.write import disturbance, machine_table, provenance, save, to_toml
from tierline.errors import InputError
from tierline.machines.calibrated import calibration_file, kept_folder
from tierline.machines.document import document
from tierline.machines.load import load_machine

_WIDTH = 100


def calibrate(
    path: Annotated[
        Path | None,
        typer.Argument(help="A folder or large file on the disk to measure; by default the cache directory."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Under 20 s instead of under 2 minutes.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write here, not to where `this` finds it.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The machine as one JSON document on stdout.")
    ] = False,
) -> None:
    """Measure this computer: disk, memory and the engine's kernels, alone and beside one another.

    Example: tierline calibrate ~/models --quick
    """
    target = path if path is not None else kept_folder()
    if not target.exists():
        raise InputError(f"{target}: no such file or directory; give one on the disk to measure")
    if output is not None and not output.absolute().parent.is_dir():
        raise InputError(f"{output}: there is no folder {output.absolute().parent} to write to")
    notes = [note] if (note := disturbance()) else []
    source = provenance(target)
    with _progress() as progress:
        found = measure(target, QUICK if quick else FULL, source, progress)
    kept = output if output is not None else calibration_file(target)
    save(to_toml(machine_table(found, target, source, notes)), kept)
    if as_json:
        typer.echo(json.dumps(document(load_machine(str(kept)))))
        return
    _report(kept, "this" if kept == calibration_file(kept_folder()) else str(kept))


def _report(kept: Path, name: str) -> None:
    """Print what the file says, as read back from it, and what it is good for."""
    from rich.console import Console

    from tierline.report.calibration import calibration_table

    machine = load_machine(str(kept))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    if machine.calibration is not None:
        console.print(calibration_table(machine.calibration))
    for note in machine.notes:
        console.print(f"\n{note}", markup=False)
    console.print(f"\nWritten to {kept}. Plan with it: tierline plan MODEL --on {name}", markup=False)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show on stderr what is measured and the time left: a bar on a terminal, else a line per stage."""
    if not sys.stderr.isatty():
        yield _stage_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (BarColumn(), TextColumn("about {task.fields[left]} left: {task.description}"))
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", left="")
        started_s = bars.get_time()

        def show(what: str, _: float, left_s: float) -> None:
            elapsed_s = bars.get_time() - started_s
            bars.update(
                task, description=what, left=f"{left_s:.0f} s", completed=elapsed_s, total=elapsed_s + left_s
            )

        yield show


def _stage_lines() -> Progress:
    told: set[str] = set()

    def tell(what: str, _: float, left_s: float) -> None:
        stage = what.partition(":")[0]
        if stage not in told:
            told.add(stage)
            sys.stderr.write(f"calibrate: {stage} (about {left_s:.0f} s left)\n")

    return tell
