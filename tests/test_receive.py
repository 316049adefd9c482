"""What `receive` owes: a Delivery of exactly the contract's shape, or a Rejection; nothing else."""

import ast
import hashlib
import hmac
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery import (
    DEAD_MESSAGE_BYTES,
    OUTPUT_MESSAGE_BYTES,
    PRODUCER_MESSAGE_BYTES,
    RAW_MESSAGE_BYTES,
    Delivery,
    Provenance,
    dead_topic,
    group_id,
    output_topic,
    raw_topic,
)
from gateway.headers import Headers
from gateway.providers import PROVIDERS, Provider, first_of
from gateway.receive import Endpoint, receive
from gateway.rejections import (
    CONTENT_ENCODING,
    HEADERS_TOO_LARGE,
    REASONS,
    SIGNATURE_MISMATCH,
    SIGNATURE_MISSING,
    Rejection,
)
from gateway.send import fixtures
from gateway.signatures import Acknowledged, Key, Verified
from tests.senders import SENDERS, sender_of

ROOT = Path(__file__).resolve().parent.parent
NOW = 1_700_000_000.25
DELIVERY_ID = "0123456789abcdef0123456789abcdef"
SECRET = Key(id="spring-2026", value=b"the secret of these tests")
BODY = b'{"sessionId":"s-1"}'
CONTRACT = [
    "verihook-endpoint",
    "verihook-provider",
    "verihook-received-at",
    "verihook-delivery-id",
    "verihook-authenticity",
    "verihook-scheme",
    "verihook-key-id",
    "verihook-environment",
    "verihook-freshness",
    "verihook-content-type",
]

every_sender = pytest.mark.parametrize("sender", SENDERS, ids=str)
every_body_hmac = pytest.mark.parametrize("provider", ["pawapass", "veriff"])
every_fixture = pytest.mark.parametrize(
    "fixture", fixtures(), ids=lambda fixture: f"{fixture.provider}/{fixture.case}"
)


def endpoint_of(name, /, **changes):
    registered = PROVIDERS[name]
    endpoint = Endpoint(
        name=f"{name}-eu",
        provider=registered,
        scheme=registered.scheme([SECRET]),
        environment="sandbox",
    )
    return msgspec.structs.replace(endpoint, **changes)


def sent(provider, body=BODY, **more):
    """Give a signed request's header pairs and body; more headers by name, _ for -."""
    proof = PROVIDERS[provider].scheme([SECRET]).sign(body, NOW)
    others = {name.replace("_", "-"): value for name, value in more.items()}
    return [*proof.headers.items(), *others.items()], proof.body


def received(provider, body=BODY, **more):
    pairs, body = sent(provider, body, **more)
    return receive(endpoint_of(provider), Headers(pairs), body, NOW, DELIVERY_ID)


def sent_by(sender, body=None, **more):
    """Give what a sender sends, with more headers by name, _ for -."""
    pairs, body = sender.signed(body, now=NOW)
    others = {name.replace("_", "-"): value for name, value in more.items()}
    kept = [pair for pair in others.items() if pair[0] not in dict(pairs)]
    return [*pairs, *kept], body


def received_from(sender, body=None, **more):
    pairs, body = sent_by(sender, body, **more)
    return receive(sender.endpoint(), Headers(pairs), body, NOW, DELIVERY_ID)


def refusal(name, pairs, body=BODY, /, **changes):
    with pytest.raises(Rejection) as caught:
        receive(endpoint_of(name, **changes), Headers(pairs), body, NOW, DELIVERY_ID)
    return caught.value.reason


def refused_from(sender, pairs, body):
    with pytest.raises(Rejection) as caught:
        receive(sender.endpoint(), Headers(pairs), body, NOW, DELIVERY_ID)
    return caught.value.reason


# The Delivery.


@every_fixture
def test_the_body_is_kept_byte_for_byte(fixture):
    """What was signed is what is stored, blanks, escapes and line ends included."""
    sender = sender_of(fixture)
    pairs, body = sent_by(sender, fixture.body, **fixture.headers)
    delivery = receive(sender.endpoint(), Headers(pairs), body, NOW, DELIVERY_ID)
    assert delivery.body == body
    if fixture.provider != "treezor":  # whose signature stands in the body
        assert body == fixture.body


