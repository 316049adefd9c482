"""What a signature scheme is: it proves deliveries, and signs them as the provider would.

A scheme holds every current key and tries them all. Everything malformed leaves as a Rejection
with its own reason; a bare True or False would lose it. One file per mechanism, beside this one.
"""

import abc
from typing import Literal

import msgspec

from gateway.headers import Headers


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One current key; `id` names it in metrics and headers and is never made from a secret.

    `value` is the text of a shared secret or of a bearer token as UTF-8, or a public key in DER
    (a private one for a sender). `client` is the sender's public name where one secret belongs
    to one sender (Veriff's X-AUTH-CLIENT). `retires` is when it is to be taken away (seconds since
    the epoch), which is for people: it goes on verifying.
    """

    id: str
    value: bytes
    client: str | None = None
    retires: float | None = None


class Verified(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a scheme proved. `signed` are the JSON bytes the proof covers."""

    scheme: str
    key_id: str
    signed: bytes
    authenticity: Literal["signed", "token", "unsigned"] = "signed"
    freshness: Literal["fresh", "stale", "none"] = "none"


class Acknowledged(msgspec.Struct, frozen=True):
    """A request that is answered 200 and not stored, because it is no event; never a dropped one.

    The one case: a subscription that is to be confirmed or has ended, which carries no signature
    and is for a person.
    `detail` is one sentence for the log, without payload.
    """

    reason: str
    detail: str = ""


class Signed(msgspec.Struct, frozen=True):
    """What to send so that `verify` accepts it: headers to add, and the body to send."""

    headers: dict[str, str]
    body: bytes


class Scheme(abc.ABC):
    """How one endpoint's deliveries are proven.

    `names` are every name that `Verified.scheme` can have, `key_ids` every id that
    `Verified.key_id` can have. `path_token_because` says why an endpoint of this scheme must
    have a path token; empty where it need not.
    """

    names: tuple[str, ...]
    key_ids: tuple[str, ...]
    path_token_because: str = ""

    @abc.abstractmethod
    def verify(self, headers: Headers, body: bytes, now: float) -> Verified | Acknowledged:
        """Say what is proven, or raise Rejection. `now` is in seconds since the Unix epoch."""

    @abc.abstractmethod
    def sign(self, body: bytes, now: float) -> Signed:
        """Sign a body as the provider would, with the first key."""

    def is_heavy(self, body: bytes) -> bool:  # noqa: ARG002 - most are light for every body
        """Tell whether verifying this body would hold up the event loop."""
        return False
