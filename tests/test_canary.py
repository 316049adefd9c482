"""The canary: its beats, what they mean, how each one ends, and the whole way on a real Kafka."""

import contextlib
import http.server
import json
import threading
import time
from types import SimpleNamespace

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from consumers.codec import decode, encoder, single_object_prefix
from consumers.fate import Fates
from consumers.normalizers import EVERY as NORMALIZERS
from consumers.records import Record
from deploy.child import free_port
from gateway import canary
from gateway.canary import Beats, CanaryMetrics, Postman, Round, load_settings, signed_beat
from gateway.delivery import (
    Provenance,
    dead_topic,
    group_id,
    output_topic,
    raw_topic,
)
from gateway.endpoints import load_endpoints
from gateway.headers import Headers
from gateway.process import ConfigurationError, Readiness
from gateway.providers import EVERY
from gateway.rejections import Rejection
from gateway.send import post
from gateway.signatures import Key
from tests.conftest import KEYS, RECEIVED_AT
from tests.deployment import deployment, until

SECRET = "secret-of-the-canary-0123456789"
TOKEN = "path-token-of-the-canary-0123"
ENVIRON = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "CANARY_SECRET": SECRET}


def scheme(secret: str = SECRET):
    return EVERY["canary"].scheme([Key(id="one", value=secret.encode())])


# --- a beat


def test_a_beat_is_proven_by_the_canarys_secret_and_by_no_other():
    """HMAC-SHA256 over the raw body in x-verihook-canary; another secret or byte is refused."""
    proof = signed_beat(scheme(), "b1", 1_700_000_000.5)
    assert set(proof.headers) == {"x-verihook-canary"}
    assert json.loads(proof.body) == {
        "type": "beat", "beat_id": "b1", "sent_at": 1_700_000_000_500,
    }  # fmt: skip
    headers = Headers(list(proof.headers.items()))
    verified = scheme().verify(headers, proof.body, 0.0)
    assert (verified.scheme, verified.authenticity) == ("canary-hmac-sha256", "signed")
    later = proof.body.replace(b"500}", b"501}")
    for verifier, body in ((scheme("another-secret-01234567"), proof.body), (scheme(), later)):
        with pytest.raises(Rejection):
            verifier.verify(headers, body, 0.0)
    assert EVERY["canary"].record_key(proof.body) == b"b1"


def test_the_canary_is_configured_as_any_provider(tmp_path):
    """By CANARY_SECRET and its like, or as an endpoint of the file; a platform is not needed."""
    (found,) = load_endpoints({"CANARY_SECRET": SECRET}).by_name.values()
    assert found.provider is EVERY["canary"]
    file = tmp_path / "endpoints.toml"
    file.write_text(
        '[[endpoint]]\nname = "beats"\nprovider = "canary"\nenvironment = "production"\n'
        f'secrets = [{{id = "one", value = "{SECRET}"}}]\n'
    )
    (found,) = load_endpoints({"GATEWAY_ENDPOINTS": str(file)}).by_name.values()
    assert (found.name, found.provider) == ("beats", EVERY["canary"])


def fate(body: bytes, prefix: str = "p."):
    """What becomes of a raw record of the canary."""
    provenance = Provenance(
        endpoint="canary", provider="canary", received_at=RECEIVED_AT, delivery_id="0" * 32,
        authenticity="signed", scheme="canary-hmac-sha256", key_id="one", environment="sandbox",
    )  # fmt: skip
    record = Record(
        topic=raw_topic("canary", prefix), partition=0, offset=7, timestamp=RECEIVED_AT,
        key=b"k", value=body, headers=provenance.to_headers(),
    )  # fmt: skip
    encode = encoder(single_object_prefix())
    return Fates("canary", NORMALIZERS["canary"], encode, KEYS, prefix).decide(record)


