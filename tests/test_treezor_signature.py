"""What Treezor's scheme owes: one form, one proven payload, and a Rejection for everything else."""

import base64
import hashlib
import hmac
import json
import random
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.canonical_json import php_json
from gateway.headers import Headers
from gateway.providers import PROVIDERS
from gateway.rejections import (
    BODY_MALFORMED,
    SIGNATURE_MALFORMED,
    SIGNATURE_MISMATCH,
    SIGNATURE_MISSING,
    Rejection,
)
from gateway.send import fixtures
from gateway.signatures import Acknowledged, Key, Verified, treezor
from gateway.signatures.treezor import HEAVY_BYTES, TreezorPayload
from gateway.signatures.unproven import members
from tests.test_canonical_json import spelled, values

NOW = 1_700_000_000.0
KEY = Key(id="key-1", value=b"a secret of the tests, number 1")
OTHER = Key(id="key-2", value=b"a secret of the tests, number 2")
STRICT = TreezorPayload([KEY], accepts_unsigned=False)
LENIENT = TreezorPayload([KEY], accepts_unsigned=True)
FORMS = ("treezor-flat", "treezor-wrapped", "treezor-sns", "treezor-sns-wrapped")

PAYLOAD = {"userId": "7", "result": "SUCCESS", "issuingPlace": "KÖLN \U0001f600", "type": "A/B\\/"}
EVENT = {"webhook": "qes.finalized", "object": "identification", "object_id": "7"}
KYC = {"userId": 1, "kycLevel": 2, "kycReview": 2, "kycStatus": "VALIDATED"}
UNSIGNED = {"webhook": "kycreview.result", "object": "kyc", "object_id": "1", "object_payload": KYC}


def verify(body, scheme=STRICT):
    """Verify without any header: everything of Treezor's is in the body."""
    return scheme.verify(Headers([]), body, NOW)


def refusal(body, scheme=STRICT):
    with pytest.raises(Rejection) as caught:
        verify(body, scheme)
    return caught.value.reason


def signature(payload: bytes, secret: bytes = KEY.value) -> str:
    return base64.b64encode(hmac.new(secret, payload, hashlib.sha256).digest()).decode()


def compact(value) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def event(payload: bytes | None = None, signed: bytes | str | None = None, **fields) -> bytes:
    """Write a flat event around these payload bytes; `signed` is what the signature is over."""
    payload = compact(PAYLOAD) if payload is None else payload
    if signed is None:
        signed = php_json(payload)
    text = signed if isinstance(signed, str) else signature(signed)
    parts = [
        *[
            f"{json.dumps(name)}:{json.dumps(value)}".encode()
            for name, value in (EVENT | fields).items()
        ],
        b'"object_payload":' + payload,
        b'"object_payload_signature":' + json.dumps(text).encode(),
    ]
    return b"{" + b",".join(parts) + b"}"


def wrapped(flat: bytes, **beside) -> bytes:
    around = {"messageId": "m", "webhookId": "w", "webhook": msgspec.Raw(flat), "clientId": "c"}
    return msgspec.json.encode(around | beside)


def notified(inner: bytes, **beside) -> bytes:
    around = {
        "Type": "Notification",
        "MessageId": "m",
        "TopicArn": "arn",
        "Message": inner.decode(),
    }
    return msgspec.json.encode(around | beside)


IN_FORM = {
    "treezor-flat": lambda flat: flat,
    "treezor-wrapped": wrapped,
    "treezor-sns": notified,
    "treezor-sns-wrapped": lambda flat: notified(wrapped(flat)),
}
every_form = pytest.mark.parametrize("form", FORMS)
every_fixture = pytest.mark.parametrize(
    "fixture", fixtures("treezor"), ids=lambda fixture: fixture.case
)


def flat_of(body: bytes) -> bytes:
    """Give the event inside a body of whatever form, as its exact bytes."""
    found = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    if "Message" in found:
        return flat_of(msgspec.json.decode(found["Message"], type=str).encode())
    inner = bytes(found["webhook"])
    return inner if inner.startswith(b"{") else body


# Right signatures.


@every_form
@every_fixture
def test_every_delivery_verifies_in_every_form(fixture, form):
    """Each recorded event, signed, is accepted flat, wrapped and in a notification of either."""
    body = STRICT.sign(IN_FORM[form](flat_of(fixture.body)), NOW).body
    verified = verify(body)
    assert isinstance(verified, Verified)
    assert (verified.scheme, verified.key_id) == (form, "key-1")
    assert (verified.authenticity, verified.freshness) == ("signed", "none")
    flat = msgspec.json.decode(flat_of(body), type=dict[str, msgspec.Raw])
    assert verified.signed == bytes(flat["object_payload"])
    assert refusal(body, TreezorPayload([OTHER], accepts_unsigned=False)) is SIGNATURE_MISMATCH


@every_fixture
def test_signing_changes_nothing_but_the_signature(fixture):
    """A signed body holds every other field as it was, bytes and order; signing twice is once."""
    signed = STRICT.sign(fixture.body, NOW)
    assert signed.headers == {}
    assert STRICT.sign(signed.body, NOW) == signed
    before = msgspec.json.decode(flat_of(fixture.body), type=dict[str, msgspec.Raw])
    after = msgspec.json.decode(flat_of(signed.body), type=dict[str, msgspec.Raw])
    assert (
        bytes(after.pop("object_payload_signature"))
        == b'"%s"' % signature(php_json(bytes(before["object_payload"]))).encode()
    )
    before.pop("object_payload_signature", None)
    assert list(before) == list(after)
    assert all(bytes(before[name]) == bytes(after[name]) for name in before)


