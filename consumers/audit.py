"""The audit: compares what stands in the topics with what the ledger says. Values in, report out.

A fate is believed only where all three agree: the raw topic has the record, exactly one page of
the ledger tells its fate, and the output (or the dead letters) hold what that fate means. Where
pages overlap, because work was done again after a crash, the last one counts.

Proven of a duplicate: an event with that end of its id (32 bits) stands in the output for the
record that the page names, or for the one that this record's own page names in its turn. Where
that record is outside of what is audited, or its event may be deleted, nothing is proven, and it
is counted as not checked.

Trusted: the mapping. That an ignored record means nothing, that a dead letter had to be one, that
a record has no more events than were written or dropped, and that equal ids are equal events.
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Literal, NamedTuple

import msgspec

from consumers.ledger import NO_RECORD, Duplicate, Entry, modular
from consumers.origin import Origin

Verdict = Literal["ok", "note", "fail"]
"""What a check says: nothing to tell, something to know, or something is not as it must be."""

_UNKNOWN = ord("?")
_ABSENT = ord(NO_RECORD)
_FATELESS = frozenset((_UNKNOWN, _ABSENT))
_EMITTING = frozenset(b"eb")
_LETTERED = frozenset(b"lb")
_DUPLICATE = ord("d")
_NO_REVISION = -1
_PACKED = struct.Struct(">16sIQIi")
"""An event in 36 bytes: its id first, so that in order, equal ids stand together."""
_PLACE = struct.Struct(">IQ")
_PACKED_TAIL, _PACKED_PLACE = slice(12, 16), slice(16, 28)
"""Of a packed event: the end of its id, as pages name duplicates, and its raw record."""


class Where(msgspec.Struct, frozen=True):
    """Consecutive offsets of one partition, both ends included."""

    partition: int
    first: int
    last: int

    def __str__(self) -> str:
        if self.first == self.last:
            return f"{self.partition}:{self.first}"
        return f"{self.partition}:{self.first}-{self.last}"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check's answer: how often, and at which raw offsets, it did not find what must be."""

    name: str
    verdict: Verdict
    count: int
    text: str
    where: tuple[Where, ...] = ()


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at in one partition; offsets from `first` up to and without `next_offset`.

    `fates` counts records by their fate. `before` says why nothing was proven before `first`.
    """

    partition: int
    first: int
    next_offset: int
    records: int
    fates: dict[str, int]
    events: int
    pages: int
    before: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit found; nothing is `proven` of no records at all."""

    raw_topic: str
    group: str
    proven: bool
    verdict: str
    deliveries: tuple[str, ...]
    partitions: tuple[Proof, ...]
    checks: tuple[Check, ...]


class Evidence:
    """What the topics hold about the offsets of one raw partition that are to be audited.

    From `first` up to and without `next_offset`; `committed` is where the group goes on. Memory:
    about 30 bytes for each raw record, 100 for each event, 200 for each duplicate.
    """

    def __init__(
        self, partition: int, first: int, next_offset: int, committed: int, *, before: str = ""
    ) -> None:
        self.partition = partition
        self.first = first
        self.next_offset = next_offset
        self.committed = committed
        self.before = before
        self.entries: list[Entry] = []
        self.unread_pages: list[int] = []
        """Offsets in the ledger of records that are no pages."""
        self.offsets = array("q")
        self.times = array("q")
        self.replays: set[int] = set()
        self.events: list[bytes] = []
        self.letters: list[tuple[int, int]] = []
        """Of each dead letter, the offset of its record and the revision it names."""
        self.under_way = 0
        """Events and dead letters of records that are not committed yet."""

    def record(self, offset: int, time: int, *, replay: bool = False) -> None:
        """Take note of a raw record, in order of offset; `time` is Kafka's, in milliseconds."""
        self.offsets.append(offset)
        self.times.append(time)
        if replay:
            self.replays.add(offset)

    def event(self, origin: Origin) -> None:
        """Take note of an event of this partition in the output."""
        if self.first <= origin.offset < self.next_offset:
            self.events.append(
                _PACKED.pack(
                    origin.event_id, origin.partition, origin.offset, origin.revision, origin.item
                )
            )
        elif origin.offset >= self.committed:
            self.under_way += 1

    def letter(self, offset: int, revision: int | None) -> None:
        """Take note of a dead letter of this partition's record at `offset`.

        `revision` is the mapping's, None where the letter does not say.
        """
        if self.first <= offset < self.next_offset:
            self.letters.append((offset, _NO_REVISION if revision is None else revision))
        elif offset >= self.committed:
            self.under_way += 1

    def time_of(self, offset: int) -> int | None:
        """Give Kafka's time of a raw record, None if it is not there."""
        at = bisect_left(self.offsets, offset)
        known = at < len(self.offsets) and self.offsets[at] == offset
        return self.times[at] if known else None


