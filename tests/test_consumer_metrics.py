"""A consumer's metrics, log lines and readiness: what counts, when, and what is said of it."""

import json
import threading
import time

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families as families
from prometheus_client.registry import Collector
from structlog.testing import capture_logs

from consumers.attendant import HUNG_SECONDS, Attendant, Watch
from consumers.broker import Broker
from consumers.codec import encoder, single_object_prefix
from consumers.contract import Span, Telemetry
from consumers.event import VOCABULARIES
from consumers.fate import Fates
from consumers.metrics import Meter
from consumers.normalizers import NORMALIZERS
from consumers.worker import Worker
from deploy.kafka import temporary_kafka
from gateway import statistics
from gateway.process import UNREACHABLE_SECONDS, Readiness
from gateway.send import fixtures
from gateway.statistics import STATISTICS_SECONDS, ClientStatistics
from tests.conftest import KEYS
from tests.deployment import deployment, get, until
from tests.test_fixtures import raw_record
from tests.test_worker import (
    QUICK,
    FakeKafka,
    P,
    answered,
    assign,
    echo,
    no_books,
    record,
    worker_of,
)

TOPIC = "raw.veriff"
GROUP = "normalize.veriff"
VERIFF = NORMALIZERS["veriff"]
ENCODE = encoder(single_object_prefix())
DECIDE = {name: Fates(name, one, ENCODE, KEYS).decide for name, one in NORMALIZERS.items()}
UP = json.dumps({"brokers": {"one": {"nodeid": 1, "source": "learned", "state": "UP"}}})
DOWN = UP.replace('"UP"', '"DOWN"')


def sample(provider: str, case: str):
    """A fixture as raw record, with what becomes of it."""
    (found,) = [one for one in fixtures(provider) if one.case == case]
    raw = raw_record(found)
    return raw, DECIDE[provider](raw)


def meter_of(provider: str = "veriff", now: float = 1_700_000_060.0) -> Meter:
    """A meter that was told what its mapping can name; `now` is a minute after every receipt."""
    known = NORMALIZERS[provider]
    meter = Meter(provider, f"normalize.{provider}", known.NATIVE_TYPES, ("v", "l"), lambda: now)
    meter.reads(f"raw.{provider}", known.UNMAPPED_FIELDS, known.IGNORED_REASONS)
    return meter


def values(meter: Meter, name: str, label: str = "") -> dict[str, float]:
    """Every sample of this name that is not 0, by one of its labels."""
    return {
        one.labels.get(label, ""): one.value
        for family in meter.registry.collect()
        for one in family.samples
        if one.name == name and one.value
    }


def words(meter: Meter, name: str, label: str) -> set[str]:
    """Every value that a label of a metric has."""
    return {
        one.labels[label]
        for family in meter.registry.collect()
        for one in family.samples
        if one.name == name
    }


def seal(meter: Meter) -> None:
    """End an epoch: Kafka has all of it."""
    meter.sealed()
    meter.barrier(0.01)


# -- what is counted, and when --


@pytest.mark.parametrize("provider", NORMALIZERS)
def test_what_can_be_named_is_there_from_the_start(provider):
    """rate() sees the first occurrence only of what stood at 0 before."""
    meter, known = meter_of(provider), NORMALIZERS[provider]
    for name, label, named in (
        ("verihook_unmapped_values_total", "field", known.UNMAPPED_FIELDS | {"other"}),
        ("verihook_records_ignored_total", "reason", known.IGNORED_REASONS | {"other"}),
        ("verihook_reasons_total", "reason_code", VOCABULARIES["reason_codes"]),
        ("verihook_records_lost_to_retention_total", "topic", {f"raw.{provider}"}),
        ("verihook_transactions_total", "result", {"committed", "aborted"}),
        ("verihook_commit_seconds_count", "group", {f"normalize.{provider}"}),
        ("verihook_ledger_entries_total", "group", {f"normalize.{provider}"}),
        ("verihook_records_in_progress", "group", {f"normalize.{provider}"}),
    ):
        assert words(meter, name, label) == named, name
        assert values(meter, name) == {}, name


