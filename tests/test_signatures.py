"""What every scheme owes: only the exact bytes, signed with a current secret, are accepted."""

import base64
import hashlib
import hmac
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.headers import Headers
from gateway.providers import PROVIDERS
from gateway.rejections import (
    BODY_MALFORMED,
    SIGNATURE_MALFORMED,
    SIGNATURE_MISMATCH,
    SIGNATURE_MISSING,
    UNKNOWN_CLIENT,
    Rejection,
)
from gateway.send import fixtures
from gateway.signatures import Key
from gateway.signatures.hmac_sha256 import BodyHmac
from tests.sample_keys import sending
from tests.senders import SENDERS, sender_of

NOW = 1_700_000_000.0
REFUSED_SIGNATURES = {SIGNATURE_MISSING, SIGNATURE_MALFORMED, SIGNATURE_MISMATCH, BODY_MALFORMED}

# Providers that sign the raw body with HMAC-SHA256: the header, and the encodings accepted.
BODY_HMAC = {
    "onfido": ("x-sha2-signature", {"hex"}),
    "pawapass": ("x-signature", {"hex", "base64"}),
    "veriff": ("x-hmac-signature", {"hex"}),
}
BODY = b'{"id":"a","status":"approved"}'
NOT_OVER_THE_BODY = {"plexy-b", "treezor", "treezor-unsigned"}
"""A token proves the sender only; Treezor signs one value of the body: see their own tests."""

every_sender = pytest.mark.parametrize("sender", SENDERS, ids=str)
every_sender_by_header = pytest.mark.parametrize(
    "sender", [sender for sender in SENDERS if sender.provider.name != "treezor"], ids=str
)
every_fixture = pytest.mark.parametrize(
    "fixture", fixtures(), ids=lambda fixture: f"{fixture.provider}/{fixture.case}"
)
every_fixture_signed_whole = pytest.mark.parametrize(
    "fixture",
    [found for found in fixtures() if str(sender_of(found)) not in NOT_OVER_THE_BODY],
    ids=lambda fixture: f"{fixture.provider}/{fixture.case}",
)
every_body_hmac = pytest.mark.parametrize("provider", sorted(BODY_HMAC))


def as_the_server_reads(pairs):
    """Build Headers as granian leaves them: values that are not ASCII vanish, names stay."""
    readable = [(name, value) for name, value in pairs if value.isascii()]
    return Headers(readable, [name for name, _ in pairs])


def accepted(scheme, pairs, body):
    return scheme.verify(as_the_server_reads(pairs), body, NOW)


def refused(scheme, pairs, body):
    with pytest.raises(Rejection) as caught:
        accepted(scheme, pairs, body)
    return caught.value.reason


# For one mechanism, HMAC over the body, by the provider's name.


def secret(number=1, client=None):
    return Key(
        id=f"key-{number}", value=b"a secret of the tests, number %d" % number, client=client
    )


def scheme_of(provider, *secrets):
    return PROVIDERS[provider].scheme(list(secrets or [secret()]))


def signed(provider, body=BODY, by=None):
    """Give the header pairs and the body as the provider would send them."""
    proof = scheme_of(provider, by or secret()).sign(body, NOW)
    return list(proof.headers.items()), proof.body


def verify(provider, pairs, body=BODY, *secrets):
    return accepted(scheme_of(provider, *secrets), pairs, body)


def refusal(provider, pairs, body=BODY, *secrets):
    return refused(scheme_of(provider, *secrets), pairs, body)


def digest_of(body=BODY, by=None):
    return hmac.new((by or secret()).value, body, hashlib.sha256).digest()


def with_digest(provider, text, body=BODY, *secrets):
    return [(BODY_HMAC[provider][0], text)], body, *secrets


# What every provider owes, under every contract.


# What treezor-unsigned takes without a proof is the matter of Treezor's own tests.
every_proven_sender = pytest.mark.parametrize(
    "sender", [sender for sender in SENDERS if str(sender) != "treezor-unsigned"], ids=str
)


