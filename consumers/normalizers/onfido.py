"""What Onfido's webhooks mean: Studio's workflow runs and tasks, classic checks and reports.

Actions, statuses, report names, results and document types are the words of Onfido's own clients
(https://github.com/onfido/onfido-python, from its OpenAPI description). A notification always
says what happened to which object and where it stands; what was found stands in `resource`, and
only sometimes. `resource` holds names, birth dates and document numbers, so little of it is read.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from consumers.event import (
    Category,
    DocumentType,
    Ignored,
    Method,
    Outcome,
    ReasonCode,
    Statement,
    Status,
    Subject,
)
from consumers.failures import Failure
from consumers.identity import KeyedBy
from consumers.normalizers.countries import ALPHA_2
from consumers.normalizers.native import (
    ABSENT,
    UNKNOWN_VERDICT,
    Glossary,
    Moment,
    Reason,
    Verdict,
    constant,
    digest,
    first_moment,
    moment,
    part_of,
    platform_user,
    provider_user,
    reading,
    reference,
)
from gateway.delivery import Provenance

T = TypeVar("T")

REVISION = 1

KEYED_BY: KeyedBy = "process"
SCHEMES: tuple[str, ...] = ()

# How long is not documented where we could read it: the longest known of others.
RETRIED_FOR_DAYS = 7

RUN_COMPLETED = "workflow_run.completed"
MATCHES_UPDATED = "watchlist_monitor.matches_updated"

# Where a task, check or report stands when the notification gives no status, which it gives "if
# available": what the action's name says, in the words of _STATUSES. Inferred.
_TASKS: Mapping[str, str] = {
    "workflow_task.started": "started",
    "workflow_task.completed": "completed",
}
_CHECKS: Mapping[str, str] = {
    "check.started": "in_progress",
    "check.reopened": "reopened",
    "check.withdrawn": "withdrawn",
    "check.completed": "complete",
    "check.form_completed": "in_progress",
}
_REPORTS: Mapping[str, str] = {
    "report.resumed": "awaiting_data",
    "report.awaiting_approval": "awaiting_approval",
    "report.withdrawn": "withdrawn",
    "report.cancelled": "cancelled",
    "report.completed": "complete",
}

# No statement about a verification: what the customer's own staff did, and files to fetch. The
# last name stood in older versions of the list.
_IGNORED: Mapping[str, str] = {
    "audit_log.created": "audit_log",
    "workflow_timeline_file.created": "file_created",
    "workflow_run_evidence_folder.created": "file_created",
    "workflow_signed_evidence_file.created": "file_created",
}

NATIVE_TYPES = frozenset(
    {RUN_COMPLETED, MATCHES_UPDATED, *_TASKS, *_CHECKS, *_REPORTS, *_IGNORED},
)
UNMAPPED_FIELDS = frozenset(
    {
        "breakdown",
        "object.status",
        "object.task_def_id",
        "properties.document_type",
        "properties.issuing_country",
        "resource.name",
        "result",
        "sub_result",
    },
)
IGNORED_REASONS = frozenset(_IGNORED.values())


class _Object(msgspec.Struct, gc=False):
    id: str
    status: str | None = None
    workflow_run_id: str | None = None
    task_def_id: str | None = None
    started_at_iso8601: str | None = None
    completed_at_iso8601: str | None = None


class _Payload(msgspec.Struct, gc=False):
    object: _Object
    resource: msgspec.Raw = ABSENT


class _Notification(msgspec.Struct, gc=False):
    payload: _Payload


class _Error(msgspec.Struct, gc=False):
    type: str | None = None


class _Resource(msgspec.Struct, gc=False):
    """What a run or a task carries beside the object."""

    applicant_id: str | None = None
    customer_user_id: str | None = None
    workflow_run_id: str | None = None
    reasons: list[str] | None = None
    error: _Error | None = None
    output: msgspec.Raw = ABSENT


class _Leaf(msgspec.Struct, gc=False):
    result: str | None = None


class _Part(msgspec.Struct, gc=False):
    result: str | None = None
    breakdown: dict[str, _Leaf | None] | None = None


class _Properties(msgspec.Struct, gc=False):
    document_type: str | None = None
    issuing_country: str | None = None


class _Findings(msgspec.Struct, frozen=True, gc=False):
    """What a report found: a task's output or, as a guess, the resource of a classic report."""

    name: str | None = None
    result: str | None = None
    sub_result: str | None = None
    properties: _Properties | None = None
    breakdown: dict[str, _Part | None] | None = None


