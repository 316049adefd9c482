"""The four boards, built from Python: `python -m deploy.dashboards` writes deploy/grafana/*.json.

A test compares the files with what is built here, so edit here and never a file. Overview says
whether events are late and whose; the others say why.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from deploy.grafana import (
    Json,
    asked_variable,
    bars,
    board,
    chosen_variable,
    graph,
    heatmap,
    no_number,
    now,
    panel,
    query,
    source_variable,
    table,
    thresholds,
    tiles,
    written_variable,
)
from deploy.rules import ACKNOWLEDGEMENT, AVAILABILITY, FRESHNESS, LATE_SECONDS
from deploy.rules import RUNBOOKS as FOLDER_OF_RUNBOOKS

FOLDER = Path(__file__).resolve().parent / "grafana"
TAG = "verihook"

VERY_LATE_SECONDS = 300
"""Where the lag tiles turn red; amber is the freshness objective's bound."""

ANSWER_SECONDS = 1
"""The acknowledgement objective's bound."""

OBJECTIVES: Mapping[str, float] = {
    "availability": AVAILABILITY,
    "acknowledgement": ACKNOWLEDGEMENT,
    "freshness": FRESHNESS,
}

LAG_SOURCES: Mapping[str, str] = {
    "ours": "verihook_group_lag_records",
    "kafka_exporter": "kafka_consumergroup_lag",
    "kminion": "kminion_kafka_consumer_group_topic_partition_lag",
}
"""Whose word to take for lag in records: the values are the metrics' names."""

RUNBOOKS = FOLDER_OF_RUNBOOKS.rstrip("/")
"""Where the links to runbooks begin, until a person writes the address of theirs over it."""

# What the variables select. Metrics of a group know no provider: <prefix>normalize.<provider>,
# and neither do those of a topic: <prefix>raw.<provider>, <prefix>dlq.<provider>.
JOB = 'job=~"$job"'
PROVIDER = f'{JOB}, provider=~"$provider"'
KNOWN = f'{PROVIDER}, provider!="unknown"'
GROUP = f'{JOB}, group=~".*normalize[.]($provider)"'
RAW = f'{JOB}, topic=~".*raw[.]($provider)"'
DEAD = f'{JOB}, topic=~".*dlq[.]($provider)"'
RECORDED = 'provider=~"$provider"'
# An alert about a process has no provider, and no job where the process is missing.
FIRING = 'alertname=~"Verihook.*", alertstate="firing", provider=~"$provider|"'


def by_provider(series: str) -> str:
    """Give series of groups the label `provider`."""
    return f'label_replace({series}, "provider", "$1", "group", ".*normalize[.](.+)")'


def of_topics(series: str, kind: str) -> str:
    """Give series of topics the label `provider`; `kind` is raw or dlq."""
    return f'label_replace({series}, "provider", "$1", "topic", ".*{kind}[.](.+)")'


def of_endpoints(series: str) -> str:
    """Keep the endpoints of the chosen providers: not every metric of an endpoint names its own."""
    return f"{series} and on (endpoint) rate({REQUESTS}{{{PROVIDER}}}[$__rate_interval])"


def of_gateways(series: str) -> str:
    """Keep the gateway processes, of what every process exposes."""
    return f"{series} and on (job, instance) verihook_produce_queue_limit_records{{{JOB}}}"


def of_consumers(series: str) -> str:
    """Keep the chosen providers' consumers, of what every process exposes."""
    return f"{series} and on (job, instance) {OWNED}"


def rate(metric: str, labels: str) -> str:
    """Give a counter's increase per second."""
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def times(metric: str, labels: str) -> str:
    """Give how often something happened, per step of a graph."""
    return f"increase({metric}{{{labels}}}[$__rate_interval])"


def in_all(metric: str, labels: str) -> str:
    """Give how often something happened in the shown period, for queries of one moment."""
    return f"increase({metric}{{{labels}}}[$__range])"


def quantile(part: float, buckets: str, by: str = "le") -> str:
    """Give a quantile of a histogram's buckets."""
    return f"histogram_quantile({part}, sum by ({by}) ({buckets}))"


def age(metric: str, labels: str) -> str:
    """Give how old a timestamp is; absent before the first.

    time() would add the age of the scrape itself.
    """
    return f"timestamp({metric}{{{labels}}}) - ({metric}{{{labels}}} > 0)"


def slope(metric: str, labels: str) -> str:
    """Give how fast a gauge moves, per second; below 0 where it was set back."""
    return f"deriv({metric}{{{labels}}}[$__rate_interval])"


def once(series: str, by: str) -> str:
    """Take what several exporters say of the same thing once."""
    return f"max by ({by}) ({series})"


def sourced() -> str:
    """Give lag in records by `provider` and `partition`, from the source that was chosen.

    Each source names the group otherwise; a matcher that also takes the empty text lets those
    through that have not its label. kafka_exporter says -1 where a group has committed nothing.
    """
    ours = "(.*normalize[.]($provider))?"
    labels = ("group", "consumergroup", "group_id")
    matchers = ", ".join(f'{label}=~"{ours}"' for label in labels)
    series = f'({{__name__=~"$lag_source", {matchers}}} >= 0)'
    for label in labels:
        series = f'label_replace({series}, "provider", "$1", "{label}", ".*normalize[.](.+)")'
    return f'label_replace({series}, "partition", "$1", "partition_id", "(.+)")'


REQUESTS = "verihook_webhook_requests_total"
OUTSIDE = f"verihook_group_lag_seconds{{{GROUP}}}"
INSIDE = f"verihook_consumer_lag_seconds{{{GROUP}}}"
BEHIND = f"verihook_consumer_lag_records{{{GROUP}}}"
OWNED = f"verihook_assigned_partitions{{{GROUP}}}"
PARTITIONS = f"verihook_group_partitions{{{GROUP}}}"
LATENESS = ("green", LATE_SECONDS, "orange", VERY_LATE_SECONDS, "red")
DASHED = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}}


def told() -> str:
    """Give of how many partitions the lag is known, by provider."""
    return f"count by (provider) ({once(by_provider(OUTSIDE), 'provider, topic, partition')})"


def shared() -> str:
    """Give how many partitions a provider's group shares."""
    return once(by_provider(PARTITIONS), "provider")


def untold() -> str:
    """Give of how many partitions nobody knows the lag, by provider."""
    return f"{shared()} - ({told()} or 0 * {shared()})"


def lateness() -> str:
    """Give how late events are, by provider; NaN where nobody can say.

    In time is only who is in time in every partition; a partition that is late is late, whatever
    the others are. Who has a group or sends deliveries is named, though nobody knows the lag.
    """
    worst = once(by_provider(OUTSIDE), "provider")
    return (
        f"{worst} > {LATE_SECONDS} "
        f"or {worst} unless on (provider) {told()} < {shared()} "
        f"or NaN * {shared()} "
        f"or NaN * sum by (provider) ({rate(REQUESTS, KNOWN)})"
    )


