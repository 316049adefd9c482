"""KAFKA_* variables become librdkafka keys; topics are checked before anything rests on them.

What we promise is not for these variables to change. Also the reader of a bounded range of a
topic, for the commands that look back.
"""

import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    ConfigSource,
    OffsetSpec,
    ResourceType,
)

from gateway.process import ConfigurationError, read_secret_file

log = structlog.get_logger()

OURS = frozenset(
    {
        "acks",
        "request.required.acks",  # librdkafka's other name for it
        "enable.idempotence",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "isolation.level",
        "allow.auto.create.topics",
    }
)
"""Keys that carry a promise (200 means Kafka has it; nothing is committed early; no topic is made
but by `topics apply`)."""

# A Kubernetes Service named `kafka` injects KAFKA_PORT, KAFKA_SERVICE_HOST,
# KAFKA_PORT_9092_TCP_ADDR and their like into every pod; none of them is meant for us.
_INJECTED = re.compile(r"_PORT$|_SERVICE_HOST$|_PORT_|_SERVICE_PORT")
_TOPIC_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,100}", re.ASCII)
_OF_ONE_KEY = re.compile(r"configuration property|Expected \w+ value")
# Keys whose value is a path for librdkafka itself.
_PATHS = frozenset(
    {
        "sasl.oauthbearer.assertion.private.key.file",
        "sasl.oauthbearer.assertion.jwt.template.file",
    }
)
_SECRET = re.compile(r"password|passphrase|secret|\.pem$|oauthbearer\.config")


def client_config(environ: Mapping[str, str]) -> dict[str, str]:
    """Read every KAFKA_<KEY> variable as a librdkafka key, underscores as dots.

    `KAFKA_<KEY>_FILE` reads the value from a file, losing one trailing newline, but for the keys
    of which librdkafka wants a path itself. No client of this configuration makes a topic. Raises
    ConfigurationError for a key librdkafka does not know, one that is ours, or a missing
    KAFKA_BOOTSTRAP_SERVERS.
    """
    config: dict[str, str] = {}
    variables: dict[str, str] = {}
    for name, value in environ.items():
        if not name.startswith("KAFKA_") or _INJECTED.search(name):
            continue
        from_file = name.endswith("_FILE") and _key(name) not in _PATHS
        key = _key(name.removesuffix("_FILE") if from_file else name)
        if key in variables:
            raise ConfigurationError(f"{variables[key]} and {name} are both set; set one of them")
        if key in OURS:
            raise ConfigurationError(
                f"{name} cannot be set: {key} carries one of Verihook's promises; unset it"
            )
        config[key] = read_secret_file(value, name) if from_file else value
        variables[key] = name
    _judge(config, variables)
    if not config.get("bootstrap.servers"):
        raise ConfigurationError(
            "KAFKA_BOOTSTRAP_SERVERS is not set: give host:port of one or more Kafka brokers"
        )
    # Where brokers create topics by themselves (auto.create.topics.enable, Kafka's default), an
    # AdminClient that asks for one by name makes it, and so does a Producer that writes to it: with
    # one copy and the defaults of the broker. A Consumer does not, unless told to.
    return {**config, "allow.auto.create.topics": "false"}


def _key(variable: str) -> str:
    return variable.removeprefix("KAFKA_").lower().replace("_", ".")


def _judge(config: Mapping[str, str], variables: Mapping[str, str]) -> None:
    """Let librdkafka itself judge names and values; never quotes a value."""
    if _complaint(config) is None:
        return
    for key, value in config.items():
        complaint = _complaint({key: value})
        if complaint is None:
            continue
        if "No such configuration property" in complaint:
            raise ConfigurationError(
                f"{variables[key]} names no librdkafka setting ({key}); check the spelling, or "
                "rename the variable if it is not meant for Verihook"
            )
        raise ConfigurationError(
            f"{variables[key]} cannot be used: it holds no value that librdkafka takes for {key}"
        )


