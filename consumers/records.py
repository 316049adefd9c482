"""What goes into the loop and what comes out of it: Record, Output, Decision."""

import msgspec

Headers = list[tuple[str, bytes | None]]
"""Record headers as Kafka keeps them: in order, names may repeat, values may be null."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record as consumed; `timestamp` is Kafka's, in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One record to produce."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = []
