"""A group's lag, from what the broker told: how far behind each partition is, who must act.

`consumers.outside` asks the broker, `consumers.lag_table` tells a person.
"""

from typing import Literal

import msgspec

from consumers import stall
from consumers.passport import Passport

NOTHING: Literal["nothing"] = "nothing"
Waiting = int | Literal["nothing"] | None
"""Kafka's time (ms) of the first record that waits; that none does; None where it is not known."""


class Checkpoint(msgspec.Struct, frozen=True):
    """What the group committed for one partition; no passport where it is not ours to read."""

    next_offset: int
    passport: Passport | None


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far one partition of a raw topic is; None where that is not known.

    `records` counts offsets from the committed one to the end, and is 0 where no record is among
    them; `seconds` is the age of the first record there, 0.0 only if none waits; neither is known
    where the log ends before the committed offset. `lost` counts offsets that retention deleted
    unread; where nothing else waits, `seconds` is not known.
    """

    partition: int
    committed: int | None
    end: int | None
    records: int | None
    seconds: float | None
    lost: int
    mapping_revision: int | None
    last_record_at: int | None
    recent: dict[str, list[tuple[int, int, int]]]

    @property
    def beyond(self) -> bool:
        """Whether the committed offset lies beyond the log's end: another log was meant by it."""
        return self.committed is not None and self.end is not None and self.committed > self.end


class GroupLag(msgspec.Struct, frozen=True, kw_only=True):
    """A group's lag on one topic, by partition; `members` is None where nobody may say.

    `provider` is empty where the group is somebody else's.
    """

    provider: str
    topic: str
    group: str
    state: str
    members: int | None
    positions: tuple[Position, ...]

    @property
    def begun(self) -> bool:
        """Whether the group ever committed anything."""
        return any(one.committed is not None for one in self.positions)


def position(
    partition: int,
    committed: Checkpoint | None,
    first: int | None,
    end: int | None,
    waiting: Waiting,
    now: float,
) -> Position:
    """Work out one partition's lag from what was answered.

    `waiting` is about the records at or after the committed offset, or of the whole log where
    nothing is committed. Kafka's clock may be ahead of ours: that is 0.
    """
    records, seconds, lost = None, None, 0
    if end is not None and first is not None:
        at = first if committed is None else committed.next_offset
        lost = max(0, first - at)
        if at <= end:
            records = lost if waiting == NOTHING else end - at
        if records == 0:
            seconds = 0.0
    if isinstance(waiting, int):
        seconds = max(0.0, now - waiting / 1000)
    passed = None if committed is None else committed.passport
    return Position(
        partition=partition,
        committed=None if committed is None else committed.next_offset,
        end=end,
        records=records,
        seconds=seconds,
        lost=lost,
        mapping_revision=None if passed is None else passed.mapping_revision,
        last_record_at=None if passed is None else passed.last_record_at,
        recent={} if passed is None else passed.recent,
    )


def failing(found: GroupLag) -> list[tuple[str, int, int]]:
    """Give the native types with failures in the last minutes before the commits.

    As type, records and failures, of all partitions together; the most failures first.
    """
    looked_at = windows(found)
    newest = max((window.newest for window in looked_at), default=0)
    counts: dict[str, tuple[int, int]] = {}
    for window in looked_at:
        for native_type, records, failures in window.since(newest - stall.MINUTES + 1):
            records_before, failures_before = counts.get(native_type, (0, 0))
            counts[native_type] = (records_before + records, failures_before + failures)
    found_types = [(name, *count) for name, count in counts.items() if count[1]]
    return sorted(found_types, key=lambda one: one[2], reverse=True)


def windows(found: GroupLag) -> list[stall.Window]:
    """Give the windows of the newest mapping: what failed under an older one is mended."""
    newest = max((one.mapping_revision or 0 for one in found.positions), default=0)
    return [
        stall.Window(one.recent)
        for one in found.positions
        if one.recent and one.mapping_revision == newest
    ]


def needs_somebody(found: GroupLag) -> bool:
    """Say whether there is what only a person ends: a stall, or a log that ends too early."""
    return stall.stalled(windows(found)) is not None or any(one.beyond for one in found.positions)
