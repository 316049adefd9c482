"""The loop: consume, decide, produce, and at each barrier commit what is proven stored.

It is a state machine over `Kafka`, a narrow interface, so that a simulation can crash, fence,
delay and refuse at every call. Crash-only: nothing is kept that is not in Kafka, and any end
but a clean one leaves the committed offsets to start again from.

Work is cut into epochs. An open epoch takes in records; a sealed one waits until Kafka has all
its outputs, and then its offsets are committed. Meanwhile the next epoch is open: its records
are decided, and what they put out is held back until the sealed one is committed, so that
outputs, commits and transactions stay in order and a broker's round trip costs no idle time.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from consumers import passport
from consumers.contract import (
    Checkpoint,
    CommitFailure,
    Halted,
    Interrupted,
    Kafka,
    Span,
    Telemetry,
)
from consumers.dedup import First, Seen, is_duplicate
from consumers.ledger import FateCode, Page
from consumers.records import Decision, Output, Partition, Record
from consumers.stall import Window, stalled

MAX_POLL_SECONDS = 0.2
"""librdkafka's batch call does not wake for signals: the longest SIGTERM waits to be seen."""

_WAIT_SECONDS = 0.05
_LATEST = (2**32 - 1) * 1000
"""The latest time (ms) that what was seen has room for."""
_GLANCE_SECONDS = 0.005
"""Long enough for a flush to end lingering, short enough to go on deciding meanwhile."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The loop's sizes and times, in records and seconds.

    The budgets are shares of max.poll.interval, after which the group takes the partitions
    away, or of the time a transaction may stay open: handing over a batch and its barrier
    together stay below it.
    """

    batch_records: int = 100
    """So few that all that is made of them stays in a processor's cache: batches of 500 cost a
    fifth more (make bench)."""
    poll_seconds: float = 0.1
    decide_seconds: float = 0.25
    """After so long a batch is left for the next step: records can be dear."""
    barrier_seconds: float = 0.5
    barrier_records: int = 5_000
    barrier_bytes: int = 16 * 1024 * 1024
    """Of outputs in one epoch: as much more can be held back in memory."""
    drain_seconds: float = 15.0
    max_poll_interval: float = 300.0
    transaction_seconds: float | None = None
    """How long a transaction may stay open, if there are any."""
    mapping_revision: int = 0
    dedup_window_seconds: int = 8 * 86_400
    stall: bool = True

    def __post_init__(self) -> None:
        """Refuse a poll that would keep SIGTERM waiting."""
        if not 0 < self.poll_seconds <= MAX_POLL_SECONDS:
            raise ValueError(f"poll_seconds is {self.poll_seconds}, must be at most 0.2")

    @property
    def _longest(self) -> float:
        return min(self.max_poll_interval, self.transaction_seconds or self.max_poll_interval)

    @property
    def produce_budget(self) -> float:
        """Seconds one batch may wait for room in the producer's queue."""
        return 0.2 * self._longest

    @property
    def barrier_budget(self) -> float:
        """Seconds a barrier may wait.

        Without transactions that is longer than message.timeout.ms, which says more.
        """
        return 0.5 * self._longest

    @property
    def answer_budget(self) -> float:
        """Seconds the group may take to answer a commit before the clients are given up."""
        return 0.5 * self.max_poll_interval

    @property
    def revoke_budget(self) -> float:
        """Seconds the group is kept waiting for partitions it wants back."""
        return min(0.2 * self.max_poll_interval, self.barrier_budget)


class _Reading(msgspec.Struct):
    """How far one owned partition is.

    Four offsets: the next to be decided, the next after the last sealed epoch, the next that
    was asked to be committed, the next that is known to be.
    """

    position: int
    sealed: int
    asked: int
    committed: int
    window: Window
    last_timestamp: int = 0
    passport: str = ""
    """What is to be committed with `sealed`."""
    due: bool = False
    """`passport` is to be committed although no record was handled."""
    fresh: dict[bytes, First] = {}
    """Event ids written, and not yet in the memory of what was seen."""
    unremembered: deque[tuple[int, int, dict[bytes, First]]] = msgspec.field(default_factory=deque)
    """Per sealed epoch its next offset, Kafka's time of its last record, and what it wrote."""


