"""The offset passport: what a commit's metadata tells when every consumer is dead."""

from typing import Annotated

import msgspec

MOST_BYTES = 4_096
"""The broker's limit (offset.metadata.max.bytes)."""

_Moment = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]
"""Up to the year 9999: what reads a passport can show every time it may hold."""


class Passport(msgspec.Struct, frozen=True, kw_only=True):
    """Written with every committed offset; times in milliseconds by Kafka's clock.

    `recent` is the stall's window: native type -> minutes (since the epoch), each with the number
    of records and of those that failed.
    """

    mapping_revision: int
    last_record_at: _Moment
    recent: dict[str, list[tuple[int, int, int]]] = {}


def written(passport: Passport) -> str:
    """Give the text that travels with a committed offset; what is too long loses `recent`."""
    text = msgspec.json.encode(passport)
    if len(text) > MOST_BYTES:
        text = msgspec.json.encode(msgspec.structs.replace(passport, recent={}))
    return text.decode()


def read(text: str | None) -> Passport | None:
    """Read a commit's metadata; None where there is none, or it is not ours."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Passport)
    except (msgspec.DecodeError, ValueError):
        return None
