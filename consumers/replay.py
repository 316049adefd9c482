"""Replay: dead letters, or a range of raw records, go through the raw topic once more.

Nothing here writes events: a copy with its original key, bytes and headers is appended to the raw
topic, and the normal worker does the rest.
"""

import hashlib
import json
import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args

import msgspec
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from consumers.broker import producer_config
from consumers.codec import encoder, single_object_prefix
from consumers.difference import Difference, Standing, Verdict, days_before, listed, rest_of, row
from consumers.failures import ErrorKind, carried_on, told
from consumers.fate import Fates
from consumers.identity import Keys
from consumers.normalizers import NORMALIZERS
from consumers.records import Headers, Output, Partition, Record
from consumers.worker import Halted
from gateway.delivery import (
    ATTEMPT,
    REPLAY_OF,
    dead_topic,
    group_id,
    output_topic,
    raw_topic,
)
from gateway.kafka import Range, RangeUnread, Wanted, find_ranges, read_ranges
from gateway.process import ConfigurationError

Say = Callable[[str], None]
Answer = TypeVar("Answer")

_PASSING = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError._WAIT_COORD,  # noqa: SLF001 - the client's public names begin so
    }
)

CHUNK_RECORDS = 500
CHUNK_BYTES = 16 * 1024 * 1024
"""A chunk is appended, acknowledged and then remembered: a crash can send one chunk twice."""
ALIVE_SECONDS = 30.0
"""How long the last sign of a replay says that it is still at work."""
_SIGN_SECONDS = 5.0
_ANSWER_SECONDS = 15.0
_POLL_SECONDS = 0.005
_PAUSE_SECONDS = 0.2
_MESSAGE_TIMEOUT_SECONDS = 30.0
_MOST_EXAMPLES = 3


def replay_group(provider: str, prefix: str = "") -> str:
    """Name the group whose committed offsets say how far a provider's replays came."""
    return f"{prefix}replay.{provider}"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be replayed, as the command line says it.

    `words` are the times and offsets as they were typed: the same words are the same selection,
    though 2h ago is another moment each time.
    """

    asked: Wanted
    words: tuple[str, ...] = ()
    raw: bool = False
    reasons: tuple[str, ...] = ()
    error_class: str = ""
    path: str = ""
    even_if_dead: bool = False
    everything: bool = False

    def name(self, revision: int) -> str:
        """Give the selection's fingerprint; under another mapping it is another selection."""
        said = [
            self.words, self.raw, sorted(self.reasons), self.error_class, self.path,
            self.even_if_dead, self.everything, revision,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]

    def means(self, headers: Headers) -> bool:
        """Say whether a dead letter with these headers is chosen by what it tells."""
        failure = told(headers)
        if failure is None:
            return not (self.reasons or self.error_class or self.path)
        return (
            (not self.reasons or failure.kind in self.reasons)
            and self.error_class in {"", failure.error_class}
            and (not self.path or self.path in failure.path.split(","))
        )


def checked(choice: Choice) -> Choice:
    """Give the choice; raise ConfigurationError for what cannot be meant."""
    for reason in choice.reasons:
        if reason not in get_args(ErrorKind):
            known = ", ".join(get_args(ErrorKind))
            raise ConfigurationError(
                f"--reason {reason!r}: there is no such kind; there are {known}"
            )
    if choice.raw and (choice.reasons or choice.error_class or choice.path):
        raise ConfigurationError(
            "--reason, --class and --path choose dead letters; leave --raw out"
        )
    if choice.raw and not any(choice.words):
        raise ConfigurationError("--raw needs a range: give --offset, --since or --until")
    if choice.everything and not choice.raw:
        raise ConfigurationError("--all belongs to --raw; dead letters are all replayed by default")
    return choice


# -- what a copy is --


