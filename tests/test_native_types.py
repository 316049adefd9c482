"""What fails names what it was: a stall is told by native type, so failures must know theirs."""

import copy
import json
from collections.abc import Iterator

import msgspec
import pytest

from consumers.codec import encoder, single_object_prefix
from consumers.fate import Fates
from consumers.normalizers import NORMALIZERS
from gateway.send import Fixture, fixtures
from tests.conftest import KEYS
from tests.test_fixtures import expected, raw_record

WRONG = ([[]], {"of": ["another", "type"]}, "x" * 2_000)

# Where a body says what it is: broken there, nobody can tell.
SAID_AT = {
    "onfido": {("payload", "action")},
    "pawapass": {("type",)},
    "pleenk": {("events", number, "eventType") for number in range(10)},
    "plexy": {("type",), ("name",)},
    "treezor": {("webhook",), ("webhook", "webhook"), ("Message", "webhook", "webhook"), ("Type",)},
    "veriff": {("eventType",), ("type",), ("data", "verification", "decisionScore")},
}

WITH_EVENTS = [found for found in fixtures() if expected(found)]
ENCODE = encoder(single_object_prefix())
FATES = {name: Fates(name, one, ENCODE, KEYS) for name, one in NORMALIZERS.items()}
every_fixture = pytest.mark.parametrize(
    "fixture", WITH_EVENTS, ids=lambda found: f"{found.provider}-{found.case}"
)


def document_of(record) -> dict:
    """A raw body with the notification in it unfolded, where there is one."""
    document = json.loads(record.value)
    if document.get("Type") == "Notification":
        document["Message"] = json.loads(document["Message"])
    return document


def body_of(document: dict) -> bytes:
    if document.get("Type") == "Notification" and not isinstance(document["Message"], str):
        document = {**document, "Message": json.dumps(document["Message"])}
    return json.dumps(document).encode()


def places(node: object, path: tuple = ()) -> Iterator[tuple]:
    """Every place in a document but the whole of it."""
    if path:
        yield path
    inner = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for name, value in inner:
        yield from places(value, (*path, name))


def broken(document: dict, path: tuple, value: object) -> bytes:
    """The document with another value at one place."""
    changed = copy.deepcopy(document)
    node = changed
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return body_of(changed)


def type_at(fixture: Fixture, path: tuple) -> str:
    """The native type of what stands at a place; of several items it is the item's."""
    events = expected(fixture)
    of_item = [
        event for event in events if path[:1] == ("events",) and event["item_index"] == path[1]
    ]
    return (of_item or events)[0]["native_type"]


@every_fixture
def test_whatever_is_broken_the_failure_names_the_type(fixture):
    """One value of a wrong type or size anywhere but in the type itself: the failure names it."""
    record = raw_record(fixture)
    document, failures = document_of(record), 0
    for path in places(document):
        if any(said[: len(path)] == path for said in SAID_AT[fixture.provider]):
            continue
        for value in WRONG:
            body = broken(document, path, value)
            fate = FATES[fixture.provider].decide(msgspec.structs.replace(record, value=body))
            if fate.failure is not None:
                assert fate.failure.native_type == type_at(fixture, path), (path, fate.failure)
                assert fate.failed, (path, fate.failure)
                failures += 1
    assert failures > 2, "enough of it is read"


@every_fixture
def test_a_bug_of_ours_names_the_type(fixture, monkeypatch):
    """An exception nobody foresaw is told by type too: it is what a broken mapping raises."""

    def broken_mapping(**_said):
        raise KeyError("a value that must not be seen")

    monkeypatch.setattr(NORMALIZERS[fixture.provider], "Statement", broken_mapping)
    fate = FATES[fixture.provider].decide(raw_record(fixture))
    assert fate.failure.kind == "bug"
    assert fate.failure.path.endswith("in broken_mapping")
    assert fate.native_type == type_at(fixture, ("events", 0))
    assert fate.failed


@every_fixture
def test_a_type_nobody_knows_is_not_named(fixture):
    """Where the type cannot be read the failure has none: a sender's word is no label."""
    record = raw_record(fixture)
    document = document_of(record)
    for path in SAID_AT[fixture.provider] & set(places(document)):
        body = broken(document, path, "of-a-new-kind")
        fate = FATES[fixture.provider].decide(msgspec.structs.replace(record, value=body))
        if fate.failure is not None and fate.failure.kind == "unknown_type":
            assert fate.failure.native_type is None
            assert not fate.failed


def test_every_provider_says_how_long_it_retries():
    """The window of the duplicates, and how long their topic remembers, follow from it."""
    for name, normalizer in NORMALIZERS.items():
        assert 1 <= normalizer.RETRIED_FOR_DAYS <= 30, name
