"""What Prometheus reads: requests, images, batches, the queue, and which model answers."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

TIMES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each: nobody asks for it


class Telemetry:
    """The metrics of one server, in a registry of its own, so that two servers may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "kintsugi_requests", "Requests answered.", ["path", "method", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "kintsugi_request_seconds",
            "Time from a request's head to the end of its answer.",
            ["path"],
            buckets=TIMES,
            registry=self.registry,
        )
        self.images = Counter("kintsugi_images", "Images inspected.", ["verdict"], registry=self.registry)
        self.batches = Histogram(
            "kintsugi_batch_images",
            "Images that went through the model together.",
            buckets=(1, 2, 3, 4, 5, 6, 7, 8, 16, 32),
            registry=self.registry,
        )
        self.inference = Histogram(
            "kintsugi_batch_seconds", "Time of one batch in the model.", buckets=TIMES, registry=self.registry
        )
        self.waiting = Gauge("kintsugi_images_waiting", "Images accepted, not yet answered.", registry=self.registry)
        self.capacity = Gauge("kintsugi_images_waiting_limit", "At most so many are accepted.", registry=self.registry)
        self.serving = Gauge("kintsugi_model_info", "The model that answers.", ["model"], registry=self.registry)

    def serves(self, model: str) -> None:
        """Name the model that answers from now on; the one before no longer appears."""
        self.serving.clear()
        self.serving.labels(model=model).set(1)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
