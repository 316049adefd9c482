"""docs/metrics.md, written from the definitions: `python -m deploy.metrics_page`.

A test compares the page with what is written here. Names, types, labels and meanings come from
the four programs' own declarations; what to do about a number is said here, and where it is
shown and which alert uses it is read from the boards and from the rules.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import get_args

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from consumers import exporter
from consumers.contract import CommitFailure, TransactionEnd
from consumers.event import Category, Outcome, ReasonCode, Status
from consumers.failures import ErrorKind
from consumers.metrics import STAGES, DedupTrouble, Meter
from consumers.records import OTHER
from deploy.dashboards import boards
from deploy.rules import rules
from gateway import canary
from gateway.metrics import PRODUCE_FAILURES, UNKNOWN, GatewayMetrics
from gateway.process import Readiness
from gateway.rejections import REASONS, Result
from gateway.statistics import ClientStatistics

FILE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"

INTRODUCTION = (
    "Written by `python -m deploy.metrics_page` from the definitions in the four programs; do not "
    "edit. Every process answers `GET /metrics` on its admin address and counts for itself: sum "
    "over processes. A process exposes the usual `process_*` and `python_info` besides. "
    "`deploy/grafana/` holds four dashboards, `deploy/prometheus/` a scrape configuration and "
    "rules; what an alert means stands in `docs/runbooks/`."
)

EVERYWHERE = ("verihook_build_info", "verihook_ready")
"""What every process exposes under one name."""


_CHOOSING = re.compile(
    r" and on \((?:endpoint|job, instance)\) (?:rate\()?verihook_\w+\{[^}]*\}(?:\[[^]]*\]\))?"
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


@cache
def processes() -> dict[str, list[Metric]]:
    """List what each kind of process exposes of ours, by the word for it."""
    registries = {
        "gateway": GatewayMetrics("", "").registry,
        "consumer": Meter("", "", frozenset(), ("", ""), lambda: 0.0).registry,
        "exporter": exporter.ExporterMetrics().registry,
        "canary": canary.CanaryMetrics("", "", Readiness(*canary.CONDITIONS)).registry,
    }
    for registry in registries.values():
        with contextlib.suppress(ValueError):  # as the admin address does; some have it already
            registry.register(Readiness())
    return {name: _declared(registry) for name, registry in registries.items()}


def sections() -> dict[str, list[Metric]]:
    """List every metric once, by the heading it stands under."""
    clients = CollectorRegistry()
    ClientStatistics(clients)
    of_clients = _declared(clients)
    elsewhere = {*EVERYWHERE, *(metric.name for metric in of_clients)}
    found = {
        name.capitalize(): [metric for metric in metrics if metric.name not in elsewhere]
        for name, metrics in processes().items()
    }
    everywhere = [metric for metric in processes()["gateway"] if metric.name in EVERYWHERE]
    return {**found, "Kafka's clients": of_clients, "Every process": everywhere}


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
    "verihook_produce_queue_limit_records": "At the limit deliveries are answered 503: see why "
    "Kafka does not acknowledge before you raise it.",
    "verihook_signature_key_retires_timestamp_seconds": "Before that day see that the key is at "
    "rest (`verihook_signature_key_used_total`), then take it away; it goes on verifying.",
    "verihook_configuration_reloads_total": "`failed`: read the log line, mend the file.",
    "verihook_configuration_reload_failing": "As above. Mend the file before you start that "
    "process anew: only the process still has the configuration that works.",
    "verihook_records_consumed_total": "`other` rising: webhooks the mapping does not know, which "
    "are dead letters, or (Treezor) events of other products, which are ignored: compare.",
    "verihook_events_normalized_total": "Nothing, while the gateway stores: see the lag. A series "
    "comes to exist with the first event of its combination, so rate() and increase() do not see "
    "that event: compare sums of the counter itself where every single one counts.",
    "verihook_normalize_failures_total": "`python -m consumers explain` on the record's bytes "
    "shows where it fails and why; mend the mapping.",
    "verihook_dead_letters_total": "Read the headers `verihook-error-*` on the dead topic.",
    "verihook_unmapped_values_total": "Add the new word to the provider's table and raise its "
    "revision.",
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
    "retention, add consumers.",
    "verihook_consumer_lag_records": "Behind by many records and few seconds is a burst.",
    "verihook_consumer_lag_seconds": "Rising: add consumers, or look at Kafka. Absent on every "
    "process: no consumer, or none that reaches Kafka. The authority is "
    "`verihook_group_lag_seconds`.",
    "verihook_commit_seconds": "Look at the broker that coordinates the group, or the transaction.",
    "verihook_transactions_total": "`aborted` for long: the log names why; nothing is lost. Those "
    "whose end nobody knows count as `aborted` too: Kafka may have committed one of them.",
    "verihook_ledger_entries_total": "At rest while records are consumed: the ledger is off.",
    "verihook_records_in_progress": "Many while lag rises: commits are slow, or the loop hangs.",
    "verihook_group_lag_records": "Many records and few seconds are a burst.",
    "verihook_group_lag_seconds": "Above 60 s events are late: see the provider's consumer. "
    "Absent: the exporter could not know it; see its rounds and its log.",
    "verihook_group_committed_offset": "At rest while the log's end moves: nothing is committed.",
    "verihook_log_end_offset": "At rest: the gateway stores nothing there.",
    "verihook_group_members": "0: no consumer runs. More than the partitions: the surplus idles.",
    "verihook_group_partitions": "More consumers than this do not help.",
    "verihook_group_lost_records": "Ask the provider to send the gap again; raise retention.",
    "verihook_group_offsets_beyond_end": "The topic was made anew or its log cut; nothing is read "
    "there until the group is set back.",
    "verihook_group_stalled": "As `verihook_consumer_stalled`; true also when the process is gone.",
    "verihook_topic_retention_seconds": "Compare with the lag, and with the age of dead letters.",
    "verihook_dead_letters_waiting_records": "Mend the mapping, then `python -m consumers replay`.",
    "verihook_dead_letters_waiting_seconds": "Beyond half the topic's retention: replay now.",
    "verihook_export_rounds_total": "`partial`, `failed`: its log names what it could not ask.",
    "verihook_export_round_seconds": "Beyond the interval: Kafka answers slowly, the lag is old.",
    "verihook_export_last_round_timestamp_seconds": "Old: so is the lag; look at the exporter.",
    "verihook_canary_beats_total": "`refused`: see the gateway's rejections. `unanswered`: the "
    "public way in. `lost`: its consumer, then Kafka.",
    "verihook_canary_answer_seconds": "Compare with the gateway's own time to answer: the rest is "
    "the way in.",
    "verihook_canary_end_to_end_seconds": "What users feel: see the lag, then Kafka.",
    "verihook_canary_last_seen_timestamp_seconds": "Old: nothing goes all the way; see the beats.",
    "verihook_kafka_queue_records": "Growing: Kafka takes less than is produced.",
    "verihook_kafka_queue_limit_records": "At the limit nothing more is taken.",
    "verihook_kafka_brokers_up": "Only the cluster's brokers count. 0: the brokers, the network, "
    "the credentials.",
    "verihook_kafka_round_trip_seconds": "One broker: look at it. All: the network, or our CPU.",
    "verihook_kafka_round_trip_p99_seconds": "As the mean.",
    "verihook_kafka_request_retries_total": "For long: see which broker is slow.",
    "verihook_kafka_request_timeouts_total": "The broker is overloaded, or unreachable.",
    "verihook_kafka_request_errors_total": "Connections break: the network, or a broker restarts.",
    "verihook_kafka_rebalances_total": "Outside of rollouts: processes die, or batches take long.",
    "verihook_build_info": "Different versions for long: a rollout that did not end.",
    "verihook_ready": "0 for long: `GET /readyz?verbose` says what is wrong and since when.",
}
"""What a person does about a metric's number."""

