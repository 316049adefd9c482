"""docs/metrics.md, written from the definitions: `python -m deploy.metrics_page`.

A test compares the page with what is written here. Names, types, labels and meanings come from
gateway/metrics.py and consumers/metrics.py; what to do about a number is said here.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from consumers.contract import CommitFailure
from consumers.event import Category, Outcome, ReasonCode, Status
from consumers.failures import ErrorKind
from consumers.metrics import STAGES, DedupTrouble, Meter
from consumers.records import OTHER
from deploy.dashboard import dashboard
from gateway.metrics import PRODUCE_FAILURES, UNKNOWN, GatewayMetrics
from gateway.rejections import REASONS, Result

FILE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"

INTRODUCTION = (
    "Written by `python -m deploy.metrics_page` from the definitions in `gateway/metrics.py` and "
    "`consumers/metrics.py`; do not edit. Every process answers `GET /metrics` on its admin "
    "address and counts for itself: sum over processes. A process exposes the usual `process_*` "
    "and `python_info` besides. `deploy/grafana/verihook.json` is a dashboard, "
    "`deploy/prometheus/prometheus.yml` a scrape configuration."
)


class Metric(msgspec.Struct, frozen=True):
    """One metric as Prometheus names it; `histogram` has _bucket, _sum and _count behind it."""

    name: str
    type: str
    labels: tuple[str, ...]
    says: str

    @property
    def exposed(self) -> tuple[str, ...]:
        """The names of its series."""
        if self.type == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


def gateway_metrics() -> list[Metric]:
    """List what a gateway process exposes."""
    return _declared(GatewayMetrics("", "").registry)


def consumer_metrics() -> list[Metric]:
    """List what a consumer process exposes."""
    return _declared(Meter("", "", frozenset(), ("", ""), lambda: 0.0).registry)


def _declared(registry: CollectorRegistry) -> list[Metric]:
    # A family tells its labels only with its first series, and some have none until something
    # happens. The library keeps them on private attributes, of the same name everywhere.
    found = []
    for collector in registry._collector_to_names:  # noqa: SLF001
        families = list(collector.collect())
        for family in families:
            declares = collector if isinstance(collector, MetricWrapperBase) else family
            labels = tuple(getattr(declares, "_labelnames", ()))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            if name.startswith("verihook_"):
                found.append(Metric(name, family.type, labels, family.documentation))
    return found


TO_DO: Mapping[str, str] = {
    "verihook_webhook_requests_total": "`unavailable`: the provider sends again; look at Kafka. "
    "`error`: a bug, its log line has the delivery id and the place in the code.",
    "verihook_webhook_request_duration_seconds": "Compare with `verihook_produce_ack_seconds`: "
    "what is not Kafka's part is slow senders or a process without CPU.",
    "verihook_webhook_requests_in_progress": "Rising without more requests: Kafka or the senders "
    "are slow. Refused as `overloaded` beyond GATEWAY_MAX_IN_FLIGHT.",
    "verihook_webhook_rejections_total": "Add the new secret beside the old one if the provider "
    "rotated it; `python -m gateway check` shows what is configured.",
    "verihook_webhook_body_bytes": "Near the limit: ask the provider what grew.",
    "verihook_signature_key_used_total": "Take an old key away once it stands still for longer "
    "than the provider retries.",
    "verihook_webhook_stale_total": "Check this machine's clock first, then look for replays.",
    "verihook_produce_total": "More than the stored requests: Kafka does not acknowledge.",
    "verihook_produce_errors_total": "`not_authorised`: the gateway's rights on the raw topics. "
    "`too_large`: the topic's max.message.bytes. `timeout`: the brokers, the replicas in sync.",
    "verihook_produce_ack_seconds": "Look at the brokers, the replicas and the way to them.",
    "verihook_produce_queue_records": "Growing: Kafka takes less than comes in.",
    "verihook_configuration_reloads_total": "`failed`: read the log line, mend the file.",
    "verihook_records_consumed_total": "`other` rising: webhooks the mapping does not know, which "
    "are dead letters, or (Treezor) events of other products, which are ignored: compare.",
    "verihook_events_normalized_total": "Nothing, while the gateway stores: see the lag.",
    "verihook_normalize_failures_total": "`python -m consumers explain` on the record's bytes "
    "shows where it fails and why; mend the mapping.",
    "verihook_dead_letters_total": "Read the headers `verihook-error-*` on the dead topic.",
    "verihook_unmapped_values_total": "Add the new word to the provider's table and raise its "
    "revision. Comes to exist with the first such value: compare values, `rate()` misses it.",
    "verihook_records_ignored_total": "Nothing, unless a kind you want is among them.",
    "verihook_duplicates_total": "High for long: the provider does not take our 200 for an answer.",
    "verihook_duplicate_age_seconds": "Near the window (CONSUMER_DEDUP_DAYS): raise it, and the "
    "seen topic's retention with it.",
    "verihook_dedup_unchecked_total": "Merge on `event_id`; give CONSUMER_REBUILD_SECONDS more "
    "time, or CONSUMER_STATE_DIR a disk that stays.",
    "verihook_dedup_catching_up_partitions": "As above.",
    "verihook_dedup_troubles_total": "`discarded`: look at the disk of CONSUMER_STATE_DIR.",
    "verihook_consumer_stalled": "Read the dead letters, mend the mapping, start it anew, then "
    "`python -m consumers replay`. As it is: `python -m consumers resume "
    "<provider> --admin HOST:PORT`.",
    "verihook_end_to_end_seconds": "Rising with the lag: add a consumer, up to the partition "
    "count. Rising without it: see `verihook_barrier_seconds`.",
    "verihook_consumer_last_poll_timestamp_seconds": "Its `timestamp()` minus its value: the age. "
    "Beyond max.poll.interval.ms (5 minutes) the group takes the partitions away; see the log.",
    "verihook_consumer_last_commit_timestamp_seconds": "Old only matters while records wait.",
    "verihook_assigned_partitions": "0 for long: more processes than partitions.",
    "verihook_rebalances_total": "Outside of rollouts: batches take too long, or processes die.",
    "verihook_barrier_seconds": "Look at the brokers, as with `verihook_produce_ack_seconds`.",
    "verihook_commit_errors_total": "`membership` belongs to rebalances. `unanswered`: the "
    "group's coordinator does not answer; look at that broker.",
    "verihook_produce_queue_full_total": "Kafka takes less than is produced; look at the brokers.",
    "verihook_consumer_interruptions_total": "The log line before it names the reason.",
    "verihook_client_errors_total": "The log names them; only what lasts needs a person.",
    "verihook_records_lost_to_retention_total": "Ask the provider to send the gap again; raise "
    "retention, add consumers. Comes to exist with the first loss: `rate()` misses it.",
    "verihook_consumer_lag_records": "Behind by many records and few seconds is a burst.",
    "verihook_consumer_lag_seconds": "Rising: add consumers, or look at Kafka. Absent on every "
    "process: no consumer, or none that reaches Kafka.",
}
"""What a person does about a metric's number."""

