"""What was seen before: the reader of the topic `seen.<provider>`, and the stores it fills.

The topic is the truth and a store is a cache of one of its partitions, so a store may be lost,
old, broken or held by somebody else: then it is made anew from the topic. A store is believed for
the topics it was made of, by their ids: of another cluster's, or of topics that were deleted and
made anew under the same names, it would name ids as seen whose events stand nowhere.

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
- describe_topics gives several topics as one broker knows them at one moment, and creates none,
  as list_topics with a name may (auto.create.topics.enable). Ids are all zero before Kafka 2.8.
"""

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    ListOffsetsResultInfo,
    OffsetSpec,
    TopicDescription,
)

from consumers import store
from consumers.broker import (
    CLOSE_SECONDS,
    LOOKUP_SECONDS,
    MISSING_TOPIC_SECONDS,
    NOT_AUTHORISED,
    TRYING_ON,
    UNKNOWN_TOPIC,
    LibrdkafkaConfig,
    cause_of,
    close_within,
    no_such_topic,
)
from consumers.contract import Halted, Interrupted
from consumers.dedup import First, SeenFormatError, unpack
from consumers.records import Partition
from consumers.store import StoreCorrupt, StoreHeld, StoreUnusable
from gateway.ranges import told_offset

REBUILD_SECONDS = 300.0
_CLOCKS_APART_MS = 600_000
"""By how much the clocks of brokers may differ, which time the log of a partition in turn."""

_LEAST_SLICE, _MOST_SLICE = 5, 500
"""Records taken between two looks at the clock: one may hold 10,000 entries, or one."""
_LARGE_SLICE_ENTRIES = 10_000
_WAIT_SECONDS = 0.05
_LATE_SECONDS = 0.02
"""What is spent at a time on partitions that are used already though they are not known yet."""
_MOST_LATE_ENTRIES = 200_000
_MARK = bytes(16)
"""No event id: those are UUIDs. Under it a store says that it is being rebuilt, and from when."""


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

    def bind(self, world: str) -> None:
        """Give from now on only what was kept for these topics, by their ids; never fails.

        Called before anything is opened. Without ids, what is kept is wiped before it is opened.
        """
        ...

    def open(self, number: int) -> Store:
        """Open what is kept of a partition, or an empty store."""
        ...

    def wipe(self, number: int) -> None:
        """Delete what is kept of a partition; its store is closed."""
        ...

    def spare(self, number: int) -> Store:
        """Make an empty store that nobody else can hold."""
        ...


_WORLD = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}|no-ids")
_NUMBER = re.compile(r"\d+")


class StoreFolders:
    """Stores on disk, each in the folder of its partition's number, below that of the topics' ids.

    What belongs to other topics is deleted, and so is a partition's that has long been elsewhere:
    nobody else would, it can be gigabytes, and the worst it costs is to be read from Kafka again.
    """

    def __init__(self, root: Path, window_seconds: int) -> None:
        self._root = root
        self._window = window_seconds
        self._folder = root / "no-ids"

    def bind(self, world: str) -> None:
        """Choose the folder of these topics; delete what is dead, but for what is held."""
        self._folder = self._root / (world or "no-ids")
        left_alone = time.time() - self._window - 2 * store.DAY  # the topic has forgotten it too
        for folder in _folders(self._root, _WORLD):
            for kept in _folders(folder, _NUMBER):
                with contextlib.suppress(StoreHeld, StoreUnusable, StoreCorrupt, OSError):
                    if folder != self._folder or _last_written(kept) < left_alone:
                        _delete(kept)
            if folder != self._folder:
                with contextlib.suppress(OSError):  # something in it is held
                    folder.rmdir()

    def open(self, number: int) -> Store:
        """Open the folder of a partition, or make it."""
        return store.Store.open(self._folder / str(number), self._window)

    def wipe(self, number: int) -> None:
        """Empty the folder of a partition."""
        store.wipe(self._folder / str(number))

    def spare(self, number: int) -> Store:
        """Make a store in a folder of its own, and delete those that processes now gone left."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            for left in set(self._root.glob("spare-*")) - _SpareStore.folders:
                # Held by its process, or deleted by another one in this moment.
                with contextlib.suppress(StoreHeld, StoreUnusable, OSError):
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


def _folders(below: Path, names: re.Pattern[str]) -> list[Path]:
    try:
        return [one for one in below.iterdir() if names.fullmatch(one.name) and one.is_dir()]
    except OSError:  # not there, or not ours: who opens a store in it is told
        return []


def _last_written(folder: Path) -> float:
    """Say when anything in a store's folder was last written; each opening writes."""
    return max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)


