"""python -m consumers replay: dead letters and raw records once more, and the reader of ranges."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing

import msgspec
import pytest
from confluent_kafka import Producer

from consumers.broker import producer_config
from consumers.choice import Choice, checked
from consumers.codec import decode, encoder, single_object_prefix
from consumers.committed import Committed
from consumers.contract import Halted
from consumers.copies import replay_copy
from consumers.dedup import First, is_duplicate
from consumers.difference import changed_fields
from consumers.event import Statement
from consumers.failures import MOST_HISTORY, Failure, carried_on, dead_letter, told
from consumers.fate import Fates
from consumers.normalizers import EVERY, veriff
from consumers.progress import Progress, replay_group
from consumers.records import Record
from consumers.replay import Pace, Replay, record_of
from gateway.delivery import (
    ATTEMPT,
    HISTORY,
    REPLAY_OF,
    Provenance,
    dead_topic,
    group_id,
    output_topic,
    raw_topic,
)
from gateway.process import ConfigurationError
from gateway.ranges import Range, Wanted, find_ranges, read_ranges, wanted
from gateway.send import fixture
from tests.conftest import KEYS, RECEIVED_AT
from tests.deployment import ROOT, deployment, read

EVERYTHING = Choice(asked=Wanted())
MARKER = "Jane-Doe-of-the-tests"


def letter_of(record, kind="schema_mismatch", path="$.a", revision=1):
    """A dead letter as it is consumed from the dead topic."""
    failure = Failure(kind, path=path, error_class="ValidationError")
    letter = dead_letter(record, failure, "dlq.veriff", revision)
    return Record(
        topic="dlq.veriff", partition=1, offset=9, timestamp=0, key=letter.key,
        value=letter.value, headers=letter.headers,
    )  # fmt: skip


def raw_record(**fields):
    return msgspec.structs.replace(
        Record(
            topic="raw.veriff", partition=3, offset=77, timestamp=0, key=b"k", value=b"{}",
            headers=[("verihook-endpoint", b"veriff"), ("http-x", b"1")],
        ),
        **fields,
    )  # fmt: skip


# -- a copy --


def test_a_copy_is_the_record_as_it_came_and_what_it_repeats():
    """Key, bytes and headers, without the letter's own; its failure becomes history."""
    copy = replay_copy(letter_of(raw_record()), "raw.veriff")
    assert (copy.topic, copy.key, copy.value) == ("raw.veriff", b"k", b"{}")
    assert copy.headers == [
        ("verihook-endpoint", b"veriff"),
        ("http-x", b"1"),
        (HISTORY, b"schema_mismatch $.a ValidationError 1 raw.veriff/3/77"),
        (REPLAY_OF, b"dlq.veriff/1/9"),
        (ATTEMPT, b"1"),
    ]


def test_what_fails_again_carries_everything_once():
    """One set of error headers, one attempt that counts, the history in order; and it is bounded."""
    record = raw_record()
    for attempt in range(1, 3 * MOST_HISTORY):
        letter = letter_of(record, path=f"$.p{attempt}", revision=attempt)
        names = Counter(name for name, _ in letter.headers)
        assert all(count == 1 for name, count in names.items() if name != HISTORY)
        assert names[HISTORY] == min(attempt - 1, MOST_HISTORY)
        copy = replay_copy(letter, "raw.veriff")
        assert dict(copy.headers)[ATTEMPT] == b"%d" % attempt
        assert told(copy.headers) is None
        record = raw_record(headers=copy.headers)
    history = [value.split()[1] for name, value in record.headers if name == HISTORY]
    last = 3 * MOST_HISTORY - 1
    assert history[0] == b"$.p1"
    assert history[1:] == [b"$.p%d" % one for one in range(last - MOST_HISTORY + 2, last + 1)]


def test_a_line_of_history_is_words():
    """A failure's path may hold blanks (a line of our code), its headers may be anybody's."""
    headers = letter_of(raw_record(), kind="bug", path="veriff.py:3 in\nnormalize").headers
    ((_, line),) = [pair for pair in carried_on(headers) if pair[0] == HISTORY]
    assert line.split() == [
        b"bug", b"veriff.py:3_in_normalize", b"ValidationError", b"1", b"raw.veriff/3/77",
    ]  # fmt: skip
    foreign = [("verihook-error-kind", b"\xff\x00 x" * 200), ("verihook-mapping-revision", b"\xb2")]
    ((_, line),) = carried_on(foreign)
    assert len(line) < 400
    assert len(line.split()) == 5


