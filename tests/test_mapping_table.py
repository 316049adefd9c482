"""The mapping of events, tested from the design alone: each row of its table, each correction."""

import json

import msgspec
import pytest

from consumers.codec import decode, encoder, single_object_prefix
from consumers.event import VOCABULARIES, Ignored, Statement
from consumers.failures import Failure
from consumers.fate import Fates
from consumers.identity import subject_ref
from consumers.normalizers import NORMALIZERS
from consumers.records import Record
from tests import mapping_table as table
from tests.conftest import KEYS
from tests.mapping_table import CORRECTIONS, LONG_AFTER, PRIVATE, TABLE, Row

ROWS = [*TABLE, *CORRECTIONS]
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)


def stated(row):
    (statement,) = NORMALIZERS[row.provider].normalize(row.body, row.provenance)
    assert isinstance(statement, Statement), statement
    return statement


def decided(row):
    fates = Fates(row.provider, NORMALIZERS[row.provider], encoder(single_object_prefix()), KEYS)
    return fates.decide(
        Record(
            topic=f"raw.{row.provider}",
            partition=0,
            offset=0,
            timestamp=row.received_at,
            key=None,
            value=row.body,
            headers=[*row.provenance.to_headers()],
        )
    )


def event_of(row):
    fate = decided(row)
    assert fate.failure is None, fate.failure
    (event,) = fate.events
    return event


def failure_kind(row):
    """Give the kind of the failure that a body ends with; any other fate is an error."""
    fate = decided(row)
    assert fate.failure is not None, fate
    assert not fate.events
    return fate.failure.kind


def said_by(statement, expected):
    """Give what the statement says of the fields that the row speaks of."""
    derived = {
        "reason_codes": tuple(code for code, _ in statement.reasons),
        "native_reasons": tuple(native for _, native in statement.reasons),
        "attributes": {
            name: text
            for name, text in statement.attributes.items()
            if name in expected.get("attributes", ())
        },
    }
    return {name: derived.get(name, getattr(statement, name, None)) for name in expected}


def treezor(event, **rest):
    rest.setdefault("received_at", LONG_AFTER)
    return table.treezor_row("", event, said={}, **rest)


def pleenk(*events):
    return Row(title="", provider="pleenk", body=table.pleenk(*events), said={}, key="")


def plexy(body, scheme="plexy-hmac-timestamped", **rest):
    rest.setdefault("authenticity", "token" if scheme == "plexy-bearer" else "signed")
    return Row(title="", provider="plexy", body=body, said={}, key="", scheme=scheme, **rest)


# The table and its corrections.


def test_the_table_has_every_row():
    """Rows 1 to 33 are there, in order."""
    numbers = [int(row.title.partition(":")[0].removeprefix("row ")) for row in TABLE]
    assert sorted(set(numbers)) == list(range(1, 34))
    assert numbers == sorted(numbers)


def test_no_two_rows_have_one_title():
    """A failing row can be found by its title."""
    titles = [row.title for row in ROWS]
    assert len(set(titles)) == len(titles)


@every_row
def test_a_row_says_what_the_table_says(row):
    """The statement's fields are the table's columns."""
    assert said_by(stated(row), row.said) == row.said


@every_row
def test_a_row_s_event_has_the_table_s_subject_and_key(row):
    """The subject is its pseudonym; the key is process, subject or event, as the row says."""
    event = event_of(row)
    if "subject" in row.said:
        subject = row.said["subject"]
        ref = subject_ref(KEYS, row.provider, subject) if subject else None
        assert (event.subject_ref, event.subject_ref_kind) == (ref, subject and subject.kind)
    if row.key == "subject":
        assert event.subject_ref
    first = {"process": event.process_ref, "subject": event.subject_ref, "event": event.event_id}
    (output,) = decided(row).outputs
    assert output.key == first[row.key].encode()
    assert event.authenticity == row.authenticity
    assert event.received_at == row.received_at
    if event.occurred_at_source == "received":
        assert event.occurred_at == row.received_at


