"""What Pleenk's webhooks mean: approvals of asked criteria, payments, and linked sellers.

One delivery may carry several events, and none has an id or a time
(https://developers.pleenk.com/docs/webhooks).
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from consumers.event import AgeMethod, Outcome, Statement, Status
from consumers.failures import Failure
from consumers.identity import KeyedBy
from consumers.normalizers.native import (
    Glossary,
    Reason,
    Verdict,
    constant,
    digest,
    each,
    platform_user,
    reading,
    reference,
)
from gateway.delivery import Provenance

REVISION = 1

APPROVE = "APPROVE"
PAYMENT = "PAYMENT"
USER = "USER"

NATIVE_TYPES = frozenset({APPROVE, PAYMENT, USER})
UNMAPPED_FIELDS = frozenset(
    {
        "data.request",
        "data.result",
        "data.status",
    },
)
IGNORED_REASONS: frozenset[str] = frozenset()

KEYED_BY: KeyedBy = "process"
SCHEMES: tuple[str, ...] = ()

# Neither retries nor their end are documented publicly: the longest known of others.
RETRIED_FOR_DAYS = 7


# Approve: https://developers.pleenk.com/docs/webhook-notification


class _Approval(msgspec.Struct, rename="camel", gc=False):
    user_ref: str
    request: str
    result: Any = None


class _Approve(msgspec.Struct, gc=False):
    data: _Approval


_decode_approve = msgspec.json.Decoder(_Approve).decode

# https://developers.pleenk.com/docs/approve-request-parameter; the estimated age stands only on
# https://developers.pleenk.com/docs/approve-widget.
_AGE = re.compile(r"(?P<estimated>estimated_)?age_over_(?P<limit>0|[1-9][0-9]{0,2})")
_OTHER = re.compile(r"gender=[MFX]|resident_country=[A-Z]{3}")
_OLDEST = 150


class _Criterion(msgspec.Struct, frozen=True):
    """One asked criterion: as asked, its name without a value, and the limit if it is an age."""

    text: str
    name: str
    age: int | None = None
    estimated: bool = False


def _criterion(text: str) -> _Criterion | None:
    if (age := _AGE.fullmatch(text)) is not None:
        limit = int(age["limit"])
        if limit > _OLDEST:
            return None
        return _Criterion(text, text, limit, estimated=age["estimated"] is not None)
    return _Criterion(text, text.partition("=")[0]) if _OTHER.fullmatch(text) else None


class _Answered:
    """What a result says to a request: which asked criteria hold, which do not, and what else.

    How a criterion that is no age is keyed in the result is not documented: its whole text and
    its bare name are both understood, the bare name only where one asked criterion has it. Only
    a literal true or false is an answer.
    """

    def __init__(self, request: str, result: Mapping[str, object]) -> None:
        self.asked: list[_Criterion] = []
        self.unlisted: set[str] = set()
        for text in dict.fromkeys(text for text in request.split(",") if text):
            criterion = _criterion(text)
            if criterion is None:
                self.unlisted.add(text)
            else:
                self.asked.append(criterion)
        names = Counter(criterion.name for criterion in self.asked)
        self.true: list[_Criterion] = []
        self.false: list[_Criterion] = []
        read: set[str] = set()
        for criterion in self.asked:
            keys = {criterion.text}
            if names[criterion.name] == 1:
                keys.add(criterion.name)
            read |= keys
            answers = [result[key] for key in keys if key in result]
            if any(answer is False for answer in answers):
                self.false.append(criterion)
            elif answers and all(answer is True for answer in answers):
                self.true.append(criterion)
        self.is_false_elsewhere = any(result[key] is False for key in result.keys() - read)
        self.says_more = bool(result.keys() - read - self.unlisted) or not all(
            isinstance(value, bool) for value in result.values()
        )

    def outcome(self) -> Outcome:
        """Give the verdict: pass only if the result is exactly a yes to everything asked."""
        if self.false or self.is_false_elsewhere:
            return "fail"
        all_hold = len(self.true) == len(self.asked) > 0
        is_all = not self.unlisted and not self.says_more
        return "pass" if all_hold and is_all else "inconclusive"

    def reasons(self) -> tuple[Reason, ...]:
        """Explain a fail. Only an age is named: the other criteria tell what a person is."""
        found: list[Reason] = [
            ("age.below_threshold", criterion.text)
            for criterion in self.false
            if criterion.age is not None
        ]
        if len(found) < len(self.false):
            found.append(("other", ""))
        if self.is_false_elsewhere:
            found.append(("unmapped", ""))
        return tuple(found)

    def age_interval(self) -> tuple[int | None, int | None]:
        """Give the least age shown and the age shown not to be reached; a contradiction is none."""
        least = max((of.age for of in self.true if of.age is not None), default=None)
        below = min((of.age for of in self.false if of.age is not None), default=None)
        if least is not None and below is not None and least >= below:
            return None, None
        return least, below


def _approve(element: msgspec.Raw) -> Statement:
    sent = _decode_approve(element).data
    result = sent.result if isinstance(sent.result, dict) else {}
    answered = _Answered(sent.request, result)
    glossary = Glossary()
    if answered.unlisted:
        glossary.note("data.request")
    if answered.says_more or not isinstance(sent.result, dict | None):
        glossary.note("data.result")
    ages = [criterion for criterion in answered.asked if criterion.age is not None]
    age_min, age_max = answered.age_interval()
    age_method: AgeMethod | None = None
    if ages:
        age_method = "estimation" if all(age.estimated for age in ages) else "unspecified"
    was_estimated = any(of.estimated for of in (*answered.true, *answered.false))
    return Statement(
        native_type=APPROVE,
        # Nothing else identifies it. Two identical elements say the same thing, even in one
        # delivery, so the position is no part of it.
        natural_key=(digest(element),),
        # Documented as a UUID, published with an ending that makes it none: any text.
        subject=platform_user(sent.user_ref, "$.data.userRef"),
        category="age_check" if ages else "identity_verification",
        status="completed",
        outcome=answered.outcome(),
        is_final=True,
        reasons=answered.reasons(),
        subject_type="person",
        methods=("age_estimation",) if was_estimated else (),
        age_min=age_min,
        age_max=age_max,
        # All that is asked must hold: of several limits the highest decides.
        age_threshold=max((age.age for age in ages if age.age is not None), default=None),
        age_method=age_method,
        unmapped=glossary.unmapped,
    )


# Payment: https://developers.pleenk.com/docs/pay-widget. No currency is named, so the number of
# decimals of an amount is unknown and no amount can be given in minor units: none is read.


class _Payment(msgspec.Struct, rename="camel", gc=False):
    payment_id: str
    status: str


class _Paid(msgspec.Struct, gc=False):
    data: _Payment


_decode_paid = msgspec.json.Decoder(_Paid).decode

_PAYMENTS: Mapping[str, Verdict] = {"CONFIRMED": ("completed", "pass", True)}


def _payment(element: msgspec.Raw) -> Statement:
    sent = _decode_paid(element).data
    glossary = Glossary()
    status, outcome, is_final = glossary.verdict(_PAYMENTS, sent.status, "data.status")
    return Statement(
        native_type=PAYMENT,
        natural_key=(sent.payment_id, sent.status),
        native_status=constant(sent.status),
        category="payment",
        status=status,
        outcome=outcome,
        is_final=is_final,
        process_ref=reference(sent.payment_id, "$.data.paymentId"),
        resource_type="payment",
        resource_ref=sent.payment_id,
        unmapped=glossary.unmapped,
    )


# User: https://developers.pleenk.com/docs/sell-widget. A seller may be a company.


class _Seller(msgspec.Struct, gc=False):
    ref: str
    status: str


class _User(msgspec.Struct, gc=False):
    data: _Seller


_decode_user = msgspec.json.Decoder(_User).decode

_LINKS: Mapping[str, Status] = {"LINKED": "not_applicable"}


def _user(element: msgspec.Raw) -> Statement:
    sent = _decode_user(element).data
    glossary = Glossary()
    status = glossary.read(_LINKS, sent.status, "data.status", "unknown")
    if not sent.ref:
        # Without it, all sellers would share one natural key.
        raise Failure("out_of_range", path="$.data.ref")
    return Statement(
        native_type=USER,
        natural_key=(sent.ref, sent.status),
        subject=platform_user(sent.ref, "$.data.ref"),
        native_status=constant(sent.status),
        category="annotation",
        status=status,
        unmapped=glossary.unmapped,
    )


# The delivery.


class _Delivery(msgspec.Struct):
    events: list[msgspec.Raw]


class _Named(msgspec.Struct, rename="camel", gc=False):
    event_type: Any = None


class _Data(msgspec.Struct, gc=False):
    type: Any = msgspec.field(name="@type", default=None)


class _Tagged(msgspec.Struct, gc=False):
    data: _Data


_decode = msgspec.json.Decoder(_Delivery).decode
_decode_named = msgspec.json.Decoder(_Named).decode
_decode_tagged = msgspec.json.Decoder(_Tagged).decode

_KINDS: Mapping[str, tuple[str, Callable[[msgspec.Raw], Statement]]] = {
    APPROVE: ("APPROVE_EVENT", _approve),
    PAYMENT: ("PAYMENT_EVENT", _payment),
    USER: ("USER_EVENT", _user),
}


def normalize(
    body: bytes,
    provenance: Provenance,  # noqa: ARG001 - Pleenk says everything in the body
) -> Sequence[Statement | Failure]:
    """Say what a Pleenk delivery means: one statement or failure for each of its events."""
    return each(_decode(body).events, "$.events", _statement)


def _statement(element: msgspec.Raw, _position: int) -> Statement:
    name = _decode_named(element).event_type
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise Failure("unknown_type", path="$.eventType")
    return reading(name, _read, element, *kind)


def _read(element: msgspec.Raw, tag: str, read: Callable[[msgspec.Raw], Statement]) -> Statement:
    # It repeats the type in other words; where it is missing nothing is contradicted.
    found = _decode_tagged(element).data.type
    if found is not None and found != tag:
        raise Failure("inconsistent", path="$.data.@type")
    return read(element)
