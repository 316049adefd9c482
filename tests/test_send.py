"""`gateway send` at the HTTP edge: whom it asks, what it believes, and what it only reports."""

import contextlib
import os
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.process import ConfigurationError
from gateway.send import Answer, post

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def answering(answer: bytes):
    """Whoever is asked gets these bytes; gives the address and a list of what was asked."""
    asked = []

    class Answering(socketserver.StreamRequestHandler):
        def handle(self):
            head = [line.decode().strip() for line in iter(self.rfile.readline, b"\r\n") if line]
            self.rfile.read(int(dict(line.split(": ", 1) for line in head[1:])["Content-Length"]))
            asked.append(head[0].rpartition(" ")[0])
            self.wfile.write(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


def http(status: str, *headers: str, body: bytes = b"") -> bytes:
    """An answer as HTTP writes it."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """No proxy but the test's own."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def sent(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`gateway send` of one delivery, as a person starts it."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", "send", "veriff", "decision-approved", *words],
        cwd=ROOT,
        env=os.environ | {"VERIFF_SECRET": "a-secret-of-the-tests-0123456789"} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["http://{other}/elsewhere", "http://[bad/", "ftp://x/"])
def test_a_redirect_is_the_answer_and_nobody_else_is_asked(status, location):
    """A provider follows none, and the signature is not for another address."""
    with answering(http("200 OK", body=b"a page")) as (other, asked_there):
        redirect = http(f"{status} Moved", "Location: " + location.format(other=other))
        with answering(redirect) as (address, asked):
            assert post(f"http://{address}/webhooks/veriff", {}, b"{}") == Answer(status, "")
    assert (asked, asked_there) == (["POST /webhooks/veriff"], [])


def test_a_delivery_that_was_sent_elsewhere_is_no_success():
    """The answer is shown and the exit code is 1, as for everything that is not 200."""
    with (
        answering(http("200 OK")) as (other, asked_there),
        answering(http("301 Moved", f"Location: http://{other}/")) as (address, _),
    ):
        done = sent("--url", f"http://{address}/webhooks/veriff")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (1, "301", "")
    assert asked_there == []


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("17", 17),
        (" 5 ", 5),
        ("0", 0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("-1", None),
        ("1.5", None),
        ("\N{SUPERSCRIPT TWO}", None),
        ("9" * 5000, None),
        ("", None),
    ],
)
def test_retry_after_is_a_number_of_seconds_or_unknown(said, seconds):
    """A date belongs to whatever stands before the gateway; ours gives seconds."""
    with answering(http("503 Busy", f"Retry-After: {said}", body=b"later\n")) as (address, _):
        assert post(f"http://{address}/", {}, b"") == Answer(503, "later", seconds)


@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized"])
def test_an_answer_that_is_no_text_is_shown_as_far_as_it_is(status):
    """Whatever answers there, it is an answer."""
    with answering(http(status, body=b"so: \xff\n")) as (address, _):
        assert post(f"http://{address}/", {}, b"").text == "so: \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nso",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nso",
    ],
    ids=["nothing", "not HTTP", "half a success", "half a failure"],
)
def test_what_is_no_answer_is_one_sentence(answer):
    """It names the address, and not the path: that may hold a path token."""
    with answering(answer) as (address, _), pytest.raises(ConfigurationError) as refused:
        post(f"http://{address}/webhooks/veriff/a-path-token", {}, b"")
    assert str(refused.value) == f"http://{address} does not answer; is the gateway running there?"


@pytest.mark.parametrize(
    "url",
    [
        "foo",
        "",
        "http:",
        "http:///webhooks/veriff",
        "http://[bad/",
        "http://localhost:port/",
        "http://localhost:99999/",
        "http://a..b/",
        "http://" + "a" * 70 + ".example/",
        "http://localhost:1/b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher",
        "http://localhost:1/two words",
        "file:///etc/hostname",
        "ftp://localhost/",
        "data:,200",
    ],
)
def test_what_is_no_url_of_a_gateway_is_one_sentence(url):
    """Only http and https, and nothing else is opened."""
    with pytest.raises(ConfigurationError) as refused:
        post(url, {}, b"")
    assert str(refused.value) == (
        "the URL to send to cannot be used; it should be as http://127.0.0.1:8080/webhooks/veriff"
    )


def test_a_file_is_not_shown():
    """One sentence, exit code 2."""
    done = sent("--url", (ROOT / "LICENSE").as_uri())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("gateway: the URL to send to cannot be used")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.2",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:0.0.0.0]",
        "",
    ],
)
def test_a_gateway_on_this_machine_is_asked_directly(host, monkeypatch):
    """However GATEWAY_LISTEN names it: a signed delivery is not for the proxy."""
    with answering(http("200 OK")) as (proxy, asked):
        monkeypatch.setenv("http_proxy", f"http://{proxy}")
        with contextlib.suppress(ConfigurationError):  # nobody listens on port 1
            post(f"http://{host}:1/webhooks/veriff", {}, b"")
    assert asked == []


@pytest.mark.parametrize("host", ["gateway.example", "192.0.2.1", "[2001:db8::1]"])
def test_a_gateway_elsewhere_is_asked_by_the_proxy(host, monkeypatch):
    """It is the way out; a redirect of its is an answer too."""
    with answering(http("302 Found", "Location: http://127.0.0.1:1/")) as (proxy, asked):
        monkeypatch.setenv("http_proxy", f"http://{proxy}")
        assert post(f"http://{host}/webhooks/veriff", {}, b"") == Answer(302, "")
    assert asked == [f"POST http://{host}/webhooks/veriff"]


def test_a_gateway_that_listens_on_every_address_can_be_sent_to():
    """As in a container: GATEWAY_LISTEN names no address one could ask by a proxy."""
    with answering(http("200 OK", body=b"stored")) as (address, asked):
        listen = f"0.0.0.0:{address.rpartition(':')[2]}"
        done = sent(GATEWAY_LISTEN=listen, http_proxy="http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (0, "200 stored\n")
    assert asked == ["POST /webhooks/veriff"]
