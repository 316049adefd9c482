"""A bearer token: it is compared, never kept; and Plexy's two contracts are never mixed up."""

import hmac
import io

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway.endpoints import load_endpoints
from gateway.headers import Headers
from gateway.process import ConfigurationError, start_logging
from gateway.providers import PROVIDERS
from gateway.receive import Endpoint, receive
from gateway.rejections import (
    SIGNATURE_MALFORMED,
    SIGNATURE_MISMATCH,
    SIGNATURE_MISSING,
    Rejection,
)
from gateway.signatures import Key
from gateway.signatures.bearer import BearerToken
from tests.test_server import Gateway, head

NOW = 1_700_000_000.0
TOKEN = "token-of-the-tests-0123456789"
PATH_TOKEN = "path-token-of-the-tests-0123456789"
BODY = b'{"name":"transaction.charged","data":{"id":"txn_1"}}'
KEY = Key(id="key-1", value=TOKEN.encode())
OTHER = Key(id="key-2", value=b"another-token-of-the-tests")
WHSEC = Key(id="key-1", value=b"whsec_of-the-tests-0123456789")


def scheme(*keys):
    return BearerToken(keys or [KEY], name="plexy-bearer")


def verify(text, *keys, body=BODY):
    return scheme(*keys).verify(Headers([("authorization", text)]), body, NOW)


def refusal(text, *keys):
    with pytest.raises(Rejection) as caught:
        verify(text, *keys)
    return caught.value.reason


def plexy(contract, *keys, **options):
    """Build an endpoint of one of Plexy's contracts."""
    held = keys or ((KEY,) if contract == "B" else (WHSEC,))
    return Endpoint(
        name="plexy" if contract == "A" else "plexy-b",
        provider=PROVIDERS["plexy"],
        scheme=PROVIDERS["plexy"].scheme(held, {"contract": contract, **options}),
        environment="sandbox",
        path_token=PATH_TOKEN.encode() if contract == "B" else None,
    )


def sent(endpoint, body=BODY):
    """Give the headers a sender to this endpoint would add."""
    return list(endpoint.scheme.sign(body, NOW).headers.items())


def refusal_at(endpoint, pairs, body=BODY):
    with pytest.raises(Rejection) as caught:
        receive(endpoint, Headers(pairs), body, NOW, "delivery-1")
    return caught.value.reason


# Verifying.


def test_a_current_token_is_accepted_and_proves_the_sender_only():
    """Any current token opens, under its own id; the body is not covered and nothing is fresh."""
    for order in ((KEY, OTHER), (OTHER, KEY)):
        verified = verify(f"Bearer {TOKEN}", *order)
        assert (verified.key_id, verified.scheme) == ("key-1", "plexy-bearer")
        assert (verified.authenticity, verified.freshness) == ("token", "none")
        assert verify("Bearer another-token-of-the-tests", *order).key_id == "key-2"
    assert verify(f"Bearer {TOKEN}", body=b"\xff").signed == b"\xff"
    assert scheme(KEY, OTHER).key_ids == ("key-1", "key-2")
    assert scheme().names == ("plexy-bearer",)


@pytest.mark.parametrize("word", ["Bearer", "bearer", "BEARER", "bEaReR", "Bearer  "])
def test_the_scheme_word_has_any_case(word):
    """RFC 9110 11.1: the word has any case, one or more blanks follow."""
    assert verify(f"{word} {TOKEN}").key_id == "key-1"


