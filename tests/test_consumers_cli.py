"""python -m consumers explain | tail, and a consumer's environment."""

import json
import os
import subprocess
import sys

import pytest
from confluent_kafka import KafkaError

from consumers import __main__ as program
from consumers import tail
from consumers.codec import encoder, single_object_prefix
from consumers.explain import fate_of
from consumers.normalizers import NORMALIZERS
from consumers.settings import load_keys, load_settings
from gateway.process import ConfigurationError
from gateway.send import fixture, fixtures
from tests.conftest import EVENT_KEY, RECEIVED_AT, SUBJECT_KEY
from tests.conftest import KEYS as ALL_KEYS
from tests.deployment import ROOT, deployment
from tests.test_ledger import event

KEYS = {"EVENT_KEY": EVENT_KEY, "SUBJECT_KEY": SUBJECT_KEY}


def consumers(*arguments, stdin=b"", **environ):
    """Run the command line; give its exit code, output and error output."""
    done = subprocess.run(
        [sys.executable, "-m", "consumers", *arguments],
        cwd=ROOT, env={**os.environ, **environ}, input=stdin, capture_output=True, timeout=120,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_explain_json_is_the_event_with_the_schemas_names():
    """One object per line; what it says is what the pipeline would write."""
    found = fixture("veriff", "decision-declined")
    code, out, _ = consumers("explain", "veriff", str(found.folder / "body.raw"), "--json", **KEYS)
    (said,) = [json.loads(line) for line in out.splitlines()]
    (expected,) = json.loads((found.folder / "events.json").read_bytes())
    for name in ("received_at", "occurred_at"):
        said.pop(name), expected.pop(name)
    assert code == 0
    assert said == expected


def test_explain_reads_as_a_person_does():
    """A line per field that says something, names first."""
    found = fixture("pawapass", "approved")
    code, out, _ = consumers("explain", "pawapass", "-", stdin=found.body)
    assert code == 0
    lines = dict(line.split(None, 1) for line in out.splitlines())
    assert (lines["outcome"], lines["age_min"]) == ("pass", "25")
    assert "payment_currency" not in lines


@pytest.mark.parametrize("found", fixtures("treezor") + fixtures("plexy"), ids=lambda one: one.case)
def test_explain_finds_the_form_a_body_is_in(found):
    """Where a scheme tells how to read a body, explain tries them; any fixture can be explained."""
    fate = fate_of(found.provider, found.body, ALL_KEYS, endpoint="here", received_at=RECEIVED_AT)
    assert fate.failure is None


def test_explain_reads_in_the_form_it_is_told():
    """A body of contract A under contract B's scheme is what the consumer would make of it."""
    body = fixture("plexy", "payment-succeeded").body
    code, _, err = consumers("explain", "plexy", "-", "--scheme", "plexy-bearer", stdin=body)
    assert code == 1
    assert "inconsistent" in err
    code, _, err = consumers("explain", "plexy", "-", "--scheme", "plexy-basic", stdin=body)
    assert code == 2
    assert "plexy-hmac-body" in err


def test_explain_tells_what_is_wrong_under_the_form_that_fits():
    """Not why another form does not fit."""
    event = json.loads(fixture("treezor", "user-kycreview").body)
    event["webhook"]["object_id"] = "another"
    body = json.dumps(event).encode()
    fate = fate_of("treezor", body, ALL_KEYS, endpoint="here", received_at=RECEIVED_AT)
    assert fate.failure.error_class == "OtherObject"
    assert fate.failure.path == "$.webhook.object_id"


def test_explain_can_be_told_what_a_body_was_proven_by():
    """An unsigned review is never final; a token is what contract B proves."""
    found = fixture("treezor", "kycreview-result")
    for words, final in (([], True), (["--authenticity", "unsigned"], False)):
        code, out, _ = consumers("explain", "treezor", "-", "--json", *words, stdin=found.body)
        assert (code, json.loads(out)["is_final"]) == (0, final)
    body = fixture("plexy", "transaction-charged").body
    _, out, _ = consumers("explain", "plexy", "-", "--json", stdin=body)
    assert json.loads(out)["authenticity"] == "token"
    assert consumers("explain", "veriff", "-", "--scheme", "foo", stdin=b"{}")[0] == 2


def test_explain_says_why_not():
    """A body that would be a dead letter is named so, without its content, and exits 1."""
    body = b'{"eventType": "Jane Doe", "x": "Jane Doe"}'
    code, out, err = consumers("explain", "veriff", "-", stdin=body)
    assert (code, out) == (1, "")
    assert "dead letter: unknown_type" in err
    assert "Jane" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("explain", "verif", "-"), f"there are {', '.join(sorted(NORMALIZERS))}"),
        (("run", "verif"), f"there are {', '.join(sorted(NORMALIZERS))}"),
        (("resume", "verif"), f"there are {', '.join(sorted(NORMALIZERS))}"),
        (("explain", "veriff", "no-such-file"), "cannot be read"),
    ],
)
def test_misuse_is_one_sentence_and_2(arguments, words):
    """A wrong provider or file is told in one sentence."""
    code, _, err = consumers(*arguments)
    assert code == 2
    assert words in err
    assert len(err.splitlines()) == 1


def test_the_first_line_of_the_program_names_every_command():
    """Whoever opens the file sees what it can do, in the order of its help."""
    names = [one.name or one.callback.__name__ for one in program.app.registered_commands]
    assert program.__doc__ == f"python -m consumers {' | '.join(names)}."


