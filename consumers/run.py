"""One consumer process from start to stop: a provider's raw topic in, events out."""

import math
import os
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import confluent_kafka
import structlog

from consumers.broker import AfterGap, Broker, EndProbe
from consumers.codec import encoder
from consumers.dedup import First, pack
from consumers.fate import Fates
from consumers.ledger import Delivery, Page, page_outputs
from consumers.metrics import Meter
from consumers.normalizers import NORMALIZERS
from consumers.records import Output, Partition
from consumers.seen import SeenTelemetry, StoreFolders, TopicSeen
from consumers.settings import AT_LEAST_ONCE, EXACTLY_ONCE, SPARE_DAYS, Settings, dedup_days
from consumers.transactions import TRANSACTION_SECONDS, TransactionalBroker
from consumers.worker import CommitFailure, Halted, Kafka, Worker, keep_going
from consumers.worker import Settings as LoopSettings
from gateway.delivery import (
    BOOKS_MESSAGE_BYTES,
    DEAD_MESSAGE_BYTES,
    OUTPUT_MESSAGE_BYTES,
    dead_topic,
    group_id,
    ledger_topic,
    output_topic,
    raw_topic,
    seen_topic,
)
from gateway.kafka import ClientLog, ClusterUnreachable, Retention, TopicNeeds, topic_problem
from gateway.process import (
    Address,
    Admin,
    ConfigurationError,
    Readiness,
    Sparing,
    on_stop_signals,
    settle_memory,
)

VERSION = "0.1.0"
_PROBE_SECONDS = 2.0
_RESUME_SECONDS = 10.0

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
        then = "mend the mapping and start anew, or `python -m consumers resume`"
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


def run(provider: str, settings: Settings) -> bool:
    """Normalize a provider's deliveries until SIGTERM; give whether everything was finished.

    Raises ConfigurationError if it cannot start, Halted if a person must act.
    """
    normalizer = NORMALIZERS[provider]
    prefix = settings.topic_prefix
    group = group_id(provider, prefix)
    readiness = Readiness("topics", "group", "mapping")
    readiness.set("mapping")
    meter = Attendant(provider, group, normalizer.NATIVE_TYPES, readiness)
    line = _Line(provider, settings, meter)
    admin = Admin(
        settings.admin_listen, meter.registry, readiness, {f"/resume/{provider}": line.resume}
    )
    admin.start()
    stop = threading.Event()
    on_stop_signals(stop.set)
    log.info(
        "starting",
        provider=provider,
        group=group,
        admin=str(admin.address),
        pid=os.getpid(),
        delivery=line.delivery,
        dedup_days=line.dedup_days,
    )

    def pause(seconds: float) -> None:
        stop.wait(seconds)

    try:
        if not _topics_granted(provider, settings, readiness, stop):
            return True
        probe = EndProbe(line.client, meter)
        probe.start()
        settle_memory()
        try:
            finished = keep_going(line.start, stop.is_set, pause, meter)
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
        line.close()


def resumed(provider: str, admin: Address) -> str:
    """Ask the process of a provider at this admin address to go on after a stall.

    Gives what it answers. Raises ConfigurationError if nobody answers there, or another provider.
    """
    request = urllib.request.Request(f"http://{admin}/resume/{provider}", method="POST")
    # A proxy of the environment is for the way out: it would look for this address on its own side.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=_RESUME_SECONDS) as answer:
            text: bytes = answer.read()
    except urllib.error.HTTPError as error:
        raise ConfigurationError(
            f"the process at {admin} is not a consumer of {provider}; name its own with --admin"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"nobody answers at {admin}; name the admin address of {provider}'s process "
            "with --admin"
        ) from error
    return text.decode().strip()


