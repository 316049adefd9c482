"""What pawaPass' webhooks mean: status changes of a verification, and corrected documents.

Both events carry the whole verification in one shape
(https://docs.pawapass.com/api-reference/verifications/callback).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from consumers.event import (
    AgeMethod,
    Category,
    DocumentType,
    Method,
    ReasonCode,
    Statement,
)
from consumers.failures import Failure
from consumers.identity import KeyedBy
from consumers.normalizers.native import (
    Glossary,
    Reason,
    Verdict,
    constant,
    moment_of,
    platform_user,
    reading,
    reference,
)
from gateway.delivery import Provenance

REVISION = 1

STATUS_CHANGE = "VERIFICATION.STATUS_CHANGE"
DOCUMENT_CHANGE = "VERIFICATION.IDENTITY_DOCUMENT_CHANGE"

NATIVE_TYPES = frozenset({STATUS_CHANGE, DOCUMENT_CHANGE})
UNMAPPED_FIELDS = frozenset(
    {
        "data.country",
        "data.faceScan.ageEstimation",
        "data.identityDocument.country",
        "data.identityDocument.type",
        "data.requirements.type",
        "data.reviewResult.reason",
        "data.status",
    },
)
IGNORED_REASONS: frozenset[str] = frozenset()

KEYED_BY: KeyedBy = "process"
SCHEMES: tuple[str, ...] = ()

# 55 attempts in about a week: https://docs.pawapass.com/api-reference/verifications/callback
RETRIED_FOR_DAYS = 7


class _Requirement(msgspec.Struct, gc=False):
    type: str | None = None


class _ReviewResult(msgspec.Struct, gc=False):
    reason: str | None = None


class _IdentityDocument(msgspec.Struct, gc=False):
    type: str | None = None
    country: str | None = None


class _FaceScan(msgspec.Struct, rename="camel", gc=False):
    age_estimation: str | None = None


class _Verification(msgspec.Struct, rename="camel", gc=False):
    id: str
    external_id: str
    status: str
    country: str | None = None
    requirements: list[_Requirement] | None = None
    review_result: _ReviewResult | None = None
    identity_document: _IdentityDocument | None = None
    face_scan: _FaceScan | None = None


class _Notification(msgspec.Struct, rename="camel", gc=False):
    notification_id: str
    created_at: datetime
    data: _Verification


class _Envelope(msgspec.Struct, gc=False):
    type: Any = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode = msgspec.json.Decoder(_Notification).decode

_VERDICTS: Mapping[str, Verdict] = {
    "CREATED": ("created", "none", False),
    "STARTED": ("started", "none", False),
    "USER_DATA_COLLECTED": ("submitted", "none", False),
    "REVIEW": ("in_review", "none", False),
    "APPROVED": ("completed", "pass", True),
    "DECLINED": ("completed", "fail", True),
    "EXPIRED": ("expired", "none", True),
}

_REASONS: Mapping[str, ReasonCode] = {
    "CAPTURE_ISSUE": "capture.poor_quality",
    "DOCUMENT_VALIDITY": "document.invalid",
    "IMAGE_QUALITY": "capture.poor_quality",
    "GENERIC": "other",
}

_DOCUMENT_TYPES: Mapping[str, DocumentType] = {
    "PASSPORT": "passport",
    "NATIONAL_ID": "id_card",
    "DRIVER_LICENSE": "driving_licence",
    "REFUGEE_ID": "refugee_id",
    "VOTER_ID": "voter_id",
    "RESIDENCE_PERMIT": "residence_permit",
}

# A face scan may be a liveness check, a face match or both: the pages do not say, so neither
# do we.
_METHODS: Mapping[str, tuple[Method, ...]] = {
    "DOCUMENT_SCAN": ("physical_document",),
    "FACE_SCAN": (),
}

_Band = tuple[int | None, int | None]

_AGE_BANDS: Mapping[str, _Band] = {
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
_NO_BAND: _Band = (None, None)


def normalize(
    body: bytes,
    provenance: Provenance,  # noqa: ARG001 - pawaPass says everything in the body
) -> list[Statement]:
    """Say what a pawaPass notification means; one notification is one statement."""
    native_type = _decode_envelope(body).type
    if not isinstance(native_type, str) or native_type not in NATIVE_TYPES:
        raise Failure("unknown_type", path="$.type")
    return [reading(native_type, _statement, native_type, body)]


def _statement(native_type: str, body: bytes) -> Statement:
    notification = _decode(body)
    verification = notification.data
    glossary = Glossary()

    category: Category = "identity_verification"
    verdict = glossary.verdict(_VERDICTS, verification.status, "data.status")
    reasons = _reasons(verification, glossary)
    if native_type == DOCUMENT_CHANGE:
        # Sent after the conclusion and restating it: it must not count as a second decision.
        category, verdict, reasons = "data_correction", ("not_applicable", "none", False), ()
    status, outcome, is_final = verdict

    methods: list[Method] = []
    for requirement in verification.requirements or ():
        if requirement.type:
            methods += glossary.read(_METHODS, requirement.type, "data.requirements.type", ())

    age_min = age_max = None
    age_method: AgeMethod | None = None
    band = verification.face_scan.age_estimation if verification.face_scan is not None else None
    if band:
        age_method = "estimation"
        age_min, age_max = glossary.read(_AGE_BANDS, band, "data.faceScan.ageEstimation", _NO_BAND)
        if age_min is not None or age_max is not None:
            methods.append("age_estimation")

    document_type: DocumentType | None = None
    document_country = None
    document = verification.identity_document
    if document is not None:
        if document.type:
            document_type = glossary.read(
                _DOCUMENT_TYPES, document.type, "data.identityDocument.type", "other"
            )
        document_country = glossary.country(document.country, "data.identityDocument.country")

    country = glossary.country(verification.country, "data.country")
    occurred_at, source = moment_of(notification.created_at, "event")

    return Statement(
        native_type=native_type,
        natural_key=(notification.notification_id, verification.status),
        subject=platform_user(verification.external_id, "$.data.externalId"),
        provider_event_id=reference(notification.notification_id, "$.notificationId"),
        native_status=constant(verification.status),
        category=category,
        status=status,
        outcome=outcome,
        is_final=is_final,
        reasons=reasons,
        subject_type="person",
        process_ref=reference(verification.id, "$.data.id"),
        occurred_at=occurred_at,
        occurred_at_source=source,
        methods=tuple(dict.fromkeys(methods)),
        age_min=age_min,
        age_max=age_max,
        age_method=age_method,
        document_type=document_type,
        document_country=document_country,
        country=country,
        unmapped=glossary.unmapped,
    )


def _reasons(verification: _Verification, glossary: Glossary) -> tuple[Reason, ...]:
    if verification.status == "EXPIRED":
        return (("session.expired", ""),)
    result = verification.review_result
    reason = result.reason if result is not None else None
    return glossary.reasons(_REASONS, reason, "data.reviewResult.reason")
