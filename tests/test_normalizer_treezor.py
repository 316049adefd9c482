"""What Treezor's mapping owes: every fixture's meaning in literal words, its tables, its attacks."""

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
from consumers.identity import event_id
from consumers.normalizers import treezor
from gateway.delivery import Provenance
from tests.conftest import KEYS, RECEIVED_AT

FIXTURES = Path(__file__).parent / "fixtures" / "treezor"
CASES = sorted(path.parent.name for path in FIXTURES.glob("*/body.raw"))
DELETED = object()

FLAT, WRAPPED = "treezor-flat", "treezor-wrapped"
SNS, SNS_WRAPPED = "treezor-sns", "treezor-sns-wrapped"

OTHER_FORMS = {
    "user-kycrequest": WRAPPED,
    "user-kycreview": WRAPPED,
    "user-kycreview-refused": WRAPPED,
    "user-kycreview-investigating": WRAPPED,
    "qes-created-wrapped": WRAPPED,
    "qes-finalized-sns": SNS,
    "user-kycreview-sns-wrapped": SNS_WRAPPED,
}
UNSIGNED = {"kycreview-request", "kycreview-result"}


def provenance(scheme=FLAT, authenticity="signed", received_at=RECEIVED_AT):
    return Provenance(
        endpoint="treezor",
        provider="treezor",
        received_at=received_at,
        delivery_id="delivery",
        authenticity=authenticity,
        scheme=scheme,
        key_id="default",
        environment="sandbox",
    )


def form_of(case):
    return OTHER_FORMS.get(case, FLAT)


def body_of(case):
    return (FIXTURES / case / "body.raw").read_bytes()


def event_in(document, form):
    """The envelope with the payload: where a form has it."""
    if form in {SNS, SNS_WRAPPED}:
        document = json.loads(document["Message"])
    return document["webhook"] if form in {WRAPPED, SNS_WRAPPED} else document


def event_of(case):
    return event_in(json.loads(body_of(case)), form_of(case))


def dumped(value):
    return json.dumps(value, ensure_ascii=False).encode()


def in_form(event, form):
    """An event in one of the four forms."""
    if form in {WRAPPED, SNS_WRAPPED}:
        event = {"messageId": "m", "webhookId": "w", "webhook": event, "clientId": "516899"}
    if form in {SNS, SNS_WRAPPED}:
        message = json.dumps(event, ensure_ascii=False)
        event = {"Type": "Notification", "MessageId": "m", "TopicArn": "a", "Message": message}
    return dumped(event)


def edited(case, **edits):
    """A fixture's event with the values at paths (a__0__b) replaced, added or deleted."""
    event = event_of(case)
    for path, value in edits.items():
        *parents, last = path.split("__")
        node = event
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node[name]
        if value is DELETED:
            del node[last]
        else:
            node[int(last) if isinstance(node, list) else last] = value
    return event


def normalized(body, form=FLAT, **how):
    return treezor.normalize(body, provenance(form, **how))


def said(event, **how):
    """The one statement of an event in the flat form."""
    (statement,) = normalized(dumped(event), **how)
    assert isinstance(statement, Statement)
    return statement


def stated(case, **edits):
    return said(edited(case, **edits))


