"""What the endpoints' configuration may say: every source, every refusal, and its reload."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from typer.testing import CliRunner

from gateway import serve
from gateway.__main__ import app
from gateway.endpoints import load_endpoints
from gateway.headers import Headers
from gateway.kafka import ClusterUnreachable
from gateway.metrics import GatewayMetrics
from gateway.process import ConfigurationError
from gateway.providers import PROVIDERS
from gateway.rejections import Rejection
from gateway.settings import Settings, Tuning
from gateway.signatures import Key
from gateway.statistics import ClientStatistics
from tests.sample_keys import sample_secret
from tests.senders import sender as sender_at

HUSH = "hush-hush-hush-hush"
OTHER = "other-other-other-other"
TOKEN = "Zk3" * 8
BODY = b'{"id":"a"}'


def refusal(environ):
    """Give the one sentence of a refusal; no secret ever stands in it."""
    with pytest.raises(ConfigurationError) as caught:
        load_endpoints(environ)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert HUSH not in text
    assert OTHER not in text
    assert TOKEN not in text
    return text


def loaded(environ):
    return load_endpoints(environ).by_name


def accepts(endpoint, secret, client=None):
    """Give the key id under which the endpoint takes a delivery signed with a secret, or None."""
    by = Key(id="sender", value=secret if isinstance(secret, bytes) else secret.encode())
    proof = endpoint.provider.scheme([by]).sign(BODY, 0.0)
    headers = dict(proof.headers) | ({"x-auth-client": client} if client else {})
    try:
        return endpoint.scheme.verify(Headers(headers.items()), proof.body, 0.0).key_id
    except Rejection:
        return None


@pytest.fixture
def written(tmp_path):
    """Write a file of this test and give its path as text."""

    def write(content, name="endpoints.toml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


# Without a file: the environment.


@pytest.mark.parametrize(
    "provider", sorted(name for name in PROVIDERS if PROVIDERS[name].key_pairs is None)
)
def test_every_provider_whose_secret_is_set_gets_an_endpoint(provider):
    """/webhooks/<provider>, production, key id default, no path token."""
    by_name = loaded({f"{provider.upper()}_SECRET": HUSH})
    assert set(by_name) == {provider}
    endpoint = by_name[provider]
    assert endpoint.name == provider
    assert endpoint.provider is PROVIDERS[provider]
    assert endpoint.environment == "production"
    assert endpoint.path_token is None
    for secret, key_id in ((HUSH, "default"), (OTHER, None)):
        by = Key(id="sender", value=secret.encode())
        proof = PROVIDERS[provider].scheme([by]).sign(sender_at(provider).body, 0.0)
        try:
            found = endpoint.scheme.verify(Headers(proof.headers.items()), proof.body, 0.0).key_id
        except Rejection:
            found = None
        assert found == key_id


def test_several_providers_side_by_side():
    """Each with its own secret: one's secret does not open another's endpoint."""
    by_name = loaded({"VERIFF_SECRET": HUSH, "PAWAPASS_SECRET": OTHER})
    assert set(by_name) == {"veriff", "pawapass"}
    assert accepts(by_name["veriff"], OTHER) is None
    assert accepts(by_name["pawapass"], HUSH) is None


@pytest.mark.parametrize("environ", [{}, {"STRIPE_SECRET": HUSH}, {"veriff_secret": HUSH}])
def test_no_endpoint_at_all_is_refused(environ):
    """The sentence says what could be set."""
    text = refusal(environ)
    for name in ("VERIFF_SECRET", "PAWAPASS_SECRET", "GATEWAY_ENDPOINTS"):
        assert name in text


@pytest.mark.parametrize("value", ["", "x", "fifteen-bytes--"])
def test_a_secret_that_is_empty_or_short_is_refused(value, written):
    """From every source: variable, file, TOML value, TOML file."""
    file = written(value, "secret")
    sources = [
        {"VERIFF_SECRET": value},
        {"VERIFF_SECRET_FILE": file},
        {"VERIFF_SECRETS_FILE": written(f'[[secret]]\nid = "a"\nvalue = "{value}"\n', "a.toml")},
        {"VERIFF_SECRETS_FILE": written(f'[[secret]]\nid = "a"\nfile = "{file}"\n', "b.toml")},
    ]
    for environ in sources:
        text = refusal(environ)
        assert next(iter(environ)) in text or next(iter(environ.values())) in text
        assert "16 bytes" in text
        assert "fifteen" not in text


def test_a_second_secret_that_is_short_is_refused_too(written):
    """One good secret does not excuse an empty one beside it: anyone could sign with that."""
    file = written(
        f'[[secret]]\nid = "a"\nvalue = "{HUSH}"\n[[secret]]\nid = "b"\nvalue = ""\n', "s.toml"
    )
    assert "'b'" in refusal({"VERIFF_SECRETS_FILE": file})


@pytest.mark.parametrize("names", ["_SECRET _SECRET_FILE", "_SECRET _SECRETS_FILE",
                                   "_SECRET_FILE _SECRETS_FILE"])  # fmt: skip
def test_two_sources_at_once_are_refused(names, written):
    """Nobody could tell which is in force; both are named."""
    file = written(f'[[secret]]\nid = "a"\nvalue = "{HUSH}"\n')
    one, two = (f"VERIFF{name}" for name in names.split())
    text = refusal({one: file, two: file})
    assert one in text
    assert two in text


def test_an_empty_variable_beside_a_file_is_still_two_sources(written):
    """Set but empty is set: what an orchestrator rendered empty must not pass unnoticed."""
    file = written(HUSH, "secret")
    assert "VERIFF_SECRET" in refusal({"VERIFF_SECRET": "", "VERIFF_SECRET_FILE": file})


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (HUSH.encode(), HUSH),
        (HUSH.encode() + b"\n", HUSH),
        (HUSH.encode() + b"\r\n", HUSH),
        (HUSH.encode() + b"\n\n", HUSH + "\n"),
        (HUSH.encode() + b" ", HUSH + " "),
        (b" " + HUSH.encode(), " " + HUSH),
    ],
)
def test_a_secret_file_loses_exactly_one_newline(content, key, written):
    """Everything else in the file is the secret, wherever the file is named."""
    file = written(content, "secret")
    table = f'[[secret]]\nid = "a"\nfile = "{file}"\n'
    for environ in (
        {"VERIFF_SECRET_FILE": file},
        {"VERIFF_SECRETS_FILE": written(table, "secrets.toml")},
    ):
        endpoint = loaded(environ)["veriff"]
        assert accepts(endpoint, key)
        assert not accepts(endpoint, key + "\n")
        assert key == HUSH or not accepts(endpoint, HUSH)


def test_a_secrets_file_holds_several_with_ids(written):
    """During a rotation both verify, each under its own id."""
    file = written(
        f'[[secret]]\nid = "2026-spring"\nvalue = "{HUSH}"\n'
        f'[[secret]]\nid = "2025-autumn"\nvalue = "{OTHER}"\n'
    )
    endpoint = loaded({"VERIFF_SECRETS_FILE": file})["veriff"]
    assert endpoint.scheme.key_ids == ("2026-spring", "2025-autumn")
    assert accepts(endpoint, HUSH) == "2026-spring"
    assert accepts(endpoint, OTHER) == "2025-autumn"


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:30:00", datetime(2027, 1, 31, 12, 30, tzinfo=UTC)),
        ("2027-01-31 12:30:00", datetime(2027, 1, 31, 12, 30, tzinfo=UTC)),
        ("2027-01-31T12:30:00Z", datetime(2027, 1, 31, 12, 30, tzinfo=UTC)),
        ("2027-01-31T12:30:00+05:00", datetime(2027, 1, 31, 7, 30, tzinfo=UTC)),
        ("2001-01-01", datetime(2001, 1, 1, tzinfo=UTC)),
        ("9999-12-31", datetime(9999, 12, 31, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("inline", [False, True])
def test_a_secret_says_when_it_retires(text, at, inline, written):
    """A date is its beginning; without an offset it is UTC; the key goes on verifying."""
    secret = f'id = "old"\nvalue = "{HUSH}"\nretires = {text}\n'
    if inline:
        table = '[[endpoint]]\nname = "v"\nprovider = "veriff"\nenvironment = "sandbox"\n'
        file = written(f"{table}[[endpoint.secrets]]\n{secret}")
        endpoints = load_endpoints({"GATEWAY_ENDPOINTS": file})
    else:
        file = written(f'[[secret]]\n{secret}[[secret]]\nid = "new"\nvalue = "{OTHER}"\n')
        endpoints = load_endpoints({"VERIFF_SECRETS_FILE": file})
    (name,) = endpoints.by_name
    assert endpoints.retires == {(name, "old"): at}
    assert accepts(endpoints.by_name[name], HUSH) == "old"
    metrics = GatewayMetrics("0", "0")
    metrics.retirements.use(endpoints.retires)
    exposed = {
        tuple(sample.labels.values()): sample.value
        for family in metrics.retirements.collect()
        for sample in family.samples
    }
    assert exposed == {(name, "old"): at.timestamp()}


@pytest.mark.parametrize(
    "text",
    [
        '"2027-01-31"', '""', "12:30:00", "2027", "0", "true", "[]", "{}", "1.5", f'"{HUSH}"',
        "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00",
    ],
)  # fmt: skip
def test_what_is_no_date_is_refused(text, written):
    """One sentence that says how to write it, without what stood there."""
    file = written(f'[[secret]]\nid = "a"\nvalue = "{HUSH}"\nretires = {text}\n')
    sentence = refusal({"VERIFF_SECRETS_FILE": file})
    assert "secret 'a'" in sentence
    assert "retires holds no date; write it without quotes, as 2027-01-31" in sentence


def test_check_shows_when_keys_retire(written, monkeypatch):
    """Who has forgotten to take a key away reads it where the configuration is shown."""
    file = written(
        f'[[secret]]\nid = "old"\nvalue = "{HUSH}"\nretires = 2001-01-31\n'
        f'[[secret]]\nid = "new"\nvalue = "{OTHER}"\nretires = 9999-01-01T07:30:00Z\n'
    )
    for name in [name for name in os.environ if name.startswith(("GATEWAY_", "KAFKA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VERIFF_SECRETS_FILE", file)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "nowhere:1")
    shown = CliRunner().invoke(app, ["check"]).output.splitlines()
    assert (
        "endpoint /webhooks/veriff: key old retires 2001-01-31 00:00Z, which is past: take it away"
    ) in shown
    assert "endpoint /webhooks/veriff: key new retires 9999-01-01 07:30Z" in shown


@pytest.mark.parametrize(
    "secret_id", ["", "A", "key_1", "key.1", "ключ", "a" * 33, "a b", "a\\n", "a/b"]
)
def test_a_key_id_of_another_form_is_refused(secret_id, written):
    """Ids become metric labels and record headers: 1 to 32 of a-z, 0-9 and -."""
    file = written(f'[[secret]]\nid = "{secret_id}"\nvalue = "{HUSH}"\n')
    assert "1 to 32 of a-z, 0-9 and -" in refusal({"VERIFF_SECRETS_FILE": file})


@pytest.mark.parametrize("secret_id", ["a", "a" * 32, "2026-11", "-", "0"])
def test_a_key_id_of_the_right_form_is_taken(secret_id, written):
    """The edges of the rule."""
    file = written(f'[[secret]]\nid = "{secret_id}"\nvalue = "{HUSH}"\n')
    assert accepts(loaded({"VERIFF_SECRETS_FILE": file})["veriff"], HUSH) == secret_id


# What stands in a secrets file that cannot be used, and a word of the sentence.
BAD_SECRETS = {
    "nothing": ("", "no secret"),
    "no table": ("secret = []", "no secret"),
    "the secret itself": (HUSH, "TOML"),
    "the secret in quotes": (f'"{HUSH}"', "TOML"),
    "not utf-8": (b"\xff\xfe" + HUSH.encode(), "UTF-8"),
    "a text for a table": (f'secret = "{HUSH}"', "array"),
    "a text in the array": (f'secret = ["{HUSH}"]', "object"),
    "one table": (f'[secret]\nid = "a"\nvalue = "{HUSH}"', "array"),
    "no id": (f'[[secret]]\nvalue = "{HUSH}"', "id"),
    "a number for an id": (f'[[secret]]\nid = 1\nvalue = "{HUSH}"', "id"),
    "a number for a value": ('[[secret]]\nid = "a"\nvalue = 1234567890123456', "value"),
    "neither value nor file": ('[[secret]]\nid = "a"', "either a value or a file"),
    "value and file": (
        f'[[secret]]\nid = "a"\nvalue = "{HUSH}"\nfile = "/absent"',
        "either a value or a file",
    ),
    "an absent file": ('[[secret]]\nid = "a"\nfile = "/absent/secret"', "/absent/secret"),
    "twice the same id": (
        f'[[secret]]\nid = "a"\nvalue = "{HUSH}"\n[[secret]]\nid = "a"\nvalue = "{OTHER}"',
        "unique",
    ),
    "an unknown key": (f'[[secret]]\nid = "a"\nvlaue = "{HUSH}"', "did you mean 'value'?"),
    "an unknown table": (f'[[secrets]]\nid = "a"\nvalue = "{HUSH}"', "did you mean 'secret'?"),
    "a strange key": (f'[[secret]]\nid = "a"\nxyzzy = "{HUSH}"', "xyzzy"),
    "an empty client": (f'[[secret]]\nid = "a"\nvalue = "{HUSH}"\nclient = ""', "client"),
    "some with a client": (
        (
            f'[[secret]]\nid = "a"\nvalue = "{HUSH}"\nclient = "c"\n'
            f'[[secret]]\nid = "b"\nvalue = "{OTHER}"'
        ),
        "client",
    ),
}


@pytest.mark.parametrize("case", BAD_SECRETS)
def test_a_secrets_file_that_cannot_be_used_is_refused(case, written):
    """The sentence names the file, and says what is wrong without quoting it."""
    content, word = BAD_SECRETS[case]
    file = written(content, "secrets.toml")
    text = refusal({"VERIFF_SECRETS_FILE": file})
    assert file in text or "VERIFF" in text
    assert word in text


@pytest.mark.parametrize("variable", ["VERIFF_SECRET_FILE", "VERIFF_SECRETS_FILE"])
def test_an_absent_file_is_named_with_its_variable(variable, tmp_path):
    """So is an empty path."""
    for path in (str(tmp_path / "absent"), ""):
        assert variable in refusal({variable: path})


def test_secrets_can_be_bound_to_clients(written):
    """With a client named, only that client's secrets verify."""
    file = written(
        f'[[secret]]\nid = "a"\nvalue = "{HUSH}"\nclient = "one"\n'
        f'[[secret]]\nid = "b"\nvalue = "{OTHER}"\nclient = "two"\n'
    )
    endpoint = loaded({"VERIFF_SECRETS_FILE": file})["veriff"]
    assert accepts(endpoint, HUSH, "one") == "a"
    assert accepts(endpoint, OTHER, "two") == "b"
    assert accepts(endpoint, HUSH, "two") is None
    assert accepts(endpoint, HUSH) is None


