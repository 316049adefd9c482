"""The look from outside: Kafka is asked how far groups are, with no consumer alive.

Everything comes from the broker: committed offsets and their passports, where the logs begin and
end, who is in the groups, and one record for each partition that is behind, for its time.
"""

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import msgspec
from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
)
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from consumers import passport
from consumers.broker import CLOSE_SECONDS, close_within
from consumers.committed import Committed
from consumers.contract import Halted
from consumers.first_records import FirstRecords, Question
from consumers.offsets import Checkpoint, GroupLag, Waiting, position
from consumers.progress import passed, replay_group
from consumers.records import Partition
from gateway.delivery import dead_topic, group_id, raw_topic
from gateway.process import ConfigurationError
from gateway.ranges import (
    answered,
    log_offsets,
    partitions_of,
    silence,
)

LOOK_SECONDS = 30.0
"""How long a look may take where a person waits for it."""
_TOPICS_SECONDS = 10.0
_OFFSETS_SHARE = 8
"""The part of a look's time (one of so many) in which logs may go without an answer."""
_LEAST_SECONDS = 0.5
_RETENTION_SECONDS = 60.0
_ASKED_AT_ONCE = 32


class Group(msgspec.Struct, frozen=True):
    """A group to look at; without topics, at whatever it committed on.

    `provider` is empty where it is somebody else's.
    """

    name: str
    provider: str = ""
    topics: tuple[str, ...] = ()


def ours(provider: str, prefix: str) -> Group:
    """Give the group that normalizes a provider."""
    return Group(group_id(provider, prefix), provider, (raw_topic(provider, prefix),))


def no_raw_topic(prefix: str) -> str:
    """Say in one sentence that no provider has a raw topic."""
    return (
        f"there is no topic {raw_topic('<provider>', prefix)} that this client may see; is "
        "TOPIC_PREFIX right? (`make run` uses demo.)"
    )


def present(
    topics: Mapping[str, Sequence[int]], providers: Iterable[str], prefix: str
) -> list[Group]:
    """Give the groups of the providers that have a raw topic."""
    return [ours(one, prefix) for one in sorted(providers) if raw_topic(one, prefix) in topics]


class Place(msgspec.Struct, frozen=True):
    """One partition as a look found it; what was not answered is None."""

    partition: int
    committed: Checkpoint | None
    first: int | None
    end: int | None
    waiting: Waiting


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A group on one topic, as a look found it."""

    provider: str
    topic: str
    group: str
    state: str
    members: int | None
    places: tuple[Place, ...]

    def lag(self, now: float) -> GroupLag:
        """Give its lag at `now`, in seconds since the epoch."""
        return GroupLag(
            provider=self.provider,
            topic=self.topic,
            group=self.group,
            state=self.state,
            members=self.members,
            positions=tuple(
                position(one.partition, one.committed, one.first, one.end, one.waiting, now)
                for one in self.places
            ),
        )


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look found; of a group in `silent` it is not known what was committed.

    `members` are those of every group that was asked about; `letters` the dead letters, of which
    what a replay passed is committed; `retention` in seconds, of topics that have one. `unended`
    are partitions whose log did not say where it begins and ends. `troubles` are Halted or
    RangeUnread, one for each group or partition of which something else is not known.
    """

    groups: tuple[Group, ...]
    members: Mapping[str, tuple[str, int | None]]
    standings: tuple[Standing, ...]
    letters: tuple[Standing, ...]
    retention: Mapping[str, float]
    silent: frozenset[str]
    unended: tuple[Partition, ...]
    troubles: tuple[Exception, ...]


