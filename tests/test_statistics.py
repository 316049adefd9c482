"""librdkafka's statistics: a real client's report becomes metrics, and no text breaks a page."""

import json

import pytest
from confluent_kafka import Consumer, Producer
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from gateway.delivery import raw_topic
from gateway.kafka import client_config
from gateway.process import ConfigurationError
from gateway.statistics import STATISTICS_SECONDS, ClientStatistics
from tests.deployment import until

REPORT = {
    "name": "rdkafka#producer-1",
    "type": "producer",
    "msg_cnt": 7,
    "msg_max": 100,
    "brokers": {
        "nowhere:9092/bootstrap": {
            "nodeid": -1, "source": "configured", "state": "UP", "txretries": 1,
        },
        "one:9092/1": {
            "nodeid": 1, "source": "learned", "state": "UP", "txretries": 2, "req_timeouts": 3,
            "txerrs": 4, "rxerrs": 5, "rtt": {"avg": 1500, "p99": 9000, "cnt": 2},
        },
        "two:9092/2": {
            "nodeid": 2, "source": "learned", "state": "DOWN", "rtt": {"avg": 0, "cnt": 0},
        },
        "GroupCoordinator": {"nodeid": 1, "source": "logical", "state": "UP", "txretries": 10},
    },
}  # fmt: skip


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def statistics(registry, clock):
    return ClientStatistics(registry, clock)


def values(registry):
    """Every sample, by name and labels."""
    return {
        (sample.name.removeprefix("verihook_kafka_"), *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_a_report_becomes_metrics(statistics, registry):
    """Queue, limit, connections, round trips of the cluster's nodes, and what went wrong."""
    statistics.take("producer", json.dumps(REPORT))
    assert values(registry) == {
        ("queue_records", "producer"): 7,
        ("queue_limit_records", "producer"): 100,
        ("brokers_up", "producer"): 1,
        ("round_trip_seconds", "producer", "1"): 0.0015,
        ("round_trip_p99_seconds", "producer", "1"): 0.009,
        ("request_retries_total", "producer"): 13,
        ("request_timeouts_total", "producer"): 3,
        ("request_errors_total", "producer"): 9,
    }


def test_a_consumer_has_rebalances_and_no_queue(statistics, registry):
    """Each kind of client says what it has; both stand on one page."""
    statistics.take("producer", json.dumps(REPORT))
    statistics.take("consumer", json.dumps({"cgrp": {"rebalance_cnt": 4}, "brokers": {}}))
    found = values(registry)
    assert found["rebalances_total", "consumer"] == 4
    assert ("queue_records", "consumer") not in found
    assert found["queue_records", "producer"] == 7
    assert found["brokers_up", "consumer"] == 0


def test_an_old_report_is_absent(statistics, registry, clock):
    """A client that no longer reports says nothing, and certainly not 0; a new report is heard."""
    statistics.take("producer", json.dumps(REPORT))
    clock.seconds += 3 * STATISTICS_SECONDS
    assert statistics.report("producer").up == 3
    clock.seconds += 0.1
    assert statistics.report("producer") is None
    assert values(registry) == {}
    statistics.take("producer", json.dumps(REPORT))
    assert values(registry)["brokers_up", "producer"] == 1


def test_a_broker_that_is_forgotten_takes_nothing_with_it(statistics, registry):
    """Counters never go down: Prometheus would count the rest of the sum once more."""

    def retries(**by_broker):
        brokers = {name: {"txretries": count} for name, count in by_broker.items()}
        statistics.take("producer", json.dumps({"brokers": brokers}))
        return values(registry)["request_retries_total", "producer"]

    assert retries(one=1000, two=5) == 1005
    assert retries(one=1000) == 1005
    assert retries(one=1001, two=0) == 1006
    assert retries(one=2) == 1008  # a new client
    assert retries() == 1008


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "garbage", "null", "[]", "1", '"telltale"', "[" * 100_000, "\ud800", "\0",
        '{"brokers": ' + '{"a":' * 50_000, '{"msg_cnt": "telltale"}', '{"msg_cnt": null}',
        '{"brokers": []}', '{"brokers": {"telltale": 1}}', '{"cgrp": "telltale"}',
        '{"brokers": {"a": {"rtt": []}}}', '{"brokers": {"a": {"state": 7}}}',
        '{"msg_cnt": 1e400}', '{"msg_cnt": 1' + "0" * 400 + "}", '{"msg_cnt": 1.5}',
        '{"brokers":{"a":{"nodeid":1,"source":"learned","rtt":{"cnt":1,"avg":1' + "0" * 400 + "}}}}",
        None, 7, b"\xff", b"", object(), {},
    ],
    # of an object the address, which differs from runner to runner
    ids=lambda text: (type(text).__name__ if type(text) is object else repr(text))[:30],
)  # fmt: skip
def test_what_cannot_be_read_is_no_report(statistics, registry, capfd, text):
    """Never an error within the client's poll, never a word of it on a page, and the last stays."""
    statistics.take("producer", json.dumps(REPORT))
    before = values(registry)
    statistics.take("producer", text)
    statistics.take("other", text)
    assert values(registry) == before
    assert capfd.readouterr() == ("", "")


