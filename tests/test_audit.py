"""The audit: a correct history is proven, and whatever is changed in it is named by its offset."""

import copy
import json
import random
import threading
import time
import uuid

import msgspec
import pytest
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from hypothesis import given
from hypothesis import strategies as st

from consumers import evidence, passport
from consumers.audit import Evidence, Retention, Where, audit, edges, report_lines
from consumers.codec import encoder, single_object_prefix
from consumers.dedup import First
from consumers.encoder import varint
from consumers.failures import Failure, dead_letter
from consumers.ledger import Page, page_outputs, read_entry
from consumers.origin import Origin, origin_reader
from consumers.passport import Passport
from consumers.records import Record
from consumers.settings import dedup_days
from gateway.delivery import (
    REPLAY_OF,
    dead_topic,
    group_id,
    ledger_topic,
    output_topic,
    raw_topic,
)
from gateway.ranges import RangeUnread, Wanted
from tests.deployment import delete_records
from tests.test_consumers_cli import consumers
from tests.test_ledger import event

PASSPORT = Passport(mapping_revision=4, last_record_at=1_700_000_000_000)
EVERYTHING = Wanted()
START = 1_000
TIME = 1_700_000_000_000
REVISION = 3


class History:
    """What one partition's raw records became, as a correct consumer writes it."""

    def __init__(
        self, fates="", *, pages=(), partition=0, delivery="at-least-once", seed=0, mixed=False
    ):
        """`fates` holds a code for every offset; `pages` are the lengths of pages, repeated.

        With `mixed`, not only duplicates have events that were not written.
        """
        self.mixed = mixed
        self.partition = partition
        self.fates = fates
        self.delivery = delivery
        self.random = random.Random(f"{seed}-{partition}")
        self.raw = [START + at for at, code in enumerate(fates) if code != "-"]
        self.replays = set()
        self.events = []
        self.letters = []
        self.older_letters = []
        """Offsets and revisions of letters that another mapping wrote."""
        self.firsts = {}
        """For each record, the events that were not written: where they stand, and their ids."""
        self.pages = []
        self.under_way = []
        lengths = list(pages) or [4]
        at = 0
        while at < len(fates):
            length = lengths[len(self.pages) % len(lengths)]
            self.page(at, min(at + length, len(fates)))
            at += length

    def page(self, start, stop, revision=REVISION, ids=None):
        """Do the records from `start` to `stop` (from 0) and enter their page."""
        page = Page(first_offset=START + start, next_offset=START + start)
        for at in range(start, stop):
            code, offset = self.fates[at], START + at
            if code == "-":
                continue
            events = self.random.choice((1, 1, 1, 2)) if code in "eb" else 0
            before = [one.event_id for one in self.events if one.offset == offset]
            written = before or (ids or [self.random.randbytes(16) for _ in range(events)])
            for item, event_id in enumerate(written):
                self.events.append(Origin(event_id, self.partition, offset, item, revision))
            if code in "lb":
                self.letters.append(offset)
            firsts = self.seen_before(offset, code)
            page.add(
                offset, code, written, [one for one, _ in firsts], int(code in "lb"),
                [one for _, one in firsts],
            )  # fmt: skip
        page.skip_to(START + stop)
        self.pages += page.entries(self.partition, revision, self.delivery)

    def seen_before(self, offset, code):
        """Let events of a record stand for an earlier one, or before everything here."""
        if offset not in self.firsts:
            also = self.mixed and code in "ebl" and self.random.random() < 0.25
            count = int(code == "d" or also)
            first = self.random.choice([*self.events[-4:], None])
            if first is None:
                first = Origin(self.random.randbytes(16), self.partition, START - 9, 0, REVISION)
            stands = First(first.partition, first.offset, received_at=0, revision=1)
            self.firsts[offset] = [(stands, first.event_id)] * count
        return self.firsts[offset]

    def unfounded(self):
        """The offsets whose events stand nowhere, though they should."""
        there = {(one.partition, one.offset, one.event_id) for one in self.events}
        return [
            offset
            for offset, firsts in sorted(self.firsts.items())
            for one, event_id in firsts
            if one.offset >= START and (one.partition, one.offset, event_id) not in there
        ]

    @property
    def end(self):
        return START + len(self.fates)

    def evidence(self, first=START, end=None, committed=None):
        end = self.end if end is None else end
        found = Evidence(self.partition, first, end, self.end if committed is None else committed)
        found.entries = list(self.pages)
        for offset in self.raw:
            if first <= offset < end:
                found.record(offset, TIME + offset, replay=offset in self.replays)
        for origin in self.events:
            found.event(origin)
        for offset in self.letters:
            found.letter(offset, REVISION)
        for offset, revision in self.older_letters:
            found.letter(offset, revision)
        return found

    def audit(self, **options):
        return audit("raw.p", "normalize.p", [self.evidence()], **options)


def named(report, *names):
    """The checks that found something, with the offsets they name: name -> offsets.

    What is never checked, and what is before the range, only if it is asked for.
    """
    return {
        check.name: [
            offset for where in check.where for offset in range(where.first, where.last + 1)
        ]
        for check in report.checks
        if check.count and check.name in (names or {check.name} - {"ignored", "not checked"})
    }


def failed(report):
    return {check.name for check in report.checks if check.verdict == "fail"}


FATES = st.text("eeeebddil-", min_size=1, max_size=40).filter(lambda fates: fates.strip("-"))
PAGES = st.lists(st.integers(1, 9), min_size=1, max_size=5)
DELIVERIES = st.sampled_from(["at-least-once", "exactly-once"])


@given(FATES, PAGES, DELIVERIES)
def test_a_correct_history_is_proven(fates, pages, delivery):
    """Whatever the fates and wherever the pages end; no check has anything to tell."""
    report = History(fates, pages=pages, delivery=delivery, mixed=True).audit()
    assert report.proven
    assert named(report) == {}
    (proof,) = report.partitions
    assert proof.records == sum(proof.fates.values()) == len(fates.replace("-", ""))
    assert report.verdict.startswith("Proven: ")


