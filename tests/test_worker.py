"""The loop, step by step, and the few decisions of its Kafka adapter that need no Kafka."""

import time
import uuid
from collections import deque

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from consumers import passport
from consumers.broker import Broker, _refusal, consumer_config, producer_config, start_offset
from consumers.contract import Checkpoint, Halted, Interrupted, Refusal, Telemetry
from consumers.records import Decision, Output, Record
from consumers.worker import Settings, Worker, keep_going

P = ("raw.veriff", 0)
Q = ("raw.veriff", 1)
QUICK = Settings(barrier_records=1, max_poll_interval=10.0, mapping_revision=7)


def record(offset, partition=P, value=b"body"):
    topic, number = partition
    return Record(
        topic=topic,
        partition=number,
        offset=offset,
        timestamp=1_000 + offset,
        key=None,
        value=value,
        headers=[],
    )


def echo(record):
    output = Output(topic="verification.events", key=b"%d" % record.offset, value=record.value)
    return Decision(outputs=[output], event_ids=[b"%016d" % record.offset])


def no_books(partition, page, entries):
    return []


class FakeKafka:
    """Does what the test says: `script` holds, per consume, what happens and what it gives."""

    def __init__(self, *script):
        self.script = deque(script)
        self.now = 0.0
        self.sent = []
        self.pending = 0
        self.acknowledges = True
        self.room = True
        self.refusal = None
        self.commits = []
        self.log = []
        self.paused = set()

    def pause(self, partitions):
        self.paused.update(partitions)

    def resume(self, partitions):
        self.paused.difference_update(partitions)

    def subscribe(self, listener):
        self.listener = listener

    def consume(self, limit, timeout):
        self.now += timeout
        step = self.script.popleft() if self.script else []
        return step(self.listener) or [] if callable(step) else step

    def produce(self, output):
        if self.room:
            self.sent.append(output.key)
            self.pending += 1
        return self.room

    def serve(self, timeout):
        self.now += timeout
        if self.acknowledges:
            self.pending = 0

    def flush(self, timeout):
        self.serve(timeout if self.pending else 0)
        return self.pending

    def refused(self):
        return self.refusal

    def commit(self, checkpoints):
        self.log.append("commit")
        self.commits.append(checkpoints)

    def purge(self):
        self.log.append("purge")
        self.pending = 0
        self.refusal = None

    def close(self):
        self.log.append("close")


def worker_of(kafka, settings=QUICK, telemetry=None):
    return Worker(kafka, echo, settings, lambda: kafka.now, telemetry, keep=no_books)


def assign(*partitions, start=0):
    return lambda listener: listener.assigned(dict.fromkeys(partitions, Checkpoint(start, "")))


def answered(**offsets):
    return lambda listener: listener.committed(
        {(P if name == "p" else Q): offset for name, offset in offsets.items()}
    )


def offsets_of(kafka):
    return [{p: c.next_offset for p, c in asked.items()} for asked in kafka.commits]


def test_it_commits_the_next_offset_once_the_outputs_are_acknowledged():
    """What is committed is where to read on, with a passport, after every output is stored."""
    kafka = FakeKafka(assign(P), [record(0), record(1)])
    worker = worker_of(kafka)
    worker.step()
    worker.step()
    worker.step()
    assert kafka.sent == [b"0", b"1"]
    assert offsets_of(kafka) == [{P: 2}]
    written = passport.read(kafka.commits[0][P].passport)
    assert (written.mapping_revision, written.last_record_at) == (7, 1_001)


def test_it_does_not_commit_while_an_output_is_unacknowledged():
    """A barrier that runs out of time ends the incarnation, and nothing is committed."""
    kafka = FakeKafka(assign(P), [record(0)])
    kafka.acknowledges = False
    worker = worker_of(kafka)
    with pytest.raises(Interrupted, match="1 outputs were not acknowledged"):
        for _ in range(2_000):
            worker.step()
    worker.abandon()
    assert kafka.commits == []
    assert kafka.log == ["purge", "close"]


@pytest.mark.parametrize(
    ("permanent", "end"), [(False, Interrupted), (True, Halted)], ids=["transient", "for good"]
)
def test_a_refused_output_ends_it_uncommitted(permanent, end):
    """A refusal means new clients if it may pass, and a person if it will not."""
    kafka = FakeKafka(assign(P), [record(0)])
    worker = worker_of(kafka)
    worker.step()
    kafka.refusal = Refusal("dlq.veriff did not take an output", permanent)
    with pytest.raises(end, match=r"dlq\.veriff"):
        worker.step()
    with pytest.raises(end):
        worker.step()
    worker.abandon()
    assert kafka.commits == []


