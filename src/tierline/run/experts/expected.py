"""What routed experts are expected to take in a pass, before it is known which they are."""

from dataclasses import dataclass

# Of experts that were guessed and not in memory, those that were then chosen: 475 of 575 seen with
# benchmarks/moe_2gb.json (its routing is that of random weights: a trained router is not easier to guess).
GUESSED_RIGHT = 0.8


@dataclass(frozen=True, slots=True)
class RoutedLayer:
    """One layer's experts: `misses` are read, in `read_bytes`, `ahead_bytes` of them guessed beforehand."""

    path: str
    misses: float
    read_bytes: float
    ahead_bytes: float
    compute_s: float


@dataclass(frozen=True, slots=True)
class Routed:
    """A pass in which every expert is as likely as the others.

    `last_s` is compute of the expert which arrives last in each layer: no read runs beside it.
    `between_fraction` is the part of all other compute that lies between two layers of experts, where
    guesses are read; `guess_bytes` is the memory that they have.
    """

    layers: tuple[RoutedLayer, ...]
    last_s: float
    between_fraction: float
    guess_bytes: int

    @property
    def before_head_fraction(self) -> float:
        """The part of all other compute that lies before the last layer's experts."""
        count = len(self.layers)
        return self.between_fraction * count / (count - 1) if count > 1 else 1.0

    @property
    def compute_s(self) -> float:
        """Products of all experts that are visited."""
        return sum(layer.compute_s for layer in self.layers)

    @property
    def read_bytes(self) -> float:
        """Bytes that a pass reads of them."""
        return sum(layer.read_bytes for layer in self.layers)

    def step_s(self, other_compute_s: float, bytes_per_s: float) -> float:
        """Return the seconds of what follows one another: compute, then reads that wait for a router.

        `T = C + c + (R - min(A, between * C * B)) / B`: C compute besides experts, c that of each layer's
        last one, R bytes of misses over a link of B bytes/s, A of them guessed. 0 where nothing is read.
        """
        if not self.read_bytes:
            return 0.0
        ahead_bytes = sum(layer.ahead_bytes for layer in self.layers)
        beside_bytes = min(ahead_bytes, self.between_fraction * other_compute_s * bytes_per_s)
        return other_compute_s + self.last_s + (self.read_bytes - beside_bytes) / bytes_per_s