def test_a_client_is_refused_where_the_provider_names_none(written):
    """Where no client is sent (pawaPass), a binding nobody checks would be believed to be in force."""
    file = written(f'[[secret]]\nid = "a"\nvalue = "{HUSH}"\nclient = "one"\n')
    assert "client" in refusal({"PAWAPASS_SECRETS_FILE": file})


@pytest.mark.parametrize("environment", ["production", "sandbox"])
def test_an_environment_is_production_or_sandbox(environment):
    """It travels on every record of the endpoint."""
    environ = {"VERIFF_SECRET": HUSH, "VERIFF_ENVIRONMENT": environment}
    assert loaded(environ)["veriff"].environment == environment


@pytest.mark.parametrize("environment", ["", "Production", "test", "production,sandbox", "both"])
def test_another_environment_is_refused(environment, written):
    """Never both on one endpoint, never one we do not know; the sentence says which there are."""
    text = refusal({"VERIFF_SECRET": HUSH, "VERIFF_ENVIRONMENT": environment})
    assert "VERIFF_ENVIRONMENT" in text
    assert "production or sandbox" in text
    file = written(endpoint_table(environment=environment))
    text = refusal({"GATEWAY_ENDPOINTS": file})
    assert "production" in text
    assert "sandbox" in text


GOOD_TOKENS = [TOKEN, "Gz" * 11, "-_" * 11, "a" * 256, "0123456789abcdef" * 2]
# The last but one: 22 hex digits are 88 bits.
BAD_TOKENS = ["", "a", "Z" * 21, "a" * 257, "a/b" * 10, "é" * 30, "a b" * 10, TOKEN + "\n",
              TOKEN + "%", "0123456789abcdef012345", TOKEN + "?"]  # fmt: skip


