"""The gateway as it is run: the real process, on real Kafka, under load, attack and signals."""

import collections
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from deploy.child import free_port
from deploy.kafka import temporary_kafka
from tests.test_silence import frozen

ROOT = Path(__file__).resolve().parent.parent
SECRET = "the-secret-of-these-tests"
PATIENCE = 60.0
NOWHERE = "127.0.0.1:1"

linux_only = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is read from /proc"
)


class Process:
    """python -m gateway serve, its log in a file; whatever happens, no secret stands in that log."""

    def __init__(self, folder, bootstrap, prefix="", words=(), **environ):
        self.listen = f"127.0.0.1:{free_port()}"
        self.admin = f"127.0.0.1:{free_port()}"
        self.log = folder / f"gateway-{free_port()}.log"
        self.environ = {
            "PATH": os.environ["PATH"],
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "TOPIC_PREFIX": prefix,
            "VERIFF_SECRET": SECRET,
            "GATEWAY_LISTEN": self.listen,
            "GATEWAY_ADMIN_LISTEN": self.admin,
            "GATEWAY_SINGLE_COPY": "1",
            **environ,
        }
        self.environ = {name: text for name, text in self.environ.items() if text is not None}
        self.words = words

    def __enter__(self):
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", *self.words],
                cwd=ROOT,
                env=self.environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        text = self.log.read_text()
        assert SECRET not in text
        assert "Telltale" not in text
        assert "Traceback" not in text, text

    def ready(self):
        self.until(lambda: get(self.admin, "/readyz")[0] == 200)
        return self

    def until(self, holds):
        """Wait until something holds; a process that ended cannot make it hold."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self):
        return self.process.wait(PATIENCE)

    def lines(self):
        """Give the log's lines as they are structured."""
        return [
            json.loads(line)
            for line in self.log.read_text().splitlines()
            if line.startswith("{") and line.endswith("}")
        ]

    def memory(self, field):
        """Read VmRSS or VmHWM in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {field}")


def get(address, path):
    """GET and give status and text; (0, "") if nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def metric(address, name, **labels):
    """Sum a metric's samples that have these labels."""
    total = 0.0
    for line in get(address, "/metrics")[1].splitlines():
        if line.split("{")[0].split(" ")[0] == name and all(
            f'{label}="{value}"' in line for label, value in labels.items()
        ):
            total += float(line.rpartition(" ")[2])
    return total


def headers_for(body, secret=SECRET):
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-HMAC-SIGNATURE": signature, "Content-Type": "application/json"}