def test_signing_replaces_a_signature_in_its_place():
    """A signature that is already there is made anew where it stands."""
    body = b'{"object_payload_signature" : null, "object_payload" : { "a" : "/" }, "x": 1}'
    text = signature(rb'{"a":"\/"}')
    assert STRICT.sign(body, NOW).body == (
        b'{"object_payload_signature":"%s","object_payload":{ "a" : "/" },"x":1}' % text.encode()
    )


def test_the_first_key_signs_and_every_current_one_is_tried():
    """While secrets rotate, the newest signs and each verifies under its own id."""
    both = TreezorPayload([OTHER, KEY], accepts_unsigned=False)
    assert both.key_ids == ("key-2", "key-1")
    assert verify(both.sign(event(), NOW).body, both).key_id == "key-2"
    for signed in (compact(PAYLOAD), php_json(compact(PAYLOAD))):
        assert verify(event(signed=signed), both).key_id == "key-1"


RESPELLED = {
    "compact": lambda value: json.dumps(value, separators=(",", ":")),
    "compact and bare": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    "pythons": json.dumps,
    "indented": lambda value: json.dumps(value, indent=4),
    "indented and bare": lambda value: json.dumps(value, indent="\t", ensure_ascii=False),
    "upper-case escapes": lambda value: re.sub(
        r"\\u[0-9a-f]{4}", lambda found: "\\u" + found[0][2:].upper(), json.dumps(value)
    ),
}


@every_form
@pytest.mark.parametrize("spelling", RESPELLED)
def test_a_re_encoded_payload_verifies(spelling, form):
    """The canonical text alone is enough: what was signed is found whatever stands on the wire."""
    payload = RESPELLED[spelling](PAYLOAD).encode()
    canonical = php_json(payload)
    assert canonical == php_json(compact(PAYLOAD)) != payload
    verified = verify(IN_FORM[form](event(payload, canonical)))
    assert (verified.scheme, verified.signed) == (form, payload)


@every_form
@pytest.mark.parametrize("spelling", RESPELLED)
def test_a_payload_signed_as_sent_verifies(spelling, form):
    """The bytes received alone are enough, bare slashes, blanks and all."""
    payload = RESPELLED[spelling](PAYLOAD).encode()
    verified = verify(IN_FORM[form](event(payload, payload)))
    assert (verified.scheme, verified.signed) == (form, payload)


def test_only_these_two_texts_are_what_was_signed():
    """Another spelling of the same value, signed, is not accepted."""
    sent = compact(PAYLOAD)
    for spelling in RESPELLED.values():
        other = spelling(PAYLOAD).encode()
        if other != sent:
            assert refusal(event(sent, other)) is SIGNATURE_MISMATCH
    assert refusal(event(sent, event(sent))) is SIGNATURE_MISMATCH
    assert refusal(event(sent, b"")) is SIGNATURE_MISMATCH


def test_numbers_are_signed_as_spelled():
    """No number is read and written: another spelling of it is another payload."""
    for number in (b"1.0", b"-0", b"1e5", b"9" * 4000, b"0.1000"):
        assert verify(event(b'{ "a":%s }' % number, b'{"a":%s}' % number))
    assert refusal(event(b'{"a":1.0}', b'{"a":1}')) is SIGNATURE_MISMATCH


def test_the_order_of_names_is_signed():
    """Names are never sorted."""
    assert refusal(event(b'{"b":1,"a":2}', b'{"a":2,"b":1}')) is SIGNATURE_MISMATCH


def test_an_array_is_a_payload_too():
    """The page says "generally an array": one that is signed is proven."""
    assert verify(event(b"[]")).signed == b"[]"
    assert verify(event(b'[ {"a":"/"} ]')).signed == b'[ {"a":"/"} ]'


@pytest.mark.parametrize("payload", [b'"text"', b"1", b"null", b"true", b'""', b"-1.5"])
def test_a_payload_is_an_object_or_an_array(payload):
    """Anything else is refused even where the signature is right."""
    assert refusal(event(payload)) is BODY_MALFORMED


def test_a_signature_without_a_payload_proves_nothing():
    """Where object_payload is missing there is nothing to prove."""
    body = compact(EVENT | {"object_payload_signature": signature(b"")})
    assert refusal(body) is BODY_MALFORMED


# Wrong signatures.


@every_form
def test_a_missing_signature_is_refused(form):
    """An event without the field is not accepted."""
    body = compact(EVENT | {"object_payload": PAYLOAD})
    assert refusal(IN_FORM[form](body)) is SIGNATURE_MISSING


RIGHT = signature(php_json(compact(PAYLOAD)))
MALFORMED = {
    "null": None,
    "empty": "",
    "a number": 0,
    "true": True,
    "a list": [RIGHT],
    "an object": {"": RIGHT},
    "hex": base64.b64decode(RIGHT).hex(),
    "no padding": RIGHT.rstrip("="),
    "padding twice": RIGHT + "=",
    "a blank before": " " + RIGHT,
    "a newline after": RIGHT + "\n",
    "a nul after": RIGHT + "\0",
    "listed": f"{RIGHT},{RIGHT}",
    "43 characters": RIGHT[1:],
    "33 bytes": base64.b64encode(base64.b64decode(RIGHT) + b"\0").decode(),
    "31 bytes": base64.b64encode(base64.b64decode(RIGHT)[:31]).decode(),
    "junk": "!" + RIGHT[1:],
    "not ascii": "é" + RIGHT[1:],
    "full width": "\uff10" * 44,
    "the url alphabet": "-_" + RIGHT[2:],
}