@pytest.mark.parametrize("token", GOOD_TOKENS)
def test_a_path_token_of_128_bits_is_taken(token, written):
    """22 characters of base64url or 32 hex digits and more; from a variable, a table or a file."""
    file = written(token + "\n", "token")
    for endpoint in (
        loaded({"VERIFF_SECRET": HUSH, "VERIFF_PATH_TOKEN": token})["veriff"],
        loaded({"GATEWAY_ENDPOINTS": written(endpoint_table(path_token=token))})["eu"],
        loaded({"GATEWAY_ENDPOINTS": written(endpoint_table(path_token_file=file))})["eu"],
    ):
        assert endpoint.path_token == token.encode()


@pytest.mark.parametrize("token", BAD_TOKENS)
def test_another_path_token_is_refused(token, written):
    """Shorter, or of characters a path cannot carry; the sentence says the rule, not the token."""
    text = refusal({"VERIFF_SECRET": HUSH, "VERIFF_PATH_TOKEN": token})
    assert "VERIFF_PATH_TOKEN" in text
    assert "128 bits" in text
    assert len(token) < 3 or token.strip() not in text
    if "\n" not in token:
        text = refusal({"GATEWAY_ENDPOINTS": written(endpoint_table(path_token=token))})
        assert "128 bits" in text