def post(address, body, secret=SECRET):
    """POST a signed body on a connection of its own and give status and headers."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("POST", "/webhooks/veriff", body, headers_for(body, secret))
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers


def body_of(number):
    return b'{"id":"%d","person":"Jane Telltale"}' % number


def together(function, numbers, threads=8):
    """Call a function for every number in several threads and give what it gave."""
    given, waiting = [], collections.deque(numbers)

    def work():
        while True:
            try:
                number = waiting.popleft()
            except IndexError:
                return
            given.append(function(number))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return given


def numbers_in(deployment):
    """Read which numbers the raw topic holds, and how often each."""
    topic = f"{deployment.prefix}raw.veriff"
    consumer = Consumer(
        {
            "bootstrap.servers": deployment.bootstrap,
            "group.id": "reader-of-the-tests",
            "enable.auto.commit": False,
        }
    )
    with contextlib.closing(consumer):
        deadline = time.monotonic() + PATIENCE
        partitions = consumer.list_topics(topic, timeout=PATIENCE).topics[topic].partitions
        left = 0
        for number in partitions:
            while True:
                try:
                    low, high = consumer.get_watermark_offsets(TopicPartition(topic, number))
                    break
                except KafkaException:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            left += high - low
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        held = collections.Counter()
        while held.total() < left:
            assert time.monotonic() < deadline
            for message in consumer.consume(1000, timeout=0.5):
                assert message.error() is None
                held[int(message.key())] += 1
        return held


@pytest.fixture
def serve(tmp_path, topics):
    """Start gateways on topics of this test; they end with it."""
    with contextlib.ExitStack() as stack:

        def begin(*words, deployment=None, **environ):
            deployment = deployment or topics(**{"raw.partitions": 3})
            process = Process(tmp_path, deployment.bootstrap, deployment.prefix, words, **environ)
            stack.enter_context(process)
            process.deployment = deployment
            return process

        yield begin


@pytest.fixture
def many_files():
    """Allow this process the open files that 2,000 connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_silent_and_stalled_connections_leave_honest_deliveries_alone(serve, many_files):
    """A thousand connections that say nothing and a thousand bodies that stop: all others get 200."""
    gateway = serve(GATEWAY_HEADER_TIMEOUT="200", GATEWAY_BODY_TIMEOUT="200").ready()
    host, port = gateway.listen.split(":")
    beginning = b"POST /webhooks/veriff HTTP/1.1\r\nHost: gateway\r\nContent-Length: 50000\r\n\r\n{"
    with contextlib.ExitStack() as held:
        for _ in range(1000):
            silent = held.enter_context(socket.create_connection((host, int(port)), PATIENCE))
            stalled = held.enter_context(socket.create_connection((host, int(port)), PATIENCE))
            stalled.sendall(beginning)
        name = "verihook_webhook_requests_in_progress"
        gateway.until(lambda: metric(gateway.admin, name) == 1000)
        answers = together(lambda number: post(gateway.listen, body_of(number))[0], range(500))
        assert collections.Counter(answers) == {200: 500}
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.recv(1)
        assert metric(gateway.admin, name) == 1000
    gateway.until(lambda: metric(gateway.admin, name) == 0)
    assert metric(gateway.admin, "verihook_webhook_rejections_total", reason="client_gone") == 1000
    assert metric(gateway.admin, "verihook_webhook_rejections_total") == 1000
    assert numbers_in(gateway.deployment) == dict.fromkeys(range(500), 1)


@linux_only
def test_a_huge_body_costs_little_memory(serve):
    """200 MB in chunks, and a flood of bodies over the limit, are refused without being held."""
    gateway = serve().ready()
    assert post(gateway.listen, body_of(1))[0] == 200
    before = gateway.memory("VmRSS")
    host, port = gateway.listen.split(":")
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    head = b"POST /webhooks/veriff HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = 0
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(head)
        with contextlib.suppress(ConnectionError):
            while sent < 200_000_000:
                connection.sendall(chunk)
                sent += 65536
    assert sent < 200_000_000
    assert gateway.memory("VmHWM") - before < 24_000_000
    rejected = {"reason": "body_too_large", "endpoint": "veriff"}
    gateway.until(
        lambda: metric(gateway.admin, "verihook_webhook_rejections_total", **rejected) == 1
    )
    assert post(gateway.listen, body_of(2))[0] == 200


def test_sigterm_under_load_loses_nothing(serve):
    """Every 200 is in Kafka, later requests are refused or 503, and the exit code is 0."""
    gateway = serve().ready()
    answered, unsure = {}, set()
    stop = threading.Event()
    counter = iter(range(10**9))

    def hammer():
        connection = http.client.HTTPConnection(gateway.listen, timeout=PATIENCE)
        while not stop.is_set():
            number = next(counter)
            body = body_of(number)
            try:
                connection.request("POST", "/webhooks/veriff", body, headers_for(body))
                answer = connection.getresponse()
                answer.read()
                answered[number] = answer.status
                assert answer.status == 200 or answer.headers["Retry-After"] == "5"
            except (OSError, http.client.HTTPException):
                unsure.add(number)
                connection.close()
                if gateway.process.poll() is not None:
                    return
        connection.close()

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    gateway.until(lambda: len(answered) > 500)
    gateway.terminate()
    assert gateway.exit_code() == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert get(gateway.listen, "/") == (0, "")
    stored = {number for number, status in answered.items() if status == 200}
    assert set(answered.values()) <= {200, 503}
    assert len(stored) > 400
    held = numbers_in(gateway.deployment)
    assert stored <= set(held)
    assert set(held) <= stored | unsure
    assert set(held.values()) == {1}
    assert gateway.lines()[-1]["event"] == "stopped"
    assert gateway.lines()[-1]["unanswered"] == 0