def _complaint(config: Mapping[str, str]) -> str | None:
    """Give what librdkafka says against a name or a value; keys that lack others are for later."""
    try:
        Producer({**config, "bootstrap.servers": "", "log_level": "0"})
    except KafkaException as error:
        text = str(error)
        return text if _OF_ONE_KEY.search(text) else None
    return None


def redacted(config: Mapping[str, str]) -> dict[str, str]:
    """Give a configuration as it may be shown: secrets replaced."""
    return {key: "[set]" if _SECRET.search(key) else value for key, value in config.items()}


def topic_prefix(environ: Mapping[str, str]) -> str:
    """Read TOPIC_PREFIX, which stands before every topic, group and transactional id."""
    prefix = environ.get("TOPIC_PREFIX", "")
    if not _TOPIC_PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            f"TOPIC_PREFIX is {prefix!r}; it should hold only letters, digits, dot, _ and -"
        )
    return prefix


class ClientLog:
    """librdkafka's own log lines, at our debug level: what matters arrives as an error.

    Given to a client as its `logger`, so that its lines do not stand between our JSON.
    """

    def log(self, level: int, message: str, *arguments: object) -> None:
        """Take one line, as a standard logger does."""
        log.debug("librdkafka", level=level, line=message % arguments if arguments else message)


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long a topic must be kept at least, what for, and which `--set` says so."""

    least_ms: int
    purpose: str
    setting: str


class TopicNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """What a topic must grant before anything rests on it."""

    max_message_bytes: int
    min_insync_replicas: int
    log_append_time: bool = False
    retention: Retention | None = None
    beside: str = ""
    """A topic that must not have more partitions than this one."""


class ClusterUnreachable(Exception):  # noqa: N818 - a state that passes, not an error
    """The cluster did not answer; nothing is known about its topics."""


def topic_problem(
    config: Mapping[str, str], needs: Mapping[str, TopicNeeds], timeout: float = 10.0
) -> str | None:
    """Give one sentence about the first topic that does not grant what it must, else None.

    Raises ClusterUnreachable if the cluster does not answer in `timeout` seconds.
    """
    admin = AdminClient({**config, "log_level": "0"})
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in needs]
    answers = admin.describe_configs(resources, request_timeout=timeout)
    for resource, answer in answers.items():
        try:
            entries = answer.result(timeout + 1.0)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return (
                    f"the topic {resource.name} does not exist; create it with "
                    "`python -m deploy topics apply`"
                )
            if code in _MAY_NOT:
                return (
                    f"this client may not describe the configuration of {resource.name}; grant "
                    "it DescribeConfigs on the topic"
                )
            raise ClusterUnreachable(error.args[0].str()) from error
        except TimeoutError as error:
            raise ClusterUnreachable("no answer in time") from error
        needed = needs[resource.name]
        problem = _problem(resource.name, needed, entries) or _too_few(
            admin, resource.name, needed, timeout
        )
        if problem is not None:
            return f"{problem}; mend it with `{_APPLY}`"
        problem = _deleted_too_early(resource.name, needed.retention, entries)
        if problem is not None:
            return problem
    return None


def _too_few(admin: AdminClient, topic: str, needs: TopicNeeds, timeout: float) -> str | None:
    """Kafka 4 takes min.insync.replicas as at most the number of replicas there are (KIP-966)."""
    partitions = _replicas(admin, topic, timeout)
    held, copies = min(partitions, default=0), needs.min_insync_replicas
    if held < copies:
        return f"{topic} has {held} replica(s), it needs {copies}"
    if needs.beside:
        least = len(_replicas(admin, needs.beside, timeout))
        if len(partitions) < least:
            return (
                f"{topic} has {len(partitions)} partition(s) and {needs.beside} has {least}, "
                "which must be the same number"
            )
    return None


def _replicas(admin: AdminClient, topic: str, timeout: float) -> list[int]:
    """Count the replicas of each partition."""
    try:
        found = admin.list_topics(topic, timeout=timeout).topics[topic].partitions.values()
    except KafkaException as error:
        raise ClusterUnreachable(error.args[0].str()) from error
    return [len(partition.replicas) for partition in found]


_APPLY = "python -m deploy topics apply"
_DAY_MS = 86_400_000
_MAY_NOT: Sequence[int] = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)


def _problem(topic: str, needs: TopicNeeds, entries: Mapping[str, object]) -> str | None:
    largest = int(getattr(entries["max.message.bytes"], "value", 0))
    if largest < needs.max_message_bytes:
        return (
            f"{topic} has max.message.bytes={largest}, under the {needs.max_message_bytes} that "
            "the largest delivery can need"
        )
    copies = entries["min.insync.replicas"]
    explicit = getattr(copies, "source", None) == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
    held = int(getattr(copies, "value", 0))
    if not explicit or held < needs.min_insync_replicas:
        how = "" if explicit else ", and only as the broker's default"
        return (
            f"{topic} has min.insync.replicas={held}{how}; it must be set on the topic to at "
            f"least {needs.min_insync_replicas}"
        )
    kind = getattr(entries["message.timestamp.type"], "value", "")
    if needs.log_append_time and kind != "LogAppendTime":
        return f"{topic} has message.timestamp.type={kind}; lag in seconds needs LogAppendTime"
    return None


def _deleted_too_early(
    topic: str, retention: Retention | None, entries: Mapping[str, object]
) -> str | None:
    if retention is None:
        return None
    kept = int(getattr(entries["retention.ms"], "value", 0))
    if 0 <= kept < retention.least_ms:
        return (
            f"{topic} is kept for {kept / _DAY_MS:g} days (retention.ms={kept}), and "
            f"{retention.purpose} needs {retention.least_ms / _DAY_MS:g}; mend it with "
            f"`{_APPLY} --set {retention.setting}={retention.least_ms}`"
        )
    size = int(getattr(entries["retention.bytes"], "value", -1))
    if size >= 0:
        return (
            f"{topic} has retention.bytes={size}, by which it can be deleted before the "
            f"{retention.least_ms / _DAY_MS:g} days that {retention.purpose} needs; mend it with "
            f"`{_APPLY}`"
        )
    return None


# -- a bounded range of a topic --

_LOOKUP_SECONDS = 10.0
_LOOKUP_PAUSE_SECONDS = 0.2
SILENCE_SECONDS = 30.0
"""How long a partition that holds more may give nothing before a reader gives up."""
_MOST_MESSAGES = 500
_OFFSETS = re.compile(r"([0-9]{1,9}):([0-9]{1,18})(-[0-9]{0,18})?", re.ASCII)
_AGO = re.compile(r"([0-9]{1,9})([smhdw])", re.ASCII)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_FOR_EVER = 2**62


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which records of a topic somebody asks for; everything where nothing is said.

    `offsets` are the first and the last one by partition; where some are given, only those
    partitions are meant. Times are Kafka's, in milliseconds since the epoch; `until` is the
    first moment that is not meant.
    """

    offsets: Mapping[int, tuple[int, int]] = {}
    since: int | None = None
    until: int | None = None