@every_form
@pytest.mark.parametrize("wrong", MALFORMED)
@pytest.mark.parametrize("scheme", [STRICT, LENIENT], ids=["strict", "lenient"])
def test_a_malformed_signature_is_refused(scheme, wrong, form):
    """A field that is there must hold exactly 44 characters of base64; null is not absent."""
    flat = EVENT | {"object_payload": PAYLOAD, "object_payload_signature": MALFORMED[wrong]}
    assert refusal(IN_FORM[form](compact(flat)), scheme) is SIGNATURE_MALFORMED
    unsigned = UNSIGNED | {"object_payload_signature": MALFORMED[wrong]}
    assert refusal(IN_FORM[form](compact(unsigned)), scheme) is SIGNATURE_MALFORMED


def test_base64_may_be_spelled_as_php_does():
    """PHP escapes the slashes of base64 too."""
    payload = next(
        text for text in (b'{"n":%d}' % n for n in range(1000)) if "/" in signature(text)
    )
    body = event(payload)
    escaped = body.replace(
        signature(payload).encode(), signature(payload).replace("/", r"\/").encode()
    )
    assert escaped != body
    assert verify(escaped) == verify(body)


@every_form
def test_a_wrong_signature_is_refused(form):
    """Other secrets, the empty one, other algorithms and plain digests do not verify."""
    payload = php_json(compact(PAYLOAD))
    wrong = [
        signature(payload, OTHER.value),
        signature(payload, b""),
        signature(payload, KEY.value + b"\0x"),
        base64.b64encode(hashlib.sha256(payload).digest()).decode(),
        base64.b64encode(hashlib.sha256(KEY.value + payload).digest()).decode(),
        base64.b64encode(hashlib.sha256(payload + KEY.value).digest()).decode(),
        base64.b64encode(hmac.new(KEY.value, payload, "sha3_256").digest()).decode(),
        base64.b64encode(hmac.new(KEY.value, payload, "sha512").digest()[:32]).decode(),
        base64.b64encode(bytes(32)).decode(),
    ]
    for text in wrong:
        assert refusal(IN_FORM[form](event(signed=text))) is SIGNATURE_MISMATCH


@every_fixture
def test_no_byte_of_a_payload_can_be_changed(fixture):
    """A changed byte is refused, unless it spells the same payload in another way."""
    body = STRICT.sign(fixture.body, NOW).body
    canonical = php_json(verify(body).signed)
    for place in range(len(body)):
        other = bytearray(body)
        other[place] ^= 1 << (place % 8)
        try:
            verified = verify(bytes(other))
        except Rejection:
            continue
        assert php_json(verified.signed) == canonical


def test_signatures_are_compared_in_constant_time(monkeypatch):
    """Every current secret is compared by compare_digest, as bytes, under both texts."""
    compared = []

    def spy(left, right, compare=hmac.compare_digest):
        compared.append((left, right))
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    scheme = TreezorPayload([KEY, OTHER], accepts_unsigned=False)
    assert refusal(event(signed=b"another"), scheme) is SIGNATURE_MISMATCH
    assert len(compared) == 4
    assert all(type(side) is bytes and len(side) == 32 for pair in compared for side in pair)


# One form.

FORGED = compact(EVENT | {"object_payload": PAYLOAD | {"userId": "forged"}})
CAPTURED = event()


def both(one: bytes, another: bytes) -> bytes:
    """Write one object with the fields of both."""
    fields = msgspec.json.decode(one, type=dict[str, msgspec.Raw])
    return msgspec.json.encode(fields | msgspec.json.decode(another, type=dict[str, msgspec.Raw]))


FORGED_UNDER_ITS_SIGNATURE = compact(
    json.loads(FORGED) | {"object_payload_signature": signature(php_json(compact(PAYLOAD)))}
)
MIXTURES = {
    "captured above, forged within": both(CAPTURED, wrapped(FORGED)),
    "captured above, forged and signature within": both(
        CAPTURED, wrapped(FORGED_UNDER_ITS_SIGNATURE)
    ),
    "captured within, forged above": both(FORGED, wrapped(CAPTURED)),
    "captured within and above": both(CAPTURED, wrapped(CAPTURED)),
    "payload above, event within": wrapped(CAPTURED, object_payload=PAYLOAD),
    "signature above, event within": wrapped(FORGED, object_payload_signature=RIGHT),
    "null signature above": wrapped(CAPTURED, object_payload_signature=None),
    "name of the object above": wrapped(CAPTURED, object="user"),
    "id of the object above": wrapped(CAPTURED, object_id="9"),
    "webhook_id above": wrapped(CAPTURED, webhook_id="9"),
    "time above": wrapped(CAPTURED, webhook_created_at=1),
    "wrapped twice": wrapped(wrapped(CAPTURED)),
    "wrapped in an event": wrapped(both(CAPTURED, wrapped(FORGED))),
    "notification around captured, forged beside": both(notified(CAPTURED), FORGED),
    "notification around forged, captured beside": both(notified(FORGED), CAPTURED),
    "notification, wrapped forged beside": both(notified(CAPTURED), wrapped(FORGED)),
    "notification and a name": notified(CAPTURED, webhook="qes.finalized"),
    "notification and a null": notified(CAPTURED, object_payload_signature=None),
    "notification in a notification": notified(notified(CAPTURED)),
    "notification in wrapped": wrapped(notified(CAPTURED)),
    "notification mixed in wrapped": wrapped(both(notified(FORGED), CAPTURED)),
    "mixture in a notification": notified(both(CAPTURED, wrapped(FORGED))),
    "Type in the event": both(CAPTURED, b'{"Type":"Notification"}'),
    "Message in the event": both(CAPTURED, compact({"Message": FORGED.decode()})),
    "Type in the wrapped event": wrapped(both(CAPTURED, b'{"Type":"Notification"}')),
    "Type beside a wrapped event": wrapped(CAPTURED, Type="Notification"),
    "Message beside a wrapped event": wrapped(CAPTURED, Message=FORGED.decode()),
    "Type in the message's event": notified(both(CAPTURED, b'{"Type":"Notification"}')),
    "confirmation and an event": both(notified(b"", Type="SubscriptionConfirmation"), CAPTURED),
    "confirmation and wrapped": both(
        notified(b"", Type="SubscriptionConfirmation"), wrapped(CAPTURED)
    ),
    "confirmation in a notification": notified(notified(b"", Type="SubscriptionConfirmation")),
}


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("scheme", [STRICT, LENIENT], ids=["strict", "lenient"])
def test_a_mixture_of_forms_is_refused(scheme, mixture):
    """No body can be verified in one form and read in another, whatever is genuine in it."""
    assert refusal(MIXTURES[mixture], scheme) is BODY_MALFORMED


