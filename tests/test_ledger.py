"""The ledger's pages: cheap to write, readable by anyone, read back strictly; and origins."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import ledger, passport
from consumers.codec import confluent_prefix, encoder, schema_text, single_object_prefix
from consumers.dedup import First
from consumers.event import VerificationEvent
from consumers.ledger import (
    MOST_DUPLICATES,
    MOST_RECORDS,
    Duplicate,
    LedgerFormatError,
    Page,
    modular,
    page_outputs,
    read_entry,
    sum_of,
)
from consumers.origin import Origin, origin_reader
from consumers.passport import Passport
from gateway.delivery import BOOKS_MESSAGE_BYTES

IDS = st.binary(min_size=16, max_size=16)


AT_LEAST_ONCE = "at-least-once"


def stands_at(partition, offset):
    """Where an event was written; a page tells nothing of when, and under which mapping."""
    return First(partition, offset, received_at=0, revision=1)


def entries_of(page, partition=0, revision=1):
    """The page's records of the ledger, read again."""
    outputs = page_outputs(page, "ledger.p", partition, revision, AT_LEAST_ONCE)
    assert {(one.topic, one.partition, one.key) for one in outputs} == {
        ("ledger.p", partition, None)
    }
    return [read_entry(one.value, partition) for one in outputs]


@st.composite
def entered(draw):
    """A page of partition 5 and what was entered: fates by offset, ids written, duplicates."""
    first = draw(st.integers(0, 2**40))
    page = Page(first_offset=first, next_offset=first)
    offset, fates, written, duplicates, letters = first, {}, {}, [], 0
    for code in draw(st.text("ebdil-", min_size=1, max_size=60)):
        if code != "-":
            ids = draw(st.lists(IDS, min_size=1, max_size=3)) if code in "eb" else []
            seen = []
            if code != "i":
                earlier = st.builds(stands_at, st.integers(0, 9), st.integers(0, offset))
                seen = draw(st.lists(earlier, min_size=int(code == "d"), max_size=2))
            dropped = draw(st.just([]) | st.lists(IDS, min_size=len(seen), max_size=len(seen)))
            page.add(offset, code, ids, seen, int(code in "lb"), dropped)
            fates[offset] = code
            written[offset] = ids
            tails = [one[-4:].hex() for one in dropped] or [""] * len(seen)
            duplicates += [
                Duplicate(offset, one.partition, one.offset, tail)
                for one, tail in zip(seen, tails, strict=True)
            ]
            letters += code in "lb"
        offset += 1
    page.skip_to(offset)
    return page, first, offset, fates, written, duplicates, letters


@given(entered(), st.integers(1, 9), st.integers(1, 4))
def test_a_page_comes_back_as_it_was_entered(made, most_records, most_duplicates):
    """Every offset with its fate, the counts, the sum of what was written, and each duplicate.

    Where that is too much for one record of the ledger, each of several tells of its own offsets.
    """
    page, first, end, fates, written, duplicates, letters = made
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger, "MOST_RECORDS", most_records)
        patched.setattr(ledger, "MOST_DUPLICATES", most_duplicates)
        entries = entries_of(page, 5, 7)
    at, codes, firsts = first, "", []
    for entry in entries:
        assert (entry.first_offset, entry.revision) == (at, 7)
        own = range(entry.first_offset, entry.next_offset)
        assert sum(offset in fates for offset in own) <= most_records
        told = list(entry.firsts())
        assert len(told) <= most_duplicates or len({one.offset for one in told}) == 1
        ids = [one for offset in own for one in written.get(offset, [])]
        assert (entry.events, entry.event_sum) == (len(ids), sum_of(ids))
        codes += "".join(length * code for length, code in entry.runs())
        firsts += told
        at = entry.next_offset
    assert at == end
    assert codes == "".join(fates.get(offset, "-") for offset in range(first, end))
    assert firsts == duplicates
    assert sum(entry.duplicates for entry in entries) == len(duplicates)
    assert sum(entry.letters for entry in entries) == letters


