"""A bearer token in the Authorization header: it proves the sender, not the body."""

import hashlib
import hmac
import re
from collections.abc import Sequence

from gateway.headers import Headers
from gateway.rejections import (
    SIGNATURE_MALFORMED,
    SIGNATURE_MISMATCH,
    SIGNATURE_MISSING,
    Rejection,
)
from gateway.signatures import Key, Scheme, Signed, Verified

_TOKEN = re.compile(rb"[!-~]{16,4096}")
_CREDENTIALS = re.compile(r"(?i:bearer) +([!-~]{1,4096})", re.ASCII)


class BearerToken(Scheme):
    """A bearer token in the Authorization header: it proves the sender, not the body.

    Plexy's second contract shows it in an example request and describes no signature
    (developer.plexy.money/webhooks). Digests are compared, so that not even the length of a
    token can be learnt. Raises ValueError for a token that cannot stand in a header or is short.
    """

    path_token_because = "its deliveries carry a token, not a signature"  # noqa: S105 - a reason

    def __init__(self, keys: Sequence[Key], *, name: str) -> None:
        for key in keys:
            if not _TOKEN.fullmatch(key.value):
                raise ValueError(
                    f"the token {key.id} should be 16 to 4096 visible ASCII characters "
                    "without blanks"
                )
        self.names = (name,)
        self.key_ids = tuple(key.id for key in keys)
        self._first = keys[0].value
        self._digests = [(key.id, hashlib.sha256(key.value).digest()) for key in keys]

    def verify(self, headers: Headers, body: bytes, now: float) -> Verified:  # noqa: ARG002 - no time is signed
        """Accept any body from whoever holds a current token."""
        text = headers.proof("authorization")
        if not text:
            raise Rejection(SIGNATURE_MISSING, "there is no authorization header")
        found = _CREDENTIALS.fullmatch(text)
        if found is None:
            raise Rejection(SIGNATURE_MALFORMED, "authorization is not Bearer and one token")
        given = hashlib.sha256(found[1].encode()).digest()
        for key_id, digest in self._digests:
            if hmac.compare_digest(digest, given):
                return Verified(
                    scheme=self.names[0], key_id=key_id, signed=body, authenticity="token"
                )
        raise Rejection(SIGNATURE_MISMATCH, "it is no current token")

    def sign(self, body: bytes, now: float) -> Signed:  # noqa: ARG002 - no time is signed
        """Present the first token; the body stays as it is."""
        return Signed(headers={"authorization": f"Bearer {self._first.decode()}"}, body=body)