class _Line:
    """Builds one incarnation after the other, all of one provider's process."""

    def __init__(self, provider: str, settings: Settings, meter: Attendant) -> None:
        normalizer = NORMALIZERS[provider]
        prefix = settings.topic_prefix
        self._settings = settings
        self._meter = meter
        self._group = group_id(provider, prefix)
        self._raw_topic = raw_topic(provider, prefix)
        self._seen_topic = seen_topic(provider, prefix)
        self._ledger_topic = ledger_topic(provider, prefix)
        self._revision = normalizer.REVISION
        self._fates = Fates(provider, normalizer, encoder(settings.prefix), settings.keys, prefix)
        self.dedup_days = dedup_days(settings.dedup_days, normalizer.RETRIED_FOR_DAYS)
        self.delivery: Delivery = AT_LEAST_ONCE if settings.slot is None else EXACTLY_ONCE
        self.client = {**settings.kafka, "logger": ClientLog()}
        self._scratch = None if settings.state_folder or not self.dedup_days else _scratch()
        self._worker: Worker | None = None
        self._forgiving = False

    def start(self) -> Worker:
        """Build new clients, and a worker that goes on from the committed offsets."""
        loop = LoopSettings(
            mapping_revision=self._revision,
            dedup_window_seconds=self.dedup_days * 86_400,
            stall=self._settings.stall,
            transaction_seconds=None if self._settings.slot is None else TRANSACTION_SECONDS,
        )
        after_gap: AfterGap = "continue" if self._settings.continue_over_gaps else "halt"
        kafka: Kafka
        if self._settings.slot is None:
            kafka = Broker(
                self.client,
                self._raw_topic,
                self._group,
                max_poll_interval=loop.max_poll_interval,
                after_gap=after_gap,
                telemetry=self._meter,
            )
        else:
            kafka = TransactionalBroker(
                self.client,
                self._raw_topic,
                self._group,
                self._settings.slot,
                max_poll_interval=loop.max_poll_interval,
                after_gap=after_gap,
                telemetry=self._meter,
            )
        forgiving, self._forgiving = self._forgiving, False
        seen = self._seen() if self.dedup_days else None
        self._worker = Worker(
            kafka,
            self._fates.decide,
            loop,
            telemetry=self._meter,
            keep=lambda *books: self._keep(seen, *books),
            seen=seen,
            forgiving=forgiving,
        )
        return self._worker

    def resume(self) -> str:
        """Go on after a stall; what failed until now is not held against what comes."""
        if not self._meter.is_stalled:
            return "not stalled; nothing to do"
        self._forgiving = True
        if self._worker is not None:
            self._worker.interrupt("resumed by an operator")
        return "resumed; what failed until now is in the dead letters"

    def close(self) -> None:
        """Delete what is not kept between starts."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _seen(self) -> TopicSeen:
        root = self._settings.state_folder or self._scratch or Path(tempfile.gettempdir())
        return TopicSeen(
            self.client,
            self._seen_topic,
            self._group,
            StoreFolders(root / self._group, self.dedup_days * 86_400),
            # Who asks for exactly once would rather have an event late than twice.
            rebuild_seconds=(
                self._settings.rebuild_seconds if self._settings.slot is None else math.inf
            ),
            telemetry=self._meter,
        )

    def _keep(
        self,
        seen: TopicSeen | None,
        partition: Partition,
        page: Page,
        entries: Mapping[bytes, First],
    ) -> Sequence[Output]:
        """Write the books of one epoch and partition: its fates, and which events it wrote."""
        number = partition[1]
        books = page_outputs(page, self._ledger_topic, number, self._revision, self.delivery)
        if seen is not None and entries:
            values = pack(entries, revision=self._revision, partitions=seen.partitions)
            books += [
                Output(topic=self._seen_topic, key=None, value=value, partition=number)
                for value in values
            ]
        return books


def _scratch() -> Path:
    """Make a folder for this process, and delete those of processes that were killed."""
    root = Path(tempfile.gettempdir())
    for left in root.glob("verihook-seen-*-*"):
        pid = left.name.split("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"verihook-seen-{os.getpid()}-"))


def _topics_granted(
    provider: str, settings: Settings, readiness: Readiness, stop: threading.Event
) -> bool:
    """Wait until Kafka answers and every topic is as durable and as large as it must be.

    Gives False if it is time to stop before that.
    """
    copies = 1 if settings.single_copy else 2
    prefix = settings.topic_prefix
    raw = raw_topic(provider, prefix)
    days = dedup_days(settings.dedup_days, NORMALIZERS[provider].RETRIED_FOR_DAYS)
    remembered = Retention(
        least_ms=(days + SPARE_DAYS) * 86_400_000,
        purpose=f"telling duplicates for {days} days (CONSUMER_DEDUP_DAYS)",
        setting="seen.retention.ms",
    )
    needs = {
        raw: TopicNeeds(max_message_bytes=0, min_insync_replicas=copies, log_append_time=True),
        dead_topic(provider, prefix): TopicNeeds(
            max_message_bytes=DEAD_MESSAGE_BYTES, min_insync_replicas=copies
        ),
        output_topic(prefix): TopicNeeds(
            max_message_bytes=OUTPUT_MESSAGE_BYTES, min_insync_replicas=copies
        ),
        seen_topic(provider, prefix): TopicNeeds(
            max_message_bytes=BOOKS_MESSAGE_BYTES,
            min_insync_replicas=copies,
            log_append_time=True,
            retention=remembered if days else None,
            beside=raw if days else "",
        ),
        ledger_topic(provider, prefix): TopicNeeds(
            max_message_bytes=BOOKS_MESSAGE_BYTES, min_insync_replicas=copies, beside=raw
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
