"""The exporter against hand-computed cases: what waits, for how long, and what nobody can know."""

import itertools
import json
import math
import os
import time
import urllib.request

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client.parser import text_string_to_metric_families as families

from consumers import passport
from consumers.committed import Committed
from consumers.exporter import FAILED_ROUNDS, Exporter, ExporterMetrics, load_settings
from consumers.outside import Look
from consumers.passport import Passport
from consumers.progress import Stand, replay_group
from deploy.child import free_port
from deploy.kafka import temporary_kafka
from gateway.delivery import dead_topic, group_id, raw_topic
from gateway.process import ConfigurationError, Readiness
from tests.deployment import Process, delete_records, until
from tests.test_silence import frozen

NOW = float(int(time.time()))
"""What the exporter takes for the present: ages are exact."""
_numbers = itertools.count(1)


def environ(bootstrap="127.0.0.1:1", **more):
    return {"KAFKA_BOOTSTRAP_SERVERS": bootstrap, "TOPIC_PREFIX": "nobody.", **more}


class Seen:
    """An exporter without its address: rounds are asked for, and read as a scrape reads them."""

    def __init__(self, settings):
        self.now, self.monotonic = NOW, 0.0
        self.readiness = Readiness("kafka")
        self.metrics = ExporterMetrics(
            settings.interval, clock=lambda: self.now, monotonic=lambda: self.monotonic
        )
        self.exporter = Exporter(settings, self.metrics, self.readiness)

    def round(self):
        return self.exporter.round()

    def samples(self):
        return {
            (one.name, *one.labels.values()): one.value
            for family in self.metrics.registry.collect()
            for one in family.samples
        }

    def of(self, name, *labels):
        return self.samples().get((f"verihook_{name}", *labels))


class Topic:
    """A topic of one partition and a group on it, both of this test alone."""

    def __init__(self, bootstrap, config=None):
        self.name = f"x{os.getpid()}-{next(_numbers)}"
        self.group = f"{self.name}.analyst"
        self.config = {"bootstrap.servers": bootstrap, "log_level": 0}
        self.admin = AdminClient(self.config)
        self.topic_config = config or {}
        self.create()
        self.committed = Committed(self.config, self.group)

    def create(self):
        new = NewTopic(self.name, 1, 1, config=self.topic_config)
        self.admin.create_topics([new])[self.name].result(30)
        until(lambda: self.admin.list_topics(self.name).topics[self.name].partitions, "made")

    def send(self, *ages, key=None):
        """Write a record for each age in seconds."""
        producer = Producer(self.config)
        for age in ages:
            producer.produce(self.name, b"x", key=key, timestamp=int((NOW - age) * 1000))
        assert producer.flush(30) == 0

    def commit(self, offset, text=""):
        self.committed.write({(self.name, 0): offset}, text)

    def transaction(self):
        """A producer with a transaction begun."""
        producer = Producer({**self.config, "transactional.id": f"{self.name}.{next(_numbers)}"})
        producer.init_transactions(30)
        producer.begin_transaction()
        return producer

    def produce(self, producer, *ages):
        for age in ages:
            producer.produce(self.name, b"x", timestamp=int((NOW - age) * 1000))
        assert producer.flush(30) == 0


@pytest.fixture
def topic(kafka):
    made = Topic(kafka.bootstrap)
    yield made
    made.committed.close()


@pytest.fixture
def see(kafka):
    """Start exporters that look at these groups."""
    started = []

    def start(*groups, **more):
        settings = load_settings(environ(kafka.bootstrap, **more), groups=groups)
        started.append(Seen(settings))
        return started[-1]

    yield start
    for one in started:
        one.exporter.outside.close()


def lag_of(seen, topic):
    """Records and seconds of a topic's one partition; None where absent."""
    return tuple(
        seen.of(name, topic.group, topic.name, "0")
        for name in ("group_lag_records", "group_lag_seconds")
    )


# -- without Kafka --


