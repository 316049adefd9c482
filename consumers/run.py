"""One consumer process from start to stop: a provider's raw topic in, events out."""

import os
import threading
import time
from collections.abc import Mapping, Sequence

import confluent_kafka
import structlog

from consumers.broker import Broker, EndProbe
from consumers.codec import encoder
from consumers.fate import Fates
from consumers.metrics import Meter
from consumers.normalizers import NORMALIZERS
from consumers.records import Output, Record
from consumers.settings import Settings
from consumers.worker import CommitFailure, Halted, Partition, Worker, keep_going
from consumers.worker import Settings as LoopSettings
from gateway.delivery import (
    DEAD_MESSAGE_BYTES,
    OUTPUT_MESSAGE_BYTES,
    dead_topic,
    group_id,
    output_topic,
    raw_topic,
)
from gateway.kafka import ClientLog, ClusterUnreachable, TopicNeeds, topic_problem
from gateway.process import (
    Admin,
    ConfigurationError,
    Readiness,
    Sparing,
    on_stop_signals,
    settle_memory,
)

VERSION = "0.1.0"
_PROBE_SECONDS = 2.0

log = structlog.get_logger()


class Attendant(Meter):
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

    def polled(self) -> None:
        """Kafka was asked for records and came back."""
        super().polled()
        if not self._ready:
            self._ready = True
            self._readiness.set("group")

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

    def commit_failed(self, why: CommitFailure) -> None:
        """A commit was refused, or not answered."""
        super().commit_failed(why)
        log.warning("commit_failed", why=why, then="the work is done again")

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


def run(provider: str, settings: Settings) -> bool:
    """Normalize a provider's deliveries until SIGTERM; give whether everything was finished.

    Raises ConfigurationError if it cannot start, Halted if a person must act.
    """
    normalizer = NORMALIZERS[provider]
    prefix = settings.topic_prefix
    group = group_id(provider, prefix)
    readiness = Readiness("topics", "group")
    meter = Attendant(provider, group, normalizer.NATIVE_TYPES, readiness)
    admin = Admin(settings.admin_listen, meter.registry, readiness)
    admin.start()
    stop = threading.Event()
    on_stop_signals(stop.set)
    log.info("starting", provider=provider, group=group, admin=str(admin.address), pid=os.getpid())
    client = {**settings.kafka, "logger": ClientLog()}
    fates = Fates(provider, normalizer, encoder(settings.prefix), settings.keys, prefix)

    def decide(record: Record) -> Sequence[Output]:
        fate = fates.decide(record)
        meter.count(fate)
        return fate.outputs

    def start() -> Worker:
        loop = LoopSettings(mapping_revision=normalizer.REVISION)
        broker = Broker(
            client,
            raw_topic(provider, prefix),
            group,
            max_poll_interval=loop.max_poll_interval,
            after_gap="continue" if settings.continue_over_gaps else "halt",
            telemetry=meter,
        )
        return Worker(broker, decide, loop, telemetry=meter)

    def pause(seconds: float) -> None:
        stop.wait(seconds)

    try:
        if not _topics_granted(provider, settings, readiness, stop):
            return True
        probe = EndProbe(client, meter)
        probe.start()
        settle_memory()
        try:
            finished = keep_going(start, stop.is_set, pause, meter)
        finally:
            probe.stop()
    except Halted as end:
        log.error("halted", why=str(end))  # noqa: TRY400 - a sentence, no trace
        raise
    else:
        log.info("stopped", finished=finished)
        return finished
    finally:
        admin.close()


def _topics_granted(
    provider: str, settings: Settings, readiness: Readiness, stop: threading.Event
) -> bool:
    """Wait until Kafka answers and every topic is as durable and as large as it must be.

    Gives False if it is time to stop before that.
    """
    copies = 1 if settings.single_copy else 2
    prefix = settings.topic_prefix
    needs = {
        raw_topic(provider, prefix): TopicNeeds(
            max_message_bytes=0, min_insync_replicas=copies, log_append_time=True
        ),
        dead_topic(provider, prefix): TopicNeeds(
            max_message_bytes=DEAD_MESSAGE_BYTES, min_insync_replicas=copies
        ),
        output_topic(prefix): TopicNeeds(
            max_message_bytes=OUTPUT_MESSAGE_BYTES, min_insync_replicas=copies
        ),
    }
    while not stop.is_set():
        try:
            problem = topic_problem(settings.kafka, needs)
        except ClusterUnreachable as error:
            why = f"Kafka does not answer at {settings.kafka['bootstrap.servers']}: {error}"
            readiness.set("topics", why)
            log.warning("waiting", why=why)
            stop.wait(_PROBE_SECONDS)
            continue
        if problem is not None:
            raise ConfigurationError(problem)
        readiness.set("topics")
        return True
    return False
