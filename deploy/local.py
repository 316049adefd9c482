"""The whole pipeline on this machine: `make run`.

Kafka, topics, gateway, one consumer per provider, and what watches them: the canary and the
exporter. Every fixture sent as its provider would send it; what became of each, for a person to
read or (`--once`) for a machine to check.
"""

import contextlib
import fcntl
import http.client
import json
import os
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.json import JSON
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from consumers.codec import decode
from consumers.event import VerificationEvent
from consumers.ledger import read_entry
from consumers.tail import COLUMNS, table_row
from deploy.child import HOST, LOCAL, CannotRun, Child, port_or_free, shown
from deploy.endpoints import (
    CANARY_ENDPOINT,
    ENDPOINTS,
    DemoEndpoint,
    MadeEndpoint,
    endpoint_for,
    make_endpoint,
    write_endpoints,
    write_private,
)
from deploy.kafka import DEFAULT_PORT, Kafka
from deploy.topics import Cluster, plan, single_copy, wanted_topics
from gateway.delivery import CANARY, dead_topic, ledger_topic, output_topic
from gateway.kafka import client_config
from gateway.process import Address, ConfigurationError
from gateway.providers import EVERY, PROVIDERS
from gateway.send import RUN_FILE, Fixture, Secret, fixtures, post, signed

PREFIX = "demo."
LOGS = LOCAL / "logs"
SECRETS = LOCAL / "secrets"
GATEWAY_PORT = 8080
GATEWAY_ADMIN_PORT = 9464
FIRST_CONSUMER_ADMIN_PORT = 9465
EXPORTER_ADMIN_PORT = 9463
CANARY_ADMIN_PORT = 9462
CANARY_CONSUMER_ADMIN_PORT = 9461
GATEWAY, CANARY_CONSUMER, EXPORTER = "gateway", "canary-consumer", "exporter"
"""Names of processes; a provider's consumer has the provider's, the prober is called canary."""

_BYTES_ON_A_SCREEN = 1200
_READY_SECONDS = 60.0
_EVENTS_SECONDS = 60.0
_BEAT_SECONDS = 60.0
_SETTLE_SECONDS = 1.0
"""How long to look for an event nobody expects after the last expected one."""
_TICK_SECONDS = 0.1
_STORED, _BUSY = 200, 503
_ATTEMPTS = 5
EXIT_INTERRUPTED = 130
_WIDTH_OF_A_PIPE = 150

# What depends on a run's keys, on where the raw record lies or on when it came: an event of
# this run and the expected one of a fixture need not agree on it.
_OF_THE_RUN = frozenset(
    {"event_id", "subject_ref", "subject_key_id", "received_at"}
    | {"raw_topic", "raw_partition", "raw_offset", "mapping_revision"}
)
_TIMES_OF_RECEIPT = frozenset({"received", "delivery"})

# A demonstration must not depend on what the surrounding shell happens to hold.
_NOT_INHERITED = (
    *("GATEWAY_", "CONSUMER_", "CANARY_", "EXPORTER_"),
    *("EVENT_KEY", "SUBJECT_KEY", "SCHEMA_REGISTRY_"),
)