def test_a_mixture_cannot_hide_behind_escapes():
    """Names are compared as what they say, however they are spelled."""
    hidden = wrapped(CAPTURED, object_payload=PAYLOAD).replace(
        b'"object_payload":' + compact(PAYLOAD) + b"}", rb'"object\u005fpayload":{}}'
    )
    assert json.loads(hidden)["object_payload"] == {}
    assert refusal(hidden) is BODY_MALFORMED
    webhook = CAPTURED.replace(b'"webhook"', rb'"\u0077ebhook"')
    assert verify(webhook).scheme == "treezor-flat"
    assert refusal(both(FORGED, wrapped(CAPTURED)).replace(b'"webhook":{', rb'"\u0077ebhook":{'))


@pytest.mark.parametrize(
    "body",
    [
        notified(CAPTURED, Type="Other"),
        notified(CAPTURED, Type="notification"),
        notified(CAPTURED, Type=None),
        notified(CAPTURED, Type=["Notification"]),
        notified(CAPTURED, Message=json.loads(CAPTURED)),
        notified(CAPTURED, Message=None),
        notified(CAPTURED, Message=""),
        notified(CAPTURED, Message="text"),
        notified(CAPTURED, Message=f"[{CAPTURED.decode()}]"),
        notified(CAPTURED, Message=json.dumps(CAPTURED.decode())),
        notified(CAPTURED, Message=CAPTURED.decode() + " x"),
        notified(CAPTURED, Message="\ufeff" + CAPTURED.decode()),
        notified(CAPTURED).replace(b'"Message":"', rb'"Message":"\ud800'),
        notified(b"", Type="SubscriptionConfirmation", Message=None),
        notified(b"", Type="SubscriptionConfirmation", Message={}),
        b'{"Type":"SubscriptionConfirmation"}',
        b'{"Message":"x"}',
    ],
)
def test_a_notification_holds_one_event_as_text(body):
    """The Type is one of SNS's, and the Message is the text of exactly one JSON object."""
    assert refusal(body) is BODY_MALFORMED


def test_other_fields_decide_nothing():
    """Fields nobody reads may stand anywhere, and a notification may hold blanks."""
    assert verify(event(auth_key="x", accessTag="y", messageId="z")).scheme == "treezor-flat"
    assert verify(wrapped(CAPTURED, extra={"object_payload": 1})).scheme == "treezor-wrapped"
    assert verify(notified(b" " + CAPTURED + b"\n", Subject="s")).scheme == "treezor-sns"


# Strict reading.

