"""The difference a mapping makes: today's events of raw records against those that stand."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from consumers.codec import FramingError, decode
from consumers.event import VOCABULARIES, VerificationEvent
from consumers.fate import Fate
from consumers.records import Record

Verdict = Literal["unchanged", "changed", "unraised", "new", "gone", "dead", "ignored"]
"""What a replay would do to one raw record's events.

`unraised`: they differ, and nothing would come of it, because those that stand carry today's
mapping revision. `gone`: an event stands, and today there would be none; it cannot be taken back.
"""

_OF_THE_PLACE = frozenset({"raw_topic", "raw_partition", "raw_offset", "mapping_revision"})
_OF_THE_RECEIPT = frozenset({"received_at", "authenticity", "environment"})
_RECEIPT_TIMES = frozenset({"received", "delivery"})
_SHOWN = frozenset(VOCABULARIES) | {
    "is_final", "retry_allowed", "age_min", "age_max", "age_threshold", "item_index",
}  # fmt: skip
"""Fields whose values come from closed vocabularies, or are small numbers: fit for a report."""

_FIELDS = [field.name for field in msgspec.structs.fields(VerificationEvent)]
_MOST_EXAMPLES = 3
_MOST_TRANSITIONS = 3
_MOST_KEPT_TRANSITIONS = 1_000
_DAY_MS = 86_400_000
_WIDTH = 24


def row(name: str, count: int, more: str = "") -> str:
    """Lay out one line of a summary."""
    return f"  {name:<{_WIDTH}}{count:>9,}   {more}".rstrip()


def listed(counts: Mapping[str, int]) -> str:
    """Give counts by name, the largest first."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{name} {count:,}" for name, count in ordered)


def rest_of(fate: Fate) -> str:
    """Give why a record is ignored, or the kind of what is dead in it."""
    if fate.ignored is not None:
        return fate.ignored.reason
    return fate.failure.kind if fate.failure is not None else ""


def days_before(timestamp: int, days: int) -> int:
    """Give the moment so many days before another, in milliseconds since the epoch."""
    return max(0, timestamp - days * _DAY_MS)


def changed_fields(old: VerificationEvent, new: VerificationEvent) -> list[str]:
    """Name the fields in which two events differ by more than where and when they were made.

    Events of different raw records (a retry's, a replay's) may differ in what only the receipt
    says.
    """
    passed = set(_OF_THE_PLACE)
    if (old.raw_partition, old.raw_offset) != (new.raw_partition, new.raw_offset):
        passed |= _OF_THE_RECEIPT
        if {old.occurred_at_source, new.occurred_at_source} <= _RECEIPT_TIMES:
            passed |= {"occurred_at", "occurred_at_source"}
    return [
        name for name in _FIELDS if name not in passed and getattr(old, name) != getattr(new, name)
    ]


class Standing:
    """The events that stand in the output for a range of raw records, the newest of each id.

    An event belongs to the range by its raw coordinates or by its id: a retry's event has the
    coordinates of the first delivery, a replayed one's those of its copy.
    """

    def __init__(self, raw_topic: str, ranges: Mapping[int, tuple[int, int]]) -> None:
        self._topic = raw_topic
        self._ranges = ranges
        self._asked: set[bytes] = set()
        self._by_id: dict[bytes, tuple[int, bytes]] = {}
        self._by_place: dict[tuple[int, int], set[bytes]] = {}
        self.unreadable = 0

    def ask(self, fate: Fate) -> None:
        """Want to know the events that stand under these ids."""
        self._asked.update(fate.event_ids)

    def take(self, value: bytes | None) -> None:
        """Look at one record of the output topic, in its order."""
        if value is None:
            return
        try:
            event = decode(value)
        except (FramingError, ValueError, EOFError, msgspec.ValidationError):
            self.unreadable += 1
            return
        if event.raw_topic != self._topic:
            return
        first, end = self._ranges.get(event.raw_partition, (0, 0))
        here = first <= event.raw_offset < end
        key = id_bytes(event)
        if not here and key not in self._asked:
            return
        if here:
            self._by_place.setdefault((event.raw_partition, event.raw_offset), set()).add(key)
        before = self._by_id.get(key)
        if before is None or event.mapping_revision >= before[0]:
            self._by_id[key] = (event.mapping_revision, value)

    def under(self, key: bytes) -> VerificationEvent | None:
        """Give the event that stands under an id."""
        found = self._by_id.get(key)
        return None if found is None else decode(found[1])

    def made_of(self, record: Record) -> list[VerificationEvent]:
        """Give the events that stand with this raw record's coordinates."""
        keys = self._by_place.get((record.partition, record.offset), ())
        return [decode(self._by_id[key][1]) for key in sorted(keys)]


def id_bytes(event: VerificationEvent) -> bytes:
    """Give an event's id as its 16 bytes."""
    return bytes.fromhex(event.event_id.replace("-", ""))