@pytest.mark.parametrize(
    ("more", "given", "words"),
    [
        ({"EXPORTER_INTERVAL": "soon"}, None, "EXPORTER_INTERVAL is 'soon'"),
        ({"EXPORTER_INTERVAL": "nan"}, None, "EXPORTER_INTERVAL is 'nan'"),
        ({"EXPORTER_INTERVAL": "0.5"}, None, "seconds from 1 to 3600"),
        ({}, 0.0, "--interval is '0.0'"),
        ({"EXPORTER_ADMIN_LISTEN": "here"}, None, "EXPORTER_ADMIN_LISTEN is 'here'"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_one_sentence(more, given, words):
    """It names what was set, and what it should be."""
    with pytest.raises(ConfigurationError, match=words):
        load_settings(environ(**more), interval=given)


def test_the_settings_have_defaults():
    """An exporter needs to know no more than where Kafka is."""
    settings = load_settings(environ())
    assert (str(settings.admin_listen), settings.interval) == ("127.0.0.1:9463", 15.0)
    assert load_settings(environ(EXPORTER_INTERVAL="30")).interval == 30
    assert load_settings(environ(EXPORTER_INTERVAL="30"), interval=5).interval == 5


def test_before_the_first_round_nothing_is_said_of_any_group():
    """Every family has its help, and none a sample: absent is not 0."""
    metrics = ExporterMetrics()
    found = list(metrics.registry.collect())
    assert all(one.documentation for one in found)
    ours = [one.name for one in found if one.samples and one.name.startswith("verihook_")]
    assert sorted(ours) == [
        "verihook_build_info", "verihook_export_last_round_timestamp_seconds",
        "verihook_export_round_seconds", "verihook_export_rounds",
    ]  # fmt: skip
    empty = Look(
        groups=(), members={}, standings=(), letters=(), retention={}, silent=frozenset(),
        unended=(), troubles=(),
    )  # fmt: skip
    assert metrics.round(None, 1.0) == "failed"
    assert metrics.round(empty, 1.0) == "complete"


# -- on the real Kafka --


@pytest.mark.kafka
def test_an_idle_topic_has_no_lag(topic, see):
    """Caught up is 0, not absent; an empty log of which nothing was committed too."""
    topic.send(500)
    topic.commit(1)
    seen = see(topic.group)
    assert seen.round() == "complete"
    assert lag_of(seen, topic) == (0, 0)
    assert seen.of("group_committed_offset", topic.group, topic.name, "0") == 1
    assert seen.of("log_end_offset", topic.name, "0") == 1
    assert seen.of("group_partitions", topic.group) == 1
    assert seen.of("group_stalled", topic.group) is None, "told of our groups only"
    assert seen.exporter.outside.reads == 0
    seen.now += 10_000
    assert lag_of(seen, topic) == (0, 0)


@pytest.mark.kafka
def test_what_waits_grows_old_and_is_read_once(topic, see):
    """With every consumer dead: seconds grow between rounds, and nothing is read again."""
    topic.send(500, 400, 300)
    topic.commit(1)
    seen = see(topic.group)
    for later in (0, 7, 1_000):
        assert seen.round() == "complete"
        seen.now = NOW + later
        assert lag_of(seen, topic) == (2, 400 + later)
    assert seen.of("group_members", topic.group) == 0
    assert seen.exporter.outside.reads == 1
    seen.now = NOW
    topic.commit(2)
    seen.round()
    assert lag_of(seen, topic) == (1, 300)
    assert seen.exporter.outside.reads == 2
    seen.now = NOW - 1_000
    assert lag_of(seen, topic) == (1, 0), "a clock that is ahead of ours"


@pytest.mark.kafka
def test_a_group_that_was_reset_is_as_late_as_the_record_it_goes_back_to(topic, see):
    """Not as late as the one that waited before."""
    topic.send(500, 400, 300)
    topic.commit(2)
    seen = see(topic.group)
    seen.round()
    assert lag_of(seen, topic) == (1, 300)
    topic.commit(0)
    seen.round()
    assert lag_of(seen, topic) == (3, 500)


@pytest.mark.kafka
def test_a_hung_loop_is_seen_while_its_member_lives(topic, see):
    """Alive, and committing nothing: the seconds grow."""
    topic.send(500, 400)
    topic.commit(1)
    member = Consumer({**topic.config, "group.id": topic.group, "enable.auto.commit": False})
    member.subscribe([topic.name])
    until(lambda: member.poll(0.1) or member.assignment(), "it has joined")
    seen = see(topic.group)
    seen.round()
    before = lag_of(seen, topic)
    seen.now += 60
    seen.round()
    member.close()
    assert (before, lag_of(seen, topic)) == ((1, 400), (1, 460))
    assert seen.of("group_members", topic.group) == 1


@pytest.mark.kafka
def test_a_compacted_log_has_holes(kafka, see):
    """The first record that is still there, not the one at the committed offset."""
    topic = Topic(
        kafka.bootstrap,
        {
            "cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001",
            "min.compaction.lag.ms": "0", "max.compaction.lag.ms": "100",
        },
    )  # fmt: skip
    topic.send(500, 400, 300, key=b"same")
    time.sleep(0.2)  # so that the next record begins a segment
    topic.send(200, key=b"same")
    time.sleep(0.2)
    topic.send(100, key=b"another")
    reader = Consumer({**topic.config, "group.id": "r", "enable.auto.commit": False})

    def first():
        reader.assign([TopicPartition(topic.name, 0, 0)])
        message = reader.poll(5)
        return message is not None and message.error() is None and message.offset() == 3

    until(first, "the log is compacted", 90)
    reader.close()
    topic.commit(1)
    seen = see(topic.group)
    assert seen.round() == "complete"
    assert lag_of(seen, topic) == (4, 200)
    topic.committed.close()


@pytest.mark.kafka
def test_a_truncated_log_has_lost_records(topic, see):
    """What retention deleted before it was committed is told; the age is of what is left."""
    topic.send(500, 400, 300, 200)
    topic.commit(1)
    delete_records(topic.admin, {(topic.name, 0): 3})
    seen = see(topic.group)
    seen.round()
    assert lag_of(seen, topic) == (3, 200)
    assert seen.of("group_lost_records", topic.group, topic.name) == 2
    assert seen.of("group_offsets_beyond_end", topic.group, topic.name) == 0
    topic.commit(4)
    seen.round()
    assert seen.of("group_lost_records", topic.group, topic.name) == 0


@pytest.mark.kafka
def test_of_a_topic_made_anew_nobody_knows_the_lag(topic, see):
    """The committed offset lies beyond its end: counted, and the lag is absent, not 0."""
    topic.send(500, 400, 300)
    topic.commit(3)
    seen = see(topic.group)
    seen.round()
    assert lag_of(seen, topic) == (0, 0)
    topic.admin.delete_topics([topic.name])[topic.name].result(30)
    until(lambda: topic.name not in topic.admin.list_topics().topics, "it is gone")
    topic.create()
    topic.send(200)
    topic.commit(3)  # with the topic Kafka forgot what was committed on it

    def beyond():
        seen.round()
        return seen.of("group_offsets_beyond_end", topic.group, topic.name) == 1

    until(beyond, "the new log is known")
    assert lag_of(seen, topic) == (None, None)
    topic.commit(0)
    seen.round()
    assert lag_of(seen, topic) == (1, 200)


@pytest.mark.kafka
def test_the_marker_of_a_transaction_is_no_lag(topic, see):
    """A control record at the end: the group has read everything, and 0 is said."""
    producer = topic.transaction()
    topic.produce(producer, 500, 400)
    producer.commit_transaction(30)
    topic.commit(2)
    seen = see(topic.group)
    assert seen.round() == "complete"
    assert seen.of("log_end_offset", topic.name, "0") == 3
    assert lag_of(seen, topic) == (0, 0)
    seen.round()
    assert seen.exporter.outside.reads == 1, "it is known that no record is left"
    topic.send(50)
    seen.round()
    assert lag_of(seen, topic) == (2, 50)
    topic.commit(1)
    seen.round()
    assert lag_of(seen, topic) == (3, 400)


@pytest.mark.kafka
def test_only_aborted_records_are_no_lag(topic, see):
    """Nobody will ever be given them."""
    producer = topic.transaction()
    topic.produce(producer, 500, 400)
    producer.abort_transaction(30)
    topic.commit(0)
    seen = see(topic.group)
    assert seen.round() == "complete"
    assert lag_of(seen, topic) == (0, 0)


@pytest.mark.kafka
def test_an_open_transaction_holds_the_end_back(topic, see):
    """What nobody may read yet does not wait; a group that reads it all the same is not beyond."""
    topic.send(500)
    topic.commit(1)
    producer = topic.transaction()
    topic.produce(producer, 400)
    topic.send(300)
    seen = see(topic.group)
    assert seen.round() == "complete"
    assert lag_of(seen, topic) == (0, 0)
    topic.commit(3)
    seen.round()
    assert lag_of(seen, topic) == (None, None), "how much waits nobody may read yet"
    assert seen.of("group_offsets_beyond_end", topic.group, topic.name) == 0
    topic.commit(1)
    producer.commit_transaction(30)

    def known():
        seen.round()
        return lag_of(seen, topic) == (3, 400)

    until(known, "the transaction is over")


@pytest.mark.kafka
def test_without_a_commit_everything_waits(topics, see):
    """Our group on its raw topic, from the log's start on; and how long the topics are kept."""
    made = topics()
    raw, group = raw_topic("veriff", made.prefix), group_id("veriff", made.prefix)
    producer = Producer({"bootstrap.servers": made.bootstrap})
    for _ in range(3):
        producer.produce(raw, b"x", partition=1)
    producer.flush()
    seen = see(TOPIC_PREFIX=made.prefix)
    seen.now = time.time() + 100
    assert seen.round() == "complete"
    assert seen.of("group_lag_records", group, raw, "1") == 3
    assert 99 < seen.of("group_lag_seconds", group, raw, "1") < 200
    assert seen.of("group_lag_seconds", group, raw, "0") == 0
    assert seen.of("group_committed_offset", group, raw, "1") is None
    assert seen.of("group_lost_records", group, raw) == 0
    assert seen.of("group_partitions", group) == 4
    two_weeks = 14 * 86_400
    assert seen.of("topic_retention_seconds", raw) == two_weeks
    assert seen.of("topic_retention_seconds", dead_topic("veriff", made.prefix)) == two_weeks
    assert seen.exporter.outside.reads == 1, "one read for one partition that is behind"


@pytest.mark.kafka
def test_a_stall_is_read_from_the_passports(topics, see):
    """As the lag command reads it."""
    made = topics()
    raw, group = raw_topic("veriff", made.prefix), group_id("veriff", made.prefix)
    minute = int(NOW // 60)
    failed = Passport(
        mapping_revision=4, last_record_at=minute * 60_000, recent={"t": [(minute, 120, 80)]}
    )
    committed = Committed({"bootstrap.servers": made.bootstrap}, group)
    committed.write({(raw, 0): 0}, passport.written(failed))
    committed.close()
    seen = see(TOPIC_PREFIX=made.prefix)
    seen.round()
    assert seen.of("group_stalled", group) == 1
    assert seen.of("group_stalled", group_id("plexy", made.prefix)) == 0


@pytest.mark.kafka
def test_dead_letters_wait_until_a_replay_has_passed_them(topics, see):
    """From the log's start, or from where the last replay came to; nobody else's commit counts."""
    made = topics()
    dead = dead_topic("veriff", made.prefix)
    config = {"bootstrap.servers": made.bootstrap}
    producer = Producer(config)
    for _ in range(3):
        producer.produce(dead, b"x", partition=0)
    producer.flush()
    seen = see(TOPIC_PREFIX=made.prefix)
    seen.now = time.time() + 100
    committed = Committed(config, replay_group("veriff", made.prefix))
    stand = json.dumps({"selection": "s", "run": "r", "state": "finished", "at": 1})
    assert Stand(selection="s", run="r", state="finished", at=1).state == "finished"
    for offset, text, waiting in (
        (None, "", 3),
        (2, "somebody else's", 3),
        (2, stand, 1),
        (3, stand, 0),
        (50, stand, 3),  # it passed those of another log
    ):
        if offset is not None:
            committed.write({(dead, 0): offset}, text)
        seen.round()
        assert seen.of("dead_letters_waiting_records", dead) == waiting
        seconds = seen.of("dead_letters_waiting_seconds", dead)
        assert 99 < seconds < 300 if waiting else seconds == 0
    committed.close()
    assert not [key for key in seen.samples() if key[1:2] == (committed._group,)]


@pytest.mark.kafka
def test_an_analysts_group_is_found_by_what_it_committed(topics, see):
    """On the transactional topic of events, whatever else it committed on."""
    made = topics()
    events, other = f"{made.prefix}verification.events", raw_topic("plexy", made.prefix)
    config = {"bootstrap.servers": made.bootstrap}
    producer = Producer({**config, "transactional.id": f"{made.prefix}t"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for _ in range(2):
        producer.produce(events, b"x", partition=0)
    producer.commit_transaction(30)
    analyst = f"{made.prefix}analyst"
    committed = Committed(config, analyst)
    seen = see(analyst, TOPIC_PREFIX=made.prefix)
    seen.now = time.time() + 100
    assert seen.round() == "complete"
    assert seen.of("group_partitions", analyst) == 0
    committed.write({(events, 0): 1, (other, 2): 0}, "")
    seen.round()
    assert seen.of("group_lag_records", analyst, events, "0") == 2
    assert 99 < seen.of("group_lag_seconds", analyst, events, "0") < 300
    assert seen.of("group_lag_seconds", analyst, other, "2") == 0
    committed.write({(events, 0): 2}, "")
    committed.close()
    seen.round()
    assert seen.of("group_lag_records", analyst, events, "0") == 0
    assert seen.of("group_lag_seconds", analyst, events, "0") == 0


@pytest.mark.kafka
def test_two_groups_on_one_partition_have_a_lag_each(topic, see):
    """One partition, two offsets: each is read for itself."""
    topic.send(500, 400, 300)
    topic.commit(0)
    second = f"{topic.group}.second"
    committed = Committed(topic.config, second)
    committed.write({(topic.name, 0): 2}, "")
    committed.close()
    seen = see(topic.group, second)
    assert seen.round() == "complete"
    assert lag_of(seen, topic) == (3, 500)
    assert seen.of("group_lag_seconds", second, topic.name, "0") == 300
    assert seen.exporter.outside.reads == 2


@pytest.mark.kafka
def test_a_frozen_brokers_lag_is_absent_after_three_intervals():
    """Failed rounds are counted, what was known grows old, and then nothing is said."""
    with temporary_kafka() as kafka:
        topic = Topic(kafka.bootstrap)
        topic.send(500, 400)
        topic.commit(1)
        settings = load_settings(environ(kafka.bootstrap), groups=[topic.group], interval=1)
        seen = Seen(settings)
        assert seen.round() == "complete"
        assert not seen.readiness.problems()
        with frozen(kafka):
            began = time.monotonic()
            assert seen.round() == "failed"
            assert time.monotonic() - began < 30, "a round is bounded"
            seen.now, seen.monotonic = NOW + 3, 3.0
            assert lag_of(seen, topic) == (1, 403)
            seen.monotonic = 3.1
            assert lag_of(seen, topic) == (None, None)
            assert seen.of("log_end_offset", topic.name, "0") is None
            assert seen.of("export_rounds_total", "failed") == 1
            assert "Kafka does not answer at" in seen.readiness.problems()["kafka"]
        until(lambda: seen.round() == "complete", "it answers again")
        assert lag_of(seen, topic) == (1, 403)
        seen.exporter.outside.close()
        topic.committed.close()


@pytest.mark.kafka
def test_rounds_that_fail_make_the_clients_anew(topic, see, monkeypatch):
    """A client that has become deaf is given up: the next round is answered."""
    topic.send(500, 400)
    seen = see(topic.group)
    assert seen.round() == "complete"
    deaf = seen.exporter.outside

    def no_answer(_seconds):
        raise ConfigurationError("Kafka does not answer at all")

    monkeypatch.setattr(deaf, "topics", no_answer)
    assert [seen.round() for _ in range(FAILED_ROUNDS)] == ["failed"] * FAILED_ROUNDS
    assert seen.round() == "complete"
    assert seen.exporter.outside is not deaf


@pytest.mark.kafka
def test_a_provider_whose_topic_is_gone_is_told(topics, see):
    """It does not vanish in silence: the round is partial, and says what to do."""
    made = topics()
    seen = see(TOPIC_PREFIX=made.prefix)
    assert seen.round() == "complete"
    admin = AdminClient({"bootstrap.servers": made.bootstrap})
    admin.delete_topics([raw_topic("veriff", made.prefix)])[
        raw_topic("veriff", made.prefix)
    ].result(30)
    until(lambda: seen.round() == "partial", "the topic is gone")


@pytest.mark.kafka
def test_a_wrong_prefix_is_no_pipeline_without_lag(see):
    """There being no raw topic is a failure that names TOPIC_PREFIX."""
    seen = see(TOPIC_PREFIX="nobody.at.all.")
    assert seen.round() == "failed"
    assert "is TOPIC_PREFIX right" in seen.readiness.problems()["kafka"]


@pytest.mark.kafka
def test_the_program_exports_until_it_is_stopped(topics, tmp_path):
    """As a process, without a consumer: ready after its first round, and every sample is sane."""
    made = topics()
    raw = raw_topic("veriff", made.prefix)
    producer = Producer({"bootstrap.servers": made.bootstrap})
    producer.produce(raw, b"x", partition=0)
    producer.flush()
    port = free_port()
    settings = environ(
        made.bootstrap, TOPIC_PREFIX=made.prefix, EXPORTER_ADMIN_LISTEN=f"127.0.0.1:{port}"
    )
    command = ["consumers", "export", "--interval", "1", "--group", f"{made.prefix}analyst"]
    process = Process(command, settings, port, tmp_path / "log")
    try:
        process.wait_ready()
        assert process.sum("verihook_group_lag_records", f'topic="{raw}"') == 1
        assert process.sum("verihook_ready", "kafka") == 1
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()
        for family in families(page.decode()):
            assert family.documentation, family.name
            for one in family.samples:
                assert 0 <= one.value < math.inf, one
        assert process.stop() == 0
    finally:
        if process.popen.poll() is None:
            process.kill()
    assert "Traceback" not in process.log.read_text()
