"""The memory of what was seen: on the real Kafka, a topic and the stores that are made of it."""

import itertools
import os
import subprocess
import sys
import time
import uuid
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic

from consumers import seen as module
from consumers.contract import Halted, Interrupted
from consumers.dedup import First, pack
from consumers.seen import MemoryStores, SeenTelemetry, StoreFolders, TopicSeen, grown_from
from consumers.store import MemoryStore, StoreCorrupt, StoreHeld, StoreUnusable

pytestmark = pytest.mark.kafka

DAY = 86_400
WINDOW = 8 * DAY
NOW = int(time.time())


def event_id(number):
    return b"%016d" % number


class Told(SeenTelemetry):
    """What the memory told of itself."""

    def __init__(self):
        self.rebuilds, self.lates, self.skipped, self.whys = {}, [], [], []

    def rebuilt(self, partition, entries, seconds):
        self.rebuilds[partition[1]] = entries

    def late(self, partition, seconds):
        self.lates.append(partition[1])

    def unreadable(self, partition, offset):
        self.skipped.append(offset)

    def discarded(self, partition, why):
        self.whys.append(why)


class Place:
    """A raw topic and its seen topic, of one test."""

    def __init__(self, bootstrap, partitions=1, raw=None, config=None):
        self.config = {"bootstrap.servers": bootstrap, "log_level": 0}
        self.admin = AdminClient(self.config)
        name = uuid.uuid4().hex[:8]
        self.raw, self.topic = f"{name}.raw", f"{name}.seen"
        kept = {"message.timestamp.type": "LogAppendTime", **(config or {})}
        self.made = {
            self.raw: NewTopic(self.raw, raw or partitions, 1),
            self.topic: NewTopic(self.topic, partitions, 1, config=kept),
        }
        for future in self.admin.create_topics(list(self.made.values())).values():
            future.result()
        self.partitions = raw or partitions
        self.producer = Producer(self.config)
        self.stores = MemoryStores(WINDOW)
        self.told = Told()

    def partition(self, number=0):
        return (self.raw, number)

    def write(
        self,
        numbers,
        *,
        partition=0,
        partitions=None,
        offset=0,
        producer=None,
        received=NOW,
        **kinds,
    ):
        """Write one record of the seen topic: these ids, first seen at `offset` and on."""
        entries = {
            event_id(number): First(partition, offset + at, received, 1)
            for at, number in enumerate(numbers)
        }
        for value in pack(entries, revision=1, partitions=partitions or self.partitions):
            (producer or self.producer).produce(self.topic, value, partition=partition, **kinds)
        assert (producer or self.producer).flush(30) == 0

    def make_anew(self, *topics):
        """Delete topics and create them under the same names; wait until that is known."""
        before = {topic: self.described(topic).topic_id for topic in topics}
        for future in self.admin.delete_topics(list(topics)).values():
            future.result()
        for future in self.admin.create_topics([self.made[topic] for topic in topics]).values():
            future.result()
        for topic in topics:
            until(
                lambda topic=topic: (
                    (now := self.described(topic)) and str(now.topic_id) != str(before[topic])
                ),
                f"{topic} anew",
            )
        self.producer = Producer(self.config)

    def described(self, topic):
        try:
            return self.admin.describe_topics(TopicCollection([topic]))[topic].result()
        except KafkaException:
            return None

    def seen(self, *numbers, **kinds):
        """A memory with these partitions opened."""
        memory = TopicSeen(
            self.config, self.topic, "group", kinds.pop("stores", self.stores),
            telemetry=self.told, **kinds,
        )  # fmt: skip
        for number in numbers:
            memory.open(self.partition(number))
        return memory


def read_up(memory):
    """Catch up until nothing is left; give what became usable, in order."""
    given = []
    until(lambda: not memory.behind(), "it is read up", lambda: given.extend(memory.catch_up(0.1)))
    return given


def until(met, what, every=lambda: None):
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline, f"not seen: {what}"
        every()


def found(memory, place, numbers, partition=0):
    """Where these ids were first seen: number -> (partition, offset)."""
    ids = {event_id(number): number for number in numbers}
    firsts = memory.find(place.partition(partition), list(ids))
    return {ids[one]: (first.partition, first.offset) for one, first in firsts.items()}


@pytest.fixture
def place(kafka):
    return lambda *args, **kinds: Place(kafka.bootstrap, *args, **kinds)


