"""What Onfido's notifications mean: every fixture in literal words, the tables row by row."""

import hashlib
import json
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.event import Ignored, Statement, Subject
from consumers.failures import failure_of
from consumers.normalizers import onfido
from consumers.normalizers.countries import ALPHA_2
from gateway.delivery import Provenance
from gateway.headers import Headers
from gateway.providers import PROVIDERS
from gateway.rejections import SIGNATURE_MISMATCH, Rejection
from gateway.signatures import Key

FIXTURES = Path(__file__).parent / "fixtures" / "onfido"
CASES = sorted(path.parent.name for path in FIXTURES.glob("*/body.raw"))
DELETED = object()
PROVENANCE = Provenance(
    endpoint="onfido",
    provider="onfido",
    received_at=1_800_000_000_000,
    delivery_id="delivery",
    authenticity="signed",
    scheme="onfido-hmac-sha256",
    key_id="default",
    environment="sandbox",
)


def body_of(case):
    return (FIXTURES / case / "body.raw").read_bytes()


def normalized(body):
    return onfido.normalize(body, PROVENANCE)


def stated(case, body=None):
    (statement,) = normalized(body_of(case) if body is None else body)
    return statement


def edited(case, edits):
    """Give a fixture's body with the values at dotted paths replaced, added or deleted."""
    document = json.loads(body_of(case))
    for path, value in edits.items():
        *parents, last = path.split(".")
        node = document
        for name in parents:
            node = node[name]
        if value is not DELETED:
            node[last] = value
        else:
            node.pop(last, None)
    return json.dumps(document, ensure_ascii=False).encode()


def with_edits(case, edits):
    return stated(case, edited(case, edits))


def failed(body):
    with pytest.raises(Exception) as caught:
        normalized(body)
    failure = failure_of(caught.value)
    return failure.kind, failure.path


def failed_edit(case, path, value):
    return failed(edited(case, {path: value}))


def ms(text):
    return int(datetime.fromisoformat(text).timestamp()) * 1000


# The vectors that Onfido publishes in the tests of its own client, secrets included:
# https://github.com/onfido/onfido-python, tests/test_classic_webhook_event_verification.py and
# tests/test_studio_webhook_event_verification.py.

CLASSIC, STUDIO = "wU99mE6jJ7nXOLFwZ0tJymM1lpI15pZh", "YKOC6mkBxi6yK2zlUIrLMvsJMFEZObP5"
VECTORS = {
    "check-completed": (
        CLASSIC,
        "77ebc3e418f26be6eebb47f7ebe551321de26734fc273961e075fc9ab163d9c7",
    ),
    "task-document-clear": (
        STUDIO,
        "e3e5565647f5ccf07b2fd8ac22eab94a0a0619413d981fb768295c820523f7d7",
    ),
    "task-profile-started": (
        STUDIO,
        "c95a5b785484f6fa1bc25f381b5595d66bf85cb442eefb06aa007802ee6a4dfa",
    ),
}


@pytest.mark.parametrize("case", VECTORS)
def test_a_published_signature_proves_the_published_body(case):
    """The bytes of the fixture, the secret and the header as Onfido publishes them."""
    secret, signature = VECTORS[case]
    others = [Key(id="old", value=b"another secret of 16 bytes or more")]
    keys = [*others, Key(id="published", value=secret.encode())]
    headers = Headers([("x-sha2-signature", signature)])
    scheme = PROVIDERS["onfido"].scheme(keys)
    verified = scheme.verify(headers, body_of(case), 0.0)
    assert (verified.scheme, verified.key_id) == ("onfido-hmac-sha256", "published")
    assert PROVIDERS["onfido"].scheme(keys[1:]).sign(body_of(case), 0.0).headers == {
        "x-sha2-signature": signature
    }
    for keys_or_body in ((others, body_of(case)), (keys, body_of(case) + b"\n")):
        with pytest.raises(Rejection) as refused:
            PROVIDERS["onfido"].scheme(keys_or_body[0]).verify(headers, keys_or_body[1], 0.0)
        assert refused.value.reason == SIGNATURE_MISMATCH


# What each fixture means. Only what a Statement does not say by default is written down.


def uid(letter, number):
    return f"{letter}0000000-0000-4000-8000-{number:012d}"


def run(number, native_status, **said):
    at = f"2024-07-{number:02d}T12:49:12Z"
    process = uid("a", number)
    return {
        "native_type": "workflow_run.completed",
        "subject": Subject("provider_user", uid("d", number)),
        "native_status": native_status,
        "category": "identity_verification",
        "subject_type": "person",
        "process_ref": process,
        "occurred_at": ms(at),
        "occurred_at_source": "object",
        **said,
    }


def task(number, name, **said):
    at = f"2024-12-{number:02d}T18:13:13Z"
    process, resource = uid("a", number), f"{name}_{number:05d}"
    return {
        "native_type": "workflow_task.completed",
        "native_status": "completed",
        "status": "completed",
        "subject_type": "person",
        "process_ref": process,
        "resource_type": "task",
        "resource_ref": resource,
        "occurred_at": ms(at),
        "occurred_at_source": "object",
        **said,
    }