@every_fixture
def test_the_headers_are_exactly_the_contracts(fixture):
    """The ten headers of the pinned surface, each once and in order, then the kept ones."""
    sender = sender_of(fixture)
    pairs, body = sent_by(sender, fixture.body, **fixture.headers)
    delivery = receive(sender.endpoint(), Headers(pairs), body, NOW, DELIVERY_ID)
    names = [name for name, _ in delivery.headers]
    assert names[: len(CONTRACT)] == CONTRACT
    kept = names[len(CONTRACT) :]
    assert len(set(kept)) == len(kept)
    assert all(name.startswith("http-") and name == name.lower() for name in kept)
    assert {name.removeprefix("http-") for name in kept} <= {name for name, _ in pairs}
    assert all(isinstance(value, bytes) for _, value in delivery.headers)


def test_the_headers_say_what_the_gateway_knows():
    """Each header's value in literal words."""
    delivery = received("veriff", content_type="application/json; charset=utf-8")
    signature = hmac.new(SECRET.value, BODY, hashlib.sha256).hexdigest()
    assert delivery.headers == [
        ("verihook-endpoint", b"veriff-eu"),
        ("verihook-provider", b"veriff"),
        ("verihook-received-at", b"1700000000250"),
        ("verihook-delivery-id", DELIVERY_ID.encode()),
        ("verihook-authenticity", b"signed"),
        ("verihook-scheme", b"veriff-hmac-sha256"),
        ("verihook-key-id", b"spring-2026"),
        ("verihook-environment", b"sandbox"),
        ("verihook-freshness", b"none"),
        ("verihook-content-type", b"application/json; charset=utf-8"),
        ("http-x-hmac-signature", signature.encode()),
    ]
    assert delivery.key == b"s-1"
    assert delivery.body == BODY


@every_sender
def test_the_kept_headers_allow_verifying_again(sender):
    """From the record alone, the kept headers and the body, the signature verifies again."""
    delivery = received_from(sender)
    kept = [
        (name.removeprefix("http-"), value.decode())
        for name, value in delivery.headers
        if name.startswith("http-")
    ]
    if delivery.provenance.authenticity == "token":
        assert kept == []  # credentials are never kept, so this one cannot be verified again
        return
    again = sender.scheme().verify(Headers(kept), delivery.body, NOW)
    assert again.key_id == delivery.provenance.key_id


@every_sender
def test_nothing_the_sender_names_verihook_is_believed(sender):
    """Headers named like ours, sent by anybody, change nothing on the record."""
    forged = {name.replace("-", "_"): "forged" for name in CONTRACT}
    forged |= {"http_verihook_endpoint": "forged", "verihook_replay_of": "forged"}
    pairs, body = sent_by(sender)
    endpoint = sender.endpoint()
    more = [(name.replace("_", "-"), value) for name, value in forged.items()]
    plain = receive(endpoint, Headers(pairs), body, NOW, DELIVERY_ID)
    assert receive(endpoint, Headers([*pairs, *more]), body, NOW, DELIVERY_ID) == plain


@every_sender
def test_credentials_and_strangers_are_never_kept(sender):
    """Authorization, Cookie and whatever was not asked for stay out of the record."""
    pairs, body = sent_by(sender)
    strangers = [
        ("authorization", "Bearer hush-hush"),
        ("proxy-authorization", "Basic hush-hush"),
        ("cookie", "session=hush-hush"),
        ("x-forwarded-for", "hush-hush"),
        ("x-delivery-id", "hush-hush"),
        ("user-agent", "hush-hush"),
    ]
    proofs = dict(pairs)
    more = [pair for pair in strangers if pair[0] not in proofs]
    delivery = receive(sender.endpoint(), Headers([*pairs, *more]), body, NOW, DELIVERY_ID)
    assert delivery == receive(sender.endpoint(), Headers(pairs), body, NOW, DELIVERY_ID)
    told = b"".join(value for _, value in delivery.headers)
    assert b"hush-hush" not in told
    assert proofs.get("authorization", "no such text").encode() not in told
    forbidden = {"authorization", "proxy-authorization", "cookie", "set-cookie"}
    kept = sender.provider.kept_headers
    assert not forbidden & set(kept)
    assert all(name == name.lower() for name in kept)