def test_a_path_token_has_one_source(written):
    """A token and a token file at once are refused."""
    file = written("A" * 30, "token")
    text = refusal(
        {"GATEWAY_ENDPOINTS": written(endpoint_table(path_token=TOKEN, path_token_file=file))}
    )
    assert "path_token" in text


# With a file.

SECRETS = f'[[endpoint.secrets]]\nid = "a"\nvalue = "{HUSH}"\n'


def endpoint_table(*, with_secret=True, **changes):
    """Write one [[endpoint]], with a secret unless told otherwise; None leaves a key out."""
    table = {"name": "eu", "provider": "veriff", "environment": "sandbox", **changes}
    lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in table.items()
             if value is not None]  # fmt: skip
    return "\n".join(["[[endpoint]]", *lines, SECRETS if with_secret else ""])


def test_a_file_names_the_endpoints(written):
    """Several endpoints of one provider, each with its own name, secrets and environment."""
    one = endpoint_table()
    two = endpoint_table(name="us", environment="production").replace(HUSH, OTHER)
    by_name = loaded({"GATEWAY_ENDPOINTS": written(one + two)})
    assert set(by_name) == {"eu", "us"}
    assert by_name["eu"].environment == "sandbox"
    assert by_name["us"].environment == "production"
    assert accepts(by_name["eu"], HUSH) == "a"
    assert accepts(by_name["us"], HUSH) is None


def test_a_secret_belongs_to_one_environment(written):
    """What a sandbox signs must not pass as production; within one environment it may be shared."""
    one = endpoint_table(environment="sandbox")
    for environment, is_taken in (("sandbox", True), ("production", False)):
        file = written(one + endpoint_table(name="us", environment=environment))
        if is_taken:
            assert len(loaded({"GATEWAY_ENDPOINTS": file})) == 2
        else:
            assert "give each environment its own" in refusal({"GATEWAY_ENDPOINTS": file})
    other = endpoint_table(name="us", provider="pawapass", environment="production")
    assert len(loaded({"GATEWAY_ENDPOINTS": written(one + other)})) == 2


def test_an_endpoint_can_take_its_secrets_from_a_file(written):
    """secrets_file holds [[secret]] tables, as <PROVIDER>_SECRETS_FILE does."""
    secrets = written(f'[[secret]]\nid = "a"\nvalue = "{HUSH}"\n', "secrets.toml")
    text = '[[endpoint]]\nname = "eu"\nprovider = "veriff"\nenvironment = "sandbox"\n'
    found = load_endpoints({"GATEWAY_ENDPOINTS": written(f'{text}secrets_file = "{secrets}"\n')})
    assert accepts(found.by_name["eu"], HUSH) == "a"
    assert secrets in [str(path) for path in found.files]