@pytest.mark.parametrize("folders", [False, True], ids=["memory", "disk"])
def test_a_backlog_of_weeks_is_known_by_its_own_time(place, tmp_path, folders):
    """The window counts from receipts: that Kafka stored the entries today ends nothing."""
    here = place()
    here.write([1], received=NOW - 30 * DAY)
    here.write([2], received=NOW - 29 * DAY, offset=10)
    stores = StoreFolders(tmp_path, WINDOW) if folders else MemoryStores(WINDOW)
    memory = here.seen(0, stores=stores)
    read_up(memory)
    assert found(memory, here, [1, 2]) == {1: (0, 0), 2: (0, 10)}
    memory.close()
    again = here.seen(0, stores=stores)
    read_up(again)
    assert found(again, here, [1, 2]) == {1: (0, 0), 2: (0, 10)}
    again.close()


def test_a_fresh_store_learns_the_whole_topic(place):
    """Everything is found, later entries over earlier ones, and a partition is given once."""
    here = place(2)
    here.write([1, 2, 3])
    here.write([2], offset=50)
    here.write([4], partition=1, offset=7)
    memory = here.seen(0, 1)
    assert memory.behind()
    assert not memory.knows(here.partition(0))
    given = read_up(memory)
    assert sorted(given) == [here.partition(0), here.partition(1)]
    assert memory.catch_up(0) == []
    assert memory.knows(here.partition(0))
    assert found(memory, here, range(6)) == {1: (0, 0), 2: (0, 50), 3: (0, 2)}
    assert found(memory, here, range(6), 1) == {4: (1, 7)}
    assert here.told.rebuilds == {0: 4, 1: 1}
    memory.close()


def test_an_empty_topic_is_known_at_once(place):
    """Nothing was seen, and that is certain."""
    here = place()
    memory = here.seen(0)
    assert read_up(memory) == [here.partition()]
    assert found(memory, here, [1]) == {}
    memory.close()


@pytest.mark.parametrize("end", ["commit_transaction", "abort_transaction"])
def test_a_transaction_under_way_is_waited_for(place, end):
    """The last stable offset is not the end: what is about to be committed is not missed."""
    here = place()
    here.write([1])
    writer = Producer({**here.config, "transactional.id": here.topic})
    writer.init_transactions(30)
    writer.begin_transaction()
    here.write([2], offset=9, producer=writer)
    memory = here.seen(0)
    until(
        lambda: any(one.eof == 1 for _, one in memory._readers.values()),
        "the end of what is stable",
        lambda: memory.catch_up(0.05),
    )
    for _ in range(5):
        assert memory.catch_up(0.05) == []
    assert not memory.knows(here.partition())
    getattr(writer, end)(30)
    assert read_up(memory) == [here.partition()]
    wanted = {1: (0, 0), 2: (0, 9)} if end == "commit_transaction" else {1: (0, 0)}
    assert found(memory, here, [1, 2]) == wanted
    memory.close()


def test_markers_at_the_end_are_no_reason_to_wait(place):
    """A log that ends in a transaction's marker has an end all the same."""
    here = place()
    writer = Producer({**here.config, "transactional.id": here.topic})
    writer.init_transactions(30)
    for number in range(3):
        writer.begin_transaction()
        here.write([number], offset=number, producer=writer)
        writer.commit_transaction(30)
    memory = here.seen(0)
    assert read_up(memory) == [here.partition()]
    assert found(memory, here, range(3)) == {0: (0, 0), 1: (0, 1), 2: (0, 2)}
    memory.close()


def test_a_kept_store_reads_only_what_is_new(place):
    """It goes on from ten minutes before what it has, because brokers' clocks differ."""
    here = place(config={"message.timestamp.type": "CreateTime"})
    hours = NOW * 1000 - 5 * 3_600_000
    here.write([1], timestamp=hours)
    here.write([2], timestamp=hours + 3_600_000, offset=1)
    first = here.seen(0)
    read_up(first)
    assert here.stores.open(0).through == hours + 3_600_000
    first.remember(here.partition(), {}, hours + 3_600_000 + 300_000)
    first.close()
    here.write([3], timestamp=hours + 3_600_000 + 60_000, offset=2)  # by a clock that is behind
    here.write([4], timestamp=hours + 7_200_000, offset=3)
    second = here.seen(0)
    assert read_up(second) == [here.partition()]
    assert here.told.rebuilds == {0: 3}, "the first hour is not read again"
    assert found(second, here, range(5)) == {n: (0, n - 1) for n in (1, 2, 3, 4)}
    second.close()