def test_a_fate_is_counted_when_its_epoch_is_acknowledged_and_not_before():
    """Told, sealed, acknowledged: only the last makes it a number."""
    meter = meter_of()
    meter.handled(*sample("veriff", "decision-approved"), ())
    assert values(meter, "verihook_records_consumed_total") == {}
    meter.sealed()
    meter.handled(*sample("veriff", "decision-declined"), ())  # of the next epoch
    meter.barrier(0.01)
    assert values(meter, "verihook_records_consumed_total", "native_type") == {"decision": 1}
    assert values(meter, "verihook_events_normalized_total", "outcome") == {"pass": 1}
    assert values(meter, "verihook_reasons_total") == {}
    seal(meter)
    assert values(meter, "verihook_records_consumed_total", "native_type") == {"decision": 2}
    assert values(meter, "verihook_events_normalized_total", "outcome") == {"pass": 1, "fail": 1}
    assert values(meter, "verihook_reasons_total", "reason_code") == {"fraud.known": 1}


def test_what_is_dropped_is_not_counted():
    """Somebody does it again, and it counts then."""
    meter = meter_of()
    for _ in range(2):
        meter.handled(*sample("veriff", "decision-approved"), ())
        meter.entered(1)
        meter.sealed()
        meter.handled(*sample("veriff", "decision-approved"), ())
        meter.dropped()
    meter.barrier(0.01)
    assert values(meter, "verihook_records_consumed_total") == {}
    assert values(meter, "verihook_ledger_entries_total") == {}


def test_every_kind_of_fate_is_counted_for_what_it_is():
    """Events of a batch, ignored, set aside, unmapped words; each record once, by its type."""
    meter = meter_of()
    told = [
        sample("veriff", "decision-approved"),
        sample("veriff", "decision-declined-unlisted-code"),
    ]
    raw, _ = told[0]
    told.append((raw, DECIDE["veriff"](type(raw)(**_parts(raw) | {"value": b"{"}))))
    for one in told:
        meter.handled(*one, ())
    meter.entered(2)
    seal(meter)
    consumed = values(meter, "verihook_records_consumed_total", "native_type")
    assert consumed == {"decision": 2, "other": 1}
    assert values(meter, "verihook_dead_letters_total", "reason") == {"invalid_json": 1}
    assert values(meter, "verihook_unmapped_values_total", "field") == {
        "verification.reasonCode": 1,
        "verification.document.type": 1,
        "verification.document.country": 1,
    }
    assert values(meter, "verihook_ledger_entries_total") == {"": 2}
    onfido = meter_of("onfido")
    onfido.handled(*sample("onfido", "audit-log"), ())
    seal(onfido)
    assert values(onfido, "verihook_records_ignored_total", "reason") == {"audit_log": 1}


def _parts(one) -> dict:
    return {name: getattr(one, name) for name in one.__struct_fields__}


def test_every_event_of_a_batch_is_counted_and_the_record_once():
    """A delivery of several items is one record, and what was seen of it is a duplicate."""
    batch = next(
        (raw, fate)
        for raw, fate in (sample("pleenk", one.case) for one in fixtures("pleenk"))
        if len(fate.events) > 1 and fate.failure is None
    )
    meter, events = meter_of("pleenk"), len(batch[1].events)
    meter.handled(*batch, ())
    meter.handled(*batch, [(0, 60)])
    seal(meter)
    assert sum(values(meter, "verihook_records_consumed_total", "native_type").values()) == 2
    written = sum(
        one.value
        for family in meter.registry.collect()
        for one in family.samples
        if one.name == "verihook_events_normalized_total"
    )
    assert written == 2 * events - 1
    assert values(meter, "verihook_duplicates_total") == {"": 1}
    assert values(meter, "verihook_duplicate_age_seconds_sum") == {"": 60}
    assert values(meter, "verihook_end_to_end_seconds_count") == {"": 2}


