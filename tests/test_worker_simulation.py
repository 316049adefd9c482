"""The loop against a simulated Kafka that crashes, fences, delays, refuses and times out.

Every rule of the machine carries a number, from which the dice are thrown that decide what Kafka
does during the calls of that step; 0 throws nothing but the benign choice, so that a failing
schedule shrinks to the misfortunes it needs. Deterministic: SIMULATION_SEED=N picks other
schedules, and a failure names it.

Every schedule runs in one of three ways: at least once without dedup, at least once with it, and
in transactions. A transaction is an Outbox that becomes visible as a whole or not at all.
"""

import bisect
import os
import random
from collections import Counter, deque

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,
)
from msgspec import structs

from consumers import worker as loop
from consumers.contract import Checkpoint, Halted, Interrupted, Refusal
from consumers.lag import Lag, LagTracker
from consumers.ledger import page_outputs, read_entry
from consumers.records import Decision, Output, Record
from consumers.worker import Settings, Worker

SCHEDULES = 2_500
STEPS = 12
SEED = int(os.environ.get("SIMULATION_SEED", "20260"))
SHRINK = "SIMULATION_SHRINK" in os.environ  # takes minutes

PARTITIONS = [("raw.test", 0), ("raw.test", 1)]
EVENTS, LETTERS, SEEN, LEDGER = "verification.events", "dlq.test", "seen.test", "ledger.test"
SLOTS = [0, 1]
TINY = Settings(
    batch_records=4,
    poll_seconds=0.1,
    barrier_seconds=0.5,
    barrier_records=15,
    drain_seconds=0.6,
    max_poll_interval=1.0,
    decide_seconds=0.05,
)


class Violation(AssertionError):  # noqa: N818 - what is broken is a promise
    """A promise of the loop was broken."""


class Dice:
    """Choices that follow from a number; the first option is the benign one.

    Numbers differ in how often something else happens: never, now and then, often, always.
    """

    def __init__(self, number=0):
        self.throws = random.Random(number)
        self.misfortune = (0, 0.05, 0.2, 0.6, 1.0)[number % 5]

    def roll(self, *options):
        if self.throws.random() >= self.misfortune:
            return options[0]
        return options[self.throws.randrange(len(options))]


def decide(record):
    """Outputs by the words of the value: a number is an event of that id, d and x dead letters.

    x counts towards a stall. No words: the record is ignored.
    """
    outputs, ids = [], []
    words = record.value.decode().split()
    for index, word in enumerate(words):
        if word.isdigit():
            ids.append(f"{record.partition}:{word}".encode().rjust(16))
        outputs.append(
            Output(
                topic=EVENTS if word.isdigit() else LETTERS,
                key=f"{record.partition}/{record.offset}/{index}".encode(),
                value=record.value,
            )
        )
    failed = "x" in words
    return Decision(outputs=outputs, event_ids=ids, received_at=record.timestamp, failed=failed)


def stalled_soon(windows):
    """The rule of the stall with few records, which is enough for a simulation."""
    counts = [count for window in windows for count in window.recent().values()]
    records = sum(records for minutes in counts for _, records, _ in minutes)
    failures = sum(failures for minutes in counts for _, _, failures in minutes)
    return "other" if records >= 8 and failures * 2 >= records else None


def keep(partition, page, entries):
    """The books of an epoch; what was seen is left as an object."""
    number = partition[1]
    yield from page_outputs(page, LEDGER, number, 1, "at-least-once")
    if entries:
        yield Output(topic=SEEN, key=None, value=dict(entries), partition=number)


def source(output):
    """Partition, offset and index of the record an output stems from; books have no offset."""
    if output.topic in (SEEN, LEDGER):
        return ("raw.test", output.partition), -1, 0
    number, offset, index = map(int, output.key.split(b"/"))
    return ("raw.test", number), offset, index


