"""Recording rules and alerts, built from Python: `python -m deploy.rules` writes rules.yml.

Written to Prometheus 2.42. A test compares the file with what is built here, so edit here and
never the file. Windows and thresholds: docs/runbooks/README.md says what they mean to people.

What the expressions take care of:

- A ratio without a denominator is absent, never 0 and never a page: `/ (... > 0)`.
- Counters are read by rate() or increase() first and summed after, so that a restart is no event.
- Windows of a day and more are added up from recorded windows of 5 minutes that do not overlap
  (`[1d:5m]`), so that a busy hour counts for as much as it answered, and reading is cheap.
- Whatever could be missing is asked for by absent() with a `for`; one lost scrape wakes nobody.
- No label says which deployment it is: two deployments need a Prometheus each, or two rule files
  with a `job` matcher more.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gateway.rejections import REASONS

FILE = Path(__file__).resolve().parent / "prometheus" / "rules.yml"

RUNBOOKS = "docs/runbooks/"
DASHBOARDS = "/d/"

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")
_ADDED_UP = frozenset({"1d", "3d", "30d"})

AVAILABILITY, ACKNOWLEDGEMENT, FRESHNESS = 0.999, 0.99, 0.99
"""The objectives, over 30 days: stored, acknowledged within a second, minutes without late lag."""

LATE_SECONDS = 60
FEWEST = 20
"""Below so many requests in the long window a share of them says nothing."""

FAST = (("14.4", "1h", "5m", 20), ("6", "6h", "30m", 120))
SLOW = (("3", "1d", "2h", 480), ("1", "3d", "6h", 1440))
"""Burn rates of the SRE workbook: 2 and 5 % of the budget are a page, 10 % is a ticket.

The last number is a third of the long window in minutes: so many must be known before a share of
minutes counts, or the first minutes of a new installation would weigh as much as a day.
"""

OLD = "5m"
"""A round of the exporter, or a canary that came through, longer ago than this says nothing."""

NOBODYS = 'provider!~"canary|unknown"'
"""The canary is no user, and `unknown` is whatever strangers ask for."""

NOT_REFUSALS = "|".join(reason.label for reason in REASONS if reason.result != "rejected")
"""Reasons that are troubles of ours; all others are refusals, whatever their HTTP code."""

_UNITS = (("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000))

Every = Callable[[str], str]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A recording rule, or an alert; `wait` is Prometheus' `for`, `keep` its keep_firing_for."""

    record: str = ""
    alert: str = ""
    expr: str
    wait: str = ""
    keep: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Group(msgspec.Struct, frozen=True):
    """Rules that are evaluated one after the other, every `interval`."""

    name: str
    interval: str
    rules: tuple[Rule, ...]


def milliseconds(duration: str) -> int:
    """Read a duration of one unit, such as 30m."""
    units = dict(_UNITS)
    return int(duration[:-1]) * units[duration[-1]]


def shortened(duration: str, tempo: float) -> str:
    """Give a duration divided by the tempo, in the largest unit that tells it exactly."""
    if tempo == 1:
        return duration
    left = round(milliseconds(duration) / tempo)
    for unit, size in _UNITS[1:]:
        if left and left % size == 0:
            return f"{left // size}{unit}"
    return f"{max(left, 1)}ms"


def of_group(series: str) -> str:
    """Give series of our groups the label `provider`."""
    return f'label_replace({series}, "provider", "$1", "group", ".*normalize[.](.+)")'


def of_topic(series: str, kind: str) -> str:
    """Give series of raw or dead-letter topics the label `provider`."""
    return f'label_replace({series}, "provider", "$1", "topic", ".*{kind}[.](.+)")'


