"""What Pleenk's deliveries mean: every fixture in literal words, criteria, batches, bad elements."""

import hashlib
import itertools
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumers.event import Statement, Subject
from consumers.failures import Failure, failure_of
from consumers.normalizers import pleenk
from gateway.delivery import Provenance

FIXTURES = Path(__file__).parent / "fixtures" / "pleenk"
CASES = sorted(path.parent.name for path in FIXTURES.glob("*/body.raw"))
PROVENANCE = Provenance(
    endpoint="pleenk",
    provider="pleenk",
    received_at=1_700_000_000_000,
    delivery_id="delivery",
    authenticity="signed",
    scheme="pleenk-ecdsa-p521-sha512",
    key_id="default",
    environment="sandbox",
)


def body_of(case):
    return (FIXTURES / case / "body.raw").read_bytes()


def normalized(body):
    return pleenk.normalize(body, PROVENANCE)


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def delivery(*elements):
    """A delivery of elements: JSON values, or their texts as they are to stand there."""
    texts = [element if isinstance(element, str) else compact(element) for element in elements]
    return ('{"events":[' + ",".join(texts) + "]}").encode()


def event(kind, **data):
    return {"eventType": kind, "data": {"@type": f"{kind}_EVENT", **data}}


def approval(request="age_over_18", user="someone", **more):
    return event("APPROVE", userRef=user, request=request, **more)


def payment(number, status="CONFIRMED", **more):
    return event("PAYMENT", paymentId=f"pay-{number}", status=status, **more)


def user(ref, status="LINKED"):
    return event("USER", ref=ref, status=status)


def stated(*elements):
    (statement,) = normalized(delivery(*elements))
    assert isinstance(statement, Statement), statement
    return statement


def failed(element):
    """The kind and path of the failure that a delivery of this one element becomes."""
    (failure,) = normalized(delivery(element))
    assert isinstance(failure, Failure)
    return failure.kind, failure.path


def raised(body):
    with pytest.raises(Exception) as caught:
        normalized(body)
    return failure_of(caught.value).kind


# What each fixture means. Only what a Statement does not say by default is written down.


def person(number):
    return Subject("platform_user", f"d0000000-0000-4000-8000-{number:012d}-e2e")


def seller(number):
    return Subject("platform_user", f"d0000000-0000-4000-8000-{number:012d}")


def approved(number, outcome, **said):
    return {
        "native_type": "APPROVE",
        "category": "age_check",
        "status": "completed",
        "outcome": outcome,
        "is_final": True,
        "subject": person(number),
        "subject_type": "person",
        **said,
    }


def paid(payment_id, **said):
    return {
        "native_type": "PAYMENT",
        "native_status": "CONFIRMED",
        "natural_key": (payment_id, "CONFIRMED"),
        "category": "payment",
        "status": "completed",
        "outcome": "pass",
        "is_final": True,
        "process_ref": payment_id,
        "resource_type": "payment",
        "resource_ref": payment_id,
        **said,
    }


def linked(number, **said):
    return {
        "native_type": "USER",
        "native_status": "LINKED",
        "natural_key": (seller(number).id, "LINKED"),
        "category": "annotation",
        "status": "not_applicable",
        "subject": seller(number),
        **said,
    }


OVER_18 = {"age_min": 18, "age_threshold": 18, "age_method": "unspecified"}
NO_AGE = {"category": "identity_verification"}