@every_row
def test_a_row_s_event_keeps_the_vocabularies_and_persons_to_itself(row):
    """Every word is on its list, and nothing that must stay behind leaves."""
    event = event_of(row)
    for field, words in VOCABULARIES.items():
        value = getattr(event, field)
        for word in (value,) if value is None or isinstance(value, str) else value:
            assert word is None or word in words, field
    if event.outcome != "none":
        assert event.status in {"completed", "awaiting_input"}
    (output,) = decided(row).outputs
    assert decode(output.value) == event
    assert PRIVATE.encode() not in output.value
    for word in (b"gender", b"FRA", b"resident"):
        assert word not in output.value
    assert all(name.startswith(f"{row.provider}.") for name in event.attributes)


@pytest.mark.parametrize("provider", NORMALIZERS)
def test_every_native_type_of_the_table_is_known(provider):
    """A native type becomes a metric label only if the mapping lists it."""
    found = {row.said.get("native_type") for row in ROWS if row.provider == provider} - {None}
    assert found <= NORMALIZERS[provider].NATIVE_TYPES


# What is unknown.


@pytest.mark.parametrize("level", [7, "7", "-1", "9"])
def test_a_kyc_level_on_no_list_is_counted(level):
    """An unknown value of an open vocabulary gives an event, and names its field."""
    statement = stated(treezor(table.user_event("user.kycreview", level, 2)))
    assert statement.unmapped
    assert statement.outcome == "none"


@pytest.mark.parametrize(
    "row",
    [
        treezor(table.identification("qes.finalized", "SOMETHING_NEW")),
        treezor(table.liveness_event("kycliveness.update", "paused", 1)),
        treezor(table.user_event("user.kycreview", "2", "9")),
        treezor(table.document_event("document.update", "LOST", ("17", "PASSPORT"), "1", "2")),
        pleenk(table.pleenk_payment("REVERSED")),
        pleenk(table.pleenk_user("UNLINKED")),
    ],
    ids=["qes", "kycliveness", "user", "document", "PAYMENT", "USER"],
)
def test_an_unknown_status_is_an_event_without_a_verdict(row):
    """The native value stays visible, the field is counted, and nobody passes or fails by it."""
    statement = stated(row)
    assert statement.status == "unknown"
    assert (statement.outcome, statement.is_final) == ("none", False)
    assert statement.native_status in {
        "SOMETHING_NEW",
        "paused",
        "9",
        "LOST",
        "REVERSED",
        "UNLINKED",
    }
    assert statement.unmapped


@pytest.mark.parametrize("status", [f"{PRIVATE} called", "x" * 65, "é"])
def test_a_status_that_is_no_constant_is_not_copied(status):
    """A native value is kept only if it looks like a machine constant."""
    for row in (
        treezor(table.identification("qes.finalized", status)),
        treezor(table.liveness_event("kycliveness.update", status, 1)),
        pleenk(table.pleenk_payment(status)),
        pleenk(table.pleenk_user(status)),
    ):
        statement = stated(row)
        assert (statement.status, statement.native_status) == ("unknown", None)
        assert statement.unmapped


@pytest.mark.parametrize("score", [2, -1, table.ABSENT])
def test_only_score_one_is_a_pass(score):
    """Accept only processed and 1; other values are not documented."""
    statement = stated(treezor(table.liveness_event("kycliveness.update", "processed", score)))
    assert statement.outcome != "pass"


@pytest.mark.parametrize("result", ["FRAUD_SUSPICION_PENDING", "FRAUD_SUSPICION_CONFIRMED"])
@pytest.mark.parametrize("kind", ["qes", "videoConference"])
def test_suspected_fraud_is_never_a_pass(kind, result):
    """Both values are documented, what they mean for the verdict only in part."""
    statement = stated(treezor(table.identification(f"{kind}.finalized", result)))
    assert statement.outcome != "pass"
    if result.endswith("PENDING"):
        assert (statement.outcome, statement.is_final) == ("none", False)