@every_fixture
def test_the_right_signature_is_accepted_and_names_its_key(fixture):
    """A fixture signed by its provider's scheme verifies; key and scheme are among the known."""
    sender = sender_of(fixture)
    scheme = sender.scheme()
    verified = accepted(scheme, *sender.signed(fixture.body))
    words = {"plexy-b": "token", "treezor-unsigned": "unsigned"}
    assert verified.authenticity == words.get(str(sender), "signed")
    assert verified.key_id == ("unsigned" if verified.authenticity == "unsigned" else "key-1")
    assert verified.key_id in scheme.key_ids
    assert verified.scheme in scheme.names
    assert verified.scheme.startswith(fixture.provider)


@every_fixture_signed_whole
def test_a_body_changed_anywhere_is_refused(fixture):
    """No single byte of a signed body can be changed, removed or added."""
    sender = sender_of(fixture)
    pairs, body = sender.signed(fixture.body)
    scheme, headers = sender.scheme(), as_the_server_reads(pairs)
    changed = [body[:-1], body[1:], body + b"\n", b" " + body, b"\xef\xbb\xbf" + body, b""]
    # A signature of the asymmetric kind takes a hundred times as long to refuse.
    for place in range(0, len(body), 16 if PROVIDERS[fixture.provider].key_pairs else 1):
        other = bytearray(body)
        other[place] ^= 1 << (place % 8)
        changed.append(bytes(other))
    for other in changed:
        with pytest.raises(Rejection) as caught:
            scheme.verify(headers, other, NOW)
        assert caught.value.reason is SIGNATURE_MISMATCH


@every_proven_sender
def test_a_signature_by_another_key_is_refused(sender):
    """Whoever lacks a current key cannot sign."""
    pairs, body = sender.signed(number=2)
    assert refused(sender.scheme(1), pairs, body) is SIGNATURE_MISMATCH


@every_proven_sender
def test_every_current_key_is_accepted_and_no_other(sender):
    """While keys rotate each current one verifies under its own id, wherever it stands."""
    current = (1, 2, 3)
    for order in permutations(current):
        for number in current:
            pairs, body = sender.signed(number=number)
            assert accepted(sender.scheme(*order), pairs, body).key_id == f"key-{number}"
    pairs, body = sender.signed(number=4)
    assert refused(sender.scheme(*current), pairs, body) is SIGNATURE_MISMATCH


@every_proven_sender
def test_key_ids_are_those_of_the_keys(sender):
    """The metric labels of a scheme are known before anything is verified."""
    scheme = sender.scheme(1, 2)
    assert scheme.key_ids == ("key-1", "key-2")
    assert all(name.startswith(sender.provider.name) for name in scheme.names)


@every_sender_by_header
def test_a_missing_signature_is_refused(sender):
    """Without any of its proof's headers a delivery is not accepted."""
    pairs, body = sender.signed()
    assert pairs
    for absent, _ in pairs:
        rest = [pair for pair in pairs if pair[0] != absent]
        assert refused(sender.scheme(), rest, body) is SIGNATURE_MISSING