class Cluster:
    """What survives every crash: logs, committed offsets, who owns what, the output log."""

    def __init__(self):
        self.now = 1_000.0
        self.logs = {partition: [] for partition in PARTITIONS}
        self.records = {}
        self.ends = dict.fromkeys(PARTITIONS, 0)
        self.committed = {}
        self.owner = dict.fromkeys(PARTITIONS)
        self.wanted = {}
        self.generation = 0
        self.stored = Counter()
        self.events = {}
        self.seen = {partition: [] for partition in PARTITIONS}
        self.ledger = {partition: [] for partition in PARTITIONS}
        self.disks = {slot: {} for slot in SLOTS}
        self.passports = {}
        self.deleted = set()
        self.log_start = dict.fromkeys(PARTITIONS, 0)
        self.dedup = False
        self.transactional = False
        self.calm = True
        """Nothing has happened yet that makes work be done again."""
        self.refused = set()
        self.latest = {}
        self.proven = dict.fromkeys(PARTITIONS, 0)
        self.stragglers = deque()
        self.violated = False

    def violation(self, sentence):
        self.violated = True
        raise Violation(sentence)

    def append(self, partition, value, gap):
        offset = self.ends[partition] + gap
        topic, number = partition
        record = Record(
            topic=topic,
            partition=number,
            offset=offset,
            timestamp=int(self.now * 1000),
            key=None,
            value=value,
            headers=[],
        )
        self.logs[partition].append(record)
        self.records[partition, offset] = record
        self.ends[partition] = offset + 1

    def fetch(self, partition, position, count):
        log = self.logs[partition]
        first = bisect.bisect_left(log, position, key=lambda record: record.offset)
        return log[first : first + count]

    def store(self, output):
        """Append to a log; the bytes must be right and first occurrences in order."""
        partition, offset, index = source(output)
        if output.topic == SEEN:
            self.seen[partition].append((self.now, output.value))
            return
        if output.topic == LEDGER:
            self.keep_page(partition, read_entry(output.value, partition[1]))
            return
        record = self.records[partition, offset]
        decision = decide(record)
        if output not in decision.outputs:
            self.violation(f"wrong bytes: {output}")
        # What was dropped for a record that retention took later on is written after all, late.
        late = output.key in self.refused or self.log_start[partition] > 0
        if output.topic == EVENTS and decision.event_ids[index] in self.events:
            late = True  # dropped once, and written when it was done again without memory
        if not self.stored[output.key] and not late:
            before = self.latest.get((partition, output.topic), (-1, -1))
            if (offset, index) < before:
                self.violation(f"{partition}: {offset} first stored after {before}")
            self.latest[partition, output.topic] = (offset, index)
        if output.topic == EVENTS:
            self.store_event(decision.event_ids[index], (partition, offset, index))
        elif self.stored[output.key] and (self.transactional or self.calm):
            self.violation(f"the dead letter {output.key} stands twice")
        self.stored[output.key] += 1

    def store_event(self, event_id, coordinates):
        """Take note of where an event stands; where it must stand once, demand that."""
        places = self.events.setdefault(event_id, [])
        if places and self.dedup and (self.transactional or self.calm):
            self.violation(f"{event_id} stands twice: {places[0]} and {coordinates}")
        places.append(coordinates)

    def keep_page(self, partition, page):
        """Pages of the ledger follow each other; only what is done again may be told again."""
        pages = self.ledger[partition]
        end = max((one.next_offset for one in pages), default=0)
        if page.first_offset > end:
            self.violation(f"the ledger of {partition} leaves out {end} to {page.first_offset}")
        if page.first_offset < end and (self.transactional or self.calm):
            self.violation(f"the ledger of {partition} tells of {page.first_offset} twice")
        records = sum(length for length, code in page.runs() if code != "-")
        if records > TINY.barrier_records + TINY.batch_records:
            self.violation(f"an epoch of {partition} grew to {records} records")
        pages.append(page)

    def prove(self, partition, next_offset):
        """Demand that all outputs of all records before `next_offset` are stored.

        An event may stand there by an earlier record, where dedup tells them. The ledger must
        tell of each of them.
        """
        log = self.logs[partition]
        at = self.proven[partition]
        while at < len(log) and log[at].offset < next_offset:
            gone = (partition, log[at].offset) in self.deleted
            if not gone and (missing := self.missing(log[at])):
                self.violation(f"{partition} committed at {next_offset} without {missing}")
            at += 1
        self.proven[partition] = max(at, self.proven[partition])
        pages = self.ledger[partition]
        if max((page.next_offset for page in pages), default=0) < next_offset:
            self.violation(f"{partition} committed at {next_offset}, further than its ledger")

    def missing(self, record):
        """Name an output of a record that is neither stored nor a duplicate of a stored one."""
        decision = decide(record)
        for index, output in enumerate(decision.outputs):
            if self.stored[output.key]:
                continue
            if not (self.dedup and index < len(decision.event_ids)):
                return output.key
            places = self.events.get(decision.event_ids[index], [])
            if not any(place[1] <= record.offset for place in places):
                return output.key
        return None

    def apply(self, member, checkpoints):
        for partition, checkpoint in checkpoints.items():
            if self.owner[partition] is not member:
                self.violation(f"committed {partition}, which it does not own")
            self.committed[partition] = checkpoint.next_offset
            self.passports[partition] = checkpoint.passport

    def delete_unread(self, partition, records):
        """Let retention take records nobody has committed, for good; give how many offsets are gone."""
        start = self.start_of(partition)
        if partition not in self.committed:
            return 0
        first = max(start, self.log_start[partition])
        gone = self.fetch(partition, first, records) if records else []
        self.deleted.update((partition, record.offset) for record in gone)
        if gone:
            self.log_start[partition] = gone[-1].offset + 1
        return max(0, self.log_start[partition] - start)

    def start_of(self, partition):
        return self.committed.get(partition, 0)

    def move(self, partition, target):
        """Have the coordinator want `target` to own a partition."""
        owner = self.owner[partition]
        if owner is target:
            return
        self.wanted[partition] = target
        if owner is None:
            self.settle(partition)
        elif ("revoke", partition) not in owner.news:
            owner.news.append(("revoke", partition))

    def settle(self, partition):
        """Give a partition nobody owns to whom it was meant for, in a new generation."""
        self.generation += 1
        target = self.wanted.pop(partition, None)
        self.owner[partition] = None
        if target is not None and target.reachable():
            self.owner[partition] = target
            target.news.append(("assign", partition))

    def expel(self, member):
        """Take a member's partitions; whether it knows is another matter."""
        member.joined = False
        for partition, owner in self.owner.items():
            if owner is member:
                self.settle(partition)
        for partition, target in list(self.wanted.items()):
            if target is member:
                del self.wanted[partition]


