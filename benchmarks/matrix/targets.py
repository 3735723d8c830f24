"""What the matrix is held to, and which cells miss it."""

from collections.abc import Iterator, Sequence
from statistics import median

from matrix.figures import Group, accuracy

_MEDIAN_ERROR, _WORST_ERROR = 0.05, 0.10
_BYTES_ERROR = 0.01
_LEAST_OF_PROJECTED = 0.85
_LEAST_OF_FLOOR = {"unthrottled": 0.90}
_LEAST_OF_FLOOR_THROTTLED = 0.95
_MOST_RESERVE_BYTES, _MOST_STAGING_BYTES = 400 * 2**20, 128 * 2**20
_PREDICTION = "planned"


def misses(groups: Sequence[Group]) -> list[str]:
    """Return a line for every target that a cell misses, the accuracy of all of them first."""
    errors = [abs(error) for error in accuracy(groups)[_PREDICTION]]
    found = []
    if errors and median(errors) > _MEDIAN_ERROR:
        found.append(
            f"all cells: median error of predicted tok/s {median(errors):.1%}, wanted {_MEDIAN_ERROR:.0%}"
        )
    for group in groups:
        row = group.first
        name = f"{row['model']} {row['format']} at {row['cap']:g}, {row['disk']}"
        if group.ours and group.ran:
            found += [f"{name}: {miss}" for miss in _cell_misses(group)]
            found += [f"{name}: {miss}" for miss in _slower_than(group, groups)]
    return found


def _cell_misses(group: Group) -> Iterator[str]:
    worst = max(group.errors(_PREDICTION), key=abs, default=0.0)
    if abs(worst) > _WORST_ERROR:
        steady = max(group.errors(_PREDICTION, held=True), key=abs, default=0.0)
        changed = "" if abs(steady) > _WORST_ERROR else f"; {steady:+.1%} where the disk held its rate"
        yield f"tok/s predicted {worst:+.1%} off, wanted {_WORST_ERROR:.0%} at most{changed}"
    for row in group.ran:
        planned, result = row["plan"]["planned"], row["result"]
        if abs(planned["read_bytes_per_token"] / result["read_bytes_per_token"] - 1) > _BYTES_ERROR:
            yield "bytes per token more than 1 % off"
        share = result["measured_bytes"] / result["projected_bytes"]
        if not _LEAST_OF_PROJECTED <= share <= 1:
            yield f"peak memory {share:.1%} of the projected, wanted {_LEAST_OF_PROJECTED:.0%} to 100 %"
        if result["reserved_bytes"] > _MOST_RESERVE_BYTES:
            yield f"reserve {result['reserved_bytes'] / 2**20:.0f} MiB, wanted 400 MiB at most"
        if result["staging_bytes"] > _MOST_STAGING_BYTES:
            yield f"slots {result['staging_bytes'] / 2**20:.0f} MiB, wanted 128 MiB at most"
        break  # the first run speaks for the others, which are held to the same budget
    floor = group.floor_fraction()
    wanted = _LEAST_OF_FLOOR.get(group.first["disk"], _LEAST_OF_FLOOR_THROTTLED)
    if floor is not None and floor < wanted:
        yield f"{floor:.1%} of the floor, wanted {wanted:.0%}"
    if group.oom_kills:
        yield f"{group.oom_kills} processes killed for memory"


def _slower_than(group: Group, groups: Sequence[Group]) -> Iterator[str]:
    """Yield the engines that are faster in the same place: int8 is held against all, bf16 against bf16."""
    rate = group.middle("tokens_per_s")
    same = ("model", "cap", "disk")
    for other in groups:
        alike = all(other.first[name] == group.first[name] for name in same)
        if other.ours or not alike or (group.first["format"] == "bf16" != other.first["format"]):
            continue
        theirs = other.middle("tokens_per_s")
        if rate is not None and theirs is not None and theirs > rate:
            yield f"{other.first['engine']} is faster: {theirs:.2f} against {rate:.2f} tok/s"