def test_an_unknown_reason_stays_visible():
    """A native code without a mapping appears as unmapped with its native value."""
    for reason, native in ((("9999", "X"), "9999"), (("", "NEW_CONSTANT"), "NEW_CONSTANT")):
        event = table.identification("qes.aborted", "ABORTED", reason=reason)
        statement = stated(treezor(event))
        assert statement.reasons == (("unmapped", native),)
        assert statement.unmapped


def test_a_reason_of_free_text_leaves_its_text_behind():
    """A message that is no constant gives an empty native code."""
    event = table.identification("qes.aborted", "ABORTED", reason=("", f"{PRIVATE} hung up"))
    assert [native for _, native in stated(treezor(event)).reasons] in ([""], [])


@pytest.mark.parametrize("result", [[], "yes", True, 1, {"age_over_18": {}}])
def test_a_pleenk_result_of_another_type_never_passes(result):
    """A result of unknown type is never approved."""
    fate = decided(pleenk(table.pleenk_approve("age_over_18", result)))
    assert fate.failure is not None or fate.events
    assert all(event.outcome != "pass" for event in fate.events)


def test_a_plexy_type_on_no_list_gives_no_verdict():
    """Anything else than the documented types is unknown."""
    assert failure_kind(plexy(table.plexy_a("dispute.opened", "d_1", "open"))) == "unknown_type"
    fate = decided(plexy(table.plexy_b("settled"), "plexy-bearer"))
    assert all(event.outcome == "none" for event in fate.events)


def test_foreign_treezor_events_are_ignored_and_unknown_ones_set_aside():
    """A subscription sends all products' events: known ones are ignored, others dead letters."""
    payin = table.treezor("payin.create", "payin", "1", {"payins": [{"payinId": "1"}]})
    normalized = NORMALIZERS["treezor"].normalize(treezor(payin).body, treezor(payin).provenance)
    assert isinstance(normalized, Ignored)
    assert normalized.reason
    nobody = table.treezor("nobody.knows", "nobody", "1", {"nobody": []})
    assert failure_kind(treezor(nobody)) == "unknown_type"


def test_an_unknown_pleenk_event_does_not_fail_the_batch():
    """The good items of a batch are emitted, the bad index goes to the dead letter."""
    unknown = {"eventType": "OTHER", "data": {"@type": "OTHER_EVENT"}}
    row = pleenk(table.pleenk_user(), unknown, table.pleenk_payment())
    first, bad, last = NORMALIZERS["pleenk"].normalize(row.body, row.provenance)
    assert isinstance(bad, Failure)
    assert bad.kind == "unknown_type"
    assert (first.native_type, first.item_index) == ("USER", 0)
    assert (last.native_type, last.item_index) == ("PAYMENT", 2)
    fate = decided(row)
    assert len(fate.events) == 2
    assert fate.failure is not None
    assert "1" in fate.failure.path


def test_a_batch_gives_one_event_for_each_of_its_items():
    """One POST may carry several events; each is keyed by its own process or subject."""
    fate = decided(pleenk(table.pleenk_user(), table.pleenk_payment()))
    person, payment = fate.events
    assert (person.native_type, payment.native_type) == ("USER", "PAYMENT")
    assert (person.item_index, payment.item_index) == (0, 1)
    keys = [output.key.decode() for output in fate.outputs]
    assert keys == [person.subject_ref, "abcde"]


# The gateway's word about the form is obeyed.

FLAT = table.user_event("user.kycreview", "2", "2")
FORMS = {
    "treezor-flat": FLAT,
    "treezor-wrapped": table.wrapped(FLAT),
    "treezor-sns": table.sns(FLAT),
    "treezor-sns-wrapped": table.sns(table.wrapped(FLAT)),
}


