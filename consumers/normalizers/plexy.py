"""What Plexy's webhooks mean: payments and refunds, never a statement about a person.

Plexy publishes two contracts (https://plexy.money/docs/webhooks/handle-webhook-events and
https://developer.plexy.money/webhooks). Which one an endpoint speaks is configured, never
guessed: the scheme that verified tells it, and the body's shape must agree.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from consumers.event import Category, Statement
from consumers.failures import Failure
from consumers.identity import KeyedBy
from consumers.normalizers.native import (
    ABSENT,
    Glossary,
    Moment,
    Reason,
    Verdict,
    as_text,
    constant,
    first_moment,
    moment,
    reading,
    reference,
)
from gateway.delivery import Provenance

REVISION = 1

KEYED_BY: KeyedBy = "process"
SCHEMES: tuple[str, ...] = ("plexy-hmac-timestamped", "plexy-hmac-body", "plexy-bearer")

# Number and end of the retries are not documented publicly, under either contract, and a person
# can send one again from the dashboard: the longest known of others.
RETRIED_FOR_DAYS = 7

_Meaning = tuple[Category, Verdict]

# By the type, never by data.status.
_EVENTS: Mapping[str, _Meaning] = {
    "payment.succeeded": ("payment", ("completed", "pass", True)),
    "payment.failed": ("payment", ("completed", "fail", True)),
    "refund.succeeded": ("refund", ("completed", "pass", True)),
    "refund.failed": ("refund", ("completed", "fail", True)),
}

# https://developer.plexy.money/transaction-management-4976246f0; whether 3d (3-D Secure under
# way) is ever sent is not stated.
_TRANSACTIONS: Mapping[str, _Meaning] = {
    "transaction.created": ("payment", ("created", "none", False)),
    "transaction.3d": ("payment", ("awaiting_input", "none", False)),
    "transaction.authorized": ("payment", ("processing", "none", False)),
    "transaction.charged": ("payment", ("completed", "pass", True)),
    "transaction.rejected": ("payment", ("completed", "fail", True)),
    "transaction.failed": ("payment", ("completed", "fail", True)),
    "transaction.cancelled": ("payment", ("canceled", "none", True)),
    "transaction.refunded": ("refund", ("completed", "pass", True)),
}

# Plexy sends no code with them. Rejected is the bank's refusal, failed a system's error.
_REASONS: Mapping[str, tuple[Reason, ...]] = {
    "payment.failed": (("payment.declined", ""),),
    "transaction.rejected": (("payment.declined", ""),),
    "transaction.failed": (("technical.error", ""),),
}

NATIVE_TYPES = frozenset({*_EVENTS, *_TRANSACTIONS})
UNMAPPED_FIELDS = frozenset(
    {
        "data.amount",
        "data.currency",
    },
)
IGNORED_REASONS: frozenset[str] = frozenset()

_NOTHING = (b"", b"null")

_WHOLE_NUMBER = re.compile(rb"-?[0-9]{1,19}")
_PLAIN_NUMBER = re.compile(rb"-?[0-9]{1,19}(\.[0-9]{1,9})?")
_LONG = range(-(2**63), 2**63)


# Contract A.


class _Object(msgspec.Struct, gc=False):
    id: str
    amount: msgspec.Raw = ABSENT
    currency: str | None = None
    status: str | None = None


class _Event(msgspec.Struct, gc=False):
    id: str
    created: int
    data: _Object


_decode_event = msgspec.json.Decoder(_Event).decode

_SECONDS = range(253_402_300_800)
"""1970 to 9999: a time in another unit does not fall into it."""


def _event(name: str, body: bytes) -> Statement:
    sent = _decode_event(body)
    if sent.created not in _SECONDS:
        raise Failure("out_of_range", path="$.created")
    glossary = Glossary()
    category, (status, outcome, is_final) = _EVENTS[name]
    return Statement(
        native_type=name,
        natural_key=(sent.id, name),
        provider_event_id=reference(sent.id, "$.id"),
        native_status=constant(sent.data.status),
        category=category,
        status=status,
        outcome=outcome,
        is_final=is_final,
        reasons=_REASONS.get(name, ()),
        process_ref=reference(sent.data.id, "$.data.id"),
        resource_type=category,
        resource_ref=sent.data.id,
        occurred_at=sent.created * 1000,
        occurred_at_source="event",
        payment_amount_minor=_whole_amount(sent.data.amount, glossary),
        payment_currency=glossary.currency(sent.data.currency, "data.currency"),
        unmapped=glossary.unmapped,
    )


def _whole_amount(raw: msgspec.Raw, glossary: Glossary) -> int | None:
    """Give an amount as sent, though its unit is not documented; with decimals it is not minor."""
    text = bytes(raw)
    if text in _NOTHING:
        return None
    if _WHOLE_NUMBER.fullmatch(text) and int(text) in _LONG:
        return int(text)
    glossary.note("data.amount")
    return None


# Contract B.


class _Data(msgspec.Struct, rename="camel", gc=False):
    id: str
    amount: msgspec.Raw = ABSENT
    currency: str | None = None
    status: str | None = None
    processed_at: str | None = None
    confirmed_at: str | None = None
    authed_at: str | None = None
    updated_at: str | None = None
    created_at: str | None = None


class _Transaction(msgspec.Struct, rename="camel", gc=False):
    data: _Data
    merchant_id: str | int | None = None


_decode_transaction = msgspec.json.Decoder(_Transaction).decode


def _transaction(name: str, body: bytes) -> Statement:
    sent = _decode_transaction(body)
    data = sent.data
    glossary = Glossary()
    category, (status, outcome, is_final) = _TRANSACTIONS[name]
    occurred_at, source = _moment(data)
    return Statement(
        native_type=name,
        natural_key=(name, data.id, data.updated_at or data.status or ""),
        provider_account=constant(as_text(sent.merchant_id)),
        native_status=constant(data.status),
        category=category,
        status=status,
        outcome=outcome,
        is_final=is_final,
        reasons=_REASONS.get(name, ()),
        process_ref=reference(data.id, "$.data.id"),
        resource_type=category,
        resource_ref=data.id,
        occurred_at=occurred_at,
        occurred_at_source=source,
        payment_currency=glossary.currency(data.currency, "data.currency"),
        attributes=_amount_as_sent(data.amount, glossary),
        unmapped=glossary.unmapped,
    )


def _moment(data: _Data) -> Moment:
    sent = (
        (data.processed_at, "processedAt"),
        (data.confirmed_at, "confirmedAt"),
        (data.authed_at, "authedAt"),
        (data.updated_at, "updatedAt"),
        (data.created_at, "createdAt"),
    )
    return first_moment(moment(text, "object", f"$.data.{name}") for text, name in sent)


def _amount_as_sent(raw: msgspec.Raw, glossary: Glossary) -> dict[str, str]:
    """Keep the amount's digits apart from amounts in minor units.

    Documented as minor units or the usual ones, depending on the account's setup: a 10 may be
    ten cents or ten dollars.
    """
    text = bytes(raw)
    if text in _NOTHING:
        return {}
    if _PLAIN_NUMBER.fullmatch(text):
        return {"plexy.amount": text.decode()}
    glossary.note("data.amount")
    return {}


# Which contract.


class _Envelope(msgspec.Struct, gc=False):
    id: msgspec.Raw = ABSENT
    type: Any = None
    name: Any = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def _a(envelope: _Envelope, body: bytes) -> Statement:
    if _has_name(envelope):
        raise Failure("inconsistent", path="$.name", error_class="OtherForm")
    return _read(envelope.type, _EVENTS, _event, "$.type", body)


def _b(envelope: _Envelope, body: bytes) -> Statement:
    if _has_type(envelope):
        raise Failure("inconsistent", path="$.type", error_class="OtherForm")
    return _read(envelope.name, _TRANSACTIONS, _transaction, "$.name", body)


def _has_type(envelope: _Envelope) -> bool:
    return bytes(envelope.id) != b"" and isinstance(envelope.type, str)


def _has_name(envelope: _Envelope) -> bool:
    return isinstance(envelope.name, str) and envelope.name.startswith("transaction.")


def _read(
    name: object,
    known: Mapping[str, _Meaning],
    read: Callable[[str, bytes], Statement],
    path: str,
    body: bytes,
) -> Statement:
    if not isinstance(name, str) or name not in known:
        raise Failure("unknown_type", path=path)
    return reading(name, read, name, body)


_CONTRACTS: Mapping[str, Callable[[_Envelope, bytes], Statement]] = {
    "plexy-hmac-timestamped": _a,
    "plexy-hmac-body": _a,
    "plexy-bearer": _b,
}


def normalize(body: bytes, provenance: Provenance) -> list[Statement]:
    """Say what a Plexy delivery means under its endpoint's contract; one is one statement."""
    contract = _CONTRACTS.get(provenance.scheme)
    if contract is None:
        raise Failure("inconsistent", path="headers", error_class="OtherScheme")
    return [contract(_decode_envelope(body), body)]