@every_sender
def test_receive_is_pure(sender):
    """The same values give the same Delivery, and the arguments stay as they were."""
    pairs, body = sent_by(sender, content_type="application/json")
    before = (list(pairs), bytes(body))
    endpoint, headers = sender.endpoint(), Headers(pairs)
    one = receive(endpoint, headers, body, NOW, DELIVERY_ID)
    assert one == receive(endpoint, headers, body, NOW, DELIVERY_ID)
    assert (pairs, body) == before
    later = receive(endpoint, headers, body, NOW + 1, "another")
    assert (later.key, later.body) == (one.key, one.body)
    assert later.provenance.received_at == one.provenance.received_at + 1000
    assert later.provenance.delivery_id == "another"


def test_the_pure_part_knows_no_clock_socket_or_broker():
    """The modules of the gateway's core import nothing that could look outside."""
    outside = {
        "time", "datetime", "random", "secrets", "os", "socket", "asyncio", "threading",
        "confluent_kafka", "granian", "structlog", "prometheus_client",
    }  # fmt: skip
    core = ("canonical_json", "delivery", "headers", "providers", "receive", "rejections")
    files = [ROOT / "gateway" / f"{name}.py" for name in core]
    for file in [*files, *(ROOT / "gateway" / "signatures").glob("*.py")]:
        name = file.name
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                assert not outside & {alias.name.partition(".")[0] for alias in node.names}, name
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in outside, name