def failure(event, form=FLAT, **how):
    """How an event fails: raised for all of the delivery, or given for its one bad item."""
    body = event if isinstance(event, bytes) else dumped(event)
    try:
        (item,) = normalized(body, form, **how)
    except (Failure, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return failure_of(error)
    assert isinstance(item, Failure), item
    return item


def kind_and_path(*args, **how):
    found = failure(*args, **how)
    return found.kind, found.path


def ms(text):
    moment = datetime.fromisoformat(text)
    return int(moment.replace(microsecond=0).timestamp()) * 1000 + moment.microsecond // 1000


def identity(statement, endpoint="treezor"):
    return event_id(KEYS, endpoint, statement)


# What each fixture means. Only what a Statement does not say by default is written down.

PASS = {"status": "completed", "outcome": "pass", "is_final": True}
FAIL = {"status": "completed", "outcome": "fail", "is_final": True}


def user(text):
    return Subject("provider_user", text)


def own(prefix, number):
    return f"{prefix}0000000-0000-4000-8000-{number:012d}"


def delivered(text):
    return {"occurred_at": ms(text), "occurred_at_source": "delivery"}


def happened(text):
    return {"occurred_at": ms(text), "occurred_at_source": "object"}


AT_RECEIPT = delivered("2023-11-14T22:13:20+00:00")


def review(name, user_id, **more):
    return {
        "native_type": name,
        "type_family": "user",
        "category": "kyc_review",
        "subject": user(user_id),
        "subject_type": "person",
        "provider_account": "516899",
        "assurance_framework": "treezor",
        "attributes": {"treezor.code_status": "110009"},
        **more,
    }


def kyc(name, user_id, **more):
    return {
        "native_type": name,
        "type_family": "kyc",
        "category": "kyc_review",
        "subject": user(user_id),
        "provider_account": "1234",
        "assurance_framework": "treezor",
        "country": "FR",
        **more,
    }


def document(name, user_id, document_id, **more):
    return {
        "native_type": name,
        "type_family": "document",
        "category": "document",
        "subject": user(user_id),
        "resource_type": "document",
        "resource_ref": document_id,
        **more,
    }


def liveness(name, user_id, object_id, **more):
    return {
        "native_type": name,
        "type_family": "liveness",
        "category": "liveness",
        "methods": ("liveness",),
        "subject": user(user_id),
        "subject_type": "person",
        "process_ref": object_id,
        **more,
    }


def identification(name, user_id, transaction, channel, **more):
    is_video = name.startswith("videoConference")
    attributes = {"treezor.channel": channel, **more.pop("attributes", {})}
    return {
        "native_type": name,
        "type_family": "identification",
        "category": "video_identification" if is_video else "e_signature",
        "methods": ("video",) if is_video else ("qualified_signature",),
        "subject": user(user_id),
        "subject_type": "person",
        "process_ref": transaction,
        "attributes": attributes,
        **more,
    }


QES = "b00ecdec-b721-55c4-8e20-ef3625616926"
CHANGED = {"treezor.data_changed": "true"}

MEANINGS = {
    "user-kycrequest": review(
        "user.kycrequest",
        "6461762",
        provider_event_id="fd895029-22e5-49ed-a2c8-093c07dc053c",
        native_status="1",
        status="in_review",
        assurance_level="NONE",
    ),
    "user-kycreview": review(
        "user.kycreview",
        "6461762",
        provider_event_id="8f3577ec-c126-4e94-a3df-1bdccfb0b89f",
        native_status="2",
        **PASS,
        assurance_level="REGULAR",
    ),
    "user-kycreview-refused": review(
        "user.kycreview",
        "2000006",
        provider_event_id=own("c", 15),
        native_status="3",
        **FAIL,
        subject_type="unknown",
        assurance_level="REFUSED",
        **AT_RECEIPT,
    ),
    "user-kycreview-investigating": review(
        "user.kycreview",
        "2000007",
        provider_event_id=own("c", 16),
        native_status="4",
        status="in_review",
        assurance_level="NONE",
        **AT_RECEIPT,
    ),
    "user-kycreview-numbers": review(
        "user.kycreview",
        "2000008",
        provider_event_id="648614636",
        native_status="2",
        **PASS,
        assurance_level="STRONG",
        **AT_RECEIPT,
    ),
    "user-kycreview-unlisted": review(
        "user.kycreview",
        "2000009",
        provider_event_id=own("c", 18),
        native_status="9",
        assurance_framework=None,
        **AT_RECEIPT,
        unmapped=(
            "object_payload.users.kycReview",
            "object_payload.users.kycLevel",
            "object_payload.users.distributionCountry",
        ),
    ),
    "user-kycreview-sns-wrapped": review(
        "user.kycreview",
        "2000029",
        provider_event_id=own("c", 39),
        native_status="2",
        **PASS,
        assurance_level="REGULAR",
        **AT_RECEIPT,
    ),
    "user-create": review(
        "user.create",
        "2000001",
        provider_event_id=own("c", 11),
        native_status="0",
        status="not_applicable",
        assurance_level="NONE",
        country="FR",
        **delivered("2023-11-14T22:13:20.072+00:00"),
    ),
    "user-update": review(
        "user.update",
        "2000002",
        provider_event_id=own("c", 12),
        native_status="6",
        status="in_review",
        assurance_level="REGULAR",
        **delivered("2023-11-14T22:13:19+00:00"),
    ),
    "user-cancel": review(
        "user.cancel",
        "2000005",
        provider_event_id=own("c", 14),
        native_status="CANCELED",
        status="canceled",
        is_final=True,
        assurance_level="REGULAR",
        **AT_RECEIPT,
    ),
    "kycreview-request": kyc(
        "kycreview.request",
        "1",
        native_status="PENDING",
        status="in_review",
        assurance_level="LIGHT",
        attributes={"treezor.code_status": "110002", "treezor.review_type": "ONBOARDING"},
    ),
    "kycreview-result": kyc(
        "kycreview.result",
        "1",
        native_status="VALIDATED",
        status="completed",
        outcome="pass",  # and not final: nobody signed it
        assurance_level="LIGHT",
        attributes={
            "treezor.code_status": "110006",
            "treezor.review_type": "ONBOARDING",
            "treezor.next_review_date": "2020-02-25",
        },
    ),
    "kycreview-result-signed": kyc(
        "kycreview.result",
        "2000011",
        provider_event_id=own("c", 19),
        native_status="VALIDATED",
        **PASS,
        assurance_level="REGULAR",
        country="DE",
        attributes={
            "treezor.code_status": "110006",
            "treezor.review_type": "ONBOARDING",
            "treezor.next_review_date": "2028-11-14",
        },
        **happened("2023-11-14T22:06:39+00:00"),
    ),
    "kycreview-result-refused": kyc(
        "kycreview.result",
        "2000012",
        provider_event_id=own("c", 20),
        native_status="REFUSED",
        **FAIL,
        assurance_level="REFUSED",
        attributes={"treezor.code_status": "110006", "treezor.review_type": "ONBOARDING"},
        **happened("2023-11-14T22:06:39+00:00"),
    ),
    "document-create": document(
        "document.create",
        "1XXXXXX",
        "8XXXX",
        provider_event_id="10XXXXXX",
        provider_account="4XXXX",
        native_status="PENDING",
        status="processing",
        document_type="passport",
        attributes={"treezor.code_status": "600003"},
    ),
    "document-update": document(
        "document.update",
        "1XXXXX2",
        "8XXX2",
        provider_event_id="1XXXXXXX",
        provider_account="9XXXX",
        native_status="PENDING",
        status="processing",
        document_type="company_articles",
        attributes={"treezor.code_status": "600003"},
    ),
    "document-cancel": document(
        "document.cancel",
        "1XXXXX3",
        "8XXX3",
        provider_event_id="1XXXXXX",
        provider_account="1XXXXX",
        native_status="CANCELED",
        status="canceled",
        is_final=True,
        document_type="payslip",
        attributes={"treezor.code_status": "600004"},
    ),
    "document-update-validated": document(
        "document.update",
        "2000013",
        "81001",
        provider_event_id=own("c", 21),
        provider_account="516899",
        native_status="VALIDATED",
        **PASS,
        document_type="id_card",
        attributes={"treezor.code_status": "600005"},
    ),
    "document-update-unlisted": document(
        "document.update",
        "2000013",
        "81002",
        provider_event_id=own("c", 22),
        provider_account="516899",
        native_status="ARCHIVED",
        document_type="other",
        attributes={"treezor.code_status": "600005"},
        unmapped=(
            "object_payload.documents.documentStatus",
            "object_payload.documents.documentTypeId",
        ),
    ),
    "kycliveness-create": liveness(
        "kycliveness.create",
        "2440234",
        "9dac1414-6733-46ae-b5a9-1b3aa39ea4bd",
        provider_event_id="42424224-442z5-42ce9-8242-513d80c15142",
        native_status="processing",
        status="processing",
        **happened("2020-06-30T07:15:18.856843+00:00"),
    ),
    "kycliveness-update": liveness(
        "kycliveness.update",
        "100196123",
        "9dac1414-6733-46ae-b5a9-1b3aa39ea4xx",
        provider_event_id="42424224-442z5-42ce9-8242-513d80c11111",
        native_status="processed",
        **FAIL,
        reasons=(
            ("face.not_visible", "1312"),
            ("capture.poor_quality", "1320"),
            ("identity.mismatch", "2401"),
        ),
        **happened("2024-03-08T05:37:26.076003+00:00"),
    ),
    "kycliveness-update-certified-video": liveness(
        "kycliveness.update",
        "2000014",
        own("f", 4),
        provider_event_id=own("c", 23),
        native_status="processed",
        **PASS,
        **happened("2023-11-14T21:15:18.856843+00:00"),
    ),
    "kycliveness-create-abandoned": liveness(
        "kycliveness.create",
        "2000015",
        own("f", 5),
        provider_event_id=own("c", 24),
        native_status="aborted",
        status="abandoned",
        **AT_RECEIPT,
    ),
    "kycliveness-update-unlisted": liveness(
        "kycliveness.update",
        "2000016",
        own("f", 6),
        provider_event_id=own("c", 25),
        native_status="expired",
        reasons=(("unmapped", "1999"), ("unmapped", "")),
        **happened("2023-11-14T21:15:18.856843+00:00"),
        unmapped=("object_payload.kyc-status", "object_payload.reason"),
    ),
    "qes-created": identification(
        "qes.created",
        "4137216",
        QES,
        "APP",
        provider_event_id="af5a6c9e-4dc8-4d58-a245-e26dc27xx9aa",
        native_status="STARTED",
        status="started",
    ),
    "qes-created-start": identification(
        "qes.created",
        "2000021",
        own("f", 21),
        "APP",
        provider_event_id=own("c", 31),
        native_status="START",
        status="started",
        **AT_RECEIPT,
    ),
    "qes-created-wrapped": identification(
        "qes.created",
        "2000022",
        own("f", 22),
        "APP",
        provider_event_id=own("c", 32),
        native_status="STARTED",
        status="started",
        **delivered("2023-11-14T22:13:19+00:00"),
    ),
    "qes-processing": identification(
        "qes.processing",
        "4137216",
        QES,
        "APP",
        provider_event_id="5fa78cf6-c85b-46c2-b950-a7ad7e974291",
        native_status="CHECK_PENDING",
        status="processing",
        **happened("2024-06-27T09:16:23+02:00"),
    ),
    "qes-aborted": identification(
        "qes.aborted",
        "100438239",
        "3606323f-345e-5105-bfb6-7ca324a69945",
        "APP",
        provider_event_id="696b7f9e-020b-4b60-b91a-c7fab0a4940f",
        native_status="ABORTED",
        status="abandoned",
        is_final=True,
        reasons=(("document.expired", "3002"),),
        **happened("2024-06-15T10:58:02+02:00"),
    ),
    "qes-finalized-success-data-changed": identification(
        "qes.finalized",
        "4137216",
        QES,
        "APP",
        provider_event_id="8a7dfe6b-d44a-4b54-92a7-cc02c3d43eb8",
        native_status="SUCCESS_DATA_CHANGED",
        **PASS,
        attributes=CHANGED,
        **happened("2024-06-27T09:16:23+02:00"),
    ),
    "qes-finalized-success-data-change": identification(
        "qes.finalized",
        "2000023",
        own("f", 23),
        "APP",
        provider_event_id=own("c", 33),
        native_status="SUCCESS_DATA_CHANGE",
        **PASS,
        attributes=CHANGED,
        **happened("2023-11-14T23:10:00+01:00"),
    ),
    "qes-finalized-canceled": identification(
        "qes.finalized",
        "4137216",
        own("f", 1),
        "APP",
        provider_event_id=own("c", 1),
        native_status="CANCELED",
        **FAIL,
        reasons=(("face.not_live", "3201"),),
        **happened("2024-06-27T09:16:23+02:00"),
    ),
    "qes-finalized-sns": identification(
        "qes.finalized",
        "2000028",
        own("f", 28),
        "APP",
        provider_event_id=own("c", 38),
        native_status="SUCCESS",
        **PASS,
        **happened("2023-11-14T23:10:00+01:00"),
    ),
    "videoconference-created": identification(
        "videoConference.created",
        "4137216",
        own("f", 2),
        "APP",
        provider_event_id=own("c", 2),
        native_status="STARTED",
        status="started",
    ),
    "videoconference-processing": identification(
        "videoConference.processing",
        "100764422",
        "bd17f3e1-05fe-5b12-929c-0d4b9b27c4a2",
        "WEB",
        provider_event_id="8a7dfe6b-d44a-4b54-92a7-cc02cxxx3eb8",
        native_status="REVIEW_PENDING",
        status="in_review",
        **happened("2024-08-27T15:23:03+02:00"),
    ),
    "videoconference-processing-fraud-suspicion": identification(
        "videoConference.processing",
        "2000024",
        own("f", 24),
        "WEB",
        provider_event_id=own("c", 34),
        native_status="FRAUD_SUSPICION_PENDING",
        status="in_review",
        reasons=(("fraud.suspected", "FRAUD_SUSPICION_PENDING"),),
        **happened("2023-11-14T23:10:00+01:00"),
    ),
    "videoconference-aborted": identification(
        "videoConference.aborted",
        "4137216",
        "26dd014c-33f2-56f6-9ebc-bec12caxx2bf",
        "WEB",
        provider_event_id="8a7dfe6b-d44a-4b54-92a7-cc02c3xx3eb8",
        native_status="ABORTED",
        status="abandoned",
        is_final=True,
        reasons=(("session.timeout", "STALLED_TIMEOUT"),),
        **happened("2024-08-01T01:33:00+02:00"),
    ),
    "videoconference-finalized-success-data-changed": identification(
        "videoConference.finalized",
        "100689821",
        "11a08a9a-b05a-5127-b727-b32fa01616bc",
        "WEB",
        provider_event_id="8a7dfe6b-d44a-4b54-92a7-cc02cxx3eb8",
        native_status="SUCCESS_DATA_CHANGED",
        **PASS,
        attributes=CHANGED,
        **happened("2024-08-19T10:05:55+02:00"),
    ),
    "videoconference-finalized-success": identification(
        "videoConference.finalized",
        "2000026",
        own("f", 26),
        "WEB",
        provider_event_id=own("c", 36),
        native_status="SUCCESS",
        **PASS,
        **happened("2023-11-14T23:10:00+01:00"),
    ),
    "videoconference-finalized-canceled": identification(
        "videoConference.finalized",
        "4137216",
        own("f", 3),
        "APP",
        provider_event_id=own("c", 3),
        native_status="CANCELED",
        **FAIL,
        reasons=(("face.not_live", "3201"),),
        **happened("2024-06-27T09:16:23+02:00"),
    ),
    "videoconference-finalized-fraud": identification(
        "videoConference.finalized",
        "2000025",
        own("f", 25),
        "WEB",
        provider_event_id=own("c", 35),
        native_status="FRAUD_SUSPICION_CONFIRMED",
        **FAIL,
        reasons=(("fraud.suspected", "FRAUD_SUSPICION_CONFIRMED"),),
        **happened("2023-11-14T23:10:00+01:00"),
    ),
    "videoconference-finalized-unlisted": identification(
        "videoConference.finalized",
        "2000027",
        own("f", 27),
        "WEB",
        provider_event_id=own("c", 37),
        native_status="PAUSED",
        reasons=(("unmapped", "9999"),),
        **AT_RECEIPT,
        unmapped=("object_payload.result", "object_payload.reason"),
    ),
}

TWO_USERS = [
    review(
        "user.update",
        "2000003",
        provider_event_id=own("c", 13),
        native_status="7",
        status="in_review",
        subject_type="unknown",
        assurance_level="REGULAR",
        **AT_RECEIPT,
    ),
    review(
        "user.update",
        "2000004",
        provider_event_id=own("c", 13),
        native_status="2",
        **PASS,
        assurance_level="LIGHT",
        item_index=1,
        **AT_RECEIPT,
    ),
]


def php_text(payload):
    """The canonical text as the documents describe it, made without our own code."""
    text = json.dumps(payload, ensure_ascii=True, separators=(",", ":"))
    return text.replace("/", "\\/").encode()


def digest_of(case):
    return hashlib.sha256(php_text(event_of(case)["object_payload"])).hexdigest()


def of_fixture(case):
    authenticity = "unsigned" if case in UNSIGNED else "signed"
    return normalized(body_of(case), form_of(case), authenticity=authenticity)


@pytest.mark.parametrize("case", MEANINGS)
def test_a_fixture_means_exactly_what_is_written_down_for_it(case):
    """Every field of every fixture's statement is the literal expectation, or the default."""
    key = (digest_of(case), "0", "unsigned") if case in UNSIGNED else (digest_of(case), "0")
    expected = Statement(**{"natural_key": key, **MEANINGS[case]})
    (statement,) = of_fixture(case)
    assert msgspec.structs.asdict(statement) == msgspec.structs.asdict(expected)


def test_each_of_several_users_is_a_statement_of_its_own():
    """Two users in one delivery are two events, told apart by their position."""
    digest = digest_of("user-update-two-users")
    expected = [
        Statement(**{"natural_key": (digest, str(position)), **meaning})
        for position, meaning in enumerate(TWO_USERS)
    ]
    found = of_fixture("user-update-two-users")
    assert found == expected
    assert identity(found[0]) != identity(found[1])


def test_a_payin_is_ignored_with_its_reason():
    """Events of other products reach the endpoint: counted, not dropped."""
    expected = Ignored(reason="foreign_event", native_type="payin")
    assert normalized(body_of("payin-create")) == expected


def test_every_expectation_has_its_fixture():
    """The list of meanings and the fixture folders name the same cases."""
    assert sorted([*MEANINGS, "user-update-two-users", "payin-create"]) == CASES


def test_the_fixtures_are_unsigned_where_their_endpoint_accepts_it():
    """Only the two published kycreview deliveries are for an endpoint that accepts unsigned."""
    assert {path.parent.name for path in FIXTURES.glob("*/options.json")} == UNSIGNED
    for case in UNSIGNED:
        assert json.loads((FIXTURES / case / "options.json").read_text()) == {"unsigned": "accept"}
    for case in CASES:
        assert b"object_payload_signature" not in body_of(case)


def test_every_name_has_a_fixture():
    """Each event the mapping knows is shown by at least one delivery."""
    assert {meaning["native_type"] for meaning in [*MEANINGS.values(), *TWO_USERS]} == set(
        treezor.NATIVE_TYPES
    )


# Traps of the samples.

NEAR = [
    (1700000000, "2023-11-14T22:13:20+00:00"),
    (1700000000123, "2023-11-14T22:13:20.123+00:00"),
    (17000000001239, "2023-11-14T22:13:20.123+00:00"),
    ("1700000000", "2023-11-14T22:13:20+00:00"),
    ("1700000000123", "2023-11-14T22:13:20.123+00:00"),
    ("17000000001239", "2023-11-14T22:13:20.123+00:00"),
    ("1700000000.0000", "2023-11-14T22:13:20+00:00"),
    ("1700000000.1239", "2023-11-14T22:13:20.123+00:00"),
    ("1700000000123.9", "2023-11-14T22:13:20.123+00:00"),
    (1700000000.5, "2023-11-14T22:13:20.5+00:00"),
]


@pytest.mark.parametrize(("sent", "expected"), NEAR)
def test_created_at_has_three_units_by_its_digits(sent, expected):
    """10 digits are seconds, 13 milliseconds, 14 ten-thousandths; a number or a decimal string."""
    statement = stated("user-cancel", webhook_created_at=sent)
    assert (statement.occurred_at, statement.occurred_at_source) == (ms(expected), "delivery")


@pytest.mark.parametrize(
    "sent",
    [
        DELETED, None, "", 0, 17, 170000000, 17000000000, 170000000000, 170000000000000, -1700000000,
        "soon", "1700000000 ", "0x65534e10", "1700000000.", "1.7e9", 1.7e9 * 10, True, [1700000000],
        {"at": 1700000000}, "2023-11-14T22:13:20Z", "17\u06f00000000", "9" * 5000,
    ],
)  # fmt: skip
def test_a_created_at_of_no_known_unit_is_no_time(sent):
    """Anything else gives the time of receipt, and never stops an event."""
    statement = stated("user-cancel", webhook_created_at=sent)
    assert (statement.occurred_at, statement.occurred_at_source) == (None, "received")


@pytest.mark.parametrize(
    ("received_at", "is_believed"),
    [
        (1_700_000_000_000, True),
        (1_700_000_000_000 + 86_400_000, True),
        (1_700_000_000_000 + 86_400_001, False),
        (1_700_000_000_000 - 86_400_000, True),
        (1_700_000_000_000 - 86_400_001, False),
    ],
)
def test_created_at_is_believed_within_a_day_of_the_receipt(received_at, is_believed):
    """It is not signed: a replayed delivery could claim any time."""
    event = edited("user-cancel", webhook_created_at=1700000000)
    statement = said(event, received_at=received_at)
    assert (statement.occurred_at_source == "delivery") == is_believed
    assert (statement.occurred_at is not None) == is_believed


def test_the_units_agree_on_the_published_times():
    """The published 14-digit time is that of the review's own comment, in Paris."""
    event = edited("user-cancel", webhook_created_at=16539198620721)
    statement = said(event, received_at=ms("2022-05-30T14:11:02+00:00"))
    assert statement.occurred_at == ms("2022-05-30T14:11:02.072+00:00")


@pytest.mark.parametrize("field", ["createdDate", "modifiedDate"])
@pytest.mark.parametrize("text", ["2020-05-19 10:34:21", "0000-00-00 00:00:00", "1989-00-00", ""])
def test_local_times_and_zero_dates_of_documents_are_no_time(field, text):
    """A document's times have no zone, and one was created later than modified: not read."""
    statement = stated("document-create", **{f"object_payload__documents__0__{field}": text})
    assert (statement.occurred_at, statement.occurred_at_source) == (None, "received")


SIGNED_TIMES = [
    ("qes-created-start", "object_payload__identificationTime"),
    ("kycliveness-create-abandoned", "object_payload__updated-at"),
]


@pytest.mark.parametrize(("case", "path"), SIGNED_TIMES)
def test_a_signed_time_wins_over_the_delivery_s(case, path):
    """The time in the payload is signed, so it is taken however far it lies."""
    for text in ("2024-06-27T09:16:23+02:00", "1999-12-31T23:59:59.999999Z"):
        statement = stated(case, **{path: text})
        assert (statement.occurred_at, statement.occurred_at_source) == (ms(text), "object")


@pytest.mark.parametrize(("case", "path"), SIGNED_TIMES)
@pytest.mark.parametrize(
    "text",
    [
        "", None, DELETED, "2024-06-27T09:16:23", "2024-06-27 09:16:23", "2024-06-27",
        "2024-06-27 09:16:23.123", "0000-00-00 00:00:00", "0000-00-00", "0000-00-00T00:00:00Z",
        "1989-00-00", "1989-06-00T00:00:00Z",
    ],
)  # fmt: skip
def test_a_signed_time_without_a_zone_and_a_zero_date_give_way_to_the_delivery_s(case, path, text):
    """An identification that has only started has an empty time; no zone, no instant."""
    statement = stated(case, **{path: text})
    assert (statement.occurred_at, statement.occurred_at_source) == (RECEIVED_AT, "delivery")


@pytest.mark.parametrize(("case", "path"), SIGNED_TIMES)
@pytest.mark.parametrize("text", ["soon", "2024-13-01T00:00:00Z", "12", "2024-06-27T09:16Zé"])
def test_a_time_that_is_none_is_a_schema_mismatch(case, path, text):
    """A change of the format is seen, not guessed around."""
    assert kind_and_path(edited(case, **{path: text})) == (
        "schema_mismatch",
        "$." + path.replace("__", "."),
    )


@pytest.mark.parametrize("form", [FLAT, WRAPPED, SNS, SNS_WRAPPED])
@pytest.mark.parametrize("case", MEANINGS)
def test_a_delivery_means_the_same_in_every_form(case, form):
    """The envelope around it changes nothing of what an event says."""
    authenticity = "unsigned" if case in UNSIGNED else "signed"
    body = in_form(event_of(case), form)
    assert normalized(body, form, authenticity=authenticity) == of_fixture(case)


def as_numbers(node):
    """The same payload with every whole number in a string turned into a number."""
    if isinstance(node, dict):
        return {key: as_numbers(value) for key, value in node.items()}
    if isinstance(node, list):
        return [as_numbers(value) for value in node]
    return int(node) if isinstance(node, str) and node.isascii() and node.isdigit() else node


def as_strings(node):
    """The same payload with every number as a string."""
    if isinstance(node, dict):
        return {key: as_strings(value) for key, value in node.items()}
    if isinstance(node, list):
        return [as_strings(value) for value in node]
    return str(node) if isinstance(node, int) and not isinstance(node, bool) else node


@pytest.mark.parametrize("as_sent", [as_numbers, as_strings])
@pytest.mark.parametrize("case", MEANINGS)
def test_numbers_and_strings_mean_the_same(case, as_sent):
    """One life cycle sends strings, the other integers: only the natural key tells them apart."""
    event = event_of(case)
    (expected,) = of_fixture(case)
    event["object_payload"] = as_sent(event["object_payload"])
    authenticity = "unsigned" if case in UNSIGNED else "signed"
    for object_id in (event["object_id"], as_sent(event["object_id"])):
        event["object_id"] = object_id
        statement = said(event, authenticity=authenticity)
        assert msgspec.structs.replace(statement, natural_key=expected.natural_key) == expected


def test_the_hyphenated_keys_are_those_of_the_live_verification():
    """kycliveness.* spells its keys with hyphens and user_id with an underscore; no other way."""
    for wrong in ("user-id", "userId"):
        event = edited(
            "kycliveness-update",
            object_payload__user_id=DELETED,
            **{f"object_payload__{wrong}": "9"},
        )
        assert said(event).subject is None
    event = edited("kycliveness-update", **{"object_payload__kyc-status": DELETED})
    event["object_payload"]["kycStatus"] = "processed"
    assert kind_and_path(event) == ("inconsistent", "$.object_payload")


@pytest.mark.parametrize("case", sorted(UNSIGNED))
def test_kycreview_needs_no_webhook_id_and_no_signature(case):
    """Its samples have neither: an event all the same, without an id of the provider's."""
    (statement,) = of_fixture(case)
    assert statement.provider_event_id is None
    assert not statement.is_final


@pytest.mark.parametrize("case", MEANINGS)
def test_an_unsigned_delivery_is_never_final_and_never_the_signed_one(case):
    """What nobody signed decides nothing, and cannot make the signed one its duplicate."""
    body = in_form(event_of(case), FLAT)
    (signed,) = normalized(body)
    (unsigned,) = normalized(body, authenticity="unsigned")
    assert not unsigned.is_final
    assert identity(unsigned) != identity(signed)
    same = {"is_final": signed.is_final, "natural_key": signed.natural_key}
    if case.startswith("kycreview"):  # whose own time counts only where it is signed
        assert unsigned.occurred_at_source in {"received", "delivery"}
        assert signed.occurred_at_source == "object"
        same |= {"occurred_at": signed.occurred_at, "occurred_at_source": "object"}
    assert msgspec.structs.replace(unsigned, **same) == signed


def test_one_webhook_id_under_several_events_does_not_make_them_one():
    """Samples share a webhook_id: what tells events apart is the payload."""
    found = [stated(case, webhook_id="same") for case in MEANINGS if case not in UNSIGNED]
    assert {statement.provider_event_id for statement in found} == {"same"}
    assert len({identity(statement) for statement in found}) == len(found)


def test_the_value_wins_over_the_prose():
    """qes.created is described as completed, and says STARTED."""
    for name in ("created", "processing", "aborted", "finalized"):
        statement = stated("qes-created", webhook=f"qes.{name}")
        assert (statement.status, statement.outcome) == ("started", "none")
        statement = stated("qes-finalized-canceled", webhook=f"qes.{name}")
        assert (statement.status, statement.outcome) == ("completed", "fail")


def test_a_person_of_unknown_birth_date_is_no_obstacle():
    """1989-00-00 stands in a published sample; no birth date is read."""
    for text in ("1989-00-00", "0000-00-00", "", None, 5):
        statement = stated("user-update", object_payload__users__0__birthday=text)
        assert statement.status == "in_review"


# Reviews: levels and reviews.

LEVELS = {
    "0": "NONE", "1": "LIGHT", "2": "REGULAR", "3": "STRONG", "4": "REFUSED",
    "5": "PREVALIDATED", "6": "ENHANCED",
}  # fmt: skip
PASSED, FAILED = ("completed", "pass", True), ("completed", "fail", True)
OPEN, NONE = ("in_review", "none", False), ("not_applicable", "none", False)
UNKNOWN = ("unknown", "none", False)

# Rows: level 0 to 6 and one that is on no list; columns: review 0 to 7 and one on no list.
REVIEWS = {
    "0": (NONE, OPEN, UNKNOWN, FAILED, OPEN, UNKNOWN, OPEN, OPEN, UNKNOWN),
    "1": (UNKNOWN, OPEN, PASSED, FAILED, OPEN, UNKNOWN, OPEN, OPEN, UNKNOWN),
    "2": (UNKNOWN, OPEN, PASSED, FAILED, OPEN, UNKNOWN, OPEN, OPEN, UNKNOWN),
    "3": (UNKNOWN, OPEN, PASSED, FAILED, OPEN, UNKNOWN, OPEN, OPEN, UNKNOWN),
    "4": (FAILED,) * 9,
    "5": (UNKNOWN, OPEN, UNKNOWN, FAILED, OPEN, UNKNOWN, OPEN, OPEN, UNKNOWN),
    "6": (UNKNOWN, OPEN, PASSED, FAILED, OPEN, UNKNOWN, OPEN, OPEN, UNKNOWN),
    "7": (UNKNOWN, OPEN, UNKNOWN, FAILED, OPEN, UNKNOWN, OPEN, OPEN, UNKNOWN),
}
PAIRS = [
    (level, str(number), verdict)
    for level, row in REVIEWS.items()
    for number, verdict in enumerate(row)
]


@pytest.mark.parametrize(("level", "number", "verdict"), PAIRS)
def test_a_level_and_a_review_decide_together(level, number, verdict):
    """The same table for users and for the KYC object, for text and for numbers."""
    for as_sent in (str, int):
        users = edited(
            "user-update",
            object_payload__users__0__kycLevel=as_sent(level),
            object_payload__users__0__kycReview=as_sent(number),
        )
        cycle = edited(
            "kycreview-result-signed",
            object_payload__kycLevel=as_sent(level),
            object_payload__kycReview=as_sent(number),
        )
        for statement in (said(users), said(cycle)):
            assert (statement.status, statement.outcome, statement.is_final) == verdict
            assert statement.assurance_level == LEVELS.get(level)
            assert statement.assurance_framework == ("treezor" if level in LEVELS else None)
            fields = [path.rpartition(".")[2] for path in statement.unmapped]
            expected = ["kycReview"] if verdict == UNKNOWN else []
            assert fields == expected + ([] if level in LEVELS else ["kycLevel"])


@pytest.mark.parametrize(
    "name", ["user.create", "user.update", "user.cancel", "user.kycrequest", "user.kycreview"]
)
def test_a_review_is_decided_by_its_numbers_and_never_by_the_name(name):
    """The name is not signed: a request under the name of a review is still a request."""
    statement = stated("user-kycrequest", webhook=name)
    assert (statement.status, statement.outcome) == ("in_review", "none")
    statement = stated("user-kycreview", webhook=name)
    assert (statement.status, statement.outcome) == ("completed", "pass")


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_empty_level_or_review_is_unknown(nothing):
    """Empty strings are null, and no number is no decision."""
    statement = stated("user-kycreview", object_payload__users__0__kycReview=nothing)
    assert (statement.status, statement.native_status) == ("unknown", None)
    assert statement.unmapped == ("object_payload.users.kycReview",)
    statement = stated("user-kycreview", object_payload__users__0__kycLevel=nothing)
    assert (statement.status, statement.outcome) == ("unknown", "none")
    assert statement.assurance_level is statement.assurance_framework is None


def test_a_status_of_the_user_says_nothing_about_the_review():
    """A user can be VALIDATED whose review was only just requested."""
    for status in ("PENDING", "VALIDATED", "", None, DELETED, "SOMETHING"):
        statement = stated("user-kycrequest", object_payload__users__0__userStatus=status)
        assert (statement.status, statement.outcome) == ("in_review", "none")


@pytest.mark.parametrize(("level", "number"), [("2", "2"), ("4", "3"), ("0", "0"), ("0", "1")])
def test_a_canceled_user_is_no_verdict(level, number):
    """Closing an account neither passes nor fails anybody, whatever was once decided."""
    for name in ("user.cancel", "user.update", "user.kycreview"):
        statement = stated(
            "user-cancel",
            webhook=name,
            object_payload__users__0__kycLevel=level,
            object_payload__users__0__kycReview=number,
        )
        assert (statement.status, statement.outcome) == ("canceled", "none")
        assert statement.native_status == "CANCELED"


def test_the_kyc_object_falls_back_on_the_review_s_number():
    """Where kycStatus is empty, the native status is kycReview."""
    for nothing in (None, "", DELETED):
        statement = stated("kycreview-result-signed", object_payload__kycStatus=nothing)
        assert (statement.native_status, statement.outcome) == ("2", "pass")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2028-11-14", "2028-11-14"),
        ("0000-00-00", None),
        ("2028-00-00", None),
        ("2028-11-14T00:00:00Z", None),
        ("in five years", None),
        ("2028-11-1\u06f4", None),
        ("", None),
        (None, None),
        (DELETED, None),
    ],
)
def test_the_next_review_is_a_date_or_nothing(text, expected):
    """Only a date passes into the attributes."""
    statement = stated("kycreview-result-signed", object_payload__nextReviewDate=text)
    assert statement.attributes.get("treezor.next_review_date") == expected


