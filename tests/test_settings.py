"""What the environment may say: every refusal is one sentence that names the variable."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.kafka import client_config, redacted, topic_prefix
from gateway.process import Address, ConfigurationError, Sparing, checked_secret, read_secret_file
from gateway.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
KAFKA = {"KAFKA_BOOTSTRAP_SERVERS": "broker.example.com:9092"}


def refusal(load, environ):
    """Give the one sentence of a refusal."""
    with pytest.raises(ConfigurationError) as caught:
        load({**KAFKA, **environ})
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


# The gateway's own variables.


def test_the_defaults_are_those_of_the_contract():
    """Nothing but Kafka's address is needed; the rest has pinned defaults."""
    settings = load_settings(KAFKA)
    assert str(settings.listen) == "127.0.0.1:8080"
    assert str(settings.admin_listen) == "127.0.0.1:9464"
    assert settings.topic_prefix == ""
    assert settings.kafka == client_config(KAFKA)
    tuning = settings.tuning
    assert (tuning.deadline, tuning.body_timeout, tuning.header_timeout) == (5.0, 10.0, 5.0)
    assert tuning.body_limit == 900 * 1024
    assert tuning.single_copy == 0
    assert tuning.drain_delay == 0


def test_every_number_can_be_set():
    """Each GATEWAY_* number is read from its variable."""
    given = {
        "GATEWAY_DEADLINE": "2.5", "GATEWAY_BODY_LIMIT": "2048", "GATEWAY_BODY_TIMEOUT": "3",
        "GATEWAY_HEADER_TIMEOUT": "4", "GATEWAY_RETRY_AFTER": "7", "GATEWAY_MAX_IN_FLIGHT": "8",
        "GATEWAY_MAX_BODY_BYTES": "9", "GATEWAY_LINGER_MS": "1", "GATEWAY_RELOAD_INTERVAL": "0.5",
        "GATEWAY_DRAIN_TIMEOUT": "6", "GATEWAY_DRAIN_DELAY": "7", "GATEWAY_SINGLE_COPY": "1",
    }  # fmt: skip
    tuning = load_settings({**KAFKA, **given}).tuning
    for variable, text in given.items():
        assert getattr(tuning, variable.removeprefix("GATEWAY_").lower()) == float(text)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATEWAY_DEADLINE", ""),
        ("GATEWAY_DEADLINE", "soon"),
        ("GATEWAY_DEADLINE", "5s"),
        ("GATEWAY_DEADLINE", "0"),
        ("GATEWAY_DEADLINE", "-1"),
        ("GATEWAY_DEADLINE", "nan"),
        ("GATEWAY_DEADLINE", "inf"),
        ("GATEWAY_DEADLINE", "301"),
        ("GATEWAY_DEADLINE", "[1]"),
        ("GATEWAY_BODY_LIMIT", "0"),
        ("GATEWAY_BODY_LIMIT", str(900 * 1024 + 1)),
        ("GATEWAY_BODY_LIMIT", "9e5.5"),
        ("GATEWAY_BODY_LIMIT", "900K"),
        ("GATEWAY_BODY_TIMEOUT", "0"),
        ("GATEWAY_HEADER_TIMEOUT", "none"),
        ("GATEWAY_RETRY_AFTER", "0"),
        ("GATEWAY_RETRY_AFTER", "1.5"),
        ("GATEWAY_MAX_IN_FLIGHT", "-1"),
        ("GATEWAY_MAX_BODY_BYTES", "0"),
        ("GATEWAY_LINGER_MS", "-1"),
        ("GATEWAY_LINGER_MS", "101"),
        ("GATEWAY_SINGLE_COPY", "2"),
        ("GATEWAY_SINGLE_COPY", "yes"),
        ("GATEWAY_RELOAD_INTERVAL", "0"),
        ("GATEWAY_DRAIN_TIMEOUT", "never"),
        ("GATEWAY_DRAIN_DELAY", "-1"),
        ("GATEWAY_DRAIN_DELAY", "301"),
    ],
)
def test_a_number_that_cannot_be_used_is_refused(variable, value):
    """The sentence names the variable, what it held and what it should hold."""
    text = refusal(load_settings, {variable: value})
    assert variable in text
    assert repr(value) in text
    assert "expected" in text


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("GATEWAY_DEADLIN", "GATEWAY_DEADLINE"),
        ("GATEWAY_BODYLIMIT", "GATEWAY_BODY_LIMIT"),
        ("GATEWAY_ENDPOINT", "GATEWAY_ENDPOINTS"),
        ("GATEWAY_LISTENS", "GATEWAY_LISTEN"),
        ("GATEWAY_MAX_INFLIGHT", "GATEWAY_MAX_IN_FLIGHT"),
    ],
)
def test_a_misspelt_variable_is_refused_with_what_was_meant(variable, meant):
    """A setting nobody reads would be believed to be in force."""
    text = refusal(load_settings, {variable: "1"})
    assert variable in text
    assert f"did you mean {meant}?" in text


