"""What the server does, as Prometheus reads it."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tierline.run.meter import Reading

_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """Counters since the start and gauges of now, in a registry of their own."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """`waiting` tells how many requests wait."""
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tierline_requests", "Requests, by how they ended", ["outcome"], registry=registry
        )
        self.prompt_tokens = Counter(
            "tierline_prompt_tokens", "Tokens of prompts that were begun", registry=registry
        )
        self.tokens = Counter("tierline_generated_tokens", "Tokens of answers", registry=registry)
        self.passes = Counter(
            "tierline_passes", "Passes over the weights that gave tokens", registry=registry
        )
        self._read = Counter("tierline_read_bytes", "Bytes read for passes", registry=registry)
        self._stalled = Counter("tierline_stall_seconds", "Time compute waited for reads", registry=registry)
        self.rate = Gauge(
            "tierline_tokens_per_second", "Decode rate of all sequences of the last batch", registry=registry
        )
        self.running = Gauge("tierline_running_sequences", "Sequences in the batch of now", registry=registry)
        self.batch = Histogram(
            "tierline_batch_sequences", "Sequences that began together", buckets=_SEQUENCES, registry=registry
        )
        self.first_token = Histogram(
            "tierline_time_to_first_token_seconds",
            "From the request to its first text",
            buckets=_SECONDS,
            registry=registry,
        )
        Gauge("tierline_queue_length", "Requests that wait", registry=registry).set_function(waiting)
        self._last = Reading()

    def note(self, reading: Reading) -> None:
        """Take what has been read and waited for by now."""
        self._read.inc(max(0, reading.read_bytes - self._last.read_bytes))
        self._stalled.inc(max(0.0, reading.stall_s - self._last.stall_s))
        self._last = reading

    def begin(self, reading: Reading) -> None:
        """Count what is read from `reading` on."""
        self._last = reading

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)