# -- what is chosen --


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        ({}, True),
        ({"reasons": ("schema_mismatch", "bug")}, True),
        ({"reasons": ("bug",)}, False),
        ({"error_class": "ValidationError"}, True),
        ({"error_class": "Other"}, False),
        ({"path": "$.b"}, True),
        ({"path": "$"}, False),
    ],
)
def test_letters_are_chosen_by_what_they_tell(choice, meant):
    """By kind, class and any one of the paths."""
    letter = letter_of(raw_record(), path="$.a,$.b")
    assert Choice(asked=Wanted(), **choice).means(letter.headers) is meant


def test_a_selection_is_its_words_under_one_mapping():
    """The same words are the same selection at another time; another mapping makes another one."""
    one = Choice(asked=Wanted(since=1), words=("2h", ""), reasons=("bug", "unknown_type"))
    later = Choice(asked=Wanted(since=9), words=("2h", ""), reasons=("unknown_type", "bug"))
    assert one.name(3) == later.name(3) != one.name(4)
    assert one.name(3) != msgspec.structs.replace(one, even_if_dead=True).name(3)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"reasons": ("schema",)}, "--reason 'schema'"),
        ({"raw": True, "words": ("2h",), "reasons": ("bug",)}, "leave --raw out"),
        ({"raw": True, "words": ("", "")}, "--raw needs a range"),
        ({"everything": True}, "--all belongs to --raw"),
    ],
)
def test_a_choice_that_cannot_be_meant_is_refused(choice, words):
    """In one sentence that says what to do."""
    with pytest.raises(ConfigurationError, match=words):
        checked(Choice(asked=Wanted(), **choice))


@pytest.mark.parametrize(
    ("offsets", "since", "until", "found"),
    [
        ([], "", "", Wanted()),
        (["3:5-7", "0:9"], "", "", Wanted(offsets={3: (5, 7), 0: (9, 9)})),
        (["1:5-"], "", "", Wanted(offsets={1: (5, 2**62)})),
        ([], "2h", "90m", Wanted(since=2_800_000, until=4_600_000)),
        ([], "1970-01-01", "1970-01-01T01:00+01:00", None),
        ([], "1970-01-01", "1970-01-02T00:00Z", Wanted(since=0, until=86_400_000)),
        (["a"], "", "", None),
        (["1:7-5"], "", "", None),
        (["1:1-2", "1:5-6"], "", "", None),
        ([], "yesterday", "", None),
        ([], "1h", "2h", None),
    ],
)
def test_a_range_as_it_is_typed(offsets, since, until, found):
    """Offsets with TO included; times as ISO 8601, UTC without a zone, or how long ago."""
    if found is None:
        with pytest.raises(ConfigurationError, match=r"--(offset|since|until)"):
            wanted(offsets, since, until, 10_000.0)
    else:
        assert wanted(offsets, since, until, 10_000.0) == found


def test_the_pace_is_kept():
    """Never more than the rate, in chunks of about a second's worth; 0 is without a limit."""
    waits = []
    pace = Pace(50, waits.append)
    assert pace.chunk == 50
    pace.keep(50, 100.0)
    pace.keep(50, 100.2)
    pace.keep(10, 900.0)
    assert waits == pytest.approx([1.0, 1.8, 0.2])
    for rate in (0, float("inf")):
        free = Pace(rate, waits.append)
        free.keep(500, 0.0)
        assert (free.chunk, sum(waits[3:])) == (500, 0)


def test_events_differ_by_what_they_say():
    """Not by where they were made; and where the raw record is another, not by its receipt."""
    body = fixture("veriff", "decision-approved").body
    one, other = (
        Fates("veriff", veriff, encoder(single_object_prefix()), KEYS)
        .decide(delivery(body, offset, received_at))
        .events[0]
        for offset, received_at in ((1, RECEIVED_AT), (2, RECEIVED_AT + 60_000))
    )
    assert changed_fields(one, other) == []
    here = msgspec.structs.replace(other, raw_offset=1)
    assert "received_at" in changed_fields(one, here)
    changed = msgspec.structs.replace(one, outcome="fail", mapping_revision=9)
    assert changed_fields(one, changed) == ["outcome"]


