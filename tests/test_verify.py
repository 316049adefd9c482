"""python -m gateway verify: what was kept is proven again, with today's secrets."""

import os
import subprocess
import sys
import time

import msgspec
import pytest

from consumers.codec import encoder, single_object_prefix
from consumers.fate import Fates
from consumers.normalizers import NORMALIZERS
from consumers.records import Record
from gateway.delivery import Provenance
from gateway.headers import Headers
from gateway.receive import receive
from gateway.send import fixture
from gateway.verify import Findings, verified_again
from tests.deployment import ROOT, deployment
from tests.sample_keys import held
from tests.senders import SENDERS, sender
from tests.test_replay import MARKER

NOW = 1_700_000_000.0
WITHOUT_SIGNATURE = {"plexy-b": "token", "treezor-unsigned": "unsigned"}
"""Endpoints whose first fixture comes without one."""


def kept(one, *, number=1, now=NOW):
    """What the gateway stored of a delivery: record headers and body."""
    headers, body = one.signed(number=number, now=now)
    stored = receive(one.endpoint(number), Headers(headers), body, now, "d" * 32)
    return stored.headers, stored.body


def again(one, headers, body, *, endpoint=None):
    endpoint = endpoint or one.endpoint()
    return verified_again(one.provider.name, headers, body, {endpoint.name: endpoint})


def told(headers, **instead):
    """The same headers, some with another word."""
    words = {f"verihook-{name.replace('_', '-')}": value for name, value in instead.items()}
    return [(name, words.get(name, value)) for name, value in headers]


@pytest.mark.parametrize("one", SENDERS, ids=str)
def test_every_endpoint_is_verified_again_or_says_why_not(one):
    """From the kept headers alone, as of the time of receipt; bearer tokens are never kept."""
    found = again(one, *kept(one))
    if str(one) in WITHOUT_SIGNATURE:
        assert (found.state, found.why) == ("cannot_be_verified", WITHOUT_SIGNATURE[str(one)])
    else:
        assert (found.state, found.key_id, found.rotated) == ("holds", "key-1", False)


@pytest.mark.parametrize(
    "one", [one for one in SENDERS if str(one) not in WITHOUT_SIGNATURE], ids=str
)
def test_another_secret_or_another_body_no_longer_holds(one):
    """A retired secret, a changed byte, a lost header: told by its reason."""
    headers, body = kept(one)
    assert again(one, headers, body, endpoint=one.endpoint(2)).why == "signature_mismatch"
    changed = body.replace(b":", b": ", 1) if one.provider.name != "treezor" else None
    if changed is not None:
        assert again(one, headers, changed).state == "no_longer_holds"
        bare = [pair for pair in headers if not pair[0].startswith("http-")]
        assert again(one, bare, body).why == "signature_missing"
    assert again(one, headers, None).why == "tombstone"


def test_a_rotated_key_that_is_still_current_holds():
    """Under the id it has now; that it is another one is counted."""
    one = sender("veriff")
    headers, body = kept(one)
    found = again(one, told(headers, key_id=b"older"), body)
    assert (found.state, found.rotated) == ("holds", True)


def test_what_a_record_claims_must_be_what_it_bears():
    """Consumers believe scheme and authenticity: neither may say more or other than the proof."""
    one = sender("veriff")
    headers, body = kept(one)
    assert again(one, told(headers, scheme=b"x"), body).why == "other_scheme"
    for word in (b"unsigned", b"token"):
        assert again(one, told(headers, authenticity=word), body).why == "other_authenticity"
    bearer = sender("plexy-b")
    headers, body = kept(bearer)
    assert again(bearer, told(headers, authenticity=b"signed"), body).why == "other_authenticity"
    assert again(bearer, told(headers, scheme=b"plexy-hmac-body"), body).why == "other_scheme"
    assert again(one, told(kept(one)[0], provider=b"plexy"), body).why == "other_provider"
    assert again(one, [], body).why == "no_provenance"


@pytest.mark.parametrize(
    "text", [b"9" * 400, b"9" * 5000, b"-" + b"9" * 400, b"%d" % (2**63 + 1), b"", b"yesterday"]
)
def test_a_time_of_receipt_that_is_none_is_nobodys_word(keys, text):
    """Neither verify nor a consumer stumbles over it: it was not written by a gateway."""
    one = sender("plexy")
    headers, body = kept(one)
    strange = told(headers, received_at=text)
    with pytest.raises(ValueError):
        Provenance.from_headers(strange)
    assert again(one, strange, body).why == "no_provenance"
    record = Record(
        topic="raw.plexy", partition=0, offset=0, timestamp=0, key=None, value=body,
        headers=strange,
    )  # fmt: skip
    encode = encoder(single_object_prefix())
    failure = Fates("plexy", NORMALIZERS["plexy"], encode, keys).decide(record).failure
    assert (failure.kind, failure.path) == ("schema_mismatch", "headers")


@pytest.mark.parametrize("one", SENDERS, ids=str)
@pytest.mark.parametrize(
    "text", [b"-5", b"99999999999999999", b"%d" % (2**63 - 1), b"%d" % -(2**63)]
)
def test_a_far_time_of_receipt_ends_nothing(keys, one, text):
    """Whatever number passes for a time gives a verdict, and no bug in a consumer."""
    headers, body = kept(one)
    strange = told(headers, received_at=text)
    assert again(one, strange, body).state in {"holds", "no_longer_holds", "cannot_be_verified"}
    name = one.provider.name
    record = Record(
        topic=f"raw.{name}", partition=0, offset=0, timestamp=0, key=None, value=body,
        headers=strange,
    )  # fmt: skip
    encode = encoder(single_object_prefix())
    failure = Fates(name, NORMALIZERS[name], encode, keys).decide(record).failure
    assert failure is None or failure.kind != "bug"


