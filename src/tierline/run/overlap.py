"""Compute and reads at the same time: both need the processor and the memory, so each slows the other."""

from dataclasses import dataclass, replace

_NEARLY = 0.9


@dataclass(frozen=True, slots=True)
class Beside:
    """While both run: compute takes `slowdown` times as long, the link gives `bytes_per_s`."""

    slowdown: float
    bytes_per_s: float

    def within(self, limit: int | None) -> "Beside":
        """Return it where the kernel limits the link to `limit` bytes/s: a sample may begin with a burst."""
        return self if limit is None else replace(self, bytes_per_s=min(self.bytes_per_s, limit))


@dataclass(frozen=True, slots=True)
class Step:
    """A decode step's compute as slowed by its reads, and the bytes/s of the link over the time it is busy.

    None is the rate of no link.
    """

    compute_s: float
    bytes_per_s: float | None


@dataclass(frozen=True, slots=True)
class Sharing:
    """What the link gives alone, None without one, and what it and compute do while both run."""

    bytes_per_s: float | None = None
    beside: Beside | None = None

    def step(self, *, compute_s: float, read_bytes: int) -> Step:
        """Return a pass of so much compute, alone, and so many bytes of reads."""
        return overlapped(
            compute_s=compute_s, read_bytes=read_bytes, bytes_per_s=self.bytes_per_s, beside=self.beside
        )


def under_limit(sampled: float | None, limit: int | None) -> float | None:
    """Return the rate of a disk that gave `sampled` bytes/s where the kernel limits it to `limit`.

    A sample says whether the disk reaches its limit. One that nearly does reaches it over a pass: it may have
    begun with a burst or with a wait, and the kernel makes up for what a slice of time did not use.
    """
    if sampled is None or limit is None:
        return sampled
    return float(limit) if sampled > _NEARLY * limit else sampled


def overlapped(
    *, compute_s: float, read_bytes: int, bytes_per_s: float | None, beside: Beside | None
) -> Step:
    """Return a step of `compute_s` and `read_bytes` at `bytes_per_s`, each alone.

    Reads go on all the time that compute does not lack them. If the link is what a step waits for, compute
    is slowed all the time, and the link gives less while it runs:

        step = slowed + (bytes - rate beside x slowed) / rate

    If compute is, only the part of it beside which anything is read is slowed.
    """
    if beside is None or bytes_per_s is None or not read_bytes:
        return Step(compute_s, bytes_per_s)
    slowed_s = compute_s * beside.slowdown
    moved_bytes = beside.bytes_per_s * slowed_s
    if moved_bytes <= read_bytes:
        step_s = slowed_s + (read_bytes - moved_bytes) / bytes_per_s
        return Step(slowed_s, read_bytes / step_s)
    share = read_bytes / moved_bytes
    return Step(share * slowed_s + (1 - share) * compute_s, beside.bytes_per_s)