LABELS: Mapping[str, str] = {
    "endpoint": f"names in the gateway's configuration, and `{UNKNOWN}`",
    "provider": f"names in the registers, and `{UNKNOWN}`",
    "code": "HTTP status of the answer",
    "key_id": "ids of keys in the gateway's configuration, and `unsigned`",
    "scheme": "names in the gateway's schemes; where a provider's proof has several forms, which",
    "native_type": f"types the provider's mapping knows, and `{OTHER}`",
    "reason": "for `verihook_records_ignored_total`: words of the mappings, not of the provider",
    "field": "paths of fields a mapping reads, never their values",
    "group": "`<prefix>normalize.<provider>`",
    "topic": "`<prefix>raw.<provider>`",
    "partition": "numbers",
    "version": "of Verihook",
    "librdkafka": "its version",
}
"""Where the values of a label come from, for labels that are not listed by the code."""


def closed_sets() -> dict[str, dict[str, tuple[str, ...]]]:
    """Give every value of the labels whose values the code lists, by label and metric."""
    kinds = tuple(get_args(ErrorKind))
    return {
        "result": {
            "verihook_webhook_requests_total": get_args(Result),
            "verihook_configuration_reloads_total": ("ok", "failed"),
        },
        "reason": {
            "verihook_webhook_rejections_total": tuple(reason.label for reason in REASONS),
            "verihook_produce_errors_total": PRODUCE_FAILURES,
            "verihook_normalize_failures_total": kinds,
            "verihook_dead_letters_total": kinds,
            "verihook_commit_errors_total": get_args(CommitFailure),
        },
        "stage": {"verihook_normalize_failures_total": tuple(sorted(set(STAGES.values())))},
        "change": {"verihook_rebalances_total": ("assigned", "revoked", "lost")},
        "trouble": {"verihook_dedup_troubles_total": get_args(DedupTrouble)},
        "category": {"verihook_events_normalized_total": get_args(Category)},
        "status": {"verihook_events_normalized_total": get_args(Status)},
        "outcome": {"verihook_events_normalized_total": get_args(Outcome)},
        "reason_code": {"verihook_reasons_total": get_args(ReasonCode)},
    }


def text() -> str:
    """Write the page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from ("# Metrics", "", INTRODUCTION)
    for title, metrics in (("Gateway", gateway_metrics()), ("Consumer", consumer_metrics())):
        yield from ("", f"## {title}", "")
        yield "| metric | type | labels | says | what to do | panels |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for metric in metrics:
            labels = ", ".join(metric.labels)
            advice = TO_DO.get(metric.name, "")
            panels = "; ".join(_panels(metric))
            cells = (f"`{metric.name}`", metric.type, labels, metric.says, advice, panels)
            yield "| " + " | ".join(cells) + " |"
    yield from ("", "## Labels", "", "Values come from closed sets, never from a sender.", "")
    yield from ("| label | of | values |", "| --- | --- | --- |")
    for label, of_metrics in closed_sets().items():
        for name, values in of_metrics.items():
            yield f"| {label} | `{name}` | {', '.join(values)} |"
    for label, source in LABELS.items():
        yield f"| {label} | | {source} |"


def _panels(metric: Metric) -> Iterator[str]:
    for panel in dashboard()["panels"]:
        expressions = " ".join(target["expr"] for target in panel["targets"])
        if any(f"{name}{{" in expressions for name in metric.exposed):
            yield panel["title"]


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"written: {FILE.name}")
