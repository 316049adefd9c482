"""ECDSA on P-521: which keys are taken, which texts are signatures, and who signed."""

import base64
import hashlib
import textwrap
from contextlib import suppress
from functools import cache

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
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
    Rejection,
)
from gateway.signatures.ecdsa import Ecdsa, generate, private_key, public_keys

NOW = 1_700_000_000.0
HEADER = "pleenk-signature"
BODY = b'{"events":[{"eventType":"APPROVE","data":{"@type":"APPROVE_EVENT","userRef":"u-1"}}]}'
ORDER = (1 << 521) - int("5ae79787c40d069948033feb708f65a2fc44a36477663b851449048e16ec79bf7", 16)

# Of Pleenk's public page, its first key: developers.pleenk.com/docs/signature-verification
PUBLISHED = (
    "MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBeXWq/pX+pp5jlFkzL/UlACqaJ8mA5arZlI9guMKFgktBgaGPn/uo4Xj1"
    "dtOs3SFfzl1qo76k5e+K3awsKa5J5EsB5KSYWMzjTae3IQgxCCPop70V/82ld4Iwe4hsJsOnirHnsQa8TwmBC0+80fas"
    "CXXjpq9jKiZ5OLcjxcK9B5ojDZU="
)
PUBLISHED_SHA256 = "f758ca2c810aec9cc6bb34b8dfd148761950c5d7d43cd9b1c5e356819321f276"


@cache
def pair(number):
    """Give a private and a public PEM; the same for the same number."""
    return generate()


def held(*numbers):
    """Give the public keys as the gateway holds them."""
    return public_keys("".join(pair(number)[1] for number in numbers or (1,)))


def scheme(*keys, signature_format="der"):
    return Ecdsa(keys or held(), name="pleenk", header=HEADER, signature_format=signature_format)


def sender(number=1, signature_format="der"):
    return scheme(private_key(pair(number)[0]), signature_format=signature_format)


def signature(body=BODY, number=1, signature_format="der"):
    """Give the signature's bytes as a sender makes them."""
    text = sender(number, signature_format).sign(body, NOW).headers[HEADER]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def headers(text):
    return Headers([(HEADER, text)])


def verify(text, body=BODY, by=None):
    if isinstance(text, bytes):
        text = base64.b64encode(text).decode()
    return (by or scheme()).verify(headers(text), body, NOW)


def refusal(text, body=BODY, by=None):
    with pytest.raises(Rejection) as caught:
        verify(text, body, by)
    return caught.value.reason


def signature_with(found):
    """Give a signature of the body for which something holds; about half of them do."""
    for _ in range(500):
        made = signature()
        if found(made):
            return made
    raise AssertionError("no such signature came")


def pem(base64_text, label="PUBLIC KEY", columns=64):
    lines = "\n".join(textwrap.wrap(base64_text, columns))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"


