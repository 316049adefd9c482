"""What a mapping owes: every fixture's meaning in literal words, and how bad bodies fail."""

import hashlib
import json
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.event import Ignored, Statement, Subject
from consumers.failures import Failure, failure_of
from consumers.normalizers import NORMALIZERS, native, pawapass, veriff
from gateway.delivery import Provenance

RECEIVED_AT = 1_700_000_000_000
FIXTURES = Path(__file__).parent / "fixtures"
DELETED = object()


def provenance(provider):
    return Provenance(
        endpoint=provider,
        provider=provider,
        received_at=RECEIVED_AT,
        delivery_id="delivery",
        authenticity="signed",
        scheme=provider,
        key_id="default",
        environment="sandbox",
    )


def body_of(case):
    return (FIXTURES / case / "body.raw").read_bytes()


def cases():
    found = [path.parent for path in FIXTURES.glob("*/*/body.raw")]
    return sorted(f"{path.parent.name}/{path.name}" for path in found)


CASES = [case for case in cases() if case.partition("/")[0] in {"veriff", "pawapass"}]


def normalized(case, body=None):
    provider = case.partition("/")[0]
    body = body_of(case) if body is None else body
    return NORMALIZERS[provider].normalize(body, provenance(provider))


def stated(case, body=None):
    (statement,) = normalized(case, body)
    assert isinstance(statement, Statement)
    return statement


def edited(case, edits):
    """Give a fixture's body with the values at dotted paths replaced, added or deleted."""
    document = json.loads(body_of(case))
    for path, value in edits.items():
        *parents, last = path.split(".")
        node = document
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node[name]
        if value is DELETED:
            del node[last]
        else:
            node[last] = value
    return json.dumps(document, ensure_ascii=False).encode()


def with_edits(case, **edits):
    return stated(case, edited(case, {path.replace("__", "."): v for path, v in edits.items()}))


def failure(case, body):
    with pytest.raises(Exception) as caught:
        normalized(case, body)
    return failure_of(caught.value)


def ms(text):
    moment = datetime.fromisoformat(text)
    return int(moment.replace(microsecond=0).timestamp()) * 1000 + moment.microsecond // 1000


# What each fixture means. Only what a Statement does not say by default is written down.

END_USER = "a1b2c35d-e8f7-6d5e-3cd2-a1b2c35db3d4"
ANA = Subject("platform_user", "12345678")


def session(number):
    return f"a0000000-0000-4000-8000-{number:012d}"


def attempt(number):
    return f"b0000000-0000-4000-8000-{number:012d}"


def end_user(number):
    return Subject("platform_user", f"d0000000-0000-4000-8000-{number:012d}")


def platform_user(text):
    return Subject("platform_user", text)


def veriff_decision(**said):
    return {
        "native_type": "decision",
        "category": "identity_verification",
        "subject_type": "person",
        "occurred_at_source": "object",
        **said,
    }


def derived_decision(number, native_status, **said):
    return veriff_decision(
        **{
            "native_status": native_status,
            "subject": end_user(number),
            "process_ref": session(number),
            "attempt_ref": attempt(number),
            "occurred_at": ms(f"2025-03-{number:02d}T07:18:36.916+00:00"),
            "document_type": "id_card",
            "document_country": "EE",
            **said,
        }
    )


APPROVED = {
    "native_status": "approved",
    "status": "completed",
    "outcome": "pass",
    "is_final": True,
}
FAILED = {"status": "completed", "outcome": "fail", "is_final": True}
TOO_YOUNG = {"age_max": 18, "age_threshold": 18, "age_method": "unspecified"}


def veriff_event(**said):
    return {
        "native_type": "event",
        "category": "identity_verification",
        "subject_type": "person",
        **said,
    }


def veriff_registry(native_type, **said):
    return {
        "native_type": native_type,
        "category": "identity_verification",
        "subject_type": "person",
        "subject": platform_user(END_USER),
        "methods": ("database",),
        **said,
    }


def pawapass_change(number, native_status, at, **said):
    return {
        "native_type": "VERIFICATION.STATUS_CHANGE",
        "native_status": native_status,
        "natural_key": (f"e0000000-0000-4000-8000-{number:012d}", native_status),
        "provider_event_id": f"e0000000-0000-4000-8000-{number:012d}",
        "category": "identity_verification",
        "subject": platform_user("user-zm-98765"),
        "subject_type": "person",
        "process_ref": "aB1cD2eF",
        "occurred_at": ms(at),
        "occurred_at_source": "event",
        "country": "ZM",
        "methods": ("physical_document",),
        **said,
    }


COLLECTED = {
    "methods": ("physical_document", "age_estimation"),
    "age_method": "estimation",
    "age_min": 25,
    "document_type": "id_card",
    "document_country": "ZM",
}

