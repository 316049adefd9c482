"""Where an event came from: the few fields of an output record that an audit needs, read narrowly.

The event id is the schema's first field, the coordinates are its last ones, before them the item's
index; a test holds the schema to that. So they are found from both ends of the value, without
reading the forty fields between: 1 us instead of fastavro's 30.
"""

from collections.abc import Callable
from typing import NamedTuple

from consumers.encoder import varint

_CONFLUENT, _CONFLUENT_BYTES = 0x00, 5
_SINGLE_OBJECT, _SINGLE_OBJECT_BYTES = 0xC3, 10
_UUID_TEXT = 36
_UUID_LENGTH = _UUID_TEXT << 1
"""The length of an event id as Avro writes it: one byte, zig-zag."""
_EVENT_ID_BYTES = 16
_INT = range(-(2**31), 2**31)
_MOST_TAIL = 5 + 10 + 5
"""Bytes of a partition (int), an offset (long) and a revision (int) at their longest."""


class Origin(NamedTuple):
    """Which raw record an event is of, as which item, under which mapping."""

    event_id: bytes
    partition: int
    offset: int
    item: int
    revision: int


def origin_reader(raw_topic: str) -> Callable[[bytes], Origin | None]:
    """Build the function that reads the origin of an output record's value.

    It gives None for what is not an event of this raw topic. Raises ValueError where a value
    names the topic in the right place and cannot be read all the same.
    """
    name = raw_topic.encode()
    topic = varint(len(name)) + name

    def read(value: bytes) -> Origin | None:
        at = value.rfind(topic, max(0, len(value) - len(topic) - _MOST_TAIL))
        if at < 0:
            return None
        tail = value[at + len(topic) :]
        partition, position = _number(tail, 0)
        offset, position = _number(tail, position)
        revision, position = _number(tail, position)
        if position != len(tail):
            return None
        if revision not in _INT or revision < 0:
            raise ValueError("its mapping revision is none")
        if value[0] == _CONFLUENT:
            start = _CONFLUENT_BYTES
        elif value[0] == _SINGLE_OBJECT:
            start = _SINGLE_OBJECT_BYTES
        else:
            raise ValueError("it is framed as none of our values is")
        text = start + 1
        if at <= text + _UUID_TEXT or value[start] != _UUID_LENGTH:
            raise ValueError("it does not begin with an event id")
        digits = value[text : text + _UUID_TEXT].decode("ascii").replace("-", "")
        event_id = bytes.fromhex(digits)
        if len(event_id) != _EVENT_ID_BYTES:
            raise ValueError("its event id has another length")
        item = _item(value, at)
        if item not in _INT:
            raise ValueError("its item's index is none")
        return Origin(event_id, partition, offset, item, revision)

    return read


def _number(data: bytes, position: int) -> tuple[int, int]:
    """Read one number, zig-zag and 7 bits a byte; give it and where the next one begins.

    That is -1 where the number has no end, or the one before had none.
    """
    if position < 0:
        return 0, -1
    number = shift = 0
    for at in range(position, len(data)):
        byte = data[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at + 1
        shift += 7
    return 0, -1


def _item(value: bytes, end: int) -> int:
    """Read the number that ends here; before it stands the 0 that ends the map of attributes."""
    start = end - 1
    while value[start - 1] >= 0x80:
        start -= 1
    return _number(value[start:end], 0)[0]
