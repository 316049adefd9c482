"""What the publisher owes: what is acknowledged is in Kafka, and what is not is a 503 in time."""

import asyncio
import io
import itertools
import json
import sys
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import structlog
import uvloop
from confluent_kafka import Consumer, KafkaException, TopicPartition

from deploy.kafka import temporary_kafka
from gateway.headers import Headers
from gateway.metrics import PRODUCE_FAILURES, GatewayMetrics
from gateway.process import start_logging
from gateway.providers import PROVIDERS
from gateway.publish import Publisher
from gateway.receive import Endpoint, receive
from gateway.rejections import (
    KAFKA_QUEUE_FULL,
    KAFKA_REFUSED,
    KAFKA_TIMEOUT,
    OVERLOADED,
    Rejection,
)
from gateway.signatures import Key

NOWHERE = "127.0.0.1:1"
PATIENCE = 60.0
SECRET = Key(id="default", value=b"the secret of these tests")


def delivery_of(body, provider="veriff", **headers):
    """Make a Delivery as the gateway does: by receiving it."""
    registered = PROVIDERS[provider]
    scheme = registered.scheme([SECRET], {})
    endpoint = Endpoint(name=provider, provider=registered, scheme=scheme, environment="sandbox")
    proof = scheme.sign(body, 0.0)
    others = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = Headers([*proof.headers.items(), *others.items()])
    return receive(endpoint, sent, proof.body, 1_700_000_000.0, "0123456789abcdef")