MEANINGS = {
    "veriff/decision-approved": veriff_decision(
        **APPROVED,
        subject=platform_user(END_USER),
        process_ref="12df6045-3846-3e45-946a-14fa6136d78b",
        attempt_ref="00bca969-b53a-4fad-b065-874d41a7b2b8",
        occurred_at=ms("2024-11-06T07:17:36.916+00:00"),
    ),
    "veriff/decision-approved-full": veriff_decision(
        **APPROVED,
        subject=ANA,
        process_ref=session(1),
        occurred_at=ms("2019-11-06T07:18:36.916+00:00"),
        document_type="driving_licence",
        document_country="GB",
    ),
    "veriff/decision-approved-no-attempt": veriff_decision(
        **APPROVED,
        subject=ANA,
        process_ref=session(2),
        occurred_at=ms("2019-11-06T07:18:36.916+00:00"),
        document_type="driving_licence",
        document_country="GB",
    ),
    "veriff/decision-approved-sparse": veriff_decision(
        **APPROVED,
        subject=platform_user("0000000"),
        process_ref="c30b78d5-5d88-44cf-b18d-82b3d84aa614",
        occurred_at=ms("2024-09-06T21:11:48.476+00:00"),
        document_type="passport",
        document_country="NG",
    ),
    "veriff/decision-declined": derived_decision(
        10, "declined", **FAILED, reasons=(("fraud.known", "106"),)
    ),
    "veriff/decision-declined-number-code": derived_decision(
        11,
        "declined",
        **FAILED,
        reasons=(("fraud.suspected", "105"),),
        document_type="passport",
        document_country="NG",
    ),
    "veriff/decision-declined-typed-reason": derived_decision(
        12, "declined", **FAILED, reasons=(("other", ""),)
    ),
    "veriff/decision-declined-under-18": derived_decision(
        13, "declined", **FAILED, **TOO_YOUNG, reasons=(("age.below_threshold", "533"),)
    ),
    "veriff/decision-declined-attempts-exhausted": derived_decision(
        14, "declined", **FAILED, reasons=(("session.attempts_exhausted", "539"),)
    ),
    "veriff/decision-declined-unlisted-code": derived_decision(
        15,
        "declined",
        **FAILED,
        reasons=(("unmapped", "540"),),
        document_type="other",
        document_country=None,
        unmapped=(
            "verification.reasonCode",
            "verification.document.type",
            "verification.document.country",
        ),
    ),
    "veriff/decision-resubmission": derived_decision(
        16,
        "resubmission_requested",
        status="awaiting_input",
        outcome="inconclusive",
        retry_allowed=True,
        reasons=(("capture.poor_quality", "204"),),
    ),
    "veriff/decision-expired": derived_decision(
        17,
        "expired",
        status="expired",
        is_final=True,
        subject=ANA,
        attempt_ref=None,
        document_type=None,
        document_country=None,
    ),
    "veriff/decision-abandoned": derived_decision(
        18,
        "abandoned",
        status="abandoned",
        is_final=True,
        attempt_ref=None,
        document_type=None,
        document_country=None,
    ),
    "veriff/decision-review": derived_decision(19, "review", status="in_review"),
    "veriff/decision-unlisted-status": derived_decision(
        20, "paused", unmapped=("verification.status",)
    ),
    "veriff/event-started": veriff_event(
        native_status="started",
        status="started",
        subject=platform_user(END_USER),
        process_ref="f04bdb47-d3be-4b28-b028-a652feb060b5",
        attempt_ref="e30122d1-740b-4764-853f-470374a7abf4",
    ),
    "veriff/event-submitted": veriff_event(
        native_status="submitted",
        status="submitted",
        subject=platform_user(END_USER),
        process_ref="f04bdb47-d3be-4b28-b028-a652feb060b5",
        attempt_ref="e30122d1-740b-4764-853f-470374a7abf4",
    ),
    "veriff/event-submitted-no-attempt": veriff_event(
        native_status="submitted",
        status="submitted",
        subject=platform_user("QWE123"),
        process_ref=session(3),
    ),
    "veriff/event-address-submitted": veriff_event(
        native_status="submitted",
        status="submitted",
        subject=platform_user("QWE123"),
        process_ref=session(4),
    ),
    "veriff/event-unlisted-action": veriff_event(
        native_status="paused",
        subject=platform_user(END_USER),
        process_ref=session(5),
        attempt_ref=attempt(5),
        unmapped=("action",),
    ),
    "veriff/watchlist-initial-no-match": {
        "native_type": "watchlist-screening",
        "native_status": "no_match",
        "natural_key": (
            session(6),
            attempt(6),
            "initial_result",
            "no_match",
            "2025-04-01T11:04:00.287145Z",
        ),
        "category": "screening",
        "status": "completed",
        "outcome": "pass",
        "subject": platform_user(END_USER),
        "subject_type": "person",
        "process_ref": session(6),
        "attempt_ref": attempt(6),
        "occurred_at": ms("2025-04-01T11:04:00.287+00:00"),
        "occurred_at_source": "event",
    },
    "veriff/watchlist-updated-result": {
        "native_type": "watchlist-screening",
        "native_status": "possible_match",
        "natural_key": (
            "",
            "54233318-f81c-4ec4-8e4c-413168a3f5e6",
            "updated_result",
            "possible_match",
            "2021-06-02T11:04:00.287Z",
        ),
        "category": "screening",
        "status": "completed",
        "outcome": "inconclusive",
        "reasons": (("screening.match", ""),),
        "subject": ANA,
        "subject_type": "person",
        "attempt_ref": "54233318-f81c-4ec4-8e4c-413168a3f5e6",
        "occurred_at": ms("2021-06-02T11:04:00.287+00:00"),
        "occurred_at_source": "event",
    },
    "veriff/user-status-created": {
        "native_type": "user-status.created",
        "native_status": "custom_status_for_suspicious_attempt",
        "natural_key": (
            "0b10cb53-4f3b-48af-bd74-60b85354e51f",
            "f2270684-8c51-4d03-88eb-dafd43e8b486",
            "a1c68aea-7f4d-478d-80ab-ca9356074f69",
            "custom_status_for_suspicious_attempt",
            "2023-10-27T09:59:15.090805Z",
        ),
        "category": "annotation",
        "status": "not_applicable",
        "reasons": (("manual.annotation", ""),),
        "subject": platform_user(END_USER),
        "subject_type": "person",
        "process_ref": "0b10cb53-4f3b-48af-bd74-60b85354e51f",
        "attempt_ref": "f2270684-8c51-4d03-88eb-dafd43e8b486",
        "occurred_at": ms("2023-10-27T09:59:15.090+00:00"),
        "occurred_at_source": "event",
    },
    "veriff/user-status-reason-code": {
        "native_type": "user-status.created",
        "native_status": "custom_status_for_suspicious_attempt",
        "natural_key": (
            session(7),
            attempt(7),
            attempt(7),
            "custom_status_for_suspicious_attempt",
            "2023-10-27T09:59:15.090805Z",
        ),
        "category": "annotation",
        "status": "not_applicable",
        "reasons": (("manual.annotation", "velocity_abuse"),),
        "subject": ANA,
        "subject_type": "person",
        "process_ref": session(7),
        "attempt_ref": attempt(7),
        "occurred_at": ms("2023-10-27T09:59:15.090+00:00"),
        "occurred_at_source": "event",
    },
    "veriff/ine-registry": veriff_registry(
        "ine_registry",
        status="completed",
        outcome="pass",
        process_ref="f04bdb47-d3be-4b28-b028-a652feb060b5",
        attempt_ref="e30122d1-740b-4764-853f-470374a7abf4",
        occurred_at=ms("2021-06-02T11:04:00.287+00:00"),
        occurred_at_source="delivery",
        attributes={"veriff.registry_code": "200"},
    ),
    "veriff/ine-registry-inactive": veriff_registry(
        "ine_registry",
        status="completed",
        outcome="fail",
        process_ref=session(8),
        attempt_ref=attempt(8),
        occurred_at=ms("2021-06-02T11:04:00.287+00:00"),
        occurred_at_source="delivery",
        attributes={"veriff.registry_code": "200"},
    ),
    "veriff/curp-registry": veriff_registry(
        "curp_registry",
        native_status="found",
        status="completed",
        outcome="pass",
        process_ref="f04bdb47-d3be-4b28-b028-a652feb060b5",
        attempt_ref="e30122d1-740b-4764-853f-470374a7abf4",
        attributes={"veriff.registry_code": "200"},
    ),
    "veriff/combined-ine-curp": veriff_registry(
        "combined-ine-curp-registry", process_ref=session(9), attempt_ref=attempt(9)
    ),
    "veriff/full-auto": {
        "native_type": "full-auto",
        "category": "identity_verification",
        "status": "completed",
        "outcome": "inconclusive",
        "subject": platform_user(END_USER),
        "subject_type": "person",
        "process_ref": session(21),
        "attempt_ref": attempt(21),
        "occurred_at": ms("2025-03-21T07:18:36.916+00:00"),
        "occurred_at_source": "delivery",
        "attributes": {"veriff.decision_score": "0.97"},
    },
    "pawapass/created": pawapass_change(
        2, "CREATED", "2025-08-20T09:00:00+00:00", status="created"
    ),
    "pawapass/started": pawapass_change(
        3, "STARTED", "2025-08-20T09:05:00+00:00", status="started"
    ),
    "pawapass/user-data-collected": pawapass_change(
        4, "USER_DATA_COLLECTED", "2025-08-20T09:32:00+00:00", status="submitted", **COLLECTED
    ),
    "pawapass/review": pawapass_change(
        5, "REVIEW", "2025-08-20T09:40:00+00:00", status="in_review", **COLLECTED
    ),
    "pawapass/approved": pawapass_change(
        0,
        "APPROVED",
        "2025-08-20T10:15:00+00:00",
        natural_key=("a1b2c3d4-5678-9012-abcd-ef1234567890", "APPROVED"),
        provider_event_id="a1b2c3d4-5678-9012-abcd-ef1234567890",
        status="completed",
        outcome="pass",
        is_final=True,
        **COLLECTED,
    ),
    "pawapass/approved-older-docs": pawapass_change(
        1,
        "APPROVED",
        "2025-08-20T10:15:00+00:00",
        process_ref="oL1dE2rD",
        status="completed",
        outcome="pass",
        is_final=True,
        country=None,
        **{**COLLECTED, "document_type": "other", "document_country": None},
        unmapped=("data.identityDocument.type", "data.identityDocument.country"),
    ),
    "pawapass/face-only": pawapass_change(
        13,
        "APPROVED",
        "2025-08-20T10:26:00+00:00",
        process_ref="fA1cE2oN",
        status="completed",
        outcome="pass",
        is_final=True,
        methods=("age_estimation",),
        age_method="estimation",
        age_min=21,
    ),
    "pawapass/declined-capture-issue": pawapass_change(
        6,
        "DECLINED",
        "2025-08-20T10:20:00+00:00",
        **FAILED,
        subject=platform_user("user-zm-00006"),
        process_ref="dE1cL1nE",
        reasons=(("capture.poor_quality", "CAPTURE_ISSUE"),),
        age_method="estimation",
        document_type="voter_id",
        document_country="ZM",
    ),
    "pawapass/declined-document-validity": pawapass_change(
        7,
        "DECLINED",
        "2025-08-20T10:21:00+00:00",
        **FAILED,
        subject=platform_user("user-zm-00007"),
        process_ref="dE2cL2nE",
        reasons=(("document.invalid", "DOCUMENT_VALIDITY"),),
        **{**COLLECTED, "age_min": 30, "document_type": "driving_licence"},
    ),
    "pawapass/declined-image-quality": pawapass_change(
        8,
        "DECLINED",
        "2025-08-20T10:22:00+00:00",
        **FAILED,
        subject=platform_user("user-rw-00008"),
        process_ref="dE3cL3nE",
        reasons=(("capture.poor_quality", "IMAGE_QUALITY"),),
        country="RW",
        age_max=8,
        **{
            **COLLECTED,
            "age_min": None,
            "document_type": "refugee_id",
            "document_country": "RW",
        },
    ),
    "pawapass/declined-generic": pawapass_change(
        9,
        "DECLINED",
        "2025-08-20T10:23:00+00:00",
        **FAILED,
        subject=platform_user("user-gh-00009"),
        process_ref="dE4cL4nE",
        reasons=(("other", "GENERIC"),),
        country="GH",
        **{
            **COLLECTED,
            "age_min": 18,
            "document_type": "passport",
            "document_country": "GH",
        },
    ),
    "pawapass/declined-unlisted-reason": pawapass_change(
        10,
        "DECLINED",
        "2025-08-20T10:24:00+00:00",
        **FAILED,
        subject=platform_user("user-gh-00010"),
        process_ref="dE5cL5nE",
        reasons=(("unmapped", "SANCTIONS_HIT"),),
        country="GH",
        age_method="estimation",
        document_type="residence_permit",
        document_country="GH",
        unmapped=(
            "data.reviewResult.reason",
            "data.requirements.type",
            "data.faceScan.ageEstimation",
        ),
    ),
    "pawapass/expired": pawapass_change(
        11,
        "EXPIRED",
        "2025-08-27T09:00:00+00:00",
        subject=platform_user("user-zm-00011"),
        process_ref="eX1pI2rE",
        status="expired",
        is_final=True,
        reasons=(("session.expired", ""),),
    ),
    "pawapass/unlisted-status": pawapass_change(
        12,
        "PAUSED",
        "2025-08-20T10:25:00+00:00",
        subject=platform_user("user-zm-00012"),
        process_ref="pA1uS2eD",
        unmapped=("data.status",),
    ),
    "pawapass/identity-document-change": pawapass_change(
        0,
        "APPROVED",
        "2025-08-21T08:00:00+00:00",
        native_type="VERIFICATION.IDENTITY_DOCUMENT_CHANGE",
        natural_key=("a1b2c3d4-5678-9012-abcd-ef1234567891", "APPROVED"),
        provider_event_id="a1b2c3d4-5678-9012-abcd-ef1234567891",
        category="data_correction",
        status="not_applicable",
        **COLLECTED,
    ),
}


