"""The loop: consume, decide, produce, and at each barrier commit what is proven stored.

It is a state machine over `Kafka`, a narrow interface, so that a simulation can crash, fence,
delay and refuse at every call. At-least-once and crash-only: nothing is kept that is not in
Kafka, and any end but a clean one leaves the committed offsets to start again from.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from consumers.records import Output, Record

Partition = tuple[str, int]
"""A topic and the number of one of its partitions."""

MAX_POLL_SECONDS = 0.2
"""librdkafka's batch call does not wake for signals: the longest SIGTERM waits to be seen."""

_WAIT_SECONDS = 0.05

CommitFailure = Literal["membership", "unanswered"]
"""Why a commit failed: the partitions are someone else's now, or the group cannot be reached.

Neither loses anything: what is not committed is done again.
"""


class Interrupted(Exception):  # noqa: N818 - an end of one incarnation, cured by the next
    """This incarnation is over; new clients go on from the committed offsets."""


class Halted(Exception):  # noqa: N818 - the program's answer, not its failure
    """A person must act before anything can go on; the text is the one sentence they read."""


class Refusal(NamedTuple):
    """Why an output was not stored; `permanent` if no new client would cure it."""

    reason: str
    permanent: bool


class Checkpoint(NamedTuple):
    """What a commit says of a partition: the next offset to read, and a text for operators."""

    next_offset: int
    passport: str


class Span(msgspec.Struct):
    """Consecutive records of one partition in one batch; times are Kafka's, in milliseconds."""

    first_offset: int
    first_timestamp: int
    next_offset: int
    last_timestamp: int
    records: int = 1


class Listener(Protocol):
    """Who is told what the group decides, always from within `consume`."""

    def assigned(self, starts: Mapping[Partition, int]) -> None:
        """Own these partitions from now on, reading from these offsets."""
        ...

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Give these partitions up; until this returns they are still ours to commit."""
        ...

    def lost(self, partitions: Sequence[Partition]) -> None:
        """Forget these partitions; somebody else may own them already."""
        ...

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Hear that the group has stored what one `commit` asked for."""
        ...

    def commit_failed(self, why: CommitFailure) -> None:
        """Hear that what one `commit` asked for was not stored, or nobody knows."""
        ...


class Kafka(Protocol):
    """All the loop needs of Kafka; every call is bounded in time.

    Any call may raise Interrupted or Halted. A transactional Kafka differs behind `commit`.
    """

    def subscribe(self, listener: Listener) -> None:
        """Join the group; `listener` hears of every change of the assignment."""
        ...

    def consume(self, limit: int, timeout: float) -> Sequence[Record]:
        """Give the next records, at most `limit`; may call the listener before it returns."""
        ...

    def produce(self, output: Output) -> bool:
        """Hand an output over for sending; False if there is no room for it now."""
        ...

    def serve(self, timeout: float) -> None:
        """Take in acknowledgements and refusals for at most `timeout` seconds."""
        ...

    def flush(self, timeout: float) -> int:
        """Send without lingering; count the outputs whose fate is unknown after `timeout`.

        Returns as soon as there are none.
        """
        ...

    def refused(self) -> Refusal | None:
        """Tell why an output handed over since the last purge was not stored, if one was not."""
        ...

    def commit(self, checkpoints: Mapping[Partition, Checkpoint]) -> None:
        """Ask the group to store these offsets; the listener hears the answer.

        Within `revoked`, the group waits for what was asked before it moves the partitions.
        """
        ...

    def purge(self) -> None:
        """Drop every output not acknowledged yet, and forget what was refused."""
        ...

    def close(self) -> None:
        """Leave the group and close every client; the listener hears nothing more."""
        ...


class Telemetry:
    """What the loop tells of itself, once per batch or barrier; this one listens to nothing."""

    def polled(self) -> None:
        """Kafka was asked for records and came back."""

    def assigned(self, starts: Mapping[Partition, int]) -> None:
        """These partitions became ours, from these offsets."""

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """These partitions were given up in good order."""

    def lost(self, partitions: Sequence[Partition]) -> None:
        """These partitions were taken away."""

    def consumed(self, spans: Mapping[Partition, Span]) -> None:
        """These records came in and are about to be decided."""

    def queue_full(self) -> None:
        """An output had to wait for room in the producer's queue."""

    def barrier(self, seconds: float) -> None:
        """Every output was acknowledged, `seconds` after the barrier began."""

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """The group acknowledged these next offsets."""

    def commit_failed(self, why: CommitFailure) -> None:
        """A commit was refused, or not answered."""

    def lost_to_retention(self, partition: Partition, records: int) -> None:
        """This many records were deleted before they were read."""

    def closed(self) -> None:
        """The group was left; nothing is ours any more."""

    def client_error(self, name: str) -> None:
        """A client reported trouble that it goes on trying to overcome."""

    def interrupted(self, reason: str, pause: float) -> None:
        """An incarnation ended; the next begins after `pause` seconds."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The loop's sizes and times, in records and seconds.

    The budgets are shares of max.poll.interval, after which the group takes the partitions
    away: handing over a batch and its barrier together stay below it.
    """

    batch_records: int = 500
    poll_seconds: float = 0.1
    barrier_seconds: float = 0.5
    barrier_records: int = 5_000
    drain_seconds: float = 15.0
    max_poll_interval: float = 300.0
    mapping_revision: int = 0

    def __post_init__(self) -> None:
        """Refuse a poll that would keep SIGTERM waiting."""
        if not 0 < self.poll_seconds <= MAX_POLL_SECONDS:
            raise ValueError(f"poll_seconds is {self.poll_seconds}, must be at most 0.2")

    @property
    def produce_budget(self) -> float:
        """Seconds one batch may wait for room in the producer's queue."""
        return 0.2 * self.max_poll_interval

    @property
    def barrier_budget(self) -> float:
        """Seconds a barrier may wait: longer than message.timeout.ms, which says more."""
        return 0.5 * self.max_poll_interval

    @property
    def answer_budget(self) -> float:
        """Seconds the group may take to answer a commit before the clients are given up."""
        return 0.5 * self.max_poll_interval

    @property
    def revoke_budget(self) -> float:
        """Seconds the group is kept waiting for partitions it wants back."""
        return 0.2 * self.max_poll_interval


