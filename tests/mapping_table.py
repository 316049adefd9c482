"""The mapping of events as data: the design's table row by row, then its corrections line by line.

Each row is a delivery and what the table says of it. What the table leaves open is not in `said`.
Personal data in the bodies is replaced by PRIVATE, which no event may carry.
"""

import json
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers.event import Subject
from gateway.delivery import Provenance

FIXTURES = Path(__file__).parent / "fixtures"
PRIVATE = "Private-7f3a"
"""Stands in every field that must stay behind; it looks like a machine constant on purpose."""

LONG_AFTER = 1_800_000_000_000
"""A time of receipt in 2027, years from every time in the payloads."""

SIGNED_BY = {
    "pawapass": "pawapass-hmac-sha256",
    "pleenk": "pleenk-ecdsa-p521-sha512",
    "plexy": "plexy-hmac-timestamped",
    "treezor": "treezor-flat",
    "veriff": "veriff-hmac-sha256",
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row: a delivery, what its Statement says, and what its output key is made of.

    `said` holds fields of Statement; `reason_codes` our codes only, where the table names no
    native ones; `attributes` those that must be there, among others.
    """

    title: str
    provider: str
    body: bytes
    said: dict[str, Any]
    key: str
    scheme: str = ""
    authenticity: str = "signed"
    received_at: int = LONG_AFTER
    freshness: str = "none"

    @property
    def provenance(self) -> Provenance:
        """What the gateway knew of the delivery."""
        return Provenance(
            endpoint=f"{self.provider}-test",
            provider=self.provider,
            received_at=self.received_at,
            delivery_id="0" * 32,
            authenticity=self.authenticity,
            scheme=self.scheme or SIGNED_BY[self.provider],
            key_id="default",
            environment="sandbox",
            freshness=self.freshness,
        )


class Either:
    """Equal to any of the values between which the design does not decide."""

    def __init__(self, *values: object) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return other in self.values

    def __hash__(self) -> int:
        return hash(self.values)

    def __repr__(self) -> str:
        return " or ".join(map(repr, self.values))


def json_body(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def fixture_body(case: str) -> bytes:
    return (FIXTURES / case / "body.raw").read_bytes()


def platform_user(text: str) -> Subject:
    return Subject("platform_user", text)


def provider_user(text: str) -> Subject:
    return Subject("provider_user", text)


def tenths(count: int) -> Any:
    """A time sent in ten-thousandths of a second, cut or rounded to the millisecond."""
    return pytest.approx(count / 10, rel=0, abs=0.99)


PASS = {"status": "completed", "outcome": "pass", "is_final": True}
FAIL = {"status": "completed", "outcome": "fail", "is_final": True}
IN_REVIEW = {"status": "in_review", "outcome": "none", "is_final": False}
PROCESSING = {"status": "processing", "outcome": "none", "is_final": False}
STARTED = {"status": "started", "outcome": "none", "is_final": False}
ABANDONED = {"status": "abandoned", "outcome": "none", "is_final": True}
CANCELED = {"status": "canceled", "outcome": "none", "is_final": True}
NOT_APPLICABLE = {"status": "not_applicable", "outcome": "none", "is_final": False}
UNKNOWN = {"status": "unknown", "outcome": "none", "is_final": False}
RECEIVED = {"occurred_at": None, "occurred_at_source": "received"}


def at(source: str, moment: Any) -> dict[str, Any]:
    return {"occurred_at": moment, "occurred_at_source": source}


# Pleenk: rows 1 and 2.

PLEENK_USER = "407eebe2-a380-44d8-9397-6663849afeb4-e2e"
ABSENT = object()


def pleenk(*events: dict[str, Any]) -> bytes:
    return json_body({"events": list(events)})


def pleenk_approve(request: str, result: object, user: str = PLEENK_USER) -> dict[str, Any]:
    data = {"@type": "APPROVE_EVENT", "userRef": user, "request": request, "result": result}
    if result is ABSENT:
        del data["result"]
    return {"eventType": "APPROVE", "data": data}


def pleenk_payment(
    status: str = "CONFIRMED", amounts: tuple[float, ...] = (100.00,), payment_id: str = "abcde"
) -> dict[str, Any]:
    return {
        "eventType": "PAYMENT",
        "data": {
            "@type": "PAYMENT_EVENT",
            "transactionRef": "12345",
            "paymentId": payment_id,
            "privacyScope": "private",
            "metadata": PRIVATE,
            "status": status,
            "beneficiaries": [
                {"ref": f"{PRIVATE}-{amount}", "amount": amount} for amount in amounts
            ],
        },
    }


def pleenk_user(status: str = "LINKED") -> dict[str, Any]:
    ref = "8d1c7d19-7883-4ee6-8e90-f5c4f4fc3957"
    return {"eventType": "USER", "data": {"@type": "USER_EVENT", "ref": ref, "status": status}}


APPROVE = {
    "native_type": "APPROVE",
    "subject": platform_user(PLEENK_USER),
    "process_ref": None,
    "provider_event_id": None,
    "retry_allowed": None,
    **RECEIVED,
}

ROWS_PLEENK = [
    Row(
        title="row 1: Pleenk APPROVE, age_over_18 true",
        provider="pleenk",
        body=pleenk(pleenk_approve("age_over_18", {"age_over_18": True})),
        key="subject",
        said={
            **APPROVE,
            **PASS,
            "category": "age_check",
            "age_threshold": 18,
            "age_min": 18,
            "age_max": None,
            "age_method": "unspecified",
            "reasons": (),
        },
    ),
    Row(
        title="row 2: Pleenk APPROVE, age_over_18 false",
        provider="pleenk",
        body=pleenk(pleenk_approve("age_over_18", {"age_over_18": False})),
        key="subject",
        said={
            **APPROVE,
            **FAIL,
            "category": "age_check",
            "age_threshold": 18,
            "age_min": None,
            "age_max": 18,
            "age_method": "unspecified",
            "reason_codes": ("age.below_threshold",),
        },
    ),
]

# Plexy, contract A: rows 3 to 5.


def plexy_a(native_type: str, data_id: str, status: str, number: int = 1234567890) -> bytes:
    return json_body(
        {
            "id": f"evt_{number}",
            "type": native_type,
            "created": 1679529600,
            "data": {"id": data_id, "amount": 5000, "currency": "USD", "status": status},
        }
    )


PLEXY_A = {
    "subject": None,
    "payment_amount_minor": 5000,
    "payment_currency": "USD",
    **at("event", 1679529600000),
}

ROWS_PLEXY = [
    Row(
        title="row 3: Plexy payment.succeeded",
        provider="plexy",
        body=plexy_a("payment.succeeded", "pay_abc123", "succeeded"),
        key="process",
        said={
            **PLEXY_A,
            **PASS,
            "native_type": "payment.succeeded",
            "provider_event_id": "evt_1234567890",
            "category": "payment",
            "process_ref": "pay_abc123",
            # The column says (payment); the schema's doc says null when it is the process itself.
            "resource_type": Either("payment", None),
            "resource_ref": Either("pay_abc123", None),
            "reasons": (),
        },
    ),
    Row(
        title="row 4: Plexy payment.failed",
        provider="plexy",
        body=plexy_a("payment.failed", "pay_abc123", "failed", 1234567891),
        key="process",
        said={
            **PLEXY_A,
            **FAIL,
            "native_type": "payment.failed",
            "provider_event_id": "evt_1234567891",
            "category": "payment",
            "process_ref": "pay_abc123",
            "reason_codes": ("payment.declined",),
        },
    ),
    Row(
        title="row 5: Plexy refund.succeeded",
        provider="plexy",
        body=plexy_a("refund.succeeded", "ref_abc123", "succeeded", 1234567892),
        key="process",
        said={
            **PLEXY_A,
            **PASS,
            "native_type": "refund.succeeded",
            "provider_event_id": "evt_1234567892",
            "category": "refund",
            "process_ref": "ref_abc123",
            "reasons": (),
        },
    ),
]

# Treezor: rows 6 to 24.


def treezor(
    name: str, about: str, object_id: str, payload: dict[str, Any], **more: object
) -> dict[str, Any]:
    """Give the flat form; what is not signed beside the payload comes in `more`."""
    return {
        "webhook": name,
        "object": about,
        "object_id": object_id,
        "object_payload": payload,
        "object_payload_signature": "pVzBUAM2mgVtCNxw6u4fdaZqktAlStk/yGlfA1v2JQs=",
        **more,
    }


def wrapped(flat: dict[str, Any], client_id: str = "516899") -> dict[str, Any]:
    return {
        "messageId": "04b61286-2cb1-555c-a62e-49836482c5b8",
        "webhookId": flat["webhook_id"],
        "webhook": flat,
        "clientId": client_id,
    }


def sns(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "Type": "Notification",
        "MessageId": "04b61286-2cb1-555c-a62e-49836482c5b8",
        "TopicArn": "arn:aws:sns:eu-west-1:000000000000:hooks",
        "Message": json.dumps(document),
        "Timestamp": "2022-05-30T14:11:02.000Z",
    }


def user(level: object, review: object, user_id: str = "6461762") -> dict[str, Any]:
    return {
        "userId": user_id,
        "userTypeId": "1",
        "userStatus": "VALIDATED",
        "clientId": "516899",
        "userTag": PRIVATE,
        "parentUserId": None,
        "title": "M",
        "firstname": PRIVATE,
        "lastname": PRIVATE,
        "birthday": "1989-00-00",
        "email": f"{PRIVATE}@example.com",
        "address1": PRIVATE,
        "city": PRIVATE,
        "country": "FR",
        "phone": PRIVATE,
        "nationality": "FR",
        "placeOfBirth": PRIVATE,
        "legalName": PRIVATE,
        "legalRegistrationDate": "0000-00-00",
        "taxNumber": PRIVATE,
        "kycLevel": level,
        "kycReview": review,
        "kycReviewComment": f"30-05-2022 - 16:11:02Level : {PRIVATE}",
        "createdDate": "2022-05-18 12:21:04",
        "modifiedDate": "2022-05-18 12:21:12",
        "codeStatus": "110009",
        "informationStatus": PRIVATE,
    }


USER_REQUEST = "fd895029-22e5-49ed-a2c8-093c07dc053c"
USER_REVIEW = "8f3577ec-c126-4e94-a3df-1bdccfb0b89f"


def user_event(
    name: str, level: object, review: object, created_at: object = 16539198620721
) -> dict[str, Any]:
    return treezor(
        name,
        "user",
        "6461762",
        {"users": [user(level, review)]},
        webhook_created_at=created_at,
        webhook_id=USER_REQUEST if name == "user.kycrequest" else USER_REVIEW,
    )


# Signed, in object_payload: lastRequestDatetime, and once reviewed lastReviewDatetime.
KYC_REVIEWED = {
    "kycreview.request": {"occurred_at": 1424862399000, "occurred_at_source": "object"},
    "kycreview.result": {"occurred_at": 1424876799000, "occurred_at_source": "object"},
}


def kyc_event(name: str, level: int, review: int, *, signed: bool = False) -> dict[str, Any]:
    done = name == "kycreview.result"
    event = treezor(
        name,
        "kyc",
        "1",
        {
            "userId": 1,
            "clientId": 1234,
            "distributionCountry": "FR",
            "kycLevel": level,
            "kycReview": review,
            "kycReviewComment": PRIVATE,
            "kycStatus": "VALIDATED" if done else "PENDING",
            "kycReviewType": "ONBOARDING",
            "codeStatus": "110006" if done else "110002",
            "informationStatus": PRIVATE,
            "lastRequestDatetime": "2015-02-25T11:06:39Z",
            "lastReviewDatetime": "2015-02-25T15:06:39Z" if done else None,
            "nextReviewDate": "2020-02-25" if done else None,
        },
        webhook_created_at=1771583207,
    )
    if not signed:
        del event["object_payload_signature"]
    return event


def document_event(
    name: str, status: str, kind: tuple[str, str], client: str, user_id: str, **more: str
) -> dict[str, Any]:
    return treezor(
        name,
        "document",
        "8XXXX",
        {
            "documents": [
                {
                    "documentId": "8XXXX",
                    "documentTag": f"LP'6C7`{PRIVATE}",
                    "clientId": client,
                    "userId": user_id,
                    "userFirstname": PRIVATE,
                    "userLastname": PRIVATE,
                    "name": f"{PRIVATE}.pdf",
                    "documentStatus": status,
                    "documentTypeId": kind[0],
                    "documentType": kind[1],
                    "fileName": f"{PRIVATE}.pdf",
                    "thumbFileName": "",
                    "createdDate": "2020-05-19 10:34:21",
                    "modifiedDate": "0000-00-00 00:00:00",
                    "codeStatus": "600004" if status == "CANCELED" else "600003",
                    "informationStatus": PRIVATE,
                    "residenceId": "0",
                    **more,
                }
            ]
        },
        webhook_id="10XXXXXX",
    )


LIVENESS = "9dac1414-6733-46ae-b5a9-1b3aa39ea4bd"
THREE_REFUSALS = ("1312", "1320", "2401")


def liveness_event(
    name: str, status: str, score: object, refusals: tuple[str, ...] = ()
) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "kyc-status": status,
        "comment": PRIVATE,
        "user_id": "2440234",
        "started-at": "2020-06-30T07:10:47.824723Z",
        "updated-at": "2020-06-30T07:15:18.856843Z",
        "score": score,
        "identity": {
            "last-name": PRIVATE,
            "first-name": PRIVATE,
            "birth-date": "1942-11-19",
            "gender": "M",
            "issuing-place": "",
            "birthplace": PRIVATE,
        },
    }
    if score is ABSENT:
        del payload["score"]
    if refusals:
        reasons = [{"reason-code": code, "reason-message": PRIVATE} for code in refusals]
        payload["refusal-details"] = {"meta": {"count": len(reasons)}, "reasons": reasons}
    return treezor(
        name, "identification", LIVENESS, payload, webhook_id="42424224-442z5-42ce9-8242-513d80c1"
    )


TRANSACTION = "b00ecdec-b721-55c4-8e20-ef3625616926"


def identification(
    name: str,
    result: str,
    *,
    time: str = "2024-06-27T09:16:23+02:00",
    channel: str = "APP",
    reason: tuple[str, str] | None = None,
    created_at: object = 17194726044907,
) -> dict[str, Any]:
    """Give a qes.* or videoConference.* event: one shape of payload for both."""
    payload: dict[str, Any] = {
        "userId": "4137216",
        "result": result,
        "identificationTime": time,
        "identId": "TST-TWLYB",
        "transactionNumber": TRANSACTION,
        "type": channel,
        "identity": {
            "firstname": PRIVATE,
            "lastname": PRIVATE,
            "birthday": "1983-08-12",
            "gender": "OTHER",
            "issuingPlace": f"STADT KÖLN {PRIVATE}",
            "birthplace": PRIVATE,
        },
    }
    if reason is not None:
        details = {"reasonCode": reason[0], "reasonMessage": reason[1]}
        payload["reason"] = {"reasonDetails": details}
    return treezor(
        name,
        "identification",
        TRANSACTION,
        payload,
        webhook_created_at=created_at,
        webhook_id="8a7dfe6b-d44a-4b54-92a7-cc02c3d43eb8",
    )


def treezor_row(title: str, event: dict[str, Any], **rest: Any) -> Row:
    return Row(title=title, provider="treezor", body=json_body(event), key="subject", **rest)


USER_SAID = {
    "category": "kyc_review",
    "subject": provider_user("6461762"),
    "provider_account": "516899",
    "process_ref": None,
    "assurance_framework": "treezor",
}
KYC_SAID = {
    "category": "kyc_review",
    "subject": provider_user("1"),
    "provider_account": "1234",
    "provider_event_id": None,
    "process_ref": None,
}
DOCUMENT_SAID = {
    "category": "document",
    "provider_event_id": "10XXXXXX",
    "resource_type": "document",
    "resource_ref": "8XXXX",
    **RECEIVED,
}
LIVENESS_SAID = {
    "category": "liveness",
    "subject": provider_user("2440234"),
    "provider_event_id": "42424224-442z5-42ce9-8242-513d80c1",
    "process_ref": LIVENESS,
    **at("object", 1593501318856),
}
IDENTIFIED_AT = at("object", 1719472583000)  # 2024-06-27T09:16:23+02:00
IDENTIFICATION_SAID = {
    "subject": provider_user("4137216"),
    "provider_event_id": "8a7dfe6b-d44a-4b54-92a7-cc02c3d43eb8",
    "process_ref": TRANSACTION,
    **IDENTIFIED_AT,
}
QES_SAID = {**IDENTIFICATION_SAID, "category": "e_signature"}
VIDEO_SAID = {**IDENTIFICATION_SAID, "category": "video_identification"}

ROWS_TREEZOR = [
    treezor_row(
        "row 6: Treezor user.kycrequest",
        wrapped(user_event("user.kycrequest", "0", "1", 16532945786168)),
        scheme="treezor-wrapped",
        received_at=1653294579000,
        said={
            **USER_SAID,
            **IN_REVIEW,
            "native_type": "user.kycrequest",
            "native_status": "1",
            "provider_event_id": USER_REQUEST,
            "assurance_level": "NONE",
            **at("delivery", tenths(16532945786168)),
        },
    ),
    treezor_row(
        "row 7: Treezor user.kycreview, 2/2",
        wrapped(user_event("user.kycreview", "2", "2")),
        scheme="treezor-wrapped",
        received_at=1653919863000,
        said={
            **USER_SAID,
            **PASS,
            "native_type": "user.kycreview",
            "provider_event_id": USER_REVIEW,
            "assurance_level": "REGULAR",
            "attributes": {"treezor.code_status": "110009"},
            **at("delivery", tenths(16539198620721)),
        },
    ),
    treezor_row(
        "row 8: Treezor kycreview.request, PENDING",
        kyc_event("kycreview.request", 1, 1, signed=True),
        received_at=1771583208000,
        said={
            **KYC_SAID,
            **IN_REVIEW,
            "native_type": "kycreview.request",
            "country": "FR",
            "attributes": {"treezor.review_type": "ONBOARDING"},
            **KYC_REVIEWED["kycreview.request"],
        },
    ),
    treezor_row(
        "row 9: Treezor kycreview.result, VALIDATED",
        kyc_event("kycreview.result", 1, 2, signed=True),
        received_at=1771583208000,
        said={
            **KYC_SAID,
            **PASS,
            "native_type": "kycreview.result",
            "attributes": {"treezor.next_review_date": "2020-02-25"},
            **KYC_REVIEWED["kycreview.result"],
        },
    ),
    treezor_row(
        "row 10: Treezor document.create, PENDING",
        document_event("document.create", "PENDING", ("17", "PASSPORT"), "4XXXX", "1XXXXXX"),
        said={
            **DOCUMENT_SAID,
            **PROCESSING,
            "native_type": "document.create",
            "native_status": "PENDING",
            "subject": provider_user("1XXXXXX"),
            "provider_account": "4XXXX",
            "document_type": "passport",
        },
    ),
    treezor_row(
        "row 11: Treezor document.update, PENDING",
        document_event(
            "document.update",
            "PENDING",
            ("23", "LEGAL_STATUS"),
            "9XXXX",
            "1XXXXXX",
            createdDate="2020-05-13 16:22:03",
            modifiedDate="2020-05-13 18:28:43",
        ),
        said={
            **DOCUMENT_SAID,
            **PROCESSING,
            "native_type": "document.update",
            "subject": provider_user("1XXXXXX"),
            "document_type": "company_articles",
        },
    ),
    treezor_row(
        "row 12: Treezor document.cancel, CANCELED",
        document_event(
            "document.cancel",
            "CANCELED",
            ("21", "PAYSLIP"),
            "1XXXXX",
            "0000000",
            createdDate="2020-05-18 22:55:13",
            modifiedDate="2020-05-18 20:55:24",
        ),
        said={
            **DOCUMENT_SAID,
            **CANCELED,
            "native_type": "document.cancel",
            "native_status": "CANCELED",
            "subject": provider_user("0000000"),
            "document_type": "payslip",
        },
    ),
    treezor_row(
        "row 13: Treezor kycliveness.create, processing",
        liveness_event("kycliveness.create", "processing", 1),
        said={
            **LIVENESS_SAID,
            **PROCESSING,
            "native_type": "kycliveness.create",
            "native_status": "processing",
            "methods": ("liveness",),
            "reasons": (),
        },
    ),
    treezor_row(
        "row 14: Treezor kycliveness.update, processed, refusal-details",
        liveness_event("kycliveness.update", "processed", 0, THREE_REFUSALS),
        said={
            **LIVENESS_SAID,
            **FAIL,
            "native_type": "kycliveness.update",
            "native_status": "processed",
            "reasons": (
                ("face.not_visible", "1312"),
                ("capture.poor_quality", "1320"),
                ("identity.mismatch", "2401"),
            ),
        },
    ),
    treezor_row(
        "row 15: Treezor qes.created, STARTED",
        identification("qes.created", "STARTED", time="", created_at=17194724399022),
        received_at=1719472440000,
        said={
            **QES_SAID,
            **STARTED,
            "native_type": "qes.created",
            "native_status": "STARTED",
            "methods": ("qualified_signature",),
            "attributes": {"treezor.channel": "APP"},
            **at("delivery", tenths(17194724399022)),
        },
    ),
    treezor_row(
        "row 16: Treezor qes.processing, CHECK_PENDING",
        identification("qes.processing", "CHECK_PENDING"),
        said={
            **QES_SAID,
            **PROCESSING,
            "native_type": "qes.processing",
            "native_status": "CHECK_PENDING",
        },
    ),
    treezor_row(
        "row 17: Treezor qes.aborted, ABORTED, 3002",
        identification(
            "qes.aborted", "ABORTED", reason=("3002", "USER_CANCELLATION_DOCUMENT_EXPIRED")
        ),
        said={
            **QES_SAID,
            **ABANDONED,
            "native_type": "qes.aborted",
            "native_status": "ABORTED",
            "reasons": (("document.expired", "3002"),),
        },
    ),
    treezor_row(
        "row 18: Treezor qes.finalized, SUCCESS_DATA_CHANGED",
        identification("qes.finalized", "SUCCESS_DATA_CHANGED"),
        said={
            **QES_SAID,
            **PASS,
            "native_type": "qes.finalized",
            "native_status": "SUCCESS_DATA_CHANGED",
            "attributes": {"treezor.data_changed": "true"},
            "corrected_fields": (),
        },
    ),
    treezor_row(
        "row 19: Treezor qes.finalized, CANCELED, 3201",
        identification("qes.finalized", "CANCELED", reason=("3201", "WARNING_SELFIE_REAL_PERSON")),
        said={
            **QES_SAID,
            **FAIL,
            "native_type": "qes.finalized",
            "native_status": "CANCELED",
            "reasons": (("face.not_live", "3201"),),
        },
    ),
    treezor_row(
        "row 20: Treezor videoConference.created, STARTED",
        identification("videoConference.created", "STARTED", time="", created_at=17194724399022),
        received_at=1719472440000,
        said={
            **VIDEO_SAID,
            **STARTED,
            "native_type": "videoConference.created",
            "native_status": "STARTED",
            "methods": ("video",),
            **at("delivery", tenths(17194724399022)),
        },
    ),
    treezor_row(
        "row 21: Treezor videoConference.processing, REVIEW_PENDING",
        identification(
            "videoConference.processing",
            "REVIEW_PENDING",
            time="2024-08-27T15:23:03+02:00",
            channel="WEB",
            created_at=1724061955000,
        ),
        said={
            **VIDEO_SAID,
            **IN_REVIEW,
            "native_type": "videoConference.processing",
            "native_status": "REVIEW_PENDING",
            "attributes": {"treezor.channel": "WEB"},
            **at("object", 1724764983000),
        },
    ),
    treezor_row(
        "row 22: Treezor videoConference.aborted, empty code, STALLED_TIMEOUT",
        identification(
            "videoConference.aborted",
            "ABORTED",
            time="2024-08-01T01:33:00+02:00",
            channel="WEB",
            reason=("", "STALLED_TIMEOUT"),
            created_at=1724061955000,
        ),
        said={
            **VIDEO_SAID,
            **ABANDONED,
            "native_type": "videoConference.aborted",
            "native_status": "ABORTED",
            "reasons": (("session.timeout", "STALLED_TIMEOUT"),),
            **at("object", 1722468780000),
        },
    ),
    treezor_row(
        "row 23: Treezor videoConference.finalized, SUCCESS_DATA_CHANGED",
        identification(
            "videoConference.finalized",
            "SUCCESS_DATA_CHANGED",
            time="2024-08-19T10:05:55+02:00",
            channel="WEB",
            created_at=1724061955000,
        ),
        said={
            **VIDEO_SAID,
            **PASS,
            "native_type": "videoConference.finalized",
            "attributes": {"treezor.data_changed": "true"},
            "corrected_fields": (),
            **at("object", 1724054755000),
        },
    ),
    treezor_row(
        "row 24: Treezor videoConference.finalized, CANCELED, 3201",
        identification(
            "videoConference.finalized", "CANCELED", reason=("3201", "WARNING_SELFIE_REAL_PERSON")
        ),
        said={
            **VIDEO_SAID,
            **FAIL,
            "native_type": "videoConference.finalized",
            "native_status": "CANCELED",
            "reasons": (("face.not_live", "3201"),),
        },
    ),
]

# Veriff: row 25.

END_USER = platform_user("a1b2c35d-e8f7-6d5e-3cd2-a1b2c35db3d4")


def fixture_row(title: str, case: str, **said: Any) -> Row:
    provider = case.partition("/")[0]
    return Row(title=title, provider=provider, body=fixture_body(case), key="process", said=said)


ROWS_VERIFF = [
    fixture_row(
        "row 25: Veriff user-status.created",
        "veriff/user-status-created",
        **NOT_APPLICABLE,
        native_type="user-status.created",
        native_status="custom_status_for_suspicious_attempt",
        category="annotation",
        subject=END_USER,
        process_ref="0b10cb53-4f3b-48af-bd74-60b85354e51f",
        attempt_ref="f2270684-8c51-4d03-88eb-dafd43e8b486",
        provider_event_id=None,
        reasons=(("manual.annotation", ""),),
        natural_key=(
            "0b10cb53-4f3b-48af-bd74-60b85354e51f",
            "f2270684-8c51-4d03-88eb-dafd43e8b486",
            "a1c68aea-7f4d-478d-80ab-ca9356074f69",
            "custom_status_for_suspicious_attempt",
            "2023-10-27T09:59:15.090805Z",
        ),
        **at("event", 1698400755090),
    )
]

# pawaPass: rows 26 to 33.


def pawapass_row(title: str, case: str, number: int, created_at: int, **said: Any) -> Row:
    notification = f"e0000000-0000-4000-8000-{number:012d}"
    return fixture_row(
        title,
        f"pawapass/{case}",
        **{
            "native_type": "VERIFICATION.STATUS_CHANGE",
            "category": "identity_verification",
            "subject": platform_user("user-zm-98765"),
            "process_ref": "aB1cD2eF",
            "provider_event_id": notification,
            "country": "ZM",
            **at("event", created_at),
            **said,
        },
    )


def pawapass_decline(
    case: str, number: int, minute: int, user_id: str, process: str, country: str, **said: Any
) -> Row:
    return pawapass_row(
        f"row 31: pawaPass DECLINED, {case}",
        f"declined-{case}",
        number,
        1755684000000 + minute * 60_000,  # 2025-08-20T10:00Z
        **FAIL,
        native_status="DECLINED",
        subject=platform_user(user_id),
        process_ref=process,
        country=country,
        **said,
    )


COLLECTED = {
    "document_type": "id_card",
    "document_country": "ZM",
    "age_min": 25,
    "age_max": None,
    "age_method": "estimation",
}
APPROVED_ID = "a1b2c3d4-5678-9012-abcd-ef1234567890"
CHANGED_ID = "a1b2c3d4-5678-9012-abcd-ef1234567891"

ROWS_PAWAPASS = [
    pawapass_row(
        "row 26: pawaPass STATUS_CHANGE CREATED",
        "created",
        2,
        1755680400000,
        status="created",
        outcome="none",
        is_final=False,
        native_status="CREATED",
        age_method=None,
        natural_key=("e0000000-0000-4000-8000-000000000002", "CREATED"),
    ),
    pawapass_row(
        "row 27: pawaPass STARTED",
        "started",
        3,
        1755680700000,
        **STARTED,
        native_status="STARTED",
    ),
    pawapass_row(
        "row 28: pawaPass USER_DATA_COLLECTED",
        "user-data-collected",
        4,
        1755682320000,
        status="submitted",
        outcome="none",
        is_final=False,
        native_status="USER_DATA_COLLECTED",
        **COLLECTED,
    ),
    pawapass_row(
        "row 29: pawaPass REVIEW",
        "review",
        5,
        1755682800000,
        **IN_REVIEW,
        native_status="REVIEW",
    ),
    pawapass_row(
        "row 30: pawaPass APPROVED",
        "approved",
        0,
        1755684900000,
        **PASS,
        **COLLECTED,
        native_status="APPROVED",
        provider_event_id=APPROVED_ID,
        natural_key=(APPROVED_ID, "APPROVED"),
        reasons=(),
    ),
    pawapass_decline(
        "capture-issue",
        6,
        20,
        "user-zm-00006",
        "dE1cL1nE",
        "ZM",
        # row 31 as the corrections have it
        reasons=(("capture.poor_quality", "CAPTURE_ISSUE"),),
        age_min=None,
        age_max=None,
        age_method="estimation",
    ),
    pawapass_decline(
        "document-validity",
        7,
        21,
        "user-zm-00007",
        "dE2cL2nE",
        "ZM",
        reasons=(("document.invalid", "DOCUMENT_VALIDITY"),),
    ),
    pawapass_decline(
        "image-quality",
        8,
        22,
        "user-rw-00008",
        "dE3cL3nE",
        "RW",
        reasons=(("capture.poor_quality", "IMAGE_QUALITY"),),
        age_min=None,
        age_max=8,
    ),
    pawapass_decline(
        "generic",
        9,
        23,
        "user-gh-00009",
        "dE4cL4nE",
        "GH",
        reasons=(("other", "GENERIC"),),
    ),
    pawapass_row(
        "row 32: pawaPass EXPIRED",
        "expired",
        11,
        1756285200000,
        native_status="EXPIRED",
        status="expired",
        outcome="none",
        is_final=True,
        subject=platform_user("user-zm-00011"),
        process_ref="eX1pI2rE",
        reason_codes=("session.expired",),
    ),
    pawapass_row(
        "row 33: pawaPass IDENTITY_DOCUMENT_CHANGE",
        "identity-document-change",
        0,
        1755763200000,
        **NOT_APPLICABLE,
        native_type="VERIFICATION.IDENTITY_DOCUMENT_CHANGE",
        category="data_correction",
        provider_event_id=CHANGED_ID,
        natural_key=(CHANGED_ID, "APPROVED"),
        corrected_fields=(),
    ),
]

TABLE = [
    *ROWS_PLEENK,
    *ROWS_PLEXY,
    *ROWS_TREEZOR,
    *ROWS_VERIFF,
    *ROWS_PAWAPASS,
]
"""Rows 1 to 33; row 31 has a case for each of its four reasons."""

# The corrections, line by line.


def edited(case: str, path: str, value: object) -> bytes:
    """Give a fixture's body with the value at one dotted path replaced."""
    document = json.loads(fixture_body(case))
    *parents, last = path.split(".")
    node = document
    for name in parents:
        node = node[name]
    node[last] = value
    return json_body(document)


AGE_BANDS: dict[str, tuple[int | None, int | None]] = {
    "UNDER_8": (None, 8),
    "OVER_8": (8, None),
    "OVER_13": (13, None),
    "OVER_16": (16, None),
    "OVER_18": (18, None),
    "OVER_21": (21, None),
    "OVER_25": (25, None),
    "OVER_30": (30, None),
    "UNKNOWN": (None, None),
}

PAWAPASS_AGES = [
    Row(
        title=f"pawaPass ageEstimation {band}",
        provider="pawapass",
        body=edited("pawapass/approved", "data.faceScan.ageEstimation", band),
        key="process",
        said={**PASS, "age_min": age_min, "age_max": age_max, "age_method": "estimation"},
    )
    for band, (age_min, age_max) in AGE_BANDS.items()
]

DAY = 86_400_000

USER_SENT = 1653919862072  # 16539198620721
KYC_SENT = 1771583207000
CREATED_SENT = 1719472439902  # 17194724399022


def around(sent: int) -> list[tuple[str, int, bool]]:
    return [
        ("within 24 hours after", sent + DAY - 60_000, True),
        ("within 24 hours before", sent - DAY + 60_000, True),
        ("more than 24 hours after", sent + DAY + 60_000, False),
        ("more than 24 hours before", sent - DAY - 60_000, False),
    ]


TREEZOR_TIMES = [
    *(
        treezor_row(
            f"rows 6, 7: {when}, {name}",
            wrapped(user_event(name, "2", "2")),
            scheme="treezor-wrapped",
            received_at=received_at,
            said=at("delivery", tenths(16539198620721)) if trusted else RECEIVED,
        )
        for name in ("user.kycrequest", "user.kycreview")
        for when, received_at, trusted in around(USER_SENT)
    ),
    *(
        treezor_row(
            f"rows 8, 9, {authenticity}: {when}, {name}",
            kyc_event(name, 1, 2, signed=authenticity == "signed"),
            authenticity=authenticity,
            received_at=received_at,
            said=KYC_REVIEWED[name]
            if authenticity == "signed"
            else at("delivery", KYC_SENT)
            if trusted
            else RECEIVED,
        )
        for name in ("kycreview.request", "kycreview.result")
        for authenticity in ("unsigned", "signed")
        for when, received_at, trusted in around(KYC_SENT)
    ),
    *(
        treezor_row(
            f"rows 15 to 24: {when}, {kind}.created without identificationTime",
            identification(f"{kind}.created", "STARTED", time="", created_at=17194724399022),
            received_at=received_at,
            said=at("delivery", tenths(17194724399022)) if trusted else RECEIVED,
        )
        for kind in ("qes", "videoConference")
        for when, received_at, trusted in around(CREATED_SENT)
    ),
    *(
        treezor_row(
            f"rows 15 to 24: {when}, {kind}.finalized with a signed identificationTime",
            identification(f"{kind}.finalized", "SUCCESS", created_at=17194724399022),
            received_at=received_at,
            said=IDENTIFIED_AT,
        )
        for kind in ("qes", "videoConference")
        for when, received_at, _ in around(CREATED_SENT)
    ),
]

TREEZOR_UNSIGNED = [
    treezor_row(
        "rows 8, 9, unsigned: kycreview.request",
        kyc_event("kycreview.request", 1, 1),
        authenticity="unsigned",
        received_at=1771583208000,
        said={**KYC_SAID, **IN_REVIEW, "country": "FR", **at("delivery", KYC_SENT)},
    ),
    treezor_row(
        "rows 8, 9, unsigned: kycreview.result, VALIDATED",
        kyc_event("kycreview.result", 1, 2),
        authenticity="unsigned",
        received_at=1771583208000,
        said={
            **KYC_SAID,
            "status": "completed",
            "outcome": "pass",
            "is_final": False,
            **at("delivery", KYC_SENT),
        },
    ),
    treezor_row(
        "rows 8, 9, unsigned: kycreview.result, refused",
        kyc_event("kycreview.result", 4, 3),
        authenticity="unsigned",
        said={**KYC_SAID, "status": "completed", "outcome": "fail", "is_final": False, **RECEIVED},
    ),
]

KYC_MEANINGS = {
    "p": PASS,
    "f": FAIL,
    "r": IN_REVIEW,
    "n": NOT_APPLICABLE,
    "u": UNKNOWN,
}
# "review 2 with level 1, 2, 3, 6 pass; review 3 or level 4 fail; review 1, 4, 6, 7 in_review;
# 0 with 0 not_applicable; else unknown", read in this order: level 4 stays a fail under review.
KYC_GRID = {
    # review 0 1 2 3 4 5 6 7
    0: "n r u f r u r r",
    1: "u r p f r u r r",
    2: "u r p f r u r r",
    3: "u r p f r u r r",
    4: "f f f f f f f f",
    5: "u r u f r u r r",
    6: "u r p f r u r r",
    7: "u r u f r u r r",
}
KYC_PAIRS = [
    (level, review, KYC_MEANINGS[letter])
    for level, letters in KYC_GRID.items()
    for review, letter in enumerate(letters.split())
]
KYC_LEVELS = {
    0: "NONE",
    1: "LIGHT",
    2: "REGULAR",
    3: "STRONG",
    4: "REFUSED",
    5: "PREVALIDATED",
    6: "ENHANCED",
}

TREEZOR_KYC = [
    *(
        treezor_row(
            f"Treezor user.*: level {level}, review {review}, {name}",
            wrapped(user_event(name, str(level), str(review))),
            scheme="treezor-wrapped",
            said={"category": "kyc_review", "subject": provider_user("6461762"), **meaning},
        )
        for name in ("user.kycrequest", "user.kycreview")
        for level, review, meaning in KYC_PAIRS
    ),
    *(
        treezor_row(
            f"Treezor {name}, as kyc objects have it: level {level}, review {review}",
            kyc_event(name, level, review, signed=True),
            said={"category": "kyc_review", "subject": provider_user("1"), **meaning},
        )
        for name in ("kycreview.request", "kycreview.result")
        for level, review, meaning in KYC_PAIRS
    ),
    *(
        treezor_row(
            f"Treezor user.*: {name}, {level}/{review}",
            wrapped(user_event(name, level, review)),
            scheme="treezor-wrapped",
            said={**USER_SAID, **meaning, "native_type": name},
        )
        for name in ("user.create", "user.update", "user.cancel")
        for level, review, meaning in (
            ("2", "2", PASS),
            ("4", "3", FAIL),
            ("0", "0", NOT_APPLICABLE),
        )
    ),
    *(
        treezor_row(
            f"Treezor's level {level} is {name}",
            wrapped(user_event("user.kycreview", str(level), "1")),
            scheme="treezor-wrapped",
            said={"assurance_framework": "treezor", "assurance_level": name, "unmapped": ()},
        )
        for level, name in KYC_LEVELS.items()
    ),
]

TREEZOR_LIVENESS = [
    treezor_row(f"Treezor kycliveness: {title}", liveness_event(name, *sent), said=said)
    for name in ("kycliveness.create", "kycliveness.update")
    for title, sent, said in (
        (
            f"processed and score 1, {name}",
            ("processed", 1),
            {**LIVENESS_SAID, "status": "completed", "outcome": "pass", "reasons": ()},
        ),
        (f"processed and score 0, {name}", ("processed", 0), {**LIVENESS_SAID, **FAIL}),
        (
            f"processed, no score and refusal-details, {name}",
            ("processed", ABSENT, THREE_REFUSALS),
            {**LIVENESS_SAID, **FAIL},
        ),
        (
            f"processed, a reason on no list, {name}",
            ("processed", 0, ("9999",)),
            {**LIVENESS_SAID, **FAIL, "reasons": (("unmapped", "9999"),)},
        ),
        (f"processing, score 1, {name}", ("processing", 1), {**LIVENESS_SAID, **PROCESSING}),
        (f"processing, score 0, {name}", ("processing", 0), {**LIVENESS_SAID, **PROCESSING}),
        (
            f"processing, no score, {name}",
            ("processing", ABSENT),
            {**LIVENESS_SAID, **PROCESSING},
        ),
        (
            f"an abandoned state, {name}",
            ("abandoned", 0),
            {**LIVENESS_SAID, "status": "abandoned", "outcome": "none"},
        ),
    )
]

TREEZOR_RESULTS = [
    treezor_row(
        f"Treezor {kind} result {result}",
        identification(f"{kind}.finalized", result),
        said={"category": category, "native_status": result, **said},
    )
    for kind, category in (("qes", "e_signature"), ("videoConference", "video_identification"))
    for result, said in (
        ("START", STARTED),
        ("STARTED", STARTED),
        ("CHECK_PENDING", PROCESSING),
        ("REVIEW_PENDING", IN_REVIEW),
        ("ABORTED", ABANDONED),
        ("SUCCESS", PASS),
        ("SUCCESS_DATA_CHANGED", {**PASS, "attributes": {"treezor.data_changed": "true"}}),
        ("SUCCESS_DATA_CHANGE", {**PASS, "attributes": {"treezor.data_changed": "true"}}),
        ("SOMETHING_NEW", UNKNOWN),
    )
]
"""Both spellings of each pair, whatever the event is called: the value wins over the name."""

# Pleenk.

ANSWERS = {"true": True, "false": False, "missing": ABSENT, "null": None, "text": "yes", "1": 1}


def answered(**answers: object) -> dict[str, object]:
    return {name: value for name, value in answers.items() if value is not ABSENT}


def verdict(*answers: str) -> dict[str, Any]:
    if "false" in answers:
        return FAIL
    if set(answers) == {"true"}:
        return PASS
    return {"status": "completed", "outcome": "inconclusive", "is_final": True}


def ages(prefix: str, answer: str) -> dict[str, Any]:
    return {
        "age_threshold": 18,
        "age_method": "estimation" if prefix else "unspecified",
        "age_min": 18 if answer == "true" else None,
        "age_max": 18 if answer == "false" else None,
    }


PLEENK_APPROVE = [
    *(
        Row(
            title=f"Pleenk APPROVE: {prefix}age_over_18 {answer}",
            provider="pleenk",
            body=pleenk(
                pleenk_approve(
                    f"{prefix}age_over_18", answered(**{f"{prefix}age_over_18": ANSWERS[answer]})
                )
            ),
            key="subject",
            said={**APPROVE, "category": "age_check", **verdict(answer), **ages(prefix, answer)},
        )
        for prefix in ("", "estimated_")
        for answer in ANSWERS
    ),
    *(
        Row(
            title=f"Pleenk APPROVE: age {age}, country {country}",
            provider="pleenk",
            body=pleenk(
                pleenk_approve(
                    "age_over_18,resident_country=FRA",
                    answered(
                        **{
                            "age_over_18": ANSWERS[age],
                            "resident_country=FRA": ANSWERS[country],
                        }
                    ),
                )
            ),
            key="subject",
            said={
                **APPROVE,
                "category": "age_check",
                **verdict(age, country),
                **ages("", age),
                "country": None,
                "document_country": None,
            },
        )
        for age, country in product(ANSWERS, ANSWERS)
    ),
    *(
        Row(
            title=f"Pleenk APPROVE: no age, gender {gender}",
            provider="pleenk",
            body=pleenk(pleenk_approve("gender=F", answered(**{"gender=F": ANSWERS[gender]}))),
            key="subject",
            said={
                **APPROVE,
                "category": "identity_verification",
                **verdict(gender),
                "age_threshold": None,
                "age_min": None,
                "age_max": None,
                "age_method": None,
            },
        )
        for gender in ANSWERS
    ),
    *(
        Row(
            title=f"Pleenk APPROVE: age 18 {first}, age 21 {second}",
            provider="pleenk",
            body=pleenk(
                pleenk_approve(
                    "age_over_18,age_over_21",
                    {"age_over_18": ANSWERS[first], "age_over_21": ANSWERS[second]},
                )
            ),
            key="subject",
            said={
                **APPROVE,
                "category": "age_check",
                **verdict(first, second),
                "age_min": age_min,
                "age_max": age_max,
            },
        )
        for first, second, age_min, age_max in (
            ("true", "true", 21, None),
            ("true", "false", 18, 21),
            ("false", "false", None, 18),
        )
    ),
    *(
        Row(
            title=f"Pleenk APPROVE: the result is {title}",
            provider="pleenk",
            body=pleenk(pleenk_approve("age_over_18", result)),
            key="subject",
            said={
                **APPROVE,
                "category": "age_check",
                **verdict("missing"),
                "age_min": None,
                "age_max": None,
            },
        )
        for title, result in (("missing", ABSENT), ("null", None), ("empty", {}))
    ),
    Row(
        title="Pleenk APPROVE: three criteria, the country fails",
        provider="pleenk",
        body=pleenk(
            pleenk_approve(
                "age_over_18,gender=F,resident_country=FRA",
                {"age_over_18": True, "gender=F": True, "resident_country=FRA": False},
            )
        ),
        key="subject",
        said={**APPROVE, "category": "age_check", **FAIL, **ages("", "true")},
    ),
]

PAYMENT_SAID = {
    "native_type": "PAYMENT",
    "category": "payment",
    "process_ref": "abcde",
    "provider_event_id": None,
    # no currency is ever sent
    "payment_currency": None,
    **RECEIVED,
}

PLEENK_OTHERS = [
    Row(
        title="Pleenk PAYMENT: CONFIRMED",
        provider="pleenk",
        body=pleenk(pleenk_payment()),
        key="process",
        said={
            **PAYMENT_SAID,
            **PASS,
            "native_status": "CONFIRMED",
            # The number of decimals is known only with a currency, and none is sent.
            "payment_amount_minor": Either(None, 10000),
        },
    ),
    Row(
        title="Pleenk PAYMENT: two beneficiaries",
        provider="pleenk",
        body=pleenk(pleenk_payment(amounts=(60.0, 40.0))),
        key="process",
        said={**PAYMENT_SAID, **PASS, "payment_amount_minor": None},
    ),
    Row(
        title="Pleenk PAYMENT: no beneficiary",
        provider="pleenk",
        body=pleenk(pleenk_payment(amounts=())),
        key="process",
        said={**PAYMENT_SAID, **PASS, "payment_amount_minor": None},
    ),
    Row(
        title="Pleenk PAYMENT: another status",
        provider="pleenk",
        body=pleenk(pleenk_payment("REVERSED")),
        key="process",
        said={**PAYMENT_SAID, **UNKNOWN, "native_status": "REVERSED"},
    ),
    Row(
        title="Pleenk USER: LINKED",
        provider="pleenk",
        body=pleenk(pleenk_user()),
        key="subject",
        said={
            **NOT_APPLICABLE,
            "native_type": "USER",
            "native_status": "LINKED",
            "category": "annotation",
            "subject": platform_user("8d1c7d19-7883-4ee6-8e90-f5c4f4fc3957"),
            "process_ref": None,
            "provider_event_id": None,
            **RECEIVED,
        },
    ),
]

# Plexy.

PLEXY_A_TYPES = [
    Row(
        title=f"Plexy A: {native_type}, whatever data.status says ({status})",
        provider="plexy",
        body=plexy_a(native_type, "obj_1", status),
        key="process",
        said={**PLEXY_A, **meaning, "category": category, "process_ref": "obj_1"},
    )
    for native_type, category, meaning in (
        ("payment.succeeded", "payment", PASS),
        ("payment.failed", "payment", FAIL),
        ("refund.succeeded", "refund", PASS),
        ("refund.failed", "refund", FAIL),
    )
    for status in ("succeeded", "failed", "pending")
]

PLEXY_B_TIMES = {
    "processedAt": ("2024-04-01T12:04:00Z", 1711973040000),
    "confirmedAt": ("2024-04-01T12:03:00Z", 1711972980000),
    "authedAt": ("2024-04-01T12:02:00Z", 1711972920000),
    "updatedAt": ("2024-04-01T12:05:00Z", 1711973100000),
    "createdAt": ("2024-04-01T12:00:00Z", 1711972800000),
}
"""The first of these that is there counts, not the latest."""


def plexy_b(status: str, *, without: tuple[str, ...] = (), **more: object) -> bytes:
    data: dict[str, object] = {
        "id": "txn_abcdef123456",
        "amount": 1000,
        "balance": 9000,
        "currency": "USD",
        "status": status,
        "type": "payment",
        "last4": PRIVATE,
        "paymentMethod": "card",
        "payerIp": PRIVATE,
        "merchantReference": PRIVATE,
        "description": PRIVATE,
        **{name: text for name, (text, _) in PLEXY_B_TIMES.items()},
        "processedAmount": 1000,
        "storeId": "store_1234",
        "terminalId": "term_5678",
        "secure3d": True,
        "parentTransactionId": "txn_parent1234",
        "recurringType": "subscription",
        "retrievalReferenceNumber": "RRN987654321",
        "paymentLinkId": {"Value": "pl_019a2a21f46f706ea202a75adabcbb80"},
        "paymentSessionId": {"Value": "019a2a22-1b0d-7732-9672-134baf97b06c"},
        "cardTokenId": {"Value": PRIVATE},
        "customerId": {"Value": PRIVATE},
        **more,
    }
    kept = {name: value for name, value in data.items() if name not in without}
    return json_body({"name": f"transaction.{status}", "merchantId": "123456", "data": kept})


def plexy_b_row(title: str, body: bytes, **said: Any) -> Row:
    return Row(
        title=title,
        provider="plexy",
        body=body,
        key="process",
        scheme="plexy-bearer",
        authenticity="token",
        said={
            "subject": None,
            "provider_event_id": None,
            "process_ref": "txn_abcdef123456",
            **at("object", PLEXY_B_TIMES["processedAt"][1]),
            **said,
        },
    )


CREATED = {"status": "created", "outcome": "none", "is_final": False}
AWAITING = {"status": "awaiting_input", "outcome": "none", "is_final": False}

PLEXY_B = [
    *(
        plexy_b_row(
            f"Plexy B: transaction.{status}",
            plexy_b(status),
            native_type=f"transaction.{status}",
            category=category,
            **meaning,
        )
        for status, category, meaning in (
            ("created", "payment", CREATED),
            ("authorized", "payment", PROCESSING),
            ("3d", "payment", AWAITING),
            ("charged", "payment", PASS),
            ("rejected", "payment", FAIL),
            ("failed", "payment", FAIL),
            ("cancelled", "payment", CANCELED),
            ("refunded", "refund", PASS),
        )
    ),
    *(
        plexy_b_row(
            f"Plexy B: occurred_at is {name}",
            plexy_b("charged", without=tuple(PLEXY_B_TIMES)[:position]),
            **at("object", moment),
        )
        for position, (name, (_, moment)) in enumerate(PLEXY_B_TIMES.items())
    ),
    plexy_b_row(
        "Plexy B: no time at all", plexy_b("charged", without=tuple(PLEXY_B_TIMES)), **RECEIVED
    ),
    *(
        plexy_b_row(f"Plexy B: absent values {title}", plexy_b("charged", **more), **PASS)
        for title, more in (
            ("are null", dict.fromkeys(("paymentLinkId", "cardTokenId", "customerId"))),
            ("are {}", {"paymentLinkId": {}, "cardTokenId": {}, "customerId": {}}),
        )
    ),
]

# Veriff.

SESSION = "a0000000-0000-4000-8000-{:012d}".format
ATTEMPT = "b0000000-0000-4000-8000-{:012d}".format
VERIFF_USER = "d0000000-0000-4000-8000-{:012d}".format


def veriff_decision(title: str, case: str, number: int, **said: Any) -> Row:
    return fixture_row(
        f"Veriff decision: {title}",
        f"veriff/decision-{case}",
        **{
            "native_type": "decision",
            "category": "identity_verification",
            "subject": platform_user(VERIFF_USER(number)),
            "process_ref": SESSION(number),
            # 2025-03-<number>T07:18:36.916Z
            **at("object", 1740813516916 + (number - 1) * DAY),
            **said,
        },
    )


VERIFF_DECISIONS = [
    fixture_row(
        "Veriff decision: approved",
        "veriff/decision-approved",
        native_type="decision",
        native_status="approved",
        category="identity_verification",
        status="completed",
        outcome="pass",
        subject=END_USER,
        process_ref="12df6045-3846-3e45-946a-14fa6136d78b",
        attempt_ref="00bca969-b53a-4fad-b065-874d41a7b2b8",
        reasons=(),
        **at("object", 1730877456916),
    ),
    veriff_decision(
        "declined",
        "declined",
        10,
        status="completed",
        outcome="fail",
        attempt_ref=ATTEMPT(10),
        reasons=(("fraud.known", "106"),),
    ),
    veriff_decision(
        "declined, the reason typed by hand",
        "declined-typed-reason",
        12,
        status="completed",
        outcome="fail",
        native_reasons=("",),
    ),
    veriff_decision(
        "resubmission_requested",
        "resubmission",
        16,
        status="awaiting_input",
        outcome="inconclusive",
        is_final=False,
        retry_allowed=True,
        reasons=(("capture.poor_quality", "204"),),
    ),
    veriff_decision(
        "expired",
        "expired",
        17,
        status="expired",
        outcome="none",
        subject=platform_user("12345678"),
    ),
    veriff_decision("abandoned", "abandoned", 18, status="abandoned", outcome="none"),
    veriff_decision("review", "review", 19, status="in_review", outcome="none"),
    veriff_decision("another status", "unlisted-status", 20, **UNKNOWN, native_status="paused"),
    Row(
        title="Veriff decision: no decisionTime",
        provider="veriff",
        body=edited("veriff/decision-declined", "verification.decisionTime", None),
        key="process",
        said={"outcome": "fail", **RECEIVED},
    ),
]

VERIFF_EVENTS = [
    fixture_row(
        f"Veriff event: {action}",
        f"veriff/event-{case}",
        native_type="event",
        native_status=action,
        category="identity_verification",
        status=status,
        outcome="none",
        is_final=False,
        subject=END_USER,
        process_ref=process,
        **RECEIVED,
    )
    for action, case, status, process in (
        ("started", "started", "started", "f04bdb47-d3be-4b28-b028-a652feb060b5"),
        ("submitted", "submitted", "submitted", "f04bdb47-d3be-4b28-b028-a652feb060b5"),
        ("paused", "unlisted-action", "unknown", SESSION(5)),
    )
]

VERIFF_OTHERS = [
    fixture_row(
        "Veriff watchlist: no_match",
        "veriff/watchlist-initial-no-match",
        native_type="watchlist-screening",
        native_status="no_match",
        category="screening",
        status="completed",
        outcome="pass",
        is_final=False,
        subject=END_USER,
        process_ref=SESSION(6),
        attempt_ref=ATTEMPT(6),
        reasons=(),
        natural_key=(
            SESSION(6),
            ATTEMPT(6),
            "initial_result",
            "no_match",
            "2025-04-01T11:04:00.287145Z",
        ),
    ),
    msgspec.structs.replace(
        fixture_row(
            "Veriff watchlist: possible_match, an older payload without a session",
            "veriff/watchlist-updated-result",
            native_type="watchlist-screening",
            category="screening",
            status="completed",
            outcome="inconclusive",
            is_final=False,
            subject=platform_user("12345678"),
            process_ref=None,
            reason_codes=("screening.match",),
        ),
        key="subject",
    ),
    *(
        fixture_row(
            f"Veriff registries: {native_type}",
            f"veriff/{case}",
            native_type=native_type,
            category="identity_verification",
            methods=("database",),
            subject=END_USER,
            process_ref=process,
        )
        for native_type, case, process in (
            ("ine_registry", "ine-registry", "f04bdb47-d3be-4b28-b028-a652feb060b5"),
            ("curp_registry", "curp-registry", "f04bdb47-d3be-4b28-b028-a652feb060b5"),
            ("combined-ine-curp-registry", "combined-ine-curp", SESSION(9)),
        )
    ),
    fixture_row(
        "Veriff full auto",
        "veriff/full-auto",
        native_type="full-auto",
        category="identity_verification",
        status="completed",
        outcome="inconclusive",
        attributes={"veriff.decision_score": "0.97"},
        process_ref=SESSION(21),
    ),
]

VERIFF_REASONS = {
    "document.not_physical": (101,),
    "document.tampered": (102, 507, 508),
    "face.mismatch": (103, 120, 509),
    "document.data_mismatch": (104,),
    "fraud.suspected": (105, 111, 113, 501, 502, 503, 504, 505, 526),
    "fraud.known": (106, 127),
    "fraud.velocity": (107, 108, 109, 110, 124),
    "country.unsupported": (112,),
    "identity.not_found": (122,),
    "identity.mismatch": (123, 128),
    "screening.match": (126,),
    "technical.error": (129, 537),
    "capture.incomplete": (201, 203, 208),
    "face.not_visible": (202,),
    "capture.poor_quality": (204,),
    "document.unreadable": (205, 527),
    "document.unsupported": (206, 510),
    "document.expired": (207, 511, 528),
    "document.missing": (209, 210),
    "face.not_live": (515,),
    "age.below_threshold": (530, 531, 532, 533, 534, 535, 536),
    "session.attempts_exhausted": (539,),
    "other": (121,),
    "unmapped": (100, 114, 119, 125, 130, 200, 211, 500, 506, 512, 529, 538, 540, 999),
}
VERIFF_AGES = {530: 13, 531: 14, 532: 16, 533: 18, 534: 20, 535: 21, 536: 25}

VERIFF_CODES = [
    Row(
        title=f"Veriff reason {code} is {reason}",
        provider="veriff",
        body=edited("veriff/decision-declined", "verification.reasonCode", str(code)),
        key="process",
        said={
            "reasons": ((reason, str(code)),),
            "outcome": "fail",
            "age_threshold": VERIFF_AGES.get(code),
            "age_max": VERIFF_AGES.get(code),
            "age_min": None,
        },
    )
    for reason, codes in VERIFF_REASONS.items()
    for code in codes
]

CORRECTIONS = [
    *PAWAPASS_AGES,
    *TREEZOR_TIMES,
    *TREEZOR_UNSIGNED,
    *TREEZOR_KYC,
    *TREEZOR_LIVENESS,
    *TREEZOR_RESULTS,
    *PLEENK_APPROVE,
    *PLEENK_OTHERS,
    *PLEXY_A_TYPES,
    *PLEXY_B,
    *VERIFF_DECISIONS,
    *VERIFF_EVENTS,
    *VERIFF_OTHERS,
    *VERIFF_CODES,
]
