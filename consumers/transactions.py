"""Exactly-once: Kafka for the loop, whose outputs and offsets are stored together or not at all.

Facts of librdkafka 2.16 that shape this file, each seen against Apache Kafka 4.3:
- init_transactions() that timed out goes on where it was when it is called again, so the wait for
  the end of our predecessor's transaction is cut into slices.
- All fencing arrives as the fatal _FENCED: from a newer producer with our id as well as from the
  broker's having ended a transaction that was open for too long. Only the age tells them apart.
- produce() on a producer that ended in a fatal error says _FATAL, without the reason; the
  transactional calls say the reason, every time.
- send_offsets_to_transaction() stores the metadata of offsets, and works from within on_revoke
  with the group's metadata of that moment.
- Offsets sent with a generation that is over, or by nobody's member, make the transaction
  abortable. A member that was thrown out has no name any more, and Kafka takes offsets from
  nobody in no generation, by protocol, as from a client outside the group.
- committed() waits for an open transaction that holds offsets, and says _TIMED_OUT when its time
  is over: after a kill -9 a new owner of the partitions comes again until the old transaction is
  aborted, by its successor in the slot at once, or by the broker after its time-out.
- abort_transaction() drops what is queued and waits for what is in flight. purge() would not wait,
  and what was in flight could land in the next transaction.

What remains possible (KIP-890): librdkafka speaks the transactional protocol before Kafka 4, in
which all transactions of one producer share one epoch. A request that a broker held back, a
produce or the end of a transaction, can take effect in the transaction after its own. So nothing
goes on after any time-out: the next incarnation has a new producer with the same id, whose init
raises the epoch, and stragglers are refused. One way is left: the connection breaks, librdkafka
sends the same request again by itself, the second one is answered, and the broker still carries
out the first one in the midst of the next transaction.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from consumers.broker import (
    CLOSE_SECONDS,
    AfterGap,
    Broker,
    LibrdkafkaConfig,
    cause_of,
    close_within,
    offsets_of,
)
from consumers.contract import Checkpoint, Halted, Interrupted, Listener, Refusal, Telemetry
from consumers.records import Output, Partition, Record
from gateway.statistics import ClientStatistics

TRANSACTION_SECONDS = 10.0
"""An open transaction holds back every read_committed reader of the shared output topic."""
INIT_SECONDS = 60.0
"""How long a predecessor's transaction may take to be ended."""
_COMMIT_SHARE = 0.5
_ABORT_SECONDS = 5.0
_PAUSE_SECONDS = 0.05

_FENCED = frozenset(
    {
        KafkaError._FENCED,  # noqa: SLF001 - the client's public names begin so
        KafkaError.INVALID_PRODUCER_EPOCH,
    }
)

_NEVER = {
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        "not authorised to use the transactional id {id}: grant WRITE and DESCRIBE on it"
    ),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "not authorised to write with {id}",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "not authorised to commit for the group of {id}",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "not authorised to write a topic or to commit with {id}",
    KafkaError.INVALID_TRANSACTION_TIMEOUT: (
        "the brokers' transaction.max.timeout.ms is below the {seconds:g} s that transactions of "
        "{id} may take: raise it"
    ),
    KafkaError.OFFSET_METADATA_TOO_LARGE: (
        "the brokers' offset.metadata.max.bytes is too small for the passports of {id}"
    ),
    KafkaError._UNSUPPORTED_FEATURE: "the brokers know no transactions, which {id} needs",  # noqa: SLF001
}
"""Answers that no new producer would change, and the sentence a person reads."""


def transactional_id(group: str, slot: int) -> str:
    """Name the producer of a slot: stable, so that a successor ends what its predecessor left."""
    return f"{group}.{slot}"


def transaction_keys(group: str, slot: int, seconds: float) -> dict[str, Any]:
    """Give what makes a Producer transactional; `seconds` bound the life of a transaction."""
    return {
        "transactional.id": transactional_id(group, slot),
        "transaction.timeout.ms": int(seconds * 1000),
        "message.timeout.ms": int(seconds * 800),  # librdkafka wants it below
        # As long as librdkafka allows, and longer than a commit of ours waits: so librdkafka by
        # itself never sends the end of one a second time for want of an answer.
        "socket.timeout.ms": min(int(seconds * 1000), 300_000),
    }