def replay_copy(record: Record, topic: str) -> Output:
    """Give the record to append: key, bytes and headers as they came, and what it repeats.

    The failure that a dead letter tells becomes the newest entry of its history.
    """
    attempt = 1
    for name, value in record.headers:
        if name == ATTEMPT and value is not None and value.isdigit():
            attempt = int(value) + 1
    source = f"{record.topic}/{record.partition}/{record.offset}"
    headers: Headers = [
        *[
            (name, value)
            for name, value in carried_on(record.headers)
            if name not in {REPLAY_OF, ATTEMPT}
        ],
        (REPLAY_OF, source.encode()),
        (ATTEMPT, b"%d" % attempt),
    ]
    return Output(topic=topic, key=record.key, value=record.value, headers=headers)


def replay_of(headers: Headers) -> str | None:
    """Give topic/partition/offset of what a record repeats; None if it is no replay."""
    for name, value in headers:
        if name == REPLAY_OF:
            return (value or b"").decode("ascii", "replace")
    return None


def record_of(message: Message) -> Record:
    """Give a consumed message as the loop's record."""
    partition, offset = message.partition(), message.offset()
    headers: Headers = message.headers() or []  # type: ignore[assignment] # consumed ones are always a list with values of bytes
    if partition is None or offset is None:  # only its type says that this can be
        raise RangeUnread("a record came without its coordinates")
    return Record(
        topic=message.topic() or "",
        partition=partition,
        offset=offset,
        timestamp=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=headers,
    )


# -- what would become of dead letters --


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


# -- how far it came --


State = Literal["running", "stopped", "finished"]