MEANINGS = {
    "approve": [approved(101, "pass", **OVER_18)],
    "approve-declined": [
        approved(
            102,
            "fail",
            age_max=18,
            age_threshold=18,
            age_method="unspecified",
            reasons=(("age.below_threshold", "age_over_18"),),
        )
    ],
    "approve-several-criteria": [approved(103, "fail", **OVER_18, reasons=(("other", ""),))],
    "approve-several-criteria-all-true": [approved(104, "pass", **OVER_18)],
    "approve-several-ages": [
        approved(
            105,
            "fail",
            age_min=18,
            age_max=21,
            age_threshold=21,
            age_method="unspecified",
            reasons=(("age.below_threshold", "age_over_21"),),
        )
    ],
    "approve-estimated-age": [
        approved(
            106,
            "pass",
            age_min=18,
            age_threshold=18,
            age_method="estimation",
            methods=("age_estimation",),
        )
    ],
    "approve-gender-only": [approved(107, "pass", **NO_AGE)],
    "approve-country-only": [approved(108, "fail", **NO_AGE, reasons=(("other", ""),))],
    "approve-missing-criterion": [approved(109, "inconclusive", **OVER_18)],
    "approve-no-result": [
        approved(110, "inconclusive", age_threshold=18, age_method="unspecified")
    ],
    "approve-unlisted-criterion": [
        approved(111, "inconclusive", **OVER_18, unmapped=("data.request",))
    ],
    "payment": [paid("abcde")],
    "payment-several-beneficiaries": [paid("pay-0003")],
    "payment-unlisted-status": [
        paid(
            "pay-0004",
            native_status="REFUSED",
            natural_key=("pay-0004", "REFUSED"),
            status="unknown",
            outcome="none",
            is_final=False,
            unmapped=("data.status",),
        )
    ],
    "user": [linked(121)],
    "user-unlisted-status": [
        linked(
            123,
            native_status="UNLINKED",
            natural_key=(seller(123).id, "UNLINKED"),
            status="unknown",
            unmapped=("data.status",),
        )
    ],
    "batch-user-payment": [linked(122), paid("abcdf", item_index=1)],
    "batch-three-kinds": [
        paid("pay-0005"),
        approved(
            112,
            "pass",
            age_min=16,
            age_threshold=16,
            age_method="unspecified",
            item_index=1,
        ),
        linked(124, item_index=2),
    ],
}


def element_bytes(case, index):
    """The bytes of one element, found in the body by the standard library's reader."""
    text = body_of(case).decode()
    position = text.index("[") + 1
    found = []
    while True:
        position += len(text[position:]) - len(text[position:].lstrip(" \n,"))
        if text[position] == "]":
            return found[index].encode()
        _, end = json.JSONDecoder().raw_decode(text, position)
        found.append(text[position:end])
        position = end


@pytest.mark.parametrize("case", CASES)
def test_a_fixture_means_exactly_what_is_written_down_for_it(case):
    """Every field of every statement is the literal expectation, or the default, in order."""
    expected = [
        Statement(
            **{"natural_key": (hashlib.sha256(element_bytes(case, index)).hexdigest(),), **said}
        )
        for index, said in enumerate(MEANINGS[case])
    ]
    found = normalized(body_of(case))
    assert [msgspec.structs.asdict(item) for item in found] == [
        msgspec.structs.asdict(item) for item in expected
    ]


def test_every_expectation_has_its_fixture():
    """The list of meanings and the fixture folders name the same cases."""
    assert sorted(MEANINGS) == CASES


def test_the_native_types_are_the_three_documented():
    """The native types are the metric's labels: exactly these."""
    assert {"APPROVE", "PAYMENT", "USER"} == pleenk.NATIVE_TYPES
    assert pleenk.SCHEMES == ()
    assert pleenk.KEYED_BY == "process"


# Approvals: the outcome.

TRUE, FALSE, NULL, TEXT, ONE, MISSING = True, False, None, "true", 1, object()
ANSWERS = [TRUE, FALSE, NULL, TEXT, ONE, MISSING]
CRITERIA = ["age_over_18", "estimated_age_over_21", "gender=F", "resident_country=FRA"]


@pytest.mark.parametrize(
    "criteria", [c for n in (1, 2, 3) for c in itertools.combinations(CRITERIA, n)]
)
def test_all_true_passes_any_false_fails_anything_else_is_inconclusive(criteria):
    """The outcome over every combination of answers; always completed and final."""
    for answers in itertools.product(ANSWERS, repeat=len(criteria)):
        result = {
            criterion: answer
            for criterion, answer in zip(criteria, answers, strict=True)
            if answer is not MISSING
        }
        statement = stated(approval(",".join(criteria), result=result))
        if any(answer is False for answer in answers):
            expected = "fail"
        elif all(answer is True for answer in answers):
            expected = "pass"
        else:
            expected = "inconclusive"
        assert statement.outcome == expected, (criteria, answers)
        assert (statement.status, statement.is_final) == ("completed", True)
        has_age = any("age_over" in criterion for criterion in criteria)
        assert statement.category == ("age_check" if has_age else "identity_verification")
        is_odd = any(answer in (NULL, TEXT) or answer is ONE for answer in answers)
        assert statement.unmapped == (("data.result",) if is_odd else ())