def test_a_page_is_a_line_that_a_person_reads():
    """Compact JSON on the raw partition's own number; the sum as text, which no tool rounds."""
    page = Page(first_offset=1200, next_offset=1200)
    for offset in range(1200, 1320):
        page.add(offset, "e", [b"\x01" * 16], (), 0)
    for offset in range(1320, 1323):
        page.add(
            offset, "d", [], [stands_at(3, offset - 100)], 0, [bytes(12) + b"\x01\x02\x03\xff"]
        )
    page.add(1323, "l", [], [stands_at(0, 77), stands_at(3, 1323)], 1)
    (output,) = page_outputs(page, "ledger.p", 3, 2, "exactly-once")
    assert (output.topic, output.partition, output.key) == ("ledger.p", 3, None)
    assert output.value.count(b"\n") == 0
    assert json.loads(output.value) == {
        "v": 1, "partition": 3, "from": 1200, "to": 1324, "fates": "120e3d1l", "events": 120,
        "duplicates": 5, "duplicates_of": "1320=3:1220/010203ff 1321=3:1221/010203ff "
        "1322=3:1222/010203ff 1323=0:77 1323=3:1323", "letters": 1, "sum": "78" * 16,
        "delivery": "exactly-once", "revision": 2,
    }  # fmt: skip


def test_a_record_of_the_ledger_is_far_below_its_topics_limit():
    """At the worst: as many records as fit, each alone, all the rest duplicates, long numbers."""
    first = 10**18
    page = Page(first_offset=first, next_offset=first)
    for number in range(2 * MOST_RECORDS):
        seen = [stands_at(999_999_999, 10**18)] if number < 2 * MOST_DUPLICATES else []
        page.add(first + number * 10**14 + 1, "l", [], seen, 1, [b"\xff" * 16] * len(seen))
    outputs = page_outputs(page, "ledger.p", 0, 1, AT_LEAST_ONCE)
    assert len(outputs) == 3
    for output in outputs:
        read_entry(output.value, 0)
        assert len(output.value) < BOOKS_MESSAGE_BYTES // 2
    page = Page(first_offset=0, next_offset=0)
    for number in range(5_000):  # a barrier full of duplicates, as they are
        page.add(number, "d", [], [stands_at(0, number)], 0, [b"\xff" * 16])
    (output,) = page_outputs(page, "ledger.p", 0, 1, AT_LEAST_ONCE)
    assert len(output.value) < 120_000


def test_one_record_is_not_torn_apart():
    """However many duplicates it has: its fate is one."""
    page = Page(first_offset=0, next_offset=0)
    for offset in range(3):
        page.add(offset, "d", [], [stands_at(1, 0)] * (MOST_DUPLICATES + 1), 0)
    assert [entry.fates for entry in entries_of(page)] == ["1d", "1d", "1d"]


def test_a_page_of_nothing_writes_nothing():
    """Nothing was done, so there is nothing to tell."""
    assert page_outputs(Page(first_offset=5, next_offset=5), "t", 0, 1, AT_LEAST_ONCE) == []


def test_gaps_before_within_and_after_are_covered():
    """Offsets that transaction markers took are no record's, however many they are."""
    page = Page(first_offset=10, next_offset=12)
    page.add(12, "e", [b"a" * 16], (), 0)
    page.add(2**50, "i", [], (), 0)
    page.skip_to(2**50 + 1)
    page.skip_to(2**50 + 4)
    (entry,) = entries_of(page)
    assert entry.fates == f"2-1e{2**50 - 13}-1i3-"
    (gap,) = entries_of(Page(first_offset=10, next_offset=12))
    assert gap.fates == "2-"


def test_an_offset_has_one_fate():
    """A second one is the loop's mistake, and is not entered."""
    page = Page(first_offset=0, next_offset=0)
    page.add(4, "i", [], (), 0)
    for again in (0, 4):
        with pytest.raises(ValueError, match=f"offset {again} has its fate already: 5 is next"):
            page.add(again, "i", [], (), 0)
        with pytest.raises(ValueError, match=f"offset {again} has its fate already: 5 is next"):
            page.skip_to(again)
    (entry,) = entries_of(page)
    assert entry.fates == "4-1i"


