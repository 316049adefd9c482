"""Every metric of a consumer, declared once; counted in plain dicts and handed over per batch.

Labels come from closed sets: native types only if the mapping knows them, else `other`.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from consumers.contract import CommitFailure, Span
from consumers.failures import ErrorKind
from consumers.fate import Fate
from consumers.lag import LagTracker
from consumers.records import OTHER, Decision, Partition

DedupTrouble = Literal["late", "unreadable", "discarded"]
"""What can be wrong with the memory of what was seen; none of it loses an event."""

STAGES: Mapping[ErrorKind, str] = {
    "invalid_json": "decoding",
    "schema_mismatch": "decoding",
    "unknown_type": "mapping",
    "out_of_range": "mapping",
    "inconsistent": "mapping",
    "bug": "mapping",
}
"""At which stage of the work each kind of failure arises."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # declared without types in 0.26


class _Notes:
    """What became of the records of one epoch, until it is committed."""

    def __init__(self) -> None:
        self.consumed: Tally[str] = Tally()
        self.normalized: Tally[tuple[str, str, str]] = Tally()
        self.reasons: Tally[str] = Tally()
        self.failures: Tally[ErrorKind] = Tally()
        self.unmapped: Tally[str] = Tally()
        self.ignored: Tally[str] = Tally()
        self.received: list[int] = []
        self.ages: list[int] = []

    def note(self, fate: Fate, duplicates: Sequence[tuple[int, int]]) -> None:
        """Take note of one record's fate, and of which of its events were duplicates."""
        self.consumed[fate.native_type] += 1
        seen = dict(duplicates)
        self.ages += seen.values()
        for index, statement in enumerate(fate.statements):
            if index in seen:
                continue
            self.normalized[statement.category, statement.status, statement.outcome] += 1
            for code, _ in statement.reasons:
                self.reasons[code] += 1
            for field in statement.unmapped:
                self.unmapped[field] += 1
        if fate.received_at is not None and len(duplicates) < max(1, len(fate.statements)):
            self.received.append(fate.received_at)
        if fate.ignored is not None:
            self.ignored[fate.ignored.reason] += 1
        if fate.failure is not None:
            self.failures[fate.failure.kind] += 1


