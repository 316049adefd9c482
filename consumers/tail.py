"""Normalized events as a person reads them, from the output topic; no group, nothing committed."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

import msgspec
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, TopicPartition

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
_METADATA_SECONDS = 10.0


def table_row(event: VerificationEvent) -> list[str]:
    """Give the cells of one event, one for each of COLUMNS."""
    occurred = datetime.fromtimestamp(event.occurred_at / 1000, UTC)
    return [
        f"{occurred:%Y-%m-%d %H:%M:%S}",
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


def table_line(cells: tuple[str, ...] | list[str]) -> str:
    """Lay one row out in columns; a long cell is not cut, so nothing is hidden."""
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()


def json_line(event: VerificationEvent) -> str:
    """Give one event as a JSON object with the schema's field names."""
    return msgspec.json.encode(event).decode()


def events(
    config: Mapping[str, str],
    topic: str,
    *,
    from_beginning: bool,
    stopping: Callable[[], bool],
) -> Iterator[VerificationEvent | None]:
    """Yield events as they come; None whenever nothing came for a moment.

    A value that is not one of our events is passed over. Raises ConfigurationError if the
    cluster does not answer or has no such topic.
    """
    consumer = Consumer(
        {
            "log_level": "0",
            **config,
            "group.id": f"verihook-tail-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
        }
    )
    try:
        numbers = partitions_of(consumer, config, topic)
        start = OFFSET_BEGINNING if from_beginning else OFFSET_END
        consumer.assign([TopicPartition(topic, number, start) for number in numbers])
        while not stopping():
            found = False
            for message in consumer.consume(500, 0.2):
                error, value = message.error(), message.value()
                if error is not None and error.code() in MAY_NOT:
                    raise ConfigurationError(may_not_read(topic))
                if error is not None or value is None:
                    continue
                try:
                    event = decode(value)
                except (FramingError, ValueError, EOFError, msgspec.ValidationError):
                    continue
                found = True
                yield event
            if not found:
                yield None
    finally:
        consumer.close()