DAMAGES = {
    "empty": lambda text: "",
    "truncated": lambda text: text[:-1],
    "half": lambda text: text[: len(text) // 2],
    "beheaded": lambda text: text[1:],
    "longer": lambda text: text + text[-1],
    "doubled": lambda text: text + text,
    "listed": lambda text: f"{text}, {text}",
    "space before": lambda text: " " + text,
    "space after": lambda text: text + " ",
    "newline after": lambda text: text + "\n",
    "tab after": lambda text: text + "\t",
    "space inside": lambda text: text[:8] + " " + text[8:],
    "nul after": lambda text: text + "\0",
    "quoted": lambda text: f'"{text}"',
    "prefixed": lambda text: f"sha256={text}",
    "zero x": lambda text: f"0x{text}",
    "percent": lambda text: f"%{ord(text[0]):02x}{text[1:]}",
    "forged": lambda text: ("0" if text[0] != "0" else "1") + text[1:],
    "forged at the end": lambda text: "".join((text[:-1], "0" if text[-1] != "0" else "1")),
    "nothing but dots": lambda text: "." * len(text),
    "enormous": lambda text: text * 100,
}


@every_sender_by_header
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_signature_is_refused(sender, damage):
    """A signature that is not exactly one right signature is refused, however it is wrong."""
    pairs, body = sender.signed()
    for place, (name, text) in enumerate(pairs):
        other = [*pairs]
        other[place] = (name, DAMAGES[damage](text))
        assert refused(sender.scheme(), other, body) in REFUSED_SIGNATURES


@every_sender_by_header
def test_a_signature_header_that_comes_twice_is_refused(sender):
    """Which of two headers counts is never a question: right and right, right and wrong."""
    pairs, body = sender.signed()
    for name, text in pairs:
        for other in (text, "0" * len(text), ""):
            twice = [*pairs, (name, other)], [(name, other), *pairs]
            for both in twice:
                assert refused(sender.scheme(), both, body) is SIGNATURE_MALFORMED


@every_sender_by_header
@pytest.mark.parametrize("text", ["ä", "é" * 64, "\uff10" * 64, "\x80" * 64, "²" * 64])
def test_a_signature_that_is_not_ascii_is_refused(sender, text):
    """Non-ASCII text is malformed, both as granian drops it and if it ever came through."""
    pairs, body = sender.signed()
    for name, _ in pairs:
        others = [(other, value) for other, value in pairs if other != name]
        both = [*others, (name, text)]
        assert refused(sender.scheme(), both, body) is SIGNATURE_MALFORMED
        with pytest.raises(Rejection) as caught:
            sender.scheme().verify(Headers(both), body, NOW)
        assert caught.value.reason is SIGNATURE_MALFORMED


@every_sender_by_header
@given(text=st.text(st.characters(), max_size=200))
def test_no_text_but_the_signature_verifies(sender, text):
    """Whatever the header holds, the answer is a Rejection and no other exception."""
    pairs, body = sender.signed()
    for name, right in pairs:
        if text == right:
            continue
        with pytest.raises(Rejection) as caught:
            sender.scheme().verify(Headers([(name, text)]), body, NOW)
        assert caught.value.reason in REFUSED_SIGNATURES


@pytest.mark.parametrize(
    ("one", "another"),
    [pair for pair in permutations(SENDERS, 2) if pair[0].provider.name != pair[1].provider.name],
    ids=str,
)
def test_one_providers_delivery_is_refused_at_anothers_endpoint(one, another):
    """Even under the same secret, one provider's proof is none for another."""
    pairs, body = one.signed()
    assert refused(another.scheme(), pairs, body) in REFUSED_SIGNATURES


@every_proven_sender
def test_signing_uses_the_first_key(sender):
    """A fixture sent by hand is signed with the newest key, which stands first."""
    keys = [sending(sender.provider.name, number) for number in (1, 2)]
    proof = sender.provider.scheme(keys, sender.known.options).sign(sender.body, NOW)
    pairs = list(proof.headers.items())
    assert accepted(sender.scheme(1), pairs, proof.body).key_id == "key-1"
    assert refused(sender.scheme(2), pairs, proof.body) is SIGNATURE_MISMATCH


@every_proven_sender
def test_secrets_are_compared_in_constant_time(sender, monkeypatch):
    """Every current secret is compared by compare_digest, as bytes."""
    if sender.provider.key_pairs is not None:
        return  # a public key is no secret
    compared = []

    def spy(left, right, compare=hmac.compare_digest):
        compared.append((left, right))
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    pairs, body = sender.signed(number=9)
    refused(sender.scheme(1, 2, 3), pairs, body)
    assert len(compared) >= 3
    assert all(isinstance(side, bytes) for pair in compared for side in pair)
    assert all(len(left) == len(right) for left, right in compared)


@every_proven_sender
def test_a_refusal_says_nothing_of_the_signature(sender):
    """The text of a refusal may be logged: it holds no header value and no secret."""
    pairs, body = sender.signed(number=2)
    for name, value in pairs:
        for text in (value, value[:-1], "tell-tale" + value):
            with pytest.raises(Rejection) as caught:
                accepted(sender.scheme(), [(name, text)], body)
            assert value[:16] not in str(caught.value)
            assert value[-16:] not in str(caught.value)
            assert "tell-tale" not in str(caught.value)
            assert "secret-of-the-tests" not in str(caught.value)


# HMAC-SHA256 over the body: Veriff and pawaPass.


@every_body_hmac
@given(body=st.binary(max_size=300))
def test_any_bytes_can_be_signed_and_only_they_verify(provider, body):
    """The signature covers bytes, whatever they are; a scheme that needs JSON says so itself."""
    pairs, sent = signed(provider, body)
    assert verify(provider, pairs, sent).signed == sent == body
    assert refusal(provider, pairs, sent + b"\0") is SIGNATURE_MISMATCH


@every_body_hmac
def test_the_signature_is_the_hmac_of_the_raw_body(provider):
    """Signing and verifying agree with HMAC-SHA256 computed here."""
    pairs, body, *_ = with_digest(provider, digest_of().hex())
    assert signed(provider) == (pairs, body)
    assert verify(provider, pairs, body).key_id == "key-1"


@every_body_hmac
@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title, str.swapcase])
def test_hex_may_be_written_in_any_case(provider, spelling):
    """Upper case is not documented, so hex is compared after decoding."""
    assert verify(provider, *with_digest(provider, spelling(digest_of().hex())))