def test_a_full_queue_makes_it_wait_and_then_give_up():
    """Backpressure is waited for within a budget; no output is skipped."""
    kafka = FakeKafka(assign(P), [record(0)])
    kafka.room = False
    full = []
    telemetry = Telemetry()
    telemetry.queue_full = lambda: full.append(1)
    worker = worker_of(kafka, telemetry=telemetry)
    worker.step()
    with pytest.raises(Interrupted, match="queue stayed full for 2 s"):
        worker.step()
    assert full
    assert kafka.commits == []


def test_records_of_partitions_that_are_not_ours_are_left_alone():
    """A batch may hold records of a partition that went away while it was gathered."""
    kafka = FakeKafka(assign(P), [record(0), record(5, Q)])
    worker = worker_of(kafka)
    worker.step()
    worker.step()
    worker.step()
    assert kafka.sent == [b"0"]
    assert offsets_of(kafka) == [{P: 1}]


def test_a_record_without_outputs_is_handled_all_the_same():
    """What is deliberately ignored moves the offset on."""
    kafka = FakeKafka(assign(P), [record(0)])
    worker = Worker(kafka, lambda _: Decision(outputs=[]), QUICK, lambda: kafka.now, keep=no_books)
    worker.step()
    worker.step()
    worker.step()
    assert offsets_of(kafka) == [{P: 1}]


def test_only_one_commit_is_under_way_and_the_answer_is_waited_for_while_working():
    """The loop goes on while the group answers, and holds the next barrier back."""
    kafka = FakeKafka(assign(P), [record(0)], [record(1)], answered(p=1), [record(2)])
    worker = worker_of(kafka)
    for _ in range(3):
        worker.step()
    assert kafka.sent == [b"0", b"1"]
    assert offsets_of(kafka) == [{P: 1}]
    assert not worker.committed_something
    worker.step()
    worker.step()
    assert worker.committed_something
    assert offsets_of(kafka)[:2] == [{P: 1}, {P: 2}]


def test_a_commit_that_is_never_answered_ends_it():
    """Silence of the group is bounded: new clients ask again from what is committed."""
    kafka = FakeKafka(assign(P), [record(0)])
    worker = worker_of(kafka)
    with pytest.raises(Interrupted, match="did not store a commit"):
        for _ in range(100):
            worker.step()


@pytest.mark.parametrize("why", ["membership", "unanswered"])
def test_a_failed_commit_is_offered_again_at_the_next_barrier(why):
    """A refused commit is no error: if the partitions are still ours, it is asked again."""
    kafka = FakeKafka(assign(P), [record(0)], lambda listener: listener.commit_failed(why))
    worker = worker_of(kafka)
    for _ in range(12):
        worker.step()
    assert offsets_of(kafka) == [{P: 1}, {P: 1}]


def test_revoked_partitions_are_finished_first():
    """What was begun is stored and committed before the group moves the partition."""
    patient = Settings(barrier_seconds=60, max_poll_interval=10.0)
    kafka = FakeKafka(assign(P, Q), [record(0), record(0, Q)], lambda it: it.revoked([Q]))
    worker = worker_of(kafka, patient)
    for _ in range(3):
        worker.step()
    assert offsets_of(kafka) == [{P: 1, Q: 1}]
    assert "purge" not in kafka.log


def test_a_revoke_that_cannot_be_finished_in_time_is_purged_and_the_end():
    """The group waits for a fifth of max.poll.interval; then the work is somebody's from anew."""
    patient = Settings(barrier_seconds=60, max_poll_interval=10.0)
    kafka = FakeKafka(assign(P, Q), [record(0, Q)], lambda it: it.revoked([Q]), [record(0)])
    kafka.acknowledges = False
    worker = worker_of(kafka, patient)
    worker.step()
    worker.step()
    with pytest.raises(Interrupted, match="not acknowledged in time"):
        worker.step()
    with pytest.raises(Interrupted):
        worker.step()
    assert kafka.commits == []
    assert kafka.log == ["purge"]


def test_lost_partitions_are_purged_and_never_committed():
    """Somebody else may own them: nothing more is sent or committed for them."""
    patient = Settings(barrier_seconds=60, max_poll_interval=10.0)
    kafka = FakeKafka(assign(P), [record(0)], lambda it: it.lost([P]))
    worker = worker_of(kafka, patient)
    for _ in range(3):
        worker.step()
    assert worker.drain()
    assert kafka.commits == []
    assert kafka.log[0] == "purge"