HEAD = endpoint_table().removesuffix(SECRETS)
BAD_ENDPOINTS = {
    "nothing": ("", "holds no [[endpoint]]"),
    "not TOML": ("[[endpoint", "TOML"),
    "an unknown table": (endpoint_table().replace("endpoint", "endpiont"), "'endpoint'"),
    "an unknown key": (endpoint_table(enviroment="sandbox"), "did you mean 'environment'?"),
    "an unknown option": (f'{HEAD}options = {{ stale = "refuse" }}\n{SECRETS}', "stale"),
    "an unknown provider": (endpoint_table(provider="verif"), "did you mean 'veriff'?"),
    "a strange provider": (endpoint_table(provider="xyzzy"), ", ".join(PROVIDERS)),
    "no name": (endpoint_table(name=None), "name"),
    "no provider": (endpoint_table(provider=None), "provider"),
    "no environment": (endpoint_table(environment=None), "environment"),
    "both environments": (endpoint_table(environment=["production", "sandbox"]), "environment"),
    "an empty name": (endpoint_table(name=""), "name"),
    "a name with capitals": (endpoint_table(name="EU"), "name"),
    "a name with a slash": (endpoint_table(name="eu/west"), "name"),
    "a name with a dot": (endpoint_table(name="eu.west"), "name"),
    "a long name": (endpoint_table(name="a" * 65), "name"),
    "a number for a name": (endpoint_table(name=1), "name"),
    "the name of what is unknown": (endpoint_table(name="unknown"), "unknown"),
    "twice the same name": (endpoint_table() + endpoint_table(), "two endpoints are named eu"),
    "no secret": (HEAD, "no secret"),
    "an empty secret": (endpoint_table().replace(HUSH, ""), "16 bytes"),
    "an unknown key of a secret": (endpoint_table().replace("value", "valu"), "'value'"),
    "secrets and a file": (endpoint_table(secrets_file="/absent"), "not both"),
    "an absent secrets file": (
        f'{HEAD}secrets_file = "/absent/secrets"\n',
        "/absent/secrets",
    ),
    "an absent token file": (endpoint_table(path_token_file="/absent/token"), "/absent/token"),
}


@pytest.mark.parametrize("case", BAD_ENDPOINTS)
def test_an_endpoints_file_that_cannot_be_used_is_refused(case, written):
    """One sentence says what is wrong, and what was probably meant."""
    content, word = BAD_ENDPOINTS[case]
    file = written(content)
    text = refusal({"GATEWAY_ENDPOINTS": file})
    assert word in text
    assert file in text or case in {"nothing", "twice the same name"}


def test_an_absent_endpoints_file_is_refused(tmp_path):
    """The variable and the path are named."""
    path = str(tmp_path / "absent.toml")
    text = refusal({"GATEWAY_ENDPOINTS": path})
    assert "GATEWAY_ENDPOINTS" in text
    assert path in text


# Reload.


def rewrite(path, content):
    """Replace a file as an operator's tool does, with a later time of modification."""
    Path(path).write_text(content)
    later = Path(path).stat().st_mtime + 10
    os.utime(path, (later, later))


def test_every_file_is_watched(written):
    """The endpoints file, each secrets file, each secret's file and each token file."""
    secret = written(HUSH, "secret")
    secrets = written(f'[[secret]]\nid = "a"\nfile = "{secret}"\n', "secrets.toml")
    token = written(TOKEN, "token")
    head = endpoint_table(path_token_file=token).removesuffix(SECRETS)
    file = written(f'{head}secrets_file = "{secrets}"\n')
    found = load_endpoints({"GATEWAY_ENDPOINTS": file})
    assert {str(path) for path in found.files} == {file, secrets, token, secret}
    for path in (file, secrets, token, secret):
        seen = found.modified()
        assert not found.changed_since(seen)
        os.utime(path, (1, 1))
        assert found.changed_since(seen)
    found = load_endpoints({"VERIFF_SECRET_FILE": secret, "PAWAPASS_SECRETS_FILE": secrets})
    assert {str(path) for path in found.files} >= {secret, secrets}


def test_a_file_that_vanishes_or_comes_back_is_a_change(written):
    """A mounted secret is replaced by way of nothing; looking at nothing does not fail."""
    file = written(HUSH, "secret")
    found = load_endpoints({"VERIFF_SECRET_FILE": file})
    seen = found.modified()
    Path(file).rename(file + ".away")
    assert found.changed_since(seen)
    gone = found.modified()
    assert not found.changed_since(gone)
    Path(file + ".away").rename(file)
    assert found.changed_since(gone)
    assert not found.changed_since(seen)


def test_a_link_that_points_elsewhere_is_a_change(written, tmp_path):
    """Kubernetes rotates a mounted secret by pointing a link at another folder."""
    one, two = written(HUSH, "one"), written(OTHER, "two")
    os.utime(two, (1, 1))
    link = tmp_path / "link"
    link.symlink_to(one)
    found = load_endpoints({"VERIFF_SECRET_FILE": str(link)})
    seen = found.modified()
    link.unlink()
    link.symlink_to(two)
    assert found.changed_since(seen)


