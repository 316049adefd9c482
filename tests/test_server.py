"""What the HTTP edge answers: the answers table row by row, over real sockets on real granian."""

import asyncio
import hashlib
import hmac
import io
import json
import os
import re
import socket
import sys
import threading
import time
from contextlib import suppress

import msgspec
import pytest
import structlog
import uvloop
from granian.rsgi import ProtocolClosed

from deploy.child import free_port
from gateway.endpoints import load_endpoints
from gateway.metrics import EndpointMetrics, GatewayMetrics
from gateway.process import Address, ConfigurationError, start_logging
from gateway.providers import PROVIDERS
from gateway.receive import Endpoint
from gateway.rejections import (
    KAFKA_QUEUE_FULL,
    KAFKA_REFUSED,
    KAFKA_TIMEOUT,
    REASONS,
    Rejection,
)
from gateway.serve import _server, serve
from gateway.server import Webhooks
from gateway.settings import Settings, Tuning
from gateway.signatures import Acknowledged, Key

SECRET = b"the-secret-of-these-tests"
TOKEN = "Zk3Zk3Zk3Zk3Zk3Zk3Zk3Zk3"
LIMIT = 100_000
BODY = b'{"id":"session-1","person":"Jane Telltale"}'
PATIENCE = 20.0


class Store:
    """Where deliveries go in these tests: a list, a refusal, or a gate that is closed."""

    def __init__(self):
        self.deliveries = []
        self.error = None
        self.gate = None
        self.waiting = 0

    async def publish(self, delivery):
        if self.error is not None:
            raise self.error
        if self.gate is not None:
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
        self.deliveries.append(delivery)


class Gateway:
    """Webhooks under granian, as gateway.serve builds it, on a loop in a thread of its own."""

    def __init__(self, endpoints, **tuning):
        self.store = Store()
        self.metrics = GatewayMetrics("0", "0")
        self.tuning = Tuning(**{"body_limit": LIMIT, **tuning})
        self.endpoints = endpoints
        self.port = free_port()
        self.connections = []
        self.started = threading.Event()
        self.thread = threading.Thread(target=lambda: uvloop.run(self._main()), daemon=True)

    async def _main(self):
        self.loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        self.webhooks = Webhooks(self.endpoints, self.store, self.metrics, self.tuning)
        self.webhooks.open()
        server = _server(self.webhooks, Address("127.0.0.1", self.port), self.tuning.header_timeout)
        serving = asyncio.ensure_future(server.serve())
        watching = asyncio.ensure_future(self.webhooks.watch_bodies())
        self.started.set()
        await self.stop.wait()
        watching.cancel()
        server.stop()
        await asyncio.wait({serving}, timeout=5)

    def __enter__(self):
        self.thread.start()
        assert self.started.wait(PATIENCE)
        until(lambda: connectable(self.port))
        return self

    def __exit__(self, *_):
        for connection in self.connections:
            connection.socket.close()
        if self.store.gate is not None:
            self.call(self.store.gate.set)
        self.call(self.stop.set)
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    def call(self, function, *arguments):
        """Run a function on the server's loop and give its value."""

        async def on_loop():
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(on_loop(), self.loop).result(PATIENCE)

    def close_the_gate(self):
        """Let deliveries wait for Kafka until the gate is opened."""

        def close():
            self.store.gate = asyncio.Event()

        self.call(close)

    def open_the_gate(self):
        gate, self.store.gate = self.store.gate, None
        self.call(gate.set)

    def connect(self):
        connection = Connection(self.port)
        self.connections.append(connection)
        return connection

    def ask(self, data):
        """Send raw bytes on a connection of their own and give the answer."""
        with self.connect() as connection:
            connection.send(data)
            return connection.answer()

    def value(self, name, **labels):
        """The sum of a metric's samples that have these labels."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def requests(self):
        """Give the counted requests: (endpoint, result, code) -> count."""
        found = {}
        for family in self.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == "verihook_webhook_requests_total" and sample.value:
                    labels = sample.labels
                    key = (labels["endpoint"], labels["result"], labels["code"])
                    found[key] = found.get(key, 0) + sample.value
        return found

    def reasons(self):
        """Give the counted rejections: (endpoint, reason) -> count."""
        return {
            (sample.labels["endpoint"], sample.labels["reason"]): sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "verihook_webhook_rejections_total" and sample.value
        }

    def at_rest(self):
        """Wait until no request is under way."""
        until(lambda: self.value("verihook_webhook_requests_in_progress") == 0)


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A raw connection, for what a client library would be too kind to send."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.held = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        # A refusal may come, and the connection end, while we are still sending.
        with suppress(OSError):
            self.socket.sendall(data)

    def end(self):
        """Say that no more is coming, as a client that goes away does."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def more(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.held += data
        return data

    def answer(self, *, head=False):
        """Read one whole answer."""
        while b"\r\n\r\n" not in self.held:
            assert self.more(), f"closed without an answer: {self.held!r}"
        first, _, self.held = self.held.partition(b"\r\n\r\n")
        lines = first.decode("ascii").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = 0 if head else int(headers.get("content-length", 0))
        while len(self.held) < length:
            assert self.more(), "closed within an answer"
        body, self.held = self.held[:length], self.held[length:]
        return Answer(int(lines[0].split()[1]), headers, body)

    def ends(self):
        """Tell whether the other side closes without another byte."""
        return not self.held and not self.more()