class Passport(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit's metadata tells when every consumer is dead; times in milliseconds."""

    mapping_revision: int
    last_record_at: int


def passport(mapping_revision: int, last_record_at: int) -> str:
    """Write the text that travels with a committed offset; the broker's limit is 4,096 bytes."""
    stamped = Passport(mapping_revision=mapping_revision, last_record_at=last_record_at)
    return msgspec.json.encode(stamped).decode()


class _Reading(msgspec.Struct):
    """How far one owned partition is: handled, asked to be committed, known to be committed."""

    position: int
    asked: int
    committed: int
    last_timestamp: int = 0


class Worker:
    """One incarnation of the loop: `step` until `drain`, or `abandon` once it has raised.

    `decide` is pure and never raises: what is wrong with a record becomes a dead letter.
    `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        kafka: Kafka,
        decide: Callable[[Record], Sequence[Output]],
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._kafka = kafka
        self._decide = decide
        self._settings = settings
        self._clock = clock
        self._telemetry = telemetry or Telemetry()
        self._owned: dict[Partition, _Reading] = {}
        self._given_up: set[Partition] = set()
        self._returned: set[Partition] = set()
        self._since_barrier = 0
        self._barrier_due: float | None = None
        self._barrier_began: float | None = None
        self._unanswered = 0
        self._answer_due = 0.0
        self._end: Interrupted | Halted | None = None
        self.committed_something = False
        """True once a commit was acknowledged: this incarnation was worth starting."""
        kafka.subscribe(self)

    def step(self) -> None:
        """Take in one batch and hand its outputs over, or go on with the barrier under way.

        A step is short, so that a signal is seen soon. Raises Interrupted or Halted, and
        nothing is committed from then on.
        """
        if self._end is not None:
            raise self._end
        try:
            if self._barrier_began is None:
                self._take(self._consume())
                if self._due():
                    self._barrier_began = self._clock()
            if self._barrier_began is not None and self._settled(
                self._barrier_began + self._settings.barrier_budget
            ):
                self._conclude(self._barrier_began)
        except (Interrupted, Halted) as end:
            self._end = end
            raise

    def drain(self) -> bool:
        """Finish what was taken in and leave the group; False if some of it must be redone.

        Raises Halted.
        """
        deadline = self._clock() + self._settings.drain_seconds
        try:
            while self._end is None and not self._finished() and self._clock() < deadline:
                if self._unanswered:
                    self._consume()  # the answer comes this way; the records stay uncommitted
                else:
                    self._barrier(deadline - self._clock())
        except Interrupted as end:
            self._end = end
        finally:
            finished = self._end is None and self._finished()
            self.abandon()
        return finished

    def abandon(self) -> None:
        """Leave the group without committing: the next owner goes on from what is committed."""
        self._end = self._end or Interrupted("abandoned")
        self._purge()
        self._kafka.close()
        self._telemetry.closed()

    # -- what the group decides, told from within consume() --

    def assigned(self, starts: Mapping[Partition, int]) -> None:
        """Own these partitions, to be read from these offsets."""
        for partition, start in starts.items():
            self._owned[partition] = _Reading(position=start, asked=start, committed=start)
            if partition in self._given_up:
                self._returned.add(partition)
        self._telemetry.assigned(starts)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Commit what was begun for these partitions if that fits the budget, else redo it."""
        try:
            if self._end is None and self._unfinished(partitions):
                self._barrier(self._settings.revoke_budget)
        except Interrupted:
            self._forsake(partitions)
        except Halted as end:
            self._end = end
            self._forsake(partitions)
            raise
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
        self._answered()
        for partition, offset in offsets.items():
            reading = self._owned.get(partition)
            if reading is not None and reading.committed < offset <= reading.asked:
                reading.committed = offset
        self.committed_something = True
        self._telemetry.committed(offsets)

    def commit_failed(self, why: CommitFailure) -> None:
        """Offer the same offsets again at the next barrier.

        If the partitions are someone else's, the group says so before that.
        """
        self._answered()
        for reading in self._owned.values():
            reading.asked = reading.committed
        if self._unfinished() and self._barrier_due is None:
            self._barrier_due = self._clock() + self._settings.barrier_seconds
        self._telemetry.commit_failed(why)

    def _answered(self) -> None:
        self._unanswered -= 1
        self._answer_due = self._clock() + self._settings.answer_budget

    def _forsake(self, partitions: Sequence[Partition]) -> None:
        """Stop sending for partitions that are going away, so that no zombie keeps delivering."""
        unfinished = self._unfinished(partitions)
        self._give_up(partitions)
        if unfinished:
            self._purge()

    def _give_up(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._owned.pop(partition, None)
            self._given_up.add(partition)
            self._returned.discard(partition)

    # -- one batch --

    def _consume(self) -> Sequence[Record]:
        self._given_up.clear()
        self._returned.clear()
        records = self._kafka.consume(self._settings.batch_records, self._settings.poll_seconds)
        self._telemetry.polled()
        if self._end is not None:
            raise self._end
        if self._unanswered and self._clock() >= self._answer_due:
            raise Interrupted("the group did not answer a commit in time")
        return records

    def _take(self, records: Sequence[Record]) -> None:
        """Hand over the outputs of a batch; a record is handled once all of its own are."""
        admitted = self._admit(records)
        if admitted and self._barrier_due is None:
            self._barrier_due = self._clock() + self._settings.barrier_seconds
        deadline = self._clock() + self._settings.produce_budget
        for record in admitted:
            for output in self._decide(record):
                self._produce(output, deadline)
            reading = self._owned[record.topic, record.partition]
            reading.position = record.offset + 1
            reading.last_timestamp = record.timestamp
        self._since_barrier += len(admitted)
        self._kafka.serve(0)
        self._stop_if_refused()

    def _admit(self, records: Sequence[Record]) -> list[Record]:
        """Keep the records that are ours to handle, in order; announce them.

        A batch can hold records of partitions that were given up while it was gathered.
        """
        admitted: list[Record] = []
        spans: dict[Partition, Span] = {}
        for record in records:
            partition = (record.topic, record.partition)
            reading = self._owned.get(partition)
            if reading is None:
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

    def _produce(self, output: Output, deadline: float) -> None:
        while not self._kafka.produce(output):
            self._telemetry.queue_full()
            self._stop_if_refused()
            if self._clock() >= deadline:
                raise Interrupted(
                    f"the producer's queue stayed full for {self._settings.produce_budget:g} s"
                )
            self._kafka.serve(_WAIT_SECONDS)

    # -- the barrier --

    def _due(self) -> bool:
        """One barrier at a time: the next waits until the group has answered the last."""
        if self._barrier_due is None or self._unanswered:
            return False
        return (
            self._since_barrier >= self._settings.barrier_records
            or self._clock() >= self._barrier_due
        )

    def _barrier(self, budget: float) -> None:
        """Hold a whole barrier at once, where the group or the operator waits for it."""
        began = self._clock()
        while not self._settled(began + budget):
            pass
        self._conclude(began)

    def _settled(self, deadline: float) -> bool:
        """Say whether every output is stored; raise if one was refused, or at `deadline`."""
        left = self._kafka.flush(_WAIT_SECONDS)
        self._stop_if_refused()
        if left and self._clock() >= deadline:
            raise Interrupted(f"{left} outputs were not acknowledged in time")
        return not left

    def _conclude(self, began: float) -> None:
        """Every output is stored: ask to commit how far the records are handled."""
        if unfinished := self._unfinished():
            self._commit(unfinished)
        self._since_barrier = 0
        self._barrier_due = None
        self._barrier_began = None
        self._telemetry.barrier(self._clock() - began)

    def _commit(self, partitions: Iterable[Partition]) -> None:
        revision = self._settings.mapping_revision
        checkpoints = {}
        for partition in partitions:
            reading = self._owned[partition]
            reading.asked = reading.position
            text = passport(revision, reading.last_timestamp)
            checkpoints[partition] = Checkpoint(reading.position, text)
        if not self._unanswered:
            self._answer_due = self._clock() + self._settings.answer_budget
        self._unanswered += 1
        self._kafka.commit(checkpoints)

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
        unfinished = self._unfinished()
        self._give_up(unfinished)
        if unfinished and self._end is None:
            # The consumer has read past them and would never hand them out again.
            self._end = Interrupted("outputs were dropped with partitions that went away")


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
        worker = start()
        try:
            while not stopping():
                worker.step()
        except Interrupted as end:
            failures = 1 if worker.committed_something else failures + 1
            seconds = min(0.5 * 2.0 ** min(failures, 6), 30.0)
            telemetry.interrupted(str(end), seconds)
            worker.abandon()
            pause(seconds)
        except BaseException:
            worker.abandon()
            raise
        else:
            return worker.drain()
    return not failures