class TransactionalBroker(Broker):
    """A Broker whose `commit` stores outputs and offsets together, for one slot of a group.

    No two processes may have the same slot at a time: the older one is fenced and Halted.
    `clock` must go on while the process is stopped, as the monotonic clock does.
    """

    def __init__(
        self,
        config: LibrdkafkaConfig,
        topic: str,
        group: str,
        slot: int,
        *,
        transaction_seconds: float = TRANSACTION_SECONDS,
        max_poll_interval: float = 300.0,
        after_gap: AfterGap = "halt",
        telemetry: Telemetry | None = None,
        statistics: ClientStatistics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slot = slot
        self._group = group
        self._seconds = transaction_seconds
        self._producer_keys = transaction_keys(group, slot, transaction_seconds)
        self._joining: Listener | None = None
        self._init_due: float | None = None
        self._open_since: float | None = None
        """When the transaction began that may still be open; Kafka counts from no earlier."""
        super().__init__(
            config,
            topic,
            group,
            max_poll_interval=max_poll_interval,
            after_gap=after_gap,
            telemetry=telemetry,
            statistics=statistics,
            clock=clock,
        )

    # -- what the loop asks --

    def subscribe(self, listener: Listener) -> None:
        """Join the group as soon as nothing is left of our predecessor; see `consume`."""
        self._joining = listener

    def consume(self, limit: int, timeout: float) -> list[Record]:
        """Give the next records; before the first ones, end the predecessor's transaction."""
        if self._joining is not None:
            self._raise_carried()
            if not self._initialized(timeout):
                return []
            super().subscribe(self._joining)
            self._joining = None
        return super().consume(limit, timeout)

    def produce(self, output: Output) -> bool:
        """Hand an output over, in the transaction that is open or in a new one."""
        self._raise_carried()
        self._begin()
        return super().produce(output)

    def refused(self) -> Refusal | None:
        """Tell the first refusal since the last purge; a fencing may be heard of only here."""
        if self._refusal is not None and (end := self._fatal_error()) is not None:
            raise end
        return self._refusal

    def commit(self, checkpoints: Mapping[Partition, Checkpoint]) -> None:
        """Store everything produced together with these offsets; the answer is known on return.

        Raises Interrupted if it was not stored, or nobody knows.
        """
        self._raise_carried()
        self._begin()
        deadline = self._clock() + self._seconds * _COMMIT_SHARE
        offsets = offsets_of(checkpoints)
        member = self._member()
        self._insist(
            "offsets were not added to a transaction",
            deadline,
            lambda left: self._producer.send_offsets_to_transaction(offsets, member, left),
        )
        self._insist("a transaction was not committed", deadline, self._producer.commit_transaction)
        self._open_since = None
        self._telemetry.transaction("committed")
        if self._listener is not None:
            self._listener.committed(
                {partition: one.next_offset for partition, one in checkpoints.items()}
            )

    def purge(self) -> None:
        """Abort the open transaction; if that fails, the next call says that we cannot go on."""
        if self._open_since is not None and self._carried is None:
            with contextlib.suppress(Interrupted, Halted):
                self._insist(
                    "a transaction was not aborted",
                    self._clock() + _ABORT_SECONDS,
                    self._producer.abort_transaction,
                )
                self._open_since = None
                self._telemetry.transaction("aborted")
                self._producer.flush(0)  # the reports of what was dropped
        self._refusal = None

    def close(self) -> None:
        """Abort what is open, leave the group and close both clients, within CLOSE_SECONDS."""
        self._listener = None
        if self._open_since is not None:  # ended below, or by whoever takes the slot next
            self._telemetry.transaction("aborted")
        close_within(CLOSE_SECONDS, self._end_producer, self._consumer.close)

    def _end_producer(self) -> None:
        if self._open_since is not None:
            # Not only for its own sake: readers of the output wait for the end of it.
            with contextlib.suppress(KafkaException, SystemError):
                self._producer.abort_transaction(_ABORT_SECONDS)
        self._producer.close()

    # -- one transaction --

    def _initialized(self, timeout: float) -> bool:
        """Wait for our producer's epoch, which ends the predecessor's transaction."""
        if self._init_due is None:
            self._init_due = self._clock() + INIT_SECONDS
        try:
            self._producer.init_transactions(timeout)
        except (KafkaException, SystemError) as problem:
            error = cause_of(problem)
            if error.retriable() and self._clock() < self._init_due:
                return False
            raise self._ended("no transactions can be begun", error) from problem
        return True

    def _begin(self) -> None:
        if self._open_since is not None:
            return
        self._open_since = self._clock()
        try:
            self._producer.begin_transaction()
        except KafkaException as problem:
            self._open_since = None
            raise self._ended("no transaction can be begun", cause_of(problem)) from problem

    def _member(self) -> Any:
        """Give our membership of the group; fresh, as every rebalance changes it.

        Raises Interrupted where we have none: Kafka would take the offsets from nobody. The name
        is looked at on both sides of the question, and no member ever gets an old one back.
        """
        name = self._consumer.memberid()
        member = self._consumer.consumer_group_metadata()
        if not name or self._consumer.memberid() != name:
            raise self._broken(Interrupted("the group has thrown us out"))
        return member

    def _insist(self, failed: str, deadline: float, call: Callable[[float], object]) -> None:
        """Call until it is done; anything but `retriable` before the deadline ends us."""
        while True:
            try:
                call(max(0.0, deadline - self._clock()))
            except (KafkaException, SystemError) as problem:
                error = cause_of(problem)
                if not error.retriable() or self._clock() >= deadline:
                    raise self._ended(failed, error) from problem
                time.sleep(_PAUSE_SECONDS)
            else:
                return

    # -- what it means --

    def _producer_ended(self, error: KafkaError) -> Interrupted | Halted:
        return self._ended("the producer cannot go on", error)

    def _unproduced(self, error: KafkaError, topic: str, size: int) -> Interrupted | Halted:
        fatal = self._fatal_error()
        return super()._unproduced(error, topic, size) if fatal is None else fatal

    def _fatal_error(self) -> Interrupted | Halted | None:
        """Ask why the producer ended, if it did: what tells it within a transaction is asking.

        A producer that goes on answers that a transaction is open, and nothing has changed.
        """
        try:
            self._producer.begin_transaction()
        except KafkaException as problem:
            error = cause_of(problem)
            return self._producer_ended(error) if error.fatal() else None
        return self._broken(Interrupted("the producer has lost its transaction"))

    def _ended(self, failed: str, error: KafkaError) -> Interrupted | Halted:
        """Say what an error means that ends this producer."""
        self._telemetry.client_error(error.name())
        if error.code() in _FENCED:
            return self._broken(self._fenced())
        if sentence := _NEVER.get(error.code()):
            whole = sentence.format(
                id=transactional_id(self._group, self._slot), seconds=self._seconds
            )
            return self._broken(Halted(whole))
        return self._broken(Interrupted(f"{failed}: {error.name()}"))

    def _fenced(self) -> Interrupted | Halted:
        """Tell a twin from our own slowness.

        Kafka fences a producer whose transaction stayed open for too long, by its clock, which
        begins no earlier than ours. Where that cannot be, only a producer with our id can have
        done it: a twin, or, hardly ever, an init of our own earlier incarnation that was held
        back on its way.
        """
        open_for = 0.0 if self._open_since is None else self._clock() - self._open_since
        if open_for >= self._seconds:
            return Interrupted(f"a transaction was open for {open_for:.0f} s, and Kafka ended it")
        return Halted(
            f"another process took slot {self._slot} of {self._group} from us: give each process "
            "a --slot of its own (the ordinal of a StatefulSet's pod is one), and start again"
        )

    def _broken(self, end: Interrupted | Halted) -> Interrupted | Halted:
        """Let no call go on with this producer: what became of its transaction is unknown."""
        self._carried = self._carried or end
        return end