def stalled_connection(gateway):
    """Begin a request whose body does not come."""
    host, port = gateway.listen.split(":")
    connection = socket.create_connection((host, int(port)), PATIENCE)
    connection.sendall(b"POST /webhooks/veriff HTTP/1.1\r\nHost: g\r\nContent-Length: 9\r\n\r\n{")
    name = "verihook_webhook_requests_in_progress"
    gateway.until(lambda: metric(gateway.admin, name) == 1)
    return connection


def test_while_it_drains_it_says_so(serve):
    """After SIGTERM: live, not ready, 503 with Retry-After for new work; then exit 0."""
    gateway = serve(GATEWAY_BODY_TIMEOUT="3").ready()
    with stalled_connection(gateway) as stalled:
        gateway.terminate()
        gateway.until(lambda: get(gateway.admin, "/readyz?verbose")[0] == 503)
        assert "shutting down" in get(gateway.admin, "/readyz?verbose")[1]
        assert get(gateway.admin, "/livez")[0] == 200
        status, headers = post(gateway.listen, body_of(1))
        assert (status, headers["Retry-After"]) == (503, "5")
        assert stalled.recv(100).startswith(b"HTTP/1.1 408")
        assert gateway.exit_code() == 0
    assert numbers_in(gateway.deployment) == {}


def test_a_drain_ends_though_a_body_never_comes(serve):
    """Nobody can hold the shutdown up longer than the drain's own time."""
    gateway = serve(GATEWAY_BODY_TIMEOUT="200", GATEWAY_DRAIN_TIMEOUT="1").ready()
    with stalled_connection(gateway):
        gateway.terminate()
        assert gateway.exit_code() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(serve, number):
    """Whoever insists does not wait for the drain."""
    gateway = serve(GATEWAY_BODY_TIMEOUT="200", GATEWAY_DRAIN_TIMEOUT="200").ready()
    with stalled_connection(gateway):
        gateway.process.send_signal(number)
        gateway.until(lambda: get(gateway.admin, "/readyz")[0] == 503)
        gateway.process.send_signal(number)
        assert gateway.exit_code() == -number


def test_several_workers_share_the_port(serve):
    """Both serve, each with metrics of its own; SIGTERM ends all with exit code 0."""
    gateway = serve("--workers", "2")
    gateway.until(lambda: sum(line["event"] == "ready" for line in gateway.lines()) == 2)
    admins = {line["admin"] for line in gateway.lines() if line["event"] == "listening"}
    assert len(admins) == 2
    assert gateway.admin in admins
    answers = together(lambda number: post(gateway.listen, body_of(number))[0], range(200))
    assert collections.Counter(answers) == {200: 200}
    labels = {"endpoint": "veriff", "result": "stored"}
    name = "verihook_webhook_requests_total"
    shares = [metric(admin, name, **labels) for admin in admins]
    assert sum(shares) == 200
    assert min(shares) > 0
    gateway.terminate()
    assert gateway.exit_code() == 0
    assert numbers_in(gateway.deployment) == dict.fromkeys(range(200), 1)
    assert all(get(admin, "/livez") == (0, "") for admin in admins)