@pytest.mark.parametrize("case", [case for case in CASES if case != "veriff/decision-none-yet"])
def test_a_fixture_means_exactly_what_is_written_down_for_it(case):
    """Every field of every fixture's statement is the literal expectation, or the default."""
    digest = hashlib.sha256(body_of(case)).hexdigest()
    expected = Statement(**{"natural_key": (digest,), **MEANINGS[case]})
    assert msgspec.structs.asdict(stated(case)) == msgspec.structs.asdict(expected)


def test_every_expectation_has_its_fixture():
    """The list of meanings and the fixture folders name the same cases."""
    assert sorted([*MEANINGS, "veriff/decision-none-yet"]) == CASES


# Veriff: decisions.

REASONS = {
    "document.not_physical": "101",
    "document.tampered": "102 507 508",
    "face.mismatch": "103 120 509",
    "document.data_mismatch": "104",
    "fraud.suspected": "105 111 113 501 502 503 504 505 526",
    "fraud.known": "106 127",
    "fraud.velocity": "107 108 109 110 124",
    "country.unsupported": "112",
    "identity.not_found": "122",
    "identity.mismatch": "123 128",
    "screening.match": "126",
    "technical.error": "129 537",
    "capture.incomplete": "201 203 208",
    "face.not_visible": "202",
    "capture.poor_quality": "204",
    "document.unreadable": "205 527",
    "document.unsupported": "206 510",
    "document.expired": "207 511 528",
    "document.missing": "209 210",
    "face.not_live": "515",
    "age.below_threshold": "530 531 532 533 534 535 536",
    "session.attempts_exhausted": "539",
    "other": "121",
}
LISTED = {code: reason for reason, codes in REASONS.items() for code in codes.split()}


@pytest.mark.parametrize(("code", "reason"), LISTED.items())
def test_veriff_reason_codes_mean_the_same_as_text_and_as_number(code, reason):
    """A reason code is documented as text and sent to some as a number: both mean the same."""
    case = "veriff/decision-declined"
    as_text = with_edits(case, verification__reasonCode=code)
    as_number = with_edits(case, verification__reasonCode=int(code))
    assert as_text.reasons == as_number.reasons == ((reason, code),)
    assert as_text.unmapped == as_number.unmapped == ()


@pytest.mark.parametrize("code", ["100", "125", "506", "538", "540", "999", "-1", "0", "W.1"])
def test_a_reason_code_on_no_list_stays_visible(code):
    """An unknown reason code is `unmapped`, keeps its native value and names its field."""
    statement = with_edits("veriff/decision-declined", verification__reasonCode=code)
    assert statement.reasons == (("unmapped", code),)
    assert statement.unmapped == ("verification.reasonCode",)


@pytest.mark.parametrize("code", ["Ana Smith", "x" * 65, "106\n", " 106", "é", 10**80])
def test_a_reason_code_that_is_no_constant_is_counted_and_not_copied(code):
    """A code that a person could have typed leaves only `unmapped` behind."""
    statement = with_edits("veriff/decision-declined", verification__reasonCode=code)
    assert statement.reasons == (("unmapped", ""),)
    assert statement.unmapped == ("verification.reasonCode",)


@pytest.mark.parametrize(
    ("code", "limit"),
    [("530", 13), ("531", 14), ("532", 16), ("533", 18), ("534", 20), ("535", 21), ("536", 25)],
)
def test_veriff_declines_for_age_with_the_limit_in_the_code(code, limit):
    """Codes 530 to 536 say: younger than the limit that was asked, method not told."""
    statement = with_edits("veriff/decision-declined", verification__reasonCode=code)
    assert (statement.age_threshold, statement.age_max, statement.age_min) == (limit, limit, None)
    assert statement.age_method == "unspecified"


def test_only_a_declined_session_says_that_a_person_is_too_young():
    """An age code beside any other status is a reason, but no statement about an age."""
    statement = with_edits("veriff/decision-review", verification__reasonCode="533")
    assert statement.reasons == (("age.below_threshold", "533"),)
    assert statement.age_max is statement.age_threshold is statement.age_method is None


