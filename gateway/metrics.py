"""Every metric of the gateway, declared once.

Labels come from closed sets: endpoints and key ids from the configuration, the rest from code.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from gateway.rejections import REASONS

UNKNOWN = "unknown"
"""Label for requests that belong to no configured endpoint: paths are the sender's words."""

PRODUCE_FAILURES = ("timeout", "not_authorised", "too_large", "queue_full", "fatal", "other")

disable_created_metrics()  # type: ignore[no-untyped-call]  # declared without types in 0.26


class GatewayMetrics:
    """The metrics of one gateway process, in a registry of its own."""

    def __init__(self, version: str, librdkafka: str) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "verihook_webhook_requests_total",
            "Webhook requests by how they ended; stored means that Kafka has the delivery.",
            ("endpoint", "provider", "result", "code"),
            registry=registry,
        )
        self.duration = Histogram(
            "verihook_webhook_request_duration_seconds",
            "From the request's head to its answer; providers give up and retry when this is long.",
            ("endpoint",),
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
            registry=registry,
        )
        self.in_progress = Gauge(
            "verihook_webhook_requests_in_progress",
            "Requests that are being read, verified or waiting for Kafka.",
            registry=registry,
        )
        self.rejections = Counter(
            "verihook_webhook_rejections_total",
            "Requests not stored, by reason. signature_mismatch rising: a secret was rotated at "
            "the provider, or somebody is forging.",
            ("endpoint", "reason"),
            registry=registry,
        )
        self.body_bytes = Histogram(
            "verihook_webhook_body_bytes",
            "Size of stored bodies.",
            ("endpoint",),
            buckets=(256, 1024, 4096, 16384, 65536, 262144, 921600),
            registry=registry,
        )
        self.key_used = Counter(
            "verihook_signature_key_used_total",
            "Deliveries by the key and the scheme that verified them: an old key at rest means "
            "that a rotation is complete.",
            ("endpoint", "key_id", "scheme"),
            registry=registry,
        )
        self.stale = Counter(
            "verihook_webhook_stale_total",
            "Stored deliveries whose signed time was outside the tolerance.",
            ("endpoint",),
            registry=registry,
        )
        self.produced = Counter(
            "verihook_produce_total",
            "Deliveries handed to the Kafka producer.",
            registry=registry,
        )
        self.produce_errors = Counter(
            "verihook_produce_errors_total",
            "Deliveries that Kafka did not take; each was answered 503.",
            ("reason",),
            registry=registry,
        )
        self.ack_seconds = Histogram(
            "verihook_produce_ack_seconds",
            "From handing a delivery to the producer until all replicas have it.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
            registry=registry,
        )
        self.queue_records = Gauge(
            "verihook_produce_queue_records",
            "Deliveries inside the producer that Kafka has not acknowledged yet.",
            registry=registry,
        )
        self.reloads = Counter(
            "verihook_configuration_reloads_total",
            "Reloads of endpoints and secrets; after a failed one the old configuration stays "
            "in force, see the log.",
            ("result",),
            registry=registry,
        )
        self.build = Gauge(
            "verihook_build_info",
            "1, with the versions that are running.",
            ("version", "librdkafka"),
            registry=registry,
        )
        self.build.labels(version, librdkafka).set(1)
        for failure in PRODUCE_FAILURES:
            self.produce_errors.labels(failure)
        for result in ("ok", "failed"):
            self.reloads.labels(result)
        self.of_unknown = EndpointMetrics(self, UNKNOWN, UNKNOWN, (), ())


class EndpointMetrics:
    """One endpoint's metrics with their children held, so that no request looks labels up."""

    def __init__(
        self,
        metrics: GatewayMetrics,
        endpoint: str,
        provider: str,
        key_ids: tuple[str, ...],
        schemes: tuple[str, ...],
    ) -> None:
        self._requests = metrics.requests
        self._labels = (endpoint, provider)
        self._ended: dict[tuple[str, int], Counter] = {}
        # A counter born with its first value is invisible to rate(): the outcomes objectives
        # rest on begin at zero.
        for result, code in (("stored", 200), ("unavailable", 503), ("error", 500)):
            self.ended(result, code, 0)
        self.duration = metrics.duration.labels(endpoint)
        self.body_bytes = metrics.body_bytes.labels(endpoint)
        self.stale = metrics.stale.labels(endpoint)
        self.rejections = {
            reason.label: metrics.rejections.labels(endpoint, reason.label) for reason in REASONS
        }
        self.key_used = {
            (key_id, scheme): metrics.key_used.labels(endpoint, key_id, scheme)
            for key_id in key_ids
            for scheme in schemes
        }

    def ended(self, result: str, code: int, count: int = 1) -> None:
        """Count requests that ended so."""
        child = self._ended.get((result, code))
        if child is None:
            child = self._requests.labels(*self._labels, result, str(code))
            self._ended[result, code] = child
        child.inc(count)
