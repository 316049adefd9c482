"""A group's committed offsets from outside: read and written by no member, on the real Kafka."""

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

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


@pytest.mark.parametrize("call", ["read", "write"])
def test_silence_has_an_end(monkeypatch, call):
    """Where Kafka does not answer, a person is told whose offsets are not known."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)
    group = Committed({"bootstrap.servers": "127.0.0.1:1"}, "normalize.veriff")
    with pytest.raises(Halted, match=r"the group normalize\.veriff cannot be read"):
        group.read(["t"]) if call == "read" else group.write({("t", 0): 1}, "")
    group.close()
