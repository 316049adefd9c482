"""The ledger's pages: cheap to write, readable by anyone, read back strictly; and origins."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import passport
from consumers.codec import confluent_prefix, encoder, schema_text, single_object_prefix
from consumers.event import VerificationEvent
from consumers.ledger import LedgerFormatError, Page, modular, page_output, read_entry, sum_of
from consumers.origin import Origin, origin_reader
from consumers.passport import Passport

IDS = st.binary(min_size=16, max_size=16)


@st.composite
def entered(draw):
    """A page and the fates that were entered into it: offset -> code, and the ids written."""
    first = draw(st.integers(0, 2**40))
    page = Page(first_offset=first, next_offset=first)
    offset, fates, written, duplicates, letters = first, {}, [], 0, 0
    for code in draw(st.text("ebdil-", min_size=1, max_size=60)):
        if code != "-":
            ids = draw(st.lists(IDS, min_size=1, max_size=3)) if code in "eb" else []
            twice = draw(st.integers(0, 2)) + (code == "d")
            page.add(offset, code, ids, twice, int(code in "lb"))
            fates[offset] = code
            written += ids
            duplicates += twice
            letters += code in "lb"
        offset += 1
    page.skip_to(offset)
    return page, first, offset, fates, written, duplicates, letters


@given(entered())
def test_a_page_comes_back_as_it_was_entered(made):
    """Every offset with its fate, the counts, and the sum of the ids that were written."""
    page, first, end, fates, written, duplicates, letters = made
    entry = read_entry(page_output(page, "ledger.p", 5, 7).value, 5)
    assert (entry.first_offset, entry.next_offset, entry.revision) == (first, end, 7)
    codes = "".join(length * code for length, code in entry.runs())
    assert codes == "".join(fates.get(offset, "-") for offset in range(first, end))
    assert entry.events == page.events == len(written)
    assert (entry.duplicates, entry.letters) == (duplicates, letters)
    assert entry.event_sum == sum(int.from_bytes(one, "big") for one in written) % 2**128


def test_a_page_is_a_line_that_a_person_reads():
    """Compact JSON on the raw partition's own number; the sum as text, which no tool rounds."""
    page = Page(first_offset=1200, next_offset=1200, delivery="exactly-once")
    for offset in range(1200, 1320):
        page.add(offset, "e", [b"\x01" * 16], 0, 0)
    for offset in range(1320, 1323):
        page.add(offset, "d", [], 1, 0)
    page.add(1323, "l", [], 0, 1)
    output = page_output(page, "ledger.p", 3, 2)
    assert (output.topic, output.partition, output.key) == ("ledger.p", 3, None)
    assert output.value.count(b"\n") == output.value.count(b" ") == 0
    assert json.loads(output.value) == {
        "v": 1, "partition": 3, "from": 1200, "to": 1324, "fates": "120e3d1l", "events": 120,
        "duplicates": 3, "letters": 1, "sum": "78" * 16, "delivery": "exactly-once", "revision": 2,
    }  # fmt: skip


def test_gaps_before_within_and_after_are_covered():
    """Offsets that transaction markers took are no record's, however many they are."""
    page = Page(first_offset=10, next_offset=12)
    page.add(12, "e", [b"a" * 16], 0, 0)
    page.add(2**50, "i", [], 0, 0)
    page.skip_to(2**50 + 1)
    page.skip_to(2**50 + 4)
    entry = page.entry(0, 1)
    assert entry.fates == f"2-1e{2**50 - 13}-1i3-"
    assert read_entry(msgspec.json.encode(entry), 0) == entry


def test_an_offset_has_one_fate():
    """A second one is the loop's mistake, and is not entered."""
    page = Page(first_offset=0, next_offset=0)
    page.add(4, "i", [], 0, 0)
    for again in (0, 4):
        with pytest.raises(ValueError, match=f"offset {again} has its fate already: 5 is next"):
            page.add(again, "i", [], 0, 0)
    assert page.entry(0, 1).fates == "4-1i"


def test_sums_are_modulo_2_to_the_128():
    """They neither grow without bound nor depend on the order."""
    ids = [b"\xff" * 16, b"\xff" * 16, b"\x00" * 15 + b"\x05"]
    assert sum_of(ids) == sum_of(reversed(ids)) == 3
    assert modular(2**128 + 9) == 9


GOOD = {
    "v": 1, "partition": 0, "from": 5, "to": 10, "fates": "2e1d1l1-", "events": 3,
    "duplicates": 2, "letters": 1, "sum": "0" * 31 + "7", "delivery": "at-least-once",
    "revision": 4,
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
        ({"duplicates": 0}, "duplicates"),
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
    given = Passport(mapping_revision=3, last_record_at=1, recent={"t": [(28_000_000, 5, 2)]})
    assert passport.read(passport.written(given)) == given
    minutes = [(28_000_000 + minute, 5, 2) for minute in range(400)]
    long = Passport(mapping_revision=3, last_record_at=1, recent={"t": minutes})
    assert passport.read(passport.written(long)) == Passport(mapping_revision=3, last_record_at=1)


@pytest.mark.parametrize(
    "text",
    [None, "", "-", "{}", '{"mapping_revision":1}', '{"mapping_revision":1,"last_record_at":-1}',
     '{"mapping_revision":1,"last_record_at":999999999999999999}', "\ud800"],
)  # fmt: skip
def test_what_is_no_passport_is_none(text):
    """Anyone may commit for a group; a time that cannot be shown is none."""
    assert passport.read(text) is None