def test_an_unreachable_cluster_is_one_sentence():
    """It says that Kafka does not answer, and where."""
    code, _, err = consumers("tail", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert code == 2
    assert err == "consumers: Kafka does not answer at 127.0.0.1:1\n"


class _Message:
    """What a consumer gives: a value, or an error."""

    def __init__(self, value=None, error=None):
        self.value, self.error = lambda: value, lambda: error and KafkaError(error)


def _tailed(monkeypatch, *batches, told=()):
    """Read these batches, None for nothing; give the events, and what was said meanwhile."""
    said, left = [], list(batches)

    class Reading:
        def __init__(self, config):
            self.heard = config["error_cb"]

        def assign(self, partitions):
            pass

        def consume(self, _count, _seconds):
            for code in told if len(left) == len(batches) else ():
                self.heard(KafkaError(code))
            return left.pop(0)

        def close(self):
            pass

    monkeypatch.setattr(tail, "Consumer", Reading)
    monkeypatch.setattr(tail, "partitions_of", lambda *_: [0])
    found = [
        one
        for one in tail.events(
            {}, "events", from_beginning=True, stopping=lambda: not left, say=said.append
        )
        if one is not None
    ]
    return found, said


def test_tail_passes_over_what_is_no_event(monkeypatch):
    """Whatever a stranger wrote behind our prefix."""
    prefix = single_object_prefix()
    garbage = [
        b"",
        b"x",
        prefix,
        prefix + bytes.fromhex("1c350c0200000202ff"),
        prefix + b"\xff" * 20,
    ]
    ours = encoder(prefix)(event())
    found, said = _tailed(monkeypatch, [_Message(one) for one in (*garbage, ours)])
    assert (found, said) == ([event()], [])


def test_tail_shows_an_event_of_no_time():
    """A moment beyond the calendar is shown as it stands."""
    (cell, *_) = tail.table_row(event(occurred_at=2**62))
    assert cell == str(2**62)


def test_tail_ends_where_its_topic_is_gone(monkeypatch):
    """Nothing would come any more."""
    for code in (
        KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION,
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match="events is gone, or partitions of it"):
            _tailed(monkeypatch, [_Message(error=code)])
        with pytest.raises(ConfigurationError, match="events is gone, or partitions of it"):
            _tailed(monkeypatch, [], told=[code])


def test_tail_says_once_that_kafka_is_away(monkeypatch):
    """One line when a trouble begins; after an event it is a new one."""
    away = _Message(error=KafkaError._TRANSPORT)
    ours = _Message(encoder(single_object_prefix())(event()))
    found, said = _tailed(
        monkeypatch, [away], [away], [ours], [], [away],
        told=[KafkaError._ALL_BROKERS_DOWN, KafkaError._ALL_BROKERS_DOWN],
    )  # fmt: skip
    assert len(found) == 1
    assert said == [
        f"Kafka does not answer as it should ({name}); tail goes on trying"
        for name in ("_ALL_BROKERS_DOWN", "_TRANSPORT", "_TRANSPORT")
    ]


@pytest.mark.kafka
def test_tail_shows_events(topics, tmp_path):
    """Everything the topic holds, as a table and as JSON lines."""
    with deployment(topics(), tmp_path) as deployed:
        deployed.gateway()
        deployed.consumer("veriff")
        deployed.send("veriff", fixture("veriff", "decision-declined").body)
        deployed.events(1)
        environ = deployed.environ()
        code, out, _ = consumers("tail", "--from-beginning", "--seconds", "3", **environ)
        assert code == 0
        head, row = out.splitlines()
        assert head.split()[:2] == ["occurred", "provider"]
        assert "identity_verification" in row
        _, out, _ = consumers("tail", "--from-beginning", "--json", "--seconds", "3", **environ)
        assert json.loads(out)["outcome"] == "fail"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"SUBJECT_KEY": SUBJECT_KEY}, "EVENT_KEY is not set"),
        ({"EVENT_KEY": EVENT_KEY}, "SUBJECT_KEY is not set"),
        ({**KEYS, "EVENT_KEY": "short"}, "EVENT_KEY holds 5 bytes"),
        ({**KEYS, "EVENT_KEY_FILE": "x"}, "both set"),
        ({"SUBJECT_KEY": SUBJECT_KEY, "EVENT_KEY_FILE": "no-such-file"}, "EVENT_KEY_FILE"),
    ],
)
def test_keys_are_demanded(environ, words):
    """No default, ever: under other keys ids cannot be compared and pseudonyms not joined."""
    with pytest.raises(ConfigurationError, match=words) as refused:
        load_keys(environ)
    assert "short" not in str(refused.value).replace("too short", "")


def test_keys_from_files_lose_one_newline(tmp_path):
    """A key file written by an editor gives the same key."""
    file = tmp_path / "key"
    file.write_text(EVENT_KEY + "\n")
    keys = load_keys({"EVENT_KEY_FILE": str(file), "SUBJECT_KEY": SUBJECT_KEY})
    assert keys.event_key == EVENT_KEY.encode()


def test_demo_makes_up_what_is_missing():
    """--demo is for trying things out: other keys at every start."""
    assert load_keys({}, demo=True).event_key != load_keys({}, demo=True).event_key


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONSUMER_RETENTION_GAP", "maybe"),
        ("CONSUMER_ADMIN_LISTEN", "9465"),
        ("CONSUMER_SINGLE_COPY", "yes"),
        ("TOPIC_PREFIX", "a b"),
        ("KAFKA_ISOLATION_LEVEL", "read_uncommitted"),
    ],
)
def test_settings_name_the_variable(name, value):
    """A value that cannot be used is refused by its variable's name."""
    environ = {**KEYS, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", name: value}
    with pytest.raises(ConfigurationError, match=name):
        load_settings(environ)
