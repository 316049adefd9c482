"""Epochs, the budget of time, duplicates and the stall, step by step with a Kafka of the test's."""

import json
from collections import Counter

import pytest

from consumers import passport
from consumers.contract import Checkpoint, Interrupted, Telemetry
from consumers.dedup import First
from consumers.ledger import page_outputs, read_entry
from consumers.records import Decision, Output
from consumers.store import MemoryStore
from consumers.worker import Settings, Worker
from tests.test_worker import FakeKafka, P, Q, answered, assign, offsets_of, record

EVENTS, LETTERS, LEDGER, SEEN = "verification.events", "dlq.veriff", "ledger.veriff", "seen.veriff"
MANY = Settings(barrier_seconds=0.5, barrier_records=1_000, max_poll_interval=10.0)


class Kafka(FakeKafka):
    """Also remembers where each output went."""

    def __init__(self, *script):
        super().__init__(*script)
        self.outputs = []

    def produce(self, output):
        if self.room:
            self.outputs.append(output)
        return super().produce(output)

    def to(self, topic):
        return [output for output in self.outputs if output.topic == topic]

    def pages(self):
        return [read_entry(output.value, output.partition) for output in self.to(LEDGER)]


class Memory:
    """`Seen` in memory; the test says when it is known."""

    def __init__(self, known=True):
        self.known = known
        self.stores = {}
        self.unknown = set()
        self.log = []

    def open(self, partition):
        self.stores.setdefault(partition, MemoryStore(8 * 86_400))
        self.unknown.add(partition)

    def behind(self):
        return bool(self.unknown)

    def catch_up(self, seconds):
        ready = sorted(self.unknown) if self.known else []
        self.unknown.difference_update(ready)
        return ready

    def knows(self, partition):
        return partition not in self.unknown

    def find(self, partition, ids):
        return self.stores[partition].find(ids)

    def remember(self, partition, entries, through):
        self.log.append((partition, dict(entries), through))
        self.stores[partition].put(entries, through)

    def forget(self, partition):
        self.log.append(("forget", partition))

    def close(self):
        self.log.append("close")


def by_words(one):
    """A decision by the words of the value: a number is an event, d a dead letter, ! a failure."""
    words = one.value.decode().split()
    ids = [word.encode().rjust(16) for word in words if word.isdigit()]
    outputs = [
        Output(topic=EVENTS, key=word.encode(), value=b"e") for word in words if word.isdigit()
    ]
    if "d" in words or "!" in words:
        outputs.append(Output(topic=LETTERS, key=None, value=b"d"))
    return Decision(
        outputs=outputs,
        event_ids=ids,
        received_at=one.timestamp,
        replayed="replayed" in words,
        native_type="decision",
        failed="!" in words,
    )


def books(partition, page, entries):
    yield from page_outputs(page, LEDGER, partition[1], 7, "at-least-once")
    if entries:
        names = ",".join(sorted(one.decode().strip() for one in entries)).encode()
        yield Output(topic=SEEN, key=None, value=names, partition=partition[1])


def worker_of(kafka, settings=MANY, decide=by_words, **more):
    return Worker(kafka, decide, settings, lambda: kafka.now, keep=books, **more)


def sends(*values, start=0, partition=P):
    return [record(start + index, partition, value) for index, value in enumerate(values)]


def steps(worker, count):
    for _ in range(count):
        worker.step()


# -- epochs --


def test_the_next_epoch_is_decided_while_the_last_is_acknowledged_and_held_back():
    """A broker's round trip costs no idle time, and outputs stay in order."""
    kafka = Kafka(assign(P), sends(b"1"), *[[]] * 5, sends(b"2", start=1), [], answered(p=1))
    worker = worker_of(kafka)
    steps(worker, 7)  # sealed, and nothing acknowledged from now on
    kafka.acknowledges, kafka.pending = False, 1
    steps(worker, 2)
    assert [output.key for output in kafka.to(EVENTS)] == [b"1"]
    assert kafka.commits == []
    kafka.acknowledges = True
    steps(worker, 2)
    assert offsets_of(kafka) == [{P: 1}]
    assert [output.key for output in kafka.to(EVENTS)] == [b"1", b"2"]
    assert [(page.first_offset, page.next_offset) for page in kafka.pages()] == [(0, 1)]


