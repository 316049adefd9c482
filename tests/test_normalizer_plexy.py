"""What Plexy's deliveries mean: every fixture in literal words, both contracts, amounts, times."""

import json
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.event import Statement
from consumers.failures import Failure, failure_of
from consumers.normalizers import plexy
from gateway.delivery import Provenance

FIXTURES = Path(__file__).parent / "fixtures" / "plexy"
CASES = sorted(path.parent.name for path in FIXTURES.glob("*/body.raw"))
DELETED = object()

TIMESTAMPED, BODY, BEARER = "plexy-hmac-timestamped", "plexy-hmac-body", "plexy-bearer"
SCHEMES_OF_A = (TIMESTAMPED, BODY)


def provenance(scheme):
    return Provenance(
        endpoint="plexy",
        provider="plexy",
        received_at=1_800_000_000_000,
        delivery_id="delivery",
        authenticity="token" if scheme == BEARER else "signed",
        scheme=scheme,
        key_id="default",
        environment="sandbox",
    )


def is_b(case):
    return case.startswith("transaction-")


def scheme_of(case):
    return BEARER if is_b(case) else TIMESTAMPED


def body_of(case):
    return (FIXTURES / case / "body.raw").read_bytes()


def normalized(body, scheme):
    return plexy.normalize(body, provenance(scheme))


def stated(case, body=None, scheme=None):
    (statement,) = normalized(body_of(case) if body is None else body, scheme or scheme_of(case))
    return statement


def edited(case, edits):
    """Give a fixture's body with the values at dotted paths replaced, added or deleted."""
    document = json.loads(body_of(case))
    for path, value in edits.items():
        *parents, last = path.split(".")
        node = document
        for name in parents:
            node = node[name]
        if value is DELETED:
            del node[last]
        else:
            node[last] = value
    return json.dumps(document, ensure_ascii=False).encode()


def with_edit(case, path, value):
    return stated(case, edited(case, {path: value}))


def failed(body, scheme):
    with pytest.raises(Exception) as caught:
        normalized(body, scheme)
    failure = failure_of(caught.value)
    return failure.kind, failure.path


def failed_edit(case, path, value):
    return failed(edited(case, {path: value}), scheme_of(case))


def ms(text):
    return int(datetime.fromisoformat(text).timestamp()) * 1000


# What each fixture means. Only what a Statement does not say by default is written down.

PASS = {"status": "completed", "outcome": "pass", "is_final": True}
FAIL = {"status": "completed", "outcome": "fail", "is_final": True}
DECLINED = (("payment.declined", ""),)


def event_a(number, native_type, process_ref, **said):
    kind = native_type.partition(".")[0]
    return {
        "native_type": native_type,
        "natural_key": (f"evt_{number:010d}", native_type),
        "provider_event_id": f"evt_{number:010d}",
        "category": kind,
        "process_ref": process_ref,
        "resource_type": kind,
        "resource_ref": process_ref,
        "occurred_at": (1_679_529_600 + number) * 1000,
        "occurred_at_source": "event",
        "payment_amount_minor": 5000,
        "payment_currency": "USD",
        **said,
    }


def event_b(number, native_status, updated_minute, occurred_minute, **said):
    at = f"2024-04-{number:02d}T12:{{:02d}}:00Z".format
    process = said.get("process_ref", f"txn_{number:012d}")
    kind = said.get("category", "payment")
    return {
        "native_type": f"transaction.{native_status}",
        "native_status": native_status,
        "natural_key": (f"transaction.{native_status}", process, at(updated_minute)),
        "provider_account": "123456",
        "category": "payment",
        "process_ref": process,
        "resource_type": kind,
        "resource_ref": process,
        "occurred_at": ms(at(occurred_minute)),
        "occurred_at_source": "object",
        "payment_currency": "USD",
        "attributes": {"plexy.amount": "1000"},
        **said,
    }


