"""Kafka as the loop needs it, over confluent-kafka: one Consumer, one Producer, one thread.

Also the probe that asks where the logs end, with a client and a thread of its own, because a
second thread at the Consumer waits until the first one's call returns.

Facts of librdkafka 2.16 that shape this file, each seen against Apache Kafka 4.3:
- A synchronous commit, and close(), wait without bound for brokers that do not answer
  (minutes, with socket.timeout.ms at 5 s). So commits are asynchronous, their answers come
  with a later consume(), and close() runs in a thread that is left behind if it must be.
- An asynchronous commit from within on_revoke is stored before the partitions move on.
- An exception in a callback makes the call around it drop its messages, so callbacks keep
  what went wrong, and it is raised once the call has returned.
- purge() leaves an idempotent producer usable; what was in flight may be stored all the same.
- A fatal error never reaches error_cb: poll() or flush() raises it, and the Consumer gives it as
  a message's error with the code _FATAL, whose fatal() is False. A callback that runs in the same
  call after it was raised fails with a SystemError, whose cause is then the fatal error.
- A partition paused from within on_assign, after incremental_assign(), gives nothing until
  resume(), and then everything from its start, up to fetch.wait.max.ms later.
- flush() ends lingering for as long as it runs: a flush of 5 ms is enough to send, and one of
  0 ms, which may miss the sender's thread, if it is repeated.
- committed() gives the metadata of a commit back (None where there is none). While a transaction
  holds an offset for the partition, it asks again until its own time-out.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from consumers.contract import (
    Checkpoint,
    CommitFailure,
    Halted,
    Interrupted,
    Listener,
    Refusal,
    Telemetry,
)
from consumers.lag import LagTracker
from consumers.records import Headers, Output, Partition, Record
from gateway.ranges import log_offsets
from gateway.statistics import ClientStatistics

LibrdkafkaConfig = Mapping[str, Any]
"""librdkafka keys, such as bootstrap.servers and security.protocol, and their values."""

AfterGap = Literal["halt", "continue"]
"""What to do when retention deleted records before they were read."""

LOOKUP_SECONDS = 5.0
MISSING_TOPIC_SECONDS = 10.0
"""How long a topic may be unknown: a fresh one takes a moment to be known everywhere."""
CLOSE_SECONDS = 10.0
PROBE_SECONDS = 2.0

TRYING_ON = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 - the client's public names begin so
        KafkaError._MAX_POLL_EXCEEDED,  # noqa: SLF001 - the next consume() joins again
        KafkaError._PARTITION_EOF,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._WAIT_COORD,  # noqa: SLF001
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_COORDINATOR,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
"""Troubles that librdkafka overcomes by itself once the brokers are back."""

UNKNOWN_TOPIC = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)

NOT_AUTHORISED = frozenset(
    {
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)

_BEYOND_THE_LOG = frozenset(
    {
        KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001
        KafkaError.OFFSET_OUT_OF_RANGE,
    }
)

_REFUSED_FOR_GOOD = (
    frozenset(
        {
            KafkaError.INVALID_RECORD,
            KafkaError.INVALID_TIMESTAMP,
            KafkaError.MSG_SIZE_TOO_LARGE,
            KafkaError.POLICY_VIOLATION,
            KafkaError.RECORD_LIST_TOO_LARGE,
            KafkaError.TOPIC_EXCEPTION,
            KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
            KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        }
    )
    | UNKNOWN_TOPIC
    | NOT_AUTHORISED
)
"""Answers to an output that no new client would change."""

_MEMBERSHIP = frozenset(
    {
        KafkaError._ASSIGNMENT_LOST,  # noqa: SLF001
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)

_COMMIT_NEVER = (
    frozenset({KafkaError.INVALID_GROUP_ID, KafkaError.OFFSET_METADATA_TOO_LARGE})
    | UNKNOWN_TOPIC
    | NOT_AUTHORISED
)


def consumer_config(
    config: LibrdkafkaConfig, group: str, max_poll_interval: float
) -> dict[str, Any]:
    """Complete the caller's keys for the Consumer; what the guarantee rests on is not theirs."""
    ours: dict[str, Any] = {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "allow.auto.create.topics": False,
        "max.poll.interval.ms": int(max_poll_interval * 1000),
    }
    if config.get("group.protocol") != "consumer":  # there the broker assigns, and refuses this
        ours["partition.assignment.strategy"] = "cooperative-sticky"
    defaults = {
        "fetch.queue.backoff.ms": 50,  # else a full prefetch queue stops fetching for a second
        "queued.max.messages.kbytes": 16 * 1024,  # prefetched ahead of the loop, in memory
    }
    return defaults | dict(config) | ours