_WORDS = st.sampled_from(
    ["msg_cnt", "msg_max", "brokers", "cgrp", "nodeid", "source", "learned", "state", "UP", "rtt",
     "avg", "p99", "cnt", "txretries", "req_timeouts", "txerrs", "rxerrs", "rebalance_cnt"]
)  # fmt: skip
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | _WORDS,
    lambda inner: st.lists(inner) | st.dictionaries(_WORDS | st.text(), inner),
)
_INTEGERS = st.integers() | st.just(1)
_BROKERS = st.dictionaries(
    st.text(),
    st.fixed_dictionaries(
        {},
        optional={
            "nodeid": _INTEGERS,
            "source": st.sampled_from(["learned", "internal", ""]),
            "state": st.sampled_from(["UP", "DOWN", ""]),
            "txretries": _INTEGERS,
            "rtt": st.fixed_dictionaries(
                {}, optional={"avg": _INTEGERS, "p99": _INTEGERS, "cnt": _INTEGERS}
            ),
        },
    ),
)
_LIKELY = st.fixed_dictionaries({}, optional={"msg_cnt": _INTEGERS, "brokers": _BROKERS})


@given(_ANYTHING | _LIKELY)
def test_whatever_is_reported_the_page_can_be_written(report):
    """Any JSON, likely or not: taking it and writing the page raise nothing, no series stands twice."""
    registry = CollectorRegistry()
    statistics = ClientStatistics(registry)
    statistics.take("producer", json.dumps(report))
    lines = [line for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]
    names = [line.rpartition(" ")[0] for line in lines]
    assert len(names) == len(set(names))


def test_a_node_that_is_told_twice_is_one_series(statistics, registry):
    """A page with one series twice is refused by Prometheus, whole."""
    node = REPORT["brokers"]["one:9092/1"]
    report = {"brokers": {"one:9092/1": node, "moved:9092/1": node}}
    statistics.take("producer", json.dumps(report))
    page = generate_latest(registry).decode()
    assert page.count('verihook_kafka_round_trip_seconds{broker="1",client="producer"}') == 1


@pytest.mark.parametrize("text", ["1000", "0"])
def test_the_interval_is_ours(text):
    """Set otherwise, readiness and metrics would tell of a time long ago, or of nothing."""
    environ = {"KAFKA_BOOTSTRAP_SERVERS": "a:1", "KAFKA_STATISTICS_INTERVAL_MS": text}
    with pytest.raises(ConfigurationError, match="KAFKA_STATISTICS_INTERVAL_MS cannot be set"):
        client_config(environ)


def test_the_settings_are_what_librdkafka_takes(statistics):
    """They make a client report often enough that a report is never old while it lives."""
    settings = statistics.settings("producer")
    assert settings["statistics.interval.ms"] == STATISTICS_SECONDS * 1000
    Producer({**settings, "bootstrap.servers": "", "log_level": "0"})


@pytest.mark.kafka
def test_real_clients_report(kafka, topics, registry, statistics, monkeypatch):
    """A producer and a consumer of the real library, connected to the real Kafka."""
    monkeypatch.setattr("gateway.statistics.STATISTICS_SECONDS", 0.2)
    topic = raw_topic("veriff", topics().prefix)
    common = {"bootstrap.servers": kafka.bootstrap}
    producer = Producer({**common, **statistics.settings("producer")})
    consumer = Consumer(
        {**common, **statistics.settings("consumer"), "group.id": f"{topic}.reader"}
    )
    producer.produce(topic, b"x")
    consumer.subscribe([topic])
    wanted = {
        ("brokers_up", "producer"), ("round_trip_seconds", "producer", "1"),
        ("queue_limit_records", "producer"), ("queue_records", "producer"),
        ("rebalances_total", "consumer"), ("brokers_up", "consumer"),
        ("request_errors_total", "consumer"), ("request_retries_total", "producer"),
    }  # fmt: skip

    def told():
        producer.poll(0.05)
        consumer.poll(0.05)
        found.update(values(registry))  # a round trip is told only while there are requests
        return wanted <= set(found) and found["rebalances_total", "consumer"] > 0

    found = {}
    try:
        until(told, "both clients report")
        assert found["brokers_up", "producer"] >= 1
        assert 0 < found["round_trip_seconds", "producer", "1"] < 60
        assert found["queue_limit_records", "producer"] == 100_000
    finally:
        consumer.close()
        producer.flush(10)
