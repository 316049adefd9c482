"""Exactly-once on the real Kafka: outputs and offsets are one, and nobody does them twice."""

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from consumers.committed import Committed
from consumers.contract import Checkpoint, Halted, Interrupted, Telemetry
from consumers.records import Output
from consumers.transactions import TransactionalBroker, transaction_keys

pytestmark = pytest.mark.kafka

LIMIT = 60.0


class Place:
    """A raw topic, an output topic and a group of one test."""

    def __init__(self, bootstrap, partitions=1):
        self.config = {"bootstrap.servers": bootstrap}
        name = uuid.uuid4().hex[:8]
        self.raw, self.out, self.group = f"{name}.raw", f"{name}.out", f"{name}.group"
        self.admin = AdminClient(self.config)
        created = self.admin.create_topics(
            [NewTopic(self.raw, partitions, 1), NewTopic(self.out, 2, 1)]
        )
        for future in created.values():
            future.result()
        self.partitions = partitions

    def fill(self, count, start=0):
        producer = Producer(self.config)
        for number in range(start, start + count):
            producer.produce(self.raw, b"%d" % number, partition=number % self.partitions)
        assert producer.flush(30) == 0

    def member(self, slot=0, **kinds):
        keys = kinds.pop("keys", {})
        broker = TransactionalBroker({**self.config, **keys}, self.raw, self.group, slot, **kinds)
        return Member(broker, self.out)

    def outputs(self, isolation="read_committed"):
        """Everything that stands in the output topic now, for such a reader."""
        reader = Consumer(
            {
                **self.config,
                "group.id": "reader",
                "isolation.level": isolation,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 50,
            }
        )
        from confluent_kafka import TopicPartition

        reader.assign([TopicPartition(self.out, number, 0) for number in range(2)])
        values, ends = [], 0
        while ends < 2:
            for message in reader.consume(500, 0.2):
                if message.error():
                    assert message.error().code() == KafkaError._PARTITION_EOF
                    ends += 1
                else:
                    values.append(int(message.value()))
        reader.close()
        return values

    def committed(self):
        with closing(Committed(self.config, self.group)) as all_:
            found = all_.read([self.raw])
        return {number: offset for (_, number), (offset, _) in found.items()}


class Member:
    """A loop in short: it repeats what it reads, and commits when it is told to."""

    def __init__(self, broker, out):
        self.broker = broker
        self.out = out
        self.starts = {}
        self.position = {}
        self.begun = set()
        self.heard = []
        self.made = 0
        broker.subscribe(self)

    def assigned(self, starts):
        self.starts.update(starts)
        self.position.update({one: start.next_offset for one, start in starts.items()})

    def revoked(self, partitions):
        if self.begun & set(partitions):
            self.commit()
        self.lost(partitions)

    def lost(self, partitions):
        for one in partitions:
            self.position.pop(one, None)
            self.begun.discard(one)

    def committed(self, offsets):
        self.heard.append(dict(offsets))

    def commit_failed(self, why):
        raise AssertionError(why)

    def step(self, limit=50):
        records = [
            one
            for one in self.broker.consume(limit, 0.05)
            if (one.topic, one.partition) in self.position
        ]
        for one in records:
            self.make(one.value)
            self.position[one.topic, one.partition] = one.offset + 1
            self.begun.add((one.topic, one.partition))
        return records

    def make(self, value):
        self.made += 1
        assert self.broker.produce(Output(topic=self.out, key=None, value=value))

    def settle(self):
        until(lambda: not self.broker.flush(0.005), "everything is stored")

    def commit(self, passport="p"):
        self.settle()
        self.broker.commit({one: Checkpoint(self.position[one], passport) for one in self.begun})
        self.begun.clear()

    def close(self):
        self.broker.close()


def until(met, what, every=lambda: None):
    deadline = time.monotonic() + LIMIT
    while not met():
        assert time.monotonic() < deadline, f"not seen: {what}"
        every()


def owning(member, count=1):
    """Have a member own partitions and take in the first records."""
    until(lambda: len(member.position) >= count, "it owns partitions", member.step)
    return member