class Stand(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside a committed offset of a replay; `at` in seconds since the epoch."""

    selection: str
    run: str
    state: State
    at: int


class Offsets:
    """A group's committed offsets, read and written without being its member.

    Every call is bounded in time and raises Halted if Kafka does not answer. Not by the admin
    client: its list_consumer_group_offsets was seen to kill the process on a fresh cluster,
    where no group had committed yet (confluent-kafka 2.16.1).
    """

    def __init__(self, config: Mapping[str, Any], group: str) -> None:
        self._group = group
        self._answers: list[KafkaError | None] = []
        self._client = Consumer(
            {
                "log_level": "0",
                **config,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "allow.auto.create.topics": False,
                "on_commit": self._answered,
            }
        )

    def read(self, topics: Sequence[str]) -> dict[Partition, tuple[int, str]]:
        """Give the committed offsets on these topics, and the text beside each."""

        def ask() -> list[TopicPartition]:
            asked = [
                TopicPartition(topic, number)
                for topic in topics
                for number in self._client.list_topics(topic, _ANSWER_SECONDS)
                .topics[topic]
                .partitions
            ]
            found = self._client.committed(asked, timeout=_ANSWER_SECONDS)
            for one in found:
                if one.error is not None:
                    raise KafkaException(one.error)
            return found

        return {
            (one.topic, one.partition): (one.offset, one.metadata or "")
            for one in self._patiently(ask)
            if one.offset >= 0
        }

    def write(self, offsets: Mapping[Partition, int], text: str) -> None:
        """Commit these offsets with a text beside them."""
        wanted = [
            TopicPartition(topic, number, offset, metadata=text)
            for (topic, number), offset in offsets.items()
        ]

        def commit() -> None:
            self._answers.clear()
            # A synchronous commit waits without bound for brokers that do not answer.
            self._client.commit(offsets=wanted, asynchronous=True)
            end = time.monotonic() + _ANSWER_SECONDS
            while not self._answers:
                if time.monotonic() > end:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - the client's public names begin so
                self._client.poll(_POLL_SECONDS)
            if self._answers[0] is not None:
                raise KafkaException(self._answers[0])

        self._patiently(commit)

    def _patiently(self, call: Callable[[], Answer]) -> Answer:
        """Ask again while the group's coordinator is still being found."""
        end = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                return call()
            except KafkaException as error:
                problem = error.args[0]
                if problem.code() not in _PASSING or time.monotonic() > end:
                    raise Halted(
                        f"the offsets of the group {self._group} cannot be read or written: "
                        f"{problem.name()}"
                    ) from error
            time.sleep(_PAUSE_SECONDS)

    def _answered(self, error: KafkaError | None, offsets: Sequence[TopicPartition]) -> None:
        errors = [error, *(one.error for one in offsets)]
        self._answers.append(next((one for one in errors if one is not None), None))


class Progress:
    """How far a replay came: committed offsets of a group of its own, on the topic it reads.

    Raises Halted as Offsets does. `others` is the topic from which this provider's other
    replays read.
    """

    def __init__(self, offsets: Offsets, topic: str, others: str, selection: str) -> None:
        self._offsets = offsets
        self._topic = topic
        self._others = others
        self._selection = selection
        self._run = secrets.token_hex(4)

    def left(self, ranges: Sequence[Range]) -> list[Range]:
        """Give what is left of these ranges by this selection's progress."""
        stands = self._offsets.read([self._topic])
        left = []
        for one in ranges:
            offset, text = stands.get((self._topic, one.partition), (0, ""))
            stand = _stand(text)
            begun = stand is not None and stand.selection == self._selection
            first = max(one.first, offset) if begun else one.first
            if first < one.end:
                left.append(Range(one.partition, first, one.end))
        return left

    def nobody_else(self, now: float) -> None:
        """Raise Halted if another replay of this provider shows signs of life."""
        for _, text in self._offsets.read([self._topic, self._others]).values():
            stand = _stand(text)
            if stand is None or stand.state != "running":
                continue
            since = now - stand.at
            if since < ALIVE_SECONDS:
                raise Halted(
                    f"another replay into the same topic was at work {max(0.0, since):.0f} s ago; "
                    f"let it end, or if it was killed, try again {ALIVE_SECONDS:.0f} s after its "
                    "last sign"
                )

    def begin(self, offsets: Mapping[int, int], now: float) -> None:
        """Say that this replay is at work, and where it begins in each partition."""
        self._write(offsets, "running", now)

    def reach(self, offsets: Mapping[int, int], now: float, state: State = "running") -> None:
        """Remember what was acknowledged; raise Halted if another replay has taken over."""
        stands = self._offsets.read([self._topic])
        for number in offsets:
            stand = _stand(stands.get((self._topic, number), (0, ""))[1])
            if stand is None or stand.run != self._run:
                raise Halted(
                    "another replay into the same topic has begun; this one stops, and what both "
                    "sent are duplicates"
                )
        self._write(offsets, state, now)

    def _write(self, offsets: Mapping[int, int], state: State, now: float) -> None:
        stand = Stand(selection=self._selection, run=self._run, state=state, at=int(now))
        self._offsets.write(
            {(self._topic, number): offset for number, offset in offsets.items()},
            msgspec.json.encode(stand).decode(),
        )


def _stand(text: str | None) -> Stand | None:
    try:
        return msgspec.json.decode(text or "", type=Stand)
    except msgspec.MsgspecError:
        return None


# -- appending --


class Appender:
    """Appends copies to the raw topic, and knows that they are stored before it returns."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._failure: KafkaError | None = None
        bounded = {"message.timeout.ms": int(_MESSAGE_TIMEOUT_SECONDS * 1000)}
        self._producer = Producer(
            producer_config({"log_level": "0", **config} | bounded)
            | {"on_delivery": self._reported}
        )

    def _reported(self, error: KafkaError | None, _message: Message) -> None:
        self._failure = self._failure or error

    def append(self, copies: Sequence[Output]) -> None:
        """Append these records. Raises Halted if they are not all stored."""
        for copy in copies:
            self._producer.produce(
                copy.topic,
                value=copy.value,
                key=copy.key,
                # the stub's list is invariant: a list of (str, bytes | None) does not fit
                headers=copy.headers,  # type: ignore[arg-type]
            )
        left = self._producer.flush(_MESSAGE_TIMEOUT_SECONDS + 5.0)
        if self._failure is not None or left:
            name = self._failure.name() if self._failure is not None else "no answer"
            raise Halted(
                f"{copies[0].topic} did not take every record of a chunk of {len(copies)}: {name}; "
                "the same command goes on with that chunk, and what was stored of it is then "
                "stored twice"
            )


class Pace:
    """Holds a replay to a number of records per second; 0 is as fast as Kafka takes them."""

    def __init__(self, rate: float, wait: Callable[[float], object]) -> None:
        self._rate = rate
        self._wait = wait
        self._due = 0.0
        self.chunk = min(CHUNK_RECORDS, max(1, math.ceil(rate))) if rate else CHUNK_RECORDS

    def keep(self, sent: int, now: float) -> None:
        """Wait until `sent` more records may follow; `now` never goes back."""
        if self._rate:
            self._due = max(self._due, now) + sent / self._rate
            self._wait(max(0.0, self._due - now))


class Replay:
    """One replay of one provider: the plan, the report, and with leave the appending."""

    def __init__(
        self,
        provider: str,
        config: Mapping[str, Any],
        keys: Keys,
        prefix: str,
        choice: Choice,
        *,
        stop: threading.Event,
        say: Say,
    ) -> None:
        self._provider = provider
        self._normalizer = NORMALIZERS[provider]
        self._config = config
        self._prefix = prefix
        self._choice = choice
        self._stop = stop
        self._say = say
        # Framed in the way that needs no registry: what is encoded here goes nowhere.
        encode = encoder(single_object_prefix())
        self._fates = Fates(provider, self._normalizer, encode, keys, prefix)
        self._raw = raw_topic(provider, prefix)
        self._topic = self._raw if choice.raw else dead_topic(provider, prefix)
        self._progress = Progress(
            Offsets(config, replay_group(provider, prefix)),
            self._topic,
            dead_topic(provider, prefix) if choice.raw else self._raw,
            choice.name(self._normalizer.REVISION),
        )

    def run(self, *, yes: bool, rate: float, from_beginning: bool, verbose: bool = False) -> bool:
        """Report what would be done and, with `yes`, do it; False if it was stopped before its end.

        The end of what is read is fixed before anything is written. Raises ConfigurationError,
        RangeUnread and Halted.
        """
        find_ranges(self._config, self._raw)  # which says so if there is no such topic
        if yes:
            self._progress.nobody_else(time.time())
        whole = find_ranges(self._config, self._topic, self._choice.asked)
        ranges = whole if from_beginning else self._progress.left(whole)
        behind = sum(one.end - one.first for one in whole) - sum(
            one.end - one.first for one in ranges
        )
        if behind:
            self._say(
                f"{behind:,} offsets of this selection are behind us; this goes on after them "
                "(--from-beginning repeats it)"
            )
        if self._choice.raw:
            ranges = self._normalized(ranges)
        if not ranges:
            self._say(f"{self._topic}: nothing there to replay")
            return True
        chosen = (
            self._difference(ranges, verbose=verbose) if self._choice.raw else self._letters(ranges)
        )
        count = sum(map(len, chosen.values()))
        if self._stop.is_set():
            self._say("stopped; nothing was written")
            return False
        if not yes:
            self._say(f"Nothing was written. --yes appends {count:,} records to {self._raw}.")
            return True
        return self._append(ranges, chosen, Pace(rate, self._stop.wait))

    def _letters(self, ranges: Sequence[Range]) -> dict[int, set[int]]:
        """Report on dead letters and give the offsets to replay.

        Read to the log's end, because a later letter can tell that a chosen one was replayed.
        """
        letters = Letters(self._choice, self._fates, self._normalizer.REVISION, self._raw)
        ends = {one.partition: one.end for one in ranges}
        further = Wanted(offsets={one.partition: (one.first, 2**62) for one in ranges})
        for record in self._records(find_ranges(self._config, self._topic, further)):
            letters.look(record, chosen=record.offset < ends[record.partition])
        for line in letters.lines(self._topic):
            self._say(line)
        return letters.chosen()

    def _difference(self, ranges: Sequence[Range], *, verbose: bool) -> dict[int, set[int]]:
        """Report how today's events of raw records differ from those that stand."""
        standing = self._standing(ranges)
        difference = Difference(self._normalizer.REVISION, verbose=verbose)
        replayed: set[Verdict] = {"changed", "new"}
        if self._choice.everything:
            replayed |= {"unchanged", "unraised", "gone", "ignored"}
        if self._choice.even_if_dead:
            replayed |= {"dead"}
        chosen: dict[int, set[int]] = {}
        for record in self._records(ranges):
            if replay_of(record.headers) is not None:
                difference.replays += 1
            elif difference.note(record, self._fates.decide(record), standing) in replayed:
                chosen.setdefault(record.partition, set()).add(record.offset)
        for line in difference.lines(self._raw, standing):
            self._say(line)
        return chosen

    def _standing(self, ranges: Sequence[Range]) -> Standing:
        """Look up the events that stand for raw records.

        A retry's event stands where its first delivery was, so the output is read from as long
        before the range as the provider retries.
        """
        standing = Standing(self._raw, {one.partition: (one.first, one.end) for one in ranges})
        earliest: int | None = None
        for record in self._records(ranges):
            if replay_of(record.headers) is None:
                standing.ask(self._fates.decide(record))
                earliest = min(record.timestamp, earliest or record.timestamp)
        if earliest is not None:
            events = output_topic(self._prefix)
            since = days_before(earliest, self._normalizer.RETRIED_FOR_DAYS + 1)
            output = find_ranges(self._config, events, Wanted(since=since))
            for messages in read_ranges(self._config, events, output, self._stop.is_set):
                for message in messages:
                    standing.take(message.value())
        return standing

    def _normalized(self, ranges: Sequence[Range]) -> list[Range]:
        """Leave out what the consumers have not come to: it will be under today's mapping."""
        group = group_id(self._provider, self._prefix)
        committed = Offsets(self._config, group).read([self._raw])
        found, left_out = [], 0
        for one in ranges:
            end = min(one.end, committed.get((self._raw, one.partition), (0, ""))[0])
            left_out += one.end - max(one.first, end)
            if one.first < end:
                found.append(Range(one.partition, one.first, end))
        if left_out:
            self._say(f"{left_out:,} offsets are not normalized yet and are left to the consumers")
        return found

    def _records(self, ranges: Sequence[Range]) -> Iterator[Record]:
        for messages in read_ranges(self._config, self._topic, ranges, self._stop.is_set):
            yield from map(record_of, messages)

    def _append(self, ranges: Sequence[Range], chosen: Mapping[int, set[int]], pace: Pace) -> bool:
        """Append the chosen records and remember how far it came after every chunk."""
        self._progress.nobody_else(time.time())
        total = sum(map(len, chosen.values()))
        done = {one.partition: one.first for one in ranges}
        self._progress.begin(done, time.time())
        appender = Appender(self._config)
        began = signed = time.monotonic()
        sent = 0
        for chunk, reached in chunks(self._records(ranges), chosen, pace.chunk):
            if chunk:
                appender.append([replay_copy(record, self._raw) for record in chunk])
            done |= reached
            sent += len(chunk)
            if chunk or time.monotonic() - signed > _SIGN_SECONDS:
                self._progress.reach(done, time.time())
            if time.monotonic() - signed > _SIGN_SECONDS:
                self._say(f"{sent:,} of {total:,} appended")
                signed = time.monotonic()
            pace.keep(len(chunk), time.monotonic())
            if self._stop.is_set():
                break
        finished = not self._stop.is_set() or sent == total
        if finished:
            done = {one.partition: one.end for one in ranges}
        self._progress.reach(done, time.time(), "finished" if finished else "stopped")
        self._say(
            f"{sent:,} of {total:,} records appended to {self._raw} in "
            f"{time.monotonic() - began:.1f} s"
        )
        if not finished:
            self._say("stopped before the end; the same command goes on from here")
        elif sent:
            self._say(f"`python -m consumers run {self._provider}` makes of them what they become")
        return finished


def chunks(
    records: Iterable[Record], chosen: Mapping[int, set[int]], size: int
) -> Iterator[tuple[list[Record], dict[int, int]]]:
    """Give the chosen ones of these records in chunks, each with the offsets reached by it."""
    chunk: list[Record] = []
    held = passed = 0
    reached: dict[int, int] = {}
    for record in records:
        reached[record.partition] = record.offset + 1
        passed += 1
        if record.offset in chosen.get(record.partition, ()):
            chunk.append(record)
            held += len(record.value or b"")
        if len(chunk) >= size or held >= CHUNK_BYTES or passed >= 10 * CHUNK_RECORDS:
            yield chunk, reached
            chunk, reached, held, passed = [], {}, 0, 0
    if reached:
        yield chunk, reached
