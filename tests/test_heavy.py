"""Heavy verification beside light: whoever waits for a signature holds up nobody else's answer."""

import threading
import time
from contextlib import ExitStack

import msgspec
import pytest

from gateway.providers import PROVIDERS
from gateway.receive import Endpoint
from gateway.signatures import Scheme
from gateway.signatures.ecdsa import generate, private_key, public_keys
from tests.test_server import BODY, PATIENCE, Gateway, chunked, endpoint_of, head, request, until

PATH_TOKEN = "path-token-of-the-tests-0123456789"
NOTICE = b'{"events":[{"eventType":"APPROVE","data":{"@type":"APPROVE_EVENT","userRef":"u-1"}}]}'
PRIVATE, PUBLIC = generate()
MANY = 64


class Held(Scheme):
    """Pleenk's scheme, whose verifying waits until the test releases it."""

    def __init__(self, inner):
        self.inner = inner
        self.names, self.key_ids = inner.names, inner.key_ids
        self.begun = threading.Semaphore(0)
        self.released = threading.Event()
        self.threads = set()

    def verify(self, headers, body, now):
        self.threads.add(threading.current_thread())
        self.begun.release()
        assert self.released.wait(PATIENCE)
        return self.inner.verify(headers, body, now)

    def sign(self, body, now):
        return self.inner.sign(body, now)

    def is_heavy(self, body):
        return self.inner.is_heavy(body)


def pleenk(scheme=None):
    return Endpoint(
        name="pleenk",
        provider=PROVIDERS["pleenk"],
        scheme=scheme or PROVIDERS["pleenk"].scheme(public_keys(PUBLIC)),
        environment="sandbox",
        path_token=PATH_TOKEN.encode(),
    )


def notification(body=NOTICE, *, signed=None, path=f"/webhooks/pleenk/{PATH_TOKEN}", lines=None):
    """Write a whole request as Pleenk would send it."""
    sender = PROVIDERS["pleenk"].scheme([private_key(PRIVATE)])
    proof = sender.sign(body if signed is None else signed, 0.0)
    signature = [f"{name}: {value}" for name, value in proof.headers.items()]
    return head(*(lines or [f"Content-Length: {len(body)}"]), *signature, path=path) + body


@pytest.fixture
def held():
    scheme = Held(PROVIDERS["pleenk"].scheme(public_keys(PUBLIC)))
    yield scheme
    scheme.released.set()


@pytest.fixture
def gateway(held):
    with Gateway({"pleenk": pleenk(held), "veriff": endpoint_of("veriff")}) as running:
        yield running
        held.released.set()  # the server ends only after its threads


def test_a_light_delivery_is_answered_while_a_heavy_one_is_verified(gateway, held):
    """Verification off the loop: the one beside it is answered first."""
    with gateway.connect() as waiting:
        waiting.send(notification())
        assert held.begun.acquire(timeout=PATIENCE)
        assert gateway.ask(request()).status == 200
        assert [delivery.body for delivery in gateway.store.deliveries] == [BODY]
        assert gateway.value("verihook_webhook_requests_in_progress") == 1
        held.released.set()
        assert waiting.answer().status == 200
    assert [delivery.body for delivery in gateway.store.deliveries] == [BODY, NOTICE]
    assert gateway.thread not in held.threads


def test_many_heavy_deliveries_keep_no_light_one_waiting(gateway, held):
    """More than there are threads: they queue among themselves, and all are answered in the end."""
    with ExitStack() as opened:
        waiting = [opened.enter_context(gateway.connect()) for _ in range(MANY)]
        for connection in waiting:
            connection.send(notification())
        until(lambda: gateway.value("verihook_webhook_requests_in_progress") == MANY)
        assert held.begun.acquire(timeout=PATIENCE)
        for _ in range(3):
            assert gateway.ask(request()).status == 200
        assert len(gateway.store.deliveries) == 3
        assert len(held.threads) < MANY
        held.released.set()
        assert [connection.answer().status for connection in waiting] == [200] * MANY
    gateway.at_rest()
    assert gateway.requests() == {
        ("pleenk", "stored", "200"): MANY,
        ("veriff", "stored", "200"): 3,
    }


def test_heavy_deliveries_queue_only_so_far(held):
    """Beyond the budget they are 503 at once, so that the provider sends again; light ones pass."""
    ends = {"pleenk": pleenk(held), "veriff": endpoint_of("veriff")}
    with Gateway(ends, max_in_flight=2) as running, ExitStack() as opened:
        waiting = [opened.enter_context(running.connect()) for _ in range(2)]
        for connection in waiting:
            connection.send(notification())
        until(lambda: running.value("verihook_webhook_requests_in_progress") == 2)
        answer = running.ask(notification())
        assert (answer.status, answer.body) == (503, b"overloaded\n")
        assert running.ask(request()).status == 200
        held.released.set()
        assert [connection.answer().status for connection in waiting] == [200] * 2
        assert running.ask(notification()).status == 200


