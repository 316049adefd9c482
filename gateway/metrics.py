"""Every metric of the gateway, declared once.

Labels come from closed sets: endpoints, key ids and topics from the configuration, the rest from
code. What every delivery touches are plain numbers of `gateway.counting`, held as children.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
)
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from gateway.counting import Count, Counts, Distributions, Levels
from gateway.process import Readiness
from gateway.rejections import REASONS
from gateway.statistics import ClientStatistics

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
        self.requests = Counts(
            "verihook_webhook_requests_total",
            "Webhook requests by how they ended; stored means that Kafka has the delivery.",
            ("endpoint", "provider", "result", "code"),
            registry,
        )
        self.duration = Distributions(
            "verihook_webhook_request_duration_seconds",
            "From the request's head to its answer; providers give up and retry when this is long. "
            "stored is true where the answer was 200 and Kafka has the delivery.",
            ("endpoint", "provider", "stored"),
            (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
            registry,
        )
        self.in_progress = Levels(
            "verihook_webhook_requests_in_progress",
            "Requests that are being read, verified or waiting for Kafka.",
            ("endpoint",),
            registry,
        )
        self.rejections = Counts(
            "verihook_webhook_rejections_total",
            "Requests not stored, by reason. signature_mismatch rising: a secret was rotated at "
            "the provider, or somebody is forging.",
            ("endpoint", "provider", "reason"),
            registry,
        )
        self.body_bytes = Distributions(
            "verihook_webhook_body_bytes",
            "Size of stored bodies.",
            ("endpoint",),
            (256, 1024, 4096, 16384, 65536, 262144, 921600),
            registry,
        )
        self.key_used = Counts(
            "verihook_signature_key_used_total",
            "Deliveries by the key and the scheme that verified them: an old key at rest means "
            "that a rotation is complete.",
            ("endpoint", "key_id", "scheme"),
            registry,
        )
        self.retirements = Retirements(registry)
        self.stale = Counts(
            "verihook_webhook_stale_total",
            "Stored deliveries whose signed time was outside the tolerance.",
            ("endpoint",),
            registry,
        )
        self.produced = Counts(
            "verihook_produce_total",
            "Deliveries handed to the Kafka producer.",
            ("topic",),
            registry,
        )
        self.produce_errors = Counts(
            "verihook_produce_errors_total",
            "Deliveries that Kafka did not take; each was answered 503.",
            ("topic", "reason"),
            registry,
        )
        self.ack_seconds = Distributions(
            "verihook_produce_ack_seconds",
            "From handing a delivery to the producer until all replicas have it.",
            ("topic",),
            (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
            registry,
        )
        self.queue_records = Gauge(
            "verihook_produce_queue_records",
            "Deliveries inside the producer that Kafka has not acknowledged yet.",
            registry=registry,
        )
        self.queue_limit_records = Gauge(
            "verihook_produce_queue_limit_records",
            "How many deliveries may wait for Kafka (GATEWAY_MAX_IN_FLIGHT); further ones are "
            "answered 503, overloaded.",
            registry=registry,
        )
        self.statistics = ClientStatistics(registry)
        self.reloads = Counter(
            "verihook_configuration_reloads_total",
            "Reloads of endpoints and secrets; after a failed one the old configuration stays "
            "in force, see the log.",
            ("result",),
            registry=registry,
        )
        self.reload_failing = Gauge(
            "verihook_configuration_reload_failing",
            "1 while changed endpoints or secrets cannot be taken over, see the log; else 0.",
            registry=registry,
        )
        self.build = Gauge(
            "verihook_build_info",
            "1, with the versions that are running.",
            ("version", "librdkafka"),
            registry=registry,
        )
        self.build.labels(version, librdkafka).set(1)
        self.readiness = Readiness("topics", "accepting", "kafka")
        registry.register(self.readiness)
        for result in ("ok", "failed"):
            self.reloads.labels(result)
        self.of_unknown = EndpointMetrics(self, UNKNOWN, UNKNOWN, (), ())

    def forget(self, gone: "EndpointMetrics") -> None:
        """Expose nothing of this endpoint any more; requests under way go on counting unseen."""
        gone.forgotten = True
        for numbers in (
            self.requests,
            self.duration,
            self.in_progress,
            self.rejections,
            self.body_bytes,
            self.key_used,
            self.stale,
        ):
            numbers.forget(gone.endpoint)


class EndpointMetrics:
    """One endpoint's metrics with their children held, so that no request looks labels up."""

    def __init__(
        self,
        metrics: GatewayMetrics,
        endpoint: str,
        provider: str,
        key_ids: tuple[str, ...],
        schemes: tuple[str, ...],
        refusal_status: int | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.provider = provider
        self.forgotten = False
        self._requests = metrics.requests
        self._labels = (endpoint, provider)
        self._ended: dict[tuple[str, int], Count] = {}
        # A counter born with its first value is invisible to rate(): every known outcome begins
        # at zero.
        self.stored = self.ended("stored", 200)
        self.ended("ignored", 200)
        for reason in REASONS:
            self.ended(reason.result, reason.status)
            if reason.provider_decides and refusal_status is not None:
                self.ended(reason.result, refusal_status)
        self.stored_seconds = metrics.duration.of(endpoint, provider, "true")
        self.other_seconds = metrics.duration.of(endpoint, provider, "false")
        self.in_progress = metrics.in_progress.of(endpoint)
        self.body_bytes = metrics.body_bytes.of(endpoint)
        self.stale = metrics.stale.of(endpoint)
        self.rejections = {
            reason.label: metrics.rejections.of(endpoint, provider, reason.label)
            for reason in REASONS
        }
        self.key_used = {
            (key_id, scheme): metrics.key_used.of(endpoint, key_id, scheme)
            for key_id in key_ids
            for scheme in schemes
        }

    def ended(self, result: str, code: int) -> Count:
        """Give the count of the requests that ended so."""
        series = self._ended.get((result, code))
        if series is None:
            # What is forgotten stays so: a request under way may end as none has before.
            labels = (*self._labels, result, str(code))
            series = Count() if self.forgotten else self._requests.of(*labels)
            self._ended[result, code] = series
        return series


class TopicMetrics:
    """One raw topic's metrics with their children held."""

    def __init__(self, metrics: GatewayMetrics, topic: str) -> None:
        self.topic = topic
        self.produced = metrics.produced.of(topic)
        self.ack_seconds = metrics.ack_seconds.of(topic)
        self.errors = {
            failure: metrics.produce_errors.of(topic, failure) for failure in PRODUCE_FAILURES
        }


class Retirements(Collector):
    """When the configured keys are to be taken away; a key without such a time has no series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._times: Mapping[tuple[str, str], datetime] = {}
        registry.register(self)

    def use(self, times: Mapping[tuple[str, str], datetime]) -> None:
        """Expose these times from now on, by endpoint and key id."""
        self._times = times

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Give every key's time."""
        family = GaugeMetricFamily(
            "verihook_signature_key_retires_timestamp_seconds",
            "When a key is to be taken away, as its entry says (retires); it goes on verifying "
            "until then and after.",
            labels=("endpoint", "key_id"),
        )
        for labels, time in self._times.items():
            family.add_metric(labels, time.timestamp())
        return (family,)