@pytest.fixture
def place(kafka):
    return lambda partitions=1: Place(kafka.bootstrap, partitions)


def test_outputs_and_offsets_are_seen_together_or_not_at_all(place):
    """Before the commit a reader sees nothing; after it everything, and the listener was told."""
    here = place()
    here.fill(10)
    member = owning(here.member())
    until(lambda: member.made == 10, "ten records", member.step)
    member.settle()
    assert here.outputs() == []
    assert sorted(here.outputs("read_uncommitted")) == list(range(10))
    member.commit()
    assert member.heard == [{(here.raw, 0): 10}]
    until(lambda: sorted(here.outputs()) == list(range(10)), "the outputs")
    assert here.committed() == {0: 10}
    member.close()


def test_the_passport_travels_with_the_offset(place):
    """What a commit said of a partition is what its next owner hears of it."""
    here = place()
    here.fill(3)
    first = owning(here.member())
    assert first.starts == {(here.raw, 0): Checkpoint(0, "")}
    until(lambda: first.made == 3, "three records", first.step)
    first.commit('{"mapping_revision":7}')
    first.close()
    second = owning(here.member())
    assert second.starts == {(here.raw, 0): Checkpoint(3, '{"mapping_revision":7}')}
    second.close()


def test_offsets_without_outputs_are_committed_too(place):
    """Records that become nothing move the offsets on, in a transaction of their own."""
    here = place()
    here.fill(5)
    member = owning(here.member())
    member.broker.commit({(here.raw, 0): Checkpoint(5, "")})
    assert here.committed() == {0: 5}
    member.close()


def test_a_purge_leaves_nothing_behind_and_the_producer_usable(place):
    """What was produced before is never seen, what comes after is."""
    here = place()
    member = owning(here.member())
    member.make(b"1")
    member.broker.flush(0.005)
    member.broker.purge()
    member.make(b"2")
    member.settle()
    member.broker.commit({(here.raw, 0): Checkpoint(0, "")})
    until(lambda: here.outputs() == [2], "what came after")
    assert 1 not in here.outputs()
    member.close()


def test_a_clean_hand_over_doubles_and_loses_nothing(place):
    """Members come and go while records do; what was begun is committed within the revoking."""
    here = place(6)
    here.fill(300)
    one = here.member(0)
    until(lambda: one.made >= 60, "the first works", lambda: one.step(20))
    two = here.member(1)

    def both():
        one.step(20)
        two.step(20)

    until(lambda: len(one.position) == len(two.position) == 3, "they share", both)
    assert one.heard, "it committed within the revoking"
    here.fill(300, start=300)
    until(lambda: one.made + two.made == 600, "all is read", both)
    assert two.made > 0
    until(lambda: not two.begun or two.commit() is None, "the second is done")
    two.close()
    until(lambda: len(one.position) == 6, "the first has everything again", one.step)
    here.fill(60, start=600)
    until(lambda: one.made + two.made == 660, "all is read", one.step)
    one.commit()
    until(lambda: len(here.outputs()) >= 660, "the outputs")
    assert sorted(here.outputs()) == list(range(660))
    assert sum(here.committed().values()) == 660
    assert one.heard
    assert two.heard
    one.close()


def test_a_twin_is_told_which_slot_it_shares(place):
    """Of two processes with one slot the older is fenced, and says what to do."""
    here = place()
    older = owning(here.member(3))
    younger = here.member(3)
    until(lambda: younger.broker._joining is None, "it has begun", younger.step)
    with pytest.raises(Halted, match=rf"another process took slot 3 of {here.group}.*--slot"):
        until(lambda: False, "the fencing", lambda: (older.make(b"1"), older.broker.serve(0.05)))
    with pytest.raises(Halted, match="slot 3"):
        older.broker.consume(1, 0)
    older.broker.purge()
    older.close()
    younger.close()


def test_a_twin_is_noticed_by_the_commit_too(place):
    """An open transaction that another process ended is not taken for one of ours that was slow."""
    here = place()
    older = owning(here.member())
    older.make(b"1")
    older.settle()
    younger = here.member()
    until(lambda: younger.broker._joining is None, "it has begun", younger.step)
    with pytest.raises(Halted, match="another process took slot 0"):
        older.broker.commit({(here.raw, 0): Checkpoint(0, "")})
    assert here.outputs() == []
    older.close()
    younger.close()