class _Action(msgspec.Struct, gc=False):
    action: Any = None


class _Envelope(msgspec.Struct, gc=False):
    payload: _Action | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode = msgspec.json.Decoder(_Notification).decode
_RESOURCE = msgspec.json.Decoder(_Resource | None)
_FINDINGS = msgspec.json.Decoder(_Findings | None)

# A run in review waits for a decision of the customer's, so its verdict is open; that no other
# notification follows is not documented.
_RUNS: Mapping[str, Verdict] = {
    "processing": ("processing", "none", False),
    "awaiting_input": ("awaiting_input", "none", False),
    "awaiting_client_input": ("processing", "none", False),  # of the customer's systems
    "review": ("in_review", "none", False),
    "approved": ("completed", "pass", True),
    "declined": ("completed", "fail", True),
    "abandoned": ("abandoned", "none", True),
    "error": ("error", "none", True),
}

# Of checks, reports and tasks; the list is one for all, which kind has which is partly inferred.
_STATUSES: Mapping[str, Status] = {
    "started": "started",
    "in_progress": "processing",
    "awaiting_data": "processing",
    "awaiting_approval": "processing",
    "awaiting_applicant": "awaiting_input",
    "paused": "processing",
    "reopened": "processing",
    "complete": "completed",
    "completed": "completed",
    "withdrawn": "canceled",
    "cancelled": "canceled",
}

# `consider`: something is to be looked at, by the customer. `complete` alone is no result.
_RESULTS: Mapping[str, Outcome] = {
    "clear": "pass",
    "consider": "inconclusive",
    "unidentified": "inconclusive",
}
# Of document reports only, null otherwise.
_SUB_RESULTS: Mapping[str, Outcome] = {
    "clear": "pass",
    "caution": "inconclusive",
    "suspected": "inconclusive",
    "rejected": "fail",
}
_NOT_FLAGGED = (None, "", "clear")
_WORST_FIRST: tuple[Outcome, ...] = ("none", "fail", "inconclusive", "pass")

_Kind = tuple[Category, tuple[Method, ...]]

_IDENTITY: _Kind = ("identity_verification", ())
_DOCUMENT: _Kind = ("document", ("physical_document",))
_FACE: _Kind = ("liveness", ("face_match",))
_LIVE_FACE: _Kind = ("liveness", ("liveness", "face_match"))
_SCREENING: _Kind = ("screening", ())

# The kinds are inferred from the names.
_REPORT_NAMES: Mapping[str, _Kind] = {
    "document": _DOCUMENT,
    "document_video": _DOCUMENT,
    "document_video_with_address_information": _DOCUMENT,
    "document_with_address_information": _DOCUMENT,
    "document_with_driving_licence_information": _DOCUMENT,
    "document_with_driver_verification": _DOCUMENT,
    "facial_similarity_photo": _FACE,
    "facial_similarity_photo_fully_auto": _FACE,
    "facial_similarity_video": _LIVE_FACE,
    "facial_similarity_motion": _LIVE_FACE,
    "known_faces": _IDENTITY,
    "identity_enhanced": ("identity_verification", ("database",)),
    "watchlist_aml": _SCREENING,
    "watchlist_enhanced": _SCREENING,
    "watchlist_standard": _SCREENING,
    "watchlist_peps_only": _SCREENING,
    "watchlist_sanctions_only": _SCREENING,
    "proof_of_address": ("document", ("secondary_document",)),
    "us_driving_licence": ("document", ("database",)),
    "device_intelligence": _IDENTITY,
    "india_pan": ("identity_verification", ("database",)),
}

# Tasks whose output is a report. The first is published; the others are no published sample.
_CHECKING_TASKS: Mapping[str, _Kind] = {
    "document_check": _DOCUMENT,
    "face_check_photo": _FACE,
    "face_check_video": _LIVE_FACE,
    "face_check_motion": _LIVE_FACE,
}
# Tasks that only collect. The first two are published; the others stand in public code.
_COLLECTING_TASKS: Mapping[str, _Kind] = {
    "profile_data": _IDENTITY,
    "upload_document_photo": _DOCUMENT,
    "upload_document": _DOCUMENT,
    "upload_face_photo": _IDENTITY,
    "upload_face_video": _IDENTITY,
    "upload_face_motion": _IDENTITY,
}
_ALL_TASKS: Mapping[str, _Kind] = {**_CHECKING_TASKS, **_COLLECTING_TASKS}

