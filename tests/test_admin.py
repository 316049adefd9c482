"""The admin address: pages for a scraper and an orchestrator, actions for an operator."""

import http.client

import pytest
from prometheus_client import CollectorRegistry, Counter

from gateway.process import Address, Admin, ConfigurationError, Readiness


@pytest.fixture(scope="module")
def registry():
    registry = CollectorRegistry()
    Counter("told", "Told.", registry=registry).inc(3)
    return registry


@pytest.fixture(scope="module")
def readiness():
    return Readiness("topics")


ACTED = []


@pytest.fixture
def acted():
    ACTED.clear()
    return ACTED


@pytest.fixture(scope="module")
def admin(registry, readiness):
    def resume() -> str:
        ACTED.append("resume")
        return f"resumed {len(ACTED)}"

    running = Admin(Address("127.0.0.1", 0), registry, readiness, {"/resume": resume})
    running.start()
    yield running
    running.close()


def ask(admin, method, path, body=None, headers=None):
    """Status, body and Allow of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", admin.address.port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.getheader("Allow")
    finally:
        connection.close()


def test_pages_are_read(admin, readiness):
    """Metrics, liveness and readiness by GET; /livez does not depend on readiness."""
    assert "told_total 3.0" in ask(admin, "GET", "/metrics")[1]
    assert ask(admin, "GET", "/livez") == (200, "live\n", None)
    assert ask(admin, "GET", "/readyz") == (503, "not ready\n", None)
    assert ask(admin, "GET", "/readyz?verbose")[1] == "not ready\ntopics: not yet\n"
    readiness.set("topics")
    assert ask(admin, "GET", "/readyz") == (200, "ready\n", None)
    assert ask(admin, "GET", "/")[0] == 404


@pytest.mark.parametrize("body", [None, b"", b"x"])
def test_an_action_answers_a_post_with_one_line(admin, acted, body):
    """Whatever is sent with it, it is done once for each POST."""
    assert ask(admin, "POST", "/resume", body) == (200, "resumed 1\n", None)
    assert ask(admin, "POST", "/resume?now", body) == (200, "resumed 2\n", None)
    assert acted == ["resume", "resume"]


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/resume", 405, "POST"),
        ("POST", "/metrics", 405, "GET"),
        ("POST", "/livez", 405, "GET"),
        ("POST", "/readyz", 405, "GET"),
        ("POST", "/pause", 404, None),
        ("POST", "/", 404, None),
        ("PUT", "/resume", 501, None),
    ],
)
def test_nothing_else_acts(admin, acted, method, path, status, allow):
    """Only a POST to an action's path does it; a page is read, another path does not exist."""
    found = ask(admin, method, path)
    assert (found[0], found[2]) == (status, allow)
    assert acted == []


def test_a_page_in_a_browser_cannot_act(admin, acted):
    """A browser says where a POST comes from; no page may act on who looks at it."""
    assert ask(admin, "POST", "/resume", headers={"Origin": "http://example.com"})[0] == 403
    assert acted == []


def test_without_actions_there_are_none(registry, readiness):
    """A process that offers none has none."""
    running = Admin(Address("127.0.0.1", 0), registry, readiness)
    running.start()
    assert ask(running, "POST", "/resume") == (404, "here one can POST to nothing\n", None)
    running.close()


def test_a_taken_port_is_one_sentence(admin, registry, readiness):
    """Two processes on one admin address: the second says which and what to do."""
    with pytest.raises(ConfigurationError, match="choose a free port"):
        Admin(admin.address, registry, readiness)