def until(holds):
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def connectable(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def signature(body, secret=SECRET):
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


def head(*more, path="/webhooks/veriff", method="POST", signed=None):
    """Write a request's head; further header lines as they are."""
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway"]
    if signed is not None:
        lines.append(f"X-HMAC-SIGNATURE: {signature(signed)}")
    return ("\r\n".join([*lines, *more]) + "\r\n\r\n").encode("latin-1")


def request(body=BODY, *more, **changes):
    """Write a whole request with a right signature."""
    return head(f"Content-Length: {len(body)}", *more, signed=body, **changes) + body


def chunked(body, size=8192):
    """Write a body in chunks."""
    pieces = [body[place : place + size] for place in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def endpoint_of(word, name=None, secrets=(("default", SECRET),), **changes):
    registered = PROVIDERS[word]
    held = [Key(id=key_id, value=value) for key_id, value in secrets]
    endpoint = Endpoint(
        name=name or word,
        provider=registered,
        scheme=registered.scheme(held, {}),
        environment="sandbox",
    )
    return msgspec.structs.replace(endpoint, **changes)


def endpoints():
    found = [
        endpoint_of("veriff"),
        endpoint_of("pawapass"),
        endpoint_of("veriff", "guarded", path_token=TOKEN.encode()),
    ]
    return {endpoint.name: endpoint for endpoint in found}


@pytest.fixture
def start(monkeypatch):
    """Start gateways that end with the test; the log of the production form is kept."""
    running = []
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    start_logging("debug")
    monkeypatch.setattr("gateway.server.log", structlog.get_logger())

    def begin(these=None, **tuning):
        gateway = Gateway(endpoints() if these is None else these, **tuning).__enter__()
        gateway.log = written
        running.append(gateway)
        return gateway

    yield begin
    for gateway in running:
        gateway.__exit__()
    structlog.reset_defaults()


@pytest.fixture
def gateway(start):
    return start()


# Stored.


def test_a_stored_delivery_is_answered_200(gateway):
    """Exactly 200, after the store has it, counted as stored with its key and size."""
    answer = gateway.ask(request())
    assert answer.status == 200
    (delivery,) = gateway.store.deliveries
    assert delivery.body == BODY
    assert delivery.key == b"session-1"
    assert delivery.provenance.endpoint == "veriff"
    assert abs(delivery.provenance.received_at / 1000 - time.time()) < 3600
    assert gateway.requests() == {("veriff", "stored", "200"): 1}
    assert gateway.reasons() == {}
    used = {"endpoint": "veriff", "key_id": "default", "scheme": "veriff-hmac-sha256"}
    assert gateway.value("verihook_signature_key_used_total", **used) == 1
    assert gateway.value("verihook_webhook_body_bytes_sum", endpoint="veriff") == len(BODY)
    assert gateway.value("verihook_webhook_request_duration_seconds_count", endpoint="veriff") == 1


def test_nothing_is_answered_before_the_store_has_it(gateway):
    """While Kafka has not answered, neither do we."""
    gateway.close_the_gate()
    with gateway.connect() as connection:
        connection.send(request())
        until(lambda: gateway.store.waiting)
        connection.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.answer()
        assert gateway.value("verihook_webhook_requests_in_progress") == 1
        connection.socket.settimeout(PATIENCE)
        gateway.open_the_gate()
        assert connection.answer().status == 200
    gateway.at_rest()


def test_delivery_ids_are_ours_and_never_repeat(gateway):
    """Two identical deliveries are two records; no header chooses our id."""
    for _ in range(2):
        gateway.ask(request(BODY, "X-Delivery-Id: theirs", "Verihook-Delivery-Id: theirs"))
    one, two = (delivery.provenance.delivery_id for delivery in gateway.store.deliveries)
    assert one != two
    assert re.fullmatch(r"[0-9a-f]{32}", one)
    assert "theirs" not in one + two


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, LIMIT - 1, LIMIT])
@pytest.mark.parametrize("form", ["declared", "chunked"])
def test_a_body_within_the_limit_arrives_whole(gateway, size, form):
    """Every byte, up to the limit itself, in one piece or in many, whatever the bytes."""
    body = os.urandom(size)
    if form == "declared":
        answer = gateway.ask(request(body))
    else:
        answer = gateway.ask(head("Transfer-Encoding: chunked", signed=body) + chunked(body))
    assert answer.status == 200
    assert gateway.store.deliveries[0].body == body


def test_a_body_may_come_byte_by_byte(gateway):
    """Neither head nor body needs to come at once."""
    with gateway.connect() as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request():
            connection.send(bytes([byte]))
        assert connection.answer().status == 200
    assert gateway.store.deliveries[0].body == BODY


def test_a_connection_carries_many_deliveries(gateway):
    """Keep-alive, one after the other and pipelined; refusals in between do not break it."""
    with gateway.connect() as connection:
        for _ in range(3):
            connection.send(request())
            assert connection.answer().status == 200
        wrong = head(f"Content-Length: {len(BODY)}", signed=b"other") + BODY
        connection.send(request() + wrong + request(b'{"id":"last"}'))
        assert [connection.answer().status for _ in range(3)] == [200, 401, 200]
    assert len(gateway.store.deliveries) == 5
    assert gateway.store.deliveries[-1].key == b"last"


def test_an_http_1_0_client_is_served(gateway):
    """Old clients without Host and keep-alive get their answer."""
    data = request().replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: gateway\r\n", b"")
    assert gateway.ask(data).status == 200


def test_header_names_come_in_any_case(gateway):
    """HTTP's header names have no case."""
    data = request().replace(b"X-HMAC-SIGNATURE", b"x-HMAC-siGNature")
    assert gateway.ask(data).status == 200


def test_expect_100_is_answered(gateway):
    """A client that asks first is told to go on, one that declares too much is not."""
    with gateway.connect() as connection:
        data = request(BODY, "Expect: 100-continue")
        connection.send(data[: -len(BODY)])
        assert connection.answer(head=True).status == 100
        connection.send(BODY)
        assert connection.answer().status == 200
    with gateway.connect() as connection:
        connection.send(head(f"Content-Length: {LIMIT + 1}", "Expect: 100-continue", signed=BODY))
        assert connection.answer().status == 413


def test_an_acknowledged_request_is_200_ignored_and_not_stored(start):
    """The one success without a record is counted as ignored."""

    class Confirms:
        key_ids = ()
        names = ()

        def verify(self, headers, body, now):
            return Acknowledged("subscription_confirmation")

        def is_heavy(self, body):
            return False

    gateway = start({"veriff": endpoint_of("veriff", scheme=Confirms())})
    assert gateway.ask(request()).status == 200
    assert gateway.store.deliveries == []
    assert gateway.requests() == {("veriff", "ignored", "200"): 1}


def test_a_confirmation_is_not_hidden_by_a_strangers(start):
    """Lines that say different things do not hold each other back; the same one does."""

    class Confirms:
        key_ids = names = ()

        def verify(self, headers, body, now):
            return Acknowledged("subscription_confirmation", body.decode())

        def is_heavy(self, body):
            return False

    gateway = start({"veriff": endpoint_of("veriff", scheme=Confirms())})
    for body in (b"forged", b"forged", b"genuine"):
        assert gateway.ask(request(body)).status == 200
    said = gateway.log.getvalue()
    assert said.count("forged") == 1
    assert said.count("genuine") == 1


def test_heavy_verification_leaves_the_loop_free(start):
    """A scheme that says a body is heavy is run elsewhere, and its refusals arrive all the same."""
    where = []

    class Heavy:
        key_ids = ("default",)
        names = ("veriff-hmac-sha256",)

        def __init__(self, inner):
            self.inner = inner

        def verify(self, headers, body, now):
            where.append(threading.current_thread())
            return self.inner.verify(headers, body, now)

        def is_heavy(self, body):
            return True

    scheme = Heavy(endpoint_of("veriff").scheme)
    gateway = start({"veriff": endpoint_of("veriff", scheme=scheme)})
    assert gateway.ask(request()).status == 200
    assert gateway.ask(head("Content-Length: 1", signed=b"2") + b"1").status == 401
    assert gateway.thread not in where
    assert len(where) == 2


# Unknown paths and methods.