def test_a_wholly_unknown_variable_is_refused():
    """Also where nothing similar exists."""
    assert "GATEWAY_XYZZY" in refusal(load_settings, {"GATEWAY_XYZZY": "1"})


@pytest.mark.parametrize(
    "variable",
    [
        "GATEWAY_PORT", "GATEWAY_SERVICE_HOST", "GATEWAY_SERVICE_PORT",
        "GATEWAY_SERVICE_PORT_HTTP", "GATEWAY_PORT_8080_TCP", "GATEWAY_PORT_8080_TCP_ADDR",
    ],
)  # fmt: skip
def test_what_kubernetes_injects_for_a_service_named_gateway_is_ignored(variable):
    """The most natural name of our own Service must not stop the gateway in every pod."""
    assert load_settings({**KAFKA, variable: "tcp://10.0.0.1:8080"}) == load_settings(KAFKA)


def test_foreign_variables_are_none_of_our_business():
    """Only our own prefixes are judged."""
    foreign = {"PATH": "/bin", "gateway_deadline": "x", "MY_GATEWAY_DEADLINE": "x", "KAFKA": "x"}
    assert load_settings({**KAFKA, **foreign}) == load_settings(KAFKA)


def test_an_unknown_log_level_is_refused():
    """A level nobody knows is named, not silently replaced."""
    assert "LOG_LEVEL" in refusal(load_settings, {"LOG_LEVEL": "loud"})
    for level in ("debug", "INFO", "Warning", "error"):
        assert load_settings({**KAFKA, "LOG_LEVEL": level}).log_level == level


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("localhost:1", "localhost", 1),
        (":8080", "0.0.0.0", 8080),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("[::1]:8080", "::1", 8080),
        ("[::]:65535", "::", 65535),
    ],
)
def test_an_address_is_host_and_port(text, host, port):
    """Names, IPv4, IPv6 in brackets, and no host for all of them."""
    assert Address.parse(text, "X") == Address(host, port)


@pytest.mark.parametrize("variable", ["GATEWAY_LISTEN", "GATEWAY_ADMIN_LISTEN"])
@pytest.mark.parametrize(
    "text",
    ["", "8080", "host", "host:", "host:http", "host:65536", "host:-1", "h:٨", "h:1 ", "h:²"],
)
def test_an_address_that_is_none_is_refused(variable, text):
    """The sentence names the variable, what it held and an example."""
    said = refusal(load_settings, {variable: text})
    assert variable in said
    assert repr(text) in said
    assert "host:port" in said


# Kafka's variables.


def test_kafka_variables_become_librdkafka_keys():
    """Underscores become dots, letters lower case, values stay; no client makes a topic."""
    config = client_config(
        {
            **KAFKA,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISMS": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": "gateway",
            "KAFKA_SASL_PASSWORD": " with = signs and blanks ",
            "KAFKA_CLIENT_ID": "ours",
            "PATH": "/bin",
        }
    )
    assert config == {
        "bootstrap.servers": "broker.example.com:9092",
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": "gateway",
        "sasl.password": " with = signs and blanks ",
        "client.id": "ours",
        "allow.auto.create.topics": "false",
    }


@pytest.mark.parametrize(
    "variable",
    [
        "KAFKA_PORT",
        "KAFKA_SERVICE_HOST",
        "KAFKA_SERVICE_PORT",
        "KAFKA_SERVICE_PORT_PLAINTEXT",
        "KAFKA_PORT_9092_TCP",
        "KAFKA_PORT_9092_TCP_ADDR",
        "KAFKA_PORT_9092_TCP_PORT",
        "KAFKA_PORT_9092_TCP_PROTO",
        "KAFKA_BROKERS_SERVICE_HOST",
        "KAFKA_BROKERS_SERVICE_PORT",
        "KAFKA_BROKERS_PORT",
        "KAFKA_0_PORT_9092_UDP_ADDR",
    ],
)
def test_what_kubernetes_injects_is_ignored(variable):
    """A Service named kafka, or kafka-something, does not become configuration."""
    assert client_config({**KAFKA, variable: "tcp://10.0.0.1:9092"}) == client_config(KAFKA)


