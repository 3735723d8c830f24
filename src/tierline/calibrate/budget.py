"""How large and how long each measurement is."""

from dataclasses import dataclass

from tierline.units import KIB, MIB


@dataclass(frozen=True, slots=True)
class Budget:
    """Sizes of what is read and multiplied, seconds of one sample of each kind, and rounds of them all.

    A stage that has taken `reads_limit_s` or `compute_limit_s` ends once everything was measured once. A read
    setting of which one sample would take longer than `longest_sample_s` is left out: it is far past
    what the disk needs. `limited_sample_s` is for a disk that a cgroup paces: it deals out bytes in slices.
    `chosen_s` is one sample of the setting that is chosen, measured anew.
    """

    request_bytes: tuple[int, ...]
    readers: tuple[int, ...]
    read_s: float
    limited_sample_s: float
    longest_sample_s: float
    chosen_s: float
    reads_limit_s: float
    file_bytes: int
    fill_s: float
    batch_rows: tuple[int, ...]
    matrix_rows: int
    columns: int
    compute_s: float
    memory_s: float
    compute_limit_s: float
    least_arena_bytes: int
    rounds: int


FULL = Budget(
    request_bytes=(256 * KIB, MIB, 2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB),
    readers=(1, 2, 4),
    read_s=0.2,
    limited_sample_s=0.3,
    longest_sample_s=1.0,
    chosen_s=1.0,
    reads_limit_s=40.0,
    file_bytes=1024 * MIB,
    fill_s=4.0,
    batch_rows=(1, 16, 128),
    matrix_rows=4096,
    columns=2048,
    compute_s=0.03,
    memory_s=0.2,
    compute_limit_s=40.0,
    least_arena_bytes=256 * MIB,
    rounds=5,
)
QUICK = Budget(
    request_bytes=(256 * KIB, MIB, 4 * MIB, 16 * MIB),
    readers=(1, 2, 4),
    read_s=0.05,
    limited_sample_s=0.15,
    longest_sample_s=0.08,
    chosen_s=0.4,
    reads_limit_s=5.0,
    file_bytes=256 * MIB,
    fill_s=0.8,
    batch_rows=(1, 16, 128),
    matrix_rows=1024,
    columns=2048,
    compute_s=0.004,
    memory_s=0.04,
    compute_limit_s=4.0,
    least_arena_bytes=64 * MIB,
    rounds=3,
)