@given(st.data())
def test_a_page_left_out_names_its_records(data):
    """The records of a missing page have no fate; nobody else is accused."""
    history = History(data.draw(FATES), pages=data.draw(PAGES))
    gone = history.pages.pop(data.draw(st.integers(0, len(history.pages) - 1)))
    lost = [one for one in history.raw if gone.first_offset <= one < gone.next_offset]
    report = history.audit()
    assert named(report) == ({"coverage": lost} if lost else {})
    assert report.proven is not bool(lost)


@given(st.data())
def test_a_record_that_a_page_calls_absent_is_named(data):
    """A record in the raw topic that the ledger passed over was lost."""
    fates = data.draw(FATES.filter(lambda text: "-" in text))
    at = data.draw(st.sampled_from([at for at, code in enumerate(fates) if code == "-"]))
    history = History(fates, pages=data.draw(PAGES))
    history.raw = sorted({*history.raw, START + at})
    report = history.audit()
    assert named(report) == {"coverage": [START + at]}
    assert not report.proven


@given(st.data())
def test_a_fate_without_its_record_is_named(data):
    """A fate of an offset that the raw topic does not hold was made up."""
    history = History(data.draw(FATES.filter(lambda text: text.strip("-"))))
    gone = data.draw(st.sampled_from(history.raw))
    history.raw.remove(gone)
    report = history.audit()
    assert named(report) == {"records": [gone]}
    assert not report.proven


def _page_of(history, offset):
    (page,) = [one for one in history.pages if one.first_offset <= offset < one.next_offset]
    return list(range(page.first_offset, page.next_offset))


WITH_EVENTS = FATES.filter(lambda text: "e" in text or "b" in text)


@given(st.data())
def test_a_dropped_event_is_named(data):
    """By its record where it was the record's only one, else by its page."""
    history = History(data.draw(WITH_EVENTS), pages=data.draw(PAGES), mixed=True)
    gone = data.draw(st.sampled_from(history.events))
    history.events.remove(gone)
    report = history.audit()
    expected = {"sums": _page_of(history, gone.offset)}
    if unfounded := history.unfounded():
        expected["duplicates"] = unfounded
    if all(one.offset != gone.offset for one in history.events):
        expected["events"] = [gone.offset]
    assert named(report) == expected
    assert not report.proven


@given(st.data())
def test_an_altered_event_is_named(data):
    """Another id, however it came about, does not add up: its page is named."""
    history = History(data.draw(WITH_EVENTS), pages=data.draw(PAGES), mixed=True)
    at = data.draw(st.integers(0, len(history.events) - 1))
    bit = data.draw(st.integers(0, 127))
    event = history.events[at]
    number = int.from_bytes(event.event_id, "big") ^ (1 << bit)
    history.events[at] = event._replace(event_id=number.to_bytes(16, "big"))
    report = history.audit()
    expected = {"sums": _page_of(history, event.offset)}
    if bit < 32 and (unfounded := history.unfounded()):  # pages name the end of an id
        expected["duplicates"] = unfounded
    assert named(report) == expected
    assert not report.proven


@given(st.data())
def test_an_event_moved_to_another_record_is_named(data):
    """It lacks where it was, and is one too many where it is."""
    history = History(data.draw(WITH_EVENTS), pages=[100])
    at = data.draw(st.integers(0, len(history.events) - 1))
    event = history.events[at]
    others = [one for one in range(START, history.end) if one != event.offset]
    if not others:
        return
    there = data.draw(st.sampled_from(others))
    history.events[at] = event._replace(offset=there, item=9)
    report = history.audit()
    found = named(report)
    assert found.get("duplicates", []) == history.unfounded()
    alone = all(one.offset != event.offset for one in history.events)
    assert found.get("events", []) == ([event.offset] if alone else [])
    emitting = history.fates[there - START] in "eb"
    assert found.get("nothing else", []) == ([] if emitting else [there])
    if not emitting:
        assert "sums" in found
        assert not report.proven


@given(st.data())
def test_a_dropped_dead_letter_is_named(data):
    """A record that became a dead letter, or lost an item to one, has it."""
    history = History(data.draw(FATES.filter(lambda text: "l" in text or "b" in text)))
    gone = data.draw(st.sampled_from(history.letters))
    history.letters.remove(gone)
    report = history.audit()
    assert named(report) == {"dead letters": [gone]}
    assert not report.proven


@given(st.data())
def test_a_dead_letter_too_many_is_named(data):
    """Of a record that has another fate."""
    history = History(data.draw(FATES.filter(lambda text: set(text) - set("lb"))))
    others = [one for one in range(START, history.end) if one not in history.letters]
    extra = data.draw(st.sampled_from(others))
    history.letters.append(extra)
    report = history.audit()
    assert named(report) == {"nothing else": [extra]}
    assert not report.proven


@given(st.data())
def test_an_event_too_many_is_named(data):
    """Of a record that is a duplicate, ignored, a dead letter, or not there."""
    history = History(data.draw(FATES.filter(lambda text: set(text) & set("dil-"))))
    others = [START + at for at, code in enumerate(history.fates) if code in "dil-"]
    extra = data.draw(st.sampled_from(others))
    history.events.append(Origin(uuid.uuid4().bytes, 0, extra, 0, REVISION))
    report = history.audit()
    assert named(report) == {"nothing else": [extra]}
    assert not report.proven


@given(st.data(), DELIVERIES)
def test_what_is_written_again_is_harmless_only_at_least_once(data, delivery):
    """A copy of an event or dead letter from the same record: a note, or a broken promise."""
    history = History(data.draw(WITH_EVENTS), delivery=delivery)
    again = data.draw(st.sampled_from(history.events))
    history.events.append(again)
    report = history.audit()
    assert named(report) == {"written again": [again.offset]}
    assert report.proven is (delivery == "at-least-once")
    assert not history.audit(exactly_once=True).proven


