"""What fails names what it was, and a mapping lists every word that it can become a label by."""

import ast
import copy
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from consumers.codec import encoder, single_object_prefix
from consumers.fate import Fates
from consumers.normalizers import EVERY, NORMALIZERS
from consumers.normalizers.native import Glossary
from consumers.records import Record
from gateway.send import Fixture, fixtures
from tests.conftest import KEYS
from tests.mapping_table import TABLE
from tests.test_fixtures import expected, raw_record

WRONG = ([[]], {"of": ["another", "type"]}, "x" * 2_000)

# Where a body says what it is: broken there, nobody can tell.
SAID_AT = {
    "onfido": {("payload", "action")},
    "pawapass": {("type",)},
    "pleenk": {("events", number, "eventType") for number in range(10)},
    "plexy": {("type",), ("name",)},
    "treezor": {("webhook",), ("webhook", "webhook"), ("Message", "webhook", "webhook"), ("Type",)},
    "veriff": {("eventType",), ("type",), ("data", "verification", "decisionScore")},
}

WITH_EVENTS = [found for found in fixtures() if expected(found)]
ENCODE = encoder(single_object_prefix())
FATES = {name: Fates(name, one, ENCODE, KEYS) for name, one in NORMALIZERS.items()}
every_fixture = pytest.mark.parametrize(
    "fixture", WITH_EVENTS, ids=lambda found: f"{found.provider}-{found.case}"
)


def document_of(record) -> dict:
    """A raw body with the notification in it unfolded, where there is one."""
    document = json.loads(record.value)
    if document.get("Type") == "Notification":
        document["Message"] = json.loads(document["Message"])
    return document


def body_of(document: dict) -> bytes:
    if document.get("Type") == "Notification" and not isinstance(document["Message"], str):
        document = {**document, "Message": json.dumps(document["Message"])}
    return json.dumps(document).encode()


def places(node: object, path: tuple = ()) -> Iterator[tuple]:
    """Every place in a document but the whole of it."""
    if path:
        yield path
    inner = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for name, value in inner:
        yield from places(value, (*path, name))


def broken(document: dict, path: tuple, value: object) -> bytes:
    """The document with another value at one place."""
    changed = copy.deepcopy(document)
    node = changed
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return body_of(changed)


def type_at(fixture: Fixture, path: tuple) -> str:
    """The native type of what stands at a place; of several items it is the item's."""
    events = expected(fixture)
    of_item = [
        event for event in events if path[:1] == ("events",) and event["item_index"] == path[1]
    ]
    return (of_item or events)[0]["native_type"]


def said_at(provider: str) -> set:
    """Where a provider's bodies say what they are."""
    assert provider in SAID_AT, f"add to SAID_AT where a body of {provider} says what it is"
    return SAID_AT[provider]


@every_fixture
def test_whatever_is_broken_the_failure_names_the_type(fixture):
    """One value of a wrong type or size anywhere but in the type itself: the failure names it."""
    record = raw_record(fixture)
    document, failures = document_of(record), 0
    for path in places(document):
        if any(said[: len(path)] == path for said in said_at(fixture.provider)):
            continue
        for value in WRONG:
            body = broken(document, path, value)
            fate = FATES[fixture.provider].decide(msgspec.structs.replace(record, value=body))
            if fate.failure is not None:
                assert fate.failure.native_type == type_at(fixture, path), (path, fate.failure)
                assert fate.failed, (path, fate.failure)
                failures += 1
    assert failures > 2, "enough of it is read"


@every_fixture
def test_a_bug_of_ours_names_the_type(fixture, monkeypatch):
    """An exception nobody foresaw is told by type too: it is what a broken mapping raises."""

    def broken_mapping(**_said):
        raise KeyError("a value that must not be seen")

    monkeypatch.setattr(NORMALIZERS[fixture.provider], "Statement", broken_mapping)
    fate = FATES[fixture.provider].decide(raw_record(fixture))
    assert fate.failure.kind == "bug"
    assert fate.failure.path.endswith("in broken_mapping")
    assert fate.native_type == type_at(fixture, ("events", 0))
    assert fate.failed


@every_fixture
def test_a_type_nobody_knows_is_not_named(fixture):
    """Where the type cannot be read the failure has none: a sender's word is no label."""
    record = raw_record(fixture)
    document = document_of(record)
    for path in said_at(fixture.provider) & set(places(document)):
        body = broken(document, path, "of-a-new-kind")
        fate = FATES[fixture.provider].decide(msgspec.structs.replace(record, value=body))
        if fate.failure is not None and fate.failure.kind == "unknown_type":
            assert fate.failure.native_type is None
            assert not fate.failed


def test_every_provider_says_how_long_it_retries():
    """The window of the duplicates, and how long their topic remembers, follow from it."""
    for name, normalizer in NORMALIZERS.items():
        assert 1 <= normalizer.RETRIED_FOR_DAYS <= 30, name


# -- the words that become labels --

FIELD_AT = {"note": 0, "read": 2, "verdict": 2, "reasons": 2, "country": 1, "currency": 1}
"""Which argument of each method of a Glossary is the field's name."""
every_mapping = pytest.mark.parametrize("provider", EVERY)


