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

from deploy.child import CannotRun
from gateway.delivery import dead_topic, output_topic, raw_topic
from gateway.process import ConfigurationError

TOPICS_FILE = Path(__file__).resolve().parent / "topics.toml"

KINDS = ("raw", "dlq", "events")
WHAT_GROWING_COSTS = (
    "partitions are added only with --grow: from then on most processes' deliveries go to another "
    "partition than their earlier ones, so their order is lost once; stop the senders, or let the "
    "consumers catch up first"
)
ANSWER_SECONDS = 15.0
"""How long a cluster may take to answer one question."""


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What topics.toml says of one kind of topic."""

    partitions: int
    replication: int
    config: dict[str, str | int | float | bool]


class Topic(msgspec.Struct, frozen=True):
    """A topic as it should be, or as it is: `config` holds what is set on the topic itself."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


class Change(msgspec.Struct, frozen=True):
    """One difference between what should be and what is.

    `create` and `config` are carried out by `apply`, `grow` only if asked to; `fixed` is a
    difference that needs a person.
    """

    kind: Literal["create", "config", "grow", "fixed"]
    topic: Topic
    text: str


def wanted_topics(
    providers: Iterable[str],
    prefix: str,
    *,
    file: Path = TOPICS_FILE,
    overrides: Sequence[str] = (),
) -> list[Topic]:
    """List every topic of the providers as it should be.

    `overrides` are texts `<kind>.<key>=<value>`, where the key is partitions, replication or a
    topic setting; they win over the file. Raises ConfigurationError.
    """
    tables = _read(file)
    special = tables.pop("provider", {})
    for kind in tables:
        _known_kind(kind, str(file))
    given = [_override(text) for text in overrides]
    topics: list[Topic] = []
    for provider in sorted(providers):
        for kind, name in (("raw", raw_topic), ("dlq", dead_topic)):
            layers = [tables.get(kind, {}), special.get(provider, {}).get(kind, {})]
            topics.append(_topic(name(provider, prefix), kind, layers, given, file))
    topics.append(_topic(output_topic(prefix), "events", [tables.get("events", {})], given, file))
    return topics


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
    return Topic(name, shape.partitions, shape.replication, texts)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def plan(wanted: Sequence[Topic], existing: Mapping[str, Topic]) -> list[Change]:
    """Say what `apply` would do, and what it cannot do."""
    return [change for topic in wanted for change in _changes(topic, existing.get(topic.name))]


def _changes(topic: Topic, is_now: Topic | None) -> Iterable[Change]:
    if is_now is None:
        yield Change(
            "create",
            topic,
            f"create {topic.name}: partitions {topic.partitions}, copies {topic.replication}, "
            f"min.insync.replicas {topic.config['min.insync.replicas']}",
        )
        return
    for key, value in topic.config.items():
        held = is_now.config.get(key)
        if held != value:
            before = "not set on the topic" if held is None else held
            yield Change("config", topic, f"set {topic.name} {key}={value} (now: {before})")
    if topic.partitions > is_now.partitions:
        yield Change("grow", topic, _growth(topic, is_now.partitions))
    elif topic.partitions < is_now.partitions:
        yield Change(
            "fixed",
            topic,
            f"{topic.name} has {is_now.partitions} partitions instead of {topic.partitions}: "
            "Kafka cannot take partitions away; raise the number in the topics file",
        )
    if topic.replication != is_now.replication:
        yield Change(
            "fixed",
            topic,
            f"{topic.name} has {is_now.replication} copies instead of {topic.replication}: move "
            "its replicas with kafka-reassign-partitions, or change the number in the topics file",
        )


def _growth(topic: Topic, now: int) -> str:
    text = f"grow {topic.name} from {now} to {topic.partitions} partitions"
    if topic.partitions % now:
        text += f" (rather a multiple of {now}: dedup can follow only that)"
    return text


class Cluster:
    """The admin side of a Kafka cluster; every wait is bounded, every failure one sentence."""

    def __init__(self, config: Mapping[str, str], answer_seconds: float = ANSWER_SECONDS) -> None:
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
        """Read the topics of these names that are there."""
        found = {name: data for name, data in self._metadata().items() if name in names}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in found]
        if not resources:
            return {}
        futures = self.admin.describe_configs(resources, request_timeout=self._seconds)
        configs = {resource.name: futures[resource] for resource in futures}
        topics: dict[str, Topic] = {}
        for name, data in found.items():
            entries = self._result(configs[name], f"read the settings of {name}")
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
        larger = [change for change in changes if change.kind == "grow" and grow]
        self._grow([change.topic for change in larger])
        done = [*new, *settings, *larger]
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
        self._until(lambda: names <= self._led(), "give the new topics their leaders")

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

    def _metadata(self) -> dict[str, Any]:
        try:
            topics: dict[str, Any] = self.admin.list_topics(timeout=self._seconds).topics
        except KafkaException as error:
            self.admin.poll(0)
            raise CannotRun(self._silence(error)) from error
        return topics

    def _led(self) -> set[str]:
        return {
            name
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

    def _silence(self, error: KafkaException) -> str:
        """Say why there was no answer; the reason is in what the client complained of before."""
        codes = {trouble.code(): trouble.str() for trouble in self._troubles}
        # librdkafka's own names for local errors begin with an underscore
        for code in (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._RESOLVE):  # noqa: SLF001
            if code in codes:
                return f"Kafka at {self._bootstrap} cannot be used: {codes[code]}"
        return (
            f"Kafka at {self._bootstrap} does not answer within {self._seconds:.0f} s: is it "
            f"running, and is KAFKA_BOOTSTRAP_SERVERS right? ({_said(error)})"
        )


def _said(error: KafkaException) -> str:
    said = error.args[0]
    return str(said.str()) if isinstance(said, KafkaError) else str(said)