def test_a_beat_becomes_one_event_under_its_id_on_the_canarys_topic():
    """The key is the beat's id, the time the sender's; nothing of a person or a verdict."""
    (output,) = fate(signed_beat(scheme(), "b1", 1_700_000_000.0).body).outputs
    assert (output.topic, output.key) == ("p.verification.canary", b"b1")
    event = decode(output.value)
    assert (event.provider, event.native_type, event.process_ref) == ("canary", "beat", "b1")
    assert (event.occurred_at, event.occurred_at_source) == (1_700_000_000_000, "event")
    assert (event.category, event.outcome, event.subject_ref) == ("unknown", "none", None)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "invalid_json"),
        (b'{"type":"other","beat_id":"b","sent_at":1}', "unknown_type"),
        (b'{"type":"beat","beat_id":"b b","sent_at":1}', "out_of_range"),
        (b'{"type":"beat","beat_id":"b"}', "schema_mismatch"),
        (b'{"type":"beat","beat_id":"b","sent_at":-1}', "schema_mismatch"),
        (b'{"type":"beat","beat_id":"b","sent_at":99999999999999999}', "schema_mismatch"),
    ],
)
def test_what_is_no_beat_is_a_dead_letter_of_the_canary(body, kind):
    """It is signed, so it is kept; the platforms' topics do not see it."""
    found = fate(body)
    assert found.failure.kind == kind
    assert {output.topic for output in found.outputs} == {"p.dlq.canary"}


def test_no_other_provider_writes_to_the_canarys_topic():
    """verification.events is everybody's but the canary's."""
    topics = {name: output_topic("p.", name) for name in EVERY}
    assert topics.pop("canary") == "p.verification.canary"
    assert set(topics.values()) == {"p.verification.events"} == {output_topic("p.")}


# --- settings


def test_settings_have_defaults():
    """The gateway of the same environment, every 15 seconds, a minute's patience."""
    found = load_settings({**ENVIRON, "TOPIC_PREFIX": "p.", "GATEWAY_LISTEN": "127.0.0.1:81"})
    assert found.url == "http://127.0.0.1:81/webhooks/canary"
    assert (found.interval, found.timeout, found.topic) == (15, 60, "p.verification.canary")
    assert str(found.admin_listen) == "127.0.0.1:9462"


def test_the_secret_may_stand_in_a_file(tmp_path):
    """One trailing newline is not of it."""
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    environ = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "CANARY_SECRET_FILE": str(file)}
    proof = signed_beat(load_settings(environ).scheme, "b", 1.0)
    assert proof == signed_beat(scheme(), "b", 1.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"CANARY_SECRET": None}, "CANARY_SECRET or CANARY_SECRET_FILE"),
        ({"CANARY_SECRET": "short"}, "CANARY_SECRET is only 5 bytes long"),
        ({"CANARY_SECRET_FILE": "/nowhere"}, "CANARY_SECRET and CANARY_SECRET_FILE are both set"),
        ({"CANARY_INTERVAL": "0"}, "CANARY_INTERVAL is '0'"),
        ({"CANARY_INTERVAL": "soon"}, "CANARY_INTERVAL is 'soon'"),
        ({"CANARY_TIMEOUT": "nan"}, "CANARY_TIMEOUT is 'nan'"),
        ({"CANARY_INTERVAL": "1", "CANARY_TIMEOUT": "101"}, "more than 100 beats"),
        ({"CANARY_ADMIN_LISTEN": "here"}, "CANARY_ADMIN_LISTEN is 'here'"),
        ({"CANARY_URL": f"ftp://host/webhooks/canary/{TOKEN}"}, "CANARY_URL cannot be used"),
        ({"CANARY_URL": f"http://host/webhooks/canary/{TOKEN} "}, "CANARY_URL cannot be used"),
        ({"KAFKA_BOOTSTRAP_SERVERS": None}, "KAFKA_BOOTSTRAP_SERVERS is not set"),
    ],
)
def test_settings_that_cannot_be_used_are_one_sentence(given, said):
    """It names the variable and shows neither the secret nor the path token."""
    environ = {name: text for name, text in {**ENVIRON, **given}.items() if text is not None}
    with pytest.raises(ConfigurationError) as refused:
        load_settings(environ)
    text = str(refused.value)
    assert said in text
    assert TOKEN not in text
    assert SECRET not in text