@every_body_hmac
@pytest.mark.parametrize("length", [0, 1, 2, 62, 63, 65, 66, 128])
def test_hex_of_another_length_is_refused(provider, length):
    """A SHA-256 is exactly 64 hex digits."""
    text = (digest_of().hex() * 2)[:length]
    assert refusal(provider, *with_digest(provider, text)) in {
        SIGNATURE_MALFORMED,
        SIGNATURE_MISSING,
    }


@every_body_hmac
@pytest.mark.parametrize("stranger", ["g", "G", " ", "_", "-", ".", "\n"])
def test_hex_with_a_stranger_among_its_digits_is_refused(provider, stranger):
    """bytes.fromhex forgives blanks and int() forgives underscores: the pattern does not."""
    text = digest_of().hex()
    for place in (0, 31, 63):
        other = text[:place] + stranger + text[place + 1 :]
        assert refusal(provider, *with_digest(provider, other)) is SIGNATURE_MALFORMED


@every_body_hmac
def test_base64_is_accepted_only_where_the_provider_may_send_it(provider):
    """The encoding of pawaPass is not documented, Veriff's is hex."""
    right = base64.b64encode(digest_of()).decode()
    if "base64" in BODY_HMAC[provider][1]:
        assert verify(provider, *with_digest(provider, right)).key_id == "key-1"
        other = base64.b64encode(digest_of(by=secret(2))).decode()
        assert refusal(provider, *with_digest(provider, other)) is SIGNATURE_MISMATCH
    else:
        assert refusal(provider, *with_digest(provider, right)) is SIGNATURE_MALFORMED


def body_whose_base64_needs(characters):
    for number in range(10_000):
        body = b'{"number":%d}' % number
        text = base64.b64encode(digest_of(body)).decode()
        if all(character in text for character in characters):
            return body, text
    raise AssertionError("no body found")


WRONG_BASE64 = {
    "url alphabet": lambda text: text.replace("+", "-").replace("/", "_"),
    "url plus": lambda text: text.replace("+", "-"),
    "url slash": lambda text: text.replace("/", "_"),
    "plus as a form would read it": lambda text: text.replace("+", " "),
    "no padding": lambda text: text.rstrip("="),
    "padding twice": lambda text: text + "=",
    "padding first": lambda text: "=" + text[:-1],
    "padding inside": lambda text: text[:20] + "=" + text[20:43],
    "junk inside": lambda text: text[:20] + "!" + text[20:],
    "junk instead": lambda text: text[:20] + "!" + text[21:],
    "newline inside": lambda text: text[:20] + "\n" + text[20:],
    "newline after": lambda text: text + "\n",
    "blank before": lambda text: " " + text,
    "one character short": lambda text: text[1:],
    "one character long": lambda text: "A" + text,
    "a block more": lambda text: "AAAA" + text,
    "upper case": str.upper,
    "of the hex": lambda text: base64.b64encode(base64.b64decode(text).hex().encode()).decode(),
    "of 31 bytes": lambda text: base64.b64encode(base64.b64decode(text)[:31]).decode(),
    "of 33 bytes": lambda text: base64.b64encode(base64.b64decode(text) + b"\0").decode(),
    "base32": lambda text: base64.b32encode(base64.b64decode(text)).decode(),
}


