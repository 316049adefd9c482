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

from consumers.broker import EndProbe, log_offsets
from consumers.lag import LagTracker
from consumers.offsets import answered
from consumers.seen import TopicSeen
from deploy.kafka import temporary_kafka
from gateway.delivery import raw_topic
from gateway.process import ConfigurationError
from gateway.ranges import find_ranges
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
    monkeypatch.setattr("consumers.offsets.LOOKUP_SECONDS", 1.0)
    with frozen(kafka):
        assert log_offsets(admin, [(topic, 0)], which, 1.0) == {}
        assert answered(admin, [(topic, 0)], which) == {}


def test_a_range_is_not_made_of_silence(kafka, topic, monkeypatch):
    """A command that looks back says that it was not told, instead of finding nothing there."""
    config = {"bootstrap.servers": kafka.bootstrap}
    assert find_ranges(config, topic) == []
    monkeypatch.setattr("gateway.ranges._LOOKUP_SECONDS", 1.0)
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