def test_the_books_are_written_when_everything_else_is_stored():
    """Nothing is told to be seen that may yet fail to be written."""
    kafka = Kafka(assign(P), sends(b"1"), *[[]] * 5)
    worker = worker_of(kafka)
    steps(worker, 7)
    kafka.acknowledges, kafka.pending = False, 1
    steps(worker, 3)
    assert kafka.to(LEDGER) == []
    kafka.acknowledges = True
    steps(worker, 1)
    assert len(kafka.to(LEDGER)) == 1
    assert kafka.commits == []


def test_an_epoch_is_not_sealed_before_the_last_commit_is_answered():
    """Commits stay in order: the second waits for the answer to the first."""
    kafka = Kafka(assign(P), sends(b"1"), *[[]] * 8, sends(b"2", start=1), *[[]] * 8, answered(p=1))
    worker = worker_of(kafka)
    steps(worker, 19)
    assert offsets_of(kafka) == [{P: 1}]
    steps(worker, 4)
    assert offsets_of(kafka) == [{P: 1}, {P: 2}]


def test_a_full_epoch_that_cannot_be_sealed_rests():
    """While the group does not answer a commit, memory does not grow, and polling goes on."""
    small = Settings(barrier_seconds=0.5, barrier_records=10, max_poll_interval=10.0)
    batches = [sends(*[b"1"] * 5, start=5 * number) for number in range(4)]
    kafka = Kafka(assign(P), *batches, [], [], answered(p=10), [], [])
    worker = worker_of(kafka, settings=small)
    steps(worker, 7)
    assert kafka.paused == {P}
    assert offsets_of(kafka) == [{P: 10}]
    polls = kafka.now
    steps(worker, 1)
    assert kafka.now > polls
    steps(worker, 3)
    assert offsets_of(kafka) == [{P: 10}, {P: 20}]
    assert kafka.paused == set()


@pytest.mark.parametrize("how", ["revoked", "lost"])
def test_what_waits_of_a_partition_that_goes_is_left_to_its_next_owner(how):
    """A batch cut by a full epoch still holds its records; they are not ours to decide any more."""
    small = Settings(barrier_seconds=0.5, barrier_records=4, max_poll_interval=10.0)

    def dear(one):
        kafka.now += 0.1
        return by_words(one)

    decided = []

    def away(listener):
        kafka.acknowledges = True
        decided.append(len(kafka.to(EVENTS)) + len(worker._held))
        getattr(listener, how)([P])

    batch = [*sends(*[b"1"] * 20), *sends(*[b"2"] * 2, partition=Q)]
    kafka = Kafka(assign(P, Q), batch, [], away, *[[]] * 20)
    kafka.acknowledges = False
    worker = worker_of(kafka, settings=small, decide=dear)
    steps(worker, 20)
    assert 0 < decided[0] < 20
    keys = [output.key for output in kafka.to(EVENTS)]
    assert keys[-2:] == [b"2"] * 2
    if how == "revoked":  # what was lost may be dropped on its way as well
        assert len(keys) == decided[0] + 2
    assert len(keys) <= decided[0] + 2


def test_an_epoch_is_also_bounded_in_bytes():
    """Large outputs are not held back by the thousand."""
    small = Settings(barrier_seconds=60, barrier_bytes=3, max_poll_interval=10.0)
    kafka = Kafka(assign(P), sends(b"1", b"2", b"3"), [], [])
    worker = worker_of(kafka, settings=small)
    steps(worker, 4)
    assert offsets_of(kafka) == [{P: 3}]


def test_commits_that_fail_again_and_again_end_it():
    """Nothing piles up for hours because the group cannot store offsets."""
    fails = [lambda it: it.commit_failed("unanswered"), *[[]] * 6] * 20
    kafka = Kafka(assign(P), sends(b"1"), *[[]] * 6, *fails)
    worker = worker_of(kafka)
    with pytest.raises(Interrupted, match="did not store a commit"):
        steps(worker, 140)
    assert len(kafka.commits) > 2


def test_a_passport_speaks_of_what_is_committed_with_it():
    """Neither the failures nor the time of records beyond its offset stand in it."""
    kafka = Kafka(assign(P), broken(3), *[[]] * 5, broken(4, start=3))
    worker = worker_of(kafka)
    steps(worker, 7)
    kafka.acknowledges, kafka.pending = False, 1
    steps(worker, 1)
    kafka.acknowledges = True
    steps(worker, 2)
    text = kafka.commits[0][P].passport
    assert offsets_of(kafka)[0] == {P: 3}
    assert passport.read(text).recent["decision"] == [(0, 3, 3)]
    assert passport.read(text).last_record_at == 1_002