@pytest.mark.parametrize("word", ["Belgique", "fr", "FRA", "F", "FR\n"])
def test_a_country_is_two_capital_letters_or_unmapped(word):
    """Free text in a country field is counted and not copied."""
    for case, path in (("user-create", "users__0__"), ("kycreview-result-signed", "")):
        name = f"object_payload__{path}distributionCountry"
        statement = stated(case, **{name: word})
        assert statement.country is None
        assert [field.rpartition(".")[2] for field in statement.unmapped] == ["distributionCountry"]


def test_a_person_s_own_country_is_not_the_market():
    """Residence and nationality are never copied."""
    statement = stated("user-create", object_payload__users__0__distributionCountry=None)
    assert statement.country is None


# Documents.

DOCUMENT_TYPES = {
    "2": "other", "4": "company_registration", "6": "other", "7": "other", "8": "other",
    "9": "id_card", "11": "other", "12": "other", "13": "utility_bill", "14": "utility_bill",
    "15": "residence_permit", "16": "driving_licence", "17": "passport", "18": "other",
    "19": "company_registration", "20": "tax_notice", "21": "payslip", "22": "bank_statement",
    "23": "company_articles", "24": "tax_notice", "25": "other", "26": "other", "27": "other",
}  # fmt: skip


@pytest.mark.parametrize(("number", "expected"), DOCUMENT_TYPES.items())
def test_a_document_s_type_by_number(number, expected):
    """Each number on the list is a kind of document, whatever the word beside it."""
    for as_sent in (number, int(number)):
        statement = stated(
            "document-create",
            object_payload__documents__0__documentTypeId=as_sent,
            object_payload__documents__0__documentType="SOME_WORD",
        )
        assert (statement.document_type, statement.unmapped) == (expected, ())


