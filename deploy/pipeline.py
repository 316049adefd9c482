"""The whole pipeline as processes of this machine: started together, watched, stopped in order."""

import contextlib
import fcntl
import http.client
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import msgspec
from rich.console import Console

from deploy.child import HOST, LOCAL, CannotRun, Child, port_or_free, shown
from deploy.endpoints import (
    CANARY_ENDPOINT,
    ENDPOINTS,
    MadeEndpoint,
    make_endpoint,
    write_endpoints,
    write_private,
)
from deploy.kafka import DEFAULT_PORT, Kafka
from deploy.topics import Cluster, plan, single_copy, wanted_topics
from gateway.delivery import CANARY
from gateway.kafka import client_config
from gateway.process import Address
from gateway.providers import EVERY, PROVIDERS
from gateway.send import RUN_FILE, Secret

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

_READY_SECONDS = 60.0
_BEAT_SECONDS = 60.0
TICK_SECONDS = 0.1

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
            time.sleep(TICK_SECONDS)

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