def document(number, result, sub_result, **said):
    return task(
        number,
        "document_check",
        **{
            "category": "document",
            "methods": ("physical_document",),
            "attributes": {
                "onfido.task_def_id": "document_check",
                "onfido.result": result,
                "onfido.sub_result": sub_result,
            },
            **said,
        },
    )


def classic(number, kind, native_type, native_status, **said):
    """A check or report with the time at which it was completed."""
    at, ref = f"2024-04-{number:02d}T09:21:21Z", uid("b", number)
    resource = {} if kind == "check" else {"resource_type": kind, "resource_ref": ref}
    return {
        "native_type": native_type,
        "native_status": native_status,
        "category": "identity_verification",
        "subject_type": "person",
        "process_ref": ref,
        "occurred_at": ms(at),
        "occurred_at_source": "object",
        **resource,
        **said,
    }


def report(number, found, **said):
    attributes = {"onfido.result": found[0], "onfido.sub_result": found[1]}
    return classic(
        number,
        "report",
        "report.completed",
        "complete",
        **{
            "status": "completed",
            "attributes": {name: word for name, word in attributes.items() if word},
            **said,
        },
    )


def untimed(number, kind, native_type, native_status, status, **said):
    """A check or report without any time: its body tells it apart."""
    return classic(
        number,
        kind,
        native_type,
        native_status,
        **{
            "status": status,
            "occurred_at": None,
            "occurred_at_source": "received",
            **said,
        },
    )


PUBLISHED_RUN = "b48fdff9-66a1-405d-9912-54780799bd68"
PUBLISHED_CHECK = "f2302f45-227d-413d-ad61-09ec077a086a"

MEANINGS = {
    "check-completed": {
        "native_type": "check.completed",
        "native_status": "complete",
        "category": "identity_verification",
        "status": "completed",
        "is_final": True,
        "subject_type": "person",
        "process_ref": PUBLISHED_CHECK,
        "occurred_at": ms("2024-04-04T09:21:21Z"),
        "occurred_at_source": "object",
    },
    "task-profile-started": {
        "native_type": "workflow_task.started",
        "native_status": "started",
        "category": "identity_verification",
        "status": "started",
        "subject_type": "person",
        "process_ref": "bc77c6e5-753a-4580-96a6-aaed3e5a8d19",
        "resource_type": "task",
        "resource_ref": "profile_1eb92",
        "occurred_at": ms("2024-07-10T12:49:09Z"),
        "occurred_at_source": "object",
        "attributes": {"onfido.task_def_id": "profile_data"},
    },
    "task-document-clear": document(
        18,
        "clear",
        "clear",
        process_ref=PUBLISHED_RUN,
        resource_ref="document_check_75329",
        outcome="pass",
        document_type="passport",
        document_country="GB",
    ),
    "task-upload-photo": task(
        18,
        "upload_document_photo",
        category="document",
        methods=("physical_document",),
        process_ref=PUBLISHED_RUN,
        resource_ref="document_photo_5c229",
        occurred_at=ms("2024-12-18T18:13:10Z"),
        attributes={"onfido.task_def_id": "upload_document_photo"},
    ),
    "task-document-consider": document(
        11,
        "consider",
        "caution",
        outcome="inconclusive",
        reasons=(
            ("document.expired", "data_validation.document_expiration"),
            ("document.data_mismatch", "data_comparison.last_name"),
        ),
        document_type="id_card",
        document_country="EE",
    ),
    "task-document-rejected": document(
        12,
        "consider",
        "rejected",
        outcome="fail",
        reasons=(
            ("capture.poor_quality", "image_integrity.image_quality"),
            ("capture.poor_quality", "image_integrity.conclusive_document_quality"),
        ),
        document_type="driving_licence",
        document_country="DE",
    ),
    "task-document-suspected": document(
        13,
        "consider",
        "suspected",
        outcome="inconclusive",
        reasons=(
            ("fraud.suspected", "suspected"),
            ("fraud.velocity", "compromised_document.repeat_attempts"),
            ("document.tampered", "visual_authenticity.digital_tampering"),
        ),
        document_type="passport",
        document_country="GB",
        unmapped=("breakdown",),
    ),
    "task-document-unlisted": document(
        14,
        "uncertain",
        "odd",
        document_type="other",
        attributes={"onfido.task_def_id": "document_check"},
        unmapped=(
            *("result", "sub_result", "breakdown"),
            *("properties.document_type", "properties.issuing_country"),
        ),
    ),
    "task-face-motion": task(
        15,
        "face_check_motion",
        category="liveness",
        methods=("liveness", "face_match"),
        outcome="inconclusive",
        reasons=(("face.not_live", "visual_authenticity.spoofing_detection"),),
        attributes={"onfido.task_def_id": "face_check_motion", "onfido.result": "consider"},
    ),
    "task-unlisted": task(
        16,
        "custom_scoring",
        category="identity_verification",
        unmapped=("object.task_def_id",),
    ),
    "run-approved": run(
        1,
        "approved",
        subject=Subject("platform_user", "platform-user-1"),
        status="completed",
        outcome="pass",
        is_final=True,
    ),
    "run-declined": run(
        2,
        "declined",
        status="completed",
        outcome="fail",
        is_final=True,
        reasons=(("other", ""), ("other", "")),
    ),
    "run-review": run(3, "review", status="in_review"),
    "run-abandoned": run(4, "abandoned", status="abandoned", is_final=True),
    "run-error": run(
        5,
        "error",
        status="error",
        is_final=True,
        reasons=(("technical.error", "validation_error"),),
    ),
    "run-awaiting-input": run(6, "awaiting_input", status="awaiting_input"),
    "run-unlisted-status": run(7, "escalated", unmapped=("object.status",)),
    "report-clear": report(
        1,
        ("clear", "clear"),
        category="document",
        methods=("physical_document",),
        outcome="pass",
        document_type="passport",
        document_country="FR",
    ),
    "report-consider": report(
        2,
        ("consider", ""),
        category="screening",
        outcome="inconclusive",
        reasons=(("screening.match", "politically_exposed_person"),),
    ),
    "report-rejected": report(
        3,
        ("consider", "rejected"),
        category="document",
        methods=("physical_document",),
        outcome="fail",
        reasons=(("document.unsupported", "image_integrity.supported_document"),),
    ),
    "report-no-result": report(4, ("", "")),
    "report-unlisted-name": report(7, ("", ""), unmapped=("resource.name",)),
    "report-cancelled": untimed(
        5,
        "report",
        "report.cancelled",
        "cancelled",
        "canceled",
    ),
    "report-awaiting-approval": untimed(
        6,
        "report",
        "report.awaiting_approval",
        "awaiting_approval",
        "processing",
    ),
    "check-started": classic(
        11,
        "check",
        "check.started",
        "in_progress",
        status="processing",
        occurred_at=ms("2024-04-11T09:20:00Z"),
    ),
    "check-clear": classic(
        12,
        "check",
        "check.completed",
        "complete",
        subject=Subject("provider_user", uid("d", 12)),
        status="completed",
        outcome="pass",
        is_final=True,
        attributes={"onfido.result": "clear"},
    ),
    "check-consider": classic(
        13,
        "check",
        "check.completed",
        "complete",
        subject=Subject("provider_user", uid("d", 13)),
        status="completed",
        outcome="inconclusive",
        is_final=True,
        attributes={"onfido.result": "consider"},
    ),
    "check-reopened": untimed(
        14,
        "check",
        "check.reopened",
        "reopened",
        "processing",
    ),
    "check-withdrawn": untimed(
        15,
        "check",
        "check.withdrawn",
        "withdrawn",
        "canceled",
        is_final=True,
    ),
    "check-form-completed": untimed(
        16,
        "check",
        "check.form_completed",
        None,
        "processing",
    ),
    "check-unlisted-status": classic(
        17, "check", "check.completed", "archived", unmapped=("object.status",)
    ),
    "watchlist-monitor": classic(
        21,
        "watchlist_monitor",
        "watchlist_monitor.matches_updated",
        None,
        category="screening",
        status="not_applicable",
    ),
}
IGNORED = {
    "audit-log": Ignored("audit_log", "audit_log.created"),
    "timeline-file": Ignored("file_created", "workflow_timeline_file.created"),
}


