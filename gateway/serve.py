"""One gateway process from start to stop, and the parent of several on one port."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping

import confluent_kafka
import msgspec
import structlog
from granian.constants import HTTPModes
from granian.http import HTTP1Settings
from granian.server.embed import Server

from gateway.delivery import RAW_MESSAGE_BYTES, raw_topic
from gateway.endpoints import Endpoints, load_endpoints
from gateway.kafka import ClusterUnreachable, TopicNeeds, topic_problem
from gateway.metrics import GatewayMetrics
from gateway.process import (
    EXIT_FAILED,
    UNREACHABLE_SECONDS,
    VERSION,
    Address,
    Admin,
    ConfigurationError,
    Readiness,
    Sparing,
    end_with_parent,
    on_stop_signals,
    settle_memory,
)
from gateway.publish import Publisher
from gateway.server import Webhooks
from gateway.settings import Settings
from gateway.statistics import ClientStatistics

_CONNECTIONS = 4096
"""Open connections granian takes at a time; it counts idle ones too (its own default is 128)."""
_SPARE_FILES = 256
_PROBE_SECONDS = 2.0
_KAFKA_SECONDS = 1.0

log = structlog.get_logger()


async def serve(
    settings: Settings, environ: Mapping[str, str], *, shares_port: bool = False
) -> None:
    """Run until SIGTERM or SIGINT, then drain. Raises ConfigurationError if it cannot go on."""
    endpoints = load_endpoints(environ)
    if not shares_port:
        claim(settings.listen)
    metrics = GatewayMetrics(VERSION, confluent_kafka.libversion()[0])
    metrics.retirements.use(endpoints.retires)
    readiness = metrics.readiness
    admin = Admin(settings.admin_listen, metrics.registry, readiness)
    admin.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    on_stop_signals(lambda: loop.call_soon_threadsafe(stop.set))
    publisher = Publisher(
        settings.kafka,
        metrics,
        topic_prefix=settings.topic_prefix,
        deadline=settings.tuning.deadline,
        linger_ms=settings.tuning.linger_ms,
        max_in_flight=settings.tuning.max_in_flight,
    )
    publisher.expect(_providers(endpoints))
    webhooks = Webhooks(endpoints.by_name, publisher, metrics, settings.tuning)
    server = _server(webhooks, settings.listen, settings.tuning.header_timeout)
    log.info("listening", webhooks=str(settings.listen), admin=str(admin.address), pid=os.getpid())
    serving = asyncio.ensure_future(server.serve())
    watching = asyncio.ensure_future(
        _watch(settings, environ, endpoints, webhooks, publisher, readiness, metrics)
    )
    kafka = asyncio.ensure_future(_watch_kafka(publisher, readiness, metrics.statistics))
    bodies = asyncio.ensure_future(webhooks.watch_bodies())
    stopping = asyncio.ensure_future(stop.wait())
    settle_memory()
    try:
        await asyncio.wait(
            {serving, watching, kafka, stopping}, return_when=asyncio.FIRST_COMPLETED
        )
        for task in (watching, kafka, serving):
            if task.done():
                task.result()  # raises why it ended
                raise ConfigurationError("the HTTP server ended by itself; see the lines before")
        watching.cancel()  # it opens, and would call us ready
        await _unready(readiness, serving, settings.tuning.drain_delay)
    finally:
        readiness.set("accepting", "shutting down")
        watching.cancel()
        kafka.cancel()
        stopping.cancel()
        left = await _drained(webhooks, publisher, settings.tuning.drain_timeout)
        server.stop()  # type: ignore[no-untyped-call]  # granian types it not
        await asyncio.wait({serving}, timeout=5.0)
        bodies.cancel()
        log.info("stopped", unanswered=left)
        admin.close()


async def _unready(readiness: Readiness, serving: asyncio.Future[None], seconds: float) -> None:
    """Say that we are going and take deliveries as before, until balancers have noticed."""
    readiness.set("accepting", "shutting down")
    if seconds:
        log.info("leaving", refusing_in_seconds=seconds)
        await asyncio.wait({serving}, timeout=seconds)


async def _drained(webhooks: Webhooks, publisher: Publisher, seconds: float) -> int:
    """Finish what is under way; give how many deliveries were left without Kafka's answer."""
    try:
        async with asyncio.timeout(seconds):
            await webhooks.drain()
            return await publisher.close()
    except TimeoutError:
        # granian waits for every connection: one stalled body would outlast us.
        webhooks.abandon_bodies()
        return publisher.in_flight


async def _watch(
    settings: Settings,
    environ: Mapping[str, str],
    endpoints: Endpoints,
    webhooks: Webhooks,
    publisher: Publisher,
    readiness: Readiness,
    metrics: GatewayMetrics,
) -> None:
    """Open once the topics grant what they must, then take over every change of the secrets."""
    await _topics_granted(settings, endpoints, readiness)
    webhooks.open()
    readiness.set("kafka")  # it has just answered; from here on _watch_kafka says
    readiness.set("topics")
    readiness.set("accepting")
    log.info("ready", endpoints=sorted(endpoints.by_name))
    seen = endpoints.modified()
    before: str | None = None
    while True:
        await asyncio.sleep(settings.tuning.reload_interval)
        # A failed reload is tried again without a change: what it lacked may come by itself.
        if before is None and not endpoints.changed_since(seen):
            continue
        looked = endpoints.modified()
        try:
            loaded = load_endpoints(environ)
            problem = await asyncio.to_thread(_topics_problem, settings, loaded)
        except (ConfigurationError, ClusterUnreachable) as error:
            problem = str(error)
        if problem is not None:
            if problem != before:
                metrics.reloads.labels("failed").inc()
                metrics.reload_failing.set(1)
                log.error("reload_failed", why=problem, in_force="the configuration before")
            before = problem
            continue
        endpoints, before = loaded, None
        # Times from before the load where known, so that a write meanwhile is a change.
        seen = {path: looked.get(path, now) for path, now in loaded.modified().items()}
        publisher.expect(_providers(endpoints))
        webhooks.use(endpoints.by_name)
        metrics.retirements.use(endpoints.retires)
        metrics.reloads.labels("ok").inc()
        metrics.reload_failing.set(0)
        log.info("reloaded", endpoints=sorted(endpoints.by_name))


