"""A consumer's environment: how it delivers, what it remembers and for how long."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from consumers.run import resumed
from consumers.settings import load_settings
from gateway.process import Address, Admin, ConfigurationError, Readiness
from gateway.send import post
from tests.conftest import EVENT_KEY, SUBJECT_KEY
from tests.test_send import answering, http

ROOT = Path(__file__).resolve().parent.parent
LEAST = {
    "KAFKA_BOOTSTRAP_SERVERS": "localhost:1",
    "EVENT_KEY": EVENT_KEY,
    "SUBJECT_KEY": SUBJECT_KEY,
}


def loaded(**environ):
    options = {name: environ.pop(name) for name in ("delivery", "slot") if name in environ}
    return load_settings(LEAST | environ, **options)


def test_by_default_it_delivers_at_least_once_and_remembers_what_the_provider_needs():
    """No slot, the provider's own window, nothing kept on disk, five minutes for a rebuild."""
    settings = loaded()
    assert settings.slot is None
    assert settings.dedup_days is None
    assert settings.state_folder is None
    assert settings.rebuild_seconds == 300
    assert settings.stall


@pytest.mark.parametrize(
    "environ",
    [
        {"CONSUMER_DELIVERY": "exactly-once", "CONSUMER_SLOT": "3"},
        {"delivery": "exactly-once", "slot": 3},
        {"delivery": "exactly-once", "CONSUMER_SLOT": "3"},
        {"CONSUMER_DELIVERY": "at-least-once", "delivery": "exactly-once", "slot": 3},
        {"CONSUMER_DELIVERY": "exactly-once", "CONSUMER_SLOT": "7", "slot": 3},
    ],
)
def test_the_slot_comes_with_exactly_once_and_options_win(environ):
    """By variable or by option."""
    assert loaded(**environ).slot == 3


def test_slot_0_is_a_slot():
    """The first of a StatefulSet is numbered 0."""
    assert loaded(delivery="exactly-once", slot=0).slot == 0


def test_a_slot_of_the_environment_means_nothing_at_least_once():
    """It may stand in an environment that several processes share."""
    assert loaded(CONSUMER_SLOT="3").slot is None


