"""A copy: the record that is appended to the raw topic so that one goes through it once more."""

from consumers.failures import carried_on
from consumers.records import Headers, Output, Record
from gateway.delivery import ATTEMPT, REPLAY_OF


def replay_copy(record: Record, topic: str) -> Output:
    """Give the record to append: key, bytes and headers as they came, and what it repeats.

    The failure that a dead letter tells becomes the newest entry of its history.
    """
    attempt = 1
    for name, value in record.headers:
        if name == ATTEMPT and value is not None and value.isdigit():
            attempt = int(value) + 1
    source = f"{record.topic}/{record.partition}/{record.offset}"
    headers: Headers = [
        *[
            (name, value)
            for name, value in carried_on(record.headers)
            if name not in {REPLAY_OF, ATTEMPT}
        ],
        (REPLAY_OF, source.encode()),
        (ATTEMPT, b"%d" % attempt),
    ]
    return Output(topic=topic, key=record.key, value=record.value, headers=headers)


def replay_of(headers: Headers) -> str | None:
    """Give topic/partition/offset of what a record repeats; None if it is no replay."""
    for name, value in headers:
        if name == REPLAY_OF:
            return (value or b"").decode("ascii", "replace")
    return None