@pytest.mark.parametrize(
    "variable",
    [
        "KAFKA_ACKS",
        "KAFKA_ENABLE_IDEMPOTENCE",
        "KAFKA_ENABLE_AUTO_COMMIT",
        "KAFKA_ENABLE_AUTO_OFFSET_STORE",
        "KAFKA_ISOLATION_LEVEL",
        "KAFKA_ALLOW_AUTO_CREATE_TOPICS",
        "KAFKA_ACKS_FILE",
    ],
)
@pytest.mark.parametrize("value", ["all", "true", "1", ""])
def test_what_carries_a_promise_cannot_be_set(variable, value):
    """Not even to the value it has: the promise is not for a variable to make."""
    text = refusal(client_config, {variable: value})
    assert variable in text
    assert "promise" in text


def test_an_alias_does_not_get_round_a_promise():
    """request.required.acks is librdkafka's other name for acks."""
    assert "KAFKA_REQUEST_REQUIRED_ACKS" in refusal(
        client_config, {"KAFKA_REQUEST_REQUIRED_ACKS": "1"}
    )


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("KAFKA_BOOTSTRAP_SERVER", "bootstrap.server"),
        ("KAFKA_SASL_PASWORD", "sasl.pasword"),
        ("KAFKA_TOPIC", "topic"),
        ("KAFKA_HEAP_OPTS", "heap.opts"),
        ("KAFKA_IMPORT", "import"),
        ("KAFKA_SUPPORT", "support"),
    ],
)
def test_a_key_librdkafka_does_not_know_is_refused(variable, key):
    """A misspelt password variable is named, its value is not."""
    text = refusal(client_config, {variable: "hush-hush-hush"})
    assert variable in text
    assert key in text
    assert "hush" not in text


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "sasl_plaintext"}, "set KAFKA_SASL_MECHANISM"),
        (
            {"KAFKA_SECURITY_PROTOCOL": "sasl_plaintext", "KAFKA_SASL_MECHANISM": "PLAIN"},
            "sasl.username and sasl.password must be set",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "ssl", "KAFKA_SSL_CA_LOCATION": "/nowhere/ca.pem"},
            "ssl.ca.location failed",
        ),
        ({"KAFKA_SECURITY_PROTOCOL": "ssl", "KAFKA_SSL_KEY_PEM": "hush"}, "ssl.key.pem failed"),
        ({"KAFKA_MAX_POLL_INTERVAL_MS": "1000"}, "`max.poll.interval.ms`"),
    ],
)
def test_settings_that_no_client_can_be_made_of_are_refused_at_the_start(environ, sentence):
    """What is missing beside a value, or contradicts it, is one sentence and no traceback."""
    text = refusal(client_config, environ)
    assert text.startswith("the KAFKA_* settings cannot be used together: ")
    assert sentence in text
    assert "hush" not in text
    assert "\n" not in text


def test_a_variable_without_a_key_is_refused():
    """KAFKA_ alone names nothing."""
    assert "KAFKA_ " in refusal(client_config, {"KAFKA_": "1"})


@pytest.mark.parametrize("environ", [{}, {"KAFKA_BOOTSTRAP_SERVERS": ""}])
def test_kafkas_address_is_needed(environ):
    """The sentence says what to give."""
    with pytest.raises(ConfigurationError, match=r"KAFKA_BOOTSTRAP_SERVERS .*host:port"):
        client_config(environ)