@given(st.data(), DELIVERIES)
def test_work_done_again_is_told(data, delivery):
    """Pages that were written and not committed are done again, perhaps with other edges."""
    history = History(data.draw(FATES), pages=data.draw(PAGES), delivery=delivery)
    back = data.draw(st.integers(0, len(history.pages) - 1))
    start = history.pages[back].first_offset - START
    middle = data.draw(st.integers(start, len(history.fates)))
    for low, high in ((start, middle), (middle, len(history.fates))):
        if low < high:
            history.page(low, high)
    report = history.audit()
    found = named(report)
    assert found.pop("one fate") == list(range(START + start, history.end))
    assert found.pop("written again", []) == sorted(
        {one.offset for one in history.events if one.offset >= START + start}
        | {one for one in history.letters if one >= START + start}
    )
    assert found == {}
    assert report.proven is (delivery == "at-least-once")


def test_going_over_to_exactly_once_breaks_no_promise():
    """What the last attempts under at-least-once left behind is done again under exactly-once."""
    history = History("eebl")
    history.delivery = "exactly-once"
    history.events.append(Origin(uuid.uuid4().bytes, 0, START, 0, REVISION - 1))
    history.page(0, 4)
    report = history.audit()
    assert set(named(report)) == {"one fate", "written again", "other revision"}
    assert report.proven
    history.page(0, 4)  # and once more, which nothing excuses
    assert failed(history.audit()) == {"one fate", "written again", "other revision"}


def test_an_event_whose_id_adds_nothing_is_counted():
    """The sum alone would not see it."""
    history = History("ee")
    history.events.append(Origin(bytes(16), 0, START, 7, REVISION))
    report = history.audit()
    assert named(report) == {"sums": [START, START + 1]}
    assert not report.proven


@given(st.data())
def test_a_page_of_an_attempt_that_died_is_not_believed(data):
    """At least once, a page may be stored though its events are not; the last page counts."""
    history = History(data.draw(WITH_EVENTS), pages=[100])
    wrong = Page(first_offset=START, next_offset=START)
    wrong.add(START, "e", [uuid.uuid4().bytes], (), 0)
    history.pages[:0] = wrong.entries(0, REVISION, "at-least-once")
    report = history.audit()
    assert named(report) == {"one fate": [START]}
    assert report.proven


def test_a_reset_to_within_a_page_leaves_its_sum_uncompared():
    """What is left of the page is compared by offset, and that is said."""
    history = History("eeeeeeee", pages=[4])
    history.page(2, 8)
    report = history.audit()
    assert report.proven
    assert named(report, "not compared") == {
        "not compared": [START, START + 1, START + 2, START + 3]
    }
    history.events = [one for one in history.events if one.offset != START]
    assert named(history.audit(), "events") == {"events": [START]}


def test_an_attempt_under_another_revision_is_told_apart():
    """What it wrote is not what the page's sum is about; exactly-once rules it out."""
    for delivery in ("at-least-once", "exactly-once"):
        history = History("eee", delivery=delivery)
        history.events.append(Origin(uuid.uuid4().bytes, 0, START + 1, 0, REVISION - 1))
        report = history.audit()
        assert named(report) == {"other revision": [START + 1]}
        assert report.proven is (delivery == "at-least-once")


@pytest.mark.parametrize("fates", ["eee", "ddd", "iii", "lll", "bbb"])
def test_a_dead_letter_of_another_revision_is_told_apart(fates):
    """What a broken mapping set aside before it was mended; exactly-once rules it out."""
    for delivery in ("at-least-once", "exactly-once"):
        history = History(fates, delivery=delivery)
        history.older_letters = [(START + 1, REVISION - 1)]
        report = history.audit()
        assert named(report) == {"other revision": [START + 1]}
        assert report.proven is (delivery == "at-least-once")
        (check,) = [one for one in report.checks if one.name == "other revision"]
        assert check.text.startswith("events or dead letters of an earlier attempt")
    history = History("eee")
    history.older_letters = [(START + 1, REVISION - 1)] * 2
    assert set(named(history.audit())) == {"other revision", "written again"}


def test_a_dead_letter_of_another_revision_is_not_the_one_that_the_page_tells_of():
    """Nor is one that tells no revision accused of another."""
    history = History("lll")
    history.letters.remove(START + 1)
    history.older_letters = [(START + 1, REVISION - 1)]
    assert named(history.audit()) == {
        "dead letters": [START + 1], "other revision": [START + 1],
    }  # fmt: skip
    history.older_letters = [(START + 1, None)]
    assert named(history.audit()) == {}
    history = History("eee")
    history.older_letters = [(START + 1, None)]
    assert failed(history.audit()) == {"nothing else"}


def _forged(raw, *, event_id=b"01234567-89ab-8cde-8f01-23456789abcd", item=0, revision=1):
    """A value with an event's beginning and end."""
    name = varint(len(raw)) + raw.encode()
    return (
        single_object_prefix() + varint(36) + event_id + varint(0) + varint(item)
        + name + varint(0) + varint(0) + varint(revision)
    )  # fmt: skip


FORGED = {
    "revision": {"revision": 2**40},
    "negative": {"revision": -1},
    "item": {"item": 2**40},
    "id": {"event_id": b"01 23 " * 6},
    "text": {"event_id": b"x" * 36},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_value_with_impossible_numbers_cannot_be_read(forged):
    """Whatever can be read can be compared."""
    assert origin_reader("raw.p")(_forged("raw.p")) is not None
    with pytest.raises(ValueError):
        origin_reader("raw.p")(_forged("raw.p", **forged))


@given(st.data())
def test_whatever_stands_in_the_output_is_evidence_or_told(data):
    """No value ends an audit: it is of another topic, or an event, or raises ValueError."""
    raw = "raw.p"
    value = bytearray(_forged(raw))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(value) - 1))
        value[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=12))
        if not value:
            break
    value = value[data.draw(st.integers(0, len(value))) :]
    value = value[: data.draw(st.integers(0, len(value)))]
    name = varint(len(raw)) + raw.encode()
    for one in (bytes(value), bytes(value) + name, bytes(value) + name + b"\0\0\0"):
        try:
            origin = origin_reader(raw)(one)
        except ValueError:
            continue
        if origin is not None:
            Evidence(origin.partition, 0, 2**63, 2**63).event(origin)