def test_who_waits_too_long_is_answered_unread(held):
    """What could not be verified within Kafka's deadline is 503, and costs nothing more."""
    ends = {"pleenk": pleenk(held), "veriff": endpoint_of("veriff")}
    with Gateway(ends, deadline=0.2) as running, ExitStack() as opened:
        first, second = (opened.enter_context(running.connect()) for _ in range(2))
        first.send(notification())
        assert held.begun.acquire(timeout=PATIENCE)
        second.send(notification())
        until(lambda: running.value("verihook_webhook_requests_in_progress") == 2)
        asked = time.monotonic()
        until(lambda: time.monotonic() > asked + 0.3)
        held.released.set()
        assert first.answer().status == 200
        answer = second.answer()
        assert (answer.status, answer.body) == (503, b"overloaded\n")
        assert not held.begun.acquire(blocking=False)


def test_a_flooded_endpoint_keeps_no_other_heavy_one_waiting(held):
    """Each endpoint has a thread and a count of its own."""
    ends = {"pleenk": pleenk(held)}
    other = pleenk()
    ends["pleenk-eu"] = msgspec.structs.replace(other, name="pleenk-eu")
    with Gateway(ends, max_in_flight=1) as running, running.connect() as waiting:
        waiting.send(notification())
        assert held.begun.acquire(timeout=PATIENCE)
        assert running.ask(notification()).status == 503
        assert running.ask(notification(path=f"/webhooks/pleenk-eu/{PATH_TOKEN}")).status == 200
        held.released.set()
        assert waiting.answer().status == 200


def test_a_light_refusal_does_not_wait_either(gateway, held):
    """A wrong signature, an unknown path and a wrong path token are answered beside it."""
    with gateway.connect() as waiting:
        waiting.send(notification())
        assert held.begun.acquire(timeout=PATIENCE)
        assert gateway.ask(head("Content-Length: 1", signed=b"2") + b"1").status == 401
        assert gateway.ask(notification(path="/webhooks/pleenk")).status == 404
        assert gateway.ask(notification(path="/webhooks/nobody")).status == 404
        held.released.set()
        assert waiting.answer().status == 200


def test_a_client_that_leaves_a_heavy_verification_leaves_nothing_behind(gateway, held):
    """Its place and its bytes are given back when the thread is done."""
    with gateway.connect() as gone:
        gone.send(notification())
        assert held.begun.acquire(timeout=PATIENCE)
    assert gateway.ask(request()).status == 200
    held.released.set()
    gateway.at_rest()
    assert gateway.webhooks._body_bytes == 0


# Pleenk through the server.


@pytest.fixture
def real():
    with Gateway({"pleenk": pleenk()}) as running:
        yield running


def test_a_notification_is_stored(real):
    """The real scheme behind the real server; chunked or not, one byte more is another body."""
    assert real.ask(notification()).status == 200
    in_chunks = notification(b"", signed=NOTICE, lines=["Transfer-Encoding: chunked"])
    assert real.ask(in_chunks + chunked(NOTICE)).status == 200
    assert real.ask(notification(NOTICE + b" ", signed=NOTICE)).status == 401
    one, two = real.store.deliveries
    assert one.body == two.body == NOTICE
    assert one.key == b"u-1"
    assert one.provenance.scheme == "pleenk-ecdsa-p521-sha512"
    assert one.provenance.key_id == public_keys(PUBLIC)[0].id
    assert (one.provenance.authenticity, one.provenance.freshness) == ("signed", "none")
    used = {"endpoint": "pleenk", "key_id": one.provenance.key_id}
    used["scheme"] = "pleenk-ecdsa-p521-sha512"
    assert real.value("verihook_signature_key_used_total", **used) == 2
    real.at_rest()
    assert real.reasons() == {("pleenk", "signature_mismatch"): 1}


ELSEWHERE = {
    "no path token": "/webhooks/pleenk",
    "an empty one": "/webhooks/pleenk/",
    "another merchant's": "/webhooks/pleenk/path-token-of-another-merchant-01",
    "cut": f"/webhooks/pleenk/{PATH_TOKEN[:-1]}",
    "in the query": f"/webhooks/pleenk?{PATH_TOKEN}",
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_another_merchants_notification_is_404(real, where):
    """Pleenk's signature is right for every merchant: without our path token it is not for us."""
    answer = real.ask(notification(path=ELSEWHERE[where]))
    assert (answer.status, answer.body) == (404, b"not found\n")
    assert real.store.deliveries == []
    assert real.reasons() == {("pleenk", "wrong_path_token"): 1}


def test_the_thread_of_an_endpoint_that_is_gone_ends(real):
    """A reload that removes an endpoint leaves no thread of it behind."""
    before = set(threading.enumerate())
    assert real.ask(notification()).status == 200
    begun = set(threading.enumerate()) - before
    alive = [thread for thread in begun if thread.name.startswith("verify-pleenk")]
    assert alive
    real.webhooks.use({"veriff": endpoint_of("veriff")})
    until(lambda: not any(thread.is_alive() for thread in alive))
