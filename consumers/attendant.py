"""The metrics of one process, which also log what a person wants to know and keep readiness."""

import time
from collections.abc import Mapping, Sequence

import confluent_kafka
import structlog

from consumers.contract import CommitFailure
from consumers.metrics import Meter
from consumers.records import Partition
from consumers.seen import SeenTelemetry
from gateway.process import Readiness, Sparing

VERSION = "0.1.0"

log = structlog.get_logger()


class Attendant(Meter, SeenTelemetry):
    """The meter, which also logs what a person wants to know and keeps readiness."""

    def __init__(
        self,
        provider: str,
        group: str,
        native_types: frozenset[str],
        readiness: Readiness,
    ) -> None:
        super().__init__(
            provider, group, native_types, (VERSION, confluent_kafka.libversion()[0]), time.time
        )
        self._readiness = readiness
        self._sparing = Sparing()
        self._ready = False
        self.is_stalled = False

    def polled(self) -> None:
        """Kafka was asked for records and came back."""
        super().polled()
        if not self._ready:
            self._ready = True
            self._readiness.set("group")
            if not self.is_stalled:  # the first poll can bring partitions that were stalled before
                self._readiness.set("mapping")

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
        self._ready = False
        self._readiness.set("group", reason)
        log.warning("interrupted", why=reason, again_in_seconds=pause)