def _doubled(delivery="at-least-once", partition=1, **changes):
    """Two partitions; the second one's first event has the id of the first one's last event."""
    first = History("eie", pages=[9], delivery=delivery)
    second = History("eel", pages=[1], partition=partition, delivery=delivery, seed=1)
    same = first.events[-1].event_id
    old = [one for one in second.events if one.offset == START + 1]
    second.events = [one for one in second.events if one not in old]
    fresh = Origin(same, partition, START + 1, 0, REVISION)._replace(**changes)
    second.events.append(fresh)
    page = Page(first_offset=START + 1, next_offset=START + 1)
    page.add(START + 1, "e", [same], (), 0)
    second.pages[1:2] = page.entries(partition, fresh.revision, delivery)
    return first, second


def _audit(histories, **options):
    return audit("raw.p", "normalize.p", [one.evidence() for one in histories], **options)


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
def test_one_event_of_two_records_is_doubled(delivery):
    """The later record is named; only exactly-once promises that it does not happen."""
    histories = _doubled(delivery)
    # START + 1 of the second partition came before START + 2 of the first.
    report = _audit(histories)
    (check,) = [one for one in report.checks if one.name == "doubled"]
    assert check.where == (Where(0, START + 2, START + 2),)
    assert set(named(report)) == {"doubled"}
    assert report.proven is (delivery == "at-least-once")
    assert not _audit(histories, exactly_once=True).proven


def test_a_replay_is_not_doubled():
    """By the raw record's header, or by another revision of the mapping."""
    replayed = _doubled()
    replayed[0].replays = {START + 2}
    by_revision = _doubled(revision=REVISION - 1)
    for histories in (replayed, by_revision):
        report = _audit(histories, exactly_once=True)
        assert named(report) == {"replayed": [START + 2]}
        assert report.proven


def test_an_event_after_the_window_is_an_event_again():
    """Dedup forgets by the window: what comes later is no failure of dedup."""
    histories = _doubled("exactly-once")
    evidence = [one.evidence() for one in histories]
    evidence[0].times[-1] += 8 * 86_400_000
    report = audit("raw.p", "normalize.p", evidence, window_seconds=7 * 86_400)
    assert named(report) == {"again": [START + 2]}
    assert report.proven
    assert not audit("raw.p", "normalize.p", evidence, window_seconds=9 * 86_400).proven


def test_a_duplicate_that_was_written_all_the_same_is_doubled():
    """By an attempt that died without dedup; under exactly-once nothing explains it."""
    for delivery in ("at-least-once", "exactly-once"):
        history = History("ed", delivery=delivery)
        history.events.append(history.events[0]._replace(offset=START + 1))
        report = history.audit()
        assert report.proven is (delivery == "at-least-once")
        assert START + 1 in named(report)["doubled"]


def test_two_equal_items_of_one_record_are_two_events():
    """A batch may say one thing twice: the page counts both, and neither is a copy."""
    history = History("e")
    history.events = [Origin(b"i" * 16, 0, START, item, REVISION) for item in (0, 1)]
    page = Page(first_offset=START, next_offset=START)
    page.add(START, "e", [b"i" * 16, b"i" * 16], (), 0)
    history.pages = list(page.entries(0, REVISION, "at-least-once"))
    assert named(history.audit()) == {}


def test_one_record_that_says_a_thing_twice_is_not_doubled():
    """Only another record with the same id doubles it, and that is named once."""
    history = History("ed", delivery="exactly-once")
    same = history.events[0].event_id
    twins = [Origin(same, 0, START + 1, item, REVISION) for item in (0, 1)]
    history.events = [history.events[0], *twins]
    (check,) = [one for one in history.audit().checks if one.name == "doubled"]
    assert (check.count, check.where) == (1, (Where(0, START + 1, START + 1),))
    # Of a duplicate's own two items, neither excuses the other.
    alone = History("id")
    alone.events = twins
    assert named(alone.audit()) == {"nothing else": [START + 1]}


def _pointed_elsewhere(data, history, at, one, event_id):
    """Another record, that has nothing to do with the event; or another end of its id."""
    if data.draw(st.booleans()):
        return one, bytes([event_id[0]] * 15) + bytes([event_id[15] ^ 1])
    standing = {origin.offset for origin in history.events if origin.event_id == event_id}
    followed = {
        offset
        for offset, firsts in history.firsts.items()
        if offset != at and any(seen == event_id for _, seen in firsts)
    }
    others = set(range(START, at + 1)) - standing - followed
    return one._replace(offset=data.draw(st.sampled_from(sorted(others)))), event_id


WITH_DUPLICATES = FATES.filter(lambda fates: "d" in fates.lstrip("dil-"))


@given(st.data())
def test_a_duplicate_of_nothing_is_named(data):
    """By its own offset, wherever in the range its page says that its event stands."""
    history = History(data.draw(WITH_DUPLICATES), pages=[1], mixed=True)
    offset = data.draw(st.sampled_from([at for at, firsts in history.firsts.items() if firsts]))
    one, event_id = history.firsts[offset][0]
    one = one._replace(offset=max(one.offset, START))
    wrong = _pointed_elsewhere(data, history, offset, one, event_id)
    history.firsts[offset] = [wrong]
    page = offset - START
    history.pages.pop(page)
    events, letters = list(history.events), list(history.letters)
    history.page(page, page + 1)
    history.pages.insert(page, history.pages.pop())
    history.events, history.letters = events, letters
    report = history.audit()
    assert named(report) == {"duplicates": [offset]}
    assert not report.proven


def test_a_consumer_that_drops_everything_is_not_proven():
    """Its pages agree with its topics: only the events that are nowhere tell."""
    history = History("eeee")
    history.events = []
    history.pages = []
    history.fates = "dddd"
    somewhere = (First(0, START, received_at=0, revision=1), bytes(16))
    history.firsts = {START + at: [somewhere] for at in range(4)}
    history.page(0, 4)
    report = history.audit()
    assert named(report) == {"duplicates": [START, START + 1, START + 2, START + 3]}
    assert report.verdict == "Not proven: duplicates of events that are not in the output: 4."