@pytest.mark.parametrize(
    "path",
    [
        "/", "/webhooks", "/webhooks/", "/webhooks/nobody", "/webhook/veriff", "//webhooks/veriff",
        "/webhooks//veriff", "/webhooks/veriff/", "/webhooks/veriff/more", "/webhooks/veriff/a/b",
        "/WEBHOOKS/veriff", "/webhooks/Veriff", "/webhooks/veriff%00", "/webhooks/veriff%20",
        "/webhooks/%ff", "/webhooks/veriff%2f", "/webhooks/../webhooks/veriff", "/webhooks/./veriff",
        "/elsewhere/veriff", "/elsewhere/veriff/x", "/x/veriff/y/z", "/metrics", "/readyz",
        "/webhooks/veriff;a=b", "/" + "a" * 5000, "/webhooks/unknown",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_an_unknown_path_is_404(gateway, path, method):
    """Whatever is not exactly an endpoint's path is 404, for every method, and stores nothing."""
    answer = gateway.ask(request(path=path, method=method))
    assert answer.status == 404
    assert answer.body == b"not found\n"
    assert gateway.store.deliveries == []
    ((_, result, code),) = gateway.requests()
    assert (result, code) == ("rejected", "404")


@pytest.mark.parametrize(
    "path",
    ["/", "/webhooks/nobody", "/webhooks/secret-token-somebody-pasted", "/elsewhere/veriff"],
)
def test_an_unknown_path_is_counted_as_unknown(gateway, path):
    """Paths are the sender's words: none of them becomes a label or is taken for an endpoint."""
    assert gateway.ask(request(path=path)).status == 404
    assert gateway.requests() == {("unknown", "rejected", "404"): 1}
    assert gateway.reasons() == {("unknown", "unknown_endpoint"): 1}


def test_no_path_makes_a_label(gateway):
    """A thousand invented paths add no time series."""
    before = len(list(samples(gateway)))
    for number in range(100):
        gateway.ask(request(path=f"/webhooks/x{number}/y{number}"))
    after = len(list(samples(gateway)))
    assert after - before <= 1
    assert gateway.requests() == {("unknown", "rejected", "404"): 100}


def samples(gateway):
    for family in gateway.metrics.registry.collect():
        yield from family.samples


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", "POSTS"]
)
def test_another_method_is_405(gateway, method):
    """Deliveries are POSTed; the answer names the method that is allowed."""
    with gateway.connect() as connection:
        connection.send(request(method=method))
        answer = connection.answer(head=method == "HEAD")
    assert answer.status == 405
    assert answer.headers["allow"] == "post"
    assert gateway.store.deliveries == []
    assert gateway.requests() == {("veriff", "rejected", "405"): 1}
    assert gateway.reasons() == {("veriff", "method_not_allowed"): 1}


def test_connect_is_not_served(gateway):
    """We are nobody's proxy."""
    answer = gateway.ask(b"CONNECT gateway:443 HTTP/1.1\r\nHost: gateway\r\n\r\n")
    assert answer.status in {400, 404, 405}


WRONG_TOKENS = {
    "missing": "", "empty": "/", "wrong": "/" + "x" * len(TOKEN), "prefix": "/" + TOKEN[:-1],
    "longer": f"/{TOKEN}x", "case": "/" + TOKEN.swapcase(), "trailing slash": f"/{TOKEN}/",
    "with more": f"/{TOKEN}/more", "in the query": f"?token={TOKEN}", "not ascii": "/%e9%ff",
    "in a query after a wrong one": f"/x?{TOKEN}", "nul": f"/{TOKEN}%00", "blank": f"/{TOKEN}%20",
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_TOKENS)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_wrong_path_token_is_404(gateway, case, method):
    """A guarded endpoint answers as if it did not exist, whatever is missing or wrong."""
    path = f"/webhooks/guarded{WRONG_TOKENS[case]}"
    answer = gateway.ask(request(path=path, method=method))
    absent = gateway.ask(request(path="/webhooks/nobody"))
    assert answer.status == absent.status == 404
    assert answer.body == absent.body
    assert set(answer.headers) == set(absent.headers)
    assert gateway.store.deliveries == []


def test_the_right_path_token_opens(gateway):
    """As it is, percent-encoded, and with a query; but not without a right signature."""
    encoded = "".join(f"%{ord(letter):02X}" for letter in TOKEN)
    for path in (TOKEN, f"{TOKEN}?a=b", encoded):
        assert gateway.ask(request(path=f"/webhooks/guarded/{path}")).status == 200
    unsigned = head("Content-Length: 2", path=f"/webhooks/guarded/{TOKEN}") + b"{}"
    assert gateway.ask(unsigned).status == 401
    assert gateway.ask(request(path=f"/webhooks/guarded/{TOKEN}", method="GET")).status == 405
    assert len(gateway.store.deliveries) == 3
    assert TOKEN not in repr(gateway.store.deliveries)


def test_the_path_token_is_compared_in_constant_time(gateway, monkeypatch):
    """Every given token goes through compare_digest, as bytes."""
    compared = []

    def spy(left, right, compare=hmac.compare_digest):
        compared.append((left, right))
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    gateway.ask(request(path="/webhooks/guarded/almost"))
    assert compared == [(b"almost", TOKEN.encode())]


def test_a_query_changes_nothing(gateway):
    """Query parameters are neither path nor headers."""
    right = signature(BODY)
    assert gateway.ask(request(path="/webhooks/veriff?x=y&x=z")).status == 200
    query = f"/webhooks/veriff?x-hmac-signature={right}&X-HMAC-SIGNATURE={right}"
    assert gateway.ask(head("Content-Length: 2", path=query) + b"{}").status == 401
    assert gateway.ask(request(path="/webhooks/nobody?/webhooks/veriff")).status == 404


def test_a_percent_encoded_path_is_the_path(gateway):
    """%76 is v: routing sees the decoded path."""
    assert gateway.ask(request(path="/%77ebhooks/%76eriff")).status == 200


# Bodies that are too large, too slow, or not there.


def test_a_declared_body_over_the_limit_is_413_at_once(gateway):
    """Before any byte of it was sent or hashed; the connection is closed."""
    for size in (LIMIT + 1, 10**9, 10**18, 2**63):
        with gateway.connect() as connection:
            connection.send(head(f"Content-Length: {size}"))
            answer = connection.answer()
            assert answer.status == 413
            assert answer.headers.get("connection") == "close"
            assert connection.ends()
    assert set(gateway.requests()) == {("veriff", "rejected", "413")}
    assert set(gateway.reasons()) == {("veriff", "body_too_large")}


@pytest.mark.parametrize("over", [1, 65_536, 5_000_000])
def test_a_streamed_body_over_the_limit_is_413(gateway, over):
    """Chunks end at the limit though the signature would be right; the connection is closed."""
    body = b"x" * (LIMIT + over)
    with gateway.connect() as connection:
        connection.socket.settimeout(PATIENCE)
        sender = threading.Thread(
            target=connection.send,
            args=(head("Transfer-Encoding: chunked", signed=body) + chunked(body),),
        )
        sender.start()
        assert connection.answer().status == 413
        connection.socket.close()
        sender.join()
    gateway.at_rest()
    assert gateway.store.deliveries == []
    assert gateway.requests() == {("veriff", "rejected", "413"): 1}
    assert gateway.webhooks._body_bytes == 0


def test_a_provider_can_have_a_lower_limit(start):
    """The smaller of the provider's and the gateway's limit holds."""
    small = msgspec.structs.replace(PROVIDERS["veriff"], body_limit=2000)
    gateway = start({"veriff": endpoint_of("veriff", provider=small)})
    assert gateway.ask(request(b"x" * 2000)).status == 200
    assert gateway.ask(request(b"x" * 2001)).status == 413


def stalled_requests(body=b"x" * 80_000):
    """Give beginnings of requests that will never be whole, by name."""
    return {
        "small": request()[:-1],
        "head only": head("Content-Length: 10", signed=BODY),
        "large": request(body)[:-1],
        "chunked": head("Transfer-Encoding: chunked", signed=BODY) + b"5\r\nabcde\r\n",
        "within a chunk": head("Transfer-Encoding: chunked", signed=BODY) + b"ffff\r\nabcde",
        "chunked head only": head("Transfer-Encoding: chunked", signed=BODY),
    }


@pytest.mark.parametrize("case", stalled_requests())
def test_a_body_that_does_not_come_is_408(start, case):
    """A stalled body is answered 408 once its time is over, and the connection is closed."""
    gateway = start(body_timeout=0.5)
    with gateway.connect() as connection:
        connection.send(stalled_requests()[case])
        answer = connection.answer()
        assert answer.status == 408
        assert connection.ends()
    gateway.at_rest()
    assert gateway.requests() == {("veriff", "rejected", "408"): 1}
    assert gateway.reasons() == {("veriff", "body_timeout"): 1}
    assert gateway.webhooks._body_bytes == 0
    assert gateway.ask(request()).status == 200


@pytest.mark.parametrize("form", ["small", "large", "chunked"])
def test_a_body_that_drips_is_408(start, form):
    """The time is for the whole body: a byte now and then does not prolong it."""
    gateway = start(body_timeout=0.6)
    beginning = {
        "small": head("Content-Length: 60000", signed=BODY),
        "large": head("Content-Length: 90000", signed=BODY),
        "chunked": head("Transfer-Encoding: chunked", signed=BODY) + b"ffff\r\n",
    }[form]
    stop = threading.Event()
    with gateway.connect() as connection:
        connection.send(beginning)

        def drip():
            while not stop.wait(0.05):
                connection.send(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert connection.answer().status == 408
        finally:
            stop.set()
            dripping.join()
    assert gateway.reasons() == {("veriff", "body_timeout"): 1}


def test_a_slow_store_is_no_slow_body(start):
    """The body's time ends when the body is there: waiting for Kafka is another matter."""
    gateway = start(body_timeout=0.3)
    gateway.close_the_gate()
    with gateway.connect() as connection:
        connection.send(request())
        until(lambda: gateway.store.waiting)
        time.sleep(1.2)
        gateway.open_the_gate()
        assert connection.answer().status == 200


@pytest.mark.parametrize("case", ["small", "head only", "large"])
@pytest.mark.parametrize("farewell", ["half-close", "close", "reset"])
def test_a_client_that_goes_away_is_counted_as_gone(gateway, case, farewell):
    """Fewer bytes than declared are never a forged signature, however the client left."""
    with gateway.connect() as connection:
        connection.send(stalled_requests()[case])
        until(lambda: gateway.value("verihook_webhook_requests_in_progress") == 1)
        if farewell == "half-close":
            connection.end()
        elif farewell == "reset":
            linger = b"\x01\0\0\0\0\0\0\0"
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.socket.close()
        else:
            connection.socket.close()
        gateway.at_rest()
    assert gateway.reasons() == {("veriff", "client_gone"): 1}
    assert gateway.requests() == {("veriff", "rejected", "408"): 1}
    assert gateway.store.deliveries == []
    assert gateway.webhooks._body_bytes == 0


def test_a_cut_chunked_body_is_never_stored(gateway):
    """It cannot be told from a whole one, but its signature does not match."""
    with gateway.connect() as connection:
        connection.send(head("Transfer-Encoding: chunked", signed=BODY) + b"5\r\n" + BODY[:5])
        until(lambda: gateway.value("verihook_webhook_requests_in_progress") == 1)
        connection.end()
        gateway.at_rest()
    assert gateway.store.deliveries == []


def test_a_client_that_leaves_before_the_answer_holds_nothing_up(gateway):
    """What was whole is stored, and the request ends; nobody waits for it at shutdown."""
    gateway.close_the_gate()
    with gateway.connect() as connection:
        connection.send(request())
        until(lambda: gateway.store.waiting)
    time.sleep(0.1)
    gateway.open_the_gate()
    gateway.at_rest()
    assert len(gateway.store.deliveries) == 1
    assert gateway.call(gateway.webhooks._idle.is_set)
    assert gateway.webhooks._body_bytes == 0


# Encodings and signatures.


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "x-custom", "gzip, identity"])
def test_an_encoded_body_is_415(gateway, encoding):
    """Nothing is decoded before it is proven, and nothing is stored."""
    answer = gateway.ask(request(BODY, f"Content-Encoding: {encoding}"))
    assert answer.status == 415
    assert gateway.store.deliveries == []
    assert gateway.reasons() == {("veriff", "content_encoding"): 1}