def test_a_kafka_value_can_come_from_a_file(tmp_path):
    """A password in a file loses exactly one trailing newline; a missing file is named."""
    password = tmp_path / "password"
    password.write_bytes(b"hush\n\n")
    config = client_config({**KAFKA, "KAFKA_SASL_PASSWORD_FILE": str(password)})
    assert config["sasl.password"] == "hush\n"
    text = refusal(client_config, {"KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "absent")})
    assert "KAFKA_SASL_PASSWORD_FILE" in text
    assert "No such file" in text


def test_a_kafka_value_has_one_source(tmp_path):
    """The same key from a variable and from a file is refused: nobody could tell which is used."""
    password = tmp_path / "password"
    password.write_text("from the file")
    both = {"KAFKA_SASL_PASSWORD": "hush", "KAFKA_SASL_PASSWORD_FILE": str(password)}
    for environ in (both, dict(reversed(both.items()))):
        text = refusal(client_config, environ)
        assert "KAFKA_SASL_PASSWORD" in text
        assert "hush" not in text
        assert "from the file" not in text


def test_keys_of_librdkafka_that_end_in_file_can_be_set(tmp_path):
    """Where librdkafka wants a path itself, the path is given and not its content."""
    key = tmp_path / "key"
    key.write_text("hush")
    config = client_config({**KAFKA, "KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE": str(key)})
    assert config["sasl.oauthbearer.assertion.private.key.file"] == str(key)


def test_secrets_are_not_shown():
    """What `check` prints holds no password, key or token."""
    config = {
        "bootstrap.servers": "broker:9092",
        "sasl.username": "gateway",
        "sasl.password": "hush",
        "ssl.key.password": "hush",
        "ssl.keystore.password": "hush",
        "ssl.key.pem": "hush",
        "ssl.certificate.pem": "hush",
        "sasl.oauthbearer.client.secret": "hush",
        "sasl.oauthbearer.config": "hush",
        "sasl.oauthbearer.assertion.private.key.passphrase": "hush",
        "sasl.oauthbearer.assertion.private.key.pem": "hush",
    }
    shown = redacted(config)
    assert set(shown) == set(config)
    assert shown["bootstrap.servers"] == "broker:9092"
    assert shown["sasl.username"] == "gateway"
    assert "hush" not in shown.values()


@pytest.mark.parametrize("prefix", ["", "demo.", "Prod-eu_1."])
def test_a_topic_prefix_is_taken(prefix):
    """Whatever Kafka allows in a topic name."""
    assert topic_prefix({"TOPIC_PREFIX": prefix}) == prefix
    assert load_settings({**KAFKA, "TOPIC_PREFIX": prefix}).topic_prefix == prefix


@pytest.mark.parametrize("prefix", ["demo/", "a b", "é", "demo.\n", "a" * 101, "*"])
def test_a_prefix_that_is_no_topic_name_is_refused(prefix):
    """The sentence names TOPIC_PREFIX and what it held."""
    text = refusal(load_settings, {"TOPIC_PREFIX": prefix})
    assert "TOPIC_PREFIX" in text
    assert repr(prefix) in text


# Secrets.


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"0123456789abcdef", "0123456789abcdef"),
        (b"0123456789abcdef\n", "0123456789abcdef"),
        (b"0123456789abcdef\r\n", "0123456789abcdef"),
        (b"0123456789abcdef\n\n", "0123456789abcdef\n"),
        (b"0123456789abcdef\r\n\r\n", "0123456789abcdef\r\n"),
        (b" 0123456789abcdef \n", " 0123456789abcdef "),
        (b"\n0123456789abcdef", "\n0123456789abcdef"),
        (b"0123456789\r\nabcdef\n", "0123456789\r\nabcdef"),
        (b"0123456789\rabcdef\n", "0123456789\rabcdef"),
        ("sécret-sécret-sécret\n".encode(), "sécret-sécret-sécret"),
        (b"", ""),
        (b"\n", ""),
    ],
)
def test_a_secret_file_loses_exactly_one_newline(tmp_path, content, secret):
    """Every other byte belongs to the secret: editors add one newline, nobody adds two."""
    file = tmp_path / "secret"
    file.write_bytes(content)
    assert read_secret_file(file, "X") == secret


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path):
    """Missing, a folder, or not UTF-8: the sentence names variable and path, not the content."""
    broken = tmp_path / "broken"
    broken.write_bytes(b"hush-hush\xff\xfe")
    for path in (tmp_path / "absent", tmp_path, broken):
        with pytest.raises(ConfigurationError) as caught:
            read_secret_file(path, "VERIFF_SECRET_FILE")
        assert "VERIFF_SECRET_FILE" in str(caught.value)
        assert str(path) in str(caught.value)
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize("value", ["", "Zq9", "0123456789Zq9xy"])
def test_a_short_secret_is_refused(value):
    """HMAC works with an empty key: then anyone could sign. The length is said, not the secret."""
    with pytest.raises(ConfigurationError) as caught:
        checked_secret(value, "VERIFF_SECRET")
    text = str(caught.value)
    assert "VERIFF_SECRET" in text
    assert "16 bytes" in text
    assert ("empty" in text) == (value == "")
    assert "Zq9" not in text