def test_what_is_remembered_is_found_and_lasts(place):
    """What the loop committed is in the store, and the store says how far it is."""
    here = place()
    memory = here.seen(0)
    read_up(memory)
    memory.remember(here.partition(), {event_id(1): First(0, 4, NOW, 1)}, NOW * 1000)
    assert found(memory, here, [1]) == {1: (0, 4)}
    memory.close()
    again = here.seen(0)
    read_up(again)
    assert found(again, here, [1]) == {1: (0, 4)}
    again.close()


def test_growth_takes_over_what_was_seen_in_the_partition_before(place):
    """Entries made when there were fewer partitions are known where their keys go now."""
    here = place(8)
    here.write([1, 2], partition=1, partitions=2)
    here.write([3], partition=1, partitions=4, offset=5)  # of keys that went to 1 of 4
    here.write([4], partition=3, partitions=4, offset=6)
    here.write([1], partition=7, partitions=8, offset=9)
    here.write([5], partition=1, partitions=8, offset=10)
    here.write([6], partition=3, partitions=8, offset=11)
    here.write([7], partition=1, partitions=2, offset=12)  # by one that has not heard of it
    memory = here.seen(7, 1, 3, 5, 0)
    read_up(memory)
    assert found(memory, here, range(9), 7) == {1: (7, 9), 2: (1, 1), 4: (3, 6)}
    assert found(memory, here, range(9), 3) == {1: (1, 0), 2: (1, 1), 4: (3, 6), 6: (3, 11)}
    assert found(memory, here, range(9), 5) == {1: (1, 0), 2: (1, 1), 3: (1, 5)}
    assert found(memory, here, range(9), 1) == {
        1: (1, 0),
        2: (1, 1),
        3: (1, 5),
        5: (1, 10),
        7: (1, 12),
    }
    assert found(memory, here, range(9), 0) == {}
    memory.close()


def test_the_partitions_a_partition_grew_from():
    """By proper divisors, oldest first, and none twice."""
    assert grown_from(7, 8) == [0, 1, 3]
    assert grown_from(5, 12) == [0, 1, 2]
    assert grown_from(0, 12) == []
    assert grown_from(0, 1) == []
    for count, number in itertools.product((2, 6, 12), range(6)):
        for fewer in (1, 2, 3, 6):
            if number < count and count % fewer == 0 and fewer < count and number >= fewer:
                assert number % fewer in grown_from(number, count)


def test_a_store_left_in_the_midst_of_growing_is_made_anew(place):
    """What has only the entries of other partitions is never taken for a whole store."""
    here = place(2)
    here.write([1], partition=0, partitions=1)
    here.write([2], partition=1)
    first = here.seen(1)
    until(lambda: here.stores.open(1).count, "something is put", lambda: step_once(first))
    assert not first.knows(here.partition(1))
    first.close()
    second = here.seen(1)
    read_up(second)
    assert here.told.whys == ["the store was left half made"]
    assert found(second, here, [1, 2], 1) == {1: (0, 0), 2: (1, 0)}
    second.close()


def step_once(memory):
    """Go on with the least there is to do; a memory that read on could not be caught half way."""
    until(lambda: memory._counted, "the topics are known", memory._count_partitions)
    for one in list(memory._memories.values()):
        if not memory._readers and not any(passage.begun for passage in one.passages):
            memory._advance(one)
    memory._read(0.05)


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"raw": 3}, r"has 2 partitions and .* has 3.*deploy topics apply --grow"),
        (None, r"never\.created does not exist"),
    ],
)
def test_topics_that_do_not_fit_stop_it_with_a_sentence(place, counts, says):
    """Fewer partitions than the raw topic has, or none at all, is for a person to mend."""
    here = place(2, **(counts or {}))
    if counts is None:
        here.topic = "never.created"
    memory = here.seen(0, clock=itertools.count(step=0.2).__next__)
    with pytest.raises(Halted, match=says):
        read_up(memory)
    assert here.described("never.created") is None
    memory.close()


