"""HMAC-SHA256 in a header of the form t=<seconds>,v1=<hex>."""

import hmac
import re
from collections.abc import Sequence
from typing import Literal

from gateway.headers import Headers
from gateway.rejections import (
    SIGNATURE_MALFORMED,
    SIGNATURE_MISMATCH,
    SIGNATURE_MISSING,
    TIMESTAMP_OUTSIDE_TOLERANCE,
    Rejection,
)
from gateway.signatures import Key, Scheme, Signed, Verified
from gateway.signatures.hmac_sha256 import decoded, signer

TOLERANCE_SECONDS = 300

_TEXTS = {"auto": ("timestamped", "body"), "timestamped": ("timestamped",), "body": ("body",)}
_ITEM = re.compile(r"([a-z0-9_]{1,16})=([!-+\--~]*)", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)
_LONGEST_TEXT = 1024
"""Room for a dozen signatures, of which a rotation needs two."""


class TimestampedHmac(Scheme):
    """HMAC-SHA256 over the time and the body, or over the body, in t=<seconds>,v1=<hex>.

    Plexy's pages disagree about the signed bytes: `{t}.{body}` or the body alone
    (plexy.money/docs/webhooks/secure-webhooks and its copies under /ru-kz/ and /en-eu/). `text` is
    "timestamped", "body", or "auto" for both; the name of what verified tells which. The key is
    the secret's whole text, its whsec_ included.

    Only `{t}.{body}` proves `t`. A delivery proven by the body alone is never fresh, since
    anybody may put another `t` in front of a captured one: its freshness is stale where `t` says
    so against itself, else none. Hence `refuses_stale` needs "timestamped"; ValueError otherwise.
    """

    def __init__(
        self, keys: Sequence[Key], *, name: str, header: str, text: str, refuses_stale: bool
    ) -> None:
        if refuses_stale and text != "timestamped":
            raise ValueError(
                'refusing what is stale needs text = "timestamped": where the body alone may be '
                "signed, a captured delivery passes with any time"
            )
        self._keys = tuple(keys)
        self.key_ids = tuple(key.id for key in self._keys)
        self._texts = _TEXTS[text]
        self._scheme_of = {kind: f"{name}-{kind}" for kind in self._texts}
        self.names = tuple(self._scheme_of.values())
        self._header = header
        self._refuses_stale = refuses_stale

    def verify(self, headers: Headers, body: bytes, now: float) -> Verified:
        """Accept the body if a current secret signed it, and say what that proves of its time."""
        text = headers.proof(self._header)
        if not text:
            raise Rejection(SIGNATURE_MISSING, f"there is no {self._header} header")
        seconds, signatures = self._read(text)
        for kind in self._texts:
            # A captured `{t}.{body}` is a text that was signed too: it must not pass as a body.
            if kind == "body" and not body.startswith(b"{"):
                continue
            key = signer(self._keys, _message(kind, seconds, body), *signatures)
            if key is not None:
                return Verified(
                    scheme=self._scheme_of[kind],
                    key_id=key.id,
                    signed=body,
                    freshness=self._freshness(kind, seconds, now),
                )
        raise Rejection(SIGNATURE_MISMATCH, "no current secret gives this signature")

    def sign(self, body: bytes, now: float) -> Signed:
        """Sign with the first secret, `{t}.{body}` unless only the body may be signed."""
        seconds = str(int(now))
        message = _message(self._texts[0], seconds, body)
        digest = hmac.digest(self._keys[0].value, message, "sha256")
        return Signed(headers={self._header: f"t={seconds},v1={digest.hex()}"}, body=body)

    def _read(self, text: str) -> tuple[str, list[bytes]]:
        """Give `t` as it was written, and every v1.

        Other items are ignored, so that the sender may add some: Stripe, whose form this is, sends
        a v0 beside it in test mode, which proves nothing (docs.stripe.com/webhooks/signature).
        """
        if len(text) > _LONGEST_TEXT:
            raise Rejection(SIGNATURE_MALFORMED, f"{self._header} is over {_LONGEST_TEXT} long")
        times: list[str] = []
        signatures: list[bytes] = []
        for item in text.split(","):
            found = _ITEM.fullmatch(item)
            if found is None:
                raise Rejection(
                    SIGNATURE_MALFORMED, f"{self._header} is not of the form t=<seconds>,v1=<hex>"
                )
            name, value = found.groups()
            if name == "t":
                times.append(value)
            elif name == "v1":
                signatures.append(decoded(value, ("hex",), f"v1 in {self._header}"))
        if len(times) != 1 or not _SECONDS.fullmatch(times[0]):
            raise Rejection(
                SIGNATURE_MALFORMED, f"{self._header} does not hold t once, of 1 to 12 digits"
            )
        if not signatures:
            raise Rejection(SIGNATURE_MALFORMED, f"{self._header} holds no v1")
        return times[0], signatures

    def _freshness(self, kind: str, seconds: str, now: float) -> Literal["fresh", "stale", "none"]:
        """Judge the time; asked only after the signature, so that a guess learns nothing."""
        if abs(now - int(seconds)) <= TOLERANCE_SECONDS:
            return "fresh" if kind == "timestamped" else "none"
        if self._refuses_stale:
            raise Rejection(
                TIMESTAMP_OUTSIDE_TOLERANCE, f"t is more than {TOLERANCE_SECONDS} s off our clock"
            )
        return "stale"


def _message(kind: str, seconds: str, body: bytes) -> bytes:
    """Give the signed bytes."""
    return b"%b.%b" % (seconds.encode(), body) if kind == "timestamped" else body