@pytest.mark.parametrize(
    ("word", "expected"),
    [("PASSPORT", "passport"), ("PAYSLIP", "payslip"), ("LEGAL_STATUS", "company_articles")],
)
@pytest.mark.parametrize("number", ["", None, DELETED, "99", 99])
def test_a_document_s_type_by_word(word, expected, number):
    """Where the number is none we know, the published words tell."""
    statement = stated(
        "document-create",
        object_payload__documents__0__documentTypeId=number,
        object_payload__documents__0__documentType=word,
    )
    assert (statement.document_type, statement.unmapped) == (expected, ())


@pytest.mark.parametrize(
    ("number", "word", "expected", "field"),
    [
        ("99", "LIBRARY_CARD", "other", "documentTypeId"),
        ("99", None, "other", "documentTypeId"),
        (None, "LIBRARY_CARD", "other", "documentType"),
        (None, None, None, None),
        ("", "", None, None),
    ],
)
def test_a_document_of_no_known_type(number, word, expected, field):
    """An unknown type is other and counted; none at all is none."""
    statement = stated(
        "document-create",
        object_payload__documents__0__documentTypeId=number,
        object_payload__documents__0__documentType=word,
    )
    assert statement.document_type == expected
    assert statement.unmapped == ((f"object_payload.documents.{field}",) if field else ())