# --- how a beat ends


class Books:
    """Beats with a clock of the test's own."""

    def __init__(self, timeout: float = 60.0) -> None:
        self.readiness = Readiness(*canary.CONDITIONS)
        self.metrics = CanaryMetrics("1", "2", self.readiness)
        self.beats = Beats(self.metrics, self.readiness, timeout, wall=lambda: 1_700_000_000.0)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"verihook_canary_{name}", labels)

    def ends(self) -> dict[str, float]:
        """How many beats ended how."""
        counted = {result: self.value("beats_total", result=result) for result in canary.RESULTS}
        return {result: count for result, count in counted.items() if count}


def test_metrics_begin_at_zero():
    """A result that never was is 0, not missing, and so is the time of the last beat seen."""
    books = Books()
    assert [books.value("beats_total", result=result) for result in canary.RESULTS] == [0] * 4
    assert books.value("last_seen_timestamp_seconds") == 0
    ready = books.metrics.registry.get_sample_value
    assert ready("verihook_ready", {"condition": "pipeline"}) == 0
    assert ready("verihook_build_info", {"version": "1", "librdkafka": "2"}) == 1


def test_a_beat_that_is_stored_and_read_is_seen():
    """Both times are measured from its sending, and the process is ready."""
    books = Books()
    books.beats.begin("a", 10.0)
    books.beats.answered("a", 200, 0.25, 10.3)
    assert books.ends() == {}
    books.beats.seen("a", 12.0)
    assert books.ends() == {"seen": 1}
    assert books.value("end_to_end_seconds_sum") == 2.0
    assert books.value("answer_seconds_sum") == 0.25
    assert books.value("last_seen_timestamp_seconds") == 1_700_000_000.0
    assert books.readiness.problems() == {}
    assert books.metrics.registry.get_sample_value("verihook_ready", {"condition": "pipeline"}) == 1


def test_an_event_can_be_read_before_the_answer_is():
    """It is seen then; its answer is measured all the same."""
    books = Books()
    books.beats.begin("a", 10.0)
    books.beats.seen("a", 10.1)
    books.beats.answered("a", 200, 0.2, 10.2)
    books.beats.expire(100.0)
    assert books.ends() == {"seen": 1}
    assert books.value("answer_seconds_count") == 1


def test_a_stored_beat_that_is_not_read_in_time_is_lost_once():
    """Its event counts nothing when it comes at last, nor if it comes twice."""
    books = Books()
    books.beats.begin("a", 10.0)
    books.beats.answered("a", 200, 0.2, 10.2)
    books.beats.expire(69.9)
    assert books.ends() == {}
    books.beats.expire(70.0)
    assert books.ends() == {"lost": 1}
    assert set(books.readiness.problems()) == {"pipeline"}
    for _ in range(2):
        books.beats.seen("a", 71.0)
    assert books.ends() == {"lost": 1}
    assert books.value("last_seen_timestamp_seconds") == 0
    assert books.value("end_to_end_seconds_count") == 0


@pytest.mark.parametrize("status", [401, 503, 301])
def test_any_answer_but_200_is_a_refusal(status):
    """A redirect too: it is not followed."""
    books = Books()
    books.beats.begin("a", 10.0)
    books.beats.answered("a", status, 0.2, 10.2)
    assert books.ends() == {"refused": 1}
    assert str(status) in books.readiness.problems()["gateway"]
    assert books.value("answer_seconds_count") == 1


def test_nobody_answering_is_no_loss():
    """Neither where the connection is refused, nor where the answer does not come in time."""
    books = Books()
    for beat in "ab":
        books.beats.begin(beat, 10.0)
    books.beats.unanswered("a", 10.1)
    books.beats.expire(70.0)
    assert books.ends() == {"unanswered": 2}
    assert "gateway" in books.readiness.problems()
    books.beats.unanswered("b", 71.0)  # the request gave up at last
    assert books.ends() == {"unanswered": 2}