def pem_of(private):
    return (
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def base64_of(text):
    return "".join(line for line in text.split("\n") if not line.startswith("-----"))


# Reading public keys.

FORMS = {
    "64 columns": pem(PUBLISHED),
    "indented, 62 columns, as published": textwrap.indent(pem(PUBLISHED, columns=62), "    "),
    "carriage returns": pem(PUBLISHED).replace("\n", "\r\n"),
    "one line": pem(PUBLISHED, columns=1000),
    "one line in all": pem(PUBLISHED).replace("\n", " "),
    "one character a line": pem(PUBLISHED, columns=1),
    "tabs and no-break spaces": textwrap.indent(pem(PUBLISHED), "\t\u00a0"),
    "no newline at the end": pem(PUBLISHED).rstrip(),
    "blank lines around": "\n \n" + pem(PUBLISHED) + "\n\n",
    "comments around": "# production\n" + pem(PUBLISHED) + "  # until spring\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_the_published_key_is_read_however_it_is_written(form):
    """Blanks, indentation and wrapping never matter; value and id are those of the DER."""
    (key,) = public_keys(FORMS[form])
    assert hashlib.sha256(key.value).hexdigest() == PUBLISHED_SHA256
    assert key.id == "spki-f758ca2c810a"
    assert key.client is None


def test_an_id_stays_when_blocks_change_places():
    """Ids are of the keys, not of their order, and fit the pattern of every key id."""
    one, two = held(1, 2), held(2, 1)
    assert one == two[::-1]
    assert len({key.id for key in one}) == 2
    assert all(len(key.id) <= 32 for key in one)


def test_no_key_is_built_in():
    """Without keys of the operator's own there is no endpoint of Pleenk."""
    with pytest.raises(ConfigurationError, match="no endpoint is configured"):
        load_endpoints({"PLEENK_PATH_TOKEN": "path-token-of-the-tests-0123456789"})


def other_kinds():
    rsa_key = rsa.generate_private_key(65537, 1024)
    p521 = ec.generate_private_key(ec.SECP521R1())
    der = base64.b64decode(base64_of(pem_of(p521)))
    point = ec.EllipticCurvePublicNumbers(1, 1, ec.SECP521R1())
    good, private = pem(PUBLISHED), pair(1)[0]
    return {
        "P-256": (pem_of(ec.generate_private_key(ec.SECP256R1())), "P-521"),
        "P-384": (pem_of(ec.generate_private_key(ec.SECP384R1())), "P-521"),
        "secp256k1": (pem_of(ec.generate_private_key(ec.SECP256K1())), "P-521"),
        "RSA": (pem_of(rsa_key), "P-521"),
        "Ed25519": (pem_of(ed25519.Ed25519PrivateKey.generate()), "P-521"),
        "P-256 among good ones": (
            good + pem_of(ec.generate_private_key(ec.SECP256R1())),
            "P-521",
        ),
        "a point off the curve": (
            pem(base64.b64encode(der[:-66] + point.y.to_bytes(66, "big")).decode()),
            "P-521",
        ),
        "a byte too many": (pem(base64.b64encode(der + b"\0").decode()), "P-521"),
        "a byte too few": (pem(base64.b64encode(der[:-1]).decode()), "P-521"),
        "nothing in the block": (pem(""), "P-521"),
        "another block of RSA": (pem(base64_of(pem_of(rsa_key)), "RSA PUBLIC KEY"), "BEGIN PUBLIC"),
        "parameters": (pem("BgUrgQQAIw==", "EC PARAMETERS") + good, "BEGIN PUBLIC KEY"),
        "a private key": (private, "private key; leave it"),
        "a private key beside": (good + private, "private key; leave it"),
        "an older private key": (pem(PUBLISHED, "EC PRIVATE KEY"), "private key; leave it"),
        "an encrypted private key": (pem(PUBLISHED, "ENCRYPTED PRIVATE KEY"), "leave it"),
        "a certificate": (pem(PUBLISHED, "CERTIFICATE"), "certificate; give the public key"),
        "nothing": ("", "there is no public key"),
        "blanks": (" \n\t\n", "there is no public key"),
        "comments only": ("# no key yet\n", "there is no public key"),
        "a key commented out": (textwrap.indent(good, "# "), "there is no public key"),
        "base64 without markers": (PUBLISHED, "something other than PEM"),
        "text before": ("Production key:\n" + good, "something other than PEM"),
        "text between": (good + "sandbox\n" + held_pem(2), "something other than PEM"),
        "text after": (good + "sandbox", "something other than PEM"),
        "a damaged first line": (good + held_pem(2)[1:], "something other than PEM|not belong"),
        "an unfinished block": (good.split("-----END")[0], "does not end"),
        "an unfinished second block": (good + held_pem(2).split("-----END")[0], "does not end"),
        "a block begun twice": (good.split("-----END")[0] + good, "BEGIN and END"),
        "a block ended twice": (good + "-----END PUBLIC KEY-----\n", "BEGIN and END"),
        "another end": (good.replace("END PUBLIC", "END PRIVATE"), "BEGIN and END"),
        "junk in the base64": (good.replace("MIGb", "MI!b"), "other than base64"),
        "junk beside the base64": (good.replace("MIGb", "MI!Gb"), "other than base64"),
        "letters beyond ASCII": (good.replace("MIGb", "MIÄb"), "other than base64"),
        "a zero-width space": (good.replace("MIGb", "MI\u200bGb"), "other than base64"),
        "no padding": (pem(PUBLISHED.rstrip("=")), "other than base64"),
        "the same twice": (good + good, "twice"),
        "the same twice, written differently": (good + FORMS["one line"], "twice"),
    }


def held_pem(number):
    return pair(number)[1]


OTHER_KINDS = other_kinds()


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_what_is_no_public_key_on_p521_is_refused(kind):
    """Every other file is refused by one sentence that says what to do and quotes nothing."""
    text, says = OTHER_KINDS[kind]
    with pytest.raises(ValueError, match=says) as caught:
        public_keys(text)
    said = str(caught.value)
    assert "\n" not in said
    words = [word for line in text.splitlines() for word in line.split() if len(word) > 12]
    assert not [word for word in words if word in said and "-----" not in word]


def test_one_key_in_two_encodings_is_one_key():
    """A compressed point gives the value and the id of the key itself."""
    key = held()[0]
    public = serialization.load_der_public_key(key.value)
    point = public.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    bits = b"\x03" + bytes([len(point) + 1]) + b"\0" + point
    kind = bytes.fromhex("301006072a8648ce3d020106052b81040023")
    short = b"\x30" + bytes([len(kind + bits)]) + kind + bits
    assert public_keys(pem(base64.b64encode(short).decode())) == [key]


@given(text=st.text(max_size=300) | st.text("-BEGIND PUBLICKEY\n#=Aa0", max_size=300))
def test_any_text_gives_keys_or_a_sentence(text):
    """Whatever a key file holds, ValueError is the only error."""
    for put in (text, pem(PUBLISHED) + text, pem(text), pem(text, "PRIVATE KEY")):
        for read in (public_keys, private_key):
            with suppress(ValueError):
                assert read(put)


def test_endpoints_refuse_keys_with_the_file_named(tmp_path):
    """The operator learns which variable and file, and what to do."""
    path = tmp_path / "pleenk.pem"
    path.write_text(OTHER_KINDS["P-256"][0])
    with pytest.raises(ConfigurationError, match=r"PLEENK_PUBLIC_KEYS_FILE.*pleenk.pem.*P-521"):
        load_endpoints({"PLEENK_PUBLIC_KEYS_FILE": str(path)})


def test_an_endpoint_of_pleenk_needs_a_path_token(tmp_path):
    """Pleenk signs every merchant's notifications alike: only the path tells whose they are."""
    path = tmp_path / "pleenk.pem"
    path.write_text(pair(1)[1])
    given = {"PLEENK_PUBLIC_KEYS_FILE": str(path)}
    with pytest.raises(ConfigurationError, match="because its signature does not say for whom"):
        load_endpoints(given)
    loaded = load_endpoints({**given, "PLEENK_PATH_TOKEN": "path-token-of-the-tests-0123456789"})
    assert loaded.by_name["pleenk"].scheme.key_ids == (held()[0].id,)


# Reading a sender's private key.


def test_a_generated_pair_belongs_together():
    """What the private key signs, its public key verifies."""
    private, public = generate()
    signed = scheme(private_key(private)).sign(BODY, NOW)
    (key,) = public_keys(public)
    verified = scheme(key).verify(Headers(signed.headers.items()), signed.body, NOW)
    assert verified.key_id == key.id
    assert private_key(private).id == "send"


def test_another_private_key_is_refused():
    """Only one unencrypted PKCS 8 block on P-521 is a sender's key."""
    private, public = pair(1)
    of_p256 = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    of_rsa = rsa.generate_private_key(65537, 1024).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    encrypted = ec.generate_private_key(ec.SECP521R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    hidden = encrypted.decode().replace("ENCRYPTED ", "")
    for text in (of_p256.decode(), of_rsa.decode(), hidden, pem(PUBLISHED, "PRIVATE KEY")):
        with pytest.raises(ValueError, match="not on P-521"):
            private_key(text)
    for text in ("", public, private + private, private + public, encrypted.decode()):
        with pytest.raises(ValueError, match="exactly one block"):
            private_key(text)


def test_the_gateways_keys_cannot_sign():
    """A scheme that holds public keys verifies, and says why it does not sign."""
    with pytest.raises(ValueError, match="a public key signs nothing"):
        scheme().sign(BODY, NOW)


# Verifying.


def test_a_right_signature_names_the_key_that_made_it():
    """Any current key may match, wherever it stands; another's does not."""
    for order in ((1, 2, 3), (3, 1, 2)):
        keys = held(*order)
        both = scheme(*keys)
        assert both.key_ids == tuple(key.id for key in keys)
        for number in order:
            verified = verify(signature(number=number), by=both)
            assert verified.key_id == held(number)[0].id
            assert verified.scheme == "pleenk"
            assert verified.signed == BODY
            assert (verified.authenticity, verified.freshness) == ("signed", "none")
        assert refusal(signature(number=4), by=both) is SIGNATURE_MISMATCH


def test_a_sender_verifies_what_it_signs():
    """A scheme of private keys verifies with their public halves."""
    one = sender()
    assert verify(signature(), by=one).key_id == "send"
    assert refusal(signature(number=2), by=one) is SIGNATURE_MISMATCH


def test_an_independent_sha512_signature_verifies():
    """What the library signs from the body itself is what we verify, and no other digest."""
    private = serialization.load_pem_private_key(pair(1)[0].encode(), None)
    assert verify(private.sign(BODY, ec.ECDSA(hashes.SHA512())))
    for digest in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512_256(), hashes.SHA3_512()):
        assert refusal(private.sign(BODY, ec.ECDSA(digest))) is SIGNATURE_MISMATCH


def test_only_the_exact_body_verifies():
    """The signature covers every byte, and an empty body needs its own."""
    made = signature()
    for other in (BODY + b"\n", b" " + BODY, BODY[:-1], BODY.replace(b"u-1", b"u-2"), b""):
        assert refusal(made, other) is SIGNATURE_MISMATCH
    assert verify(signature(b""), b"").signed == b""
    assert verify(signature(b"\xff\0"), b"\xff\0").signed == b"\xff\0"


def test_a_missing_signature_is_said_to_be_missing():
    """No header and an empty header are both nothing."""
    with pytest.raises(Rejection) as caught:
        scheme().verify(Headers([("x-signature", "AAAA")]), BODY, NOW)
    assert caught.value.reason is SIGNATURE_MISSING
    assert refusal("") is SIGNATURE_MISSING


def test_a_header_that_comes_twice_or_is_not_ascii_is_malformed():
    """Which of two signatures counts is never a question."""
    text = base64.b64encode(signature()).decode()
    twice = Headers([(HEADER, text), (HEADER, text)])
    dropped = Headers([], [HEADER])
    for found in (twice, dropped, headers("é" + text)):
        with pytest.raises(Rejection) as caught:
            scheme().verify(found, BODY, NOW)
        assert caught.value.reason is SIGNATURE_MALFORMED


# Base64.


def spellings(made):
    standard = base64.b64encode(made).decode()
    safe = base64.urlsafe_b64encode(made).decode()
    return {standard, safe, standard.rstrip("="), safe.rstrip("=")}


@pytest.mark.parametrize("length", [137, 138, 139])
def test_base64_of_either_alphabet_padded_or_not_is_read(length):
    """Pleenk documents neither alphabet nor padding, so all four spellings are the signature."""
    made = signature_with(
        lambda one: len(one) == length and {"+", "/"} & set(base64.b64encode(one).decode())
    )
    for text in spellings(made):
        assert verify(text).signed == BODY


def has_both(made):
    return {"+", "/"} <= set(base64.b64encode(made).decode()[8:-8])


WRONG_BASE64 = {
    "alphabets mixed": lambda text: text.replace("+", "-"),
    "plus as a form would read it": lambda text: text.replace("+", " "),
    "percent encoded": lambda text: text.replace("+", "%2B"),
    "one of two paddings": lambda text: text[:-1],
    "three paddings": lambda text: text + "=",
    "padding first": lambda text: "=" + text.rstrip("="),
    "padding inside": lambda text: text[:40] + "==" + text[40:],
    "junk inside": lambda text: text[:40] + "!" + text[40:],
    "blank inside": lambda text: text[:40] + " " + text[40:],
    "newline inside": lambda text: text[:64] + "\n" + text[64:],
    "newline after": lambda text: text + "\n",
    "blank before": lambda text: " " + text,
    "quoted": lambda text: f'"{text}"',
    "one character more": lambda text: text.rstrip("=") + "AAA",
    "a block more": lambda text: text.rstrip("=") + "AA" + "AAAA",
    "one character less": lambda text: text.rstrip("=")[:-1],
    "hex": lambda text: base64.b64decode(text).hex(),
    "base64 twice": lambda text: base64.b64encode(text.encode()).decode(),
    "nothing but padding": lambda text: "==",
    "one character": lambda text: "A",
    "enormous": lambda text: "A" * 100_000,
    "algorithm before": lambda text: "sha512=" + text,
}


@pytest.mark.parametrize("wrong", WRONG_BASE64)
def test_base64_is_read_strictly(wrong):
    """Mixed alphabets, partial padding, blanks and junk are malformed."""
    made = signature_with(lambda one: len(one) == 139 and has_both(one))
    text = WRONG_BASE64[wrong](base64.b64encode(made).decode())
    assert refusal(text) is SIGNATURE_MALFORMED


@pytest.mark.parametrize(("length", "spare"), [(139, 4), (137, 2)])
def test_spare_bits_must_be_zero(length, spare):
    """One signature has one text: the bits that base64 leaves over cannot be set at will."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = base64.b64encode(signature_with(lambda one: len(one) == length)).decode().rstrip("=")
    last = letters.index(text[-1])
    for bits in range(1, 1 << spare):
        other = text[:-1] + letters[last | bits]
        assert refusal(other) is SIGNATURE_MALFORMED
        assert refusal(other + "=" * (-len(other) % 4)) is SIGNATURE_MALFORMED
    assert verify(text)


def test_what_is_too_long_is_not_decoded(monkeypatch):
    """The length is bounded before any work is done: nobody signed yet."""
    by = scheme()
    monkeypatch.setattr(base64, "b64decode", None)
    assert refusal("A" * 189, by=by) is SIGNATURE_MALFORMED
    assert refusal("A" * 1_000_000, by=by) is SIGNATURE_MALFORMED


def test_signing_is_url_safe_and_unpadded():
    """As the widget signature is documented; both numbers fill 188 characters at most."""
    for _ in range(50):
        text = sender().sign(BODY, NOW).headers[HEADER]
        assert not set(text) & set("+/=")
        assert 150 < len(text) <= 186


# The container.


def tlv(tag, content, length_bytes=None):
    """Write a DER element; with `length_bytes` in a longer form than DER allows."""
    size = len(content)
    if length_bytes is None:
        length_bytes = 0 if size < 128 else 1
    length = (
        bytes([0x80 | length_bytes]) + size.to_bytes(length_bytes, "big")
        if length_bytes
        else bytes([size])
    )
    return bytes([tag]) + length + content


def integer(number, zeros=0):
    return b"\0" * zeros + number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)


def containers():
    made = signature_with(lambda one: len(one) == 139)
    r, s = decode_dss_signature(made)
    one, two = tlv(2, integer(r)), tlv(2, integer(s))
    assert tlv(0x30, one + two) == made
    return {
        "a byte after": made + b"\0",
        "an element after": made + b"\5\0",
        "an element inside": tlv(0x30, one + two + b"\5\0"),
        "three numbers": tlv(0x30, one + two + tlv(2, b"\1")),
        "one number": tlv(0x30, one),
        "no number": tlv(0x30, b""),
        "a zero before r": tlv(0x30, tlv(2, integer(r, 1)) + two),
        "a zero before s": tlv(0x30, one + tlv(2, integer(s, 1))),
        "a length of two bytes": tlv(0x30, one + two, 2),
        "a length of four bytes": tlv(0x30, one + two, 4),
        "a long length of r": tlv(0x30, tlv(2, integer(r), 1) + two),
        "an open length": b"\x30\x80" + one + two + b"\0\0",
        "an open length without end": b"\x30\x80" + one + two,
        "a length too great": made[:2] + bytes([made[2] + 1]) + made[3:],
        "a length too small": made[:2] + bytes([made[2] - 1]) + made[3:],
        "a set": b"\x31" + made[1:],
        "a primitive sequence": b"\x10" + made[1:],
        "octets for r": tlv(0x30, tlv(4, integer(r)) + two),
        "a constructed number": tlv(0x30, tlv(0x22, one) + two),
        "an enumerated number": tlv(0x30, tlv(10, integer(r)) + two),
        "r negative": tlv(0x30, tlv(2, integer(-r)) + two),
        "r without bytes": tlv(0x30, tlv(2, b"") + two),
        "r zero": tlv(0x30, tlv(2, b"\0") + two),
        "s zero": tlv(0x30, one + tlv(2, b"\0")),
        "both zero": tlv(0x30, tlv(2, b"\0") + tlv(2, b"\0")),
        "r the order": tlv(0x30, tlv(2, integer(ORDER)) + two),
        "s the order": tlv(0x30, one + tlv(2, integer(ORDER))),
        "r and the order": tlv(0x30, tlv(2, integer(r + ORDER)) + two),
        "s and the order": tlv(0x30, one + tlv(2, integer(s + ORDER))),
        "cut": made[:-1],
        "half": made[:70],
        "the first byte": made[:1],
        "beheaded": made[1:],
        "wrapped in octets": tlv(4, made),
    }


CONTAINERS = containers()


@pytest.mark.parametrize("container", CONTAINERS)
def test_der_is_read_strictly(container):
    """Another way to write the right numbers, or numbers out of range, is malformed."""
    assert refusal(CONTAINERS[container]) is SIGNATURE_MALFORMED


def test_der_is_no_p1363_and_p1363_is_no_der():
    """The container is the configured one and no other."""
    der, plain = signature(), signature(signature_format="p1363")
    by = scheme(signature_format="p1363")
    assert len(plain) == 132
    assert verify(plain, by=by).signed == BODY
    assert refusal(plain) is SIGNATURE_MALFORMED
    assert refusal(der, by=by) is SIGNATURE_MALFORMED


@pytest.mark.parametrize("length", [0, 1, 64, 96, 130, 131, 133, 134])
def test_p1363_is_exactly_132_bytes(length):
    """No zero may be missing from or put before either number."""
    plain = (signature(signature_format="p1363") * 2)[:length]
    assert refusal(plain, by=scheme(signature_format="p1363")) in {
        SIGNATURE_MALFORMED,
        SIGNATURE_MISSING,
    }


def test_the_order_is_the_curves():
    """One below it is a private key, it is none."""
    assert ec.derive_private_key(ORDER - 1, ec.SECP521R1())
    with pytest.raises(ValueError):
        ec.derive_private_key(ORDER, ec.SECP521R1())


def test_p1363_numbers_lie_within_the_order():
    """Zero, the order and what lies above it are no numbers of a signature."""
    plain = signature(signature_format="p1363")
    by = scheme(signature_format="p1363")
    r = int.from_bytes(plain[:66], "big")
    for number in (0, ORDER, ORDER + 1, r + ORDER, (1 << 528) - 1):
        out = number.to_bytes(66, "big")
        assert refusal(out + plain[66:], by=by) is SIGNATURE_MALFORMED
        assert refusal(plain[:66] + out, by=by) is SIGNATURE_MALFORMED
    last = (ORDER - 1).to_bytes(66, "big")
    assert refusal(plain[:66] + last, by=by) is SIGNATURE_MISMATCH


def test_a_signature_has_a_twin():
    """ECDSA's s and n-s both verify: a signature is no id, and nothing dedups on it."""
    r, s = decode_dss_signature(signature())
    assert verify(tlv(0x30, tlv(2, integer(r)) + tlv(2, integer(ORDER - s)))).signed == BODY


def test_the_format_is_an_option_of_the_endpoint():
    """Pleenk's registration takes DER unless the endpoint says p1363."""
    provider = PROVIDERS["pleenk"]
    plain = signature(signature_format="p1363")
    assert verify(signature(), by=provider.scheme(held())).scheme == "pleenk-ecdsa-p521-sha512"
    assert refusal(plain, by=provider.scheme(held())) is SIGNATURE_MALFORMED
    assert verify(plain, by=provider.scheme(held(), {"signature_format": "p1363"}))


@given(text=st.text(max_size=250) | st.text("AQgwZz09+/-_=", max_size=250))
def test_any_header_text_is_a_rejection(text):
    """Whatever stands in the header, the answer is a Rejection and no other exception."""
    for signature_format in ("der", "p1363"):
        assert refusal(text, by=scheme(signature_format=signature_format)) in {
            SIGNATURE_MISSING,
            SIGNATURE_MALFORMED,
            SIGNATURE_MISMATCH,
        }


@given(made=st.binary(max_size=140) | st.binary(min_size=132, max_size=132))
def test_any_bytes_for_a_signature_are_a_rejection(made):
    """No bytes, well spelt, raise anything but a Rejection."""
    for signature_format in ("der", "p1363"):
        assert refusal(made, by=scheme(signature_format=signature_format))


def test_a_refusal_quotes_nothing():
    """The text of a refusal may be logged: it holds no header value."""
    for text in (base64.b64encode(signature(number=2)).decode(), "tell-tale!", "tell" * 100):
        with pytest.raises(Rejection) as caught:
            verify(text)
        assert "tell" not in str(caught.value)
        assert text[:12] not in str(caught.value)


def test_every_verification_leaves_the_loop():
    """Half a millisecond a delivery would hold up everyone else's, however small the body."""
    assert scheme().is_heavy(b"")
    assert PROVIDERS["pleenk"].scheme(held()).is_heavy(BODY)


def test_a_key_may_be_renamed():
    """What is reported is the id the key was given."""
    named = msgspec.structs.replace(held()[0], id="key-1")
    assert verify(signature(), by=scheme(named)).key_id == "key-1"