UNREADABLE = {
    "nothing": b"",
    "blanks": b" \n",
    "half": CAPTURED[: len(CAPTURED) // 2],
    "without its end": CAPTURED[:-1],
    "an array": b"[" + CAPTURED + b"]",
    "a text": json.dumps(CAPTURED.decode()).encode(),
    "a number": b"1",
    "null": b"null",
    "two objects": CAPTURED + CAPTURED,
    "trailing garbage": CAPTURED + b"x",
    "a trailing comma": CAPTURED[:-1] + b",}",
    "a trailing nul": CAPTURED + b"\0",
    "a comment": CAPTURED[:-1] + b"//\n}",
    "a byte order mark": b"\xef\xbb\xbf" + CAPTURED,
    "utf-16": CAPTURED.decode().encode("utf-16"),
    "utf-16 without mark": CAPTURED.decode().encode("utf-16-le"),
    "utf-32": CAPTURED.decode().encode("utf-32"),
    "latin-1": event('{"a":"é"}'.encode()).replace("é".encode(), b"\xe9"),
    "an encoded surrogate": event(b'{"a":"?"}').replace(b"?", b"\xed\xa0\x80"),
    "an overlong slash": event(b'{"a":"?"}').replace(b"?", b"\xc0\xaf"),
    "half a pair": event(rb'{"a":"\ud83d"}', b"{}"),
    "the other half": event(rb'{"a":"\ude00"}', b"{}"),
    "half a pair in a name": event(rb'{"\ud83d":1}', b"{}"),
    "a raw control": event(b'{"a":"?"}').replace(b"?", b"\x01"),
    "a raw newline": event(b'{"a":"?"}').replace(b"?", b"\n"),
    "a wrong escape": event(b'{"a":"?"}').replace(b"?", rb"\x41"),
    "NaN": event(b'{"a":NaN}', b'{"a":NaN}'),
    "Infinity": event(b'{"a":Infinity}', b'{"a":Infinity}'),
    "-Infinity": event(b'{"a":[-Infinity]}', b'{"a":[-Infinity]}'),
    "an infinite number": event(b'{"a":1e999}', b'{"a":1e999}'),
    "an infinite negative": event(b'{"a":-1e999}', b'{"a":-1e999}'),
    "a leading zero": event(b'{"a":01}', b'{"a":01}'),
    "a plus": event(b'{"a":+1}', b'{"a":+1}'),
    "full-width digits": event('{"a":\uff11}'.encode(), b"{}"),
    "single quotes": b"{'webhook':'x'}",
    "no-break space": CAPTURED.replace(b",", b",\xc2\xa0", 1),
    "a huge integer": event(b'{"a":%s}' % (b"9" * 5000), b'{"a":%s}' % (b"9" * 5000)),
    "deep arrays": event(b'{"a":%s}' % (b"[" * 50_000 + b"]" * 50_000)),
    "deep objects": event(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "deep and open": b'{"a":' * 100_000,
}


@pytest.mark.parametrize("unreadable", UNREADABLE)
def test_what_readers_disagree_about_is_refused(unreadable):
    """Only one complete JSON object, strictly spelled in UTF-8, is looked at."""
    assert refusal(UNREADABLE[unreadable]) is BODY_MALFORMED
    try:
        text = UNREADABLE[unreadable].decode()
    except UnicodeDecodeError:
        return
    assert refusal(notified(CAPTURED, Message=text)) is BODY_MALFORMED


@pytest.mark.parametrize(
    ("unreadable", "said"),
    [
        ("half", "is not one complete JSON object"),
        ("an array", "is not one complete JSON object"),
        ("latin-1", "is not UTF-8"),
        ("NaN", "is not one complete JSON object"),
        ("an infinite number", "beyond what a float can hold"),
        ("deep objects", "nested too deep"),
    ],
)
def test_a_refusal_says_what_is_wrong_with_the_json(unreadable, said):
    """An operator learns which of the rules a body broke."""
    with pytest.raises(Rejection, match=said):
        verify(UNREADABLE[unreadable])


def test_the_limit_of_integers_is_no_other_than_that():
    """An integer of 4,300 digits is still read."""
    assert verify(event(b'{"a":%s}' % (b"9" * 4300)))


TWICE = {
    "payload at the top": CAPTURED[:-1] + b',"object_payload":{}}',
    "payload first": b'{"object_payload":{},' + CAPTURED[1:],
    "signature": CAPTURED[:-1] + b',"object_payload_signature":"%s"}' % RIGHT.encode(),
    "webhook": CAPTURED[:-1] + b',"webhook":{}}',
    "name": CAPTURED[:-1] + b',"webhook":"kycreview.result"}',
    "escaped": CAPTURED[:-1] + rb',"object_p\u0061yload":{}}',
    "escaped otherwise": CAPTURED[:-1] + rb',"a\/":1,"a/":1}',
    "escaped beyond the BMP": CAPTURED[:-1] + rb',"\ud83d\ude00":1,' + '"\U0001f600":1}'.encode(),
    "empty names": CAPTURED[:-1] + b',"":1,"":1}',
    "inside the payload": event(b'{"kycReview":2,"kycReview":3}'),
    "inside the payload, escaped": event(rb'{"kycReview":2,"kyc\u0052eview":3}'),
    "deep in the payload": event(b'{"users":[[{"a":{"kycReview":2,"x":0,"kycReview":2}}]]}'),
    "of equal values": event(b'{"a":1,"a":1}'),
    "in the envelope of no interest": CAPTURED[:-1] + b',"x":[{"y":{"a":1,"a":1}}]}',
}


@every_form
@pytest.mark.parametrize("twice", TWICE)
def test_a_name_that_stands_twice_is_refused(twice, form):
    """At any depth and however escaped: of two values, two readers take different ones.

    Where the second value is the one that counts here, its signature is already wrong.
    """
    told = {BODY_MALFORMED, SIGNATURE_MISMATCH}
    assert refusal(IN_FORM[form](TWICE[twice])) in told


@every_form
def test_a_name_that_stands_twice_is_refused_though_the_signature_is_right(form):
    """The strict reading is not spared because everything else agrees."""
    doubled = [
        b'{"object_payload":{},' + CAPTURED[1:],
        CAPTURED[:-1] + b',"object_payload_signature":"%s"}' % RIGHT.encode(),
        CAPTURED[:-1] + b',"x":[{"y":{"a":1,"a":1}}]}',
        CAPTURED[:-1] + b',"x":{"a":1,"\\u0061":1}}',
    ]
    for body in doubled:
        assert refusal(IN_FORM[form](body)) is BODY_MALFORMED


def test_no_depth_is_anything_but_a_refusal():
    """Two parsers give up at two depths: between them lies no other exception."""
    for depth in range(900, 1101, 3):
        nested = b'{"a":' * depth + b"1" + b"}" * depth
        digest = hmac.digest(KEY.value, nested, "sha256")
        signature = base64.b64encode(digest)
        body = b'{"webhook":"qes.created","object_payload":%b,"object_payload_signature":"%b"}'
        answer = outcome(body % (nested, signature))
        assert isinstance(answer, Verified) or answer is BODY_MALFORMED


def test_the_strict_reading_comes_last(monkeypatch):
    """Whoever has no signature does not make us read everything twice."""
    read = []
    monkeypatch.setattr(treezor, "undisputed", lambda text, _where: read.append(text))
    assert refusal(event(b"{}", signed="A" * 43 + "=")) is SIGNATURE_MISMATCH
    assert read == []
    assert verify(CAPTURED)
    assert read == [CAPTURED]


@pytest.mark.parametrize("payload", [b'{"a":"\\q"}', b'{"a":"\\u12g4"}', b'{"a":"\\ud800"}'])
def test_a_payload_with_a_broken_escape_is_refused(payload):
    """Signed as it stands or not, it is a Rejection and no other exception."""
    digest = hmac.digest(KEY.value, payload, "sha256")
    for signature in (base64.b64encode(digest).decode(), "A" * 43 + "="):
        body = b'{"webhook":"qes.created","object_payload":%b,"object_payload_signature":"%b"}'
        assert refusal(body % (payload, signature.encode())) in {BODY_MALFORMED, SIGNATURE_MISMATCH}


@pytest.mark.parametrize("name", ["webhook", "Type", "Message"])
def test_a_name_that_stands_twice_around_the_event_is_refused(name):
    """The enclosing object is read as strictly."""
    for body in (wrapped(CAPTURED), notified(CAPTURED)):
        for value in (b'"Notification"', CAPTURED):
            doubled = body[:-1] + b',"%s":%s,"%s":1}' % (name.encode(), value, name.encode())
            assert refusal(doubled) in {BODY_MALFORMED, SIGNATURE_MISSING}


def test_a_refusal_says_nothing_of_the_body():
    """The text of a refusal may be logged: it holds nothing of the body, nor do its causes."""
    tell = b'"tell-tale"'
    bodies = [
        *UNREADABLE.values(),
        *MIXTURES.values(),
        *TWICE.values(),
        event(tell),
        event(b"{%s:%s}" % (tell, tell), signed="tell-tale"),
        event(b"{%s:%s}" % (tell, tell), signed=b"x"),
        event(b"{%s:1,%s:2}" % (tell, tell)),
        event(b"{%s:1x}" % tell),
    ]
    for body in bodies:
        with pytest.raises(Rejection) as caught:
            verify(body)
        assert not re.search("tell-tale|KÖLN|qes|forged", str(caught.value))
        assert "secret of" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_members_are_the_exact_bytes():
    """The strict reader cuts, and changes nothing."""
    found = members(rb' { "a" : [1.0, "\/" ] , "b\u0062" : "\u0041" } ', "the body")
    assert {name: bytes(raw) for name, raw in found.items()} == {
        "a": rb'[1.0, "\/" ]',
        "bb": rb'"\u0041"',
    }
    assert list(found) == ["a", "bb"]


# Unsigned events.


@every_form
@pytest.mark.parametrize("name", ["kycreview.request", "kycreview.result"])
def test_the_two_unsigned_events_are_accepted_where_the_endpoint_says_so(name, form):
    """They are marked unsigned; elsewhere they are refused as everything unsigned is."""
    body = IN_FORM[form](compact(UNSIGNED | {"webhook": name}))
    verified = verify(body, LENIENT)
    assert (verified.authenticity, verified.key_id) == ("unsigned", "unsigned")
    assert (verified.scheme, verified.signed) == (form, compact(KYC))
    assert refusal(body) is SIGNATURE_MISSING
    assert LENIENT.sign(body, NOW).body == body


@every_form
def test_a_signed_kycreview_is_verified_as_usual(form):
    """Where there is a signature it counts, right or wrong."""
    flat = compact(UNSIGNED)
    body = STRICT.sign(IN_FORM[form](flat), NOW).body
    for scheme in (STRICT, LENIENT):
        verified = verify(body, scheme)
        assert (verified.authenticity, verified.key_id) == ("signed", "key-1")
        assert LENIENT.sign(body, NOW).body == body
    other = TreezorPayload([OTHER], accepts_unsigned=True)
    assert refusal(body, other) is SIGNATURE_MISMATCH
    assert verify(other.sign(body, NOW).body, other).authenticity == "signed"


USER = {"users": [{"userId": "1", "kycLevel": "2", "kycReview": "2"}]}
IN_DISGUISE = {
    "another name": {"webhook": "user.kycreview"},
    "another name of its kind": {"webhook": "kycreview.other"},
    "another case": {"webhook": "kycreview.Result"},
    "a blank": {"webhook": "kycreview.result "},
    "no text": {"webhook": ["kycreview.result"]},
    "no name": {"webhook": None},
    "another object": {"object": "user"},
    "no object": {"object": None},
    "the users shape": {"object_payload": USER},
    "the users shape beside": {"object_payload": KYC | USER},
    "empty users beside": {"object_payload": KYC | {"users": []}},
    "null users beside": {"object_payload": KYC | {"users": None}},
    "the documents shape": {"object_payload": KYC | {"documents": [{}]}},
    "the liveness shape": {"object_payload": KYC | {"kyc-status": "processed", "score": 1}},
    "the identification shape": {"object_payload": KYC | {"result": "SUCCESS"}},
    "its transaction": {"object_payload": KYC | {"transactionNumber": "x"}},
    "nothing of the shape": {"object_payload": {}},
    "half of the shape": {"object_payload": {"userId": 1, "kycLevel": 2}},
    "a list": {"object_payload": [KYC]},
    "a text": {"object_payload": json.dumps(KYC)},
    "null": {"object_payload": None},
}


@every_form
@pytest.mark.parametrize("disguise", IN_DISGUISE)
def test_no_other_event_may_come_unsigned(disguise, form):
    """Under a name that needs no signature nothing passes that is of a signed type, or reads so."""
    flat = compact(UNSIGNED | IN_DISGUISE[disguise])
    assert refusal(IN_FORM[form](flat), LENIENT) is SIGNATURE_MISSING


@pytest.mark.parametrize("missing", UNSIGNED)
def test_an_unsigned_event_is_complete(missing):
    """Name, object and payload are there; only object_id may be missing."""
    flat = {name: value for name, value in UNSIGNED.items() if name != missing}
    if missing == "object_id":
        assert verify(compact(flat), LENIENT)
    else:
        assert refusal(compact(flat), LENIENT) is SIGNATURE_MISSING


def test_an_endpoint_for_unsigned_events_needs_a_path_token():
    """Only then; and its key ids are known before anything is verified."""
    assert not STRICT.path_token_because
    assert LENIENT.path_token_because
    assert STRICT.key_ids == ("key-1",)
    assert LENIENT.key_ids == ("key-1", "unsigned")
    assert STRICT.names == LENIENT.names == FORMS
    assert PROVIDERS["treezor"].scheme([KEY]).key_ids == ("key-1",)
    assert PROVIDERS["treezor"].scheme([KEY], {"unsigned": "accept"}).key_ids[-1] == "unsigned"


def test_no_key_is_called_unsigned_there():
    """A key of that id would make a signed event look unsigned in every metric."""
    key = Key(id="unsigned", value=KEY.value)
    with pytest.raises(ValueError, match="unsigned"):
        TreezorPayload([key], accepts_unsigned=True)
    assert TreezorPayload([key], accepts_unsigned=False).key_ids == ("unsigned",)


# Confirmations.

AMAZONS = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=a&Token=b"


def confirmation(url=AMAZONS, kind="SubscriptionConfirmation", **more) -> bytes:
    return notified(b"You have chosen to subscribe", Type=kind, Token="b", SubscribeURL=url, **more)


@pytest.mark.parametrize("kind", ["SubscriptionConfirmation", "UnsubscribeConfirmation"])
def test_a_confirmation_is_acknowledged_and_named_for_a_person(kind):
    """It is no event: it is answered 200, not stored, and the log says where to confirm it."""
    for scheme in (STRICT, LENIENT):
        answer = verify(confirmation(kind=kind), scheme)
        assert isinstance(answer, Acknowledged)
        assert answer.reason == "subscription_confirmation"
        assert AMAZONS in answer.detail
        assert "You have" not in answer.detail
        assert scheme.sign(confirmation(kind=kind), NOW).body == confirmation(kind=kind)


@pytest.mark.parametrize(
    "url",
    [
        "https://sns.eu-west-1.amazonaws.com",
        "https://sns.eu-west-1.amazonaws.com:443/x",
        "https://sns.us-gov-west-1.amazonaws.com/?a=b#c",
    ],
)
def test_an_address_of_amazons_is_shown(url):
    """Any region of SNS over https."""
    assert url in verify(confirmation(url)).detail


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        7,
        [AMAZONS],
        "http://sns.eu-west-1.amazonaws.com/",
        "ftp://sns.eu-west-1.amazonaws.com/",
        "//sns.eu-west-1.amazonaws.com/",
        "https:sns.eu-west-1.amazonaws.com/",
        "https:///sns.eu-west-1.amazonaws.com/",
        "https://sns.amazonaws.com/",
        "https://sns..amazonaws.com/",
        "https://sns.s3.amazonaws.com/",
        "https://sns.-.amazonaws.com/",
        "https://sns.xn--e1a.amazonaws.com/",
        "https://sns.a.b.amazonaws.com/",
        "https://sns.eu-west-1.amazonaws.com.evil.example/",
        "https://evil.example/sns.eu-west-1.amazonaws.com/",
        "https://evil.example?https://sns.eu-west-1.amazonaws.com/",
        "https://evil.example#sns.eu-west-1.amazonaws.com",
        "https://evilsns.eu-west-1.amazonaws.com/",
        "https://s3.eu-west-1.amazonaws.com/",
        "https://sns.eu-west-1.amazonaws.community/",
        "https://sns.eu-west-1xamazonaws.com/",
        "https://sns.eu-west-1.amazonaws.com@evil.example/",
        "https://user@sns.eu-west-1.amazonaws.com/",
        "https://user:word@sns.eu-west-1.amazonaws.com/",
        "https://sns.eu-west-1.amazonaws.com:8443/",
        "https://sns.eu-west-1.amazonaws.com:/",
        "https://sns.eu-west-1.amazonaws.com\\@evil.example/",
        "https://sns.eu_west_1.amazonaws.com/",
        "https://sns.EU-WEST-1.amazonaws.com/",
        "https://sns.eu-west-1.amazonaws.com./",
        "https://sns.eu-wést-1.amazonaws.com/",
        "https://sns.\uff45u-west-1.amazonaws.com/",
        "https://sns.eu-west-1.amazonaws\u3002com/",
        "https://[::1]/",
        "https://[sns.eu-west-1.amazonaws.com/",
        "https://sns.eu-west-1.amazonaws.com/\nforged log line",
        "https://sns.eu-west-1.\namazonaws.com/",
        " https://sns.eu-west-1.amazonaws.com/",
        "https://sns.eu-west-1.amazonaws.com/ x",
        "https://sns.eu-west-1.amazonaws.com/\x1b[2J",
        "https://sns.eu-west-1.amazonaws.com/é",
        "https://sns.eu-west-1.amazonaws.com/" + "x" * 2000,
        "javascript:alert(1)//sns.eu-west-1.amazonaws.com",
    ],
)
def test_any_other_address_is_not_shown(url):
    """A confirmation carries no signature, so its address may be anybody's: a person is not led there."""
    for answer in (verify(confirmation(url)), verify(confirmation(url, "UnsubscribeConfirmation"))):
        assert isinstance(answer, Acknowledged)
        assert "is not shown" in answer.detail
        assert not re.search(r"evil|://|\n|forged|\x1b", answer.detail)