def _chain(*links, events=(), **options):
    """Records that each stand for another one, by offset, of one event; START has it or not."""
    history = History("e" + "d" * len(links))
    same = b"s" * 16
    history.events = [Origin(same, 0, START, 0, REVISION)]
    history.pages = []
    history.firsts = {
        START + at: [(First(0, START + link, received_at=0, revision=1), same)]
        for at, link in enumerate(links, 1)
    } | {START: []}
    history.page(0, 1 + len(links))
    history.events = [Origin(same, 0, START + at, 0, REVISION) for at in events]
    return history.audit(**options)


def test_a_duplicate_of_a_duplicate_is_followed():
    """A record that was done again may have become one after others stood for it."""
    report = _chain(0, 1, 2, 3, events=(0,))
    assert (named(report), report.proven) == ({}, True)
    report = _chain(0, 1, 2, 3)
    everything = [START + 1, START + 2, START + 3, START + 4]
    assert named(report, "duplicates") == {"duplicates": everything}
    assert named(_chain(1, 2, events=(0,))) == {"duplicates": [START + 1, START + 2]}
    report = _chain(-1, 1, 2, events=(0,))
    assert named(report, "duplicates", "not checked") == {"not checked": everything[:3]}


def test_without_an_id_any_event_of_the_record_will_do():
    """A page need not tell the ids; then the record is all that is looked for."""
    for there, unfounded in ((True, []), (False, [START + 1])):
        history = History("ed", pages=[1])
        page = Page(first_offset=START + 1, next_offset=START + 1)
        page.add(START + 1, "d", [], [First(0, START, received_at=0, revision=1)], 0)
        history.pages[1:] = page.entries(0, REVISION, "at-least-once")
        if not there:
            history.events = []
        assert named(history.audit(), "duplicates").get("duplicates", []) == unfounded


def test_duplicates_of_each_other_are_named():
    """Following them ends, and finds nothing."""
    circle = [History("d", partition=partition) for partition in (0, 1)]
    for one in circle:
        there = First(1 - one.partition, START, received_at=0, revision=1)
        one.firsts, one.pages = {START: [(there, b"s" * 16)]}, []
        one.page(0, 1)
    report = _audit(circle)
    (check,) = [one for one in report.checks if one.name == "duplicates"]
    assert check.where == (Where(0, START, START), Where(1, START, START))
    assert not report.proven


def test_what_was_not_checked_is_said_and_not_called_good():
    """An event before the range, in another partition, or so old that it may be deleted."""
    before = _chain(-1, 0, events=(0,))
    (note,) = [one for one in before.checks if one.name == "not checked"]
    assert (note.verdict, note.count) == ("note", 1)
    assert note.where == (Where(0, START + 1, START + 1),)
    assert "duplicates" not in {one.name for one in before.checks}
    assert before.proven
    assert before.verdict.endswith("says, but for 1 duplicates that were not checked.")
    old = _chain(0, 1, retention=Retention(events=TIME + START + 1))
    assert named(old, "duplicates", "not checked") == {"not checked": [START + 1, START + 2]}
    gone = _chain(0, retention=Retention(events=TIME + START))
    assert named(gone, "duplicates") == {"duplicates": [START + 1]}


def test_the_mapping_is_taken_at_its_word():
    """What it ignores could have meant something; how much that is, stands there."""
    report = History("eiie").audit()
    (check,) = [one for one in report.checks if one.name == "ignored"]
    assert (check.verdict, check.text) == ("note", "ignored: 2, by the mapping's word")
    assert any(line.endswith("ignored: 2, by the mapping's word") for line in report_lines(report))
    assert "ignored" not in {one.name for one in History("ee").audit().checks}


def test_an_event_of_no_record_and_no_page_is_named():
    """Where neither the raw topic nor the ledger has anything, an event is made up."""
    history = History("e--e", pages=[1, 2, 1])
    del history.pages[1]
    history.events.append(Origin(b"x" * 16, 0, START + 1, 0, REVISION))
    history.letters.append(START + 2)
    assert named(history.audit()) == {"nothing else": [START + 1, START + 2]}


def test_work_under_way_is_no_error():
    """Events and dead letters beyond the committed offset are counted, not judged."""
    history = History("ee")
    evidence = history.evidence()
    evidence.event(Origin(b"x" * 16, 0, history.end, 0, REVISION))
    evidence.letter(history.end + 1, REVISION)
    report = audit("raw.p", "normalize.p", [evidence])
    assert report.proven
    (check,) = [one for one in report.checks if one.name == "under way"]
    assert check.count == 2


def test_retention_is_not_blamed_on_the_consumer():
    """What is older than the output or the dead letters reach back is told, not accused."""
    history = History("elel", pages=[2])
    history.events = [one for one in history.events if one.offset != START]
    history.letters.remove(START + 1)
    young = TIME + START + 2
    report = history.audit(retention=Retention(events=young, letters=young))
    assert report.proven
    assert named(report) == {"deleted": [START, START + 1], "not compared": [START, START + 1]}
    assert failed(history.audit()) == {"events", "dead letters", "sums"}


def test_a_record_of_the_ledger_that_is_no_page_is_named():
    """By its own offset: whose fates it told, nobody can know."""
    evidence = History("e").evidence()
    evidence.unread_pages.append(77)
    report = audit("raw.p", "normalize.p", [evidence])
    assert named(report) == {"pages": [77]}
    assert not report.proven


def test_nothing_is_proven_of_nothing():
    """A range without a record is no proof, whatever else is there: a wrong one is noticed."""
    for nothing in (Evidence(0, 5, 5, 5), History("--").evidence()):
        report = audit("raw.p", "normalize.p", [nothing])
        assert not report.proven
        assert failed(report) == set()
        assert report.verdict.startswith("Nothing is proven: normalize.p has committed no record")
        assert not any(one.verdict == "ok" for one in report.checks)
        assert not any(line.startswith("  ok") for line in report_lines(report))
    assert audit("raw.p", "normalize.p", [Evidence(1, 5, 5, 5), History("e").evidence()]).proven


