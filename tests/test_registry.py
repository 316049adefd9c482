"""Registry look-up: one question at the start, answered or refused in one sentence."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from consumers.registry import schema_id
from consumers.settings import framing
from gateway.process import ConfigurationError


@pytest.fixture
def registry():
    """A registry that answers as told and remembers what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body, self.headers.get("Authorization")))
            status, answer = self.server.answer
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments):
            """Stay silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked = asked
    server.answer = (200, b'{"subject":"s","version":1,"id":7,"schema":"{}"}')
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_id_is_looked_up_by_content(registry):
    """The whole schema is asked for under <topic>-value, as TopicNameStrategy names it."""
    assert schema_id(registry.url + "/", "verification.events", '{"a":1}') == 7
    assert registry.asked == [
        ("/subjects/verification.events-value", {"schema": '{"a":1}'}, None)
    ]  # fmt: skip


def test_credentials_are_sent(registry):
    """Basic authentication, from a variable or a file."""
    schema_id(registry.url, "t", "{}", "user:pass")
    assert registry.asked[0][2] == "Basic dXNlcjpwYXNz"


def test_framing_follows_the_configuration(registry):
    """With a registry the Confluent framing carries its id, without one the single object."""
    assert framing({"SCHEMA_REGISTRY_URL": registry.url}, "t") == b"\0\0\0\0\7"
    assert framing({}, "t")[:2] == b"\xc3\x01"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, b'{"error_code":40403}'), "register"),
        ((500, b"oops"), "answered 500"),
        ((200, b"<html>"), "does not answer as one"),
        ((200, b'{"id":"x"}'), "does not answer as one"),
    ],
)
def test_refusals_are_one_sentence(registry, answer, words):
    """Whatever the registry answers, the operator reads what to do."""
    registry.answer = answer
    with pytest.raises(ConfigurationError, match=words):
        schema_id(registry.url, "verification.events", "{}")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "file:///etc/passwd", "registry:8081"])
def test_no_registry_there(url):
    """An address that is none is refused before anything is consumed."""
    with pytest.raises(ConfigurationError, match="SCHEMA_REGISTRY_URL"):
        schema_id(url, "t", "{}")