def test_only_receive_makes_a_delivery():
    """Whatever reaches Kafka as a delivery was proven: no other module constructs one."""
    makers = set()
    for path in [*ROOT.glob("gateway/**/*.py"), *ROOT.glob("consumers/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call):
                named = [node.func, *node.args]
                words = {getattr(part, "id", getattr(part, "attr", "")) for part in named}
                if "Delivery" in words:
                    makers.add(path.relative_to(ROOT).as_posix())
    assert makers == {"gateway/receive.py"}


def test_the_scheme_decides_what_is_recorded():
    """Authenticity, freshness and scheme are the scheme's words, not receive's."""

    class Tokens:
        key_ids = ("k",)

        def verify(self, headers, body, now):
            return Verified(
                scheme="x-token", key_id="k", signed=b"{}", authenticity="token", freshness="stale"
            )

    endpoint = endpoint_of("veriff", scheme=Tokens())
    provenance = receive(endpoint, Headers([]), BODY, NOW, DELIVERY_ID).provenance
    assert (provenance.scheme, provenance.authenticity) == ("x-token", "token")
    assert (provenance.freshness, provenance.key_id) == ("stale", "k")


def test_an_acknowledged_request_is_no_delivery():
    """What a scheme acknowledges without proof is handed back as it is and makes no record."""

    class Confirms:
        key_ids = ()

        def verify(self, headers, body, now):
            return Acknowledged("subscription")

    endpoint = endpoint_of("veriff", scheme=Confirms())
    assert receive(endpoint, Headers([]), BODY, NOW, DELIVERY_ID) == Acknowledged("subscription")


# Record keys.


def key_of(provider, body):
    return received(provider, body).key


def the_digest(body):
    return hashlib.sha256(body).hexdigest().encode()


VERIFF_KEYS = {
    "decision": (b'{"status":"success","verification":{"id":"s-1","attemptId":"a-1"}}', b"s-1"),
    "event": (b'{"id":"s-1","attemptId":"a-1","feature":"selfid","code":7002}', b"s-1"),
    "watchlist": (b'{"checkType":"initial_result","sessionId":"s-1","attemptId":"a-1"}', b"s-1"),
    "watchlist without session": (b'{"checkType":"initial_result","attemptId":"a-1"}', b"a-1"),
    "user status": (
        (
            b'{"data":{"verification":{"id":"a-1"}},"sessionId":"s-1","attemptId":"a-1",'
            b'"eventType":"user-status.created"}'
        ),
        b"s-1",
    ),
    "ine": (b'{"eventType":"ine_registry","sessionId":"s-1","attemptId":"a-1"}', b"s-1"),
    "curp": (b'{"type":"curp_registry","id":"s-1","data":{"attemptId":"a-1"}}', b"s-1"),
    "escaped": (b'{"id":"s\\u002d1"}', b"s-1"),
    "with blanks": (b' { "id" : "s-1" } \n', b"s-1"),
    "number": (b'{"id":17}', b"17"),
    "negative number": (b'{"id":-17}', b"-17"),
    "not latin": ('{"id":"жук"}'.encode(), "жук".encode()),
}


@pytest.mark.parametrize("case", VERIFF_KEYS)
def test_each_native_type_of_veriff_has_its_path(case):
    """One process of Veriff has one key, whichever kind of webhook speaks of it."""
    body, key = VERIFF_KEYS[case]
    assert key_of("veriff", body) == key


def test_empty_and_null_ids_are_passed_over():
    """An id that says nothing does not become a key that many processes share."""
    assert key_of("veriff", b'{"verification":null,"sessionId":"","id":null,"attemptId":"a"}') == (
        b"a"
    )
    for body in (b'{"id":""}', b'{"id":null}', b"{}", b'{"verification":{}}'):
        assert key_of("veriff", body) == the_digest(body)


JUNK = {
    "nothing": b"",
    "text": b"hello",
    "array": b"[]",
    "null": b"null",
    "string": b'"id"',
    "number": b"1",
    "cut off": b'{"id":"s-1"',
    "more after it": b'{"id":"s-1"} {}',
    "single quotes": b"{'id':'s-1'}",
    "byte order mark": b'\xef\xbb\xbf{"id":"s-1"}',
    "utf-16": '{"id":"s-1"}'.encode("utf-16"),
    "not utf-8": b'{"id":"\xff\xfe"}',
    "lone surrogate": b'{"id":"\\ud800"}',
    "boolean id": b'{"id":true}',
    "list id": b'{"id":["s-1"]}',
    "object id": b'{"id":{"id":"s-1"}}',
    "float id": b'{"id":1.5}',
    "huge float id": b'{"id":1e999}',
    "nan": b'{"id":NaN}',
    "infinity": b'{"id":-Infinity}',
    "huge integer id": b'{"id":' + b"9" * 5000 + b"}",
    "huge negative id": b'{"id":-' + b"9" * 100_000 + b"}",
    "arrays in arrays": b"[" * 100_000,
    "objects in objects": b'{"id":' * 100_000,
    "nested where nobody looks": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"id":"s-1"}',
    "nested under a path": b'{"verification":' * 50_000 + b"1" + b"}" * 50_000,
    "nuls": b"\0" * 1000,
    "random": bytes(range(256)) * 10,
}


@every_body_hmac
@pytest.mark.parametrize("case", JUNK)
def test_junk_with_a_right_signature_is_keyed_by_its_digest(provider, case):
    """A body without a readable id is stored all the same: the consumer says what is wrong."""
    delivery = received(provider, JUNK[case])
    assert delivery.key == the_digest(JUNK[case])
    assert delivery.body == JUNK[case]


@every_body_hmac
@pytest.mark.parametrize("length", [1, 255, 256, 257, 300, 100_000])
def test_long_ids_become_their_digest(provider, length):
    """A key is at most 256 bytes; the same long id always gives the same key."""
    letters = "a" * length
    body = json.dumps({"id": letters, "data": {"id": letters}}).encode()
    wanted = letters.encode() if length <= 256 else the_digest(letters.encode())
    assert key_of(provider, body) == wanted
    other = json.dumps({"n": 2, "data": {"id": letters}, "id": letters}).encode()
    assert key_of(provider, other) == wanted


@every_body_hmac
def test_the_length_of_an_id_is_counted_in_bytes(provider):
    """128 two-byte letters are a key, 129 are a digest."""
    for count, whole in ((128, True), (129, False)):
        letters = "é" * count
        body = json.dumps({"id": letters, "data": {"id": letters}}, ensure_ascii=False).encode()
        key = key_of(provider, body)
        assert key == (letters.encode() if whole else the_digest(letters.encode()))


def test_the_first_item_of_an_array_can_give_the_key():
    """`0` in a path is an array's first item; an empty array gives nothing."""
    read = first_of("users.0.id", "events.0.data.ref", "id")
    assert read(b'{"users":[{"id":"u-1"},{"id":"u-2"}],"id":"i"}') == "u-1"
    assert read(b'{"users":[],"events":[{"data":{"ref":7}}],"id":"i"}') == "7"
    assert read(b'{"users":null,"events":[],"id":"i"}') == "i"
    assert read(b'{"users":{"id":"u-1"},"id":"i"}') == "i"
    assert read(b'{"users":[{"id":"u-1"},5,{"id":[]}]}') == "u-1"
    assert read(b'{"users":[5],"events":[{"data":{"ref":["a"]}}]}') is None


BAD_ELEMENTS = (b"5", b"null", b"[]", b'{"eventType":"NEW","data":{"ref":["a"]}}', b'{"data":7}')


@pytest.mark.parametrize("bad", BAD_ELEMENTS)
def test_a_bad_element_does_not_take_the_batch_out_of_order(bad):
    """A batch has its first item's key, whatever stands behind it: that item is emitted, too."""
    good = b'{"eventType":"USER","data":{"@type":"USER_EVENT","ref":"122","status":"LINKED"}}'
    key = PROVIDERS["pleenk"].record_key
    assert key(b'{"events":[%b]}' % good) == b"122"
    assert key(b'{"events":[%b,%b]}' % (good, bad)) == b"122"
    assert len(key(b'{"events":[%b,%b]}' % (bad, good))) == 64
    users = b'{"users":[{"userId":"1"},%b]}'
    assert PROVIDERS["treezor"].record_key(users % bad) == b"1"


def test_treezors_bodies_have_a_limit_of_their_own():
    """256 KiB; the others' is that of the size chain."""
    limits = {name: provider.body_limit for name, provider in PROVIDERS.items()}
    assert limits.pop("treezor") == 262_144
    assert set(limits.values()) == {921_600}


def test_the_key_is_read_from_the_signed_bytes_alone():
    """Where a signature covers only a part of the body, nothing else decides the key."""

    class Inner:
        key_ids = ("k",)

        def verify(self, headers, body, now):
            return Verified(scheme="x", key_id="k", signed=b'{"id":"inside"}')

    endpoint = endpoint_of("veriff", scheme=Inner())
    delivery = receive(endpoint, Headers([]), b'{"id":"outside"}', NOW, DELIVERY_ID)
    assert (delivery.key, delivery.body) == (b"inside", b'{"id":"outside"}')


def test_first_of_takes_the_first_path_that_is_there():
    """Paths are tried in the order of the table, not in the order of the body."""
    read = first_of("a.b", "c")
    assert read(b'{"c":"second","a":{"b":"first"}}') == "first"
    assert read(b'{"a":{"b":null},"c":"second"}') == "second"
    assert read(b'{"c":7}') == "7"
    assert read(b"{}") is None


# Refusals.


@pytest.mark.parametrize(
    "encoding",
    ["gzip", "GZIP", "br", "deflate", "zstd", "gzip, identity", "identity, gzip", "identity;q=1"],
)
@every_sender
def test_an_encoded_body_is_refused(sender, encoding):
    """Signatures cover bytes: what would have to be decoded first is 415."""
    pairs, body = sent_by(sender, content_encoding=encoding)
    reason = refused_from(sender, pairs, body)
    assert reason is CONTENT_ENCODING
    assert reason.status == 415


@pytest.mark.parametrize("encoding", ["identity", "Identity", "IDENTITY", " identity ", ""])
@every_sender
def test_identity_is_no_encoding(sender, encoding):
    """Saying that nothing was encoded is fine."""
    assert isinstance(received_from(sender, content_encoding=encoding), Delivery)


@every_sender
def test_an_encoding_does_not_hide_behind_another(sender):
    """Two Content-Encoding headers are one list: gzip in either place is refused."""
    for first, second in (("gzip", "identity"), ("identity", "gzip")):
        pairs, body = sent_by(sender)
        both = [*pairs, ("content-encoding", first), ("content-encoding", second)]
        assert refused_from(sender, both, body) is CONTENT_ENCODING


def test_an_encoding_is_refused_before_the_signature_is_looked_at():
    """An encoded body is 415 for everyone, so that the sender learns what to change."""
    assert refusal("veriff", [("content-encoding", "gzip")]) is CONTENT_ENCODING
    assert refusal("veriff", []) is SIGNATURE_MISSING


@pytest.mark.parametrize("name", ["x-auth-client", "vrf-integration-id", "content-type"])
def test_a_kept_header_has_a_limit(name):
    """4 KiB of one kept header are taken, a byte more is 431."""
    pairs, body = sent("veriff")
    fits = Headers([*pairs, (name, "a" * 4096)])
    delivery = receive(endpoint_of("veriff"), fits, body, NOW, DELIVERY_ID)
    assert b"a" * 4096 in dict(delivery.headers).values()
    reason = refusal("veriff", [*pairs, (name, "a" * 4097)], body)
    assert reason is HEADERS_TOO_LARGE
    assert reason.status == 431


def test_kept_headers_together_have_a_limit():
    """16 KiB of kept headers are taken together, a byte more is 431, though each alone fits."""
    names = ("x-hmac-signature", "x-1", "x-2", "x-3", "x-4", "x-5")
    registered = msgspec.structs.replace(PROVIDERS["veriff"], kept_headers=names)
    pairs, body = sent("veriff")
    left = 16 * 1024 - 64
    sizes = [4096, 4096, 4096, left - 3 * 4096]
    others = [(f"x-{number}", "a" * size) for number, size in enumerate(sizes, 1)]
    endpoint = endpoint_of("veriff", provider=registered)
    assert receive(endpoint, Headers([*pairs, *others]), body, NOW, DELIVERY_ID)
    reason = refusal("veriff", [*pairs, *others, ("x-5", "a")], body, provider=registered)
    assert reason is HEADERS_TOO_LARGE


def test_headers_that_are_not_kept_may_be_long():
    """Only what is stored is limited here; the server limits the head as a whole."""
    assert received("veriff", user_agent="a" * 20_000) == received("veriff")


def test_the_largest_record_fits_its_topic():
    """Body limit, kept headers and our own headers together stay under the raw topic's limit."""
    longest = Provenance(
        endpoint="e" * 64,
        provider="p" * 64,
        received_at=2**63,
        delivery_id="d" * 32,
        authenticity="unsigned",
        scheme="s" * 64,
        key_id="k" * 32,
        environment="production",
        freshness="fresh",
    )
    ours = sum(len(name) + len(value) + 10 for name, value in longest.to_headers())
    for provider in PROVIDERS.values():
        names = sum(len(f"http-{name}") + 10 for name in provider.kept_headers)
        whole = provider.body_limit + 16 * 1024 + names + ours + 256 + 200
        assert whole <= RAW_MESSAGE_BYTES
    assert RAW_MESSAGE_BYTES < DEAD_MESSAGE_BYTES == OUTPUT_MESSAGE_BYTES < PRODUCER_MESSAGE_BYTES
    assert RAW_MESSAGE_BYTES == 1024 * 1024
    assert PRODUCER_MESSAGE_BYTES == 2 * 1024 * 1024


anything = st.text(max_size=60) | st.text(st.characters(categories=["Cs"]), max_size=5)
names = st.sampled_from(
    sorted(
        {"content-type", "content-encoding", "authorization"}
        | {name for provider in PROVIDERS.values() for name in provider.kept_headers}
    )
)
deep = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | anything,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner, max_size=4),
    max_leaves=20,
)
ids = st.sampled_from(["verification", "sessionId", "id", "attemptId", "data"])
bodies = st.one_of(
    st.binary(max_size=200),
    deep.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(ids, deep).map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda name, depth: b'{"%s":' % name.encode() * depth + b"1" + b"}" * depth,
        ids,
        st.integers(0, 5000),
    ),
    st.builds(lambda digits: b'{"id":' + b"7" * digits + b"}", st.integers(1, 9000)),
)


