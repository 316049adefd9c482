"""The ledger: which fate each raw record had, one page or more per barrier and partition.

Its pages cover every offset up to the committed one, so that an audit can prove that nothing
was left out, and what the output should hold. A page on Kafka is one line of JSON, for any tool:

    {"v":1,"partition":0,"from":1200,"to":1324,"fates":"120e3d1l","events":121,"duplicates":3,
     "duplicates_of":"1320=0:1200/9f86d081 1321=0:1201/884c7d65 1322=5:77/9a2feaa0",
     "letters":1,"sum":"0c37...","delivery":"at-least-once","revision":3}

There, an event of offset 1320 was not written because it stands for offset 1200 of partition 0
already; its id ends in 9f86d081.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from typing import Literal, NamedTuple, get_args

import msgspec

from consumers.dedup import First
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
_OFFSET, _NUMBER = r"(0|[1-9][0-9]{0,18})", r"(0|[1-9][0-9]{0,8})"
_DUPLICATE = re.compile(rf"{_OFFSET}={_NUMBER}:{_OFFSET}(?:/([0-9a-f]{{8}}))?")
_DUPLICATES = re.compile(rf"(?:{_DUPLICATE.pattern}(?: (?!$)|$))*")
_DROPPING = frozenset("ebdl")
_TAIL_BYTES = 4

MOST_RECORDS = 10_000
"""Records in one page: at most 20,000 runs of fates, 180 kB at the very worst."""
MOST_DUPLICATES = 5_000
"""Duplicates named in one page, but for those of a single record: 30 bytes each, at most 59."""


class LedgerFormatError(ValueError):
    """A record of the ledger is not one that this version writes; the text names what is wrong."""


def modular(total: int) -> int:
    """Give a sum of event ids as pages carry it: modulo 2**128."""
    return total % _SUM


def sum_of(event_ids: Iterable[bytes]) -> int:
    """Add up event ids of 16 bytes each, as pages carry it."""
    return modular(sum([int.from_bytes(one, "big") for one in event_ids]))


class Duplicate(NamedTuple):
    """An event of the record at `offset` that was not written, and for which record it was.

    `id_tail` is the end of its id, 8 hexadecimal digits; empty where nobody noted it.
    """

    offset: int
    first_partition: int
    first_offset: int
    id_tail: str


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page as it stands on Kafka: what became of consecutive offsets at one barrier.

    `fates` are runs of equal codes in order of offset, each a length and a code, and cover
    `first_offset` up to `next_offset` without a gap. `total` is the sum of the ids of the `events`
    that were written, modulo 2**128, in hexadecimal: JSON's numbers end at 2**53 for most tools.
    `duplicates_of` names each of the `duplicates`, events that were not written, as text.
    """

    version: int = msgspec.field(name="v")
    partition: int
    first_offset: int = msgspec.field(name="from")
    next_offset: int = msgspec.field(name="to")
    fates: str
    events: int
    duplicates: int
    duplicates_of: str
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

    def firsts(self) -> Iterator[Duplicate]:
        """Give every event that was not written, in order of offset."""
        for found in _DUPLICATE.finditer(self.duplicates_of):
            offset, partition, first, tail = found.groups("")
            yield Duplicate(int(offset), int(partition), int(first), tail)


_Note = tuple[int, FateCode, Sequence[bytes], Sequence[First], int, Sequence[bytes]]
"""Offset, fate, the ids written, the records of which events were dropped, letters, ids dropped."""