@pytest.mark.parametrize("result", [None, {}, [], [True], True, "true", 1, 1.5, "age_over_18"])
def test_a_result_that_is_no_map_decides_nothing(result):
    """A result of another type is inconclusive, and counted unless it is empty."""
    statement = stated(approval(result=result))
    assert (statement.outcome, statement.age_min, statement.age_max) == ("inconclusive", None, None)
    assert (statement.age_threshold, statement.age_method) == (18, "unspecified")
    assert statement.reasons == ()
    assert statement.unmapped == (() if result in (None, {}) else ("data.result",))


def test_a_missing_result_decides_nothing():
    """An approval without a result is inconclusive."""
    assert stated(approval()).outcome == "inconclusive"


@pytest.mark.parametrize("request_text", ["", ",", ",,"])
def test_nothing_asked_is_nothing_passed(request_text):
    """Of no criteria all are true, and still nothing passes."""
    for result in ({}, {"age_over_18": True}, {"": True}):
        statement = stated(approval(request_text, result=result))
        assert (statement.outcome, statement.category) == ("inconclusive", "identity_verification")
    assert stated(approval(request_text, result={"": False})).outcome == "fail"


@pytest.mark.parametrize(
    ("request_text", "result", "outcome"),
    [
        ("gender=F", {"gender=F": True}, "pass"),
        ("gender=F", {"gender": True}, "pass"),
        ("gender=F", {"gender": True, "gender=F": True}, "pass"),
        ("gender=F", {"gender": True, "gender=F": False}, "fail"),
        ("gender=F", {"gender": False}, "fail"),
        ("gender=F", {"gender": "F"}, "inconclusive"),
        ("gender=F", {"gender": {"F": True}}, "inconclusive"),
        ("gender=F", {"gender": True, "gender=F": "F"}, "inconclusive"),
        ("gender=F", {"gender=M": True}, "inconclusive"),
        ("gender=F", {"gender=F": True, "gender=M": True}, "inconclusive"),
        ("gender=F", {"GENDER": True}, "inconclusive"),
        ("resident_country=FRA", {"resident_country": True}, "pass"),
        ("resident_country=FRA", {"resident_country": "FRA"}, "inconclusive"),
        # a bare name that two asked criteria have answers neither
        ("resident_country=FRA,resident_country=BEL", {"resident_country": True}, "inconclusive"),
        ("resident_country=FRA,resident_country=BEL", {"resident_country": False}, "fail"),
        (
            "resident_country=FRA,resident_country=BEL",
            {"resident_country=FRA": True, "resident_country=BEL": True},
            "pass",
        ),
        ("age_over_18", {"age": True}, "inconclusive"),
        ("age_over_18", {"age_over": True}, "inconclusive"),
        ("age_over_18,age_over_18", {"age_over_18": True}, "pass"),
        ("age_over_18,", {"age_over_18": True}, "pass"),
    ],
)
def test_how_a_criterion_is_keyed_is_read_every_safe_way(request_text, result, outcome):
    """By its whole text or its bare name; only a literal boolean answers."""
    assert stated(approval(request_text, result=result)).outcome == outcome


def test_too_many_elements_are_a_dead_letter_before_any_is_read():
    """A delivery of more than a thousand would keep the others waiting."""
    assert len(normalized(delivery(*[1] * 1000))) == 1000
    with pytest.raises(Failure) as caught:
        normalized(delivery(*[1] * 1001))
    assert (caught.value.kind, caught.value.path) == ("out_of_range", "$.events")