@pytest.mark.parametrize(
    ("word", "verdict"),
    [
        ("PENDING", ("processing", "none", False)),
        ("VALIDATED", ("completed", "pass", True)),
        ("CANCELED", ("canceled", "none", True)),
        ("REFUSED", UNKNOWN),
        ("pending", UNKNOWN),
        ("", UNKNOWN),
        (None, UNKNOWN),
    ],
)
@pytest.mark.parametrize("name", ["document.create", "document.update", "document.cancel"])
def test_a_document_is_decided_by_its_status(name, word, verdict):
    """The status and not the name; what is on no list is counted."""
    event = edited(
        "document-create", webhook=name, object_payload__documents__0__documentStatus=word
    )
    statement = said(event)
    assert (statement.status, statement.outcome, statement.is_final) == verdict
    expected = ("object_payload.documents.documentStatus",) if verdict == UNKNOWN else ()
    assert statement.unmapped == expected


# Live verification.

REFUSAL = {"meta": {"count": 1}, "reasons": [{"reason-code": "1312", "reason-message": "No face"}]}
NO_REFUSALS = [
    DELETED, None, [], {}, "", {"meta": {"count": 0}, "reasons": []}, {"meta": [], "reasons": None},
    {"meta": {"count": "0"}}, {"meta": {}}, {"meta": None, "reasons": []},
]  # fmt: skip


def checked(status, score, refusal):
    event = edited(
        "kycliveness-update",
        **{"object_payload__kyc-status": status, "object_payload__score": score},
    )
    del event["object_payload"]["refusal-details"]
    if refusal is not DELETED:
        event["object_payload"]["refusal-details"] = refusal
    return said(event)


@pytest.mark.parametrize("refusal", NO_REFUSALS)
@pytest.mark.parametrize("score", [1, "1", 1.0])
def test_processed_with_a_score_of_one_is_a_pass(score, refusal):
    """Both are needed, and no refusal; PHP writes an empty object as an empty array."""
    statement = checked("processed", score, refusal)
    assert (statement.status, statement.outcome, statement.is_final) == PASSED
    assert statement.reasons == statement.unmapped == ()


@pytest.mark.parametrize("score", [0, "0", 0.0])
@pytest.mark.parametrize("refusal", [REFUSAL, *NO_REFUSALS])
def test_processed_with_a_score_of_zero_is_a_fail(score, refusal):
    """With or without reasons."""
    statement = checked("processed", score, refusal)
    assert (statement.status, statement.outcome, statement.is_final) == FAILED
    assert statement.unmapped == ()


@pytest.mark.parametrize("score", [0, 1, "1", 2, None, ""])
@pytest.mark.parametrize("refusal", [REFUSAL, {"meta": {"count": 1}}, {"meta": {"count": "2"}}])
def test_a_refusal_is_a_fail_whatever_the_score(score, refusal):
    """Details of a refusal beside a score of one are a contradiction: not accepted."""
    statement = checked("processed", score, refusal)
    assert (statement.status, statement.outcome, statement.is_final) == FAILED


@pytest.mark.parametrize("score", [2, -1, None, "", "accepted", 0.5, 100, "01"])
def test_a_finished_check_with_another_score_is_unknown(score):
    """Other scores are not documented: counted, never guessed."""
    statement = checked("processed", score, None)
    assert (statement.status, statement.outcome, statement.is_final) == UNKNOWN
    assert statement.unmapped == ("object_payload.score",)


@pytest.mark.parametrize("score", [1, 0, None, "1", 7])
@pytest.mark.parametrize("refusal", [REFUSAL, None])
def test_a_check_in_process_is_no_verdict_whatever_the_score(score, refusal):
    """kycliveness.create has score 1 while it is still processing."""
    statement = checked("processing", score, refusal)
    assert (statement.status, statement.outcome, statement.is_final) == (
        "processing", "none", False,
    )  # fmt: skip


@pytest.mark.parametrize("word", ["aborted", "abandoned"])
@pytest.mark.parametrize("score", [1, 0, None])
def test_an_abandoned_check_is_no_verdict_and_not_final(word, score):
    """The word for it is not documented, so nothing more is concluded from these two."""
    statement = checked(word, score, REFUSAL)
    assert (statement.status, statement.outcome, statement.is_final) == ("abandoned", "none", False)


@pytest.mark.parametrize("word", ["Processed", "PROCESSED", "expired", "refused", "", None])
def test_another_status_of_a_check_is_unknown(word):
    """Whatever a status says that is on no list, a score of one beside it passes nobody."""
    statement = checked(word, 1, None)
    assert (statement.status, statement.outcome, statement.is_final) == UNKNOWN
    assert statement.native_status == (word or None)
    assert statement.unmapped == ("object_payload.kyc-status",)


LIVENESS_REASONS = [
    ("1312", "face.not_visible"),
    ("1320", "capture.poor_quality"),
    ("2401", "identity.mismatch"),
    ("3002", "unmapped"),  # of the other partner
    ("9999", "unmapped"),
]


@pytest.mark.parametrize(("code", "expected"), LIVENESS_REASONS)
def test_the_reasons_of_a_refusal(code, expected):
    """Codes as text and as numbers; the messages are prose and never copied."""
    for as_sent in (code, int(code)):
        reasons = [{"reason-code": as_sent, "reason-message": "Applicant did not"}]
        statement = checked("processed", 0, {"meta": {"count": 1}, "reasons": reasons})
        assert statement.reasons == ((expected, code),)
        assert bool(statement.unmapped) == (expected == "unmapped")


def test_reasons_of_a_refusal_without_a_code():
    """Prose alone is unmapped with nothing of it; nothing at all is no reason."""
    for reasons, expected in (
        ([{"reason-message": "Ana Smith looked away"}], (("unmapped", ""),)),
        ([{"reason-code": "", "reason-message": "Ana"}], (("unmapped", ""),)),
        ([{"reason-code": "", "reason-message": "ANA"}], (("unmapped", ""),)),
        ([{"reason-code": "Ana Smith", "reason-message": ""}], (("unmapped", ""),)),
        ([{"reason-code": "", "reason-message": ""}, {}], ()),
    ):
        assert checked("processed", 0, {"reasons": reasons}).reasons == expected


