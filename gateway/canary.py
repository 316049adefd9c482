"""The canary: `python -m gateway canary` sends signed beats through the public address, and waits.

A beat is a delivery of the built-in provider `canary`. It is verified, stored and normalized as
any other and becomes an event of its own topic, never of the analysts': there its id is the key
of the record, so nothing has to be decoded to know it again.
"""

import contextlib
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Protocol

import confluent_kafka
import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from gateway.delivery import CANARY, output_topic
from gateway.kafka import MAY_NOT, ClientLog, client_config, topic_prefix
from gateway.process import (
    VERSION,
    Address,
    Admin,
    ConfigurationError,
    Readiness,
    Sparing,
    checked_secret,
    log_level,
    on_stop_signals,
    read_secret_file,
)
from gateway.providers import EVERY
from gateway.ranges import may_not_read
from gateway.send import check_url, post
from gateway.signatures import Key, Scheme, Signed

DEFAULT_ADMIN = "127.0.0.1:9462"
MOST_UNDER_WAY = 200
"""Beats, and requests, at one time."""
_TICK_SECONDS = 0.1
_MOST_AT_ONCE = 10_000
"""Records of others that are passed over before it is looked what is due."""
_GROWN_SECONDS = 30.0
"""How seldom it is looked whether the topic has got further partitions."""
_AGAIN_SECONDS = 2.0
_GLANCE_SECONDS = 1.0
_LOOKUP_SECONDS = 5.0
_STORED = 200

GATEWAY, PIPELINE = "gateway", "pipeline"
CONDITIONS = (GATEWAY, PIPELINE)

Result = Literal["seen", "refused", "unanswered", "lost"]
"""How a beat ends, once: its event was read; the gateway answered anything but 200; nobody
answered; it was stored and its event did not come in time."""
RESULTS: Sequence[Result] = ("seen", "refused", "unanswered", "lost")

log = structlog.get_logger()

disable_created_metrics()  # type: ignore[no-untyped-call]  # declared without types in 0.26


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the prober reads from its environment; times in seconds."""

    url: str
    scheme: Scheme
    interval: float
    timeout: float
    admin_listen: Address
    topic: str
    kafka: dict[str, str]
    log_level: str


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the environment. Raises ConfigurationError naming the variable and what it should be."""
    url = environ.get("CANARY_URL", "")
    if not url:
        listen = Address.parse(environ.get("GATEWAY_LISTEN", "127.0.0.1:8080"), "GATEWAY_LISTEN")
        url = f"http://{listen}/webhooks/{CANARY}"
    try:
        check_url(url)
    except ConfigurationError as error:  # never quoted: it may hold a path token
        raise ConfigurationError(
            "CANARY_URL cannot be used; it should be as https://hooks.example.com/webhooks/canary"
        ) from error
    interval = _seconds(environ, "CANARY_INTERVAL", 15)
    timeout = _seconds(environ, "CANARY_TIMEOUT", 60)
    if timeout > MOST_UNDER_WAY // 2 * interval:
        raise ConfigurationError(
            f"CANARY_TIMEOUT is {timeout:g} s and CANARY_INTERVAL {interval:g} s: more than "
            f"{MOST_UNDER_WAY // 2} beats would be under way; send fewer, or wait for less long"
        )
    return Settings(
        url=url,
        scheme=EVERY[CANARY].scheme([Key(id="canary", value=_secret(environ))]),
        interval=interval,
        timeout=timeout,
        admin_listen=Address.parse(
            environ.get("CANARY_ADMIN_LISTEN", DEFAULT_ADMIN), "CANARY_ADMIN_LISTEN"
        ),
        topic=output_topic(topic_prefix(environ), CANARY),
        kafka=client_config(environ),
        log_level=log_level(environ),
    )


def _seconds(environ: Mapping[str, str], name: str, default: int) -> float:
    text = environ.get(name, "")
    try:
        number = float(text) if text else float(default)
    except ValueError:
        number = 0.0
    if not 1 <= number <= 3600:  # which no NaN is
        raise ConfigurationError(f"{name} is {text!r}; it should be seconds, from 1 to 3600")
    return number