@pytest.mark.parametrize("extra", [True, None, "x", 1, {}, []])
def test_a_result_that_says_more_than_was_asked_is_no_pass(extra):
    """An answer to nothing asked contradicts the contract: inconclusive, and counted."""
    statement = stated(approval(result={"age_over_18": True, "age_over_21": extra}))
    assert (statement.outcome, statement.age_min) == ("inconclusive", 18)
    assert (statement.reasons, statement.unmapped) == ((), ("data.result",))


def test_a_false_to_something_not_asked_is_a_fail_without_an_age():
    """Any false fails, but only an asked age says something about an age."""
    statement = stated(approval(result={"age_over_18": True, "age_over_21": False}))
    assert (statement.outcome, statement.reasons) == ("fail", (("unmapped", ""),))
    assert (statement.age_min, statement.age_max, statement.age_threshold) == (18, None, 18)


UNLISTED = [
    "age_over_",
    "age_over_151",
    "age_over_1000",
    "age_over_018",
    "age_over_-18",
    "age_over_18.5",
    "age_over_١٨",
    "age_over_18 ",
    " age_over_18",
    "AGE_OVER_18",
    "age_under_18",
    "not_age_over_18",
    "inferred_age_over_18",
    "gender",
    "gender=",
    "gender=f",
    "gender=Female",
    "resident_country=",
    "resident_country=fra",
    "resident_country=FR",
    "resident_country",
    "nationality=FRA",
]


@pytest.mark.parametrize("criterion", UNLISTED)
def test_a_criterion_on_no_list_never_passes(criterion):
    """What is not understood is never guessed: counted, no pass, no age, and never copied."""
    for answer, outcome in ((True, "inconclusive"), (None, "inconclusive"), (False, "fail")):
        statement = stated(approval(criterion, result={criterion: answer}))
        assert statement.outcome == outcome
        assert statement.category == "identity_verification"
        assert "data.request" in statement.unmapped
        assert statement.age_min is statement.age_max is statement.age_threshold is None
        assert statement.age_method is None
        assert statement.reasons == ((("unmapped", ""),) if answer is False else ())
    beside = stated(
        approval(f"age_over_18,{criterion}", result={"age_over_18": True, criterion: 1})
    )
    assert (beside.outcome, beside.age_min) == ("inconclusive", 18)


# Approvals: the age.


@pytest.mark.parametrize(
    ("result", "age_min", "age_max", "threshold", "method"),
    [
        ({"age_over_18": True}, 18, None, 18, "unspecified"),
        ({"age_over_18": False}, None, 18, 18, "unspecified"),
        ({"age_over_18": None}, None, None, 18, "unspecified"),
        ({"age_over_0": True}, 0, None, 0, "unspecified"),
        ({"age_over_0": False}, None, 0, 0, "unspecified"),
        ({"age_over_150": True}, 150, None, 150, "unspecified"),
        ({"estimated_age_over_25": True}, 25, None, 25, "estimation"),
        ({"estimated_age_over_25": False}, None, 25, 25, "estimation"),
        ({"estimated_age_over_25": "no"}, None, None, 25, "estimation"),
        ({"age_over_18": True, "age_over_21": True}, 21, None, 21, "unspecified"),
        ({"age_over_21": False, "age_over_18": True}, 18, 21, 21, "unspecified"),
        ({"age_over_21": False, "age_over_18": False}, None, 18, 21, "unspecified"),
        # a contradiction shows nothing
        ({"age_over_21": True, "age_over_18": False}, None, None, 21, "unspecified"),
        ({"age_over_18": True, "estimated_age_over_18": False}, None, None, 18, "unspecified"),
        ({"age_over_18": True, "estimated_age_over_25": False}, 18, 25, 25, "unspecified"),
        (
            {"estimated_age_over_18": True, "estimated_age_over_25": True},
            25,
            None,
            25,
            "estimation",
        ),
    ],
)
def test_ages_are_half_open_intervals(result, age_min, age_max, threshold, method):
    """Each age speaks by its own answer; of several the highest is the limit that decides."""
    statement = stated(approval(",".join(result), result=result))
    assert (statement.age_min, statement.age_max) == (age_min, age_max)
    assert (statement.age_threshold, statement.age_method) == (threshold, method)
    answered = any(name[0] == "e" and type(value) is bool for name, value in result.items())
    assert statement.methods == (("age_estimation",) if answered else ())