class Retention(msgspec.Struct, frozen=True):
    """Before these times (Kafka's, in milliseconds), retention may have deleted what was there."""

    events: int = 0
    letters: int = 0


def edges(
    asked: tuple[int, int], committed: int, log_start: int, entries: Sequence[Entry], *, cut: bool
) -> tuple[int, int, str]:
    """Say which offsets can be proven of those asked for, as whole pages, and why not the first.

    `log_start` is where the raw log begins; `cut` says that retention deleted pages. The sums of
    a page prove something only of all of its offsets, so a range grows to whole pages, and where
    the raw log begins within a page, the range begins after it.
    """
    first, end = asked[0], min(asked[1], committed)
    before = ""
    if first >= end:
        return first, first, before
    if cut:
        known = min((entry.first_offset for entry in entries), default=end)
        if known > first:
            before = f"retention deleted the ledger's pages before offset {known}"
            first = known
    page = _covering(entries, first)
    if page is not None and page.first_offset < first:
        if page.first_offset >= log_start:
            first = page.first_offset
        else:
            before = (
                f"the raw log begins at offset {log_start}, within the page of "
                f"{page.first_offset}-{page.next_offset - 1}"
            )
            first = page.next_offset
    last = _covering(entries, end - 1)
    if last is not None:
        end = min(max(end, last.next_offset), committed)
    return first, max(first, end), before


def _covering(entries: Sequence[Entry], offset: int) -> Entry | None:
    for entry in reversed(entries):
        if entry.first_offset <= offset < entry.next_offset:
            return entry
    return None


class _Told:
    """What the ledger says of one partition's evidence, and what was found of it in the output."""

    def __init__(self, evidence: Evidence, *, exactly_once: bool) -> None:
        self.evidence = evidence
        self._exactly_once = exactly_once
        size = evidence.next_offset - evidence.first
        pages = len(evidence.entries)
        self.codes = bytearray(b"?") * size
        self.owner = array("l", [-1]) * size
        self.redone = bytearray(size)
        self.redone_strictly = bytearray(size)
        self.emitted = bytearray(size)
        self.lettered = bytearray(size)
        self.events = 0
        self.page_events = [0] * pages
        self.page_sums = [0] * pages
        reach = 0
        for index, entry in enumerate(evidence.entries):
            reach = max(reach, self._enter(index, entry, reach))
        self.owned = [0] * pages
        for index, run in groupby(self.owner):
            if index >= 0:
                self.owned[index] += len(list(run))

    def _enter(self, index: int, entry: Entry, reach: int) -> int:
        """Lay a page over what earlier pages said, which ends at `reach`; give where it ends."""
        at = entry.first_offset - self.evidence.first
        start, stop = max(0, at), min(len(self.codes), entry.next_offset - self.evidence.first)
        if start >= stop:
            return 0
        for position in range(start, min(stop, reach)):
            before = self.owner[position]
            if before >= 0:
                self.redone[position] = 1
                self.redone_strictly[position] |= self.strict(before)
        self.owner[start:stop] = array("l", [index]) * (stop - start)
        for length, code in entry.runs():
            low, high = max(at, start), min(at + length, stop)
            if low < high:
                self.codes[low:high] = code.encode() * (high - low)
            at += length
        return stop

    def strict(self, page: int) -> bool:
        """Say whether a page is held to what exactly-once promises."""
        return self._exactly_once or self.evidence.entries[page].delivery == "exactly-once"

    def strict_at(self, offset: int) -> bool:
        """Say whether no attempt at this offset may have left anything behind.

        One under at-least-once may have, before the group went over to exactly-once.
        """
        position = offset - self.evidence.first
        index = self.owner[position]
        excused = self.redone[position] and not self.redone_strictly[position]
        return index >= 0 and self.strict(index) and not excused

    def page_of(self, offset: int) -> int:
        """Give the index of the page that tells of an offset, -1 if none does."""
        return self.owner[offset - self.evidence.first]

    def whole(self, index: int) -> bool:
        """Say whether a page still tells of every one of its offsets, all of them audited."""
        entry = self.evidence.entries[index]
        return self.owned[index] == entry.next_offset - entry.first_offset

    def duplicates(self) -> Iterator[Duplicate]:
        """Give the events that were not written, by the pages that count."""
        first, size = self.evidence.first, len(self.owner)
        for index, entry in enumerate(self.evidence.entries):
            for one in entry.firsts() if self.owned[index] else ():
                position = one.offset - first
                if 0 <= position < size and self.owner[position] == index:
                    yield one

    def lacking(self, codes: frozenset[int], there: bytearray) -> list[int]:
        """List the offsets with one of these fates of which nothing is there."""
        return [
            self.evidence.first + position
            for position, code in enumerate(self.codes)
            if code in codes and not there[position]
        ]


