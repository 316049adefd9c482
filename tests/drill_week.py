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
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from consumers.codec import decode
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


def store(deployed, sendings) -> None:
    """Put every sending on the raw topic as the gateway would have at its time."""
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
    for index, (at, number) in enumerate(sendings):
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


def committed(deployed, admin) -> int:
    """How many raw records are committed."""
    topic = raw_topic(PROVIDER, deployed.prefix)
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    group = ConsumerGroupTopicPartitions(group_id(PROVIDER, deployed.prefix), partitions)
    (answer,) = admin.list_consumer_group_offsets([group], request_timeout=5).values()
    try:
        return sum(max(0, found.offset) for found in answer.result().topic_partitions)
    except KafkaException:  # asked again
        return 0


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


@pytest.mark.parametrize("mode", ["at-least-once", "exactly-once"])
def test_a_week_of_retries_gives_each_event_once(topics, tmp_path, mode):
    """Restarts, a partition move and (exactly once) kill -9: each event stands there once."""
    sendings = history(DELIVERIES, seed=len(mode))
    exactly_once = mode == "exactly-once"
    made = topics(**{"raw.partitions": PARTITIONS})
    with deployment(made, tmp_path) as deployed:
        storing = threading.Thread(target=store, args=(deployed, sendings))
        storing.start()
        state = {"CONSUMER_STATE_DIR": str(tmp_path / "state"), **SHORT_SESSION}

        def start(slot: int):
            how = ["--delivery", mode, *(["--slot", str(slot)] if exactly_once else [])]
            return deployed.consumer(PROVIDER, *how, **state)

        first = start(0)
        admin = AdminClient({"bootstrap.servers": deployed.bootstrap})

        def reached(share: float):
            return committed(deployed, admin) >= len(sendings) * share

        until(lambda: reached(0.1), "a tenth is done", 600)
        second = start(1)  # half of the partitions move
        until(lambda: reached(0.3), "three tenths are done", 600)
        assert first.stop() == 0  # and all to the second, with another process's memory
        until(lambda: reached(0.5), "half is done", 600)
        first = start(0)
        until(lambda: reached(0.6), "six tenths are done", 600)
        if exactly_once:
            first.kill()
            first = start(0)
            until(lambda: reached(0.75), "three quarters are done", 600)
            second.kill()
        else:
            assert second.stop() == 0
        until(lambda: reached(1.0), "everything is committed", 900)
        assert first.stop() == 0
        found = written(deployed)
        assert len(found) == DELIVERIES
        assert [count for count in found.values() if count != 1] == []
        proof = audit(deployed)
        print(proof.stdout)
        assert proof.returncode == 0, proof.stdout + proof.stderr