# Parts of a report that are not clear, where our vocabulary has a word, most important first;
# their names stand in the clients' models. Which word fits is inferred.
_BREAKDOWN: Mapping[str, ReasonCode] = {
    "compromised_document.document_database": "fraud.known",
    "compromised_document.repeat_attempts": "fraud.velocity",
    "visual_authenticity.digital_tampering": "document.tampered",
    "visual_authenticity.original_document_present": "document.not_physical",
    "visual_authenticity.spoofing_detection": "face.not_live",
    "visual_authenticity.liveness_detected": "face.not_live",
    "face_comparison.face_match": "face.mismatch",
    "age_validation.minimum_accepted_age": "age.below_threshold",
    "data_validation.document_expiration": "document.expired",
    "image_integrity.supported_document": "document.unsupported",
    "image_integrity.image_quality": "capture.poor_quality",
    "image_integrity.conclusive_document_quality": "capture.poor_quality",
    "image_integrity.face_detected": "face.not_visible",
    "data_comparison.first_name": "document.data_mismatch",
    "data_comparison.last_name": "document.data_mismatch",
    "data_comparison.date_of_birth": "document.data_mismatch",
    "data_comparison.document_numbers": "document.data_mismatch",
    "sanction": "screening.match",
    "politically_exposed_person": "screening.match",
    "legal_and_regulatory_warnings": "screening.match",
    "adverse_media": "screening.match",
}

_DOCUMENT_TYPES: Mapping[str, DocumentType] = {
    "passport": "passport",
    "national_identity_card": "id_card",
    "driving_licence": "driving_licence",
    "uk_driving_licence": "driving_licence",
    "non_uk_driving_licence": "driving_licence",
    "international_driving_licence": "driving_licence",
    "residence_permit": "residence_permit",
    "uk_biometric_residence_permit": "residence_permit",
    "voter_id": "voter_id",
    "payslip": "payslip",
    "bank_statement": "bank_statement",
    "bank_building_society_statement": "bank_statement",
    "utility_bill": "utility_bill",
    "electricity_bill": "utility_bill",
    "gas_bill": "utility_bill",
    "water_bill": "utility_bill",
    "council_tax": "tax_notice",
    "passport_card": "other",
    "tax_id": "other",
    "visa": "other",
    "work_permit": "other",
    "residence_status_document": "other",
    "postal_identity_card": "other",
    "social_security_card": "other",
    "asylum_registration_card": "other",
    "national_health_insurance_card": "other",
    "service_id_card": "other",
    "immigration_status_document": "other",
    "unknown": "other",
}