def rules(
    tempo: float = 1, runbooks: str = RUNBOOKS, dashboards: str = DASHBOARDS
) -> tuple[Group, ...]:
    """Build all rules; at a tempo of 12 every duration is a twelfth, counts and objectives stay.

    `runbooks` and `dashboards` stand before a runbook's file and a board's uid.
    """

    def every(duration: str) -> str:
        return shortened(duration, tempo)

    def seconds(duration: str) -> str:
        return f"{milliseconds(duration) / tempo / 1000:g}"

    return (
        Group("verihook-objectives", every("1m"), tuple(_objectives(every, seconds))),
        Group("verihook-month", every("2m"), tuple(_ratios("30d", every))),
        Group("verihook-past", every("1m"), tuple(_past(every))),
        Group(
            "verihook-alerts",
            every("30s"),
            tuple(
                _finished(rule, every, runbooks, dashboards)
                for rule in (*_burning(every), *_pages(every, seconds), *_tickets(every, seconds))
            ),
        ),
    )


# -- recording --

_LAG = 'verihook_group_lag_seconds{group=~".*normalize[.].+"}'
_LAG_MAX = "provider:verihook_group_lag_seconds:max"
_USERS_LAG = f'{_LAG_MAX}{{provider!="canary"}}'
_LATE_MINUTE = "provider:verihook_late_minute:bool"
_ANSWERABLE = "provider:verihook_answerable_requests:increase"
_UNANSWERED = "provider:verihook_unanswered_requests:increase"
_STORED = "provider:verihook_acknowledged_requests:increase"
_SLOW = "provider:verihook_late_acknowledgements:increase"
_RATIO = "provider:verihook_{}_errors:ratio_rate{}"


def _objectives(every: Every, seconds: Every) -> list[Rule]:
    found = [
        Rule(record=_LAG_MAX, expr=f"max by (provider) (\n  {of_group(_LAG)}\n)"),
        # Nobody may call a minute good about which nobody knows: a provider whose lag is not
        # told, in one partition even, or told by a round that is long over, had a bad one.
        Rule(
            record=_LATE_MINUTE,
            expr=(
                f"{_part_unknown()}\n"
                "or\n"
                f"({_USERS_LAG} > bool {LATE_SECONDS}\n"
                "  and on () time() - max(verihook_export_last_round_timestamp_seconds)"
                f" < {seconds(OLD)})\n"
                "or\n"
                f"group by (provider) (verihook_webhook_requests_total{{{NOBODYS}}})\n"
                "or\n"
                "group by (provider) (\n"
                f"  max_over_time({_USERS_LAG}[{every('1d')}])\n"
                ")"
            ),
        ),
    ]
    for window in WINDOWS[:-1]:
        found += _ratios(window, every)
    return found


def _part_unknown() -> str:
    """Give the providers of whose partitions some have no lag; two exporters count as one."""
    users = 'group=~".*normalize[.].+", group!~".*normalize[.]canary"'
    told = of_group(f"verihook_group_lag_seconds{{{users}}}")
    partitions = of_group(f"verihook_group_partitions{{{users}}}")
    return (
        "group by (provider) (\n"
        "  count by (provider) (\n"
        f"    max by (provider, topic, partition) ({told})\n"
        "  )\n"
        f"  < max by (provider) ({partitions})\n"
        ")"
    )


def _ratios(window: str, every: Every) -> list[Rule]:
    """Record the counts of a window and the three ratios that rest on them."""
    answerable, unanswered = f"{_ANSWERABLE}{window}", f"{_UNANSWERED}{window}"
    stored, slow = f"{_STORED}{window}", f"{_SLOW}{window}"
    found = [Rule(record=f"{name}{window}", expr=expr) for name, expr in _counts(window, every)]
    if window == "30d":
        fresh = f"avg_over_time({_RATIO.format('freshness', '5m')}[{every(window)}:{every('5m')}])"
    else:
        fresh = f"avg_over_time({_LATE_MINUTE}[{every(window)}])"
    return [
        *found,
        Rule(
            record=_RATIO.format("availability", window),
            expr=f"{unanswered} / ({answerable} > 0)",
        ),
        Rule(record=_RATIO.format("acknowledgement", window), expr=f"{slow} / ({stored} > 0)"),
        Rule(record=_RATIO.format("freshness", window), expr=fresh),
    ]


