"""HMAC in t=<seconds>,v1=<hex>: which text was signed, and what that proves of the time."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.endpoints import load_endpoints
from gateway.headers import Headers
from gateway.process import ConfigurationError
from gateway.providers import PROVIDERS
from gateway.rejections import (
    SIGNATURE_MALFORMED,
    SIGNATURE_MISMATCH,
    SIGNATURE_MISSING,
    TIMESTAMP_OUTSIDE_TOLERANCE,
    Rejection,
)
from gateway.signatures import Key
from gateway.signatures.timestamped import TimestampedHmac

NOW = 1_700_000_000.0
HEADER = "plexy-signature"
BODY = b'{"id":"evt_1","type":"payment.succeeded","created":1699999990,"data":{"id":"pay_1"}}'
KEY = Key(id="key-1", value=b"whsec_of-the-tests-0123456789")
OTHER = Key(id="key-2", value=b"whsec_another-one-of-the-tests")
REFUSED = {SIGNATURE_MISSING, SIGNATURE_MALFORMED, SIGNATURE_MISMATCH}

TEXTS = ("auto", "timestamped", "body")
every_text = pytest.mark.parametrize("text", TEXTS)


def scheme(text="auto", *keys, refuses_stale=False):
    return TimestampedHmac(
        keys or [KEY], name="plexy-hmac", header=HEADER, text=text, refuses_stale=refuses_stale
    )


def mac(message, key=KEY):
    return hmac.new(key.value, message, hashlib.sha256).hexdigest()


def over_time(body=BODY, t=int(NOW), key=KEY):
    """Write the header of a sender that signs the time and the body."""
    return f"t={t},v1={mac(b'%b.%b' % (str(t).encode(), body), key)}"


def over_body(body=BODY, t=int(NOW), key=KEY):
    """Write the header of a sender that signs the body alone."""
    return f"t={t},v1={mac(body, key)}"


def verify(header, body=BODY, by=None, now=NOW):
    return (by or scheme()).verify(Headers([(HEADER, header)]), body, now)


def refusal(header, body=BODY, by=None, now=NOW):
    with pytest.raises(Rejection) as caught:
        verify(header, body, by, now)
    return caught.value.reason


# Which text was signed.


def test_the_name_says_which_text_verified():
    """In auto both texts are tried; what matched is recorded, and nothing else is possible."""
    assert verify(over_time()).scheme == "plexy-hmac-timestamped"
    assert verify(over_body()).scheme == "plexy-hmac-body"
    assert scheme("auto").names == ("plexy-hmac-timestamped", "plexy-hmac-body")
    assert scheme("timestamped").names == ("plexy-hmac-timestamped",)
    assert scheme("body").names == ("plexy-hmac-body",)


def test_an_endpoint_of_one_text_refuses_the_other():
    """Once the text is known it is pinned, and the other verifies no more."""
    assert verify(over_time(), by=scheme("timestamped")).signed == BODY
    assert refusal(over_body(), by=scheme("timestamped")) is SIGNATURE_MISMATCH
    assert verify(over_body(), by=scheme("body")).signed == BODY
    assert refusal(over_time(), by=scheme("body")) is SIGNATURE_MISMATCH


@every_text
def test_what_is_reported_of_a_delivery(text):
    """The body is signed, under the key that signed it."""
    header = over_body(key=OTHER) if text == "body" else over_time(key=OTHER)
    verified = verify(header, by=scheme(text, KEY, OTHER))
    assert (verified.key_id, verified.signed, verified.authenticity) == ("key-2", BODY, "signed")
    assert scheme(text, KEY, OTHER).key_ids == ("key-1", "key-2")


@every_text
def test_signing_is_what_verifies(text):
    """A sender signs `{t}.{body}` with its own time unless only the body may be signed."""
    by = scheme(text, KEY, OTHER)
    proof = by.sign(BODY, NOW + 0.9)
    expected = over_body() if text == "body" else over_time()
    assert (proof.headers, proof.body) == ({HEADER: expected}, BODY)
    assert verify(expected, by=by).key_id == "key-1"


@every_text
def test_only_the_exact_body_and_a_current_secret_verify(text):
    """Every byte is covered, and another secret signs nothing."""
    header = over_body() if text == "body" else over_time()
    for other in (BODY + b"\n", b" " + BODY, BODY[:-1], BODY.replace(b"pay_1", b"pay_2"), b""):
        assert refusal(header, other, by=scheme(text)) is SIGNATURE_MISMATCH
    assert refusal(header, by=scheme(text, OTHER)) is SIGNATURE_MISMATCH


def test_the_secret_is_its_whole_text():
    """whsec_ is part of the key; neither what follows it nor its base64 is one."""
    key = Key(id="key-1", value=b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert verify(over_time(key=key), by=scheme("auto", key)).key_id == "key-1"
    stripped = Key(id="key-1", value=key.value.removeprefix(b"whsec_"))
    assert refusal(over_time(key=stripped), by=scheme("auto", key)) is SIGNATURE_MISMATCH


# A signed text that is presented as another.


@pytest.mark.parametrize("text", ["auto", "body"])
def test_a_captured_text_is_no_body(text):
    """`{t}.{body}` was signed too: sent as a body it would verify under the body text."""
    captured = b"%d.%b" % (NOW, BODY)
    signature = over_time().partition("v1=")[2]
    assert mac(captured) == signature
    for t in (int(NOW), 0, 999_999_999_999):
        assert refusal(f"t={t},v1={signature}", captured, by=scheme(text)) is SIGNATURE_MISMATCH


@pytest.mark.parametrize("text", ["auto", "body"])
@pytest.mark.parametrize("body", [b"", b" {}", b"\n{}", b"[]", b'"a"', b"1", b"\xef\xbb\xbf{}"])
def test_under_the_body_text_a_body_begins_with_a_brace(text, body):
    """Whatever else was signed with the secret, only an object may be a body."""
    assert refusal(over_body(body), body, by=scheme(text)) is SIGNATURE_MISMATCH


@pytest.mark.parametrize("body", [b"", b" {}", b"[]", b"1.{}", b"\xff"])
def test_with_the_time_any_bytes_may_be_the_body(body):
    """The time in front cannot be taken for anything else; the consumer judges the body."""
    assert verify(over_time(body), body).signed == body


def test_a_captured_body_is_no_text_with_a_time():
    """A body that begins with digits and a dot does not lend itself to another t."""
    signature = over_time(b"1.{}", t=5).partition("v1=")[2]
    for t in ("5.1", "51", "", "1"):
        assert refusal(f"t={t},v1={signature}", b"{}") in REFUSED


def test_t_is_signed_as_it_was_written():
    """Zeros in front are part of the signed text."""
    message = b"0%d.%b" % (NOW, BODY)
    header = f"t=0{int(NOW)},v1={mac(message)}"
    assert verify(header).freshness == "fresh"
    assert refusal(header.replace("t=0", "t=")) is SIGNATURE_MISMATCH


# Freshness.

AROUND = [
    (0, "fresh"),
    (299, "fresh"),
    (300, "fresh"),
    (301, "stale"),
    (86_400, "stale"),
    (-299, "fresh"),
    (-300, "fresh"),
    (-301, "stale"),
    (-86_400, "stale"),
]


@pytest.mark.parametrize(("age", "freshness"), AROUND)
@pytest.mark.parametrize("text", ["auto", "timestamped"])
def test_a_signed_time_is_fresh_within_five_minutes_either_way(age, freshness, text):
    """Old and future alike are stale and stored: an honest retry may carry its first t."""
    assert verify(over_time(), by=scheme(text), now=NOW + age).freshness == freshness


@pytest.mark.parametrize(("age", "freshness"), AROUND)
def test_an_endpoint_may_refuse_what_is_stale(age, freshness):
    """With refuses_stale a signed time outside five minutes is a rejection of its own."""
    by = scheme("timestamped", refuses_stale=True)
    if freshness == "fresh":
        assert verify(over_time(), by=by, now=NOW + age).freshness == "fresh"
    else:
        assert refusal(over_time(), by=by, now=NOW + age) is TIMESTAMP_OUTSIDE_TOLERANCE


@pytest.mark.parametrize("t", ["0", "1", "999999999999", "000000000000"])
def test_a_time_at_the_ends_is_stale_and_no_error(t):
    """The smallest and the largest t that can be written are judged like any other."""
    header = f"t={t},v1={mac(b'%b.%b' % (t.encode(), BODY))}"
    assert verify(header).freshness == "stale"


@pytest.mark.parametrize("text", ["auto", "body"])
@pytest.mark.parametrize(("age", "freshness"), AROUND)
def test_a_time_nobody_signed_is_never_fresh(text, age, freshness):
    """Anyone may put a fresh t before an old body; a stale one speaks against itself."""
    verified = verify(over_body(t=int(NOW)), by=scheme(text), now=NOW + age)
    assert verified.freshness == {"fresh": "none", "stale": "stale"}[freshness]


@pytest.mark.parametrize("text", ["auto", "timestamped"])
def test_a_fresh_time_before_a_captured_signature_is_refused(text):
    """Where the time is signed, a replay cannot be made to look new."""
    old = over_time(t=int(NOW) - 86_400).partition("v1=")[2]
    assert refusal(f"t={int(NOW)},v1={old}", by=scheme(text)) is SIGNATURE_MISMATCH


def test_a_forged_signature_learns_nothing_of_the_time():
    """The signature is compared first: a wrong one is a mismatch, whatever its time."""
    by = scheme("timestamped", refuses_stale=True)
    for t in (0, int(NOW), 999_999_999_999):
        assert refusal(over_time(t=t, key=OTHER), by=by) is SIGNATURE_MISMATCH


@pytest.mark.parametrize("text", ["auto", "body"])
def test_refusing_the_stale_needs_a_signed_time(text):
    """Where the body alone may be signed it would protect nothing, so it is no configuration."""
    with pytest.raises(ValueError, match='needs text = "timestamped"'):
        scheme(text, refuses_stale=True)
    with pytest.raises(ValueError, match='needs text = "timestamped"'):
        PROVIDERS["plexy"].scheme([KEY], {"text": text, "stale": "refuse"})
    assert PROVIDERS["plexy"].scheme([KEY], {"text": "timestamped", "stale": "refuse"})


def test_the_operator_learns_what_to_write(tmp_path):
    """An endpoints file with an empty promise refuses to start, with its endpoint named."""
    path = tmp_path / "endpoints.toml"
    path.write_text(
        '[[endpoint]]\nname = "plexy"\nprovider = "plexy"\nenvironment = "production"\n'
        'secrets = [{ id = "one", value = "whsec_of-the-tests-0123456789" }]\n'
        'options = { stale = "refuse" }\n'
    )
    with pytest.raises(ConfigurationError, match=r"endpoint 'plexy'.*text = \"timestamped\""):
        load_endpoints({"GATEWAY_ENDPOINTS": str(path)})


@pytest.mark.parametrize("secret", ["", "short", "whsec_", "123456789012345"])
def test_an_empty_or_short_secret_refuses_to_start(secret):
    """HMAC works with an empty key, so anyone could sign."""
    with pytest.raises(ConfigurationError, match="PLEXY_SECRET is"):
        load_endpoints({"PLEXY_SECRET": secret})


# The header.


def test_a_missing_header_is_said_to_be_missing():
    """No header and an empty header are both nothing; another header is no signature."""
    for found in (Headers([]), Headers([("stripe-signature", over_time())])):
        with pytest.raises(Rejection) as caught:
            scheme().verify(found, BODY, NOW)
        assert caught.value.reason is SIGNATURE_MISSING
    assert refusal("") is SIGNATURE_MISSING


def test_a_header_that_comes_twice_or_is_not_ascii_is_malformed():
    """Which of two headers counts is never a question."""
    twice = Headers([(HEADER, over_time()), (HEADER, over_time())])
    dropped = Headers([], [HEADER])
    for found in (twice, dropped, Headers([(HEADER, over_time().replace("t=1", "t=¹"))])):
        with pytest.raises(Rejection) as caught:
            scheme().verify(found, BODY, NOW)
        assert caught.value.reason is SIGNATURE_MALFORMED


def test_any_of_several_v1_may_match():
    """While its secret rotates a sender may sign with both."""
    t, right = over_time().split(",")
    wrong = "v1=" + "0" * 64
    for header in (f"{t},{wrong},{right}", f"{t},{right},{wrong}", f"{wrong},{right},{t}"):
        assert verify(header).key_id == "key-1"
        assert verify(header, by=scheme("auto", OTHER, KEY)).key_id == "key-1"
    assert refusal(f"{t},{wrong},{wrong}") is SIGNATURE_MISMATCH


def test_hex_may_be_written_in_any_case():
    """Case is not documented, so hex is compared after decoding."""
    t, v1 = over_time().split(",")
    for spelling in (str.upper, str.swapcase, str.title):
        assert verify(f"{t},v1={spelling(v1[3:])}").key_id == "key-1"


def test_unknown_items_are_ignored():
    """A sender may add items; they neither verify nor stand in the way."""
    t, v1 = over_time().split(",")
    for other in ("v0=" + "0" * 64, "v2=abc", "kid=k-1", "x=", "v1a=AA=="):
        assert verify(f"{other},{t},{v1}").key_id == "key-1"
        assert verify(f"{t},{v1},{other}").key_id == "key-1"


@pytest.mark.parametrize("name", ["v0", "v2", "v11", "v", "v01", "sig"])
def test_only_v1_is_a_signature(name):
    """A right HMAC under another name proves nothing: the name is the algorithm."""
    assert refusal(over_time().replace("v1=", f"{name}=")) is SIGNATURE_MALFORMED
    t, v1 = over_time().split(",")
    wrong = "v1=" + "0" * 64
    assert refusal(f"{t},{wrong},{name}={v1[3:]}") is SIGNATURE_MISMATCH


V1 = over_time().split(",")[1]
MALFORMED = {
    "no t": V1,
    "no v1": f"t={int(NOW)}",
    "t twice": f"t={int(NOW)},{over_time()}",
    "t twice, another": f"{over_time()},t=0",
    "t empty": f"t=,{V1}",
    "t of 13 digits": f"t={int(NOW) * 1000},{V1}",
    "t negative": f"t=-{int(NOW)},{V1}",
    "t with a plus": f"t=+{int(NOW)},{V1}",
    "t with a fraction": f"t={int(NOW)}.0,{V1}",
    "t with underscores": f"t=1_700_000_000,{V1}",
    "t in hex": f"t=0x6553f100,{V1}",
    "t with an exponent": f"t=17e8,{V1}",
    "t not a number": f"t=nan,{V1}",
    "t infinite": f"t=inf,{V1}",
    "t a word": f"t=now,{V1}",
    "t quoted": f't="{int(NOW)}",{V1}',
    "v1 empty": f"t={int(NOW)},v1=",
    "v1 short": over_time()[:-1],
    "v1 long": over_time() + "0",
    "v1 with a stranger": over_time()[:-1] + "g",
    "v1 in base64": f"t={int(NOW)},v1=" + "A" * 43 + "=",
    "v1 prefixed": over_time().replace("v1=", "v1=sha256="),
    "one v1 of two broken": over_time() + ",v1=00",
    "names in capitals": over_time().upper(),
    "a capital T": "T" + over_time()[1:],
    "semicolons": over_time().replace(",", ";"),
    "a blank after the comma": over_time().replace(",", ", "),
    "a blank before": " " + over_time(),
    "a blank after": over_time() + " ",
    "a blank before the sign": over_time().replace("=", " =", 1),
    "a tab inside": over_time().replace(",", ",\t"),
    "a newline after": over_time() + "\n",
    "a newline in t": over_time().replace(",", "\n,"),
    "a comma after": over_time() + ",",
    "a comma before": "," + over_time(),
    "two commas": over_time().replace(",", ",,"),
    "an item without a sign": over_time() + ",v1",
    "an item without a name": over_time() + ",=1",
    "a name too long": over_time() + "," + "x" * 17 + "=1",
    "two headers joined": f"{over_time()}, {over_time()}",
    "pairs in groups": f"{over_time()} {over_time()}",
    "bare hex": V1[3:],
    "as Standard Webhooks": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    "a nul after": over_time() + "\0",
    "over 1024 long": over_time() + ",x=" + "y" * 1024,
    "enormous": over_time() + f",{V1}" * 10_000,
}


@pytest.mark.parametrize("case", MALFORMED)
@every_text
def test_another_form_is_malformed(case, text):
    """One t of 1 to 12 digits, v1 of 64 hex digits, commas and no blanks: or it is refused."""
    assert refusal(MALFORMED[case], by=scheme(text)) is SIGNATURE_MALFORMED


def test_digits_are_ascii():
    """int() would take them; a signature header never holds them."""
    for t in ("\uff11\uff17\uff10\uff10", "\u0661\u0667\u0660\u0660", "\u00b2"):
        assert refusal(f"t={t},{V1}") is SIGNATURE_MALFORMED


@given(
    header=st.text(max_size=200)
    | st.text("tv1=,0a ", max_size=200)
    | st.lists(st.sampled_from(["t=1", "t=", "v1=" + "0" * 64, "v1", "v0=1", ""])).map(",".join)
)
def test_any_header_text_is_a_rejection(header):
    """Whatever stands in the header, the answer is a Rejection and no other exception."""
    for text in TEXTS:
        assert refusal(header, by=scheme(text)) in REFUSED


@given(body=st.binary(max_size=200), t=st.integers(0, 10**12 - 1), now=st.floats(0, 1e12))
def test_any_body_and_time_verify_as_signed(body, t, now):
    """Freshness follows from t and the clock alone, and never turns a right signature away."""
    verified = verify(over_time(body, t), body, now=now)
    assert verified.scheme == "plexy-hmac-timestamped"
    assert (verified.freshness == "fresh") == (abs(now - t) <= 300)


@every_text
def test_secrets_are_compared_in_constant_time_and_hashed_once(text, monkeypatch):
    """However many v1 stand there, each secret hashes each text once and compares 32 bytes."""
    compared, hashed = [], []

    def spy(left, right, compare=hmac.compare_digest):
        compared.append((left, right))
        return compare(left, right)

    def count(key, message, digest, of=hmac.digest):
        hashed.append(message)
        return of(key, message, digest)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    monkeypatch.setattr(hmac, "digest", count)
    header = f"t={int(NOW)}" + f",v1={'0' * 64}" * 5
    assert refusal(header, by=scheme(text, KEY, OTHER)) is SIGNATURE_MISMATCH
    texts = 2 if text == "auto" else 1
    assert len(hashed) == 2 * texts
    assert len(compared) == 10 * texts
    assert all(isinstance(side, bytes) and len(side) == 32 for pair in compared for side in pair)


def test_a_refusal_quotes_nothing():
    """The text of a refusal may be logged: it holds no header value and no secret."""
    for header in (over_time(key=OTHER), "tell-tale", "t=tell,v1=tale", over_time()[:-1]):
        with pytest.raises(Rejection) as caught:
            verify(header)
        said = str(caught.value)
        assert "tell" not in said
        assert "whsec" not in said
        assert header[-20:] not in said


def test_another_provider_fits():
    """The form is Stripe's and Persona's too: only names differ."""
    by = TimestampedHmac(
        [KEY], name="persona", header="persona-signature", text="timestamped", refuses_stale=True
    )
    verified = by.verify(Headers([("persona-signature", over_time())]), BODY, NOW)
    assert (verified.scheme, verified.freshness) == ("persona-timestamped", "fresh")
