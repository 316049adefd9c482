"""What can be wrong with a record, and the dead letter that keeps it."""

import re
from typing import Literal

import msgspec

from consumers.records import Headers, Output, Record
from gateway.process import raised_at

ErrorKind = Literal[
    "invalid_json", "schema_mismatch", "unknown_type", "out_of_range", "inconsistent", "bug"
]

_MSGSPEC_PATH = re.compile(r" - at `(\$[A-Za-z0-9_.\-\[\]]{0,200})`$")


class Failure(Exception):  # noqa: N818 - a fate of a record, not an error of the program
    """A record (or one item of it) that cannot become an event; it goes to the dead letters.

    `path` names a field in the payload by our own field names, never a value (for a `bug`, the
    line of our code); `error_class` is the class of the exception behind it. The text of that
    exception is dropped: msgspec prints values.
    """

    def __init__(self, kind: ErrorKind, *, path: str = "$", error_class: str = "Failure") -> None:
        super().__init__(f"{kind} at {path}")
        self.kind: ErrorKind = kind
        self.path = path
        self.error_class = error_class

    def within(self, at: str) -> "Failure":
        """Give the same failure of a part, with the path in the whole: `at` is the part's."""
        path = at + self.path.removeprefix("$")
        return Failure(self.kind, path=path, error_class=self.error_class)


def failure_of(error: Exception) -> Failure:
    """Translate an exception raised while one record was normalized; unforeseen ones are `bug`."""
    name = type(error).__name__
    match error:
        case Failure():
            return error
        case msgspec.ValidationError():
            found = _MSGSPEC_PATH.search(str(error))
            path = found.group(1) if found else "$"
            return Failure("schema_mismatch", path=path, error_class=name)
        case msgspec.DecodeError() | UnicodeDecodeError() | RecursionError():
            return Failure("invalid_json", error_class=name)
        case _:
            return Failure("bug", path=raised_at(error), error_class=name)


def dead_letter(record: Record, failure: Failure, topic: str, mapping_revision: int) -> Output:
    """Set a record aside: original key, bytes and headers, and why, in headers of ours."""
    headers: Headers = [
        *record.headers,
        ("verihook-error-kind", failure.kind.encode()),
        ("verihook-error-path", failure.path.encode()),
        ("verihook-error-class", failure.error_class.encode()),
        ("verihook-source-topic", record.topic.encode()),
        ("verihook-source-partition", b"%d" % record.partition),
        ("verihook-source-offset", b"%d" % record.offset),
        ("verihook-mapping-revision", b"%d" % mapping_revision),
    ]
    return Output(topic=topic, key=record.key, value=record.value, headers=headers)
