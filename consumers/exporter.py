"""The exporter: lag from outside as metrics, true when every consumer is dead.

A thread asks Kafka in rounds; a scrape computes ages from the last round and asks nobody.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import confluent_kafka
import msgspec
import structlog
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from consumers import stall
from consumers.contract import Halted
from consumers.normalizers import EVERY
from consumers.offsets import windows
from consumers.outside import Group, Look, Outside, no_raw_topic, present
from gateway.counting import Counts
from gateway.kafka import client_config, topic_prefix
from gateway.process import (
    VERSION,
    Address,
    Admin,
    ConfigurationError,
    Readiness,
    Sparing,
    log_level,
    on_stop_signals,
    settle_memory,
)

DEFAULT_ADMIN = "127.0.0.1:9463"
DEFAULT_INTERVAL = 15.0
MOST_INTERVAL = 3_600.0
KEPT_INTERVALS = 3
"""A round older than so many intervals says nothing about now."""
_LEAST_ROUND_SECONDS, _MOST_ROUND_SECONDS = 5.0, 30.0
_SAME_LINE_SECONDS = 60.0
FAILED_ROUNDS = 3
"""After so many the clients are made anew."""
_GLANCE_SECONDS = 1.0

Result = Literal["complete", "partial", "failed"]

log = structlog.get_logger()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the exporter needs; `groups` are further groups, `interval` is in seconds."""

    kafka: Mapping[str, Any]
    topic_prefix: str
    admin_listen: Address
    interval: float
    groups: tuple[str, ...]
    log_level: str


def load_settings(
    environ: Mapping[str, str], *, groups: Sequence[str] = (), interval: float | None = None
) -> Settings:
    """Read the settings; what the command line says wins. Raises ConfigurationError."""
    return Settings(
        kafka=client_config(environ),
        topic_prefix=topic_prefix(environ),
        admin_listen=Address.parse(
            environ.get("EXPORTER_ADMIN_LISTEN", DEFAULT_ADMIN), "EXPORTER_ADMIN_LISTEN"
        ),
        interval=_interval(environ, interval),
        groups=tuple(dict.fromkeys(groups)),
        log_level=log_level(environ),
    )


def _interval(environ: Mapping[str, str], given: float | None) -> float:
    name = "EXPORTER_INTERVAL" if given is None else "--interval"
    text = environ.get(name) or str(DEFAULT_INTERVAL) if given is None else str(given)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1.0 <= seconds <= MOST_INTERVAL:  # nan is not either
        raise ConfigurationError(
            f"{name} is {text!r}; it should be seconds from 1 to {MOST_INTERVAL:g}"
        )
    return seconds