class _Sheet(msgspec.Struct):
    """What one epoch did with one partition."""

    page: Page
    entries: dict[bytes, First] = {}
    lost: int = 0
    """Records that retention deleted before anybody read them."""


class _Epoch(msgspec.Struct):
    """Records handled between two barriers."""

    sheets: dict[Partition, _Sheet] = {}
    records: int = 0
    size: int = 0
    """Bytes of the outputs' values."""
    due: float | None = None
    """When it should be sealed; None as long as there is nothing in it to commit."""
    sealed_at: float = 0.0
    books: list[Output] = []
    """Its pages of the ledger and what it wrote: produced when everything else is stored, so
    that nothing is ever told to be seen that is not there."""


class Worker:
    """One incarnation of the loop: `step` until `drain`, or `abandon` once it has raised.

    `decide` is pure and never raises: what is wrong with a record becomes a dead letter.
    `keep` writes what an epoch did with a partition: its page of the ledger, and which events
    it wrote. `seen` tells duplicates; without it there are none. `clock` gives seconds that
    never go back. With `forgiving`, failures before this incarnation do not count for the stall.
    """

    def __init__(
        self,
        kafka: Kafka,
        decide: Callable[[Record], Decision],
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        telemetry: Telemetry | None = None,
        *,
        keep: Callable[[Partition, Page, Mapping[bytes, First]], Sequence[Output]],
        seen: Seen | None = None,
        forgiving: bool = False,
    ) -> None:
        self._kafka = kafka
        self._decide = decide
        self._settings = settings
        self._clock = clock
        self._telemetry = telemetry or Telemetry()
        self._keep = keep
        self._seen = seen
        self._forgiving = forgiving
        self._owned: dict[Partition, _Reading] = {}
        self._given_up: set[Partition] = set()
        self._returned: set[Partition] = set()
        self._catching_up: set[Partition] = set()
        self._backlog: deque[Record] = deque()
        self._open = _Epoch()
        self._sealed: _Epoch | None = None
        self._held: list[Output] = []
        self._unanswered = 0
        self._asked_at: deque[float] = deque()
        """When each commit was asked for that is not answered yet; the group answers in order."""
        self._answer_due: float | None = None
        self._resting = False
        self._asked_to_end: str | None = None
        self._stalled: str | None = None
        self._end: Interrupted | Halted | None = None
        self.committed_something = False
        """True once a commit was acknowledged: this incarnation was worth starting."""
        kafka.subscribe(self)

    def interrupt(self, reason: str) -> None:
        """End this incarnation at its next step; may be called from another thread."""
        self._asked_to_end = reason

    def step(self) -> None:
        """Go on with what is there: read up, settle the sealed epoch, take in, decide, seal.

        A step is short, so that a signal is seen soon. Raises Interrupted or Halted, and
        nothing is committed from then on.
        """
        if self._end is None and self._asked_to_end is not None:
            self._end = Interrupted(self._asked_to_end)
        if self._end is not None:
            raise self._end
        try:
            self._catch_up()
            if self._sealed is not None:
                self._settle(self._sealed)
            if self._has_room():
                self._take()
            else:
                self._rest()
            if self._due():
                self._seal()
        except (Interrupted, Halted) as end:
            self._end = end
            raise

    def drain(self) -> bool:
        """Finish what was taken in and leave the group; False if some of it must be redone.

        Raises Halted.
        """
        deadline = self._clock() + self._settings.drain_seconds
        self._backlog.clear()  # not decided yet: the next owner reads it again
        try:
            while self._end is None and not self._finished() and self._clock() < deadline:
                if self._unanswered:
                    self._consume()  # the answer comes this way; the records stay uncommitted
                else:
                    self._barrier(deadline - self._clock())
            if self._end is None:
                self._remember()
        except Interrupted as end:
            self._end = end
        finally:
            finished = self._end is None and self._finished()
            self.abandon()
        return finished

    def abandon(self) -> None:
        """Leave the group without committing: the next owner goes on from what is committed."""
        self._end = self._end or Interrupted("abandoned")
        try:
            self._purge()
        finally:
            self._kafka.close()
            if self._seen is not None:
                self._seen.close()
            self._telemetry.closed()

    # -- what the group decides, told from within consume() --

    def assigned(self, starts: Mapping[Partition, Checkpoint]) -> None:
        """Own these partitions, to be read from these offsets."""
        for partition, (start, text, lost) in starts.items():
            last = passport.read(text)
            committed = start - lost
            self._owned[partition] = _Reading(
                position=start,
                sealed=committed,
                asked=committed,
                committed=committed,
                window=self._window(last),
                last_timestamp=0 if last is None else last.last_record_at,
                due=self._forgiving and last is not None and bool(last.recent),
            )
            if self._owned[partition].due:  # so that the next start forgives as well
                self._open.due = self._clock()
            if lost:  # told and committed like work, so that it is told once
                page = Page(first_offset=committed, next_offset=start)
                self._open.sheets[partition] = _Sheet(page, lost=lost)
                self._open.due = self._clock()
            if partition in self._given_up:
                self._returned.add(partition)
            if self._seen is not None:
                self._seen.open(partition)
                self._catching_up.add(partition)
        self._telemetry.assigned({partition: start for partition, (start, _, _) in starts.items()})
        self._look_for_a_stall()
        self._telemetry.catching_up_with(len(self._catching_up))
        waits = self._stalled is not None or self._resting
        waiting = [one for one in starts if waits or one in self._catching_up]
        if waiting:
            self._kafka.pause(waiting)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Commit what was begun for these partitions if that fits the budget, else redo it."""
        for partition in partitions:
            if reading := self._owned.get(partition):
                # A commit under way may still be refused; within this call the group waits.
                reading.asked = reading.committed
        try:
            if self._unfinished(partitions):
                if self._end is not None:
                    raise self._end
                self._barrier(self._settings.revoke_budget)
        except (Interrupted, Halted) as end:
            self._end = end
            self._purge()
            self._give_up(partitions)
        else:
            self._give_up(partitions)
        finally:
            self._telemetry.revoked(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        """Drop what was begun for these partitions: the next owner redoes it."""
        self._forsake(partitions)
        self._telemetry.lost(partitions)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Take note of how far the group has stored what is handled."""
        self._unanswered -= 1
        if self._asked_at:
            self._telemetry.commit_took(self._clock() - self._asked_at.popleft())
        budget = self._settings.answer_budget
        self._answer_due = self._clock() + budget if self._unanswered else None
        for partition, offset in offsets.items():
            reading = self._owned.get(partition)
            if reading is not None and reading.committed < offset <= reading.asked:
                reading.committed = offset
        self.committed_something = True
        self._telemetry.committed(offsets)

    def commit_failed(self, why: CommitFailure) -> None:
        """Offer the same offsets again at the next barrier, for as long as an answer may take.

        If the partitions are someone else's, the group says so before that.
        """
        self._unanswered -= 1
        if self._asked_at:
            self._asked_at.popleft()
        for reading in self._owned.values():
            reading.asked = reading.committed
            reading.due = reading.due or self._forgiving
        if (self._unfinished() or self._forgiving) and self._open.due is None:
            self._open.due = self._clock() + self._settings.barrier_seconds
        self._telemetry.commit_failed(why)

    def _forsake(self, partitions: Sequence[Partition]) -> None:
        """Stop sending for partitions that are going away, so that no zombie keeps delivering."""
        unfinished = self._unfinished(partitions)
        self._give_up(partitions)
        if unfinished:
            self._purge()

    def _give_up(self, partitions: Iterable[Partition]) -> None:
        gone = set(partitions)
        if self._backlog:  # what was not decided is the next owner's
            kept = [one for one in self._backlog if (one.topic, one.partition) not in gone]
            self._backlog = deque(kept)
        for partition in gone:
            if self._owned.pop(partition, None) is not None and self._seen is not None:
                self._seen.forget(partition)
            self._catching_up.discard(partition)
            self._given_up.add(partition)
            self._returned.discard(partition)
        self._telemetry.catching_up_with(len(self._catching_up))

    # -- one batch --

    def _catch_up(self) -> None:
        """Learn what was seen before a partition became ours, and then take its records."""
        if self._seen is None or not self._seen.behind():
            return
        ready = [
            partition
            for partition in self._seen.catch_up(self._settings.poll_seconds)
            if partition in self._catching_up
        ]
        self._catching_up.difference_update(ready)
        self._telemetry.catching_up_with(len(self._catching_up))
        if ready and not self._stalled and not self._resting:
            self._kafka.resume(ready)

    def _has_room(self) -> bool:
        """An epoch that cannot be sealed yet does not grow without end."""
        settings = self._settings
        return (
            self._open.records < settings.barrier_records
            and self._open.size < settings.barrier_bytes
        )

    def _rest(self) -> None:
        """Read nothing until there is room again; polling goes on, for answers come that way."""
        if not self._resting:
            self._resting = True
            self._kafka.pause(list(self._owned))
        self._backlog.extend(self._admit(self._consume()))
        self._kafka.serve(0)
        self._stop_if_refused()

    def _wake(self) -> None:
        self._resting = False
        if not self._stalled:
            self._kafka.resume([one for one in self._owned if one not in self._catching_up])

    def _consume(self) -> Sequence[Record]:
        self._given_up.clear()
        self._returned.clear()
        # Where something waits for a look, records are taken if there are any, not awaited.
        busy = (self._sealed is not None or self._catching_up) and not self._resting
        timeout = _GLANCE_SECONDS if busy else self._settings.poll_seconds
        records = self._kafka.consume(self._settings.batch_records, timeout)
        self._telemetry.polled()
        if self._end is not None:
            raise self._end
        if self._answer_due is not None and self._clock() >= self._answer_due:
            raise Interrupted("the group did not store a commit in time")
        self._remember()
        return records

    def _remember(self) -> None:
        """Put what is committed into the memory of what was seen."""
        if self._seen is None:
            return
        for partition, reading in self._owned.items():
            while reading.unremembered and reading.unremembered[0][0] <= reading.committed:
                _, through, entries = reading.unremembered.popleft()
                self._seen.remember(partition, entries, through)
                for event_id, first in entries.items():
                    if reading.fresh.get(event_id) is first:
                        del reading.fresh[event_id]

    def _take(self) -> None:
        """Decide records and hand over what they become, for about `decide_seconds`."""
        if self._resting:
            self._wake()
        if not self._backlog:
            self._backlog.extend(self._admit(self._consume()))
        if not self._backlog:
            self._kafka.serve(0)
            self._stop_if_refused()
            return
        if self._open.due is None:
            self._open.due = self._clock() + self._settings.barrier_seconds
        decided: list[tuple[Record, Decision]] = []
        enough = self._clock() + self._settings.decide_seconds
        while self._backlog:
            record = self._backlog.popleft()
            decided.append((record, self._decide(record)))
            if self._clock() >= enough:
                break
        found = self._look_up(decided)
        deadline = self._clock() + self._settings.produce_budget
        for record, decision in decided:
            self._handle(record, decision, found, deadline)
        self._open.records += len(decided)
        self._count(decided)
        self._kafka.serve(0)
        self._stop_if_refused()
        self._look_for_a_stall()

    def _admit(self, records: Sequence[Record]) -> list[Record]:
        """Keep the records that are ours to handle, in order; announce them.

        A batch can hold records of partitions that were given up while it was gathered. One that
        came back meanwhile is paused until its past is known, so what there is of it is old.
        """
        admitted: list[Record] = []
        spans: dict[Partition, Span] = {}
        for record in records:
            partition = (record.topic, record.partition)
            reading = self._owned.get(partition)
            if reading is None or self._stalled or partition in self._catching_up:
                continue
            span = spans.get(partition)
            if span is None:
                self._check_start(partition, record.offset, reading.position)
                spans[partition] = Span(
                    first_offset=record.offset,
                    first_timestamp=record.timestamp,
                    next_offset=record.offset + 1,
                    last_timestamp=record.timestamp,
                )
            elif record.offset < span.next_offset:
                raise _went_back(partition, record.offset, span.next_offset)
            else:
                span.next_offset = record.offset + 1
                span.last_timestamp = record.timestamp
                span.records += 1
            admitted.append(record)
        if spans:
            self._telemetry.consumed(spans)
        return admitted

    def _check_start(self, partition: Partition, offset: int, position: int) -> None:
        """Refuse to jump: what is jumped over would be committed without being handled.

        Offsets may have gaps (transaction markers take some), so only backwards is always
        wrong. A partition that was given up and came back within one poll may bring records
        read before it went: there, the first must be the one we start from.
        """
        if offset < position:
            raise _went_back(partition, offset, position)
        if partition in self._returned and offset != position:
            topic, number = partition
            raise Interrupted(
                f"{topic}[{number}] came back within one poll and begins at {offset}, "
                f"not at {position}: old records cannot be told from new"
            )

    def _look_up(
        self, decided: Sequence[tuple[Record, Decision]]
    ) -> Mapping[Partition, Mapping[bytes, First]]:
        """Ask in one go which events of a batch were written for an earlier record."""
        if self._seen is None:
            return {}
        wanted: dict[Partition, list[bytes]] = {}
        for record, decision in decided:
            if decision.event_ids:
                partition = (record.topic, record.partition)
                wanted.setdefault(partition, []).extend(decision.event_ids)
        found = {}
        for partition, ids in wanted.items():
            found[partition] = self._seen.find(partition, ids)
            if not self._seen.knows(partition):
                self._telemetry.written_unchecked(len(set(ids) - found[partition].keys()))
        return found

    def _handle(
        self,
        record: Record,
        decision: Decision,
        found: Mapping[Partition, Mapping[bytes, First]],
        deadline: float,
    ) -> None:
        """Hand over what a record becomes, but for what was written before; enter its fate."""
        partition = (record.topic, record.partition)
        reading = self._owned[partition]
        sheet = self._open.sheets.get(partition)
        if sheet is None:
            start = reading.position
            sheet = _Sheet(Page(first_offset=start, next_offset=start))
            self._open.sheets[partition] = sheet
        repeated = self._repeated(record, decision, reading, sheet, found)
        for index, output in enumerate(decision.outputs):
            if index not in repeated:
                self._put_out(output, deadline)
        ids = decision.event_ids
        letters = len(decision.outputs) - len(ids)
        written = ids
        if repeated:
            written = [one for index, one in enumerate(ids) if index not in repeated]
        sheet.page.add(
            record.offset,
            _fate(len(written), len(repeated), letters),
            written,
            list(repeated.values()),
            letters,
            [ids[index] for index in repeated],
        )
        reading.position = record.offset + 1
        reading.last_timestamp = record.timestamp
        duplicates: Sequence[tuple[int, int]] = ()
        if repeated:
            now = _received_at(record, decision)
            duplicates = [(at, max(0, now - one.received_at)) for at, one in repeated.items()]
        self._telemetry.handled(record, decision, duplicates)

    def _repeated(
        self,
        record: Record,
        decision: Decision,
        reading: _Reading,
        sheet: _Sheet,
        found: Mapping[Partition, Mapping[bytes, First]],
    ) -> dict[int, First]:
        """Tell which events of a record were written before, and where; note the others as new."""
        repeated: dict[int, First] = {}
        if self._seen is None or not decision.event_ids:
            return repeated
        revision = self._settings.mapping_revision
        here = First(record.partition, record.offset, _received_at(record, decision), revision)
        before = found.get((record.topic, record.partition), {})
        for index, event_id in enumerate(decision.event_ids):
            first = self._first(event_id, here, reading, before, decision)
            if first is None:
                sheet.entries[event_id] = reading.fresh[event_id] = here
            else:
                repeated[index] = first
        return repeated

    def _first(
        self,
        event_id: bytes,
        here: First,
        reading: _Reading,
        before: Mapping[bytes, First],
        decision: Decision,
    ) -> First | None:
        """Give where an event was written before that makes it a duplicate here, if it was."""
        first = reading.fresh.get(event_id) or before.get(event_id)
        if first is None or first is here:  # the latter: said twice within one record
            return first
        window = self._settings.dedup_window_seconds
        return first if is_duplicate(first, here, window, replayed=decision.replayed) else None

    def _put_out(self, output: Output, deadline: float) -> None:
        """Produce an output, or hold it back as long as an epoch before it is not committed."""
        self._open.size += len(output.value or b"")
        if self._sealed is None:
            self._produce(output, deadline)
        else:
            self._held.append(output)

    def _produce(self, output: Output, deadline: float) -> None:
        while not self._kafka.produce(output):
            self._telemetry.queue_full()
            self._stop_if_refused()
            if self._clock() >= deadline:
                raise Interrupted(
                    f"the producer's queue stayed full for {self._settings.produce_budget:g} s"
                )
            self._kafka.serve(_WAIT_SECONDS)

    # -- the stall --

    def _window(self, last: passport.Passport | None) -> Window:
        """Go on counting failures where the last owner stopped, if it was under this mapping."""
        known = (
            last is not None
            and last.mapping_revision == self._settings.mapping_revision
            and not self._forgiving
        )
        return Window(last.recent if last is not None and known else None)

    def _count(self, decided: Sequence[tuple[Record, Decision]]) -> None:
        """Enter a batch into the windows by which a stall is told."""
        tally: dict[tuple[Partition, str], list[int]] = {}
        for record, decision in decided:
            partition = (record.topic, record.partition)
            counts = tally.setdefault((partition, decision.native_type), [0, 0])
            counts[0] += 1
            counts[1] += decision.failed
        for (partition, native_type), (records, failures) in tally.items():
            reading = self._owned[partition]
            reading.window.note(native_type, records, failures, reading.last_timestamp)

    def _look_for_a_stall(self) -> None:
        """Stop reading where so much fails; what was handled until now is committed."""
        if self._stalled or not self._settings.stall:
            return
        self._stalled = stalled(reading.window for reading in self._owned.values())
        if self._stalled is None:
            return
        self._backlog.clear()
        if self._open.due is not None:
            self._open.due = self._clock()
        self._kafka.pause(list(self._owned))
        self._telemetry.stalled(self._stalled)

    # -- the barrier --

    def _due(self) -> bool:
        """One epoch at a time: the next is sealed when the group has answered for the last."""
        if self._open.due is None or self._sealed is not None or self._unanswered:
            return False
        return not self._has_room() or self._clock() >= self._open.due

    def _seal(self) -> None:
        """Close the open epoch and write its books."""
        epoch = self._open
        epoch.sealed_at = self._clock()
        for partition, sheet in epoch.sheets.items():
            reading = self._owned[partition]
            epoch.books += self._keep(partition, sheet.page, sheet.entries)
            reading.sealed = reading.position
            reading.passport = self._passport(reading)
            if self._seen is not None and sheet.entries:
                reading.unremembered.append(
                    (reading.position, reading.last_timestamp, sheet.entries)
                )
        self._open = _Epoch()
        self._sealed = epoch
        self._telemetry.sealed()

    def _settle(self, epoch: _Epoch) -> None:
        """Commit the sealed epoch if Kafka has all of it; wait only if there is nothing to do."""
        wait = _GLANCE_SECONDS if self._has_room() else _WAIT_SECONDS
        self._press(epoch, wait, epoch.sealed_at + self._settings.barrier_budget)

    def _press(self, epoch: _Epoch, wait: float, deadline: float) -> None:
        """Wait for acknowledgements, put the books after the outputs, and conclude after both."""
        left = self._kafka.flush(wait)
        self._stop_if_refused()
        if left:
            if self._clock() >= deadline:
                raise Interrupted(f"{left} outputs were not acknowledged in time")
        elif epoch.books:
            books, epoch.books = epoch.books, []
            for output in books:
                self._produce(output, self._clock() + self._settings.produce_budget)
        else:
            self._conclude(epoch)

    def _conclude(self, epoch: _Epoch) -> None:
        """Every output is stored: ask to commit how far the records are handled, and go on."""
        seconds = self._clock() - epoch.sealed_at
        if due := [
            partition
            for partition, reading in self._owned.items()
            if reading.sealed > reading.asked or reading.due
        ]:
            self._commit(due)
            self._remember()  # where the commit is answered already
        for partition, sheet in epoch.sheets.items():
            if sheet.lost:
                self._telemetry.lost_to_retention(partition, sheet.lost)
        self._telemetry.barrier(seconds)
        self._sealed = None
        held, self._held = self._held, []
        deadline = self._clock() + self._settings.produce_budget
        for output in held:
            self._produce(output, deadline)

    def _barrier(self, budget: float) -> None:
        """Commit everything handled at once, where the group or the operator waits for it."""
        deadline = self._clock() + budget
        for _ in range(2):  # the sealed epoch, then what was open meanwhile
            if self._sealed is None:
                self._seal()
            while self._sealed is not None:
                self._press(self._sealed, _WAIT_SECONDS, deadline)
            if not self._open.sheets:
                return

    def _commit(self, partitions: Iterable[Partition]) -> None:
        checkpoints = {}
        for partition in partitions:
            reading = self._owned[partition]
            reading.asked = reading.sealed
            reading.due = False
            text = reading.passport or self._passport(reading)
            checkpoints[partition] = Checkpoint(reading.sealed, text)
        if self._answer_due is None:
            self._answer_due = self._clock() + self._settings.answer_budget
        self._unanswered += 1
        self._asked_at.append(self._clock())
        self._kafka.commit(checkpoints)

    def _passport(self, reading: _Reading) -> str:
        return passport.written(
            passport.Passport(
                mapping_revision=self._settings.mapping_revision,
                last_record_at=reading.last_timestamp,
                recent=reading.window.recent(),
            )
        )

    def _unfinished(self, partitions: Iterable[Partition] | None = None) -> list[Partition]:
        """List the owned partitions with records handled since the last commit was asked for."""
        return [
            partition
            for partition in (self._owned if partitions is None else partitions)
            if (reading := self._owned.get(partition)) and reading.position > reading.asked
        ]

    def _finished(self) -> bool:
        return all(reading.position == reading.committed for reading in self._owned.values())

    def _stop_if_refused(self) -> None:
        refusal = self._kafka.refused()
        if refusal is not None:
            raise Halted(refusal.reason) if refusal.permanent else Interrupted(refusal.reason)

    def _purge(self) -> None:
        """Drop what is not acknowledged, and with it the claim to have handled its records."""
        self._kafka.purge()
        self._held.clear()
        self._open = _Epoch()
        self._sealed = None
        self._telemetry.dropped()
        unfinished = self._unfinished()
        self._give_up(unfinished)
        if unfinished and self._end is None:
            # The consumer has read past them and would never hand them out again.
            self._end = Interrupted("outputs were dropped with partitions that went away")