def dashed(*letters: str) -> list[Json]:
    """Draw some of a graph's queries dashed."""
    return [
        {"matcher": {"id": "byFrameRefID", "options": letter}, "properties": [DASHED]}
        for letter in letters
    ]


# -- Overview --


def overview() -> Iterator[Json]:
    """Answer first: are my users' events late, whose, and by how many seconds."""
    yield from _now()
    yield from _objectives()
    yield from _flow()
    yield from _failures()
    yield from _canary()
    yield provider_by_provider()


def _now() -> Iterator[Json]:
    yield tiles(
        "How late events are, by provider",
        "Age of the oldest delivery that is stored and is no event yet, measured from outside, "
        "so it is true though every consumer is dead; the worst partition of each provider. Red: "
        "open Normalizer for that provider. unknown: no partition is known to be late, and of "
        "one at least nobody knows; the exporter is down, or it cannot ask Kafka for that "
        "partition. canary is ours, no user.",
        "s",
        now(lateness(), "{{provider}}"),
        LATENESS,
        width=12,
        named=True,
        empty="unknown",
        runbooks=("VerihookFreshnessBurningFast", "VerihookExporterMissing"),
    )
    yield tiles(
        "Alerts that fire",
        "How many alerts of ours fire; which, and what to do first, stands in the table below. "
        "no rules: Prometheus evaluates none, or has nothing to rule on; load "
        "deploy/prometheus/rules.yml, then look whether anything is scraped.",
        "short",
        now(
            f"count(ALERTS{{{FIRING}}}) or "
            f"0 * count(provider:verihook_answerable_requests:increase5m{{{RECORDED}}})"
        ),
        ("green", 1, "red"),
        width=4,
        empty="no rules",
    )
    yield tiles(
        "Processes that do not answer",
        "Scrape targets that are down. A dead consumer loses nothing: its lag goes on rising in "
        "the first panel. Look at the process and its last log lines; offsets are kept, it goes "
        "on where it stopped.",
        "short",
        now(f"sum(1 - up{{{JOB}}})"),
        ("green", 1, "red"),
        width=4,
        empty="none is scraped",
        runbooks=(
            "VerihookProcessDown",
            "VerihookGatewayMissing",
            "VerihookExporterMissing",
            "VerihookCanaryMissing",
        ),
    )
    yield tiles(
        "Canary last seen",
        "Since the last synthetic delivery went the whole way, from the public address to an "
        "event. Beyond two minutes: look at the canary's beats below; refused and unanswered are "
        "the way in, lost is the way from Kafka on.",
        "s",
        now(f"min({age('verihook_canary_last_seen_timestamp_seconds', JOB)})"),
        ("green", 120, "orange", 300, "red"),
        width=4,
        empty="not seen",
        runbooks=("VerihookCanaryMissing",),
    )


def _objectives() -> Iterator[Json]:
    columns: dict[str, tuple[str, str, Json | None]] = {}
    burning = []
    for name, objective in OBJECTIVES.items():
        errors = f"provider:verihook_{name}_errors:ratio_rate"
        month = f"max by (provider) ({errors}30d{{{RECORDED}}})"
        budget = round(1 - objective, 6)
        columns[name] = (f"1 - {month}", "percentunit", thresholds("red", objective, "green"))
        columns[f"{name}: budget left"] = (
            f"1 - {month} / {budget}",
            "percentunit",
            thresholds("red", 0, "orange", 0.25, "green"),
        )
        burning.append(
            query(
                f"max by (provider) ({errors}1h{{{RECORDED}}}) / {budget}",
                f"{{{{provider}}}} {name}",
            )
        )
    yield table(
        "Objectives over 30 days",
        "Availability: of the deliveries that were ours to take, how many we stored (99.9 %). "
        f"Acknowledgement: how many of the stored we answered within {ANSWER_SECONDS} s (99 %). "
        f"Freshness: minutes in which no event was later than {LATE_SECONDS} s (99 %; a minute "
        "nobody measured is a bad one). Budget left below 25 %: take no risks; below 0 the "
        "objective is missed.",
        "provider",
        columns,
        width=14,
        empty="no rules, or no requests",
    )
    yield graph(
        "How fast the budgets burn",
        "Errors of the last hour, as a multiple of what the objective allows. 1 uses up the "
        "budget in 30 days; the pages begin at 14.4 over an hour and at 6 over six hours. Open "
        "the runbook of the objective that burns.",
        "none",
        *burning,
        width=10,
        steps=("green", 1, "orange", 14.4, "red"),
        empty="no rules, or no requests",
        runbooks=(
            "VerihookAvailabilityBurningFast",
            "VerihookAvailabilityBurningSlowly",
            "VerihookAcknowledgementBurningFast",
            "VerihookAcknowledgementBurningSlowly",
            "VerihookFreshnessBurningFast",
            "VerihookFreshnessBurningSlowly",
        ),
    )


def _flow() -> Iterator[Json]:
    stored = rate(REQUESTS, KNOWN + ', result="stored"')
    out = rate("verihook_events_normalized_total", PROVIDER)
    yield graph(
        "Deliveries in, events out",
        "Deliveries stored and events written (dashed), per second. In without out: see that "
        "provider's lag, then its failures. Nothing in from one provider: ask whether it, or the "
        "way to us, is down. One delivery can be several events.",
        "cps",
        query(f"sum by (provider) ({stored})", "in {{provider}}"),
        query(f"sum by (provider) ({out})", "out {{provider}}"),
        overrides=dashed("B"),
        empty="no deliveries",
        runbooks=("VerihookEndpointSilent",),
    )
    buckets = rate("verihook_end_to_end_seconds_bucket", PROVIDER)
    yield graph(
        "From receipt to event",
        "Of the deliveries that became events: seconds from the gateway's receipt to the "
        "acknowledged event; the line is the target. Rising with the lag: consumers are too few "
        "or too slow, add one (up to the partition count). Rising without it: Kafka acknowledges "
        "slowly, see the barrier on Normalizer.",
        "s",
        *(query(quantile(part / 100, buckets), f"p{part}") for part in (50, 95, 99)),
        steps=("green", LATE_SECONDS, "red"),
        empty="no events",
    )
    yield graph(
        "How late events are, over time",
        "The first panel as a graph, with the freshness target as a line. A ramp of one second "
        "per second: nothing is read at all, look at the consumer. A slower ramp: more comes in "
        "than is read. One provider: its consumer or mapping. All: Kafka. A gap: unknown.",
        "s",
        query(lateness(), "{{provider}}"),
        steps=("green", LATE_SECONDS, "red"),
        empty="unknown",
        runbooks=("VerihookFreshnessBurningFast", "VerihookLagNearRetention"),
    )