def test_resuming_is_remembered_where_nothing_comes():
    """The same offset is committed with an empty window, so that the next start forgives too."""
    kafka = Kafka(lambda it: it.assigned(passed_on()), [], [])
    worker = worker_of(kafka, forgiving=True)
    steps(worker, 3)
    assert offsets_of(kafka) == [{P: 150}]
    assert passport.read(kafka.commits[0][P].passport).recent == {}


def test_resuming_is_remembered_although_the_commit_fails():
    """The emptied passport is offered again until it is stored."""
    fails = [lambda it: it.commit_failed("unanswered"), *[[]] * 6]
    kafka = Kafka(lambda it: it.assigned(passed_on()), [], [], *fails)
    worker = worker_of(kafka, forgiving=True)
    steps(worker, 11)
    assert offsets_of(kafka) == [{P: 150}, {P: 150}]
    assert passport.read(kafka.commits[1][P].passport).recent == {}


def test_a_replayed_record_is_received_when_it_is_replayed():
    """Its first receipt may be out of every window: further copies would not be known."""
    kafka, memory = (
        Kafka(assign(P), [], sends(b"1 replayed"), *[[]] * 7, answered(p=1), []),
        Memory(),
    )

    def old(one):
        decision = by_words(one)
        changed = {name: getattr(decision, name) for name in decision.__struct_fields__}
        return Decision(**changed | {"received_at": 0})

    worker = worker_of(kafka, decide=old, seen=memory)
    steps(worker, 14)
    assert memory.log[0][1][b"1".rjust(16)].received_at == 1


def test_dear_records_are_decided_over_several_steps():
    """A batch that costs seconds is cut by time, so that commits, signals and polls go on."""
    kafka = Kafka(assign(P), sends(*[b"1"] * 10))

    def dear(one):
        kafka.now += 0.1
        return by_words(one)

    worker = worker_of(kafka, decide=dear)
    steps(worker, 2)
    handled = len(kafka.to(EVENTS))
    assert 2 <= handled <= 4
    steps(worker, 1)
    assert len(kafka.to(EVENTS)) > handled
    steps(worker, 6)
    assert len(kafka.to(EVENTS)) == 10
    assert offsets_of(kafka)[0][P] < 10, "the first epoch was committed in the midst of the batch"


def test_what_was_not_decided_at_sigterm_is_left_to_the_next():
    """Draining commits what was decided, and only that."""
    kafka = Kafka(assign(P), sends(*[b"1"] * 10), [], answered(p=3))

    def dear(one):
        kafka.now += 0.1
        return by_words(one)

    worker = worker_of(kafka, decide=dear)
    steps(worker, 2)
    assert worker.drain()
    assert offsets_of(kafka) == [{P: 3}]


def test_the_ledger_tells_of_every_offset():
    """Events, both, duplicate, ignored, dead letter, and offsets that hold no record."""
    kafka = Kafka(
        assign(P),
        [],
        [*sends(b"1", b"1", b"2 d", b"", b"d"), record(7, P, b"3 4")],
        *[[]] * 8,
    )
    worker = worker_of(kafka, seen=Memory())
    steps(worker, 10)
    (page,) = kafka.pages()
    assert (page.first_offset, page.next_offset) == (0, 8)
    assert page.fates == "1e1d1b1i1l2-1e"
    assert (page.events, page.duplicates, page.letters) == (4, 1, 2)
    assert (
        page.event_sum
        == sum(int.from_bytes(n.rjust(16), "big") for n in (b"1", b"2", b"3", b"4")) % 2**128
    )
    assert kafka.to(SEEN)[0].value == b"1,2,3,4"


# -- duplicates --


class Ages(Telemetry):
    """Keeps what it is told of duplicates and losses."""

    def __init__(self):
        self.ages = []
        self.lost = Counter()
        self.unchecked = 0
        self.stalls = []

    def handled(self, record, decision, duplicates):
        self.ages.append(list(duplicates))

    def lost_to_retention(self, partition, records):
        self.lost[partition] += records

    def written_unchecked(self, events):
        self.unchecked += events

    def stalled(self, native_type):
        self.stalls.append(native_type)


