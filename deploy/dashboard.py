"""The Grafana dashboard, built from Python: `python deploy/dashboard.py` writes the JSON.

Classic JSON (https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/),
which every Grafana since 10 imports and provisions. A test compares the file with what is built
here, so edit here and never the file.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent / "grafana" / "verihook.json"

SCHEMA_VERSION = 42
"""The last of the classic model: later changes of Grafana are made to the panels."""

LATE_SECONDS, VERY_LATE_SECONDS = 60, 300
"""Where the lag tiles turn amber and red: a default to begin with, not a promise of anybody."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24

Json = dict[str, Any]

# What the variables select. Metrics of a consumer's loop know their group and no provider:
# <prefix>normalize.<provider>.
JOB = 'job=~"$job"'
PROVIDER = f'{JOB}, provider=~"$provider"'
GROUP = f'{JOB}, group=~".*normalize[.]($provider)"'


def by_provider(series: str) -> str:
    """Give series of groups the label `provider`."""
    return f'label_replace({series}, "provider", "$1", "group", ".*normalize[.](.+)")'


def of_endpoints(series: str) -> str:
    """Keep the endpoints of the chosen providers: not every metric of an endpoint names its own."""
    requests = f"verihook_webhook_requests_total{{{PROVIDER}}}"
    return f"{series} and on (endpoint) rate({requests}[$__rate_interval])"


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


def query(expr: str, legend: str = "__auto") -> Json:
    """Ask for a graph."""
    return {"expr": expr, "legendFormat": legend, "range": True, "format": "time_series"}


def now(expr: str, legend: str = "__auto") -> Json:
    """Ask for this moment only: what has gone stays gone, where a graph's last point would not."""
    return {**query(expr, legend), "range": False, "instant": True}


def panel(
    kind: str, title: str, description: str, unit: str, targets: Sequence[Json], **more: Any
) -> Json:
    """Build a panel; `more` are `width`, `options`, `defaults`, `overrides`, `transformations`."""
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"w": more.get("width", 8)},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, **target}
            for index, target in enumerate(targets)
        ],
        "fieldConfig": {
            "defaults": {"unit": unit, **more.get("defaults", {})},
            "overrides": more.get("overrides", []),
        },
        "options": more.get("options", {}),
        "transformations": more.get("transformations", []),
    }


def graph(title: str, description: str, unit: str, *targets: Json, **more: Any) -> Json:
    """Build a graph over time; `percent` stacks it to 100 %, `empty` is said where nothing is."""
    stacking = {"mode": "percent" if more.get("percent") else "none", "group": "A"}
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 60 if more.get("percent") else 10,
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": stacking,
    }
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = {"custom": custom, "min": 0, "noValue": more.get("empty", "no data")}
    return panel(
        "timeseries", title, description, unit, targets, defaults=defaults, options=options, **more
    )