@pytest.mark.parametrize("case", MEANINGS)
def test_a_fixture_means_exactly_what_is_written_down_for_it(case):
    """Every field of every fixture's statement is the literal expectation, or the default."""
    whole = (hashlib.sha256(body_of(case)).hexdigest(),)
    expected = msgspec.structs.asdict(Statement(**MEANINGS[case], natural_key=whole))
    assert msgspec.structs.asdict(stated(case)) == expected


@pytest.mark.parametrize("case", IGNORED)
def test_what_says_nothing_about_a_verification_is_ignored(case):
    """What the customer's staff did, and files to fetch, become no event, with a reason."""
    assert normalized(body_of(case)) == IGNORED[case]


def test_every_expectation_has_its_fixture():
    """The list of meanings and the fixture folders name the same cases."""
    assert sorted([*MEANINGS, *IGNORED]) == CASES


CHECK_ACTIONS = {
    "check.started": "processing",
    "check.reopened": "processing",
    "check.withdrawn": "canceled",
    "check.completed": "completed",
    "check.form_completed": "processing",
}
REPORT_ACTIONS = {
    "report.withdrawn": "canceled",
    "report.resumed": "processing",
    "report.cancelled": "canceled",
    "report.awaiting_approval": "processing",
    "report.completed": "completed",
}
TASK_ACTIONS = {"workflow_task.started": "started", "workflow_task.completed": "completed"}
IGNORED_ACTIONS = {
    "audit_log.created": "audit_log",
    "workflow_timeline_file.created": "file_created",
    "workflow_run_evidence_folder.created": "file_created",
    "workflow_signed_evidence_file.created": "file_created",
}
OTHER_ACTIONS = {"workflow_run.completed", "watchlist_monitor.matches_updated"}


def test_the_native_types_are_all_the_listed_actions():
    """The native types are the metric's labels: exactly these."""
    assert {
        *CHECK_ACTIONS,
        *REPORT_ACTIONS,
        *TASK_ACTIONS,
        *IGNORED_ACTIONS,
        *OTHER_ACTIONS,
    } == onfido.NATIVE_TYPES
    assert (onfido.SCHEMES, onfido.KEYED_BY) == ((), "process")