class Range(msgspec.Struct, frozen=True):
    """Offsets of one partition, from `first` up to and without `end`."""

    partition: int
    first: int
    end: int


class RangeUnread(Exception):  # noqa: N818 - a state of the cluster, not an error of ours
    """A range was not read to its end; the text is one sentence that says why."""


def wanted(offsets: Sequence[str], since: str, until: str, now: float) -> Wanted:
    """Read what a command line says: PARTITION:FROM-TO, and times as ISO 8601 or 2h, 3d (ago).

    TO is included; without it everything from FROM on, and PARTITION:OFFSET is one record. A
    time without a zone is UTC. Empty texts say nothing. `now` is in seconds since the epoch.
    Raises ConfigurationError.
    """
    found: dict[int, tuple[int, int]] = {}
    for text in offsets:
        match = _OFFSETS.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                f"--offset {text!r}: it should be PARTITION:FROM-TO, for example 3:1000-1999"
            )
        partition, first = int(match[1]), int(match[2])
        dash = match[3]
        last = first if dash is None else int(dash[1:] or _FOR_EVER)
        if last < first:
            raise ConfigurationError(f"--offset {text!r}: it ends before it begins")
        if partition in found:
            raise ConfigurationError(f"--offset {text!r}: give one range for each partition")
        found[partition] = (first, last)
    begin, end = _moment(since, "--since", now), _moment(until, "--until", now)
    if begin is not None and end is not None and end <= begin:
        raise ConfigurationError(f"--until {until!r} is not after --since {since!r}")
    return Wanted(offsets=found, since=begin, until=end)


