"""The contract between gateway and consumers: topic names, record headers, Delivery.

The raw record's value is the body, byte for byte; everything the gateway learned about it
travels in record headers. Both sides read and write these headers through `Provenance`.
"""

from collections.abc import Iterable

import msgspec

OUTPUT_TOPIC = "verification.events"
CANARY = "canary"
CANARY_TOPIC = "verification.canary"

HTTP_HEADER_PREFIX = "http-"
"""Kept provider headers stand on the raw record under this prefix and their lower-case name."""

REPLAY_OF = "verihook-replay-of"
"""Header of a replayed record: topic/partition/offset of the record it repeats."""
ATTEMPT = "verihook-attempt"
"""Header of a replayed record: 1 for the first replay of a delivery, then counting."""
HISTORY = "verihook-history"
"""Header of a replayed record, once per earlier failure, oldest first: what went wrong, where."""

MIB = 1024 * 1024
RAW_MESSAGE_BYTES = MIB
"""max.message.bytes of raw topics: a body of 900 KiB, 16 KiB of kept headers, our own headers."""
DEAD_MESSAGE_BYTES = OUTPUT_MESSAGE_BYTES = MIB + MIB // 4
"""Dead letters are the raw record and the reason: one that did not fit would stop a partition."""
BOOKS_MESSAGE_BYTES = MIB
"""max.message.bytes of the seen and ledger topics: a barrier's books are some 100 kB."""
PRODUCER_MESSAGE_BYTES = 2 * MIB
"""message.max.bytes of every producer: librdkafka refuses 1,000,000 bytes by default."""


def raw_topic(provider: str, prefix: str = "") -> str:
    """Name the topic that holds a provider's untouched deliveries."""
    return f"{prefix}raw.{provider}"


def dead_topic(provider: str, prefix: str = "") -> str:
    """Name the topic that holds what could not be normalized, with the reason."""
    return f"{prefix}dlq.{provider}"


def seen_topic(provider: str, prefix: str = "") -> str:
    """Name the topic that remembers which record first said what; partitioned as the raw topic."""
    return f"{prefix}seen.{provider}"


def ledger_topic(provider: str, prefix: str = "") -> str:
    """Name the topic that tells every raw record's fate; partitioned as the raw topic."""
    return f"{prefix}ledger.{provider}"


def output_topic(prefix: str = "", provider: str = "") -> str:
    """Name the topic of normalized events, shared by all providers; the canary has its own."""
    return f"{prefix}{CANARY_TOPIC if provider == CANARY else OUTPUT_TOPIC}"


def group_id(provider: str, prefix: str = "") -> str:
    """Name the consumer group that normalizes a provider."""
    return f"{prefix}normalize.{provider}"


_FARTHEST = 2**63
"""Milliseconds: from here on a number fits no Avro long, and soon overflows where it is divided."""


class Provenance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the gateway knows of a delivery beside its bytes; the headers of the raw record.

    `received_at` is in milliseconds since the Unix epoch by the gateway's clock.
    `authenticity` is signed, token or unsigned; `scheme` names the form that verified and the
    consumer obeys it; `freshness` is fresh, stale, or none where the scheme signs no time;
    `environment` is production or sandbox.
    """

    endpoint: str
    provider: str
    received_at: int
    delivery_id: str
    authenticity: str
    scheme: str
    key_id: str
    environment: str
    freshness: str = "none"
    content_type: str = ""

    def to_headers(self) -> list[tuple[str, bytes]]:
        """Give the record headers, in one fixed order."""
        return [
            ("verihook-endpoint", self.endpoint.encode()),
            ("verihook-provider", self.provider.encode()),
            ("verihook-received-at", b"%d" % self.received_at),
            ("verihook-delivery-id", self.delivery_id.encode()),
            ("verihook-authenticity", self.authenticity.encode()),
            ("verihook-scheme", self.scheme.encode()),
            ("verihook-key-id", self.key_id.encode()),
            ("verihook-environment", self.environment.encode()),
            ("verihook-freshness", self.freshness.encode()),
            ("verihook-content-type", self.content_type.encode()),
        ]

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, bytes | None]]) -> "Provenance":
        """Read a raw record's headers.

        Raises KeyError naming a missing header, ValueError if `received-at` is no
        number or too large for a time, or a word is no UTF-8. Such a record was not written by a
        gateway.
        """
        found = {name: value for name, value in headers if value is not None}
        received_at = int(found["verihook-received-at"])
        if not -_FARTHEST <= received_at < _FARTHEST:
            raise ValueError("verihook-received-at is too large for a time")
        return cls(
            endpoint=found["verihook-endpoint"].decode(),
            provider=found["verihook-provider"].decode(),
            received_at=received_at,
            delivery_id=found["verihook-delivery-id"].decode(),
            authenticity=found["verihook-authenticity"].decode(),
            scheme=found["verihook-scheme"].decode(),
            key_id=found["verihook-key-id"].decode(),
            environment=found["verihook-environment"].decode(),
            freshness=found.get("verihook-freshness", b"none").decode(),
            content_type=found.get("verihook-content-type", b"").decode(),
        )


class Delivery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A verified delivery, ready for Kafka. Only `gateway.receive.receive` makes one."""

    provenance: Provenance
    key: bytes
    body: bytes
    headers: list[tuple[str, bytes]]