class Publishing:
    """A publisher on a loop in a thread of its own, as a gateway process has it."""

    def __init__(self, bootstrap, prefix="", deadline=3.0, max_in_flight=4096, **config):
        self.metrics = GatewayMetrics("0", "0")
        self.arguments = {
            "config": {
                "bootstrap.servers": bootstrap,
                "reconnect.backoff.max.ms": "500",
                **{key.replace("_", "."): value for key, value in config.items()},
            },
            "metrics": self.metrics,
            "topic_prefix": prefix,
            "deadline": deadline,
            "linger_ms": 1,
            "max_in_flight": max_in_flight,
        }
        self.started = threading.Event()
        self.thread = threading.Thread(target=lambda: uvloop.run(self._main()), daemon=True)

    async def _main(self):
        self.loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        try:
            self.publisher = Publisher(**self.arguments)
        finally:
            self.started.set()
        await self.stop.wait()
        await self.publisher.close()

    def __enter__(self):
        self.thread.start()
        assert self.started.wait(PATIENCE)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    async def outcome(self, delivery):
        """Publish and give None, or the reason of the refusal."""
        try:
            await self.publisher.publish(delivery)
        except Rejection as rejection:
            return rejection.reason
        return None

    def publish(self, *deliveries):
        """Publish all at once and give each outcome."""

        async def all_of_them():
            return await asyncio.gather(*map(self.outcome, deliveries))

        return self.run(all_of_them())

    def errors(self):
        """Give the counted failures by their label."""
        return {
            sample.labels["reason"]: sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "verihook_produce_errors_total" and sample.value
        }

    def value(self, name):
        """The sum of a metric's samples over all topics."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name
        )


def watermarks(consumer, partition):
    """Ask for the ends of a partition; right after its topic was made its leader may not know."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return consumer.get_watermark_offsets(partition, timeout=PATIENCE)
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def records(bootstrap, topic):
    """Read everything a topic holds."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "reader-of-the-tests",
            "enable.auto.commit": False,
            "enable.partition.eof": False,
            "auto.offset.reset": "earliest",
            "fetch.message.max.bytes": 4_000_000,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=PATIENCE).topics[topic].partitions
        left = 0
        for number in partitions:
            low, high = watermarks(consumer, TopicPartition(topic, number))
            left += high - low
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found = []
        deadline = time.monotonic() + PATIENCE
        while len(found) < left:
            assert time.monotonic() < deadline, f"{len(found)} of {left} records came"
            for message in consumer.consume(1000, timeout=0.5):
                assert message.error() is None
                found.append(message)
        return found
    finally:
        consumer.close()


def test_the_record_is_the_delivery(kafka, topics):
    """Key, bytes and headers of the record are those of the Delivery, whatever the bytes."""
    deployment = topics()
    bodies = [b'{"id":"s-1"}', b"", b"\0\xff\r\n" * 100, '{"id":"жук"}'.encode(), b" " * 50_000]
    deliveries = [
        delivery_of(body, provider, content_type="application/json", x_auth_client="client")
        for body in bodies
        for provider in ("pawapass", "veriff")
    ]
    with Publishing(kafka.bootstrap, deployment.prefix) as publishing:
        assert set(publishing.publish(*deliveries)) == {None}
        assert publishing.value("verihook_produce_total") == len(deliveries)
        for provider in ("pawapass", "veriff"):
            labels = {"topic": f"{deployment.prefix}raw.{provider}"}
            of_topic = publishing.metrics.registry.get_sample_value
            assert of_topic("verihook_produce_total", labels) == len(bodies)
            assert of_topic("verihook_produce_ack_seconds_count", labels) == len(bodies)
        assert publishing.value("verihook_produce_ack_seconds_count") == len(deliveries)
        assert publishing.errors() == {}
        assert publishing.publisher.in_flight == 0
    for provider in ("pawapass", "veriff"):
        written = {
            message.value() or b"": message
            for message in records(kafka.bootstrap, f"{deployment.prefix}raw.{provider}")
        }
        mine = [one for one in deliveries if one.provenance.provider == provider]
        assert len(written) == len(mine)
        for delivery in mine:
            message = written[delivery.body]
            assert message.key() == delivery.key
            assert message.headers() == delivery.headers


# Known answers of the Java client's murmur2.
MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


def test_records_stand_where_a_java_client_would_put_them(kafka, topics):
    """One process, one partition, the same as Flink or a Java producer computes."""
    deployment = topics(**{"raw.partitions": 12})
    deliveries = [delivery_of(b'{"id":"%s"}' % key.encode()) for key in MURMUR2 for _ in range(2)]
    with Publishing(kafka.bootstrap, deployment.prefix) as publishing:
        assert set(publishing.publish(*deliveries)) == {None}
    written = records(kafka.bootstrap, f"{deployment.prefix}raw.veriff")
    places = {(message.key().decode(), message.partition()) for message in written}
    assert places == {(key, (value & 0x7FFFFFFF) % 12) for key, value in MURMUR2.items()}


def test_order_per_process_is_the_order_of_arrival(kafka, topics):
    """Deliveries published one after the other stand in that order, without waiting in between."""
    deployment = topics()
    bodies = [b'{"id":"one","n":%d}' % number for number in range(300)]
    with Publishing(kafka.bootstrap, deployment.prefix) as publishing:
        assert set(publishing.publish(*map(delivery_of, bodies))) == {None}
    written = records(kafka.bootstrap, f"{deployment.prefix}raw.veriff")
    assert [message.value() for message in written] == bodies


def test_the_largest_delivery_is_stored(kafka, topics):
    """A body of exactly the limit that does not compress, with the largest kept headers."""
    deployment = topics()
    largest = bytes((n * n * 31 + n // 7) % 256 for n in range(900 * 1024))
    delivery = delivery_of(
        largest, content_type="c" * 4096, x_auth_client="a" * 4096, vrf_integration_id="v" * 4096
    )
    with Publishing(kafka.bootstrap, deployment.prefix, compression_type="none") as publishing:
        assert publishing.publish(delivery) == [None]
    (message,) = records(kafka.bootstrap, f"{deployment.prefix}raw.veriff")
    assert message.value() == largest
    assert message.headers() == delivery.headers


@pytest.mark.parametrize("size", [1_100_000, 2_500_000])
def test_what_is_too_large_for_kafka_is_503(kafka, topics, size):
    """Refused by the broker or already by the producer; the next delivery is stored."""
    deployment = topics()
    too_large = delivery_of(bytes(n * n % 251 for n in range(size)))
    with Publishing(kafka.bootstrap, deployment.prefix, compression_type="none") as publishing:
        assert publishing.publish(too_large) == [KAFKA_REFUSED]
        assert publishing.errors() == {"too_large": 1}
        assert publishing.publish(delivery_of(b'{"id":"next"}')) == [None]
    written = records(kafka.bootstrap, f"{deployment.prefix}raw.veriff")
    assert [message.value() for message in written] == [b'{"id":"next"}']


def test_an_unknown_topic_is_503(kafka):
    """A topic that was deleted is never acknowledged, and the refusal comes by the deadline."""
    with Publishing(kafka.bootstrap, "there-is-no-such.", deadline=2.0) as publishing:
        (reason,) = publishing.publish(delivery_of(b"{}"))
        assert reason in {KAFKA_TIMEOUT, KAFKA_REFUSED}
        assert reason.status == 503
        assert sum(publishing.errors().values()) == 1
        assert publishing.publisher.in_flight == 0


def test_without_kafka_every_delivery_is_503_by_the_deadline():
    """Nothing answers at the address: all are refused, counted, and none is left."""
    with Publishing(NOWHERE, deadline=1.5) as publishing:
        reasons = publishing.publish(*(delivery_of(b"%d" % number) for number in range(50)))
        assert set(reasons) == {KAFKA_TIMEOUT}
        assert publishing.errors() == {"timeout": 50}
        assert publishing.publisher.in_flight == 0


class Silent:
    """A producer that takes everything and never reports, until it is told to."""

    def __init__(self):
        self.reports = []

    def produce(self, *_, on_delivery, **__):
        self.reports.append(on_delivery)

    def poll(self, _seconds):
        return 0

    def __len__(self):
        return len(self.reports)


def test_the_deadline_is_ours_even_if_the_producer_never_reports():
    """Each delivery is refused at its deadline; a report that comes later changes nothing."""
    with Publishing(NOWHERE, deadline=0.3) as publishing:
        publishing.publisher._producer = silent = Silent()
        assert publishing.publish(delivery_of(b"1"), delivery_of(b"2")) == [KAFKA_TIMEOUT] * 2
        assert publishing.publisher.in_flight == 0
        for report in silent.reports:
            publishing.loop.call_soon_threadsafe(report, None, None)
        assert publishing.publish(delivery_of(b"3")) == [KAFKA_TIMEOUT]
        assert publishing.publisher.in_flight == 0
        assert publishing.errors() == {"timeout": 3}


def test_too_many_in_flight_are_refused_at_once():
    """The budget refuses before the producer is asked, and is free again afterwards."""
    with Publishing(NOWHERE, deadline=1.5, max_in_flight=2) as publishing:

        async def three():
            first = [publishing.publisher.publish(delivery_of(b"%d" % n)) for n in range(2)]
            assert publishing.publisher.in_flight == 2
            with pytest.raises(Rejection) as caught:
                publishing.publisher.publish(delivery_of(b"3"))
            assert caught.value.reason is OVERLOADED
            return await asyncio.gather(*first, return_exceptions=True)

        ended = publishing.run(three())
        assert [error.reason for error in ended] == [KAFKA_TIMEOUT, KAFKA_TIMEOUT]
        assert publishing.value("verihook_produce_total") == 2
        assert publishing.publish(delivery_of(b"4")) == [KAFKA_TIMEOUT]


def test_a_full_queue_is_503():
    """When the producer's own memory is full it is said at once."""
    config = {"queue_buffering_max_kbytes": "1024"}
    with Publishing(NOWHERE, deadline=1.5, **config) as publishing:
        reasons = publishing.publish(*(delivery_of(b"x" * 700_000) for _ in range(4)))
        assert KAFKA_QUEUE_FULL in reasons
        assert set(reasons) <= {KAFKA_QUEUE_FULL, KAFKA_TIMEOUT}
        assert publishing.errors()["queue_full"] == reasons.count(KAFKA_QUEUE_FULL)
        assert publishing.publisher.in_flight == 0