def test_what_is_not_ours_or_comes_twice_is_passed_over():
    """Another prober's beats, and an event that is written again."""
    books = Books()
    books.beats.begin("a", 10.0)
    for beat_id in ("a", "a", "of another prober", ""):
        books.beats.seen(beat_id, 11.0)
    assert books.ends() == {"seen": 1}


class Sent:
    """A postman that notes what is sent, and answers what the test says."""

    def __init__(self) -> None:
        self.beats: list[str] = []
        self.waiting: list[tuple[str, int | None, float]] = []

    def send(self, beat_id: str) -> None:
        self.beats.append(beat_id)

    def answers(self):
        while self.waiting:
            yield self.waiting.pop(0)


class Read:
    """A reader that gives what the test says."""

    def __init__(self) -> None:
        self.waiting: list[str] = []

    def read(self, seconds: float) -> str | None:
        return self.waiting.pop(0) if self.waiting else None


def test_beats_overlap_and_are_bounded():
    """A late one does not hold up the next; no more are under way than fit into the timeout."""
    books, sent, read = Books(timeout=60), Sent(), Read()
    turns = Round(15, books.beats, sent, read)
    most = 0
    for now in range(300):
        turns.turn(lambda now=now: float(now))
        sent.waiting += [(beat, 200, 0.1) for beat in sent.beats[len(sent.beats) - 1 :]]
        most = max(most, books.beats.under_way)
    assert len(sent.beats) == 20
    assert len(set(sent.beats)) == 20
    assert most <= 5
    assert books.ends() == {"lost": 16}
    read.waiting = [sent.beats[0], sent.beats[-1], "foreign"]
    turns.turn(lambda: 299.5)
    assert books.ends() == {"lost": 16, "seen": 1}


def test_beats_that_were_missed_are_not_made_up_for():
    """After a standstill one is sent, not all of them at once."""
    books, sent = Books(), Sent()
    turns = Round(15, books.beats, sent, Read())
    for now in (0.0, 100.0, 100.1, 114.0):
        turns.turn(lambda now=now: now)
    assert len(sent.beats) == 2
    turns.turn(lambda: 115.0)
    assert len(sent.beats) == 3


@contextlib.contextmanager
def address(status: int = 200, hold: threading.Event | None = None):
    """An address that answers so; give its URL and what came."""
    came: list[tuple[str, dict[str, str], bytes]] = []

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            if hold is not None:
                hold.wait(20)
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/webhooks/canary/{TOKEN}", came
    finally:
        if hold is not None:
            hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


def answered(postman: Postman) -> tuple[str, int | None, float]:
    return until(lambda: next(iter(postman.answers()), None), "the beat has an answer")


def settings(url: str, **more: str):
    return load_settings({**ENVIRON, "CANARY_URL": url, **more})


@pytest.mark.parametrize("status", [200, 302, 401, 503])
def test_a_beat_is_posted_signed_to_the_address_and_nowhere_else(status):
    """The answer's status is told as it came, a redirect included."""
    with address(status) as (url, came):
        postman = Postman(settings(url))
        postman.send("b1")
        assert answered(postman)[:2] == ("b1", status)
    ((path, headers, body),) = came
    assert path == f"/webhooks/canary/{TOKEN}"
    assert scheme().verify(Headers(list(headers.items())), body, 0.0)
    assert json.loads(body)["beat_id"] == "b1"


def test_an_address_that_is_away_is_no_answer():
    """The thread ends without a word: the address may hold a path token."""
    postman = Postman(settings(f"http://127.0.0.1:{free_port()}/webhooks/canary/{TOKEN}"))
    postman.send("b1")
    assert answered(postman)[:2] == ("b1", None)


def test_a_slow_address_holds_up_nothing(monkeypatch):
    """Sending does not wait; where all requests are taken, a beat has no answer at once."""
    monkeypatch.setattr(canary, "MOST_UNDER_WAY", 2)
    hold = threading.Event()
    with address(200, hold) as (url, came):
        postman = Postman(settings(url, CANARY_TIMEOUT="10", CANARY_INTERVAL="10"))
        for beat in ("a", "b", "c"):
            postman.send(beat)
        assert answered(postman)[:2] == ("c", None)
        until(lambda: len(came) == 2, "both requests are under way")
        hold.set()
        got = {answered(postman)[:2], answered(postman)[:2]}
    assert got == {("a", 200), ("b", 200)}