def test_identity_is_no_encoding(gateway):
    """Saying so is fine."""
    assert gateway.ask(request(BODY, "Content-Encoding: identity")).status == 200


RIGHT = f"X-HMAC-SIGNATURE: {signature(BODY)}"
REFUSED = {
    "missing": ([], "signature_missing"),
    "empty": (["X-HMAC-SIGNATURE:"], "signature_missing"),
    "forged": (["X-HMAC-SIGNATURE: " + "0" * 64], "signature_mismatch"),
    "truncated": ([RIGHT[:-1]], "signature_malformed"),
    "junk": (["X-HMAC-SIGNATURE: junk"], "signature_malformed"),
    "twice": ([RIGHT, RIGHT], "signature_malformed"),
    "right and wrong": ([RIGHT, "X-HMAC-SIGNATURE: " + "0" * 64], "signature_malformed"),
    "wrong and right": (["X-HMAC-SIGNATURE: " + "0" * 64, RIGHT], "signature_malformed"),
    "not ascii": (["X-HMAC-SIGNATURE: " + "é" * 64], "signature_malformed"),
    "another secret": (
        ["X-HMAC-SIGNATURE: " + signature(BODY, b"another-secret-altogether")],
        "signature_mismatch",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_signature_that_proves_nothing_is_401(gateway, case):
    """Missing, malformed, wrong: 401 with its reason, nothing stored, no hint of what is right."""
    lines, reason = REFUSED[case]
    answer = gateway.ask(head(f"Content-Length: {len(BODY)}", *lines) + BODY)
    assert answer.status == 401
    assert answer.body.decode().strip() == reason
    assert gateway.store.deliveries == []
    assert gateway.requests() == {("veriff", "rejected", "401"): 1}
    assert gateway.reasons() == {("veriff", reason): 1}


@pytest.mark.parametrize("lines", [[RIGHT, "X-HMAC-SIGNATURE: é"], ["X-HMAC-SIGNATURE: é", RIGHT]])
def test_what_granian_drops_does_not_stand_beside_the_right_one(gateway, lines):
    """A non-ASCII twin is hidden by granian: if the rest is accepted, it is the right one that was kept."""
    answer = gateway.ask(head(f"Content-Length: {len(BODY)}", *lines) + BODY)
    assert answer.status in {200, 401}
    for delivery in gateway.store.deliveries:
        assert dict(delivery.headers)["http-x-hmac-signature"] == signature(BODY).encode()


def test_blanks_around_a_header_value_are_https_own(gateway):
    """Optional white space is no part of the value."""
    line = f"X-HMAC-SIGNATURE: \t {signature(BODY)} \t "
    assert gateway.ask(head(f"Content-Length: {len(BODY)}", line) + BODY).status == 200


def test_an_unknown_client_is_401(start):
    """Where secrets name clients, an unknown one has a reason of its own."""
    bound = [Key(id="a", value=SECRET, client="mine")]
    scheme = PROVIDERS["veriff"].scheme(bound, {})
    gateway = start({"veriff": endpoint_of("veriff", scheme=scheme)})
    assert gateway.ask(request(BODY, "X-AUTH-CLIENT: mine")).status == 200
    assert gateway.ask(request(BODY, "X-AUTH-CLIENT: theirs")).status == 401
    assert gateway.ask(request(BODY)).status == 401
    assert gateway.reasons() == {("veriff", "unknown_client"): 2}


def test_a_provider_can_want_another_status(start):
    """Treezor wants every refusal after routing as 500, except 404, 405, 413 and 503."""
    wants_500 = msgspec.structs.replace(PROVIDERS["veriff"], refusal_status=500)
    gateway = start({"veriff": endpoint_of("veriff", provider=wants_500)}, body_timeout=0.5)
    unsigned = head("Content-Length: 2") + b"{}"
    answer = gateway.ask(unsigned)
    assert (answer.status, answer.body) == (500, b"signature_missing\n")
    assert gateway.ask(request(BODY, "Content-Encoding: gzip")).status == 500
    assert gateway.ask(stalled_requests()["small"]).status == 500
    assert gateway.ask(head(f"Content-Length: {LIMIT + 1}")).status == 413
    assert gateway.ask(request(method="GET")).status == 405
    assert gateway.ask(request(path="/webhooks/nobody")).status == 404
    gateway.store.error = Rejection(KAFKA_TIMEOUT)
    assert gateway.ask(request()).status == 503
    assert ("veriff", "rejected", "500") in gateway.requests()


@pytest.mark.parametrize("name", ["X-AUTH-CLIENT", "Content-Type", "VRF-INTEGRATION-ID"])
def test_a_kept_header_that_is_too_long_is_431(gateway, name):
    """4 KiB are kept, more is refused with its reason."""
    assert gateway.ask(request(BODY, f"{name}: {'a' * 4096}")).status == 200
    assert gateway.ask(request(BODY, f"{name}: {'a' * 4097}")).status == 431
    assert gateway.reasons() == {("veriff", "headers_too_large"): 1}


# Not now.


@pytest.mark.parametrize(
    "reason", [KAFKA_TIMEOUT, KAFKA_QUEUE_FULL, KAFKA_REFUSED], ids=lambda reason: reason.label
)
def test_what_kafka_does_not_take_is_503(start, reason):
    """The provider is told to come again, and when."""
    gateway = start(retry_after=17)
    gateway.store.error = Rejection(reason, "a word about it")
    answer = gateway.ask(request())
    assert answer.status == 503
    assert answer.headers["retry-after"] == "17"
    assert b"a word" not in answer.body
    assert gateway.requests() == {("veriff", "unavailable", "503"): 1}
    assert gateway.reasons() == {("veriff", reason.label): 1}
    gateway.store.error = None
    assert gateway.ask(request()).status == 200


def test_before_it_is_ready_it_answers_503(gateway):
    """Until the topics are known to hold what is promised nothing is accepted."""

    def fresh():
        made = Webhooks(gateway.endpoints, gateway.store, GatewayMetrics("0", "0"), gateway.tuning)
        return made._closed

    gateway.webhooks._closed = gateway.call(fresh)
    answer = gateway.ask(request())
    assert answer.status == 503
    assert answer.headers["retry-after"] == "5"
    assert gateway.reasons() == {("veriff", "not_ready"): 1}
    gateway.call(gateway.webhooks.open)
    assert gateway.ask(request()).status == 200


def test_while_it_drains_new_work_is_503_and_the_old_is_finished(gateway):
    """What was accepted gets its answer; drain ends only then."""
    gateway.close_the_gate()
    with gateway.connect() as early:
        early.send(request())
        until(lambda: gateway.store.waiting)
        draining = asyncio.run_coroutine_threadsafe(gateway.webhooks.drain(), gateway.loop)
        until(lambda: gateway.webhooks._closed is not None)
        late = gateway.ask(request())
        assert late.status == 503
        assert late.headers["retry-after"] == "5"
        assert not draining.done()
        gateway.open_the_gate()
        assert early.answer().status == 200
        draining.result(PATIENCE)
    assert len(gateway.store.deliveries) == 1
    assert gateway.reasons() == {("veriff", "shutting_down"): 1}


def test_drain_waits_for_a_body_that_is_on_its_way(gateway):
    """A request whose body is still coming was begun before: it is finished, not refused."""
    with gateway.connect() as connection:
        connection.send(request()[:-1])
        until(lambda: gateway.value("verihook_webhook_requests_in_progress") == 1)
        draining = asyncio.run_coroutine_threadsafe(gateway.webhooks.drain(), gateway.loop)
        until(lambda: gateway.webhooks._closed is not None)
        connection.send(request()[-1:])
        assert connection.answer().status == 200
        draining.result(PATIENCE)
    assert len(gateway.store.deliveries) == 1


@pytest.mark.parametrize("size", [10_000, 90_000])
@pytest.mark.parametrize("form", ["declared", "chunked"])
def test_too_many_bytes_at_once_are_503(start, size, form):
    """The budget counts every byte of every body that is held, large or small."""
    gateway = start(max_body_bytes=size * 3)
    gateway.close_the_gate()
    body = b"x" * size
    data = request(body)
    if form == "chunked":
        data = head("Transfer-Encoding: chunked", signed=body) + chunked(body)
    connections = [gateway.connect() for _ in range(3)]
    for number, connection in enumerate(connections, 1):
        connection.send(data)
        until(lambda number=number: gateway.store.waiting == number)
    answering = gateway.connect()
    answering.send(data)
    until(lambda: gateway.store.waiting == 4 or gateway.reasons())
    assert gateway.reasons() == {("veriff", "overloaded"): 1}
    answer = answering.answer()
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    gateway.open_the_gate()
    assert [connection.answer().status for connection in connections] == [200] * 3
    gateway.at_rest()
    assert gateway.webhooks._body_bytes == 0
    assert gateway.ask(data).status == 200


def test_a_declared_size_is_not_a_held_size(start):
    """A thousand promises of bytes are no bytes: only what came counts."""
    gateway = start(max_body_bytes=LIMIT * 2)
    silent = [gateway.connect() for _ in range(10)]
    for connection in silent:
        connection.send(head(f"Content-Length: {LIMIT}", signed=BODY))
    until(lambda: gateway.value("verihook_webhook_requests_in_progress") == 10)
    assert gateway.ask(request(b"x" * LIMIT)).status == 200


def test_what_was_verified_with_a_key_that_has_just_gone_is_stored(start):
    """A rotation while a delivery waits for Kafka does not turn its 200 into an error."""
    both = (("old", SECRET), ("new", b"the-secret-that-comes-next"))
    gateway = start({"veriff": endpoint_of("veriff", secrets=both)})
    gateway.close_the_gate()
    with gateway.connect() as connection:
        connection.send(request())
        until(lambda: gateway.store.waiting)
        gateway.call(gateway.webhooks.use, {"veriff": endpoint_of("veriff", secrets=both[1:])})
        gateway.open_the_gate()
        assert connection.answer().status == 200
    gateway.at_rest()
    assert gateway.requests() == {("veriff", "stored", "200"): 1}


def test_a_rotation_while_a_body_comes_is_no_error(start):
    """The secrets of the request's beginning verify it, and are counted."""
    both = (("old", SECRET), ("new", b"the-secret-that-comes-next"))
    gateway = start({"veriff": endpoint_of("veriff", secrets=both)})
    with gateway.connect() as connection:
        connection.send(request()[:-1])
        until(lambda: gateway.value("verihook_webhook_requests_in_progress") == 1)
        gateway.call(gateway.webhooks.use, {"veriff": endpoint_of("veriff", secrets=both[1:])})
        connection.send(request()[-1:])
        assert connection.answer().status == 200
    gateway.at_rest()
    assert gateway.requests() == {("veriff", "stored", "200"): 1}


def test_an_endpoint_that_has_just_gone_finishes_its_work(gateway):
    """A reload that drops an endpoint lets its deliveries under way end, then answers 404."""
    gateway.close_the_gate()
    with gateway.connect() as connection:
        connection.send(request())
        until(lambda: gateway.store.waiting)
        gateway.call(gateway.webhooks.use, {"pawapass": endpoint_of("pawapass")})
        gateway.open_the_gate()
        assert connection.answer().status == 200
    assert gateway.ask(request()).status == 404
    assert gateway.reasons() == {("unknown", "unknown_endpoint"): 1}


def test_new_endpoints_are_in_force_from_the_next_request_on(gateway):
    """Also for a connection that is already open."""
    with gateway.connect() as connection:
        connection.send(request())
        assert connection.answer().status == 200
        rotated = endpoint_of("veriff", secrets=(("new", b"the-secret-that-comes-next"),))
        gateway.call(gateway.webhooks.use, {"veriff": rotated})
        connection.send(request())
        assert connection.answer().status == 401


def told(gateway, **labels):
    """Give the names of the series that have these labels."""
    return {sample.name for sample in samples(gateway) if labels.items() <= sample.labels.items()}


def test_an_endpoint_that_is_configured_no_more_has_no_series(gateway):
    """What alerts know of it ends with the reload, and the others count on."""
    gateway.ask(request())
    gateway.ask(request(path="/webhooks/pawapass"))
    before = gateway.reasons()
    assert told(gateway, endpoint="veriff")
    gateway.call(gateway.webhooks.use, {"pawapass": endpoint_of("pawapass")})
    assert told(gateway, endpoint="veriff") == told(gateway, provider="veriff") == set()
    assert before
    assert gateway.reasons() == before
    gateway.call(gateway.webhooks.use, endpoints())
    assert gateway.ask(request()).status == 200
    gateway.at_rest()
    assert gateway.requests()["veriff", "stored", "200"] == 1  # from 0 again


def test_an_endpoint_of_another_provider_begins_anew(gateway):
    """Under one endpoint there is one provider: rules could not tell which is in force."""
    gateway.ask(request())
    gateway.call(gateway.webhooks.use, {"veriff": endpoint_of("pawapass", "veriff")})
    assert told(gateway, endpoint="veriff", provider="veriff") == set()
    assert told(gateway, endpoint="veriff", provider="pawapass")
    assert gateway.requests() == {}


def test_a_request_under_way_brings_no_forgotten_series_back(gateway):
    """It ends and counts where nobody looks any more, also with an outcome not seen before."""
    held = gateway.webhooks._of["veriff"]
    gateway.close_the_gate()
    with gateway.connect() as connection:
        connection.send(request())
        until(lambda: gateway.store.waiting)
        gateway.call(gateway.webhooks.use, {"pawapass": endpoint_of("pawapass")})
        gateway.open_the_gate()
        assert connection.answer().status == 200
    gateway.at_rest()
    until(lambda: held.in_progress.value == 0)
    assert held.stored.value == 1
    gateway.call(held.ended, "error", 599)
    assert told(gateway, endpoint="veriff") == set()


# From start to stop.


class Kept(Store):
    """A publisher without Kafka."""

    in_flight = 0
    is_full = False

    def expect(self, _providers):
        pass

    async def close(self):
        return 0


class Served:
    """`serve` on a loop in a thread of its own."""

    def __init__(self, settings):
        self.settings = settings
        self.port = settings.listen.port
        self.thread = threading.Thread(target=lambda: uvloop.run(self._main()), daemon=True)
        self.thread.start()

    async def _main(self):
        self.loop = asyncio.get_running_loop()
        self.task = asyncio.ensure_future(
            serve(self.settings, {"VERIFF_SECRET": SECRET.decode()}),
        )
        with suppress(asyncio.CancelledError):
            await self.task

    def end(self):
        with suppress(RuntimeError):  # it has ended, and its loop with it
            self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@pytest.fixture
def served(monkeypatch):
    """Serve, with topics that are granted and a publisher without Kafka; given what is told."""
    stops = []
    monkeypatch.setattr("gateway.serve.on_stop_signals", stops.append)
    monkeypatch.setattr("gateway.serve.Publisher", lambda *_, **__: Kept())
    monkeypatch.setattr("gateway.serve._topics_problem", lambda *_: None)
    monkeypatch.setattr("gateway.serve.settle_memory", lambda: None)
    made = []

    def metrics(*versions):
        made.append(GatewayMetrics(*versions))
        return made[0]

    monkeypatch.setattr("gateway.serve.GatewayMetrics", metrics)

    def begin(**tuning):
        settings = Settings(
            listen=Address("127.0.0.1", free_port()),
            admin_listen=Address("127.0.0.1", 0),
            topic_prefix="",
            kafka={},
            tuning=Tuning(**tuning),
            log_level="info",
        )
        begun.append(Served(settings))
        until(lambda: made and not made[0].readiness.problems())
        begun[0].metrics, begun[0].stop = made[0], stops[0]
        return begun[0]

    begun = []
    yield begin
    begun[0].end()


def post(port):
    connection = Connection(port)
    with connection:
        connection.send(request())
        return connection.answer().status


def test_deliveries_are_taken_until_a_balancer_has_noticed(served):
    """For GATEWAY_DRAIN_DELAY it says that it is not ready, and goes on storing."""
    one = served(drain_delay=300.0)
    assert post(one.port) == 200
    one.stop()
    until(one.metrics.readiness.problems)
    assert one.metrics.readiness.problems() == {"accepting": "shutting down"}
    assert post(one.port) == 200
    assert one.thread.is_alive()


@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_after_the_delay_it_ends(served, delay):
    """At once without one, as nothing stands before it that could notice."""
    one = served(drain_delay=delay)
    assert post(one.port) == 200
    one.stop()
    one.thread.join(PATIENCE)
    assert not one.thread.is_alive()
    assert one.metrics.readiness.problems() == {"accepting": "shutting down"}


def test_a_reload_that_fails_is_told_as_long_as_it_does(served, monkeypatch):
    """The gauge says what is now; the counter only that it happened."""
    metrics = served(reload_interval=0.01).metrics

    def failing():
        return metrics.registry.get_sample_value("verihook_configuration_reload_failing")

    assert failing() == 0
    problems = ["the file is wrong"]

    def load(_environ):
        if problems:
            raise ConfigurationError(problems[0])
        return load_endpoints({"VERIFF_SECRET": SECRET.decode()})

    monkeypatch.setattr("gateway.endpoints.Endpoints.changed_since", lambda *_: bool(problems))
    monkeypatch.setattr("gateway.serve.load_endpoints", load)
    until(lambda: failing() == 1)
    problems.clear()
    until(lambda: failing() == 0)
    name = "verihook_configuration_reloads_total"
    assert metrics.registry.get_sample_value(name, {"result": "failed"}) == 1
    assert metrics.registry.get_sample_value(name, {"result": "ok"}) == 1


# The unforeseen.


class UnforeseenError(Exception):
    """An error nobody planned for, with a payload in its text, as msgspec's can have."""


def test_the_unforeseen_is_500_and_tells_the_sender_nothing(gateway):
    """500, counted as error; the answer holds one word, the log line the delivery id."""
    gateway.store.error = UnforeseenError("Jane Telltale")
    answer = gateway.ask(request())
    assert answer.status == 500
    assert answer.body == b"unforeseen\n"
    assert gateway.requests() == {("veriff", "error", "500"): 1}
    assert gateway.reasons() == {("veriff", "unforeseen"): 1}
    lines = [json.loads(line) for line in gateway.log.getvalue().splitlines()]
    assert any(re.fullmatch("[0-9a-f]{32}", line.get("delivery_id", "")) for line in lines)
    gateway.at_rest()
    assert gateway.webhooks._body_bytes == 0
    gateway.store.error = None
    assert gateway.ask(request()).status == 200


def test_the_log_names_the_kind_of_the_unforeseen(gateway):
    """Whoever is woken learns at least the class of the error and where it was raised."""
    gateway.store.error = UnforeseenError("Jane Telltale")
    gateway.ask(request())
    gateway.at_rest()
    assert "UnforeseenError" in gateway.log.getvalue()


def test_the_unforeseen_is_told_once_and_counted(gateway):
    """A bug at every delivery is one line an interval, with a delivery id; the metric has all."""
    gateway.store.error = UnforeseenError("Jane Telltale")
    for _ in range(20):
        assert gateway.ask(request()).status == 500
    gateway.at_rest()
    lines = [json.loads(line) for line in gateway.log.getvalue().splitlines()]
    told = [line for line in lines if line["event"] == "unforeseen"]
    assert 1 <= len(told) <= 3  # a slow machine takes longer than an interval
    assert all(line["delivery_id"] and line["endpoint"] == "veriff" for line in told)
    assert gateway.reasons() == {("veriff", "unforeseen"): 20}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("written", [io.StringIO, Terminal], ids=["file", "terminal"])
def test_logs_hold_no_payload_no_signature_and_no_secret(start, monkeypatch, written):
    """Whatever happens to a request: stored, refused for any reason, or unforeseen."""
    stderr = written()
    monkeypatch.setattr(sys, "stderr", stderr)
    start_logging("debug")
    monkeypatch.setattr("gateway.server.log", structlog.get_logger())
    gateway = start()
    monkeypatch.setattr(sys, "stderr", stderr)
    start_logging("debug")
    monkeypatch.setattr("gateway.server.log", structlog.get_logger())
    private = ["Authorization: Bearer tell-tale-bearer", "Cookie: tell-tale-cookie"]
    gateway.ask(request(BODY, *private))
    for lines, _ in REFUSED.values():
        gateway.ask(head(f"Content-Length: {len(BODY)}", *lines, *private) + BODY)
    gateway.ask(request(BODY, "Content-Encoding: tell-tale"))
    gateway.ask(request(path="/webhooks/tell-tale-path?tell-tale-query"))
    gateway.ask(request(path="/webhooks/guarded/tell-tale-token"))
    gateway.ask(request(path=f"/webhooks/guarded/{TOKEN}"))
    gateway.ask(request(path=f"/webhooks/guarded/{TOKEN}", method="GET"))
    gateway.store.error = UnforeseenError("Jane Telltale")
    gateway.ask(request(BODY, *private))
    gateway.at_rest()
    text = stderr.getvalue()
    assert "refused" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).lower()
    for private in ("telltale", "tell-tale", "session-1", TOKEN.lower(), SECRET.decode().lower()):
        assert private not in plain
    assert signature(BODY)[:16] not in plain


def test_a_flood_of_refusals_is_a_few_lines(gateway):
    """The log is not for the sender to fill: one line of a kind now and then, with a count."""
    for _ in range(200):
        gateway.ask(head("Content-Length: 2") + b"{}")
    assert gateway.reasons() == {("veriff", "signature_missing"): 200}
    assert len(gateway.log.getvalue().splitlines()) < 20


# HTTP that is not as it should be.

HEAD = f"POST /webhooks/veriff HTTP/1.1\r\nHost: gateway\r\n{RIGHT}\r\n".encode()
MALFORMED = {
    "differing lengths": HEAD + b"Content-Length: 43\r\nContent-Length: 44\r\n\r\n" + BODY,
    "a list of lengths": HEAD + b"Content-Length: 43, 44\r\n\r\n" + BODY,
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n" + BODY,
    "a signed length": HEAD + b"Content-Length: +43\r\n\r\n" + BODY,
    "a length in hex": HEAD + b"Content-Length: 0x2b\r\n\r\n" + BODY,
    "an empty length": HEAD + b"Content-Length:\r\n\r\n" + BODY,
    "a length with letters": HEAD + b"Content-Length: 43abc\r\n\r\n" + BODY,
    "the largest length": HEAD + b"Content-Length: 18446744073709551615\r\n\r\n" + BODY,
    "an endless length": HEAD + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n" + BODY,
    "a blank before the colon": HEAD + b"Content-Length : 43\r\n\r\n" + BODY,
    "a folded header": HEAD + b"X-A: b\r\n c\r\nContent-Length: 43\r\n\r\n" + BODY,
    "a header without a name": HEAD + b": x\r\nContent-Length: 43\r\n\r\n" + BODY,
    "a header without a colon": HEAD + b"Nothing\r\nContent-Length: 43\r\n\r\n" + BODY,
    "a NUL in a header": HEAD + b"X-A: \0\r\nContent-Length: 43\r\n\r\n" + BODY,
    "no HTTP": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 200,
    "junk": b"hello\r\n\r\n",
    "an unknown version": HEAD.replace(b"1.1", b"9.9") + b"Content-Length: 43\r\n\r\n" + BODY,
    "an unknown transfer encoding": HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + BODY,
    "chunked twice over": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + chunked(BODY),
    "a chunk size that is none": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + BODY,
    "an endless chunk size": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n" + BODY
    ),
    "120 headers": HEAD + b"X-A: b\r\n" * 120 + b"Content-Length: 43\r\n\r\n" + BODY,
    "a head of 100 KB": (
        HEAD + b"X-A: " + b"a" * 100_000 + b"\r\nContent-Length: 43\r\n\r\n" + BODY
    ),
    "a head without end": HEAD + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_http_is_refused_and_harmless(gateway, case):
    """A client error or a closed connection; nothing is stored, and the next one is served."""
    with gateway.connect() as connection:
        connection.send(MALFORMED[case])
        connection.end()
        while connection.more():
            pass
        if connection.held:
            assert 400 <= connection.answer().status < 500
    gateway.at_rest()
    assert gateway.store.deliveries == []
    assert not {"error", "stored"} & {result for _, result, _ in gateway.requests()}
    assert gateway.ask(request()).status == 200


def test_equal_lengths_are_one_length(gateway):
    """Content-Length twice with one value is refused or taken, but never read past."""
    with gateway.connect() as connection:
        connection.send(HEAD + b"Content-Length: 43\r\nContent-Length: 43\r\n\r\n" + BODY)
        assert connection.answer().status in {200, 400}


def test_chunked_wins_over_a_length(gateway):
    """With both, chunks are read and the connection ends: no request can hide behind the body."""
    smuggled = request(b'{"id":"smuggled"}')
    for length in (0, 5, len(chunked(BODY)), 10**6):
        with gateway.connect() as connection:
            lines = ("Transfer-Encoding: chunked", f"Content-Length: {length}")
            connection.send(head(*lines, signed=BODY) + chunked(BODY) + smuggled)
            assert connection.answer().status in {200, 400}
            while connection.more():
                pass
    assert all(delivery.body == BODY for delivery in gateway.store.deliveries)


def test_what_follows_an_unread_body_is_not_taken_for_a_request(gateway):
    """Refused before its body was read, a request cannot smuggle another one inside that body."""
    inner = request(b'{"id":"smuggled"}')
    with gateway.connect() as connection:
        outer = head(f"Content-Length: {len(inner)}", path="/webhooks/nobody")
        connection.send(outer + inner)
        assert connection.answer().status == 404
        connection.end()
        while connection.more():
            pass
    gateway.at_rest()
    assert gateway.store.deliveries == []


def test_trailers_are_no_headers(gateway):
    """A signature after the body comes too late."""
    body = chunked(BODY)[:-2] + f"{RIGHT}\r\n\r\n".encode()
    data = head("Transfer-Encoding: chunked", "Trailer: X-HMAC-SIGNATURE") + body
    assert gateway.ask(data).status in {400, 401}
    assert gateway.store.deliveries == []


def test_http_2_and_websockets_do_nothing(gateway):
    """Prior knowledge is refused, an upgrade to anything is an ordinary request."""
    with gateway.connect() as connection:
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
        connection.end()
        while connection.more():
            pass
        assert b"HTTP/2" not in connection.held
        assert not connection.held or connection.held.startswith(b"HTTP/1.1 4")
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]  # fmt: skip
    assert gateway.ask(head(*upgrade, method="GET")).status == 405
    assert gateway.ask(request(BODY, *upgrade)).status == 200
    h2c = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"]
    assert gateway.ask(request(BODY, *h2c)).status == 200