LABELS: Mapping[str, str] = {
    "endpoint": f"names in the gateway's configuration, and `{UNKNOWN}`",
    "provider": f"names in the registers, and `{UNKNOWN}`",
    "code": "HTTP status of the answer",
    "key_id": "ids of keys in the gateway's configuration, and `unsigned`",
    "scheme": "names in the gateway's schemes; where a provider's proof has several forms, which",
    "stored": "`true` where the delivery was stored, else `false`",
    "native_type": f"types the provider's mapping knows, and `{OTHER}`",
    "reason": "for `verihook_records_ignored_total`: words of the mapping, not of the provider, "
    f"and `{OTHER}`",
    "field": f"paths of fields the mapping reads, never their values, and `{OTHER}`",
    "group": "`<prefix>normalize.<provider>`",
    "topic": "`<prefix>raw.<provider>`, `<prefix>dlq.<provider>`",
    "partition": "numbers",
    "client": "`producer`, `consumer`",
    "broker": "numbers of brokers",
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
            "verihook_transactions_total": get_args(TransactionEnd),
            "verihook_export_rounds_total": get_args(exporter.Result),
            "verihook_canary_beats_total": tuple(canary.RESULTS),
        },
        "reason": {
            "verihook_webhook_rejections_total": tuple(reason.label for reason in REASONS),
            "verihook_produce_errors_total": PRODUCE_FAILURES,
            "verihook_normalize_failures_total": kinds,
            "verihook_dead_letters_total": kinds,
            "verihook_commit_errors_total": get_args(CommitFailure),
        },
        "condition": {
            "verihook_ready": (
                *("topics", "accepting", "kafka"),  # the gateway
                *("group", "mapping"),  # beside topics, a consumer
                *canary.CONDITIONS,
            )
        },
        "stage": {"verihook_normalize_failures_total": tuple(sorted(set(STAGES.values())))},
        "change": {"verihook_rebalances_total": ("assigned", "revoked", "lost")},
        "trouble": {"verihook_dedup_troubles_total": get_args(DedupTrouble)},
        "category": {"verihook_events_normalized_total": get_args(Category)},
        "status": {"verihook_events_normalized_total": get_args(Status)},
        "outcome": {"verihook_events_normalized_total": get_args(Outcome)},
        "reason_code": {"verihook_reasons_total": get_args(ReasonCode)},
    }


