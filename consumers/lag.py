"""Lag as the worker itself knows it: records and exact seconds per owned partition.

Nothing here asks Kafka. The loop tells what it consumed and committed, a probe tells where the
logs end, and whoever scrapes asks for the lag of that moment. A partition is absent, never 0,
when it is not ours or when nobody knows.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from consumers.contract import Span, Telemetry
from consumers.records import Partition

FRESH_SECONDS = 5.0
"""An observation of the log's end older than this proves nothing about now."""


class Lag(msgspec.Struct, frozen=True):
    """How far behind one partition is; None where that is not known."""

    records: int | None
    seconds: float | None


class _Ledger(msgspec.Struct):
    """What is known of one owned partition; times in seconds since the epoch."""

    committed: int
    uncommitted: deque[Span] = msgspec.field(default_factory=deque)
    end: int | None = None
    end_asked_at: float = 0.0
    covered_until: float | None = None
    """Every record that Kafka stored before this moment is covered by a commit."""

    def cover(self, moment: float) -> None:
        if self.covered_until is None or moment > self.covered_until:
            self.covered_until = moment

    def cover_to_end(self) -> None:
        """What is not covered was stored after the end was asked for, so none is older."""
        if self.end is not None and self.committed >= self.end:
            self.cover(self.end_asked_at)


class LagTracker(Telemetry):
    """The lag of every owned partition, fed by the loop (as its telemetry) and by a probe.

    Times are in seconds since the epoch. Topics carry LogAppendTime, so a record's timestamp is
    when Kafka stored it, and timestamps of a partition do not go back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ledgers: dict[Partition, _Ledger] = {}

    def assigned(self, starts: Mapping[Partition, int]) -> None:
        """Begin with these partitions; nothing is known of them but where they start."""
        with self._lock:
            for partition, start in starts.items():
                self._ledgers[partition] = _Ledger(committed=start)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Forget these partitions: their lag is the next owner's to tell."""
        self._forget(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        """Forget these partitions: their lag is the next owner's to tell."""
        self._forget(partitions)

    def _forget(self, partitions: Sequence[Partition]) -> None:
        with self._lock:
            for partition in partitions:
                self._ledgers.pop(partition, None)

    def closed(self) -> None:
        """Forget every partition."""
        with self._lock:
            self._ledgers.clear()

    def consumed(self, spans: Mapping[Partition, Span]) -> None:
        """Take note of records that are read and not committed."""
        with self._lock:
            for partition, span in spans.items():
                if ledger := self._ledgers.get(partition):
                    ledger.uncommitted.append(span)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Take note of acknowledged commits.

        They fall on the edges of epochs. One within a batch (dear records cut it) leaves the whole
        batch counted as uncommitted, which errs on the side of too much lag.
        """
        with self._lock:
            for partition, offset in offsets.items():
                ledger = self._ledgers.get(partition)
                if ledger is None:
                    continue
                ledger.committed = offset
                while ledger.uncommitted and ledger.uncommitted[0].next_offset <= offset:
                    ledger.cover(ledger.uncommitted.popleft().last_timestamp / 1000)
                ledger.cover_to_end()

    def observed(self, ends: Mapping[Partition, int], asked_at: float) -> None:
        """Take note of where logs end, asked for at `asked_at` (the answer is no older)."""
        with self._lock:
            for partition, end in ends.items():
                if ledger := self._ledgers.get(partition):
                    ledger.end, ledger.end_asked_at = end, asked_at
                    ledger.cover_to_end()

    def owned(self) -> list[Partition]:
        """List the partitions whose ends are worth asking for."""
        with self._lock:
            return list(self._ledgers)

    def in_progress(self) -> int:
        """Count the records that are read and not yet covered by an acknowledged commit."""
        with self._lock:
            return sum(
                span.records for ledger in self._ledgers.values() for span in ledger.uncommitted
            )

    def read(self, now: float) -> dict[Partition, Lag]:
        """Give the lag of every owned partition at `now`."""
        with self._lock:
            return {
                partition: Lag(_records(ledger, now), _seconds(ledger, now))
                for partition, ledger in self._ledgers.items()
            }


def _fresh(ledger: _Ledger, now: float) -> bool:
    return ledger.end is not None and now - ledger.end_asked_at <= FRESH_SECONDS


def _records(ledger: _Ledger, now: float) -> int | None:
    """Records from the committed offset to the end of the log.

    What is read already is certain even where the end is older or unknown. The end was asked
    for before later commits moved on, so the difference can be negative: that is 0.
    """
    read = ledger.uncommitted[-1].next_offset if ledger.uncommitted else None
    if ledger.end is not None and _fresh(ledger, now):
        end = ledger.end if read is None else max(read, ledger.end)
    elif read is not None:
        end = read
    else:
        return None
    return max(0, end - ledger.committed)


def _seconds(ledger: _Ledger, now: float) -> float | None:
    """Age of the oldest record that no acknowledged commit covers.

    Exact once that record is read. Before, it is known to be no older than the moment until
    which everything is covered, and that bound is given: an hour without traffic and then one
    record is a lag of seconds, because the probe saw the empty hour. The broker's clock may be
    ahead of ours, so the difference can be negative: that is 0.
    """
    if ledger.uncommitted:
        return max(0.0, now - ledger.uncommitted[0].first_timestamp / 1000)
    if ledger.end is None:
        return None
    if ledger.end > ledger.committed:  # stays true however old the observation is
        return None if ledger.covered_until is None else max(0.0, now - ledger.covered_until)
    return 0.0 if _fresh(ledger, now) else None