def run(**environ: str) -> subprocess.CompletedProcess[str]:
    """A consumer that is told its slot, as a person starts it."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("CONSUMER_")}
    return subprocess.run(
        [sys.executable, "-m", "consumers", "run", "veriff", "--slot", "0"],
        cwd=ROOT,
        env={**kept, **LEAST, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("environ", [{}, {"CONSUMER_DELIVERY": "at-least-once"}])
def test_a_slot_that_is_given_demands_exactly_once(environ):
    """Who forgot the delivery mode would believe that he has it: one sentence, exit code 2."""
    done = run(**environ)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--slot 0 is given and delivery is at-least-once" in done.stderr
    assert "give --delivery exactly-once too" in done.stderr


def test_state_and_windows_are_read():
    """Days, seconds and a folder."""
    settings = loaded(
        CONSUMER_DEDUP_DAYS="30", CONSUMER_STATE_DIR="/var/lib/it", CONSUMER_REBUILD_SECONDS="60"
    )
    assert settings.dedup_days == 30
    assert settings.state_folder == Path("/var/lib/it")
    assert settings.rebuild_seconds == 60
    assert loaded(CONSUMER_DEDUP_DAYS="0").dedup_days == 0


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        (
            {"CONSUMER_DELIVERY": "once"},
            "CONSUMER_DELIVERY is 'once'; it should be at-least-once or exactly-once",
        ),
        ({"CONSUMER_DELIVERY": "exactly-once", "delivery": "twice"}, "--delivery is 'twice'"),
        ({"delivery": "at-least-once", "slot": 3}, "a slot belongs to exactly-once"),
        ({"delivery": "exactly-once"}, "needs a slot"),
        ({"delivery": "exactly-once", "CONSUMER_SLOT": "a"}, "CONSUMER_SLOT is 'a'"),
        ({"delivery": "exactly-once", "CONSUMER_SLOT": "10000"}, "from 0 to 9999"),
        ({"CONSUMER_DEDUP_DAYS": "-1"}, "CONSUMER_DEDUP_DAYS is '-1'; it should be a whole number"),
        ({"CONSUMER_DEDUP_DAYS": "1.5"}, "CONSUMER_DEDUP_DAYS is '1.5'"),
        ({"CONSUMER_DEDUP_DAYS": "401"}, "from 0 to 400"),
        ({"CONSUMER_DEDUP_DAYS": "٣"}, "CONSUMER_DEDUP_DAYS"),
        ({"CONSUMER_REBUILD_SECONDS": "0"}, "from 1 to 86400"),
        ({"CONSUMER_STATE_DIR": "state"}, "should be an absolute path"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(environ, sentence):
    """It names the variable, what it held and what it should hold."""
    with pytest.raises(ConfigurationError) as refused:
        loaded(**environ)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda admin: resumed("veriff", admin), "yes"),
        (lambda admin: post(f"http://{admin}/resume/veriff", {}, b"").text, "yes"),
    ],
    ids=["consumers resume", "gateway send"],
)
def test_what_is_on_this_machine_is_asked_directly_whatever_the_environment_says(
    ask, text, monkeypatch
):
    """A proxy is for the way out, and would look for the address on its own side."""
    admin = Admin(
        Address("127.0.0.1", 0), CollectorRegistry(), Readiness(), {"/resume/veriff": lambda: "yes"}
    )
    admin.start()
    try:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert ask(admin.address) == text
    finally:
        admin.close()


def test_what_is_elsewhere_is_sent_by_the_proxy_of_the_environment(monkeypatch):
    """Someone who tries a gateway from inside a company's network goes through its proxy."""
    admin = Admin(Address("127.0.0.1", 0), CollectorRegistry(), Readiness())
    admin.start()  # stands for the proxy: it answers what no gateway would
    try:
        monkeypatch.setenv("http_proxy", f"http://{admin.address}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert post("http://gateway.example/webhooks/veriff", {}, b"").status in {404, 405}
    finally:
        admin.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        http("200 OK", body=b"\xff\xfe"),
        http("404 Not Found"),
        http("404 Not Found", body=b"\xff\xfe"),
        http("301 Moved", "Location: http://[bad/"),
    ],
    ids=["not HTTP", "no text", "no such page", "no page and no text", "a redirect"],
)
def test_who_answers_as_no_consumer_does_is_told_apart(answer):
    """Another program at that address did not resume anything."""
    with answering(answer) as (address, asked), pytest.raises(ConfigurationError) as refused:
        resumed("veriff", Address.parse(address, "--admin"))
    assert asked == ["POST /resume/veriff"]
    assert str(refused.value) == (
        f"the process at {address} is not a consumer of veriff; name its own with --admin"
    )


@pytest.mark.parametrize(
    "host",
    [
        "a..example",
        "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher..example",
        "two words",
        "a" * 70 + ".example",
    ],
)
def test_a_host_that_cannot_be_asked_is_one_sentence(host):
    """As where nobody answers: the address is to be mended."""
    with pytest.raises(ConfigurationError) as refused:
        resumed("veriff", Address(host, 80))
    assert "name the admin address of veriff's process with --admin" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_who_hangs_up_is_nobody():
    """A process that ends just then, or a port that is passed on to nobody."""
    with answering(b"") as (address, _), pytest.raises(ConfigurationError) as refused:
        resumed("veriff", Address.parse(address, "--admin"))
    assert str(refused.value).startswith(f"nobody answers at {address}; ")


def test_a_redirect_of_a_resume_is_not_followed():
    """Nobody else was meant."""
    with (
        answering(http("200 OK")) as (other, asked_there),
        answering(http("303 See Other", f"Location: http://{other}/")) as (address, _),
        pytest.raises(ConfigurationError),
    ):
        resumed("veriff", Address.parse(address, "--admin"))
    assert asked_there == []