def test_a_head_that_does_not_come_ends_the_connection(start):
    """Silent connections and endless heads are closed by the header timeout."""
    gateway = start(header_timeout=0.5)
    for beginning in (b"", b"POST /webhooks/veriff HTTP/1.1\r\nHost: gatew"):
        with gateway.connect() as connection:
            connection.send(beginning)
            while connection.more():
                pass
    assert gateway.requests() == {}


def test_more_connections_than_granians_default_are_served(start):
    """Idle connections count for granian too: 300 of them must not stop an honest delivery."""
    gateway = start(header_timeout=200)
    for _ in range(300):
        gateway.connect()
    assert gateway.ask(request()).status == 200


def test_answers_tell_nothing_of_what_runs_here(gateway):
    """No stack trace, no version, no secret in any answer."""
    for data in (request(), request(path="/x"), request(method="GET"), head("Content-Length: 0")):
        answer = gateway.ask(data)
        text = repr(answer).lower()
        for word in ("traceback", "python", ".py", "hyper", "secret", "jane"):
            assert word not in text
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"


# Metrics.


def test_every_known_outcome_begins_at_zero(gateway):
    """A counter born with its first value is invisible to rate(); also where the provider decides."""
    found = {
        (sample.labels["endpoint"], sample.labels["result"], sample.labels["code"])
        for sample in samples(gateway)
        if sample.name == "verihook_webhook_requests_total"
    }
    for endpoint in ("veriff", "pawapass", "guarded", "unknown"):
        assert (endpoint, "stored", "200") in found
        for reason in REASONS:
            assert (endpoint, reason.result, str(reason.status)) in found
            provider = "veriff" if endpoint == "guarded" else endpoint
            labels = {"endpoint": endpoint, "provider": provider, "reason": reason.label}
            name = "verihook_webhook_rejections_total"
            assert gateway.metrics.registry.get_sample_value(name, labels) == 0
        for stored in ("true", "false"):
            name = "verihook_webhook_request_duration_seconds_count"
            assert gateway.value(name, endpoint=endpoint, stored=stored) == 0
    treezor = EndpointMetrics(gateway.metrics, "treezor", "treezor", (), (), 500)
    assert {("rejected", 500), ("rejected", 404), ("unavailable", 503)} <= set(treezor._ended)