def producer_config(config: LibrdkafkaConfig) -> dict[str, Any]:
    """Complete the caller's keys for the Producer; what the guarantee rests on is not theirs."""
    return (
        {
            "compression.type": "lz4",
            "linger.ms": 20,
            "message.max.bytes": 2 * 1024 * 1024,
            "message.timeout.ms": 120_000,
        }
        | dict(config)
        | {
            "acks": "all",
            "enable.idempotence": True,
            "delivery.report.only.error": True,
            "partitioner": "murmur2_random",
        }
    )


def start_offset(
    partition: Partition, committed: int, log: tuple[int, int], after_gap: AfterGap
) -> tuple[int, int]:
    """Say where to begin reading, and how many records retention deleted unread.

    `committed` is negative where nothing was committed; `log` is the first offset and the end.
    Raises Halted where going on would hide a loss.
    """
    first, end = log
    topic, number = partition
    if committed < 0:
        return first, 0
    if committed > end:
        raise Halted(
            f"{topic}[{number}] ends at {end}, before the committed offset {committed}: the topic "
            "was created anew or cut off; reset the group's offsets to say where to go on"
        )
    if committed >= first:
        return committed, 0
    if after_gap == "halt":
        raise Halted(
            f"retention deleted {first - committed} unread records of {topic}[{number}] "
            f"(committed {committed}, the log begins at {first}); set "
            "CONSUMER_RETENTION_GAP=continue to go on without them, or reset the group's offsets"
        )
    return first, first - committed


