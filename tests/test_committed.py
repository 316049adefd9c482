"""A group's committed offsets from outside: read and written by no member, on the real Kafka."""

import re
from types import SimpleNamespace

import pytest
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from consumers import committed as module
from consumers.committed import Committed
from consumers.contract import Halted
from gateway.delivery import group_id, raw_topic
from tests.deployment import ROOT, until

FATAL_CALL = "list_consumer_group" + "_offsets("


@pytest.fixture
def group(topics):
    """A provider's raw topic and its group, and whoever asks about it from outside."""
    made = topics()
    found = Committed({"bootstrap.servers": made.bootstrap}, group_id("veriff", made.prefix))
    found.topic = raw_topic("veriff", made.prefix)
    found.config = {"bootstrap.servers": made.bootstrap}
    yield found
    found.close()


def member(group):
    """A living member that owns every partition of the topic."""
    consumer = Consumer(
        {**group.config, "group.id": group._group, "enable.auto.commit": False, "log_level": 0}
    )
    consumer.subscribe([group.topic])
    until(lambda: consumer.poll(0.1) or len(consumer.assignment()) == 4, "the member has joined")
    return consumer


def test_nobody_asks_in_the_way_that_kills_the_process():
    """The admin client's question crashes on a fresh cluster; one file knows the other way."""
    for folder in ("consumers", "gateway", "deploy"):
        for path in (ROOT / folder).rglob("*.py"):
            assert FATAL_CALL not in path.read_text(), path


@pytest.mark.kafka
def test_what_is_written_is_read_with_its_text(group):
    """Only what was committed is told: a partition without an offset is left out."""
    assert group.read([group.topic]) == {}
    group.write({(group.topic, 0): 5, (group.topic, 3): 0}, "words")
    assert group.read([group.topic]) == {
        (group.topic, 0): (5, "words"),
        (group.topic, 3): (0, "words"),
    }
    assert group.read([f"{group.topic}.nowhere"]) == {}


@pytest.mark.kafka
def test_a_transaction_under_way_is_not_waited_for(group):
    """What stands committed is told at once, never an offset that waits in a transaction."""
    group.write({(group.topic, 0): 5}, "before")
    producer = Producer({**group.config, "transactional.id": f"{group._group}.t", "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.send_offsets_to_transaction(
        [TopicPartition(group.topic, 0, 9)], group._client.consumer_group_metadata(), 30
    )
    assert group.read([group.topic]) == {(group.topic, 0): (5, "before")}
    producer.commit_transaction(30)
    until(
        lambda: group.read([group.topic]) == {(group.topic, 0): (9, "")},
        "the transaction's offset is committed",
    )


@pytest.mark.kafka
def test_a_living_member_is_not_disturbed(group):
    """Reading moves no partition; writing past a member is refused, in one sentence."""
    consumer = member(group)
    name, owned = consumer.memberid(), consumer.assignment()
    consumer.commit(offsets=[TopicPartition(group.topic, 1, 7)], asynchronous=False)
    assert group.read([group.topic]) == {(group.topic, 1): (7, "")}
    with pytest.raises(Halted, match="cannot be read or written: UNKNOWN_MEMBER_ID"):
        group.write({(group.topic, 1): 8}, "")
    consumer.poll(0.1)
    assert (consumer.memberid(), consumer.assignment()) == (name, owned)
    assert group.read([group.topic]) == {(group.topic, 1): (7, "")}
    consumer.close()


class Scripted:
    """A client whose broker answers late: a topic of one partition, and what poll() gives."""

    def __init__(self, said=(), refused=None):
        self.said, self.refused = list(said), refused
        self.timeouts = []

    def list_topics(self, topic, _timeout):
        partitions = {} if self.refused else {0: None}
        return SimpleNamespace(
            topics={topic: SimpleNamespace(partitions=partitions, error=self.refused)}
        )

    def committed(self, _asked, timeout):
        self.timeouts.append(timeout)
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def poll(self, _seconds):
        code = self.said.pop(0) if self.said else None
        return None if code is None else SimpleNamespace(error=lambda: KafkaError(code))


@pytest.fixture
def scripted():
    """Give a group that asks a scripted client."""
    found = Committed({"bootstrap.servers": "127.0.0.1:1"}, "normalize.veriff")
    client = found._client

    def asking(**script):
        found._client = Scripted(**script)
        return found

    yield asking
    found._client = client
    found.close()


@pytest.mark.parametrize(
    "said",
    [
        [None, None, KafkaError.GROUP_AUTHORIZATION_FAILED],
        [KafkaError._ALL_BROKERS_DOWN, KafkaError.GROUP_AUTHORIZATION_FAILED],
    ],
    ids=["at the third look", "behind another trouble"],
)
def test_a_refusal_that_comes_late_is_heard(scripted, said):
    """It is looked for again for as long as nothing is answered, not once."""
    group = scripted(said=said)
    with pytest.raises(Halted, match=r"may not see what normalize\.veriff committed; grant it"):
        group.read(["t"])
    waits = group._client.timeouts
    assert len(waits) <= 3
    assert waits == sorted(waits), "a broker that answers slowly is given longer each time"


def test_a_topic_that_may_not_be_described_is_named(scripted):
    """Nothing is taken for not committed where its topic is not shown."""
    group = scripted(refused=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    words = "this client may not read dlq.veriff; grant it Describe on the topic"
    with pytest.raises(Halted, match=f"^{re.escape(words)}$"):
        group.read(["dlq.veriff"])
    assert scripted(refused=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)).read(["t"]) == {}
    with pytest.raises(Halted, match=r"cannot be read or written: TOPIC_EXCEPTION"):
        scripted(refused=KafkaError(KafkaError.TOPIC_EXCEPTION)).read(["t"])


@pytest.mark.parametrize("call", ["read", "write"])
def test_silence_has_an_end(monkeypatch, call):
    """Where Kafka does not answer, a person is told whose offsets are not known."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)
    group = Committed({"bootstrap.servers": "127.0.0.1:1"}, "normalize.veriff")
    with pytest.raises(Halted, match=r"the group normalize\.veriff cannot be read"):
        group.read(["t"]) if call == "read" else group.write({("t", 0): 1}, "")
    group.close()