def test_a_transaction_that_was_open_for_too_long_is_not_a_twins_fault(place):
    """Kafka ends it and fences us: new clients, and no person is called."""
    here = place()
    slow = owning(here.member(transaction_seconds=1.0))
    slow.make(b"1")
    slow.settle()
    with pytest.raises(Interrupted, match=r"was open for \d+ s, and Kafka ended it"):
        until(lambda: False, "the fencing", lambda: (slow.make(b"2"), slow.broker.serve(0.25)))
    slow.close()
    again = owning(here.member(transaction_seconds=1.0))
    again.make(b"3")
    again.settle()
    again.broker.commit({(here.raw, 0): Checkpoint(0, "")})
    until(lambda: here.outputs() == [3], "only what was committed")
    again.close()


VICTIM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tests.test_transactions import Place, Member, until
from consumers.contract import Checkpoint
here = Place.__new__(Place)
here.config = {"bootstrap.servers": sys.argv[2], "session.timeout.ms": 1000,
               "heartbeat.interval.ms": 200}
here.raw, here.out, here.group = sys.argv[3:6]
member = here.member(int(sys.argv[6]))
until(lambda: member.made >= 20, "records", member.step)
member.commit()
until(lambda: member.made >= 40, "records", member.step)
member.settle()
from consumers.broker import offsets_of
member.broker._producer.send_offsets_to_transaction(
    offsets_of({(here.raw, 0): Checkpoint(40, "")}), member.broker._member(), 10)
print("now", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("slot", [0, 1], ids=["by its successor", "by a stranger"])
def test_a_kill_in_mid_transaction_leaves_only_what_was_committed(place, slot):
    """After kill -9 the next owner begins at stable offsets; what hung in the air is redone once."""
    here = place()
    here.fill(20)
    root = str(Path(__file__).parent.parent)
    where = [here.config["bootstrap.servers"], here.raw, here.out, here.group, "0"]
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, root, *where], stdout=subprocess.PIPE, text=True
    )
    until(lambda: here.committed() == {0: 20}, "the first commit")
    here.fill(20, start=20)
    assert victim.stdout.readline() == "now\n"
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    victim.stdout.close()
    refusals = []
    member = here.member(slot)
    while member.made < 20:
        try:
            member.step()
        except Interrupted as end:
            refusals.append(str(end))
            member.close()
            member = here.member(slot)
    assert member.starts[here.raw, 0].next_offset == 20
    assert set(refusals) <= {"no start for new partitions: _TIMED_OUT"}
    assert not (slot == 0 and refusals), "the successor ends the transaction before it joins"
    member.commit()
    until(lambda: len(here.outputs()) >= 40, "the outputs")
    assert sorted(here.outputs()) == list(range(40))
    member.close()


def test_a_member_that_was_thrown_out_commits_nothing(place):
    """A process that slept past its session is nobody, and nobody's offsets are not sent."""
    here = place()
    here.fill(5)
    keys = {"session.timeout.ms": 1000, "heartbeat.interval.ms": 200}
    member = here.member(max_poll_interval=1.5, keys=keys)
    until(lambda: member.made == 5, "five records", member.step)
    until(lambda: not member.broker._consumer.memberid(), "it is thrown out")
    with pytest.raises(Interrupted, match="thrown us out"):
        member.commit()
    with pytest.raises(Interrupted, match="thrown us out"):
        member.make(b"6")
    assert here.committed() == {}
    assert here.outputs() == []
    member.close()


def test_an_old_generation_commits_nothing(place):
    """Offsets of a generation that is over abort the transaction with its outputs."""
    here = place(2)
    here.fill(2)
    one = owning(here.member(0), 2)
    until(lambda: one.made == 2, "two records", one.step)
    old = one.broker._member()
    two = here.member(1)

    def both():
        one.step()
        two.step()

    until(lambda: len(two.position) == 1, "the second has one", both)
    one.made = 0
    one.make(b"9")
    one.settle()
    one.broker._member = lambda: old
    with pytest.raises(Interrupted, match="ILLEGAL_GENERATION"):
        one.broker.commit({next(iter(one.position)): Checkpoint(1, "")})
    one.broker.purge()
    one.close()
    assert 9 not in here.outputs()
    two.close()


