"""Lag from outside: what the group committed and how far behind that is, with no consumer alive.

Everything comes from the broker: committed offsets and their passports, where the logs begin and
end, who is in the group, and one record for each partition that is behind, for its time.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, OffsetSpec

from consumers import passport, stall
from consumers.broker import log_offsets
from consumers.committed import Committed
from consumers.passport import Passport
from consumers.records import Partition
from gateway.delivery import group_id, raw_topic
from gateway.process import ConfigurationError
from gateway.ranges import Range, partitions_of, read_ranges

LOOKUP_SECONDS = 10.0
_AGAIN_SECONDS = 0.2
_NEAREST = 100
"""How many offsets may hold no record, after the committed one, before its age is unknown."""


class Checkpoint(msgspec.Struct, frozen=True):
    """What the group committed for one partition; no passport where it is not ours to read."""

    next_offset: int
    passport: Passport | None


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far one partition of a raw topic is; None where that is not known.

    `records` counts offsets from the committed one to the end; `seconds` is the age of the first
    record there, 0.0 only if none waits; neither is known where the log ends before the committed
    offset. `lost` counts offsets that retention deleted unread.
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
    """A provider's lag: its group, its partitions; `members` is None where nobody may say."""

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


def present(config: Mapping[str, Any], providers: Iterable[str], prefix: str) -> list[str]:
    """List the providers that have a raw topic. Raises ConfigurationError if none has, or Kafka."""
    admin = AdminClient({"log_level": "0", **config})
    try:
        known = admin.list_topics(timeout=LOOKUP_SECONDS).topics
    except KafkaException as error:
        raise ConfigurationError(
            f"Kafka does not answer at {config['bootstrap.servers']}"
        ) from error
    found = sorted(one for one in providers if raw_topic(one, prefix) in known)
    if not found:
        raise ConfigurationError(
            f"there is no topic {raw_topic('<provider>', prefix)} that this client may see; is "
            "TOPIC_PREFIX right? (`make run` uses demo.)"
        )
    return found


def answered(
    admin: AdminClient, partitions: Sequence[Partition], which: OffsetSpec
) -> dict[Partition, int]:
    """Ask where logs begin or end, again while some do not answer; those are left out then.

    For a while a new topic refuses, as does a partition whose leader has changed.
    """
    deadline = time.monotonic() + LOOKUP_SECONDS
    while True:
        found = log_offsets(admin, partitions, which, LOOKUP_SECONDS)
        if len(found) == len(partitions) or time.monotonic() >= deadline:
            return found
        time.sleep(_AGAIN_SECONDS)


def checkpoints(config: Mapping[str, Any], group: str, topic: str) -> dict[int, Checkpoint]:
    """Give what the group committed for each partition; those without a commit are left out.

    Raises Halted if Kafka does not say.
    """
    with closing(Committed(config, group)) as committed:
        found = committed.read([topic])
    return {
        number: Checkpoint(offset, passport.read(text))
        for (_, number), (offset, text) in found.items()
    }


def lag(config: Mapping[str, Any], provider: str, prefix: str, now: float) -> GroupLag:
    """Look up a provider's lag at `now`, in seconds since the epoch.

    Raises ConfigurationError if the cluster does not answer or has no such topic, Halted if it
    does not say what was committed, RangeUnread if a record that waits cannot be read.
    """
    topic, group = raw_topic(provider, prefix), group_id(provider, prefix)
    admin = AdminClient({"log_level": "0", **config})
    numbers = partitions_of(admin, config, topic)
    # The committed offsets first: the ends asked for later cannot lie before them.
    committed = checkpoints(config, group, topic)
    partitions = [(topic, number) for number in numbers]
    first = answered(admin, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call] # a classmethod without annotations
    ends = answered(admin, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call] # a classmethod without annotations
    waiting = []
    for number in numbers:
        start, end = first.get((topic, number)), ends.get((topic, number))
        if start is None or end is None:
            continue
        at = max(start, committed[number].next_offset if number in committed else start)
        if at < end:
            waiting.append(Range(number, at, min(end, at + _NEAREST)))
    times = _first_times(config, topic, waiting)
    state, members = _members(admin, group)
    return GroupLag(
        provider=provider,
        topic=topic,
        group=group,
        state=state,
        members=members,
        positions=tuple(
            position(
                number,
                committed.get(number),
                first.get((topic, number)),
                ends.get((topic, number)),
                times.get(number),
                now,
            )
            for number in numbers
        ),
    )


def position(
    partition: int,
    committed: Checkpoint | None,
    first: int | None,
    end: int | None,
    waiting_since: int | None,
    now: float,
) -> Position:
    """Work out one partition's lag from what was answered.

    `waiting_since` is Kafka's time (ms) of the first record at or after the committed offset, or
    in the log where nothing is committed. Kafka's clock may be ahead of ours: that is 0.
    """
    records, seconds, lost = None, None, 0
    if end is not None and first is not None:
        at = first if committed is None else committed.next_offset
        lost = max(0, first - at)
        if at <= end:
            records = end - at
        if records == 0:
            seconds = 0.0
    if waiting_since is not None:
        seconds = max(0.0, now - waiting_since / 1000)
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


def _first_times(config: Mapping[str, Any], topic: str, waiting: Sequence[Range]) -> dict[int, int]:
    """Give the time of the first record in each range; none where only markers are left."""
    times: dict[int, int] = {}
    for messages in read_ranges(config, topic, waiting, lambda: len(times) == len(waiting)):
        for message in messages:
            times.setdefault(message.partition() or 0, message.timestamp()[1])
    return times