class Page:
    """What one barrier does with consecutive offsets of one partition, entered as it happens.

    `add` is in the hot loop, so it only takes notes; they are counted when the page is closed.
    What is skipped between `first_offset` and the first record is no record of ours.
    """

    __slots__ = ("_notes", "first_offset", "next_offset")

    def __init__(self, *, first_offset: int, next_offset: int) -> None:
        self.first_offset = first_offset
        self.next_offset = next_offset
        self._notes: list[_Note] = []

    def add(
        self,
        offset: int,
        code: FateCode,
        written: Sequence[bytes],
        duplicates: Sequence[First],
        letters: int,
        dropped: Sequence[bytes] = (),
    ) -> None:
        """Enter the fate of the record at `offset`, which is not before `next_offset`.

        `written` are the ids of the events handed over, 16 bytes each. `duplicates` are where
        those that were not stand already, one for each and in order; `dropped` are their ids, or
        nothing. `letters` is 1 for l and b, else 0. The sequences are kept, not copied.
        """
        if offset < self.next_offset:
            raise _told_already(offset, self.next_offset)
        self.next_offset = offset + 1
        self._notes.append((offset, code, written, duplicates, letters, dropped))

    def skip_to(self, offset: int) -> None:
        """Cover everything before `offset`, where no record is (transaction markers take some)."""
        if offset < self.next_offset:
            raise _told_already(offset, self.next_offset)
        self.next_offset = offset

    def entries(self, partition: int, revision: int, delivery: Delivery) -> Iterator[Entry]:
        """Close the page: the values that go to Kafka, each of its own offsets.

        There are several where one would grow too large; `revision` is the mapping's.
        """
        first = self.first_offset
        start = duplicates = 0
        for at, note in enumerate(self._notes):
            duplicates += len(note[3])
            if at > start and (at - start >= MOST_RECORDS or duplicates > MOST_DUPLICATES):
                notes, end = self._notes[start:at], self._notes[at - 1][0] + 1
                yield _entry(notes, (first, end), partition, revision, delivery)
                first, start, duplicates = end, at, len(note[3])
        if first < self.next_offset:
            notes, end = self._notes[start:], self.next_offset
            yield _entry(notes, (first, end), partition, revision, delivery)


def _told_already(offset: int, expected: int) -> ValueError:
    return ValueError(f"offset {offset} has its fate already: {expected} is next")


def _entry(
    notes: Sequence[_Note],
    ends: tuple[int, int],
    partition: int,
    revision: int,
    delivery: Delivery,
) -> Entry:
    event_ids = [one for note in notes for one in note[2]]
    duplicates = [one for note in notes if note[3] for one in _duplicates(note)]
    return Entry(
        version=_VERSION,
        partition=partition,
        first_offset=ends[0],
        next_offset=ends[1],
        fates="".join([f"{length}{code}" for length, code in _fates(notes, ends)]),
        events=len(event_ids),
        duplicates=len(duplicates),
        duplicates_of=" ".join(duplicates),
        letters=sum([note[4] for note in notes]),
        total=f"{sum_of(event_ids):032x}",
        delivery=delivery,
        revision=revision,
    )


def _fates(notes: Sequence[_Note], ends: tuple[int, int]) -> Iterator[tuple[int, str]]:
    """Give runs of equal codes, of which two that follow each other may be equal, too."""
    at, last = ends
    codes: list[str] = []
    for offset, code, *_ in notes:
        if offset != at:
            yield from [(len(list(run)), same) for same, run in groupby(codes)]
            yield offset - at, NO_RECORD
            codes.clear()
        codes.append(code)
        at = offset + 1
    yield from [(len(list(run)), same) for same, run in groupby(codes)]
    if at < last:
        yield last - at, NO_RECORD


def _duplicates(note: _Note) -> list[str]:
    """Write where the events stand that one record did not write again."""
    offset, _, _, firsts, _, dropped = note
    tails = [f"/{one[-_TAIL_BYTES:].hex()}" for one in dropped] or [""] * len(firsts)
    return [
        f"{offset}={first.partition}:{first.offset}{tail}"
        for first, tail in zip(firsts, tails, strict=True)
    ]


def page_outputs(
    page: Page, topic: str, partition: int, revision: int, delivery: Delivery
) -> list[Output]:
    """Write a page as records of the ledger, on the raw partition's own number.

    Each is far below the topic's limit, however long the page is; nearly always it is one.
    """
    return [
        Output(topic=topic, key=None, value=msgspec.json.encode(entry), partition=partition)
        for entry in page.entries(partition, revision, delivery)
    ]


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
    if not _DUPLICATES.fullmatch(entry.duplicates_of):
        raise LedgerFormatError("its duplicates are not named as they must be")
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
    _check_duplicates(entry, held["d"])


def _check_duplicates(entry: Entry, without_events: int) -> None:
    """A duplicate is of a record that can have some, and stands for no later one."""
    runs = entry.runs()
    ends = list(accumulate([length for length, _ in runs], initial=entry.first_offset))
    before, count, told = entry.first_offset, 0, 0
    for offset, partition, first, _ in entry.firsts():
        if not before <= offset < entry.next_offset:
            raise LedgerFormatError("its duplicates are of other offsets")
        code = runs[bisect_right(ends, offset) - 1][1]
        if code not in _DROPPING or (partition == entry.partition and first > offset):
            raise LedgerFormatError("its duplicates do not fit its fates")
        told += code == "d" and (offset > before or not count)
        before, count = offset, count + 1
    if count != entry.duplicates or told != without_events:
        raise LedgerFormatError("its duplicates do not fit its fates")