def test_a_confirmation_without_an_address_is_acknowledged_too():
    """It is answered 200 all the same."""
    body = b'{"Type":"SubscriptionConfirmation","Message":""}'
    assert "is not shown" in verify(body).detail


# Whatever comes.


def outcome(body, scheme=STRICT):
    """Verify and give the outcome; only what the scheme promises may come out of it."""
    try:
        found = verify(body, scheme)
    except Rejection as rejection:
        return rejection.reason
    assert isinstance(found, Verified | Acknowledged)
    return found


@given(body=st.binary(max_size=300))
def test_random_bytes_are_answered(body):
    """Nothing but the three answers comes out, whatever the bytes."""
    assert outcome(body) is BODY_MALFORMED or not body.strip().startswith(b"[")
    assert not isinstance(outcome(body, LENIENT), Verified)


ours = st.sampled_from(
    [*EVENT, "object_payload", "object_payload_signature", "Type", "Message", "messageId", "userId"]
)
said = st.one_of(
    st.sampled_from(["Notification", "SubscriptionConfirmation", "kycreview.result", "kyc", RIGHT]),
    st.sampled_from([CAPTURED.decode(), wrapped(CAPTURED).decode(), notified(CAPTURED).decode()]),
    st.sampled_from([PAYLOAD, KYC, json.loads(CAPTURED), json.loads(wrapped(CAPTURED))]),
    values,
)
objects = st.recursive(
    st.dictionaries(ours, said, max_size=6),
    lambda inner: st.dictionaries(ours, st.one_of(said, inner), max_size=6),
    max_leaves=4,
)