def _failures() -> Iterator[Json]:
    rejections = rate("verihook_webhook_rejections_total", PROVIDER)
    yield graph(
        "Rejections by reason",
        "Requests that were not stored. signature_mismatch: a secret was rotated at the provider "
        "(add the new one beside the old), or somebody is forging. kafka_*: the brokers. "
        "overloaded: add a gateway process. By endpoint: open Gateway.",
        "reqps",
        query(f"sum by (reason) ({rejections}) > 0", "{{reason}}"),
        width=6,
        empty="nothing was refused",
        runbooks=(
            "VerihookRejectionsRising",
            "VerihookEndpointStoresNothing",
            "VerihookEndpointStoresNothingSlowly",
        ),
    )
    failures = times("verihook_normalize_failures_total", PROVIDER)
    yield graph(
        "Failures by reason",
        "Records that became dead letters, which wait with their bytes. unknown_type, "
        "schema_mismatch, invalid_json: the provider changed something. bug: ours. Mend the "
        "mapping, then `python -m consumers replay`; by stage and provider: open Normalizer.",
        "short",
        query(f"sum by (provider, reason) ({failures}) > 0", "{{provider}} {{reason}}"),
        width=6,
        empty="no failures",
        runbooks=("VerihookDeadLettersWaiting",),
    )
    not_ready = f"sum by (job, condition) (1 - verihook_ready{{{JOB}}}) > 0"
    yield bars(
        "Not ready, and why",
        "Processes that answer and cannot work, by the condition that is missing; one that does "
        "not answer at all is counted above. `GET /readyz?verbose` on the process says since "
        "when. Short after a start; for longer: its log names the reason.",
        "short",
        now(not_ready, "{{job}} {{condition}}"),
        width=6,
        empty="all are ready",
    )
    versions = f"count by (job, version, librdkafka) (verihook_build_info{{{JOB}}})"
    yield bars(
        "Versions that run",
        "How many processes run which version of Verihook, with which librdkafka. Two versions "
        "of a job for longer than a rollout takes: it did not end; see which process was not "
        "started anew.",
        "short",
        now(versions, "{{job}} {{version}}, librdkafka {{librdkafka}}"),
        width=6,
        empty="no process",
    )


def _canary() -> Iterator[Json]:
    seen = rate("verihook_canary_end_to_end_seconds_bucket", JOB)
    answered = rate("verihook_canary_answer_seconds_bucket", JOB)
    yield graph(
        "Canary: from POST to event",
        "A synthetic delivery on the way a provider's goes: until the gateway's answer, and until "
        "its event can be read. Only the second rises: consumers or Kafka. Both: the gateway, "
        "Kafka, or the public way in. It is what users feel on a quiet night too.",
        "s",
        query(quantile(0.5, seen), "event p50"),
        query(quantile(0.99, seen), "event p99"),
        query(quantile(0.99, answered), "answer p99"),
        empty="no beats",
    )
    beats = times("verihook_canary_beats_total", JOB)
    yield graph(
        "Canary: beats",
        "How its deliveries ended. refused: the gateway said no, see the canary's rejections. "
        "unanswered: nobody took the connection or answered in time; look at the public way in. "
        "lost: stored and no event in time; look at the canary's consumer, then at Kafka.",
        "short",
        query(f"sum by (result) ({beats})", "{{result}}"),
        empty="no beats",
        runbooks=("VerihookCanaryMissing",),
    )
    yield panel(
        "table",
        "Which alerts fire",
        "Each alert of ours that fires now; its name is a link to its runbook, which has three "
        "commands to run first. critical pages somebody, warning is a ticket. Empty is good, if "
        "the tile above says 0 and not that there are no rules.",
        "short",
        [
            {
                **now(f"sum by (alertname, severity, provider) (ALERTS{{{FIRING}}})"),
                "format": "table",
            }
        ],
        defaults={"noValue": "nothing fires"},
        options={"showHeader": True, "sortBy": [{"displayName": "severity", "desc": False}]},
        overrides=[
            {
                "matcher": {"id": "byName", "options": "alertname"},
                "properties": [
                    {
                        "id": "links",
                        "value": [
                            {
                                "title": "Runbook",
                                "url": "${runbooks:raw}/${__value.raw}.md",
                                "targetBlank": True,
                            }
                        ],
                    }
                ],
            }
        ],
        transformations=[
            {
                "id": "filterFieldsByName",
                "options": {"include": {"names": ["alertname", "severity", "provider"]}},
            }
        ],
    )


def provider_by_provider() -> Json:
    """Give a row of numbers per provider."""
    topic = "provider, topic"
    lost = once(by_provider(f"verihook_group_lost_records{{{GROUP}}}"), topic)
    beyond = once(by_provider(f"verihook_group_offsets_beyond_end{{{GROUP}}}"), topic)
    stalled = by_provider(f"verihook_group_stalled{{{GROUP}}}")
    waiting = of_topics(f"verihook_dead_letters_waiting_records{{{DEAD}}}", "dlq")
    waiting = once(waiting, topic)
    behind = once(sourced(), "provider, topic, topic_name, partition")
    received = in_all("verihook_end_to_end_seconds_bucket", PROVIDER)
    records = rate("verihook_records_consumed_total", PROVIDER)
    dead = in_all("verihook_dead_letters_total", PROVIDER)
    attention = thresholds("text", 0.5, "orange")
    alarm = thresholds("text", 1, "red")
    columns: dict[str, tuple[str, str, Json | None]] = {
        "late by": (lateness(), "s", thresholds(*LATENESS)),
        "records behind": (f"sum by (provider) ({behind})", "short", None),
        "lag unknown": (untold(), "short", attention),
        "records/s": (f"sum by (provider) ({records})", "cps", None),
        "p95": (quantile(0.95, received, "provider, le"), "s", None),
        "new dead letters": (f"sum by (provider) ({dead})", "short", attention),
        "dead letters waiting": (f"sum by (provider) ({waiting})", "short", attention),
        "stalled": (f"max by (provider) ({stalled})", "short", alarm),
        "records lost": (f"sum by (provider) ({lost})", "short", alarm),
        "offsets beyond the end": (f"sum by (provider) ({beyond})", "short", alarm),
    }
    return table(
        "Provider by provider",
        "Lag unknown: partitions whose lag nobody knows. p95: seconds from receipt to event in "
        "the shown period. Dead letters: read their reason above, mend the mapping; they wait "
        "with their bytes. Stalled: nothing more is read, because most records fail; mend the "
        "mapping. Records lost: deleted by Kafka's retention before they were read; ask the "
        "provider to send them again. Offsets beyond the end: the topic was made anew or its log "
        "cut; nothing is read until the group is set back.",
        "provider",
        columns,
        width=24,
        cells=[
            {
                "matcher": {"id": "byName", "options": "late by"},
                "properties": [{"id": "mappings", "value": no_number("unknown")}],
            }
        ],
        runbooks=(
            "VerihookConsumerStalled",
            "VerihookRecordsLost",
            "VerihookOffsetBeyondEnd",
            "VerihookDeadLettersWaiting",
        ),
    )


# -- Gateway --


