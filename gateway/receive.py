"""The gateway's decision, pure: an endpoint, headers, a body and a time become a Delivery.

Only this function makes a Delivery, so whatever reaches Kafka was proven here.
"""

import msgspec

from gateway.delivery import HTTP_HEADER_PREFIX, Delivery, Provenance
from gateway.headers import Headers
from gateway.providers import Provider
from gateway.rejections import CONTENT_ENCODING, HEADERS_TOO_LARGE, Rejection
from gateway.signatures import Acknowledged, Scheme

_PLAIN = frozenset({"", "identity"})
LARGEST_HEADER_BYTES = 4 * 1024
LARGEST_HEADERS_BYTES = 16 * 1024


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One configured place to knock: who, how proven, and for which environment."""

    name: str
    provider: Provider
    scheme: Scheme
    environment: str
    path_token: bytes | None = None


def receive(
    endpoint: Endpoint, headers: Headers, body: bytes, now: float, delivery_id: str
) -> Delivery | Acknowledged:
    """Prove a delivery and give what Kafka keeps of it; `now` is in seconds since the epoch.

    Raises Rejection, and nothing else, whatever the headers and the body hold.
    """
    if any(text.strip().lower() not in _PLAIN for text in headers.all("content-encoding")):
        raise Rejection(CONTENT_ENCODING, "compressed bodies are not taken: signatures cover bytes")
    provider = endpoint.provider
    kept = _kept(headers, provider)
    verified = endpoint.scheme.verify(headers, body, now)
    if isinstance(verified, Acknowledged):
        return verified
    provenance = Provenance(
        endpoint=endpoint.name,
        provider=provider.name,
        received_at=int(now * 1000),
        delivery_id=delivery_id,
        authenticity=verified.authenticity,
        scheme=verified.scheme,
        key_id=verified.key_id,
        environment=endpoint.environment,
        freshness=verified.freshness,
        content_type=_ascii(headers.get("content-type")),
    )
    return Delivery(
        provenance=provenance,
        key=provider.record_key(verified.signed),
        body=body,
        headers=[*provenance.to_headers(), *kept],
    )


def _kept(headers: Headers, provider: Provider) -> list[tuple[str, bytes]]:
    """Give the kept headers as record headers; the size chain bounds them, see delivery.py."""
    kept = [
        (HTTP_HEADER_PREFIX + name, value.encode("ascii", "replace"))
        for name, value in headers.kept(provider.kept_headers)
    ]
    sizes = [len(headers.get("content-type")), *[len(value) for _, value in kept]]
    total = sum(sizes)
    if total > LARGEST_HEADER_BYTES and (
        max(sizes) > LARGEST_HEADER_BYTES or total > LARGEST_HEADERS_BYTES
    ):
        raise Rejection(
            HEADERS_TOO_LARGE, f"a header that would be kept exceeds {LARGEST_HEADER_BYTES} bytes"
        )
    return kept


def _ascii(text: str) -> str:
    """Give a header's text as it can stand on a record; the edge lets only ASCII through."""
    return text if text.isascii() else text.encode("ascii", "replace").decode()