def _counts(window: str, every: Every) -> list[tuple[str, str]]:
    names = (_ANSWERABLE, _UNANSWERED, _STORED, _SLOW)
    if window in _ADDED_UP:
        part = f"5m[{every(window)}:{every('5m')}]"
        return [(name, f"sum_over_time({name}{part})") for name in names]

    # By result and never by code: Treezor is answered 500 where others are answered 401. What is
    # `ignored` was never meant to be stored, so it says nothing about whether storing works.
    def requests(results: str) -> str:
        series = f'verihook_webhook_requests_total{{{NOBODYS}, result=~"{results}"}}'
        return f"sum by (provider) (\n  increase({series}[{every(window)}])\n)"

    def duration(part: str, more: str = "") -> str:
        name = f"verihook_webhook_request_duration_seconds_{part}"
        series = f'{name}{{{NOBODYS}, stored="true"{more}}}'
        return f"sum by (provider) (\n  increase({series}[{every(window)}])\n)"

    in_time = duration("bucket", ', le="1.0"')
    return [
        (_ANSWERABLE, requests("stored|unavailable|error")),
        (_UNANSWERED, requests("unavailable|error")),
        (_STORED, duration("count")),
        # increase() extrapolates each series for itself: the difference of equals can be below 0.
        (_SLOW, f"clamp_min(\n{_STORED}{window}\n- {in_time},\n0)"),
    ]


REFUSALS = f'verihook_webhook_rejections_total{{{NOBODYS}, reason!~"{NOT_REFUSALS}"}}'
STORED = f'verihook_webhook_requests_total{{{NOBODYS}, result="stored"}}'

_REFUSED = "endpoint:verihook_refused_requests:increase30m"
_STORED_BY = "endpoint:verihook_stored_requests:increase2h"
_UNMAPPED = "provider_field:verihook_unmapped_values:increase1h"


def _past(every: Every) -> list[Rule]:
    """Record what alerts compare with its own past.

    Where the past is an average, a window counts only once it is whole: the half-empty windows of
    a process's first minutes would make its usual level look like a rise.
    """
    unmapped = 'verihook_unmapped_values_total{provider!="canary"}'
    return [
        # By reason, because each reason begins at 0; the first refusals of a result do not show.
        Rule(
            record=_REFUSED,
            expr=(
                f"sum by (endpoint, provider) (increase({REFUSALS}[{every('30m')}]))\n"
                "and on (endpoint, provider)\n"
                f"{REFUSALS} offset {every('30m')}"
            ),
        ),
        Rule(
            record=_STORED_BY,
            expr=(
                "sum by (endpoint, provider) (\n"
                f'  increase(verihook_webhook_requests_total{{{NOBODYS}, result="stored"}}'
                f"[{every('2h')}])\n"
                ")"
            ),
        ),
        Rule(
            record=_UNMAPPED,
            expr=(
                f"sum by (provider, field) (increase({unmapped}[{every('1h')}]))\n"
                "and on (provider, field)\n"
                f"{unmapped} offset {every('1h')}"
            ),
        ),
    ]


# -- alerts --


def _burning(every: Every) -> list[Rule]:
    """Alert on each objective's budget, by two windows each: the short one tells when it is over.

    A floor keeps single requests from waking people. Freshness is counted in minutes, and a
    night's three late events are late: its floor is of minutes.
    """
    objectives = (
        (
            "availability", AVAILABILITY, _ANSWERABLE, "verihook-gateway",
            "Deliveries are not stored, and their providers are told to send again.",
            "of the deliveries of {{ $labels.provider }} were answered with 5xx, not stored",
        ),
        (
            "acknowledgement", ACKNOWLEDGEMENT, _STORED, "verihook-gateway",
            "Deliveries are stored, but too slowly: providers give up waiting and send again.",
            "of the deliveries of {{ $labels.provider }} were acknowledged after more than 1 s",
        ),
        (
            "freshness", FRESHNESS, "", "verihook-normalizer",
            "Events reach their readers late.",
            "of the minutes of {{ $labels.provider }} had events waiting too long, or unknown",
        ),
    )  # fmt: skip
    found = []
    for name, objective, counted, board, summary, says in objectives:
        budget = f"{1 - objective:g}"
        for speed, pairs, severity, wait in (
            ("Fast", FAST, "critical", "2m"),
            ("Slowly", SLOW, "warning", "15m"),
        ):
            cases = []
            for burn, long, short, minutes in pairs:
                floor = (
                    f"{counted}{long} >= {FEWEST}"
                    if counted
                    else f"count_over_time({_LATE_MINUTE}[{every(long)}]) >= {minutes}"
                )
                cases.append(
                    "(\n"
                    f"  {_RATIO.format(name, long)} > {burn} * {budget}\n"
                    f"  and {_RATIO.format(name, short)} > {burn} * {budget}\n"
                    f"  and {floor}\n"
                    ")"
                )
            windows = " or ".join(every(long) for _, long, *_ in pairs)
            found.append(
                Rule(
                    alert=f"Verihook{name.capitalize()}Burning{speed}",
                    expr="\nor\n".join(cases),
                    wait=wait,
                    labels={"severity": severity, "objective": name},
                    annotations={
                        "summary": summary,
                        "description": f"{{{{ $value | humanizePercentage }}}} {says} (in the last "
                        f"{windows}; {1 - objective:.1%} are allowed over 30 days).",
                        "dashboard_url": board,
                    },
                )
            )
    return found


