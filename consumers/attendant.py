"""The metrics of one process, which also log what a person wants to know and keep readiness."""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import confluent_kafka
import structlog

from consumers.contract import CommitFailure
from consumers.fate import Fate
from consumers.metrics import Meter
from consumers.records import Headers, Partition, Record
from consumers.seen import SeenTelemetry
from gateway.process import UNREACHABLE_SECONDS, VERSION, Readiness, Sparing

HUNG_SECONDS = 30.0
"""A loop that has not asked Kafka for so long hangs, or waits for brokers that take nothing."""
_WATCH_SECONDS = 1.0
_DELIVERY_ID = "verihook-delivery-id"
_OURS = re.compile(rb"[0-9a-f]{16,64}")
"""As a gateway makes them; anything else was written by somebody else, and is not repeated."""

log = structlog.get_logger()


class Attendant(Meter, SeenTelemetry):
    """The meter, which also logs what a person wants to know and keeps readiness.

    `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        provider: str,
        group: str,
        native_types: frozenset[str],
        readiness: Readiness,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            provider, group, native_types, (VERSION, confluent_kafka.libversion()[0]), time.time
        )
        self._readiness = readiness
        self._monotonic = clock
        self._sparing = Sparing()
        self._judging = threading.Lock()
        self._polling = False
        """Kafka was asked since the last incarnation began."""
        self._polled_at = 0.0
        self._unreachable_since: float | None = None
        self._told: str | None = "not yet"
        """What readiness was told of the group last."""
        self.is_stalled = False

    def polled(self) -> None:
        """Kafka was asked for records and came back."""
        super().polled()
        self._polled_at = self._monotonic()
        if not self._polling:
            self._polling = True
            self.look()
            if not self.is_stalled:  # the first poll can bring partitions that were stalled before
                self._readiness.set("mapping")

    def look(self) -> None:
        """Say whether the group is worked for, as far as that can be told without asking Kafka.

        Called every second from a thread of its own, since a loop that hangs says nothing.
        """
        with self._judging:
            if self._polling:
                self._judge(self._problem())

    def _problem(self) -> str | None:
        now = self._monotonic()
        report = self.statistics.report("consumer")
        if report is not None and report.up:
            self._unreachable_since = None
        elif report is not None and self._unreachable_since is None:
            self._unreachable_since = now
        if now - self._polled_at >= HUNG_SECONDS:
            return f"the loop has not asked Kafka for records for {HUNG_SECONDS:g} s"
        since = self._unreachable_since
        if since is not None and now - since >= UNREACHABLE_SECONDS:
            return f"no broker could be reached for {UNREACHABLE_SECONDS:g} s"
        return None

    def _judge(self, problem: str | None) -> None:
        if problem == self._told:
            return
        self._told = problem
        self._readiness.set("group", problem)
        if problem is not None:
            log.warning("not_ready", why=problem)

    def assigned(self, starts: Mapping[Partition, int]) -> None:
        """These partitions became ours."""
        super().assigned(starts)
        log.info("assigned", partitions={number: start for (_, number), start in starts.items()})

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """These partitions were given up."""
        super().revoked(partitions)
        log.info("revoked", partitions=[number for _, number in partitions])

    def lost(self, partitions: Sequence[Partition]) -> None:
        """These partitions were taken away."""
        super().lost(partitions)
        log.warning("lost", partitions=[number for _, number in partitions])

    def closed(self) -> None:
        """The group was left."""
        super().closed()
        self.is_stalled = False

    def remarked(self, record: Record, fate: Fate, unmapped: Sequence[str]) -> None:
        """A record was set aside, or holds words that no table knows: say which, never what."""
        failure = fate.failure
        if failure is not None:
            held = self._sparing.admit(f"dead_letter {failure.kind}", self._monotonic())
            if held is not None:
                log.warning(
                    "dead_letter",
                    kind=failure.kind,
                    path=failure.path,
                    error_class=failure.error_class,
                    **_coordinates(record, fate),
                    held_back=held,
                )
        if unmapped:
            held = self._sparing.admit(f"unmapped {' '.join(unmapped)}", self._monotonic())
            if held is not None:
                where = _coordinates(record, fate)
                log.warning("unmapped", fields=list(unmapped), **where, held_back=held)

    def commit_failed(self, why: CommitFailure) -> None:
        """A commit was refused, or not answered."""
        super().commit_failed(why)
        log.warning("commit_failed", why=why, then="the work is done again")

    def stalled(self, native_type: str) -> None:
        """Too much fails; nothing more is read."""
        super().stalled(native_type)
        self.is_stalled = True
        why = f"stalled: at least half of {native_type} became dead letters"
        self._readiness.set("mapping", why)
        then = (
            "mend the mapping, raise its REVISION and start anew, or go on as it is with "
            "`python -m consumers resume --admin` and this process's address"
        )
        log.error("stalled", native_type=native_type, then=then)

    def rebuilt(self, partition: Partition, entries: int, seconds: float) -> None:
        """It is known what was seen in a partition."""
        topic, number = partition
        log.info("seen_known", topic=topic, partition=number, entries=entries, seconds=seconds)

    def late(self, partition: Partition, seconds: float) -> None:
        """A partition is used though it is not known yet what was seen in it."""
        self.dedup_troubles.labels(self._group, "late").inc()
        log.warning("seen_late", partition=partition[1], seconds=seconds)

    def unreadable(self, partition: Partition, offset: int) -> None:
        """A record of the seen topic was skipped."""
        self.dedup_troubles.labels(self._group, "unreadable").inc()
        held = self._sparing.admit("seen_unreadable", time.monotonic())
        if held is not None:
            log.error("seen_unreadable", partition=partition[1], offset=offset, held_back=held)

    def discarded(self, partition: Partition, why: str) -> None:
        """A store cannot be used, and is made anew from the topic."""
        self.dedup_troubles.labels(self._group, "discarded").inc()
        log.error("seen_discarded", partition=partition[1], why=why)

    def lost_to_retention(self, partition: Partition, records: int) -> None:
        """Records were deleted before they were read."""
        super().lost_to_retention(partition, records)
        topic, number = partition
        log.error("lost_to_retention", topic=topic, partition=number, records=records)

    def client_error(self, name: str) -> None:
        """A client reported trouble."""
        super().client_error(name)
        held = self._sparing.admit(name, time.monotonic())
        if held is not None:
            log.warning("kafka", error=name, held_back=held)

    def interrupted(self, reason: str, pause: float) -> None:
        """An incarnation ended."""
        super().interrupted(reason, pause)
        with self._judging:
            self._polling = False
            self._told = reason
            self._readiness.set("group", reason)
        log.warning("interrupted", why=reason, again_in_seconds=pause)


class Watch:
    """Has an attendant look every second, until it is stopped."""

    def __init__(self, attendant: Attendant) -> None:
        self._attendant = attendant
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_WATCH_SECONDS):
            self._attendant.look()


def _coordinates(record: Record, fate: Fate) -> dict[str, str | int | None]:
    """Name a raw record, so that it can be found on its topic and in the gateway's log."""
    return {
        "native_type": fate.native_type,
        "delivery_id": _delivery_id(record.headers),
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
    }


def _delivery_id(headers: Headers) -> str | None:
    for name, value in headers:
        if name == _DELIVERY_ID and value is not None and _OURS.fullmatch(value):
            return value.decode()
    return None