# Qualified signatures and video calls.

RESULTS = {
    "STARTED": ("started", "none", False),
    "START": ("started", "none", False),
    "CHECK_PENDING": ("processing", "none", False),
    "REVIEW_PENDING": ("in_review", "none", False),
    "FRAUD_SUSPICION_PENDING": ("in_review", "none", False),
    "ABORTED": ("abandoned", "none", True),
    "SUCCESS": PASSED,
    "SUCCESS_DATA_CHANGED": PASSED,
    "SUCCESS_DATA_CHANGE": PASSED,
    "FRAUD_SUSPICION_CONFIRMED": FAILED,
    "CANCELED": FAILED,
}


@pytest.mark.parametrize(("result", "verdict"), RESULTS.items())
@pytest.mark.parametrize("case", ["qes-finalized-canceled", "videoconference-processing"])
def test_a_result_decides(case, result, verdict):
    """The same table for both; whether an identity is told proves nothing."""
    statement = stated(case, object_payload__result=result)
    assert (statement.status, statement.outcome, statement.is_final) == verdict
    assert statement.native_status == result
    assert statement.unmapped == ()
    changed = {"SUCCESS_DATA_CHANGED", "SUCCESS_DATA_CHANGE"}
    assert ("treezor.data_changed" in statement.attributes) == (result in changed)
    suspected = [code for code, native in statement.reasons if native == result]
    assert suspected == (["fraud.suspected"] if "FRAUD" in result else [])


@pytest.mark.parametrize("result", ["PAUSED", "success", "SUCCESS ", "", None])
def test_another_result_is_unknown(result):
    """A result on no list passes nobody and is counted."""
    statement = stated("qes-finalized-canceled", object_payload__result=result)
    assert (statement.status, statement.outcome, statement.is_final) == UNKNOWN
    assert statement.unmapped == ("object_payload.result",)


IDENTIFICATION_REASONS = [
    ("3002", "USER_CANCELLATION_DOCUMENT_EXPIRED", "document.expired", "3002"),
    (3002, "", "document.expired", "3002"),
    ("3201", "WARNING_SELFIE_REAL_PERSON", "face.not_live", "3201"),
    ("", "STALLED_TIMEOUT", "session.timeout", "STALLED_TIMEOUT"),
    (None, "STALLED_TIMEOUT", "session.timeout", "STALLED_TIMEOUT"),
    ("9999", "STALLED_TIMEOUT", "unmapped", "9999"),
    ("", "UNHEARD_OF", "unmapped", "UNHEARD_OF"),
    ("", "Ana closed the window", "unmapped", ""),
    ("", "Ana", "unmapped", ""),
    ("1312", "", "unmapped", "1312"),  # of the other partner
]


@pytest.mark.parametrize(("code", "message", "expected", "native"), IDENTIFICATION_REASONS)
def test_the_reason_of_an_identification(code, message, expected, native):
    """By its code; where that is empty, by the constant in its place."""
    reason = {"reasonDetails": {"reasonCode": code, "reasonMessage": message}}
    statement = stated("videoconference-aborted", object_payload__reason=reason)
    assert statement.reasons == ((expected, native),)
    assert statement.unmapped == (("object_payload.reason",) if expected == "unmapped" else ())


@pytest.mark.parametrize(
    "reason",
    [
        DELETED, None, [], {}, "", {"reasonDetails": None}, {"reasonDetails": []},
        {"reasonDetails": {}}, {"reasonDetails": {"reasonCode": "", "reasonMessage": ""}},
    ],
)  # fmt: skip
def test_an_identification_without_a_reason(reason):
    """No reason is no reason."""
    statement = stated("videoconference-aborted", object_payload__reason=reason)
    assert statement.reasons == statement.unmapped == ()


# Names, families, shapes.

FAMILIES = {
    "user": ("user-kycreview", "create update cancel kycrequest kycreview"),
    "kycreview": ("kycreview-result-signed", "request result"),
    "document": ("document-create", "create update cancel"),
    "kycliveness": ("kycliveness-update", "create update"),
    "qes": ("qes-finalized-canceled", "created processing aborted finalized"),
    "videoConference": (
        "videoconference-finalized-canceled",
        "created processing aborted finalized",
    ),
}
NAMES = {f"{family}.{verb}" for family, (_, verbs) in FAMILIES.items() for verb in verbs.split()}
SHAPE_OF = {family: family for family in FAMILIES} | {"videoConference": "qes"}


def test_the_names_are_the_documented_ones():
    """Nothing but these becomes an event."""
    assert set(treezor.NATIVE_TYPES) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_payload_under_a_name_of_its_shape_is_the_same_event_and_under_another_inconsistent(
    family, name
):
    """The name is not signed: it can neither change the identity nor lend another meaning."""
    case = FAMILIES[family][0]
    event = edited(case, webhook=name)
    if SHAPE_OF[family] == SHAPE_OF[name.partition(".")[0]]:
        (original,) = of_fixture(case)
        statement = said(event)
        assert statement.native_type == name
        assert statement.natural_key == original.natural_key
        assert identity(statement) == identity(original)
        same = ("status", "outcome", "is_final", "native_status", "reasons", "subject")
        assert [getattr(statement, field) for field in same] == [
            getattr(original, field) for field in same
        ]
    else:
        assert kind_and_path(event) == ("inconsistent", "$.object_payload")


@pytest.mark.parametrize("case", MEANINGS)
def test_unsigned_fields_do_not_change_which_event_it_is(case):
    """Under another webhook_id, time or client, a captured payload is the same event."""
    event = event_of(case)
    original = said(event)
    event["webhook_id"] = "another"
    event["webhook_created_at"] = 1700000001
    event["object"] = "something"
    for form in (FLAT, WRAPPED, SNS, SNS_WRAPPED):
        (statement,) = normalized(in_form(event, form), form, received_at=RECEIVED_AT + 5000)
        assert identity(statement) == identity(original)
        assert (statement.status, statement.outcome) == (original.status, original.outcome)
        assert statement.provider_account == original.provider_account


@pytest.mark.parametrize("case", [case for case in MEANINGS if not case.startswith("kycliveness")])
def test_an_object_id_that_is_not_the_one_inside_is_inconsistent(case):
    """The id beside the payload must be the signed one."""
    event = event_of(case)
    for forged in (f"{event['object_id']}0", "other", 12, " "):
        event["object_id"] = forged
        assert kind_and_path(event) == ("inconsistent", "$.object_id")


@pytest.mark.parametrize("case", ["user-create", "qes-created", "kycliveness-create"])
@pytest.mark.parametrize("nothing", [None, "", DELETED])
def test_an_event_without_an_object_id_is_a_schema_mismatch(case, nothing):
    """Every published event has one."""
    event = edited(case, object_id=nothing)
    assert kind_and_path(event) == ("schema_mismatch", "$.object_id")


def test_the_object_id_of_several_is_that_of_one_of_them():
    """Which of them it names is not documented."""
    for object_id in ("2000003", "2000004"):
        event = edited("user-update-two-users", object_id=object_id)
        assert len(normalized(dumped(event))) == 2
    event = edited("user-update-two-users", object_id="2000005")
    with pytest.raises(Failure) as caught:
        normalized(dumped(event))
    assert (caught.value.kind, caught.value.path) == ("inconsistent", "$.object_id")


def test_a_live_verification_has_no_id_inside():
    """Its object_id is taken at its word, as the process and nothing else."""
    statement = stated("kycliveness-update", object_id="other")
    (original,) = of_fixture("kycliveness-update")
    assert statement.process_ref == "other"
    assert identity(statement) == identity(original)
    assert kind_and_path(edited("kycliveness-update", object_id="Ana Smith")) == (
        "out_of_range",
        "$.object_id",
    )


FOREIGN = {
    "authorization.create": "authorization",
    "balance.update": "balance",
    "bankaccount.create": "bankaccount",
    "beneficiary.create": "beneficiary",
    "card.requestphysical": "card",
    "card.acquiring.chargeback.create": "card",
    "card3DSv2Authentication.create": "card3dsv2authentication",
    "cardDigitalization.update": "carddigitalization",
    "cardtransaction.create": "cardtransaction",
    "countryGroup.create": "countrygroup",
    "mandate.sign": "mandate",
    "mccGroup.update": "mccgroup",
    "merchantIdGroup.cancel": "merchantidgroup",
    "oneclickcard.create": "oneclickcard",
    "payin.create": "payin",
    "payinrefund.update": "payinrefund",
    "payout.cancel": "payout",
    "payoutRefund.create": "payoutrefund",
    "recallR.need_response": "recallr",
    "sca.wallet.create": "sca",
    "sepa.return_sctr": "sepa",
    "sepa_sddr.reception": "sepa_sddr",
    "sepaRecallSctrInst.reception": "separecallsctrinst",
    "sepaSctrInst.reject_sctr_inst": "sepasctrinst",
    "topupCard.validate": "topupcard",
    "transaction.create": "transaction",
    "transfer.update": "transfer",
    "transferrefund.create": "transferrefund",
    "wallet.create": "wallet",
}


@pytest.mark.parametrize(("name", "family"), FOREIGN.items())
def test_an_event_of_another_product_is_ignored_by_its_family(name, family):
    """Whatever it carries, and whatever it has beside it."""
    for payload in ({}, [], {"things": [{"userId": "1"}]}, {"userId": "1", "id": "2"}, None, "x"):
        for event in (
            {"webhook": name, "object_payload": payload},
            edited("payin-create", webhook=name, object_payload=payload),
        ):
            expected = Ignored(reason="foreign_event", native_type=family)
            assert normalized(dumped(event)) == expected
    assert normalized(dumped({"webhook": name})) == expected