def test_a_topic_that_a_broker_has_not_heard_of_yet_is_asked_for_again(place):
    """A moment of a broker that lags behind is no reason to halt."""
    here = place()
    here.write([1])
    real, here.topic = here.topic, "not.yet.created"
    memory = here.seen(0)
    until(lambda: memory._wrong_since is not None, "it is missing", lambda: memory.catch_up(0.05))
    memory._topic = real
    assert read_up(memory) == [here.partition()]
    assert memory._wrong_since is None
    assert found(memory, here, [1]) == {1: (0, 0)}
    memory.close()


@pytest.mark.parametrize(
    ("code", "end", "says"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Halted, r"\.raw \(TOPIC_.*allow Describe on it"),
        (KafkaError._TIMED_OUT, Interrupted, "cannot be looked up: _TIMED_OUT"),
    ],
)
def test_a_topic_that_cannot_be_looked_up_ends_it_with_a_sentence(place, code, end, says):
    """What is not allowed is for a person; silence is for new clients."""
    here = place()
    memory = here.seen(0)

    def describe_topics(topics, **_options):
        answers = {topic: Future() for topic in topics.topic_names}
        for answer in answers.values():
            answer.set_exception(KafkaException(KafkaError(code)))
        return answers

    memory._admin = SimpleNamespace(describe_topics=describe_topics)
    with pytest.raises(end, match=says):
        read_up(memory)
    memory.close()


def test_the_middle_of_a_growth_goes_on_with_the_raw_topics_count(place):
    """The seen topic grows first; what is written then is marked with what keys go by."""
    here = place(4, raw=2)
    here.write([1], partition=0, partitions=1)
    here.write([2], partition=1)
    memory = here.seen(0, 1)
    read_up(memory)
    assert memory.partitions == 2
    assert found(memory, here, [1, 2], 1) == {1: (0, 0), 2: (1, 0)}
    memory.close()


# -- other topics than those the stores were made of --


@pytest.mark.parametrize("which", ["raw", "seen", "both"])
@pytest.mark.parametrize("folders", [False, True], ids=["memory", "disk"])
def test_nothing_of_topics_that_were_made_anew_is_found(place, tmp_path, folders, which):
    """An id of the old topics would drop an event that stands nowhere; the topic is believed."""
    here = place()
    here.write([1, 2])
    stores = StoreFolders(tmp_path, WINDOW) if folders else MemoryStores(WINDOW)
    first = here.seen(0, stores=stores)
    read_up(first)
    first.remember(here.partition(), {event_id(3): First(0, 3, NOW, 1)}, NOW * 1000)
    assert found(first, here, [1, 2, 3]) == {1: (0, 0), 2: (0, 1), 3: (0, 3)}
    first.close()
    here.make_anew(*{"raw": [here.raw], "seen": [here.topic]}.get(which, [here.raw, here.topic]))
    here.write([9])
    kept = {1: (0, 0), 2: (0, 1)} if which == "raw" else {}  # of the seen topic, which stands
    for _ in range(2):
        memory = here.seen(0, stores=stores)
        read_up(memory)
        assert found(memory, here, [1, 2, 3, 9]) == {**kept, 9: (0, 0)}
        memory.close()
    if folders:
        assert len(list(tmp_path.iterdir())) == 1, "the old folder is gone"


def test_topics_made_anew_in_the_middle_end_the_incarnation(place):
    """The next assignment notices, and the next incarnation begins with nothing."""
    here = place(2)
    here.write([1])
    memory = here.seen(0)
    read_up(memory)
    here.make_anew(here.raw, here.topic)
    memory.open(here.partition(1))
    with pytest.raises(Interrupted, match="was deleted and made anew"):
        read_up(memory)
    memory.close()


def test_without_ids_of_topics_every_store_is_made_anew(place, tmp_path, monkeypatch):
    """Brokers before 2.8 have none, so nothing kept can be told from another world's."""
    monkeypatch.setattr(module, "_id_of", lambda _topic: "")
    here = place()
    here.write([1])
    stores = StoreFolders(tmp_path, WINDOW)
    first = here.seen(0, stores=stores)
    read_up(first)
    first.remember(here.partition(), {event_id(2): First(0, 7, NOW, 1)}, NOW * 1000)
    first.forget(here.partition())
    first.open(here.partition())
    read_up(first)
    assert found(first, here, [1, 2]) == {1: (0, 0)}
    first.remember(here.partition(), {event_id(2): First(0, 7, NOW, 1)}, NOW * 1000)
    first.close()
    again = here.seen(0, stores=stores)
    read_up(again)
    assert found(again, here, [1, 2]) == {1: (0, 0)}
    again.close()