@pytest.mark.parametrize("which", [0, 1])
def test_one_worker_that_dies_ends_all(serve, which):
    """The supervisor above sees exit code 1 and nobody goes on half-served."""
    gateway = serve("--workers", "2")
    gateway.until(lambda: sum(line["event"] == "ready" for line in gateway.lines()) == 2)
    pids = [line["pid"] for line in gateway.lines() if line["event"] == "listening"]
    assert gateway.process.pid not in pids
    os.kill(pids[which], signal.SIGKILL)
    assert gateway.exit_code() == 1
    assert get(gateway.listen, "/") == (0, "")


@linux_only
def test_workers_end_with_their_parent(serve):
    """A parent killed without a word leaves nobody behind on the port."""
    gateway = serve("--workers", "2")
    gateway.until(lambda: sum(line["event"] == "ready" for line in gateway.lines()) == 2)
    gateway.process.kill()
    gateway.exit_code()
    deadline = time.monotonic() + PATIENCE
    while get(gateway.listen, "/") != (0, ""):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_secrets_rotate_without_a_restart(serve, tmp_path):
    """A new secret is taken over, a bad file keeps the old one in force, and both are counted."""
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    gateway = serve(
        VERIFF_SECRET=None, VERIFF_SECRET_FILE=str(file), GATEWAY_RELOAD_INTERVAL="0.1"
    ).ready()
    after = SECRET + "-afterwards"
    reloads = "verihook_configuration_reloads_total"
    assert post(gateway.listen, body_of(1))[0] == 200
    assert post(gateway.listen, body_of(2), after)[0] == 401
    file.write_text("short")
    gateway.until(lambda: metric(gateway.admin, reloads, result="failed") == 1)
    assert post(gateway.listen, body_of(3))[0] == 200
    assert get(gateway.admin, "/readyz")[0] == 200
    file.write_text(after)
    gateway.until(lambda: metric(gateway.admin, reloads, result="ok") == 1)
    assert post(gateway.listen, body_of(4))[0] == 401
    assert post(gateway.listen, body_of(5), after)[0] == 200
    file.unlink()
    gateway.until(lambda: metric(gateway.admin, reloads, result="failed") == 2)
    assert post(gateway.listen, body_of(6), after)[0] == 200
    gateway.terminate()
    assert gateway.exit_code() == 0
    assert set(numbers_in(gateway.deployment)) == {1, 3, 5, 6}


def test_without_kafka_it_waits_and_says_so(serve, topics):
    """Live, not ready, 503 with Retry-After, a reason for the operator; SIGTERM still ends it."""
    gateway = serve(KAFKA_BOOTSTRAP_SERVERS=NOWHERE)
    gateway.until(lambda: get(gateway.admin, "/livez")[0] == 200)
    gateway.until(lambda: get(gateway.listen, "/")[0] == 404)
    status, headers = post(gateway.listen, body_of(1))
    assert (status, headers["Retry-After"]) == (503, "5")
    labels = {"endpoint": "veriff", "reason": "not_ready"}
    assert metric(gateway.admin, "verihook_webhook_rejections_total", **labels) == 1
    assert get(gateway.admin, "/readyz")[0] == 503
    gateway.terminate()
    assert gateway.exit_code() == 0


def test_a_broker_that_is_away_is_said_until_it_is_back(serve, topics):
    """Not ready, live, and since when; ready again by itself, though nobody sends anything."""
    with temporary_kafka() as own:
        gateway = serve(deployment=topics(bootstrap=own.bootstrap)).ready()
        assert metric(gateway.admin, "verihook_ready", condition="kafka") == 1
        own.stop()
        gateway.until(lambda: get(gateway.admin, "/readyz")[0] == 503)
        assert get(gateway.admin, "/readyz")[1] == "not ready\n"
        text = get(gateway.admin, "/readyz?verbose")[1]
        assert "\nkafka: no broker is reachable, since " in text
        assert "\ntopics: ok since " in text
        assert get(gateway.admin, "/livez")[0] == 200
        assert metric(gateway.admin, "verihook_ready", condition="kafka") == 0
        own.start()
        gateway.ready()
        assert "\nkafka: ok since " in get(gateway.admin, "/readyz?verbose")[1]
        assert post(gateway.listen, body_of(1))[0] == 200


