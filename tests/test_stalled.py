"""The stall on the real Kafka: a broken mapping is rolled out to real processes, and mended."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.attendant import Attendant
from consumers.codec import decode
from consumers.committed import Committed
from gateway.delivery import Provenance, dead_topic, group_id, output_topic, raw_topic
from gateway.process import Readiness
from gateway.send import fixture
from tests.deployment import ROOT, deployment, get, until

PROVIDER = "pawapass"
STALLED = "verihook_consumer_stalled"
REBALANCES = "verihook_rebalances_total"
LAST_POLL = "verihook_consumer_last_poll_timestamp_seconds"
LETTERS = "verihook_dead_letters_total"
REASON = "mapping: stalled: at least half of VERIFICATION.STATUS_CHANGE became dead letters"
MODES = {"at-least-once": (), "exactly-once": ("--delivery", "exactly-once", "--slot", "0")}
FEW = 190
"""Of these 130 come first: a stall leaves too few for another one."""


def rollout(folder: Path, revision: int, *, broken: bool = False) -> Path:
    """The programs as one rollout brings them: pawaPass' mapping at a revision, sound or broken.

    The broken one takes the platform's own reference for a number, as somebody's staging data had
    it.
    """
    for name in ("gateway", "consumers", "avro"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    mapping = folder / "consumers" / "normalizers" / f"{PROVIDER}.py"
    text = mapping.read_text()
    changes = {"\nREVISION = 1\n": f"\nREVISION = {revision}\n"}
    if broken:
        changes["    external_id: str\n"] = "    external_id: int\n"
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    mapping.write_text(text)
    return folder


def command(deployed, *arguments: str, tree: Path = ROOT) -> subprocess.CompletedProcess:
    """Run `python -m consumers` as a user of this deployment does."""
    return subprocess.run(
        [sys.executable, "-m", "consumers", *arguments],
        cwd=tree, env=os.environ | deployed.environ(), capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip


def store(deployed, first: int, end: int) -> None:
    """Put different deliveries on the raw topic, as the gateway would."""
    template = json.loads(fixture(PROVIDER, "approved").body)
    producer = Producer(
        {"bootstrap.servers": deployed.bootstrap, "enable.idempotence": True, "log_level": 0}
    )
    for number in range(first, end):
        template["notificationId"] = f"e0000000-0000-4000-8000-{number:012d}"
        template["data"]["id"] = f"process-{number}"
        provenance = Provenance(
            endpoint=PROVIDER, provider=PROVIDER, received_at=int(time.time() * 1000),
            delivery_id=str(number), authenticity="signed", scheme="pawapass-hmac-sha256",
            key_id="k", environment="sandbox",
        )  # fmt: skip
        producer.produce(
            raw_topic(PROVIDER, deployed.prefix),
            json.dumps(template).encode(),
            template["data"]["id"].encode(),
            headers=provenance.to_headers(),
        )
    assert producer.flush(60) == 0


def whole(deployed, topic: str) -> list:
    """Everything on a topic, as a reader of what is committed sees it."""
    consumer = Consumer(
        {
            "bootstrap.servers": deployed.bootstrap,
            "group.id": "test-reader",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    numbers = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
    found, ended = [], set()
    while len(ended) < len(numbers):
        for message in consumer.consume(1_000, 1.0):
            if message.error() is None:
                found.append(message)
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF
                ended.add(message.partition())
    consumer.close()
    return found


class Group:
    """The deployment's normalizing group, from outside."""

    def __init__(self, deployed) -> None:
        config = {"bootstrap.servers": deployed.bootstrap, "log_level": 0}
        self.name = group_id(PROVIDER, deployed.prefix)
        self.raw = raw_topic(PROVIDER, deployed.prefix)
        self.admin = AdminClient(config)
        self.offsets = Committed(config, self.name)

    def committed(self) -> int:
        """How many raw records are committed."""
        return sum(offset for offset, _ in self.offsets.read([self.raw]).values())

    def members(self) -> tuple[str, list[str]]:
        """The group's state, and who is in it."""
        (answer,) = self.admin.describe_consumer_groups([self.name]).values()
        found = answer.result(30)
        return found.state.name, [member.member_id for member in found.members]


@pytest.fixture
def deployed(topics, tmp_path):
    """A deployment whose raw topic has two partitions, and no gateway: records are stored."""
    overrides = {"raw.partitions": 2, "dlq.partitions": 1}
    with deployment(topics(**overrides), tmp_path) as running:
        yield running


@pytest.fixture
def stall(deployed, tmp_path):
    """A consumer with a broken mapping, stalled before it came to the end, and its group."""

    def begin(mode: str = "at-least-once", *, records: int, keep: int = 60):
        group = Group(deployed)
        store(deployed, 0, records - keep)
        tree = rollout(tmp_path / "broken", 2, broken=True)
        consumer = deployed.consumer(PROVIDER, *MODES[mode], tree=tree, ready=False)
        until(lambda: consumer.sum(STALLED) == 1, "it stalls")
        store(deployed, records - keep, records)
        return consumer, group, tree

    return begin


def letters(deployed) -> list:
    """The dead letters."""
    return whole(deployed, dead_topic(PROVIDER, deployed.prefix))