def test_an_id_is_asked_of_brokers_that_have_them(place):
    """Each topic has another one, of 32 digits."""
    here = place()
    ids = {module._id_of(here.described(topic)) for topic in (here.raw, here.topic)}
    assert len(ids) == 2
    assert all(len(one) == 32 for one in ids)


def test_folders_of_other_topics_and_of_moved_partitions_are_deleted(tmp_path):
    """Not what is held, what was written lately, or what is not a store's."""
    old, new = "0" * 32 + "-" + "1" * 32, "2" * 32 + "-" + "3" * 32
    stores = StoreFolders(tmp_path, WINDOW)
    for world in (old, new):
        stores.bind(world)
        for number in (0, 1):
            stores.open(number).close()
        (tmp_path / old).mkdir(exist_ok=True)
        (tmp_path / old / "thesis.txt").write_text("ten years")
    assert names(tmp_path) == [old, new]
    assert names(tmp_path / old) == ["thesis.txt"]
    (tmp_path / old / "thesis.txt").unlink()
    for file in (tmp_path / new / "1").iterdir():
        os.utime(file, (NOW - WINDOW - 3 * DAY,) * 2)
    StoreFolders(tmp_path, WINDOW).bind(new)
    assert names(tmp_path) == [new]
    assert names(tmp_path / new) == ["0"]


