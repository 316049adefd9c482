"""A bounded range of a topic, for commands that look back: what is asked for, found and read."""

import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec

from gateway.kafka import MAY_NOT
from gateway.process import ConfigurationError

LOOKUP_SECONDS = 10.0
_LOOKUP_PAUSE_SECONDS = 0.2
_ANSWER_SECONDS = 5.0
_REASON_SECONDS = 3.0
"""How long a client of its own is listened to for why there is no answer."""
SILENCE_SECONDS = 30.0
"""How long a partition that holds more may give nothing before a reader gives up."""
_MOST_MESSAGES = 500
_OFFSETS = re.compile(r"([0-9]{1,9}):([0-9]{1,18})(-[0-9]{0,18})?", re.ASCII)
_AGO = re.compile(r"([0-9]{1,9})([smhdw])", re.ASCII)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_FOR_EVER = 2**62


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which records of a topic somebody asks for; everything where nothing is said.

    `offsets` are the first and the last one by partition; where some are given, only those
    partitions are meant. Times are Kafka's, in milliseconds since the epoch; `until` is the
    first moment that is not meant.
    """

    offsets: Mapping[int, tuple[int, int]] = {}
    since: int | None = None
    until: int | None = None


class Range(msgspec.Struct, frozen=True):
    """Offsets of one partition, from `first` up to and without `end`."""

    partition: int
    first: int
    end: int


class RangeUnread(Exception):  # noqa: N818 - a state of the cluster, not an error of ours
    """A range was not read to its end; the text is one sentence that says why."""


def wanted(offsets: Sequence[str], since: str, until: str, now: float) -> Wanted:
    """Read what a command line says: PARTITION:FROM-TO, and times as ISO 8601 or 2h, 3d (ago).

    TO is included; without it everything from FROM on, and PARTITION:OFFSET is one record. A
    time without a zone is UTC. Empty texts say nothing. `now` is in seconds since the epoch.
    Raises ConfigurationError.
    """
    found: dict[int, tuple[int, int]] = {}
    for text in offsets:
        match = _OFFSETS.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                f"--offset {text!r}: it should be PARTITION:FROM-TO, for example 3:1000-1999"
            )
        partition, first = int(match[1]), int(match[2])
        dash = match[3]
        last = first if dash is None else int(dash[1:] or _FOR_EVER)
        if last < first:
            raise ConfigurationError(f"--offset {text!r}: it ends before it begins")
        if partition in found:
            raise ConfigurationError(f"--offset {text!r}: give one range for each partition")
        found[partition] = (first, last)
    begin, end = _moment(since, "--since", now), _moment(until, "--until", now)
    if begin is not None and end is not None and end <= begin:
        raise ConfigurationError(f"--until {until!r} is not after --since {since!r}")
    return Wanted(offsets=found, since=begin, until=end)


def _moment(text: str, option: str, now: float) -> int | None:
    if not text:
        return None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return max(0, int((now - int(ago[1]) * _UNIT_SECONDS[ago[2]]) * 1000))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{option} {text!r}: it should be a time such as 2026-07-01T12:00Z, or how long ago, "
            "such as 90m, 2h or 3d"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp() * 1000))  # Kafka's time begins in 1970


def find_ranges(
    config: Mapping[str, Any],
    topic: str,
    asked: Wanted = Wanted(),  # noqa: B008 - frozen
) -> list[Range]:
    """Give the ranges that hold what was asked for, as the topic stands now.

    They end at the last stable offset of this moment: what comes later, or stands in a
    transaction that is still open, is not in them. Partitions that hold nothing of it are left
    out. Raises ConfigurationError if the cluster does not answer, or has no such topic or
    partition.
    """
    admin = AdminClient({"log_level": "0", **config})
    partitions = partitions_of(admin, config, topic)
    for number in asked.offsets:
        if number not in partitions:
            raise ConfigurationError(
                f"{topic} has no partition {number}; it has {len(partitions)}, counted from 0"
            )
    numbers = sorted(asked.offsets or partitions)
    first = _every_offset(admin, topic, numbers, OffsetSpec.earliest())  # type: ignore[no-untyped-call] # a classmethod without annotations
    end = _every_offset(admin, topic, numbers, OffsetSpec.latest())  # type: ignore[no-untyped-call] # a classmethod without annotations
    for moment, bound in ((asked.since, first), (asked.until, end)):
        if moment is None:
            continue
        at = _every_offset(admin, topic, numbers, OffsetSpec.for_timestamp(moment))
        for number in numbers:
            # negative: no record is that young
            bound[number] = end[number] if at[number] < 0 else min(at[number], end[number])
    found = []
    for number in numbers:
        low, high = asked.offsets.get(number, (0, _FOR_EVER))
        one = Range(number, max(first[number], low), min(end[number], high + 1))
        if one.first < one.end:
            found.append(one)
    return found


def partitions_of(
    client: AdminClient | Consumer, config: Mapping[str, Any], topic: str
) -> list[int]:
    """List a topic's partitions.

    Raises ConfigurationError if the cluster does not answer, has no such topic or does not let
    us see it.
    """
    try:
        known = client.list_topics(topic, timeout=LOOKUP_SECONDS).topics[topic]
    except KafkaException as error:
        raise ConfigurationError(silence(config)) from error
    if known.error is not None and known.error.code() in MAY_NOT:
        raise ConfigurationError(may_not_read(topic))
    if known.error is not None or not known.partitions:
        raise ConfigurationError(
            f"there is no topic {topic}; is TOPIC_PREFIX right? (`make run` uses demo.)"
        )
    return sorted(known.partitions)


def may_not_read(topic: str) -> str:
    """Say in one sentence that the right to read a topic is missing."""
    return f"this client may not read {topic}; grant it Read on the topic"


def silence(config: Mapping[str, Any], heard: Sequence[KafkaError] | None = None) -> str:
    """Say in one sentence why Kafka gave no answer: it is silent, or will not have this client.

    The reason is in what a client complained of meanwhile (its error_cb). Where nobody listened,
    a client of its own is, for a few seconds.
    """
    servers = config["bootstrap.servers"]
    for one in _complaints(config) if heard is None else heard:
        if _is_reason(one):
            return f"Kafka at {servers} cannot be used: {one.str()}"
    return f"Kafka does not answer at {servers}"


# librdkafka's own names for local errors begin with an underscore
_REASONS: Sequence[int] = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._RESOLVE)  # noqa: SLF001


def _is_reason(error: KafkaError) -> bool:
    # A broker that speaks no TLS where we do is told as a broken transport.
    return error.code() in _REASONS or "SSL handshake failed" in error.str()


def _complaints(config: Mapping[str, Any]) -> list[KafkaError]:
    heard: list[KafkaError] = []
    settings: dict[str, Any] = {"log_level": "0", **config, "error_cb": heard.append}
    admin = AdminClient(settings)
    end = time.monotonic() + _REASON_SECONDS
    while time.monotonic() < end and not any(map(_is_reason, heard)):
        admin.poll(_LOOKUP_PAUSE_SECONDS)
    return heard


def log_offsets(
    admin: AdminClient,
    partitions: Sequence[tuple[str, int]],
    which: OffsetSpec,
    timeout: float = _ANSWER_SECONDS,
    *,
    isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
    troubles: list[KafkaError] | None = None,
) -> dict[tuple[str, int], int]:
    """Ask once where logs begin or end; partitions that give no answer are left out.

    A log ends at its last stable offset, which an open transaction holds back. After a change of
    leader the answer is FENCED_LEADER_EPOCH for ever unless the metadata is fetched anew
    (librdkafka 2.16), so that the next question has an answer. What Kafka said instead of an
    answer is added to `troubles`.
    """
    wanted = {TopicPartition(topic, number): which for topic, number in partitions}
    offsets: dict[tuple[str, int], int] = {}
    if not wanted:
        return offsets
    answers = admin.list_offsets(wanted, isolation_level=isolation, request_timeout=timeout)
    heard: list[KafkaError] = [] if troubles is None else troubles
    for asked, answer in answers.items():
        try:
            offset = told_offset(answer.result())
        except KafkaException as error:
            heard.append(error.args[0])
        else:
            if offset is not None:
                offsets[asked.topic, asked.partition] = offset
    for topic in sorted({topic for topic, _ in set(partitions) - offsets.keys()}):
        try:
            admin.list_topics(topic, timeout=timeout)
        except KafkaException as error:
            heard.append(error.args[0])
            break  # nobody answers: the next topic would be waited for as long
    return offsets


def answered(
    admin: AdminClient,
    partitions: Sequence[tuple[str, int]],
    which: OffsetSpec,
    seconds: float | None = None,
    *,
    isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
    troubles: list[KafkaError] | None = None,
) -> dict[tuple[str, int], int]:
    """Ask where logs begin or end, again while some do not answer; those are left out then.

    For a while a new topic refuses, as does a partition whose leader has changed. It takes
    `seconds`, else LOOKUP_SECONDS, and at most as long again for the last question.
    """
    patience = LOOKUP_SECONDS if seconds is None else seconds
    deadline = time.monotonic() + patience
    found: dict[tuple[str, int], int] = {}
    while True:
        left = [one for one in partitions if one not in found]
        found |= log_offsets(admin, left, which, patience, isolation=isolation, troubles=troubles)
        if len(found) == len(partitions) or time.monotonic() >= deadline:
            return found
        time.sleep(_LOOKUP_PAUSE_SECONDS)


def _every_offset(
    admin: AdminClient, topic: str, numbers: Sequence[int], which: OffsetSpec
) -> dict[int, int]:
    """Ask one thing of every partition; raise ConfigurationError if one gives no answer."""
    troubles: list[KafkaError] = []
    found = answered(admin, [(topic, number) for number in numbers], which, troubles=troubles)
    if len(found) < len(numbers):
        name = troubles[-1].name() if troubles else "no answer"
        raise ConfigurationError(f"{topic} does not say where its log begins and ends: {name}")
    return {number: offset for (_, number), offset in found.items()}


def told_offset(answer: ListOffsetsResultInfo) -> int | None:
    """Give the offset that a broker told; None if none answered.

    librdkafka (2.16) reports no error for a partition whose broker stays silent until the
    question's time-out, but OFFSET_INVALID. OFFSET_END is an answer: no record is that young.
    """
    return None if answer.offset == OFFSET_INVALID else int(answer.offset)


def read_ranges(
    config: Mapping[str, Any],
    topic: str,
    ranges: Sequence[Range],
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[list[Message]]:
    """Yield every committed record of the ranges once, some at a time, in order per partition.

    Ends when the ranges do, or when it is time to stop. Offsets without a record (markers of
    transactions, what was aborted) are passed over. Raises RangeUnread.
    """
    reading = _Reading(topic, ranges)
    if not reading.ends:
        return
    consumer = Consumer(
        {
            "log_level": "0",
            **config,
            "group.id": f"verihook-reader-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "allow.auto.create.topics": False,
            # The position stays before a marker at the log's end: only this tells the end.
            "enable.partition.eof": True,
        }
    )
    try:
        consumer.incremental_assign(
            [TopicPartition(topic, one.partition, one.first) for one in ranges]
        )
        heard = time.monotonic()
        while reading.ends and not stopping():
            found, done = reading.sorted_out(consumer.consume(_MOST_MESSAGES, 0.2))
            if done and reading.ends:
                consumer.incremental_unassign([TopicPartition(topic, one) for one in done])
            if found:
                yield found
            if found or done:
                heard = time.monotonic()  # what the caller did meanwhile is not Kafka's silence
            elif time.monotonic() - heard > SILENCE_SECONDS:
                raise RangeUnread(
                    f"{topic} gave nothing for {SILENCE_SECONDS:g} s: {reading.trouble}"
                )
    finally:
        consumer.close()


class _Reading:
    """Which partitions are still to be read, and to where; `trouble` is the last one heard of."""

    def __init__(self, topic: str, ranges: Sequence[Range]) -> None:
        self._topic = topic
        self.ends = {one.partition: one.end for one in ranges if one.first < one.end}
        self.trouble = "no answer"

    def sorted_out(self, messages: Sequence[Message]) -> tuple[list[Message], set[int]]:
        """Give the records within the ranges, and the partitions that are done with them."""
        found: list[Message] = []
        done: set[int] = set()
        for message in messages:
            number, offset = message.partition(), message.offset()
            if number is None or offset is None or number not in self.ends:
                continue
            end, error = self.ends[number], message.error()
            if error is None:
                if offset < end:
                    found.append(message)
                if offset >= end - 1:
                    done.add(number)
            elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's public names begin so
                self.trouble = _judged(self._topic, number, error)
            elif offset >= end:  # not so while a new leader does not know the end yet
                done.add(number)
        for number in done:
            del self.ends[number]
        return found, done


def _judged(topic: str, partition: int, error: KafkaError) -> str:
    """Name a trouble that may pass; raise RangeUnread for one that does not."""
    if error.code() in MAY_NOT:
        raise RangeUnread(may_not_read(topic))
    if error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:  # noqa: SLF001
        raise RangeUnread(
            f"{topic}[{partition}] no longer has the offsets to be read: retention deleted them "
            "meanwhile"
        )
    return error.name()
