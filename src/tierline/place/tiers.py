"""Three tiers: what stays in a device's memory, what in the host's, and what is read from disk every pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from tierline.place.placement import Placement, Unit, place


@dataclass(frozen=True, slots=True)
class TieredPlacement:
    """`device` pins in the device's memory and streams the rest; of that, `host` pins and streams the rest.

    What the device streams crosses the copy link, what the host streams crosses the disk's link too.
    """

    device: Placement
    host: Placement

    @property
    def copied_bytes(self) -> int:
        """Bytes that cross from host to device in a pass."""
        return self.device.streamed_bytes

    @property
    def read_bytes(self) -> int:
        """Bytes that cross from disk to host in a pass."""
        return self.host.streamed_bytes

    def pass_s(self, compute_s: float, copy_bytes_per_s: float, read_bytes_per_s: float) -> float:
        """Return the seconds of a pass whose links and compute all overlap.

        `T = max(C, bytes copied / copy rate, bytes read / disk rate)`.
        """
        return max(compute_s, self.copied_bytes / copy_bytes_per_s, self.read_bytes / read_bytes_per_s)


def place_tiers(
    units: Sequence[Unit], *, device_bytes: int, host_bytes: int, device_slots: int, host_slots: int
) -> TieredPlacement | None:
    """Return where `units`, in their order of use, are kept, or None where even the slots do not fit.

    Every byte is used once a pass, so the fastest memory is filled first, and in each tier what is pinned is
    spread over the pass: then no link idles while a run of pinned units computes. Without anything to copy,
    the host holds nothing.
    """
    device = place(units, device_bytes, slots=device_slots)
    if device is None:
        return None
    host = place(device.streamed, host_bytes, slots=host_slots)
    return None if host is None else TieredPlacement(device, host)
