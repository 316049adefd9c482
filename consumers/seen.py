"""What was seen before: the reader of the topic `seen.<provider>`, and the stores it fills.

The topic is the truth and a store is a cache of one of its partitions, so a store may be lost,
old, broken or held by somebody else: then it is made anew from the topic.

Facts of librdkafka 2.16 and Kafka 4.3 that shape this file, each seen:
- A read_committed reader is told of an end of partition where the last stable offset is. That lags
  behind the log's end while a transaction is open, and for a moment after one was committed, until
  its marker stands in this partition. So what ends a catch-up is an end of partition at or beyond
  the log's end, asked for once the partition was ours.
- Markers take offsets and are never given out, so a position says nothing about the end.
- offsets_for_times and list_offsets through the AdminClient do not wait behind a fetch; their
  answers are futures, and nothing here waits for them.
- A Consumer wants a group.id though it never joins: it gets the group it works for, on which it
  has rights in any case.
- A fetch at the log's end waits fetch.wait.max.ms before the end of partition is told.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import ClassVar, Protocol

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec

from consumers import store
from consumers.broker import (
    CLOSE_SECONDS,
    LOOKUP_SECONDS,
    NOT_AUTHORISED,
    TRYING_ON,
    UNKNOWN_TOPIC,
    LibrdkafkaConfig,
    cause_of,
    close_within,
    no_such_topic,
)
from consumers.dedup import First, SeenFormatError, unpack
from consumers.records import Partition
from consumers.store import StoreCorrupt, StoreHeld, StoreUnusable
from consumers.worker import Halted, Interrupted

REBUILD_SECONDS = 300.0
CLOCKS_APART_MS = 600_000
"""By how much the clocks of brokers may differ, which time the log of a partition in turn."""

_LEAST_SLICE, _MOST_SLICE = 5, 500
"""Records taken between two looks at the clock: one may hold 10,000 entries, or one."""
_LARGE_SLICE_ENTRIES = 10_000
_WAIT_SECONDS = 0.05
_MOST_LATE_ENTRIES = 200_000
_MARK = bytes(16)
"""No event id: those are UUIDs. Under it a store says that it is being rebuilt, and from when."""

log = structlog.get_logger()


class Store(Protocol):
    """What is kept of one partition; see consumers/store.py."""

    @property
    def through(self) -> int | None:
        """Tell up to which broker time (ms) the topic is in the store; None if nothing is."""
        ...

    @property
    def newest(self) -> int:
        """Tell the newest received_at (seconds) that was put, from which the window counts."""
        ...

    @property
    def count(self) -> int:
        """Tell about how many ids the store holds."""
        ...

    def find(self, ids: Sequence[bytes]) -> dict[bytes, First]:
        """Look up ids."""
        ...

    def put(self, entries: Mapping[bytes, First], through: int) -> None:
        """Keep entries, over what was kept of the same ids."""
        ...

    def close(self) -> None:
        """Give the store back."""
        ...


class Stores(Protocol):
    """Where stores come from, by the number of their partition.

    They may raise StoreCorrupt, StoreHeld and StoreUnusable.
    """

    def open(self, number: int) -> Store:
        """Open what is kept of a partition, or an empty store."""
        ...

    def wipe(self, number: int) -> None:
        """Delete what is kept of a partition; its store is closed."""
        ...

    def spare(self, number: int) -> Store:
        """Make an empty store that nobody else can hold."""
        ...


class StoreFolders:
    """Stores on disk, each in the folder of its partition's number below `root`."""

    def __init__(self, root: Path, window_seconds: int) -> None:
        self._root = root
        self._window = window_seconds

    def open(self, number: int) -> Store:
        """Open the folder of a partition, or make it."""
        return store.Store.open(self._root / str(number), self._window)

    def wipe(self, number: int) -> None:
        """Empty the folder of a partition."""
        store.wipe(self._root / str(number))

    def spare(self, number: int) -> Store:
        """Make a store in a folder of its own, and delete those that processes now gone left."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            for left in set(self._root.glob("spare-*")) - _SpareStore.folders:
                with contextlib.suppress(StoreHeld):
                    _delete(left)
            folder = Path(tempfile.mkdtemp(prefix=f"spare-{number}-", dir=self._root))
        except OSError as error:
            raise StoreUnusable(
                f"{self._root} cannot be used for stores: {error.strerror}"
            ) from error
        _SpareStore.folders.add(folder)
        return _SpareStore.open(folder, self._window)


class _SpareStore(store.Store):
    """A store whose folder goes with it."""

    folders: ClassVar[set[Path]] = set()
    """Those of this process, which their locks protect from other processes only."""

    def close(self) -> None:
        """Delete everything."""
        super().close()
        with contextlib.suppress(StoreHeld, StoreUnusable, OSError):
            _delete(self._folder)
        self.folders.discard(self._folder)


def _delete(folder: Path) -> None:
    store.wipe(folder)
    (folder / "LOCK").unlink(missing_ok=True)
    folder.rmdir()


class MemoryStores:
    """Stores that end with the process: for tests."""

    def __init__(self, window_seconds: int) -> None:
        self._window = window_seconds
        self._kept: dict[int, store.MemoryStore] = {}

    def open(self, number: int) -> Store:
        """Give the store of a partition, or an empty one."""
        return self._kept.setdefault(number, store.MemoryStore(self._window))

    def wipe(self, number: int) -> None:
        """Forget the store of a partition."""
        self._kept.pop(number, None)

    def spare(self, number: int) -> Store:  # noqa: ARG002 - each is new
        """Make an empty store."""
        return store.MemoryStore(self._window)


class SeenTelemetry:
    """What the memory of what was seen tells of itself; this one listens to nothing."""

    def rebuilt(self, partition: Partition, entries: int, seconds: float) -> None:
        """A partition is known now, after so many entries were read from the topic."""

    def late(self, partition: Partition, seconds: float) -> None:
        """A partition is used though it is not known yet: duplicates may pass meanwhile."""

    def unreadable(self, partition: Partition, offset: int) -> None:
        """A record of the seen topic was skipped: a duplicate of what it names may pass."""

    def discarded(self, partition: Partition, why: str) -> None:
        """What was kept of a partition cannot be used, and is made anew from the topic."""


class _Passage(msgspec.Struct):
    """One partition of the seen topic to be read for a store, up to where it ended when asked.

    `own` is the partition of the same number; others hold what the store's partition would have
    held had there been as many as now.
    """

    number: int
    own: bool
    first: Future[ListOffsetsResultInfo] | None = None
    end: Future[ListOffsetsResultInfo] | None = None
    reading: bool = False
    begun: bool = False
    """Some record of it was read."""
    eof: int = -1
    """The furthest end of partition that was told."""
    over: bool = False


class _Memory(msgspec.Struct):
    """What is known of one partition of the raw topic."""

    partition: Partition
    since: float
    store: Store | None = None
    passages: list[_Passage] = []
    read_to: int = 0
    """Kafka's time (ms) up to which our own partition is in the store; 0 is nothing."""
    marked: bool = False
    """The store says that it is being read up."""
    entries: int = 0
    given: bool = False
    known: bool = False
    remembered: dict[bytes, First] = {}
    """Newer than what is still to be read: not to be overwritten by it."""