@every_sender
@given(
    pairs=st.lists(st.tuples(names, anything), max_size=6),
    dropped=st.lists(names, max_size=2),
    body=bodies,
)
def test_whatever_is_sent_unsigned_is_a_rejection(sender, pairs, dropped, body):
    """No headers and no body make receive raise anything but a Rejection of the closed set."""
    headers = Headers(pairs, [*dropped, *(name for name, _ in pairs)])
    with pytest.raises(Rejection) as caught:
        receive(sender.endpoint(), headers, body, NOW, DELIVERY_ID)
    assert caught.value.reason in REASONS
    assert caught.value.reason.result == "rejected"


@every_sender
@given(body=bodies, content_type=anything, client=anything)
def test_whatever_is_signed_becomes_a_delivery(sender, body, content_type, client):
    """Any bytes under a right signature are stored as they are, with a key that fits."""
    if sender.provider.name == "treezor":
        return  # it signs one value of a JSON body of its own form; see its own tests
    if str(sender) == "plexy" and not body.startswith(b"{"):
        body = b"{" + body
    delivery = received_from(sender, body, content_type=content_type, x_auth_client=client)
    assert delivery.body == body
    assert 0 < len(delivery.key) <= 256
    assert all(isinstance(value, bytes) for _, value in delivery.headers)


