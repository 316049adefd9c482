"""What the loop asks of Kafka, and what it tells: the contract between `worker` and its edges.

`Kafka` is kept narrow, so that a simulation can stand in for it at every call. At least once and
exactly once are two implementations of it (broker.py, transactions.py).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from consumers.records import Decision, Output, Partition, Record

CommitFailure = Literal["membership", "unanswered"]
"""Why a commit failed: the partitions are someone else's now, or the group cannot be reached.

Neither loses anything: what is not committed is done again.
"""


TransactionEnd = Literal["committed", "aborted"]
"""What became of a transaction; aborted too where it was given up and nobody heard its end."""


class Interrupted(Exception):  # noqa: N818 - an end of one incarnation, cured by the next
    """This incarnation is over; new clients go on from the committed offsets."""


class Halted(Exception):  # noqa: N818 - the program's answer, not its failure
    """A person must act before anything can go on; the text is the one sentence they read."""


class Refusal(NamedTuple):
    """Why an output was not stored; `permanent` if no new client would cure it."""

    reason: str
    permanent: bool


class Checkpoint(NamedTuple):
    """What a commit says of a partition: the next offset to read, and a text for operators.

    Of a start, `lost` records right before it were deleted by retention, and nobody read them.
    """

    next_offset: int
    passport: str
    lost: int = 0


class Span(msgspec.Struct):
    """Consecutive records of one partition in one batch; times are Kafka's, in milliseconds."""

    first_offset: int
    first_timestamp: int
    next_offset: int
    last_timestamp: int
    records: int = 1


class Listener(Protocol):
    """Who is told what the group decides, always from within `consume`."""

    def assigned(self, starts: Mapping[Partition, Checkpoint]) -> None:
        """Own these partitions from now on, reading from these offsets.

        The passport is the one that was committed there, or empty.
        """
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

    Any call may raise Interrupted or Halted. A transactional Kafka differs behind its calls:
    the first `produce` begins a transaction, `commit` ends it with the offsets in it and calls
    the listener before it returns, and `purge` aborts it. Between a `commit` and the `flush`
    before it nothing is produced.
    """

    def subscribe(self, listener: Listener) -> None:
        """Join the group; `listener` hears of every change of the assignment."""
        ...

    def consume(self, limit: int, timeout: float) -> Sequence[Record]:
        """Give the next records, at most `limit`; may call the listener before it returns."""
        ...

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Give no more records of these partitions; what is consumed already is the loop's.

        Also from within `assigned`. A partition that is assigned anew is not paused.
        """
        ...

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Give records of these partitions again, from where `consume` stopped giving them."""
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

    def handled(
        self, record: Record, decision: Decision, duplicates: Sequence[tuple[int, int]]
    ) -> None:
        """This became of a record; of its events these (by index) were duplicates, so old (s)."""

    def entered(self, entries: int) -> None:
        """So many entries of the ledger tell of what was handled since the last epoch."""

    def written_unchecked(self, events: int) -> None:
        """So many events were written before it was known what was seen earlier."""

    def catching_up_with(self, partitions: int) -> None:
        """So many partitions wait until it is known what was seen in them."""

    def sealed(self) -> None:
        """What was handled until now is one epoch, and waits for Kafka's acknowledgements."""

    def stalled(self, native_type: str) -> None:
        """So much of this native type failed that nothing more is read."""

    def dropped(self) -> None:
        """What was handled and not acknowledged is given up; somebody does it again."""

    def queue_full(self) -> None:
        """An output had to wait for room in the producer's queue."""

    def barrier(self, seconds: float) -> None:
        """Every output of the sealed epoch was acknowledged, `seconds` after it was sealed."""

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """The group acknowledged these next offsets."""

    def commit_took(self, seconds: float) -> None:
        """A commit was acknowledged, so long after it was asked for."""

    def commit_failed(self, why: CommitFailure) -> None:
        """A commit was refused, or not answered."""

    def transaction(self, end: TransactionEnd) -> None:
        """A transaction that was begun is over."""

    def lost_to_retention(self, partition: Partition, records: int) -> None:
        """This many records were deleted before they were read."""

    def closed(self) -> None:
        """The group was left; nothing is ours any more."""

    def client_error(self, name: str) -> None:
        """A client reported trouble that it goes on trying to overcome."""

    def interrupted(self, reason: str, pause: float) -> None:
        """An incarnation ended; the next begins after `pause` seconds."""