@pytest.mark.parametrize("scheme", FORMS)
def test_a_treezor_payload_means_the_same_in_every_form(scheme):
    """Flat, wrapped, or either inside an SNS notification: one meaning and one identity."""
    flat, other = treezor(FLAT), treezor(FORMS[scheme], scheme=scheme)
    assert stated(other) == stated(flat)
    assert event_of(other).event_id == event_of(flat).event_id


@pytest.mark.parametrize("scheme", FORMS)
@pytest.mark.parametrize("form", FORMS)
def test_a_treezor_body_is_read_in_no_form_but_the_verified_one(form, scheme):
    """`scheme` records the form and the consumer obeys it."""
    if form == scheme:
        assert event_of(treezor(FORMS[form], scheme=scheme)).outcome == "pass"
    else:
        assert failure_kind(treezor(FORMS[form], scheme=scheme)) != "bug"


def test_a_forged_object_beside_the_signed_payload_is_not_read():
    """A body with a second payload in another form is read only where the signature was."""
    forged = table.user_event("user.kycreview", "4", "3")["object_payload"]
    body = {**table.wrapped(FLAT), "object_payload": forged}
    fate = decided(treezor(body, scheme="treezor-wrapped"))
    assert [event.outcome for event in fate.events] in (["pass"], [])


@pytest.mark.parametrize("scheme", ["plexy-hmac-timestamped", "plexy-hmac-body", "plexy-bearer"])
def test_plexy_s_body_must_fit_its_contract(scheme):
    """Contract A is signed and B comes with a token; the other's shape is no event."""
    a = table.plexy_a("payment.succeeded", "pay_abc123", "succeeded")
    b = table.plexy_b("charged")
    right, wrong = (b, a) if scheme == "plexy-bearer" else (a, b)
    assert event_of(plexy(right, scheme)).outcome == "pass"
    assert failure_kind(plexy(wrong, scheme)) != "bug"


def test_a_stale_plexy_delivery_is_an_event_like_any_other():
    """An honest retry may carry the first time: the consumer emits it normally."""
    body = table.plexy_a("payment.succeeded", "pay_abc123", "succeeded")
    fresh, stale = (plexy(body, freshness=word) for word in ("fresh", "stale"))
    assert stated(stale) == stated(fresh)


@pytest.mark.parametrize(("level", "review"), [(1, 1), (1, 2), (4, 3), (0, 0), (5, 2)])
@pytest.mark.parametrize("name", ["kycreview.request", "kycreview.result"])
def test_an_unsigned_kycreview_says_the_same_and_is_never_final(name, level, review):
    """Subject and level are as in the table; the own time and is_final count only if signed."""
    rows = [
        treezor(table.kyc_event(name, level, review, signed=word == "signed"), authenticity=word)
        for word in ("signed", "unsigned")
    ]
    signed, unsigned = (stated(row) for row in rows)
    expected = msgspec.structs.replace(
        signed,
        is_final=False,
        natural_key=unsigned.natural_key,
        occurred_at=unsigned.occurred_at,
        occurred_at_source=unsigned.occurred_at_source,
    )
    assert unsigned == expected
    assert unsigned.occurred_at_source != "object"
    if signed.is_final:
        # Two deliveries that say different things never share an id.
        assert len({event_of(row).event_id for row in rows}) == 2


@pytest.mark.parametrize("scheme", ["treezor-sns", "treezor-sns-wrapped"])
@pytest.mark.parametrize("message", ["", "no json", "[]", "null", "{}", None, 1, {}])
def test_an_sns_message_that_holds_no_event_is_set_aside(scheme, message):
    """Whatever the notification carries instead of an event's text is a named failure."""
    notification = {**table.sns(FLAT), "Message": message}
    assert failure_kind(treezor(notification, scheme=scheme)) != "bug"


# Name, shape and id agree.

