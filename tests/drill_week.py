"""A week of a provider's retries against real consumers, restarted and moved: each event once.

DRILL_DELIVERIES says how many different deliveries there are (200,000 by default); each is sent
1 to 55 times over a week, as pawaPass does. Times are simulated: they stand in the received-at
header, by which the window is measured.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from consumers.codec import decode
from consumers.committed import Committed
from gateway.delivery import Provenance, group_id, output_topic, raw_topic
from gateway.send import fixture
from tests.deployment import ROOT, deployment, until

pytestmark = pytest.mark.kafka

PROVIDER = "pawapass"
DELIVERIES = int(os.environ.get("DRILL_DELIVERIES", "200000"))
DAY = 86_400_000
PARTITIONS = 12
SHORT_SESSION = {"KAFKA_SESSION_TIMEOUT_MS": "3000", "KAFKA_HEARTBEAT_INTERVAL_MS": "500"}


def history(deliveries: int, seed: int):
    """Every sending as (time in ms, number of the delivery), in order of time.

    Most deliveries are taken at once; some are sent again for a while, some 55 times in a week.
    """
    dice = random.Random(seed)
    begin = int(time.time() * 1000) - 14 * DAY
    sendings = []
    for number in range(deliveries):
        first = begin + dice.randrange(6 * DAY)
        times = dice.choices([1, dice.randint(2, 5), dice.randint(6, 55)], [70, 22, 8])[0]
        sendings += [(first + attempt * 7 * DAY // 55, number) for attempt in range(times)]
    sendings.sort()
    return sendings


def store(deployed, sendings, begin, end) -> None:
    """Put these sendings on the raw topic as the gateway would have at their times."""
    template = json.loads(fixture(PROVIDER, "approved").body)
    producer = Producer(
        {
            "bootstrap.servers": deployed.bootstrap,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 50,
            "delivery.report.only.error": True,
        }
    )
    topic = raw_topic(PROVIDER, deployed.prefix)
    for index in range(begin, end):
        at, number = sendings[index]
        template["notificationId"] = f"e0000000-0000-4000-8000-{number:012d}"
        template["data"]["id"] = f"process-{number}"
        provenance = Provenance(
            endpoint=PROVIDER, provider=PROVIDER, received_at=at, delivery_id=str(index),
            authenticity="signed", scheme="pawapass-hmac-sha256", key_id="k", environment="sandbox",
        )  # fmt: skip
        body, key = json.dumps(template).encode(), template["data"]["id"].encode()
        while True:
            try:
                producer.produce(topic, body, key, headers=provenance.to_headers())
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0


def committed(deployed, group) -> int:
    """How many raw records are committed."""
    found = group.read([raw_topic(PROVIDER, deployed.prefix)])
    return sum(offset for offset, _ in found.values())


def written(deployed) -> Counter:
    """Count every event of the output by its id, as a read_committed reader sees it."""
    consumer = Consumer(
        {
            "bootstrap.servers": deployed.bootstrap,
            "group.id": "drill-reader",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    topic = output_topic(deployed.prefix)
    numbers = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
    found, open_ends = Counter(), len(numbers)
    while open_ends:
        for message in consumer.consume(5000, 1.0):
            if message.error():
                open_ends -= 1
            else:
                found[decode(message.value()).event_id] += 1
    consumer.close()
    return found


def audit(deployed, *arguments: str) -> subprocess.CompletedProcess:
    """Run the audit as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "consumers", "audit", PROVIDER, *arguments],
        cwd=ROOT, env=os.environ | deployed.environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip


PHASES = {
    "at-least-once": ("first", "a second", "the first stops", "another", "the second stops"),
    "exactly-once": ("first", "a second", "the first stops", "another", "kill", "kill the second"),
}


@pytest.mark.parametrize("mode", PHASES)
def test_a_week_of_retries_gives_each_event_once(topics, tmp_path, mode):
    """Restarts, partition moves and (exactly once) kill -9 under load: each event stands once."""
    sendings = history(DELIVERIES, seed=len(mode))
    made = topics(**{"raw.partitions": PARTITIONS})
    with deployment(made, tmp_path) as deployed:
        state = {"CONSUMER_STATE_DIR": str(tmp_path / "state"), **SHORT_SESSION}

        def start(slot: int):
            how = ["--slot", str(slot)] if mode == "exactly-once" else []
            return deployed.consumer(PROVIDER, "--delivery", mode, *how, **state)

        group = Committed(
            {"bootstrap.servers": deployed.bootstrap}, group_id(PROVIDER, deployed.prefix)
        )
        stored, first, second = 0, None, None
        for number, phase in enumerate(PHASES[mode], 1):
            # What moves then needs what was seen in the phases before.
            end = len(sendings) * number // len(PHASES[mode])
            storing = threading.Thread(target=store, args=(deployed, sendings, stored, end))
            storing.start()
            if phase in {"first", "another"}:
                first = start(0)
            elif phase == "a second":
                second = start(1)  # half of the partitions move
            elif phase == "the first stops":
                assert first.stop() == 0  # and all move to the second
            elif phase == "the second stops":
                assert second.stop() == 0
            elif phase == "kill":
                first.kill()
                first = start(0)
            else:
                second.kill()
            storing.join()
            stored = end
            until(lambda end=end: committed(deployed, group) >= end, f"{phase}: committed", 900)
        group.close()
        assert first.stop() == 0
        found = written(deployed)
        assert len(found) == DELIVERIES
        assert [count for count in found.values() if count != 1] == []
        proof = audit(deployed)
        print(proof.stdout)
        assert proof.returncode == 0, proof.stdout + proof.stderr