def test_a_partition_that_came_back_within_one_poll_begins_where_it_is_committed():
    """Records read before it went must not be taken for the ones after: that would skip some."""

    def away_and_back(listener):
        listener.lost([P])
        listener.assigned({P: Checkpoint(3, "")})
        return [record(8), record(9)]

    kafka = FakeKafka(assign(P), away_and_back)
    worker = worker_of(kafka)
    worker.step()
    with pytest.raises(Interrupted, match="came back within one poll"):
        worker.step()
    assert kafka.sent == []


def test_a_log_that_goes_back_is_not_followed():
    """A record before the one that is next means that something else is wrong."""
    kafka = FakeKafka(assign(P), [record(5)], [record(4)])
    worker = worker_of(kafka)
    worker.step()
    worker.step()
    with pytest.raises(Interrupted, match=r"raw\.veriff\[0\] went back to 4 where 6 was next"):
        worker.step()


def test_draining_waits_for_the_last_commit():
    """SIGTERM: stop reading, finish, commit, leave; what is read meanwhile is not handled."""
    patient = Settings(barrier_seconds=60, max_poll_interval=10.0)

    def answer_and_more(listener):
        listener.committed({P: 1})
        return [record(1)]

    kafka = FakeKafka(assign(P), [record(0)], [], answer_and_more)
    worker = worker_of(kafka, patient)
    worker.step()
    worker.step()
    assert worker.drain()
    assert kafka.sent == [b"0"]
    assert offsets_of(kafka) == [{P: 1}]
    assert kafka.log == ["commit", "purge", "close"]


def test_draining_asks_again_when_the_group_was_rebalancing():
    """A commit refused in the midst of a rebalance is offered again while there is time."""
    kafka = FakeKafka(
        assign(P),
        [record(0)],
        lambda listener: listener.commit_failed("membership"),
        answered(p=1),
    )
    worker = worker_of(kafka)
    worker.step()
    worker.step()
    assert worker.drain()
    assert offsets_of(kafka) == [{P: 1}, {P: 1}]


def test_draining_says_when_something_is_left():
    """A commit without an answer is not a finished one."""
    kafka = FakeKafka(assign(P), [record(0)])
    worker = worker_of(kafka)
    worker.step()
    worker.step()
    assert not worker.drain()
    assert kafka.log[-1] == "close"


def test_interruptions_are_followed_by_new_clients_after_a_growing_pause():
    """Each incarnation is closed, the pause doubles up to a bound, and progress resets it."""
    made = []
    pauses = []

    def start():
        kafka = FakeKafka(assign(P), [record(0)])
        if len(made) == 3:
            kafka.script.append(answered(p=1))
        made.append(kafka)
        worker = worker_of(kafka)
        step = worker.step

        def stumble():
            step()
            if not kafka.script:
                raise Interrupted("stumbled")

        worker.step = stumble
        return worker

    assert not keep_going(start, lambda: len(pauses) == 6, pauses.append)
    assert pauses == [1.0, 2.0, 4.0, 1.0, 2.0, 4.0]
    assert all(kafka.log[-1] == "close" for kafka in made)


def test_a_halt_closes_the_clients_and_goes_on_to_the_person():
    """What a person must mend is raised, not tried again."""
    kafka = FakeKafka(assign(P), [record(0)])
    kafka.refusal = Refusal("verification.events does not exist", permanent=True)
    with pytest.raises(Halted, match="does not exist"):
        keep_going(lambda: worker_of(kafka), lambda: False, lambda _: None)
    assert kafka.log == ["purge", "close"]


def test_a_poll_may_not_keep_a_signal_waiting():
    """The client's batch call ignores signals, so it is never asked to wait long."""
    with pytest.raises(ValueError, match=r"at most 0\.2"):
        Settings(poll_seconds=1.0)


# -- the adapter --


def test_reading_starts_where_it_was_committed_or_at_the_beginning():
    """Without a commit the log is read from its first record."""
    assert start_offset(P, -1001, (5, 90), "halt") == (5, 0)
    assert start_offset(P, 42, (5, 90), "halt") == (42, 0)
    assert start_offset(P, 90, (5, 90), "halt") == (90, 0)


def test_records_that_retention_deleted_unread_stop_it_unless_told_otherwise():
    """A gap is counted, and going on is a decision somebody made."""
    with pytest.raises(Halted, match=r"deleted 8 unread records of raw\.veriff\[0\]"):
        start_offset(P, 42, (50, 90), "halt")
    assert start_offset(P, 42, (50, 90), "continue") == (50, 8)


