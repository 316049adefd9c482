"""What a canary's beat means: a delivery of our own went all the way through.

gateway/canary.py sends it and looks for its id as the key of the event; no platform is told of it.
"""

from typing import Annotated, Any

import msgspec

from consumers.event import Statement
from consumers.failures import Failure
from consumers.identity import KeyedBy
from consumers.normalizers.native import reading, reference
from gateway.delivery import Provenance

REVISION = 1

BEAT = "beat"

NATIVE_TYPES = frozenset({BEAT})
UNMAPPED_FIELDS: frozenset[str] = frozenset()
IGNORED_REASONS: frozenset[str] = frozenset()

KEYED_BY: KeyedBy = "process"
SCHEMES: tuple[str, ...] = ()

# The prober sends every beat once.
RETRIED_FOR_DAYS = 0


class _Envelope(msgspec.Struct, gc=False):
    type: Any = None


class _Beat(msgspec.Struct, gc=False):
    beat_id: str
    sent_at: Annotated[int, msgspec.Meta(gt=0, lt=2**48)]


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode = msgspec.json.Decoder(_Beat).decode


def normalize(
    body: bytes,
    provenance: Provenance,  # noqa: ARG001 - a beat says everything in the body
) -> list[Statement]:
    """Say what a beat means: one event whose process, and so whose key, is the beat's id."""
    native_type = _decode_envelope(body).type
    if not isinstance(native_type, str) or native_type not in NATIVE_TYPES:
        raise Failure("unknown_type", path="$.type")
    return [reading(native_type, _statement, body)]


def _statement(body: bytes) -> Statement:
    beat = _decode(body)
    beat_id = reference(beat.beat_id, "$.beat_id")
    return Statement(
        native_type=BEAT,
        natural_key=(beat_id,),
        status="not_applicable",
        process_ref=beat_id,
        occurred_at=beat.sent_at,
        occurred_at_source="event",
    )