def _delete(folder: Path) -> None:
    store.wipe(folder)
    (folder / "LOCK").unlink(missing_ok=True)
    folder.rmdir()


class MemoryStores:
    """Stores that end with the process: for tests."""

    def __init__(self, window_seconds: int) -> None:
        self._window = window_seconds
        self._kept: dict[int, store.MemoryStore] = {}
        self._world: str | None = None

    def bind(self, world: str) -> None:
        """Forget what was kept for other topics."""
        if world != self._world:
            self._kept.clear()
        self._world = world

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
        self._described: dict[str, Future[TopicDescription]] | None = None
        self._wrong_since: float | None = None
        self._world: str | None = None
        self._slice = _LEAST_SLICE
        self._admin = AdminClient(dict(config))
        self._consumer = Consumer(
            # Few, so that what is taken in at once is: 28 bytes are an entry.
            {"queued.max.messages.kbytes": 2 * 1024, "fetch.message.max.bytes": 256 * 1024}
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
        self._described = None

    def behind(self) -> bool:
        """Say whether some partition is not known yet."""
        return any(not memory.known for memory in self._memories.values())

    def catch_up(self, seconds: float) -> list[Partition]:
        """Read on for about `seconds`; give the partitions that may be used from now on.

        Only a part of it is spent if nothing waits for the rest to be known.
        """
        if all(memory.given for memory in self._memories.values()):
            seconds = min(seconds, _LATE_SECONDS)
        deadline = self._clock() + seconds
        ready: list[Partition] = []
        while True:
            if not self._counted and self._memories:
                self._count_partitions()
            for memory in list(self._memories.values()):
                to_be_opened = memory.store is None
                if not memory.known:
                    self._advance(memory)
                if self._usable(memory):
                    ready.append(memory.partition)
                if to_be_opened and memory.store is not None and self._clock() >= deadline:
                    break  # to open one can take seconds: the next call goes on
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
        """Compare the seen topic with the raw one, as far as it needs no waiting.

        Raises Halted where they part, Interrupted if Kafka does not say.
        """
        described = self._asked_for_topics()
        if described is None:
            return
        raw, seen = described
        ours, theirs = len(seen.partitions), len(raw.partitions)
        if ours < theirs:  # more is the middle of a growth, where the raw topic comes last
            self._wrong(
                f"{seen.name} has {ours} partitions and {raw.name} has {theirs}: it must have as "
                "many; `python -m deploy topics apply --grow` grows them together"
            )
            return
        if max(self._memories) >= theirs:
            return  # by a broker that does not know of the growth yet
        self._wrong_since = None
        ids = [_id_of(raw), _id_of(seen)]
        world = "-".join(ids) if all(ids) else ""
        if self._world is None:
            self._stores.bind(world)
            self._world = world
        elif world != self._world:
            raise Interrupted(f"{raw.name} or {seen.name} was deleted and made anew")
        if theirs != self._partitions:
            self._nothing_older.clear()
        self._partitions = theirs
        self._counted = True

    def _asked_for_topics(self) -> tuple[TopicDescription, TopicDescription] | None:
        """Describe the raw and the seen topic; None as long as that is not answered."""
        raw = next(iter(self._memories.values())).partition[0]
        if self._described is None:
            both = TopicCollection([raw, self._topic])
            self._described = self._admin.describe_topics(both, request_timeout=LOOKUP_SECONDS)
        if not all(asked.done() for asked in self._described.values()):
            return None
        described, self._described = self._described, None
        found = {topic: self._found(topic, asked) for topic, asked in described.items()}
        one, other = found[raw], found[self._topic]
        return None if one is None or other is None else (one, other)

    def _found(self, topic: str, asked: Future[TopicDescription]) -> TopicDescription | None:
        """Give what was asked for; None if it is to be asked again."""
        try:
            return asked.result()
        except KafkaException as problem:
            error = cause_of(problem)
            if error.code() in UNKNOWN_TOPIC:
                self._wrong(no_such_topic(topic))
                return None
            if error.code() in NOT_AUTHORISED:
                raise Halted(
                    f"not authorised to look up {topic} ({error.name()}): allow Describe on it"
                ) from problem
            raise Interrupted(f"{topic} cannot be looked up: {error.name()}") from problem

    def _wrong(self, what: str) -> None:
        """Halt for what a broker that lags behind may say once it was said for a while."""
        if self._wrong_since is None:
            self._wrong_since = self._clock()
        if self._clock() - self._wrong_since >= MISSING_TOPIC_SECONDS:
            raise Halted(what)
        time.sleep(_WAIT_SECONDS)

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
            self._telemetry.late(memory.partition, waited)
        memory.given = True
        return True

    def _open_store(self, memory: _Memory) -> None:
        """Open what is kept of a partition and list what is to be read for it."""
        number = memory.partition[1]
        try:
            if not self._world:
                self._stores.wipe(number)  # nothing says which topics it was made of
            try:
                self._use(memory, self._stores.open(number))
            except StoreCorrupt as problem:
                self._telemetry.discarded(memory.partition, str(problem))
                self._stores.wipe(number)
                self._use(memory, self._stores.open(number))
        except StoreHeld as problem:
            self._telemetry.discarded(memory.partition, str(problem))
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
                since = OffsetSpec.for_timestamp(max(0, memory.read_to - _CLOCKS_APART_MS))
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
            return told_offset(asked.result())
        except KafkaException as problem:
            error = cause_of(problem)
            if error.code() in NOT_AUTHORISED:
                self._judge(error, f"{self._topic}[{passage.number}]")
            with contextlib.suppress(KafkaException):  # for fresh metadata: see log_offsets
                self._admin.list_topics(timeout=1.0)
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
        except SeenFormatError:
            # Skipping it can let a duplicate pass; stopping would stop everything.
            self._telemetry.unreadable(memory.partition, offset)
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
        try:
            self._consumer.incremental_assign([TopicPartition(self._topic, passage.number, first)])
        except KafkaException as problem:
            raise Interrupted(f"reading failed: {cause_of(problem).name()}") from problem

    def _stop_reading(self, number: int) -> None:
        _, passage = self._readers.pop(number)
        passage.reading = False
        with contextlib.suppress(KafkaException):  # what still comes of it is not looked at
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
        self._telemetry.discarded(memory.partition, str(problem))
        self.forget(memory.partition)
        try:
            self._stores.wipe(number)
        except StoreUnusable as unusable:
            raise Halted(str(unusable)) from unusable
        except StoreHeld:  # ours was a spare one
            pass
        return Interrupted(f"what was kept of partition {number} cannot be trusted")

    def _judge(self, error: KafkaError, where: str) -> None:
        """Go on or end, by what Kafka says of the seen topic."""
        if error.code() in NOT_AUTHORISED:
            raise Halted(f"not authorised to read {where}: {error.name()}")
        if error.code() not in TRYING_ON:
            raise Interrupted(f"reading {where} failed: {error.name()}")


def _id_of(topic: TopicDescription) -> str:
    """Give a topic's id; nothing if its broker is too old to have any."""
    id_: Any = topic.topic_id  # declared without the methods it has
    high, low = id_.get_most_significant_bits(), id_.get_least_significant_bits()
    return f"{high % 2**64:016x}{low % 2**64:016x}" if high or low else ""


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