def test_only_what_is_stored_took_the_time_of_a_stored_delivery(gateway):
    """A flood of quick refusals does not make acknowledgements look quick."""
    gateway.ask(request())
    gateway.ask(request(method="GET"))
    gateway.ask(head("Content-Length: 0"))
    gateway.ask(request(path="/webhooks/nobody"))
    gateway.at_rest()
    name = "verihook_webhook_request_duration_seconds_count"
    assert gateway.value(name, endpoint="veriff", provider="veriff", stored="true") == 1
    assert gateway.value(name, endpoint="veriff", provider="veriff", stored="false") == 2
    assert gateway.value(name, endpoint="unknown", provider="unknown", stored="false") == 1
    assert gateway.value(name) == sum(gateway.requests().values())


class Request:
    """One request as granian gives it, whose body, store and answer fail as the test says."""

    method = "POST"

    def __init__(self, path="/webhooks/veriff", body=BODY, *, fails_at=None):
        self.path = path
        headers = {"x-hmac-signature": signature(BODY), "content-length": str(len(BODY))}
        self.headers = Lines(headers)
        self._body = body
        self._fails_at = fails_at
        self.reached = asyncio.Event()
        self.answered = None

    async def __call__(self):
        await self._at("body")
        return self._body

    async def publish(self, _delivery):
        await self._at("store")

    async def _at(self, place):
        match self._fails_at:
            case (where, "hangs") if where == place:
                self.reached.set()
                await asyncio.Event().wait()
            case (where, error) if where == place:
                raise error

    def response_str(self, status, _headers, _text):
        self.answered = status
        match self._fails_at:
            case ("answer", error):
                raise error