def _received_at(record: Record, decision: Decision) -> int:
    """Give when a record was received, in seconds; not after Kafka had it, whatever it says.

    A gateway's clock that is far ahead would otherwise end the window of everything else. A
    replayed record is received when it is replayed: its first receipt may be out of any window.
    """
    said = decision.received_at
    if said is None or decision.replayed:
        said = record.timestamp
    return max(0, min(said, record.timestamp, _LATEST)) // 1000


def _fate(written: int, duplicates: int, letters: int) -> FateCode:
    """Give the one fate of a record with so many events written and seen, and dead letters."""
    if letters:
        return "b" if written else "l"
    if written:
        return "e"
    return "d" if duplicates else "i"


def _went_back(partition: Partition, offset: int, expected: int) -> Interrupted:
    topic, number = partition
    return Interrupted(f"{topic}[{number}] went back to {offset} where {expected} was next")


def keep_going(
    start: Callable[[], Worker],
    stopping: Callable[[], bool],
    pause: Callable[[float], None],
    telemetry: Telemetry | None = None,
) -> bool:
    """Work until `stopping`, with new clients after each interruption and a growing pause.

    Returns whether everything taken in was finished. Raises Halted. `pause` may return early
    when it is time to stop.
    """
    telemetry = telemetry or Telemetry()
    failures = 0  # since something was committed
    while not stopping():
        worker = None
        try:
            worker = start()
            while not stopping():
                worker.step()
        except Interrupted as end:
            worthwhile = worker is not None and worker.committed_something
            failures = 1 if worthwhile else failures + 1
            seconds = min(0.5 * 2.0 ** min(failures, 6), 30.0)
            telemetry.interrupted(str(end), seconds)
            if worker is not None:
                worker.abandon()
            pause(seconds)
        except BaseException:
            if worker is not None:
                worker.abandon()
            raise
        else:
            return worker.drain()
    return not failures