def gateway() -> Iterator[Json]:
    """What came in, what was refused and why, and how Kafka takes it."""
    yield from _requests()
    yield from _time_to_answer()
    yield from _keys()
    yield from _producer()
    yield from _gateway_process()


def _requests() -> Iterator[Json]:
    yield graph(
        "Requests by endpoint and result",
        "stored: Kafka has it. ignored: answered 200, nothing to store. rejected: refused for "
        "good reason. unavailable: 503, the provider sends again. error: a bug of ours, its log "
        "line has the delivery id and the place in the code.",
        "reqps",
        query(
            f"sum by (endpoint, result) ({rate(REQUESTS, PROVIDER)}) > 0", "{{endpoint}} {{result}}"
        ),
        empty="no requests",
        runbooks=(
            "VerihookEndpointSilent",
            "VerihookEndpointStoresNothing",
            "VerihookEndpointStoresNothingSlowly",
            "VerihookGatewayMissing",
        ),
    )
    answerable = rate(REQUESTS, PROVIDER + ', result=~"stored|unavailable|error"')
    failed = rate(REQUESTS, PROVIDER + ', result=~"unavailable|error"')
    yield graph(
        "Not taken, of what we had to take",
        "The share answered 503 or 500 of what was ours to store, by endpoint; refused signatures "
        "are not ours to answer for. Above 0: the providers send again, so events are late and "
        "not lost; see the reasons beside this, then Kafka below.",
        "percentunit",
        query(
            f"sum by (endpoint) ({failed}) / (sum by (endpoint) ({answerable}) > 0)", "{{endpoint}}"
        ),
        empty="no requests",
        runbooks=("VerihookAvailabilityBurningFast", "VerihookAvailabilityBurningSlowly"),
    )
    rejections = rate("verihook_webhook_rejections_total", PROVIDER)
    yield graph(
        "Rejections by endpoint and reason",
        "signature_mismatch: a secret was rotated at the provider (add the new one beside the "
        "old), or somebody is forging. unknown_client: Veriff names another integration. kafka_*: "
        "see Kafka's own reason below. overloaded: add a gateway process. client_gone: the "
        "sender gave up.",
        "reqps",
        query(f"sum by (endpoint, reason) ({rejections}) > 0", "{{endpoint}} {{reason}}"),
        empty="nothing was refused",
        runbooks=("VerihookRejectionsRising",),
    )


def _time_to_answer() -> Iterator[Json]:
    duration = "verihook_webhook_request_duration_seconds"
    stored = f'{PROVIDER}, stored="true"'
    yield graph(
        "Time to answer what was stored, by endpoint",
        "From a request's head to its 200. Compare with Kafka's acknowledgement: what is not its "
        "part is slow senders, or a process without CPU. Beyond 5 s providers get 503 and send "
        "again; the line is the objective.",
        "s",
        query(
            quantile(0.5, rate(f"{duration}_bucket", stored), "endpoint, le"), "{{endpoint}} p50"
        ),
        query(
            quantile(0.99, rate(f"{duration}_bucket", stored), "endpoint, le"), "{{endpoint}} p99"
        ),
        steps=("green", ANSWER_SECONDS, "red"),
        overrides=dashed("A"),
        empty="nothing was stored",
        runbooks=("VerihookAcknowledgementBurningFast", "VerihookAcknowledgementBurningSlowly"),
    )
    within = rate(f"{duration}_bucket", f'{stored}, le="{ANSWER_SECONDS}.0"')
    yield graph(
        "Answered in time, of what was stored",
        f"The share of stored deliveries that were answered within {ANSWER_SECONDS} s; 99 % is "
        "the objective. Below: providers begin to give up and to send again, which is more load. "
        "Look at Kafka's acknowledgement first, then at CPU.",
        "percentunit",
        query(
            f"sum by (endpoint) ({within}) / "
            f"(sum by (endpoint) ({rate(f'{duration}_count', stored)}) > 0)",
            "{{endpoint}}",
        ),
        empty="nothing was stored",
        runbooks=("VerihookAcknowledgementBurningFast",),
    )
    acknowledged = rate("verihook_produce_ack_seconds_bucket", RAW)
    yield graph(
        "Kafka's acknowledgement, by topic",
        "From handing a delivery to the producer until all replicas have it. One topic: the "
        "brokers that lead it, or a replica of it that is out. All: the brokers, or the way to "
        "them; the round trip below tells which broker.",
        "s",
        query(quantile(0.5, acknowledged, "topic, le"), "{{topic}} p50"),
        query(quantile(0.99, acknowledged, "topic, le"), "{{topic}} p99"),
        overrides=dashed("A"),
        empty="no deliveries",
    )


def _keys() -> Iterator[Json]:
    keys = of_endpoints(rate("verihook_signature_key_used_total", JOB))
    stale = of_endpoints(rate("verihook_webhook_stale_total", JOB))
    yield graph(
        "Keys in use",
        "Deliveries by the key and scheme that verified them: a rotation is complete when the "
        "old key is at rest. stale: the signed time was outside the tolerance; look at our "
        "clock, then for replays.",
        "cps",
        query(f"sum by (endpoint, key_id, scheme) ({keys})", "{{endpoint}} {{key_id}} {{scheme}}"),
        query(f"sum by (endpoint) ({stale}) > 0", "{{endpoint}} stale"),
        empty="no deliveries",
        runbooks=("VerihookOldSecretInUse",),
    )
    used = of_endpoints(in_all("verihook_signature_key_used_total", JOB))
    retires = f"verihook_signature_key_retires_timestamp_seconds{{{JOB}}}"
    left = of_endpoints(f"{retires} - timestamp({retires})")
    yield bars(
        "Keys that retire: time left",
        "Seconds until the date at which a key is to be taken away, for keys with `retires` in "
        "the configuration; the key goes on verifying after it. Little left while the key is "
        "still used: ask the provider to finish its rotation.",
        "s",
        now(f"min by (endpoint, key_id) ({left})", "{{endpoint}} {{key_id}}"),
        width=4,
        empty="no key retires",
        runbooks=("VerihookOldSecretInUse",),
    )
    yield bars(
        "Deliveries by key",
        "How many deliveries each key verified in the shown period. An old key at 0 for longer "
        "than the provider goes on retrying can be taken away. A new one at 0: the provider does "
        "not sign with it yet.",
        "short",
        now(f"sum by (endpoint, key_id) ({used})", "{{endpoint}} {{key_id}}"),
        width=4,
        empty="no deliveries",
    )
    sizes = of_endpoints(times("verihook_webhook_body_bytes_bucket", JOB))
    yield heatmap(
        "Body sizes",
        "Stored bodies by size. A provider that drifts towards the limit (900 KiB, Treezor 256 "
        "KiB) is about to be refused with body_too_large: ask it what changed.",
        "bytes",
        query(f"sum by (le) ({sizes})", "{{le}}"),
        empty="nothing was stored",
    )


