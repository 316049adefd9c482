"""What can be wrong with a record, and the dead letter that keeps it."""

import re
from typing import Literal

import msgspec

from consumers.records import Headers, Output, Record
from gateway.delivery import HISTORY
from gateway.process import raised_at

ErrorKind = Literal[
    "invalid_json", "schema_mismatch", "unknown_type", "out_of_range", "inconsistent", "bug"
]

MOST_HISTORY = 10
"""Earlier failures that a record carries along: its first one and the latest ones."""
_LONGEST_WORD = 256

_UNFIT = re.compile(r"[^!-~]+")
_MSGSPEC_PATH = re.compile(r" - at `(\$[A-Za-z0-9_.\-\[\]]{0,200})`$")


class Failure(Exception):  # noqa: N818 - a fate of a record, not an error of the program
    """A record (or one item of it) that cannot become an event; it goes to the dead letters.

    `path` names a field in the payload by our own field names, never a value (for a `bug`, the
    line of our code); `error_class` is the class of the exception behind it. The text of that
    exception is dropped: msgspec prints values.
    """

    def __init__(
        self,
        kind: ErrorKind,
        *,
        path: str = "$",
        error_class: str = "Failure",
        native_type: str | None = None,
    ) -> None:
        super().__init__(f"{kind} at {path}")
        self.native_type = native_type
        self.kind: ErrorKind = kind
        self.path = path
        self.error_class = error_class

    def within(self, at: str) -> "Failure":
        """Give the same failure of a part, with the path in the whole: `at` is the part's."""
        path = at + self.path.removeprefix("$")
        return Failure(
            self.kind, path=path, error_class=self.error_class, native_type=self.native_type
        )


def failure_of(error: Exception) -> Failure:
    """Translate an exception raised while one record was normalized; unforeseen ones are `bug`."""
    name = type(error).__name__
    # set by consumers.normalizers.native.reading
    native_type: str | None = getattr(error, "native_type", None)
    match error:
        case Failure():
            return error
        case msgspec.ValidationError():
            found = _MSGSPEC_PATH.search(str(error))
            path = found.group(1) if found else "$"
            return Failure("schema_mismatch", path=path, error_class=name, native_type=native_type)
        case msgspec.DecodeError() | UnicodeDecodeError() | RecursionError():
            return Failure("invalid_json", error_class=name, native_type=native_type)
        case _:
            path = raised_at(error)
            return Failure("bug", path=path, error_class=name, native_type=native_type)


_KIND = "verihook-error-kind"
_PATH = "verihook-error-path"
_CLASS = "verihook-error-class"
_TOPIC = "verihook-source-topic"
_PARTITION = "verihook-source-partition"
_OFFSET = "verihook-source-offset"
_REVISION = "verihook-mapping-revision"
_OF_A_LETTER = frozenset({_KIND, _PATH, _CLASS, _TOPIC, _PARTITION, _OFFSET, _REVISION})


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a dead letter's headers tell of its failure; words that are fit to be shown.

    `source` is topic/partition/offset of the raw record that failed; `revision` is None where
    the letter does not say.
    """

    kind: str
    path: str
    error_class: str
    revision: int | None
    source: str


def told(headers: Headers) -> Told | None:
    """Read the failure that a dead letter tells, the last where it tells several.

    None if it is none of ours.
    """
    found = {name: value for name, value in headers if name in _OF_A_LETTER and value}
    if _KIND not in found:
        return None
    words = {name: _word(value) for name, value in found.items()}
    coordinates = [words.get(name, "?") for name in (_TOPIC, _PARTITION, _OFFSET)]
    revision = words.get(_REVISION, "")
    return Told(
        kind=words[_KIND],
        path=words.get(_PATH, "$"),
        error_class=words.get(_CLASS, "?"),
        revision=int(revision) if revision.isdigit() else None,
        source="/".join(coordinates),
    )


def carried_on(headers: Headers) -> Headers:
    """Give a record's headers with the failure they tell moved to the end of its history.

    Of more than MOST_HISTORY failures the first and the latest ones are kept.
    """
    failure = told(headers)
    history = [(name, value) for name, value in headers if name == HISTORY]
    if failure is not None:
        revision = "?" if failure.revision is None else failure.revision
        line = f"{failure.kind} {failure.path} {failure.error_class} {revision} {failure.source}"
        history.append((HISTORY, line.encode()))
    if len(history) > MOST_HISTORY:
        history = [history[0], *history[1 - MOST_HISTORY :]]
    kept = [
        (name, value) for name, value in headers if name not in _OF_A_LETTER and name != HISTORY
    ]
    return [*kept, *history]


def _word(value: bytes) -> str:
    """Give a header's value as one word, so that a line of them can be read back."""
    return _UNFIT.sub("_", value.decode("ascii", "replace"))[:_LONGEST_WORD]


def dead_letter(record: Record, failure: Failure, topic: str, mapping_revision: int) -> Output:
    """Set a record aside: original key, bytes and headers, and why, in headers of ours.

    A letter that was copied back by hand keeps its old words too; the last ones count.
    """
    headers: Headers = [
        *record.headers,
        (_KIND, failure.kind.encode()),
        (_PATH, failure.path.encode()),
        (_CLASS, failure.error_class.encode()),
        (_TOPIC, record.topic.encode()),
        (_PARTITION, b"%d" % record.partition),
        (_OFFSET, b"%d" % record.offset),
        (_REVISION, b"%d" % mapping_revision),
    ]
    return Output(topic=topic, key=record.key, value=record.value, headers=headers)