class Running(msgspec.Struct, kw_only=True):
    """What .local/run.json tells other programs about this run.

    `metrics` are the pages of the gateway and of each provider's consumer, `watch` those of what
    watches them.
    """

    bootstrap: str
    topic_prefix: str
    urls: dict[str, str]
    secrets: dict[str, Secret]
    metrics: dict[str, str]
    watch: dict[str, str]
    pids: dict[str, int]


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A fixture, where it goes, and the events it should become."""

    endpoint: DemoEndpoint
    fixture: Fixture
    events: list[dict[str, Any]]


def comparable(event: Mapping[str, Any]) -> str:
    """Give what must agree between an event and the expected one, as text that can be compared."""
    kept = {name: value for name, value in event.items() if name not in _OF_THE_RUN}
    if kept.get("occurred_at_source") in _TIMES_OF_RECEIPT:
        del kept["occurred_at"], kept["occurred_at_source"]
    return json.dumps(kept, sort_keys=True)


class Tally:
    """Which expected events have come, and which events came that nobody expected.

    Somebody may send a fixture of their own accord before its turn: its event comes once.
    """

    def __init__(self) -> None:
        self._awaited: Counter[str] = Counter()
        self._unexpected: Counter[str] = Counter()
        self._names: dict[str, str] = {}
        self._kinds: dict[str, str] = {}
        self.arrived = 0

    def expect(self, sent: Sent) -> None:
        """Wait for a sent fixture's events."""
        for event in sent.events:
            key = comparable({**event, "endpoint": sent.endpoint.name})
            self._names[key] = f"{sent.fixture.provider} {sent.fixture.case}"
            if self._unexpected[key] > 0:
                self._unexpected[key] -= 1
            else:
                self._awaited[key] += 1

    def arrive(self, event: Mapping[str, Any]) -> None:
        """Tick an event off."""
        self.arrived += 1
        key = comparable(event)
        if self._awaited[key] > 0:
            self._awaited[key] -= 1
        else:
            self._unexpected[key] += 1
            self._kinds[key] = f"{event['provider']} {event['native_type']}"

    @property
    def unexpected(self) -> list[str]:
        """What came and was not expected, one entry per event."""
        return _each(self._unexpected, self._kinds)

    @property
    def missing(self) -> list[str]:
        """The fixtures whose events have not all come, one entry per event."""
        return _each(self._awaited, self._names)


def _each(counts: Mapping[str, int], names: Mapping[str, str]) -> list[str]:
    return sorted(names[key] for key, count in counts.items() for _ in range(count))