class _Event(NamedTuple):
    event_id: bytes
    partition: int
    offset: int
    revision: int
    item: int
    copies: int


class _Offsets:
    """Offsets that one check names; `strict` once one of them breaks a promise of exactly-once."""

    def __init__(self) -> None:
        self._found: dict[int, set[int]] = {}
        self._spans: list[Where] = []
        self.count = 0
        self.strict = False

    def add(self, partition: int, offset: int, times: int = 1, *, strict: bool = False) -> None:
        self._found.setdefault(partition, set()).add(offset)
        self.count += times
        self.strict |= strict

    def add_marked(
        self, partition: int, first: int, marks: bytearray, *, strict: bool = False
    ) -> None:
        at = first
        for marked, run in groupby(marks):
            length = len(list(run))
            if marked:
                self._spans.append(Where(partition, at, at + length - 1))
                self.count += length
            at += length
        self.strict |= strict

    def add_span(self, partition: int, first: int, last: int) -> None:
        self._spans.append(Where(partition, first, last))
        self.count += 1

    def where(self) -> tuple[Where, ...]:
        spans = list(self._spans)
        for partition, offsets in self._found.items():
            spans += [Where(partition, *ends) for ends in _runs(sorted(offsets))]
        return tuple(sorted(spans, key=lambda one: (one.partition, one.first, one.last)))