@pytest.mark.parametrize("action", IGNORED_ACTIONS)
def test_an_ignored_action_is_ignored_whatever_it_carries(action):
    """Nothing beside the action is read, and the reason is counted under it."""
    for case in ("check-clear", "task-document-clear", "run-approved"):
        found = normalized(edited(case, {"payload.action": action}))
        assert found == Ignored(IGNORED_ACTIONS[action], action)


# Statuses.

RUNS = {
    "processing": ("processing", "none", False),
    "awaiting_input": ("awaiting_input", "none", False),
    "awaiting_client_input": ("processing", "none", False),
    "approved": ("completed", "pass", True),
    "declined": ("completed", "fail", True),
    "review": ("in_review", "none", False),
    "abandoned": ("abandoned", "none", True),
    "error": ("error", "none", True),
}
PARTS = {
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


def verdict(statement):
    return statement.status, statement.outcome, statement.is_final


@pytest.mark.parametrize("word", RUNS)
def test_a_run_stands_where_its_status_says(word):
    """Word for word; what is known is copied as the native status."""
    statement = with_edits("run-review", {"payload.object.status": word})
    assert (verdict(statement), statement.native_status) == (RUNS[word], word)
    assert statement.unmapped == ()


@pytest.mark.parametrize("nothing", [None, "", DELETED])
def test_a_run_without_a_status_says_nothing(nothing):
    """That it is completed is no verdict, and a missing status is no unknown word."""
    statement = with_edits("run-approved", {"payload.object.status": nothing})
    assert (verdict(statement), statement.unmapped) == (("unknown", "none", False), ())


@pytest.mark.parametrize("word", [*PARTS, *RUNS])
@pytest.mark.parametrize("case", ["check-clear", "report-clear", "task-document-clear"])
def test_a_part_stands_where_its_status_says(case, word):
    """Checks, reports and tasks share their words; only a completed one has an outcome."""
    statement = with_edits(case, {"payload.object.status": word})
    status = PARTS.get(word, "unknown")
    final = case == "check-clear" and status in ("completed", "canceled")
    outcome = "pass" if status == "completed" else "none"
    assert verdict(statement) == (status, outcome, final)
    assert statement.unmapped == (() if word in PARTS else ("object.status",))


@pytest.mark.parametrize("nothing", [None, "", DELETED])
@pytest.mark.parametrize(
    ("case", "actions"),
    [
        ("check-clear", CHECK_ACTIONS),
        ("report-clear", REPORT_ACTIONS),
        ("task-document-clear", TASK_ACTIONS),
    ],
)
def test_without_a_status_the_action_says_where_a_part_stands(case, actions, nothing):
    """The status is given "if available"."""
    for action, status in actions.items():
        edits = {"payload.action": action, "payload.object.status": nothing}
        statement = with_edits(case, edits)
        assert (statement.status, statement.native_status) == (status, None)
        assert statement.outcome == ("pass" if status == "completed" else "none")


# Outcomes: never from `complete` alone.

OUTCOMES = {
    ("clear", None): "pass",
    ("clear", "clear"): "pass",
    ("clear", "caution"): "inconclusive",
    ("clear", "suspected"): "inconclusive",
    ("clear", "rejected"): "fail",
    ("consider", None): "inconclusive",
    ("consider", "clear"): "inconclusive",
    ("consider", "caution"): "inconclusive",
    ("consider", "suspected"): "inconclusive",
    ("consider", "rejected"): "fail",
    ("unidentified", None): "inconclusive",
    (None, None): "none",
    (None, "clear"): "none",
    ("", ""): "none",
    ("clear", "odd"): "none",
    ("odd", "clear"): "none",
    ("odd", "rejected"): "none",
    ("complete", None): "none",
}


@pytest.mark.parametrize(("result", "sub_result"), OUTCOMES)
@pytest.mark.parametrize(
    ("case", "at"),
    [
        ("report-clear", "payload.resource"),
        ("task-document-clear", "payload.resource.output"),
        ("task-face-motion", "payload.resource.output"),
    ],
)
def test_the_worse_of_result_and_sub_result_is_the_outcome(case, at, result, sub_result):
    """Only `clear` passes, only `rejected` fails, and a word on no list decides nothing."""
    edits = {f"{at}.result": result, f"{at}.sub_result": sub_result}
    statement = with_edits(case, edits)
    assert verdict(statement) == ("completed", OUTCOMES[result, sub_result], False)
    assert ("result" in statement.unmapped) == (result in ("odd", "complete"))
    assert ("fraud.suspected", "suspected") in statement.reasons or sub_result != "suspected"


@pytest.mark.parametrize(("result", "outcome"), [(word, OUTCOMES[word, None]) for word in
    ("clear", "consider", "unidentified", None, "complete")])  # fmt: skip
def test_a_check_passes_by_its_result(result, outcome):
    """The result is where the API has it; a notification without resource has none."""
    statement = with_edits("check-consider", {"payload.resource.result": result})
    assert verdict(statement) == ("completed", outcome, True)
    thin = with_edits("check-consider", {"payload.resource": DELETED})
    assert (verdict(thin), thin.subject) == (("completed", "none", True), None)


@pytest.mark.parametrize("case", CASES)
def test_nothing_passes_by_the_word_complete(case):
    """With every result, status and outcome word replaced by `complete`, nothing passes."""
    if case in IGNORED:
        return
    document = json.loads(body_of(case))
    for node in (document["payload"].get("resource") or {}, document["payload"]["object"]):
        for inner in (node, node.get("output")):
            if isinstance(inner, dict):
                inner.update(dict.fromkeys(("result", "sub_result", "status"), "complete"))
    assert stated(case, json.dumps(document).encode()).outcome == "none"


def test_a_part_never_speaks_for_its_run():
    """A check within a run is no end of it, and no verdict under the run's category."""
    edits = {"payload.object.workflow_run_id": uid("a", 1)}
    check = with_edits("check-clear", edits)
    assert verdict(check) == ("completed", "none", False)
    assert (check.process_ref, check.resource_type) == (uid("a", 1), "check")
    assert check.resource_ref == uid("b", 12)
    assert check.attributes == {"onfido.result": "clear"}
    faces = with_edits("report-clear", {**edits, "payload.resource.name": "known_faces"})
    assert (faces.category, faces.outcome) == ("identity_verification", "none")
    assert with_edits("report-clear", edits).outcome == "pass"


# Kinds.

DOCUMENT = ("document", ("physical_document",))
IDENTITY = ("identity_verification", ())
FACE = ("liveness", ("face_match",))
LIVE_FACE = ("liveness", ("liveness", "face_match"))
SCREENING = ("screening", ())
TASKS = {
    "document_check": DOCUMENT,
    "face_check_photo": FACE,
    "face_check_video": LIVE_FACE,
    "face_check_motion": LIVE_FACE,
    "profile_data": IDENTITY,
    "upload_document_photo": DOCUMENT,
    "upload_document": DOCUMENT,
    "upload_face_photo": IDENTITY,
    "upload_face_video": IDENTITY,
    "upload_face_motion": IDENTITY,
}
REPORTS = {
    "document": DOCUMENT,
    "document_video": DOCUMENT,
    "document_video_with_address_information": DOCUMENT,
    "document_with_address_information": DOCUMENT,
    "document_with_driving_licence_information": DOCUMENT,
    "document_with_driver_verification": DOCUMENT,
    "facial_similarity_photo": FACE,
    "facial_similarity_photo_fully_auto": FACE,
    "facial_similarity_video": LIVE_FACE,
    "facial_similarity_motion": LIVE_FACE,
    "known_faces": IDENTITY,
    "identity_enhanced": ("identity_verification", ("database",)),
    "watchlist_aml": SCREENING,
    "watchlist_enhanced": SCREENING,
    "watchlist_standard": SCREENING,
    "watchlist_peps_only": SCREENING,
    "watchlist_sanctions_only": SCREENING,
    "proof_of_address": ("document", ("secondary_document",)),
    "us_driving_licence": ("document", ("database",)),
    "device_intelligence": IDENTITY,
    "india_pan": ("identity_verification", ("database",)),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_of_the_kind_its_definition_says(name):
    """Only a task that checks has a verdict; one that collects has none, whatever it puts out."""
    statement = with_edits("task-document-clear", {"payload.object.task_def_id": name})
    assert (statement.category, statement.methods) == TASKS[name]
    assert statement.attributes["onfido.task_def_id"] == name
    assert statement.outcome == ("pass" if "check" in name else "none")
    assert statement.unmapped == ()


@pytest.mark.parametrize("name", [None, "", DELETED])
def test_a_task_without_a_definition_is_no_unknown_one(name):
    """It says that it stands there, and no more."""
    statement = with_edits("task-document-clear", {"payload.object.task_def_id": name})
    assert (statement.category, statement.outcome) == ("identity_verification", "none")
    assert (statement.unmapped, statement.attributes) == ((), {})


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_of_the_kind_its_name_says(name):
    """The names are those of the API."""
    statement = with_edits("report-clear", {"payload.resource.name": name})
    assert (statement.category, statement.methods) == REPORTS[name]
    assert (statement.outcome, statement.unmapped) == ("pass", ())


@pytest.mark.parametrize("output", [None, [], [{"result": "clear"}], "clear", 5, True, DELETED])
def test_an_output_that_is_no_report_has_no_verdict(output):
    """An output is an object, a list or null."""
    statement = with_edits("task-document-clear", {"payload.resource.output": output})
    assert (statement.status, statement.outcome) == ("completed", "none")


# Reasons and documents.

REASONS = {
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
BREAKDOWN = "payload.resource.output.breakdown"


def breakdown_of(*names, result="consider"):
    found = {}
    for name in names:
        part, _, leaf = name.partition(".")
        inner = found.setdefault(part, {"result": result, "breakdown": {}})["breakdown"]
        if leaf:
            inner[leaf] = {"result": result, "properties": {}}
    return found


@pytest.mark.parametrize("name", REASONS)
def test_a_part_that_is_not_clear_is_a_reason_where_we_have_a_word(name):
    """The innermost part is named; what is clear or was not looked at is no reason."""
    for result, reasons in (
        *((word, ((REASONS[name], name),)) for word in ("consider", "unidentified")),
        *((word, ()) for word in ("clear", None, "")),
    ):
        body = edited("task-document-consider", {BREAKDOWN: breakdown_of(name, result=result)})
        statement = stated("", body)
        assert (statement.reasons, statement.unmapped) == (reasons, ())


def test_reasons_come_in_our_order():
    """A payload's order is any: the most important reason is first."""
    names = list(REASONS)
    for order in (names, names[::-1]):
        statement = with_edits("task-document-consider", {BREAKDOWN: breakdown_of(*order)})
        assert statement.reasons == tuple((REASONS[name], name) for name in names)


@pytest.mark.parametrize("name", ["police_record", "visual_authenticity.fonts", "Ana Example"])
def test_a_part_we_have_no_word_for_is_counted_and_not_copied(name):
    """Its name becomes no reason."""
    statement = with_edits("task-document-consider", {BREAKDOWN: breakdown_of(name)})
    assert (statement.reasons, statement.unmapped) == ((), ("breakdown",))


@pytest.mark.parametrize("breakdown", [None, {}, {"data_validation": None}, DELETED])
def test_a_breakdown_may_be_missing(breakdown):
    """Nothing is made of nothing."""
    assert with_edits("task-document-consider", {BREAKDOWN: breakdown}).reasons == ()


DOCUMENT_TYPES = {
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
    "visa": "other",
    "work_permit": "other",
    "unknown": "other",
}
PROPERTIES = "payload.resource.output.properties"


@pytest.mark.parametrize("word", DOCUMENT_TYPES)
def test_a_document_type_is_translated(word):
    """Onfido's word for the document, and no word of its holder."""
    statement = with_edits("task-document-clear", {f"{PROPERTIES}.document_type": word})
    assert (statement.document_type, statement.unmapped) == (DOCUMENT_TYPES[word], ())


def test_only_a_document_report_tells_of_a_document():
    """What stands beside a face, or in a report on a person, is not copied."""
    properties = {"document_type": "passport", "issuing_country": "GBR"}
    for case, path in (
        ("task-face-motion", PROPERTIES),
        ("report-consider", "payload.resource.properties"),
        ("check-clear", "payload.resource.properties"),
    ):
        statement = with_edits(case, {path: properties})
        assert (statement.document_type, statement.document_country) == (None, None)
        assert statement.unmapped == ()


@pytest.mark.parametrize(
    ("sent", "expected", "unmapped"),
    [
        ("GBR", "GB", ()),
        ("DEU", "DE", ()),
        ("SVK", "SK", ()),
        ("CHE", "CH", ()),
        ("", None, ()),
        (None, None, ()),
        (DELETED, None, ()),
        ("GB", None, ("properties.issuing_country",)),
        ("gbr", None, ("properties.issuing_country",)),
        ("RKS", None, ("properties.issuing_country",)),
        ("UTO", None, ("properties.issuing_country",)),
        ("United Kingdom", None, ("properties.issuing_country",)),
    ],
)
def test_an_issuing_country_of_three_letters_becomes_two(sent, expected, unmapped):
    """The event speaks alpha-2; what is no assigned alpha-3 code is counted and dropped."""
    statement = with_edits("task-document-clear", {f"{PROPERTIES}.issuing_country": sent})
    assert (statement.document_country, statement.unmapped) == (expected, unmapped)


def test_the_table_of_countries_is_whole():
    """249 countries, none twice, each three letters to two."""
    assert len(ALPHA_2) == len(set(ALPHA_2.values())) == 249
    assert all(len(three) == 3 and three.isupper() and three.isascii() for three in ALPHA_2)
    assert all(len(two) == 2 and two.isupper() and two.isascii() for two in ALPHA_2.values())


# Persons, processes, times.

RESOURCE = "payload.resource"


@pytest.mark.parametrize(
    ("customer", "applicant", "subject"),
    [
        ("c-1", "a-1", Subject("platform_user", "c-1")),
        (None, "a-1", Subject("provider_user", "a-1")),
        ("", "a-1", Subject("provider_user", "a-1")),
        (DELETED, DELETED, None),
        ("Ana <ana@example.com>", None, Subject("platform_user", "Ana <ana@example.com>")),
    ],
)
def test_a_person_is_named_by_the_customer_s_id_first(customer, applicant, subject):
    """The customer's own id joins across providers; the applicant's is Onfido's."""
    edits = {f"{RESOURCE}.customer_user_id": customer, f"{RESOURCE}.applicant_id": applicant}
    assert with_edits("run-approved", edits).subject == subject


@pytest.mark.parametrize(
    ("in_object", "in_resource", "process"),
    [
        ("r-1", "r-2", "r-1"),
        ("", "r-2", "r-2"),
        (None, "r-2", "r-2"),
        (DELETED, None, "document_check_75329"),
    ],
)
def test_the_gateway_orders_by_the_process(in_object, in_resource, process):
    """The run's id where there is one, else the object's; the raw key is the same."""
    edits = {
        "payload.object.workflow_run_id": in_object,
        f"{RESOURCE}.workflow_run_id": in_resource,
    }
    body = edited("task-document-clear", edits)
    assert stated("", body).process_ref == process
    assert PROVIDERS["onfido"].record_key(body) == process.encode()


@pytest.mark.parametrize(
    ("completed", "started", "expected"),
    [
        ("2024-05-01T00:00:00Z", "2024-04-01T00:00:00Z", "2024-05-01T00:00:00Z"),
        ("2024-05-01T02:00:00+02:00", DELETED, "2024-05-01T00:00:00Z"),
        (None, "2024-04-01T00:00:00Z", "2024-04-01T00:00:00Z"),
        ("2024-05-01T00:00:00", "2024-04-01T00:00:00Z", "2024-04-01T00:00:00Z"),
        ("0001-01-01T00:00:00Z", "2024-04-01T00:00:00Z", "2024-04-01T00:00:00Z"),
        (DELETED, DELETED, None),
    ],
)
def test_it_happened_when_it_was_completed_else_when_it_was_started(completed, started, expected):
    """A time without a zone, and a zero value, are none."""
    edits = {
        "payload.object.completed_at_iso8601": completed,
        "payload.object.started_at_iso8601": started,
    }
    statement = with_edits("check-completed", edits)
    source = "received" if expected is None else "object"
    assert statement.occurred_at == (ms(expected) if expected else None)
    assert statement.occurred_at_source == source


# Identity.


def natural_key(case, edits):
    return with_edits(case, edits).natural_key


@pytest.mark.parametrize("case", MEANINGS)
def test_whatever_is_said_differently_is_another_statement(case):
    """There is no event id: only equal bytes are the same statement, a check reopened twice not."""
    first = stated(case)
    assert stated(case).natural_key == first.natural_key
    assert natural_key(case, {"payload.more": 1}) != first.natural_key


def test_the_customers_words_stay_behind():
    """A run's reasons are the customer's own text, be it one word: they count, and say nothing."""
    for words in (["jane.doe", "Ana"], ["document_rejected"]):
        statement = with_edits("run-declined", {"payload.resource.reasons": words})
        assert statement.reasons == (("other", ""),) * len(words)


# Failures.


@pytest.mark.parametrize(
    "action",
    [DELETED, None, "", 5, ["check.completed"], "check", "check.", "CHECK.COMPLETED",
     "check.completed\n", "workflow_run.started", "report.paused", "complete"],
)  # fmt: skip
def test_an_unlisted_action_is_unknown(action):
    """An action on no list is `unknown_type`, never guessed from its ending."""
    found = failed_edit("check-completed", "payload.action", action)
    assert found == ("unknown_type", "$.payload.action")


OBJECT = "payload.object"
WRONG = [
    ("check-completed", "payload", [], ("schema_mismatch", "$.payload")),
    ("check-completed", OBJECT, DELETED, ("schema_mismatch", "$.payload")),
    ("check-completed", OBJECT, None, ("schema_mismatch", f"$.{OBJECT}")),
    ("check-completed", f"{OBJECT}.id", DELETED, ("schema_mismatch", f"$.{OBJECT}")),
    ("check-completed", f"{OBJECT}.id", 5, ("schema_mismatch", f"$.{OBJECT}.id")),
    ("check-completed", f"{OBJECT}.id", "", ("out_of_range", f"$.{OBJECT}.id")),
    ("check-completed", f"{OBJECT}.id", "a b", ("out_of_range", f"$.{OBJECT}.id")),
    ("check-completed", f"{OBJECT}.status", 1, ("schema_mismatch", f"$.{OBJECT}.status")),
    (
        "check-completed",
        f"{OBJECT}.completed_at_iso8601",
        "2014-05-23 13:50:33 UTC",
        ("schema_mismatch", f"$.{OBJECT}.completed_at_iso8601"),
    ),
    (
        "task-document-clear",
        f"{OBJECT}.workflow_run_id",
        "a b",
        ("out_of_range", f"$.{OBJECT}.workflow_run_id"),
    ),
    ("task-document-clear", RESOURCE, [], ("schema_mismatch", f"$.{RESOURCE}")),
    (
        "task-document-clear",
        f"{RESOURCE}.output.result",
        1,
        ("schema_mismatch", f"$.{RESOURCE}.output.result"),
    ),
    (
        "task-document-clear",
        f"{PROPERTIES}.issuing_country",
        826,
        ("schema_mismatch", f"$.{PROPERTIES}.issuing_country"),
    ),
    ("task-document-clear", BREAKDOWN, [], ("schema_mismatch", f"$.{BREAKDOWN}")),
    ("report-clear", f"{RESOURCE}.result", {}, ("schema_mismatch", f"$.{RESOURCE}.result")),
    (
        "run-approved",
        f"{RESOURCE}.customer_user_id",
        7,
        ("schema_mismatch", f"$.{RESOURCE}.customer_user_id"),
    ),
    (
        "run-approved",
        f"{RESOURCE}.customer_user_id",
        "x" * 1001,
        ("out_of_range", f"$.{RESOURCE}.customer_user_id"),
    ),
    ("run-declined", f"{RESOURCE}.reasons", "no", ("schema_mismatch", f"$.{RESOURCE}.reasons")),
]


@pytest.mark.parametrize(("case", "path", "value", "failure"), WRONG, ids=range(len(WRONG)))
def test_a_missing_or_wrong_field_is_named(case, path, value, failure):
    """The dead letter names the field, in the whole payload."""
    assert failed_edit(case, path, value) == failure


JUNK = [
    (b"", "invalid_json"),
    (b"{", "invalid_json"),
    (b"\xff", "invalid_json"),
    (b'{"payload": NaN}', "invalid_json"),
    (b'{"payload": {"action": "\xff"}}', "invalid_json"),
    (b"{} {}", "invalid_json"),
    (b'{"x":' + b"[" * 100_000, "invalid_json"),
    (b"[]", "schema_mismatch"),
    (b"null", "schema_mismatch"),
    (b'{"payload": "check.completed"}', "schema_mismatch"),
    (b"{}", "unknown_type"),
    (b'{"payload": null}', "unknown_type"),
    (b'{"payload": {}}', "unknown_type"),
]


@pytest.mark.parametrize(("body", "kind"), JUNK, ids=range(len(JUNK)))
def test_junk_is_set_aside_with_its_kind(body, kind):
    """Whatever arrives, a record that cannot be read is named as that and never a bug."""
    assert failed(body)[0] == kind


@pytest.mark.parametrize("case", CASES)
def test_a_fixture_cut_off_anywhere_is_no_event(case):
    """A body that lost its end is invalid JSON, wherever it was cut."""
    body = body_of(case).rstrip()
    for length in range(0, len(body), 7):
        assert failed(body[:length])[0] == "invalid_json"


# What may leave.

COPIED = {
    "payload.object.id",
    "payload.object.status",
    "payload.object.workflow_run_id",
    "payload.resource.workflow_run_id",
    "payload.resource.error.type",
    "payload.resource.reasons.0",
    "payload.resource.reasons.1",
    # a pseudonym later
    "payload.resource.applicant_id",
    "payload.resource.customer_user_id",
}


def strings(node, path=()):
    if isinstance(node, str):
        yield path
    elif isinstance(node, dict | list):
        for name in node if isinstance(node, dict) else range(len(node)):
            yield from strings(node[name], (*path, name))


@pytest.mark.parametrize("marker", ["MARKER", "Marker Née <m@example.com>"])
@pytest.mark.parametrize("case", CASES)
def test_only_listed_fields_leave_a_body(case, marker):
    """A marker in one text after the other leaves only by the listed ones."""
    for path in strings(json.loads(body_of(case))):
        document = json.loads(body_of(case))
        node = document
        for name in path[:-1]:
            node = node[name]
        node[path[-1]] = marker
        try:
            found = normalized(json.dumps(document).encode())
        except Exception as error:  # noqa: BLE001 - as the worker does, around one record
            failure = failure_of(error)
            assert failure.kind != "bug", failure.error_class
            assert marker not in f"{failure} {failure.path}"
            continue
        if isinstance(found, Ignored):
            continue
        found[0].natural_key = ()
        if marker in msgspec.json.encode(found).decode():
            assert ".".join(map(str, path)) in COPIED


# Properties.

words = st.sampled_from([*onfido.NATIVE_TYPES, *PARTS, *RUNS, *TASKS, *REPORTS, "clear", "GBR"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | words
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text() | words, inner), max_leaves=8
)
paths = st.sampled_from(
    [
        *("payload", "payload.action", "payload.object", "payload.resource"),
        *(f"{OBJECT}.{name}" for name in onfido._Object.__struct_fields__),
        *(f"{RESOURCE}.{name}" for name in onfido._Resource.__struct_fields__),
        *(f"{RESOURCE}.{name}" for name in onfido._Findings.__struct_fields__),
        *(f"{RESOURCE}.output.{name}" for name in onfido._Findings.__struct_fields__),
    ]
)


def fate_of(body):
    """What became of a body, as the worker sees it; never a bug."""
    try:
        found = normalized(body)
    except Exception as error:  # noqa: BLE001 - as the worker does, around one record
        failure = failure_of(error)
        assert failure.kind != "bug", (failure.error_class, body)
        return
    if not isinstance(found, Ignored):
        (statement,) = found
        assert statement.outcome == "none" or statement.status == "completed"
        assert statement.process_ref


@given(body=st.binary())
def test_no_bytes_are_a_bug(body):
    """Arbitrary bytes are understood or set aside with a kind other than `bug`."""
    fate_of(body)


@given(document=json_values)
def test_no_json_is_a_bug(document):
    """Arbitrary JSON is understood or set aside with a kind other than `bug`."""
    fate_of(json.dumps(document).encode())


@given(
    case=st.sampled_from(["run-approved", "task-document-clear", "report-clear", "check-clear"]),
    edits=st.dictionaries(paths, json_values, max_size=3),
)
def test_no_mutation_of_a_fixture_is_a_bug(case, edits):
    """A fixture with any of its read fields replaced never ends as `bug`."""
    edits = {
        path: value for path, value in edits.items() if "output." not in path or "task" in case
    }
    fate_of(edited(case, dict(sorted(edits.items(), key=lambda item: -item[0].count(".")))))
