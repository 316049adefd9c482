"""One consumer process from start to stop: a provider's raw topic in, events out."""

import contextlib
import http
import http.client
import os
import threading

import structlog

from consumers.attendant import Attendant
from consumers.broker import EndProbe
from consumers.contract import Halted
from consumers.incarnations import Incarnations
from consumers.normalizers import EVERY
from consumers.settings import SPARE_DAYS, Settings, dedup_days
from consumers.worker import keep_going
from gateway.delivery import (
    BOOKS_MESSAGE_BYTES,
    DEAD_MESSAGE_BYTES,
    OUTPUT_MESSAGE_BYTES,
    dead_topic,
    group_id,
    ledger_topic,
    output_topic,
    raw_topic,
    seen_topic,
)
from gateway.kafka import ClusterUnreachable, Retention, TopicNeeds, topic_problem
from gateway.process import (
    Address,
    Admin,
    ConfigurationError,
    Readiness,
    on_stop_signals,
    settle_memory,
)

_PROBE_SECONDS = 2.0
_RESUME_SECONDS = 10.0

log = structlog.get_logger()


def run(provider: str, settings: Settings) -> bool:
    """Normalize a provider's deliveries until SIGTERM; give whether everything was finished.

    Raises ConfigurationError if it cannot start, Halted if a person must act.
    """
    normalizer = EVERY[provider]
    prefix = settings.topic_prefix
    group = group_id(provider, prefix)
    readiness = Readiness("topics", "group", "mapping")
    readiness.set("mapping")
    meter = Attendant(provider, group, normalizer.NATIVE_TYPES, readiness)
    incarnations = Incarnations(provider, settings, meter)
    admin = Admin(
        settings.admin_listen,
        meter.registry,
        readiness,
        {f"/resume/{provider}": incarnations.resume},
    )
    admin.start()
    stop = threading.Event()
    on_stop_signals(stop.set)
    log.info(
        "starting",
        provider=provider,
        group=group,
        admin=str(admin.address),
        pid=os.getpid(),
        delivery=incarnations.delivery,
        dedup_days=incarnations.dedup_days,
    )

    def pause(seconds: float) -> None:
        stop.wait(seconds)

    try:
        if not _topics_granted(provider, settings, readiness, stop):
            return True
        probe = EndProbe(incarnations.client, meter)
        probe.start()
        settle_memory()
        try:
            finished = keep_going(incarnations.start, stop.is_set, pause, meter)
        finally:
            probe.stop()
    except Halted as end:
        log.error("halted", why=str(end))  # noqa: TRY400 - a sentence, no trace
        raise
    else:
        log.info("stopped", finished=finished)
        return finished
    finally:
        admin.close()
        incarnations.close()


def resumed(provider: str, admin: Address) -> str:
    """Ask the process of a provider at this admin address to go on after a stall.

    Gives what it answers. Raises ConfigurationError if nobody answers there, or another provider.
    """
    stranger = ConfigurationError(
        f"the process at {admin} is not a consumer of {provider}; name its own with --admin"
    )
    nobody = ConfigurationError(
        f"nobody answers at {admin}; name the admin address of {provider}'s process with --admin"
    )
    # Not urllib: that one follows redirects, and asks the proxy of the environment, which would
    # look for this address on its own side.
    try:
        connection = http.client.HTTPConnection(admin.host, admin.port, timeout=_RESUME_SECONDS)
        with contextlib.closing(connection):
            connection.request("POST", f"/resume/{provider}")
            answer = connection.getresponse()
            status, text = answer.status, answer.read().decode()
    except (OSError, http.client.InvalidURL) as error:
        raise nobody from error
    except (http.client.HTTPException, UnicodeDecodeError) as error:
        raise stranger from error
    except UnicodeError as error:  # a host name that cannot be encoded
        raise nobody from error
    if status != http.HTTPStatus.OK:
        raise stranger
    return text.strip()


def _topics_granted(
    provider: str, settings: Settings, readiness: Readiness, stop: threading.Event
) -> bool:
    """Wait until Kafka answers and every topic is as durable and as large as it must be.

    Gives False if it is time to stop before that.
    """
    copies = 1 if settings.single_copy else 2
    prefix = settings.topic_prefix
    raw = raw_topic(provider, prefix)
    days = dedup_days(settings.dedup_days, EVERY[provider].RETRIED_FOR_DAYS)
    remembered = Retention(
        least_ms=(days + SPARE_DAYS) * 86_400_000,
        purpose=f"telling duplicates for {days} days (CONSUMER_DEDUP_DAYS)",
        setting="seen.retention.ms",
    )
    needs = {
        raw: TopicNeeds(max_message_bytes=0, min_insync_replicas=copies, log_append_time=True),
        dead_topic(provider, prefix): TopicNeeds(
            max_message_bytes=DEAD_MESSAGE_BYTES, min_insync_replicas=copies
        ),
        output_topic(prefix, provider): TopicNeeds(
            max_message_bytes=OUTPUT_MESSAGE_BYTES, min_insync_replicas=copies
        ),
        seen_topic(provider, prefix): TopicNeeds(
            max_message_bytes=BOOKS_MESSAGE_BYTES,
            min_insync_replicas=copies,
            log_append_time=True,
            retention=remembered if days else None,
            beside=raw if days else "",
        ),
        ledger_topic(provider, prefix): TopicNeeds(
            max_message_bytes=BOOKS_MESSAGE_BYTES, min_insync_replicas=copies, beside=raw
        ),
    }
    while not stop.is_set():
        try:
            problem = topic_problem(settings.kafka, needs)
        except ClusterUnreachable as error:
            why = f"Kafka does not answer at {settings.kafka['bootstrap.servers']}: {error}"
            readiness.set("topics", why)
            log.warning("waiting", why=why)
            stop.wait(_PROBE_SECONDS)
            continue
        if problem is not None:
            raise ConfigurationError(problem)
        readiness.set("topics")
        return True
    return False