def test_a_broker_that_hangs_fills_the_budget_and_is_said(serve, topics):
    """What waits is stored when it goes on; meanwhile a new delivery would be refused."""
    with temporary_kafka() as own:
        gateway = serve(
            deployment=topics(bootstrap=own.bootstrap),
            GATEWAY_MAX_IN_FLIGHT="2",
            GATEWAY_DEADLINE="60",
        ).ready()
        assert post(gateway.listen, body_of(0))[0] == 200
        answers = []
        senders = [
            threading.Thread(target=lambda n=n: answers.append(post(gateway.listen, body_of(n))[0]))
            for n in (1, 2)
        ]
        with frozen(own):
            for sender in senders:
                sender.start()
            gateway.until(lambda: get(gateway.admin, "/readyz")[0] == 503)
            assert "\nkafka: as many " in get(gateway.admin, "/readyz?verbose")[1]
            assert post(gateway.listen, body_of(3))[0] == 503
        for sender in senders:
            sender.join(PATIENCE)
        assert answers == [200, 200]
        gateway.ready()


def refusal(gateway):
    """Give the one sentence of a gateway that does not go on, with exit code 2."""
    assert gateway.exit_code() == 2
    (sentence,) = [
        line for line in gateway.log.read_text().splitlines() if line.startswith("gateway: ")
    ]
    return sentence


def test_a_missing_topic_is_refused(serve, kafka, topics):
    """Topics are made by who is responsible for them, never by a delivery."""
    deployment = topics(**{"raw.partitions": 1})
    deployment.prefix += "absent."
    assert "deploy topics apply" in refusal(serve(deployment=deployment))
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    assert f"{deployment.prefix}raw.veriff" not in admin.list_topics(timeout=PATIENCE).topics


def test_a_single_copy_has_to_be_asked_for(serve):
    """A single copy is refused unless the operator says so, and how is said."""
    refused = refusal(serve(GATEWAY_SINGLE_COPY=None))
    assert "has 1 replica(s), it needs 2" in refused
    assert "accept a single copy with GATEWAY_SINGLE_COPY=1" in refused


def test_one_replica_is_not_two_copies(serve, kafka, topics):
    """Kafka 4 takes min.insync.replicas=2 on a topic of one replica for 1: that is a single copy."""
    deployment = topics(**{"raw.partitions": 1})
    topic = f"{deployment.prefix}raw.veriff"
    two = ConfigEntry("min.insync.replicas", "2", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[two])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(PATIENCE)
    gateway = serve(deployment=deployment, GATEWAY_SINGLE_COPY=None)
    started = ("ready", "gateway: ")
    deadline = time.monotonic() + PATIENCE
    while not any(word in gateway.log.read_text() for word in started):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not any(line["event"] == "ready" for line in gateway.lines())
    assert "replica" in refusal(gateway)


def test_a_topic_that_is_too_small_is_refused(serve, topics):
    """The size chain is checked at the start, not by the first large delivery."""
    deployment = topics(**{"raw.partitions": 1, "raw.max.message.bytes": 900_000})
    assert "max.message.bytes=900000" in refusal(serve(deployment=deployment))


def test_a_port_that_is_taken_is_refused(serve):
    """A second gateway by mistake does not silently share the first one's traffic."""
    first = serve().ready()
    again = serve(deployment=first.deployment, GATEWAY_LISTEN=first.listen)
    assert "GATEWAY_LISTEN" in refusal(again)
    several = serve("--workers", "2", deployment=first.deployment, GATEWAY_LISTEN=first.listen)
    assert "GATEWAY_LISTEN" in refusal(several)
    assert post(first.listen, body_of(1))[0] == 200