def _pages(*ends):
    found = []
    for first, end in ends:
        page = Page(first_offset=first, next_offset=first)
        page.skip_to(end)
        found += page.entries(0, REVISION, "at-least-once")
    return found


@pytest.mark.parametrize(
    ("asked", "committed", "log_start", "cut", "expected"),
    [
        ((0, 30), 30, 0, False, (0, 30)),
        ((12, 25), 30, 0, False, (10, 30)),
        ((12, 15), 30, 0, False, (10, 20)),
        ((12, 30), 30, 12, False, (20, 30)),  # the raw log begins within a page
        ((12, 30), 30, 10, False, (10, 30)),
        ((0, 40), 25, 0, False, (0, 25)),  # a reset to within a page
        ((0, 40), 30, 0, False, (0, 30)),
        ((5, 5), 30, 0, False, (5, 5)),
        ((0, 9), 0, 0, False, (0, 0)),
    ],
)
def test_a_range_grows_to_whole_pages(asked, committed, log_start, cut, expected):
    """Never beyond what is committed, nor before the raw log's start."""
    pages = _pages((0, 10), (10, 20), (20, 30))
    assert edges(asked, committed, log_start, pages, cut=cut)[:2] == expected


def test_a_range_grows_to_the_last_page_that_tells_of_it():
    """Where pages overlap, the earlier ones are not believed."""
    pages = _pages((0, 10), (10, 20), (8, 30))
    assert edges((12, 15), 30, 0, pages, cut=False)[:2] == (8, 30)


def test_what_came_before_the_ledgers_own_start_is_not_claimed():
    """Where retention deleted pages, the proof begins at the first one left, and says so."""
    pages = _pages((10, 20), (20, 30))
    first, end, before = edges((0, 30), 30, 0, pages, cut=True)
    assert (first, end) == (10, 30)
    assert "before offset 10" in before
    # Where nothing was deleted, a missing first page is missing.
    assert edges((0, 30), 30, 0, pages, cut=False) == (0, 30, "")
    assert edges((0, 30), 30, 0, [], cut=True)[:2] == (30, 30)


def test_histories_here_are_what_a_consumer_writes():
    """The pages of these tests pass through Kafka's bytes as real ones do."""
    history = History("eebdil-e", pages=[3])
    for page in history.pages:
        assert read_entry(msgspec.json.encode(page), 0) == page
    assert copy.deepcopy(history).audit().proven


# -- the reading, on the real Kafka --


class Topics:
    """A provider's topics of one test, written as gateway and consumer write them."""

    provider = "veriff"

    def __init__(self, made, *, transactional=False):
        self.prefix, self.config = made.prefix, {"bootstrap.servers": made.bootstrap}
        self.environ = {"KAFKA_BOOTSTRAP_SERVERS": made.bootstrap, "TOPIC_PREFIX": made.prefix}
        self.raw, self.group = raw_topic("veriff", made.prefix), group_id("veriff", made.prefix)
        self.transactional = transactional
        self.delivery = "exactly-once" if transactional else "at-least-once"
        self.encode = encoder(single_object_prefix())
        self.producer = Producer(self.config)
        self.consumers = self.producer
        if transactional:
            self.consumers = Producer({**self.config, "transactional.id": f"{made.prefix}x"})
            self.consumers.init_transactions()
        self.next_offsets = {}
        self.last = None, None

    def send(self, partition, count, headers=()):
        """Write raw records; give their offsets."""
        first = self.next_offsets.get(partition, 0)
        for _ in range(count):
            self.producer.produce(self.raw, b"{}", partition=partition, headers=list(headers))
        self.producer.flush()
        self.next_offsets[partition] = first + count
        return range(first, first + count)

    def handle(
        self,
        partition,
        offsets,
        codes="e",
        *,
        ids=None,
        commit=True,
        forget="",
        of=None,
        revision=1,
    ):
        """Do records as a consumer would, one page; `forget` names what is not written.

        `of` is the record and the event that duplicates are said to stand for, else the last one.
        """
        page = Page(first_offset=offsets[0], next_offset=offsets[0])
        if self.transactional:
            self.consumers.begin_transaction()
        for at, offset in enumerate(offsets):
            code = codes[at % len(codes)]
            written = [uuid.uuid4().bytes] if code in "eb" else []
            written = [ids[at]] if ids and written else written
            for event_id in written:
                value = self.encode(
                    event(
                        event_id=str(uuid.UUID(bytes=event_id)), raw_topic=self.raw,
                        raw_partition=partition, raw_offset=offset,
                        mapping_revision=revision,
                    )
                )  # fmt: skip
                if "event" not in forget:
                    self.consumers.produce(output_topic(self.prefix), value, key=event_id)
                    self.last = (First(partition, offset, received_at=0, revision=1), event_id)
            if code in "lb" and "letter" not in forget:
                record = Record(
                    topic=self.raw, partition=partition, offset=offset, timestamp=0, key=None,
                    value=b"{}", headers=[],
                )  # fmt: skip
                letter = dead_letter(
                    record, Failure("bug"), dead_topic("veriff", self.prefix), revision
                )
                self.consumers.produce(letter.topic, letter.value, headers=letter.headers)
            first, seen = of or self.last
            dropped = [seen] if code == "d" else []
            page.add(offset, code, written, [first] * len(dropped), int(code in "lb"), dropped)
        if "page" not in forget:
            ledger = ledger_topic("veriff", self.prefix)
            for output in page_outputs(page, ledger, partition, revision, self.delivery):
                self.consumers.produce(output.topic, output.value, partition=partition)
        if self.transactional:
            self.consumers.commit_transaction()
        self.consumers.flush()
        if commit:
            self.commit(partition, offsets[-1] + 1)

    def commit(self, partition, offset, metadata=None):
        """Commit as a member of the group would, then leave."""
        text = passport.written(PASSPORT) if metadata is None else metadata
        consumer = Consumer({**self.config, "group.id": self.group})
        consumer.commit(
            offsets=[TopicPartition(self.raw, partition, offset, metadata=text)],
            asynchronous=False,
        )
        consumer.close()

    def gathered(self, asked=EVERYTHING):
        return evidence.gather(self.config, "veriff", self.prefix, asked)

    def report(self, asked=EVERYTHING, **options):
        found, retention, unread = self.gathered(asked)
        return audit(self.raw, self.group, found, retention=retention, unread=unread, **options)

    def delete_before(self, topic, partition, offset):
        """Let the log begin later, as retention would."""
        delete_records(AdminClient(self.config), {(topic, partition): offset})