def test_an_unsigned_event_stays_unsigned():
    """It cannot be verified again, and where unsigned ones are refused it no longer holds."""
    one = sender("treezor-unsigned")
    body = fixture("treezor", "kycreview-result").body
    endpoint = one.endpoint()
    stored = receive(endpoint, Headers([]), body, NOW, "d" * 32)
    found = again(one, stored.headers, body)
    assert (found.state, found.why) == ("cannot_be_verified", "unsigned")
    claimed = told(stored.headers, authenticity=b"signed")
    assert again(one, claimed, body).why == "other_authenticity"
    refusing = msgspec.structs.replace(sender("treezor").endpoint(), name=endpoint.name)
    assert again(one, stored.headers, body, endpoint=refusing).why == "signature_missing"


def test_a_signed_time_is_judged_as_of_its_receipt():
    """What was fresh when it came is not refused for having grown old since."""
    one = sender("plexy")
    strict = one.provider.scheme([held("plexy")], {"text": "timestamped", "stale": "refuse"})
    endpoint = msgspec.structs.replace(one.endpoint(), scheme=strict)
    headers, body = kept(one, now=time.time() - 10 * 86_400)
    assert again(one, headers, body, endpoint=endpoint).state == "holds"


def test_an_endpoint_that_is_not_configured_is_named_if_its_name_can_be_shown():
    """A foreign writer's header is not printed."""
    one = sender("veriff")
    headers, body = kept(one)
    found = verified_again("veriff", headers, body, {})
    assert (found.state, found.endpoint) == ("unknown_endpoint", "veriff")
    strange = told(headers, endpoint=b"Jane Doe\n")
    assert verified_again("veriff", strange, body, {}).endpoint == "?"


def test_findings_name_the_first_that_no_longer_hold():
    """Counts by endpoint, key and reason; coordinates of as many as asked for."""
    one = sender("veriff")
    headers, body = kept(one)
    findings = Findings(2)
    for offset in range(5):
        endpoint = one.endpoint(1 if offset < 2 else 2)
        findings.note(again(one, headers, body, endpoint=endpoint), f"raw.veriff/0/{offset}")
    said = "\n".join(findings.lines("raw.veriff"))
    assert findings.broken == 3
    assert "raw.veriff: 5 records looked at" in said
    assert "veriff by key-1 2" in said
    assert "veriff signature_mismatch 3" in said
    assert "the first 2 of 3" in said
    assert "raw.veriff/0/3" in said
    assert "raw.veriff/0/4" not in said


def test_findings_say_why_nothing_was_verified():
    """Without a record, or where no endpoint is configured here; a wrong range is noticed."""
    findings = Findings()
    assert findings.why_nothing() == "there is no record in this range"
    assert findings.why_nothing("veriff-eu") == "there is no record of veriff-eu in this range"
    one = sender("veriff")
    headers, body = kept(one)
    findings.note(verified_again("veriff", headers, body, {}), "raw.veriff/0/0")
    assert findings.why_nothing() == "none of these endpoints is configured here"
    findings.note(again(one, headers, body), "raw.veriff/0/1")
    assert findings.why_nothing() == ""


def command(*arguments, **environ):
    """Run the command line; give its exit code, output and error output."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "verify", *arguments], cwd=ROOT,
        env={**os.environ, **environ}, capture_output=True, timeout=120, check=False, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.kafka
def test_the_command_verifies_what_the_gateway_stored(topics, tmp_path):
    """All of it holds; after the secret was changed none does, and the exit code says so."""
    with deployment(topics(), tmp_path) as deployed:
        deployed.gateway()
        body = fixture("veriff", "decision-approved").body.replace(b"approved", MARKER.encode())
        for _ in range(3):
            assert deployed.send("veriff", body).status == 200
        environ = deployed.environ()
        code, out, err = command("veriff", **environ)
        assert (code, err) == (0, "")
        assert "veriff by demo 3" in out
        (partition, offset), *_ = [
            (one.partition(), one.offset()) for one in deployed.raw("veriff")
        ]
        code, out, _ = command("veriff", "--offset", f"{partition}:{offset}", **environ)
        assert (code, "1 records looked at" in out) == (0, True)
        code, out, err = command("veriff", "--until", "1h", **environ)
        assert (code, "0 records looked at" in out) == (1, True)
        assert err == "nothing was verified: there is no record in this range\n"
        alone = {name: value for name, value in environ.items() if name != "GATEWAY_ENDPOINTS"}
        code, out, _ = command("veriff", VERIFF_SECRET="another-secret-of-the-tests", **alone)
        assert code == 1
        assert "veriff signature_mismatch 3" in out
        assert MARKER not in out
        code, _, err = command("veriff", "--endpoint", "veriff-eu", **environ)
        assert (code, "there is no endpoint veriff-eu" in err) == (2, True)
        code, _, err = command("veriff", **{**environ, "TOPIC_PREFIX": "none."})
        assert (code, "there is no topic none.raw.veriff" in err) == (2, True)