@pytest.mark.parametrize("code", [9001, 9102, 9104, 9121, None, "9001", DELETED])
@pytest.mark.parametrize("case", ["decision-abandoned", "decision-expired", "decision-approved"])
def test_veriff_status_comes_from_the_text_and_never_from_the_code(case, code):
    """Expired and abandoned share 9104, pages disagree on 9121, and a code may be null."""
    case = f"veriff/{case}"
    statement = with_edits(case, verification__code=code)
    for name in ("status", "outcome", "is_final", "native_status"):
        assert getattr(statement, name) == getattr(stated(case), name)


def test_the_api_call_s_status_is_not_the_outcome():
    """The `success` at the top of a decision is the API call's and is not read."""
    case = "veriff/decision-declined"
    assert with_edits(case, status="fail").outcome == "fail"
    assert with_edits(case, status=None).outcome == "fail"


def test_a_decision_not_yet_made_is_ignored_with_its_reason():
    """`"verification": null` means that there is no decision yet: counted, not dropped."""
    expected = Ignored(reason="no_decision", native_type="decision")
    assert normalized("veriff/decision-none-yet") == expected
    assert veriff.normalize(b'{ "verification" : null }', provenance("veriff")) == expected


@pytest.mark.parametrize("code", [None, "", DELETED])
def test_a_reason_without_a_code_is_other_and_its_text_stays_behind(code):
    """A typed reason has no code and may name a person: `other`, with an empty native code."""
    statement = with_edits("veriff/decision-declined", verification__reasonCode=code)
    assert statement.reasons == (("other", ""),)


@pytest.mark.parametrize("reason", [None, "", DELETED])
def test_no_reason_and_no_code_is_no_reason(reason):
    """A decline without code and text has no reasons."""
    case = "veriff/decision-declined-typed-reason"
    assert with_edits(case, verification__reason=reason).reasons == ()


def test_an_approval_with_a_remark_has_no_reason():
    """Text beside an approval explains no failure."""
    statement = with_edits("veriff/decision-approved", verification__reason="All good, Ana")
    assert statement.reasons == ()


@pytest.mark.parametrize("nothing", [None, DELETED])
def test_everything_beyond_the_ids_may_be_null_or_missing(nothing):
    """Depending on configuration a field is null, empty or missing: the event still stands."""
    document = json.loads(body_of("veriff/decision-approved-full"))
    edits = {
        f"verification.{name}": nothing
        for name in document["verification"]
        if name not in {"id", "status"}
    }
    statement = stated("veriff/x", edited("veriff/decision-approved-full", edits))
    assert (statement.status, statement.outcome) == ("completed", "pass")
    assert statement.subject is statement.attempt_ref is statement.occurred_at is None


def test_empty_text_is_nothing():
    """Empty ids, times, reasons and document words are read as missing."""
    statement = with_edits(
        "veriff/decision-declined",
        verification__attemptId="",
        verification__decisionTime="",
        verification__endUserId="",
        verification__vendorData="",
        verification__reasonCode="",
        verification__reason="",
        verification__document={"type": "", "country": ""},
    )
    assert statement.attempt_ref is statement.occurred_at is statement.subject is None
    assert statement.document_type is statement.document_country is None
    assert statement.reasons == statement.unmapped == ()


@pytest.mark.parametrize(
    ("native_type", "document_type"),
    [
        ("PASSPORT", "passport"),
        ("ID_CARD", "id_card"),
        ("DRIVERS_LICENSE", "driving_licence"),
        ("RESIDENCE_PERMIT", "residence_permit"),
    ],
)
def test_veriff_document_types(native_type, document_type):
    """Each documented document type has its word."""
    statement = with_edits("veriff/decision-declined", verification__document__type=native_type)
    assert (statement.document_type, statement.unmapped) == (document_type, ())


@pytest.mark.parametrize("country", ["gb", "GBR", "G", "Zambia", "G8", "GB\n", "ÄÖ"])
@pytest.mark.parametrize(
    ("case", "path"),
    [
        ("veriff/decision-declined", "verification.document.country"),
        ("pawapass/approved", "data.identityDocument.country"),
        ("pawapass/approved", "data.country"),
    ],
)
def test_a_country_is_two_capital_letters_or_unmapped(case, path, country):
    """Free text in a country field is counted and not copied."""
    statement = stated(case, edited(case, {path: country}))
    of = statement.country if path == "data.country" else statement.document_country
    assert of is None
    assert statement.unmapped == (path,)


# Subjects, references, constants, times.

SUBJECTS = [
    ("veriff/decision-declined", "verification.endUserId", "verification.vendorData"),
    ("veriff/event-submitted", "endUserId", "vendorData"),
    ("veriff/watchlist-initial-no-match", "endUserId", "vendorData"),
    ("veriff/user-status-created", "endUserId", "vendorData"),
    ("veriff/ine-registry", "endUserId", "vendorData"),
    ("veriff/curp-registry", "endUserId", "vendorData"),
    ("veriff/combined-ine-curp", "endUserId", "vendorData"),
    ("veriff/full-auto", "endUserId", "vendorData"),
]


@pytest.mark.parametrize(("case", "first", "second"), SUBJECTS)
def test_veriff_s_subject_is_the_end_user_id_else_the_vendor_data(case, first, second):
    """The subject is endUserId, else vendorData, else nobody; any text is an id."""
    odd = 'Ana Smith <ana@example.com> \u0000 "é"'
    assert stated(case, edited(case, {first: odd})).subject == platform_user(odd)
    for nothing in (None, "", DELETED):
        body = edited(case, {first: nothing, second: odd})
        assert stated(case, body).subject == platform_user(odd)
        assert stated(case, edited(case, {first: nothing, second: nothing})).subject is None
        if nothing is not DELETED:
            body = edited(case, {first: "only", second: nothing})
            assert stated(case, body).subject == platform_user("only")


@pytest.mark.parametrize(
    ("case", "path"),
    [(case, path) for case, *paths in SUBJECTS for path in paths]
    + [("pawapass/approved", "data.externalId")],
)
def test_a_subject_id_has_at_most_a_thousand_characters(case, path):
    """A longer id is out of range, wherever it stands."""
    others = {first: "" for of, first, _ in SUBJECTS if of == case and path != first}
    longest = stated(case, edited(case, {**others, path: "é" * 1000}))
    assert longest.subject == platform_user("é" * 1000)
    found = failure(case, edited(case, {**others, path: "é" * 1001}))
    assert (found.kind, found.path) == ("out_of_range", f"$.{path}")


def test_an_empty_external_id_is_nobody():
    """An external id has at least one character; an empty one is no subject, and still an event."""
    assert with_edits("pawapass/approved", data__externalId="").subject is None


REFERENCES = [
    ("veriff/decision-approved", "verification.id", "process_ref", True),
    ("veriff/decision-approved", "verification.attemptId", "attempt_ref", False),
    ("veriff/event-submitted", "id", "process_ref", True),
    ("veriff/event-submitted", "attemptId", "attempt_ref", False),
    ("veriff/watchlist-initial-no-match", "sessionId", "process_ref", False),
    ("veriff/watchlist-initial-no-match", "attemptId", "attempt_ref", False),
    ("veriff/user-status-created", "sessionId", "process_ref", True),
    ("veriff/user-status-created", "attemptId", "attempt_ref", False),
    ("veriff/ine-registry", "sessionId", "process_ref", True),
    ("veriff/ine-registry", "attemptId", "attempt_ref", False),
    ("veriff/curp-registry", "id", "process_ref", True),
    ("veriff/curp-registry", "data.attemptId", "attempt_ref", False),
    ("veriff/combined-ine-curp", "sessionId", "process_ref", True),
    ("veriff/combined-ine-curp", "attemptId", "attempt_ref", False),
    ("veriff/full-auto", "sessionId", "process_ref", False),
    ("veriff/full-auto", "attemptId", "attempt_ref", False),
    ("pawapass/approved", "data.id", "process_ref", True),
    ("pawapass/approved", "notificationId", "provider_event_id", True),
]