@pytest.fixture
def written(topics):
    return Topics(topics())


@pytest.mark.kafka
@pytest.mark.parametrize("transactional", [False, True])
def test_an_audit_reads_what_was_written(topics, transactional):
    """In either delivery mode: markers are no records, and every topic is read to its end."""
    written = Topics(topics(), transactional=transactional)
    for partition in (0, 3):
        for codes in ("e", "eebdil"):
            written.handle(partition, written.send(partition, 20), codes)
    written.send(2, 4)
    report = written.report(exactly_once=transactional)
    assert report.proven, report_lines(report)
    assert named(report) == {}
    assert report.verdict.startswith(f"Proven: each of 80 raw records of {written.raw} had")
    assert report.deliveries == (written.delivery,)
    by_number = {one.partition: one for one in report.partitions}
    assert {number: one.records for number, one in by_number.items()} == {0: 40, 2: 0, 3: 40}
    assert by_number[2].before == "nothing is committed"
    assert by_number[3].fates == {"e": 28, "b": 3, "d": 3, "i": 3, "l": 3}


@pytest.mark.kafka
def test_an_audit_waits_for_what_was_committed_behind_an_open_transaction(topics):
    """Somebody else's transaction holds the shared topic back; its end is waited for."""
    written = Topics(topics(), transactional=True)
    other = Producer({**written.config, "transactional.id": f"{written.prefix}other"})
    other.init_transactions()
    other.begin_transaction()
    for partition in range(12):
        other.produce(output_topic(written.prefix), b"x", partition=partition)
    other.flush()
    written.handle(0, written.send(0, 10))
    ending = threading.Timer(2.0, other.commit_transaction)
    ending.start()
    report = written.report()
    ending.join()
    assert named(report) == {}
    assert report.proven


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("forget", "expected"),
    [("event", {"events", "sums"}), ("letter", {"dead letters"}), ("page", {"coverage"})],
)
def test_an_audit_names_what_was_not_written(written, forget, expected):
    """The very offsets, on the real Kafka as in the tests without it."""
    written.handle(0, written.send(0, 4), "el")
    written.handle(0, written.send(0, 2), "el", forget=forget)
    written.handle(0, written.send(0, 4), "el")
    report = written.report()
    assert failed(report) == expected
    offsets = {"event": [4], "letter": [5], "page": [4, 5]}[forget]
    assert named(report)[min(expected)] == offsets


@pytest.mark.kafka
def test_an_audit_looks_for_the_event_of_each_duplicate(written):
    """Where the page says it stands: there it is, it never was, or it is out of the range."""
    written.handle(0, written.send(0, 4))
    there = written.last
    written.handle(1, written.send(1, 4), "d", of=there)
    assert named(written.report()) == {}
    part = written.report(Wanted(offsets={1: (0, 3)}))
    assert named(part, "not checked") == {"not checked": [0, 1, 2, 3]}
    assert (part.proven, failed(part)) == (True, set())
    written.handle(1, written.send(1, 2), "d", of=(there[0], bytes(16)))
    report = written.report()
    assert (named(report), report.proven) == ({"duplicates": [4, 5]}, False)


@pytest.mark.kafka
def test_an_audit_of_a_part_reads_whole_pages(written):
    """By offsets and by time; what comes later is not read into it."""
    first = written.send(2, 10)
    written.handle(2, first)
    between = int(time.time() * 1000) + 1
    while time.time() * 1000 <= between:
        pass
    written.handle(2, written.send(2, 10), "eil")
    written.handle(2, written.send(2, 10))
    (part,) = written.report(Wanted(offsets={2: (12, 15)})).partitions
    assert (part.first, part.next_offset, part.events) == (10, 20, 4)
    late = written.report(Wanted(since=between))
    assert [(one.first, one.next_offset) for one in late.partitions] == [(10, 30)]
    early = written.report(Wanted(until=between))
    assert [(one.first, one.next_offset) for one in early.partitions] == [(0, 10)]
    assert late.proven
    assert early.proven
    assert named(late) == named(early) == {}


@pytest.mark.kafka
def test_an_audit_begins_where_retention_left_something(written):
    """The raw log within a page, and the ledger: it says from where on it can prove."""
    for _ in range(3):
        written.handle(0, written.send(0, 10))
    written.delete_before(written.raw, 0, 4)
    report = written.report()
    (proof,) = report.partitions
    assert (proof.first, proof.next_offset) == (10, 30)
    assert "the raw log begins at offset 4, within the page of 0-9" in proof.before
    written.delete_before(ledger_topic("veriff", written.prefix), 0, 2)
    report = written.report()
    (proof,) = report.partitions
    assert (proof.first, proof.next_offset) == (20, 30)
    assert "before offset 20" in proof.before
    assert report.proven


@pytest.mark.kafka
@pytest.mark.parametrize("by_size", [False, True])
def test_an_audit_knows_what_retention_can_have_taken(topics, by_size):
    """Nothing younger than the topic's retention: that is missing. By size, it may be anything."""
    written = Topics(topics(**{"dlq.retention.bytes": 10**9 if by_size else -1}))
    written.handle(0, written.send(0, 4), "el")
    for partition in range(3):
        written.delete_before(dead_topic("veriff", written.prefix), partition, OFFSET_END)
    report = written.report()
    if by_size:
        assert (named(report), report.proven) == ({"deleted": [1, 3]}, True)
    else:
        assert (named(report), report.proven) == ({"dead letters": [1, 3]}, False)