def _producer() -> Iterator[Json]:
    produced, refused = (
        rate("verihook_produce_total", RAW),
        times("verihook_produce_errors_total", RAW),
    )
    yield graph(
        "Handed to Kafka, by topic",
        "Deliveries given to the producer per second, and those Kafka did not take. "
        "not_authorised: the gateway's rights on the raw topics. too_large: the topic's "
        "max.message.bytes. timeout: the brokers, the replicas in sync.",
        "cps",
        query(f"sum by (topic) ({produced})", "{{topic}}"),
        query(f"sum by (topic, reason) ({refused}) > 0", "{{topic}} {{reason}}"),
        empty="no deliveries",
    )
    yield graph(
        "Queue to Kafka, against its limit",
        "Deliveries inside the producer that Kafka has not acknowledged, and how many fit "
        "(dashed). Growing: Kafka takes less than comes in. At the limit deliveries are answered "
        "503. Nothing here is acknowledged yet, so nothing is lost with the process.",
        "short",
        query(f"sum by (instance) (verihook_produce_queue_records{{{JOB}}})", "{{instance}}"),
        query(
            f"sum by (instance) (verihook_produce_queue_limit_records{{{JOB}}})",
            "{{instance}} limit",
        ),
        overrides=dashed("B"),
        empty="no gateway",
        runbooks=("VerihookProduceQueueFilling",),
    )
    trip = of_gateways(f"verihook_kafka_round_trip_seconds{{{JOB}}}")
    slow = of_gateways(f"verihook_kafka_round_trip_p99_seconds{{{JOB}}}")
    yield graph(
        "Round trip to the brokers",
        "How long each broker takes to answer the gateway's producer: mean (dashed), and what 99 "
        "of 100 requests need. One broker: look at it, or take it out. All: the network, or the "
        "gateway has no CPU.",
        "s",
        query(f"max by (broker) ({trip})", "broker {{broker}} mean"),
        query(f"max by (broker) ({slow})", "broker {{broker}} p99"),
        overrides=dashed("A"),
        empty="Kafka was not asked lately",
    )


def _gateway_process() -> Iterator[Json]:
    counters = ("retries", "timeouts", "errors")
    yield graph(
        "Trouble with the brokers",
        "Requests to Kafka that were sent again, not answered in time, or lost with their "
        "connection; deliveries wait meanwhile and are not lost. Any for long: see the round "
        "trip for which broker, then the brokers' logs.",
        "short",
        *(
            query(
                f"sum({of_gateways(times(f'verihook_kafka_request_{name}_total', JOB))}) > 0", name
            )
            for name in counters
        ),
        empty="no trouble",
    )
    progress = of_endpoints(f"verihook_webhook_requests_in_progress{{{JOB}}}")
    yield graph(
        "Requests in hand, by endpoint",
        "Requests being read, verified or waiting for Kafka. Rising with the queue to Kafka: "
        "Kafka is slow. Rising alone: slow senders. Beyond GATEWAY_MAX_IN_FLIGHT they are "
        "refused as overloaded: add a gateway process.",
        "short",
        query(f"sum by (endpoint) ({progress})", "{{endpoint}}"),
        empty="no requests",
    )
    ready = of_gateways(f"verihook_ready{{{JOB}}}")
    up = of_gateways(f"verihook_kafka_brokers_up{{{JOB}}}")
    reloads = times("verihook_configuration_reloads_total", JOB)
    failing = f"max by (instance) (verihook_configuration_reload_failing{{{JOB}}})"
    yield graph(
        "Ready, connected, reloaded",
        "Each condition of readiness (1 or 0, the worst process), the cluster's brokers that "
        "are connected, and reloads of endpoints and secrets. A condition at 0: `GET "
        "/readyz?verbose` says since when. reload failing (while it lasts, by process): the old "
        "configuration is in force, the log says what is wrong.",
        "short",
        query(f"min by (condition) ({ready})", "{{condition}}"),
        query(f"min({up})", "brokers connected"),
        query(f"sum by (result) ({reloads}) > 0", "reload {{result}}"),
        query(f"{failing} > 0", "reload failing at {{instance}}"),
        empty="no gateway",
        runbooks=("VerihookReloadFailed",),
    )


# -- Normalizer --


def normalizer() -> Iterator[Json]:
    """How far each partition is, what could not be read, and how the loop fares."""
    yield from _lag()
    yield from _reading()
    yield from _unreadable()
    yield from _loop()
    yield from _trust()
    yield from _beside()


def _lag() -> Iterator[Json]:
    per_partition, legend = "provider, partition", "{{provider}} {{partition}}"
    seconds = (
        "One partition: one key sends much, or its records are slow. All: add consumers, or see "
        "Kafka."
    )
    yield graph(
        "Lag in seconds, from outside",
        f"By partition, as the exporter measures it: the authority, also when every consumer is "
        f"dead. {seconds} unknown: of how many partitions nobody knows the lag (right axis); "
        "see the exporter below.",
        "s",
        query(once(by_provider(OUTSIDE), per_partition), legend),
        query(f"{untold()} > 0", "{{provider}} unknown"),
        overrides=[
            {
                "matcher": {"id": "byFrameRefID", "options": "B"},
                "properties": [
                    {"id": "unit", "value": "short"},
                    {"id": "custom.axisPlacement", "value": "right"},
                    DASHED,
                ],
            }
        ],
        width=6,
        steps=("green", LATE_SECONDS, "red"),
        empty="nobody knows the lag",
        runbooks=("VerihookFreshnessBurningFast", "VerihookFreshnessBurningSlowly"),
    )
    yield graph(
        "Lag in seconds, from inside",
        f"By partition, as the consumers know it. {seconds} Missing while the outside rises: the "
        "consumer is dead or owns nothing. Small while the outside rises: it cannot commit.",
        "s",
        query(f"max by ({per_partition}) ({by_provider(INSIDE)})", legend),
        width=6,
        steps=("green", LATE_SECONDS, "red"),
        empty="no consumer",
    )
    yield graph(
        "Lag in records, from outside",
        "By partition, from the source chosen above. Many records and few seconds: a burst, "
        "wait. Few records and many seconds: the loop is stuck; see its pulse, and the log. "
        "kafka_exporter and KMinion know no seconds.",
        "short",
        query(f"max by ({per_partition}) ({sourced()})", legend),
        width=6,
        empty="nobody knows the lag",
    )
    retention = of_topics(f"verihook_topic_retention_seconds{{{RAW}}}", "raw")
    yield graph(
        "Lag, as a share of the retention",
        "At 100 % Kafka deletes deliveries that are no events yet. Rising towards it: raise "
        "retention.ms of the raw topic first, then find out why nothing is read. Absent where "
        "the topic keeps everything, or does not tell, and where the lag is unknown.",
        "percentunit",
        query(
            f"({lateness()}) / on (provider) min by (provider) ({retention})",
            "{{provider}}",
        ),
        width=6,
        steps=("green", 0.5, "red"),
        empty="no retention is known",
        runbooks=("VerihookLagNearRetention",),
    )