def test_a_duplicate_is_dropped_with_its_age_on_the_way_and_afterwards():
    """Before its event is committed and after, in the same batch and later, of one item or of two."""
    late = record(9, P, b"1 5")
    late = type(late)(
        **{name: getattr(late, name) for name in late.__struct_fields__} | {"timestamp": 61_000}
    )
    kafka = Kafka(
        assign(P), [], sends(b"1", b"1"), sends(b"1 2", start=2), *[[]] * 8, answered(p=3), [], [late],
        *[[]] * 8,
    )  # fmt: skip
    ages = Ages()
    memory = Memory()
    worker = worker_of(kafka, seen=memory, telemetry=ages)
    steps(worker, 24)
    assert [output.key for output in kafka.to(EVENTS)] == [b"1", b"2", b"5"]
    assert ages.ages == [[], [(0, 0)], [(0, 0)], [(0, 60)]]
    assert memory.log[0][1].keys() == {b"1".rjust(16), b"2".rjust(16)}


def test_one_delivery_that_says_a_thing_twice_says_it_once():
    """Two equal items of a batch have one id: one event."""
    kafka = Kafka(assign(P), [], sends(b"1 1"), *[[]] * 9)
    worker = worker_of(kafka, seen=Memory())
    steps(worker, 11)
    assert [output.key for output in kafka.to(EVENTS)] == [b"1"]
    assert kafka.pages()[0].fates == "1e"


def test_a_record_done_again_writes_its_event_again():
    """The memory may be ahead of the commit: the same coordinate always emits."""
    memory = Memory()
    memory.stores[P] = MemoryStore(8 * 86_400)
    memory.stores[P].put({b"1".rjust(16): First(0, 0, 1, 0), b"2".rjust(16): First(0, 5, 1, 0)}, 1)
    kafka = Kafka(assign(P), [], sends(b"1", b"2"))
    worker = worker_of(kafka, seen=memory)
    steps(worker, 3)
    assert [output.key for output in kafka.to(EVENTS)] == [b"1", b"2"]


def test_nothing_of_a_partition_is_handled_before_it_is_known_what_was_seen():
    """It is paused from the moment it is assigned, and taken up when its past is known."""
    memory = Memory(known=False)
    kafka = Kafka(assign(P), sends(b"1"), [], sends(b"1"))
    worker = worker_of(kafka, seen=memory)
    steps(worker, 2)
    assert kafka.paused == {P}
    assert kafka.to(EVENTS) == []
    memory.known = True
    steps(worker, 2)
    assert kafka.paused == set()
    assert [output.key for output in kafka.to(EVENTS)] == [b"1"]


def test_what_is_written_before_the_past_is_known_is_counted():
    """Past its deadline a partition goes on without dedup, and everybody can see it."""
    memory = Memory()
    memory.knows = lambda partition: False
    kafka, ages = Kafka(assign(P), [], sends(b"1 2", b"3")), Ages()
    worker = worker_of(kafka, seen=memory, telemetry=ages)
    steps(worker, 3)
    assert ages.unchecked == 3


def test_a_clock_ahead_does_not_end_the_window():
    """The time of receipt counts at most as the moment when Kafka had the record."""
    kafka, memory = Kafka(assign(P), [], sends(b"1"), *[[]] * 7, answered(p=1), []), Memory()

    def ahead(one):
        decision = by_words(one)
        changed = {name: getattr(decision, name) for name in decision.__struct_fields__}
        return Decision(**changed | {"received_at": 4_000_000_000_000_000})

    worker = worker_of(kafka, decide=ahead, seen=memory)
    steps(worker, 12)
    assert memory.log[0][1][b"1".rjust(16)].received_at == 1


def test_a_partition_given_up_is_forgotten():
    """Its memory is closed, for its next owner."""
    kafka, memory = Kafka(assign(P, Q), lambda it: it.revoked([Q])), Memory()
    worker = worker_of(kafka, seen=memory)
    steps(worker, 2)
    assert memory.log == [("forget", Q)]
    worker.abandon()
    assert memory.log[-1] == "close"


# -- the gap --


def test_a_gap_is_committed_told_and_entered_once():
    """What retention deleted is no record in the ledger, counted when it is committed past."""
    gap = {P: Checkpoint(10, "", lost=4)}
    kafka, ages = Kafka(lambda it: it.assigned(gap), [], [], answered(p=10), []), Ages()
    worker = worker_of(kafka, telemetry=ages)
    steps(worker, 5)
    assert offsets_of(kafka) == [{P: 10}]
    assert [(page.first_offset, page.fates) for page in kafka.pages()] == [(6, "4-")]
    assert ages.lost == {P: 4}