class TopicSeen:
    """`dedup.Seen` over the seen topic of one raw topic and a store for each partition of it.

    One incarnation's, in one thread. `group` is never joined. `clock` never goes back.
    """

    def __init__(
        self,
        config: LibrdkafkaConfig,
        topic: str,
        group: str,
        stores: Stores,
        *,
        rebuild_seconds: float = REBUILD_SECONDS,
        telemetry: SeenTelemetry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._stores = stores
        self._rebuild_seconds = rebuild_seconds
        self._telemetry = telemetry or SeenTelemetry()
        self._clock = clock
        self._memories: dict[int, _Memory] = {}
        self._readers: dict[int, tuple[_Memory, _Passage]] = {}
        self._nothing_older: set[int] = set()
        self._partitions = 0
        self._counted = False
        self._skipped = 0
        self._slice = _LEAST_SLICE
        self._admin = AdminClient(dict(config))
        self._consumer = Consumer(
            {"queued.max.messages.kbytes": 16 * 1024}
            | dict(config)
            | {
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",  # what retention deleted is beyond the window
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "allow.auto.create.topics": False,
                "fetch.wait.max.ms": 50,
                "fetch.queue.backoff.ms": 10,
            }
        )

    @property
    def partitions(self) -> int:
        """Tell how many partitions the raw topic has, as last counted."""
        return self._partitions

    # -- what the loop asks --

    def open(self, partition: Partition) -> None:
        """Begin to know a partition."""
        self.forget(partition)
        self._memories[partition[1]] = _Memory(partition, self._clock())
        self._counted = False

    def behind(self) -> bool:
        """Say whether some partition is not known yet."""
        return any(not memory.known for memory in self._memories.values())

    def catch_up(self, seconds: float) -> list[Partition]:
        """Read on for about `seconds`; give the partitions that may be used from now on."""
        deadline = self._clock() + seconds
        if not self._counted:
            self._count_partitions()
        ready: list[Partition] = []
        while True:
            for memory in list(self._memories.values()):
                if not memory.known:
                    self._advance(memory)
                if self._usable(memory):
                    ready.append(memory.partition)
            left = deadline - self._clock()
            if ready or left <= 0 or not self.behind():
                return ready
            self._read(min(left, _WAIT_SECONDS))

    def knows(self, partition: Partition) -> bool:
        """Say whether everything before this partition became ours is in its store."""
        memory = self._memories.get(partition[1])
        return memory is not None and memory.known

    def find(self, partition: Partition, ids: Sequence[bytes]) -> dict[bytes, First]:
        """Look up ids."""
        memory = self._memories.get(partition[1])
        if memory is None or memory.store is None:
            return {}
        try:
            return memory.store.find(ids)
        except StoreCorrupt as problem:
            raise self._discarded(memory, problem) from problem
        except StoreUnusable as problem:
            raise Halted(str(problem)) from problem

    def remember(self, partition: Partition, entries: Mapping[bytes, First], through: int) -> None:
        """Keep entries that stand in the topic.

        While the partition is still read up, how far that is stays what a restart goes on from.
        """
        memory = self._memories.get(partition[1])
        if memory is None or memory.store is None:
            return
        if not memory.known:
            memory.remembered.update(entries)
            if len(memory.remembered) > _MOST_LATE_ENTRIES:
                # The passage may overwrite them now, but ends only after it has read them too.
                memory.remembered.clear()
                for passage in memory.passages:
                    passage.end = None
        self._put(memory, entries, through)

    def forget(self, partition: Partition) -> None:
        """Stop reading for a partition and close its store."""
        memory = self._memories.pop(partition[1], None)
        if memory is None:
            return
        for number in [one for one, (reader, _) in self._readers.items() if reader is memory]:
            self._stop_reading(number)
        if memory.store is not None:
            memory.store.close()

    def close(self) -> None:
        """Close every store and the client."""
        for memory in list(self._memories.values()):
            self.forget(memory.partition)
        close_within(CLOSE_SECONDS, self._consumer.close)

    # -- one partition --

    def _count_partitions(self) -> None:
        """Compare the seen topic with the raw one. Raises Halted where they part."""
        topics = {memory.partition[0] for memory in self._memories.values()} | {self._topic}
        counts = {}
        for topic in topics:
            try:
                found = self._admin.list_topics(topic, timeout=LOOKUP_SECONDS).topics[topic]
            except KafkaException as problem:
                name = cause_of(problem).name()
                raise Interrupted(f"{topic} cannot be looked up: {name}") from problem
            if found.error is not None:
                if found.error.code() in UNKNOWN_TOPIC:
                    raise Halted(no_such_topic(topic))
                self._judge(found.error, topic)
                return  # asked again by the next call
            counts[topic] = len(found.partitions)
        ours = counts[self._topic]
        for topic, count in counts.items():
            if count != ours:
                raise Halted(
                    f"{self._topic} has {ours} partitions and {topic} has {count}, which must be "
                    "the same number; `python -m deploy topics apply` grows them together"
                )
        if ours != self._partitions:
            self._nothing_older.clear()
        self._partitions = ours
        self._counted = True

    def _advance(self, memory: _Memory) -> None:
        """Take the next step towards knowing a partition, as far as it needs no waiting."""
        if not self._counted:
            return
        if memory.store is None:
            self._open_store(memory)
        while memory.passages:
            if not self._over(memory, memory.passages[0]):
                return
            memory.passages.pop(0)
        memory.known = True
        memory.remembered.clear()
        if memory.marked:
            self._put(memory, {}, 0)
        self._telemetry.rebuilt(memory.partition, memory.entries, self._clock() - memory.since)

    def _usable(self, memory: _Memory) -> bool:
        """Say once that a partition may be used: it is known, or that takes too long."""
        if memory.given or memory.store is None:
            return False
        waited = self._clock() - memory.since
        if not memory.known:
            if waited < self._rebuild_seconds:
                return False
            log.warning("seen_late", partition=memory.partition[1], then="duplicates may pass")
            self._telemetry.late(memory.partition, waited)
        memory.given = True
        return True

    def _open_store(self, memory: _Memory) -> None:
        """Open what is kept of a partition and list what is to be read for it."""
        number = memory.partition[1]
        try:
            try:
                self._use(memory, self._stores.open(number))
            except StoreCorrupt as problem:
                self._tell_discarded(memory, str(problem))
                self._stores.wipe(number)
                self._use(memory, self._stores.open(number))
        except StoreHeld as problem:
            self._tell_discarded(memory, str(problem))
            self._use_spare(memory)
        except StoreUnusable as problem:
            raise Halted(str(problem)) from problem
        except StoreCorrupt as problem:
            raise Interrupted(f"a store made anew cannot be used: {problem}") from problem
        older = [] if memory.read_to else grown_from(number, self._partitions)
        memory.passages = [_Passage(one, own=False) for one in older]
        memory.passages.append(_Passage(number, own=True))

    def _use(self, memory: _Memory, opened: Store) -> None:
        """Take a store if it says how far it is. Raises StoreCorrupt and StoreUnusable."""
        try:
            memory.read_to, memory.marked = _how_far(opened)
        except BaseException:
            opened.close()
            raise
        memory.store = opened

    def _use_spare(self, memory: _Memory) -> None:
        try:
            self._use(memory, self._stores.spare(memory.partition[1]))
        except (StoreUnusable, StoreCorrupt, StoreHeld) as problem:
            raise Halted(str(problem)) from problem

    def _over(self, memory: _Memory, passage: _Passage) -> bool:
        """Go on with a passage; True once there is nothing left to read of it.

        Where it was told to end before the end that was asked for, it goes on: the last stable
        offset lags behind, or entries were remembered meanwhile that are to be read too.
        """
        if not passage.own and passage.number in self._nothing_older:
            passage.over = True
        if not passage.over and (log_of_it := self._looked_up(memory, passage)) is not None:
            first, end = log_of_it
            if passage.reading:
                passage.over = passage.eof >= end
            elif first < 0 or first >= end:  # nothing since that time, or nothing at all
                passage.over = True
            elif passage.number not in self._readers:  # else another one's passage goes before
                self._start_reading(memory, passage, first)
        if passage.over and passage.reading:
            self._stop_reading(passage.number)
        return passage.over

    def _looked_up(self, memory: _Memory, passage: _Passage) -> tuple[int, int] | None:
        """Give the first offset to be read and the log's end; None while that is not known."""
        at = TopicPartition(self._topic, passage.number)
        if passage.end is None:
            passage.end = self._ask(at, OffsetSpec.latest())  # type: ignore[no-untyped-call] # a classmethod without annotations
        if passage.first is None:
            if passage.own and memory.read_to:
                since = OffsetSpec.for_timestamp(max(0, memory.read_to - CLOCKS_APART_MS))
            else:
                since = OffsetSpec.earliest()  # type: ignore[no-untyped-call] # as above
            passage.first = self._ask(at, since)
        if not (passage.first.done() and passage.end.done()):
            return None
        first, end = self._answer(passage, passage.first), self._answer(passage, passage.end)
        if first is None or end is None:
            passage.first = passage.end = None
            return None
        return first, end

    def _ask(self, at: TopicPartition, which: OffsetSpec) -> Future[ListOffsetsResultInfo]:
        answers = self._admin.list_offsets({at: which}, request_timeout=LOOKUP_SECONDS)
        return next(iter(answers.values()))

    def _answer(self, passage: _Passage, asked: Future[ListOffsetsResultInfo]) -> int | None:
        """Give an offset that was asked for; None if it is to be asked again."""
        try:
            return int(asked.result().offset)
        except KafkaException as problem:
            error = cause_of(problem)
            if error.code() in NOT_AUTHORISED:
                self._judge(error, f"{self._topic}[{passage.number}]")
            with contextlib.suppress(KafkaException):  # for fresh metadata: see log_offsets
                self._admin.list_topics(self._topic, timeout=1.0)
            return None

    # -- reading --

    def _read(self, timeout: float) -> None:
        """Take in what came of all passages, in the order of the topic."""
        if not self._readers:
            time.sleep(min(timeout, 0.005))  # for the answers of the AdminClient's thread
            return
        try:
            messages = self._consumer.consume(self._slice, timeout)
        except (KafkaException, SystemError) as problem:
            raise Interrupted(f"reading failed: {cause_of(problem).name()}") from problem
        gathered: dict[int, dict[bytes, First]] = {}
        newest: dict[int, int] = {}
        for message in messages:
            number, offset = message.partition(), message.offset()
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
                self._judge(error, f"{self._topic}[{number}]")
                continue
            if number is None or offset is None or number not in self._readers:
                continue  # of a passage that is over
            if error is None:
                self._gather(message, gathered.setdefault(number, {}))
                newest[number] = message.timestamp()[1]
            else:
                passage = self._readers[number][1]
                passage.eof = max(passage.eof, offset)
        large = sum(map(len, gathered.values())) > _LARGE_SLICE_ENTRIES
        self._slice = _LEAST_SLICE if large else min(2 * self._slice, _MOST_SLICE)
        for number, entries in gathered.items():
            self._keep(number, entries, newest[number])

    def _gather(self, message: Message, entries: dict[bytes, First]) -> None:
        """Add a record's entries, later ones over earlier ones."""
        number, offset = message.partition(), message.offset()
        if number is None or offset is None:
            return
        memory, passage = self._readers[number]
        if passage.over:
            return
        try:
            found = unpack(message.value() or b"", number)
        except SeenFormatError as problem:
            # Skipping it can let a duplicate pass; stopping would stop everything.
            self._telemetry.unreadable(memory.partition, offset)
            if not self._skipped:
                log.warning("seen_unreadable", partition=number, offset=offset, why=str(problem))
            self._skipped += 1
            return
        if not passage.own:
            if found.partitions >= self._partitions:  # from here on there were as many as now
                passage.over = True
                if not passage.begun:
                    self._nothing_older.add(number)
                return
            passage.begun = True
            if memory.partition[1] % found.partitions != number:
                return
        memory.entries += len(found.entries)
        entries.update(found.entries)

    def _keep(self, number: int, entries: dict[bytes, First], newest: int) -> None:
        """Put what a passage gave into its store, but for what is known better."""
        memory, passage = self._readers[number]
        for id_ in memory.remembered.keys() & entries.keys():
            del entries[id_]
        if passage.own:
            memory.read_to = max(memory.read_to, newest)
        self._put(memory, entries, newest)

    def _start_reading(self, memory: _Memory, passage: _Passage, first: int) -> None:
        self._readers[passage.number] = (memory, passage)
        passage.reading = True
        self._consumer.incremental_assign([TopicPartition(self._topic, passage.number, first)])

    def _stop_reading(self, number: int) -> None:
        _, passage = self._readers.pop(number)
        passage.reading = False
        self._consumer.incremental_unassign([TopicPartition(self._topic, number)])

    # -- what it means --

    def _put(self, memory: _Memory, entries: Mapping[bytes, First], through: int) -> None:
        """Put entries; while a store is being read up it says so itself, in the same write.

        So a store that a crash leaves half made is never taken for a whole one.
        """
        if memory.store is None:
            return
        through = max(through, memory.store.through or 0)
        if not memory.known or memory.marked:
            # As new as the newest entry, so that it neither ends the window nor falls out of it.
            received = [memory.store.newest, *(first.received_at for first in entries.values())]
            mark = First(0, memory.read_to, max(received), int(memory.known))
            entries = {**entries, _MARK: mark}
            memory.marked = not memory.known
        try:
            memory.store.put(entries, through)
        except StoreCorrupt as problem:
            raise self._discarded(memory, problem) from problem
        except StoreUnusable as problem:
            raise Halted(str(problem)) from problem

    def _discarded(self, memory: _Memory, problem: StoreCorrupt) -> Interrupted:
        """Delete a store; the next incarnation makes it anew."""
        number = memory.partition[1]
        self._tell_discarded(memory, str(problem))
        self.forget(memory.partition)
        try:
            self._stores.wipe(number)
        except StoreUnusable as unusable:
            raise Halted(str(unusable)) from unusable
        except StoreHeld:  # ours was a spare one
            pass
        return Interrupted(f"what was kept of partition {number} cannot be trusted")

    def _tell_discarded(self, memory: _Memory, why: str) -> None:
        log.warning("seen_discarded", partition=memory.partition[1], why=why, then="made anew")
        self._telemetry.discarded(memory.partition, why)

    def _judge(self, error: KafkaError, where: str) -> None:
        """Go on or end, by what Kafka says of the seen topic."""
        if error.code() in NOT_AUTHORISED:
            raise Halted(f"not authorised to read {where}: {error.name()}")
        if error.code() not in TRYING_ON:
            raise Interrupted(f"reading {where} failed: {error.name()}")


def grown_from(number: int, partitions: int) -> list[int]:
    """List the partitions that held what is this one's now, when there were fewer; oldest first.

    Topics grow by multiples, so there were as many as some divisor says.
    """
    fewer = [count for count in range(1, partitions) if partitions % count == 0]
    return list(dict.fromkeys(number % count for count in fewer if number % count != number))


def _how_far(kept: Store) -> tuple[int, bool]:
    """Say up to which time (ms) a store holds its own partition, and whether it says so itself.

    Raises StoreCorrupt for one that was left before its own partition was begun.
    """
    mark = kept.find([_MARK]).get(_MARK)
    if mark is None or mark.revision:
        return kept.through or 0, False
    if not mark.offset:
        raise StoreCorrupt("the store was left half made")
    return mark.offset, True
