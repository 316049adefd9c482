"""What goes into the loop and what comes out of it: Record, Output, Decision."""

from collections.abc import Sequence

import msgspec

Partition = tuple[str, int]
"""A topic and the number of one of its partitions."""

Headers = list[tuple[str, bytes | None]]
"""Record headers as Kafka keeps them: in order, names may repeat, values may be null."""

BY_KEY = -1
"""An output's partition is chosen by its key."""

OTHER = "other"
"""The native type of what no mapping knows."""


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
    partition: int = BY_KEY


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of one raw record, before anybody looks whether it was seen before.

    `outputs` are its events, then at most one dead letter; `event_ids` name the events, 16 bytes
    each, in the same order. Neither events nor a dead letter: the record is ignored.
    `received_at` is in milliseconds by the gateway's clock, None where the record does not say.
    `failed` says that it counts towards a stall.
    """

    outputs: Sequence[Output]
    event_ids: Sequence[bytes] = ()
    received_at: int | None = None
    replayed: bool = False
    native_type: str = OTHER
    failed: bool = False