@pytest.mark.parametrize("policy", ["halt", "continue"])
def test_a_commit_beyond_the_end_is_never_followed(policy):
    """A topic created anew would be read from nowhere: a person must say where."""
    with pytest.raises(Halted, match="created anew"):
        start_offset(P, 91, (0, 90), policy)


def test_what_the_guarantee_rests_on_cannot_be_configured_away():
    """The caller's keys pass through; ours stand on top."""
    theirs = {
        "bootstrap.servers": "kafka:9092",
        "enable.auto.commit": True,
        "auto.offset.reset": "latest",
        "acks": "1",
        "enable.idempotence": False,
        "linger.ms": 5,
    }
    consumer = consumer_config(theirs, "normalize.veriff", 300.0)
    assert consumer["bootstrap.servers"] == "kafka:9092"
    assert consumer["enable.auto.commit"] is False
    assert consumer["enable.auto.offset.store"] is False
    assert consumer["auto.offset.reset"] == "error"
    assert consumer["partition.assignment.strategy"] == "cooperative-sticky"
    producer = producer_config(theirs)
    assert producer["acks"] == "all"
    assert producer["enable.idempotence"] is True
    assert producer["partitioner"] == "murmur2_random"
    assert producer["linger.ms"] == 5


def test_the_newer_group_protocol_is_not_given_a_strategy():
    """With group.protocol=consumer the broker assigns, and the client refuses the key."""
    chosen = consumer_config({"group.protocol": "consumer"}, "normalize.veriff", 300.0)
    assert "partition.assignment.strategy" not in chosen


@pytest.mark.parametrize(
    ("code", "permanent", "says"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, True, "an output of 9 bytes is too large for dlq.veriff"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, True, "not authorised to write dlq.veriff"),
        (KafkaError._UNKNOWN_TOPIC, True, "python -m deploy topics apply"),
        (KafkaError._MSG_TIMED_OUT, False, "dlq.veriff did not take an output: _MSG_TIMED_OUT"),
        (KafkaError.NOT_ENOUGH_REPLICAS, False, "NOT_ENOUGH_REPLICAS"),
    ],
)
def test_a_refusal_says_what_to_do_and_whether_trying_again_helps(code, permanent, says):
    """One sentence that names the topic, never the content."""
    refusal = _refusal(KafkaError(code), "dlq.veriff", 9)
    assert refusal.permanent is permanent
    assert says in refusal.reason


# -- the adapter on the real Kafka --


class Group:
    """Hears what the group decides; does the rest as the test says."""

    def __init__(self, kafka, count=10, partitions=2, **keys):
        self.config = {"bootstrap.servers": kafka.bootstrap, **keys}
        self.topic = uuid.uuid4().hex[:8]
        admin = AdminClient(self.config)
        created = admin.create_topics([NewTopic(self.topic, partitions, 1)])
        created[self.topic].result()
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        for number in range(count):
            producer.produce(self.topic, b"%d" % number, partition=number % partitions)
        assert producer.flush(30) == 0
        self.starts = {}
        self.answers = []
        self.pausing = []
        self.records = []

    def broker(self):
        broker = Broker(self.config, self.topic, f"group.{self.topic}")
        broker.subscribe(self)
        self.current = broker
        return broker

    def assigned(self, starts):
        self.starts.update(starts)
        if self.pausing:
            self.current.pause(self.pausing)

    def revoked(self, partitions):
        pass

    def lost(self, partitions):
        pass

    def committed(self, offsets):
        self.answers.append(dict(offsets))

    def commit_failed(self, why):
        raise AssertionError(why)

    def read(self, met):
        deadline = time.monotonic() + 60
        while not met():
            assert time.monotonic() < deadline, "not seen"
            self.records += self.current.consume(100, 0.05)

    def offsets(self, number):
        return [one.offset for one in self.records if one.partition == number]


@pytest.mark.kafka
def test_a_partition_paused_as_it_is_assigned_gives_nothing_and_then_everything(kafka):
    """Its past is learnt first; no record of it is given before, and none is missing after."""
    group = Group(kafka)
    paused, other = (group.topic, 0), (group.topic, 1)
    group.pausing = [paused]
    broker = group.broker()
    group.read(lambda: group.offsets(1) == list(range(5)))
    for _ in range(10):
        group.records += broker.consume(100, 0.1)
    assert group.offsets(0) == []
    broker.resume([paused])
    group.read(lambda: group.offsets(0) == list(range(5)))
    broker.pause([paused, other])
    broker.resume([paused, other])
    for _ in range(10):
        group.records += broker.consume(100, 0.1)
    assert group.offsets(0) == group.offsets(1) == list(range(5))
    broker.close()