@pytest.mark.kafka
def test_an_audit_sees_a_replay_and_work_done_again(written):
    """A replayed record says so in a header; a page that was not committed is done again."""
    ids = [uuid.uuid4().bytes for _ in range(4)]
    first = written.send(0, 4)
    written.handle(0, first, ids=ids, commit=False)
    written.handle(0, first, ids=ids)
    again = written.send(1, 2, headers=[(REPLAY_OF, b"raw/0/0")])
    written.handle(1, again, ids=ids)
    written.handle(1, written.send(1, 1), ids=ids[3:])
    report = written.report()
    assert report.proven
    assert named(report) == {
        "one fate": [0, 1, 2, 3], "written again": [0, 1, 2, 3], "replayed": [0, 1],
        "doubled": [2],
    }  # fmt: skip
    assert not written.report(exactly_once=True).proven


@pytest.mark.kafka
@pytest.mark.parametrize(("before", "after"), ["le", "el", "li", "ll"])
def test_an_audit_excuses_what_another_mapping_left_behind(written, before, after):
    """Killed before its commit; the mended mapping does the same records again."""
    offsets = written.send(0, 4)
    written.handle(0, offsets, before, commit=False, forget="page", revision=2)
    written.handle(0, offsets, after, revision=3)
    report = written.report()
    assert named(report) == {"other revision": [0, 1, 2, 3]}
    assert report.proven
    assert failed(written.report(exactly_once=True)) == {"other revision"}


@pytest.mark.kafka
def test_an_audit_tells_what_cannot_be_read(written):
    """Records that are neither page nor event, in places where such must stand."""
    written.handle(0, written.send(0, 4))
    written.producer.produce(ledger_topic("veriff", written.prefix), b"{}", partition=0)
    tail = written.encode(event(raw_topic=written.raw))[-30:]
    placed = []
    written.producer.produce(
        output_topic(written.prefix),
        b"?" + tail,
        partition=1,
        on_delivery=lambda _error, message: placed.append(message.offset()),
    )
    for forged in FORGED.values():
        written.producer.produce(
            output_topic(written.prefix),
            _forged(written.raw, **forged),
            partition=1,
            on_delivery=lambda _error, message: placed.append(message.offset()),
        )
    written.producer.produce(output_topic(written.prefix), b"anything", partition=1)
    written.producer.produce(output_topic(written.prefix), None, key=b"tombstone", partition=1)
    written.producer.flush()
    report = written.report()
    assert named(report) == {"pages": [1], "output": placed}
    assert not report.proven


@pytest.mark.kafka
def test_the_audit_command_exits_by_its_verdict(written):
    """0 and a sentence when proven; 1 when not, with the offsets; --json holds everything."""
    code, out, _ = consumers("audit", "veriff", **written.environ)
    assert code == 1
    assert out.splitlines()[-1].startswith("Nothing is proven: ")
    assert "  ok  " not in out
    written.handle(0, written.send(0, 4))
    code, out, err = consumers("audit", "veriff", **written.environ)
    assert (code, out.splitlines()[-1].split(":")[0]) == (0, "Proven")
    assert f"reading {written.raw}, 4 offsets" in err
    written.handle(0, written.send(0, 4), forget="event")
    code, out, _ = consumers("audit", "veriff", **written.environ)
    assert code == 1
    assert "0:4-7" in out
    assert out.splitlines()[-1] == (
        "Not proven: records whose events are not in the output: 4; pages whose events are not as "
        "many, or not those, that they tell of: 1."
    )
    code, out, _ = consumers("audit", "veriff", "--json", **written.environ)
    said = json.loads(out)
    assert (code, said["proven"]) == (1, False)
    (check,) = [one for one in said["checks"] if one["name"] == "events"]
    assert check["where"] == [{"partition": 0, "first": 4, "last": 7}]
    code, _, err = consumers("audit", "veriff", "--offset", "99:0-1", **written.environ)
    assert code == 2
    assert "no partition 99" in err


@pytest.mark.kafka
def test_the_audit_command_looks_back_as_dedup_does(written):
    """As CONSUMER_DEDUP_DAYS says, 0 for not at all, unless it is told a window of its own."""
    same = [uuid.uuid4().bytes]
    for _ in range(2):
        written.handle(0, written.send(0, 1), ids=same)
    unseen = {**written.environ, "CONSUMER_DEDUP_DAYS": "0"}
    for arguments, environ, again in (
        ((), written.environ, "doubled"),
        ((), unseen, "again"),
        (("--window", "1"), unseen, "doubled"),
        (("--window", "0"), written.environ, "again"),
    ):
        command = ["audit", "veriff", "--json", "--exactly-once", *arguments]
        code, out, _ = consumers(*command, **environ)
        told = {one["name"] for one in json.loads(out)["checks"] if one["where"]}
        assert (code, told) == (int(again == "doubled"), {again})
    code, _, err = consumers(
        "audit", "veriff", **{**written.environ, "CONSUMER_DEDUP_DAYS": "a week"}
    )
    assert (code, "CONSUMER_DEDUP_DAYS is 'a week'" in err) == (2, True)


def test_without_a_word_dedup_looks_back_a_day_longer_than_the_provider_tries():
    """The same in a consumer and in an audit."""
    assert dedup_days(None, 7) == 8
    assert dedup_days(0, 7) == 0
    assert dedup_days(30, 7) == 30


def test_a_cluster_that_says_nothing_of_its_logs_is_told(monkeypatch):
    """Half an answer proves nothing."""
    monkeypatch.setattr(evidence, "answered", lambda *_, **__: {("t", 0): 1})
    gathering = evidence._Gathering(None, {}, lambda _text: None)
    with pytest.raises(RangeUnread, match="t does not say where its log begins and ends"):
        gathering._log_offsets("t", [0, 1], None)