def _reading() -> Iterator[Json]:
    partition = "provider, topic, partition"
    produced = once(of_topics(slope("verihook_log_end_offset", RAW), "raw"), partition)
    consumed = once(by_provider(slope("verihook_group_committed_offset", GROUP)), partition)
    yield graph(
        "Consumption against production",
        "Records written to the raw topic and records committed (dashed), per second, both from "
        "outside. Committed below written for long: add a consumer, up to the partition count. "
        "Committed at 0: see the pulse beside this. Below 0: somebody set the group back, or the "
        "topic was made anew.",
        "cps",
        query(f"sum by (provider) ({produced})", "{{provider}} written"),
        query(f"sum by (provider) ({consumed})", "{{provider}} committed"),
        overrides=dashed("B"),
        least=None,
        empty="no exporter",
    )
    polled = age("verihook_consumer_last_poll_timestamp_seconds", GROUP)
    committed = age("verihook_consumer_last_commit_timestamp_seconds", GROUP)
    waiting = f"({committed}) and on (job, instance, group) ({BEHIND} > 0)"
    yield graph(
        "Pulse",
        "Since the last poll: seconds mean that the loop hangs; after 5 minutes the group takes "
        "its partitions. Since the last commit, while records wait: work is done and not "
        "finished; see the commit beside this and the log.",
        "s",
        query(f"max by (provider) ({by_provider(polled)})", "{{provider}} poll"),
        query(f"max by (provider) ({by_provider(waiting)})", "{{provider}} commit"),
        empty="no consumer",
    )
    members = by_provider(f"verihook_group_members{{{GROUP}}}")
    in_hand = by_provider(f"verihook_records_in_progress{{{GROUP}}}")
    yield graph(
        "Members, partitions, records in hand",
        "Processes in the group, the partitions they share (both from outside), the partitions "
        "each process says it owns, and records read and not yet committed. More members than "
        "partitions: the surplus idles. Owned below partitions for long: one has no owner.",
        "short",
        query(f"max by (provider) ({members})", "{{provider}} members"),
        query(shared(), "{{provider}} partitions"),
        query(f"sum by (provider) ({by_provider(OWNED)})", "{{provider}} owned"),
        query(f"sum by (provider) ({in_hand})", "{{provider}} records in hand"),
        empty="no group",
        runbooks=("VerihookMoreConsumersThanPartitions",),
    )


def _unreadable() -> Iterator[Json]:
    failures = times("verihook_normalize_failures_total", PROVIDER)
    yield graph(
        "Failures by stage and reason",
        "Records that could not be read, each a dead letter with its bytes and the reason. "
        "unknown_type: the provider has a new webhook. schema_mismatch, invalid_json: it changed "
        "one. bug: ours. `python -m consumers explain` shows where one fails; mend the mapping.",
        "short",
        query(
            f"sum by (provider, stage, reason) ({failures}) > 0",
            "{{provider}} {{stage}} {{reason}}",
        ),
        empty="no failures",
        runbooks=("VerihookConsumerStalled",),
    )
    unmapped = in_all("verihook_unmapped_values_total", PROVIDER)
    ignored = in_all("verihook_records_ignored_total", PROVIDER)
    yield bars(
        "Unknown words, ignored records",
        "In the shown period. Unknown words: the provider changed its vocabulary; the events say "
        "unknown or unmapped until our table knows the word. Ignored: known kinds that "
        "deliberately become no event; nothing to do.",
        "short",
        now(f"sum by (provider, field) ({unmapped}) > 0", "{{provider}} unknown {{field}}"),
        now(f"sum by (provider, reason) ({ignored}) > 0", "{{provider}} ignored {{reason}}"),
        empty="every word was known",
        runbooks=("VerihookUnmappedValues",),
    )
    topic = "provider, topic"
    dead = times("verihook_dead_letters_total", PROVIDER)
    waiting = of_topics(f"verihook_dead_letters_waiting_records{{{DEAD}}}", "dlq")
    oldest = of_topics(f"verihook_dead_letters_waiting_seconds{{{DEAD}}}", "dlq")
    yield graph(
        "Dead letters, new and waiting",
        "New: set aside since the last step. Waiting: no replay has passed them yet; age: of the "
        "oldest (right axis). Mend the mapping, then `python -m consumers replay` before the "
        "dead topic's retention deletes them.",
        "short",
        query(f"sum by (provider) ({dead}) > 0", "{{provider}} new"),
        query(f"sum by (provider) ({once(waiting, topic)}) > 0", "{{provider}} waiting"),
        query(f"max by (provider) ({oldest}) > 0", "{{provider}} age"),
        overrides=[
            {
                "matcher": {"id": "byFrameRefID", "options": "C"},
                "properties": [
                    {"id": "unit", "value": "s"},
                    {"id": "custom.axisPlacement", "value": "right"},
                    DASHED,
                ],
            }
        ],
        empty="none waits",
        runbooks=("VerihookDeadLettersWaiting",),
    )


def _loop() -> Iterator[Json]:
    barrier = by_provider(rate("verihook_barrier_seconds_bucket", GROUP))
    commit = by_provider(rate("verihook_commit_seconds_bucket", GROUP))
    yield graph(
        "Barrier and commit",
        "p99 of how long Kafka takes to acknowledge the outputs (barrier), and then the commit "
        "(dashed; exactly once: the transaction's). Barrier: the brokers that lead the output "
        "topic. Commit: the group's or the transaction's coordinator.",
        "s",
        query(quantile(0.99, barrier, "provider, le"), "{{provider}} barrier"),
        query(quantile(0.99, commit, "provider, le"), "{{provider}} commit"),
        overrides=dashed("B"),
        empty="nothing was committed",
    )
    transactions = by_provider(rate("verihook_transactions_total", GROUP))
    ledger = by_provider(rate("verihook_ledger_entries_total", GROUP))
    yield graph(
        "Transactions and ledger",
        "Transactions per second that ended so, and entries written to the ledger; none of "
        "either where they are not switched on. aborted: the work is redone, nothing is lost; "
        "many for long: the log names the reason.",
        "cps",
        query(f"sum by (provider, result) ({transactions})", "{{provider}} {{result}}"),
        query(f"sum by (provider) ({ledger})", "{{provider}} ledger"),
        empty="not switched on",
    )
    counters = (
        ("verihook_rebalances_total", ", change", "{{change}}"),
        ("verihook_commit_errors_total", ", reason", "commit {{reason}}"),
        ("verihook_consumer_interruptions_total", "", "interrupted"),
        ("verihook_client_errors_total", "", "client error"),
        ("verihook_produce_queue_full_total", "", "queue full"),
    )
    rebalances = of_consumers(times("verihook_kafka_rebalances_total", JOB))
    yield graph(
        "Unrest",
        "assigned and revoked belong to a rollout; lost, or a rebalance that repeats, does not: "
        "batches take too long, or processes die. commit: the work is redone, nothing is lost. "
        "interrupted, client error, queue full: Kafka; the log names the reason.",
        "short",
        *(
            query(
                f"sum by (provider{label}) ({by_provider(times(metric, GROUP))}) > 0",
                "{{provider}} " + legend,
            )
            for metric, label, legend in counters
        ),
        query(f"sum({rebalances}) > 0", "rebalances, those included that changed nothing"),
        empty="all quiet",
    )


