"""One incarnation of a consumer after the other: clients, memory and worker, by the settings."""

import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from consumers.attendant import Attendant, Watch
from consumers.broker import AfterGap, Broker
from consumers.codec import encoder
from consumers.contract import Kafka
from consumers.dedup import First, pack
from consumers.fate import Fates
from consumers.ledger import Delivery, Page, page_outputs
from consumers.normalizers import EVERY
from consumers.records import Output, Partition
from consumers.seen import StoreFolders, TopicSeen
from consumers.settings import AT_LEAST_ONCE, EXACTLY_ONCE, Settings, dedup_days
from consumers.transactions import TRANSACTION_SECONDS, TransactionalBroker
from consumers.worker import Settings as LoopSettings
from consumers.worker import Worker
from gateway.delivery import group_id, ledger_topic, raw_topic, seen_topic
from gateway.kafka import ClientLog


class Incarnations:
    """Builds the workers of one process, one after the other: each with clients of its own."""

    def __init__(self, provider: str, settings: Settings, meter: Attendant) -> None:
        normalizer = EVERY[provider]
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
        meter.reads(self._raw_topic, normalizer.UNMAPPED_FIELDS, normalizer.IGNORED_REASONS)
        self._scratch = None if settings.state_folder or not self.dedup_days else _scratch()
        self._worker: Worker | None = None
        self._forgiving = False
        self._watch = Watch(meter)

    def start(self) -> Worker:
        """Build new clients, and a worker that goes on from the committed offsets."""
        self._watch.start()
        loop = LoopSettings(
            mapping_revision=self._revision,
            dedup_window_seconds=self.dedup_days * 86_400,
            stall=self._settings.stall,
            transaction_seconds=None if self._settings.slot is None else TRANSACTION_SECONDS,
        )
        kafka = self._kafka(loop.max_poll_interval)
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
        """Stop watching, and delete what is not kept between starts."""
        self._watch.stop()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _kafka(self, max_poll_interval: float) -> Kafka:
        after_gap: AfterGap = "continue" if self._settings.continue_over_gaps else "halt"
        if self._settings.slot is None:
            return Broker(
                self.client,
                self._raw_topic,
                self._group,
                max_poll_interval=max_poll_interval,
                after_gap=after_gap,
                telemetry=self._meter,
                statistics=self._meter.statistics,
            )
        return TransactionalBroker(
            self.client,
            self._raw_topic,
            self._group,
            self._settings.slot,
            max_poll_interval=max_poll_interval,
            after_gap=after_gap,
            telemetry=self._meter,
            statistics=self._meter.statistics,
        )

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
        self._meter.entered(len(books))
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
