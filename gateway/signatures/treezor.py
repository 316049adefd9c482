"""Treezor: HMAC-SHA256, inside the body, over the JSON text PHP would have written.

Only `object_payload` is signed (docs.treezor.com/guide/webhooks/integrity-checks.html): the event
name and the ids beside it are the sender's word. So which object of the body is the event is
decided once, and a body that another reader could take for another form is refused; otherwise a
captured payload at the top would vouch for a forged one further in.
"""

import base64
import hmac
import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from gateway.canonical_json import php_json
from gateway.headers import Headers
from gateway.rejections import (
    BODY_MALFORMED,
    SIGNATURE_MALFORMED,
    SIGNATURE_MISMATCH,
    SIGNATURE_MISSING,
    Rejection,
)
from gateway.signatures import Acknowledged, Key, Scheme, Signed, Verified
from gateway.signatures.hmac_sha256 import decoded, signer
from gateway.signatures.unproven import members, members_within, undisputed

Members = Mapping[str, msgspec.Raw]

PAYLOAD = "object_payload"
SIGNATURE = "object_payload_signature"
UNSIGNED = "unsigned"
HEAVY_BYTES = 4 * 1024
"""A hostile body takes a millisecond per 4 KiB before its signature is known to be wrong."""

_OF_AN_EVENT = frozenset({PAYLOAD, SIGNATURE, "object", "object_id"})
_OF_AN_EVENT |= {"webhook", "webhook_id", "webhook_created_at"}
_OF_SNS = frozenset({"Type", "Message"})
_BODY = "the body"
_MESSAGE = "the Message of the notification"
_CONFIRMATIONS = {
    "SubscriptionConfirmation": "a subscription waits for a person to confirm it",
    "UnsubscribeConfirmation": "the subscription was ended; a person can renew it",
}
# docs.aws.amazon.com/sns/latest/dg/http-subscription-confirmation-json.html
_SNS_HOST = re.compile(
    r"sns\.[a-z]{2}(-[a-z]{1,9}){1,3}-[0-9]{1,2}\.amazonaws\.com(:443)?", re.ASCII
)
_FIT_FOR_A_LOG = re.compile(r"[!-~]{1,1024}", re.ASCII)

# Published without signature, though Treezor's pages say that every payload is signed.
_MAY_COME_UNSIGNED = frozenset({"kycreview.request", "kycreview.result"})
_OF_KYC = frozenset({"userId", "kycLevel", "kycReview"})
_OF_OTHER_SHAPES = frozenset(
    {"users", "documents", "user_id", "kyc-status", "score", "result", "identId"}
    | {"identificationTime", "transactionNumber", "identity"}
)


class TreezorPayload(Scheme):
    """HMAC-SHA256 over object_payload, in base64 in the field beside it.

    The payload is accepted as received or in PHP's spelling: the page signs the latter, and some
    of its samples show another on the wire. The event stands at the top of the body (flat), in
    its `webhook` (wrapped), or as text in the `Message` of an Amazon SNS notification around
    either; the scheme's name records which, and whoever reads the body later obeys it.
    """

    names = ("treezor-flat", "treezor-wrapped", "treezor-sns", "treezor-sns-wrapped")

    def __init__(self, keys: Sequence[Key], *, accepts_unsigned: bool) -> None:
        self._keys = tuple(keys)
        self._accepts_unsigned = accepts_unsigned
        self.key_ids = tuple(key.id for key in keys)
        if accepts_unsigned:
            if UNSIGNED in self.key_ids:
                raise ValueError("the key id unsigned stands for no key; give the key another")
            self.key_ids += (UNSIGNED,)
            self.path_token_because = (
                "it accepts unsigned events and only its address keeps strangers out"  # noqa: S105 - a reason
            )

    def verify(self, headers: Headers, body: bytes, now: float) -> Verified | Acknowledged:  # noqa: ARG002 - all is in the body, no time is signed
        """Accept the event if a current secret signed its payload, or if it may come unsigned.

        The strict reading of everything comes last: a stranger's body must not cost it.
        """
        found = _read(body)
        if isinstance(found, Acknowledged):
            return found  # nothing of it is stored
        proven = self._proven(found)
        undisputed(body, _BODY)
        if found.message is not None:
            undisputed(found.message, _MESSAGE)
        return proven

    def _proven(self, found: "_Found") -> Verified:
        event = found.event
        if SIGNATURE not in event:
            if self._accepts_unsigned and _may_come_unsigned(event):
                return Verified(
                    scheme=found.form,
                    key_id=UNSIGNED,
                    signed=bytes(event[PAYLOAD]),
                    authenticity="unsigned",
                )
            raise Rejection(SIGNATURE_MISSING, f"the event has no {SIGNATURE}")
        text = _text(event[SIGNATURE])
        if text is None:
            raise Rejection(SIGNATURE_MALFORMED, f"{SIGNATURE} is not a text")
        signature = decoded(text, ("base64",), SIGNATURE)
        payload = _payload(event)
        key = signer(self._keys, payload, signature)
        if key is None:
            key = signer(self._keys, php_json(payload), signature)
        if key is None:
            raise Rejection(SIGNATURE_MISMATCH, "no current secret gives this signature")
        return Verified(scheme=found.form, key_id=key.id, signed=payload)

    def sign(self, body: bytes, now: float) -> Signed:  # noqa: ARG002 - no time is signed
        """Sign PHP's spelling of the payload with the first secret, wherever the event stands.

        The other fields keep their bytes and their order. What Treezor would not sign is sent as
        it is: a confirmation, a body without an event, and where they may come so unsigned events.
        """
        try:
            found = _read(body)
            if isinstance(found, Acknowledged):
                return Signed(headers={}, body=body)
            payload = _payload(found.event)
        except Rejection:
            return Signed(headers={}, body=body)
        unsigned = SIGNATURE not in found.event and _may_come_unsigned(found.event)
        if self._accepts_unsigned and unsigned:
            return Signed(headers={}, body=body)
        digest = hmac.digest(self._keys[0].value, php_json(payload), "sha256")
        return Signed(headers={}, body=found.with_signature(base64.b64encode(digest).decode()))

    def is_heavy(self, body: bytes) -> bool:
        """Tell whether reading this body twice would hold up the event loop."""
        return len(body) > HEAVY_BYTES