@pytest.mark.parametrize(("case", "path", "field", "required"), REFERENCES)
def test_references_are_opaque_constants(case, path, field, required):
    """An id is copied only if it is a printable constant; a required one must be there."""
    for good in ("x", "aZ09_.:/-", "x" * 128):
        assert getattr(stated(case, edited(case, {path: good})), field) == good
    for bad in ("x" * 129, "two words", "ana@example.com", "é", "x\n", "\u0000"):
        found = failure(case, edited(case, {path: bad}))
        assert (found.kind, found.path) == ("out_of_range", f"$.{path}")
    for nothing in ("", None, DELETED):
        body = edited(case, {path: nothing})
        if required:
            kind = "out_of_range" if nothing == "" else "schema_mismatch"
            assert failure(case, body).kind == kind
        else:
            assert getattr(stated(case, body), field) is None


NATIVE_STATUSES = [
    ("veriff/decision-approved", "verification.status", True),
    ("veriff/event-submitted", "action", True),
    ("veriff/watchlist-initial-no-match", "matchStatus", True),
    ("veriff/user-status-created", "data.verification.userDefinedData.statusCode", False),
    ("veriff/ine-registry", "data.status", False),
    ("veriff/curp-registry", "data.status", True),
    ("pawapass/approved", "data.status", True),
]


@pytest.mark.parametrize(("case", "path", "is_mapped"), NATIVE_STATUSES)
def test_an_unknown_status_is_unknown_keeps_a_constant_and_names_its_field(case, path, is_mapped):
    """Whatever a status says, it never stops an event and never brings free text along."""
    for word in ("SOMETHING_NEW", "x" * 64, "a.b:c/d-e"):
        statement = stated(case, edited(case, {path: word}))
        assert statement.native_status == word
        assert statement.unmapped == ((path,) if is_mapped else ())
        if is_mapped:
            assert (statement.status, statement.outcome) == ("unknown", "none")
            assert not statement.is_final
            assert statement.retry_allowed is None
    for text in ("x" * 65, "Ana called", "approved\n", "é", ""):
        assert stated(case, edited(case, {path: text})).native_status is None


TIMES = [
    ("veriff/decision-approved", "verification.decisionTime", "object", True),
    ("veriff/watchlist-initial-no-match", "createdAt", "event", True),
    (
        "veriff/user-status-created",
        "data.verification.userDefinedData.createdAt",
        "event",
        True,
    ),
    ("veriff/ine-registry", "time", "delivery", True),
    ("veriff/combined-ine-curp", "time", "delivery", True),
    ("veriff/full-auto", "time", "delivery", True),
    ("veriff/full-auto", "data.verification.decisionTime", "object", True),
    ("pawapass/approved", "createdAt", "event", False),
]


@pytest.mark.parametrize(("case", "path", "source", "may_be_empty"), TIMES)
def test_times_keep_their_milliseconds_and_name_their_source(case, path, source, may_be_empty):
    """Fractions of any length are cut to milliseconds; no zone, or before 1970, is no time."""
    for text, expected in {
        "2024-11-06T07:17:36Z": 1730877456000,
        "2024-11-06T07:17:36.9Z": 1730877456900,
        "2024-11-06T07:17:36.916Z": 1730877456916,
        "2024-11-06T07:17:36.91699Z": 1730877456916,
        "2024-11-06T07:17:36.916999Z": 1730877456916,
        "2024-11-06T09:17:36.916+02:00": 1730877456916,
        "1970-01-01T00:00:00.001Z": 1,
    }.items():
        statement = stated(case, edited(case, {path: text}))
        assert (statement.occurred_at, statement.occurred_at_source) == (expected, source)
    if case != "veriff/full-auto":
        zero = ("0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1969-12-31T23:59:59.999Z")
        for text in (*zero, "2024-11-06T07:17:36", *([""] if may_be_empty else [])):
            statement = stated(case, edited(case, {path: text}))
            assert (statement.occurred_at, statement.occurred_at_source) == (None, "received")
    for text in ("0000-00-00 00:00:00", "2024-11-06", "soon", "2024-13-01T00:00:00Z", "12"):
        found = failure(case, edited(case, {path: text}))
        assert (found.kind, found.path) == ("schema_mismatch", f"$.{path}")
        assert text not in what_leaves(found)


def test_veriff_events_and_curp_have_no_time_of_their_own():
    """A time that stands in such a body by accident is not taken for when it happened."""
    for case in ("veriff/event-submitted", "veriff/curp-registry"):
        statement = stated(case, edited(case, {"time": "2024-11-06T07:17:36Z"}))
        assert (statement.occurred_at, statement.occurred_at_source) == (None, "received")


# Veriff: the other kinds.


def test_the_attempt_id_of_a_user_status_is_the_outer_one():
    """data.verification.id is documented as the attempt id but differs: it is not believed."""
    statement = stated("veriff/user-status-created")
    assert statement.attempt_ref == "f2270684-8c51-4d03-88eb-dafd43e8b486"


def test_a_user_status_sent_again_later_is_the_same_statement():
    """Its `time` is the time of sending: a retry that renews it says nothing new."""
    case = "veriff/user-status-created"
    assert with_edits(case, time="2023-10-28T10:00:02.998Z") == stated(case)


@pytest.mark.parametrize(
    ("case", "path"),
    [
        ("veriff/user-status-created", "sessionId"),
        ("veriff/user-status-created", "attemptId"),
        ("veriff/user-status-created", "data.verification.id"),
        ("veriff/user-status-created", "data.verification.userDefinedData.statusCode"),
        ("veriff/watchlist-initial-no-match", "sessionId"),
        ("veriff/watchlist-initial-no-match", "attemptId"),
        ("veriff/watchlist-initial-no-match", "checkType"),
        ("veriff/watchlist-initial-no-match", "matchStatus"),
        ("veriff/decision-approved", "verification.vendorData"),
        ("veriff/event-submitted", "feature"),
        ("pawapass/approved", "notificationId"),
        ("pawapass/approved", "data.status"),
    ],
)
def test_a_different_statement_has_a_different_natural_key(case, path):
    """Each part of a natural key tells two statements apart."""
    assert stated(case, edited(case, {path: "other"})).natural_key != stated(case).natural_key


@pytest.mark.parametrize(
    ("code", "expected"), [("204", "204"), (7, "7"), ("Ana did it", ""), ("", ""), (None, "")]
)
def test_a_user_status_keeps_a_reason_code_that_is_a_constant(code, expected):
    """The platform's own reason code is kept beside manual.annotation; text never is."""
    case = "veriff/user-status-created"
    path = "data.verification.userDefinedData.reasonCode"
    statement = stated(case, edited(case, {path: code}))
    assert statement.reasons == (("manual.annotation", expected),)
    assert statement.unmapped == ()


@pytest.mark.parametrize(
    ("details", "meaning"),
    [
        ({"active": True}, ("completed", "pass")),
        ({"active": False}, ("completed", "fail")),
        ({"active": None}, ("unknown", "none")),
        ({}, ("unknown", "none")),
        (None, ("unknown", "none")),
        (DELETED, ("unknown", "none")),
    ],
)
def test_ine_answers_by_active_alone(details, meaning):
    """The registry's verdict is details.active; its localised texts decide nothing."""
    statement = with_edits("veriff/ine-registry", data__details=details)
    assert (statement.status, statement.outcome) == meaning
    assert statement.native_status is None
    assert not statement.is_final


