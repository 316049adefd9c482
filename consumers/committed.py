"""What a group committed, read and written from outside: by no member of it, with it alive or dead.

Facts of librdkafka 2.16 that shape this file, each seen against Apache Kafka 4.3:
- AdminClient.list_consumer_group_offsets kills the process (SIGSEGV) where a broker answers that it
  is not the group's coordinator, as to the first question that a fresh cluster hears
  (https://github.com/confluentinc/librdkafka/issues/5040). A Consumer that never subscribes asks
  the same, joins nothing, and is told the error.
- committed() waits for a transaction that holds offsets of the group, up to the client's time-out,
  unless the client is read_uncommitted. Then it gives what is committed now: never an offset that
  only waits in a transaction.
- A synchronous commit, and close(), wait without bound for brokers that do not answer.
- Who may not see the group is told so by poll() alone: committed() looks for a coordinator until
  its time-out.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumers.broker import (
    CLOSE_SECONDS,
    NOT_AUTHORISED,
    TRYING_ON,
    UNKNOWN_TOPIC,
    close_within,
    told_with,
)
from consumers.contract import Halted
from consumers.records import Partition

Answer = TypeVar("Answer")

ANSWER_SECONDS = 15.0
_LEAST_SECONDS = 0.1
_GLANCE_SECONDS = 2.0
"""After so long it is first looked whether the group lets us in at all."""
_POLL_SECONDS = 0.005
_PAUSE_SECONDS = 0.2


class Committed:
    """A group's committed offsets, each with the text beside it; no member is needed or disturbed.

    A call takes ANSWER_SECONDS at most, and raises Halted if Kafka has not answered by then or
    will not.
    """

    def __init__(self, config: Mapping[str, Any], group: str) -> None:
        self._group = group
        self._answers: list[KafkaError | None] = []
        self._refusal: KafkaError | None = None
        self._client = Consumer(
            {
                "log_level": "0",
                **config,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "allow.auto.create.topics": False,
                "isolation.level": "read_uncommitted",
                "on_commit": self._answered,
            }
        )

    def read(self, topics: Sequence[str]) -> dict[Partition, tuple[int, str]]:
        """Give the committed offsets on these topics; a partition without one is left out.

        A topic that is not there has none. Raises Halted if one may not be described.
        """

        def partitions(left: Callable[[], float]) -> list[Partition]:
            return [(topic, number) for topic in topics for number in self._partitions(topic, left)]

        return self._read(partitions, None)

    def read_partitions(
        self, partitions: Sequence[Partition], seconds: float | None = None
    ) -> dict[Partition, tuple[int, str]]:
        """Give the committed offsets of these partitions; one without is left out.

        Takes `seconds` at most, else ANSWER_SECONDS. Raises Halted as `read` does.
        """
        return self._read(lambda _: partitions, seconds)

    def _read(
        self,
        partitions: Callable[[Callable[[], float]], Sequence[Partition]],
        seconds: float | None,
    ) -> dict[Partition, tuple[int, str]]:
        def ask(left: Callable[[], float]) -> list[TopicPartition]:
            asked = [TopicPartition(topic, number) for topic, number in partitions(left)]
            found = self._committed(asked, left) if asked else []
            for one in found:
                _raise_for(one.topic, one.error)
            return found

        refused = f"this client may not see what {self._group} committed; grant it Describe"
        return {
            (one.topic, one.partition): (one.offset, told_with(one))
            for one in self._patiently(ask, f"{refused} on the group", seconds)
            if one.offset >= 0
        }

    def _partitions(self, topic: str, left: Callable[[], float]) -> list[int]:
        found = self._client.list_topics(topic, left()).topics[topic]
        if found.error is None or found.error.code() not in UNKNOWN_TOPIC:
            _raise_for(topic, found.error)
        return list(found.partitions)

    def _committed(
        self, asked: list[TopicPartition], left: Callable[[], float]
    ) -> list[TopicPartition]:
        """Ask until the time is over, and look now and then whether the group lets us in."""
        glance = _GLANCE_SECONDS
        while True:
            try:
                found = self._client.committed(asked, timeout=min(glance, left()))
            except KafkaException as error:
                if error.args[0].code() != KafkaError._TIMED_OUT:  # noqa: SLF001 - its public name
                    raise
                self._hear(0)
                if self._refusal is not None:
                    raise KafkaException(self._refusal) from error
                if left() <= _LEAST_SECONDS:
                    raise
            else:
                self._refusal = None
                return found
            glance *= 2  # asking anew drops an answer that is only slow

    def _hear(self, seconds: float) -> None:
        """Serve the client; raises KafkaException if the group does not let us in."""
        message = self._client.poll(seconds)
        while message is not None:
            error = message.error()
            if error is not None and error.code() in NOT_AUTHORISED:
                self._refusal = error  # said once, however long it holds
                raise KafkaException(error)
            message = self._client.poll(0)

    def write(self, offsets: Mapping[Partition, int], text: str) -> None:
        """Commit these offsets with a text beside them; the group must have no member alive."""
        wanted = [
            TopicPartition(topic, number, offset, metadata=text)
            for (topic, number), offset in offsets.items()
        ]

        def commit(left: Callable[[], float]) -> None:
            self._answers.clear()
            self._client.commit(offsets=wanted, asynchronous=True)
            end = time.monotonic() + left()
            while not self._answers:
                if time.monotonic() > end:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - the client's public names begin so
                self._hear(_POLL_SECONDS)
            if self._answers[0] is not None:
                raise KafkaException(self._answers[0])

        refused = f"this client may not commit for {self._group}; grant it Read on the group"
        self._patiently(commit, refused)

    def close(self) -> None:
        """Let the client go, within CLOSE_SECONDS."""
        close_within(CLOSE_SECONDS, self._client.close)

    def _patiently(
        self,
        call: Callable[[Callable[[], float]], Answer],
        refused: str,
        seconds: float | None = None,
    ) -> Answer:
        """Ask again while the trouble may pass, such as a coordinator that is still being found.

        The call is told how many seconds are left; `refused` says which right is missing.
        """
        end = time.monotonic() + (ANSWER_SECONDS if seconds is None else seconds)

        def left() -> float:
            return max(_LEAST_SECONDS, end - time.monotonic())

        while True:
            try:
                return call(left)
            except KafkaException as error:
                problem = error.args[0]
                if problem.code() in NOT_AUTHORISED:
                    raise Halted(refused) from error
                if problem.code() not in TRYING_ON or time.monotonic() > end:
                    raise Halted(
                        f"the offsets of the group {self._group} cannot be read or written: "
                        f"{problem.name()}"
                    ) from error
            time.sleep(_PAUSE_SECONDS)

    def _answered(self, error: KafkaError | None, offsets: Sequence[TopicPartition]) -> None:
        errors = [error, *(one.error for one in offsets)]
        self._answers.append(next((one for one in errors if one is not None), None))


def _raise_for(topic: str, error: KafkaError | None) -> None:
    """Raise what is wrong with a topic; Halted, with its name, if it is not ours to see."""
    if error is None:
        return
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        raise Halted(f"this client may not read {topic}; grant it Describe on the topic")
    raise KafkaException(error)