PAYLOADS = {
    "user.kycreview": table.user_event("user.kycreview", "2", "2"),
    "kycreview.result": table.kyc_event("kycreview.result", 1, 2, signed=True),
    "document.create": table.document_event(
        "document.create", "PENDING", ("17", "PASSPORT"), "4", "1"
    ),
    "kycliveness.update": table.liveness_event("kycliveness.update", "processed", 1),
    "qes.finalized": table.identification("qes.finalized", "SUCCESS"),
}


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("other", PAYLOADS)
def test_a_treezor_name_of_another_family_is_inconsistent(name, other):
    """The name is not signed: it must agree with the shape of the signed payload."""
    row = treezor({**PAYLOADS[other], "webhook": name})
    if name == other:
        assert event_of(row).native_type == name
    else:
        assert failure_kind(row) == "inconsistent"


@pytest.mark.parametrize("name", [name for name in PAYLOADS if name != "kycliveness.update"])
def test_a_treezor_object_id_must_be_the_one_inside(name):
    """object_id is not signed: it must agree with the id in the payload, where there is one."""
    row = treezor({**PAYLOADS[name], "object_id": "12345"})
    assert failure_kind(row) == "inconsistent"


# Identity.


def event_id(row):
    return event_of(row).event_id


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_treezor_identity_hangs_on_the_signed_payload_alone(name):
    """A captured payload sent again under a new id, time or text is the same statement."""
    event = PAYLOADS[name]
    same = event_id(treezor(event))
    assert event_id(treezor({**event, "webhook_id": "a-new-one"})) == same
    assert event_id(treezor({**event, "webhook_created_at": 17194726044999})) == same
    payload = json.dumps(event["object_payload"], indent=2, ensure_ascii=True).replace("/", "\\/")
    shell = json.dumps({**event, "object_payload": "HERE"})
    row = treezor(event)
    again = Row(
        title="",
        provider="treezor",
        body=shell.replace('"HERE"', payload).encode(),
        said={},
        key="subject",
        received_at=row.received_at,
    )
    assert event_id(again) == same
    changed = json.loads(json.dumps(event))
    changed["object_payload"]["more"] = "x"
    assert event_id(treezor(changed)) != same


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (PAYLOADS["user.kycreview"], "user.kycrequest"),
        (PAYLOADS["kycreview.result"], "kycreview.request"),
        (PAYLOADS["document.create"], "document.update"),
        (PAYLOADS["kycliveness.update"], "kycliveness.create"),
        (PAYLOADS["qes.finalized"], "qes.created"),
        (PAYLOADS["qes.finalized"], "videoConference.finalized"),
    ],
)
def test_a_treezor_name_within_one_shape_makes_no_second_statement(event, name):
    """The family of the payload's shape stands for the name, which is not signed."""
    assert event_id(treezor({**event, "webhook": name})) == event_id(treezor(event))


def test_two_items_of_one_treezor_payload_are_two_statements():
    """The item's position tells apart what one payload says twice."""
    event = table.user_event("user.kycreview", "2", "2")
    event["object_payload"]["users"].append(event["object_payload"]["users"][0])
    events = decided(treezor(event)).events
    assert [found.item_index for found in events] == [0, 1]
    assert len({found.event_id for found in events}) == 2


def test_trap_6_one_webhook_id_for_several_events_makes_several_statements():
    """The same webhook_id appears under different types and results: they stay apart."""
    rows = [
        treezor(table.identification(name, result))
        for name, result in (
            ("qes.finalized", "SUCCESS_DATA_CHANGED"),
            ("qes.finalized", "CANCELED"),
            ("videoConference.aborted", "ABORTED"),
        )
    ]
    events = [event_of(row) for row in rows]
    assert len({event.provider_event_id for event in events}) == 1
    assert len({event.event_id for event in events}) == 3