def test_a_record_that_says_nothing_new_has_no_end_to_end_time():
    """Its event was written long ago; a retry a week later is not a late event."""
    meter = meter_of()
    meter.handled(*sample("veriff", "decision-approved"), [(0, 3_600)])
    seal(meter)
    assert values(meter, "verihook_records_consumed_total", "native_type") == {"decision": 1}
    assert values(meter, "verihook_events_normalized_total") == {}
    assert values(meter, "verihook_duplicates_total") == {"": 1}
    assert values(meter, "verihook_end_to_end_seconds_count") == {}


def test_a_word_of_no_closed_set_is_other():
    """A mapping that names what it does not list cannot make series without end."""
    meter = meter_of()
    meter.reads(TOPIC, frozenset(), frozenset())
    meter.handled(*sample("veriff", "decision-declined-unlisted-code"), ())
    meter.handled(*sample("onfido", "audit-log"), ())
    seal(meter)
    assert values(meter, "verihook_unmapped_values_total", "field") == {"other": 3}
    assert values(meter, "verihook_records_ignored_total", "reason") == {"other": 1}
    assert values(meter, "verihook_records_consumed_total", "native_type")["other"] == 1


def test_records_are_in_progress_until_a_commit_covers_them():
    """Read and not committed: what an interruption would do again."""
    meter = meter_of()
    meter.assigned({(TOPIC, 0): 0, (TOPIC, 1): 0})
    meter.consumed({(TOPIC, 0): Span(0, 1, 10, 2, 8), (TOPIC, 1): Span(0, 1, 5, 2, 5)})
    assert values(meter, "verihook_records_in_progress") == {"": 13}
    meter.committed({(TOPIC, 0): 10})
    assert values(meter, "verihook_records_in_progress") == {"": 5}
    meter.lost([(TOPIC, 1)])
    assert values(meter, "verihook_records_in_progress") == {}


class Answers(Telemetry):
    """Keeps how long each commit took."""

    def __init__(self):
        self.took = []

    def commit_took(self, seconds):
        self.took.append(seconds)


def test_a_commit_takes_as_long_as_its_own_answer():
    """With two under way the first answer is the first one's; a refused one took nothing."""
    kafka, answers = FakeKafka(assign(P), [record(0)]), Answers()
    worker = worker_of(kafka, telemetry=answers)
    while not kafka.commits:
        worker.step()
    asked = kafka.now
    kafka.now += 2.0
    kafka.script.append(answered(p=1))
    while not answers.took:
        worker.step()
    assert answers.took == [pytest.approx(kafka.now - asked, abs=0.2)]
    kafka.script.append([record(1)])
    while len(kafka.commits) < 2:
        worker.step()
    kafka.script.append(lambda listener: listener.commit_failed("unanswered"))
    kafka.now += 3.0
    while len(kafka.commits) < 3:
        worker.step()
    kafka.script.append(answered(p=2))
    while len(answers.took) < 2:
        worker.step()
    assert answers.took[1] < 3.0


# -- the scrape --


def test_the_loop_goes_on_while_a_scrape_is_under_way():
    """No lock is held while a page is made: a slow scraper costs the loop nothing."""
    meter = meter_of()
    meter.assigned({(TOPIC, 0): 0})
    one, done = sample("veriff", "decision-approved"), []

    def work() -> None:
        meter.polled()
        meter.assigned({(TOPIC, 1): 0})
        meter.consumed({(TOPIC, 0): Span(0, 1, 1, 2)})
        meter.handled(*one, ())
        seal(meter)
        meter.committed({(TOPIC, 0): 1})
        meter.commit_took(0.1)
        meter.statistics.take("consumer", UP)
        done.append(True)

    class InTheMidst(Collector):
        """Has the loop work to its end while its own turn in the scrape has come."""

        def collect(self):
            loop = threading.Thread(target=work, daemon=True)
            loop.start()
            loop.join(60)
            return ()

    meter.registry.register(InTheMidst())
    done.clear()  # registering collects once
    before = list(meter.registry._collector_to_names)
    assert isinstance(before[-1], InTheMidst)
    generate_latest(meter.registry)
    for collector in before[:-1]:  # and each of ours gives what it has before it is written down
        for _family in collector.collect():
            loop = threading.Thread(target=work, daemon=True)
            loop.start()
            loop.join(60)
            assert not loop.is_alive(), collector
    assert len(done) > len(before) - 1