def test_the_foreign_families_are_a_closed_list():
    """Each is shown above, and none is one of ours."""
    assert set(FOREIGN.values()) == treezor._FOREIGN_FAMILIES
    assert not {name.partition(".")[0].lower() for name in NAMES} & treezor._FOREIGN_FAMILIES


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("family", FAMILIES)
def test_our_payload_under_a_foreign_name_is_inconsistent(name, family):
    """Nobody makes a refusal disappear by calling it a payin."""
    event = edited(FAMILIES[family][0], webhook=name)
    assert kind_and_path(event) == ("inconsistent", "$.object_payload")


@pytest.mark.parametrize(
    "name",
    ["user.foo", "user", "kycreview.cancel", "document.delete", "qes.success", "QES.created",
     "videoconference.created", "user.kycReview", "kyc.liveness", "", ".", "newproduct.create",
     "Ana Smith", "payins.create", " payin.create"],
)  # fmt: skip
@pytest.mark.parametrize("case", ["user-create", "payin-create"])
def test_a_name_of_no_list_is_an_unknown_type(case, name):
    """Also an unheard-of verb of a family we know: a person must look."""
    assert kind_and_path(edited(case, webhook=name)) == ("unknown_type", "$.webhook")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_payload_of_two_shapes_is_inconsistent(family):
    """What could be read as two things is read as none."""
    event = edited(FAMILIES[family][0])
    other = "documents" if family == "user" else "users"
    event["object_payload"][other] = []
    assert kind_and_path(event) == ("inconsistent", "$.object_payload")


# Forms.


def two_forms():
    """A body that can be read flat, wrapped and as a notification, each saying something else."""
    flat = event_of("user-kycreview")
    inner = edited("user-kycreview-refused")
    return {"flat": flat, "wrapped": inner, "sns": event_of("user-kycrequest")}


@pytest.mark.parametrize("scheme", [FLAT, WRAPPED, SNS, SNS_WRAPPED])
def test_a_body_is_read_in_the_form_that_was_verified(scheme):
    """Where two forms stand in one body, the scheme alone decides which is read."""
    forms = two_forms()
    message = forms["sns"]
    if scheme == SNS_WRAPPED:
        message = {**forms["flat"], "webhook": forms["sns"]}
    around = {"Type": "Notification", "Message": json.dumps(message)}
    top = forms["flat"]
    if scheme == WRAPPED:
        top = {**forms["flat"], "webhook": forms["wrapped"]}
    (statement,) = normalized(dumped({**top, **around}), scheme)
    expected = {FLAT: "pass", WRAPPED: "fail", SNS: "none", SNS_WRAPPED: "none"}
    assert statement.outcome == expected[scheme]


@pytest.mark.parametrize("sent_as", [FLAT, WRAPPED, SNS, SNS_WRAPPED])
@pytest.mark.parametrize("scheme", [FLAT, WRAPPED, SNS, SNS_WRAPPED])
def test_a_body_without_the_form_of_its_scheme_is_inconsistent(scheme, sent_as):
    """The consumer never looks for the event anywhere else."""
    body = in_form(event_of("user-kycreview"), sent_as)
    if scheme == sent_as:
        assert len(normalized(body, scheme)) == 1
    else:
        assert failure(body, scheme).kind == "inconsistent"


@pytest.mark.parametrize("scheme", ["", "treezor", "treezor-FLAT", "pleenk-ecdsa-p521-sha512"])
def test_another_scheme_is_inconsistent(scheme):
    """A record that no gateway of ours let in for Treezor is not guessed at."""
    found = failure(body_of("user-create"), scheme)
    assert (found.kind, found.path) == ("inconsistent", "headers")


def test_the_schemes_are_the_four_forms():
    """Both sides name the same."""
    assert treezor.SCHEMES == (FLAT, WRAPPED, SNS, SNS_WRAPPED)
    assert treezor.KEYED_BY == "subject"


@pytest.mark.parametrize("form", [SNS, SNS_WRAPPED])
@pytest.mark.parametrize(
    "changed",
    [{"Type": "SubscriptionConfirmation"}, {"Type": None}, {"Message": None}, {"Message": 5},
     {"Message": {"webhook": "user.create"}}, {"Message": "[1]"}, {"Message": '"text"'}],
)  # fmt: skip
def test_a_notification_carries_an_event_as_text(form, changed):
    """Nothing else of SNS is an event."""
    body = {**json.loads(in_form(event_of("user-create"), form)), **changed}
    assert failure(dumped(body), form).kind == "inconsistent"


PATHS = {
    FLAT: "$.object_payload",
    WRAPPED: "$.webhook.object_payload",
    SNS: "$.Message.object_payload",
    SNS_WRAPPED: "$.Message.webhook.object_payload",
}


@pytest.mark.parametrize("form", PATHS)
@pytest.mark.parametrize(
    ("case", "path", "expected"),
    [
        ("user-create", "users__0__kycReview", ".users[0]"),
        ("kycreview-result-signed", "kycLevel", ""),
        ("document-create", "documents__0__documentId", ".documents[0]"),
        ("qes-created", "result", ""),
    ],
)
def test_a_missing_field_is_named_with_its_path_in_the_whole_body(case, path, expected, form):
    """The dead letter tells where to look, in every form."""
    event = edited(case, **{f"object_payload__{path}": DELETED})
    found = failure(in_form(event, form), form)
    assert (found.kind, found.path) == ("schema_mismatch", PATHS[form] + expected)
    assert found.error_class == "ValidationError"


WRONG_TYPES = [
    ("user-create", "users", {}, ".users"),
    ("user-create", "users", None, ".users"),
    ("user-create", "users__0", "x", ".users[0]"),
    ("user-create", "users__0__kycLevel", [], ".users[0].kycLevel"),
    ("user-create", "users__0__kycLevel", 1.5, ".users[0].kycLevel"),
    ("user-create", "users__0__kycReview", True, ".users[0].kycReview"),
    ("user-create", "users__0__userId", None, ".users[0].userId"),
    ("kycreview-result-signed", "kycStatus", 5, ".kycStatus"),
    ("kycreview-result-signed", "userId", {}, ".userId"),
    ("document-create", "documents", "x", ".documents"),
    ("document-create", "documents__0__documentStatus", 5, ".documents[0].documentStatus"),
    ("kycliveness-update", "score", [], ".score"),
    ("kycliveness-update", "kyc-status", 1, ".kyc-status"),
    ("kycliveness-update", "refusal-details", "x", ".refusal-details"),
    ("kycliveness-update", "refusal-details__meta", 5, ".refusal-details.meta"),
    ("kycliveness-update", "refusal-details__reasons", "x", ".refusal-details.reasons"),
    ("qes-aborted", "transactionNumber", [], ".transactionNumber"),
    ("qes-aborted", "result", [], ".result"),
    ("qes-aborted", "reason", "x", ".reason"),
    ("qes-aborted", "reason__reasonDetails", "x", ".reason.reasonDetails"),
    (
        "qes-aborted",
        "reason__reasonDetails__reasonCode",
        [],
        ".reason.reasonDetails.reasonCode",
    ),
]


@pytest.mark.parametrize("zero", ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z"])
def test_a_zero_time_gives_way_to_the_time_of_sending(zero):
    """A signed time that is none is as good as missing."""
    statement = stated("qes-created", object_payload__identificationTime=zero)
    missing = stated("qes-created", object_payload__identificationTime="")
    found = (statement.occurred_at, statement.occurred_at_source)
    assert found == (missing.occurred_at, missing.occurred_at_source)


def test_a_good_item_does_not_go_down_with_the_named_one():
    """object_id may name the item that cannot be read: the other is emitted all the same."""
    event = edited("user-update-two-users", object_payload__users__1=5)
    first, second = normalized(json.dumps(event).encode())
    assert isinstance(second, Failure)
    assert isinstance(first, Statement)


def test_too_many_items_are_a_dead_letter_before_any_is_read():
    """A delivery of more than a thousand would keep the others waiting."""
    users = event_of("user-update-two-users")["object_payload"]["users"]
    for count, is_taken in ((1000, True), (1001, False)):
        event = edited("user-update-two-users", object_payload={"users": users[:1] * count})
        if is_taken:
            event["object_id"] = users[0]["userId"]
            assert len(normalized(json.dumps(event).encode())) == count
        else:
            assert kind_and_path(event) == ("out_of_range", "$.object_payload.users")


@pytest.mark.parametrize(("case", "path", "value", "expected"), WRONG_TYPES)
def test_a_wrong_type_is_named_with_its_path(case, path, value, expected):
    """And never with its value."""
    event = edited(case, **{f"object_payload__{path}": value})
    assert kind_and_path(event) == ("schema_mismatch", f"$.object_payload{expected}")


@pytest.mark.parametrize("payload", [DELETED, None, [], "x", 5, [{"userId": "1"}]])
def test_a_payload_that_is_no_object_is_a_schema_mismatch(payload):
    """The page calls the payload "generally an array": in KYC it never is."""
    event = edited("user-create", object_payload=payload)
    assert kind_and_path(event) == ("schema_mismatch", "$.object_payload")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"webhook":"user.create",}', "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b"nonsense", "invalid_json"),
        (b'{"webhook":"user.create","object_payload":{"users":[}}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"webhook":' * 100_000, "invalid_json"),
        (b"[1]", "inconsistent"),
        (b"null", "inconsistent"),
        (b"{}", "inconsistent"),
        (b'{"webhook":5}', "inconsistent"),
        (b'{"webhook":"user.create","webhook_id":[]}', "schema_mismatch"),
    ],
)
def test_a_body_that_cannot_be_read(body, kind):
    """Broken JSON is called that; whole JSON of no form is inconsistent."""
    assert failure(body).kind == kind


