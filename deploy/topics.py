"""The topics as code: what they should be, how a cluster differs, and how to make it fit."""

import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from consumers.normalizers import BUILT_IN, EVERY
from consumers.settings import SPARE_DAYS, dedup_days
from deploy.child import CannotRun
from gateway.delivery import (
    CANARY,
    dead_topic,
    ledger_topic,
    output_topic,
    raw_topic,
    seen_topic,
)
from gateway.process import ConfigurationError
from gateway.ranges import silence

TOPICS_FILE = Path(__file__).resolve().parent / "topics.toml"

KINDS = ("raw", "dlq", "seen", "ledger", "events")
WHAT_GROWING_COSTS = (
    "partitions are added only with --grow. What happens: from then on most processes' deliveries "
    "go to another partition than their earlier ones, so their order is lost once; what came in "
    "raw partition p of n comes again in p, p + n, p + 2n ..., and there duplicates are looked "
    "for, so raw topics grow only by multiples, their seen and ledger topics before them. What to "
    "do: stop the senders, let the consumers catch up until the lag is 0, then grow and go on; a "
    "delivery handled later than its repetition becomes an event twice"
)
_OF_PLATFORMS = {
    **{kind: frozenset({"partitions", "retention.ms"}) for kind in ("raw", "dlq", "events")},
    **{kind: frozenset({"partitions"}) for kind in ("seen", "ledger")},
}
"""What `--set` says of the providers' topics alone: the canary's load does not grow with theirs."""
_DAY = 24 * 60 * 60 * 1000
_DAYS_AUDITED = 2
"""Beyond the raw topic's retention, since its last segment may be deleted a day late."""
ANSWER_SECONDS = 15.0
"""How long a cluster may take to answer one question."""


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What topics.toml says of one kind of topic."""

    partitions: int
    replication: int
    config: dict[str, str | int | float | bool]


class Topic(msgspec.Struct, frozen=True):
    """A topic as it should be, or as it is: `config` holds what is set on the topic itself.

    `beside` is the raw topic whose partition numbers it shares; a raw topic stands beside itself.
    """

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]
    beside: str = ""


class Change(msgspec.Struct, frozen=True):
    """One difference between what should be and what is.

    `create`, `config` and `follow` are carried out by `apply`, `grow` only if asked to; `fixed`
    is a difference that needs a person.
    """

    kind: Literal["create", "config", "follow", "grow", "fixed"]
    topic: Topic
    text: str


def wanted_topics(
    providers: Iterable[str],
    prefix: str,
    *,
    file: Path = TOPICS_FILE,
    overrides: Sequence[str] = (),
    days: int | None = None,
) -> list[Topic]:
    """List every topic of the providers as it should be.

    `overrides` are texts `<kind>.<key>=<value>`, where the key is partitions, replication or a
    topic setting; they win over the file. `days` are those for which duplicates are told; without
    them what each provider needs. Raises ConfigurationError.

    A dead topic is kept as long as its raw topic where nothing is said of its own retention. A
    seen and a ledger topic have the partitions of their raw topic, and its copies where nothing
    else is said. They are kept longer than the file says where duplicates are told for longer, or
    the raw topic is kept for longer. The canary's are kept only as long as is needed, and keep
    their own number of partitions and retention whatever the overrides say; its events have a
    topic of their own.
    """
    tables = _read(file)
    special = tables.pop("provider", {})
    for kind in tables:
        _known_kind(kind, str(file))
    given = [_override(text) for text in overrides]
    topics: list[Topic] = []
    for provider in sorted(providers):
        of_kind = {
            kind: [tables.get(kind, {}), special.get(provider, {}).get(kind, {})] for kind in KINDS
        }
        for_it = given if provider not in BUILT_IN else list(filter(_is_of_any, given))
        name = raw_topic(provider, prefix)
        raw = _topic(name, "raw", of_kind["raw"], for_it, file, beside=name)
        layers = [_kept_as(raw), *of_kind["dlq"]]
        topics += [raw, _topic(dead_topic(provider, prefix), "dlq", layers, for_it, file)]
        for kind, name, least in (
            ("seen", seen_topic(provider, prefix), _remembered(provider, days)),
            ("ledger", ledger_topic(provider, prefix), _audited(raw)),
        ):
            if kind not in tables:
                raise ConfigurationError(
                    f"{file} has no table [{kind}]; take the one of {TOPICS_FILE}"
                )
            of_all, of_provider = of_kind[kind]
            held = {} if provider in BUILT_IN else of_all
            layers = [_as(raw), of_all, _kept(least, held), of_provider]
            topic = _topic(name, kind, layers, for_it, file, beside=raw.name)
            if topic.partitions != raw.partitions:
                raise ConfigurationError(
                    f"{name} cannot have {topic.partitions} partitions: it always has those of "
                    f"{raw.name}, which are {raw.partitions}; leave its number out"
                )
            topics.append(topic)
        if provider == CANARY:
            name = output_topic(prefix, provider)
            topics.append(_topic(name, "events", of_kind["events"], for_it, file))
    topics.append(_topic(output_topic(prefix), "events", [tables.get("events", {})], given, file))
    return topics


def _is_of_any(override: tuple[str, str, str]) -> bool:
    """Tell whether an override is meant for the canary's topics too."""
    kind, key, _ = override
    return key not in _OF_PLATFORMS[kind]


