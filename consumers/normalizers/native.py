"""What every mapping reads with: parts and items, ids, times, and a glossary of native words."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import ParamSpec, TypeVar

import msgspec

from consumers.event import (
    Outcome,
    ReasonCode,
    Statement,
    Status,
    Subject,
    SubjectKind,
    TimeSource,
    epoch_ms,
)
from consumers.failures import Failure, failure_of

T = TypeVar("T")
P = ParamSpec("P")

_CONSTANT = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_REFERENCE = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_ALPHA_2 = re.compile(r"[A-Z]{2}")
_ALPHA_3 = re.compile(r"[A-Z]{3}")

ABSENT = msgspec.Raw(b"")
"""Default of a field that is looked at before it is decoded."""

Verdict = tuple[Status, Outcome, bool]
"""What a native status says: status, outcome, and whether the provider is done."""

UNKNOWN_VERDICT: Verdict = ("unknown", "none", False)

Reason = tuple[ReasonCode, str]
"""Our code, and the provider's own where that is a constant."""

LONGEST_SUBJECT = 1_000
"""Characters of an id for a person: Veriff's limit, the widest documented one."""


MOST_ITEMS = 1_000
"""Items of one delivery. No provider names a limit; this many take some 30 ms to normalize, so
that a batch of such deliveries stays far below the time between two polls of Kafka."""


def constant(word: str | None) -> str | None:
    """Give a word of a constant's form as sent, else None.

    A person's name of one word has that form too: what somebody may have typed is not asked here.
    """
    return word if word and _CONSTANT.fullmatch(word) else None


def as_text(value: str | float | None) -> str:
    """Give a value as text, since providers send one field as text and as number; null is empty."""
    return "" if value is None else str(value)


def digest(raw: bytes | msgspec.Raw) -> str:
    """Identify signed bytes that hold no id of their own: their SHA-256 in hex."""
    return hashlib.sha256(raw).hexdigest()


def reading(native_type: str, read: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Read what is known to be of this type: whatever is raised names the type."""
    try:
        return read(*given, **named)
    except Exception as error:
        if getattr(error, "native_type", None) is None:
            error.native_type = native_type  # type: ignore[attr-defined] # any exception takes one
        raise


def part_of(decode: Callable[[bytes | msgspec.Raw], T], raw: bytes | msgspec.Raw, at: str) -> T:
    """Decode the part of a delivery that stands at `at`; a Failure names the place in the whole."""
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise failure_of(error).within(at) from error


def each(
    found: list[msgspec.Raw],
    at: str,
    read: Callable[[msgspec.Raw, int], Statement],
    native_type: str | None = None,
) -> list[Statement | Failure]:
    """Read each item of a delivery for itself: a bad one does not take the others along.

    `read` gets an item and its position, and its failures have paths from the item on; `at` is
    the array's; `native_type` is the items', where they are all of one that is known before
    they are read. Raises Failure of kind out_of_range where there are too many.
    """
    if len(found) > MOST_ITEMS:
        raise Failure("out_of_range", path=at, error_class="TooManyItems")
    said: list[Statement | Failure] = []
    for position, raw in enumerate(found):
        try:
            statement = read(raw, position)
        except (Failure, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            failure = failure_of(error).within(f"{at}[{position}]")
            failure.native_type = failure.native_type or native_type
            said.append(failure)
        else:
            statement.item_index = position
            said.append(statement)
    return said


def reference(value: str, path: str) -> str:
    """Give an opaque id as sent; raises Failure of kind out_of_range where it is none."""
    if _REFERENCE.fullmatch(value) is None:
        raise Failure("out_of_range", path=path)
    return value


def optional_reference(value: str | None, path: str) -> str | None:
    """Give an opaque id, or None where it is missing, null or empty."""
    return reference(value, path) if value else None


def platform_user(value: str | None, path: str) -> Subject | None:
    """Name the subject by the platform's own id, which may be any text; empty is nobody."""
    return _subject("platform_user", value, path)


def provider_user(value: str | None, path: str) -> Subject | None:
    """Name the subject by the id the provider gave; empty is nobody."""
    return _subject("provider_user", value, path)


def _subject(kind: SubjectKind, value: str | None, path: str) -> Subject | None:
    if not value:
        return None
    if len(value) > LONGEST_SUBJECT:
        raise Failure("out_of_range", path=path)
    return Subject(kind, value)


Moment = tuple[int | None, TimeSource]
"""When it happened, in milliseconds since the epoch, and how far to trust that."""

NO_MOMENT: Moment = (None, "received")


def moment(text: str | None, source: TimeSource, path: str) -> Moment:
    """Read an RFC 3339 time.

    There is none where it is missing, null, empty or without a zone; raises Failure of kind
    schema_mismatch where it is no time.
    """
    if not text:
        return NO_MOMENT
    try:
        found = msgspec.convert(text, datetime)
    except msgspec.ValidationError as error:
        raise Failure("schema_mismatch", path=path, error_class="ValidationError") from error
    return moment_of(found, source)


def moment_of(found: datetime, source: TimeSource) -> Moment:
    """Give a decoded time; there is none without a zone, and none before 1970: a zero value."""
    at = epoch_ms(found)
    return NO_MOMENT if at is None or at <= 0 else (at, source)


def first_moment(moments: Iterable[Moment]) -> Moment:
    """Give the first that is a time; what comes after it is not looked at."""
    return next((found for found in moments if found[0] is not None), NO_MOMENT)


class Glossary:
    """Looks native words up and notes the fields whose word no table of ours knows."""

    def __init__(self) -> None:
        self._unmapped: list[str] = []

    @property
    def unmapped(self) -> tuple[str, ...]:
        """The fields noted, each once, in order."""
        return tuple(dict.fromkeys(self._unmapped)) if self._unmapped else ()

    def note(self, field: str) -> None:
        """Note a field whose word our tables do not know."""
        self._unmapped.append(field)

    def read(self, table: Mapping[str, T], word: str, field: str, unknown: T) -> T:
        """Translate a word; one the table does not know is noted and becomes `unknown`."""
        found = table.get(word)
        if found is None:
            self._unmapped.append(field)
            return unknown
        return found

    def verdict(self, table: Mapping[str, Verdict], word: str, field: str) -> Verdict:
        """Translate a native status; one the table does not know is noted and unknown."""
        return self.read(table, word, field, UNKNOWN_VERDICT)

    def reasons(
        self, table: Mapping[str, ReasonCode], word: str | None, field: str
    ) -> tuple[Reason, ...]:
        """Translate a reason's code, if there is one; one the table does not know is unmapped."""
        if not word:
            return ()
        return ((self.read(table, word, field, "unmapped"), constant(word) or ""),)

    def country(self, word: str | None, field: str) -> str | None:
        """Give an ISO 3166-1 alpha-2 code as sent; free text is noted and dropped."""
        return self._code(_ALPHA_2, word, field)

    def currency(self, word: str | None, field: str) -> str | None:
        """Give an ISO 4217 alphabetic code as sent; anything else is noted and dropped."""
        return self._code(_ALPHA_3, word, field)

    def _code(self, form: re.Pattern[str], word: str | None, field: str) -> str | None:
        if not word:
            return None
        if form.fullmatch(word) is None:
            self._unmapped.append(field)
            return None
        return word