def test_a_topic_that_does_not_exist_is_a_refusal_for_good(place):
    """An output without a topic is told as in the other mode, and nothing is committed."""
    here = place()
    member = owning(here.member(keys={"topic.metadata.propagation.max.ms": 500}))
    member.out = "nowhere"
    member.make(b"1")
    until(member.broker.refused, "the refusal", lambda: member.broker.flush(0.05))
    assert member.broker.refused().permanent
    assert "nowhere does not exist" in member.broker.refused().reason
    member.close()


def test_brokers_that_forbid_our_transactions_stop_it_with_a_sentence(place):
    """A limit only a person can raise is named."""
    member = place().member(transaction_seconds=1_000.0)
    with pytest.raises(Halted, match=r"transaction\.max\.timeout\.ms is below the 1000 s"):
        until(lambda: False, "the refusal", member.step)
    member.close()


# -- what no broker can be made to answer when a test wants it --


def problem(code, *, fatal=False, retriable=False, abort=False):
    return KafkaException(KafkaError(code, "told", fatal, retriable, abort))


class Answers:
    """A producer whose transactional calls answer as the test says, and then succeed."""

    def __init__(self, **script):
        self.script = {name: list(answers) for name, answers in script.items()}
        self.calls = []

    def __getattr__(self, name):
        def call(*_args, **_names):
            self.calls.append(name)
            answers = self.script.get(name)
            if answers:
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if answer is not None:
                    raise answer
            return 0

        return call


class Membership:
    def memberid(self):
        return "me"

    def consumer_group_metadata(self):
        return b"me"

    def consume(self, *_args):
        return []

    def close(self):
        pass


@pytest.fixture
def answering(monkeypatch):
    """A TransactionalBroker whose clock moves when it waits and whose producer is scripted."""
    now = [100.0]
    monkeypatch.setattr(
        "consumers.transactions.time.sleep", lambda s: now.__setitem__(0, now[0] + s)
    )

    def make(**script):
        broker = TransactionalBroker(
            {"bootstrap.servers": "127.0.0.1:1", "log_level": 0},
            "raw",
            "g",
            2,
            clock=lambda: now[0],
        )
        broker._producer, broker._consumer = Answers(**script), Membership()
        broker.now = now
        return broker

    return make


COMMIT = {("raw", 0): Checkpoint(5, "")}
RETRIABLE = problem(KafkaError._TIMED_OUT, retriable=True)


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
def test_what_is_retriable_is_asked_again(answering, call):
    """The same call, until it is answered."""
    broker = answering(**{call: [RETRIABLE, RETRIABLE, None]})
    broker.commit(COMMIT)
    assert broker._producer.calls.count(call) == 3
    assert broker._open_since is None


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
@pytest.mark.parametrize(
    "answer",
    [
        RETRIABLE,
        problem(KafkaError._TIMED_OUT),
        problem(KafkaError.ILLEGAL_GENERATION, abort=True),
        problem(KafkaError.INVALID_TXN_STATE, fatal=True),
        problem(KafkaError.UNKNOWN),
    ],
    ids=["retriable for too long", "timed out", "abortable", "fatal", "unclassified"],
)
def test_any_other_answer_ends_the_producer(answering, call, answer):
    """Nothing goes on with a producer whose transaction may still be decided."""
    broker = answering(**{call: [answer]})
    with pytest.raises(Interrupted, match=answer.args[0].name()):
        broker.commit(COMMIT)
    for going_on in (
        lambda: broker.produce(Output(topic="out", key=None, value=b"")),
        lambda: broker.commit(COMMIT),
        lambda: broker.flush(0),
        lambda: broker.serve(0),
        lambda: broker.consume(1, 0),
    ):
        with pytest.raises(Interrupted):
            going_on()