class Broker:
    """The loop's `Kafka`, reading one topic.

    All calls come from one thread. `max_poll_interval` is in seconds; `clock` never goes back.
    Consumer and Producer report into `statistics`, from within `consume`, `serve` and `flush`.
    """

    _producer_keys: Mapping[str, Any] = {}
    """librdkafka keys that this kind of Kafka adds to its Producer's."""

    def __init__(
        self,
        config: LibrdkafkaConfig,
        topic: str,
        group: str,
        *,
        max_poll_interval: float = 300.0,
        after_gap: AfterGap = "halt",
        telemetry: Telemetry | None = None,
        statistics: ClientStatistics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._after_gap = after_gap
        self._telemetry = telemetry or Telemetry()
        self._clock = clock
        self._listener: Listener | None = None
        self._carried: Interrupted | Halted | None = None
        self._refusal: Refusal | None = None
        self._missing_since: float | None = None
        statistics = statistics or ClientStatistics()
        self._admin = AdminClient(dict(config))
        self._producer = Producer(
            producer_config(config)
            | dict(self._producer_keys)
            | {"on_delivery": self._on_delivery, "error_cb": self._on_client_error}
            | statistics.settings("producer")
        )
        self._consumer = Consumer(
            consumer_config(config, group, max_poll_interval)
            | {"on_commit": self._on_commit, "error_cb": self._on_client_error}
            | statistics.settings("consumer")
        )

    # -- what the loop asks --

    def subscribe(self, listener: Listener) -> None:
        """Join the group."""
        self._listener = listener
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def consume(self, limit: int, timeout: float) -> list[Record]:
        """Give the next records; raise what went wrong in a callback meanwhile."""
        try:
            messages = self._consumer.consume(limit, timeout)
        except (KafkaException, SystemError) as problem:
            cause = cause_of(problem)
            if cause.fatal():
                raise self._refused_by_group(cause) from problem
            raise Interrupted(f"reading failed: {cause.name()}") from problem
        self._raise_carried()
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(_record(message))
            else:
                self._judge(error, message)
        if self._missing_since is not None:
            self._look_for_topic(self._missing_since)
        return records

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop fetching; what librdkafka had fetched of them is dropped, and fetched again."""
        self._flow(self._consumer.pause, partitions)

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Fetch again."""
        self._flow(self._consumer.resume, partitions)

    def _flow(
        self, change: Callable[[list[TopicPartition]], None], partitions: Sequence[Partition]
    ) -> None:
        try:
            change([TopicPartition(topic, number) for topic, number in partitions])
        except KafkaException as problem:
            raise Interrupted(f"partitions cannot be paused: {_name(problem)}") from problem

    def produce(self, output: Output) -> bool:
        """Hand an output to librdkafka, which copies it; False if its queue is full."""
        try:
            self._producer.produce(
                output.topic,
                value=output.value,
                key=output.key,
                partition=output.partition,
                # the stub's list is invariant: a list of (str, bytes | None) does not fit
                headers=output.headers,  # type: ignore[arg-type]
            )
        except BufferError:
            return False
        except KafkaException as problem:
            size = len(output.value or b"")
            raise self._unproduced(cause_of(problem), output.topic, size) from problem
        return True

    def serve(self, timeout: float) -> None:
        """Serve delivery reports, of which only failures reach Python."""
        try:
            self._producer.poll(timeout)
        except (KafkaException, SystemError) as problem:
            raise self._producer_ended(cause_of(problem)) from problem
        self._raise_carried()

    def flush(self, timeout: float) -> int:
        """Wait for outputs in flight; poll() would not notice when the last one is stored."""
        try:
            left = self._producer.flush(timeout)
        except (KafkaException, SystemError) as problem:
            raise self._producer_ended(cause_of(problem)) from problem
        self._raise_carried()
        return left

    def refused(self) -> Refusal | None:
        """Tell the first refusal since the last purge; one that is permanent goes first."""
        return self._refusal

    def commit(self, checkpoints: Mapping[Partition, Checkpoint]) -> None:
        """Send a commit; its answer comes with a later consume()."""
        try:
            self._consumer.commit(offsets=offsets_of(checkpoints), asynchronous=True)
        except KafkaException as problem:
            raise Interrupted(f"a commit could not be sent: {_name(problem)}") from problem

    def purge(self) -> None:
        """Drop queued and in-flight outputs, and serve the reports that say so."""
        self._producer.purge()
        with contextlib.suppress(KafkaException, SystemError):  # fatal: told by the next call
            self._producer.flush(1.0)
        self._refusal = None

    def close(self) -> None:
        """Leave the group and close both clients, within CLOSE_SECONDS."""
        self._listener = None
        close_within(CLOSE_SECONDS, self._producer.close, self._consumer.close)

    # -- what librdkafka calls, from within consume(), poll() and flush() --

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._listener is None or self._carried is not None or not partitions:
            return
        try:
            starts = self._starts(partitions)
            consumer.incremental_assign(
                [
                    TopicPartition(topic, number, start.next_offset)
                    for (topic, number), start in starts.items()
                ]
            )
            self._listener.assigned(starts)  # after the assigning: it may pause what it is told of
        except KafkaException as problem:
            self._carried = Interrupted(f"no start for new partitions: {_name(problem)}")
        except (Interrupted, Halted) as end:
            self._carried = end

    def _starts(self, partitions: list[TopicPartition]) -> dict[Partition, Checkpoint]:
        """Look up where to begin; asked in one question each, and not on the consumer's connection.

        There an answer would wait behind the fetch under way, half a second for every partition.
        """
        committed: dict[Partition, Checkpoint] = {}
        for found in self._consumer.committed(partitions, timeout=LOOKUP_SECONDS):
            if found.error is not None:
                raise KafkaException(found.error)
            committed[found.topic, found.partition] = Checkpoint(found.offset, told_with(found))
        first = log_offsets(self._admin, list(committed), OffsetSpec.earliest())  # type: ignore[no-untyped-call] # a classmethod without annotations
        end = log_offsets(self._admin, list(committed), OffsetSpec.latest())  # type: ignore[no-untyped-call] # a classmethod without annotations
        starts = {}
        for partition, (offset, passport, _) in committed.items():
            if partition not in first or partition not in end:
                topic, number = partition
                raise Interrupted(f"{topic}[{number}] does not say where its log begins and ends")
            log = (first[partition], end[partition])
            start, lost = start_offset(partition, offset, log, self._after_gap)
            starts[partition] = Checkpoint(start, passport, lost)
        return starts

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._listener is None:
            return
        try:
            self._listener.revoked(_names(partitions))
        except (Interrupted, Halted) as end:
            self._carried = self._carried or end

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._listener is not None:
            self._listener.lost(_names(partitions))

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        if self._listener is None:
            return
        errors = [error] if error is not None else []
        errors += [found.error for found in offsets if found.error is not None]
        for problem in errors:
            if problem.code() in _COMMIT_NEVER or problem.fatal():
                self._carried = self._carried or Halted(
                    f"offsets of {self._topic} cannot be committed: {problem.name()}"
                )
        if errors:
            lost = any(problem.code() in _MEMBERSHIP for problem in errors)
            why: CommitFailure = "membership" if lost else "unanswered"
            self._listener.commit_failed(why)
        else:
            self._listener.committed(
                {(found.topic, found.partition): found.offset for found in offsets}
            )

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        refusal = _refusal(error, message.topic() or "?", len(message.value() or b""))
        if self._refusal is None or (refusal.permanent and not self._refusal.permanent):
            self._refusal = refusal

    def _on_client_error(self, error: KafkaError) -> None:
        self._telemetry.client_error(error.name())

    # -- what it means --

    def _raise_carried(self) -> None:
        if self._carried is not None:
            raise self._carried

    def _refused_by_group(self, error: KafkaError) -> Interrupted | Halted:
        """Say what a fatal error of the Consumer means: the group's protocol forbids us to be."""
        self._telemetry.client_error(error.name())
        return Halted(f"the group refuses us: {error.str()}")

    def _producer_ended(self, error: KafkaError) -> Interrupted | Halted:
        """Say what a fatal error of the Producer means: a broken sequence ends with it."""
        self._telemetry.client_error(error.name())
        return Interrupted(f"the producer cannot go on: {error.name()}")

    def _unproduced(self, error: KafkaError, topic: str, size: int) -> Interrupted | Halted:
        """Say what it means that an output was not even taken in."""
        refusal = _refusal(error, topic, size)
        return Halted(refusal.reason) if refusal.permanent else Interrupted(refusal.reason)

    def _judge(self, error: KafkaError, message: Message) -> None:
        """Go on, note a missing topic, or end, by what a consumed error says."""
        code = error.code()
        self._telemetry.client_error(error.name())
        if code in UNKNOWN_TOPIC:
            if self._missing_since is None:
                self._missing_since = self._clock()
        elif code in NOT_AUTHORISED:
            raise Halted(f"not authorised to read {self._topic} in this group: {error.name()}")
        elif code in _BEYOND_THE_LOG:
            # the next incarnation looks the log's start up and says what was lost
            raise Interrupted(
                f"{self._topic}[{message.partition()}] no longer has the offset to be read"
            )
        elif error.fatal() or code == KafkaError._FATAL:  # noqa: SLF001 - its name
            raise self._refused_by_group(error)
        elif code not in TRYING_ON:
            raise Interrupted(f"reading {self._topic} failed: {error.name()}")

    def _look_for_topic(self, missing_since: float) -> None:
        """Halt if the topic is still missing; librdkafka reports that only once."""
        if self._clock() - missing_since < MISSING_TOPIC_SECONDS:
            return
        try:
            known = self._consumer.list_topics(self._topic, timeout=LOOKUP_SECONDS).topics
        except KafkaException as problem:
            raise Interrupted(f"{self._topic} cannot be looked up: {_name(problem)}") from problem
        if self._topic not in known or known[self._topic].error is not None:
            raise Halted(no_such_topic(self._topic))
        self._missing_since = None


class EndProbe:
    """Tells a LagTracker every PROBE_SECONDS where the logs of owned partitions end.

    A probe that gets no answer tells nothing, and the lag becomes absent instead of wrong.
    """

    def __init__(
        self,
        config: LibrdkafkaConfig,
        lag: LagTracker,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._admin = AdminClient(dict(config))
        self._lag = lag
        self._now = now
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-end-probe", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Stop asking; returns at once, or when the question under way has timed out."""
        self._stopping.set()
        self._thread.join(2 * PROBE_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.ask()
            self._stopping.wait(PROBE_SECONDS)

    def ask(self) -> None:
        """Ask once and pass on what was answered."""
        owned = self._lag.owned()
        if not owned:
            return
        asked_at = self._now()
        ends = log_offsets(self._admin, owned, OffsetSpec.latest(), PROBE_SECONDS)  # type: ignore[no-untyped-call] # a classmethod without annotations
        self._lag.observed(ends, asked_at)


def offsets_of(checkpoints: Mapping[Partition, Checkpoint]) -> list[TopicPartition]:
    """Give checkpoints as the client commits them."""
    return [
        TopicPartition(topic, number, checkpoint.next_offset, metadata=checkpoint.passport)
        for (topic, number), checkpoint in checkpoints.items()
    ]


def told_with(found: TopicPartition) -> str:
    """Give the text that was committed with an offset; nothing where it is no text of ours.

    Another client may have put any bytes there, and they are decoded only when asked for.
    """
    try:
        return found.metadata or ""
    except UnicodeDecodeError:
        return ""


def cause_of(problem: KafkaException | SystemError) -> KafkaError:
    """Give what Kafka said; raises the problem itself if it came from elsewhere."""
    cause = problem.__cause__ if isinstance(problem, SystemError) else problem
    if isinstance(cause, KafkaException):
        error: KafkaError = cause.args[0]
        return error
    raise problem


def close_within(seconds: float, *closing: Callable[[], object]) -> None:
    """Close clients side by side, so that none waits for another.

    Where the brokers do not answer, the closing is left to threads that end with the process.
    """

    def close(one: Callable[[], object]) -> None:
        with contextlib.suppress(KafkaException, SystemError):
            one()

    deadline = time.monotonic() + seconds
    threads = [
        threading.Thread(target=close, args=(one,), name="kafka-leaving", daemon=True)
        for one in closing
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _record(message: Message) -> Record:
    headers: Headers = message.headers() or []  # type: ignore[assignment] # consumed ones are always a list with values of bytes
    return Record(
        topic=message.topic() or "",
        partition=_known(message.partition()),
        offset=_known(message.offset()),
        timestamp=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=headers,
    )


def _known(number: int | None) -> int:
    """A consumed message has a partition and an offset; only its type says it may not."""
    if number is None:
        raise Interrupted("a record came without its coordinates")
    return number


def _names(partitions: Sequence[TopicPartition]) -> list[Partition]:
    return [(found.topic, found.partition) for found in partitions]


def _name(problem: KafkaException) -> str:
    name: str = problem.args[0].name()
    return name


def no_such_topic(topic: str) -> str:
    """Say in one sentence that a topic is missing, and what to do."""
    return f"{topic} does not exist; `python -m deploy topics apply` creates it"


def _refusal(error: KafkaError, topic: str, size: int) -> Refusal:
    """Put into one sentence why an output was not stored; never with its content."""
    code = error.code()
    if code in UNKNOWN_TOPIC:
        reason = no_such_topic(topic)
    elif code in NOT_AUTHORISED:
        reason = f"not authorised to write {topic}: {error.name()}"
    elif code == KafkaError.MSG_SIZE_TOO_LARGE:
        reason = (
            f"an output of {size} bytes is too large for {topic}; "
            "`python -m deploy topics apply` sets the sizes that fit together"
        )
    else:
        reason = f"{topic} did not take an output: {error.name()}"
    return Refusal(reason, permanent=code in _REFUSED_FOR_GOOD)
