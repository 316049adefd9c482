"""What librdkafka says of its own clients, read narrowly from its statistics and exposed.

A client reports about every STATISTICS_SECONDS, from within its poll; nothing here asks Kafka.
https://github.com/confluentinc/librdkafka/blob/master/STATISTICS.md says what each number is.
"""

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

STATISTICS_SECONDS = 5.0
_KEPT_SECONDS = 3 * STATISTICS_SECONDS
"""A report older than this says nothing about now."""
_UP = "UP"

_Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What fits an exposed number; without bounds an integer may be as long as its text."""


class _RoundTrip(msgspec.Struct, frozen=True):
    """Microseconds, over the requests answered since the last report; `cnt` of them."""

    avg: _Number = 0
    p99: _Number = 0
    cnt: _Number = 0


class _Broker(msgspec.Struct, frozen=True):
    nodeid: _Number = -1
    source: str = ""
    state: str = ""
    txretries: _Number = 0
    req_timeouts: _Number = 0
    txerrs: _Number = 0
    rxerrs: _Number = 0
    rtt: _RoundTrip = _RoundTrip()


class _Group(msgspec.Struct, frozen=True):
    rebalance_cnt: _Number = 0


class Report(msgspec.Struct, frozen=True):
    """One report, of which only what is exposed is read; the rest is passed over undecoded."""

    msg_cnt: _Number = 0
    msg_max: _Number = 0
    brokers: dict[str, _Broker] = {}
    cgrp: _Group | None = None

    @property
    def nodes(self) -> list[_Broker]:
        """The brokers of the cluster: neither bootstrap addresses nor the logical coordinator."""
        brokers = self.brokers.values()
        learned = [one for one in brokers if one.nodeid >= 0 and one.source == "learned"]
        return list({one.nodeid: one for one in learned}.values())

    @property
    def up(self) -> int:
        """How many brokers this client has a connection to."""
        return sum(one.state == _UP for one in self.brokers.values())


_DECODER = msgspec.json.Decoder(Report)

_Troubles = tuple[int, int, int]
"""Retries, time-outs and errors."""


class _Totals:
    """What all brokers of a client added up to, with those it has forgotten since.

    librdkafka counts per broker, and forgets brokers: a sum over those it has would go down, which
    Prometheus takes for a new beginning and counts whole.
    """

    def __init__(self) -> None:
        self.sums: _Troubles = (0, 0, 0)
        self._last: dict[str, _Troubles] = {}

    def add(self, report: Report) -> None:
        """Add what was counted since the report before; less than then is a new client's."""
        for name, one in report.brokers.items():
            now = (one.txretries, one.req_timeouts, one.txerrs + one.rxerrs)
            before = self._last.get(name, (0, 0, 0))
            grown = tuple(
                new - old if new >= old else new for new, old in zip(now, before, strict=True)
            )
            retries, timeouts, errors = (
                total + max(0, more) for total, more in zip(self.sums, grown, strict=True)
            )
            self.sums = (retries, timeouts, errors)
            self._last[name] = now
        self._last = {name: self._last[name] for name in report.brokers}


class ClientStatistics(Collector):
    """The last report of each client of a process; `client` is a word such as producer.

    A client that no longer reports is absent, not 0. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._reports: dict[str, tuple[float, Report]] = {}
        self._totals: dict[str, _Totals] = {}
        if registry is not None:
            registry.register(self)

    def settings(self, client: str) -> dict[str, object]:
        """Give the librdkafka settings that make a client report here."""
        return {
            "statistics.interval.ms": int(STATISTICS_SECONDS * 1000),
            "stats_cb": partial(self.take, client),
        }

    def take(self, client: str, text: str) -> None:
        """Take a client's report; one that cannot be read counts as none."""
        try:
            report = _DECODER.decode(text)
        except (msgspec.DecodeError, UnicodeError, TypeError, RecursionError):
            return  # what is raised here would leave the client's poll
        with self._lock:
            self._reports[client] = (self._clock(), report)
            self._totals.setdefault(client, _Totals()).add(report)

    def report(self, client: str) -> Report | None:
        """Give a client's last report; None if it has not reported lately."""
        return self._fresh().get(client)

    def _fresh(self) -> dict[str, Report]:
        oldest = self._clock() - _KEPT_SECONDS
        with self._lock:
            return {name: report for name, (at, report) in self._reports.items() if at >= oldest}

    def collect(self) -> Iterable[Metric]:
        """Give the last reports as metrics."""
        queue = GaugeMetricFamily(
            "verihook_kafka_queue_records",
            "Records inside a producer that Kafka has not acknowledged yet.",
            labels=("client",),
        )
        limit = GaugeMetricFamily(
            "verihook_kafka_queue_limit_records",
            "How many records fit into a producer's queue; beyond them nothing more is taken.",
            labels=("client",),
        )
        up = GaugeMetricFamily(
            "verihook_kafka_brokers_up",
            "Brokers of the cluster that this client has a connection to.",
            labels=("client",),
        )
        mean = GaugeMetricFamily(
            "verihook_kafka_round_trip_seconds",
            "Mean time a broker took to answer a request, over the last 5 s in which it answered.",
            labels=("client", "broker"),
        )
        slow = GaugeMetricFamily(
            "verihook_kafka_round_trip_p99_seconds",
            "Time within which a broker answered 99 of 100 requests of the last 5 s.",
            labels=("client", "broker"),
        )
        retries = CounterMetricFamily(
            "verihook_kafka_request_retries_total",
            "Requests a client had to send again.",
            labels=("client",),
        )
        timeouts = CounterMetricFamily(
            "verihook_kafka_request_timeouts_total",
            "Requests no broker answered in time.",
            labels=("client",),
        )
        errors = CounterMetricFamily(
            "verihook_kafka_request_errors_total",
            "Requests and answers lost to errors of the connection.",
            labels=("client",),
        )
        rebalances = CounterMetricFamily(
            "verihook_kafka_rebalances_total",
            "Rebalances the client took part in, those included that changed nothing here.",
            labels=("client",),
        )
        for client, report in sorted(self._fresh().items()):
            labels = (client,)
            if report.cgrp is None:
                queue.add_metric(labels, report.msg_cnt)
                limit.add_metric(labels, report.msg_max)
            else:
                rebalances.add_metric(labels, report.cgrp.rebalance_cnt)
            up.add_metric(labels, sum(node.state == _UP for node in report.nodes))
            for family, total in zip(
                (retries, timeouts, errors), self._totals[client].sums, strict=True
            ):
                family.add_metric(labels, total)
            for node in report.nodes:
                if node.rtt.cnt:
                    mean.add_metric((client, str(node.nodeid)), node.rtt.avg / 1e6)
                    slow.add_metric((client, str(node.nodeid)), node.rtt.p99 / 1e6)
        return (queue, limit, up, mean, slow, retries, timeouts, errors, rebalances)
