"""The whole pipeline as real processes on the real Kafka: what only Kafka can show."""

import json
import threading
import time

import msgspec
import pytest

from consumers.codec import decode
from consumers.identity import output_key
from consumers.normalizers import NORMALIZERS
from deploy.kafka import temporary_kafka
from gateway.providers import PROVIDERS
from gateway.send import fixture, fixtures
from tests.deployment import deployment, until

pytestmark = pytest.mark.kafka

# Facts of one run, not of the payload: coordinates and the time of receipt.
OF_THE_RUN = ("raw_topic", "raw_partition", "raw_offset", "received_at")


@pytest.fixture
def deployed(topics, tmp_path):
    """A deployment on the session's Kafka."""
    with deployment(topics(), tmp_path) as running:
        yield running


def said(event) -> str:
    """What an event says, without the facts of one run."""
    whole = dict(event) if isinstance(event, dict) else json.loads(msgspec.json.encode(event))
    if whole["occurred_at_source"] in {"received", "delivery"}:
        # Whether a time of sending can be believed depends on when the delivery came.
        del whole["occurred_at"], whole["occurred_at_source"]
    for name in OF_THE_RUN:
        del whole[name]
    return json.dumps(whole, sort_keys=True)


def numbered(count: int, start: int = 0):
    """Bodies of different deliveries about different processes."""
    body = json.loads(fixture("veriff", "decision-approved").body)
    for number in range(start, start + count):
        body["verification"]["id"] = f"c0000000-0000-4000-8000-{number:012d}"
        yield json.dumps(body).encode()


def test_every_fixture_over_http_becomes_its_events(deployed):
    """All fixtures, signed afresh, through gateway, Kafka and consumers: exactly their events."""
    gateway = deployed.gateway()
    consumers = [deployed.consumer(name) for name in PROVIDERS]
    everything = fixtures()
    for found in everything:
        assert deployed.send_fixture(found).status == 200
    expected = sorted(
        said(event)
        for found in everything
        for event in json.loads((found.folder / "events.json").read_bytes())
    )
    messages = deployed.events(len(expected))
    events = [decode(message.value()) for message in messages]
    assert sorted(map(said, events)) == expected
    for message, event in zip(messages, events, strict=True):
        assert message.key() == output_key(event, NORMALIZERS[event.provider].KEYED_BY)
    for provider in PROVIDERS:
        stored = sorted(message.value() for message in deployed.raw(provider))
        sent = sorted(found.body for found in everything if found.provider == provider)
        if provider == "treezor":  # whose signature stands in the body
            assert len(stored) == len(sent)
        else:
            assert stored == sent
    for consumer in consumers:
        until(
            lambda consumer=consumer: (
                consumer.sum("verihook_consumer_lag_records") == 0
                and consumer.sum("verihook_assigned_partitions") > 0
            ),
            "every record committed",
        )
    assert gateway.sum("verihook_webhook_requests_total", 'result="stored"') == len(everything)
    assert [process.stop() for process in (gateway, *consumers)] == [0] * (1 + len(consumers))


def test_the_raw_record_carries_what_was_learned(deployed):
    """Key, headers and kept provider headers stand on the raw record; the body is untouched."""
    deployed.gateway()
    found = fixture("veriff", "decision-approved")
    deployed.send("veriff", found.body, found.headers)
    (message,) = deployed.raw("veriff", 1)
    headers = dict(message.headers())
    assert message.value() == found.body
    assert message.key().decode() == json.loads(found.body)["verification"]["id"]
    assert headers["verihook-endpoint"] == headers["verihook-provider"] == b"veriff"
    assert headers["verihook-authenticity"] == b"signed"
    assert headers["verihook-environment"] == b"sandbox"
    assert headers["verihook-content-type"] == b"application/json"
    assert abs(int(headers["verihook-received-at"]) / 1000 - time.time()) < 3600
    assert len(headers["http-x-hmac-signature"]) == 64


def test_killing_the_consumer_in_mid_stream_loses_nothing(deployed):
    """Kill -9 five times while deliveries come: every delivery's event is there in the end."""
    deployed.gateway()
    total, kills = 3000, 5
    short = {"KAFKA_SESSION_TIMEOUT_MS": "1500", "KAFKA_HEARTBEAT_INTERVAL_MS": "300"}
    consumer = deployed.consumer("veriff", **short)
    refused = []

    def deliver():
        for body in numbered(total):
            answer = deployed.send("veriff", body)
            if answer.status != 200:
                refused.append(answer)

    sender = threading.Thread(target=deliver)
    sender.start()
    for number in range(1, kills + 1):
        enough = number * total // (2 * kills)
        until(lambda enough=enough: len(deployed.events()) >= enough, "events go on")
        assert sender.is_alive(), "the kill is in mid-stream"
        consumer.kill()
        consumer = deployed.consumer("veriff", **short)
    sender.join()
    assert not refused
    wanted = {f"c0000000-0000-4000-8000-{number:012d}" for number in range(total)}
    by_process = {}

    def complete():
        for message in deployed.events():
            event = decode(message.value())
            coordinates = (event.event_id, event.raw_partition, event.raw_offset)
            by_process.setdefault(event.process_ref, set()).add(coordinates)
        return set(by_process) >= wanted

    until(complete, "an event of every delivery")
    assert set(by_process) == wanted
    # What was done twice is the same event of the same raw record, so readers merge it.
    assert all(len(found) == 1 for found in by_process.values())