@given(found=objects, chance=st.randoms(use_true_random=False))
def test_random_objects_are_answered_and_prove_only_what_was_signed(found, chance):
    """However our names and genuine parts are put together, only the signed payload is proven."""
    body = spelled(found, chance).encode()
    for scheme in (STRICT, LENIENT):
        answer = outcome(body, scheme)
        if isinstance(answer, Verified) and answer.authenticity == "signed":
            assert php_json(answer.signed) == php_json(compact(PAYLOAD))
        elif isinstance(answer, Verified):
            assert scheme is LENIENT
            assert set(KYC) - {"kycStatus"} <= set(json.loads(answer.signed))


@given(found=objects)
def test_whatever_is_sent_can_be_signed(found):
    """Signing never fails: what Treezor would not sign goes out as it is."""
    body = compact(found)
    signed = STRICT.sign(body, NOW).body
    assert signed == body or isinstance(outcome(signed), Verified)


def changed(value, chance: random.Random):
    """Change one thing somewhere in a JSON value."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        name = chance.choice(list(value))
        what = chance.randrange(5)
        if what == 0:
            return {key: one for key, one in value.items() if key != name}
        if what == 1:
            return {name: value[name]} | value
        if what == 2:
            return value | {chance.choice([*value, "webhook", "users", "new"]): value[name]}
        return value | {name: changed(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], changed(value[place], chance), *value[place + 1 :]]
    return chance.choice(
        [None, "", 0, 1, "1", 1.0, [], {}, [value], {"a": value}, True, str(value)]
    )


FLAT = [flat_of(found.body) for found in fixtures("treezor")]


@every_form
@given(
    number=st.integers(0, len(FLAT) - 1),
    within=st.integers(0, 2),
    around=st.integers(0, 2),
    seed=st.integers(0, 2**32),
)
def test_a_mutated_delivery_is_refused_or_says_the_same(form, number, within, around, seed):
    """Any change of a signed delivery is refused, or leaves the payload the canonical same."""
    chance = random.Random(seed)
    signed = STRICT.sign(FLAT[number], NOW).body
    mutated = json.loads(signed)
    for _ in range(within):
        mutated = changed(mutated, chance)
    mutated = json.loads(IN_FORM[form](spelled(mutated, chance).encode()))
    for _ in range(around):
        mutated = changed(mutated, chance)
    answer = outcome(spelled(mutated, chance).encode())
    if isinstance(answer, Verified):
        assert php_json(answer.signed) == php_json(verify(signed).signed)
    if within == around == 0:
        assert isinstance(answer, Verified)


@given(
    place=st.integers(0, 10_000),
    length=st.integers(0, 3),
    piece=st.one_of(
        st.binary(max_size=3),
        st.sampled_from([b'"', b"\\", b"\\u0000", b"{", b"}", b",", b":", b'"webhook":{},', b" "]),
    ),
)
@every_form
def test_spliced_bytes_are_refused_or_say_the_same(form, place, length, piece):
    """Bytes cut out and put in anywhere never prove another payload."""
    body = IN_FORM[form](CAPTURED)
    place %= len(body)
    answer = outcome(body[:place] + piece + body[place + length :])
    if isinstance(answer, Verified):
        assert php_json(answer.signed) == php_json(compact(PAYLOAD))


def test_large_bodies_are_read_off_the_event_loop():
    """Over 4 KiB a body is heavy, which leaves the usual ones where they cost least."""
    assert HEAVY_BYTES == 4 * 1024
    assert not STRICT.is_heavy(bytes(4 * 1024))
    assert STRICT.is_heavy(bytes(4 * 1024 + 1))


def test_the_largest_body_verifies():
    """A body of the limit, in the least plain spelling, is one of many that verify."""
    limit = PROVIDERS["treezor"].body_limit
    payload = b'{"a":[%s]}' % b",".join([b'"/"'] * 50_000)
    body = event(payload, extra="x" * (limit - len(event(payload, extra=""))))
    assert len(body) == limit
    assert verify(body).signed == payload


def test_every_refusal_after_routing_is_500():
    """Treezor sends again on 500 only."""
    assert PROVIDERS["treezor"].refusal_status == 500
    for reason in (BODY_MALFORMED, SIGNATURE_MALFORMED, SIGNATURE_MISMATCH, SIGNATURE_MISSING):
        assert reason.provider_decides