def tiles(
    title: str, description: str, unit: str, target: Json, steps: Sequence[Any], **more: Any
) -> Json:
    """Build a stat panel, one tile per series; `steps` are colour, bound, colour, bound, colour."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "value_and_name" if more.get("named") else "value",
    }
    # Without a value the base colour would be shown, which is green.
    nothing = {"text": more["empty"], "color": "purple", "index": 0}
    defaults = {
        "thresholds": thresholds(*steps),
        "mappings": [{"type": "special", "options": {"match": "null+nan", "result": nothing}}],
        "noValue": more["empty"],
        "min": 0,
    }
    return panel(
        "stat", title, description, unit, [target], defaults=defaults, options=options, **more
    )


def thresholds(*steps: Any) -> Json:
    """Build colours: the first for everything, then bound, colour, bound, colour."""
    bounds = [None, *steps[1::2]]
    pairs = zip(bounds, steps[0::2], strict=True)
    return {
        "mode": "absolute",
        "steps": [{"color": color, "value": bound} for bound, color in pairs],
    }


LAG = f"verihook_consumer_lag_seconds{{{GROUP}}}"
BEHIND = f"verihook_consumer_lag_records{{{GROUP}}}"
OWNED = f"verihook_assigned_partitions{{{GROUP}}}"
REQUESTS = "verihook_webhook_requests_total"
LATENESS = ("green", LATE_SECONDS, "orange", VERY_LATE_SECONDS, "red")


def are_events_late() -> Iterator[Json]:
    """Answer first: are my users' events late, whose, and by how many seconds."""
    worst = f"max by (provider) ({by_provider(LAG)})"
    known = PROVIDER + ', provider!="unknown"'
    served = rate(REQUESTS, known)
    yield tiles(
        "How late events are, by provider",
        "Age of the oldest delivery that is stored and is no event yet; the worst partition of "
        "each provider. Red: look at the provider's row below. unknown: the gateway takes its "
        "deliveries and nobody knows their lag; its consumer is down or cannot reach Kafka.",
        "s",
        # A lag that is absent stays absent, but its provider is named.
        now(f"{worst} or NaN * sum by (provider) ({served})", "{{provider}}"),
        LATENESS,
        width=6,
        named=True,
        empty="unknown",
    )
    buckets = rate("verihook_end_to_end_seconds_bucket", PROVIDER)
    yield graph(
        "From receipt to event",
        "Of the deliveries that became events: seconds from the gateway's receipt to the "
        "acknowledged event. Rising with the lag: consumers are too few or too slow, add one (up "
        "to the partition count). Rising without it: Kafka acknowledges slowly, see the barrier.",
        "s",
        *(query(quantile(part / 100, buckets), f"p{part}") for part in (50, 95, 99)),
        width=7,
        empty="no events",
    )
    stored = rate(REQUESTS, known + ', result="stored"')
    out = rate("verihook_events_normalized_total", PROVIDER)
    yield graph(
        "Deliveries in, events out",
        "Deliveries stored and events written (dashed), per second. In without out: see that "
        "provider's lag, then its failures. Nothing in from one provider: ask whether it, or the "
        "way to us, is down. One delivery can be several events.",
        "cps",
        query(f"sum by (provider) ({stored})", "in {{provider}}"),
        query(f"sum by (provider) ({out})", "out {{provider}}"),
        width=7,
        overrides=[
            {
                "matcher": {"id": "byFrameRefID", "options": "B"},
                "properties": [
                    {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}}
                ],
            }
        ],
    )
    ours = 'result=~"stored|ignored"'
    all_verified = 'result=~"stored|ignored|unavailable|error"'
    yield tiles(
        "Taken, of what we had to take",
        "In the shown period: requests answered 200, of those and the ones we answered 503 or "
        "500; refused signatures are not ours to answer for. Below 100 %: the providers send "
        "again, so events are late and not lost; look at rejections by reason, then at Kafka.",
        "percentunit",
        now(
            f"sum by (provider) ({in_all(REQUESTS, f'{PROVIDER}, {ours}')}) / "
            f"(sum by (provider) ({in_all(REQUESTS, f'{PROVIDER}, {all_verified}')}) > 0)",
            "{{provider}}",
        ),
        ("red", 0.99, "orange", 0.999, "green"),
        width=4,
        named=True,
        empty="no traffic",
    )


def provider_rows() -> Iterator[Json]:
    """Whose, in numbers; and which process says nothing at all."""
    known = f"count by (provider) ({by_provider(LAG)})"
    owned = f"sum by (provider) ({by_provider(OWNED)})"
    lost = by_provider(f"verihook_records_lost_to_retention_total{{{GROUP}}}")
    ages = in_all("verihook_duplicate_age_seconds_bucket", PROVIDER)
    duplicates = in_all("verihook_duplicates_total", PROVIDER)
    stalled = by_provider(f"verihook_consumer_stalled{{{GROUP}}}")
    received = in_all("verihook_end_to_end_seconds_bucket", PROVIDER)
    dead = in_all("verihook_dead_letters_total", PROVIDER)
    records = rate("verihook_records_consumed_total", PROVIDER)
    attention = thresholds("text", 0.5, "orange")
    columns: dict[str, tuple[str, str, Json | None]] = {
        "late by": (f"max by (provider) ({by_provider(LAG)})", "s", thresholds(*LATENESS)),
        "records behind": (f"sum by (provider) ({by_provider(BEHIND)})", "short", None),
        "lag unknown": (f"{owned} - ({known} or 0 * {owned})", "short", attention),
        "records/s": (f"sum by (provider) ({records})", "cps", None),
        "p95": (quantile(0.95, received, "provider, le"), "s", None),
        "dead letters": (f"sum by (provider) ({dead})", "short", attention),
        "duplicates": (f"sum by (provider) ({duplicates})", "short", None),
        "their age, p99": (quantile(0.99, ages, "provider, le"), "s", None),
        "stalled": (f"sum by (provider) ({stalled})", "short", thresholds("text", 1, "red")),
        "records lost": (f"sum by (provider) ({lost})", "short", thresholds("text", 1, "red")),
    }
    targets = [{**now(expr), "format": "table"} for expr, _, _ in columns.values()]
    overrides = []
    for name, (_, unit, colours) in columns.items():
        properties: list[Json] = [{"id": "unit", "value": unit}]
        if unit == "short":  # an increase is extrapolated, and seldom whole
            properties.append({"id": "decimals", "value": 0})
        if colours is not None:
            cell = {"type": "color-text"}
            properties += [
                {"id": "custom.cellOptions", "value": cell},
                {"id": "thresholds", "value": colours},
            ]
        overrides.append({"matcher": {"id": "byName", "options": name}, "properties": properties})
    names = {f"Value #{chr(ord('A') + index)}": name for index, name in enumerate(columns)}
    yield panel(
        "table",
        "Provider by provider",
        "Lag unknown: partitions that are owned and whose lag nobody knows. p95: seconds from "
        "receipt to event in the shown period. Dead letters in the shown period: read their "
        "reason below, mend the mapping; they wait with their bytes. Duplicates: events not "
        "written again; an age near CONSUMER_DEDUP_DAYS: raise that. Stalled: processes that "
        "read nothing more, because most records fail; mend the mapping. Records lost: deleted by "
        "Kafka's retention before they were read, since the process started; ask the provider to "
        "send them again.",
        "short",
        targets,
        width=18,
        overrides=overrides,
        defaults={"noValue": ""},
        options={"showHeader": True, "sortBy": [{"displayName": "late by", "desc": True}]},
        transformations=[
            {
                "id": "filterFieldsByName",
                "options": {"include": {"pattern": "^provider$|^Value.*$"}},
            },
            {"id": "joinByField", "options": {"byField": "provider", "mode": "outer"}},
            {"id": "organize", "options": {"renameByName": names, "excludeByName": {}}},
        ],
    )
    yield tiles(
        "Processes that do not answer",
        "Scrape targets that are down. A dead consumer has no lag to show: this tile is where it "
        "shows. Look at the process and its last log lines; offsets are kept, it goes on where "
        "it stopped.",
        "short",
        now(f"sum(1 - up{{{JOB}}})"),
        ("green", 1, "red"),
        width=6,
        empty="none is scraped",
    )