def _secret(environ: Mapping[str, str]) -> bytes:
    given = [name for name in ("CANARY_SECRET", "CANARY_SECRET_FILE") if name in environ]
    if not given:
        raise ConfigurationError(
            "there is nothing to sign beats with: set CANARY_SECRET or CANARY_SECRET_FILE, to one "
            "that the gateway has for the provider canary"
        )
    if len(given) > 1:
        raise ConfigurationError(f"{' and '.join(given)} are both set; set one of them")
    (name,) = given
    if name == "CANARY_SECRET":
        return checked_secret(environ[name], name)
    path = environ[name]
    return checked_secret(read_secret_file(path, name), f"the secret in {path} ({name})")


class CanaryMetrics:
    """The metrics of one prober, in a registry of its own."""

    def __init__(self, version: str, librdkafka: str, readiness: Readiness) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.beats = Counter(
            "verihook_canary_beats_total",
            "Beats by how they ended: seen is good; refused, the gateway did not answer 200; "
            "unanswered, nobody answered; lost, it was stored and its event did not come in time.",
            ("result",),
            registry=registry,
        )
        self.answer_seconds = Histogram(
            "verihook_canary_answer_seconds",
            "From sending a beat to the public address until its answer, whatever it was.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
            registry=registry,
        )
        self.end_to_end_seconds = Histogram(
            "verihook_canary_end_to_end_seconds",
            "From sending a beat to the public address until its event can be read.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
            registry=registry,
        )
        self.last_seen = Gauge(
            "verihook_canary_last_seen_timestamp_seconds",
            "When the event of a beat was last seen, in seconds since 1970; 0 before the first.",
            registry=registry,
        )
        build = Gauge(
            "verihook_build_info",
            "1, with the versions that are running.",
            ("version", "librdkafka"),
            registry=registry,
        )
        build.labels(version, librdkafka).set(1)
        registry.register(readiness)
        for result in RESULTS:
            self.beats.labels(result)


class Beat(msgspec.Struct, frozen=True):
    """One synthetic delivery; `sent_at` in milliseconds since the Unix epoch."""

    type: Literal["beat"]
    beat_id: str
    sent_at: int


def signed_beat(scheme: Scheme, beat_id: str, now: float) -> Signed:
    """Make the delivery of a beat; its time stands in the signed body."""
    beat = Beat(type="beat", beat_id=beat_id, sent_at=int(now * 1000))
    return scheme.sign(msgspec.json.encode(beat), now)


class _UnderWay(msgspec.Struct):
    began: float
    stored: bool = False