def test_a_folder_of_other_topics_that_is_held_is_left(tmp_path):
    """Its process will notice by itself; the next start deletes it."""
    stores = StoreFolders(tmp_path, WINDOW)
    old, new = "0" * 32 + "-" + "1" * 32, "2" * 32 + "-" + "3" * 32
    holder = f"""
import sys; sys.path[:0] = {sys.path!r}
from pathlib import Path
from consumers.store import Store
store = Store.open(Path({str(tmp_path / old / "0")!r}), {WINDOW})
print("open", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        stores.bind(new)
        assert (tmp_path / old / "0" / "CURRENT").exists()
        process.stdin.close()
    stores.bind(new)
    assert names(tmp_path) == []


def names(folder):
    return sorted(one.name for one in folder.iterdir())


def test_a_record_that_cannot_be_read_is_skipped_and_counted(place):
    """It can cost a duplicate, never an event."""
    here = place()
    here.write([1])
    here.producer.produce(here.topic, b"??", partition=0)
    here.producer.produce(here.topic, None, partition=0)
    here.write([2], offset=1)
    memory = here.seen(0)
    assert read_up(memory) == [here.partition()]
    assert here.told.skipped == [1, 2]
    assert found(memory, here, [1, 2]) == {1: (0, 0), 2: (0, 1)}
    memory.close()


class Slow:
    """A partition that cannot be read to its end, because a transaction stays open."""

    def __init__(self, here, **kinds):
        self.writer = Producer({**here.config, "transactional.id": here.topic})
        self.writer.init_transactions(30)
        self.writer.begin_transaction()
        here.write([90], offset=900, producer=self.writer)
        self.ahead = 0.0
        self.memory = here.seen(0, clock=lambda: time.monotonic() + self.ahead, **kinds)

    def read_on(self, seconds=0.0):
        """Read what there is to read, and let time pass."""
        self.ahead += seconds
        given = []
        for _ in range(8):
            given += self.memory.catch_up(0.05)
        return given


def test_a_rebuild_that_takes_too_long_is_used_and_says_so(place):
    """Past the deadline records are handled, with what is known; reading goes on to the end."""
    here = place()
    here.write([1])
    slow = Slow(here)
    assert slow.read_on() == []
    assert slow.read_on(300) == [here.partition()]
    assert slow.read_on() == []
    assert here.told.lates == [0]
    assert not slow.memory.knows(here.partition())
    assert slow.memory.behind()
    assert found(slow.memory, here, [1]) == {1: (0, 0)}
    slow.writer.commit_transaction(30)
    until(lambda: not slow.memory.behind(), "the end", slow.read_on)
    assert slow.memory.knows(here.partition())
    assert found(slow.memory, here, [1, 90]) == {1: (0, 0), 90: (0, 900)}
    slow.memory.close()


def test_a_late_partition_takes_little_of_the_time_of_what_is_used(place, monkeypatch):
    """While something waits to be known it has all the time there is, and then hardly any."""
    here = place()
    slow = Slow(here)
    memory, waited = slow.memory, []

    def read(timeout):
        slow.ahead += timeout
        waited.append(timeout)

    slow.read_on()
    memory._clock = lambda: slow.ahead  # stands still but for what is spent
    monkeypatch.setattr(memory, "_read", read)
    memory._memories[0].since = 0.0
    memory.catch_up(0.1)
    assert sum(waited) == pytest.approx(0.1)
    slow.ahead = 300.0
    assert memory.catch_up(0.1) == [here.partition()]
    waited.clear()
    assert memory.catch_up(0.1) == []
    assert sum(waited) == pytest.approx(0.02)
    memory.close()


def test_one_store_is_opened_at_a_time_when_the_disk_is_slow(place):
    """A step stays short however many partitions came at once, and each has its turn."""
    here = place(3)
    ahead, opened = [0.0], []

    class Slowly(MemoryStores):
        def open(self, number):
            ahead[0] += 5
            opened.append(number)
            return super().open(number)

    memory = here.seen(0, 1, 2, stores=Slowly(WINDOW), clock=lambda: ahead[0])
    until(lambda: memory._counted, "the topics are known", memory._count_partitions)
    for count in (1, 2, 3):
        memory.catch_up(0.1)
        assert len(opened) == count
    memory._clock = time.monotonic
    read_up(memory)
    assert sorted(opened) == [0, 1, 2]
    memory.close()


@pytest.mark.parametrize("most", [0, 100_000], ids=["more than is kept in mind", "few"])
def test_what_is_remembered_late_is_not_overwritten_by_the_past(place, monkeypatch, most):
    """Older entries that are still to be read do not hide newer ones."""
    monkeypatch.setattr(module, "_MOST_LATE_ENTRIES", most)
    here = place()
    slow = Slow(here)
    slow.read_on(300)
    writer = Producer({**here.config, "transactional.id": f"{here.topic}.2"})
    writer.init_transactions(30)
    writer.begin_transaction()
    here.write([90, 91], offset=5_000, producer=writer)  # committed, but for its marker
    newer = {event_id(n): First(0, at, NOW, 1) for n, at in ((90, 5_000), (91, 5_001))}
    slow.memory.remember(here.partition(), newer, NOW * 1000)
    slow.writer.commit_transaction(30)
    if most:
        until(lambda: not slow.memory.behind(), "the end that was asked for", slow.read_on)
    else:
        slow.read_on()
    writer.commit_transaction(30)
    until(lambda: not slow.memory.behind(), "the end", slow.read_on)
    assert found(slow.memory, here, [90, 91]) == {90: (0, 5_000), 91: (0, 5_001)}
    slow.memory.close()


def test_a_late_store_is_not_taken_for_a_whole_one_after_a_restart(place):
    """What was remembered meanwhile does not hide that older entries were never read."""
    here = place()
    slow = Slow(here)
    slow.read_on(300)
    slow.memory.remember(here.partition(), {event_id(1): First(0, 1, NOW, 1)}, NOW * 1000 + 9**9)
    slow.memory.close()
    slow.writer.commit_transaction(30)
    again = here.seen(0)
    read_up(again)
    assert found(again, here, [90]) == {90: (0, 900)}
    again.close()


def test_a_partition_that_goes_away_is_forgotten(place):
    """Nothing more is read for it; when it comes back it is known anew."""
    here = place(2)
    here.write([1])
    memory = here.seen(0, 1)
    memory.catch_up(0)
    memory.forget(here.partition(0))
    assert read_up(memory) == [here.partition(1)]
    assert not memory.knows(here.partition(0))
    assert memory.find(here.partition(0), [event_id(1)]) == {}
    memory.remember(here.partition(0), {event_id(2): First(0, 1, NOW, 1)}, NOW)
    memory.open(here.partition(0))
    assert read_up(memory) == [here.partition(0)]
    assert found(memory, here, [1, 2]) == {1: (0, 0)}
    memory.close()


# -- stores that fail --


class Failing(MemoryStores):
    """Stores that fail as told: `open`, `find` and `put` each raise what stands there."""

    def __init__(self, **failures):
        super().__init__(WINDOW)
        self.failures = failures
        self.wiped = []

    def open(self, number):
        self.fail("open")
        opened = super().open(number)
        for call in ("find", "put"):
            plain = getattr(MemoryStore, call)
            setattr(opened, call, lambda *a, c=call, p=plain: (self.fail(c), p(opened, *a))[1])
        return opened

    def wipe(self, number):
        self.wiped.append(number)
        super().wipe(number)

    def fail(self, call):
        if call in self.failures:
            raise self.failures.pop(call)


@pytest.mark.parametrize("call", ["open", "find"])
def test_a_corrupt_store_is_made_anew_from_the_topic(place, call):
    """At its opening nobody need notice."""
    here = place()
    here.write([1])
    stores = Failing(**{call: StoreCorrupt("a checksum is wrong")})
    memory = here.seen(0, stores=stores)
    assert read_up(memory) == [here.partition()]
    assert stores.wiped == [0]
    assert here.told.whys == ["a checksum is wrong"]
    assert found(memory, here, [1]) == {1: (0, 0)}
    memory.close()


@pytest.mark.parametrize("call", ["find", "put"])
def test_a_store_that_breaks_in_use_ends_the_incarnation(place, call):
    """The next one makes it anew from the topic."""
    here = place()
    here.write([1])
    stores = Failing()
    memory = here.seen(0, stores=stores)
    read_up(memory)
    stores.failures[call] = StoreCorrupt("a checksum is wrong")
    with pytest.raises(Interrupted, match="partition 0 cannot be trusted"):
        use(memory, here, call)
    assert stores.wiped == [0]
    memory.close()
    again = here.seen(0, stores=stores)
    read_up(again)
    assert found(again, here, [1]) == {1: (0, 0)}
    again.close()


def use(memory, here, call):
    if call == "find":
        memory.find(here.partition(), [event_id(1)])
    else:
        memory.remember(here.partition(), {event_id(2): First(0, 1, NOW, 1)}, NOW * 1000)


@pytest.mark.parametrize("call", ["open", "find", "put"])
def test_a_store_nobody_can_use_stops_it_with_its_sentence(place, call):
    """A full or read-only disk is for a person."""
    here = place()
    stores = Failing()
    memory = here.seen(0, stores=stores)
    if call != "open":
        read_up(memory)
    stores.failures[call] = StoreUnusable("the store's folder is full: free space there")
    with pytest.raises(Halted, match="is full: free space there"):
        read_up(memory) if call == "open" else use(memory, here, call)
    memory.close()


def test_a_store_somebody_holds_is_done_without(place):
    """A twin on the same disk, or an owner that is slow to leave, stops nothing."""
    here = place()
    here.write([1])
    stores = Failing(open=StoreHeld("open in another process"))
    memory = here.seen(0, stores=stores)
    assert read_up(memory) == [here.partition()]
    assert stores.wiped == []
    assert found(memory, here, [1]) == {1: (0, 0)}
    memory.close()


def test_on_disk_it_outlives_the_process_and_a_held_folder(place, tmp_path):
    """The real stores: made, kept, held, corrupt; nothing is left of what was spare."""
    here = place(2)
    here.write(range(1, 1_001))
    stores = StoreFolders(tmp_path / "seen", WINDOW)
    first = here.seen(0, 1, stores=stores)
    read_up(first)
    assert found(first, here, [1, 1_000, 1_001]) == {1: (0, 0), 1_000: (0, 999)}
    beside = here.seen(0, stores=StoreFolders(tmp_path / "seen", WINDOW))
    read_up(beside)
    assert len(list((tmp_path / "seen").glob("spare-*"))) == 1
    (kept,) = [one for one in (tmp_path / "seen").iterdir() if not one.name.startswith("spare-")]
    assert found(beside, here, [1_000]) == {1_000: (0, 999)}
    beside.close()
    first.close()
    assert names(tmp_path / "seen") == [kept.name]
    assert names(kept) == ["0", "1"]
    (kept / "0" / "CURRENT").write_bytes(b"nonsense")
    again = here.seen(0, 1, stores=stores)
    read_up(again)
    assert found(again, here, [1_000]) == {1_000: (0, 999)}
    assert len(here.told.whys) == 2
    again.close()