def _alert(
    name: str,
    expr: str,
    *,
    severity: str,
    wait: str,
    summary: str,
    description: str,
    board: str,
    keep: str = "",
) -> Rule:
    return Rule(
        alert=f"Verihook{name}",
        expr=expr,
        wait=wait,
        keep=keep,
        labels={"severity": severity},
        annotations={"summary": summary, "description": description, "dashboard_url": board},
    )


def _pages(every: Every, seconds: Every) -> list[Rule]:
    """Alert where events are being lost, or are late and nobody would know."""
    groups = 'group=~".*normalize[.].+", group!~".*normalize[.]canary"'
    retention = 'verihook_topic_retention_seconds{topic=~".*raw[.].+"}'
    hour = every("1h")
    lost = f"verihook_records_lost_to_retention_total{{{groups}}}"
    known = f"last_over_time({lost}[{every('1d')}] offset {hour})"
    return [
        _alert(
            "LagNearRetention",
            f"{_USERS_LAG}\n"
            "> on (provider)\n"
            "0.5 * min by (provider) (\n"
            f"  {of_topic(retention, 'raw')}\n"
            ")",
            severity="critical",
            wait="5m",
            summary="Raw records wait so long that Kafka will delete them unread.",
            description="The oldest delivery of {{ $labels.provider }} that became no event waits "
            "for {{ $value | humanizeDuration }}: more than half of what the raw topic keeps.",
            board="verihook-normalizer",
        ),
        # All reasons begin at 0, results do not: what was not stored is counted by reason.
        _alert(
            "EndpointStoresNothing",
            _stores_nothing(every, "15m"),
            severity="critical",
            wait="1m",
            summary="An endpoint that stored deliveries this week refuses every one of them.",
            description="{{ $labels.endpoint }} ({{ $labels.provider }}) stored nothing in "
            f"{every('15m')}, and did not store {{{{ $value | humanize }}}} attempts.",
            board="verihook-gateway",
        ),
        _alert(
            "ConsumerStalled",
            "max by (provider) (\n"
            f"  {of_group(f'verihook_group_stalled{{{groups}}}')}\n"
            "  or\n"
            f"  {of_group(f'verihook_consumer_stalled{{{groups}}}')}\n"
            ") > 0",
            severity="critical",
            wait="1m",
            summary="A consumer stopped reading, because too many records failed.",
            description="{{ $labels.provider }} is stalled ({{ $value }}): at least half of 100 or "
            "more records of one type became dead letters. Nothing is lost, nothing more is read.",
            board="verihook-normalizer",
        ),
        _alert(
            "ExporterMissing",
            "absent(verihook_export_last_round_timestamp_seconds)\n"
            "or\n"
            "time() - max(verihook_export_last_round_timestamp_seconds)"
            f" > {seconds(OLD)}",
            severity="critical",
            wait="2m",
            summary="Nobody measures from outside how late events are.",
            description="The lag exporter is gone, or its last round is too long over (value: "
            "{{ $value | humanize }}; seconds since that round, or 1 where there is no exporter).",
            board="verihook-overview",
        ),
        _alert(
            "CanaryMissing",
            "absent(verihook_canary_last_seen_timestamp_seconds)\n"
            "or\n"
            "time() - max(verihook_canary_last_seen_timestamp_seconds)"
            f" > {seconds(OLD)}",
            severity="critical",
            wait="2m",
            summary="The synthetic delivery does not come out at the other end.",
            description="No canary came through the whole pipeline for too long (value: "
            "{{ $value | humanize }}; seconds since the last, or 1 where there is no prober).",
            board="verihook-overview",
        ),
        # What only the gateway tells is silent without it, and nothing else would say so.
        _alert(
            "GatewayMissing",
            "absent(verihook_produce_queue_limit_records)",
            severity="critical",
            wait="5m",
            summary="No gateway is seen: it is gone, or Prometheus does not reach it.",
            description="There is no series of any gateway (value: {{ $value }}): nobody knows "
            "whether deliveries are stored, and the alerts on them are silent.",
            board="verihook-overview",
        ),
        # The second case: a consumer that finds the gap at its start counts before anyone looks,
        # and a counter born with its number has no increase. What it was before the hour is looked
        # for in a day: where Prometheus itself was away, an old loss is no new one.
        _alert(
            "RecordsLost",
            "sum by (provider) (\n"
            f"  {of_group(f'increase({lost}[{hour}])')}\n"
            ") > 0\n"
            "or\n"
            "sum by (provider) (\n"
            f"  {of_group(f'({lost} unless {lost} == {known})')}\n"
            ") > 0\n"
            "or\n"
            "sum by (provider) (\n"
            f"  {of_group(f'verihook_group_lost_records{{{groups}}}')}\n"
            ") > 0",
            severity="critical",
            wait="1m",
            summary="Kafka deleted deliveries that nobody had read.",
            description="{{ $value | humanize }} deliveries of {{ $labels.provider }} were deleted "
            "by retention before they became events.",
            board="verihook-normalizer",
        ),
        _alert(
            "OffsetBeyondEnd",
            "sum by (provider) (\n"
            f"  {of_group(f'verihook_group_offsets_beyond_end{{{groups}}}')}\n"
            ") > 0",
            severity="critical",
            wait="2m",
            summary="A raw topic ends before the offset its consumers committed.",
            description="{{ $value }} partitions of {{ $labels.provider }} end before the "
            "committed offset: the topic was made anew, or another cluster restored.",
            board="verihook-normalizer",
        ),
    ]


