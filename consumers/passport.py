"""The offset passport: what a commit's metadata tells when every consumer is dead."""

from typing import Annotated

import msgspec

MOST_BYTES = 4_095
"""The broker's limit (offset.metadata.max.bytes) is 4,096, and librdkafka sends one byte more."""

_Moment = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]
"""Up to the year 9999: what reads a passport can show every time it may hold."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""What is counted with floats: anybody who may commit for the group chooses these numbers."""

_LONGEST_WORD = 200

_MINUTES_BACK = 5
"""Kafka's time of records goes back a little where a partition's leader changes."""


class Passport(msgspec.Struct, frozen=True, kw_only=True):
    """Written with every committed offset; times in milliseconds by Kafka's clock.

    `recent` is the stall's window: native type -> minutes (since the epoch), each with the number
    of records and of those that failed.
    """

    mapping_revision: _Count
    last_record_at: _Moment
    recent: dict[str, list[tuple[_Count, _Count, _Count]]] = {}


def written(passport: Passport) -> str:
    """Give the text that travels with a committed offset; what is too long loses `recent`."""
    text = msgspec.json.encode(passport)
    if len(text) > MOST_BYTES:
        text = msgspec.json.encode(msgspec.structs.replace(passport, recent={}))
    return text.decode()


def read(text: str | None) -> Passport | None:
    """Read a commit's metadata; None where there is none, or it is not ours.

    Counts of minutes that had not come yet are left out: they would be the newest for ever.
    """
    if not text:
        return None
    try:
        passport = msgspec.json.decode(text, type=Passport)
    except (msgspec.DecodeError, ValueError):
        return None
    now = passport.last_record_at // 60_000 + _MINUTES_BACK
    recent = {
        native_type: [one for one in minutes if one[0] <= now and one[2] <= one[1]]
        for native_type, minutes in passport.recent.items()
        if native_type.isprintable() and len(native_type) <= _LONGEST_WORD
    }
    return msgspec.structs.replace(passport, recent=recent)