@every_sender
def test_a_forged_delivery_is_refused(sender):
    """A proof of nobody we know makes no Delivery."""
    if str(sender) == "treezor-unsigned":
        return  # what it takes without a proof is the matter of its own tests
    pairs, body = sender.signed(number=2, now=NOW)
    assert refused_from(sender, pairs, body) is SIGNATURE_MISMATCH


# The contract with the consumers.

# Header values travel as UTF-8: whatever can be encoded comes back.
words = st.text(max_size=30)
provenances = st.builds(
    Provenance,
    endpoint=words,
    provider=words,
    received_at=st.integers(-(2**63), 2**63 - 1),  # what fits the schema
    delivery_id=words,
    authenticity=words,
    scheme=words,
    key_id=words,
    environment=words,
    freshness=words,
    content_type=words,
)


@given(provenances)
def test_provenance_survives_its_headers(provenance):
    """What the gateway writes, the consumers read back equal."""
    headers = provenance.to_headers()
    assert [name for name, _ in headers] == CONTRACT
    assert Provenance.from_headers(headers) == provenance
    strangers = [("http-x-signature", b"\xff"), ("verihook-attempt", b"2"), ("x", None)]
    assert Provenance.from_headers([*strangers, *reversed(headers)]) == provenance


def test_a_record_of_another_origin_is_told_apart():
    """A missing header is named by KeyError; a time that is no number is a ValueError."""
    headers = received("veriff").provenance.to_headers()
    for missing in CONTRACT[:-2]:
        rest = [pair for pair in headers if pair[0] != missing]
        with pytest.raises(KeyError, match=missing):
            Provenance.from_headers(rest)
        with pytest.raises(KeyError, match=missing):
            Provenance.from_headers([*rest, (missing, None)])
    for text in (b"", b"soon", b"1.5", b"\xff"):
        others = [pair for pair in headers if pair[0] != "verihook-received-at"]
        with pytest.raises(ValueError):
            Provenance.from_headers([*others, ("verihook-received-at", text)])


