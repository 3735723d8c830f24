"""Predict, then prove: Tierline and the engines people would use instead, under real limits.

Example: python benchmarks/bench_matrix.py --models llama-3.2-1b --runs 1

Writes models with random weights, installs every other engine in an environment of its own, and runs each
cell of the matrix in a cgroup: memory is the file's size over the cap for the whole process, reads are
throttled by the kernel, the page cache is dropped before. Finished cells are kept in a file, so a run that
was killed goes on where it ended. At the end docs/validation.md and the README's table are written. What a
cell will reach is foretold and kept before it runs. Needs root for the limits (cgroup v1); without it,
everything that needs them is skipped, and said so.
"""

import argparse
import os
import time
from pathlib import Path

from matrix.cells import CAPS, DISKS, FORMATS, MODELS, MORE_FORMATS, PEERS, TIERLINE, Subset
from matrix.models import Models
from matrix.peers import Environments
from matrix.render import one_line, write_documents
from matrix.results import Results, machine_name
from matrix.run import Bench
from matrix.session import Session

_HERE = Path(__file__).parent
_RESULTS = _HERE / "results" / "matrix.jsonl"
_CGROUP = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")


def main() -> None:
    """Parse the command line and do what it asks."""
    options = _parser().parse_args()
    results = Results(options.results)
    if not options.render:
        reason = _cannot_limit()
        if reason:
            print(f"skipped all cells: {reason}", flush=True)
        else:
            _measure(options, results)
    write_documents(list(results.best().values()))


def _measure(options: argparse.Namespace, results: Results) -> None:
    subset = Subset(
        options.models, options.engines, options.formats, options.caps, options.disks, options.runs
    )
    models = Models(options.folder / "models")
    bench = Bench(models, Environments(options.folder / "engines"), Session())
    done = results.done(options.quiet)
    left = [cell for cell in subset.cells() if cell.key(machine_name()) not in done]
    print(f"{len(left)} cells to run, {len(subset.cells()) - len(left)} done before", flush=True)
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else None
    for cell in left:
        if deadline is not None and time.monotonic() > deadline:
            print("time is over; the same command goes on from here", flush=True)
            return
        row = bench.run(cell)
        results.append(row)
        print(one_line(row), flush=True)
    if not options.keep_models:
        models.remove()


def _cannot_limit() -> str | None:
    if os.geteuid():
        return "limits of memory and disk need root"
    return None if _CGROUP.exists() else "limits need cgroup v1, which this system has not mounted"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    engines = (TIERLINE, *PEERS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--engines", nargs="+", choices=engines, default=engines, metavar="ENGINE",
                        help=f"of: {'; '.join(engines)}")  # fmt: skip
    parser.add_argument("--formats", nargs="+", choices=(*FORMATS, *MORE_FORMATS), default=FORMATS)
    parser.add_argument("--caps", nargs="+", type=float, default=CAPS)
    parser.add_argument("--disks", nargs="+", choices=tuple(DISKS), default=tuple(DISKS))
    parser.add_argument("--runs", type=int, default=3, help="of each of Tierline's cells")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/tierline-bench"), help="models, engines")  # noqa: S108
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--keep-models", action="store_true", help="leave models in the folder")
    parser.add_argument("--minutes", type=float, help="begin no cell after so long")
    parser.add_argument("--quiet", type=float, default=1.0, metavar="FRACTION",
                        help="run cells again of which others took more than this")  # fmt: skip
    parser.add_argument("--render", action="store_true", help="only write the documents")
    return parser


if __name__ == "__main__":
    main()
