"""First records: the time of the first record that waits in each partition, read once.

One consumer without a group, which stays connected; see `FirstRecords`.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from consumers.offsets import NOTHING, Waiting
from consumers.records import Partition
from gateway.kafka import MAY_NOT
from gateway.ranges import RangeUnread, may_not_read

_LEAST_SECONDS = 0.5
_KNOWN_SECONDS = 60.0
_READ_AT_ONCE = 50
"""Partitions read side by side: each may hold a batch of the largest size in memory."""

Key = tuple[Any, str, int]
"""Who asks, and about which partition."""


class Question(msgspec.Struct, frozen=True):
    """Which record is the first in a partition from `at` on, where the log ends at `end`."""

    asker: Any
    partition: Partition
    at: int
    end: int

    @property
    def key(self) -> Key:
        """What an answer is remembered by."""
        return (self.asker, *self.partition)


_FETCH: Mapping[str, Any] = {
    # Of a batch Kafka always gives the whole. A partition that may give less than its batch is
    # answered with nothing, unless it is the first of the question: 200 took 15 s at 4 kB.
    "fetch.message.max.bytes": 1024 * 1024,
    "fetch.max.bytes": 4 * 1024 * 1024,
    "fetch.wait.max.ms": 20,
    "fetch.queue.backoff.ms": 5,  # else the next fetch waits for a second once records are here
}


class _Known(msgspec.Struct, frozen=True):
    """From `at` up to `upto` no record can be read; at `upto` is one, if there is a time.

    `read_at` is when, in monotonic seconds: a topic that is made anew has the old one's offsets.
    """

    at: int
    upto: int
    timestamp: int | None
    read_at: float


class FirstRecords:
    """The times of first records that wait, each read once for as long as it is the first."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._known: dict[Key, _Known] = {}
        self.reads = 0
        """How many partitions were read."""
        self._consumer = Consumer(
            {
                "log_level": "0",
                **config,
                "group.id": "verihook-first-records",  # joined by nobody
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "allow.auto.create.topics": False,
                # The position stays before a marker at the log's end: only this tells the end.
                "enable.partition.eof": True,
                **_FETCH,
            }
        )

    def close(self) -> None:
        """Let the client go."""
        self._consumer.close()

    def look(
        self, questions: Sequence[Question], seconds: float, troubles: list[Exception]
    ) -> dict[Key, Waiting]:
        """Give the time of each first record, by asker and partition, or that there is none.

        What is not answered within `seconds` is left out, and told to `troubles`.
        """
        end = time.monotonic() + seconds
        asked = {one.key for one in questions}
        oldest = time.monotonic() - _KNOWN_SECONDS
        self._known = {
            key: known
            for key, known in self._known.items()
            if key in asked and known.read_at >= oldest
        }
        open_ = [one for one in questions if self._told(one) is None]
        while open_:
            part: dict[Partition, Question] = {}
            for one in open_:
                if len(part) < _READ_AT_ONCE:
                    part.setdefault(one.partition, one)
            open_ = [one for one in open_ if part.get(one.partition) is not one]
            left = end - time.monotonic()
            # So that partitions which do not answer leave time for the others.
            share = left / (1 + -(-len(open_) // _READ_AT_ONCE))
            troubles += self._read(part, max(_LEAST_SECONDS, share))
        return {one.key: told for one in questions if (told := self._told(one)) is not None}

    def _told(self, question: Question) -> Waiting:
        """Say what is known without reading."""
        known = self._known.get(question.key)
        if known is None or not known.at <= question.at <= known.upto:
            return None
        if known.timestamp is None:
            return NOTHING if question.end == known.upto else None
        return known.timestamp if known.upto < question.end else None

    def _read(self, open_: dict[Partition, Question], seconds: float) -> list[Exception]:
        """Read these partitions until each has given its first record, or its end."""
        self.reads += len(open_)
        troubles: list[Exception] = []
        trouble = "no answer"
        end = time.monotonic() + seconds
        self._consumer.assign([TopicPartition(*at, self._start(one)) for at, one in open_.items()])
        try:
            while open_ and time.monotonic() < end:
                done = []
                for message in self._consumer.consume(len(open_), 0.05):
                    at = (message.topic() or "", message.partition() or 0)
                    error = message.error()
                    if at not in open_:
                        continue
                    why = _never(*at, error)
                    if why:
                        troubles.append(RangeUnread(why))
                    elif not self._noted(open_[at], message):
                        trouble = error.name() if error is not None else trouble
                        continue
                    del open_[at]
                    done.append(TopicPartition(*at))
                if done and open_:
                    self._consumer.incremental_unassign(done)
        finally:
            self._consumer.unassign()
        return troubles + [
            RangeUnread(f"{topic}[{number}] gave no record in time: {trouble}")
            for topic, number in open_
        ]

    def _start(self, question: Question) -> int:
        """Give where to begin: not again with what is known to hold no record."""
        known = self._known.get(question.key)
        if known is None or known.timestamp is not None:
            return question.at
        return known.upto if known.at <= question.at <= known.upto <= question.end else question.at

    def _noted(self, question: Question, message: Message) -> bool:
        """Take note of a partition's answer; False if it is none."""
        offset, error = message.offset(), message.error()
        if offset is None or offset < question.at:
            return False
        if error is not None and (
            error.code() != KafkaError._PARTITION_EOF  # noqa: SLF001 - the client's public names begin so
            or offset < question.end  # a new leader does not know the end yet
        ):
            return False
        now = time.monotonic()
        known = _Known(question.at, question.end, None, now)
        if error is None and offset < question.end:  # else it came after the end was asked for
            known = _Known(question.at, offset, message.timestamp()[1], now)
        self._known[question.key] = known
        return True


def _never(topic: str, partition: int, error: KafkaError | None) -> str:
    """Say what will not pass while one waits; nothing of other errors."""
    if error is None:
        return ""
    if error.code() in MAY_NOT:
        return may_not_read(topic)
    if error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:  # noqa: SLF001
        return f"{topic}[{partition}] no longer has the offsets to be read"
    return ""
