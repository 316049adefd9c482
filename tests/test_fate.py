"""Fates: every raw record has exactly one, and a dead letter keeps everything."""

import msgspec
import pytest

from consumers.codec import decode, encoder, single_object_prefix
from consumers.event import Ignored, Statement, Subject
from consumers.failures import Failure, failure_of
from consumers.fate import Fates
from consumers.records import Record
from gateway.delivery import Provenance
from tests.conftest import RECEIVED_AT

PROVENANCE = Provenance(
    endpoint="veriff-eu", provider="veriff", received_at=RECEIVED_AT, delivery_id="d" * 32,
    authenticity="signed", scheme="s", key_id="default", environment="sandbox",
)  # fmt: skip


def record(value=b"{}", headers=None, key=b"k"):
    return Record(
        topic="p.raw.veriff", partition=3, offset=77, timestamp=RECEIVED_AT + 5, key=key,
        value=value, headers=[*PROVENANCE.to_headers()] if headers is None else headers,
    )  # fmt: skip


class Says:
    """A normalizer that says what it is told to."""

    REVISION = 4
    NATIVE_TYPES = frozenset({"decision"})
    SCHEMES = ()

    def __init__(self, answer, keyed_by="process"):
        self.answer = answer
        self.KEYED_BY = keyed_by

    def normalize(self, body, provenance):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def fate(keys):
    def decide(answer, given=None):
        fates = Fates("veriff", Says(answer), encoder(single_object_prefix()), keys, "p.")
        return fates.decide(given or record())

    return decide


def statement(key="a", **said):
    return Statement(native_type="decision", natural_key=(key,), **said)


def test_an_event_carries_statement_provenance_and_coordinates(fate):
    """What the mapping said, where it came from, and where the raw record lies."""
    (output,) = fate([statement(status="completed", outcome="pass", process_ref="proc")]).outputs
    event = decode(output.value)
    assert output.topic == "p.verification.events"
    assert output.key == b"proc"
    assert (event.endpoint, event.environment, event.authenticity) == (
        "veriff-eu",
        "sandbox",
        "signed",
    )
    assert (event.raw_topic, event.raw_partition, event.raw_offset) == ("p.raw.veriff", 3, 77)
    assert (event.status, event.outcome, event.mapping_revision) == ("completed", "pass", 4)


def test_a_normalizer_chooses_what_its_events_are_keyed_by(keys):
    """The subject's pseudonym comes first where the normalizer says so (Treezor)."""
    said = [statement(process_ref="proc", subject=Subject("provider_user", "1"))]
    for keyed_by, is_process in (("process", True), ("subject", False)):
        says = Says(said, keyed_by)
        fates = Fates("veriff", says, encoder(single_object_prefix()), keys, "p.")
        (output,) = fates.decide(record()).outputs
        ref = decode(output.value).subject_ref
        assert output.key == (b"proc" if is_process else ref.encode())


def test_no_time_of_its_own_means_time_of_receipt(fate):
    """Without a usable time occurred_at is received_at, and says so."""
    event = fate([statement(occurred_at=None, occurred_at_source="event")]).events[0]
    assert (event.occurred_at, event.occurred_at_source) == (RECEIVED_AT, "received")
    event = fate([statement(occurred_at=5, occurred_at_source="event")]).events[0]
    assert (event.occurred_at, event.occurred_at_source) == (5, "event")


def test_the_same_record_gives_the_same_bytes(fate):
    """Deterministic: redelivery and replay are harmless to a reader that merges on event_id."""
    said = statement(attributes={"b": "1", "a": "2"}, reasons=(("other", "X"),))
    assert fate([said]).outputs == fate([said]).outputs


def test_ignored_is_a_fate_of_its_own(fate):
    """A known kind without an event has no output and a reason."""
    found = fate(Ignored("no_decision", "decision"))
    assert (found.outputs, found.ignored.reason, found.failure) == ((), "no_decision", None)


