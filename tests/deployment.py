"""A deployment of a test's own: real processes, on the real Kafka, under its own prefix."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.child import Child, free_port
from deploy.endpoints import (
    CANARY_ENDPOINT,
    ENDPOINTS,
    endpoint_for,
    make_endpoint,
    write_endpoints,
)
from gateway.delivery import output_topic, raw_topic
from gateway.send import Fixture, post, signed
from tests.conftest import EVENT_KEY, SUBJECT_KEY

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60.0
"""Seconds to wait for what must happen; a machine under load is slow, not wrong."""
UNSETTLED = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART}
"""What a broker says of a partition while it is being made."""


def until(holds, what: str, seconds: float = PATIENCE):
    """Wait until `holds()` is true and give its answer; fail saying what did not happen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := holds():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def get(url: str) -> tuple[int, str]:
    """GET a page; (0, "") if nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""


def delete_records(admin: AdminClient, before: dict[tuple[str, int], int]) -> None:
    """Let logs begin later, as retention would; a partition made just now may have to be asked again."""
    wanted = [TopicPartition(topic, number, at) for (topic, number), at in before.items()]

    def deleted() -> bool:
        for answer in admin.delete_records(wanted).values():
            try:
                answer.result(30)
            except KafkaException as error:
                if error.args[0].code() not in UNSETTLED:
                    raise
                return False
        return True

    until(deleted, f"records are deleted before {before}")


class Process:
    """One of our programs with an admin address, its log in a file; it never outlives the tests."""

    def __init__(
        self, command: list[str], environ: dict[str, str], admin: int, log: Path, tree: Path = ROOT
    ) -> None:
        self.admin = f"http://127.0.0.1:{admin}"
        self.log = log
        self.name = " ".join(command)
        child = Child(
            self.name,
            [sys.executable, "-m", *command],
            log,
            environ=os.environ | environ,
            folder=tree,
            keep_log=True,
        )
        self.popen = child._process

    def wait_ready(self) -> "Process":
        """Wait for /readyz; fail with the log if the process ended."""

        def ready():
            assert self.popen.poll() is None, self.log.read_text()
            return get(f"{self.admin}/readyz")[0] == 200

        until(ready, f"{self.name} ready; {self.log.read_text()[-2000:]}")
        return self

    def metrics(self) -> dict[str, float]:
        """Every sample, by its name and labels as exposed."""
        _, page = get(f"{self.admin}/metrics")
        lines = (line for line in page.splitlines() if line and not line.startswith("#"))
        return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines)}

    def sum(self, name: str, *parts: str) -> float:
        """The sum of a metric's samples whose labels hold all these texts."""
        return sum(
            value
            for key, value in self.metrics().items()
            if key.partition("{")[0] == name and all(part in key for part in parts)
        )

    def kill(self) -> None:
        """Kill without notice (kill -9)."""
        self.popen.kill()
        self.popen.wait()

    def stop(self, seconds: float = PATIENCE) -> int:
        """SIGTERM; give the exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(seconds)


class Deployment:
    """Gateway and consumers of one test; stops whatever still runs at the end."""

    def __init__(self, topics, folder: Path) -> None:
        self.prefix = topics.prefix
        self.bootstrap = topics.bootstrap
        self.folder = folder
        known = [*ENDPOINTS, *([CANARY_ENDPOINT] if getattr(topics, "canary", False) else [])]
        self.made = {one.name: make_endpoint(one) for one in known}
        self.processes: list[Process] = []
        self.url = ""

    def environ(self, **more: str) -> dict[str, str]:
        """What both programs need."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "TOPIC_PREFIX": self.prefix,
            "EVENT_KEY": EVENT_KEY,
            "SUBJECT_KEY": SUBJECT_KEY,
            "GATEWAY_SINGLE_COPY": "1",
            "CONSUMER_SINGLE_COPY": "1",
            "GATEWAY_ENDPOINTS": str(write_endpoints(self.made.values(), self.folder)),
            **more,
        }

    def gateway(self, *arguments: str, **environ: str) -> Process:
        """Start a gateway and wait until it is ready."""
        port, admin = free_port(), None
        with socket.socket() as held:  # so that the second port is another one
            held.bind(("127.0.0.1", port))
            admin = free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "GATEWAY_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        }
        return self._start(["gateway", "serve", *arguments], settings | environ, admin)

    def consumer(
        self, provider: str, *arguments: str, ready: bool = True, tree: Path = ROOT, **environ: str
    ) -> Process:
        """Start a provider's consumer, of this tree or another one, and wait until it is ready."""
        admin = free_port()
        settings = {"CONSUMER_ADMIN_LISTEN": f"127.0.0.1:{admin}"}
        command = ["consumers", "run", provider, *arguments]
        return self._start(command, settings | environ, admin, ready=ready, tree=tree)

    def prober(self, *, ready: bool = False, **environ: str) -> Process:
        """Start the canary's prober; it is ready once a beat of its own was seen."""
        admin = free_port()
        made = self.made["canary"]
        settings = {
            "CANARY_URL": f"{self.url}/webhooks/{made.path}",
            "CANARY_SECRET": made.held,
            "CANARY_INTERVAL": "1",
            "CANARY_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        }
        return self._start(["gateway", "canary"], settings | environ, admin, ready=ready)

    def _start(self, command, environ, admin, *, ready=True, tree=ROOT) -> Process:
        log = self.folder / f"{len(self.processes)}-{'-'.join(command[:3])}.log"
        process = Process(command, self.environ(**environ), admin, log, tree)
        self.processes.append(process)
        return process.wait_ready() if ready else process

    def send(self, endpoint: str, body: bytes, headers: dict[str, str] | None = None):
        """Sign a body as the endpoint's provider would and POST it there."""
        given = {"content-type": "application/json"} if headers is None else headers
        made = self.made[endpoint]
        known = made.endpoint
        all_headers, sent = signed(known.provider, made.secret, given, body, known.options)
        return post(f"{self.url}/webhooks/{made.path}", all_headers, sent)

    def send_fixture(self, found: Fixture):
        """Send a fixture to the endpoint it was made for."""
        return self.send(endpoint_for(found).name, found.body, found.headers)

    def read(self, topic: str, count: int | None = None, seconds: float = PATIENCE) -> list:
        """Read a whole topic: `count` messages, or as many as are there now."""
        return read(self.bootstrap, topic, count, seconds)

    def raw(self, provider: str, count: int | None = None) -> list:
        """Read a raw topic."""
        return self.read(raw_topic(provider, self.prefix), count)

    def events(self, count: int | None = None, provider: str = "") -> list:
        """Read the output topic; the canary has one of its own."""
        return self.read(output_topic(self.prefix, provider), count)

    def close(self) -> None:
        """Stop everything, gateways first."""
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.popen.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def read(bootstrap: str, topic: str, count: int | None, seconds: float) -> list:
    """Read a topic from its beginning: `count` messages, or as many as are there at the call."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"test-reader-{time.monotonic_ns()}",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    messages = []
    try:
        numbers = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        partitions = [TopicPartition(topic, number, 0) for number in numbers]
        # Asked before anything is fetched: on the same connection a question waits for a fetch.
        ends = [until(lambda p=p: _end(consumer, p), f"{topic} has a leader") for p in partitions]
        wanted = sum(end for (end,) in ends) if count is None else count
        consumer.assign(partitions)
        end = time.monotonic() + seconds
        while len(messages) < wanted:
            if time.monotonic() > end:
                raise AssertionError(f"{topic} holds {len(messages)}, {wanted} were awaited")
            for message in consumer.consume(max(1, wanted - len(messages)), 0.2):
                assert message.error() is None, message.error()
                messages.append(message)
    finally:
        consumer.close()
    return messages


def _end(consumer: Consumer, partition: TopicPartition) -> tuple[int] | None:
    """A partition's end; None while it has no leader, as just after its topic was made."""
    try:
        return (consumer.get_watermark_offsets(partition, timeout=30)[1],)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.NOT_LEADER_FOR_PARTITION:
            return None
        raise


@contextlib.contextmanager
def deployment(topics, folder: Path) -> Iterator[Deployment]:
    """Give a deployment and stop it afterwards."""
    running = Deployment(topics, folder)
    try:
        yield running
    finally:
        running.close()