class _Found(msgspec.Struct, frozen=True):
    """An event, and what it came in: `around` where wrapped, `notification` where sent by SNS.

    `message` is the text inside the notification.
    """

    event: Members
    around: Members | None
    notification: Members | None
    message: bytes | None

    @property
    def form(self) -> str:
        sns = 0 if self.notification is None else 2
        return TreezorPayload.names[sns + (self.around is not None)]

    def with_signature(self, signature: str) -> bytes:
        """Write the body anew with this signature in the event."""
        body = _written(self.event, SIGNATURE, signature)
        if self.around is not None:
            body = _written(self.around, "webhook", msgspec.Raw(body))
        if self.notification is not None:
            body = _written(self.notification, "Message", body.decode())
        return body


def _read(body: bytes) -> _Found | Acknowledged:
    """Find the event, or the confirmation; Rejection(body_malformed) for every mixture of forms."""
    top = members(body, _BODY)
    if _OF_SNS.isdisjoint(top):
        return _event(top, None, None)
    if not top.keys() >= _OF_SNS or not _OF_AN_EVENT.isdisjoint(top):
        raise Rejection(BODY_MALFORMED, "the body mixes a notification of SNS with another form")
    kind, message = _text(top["Type"]), _text(top["Message"])
    if kind is None or message is None:
        raise Rejection(BODY_MALFORMED, "Type or Message of the notification is not a text")
    if kind in _CONFIRMATIONS:
        detail = f"{_CONFIRMATIONS[kind]}; {_where_to_confirm(top)}"
        return Acknowledged("subscription_confirmation", detail)
    if kind != "Notification":
        raise Rejection(BODY_MALFORMED, "the Type of the notification is none of SNS's")
    text = message.encode()
    inner = members(text, _MESSAGE)
    if not _OF_SNS.isdisjoint(inner):
        raise Rejection(BODY_MALFORMED, "the notification holds fields of another notification")
    return _event(inner, top, text)


def _event(found: Members, notification: Members | None, message: bytes | None) -> _Found:
    """Tell flat from wrapped.

    What else stands beside a wrapped event (messageId, webhookId, clientId) is read by nobody
    and decides nothing.
    """
    if not _is_object(found.get("webhook")):
        return _Found(found, None, notification, message)
    if not _OF_AN_EVENT.isdisjoint(found.keys() - {"webhook"}):
        raise Rejection(BODY_MALFORMED, "an event stands both in webhook and beside it")
    event = members_within(found["webhook"])
    if _is_object(event.get("webhook")) or not _OF_SNS.isdisjoint(event):
        raise Rejection(BODY_MALFORMED, "webhook holds yet another form")
    return _Found(event, found, notification, message)


def _payload(event: Members) -> bytes:
    """Give object_payload as received.

    An array is taken too: "generally an array", says the page, and PHP writes `[]` for what is
    empty. No event is read from one, so it becomes a dead letter instead of being lost.
    """
    payload = bytes(event.get(PAYLOAD, b""))
    if payload[:1] not in {b"{", b"["}:
        raise Rejection(BODY_MALFORMED, f"{PAYLOAD} is missing, or neither an object nor an array")
    return payload


def _may_come_unsigned(event: Members) -> bool:
    """Tell whether this is one of the two events Treezor shows without signature, shape and all.

    The payload must have the fields of that shape and none by which another is known: under a
    name that needs no signature, nothing passes that would be read as a signed event.
    """
    name, kind, payload = event.get("webhook"), event.get("object"), event.get(PAYLOAD)
    if _text(name) not in _MAY_COME_UNSIGNED or _text(kind) != "kyc":
        return False
    if payload is None or not _is_object(payload):
        return False
    fields = members_within(payload).keys()
    return fields >= _OF_KYC and _OF_OTHER_SHAPES.isdisjoint(fields)


def _where_to_confirm(confirmation: Members) -> str:
    """Name the SubscribeURL only where it is Amazon's, for a person to open; nothing follows it."""
    url = _text(confirmation.get("SubscribeURL")) or ""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that are no IPv6 address
        parts = urlsplit("")
    amazons = parts.scheme == "https" and _SNS_HOST.fullmatch(parts.netloc)
    if amazons and _FIT_FOR_A_LOG.fullmatch(url):
        return f"its address is {url}"
    return "its SubscribeURL is not shown, as it is no https address of sns.<region>.amazonaws.com"


def _is_object(value: msgspec.Raw | None) -> bool:
    return value is not None and memoryview(value)[0] == ord("{")


def _text(value: msgspec.Raw | None) -> str | None:
    """Give a JSON string's text; None for anything else."""
    if value is None or memoryview(value)[0] != ord('"'):
        return None
    return msgspec.json.decode(value, type=str)


def _written(fields: Members, name: str, value: str | msgspec.Raw) -> bytes:
    """Write an object with one field set anew, in its place or at the end."""
    return msgspec.json.encode({**fields, name: value})