class _Meaning(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What depends on the kind of object; `findings` where there are some."""

    category: Category
    verdict: Verdict
    resource_type: str | None = None
    methods: tuple[Method, ...] = ()
    reasons: tuple[Reason, ...] = ()
    attributes: dict[str, str] = {}
    findings: _Findings = _Findings()


def normalize(
    body: bytes,
    provenance: Provenance,  # noqa: ARG001 - Onfido says everything in the body
) -> list[Statement] | Ignored:
    """Say what an Onfido notification means; one notification is one statement."""
    payload = _decode_envelope(body).payload
    action = payload.action if payload is not None else None
    if not isinstance(action, str) or action not in NATIVE_TYPES:
        raise Failure("unknown_type", path="$.payload.action")
    if action in _IGNORED:
        return Ignored(reason=_IGNORED[action], native_type=action)
    return [reading(action, _statement, action, body)]


def _statement(action: str, body: bytes) -> Statement:
    sent = _decode(body).payload
    resource = _within(_RESOURCE, sent.resource, "$.payload.resource") or _Resource()
    glossary = Glossary()
    meaning = _meaning(action, sent, resource, glossary)
    status, outcome, is_final = meaning.verdict
    process = _process(sent.object, resource)
    is_part = meaning.resource_type is not None
    if is_part and process != sent.object.id and meaning.category == "identity_verification":
        # Of one process and category the newest outcome holds: a part must not outdo its run.
        outcome = "none"
    occurred_at, source = _moment(sent.object)
    document_type, document_country = _document(meaning, glossary)
    return Statement(
        native_type=action,
        natural_key=(digest(body),),  # all of it is signed, and nothing in it is an id of the event
        subject=_subject(resource),
        native_status=constant(sent.object.status),
        category=meaning.category,
        status=status,
        outcome=outcome,
        is_final=is_final,
        reasons=meaning.reasons,
        subject_type="person",
        process_ref=process,
        resource_type=meaning.resource_type,
        resource_ref=reference(sent.object.id, "$.payload.object.id") if is_part else None,
        occurred_at=occurred_at,
        occurred_at_source=source,
        methods=meaning.methods,
        document_type=document_type,
        document_country=document_country,
        attributes=meaning.attributes,
        unmapped=glossary.unmapped,
    )


def _meaning(action: str, sent: _Payload, resource: _Resource, glossary: Glossary) -> _Meaning:
    if action == RUN_COMPLETED:
        return _run(sent.object, resource, glossary)
    if action in _TASKS:
        return _task(action, sent.object, resource, glossary)
    if action == MATCHES_UPDATED:
        # It says neither whether there are matches now nor whose they are.
        verdict: Verdict = ("not_applicable", "none", False)
        return _Meaning(category="screening", verdict=verdict, resource_type="watchlist_monitor")
    # A guess: the fields of the API's checks and reports. Published is a check without resource.
    findings = _within(_FINDINGS, sent.resource, "$.payload.resource") or _Findings()
    if action in _REPORTS:
        return _report(action, sent.object, findings, glossary)
    return _check(action, sent.object, resource, findings, glossary)


def _run(sent: _Object, resource: _Resource, glossary: Glossary) -> _Meaning:
    verdict = UNKNOWN_VERDICT
    if sent.status:
        verdict = glossary.verdict(_RUNS, sent.status, "object.status")
    # The customer chooses these words when making the workflow: no table of ours can know them,
    # and anything may stand there.
    reasons: list[Reason] = [("other", "") for _ in resource.reasons or ()]
    if verdict[0] == "error":
        kind = resource.error.type if resource.error is not None else None
        reasons.insert(0, ("technical.error", constant(kind) or ""))
    return _Meaning(category="identity_verification", verdict=verdict, reasons=tuple(reasons))


def _task(action: str, sent: _Object, resource: _Resource, glossary: Glossary) -> _Meaning:
    name = sent.task_def_id or ""
    category, methods = _IDENTITY
    if name:
        category, methods = glossary.read(_ALL_TASKS, name, "object.task_def_id", _IDENTITY)
    findings = _Findings()
    # The output is an object, a list or null; that of a task which only collects is no verdict.
    if name in _CHECKING_TASKS and bytes(resource.output).startswith(b"{"):
        at = "$.payload.resource.output"
        findings = _within(_FINDINGS, resource.output, at) or findings
    status = _status(sent.status or _TASKS[action], glossary)
    known = {"onfido.task_def_id": name} if name in _ALL_TASKS else {}
    return _Meaning(
        category=category,
        verdict=(status, _outcome(status, findings, glossary), False),
        resource_type="task",
        methods=methods,
        reasons=_reasons(findings, glossary),
        attributes={**known, **_results(findings)},
        findings=findings,
    )


def _report(action: str, sent: _Object, found: _Findings, glossary: Glossary) -> _Meaning:
    category, methods = _IDENTITY
    findings = _Findings()
    if found.name:
        category, methods = glossary.read(_REPORT_NAMES, found.name, "resource.name", _IDENTITY)
    if found.name in _REPORT_NAMES:  # what an unknown one's words mean is unknown
        findings = found
    status = _status(sent.status or _REPORTS[action], glossary)
    return _Meaning(
        category=category,
        verdict=(status, _outcome(status, findings, glossary), False),
        resource_type="report",
        methods=methods,
        reasons=_reasons(findings, glossary),
        attributes=_results(findings),
        findings=findings,
    )


def _check(
    action: str, sent: _Object, resource: _Resource, findings: _Findings, glossary: Glossary
) -> _Meaning:
    """Say what a check means; it ends the process unless it is one of a run's checks."""
    status = _status(sent.status or _CHECKS[action], glossary)
    in_a_run = bool(sent.workflow_run_id or resource.workflow_run_id)
    ended = status in {"completed", "canceled"} and not in_a_run
    # A check has a result, and its reports the rest.
    overall = _Findings(result=findings.result)
    return _Meaning(
        category="identity_verification",
        verdict=(status, _outcome(status, overall, glossary), ended),
        resource_type="check" if in_a_run else None,
        attributes=_results(overall),
        findings=overall,
    )


def _status(word: str, glossary: Glossary) -> Status:
    return glossary.read(_STATUSES, word, "object.status", "unknown")


def _outcome(status: Status, findings: _Findings, glossary: Glossary) -> Outcome:
    """Give the worse of result and sub-result; none without a result, or with a word unknown."""
    if status != "completed" or not findings.result:
        return "none"
    found = [glossary.read(_RESULTS, findings.result, "result", "none")]
    if findings.sub_result:
        found.append(glossary.read(_SUB_RESULTS, findings.sub_result, "sub_result", "none"))
    return min(found, key=_WORST_FIRST.index)


def _results(findings: _Findings) -> dict[str, str]:
    """Keep the words of our tables, and no others."""
    found: dict[str, str] = {}
    if findings.result and findings.result in _RESULTS:
        found["onfido.result"] = findings.result
    if findings.sub_result and findings.sub_result in _SUB_RESULTS:
        found["onfido.sub_result"] = findings.sub_result
    return found


def _reasons(findings: _Findings, glossary: Glossary) -> tuple[Reason, ...]:
    """Name what was not clear, in the order of our table and not of the payload's."""
    flagged = set(_flagged(findings.breakdown or {}))
    reasons: list[Reason] = [(code, name) for name, code in _BREAKDOWN.items() if name in flagged]
    if flagged - _BREAKDOWN.keys():
        glossary.note("breakdown")
    if findings.sub_result == "suspected":  # of fraud, by the name; no page read says more
        reasons.insert(0, ("fraud.suspected", "suspected"))
    return tuple(reasons)


def _flagged(breakdown: Mapping[str, _Part | None]) -> list[str]:
    """Give the parts that are not clear, the innermost, as `part.inner`."""
    found: list[str] = []
    for name, part in breakdown.items():
        if part is None:
            continue
        inner = [
            f"{name}.{leaf}"
            for leaf, said in (part.breakdown or {}).items()
            if said is not None and said.result not in _NOT_FLAGGED
        ]
        found += inner or ([name] if part.result not in _NOT_FLAGGED else [])
    return found


def _document(meaning: _Meaning, glossary: Glossary) -> tuple[DocumentType | None, str | None]:
    """Give kind and issuing country of the document a document report is about."""
    properties = meaning.findings.properties
    if properties is None or meaning.category != "document":
        return None, None
    document_type: DocumentType | None = None
    if properties.document_type:
        document_type = glossary.read(
            _DOCUMENT_TYPES, properties.document_type, "properties.document_type", "other"
        )
    country = properties.issuing_country
    if not country:
        return document_type, None
    alpha_2 = ALPHA_2.get(country)
    if alpha_2 is None:  # Kosovo's RKS, too: ISO 3166-1 has no code for it
        glossary.note("properties.issuing_country")
    return document_type, alpha_2


def _subject(resource: _Resource) -> Subject | None:
    """Name the person by the customer's id where it is told, else by the applicant's."""
    return platform_user(
        resource.customer_user_id, "$.payload.resource.customer_user_id"
    ) or provider_user(resource.applicant_id, "$.payload.resource.applicant_id")


def _process(sent: _Object, resource: _Resource) -> str:
    """Give the run's id, or the check's or report's own; the gateway orders by the same."""
    if sent.workflow_run_id:
        return reference(sent.workflow_run_id, "$.payload.object.workflow_run_id")
    if resource.workflow_run_id:
        return reference(resource.workflow_run_id, "$.payload.resource.workflow_run_id")
    return reference(sent.id, "$.payload.object.id")


def _moment(sent: _Object) -> Moment:
    return first_moment(
        moment(text, "object", f"$.payload.object.{name}")
        for text, name in (
            (sent.completed_at_iso8601, "completed_at_iso8601"),
            (sent.started_at_iso8601, "started_at_iso8601"),
        )
    )


def _within(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw, at: str) -> T | None:
    return part_of(decoder.decode, raw, at) if bytes(raw) else None