class Beats:
    """What became of each beat: every one ends once, and what comes after that counts nothing.

    Times are of one monotonic clock, in seconds; `wall` tells seconds since the Unix epoch.
    """

    def __init__(
        self,
        metrics: CanaryMetrics,
        readiness: Readiness,
        timeout: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._readiness = readiness
        self._timeout = timeout
        self._wall = wall
        self._under_way: dict[str, _UnderWay] = {}
        self._sparing = Sparing()

    @property
    def under_way(self) -> int:
        """How many have not ended."""
        return len(self._under_way)

    def begin(self, beat_id: str, now: float) -> None:
        """A beat is sent."""
        self._under_way[beat_id] = _UnderWay(now)

    def answered(self, beat_id: str, status: int, seconds: float, now: float) -> None:
        """Somebody answered it with this status, so long after it was sent."""
        self._metrics.answer_seconds.observe(seconds)
        stored = status == _STORED
        self._readiness.set(GATEWAY, None if stored else f"a beat was answered {status}")
        beat = self._under_way.get(beat_id)
        if beat is None:
            return
        if stored:
            beat.stored = True
        else:
            self._end(beat_id, "refused", now, status=status)

    def unanswered(self, beat_id: str, now: float) -> None:
        """Nobody answered it."""
        self._readiness.set(GATEWAY, "nobody answers at CANARY_URL")
        if beat_id in self._under_way:
            self._end(beat_id, "unanswered", now)

    def seen(self, beat_id: str, now: float) -> None:
        """An event of this id was read: ours, or of another prober, or once more."""
        beat = self._under_way.get(beat_id)
        if beat is None:
            return
        self._metrics.end_to_end_seconds.observe(now - beat.began)
        self._metrics.last_seen.set(self._wall())
        self._readiness.set(PIPELINE)
        self._end(beat_id, "seen", now)

    def expire(self, now: float) -> None:
        """End those whose time is over: lost if stored, else nobody has answered them yet."""
        for beat_id, beat in list(self._under_way.items()):
            if now - beat.began < self._timeout:
                return  # they are in the order of their sending
            if beat.stored:
                why = f"a beat's event did not come within {self._timeout:g} s"
                self._readiness.set(PIPELINE, why)
                self._end(beat_id, "lost", now)
            else:
                self.unanswered(beat_id, now)

    def _end(self, beat_id: str, result: Result, now: float, **more: int) -> None:
        del self._under_way[beat_id]
        self._metrics.beats.labels(result).inc()
        if result == "seen":
            return
        held = self._sparing.admit(result, now)
        if held is not None:
            log.warning("beat", result=result, beat_id=beat_id, held_back=held, **more)


class Postman:
    """Sends beats, each in a thread of its own: an address that is slow holds up nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._free = threading.BoundedSemaphore(MOST_UNDER_WAY)
        self._answers: queue.SimpleQueue[tuple[str, int | None, float]] = queue.SimpleQueue()

    def send(self, beat_id: str) -> None:
        """Send a beat and do not wait; what became of it is among `answers` later."""
        if not self._free.acquire(blocking=False):  # an address that never ends its answers
            self._answers.put((beat_id, None, 0.0))
            return
        name = f"beat-{beat_id}"
        # A daemon: a request that is under way does not hold up the end of the process.
        threading.Thread(target=self._post, args=(beat_id,), name=name, daemon=True).start()

    def answers(self) -> Iterator[tuple[str, int | None, float]]:
        """Give what came since: a beat, its status (None: nobody answered), and after how long."""
        while not self._answers.empty():
            yield self._answers.get_nowait()

    def _post(self, beat_id: str) -> None:
        status = None
        began = time.monotonic()
        try:
            proof = signed_beat(self._settings.scheme, beat_id, time.time())
            headers = {"content-type": "application/json", **proof.headers}
            url, timeout = self._settings.url, self._settings.timeout
            with contextlib.suppress(ConfigurationError):  # whose text names the address
                status = post(url, headers, proof.body, timeout=timeout).status
        finally:
            self._answers.put((beat_id, status, time.monotonic() - began))
            self._free.release()


class Reading(Protocol):
    """Where the ids of events come from."""

    def read(self, seconds: float) -> str | None:
        """Wait so long for one event; give its id, if there is one."""
        ...


class Reader:
    """Reads the keys of the canary's topic from its end on, in no group of consumers."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topic
        self._sparing = Sparing()
        self._assigned: set[int] = set()
        self._looked_at = 0.0
        self._consumer = Consumer(
            {
                **settings.kafka,
                "group.id": f"verihook-canary-{uuid.uuid4().hex}",  # never comes to exist
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "latest",  # of a topic that was made anew
                "fetch.wait.max.ms": 100,
                "logger": ClientLog(),
            }
        )

    def begin(self) -> str:
        """Stand at the end of every partition; give what hinders, empty if nothing does.

        Raises ConfigurationError if there is no such topic, or it may not be read.
        """
        try:
            found = self._consumer.list_topics(self._topic, timeout=_LOOKUP_SECONDS)
            topic = found.topics[self._topic]
            if topic.error is not None and topic.error.code() in MAY_NOT:
                raise ConfigurationError(may_not_read(self._topic))
            if topic.error is not None and topic.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                return str(topic.error.name())
            if topic.error is not None or not topic.partitions:
                raise ConfigurationError(
                    f"the topic {self._topic} does not exist; create it with "
                    "`python -m deploy topics apply`"
                )
            places = [TopicPartition(self._topic, number) for number in topic.partitions]
            for place in places:
                _, place.offset = self._consumer.get_watermark_offsets(
                    place, timeout=_LOOKUP_SECONDS
                )
        except KafkaException as error:
            return str(error.args[0].name())
        self._consumer.assign(places)
        self._assigned = set(topic.partitions)
        self._looked_at = time.monotonic()
        return ""

    def _read_what_grew(self) -> None:
        """Read partitions that came later from their beginning on, or beats there would be lost."""
        self._looked_at = time.monotonic()
        with contextlib.suppress(KafkaException):  # asked again later
            found = self._consumer.list_topics(self._topic, timeout=_GLANCE_SECONDS)
            further = set(found.topics[self._topic].partitions) - self._assigned
            if further:
                self._consumer.incremental_assign(
                    [TopicPartition(self._topic, number, 0) for number in further]
                )
                self._assigned |= further

    def read(self, seconds: float) -> str | None:
        """Wait so long for one event; give its id, empty if it has none."""
        if time.monotonic() - self._looked_at >= _GROWN_SECONDS:
            self._read_what_grew()
        message = self._consumer.poll(seconds)
        if message is None:
            return None
        error = message.error()
        if error is not None:
            held = self._sparing.admit(error.name(), time.monotonic())
            if held is not None:
                log.warning("kafka", error=error.name(), detail=error.str(), held_back=held)
            return None
        return _key_of(message)

    def close(self) -> None:
        """Leave the cluster."""
        self._consumer.close()


def _key_of(message: Message) -> str:
    key = message.key()
    return "" if key is None else key.decode(errors="replace")


class Round:
    """One turn after the other: send what is due, read, and say what became of each."""

    def __init__(self, interval: float, beats: Beats, postman: Postman, reader: Reading) -> None:
        self._interval = interval
        self._beats = beats
        self._postman = postman
        self._reader = reader
        self._due: float | None = None

    def turn(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Do what there is to do now, and wait a moment for an event."""
        now = clock()
        if self._due is None:
            self._due = now
        if now >= self._due:
            beat_id = uuid.uuid4().hex
            self._beats.begin(beat_id, now)
            self._postman.send(beat_id)
            self._due += self._interval
            if self._due <= now:  # those missed while this process stood still are not made up for
                self._due = now + self._interval
        wait = min(_TICK_SECONDS, max(0.0, self._due - now))
        seen = self._reader.read(wait)
        for _ in range(_MOST_AT_ONCE):
            if seen is None:
                break
            self._beats.seen(seen, clock())
            seen = self._reader.read(0)
        for beat_id, status, seconds in self._postman.answers():
            if status is None:
                self._beats.unanswered(beat_id, clock())
            else:
                self._beats.answered(beat_id, status, seconds, clock())
        self._beats.expire(clock())


def run(settings: Settings) -> None:
    """Send beats and measure them until SIGTERM. Raises ConfigurationError if it cannot start."""
    readiness = Readiness(*CONDITIONS)
    metrics = CanaryMetrics(VERSION, confluent_kafka.libversion()[0], readiness)
    admin = Admin(settings.admin_listen, metrics.registry, readiness)
    admin.start()
    stop = threading.Event()
    on_stop_signals(stop.set)
    log.info(
        "starting",
        topic=settings.topic,
        interval=settings.interval,
        timeout=settings.timeout,
        admin=str(admin.address),
    )
    reader = Reader(settings)
    try:
        while not stop.is_set() and (why := reader.begin()):
            text = f"Kafka does not answer at {settings.kafka['bootstrap.servers']}: {why}"
            readiness.set(PIPELINE, text)
            log.warning("waiting", why=text)
            stop.wait(_AGAIN_SECONDS)
        beats = Beats(metrics, readiness, settings.timeout)
        turns = Round(settings.interval, beats, Postman(settings), reader)
        while not stop.is_set():
            turns.turn()
        log.info("stopped", under_way=beats.under_way)
    finally:
        reader.close()
        admin.close()