def test_pleenk_payments_and_users_are_their_id_and_status():
    """PAYMENT is paymentId and status, USER ref and status: nothing else tells two apart."""
    one = event_id(pleenk(table.pleenk_payment()))
    assert event_id(pleenk(table.pleenk_payment(amounts=(1.0, 2.0)))) == one
    assert event_id(pleenk(table.pleenk_payment("REVERSED"))) != one
    assert event_id(pleenk(table.pleenk_payment(payment_id="abcdf"))) != one
    assert event_id(pleenk(table.pleenk_user("UNLINKED"))) != event_id(pleenk(table.pleenk_user()))
    batch = decided(pleenk(table.pleenk_user(), table.pleenk_payment()))
    assert [event.event_id for event in batch.events] == [
        event_id(pleenk(table.pleenk_user())),
        one,
    ]


def test_a_pleenk_approval_is_its_element_s_bytes():
    """An identical later APPROVE collapses, wherever it stands; any other byte is another one."""
    approve = table.pleenk_approve("age_over_18", {"age_over_18": True})
    one = event_id(pleenk(approve))
    batch = decided(pleenk(table.pleenk_user(), approve)).events
    assert batch[1].event_id == one
    assert event_id(pleenk({**approve, "more": 1})) != one
    other = table.pleenk_approve("age_over_18", {"age_over_18": True}, user="somebody else")
    assert event_id(pleenk(other)) != one


def test_plexy_a_is_known_by_id_and_type():
    """The id is the documented idempotency key; the type belongs to it."""
    one = event_id(plexy(table.plexy_a("payment.succeeded", "pay_abc123", "succeeded")))
    again = table.plexy_a("payment.succeeded", "pay_abc123", "other")
    assert event_id(plexy(again, "plexy-hmac-body")) == one
    for body in (
        table.plexy_a("payment.failed", "pay_abc123", "succeeded"),
        table.plexy_a("payment.succeeded", "pay_abc123", "succeeded", 99),
    ):
        assert event_id(plexy(body)) != one


def test_plexy_b_is_known_by_name_id_and_update():
    """The name, data.id, and data.updatedAt, or data.status where that is missing."""

    def sent(status="charged", **more):
        return event_id(plexy(table.plexy_b(status, **more), "plexy-bearer"))

    one = sent()
    assert sent(amount=2, processedAmount=3) == one
    assert sent(updatedAt="2024-04-01T12:06:00Z") != one
    assert sent(id="txn_other") != one
    assert sent("refunded") != one
    untimed = sent(without=("updatedAt",))
    assert untimed != one
    assert sent(without=("updatedAt",), processedAmount=3) == untimed


# The traps, 1 to 12, where they are Treezor's or Pleenk's. Number 6 stands above.

MOMENT = 1719472604000


@pytest.mark.parametrize(
    "created_at",
    [
        1719472604,
        1719472604000,
        17194726040000,
        "1719472604",
        "1719472604000",
        "17194726040000",
        "1719472604.0000",
    ],
)
def test_trap_1_webhook_created_at_comes_in_three_units(created_at):
    """10 digits are seconds, 13 milliseconds, 14 ten-thousandths; text is read as well."""
    event = table.user_event("user.kycreview", "2", "2", created_at)
    statement = stated(treezor(event, received_at=MOMENT + 1000))
    assert (statement.occurred_at, statement.occurred_at_source) == (MOMENT, "delivery")


@pytest.mark.parametrize("created_at", ["soon", "", None, 0, 17194, -17194726040000, 10**30])
def test_a_webhook_created_at_that_is_no_time_is_none(created_at):
    """What cannot be read as a time near the receipt counts as none, and the event stands."""
    event = table.user_event("user.kycreview", "2", "2", created_at)
    statement = stated(treezor(event, received_at=MOMENT + 1000))
    assert (statement.occurred_at, statement.occurred_at_source) == (None, "received")


@pytest.mark.parametrize("date", ["0000-00-00 00:00:00", "1989-00-00", "2020-05-19 10:34:21", ""])
def test_trap_2_local_times_and_zero_dates_are_no_times(date):
    """Text without a zone, zero dates and none at all: the time of receipt."""
    event = table.document_event(
        "document.update",
        "PENDING",
        ("17", "PASSPORT"),
        "4",
        "1",
        createdDate=date,
        modifiedDate=date,
    )
    statement = stated(treezor(event))
    assert (statement.occurred_at, statement.occurred_at_source) == (None, "received")