MEANINGS = {
    "payment-succeeded": event_a(
        1234567890,
        "payment.succeeded",
        "pay_abc123",
        native_status="succeeded",
        occurred_at=ms("2023-03-23T00:00:00Z"),
        **PASS,
    ),
    "payment-failed": event_a(
        2, "payment.failed", "pay_000002", native_status="failed", reasons=DECLINED, **FAIL
    ),
    "refund-succeeded": event_a(
        3, "refund.succeeded", "ref_000003", native_status="succeeded", **PASS
    ),
    "refund-failed": event_a(4, "refund.failed", "ref_000004", native_status="failed", **FAIL),
    "payment-succeeded-decimals": event_a(
        5,
        "payment.succeeded",
        "pay_000005",
        native_status="succeeded",
        payment_amount_minor=None,
        payment_currency="KZT",
        unmapped=("data.amount",),
        **PASS,
    ),
    "payment-succeeded-yen": event_a(
        6,
        "payment.succeeded",
        "pay_000006",
        native_status="succeeded",
        payment_amount_minor=500,
        payment_currency="JPY",
        **PASS,
    ),
    "payment-succeeded-unlisted-currency": event_a(
        7,
        "payment.succeeded",
        "pay_000007",
        native_status="succeeded",
        payment_currency=None,
        unmapped=("data.currency",),
        **PASS,
    ),
    "transaction-charged": event_b(
        1,
        "charged",
        5,
        4,
        natural_key=("transaction.charged", "txn_abcdef123456", "2024-04-01T12:05:00Z"),
        process_ref="txn_abcdef123456",
        **PASS,
    ),
    "transaction-created": event_b(
        2,
        "created",
        0,
        0,
        natural_key=("transaction.created", "txn_000000000002", "created"),
        status="created",
    ),
    "transaction-3d": event_b(3, "3d", 1, 1, status="awaiting_input"),
    "transaction-authorized": event_b(4, "authorized", 2, 1, status="processing"),
    "transaction-rejected": event_b(5, "rejected", 1, 1, reasons=DECLINED, **FAIL),
    "transaction-failed": event_b(6, "failed", 1, 1, reasons=(("technical.error", ""),), **FAIL),
    "transaction-charged-decimals": event_b(
        7,
        "charged",
        4,
        3,
        payment_currency="KZT",
        attributes={"plexy.amount": "10.50"},
        **PASS,
    ),
    "transaction-cancelled": event_b(8, "cancelled", 2, 1, status="canceled", is_final=True),
    "transaction-refunded": event_b(9, "refunded", 4, 3, category="refund", **PASS),
    "transaction-created-no-time": event_b(
        10,
        "created",
        0,
        0,
        natural_key=("transaction.created", "txn_000000000010", "created"),
        status="created",
        occurred_at=None,
        occurred_at_source="received",
        payment_currency=None,
        attributes={},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fixture_means_exactly_what_is_written_down_for_it(case):
    """Every field of every fixture's statement is the literal expectation, or the default."""
    expected = msgspec.structs.asdict(Statement(**MEANINGS[case]))
    assert msgspec.structs.asdict(stated(case)) == expected


def test_every_expectation_has_its_fixture():
    """The list of meanings and the fixture folders name the same cases."""
    assert sorted(MEANINGS) == CASES


@pytest.mark.parametrize("case", CASES)
def test_a_fixture_is_for_the_endpoint_of_its_contract(case):
    """Contract B is asked for by options.json; contract A is the usual one."""
    options = FIXTURES / case / "options.json"
    assert options.exists() == is_b(case)
    if is_b(case):
        assert json.loads(options.read_text()) == {"contract": "B"}


def test_the_native_types_are_those_of_both_contracts():
    """The native types are the metric's labels: exactly these."""
    statuses = ("created", "3d", "authorized", "charged", "rejected", "failed", "cancelled")
    assert {
        *("payment.succeeded", "payment.failed", "refund.succeeded", "refund.failed"),
        *(f"transaction.{status}" for status in (*statuses, "refunded")),
    } == plexy.NATIVE_TYPES
    assert plexy.SCHEMES == (TIMESTAMPED, BODY, BEARER)
    assert plexy.KEYED_BY == "process"


# What a payment never looks like.

ABOUT_A_PERSON = {
    "subject": None,
    "subject_type": "unknown",
    "methods": (),
    "assurance_framework": None,
    "assurance_level": None,
    "age_min": None,
    "age_max": None,
    "age_threshold": None,
    "age_method": None,
    "document_type": None,
    "document_country": None,
    "country": None,
    "corrected_fields": (),
    "attempt_ref": None,
    "retry_allowed": None,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("status", ["approved", "verified", "pass", "age_over_18", "", None])
def test_a_payment_never_looks_like_a_statement_about_a_person(case, status):
    """Whatever its status says, it is a payment or a refund and has no field of a check."""
    for statement in (stated(case), with_edit(case, "data.status", status)):
        assert statement.category in {"payment", "refund"}
        for field, nothing in ABOUT_A_PERSON.items():
            assert getattr(statement, field) == nothing, field
        assert {code for code, _ in statement.reasons} <= {"payment.declined", "technical.error"}


# By the type, never by data.status.

VERDICTS_OF_A = {
    "payment.succeeded": ("payment", "completed", "pass", True, ()),
    "payment.failed": ("payment", "completed", "fail", True, DECLINED),
    "refund.succeeded": ("refund", "completed", "pass", True, ()),
    "refund.failed": ("refund", "completed", "fail", True, ()),
}
VERDICTS_OF_B = {
    "created": ("payment", "created", "none", False, ()),
    "3d": ("payment", "awaiting_input", "none", False, ()),
    "authorized": ("payment", "processing", "none", False, ()),
    "charged": ("payment", "completed", "pass", True, ()),
    "rejected": ("payment", "completed", "fail", True, DECLINED),
    "failed": ("payment", "completed", "fail", True, (("technical.error", ""),)),
    "cancelled": ("payment", "canceled", "none", True, ()),
    "refunded": ("refund", "completed", "pass", True, ()),
}


def verdict(statement):
    return (
        statement.category,
        statement.status,
        statement.outcome,
        statement.is_final,
        statement.reasons,
    )


STATUSES = ["succeeded", "failed", "charged", "refunded", "something.new", "Ana paid", "", None]


@pytest.mark.parametrize("status", [*STATUSES, DELETED])
@pytest.mark.parametrize("scheme", SCHEMES_OF_A)
@pytest.mark.parametrize("native_type", VERDICTS_OF_A)
def test_contract_a_speaks_by_its_type(native_type, scheme, status):
    """The type decides whatever data.status says; that is kept beside it if it is a constant."""
    body = edited("payment-succeeded", {"type": native_type, "data.status": status})
    statement = stated("payment-succeeded", body, scheme)
    assert verdict(statement) == VERDICTS_OF_A[native_type]
    assert statement.native_type == native_type
    is_constant = status not in ("Ana paid", "", None, DELETED)
    assert statement.native_status == (status if is_constant else None)


@pytest.mark.parametrize("status", [*STATUSES, DELETED])
@pytest.mark.parametrize("name", VERDICTS_OF_B)
@pytest.mark.parametrize("kind", ["payment", "refund", "reversal", None])
def test_contract_b_speaks_by_its_name(name, status, kind):
    """The name decides whatever data.status and data.type say."""
    edits = {"name": f"transaction.{name}", "data.status": status, "data.type": kind}
    statement = stated("transaction-charged", edited("transaction-charged", edits))
    assert verdict(statement) == VERDICTS_OF_B[name]
    assert statement.native_type == f"transaction.{name}"
    is_constant = status not in ("Ana paid", "", None, DELETED)
    assert statement.native_status == (status if is_constant else None)


# Which contract.


@pytest.mark.parametrize("case", CASES)
def test_a_body_of_the_other_contract_is_inconsistent(case):
    """A token-only body under a signed scheme, and the reverse, is never read."""
    for scheme in SCHEMES_OF_A if is_b(case) else (BEARER,):
        path = "$.name" if is_b(case) else "$.type"
        assert failed(body_of(case), scheme) == ("inconsistent", path)


def test_a_shape_is_the_other_contract_s_whatever_its_last_word():
    """An unlisted type or name is still of its own contract."""
    unlisted = edited("transaction-charged", {"name": "transaction.captured"})
    assert failed(unlisted, TIMESTAMPED) == ("inconsistent", "$.name")
    unlisted = edited("payment-succeeded", {"type": "payout.succeeded"})
    assert failed(unlisted, BEARER) == ("inconsistent", "$.type")


@pytest.mark.parametrize("scheme", ["", "plexy", "plexy-hmac", "PLEXY-BEARER", "pleenk-ecdsa"])
@pytest.mark.parametrize("case", CASES)
def test_a_scheme_that_is_not_plexy_s_is_inconsistent(case, scheme):
    """Without a known scheme there is no contract to read by: the shape is not asked."""
    assert failed(body_of(case), scheme) == ("inconsistent", "headers")


@pytest.mark.parametrize("scheme", plexy.SCHEMES)
def test_a_body_of_both_shapes_is_inconsistent(scheme):
    """Nothing that could be read in two ways is read in either."""
    both = {**json.loads(body_of("transaction-charged")), "id": "evt_1", "created": 1}
    body = json.dumps({**both, "type": "payment.succeeded"}).encode()
    assert failed(body, scheme)[0] == "inconsistent"


@pytest.mark.parametrize(
    "native_type",
    [DELETED, None, "", 5, ["payment.succeeded"], "payment.refunded", "PAYMENT.SUCCEEDED",
     "payment.succeeded ", "payout.succeeded", "transaction.charged", "approve"],
)  # fmt: skip
def test_an_unlisted_type_of_contract_a_is_unknown(native_type):
    """A type on no list is `unknown_type`, never guessed from its ending."""
    assert failed_edit("payment-succeeded", "type", native_type) == ("unknown_type", "$.type")


@pytest.mark.parametrize(
    "name",
    [DELETED, None, "", 5, ["transaction.charged"], "transaction.", "transaction.captured",
     "transaction.CHARGED", "transaction.charged\n", "charged", "payment.succeeded"],
)  # fmt: skip
def test_an_unlisted_name_of_contract_b_is_unknown(name):
    """A name on no list is `unknown_type`."""
    assert failed_edit("transaction-charged", "name", name) == ("unknown_type", "$.name")


def test_a_name_that_is_no_transaction_does_not_disturb_contract_a():
    """A further field called name is not the other contract's."""
    expected = stated("payment-succeeded")
    assert with_edit("payment-succeeded", "name", "anything") == expected
    assert with_edit("transaction-charged", "type", "anything") == stated("transaction-charged")


# Amounts.


def with_amount(case, text):
    """A fixture's statement with its amount replaced by this JSON text."""
    document = json.loads(body_of(case))
    document["data"]["amount"] = "@"
    return stated(case, json.dumps(document).replace('"@"', text).encode())


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("5000", 5000),
        ("0", 0),
        ("-5000", -5000),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("null", None),
    ],
)
def test_a_whole_amount_of_contract_a_is_copied_as_sent(text, amount):
    """Its unit is not documented: a whole number in the schema's range passes unchanged."""
    statement = with_amount("payment-succeeded", text)
    assert (statement.payment_amount_minor, statement.unmapped) == (amount, ())


@pytest.mark.parametrize(
    "text",
    ["50.25", "5000.00", "5000.0", "5e3", "1e999", "9223372036854775808", "-9223372036854775809",
     "1" + "0" * 400, '"5000"', '"Ana"', "true", "[]", '{"Value": 5000}'],
)  # fmt: skip
def test_another_amount_is_counted_and_not_copied(text):
    """An amount with decimals is in no minor unit; the payment is stated without it."""
    statement = with_amount("payment-succeeded", text)
    assert (statement.payment_amount_minor, statement.unmapped) == (None, ("data.amount",))
    assert (statement.outcome, statement.attributes) == ("pass", {})


@pytest.mark.parametrize(
    "text", ["1000", "0", "-5", "10.50", "10.500000000", "1" + "0" * 18, "0.1"]
)
def test_an_amount_of_contract_b_keeps_its_digits_and_claims_no_unit(text):
    """Minor units or the usual ones, by the account's setup: kept as sent, apart from amounts."""
    statement = with_amount("transaction-charged", text)
    assert statement.payment_amount_minor is None
    assert (statement.attributes, statement.unmapped) == ({"plexy.amount": text}, ())


@pytest.mark.parametrize(
    "text", ['"10.50"', "1e3", "1e999", "true", "[]", "{}", "1" + "0" * 19, "0.1234567891"]
)
def test_an_amount_of_contract_b_that_is_no_plain_number_is_counted(text):
    """Anything else is not copied, and the payment is stated without it."""
    statement = with_amount("transaction-charged", text)
    assert (statement.attributes, statement.unmapped) == ({}, ("data.amount",))
    assert statement.payment_amount_minor is None


@pytest.mark.parametrize("case", ["payment-succeeded", "transaction-charged"])
def test_an_amount_may_be_missing(case):
    """Without an amount there is none, and nothing is counted."""
    for nothing in (None, DELETED):
        statement = with_edit(case, "data.amount", nothing)
        assert (statement.payment_amount_minor, statement.attributes) == (None, {})
        assert statement.unmapped == ()


@pytest.mark.parametrize("case", ["payment-succeeded", "transaction-charged"])
@pytest.mark.parametrize(
    ("currency", "expected", "unmapped"),
    [
        ("EUR", "EUR", ()),
        ("KZT", "KZT", ()),
        ("", None, ()),
        (None, None, ()),
        (DELETED, None, ()),
        ("usd", None, ("data.currency",)),
        ("US", None, ("data.currency",)),
        ("USDT", None, ("data.currency",)),
        ("840", None, ("data.currency",)),
        ("USD\n", None, ("data.currency",)),
        ("ÉUR", None, ("data.currency",)),
    ],
)
def test_a_currency_is_three_capital_letters_or_unmapped(case, currency, expected, unmapped):
    """Anything else is counted and not copied."""
    statement = with_edit(case, "data.currency", currency)
    assert (statement.payment_currency, statement.unmapped) == (expected, unmapped)


# Times.


@pytest.mark.parametrize(
    ("created", "occurred_at"),
    [(1679529600, 1679529600000), (0, 0), (253402300799, 253402300799000)],
)
def test_created_is_in_seconds(created, occurred_at):
    """A time of contract A is the event's own, in seconds since the epoch."""
    statement = with_edit("payment-succeeded", "created", created)
    assert (statement.occurred_at, statement.occurred_at_source) == (occurred_at, "event")


@pytest.mark.parametrize("created", [-1, 253402300800, 1679529600000, 10**30])
def test_created_in_another_unit_is_out_of_range(created):
    """Milliseconds would be the year 55191: out of range, not an event of that year."""
    assert failed_edit("payment-succeeded", "created", created) == ("out_of_range", "$.created")


TIMES = ["processedAt", "confirmedAt", "authedAt", "updatedAt", "createdAt"]


@pytest.mark.parametrize("position", range(len(TIMES)))
@pytest.mark.parametrize(
    "nothing", [None, "", DELETED, "0001-01-01T00:00:00Z", "2024-04-01T12:00:00"]
)
def test_the_first_time_there_is_counts(position, nothing):
    """In the order of the table; null, empty, missing, zero and zone-less times are none."""
    edits = {f"data.{name}": nothing for name in TIMES[:position]}
    edits |= {
        f"data.{name}": f"2024-05-0{number}T00:00:00Z"
        for number, name in enumerate(TIMES[position:], 1)
    }
    statement = stated("transaction-charged", edited("transaction-charged", edits))
    assert statement.occurred_at == ms("2024-05-01T00:00:00Z")
    assert statement.occurred_at_source == "object"


@pytest.mark.parametrize("nothing", [None, "", DELETED, "0001-01-01T00:00:00Z"])
def test_without_any_time_it_happened_when_it_was_received(nothing):
    """The worker then takes the time of receipt."""
    edits = {f"data.{name}": nothing for name in TIMES}
    statement = stated("transaction-charged", edited("transaction-charged", edits))
    assert (statement.occurred_at, statement.occurred_at_source) == (None, "received")


@pytest.mark.parametrize("text", ["soon", "2024-04-01", "1712000000", "2024-13-01T00:00:00Z"])
def test_a_time_that_is_none_is_a_schema_mismatch(text):
    """The dead letter names the field."""
    found = failed_edit("transaction-charged", "data.processedAt", text)
    assert found == ("schema_mismatch", "$.data.processedAt")


# Keys, references, wrapped values.


@pytest.mark.parametrize(
    ("case", "path"),
    [
        ("payment-succeeded", "id"),
        ("payment-succeeded", "data.id"),
        ("transaction-charged", "data.id"),
    ],
)
def test_references_are_opaque_constants(case, path):
    """An id is copied only if it is a printable constant, and it must be there."""
    field = "provider_event_id" if path == "id" else "process_ref"
    for good in ("x", "aZ09_.:/-", "x" * 128):
        assert getattr(with_edit(case, path, good), field) == good
    for bad in ("", "x" * 129, "two words", "ana@example.com", "é", "x\n"):
        assert failed_edit(case, path, bad) == ("out_of_range", f"$.{path}")
    for nothing in (None, 5):
        assert failed_edit(case, path, nothing) == ("schema_mismatch", f"$.{path}")
    parent = "$" if path == "id" else "$.data"
    assert failed_edit(case, path, DELETED) == ("schema_mismatch", parent)


def test_contract_a_is_identified_by_id_and_type():
    """A retry is the same statement; the same id under another type is another."""
    first = stated("payment-succeeded")
    assert first.natural_key == ("evt_1234567890", "payment.succeeded")
    for path, value in (("created", 5), ("data.id", "x"), ("data.amount", 1), ("data.status", "x")):
        assert with_edit("payment-succeeded", path, value).natural_key == first.natural_key
    for path, value in (("id", "evt_2"), ("type", "payment.failed")):
        assert with_edit("payment-succeeded", path, value).natural_key != first.natural_key


def test_contract_b_is_identified_by_name_transaction_and_update():
    """It has no event id: name, transaction and time of the update, else the status."""
    case = "transaction-charged"
    key = stated(case).natural_key
    for path, value in (("name", "transaction.refunded"), ("data.id", "x"),
                        ("data.updatedAt", "2024-04-01T12:05:01Z")):  # fmt: skip
        assert with_edit(case, path, value).natural_key != key
    for path, value in (("data.status", "x"), ("data.processedAt", None), ("merchantId", "7")):
        assert with_edit(case, path, value).natural_key == key
    for nothing in (None, "", DELETED):
        assert with_edit(case, "data.updatedAt", nothing).natural_key == (*key[:2], "charged")
        none_at_all = edited(case, {"data.updatedAt": nothing, "data.status": nothing})
        assert stated(case, none_at_all).natural_key == (*key[:2], "")


@pytest.mark.parametrize(
    "value", [None, DELETED, {}, {"Value": "x"}, {"Value": None}, {"value": "x"}, "x", 5, [], True]
)
def test_a_wrapped_value_may_have_any_form(value):
    """Nothing wrapped is read, so missing, null, {} and bare values disturb nothing."""
    names = ("paymentLinkId", "paymentSessionId", "cardTokenId", "customerId")
    body = edited("transaction-charged", {f"data.{name}": value for name in names})
    assert stated("transaction-charged", body) == stated("transaction-charged")


@pytest.mark.parametrize(
    ("merchant", "account"),
    [("123456", "123456"), (123456, "123456"), ("Ana's shop", None), ("", None), (None, None),
     (DELETED, None)],
)  # fmt: skip
def test_the_merchant_is_the_account_at_the_provider(merchant, account):
    """The merchant's id names a company; it is copied if it is a constant."""
    assert with_edit("transaction-charged", "merchantId", merchant).provider_account == account


WRONG = [
    ("payment-succeeded", "id", DELETED, ("schema_mismatch", "$")),
    ("payment-succeeded", "created", DELETED, ("schema_mismatch", "$")),
    ("payment-succeeded", "created", None, ("schema_mismatch", "$.created")),
    ("payment-succeeded", "created", "1679529600", ("schema_mismatch", "$.created")),
    ("payment-succeeded", "created", 1679529600.5, ("schema_mismatch", "$.created")),
    ("payment-succeeded", "created", True, ("schema_mismatch", "$.created")),
    ("payment-succeeded", "data", DELETED, ("schema_mismatch", "$")),
    ("payment-succeeded", "data", None, ("schema_mismatch", "$.data")),
    ("payment-succeeded", "data", [], ("schema_mismatch", "$.data")),
    ("payment-succeeded", "data.currency", 840, ("schema_mismatch", "$.data.currency")),
    ("payment-succeeded", "data.status", 1, ("schema_mismatch", "$.data.status")),
    ("transaction-charged", "data", DELETED, ("schema_mismatch", "$")),
    ("transaction-charged", "data", {}, ("schema_mismatch", "$.data")),
    ("transaction-charged", "data.status", {}, ("schema_mismatch", "$.data.status")),
    ("transaction-charged", "data.updatedAt", 5, ("schema_mismatch", "$.data.updatedAt")),
    ("transaction-charged", "merchantId", {}, ("schema_mismatch", "$.merchantId")),
]


@pytest.mark.parametrize(("case", "path", "value", "failure"), WRONG, ids=range(len(WRONG)))
def test_a_known_kind_with_a_missing_or_wrong_field_is_a_schema_mismatch(
    case, path, value, failure
):
    """The dead letter names the field that is missing or of the wrong type."""
    assert failed_edit(case, path, value) == failure


JUNK = [
    (b"", "invalid_json"),
    (b"{", "invalid_json"),
    (b"\xff", "invalid_json"),
    (b'{"type": NaN}', "invalid_json"),
    (b'{"type": "\xff"}', "invalid_json"),
    (b'{"name": "\\ud800"}', "invalid_json"),
    (b"{} {}", "invalid_json"),
    (b'{"x":' + b"[" * 100_000, "invalid_json"),
    # Plexy's own example of contract B, with its double comma
    (b'{"name": "transaction.charged",, "data": {"id": "x"}}', "invalid_json"),
    (b"[]", "schema_mismatch"),
    (b"null", "schema_mismatch"),
    (b"{}", "unknown_type"),
]


@pytest.mark.parametrize("scheme", plexy.SCHEMES)
@pytest.mark.parametrize(("body", "kind"), JUNK, ids=range(len(JUNK)))
def test_junk_is_set_aside_with_its_kind(body, kind, scheme):
    """Whatever arrives, a record that cannot be read is named as that and never a bug."""
    assert failed(body, scheme)[0] == kind


@pytest.mark.parametrize("case", CASES)
def test_a_fixture_cut_off_anywhere_is_no_event(case):
    """A body that lost its end is invalid JSON, wherever it was cut."""
    body = body_of(case)
    for length in range(0, len(body), 3):
        assert failed(body[:length], scheme_of(case))[0] == "invalid_json"


# What may leave.

COPIED = {
    "": {"id", "data.id", "data.status"},
    "transaction-": {"merchantId", "data.id", "data.status"},
}


def strings(node, path=()):
    if isinstance(node, str):
        yield path
    elif isinstance(node, dict):
        for name, inner in node.items():
            yield from strings(inner, (*path, name))


def what_leaves(body, scheme):
    """Everything a mapping gives away, in one text; natural keys are hashed."""
    try:
        (statement,) = normalized(body, scheme)
    except Exception as error:  # noqa: BLE001 - as the worker does, around one record
        failure = failure_of(error)
        assert failure.kind != "bug", failure.error_class
        return f"{failure} {failure.kind} {failure.path} {failure.error_class}"
    statement.natural_key = ()
    return msgspec.json.encode(statement).decode()


@pytest.mark.parametrize("marker", ["MARKER", "Marker Née <m@example.com>", "999.1"])
@pytest.mark.parametrize("case", CASES)
def test_only_listed_fields_leave_a_body(case, marker):
    """A marker in one text after the other leaves only by the listed ones, as a constant."""
    document = json.loads(body_of(case))
    listed = COPIED["transaction-" if is_b(case) else ""]
    for path in strings(document):
        dotted = ".".join(path)
        leaving = what_leaves(edited(case, {dotted: marker}), scheme_of(case))
        is_listed = dotted in listed and " " not in marker
        assert (marker in leaving) == is_listed, dotted
        assert is_listed or "arker" not in leaving, dotted


@pytest.mark.parametrize("case", CASES)
def test_bodies_carry_far_more_than_is_read(case):
    """Unread parts may be deep, huge or of another shape: they are skipped."""
    extra = {"deep": [[[[]]]], "number": 10**200, "": None, "userRef": "u", "age_over_18": True}
    document = json.loads(body_of(case))
    sent = {**extra, **document, "data": {**extra, **document["data"]}}
    expected = stated(case, json.dumps(document).encode())
    assert stated(case, json.dumps(sent).encode()) == expected


# Properties.

words = st.sampled_from([*plexy.NATIVE_TYPES, "transaction.", "payment", "2024-04-01T12:00:00Z"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | words
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text() | words, inner), max_leaves=8
)
paths = st.sampled_from(
    [
        *("id", "type", "name", "created", "merchantId", "data", "data.id", "data.amount"),
        *("data.currency", "data.status", *(f"data.{name}" for name in TIMES)),
    ]
)


def fate_of(body, scheme):
    """What became of a body, as the worker sees it; never a bug, never about a person."""
    try:
        found = normalized(body, scheme)
    except Exception as error:  # noqa: BLE001 - as the worker does, around one record
        failure = failure_of(error)
        assert failure.kind != "bug", (failure.error_class, body)
        return failure
    (statement,) = found
    assert statement.category in {"payment", "refund"}
    assert statement.subject is None
    "".join(statement.natural_key).encode()
    amount = statement.payment_amount_minor
    assert amount is None or (scheme != BEARER and -(2**63) <= amount < 2**63)
    assert statement.occurred_at is None or 0 <= statement.occurred_at < 2**63
    return statement


@given(body=st.binary(), scheme=st.sampled_from(plexy.SCHEMES))
def test_no_bytes_are_a_bug(body, scheme):
    """Arbitrary bytes are understood or set aside with a kind other than `bug`."""
    fate_of(body, scheme)


@given(document=json_values, scheme=st.sampled_from(plexy.SCHEMES))
def test_no_json_is_a_bug(document, scheme):
    """Arbitrary JSON is understood or set aside with a kind other than `bug`."""
    fate_of(json.dumps(document).encode(), scheme)


@given(
    case=st.sampled_from(CASES),
    edits=st.dictionaries(paths, json_values, max_size=3),
    scheme=st.sampled_from(plexy.SCHEMES),
)
def test_no_mutation_of_a_fixture_is_a_bug(case, edits, scheme):
    """A fixture with any of its read fields replaced never ends as `bug`."""
    parents_last = dict(sorted(edits.items(), key=lambda item: -item[0].count(".")))
    found = fate_of(edited(case, parents_last), scheme)
    if not edits and (scheme == BEARER) != is_b(case):
        assert isinstance(found, Failure)
        assert found.kind == "inconsistent"
