"""Prometheus metrics of the server."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts of one server. queue_length: returns the number of requests that wait."""

    def __init__(self, queue_length: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        names = ("endpoint", "code")
        self.requests = Counter("prefixvlm_requests", "Requests by endpoint and code", names, registry=self.registry)
        self.latency = Histogram(
            "prefixvlm_request_seconds", "Time from a request to the end of its answer", ("endpoint",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.batches = Histogram(
            "prefixvlm_batch_size", "Requests computed together", buckets=SIZES, registry=self.registry
        )
        self.tokens = Counter("prefixvlm_generated_tokens", "Generated tokens", registry=self.registry)
        queue = Gauge("prefixvlm_queue_length", "Requests that wait for the model", registry=self.registry)
        queue.set_function(queue_length)

    def answered(self, endpoint: str, code: int, seconds: float) -> None:
        self.requests.labels(endpoint, str(code)).inc()
        self.latency.labels(endpoint).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' format."""
        return generate_latest(self.registry)