def delivery(body, offset=0, received_at=RECEIVED_AT, key=b"k"):
    """A raw record as the gateway writes it."""
    provenance = Provenance(
        endpoint="veriff", provider="veriff", received_at=received_at, delivery_id="d" * 32,
        authenticity="signed", scheme="veriff-hmac-sha256", key_id="default",
        environment="sandbox",
    )  # fmt: skip
    return Record(
        topic="raw.veriff",
        partition=0,
        offset=offset,
        timestamp=received_at,
        key=key,
        value=body,
        headers=[*provenance.to_headers()],
    )


# -- on the real Kafka --


class Mapping:
    """Veriff's mapping, broken or changed on purpose."""

    NATIVE_TYPES, KEYED_BY, SCHEMES = veriff.NATIVE_TYPES, veriff.KEYED_BY, veriff.SCHEMES
    RETRIED_FOR_DAYS = veriff.RETRIED_FOR_DAYS

    def __init__(self, revision=1, *, broken=False, **changes):
        self.REVISION = revision
        self.broken = broken
        self.changes = changes

    def normalize(self, body, provenance):
        if self.broken:
            raise Failure("schema_mismatch", path="$.verification.code", error_class="Broken")
        return [
            msgspec.structs.replace(said, **self.changes) if isinstance(said, Statement) else said
            for said in veriff.normalize(body, provenance)
        ]