WRONG = {
    "another": "Bearer another-token-of-the-tests",
    "in capitals": f"Bearer {TOKEN.upper()}",
    "cut": f"Bearer {TOKEN[:-1]}",
    "longer": f"Bearer {TOKEN}0",
    "beheaded": f"Bearer {TOKEN[1:]}",
    "twice": f"Bearer {TOKEN}{TOKEN}",
    "quoted": f'Bearer "{TOKEN}"',
    "one character": "Bearer x",
    "the longest": "Bearer " + "x" * 4096,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_another_token_is_refused(wrong):
    """Only a whole current token opens."""
    assert refusal(WRONG[wrong]) is SIGNATURE_MISMATCH
    assert refusal(WRONG[wrong].replace("another-", "an-other-"), KEY, OTHER) is SIGNATURE_MISMATCH


MALFORMED = {
    "no word": TOKEN,
    "no token": "Bearer",
    "no token but a blank": "Bearer ",
    "no blank": f"Bearer{TOKEN}",
    "a tab": f"Bearer\t{TOKEN}",
    "a colon": f"Bearer: {TOKEN}",
    "a blank before": f" Bearer {TOKEN}",
    "a blank after": f"Bearer {TOKEN} ",
    "a newline after": f"Bearer {TOKEN}\n",
    "a blank inside": f"Bearer {TOKEN[:9]} {TOKEN[9:]}",
    "a nul": f"Bearer {TOKEN}\0",
    "two of them": f"Bearer {TOKEN}, Bearer {TOKEN}",
    "two words": f"Bearer Bearer {TOKEN}",
    "another scheme": f"Basic {TOKEN}",
    "another scheme beside": f"Basic eDp5, Bearer {TOKEN}",
    "parameters": f'Bearer realm="x" {TOKEN}',
    "a long word": f"XBearer {TOKEN}",
    "letters beyond ASCII": f"Bearer {TOKEN}é",
    "full-width letters": f"\uff22earer {TOKEN}",
    "too long": "Bearer " + "x" * 4097,
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_not_bearer_and_one_token_is_malformed(case):
    """Another scheme, none, or two tokens are no credentials of ours."""
    assert refusal(MALFORMED[case]) is SIGNATURE_MALFORMED


def test_a_missing_header_is_said_to_be_missing():
    """No header and an empty one are nothing; a token elsewhere is nothing either."""
    for pairs in ([], [("x-authorization", f"Bearer {TOKEN}")], [("cookie", TOKEN)]):
        with pytest.raises(Rejection) as caught:
            scheme().verify(Headers(pairs), BODY, NOW)
        assert caught.value.reason is SIGNATURE_MISSING
    assert refusal("") is SIGNATURE_MISSING


def test_a_header_that_comes_twice_is_malformed():
    """Right and right, right and wrong: which one counts is never a question."""
    right = ("authorization", f"Bearer {TOKEN}")
    for other in (right, ("authorization", "Basic eDp5"), ("authorization", "")):
        for pairs in ([right, other], [other, right]):
            with pytest.raises(Rejection) as caught:
                scheme().verify(Headers(pairs), BODY, NOW)
            assert caught.value.reason is SIGNATURE_MALFORMED
    with pytest.raises(Rejection) as caught:
        scheme().verify(Headers([], ["authorization"]), BODY, NOW)
    assert caught.value.reason is SIGNATURE_MALFORMED


@given(text=st.text(max_size=200) | st.text(max_size=60).map("Bearer {}".format))
def test_any_header_text_is_a_rejection(text):
    """Whatever stands in the header, the answer is a Rejection and no other exception."""
    assert refusal(text) in {SIGNATURE_MISSING, SIGNATURE_MALFORMED, SIGNATURE_MISMATCH}


def test_tokens_are_compared_in_constant_time(monkeypatch):
    """Every current token is compared, as digests: not even its length can be learnt."""
    compared = []

    def spy(left, right, compare=hmac.compare_digest):
        compared.append((left, right))
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    assert refusal("Bearer x", KEY, OTHER) is SIGNATURE_MISMATCH
    assert len(compared) == 2
    assert all(isinstance(side, bytes) and len(side) == 32 for pair in compared for side in pair)


def test_signing_presents_the_first_token():
    """A sender adds the header and leaves the body alone."""
    proof = scheme(KEY, OTHER).sign(BODY, NOW)
    assert (proof.headers, proof.body) == ({"authorization": f"Bearer {TOKEN}"}, BODY)


# Configuration.


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x" * 15,
        b"x" * 4097,
        b"with a blank in its middle",
        b"ends-with-a-newline-0123\n",
        b"a-tab-inside-it\t0123456789",
        b"Bearer token-of-the-tests-0123456789",
        "beyond-äscii-0123456789".encode(),
        b"a-nul-inside-it\x000123456789",
        b"a-delete-inside-it\x7f0123456789",
    ],
)
def test_a_token_that_cannot_stand_in_a_header_refuses_to_start(value):
    """The sentence names the key's id and the rule, never the token."""
    with pytest.raises(ValueError, match="16 to 4096 visible ASCII") as caught:
        scheme(KEY, Key(id="key-2", value=value))
    said = str(caught.value)
    assert "key-2" in said
    assert not value or value.decode() not in said


@pytest.mark.parametrize("value", [b"x" * 16, b"x" * 4096, b"!~,=:;\"'<>%0123456789"])
def test_any_visible_ascii_may_be_a_token(value):
    """Plexy's tokens are of unknown form."""
    assert verify(f"Bearer {value.decode()}", Key(id="key-1", value=value)).key_id == "key-1"


def endpoints_file(tmp_path, more):
    path = tmp_path / "endpoints.toml"
    path.write_text(
        '[[endpoint]]\nname = "plexy-b"\nprovider = "plexy"\nenvironment = "production"\n'
        f'secrets = [{{ id = "one", value = "{TOKEN}" }}]\n{more}'
    )
    return load_endpoints({"GATEWAY_ENDPOINTS": str(path)}).by_name["plexy-b"]