def test_each_age_that_is_not_reached_is_a_reason():
    """The reasons name the ages that are not reached, and no other criterion."""
    result = {"gender=X": False, "age_over_18": True, "age_over_21": False, "age_over_25": False}
    statement = stated(approval(",".join(result), result=result))
    assert statement.reasons == (
        ("age.below_threshold", "age_over_21"),
        ("age.below_threshold", "age_over_25"),
        ("other", ""),
    )


@pytest.mark.parametrize("answer", [True, False, None, "F", MISSING])
@pytest.mark.parametrize("key", ["gender=F", "gender", "resident_country=FRA", "resident_country"])
def test_what_a_person_is_never_leaves(key, answer):
    """Gender and country of residence, asked or answered, stand nowhere in a statement."""
    result = {} if answer is MISSING else {"age_over_18": True, key: answer}
    statement = stated(approval("age_over_18,gender=F,resident_country=FRA", result=result))
    statement.natural_key = ()
    leaving = msgspec.json.encode(statement).decode()
    for word in ("gender", '"F"', "=F", "resident_country", "FRA"):
        assert word not in leaving


# Subjects, keys, references.


@pytest.mark.parametrize("ref", ["407eebe2-a380-44d8-9397-6663849afeb4-e2e", 'Ana "é" \u0000', "1"])
def test_a_reference_to_a_person_is_any_text(ref):
    """A userRef is documented as a UUID and published as none."""
    assert stated(approval(user=ref)).subject == Subject("platform_user", ref)
    assert stated(user(ref)).subject == Subject("platform_user", ref)


def test_a_reference_has_at_most_a_thousand_characters():
    """A longer one is out of range."""
    assert stated(approval(user="é" * 1000)).subject is not None
    assert failed(approval(user="é" * 1001)) == ("out_of_range", "$.events[0].data.userRef")
    assert failed(user("é" * 1001)) == ("out_of_range", "$.events[0].data.ref")


def test_an_empty_reference_is_nobody():
    """An approval of nobody is kept; a seller without a reference would share a key with others."""
    assert stated(approval(user="")).subject is None
    assert failed(user("")) == ("out_of_range", "$.events[0].data.ref")


@pytest.mark.parametrize("text", ["", "two words", "é", "x" * 129, "a\n"])
def test_a_payment_id_is_an_opaque_constant(text):
    """Anything else is out of range."""
    element = event("PAYMENT", paymentId=text, status="CONFIRMED")
    assert failed(element) == ("out_of_range", "$.events[0].data.paymentId")


@pytest.mark.parametrize("status", ["PENDING", "confirmed", "x" * 64])
def test_an_unlisted_status_stays_visible(status):
    """An unknown status is unknown, keeps its constant and names its field."""
    for statement in (stated(payment(1, status)), stated(user("u", status))):
        assert (statement.status, statement.outcome, statement.is_final) == (
            "unknown",
            "none",
            False,
        )
        assert (statement.native_status, statement.unmapped) == (status, ("data.status",))


@pytest.mark.parametrize("status", ["Ana paid", "x" * 65, "CONFIRMED\n", ""])
def test_a_status_that_is_no_constant_is_not_copied(status):
    """Text that a person could have typed leaves only the name of its field."""
    for statement in (stated(payment(1, status)), stated(user("u", status))):
        assert (statement.native_status, statement.unmapped) == (None, ("data.status",))


@pytest.mark.parametrize(
    "beneficiaries",
    [
        [],
        [{"ref": "b", "amount": 100.00}],
        [{"ref": "b", "amount": 100}],
        [{"ref": "b", "amount": 1}, {"ref": "c", "amount": 2}],
        [{"ref": "b", "amount": "100.00", "currency": "EUR"}],
        None,
        "b",
    ],
)
def test_no_amount_is_given_where_no_currency_is(beneficiaries):
    """Pleenk names no currency: the decimals are unknown, whatever the beneficiaries say."""
    statement = stated(payment(1, beneficiaries=beneficiaries))
    assert statement.payment_amount_minor is statement.payment_currency is None
    assert (statement.outcome, statement.category) == ("pass", "payment")