class Outside:
    """Looks at groups, again and again, with clients that stay connected; one thread at a time."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._heard: deque[KafkaError] = deque(maxlen=50)
        settings: dict[str, Any] = {"log_level": "0", **config, "error_cb": self._heard.append}
        self._admin = AdminClient(settings)
        self._committed: dict[Group, Committed] = {}
        self._records = FirstRecords(config)
        self._retention: dict[str, float] = {}
        self._retention_of: frozenset[str] = frozenset()
        self._retention_asked = 0.0

    @property
    def reads(self) -> int:
        """How many partitions were read, all looks together."""
        return self._records.reads

    def close(self) -> None:
        """Let the clients go, within CLOSE_SECONDS."""
        close_within(
            CLOSE_SECONDS, self._records.close, *(one.close for one in self._committed.values())
        )

    def topics(self, seconds: float = _TOPICS_SECONDS) -> dict[str, list[int]]:
        """List the topics that this client may see, with their partitions.

        Raises ConfigurationError, with the reason, if the cluster does not answer.
        """
        self._heard.clear()
        try:
            known = self._admin.list_topics(timeout=seconds).topics
        except KafkaException as error:
            self._admin.poll(0)  # what the client complained of is told here
            raise ConfigurationError(silence(self._config, list(self._heard))) from error
        return {
            name: sorted(topic.partitions)
            for name, topic in known.items()
            if topic.error is None and topic.partitions and not name.startswith("__")
        }

    def partitions_of(self, topic: str) -> list[int]:
        """List a topic's partitions. Raises ConfigurationError that says why it cannot."""
        return partitions_of(self._admin, self._config, topic)

    def look(
        self,
        groups: Sequence[Group],
        topics: Mapping[str, Sequence[int]],
        *,
        prefix: str = "",
        letters: bool = False,
        seconds: float = LOOK_SECONDS,
    ) -> Look:
        """Look at groups, on topics as `topics()` gave them; with `letters`, at dead ones too.

        It takes `seconds` at most. What is not answered is None in it, and its trouble is told.
        """
        end = time.monotonic() + seconds

        def left() -> float:
            return max(_LEAST_SECONDS, end - time.monotonic())

        troubles: list[Exception] = []
        dead = [
            Group(replay_group(one.provider, prefix), one.provider, (topic,))
            for one in groups
            if letters and one.provider and (topic := dead_topic(one.provider, prefix)) in topics
        ]
        # The committed offsets first: the ends asked for later cannot lie before them.
        committed = self._ask_committed([*groups, *dead], topics, left(), troubles)
        read = {
            one: topics_of(one, committed[one], topics)
            for one in [*groups, *dead]
            if one in committed
        }
        partitions = [
            (topic, number)
            for topic in dict.fromkeys(topic for names in read.values() for topic in names)
            for number in topics[topic]
        ]
        patience = left() / _OFFSETS_SHARE
        first = answered(self._admin, partitions, OffsetSpec.earliest(), patience)  # type: ignore[no-untyped-call] # a classmethod without annotations
        ends = answered(self._admin, partitions, OffsetSpec.latest(), patience)  # type: ignore[no-untyped-call] # a classmethod without annotations
        for one in dead:
            # Where the log no longer has what was passed, all that it has waits.
            committed[one] = {
                at: (offset, "")
                for at, offset in passed(committed.get(one, {})).items()
                if first.get(at, offset) <= offset <= ends.get(at, offset)
            }
        members = self._members([one.name for one in groups], left())
        places = {
            (one, topic): [
                _place((topic, number), committed[one], first, ends) for number in topics[topic]
            ]
            for one, names in read.items()
            for topic in names
        }
        self._ends_that_are_not_stable(places, left())
        found = self._records.look(_to_read(places), left(), troubles)
        standings = {
            (one, topic): Standing(
                provider=one.provider,
                topic=topic,
                group=one.name,
                state=members.get(one.name, ("unknown", None))[0],
                members=members.get(one.name, ("unknown", None))[1],
                places=tuple(
                    msgspec.structs.replace(
                        place, waiting=found.get((one, topic, place.partition), place.waiting)
                    )
                    for place in of_topic
                ),
            )
            for (one, topic), of_topic in places.items()
        }
        kept = {topic for one in [*groups, *dead] if one.provider for topic in one.topics}
        return Look(
            groups=tuple(groups),
            members=members,
            standings=tuple(one for key, one in standings.items() if key[0] not in dead),
            letters=tuple(one for key, one in standings.items() if key[0] in dead),
            retention=self._kept(frozenset(kept & topics.keys()), left()) if letters else {},
            silent=frozenset(one.name for one in groups if one not in committed),
            unended=tuple(one for one in partitions if one not in first or one not in ends),
            troubles=tuple(troubles),
        )

    def _ask_committed(
        self,
        groups: Sequence[Group],
        topics: Mapping[str, Sequence[int]],
        seconds: float,
        troubles: list[Exception],
    ) -> dict[Group, dict[Partition, tuple[int, str]]]:
        """Ask what groups committed, side by side: one without a coordinator delays no other."""
        for one in groups:
            if one not in self._committed:
                self._committed[one] = Committed(self._config, one.name)

        def ask(group: Group) -> dict[Partition, tuple[int, str]] | Halted:
            names = [topic for topic in group.topics or topics if topic in topics]
            asked = [(topic, number) for topic in names for number in topics[topic]]
            try:
                return self._committed[group].read_partitions(asked, seconds / 2)
            except Halted as end:
                return end

        found: dict[Group, dict[Partition, tuple[int, str]]] = {}
        with ThreadPoolExecutor(_ASKED_AT_ONCE, "committed") as asking:
            for group, answer in zip(groups, asking.map(ask, groups), strict=True):
                if isinstance(answer, Halted):
                    troubles.append(answer)
                else:
                    found[group] = answer
        return found

    def _ends_that_are_not_stable(
        self, places: Mapping[tuple[Group, str], list[Place]], seconds: float
    ) -> None:
        """Forget the end where a group reads on into an open transaction.

        It is not beyond the log, and how much waits after it nobody may read yet.
        """
        ahead = {
            (topic, place.partition)
            for (_, topic), of_topic in places.items()
            for place in of_topic
            if place.committed and place.end is not None and place.committed.next_offset > place.end
        }
        last = log_offsets(
            self._admin,
            sorted(ahead),
            OffsetSpec.latest(),  # type: ignore[no-untyped-call] # a classmethod without annotations
            seconds,
            isolation=IsolationLevel.READ_UNCOMMITTED,
        )
        for (_, topic), of_topic in places.items():
            for index, place in enumerate(of_topic):
                at = place.committed.next_offset if place.committed else 0
                if place.end is not None and place.end < at <= last.get(
                    (topic, place.partition), 0
                ):
                    of_topic[index] = msgspec.structs.replace(place, end=None)

    def _members(self, groups: Sequence[str], seconds: float) -> dict[str, tuple[str, int | None]]:
        """Give each group's state and how many members are alive; None where nobody says."""
        found: dict[str, tuple[str, int | None]] = {}
        if not groups:
            return found
        answers = self._admin.describe_consumer_groups(list(groups), request_timeout=seconds)
        for group, answer in answers.items():
            try:
                told = answer.result(seconds + 1.0)
            except (KafkaException, TimeoutError):
                found[group] = ("unknown", None)
            else:
                found[group] = (told.state.name.lower(), len(told.members))
        return found

    def _kept(self, topics: frozenset[str], seconds: float) -> Mapping[str, float]:
        """Give how long topics are kept, asked seldom; what is kept for ever is left out."""
        now = time.monotonic()
        if not topics or (
            topics == self._retention_of and now - self._retention_asked < _RETENTION_SECONDS
        ):
            return self._retention
        resources = [ConfigResource(ResourceType.TOPIC, one) for one in sorted(topics)]
        kept: dict[str, float] = {}
        for resource, answer in self._admin.describe_configs(
            resources, request_timeout=seconds
        ).items():
            try:
                told = answer.result(seconds + 1.0)
            except (KafkaException, TimeoutError):
                continue
            milliseconds = int(told["retention.ms"].value)
            if milliseconds >= 0 and "delete" in told["cleanup.policy"].value:
                kept[resource.name] = milliseconds / 1000
        self._retention, self._retention_of, self._retention_asked = kept, topics, now
        return kept


