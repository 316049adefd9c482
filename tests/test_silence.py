"""A broker that says nothing: nothing may be taken for its answer.

Frozen, not stopped: its connections stand, as with a broker that hangs or a network that swallows.
"""

import os
import signal
import time
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from confluent_kafka import OFFSET_INVALID
from confluent_kafka.admin import AdminClient, OffsetSpec

from consumers.broker import EndProbe
from consumers.lag import LagTracker
from consumers.outside import Outside
from consumers.seen import TopicSeen
from deploy.child import free_port
from deploy.kafka import Kafka, temporary_kafka
from gateway.delivery import raw_topic
from gateway.process import ConfigurationError
from gateway.ranges import answered, find_ranges, log_offsets, partitions_of
from tests.conftest import make_topics
from tests.deployment import until

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def kafka():
    """A broker that may be frozen without anybody else waiting for it."""
    with temporary_kafka() as running:
        yield running


@pytest.fixture(scope="module")
def topic(kafka):
    made = raw_topic("veriff", make_topics(kafka.bootstrap).prefix)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    assert answered(admin, [(made, 0)], OffsetSpec.latest()) == {(made, 0): 0}
    return made


@contextmanager
def frozen(kafka):
    threads = Path(f"/proc/{kafka.child.pid}/task")
    os.kill(kafka.child.pid, signal.SIGSTOP)
    try:
        until(lambda: all(map(_is_stopped, threads.iterdir())), "every thread is stopped")
        yield
    finally:
        os.kill(kafka.child.pid, signal.SIGCONT)


def _is_stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def test_the_lag_is_absent_and_never_0_while_the_broker_is_silent(kafka, topic):
    """A probe without an answer tells nothing: what was known grows old, and then it is absent."""
    lag = LagTracker()
    partition = (topic, 0)
    lag.assigned({partition: 0})
    now = [time.time()]
    probe = EndProbe({"bootstrap.servers": kafka.bootstrap}, lag, now=lambda: now[0])
    until(lambda: probe.ask() or lag.read(now[0])[partition].seconds == 0, "the probe knows")
    now[0] += 60
    with frozen(kafka):
        probe.ask()
        assert lag.read(now[0])[partition].seconds is None


@pytest.mark.parametrize("which", [OffsetSpec.earliest(), OffsetSpec.latest()])
def test_silence_is_no_offset(kafka, topic, which, monkeypatch):
    """Neither the loop's start nor the lag from outside rests on an offset that nobody told."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    assert answered(admin, [(topic, 0)], which) == {(topic, 0): 0}
    monkeypatch.setattr("gateway.ranges.LOOKUP_SECONDS", 1.0)
    with frozen(kafka):
        assert log_offsets(admin, [(topic, 0)], which, 1.0) == {}
        assert answered(admin, [(topic, 0)], which) == {}


def test_a_range_is_not_made_of_silence(kafka, topic, monkeypatch):
    """A command that looks back says that it was not told, instead of finding nothing there."""
    config = {"bootstrap.servers": kafka.bootstrap}
    assert find_ranges(config, topic) == []
    monkeypatch.setattr("gateway.ranges.LOOKUP_SECONDS", 1.0)
    monkeypatch.setattr("gateway.ranges.partitions_of", lambda *_: [0])
    with (
        frozen(kafka),
        pytest.raises(ConfigurationError, match="does not say where its log begins and ends"),
    ):
        find_ranges(config, topic)


def test_what_was_seen_does_not_end_where_nobody_answered():
    """An end that nobody told would make a memory complete that has not been read."""
    asked = Future()
    asked.set_result(SimpleNamespace(offset=OFFSET_INVALID))
    assert TopicSeen._answer(SimpleNamespace(), SimpleNamespace(), asked) is None


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """The address of a broker that asks for a password."""
    plain, controller, asking = (free_port() for _ in range(3))
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    listeners = f"PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{asking}"
    properties = {
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": listeners,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
        "SASL_PLAINTEXT:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{login} required user_a="right";',
    }
    with Kafka(tmp_path_factory.mktemp("kafka"), port=plain, properties=properties):
        yield f"127.0.0.1:{asking}"


@pytest.mark.parametrize("how", ["password", "tls", "host", "port"])
def test_a_refusal_is_told_from_silence(kafka, guarded, monkeypatch, how):
    """Who is not let in reads why, whichever command asked; the password is not repeated."""
    monkeypatch.setattr("gateway.ranges.LOOKUP_SECONDS", 1.0)
    password = {
        "security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN",
        "sasl.username": "a", "sasl.password": "a-wrong-one",
    }  # fmt: skip
    config, words = {
        "password": ({"bootstrap.servers": guarded, **password}, "SASL authentication"),
        "tls": (
            {"bootstrap.servers": kafka.bootstrap, "security.protocol": "ssl"},
            "SSL handshake failed",
        ),
        "host": ({"bootstrap.servers": "no-host.invalid:9092"}, "resolve"),
        "port": ({"bootstrap.servers": f"127.0.0.1:{free_port()}"}, ""),
    }[how]
    said = f"Kafka at {config['bootstrap.servers']} cannot be used: "
    said = said if words else f"Kafka does not answer at {config['bootstrap.servers']}"
    admin = AdminClient({"log_level": 0, **config})
    outside = Outside({"log_level": 0, **config})
    for ask in (lambda: partitions_of(admin, config, "raw.veriff"), lambda: outside.topics(1.0)):
        with pytest.raises(ConfigurationError) as refused:
            ask()
        assert str(refused.value).startswith(said)
        assert words in str(refused.value)
        assert "a-wrong-one" not in str(refused.value)
    outside.close()
