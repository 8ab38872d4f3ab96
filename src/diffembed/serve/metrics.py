"""Numbers of a running server for Prometheus.

Read `Metrics`. Every server has a registry of its own, so that several live in one process.
"""

from collections.abc import Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from diffembed.serve.engine import Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
PACK_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Metrics:
    """Counters of requests and packs, gauges of the queues."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "diffembed_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "diffembed_request_seconds", "Time to the answer.", ["route"], buckets=SECONDS, registry=self.registry
        )
        self._texts = Counter("diffembed_texts", "Texts embedded.", ["model"], registry=self.registry)
        self._tokens = Counter("diffembed_tokens", "Tokens embedded.", ["model"], registry=self.registry)
        self._pack_tokens = Histogram(
            "diffembed_pack_tokens", "Tokens in a pack.", ["model"], buckets=PACK_TOKENS, registry=self.registry
        )
        self._pack_seconds = Histogram(
            "diffembed_pack_seconds", "Time of a pack.", ["model"], buckets=SECONDS, registry=self.registry
        )
        self._queue_tokens = Gauge(
            "diffembed_queue_tokens", "Tokens that wait or are being encoded.", ["model"], registry=self.registry
        )
        self._queue_requests = Gauge(
            "diffembed_queue_requests", "Requests that wait or are being encoded.", ["model"], registry=self.registry
        )

    def watch(self, engines: Mapping[str, Engine]) -> None:
        """Reads the queues of the engines whenever it is asked, and counts their packs."""
        for name, engine in engines.items():
            batcher = engine.batcher
            self._queue_tokens.labels(name).set_function(partial(getattr, batcher, "num_queue_tokens"))
            self._queue_requests.labels(name).set_function(partial(getattr, batcher, "num_requests"))
            engine.on_pack = partial(self._pack, name)

    def _pack(self, model: str, num_texts: int, num_tokens: int, seconds: float) -> None:
        self._texts.labels(model).inc(num_texts)
        self._tokens.labels(model).inc(num_tokens)
        self._pack_tokens.labels(model).observe(num_tokens)
        self._pack_seconds.labels(model).observe(seconds)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts one answer."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
