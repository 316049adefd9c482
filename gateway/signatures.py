"""The schemes by which providers prove a delivery: verify(), and sign() beside it.

A scheme holds every current secret and tries them all. Everything malformed leaves as a
Rejection with its own reason; a bare True or False would lose it.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from gateway.headers import Headers
from gateway.rejections import (
    SIGNATURE_MALFORMED,
    SIGNATURE_MISMATCH,
    SIGNATURE_MISSING,
    UNKNOWN_CLIENT,
    Rejection,
)

Encoding = Literal["hex", "base64"]

_SHA256_BYTES = 32
_SHA256_HEX = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_SHA256_BASE64 = re.compile(r"[A-Za-z0-9+/]{43}=", re.ASCII)


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """One current secret; `id` names it in metrics and headers and is never made from it.

    `client` is the sender's public key or token where one secret belongs to one sender
    (Veriff's X-AUTH-CLIENT).
    """

    id: str
    value: bytes
    client: str | None = None


class Verified(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a scheme proved. `signed` are the JSON bytes the signature covers."""

    scheme: str
    key_id: str
    signed: bytes
    authenticity: Literal["signed", "token", "unsigned"] = "signed"
    freshness: Literal["fresh", "stale", "none"] = "none"


class Acknowledged(msgspec.Struct, frozen=True):
    """A request that is answered 200 and not stored, because it is no event; never a dropped one.

    The one case: a subscription confirmation, which carries no signature and is for a person.
    """

    reason: str


class Signed(msgspec.Struct, frozen=True):
    """What to send so that `verify` accepts it: headers to add, and the body to send."""

    headers: dict[str, str]
    body: bytes


class Scheme(Protocol):
    """How one endpoint's deliveries are proven."""

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Every id that `Verified.key_id` can have."""
        ...

    def verify(self, headers: Headers, body: bytes, now: float) -> Verified | Acknowledged:
        """Say what is proven, or raise Rejection. `now` is in seconds since the Unix epoch."""
        ...

    def sign(self, body: bytes, now: float) -> Signed:
        """Sign a body as the provider would, with the first secret."""
        ...

    def is_heavy(self, body: bytes) -> bool:
        """Tell whether verifying this body would hold up the event loop."""
        ...


class BodyHmac:
    """HMAC-SHA256 over the raw body, in a header.

    Veriff: hex of either case in X-HMAC-SIGNATURE; X-AUTH-CLIENT names the integration
    (devdocs.veriff.com/v1/docs/hmac-authentication-and-endpoint-security). pawaPass: X-Signature,
    whose encoding is not documented, so hex and base64 are both accepted
    (docs.pawapass.com/webhooks). The legacy plain SHA-256 of Veriff is not accepted: it is no MAC.
    """

    def __init__(
        self,
        secrets: Sequence[Secret],
        *,
        name: str,
        header: str,
        encodings: Sequence[Encoding] = ("hex",),
        client_header: str | None = None,
    ) -> None:
        self._secrets = tuple(secrets)
        self._name = name
        self._header = header
        self._encodings = tuple(encodings)
        by_client = any(secret.client is not None for secret in secrets)
        self._client_header = client_header if by_client else None

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the secrets."""
        return tuple(secret.id for secret in self._secrets)

    def verify(self, headers: Headers, body: bytes, now: float) -> Verified:  # noqa: ARG002 - no time is signed
        """Accept the body if one of the candidate secrets signed exactly these bytes."""
        text = headers.proof(self._header)
        if not text:
            raise Rejection(SIGNATURE_MISSING, f"there is no {self._header} header")
        signature = self._decoded(text)
        for secret in self._candidates(headers):
            expected = hmac.digest(secret.value, body, "sha256")
            if hmac.compare_digest(expected, signature):
                return Verified(scheme=self._name, key_id=secret.id, signed=body)
        raise Rejection(SIGNATURE_MISMATCH, "no current secret gives this signature")

    def sign(self, body: bytes, now: float) -> Signed:  # noqa: ARG002 - no time is signed
        """Sign with the first secret, in the first encoding."""
        secret = self._secrets[0]
        digest = hmac.digest(secret.value, body, "sha256")
        as_hex = self._encodings[0] == "hex"
        text = digest.hex() if as_hex else base64.b64encode(digest).decode()
        headers = {self._header: text}
        if self._client_header is not None and secret.client is not None:
            headers[self._client_header] = secret.client
        return Signed(headers=headers, body=body)

    def is_heavy(self, body: bytes) -> bool:  # noqa: ARG002 - never
        """A megabyte of SHA-256 takes under a millisecond; handing it to a thread costs more."""
        return False

    def _candidates(self, headers: Headers) -> Sequence[Secret]:
        if self._client_header is None:
            return self._secrets
        client = headers.proof(self._client_header)
        mine = [secret for secret in self._secrets if secret.client == client]
        if not mine:
            raise Rejection(
                UNKNOWN_CLIENT, f"no secret is configured for this {self._client_header}"
            )
        return mine

    def _decoded(self, text: str) -> bytes:
        if "hex" in self._encodings and _SHA256_HEX.fullmatch(text):
            return bytes.fromhex(text)
        if "base64" in self._encodings and _SHA256_BASE64.fullmatch(text):
            try:
                signature = base64.b64decode(text, validate=True)
            except binascii.Error:
                signature = b""
            if len(signature) == _SHA256_BYTES:
                return signature
        wanted = " or ".join(
            {"hex": "64 hex digits", "base64": "44 characters of base64"}[encoding]
            for encoding in self._encodings
        )
        raise Rejection(SIGNATURE_MALFORMED, f"{self._header} is not {wanted}")