def test_a_rebalance_between_two_consumers_loses_nothing(deployed):
    """A second consumer joins and leaves while deliveries come; both have worked."""
    deployed.gateway()
    first = deployed.consumer("veriff")
    for body in numbered(300):
        assert deployed.send("veriff", body).status == 200
    second = deployed.consumer("veriff")
    until(lambda: second.sum("verihook_assigned_partitions") > 0, "the second has partitions")
    for body in numbered(300, start=300):
        assert deployed.send("veriff", body).status == 200
    until(lambda: second.sum("verihook_records_consumed_total") > 0, "the second has worked")
    assert second.stop() == 0
    for body in numbered(100, start=600):
        assert deployed.send("veriff", body).status == 200
    deployed.events(700)  # a lag of 0 may be five seconds old: what came is what tells
    until(
        lambda: first.sum("verihook_assigned_partitions") == len(deployed_partitions(deployed)),
        "the first has every partition again",
    )
    events = [decode(message.value()) for message in deployed.events()]
    assert len({event.process_ref for event in events}) == 700
    assert len(events) == 700, "a clean hand-over redoes nothing"


def deployed_partitions(deployed):
    """The raw topic's partitions."""
    from confluent_kafka.admin import AdminClient

    topic = f"{deployed.prefix}raw.veriff"
    admin = AdminClient({"bootstrap.servers": deployed.bootstrap})
    return admin.list_topics(topic, timeout=30).topics[topic].partitions


def test_poison_between_good_records_is_set_aside(deployed):
    """What cannot be read goes to the dead letters whole, and the good around it go on."""
    deployed.gateway()
    consumer = deployed.consumer("veriff")
    good = list(numbered(40))
    largest = b"[" + b" " * (900 * 1024 - 1)
    poison = [
        b"", b"{", b"null", b"\xff\xfe", b'{"verification": 5}', b'{"action": [1]}',
        b'{"eventType": "tomorrow"}', b"[" * 50_000, b'{"a":' * 50_000, largest,
    ]  # fmt: skip
    for index, body in enumerate(good):
        assert deployed.send("veriff", body).status == 200
        if index % 4 == 0:
            bad = poison[index // 4]
            kept = {"vrf-integration-id": "x" * 4000} if bad is largest else None
            assert deployed.send("veriff", bad, kept).status == 200
    assert len(deployed.events(len(good))) == len(good)
    letters = deployed.read(f"{deployed.prefix}dlq.veriff", len(poison))
    assert sorted(message.value() or b"" for message in letters) == sorted(poison)
    for message in letters:
        headers = dict(message.headers())
        assert headers["verihook-error-kind"] in {
            b"invalid_json", b"schema_mismatch", b"unknown_type",
        }  # fmt: skip
        assert headers["verihook-source-topic"].decode() == f"{deployed.prefix}raw.veriff"
        assert "http-x-hmac-signature" in headers
    until(lambda: consumer.sum("verihook_dead_letters_total") == len(poison), "counted")
    assert consumer.sum("verihook_dead_letters_total", 'reason="bug"') == 0
    until(lambda: consumer.sum("verihook_consumer_lag_records") == 0, "committed past the poison")


def test_lag_tells_how_late_a_stopped_group_is(deployed):
    """With nothing to do the lag is 0 seconds; partitions that are not ours are absent."""
    deployed.gateway()
    consumer = deployed.consumer("veriff")
    for body in numbered(20):
        deployed.send("veriff", body)

    def settled():
        found = consumer.metrics()
        seconds = [v for k, v in found.items() if k.startswith("verihook_consumer_lag_seconds")]
        return seconds and not any(seconds)

    until(settled, "lag is 0 everywhere")
    assert consumer.sum("verihook_consumer_last_commit_timestamp_seconds") > 0
    labels = [key for key in consumer.metrics() if key.startswith("verihook_consumer_lag_seconds")]
    assert all(f'group="{deployed.prefix}normalize.veriff"' in key for key in labels)


def test_a_stopped_broker_delays_and_loses_nothing(topics, tmp_path):
    """Broker down: 503 with Retry-After, the processes live on, and all goes on by itself."""
    with (
        temporary_kafka() as broker,
        deployment(topics(bootstrap=broker.bootstrap), tmp_path) as deployed,
    ):
        gateway = deployed.gateway(GATEWAY_DEADLINE="2")
        consumer = deployed.consumer("veriff")
        bodies = list(numbered(60))
        for body in bodies[:30]:
            assert deployed.send("veriff", body).status == 200
        broker.stop()
        answer = deployed.send("veriff", bodies[30])
        assert (answer.status, answer.retry_after) == (503, 5)
        assert gateway.popen.poll() is None
        assert consumer.popen.poll() is None
        broker.start()
        until(lambda: deployed.send("veriff", bodies[30]).status == 200, "stored again")
        for body in bodies[31:]:
            until(lambda body=body: deployed.send("veriff", body).status == 200, "stored again")
        found = set()

        def complete():
            found.update(decode(m.value()).process_ref for m in deployed.events())
            return len(found) == len(bodies)

        until(complete, "every event is there")
        assert gateway.sum("verihook_webhook_requests_total", 'result="unavailable"') >= 1
        assert gateway.stop() == 0
        assert consumer.stop() == 0


def test_a_consumer_halts_with_a_sentence_where_a_person_must_act(deployed):
    """A topic that does not exist is one sentence and an exit code, not a loop of stack traces."""
    deployed.prefix = "never-created."
    consumer = deployed.consumer("veriff", ready=False)
    assert consumer.popen.wait(60) == 2
    said_last = consumer.log.read_text().splitlines()[-1]
    assert "does not exist" in said_last
    assert "python -m deploy topics apply" in said_last
    assert "Traceback" not in consumer.log.read_text()


def test_keys_are_demanded(deployed):
    """Without its keys a consumer refuses to start and says which variable is missing."""
    consumer = deployed.consumer("veriff", ready=False, EVENT_KEY="")
    assert consumer.popen.wait(60) == 2
    assert "EVENT_KEY" in consumer.log.read_text()
