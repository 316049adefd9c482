"""What would become of dead letters under today's mapping, and which are worth a replay."""

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import msgspec

from consumers.choice import Choice
from consumers.copies import replay_copy, replay_of
from consumers.difference import listed, rest_of, row
from consumers.failures import told
from consumers.fate import Fates
from consumers.records import Record

_MOST_EXAMPLES = 3


class Outcome(msgspec.Struct, frozen=True):
    """What would become of one dead letter; equal ones are counted together.

    `events` are status/outcome of each, `rest` the reason it is ignored or dead for.
    """

    was: str
    kind: Literal["events", "ignored", "dead"]
    events: tuple[str, ...]
    rest: str
    native_type: str
    stays: bool


class Letters:
    """The dead letters of a selection, each with what would become of it under today's mapping."""

    def __init__(self, choice: Choice, fates: Fates, revision: int, raw: str) -> None:
        self._choice = choice
        self._fates = fates
        self._revision = revision
        self._raw = raw
        self._outcomes: dict[int, dict[int, Outcome]] = {}
        self._known: dict[Outcome, Outcome] = {}
        self.passed_over = 0
        self.replayed_since = 0

    def look(self, record: Record, *, chosen: bool) -> None:
        """Take note of a letter, in order of its partition; `chosen` by its place and time."""
        original = replay_of(record.headers)
        if original is not None:
            topic, _, coordinates = original.rpartition("/")
            topic, _, number = topic.rpartition("/")
            if topic == record.topic and number.isdigit() and coordinates.isdigit():
                before = self._outcomes.get(int(number), {}).pop(int(coordinates), None)
                self.replayed_since += before is not None
        if not chosen:
            return
        if not self._choice.means(record.headers):
            self.passed_over += 1
            return
        outcome = self._outcome(record)
        outcome = self._known.setdefault(outcome, outcome)
        self._outcomes.setdefault(record.partition, {})[record.offset] = outcome

    def _outcome(self, record: Record) -> Outcome:
        copy = replay_copy(record, self._raw)
        fate = self._fates.decide(
            Record(
                topic=self._raw, partition=0, offset=0, timestamp=record.timestamp,
                key=copy.key, value=copy.value, headers=copy.headers,
            )
        )  # fmt: skip
        failure = told(record.headers)
        was = "no reason of ours"
        if failure is not None:
            was = (
                f"{failure.kind} at {failure.path} ({failure.error_class}, "
                f"revision {failure.revision})"
            )
        tried = failure is not None and failure.revision == self._revision
        return Outcome(
            was=was,
            kind="events" if fate.events else "ignored" if fate.ignored else "dead",
            events=tuple(f"{event.status}/{event.outcome}" for event in fate.events),
            rest=rest_of(fate),
            native_type=fate.native_type,
            stays=(
                not self._choice.even_if_dead
                and fate.failure is not None
                and (tried or not fate.events)
            ),
        )

    def chosen(self) -> dict[int, set[int]]:
        """Give the offsets to replay, by partition."""
        return {
            number: {offset for offset, outcome in outcomes.items() if not outcome.stays}
            for number, outcomes in self._outcomes.items()
        }

    def lines(self, topic: str) -> Iterator[str]:
        """Say what would become of them, without a word of what they hold."""
        counts = Counter(
            outcome for outcomes in self._outcomes.values() for outcome in outcomes.values()
        )
        read = counts.total() + self.passed_over + self.replayed_since
        yield f"{topic}: {counts.total():,} of {read:,} dead letters chosen"
        yield f"under today's mapping (revision {self._revision}):"
        events: Counter[str] = Counter()
        letters: Counter[str] = Counter()
        rest: dict[str, Counter[str]] = {"events": Counter(), "ignored": Counter()}
        rest["dead"] = rest["events"]  # the bad items of a batch are still dead
        for outcome, count in counts.items():
            letters[outcome.kind] += count
            for event in outcome.events:
                events[event] += count
            if outcome.rest:
                rest[outcome.kind][outcome.rest] += count
        several = f"{events.total():,} events: {listed(events)}" if events else ""
        yield row("become events", letters["events"], several)
        yield row("are ignored", letters["ignored"], listed(rest["ignored"]))
        yield row("are still dead", letters["dead"], listed(rest["dead"]))
        if self.replayed_since:
            yield row("were replayed", self.replayed_since, "a later letter here stands for each")
        staying = sum(count for outcome, count in counts.items() if outcome.stays)
        if staying:
            yield (
                f"{staying:,} stay where they are, because they would only die again "
                "(--even-if-dead replays them too)"
            )
        yield from self._examples(topic)

    def _examples(self, topic: str) -> Iterator[str]:
        shown: Counter[str] = Counter()
        for number, outcomes in sorted(self._outcomes.items()):
            for offset, outcome in outcomes.items():
                shown[outcome.kind] += 1
                if shown[outcome.kind] > _MOST_EXAMPLES:
                    continue
                if shown.total() == 1:
                    yield "examples:"
                becomes = ", ".join([*outcome.events, *([outcome.rest] * bool(outcome.rest))])
                yield (
                    f"  {topic}/{number}/{offset}  {outcome.was} -> {outcome.native_type}, "
                    f"{'dead letter ' * (outcome.kind == 'dead')}{becomes}"
                )