def test_a_page_of_two_hundred_partitions_can_be_read_back():
    """Every owned partition has its lag on the page, whatever the library makes of it."""
    meter = meter_of()
    meter.assigned({(TOPIC, number): 0 for number in range(200)})
    meter.observed({(TOPIC, number): 7 for number in range(200)}, 1_700_000_059.0)
    found = {family.name: family for family in families(generate_latest(meter.registry).decode())}
    assert len(found["verihook_consumer_lag_records"].samples) == 200


# -- log lines --


def attendant_of(clock, provider: str = "veriff") -> Attendant:
    known = NORMALIZERS[provider]
    readiness = Readiness("group", "mapping")
    made = Attendant(provider, f"normalize.{provider}", known.NATIVE_TYPES, readiness, clock)
    made.reads(f"raw.{provider}", known.UNMAPPED_FIELDS, known.IGNORED_REASONS)
    made.statistics._clock = clock
    return made


def test_a_dead_letter_is_one_line_with_what_finds_it_again():
    """Why, where in the payload, which type, and the coordinates of record and delivery."""
    attendant = attendant_of(lambda: 0.0)
    raw, _ = sample("veriff", "decision-approved")
    raw = type(raw)(**_parts(raw) | {"partition": 3, "offset": 41})
    document = json.loads(raw.value)
    document["verification"]["id"] = {"a person's": "name"}
    fate = DECIDE["veriff"](type(raw)(**_parts(raw) | {"value": json.dumps(document).encode()}))
    with capture_logs() as lines:
        attendant.handled(raw, fate, ())
    assert lines == [
        {
            "event": "dead_letter",
            "log_level": "warning",
            "kind": "schema_mismatch",
            "path": "$.verification.id",
            "error_class": "ValidationError",
            "native_type": "decision",
            "delivery_id": dict(raw.headers)["verihook-delivery-id"].decode(),
            "topic": "raw.veriff",
            "partition": 3,
            "offset": 41,
            "held_back": 0,
        }
    ]


def test_words_nobody_knows_are_one_line_of_their_fields():
    """The fields, never what stood in them."""
    attendant = attendant_of(lambda: 0.0)
    raw, fate = sample("veriff", "decision-declined-unlisted-code")
    with capture_logs() as lines:
        attendant.handled(raw, fate, ())
    (line,) = lines
    assert line["event"] == "unmapped"
    assert line["fields"] == [
        "verification.reasonCode",
        "verification.document.type",
        "verification.document.country",
    ]
    assert (line["topic"], line["partition"], line["offset"]) == ("raw.veriff", 0, 0)
    assert line["held_back"] == 0
    assert "540" not in repr(line)


def test_lines_of_one_kind_are_held_back_and_counted():
    """A storm is one line per interval and kind, with how many it stands for."""
    now = [0.0]
    attendant = attendant_of(lambda: now[0])
    dead = sample("veriff", "decision-approved")[0]
    broken = DECIDE["veriff"](type(dead)(**_parts(dead) | {"value": b"{"}))
    strange = sample("veriff", "decision-declined-unlisted-code")
    with capture_logs() as lines:
        for _ in range(5):
            attendant.handled(dead, broken, ())
            attendant.handled(*strange, ())
        now[0] = 60.0
        attendant.handled(dead, broken, ())
    told = [(line["event"], line["held_back"]) for line in lines]
    assert told == [("dead_letter", 0), ("unmapped", 0), ("dead_letter", 4)]