def test_a_lost_beat_is_logged_sparingly_and_without_the_address(capsys):
    """One line for many of a kind, with the beat's id and how many were held back."""
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory())
    try:
        books = Books()
        for number in range(50):
            books.beats.begin(f"b{number}", 10.0)
            books.beats.unanswered(f"b{number}", 10.0)
    finally:
        structlog.reset_defaults()
    said = capsys.readouterr()
    assert (said.out + said.err).count("unanswered") == 1
    assert books.ends() == {"unanswered": 50}


# --- the whole way


@pytest.fixture
def deployed(topics, tmp_path):
    with deployment(topics(canary=True, **{"raw.partitions": 1}), tmp_path) as running:
        yield running


@pytest.mark.kafka
def test_beats_in_partitions_that_came_later_are_seen(topics, monkeypatch):
    """Whoever grows verification.canary loses none: new partitions are read from their start."""
    made = topics(canary=True)
    topic = output_topic(made.prefix, "canary")
    given = load_settings(
        {
            "CANARY_SECRET": SECRET,
            "KAFKA_BOOTSTRAP_SERVERS": made.bootstrap,
            "TOPIC_PREFIX": made.prefix,
        }
    )
    monkeypatch.setattr(canary, "_GROWN_SECONDS", 0.5)
    reader = canary.Reader(given)
    until(lambda: reader.begin() == "", "it stands at the end")
    admin = AdminClient({"bootstrap.servers": made.bootstrap})
    admin.create_partitions([NewPartitions(topic, 2)])[topic].result(30)
    producer = Producer({"bootstrap.servers": made.bootstrap})
    until(lambda: len(producer.list_topics(topic, 5).topics[topic].partitions) == 2, "it has grown")
    producer.produce(topic, b"", b"later", partition=1)
    producer.flush(30)
    until(lambda: reader.read(0.2) == "later", "the beat is read")
    reader.close()


@pytest.mark.kafka
def test_a_beat_goes_the_whole_way_and_no_analyst_hears_of_it(deployed):
    """Seen with real times; a stopped consumer is a loss, a refusal and a silence are told apart."""
    gateway = deployed.gateway()
    consumer = deployed.consumer("canary")
    prober = deployed.prober(ready=True, CANARY_TIMEOUT="5")
    total = "verihook_canary_beats_total"
    until(lambda: prober.sum(total, '"seen"') >= 3, "three beats are seen")
    metrics = prober.metrics()
    assert metrics["verihook_canary_end_to_end_seconds_count"] >= 3
    assert metrics["verihook_canary_answer_seconds_count"] >= 3
    assert metrics["verihook_canary_last_seen_timestamp_seconds"] > 1_700_000_000
    assert metrics['verihook_ready{condition="pipeline"}'] == 1
    assert [metrics[f'{total}{{result="{one}"}}'] for one in ("refused", "unanswered", "lost")] == [
        0, 0, 0,
    ]  # fmt: skip
    keys = {message.key() for message in deployed.events(provider="canary")}
    assert len(keys) >= 3
    assert deployed.events() == []

    # What is signed and no beat is kept, and leaves the events alone as well.
    assert deployed.send("canary", b'{"type":"other"}').status == 200
    letters = deployed.read(dead_topic("canary", deployed.prefix), 1)
    assert [message.value() for message in letters] == [b'{"type":"other"}']

    # The consumer is away: beats are stored, and lost; they come to nothing more when it is back.
    assert consumer.stop() == 0
    until(lambda: prober.sum(total, '"lost"') >= 1, "a beat is lost")
    assert until(
        lambda: "pipeline: a beat's event" in _said(prober) and "gateway: ok" in _said(prober),
        "said",
    )
    seen = prober.sum(total, '"seen"')
    consumer = deployed.consumer("canary")
    until(lambda: prober.sum(total, '"seen"') > seen, "beats are seen again")

    # The gateway is away: nobody answers, nothing is lost by that.
    assert gateway.stop() == 0
    until(lambda: prober.sum(total, '"unanswered"') >= 1, "a beat is unanswered")
    assert "gateway: nobody answers" in _said(prober)
    assert prober.stop() == 0
    log = prober.log.read_text()
    assert "Traceback" not in log
    assert deployed.made["canary"].held not in log
    assert '"result":"lost"' in log
    assert deployed.events() == []


