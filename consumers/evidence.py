"""What Kafka holds that an audit compares: raw records, ledger, events, dead letters.

The order of reading matters: the committed offsets first, because whatever they cover was stored
before them; then everything up to where the logs ended after that. In a transactional topic that
is the high watermark: what was committed may stand behind a transaction of somebody else that
is still open, and the reader waits until that has ended.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from confluent_kafka import IsolationLevel, KafkaException, Message
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from consumers.audit import Evidence, Retention, Where, edges
from consumers.committed import Committed
from consumers.failures import told
from consumers.ledger import Entry, LedgerFormatError, read_entry
from consumers.origin import origin_reader
from consumers.records import Headers
from gateway.delivery import (
    REPLAY_OF,
    dead_topic,
    group_id,
    ledger_topic,
    output_topic,
    raw_topic,
)
from gateway.process import ConfigurationError
from gateway.ranges import (
    LOOKUP_SECONDS,
    Range,
    RangeUnread,
    Wanted,
    answered,
    find_ranges,
    partitions_of,
    read_ranges,
)

CLOCKS_APART_MS = 300_000
"""How far the clocks of brokers, which stamp the records, are believed to differ at most."""


class Gathered(NamedTuple):
    """Everything an audit compares, and the values in the output that could not be read."""

    evidence: list[Evidence]
    retention: Retention
    unread: list[Where]


def gather(
    config: Mapping[str, Any],
    provider: str,
    prefix: str,
    asked: Wanted,
    say: Callable[[str], None] = lambda _text: None,
) -> Gathered:
    """Read what stands of the records asked for.

    Raises ConfigurationError if the cluster does not answer or lacks a topic, Halted if it does
    not say what was committed, RangeUnread if a topic cannot be read to its end.
    """
    raw = raw_topic(provider, prefix)
    admin = AdminClient({"log_level": "0", **config})
    partitions_of(admin, config, raw)  # which says so if there is no such topic, or no Kafka
    with closing(Committed(config, group_id(provider, prefix))) as group:
        committed = {number: offset for (_, number), (offset, _) in group.read([raw]).items()}
    ranges = find_ranges(config, raw, asked)
    clipped = [
        Range(one.partition, one.first, min(one.end, committed[one.partition]))
        for one in ranges
        if one.first < committed.get(one.partition, -1)
    ]
    gathering = _Gathering(admin, config, say)
    evidence = gathering.pages(raw, ledger_topic(provider, prefix), clipped, committed)
    evidence += [
        Evidence(one.partition, one.first, one.first, one.first, before=_why_not(one, committed))
        for one in ranges
        if one.partition not in {found.partition for found in evidence}
    ]
    evidence.sort(key=lambda one: one.partition)
    gathering.records(raw, evidence)
    output, dead = output_topic(prefix, provider), dead_topic(provider, prefix)
    begun = [one.times[0] for one in evidence if one.times]
    if begun:
        since = min(begun) - CLOCKS_APART_MS
        gathering.events(raw, output, evidence, since)
        gathering.letters(raw, dead, evidence, since)
    retention = Retention(gathering.deleted_before(output), gathering.deleted_before(dead))
    return Gathered(evidence, retention, gathering.unread)


def _why_not(asked: Range, committed: Mapping[int, int]) -> str:
    if asked.partition not in committed:
        return "nothing is committed"
    return f"committed is offset {committed[asked.partition]}, before what was asked for"


class _Gathering:
    """Reads topics into evidence."""

    def __init__(
        self, admin: AdminClient, config: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self._admin = admin
        self._config = config
        self._say = say
        self.unread: list[Where] = []

    def pages(
        self, raw: str, ledger: str, asked: Sequence[Range], committed: Mapping[int, int]
    ) -> list[Evidence]:
        """Read the ledger from the time of the first record on; fit the ranges to its pages."""
        since = min(self._first_times(raw, asked).values(), default=0) - CLOCKS_APART_MS
        numbers = [one.partition for one in asked]
        there = len(partitions_of(self._admin, self._config, ledger))
        if numbers and there <= max(numbers):
            raise ConfigurationError(
                f"{ledger} has {there} partitions, fewer than {raw}: `python -m deploy topics "
                "apply --grow` makes them equal"
            )
        ranges, starts = self._since(ledger, since, numbers)
        entries: dict[int, list[Entry]] = {number: [] for number in numbers}
        unread: dict[int, list[int]] = {number: [] for number in numbers}
        for message in self._messages(ledger, ranges):
            number, offset = _coordinate(message)
            try:
                entries[number].append(read_entry(message.value(), number))
            except LedgerFormatError:
                unread[number].append(offset)
        log_starts = self._log_offsets(raw, numbers, OffsetSpec.earliest())  # type: ignore[no-untyped-call] # a classmethod without annotations
        evidence = []
        for one in asked:
            number = one.partition
            low, begun = starts[number]
            first, end, before = edges(
                (one.first, one.end),
                committed[number],
                log_starts[number],
                entries[number],
                cut=low > 0 and begun <= low,
            )
            found = Evidence(number, first, end, committed[number], before=before)
            found.entries = [
                entry
                for entry in entries[number]
                if entry.first_offset < end and entry.next_offset > first
            ]
            found.unread_pages = unread[number]
            evidence.append(found)
        return evidence

    def records(self, raw: str, evidence: Sequence[Evidence]) -> None:
        """Read which raw records there are, when they came, and which are replays."""
        found = {one.partition: one for one in evidence}
        ranges = [Range(one.partition, one.first, one.next_offset) for one in evidence]
        for message in self._messages(raw, ranges):
            number, offset = _coordinate(message)
            replay = any(name == REPLAY_OF for name, _ in _headers(message))
            found[number].record(offset, message.timestamp()[1], replay=replay)

    def events(self, raw: str, topic: str, evidence: Sequence[Evidence], since: int) -> None:
        """Read the events of these partitions' records."""
        found = {one.partition: one for one in evidence}
        read = origin_reader(raw)
        for message in self._messages(topic, self._since(topic, since)[0]):
            value = message.value()
            if value is None:
                continue
            try:
                origin = read(value)
            except ValueError:
                number, offset = _coordinate(message)
                self.unread.append(Where(number, offset, offset))
                continue
            if origin is not None and (one := found.get(origin.partition)) is not None:
                one.event(origin)

    def letters(self, raw: str, topic: str, evidence: Sequence[Evidence], since: int) -> None:
        """Read the dead letters of these partitions' records."""
        found = {one.partition: one for one in evidence}
        for message in self._messages(topic, self._since(topic, since)[0]):
            letter = told(_headers(message))
            if letter is None:
                continue
            source, partition, offset = letter.source.rsplit("/", 2)
            if source != raw or not (partition.isdigit() and offset.isdigit()):
                continue
            if (one := found.get(int(partition))) is not None:
                one.letter(int(offset), letter.revision)

    def deleted_before(self, topic: str) -> int:
        """Give the time before which retention may have deleted records; 0 if it deleted none."""
        numbers = partitions_of(self._admin, self._config, topic)
        first = self._log_offsets(topic, numbers, OffsetSpec.earliest())  # type: ignore[no-untyped-call] # a classmethod without annotations
        if not any(first.values()):
            return 0
        now = int(time.time() * 1000)
        kept = self._retention_ms(topic)
        if kept is not None:
            return now - kept
        ends = self._log_offsets(topic, numbers, OffsetSpec.latest())  # type: ignore[no-untyped-call] # a classmethod without annotations
        cut = [Range(number, first[number], ends[number]) for number in numbers if first[number]]
        oldest = self._first_times(topic, cut)
        return max(oldest.get(one.partition, now) for one in cut)

    def _retention_ms(self, topic: str) -> int | None:
        """Give how long records are kept; None where more than time decides, or nobody says."""
        resource = ConfigResource(ResourceType.TOPIC, topic)
        try:
            (answer,) = self._admin.describe_configs(
                [resource], request_timeout=LOOKUP_SECONDS
            ).values()
            entries = answer.result()
            kept = int(entries["retention.ms"].value)
            by_size = int(entries["retention.bytes"].value) >= 0
        except (KafkaException, KeyError, TypeError, ValueError):
            return None
        return None if by_size or kept < 0 else kept

    def _since(
        self, topic: str, since: int, numbers: Sequence[int] | None = None
    ) -> tuple[list[Range], dict[int, tuple[int, int]]]:
        """Give the ranges from a time on, and for each partition its log's start and theirs."""
        if numbers is None:
            numbers = partitions_of(self._admin, self._config, topic)
        first = self._log_offsets(topic, numbers, OffsetSpec.earliest())  # type: ignore[no-untyped-call] # a classmethod without annotations
        ends = self._log_offsets(topic, numbers, OffsetSpec.latest())  # type: ignore[no-untyped-call] # a classmethod without annotations
        since_offsets = self._log_offsets(topic, numbers, OffsetSpec.for_timestamp(max(since, 0)))
        starts = {}
        for number in numbers:
            found = since_offsets[number]  # negative: no record is that young
            starts[number] = (first[number], ends[number] if found < 0 else found)
        ranges = [Range(number, starts[number][1], ends[number]) for number in numbers]
        return ranges, starts

    def _log_offsets(self, topic: str, numbers: Sequence[int], which: OffsetSpec) -> dict[int, int]:
        if not numbers:
            return {}
        found = answered(
            self._admin,
            [(topic, number) for number in numbers],
            which,
            # What is committed can lie behind an open transaction: that is waited for, not missed.
            isolation=IsolationLevel.READ_UNCOMMITTED,
        )
        if len(found) < len(numbers):
            raise RangeUnread(f"{topic} does not say where its log begins and ends")
        return {number: offset for (_, number), offset in found.items()}

    def _first_times(self, topic: str, ranges: Sequence[Range]) -> dict[int, int]:
        """Give the time of the first record in each range that holds one."""
        times: dict[int, int] = {}
        for messages in read_ranges(self._config, topic, ranges, lambda: len(times) == len(ranges)):
            for message in messages:
                times.setdefault(_coordinate(message)[0], message.timestamp()[1])
        return times

    def _messages(self, topic: str, ranges: Sequence[Range]) -> Iterable[Message]:
        size = sum(max(0, one.end - one.first) for one in ranges)
        self._say(f"reading {topic}, {size:,} offsets")
        for messages in read_ranges(self._config, topic, ranges):
            yield from messages


def _headers(message: Message) -> Headers:
    headers: Headers = message.headers() or []  # type: ignore[assignment] # consumed ones are always a list with values of bytes
    return headers


def _coordinate(message: Message) -> tuple[int, int]:
    """A consumed message has a partition and an offset; only its type says it may not."""
    number, offset = message.partition(), message.offset()
    if number is None or offset is None:
        raise RangeUnread("a record came without its coordinates")
    return number, offset