ELSEWHERE = """
verihook_group_lag_records | | kafka_consumergroup_lag, \
kminion_kafka_consumer_group_topic_partition_lag
verihook_group_lag_seconds | | (they know records only)
verihook_group_committed_offset | | kafka_consumergroup_current_offset
verihook_log_end_offset | | kafka_topic_partition_current_offset, \
kminion_kafka_topic_partition_high_water_mark
verihook_group_members | | kafka_consumergroup_members, kminion_kafka_consumer_group_members
verihook_produce_total, verihook_produce_errors_total | messaging.client.sent.messages |
verihook_produce_ack_seconds | messaging.client.operation.duration, of send |
verihook_records_consumed_total | messaging.client.consumed.messages |
verihook_commit_seconds | messaging.client.operation.duration, of commit |
verihook_webhook_request_duration_seconds | http.server.request.duration |
verihook_webhook_requests_in_progress | http.server.active_requests |
verihook_webhook_body_bytes | http.server.request.body.size |
verihook_canary_end_to_end_seconds | | kminion_end_to_end_roundtrip_latency_seconds
"""
"""Ours, OpenTelemetry's word for the same, kafka_exporter's and KMinion's."""


@cache
def alerts_using(name: str) -> frozenset[str]:
    """Name the alerts whose expression rests on a series, be it through what is recorded."""
    found: set[str] = set()
    for rule in (rule for group in rules() for rule in group.rules):
        if re.search(rf"(?<![\w:]){re.escape(name)}(?![\w:])", rule.expr):
            found |= {rule.alert} if rule.alert else alerts_using(rule.record)
    return frozenset(found)


def panels_showing(metric: Metric) -> Iterator[str]:
    """Name the panels that show a metric, each after its board.

    Where it only chooses what else is shown, it is not shown.
    """
    for board in boards().values():
        for panel in board["panels"]:
            expressions = _CHOOSING.sub("", " ".join(one["expr"] for one in panel["targets"]))
            sourced = metric.name == "verihook_group_lag_records" and "$lag_source" in expressions
            if sourced or any(f"{name}{{" in expressions for name in metric.exposed):
                yield f"{board['title'].removeprefix('Verihook ')}: {panel['title']}"


def text() -> str:
    """Write the page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from ("# Metrics", "", INTRODUCTION)
    for title, metrics in sections().items():
        yield from ("", f"## {title}", "")
        yield "| metric | type | labels | says | what to do | shown | alerts |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for metric in metrics:
            labels = ", ".join(metric.labels)
            advice = TO_DO.get(metric.name, "")
            panels = "; ".join(panels_showing(metric))
            alerts = sorted({alert for name in metric.exposed for alert in alerts_using(name)})
            cells = (f"`{metric.name}`", metric.type, labels, metric.says, advice, panels)
            yield "| " + " | ".join((*cells, ", ".join(alerts))) + " |"
    yield from ("", "## Labels", "", "Values come from closed sets, never from a sender.", "")
    yield from ("| label | of | values |", "| --- | --- | --- |")
    for label, of_metrics in closed_sets().items():
        for name, values in of_metrics.items():
            yield f"| {label} | `{name}` | {', '.join(values)} |"
    for label, source in LABELS.items():
        yield f"| {label} | | {source} |"
    yield from ("", "## The same elsewhere", "")
    yield (
        "For whoever comes from other tools. OpenTelemetry's messaging metrics are experimental, "
        "so their names are not ours."
    )
    yield from ("", "| ours | OpenTelemetry | kafka_exporter, KMinion |", "| --- | --- | --- |")
    yield from (f"| {line} |" for line in ELSEWHERE.strip().splitlines())


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"written: {FILE.name}")