@pytest.mark.kafka
@pytest.mark.parametrize("mode", MODES)
def test_a_broken_mapping_stalls_its_consumer_and_nothing_is_lost(deployed, stall, tmp_path, mode):
    """It stops reading, says why, stays in its group; mended, it goes on by itself from there."""
    consumer, group, tree = stall(mode, records=700)
    handled = until(group.committed, "what was handled is committed")
    until(lambda: get(f"{consumer.admin}/readyz")[0] == 503, "it is not ready")
    assert REASON in get(f"{consumer.admin}/readyz?verbose")[1]
    assert get(f"{consumer.admin}/livez")[0] == 200
    handled = group.committed()
    assert 100 <= handled < 700, "some were left"
    assert len(letters(deployed)) == handled
    assert consumer.sum(LETTERS) == handled

    # It goes on polling, is a member as before, and takes nothing.
    members = group.members()
    assert members[0] == "STABLE"
    rebalances, polled = consumer.sum(REBALANCES), consumer.sum(LAST_POLL)
    until(lambda: consumer.sum(LAST_POLL) > polled + 3, "it polls")
    assert group.members() == members
    assert consumer.sum(REBALANCES) == rebalances
    assert consumer.sum(STALLED) == 1
    assert group.committed() == handled
    told = command(deployed, "lag", PROVIDER)
    assert told.returncode == 1  # a person must act
    assert f"{700 - handled:,} records behind" in told.stdout
    assert f"failing: {handled:,} of {handled:,} VERIFICATION.STATUS_CHANGE" in told.stdout
    assert "stalled: too much of VERIFICATION.STATUS_CHANGE fails" in told.stdout

    # A restart under the same mapping knows it from the passport, before it takes a record.
    assert consumer.stop() == 0
    again = deployed.consumer(PROVIDER, *MODES[mode], tree=tree, ready=False)
    until(lambda: again.sum(STALLED) == 1, "it stalls at once")
    polled = again.sum(LAST_POLL)
    until(lambda: again.sum(LAST_POLL) > polled + 1, "it polls")
    assert REASON in get(f"{again.admin}/readyz?verbose")[1]
    assert (group.committed(), len(letters(deployed))) == (handled, handled)
    assert again.stop() == 0

    # The mended one needs no word: its revision is another. What was left unread becomes events.
    mended = rollout(tmp_path / "mended", 3)
    consumer = deployed.consumer(PROVIDER, *MODES[mode], tree=mended)
    until(lambda: group.committed() == 700, "everything is committed")
    assert consumer.sum(STALLED) == 0
    assert get(f"{consumer.admin}/readyz")[0] == 200
    assert consumer.stop() == 0
    events = whole(deployed, output_topic(deployed.prefix))
    assert len(events) == 700 - handled
    assert len({decode(message.value()).event_id for message in events}) == 700 - handled
    assert len(letters(deployed)) == handled
    proof = command(deployed, "audit", PROVIDER)
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert "Proven: each of 700 raw records" in proof.stdout


@pytest.mark.kafka
def test_resume_lets_a_stalled_process_go_on_as_it_is(deployed, stall):
    """By its admin address: what failed is not held against what comes, and fails again."""
    consumer, group, _tree = stall(records=FEW)
    address = consumer.admin.removeprefix("http://")
    wrong = command(deployed, "resume", "veriff", "--admin", address)
    assert wrong.returncode == 2
    assert f"the process at {address} is not a consumer of veriff" in wrong.stderr
    assert consumer.sum(STALLED) == 1

    resumed = command(deployed, "resume", PROVIDER, "--admin", address)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert resumed.stdout == "resumed; what failed until now is in the dead letters\n"
    until(lambda: group.committed() == FEW, "the rest is handled")
    until(lambda: get(f"{consumer.admin}/readyz")[0] == 200, "it is ready")
    assert consumer.sum(STALLED) == 0
    assert len(letters(deployed)) == FEW
    again = command(deployed, "resume", PROVIDER, "--admin", address)
    assert (again.returncode, again.stdout) == (0, "not stalled; nothing to do\n")
    assert consumer.stop() == 0
    assert command(deployed, "audit", PROVIDER).returncode == 0

    nobody = command(deployed, "resume", PROVIDER, "--admin", address)
    assert nobody.returncode == 2
    assert f"nobody answers at {address}" in nobody.stderr


@pytest.mark.kafka
def test_no_stall_never_stalls(deployed, stall, tmp_path):
    """Told so, it goes on where another one stalled, and dead letters are all there is."""
    consumer, group, tree = stall(records=1_200)
    assert consumer.stop() == 0
    consumer = deployed.consumer(PROVIDER, "--no-stall", tree=tree)
    until(lambda: group.committed() == 1_200, "everything is handled")
    assert consumer.sum(STALLED) == 0
    assert get(f"{consumer.admin}/readyz")[0] == 200
    assert len(letters(deployed)) == 1_200
    assert consumer.stop() == 0


def test_a_stall_that_the_first_poll_brings_is_not_called_ready():
    """A partition that was stalled before can be assigned within the first poll."""
    readiness = Readiness("topics", "group", "mapping")
    attendant = Attendant("p", "normalize.p", frozenset(), readiness)
    attendant.stalled("decision")  # told from within consume()
    attendant.polled()
    assert "mapping" in readiness.problems()
    attendant.closed()
    attendant.polled()
    attendant.interrupted("another", 0.0)
    attendant.polled()
    assert "mapping" not in readiness.problems()
