"""The results as docs/validation.md and as the README's table."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from matrix.cells import DISKS, PEER_CAP, TIERLINE
from matrix.figures import Group, accuracy, grouped
from matrix.results import Row, disturbance
from matrix.targets import misses
from tierline.units import format_bytes, format_rate

_ROOT = Path(__file__).parents[2]
_VALIDATION, _README = _ROOT / "docs" / "validation.md", _ROOT / "README.md"
_BEGIN, _END = "<!-- matrix: written by benchmarks/bench_matrix.py -->", "<!-- end of matrix -->"
_MARK, _MUCH = "†", 0.25  # of the processors taken by others: such a figure says less
_PREDICTED = {
    "foretold": "ahead: rates of the session, bytes of the file, formulas",
    "planned": "by the engine, loaded, before its first token",
    "simulated": "its tiles in virtual time, before its first token",
}
_INTRODUCTION = """# Predicted and measured

Written by `python benchmarks/bench_matrix.py` (root, cgroup v1; `--render` only writes this page from
`benchmarks/results/matrix.jsonl`). Models have random weights in true shapes. A cell's memory is its file's
size over the cap, for the whole process and the page cache that it touches; reads are throttled by the
kernel; the page cache is dropped before each run; bytes are those around the decode loop. The floor is
`max(compute, (bytes of a pass - (cap - reserve - slots - KV)) / disk rate)`, the disk read with O_DIRECT in
the same session, while compute runs and alone. What others took of the processors meanwhile stands in the
column `others`: figures beside much of it are those of a busy computer. The disk is shared with computers
that cannot be seen from here: a run whose last steps took more than 15 % longer or shorter than its first
ones, though each does the same work, had another disk at its end than the one measured before it.
"""


def write_documents(rows: Sequence[Row]) -> None:
    """Write docs/validation.md and the table in README.md; nothing where there are no results."""
    if not rows:
        return
    groups = grouped(rows)
    _VALIDATION.write_text("\n".join(_page(groups)) + "\n", encoding="utf-8")
    readme = _README.read_text(encoding="utf-8")
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if begin and end:
        _README.write_text(f"{before}{begin}\n{_short(groups)}\n{end}{after}", encoding="utf-8")


def one_line(row: Row) -> str:
    """Return what a finished cell comes to, in a line."""
    group = Group([row])
    cell = f"{row['model']} {row['engine']} {row['format']} cap {row['cap']:g} {row['disk']} run {row['run']}"
    return f"{cell}: {_outcome(group)}; load {row['load']:.1f}, others {_others(group)}"


def _page(groups: Sequence[Group]) -> Iterable[str]:
    yield _INTRODUCTION
    for machine in dict.fromkeys(group.first["machine"] for group in groups):
        here = [group for group in groups if group.first["machine"] == machine]
        ahead = sorted({str(group.first["read_ahead_kb"]) for group in here})
        yield f"{machine}; `read_ahead_kb` {', '.join(ahead)}.\n"
        yield from _accuracy(here)
        for model in dict.fromkeys(group.first["model"] for group in here):
            of_model = [group for group in here if group.first["model"] == model]
            yield f"\n## {model}\n"
            yield from _ours([group for group in of_model if group.ours])
            yield from _others_table([g for g in of_model if g.first["cap"] == PEER_CAP])
        yield "\n## Targets that are missed\n"
        missed = misses(here)
        yield "\n".join(f"- {line}" for line in missed) if missed else "None."


def _accuracy(groups: Sequence[Group]) -> Iterable[str]:
    yield "| tok/s predicted | runs | median error | worst | of them on a disk that held its rate | worst |"
    yield "| --- | --- | --- | --- | --- | --- |"
    steady = accuracy(groups, held=True)
    for name, errors in accuracy(groups).items():
        if errors:
            cells = [_PREDICTED[name], str(len(errors)), f"{median(map(abs, errors)):.1%}", _worst(errors),
                     str(len(steady[name])), _worst(steady[name])]  # fmt: skip
            yield f"| {' | '.join(cells)} |"
    ran = [row for group in groups if group.ours for row in group.ran]
    if ran:
        errors = [
            r["plan"]["planned"]["read_bytes_per_token"] / r["result"]["read_bytes_per_token"] - 1
            for r in ran
        ]
        peaks = [r["result"]["measured_bytes"] / r["result"]["projected_bytes"] for r in ran]
        yield f"\nBytes per token: worst error {max(errors, key=abs):+.2%}. Peak memory: {min(peaks):.1%} to "
        yield f"{max(peaks):.1%} of the projected."


def _worst(errors: Sequence[float]) -> str:
    return f"{max(errors, key=abs):+.1%}" if errors else "-"


def _ours(groups: Sequence[Group]) -> Iterable[str]:
    if not groups:
        return
    headings = ("format", "cap", "memory", "disk", "tok/s", "ahead", "plan", "simulated", "read per token",
                "of the floor", "disk alone", "reserve", "slots", "disk beside compute", "peak of projected",
                "OOM", "others")  # fmt: skip
    yield "Tierline. Errors are (predicted - measured) / measured.\n"
    yield f"| {' | '.join(headings)} |"
    yield "|" + " --- |" * len(headings)
    for group in groups:
        row = group.first
        cells = [row["format"], f"{row['cap']:g}", format_bytes(row["memory_bytes"]), row["disk"]]
        if not group.ran:
            yield f"| {' | '.join([*cells, _outcome(group)])} |" + " |" * (len(headings) - len(cells) - 1)
            continue
        result, rates = group.ran[0]["result"], row["disk_rates"]
        peaks = [r["result"]["measured_bytes"] / r["result"]["projected_bytes"] for r in group.ran]
        cells += [
            _rate(group),
            *(_percent(group.errors(name)) for name in _PREDICTED),
            f"{(group.middle('read_bytes_per_token') or 0) / 1e6:.1f} MB",
            f"{group.floor_fraction():.1%}",
            f"{group.floor_fraction(alone=True):.1%}",
            format_bytes(result["reserved_bytes"]),
            format_bytes(result["staging_bytes"]),
            format_rate(rates[f"beside_{row['format']}_bytes_per_s"]),
            f"{max(peaks):.1%}",
            str(group.oom_kills),
            _others(group),
        ]
        yield f"| {' | '.join(cells)} |"


def _others_table(groups: Sequence[Group]) -> Iterable[str]:
    if all(group.ours for group in groups):
        return
    yield f"\nOther engines, memory of their file's size / {PEER_CAP:g}:\n"
    yield "| engine | format | memory | disk | tok/s | read per token | peak memory | OOM kills | others |"
    yield "|" + " --- |" * 9
    for group in sorted(groups, key=lambda group: list(DISKS).index(group.first["disk"])):
        row = group.first
        read = group.middle("disk_bytes_per_token")
        cells = (
            _name(row["engine"]), row["format"], format_bytes(row["memory_bytes"]), row["disk"],
            _rate(group) if group.ran else _outcome(group), "-" if read is None else f"{read / 1e6:.0f} MB",
            format_bytes(max(r["limits"]["peak_bytes"] for r in group.rows)), str(group.oom_kills),
            _others(group),
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _short(groups: Sequence[Group]) -> str:
    """Return the README's table: tok/s at the peers' cap by engine, disk and model."""
    at_cap = [group for group in groups if group.first["cap"] == PEER_CAP]
    places = list(dict.fromkeys((g.first["model"], g.first["disk"]) for g in at_cap))
    lines = [
        f"| tok/s at file / {PEER_CAP:g} | format | "
        + " | ".join(f"{m[-2:].upper()}, {d}" for m, d in places)
        + " |",
        "|" + " --- |" * (len(places) + 2),
    ]
    for engine, form in dict.fromkeys((g.first["engine"], g.first["format"]) for g in at_cap):
        found = {(g.first["model"], g.first["disk"]): g for g in at_cap
                 if (g.first["engine"], g.first["format"]) == (engine, form)}  # fmt: skip
        shown = (_brief(found[place]) if place in found else "" for place in places)
        lines.append(f"| {_name(engine)} | {form} | {' | '.join(shown)} |")
    if any(_MARK in line for line in lines):
        lines += ["", f"{_MARK} Other work took more than {_MUCH:.0%} of the processors meanwhile."]
    errors = accuracy(groups)["planned"]
    if errors:
        worst, middle = max(map(abs, errors)), median(map(abs, errors))
        lines += ["", f"Predicted before the first token within {worst:.1%}, median {middle:.1%}, over "
                  f"{len(errors)} runs: [docs/validation.md](docs/validation.md)."]  # fmt: skip
    return "\n".join(lines)


def _brief(group: Group) -> str:
    rate = group.middle("tokens_per_s")
    if rate is None:
        return _outcome(group)
    return f"{rate:.2f}{_MARK if max(map(disturbance, group.rows)) > _MUCH else ''}"


def _name(engine: str) -> str:
    return "Tierline" if engine == TIERLINE else engine


def _rate(group: Group) -> str:
    rates = group.of("tokens_per_s")
    spread = f" ({min(rates):.2f} to {max(rates):.2f})" if len(rates) > 1 else ""
    return f"{median(rates):.2f}{spread}"


def _outcome(group: Group) -> str:
    if group.ran:
        return f"{_rate(group)} tok/s, plan {_percent(group.errors('planned'))}"
    if group.below_minimum:
        return "below minimum"
    return str(group.first["failure"]).replace("|", "/")


def _percent(errors: Sequence[float]) -> str:
    return f"{median(errors):+.1%}" if errors else "-"


def _others(group: Group) -> str:
    return f"{max(map(disturbance, group.rows)):.0%}"