class ExporterMetrics(Collector):
    """The metrics of an exporter, in a registry of its own; `collect` is what a scrape costs.

    `clock` gives seconds since the epoch, `monotonic` those that never go back.
    """

    def __init__(
        self,
        interval: float = DEFAULT_INTERVAL,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kept_seconds = KEPT_INTERVALS * interval
        self._clock = clock
        self._monotonic = monotonic
        self._last: tuple[float, _Round] | None = None
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._rounds = Counts(
            "verihook_export_rounds_total",
            "Rounds of questions to Kafka: complete, partial where something stayed unknown, "
            "failed where nothing was learnt.",
            ("result",),
            self.registry,
        )
        for result in get_args(Result):
            self._rounds.of(result)
        self._round_seconds = Gauge(
            "verihook_export_round_seconds",
            "How long the last round took.",
            registry=self.registry,
        )
        self._round_at = Gauge(
            "verihook_export_last_round_timestamp_seconds",
            "When the last complete or partial round ended, in seconds since 1970; 0 before it.",
            registry=self.registry,
        )
        build = Gauge(
            "verihook_build_info",
            "1, with the versions that are running.",
            ("version", "librdkafka"),
            registry=self.registry,
        )
        build.labels(VERSION, confluent_kafka.libversion()[0]).set(1)
        self.registry.register(self)

    def round(self, look: Look | None, seconds: float) -> Result:
        """Take note of a round that took `seconds`; None is one that learnt nothing."""
        self._round_seconds.set(seconds)
        result: Result = "failed"
        if look is not None and (not look.groups or len(look.silent) < len(look.groups)):
            unknown = look.troubles or look.unended or look.silent
            result = "partial" if unknown else "complete"
            self._last = (self._monotonic(), _Round(look))
            self._round_at.set(self._clock())
        self._rounds.of(result).value += 1
        return result

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Name the families."""
        return _Families().all

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Give what the last round found, as it is now; nothing where it is too old."""
        families = _Families()
        last = self._last
        if last is not None and self._monotonic() - last[0] <= self._kept_seconds:
            last[1].fill(families, self._clock())
        return families.all


class _Families:
    """The families of one scrape, without samples at first."""

    def __init__(self) -> None:
        of_partition = ("group", "topic", "partition")
        self.lag_records = GaugeMetricFamily(
            "verihook_group_lag_records",
            "Offsets from the committed one to the end of the log; 0 where no record is among "
            "them. Asked of Kafka, whoever is alive.",
            labels=of_partition,
        )
        self.lag_seconds = GaugeMetricFamily(
            "verihook_group_lag_seconds",
            "Age of the first record that is not committed: how late the group is. 0 only where "
            "none waits (or its time is ahead of ours), absent where it is not known.",
            labels=of_partition,
        )
        self.committed = GaugeMetricFamily(
            "verihook_group_committed_offset",
            "The offset that the group goes on from; absent where nothing was committed.",
            labels=of_partition,
        )
        self.ends = GaugeMetricFamily(
            "verihook_log_end_offset",
            "The end of the log, as a reader of committed records sees it.",
            labels=("topic", "partition"),
        )
        self.members = GaugeMetricFamily(
            "verihook_group_members",
            "Members of the group that are alive; absent where nobody says.",
            labels=("group",),
        )
        self.partitions = GaugeMetricFamily(
            "verihook_group_partitions",
            "Partitions of the topics that the group reads: more members than this are idle.",
            labels=("group",),
        )
        self.lost = GaugeMetricFamily(
            "verihook_group_lost_records",
            "Offsets that retention deleted before the group committed them; 0 again once it has "
            "gone on after them.",
            labels=("group", "topic"),
        )
        self.beyond = GaugeMetricFamily(
            "verihook_group_offsets_beyond_end",
            "Partitions whose committed offset lies beyond the end of the log: it was created "
            "anew or cut off, and nobody knows their lag.",
            labels=("group", "topic"),
        )
        self.stalled = GaugeMetricFamily(
            "verihook_group_stalled",
            "1 where the last commits say that too much of one native type fails.",
            labels=("group",),
        )
        self.retention = GaugeMetricFamily(
            "verihook_topic_retention_seconds",
            "How long the topic is kept; absent where for ever, or where nobody says.",
            labels=("topic",),
        )
        self.letters = GaugeMetricFamily(
            "verihook_dead_letters_waiting_records",
            "Offsets of the dead topic that no replay has passed.",
            labels=("topic",),
        )
        self.letters_seconds = GaugeMetricFamily(
            "verihook_dead_letters_waiting_seconds",
            "Age of the oldest dead letter that no replay has passed; 0 if there is none.",
            labels=("topic",),
        )

    @property
    def all(self) -> list[GaugeMetricFamily]:
        """Every family, in the order of declaration."""
        return list(vars(self).values())


class _Round:
    """What a round found, with the texts of its labels ready for the scrapes."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._standings = [
            (one, [(one.group, one.topic, str(place.partition)) for place in one.places])
            for one in look.standings
        ]
        self._partitions = {
            group.name: sum(len(one.places) for one in look.standings if one.group == group.name)
            for group in look.groups
            if group.name not in look.silent
        }
        self._stalled = {
            group.name: any(
                stall.stalled(windows(one.lag(0.0))) is not None
                for one in look.standings
                if one.group == group.name
            )
            for group in look.groups
            if group.provider and group.name in self._partitions
        }

    def fill(self, families: _Families, now: float) -> None:
        """Add every sample as it is at `now`."""
        ends: dict[tuple[str, str], int] = {}
        for standing, labels in self._standings:
            positions = standing.lag(now).positions
            of_topic = (standing.group, standing.topic)
            for one, of_partition in zip(positions, labels, strict=True):
                _add(families.lag_records, of_partition, one.records)
                _add(families.lag_seconds, of_partition, one.seconds)
                _add(families.committed, of_partition, one.committed)
                if one.end is not None:
                    ends[of_partition[1:]] = one.end
            families.lost.add_metric(of_topic, sum(one.lost for one in positions))
            families.beyond.add_metric(of_topic, sum(one.beyond for one in positions))
        for at, end in ends.items():
            families.ends.add_metric(at, end)
        for group, (_, members) in self._look.members.items():
            _add(families.members, (group,), members)
        for group, partitions in self._partitions.items():
            families.partitions.add_metric((group,), partitions)
        for group, is_stalled in self._stalled.items():
            families.stalled.add_metric((group,), is_stalled)
        for topic, kept in self._look.retention.items():
            families.retention.add_metric((topic,), kept)
        self._fill_letters(families, now)

    def _fill_letters(self, families: _Families, now: float) -> None:
        """Add what waits in the dead topics; nothing of one where a partition is not known."""
        for standing in self._look.letters:
            positions = standing.lag(now).positions
            records = [one.records for one in positions if one.records is not None]
            seconds = [one.seconds for one in positions if one.seconds is not None]
            if len(records) == len(seconds) == len(positions):
                families.letters.add_metric((standing.topic,), sum(records))
                families.letters_seconds.add_metric((standing.topic,), max(seconds, default=0.0))


def _add(family: GaugeMetricFamily, labels: Sequence[str], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, value)


class Exporter:
    """Asks Kafka in rounds; each is bounded in time, and a failure is one line of the log."""

    def __init__(self, settings: Settings, metrics: ExporterMetrics, readiness: Readiness) -> None:
        self._settings = settings
        self._metrics = metrics
        self._readiness = readiness
        self._sparing = Sparing(_SAME_LINE_SECONDS)
        self._seconds = min(max(settings.interval, _LEAST_ROUND_SECONDS), _MOST_ROUND_SECONDS)
        self._present: dict[str, Group] = {}
        self._failed = 0
        self.outside = Outside(settings.kafka)

    def round(self) -> Result:
        """Ask everything once; after some rounds that failed, with clients made anew.

        A client of librdkafka 2.16 that was asking for metadata while its broker hung can be deaf
        for good afterwards: brokers answer a new one at once.
        """
        if self._failed >= FAILED_ROUNDS:
            self._failed = 0
            log.warning(
                "clients_replaced", why=f"{FAILED_ROUNDS} rounds failed one after the other"
            )
            self.outside.close()
            self.outside = Outside(self._settings.kafka)
        began = time.monotonic()
        look: Look | None = None
        try:
            look = self._look()
        except ConfigurationError as error:
            troubles: list[Exception] = [error]
        else:
            troubles = list(look.troubles)
        result = self._metrics.round(look, time.monotonic() - began)
        self._failed = self._failed + 1 if result == "failed" else 0
        whys = [*map(str, troubles), *(_unended(look) if look is not None else ())]
        held_back = self._sparing.admit(result, time.monotonic()) if whys else None
        if held_back is not None:
            further = len(whys) - 1
            log.warning("round", result=result, why=whys[0], further=further, held_back=held_back)
        self._readiness.set("kafka", whys[0] if result == "failed" and whys else None)
        return result

    def _look(self) -> Look:
        prefix = self._settings.topic_prefix
        topics = self.outside.topics(self._seconds / 2)
        groups = present(topics, EVERY, prefix)
        known = {one.name for one in groups}
        groups += [Group(name) for name in self._settings.groups if name not in known]
        if not groups:
            raise ConfigurationError(no_raw_topic(prefix))
        look = self.outside.look(groups, topics, prefix=prefix, letters=True, seconds=self._seconds)
        self._present |= {one.name: one for one in groups if one.provider}
        gone = [
            Halted(
                f"{one.topics[0]} is no longer there, or hidden from this client; if it was taken "
                "away on purpose, start the exporter anew"
            )
            for name, one in self._present.items()
            if name not in {group.name for group in groups}
        ]
        return msgspec.structs.replace(look, troubles=(*look.troubles, *gone))

    def run(self, stop: threading.Event) -> None:
        """Ask again and again, one round in each interval."""
        while not stop.is_set():
            began = time.monotonic()
            self.round()
            stop.wait(max(0.0, self._settings.interval - (time.monotonic() - began)))


def _unended(look: Look) -> Iterator[str]:
    """Say in one sentence which logs did not answer."""
    if look.unended:
        topic, number = look.unended[0]
        more = f" and {len(look.unended) - 1} more" if len(look.unended) > 1 else ""
        yield f"{topic}[{number}]{more} did not say where the log begins and ends"


def export(settings: Settings) -> None:
    """Export until SIGTERM. Raises ConfigurationError if it cannot start, Halted if it ends."""
    metrics = ExporterMetrics(settings.interval)
    readiness = Readiness("kafka")
    admin = Admin(settings.admin_listen, metrics.registry, readiness)
    admin.start()
    stop = threading.Event()
    on_stop_signals(stop.set)
    log.info("starting", admin=str(admin.address), interval=settings.interval, pid=os.getpid())
    exporter = Exporter(settings, metrics, readiness)
    asking = threading.Thread(target=exporter.run, args=(stop,), name="rounds", daemon=True)
    settle_memory()
    asking.start()
    try:
        while not stop.wait(_GLANCE_SECONDS):
            if not asking.is_alive():  # its trace is on stderr: a supervisor starts us anew
                raise Halted("the rounds ended by themselves; see the lines before")
        asking.join(1.0)
        if not asking.is_alive():
            exporter.outside.close()
    finally:
        log.info("stopped")
        admin.close()
    if asking.is_alive():
        # It waits for a silent broker, in threads that Python would wait for at its end. Nothing
        # of an exporter is lost with them.
        os._exit(0)