def gateway() -> Iterator[Json]:
    """What came in, what was refused and why, and how Kafka takes it."""
    yield graph(
        "Gateway: requests by result",
        "stored: Kafka has it. rejected: refused for good reason. unavailable: 503, the provider "
        "sends again. error: a bug of ours, its log line has the place. handed to Kafka "
        "(all providers) above stored: Kafka does not acknowledge.",
        "reqps",
        query(f"sum by (result) ({rate(REQUESTS, PROVIDER)})", "{{result}}"),
        query(f"sum({rate('verihook_produce_total', JOB)})", "handed to Kafka"),
        empty="no requests",
    )
    rejections = of_endpoints(rate("verihook_webhook_rejections_total", JOB))
    failures = rate("verihook_produce_errors_total", JOB)
    yield graph(
        "Gateway: rejections by reason",
        "signature_mismatch: a secret was rotated at the provider (add the new one beside the "
        "old), or somebody is forging. kafka_*: see Kafka's own reason, for all providers, and "
        "the brokers. overloaded: add a gateway process. client_gone: the sender gave up.",
        "reqps",
        query(f"sum by (endpoint, reason) ({rejections}) > 0", "{{endpoint}} {{reason}}"),
        query(f"sum by (reason) ({failures}) > 0", "Kafka: {{reason}}"),
        empty="nothing was refused",
    )
    keys = of_endpoints(rate("verihook_signature_key_used_total", JOB))
    stale = of_endpoints(rate("verihook_webhook_stale_total", JOB))
    reloads = rate("verihook_configuration_reloads_total", JOB)
    yield graph(
        "Gateway: keys in use",
        "Deliveries by the key and scheme that verified them: a rotation is complete when the "
        "old key is at rest. stale: the signed time was outside the tolerance; look at our "
        "clock, then for replays. reload failed: the old configuration is in force, the log says "
        "what is wrong.",
        "cps",
        query(f"sum by (endpoint, key_id, scheme) ({keys})", "{{endpoint}} {{key_id}} {{scheme}}"),
        query(f"sum by (endpoint) ({stale}) > 0", "{{endpoint}} stale"),
        query(f"sum by (result) ({reloads}) > 0", "reload {{result}}"),
        empty="no deliveries",
    )
    answers = of_endpoints(rate("verihook_webhook_request_duration_seconds_bucket", JOB))
    acknowledgements = rate("verihook_produce_ack_seconds_bucket", JOB)
    yield graph(
        "Gateway: time to answer",
        "From a request's head to its answer, and Kafka's part in it (all providers). Both high: "
        "the brokers are slow or a replica is out. Only the answer: slow senders, or the process "
        "has no CPU. Beyond 5 s providers get 503 and send again.",
        "s",
        query(quantile(0.5, answers), "answer p50"),
        query(quantile(0.99, answers), "answer p99"),
        query(quantile(0.99, acknowledgements), "Kafka's acknowledgement p99"),
        empty="no requests",
    )
    yield graph(
        "Gateway: in hand",
        "Requests being read, verified or waiting, and deliveries Kafka has not acknowledged; "
        "all providers, all processes. Both rising: Kafka is slow. Only requests: slow senders. "
        "Nothing here is acknowledged yet, so nothing is lost with the process.",
        "short",
        query(f"sum(verihook_webhook_requests_in_progress{{{JOB}}})", "requests"),
        query(f"sum(verihook_produce_queue_records{{{JOB}}})", "waiting for Kafka"),
    )
    sizes = of_endpoints(times("verihook_webhook_body_bytes_bucket", JOB))
    yield panel(
        "heatmap",
        "Gateway: body sizes",
        "Stored bodies by size. A provider that drifts towards the limit (900 KiB, Treezor 256 "
        "KiB) is about to be refused with body_too_large: ask it what changed.",
        "short",
        [{**query(f"sum by (le) ({sizes})", "{{le}}"), "format": "heatmap"}],
        options={
            "calculate": False,
            "rowsFrame": {"layout": "auto"},
            "yAxis": {"unit": "bytes", "axisPlacement": "left"},
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 32},
            "cellGap": 1,
            "filterValues": {"le": 1e-9},
            "tooltip": {"mode": "single", "yHistogram": False},
            "legend": {"show": True},
        },
        defaults={"noValue": "nothing was stored"},
    )


