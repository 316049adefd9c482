"""HMAC-SHA256: reading one, finding the key that made it, and the scheme over a raw body."""

import base64
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from gateway.headers import Headers
from gateway.rejections import (
    SIGNATURE_MALFORMED,
    SIGNATURE_MISMATCH,
    SIGNATURE_MISSING,
    UNKNOWN_CLIENT,
    Rejection,
)
from gateway.signatures import Key, Scheme, Signed, Verified

Encoding = Literal["hex", "base64"]

_SHA256_HEX = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_SHA256_BASE64 = re.compile(r"[A-Za-z0-9+/]{43}=", re.ASCII)


def decoded(text: str, encodings: Sequence[Encoding], where: str) -> bytes:
    """Read an HMAC-SHA256 of exactly 32 bytes; Rejection(signature_malformed) if it is none."""
    if "hex" in encodings and _SHA256_HEX.fullmatch(text):
        return bytes.fromhex(text)
    if "base64" in encodings and _SHA256_BASE64.fullmatch(text):
        return base64.b64decode(text)  # 43 characters and a = are always 32 bytes
    wanted = " or ".join(
        {"hex": "64 hex digits", "base64": "44 characters of base64"}[encoding]
        for encoding in encodings
    )
    raise Rejection(SIGNATURE_MALFORMED, f"{where} is not {wanted}")


def signer(keys: Iterable[Key], message: bytes, *signatures: bytes) -> Key | None:
    """Find the key whose HMAC-SHA256 of the message stands among these, in constant time each."""
    for key in keys:
        digest = hmac.digest(key.value, message, "sha256")
        for signature in signatures:
            if hmac.compare_digest(digest, signature):
                return key
    return None


class BodyHmac(Scheme):
    """HMAC-SHA256 over the raw body, in a header.

    Veriff: hex of either case in X-HMAC-SIGNATURE; X-AUTH-CLIENT names the integration
    (devdocs.veriff.com/v1/docs/hmac-authentication-and-endpoint-security). pawaPass: X-Signature,
    whose encoding is not documented, so hex and base64 are both accepted
    (docs.pawapass.com/webhooks). The legacy plain SHA-256 of Veriff is not accepted: it is no MAC.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        *,
        name: str,
        header: str,
        encodings: Sequence[Encoding] = ("hex",),
        client_header: str | None = None,
    ) -> None:
        self._keys = tuple(keys)
        self.key_ids = tuple(key.id for key in self._keys)
        self.names = (name,)
        self._header = header
        self._encodings = tuple(encodings)
        by_client = any(key.client is not None for key in keys)
        self._client_header = client_header if by_client else None

    def verify(self, headers: Headers, body: bytes, now: float) -> Verified:  # noqa: ARG002 - no time is signed
        """Accept the body if one of the candidate secrets signed exactly these bytes."""
        text = headers.proof(self._header)
        if not text:
            raise Rejection(SIGNATURE_MISSING, f"there is no {self._header} header")
        signature = decoded(text, self._encodings, self._header)
        key = signer(self._candidates(headers), body, signature)
        if key is None:
            raise Rejection(SIGNATURE_MISMATCH, "no current secret gives this signature")
        return Verified(scheme=self.names[0], key_id=key.id, signed=body)

    def sign(self, body: bytes, now: float) -> Signed:  # noqa: ARG002 - no time is signed
        """Sign with the first secret, in the first encoding."""
        key = self._keys[0]
        digest = hmac.digest(key.value, body, "sha256")
        as_hex = self._encodings[0] == "hex"
        text = digest.hex() if as_hex else base64.b64encode(digest).decode()
        headers = {self._header: text}
        if self._client_header is not None and key.client is not None:
            headers[self._client_header] = key.client
        return Signed(headers=headers, body=body)

    def _candidates(self, headers: Headers) -> Sequence[Key]:
        if self._client_header is None:
            return self._keys
        client = headers.proof(self._client_header)
        mine = [key for key in self._keys if key.client == client]
        if not mine:
            raise Rejection(
                UNKNOWN_CLIENT, f"no secret is configured for this {self._client_header}"
            )
        return mine