def test_the_length_of_a_secret_is_counted_in_bytes():
    """Sixteen bytes are enough, however many letters they are."""
    assert checked_secret("é" * 8, "X") == "é".encode() * 8
    with pytest.raises(ConfigurationError):
        checked_secret("é" * 7, "X")


# The program.


def gateway(*words, **environ):
    """Run python -m gateway with nothing but these variables."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


SECRET = {"VERIFF_SECRET": "hush-hush-hush-hush-hush"}
ANY_PORT = {"GATEWAY_LISTEN": "127.0.0.1:0", "GATEWAY_ADMIN_LISTEN": "127.0.0.1:0"}


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({**KAFKA}, "VERIFF_SECRET"),
        ({**KAFKA, "VERIFF_SECRET": ""}, "VERIFF_SECRET"),
        ({**KAFKA, **SECRET, "GATEWAY_DEADLINE": "soon"}, "GATEWAY_DEADLINE"),
        ({**KAFKA, **SECRET, "KAFKA_ACKS": "1"}, "KAFKA_ACKS"),
        ({**KAFKA, **SECRET, "KAFKA_LINGER_MS": "hush"}, "KAFKA_LINGER_MS"),
        ({**KAFKA, **SECRET, "GATEWAY_MAX_IN_FLIGHT": "9" * 20}, "GATEWAY_MAX_IN_FLIGHT"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_configuration_that_cannot_be_used_is_one_sentence(command, environ, named):
    """Exit code 2 and one line that names the variable; never a traceback, never a secret."""
    ended = gateway(command, **ANY_PORT, **environ)
    assert ended.returncode == 2, ended.stderr
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "hush-hush" not in ended.stdout + ended.stderr


def test_a_secret_that_is_not_text_is_one_sentence():
    """Bytes that are no UTF-8 in a secret's variable are refused by name, not by a traceback."""
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", "check"],
        cwd=ROOT,
        env={
            b"PATH": os.environb[b"PATH"],
            b"KAFKA_BOOTSTRAP_SERVERS": b"broker:9092",
            b"VERIFF_SECRET": b"hush-hush-hush-hush-\xff",
        },
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert b"VERIFF_SECRET" in ended.stderr
    assert b"Traceback" not in ended.stderr
    assert b"hush" not in ended.stderr


def test_check_shows_the_configuration_without_its_secrets():
    """An operator sees what is in force; secrets and path tokens are only said to be set."""
    token = "T" * 32
    ended = gateway(
        "check",
        **KAFKA,
        **SECRET,
        VERIFF_PATH_TOKEN=token,
        KAFKA_SASL_PASSWORD="hush-hush",
        TOPIC_PREFIX="demo.",
    )
    assert ended.returncode == 0, ended.stderr
    for shown in (
        "127.0.0.1:8080",
        "broker.example.com:9092",
        "demo.",
        "/webhooks/veriff",
        "default",
    ):
        assert shown in ended.stdout
    assert "hush" not in ended.stdout + ended.stderr
    assert token not in ended.stdout + ended.stderr


def test_log_lines_of_a_kind_are_held_back_and_counted():
    """One passes per interval; the next says how many did not."""
    sparing = Sparing(10.0)
    assert [sparing.admit("a", now) for now in (0.0, 1.0, 9.9, 10.0, 11.0)] == [
        0,
        None,
        None,
        2,
        None,
    ]
    assert sparing.admit("b", 1.0) == 0


def test_kinds_that_hold_a_senders_words_are_bounded():
    """So many different ones pass in an interval, the further ones as one kind, all counted."""
    sparing = Sparing(10.0, most_kinds=3)
    assert [sparing.admit(kind, 0.0) for kind in "abcdef"] == [0, 0, 0, 0, None, None]
    assert sparing.admit("a", 5.0) is None
    assert [sparing.admit(kind, 9.0) for kind in "gh"] == [None, None]
    assert len(sparing._last) == 4
    assert sparing.admit("d", 10.0) == 0
    assert sparing.admit("a", 10.0) == 0  # forgotten, and what was held back with it
    assert len(sparing._last) == 2
