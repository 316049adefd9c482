"""KAFKA_* variables become librdkafka keys; topics are checked before anything rests on them.

What we promise is not for these variables to change.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec
import structlog
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
)
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    ConfigSource,
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
        "transactional.id",
        "allow.auto.create.topics",
        "statistics.interval.ms",
    }
)
"""Keys that carry a promise (200 means Kafka has it; nothing is committed early; no topic is made
but by `topics apply`; readiness and metrics tell of now)."""

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
MAY_NOT: Sequence[int] = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)
"""Kafka's answers that say: a right is missing."""


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
    """Let librdkafka itself judge names and values, each and together; never quotes a value."""
    complaint = _complaint(config)
    if complaint is None:
        return
    for key, value in config.items():
        of_one = _complaint({key: value}) or ""
        if "No such configuration property" in of_one:
            raise ConfigurationError(
                f"{variables[key]} names no librdkafka setting ({key}); check the spelling, or "
                "rename the variable if it is not meant for Verihook"
            )
        if _OF_ONE_KEY.search(of_one):
            raise ConfigurationError(
                f"{variables[key]} cannot be used: it holds no value that librdkafka takes for "
                f"{key}"
            )
    hint = "; set KAFKA_SASL_MECHANISM" if "GSSAPI" in complaint else ""
    raise ConfigurationError(f"the KAFKA_* settings cannot be used together: {complaint}{hint}")


def _complaint(config: Mapping[str, str]) -> str | None:
    """Give what librdkafka says against names, values, or what is missing beside them."""
    given = {**config, "bootstrap.servers": "", "log_level": "0"}
    try:
        Producer(given)
        Consumer({**given, "group.id": "judge"}).close()
    except (UnicodeError, TypeError):
        return "a value that is no text, or of a kind that no variable can hold"
    except KafkaException as error:
        said = error.args[0]
        text = str(said.str()) if isinstance(said, KafkaError) else str(said)
        return text.removeprefix("Failed to create producer: ").removeprefix(
            "Failed to create consumer: "
        )
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
            if code in MAY_NOT:
                return (
                    f"this client may not describe the configuration of {resource.name}; grant "
                    "it DescribeConfigs on the topic"
                )
            raise ClusterUnreachable(error.args[0].str()) from error
        except TimeoutError as error:
            raise ClusterUnreachable("no answer in time") from error
        needed = needs[resource.name]
        partitions = _replicas(admin, resource.name, timeout)
        problem = _too_few_copies(resource.name, needed, partitions)
        if problem is not None:
            return problem
        problem = _problem(resource.name, needed, entries) or _too_few_partitions(
            admin, resource.name, needed, partitions, timeout
        )
        if problem is not None:
            return f"{problem}; mend it with `{_APPLY}`"
        problem = _deleted_too_early(resource.name, needed.retention, entries)
        if problem is not None:
            return problem
    return None


def _too_few_copies(topic: str, needs: TopicNeeds, partitions: Sequence[int]) -> str | None:
    """Kafka 4 takes min.insync.replicas as at most the number of replicas there are (KIP-966)."""
    if not partitions:
        return f"this client may not see {topic}; grant it Describe on the topic"
    held, copies = min(partitions), needs.min_insync_replicas
    if held >= copies:
        return None
    return (
        f"{topic} has {held} replica(s), it needs {copies}; move them with "
        "kafka-reassign-partitions, or accept a single copy with GATEWAY_SINGLE_COPY=1 and "
        "CONSUMER_SINGLE_COPY=1"
    )


def _too_few_partitions(
    admin: AdminClient, topic: str, needs: TopicNeeds, partitions: Sequence[int], timeout: float
) -> str | None:
    if needs.beside:
        least = len(_replicas(admin, needs.beside, timeout))
        if len(partitions) < least:
            return (
                f"{topic} has {len(partitions)} partition(s) and {needs.beside} has {least}, "
                "which must be the same number"
            )
    return None


def _replicas(admin: AdminClient, topic: str, timeout: float) -> list[int]:
    """Count the replicas of each partition; nothing where the topic is hidden from this client."""
    try:
        found = admin.list_topics(topic, timeout=timeout).topics[topic]
    except KafkaException as error:
        raise ClusterUnreachable(error.args[0].str()) from error
    if found.error is not None and found.error.code() not in MAY_NOT:
        raise ClusterUnreachable(found.error.str())  # as for a while after it was made
    return [len(partition.replicas) for partition in found.partitions.values()]


_APPLY = "python -m deploy topics apply"
_DAY_MS = 86_400_000


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