@pytest.mark.parametrize(
    "value", [b"Jane Doe", b"0" * 65, b"abc", b"\xff" * 20, "é".encode() * 8, b"", None]
)
def test_a_delivery_id_that_is_none_of_ours_is_not_repeated(value):
    """Whoever may write to the raw topic could put anything there."""
    attendant = attendant_of(lambda: 0.0)
    raw, _ = sample("veriff", "decision-approved")
    headers = [one for one in raw.headers if one[0] != "verihook-delivery-id"]
    raw = type(raw)(**_parts(raw) | {"headers": [*headers, ("verihook-delivery-id", value)]})
    fate = DECIDE["veriff"](type(raw)(**_parts(raw) | {"value": b"{"}))
    with capture_logs() as lines:
        attendant.handled(raw, fate, ())
    assert [line["delivery_id"] for line in lines] == [None]


@pytest.mark.parametrize("provider", NORMALIZERS)
def test_no_line_holds_a_word_of_the_payload(provider):
    """Markers in every string of every fixture: none is in what is logged."""
    attendant = attendant_of(lambda: 0.0, provider)
    attendant._sparing._interval = -1.0  # everything passes
    lines = []
    for found in fixtures(provider):
        raw = raw_record(found)
        value = _marked(json.loads(raw.value))
        fate = DECIDE[provider](type(raw)(**_parts(raw) | {"value": json.dumps(value).encode()}))
        with capture_logs() as more:
            attendant.handled(raw, fate, ())
        lines += more
    assert lines
    assert "mArKeR" not in repr(lines)