class Words:
    """What a mapping's source can say: the fields it hands to a Glossary, and why it ignores."""

    def __init__(self, module) -> None:
        self.module = module
        tree = ast.parse(Path(module.__file__).read_text())
        self.functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)]
        self.fields: set[str] = set()
        self.reasons: set[str] = set()
        for function in self.functions:
            for call in ast.walk(function):
                if not isinstance(call, ast.Call):
                    continue
                match call.func:
                    case ast.Attribute(value=ast.Name(id="glossary"), attr=method):
                        self.fields |= self.texts(call.args[FIELD_AT[method]], function)
                    case ast.Name(id="Ignored"):
                        (reason,) = [one.value for one in call.keywords if one.arg == "reason"]
                        self.reasons |= self.texts(reason, function)

    def texts(self, node: ast.expr, function: ast.FunctionDef) -> set[str]:
        """Every text that an expression within a function can be."""
        match node:
            case ast.Constant(value=str() as text):
                return {text}
            case ast.IfExp():
                return self.texts(node.body, function) | self.texts(node.orelse, function)
            case ast.Subscript(value=ast.Name(id=name)):
                return set(getattr(self.module, name).values())
            case ast.FormattedValue():
                return self.texts(node.value, function)
            case ast.JoinedStr():
                found = {""}
                for part in node.values:
                    found = {one + more for one in found for more in self.texts(part, function)}
                return found
            case ast.Name(id=name):
                return self.named(name, function)
        raise AssertionError(f"write this so that a test can read it: {ast.unparse(node)}")

    def named(self, name: str, function: ast.FunctionDef) -> set[str]:
        """What a name stands for: what is assigned in the function, or what its callers give."""
        for one in ast.walk(function):
            if isinstance(one, ast.Assign) and getattr(one.targets[0], "id", "") == name:
                return self.texts(one.value, function)
        place = [argument.arg for argument in function.args.args].index(name)
        return {
            text
            for caller in self.functions
            for call in ast.walk(caller)
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == function.name
            for text in self.texts(call.args[place], caller)
        }


@every_mapping
def test_every_field_that_can_be_unmapped_is_listed(provider):
    """UNMAPPED_FIELDS is what the source hands to a Glossary: each is counted by its own name."""
    fields = Words(EVERY[provider]).fields
    listed = EVERY[provider].UNMAPPED_FIELDS
    assert not fields - listed, f"add {sorted(fields - listed)} to {provider}'s UNMAPPED_FIELDS"
    assert not listed - fields, f"{provider}'s UNMAPPED_FIELDS names {sorted(listed - fields)} for nothing"  # fmt: skip


@every_mapping
def test_every_reason_to_ignore_is_listed(provider):
    """IGNORED_REASONS is what the source gives to Ignored."""
    reasons = Words(EVERY[provider]).reasons
    listed = EVERY[provider].IGNORED_REASONS
    assert not reasons - listed, f"add {sorted(reasons - listed)} to {provider}'s IGNORED_REASONS"
    assert not listed - reasons, f"{provider}'s IGNORED_REASONS names {sorted(listed - reasons)} for nothing"  # fmt: skip


def test_every_method_of_a_glossary_that_takes_a_field_is_known_here():
    """A method that notes fields and is not listed above would hide them from these tests."""
    taking = {
        name
        for name, method in vars(Glossary).items()
        if not name.startswith("_") and "field" in getattr(method, "__annotations__", {})
    }
    assert taking == set(FIELD_AT)


BESIDE = {"object_payload.documents.documentType"}
"""Looked at only where another field is missing: not met by one change."""


def deliveries(provider: str) -> Iterator[Record]:
    """Every fixture and every row of the table, as raw records."""
    yield from (raw_record(one) for one in fixtures(provider))
    for row in TABLE:
        if row.provider == provider:
            yield Record(
                topic="raw", partition=0, offset=0, timestamp=row.received_at, key=None,
                value=row.body, headers=[*row.provenance.to_headers()],
            )  # fmt: skip


@pytest.mark.parametrize("provider", NORMALIZERS)
def test_every_listed_word_can_be_seen_and_no_other(provider):
    """A word of a new kind anywhere in any sample is counted by a listed field, and each is met."""
    fields: set[str] = set()
    reasons: set[str] = set()
    for record in deliveries(provider):
        document = document_of(record)
        strange = (
            broken(document, path, value)
            for path in places(document)
            for value in ("of-a-new-kind", 987)
        )
        for body in (record.value, *strange):
            fate = FATES[provider].decide(msgspec.structs.replace(record, value=body))
            for statement in fate.statements:
                fields.update(statement.unmapped)
            if fate.ignored is not None:
                reasons.add(fate.ignored.reason)
    normalizer = NORMALIZERS[provider]
    for listed, met in (
        (normalizer.UNMAPPED_FIELDS - BESIDE, fields - BESIDE),
        (normalizer.IGNORED_REASONS, reasons),
    ):
        never, unlisted = sorted(listed - met), sorted(met - listed)
        assert not never, f"add a fixture, or a row of mapping_table, that meets {never}"
        assert not unlisted, f"{provider} does not list {unlisted}"