def test_trap_3_numbers_come_as_text_and_as_numbers():
    """One life cycle sends "2", the other 2: both are the same value."""
    as_text = treezor(table.user_event("user.kycreview", "2", "2"))
    as_numbers = treezor(table.user_event("user.kycreview", 2, 2))
    named = ("status", "outcome", "is_final", "assurance_level", "native_status", "subject")
    for name in named:
        assert getattr(stated(as_text), name) == getattr(stated(as_numbers), name)
    kyc = table.kyc_event("kycreview.result", 1, 2, signed=True)
    texts = json.loads(json.dumps(kyc))
    for name in ("userId", "clientId", "kycLevel", "kycReview"):
        texts["object_payload"][name] = str(texts["object_payload"][name])
    for name in named:
        assert getattr(stated(treezor(texts)), name) == getattr(stated(treezor(kyc)), name)


def test_trap_4_kycliveness_spells_its_keys_with_hyphens():
    """kyc-status has a hyphen and user_id an underscore: no other spelling is taken for them."""
    event = table.liveness_event("kycliveness.update", "processed", 1)
    payload = event["object_payload"]
    status, user_id = payload.pop("kyc-status"), payload.pop("user_id")
    for hidden in ({"kycStatus": status, "user_id": user_id}, {"kyc_status": status}):
        renamed = {**event, "object_payload": {**payload, "user_id": user_id, **hidden}}
        assert all(found.outcome == "none" for found in decided(treezor(renamed)).events)
    for hidden in ({"userId": user_id}, {"user-id": user_id}):
        renamed = {**event, "object_payload": {**payload, "kyc-status": status, **hidden}}
        assert all(found.subject_ref is None for found in decided(treezor(renamed)).events)


@pytest.mark.parametrize("name", ["kycreview.request", "kycreview.result"])
def test_trap_5_kycreview_has_neither_id_nor_signature(name):
    """Without webhook_id and signature it is an event, marked unsigned and never final."""
    event = event_of(treezor(table.kyc_event(name, 1, 2), authenticity="unsigned"))
    assert event.provider_event_id is None
    assert (event.authenticity, event.outcome, event.is_final) == ("unsigned", "pass", False)


@pytest.mark.parametrize("name", ["created", "processing", "aborted", "finalized"])
@pytest.mark.parametrize("kind", ["qes", "videoConference"])
def test_trap_7_the_value_wins_over_the_name(kind, name):
    """qes.created is described as completed and says STARTED: what is signed counts."""
    for result, outcome in (("STARTED", "none"), ("SUCCESS", "pass"), ("CANCELED", "fail")):
        event = table.identification(
            f"{kind}.{name}", result, reason=("3201", "WARNING_SELFIE_REAL_PERSON")
        )
        assert stated(treezor(event)).outcome == outcome


def test_trap_8_a_pleenk_user_is_any_text():
    """A userRef ends in -e2e in the sample: never a UUID; no time and no id of the event."""
    for ref in ("1", "-e2e", "Ana Smith <ana@example.com>", "é" * 100):
        approve = table.pleenk_approve("age_over_18", {"age_over_18": True}, user=ref)
        statement = stated(pleenk(approve))
        assert statement.subject == table.platform_user(ref)
        assert statement.provider_event_id is None
        assert (statement.occurred_at, statement.occurred_at_source) == (None, "received")


@pytest.mark.parametrize(
    "body",
    [
        b'{"webhook":"kycliveness.create","object":"identification",}',
        b'{"webhook":"document.create", // created by the user\n"object":"document"}',
    ],
)
def test_trap_10_a_sample_that_is_no_json_is_no_event(body):
    """Comments and trailing commas of the published samples are invalid JSON."""
    row = Row(title="", provider="treezor", body=body, said={}, key="")
    assert failure_kind(row) == "invalid_json"


