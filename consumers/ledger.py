"""The ledger: which fate each raw record had, one page per barrier and partition.

Its pages cover every offset up to the committed one, so that an audit can prove that nothing
was left out, and what the output should hold. A page on Kafka is one line of JSON, for any tool:

    {"v":1,"partition":0,"from":1200,"to":1324,"fates":"120e3d1l","events":121,"duplicates":3,
     "letters":1,"sum":"0c37...","delivery":"at-least-once","revision":3}
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal, get_args

import msgspec

from consumers.records import Output

FateCode = Literal["e", "b", "d", "i", "l", "-"]
"""What became of one offset: e events, b events and a dead letter (one of several items was bad),
d duplicate (all its events were seen before), i ignored, l dead letter, - no record there."""

Delivery = Literal["at-least-once", "exactly-once"]

NO_RECORD = "-"
_VERSION = 1
_SUM = 1 << 128
_CODES = "".join(get_args(FateCode))
_RUN = re.compile(rf"([1-9][0-9]{{0,18}})([{_CODES}])")
_FATES = re.compile(rf"(?:{_RUN.pattern})+")


class LedgerFormatError(ValueError):
    """A record of the ledger is not one that this version writes; the text names what is wrong."""


def modular(total: int) -> int:
    """Give a sum of event ids as pages carry it: modulo 2**128."""
    return total % _SUM


def sum_of(event_ids: Iterable[bytes]) -> int:
    """Add up event ids of 16 bytes each, as pages carry it."""
    return modular(sum([int.from_bytes(one, "big") for one in event_ids]))


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page as it stands on Kafka: what one barrier did with consecutive offsets.

    `fates` are runs of equal codes in order of offset, each a length and a code, and cover
    `first_offset` up to `next_offset` without a gap. `total` is the sum of the ids of the `events`
    that were written, modulo 2**128, in hexadecimal: JSON's numbers end at 2**53 for most tools.
    """

    version: int = msgspec.field(name="v")
    partition: int
    first_offset: int = msgspec.field(name="from")
    next_offset: int = msgspec.field(name="to")
    fates: str
    events: int
    duplicates: int
    letters: int
    total: str = msgspec.field(name="sum")
    delivery: Delivery
    revision: int

    @property
    def event_sum(self) -> int:
        """Give the sum of the written events' ids as a number."""
        return int(self.total, 16)

    def runs(self) -> list[tuple[int, str]]:
        """Give the fates as pairs of a length and a code, in order of offset."""
        return [(int(length), code) for length, code in _RUN.findall(self.fates)]


class Page:
    """What one barrier does with consecutive offsets of one partition, entered as it happens.

    `add` is in the hot loop, so it only takes notes; they are counted when the page is closed.
    """

    __slots__ = (
        "_codes",
        "_event_ids",
        "_runs",
        "delivery",
        "duplicate_events",
        "first_offset",
        "letters",
        "next_offset",
    )

    def __init__(
        self, *, first_offset: int, next_offset: int, delivery: Delivery = "at-least-once"
    ) -> None:
        self.first_offset = first_offset
        self.next_offset = next_offset
        self.delivery: Delivery = delivery
        self.duplicate_events = 0
        self.letters = 0
        # What was skipped before the first record is no record of ours.
        skipped = next_offset - first_offset
        self._runs: list[tuple[int, str]] = [(skipped, NO_RECORD)] if skipped else []
        self._codes: list[str] = []
        self._event_ids: list[bytes] = []

    def add(
        self, offset: int, code: FateCode, written: Sequence[bytes], duplicates: int, letters: int
    ) -> None:
        """Enter the fate of the record at `offset`, which is not before `next_offset`.

        `written` are the ids of the events handed over, 16 bytes each; `duplicates` counts the
        events that were not, because they were seen before; `letters` is 1 for l and b, else 0.
        """
        if offset != self.next_offset:
            self._skip_to(offset)
        self.next_offset = offset + 1
        self._codes.append(code)
        if written:
            self._event_ids += written
        self.duplicate_events += duplicates
        self.letters += letters

    def skip_to(self, offset: int) -> None:
        """Cover everything before `offset`, where no record is (transaction markers take some)."""
        if offset != self.next_offset:
            self._skip_to(offset)

    def _skip_to(self, offset: int) -> None:
        if offset < self.next_offset:
            raise ValueError(f"offset {offset} has its fate already: {self.next_offset} is next")
        self._settle()
        self._runs.append((offset - self.next_offset, NO_RECORD))
        self.next_offset = offset

    def _settle(self) -> None:
        self._runs += [(len(list(run)), code) for code, run in groupby(self._codes)]
        self._codes.clear()

    @property
    def events(self) -> int:
        """How many events were written."""
        return len(self._event_ids)

    def entry(self, partition: int, revision: int) -> Entry:
        """Close the page: the value that goes to Kafka; `revision` is the mapping's."""
        self._settle()
        return Entry(
            version=_VERSION,
            partition=partition,
            first_offset=self.first_offset,
            next_offset=self.next_offset,
            fates="".join([f"{length}{code}" for length, code in self._runs]),
            events=len(self._event_ids),
            duplicates=self.duplicate_events,
            letters=self.letters,
            total=f"{sum_of(self._event_ids):032x}",
            delivery=self.delivery,
            revision=revision,
        )


def page_output(page: Page, topic: str, partition: int, revision: int) -> Output:
    """Write a page as a record of the ledger, on the raw partition's own number."""
    value = msgspec.json.encode(page.entry(partition, revision))
    return Output(topic=topic, key=None, value=value, partition=partition)


_DECODER = msgspec.json.Decoder(Entry)


def read_entry(value: bytes | None, partition: int) -> Entry:
    """Read a record of the ledger's partition. Raises LedgerFormatError.

    What a page says of itself must agree: its fates cover its offsets, its counts fit its fates.
    """
    if value is None:
        raise LedgerFormatError("it has no value")
    try:
        entry = _DECODER.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LedgerFormatError(f"it is not a page: {error}") from error
    if entry.version != _VERSION:
        raise LedgerFormatError(f"it is of version {entry.version}; {_VERSION} is known")
    if entry.partition != partition:
        raise LedgerFormatError(f"it tells of partition {entry.partition}, not of its own")
    if not _FATES.fullmatch(entry.fates):
        raise LedgerFormatError("its fates are no runs of known codes")
    if not re.fullmatch(r"[0-9a-f]{32}", entry.total, re.ASCII):
        raise LedgerFormatError("its sum is not 32 hexadecimal digits")
    _check_counts(entry)
    return entry


def _check_counts(entry: Entry) -> None:
    held = dict.fromkeys(_CODES, 0)
    for length, code in entry.runs():
        held[code] += length
    if entry.first_offset < 0 or sum(held.values()) != entry.next_offset - entry.first_offset:
        raise LedgerFormatError("its fates do not cover its offsets")
    if entry.letters != held["l"] + held["b"]:
        raise LedgerFormatError("its dead letters do not fit its fates")
    emitting = held["e"] + held["b"]
    if entry.events < emitting or (entry.events and not emitting):
        raise LedgerFormatError("its events do not fit its fates")
    if not entry.events and entry.event_sum:
        raise LedgerFormatError("its sum does not fit its events")
    if entry.duplicates < held["d"]:
        raise LedgerFormatError("its duplicates do not fit its fates")