@pytest.mark.parametrize("wrong", WRONG_BASE64)
@every_body_hmac
def test_base64_is_read_strictly(provider, wrong):
    """Junk, the url alphabet, missing padding and other lengths are refused."""
    body, text = body_whose_base64_needs("+/")
    other = WRONG_BASE64[wrong](text)
    assert other != text
    assert refusal(provider, *with_digest(provider, other, body)) in {
        SIGNATURE_MALFORMED,
        SIGNATURE_MISMATCH,
    }


@every_body_hmac
def test_an_empty_body_can_be_signed(provider):
    """Nothing is special about no bytes: the empty body needs its own signature."""
    assert verify(provider, *with_digest(provider, digest_of(b"").hex(), b""))
    assert refusal(provider, *with_digest(provider, digest_of().hex(), b"")) is SIGNATURE_MISMATCH


@every_body_hmac
@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha224", "sha384", "sha512", "sha3_256"])
def test_another_algorithm_is_refused(provider, algorithm):
    """Only SHA-256 verifies, also where another digest has the same length."""
    text = hmac.new(secret().value, BODY, algorithm).hexdigest()
    assert refusal(provider, *with_digest(provider, text)) in REFUSED_SIGNATURES


@every_body_hmac
def test_a_plain_digest_is_no_signature(provider):
    """Hashes that need no secret, or only glue it to the body, do not verify."""
    for plain in (BODY, BODY + secret().value, secret().value + BODY):
        text = hashlib.sha256(plain).hexdigest()
        assert refusal(provider, *with_digest(provider, text)) is SIGNATURE_MISMATCH
    text = hmac.new(b"", BODY, hashlib.sha256).hexdigest()
    assert refusal(provider, *with_digest(provider, text)) is SIGNATURE_MISMATCH


# Veriff.

VECTOR_KEY = b"abcdef12-abcd-abcd-abcd-abcdef012345"
VECTOR_BODY = (
    b'{"verification":{"callback":"https://veriff.com","person":{"firstName":"John",'
    b'"lastName":"Smith"},"document":{"type":"PASSPORT","country":"EE"},'
    b'"vendorData":"unique id of the end-user","timestamp":"2016-05-19T08:30:25.597Z"}}'
)
VECTOR_HEX = "0dcab73ddd20062616d104231c7439657546a5c24e4691977da93bb854c31e25"


def test_veriffs_published_vector_verifies():
    """The example of Veriff's own page is a known answer."""
    published = Key(id="published", value=VECTOR_KEY)
    pairs = [("x-hmac-signature", VECTOR_HEX), ("x-auth-client", "anyone")]
    assert verify("veriff", pairs, VECTOR_BODY, published).key_id == "published"
    assert scheme_of("veriff", published).sign(VECTOR_BODY, NOW).headers == {
        "x-hmac-signature": VECTOR_HEX
    }
    refused = refusal("veriff", pairs, VECTOR_BODY.replace(b"John", b"Joan"), published)
    assert refused is SIGNATURE_MISMATCH


def test_veriffs_legacy_signature_is_not_accepted():
    """X-SIGNATURE, a plain SHA-256 of payload and secret, proves nothing in any header."""
    legacy = hashlib.sha256(BODY + secret().value).hexdigest()
    assert refusal("veriff", [("x-signature", legacy)]) is SIGNATURE_MISSING
    assert refusal("veriff", [("x-hmac-signature", legacy)]) is SIGNATURE_MISMATCH
    both = [("x-signature", legacy), ("x-hmac-signature", "0" * 64)]
    assert refusal("veriff", both) is SIGNATURE_MISMATCH