class Pipeline:
    """Topics of one test, deliveries into them, and a worker that follows the rules in small."""

    def __init__(self, topics):
        made = topics(**{"raw.partitions": 3, "dlq.partitions": 2})
        self.prefix, self.config = made.prefix, {"bootstrap.servers": made.bootstrap}
        self.raw = raw_topic("veriff", self.prefix)
        self.dead = dead_topic("veriff", self.prefix)
        self.producer = Producer(producer_config(self.config))
        self.seen = {}

    def deliver(self, count, start=0):
        body = json.loads(fixture("veriff", "decision-approved").body)
        body["verification"]["person"] = {"firstName": MARKER}
        for number in range(start, start + count):
            body["verification"]["id"] = f"c0000000-0000-4000-8000-{number:012d}"
            one = delivery(json.dumps(body).encode(), key=body["verification"]["id"].encode())
            self.producer.produce(self.raw, one.value, one.key, headers=one.headers)
        assert self.producer.flush(30) == 0

    def work(self, mapping):
        """Do what the worker does: decide, drop duplicates, write, commit."""
        group = Committed(self.config, group_id("veriff", self.prefix))
        behind = group.read([self.raw])
        ranges = [
            Range(one.partition, behind.get((self.raw, one.partition), (0, ""))[0], one.end)
            for one in find_ranges(self.config, self.raw)
        ]
        fates = Fates("veriff", mapping, encoder(single_object_prefix()), KEYS, self.prefix)
        for messages in read_ranges(self.config, self.raw, ranges):
            for record in map(record_of, messages):
                fate = fates.decide(record)
                here = First(record.partition, record.offset, RECEIVED_AT // 1000, mapping.REVISION)
                for number, output in enumerate(fate.outputs):
                    key = fate.event_ids[number] if number < len(fate.event_ids) else None
                    first = self.seen.get(key)
                    week = 8 * 86_400
                    if first and is_duplicate(first, here, week, replayed=fate.replayed):
                        continue
                    if key is not None:
                        self.seen[key] = here
                    self.producer.produce(
                        output.topic, output.value, output.key, headers=output.headers
                    )
        assert self.producer.flush(30) == 0
        group.write({(self.raw, one.partition): one.end for one in ranges}, "")
        group.close()

    def read(self, topic):
        return read(self.config["bootstrap.servers"], topic, None, 60)

    def events(self):
        return [decode(message.value()) for message in self.read(output_topic(self.prefix))]

    def letters(self):
        return self.read(self.dead)

    def copies(self):
        """The records of the raw topic that are replays, by what they repeat."""
        found = [dict(message.headers()) for message in self.read(self.raw)]
        return Counter(headers[REPLAY_OF].decode() for headers in found if REPLAY_OF in headers)

    def replay(self, choice=EVERYTHING, *, stop=None, yes=True, rate=0, **how):
        """Run a replay in this process; give whether it came to its end, and what it said."""
        said = []
        one = Replay(
            "veriff", self.config, KEYS, self.prefix, choice,
            stop=stop or threading.Event(), say=said.append,
        )  # fmt: skip
        finished = one.run(
            yes=yes, rate=rate, from_beginning=how.pop("from_beginning", False), **how
        )
        text = "\n".join(said)
        assert MARKER not in text
        assert "c0000000" not in text
        return finished, text


class After(threading.Event):
    """Asked to wait for its n-th chunk, it does something: by default it stops the replay."""

    def __init__(self, chunks, do=None):
        super().__init__()
        self.left, self.do = chunks, do or self.set

    def wait(self, timeout=None):
        self.left -= 1
        if self.left == 0:
            self.do()
        return self.is_set()


@pytest.fixture
def pipeline(topics):
    return Pipeline(topics)


@pytest.fixture
def today(monkeypatch):
    """Say what today's mapping is."""
    return lambda mapping: monkeypatch.setitem(EVERY, "veriff", mapping)


@pytest.mark.kafka
def test_a_broken_mapping_is_mended_and_its_letters_become_events(pipeline, today):
    """Dry run, replay, and the same selection goes on with nothing left; nobody is lost."""
    pipeline.deliver(40)
    pipeline.work(Mapping(broken=True))
    assert len(pipeline.letters()) == 40
    today(Mapping(2))
    finished, said = pipeline.replay(yes=False)
    assert finished
    assert "40 events: completed/pass 40" in said
    assert "--yes appends 40 records" in said
    assert not pipeline.copies()
    finished, said = pipeline.replay()
    assert finished
    assert "40 of 40 records appended" in said
    originals = {}
    for message in pipeline.read(pipeline.raw):
        headers = [pair for pair in message.headers() if not is_ours(pair[0])]
        kept = (message.value(), headers, message.partition())
        assert originals.setdefault(message.key(), kept) == kept
    assert set(pipeline.copies().values()) == {1}
    pipeline.work(Mapping(2))
    assert Counter(event.status for event in pipeline.events()) == {"completed": 40}
    assert len({event.process_ref for event in pipeline.events()}) == 40
    assert len(pipeline.letters()) == 40
    finished, said = pipeline.replay()
    assert finished
    assert "nothing there to replay" in said
    _, said = pipeline.replay(yes=False, from_beginning=True)
    assert "40 of 40 dead letters chosen" in said


def is_ours(name):
    return name in {REPLAY_OF, ATTEMPT, HISTORY}


@pytest.mark.kafka
def test_a_stopped_replay_goes_on_where_it_stopped(pipeline, today):
    """Ctrl-C between two chunks: the same selection sends the rest, and each letter once."""
    pipeline.deliver(50)
    pipeline.work(Mapping(broken=True))
    today(Mapping())
    finished, said = pipeline.replay(stop=After(2), rate=10)
    assert not finished
    assert "20 of 50 records appended" in said
    assert "goes on from here" in said
    finished, said = pipeline.replay(rate=0)
    assert finished
    assert "30 of 30 records appended" in said
    copies = pipeline.copies()
    assert (len(copies), set(copies.values())) == (50, {1})
    _, said = pipeline.replay(Choice(asked=Wanted(), reasons=("schema_mismatch",)), yes=False)
    assert "50 of 50 dead letters chosen" in said, "another selection begins anew"


@pytest.mark.kafka
def test_a_crash_sends_at_most_one_chunk_twice(pipeline, today, monkeypatch):
    """What is stored and not yet remembered is sent again, and nothing is left out."""
    pipeline.deliver(50)
    pipeline.work(Mapping(broken=True))
    today(Mapping())
    write, calls = Committed.write, []

    def dying(self, *arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise RuntimeError("killed")
        write(self, *arguments)

    monkeypatch.setattr(Committed, "write", dying)
    with pytest.raises(RuntimeError, match="killed"):
        pipeline.replay(stop=After(99), rate=10)
    monkeypatch.setattr(Committed, "write", write)
    monkeypatch.setattr("consumers.progress.ALIVE_SECONDS", -1.0)
    assert pipeline.replay()[0]
    copies = pipeline.copies()
    assert len(copies) == 50
    assert sorted(copies.values())[-11:] == [1, *[2] * 10]


@pytest.mark.kafka
def test_what_fails_again_keeps_its_history_and_is_told_from_its_letter_before(pipeline, today):
    """Left where it is by default; on demand it dies again, with attempt and history; no doubling."""
    pipeline.deliver(12)
    broken = Mapping(broken=True)
    pipeline.work(broken)
    today(broken)
    finished, said = pipeline.replay()
    assert finished
    assert "12 stay where they are" in said
    assert not pipeline.copies()
    anyway = Choice(asked=Wanted(), even_if_dead=True)
    for attempt in (1, 2, 3):
        assert pipeline.replay(anyway, from_beginning=True)[0]
        pipeline.work(broken)
        letters = pipeline.letters()
        assert len(letters) == 12 * (attempt + 1)
        attempts = Counter(dict(letter.headers()).get(ATTEMPT) for letter in letters)
        assert attempts[b"%d" % attempt] == 12
    last = [one for one in letters if dict(one.headers()).get(ATTEMPT) == b"3"]
    for letter in last:
        names = Counter(name for name, _ in letter.headers())
        assert names.pop(HISTORY) == 3
        assert set(names.values()) == {1}
        history = [value.decode() for name, value in letter.headers() if name == HISTORY]
        assert all(
            one.startswith(f"schema_mismatch $.verification.code Broken 1 {pipeline.raw}/")
            for one in history
        )
    today(Mapping(2))
    _, said = pipeline.replay(from_beginning=True)
    assert "12 of 12 records appended" in said
    assert "were replayed" in said
    pipeline.work(Mapping(2))
    assert len(pipeline.events()) == 12


@pytest.mark.kafka
def test_letters_that_come_meanwhile_are_not_replayed_in_a_circle(pipeline, today):
    """The end is fixed at the start, though what was sent dies again behind it."""
    pipeline.deliver(30)
    broken = Mapping(broken=True)
    pipeline.work(broken)
    today(broken)
    anyway = Choice(asked=Wanted(), even_if_dead=True)
    stop = After(1, do=lambda: pipeline.work(broken))
    finished, said = pipeline.replay(anyway, stop=stop, rate=10)
    assert finished
    assert "30 of 30 records appended" in said
    assert len(pipeline.letters()) == 40


@pytest.mark.kafka
def test_only_what_was_asked_for_is_replayed(pipeline, today):
    """Offsets of the dead topic with TO included; by time; by reason. The rest stays."""
    pipeline.deliver(30)
    pipeline.work(Mapping(broken=True))
    today(Mapping())
    some = Choice(asked=Wanted(offsets={1: (2, 4)}), words=("1:2-4",))
    assert "3 of 3 dead letters chosen" in pipeline.replay(some)[1]
    assert set(pipeline.copies()) == {f"{pipeline.dead}/1/{offset}" for offset in (2, 3, 4)}
    hour_ago = Choice(asked=Wanted(until=int(time.time() * 1000) - 3_600_000), words=("1h",))
    assert "nothing there" in pipeline.replay(hour_ago)[1]
    bugs = Choice(asked=Wanted(), reasons=("bug",))
    assert "0 of 30 dead letters chosen" in pipeline.replay(bugs, yes=False)[1]


@pytest.mark.kafka
def test_two_replays_at_once_are_noticed(pipeline, today):
    """The second does not begin; one that was overtaken stops."""
    pipeline.deliver(20)
    pipeline.work(Mapping(broken=True))
    today(Mapping())

    def other(now):
        with closing(
            Committed(pipeline.config, replay_group("veriff", pipeline.prefix))
        ) as committed:
            Progress(committed, pipeline.dead, pipeline.raw, "another").begin({0: 0, 1: 0}, now)

    with pytest.raises(Halted, match="has begun"):
        pipeline.replay(stop=After(1, do=lambda: other(time.time())), rate=5)
    with pytest.raises(Halted, match="was at work"):
        pipeline.replay()
    other(time.time() - 3600)
    assert pipeline.replay()[0]


@pytest.mark.kafka
def test_a_difference_is_told_before_anything_is_written(pipeline, today):
    """Unchanged, changed by field, new: and only what would change is replayed, once."""
    pipeline.deliver(10)
    pipeline.work(Mapping())
    pipeline.deliver(10)  # the provider's retries of the same
    pipeline.work(Mapping())
    assert len(pipeline.events()) == 10
    raw = Choice(asked=Wanted(), words=("1h",), raw=True)
    today(Mapping())
    _, said = pipeline.replay(raw, yes=False)
    assert "unchanged                      20" in said
    assert "events stand under revision 1 20" in said

    today(Mapping(outcome="fail", provider_event_id="secret-id"))
    _, said = pipeline.replay(raw)
    assert "outcome                        20   pass -> fail 20" in said
    assert "secret-id" not in said
    assert "raise REVISION" in said
    assert "0 of 0 records appended" in said

    changed = Mapping(2, outcome="fail", provider_event_id="secret-id")
    today(changed)
    _, said = pipeline.replay(raw)
    assert "20 of 20 records appended" in said
    pipeline.work(changed)
    events = pipeline.events()
    assert Counter((one.outcome, one.mapping_revision) for one in events) == {
        ("pass", 1): 10,
        ("fail", 2): 10,
    }
    assert len({one.event_id for one in events}) == 10

    _, said = pipeline.replay(raw, from_beginning=True, yes=False)
    assert "unchanged                      20" in said
    assert "replays                        20" in said
    everything = msgspec.structs.replace(raw, everything=True)
    _, said = pipeline.replay(everything, yes=False)
    assert "--yes appends 20 records" in said


@pytest.mark.kafka
def test_what_would_vanish_or_is_new_is_told(pipeline, today):
    """An event that today would be none cannot be taken back; a letter that would live is new."""
    pipeline.deliver(4)
    pipeline.work(Mapping())
    pipeline.deliver(3, start=4)
    pipeline.work(Mapping(broken=True))
    pipeline.deliver(2, start=7)  # not normalized yet: left to the consumers
    raw = Choice(asked=Wanted(), words=("1h",), raw=True)
    today(Mapping())
    _, said = pipeline.replay(raw, yes=False)
    assert "2 offsets are not normalized yet" in said
    assert "new                             3" in said
    assert "--yes appends 3 records" in said
    today(Mapping(2, broken=True))
    _, said = pipeline.replay(raw, yes=False)
    assert "no longer an event              4   schema_mismatch 4" in said
    assert "still dead                      3   schema_mismatch 3" in said
    assert "cannot be taken back" in said
    assert "--yes appends 0 records" in said


@pytest.mark.kafka
def test_another_event_key_is_suspected(pipeline, today):
    """Where every event would get another id, nothing is written, and the keys are looked at."""
    pipeline.deliver(3)
    pipeline.work(Mapping())
    pipeline.deliver(2)  # the provider's retries, which no key but the right one tells as such
    pipeline.work(Mapping())
    today(Mapping(2, natural_key=("x",)))
    raw = Choice(asked=Wanted(), words=("1h",), raw=True)
    _, said = pipeline.replay(raw, yes=False)
    assert "so EVENT_KEY is not the one they were made with" in said
    assert "raise REVISION" not in said
    assert "no event stands for them" not in said
    assert "new                             2   none stands under this EVENT_KEY" in said
    assert "Nothing was written. --yes would refuse: " in said
    assert "--yes appends" not in said
    for choice in (raw, msgspec.structs.replace(raw, everything=True)):
        with pytest.raises(ConfigurationError, match="EVENT_KEY is not the one"):
            pipeline.replay(choice)
    assert not pipeline.copies()
    with closing(Committed(pipeline.config, replay_group("veriff", pipeline.prefix))) as group:
        assert group.read([pipeline.raw]) == {}


@pytest.mark.kafka
def test_events_under_their_own_ids_prove_the_key(pipeline, today):
    """Where some events stand under today's ids, others with new ids are the mapping's doing."""
    pipeline.deliver(3)
    pipeline.work(Mapping(natural_key=("x",)))  # one event for the three
    pipeline.deliver(3, start=3)
    pipeline.work(Mapping())
    changed = Mapping(2)
    today(changed)
    raw = Choice(asked=Wanted(), words=("1h",), raw=True)
    _, said = pipeline.replay(raw, yes=False)
    assert "1 events would get another id: readers would hold both" in said
    assert "--yes appends 3 records" in said
    assert "3 of 3 records appended" in pipeline.replay(raw)[1]


@pytest.mark.kafka
def test_a_range_is_read_across_transactions(pipeline):
    """Aborted records are passed over, an open transaction is not waited for, markers do no harm."""
    producer = Producer({**pipeline.config, "transactional.id": f"{pipeline.prefix}t"})
    producer.init_transactions(30)
    for number, end in enumerate(("commit", "abort", "commit")):
        producer.begin_transaction()
        for partition in (0, 1):
            producer.produce(pipeline.raw, b"%d" % number, partition=partition)
        producer.flush(30)
        (producer.commit_transaction if end == "commit" else producer.abort_transaction)(30)
    producer.begin_transaction()
    producer.produce(pipeline.raw, b"open", partition=0)
    producer.flush(30)
    ranges = find_ranges(pipeline.config, pipeline.raw)
    assert ranges == [Range(0, 0, 6), Range(1, 0, 6)]
    found = [one for some in read_ranges(pipeline.config, pipeline.raw, ranges) for one in some]
    assert sorted((one.partition(), one.offset()) for one in found) == [
        (0, 0), (0, 4), (1, 0), (1, 4),
    ]  # fmt: skip
    only = find_ranges(pipeline.config, pipeline.raw, Wanted(offsets={0: (2, 99)}))
    assert only == [Range(0, 2, 6)]
    found = [one for some in read_ranges(pipeline.config, pipeline.raw, only) for one in some]
    assert [one.offset() for one in found] == [4]
    soon = int(time.time() * 1000) + 3_600_000
    assert find_ranges(pipeline.config, pipeline.raw, Wanted(since=soon)) == []
    assert find_ranges(pipeline.config, pipeline.raw, Wanted(until=soon)) == ranges
    with pytest.raises(ConfigurationError, match="has no partition 9"):
        find_ranges(pipeline.config, pipeline.raw, Wanted(offsets={9: (0, 1)}))
    producer.abort_transaction(30)


def command(*arguments, **environ):
    """Run the command line; give its exit code, output and error output."""
    done = subprocess.run(
        [sys.executable, "-m", "consumers", "replay", *arguments], cwd=ROOT,
        env={**os.environ, **environ}, capture_output=True, timeout=120, check=False, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.kafka
def test_the_command_replays_into_a_running_consumer(topics, tmp_path):
    """A letter of an older mapping, replayed by the command, becomes the running consumer's event."""
    with deployment(topics(), tmp_path) as deployed:
        environ = deployed.environ()
        said = f"{deployed.prefix}dlq.veriff: nothing there to replay\n"
        assert command("veriff", **environ) == (0, said, "")
        letter = letter_of(delivery(fixture("veriff", "decision-approved").body), revision=0)
        producer = Producer(producer_config({"bootstrap.servers": deployed.bootstrap}))
        producer.produce(
            dead_topic("veriff", deployed.prefix), letter.value, letter.key, headers=letter.headers
        )
        assert producer.flush(30) == 0
        deployed.consumer("veriff")
        code, out, _ = command("veriff", "--yes", "--reason", "schema_mismatch", **environ)
        assert code == 0
        assert "1 of 1 records appended" in out
        (message,) = deployed.events(1)
        assert decode(message.value()).raw_topic == raw_topic("veriff", deployed.prefix)
        code, _, err = command("veriff", "--offset", "99:1-2", **environ)
        assert (code, len(err.splitlines())) == (2, 1)
        unkeyed = {name: value for name, value in environ.items() if name != "EVENT_KEY"}
        code, _, err = command("veriff", "--raw", "--since", "1h", **unkeyed)
        assert code == 2
        assert "EVENT_KEY" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("verif",), "there is no normalizer for verif"),
        (("veriff", "--reason", "bugs"), "there is no such kind"),
        (("veriff", "--raw"), "--raw needs a range"),
    ],
)
def test_misuse_is_one_sentence_and_2(arguments, words):
    """Before Kafka is asked."""
    code, _, err = command(*arguments, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert code == 2
    assert words in err
    assert len(err.splitlines()) == 1