def run_local(environ: Mapping[str, str], *, once: bool) -> int:
    """Run the demonstration; give the exit code. Raises CannotRun or ConfigurationError.

    KeyboardInterrupt ends it in order: the gateway first, then the consumers, then Kafka.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, _WIDTH_OF_A_PIPE))
    pipeline = Pipeline(environ, console)
    up = False
    try:
        with alone(), pipeline:
            pipeline.start()
            up = True
            with contextlib.closing(Demonstration(pipeline, console)) as demonstration:
                pipeline.tell()  # it listens now: what others send from here on is seen
                agreed = demonstration.run()
                if once:
                    pipeline.await_beat()
                    return 0 if agreed else 1
                demonstration.stay()
    except KeyboardInterrupt:
        return 0 if up and not once else EXIT_INTERRUPTED
    return 0


def forget() -> None:
    """Remove what is true only while everything runs."""
    RUN_FILE.unlink(missing_ok=True)
    shutil.rmtree(SECRETS, ignore_errors=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Refuse a second run in the same checkout: they would share run.json, logs and data."""
    try:
        LOCAL.mkdir(exist_ok=True)
        lock = (LOCAL / "run.lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise CannotRun(f"{shown(LOCAL)} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise CannotRun(
                f"`make run` already runs in this checkout (process {lock.read().strip()}); "
                "stop it first"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class _Program(msgspec.Struct, frozen=True):
    """How one process is started, and where its readiness is asked for."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    admin: Address

    @property
    def metrics(self) -> str:
        return f"http://{self.admin}/metrics"


class Pipeline:
    """Everything that runs: started together, watched, stopped in order.

    `settings` are further variables of the processes' environment; they win over ours.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        console: Console,
        settings: Mapping[str, str] = {},
    ) -> None:
        self._environ = environ
        self._console = console
        self._settings = settings
        self._kafka: Kafka | None = None
        self._programs: dict[str, _Program] = {}
        self._running: dict[str, Child] = {}
        self._client: dict[str, str] = {}
        self._made: dict[str, MadeEndpoint] = {}
        self.running = Running(
            bootstrap="", topic_prefix=PREFIX, urls={}, secrets={}, metrics={}, watch={}, pids={}
        )
        self.webhooks = ""
        self.scraped: dict[int, str] = {}
        """For each admin port of deploy/prometheus/prometheus.yml, where that process listens."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def client(self) -> dict[str, str]:
        """The librdkafka keys that reach the cluster."""
        return dict(self._client)

    @property
    def endpoints_file(self) -> Path:
        """The gateway's endpoints file, GATEWAY_ENDPOINTS."""
        return SECRETS / "endpoints.toml"

    def start(self) -> None:
        """Start everything and wait until all of it is ready. Raises CannotRun.

        The canary sends its first beat then; `await_beat` waits for it.
        """
        forget()
        environ = self._cluster()
        single = self._topics() == 1
        environ["TOPIC_PREFIX"] = PREFIX
        self._start_gateway(environ, single=single)
        self._start_consumers(environ, single=single)
        self._start_exporter(environ)
        for name in list(self._running):
            self._until_ready(name)
        self._start_canary(environ)

    def check(self) -> None:
        """Raise CannotRun if something that should run has ended."""
        for child in self._children():
            if child.exit_code is not None:
                raise CannotRun(child.obituary())

    def stop(self) -> None:
        """Stop the canary, the gateway, the consumers, the exporter, then Kafka.

        Leaves no process and no run.json.
        """
        if any(child.exit_code is None for child in self._children()):
            self._console.print("stopping the gateway, the consumers, Kafka")
        consumers = [name for name in self._running if name in {*PROVIDERS, CANARY_CONSUMER}]
        try:
            for together in ([CANARY], [GATEWAY], consumers, [EXPORTER]):
                children = [self._running[name] for name in together if name in self._running]
                for child in children:
                    child.ask_to_stop()
                for child in children:
                    child.stop()
            if self._kafka is not None:
                self._kafka.close()
        finally:
            forget()

    def stop_consumer(self, provider: str) -> None:
        """Stop a provider's consumer, as a rollout would; `check` no longer asks for it."""
        self._running.pop(provider).stop()
        self.running.pids.pop(provider)

    def start_consumer(self, provider: str) -> None:
        """Start a stopped consumer again and wait until it is ready. Raises CannotRun."""
        self._start(self._programs[provider])
        self._until_ready(provider)

    def fresh_secret(self, endpoint: str) -> MadeEndpoint:
        """Make an endpoint's secret afresh, as its provider would; the gateway has none of it."""
        return make_endpoint(self._made[endpoint].endpoint)

    def add_secret(self, endpoint: str, fresh: MadeEndpoint, key_id: str) -> None:
        """Give the gateway a further secret of an endpoint: it reads its files again by itself."""
        made = self._made[endpoint]
        further = {**made.further, key_id: fresh.held}
        self._made[endpoint] = msgspec.structs.replace(made, further=further)
        write_endpoints(self._made.values(), SECRETS)

    def await_beat(self) -> None:
        """Wait until the canary has seen a beat of its own. Raises CannotRun if it does not."""
        self._until_ready(CANARY, _BEAT_SECONDS, "no beat of the canary was seen after")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def _children(self) -> Iterator[Child]:
        if self._kafka is not None and self._kafka.child is not None:
            yield self._kafka.child
        yield from self._running.values()

    def _cluster(self) -> dict[str, str]:
        """Reach the given cluster, or start our own; give the environment of the children."""
        environ = {
            name: value
            for name, value in self._environ.items()
            if not name.startswith(_NOT_INHERITED)
        }
        if self._environ.get("KAFKA_BOOTSTRAP_SERVERS"):
            self._say(f"using the Kafka at {self._environ['KAFKA_BOOTSTRAP_SERVERS']}")
        else:
            environ = {
                name: value for name, value in environ.items() if not name.startswith("KAFKA_")
            }
            folder = LOCAL / "run-kafka"
            # Not only the topics: offsets of a former run would point behind the new ones' end.
            shutil.rmtree(folder, ignore_errors=True)
            log = LOGS / "kafka.log"
            self._kafka = Kafka(folder, port=DEFAULT_PORT, log=log, say=self._say)
            self._kafka.start()
            environ["KAFKA_BOOTSTRAP_SERVERS"] = self._kafka.bootstrap
            if self._kafka.child is not None:
                self.running.pids["kafka"] = self._kafka.child.pid
        self._client = client_config(environ)
        self.running.bootstrap = self._client["bootstrap.servers"]
        return environ

    def _topics(self) -> int:
        """Make the topics under our prefix; give the number of copies the cluster allows."""
        cluster = Cluster(self._client)
        copies = min(3, cluster.brokers())
        overrides = single_copy() if copies == 1 else []
        if copies == 2:
            overrides += [f"{kind}.replication=2" for kind in ("raw", "dlq", "events")]
        overrides += ["raw.partitions=3", "dlq.partitions=1", "events.partitions=3"]
        wanted = wanted_topics(EVERY, PREFIX, overrides=overrides)
        changes = plan(wanted, cluster.existing([topic.name for topic in wanted]))
        cluster.apply(changes, grow=False, say=lambda _text: None)
        self._say(f"{len(wanted)} topics under {PREFIX}")
        return copies

    def _start(self, program: _Program) -> None:
        self._programs[program.name] = program
        child = Child(
            program.name,
            [sys.executable, "-m", *program.command],
            LOGS / f"{program.name}.log",
            environ={**program.environ, **self._settings},
        )
        self._running[program.name] = child
        self.running.pids[program.name] = child.pid

    def _admin(self, port: int, what: str, variable: str = "") -> Address:
        """Choose where a process shows its metrics, and note it."""
        admin = self._address(variable, port, what)
        self.scraped[port] = str(admin)
        return admin

    def _start_gateway(self, environ: Mapping[str, str], *, single: bool) -> None:
        listen = self._address("GATEWAY_LISTEN", GATEWAY_PORT, "the gateway")
        admin = self._admin(GATEWAY_ADMIN_PORT, "the gateway's metrics", "GATEWAY_ADMIN_LISTEN")
        self.webhooks = str(listen)
        settings = {
            **environ,
            "GATEWAY_LISTEN": str(listen),
            "GATEWAY_ADMIN_LISTEN": str(admin),
            "GATEWAY_ENDPOINTS": str(self._endpoints(f"http://{listen}/webhooks")),
        }
        if single:
            settings["GATEWAY_SINGLE_COPY"] = "1"
        program = _Program(GATEWAY, ["gateway", "serve"], settings, admin)
        self.running.metrics[GATEWAY] = program.metrics
        self._start(program)

    def _endpoints(self, base: str) -> Path:
        """Write the gateway's endpoints file and fresh secrets; give the file."""
        shutil.rmtree(SECRETS, ignore_errors=True)
        SECRETS.mkdir(mode=0o700)
        for endpoint in (*ENDPOINTS, CANARY_ENDPOINT):
            made = make_endpoint(endpoint)
            self._made[endpoint.name] = made
            if endpoint is not CANARY_ENDPOINT:
                self.running.secrets[endpoint.name] = made.secret
                self.running.urls[endpoint.name] = f"{base}/{made.path}"
        return write_endpoints(self._made.values(), SECRETS)

    def _start_consumers(self, environ: Mapping[str, str], *, single: bool) -> None:
        settings = {
            **environ,
            "EVENT_KEY": secrets.token_hex(32),
            "SUBJECT_KEY": secrets.token_hex(32),
        }
        if single:
            settings["CONSUMER_SINGLE_COPY"] = "1"
        of_platforms = {
            provider: (provider, FIRST_CONSUMER_ADMIN_PORT + index)
            for index, provider in enumerate(PROVIDERS)
        }
        everyone = {**of_platforms, CANARY_CONSUMER: (CANARY, CANARY_CONSUMER_ADMIN_PORT)}
        for name, (provider, port) in everyone.items():
            admin = self._admin(port, f"the {provider} consumer's metrics")
            program = _Program(
                name,
                ["consumers", "run", provider],
                {**settings, "CONSUMER_ADMIN_LISTEN": str(admin)},
                admin,
            )
            told = self.running.metrics if name in PROVIDERS else self.running.watch
            told[name] = program.metrics
            self._start(program)

    def _start_exporter(self, environ: Mapping[str, str]) -> None:
        admin = self._admin(EXPORTER_ADMIN_PORT, "the exporter's metrics")
        settings = {**environ, "EXPORTER_ADMIN_LISTEN": str(admin)}
        program = _Program(EXPORTER, ["consumers", "export"], settings, admin)
        self.running.watch[EXPORTER] = program.metrics
        self._start(program)

    def _start_canary(self, environ: Mapping[str, str]) -> None:
        admin = self._admin(CANARY_ADMIN_PORT, "the canary's metrics")
        settings = {
            **environ,
            "CANARY_URL": f"http://{self.webhooks}/webhooks/{self._made[CANARY].path}",
            "CANARY_SECRET_FILE": str(SECRETS / CANARY),
            "CANARY_ADMIN_LISTEN": str(admin),
        }
        program = _Program(CANARY, ["gateway", "canary"], settings, admin)
        self.running.watch[CANARY] = program.metrics
        self._start(program)

    def _address(self, variable: str, port: int, what: str) -> Address:
        if variable and self._environ.get(variable):
            return Address.parse(self._environ[variable], variable)
        return Address(HOST, port_or_free(port, what, self._say))

    def _until_ready(
        self, name: str, seconds: float = _READY_SECONDS, what: str = "is not ready after"
    ) -> None:
        deadline = time.monotonic() + seconds
        url = f"http://{self._programs[name].admin}/readyz?verbose"
        while True:
            self.check()
            status, text = _get(url)
            if status == 200:
                return
            if time.monotonic() > deadline:
                raise CannotRun(
                    f"{name}: {what} {seconds:.0f} s: {text or 'no answer'} "
                    f"(see {shown(LOGS / name)}.log)"
                )
            time.sleep(_TICK_SECONDS)

    def tell(self) -> None:
        """Write run.json whole or not at all: a program that waits for it reads it at once."""
        text = msgspec.json.format(msgspec.json.encode(self.running)).decode()
        write_private(RUN_FILE, text)
        consumers = ", ".join(name for name in self._running if name in PROVIDERS)
        self._say(
            f"gateway on {self.webhooks}; consumers: {consumers}; Kafka on {self.running.bootstrap}"
        )


def _get(url: str) -> tuple[int, str]:
    """GET from a process of ours; status 0 while nobody answers."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=2)
    try:
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        return answer.status, " ".join(answer.read().decode(errors="replace").split())
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


class DeadLetter(msgspec.Struct, frozen=True):
    """Why a delivery of the demonstration became no event."""

    text: str
    received_at: int


class Duplicates(msgspec.Struct, frozen=True):
    """How many events of a provider were not written again."""

    provider: str
    events: int


class Outputs:
    """What reaches the output, dead and ledger topics from now on, by no group of consumers."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._events = output_topic(PREFIX)
        self._consumer = Consumer(
            {
                **pipeline.client,
                "group.id": f"{PREFIX}run",  # never committed to, so it never comes to exist
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "log_level": 0,
            }
        )
        self._ledgers = {ledger_topic(name, PREFIX): name for name in PROVIDERS}
        dead = [dead_topic(name, PREFIX) for name in PROVIDERS]
        topics = [self._events, *dead, *self._ledgers]
        self._consumer.assign([part for topic in topics for part in self._ends(topic)])

    def _ends(self, topic: str) -> list[TopicPartition]:
        metadata = self._consumer.list_topics(topic, timeout=10).topics[topic]
        ends: list[TopicPartition] = []
        for number in metadata.partitions:
            _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            ends.append(TopicPartition(topic, number, end))
        return ends

    def take(self, seconds: float) -> VerificationEvent | DeadLetter | Duplicates | None:
        """Wait for one record."""
        message = self._consumer.poll(seconds)
        if message is None or message.error() is not None:
            return None
        value = message.value()
        if message.topic() == self._events and value is not None:
            return decode(value)
        provider = self._ledgers.get(message.topic() or "")
        if provider is not None:
            page = read_entry(value, message.partition() or 0)
            return Duplicates(provider, page.duplicates)
        kept: Any = message.headers() or []  # the stub allows forms that librdkafka never gives
        headers = {name: text.decode() for name, text in kept}
        kind, path = headers.get("verihook-error-kind"), headers.get("verihook-error-path")
        received_at = int(headers.get("verihook-received-at", "0"))
        return DeadLetter(f"{message.topic()}: {kind} at {path}", received_at)

    def close(self) -> None:
        """Leave the cluster."""
        self._consumer.close()


class Demonstration:
    """Sends the fixtures, shows what becomes of them and keeps the books."""

    def __init__(self, pipeline: Pipeline, console: Console) -> None:
        self._pipeline = pipeline
        self._console = console
        self._outputs = Outputs(pipeline)
        self._tally = Tally()
        self._dead: list[str] = []
        self._refused: list[str] = []
        self._sent = 0
        self._began = int(time.time() * 1000)
        self._widths: list[int] = []

    def run(self) -> bool:
        """Send everything and tell whether every delivery became exactly its events."""
        deliveries = [
            Sent(endpoint=endpoint_for(fixture), fixture=fixture, events=_expected(fixture))
            for fixture in fixtures()
        ]
        if not deliveries:
            raise CannotRun("there are no fixtures to send under tests/fixtures")
        first = min(deliveries, key=_unfit_to_show)
        others = [sent for sent in deliveries if sent is not first]
        self._send(first)
        event = self._show_first(first.fixture)
        self._begin_table(deliveries)
        if event is not None:
            self._row(event)
        for sent in others:
            self._send(sent)
            self._drain(0)
        self._await_events()
        return self._verdict()

    def stay(self) -> None:
        """Show every further event until interrupted or something ends."""
        self._where_to_look()
        while True:
            self._drain(_TICK_SECONDS)
            self._pipeline.check()

    def close(self) -> None:
        """Stop reading what comes out."""
        self._outputs.close()

    def _send(self, sent: Sent) -> None:
        fixture, running = sent.fixture, self._pipeline.running
        secret = running.secrets[sent.endpoint.name]
        for _ in range(_ATTEMPTS):
            headers, body = signed(
                fixture.provider, secret, fixture.headers, fixture.body, fixture.options
            )
            try:
                answer = post(running.urls[sent.endpoint.name], headers, body)
            except ConfigurationError:
                # Nobody answers: most likely the gateway has just ended.
                time.sleep(_TICK_SECONDS)
                self._pipeline.check()
                raise
            if answer.status != _BUSY:
                break
            time.sleep(min(answer.retry_after or 1, 2))
            self._pipeline.check()
        self._sent += 1
        if answer.status == _STORED:
            self._tally.expect(sent)
        else:
            self._refused.append(
                f"{fixture.provider} {fixture.case}: {answer.status} {answer.text}"
            )

    def _take(self, seconds: float) -> VerificationEvent | None:
        taken = self._outputs.take(seconds)
        match taken:
            # On a cluster that is not ours, a former run may have left deliveries unread.
            case VerificationEvent() if taken.received_at >= self._began:
                self._tally.arrive(msgspec.to_builtins(taken))
                return taken
            case DeadLetter() if taken.received_at >= self._began:
                self._dead.append(taken.text)
            case Duplicates() if taken.events:
                times = "once" if taken.events == 1 else f"{taken.events} times"
                text = f"{taken.provider}: said before, {times}: counted, and not written again"
                self._console.print(text, style="dim")
        return None

    def _drain(self, seconds: float) -> None:
        """Show what is there, waiting so long for the first."""
        while (event := self._take(seconds)) is not None:
            self._row(event)
            seconds = 0

    def _show_first(self, fixture: Fixture) -> VerificationEvent | None:
        """Show the body that was sent beside the event it became."""
        deadline = time.monotonic() + _EVENTS_SECONDS
        event = None
        while event is None and not self._dead and not self._refused:
            if time.monotonic() > deadline:
                break
            event = self._take(_TICK_SECONDS)
            self._pipeline.check()
        if event is None:
            return None
        told = {name: value for name, value in msgspec.to_builtins(event).items() if value}
        pair = Table.grid(expand=True)
        pair.add_column(ratio=1)
        pair.add_column(ratio=1)
        pair.add_row(
            Panel(
                JSON(fixture.body.decode(errors="replace")),
                title=f"what {PROVIDERS[fixture.provider].title} sent ({fixture.case})",
            ),
            Panel(JSON(json.dumps(told)), title=f"the event on {output_topic(PREFIX)}"),
        )
        self._console.print(pair)
        return event

    def _begin_table(self, deliveries: Sequence[Sent]) -> None:
        """Print the heads of the columns, as wide as what is expected under them."""
        rows = [
            table_row(msgspec.convert(event, VerificationEvent))
            for sent in deliveries
            for event in sent.events
        ]
        self._widths = [max(map(len, cells)) for cells in zip(COLUMNS, *rows, strict=True)]
        self._console.print()
        self._line(COLUMNS, style="bold")

    def _row(self, event: VerificationEvent) -> None:
        self._line(table_row(event))

    def _line(self, cells: Sequence[str], style: str = "") -> None:
        padded = [cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)]
        text = Text("  ".join(padded).rstrip(), style=style)
        # A terminal shows the left part of a row; a file keeps all of it.
        cut = self._console.is_terminal
        self._console.print(text, no_wrap=True, overflow="ellipsis" if cut else "ignore", crop=cut)

    def _await_events(self) -> None:
        """Wait for what is expected, then a little for what is not."""
        deadline = time.monotonic() + _EVENTS_SECONDS
        while self._tally.missing and time.monotonic() < deadline:
            # What became a dead letter or something else will not become what is missing too.
            if len(self._dead) + len(self._tally.unexpected) >= len(self._tally.missing):
                break
            self._drain(_TICK_SECONDS)
            self._pipeline.check()
        settled = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < settled:
            self._drain(_TICK_SECONDS)
            self._pipeline.check()

    def _verdict(self) -> bool:
        """Say how it went, every difference by name."""
        complaints = [
            *(f"refused: {text}" for text in self._refused),
            *(f"no such event came: {text}" for text in self._tally.missing),
            *(f"not expected, or different: {text}" for text in self._tally.unexpected),
            *(f"dead letter: {text}" for text in self._dead),
        ]
        self._console.print()
        for complaint in complaints:
            self._console.print(complaint, markup=False, style="red")
        events = self._tally.arrived
        if complaints:
            self._console.print(
                f"{self._sent} deliveries sent, {events} events came, {len(complaints)} differences"
                f" from what the fixtures expect; the logs are in {shown(LOGS)}",
                style="bold red",
            )
            return False
        self._console.print(
            f"{self._sent} deliveries sent, each became exactly the events its fixture expects: "
            f"{events} events in all",
            style="bold green",
        )
        return True

    def _where_to_look(self) -> None:
        running = self._pipeline.running
        python = shown(Path(sys.executable))
        cluster = f"KAFKA_BOOTSTRAP_SERVERS={running.bootstrap} TOPIC_PREFIX={PREFIX}"
        provider, case = "veriff", "decision-declined-under-18"
        body = f"tests/fixtures/{provider}/{case}/body.raw"
        topics = f"{PREFIX}raw.<provider>, {PREFIX}dlq.<provider>, {output_topic(PREFIX)}"
        lines = [
            "",
            "where to look",
            *(f"  metrics of {name}: {url}" for name, url in running.metrics.items()),
            *(f"  metrics of the {name}: {url}" for name, url in running.watch.items()),
            f"  topics on {running.bootstrap}: {topics}",
            f"  logs: {shown(LOGS)}; addresses and secrets for programs: {shown(RUN_FILE)}",
            "what to try next, in another terminal",
            f"  {python} -m gateway send {provider} {case}    (again: a duplicate)",
            f"  sed s/a0000000/b0000000/ {body} > .local/another.json",
            f"  {python} -m gateway send {provider} .local/another.json    (a new one)",
            f"  {python} -m consumers explain {provider} {body}",
            f"  {cluster} {python} -m consumers tail",
            f"  {cluster} {python} -m consumers lag {provider}",
            f"  {cluster} {python} -m consumers audit {provider}",
            "Ctrl-C stops everything",
        ]
        for line in lines:
            self._console.print(line, markup=False, soft_wrap=True)


def _unfit_to_show(sent: Sent) -> tuple[bool, bool, bool, int]:
    """Rank deliveries: one event with a reasoned verdict, of a body that fits on a screen."""
    reasoned = [event for event in sent.events if event["outcome"] == "fail"]
    too_long = len(sent.fixture.body) > _BYTES_ON_A_SCREEN
    said = sum(bool(value) for event in sent.events for value in event.values())
    return len(sent.events) != 1, too_long, not reasoned, -said


def _expected(fixture: Fixture) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = msgspec.json.decode(
        (fixture.folder / "events.json").read_bytes()
    )
    return events
