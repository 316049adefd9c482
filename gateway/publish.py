"""A Delivery goes to Kafka; Kafka's answer comes back as a future.

The producer's delivery reports are served on the event loop by a timer of about a millisecond
while anything is under way, so no thread stands between a report and its request.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from gateway.delivery import PRODUCER_MESSAGE_BYTES, Delivery, Provenance, raw_topic
from gateway.kafka import ClientLog
from gateway.metrics import GatewayMetrics, TopicMetrics
from gateway.process import Sparing
from gateway.rejections import (
    KAFKA_QUEUE_FULL,
    KAFKA_REFUSED,
    KAFKA_TIMEOUT,
    OVERLOADED,
    Reason,
    Rejection,
)

_BUSY_SECONDS = 0.001
_IDLE_SECONDS = 0.1

_FAILURES: Mapping[int, tuple[str, Reason]] = {
    KafkaError._MSG_TIMED_OUT: ("timeout", KAFKA_TIMEOUT),  # noqa: SLF001 - librdkafka's own name
    KafkaError._TIMED_OUT: ("timeout", KAFKA_TIMEOUT),  # noqa: SLF001
    KafkaError.REQUEST_TIMED_OUT: ("timeout", KAFKA_TIMEOUT),
    KafkaError.TOPIC_AUTHORIZATION_FAILED: ("not_authorised", KAFKA_REFUSED),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: ("not_authorised", KAFKA_REFUSED),
    KafkaError.MSG_SIZE_TOO_LARGE: ("too_large", KAFKA_REFUSED),
    KafkaError._FATAL: ("fatal", KAFKA_REFUSED),  # noqa: SLF001
}

log = structlog.get_logger()


class Publisher:
    """One idempotent producer; `publish` resolves when all replicas have the delivery.

    Lives on one event loop: every method is called there.
    """

    def __init__(
        self,
        config: Mapping[str, str],
        metrics: GatewayMetrics,
        *,
        topic_prefix: str,
        deadline: float,
        linger_ms: int,
        max_in_flight: int,
    ) -> None:
        self._metrics = metrics
        self._prefix = topic_prefix
        self._topics: dict[str, TopicMetrics] = {}
        self._deadline = deadline
        self._max_in_flight = max_in_flight
        self._sparing = Sparing()
        self._config: dict[str, str | int | float | bool | object] = {
            "linger.ms": linger_ms,
            "compression.type": "lz4",
            **config,
            "acks": "all",
            "enable.idempotence": True,
            "partitioner": "murmur2_random",  # as Java clients, so that Flink co-partitions
            "message.max.bytes": PRODUCER_MESSAGE_BYTES,
            # librdkafka looks for timed-out messages about once a second: a second earlier than
            # our own deadline, so that what was answered 503 is not sent much later. 0 is for ever.
            "message.timeout.ms": max(1, int(1000 * max(deadline - 1.0, deadline / 2))),
            "queue.buffering.max.messages": max(100_000, 2 * max_in_flight),
            **metrics.statistics.settings("producer"),
            "error_cb": self._on_error,
            "logger": ClientLog(),
        }
        self._producer = Producer(self._config)
        self._waiting: deque[tuple[float, asyncio.Future[None], TopicMetrics]] = deque()
        self._unanswered = 0
        # Asked once: a line that is not written must cost nothing, and this is the hot path.
        self._tells = bool(structlog.get_logger().is_enabled_for(logging.DEBUG))
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_IDLE_SECONDS, self._pump)
        self._fatal = False
        metrics.queue_records.set_function(lambda: float(len(self._producer)))
        metrics.queue_limit_records.set(max_in_flight)

    @property
    def in_flight(self) -> int:
        """How many deliveries wait for Kafka's answer."""
        return self._unanswered

    @property
    def is_full(self) -> bool:
        """Whether the next delivery would be refused, because so many wait for Kafka's answer."""
        return self._unanswered >= self._max_in_flight

    def expect(self, providers: Iterable[str]) -> None:
        """Expose the counts of these providers' topics before their first delivery."""
        for provider in providers:
            self._topic(provider)

    def publish(self, delivery: Delivery) -> asyncio.Future[None]:
        """Hand a delivery to Kafka; the future resolves when it is stored, or raises Rejection.

        Raises Rejection at once if the budget of deliveries in flight or the queue is full.
        """
        if self.is_full:
            raise Rejection(OVERLOADED, "too many deliveries wait for Kafka")
        provider = delivery.provenance.provider
        topic = self._topics.get(provider) or self._topic(provider)
        future = self._loop.create_future()
        now = self._loop.time()
        report = partial(self._report, future, topic, now)
        if self._tells:
            report = partial(self._told, report, delivery.provenance)
        try:
            self._producer.produce(
                topic.topic,
                delivery.body,
                delivery.key,
                headers=delivery.headers,  # type: ignore[arg-type]  # invariant list in the stub
                on_delivery=report,
            )
        except BufferError as error:
            topic.errors["queue_full"].value += 1
            raise Rejection(KAFKA_QUEUE_FULL, "the producer's queue is full") from error
        except KafkaException as error:
            label, reason = _failure(error.args[0])
            topic.errors[label].value += 1
            raise Rejection(reason, error.args[0].name()) from error
        if not self._unanswered:
            self._timer.cancel()
            self._timer = self._loop.call_later(_BUSY_SECONDS, self._pump)
        self._unanswered += 1
        self._waiting.append((now + self._deadline, future, topic))
        topic.produced.value += 1
        return future

    async def close(self) -> int:
        """Wait for what is in flight (no longer than the deadline); give how many were left."""
        waiting = [future for _, future, _ in self._waiting if not future.done()]
        if waiting:
            await asyncio.wait(waiting)
        self._timer.cancel()
        return self._unanswered

    def _topic(self, provider: str) -> TopicMetrics:
        topic = raw_topic(provider, self._prefix)
        return self._topics.setdefault(provider, TopicMetrics(self._metrics, topic))

    def _pump(self) -> None:
        """Serve delivery reports and expire what waited past the deadline; reschedules itself."""
        self._producer.poll(0)
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        if waiting and waiting[0][0] <= self._loop.time():
            self._expire()
        if self._fatal:
            self._replace()
        pause = _BUSY_SECONDS if self._unanswered else _IDLE_SECONDS
        self._timer = self._loop.call_later(pause, self._pump)

    def _expire(self) -> None:
        now = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            _, future, topic = self._waiting.popleft()
            if not future.done():
                self._unanswered -= 1
                topic.errors["timeout"].value += 1
                future.set_exception(Rejection(KAFKA_TIMEOUT, "Kafka did not answer in time"))

    def _report(
        self,
        future: asyncio.Future[None],
        topic: TopicMetrics,
        began: float,
        error: KafkaError | None,
        _message: Message,
    ) -> None:
        if future.done():
            return  # answered 503 at the deadline; the provider sends it again
        self._unanswered -= 1
        if error is None:
            topic.ack_seconds.observe(self._loop.time() - began)
            future.set_result(None)
            return
        label, reason = _failure(error)
        topic.errors[label].value += 1
        future.set_exception(Rejection(reason, error.name()))

    def _told(
        self,
        report: "partial[None]",
        provenance: Provenance,
        error: KafkaError | None,
        message: Message,
    ) -> None:
        """Take a delivery report and tell it, where the log is that detailed."""
        if error is None:
            log.debug(
                "stored",
                delivery_id=provenance.delivery_id,
                endpoint=provenance.endpoint,
                topic=message.topic(),
                partition=message.partition(),
                offset=message.offset(),
            )
        report(error, message)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = True
        held = self._sparing.admit(error.name(), self._loop.time())
        if held is not None:
            log.warning("kafka", error=error.name(), detail=error.str(), held_back=held)

    def _replace(self) -> None:
        """Give up a producer that can produce no more (its sequence is broken) for a new one."""
        self._producer.purge()
        self._producer.poll(0)
        self._producer = Producer(self._config)
        self._fatal = False
        held = self._sparing.admit("producer_replaced", self._loop.time())
        if held is not None:
            why = "fatal error; see the line before"
            log.error("producer_replaced", why=why, held_back=held)


def _failure(error: KafkaError) -> tuple[str, Reason]:
    if error.fatal():
        return "fatal", KAFKA_REFUSED
    return _FAILURES.get(error.code(), ("other", KAFKA_REFUSED))