@pytest.mark.parametrize(
    ("code", "attributes"),
    [
        (200, {"veriff.registry_code": "200"}),
        ("200", {"veriff.registry_code": "200"}),
        ("no se encontró", {}),
        ("", {}),
        (None, {}),
        (DELETED, {}),
    ],
)
@pytest.mark.parametrize("case", ["veriff/ine-registry", "veriff/curp-registry"])
def test_a_registry_s_code_is_an_attribute(case, code, attributes):
    """The answer's code is kept as text if it is a constant."""
    assert with_edits(case, data__code=code).attributes == attributes


@pytest.mark.parametrize(
    ("match_status", "meaning", "reasons"),
    [
        ("no_match", ("completed", "pass"), ()),
        ("possible_match", ("completed", "inconclusive"), (("screening.match", ""),)),
        ("confirmed_match", ("unknown", "none"), ()),
    ],
)
def test_a_watchlist_result_is_never_final(match_status, meaning, reasons):
    """Monitoring goes on for months, so no result is the last."""
    statement = with_edits("veriff/watchlist-initial-no-match", matchStatus=match_status)
    assert (statement.status, statement.outcome) == meaning
    assert statement.reasons == reasons
    assert not statement.is_final


FULL_AUTO_PLACES = [
    ({"sessionId": "s"}, {}, "s", None),
    ({"id": "s", "attemptId": "a"}, {}, "s", "a"),
    ({}, {"id": "s", "attemptId": "a"}, "s", "a"),
    ({"sessionId": "s"}, {"id": "other"}, "s", None),
    ({}, {"sessionId": "s"}, "s", None),
    ({"eventType": "fullauto", "sessionId": "s"}, {}, "s", None),
    ({"type": "fullauto"}, {}, None, None),
    ({}, {}, None, None),
]


@pytest.mark.parametrize(("outer", "inner", "process_ref", "attempt_ref"), FULL_AUTO_PLACES)
def test_full_auto_is_known_by_its_score_wherever_its_ids_stand(
    outer, inner, process_ref, attempt_ref
):
    """Only data.verification.decisionScore is documented: ids may stand anywhere, or nowhere."""
    sent = {**outer, "data": {"verification": {"decisionScore": 1, **inner}}}
    statement = stated("veriff/x", json.dumps(sent).encode())
    assert statement.native_type == "full-auto"
    assert (statement.process_ref, statement.attempt_ref) == (process_ref, attempt_ref)
    assert (statement.status, statement.outcome) == ("completed", "inconclusive")
    assert statement.attributes == {"veriff.decision_score": "1"}


@pytest.mark.parametrize("score", [0, 0.0, 0.613, 1, 1.0])
def test_a_decision_score_lies_between_zero_and_one(score):
    """A score on the documented scale is kept as text."""
    statement = with_edits("veriff/full-auto", data__verification__decisionScore=score)
    assert statement.attributes == {"veriff.decision_score": str(score)}


@pytest.mark.parametrize("score", [-0.1, 1.0001, 97, 10**30])
def test_a_decision_score_on_another_scale_is_refused(score):
    """A score of 97 would be read as a hundred times too sure: out of range."""
    body = edited("veriff/full-auto", {"data.verification.decisionScore": score})
    found = failure("veriff/full-auto", body)
    assert (found.kind, found.path) == ("out_of_range", "$.data.verification.decisionScore")


def test_full_auto_without_a_value_for_its_score_is_still_full_auto():
    """A null score is a full-auto result without the attribute."""
    statement = with_edits("veriff/full-auto", data__verification__decisionScore=None)
    assert (statement.native_type, statement.attributes) == ("full-auto", {})


def test_a_registry_is_known_by_either_of_the_two_fields():
    """CURP names itself in `type`, the others in `eventType`; neither place is insisted on."""
    for case, ours, other in [
        ("veriff/curp-registry", "type", "eventType"),
        ("veriff/ine-registry", "eventType", "type"),
        ("veriff/combined-ine-curp", "eventType", "type"),
    ]:
        name = json.loads(body_of(case))[ours]
        moved = stated(case, edited(case, {ours: DELETED, other: name}))
        assert moved.native_type == stated(case).native_type


# pawaPass.


@pytest.mark.parametrize(
    ("band", "age_min", "age_max"),
    [
        ("UNDER_8", None, 8),
        ("OVER_8", 8, None),
        ("OVER_13", 13, None),
        ("OVER_16", 16, None),
        ("OVER_18", 18, None),
        ("OVER_21", 21, None),
        ("OVER_25", 25, None),
        ("OVER_30", 30, None),
    ],
)
def test_pawapass_age_bands_are_half_open_intervals(band, age_min, age_max):
    """OVER_n is n or more, UNDER_8 is younger than 8, both by estimation."""
    statement = with_edits("pawapass/approved", data__faceScan__ageEstimation=band)
    assert (statement.age_min, statement.age_max) == (age_min, age_max)
    assert statement.age_method == "estimation"
    assert "age_estimation" in statement.methods


@pytest.mark.parametrize(
    ("band", "unmapped"), [("UNKNOWN", ()), ("OVER_17", ("data.faceScan.ageEstimation",))]
)
def test_an_age_that_could_not_be_told_is_no_interval(band, unmapped):
    """UNKNOWN says nothing about an age; a band on no list is never guessed from its name."""
    statement = with_edits("pawapass/approved", data__faceScan__ageEstimation=band)
    assert statement.age_min is statement.age_max is None
    assert statement.age_method == "estimation"
    assert "age_estimation" not in statement.methods
    assert statement.unmapped == unmapped


@pytest.mark.parametrize("scan", [None, DELETED, {}, {"ageEstimation": None}])
def test_without_an_estimate_there_is_no_age_method(scan):
    """No face scan, no word about age."""
    statement = with_edits("pawapass/approved", data__faceScan=scan)
    assert statement.age_method is statement.age_min is None
    assert statement.methods == ("physical_document",)


@pytest.mark.parametrize(
    ("native_type", "document_type"),
    [
        ("PASSPORT", "passport"),
        ("NATIONAL_ID", "id_card"),
        ("DRIVER_LICENSE", "driving_licence"),
        ("REFUGEE_ID", "refugee_id"),
        ("VOTER_ID", "voter_id"),
        ("RESIDENCE_PERMIT", "residence_permit"),
    ],
)
def test_pawapass_document_types(native_type, document_type):
    """Each documented document type has its word."""
    statement = with_edits("pawapass/approved", data__identityDocument__type=native_type)
    assert (statement.document_type, statement.unmapped) == (document_type, ())


@pytest.mark.parametrize("review", [None, DELETED, {}, {"reason": None}, {"reason": ""}])
def test_a_decline_without_a_reason_has_no_reasons(review):
    """Nobody need give a reason: reviewResult may be null."""
    statement = with_edits("pawapass/declined-generic", data__reviewResult=review)
    assert (statement.outcome, statement.reasons) == ("fail", ())


def test_a_typed_review_reason_is_not_copied():
    """Text in the place of a reason constant leaves only `unmapped` behind."""
    statement = with_edits("pawapass/declined-generic", data__reviewResult__reason="Tisa lied")
    assert statement.reasons == (("unmapped", ""),)
    assert statement.unmapped == ("data.reviewResult.reason",)


