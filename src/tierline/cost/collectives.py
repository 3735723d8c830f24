"""What devices send each other: bytes by algorithm, and time by the link's rate and latency.

`payload_bytes` of an all-reduce is the vector that every device holds; of an all-gather and a reduce-scatter
the whole vector, of which a device holds a part before or after; of an all-to-all what one device has for all
of them, itself included. Parts of a vector that does not divide differ by one element.

Sources: Thakur, Rabenseifner, Gropp: Optimization of collective communication operations in MPICH, 2005
(ring, tree, the model `rounds * latency + bytes / rate`); Patarasuk, Yuan: Bandwidth optimal all-reduce
algorithms for clusters of workstations, 2009 (ring).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tierline.machines.machine import Topology

Kind = Literal["all-reduce", "all-gather", "reduce-scatter", "all-to-all", "send"]
Algorithm = Literal["ring", "tree", "direct"]


@dataclass(frozen=True, slots=True)
class Collective:
    """One exchange among `devices` of them.

    `total_bytes` cross the interconnect in all, `sent_bytes` leave the device that sends most, and
    `serial_bytes` follow one another in `rounds` rounds, each of which waits for the one before.
    """

    kind: Kind
    algorithm: Algorithm
    devices: int
    payload_bytes: int
    total_bytes: int
    sent_bytes: int
    serial_bytes: int
    rounds: int

    def time_s(self, bytes_per_s: float, latency_s: float, topology: Topology = "switch") -> float:
        """Return the seconds of it: `rounds * latency + bytes / rate`.

        Behind a switch the bytes are those that follow one another, on a bus all of them.
        """
        crossing = self.serial_bytes if topology == "switch" else self.total_bytes
        return self.rounds * latency_s + crossing / bytes_per_s


def parts(count: int, devices: int) -> list[int]:
    """Return how `count` elements are divided among `devices`: as evenly as whole elements allow."""
    return [count * (i + 1) // devices - count * i // devices for i in range(devices)]


def ring_all_reduce(elements: int, devices: int, element_bytes: int = 1) -> Collective:
    """Return a reduce-scatter and an all-gather around a ring: `2 (n-1) / n` of the vector leave each device.

    In each of the `n-1` rounds of either half a device sends one part; it never sends one of the `n` parts.
    """
    half = _ring("all-reduce", elements, devices, element_bytes)
    return Collective(
        "all-reduce",
        "ring",
        devices,
        elements * element_bytes,
        2 * half.total_bytes,
        element_bytes * max(_ring_sent(parts(elements, devices)), default=0),
        2 * half.serial_bytes,
        2 * half.rounds,
    )


def tree_all_reduce(payload_bytes: int, devices: int) -> Collective:
    """Return a reduction up a binomial tree and a broadcast down it: `ceil(log2 n)` rounds of all bytes each.

    The root sends the most: to each of its `ceil(log2 n)` children.
    """
    depth = (devices - 1).bit_length()
    links = 2 * (devices - 1) * payload_bytes
    return Collective(
        "all-reduce",
        "tree",
        devices,
        payload_bytes,
        links,
        depth * payload_bytes,
        2 * depth * payload_bytes,
        2 * depth,
    )


def all_gather(elements: int, devices: int, element_bytes: int = 1) -> Collective:
    """Return a ring in which every part visits every device: `(n-1) / n` of the vector leave each."""
    return _ring("all-gather", elements, devices, element_bytes)


def reduce_scatter(elements: int, devices: int, element_bytes: int = 1) -> Collective:
    """Return a ring that leaves each device one reduced part: `(n-1) / n` of the vector leave each."""
    return _ring("reduce-scatter", elements, devices, element_bytes)


def all_to_all(payload_bytes: int, devices: int) -> Collective:
    """Return every device sending an n-th of what it has to each other one directly."""
    divided = parts(payload_bytes, devices)
    sent = payload_bytes - min(divided)
    total = devices * payload_bytes - payload_bytes  # over all, every part stays with one device once
    return Collective("all-to-all", "direct", devices, payload_bytes, total, sent, sent, devices - 1)


def send(payload_bytes: int) -> Collective:
    """Return one device sending to another."""
    return Collective("send", "direct", 2, payload_bytes, payload_bytes, payload_bytes, payload_bytes, 1)


def fastest_all_reduce(
    elements: int, devices: int, element_bytes: int, bytes_per_s: float, latency_s: float, topology: Topology
) -> Collective:
    """Return the ring or the tree, whichever takes less time: few bytes go up a tree, many around a ring."""
    ways = (
        ring_all_reduce(elements, devices, element_bytes),
        tree_all_reduce(elements * element_bytes, devices),
    )
    return min(ways, key=lambda way: way.time_s(bytes_per_s, latency_s, topology))


def _ring(kind: Kind, elements: int, devices: int, element_bytes: int) -> Collective:
    """Return one half of a ring: in each round every device sends a part to the next; the largest sets it."""
    divided = parts(elements, devices)
    sent = elements - min(divided)
    return Collective(
        kind,
        "ring",
        devices,
        elements * element_bytes,
        (devices - 1) * elements * element_bytes,
        sent * element_bytes,
        (devices - 1) * max(divided) * element_bytes,
        devices - 1,
    )


def _ring_sent(divided: Sequence[int]) -> list[int]:
    """Return what each device sends in a ring all-reduce: everything twice, but one part in each half.

    Device i never sends part i+1 while parts are reduced (it ends there), nor part i+2 while gathering.
    """
    count, total = len(divided), sum(divided)
    return [2 * total - divided[(i + 1) % count] - divided[(i + 2) % count] for i in range(count)]