def test_without_files_nothing_ever_changes():
    """Secrets in variables stay until a restart."""
    found = load_endpoints({"VERIFF_SECRET": HUSH})
    assert found.files == ()
    assert not found.changed_since(found.modified())


class Watched:
    """The gateway's watch over its files, with topics that answer as the test says."""

    def __init__(self, monkeypatch, environ):
        self.environ = environ
        self.used = []
        self.expected = []
        self.topics = lambda: None
        self.metrics = GatewayMetrics("0", "0")
        self.readiness = self.metrics.readiness
        monkeypatch.setattr(serve, "_topics_problem", lambda *_: self.topics())
        monkeypatch.setattr(serve, "_PROBE_SECONDS", 0.01)

    def counted(self, result):
        labels = {"result": result}
        return self.metrics.registry.get_sample_value(
            "verihook_configuration_reloads_total", labels
        )

    async def until(self, holds):
        """Let the watch run until something holds; a watch that ended is an error."""
        for _ in range(1000):
            await asyncio.sleep(0.005)
            if self.task.done():
                self.task.result()
                raise AssertionError("the watch ended")
            if holds():
                return
        raise AssertionError("it never came true")

    async def rounds(self):
        """Let the watch look several times."""
        await asyncio.sleep(0.1)
        assert not self.task.done()

    def run(self, steps):
        async def main():
            settings = Settings(
                listen=None,
                admin_listen=None,
                topic_prefix="",
                kafka={"bootstrap.servers": "nowhere:1"},
                tuning=Tuning(reload_interval=0.01),
                log_level="info",
            )
            webhooks = SimpleNamespace(open=lambda: None, use=self.used.append)
            publisher = SimpleNamespace(expect=self.expected.append)
            endpoints = load_endpoints(self.environ)
            self.task = asyncio.ensure_future(
                serve._watch(
                    settings,
                    self.environ,
                    endpoints,
                    webhooks,
                    publisher,
                    self.readiness,
                    self.metrics,
                )
            )
            await self.until(lambda: not self.readiness.problems())
            try:
                await steps(self)
            finally:
                self.task.cancel()

        asyncio.run(main())


def test_a_changed_secret_is_taken_over_once(monkeypatch, written):
    """A rotation needs no restart, is counted, and is not repeated while nothing changes."""
    file = written(HUSH, "secret")

    async def steps(watched):
        await watched.rounds()
        assert watched.used == []
        rewrite(file, OTHER)
        await watched.until(lambda: watched.used)
        await watched.rounds()
        assert len(watched.used) == 1
        assert accepts(watched.used[0]["veriff"], OTHER)
        assert not accepts(watched.used[0]["veriff"], HUSH)
        assert watched.counted("ok") == 1
        assert watched.counted("failed") == 0

    Watched(monkeypatch, {"VERIFF_SECRET_FILE": file}).run(steps)


def test_a_reload_takes_over_when_keys_retire(monkeypatch, written):
    """The metric is of the keys that are in force, and new topics are counted from zero."""
    table = f'[[secret]]\nid = "a"\nvalue = "{HUSH}"\n'
    file = written(f"{table}retires = 2027-01-31\n")

    def exposed(watched):
        (family,) = watched.metrics.retirements.collect()
        return [sample.value for sample in family.samples]

    async def steps(watched):
        rewrite(file, f"{table}retires = 2027-02-28\n")
        await watched.until(lambda: watched.counted("ok") == 1)
        assert exposed(watched) == [datetime(2027, 2, 28, tzinfo=UTC).timestamp()]
        assert watched.expected == [["veriff"]]
        rewrite(file, table)
        await watched.until(lambda: watched.counted("ok") == 2)
        assert exposed(watched) == []

    Watched(monkeypatch, {"VERIFF_SECRETS_FILE": file}).run(steps)


def test_a_changed_set_of_files_is_taken_over_once(monkeypatch, written):
    """A reload that names other files than before is one reload, not two."""
    one, two = written(HUSH, "one"), written(OTHER, "two")
    file = written(f'[[secret]]\nid = "a"\nfile = "{one}"\n', "secrets.toml")

    async def steps(watched):
        rewrite(file, f'[[secret]]\nid = "a"\nfile = "{two}"\n')
        await watched.until(lambda: watched.used)
        await watched.rounds()
        assert watched.counted("ok") == 1

    Watched(monkeypatch, {"VERIFF_SECRETS_FILE": file}).run(steps)


def test_a_bad_reload_keeps_what_is_in_force(monkeypatch, written):
    """Nothing is taken over from a file that cannot be used, until it is mended."""
    file = written(HUSH, "secret")

    async def steps(watched):
        rewrite(file, "short")
        await watched.until(lambda: watched.counted("failed"))
        assert watched.used == []
        rewrite(file, OTHER)
        await watched.until(lambda: watched.used)
        assert accepts(watched.used[-1]["veriff"], OTHER)

    Watched(monkeypatch, {"VERIFF_SECRET_FILE": file}).run(steps)