def test_other_headers_do_not_stand_in_for_veriffs():
    """Neither the alias of API answers nor an underscored name is read as the signature."""
    for name in ("vrf-hmac-signature", "x_hmac_signature", "hmac-signature", "signature"):
        assert refusal("veriff", [(name, digest_of().hex())]) is SIGNATURE_MISSING


MINE, MINE_TOO, THEIRS = secret(1, "mine"), secret(2, "mine"), secret(3, "theirs")
BOUND = (MINE, THEIRS, MINE_TOO)


def bound_refusal(by, *clients):
    pairs = [("x-hmac-signature", digest_of(by=by).hex())]
    return refusal(
        "veriff", [*pairs, *(("x-auth-client", client) for client in clients)], BODY, *BOUND
    )


@pytest.mark.parametrize("one", BOUND, ids=lambda one: one.id)
def test_a_client_is_verified_with_its_own_secrets(one):
    """Where secrets name clients, each client's current secrets are tried."""
    pairs = [("x-hmac-signature", digest_of(by=one).hex()), ("x-auth-client", one.client)]
    assert verify("veriff", pairs, BODY, *BOUND).key_id == one.id
    assert scheme_of("veriff", one).sign(BODY, NOW).headers == dict(pairs)


def test_a_client_cannot_use_anothers_secret():
    """A right signature by another client's secret does not match."""
    assert bound_refusal(THEIRS, "mine") is SIGNATURE_MISMATCH
    assert bound_refusal(MINE, "theirs") is SIGNATURE_MISMATCH
    assert bound_refusal(MINE_TOO, "theirs") is SIGNATURE_MISMATCH


@pytest.mark.parametrize(
    "clients", [(), ("",), ("nobody",), ("MINE",), ("mine ",), ("min",), ("mine,theirs",)]
)
def test_a_missing_or_unknown_client_is_refused(clients):
    """Where secrets name clients, X-AUTH-CLIENT must name one of them exactly."""
    assert bound_refusal(MINE, *clients) is UNKNOWN_CLIENT


@pytest.mark.parametrize("clients", [("mine", "mine"), ("mine", "theirs"), ("theirs", "mine")])
def test_a_client_named_twice_is_refused(clients):
    """A header that decides which secrets are tried may come only once."""
    assert bound_refusal(MINE, *clients) is SIGNATURE_MALFORMED


def test_a_client_that_is_not_ascii_is_refused():
    """A client whose value granian dropped is not taken for a missing one."""
    assert bound_refusal(MINE, "mïne") is SIGNATURE_MALFORMED


@pytest.mark.parametrize("clients", [(), ("",), ("anyone",), ("a", "b"), ("ä",)])
def test_without_bound_secrets_the_client_does_not_matter(clients):
    """Secrets that name no client verify whatever X-AUTH-CLIENT says."""
    pairs = [("x-auth-client", client) for client in clients]
    assert verify("veriff", [("x-hmac-signature", digest_of().hex()), *pairs])


# Answers.


def test_every_refused_signature_is_401_unless_the_provider_wants_another():
    """A provider that wants another status for refusals gets it from its registration alone."""
    for reason in (*REFUSED_SIGNATURES - {BODY_MALFORMED}, UNKNOWN_CLIENT):
        assert reason.status == 401
        assert reason.provider_decides
        assert reason.result == "rejected"
    wanted = {name: provider.refusal_status for name, provider in PROVIDERS.items()}
    assert {name for name, status in wanted.items() if status is not None} == {"treezor"}
    assert wanted["treezor"] == 500


def test_every_body_hmac_there_is_stands_in_this_file():
    """No provider of this mechanism is left out of what it owes."""
    found = {str(one) for one in SENDERS if isinstance(one.scheme(), BodyHmac)}
    assert set(BODY_HMAC) == found