def _place(
    partition: Partition,
    committed: Mapping[Partition, tuple[int, str]],
    first: Mapping[Partition, int],
    ends: Mapping[Partition, int],
) -> Place:
    checkpoint = None
    if partition in committed:
        offset, text = committed[partition]
        checkpoint = Checkpoint(offset, passport.read(text))
    return Place(partition[1], checkpoint, first.get(partition), ends.get(partition), None)


def topics_of(
    group: Group, committed: Iterable[Partition], topics: Mapping[str, Sequence[int]]
) -> list[str]:
    """Give the topics a group is looked at on: its own, or those on which it committed."""
    return [
        one for one in group.topics or sorted({topic for topic, _ in committed}) if one in topics
    ]


def _to_read(places: Mapping[tuple[Group, str], Sequence[Place]]) -> list[Question]:
    """Give what is behind."""
    found = []
    for (group, topic), of_topic in places.items():
        for place in of_topic:
            if place.first is None or place.end is None:
                continue
            at = place.first
            if place.committed is not None:
                at = max(at, place.committed.next_offset)
            if at < place.end:
                found.append(Question(group, (topic, place.partition), at, place.end))
    return found


class View:
    """What a person looks at, once or again and again: some providers, some groups.

    Without providers it is those of `every` that have a raw topic at that moment.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        prefix: str,
        *,
        providers: Sequence[str] = (),
        every: Iterable[str] = (),
        groups: Sequence[str] = (),
    ) -> None:
        self._prefix = prefix
        self._providers = providers
        self._every = every
        self._groups = groups
        self._outside = Outside(config)

    def close(self) -> None:
        """Let the clients go."""
        self._outside.close()

    def look(self, now: float) -> list[GroupLag]:
        """Give the lags at `now`, in seconds since the epoch.

        Raises ConfigurationError if the cluster does not answer or has no such topic, Halted if
        it does not say what was committed, RangeUnread if a record that waits cannot be read.
        """
        topics = self._outside.topics()
        groups = [ours(one, self._prefix) for one in self._providers]
        for topic in {topic for one in groups for topic in one.topics} - topics.keys():
            self._outside.partitions_of(topic)  # which says why it is not there
        if not groups:
            groups = present(topics, self._every, self._prefix)
            if self._every and not groups:
                raise ConfigurationError(no_raw_topic(self._prefix))
        known = {one.name for one in groups}
        groups += [Group(one) for one in dict.fromkeys(self._groups) if one not in known]
        return told(self._outside.look(groups, topics), now)


def lag(config: Mapping[str, Any], provider: str, prefix: str, now: float) -> GroupLag:
    """Look up a provider's lag at `now`, once; raises as `View.look` does."""
    with closing(View(config, prefix, providers=[provider])) as view:
        return view.look(now)[0]


def told(found: Look, now: float) -> list[GroupLag]:
    """Give the lags at `now`, in the order of the groups, for a person who asks once.

    A group that committed nowhere is told without a topic. Raises the first trouble: what is not
    known of one partition is no answer.
    """
    for trouble in found.troubles:
        raise trouble
    lags = []
    for group in found.groups:
        standings = [one.lag(now) for one in found.standings if one.group == group.name]
        state, members = found.members.get(group.name, ("unknown", None))
        lags += standings or [
            GroupLag(
                provider=group.provider,
                topic="",
                group=group.name,
                state=state,
                members=members,
                positions=(),
            )
        ]
    return lags
