"""Normalized events as a person reads them, from the output topic; no group, nothing committed."""

import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

import msgspec
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, TopicPartition

from consumers.codec import FramingError, decode
from consumers.event import VerificationEvent
from gateway.kafka import MAY_NOT
from gateway.process import ConfigurationError
from gateway.ranges import may_not_read, partitions_of

COLUMNS = (
    "occurred",
    "provider",
    "native type",
    "status",
    "outcome",
    "final",
    "reasons",
    "category",
    "process",
    "subject",
)
_WIDTHS = (19, 8, 36, 14, 12, 5, 27, 21, 36, 22)
_GONE = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - the client's public names begin so
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)


def table_row(event: VerificationEvent) -> list[str]:
    """Give the cells of one event, one for each of COLUMNS."""
    return [
        _moment(event.occurred_at),
        event.provider,
        event.native_type,
        event.status,
        event.outcome,
        "final" if event.is_final else "",
        ",".join(event.reason_codes),
        event.category,
        event.process_ref or "",
        event.subject_ref or "",
    ]


def _moment(milliseconds: int) -> str:
    """Give a moment as a person reads it; one that no calendar has, as it stands."""
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        return str(milliseconds)


def table_line(cells: tuple[str, ...] | list[str]) -> str:
    """Lay one row out in columns; a long cell is not cut, so nothing is hidden."""
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()


def json_line(event: VerificationEvent) -> str:
    """Give one event as a JSON object with the schema's field names."""
    return msgspec.json.encode(event).decode()


_NO_EVENT = (FramingError, ValueError, EOFError, IndexError, msgspec.ValidationError)
"""What is raised for a value that is none of ours; fastavro reads on blindly behind our prefix."""


def _judge(topic: str, error: KafkaError) -> None:
    """Raise ConfigurationError for an error that does not pass."""
    if error.code() in MAY_NOT:
        raise ConfigurationError(may_not_read(topic))
    if error.code() in _GONE:
        raise ConfigurationError(
            f"{topic} is gone, or partitions of it; start tail again when it is there"
        )


def _on_stderr(line: str) -> None:
    sys.stderr.write(f"consumers: {line}\n")
    sys.stderr.flush()


class _Troubles:
    """Tells a trouble when it begins, not while it lasts."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: set[int] = set()

    def tell(self, error: KafkaError) -> None:
        """Say one line of an error that was not told since the last event."""
        if error.code() not in self._told:
            self._told.add(error.code())
            self._say(f"Kafka does not answer as it should ({error.name()}); tail goes on trying")

    def over(self) -> None:
        """Take note that events come again."""
        self._told.clear()


def events(
    config: Mapping[str, str],
    topic: str,
    *,
    from_beginning: bool,
    stopping: Callable[[], bool],
    say: Callable[[str], None] = _on_stderr,
) -> Iterator[VerificationEvent | None]:
    """Yield events as they come; None whenever nothing came for a moment.

    A value that is not one of our events is passed over; `say` is told when a trouble with Kafka
    begins. Raises ConfigurationError if the cluster does not answer at first, has no such topic,
    or no longer has it.
    """
    troubles = _Troubles(say)
    heard: list[KafkaError] = []  # also that a topic is gone: an error of no message
    consumer = Consumer(
        {
            "log_level": "0",
            **config,
            "group.id": f"verihook-tail-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "error_cb": heard.append,
        }
    )
    try:
        numbers = partitions_of(consumer, config, topic)
        start = OFFSET_BEGINNING if from_beginning else OFFSET_END
        consumer.assign([TopicPartition(topic, number, start) for number in numbers])
        heard.clear()
        while not stopping():
            found = False
            messages = consumer.consume(500, 0.2)
            for error in heard:
                _judge(topic, error)
                troubles.tell(error)
            heard.clear()
            for message in messages:
                failed, value = message.error(), message.value()
                if failed is not None:
                    _judge(topic, failed)
                    troubles.tell(failed)
                    continue
                if value is None:
                    continue
                try:
                    event = decode(value)
                except _NO_EVENT:
                    continue
                found = True
                troubles.over()
                yield event
            if not found:
                yield None
    finally:
        consumer.close()
