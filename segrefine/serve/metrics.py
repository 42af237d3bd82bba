"""Metrics of the service for Prometheus; every name begins with `segrefine_`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from segrefine.runtime.memory import Memory

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The figures of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Histogram(
            "segrefine_request_seconds", "From a request's first byte to its answer's last.",
            ["route", "status"], registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self._stages = Histogram(
            "segrefine_stage_seconds", "Of each stage of a request: its wait, reading, the model's stages, writing.",
            ["model", "stage"], registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self._rejections = Counter(
            "segrefine_rejections", "Requests that were turned away, by problem code.", ["code"], registry=registry
        )
        self._abandoned = Counter("segrefine_abandoned", "Requests whose client hung up.", registry=registry)
        self._batches = Histogram(
            "segrefine_batch_size", "Requests that were computed together.",
            ["model"], registry=registry, buckets=(1, 2, 4, 8, 16, 32),
        )  # fmt: skip
        self.waiting = Gauge(
            "segrefine_queue_length", "Accepted requests beyond those that the workers can take.", registry=registry
        )
        self.running = Gauge(
            "segrefine_running", "Accepted requests that workers have, or have once they are read.", registry=registry
        )
        self.ready = Gauge("segrefine_ready", "1 when requests are taken.", registry=registry)
        self._backend = Gauge(
            "segrefine_backend_info", "1 for each model that is served, and what it runs on.",
            ["model", "method", "backend", "device", "precision"], registry=registry,
        )  # fmt: skip
        self._memory = Gauge(
            "segrefine_memory_bytes", "What a model keeps of images for later requests.", ["model"], registry=registry
        )
        self._remembered = Gauge(
            "segrefine_memory_samples", "Samples of its engines that were known, or had to be computed.",
            ["model", "known"], registry=registry,
        )  # fmt: skip
        peak = Gauge("segrefine_peak_memory_bytes", "The most memory that the process has held.", registry=registry)
        peak.set_function(peak_memory)

    def saw_request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered; `route` is its pattern, not what the client wrote."""
        self._requests.labels(route, str(status)).observe(seconds)

    def saw_stages(self, model: str, seconds: Mapping[str, float]) -> None:
        """The stages of a request took so long."""
        for stage, spent in seconds.items():
            self._stages.labels(model, stage).observe(spent)

    def saw_batch(self, model: str, size: int) -> None:
        """So many requests were computed together."""
        self._batches.labels(model).observe(size)

    def saw_rejection(self, code: str) -> None:
        """A request was turned away."""
        self._rejections.labels(code).inc()

    def saw_hang_up(self) -> None:
        """A client went away before its answer."""
        self._abandoned.inc()

    def serves(self, model: Mapping[str, str]) -> None:
        """A model is served; its name, method, backend, device and precision."""
        self._backend.labels(*model.values()).set(1)

    def remembers(self, model: str, memory: Memory) -> None:
        """A model keeps what it computes of images."""
        self._memory.labels(model).set_function(lambda: memory.size)
        self._remembered.labels(model, "yes").set_function(lambda: memory.hits)
        self._remembered.labels(model, "no").set_function(lambda: memory.misses)

    def to_bytes(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)


def peak_memory() -> float:
    """The most memory that this process has held, in bytes; NaN on Windows, which does not say."""
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
