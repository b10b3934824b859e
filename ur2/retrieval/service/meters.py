"""The service's figures for Prometheus."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Meters:
    """The figures of one service, in a registry of its own; the names are part of the interface."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.queries = Counter(
            "ur2_retrieval_queries_total",
            "Queries by corpus and outcome: answered, failed, overloaded, late.",
            ("corpus", "outcome"),
            registry=self.registry,
        )
        self.bounded = Counter(
            "ur2_retrieval_bounded_queries_total",
            "Queries that were cut, as they were too long, or that were empty.",
            ("reason",),
            registry=self.registry,
        )
        self.cache_hits = Counter(
            "ur2_retrieval_cache_hits_total",
            "Queries that cost no search of their own: answered before, or being searched.",
            registry=self.registry,
        )
        self.latency_s = Histogram(
            "ur2_retrieval_latency_seconds",
            "From a query's arrival to its answer.",
            registry=self.registry,
            buckets=LATENCIES_S,
        )
        self.batch_size = Histogram(
            "ur2_retrieval_batch_size",
            "Queries searched at once.",
            registry=self.registry,
            buckets=BATCH_SIZES,
        )
        self.batch_s = Histogram(
            "ur2_retrieval_batch_seconds",
            "Encoding and searching of one batch.",
            registry=self.registry,
            buckets=LATENCIES_S,
        )
        self.waiting = Gauge(
            "ur2_retrieval_waiting_queries",
            "Queries that wait for a batch.",
            registry=self.registry,
        )
        self.passages = Gauge(
            "ur2_retrieval_passages",
            "Passages of an open corpus.",
            ("corpus",),
            registry=self.registry,
        )
        self.reloads = Counter(
            "ur2_retrieval_reloads_total",
            "Times that an index was opened, by corpus and outcome: opened, refused.",
            ("corpus", "outcome"),
            registry=self.registry,
        )

    def text(self, *, num_waiting: int, num_passages: Mapping[str, int]) -> bytes:
        """All figures in Prometheus's text format, with what only the service knows."""
        self.waiting.set(num_waiting)
        for corpus, number in num_passages.items():
            self.passages.labels(corpus).set(number)
        return generate_latest(self.registry)
