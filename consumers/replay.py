"""Replay: dead letters, or a range of raw records, go through the raw topic once more.

Nothing here writes events: a copy with its original key, bytes and headers is appended to the raw
topic, and the normal worker does the rest.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from consumers.broker import producer_config
from consumers.choice import Choice
from consumers.codec import encoder, single_object_prefix
from consumers.committed import Committed
from consumers.contract import Halted
from consumers.copies import replay_copy, replay_of
from consumers.difference import Difference, Standing, Verdict, days_before
from consumers.fate import Fates
from consumers.identity import Keys
from consumers.letters import Letters
from consumers.normalizers import EVERY
from consumers.progress import Progress, replay_group
from consumers.records import Headers, Output, Record
from gateway.delivery import dead_topic, group_id, output_topic, raw_topic
from gateway.process import ConfigurationError
from gateway.ranges import Range, RangeUnread, Wanted, find_ranges, read_ranges

Say = Callable[[str], None]

CHUNK_RECORDS = 500
CHUNK_BYTES = 16 * 1024 * 1024
"""A chunk is appended, acknowledged and then remembered: a crash can send one chunk twice."""
_SIGN_SECONDS = 5.0
_ANOTHER_KEY = (
    "no event stands under the id it would get today, so EVENT_KEY is not the one they were made "
    "with; set the consumers' own EVENT_KEY"
)
_MESSAGE_TIMEOUT_SECONDS = 30.0


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
        self.chunk = math.ceil(min(CHUNK_RECORDS, max(1, rate))) if rate else CHUNK_RECORDS

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
        self._normalizer = EVERY[provider]
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
        self._committed = Committed(config, replay_group(provider, prefix))
        self._progress = Progress(
            self._committed,
            self._topic,
            dead_topic(provider, prefix) if choice.raw else self._raw,
            choice.name(self._normalizer.REVISION),
        )

    def run(self, *, yes: bool, rate: float, from_beginning: bool, verbose: bool = False) -> bool:
        """Report what would be done and, with `yes`, do it; False if it was stopped before its end.

        The end of what is read is fixed before anything is written. A Replay runs once. Raises
        ConfigurationError, RangeUnread and Halted.
        """
        with closing(self._committed):
            return self._run(yes=yes, rate=rate, from_beginning=from_beginning, verbose=verbose)

    def _run(self, *, yes: bool, rate: float, from_beginning: bool, verbose: bool) -> bool:
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
        chosen, another_key = (
            self._difference(ranges, verbose=verbose)
            if self._choice.raw
            else (self._letters(ranges), False)
        )
        count = sum(map(len, chosen.values()))
        if self._stop.is_set():
            self._say("stopped; nothing was written")
            return False
        if another_key:
            if yes:
                raise ConfigurationError(f"{_ANOTHER_KEY}; nothing was written")
            self._say(f"Nothing was written. --yes would refuse: {_ANOTHER_KEY}.")
            return True
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

    def _difference(
        self, ranges: Sequence[Range], *, verbose: bool
    ) -> tuple[dict[int, set[int]], bool]:
        """Report how today's events of raw records differ from those that stand.

        Gives the offsets to replay, and whether those events were made with another EVENT_KEY.
        """
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
        return chosen, difference.another_key

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
            events = output_topic(self._prefix, self._provider)
            since = days_before(earliest, self._normalizer.RETRIED_FOR_DAYS + 1)
            output = find_ranges(self._config, events, Wanted(since=since))
            for messages in read_ranges(self._config, events, output, self._stop.is_set):
                for message in messages:
                    standing.take(message.value())
        return standing

    def _normalized(self, ranges: Sequence[Range]) -> list[Range]:
        """Leave out what the consumers have not come to: it will be under today's mapping."""
        group = group_id(self._provider, self._prefix)
        with closing(Committed(self._config, group)) as handled:
            committed = handled.read([self._raw])
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