def _trust() -> Iterator[Json]:
    waiting = by_provider(f"verihook_dedup_catching_up_partitions{{{GROUP}}}")
    unchecked = times("verihook_dedup_unchecked_total", PROVIDER)
    troubles = by_provider(times("verihook_dedup_troubles_total", GROUP))
    yield graph(
        "Dedup: unrest",
        "Waiting: partitions whose duplicates are not known yet; for long: give "
        "CONSUMER_STATE_DIR a disk that stays. Unchecked: that took too long, duplicates may "
        "have passed; merge on event_id. Troubles: late, unreadable, discarded; see the log.",
        "short",
        query(f"sum by (provider) ({waiting}) > 0", "{{provider}} waiting"),
        query(f"sum by (provider) ({unchecked}) > 0", "{{provider}} unchecked"),
        query(f"sum by (provider, trouble) ({troubles}) > 0", "{{provider}} {{trouble}}"),
        empty="all quiet",
    )
    stalled = by_provider(f"verihook_consumer_stalled{{{GROUP}}}")
    outside = by_provider(f"verihook_group_stalled{{{GROUP}}}")
    lost = by_provider(times("verihook_records_lost_to_retention_total", GROUP))
    topic = "provider, topic"
    missing = once(by_provider(f"verihook_group_lost_records{{{GROUP}}}"), topic)
    beyond = once(by_provider(f"verihook_group_offsets_beyond_end{{{GROUP}}}"), topic)
    yield graph(
        "Stalled, lost, beyond the end",
        "stalled (from inside and outside): most records failed and nothing more is read; mend "
        "the mapping, start anew, or `python -m consumers resume`. lost: Kafka deleted records "
        "before they were read; ask the provider for them. beyond the end: the log was cut.",
        "short",
        query(f"max by (provider) ({stalled}) > 0", "{{provider}} stalled, inside"),
        query(f"max by (provider) ({outside}) > 0", "{{provider}} stalled, outside"),
        query(f"sum by (provider) ({lost}) > 0", "{{provider}} lost, noticed inside"),
        query(f"sum by (provider) ({missing}) > 0", "{{provider}} lost, outside"),
        query(f"sum by (provider) ({beyond}) > 0", "{{provider}} partitions beyond the end"),
        empty="nothing of the kind",
        runbooks=("VerihookConsumerStalled", "VerihookRecordsLost", "VerihookOffsetBeyondEnd"),
    )
    slow = of_consumers(f"verihook_kafka_round_trip_p99_seconds{{{JOB}}}")
    mean = of_consumers(f"verihook_kafka_round_trip_seconds{{{JOB}}}")
    yield graph(
        "Round trip to the brokers",
        "How long each broker takes to answer the consumers' clients: mean (dashed), and what 99 "
        "of 100 requests need. A consumer's fetch waits for records, so up to half a second is "
        "idleness; the producer's tells of the broker.",
        "s",
        query(f"max by (client, broker) ({mean})", "{{client}}, broker {{broker}} mean"),
        query(f"max by (client, broker) ({slow})", "{{client}}, broker {{broker}} p99"),
        overrides=dashed("A"),
        empty="Kafka was not asked lately",
    )


def _beside() -> Iterator[Json]:
    queue = of_consumers(f"verihook_kafka_queue_records{{{JOB}}}")
    limit = of_consumers(f"verihook_kafka_queue_limit_records{{{JOB}}}")
    yield graph(
        "Outputs on their way to Kafka",
        "Records in the consumers' producers that Kafka has not acknowledged, and how many fit "
        "(dashed); the fullest process. Growing: Kafka takes less than is produced; at the limit "
        "the loop waits, and lag rises.",
        "short",
        query(f"max by (client) ({queue})", "{{client}}"),
        query(f"max by (client) ({limit})", "{{client}} limit"),
        overrides=dashed("B"),
        empty="no consumer",
    )
    ready = of_consumers(f"verihook_ready{{{JOB}}}")
    up = of_consumers(f"verihook_kafka_brokers_up{{{JOB}}}")
    yield graph(
        "Ready and connected",
        "Each condition of readiness (1 or 0, the worst process), and the cluster's brokers "
        "that are connected. A condition at 0: `GET /readyz?verbose` says since when. None: "
        "the brokers, the network, the credentials.",
        "short",
        query(f"min by (condition) ({ready})", "{{condition}}"),
        query(f"min by (client) ({up})", "{{client}}: brokers connected"),
        empty="no consumer",
    )
    rounds = times("verihook_export_rounds_total", JOB)
    last = age("verihook_export_last_round_timestamp_seconds", JOB)
    took = f"max(verihook_export_round_seconds{{{JOB}}})"
    yield graph(
        "The exporter's rounds",
        "Who tells the lag from outside: how its rounds ended, how long one takes, how old the "
        "last is (right axis). failed or partial: it could not ask Kafka, or has no right to; "
        "its log names the reason. Old: the lag above is old.",
        "short",
        query(f"sum by (result) ({rounds})", "{{result}}"),
        query(took, "a round takes"),
        query(f"max({last})", "age of the last"),
        overrides=[
            {
                "matcher": {"id": "byFrameRefID", "options": letter},
                "properties": [
                    {"id": "unit", "value": "s"},
                    {"id": "custom.axisPlacement", "value": "right"},
                    DASHED,
                ],
            }
            for letter in ("B", "C")
        ],
        empty="no exporter",
        runbooks=("VerihookExporterMissing",),
    )


# -- Providers --

_RECORD = (
    "Every event counts, a provider's retry of a person too: for persons the topic is the record, "
    "not Prometheus."
)