def _moment(text: str, option: str, now: float) -> int | None:
    if not text:
        return None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return max(0, int((now - int(ago[1]) * _UNIT_SECONDS[ago[2]]) * 1000))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{option} {text!r}: it should be a time such as 2026-07-01T12:00Z, or how long ago, "
            "such as 90m, 2h or 3d"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp() * 1000))  # Kafka's time begins in 1970


def find_ranges(
    config: Mapping[str, Any],
    topic: str,
    asked: Wanted = Wanted(),  # noqa: B008 - frozen
) -> list[Range]:
    """Give the ranges that hold what was asked for, as the topic stands now.

    They end at the last stable offset of this moment: what comes later, or stands in a
    transaction that is still open, is not in them. Partitions that hold nothing of it are left
    out. Raises ConfigurationError if the cluster does not answer, or has no such topic or
    partition.
    """
    admin = AdminClient({"log_level": "0", **config})
    partitions = _partitions(admin, config, topic)
    for number in asked.offsets:
        if number not in partitions:
            raise ConfigurationError(
                f"{topic} has no partition {number}; it has {len(partitions)}, counted from 0"
            )
    numbers = sorted(asked.offsets or partitions)
    first = _log_offsets(admin, topic, numbers, OffsetSpec.earliest())  # type: ignore[no-untyped-call] # a classmethod without annotations
    end = _log_offsets(admin, topic, numbers, OffsetSpec.latest())  # type: ignore[no-untyped-call] # a classmethod without annotations
    for moment, bound in ((asked.since, first), (asked.until, end)):
        if moment is None:
            continue
        at = _log_offsets(admin, topic, numbers, OffsetSpec.for_timestamp(moment))
        for number in numbers:
            # negative: no record is that young
            bound[number] = end[number] if at[number] < 0 else min(at[number], end[number])
    found = []
    for number in numbers:
        low, high = asked.offsets.get(number, (0, _FOR_EVER))
        one = Range(number, max(first[number], low), min(end[number], high + 1))
        if one.first < one.end:
            found.append(one)
    return found


def _partitions(admin: AdminClient, config: Mapping[str, Any], topic: str) -> list[int]:
    try:
        known = admin.list_topics(topic, timeout=_LOOKUP_SECONDS).topics[topic]
    except KafkaException as error:
        raise ConfigurationError(f"Kafka does not answer at {config['bootstrap.servers']}") from (
            error
        )
    if known.error is not None and known.error.code() in _MAY_NOT:
        raise ConfigurationError(f"this client may not read {topic}; grant it Read on the topic")
    if known.error is not None or not known.partitions:
        raise ConfigurationError(
            f"there is no topic {topic}; is TOPIC_PREFIX right? (`make run` uses demo.)"
        )
    return sorted(known.partitions)