def _stores_nothing(every: Every, window: str) -> str:
    """Find endpoints with many attempts in a window and none of them stored, unlike before.

    A week, so that a page does not end by itself, and a weekend does not hide an endpoint.
    """
    attempts = f"verihook_webhook_rejections_total{{{NOBODYS}}}"
    return (
        f"sum by (endpoint, provider) (increase({attempts}[{every(window)}])) >= {FEWEST}\n"
        "and on (endpoint)\n"
        f"sum by (endpoint) (increase({STORED}[{every(window)}])) == 0\n"
        "and on (endpoint)\n"
        f"{_stored_this_week(every)}"
    )


def _stored_this_week(every: Every) -> str:
    return f"max_over_time({_STORED_BY}[{every('1w')}:{every('5m')}]) > 0"


def _tickets(every: Every, seconds: Every) -> list[Rule]:
    """Alert where somebody should look within days."""
    retires = "verihook_signature_key_retires_timestamp_seconds"
    retention = 'verihook_topic_retention_seconds{topic=~".*dlq[.].+"}'
    waiting = 'verihook_dead_letters_waiting_seconds{topic=~".*dlq[.].+"}'
    return [
        # An endpoint that stores nothing at all is a page of its own: what it stored must not be
        # longer ago than this waits.
        _alert(
            "RejectionsRising",
            f"{_REFUSED} >= {FEWEST}\n"
            "and on (endpoint, provider)\n"
            f"{_REFUSED} > 5 * avg_over_time({_REFUSED}[{every('1d')}])\n"
            # Still refused: a rotation that is mended stands in the half hour behind it.
            "and on (endpoint, provider)\n"
            f"sum by (endpoint, provider) (increase({REFUSALS}[{every('5m')}])) > 0\n"
            "and on (endpoint)\n"
            f"sum by (endpoint) (increase({STORED}[{every('10m')}])) > 0",
            severity="warning",
            wait="15m",
            keep="10m",
            summary="An endpoint refuses far more than it used to, while it goes on storing.",
            description="{{ $labels.endpoint }} ({{ $labels.provider }}) refused "
            f"{{{{ $value | humanize }}}} requests in {every('30m')}, more than five times what "
            "it did in the day before.",
            board="verihook-gateway",
        ),
        _alert(
            "EndpointStoresNothingSlowly",
            _stores_nothing(every, "6h"),
            severity="warning",
            wait="15m",
            summary="An endpoint with few deliveries, some of them stored this week, refuses all.",
            description="{{ $labels.endpoint }} ({{ $labels.provider }}) stored nothing in "
            f"{every('6h')}, and did not store {{{{ $value | humanize }}}} attempts.",
            board="verihook-gateway",
        ),
        # The second case: an endpoint that is configured no more has no series, and what is sent
        # to it is answered 404. Asked only while some gateway is seen.
        _alert(
            "EndpointSilent",
            "(\n"
            f"  ({_STORED_BY} offset {every('1w')} >= {FEWEST})\n"
            "  and on (endpoint, provider)\n"
            f"  {_STORED_BY} == 0\n"
            ")\n"
            "or\n"
            "(\n"
            f"  {_stored_this_week(every)}\n"
            "  unless on (endpoint)\n"
            f"  group by (endpoint) (verihook_webhook_requests_total{{{NOBODYS}}})\n"
            "  and on ()\n"
            "  group(verihook_produce_queue_limit_records)\n"
            ")",
            severity="warning",
            wait="15m",
            summary="An endpoint that stored deliveries last week gets nothing, or is configured "
            "no more.",
            description="{{ $labels.endpoint }} ({{ $labels.provider }}) stored nothing in "
            f"{every('2h')}, or is in no gateway's configuration; before, it stored "
            f"{{{{ $value | humanize }}}} in {every('2h')}.",
            board="verihook-gateway",
        ),
        _alert(
            "DeadLettersWaiting",
            f"max by (provider) (\n  {of_topic(waiting, 'dlq')}\n)\n"
            "> on (provider)\n"
            f"0.5 * min by (provider) (\n  {of_topic(retention, 'dlq')}\n)",
            severity="warning",
            wait="15m",
            summary="Dead letters wait so long that Kafka will delete them.",
            description="The oldest dead letter of {{ $labels.provider }} that was not replayed "
            "waits for {{ $value | humanizeDuration }}: more than half of what its topic keeps.",
            board="verihook-normalizer",
        ),
        _alert(
            "UnmappedValues",
            f"{_UNMAPPED} >= 10\n"
            "and on (provider, field)\n"
            f"{_UNMAPPED} > 3 * avg_over_time({_UNMAPPED}[{every('1d')}])",
            severity="warning",
            wait="5m",
            keep="10m",
            summary="A provider uses words that the mapping does not know.",
            description="{{ $value | humanize }} values of {{ $labels.field }} of "
            f"{{{{ $labels.provider }}}} were unknown in {every('1h')}, more than three times "
            "what it was in the day before.",
            board="verihook-providers",
        ),
        _alert(
            "OldSecretInUse",
            f"max by (endpoint, key_id) ({retires}) - time() < {seconds('2d')}\n"
            "and on (endpoint, key_id)\n"
            "sum by (endpoint, key_id) (\n"
            f"  increase(verihook_signature_key_used_total[{every('1d')}])\n"
            ") > 0",
            severity="warning",
            wait="15m",
            summary="An old secret is still in use, and its overlap is nearly over.",
            description="Key {{ $labels.key_id }} of {{ $labels.endpoint }} retires in "
            "{{ $value | humanizeDuration }}, and deliveries are still signed with it.",
            board="verihook-gateway",
        ),
        _alert(
            "ProduceQueueFilling",
            "max by (job, instance) (\n"
            "  verihook_produce_queue_records / (verihook_produce_queue_limit_records > 0)\n"
            ") > 0.5",
            severity="warning",
            wait="2m",
            keep="5m",
            summary="Deliveries come faster than Kafka acknowledges them.",
            description="The producer of {{ $labels.instance }} is filled to "
            "{{ $value | humanizePercentage }}; when it is full, providers get 503.",
            board="verihook-gateway",
        ),
        _alert(
            "MoreConsumersThanPartitions",
            f"max by (provider) (\n  {of_group(_our('verihook_group_members'))}\n)\n"
            "> on (provider)\n"
            f"max by (provider) (\n  {of_group(_our('verihook_group_partitions'))}\n)",
            severity="warning",
            wait="15m",
            summary="A group has more consumers than its topic has partitions: some are idle.",
            description="{{ $labels.provider }} has {{ $value }} consumers, more than partitions.",
            board="verihook-normalizer",
        ),
        # Asked of the gauge: the counter counts a failure once, however long it lasts.
        _alert(
            "ReloadFailed",
            "max by (job, instance) (verihook_configuration_reload_failing) > 0",
            severity="warning",
            wait="1m",
            summary="A gateway could not take over changed endpoints or secrets.",
            description="{{ $labels.instance }} goes on with the configuration from before and "
            "tries again and again (value: {{ $value }}).",
            board="verihook-gateway",
        ),
        _alert(
            "ProcessDown",
            'max by (job, instance) (up{job=~"verihook-.*"}) == 0',
            severity="warning",
            wait="15m",
            summary="A process of ours is not seen by Prometheus.",
            description="{{ $labels.instance }} ({{ $labels.job }}) does not answer Prometheus "
            "(value: {{ $value }}): it is gone, it hangs, or its address is wrong.",
            board="verihook-overview",
        ),
    ]