@pytest.mark.parametrize("answer", [RETRIABLE, problem(KafkaError._FENCED, fatal=True)])
def test_an_abort_that_fails_is_told_by_the_next_call(answering, answer):
    """A purge never raises: it stands where an incarnation is being given up."""
    broker = answering(abort_transaction=[answer])
    broker.produce(Output(topic="out", key=None, value=b""))
    broker.purge()
    with pytest.raises((Interrupted, Halted)):
        broker.produce(Output(topic="out", key=None, value=b""))


def test_the_age_of_the_transaction_tells_a_twin_from_slowness(answering):
    """Kafka cannot have ended what is younger than its limit; older, nobody knows who it was."""
    fenced = problem(KafkaError._FENCED, fatal=True)
    broker = answering(flush=[fenced])
    broker.produce(Output(topic="out", key=None, value=b""))
    broker.now[0] += 9.9
    with pytest.raises(Halted, match="slot 2 of g"):
        broker.flush(0)
    broker = answering(flush=[fenced])
    broker.produce(Output(topic="out", key=None, value=b""))
    broker.now[0] += 10.0
    with pytest.raises(Interrupted, match="open for 10 s"):
        broker.flush(0)


def test_without_an_open_transaction_only_a_twin_can_fence(answering):
    """However long ago the last one ended: Kafka ends no transaction that is not there."""
    broker = answering(send_offsets_to_transaction=[None, problem(KafkaError._FENCED, fatal=True)])
    broker.commit(COMMIT)
    broker.now[0] += 3_600.0
    with pytest.raises(Halted, match="another process"):
        broker.commit(COMMIT)


def test_a_refused_output_is_asked_whether_it_was_a_fencing(answering):
    """A report of an output that failed may come before the error that says why."""
    broker = answering(begin_transaction=[None, problem(KafkaError._FENCED, fatal=True)])
    broker.produce(Output(topic="out", key=None, value=b""))
    broker._on_delivery(KafkaError(KafkaError._PURGE_QUEUE), type("M", (), {
        "topic": lambda _: "out", "value": lambda _: b""})())  # fmt: skip
    with pytest.raises(Halted, match="another process"):
        broker.refused()


def test_waiting_for_the_predecessor_is_cut_into_slices_and_bounded(answering):
    """A signal is seen meanwhile; and silence ends it."""
    broker = answering(init_transactions=[RETRIABLE])
    broker.subscribe(object())
    assert broker.consume(1, 0.1) == []
    assert broker.consume(1, 0.1) == []
    broker.now[0] += 60.0
    with pytest.raises(Interrupted, match="no transactions can be begun: _TIMED_OUT"):
        broker.consume(1, 0.1)


def test_a_closing_aborts_what_is_open(answering):
    """Readers of the output do not wait for the time-out of a process that stopped in good order."""
    broker = answering()
    broker.produce(Output(topic="out", key=None, value=b""))
    broker.close()
    assert broker._producer.calls[-2:] == ["abort_transaction", "close"]


def test_the_slot_names_the_producer(answering):
    """The id is stable and holds the prefix, which stands in the group already."""
    keys = transaction_keys("p.normalize.veriff", 4, 10.0)
    assert keys["transactional.id"] == "p.normalize.veriff.4"
    assert keys["message.timeout.ms"] < keys["transaction.timeout.ms"] == 10_000


class Ends(Telemetry):
    """Keeps how transactions ended."""

    def __init__(self):
        self.ends = []

    def transaction(self, end):
        self.ends.append(end)


def test_every_transaction_that_is_begun_is_told_to_end_once(kafka):
    """Committed, aborted by a purge, or left open when the clients go: each is one."""
    place, told = Place(kafka.bootstrap), Ends()
    place.fill(3)
    member = place.member(telemetry=told)
    until(lambda: member.step(1), "a record is read")
    member.commit()
    assert told.ends == ["committed"]
    until(lambda: member.step(1), "another record is read")
    member.broker.purge()
    member.broker.purge()
    assert told.ends == ["committed", "aborted"]
    member.make(b"7")
    member.broker.close()
    assert told.ends == ["committed", "aborted", "aborted"]
    assert place.outputs() == [0]