def test_an_endpoint_of_tokens_needs_a_path_token(tmp_path):
    """A token proves little, so the path must be a secret too; contract A needs none."""
    contract = 'options = { contract = "B" }\n'
    with pytest.raises(ConfigurationError, match="carry a token, not a signature"):
        endpoints_file(tmp_path, contract)
    endpoint = endpoints_file(tmp_path, f'{contract}path_token = "{PATH_TOKEN}"\n')
    assert endpoint.scheme.names == ("plexy-bearer",)
    assert endpoints_file(tmp_path, "").scheme.path_token_because == ""


# Contract A and contract B.


def test_a_delivery_of_b_is_refused_at_a():
    """A token opens no endpoint of A, not even one whose secret is that very token."""
    for endpoint in (plexy("A"), plexy("A", KEY), plexy("A", KEY, text="body")):
        assert refusal_at(endpoint, sent(plexy("B"))) is SIGNATURE_MISSING


def test_a_delivery_of_a_is_refused_at_b():
    """A signature is no token, not even one made with that very token as its secret."""
    for endpoint in (plexy("A"), plexy("A", KEY)):
        assert refusal_at(plexy("B"), sent(endpoint)) is SIGNATURE_MISSING
        text = dict(sent(endpoint))["plexy-signature"]
        as_token = [("authorization", f"Bearer {text}")]
        assert refusal_at(plexy("B"), as_token) is SIGNATURE_MISMATCH


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", SIGNATURE_MISSING),
        ("t=1,v1=", SIGNATURE_MALFORMED),
        (f"t={int(NOW)},v1={'0' * 64}", SIGNATURE_MISMATCH),
    ],
)
def test_a_failing_signature_never_falls_through_to_a_token(text, reason):
    """At an endpoint of A the right token beside a wrong signature counts for nothing."""
    pairs = [("plexy-signature", text), ("authorization", f"Bearer {TOKEN}")]
    assert refusal_at(plexy("A"), pairs) is reason
    assert refusal_at(plexy("A", KEY), pairs) is reason


def test_a_failing_token_never_falls_through_to_a_signature():
    """At an endpoint of B a right signature of A beside a wrong token counts for nothing."""
    pairs = [*sent(plexy("A", KEY)), ("authorization", "Bearer another-token-of-the-tests")]
    assert refusal_at(plexy("B"), pairs) is SIGNATURE_MISMATCH


# The token is never kept.


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
def test_credentials_are_never_kept(provider):
    """Whoever reads the raw topic must not be able to send: these headers are kept by nobody."""
    kept = PROVIDERS[provider].kept_headers
    assert not {"authorization", "proxy-authorization", "cookie"} & set(kept)
    assert all(name == name.lower() for name in kept)


@pytest.mark.parametrize("contract", ["A", "B"])
def test_a_record_holds_no_token(contract):
    """Neither key, value nor any header of what goes to Kafka holds the Authorization header."""
    endpoint = plexy(contract)
    pairs = dict(sent(endpoint))
    pairs["authorization"] = f"Bearer {TOKEN}"
    pairs["cookie"] = f"session={TOKEN}"
    delivery = receive(endpoint, Headers(pairs.items()), BODY, NOW, "delivery-1")
    assert delivery.provenance.authenticity == {"A": "signed", "B": "token"}[contract]
    whole = [delivery.key, delivery.body, *[value for _, value in delivery.headers]]
    assert not [part for part in whole if TOKEN.encode() in part]
    assert not [name for name, _ in delivery.headers if "authorization" in name or "cookie" in name]


def test_no_log_line_holds_the_token(monkeypatch):
    """Stored, refused or unforeseen: the log names neither the token nor what was presented."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    start_logging("debug")
    monkeypatch.setattr("gateway.server.log", structlog.get_logger())
    endpoint = plexy("B")

    def ask(gateway, text):
        lines = [f"Content-Length: {len(BODY)}", f"Authorization: {text}"]
        return gateway.ask(head(*lines, path=f"/webhooks/plexy-b/{PATH_TOKEN}") + BODY).status

    try:
        with Gateway({"plexy-b": endpoint}) as gateway:
            assert ask(gateway, f"Bearer {TOKEN}") == 200
            assert ask(gateway, f"Bearer presented-{TOKEN}") == 401
            assert ask(gateway, f"Basic {TOKEN}") == 401
            gateway.store.error = RuntimeError(TOKEN)
            assert ask(gateway, f"Bearer {TOKEN}") == 500
            (delivery,) = gateway.store.deliveries
            assert delivery.provenance.scheme == "plexy-bearer"
            assert gateway.requests() == {
                ("plexy-b", "stored", "200"): 1,
                ("plexy-b", "rejected", "401"): 2,
                ("plexy-b", "error", "500"): 1,
            }
    finally:
        structlog.reset_defaults()
    assert "refused" in written.getvalue()
    assert "unforeseen" in written.getvalue()
    assert TOKEN not in written.getvalue()
    assert PATH_TOKEN not in written.getvalue()
