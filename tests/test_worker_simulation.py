"""The loop against a simulated Kafka that crashes, fences, delays, refuses and times out.

Every rule of the machine carries a number, from which the dice are thrown that decide what Kafka
does during the calls of that step; 0 throws nothing but the benign choice, so that a failing
schedule shrinks to the misfortunes it needs. Deterministic: SIMULATION_SEED=N picks other
schedules, and a failure names it.
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

from consumers.lag import Lag, LagTracker
from consumers.records import Output, Record
from consumers.worker import Halted, Interrupted, Refusal, Settings, Worker

SCHEDULES = 2_500
STEPS = 12
SEED = int(os.environ.get("SIMULATION_SEED", "20260"))
SHRINK = "SIMULATION_SHRINK" in os.environ  # takes minutes

PARTITIONS = [("raw.test", 0), ("raw.test", 1)]
TOPICS = {"e": "verification.events", "d": "dlq.test"}
SLOTS = [0, 1]
TINY = Settings(
    batch_records=4,
    poll_seconds=0.1,
    barrier_seconds=0.5,
    barrier_records=15,
    drain_seconds=0.6,
    max_poll_interval=1.0,
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
    """One output per letter of the value: e is an event, d a dead letter; none is ignored."""
    return [
        Output(
            topic=TOPICS[letter],
            key=f"{record.partition}/{record.offset}/{index}".encode(),
            value=record.value,
        )
        for index, letter in enumerate(record.value.decode())
    ]


def source(output):
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
        """Append to the output log; the bytes must be right and first occurrences in order."""
        partition, offset, index = source(output)
        record = self.records[partition, offset]
        if output not in decide(record):
            self.violation(f"wrong bytes: {output}")
        if not self.stored[output.key] and output.key not in self.refused:
            before = self.latest.get((partition, output.topic), (-1, -1))
            if (offset, index) < before:
                self.violation(f"{partition}: {offset} first stored after {before}")
            self.latest[partition, output.topic] = (offset, index)
        self.stored[output.key] += 1

    def prove(self, partition, next_offset):
        """Demand that all outputs of all records before `next_offset` are stored."""
        log = self.logs[partition]
        at = self.proven[partition]
        while at < len(log) and log[at].offset < next_offset:
            for output in decide(log[at]):
                if not self.stored[output.key]:
                    self.violation(f"{partition} committed at {next_offset} without {output.key}")
            at += 1
        self.proven[partition] = at

    def apply(self, member, offsets):
        for partition, offset in offsets.items():
            if self.owner[partition] is not member:
                self.violation(f"committed {partition}, which it does not own")
            self.committed[partition] = offset

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
        self.handled = {}
        self.news = deque()
        self.queues = {topic: deque() for topic in TOPICS.values()}
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
            if stale and self.dice.throws.random() < 0.5:
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
                start = self.cluster.start_of(partition)
                self.local[partition] = self.handled[partition] = start
                self.listener.assigned({partition: start})
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
            generation, offsets = self.late.popleft()
            if self.joined and generation == self.cluster.generation:
                self.cluster.apply(self, offsets)
                self.answers.append((self.listener.committed, offsets))
            else:
                self.answers.append((self.listener.commit_failed, "membership"))

    def produce(self, output):
        if self.dice.roll("room", "room", "room", "full") == "full":
            return False
        partition, offset, _ = source(output)
        if partition not in self.local:
            self.cluster.violation("produced for a partition it does not own")
        handled = self.handled[partition]
        if any(decide(r) for r in self.cluster.fetch(partition, handled, 99) if r.offset < offset):
            self.cluster.violation(f"{partition} jumped from {handled} to {offset}")
        self.handled[partition] = offset + 1
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
        offsets = {partition: asked.next_offset for partition, asked in checkpoints.items()}
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
        if fate.startswith("applied"):
            self.cluster.apply(self, offsets)
        if fate == "applied":
            self.answers.append((committed, offsets))
        elif fate == "late":
            self.late.append((self.cluster.generation, offsets))
        elif fate == "not applied":
            self.answers.append((failed, "unanswered"))
        elif fate == "refused":
            self.answers.append((failed, "membership"))

    def purge(self):
        """Forget the queue; what was in flight (a first part of it) may be stored even later."""
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


DICE = st.integers(0, 2**20)


class Schedules(RuleBasedStateMachine):
    """Two places for a worker, two partitions, and everything that can happen to them."""

    worker_class = Worker

    def __init__(self):
        super().__init__()
        self.cluster = Cluster()
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
    def time_passes(self, dice):
        self._wait(Dice(dice))

    @rule(dice=DICE)
    def straggler_arrives(self, dice):
        self._straggle(Dice(dice))

    # -- what can happen --

    def _arrive(self, dice):
        for partition in PARTITIONS:
            for _ in range(dice.throws.randrange(6)):
                value = dice.throws.choice([b"e", b"ee", b"d", b"", b"ed"])
                self.cluster.append(partition, value, gap=dice.roll(0, 0, 1))

    def _start(self, dice):
        slot = dice.throws.choice(SLOTS)
        if slot in self.running:
            return
        kafka = SimulatedKafka(self.cluster)
        lag = LagTracker()
        worker = self.worker_class(kafka, decide, TINY, lambda: self.cluster.now, lag)
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
            return
        for partition, reading in worker._owned.items():
            if finished and self.cluster.start_of(partition) < reading.position:
                self.cluster.violation(f"{partition} reported as finished, but is not committed")

    def _kill(self, dice):
        slot = self._pick(dice)
        if slot is not None:
            _, kafka, _ = self.running.pop(slot)
            kafka.dice = dice
            kafka.crash()

    def _fence(self, dice):
        slot = self._pick(dice)
        if slot is None or not self.running[slot][1].joined:
            return
        kafka = self.running[slot][1]
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

    def _wait(self, dice):
        self.cluster.now += dice.throws.choice([0.1, 0.5, 3.0])

    def _straggle(self, _dice):
        if self.cluster.stragglers:
            self.cluster.store(self.cluster.stragglers.popleft())

    def teardown(self):
        """Let the weather turn fair: everything must then be stored and committed."""
        if self.cluster.violated:
            return
        fair = Dice()
        ends = {p: log[-1].offset + 1 for p, log in self.cluster.logs.items() if log}
        for _ in range(100 + len(self.cluster.records)):
            for slot in list(self.running):
                self._step(slot, fair)
            if not self.running:
                self._start(fair)
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
                for output in decide(record):
                    if not self.cluster.stored[output.key]:
                        self.cluster.violation(f"{output.key} was never stored")
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


def test_no_schedule_loses_reorders_or_commits_too_early():
    """Whatever happens, no offset is committed before its outputs are stored, nothing is lost."""
    explore(Schedules)


# -- the same loop with one rule taken out --


class CommitsBeforeItIsStored(Worker):
    def _settled(self, deadline):
        return True


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


class GoesOnAfterAPurge(Worker):
    def _purge(self):
        self._kafka.purge()


class CommitsAfterABarrierThatFailed(Worker):
    def _forsake(self, partitions):
        self._commit(self._unfinished(partitions))
        super()._forsake(partitions)


class CommitsTheLastRecordInsteadOfTheNext(Worker):
    def _commit(self, partitions):
        for partition in partitions:
            self._owned[partition].position -= 1
        super()._commit(partitions)


class BelievesACommitWithoutAnAnswer(Worker):
    def _commit(self, partitions):
        super()._commit(partitions)
        for partition in partitions:
            self._owned[partition].committed = self._owned[partition].position
        self._unanswered = 0


class TakesWhateverComes(Worker):
    def _check_start(self, partition, offset, position):
        pass


class WaitsForAnAnswerForever(Worker):
    def _consume(self):
        self._answer_due = self._clock() + 1
        return super()._consume()


class CommitsWhileDecidingStill(Worker):
    def _take(self, records):
        for record in records:
            if reading := self._owned.get((record.topic, record.partition)):
                reading.position = record.offset + 1
        self._barrier(0.1)
        super()._take([])
        for record in records:
            for output in self._decide(record):
                self._produce(output, self._clock())


@pytest.mark.parametrize("broken", Worker.__subclasses__(), ids=lambda broken: broken.__name__)
def test_the_simulation_finds_each_rule_that_is_broken(broken):
    """A loop with one rule taken out is found out: the simulation can fail."""
    machine = type(broken.__name__, (Schedules,), {"worker_class": broken})
    with pytest.raises(Violation):
        explore(machine, schedules=4 * SCHEDULES)