def _as(raw: Topic) -> dict[str, Any]:
    """Give what a topic beside a raw topic takes from it."""
    config = {"min.insync.replicas": raw.config["min.insync.replicas"]}
    return {"partitions": raw.partitions, "replication": raw.replication, "config": config}


def _kept_as(raw: Topic) -> dict[str, Any]:
    """Give what a dead topic takes from its raw topic, whose personal data it holds once more."""
    key = "retention.ms"
    return {"config": {key: raw.config[key]} if key in raw.config else {}}


def _remembered(provider: str, days: int | None) -> int:
    return (dedup_days(days, EVERY[provider].RETRIED_FOR_DAYS) + SPARE_DAYS) * _DAY


def _audited(raw: Topic) -> int:
    kept = _milliseconds(raw.config.get("retention.ms", "0"))
    return -1 if kept < 0 else kept + _DAYS_AUDITED * _DAY


def _kept(least: int, table: Mapping[str, Any]) -> dict[str, Any]:
    """Lengthen a table's retention to what is needed at least; -1 is for ever."""
    held = _milliseconds(table.get("config", {}).get("retention.ms", 0))
    return {"config": {"retention.ms": -1 if min(held, least) < 0 else max(held, least)}}


def _milliseconds(retention: str | int) -> int:
    try:
        return int(retention)
    except ValueError as error:
        raise ConfigurationError(
            f"retention.ms is {retention!r}; it should be milliseconds, or -1 for ever"
        ) from error


def single_copy(replication: int = 1) -> list[str]:
    """Give the overrides for one copy of everything: an acknowledged delivery can be lost."""
    keys = {"replication": replication, "min.insync.replicas": 1}
    return [f"{kind}.{key}={value}" for kind in KINDS for key, value in keys.items()]


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from error


def _known_kind(kind: str, where: str) -> None:
    if kind not in KINDS:
        raise ConfigurationError(
            f"{where}: there is no kind of topic {kind!r}; there are {', '.join(KINDS)}"
        )


def _override(text: str) -> tuple[str, str, str]:
    name, equals, value = text.partition("=")
    kind, dot, key = name.partition(".")
    if not equals or not dot or not key:
        raise ConfigurationError(
            f"--set {text!r}: it should be <kind>.<key>=<value>, for example "
            "raw.retention.ms=604800000"
        )
    _known_kind(kind, f"--set {text!r}")
    return kind, key, value