def test_a_reload_that_waits_for_another_file_is_not_forgotten(monkeypatch, written, tmp_path):
    """The file that was missing at the reload is looked for again until it is there."""
    one = written(HUSH, "one")
    file = written(f'[[secret]]\nid = "a"\nfile = "{one}"\n', "secrets.toml")
    later = tmp_path / "later"

    async def steps(watched):
        rewrite(file, f'[[secret]]\nid = "a"\nfile = "{later}"\n')
        await watched.until(lambda: watched.counted("failed"))
        later.write_text(OTHER)
        await watched.until(lambda: watched.used)
        assert accepts(watched.used[-1]["veriff"], OTHER)

    Watched(monkeypatch, {"VERIFF_SECRETS_FILE": file}).run(steps)


def test_a_reload_while_kafka_is_away_is_not_forgotten(monkeypatch, written):
    """A rotation during an outage of Kafka is in force once Kafka answers, without a new write."""
    file = written(HUSH, "secret")

    async def steps(watched):
        def unreachable():
            raise ClusterUnreachable("no answer")

        watched.topics = unreachable
        rewrite(file, OTHER)
        await watched.until(lambda: watched.counted("failed"))
        watched.topics = lambda: None
        await watched.until(lambda: watched.used)
        assert accepts(watched.used[-1]["veriff"], OTHER)

    Watched(monkeypatch, {"VERIFF_SECRET_FILE": file}).run(steps)


# Public keys, where a provider shares no secret.


def pem(number=1):
    return sample_secret("pleenk", number)[0]


def takes(endpoint, number=1):
    """Tell whether the endpoint takes a delivery signed with a sample key."""
    pairs, body = sender_at("pleenk").signed(number=number)
    try:
        return endpoint.scheme.verify(Headers(pairs), body, 0.0).key_id
    except Rejection:
        return None


def test_public_keys_come_from_a_file(written):
    """PLEENK_PUBLIC_KEYS_FILE holds one or more keys; each verifies under an id of its own."""
    file = written(pem(1) + pem(2), "keys.pem")
    environ = {"PLEENK_PUBLIC_KEYS_FILE": file, "PLEENK_PATH_TOKEN": TOKEN}
    endpoint = loaded(environ)["pleenk"]
    assert takes(endpoint, 1) == endpoint.scheme.key_ids[0]
    assert takes(endpoint, 2) == endpoint.scheme.key_ids[1]
    assert takes(endpoint, 3) is None
    assert Path(file) in load_endpoints(environ).files


def test_an_endpoint_names_its_public_keys_file(written):
    """In the endpoints file the key is public_keys_file, with a path token."""
    keys = written(pem(), "keys.pem")
    table = endpoint_table(
        name="pleenk-eu",
        provider="pleenk",
        with_secret=False,
        public_keys_file=keys,
        path_token=TOKEN,
    )
    endpoint = loaded({"GATEWAY_ENDPOINTS": written(table)})["pleenk-eu"]
    assert takes(endpoint)
    assert endpoint.path_token == TOKEN.encode()


def test_public_keys_without_a_path_token_are_refused(written):
    """The signature does not say for whom a delivery is: only the path does."""
    text = refusal({"PLEENK_PUBLIC_KEYS_FILE": written(pem(), "keys.pem")})
    assert "path token" in text
    assert "does not say for whom" in text


