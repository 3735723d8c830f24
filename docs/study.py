"""Write docs/study/: SmolVLM2-256M and SmolVLA over all boards, formats and links, with Pareto plots.

Run it as `python docs/study.py`; a test fails when what is there is stale. The plots need matplotlib.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tierline.formats.quality import quality_of
from tierline.plan.build import plan_with
from tierline.report.figures.figure import Axis, Chart
from tierline.report.figures.pareto import Point, front, pareto_chart
from tierline.scenario import scenario
from tierline.search.sweep import Question, tables
from tierline.units import format_bytes

STUDY = Path(__file__).parent / "study"
MODELS = {"smolvlm2-256m": ("tok/s", "tokens_per_s"), "smolvla": ("actions/s", "actions_per_s")}
BOARDS = "nexys-video,artix7-pcie,kria-kv260,zcu102,alveo-u280,alveo-v80"
# Those of which it was measured what they do to the answers (quality.md), and bf16 itself.
FORMATS = "bf16,q8_0,int8:channel,mxfp8,q5_0,q4_0,int4:group=32,int4:group=64,mxfp4"
# What a board's host link is called, and the rates that stand for USB 2.0, USB 3.0, PCI Express 2.0 x4 and
# 4.0 x8 in its place.
LINKS = {"nexys-video": "usb2", "artix7-pcie": "pcie"}
RATES = ("38MB/s", "400MB/s", "1.5GB/s", "12GB/s")
CAPACITIES = ("64MiB", "512MiB")
WAYS = {"strategy": ["resident,tiered,host-stream"], "granularity": ["layer,tile"], "passes": ["3"]}

Row = Mapping[str, Any]


@cache
def planned(model: str) -> list[Row]:
    """Return a row per board and format, everything where it is."""
    return list(_rows({"model": [model], "on": [BOARDS], "weights": [FORMATS]}))


@cache
def streamed(model: str) -> list[Row]:
    """Return a row per board, format, link rate, memory and way to stream: the last passes simulated."""
    found: list[Row] = []
    for board, link in LINKS.items():
        settings = [f"{link}.sustained={','.join(RATES)}", f"ddr3.capacity={','.join(CAPACITIES)}"]
        settings.append(f"{link}.peak=100GB/s")
        options = {"weights": ["bf16,mxfp8,mxfp4"], "overrides": settings, "tile": ["4MiB"], **WAYS}
        found += _rows({"model": [model], "on": [board], **options})
    return found


def _rows(given: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    for table in tables(Question.of(given)):
        columns = {name: column.cells() for name, column in table.items()}
        for cells in zip(*columns.values(), strict=True):
            yield dict(zip(columns, cells, strict=True))


def points(model: str) -> list[Point]:
    """Return the planned rows whose speed is known: what a format costs in perplexity against speed."""
    found = []
    for row in planned(model):
        speed, quality = _speed(row, MODELS[model][1]), quality_of(row["weights"])
        if speed:
            loss = quality.change_fraction if quality else 0.0
            hover = f"{row['weights']} on {row['on']}: {format_bytes(row['total_bytes'])}"
            found.append(Point(row["weights"], loss, speed, row["on"], hover))
    return found


def charts() -> dict[Path, Chart]:
    """Return every plot and where it goes."""
    return {
        STUDY / f"{model}.svg": pareto_chart(
            f"{model}: what formats cost and gain, on every board",
            points(model),
            Axis("perplexity of SmolLM2-135M above that of bf16", "%", scale=0.01, low=-0.1),
            Axis("speed at best", unit, log=True),
        )
        for model, (unit, _) in MODELS.items()
    }


def texts() -> dict[Path, str]:
    """Return the page."""
    return {STUDY / "smol.md": "\n".join([_INTRODUCTION, *(_chapter(model) for model in MODELS)])}


def _chapter(model: str) -> str:
    unit, column = MODELS[model]
    found = points(model)
    boards = dict.fromkeys(point.group for point in found)
    fronts = {board: front([p for p in found if p.group == board]) for board in boards}
    named = "\n".join(
        f"- {board}: " + ", ".join(f"`{p.label}` (+{p.x:.1%}, {p.y:.3g} {unit})" for p in best)
        for board, best in fronts.items()
    )
    return "\n".join(
        [
            f"## {model}\n",
            f"Everything as the boards are: `tierline sweep {model} --on {BOARDS} --weights {FORMATS}`\n",
            _table(_by_board(planned(model), column), unit),
            f"![what formats cost and gain]({model}.svg)\n",
            "On each board no other format beats these in both respects, perplexity (as it "
            f"was measured on SmolLM2-135M, see [quality.md](../quality.md)) and speed:\n\n{named}\n",
            "Less memory and another link, the last three passes of the main phase simulated: the best of "
            "everything resident, pinned in part and streamed whole, by the layer and by tiles of 4 MiB; "
            f"{'tok/s' if unit == 'tok/s' else 'denoising steps a second'}, - where nothing of it runs.\n",
            *(_streamed_table(model, board, link) for board, link in LINKS.items()),
        ]
    )


def _by_board(rows: Sequence[Row], column: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row["on"], {})[row["weights"]] = _cell(row, column)
    return found


def _cell(row: Row, column: str) -> str:
    if row["strategy"] in ("impossible", None):
        return "-"
    speed = _speed(row, column)
    shown = "?" if speed is None else f"{speed:.3g}"
    return shown if row["fits"] else f"{shown} over {row['link']}"


def _speed(row: Row, column: str) -> float | None:
    """Return what a row reaches; what denoises with an unknown compute rate is bounded by its links."""
    known: float | None = row[column]
    if known is None and column == "actions_per_s":
        spent = [row[f"{name}_s"] for name in ("vision", "prefill", "denoise")]
        return _actions() / sum(spent) if all(spent) else None
    return known


@cache
def _actions() -> int:
    """Return how many actions SmolVLA makes at once."""
    asked = scenario("smolvla", "nexys-video")
    denoise = plan_with(asked.model, asked.machine, asked.workload, asked.costing).phase("denoise")
    return denoise.tokens if denoise else 0


def _table(found: Mapping[str, Mapping[str, str]], unit: str) -> str:
    names = list(next(iter(found.values())))
    lines = [f"| {unit} | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    lines += [f"| {board} | {' | '.join(cells[name] for name in names)} |" for board, cells in found.items()]
    return "\n".join(lines) + "\n"


def _streamed_table(model: str, board: str, link: str) -> str:
    found: dict[str, dict[str, float]] = {}
    for row in streamed(model):
        if row["on"] != board:
            continue
        head = f"{row['weights']}, {row['set.ddr3.capacity']}"
        speed = row["simulated_tokens_per_s"] or (
            1 / row["simulated_pass_s"] if row["simulated_pass_s"] else None
        )
        best = found.setdefault(head, {})
        rate = row[f"set.{link}.sustained"]
        best[rate] = max(best.get(rate, 0.0), speed or 0.0)
    shown = {head: {rate: f"{x:.3g}" if x else "-" for rate, x in row.items()} for head, row in found.items()}
    return _table(shown, f"{board}, {link} at")


_INTRODUCTION = f"""<!-- generated by docs/study.py -->

# A study: two small models on every board

Which board, which format, which link? Every figure below is a row of a `tierline sweep`; this page and its
plots are written by `python docs/study.py` ([search.md](../search.md) says what the verbs do). Speeds are of
plans, so the best possible: for boards without a known bf16 rate they are those of the memory alone. One
image, a context of 1,024 tokens; SmolVLA makes 50 actions in 10 denoising steps.

The boards are {BOARDS.replace(",", ", ")}. Link rates in the second tables stand for USB 2.0, USB 3.0, PCI
Express 2.0 x4 and 4.0 x8; on artix7-pcie the link feeds compute directly, beside the local memory.
"""


def main() -> None:
    """Write them all."""
    from tierline.report.figures.draw import draw

    STUDY.mkdir(exist_ok=True)
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
    for path, chart in charts().items():
        draw(chart, path)


if __name__ == "__main__":
    main()