def _said(prober) -> str:
    from tests.deployment import get

    return get(f"{prober.admin}/readyz?verbose")[1]


@pytest.mark.kafka
def test_a_gateway_that_knows_another_secret_refuses(deployed):
    """The status is told, the secret is not; two of the same beat are one event."""
    deployed.gateway()
    prober = deployed.prober(CANARY_SECRET="another-secret-of-the-canary-01")
    until(lambda: prober.sum("verihook_canary_beats_total", '"refused"') >= 1, "a refusal")
    assert "answered 401" in _said(prober)
    assert prober.stop() == 0
    assert deployed.raw("canary") == []

    deployed.consumer("canary")
    made = deployed.made["canary"]
    proof = signed_beat(scheme(made.held), "twice", time.time())
    for _ in range(2):
        url = f"{deployed.url}/webhooks/{made.path}"
        assert post(url, proof.headers, proof.body).status == 200
    deployed.send("canary", signed_beat(scheme(), "after", time.time()).body)
    events = deployed.events(2, provider="canary")
    assert [message.key() for message in events] == [b"twice", b"after"]


@pytest.mark.kafka
def test_replay_and_audit_of_the_canary_keep_to_its_own_topics(deployed, monkeypatch):
    """A replayed dead letter and a proven audit touch nothing of the analysts'."""
    from consumers.audit import audit
    from consumers.choice import Choice
    from consumers.evidence import gather
    from consumers.replay import Replay
    from gateway.ranges import Wanted

    deployed.gateway()
    consumer = deployed.consumer("canary")
    for beat in ("one", "two"):
        deployed.send("canary", signed_beat(scheme(), beat, time.time()).body)
    deployed.send("canary", b'{"type":"other"}')
    deployed.events(2, provider="canary")
    deployed.read(dead_topic("canary", deployed.prefix), 1)
    assert consumer.stop() == 0
    config = {"bootstrap.servers": deployed.bootstrap}
    raw = raw_topic("canary", deployed.prefix)

    def proven():
        found = gather(config, "canary", deployed.prefix, Wanted())
        return audit(
            raw, group_id("canary", deployed.prefix), found.evidence,
            retention=found.retention, unread=found.unread, window_seconds=86_400,
        )  # fmt: skip

    report = proven()
    assert report.proven, report
    assert sum(part.events for part in report.partitions) == 2
    said: list[str] = []
    choice = Choice(asked=Wanted(), even_if_dead=True)
    replay = Replay(
        "canary", config, KEYS, deployed.prefix, choice, stop=threading.Event(), say=said.append
    )
    assert replay.run(yes=True, rate=0, from_beginning=False)
    assert len(deployed.raw("canary")) == 4, said
    deployed.consumer("canary")
    deployed.read(dead_topic("canary", deployed.prefix), 2)
    assert len(deployed.events(provider="canary")) == 2
    assert deployed.events() == []


@pytest.mark.kafka
def test_a_prober_that_cannot_measure_says_so(topics, tmp_path):
    """Without the canary's topic it ends with 2 and one sentence; without Kafka it waits."""
    made = topics()
    with deployment(SimpleNamespace(**vars(made) | {"canary": True}), tmp_path) as running:
        running.url = "http://127.0.0.1:1"
        prober = running.prober()
        assert prober.popen.wait(60) == 2
        said = prober.log.read_text()
        assert f"gateway: the topic {made.prefix}verification.canary does not exist" in said
        assert "Traceback" not in said
        prober = running.prober(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
        until(lambda: "Kafka does not answer at 127.0.0.1:1" in _said(prober), "it waits")
        assert prober.stop() == 0