def test_natural_keys_tell_statements_apart():
    """Payments by id and status, sellers by reference and status, approvals by their bytes."""
    keys = [
        (item.native_type, item.natural_key)
        for item in normalized(
            delivery(
                payment(1),
                payment(2),
                payment(1, "OTHER"),
                user("pay-1"),
                user("u", "OTHER"),
                approval(result={"age_over_18": True}),
                approval(result={"age_over_18": False}),
                approval(user="another", result={"age_over_18": True}),
                approval("age_over_21", result={"age_over_18": True}),
            )
        )
    ]
    assert len(set(keys)) == len(keys)
    again = payment(1, metadata="other", transactionRef="other", beneficiaries=[])
    assert stated(again).natural_key == keys[0][1]


def test_two_identical_elements_say_the_same_thing():
    """Position is no part of a key: the same bytes twice, here or in a retry, are one statement."""
    element = approval(result={"age_over_18": True})
    first, other, second = normalized(delivery(element, payment(1), element))
    assert first.natural_key == second.natural_key != other.natural_key
    assert (first.item_index, second.item_index) == (0, 2)
    assert stated(element).natural_key == first.natural_key


# Batches.

GOOD = [payment(1), approval(result={"age_over_18": True}), user("u")]
BAD = [
    ({"eventType": "REFUND", "data": {}}, "unknown_type", ".eventType"),
    ({"eventType": "approve", "data": {}}, "unknown_type", ".eventType"),
    ({"eventType": None, "data": {}}, "unknown_type", ".eventType"),
    ({"eventType": ["USER"], "data": {}}, "unknown_type", ".eventType"),
    ({"data": {"@type": "USER_EVENT", "ref": "u", "status": "LINKED"}}, "unknown_type", ".eventType"),
    ({}, "unknown_type", ".eventType"),
    ({"eventType": "USER"}, "schema_mismatch", ""),
    ({"eventType": "USER", "data": None}, "schema_mismatch", ".data"),
    ({"eventType": "USER", "data": {}}, "schema_mismatch", ".data"),
    (event("USER", ref="u"), "schema_mismatch", ".data"),
    (event("USER", ref=5, status="LINKED"), "schema_mismatch", ".data.ref"),
    (event("USER", ref="u", status=None), "schema_mismatch", ".data.status"),
    (event("PAYMENT", status="CONFIRMED"), "schema_mismatch", ".data"),
    (event("PAYMENT", paymentId=1, status="CONFIRMED"), "schema_mismatch", ".data.paymentId"),
    (event("PAYMENT", paymentId="a b", status="CONFIRMED"), "out_of_range", ".data.paymentId"),
    (event("APPROVE", request="age_over_18"), "schema_mismatch", ".data"),
    (event("APPROVE", userRef="u"), "schema_mismatch", ".data"),
    (event("APPROVE", userRef="u", request=["age_over_18"]), "schema_mismatch", ".data.request"),
    (event("APPROVE", userRef=None, request="age_over_18"), "schema_mismatch", ".data.userRef"),
    ({**user("u"), "eventType": "PAYMENT"}, "inconsistent", ".data.@type"),
    (None, "schema_mismatch", ""),
    (5, "schema_mismatch", ""),
    ("[]", "schema_mismatch", ""),
    ('{"eventType":"APPROVE","data":{"userRef":"u","request":"","result":1e999}}',
     "schema_mismatch", ".data.result"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "kind", "path"), BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("position", range(len(GOOD) + 1))
def test_one_bad_element_costs_no_other(bad, kind, path, position):
    """A bad element is a failure in its place; the others are stated, in order, with their index."""
    found = normalized(delivery(*GOOD[:position], bad, *GOOD[position:]))
    failure = found[position]
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.path) == (kind, f"$.events[{position}]{path}")
    expected = [stated(element) for element in GOOD]
    expected = [*expected[:position], failure, *expected[position:]]
    for index, item in enumerate(expected):
        if item is not failure:
            item.item_index = index
    assert found == expected