def _members(admin: AdminClient, group: str) -> tuple[str, int | None]:
    """Give the group's state and how many members are alive; None where nobody says."""
    try:
        (answer,) = admin.describe_consumer_groups([group], request_timeout=LOOKUP_SECONDS).values()
        found = answer.result()
    except KafkaException:
        return "unknown", None
    return found.state.name.lower(), len(found.members)


def failing(found: GroupLag) -> list[tuple[str, int, int]]:
    """Give the native types with failures in the last minutes before the commits.

    As type, records and failures, of all partitions together; the most failures first.
    """
    windows = _windows(found)
    newest = max((window.newest for window in windows), default=0)
    counts: dict[str, tuple[int, int]] = {}
    for window in windows:
        for native_type, records, failures in window.since(newest - stall.MINUTES + 1):
            records_before, failures_before = counts.get(native_type, (0, 0))
            counts[native_type] = (records_before + records, failures_before + failures)
    found_types = [(name, *count) for name, count in counts.items() if count[1]]
    return sorted(found_types, key=lambda one: one[2], reverse=True)


def _windows(found: GroupLag) -> list[stall.Window]:
    """Give the windows of the newest mapping: what failed under an older one is mended."""
    newest = max((one.mapping_revision or 0 for one in found.positions), default=0)
    return [
        stall.Window(one.recent)
        for one in found.positions
        if one.recent and one.mapping_revision == newest
    ]


def needs_somebody(found: GroupLag) -> bool:
    """Say whether there is what only a person ends: a stall, or a log that ends too early."""
    return stall.stalled(_windows(found)) is not None or any(one.beyond for one in found.positions)


_HEADS = ("partition", "committed", "end", "behind", "seconds", "last record handled", "mapping")


def lag_lines(found: GroupLag, now: float) -> list[str]:
    """Tell a provider's lag as a person reads it: what matters first, then each partition."""
    lines = [_headline(found)]
    rows = [_HEADS, *(_row(one, now) for one in found.positions)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    for row in rows:
        cells = [
            # the last two are words, the others are numbers
            cell.ljust(width) if column > 4 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    lines += [
        f"  partition {one.partition}: retention deleted {one.lost:,} offsets before they were "
        "handled"
        for one in found.positions
        if one.lost
    ]
    lines += [
        f"  partition {one.partition} {_ends_early(one)}: the topic was created anew or cut off; "
        "reset the group's offsets to say where to go on"
        for one in found.positions
        if one.beyond
    ]
    for native_type, records, failures in failing(found):
        lines.append(
            f"  failing: {failures:,} of {records:,} {native_type} in the {stall.MINUTES} minutes "
            "before the last commits"
        )
    stalled = stall.stalled(_windows(found))
    if stalled is not None:
        lines.append(
            f"  stalled: too much of {stalled} fails; mend the mapping, raise its REVISION and "
            f"start anew, or go on as it is: `python -m consumers resume {found.provider} "
            "--admin HOST:PORT` (the CONSUMER_ADMIN_LISTEN of each stalled process)"
        )
    return lines


def _headline(found: GroupLag) -> str:
    """Say in one sentence how late the events are, and whether anybody works on it."""
    if found.members is None:
        alive = f"nobody says who is in {found.group}"
    elif not found.members:
        alive = f"NOBODY is in {found.group}"
    else:
        members = "1 member" if found.members == 1 else f"{found.members} members"
        alive = f"{members} in {found.group} ({found.state})"
    if not found.begun:
        return f"{found.provider}: nothing was ever committed; {alive}"
    early = [one for one in found.positions if one.beyond]
    known = [one.records for one in found.positions if one.records is not None]
    waits = [one.seconds for one in found.positions if one.seconds is not None]
    silent = len(found.positions) - len(early) - len(known)
    if silent:
        behind = f"at least {sum(known):,} records behind (some partitions did not answer)"
    elif not sum(known):
        behind = "nothing waits"
    else:
        behind = f"{sum(known):,} records behind"
    if sum(known):
        oldest = f"the oldest waits {duration(max(waits))}" if waits else "nobody knows how long"
        behind = f"{behind}, {oldest}"
    if early:
        told = f"{found.topic}[{early[0].partition}] {_ends_early(early[0])}"
        if len(early) > 1:
            more = len(early) - 1
            told += f", and {more} more {'does' if more == 1 else 'do'} so"
        behind = f"{told}; elsewhere {behind}" if silent or sum(known) else told
    return f"{found.provider}: {behind}; {alive}"


def _ends_early(one: Position) -> str:
    return f"ends at {one.end}, before the committed offset {one.committed}"


def _row(one: Position, now: float) -> tuple[str, ...]:
    last = "-"
    if one.last_record_at is not None:
        moment = datetime.fromtimestamp(one.last_record_at / 1000, UTC)
        ago = duration(max(0.0, now - one.last_record_at / 1000))
        last = f"{moment:%Y-%m-%d %H:%M:%SZ} ({ago} ago)"
    return (
        str(one.partition),
        "never" if one.committed is None else f"{one.committed:,}",
        "?" if one.end is None else f"{one.end:,}",
        "?" if one.records is None else f"{one.records:,}",
        "?" if one.seconds is None else f"{int(one.seconds):,}",
        last,
        "-" if one.mapping_revision is None else str(one.mapping_revision),
    )


def duration(seconds: float) -> str:
    """Tell a time in its two largest units."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, size, below, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {below}"
    return f"{whole // 60} min {whole % 60} s"