def _log_offsets(
    admin: AdminClient, topic: str, numbers: Sequence[int], which: OffsetSpec
) -> dict[int, int]:
    """Ask one thing of every partition.

    After a change of leader the first answer is a refusal, as it is for a while where a topic
    was made just now.
    """
    found: dict[int, int] = {}
    problem: KafkaException | None = None
    end = time.monotonic() + _LOOKUP_SECONDS
    while time.monotonic() < end:
        question = {TopicPartition(topic, number): which for number in numbers}
        answers = admin.list_offsets(
            question,
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_LOOKUP_SECONDS,
        )
        for asked, answer in answers.items():
            try:
                found[asked.partition] = answer.result().offset
            except KafkaException as error:
                problem = error
        if len(found) == len(numbers):
            return found
        try:
            admin.list_topics(topic, timeout=_LOOKUP_SECONDS)
        except KafkaException as error:
            problem = error
        time.sleep(_LOOKUP_PAUSE_SECONDS)
    name = problem.args[0].name() if problem is not None else "no answer"
    raise ConfigurationError(f"{topic} does not say where its log begins and ends: {name}")


def read_ranges(
    config: Mapping[str, Any],
    topic: str,
    ranges: Sequence[Range],
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[list[Message]]:
    """Yield every committed record of the ranges once, some at a time, in order per partition.

    Ends when the ranges do, or when it is time to stop. Offsets without a record (markers of
    transactions, what was aborted) are passed over. Raises RangeUnread.
    """
    reading = _Reading(topic, ranges)
    if not reading.ends:
        return
    consumer = Consumer(
        {
            "log_level": "0",
            **config,
            "group.id": f"verihook-reader-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "allow.auto.create.topics": False,
            # The position stays before a marker at the log's end: only this tells the end.
            "enable.partition.eof": True,
        }
    )
    try:
        consumer.incremental_assign(
            [TopicPartition(topic, one.partition, one.first) for one in ranges]
        )
        heard = time.monotonic()
        while reading.ends and not stopping():
            found, done = reading.sorted_out(consumer.consume(_MOST_MESSAGES, 0.2))
            if done and reading.ends:
                consumer.incremental_unassign([TopicPartition(topic, one) for one in done])
            if found:
                yield found
            if found or done:
                heard = time.monotonic()  # what the caller did meanwhile is not Kafka's silence
            elif time.monotonic() - heard > SILENCE_SECONDS:
                raise RangeUnread(
                    f"{topic} gave nothing for {SILENCE_SECONDS:g} s: {reading.trouble}"
                )
    finally:
        consumer.close()


class _Reading:
    """Which partitions are still to be read, and to where; `trouble` is the last one heard of."""

    def __init__(self, topic: str, ranges: Sequence[Range]) -> None:
        self._topic = topic
        self.ends = {one.partition: one.end for one in ranges if one.first < one.end}
        self.trouble = "no answer"

    def sorted_out(self, messages: Sequence[Message]) -> tuple[list[Message], set[int]]:
        """Give the records within the ranges, and the partitions that are done with them."""
        found: list[Message] = []
        done: set[int] = set()
        for message in messages:
            number, offset = message.partition(), message.offset()
            if number is None or offset is None or number not in self.ends:
                continue
            end, error = self.ends[number], message.error()
            if error is None:
                if offset < end:
                    found.append(message)
                if offset >= end - 1:
                    done.add(number)
            elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's public names begin so
                self.trouble = _judged(self._topic, number, error)
            elif offset >= end:  # not so while a new leader does not know the end yet
                done.add(number)
        for number in done:
            del self.ends[number]
        return found, done


def _judged(topic: str, partition: int, error: KafkaError) -> str:
    """Name a trouble that may pass; raise RangeUnread for one that does not."""
    if error.code() in _MAY_NOT:
        raise RangeUnread(f"this client may not read {topic}; grant it Read on the topic")
    if error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}:  # noqa: SLF001
        raise RangeUnread(
            f"{topic}[{partition}] no longer has the offsets to be read: retention deleted them "
            "meanwhile"
        )
    return error.name()