@pytest.mark.parametrize("content", ["", "hello", "-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_a_file_without_a_public_key_is_refused(content, written):
    """The sentence names the variable and the file."""
    file = written(content, "keys.pem")
    text = refusal({"PLEENK_PUBLIC_KEYS_FILE": file, "PLEENK_PATH_TOKEN": TOKEN})
    assert "PLEENK_PUBLIC_KEYS_FILE" in text
    assert file in text


def test_a_private_key_in_place_of_public_ones_is_refused_and_not_shown(written):
    """A gateway never holds what could sign."""
    private = sample_secret("pleenk")[1]["private_key_pem"]
    text = refusal({"PLEENK_PUBLIC_KEYS_FILE": written(private, "k"), "PLEENK_PATH_TOKEN": TOKEN})
    assert "private" in text
    assert private.splitlines()[1] not in text


def test_secrets_and_public_keys_are_not_taken_for_each_other(written):
    """Pleenk shares no secret, Veriff has no public key: each sentence says what to give."""
    keys = written(pem(), "keys.pem")
    with_a_secret = endpoint_table(provider="pleenk", path_token=TOKEN)
    assert "public_keys_file" in refusal({"GATEWAY_ENDPOINTS": written(with_a_secret)})
    with_key = endpoint_table(provider="veriff", with_secret=False, public_keys_file=keys)
    assert "shares secrets" in refusal({"GATEWAY_ENDPOINTS": written(with_key)})
    with_both = endpoint_table(provider="veriff", public_keys_file=keys)
    assert "not both" in refusal({"GATEWAY_ENDPOINTS": written(with_both)})
    for others in ({}, {"VERIFF_SECRET": HUSH}):
        text = refusal({"PLEENK_SECRET": HUSH, **others})
        assert "PLEENK_PUBLIC_KEYS_FILE" in text
    text = refusal({"VERIFF_SECRET": HUSH, "PAWAPASS_PUBLIC_KEYS_FILE": keys})
    assert "PAWAPASS_SECRET" in text


# Options, whose values are closed sets.


@pytest.mark.parametrize(
    ("provider", "options", "said"),
    [
        ("plexy", 'contract = "C"', "'A' or 'B'"),
        ("plexy", "contract = 2", "'A' or 'B'"),
        ("plexy", 'contrakt = "B"', "did you mean 'contract'"),
        ("plexy", 'contract = "B"\ntext = "body"', "contract A"),
        ("treezor", 'unsigned = "yes"', "'refuse' or 'accept'"),
        ("veriff", 'contract = "A"', "there are none"),
    ],
)
def test_options_have_names_and_values_of_closed_sets(provider, options, said, written):
    """The sentence says what could be written."""
    table = endpoint_table(provider=provider, path_token=TOKEN)
    text = refusal({"GATEWAY_ENDPOINTS": written(f"{table}\n[endpoint.options]\n{options}\n")})
    assert said in text


@pytest.mark.parametrize(
    ("provider", "options"), [("plexy", 'contract = "B"'), ("treezor", 'unsigned = "accept"')]
)
def test_an_option_that_weakens_the_proof_needs_a_path_token(provider, options, written):
    """A bearer token and unsigned deliveries are taken only at a path nobody can guess."""
    chosen = f"\n[endpoint.options]\n{options}\n"
    with_token = endpoint_table(provider=provider, path_token=TOKEN) + chosen
    assert loaded({"GATEWAY_ENDPOINTS": written(with_token)})
    without = endpoint_table(provider=provider) + chosen
    assert "path token" in refusal({"GATEWAY_ENDPOINTS": written(without)})


# What readiness says of Kafka.


class Kafka:
    """A producer, its statistics and a clock, as the gateway's watch over Kafka sees them."""

    def __init__(self, monkeypatch):
        self.metrics = GatewayMetrics("0", "0")
        self.readiness = self.metrics.readiness
        self.seconds = 1000.0
        self.publisher = SimpleNamespace(is_full=False)
        self.statistics = ClientStatistics(clock=lambda: self.seconds)
        self.up = None
        monkeypatch.setattr(serve, "_KAFKA_SECONDS", 0.0)

    async def passes(self, seconds):
        """Let time pass; the producer reports every 5 s, unless it is dumb (None)."""
        for _ in range(int(seconds)):
            self.seconds += 1
            if self.up is not None and self.seconds % 5 == 0:
                broker = {"nodeid": 1, "source": "learned", "state": "UP" if self.up else "DOWN"}
                report = msgspec.json.encode({"brokers": {"a": broker}}).decode()
                self.statistics.take("producer", report)
            for _ in range(5):
                await asyncio.sleep(0)

    @property
    def problem(self):
        return self.readiness.problems().get("kafka")

    def run(self, steps):
        async def main():
            task = asyncio.ensure_future(
                serve._watch_kafka(
                    self.publisher, self.readiness, self.statistics, lambda: self.seconds
                )
            )
            try:
                await steps(self)
                assert not task.done()
            finally:
                task.cancel()

        asyncio.run(main())


def test_without_a_broker_for_15_seconds_it_is_not_ready(monkeypatch):
    """And ready again by itself, without traffic, when a broker is up; a short loss is nothing."""

    async def steps(kafka):
        kafka.up = True
        kafka.readiness.set("topics")
        await kafka.passes(10)
        assert kafka.problem is None
        kafka.up = False
        await kafka.passes(10)
        kafka.up = True
        await kafka.passes(10)
        assert kafka.problem is None
        kafka.up = False
        await kafka.passes(14)
        assert kafka.problem is None
        await kafka.passes(6)
        assert kafka.problem == "no broker is reachable"
        kafka.up = True
        await kafka.passes(6)
        assert kafka.problem is None

    Kafka(monkeypatch).run(steps)


def test_a_producer_that_reports_no_more_is_not_ready(monkeypatch):
    """Nothing known for long is not well."""

    async def steps(kafka):
        kafka.up = True
        kafka.readiness.set("topics")
        await kafka.passes(10)
        kafka.up = None
        await kafka.passes(14)
        assert kafka.problem is None
        await kafka.passes(20)
        assert kafka.problem == "no broker is reachable"

    Kafka(monkeypatch).run(steps)


def test_a_full_budget_is_not_ready(monkeypatch):
    """The next delivery would be refused; ready again when there is room."""

    async def steps(kafka):
        kafka.up = True
        kafka.readiness.set("topics")
        await kafka.passes(5)
        kafka.publisher.is_full = True
        await kafka.passes(1)
        assert "GATEWAY_MAX_IN_FLIGHT" in kafka.problem
        kafka.publisher.is_full = False
        await kafka.passes(1)
        assert kafka.problem is None

    Kafka(monkeypatch).run(steps)


def test_before_the_topics_are_granted_nothing_is_said_of_kafka(monkeypatch):
    """However long that takes, Kafka's own condition begins then."""

    async def steps(kafka):
        await kafka.passes(100)
        assert kafka.problem == "not yet"
        kafka.readiness.set("topics")
        await kafka.passes(4)
        assert kafka.problem is None

    Kafka(monkeypatch).run(steps)