async def _watch_kafka(
    publisher: Publisher,
    readiness: Readiness,
    statistics: ClientStatistics,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Say again and again whether the producer could store a delivery; needs no traffic for it.

    Seen with librdkafka 2.16 and Apache Kafka 4.3: an idle producer keeps its connection up. Where
    the broker closes it for idleness, the producer is back within some 4 s by itself, and so it is
    after an outage; 15 s without any connection are an outage. A broker that hangs loses its
    connection by the first delivery it does not answer; without deliveries it goes unseen for
    minutes, until the producer asks it for metadata.
    """
    up_at = clock()
    while True:
        await asyncio.sleep(_KAFKA_SECONDS)
        now = clock()
        if "topics" in readiness.problems():
            up_at = now
            continue  # until they are granted, that says it
        report = statistics.report("producer")
        if report is not None and report.up:
            up_at = now
        problem = None
        if now - up_at >= UNREACHABLE_SECONDS:
            problem = "no broker is reachable"
        elif publisher.is_full:
            problem = "as many deliveries wait for Kafka as may (GATEWAY_MAX_IN_FLIGHT)"
        readiness.set("kafka", problem)


async def _topics_granted(settings: Settings, endpoints: Endpoints, readiness: Readiness) -> None:
    """Wait until Kafka answers and every raw topic is as durable and as large as it must be."""
    sparing = Sparing()
    while True:
        try:
            problem = await asyncio.to_thread(_topics_problem, settings, endpoints)
        except ClusterUnreachable as error:
            why = f"Kafka does not answer at {settings.kafka['bootstrap.servers']}: {error}"
            readiness.set("topics", why)
            held = sparing.admit("waiting", time.monotonic())
            if held is not None:
                log.warning("waiting", why=why, held_back=held)
            await asyncio.sleep(_PROBE_SECONDS)
            continue
        if problem is not None:
            raise ConfigurationError(problem)
        return


def _topics_problem(settings: Settings, endpoints: Endpoints) -> str | None:
    needs = TopicNeeds(
        max_message_bytes=RAW_MESSAGE_BYTES,
        min_insync_replicas=1 if settings.tuning.single_copy else 2,
        log_append_time=True,
    )
    topics = {raw_topic(name, settings.topic_prefix): needs for name in _providers(endpoints)}
    return topic_problem(settings.kafka, topics)


def _providers(endpoints: Endpoints) -> list[str]:
    return sorted({endpoint.provider.name for endpoint in endpoints.by_name.values()})


def _server(webhooks: Webhooks, listen: Address, header_timeout: float) -> Server:
    connections = min(_CONNECTIONS, _open_files() - _SPARE_FILES)
    if connections < _CONNECTIONS:
        log.warning("few_open_files", connections=connections, raise_with="ulimit -n")
    return Server(
        webhooks,
        listen.host,
        listen.port,
        # Header timeouts exist only where HTTP/1 is set explicitly (granian 2.8).
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            header_read_timeout=int(header_timeout * 1000), max_buffer_size=32 * 1024
        ),
        websockets=False,
        backlog=_CONNECTIONS,
        backpressure=connections,
        log_enabled=False,
    )


def _open_files() -> int:
    """Raise the limit of open files as far as we may, and give it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS + 4 * _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def claim(listen: Address) -> None:
    """Refuse a port that somebody listens on.

    granian binds with SO_REUSEPORT, so that a second gateway started by mistake would silently
    share the first one's traffic.
    """
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {listen} (GATEWAY_LISTEN): {error.strerror}; choose a free port"
            ) from error


def serve_several(settings: Settings, workers: int) -> int:
    """Run several gateway processes on one port, each with an admin address of its own.

    The first has GATEWAY_ADMIN_LISTEN, the others take free ports and log them. One that ends
    by itself ends them all, so that the supervisor above sees it. Gives the exit code.
    """
    claim(settings.listen)
    children = [
        subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "gateway", "serve", "--worker", str(index)],
            start_new_session=True,  # Ctrl-C reaches the parent, which stops them
        )
        for index in range(1, workers + 1)
    ]
    stop = threading.Event()
    on_stop_signals(stop.set)
    ended = None
    while ended is None and not stop.wait(0.2):
        ended = next((child for child in children if child.poll() is not None), None)
    for child in children:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
    codes = [child.wait() for child in children]
    if ended is not None:
        log.error("worker_ended", pid=ended.pid, code=ended.returncode, others="stopped")
        return EXIT_FAILED
    return EXIT_FAILED if any(codes) else 0


def worker(settings: Settings, index: int) -> Settings:
    """Give one of several workers its settings, and tie its life to the parent's."""
    end_with_parent()
    if index == 1:
        return settings
    admin_listen = Address(settings.admin_listen.host, 0)
    return msgspec.structs.replace(settings, admin_listen=admin_listen)
