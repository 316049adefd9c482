"""Every fixture through the whole pure path: receive, normalize, encode, decode."""

import json

import msgspec
import pytest

from consumers.codec import decode, encoder, single_object_prefix
from consumers.event import VOCABULARIES
from consumers.fate import Fates
from consumers.metrics import Meter
from consumers.normalizers import NORMALIZERS
from consumers.records import Record
from gateway.delivery import raw_topic
from gateway.headers import Headers
from gateway.receive import receive
from gateway.rejections import Rejection
from gateway.send import fixtures
from tests.conftest import RECEIVED_AT
from tests.record_revisions import RECORD, current, not_raised
from tests.senders import sender_of

FIXTURES = fixtures()
DELIVERY_ID = "0" * 32

every_fixture = pytest.mark.parametrize(
    "fixture", FIXTURES, ids=[f"{found.provider}-{found.case}" for found in FIXTURES]
)


def raw_record(fixture, body=None):
    """The raw record the gateway would write for a fixture, at the start of its topic."""
    sender, now = sender_of(fixture), RECEIVED_AT / 1000
    pairs, sent = sender.signed(fixture.body if body is None else body, now=now)
    headers = {name.lower(): value for name, value in fixture.headers.items()} | dict(pairs)
    delivery = receive(sender.endpoint(), Headers(headers.items()), sent, now, DELIVERY_ID)
    return Record(
        topic=raw_topic(fixture.provider), partition=0, offset=0, timestamp=RECEIVED_AT,
        key=delivery.key, value=delivery.body, headers=[*delivery.headers],
    )  # fmt: skip


def fate_of(record, keys):
    provider = dict(record.headers)["verihook-provider"].decode()
    encode = encoder(single_object_prefix())
    return Fates(provider, NORMALIZERS[provider], encode, keys).decide(record)


def expected(fixture):
    return json.loads((fixture.folder / "events.json").read_bytes())


@every_fixture
def test_a_fixture_becomes_its_events(fixture, keys):
    """A signed delivery becomes exactly the events beside it, through Avro and back."""
    record = raw_record(fixture)
    if fixture.provider != "treezor":  # which puts its signature into the body
        assert record.value == fixture.body
    fate = fate_of(record, keys)
    decoded = [decode(output.value) for output in fate.outputs if "verification" in output.topic]
    assert [json.loads(msgspec.json.encode(event)) for event in decoded] == expected(fixture)
    assert decoded == list(fate.events)
    assert fate.failure is None
    assert bool(fate.events) != bool(fate.ignored)


@every_fixture
def test_a_fixture_speaks_our_vocabulary(fixture, keys):
    """No value of a closed vocabulary is outside it, and reasons are aligned."""
    for event in fate_of(raw_record(fixture), keys).events:
        said = msgspec.structs.asdict(event)
        for field, words in VOCABULARIES.items():
            values = said[field] if isinstance(said[field], tuple) else (said[field],)
            assert {value for value in values if value is not None} <= words, field
        assert len(event.reason_codes) == len(event.native_reason_codes)
        if event.outcome != "none":
            assert event.status in {"completed", "awaiting_input"}
        assert event.native_type in NORMALIZERS[fixture.provider].NATIVE_TYPES


def test_no_two_fixtures_share_an_event():
    """Deliveries that say different things never share an event id."""
    ids = [event["event_id"] for fixture in FIXTURES for event in expected(fixture)]
    assert len(ids) == len(set(ids))


def test_deliveries_about_one_process_share_a_partition(keys):
    """The raw key is the id of the process, or one per person where that is what is known."""
    of_a_person = {}
    for fixture in FIXTURES:
        record = raw_record(fixture)
        for event in fate_of(record, keys).events[:1]:  # a batch is keyed by its first item
            if event.process_ref and NORMALIZERS[fixture.provider].KEYED_BY == "process":
                assert record.key.decode() == event.process_ref, fixture.case
            elif event.subject_ref:
                of_a_person.setdefault((fixture.provider, event.subject_ref), set()).add(record.key)
    assert all(len(keys_of_one) == 1 for keys_of_one in of_a_person.values())
    assert len({key for found in of_a_person.values() for key in found}) == len(of_a_person)