def _marked(node):
    if isinstance(node, dict):
        return {key: _marked(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_marked(value) for value in node]
    known = ("webhook", "decision", "VERIFICATION", "APPROVE", "payment", "check", "workflow")
    if isinstance(node, str) and not node.startswith(known):
        return "mArKeR"
    return node


# -- readiness --


def test_a_loop_that_hangs_is_not_ready_and_recovers():
    """A hanging loop says nothing of itself: another thread sees how long it has been silent."""
    now = [0.0]
    attendant = attendant_of(lambda: now[0])
    attendant.look()
    assert attendant._readiness.problems()["group"] == "not yet"
    attendant.polled()
    assert "group" not in attendant._readiness.problems()
    now[0] = HUNG_SECONDS - 0.1
    attendant.look()
    assert "group" not in attendant._readiness.problems()
    now[0] = HUNG_SECONDS
    attendant.look()
    assert "has not asked Kafka" in attendant._readiness.problems()["group"]
    attendant.polled()
    attendant.look()
    assert "group" not in attendant._readiness.problems()


def test_a_consumer_that_reaches_no_broker_is_not_ready_and_recovers():
    """Fifteen seconds without a connection, by librdkafka's own word; one that stands ends it."""
    now = [0.0]
    attendant = attendant_of(lambda: now[0])

    def passes(seconds: float, report: str) -> dict[str, str]:
        end = now[0] + seconds
        while now[0] < end:
            now[0] += STATISTICS_SECONDS
            attendant.polled()
            attendant.statistics.take("consumer", report)
            attendant.look()
        return attendant._readiness.problems()

    attendant.polled()
    assert "group" not in passes(60.0, UP)
    assert "group" not in passes(UNREACHABLE_SECONDS, DOWN)  # the first report says since when
    assert "no broker" in passes(STATISTICS_SECONDS, DOWN)["group"]
    attendant.interrupted("an output was refused", 0.5)
    assert attendant._readiness.problems()["group"] == "an output was refused"
    attendant.look()
    assert attendant._readiness.problems()["group"] == "an output was refused"
    assert "no broker" in passes(STATISTICS_SECONDS, DOWN)["group"], "new clients, same brokers"
    assert "group" not in passes(STATISTICS_SECONDS, UP)


def test_the_watch_looks_until_it_is_stopped():
    """It is a thread of its own, begun once and gone with the process's work."""
    looked = threading.Event()
    attendant = attendant_of(time.monotonic)
    attendant.look = looked.set
    watch = Watch(attendant)
    watch.start()
    watch.start()
    assert looked.wait(60)
    watch.stop()
    assert not watch._thread.is_alive()


@pytest.mark.kafka
def test_a_real_process_without_brokers_is_not_ready_and_recovers_by_itself(topics, tmp_path):
    """It waits, alive, and goes on when Kafka is back; nobody restarts it."""
    with temporary_kafka() as own, deployment(topics(own.bootstrap), tmp_path) as deployed:
        consumer = deployed.consumer("veriff")
        own.kill()
        verbose = f"{consumer.admin}/readyz?verbose"
        until(lambda: "group: no broker could be reached" in get(verbose)[1], "it is not ready")
        assert get(f"{consumer.admin}/livez")[0] == 200
        assert consumer.sum("verihook_kafka_brokers_up") == 0
        own.start()
        until(lambda: get(verbose)[0] == 200, "it is ready again")
        assert consumer.stop() == 0


# -- librdkafka's statistics --


class Reports(ClientStatistics):
    """Counts who reports."""

    def __init__(self):
        super().__init__()
        self.heard = {"consumer": 0, "producer": 0}

    def take(self, client, text):
        super().take(client, text)
        self.heard[client] += 1


@pytest.mark.kafka
def test_both_clients_report_though_nothing_is_to_be_done(kafka, monkeypatch):
    """An idle loop's own calls serve the reports of its consumer and of its producer."""
    monkeypatch.setattr(statistics, "STATISTICS_SECONDS", 0.2)
    config = {"bootstrap.servers": kafka.bootstrap, "log_level": 0}
    name = f"reports-{time.monotonic_ns()}"
    admin = AdminClient(config)
    admin.create_topics([NewTopic(name, 1, 1)])[name].result()
    reports = Reports()
    broker = Broker(config, name, name, statistics=reports)
    worker = Worker(broker, echo, QUICK, keep=no_books)
    try:
        until(
            lambda: worker.step() or min(reports.heard.values()) >= 3, "both have reported thrice"
        )
        assert reports.report("consumer").up >= 1
        assert reports.report("producer").up >= 1
    finally:
        worker.abandon()


@pytest.mark.kafka
def test_a_process_tells_of_commits_transactions_ledger_and_clients(topics, tmp_path):
    """What the catalogue promises is on the page of a real process that has worked."""
    with deployment(topics(), tmp_path) as deployed:
        deployed.gateway()
        consumer = deployed.consumer("veriff", "--delivery", "exactly-once", "--slot", "0")
        sent = [one for one in fixtures("veriff") if one.case in {"decision-approved", "decision-declined-unlisted-code"}]  # fmt: skip
        for one in sent:
            assert deployed.send_fixture(one).status == 200
        until(lambda: consumer.sum("verihook_records_consumed_total") == 2, "both are handled")
        assert consumer.sum("verihook_transactions_total", 'result="committed"') >= 1
        assert consumer.sum("verihook_commit_seconds_count") >= 1
        assert consumer.sum("verihook_ledger_entries_total") >= 1
        assert consumer.sum("verihook_unmapped_values_total", 'field="verification.reasonCode"') == 1  # fmt: skip
        assert consumer.sum("verihook_records_in_progress") == 0
        for client in ("consumer", "producer"):
            until(
                lambda client=client: consumer.sum("verihook_kafka_brokers_up", f'client="{client}"'),
                f"the {client} has reported",
            )  # fmt: skip
        assert "verihook_kafka_rebalances_total" in {key.partition("{")[0] for key in consumer.metrics()}  # fmt: skip
        lines = [json.loads(line) for line in consumer.log.read_text().splitlines()]
        (line,) = [line for line in lines if line["event"] == "unmapped"]
        assert line["delivery_id"]
        assert line["topic"].endswith("raw.veriff")
        assert consumer.stop() == 0