def test_sums_are_modulo_2_to_the_128():
    """They neither grow without bound nor depend on the order."""
    ids = [b"\xff" * 16, b"\xff" * 16, b"\x00" * 15 + b"\x05"]
    assert sum_of(ids) == sum_of(reversed(ids)) == 3
    assert modular(2**128 + 9) == 9


GOOD = {
    "v": 1, "partition": 0, "from": 5, "to": 10, "fates": "2e1d1l1-", "events": 3,
    "duplicates": 2, "duplicates_of": "7=0:7 7=1:99/0123abcd", "letters": 1,
    "sum": "0" * 31 + "7", "delivery": "at-least-once", "revision": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"v": 2}, "version 2"),
        ({"v": None}, "no page|not a page"),
        ({"partition": 1}, "partition 1"),
        ({"fates": "2e1d1l"}, "cover"),
        ({"fates": "2e1d1l1-1-"}, "cover"),
        ({"fates": "2e1d1l1x"}, "runs"),
        ({"fates": "2e1d1l0i1-"}, "runs"),
        ({"fates": ""}, "runs"),
        ({"fates": " 2e1d1l1-"}, "runs"),
        ({"fates": "2e1d1l1-\n"}, "runs"),
        ({"fates": "٢e1d1l1-"}, "runs"),
        ({"from": -1, "to": 4}, "cover"),
        ({"to": 5}, "cover"),
        ({"letters": 0}, "dead letters"),
        ({"events": 1}, "events"),
        ({"fates": "2i1d1l1-"}, "events"),
        ({"fates": "2i1d1l1-", "events": 0}, "sum"),
        ({"duplicates": 0}, "duplicates do not fit"),
        ({"duplicates": 1, "duplicates_of": "7=0:7"}, None),  # a good one
        ({"duplicates": 0, "duplicates_of": ""}, "duplicates do not fit"),
        ({"duplicates": 1, "duplicates_of": ""}, "duplicates do not fit"),
        ({"duplicates_of": None}, "not a page"),
        ({"duplicates_of": "7=0:8 7=1:99"}, "duplicates do not fit"),  # of a later record
        ({"duplicates_of": "6=0:1 6=1:99"}, "duplicates do not fit"),  # d without one
        ({"duplicates_of": "6=0:1 7=1:99"}, None),
        ({"duplicates_of": "7=1:99 8=0:1"}, None),
        ({"duplicates_of": "7=1:99 9=0:1"}, "duplicates do not fit"),  # of no record
        ({"duplicates_of": "7=1:99 6=0:1"}, "other offsets"),
        ({"duplicates_of": "4=0:1 7=1:99"}, "other offsets"),
        ({"duplicates_of": "7=1:99 10=0:1"}, "other offsets"),
        ({"duplicates_of": "7=0:7 7=1:99 "}, "named"),
        ({"duplicates_of": "7=0:7  7=1:99"}, "named"),
        ({"duplicates_of": "7=0:77=1:99"}, "named"),
        ({"duplicates_of": "7=0:7 7=1:99\n"}, "named"),
        ({"duplicates_of": "7=0:7 7=1:٢"}, "named"),
        ({"duplicates_of": "7=0:7 7=1:99/0123ABCD"}, "named"),
        ({"duplicates_of": "7=0:7 7=1:99/0123"}, "named"),
        ({"duplicates_of": "7=0:7 07=1:99"}, "named"),
        ({"duplicates_of": "7=0:7 7=1:99999999999999999999"}, "named"),
        ({"sum": "7"}, "sum"),
        ({"sum": "0" * 31 + "G"}, "sum"),
        ({"sum": 7}, "not a page"),
        ({"delivery": "at-most-once"}, "not a page"),
        ({"more": 1}, "not a page"),
    ],
)
def test_a_page_that_contradicts_itself_is_refused(change, words):
    """Nothing is read into it: what it says of itself must agree."""
    assert read_entry(json.dumps(GOOD).encode(), 0).events == 3
    if words is None:
        assert read_entry(json.dumps({**GOOD, **change}).encode(), 0)
        return
    with pytest.raises(LedgerFormatError, match=words):
        read_entry(json.dumps({**GOOD, **change}).encode(), 0)


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b"\xff", b"null"])
def test_what_is_no_page_is_refused(value):
    """Also what is no JSON, or has no value at all."""
    with pytest.raises(LedgerFormatError):
        read_entry(value, 0)


