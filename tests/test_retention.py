"""The retention gap, on the real Kafka: records deleted unread are never passed over silently."""

import json
import signal
import time
from contextlib import closing

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from consumers.codec import decode
from consumers.committed import Committed
from gateway.delivery import group_id, raw_topic
from gateway.process import EXIT_FAILED
from gateway.send import fixture
from tests.deployment import delete_records, deployment, until

pytestmark = pytest.mark.kafka

LOST = "verihook_records_lost_to_retention_total"
STOP = {"CONSUMER_RETENTION_GAP": "stop"}
GO_ON = {"CONSUMER_RETENTION_GAP": "continue"}


class Log:
    """The raw topic of Veriff, its group, and a hand that deletes as retention does."""

    def __init__(self, deployed) -> None:
        self.deployed = deployed
        self.topic = raw_topic("veriff", deployed.prefix)
        self.group = group_id("veriff", deployed.prefix)
        self.admin = AdminClient({"bootstrap.servers": deployed.bootstrap, "log_level": 0})
        self.sent = 0

    def send(self, count: int) -> None:
        """Send deliveries about as many different processes."""
        body = json.loads(fixture("veriff", "decision-approved").body)
        for number in range(self.sent, self.sent + count):
            body["verification"]["id"] = f"process-{number}"
            assert self.deployed.send("veriff", json.dumps(body).encode()).status == 200
        self.sent += count

    def ends(self) -> dict[int, int]:
        """Where each partition ends."""
        return self._offsets(OffsetSpec.latest())

    def delete(self, before: dict[int, int]) -> None:
        """Let the log of each partition begin at an offset."""
        delete_records(self.admin, {(self.topic, number): at for number, at in before.items()})
        begins = self._offsets(OffsetSpec.earliest())
        assert {number: begins[number] for number in before} == before

    def committed(self) -> dict[int, int]:
        """The group's offsets."""
        with closing(Committed({"bootstrap.servers": self.deployed.bootstrap}, self.group)) as all_:
            found = all_.read([self.topic])
        return {number: offset for (_, number), (offset, _) in found.items()}

    def all_committed(self) -> bool:
        """Whether the group has committed all there is."""
        found = self.committed()
        return all(found.get(number, 0) == end for number, end in self.ends().items() if end)

    def _offsets(self, which: OffsetSpec) -> dict[int, int]:
        found = self.admin.list_topics(self.topic, timeout=30).topics[self.topic].partitions
        asked = {TopicPartition(self.topic, number): which for number in found}
        answers = self.admin.list_offsets(asked)
        return {one.partition: answer.result(30).offset for one, answer in answers.items()}


def processes(deployed, count: int) -> set[str]:
    """The processes that have become events; each once."""
    found = [decode(message.value()).process_ref for message in deployed.events(count)]
    assert len(set(found)) == len(found)
    return set(found)


@pytest.fixture
def log(topics, tmp_path):
    """Ten deliveries handled and committed by a consumer that then stopped."""
    with deployment(topics(**{"raw.partitions": 2, "dlq.partitions": 1}), tmp_path) as deployed:
        deployed.gateway()
        consumer = deployed.consumer("veriff")
        log = Log(deployed)
        log.send(10)
        until(log.all_committed, "all is committed")
        assert consumer.stop() == 0
        yield log


def test_a_consumer_halts_before_a_gap_and_goes_on_where_a_person_says_so(log):
    """Stopped, one sentence, nothing committed; told to continue, each lost record is counted."""
    deployed = log.deployed
    handled = log.committed()
    log.send(20)
    ends = log.ends()
    lost = {number: (ends[number] - handled.get(number, 0)) // 2 for number in ends}
    log.delete({number: handled.get(number, 0) + count for number, count in lost.items()})
    assert min(lost.values()) > 0, "there is a gap in each partition"
    left = 20 - sum(lost.values())

    for _ in range(2):  # a restart by the orchestrator changes nothing
        consumer = deployed.consumer("veriff", ready=False, **STOP)
        assert consumer.popen.wait(60) == EXIT_FAILED
        text = consumer.log.read_text()
        said = text.splitlines()[-1]
        assert any(f"retention deleted {count} unread records" in said for count in lost.values())
        assert log.topic in said
        assert "CONSUMER_RETENTION_GAP=continue" in said
        assert "Traceback" not in text
        assert log.committed() == handled
    assert len(deployed.events()) == 10

    consumer = deployed.consumer("veriff", **GO_ON)
    until(log.all_committed, "what is left is committed")
    assert consumer.sum(LOST) == sum(lost.values())
    for number, count in lost.items():
        assert consumer.sum(LOST, f'partition="{number}"') in (count, 0), "by partition, if at all"
    assert len(processes(deployed, 10 + left)) == 10 + left
    assert consumer.stop() == 0

    consumer = deployed.consumer("veriff", **GO_ON)
    log.send(5)
    until(log.all_committed, "it goes on")
    assert consumer.sum(LOST) == 0, "a gap is counted once"
    processes(deployed, 10 + left + 5)


def test_a_gap_up_to_the_end_of_the_log_is_counted_once(log):
    """Nothing is left to be read, and yet the next start knows that this loss was counted."""
    deployed = log.deployed
    handled = log.committed()
    log.send(20)
    ends = log.ends()
    log.delete(ends)
    consumer = deployed.consumer("veriff", **GO_ON)
    until(lambda: consumer.sum(LOST) == 20, "what is lost is counted")
    until(lambda: consumer.sum("verihook_consumer_lag_records") == 0, "nothing is left")
    assert consumer.stop() == 0
    assert log.committed() == ends != handled
    consumer = deployed.consumer("veriff", **STOP)
    log.send(3)
    until(log.all_committed, "there is no gap any more")
    assert consumer.sum(LOST) == 0
    processes(deployed, 13)


def test_what_was_deleted_after_it_was_handled_is_no_gap(log):
    """A log that begins at or before the committed offset has lost nothing unread."""
    log.delete(log.committed())
    log.send(4)
    consumer = log.deployed.consumer("veriff", **STOP)
    until(log.all_committed, "it goes on")
    assert consumer.sum(LOST) == 0
    processes(log.deployed, 14)


@pytest.mark.parametrize("policy", [STOP, GO_ON], ids=["stop", "continue"])
def test_retention_overtakes_a_running_consumer(log, policy):
    """Deleted while it was too slow: it halts with the sentence, or counts and goes on."""
    deployed = log.deployed
    # What it asked for last comes back empty, at once, before anything new is there.
    consumer = deployed.consumer("veriff", KAFKA_FETCH_WAIT_MAX_MS="10", **policy)
    log.send(2)
    until(log.all_committed, "it runs")
    consumer.popen.send_signal(signal.SIGSTOP)
    try:
        time.sleep(1.0)
        handled = log.committed()
        log.send(20)
        ends = log.ends()
        lost = {number: (ends[number] - handled[number]) // 2 for number in ends}
        log.delete({number: handled[number] + count for number, count in lost.items()})
    finally:
        consumer.popen.send_signal(signal.SIGCONT)
    if policy is STOP:
        assert consumer.popen.wait(60) == EXIT_FAILED
        said = consumer.log.read_text().splitlines()[-1]
        assert any(f"retention deleted {count} unread records" in said for count in lost.values())
        assert log.committed() == handled
        processes(deployed, 12)
    else:
        until(log.all_committed, "what is left is committed")
        assert consumer.sum(LOST) == sum(lost.values())
        processes(deployed, 32 - sum(lost.values()))
        assert consumer.popen.poll() is None