class Lines(dict):
    def items(self):
        return list(super().items())


ENDINGS = {
    "stored": (None, 200),
    "the client is gone in the body": (("body", ProtocolClosed()), 408),
    "the body breaks": (("body", UnforeseenError()), 500),
    "the store breaks": (("store", UnforeseenError()), 500),
    "Kafka does not take it": (("store", Rejection(KAFKA_TIMEOUT)), 503),
    "the client is gone at the answer": (("answer", ProtocolClosed()), 200),
    "cancelled in the body": (("body", "hangs"), None),
    "cancelled in the store": (("store", "hangs"), None),
}


@pytest.mark.parametrize(
    "path", ["/webhooks/veriff", "/webhooks/nobody", "/", "/webhooks/guarded/x"]
)
@pytest.mark.parametrize("meanwhile", ["nothing", "endpoint goes", "endpoint comes"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_in_progress_falls_to_zero_however_it_ends(ending, path, meanwhile):
    """Gone, broken, cancelled, unknown, with an endpoint that comes or goes meanwhile: no drift."""
    fails_at, _ = ENDINGS[ending]
    metrics = GatewayMetrics("0", "0")

    def levels():
        return {
            sample.labels["endpoint"]: sample.value
            for family in metrics.registry.collect()
            for sample in family.samples
            if sample.name == "verihook_webhook_requests_in_progress"
        }

    async def main():
        one = Request(path, fails_at=fails_at)
        before = {} if meanwhile == "endpoint comes" else endpoints()
        webhooks = Webhooks(before, one, metrics, Tuning())
        webhooks.open()
        task = asyncio.ensure_future(webhooks.__rsgi__(one, one))
        await asyncio.sleep(0)
        under_way = not task.done()
        if under_way:
            assert sum(levels().values()) == 1
        webhooks.use({} if meanwhile == "endpoint goes" else endpoints())
        if under_way and fails_at[1] == "hangs":
            await one.reached.wait()
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert webhooks._idle.is_set()
        await asyncio.wait_for(webhooks.drain(), PATIENCE)

    asyncio.run(main())
    assert set(levels().values()) == {0}


@pytest.mark.parametrize("ending", [name for name, (_, status) in ENDINGS.items() if status])
def test_each_ending_is_answered_and_counted(ending):
    """What the test above drives are the paths it names."""
    fails_at, status = ENDINGS[ending]
    metrics = GatewayMetrics("0", "0")

    async def main():
        one = Request(fails_at=fails_at)
        webhooks = Webhooks(endpoints(), one, metrics, Tuning())
        webhooks.open()
        with suppress(ProtocolClosed):
            await webhooks.__rsgi__(one, one)
        return one.answered

    assert asyncio.run(main()) == status
    name = "verihook_webhook_requests_total"
    counted = [
        sample.labels["code"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name and sample.value
    ]
    assert counted == [str(status)]