def test_trap_12_levels_and_reviews_decide_and_not_the_name():
    """user.kycrequest and user.kycreview carry one shape: the pair decides."""
    for level, review, outcome in (("2", "2", "pass"), ("2", "1", "none"), ("4", "3", "fail")):
        for name in ("user.kycrequest", "user.kycreview"):
            assert stated(treezor(table.user_event(name, level, review))).outcome == outcome


# Whatever stands in a body: no bug, and nothing that a person could have typed leaves.

OURS = [row for row in TABLE if row.provider in {"pleenk", "plexy", "treezor"}]
SHAPES = {
    row.title: row
    for row in [*OURS, table.PLEENK_OTHERS[0], table.PLEENK_OTHERS[-1], table.PLEXY_B[3]]
    # one row of each shape: the payloads of the others differ in values only
    if not row.title.startswith(tuple(f"row {number}:" for number in (2, 4, 6, 11, 12, 13, 18)))
    and "videoConference" not in row.title
}
TYPED = "Ana Smith <ana@example.com>"


def paths(node, path=()):
    """Give the path of every node of a JSON document below its top."""
    if isinstance(node, dict | list):
        for name in [*node] if isinstance(node, dict) else range(len(node)):
            yield (*path, name)
            yield from paths(node[name], (*path, name))


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("value", [table.ABSENT, None, TYPED, "", {}, [], 10**400])
def test_any_field_may_hold_anything(shape, value):
    """With any field gone or replaced there is one fate, no bug, and no text in what leaves."""
    row = SHAPES[shape]
    for path in paths(json.loads(row.body)):
        changed = json.loads(row.body)
        node = changed
        for name in path[:-1]:
            node = node[name]
        if value is table.ABSENT:
            del node[path[-1]]
        else:
            node[path[-1]] = value
        fate = decided(msgspec.structs.replace(row, body=table.json_body(changed)))
        assert bool(fate.outputs) != bool(fate.ignored), path
        assert fate.failure is None or fate.failure.kind != "bug", (path, fate.failure)
        assert bool(fate.events) or fate.failure or fate.ignored, path
        for output in fate.outputs:
            texts = [text or b"" for name, text in output.headers]
            if output.topic == "verification.events":
                texts += [output.key, output.value]
            assert not any(b"Ana" in text or b"ana@" in text for text in texts), path


def test_a_bad_item_of_a_treezor_payload_does_not_fail_the_others():
    """The good users of a payload are emitted, the bad index goes to the dead letter."""
    event = table.user_event("user.kycreview", "2", "2")
    users = event["object_payload"]["users"]
    users += [{**users[0], "kycLevel": []}, {**users[0], "kycLevel": "3"}]
    fate = decided(treezor(event))
    assert [found.item_index for found in fate.events] == [0, 2]
    assert [found.assurance_level for found in fate.events] == ["REGULAR", "STRONG"]
    assert fate.failure is not None
    assert "1" in fate.failure.path


def test_a_bad_item_of_a_pleenk_batch_does_not_fail_the_others():
    """The good events of a delivery are emitted, the bad index goes to the dead letter."""
    bad = table.pleenk_payment()
    del bad["data"]["paymentId"]
    fate = decided(pleenk(table.pleenk_user(), bad, table.pleenk_payment()))
    assert [found.item_index for found in fate.events] == [0, 2]
    assert fate.failure is not None
    assert (fate.failure.kind, "1" in fate.failure.path) == ("schema_mismatch", True)


@pytest.mark.parametrize("webhook_id", ["10XXXXXX", 1234567, "42424224-442z5-42ce9-8242"])
def test_a_webhook_id_is_a_label_as_sent(webhook_id):
    """It is no UUID in the samples and was a number once: text of it is kept, nothing more."""
    event = {**table.identification("qes.finalized", "SUCCESS"), "webhook_id": webhook_id}
    assert stated(treezor(event)).provider_event_id == str(webhook_id)