# -- the stall --


def broken(count, start=0):
    return sends(*[b"!"] * count, start=start)


def test_a_stall_commits_what_was_handled_and_reads_nothing_more():
    """Polling goes on, nothing is read, and the passport takes the window along."""
    kafka = Kafka(assign(P), broken(150), *[[]] * 8, answered(p=150))
    ages = Ages()
    worker = worker_of(kafka, telemetry=ages)
    steps(worker, 12)
    assert ages.stalls == ["decision"]
    assert kafka.paused == {P}
    assert offsets_of(kafka) == [{P: 150}]
    text = kafka.commits[0][P].passport
    counts = passport.read(text).recent["decision"]
    assert sum(failures for _, _, failures in counts) == 150
    assert "!" not in text
    polls = kafka.now
    steps(worker, 3)
    assert kafka.now > polls


def passed_on(**changes):
    """The passport of somebody who has just stalled."""
    recent = {"decision": [(0, 150, 150)]}
    fields = {"mapping_revision": 0, "last_record_at": 1_000, "recent": recent} | changes
    return {P: Checkpoint(150, passport.written(passport.Passport(**fields)))}


def test_a_stall_outlives_a_restart():
    """The window came with the commit: the next owner of the partition is stalled at once."""
    kafka, ages = Kafka(lambda it: it.assigned(passed_on()), sends(b"1", start=150)), Ages()
    worker = worker_of(kafka, telemetry=ages)
    steps(worker, 3)
    assert ages.stalls == ["decision"]
    assert kafka.paused == {P}
    assert kafka.to(EVENTS) == []


@pytest.mark.parametrize(
    ("starts", "settings", "forgiving"),
    [
        (passed_on(mapping_revision=9), MANY, False),
        (passed_on(), MANY, True),
        (passed_on(), Settings(stall=False), False),
    ],
    ids=["another mapping", "resumed", "no stall"],
)
def test_a_stall_ends_with_the_mapping_a_person_or_the_option(starts, settings, forgiving):
    """A mended mapping, `resume` and --no-stall all let it go on."""
    kafka, ages = Kafka(lambda it: it.assigned(starts), sends(b"1", start=150)), Ages()
    worker = worker_of(kafka, settings=settings, telemetry=ages, forgiving=forgiving)
    steps(worker, 3)
    assert ages.stalls == []
    assert [output.key for output in kafka.to(EVENTS)] == [b"1"]


@pytest.mark.parametrize("minutes", [(10**18, 150, 150), (-1, 150, 150), (0, 1, 150), (0, -1, -1)])
def test_a_passport_of_somebody_else_does_not_stall_for_ever(minutes):
    """Minutes that had not come yet, and counts that cannot be, are not believed."""
    foreign = passed_on(recent={"decision": [minutes]})
    kafka, ages = Kafka(lambda it: it.assigned(foreign), sends(b"1", start=150)), Ages()
    worker = worker_of(kafka, telemetry=ages)
    steps(worker, 3)
    assert ages.stalls == []
    assert [output.key for output in kafka.to(EVENTS)] == [b"1"]


def test_a_commit_under_way_is_asked_for_again_before_partitions_go():
    """It may be refused once they are gone, and a clean hand-over redoes nothing."""
    kafka = Kafka(assign(P), sends(b"1"), *[[]] * 6, lambda it: it.revoked([P]))
    worker = worker_of(kafka)
    steps(worker, 9)
    assert offsets_of(kafka) == [{P: 1}, {P: 1}]


def test_an_operator_can_end_an_incarnation():
    """`interrupt` is heard at the next step; what was not committed is done again."""
    kafka = Kafka(assign(P), sends(b"1"))
    worker = worker_of(kafka)
    steps(worker, 2)
    worker.interrupt("resumed by an operator")
    with pytest.raises(Interrupted, match="resumed by an operator"):
        worker.step()
    worker.abandon()
    assert kafka.commits == []


def test_a_passport_says_nothing_of_persons():
    """It holds counts, times and names of types, and fits into a commit."""
    kafka = Kafka(assign(P), broken(150), *[[]] * 8)
    worker = worker_of(kafka)
    steps(worker, 10)
    assert set(json.loads(kafka.commits[0][P].passport)) == {
        "mapping_revision",
        "last_record_at",
        "recent",
    }
