"""Every metric of a consumer, declared once; counted in plain dicts and handed over per batch.

Labels come from closed sets: native types, fields and reasons only if the mapping names them,
else `other`. The loop writes, scrapes read; what costs something per record is a dict's entry or
a list's, and becomes numbers once per epoch (`tests/bench_metrics_consumer.py`).
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from consumers.contract import CommitFailure, Span, TransactionEnd
from consumers.event import ReasonCode
from consumers.failures import ErrorKind
from consumers.fate import Fate
from consumers.lag import LagTracker
from consumers.records import OTHER, Decision, Partition, Record
from gateway.counting import Distributions
from gateway.statistics import ClientStatistics

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


_Shape = tuple[str | None, str, str, str, tuple[str, ...], tuple[str, ...]]
"""An event's category, status, outcome, reason codes and fields nobody knows: words of our own
code only. First the native type of a record that became just this event, else None."""


class _Notes:
    """What became of the records of one epoch, until it is committed."""

    __slots__ = (
        "ages",
        "consumed",
        "entries",
        "failures",
        "ignored",
        "received",
        "shapes",
    )

    def __init__(self) -> None:
        self.shapes: Tally[_Shape] = Tally()
        self.consumed: Tally[str] = Tally()
        self.failures: Tally[ErrorKind] = Tally()
        self.ignored: Tally[str] = Tally()
        self.received: list[int] = []
        self.ages: list[int] = []
        self.entries = 0

    def note(self, fate: Fate, duplicates: Sequence[tuple[int, int]]) -> tuple[str, ...]:
        """Take note of a fate that is not just one new event; give the fields nobody knows."""
        self.consumed[fate.native_type] += 1
        if len(duplicates) == len(fate.events) == 1 and fate.failure is None:
            self.ages.append(duplicates[0][1])
            return ()
        found: list[str] = []
        seen = dict(duplicates)
        self.ages += seen.values()
        new = 0
        for index, event in enumerate(fate.events):
            if index in seen:
                continue
            new += 1
            unmapped = tuple(fate.statements[index].unmapped)
            found += unmapped
            self.shapes[
                None, event.category, event.status, event.outcome, event.reason_codes, unmapped
            ] += 1
        if fate.received_at is not None and (new or not duplicates):
            self.received.append(fate.received_at)
        if fate.ignored is not None:
            self.ignored[fate.ignored.reason] += 1
        if fate.failure is not None:
            self.failures[fate.failure.kind] += 1
        return tuple(dict.fromkeys(found))


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
        self._fields: frozenset[str] = frozenset()
        self._ignorable: frozenset[str] = frozenset()
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
        self.duplicate_age = Distributions(
            "verihook_duplicate_age_seconds",
            "How long after the first delivery a duplicate was received: a provider's retries.",
            ("provider",),
            (1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 259_200.0, 604_800.0),
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
        self.end_to_end = Distributions(
            "verihook_end_to_end_seconds",
            "From the gateway's receipt to the acknowledged event.",
            ("provider",),
            (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0),
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
        self.commit_seconds = Histogram(
            "verihook_commit_seconds",
            "How long the group took to acknowledge a commit; exactly once: a transaction's end.",
            ("group",),
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 150.0),
            registry=registry,
        )
        self.transactions = Counter(
            "verihook_transactions_total",
            "Transactions that ended: committed, or aborted, whose records are done again.",
            ("group", "result"),
            registry=registry,
        )
        self.ledger_entries = Counter(
            "verihook_ledger_entries_total",
            "Entries of the ledger that Kafka has acknowledged: each tells the fates of an epoch.",
            ("group",),
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
        self.statistics = ClientStatistics(registry)
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
        for code in get_args(ReasonCode):
            self.reasons.labels(self._provider, code)
        for end in get_args(TransactionEnd):
            self.transactions.labels(self._group, end)
        self._duplicates = self.duplicates.labels(self._provider)
        self._duplicate_age = self.duplicate_age.of(self._provider)
        self._unchecked = self.unchecked.labels(self._provider)
        self._catching_up = self.catching_up.labels(self._group)
        self._stalls = self.stalls.labels(self._group)
        self._end_to_end = self.end_to_end.of(self._provider)
        self._last_poll = self.last_poll.labels(self._group)
        self.last_commit.labels(self._group)
        self._assigned = self.assigned_partitions.labels(self._group)
        self._barrier_seconds = self.barrier_seconds.labels(self._group)
        self._commit_seconds = self.commit_seconds.labels(self._group)
        self._ledger_entries = self.ledger_entries.labels(self._group)
        for trouble in get_args(DedupTrouble):
            self.dedup_troubles.labels(self._group, trouble)
        self.queue_waits.labels(self._group)
        self.interruptions.labels(self._group)
        self.client_errors.labels(self._group)

    def reads(self, topic: str, fields: frozenset[str], reasons: frozenset[str]) -> None:
        """Count from 0: losses of this topic, and what the mapping can name.

        Those are the fields whose word no table knows, and the reasons for which it ignores.
        """
        self._fields, self._ignorable = fields, reasons
        self.retention_losses.labels(self._group, topic)
        for field in (*sorted(fields), OTHER):
            self.unmapped.labels(self._provider, field)
        for reason in (*sorted(reasons), OTHER):
            self.ignored.labels(self._provider, reason)

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

    def handled(
        self, record: Record, decision: Decision, duplicates: Sequence[tuple[int, int]]
    ) -> None:
        """This became of a record; it is counted when its epoch is committed."""
        if not isinstance(decision, Fate):
            return
        notes, events = self._open, decision.events
        if (
            len(events) == 1
            and not duplicates
            and decision.failure is None
            and decision.received_at is not None
        ):
            event, unmapped = events[0], tuple(decision.statements[0].unmapped)
            notes.shapes[
                decision.native_type, event.category, event.status, event.outcome,
                event.reason_codes, unmapped,
            ] += 1  # fmt: skip
            notes.received.append(decision.received_at)
        else:
            unmapped = notes.note(decision, duplicates)
        if unmapped or decision.failure is not None:
            self.remarked(record, decision, unmapped)

    def remarked(self, record: Record, fate: Fate, unmapped: Sequence[str]) -> None:
        """A record was set aside, in whole or in part, or holds words that no table knows."""

    def entered(self, entries: int) -> None:
        """So many entries of the ledger tell of what was handled in this epoch."""
        self._open.entries += entries

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
        # A gateway's clock may be ahead.
        self._end_to_end.observe_all([max(0.0, now - at / 1000) for at in notes.received])
        self._duplicate_age.observe_all(notes.ages)
        self._duplicates.inc(len(notes.ages))
        self._ledger_entries.inc(notes.entries)
        provider = self._provider
        consumed = notes.consumed
        unknown: Tally[str] = Tally()
        for (of_type, *words, codes, fields), count in notes.shapes.items():
            if of_type is not None:
                consumed[of_type] += count
            self.events_normalized.labels(provider, *words).inc(count)
            for code in codes:
                self.reasons.labels(provider, code).inc(count)
            for field in fields:
                unknown[field] += count
        for native_type, count in consumed.items():
            known = native_type if native_type in self._native_types else OTHER
            self.records_consumed.labels(provider, known).inc(count)
        for kind, count in notes.failures.items():
            self.dead_letters.labels(provider, kind).inc(count)
            self.failures.labels(provider, STAGES[kind], kind).inc(count)
        for tally, counter, named in (
            (unknown, self.unmapped, self._fields),
            (notes.ignored, self.ignored, self._ignorable),
        ):
            for word, count in tally.items():
                counter.labels(provider, word if word in named else OTHER).inc(count)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """The group acknowledged these offsets."""
        super().committed(offsets)
        self.last_commit.labels(self._group).set(self._clock())

    def commit_took(self, seconds: float) -> None:
        """A commit was acknowledged."""
        self._commit_seconds.observe(seconds)

    def transaction(self, end: TransactionEnd) -> None:
        """A transaction that was begun is over."""
        self.transactions.labels(self._group, end).inc()

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
        progress = GaugeMetricFamily(
            "verihook_records_in_progress",
            "Records that are read and not yet covered by an acknowledged commit.",
            labels=("group",),
        )
        progress.add_metric((self._group,), self._lag.in_progress())
        return (records, seconds, progress)