def test_a_broken_message_is_broken_json():
    """The text inside a notification is parsed too."""
    body = {"Type": "Notification", "Message": '{"webhook":'}
    assert failure(dumped(body), SNS).kind == "invalid_json"


def test_a_bad_user_does_not_take_the_good_one_along():
    """The good one is emitted at its own position; the bad one's place is named."""
    event = edited("user-update-two-users", object_payload__users__0__kycLevel=[])
    bad, good = normalized(dumped(event))
    assert isinstance(bad, Failure)
    assert (bad.kind, bad.path) == ("schema_mismatch", "$.object_payload.users[0].kycLevel")
    assert good.item_index == 1
    assert good.natural_key[1] == "1"


def test_no_user_is_no_statement():
    """An empty list says nothing; the record becomes a dead letter of its own kind."""
    assert normalized(dumped(edited("user-create", object_payload__users=[]))) == []


# Identity.

WRITERS = {
    "indented": {"indent": 2},
    "compact": {"separators": (",", ":")},
    "bare": {"ensure_ascii": False},
    "escaped": {"ensure_ascii": True},
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("case", MEANINGS)
def test_a_re_encoded_copy_has_the_same_natural_key(case, writer):
    """A copy with other blanks and escapes verifies too: it must be the same event."""
    (original,) = of_fixture(case)
    text = json.dumps(event_of(case), **WRITERS[writer])
    authenticity = "unsigned" if case in UNSIGNED else "signed"
    for copy in (text, text.replace("/", "\\/")):
        (statement,) = normalized(copy.encode(), authenticity=authenticity)
        assert statement.natural_key == original.natural_key


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.booleans())
def test_any_text_in_a_payload_keeps_its_canonical_key(text, is_ascii):
    """The natural key is the hash of the text PHP would have written, whatever was sent."""
    event = edited("qes-finalized-canceled", object_payload__identId=f"{text}|{text}")
    (statement,) = normalized(json.dumps(event, ensure_ascii=is_ascii).encode())
    # DEL is the one character that Python escapes and PHP does not.
    parts = [php_text(part)[1:-1] for part in f"{text}|{text}".split("\x7f")]
    event["object_payload"]["identId"] = "PLACE"
    expected = php_text(event["object_payload"]).replace(b"PLACE", b"\x7f".join(parts))
    assert statement.natural_key == (hashlib.sha256(expected).hexdigest(), "0")


@pytest.mark.parametrize("case", MEANINGS)
def test_another_payload_is_another_event(case):
    """Whatever else the payload says, also in a field that is not read, it is another statement."""
    event = event_of(case)
    event["object_payload"]["something"] = "else"
    assert identity(said(event)) != identity(said(event_of(case)))


def test_the_same_payload_under_two_shapes_cannot_share_an_event():
    """The family of the shape is part of the identity."""
    families = {meaning["type_family"] for meaning in MEANINGS.values()}
    assert families == {"user", "kyc", "document", "liveness", "identification"}


# References and labels.


@pytest.mark.parametrize(
    ("webhook_id", "expected"),
    [
        ("10XXXXXX", "10XXXXXX"),
        (648614636, "648614636"),
        ("42424224-442z5-42ce9", "42424224-442z5-42ce9"),
        ("Ana Smith", None),
        ("x" * 65, None),
        ("", None),
        (None, None),
        (DELETED, None),
    ],
)
def test_the_webhook_id_is_a_label(webhook_id, expected):
    """As sent if it is a constant, and never parsed as a UUID."""
    assert stated("document-create", webhook_id=webhook_id).provider_event_id == expected


@pytest.mark.parametrize(
    ("case", "path", "field"),
    [
        ("document-create", "object_payload__documents__0__documentId", "resource_ref"),
        ("qes-created", "object_payload__transactionNumber", "process_ref"),
    ],
)
def test_references_are_opaque_constants(case, path, field):
    """Any printable constant is an id; anything else is out of range."""
    for good in ("8XXXX", "b00ecdec-xx", "x" * 128):
        assert getattr(stated(case, object_id=good, **{path: good}), field) == good
    for bad in ("two words", "ana@example.com", "é", "x" * 129):
        found = failure(edited(case, object_id=bad, **{path: bad}))
        assert found.kind == "out_of_range"
        assert bad not in repr(found)


@pytest.mark.parametrize(
    ("case", "path"),
    [
        ("user-create", "object_payload__users__0__userId"),
        ("kycreview-result-signed", "object_payload__userId"),
        ("document-create", "object_payload__documents__0__userId"),
        ("kycliveness-update", "object_payload__user_id"),
        ("qes-created", "object_payload__userId"),
    ],
)
def test_a_subject_is_the_provider_s_user_as_text(case, path):
    """A number and its text are one person; a longer id than any documented is out of range."""
    is_object = case in {"user-create", "kycreview-result-signed"}
    for sent in ("77", 77):
        edits = {path: sent, **({"object_id": "77"} if is_object else {})}
        assert stated(case, **edits).subject == user("77")
    edits = {path: "7" * 1001, **({"object_id": "7" * 1001} if is_object else {})}
    assert failure(edited(case, **edits)).kind == "out_of_range"
    if not is_object:
        for nothing in (None, "", DELETED):
            assert stated(case, **{path: nothing}).subject is None


@pytest.mark.parametrize(
    ("case", "path", "name"),
    [
        ("user-create", "object_payload__users__0__codeStatus", "code_status"),
        ("kycreview-result-signed", "object_payload__codeStatus", "code_status"),
        ("kycreview-result-signed", "object_payload__kycReviewType", "review_type"),
        ("document-create", "object_payload__documents__0__codeStatus", "code_status"),
        ("qes-created", "object_payload__type", "channel"),
    ],
)
def test_attributes_are_constants(case, path, name):
    """An extra is copied if it is a constant; free text leaves nothing behind."""
    assert stated(case, **{path: "SOME_WORD"}).attributes[f"treezor.{name}"] == "SOME_WORD"
    for nothing in ("Ana called twice", "é", "", None, DELETED):
        assert f"treezor.{name}" not in stated(case, **{path: nothing}).attributes


NATIVE_STATUSES = [
    ("user-update", "object_payload__users__0__kycReview"),
    ("kycreview-result-signed", "object_payload__kycStatus"),
    ("document-create", "object_payload__documents__0__documentStatus"),
    ("kycliveness-update", "object_payload__kyc-status"),
    ("qes-created", "object_payload__result"),
]


@pytest.mark.parametrize(("case", "path"), NATIVE_STATUSES)
def test_a_native_status_is_a_constant(case, path):
    """A status that a person could have typed is counted as unknown and not copied."""
    for word in ("SOMETHING_NEW", "x" * 64):
        assert stated(case, **{path: word}).native_status == word
    for text in ("Ana called", "x" * 65, "é", "SUCCESS\n"):
        assert stated(case, **{path: text}).native_status is None


PERSONAL = {
    "firstname", "lastname", "userTag", "title", "birthday", "email", "address1", "city",
    "postcode", "phone", "nationality", "placeOfBirth", "kycReviewComment", "informationStatus",
    "documentTag", "userFirstname", "userLastname", "name", "fileName", "comment", "last-name",
    "first-name", "birth-date", "gender", "birthplace", "issuingPlace", "identId",
}  # fmt: skip


@pytest.mark.parametrize("case", MEANINGS)
def test_nothing_of_a_person_is_in_a_statement(case):
    """Not even where it would pass for a constant: the mapping is a list of what may."""

    def marked(node):
        if isinstance(node, dict):
            return {
                key: "MARKED" if key in PERSONAL and isinstance(value, str) else marked(value)
                for key, value in node.items()
            }
        return [marked(value) for value in node] if isinstance(node, list) else node

    event = event_of(case)
    event["object_payload"] = marked(event["object_payload"])
    assert "MARKED" in json.dumps(event)
    assert "MARKED" not in repr(said(event))


def strings_in(node, path=()):
    """The path of every string below a value."""
    if isinstance(node, str):
        yield path
    for key, value in (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    ):
        yield from strings_in(value, (*path, str(key)))


@pytest.mark.parametrize("form", [FLAT, SNS_WRAPPED])
@pytest.mark.parametrize("case", CASES)
def test_free_text_in_any_string_of_an_event_stays_behind(case, form):
    """Also where the event is itself a text inside a notification; a person's id is only hashed."""
    for path in strings_in(event_of(case)):
        body = in_form(edited(case, **{"__".join(path): "mArKeR <é>"}), form)
        try:
            found = normalized(body, form)
        except Failure as failed:
            found = [failed]
        for item in [found] if isinstance(found, Ignored) else found:
            leaving = item
            if isinstance(item, Statement):
                leaving = msgspec.structs.replace(item, subject=None)
            assert "mArKeR" not in repr(leaving), path


def test_every_fixture_is_an_event_of_its_own():
    """No two fixtures share a payload, and so an event."""
    found = [identity(statement) for case in CASES if case != "payin-create"
             for statement in of_fixture(case)]  # fmt: skip
    assert len(found) == len(set(found))
