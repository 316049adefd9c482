"""event_id, subject_ref and output keys: keyed hashes over length-prefixed parts.

An event's identity is what it says, never where it lies: Kafka coordinates repeat in a rebuilt
topic and differ between a delivery and its retry. Keyed, because a short natural key (an id
and a status) could be guessed back from a bare hash.
"""

import base64
import hmac
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

import msgspec

from consumers.event import Statement, Subject, VerificationEvent

_VARIANTS = {digit: "89ab"[int(digit, 16) & 0b11] for digit in "0123456789abcdef"}
"""The hex digit that carries RFC 9562's variant in its first two bits, by what stood there."""


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """The two secrets of a deployment: the event key never rotates, the subject key may."""

    event_key: bytes
    subject_key: bytes
    subject_key_id: str


def _joined(parts: Iterable[str]) -> bytes:
    """Join parts so that no two different lists give the same bytes: 4-byte length, then UTF-8."""
    return b"".join([len(text := part.encode()).to_bytes(4, "big") + text for part in parts])


@lru_cache(maxsize=8)  # a process has two keys
def _begun(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")


def _keyed(key: bytes, text: bytes) -> bytes:
    """Give the HMAC-SHA-256: continued from a copy, so that the key is hashed only once."""
    begun = _begun(key).copy()
    begun.update(text)
    return begun.digest()


def event_id(keys: Keys, endpoint: str, statement: Statement) -> str:
    """Identify what a statement says: a UUID of version 8 (RFC 9562) in canonical text."""
    kind = statement.type_family or statement.native_type
    text = _joined((endpoint, kind, *statement.natural_key))
    digits = _keyed(keys.event_key, text).hex()
    return (
        f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-"
        f"{_VARIANTS[digits[16]]}{digits[17:20]}-{digits[20:32]}"
    )


def subject_ref(keys: Keys, provider: str, subject: Subject) -> str:
    """Give a person's pseudonym: 22 characters of base64url.

    An id issued by the platform is joined across providers; an id issued by the provider is
    comparable only within it, so the provider is part of the hash.
    """
    scope = provider if subject.kind == "provider_user" else ""
    text = _joined((subject.kind, scope, subject.id))
    return base64.urlsafe_b64encode(_keyed(keys.subject_key, text)[:16])[:22].decode()


KeyedBy = Literal["process", "subject"]
"""What an output record's key names first."""


def output_key(event: VerificationEvent, keyed_by: KeyedBy) -> bytes:
    """Choose the output record's key: process, else subject, else the event itself.

    The subject first for providers whose processes have no id in common (Treezor).
    """
    process, subject = event.process_ref, event.subject_ref
    first, second = (process, subject) if keyed_by == "process" else (subject, process)
    return (first or second or event.event_id).encode()