def _runs(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    for _, run in groupby(enumerate(offsets), lambda pair: pair[1] - pair[0]):
        members = [offset for _, offset in run]
        yield members[0], members[-1]


class _Findings:
    """Every check's offsets."""

    def __init__(self) -> None:
        self.uncovered = _Offsets()
        self.phantom = _Offsets()
        self.unread_pages = _Offsets()
        self.unread = _Offsets()
        self.redone = _Offsets()
        self.no_event = _Offsets()
        self.no_letter = _Offsets()
        self.unforetold = _Offsets()
        self.sums = _Offsets()
        self.uncompared = _Offsets()
        self.rewritten = _Offsets()
        self.other_revision = _Offsets()
        self.replayed = _Offsets()
        self.again = _Offsets()
        self.doubled = _Offsets()
        self.deleted = _Offsets()
        self.unfounded = _Offsets()
        self.unchecked = _Offsets()
        self.under_way = 0


def audit(
    raw_topic: str,
    group: str,
    evidence: Sequence[Evidence],
    *,
    retention: Retention = Retention(),  # noqa: B008 - frozen
    unread: Sequence[Where] = (),
    window_seconds: int | None = None,
    exactly_once: bool = False,
) -> Report:
    """Compare the evidence of some partitions with their pages.

    `unread` are offsets in the output whose values name this raw topic and cannot be read.
    `window_seconds` is dedup's: what comes again later than that is an event again.
    `exactly_once` holds at-least-once pages to what only exactly-once promises.
    """
    findings = _Findings()
    told = {one.partition: _Told(one, exactly_once=exactly_once) for one in evidence}
    for same in _by_id(evidence):
        doubled = len({event[1:3] for event in same}) > 1
        for event in same:
            _check_event(told[event.partition], event, findings, doubled=doubled)
        if doubled:
            _check_doubled(told, same, window_seconds, findings)
    for here in told.values():
        _check_records(here, findings)
        _check_letters(here, findings)
        _check_missing(here, retention, findings)
        _check_sums(here, retention, findings)
        findings.under_way += here.evidence.under_way
    _check_duplicates(told, retention, findings)
    for where in unread:
        findings.unread.add(where.partition, where.first)
    proofs = [_proof(here) for here in told.values()]
    ignored = sum(proof.fates["i"] for proof in proofs)
    checks = _checks(findings, ignored)
    failed = [check for check in checks if check.verdict == "fail"]
    records = any(proof.records for proof in proofs)
    if not records and not failed:  # what was compared with nothing is not ok
        checks = tuple(check for check in checks if check.verdict != "ok")
    return Report(
        raw_topic=raw_topic,
        group=group,
        proven=not failed and records,
        verdict=_verdict(raw_topic, group, proofs, failed, findings.unchecked.count),
        deliveries=tuple(sorted({entry.delivery for one in evidence for entry in one.entries})),
        partitions=tuple(proofs),
        checks=checks,
    )


def _by_id(evidence: Sequence[Evidence]) -> Iterator[list[_Event]]:
    """Give the events with one id, each of them once with how often it was written."""
    packed = [event for one in evidence for event in one.events]
    packed.sort()
    same: list[_Event] = []
    for event, copies in groupby(packed):
        event_id, partition, offset, revision, item = _PACKED.unpack(event)
        if same and same[0].event_id != event_id:
            yield same
            same = []
        same.append(_Event(event_id, partition, offset, revision, item, len(list(copies))))
    if same:
        yield same


def _check_event(here: _Told, event: _Event, findings: _Findings, *, doubled: bool) -> None:
    """An event is one that the page of its record tells of."""
    evidence = here.evidence
    partition, offset = event.partition, event.offset
    here.events += 1
    position = offset - evidence.first
    index = here.owner[position]
    if index < 0:
        if evidence.time_of(offset) is None:
            findings.unforetold.add(partition, offset)
        return  # else that record is told as one without a fate
    code = here.codes[position]
    if event.copies > 1:
        findings.rewritten.add(partition, offset, event.copies - 1, strict=here.strict_at(offset))
    if event.revision != evidence.entries[index].revision:
        findings.other_revision.add(partition, offset, strict=here.strict_at(offset))
    elif code in _EMITTING:
        here.emitted[position] = 1
        here.page_events[index] += 1
        here.page_sums[index] += int.from_bytes(event.event_id, "big")
    elif code != _DUPLICATE or here.strict_at(offset) or not doubled:
        # A duplicate can have been written all the same, by an attempt without dedup that died
        # before its page: that is told as a doubled event.
        findings.unforetold.add(partition, offset)


def _check_doubled(
    told: dict[int, _Told],
    same: Sequence[_Event],
    window_seconds: int | None,
    findings: _Findings,
) -> None:
    """An event id stands in the output for one raw record only, but for replays."""
    in_time = sorted(same, key=lambda event: (_time(told, event), event[1:3], event.revision))
    for before, event in pairwise(in_time):
        if before[1:3] == event[1:3]:
            continue
        here = told[event.partition]
        apart = (_time(told, event) - _time(told, before)) / 1000
        if event.offset in here.evidence.replays or event.revision != before.revision:
            findings.replayed.add(event.partition, event.offset)
        elif window_seconds is not None and apart > window_seconds:
            findings.again.add(event.partition, event.offset)
        else:
            strict = here.strict_at(event.offset)
            findings.doubled.add(event.partition, event.offset, strict=strict)


def _check_records(here: _Told, findings: _Findings) -> None:
    """Every raw record has a fate, no fate is without a record, none was told twice."""
    evidence = here.evidence
    partition, first = evidence.partition, evidence.first
    without = bytearray(here.codes)
    for offset in evidence.offsets:
        code = without[offset - first]
        if code in _FATELESS:
            findings.uncovered.add(partition, offset)
        without[offset - first] = _ABSENT
    phantom = bytearray(code not in _FATELESS for code in without)
    findings.phantom.add_marked(partition, first, phantom)
    findings.redone.add_marked(partition, first, here.redone, strict=any(here.redone_strictly))
    for offset in evidence.unread_pages:
        findings.unread_pages.add(partition, offset)


def _check_letters(here: _Told, findings: _Findings) -> None:
    """A dead letter is one that the page of its record tells of."""
    evidence = here.evidence
    partition, first = evidence.partition, evidence.first
    for (offset, revision), letters in groupby(sorted(evidence.letters)):
        copies = len(list(letters))
        index = here.page_of(offset)
        if index < 0:
            if evidence.time_of(offset) is None:
                findings.unforetold.add(partition, offset)
            continue  # else that record is told as one without a fate
        lettered = here.codes[offset - first] in _LETTERED
        other = revision not in {evidence.entries[index].revision, _NO_REVISION}
        strict = here.strict_at(offset)
        if copies > 1 and (lettered or other):
            findings.rewritten.add(partition, offset, copies - 1, strict=strict)
        if other:
            findings.other_revision.add(partition, offset, strict=strict)
        elif lettered:
            here.lettered[offset - first] = 1
        else:
            findings.unforetold.add(partition, offset)


def _check_missing(here: _Told, retention: Retention, findings: _Findings) -> None:
    """What the pages tell of is there, unless it is so old that retention may have deleted it."""
    evidence = here.evidence
    for offset in here.lacking(_EMITTING, here.emitted):
        old = (evidence.time_of(offset) or 0) < retention.events
        (findings.deleted if old else findings.no_event).add(evidence.partition, offset)
    for offset in here.lacking(_LETTERED, here.lettered):
        old = (evidence.time_of(offset) or 0) < retention.letters
        (findings.deleted if old else findings.no_letter).add(evidence.partition, offset)


def _check_sums(here: _Told, retention: Retention, findings: _Findings) -> None:
    """A whole page's events are as many as it says, with ids that add up to its sum."""
    evidence = here.evidence
    for index, entry in enumerate(evidence.entries):
        agrees = (
            here.page_events[index] == entry.events
            and modular(here.page_sums[index]) == entry.event_sum
        )
        if agrees or not here.owned[index]:
            continue
        at = bisect_left(evidence.offsets, entry.first_offset)
        old = at < len(evidence.times) and evidence.times[at] < retention.events
        found = findings.uncompared if old or not here.whole(index) else findings.sums
        found.add_span(evidence.partition, entry.first_offset, entry.next_offset - 1)


def _check_duplicates(told: dict[int, _Told], retention: Retention, findings: _Findings) -> None:
    """An event that was not written stands in the output, for the record that its page names."""
    missing = {_first_of(one) for here in told.values() for one in here.duplicates()}
    if missing:
        for here in told.values():
            for event in here.evidence.events:
                place = event[_PACKED_PLACE]
                missing.discard(place)
                missing.discard(place + event[_PACKED_TAIL])
    if not missing:
        return
    passed_on = {
        own: one
        for partition, here in told.items()
        for one in here.duplicates()
        if (own := _key(partition, one.offset, one.id_tail)) in missing
    }
    for partition, here in told.items():
        for one in here.duplicates():
            last = _follow(one, missing, passed_on)
            if last is None:
                continue
            beyond = _out_of_sight(told, last, retention)
            (findings.unchecked if beyond else findings.unfounded).add(partition, one.offset)


def _key(partition: int, offset: int, id_tail: str) -> bytes:
    """Give a record and the end of an id in few bytes, as they stand in a packed event."""
    return _PLACE.pack(partition, offset) + bytes.fromhex(id_tail)


def _first_of(one: Duplicate) -> bytes:
    return _key(one.first_partition, one.first_offset, one.id_tail)


def _follow(
    one: Duplicate, missing: set[bytes], passed_on: dict[bytes, Duplicate]
) -> Duplicate | None:
    """Give the last duplicate before an event that is missing; None if the event is there.

    A record that was done again may be a duplicate itself by the page that counts.
    """
    passed = set()
    while (first := _first_of(one)) in missing:
        if first in passed or first not in passed_on:
            return one
        passed.add(first)
        one = passed_on[first]
    return None


def _out_of_sight(told: dict[int, _Told], one: Duplicate, retention: Retention) -> bool:
    """Say whether the record a duplicate stands for is not audited, or its event may be deleted."""
    there = told.get(one.first_partition)
    if there is None or not (there.evidence.first <= one.first_offset < there.evidence.next_offset):
        return True
    received = there.evidence.time_of(one.first_offset)
    return received is not None and received < retention.events


def _time(told: dict[int, _Told], event: _Event) -> int:
    return told[event.partition].evidence.time_of(event.offset) or 0


def _proof(here: _Told) -> Proof:
    evidence = here.evidence
    return Proof(
        partition=evidence.partition,
        first=evidence.first,
        next_offset=evidence.next_offset,
        records=len(evidence.offsets),
        fates={code: here.codes.count(code.encode()) for code in _FATES},
        events=here.events,
        pages=sum(owned > 0 for owned in here.owned),
        before=evidence.before,
    )


_STRICTLY = ", which exactly-once rules out"


def _check(name: str, bad: Verdict, offsets: _Offsets, good_text: str, bad_text: str) -> Check:
    if not offsets.count:
        return Check(name=name, verdict="ok", count=0, text=good_text)
    return Check(
        name=name,
        verdict="fail" if offsets.strict else bad,
        count=offsets.count,
        text=f"{bad_text}{_STRICTLY if offsets.strict else ''}: {offsets.count:,}",
        where=offsets.where(),
    )


def _checks(found: _Findings, ignored: int) -> tuple[Check, ...]:
    """Say every check's answer; those that are only ever notes are said when there is one."""
    checks = [
        _check(
            "coverage",
            "fail",
            found.uncovered,
            "every raw record has a fate",
            "raw records without a fate",
        ),
        _check(
            "records",
            "fail",
            found.phantom,
            "every fate has its raw record",
            "fates of records that the raw topic does not hold",
        ),
        _check(
            "one fate",
            "note",
            found.redone,
            "no offset was done twice",
            "offsets done again after a crash or a reset (the last page counts)",
        ),
        _check(
            "pages",
            "fail",
            found.unread_pages,
            "every page can be read",
            "records of the ledger that are no pages (named by their own offsets)",
        ),
        _check(
            "output",
            "fail",
            found.unread,
            "every event can be read",
            "events of this topic that cannot be read (named by their own offsets)",
        ),
        _check(
            "events",
            "fail",
            found.no_event,
            "every record that became events has one in the output",
            "records whose events are not in the output",
        ),
        _check(
            "dead letters",
            "fail",
            found.no_letter,
            "every dead letter is there",
            "records whose dead letter is not there",
        ),
        _check(
            "nothing else",
            "fail",
            found.unforetold,
            "no event or dead letter that no page tells of",
            "events or dead letters of records that should have none",
        ),
        _check(
            "sums",
            "fail",
            found.sums,
            "the events' number and the sum of their ids agree with every page",
            "pages whose events are not as many, or not those, that they tell of",
        ),
        _check(
            "duplicates",
            "fail",
            found.unfounded,
            "every duplicate's event stands in the output for an earlier record",
            "duplicates of events that are not in the output",
        ),
        _check(
            "written again",
            "note",
            found.rewritten,
            "nothing was written twice for one record",
            "events or dead letters written more than once for one record (readers that merge by "
            "event_id see no difference)",
        ),
        _check(
            "doubled",
            "note",
            found.doubled,
            "no event stands for two records",
            "events that an earlier record had already, neither replayed nor dropped",
        ),
    ]
    if found.unchecked.count and not found.unfounded.count:
        checks = [check for check in checks if check.name != "duplicates"]  # not all, so not ok
    notes = [
        _check(
            "not checked",
            "note",
            found.unchecked,
            "",
            "duplicates not checked: their event was written before this range or outside of it, "
            "or so long ago that retention may have deleted it",
        ),
        _check(
            "replayed",
            "note",
            found.replayed,
            "",
            "events that an earlier record had already, by a replay or another mapping revision",
        ),
        _check(
            "again",
            "note",
            found.again,
            "",
            "events that an earlier record had already, longer ago than the window of dedup",
        ),
        _check(
            "other revision",
            "note",
            found.other_revision,
            "",
            "events or dead letters of an earlier attempt under another mapping revision",
        ),
        _check(
            "not compared",
            "note",
            found.uncompared,
            "",
            "pages partly done again, partly outside, or older than the output's retention: their "
            "offsets were compared, their sums were not",
        ),
        _check(
            "deleted",
            "note",
            found.deleted,
            "",
            "records so old that retention may have deleted their events or dead letters",
        ),
    ]
    if ignored:
        text = f"ignored: {ignored:,}, by the mapping's word"
        notes.append(Check(name="ignored", verdict="note", count=ignored, text=text))
    if found.under_way:
        text = f"events or dead letters of records that are not committed yet: {found.under_way:,}"
        notes.append(Check(name="under way", verdict="note", count=found.under_way, text=text))
    return (*checks, *(note for note in notes if note.count))


def _verdict(
    raw_topic: str, group: str, proofs: Sequence[Proof], failed: Sequence[Check], unchecked: int
) -> str:
    if failed:
        return f"Not proven: {'; '.join(check.text for check in failed)}."
    records = sum(proof.records for proof in proofs)
    if not records:
        return f"Nothing is proven: {group} has committed no record of {raw_topic} in this range."
    but = f", but for {unchecked:,} duplicates that were not checked" if unchecked else ""
    return (
        f"Proven: each of {records:,} raw records of {raw_topic} had exactly one fate, and the "
        f"output holds what the ledger says{but}."
    )


_MOST_SPANS = 10
"""How many spans of offsets a line of the report names."""
_HEADS = ("partition", "offsets", "records", *("events", "both", "dup", "ignored", "dead"), "pages")
_FATES = "ebdil"


def report_lines(report: Report) -> list[str]:
    """Tell a report as a person reads it; the last line is the verdict."""
    deliveries = " and ".join(report.deliveries) or "no page of the ledger"
    lines = [f"{report.raw_topic}, as {report.group} tells it ({deliveries})", ""]
    rows = [_HEADS, *map(_row, report.partitions)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(f"  {'  '.join(cells)}")
    lines += [
        f"  partition {one.partition}: {one.before}" for one in report.partitions if one.before
    ]
    if report.checks:
        lines.append("")
    for check in report.checks:
        lines.append(
            f"  {check.verdict.replace('fail', 'FAIL'):<4}  {check.name:<13}  {check.text}"
        )
        if check.where:
            shown = ", ".join(map(str, check.where[:_MOST_SPANS]))
            more = len(check.where) - _MOST_SPANS
            lines.append(f"{'':23}{shown}{f' and {more} more (--json has all)' * (more > 0)}")
    if any(check.where for check in report.checks):
        lines += ["", "  offsets are named as partition:first-last"]
    return [*lines, "", report.verdict]


def _row(one: Proof) -> tuple[str, ...]:
    offsets = f"{one.first}-{one.next_offset - 1}" if one.first < one.next_offset else "none"
    fates = [f"{one.fates[code]:,}" for code in _FATES]
    return (str(one.partition), offsets, f"{one.records:,}", *fates, f"{one.pages:,}")
