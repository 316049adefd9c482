"""Identity: what an event id and a pseudonym depend on, and what they do not."""

import hashlib
import hmac
import uuid
from base64 import urlsafe_b64decode

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from consumers.event import Statement, Subject, VerificationEvent
from consumers.identity import Keys, event_id, output_key, subject_ref

KEYS = Keys(event_key=b"e" * 32, subject_key=b"s" * 32, subject_key_id="k1")
OTHER = Keys(event_key=b"f" * 32, subject_key=b"t" * 32, subject_key_id="k2")
STATEMENT = Statement(native_type="decision", natural_key=("a", "b"))


def test_event_id_is_a_uuid_of_version_8():
    """Readers that parse a UUID find one, of the version for custom ids (RFC 9562)."""
    found = uuid.UUID(event_id(KEYS, "veriff", STATEMENT))
    assert (found.version, found.variant) == (8, uuid.RFC_4122)
    assert str(found) == event_id(KEYS, "veriff", STATEMENT)


@given(st.binary(min_size=1, max_size=200), st.lists(st.text(st.characters(codec="utf-8"))))
def test_event_id_is_the_documented_hash(key, natural_key):
    """The first 16 bytes of HMAC-SHA-256 over endpoint, type and natural key, length-prefixed."""
    parts = [part.encode() for part in ("veriff", "decision", *natural_key)]
    text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    expected = bytearray(hmac.new(key, text, hashlib.sha256).digest()[:16])
    expected[6] = expected[6] & 0x0F | 0x80  # version 8
    expected[8] = expected[8] & 0x3F | 0x80  # the variant of RFC 9562
    keys = Keys(event_key=key, subject_key=b"s", subject_key_id="k1")
    statement = Statement(native_type="decision", natural_key=tuple(natural_key))
    assert event_id(keys, "veriff", statement) == str(uuid.UUID(bytes=bytes(expected)))


def test_event_id_depends_on_key_endpoint_type_and_natural_key_only():
    """Another account, type, statement or deployment never shares an id; anything else does."""
    changed = [
        event_id(OTHER, "veriff", STATEMENT),
        event_id(KEYS, "veriff-eu", STATEMENT),
        event_id(KEYS, "veriff", Statement(native_type="event", natural_key=("a", "b"))),
        event_id(KEYS, "veriff", Statement(native_type="decision", natural_key=("a", "c"))),
        event_id(KEYS, "veriff", Statement(native_type="decision", natural_key=("a", "b", ""))),
    ]
    same = event_id(KEYS, "veriff", STATEMENT)
    assert len({same, *changed}) == 6
    worded = msgspec.structs.replace(STATEMENT, status="completed", process_ref="p", item_index=3)
    assert event_id(KEYS, "veriff", worded) == same


def test_family_replaces_an_unsigned_type():
    """Where the native type is not signed, its family counts, so a renamed copy keeps the id."""
    one = Statement(native_type="user.kycrequest", type_family="user", natural_key=("x",))
    two = Statement(native_type="user.kycreview", type_family="user", natural_key=("x",))
    assert event_id(KEYS, "treezor", one) == event_id(KEYS, "treezor", two)


@given(st.lists(st.text(max_size=5), max_size=3), st.lists(st.text(max_size=5), max_size=3))
def test_parts_never_run_together(left, right):
    """Two different natural keys never give the same id, however their parts are cut."""
    left = [text.encode("utf-8", "replace").decode() for text in left]
    right = [text.encode("utf-8", "replace").decode() for text in right]
    ids = [
        event_id(KEYS, "e", Statement(native_type="t", natural_key=tuple(parts)))
        for parts in (left, right)
    ]
    assert (ids[0] == ids[1]) == (left == right)


def test_pseudonym_is_the_documented_hash():
    """base64url of the first 16 bytes of HMAC-SHA-256 over kind, scope and id, length-prefixed."""
    parts = [b"platform_user", b"", b"user-1"]
    text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    expected = hmac.new(KEYS.subject_key, text, hashlib.sha256).digest()[:16]
    ref = subject_ref(KEYS, "veriff", Subject("platform_user", "user-1"))
    assert len(ref) == 22
    assert urlsafe_b64decode(ref + "==") == expected


def test_platform_users_join_across_providers_and_provider_users_do_not():
    """The platform's own id means the same person everywhere, a provider's id only there."""
    ours = {subject_ref(KEYS, p, Subject("platform_user", "1")) for p in ("veriff", "pawapass")}
    theirs = {subject_ref(KEYS, p, Subject("provider_user", "1")) for p in ("veriff", "pawapass")}
    assert len(ours) == 1
    assert len(theirs) == 2
    assert not ours & theirs
    assert subject_ref(OTHER, "veriff", Subject("platform_user", "1")) not in ours


def event(process=None, subject=None):
    return VerificationEvent(
        event_id="e", provider="p", endpoint="p", native_type="t", occurred_at=0, received_at=0,
        raw_topic="t", raw_partition=0, raw_offset=0, mapping_revision=1,
        process_ref=process, subject_ref=subject,
    )  # fmt: skip


def test_output_key_is_process_then_subject_then_event():
    """Events of one process share a key, and so a partition."""
    assert output_key(event("p", "s"), "process") == b"p"
    assert output_key(event(None, "s"), "process") == b"s"
    assert output_key(event(), "process") == b"e"


def test_output_key_is_the_subject_where_processes_have_no_common_id():
    """Subject, then process, then the event itself."""
    assert output_key(event("p", "s"), "subject") == b"s"
    assert output_key(event("p"), "subject") == b"p"
    assert output_key(event(), "subject") == b"e"
