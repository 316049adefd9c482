"""The admin address: pages for a scraper and an orchestrator, actions for an operator."""

import http.client

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

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
    assert ask(admin, "GET", "/readyz?verbose")[1].startswith("not ready\ntopics: not yet, since ")
    readiness.set("topics")
    assert ask(admin, "GET", "/readyz") == (200, "ready\n", None)
    assert ask(admin, "GET", "/")[0] == 404
    assert ask(admin, "HEAD", "/readyz") == (200, "", None)
    assert ask(admin, "HEAD", "/livez") == (200, "", None)


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


class Clock:
    """A wall clock that goes as told."""

    def __init__(self):
        self.seconds = 1_790_000_000.5

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def test_every_condition_says_since_when(clock):
    """Also when all is well; the words of a problem may change without its time."""
    conditions = Readiness("topics", "kafka", now=clock)
    assert conditions.lines() == [
        "topics: not yet, since 2026-09-21T14:13:20Z (0 s)",
        "kafka: not yet, since 2026-09-21T14:13:20Z (0 s)",
    ]
    clock.seconds += 10
    conditions.set("topics")
    conditions.set("kafka", "the broker is away")
    clock.seconds += 32
    conditions.set("topics")
    conditions.set("kafka", "no broker is reachable")
    assert conditions.lines() == [
        "topics: ok since 2026-09-21T14:13:30Z",
        "kafka: no broker is reachable, since 2026-09-21T14:13:20Z (42 s)",
    ]
    assert conditions.problems() == {"kafka": "no broker is reachable"}
    conditions.set("kafka")
    assert conditions.problems() == {}
    assert conditions.lines()[1] == "kafka: ok since 2026-09-21T14:14:02Z"
    clock.seconds += 5
    conditions.set("kafka", "gone again")
    clock.seconds -= 60  # a wall clock may be set back
    assert conditions.lines()[1] == "kafka: gone again, since 2026-09-21T14:14:07Z (0 s)"


def test_a_condition_that_was_not_named_counts_from_when_it_is_set(clock):
    """What is said first of it is the beginning."""
    conditions = Readiness(now=clock)
    clock.seconds += 1
    conditions.set("late", "not there")
    assert conditions.lines() == ["late: not there, since 2026-09-21T14:13:21Z (0 s)"]
    assert conditions.problems() == {"late": "not there"}


def test_readiness_is_a_page_and_a_metric():
    """What holds is 1 and what does not is 0, on every process's page, and the pages agree."""
    conditions = Readiness("topics", "kafka")
    running = Admin(Address("127.0.0.1", 0), CollectorRegistry(), conditions)
    running.start()
    try:
        conditions.set("topics")
        assert ask(running, "GET", "/readyz")[:2] == (503, "not ready\n")
        page = ask(running, "GET", "/metrics")[1]
        assert 'verihook_ready{condition="topics"} 1.0' in page
        assert 'verihook_ready{condition="kafka"} 0.0' in page
        conditions.set("kafka")
        status, text, _ = ask(running, "GET", "/readyz?verbose")
        assert status == 200
        first, *others = text.splitlines()
        assert first == "ready"
        assert [line.partition(" since ")[0] for line in others] == ["topics: ok", "kafka: ok"]
        assert 'verihook_ready{condition="kafka"} 1.0' in ask(running, "GET", "/metrics")[1]
    finally:
        running.close()


def test_a_registry_that_shows_readiness_shows_it_once():
    """A page with one metric twice is refused by Prometheus, whole."""
    registry, conditions = CollectorRegistry(), Readiness("topics")
    Gauge("verihook_ready", "Ready.", ("condition",), registry=registry).labels("topics").set(1)
    running = Admin(Address("127.0.0.1", 0), registry, conditions)
    running.start()
    try:
        assert ask(running, "GET", "/metrics")[1].count("# TYPE verihook_ready gauge") == 1
    finally:
        running.close()


def test_a_taken_port_is_one_sentence(admin, registry, readiness):
    """Two processes on one admin address: the second says which and what to do."""
    with pytest.raises(ConfigurationError, match="choose a free port"):
        Admin(admin.address, registry, readiness)
