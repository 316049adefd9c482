"""VerificationEvent, its vocabularies, and Statement: what a mapping says of one payload.

The schema is avro/VerificationEvent.avsc; a test holds the fields here equal to it. Every
vocabulary is closed on our side and open on the reader's: readers treat a value they do not
know as `unknown`.
"""

from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import msgspec

Category = Literal[
    "age_check",
    "identity_verification",
    "kyc_review",
    "business_verification",
    "document",
    "liveness",
    "e_signature",
    "video_identification",
    "screening",
    "data_correction",
    "annotation",
    "payment",
    "refund",
    "unknown",
]
Status = Literal[
    "created",
    "started",
    "submitted",
    "processing",
    "in_review",
    "awaiting_input",
    "completed",
    "abandoned",
    "canceled",
    "expired",
    "error",
    "not_applicable",
    "unknown",
]
Outcome = Literal["pass", "fail", "inconclusive", "none"]
TimeSource = Literal["event", "object", "delivery", "received"]
SubjectKind = Literal["platform_user", "provider_user"]
SubjectType = Literal["person", "organisation", "unknown"]
Method = Literal[
    "physical_document",
    "digital_id",
    "secondary_document",
    "database",
    "in_person",
    "video",
    "liveness",
    "face_match",
    "age_estimation",
    "qualified_signature",
]
AgeMethod = Literal["verification", "estimation", "inference", "unspecified"]
DocumentType = Literal[
    "passport",
    "id_card",
    "driving_licence",
    "residence_permit",
    "voter_id",
    "refugee_id",
    "payslip",
    "bank_statement",
    "utility_bill",
    "tax_notice",
    "company_registration",
    "company_articles",
    "other",
]
ReasonCode = Literal[
    "document.expired",
    "document.unsupported",
    "document.unreadable",
    "document.missing",
    "document.invalid",
    "document.tampered",
    "document.data_mismatch",
    "document.not_physical",
    "capture.poor_quality",
    "capture.incomplete",
    "face.mismatch",
    "face.not_live",
    "face.not_visible",
    "face.manipulated",
    "identity.mismatch",
    "identity.not_found",
    "age.below_threshold",
    "age.undetermined",
    "fraud.suspected",
    "fraud.known",
    "fraud.velocity",
    "user.abandoned",
    "user.consent_declined",
    "session.timeout",
    "session.expired",
    "session.attempts_exhausted",
    "country.unsupported",
    "device.unsupported",
    "screening.match",
    "technical.error",
    "payment.declined",
    "manual.annotation",
    "other",
    "unmapped",
]

VOCABULARIES: dict[str, frozenset[str]] = {
    "category": frozenset(get_args(Category)),
    "status": frozenset(get_args(Status)),
    "outcome": frozenset(get_args(Outcome)),
    "occurred_at_source": frozenset(get_args(TimeSource)),
    "subject_ref_kind": frozenset(get_args(SubjectKind)),
    "subject_type": frozenset(get_args(SubjectType)),
    "methods": frozenset(get_args(Method)),
    "age_method": frozenset(get_args(AgeMethod)),
    "document_type": frozenset(get_args(DocumentType)),
    "reason_codes": frozenset(get_args(ReasonCode)),
}
"""Field name -> every value it can have."""


class Subject(msgspec.Struct, frozen=True):
    """Whom a payload is about: an identifier that becomes a pseudonym and goes no further."""

    kind: SubjectKind
    id: str


class Statement(msgspec.Struct, kw_only=True):
    """What one payload (or one item of a batch) says, in provider-neutral words.

    A mapping fills this; identity, pseudonyms, provenance and coordinates are added by
    `consumers.fate`. `natural_key` is made only of content the signature covers, and of
    enough of it that two deliveries saying different things never share one (design of
    identity: consumers/identity.py). `type_family` stands for the native type in the event id
    where the native type itself is not signed. `occurred_at` is in milliseconds since the Unix
    epoch, None where the payload has no usable time. `reasons` pairs our code with the
    provider's own, most important first. `unmapped` names the fields whose native value our
    tables do not know.
    """

    native_type: str
    natural_key: tuple[str, ...]
    type_family: str | None = None
    subject: Subject | None = None
    provider_account: str | None = None
    provider_event_id: str | None = None
    native_status: str | None = None
    category: Category = "unknown"
    status: Status = "unknown"
    outcome: Outcome = "none"
    is_final: bool = False
    retry_allowed: bool | None = None
    reasons: tuple[tuple[ReasonCode, str], ...] = ()
    subject_type: SubjectType = "unknown"
    process_ref: str | None = None
    attempt_ref: str | None = None
    resource_type: str | None = None
    resource_ref: str | None = None
    occurred_at: int | None = None
    occurred_at_source: TimeSource = "received"
    methods: tuple[Method, ...] = ()
    assurance_framework: str | None = None
    assurance_level: str | None = None
    age_min: int | None = None
    age_max: int | None = None
    age_threshold: int | None = None
    age_method: AgeMethod | None = None
    document_type: DocumentType | None = None
    document_country: str | None = None
    country: str | None = None
    corrected_fields: tuple[str, ...] = ()
    payment_amount_minor: int | None = None
    payment_currency: str | None = None
    attributes: dict[str, str] = {}
    item_index: int = 0
    unmapped: tuple[str, ...] = ()


class Ignored(msgspec.Struct, frozen=True):
    """A delivery of a known kind that deliberately becomes no event; `reason` is counted."""

    reason: str
    native_type: str


class VerificationEvent(msgspec.Struct, kw_only=True, frozen=True):
    """One thing a provider reported, as it stands on the output topic; see the schema's docs."""

    event_id: str
    provider: str
    endpoint: str
    environment: str = "unknown"
    authenticity: str = "unknown"
    provider_account: str | None = None
    provider_event_id: str | None = None
    native_type: str
    native_status: str | None = None
    category: str = "unknown"
    status: str = "unknown"
    outcome: str = "none"
    is_final: bool = False
    retry_allowed: bool | None = None
    reason_codes: tuple[str, ...] = ()
    native_reason_codes: tuple[str, ...] = ()
    subject_ref: str | None = None
    subject_ref_kind: str | None = None
    subject_key_id: str | None = None
    subject_type: str = "unknown"
    process_ref: str | None = None
    attempt_ref: str | None = None
    resource_type: str | None = None
    resource_ref: str | None = None
    occurred_at: int
    occurred_at_source: str = "received"
    received_at: int
    methods: tuple[str, ...] = ()
    assurance_framework: str | None = None
    assurance_level: str | None = None
    age_min: int | None = None
    age_max: int | None = None
    age_threshold: int | None = None
    age_method: str | None = None
    document_type: str | None = None
    document_country: str | None = None
    country: str | None = None
    corrected_fields: tuple[str, ...] = ()
    payment_amount_minor: int | None = None
    payment_currency: str | None = None
    attributes: dict[str, str] = {}
    item_index: int = 0
    raw_topic: str
    raw_partition: int
    raw_offset: int
    mapping_revision: int


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def epoch_ms(moment: datetime | None) -> int | None:
    """Milliseconds since the Unix epoch, exact; None for no time and for one without a zone.

    A local time without a zone says nothing usable: the event then takes the time of receipt.
    """
    if moment is None or moment.tzinfo is None:
        return None
    return (moment - _EPOCH) // _MILLISECOND