@pytest.mark.parametrize("status", ["APPROVED", "DECLINED", "EXPIRED", "PAUSED"])
def test_a_corrected_document_is_never_a_second_decision(status):
    """IDENTITY_DOCUMENT_CHANGE restates a concluded verification: no verdict, no reasons."""
    case = "pawapass/identity-document-change"
    statement = with_edits(case, data__status=status, data__reviewResult={"reason": "GENERIC"})
    assert (statement.category, statement.status) == ("data_correction", "not_applicable")
    assert (statement.outcome, statement.is_final) == ("none", False)
    assert statement.reasons == statement.corrected_fields == ()


@pytest.mark.parametrize(
    ("requirements", "methods", "unmapped"),
    [
        (None, (), ()),
        (DELETED, (), ()),
        ([], (), ()),
        ([{}], (), ()),
        ([{"type": "FACE_SCAN", "options": {"a": 1}}], (), ()),
        ([{"type": "DOCUMENT_SCAN"}] * 3, ("physical_document",), ()),
        ([{"type": "IRIS"}, {"type": "VOICE"}], (), ("data.requirements.type",)),
    ],
)
def test_requirements_name_the_methods_they_prove(requirements, methods, unmapped):
    """A document scan is physical_document; a face scan may be liveness or match: unsaid."""
    statement = with_edits("pawapass/created", data__requirements=requirements)
    assert (statement.methods, statement.unmapped) == (methods, unmapped)


# Bodies that cannot become an event.

WRONG = [
    ("veriff/decision-approved", {"verification": "approved"}, "$.verification"),
    ("veriff/decision-approved", {"verification": []}, "$.verification"),
    ("veriff/decision-approved", {"verification": {}}, "$.verification"),
    ("veriff/decision-approved", {"verification.id": 1}, "$.verification.id"),
    ("veriff/decision-approved", {"verification.status": DELETED}, "$.verification"),
    ("veriff/decision-approved", {"verification.status": None}, "$.verification.status"),
    ("veriff/decision-approved", {"verification.reason": 5}, "$.verification.reason"),
    ("veriff/decision-approved", {"verification.reasonCode": True}, "$.verification.reasonCode"),
    ("veriff/decision-approved", {"verification.reasonCode": 10.5}, "$.verification.reasonCode"),
    ("veriff/decision-approved", {"verification.vendorData": 5}, "$.verification.vendorData"),
    ("veriff/decision-approved", {"verification.document": []}, "$.verification.document"),
    ("veriff/decision-approved", {"verification.decisionTime": 5}, "$.verification.decisionTime"),
    ("veriff/event-submitted", {"action": DELETED}, "$"),
    ("veriff/event-submitted", {"action": 7002}, "$.action"),
    ("veriff/watchlist-updated-result", {"matchStatus": DELETED}, "$"),
    ("veriff/watchlist-updated-result", {"createdAt": None}, "$.createdAt"),
    ("veriff/user-status-created", {"data": None}, "$.data"),
    ("veriff/user-status-created", {"data.verification": {}}, "$.data.verification"),
    ("veriff/ine-registry", {"data": DELETED}, "$"),
    ("veriff/ine-registry", {"data.details.active": "yes"}, "$.data.details.active"),
    ("veriff/ine-registry", {"data.code": 1.5}, "$.data.code"),
    ("veriff/curp-registry", {"data.status": 200}, "$.data.status"),
    ("veriff/combined-ine-curp", {"sessionId": DELETED}, "$"),
    (
        "veriff/full-auto",
        {"data.verification.decisionScore": "high"},
        "$.data.verification.decisionScore",
    ),
    ("pawapass/approved", {"data": DELETED}, "$"),
    ("pawapass/approved", {"data": None}, "$.data"),
    ("pawapass/approved", {"notificationId": DELETED}, "$"),
    ("pawapass/approved", {"createdAt": DELETED}, "$"),
    ("pawapass/approved", {"createdAt": ""}, "$.createdAt"),
    ("pawapass/approved", {"data.id": None}, "$.data.id"),
    ("pawapass/approved", {"data.status": DELETED}, "$.data"),
    ("pawapass/approved", {"data.externalId": DELETED}, "$.data"),
    ("pawapass/approved", {"data.externalId": 5}, "$.data.externalId"),
    ("pawapass/approved", {"data.requirements": {}}, "$.data.requirements"),
    ("pawapass/approved", {"data.requirements": [{"type": 1}]}, "$.data.requirements[0].type"),
    ("pawapass/approved", {"data.faceScan": []}, "$.data.faceScan"),
    ("pawapass/approved", {"data.country": 26}, "$.data.country"),
]


@pytest.mark.parametrize(("case", "edits", "path"), WRONG)
def test_a_known_kind_with_a_missing_or_wrong_field_is_a_schema_mismatch(case, edits, path):
    """The dead letter names the field that is missing or of the wrong type."""
    found = failure(case, edited(case, edits))
    assert (found.kind, found.path) == ("schema_mismatch", path)


@pytest.mark.parametrize(
    ("provider", "sent", "path"),
    [
        ("veriff", {}, "$"),
        ("veriff", {"status": "success"}, "$"),
        ("veriff", {"type": "new_registry"}, "$"),
        ("veriff", {"eventType": "user-status.deleted"}, "$.eventType"),
        ("veriff", {"eventType": "new", "verification": {"id": "x"}}, "$.eventType"),
        ("veriff", {"eventType": ["ine_registry"]}, "$"),
        ("veriff", {"data": {"verification": {"id": "x"}}}, "$"),
        ("veriff", {"data": {"verification": []}}, "$"),
        ("veriff", {"data": 5}, "$"),
        ("pawapass", {}, "$.type"),
        ("pawapass", {"type": None, "object": "VERIFICATION"}, "$.type"),
        ("pawapass", {"type": 5}, "$.type"),
        ("pawapass", {"type": "VERIFICATION.DELETED"}, "$.type"),
        ("pawapass", {"type": "verification.status_change"}, "$.type"),
    ],
)
def test_an_unknown_kind_is_named_so(provider, sent, path):
    """A body whose kind is on no list is `unknown_type`, never guessed at."""
    found = failure(f"{provider}/x", json.dumps(sent).encode())
    assert (found.kind, found.path) == ("unknown_type", path)


JUNK = [
    (b"", "invalid_json"),
    (b" ", "invalid_json"),
    (b"{", "invalid_json"),
    (b'{"verification":', "invalid_json"),
    (b"\xff\xfe", "invalid_json"),
    (b'\xef\xbb\xbf{"type":"x"}', "invalid_json"),
    (b'{"type": "\xff"}', "invalid_json"),
    (b'{"type": "\\ud800"}', "invalid_json"),
    (b'{"type": NaN}', "invalid_json"),
    (b"{} {}", "invalid_json"),
    (b"{'type': 1}", "invalid_json"),
    (b"[]", "schema_mismatch"),
    (b"null", "schema_mismatch"),
    (b"true", "schema_mismatch"),
    (b'"decision"', "schema_mismatch"),
    (b"17", "schema_mismatch"),
    (b'{"type":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
    (b'{"verification":' + b'{"a":' * 100_000, "invalid_json"),
    (b'{"eventType":' + b"[" * 100_000, "invalid_json"),
    (b'{"type": 1e999}', "schema_mismatch"),
]


@pytest.mark.parametrize("provider", ["veriff", "pawapass"])
@pytest.mark.parametrize(("body", "kind"), JUNK, ids=range(len(JUNK)))
def test_junk_is_set_aside_with_its_kind(provider, body, kind):
    """Whatever arrives, a record that is no JSON object is named as that and never a bug."""
    assert failure(f"{provider}/x", body).kind == kind


def test_bodies_carry_far_more_than_is_read():
    """Unread parts may be deep, huge or of another shape: they are skipped."""
    extra = {"deep": [[[[]]]], "number": 10**200, "list": ["x"] * 1000, "": None}
    for case in MEANINGS:
        sent = {**json.loads(body_of(case)), "extra": extra}
        found, plain = stated(case, json.dumps(sent).encode()), stated(case)
        found.natural_key = plain.natural_key
        assert found == plain


# Properties.


def nodes(document, path=()):
    """Every path to a node of a JSON document, the document itself included."""
    yield path
    items = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for name, node in items:
        yield from nodes(node, (*path, name))


def strings(document):
    for path in nodes(document):
        node = document
        for name in path:
            node = node[name]
        if isinstance(node, str):
            yield path


def replaced(document, path, value):
    if not path:
        return value
    name, *rest = path
    copy = document.copy()
    if rest:
        copy[name] = replaced(document[name], rest, value)
    elif value is DELETED:
        del copy[name]
    else:
        copy[name] = value
    return copy


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["approved", "APPROVED", "2024-11-06T07:17:36Z", "ine_registry", "x" * 1001])
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