def _our(metric: str) -> str:
    return f'{metric}{{group=~".*normalize[.].+"}}'


def _finished(rule: Rule, every: Every, runbooks: str, dashboards: str) -> Rule:
    """Scale the waiting and complete the links."""
    return msgspec.structs.replace(
        rule,
        wait=every(rule.wait),
        keep=every(rule.keep) if rule.keep else "",
        annotations={
            **rule.annotations,
            "dashboard_url": f"{dashboards}{rule.annotations['dashboard_url']}",
            "runbook_url": f"{runbooks}{rule.alert}.md",
        },
    )


# -- the file --


def text(tempo: float = 1, runbooks: str = RUNBOOKS, dashboards: str = DASHBOARDS) -> str:
    """Write all rules as the YAML Prometheus reads.

    Of YAML only what this needs: strings in JSON's quotes, and expressions as literal blocks.
    """
    lines = ["# Written by `python -m deploy.rules`; do not edit.", "", "groups:"]
    for group in rules(tempo, runbooks, dashboards):
        lines += [f"  - name: {group.name}", f"    interval: {group.interval}", "    rules:"]
        for rule in group.rules:
            lines.append(f"      - record: {rule.record}" if rule.record else "")
            if rule.alert:
                lines[-1] = f"      - alert: {rule.alert}"
            lines.append("        expr: |-")
            lines += [f"          {line}" for line in rule.expr.splitlines()]
            if rule.wait:
                lines.append(f"        for: {rule.wait}")
            if rule.keep:
                lines.append(f"        keep_firing_for: {rule.keep}")
            for heading, pairs in (("labels", rule.labels), ("annotations", rule.annotations)):
                if pairs:
                    lines.append(f"        {heading}:")
                    lines += [f"          {key}: {json.dumps(say)}" for key, say in pairs.items()]
    return "\n".join(lines) + "\n"


def write(
    file: Annotated[Path, typer.Option(help="Where to.")] = FILE,
    runbooks: Annotated[str, typer.Option(help="Address before <Alert>.md.")] = RUNBOOKS,
    dashboards: Annotated[str, typer.Option(help="Address before a board's uid.")] = DASHBOARDS,
    tempo: Annotated[float, typer.Option(help="How many times faster, for a rehearsal.")] = 1,
) -> None:
    """Write the rules for Prometheus."""
    file.write_text(text(tempo, runbooks, dashboards), encoding="utf-8")


if __name__ == "__main__":
    typer.run(write)