def test_a_delivery_may_be_bad_throughout():
    """All bad: as many failures, each with its own place."""
    found = normalized(delivery(*(bad for bad, _, _ in BAD)))
    assert [(item.kind, item.path) for item in found] == [
        (kind, f"$.events[{index}]{path}") for index, (_, kind, path) in enumerate(BAD)
    ]


def test_an_empty_delivery_says_nothing():
    """No events, no statement: the worker sets such a record aside."""
    assert list(normalized(delivery())) == []


@pytest.mark.parametrize("kind", ["APPROVE", "PAYMENT", "USER"])
@pytest.mark.parametrize(
    "tag",
    ["APPROVE_EVENT", "PAYMENT_EVENT", "USER_EVENT", "approve_event", "", 5, [], {}, True, MISSING, None],
)  # fmt: skip
def test_the_two_names_of_a_kind_agree(kind, tag):
    """That eventType and @type disagree is inconsistent; a missing @type contradicts nothing."""
    element = {
        "eventType": kind,
        "data": {
            "@type": tag, "ref": "u", "paymentId": "p", "userRef": "u", "request": "", "status": "",
        },
    }  # fmt: skip
    if tag is MISSING:
        del element["data"]["@type"]
    if tag in (f"{kind}_EVENT", MISSING, None):
        assert stated(element).native_type == kind
    else:
        assert failed(element) == ("inconsistent", "$.events[0].data.@type")


def test_a_broken_string_in_one_element_costs_only_that_element():
    """Bytes that are no UTF-8 make their element unreadable, not the delivery."""
    body = delivery(user("u"), user("odd"), payment(1)).replace(b"odd", b"\xff")
    good, bad, last = normalized(body)
    assert (bad.kind, bad.path) == ("invalid_json", "$.events[1]")
    assert (good.item_index, last.item_index) == (0, 2)


JUNK = [
    (b"", "invalid_json"),
    (b"{", "invalid_json"),
    (b'{"events":[{}', "invalid_json"),
    (b'{"events":[{},]}', "invalid_json"),
    (b'{"events":[{"a":NaN}]}', "invalid_json"),
    (b'{"events":[]} {}', "invalid_json"),
    (b'\xef\xbb\xbf{"events":[]}', "invalid_json"),
    (b'{"events":["\\ud800"]}', "invalid_json"),
    (b'{"events":[' + b"[" * 100_000, "invalid_json"),
    (b'{"events":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}", "invalid_json"),
    (b"[]", "schema_mismatch"),
    (b"null", "schema_mismatch"),
    (b"{}", "schema_mismatch"),
    (b'{"events":null}', "schema_mismatch"),
    (b'{"events":{}}', "schema_mismatch"),
    (b'{"event":[]}', "schema_mismatch"),
]


@pytest.mark.parametrize(("body", "kind"), JUNK, ids=range(len(JUNK)))
def test_a_delivery_that_cannot_be_read_is_set_aside_whole(body, kind):
    """Broken JSON, or no list of events, is the whole record's failure."""
    assert raised(body) == kind


@pytest.mark.parametrize("case", CASES)
def test_a_fixture_cut_off_anywhere_is_no_event(case):
    """A body that lost its end is invalid JSON, wherever it was cut."""
    body = body_of(case)
    for length in range(len(body)):
        assert raised(body[:length]) == "invalid_json"


# What may leave.


def strings(node, path=()):
    if isinstance(node, str):
        yield path
    elif isinstance(node, (dict, list)):
        for name, inner in node.items() if isinstance(node, dict) else enumerate(node):
            yield from strings(inner, (*path, name))


def replaced(node, path, value):
    if not path:
        return value
    copy = node.copy()
    copy[path[0]] = replaced(node[path[0]], path[1:], value)
    return copy


def what_leaves(items):
    """Everything a mapping gives away, in one text: subjects and natural keys are hashed."""
    texts = []
    for item in items:
        if isinstance(item, Failure):
            texts.append(f"{item} {item.kind} {item.path} {item.error_class}")
        else:
            item.subject, item.natural_key = None, ()
            texts.append(msgspec.json.encode(item).decode())
    return "\n".join(texts)


@pytest.mark.parametrize("marker", ["MARKER", "Marker Née <m@example.com>"])
@pytest.mark.parametrize("case", CASES)
def test_only_listed_fields_leave_a_body(case, marker):
    """A marker in one text after the other leaves only as a status or a payment's id."""
    document = json.loads(body_of(case))
    for path in strings(document):
        leaving = what_leaves(normalized(json.dumps(replaced(document, path, marker)).encode()))
        is_listed = path[-1] in {"status", "paymentId"} and marker == "MARKER"
        assert ("arker" in leaving.replace("MARKER", "Marker")) == is_listed, path


@pytest.mark.parametrize("case", CASES)
def test_bodies_carry_far_more_than_is_read(case):
    """Unread parts may be deep, huge or of another shape: they are skipped."""
    extra = {"deep": [[[[]]]], "number": 10**200, "": None, "currency": "EUR", "time": "now"}
    document = json.loads(body_of(case))
    sent = {**extra, "events": [{**extra, **item} for item in document["events"]]}
    for item in sent["events"]:
        item["data"] = {**extra, **item["data"]}
    found, plain = normalized(json.dumps(sent).encode()), normalized(body_of(case))
    assert what_leaves(found) == what_leaves(plain)


# Properties.

words = st.sampled_from([*CRITERIA, *UNLISTED, "age_over_21", "gender", "resident_country", ""])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | words
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text() | words, inner), max_leaves=8
)
requests = st.lists(words, max_size=4).map(",".join)
results = st.dictionaries(words, st.sampled_from([True, True, True, False, None, 1]) | json_values)