class Difference:
    """Counts what would change, field by field; shows no id and no free value unless `verbose`."""

    def __init__(self, revision: int, *, verbose: bool) -> None:
        self._revision = revision
        self._verbose = verbose
        self._verdicts: Counter[Verdict] = Counter()
        self._rest: dict[Verdict, Counter[str]] = {}
        self._fields: Counter[str] = Counter()
        self._transitions: dict[str, Counter[str]] = {}
        self._examples: list[str] = []
        self._stood_under: Counter[int] = Counter()
        self.replays = 0
        self._under_own_id = 0

    @property
    def another_key(self) -> bool:
        """Whether EVENT_KEY seems to be another than that of the events that stand.

        So it is where events stand for these records, and none of them under today's id.
        """
        return bool(self._fields["event_id"]) and not self._under_own_id

    def note(self, record: Record, fate: Fate, standing: Standing) -> Verdict:
        """Compare one raw record's events with what stands."""
        old = {id_bytes(event): event for event in standing.made_of(record)}
        today = {id_bytes(event): event for event in fate.events}
        # What stood under another id: the natural key was changed.
        others = {event.item_index: event for key, event in old.items() if key not in today}
        pairs = []
        fresh = 0
        for key, new in today.items():
            before = old.get(key) or standing.under(key)
            if before is not None:
                self._under_own_id += 1
            else:
                before = others.get(new.item_index)
            if before is None:
                fresh += 1
                continue
            self._stood_under[before.mapping_revision] += 1
            if fields := changed_fields(before, new):
                pairs.append((before, new, fields))
        if not today:
            self._stood_under.update(event.mapping_revision for event in old.values())
        verdict = self._verdict(fate, old, pairs, fresh)
        self._verdicts[verdict] += 1
        if not fate.events:
            self._rest.setdefault(verdict, Counter())[rest_of(fate)] += 1
        for before, new, fields in pairs:
            self._enter(record, before, new, fields)
        return verdict

    def _verdict(
        self,
        fate: Fate,
        old: Mapping[bytes, VerificationEvent],
        pairs: list[tuple[VerificationEvent, VerificationEvent, list[str]]],
        fresh: int,
    ) -> Verdict:
        if not fate.events:
            if old:
                return "gone"
            return "dead" if fate.failure is not None else "ignored"
        if any(before.mapping_revision < self._revision for before, _, _ in pairs):
            return "changed"
        if fresh:
            return "new"
        return "unraised" if pairs else "unchanged"

    def _enter(
        self, record: Record, old: VerificationEvent, new: VerificationEvent, fields: list[str]
    ) -> None:
        said = []
        for name in fields:
            self._fields[name] += 1
            if name not in _SHOWN and not self._verbose:
                continue
            text = f"{_shown(getattr(old, name))} -> {_shown(getattr(new, name))}"
            said.append(f"{name} {text}")
            known = self._transitions.setdefault(name, Counter())
            if text in known or len(known) < _MOST_KEPT_TRANSITIONS:
                known[text] += 1
        if len(self._examples) < _MOST_EXAMPLES:
            hidden = len(fields) - len(said)
            if hidden:
                said.append(f"{hidden} more")
            native_type = f" {new.native_type}" if self._verbose else ""
            self._examples.append(
                f"  {record.topic}/{record.partition}/{record.offset}{native_type}: "
                f"{'; '.join(said)}"
            )

    def lines(self, topic: str, standing: Standing) -> Iterator[str]:
        """Say what differs."""
        verdicts, rest = self._verdicts, self._rest
        yield f"{topic}: {verdicts.total():,} records compared with the events that stand"
        stood = {f"revision {number}": count for number, count in self._stood_under.items()}
        yield f"today's mapping is revision {self._revision}; events stand under " + (
            listed(stood) if stood else "none"
        )
        yield row("unchanged", verdicts["unchanged"])
        yield row("changed", verdicts["changed"])
        if verdicts["unraised"]:
            yield row("changed, same revision", verdicts["unraised"], "see below")
        none_stands = (
            "none stands under this EVENT_KEY" if self.another_key else "no event stands for them"
        )
        yield row("new", verdicts["new"], none_stands)
        yield row("no longer an event", verdicts["gone"], listed(rest.get("gone", {})))
        yield row("still dead", verdicts["dead"], listed(rest.get("dead", {})))
        yield row("ignored", verdicts["ignored"], listed(rest.get("ignored", {})))
        if self.replays:
            yield row("replays", self.replays, "their originals count")
        if self._fields:
            yield "fields that differ:"
        for name, count in self._fields.most_common():
            known = self._transitions.get(name)
            texts = (
                [f"{text} {times:,}" for text, times in known.most_common(_MOST_TRANSITIONS)]
                if (known)
                else ["(--verbose shows values)"]
            )
            yield row(name, count, ", ".join(texts))
        if self._examples:
            yield "examples:"
            yield from self._examples
        yield from self._remarks(standing)

    def _remarks(self, standing: Standing) -> Iterator[str]:
        if self._verdicts["unraised"] and not self.another_key:
            yield (
                f"{self._verdicts['unraised']:,} differ from events that carry revision "
                f"{self._revision} already: nothing would come of replaying them, because a "
                "repeated event is emitted only under a higher mapping revision; raise REVISION "
                "with the change"
            )
        if self._verdicts["gone"]:
            yield (
                f"{self._verdicts['gone']:,} events cannot be taken back: no replay deletes an "
                "event, readers keep it"
            )
        if self._fields["event_id"]:
            yield f"{self._fields['event_id']:,} events would get another id" + (
                ": none stands under today's, so EVENT_KEY is not the one they were made with; set "
                "the consumers' own before anything else"
                if self.another_key
                else ": readers would hold both, the old one and the new one"
            )
        if standing.unreadable:
            yield f"{standing.unreadable:,} records of the output could not be read as events"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return "none" if value is None else str(value)