@pytest.mark.kafka
def test_a_partition_assigned_anew_is_not_paused(kafka):
    """A pause ends with the ownership it belongs to."""
    group = Group(kafka)
    group.pausing = [(group.topic, 0)]
    first = group.broker()
    group.read(lambda: group.offsets(1))
    first.close()
    group.pausing, group.records = [], []
    second = group.broker()
    group.read(lambda: group.offsets(0) == group.offsets(1) == list(range(5)))
    second.close()


@pytest.mark.kafka
def test_a_passport_comes_back_with_the_offset_it_was_committed_with(kafka):
    """The next owner hears what the last one said; of what was never committed, nothing."""
    group = Group(kafka)
    broker = group.broker()
    group.read(lambda: len(group.records) == 10)
    one, other = (group.topic, 0), (group.topic, 1)
    assert group.starts == {one: Checkpoint(0, ""), other: Checkpoint(0, "")}
    broker.commit({one: Checkpoint(3, "told")})
    group.read(lambda: group.answers == [{one: 3}])
    broker.close()
    second = group.broker()
    group.starts.clear()
    group.read(lambda: len(group.starts) == 2)
    assert group.starts == {one: Checkpoint(3, "told"), other: Checkpoint(0, "")}
    second.close()


@pytest.mark.kafka
def test_an_output_goes_to_the_partition_it_names(kafka):
    """What belongs beside a raw partition stands under its number; all else goes by its key."""
    group = Group(kafka, count=0, partitions=6)
    broker = group.broker()
    for key in (b"a", b"b", None):
        assert broker.produce(Output(topic=group.topic, key=key, value=b"", partition=4))
    for _ in range(2):
        assert broker.produce(Output(topic=group.topic, key=b"c", value=b"by key"))
    while broker.flush(0.005):  # short looks are enough to send without lingering
        pass
    group.read(lambda: len(group.records) == 5)
    assert [one.partition for one in group.records if not one.value] == [4, 4, 4]
    assert len({one.partition for one in group.records if one.value}) == 1
    broker.close()


@pytest.mark.kafka
def test_looks_of_no_length_end_lingering_too(kafka):
    """A flush sends at once, however long linger.ms is, so the loop may go on deciding."""
    group = Group(kafka, count=0, **{"linger.ms": 60_000})
    broker = group.broker()
    assert broker.produce(Output(topic=group.topic, key=None, value=b""))
    deadline = time.monotonic() + 60
    while broker.flush(0):
        assert time.monotonic() < deadline, "it lingers"
        group.records += broker.consume(10, 0.005)
    broker.close()


@pytest.mark.kafka
def test_a_member_that_another_one_replaced_halts(kafka):
    """A fatal error comes out of the call itself, and means that a person must look."""
    group = Group(kafka, **{"group.instance.id": "twin", "heartbeat.interval.ms": 200})
    first = group.broker()
    group.read(lambda: len(group.starts) == 2)
    second = group.broker()
    group.current = first

    def both():
        second.consume(1, 0.05)
        return False

    with pytest.raises(Halted, match=r"the group refuses us: .*same group\.instance\.id"):
        group.read(both)
    first.close()
    second.close()


class Dead:
    """A producer whose every call ends as the test says."""

    def __init__(self, end):
        self.end = end

    def __getattr__(self, name):
        def call(*_args, **_names):
            if name in {"poll", "flush", "close"}:
                raise self.end

        return call


def in_a_callback(problem):
    """What C code makes of an exception that was under way when it called back."""
    error = SystemError("returned a result with an exception set")
    error.__cause__ = problem
    return error


@pytest.mark.parametrize("where", ["the call", "a callback"])
def test_a_producer_that_cannot_go_on_ends_the_incarnation(where):
    """Whatever call learns of it; purging and closing go on all the same."""
    broker = Broker({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, "raw", "group")
    fatal = KafkaException(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "told", True))
    broker._producer.close()
    broker._producer = Dead(fatal if where == "the call" else in_a_callback(fatal))
    for call in (broker.flush, broker.serve):
        with pytest.raises(Interrupted, match="OUT_OF_ORDER_SEQUENCE_NUMBER"):
            call(0)
    broker.purge()
    broker.close()
    with pytest.raises(RuntimeError, match="Consumer closed"):
        broker._consumer.memberid()
