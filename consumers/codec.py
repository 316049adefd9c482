"""VerificationEvent <-> Avro bytes, in either framing: the only file that knows fastavro and avro/.

Confluent framing is 0x00 and a 4-byte schema id (big-endian), where a registry is configured.
Else Avro single-object encoding: 0xC3 0x01 and the schema's 8-byte fingerprint (little-endian
CRC-64-AVRO of its canonical form; avro.apache.org/docs, "Single-object encoding").
"""

import io
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
import fastavro.schema
import msgspec

from consumers.encoder import compile_encoder
from consumers.event import VerificationEvent

# The schema is data beside the packages, found by path: `avro` as a package name would hide the
# distribution of that name.
SCHEMA_PATH = Path(__file__).resolve().parent.parent / "avro" / "VerificationEvent.avsc"

_CONFLUENT = b"\0"
_CONFLUENT_BYTES = 5
_SINGLE_OBJECT = b"\xc3\x01"
_SINGLE_OBJECT_BYTES = 10


_REPEATING = frozenset(
    {
        "provider",
        "endpoint",
        "environment",
        "authenticity",
        "native_type",
        "native_status",
        "category",
        "status",
        "outcome",
        "subject_ref_kind",
        "subject_key_id",
        "subject_type",
        "occurred_at_source",
        "document_type",
        "document_country",
        "country",
        "raw_topic",
    }
)
"""Fields whose few values are worth remembering in encoded form."""


class FramingError(ValueError):
    """A value that does not begin as one of our two framings does."""


@cache
def schema_text() -> str:
    """Give the schema as it stands in avro/."""
    return SCHEMA_PATH.read_text(encoding="utf-8")


@cache
def _schema() -> Any:
    # Datetimes are not wanted: an event keeps milliseconds.
    return fastavro.parse_schema(_without_logical_types(json.loads(schema_text())))


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, dict):
        kept = {key: _without_logical_types(value) for key, value in node.items()}
        kept.pop("logicalType", None)
        return kept
    if isinstance(node, list):
        return [_without_logical_types(item) for item in node]
    return node


def fingerprint() -> bytes:
    """Give the schema's CRC-64-AVRO fingerprint, 8 bytes, little-endian."""
    canonical = fastavro.schema.to_parsing_canonical_form(json.loads(schema_text()))
    return bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))


def single_object_prefix() -> bytes:
    """Give what stands before the Avro bytes where no registry is configured."""
    return _SINGLE_OBJECT + fingerprint()


def confluent_prefix(schema_id: int) -> bytes:
    """Give what stands before the Avro bytes of a schema registered under this id."""
    return _CONFLUENT + schema_id.to_bytes(4, "big")


def encoder(prefix: bytes) -> Callable[[VerificationEvent], bytes]:
    """Build the function that turns an event into the output record's value."""
    encode = compile_encoder(json.loads(schema_text()), _REPEATING)
    return lambda event: prefix + encode(event)


def reference_bytes(event: VerificationEvent) -> bytes:
    """Encode with fastavro, without framing: what the generated encoder is held to."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, _schema(), msgspec.structs.asdict(event))
    return buffer.getvalue()


def decode(value: bytes, writer_schema: Mapping[str, Any] | None = None) -> VerificationEvent:
    """Read an output record's value in either framing.

    `writer_schema` is the one it was written under, where that is not today's. Raises
    FramingError for anything that does not begin as our values do.
    """
    if value[:1] == _CONFLUENT and len(value) > _CONFLUENT_BYTES:
        body = value[_CONFLUENT_BYTES:]
    elif value[:2] == _SINGLE_OBJECT and len(value) > _SINGLE_OBJECT_BYTES:
        body = value[_SINGLE_OBJECT_BYTES:]
    else:
        raise FramingError("the value is neither Confluent-framed nor an Avro single object")
    writer = _schema() if writer_schema is None else fastavro.parse_schema(dict(writer_schema))
    found = fastavro.schemaless_reader(io.BytesIO(body), writer, _schema())
    return msgspec.convert(found, VerificationEvent)
