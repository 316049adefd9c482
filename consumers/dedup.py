"""Duplicates: the rule that tells them, and what the topic `seen.<provider>` holds.

An event is a duplicate only if its id was emitted for another, earlier raw record. The same
coordinate always emits again, so neither a crash nor a group reset nor the order of writes can
lose an event.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from consumers.records import Partition


class First(NamedTuple):
    """The raw record for which an event id was last emitted.

    `received_at` is in whole seconds since the epoch by the gateway's clock; `revision` is the
    mapping's. The topic is the one the seen topic belongs to.
    """

    partition: int
    offset: int
    received_at: int
    revision: int


def is_duplicate(first: First, here: First, window_seconds: int, *, replayed: bool) -> bool:
    """Say whether an event of the record `here` was emitted for an earlier one.

    The window is measured by the gateways' clocks: a duplicate that comes later than that is an
    event again. A replayed record repeats its event once under a newer mapping revision.
    """
    if first.partition == here.partition and first.offset >= here.offset:
        return False
    if here.received_at - first.received_at > window_seconds:
        return False
    return not replayed or first.revision >= here.revision


class Seen(Protocol):
    """What the loop asks of the memory of one incarnation; every call is bounded in time.

    Any call may raise Interrupted (new clients, and a memory built anew) or Halted.
    """

    def open(self, partition: Partition) -> None:
        """Begin to know a partition; nothing is asked of Kafka or the disk yet."""
        ...

    def behind(self) -> bool:
        """Say whether `catch_up` has anything left to do."""
        ...

    def catch_up(self, seconds: float) -> Sequence[Partition]:
        """Read on for about `seconds`; give the partitions whose records may be handled now.

        A partition is given once: when everything stored before it became ours is known, or when
        its deadline has passed (it is still read to the end then).
        """
        ...

    def knows(self, partition: Partition) -> bool:
        """Say whether what `find` does not find was indeed not seen."""
        ...

    def find(self, partition: Partition, ids: Sequence[bytes]) -> Mapping[bytes, First]:
        """Look up which of these event ids were seen, and where."""
        ...

    def remember(self, partition: Partition, entries: Mapping[bytes, First], through: int) -> None:
        """Keep what is committed; `through` is Kafka's time (ms) of the last record handled."""
        ...

    def forget(self, partition: Partition) -> None:
        """Close what is known of a partition that went away."""
        ...

    def close(self) -> None:
        """Close everything."""
        ...


_HEAD = struct.Struct(">2sHHH")
_ENTRY = struct.Struct(">16sQI")
_MAGIC = b"s1"
MOST_ENTRIES = 10_000
"""Entries in one record of the seen topic: 280 kB, far below the topic's limit."""


class SeenFormatError(ValueError):
    """A record of the seen topic is not one that this version writes."""


class Slice(NamedTuple):
    """One record of the seen topic: entries under one revision and one number of raw partitions."""

    entries: dict[bytes, First]
    partitions: int


def pack(entries: Mapping[bytes, First], *, revision: int, partitions: int) -> list[bytes]:
    """Write entries of one partition as values of the seen topic, MOST_ENTRIES in each.

    `partitions` is the raw topic's number of partitions now: who reads after it has grown can
    tell which entries were made before.
    """
    packed = [_ENTRY.pack(id_, one.offset, one.received_at) for id_, one in entries.items()]
    return [
        _HEAD.pack(_MAGIC, partitions, revision, 0) + b"".join(packed[start : start + MOST_ENTRIES])
        for start in range(0, len(packed), MOST_ENTRIES)
    ]


def unpack(value: bytes, partition: int) -> Slice:
    """Read a value of the seen topic's partition. Raises SeenFormatError."""
    if len(value) < _HEAD.size or (len(value) - _HEAD.size) % _ENTRY.size:
        raise SeenFormatError("a record of the seen topic has an impossible length")
    magic, partitions, revision, _ = _HEAD.unpack_from(value)
    if magic != _MAGIC or not partitions:
        raise SeenFormatError("a record of the seen topic was written by another version")
    return Slice(
        {
            id_: First(partition, offset, received_at, revision)
            for id_, offset, received_at in _ENTRY.iter_unpack(memoryview(value)[_HEAD.size :])
        },
        partitions,
    )