class Meter(LagTracker):
    """The metrics of one consumer process: told of every fate, and of what the loop does.

    `clock` gives seconds since the epoch. Fates are counted when their outputs are acknowledged
    (in transactions: committed), so that what is redone after an interruption counts once.
    """

    def __init__(
        self,
        provider: str,
        group: str,
        native_types: frozenset[str],
        versions: tuple[str, str],
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self._provider = provider
        self._group = group
        self._native_types = native_types
        self._clock = clock
        self._open = _Notes()
        self._sealed = _Notes()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.records_consumed = Counter(
            "verihook_records_consumed_total",
            "Raw records whose outputs Kafka has acknowledged, by what the provider calls them.",
            ("provider", "native_type"),
            registry=registry,
        )
        self.events_normalized = Counter(
            "verihook_events_normalized_total",
            "Events written to the output topic.",
            ("provider", "category", "status", "outcome"),
            registry=registry,
        )
        self.reasons = Counter(
            "verihook_reasons_total",
            "Normalized reasons named by events.",
            ("provider", "reason_code"),
            registry=registry,
        )
        self.failures = Counter(
            "verihook_normalize_failures_total",
            "Raw records that could not be normalized, by stage and reason; each is a dead letter.",
            ("provider", "stage", "reason"),
            registry=registry,
        )
        self.dead_letters = Counter(
            "verihook_dead_letters_total",
            "Records set aside on the dead-letter topic; they wait there for a person.",
            ("provider", "reason"),
            registry=registry,
        )
        self.unmapped = Counter(
            "verihook_unmapped_values_total",
            "Values our tables do not know, by field: a provider changed its vocabulary.",
            ("provider", "field"),
            registry=registry,
        )
        self.ignored = Counter(
            "verihook_records_ignored_total",
            "Raw records of a known kind that deliberately become no event.",
            ("provider", "reason"),
            registry=registry,
        )
        self.duplicates = Counter(
            "verihook_duplicates_total",
            "Events not written again, because an earlier raw record said the same.",
            ("provider",),
            registry=registry,
        )
        self.duplicate_age = Histogram(
            "verihook_duplicate_age_seconds",
            "How long after the first delivery a duplicate was received: a provider's retries.",
            ("provider",),
            buckets=(1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 259_200.0, 604_800.0),
            registry=registry,
        )
        self.unchecked = Counter(
            "verihook_dedup_unchecked_total",
            "Events written before it was known what was seen earlier: some can be duplicates.",
            ("provider",),
            registry=registry,
        )
        self.catching_up = Gauge(
            "verihook_dedup_catching_up_partitions",
            "Partitions that wait until it is known what was seen in them; not 0 for long: slow.",
            ("group",),
            registry=registry,
        )
        self.dedup_troubles = Counter(
            "verihook_dedup_troubles_total",
            "Troubles with what is known to be seen: late (used before it was complete), "
            "unreadable (an entry was skipped), discarded (a store was thrown away and rebuilt).",
            ("group", "trouble"),
            registry=registry,
        )
        self.stalls = Gauge(
            "verihook_consumer_stalled",
            "1: so many records failed that nothing more is read until the mapping is mended.",
            ("group",),
            registry=registry,
        )
        self.end_to_end = Histogram(
            "verihook_end_to_end_seconds",
            "From the gateway's receipt to the acknowledged event.",
            ("provider",),
            buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0),
            registry=registry,
        )
        self.last_poll = Gauge(
            "verihook_consumer_last_poll_timestamp_seconds",
            "When the loop last asked Kafka for records; old: the loop hangs.",
            ("group",),
            registry=registry,
        )
        self.last_commit = Gauge(
            "verihook_consumer_last_commit_timestamp_seconds",
            "When the group last acknowledged a commit; 0 before the first.",
            ("group",),
            registry=registry,
        )
        self.assigned_partitions = Gauge(
            "verihook_assigned_partitions",
            "Partitions this process owns.",
            ("group",),
            registry=registry,
        )
        self.rebalances = Counter(
            "verihook_rebalances_total",
            "Changes of the assignment: assigned, revoked, lost (taken away without notice).",
            ("group", "change"),
            registry=registry,
        )
        self.barrier_seconds = Histogram(
            "verihook_barrier_seconds",
            "How long a barrier waited for Kafka to acknowledge every output before the commit.",
            ("group",),
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0),
            registry=registry,
        )
        self.commit_errors = Counter(
            "verihook_commit_errors_total",
            "Commits the group refused or did not answer; the work is redone, nothing is lost.",
            ("group", "reason"),
            registry=registry,
        )
        self.queue_waits = Counter(
            "verihook_produce_queue_full_total",
            "Times an output had to wait for room in the producer's queue.",
            ("group",),
            registry=registry,
        )
        self.interruptions = Counter(
            "verihook_consumer_interruptions_total",
            "Times the clients were given up and built anew from the committed offsets.",
            ("group",),
            registry=registry,
        )
        self.client_errors = Counter(
            "verihook_client_errors_total",
            "Troubles a Kafka client reported and goes on trying to overcome.",
            ("group",),
            registry=registry,
        )
        self.retention_losses = Counter(
            "verihook_records_lost_to_retention_total",
            "Raw records deleted by retention before they were read. Any of these is data loss.",
            ("group", "topic"),
            registry=registry,
        )
        self.build = Gauge(
            "verihook_build_info",
            "1, with the versions that are running.",
            ("version", "librdkafka"),
            registry=registry,
        )
        self.build.labels(*versions).set(1)
        registry.register(_LagCollector(self, group, clock))
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        for native_type in (*sorted(self._native_types), OTHER):
            self.records_consumed.labels(self._provider, native_type)
        for kind in get_args(ErrorKind):
            self.failures.labels(self._provider, STAGES[kind], kind)
            self.dead_letters.labels(self._provider, kind)
        for change in ("assigned", "revoked", "lost"):
            self.rebalances.labels(self._group, change)
        for reason in get_args(CommitFailure):
            self.commit_errors.labels(self._group, reason)
        self._duplicates = self.duplicates.labels(self._provider)
        self._duplicate_age = self.duplicate_age.labels(self._provider)
        self._unchecked = self.unchecked.labels(self._provider)
        self._catching_up = self.catching_up.labels(self._group)
        self._stalls = self.stalls.labels(self._group)
        self._end_to_end = self.end_to_end.labels(self._provider)
        self._last_poll = self.last_poll.labels(self._group)
        self.last_commit.labels(self._group)
        self._assigned = self.assigned_partitions.labels(self._group)
        self._barrier_seconds = self.barrier_seconds.labels(self._group)
        for trouble in get_args(DedupTrouble):
            self.dedup_troubles.labels(self._group, trouble)
        self.queue_waits.labels(self._group)
        self.interruptions.labels(self._group)
        self.client_errors.labels(self._group)

    # -- what the loop tells --

    def polled(self) -> None:
        """Kafka was asked for records and came back."""
        self._last_poll.set(self._clock())

    def assigned(self, starts: Mapping[Partition, int]) -> None:
        """These partitions became ours."""
        super().assigned(starts)
        self._changed("assigned")

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """These partitions were given up."""
        super().revoked(partitions)
        self._changed("revoked")

    def lost(self, partitions: Sequence[Partition]) -> None:
        """These partitions were taken away."""
        super().revoked(partitions)
        self._changed("lost")

    def closed(self) -> None:
        """The group was left."""
        super().closed()
        self._assigned.set(0)
        self._stalls.set(0)
        self._catching_up.set(0)

    def consumed(self, spans: Mapping[Partition, Span]) -> None:
        """These records came in."""
        super().consumed(spans)

    def handled(self, decision: Decision, duplicates: Sequence[tuple[int, int]]) -> None:
        """This became of a record; it is counted when its epoch is committed."""
        if isinstance(decision, Fate):
            self._open.note(decision, duplicates)

    def written_unchecked(self, events: int) -> None:
        """These events were written before it was known what was seen."""
        self._unchecked.inc(events)

    def catching_up_with(self, partitions: int) -> None:
        """So many partitions wait until it is known what was seen in them."""
        self._catching_up.set(partitions)

    def sealed(self) -> None:
        """An epoch ended; what is noted from now on belongs to the next."""
        self._sealed, self._open = self._open, _Notes()

    def dropped(self) -> None:
        """Outputs were dropped: their records are read, and noted, again."""
        self._sealed, self._open = _Notes(), _Notes()

    def stalled(self, native_type: str) -> None:  # noqa: ARG002 - its name is for the log
        """Too much fails; nothing more is read."""
        self._stalls.set(1)

    def queue_full(self) -> None:
        """An output had to wait for room in the producer's queue."""
        self.queue_waits.labels(self._group).inc()

    def barrier(self, seconds: float) -> None:
        """Every output was acknowledged: what was noted is counted."""
        self._barrier_seconds.observe(seconds)
        now = self._clock()
        notes, self._sealed = self._sealed, _Notes()
        for received_at in notes.received:
            self._end_to_end.observe(max(0.0, now - received_at / 1000))
        for age in notes.ages:
            self._duplicate_age.observe(age)
        self._duplicates.inc(len(notes.ages))
        provider = self._provider
        for native_type, count in notes.consumed.items():
            known = native_type if native_type in self._native_types else OTHER
            self.records_consumed.labels(provider, known).inc(count)
        for key, count in notes.normalized.items():
            self.events_normalized.labels(provider, *key).inc(count)
        for kind, count in notes.failures.items():
            self.dead_letters.labels(provider, kind).inc(count)
            self.failures.labels(provider, STAGES[kind], kind).inc(count)
        for tally, counter in (
            (notes.reasons, self.reasons),
            (notes.unmapped, self.unmapped),
            (notes.ignored, self.ignored),
        ):
            for label, count in tally.items():
                counter.labels(provider, label).inc(count)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """The group acknowledged these offsets."""
        super().committed(offsets)
        self.last_commit.labels(self._group).set(self._clock())

    def commit_failed(self, why: CommitFailure) -> None:
        """A commit was refused, or not answered."""
        self.commit_errors.labels(self._group, why).inc()

    def lost_to_retention(self, partition: Partition, records: int) -> None:
        """Records were deleted before they were read."""
        self.retention_losses.labels(self._group, partition[0]).inc(records)

    def client_error(self, name: str) -> None:  # noqa: ARG002 - its name is for the log
        """A client reported trouble."""
        self.client_errors.labels(self._group).inc()

    def interrupted(self, reason: str, pause: float) -> None:  # noqa: ARG002 - for the log
        """An incarnation ended."""
        self.interruptions.labels(self._group).inc()

    def _changed(self, change: str) -> None:
        self.rebalances.labels(self._group, change).inc()
        self._assigned.set(len(self.owned()))


class _LagCollector(Collector):
    """Lag computed at the scrape, absent where it is not known."""

    def __init__(self, lag: LagTracker, group: str, clock: Callable[[], float]) -> None:
        self._lag = lag
        self._group = group
        self._clock = clock

    def collect(self) -> Iterable[GaugeMetricFamily]:
        records = GaugeMetricFamily(
            "verihook_consumer_lag_records",
            "Records from the committed offset to the end of the log.",
            labels=("group", "topic", "partition"),
        )
        seconds = GaugeMetricFamily(
            "verihook_consumer_lag_seconds",
            "Age of the oldest record not covered by an acknowledged commit: how late events are. "
            "Absent where it is not known, never 0 for that.",
            labels=("group", "topic", "partition"),
        )
        for (topic, partition), lag in self._lag.read(self._clock()).items():
            labels = (self._group, topic, str(partition))
            if lag.records is not None:
                records.add_metric(labels, lag.records)
            if lag.seconds is not None:
                seconds.add_metric(labels, lag.seconds)
        return (records, seconds)