def _topic(
    name: str,
    kind: str,
    layers: Sequence[Mapping[str, Any]],
    overrides: Sequence[tuple[str, str, str]],
    file: Path,
    beside: str = "",
) -> Topic:
    table: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for layer in layers:
        table |= layer
        config |= layer.get("config", {})
    for of_kind, key, value in overrides:
        if of_kind == kind:
            (table if key in {"partitions", "replication"} else config)[key] = value
    try:
        shape = msgspec.convert({**table, "config": config}, Shape, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{file}, topics of kind {kind}: {error}") from error
    texts = {key: _text(value) for key, value in shape.config.items()}
    copies = texts.get("min.insync.replicas", "")
    if not copies.isdigit() or not 1 <= int(copies) <= shape.replication:
        raise ConfigurationError(
            f"{name}: min.insync.replicas is {copies or 'not set'} and there are "
            f"{shape.replication} copies; it should be from 1 to that number, and explicit"
        )
    return Topic(name, shape.partitions, shape.replication, texts, beside)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def plan(wanted: Sequence[Topic], existing: Mapping[str, Topic]) -> list[Change]:
    """Say what `apply` would do, and what it cannot do."""
    return [change for topic in wanted for change in _changes(topic, existing)]


def _changes(topic: Topic, existing: Mapping[str, Topic]) -> Iterable[Change]:
    is_now = existing.get(topic.name)
    raw = existing.get(topic.beside)
    if is_now is None:
        # Beside a raw topic that is there already: as it is now, then they grow together.
        new = topic if raw is None else _with(topic, raw.partitions)
        yield Change(
            "create",
            new,
            f"create {new.name}: partitions {new.partitions}, copies {new.replication}, "
            f"min.insync.replicas {new.config['min.insync.replicas']}",
        )
        yield from _partitions(topic, new.partitions, raw)
        return
    # More than there are copies would let nothing be written (or be taken for less, by Kafka 4).
    if int(topic.config.get("min.insync.replicas", 1)) > is_now.replication:
        as_many = {"min.insync.replicas": str(is_now.replication)}
        topic = msgspec.structs.replace(topic, config={**topic.config, **as_many})
    for key, value in topic.config.items():
        held = is_now.config.get(key)
        if held != value:
            before = "not set on the topic" if held is None else held
            yield Change("config", topic, f"set {topic.name} {key}={value} (now: {before})")
    yield from _partitions(topic, is_now.partitions, raw)
    if topic.replication != is_now.replication:
        yield Change(
            "fixed",
            topic,
            f"{topic.name} has {is_now.replication} copies instead of {topic.replication}: move "
            "its replicas with kafka-reassign-partitions and apply again, or ask for as many as "
            "there are (the topics file, --replication, --single-copy)",
        )


def _partitions(topic: Topic, now: int, raw: Topic | None) -> Iterable[Change]:
    """Say what is to be done about a topic's number of partitions, `raw` being there or not."""
    if topic.beside and topic.beside != topic.name:
        yield from _beside(topic, now, topic.partitions if raw is None else raw.partitions)
    elif topic.partitions < now:
        yield Change(
            "fixed",
            topic,
            f"{topic.name} has {now} partitions instead of {topic.partitions}: "
            "Kafka cannot take partitions away; raise the number in the topics file",
        )
    elif topic.beside and topic.partitions % now:
        multiple = topic.partitions // now * now
        yield Change(
            "fixed",
            topic,
            f"{topic.name} has {now} partitions and cannot grow to {topic.partitions}: duplicates "
            f"are found again only where it grows by multiples; ask for "
            f"{f'{multiple} or ' if multiple > now else ''}{multiple + now}",
        )
    elif topic.partitions > now:
        yield _growth(topic, now)


def _beside(topic: Topic, now: int, raw: int) -> Iterable[Change]:
    """Say what is to be done about a topic whose raw topic has `raw` partitions now."""
    # What is refused to the raw topic is not done to those beside it either.
    goal = raw if topic.partitions % raw else topic.partitions
    if now < raw:
        follower = _with(topic, raw)
        text = f"give {topic.name} {raw} partitions, as many as {topic.beside} has (now: {now})"
        yield Change("follow", follower, text)
    if now > goal:
        way_out = f"let {topic.beside} grow to {now}, or " if now % raw == 0 else ""
        yield Change(
            "fixed",
            topic,
            f"{topic.name} has {now} partitions and {topic.beside} has {raw}: its numbers should "
            f"be those of the raw topic; {way_out}stop the consumers, delete it and apply again "
            "(what it holds is lost: repetitions become events again, an audit begins there)",
        )
    elif goal > max(now, raw):
        yield _growth(_with(topic, goal), max(now, raw))


def _growth(topic: Topic, now: int) -> Change:
    return Change("grow", topic, f"grow {topic.name} from {now} to {topic.partitions} partitions")


def _with(topic: Topic, partitions: int) -> Topic:
    return msgspec.structs.replace(topic, partitions=partitions)


class Cluster:
    """The admin side of a Kafka cluster; every wait is bounded, every failure one sentence."""

    def __init__(self, config: Mapping[str, str], answer_seconds: float = ANSWER_SECONDS) -> None:
        self._config = config
        self._bootstrap = config.get("bootstrap.servers", "")
        self._seconds = answer_seconds
        self._troubles: list[KafkaError] = []
        settings: dict[str, Any] = {"log_level": 0, **config, "error_cb": self._troubles.append}
        try:
            self.admin = AdminClient(settings)
        except KafkaException as error:
            raise ConfigurationError(f"the KAFKA_* settings cannot be used: {_said(error)}") from (
                error
            )

    def brokers(self) -> int:
        """Count the brokers: no topic can have more copies."""
        self._metadata()
        return len(self.admin.list_topics(timeout=self._seconds).brokers)

    def existing(self, names: Sequence[str]) -> dict[str, Topic]:
        """Read the topics of these names that are there.

        Raises CannotRun where one may be there that this client may not see.
        """
        if not names:
            return {}
        found = self._metadata()
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        futures = self.admin.describe_configs(resources, request_timeout=self._seconds)
        configs = {resource.name: futures[resource] for resource in futures}
        topics: dict[str, Topic] = {}
        for name in names:
            data, what = found.get(name), f"read the settings of {name}"
            if data is None and _is_missing(configs[name], self._seconds):
                continue
            entries = self._result(configs[name], what)
            if data is None:  # made between the two questions, or hidden from this client
                data = self._metadata().get(name)
            if data is None:
                raise CannotRun(
                    f"{name} exists, but this client may not see it; grant it Describe on the topic"
                )
            explicit = {
                key: entry.value
                for key, entry in entries.items()
                if entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
            }
            copies = min(len(partition.replicas) for partition in data.partitions.values())
            topics[name] = Topic(name, len(data.partitions), copies, explicit)
        return topics

    def apply(
        self, changes: Sequence[Change], *, grow: bool, say: Callable[[str], None] = print
    ) -> list[Change]:
        """Carry changes out and give those that are left; say each one done."""
        new = [change for change in changes if change.kind == "create"]
        self._create([change.topic for change in new])
        settings = [change for change in changes if change.kind == "config"]
        self._configure({change.topic.name: change.topic for change in settings})
        equal = [change for change in changes if change.kind == "follow"]
        self._grow([change.topic for change in equal])
        larger = [change for change in changes if change.kind == "grow" and grow]
        first = [change for change in larger if change.topic.beside not in {"", change.topic.name}]
        # No consumer may meet a raw partition that has no seen partition yet.
        self._grow([change.topic for change in first])
        then = [change for change in larger if change not in first]
        self._grow([change.topic for change in then])
        done = [*new, *settings, *equal, *first, *then]
        for change in done:
            say(f"done: {change.text}")
        return [change for change in changes if change not in done]

    def delete(self, prefix: str) -> list[str]:
        """Delete every topic and group whose name begins with the prefix; give the topics.

        Meant for what a demonstration or a test left. An empty prefix is refused: it would be
        everything.
        """
        if not prefix:
            raise ConfigurationError("deleting topics needs a prefix that is not empty")
        names = [name for name in self._metadata() if name.startswith(prefix)]
        if names:
            deletions = self.admin.delete_topics(names, operation_timeout=self._seconds)
            for name, future in deletions.items():
                self._result(future, f"delete {name}")
        listed = self._result(
            self.admin.list_consumer_groups(request_timeout=self._seconds), "list the groups"
        )
        groups = [group.group_id for group in listed.valid if group.group_id.startswith(prefix)]
        if groups:
            forgotten = self.admin.delete_consumer_groups(groups, request_timeout=self._seconds)
            for group, future in forgotten.items():
                self._result(future, f"delete the group {group}")
        self._until(lambda: not set(names) & set(self._metadata()), "forget the deleted topics")
        return sorted(names)

    def _create(self, topics: Sequence[Topic]) -> None:
        if not topics:
            return
        news = [
            NewTopic(topic.name, topic.partitions, topic.replication, config=dict(topic.config))
            for topic in topics
        ]
        futures = self.admin.create_topics(
            news, operation_timeout=self._seconds, request_timeout=self._seconds
        )
        for topic in topics:
            what = f"create {topic.name} with {topic.replication} copies"
            self._result(futures[topic.name], what)
        names = {topic.name for topic in topics}
        self._until(lambda: names <= self._led().keys(), "give the new topics their leaders")

    def _configure(self, topics: Mapping[str, Topic]) -> None:
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                topic.name,
                incremental_configs=[
                    ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                    for key, value in topic.config.items()
                ],
            )
            for topic in topics.values()
        ]
        if not resources:
            return
        futures = self.admin.incremental_alter_configs(resources, request_timeout=self._seconds)
        for resource, future in futures.items():
            self._result(future, f"change the settings of {resource.name}")

    def _grow(self, topics: Sequence[Topic]) -> None:
        if not topics:
            return
        larger = [NewPartitions(topic.name, topic.partitions) for topic in topics]
        futures = self.admin.create_partitions(
            larger, operation_timeout=self._seconds, request_timeout=self._seconds
        )
        for name, future in futures.items():
            self._result(future, f"grow {name}")
        self._until(
            lambda: all(self._led().get(one.name, 0) >= one.partitions for one in topics),
            "give the new partitions their leaders",
        )

    def _metadata(self) -> dict[str, Any]:
        try:
            topics: dict[str, Any] = self.admin.list_topics(timeout=self._seconds).topics
        except KafkaException as error:
            self.admin.poll(0)
            raise CannotRun(silence(self._config, self._troubles)) from error
        return topics

    def _led(self) -> dict[str, int]:
        """Count the partitions of each topic that has leaders for all it knows of."""
        return {
            name: len(data.partitions)
            for name, data in self._metadata().items()
            if data.partitions and all(part.leader >= 0 for part in data.partitions.values())
        }

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self._seconds
        while not holds():
            if time.monotonic() > deadline:
                raise CannotRun(
                    f"Kafka at {self._bootstrap} did not {what} within {self._seconds:.0f} s"
                )
            time.sleep(0.05)

    def _result(self, future: Future[Any], what: str) -> Any:
        try:
            return future.result(self._seconds + 1.0)
        except TimeoutError as error:
            raise CannotRun(
                f"Kafka at {self._bootstrap} did not {what} within {self._seconds:.0f} s"
            ) from error
        except KafkaException as error:
            raise CannotRun(f"cannot {what}: {self._why(error)}") from error

    def _why(self, error: KafkaException) -> str:
        match error.args[0].code():
            case KafkaError.TOPIC_AUTHORIZATION_FAILED | KafkaError.CLUSTER_AUTHORIZATION_FAILED:
                return (
                    "this client is not authorised; it needs Create, Describe, DescribeConfigs, "
                    "Alter and AlterConfigs on the topics"
                )
            case KafkaError.GROUP_AUTHORIZATION_FAILED:
                return "this client is not authorised for the group"
            case KafkaError.INVALID_REPLICATION_FACTOR:
                brokers = len(self.admin.list_topics(timeout=self._seconds).brokers)
                return (
                    f"the cluster has {brokers} broker{'s' if brokers != 1 else ''}; add brokers, "
                    "or ask for fewer copies (--replication, --single-copy)"
                )
            case KafkaError.TOPIC_ALREADY_EXISTS:
                return "it exists, but this client may not see it; grant it Describe on the topic"
            case KafkaError.POLICY_VIOLATION | KafkaError.INVALID_CONFIG:
                return f"the cluster refuses the settings: {_said(error)}"
            case _:
                return _said(error)


def _is_missing(described: Future[Any], seconds: float) -> bool:
    """Tell a topic that is not there from one that the list does not show to this client."""
    try:
        described.result(seconds + 1.0)
    except KafkaException as error:
        code: int = error.args[0].code()
        return code == KafkaError.UNKNOWN_TOPIC_OR_PART
    except TimeoutError:
        pass
    return False


def _said(error: KafkaException) -> str:
    said = error.args[0]
    return str(said.str()) if isinstance(said, KafkaError) else str(said)