@pytest.mark.parametrize(
    ("error", "kind", "path"),
    [
        (Failure("unknown_type"), "unknown_type", "$"),
        (Failure("out_of_range", path="$.data.id"), "out_of_range", "$.data.id"),
        (msgspec.ValidationError("Expected `str`, got `int` - at `$.a.b[0]`"), "schema_mismatch", "$.a.b[0]"),
        (msgspec.ValidationError("Invalid enum value 'Jane Doe' - at `$.a`"), "schema_mismatch", "$.a"),
        (msgspec.ValidationError("Object missing required field `x`"), "schema_mismatch", "$"),
        (msgspec.DecodeError("JSON is malformed: invalid character (byte 3)"), "invalid_json", "$"),
        (RecursionError("too deep"), "invalid_json", "$"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "Jane Doe"), "invalid_json", "$"),
        (KeyError("Jane Doe"), "bug", "$"),
        (ZeroDivisionError("Jane Doe"), "bug", "$"),
    ],
)  # fmt: skip
def test_whatever_is_wrong_becomes_a_dead_letter_without_its_text(fate, error, kind, path):
    """Original key, bytes and headers, and why: kind, path, class; never the exception's text."""
    given = record(b"\x00raw bytes")
    found = fate(error, given)
    (letter,) = found.outputs
    assert letter.topic == "p.dlq.veriff"
    assert (letter.key, letter.value) == (given.key, given.value)
    assert letter.headers[: len(given.headers)] == given.headers
    ours = dict(letter.headers[len(given.headers) :])
    if kind == "bug":  # where in our code, for whoever mends it
        assert ours["verihook-error-path"].startswith(b"test_fate.py:")
        path = ours["verihook-error-path"].decode()
    assert ours == {
        "verihook-error-kind": kind.encode(),
        "verihook-error-path": path.encode(),
        "verihook-error-class": type(error).__name__.encode(),
        "verihook-source-topic": b"p.raw.veriff",
        "verihook-source-partition": b"3",
        "verihook-source-offset": b"77",
        "verihook-mapping-revision": b"4",
    }
    assert b"Jane" not in b"".join(value for _, value in letter.headers)
    assert found.failure.kind == kind


def test_good_items_of_a_batch_are_emitted_and_bad_ones_named(fate):
    """One bad item of several: the others become events, one dead letter names the bad."""
    found = fate([
        statement("a"),
        Failure("schema_mismatch", path="$.events[1]"),
        statement("b", item_index=2),
        Failure("unknown_type", path="$.events[3]"),
    ])  # fmt: skip
    assert [output.topic for output in found.outputs] == [
        "p.verification.events", "p.verification.events", "p.dlq.veriff",
    ]  # fmt: skip
    assert dict(found.outputs[-1].headers)["verihook-error-path"] == b"$.events[1],$.events[3]"


def test_a_delivery_of_no_items_is_not_without_a_fate(fate):
    """An empty batch is set aside: nothing is silently dropped."""
    assert fate([]).failure.kind == "schema_mismatch"


def test_a_tombstone_is_set_aside(fate):
    """A record without a value has a fate too."""
    empty = msgspec.structs.replace(record(), value=None)
    found = fate([statement()], empty)
    assert found.failure.kind == "invalid_json"
    assert found.outputs[0].value is None


@pytest.mark.parametrize(
    "missing", ["verihook-endpoint", "verihook-provider", "verihook-received-at"]
)
def test_a_record_without_provenance_is_set_aside(fate, missing):
    """What no gateway wrote cannot become an event."""
    headers = [pair for pair in PROVENANCE.to_headers() if pair[0] != missing]
    found = fate([statement()], record(headers=headers))
    assert (found.failure.kind, found.failure.path) == ("schema_mismatch", "headers")


def test_another_providers_record_is_set_aside(fate):
    """A record that was written to the wrong topic is not read with the wrong tables."""
    headers = msgspec.structs.replace(PROVENANCE, provider="pawapass").to_headers()
    assert fate([statement()], record(headers=headers)).failure.kind == "inconsistent"


def test_a_mapping_revision_and_coordinates_of_a_letter_are_last_words(fate):
    """A letter that was a letter before keeps its old headers and gains new ones after them."""
    once = fate(Failure("unknown_type")).outputs[0]
    again = fate(Failure("unknown_type"), record(headers=once.headers)).outputs[0]
    assert again.headers[: len(once.headers)] == once.headers


def test_failure_of_keeps_a_failure():
    """A Failure is already translated."""
    failure = Failure("out_of_range")
    assert failure_of(failure) is failure