MARKER = "mArKeR {number} <é>"


def strings(node, path=()):
    """Every string of a payload, with its path."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from strings(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from strings(value, (*path, index))
    elif isinstance(node, str):
        yield path, node
        if node.startswith("{"):  # a JSON text of its own: a notification's message
            yield from strings(json.loads(node), (*path, json))


def replaced(node, path, text):
    """A copy of a payload with one string replaced."""
    if not path:
        return text
    if path[0] is json:
        return json.dumps(replaced(json.loads(node), path[1:], text), ensure_ascii=False)
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[path[0]] = replaced(node[path[0]], path[1:], text)
    return copy


def everything_that_leaves(record, fate, meter):
    """All bytes a fate sends on, but for the dead letter's own copy of the delivery."""
    for output in fate.outputs:
        if ".events" in output.topic:
            yield output.value
            yield output.key or b""
            for name, value in output.headers:
                yield name.encode() + (value or b"")
        else:
            for name, value in output.headers:
                if name.startswith(("verihook-error", "verihook-source", "verihook-mapping")):
                    yield value
    yield repr(fate.failure).encode()
    meter.handled(record, fate, ())
    meter.sealed()
    meter.barrier(0.0)
    for family in meter.registry.collect():
        for sample in family.samples:
            yield repr(sample).encode()


@every_fixture
def test_no_free_text_of_a_payload_leaves(fixture, keys, capfd):
    """A marker in any one string never reaches an event, key, header, metric or error text.

    The marker holds blanks and an accent, as names and remarks do, so nothing that passes only
    constants may pass it; a subject's id leaves only as a pseudonym.
    """
    payload = json.loads(fixture.body)
    normalizer = NORMALIZERS[fixture.provider]
    said: list[str] = []
    for number, (path, _) in enumerate(strings(payload)):
        marker = MARKER.format(number=number)
        body = json.dumps(replaced(payload, path, marker), ensure_ascii=False).encode()
        try:
            record = raw_record(fixture, body)
        except Rejection as refused:  # of a scheme that reads the body: nothing was let in
            said.append(str(refused))
            continue
        fate = fate_of(record, keys)
        meter = Meter(fixture.provider, "g", normalizer.NATIVE_TYPES, ("v", "l"), lambda: 0.0)
        for leaving in everything_that_leaves(record, fate, meter):
            assert b"mArKeR" not in leaving, path
    captured = capfd.readouterr()
    assert "mArKeR" not in "".join([captured.out, captured.err, *said])


def test_the_markers_can_be_seen(keys):
    """The test above can fail: a listed constant does reach the event."""
    fixture = next(found for found in FIXTURES if found.case == "decision-approved")
    payload = json.loads(fixture.body)
    payload["verification"]["id"] = "mArKeR"
    record = raw_record(fixture, json.dumps(payload).encode())
    fate = fate_of(record, keys)
    meter = Meter("veriff", "g", frozenset(), ("v", "l"), lambda: 0.0)
    assert any(b"mArKeR" in leaving for leaving in everything_that_leaves(record, fate, meter))


def test_events_change_only_under_a_raised_revision():
    """The same payload gives another event only under a higher mapping revision."""
    recorded, now = json.loads(RECORD.read_text()), current()
    assert not_raised(recorded, now) == [], "raise the normalizer's REVISION"
    assert recorded == now, "take it over with `python -m tests.record_revisions`"


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"events": "other"}, ["veriff/x"]),
        ({"events": "other", "revision": 2}, []),
        ({"events": "other", "payload": "other"}, []),
        ({}, []),
    ],
)
def test_what_counts_as_not_raised(changed, found):
    """Another event, of the same payload, under the same revision."""
    was = {"veriff/x": {"revision": 1, "payload": "p", "events": "e"}}
    assert not_raised(was, {"veriff/x": was["veriff/x"] | changed}) == found