def outcome_of(body):
    """What became of a body, as the worker sees it; never a bug."""
    try:
        found = normalized(body)
    except Exception as error:  # noqa: BLE001 - as the worker does, around one record
        found = [failure_of(error)]
    for item in found:
        if isinstance(item, Failure):
            assert item.kind != "bug", (item.error_class, body)
        else:
            "".join(item.natural_key).encode()
    return found


@given(request=requests | json_values, result=results | json_values)
@example(request="age_over_18", result={"age_over_18": 1})
@example(request="", result={})
def test_a_pass_means_that_every_asked_criterion_is_literally_true(request, result):
    """Whatever stands in request and result, a pass is only ever a yes to all that was asked."""
    (item,) = outcome_of(delivery(approval(request, result=result)))
    if isinstance(item, Failure):
        assert item.kind in {"schema_mismatch", "invalid_json"}
        return
    assert (item.status, item.is_final) == ("completed", True)
    if item.outcome == "pass":
        asked = {word for word in request.split(",") if word}
        assert asked
        for word in asked:
            keys = {word, word.partition("=")[0]} & result.keys()
            assert keys
            assert all(result[key] is True for key in keys)
        assert all(value is True for value in result.values())
        assert item.reasons == item.unmapped == ()
        ages = [int(word.rpartition("_")[2]) for word in asked if "age_over" in word]
        assert item.age_min == item.age_threshold == max(ages, default=None)
    if item.age_min is not None and item.age_max is not None:
        assert item.age_min < item.age_max
    if isinstance(result, dict) and any(value is False for value in result.values()):
        assert item.outcome == "fail"


@given(body=st.binary())
def test_no_bytes_are_a_bug(body):
    """Arbitrary bytes are understood or set aside with a kind other than `bug`."""
    outcome_of(body)


@given(elements=st.lists(json_values))
def test_no_elements_are_a_bug(elements):
    """Arbitrary elements each have one fate, in their order."""
    assert len(outcome_of(delivery(*map(json.dumps, elements)))) == len(elements)


@given(data=st.data())
def test_no_mutation_of_a_fixture_is_a_bug(data):
    """A fixture with any of its texts replaced by anything never ends as `bug`."""
    document = json.loads(body_of(data.draw(st.sampled_from(CASES))))
    for _ in range(data.draw(st.integers(1, 3))):
        paths = list(strings(document))
        if paths:
            path = data.draw(st.sampled_from(paths))
            path = path[: data.draw(st.integers(1, len(path)))]
            document = replaced(document, path, data.draw(json_values))
    outcome_of(json.dumps(document).encode())