def test_topics_and_groups_have_their_pinned_names():
    """Independent programs rest on these names."""
    assert raw_topic("veriff") == "raw.veriff"
    assert raw_topic("veriff", "demo.") == "demo.raw.veriff"
    assert dead_topic("veriff", "demo.") == "demo.dlq.veriff"
    assert output_topic() == "verification.events"
    assert output_topic("demo.") == "demo.verification.events"
    assert group_id("veriff", "demo.") == "demo.normalize.veriff"


# The register and the reasons.


def test_every_reason_has_a_label_and_a_status_of_its_own_kind():
    """The closed set of reasons: unique labels, client errors are rejections, 503 is unavailable."""
    assert len({reason.label for reason in REASONS}) == len(REASONS)
    for reason in REASONS:
        assert reason.label.replace("_", "").isalpha()
        assert reason.label == reason.label.lower()
        wanted = {4: "rejected", 5: "error"}[reason.status // 100]
        assert reason.result == ("unavailable" if reason.status == 503 else wanted)
        if reason.status in {404, 405, 413, 500, 503}:
            assert not reason.provider_decides


def test_every_provider_is_registered_under_its_name():
    """One word per provider, body limits within the size chain."""
    for name, provider in PROVIDERS.items():
        assert isinstance(provider, Provider)
        assert provider.name == name
        assert name.isascii()
        assert name.isalnum()
        assert name == name.lower()
        assert 0 < provider.body_limit <= 900 * 1024