_LAG_IN_SECONDS = (
    "One partition: one key sends much, or its records are slow. All: add consumers, or see "
    "Kafka. A line that ends: its consumer is gone, or another owns the partition and shows it."
)
_LAG_IN_RECORDS = (
    "Many records and few seconds: a burst, wait. Few records and many seconds: the loop is "
    "stuck; see its pulse beside this, and the log."
)


def normalizer() -> Iterator[Json]:
    """How far each partition is, what could not be read, and how the loop fares."""
    for lag, unit, name, advice in (
        (LAG, "s", "seconds", _LAG_IN_SECONDS),
        (BEHIND, "short", "records", _LAG_IN_RECORDS),
    ):
        yield graph(
            f"Normalizer: lag in {name}, by partition",
            f"From the last acknowledged commit to the end of the log. {advice}",
            unit,
            query(
                f"max by (provider, partition) ({by_provider(lag)})", "{{provider}} {{partition}}"
            ),
            empty="nobody knows the lag",
        )
    poll = f"verihook_consumer_last_poll_timestamp_seconds{{{GROUP}}}"
    commit = f"verihook_consumer_last_commit_timestamp_seconds{{{GROUP}}}"
    # time() would add the age of the scrape itself.
    polled = f"timestamp({poll}) - {poll}"
    committed = f"timestamp({commit}) - ({commit} > 0)"
    waiting = f"({committed}) and on (job, instance, group) ({BEHIND} > 0)"
    barrier = by_provider(rate("verihook_barrier_seconds_bucket", GROUP))
    yield graph(
        "Normalizer: pulse",
        "Since the last poll: seconds mean that the loop hangs; after 5 minutes the group takes "
        "its partitions. Since the last commit, while records wait: work is done and not "
        "finished. Barrier p99: how long Kafka takes to acknowledge the outputs.",
        "s",
        query(f"max by (provider) ({by_provider(polled)})", "{{provider}} poll"),
        query(f"max by (provider) ({by_provider(waiting)})", "{{provider}} commit"),
        query(quantile(0.99, barrier, "provider, le"), "{{provider}} barrier p99"),
        empty="no consumer",
    )
    failures = times("verihook_normalize_failures_total", PROVIDER)
    yield graph(
        "Normalizer: failures",
        "Records that could not be read, each a dead letter with its bytes and the reason. "
        "unknown_type: the provider has a new webhook. schema_mismatch, invalid_json: it changed "
        "one. bug: ours. `python -m consumers explain` shows where one fails; mend the mapping.",
        "short",
        query(
            f"sum by (provider, stage, reason) ({failures}) > 0",
            "{{provider}} {{stage}} {{reason}}",
        ),
        width=6,
        empty="no failures",
    )
    # These come to exist with the first one counted, which a rate would never show.
    unmapped = f"sum by (provider, field) (verihook_unmapped_values_total{{{PROVIDER}}})"
    ignored = f"sum by (provider, reason) (verihook_records_ignored_total{{{PROVIDER}}})"
    yield panel(
        "bargauge",
        "Normalizer: unknown words, ignored records",
        "Since the processes started. Unknown words: the provider changed its vocabulary; the "
        "events say unknown or unmapped until our table knows the word. Ignored: known kinds "
        "that deliberately become no event.",
        "short",
        [
            now(unmapped, "{{provider}} unknown {{field}}"),
            now(ignored, "{{provider}} ignored {{reason}}"),
        ],
        width=6,
        options={
            "displayMode": "basic",
            "orientation": "horizontal",
            "showUnfilled": True,
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
        defaults={"noValue": "every word was known", "min": 0},
    )
    outcomes = rate("verihook_events_normalized_total", PROVIDER + ', outcome!="none"')
    yield graph(
        "Normalizer: outcomes",
        "Shares of pass, fail and inconclusive among events that have an outcome. A jump: a "
        "provider's change, a campaign of fraud, or a mapping of ours; compare the providers one "
        "by one. For counting persons use the topic: a retry counts here each time.",
        "percentunit",
        query(f"sum by (outcome) ({outcomes})", "{{outcome}}"),
        width=6,
        percent=True,
        empty="no outcomes",
    )
    counters = (
        ("verihook_rebalances_total", ", change"),
        ("verihook_commit_errors_total", ", reason"),
        ("verihook_consumer_interruptions_total", ""),
        ("verihook_client_errors_total", ""),
        ("verihook_produce_queue_full_total", ""),
        ("verihook_dedup_troubles_total", ", trouble"),
    )
    legends = (
        "{{change}}",
        "commit {{reason}}",
        "interrupted",
        "client error",
        "queue full",
        "what was seen: {{trouble}}",
    )
    waiting = by_provider(f"verihook_dedup_catching_up_partitions{{{GROUP}}}")
    unchecked = times("verihook_dedup_unchecked_total", PROVIDER)
    yield graph(
        "Normalizer: unrest",
        "assigned and revoked belong to a rollout; lost, or a rebalance that repeats, does not: "
        "batches take too long, or processes die. commit: the work is redone, nothing is lost. "
        "interrupted, client error, queue full: Kafka; the log names the reason. Waiting: "
        "partitions whose duplicates are not known yet; for long: give CONSUMER_STATE_DIR a disk "
        "that stays. Unchecked: that took too long, duplicates may have passed.",
        "short",
        *(
            query(
                f"sum by (provider{label}) ({by_provider(times(metric, GROUP))}) > 0",
                "{{provider}} " + legend,
            )
            for (metric, label), legend in zip(counters, legends, strict=True)
        ),
        query(f"sum by (provider) ({waiting}) > 0", "{{provider}} waiting"),
        query(f"sum by (provider) ({unchecked}) > 0", "{{provider}} unchecked"),
        width=6,
        empty="all quiet",
    )


def variable(name: str, label: str, values: str, all_of_them: str | None = None) -> Json:
    """Build a variable whose values Prometheus knows; all of them are chosen at first.

    `all_of_them` is the pattern for that; None lists the values.
    """
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "definition": values,
        "query": {"qryType": 1, "query": values, "refId": "PrometheusVariableQueryEditor"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": all_of_them,
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
        "regex": "",
        "hide": 0,
    }


def dashboard() -> Json:
    """Build the dashboard: each row of panels is as wide as the screen."""
    panels: list[Json] = []
    x = y = 0
    for built in (*are_events_late(), *provider_rows(), *gateway(), *normalizer()):
        place = built["gridPos"]
        place |= {"h": 8, "x": x, "y": y}
        panels.append({"id": len(panels) + 1, **built})
        x += place["w"]
        if x == WIDTH:
            x, y = 0, y + place["h"]
    known = REQUESTS + "{" + JOB + ', provider!="unknown"}'
    source = {"type": "datasource", "name": "datasource", "label": "Data source"}
    return {
        "uid": "verihook",
        "title": "Verihook",
        "description": "Are my users' events late, whose, and by how many seconds; then why. "
        "Built by deploy/dashboard.py; what each metric means is in docs/metrics.md.",
        "tags": ["verihook"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                {**source, "query": "prometheus", "refresh": 1, "regex": "", "hide": 0},
                # Not ".+": `up` would then count the targets of everybody else.
                variable("job", "Job", "label_values(verihook_build_info, job)"),
                variable("provider", "Provider", f"label_values({known}, provider)", ".+"),
            ]
        },
        "panels": panels,
    }


def text() -> str:
    """Write the dashboard as it stands in the file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"written: {FILE.name}")