# -- the origin of an event, read narrowly --


def event(**fields):
    given = {
        "event_id": "01234567-89ab-8def-8123-456789abcdef", "provider": "p", "endpoint": "p",
        "native_type": "t", "occurred_at": 1, "received_at": 1, "raw_topic": "raw.p",
        "raw_partition": 0, "raw_offset": 0, "mapping_revision": 1,
    }  # fmt: skip
    return VerificationEvent(**{**given, **fields})


@given(
    st.uuids(),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.dictionaries(st.text(), st.text(), max_size=3),
    st.sampled_from([single_object_prefix(), confluent_prefix(0), confluent_prefix(2**31 - 1)]),
)
def test_an_origin_is_what_was_written(event_id, partition, offset, item, revision, notes, prefix):
    """In either framing, with any numbers and whatever stands in the fields between."""
    value = encoder(prefix)(
        event(
            event_id=str(event_id), raw_partition=partition, raw_offset=offset, item_index=item,
            mapping_revision=revision, attributes=notes,
        )
    )  # fmt: skip
    expected = Origin(event_id.bytes, partition, offset, item, revision)
    assert origin_reader("raw.p")(value) == expected
    assert origin_reader("raw.q")(value) is None


@pytest.mark.parametrize("topic", ["raw.p", "a.raw.p", "raw.pp", "p"])
def test_an_origin_is_of_its_own_topic_only(topic):
    """A name that ends or begins alike is another topic; so is one in another field."""
    value = encoder(single_object_prefix())(event(raw_topic=topic, attributes={"raw.p": "raw.p"}))
    found = origin_reader("raw.p")(value)
    assert (found is not None) is (topic == "raw.p")


@given(st.binary(max_size=80))
def test_foreign_values_have_no_origin(value):
    """Whatever is found in the topic, it is passed over."""
    assert origin_reader("raw.p")(value) is None


@pytest.mark.parametrize("damage", [b"", b"\x01", b"\x00\x00\x00\x00\x01"])
def test_an_event_that_is_damaged_is_not_passed_over(damage):
    """It names the topic where an event does: that it cannot be read must be told."""
    value = encoder(single_object_prefix())(event())
    with pytest.raises(ValueError):
        origin_reader("raw.p")(damage + value[value.index(b"raw.p") - 1 :])


def test_the_schema_has_the_origin_where_it_is_looked_for():
    """The id is the first field and a string, the coordinates are the last ones."""
    fields = json.loads(schema_text())["fields"]
    assert (fields[0]["name"], fields[0]["type"]) == ("event_id", "string")
    names = ["attributes", "item_index", "raw_topic", "raw_partition", "raw_offset"]
    assert [field["name"] for field in fields[-6:]] == [*names, "mapping_revision"]
    kinds = [{"type": "map", "values": "string"}, "int", "string", "int", "long", "int"]
    assert [field["type"] for field in fields[-6:]] == kinds


# -- the passport --


def test_a_passport_comes_back():
    """With the stall's window, as long as that fits into the broker's limit."""
    given = Passport(
        mapping_revision=3, last_record_at=28_000_000 * 60_000, recent={"t": [(28_000_000, 5, 2)]}
    )
    assert passport.read(passport.written(given)) == given
    minutes = [(28_000_000 + minute, 5, 2) for minute in range(400)]
    long = Passport(mapping_revision=3, last_record_at=28_000_000 * 60_000, recent={"t": minutes})
    assert passport.read(passport.written(long)) == Passport(
        mapping_revision=3, last_record_at=28_000_000 * 60_000
    )


@pytest.mark.parametrize(
    "text",
    [None, "", "-", "{}", '{"mapping_revision":1}', '{"mapping_revision":1,"last_record_at":-1}',
     '{"mapping_revision":1,"last_record_at":999999999999999999}', "\ud800"],
)  # fmt: skip
def test_what_is_no_passport_is_none(text):
    """Anyone may commit for a group; a time that cannot be shown is none."""
    assert passport.read(text) is None
