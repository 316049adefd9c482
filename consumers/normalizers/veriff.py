"""What Veriff's webhooks mean: decision, event, watchlist, user-defined status, registries.

There is no common envelope and no event id: a kind is recognised by its discriminator or its
shape (https://devdocs.veriff.com/docs/webhooks-guide). A field may be null, empty or missing,
depending on the integration's configuration, so little beyond the ids is required.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from consumers.event import (
    DocumentType,
    Ignored,
    Outcome,
    ReasonCode,
    Statement,
    Status,
    Subject,
)
from consumers.failures import Failure
from consumers.identity import KeyedBy
from consumers.normalizers.native import (
    ABSENT,
    Glossary,
    Verdict,
    as_text,
    constant,
    digest,
    first_moment,
    moment,
    optional_reference,
    platform_user,
    reading,
    reference,
)
from gateway.delivery import Provenance

REVISION = 1

DECISION = "decision"
EVENT = "event"
WATCHLIST = "watchlist-screening"
USER_STATUS = "user-status.created"
INE = "ine_registry"
CURP = "curp_registry"
INE_CURP = "combined-ine-curp-registry"
FULL_AUTO = "full-auto"

NATIVE_TYPES = frozenset(
    {DECISION, EVENT, WATCHLIST, USER_STATUS, INE, CURP, INE_CURP, FULL_AUTO},
)
UNMAPPED_FIELDS = frozenset(
    {
        "action",
        "data.status",
        "matchStatus",
        "verification.document.country",
        "verification.document.type",
        "verification.reasonCode",
        "verification.status",
    },
)
IGNORED_REASONS = frozenset({"no_decision"})

KEYED_BY: KeyedBy = "process"
SCHEMES: tuple[str, ...] = ()

# About hourly for up to 7 days: https://help.veriff.com/en/articles/3250261
RETRIED_FOR_DAYS = 7


def _subject(end_user_id: str | None, vendor_data: str | None, at: str = "$") -> Subject | None:
    return platform_user(end_user_id, f"{at}.endUserId") or platform_user(
        vendor_data, f"{at}.vendorData"
    )


# Decision: https://devdocs.veriff.com/docs/decision-webhook


class _Document(msgspec.Struct, gc=False):
    type: str | None = None
    country: str | None = None


class _Verification(msgspec.Struct, rename="camel", gc=False):
    id: str
    status: str
    attempt_id: str | None = None
    reason: str | None = None
    reason_code: str | int | None = None
    decision_time: str | None = None
    vendor_data: str | None = None
    end_user_id: str | None = None
    document: _Document | None = None


class _Decision(msgspec.Struct, gc=False):
    verification: _Verification


_decode_decision = msgspec.json.Decoder(_Decision).decode

# By the status text, never by the code: expired and abandoned share 9104, and two of Veriff's
# own pages give 9121 different meanings.
_VERDICTS: Mapping[str, Verdict] = {
    "approved": ("completed", "pass", True),
    "declined": ("completed", "fail", True),
    "resubmission_requested": ("awaiting_input", "inconclusive", False),
    "expired": ("expired", "none", True),
    "abandoned": ("abandoned", "none", True),
    "review": ("in_review", "none", False),
}

_DOCUMENT_TYPES: Mapping[str, DocumentType] = {
    "PASSPORT": "passport",
    "ID_CARD": "id_card",
    "DRIVERS_LICENSE": "driving_licence",
    "RESIDENCE_PERMIT": "residence_permit",
}

# https://devdocs.veriff.com/docs/verification-session-decision-codes-table and
# https://devdocs.veriff.com/docs/granular-reason-codes; the lists grow, so never closed.
_REASONS: Mapping[str, ReasonCode] = {
    "101": "document.not_physical",
    "102": "document.tampered",
    "103": "face.mismatch",
    "104": "document.data_mismatch",
    "105": "fraud.suspected",
    "106": "fraud.known",
    "107": "fraud.velocity",
    "108": "fraud.velocity",
    "109": "fraud.velocity",
    "110": "fraud.velocity",
    "111": "fraud.suspected",
    "112": "country.unsupported",
    "113": "fraud.suspected",
    "120": "face.mismatch",
    "121": "other",
    "122": "identity.not_found",
    "123": "identity.mismatch",
    "124": "fraud.velocity",
    "126": "screening.match",
    "127": "fraud.known",
    "128": "identity.mismatch",
    "129": "technical.error",
    "201": "capture.incomplete",
    "202": "face.not_visible",
    "203": "capture.incomplete",
    "204": "capture.poor_quality",
    "205": "document.unreadable",
    "206": "document.unsupported",
    "207": "document.expired",
    "208": "capture.incomplete",
    "209": "document.missing",
    "210": "document.missing",
    "501": "fraud.suspected",
    "502": "fraud.suspected",
    "503": "fraud.suspected",
    "504": "fraud.suspected",
    "505": "fraud.suspected",
    "507": "document.tampered",
    "508": "document.tampered",
    "509": "face.mismatch",
    "510": "document.unsupported",
    "511": "document.expired",
    "515": "face.not_live",
    "526": "fraud.suspected",
    "527": "document.unreadable",
    "528": "document.expired",
    "530": "age.below_threshold",
    "531": "age.below_threshold",
    "532": "age.below_threshold",
    "533": "age.below_threshold",
    "534": "age.below_threshold",
    "535": "age.below_threshold",
    "536": "age.below_threshold",
    "537": "technical.error",
    "539": "session.attempts_exhausted",
}

# The only machine-readable "too young" of a declined session.
_AGE_LIMITS: Mapping[str, int] = {
    "530": 13,
    "531": 14,
    "532": 16,
    "533": 18,
    "534": 20,
    "535": 21,
    "536": 25,
}


def _decision(body: bytes) -> Statement:
    verification = _decode_decision(body).verification
    glossary = Glossary()
    native_status = verification.status
    status, outcome, is_final = glossary.verdict(_VERDICTS, native_status, "verification.status")
    # Documented as text, sent as a number to some integrations.
    code = as_text(verification.reason_code)
    reasons = glossary.reasons(_REASONS, code, "verification.reasonCode")
    if not code and verification.reason and native_status != "approved":
        # A reason typed by hand has no code; its text may name a person.
        reasons = (("other", ""),)
    limit = _AGE_LIMITS.get(code) if native_status == "declined" else None
    document_type: DocumentType | None = None
    document_country = None
    if verification.document is not None:
        document = verification.document
        if document.type:
            document_type = glossary.read(
                _DOCUMENT_TYPES, document.type, "verification.document.type", "other"
            )
        document_country = glossary.country(document.country, "verification.document.country")
    occurred_at, source = moment(
        verification.decision_time, "object", "$.verification.decisionTime"
    )
    return Statement(
        native_type=DECISION,
        natural_key=(digest(body),),
        subject=_subject(verification.end_user_id, verification.vendor_data, "$.verification"),
        native_status=constant(native_status),
        category="identity_verification",
        status=status,
        outcome=outcome,
        is_final=is_final,
        retry_allowed=True if native_status == "resubmission_requested" else None,
        reasons=reasons,
        subject_type="person",
        process_ref=reference(verification.id, "$.verification.id"),
        attempt_ref=optional_reference(verification.attempt_id, "$.verification.attemptId"),
        occurred_at=occurred_at,
        occurred_at_source=source,
        age_max=limit,
        age_threshold=limit,
        age_method=None if limit is None else "unspecified",
        document_type=document_type,
        document_country=document_country,
        unmapped=glossary.unmapped,
    )


# Event: https://devdocs.veriff.com/docs/event-webhook


class _Event(msgspec.Struct, rename="camel", gc=False):
    id: str
    action: str
    attempt_id: str | None = None
    vendor_data: str | None = None
    end_user_id: str | None = None


_decode_event = msgspec.json.Decoder(_Event).decode

_ACTIONS: Mapping[str, Status] = {"started": "started", "submitted": "submitted"}


def _event(body: bytes) -> Statement:
    event = _decode_event(body)
    glossary = Glossary()
    status = glossary.read(_ACTIONS, event.action, "action", "unknown")
    # It has no time at all: it happened when it was received, which a retry delays.
    return Statement(
        native_type=EVENT,
        natural_key=(digest(body),),
        subject=_subject(event.end_user_id, event.vendor_data),
        native_status=constant(event.action),
        category="identity_verification",
        status=status,
        subject_type="person",
        process_ref=reference(event.id, "$.id"),
        attempt_ref=optional_reference(event.attempt_id, "$.attemptId"),
        unmapped=glossary.unmapped,
    )


# Watchlist: https://devdocs.veriff.com/docs/watchlist-screening-webhook


class _Watchlist(msgspec.Struct, rename="camel", gc=False):
    check_type: str
    match_status: str
    created_at: str
    session_id: str | None = None
    attempt_id: str | None = None
    vendor_data: str | None = None
    end_user_id: str | None = None


_decode_watchlist = msgspec.json.Decoder(_Watchlist).decode

# Never final: monitoring goes on for months.
_MATCHES: Mapping[str, tuple[Status, Outcome]] = {
    "no_match": ("completed", "pass"),
    "possible_match": ("completed", "inconclusive"),
}


def _watchlist(body: bytes) -> Statement:
    check = _decode_watchlist(body)
    glossary = Glossary()
    status, outcome = glossary.read(
        _MATCHES, check.match_status, "matchStatus", ("unknown", "none")
    )
    occurred_at, source = moment(check.created_at, "event", "$.createdAt")
    return Statement(
        native_type=WATCHLIST,
        natural_key=(
            check.session_id or "",
            check.attempt_id or "",
            check.check_type,
            check.match_status,
            check.created_at,
        ),
        subject=_subject(check.end_user_id, check.vendor_data),
        native_status=constant(check.match_status),
        category="screening",
        status=status,
        outcome=outcome,
        reasons=(("screening.match", ""),) if check.match_status == "possible_match" else (),
        subject_type="person",
        process_ref=optional_reference(check.session_id, "$.sessionId"),
        attempt_ref=optional_reference(check.attempt_id, "$.attemptId"),
        occurred_at=occurred_at,
        occurred_at_source=source,
        unmapped=glossary.unmapped,
    )


# User-defined status: https://devdocs.veriff.com/docs/user-defined-statuses-webhook


class _UserDefined(msgspec.Struct, rename="camel", gc=False):
    created_at: str
    status_code: str | None = None
    reason_code: str | int | None = None


class _Annotated(msgspec.Struct, rename="camel", gc=False):
    user_defined_data: _UserDefined
    id: str | None = None


class _UserStatusData(msgspec.Struct, gc=False):
    verification: _Annotated


class _UserStatus(msgspec.Struct, rename="camel", gc=False):
    session_id: str
    data: _UserStatusData
    attempt_id: str | None = None
    vendor_data: str | None = None
    end_user_id: str | None = None


_decode_user_status = msgspec.json.Decoder(_UserStatus).decode


def _user_status(body: bytes) -> Statement:
    sent = _decode_user_status(body)
    annotated = sent.data.verification
    mark = annotated.user_defined_data
    code = as_text(mark.reason_code)
    occurred_at, source = moment(
        mark.created_at, "event", "$.data.verification.userDefinedData.createdAt"
    )
    return Statement(
        native_type=USER_STATUS,
        # `time` is left out: it is the time of sending, so a retry may change it.
        natural_key=(
            sent.session_id,
            sent.attempt_id or "",
            annotated.id or "",
            mark.status_code or "",
            mark.created_at,
        ),
        subject=_subject(sent.end_user_id, sent.vendor_data),
        native_status=constant(mark.status_code),
        category="annotation",
        status="not_applicable",
        reasons=(("manual.annotation", constant(code) or ""),),
        subject_type="person",
        process_ref=reference(sent.session_id, "$.sessionId"),
        # data.verification.id is documented as the same id; the published sample's two differ.
        attempt_ref=optional_reference(sent.attempt_id, "$.attemptId"),
        occurred_at=occurred_at,
        occurred_at_source=source,
    )


# Mexican registries: https://devdocs.veriff.com/docs/ine-webhook and
# https://devdocs.veriff.com/docs/curp-webhook. Their texts are localised and never copied.


class _IneDetails(msgspec.Struct, gc=False):
    active: bool | None = None


class _IneData(msgspec.Struct, gc=False):
    status: str | None = None
    code: str | int | None = None
    details: _IneDetails | None = None


class _Ine(msgspec.Struct, rename="camel", gc=False):
    session_id: str
    data: _IneData
    attempt_id: str | None = None
    vendor_data: str | None = None
    end_user_id: str | None = None
    time: str | None = None


class _CurpData(msgspec.Struct, rename="camel", gc=False):
    attempt_id: str | None = None
    status: str | None = None
    code: str | int | None = None


class _Curp(msgspec.Struct, rename="camel", gc=False):
    id: str
    data: _CurpData
    vendor_data: str | None = None
    end_user_id: str | None = None


class _IneCurp(msgspec.Struct, rename="camel", gc=False):
    session_id: str
    attempt_id: str | None = None
    vendor_data: str | None = None
    end_user_id: str | None = None
    time: str | None = None


_decode_ine = msgspec.json.Decoder(_Ine).decode
_decode_curp = msgspec.json.Decoder(_Curp).decode
_decode_ine_curp = msgspec.json.Decoder(_IneCurp).decode

_ACTIVE: Mapping[bool | None, tuple[Status, Outcome]] = {
    True: ("completed", "pass"),
    False: ("completed", "fail"),
    None: ("unknown", "none"),
}
_FOUND: Mapping[str, tuple[Status, Outcome]] = {"found": ("completed", "pass")}


def _ine(body: bytes) -> Statement:
    answer = _decode_ine(body)
    details = answer.data.details
    status, outcome = _ACTIVE[details.active if details is not None else None]
    occurred_at, source = moment(answer.time, "delivery", "$.time")
    return Statement(
        native_type=INE,
        natural_key=(digest(body),),
        subject=_subject(answer.end_user_id, answer.vendor_data),
        native_status=constant(answer.data.status),
        category="identity_verification",
        status=status,
        outcome=outcome,
        subject_type="person",
        process_ref=reference(answer.session_id, "$.sessionId"),
        attempt_ref=optional_reference(answer.attempt_id, "$.attemptId"),
        occurred_at=occurred_at,
        occurred_at_source=source,
        methods=("database",),
        attributes=_registry_code(answer.data.code),
    )


def _curp(body: bytes) -> Statement:
    answer = _decode_curp(body)
    glossary = Glossary()
    verdict: tuple[Status, Outcome] = ("unknown", "none")
    if answer.data.status:
        verdict = glossary.read(_FOUND, answer.data.status, "data.status", verdict)
    return Statement(
        native_type=CURP,
        natural_key=(digest(body),),
        subject=_subject(answer.end_user_id, answer.vendor_data),
        native_status=constant(answer.data.status),
        category="identity_verification",
        status=verdict[0],
        outcome=verdict[1],
        subject_type="person",
        process_ref=reference(answer.id, "$.id"),
        attempt_ref=optional_reference(answer.data.attempt_id, "$.data.attemptId"),
        methods=("database",),
        attributes=_registry_code(answer.data.code),
        unmapped=glossary.unmapped,
    )


def _ine_curp(body: bytes) -> Statement:
    answer = _decode_ine_curp(body)
    # Where its two results stand is not documented in what we could read, so none is claimed.
    occurred_at, source = moment(answer.time, "delivery", "$.time")
    return Statement(
        native_type=INE_CURP,
        natural_key=(digest(body),),
        subject=_subject(answer.end_user_id, answer.vendor_data),
        category="identity_verification",
        subject_type="person",
        process_ref=reference(answer.session_id, "$.sessionId"),
        attempt_ref=optional_reference(answer.attempt_id, "$.attemptId"),
        occurred_at=occurred_at,
        occurred_at_source=source,
        methods=("database",),
    )


def _registry_code(code: str | int | None) -> dict[str, str]:
    text = constant(as_text(code))
    return {"veriff.registry_code": text} if text else {}


# Full Auto: https://devdocs.veriff.com/docs/full-auto-webhook names decisionScore and no more;
# ids and times are taken from wherever the other kinds have them.


class _Scored(msgspec.Struct, rename="camel", gc=False):
    decision_score: int | float | None
    id: str | None = None
    session_id: str | None = None
    attempt_id: str | None = None
    decision_time: str | None = None
    vendor_data: str | None = None
    end_user_id: str | None = None


class _FullAutoData(msgspec.Struct, rename="camel", gc=False):
    verification: _Scored
    session_id: str | None = None
    attempt_id: str | None = None


class _FullAuto(msgspec.Struct, rename="camel", gc=False):
    data: _FullAutoData
    id: str | None = None
    session_id: str | None = None
    attempt_id: str | None = None
    time: str | None = None
    vendor_data: str | None = None
    end_user_id: str | None = None


_decode_full_auto = msgspec.json.Decoder(_FullAuto).decode


def _full_auto(body: bytes) -> Statement:
    sent = _decode_full_auto(body)
    data, scored = sent.data, sent.data.verification
    score = scored.decision_score
    if score is not None and not 0 <= score <= 1:
        raise Failure("out_of_range", path="$.data.verification.decisionScore")
    decided = moment(scored.decision_time, "object", "$.data.verification.decisionTime")
    delivered = moment(sent.time, "delivery", "$.time")
    occurred_at, source = first_moment((decided, delivered))
    return Statement(
        native_type=FULL_AUTO,
        natural_key=(digest(body),),
        subject=_subject(sent.end_user_id, sent.vendor_data)
        or _subject(scored.end_user_id, scored.vendor_data, "$.data.verification"),
        category="identity_verification",
        # A score and no decision: whether it is enough is the platform's judgement.
        status="completed",
        outcome="inconclusive",
        subject_type="person",
        process_ref=optional_reference(sent.session_id, "$.sessionId")
        or optional_reference(sent.id, "$.id")
        or optional_reference(data.session_id, "$.data.sessionId")
        or optional_reference(scored.session_id, "$.data.verification.sessionId")
        or optional_reference(scored.id, "$.data.verification.id"),
        attempt_ref=optional_reference(sent.attempt_id, "$.attemptId")
        or optional_reference(data.attempt_id, "$.data.attemptId")
        or optional_reference(scored.attempt_id, "$.data.verification.attemptId"),
        occurred_at=occurred_at,
        occurred_at_source=source,
        attributes={} if score is None else {"veriff.decision_score": str(score)},
    )


# Which kind a body is.


class _Envelope(msgspec.Struct, rename="camel", gc=False):
    event_type: Any = None
    type: Any = None
    verification: msgspec.Raw = ABSENT
    action: msgspec.Raw = ABSENT
    feature: msgspec.Raw = ABSENT
    check_type: msgspec.Raw = ABSENT
    match_status: msgspec.Raw = ABSENT
    data: msgspec.Raw = ABSENT


class _MaybeScored(msgspec.Struct, rename="camel", gc=False):
    decision_score: msgspec.Raw = ABSENT


class _MaybeFullAuto(msgspec.Struct, gc=False):
    verification: _MaybeScored


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_maybe_full_auto = msgspec.json.Decoder(_MaybeFullAuto).decode

_READERS: Mapping[str, Callable[[bytes], Statement]] = {
    DECISION: _decision,
    EVENT: _event,
    WATCHLIST: _watchlist,
    USER_STATUS: _user_status,
    INE: _ine,
    CURP: _curp,
    INE_CURP: _ine_curp,
    FULL_AUTO: _full_auto,
}
_NAMING_THEMSELVES = frozenset({USER_STATUS, INE, CURP, INE_CURP})


def normalize(
    body: bytes,
    provenance: Provenance,  # noqa: ARG001 - Veriff says everything in the body
) -> list[Statement] | Ignored:
    """Say what a Veriff delivery means; one delivery is one statement."""
    envelope = _decode_envelope(body)
    kind = _kind(envelope)
    if kind == DECISION and bytes(envelope.verification) == b"null":
        return Ignored(reason="no_decision", native_type=DECISION)
    return [reading(kind, _READERS[kind], body)]


def _kind(envelope: _Envelope) -> str:
    # CURP names itself in `type`, the others in `eventType`.
    for name in (envelope.event_type, envelope.type):
        if isinstance(name, str) and name in _NAMING_THEMSELVES:
            return name
    if _is_present(envelope.data) and _has_score(envelope.data):
        return FULL_AUTO
    if isinstance(envelope.event_type, str):
        raise Failure("unknown_type", path="$.eventType")
    if _is_present(envelope.verification):
        return DECISION
    if _is_present(envelope.action) or _is_present(envelope.feature):
        return EVENT
    if _is_present(envelope.check_type) or _is_present(envelope.match_status):
        return WATCHLIST
    raise Failure("unknown_type")


def _is_present(raw: msgspec.Raw) -> bool:
    return raw is not ABSENT


def _has_score(data: msgspec.Raw) -> bool:
    try:
        verification = _decode_maybe_full_auto(data).verification
    except msgspec.ValidationError:
        return False
    return _is_present(verification.decision_score)