def providers() -> Iterator[Json]:
    """What the providers say of people, as rates; the topic, not Prometheus, is the record."""
    events = "verihook_events_normalized_total"
    decided = PROVIDER + ', outcome!="none"'
    passed = in_all(events, PROVIDER + ', outcome="pass"')
    yield tiles(
        "Pass rate, by provider",
        "Of the events with an outcome in the shown period, how many say pass. A jump: a "
        "provider's change, a campaign of fraud, or a mapping of ours; compare with the outcomes "
        f"and reasons below. {_RECORD}",
        "percentunit",
        now(
            f"sum by (provider) ({passed}) / (sum by (provider) ({in_all(events, decided)}) > 0)",
            "{{provider}}",
        ),
        ("text",),
        named=True,
        empty="no outcomes",
    )
    yield graph(
        "Outcome mix",
        "Shares of pass, fail and inconclusive among events that have an outcome. Choose one "
        "provider above to see whose mix moved; inconclusive rising alone is often a provider's "
        f"new word or trouble of its own. {_RECORD}",
        "percentunit",
        query(f"sum by (outcome) ({rate(events, decided)})", "{{outcome}}"),
        percent=True,
        empty="no outcomes",
    )
    yield bars(
        "Funnel by status",
        "Events by status in the shown period: how far people come. Many started and few "
        "submitted: people give up, or a provider no longer sends the later ones. unknown: our "
        f"table lacks a word, see Normalizer. {_RECORD}",
        "short",
        now(f"sum by (status) ({in_all(events, PROVIDER)}) > 0", "{{status}}"),
        empty="no events",
    )
    yield graph(
        "Events by provider",
        "Events written per second. One that stops while its deliveries go on: see Overview, "
        "failures. One that stops with its deliveries: ask the provider, or look at the way in. "
        f"{_RECORD}",
        "cps",
        query(f"sum by (provider) ({rate(events, PROVIDER)})", "{{provider}}"),
        empty="no events",
    )
    yield graph(
        "Events by category",
        "What was verified, per second. A category that vanishes: a product was switched off, or "
        "a provider renamed it; compare with the native types beside this and the unknown words "
        "on Normalizer.",
        "cps",
        query(f"sum by (category) ({rate(events, PROVIDER)}) > 0", "{{category}}"),
        empty="no events",
    )
    reasons = in_all("verihook_reasons_total", PROVIDER)
    yield bars(
        "Reasons",
        "Reasons that events name, in our words, in the shown period. unmapped rising: the "
        "provider has a new word; add it to our table. One reason jumping at one provider: ask "
        f"it, or look for a campaign of fraud. {_RECORD}",
        "short",
        now(f"sum by (reason_code) ({reasons}) > 0", "{{reason_code}}"),
        empty="no reasons",
        runbooks=("VerihookUnmappedValues",),
    )
    records = rate("verihook_records_consumed_total", PROVIDER)
    yield graph(
        "Native types",
        "Deliveries by what the provider calls them, per second. other rising: webhooks the "
        "mapping does not know, which are dead letters, or (Treezor) events of other products, "
        "which are ignored; compare with the failures on Normalizer.",
        "cps",
        query(f"sum by (provider, native_type) ({records}) > 0", "{{provider}} {{native_type}}"),
        empty="no deliveries",
    )
    duplicates = rate("verihook_duplicates_total", PROVIDER)
    yield graph(
        "Duplicates",
        "Events not written again, because an earlier delivery said the same. High for long: the "
        "provider does not take our 200 for an answer; look at the time to answer on Gateway, "
        "then ask the provider.",
        "cps",
        query(f"sum by (provider) ({duplicates})", "{{provider}}"),
        empty="no deliveries",
    )
    ages = in_all("verihook_duplicate_age_seconds_bucket", PROVIDER)
    yield bars(
        "Age of duplicates, p99",
        "How long after the first delivery a duplicate came, in the shown period. Near "
        "CONSUMER_DEDUP_DAYS: later ones are no longer recognized; raise that, and the seen "
        "topic's retention with it.",
        "s",
        now(quantile(0.99, ages, "provider, le"), "{{provider}}"),
        empty="no duplicates",
    )
    received = in_all("verihook_end_to_end_seconds_bucket", PROVIDER)
    yield bars(
        "From receipt to event, p95",
        "Seconds from the gateway's receipt to the acknowledged event, by provider, in the shown "
        "period. One provider alone: its consumer or its partitions. All: Kafka. The lag on "
        "Overview tells of what is not yet an event.",
        "s",
        now(quantile(0.95, received, "provider, le"), "{{provider}}"),
        empty="no events",
    )
    ignored = in_all("verihook_records_ignored_total", PROVIDER)
    yield bars(
        "Ignored records",
        "Deliveries of a known kind that deliberately become no event, in the shown period. "
        "Nothing to do, unless a kind you want is among them: then its mapping is missing, see "
        "the provider's page of the mapping table.",
        "short",
        now(f"sum by (provider, reason) ({ignored}) > 0", "{{provider}} {{reason}}"),
        empty="nothing was ignored",
    )
    unmapped = in_all("verihook_unmapped_values_total", PROVIDER)
    yield bars(
        "Unknown words",
        "Values our tables do not know, by the field they stand in, in the shown period: the "
        "provider changed its vocabulary. The events say unknown or unmapped; add the word to "
        "the provider's table and raise its revision.",
        "short",
        now(f"sum by (provider, field) ({unmapped}) > 0", "{{provider}} {{field}}"),
        empty="every word was known",
        runbooks=("VerihookUnmappedValues",),
    )


# -- The boards --

_BOARDS: Mapping[str, tuple[str, Callable[[], Iterator[Json]], str]] = {
    "overview": (
        "Overview",
        overview,
        "Are my users' events late, whose, and by how many seconds; are the objectives kept.",
    ),
    "gateway": ("Gateway", gateway, "What comes in, what is refused and why, how Kafka takes it."),
    "normalizer": (
        "Normalizer",
        normalizer,
        "How far each partition is, what cannot be read, how the consumers fare.",
    ),
    "providers": (
        "Providers",
        providers,
        "What the providers say of people, as rates. The topic, not Prometheus, is the record.",
    ),
}


def _variables(panels: list[Json]) -> Iterator[Json]:
    """Give the variables a board needs, and no others."""
    text = json.dumps(panels)
    yield source_variable()
    # Not ".+": `up` would then count the targets of everybody else.
    yield asked_variable("job", "Job", "label_values(verihook_build_info, job)")
    known = f'{REQUESTS}{{{JOB}, provider!="unknown"}}'
    yield asked_variable("provider", "Provider", f"label_values({known}, provider)", ".+")
    if "$lag_source" in text:
        yield chosen_variable("lag_source", "Lag in records from", LAG_SOURCES)
    yield written_variable("runbooks", "Runbooks at", RUNBOOKS)


@cache
def boards() -> dict[str, Any]:
    """Build every board, by the name of its file."""
    built: dict[str, Any] = {}
    for name, (title, panels, about) in _BOARDS.items():
        shown = list(panels())
        built[name] = board(
            uid=f"{TAG}-{name}",
            title=f"Verihook {title}",
            description=f"{about} Built by deploy/dashboards.py; what each metric means is in "
            "docs/metrics.md.",
            panels=shown,
            variables=_variables(shown),
            tag=TAG,
        )
    return built


def texts() -> dict[Path, str]:
    """Give every board as it stands in its file."""
    return {
        FOLDER / f"{name}.json": json.dumps(built, indent=2, ensure_ascii=False) + "\n"
        for name, built in boards().items()
    }


if __name__ == "__main__":
    for file, written in texts().items():
        file.write_text(written, encoding="utf-8")
        print(f"written: {file.name}")