def fate_of(provider, body):
    try:
        return NORMALIZERS[provider].normalize(body, provenance(provider))
    except Exception as error:  # noqa: BLE001 - as the worker does, around one record
        return failure_of(error)


def never_a_bug(provider, body):
    result = fate_of(provider, body)
    if isinstance(result, Failure):
        assert result.kind != "bug", (result.error_class, body)
        return result
    if isinstance(result, Ignored):
        return result
    for statement in result:
        assert isinstance(statement, Statement)
        # what the rest of the pipeline relies on
        if statement.subject is not None:
            statement.subject.id.encode()
        "".join(statement.natural_key).encode()
    return result


@pytest.mark.parametrize("provider", ["veriff", "pawapass"])
@given(body=st.binary())
def test_no_bytes_are_a_bug(provider, body):
    """Arbitrary bytes are understood or set aside with a kind other than `bug`."""
    never_a_bug(provider, body)


@pytest.mark.parametrize("provider", ["veriff", "pawapass"])
@given(document=json_values)
def test_no_json_is_a_bug(provider, document):
    """Arbitrary JSON is understood or set aside with a kind other than `bug`."""
    never_a_bug(provider, json.dumps(document).encode())


@pytest.mark.parametrize("provider", ["veriff", "pawapass"])
@given(data=st.data())
def test_no_mutation_of_a_fixture_is_a_bug(provider, data):
    """A fixture with any of its nodes replaced or deleted never ends as `bug`."""
    mine = [case for case in CASES if case.startswith(provider)]
    document = json.loads(body_of(data.draw(st.sampled_from(mine))))
    for _ in range(data.draw(st.integers(1, 3))):
        paths = list(nodes(document)) if isinstance(document, (dict, list)) else [()]
        path = data.draw(st.sampled_from(paths))
        value = data.draw(st.just(DELETED) | json_values) if path else data.draw(json_values)
        document = replaced(document, path, value)
    never_a_bug(provider, json.dumps(document).encode())


@pytest.mark.parametrize("case", CASES)
def test_a_fixture_cut_off_anywhere_is_no_event(case):
    """A body that lost its end is invalid JSON, wherever it was cut."""
    body = body_of(case)
    for length in range(0, len(body), 7):
        assert never_a_bug(case.partition("/")[0], body[:length]).kind == "invalid_json"


# What may leave a body. A path on no list may not contribute one character to an event.

COPIED = {
    "veriff": {
        "decision": "verification.id verification.attemptId verification.status"
        " verification.reasonCode",
        "event": "id attemptId action",
        "watchlist": "sessionId attemptId matchStatus",
        "user-status": "sessionId attemptId data.verification.userDefinedData.statusCode"
        " data.verification.userDefinedData.reasonCode",
        "ine-registry": "sessionId attemptId data.status",
        "curp-registry": "id data.attemptId data.status",
        "combined-ine-curp": "sessionId attemptId",
        "full-auto": "sessionId attemptId",
    },
    "pawapass": {
        "": "notificationId data.id data.status data.reviewResult.reason",
    },
}
HASHED = {"endUserId", "vendorData", "externalId"}


def copied_paths(case):
    provider, _, name = case.partition("/")
    for start, paths in COPIED[provider].items():
        if name.startswith(start):
            return set(paths.split())
    raise AssertionError(case)


def what_leaves(result):
    """Everything a mapping gives away, in one text: subjects and natural keys are hashed."""
    if isinstance(result, Failure):
        return f"{result} {result.args} {result.kind} {result.path} {result.error_class}"
    if isinstance(result, Ignored):
        return str(result)
    for statement in result:
        statement.subject = None
        statement.natural_key = ()
    return msgspec.json.encode(result).decode()


@pytest.mark.parametrize("marker", ["MARKER", "Marker Née <m@example.com>"])
@pytest.mark.parametrize("case", CASES)
def test_only_listed_fields_leave_a_body(case, marker):
    """A marker put into one field after the other leaves only by the listed ones, as a constant."""
    document = json.loads(body_of(case))
    for path in strings(document):
        dotted = ".".join(str(name) for name in path)
        body = json.dumps(replaced(document, path, marker)).encode()
        leaving = what_leaves(never_a_bug(case.partition("/")[0], body))
        if marker == "MARKER" and dotted in copied_paths(case):
            assert marker in leaving, dotted
        else:
            assert marker not in leaving, dotted
            assert "arker" not in leaving, dotted


@pytest.mark.parametrize("case", CASES)
def test_a_body_full_of_markers_gives_none_away(case):
    """With a marker in every text that is not read, the statement is as it was."""
    read = copied_paths(case) | HASHED
    document = json.loads(body_of(case))
    marked = document
    for path in strings(document):
        dotted = ".".join(str(name) for name in path)
        if dotted in read or path[-1] in READ_WORDS or dotted in READ_PATHS:
            continue
        marked = replaced(marked, path, "MARKER")
    result = never_a_bug(case.partition("/")[0], json.dumps(marked).encode())
    assert "MARKER" not in what_leaves(result)
    assert what_leaves(result) == what_leaves(normalized(case))


READ_WORDS = {"endUserId", "vendorData", "externalId", "eventType"}
READ_PATHS = {
    "type",
    "time",
    "createdAt",
    "checkType",
    "verification.reason",
    "verification.decisionTime",
    "verification.document.type",
    "verification.document.country",
    "data.verification.id",
    "data.verification.userDefinedData.createdAt",
    "data.country",
    "data.requirements.0.type",
    "data.requirements.1.type",
    "data.identityDocument.type",
    "data.identityDocument.country",
    "data.faceScan.ageEstimation",
}


# The rule that both mappings share.


@pytest.mark.parametrize("word", ["a", "SUCCESS_DATA_CHANGED", "a.b:c/d-e_9", "x" * 64])
def test_a_machine_constant_may_pass(word):
    """Letters, digits and _ . : / - up to 64 characters are a constant."""
    assert native.constant(word) == word


@pytest.mark.parametrize("word", [None, "", "x" * 65, "a b", "a@b", "a\n", "é", "٣", "a+b", "a,b"])
def test_anything_else_may_not(word):
    """Whatever a person could have typed is no constant."""
    assert native.constant(word) is None


def test_both_mappings_list_their_native_types():
    """The native types are the metric's labels: exactly these."""
    assert frozenset(veriff.NATIVE_TYPES) == {
        "decision",
        "event",
        "watchlist-screening",
        "user-status.created",
        "ine_registry",
        "curp_registry",
        "combined-ine-curp-registry",
        "full-auto",
    }
    assert frozenset(pawapass.NATIVE_TYPES) == {
        "VERIFICATION.STATUS_CHANGE",
        "VERIFICATION.IDENTITY_DOCUMENT_CHANGE",
    }
