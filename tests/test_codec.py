"""Codec: byte equality with fastavro, both framings, the schema's rules for a long life."""

import json
import re

import fastavro
import fastavro.schema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import codec
from consumers.encoder import compile_encoder, varint
from consumers.event import VOCABULARIES, VerificationEvent

SCHEMA = json.loads(codec.schema_text())
FIELDS = {field["name"]: field for field in SCHEMA["fields"]}
# Avro strings are UTF-8, so lone surrogates cannot occur; a mapping never sees one (it decodes UTF-8).
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def values_of(kind):
    match kind:
        case "string":
            return TEXT
        case "boolean":
            return st.booleans()
        case "int":
            return st.integers(-(2**31), 2**31 - 1)
        case "long" | {"type": "long"}:
            return st.integers(-(2**63), 2**63 - 1)
        case {"type": "array"}:
            return st.lists(TEXT, max_size=4).map(tuple)
        case {"type": "map"}:
            return st.dictionaries(TEXT, TEXT, max_size=4)
        case ["null", inner]:
            return st.none() | values_of(inner)
    raise AssertionError(kind)


EVENTS = st.builds(
    VerificationEvent, **{name: values_of(field["type"]) for name, field in FIELDS.items()}
)


@given(EVENTS)
def test_generated_encoder_equals_fastavro(event):
    """Every byte of the hot encoder is fastavro's byte."""
    encoded = codec.encoder(b"")(event)
    assert encoded == codec.reference_bytes(event)


@given(EVENTS)
def test_round_trip_in_both_framings(event):
    """What is encoded decodes to the same event, whichever framing stands before it."""
    for prefix in (codec.single_object_prefix(), codec.confluent_prefix(4_000_000_000)):
        assert codec.decode(codec.encoder(prefix)(event)) == event


def test_text_beyond_the_table_of_short_lengths(an_event):
    """A text of more than 8,191 bytes has a longer length prefix, not a wrong one."""
    event = msgspec.structs.replace(
        an_event, native_status="é" * 5000, attributes={"a": "b" * 9000}
    )
    encoded = codec.encoder(b"")(event)
    assert encoded == codec.reference_bytes(event)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1])
def test_a_number_that_does_not_fit_is_refused(an_event, number):
    """An int outside 32 bits raises instead of writing what no reader can read."""
    with pytest.raises(OverflowError):
        codec.encoder(b"")(msgspec.structs.replace(an_event, age_min=number))


def test_varint_known_answers():
    """The zig-zag examples of the Avro specification."""
    assert [varint(n).hex() for n in (0, -1, 1, -2, 2, -64, 64)] == [
        "00", "01", "02", "03", "04", "7f", "8001",
    ]  # fmt: skip


def test_framings():
    """Confluent: 0x00 and the id big-endian; single object: C3 01 and the fingerprint."""
    assert codec.confluent_prefix(258) == b"\0\0\0\1\2"
    assert codec.single_object_prefix() == b"\xc3\x01" + codec.fingerprint()
    assert len(codec.fingerprint()) == 8


def test_fingerprint_is_little_endian_crc_64_avro():
    """The specification's answer for the schema "null", 0x63DD24E7CC258F8A, least byte first."""
    null = fastavro.schema.fingerprint(
        fastavro.schema.to_parsing_canonical_form("null"), "CRC-64-AVRO"
    )
    assert bytes.fromhex(null) == (0x63DD24E7CC258F8A).to_bytes(8, "little")


@pytest.mark.parametrize("value", [b"", b"\0", b"\0\0\0\0\1", b"\xc3\x01short", b"{}", b"\x01abc"])
def test_other_values_are_no_events(value):
    """A value in neither framing is refused, not read as something."""
    with pytest.raises(codec.FramingError):
        codec.decode(value)


def test_unknown_type_in_the_schema_is_refused():
    """The encoder names a field whose type it does not know instead of guessing."""
    schema = {"fields": [{"name": "score", "type": "double"}]}
    with pytest.raises(TypeError, match="score"):
        compile_encoder(schema)


def test_struct_and_schema_have_the_same_fields_types_and_defaults():
    """VerificationEvent's fields are the schema's, in its order, with its defaults."""
    fields = {field.name: field for field in msgspec.structs.fields(VerificationEvent)}
    assert list(VerificationEvent.__struct_fields__) == [f["name"] for f in SCHEMA["fields"]]
    for name, field in FIELDS.items():
        ours = fields[name]
        if "default" not in field:
            assert ours.default is msgspec.NODEFAULT, name
            continue
        default = ours.default_factory() if ours.default is msgspec.NODEFAULT else ours.default
        assert default == (tuple(field["default"]) if field["default"] == [] else field["default"])


def test_schema_keeps_the_rules_for_a_long_life():
    """Null first with default null; arrays and maps never null; no enum, record, fixed, bytes."""
    for name, field in FIELDS.items():
        kind = field["type"]
        assert field["doc"].endswith("."), name
        if isinstance(kind, list):
            assert kind[0] == "null", name
            assert len(kind) == 2, name
            assert field["default"] is None, name
        flat = json.dumps(kind)
        assert not re.search(r'"(enum|record|fixed|bytes|float|double|decimal|uuid)"', flat), name
    fastavro.parse_schema(SCHEMA)


def test_vocabularies_stand_in_the_schema():
    """Every word of a closed vocabulary is named in its field's documentation."""
    for name in ("category", "status", "outcome", "occurred_at_source", "document_type", "methods",
                 "age_method", "subject_type", "subject_ref_kind"):  # fmt: skip
        for word in VOCABULARIES[name]:
            assert re.search(rf"\b{word}\b", FIELDS[name]["doc"]), (name, word)


@pytest.fixture
def an_event():
    return VerificationEvent(
        event_id="e", provider="veriff", endpoint="veriff", native_type="decision",
        occurred_at=1, received_at=2, raw_topic="raw.veriff", raw_partition=0, raw_offset=0,
        mapping_revision=1,
    )  # fmt: skip