def test_topics_are_counted_before_their_first_delivery():
    """A counter born with its first value is invisible to rate()."""
    with Publishing(NOWHERE, "p.", max_in_flight=7) as publishing:
        publishing.loop.call_soon_threadsafe(publishing.publisher.expect, ["veriff", "treezor"])

        async def names():
            return {
                (sample.name, sample.labels["topic"], sample.labels.get("reason"))
                for family in publishing.metrics.registry.collect()
                for sample in family.samples
                if "topic" in sample.labels
            }

        found = publishing.run(names())
        for topic in ("p.raw.veriff", "p.raw.treezor"):
            assert ("verihook_produce_total", topic, None) in found
            assert ("verihook_produce_ack_seconds_count", topic, None) in found
            for reason in PRODUCE_FAILURES:
                assert ("verihook_produce_errors_total", topic, reason) in found
        assert publishing.value("verihook_produce_queue_limit_records") == 7


def test_the_producer_reports_of_itself(kafka, topics):
    """Its statistics are metrics with client="producer", also without a delivery."""
    with Publishing(kafka.bootstrap, topics().prefix) as publishing:
        deadline = time.monotonic() + PATIENCE
        while not publishing.value("verihook_kafka_brokers_up"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        value = publishing.metrics.registry.get_sample_value
        labels = {"client": "producer"}
        assert value("verihook_kafka_queue_limit_records", labels) == 100_000
        assert value("verihook_kafka_queue_records", labels) == 0


@pytest.fixture
def written(monkeypatch):
    """The log, in its production form; give how to begin it at a level."""
    kept = io.StringIO()

    def begin(level):
        monkeypatch.setattr(sys, "stderr", kept)
        start_logging(level)
        monkeypatch.setattr("gateway.publish.log", structlog.get_logger())
        return kept

    yield begin
    structlog.reset_defaults()


def lines_of(kept, event):
    lines = [json.loads(line) for line in kept.getvalue().splitlines()]
    return [line for line in lines if line["event"] == event]


def test_at_debug_a_stored_delivery_is_one_line(kafka, topics, written):
    """It leads from the delivery id to the record, and holds nothing of the body."""
    kept = written("debug")
    deployment = topics()
    deliveries = [delivery_of(b'{"id":"%d","person":"Telltale"}' % n) for n in range(3)]
    with Publishing(kafka.bootstrap, deployment.prefix) as publishing:
        assert publishing.publish(*deliveries) == [None] * 3
    topic = f"{deployment.prefix}raw.veriff"
    places = {
        (line["topic"], line["partition"], line["offset"]) for line in lines_of(kept, "stored")
    }
    held = {(topic, one.partition(), one.offset()) for one in records(kafka.bootstrap, topic)}
    assert places == held
    assert len(lines_of(kept, "stored")) == 3
    for line in lines_of(kept, "stored"):
        assert line["delivery_id"] == deliveries[0].provenance.delivery_id
        assert line["endpoint"] == "veriff"
    assert "Telltale" not in kept.getvalue()


def test_above_debug_a_stored_delivery_is_no_line(kafka, topics, written):
    """A log of every delivery is for a search; else the metrics count."""
    kept = written("info")
    with Publishing(kafka.bootstrap, topics().prefix) as publishing:
        assert publishing.publish(delivery_of(b"{}")) == [None]
        assert not publishing.publisher._tells
    assert lines_of(kept, "stored") == []


def test_what_librdkafka_repeats_is_counted(written):
    """One line a kind and interval, with how many were held back, for errors and replacements."""
    kept = written("info")
    with Publishing(NOWHERE) as publishing:
        now = publishing.loop.time()

        async def often():
            for number in range(50):
                publishing.publisher._on_error(fatal_error())
                publishing.publisher._replace()
                publishing.publisher._loop = SimpleNamespace(time=lambda n=number: now + n)

        publishing.run(often())
        publishing.publisher._loop = publishing.loop
    for event in ("kafka", "producer_replaced"):
        lines = [line for line in lines_of(kept, event) if line.get("error", "_FATAL") == "_FATAL"]
        assert 3 <= len(lines) <= 6
        assert 50 - 10 <= len(lines) + sum(line["held_back"] for line in lines) <= 50


def test_closing_waits_for_what_is_under_way(kafka, topics):
    """Whatever was handed over before the close has its answer after it."""
    deployment = topics()
    with Publishing(kafka.bootstrap, deployment.prefix) as publishing:

        async def close_at_once():
            futures = [publishing.publisher.publish(delivery_of(b"%d" % n)) for n in range(100)]
            assert await publishing.publisher.close() == 0
            return [future.done() and future.exception() is None for future in futures]

        assert publishing.run(close_at_once()) == [True] * 100
    assert len(records(kafka.bootstrap, f"{deployment.prefix}raw.veriff")) == 100


def fatal_error():
    return SimpleNamespace(fatal=lambda: True, name=lambda: "_FATAL", str=lambda: "said so")


def test_a_producer_that_can_go_on_no_more_is_replaced(kafka, topics):
    """After a fatal error what waited is refused, and the next delivery is stored by a new one."""
    deployment = topics()
    with Publishing(NOWHERE, deployment.prefix, deadline=5.0) as publishing:

        async def waiting_when_it_breaks():
            future = publishing.publisher.publish(delivery_of(b"before"))
            publishing.publisher._config["bootstrap.servers"] = kafka.bootstrap
            publishing.publisher._on_error(fatal_error())
            with pytest.raises(Rejection) as caught:
                await future
            assert caught.value.reason.status == 503

        publishing.run(waiting_when_it_breaks())
        assert publishing.publisher.in_flight == 0
        assert publishing.publish(delivery_of(b"after")) == [None]
    written = records(kafka.bootstrap, f"{deployment.prefix}raw.veriff")
    assert [message.value() for message in written] == [b"after"]


@pytest.mark.parametrize("deadline", [0.05, 0.5, 1.0, 5.0])
def test_kafkas_patience_is_not_longer_than_ours(deadline):
    """message.timeout.ms is at most the deadline: what was answered 503 is not sent much later."""
    with Publishing(NOWHERE, deadline=deadline) as publishing:
        config = publishing.publisher._config
        assert 0 < config["message.timeout.ms"] <= deadline * 1000


def test_what_carries_a_promise_is_set_by_us_alone():
    """Whatever the configuration says, these are the producer's settings."""
    theirs = {
        "acks": "0", "enable_idempotence": "false", "message_max_bytes": "1000",
        "message_timeout_ms": "300000", "partitioner": "random",
    }  # fmt: skip
    with Publishing(NOWHERE, **theirs) as publishing:
        config = publishing.publisher._config
        assert config["acks"] == "all"
        assert config["enable.idempotence"] is True
        assert config["partitioner"] == "murmur2_random"
        assert config["message.max.bytes"] == 2 * 1024 * 1024
        assert config["message.timeout.ms"] <= 3000


class Load:
    """Deliveries without end, each with a number of its own; remembers how each was answered."""

    def __init__(self, publishing):
        self.publishing = publishing
        self.stored, self.refused = set(), Counter()
        self.refused_numbers = set()
        self.numbers = itertools.count()
        self.going = True

    async def _one_after_another(self):
        while self.going:
            number = next(self.numbers)
            reason = await self.publishing.outcome(delivery_of(b'{"id":%d}' % number))
            if reason is None:
                self.stored.add(number)
            else:
                self.refused[reason.label] += 1
                self.refused_numbers.add(number)
                await asyncio.sleep(0.01)

    async def _main(self):
        await asyncio.gather(*(self._one_after_another() for _ in range(40)))

    def __enter__(self):
        self.ended = asyncio.run_coroutine_threadsafe(self._main(), self.publishing.loop)
        return self

    def __exit__(self, *_):
        self.going = False
        self.ended.result(PATIENCE)

    def until_stored(self, more):
        """Wait until that many more are stored."""
        wanted = len(self.stored) + more
        deadline = time.monotonic() + PATIENCE
        while len(self.stored) < wanted:
            assert time.monotonic() < deadline, f"only {len(self.stored)} of {wanted} were stored"
            assert not self.ended.done(), self.ended.result()
            time.sleep(0.01)

    def until_refused(self, more):
        wanted = self.refused.total() + more
        deadline = time.monotonic() + PATIENCE
        while self.refused.total() < wanted:
            assert time.monotonic() < deadline, f"only {self.refused.total()} were refused"
            time.sleep(0.01)


def test_nothing_acknowledged_is_missing_when_the_broker_dies_under_load(topics):
    """A broker killed, and one stopped in order, in the middle of load: counted on both sides."""
    with temporary_kafka() as own:
        deployment = topics(bootstrap=own.bootstrap)
        with Publishing(own.bootstrap, deployment.prefix, deadline=2.0) as publishing:
            with Load(publishing) as load:
                load.until_stored(500)
                own.kill()
                load.until_refused(80)
                own.start()
                load.until_stored(500)
                own.stop()
                load.until_refused(80)
                own.start()
                load.until_stored(500)
            assert publishing.publisher.in_flight == 0
            assert sum(publishing.errors().values()) == load.refused.total()
            assert set(load.refused) <= {KAFKA_TIMEOUT.label, KAFKA_REFUSED.label}
        topic = f"{deployment.prefix}raw.veriff"
        held = Counter(int(message.key()) for message in records(own.bootstrap, topic))
    assert load.stored <= set(held)
    assert set(held) <= load.stored | load.refused_numbers
    assert set(held.values()) == {1}