def next_offsets(checkpoints):
    """What the group hears of a commit but for the passports."""
    return {partition: asked.next_offset for partition, asked in checkpoints.items()}


class Outgoing:
    """An output in a producer's queue; stored ones only wait for their acknowledgement."""

    def __init__(self, output):
        self.output = output
        self.stored = False


class SimulatedKafka:
    """One incarnation's clients. What the dice decide is named at each roll."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.dice = Dice()
        self.listener = None
        self.joined = True
        self.local = {}
        self.paused = set()
        self.handled = {}
        self.news = deque()
        self.queues = {topic: deque() for topic in (EVENTS, LETTERS, SEEN, LEDGER)}
        self.refusal = None
        self.answers = deque()
        self.late = deque()

    def subscribe(self, listener):
        self.listener = listener

    def reachable(self):
        """A member, or a fenced one that joins again as soon as it has let go."""
        return self.joined or bool(self.news)

    def consume(self, limit, timeout):
        self.cluster.now += timeout
        self._apply_late()
        for _ in range(len(self.answers)):
            if self.dice.roll("answer", "answer", "not yet") == "not yet":
                break
            call, argument = self.answers.popleft()
            call(argument)
        stale = []
        while self.news:
            if self.dice.roll("tell", "tell", "not yet") == "not yet":
                break
            stale += self._tell(*self.news.popleft())
        records = stale
        for partition, position in self.local.items():
            if partition in self.paused or (stale and self.dice.throws.random() < 0.5):
                continue
            count = min(self.dice.roll(limit, 1, 0, 2), limit - len(records))
            fetched = self.cluster.fetch(partition, position, count)
            records += fetched
            if fetched:
                self.local[partition] = fetched[-1].offset + 1
        return records

    def _tell(self, event, partition):
        """Run one callback; give records of the partition that were already in the batch."""
        stale = []
        if event != "assign" and self.dice.roll("clean", "stale") == "stale":
            for gone in [partition] if partition else list(self.local):
                if gone in self.local:
                    stale += self.cluster.fetch(gone, self.local[gone], 2)
        if event == "assign":
            if self.cluster.owner[partition] is self:
                lost = self.cluster.delete_unread(partition, self.dice.roll(0, 0, 0, 0, 1, 3))
                start = self.cluster.start_of(partition) + lost
                self.local[partition] = self.handled[partition] = start
                self.paused.discard(partition)
                text = self.cluster.passports.get(partition, "")
                self.listener.assigned({partition: Checkpoint(start, text, lost)})
        elif event == "revoke":
            if partition in self.local:
                self.listener.revoked([partition])
                del self.local[partition]
            self._apply_late()  # the group waits for what was asked within the callback
            if self.cluster.owner[partition] is self:
                self.cluster.settle(partition)
        else:
            gone = list(self.local)
            self.local.clear()
            self.listener.lost(gone)
            self.joined = True
        self._check_queue()
        return stale

    def _check_queue(self):
        for queue in self.queues.values():
            for outgoing in queue:
                if source(outgoing.output)[0] not in self.local:
                    self.cluster.violation("a zombie goes on delivering")

    def _apply_late(self):
        while self.late:
            generation, checkpoints = self.late.popleft()
            if self.joined and generation == self.cluster.generation:
                self.cluster.apply(self, checkpoints)
                self.answers.append((self.listener.committed, next_offsets(checkpoints)))
            else:
                self.answers.append((self.listener.commit_failed, "membership"))

    def pause(self, partitions):
        if not set(partitions) <= set(self.local):
            self.cluster.violation("pauses what it does not own")
        self.paused.update(partitions)

    def resume(self, partitions):
        if not set(partitions) <= set(self.local):
            self.cluster.violation("resumes what it does not own")
        self.paused.difference_update(partitions)

    def produce(self, output):
        if self.dice.roll("room", "room", "room", "full") == "full":
            return False
        partition, offset, _ = source(output)
        if partition not in self.local:
            self.cluster.violation("produced for a partition it does not own")
        handled = self.handled[partition]
        if not self.cluster.dedup:
            skipped = self.cluster.fetch(partition, handled, 99)
            if any(decide(one).outputs for one in skipped if one.offset < offset):
                self.cluster.violation(f"{partition} jumped from {handled} to {offset}")
        self.handled[partition] = max(handled, offset + 1)
        self.queues[output.topic].append(Outgoing(output))
        return True

    def serve(self, timeout):
        fate = self.dice.roll(
            "acknowledge" if timeout else "nothing",
            "acknowledge",
            "store",
            "acknowledge one",
            "nothing",
            "time out",
            "time out, yet stored",
            "store",
            "refuse for good",
        )
        if fate == "nothing" or not self._waiting():
            self.cluster.now += timeout
            return
        for queue in self.queues.values():
            if not queue:
                continue
            if fate in ("acknowledge", "store"):
                for outgoing in queue:
                    self._store(outgoing)
            else:
                head = queue[0]
                if fate != "acknowledge one":
                    self.cluster.calm = False
                    self.cluster.refused.add(head.output.key)
                    permanent = fate == "refuse for good"
                    self.refusal = Refusal(fate, permanent)
                if fate in ("acknowledge one", "time out, yet stored"):
                    self._store(head)
                queue.popleft()
            if fate == "acknowledge":
                queue.clear()

    def _store(self, outgoing):
        if not outgoing.stored:
            outgoing.stored = True
            self.cluster.store(outgoing.output)

    def flush(self, timeout):
        if self._waiting():
            self.serve(timeout)
        return self._waiting()

    def _waiting(self):
        return sum(map(len, self.queues.values()))

    def refused(self):
        return self.refusal

    def commit(self, checkpoints):
        offsets = next_offsets(checkpoints)
        for partition, offset in offsets.items():
            if partition not in self.local:
                self.cluster.violation(f"commits {partition} after giving it up")
            self.cluster.prove(partition, offset)
        self._apply_late()
        committed, failed = self.listener.committed, self.listener.commit_failed
        if not self.joined:
            self.answers.append((failed, "membership"))
            return
        fate = self.dice.roll(
            "applied", "late", "not applied", "refused", "applied, unanswered", "unanswered"
        )
        self.cluster.calm = self.cluster.calm and fate == "applied"
        if fate.startswith("applied"):
            self.cluster.apply(self, checkpoints)
        if fate == "applied":
            self.answers.append((committed, offsets))
        elif fate == "late":
            self.late.append((self.cluster.generation, checkpoints))
        elif fate == "not applied":
            self.answers.append((failed, "unanswered"))
        elif fate == "refused":
            self.answers.append((failed, "membership"))

    def purge(self):
        """Forget the queue; what was in flight (a first part of it) may be stored even later."""
        self.cluster.calm = self.cluster.calm and not self._waiting()
        for queue in self.queues.values():
            in_flight = self.dice.roll(0, 1, 2)
            waiting = [outgoing.output for outgoing in queue if not outgoing.stored]
            self.cluster.stragglers.extend(waiting[:in_flight])
            queue.clear()
        self.refusal = None

    def close(self):
        if self._waiting():
            self.cluster.violation("closed with outputs that closing would flush")
        self.local.clear()
        self.news.clear()
        self.cluster.expel(self)

    def crash(self):
        for queue in self.queues.values():
            for outgoing in list(queue)[: self.dice.roll(0, 1, 2, 4)]:
                self._store(outgoing)
        self.local.clear()
        self.news.clear()
        self.cluster.expel(self)


class SimulatedTransactions(SimulatedKafka):
    """The transactional clients: outputs are seen when the transaction is committed, or never.

    What is in doubt (a commit without an answer) ends the incarnation: the next one's producer
    finds it committed or aborted.
    """

    def __init__(self, cluster):
        super().__init__(cluster)
        self.transaction = []

    def _store(self, outgoing):
        if not outgoing.stored:
            outgoing.stored = True
            self.transaction.append(outgoing.output)

    def commit(self, checkpoints):
        offsets = next_offsets(checkpoints)
        if self._waiting():
            self.cluster.violation("a commit with outputs that are not acknowledged")
        for output in self.transaction:
            partition, offset, _ = source(output)
            if offset >= offsets.get(partition, 0):
                self.cluster.violation(f"{partition}: {offset} is in a transaction before its own")
        fate = self.dice.roll("applied", "applied, unanswered", "aborted", "unanswered, aborted")
        if not self.joined or "aborted" in fate:
            raise Interrupted("the transaction must be aborted")
        for output in self.transaction:
            self.cluster.store(output)
        self.transaction = []
        for partition, offset in offsets.items():
            if partition not in self.local:
                self.cluster.violation(f"commits {partition} after giving it up")
            self.cluster.prove(partition, offset)
        self.cluster.apply(self, checkpoints)
        if fate == "applied, unanswered":
            raise Interrupted("nobody knows whether the transaction was committed")
        self.listener.committed(offsets)

    def purge(self):
        """Abort: nothing of it will ever be seen."""
        for queue in self.queues.values():
            queue.clear()
        self.transaction = []
        self.refusal = None

    def crash(self):
        """The coordinator aborts what was open."""
        self.purge()
        super().crash()


class SimulatedSeen:
    """What was seen, from the seen topic and a disk that outlives the process, or is lost."""

    def __init__(self, cluster, kafka, disk):
        self.cluster = cluster
        self.kafka = kafka
        self.disk = disk
        self.waiting = set()
        self.given = set()
        self.memory = {}

    def open(self, partition):
        if self.kafka.dice.roll("kept", "kept", "lost") == "lost":
            self.disk.pop(partition, None)
        entries, through = self.disk.get(partition, ({}, 0))
        self.memory[partition] = [dict(entries), through, False, False]
        self.waiting.add(partition)
        self.given.discard(partition)

    def behind(self):
        return bool(self.waiting)

    def catch_up(self, seconds):
        self.cluster.now += 0.01
        ready = []
        for partition in sorted(self.waiting):
            fate = self.kafka.dice.roll("all", "all", "not yet", "late", "broken")
            if fate == "broken":
                raise Interrupted("what was kept cannot be trusted")
            if fate == "late" and not self.cluster.transactional:
                self.cluster.calm = False
                self.memory[partition][3] = True
                if partition not in self.given:
                    self.given.add(partition)
                    ready.append(partition)
            if fate in ("not yet", "late"):
                continue
            entries, through, _, _ = self.memory[partition]
            for at, found in self.cluster.seen[partition]:
                if at >= through / 1000:
                    entries.update(found)
            self.memory[partition][2] = True
            self.waiting.discard(partition)
            if partition not in self.given:
                self.given.add(partition)
                ready.append(partition)
        return ready

    def knows(self, partition):
        return self.memory[partition][2]

    def find(self, partition, ids):
        if not self.knows(partition) and not self.memory[partition][3]:
            self.cluster.violation(f"{partition} is handled before it is known what was seen")
        entries = self.memory[partition][0]
        return {one: entries[one] for one in ids if one in entries}

    def remember(self, partition, entries, through):
        if self.kafka.dice.roll("kept", "kept", "kept", "full") == "full":
            raise Interrupted("the disk is full")
        known = self.memory[partition]
        known[0].update(entries)
        if known[2]:
            known[1] = through
            self.disk[partition] = (dict(known[0]), through)

    def forget(self, partition):
        self.memory.pop(partition, None)
        self.waiting.discard(partition)

    def close(self):
        self.memory.clear()
        self.waiting.clear()


DICE = st.integers(0, 2**20)


class Schedules(RuleBasedStateMachine):
    """Two places for a worker, two partitions, and everything that can happen to them."""

    worker_class = Worker
    kafka_class = SimulatedKafka
    dedup = False

    def __init__(self):
        super().__init__()
        self.cluster = Cluster()
        self.cluster.dedup = self.dedup
        self.cluster.transactional = self.kafka_class is SimulatedTransactions
        self.running = {}

    @rule(dice=DICE, happenings=st.integers(1, 100))
    def storm(self, dice, happenings):
        """Many things in a row: what they are follows from one number, which is fast."""
        dice = Dice(dice)
        what = [
            *[self._arrive] * 3,
            *[self._start] * 4,
            *[self._steps] * 8,
            self._drain,
            self._kill,
            *[self._fence] * 2,
            *[self._rebalance] * 4,
            self._interrupt,
            self._wait,
            self._straggle,
        ]
        for _ in range(happenings):
            dice.throws.choice(what)(dice)

    @rule(dice=DICE)
    def records_arrive(self, dice):
        self._arrive(Dice(dice))

    @rule(dice=DICE)
    def start(self, dice):
        self._start(Dice(dice))

    @rule(dice=DICE)
    def steps(self, dice):
        self._steps(Dice(dice))

    @rule(dice=DICE)
    def sigterm(self, dice):
        self._drain(Dice(dice))

    @rule(dice=DICE)
    def kill(self, dice):
        self._kill(Dice(dice))

    @rule(dice=DICE)
    def fence(self, dice):
        self._fence(Dice(dice))

    @rule(dice=DICE)
    def rebalance(self, dice):
        self._rebalance(Dice(dice))

    @rule(dice=DICE)
    def operator_interrupts(self, dice):
        self._interrupt(Dice(dice))

    @rule(dice=DICE)
    def time_passes(self, dice):
        self._wait(Dice(dice))

    @rule(dice=DICE)
    def straggler_arrives(self, dice):
        self._straggle(Dice(dice))

    # -- what can happen --

    def _arrive(self, dice):
        for partition in PARTITIONS:
            for _ in range(dice.throws.randrange(6)):
                value = dice.throws.choice([b"%d", b"%d %d", b"d", b"", b"%d d", b"x"])
                for _ in range(value.count(b"%d")):
                    value = value.replace(b"%d", b"%d" % dice.throws.randrange(40), 1)
                self.cluster.append(partition, value, gap=dice.roll(0, 0, 1))

    def _start(self, dice, settings=TINY):
        slot = dice.throws.choice(SLOTS)
        if slot in self.running:
            return
        kafka = self.kafka_class(self.cluster)
        kafka.dice = dice
        lag = LagTracker()
        seen = SimulatedSeen(self.cluster, kafka, self.cluster.disks[slot]) if self.dedup else None

        def dearly(record):
            self.cluster.now += kafka.dice.roll(0, 0, 0.02, 0.1)
            return decide(record)

        worker = self.worker_class(
            kafka, dearly, settings, lambda: self.cluster.now, lag, keep=keep, seen=seen,
            forgiving=dice.roll(False, True),
        )  # fmt: skip
        self.running[slot] = worker, kafka, lag
        for partition, owner in self.cluster.owner.items():
            if owner is None:
                self.cluster.move(partition, kafka)

    def _pick(self, dice):
        return dice.throws.choice(sorted(self.running)) if self.running else None

    def _steps(self, dice):
        for _ in range(dice.throws.randrange(1, 5)):
            self._step(self._pick(dice), dice)

    def _step(self, slot, dice):
        if slot is None:
            return
        worker, kafka, _ = self.running[slot]
        kafka.dice = dice
        try:
            worker.step()
        except (Interrupted, Halted):
            self.cluster.calm = False
            worker.abandon()
            del self.running[slot]

    def _drain(self, dice):
        slot = self._pick(dice)
        if slot is None:
            return
        worker, kafka, _ = self.running.pop(slot)
        kafka.dice = dice
        try:
            finished = worker.drain()
        except Halted:
            self.cluster.calm = False
            return
        self.cluster.calm = self.cluster.calm and finished
        for partition, reading in worker._owned.items():
            if finished and self.cluster.start_of(partition) < reading.position:
                self.cluster.violation(f"{partition} reported as finished, but is not committed")

    def _kill(self, dice):
        slot = self._pick(dice)
        if slot is not None:
            _, kafka, _ = self.running.pop(slot)
            kafka.dice = dice
            self.cluster.calm = False
            kafka.crash()

    def _fence(self, dice):
        slot = self._pick(dice)
        if slot is None or not self.running[slot][1].joined:
            return
        kafka = self.running[slot][1]
        self.cluster.calm = False
        kafka.news.clear()
        kafka.news.append(("lost", None))
        self.cluster.expel(kafka)
        if dice.throws.random() < 0.5:  # it joins again before it knows
            for partition in list(kafka.local):
                self.cluster.move(partition, kafka)

    def _rebalance(self, dice):
        partition = dice.throws.choice(PARTITIONS)
        others = [
            kafka
            for _, kafka, _ in self.running.values()
            if kafka.reachable() and kafka is not self.cluster.owner[partition]
        ]
        if others:
            self.cluster.move(partition, dice.throws.choice(others))

    def _interrupt(self, dice):
        slot = self._pick(dice)
        if slot is not None:
            self.cluster.calm = False
            self.running[slot][0].interrupt("by an operator")

    def _wait(self, dice):
        self.cluster.now += dice.throws.choice([0.1, 0.5, 3.0])

    def _straggle(self, _dice):
        if self.cluster.stragglers:
            self.cluster.store(self.cluster.stragglers.popleft())

    def teardown(self):
        """Let the weather turn fair: everything must then be stored and committed."""
        if self.cluster.violated:
            return
        fair, patient = Dice(), structs.replace(TINY, stall=False)
        ends = {p: log[-1].offset + 1 for p, log in self.cluster.logs.items() if log}
        for _ in range(100 + len(self.cluster.records)):
            for slot, (worker, _, _) in list(self.running.items()):
                if worker._stalled:
                    worker.interrupt("the mapping is mended")
                self._step(slot, fair)
            if not self.running:
                self._start(fair, patient)
            for partition, owner in self.cluster.owner.items():
                if owner is None:
                    self.cluster.move(partition, self.running[self._pick(fair)][1])
            answered = not any(worker._unanswered for worker, _, _ in self.running.values())
            if answered and all(self.cluster.start_of(p) == end for p, end in ends.items()):
                break
        else:
            self.cluster.violation("never caught up in fair weather")
        while self.cluster.stragglers:
            self._straggle(fair)
        for log in self.cluster.logs.values():
            for record in log:
                gone = ((record.topic, record.partition), record.offset) in self.cluster.deleted
                if not gone and (missing := self.cluster.missing(record)):
                    self.cluster.violation(f"{missing} was never stored")
        for slot in list(self.running):
            self._step(slot, fair)
        for slot in list(self.running):
            _, kafka, lag = self.running[slot]
            lag.observed(ends, self.cluster.now)
            read = lag.read(self.cluster.now)
            if set(read) != set(kafka.local):
                self.cluster.violation("lag told of partitions that are not owned")
            if any(read[p] != Lag(0, 0.0) for p in read if p in ends):
                self.cluster.violation("caught up, but the lag is not 0")
        while self.running:
            self._drain(fair)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """A stall needs few records here."""
    monkeypatch.setattr(loop, "stalled", stalled_soon)


def explore(machine, schedules=SCHEDULES):
    """Run schedules until one breaks a promise."""
    phases = [Phase.generate, Phase.shrink] if SHRINK else [Phase.generate]
    try:
        run_state_machine_as_test(
            seed(SEED)(machine),
            settings=settings(
                max_examples=schedules,
                stateful_step_count=STEPS,
                phases=phases,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=False,
            ),
        )
    except Violation as broken:
        broken.add_note(f"again: SIMULATION_SEED={SEED}; smaller: SIMULATION_SHRINK=1 as well")
        raise


class WithDedup(Schedules):
    """At least once, and duplicates are told as long as nothing is done again."""

    dedup = True


class InTransactions(Schedules):
    """Exactly once, whatever happens."""

    dedup = True
    kafka_class = SimulatedTransactions


@pytest.mark.parametrize("machine", [Schedules, WithDedup, InTransactions])
def test_no_schedule_loses_reorders_doubles_or_commits_too_early(machine):
    """Whatever happens, no offset is committed before its outputs are stored, nothing is lost.

    With dedup an event stands once as long as nothing is done again; in transactions always.
    """
    explore(machine)


# -- the same loop with one rule taken out --


class CommitsBeforeItIsStored(Worker):
    def _press(self, epoch, wait, deadline):
        self._conclude(epoch)


class WritesTheBooksBeforeTheEvents(Worker):
    way = WithDedup

    def _seal(self):
        super()._seal()
        for output in self._sealed.books:
            self._produce(output, self._clock() + 1)
        self._sealed.books = []


class IgnoresRefusals(Worker):
    def _stop_if_refused(self):
        pass


class CommitsWhenLost(Worker):
    def lost(self, partitions):
        self._commit(self._unfinished(partitions))
        super().lost(partitions)


class SkipsWhenTheQueueIsFull(Worker):
    def _produce(self, output, deadline):
        self._kafka.produce(output)


class NeverPurges(Worker):
    def _purge(self):
        pass


class KeepsRevokedPartitions(Worker):
    def _give_up(self, partitions):
        pass


class CommitsAfterABarrierThatFailed(Worker):
    def _forsake(self, partitions):
        self._commit(self._unfinished(partitions))
        super()._forsake(partitions)


class CommitsTheLastRecordInsteadOfTheNext(Worker):
    def _commit(self, partitions):
        for partition in partitions:
            self._owned[partition].sealed -= 1
        super()._commit(partitions)
        for partition in partitions:
            self._owned[partition].sealed += 1


class BelievesACommitWithoutAnAnswer(Worker):
    def _commit(self, partitions):
        super()._commit(partitions)
        for partition in partitions:
            self._owned[partition].committed = self._owned[partition].sealed
        self._unanswered = 0


class TakesWhateverComes(Worker):
    def _check_start(self, partition, offset, position):
        pass


class WaitsForAnAnswerForever(Worker):
    def _consume(self):
        self._answer_due = None
        return super()._consume()


class DoesNotHoldBack(Worker):
    way = InTransactions

    def _put_out(self, output, deadline):
        self._produce(output, deadline)


class SealsWithoutTheHeld(Worker):
    def _conclude(self, epoch):
        self._held.clear()
        super()._conclude(epoch)


class CommitsTheOpenEpochToo(Worker):
    way = InTransactions

    def _conclude(self, epoch):
        for reading in self._owned.values():
            reading.sealed = reading.position
        super()._conclude(epoch)


class ForgetsWhatIsOnItsWay(Worker):
    way = InTransactions

    def _first(self, event_id, here, reading, before, decision):
        reading.fresh.clear()
        return super()._first(event_id, here, reading, before, decision)


class DoesNotLookIntoTheMemory(Worker):
    way = InTransactions

    def _look_up(self, decided):
        return {}


class HandlesBeforeItKnows(Worker):
    way = InTransactions

    def assigned(self, starts):
        super().assigned(starts)
        self._kafka.resume(list(starts))


class WritesNoSeen(Worker):
    way = InTransactions

    def _seal(self):
        for sheet in self._open.sheets.values():
            sheet.entries.clear()
        super()._seal()


class RemembersBeforeItIsCommitted(Worker):
    way = InTransactions

    def _remember(self):
        for partition, reading in self._owned.items():
            if self._seen is not None and reading.fresh:
                self._seen.remember(partition, dict(reading.fresh), reading.last_timestamp)
        super()._remember()


class LosesTheGap(Worker):
    def assigned(self, starts):
        super().assigned({one: start._replace(lost=0) for one, start in starts.items()})


class LetsAnEpochGrow(Worker):
    def _has_room(self):
        return True


class DropsTheRestOfACutBatch(Worker):
    def _take(self):
        super()._take()
        self._backlog.clear()


class LeavesOutALedgerPage(Worker):
    def _seal(self):
        keep, self._keep = self._keep, lambda *books: list(keep(*books))[1:]
        super()._seal()
        self._keep = keep


@pytest.mark.parametrize("broken", Worker.__subclasses__(), ids=lambda broken: broken.__name__)
def test_the_simulation_finds_each_rule_that_is_broken(broken):
    """A loop with one rule taken out is found out: the simulation can fail."""
    way = getattr(broken, "way", Schedules)
    machine = type(broken.__name__, (way,), {"worker_class": broken})
    with pytest.raises(Violation):
        explore(machine, schedules=4 * SCHEDULES)
