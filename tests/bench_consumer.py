"""What a record costs a consumer, whole and step by step. Run by `make bench`.

A backlog of signed deliveries is put on the raw topic; then one real consumer process works it
off, in each way it can deliver. The steps are timed one by one in this process on one delivery.
"""

import json
import os
import platform
import statistics
import tempfile
import time
import timeit
from importlib.metadata import version
from pathlib import Path

import confluent_kafka
from confluent_kafka import Producer

from consumers.codec import encoder, reference_bytes, single_object_prefix
from consumers.event import VerificationEvent
from consumers.fate import Fates, event_of
from consumers.normalizers import NORMALIZERS, veriff
from consumers.records import Record
from deploy.child import free_port
from deploy.kafka import temporary_kafka
from deploy.topics import Cluster, plan, single_copy, wanted_topics
from gateway.delivery import Provenance
from gateway.headers import Headers
from gateway.providers import PROVIDERS
from gateway.receive import Endpoint, receive
from gateway.send import fixture
from gateway.signatures import Key
from tests.bench_gateway import cpu_seconds, resident_mb
from tests.bench_metrics_consumer import BATCH, cost
from tests.conftest import EVENT_KEY, KEYS, SUBJECT_KEY
from tests.deployment import Process, until

PROCESSORS = sorted(os.sched_getaffinity(0))
RECORDS, ROUNDS, WARM_UP = 100_000, 3, 20_000
BODY = fixture("veriff", "decision-approved-full").body
PROCESS_ID = json.loads(BODY)["verification"]["id"].encode()
WAYS = {
    "at least once, no dedup": (["--delivery", "at-least-once"], {"CONSUMER_DEDUP_DAYS": "0"}),
    "at least once, with dedup": (["--delivery", "at-least-once"], {}),
    "exactly once": (["--delivery", "exactly-once", "--slot", "0"], {}),
}
DUPLICATES = "with dedup, every record a duplicate"


def delivery():
    """One delivery as the gateway makes it."""
    provider = PROVIDERS["veriff"]
    scheme = provider.scheme([Key(id="default", value=b"x" * 32)], {})
    endpoint = Endpoint(name="veriff", provider=provider, scheme=scheme, environment="production")
    headers = Headers({**scheme.sign(BODY, 0).headers, "content-type": "application/json"}.items())
    return receive(endpoint, headers, BODY, time.time(), "0" * 32)


def fill(bootstrap: str, numbers: range) -> None:
    """Put different deliveries of as many processes on the raw topic."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 50, "compression.type": "lz4"}
    )
    made = delivery()
    for number in numbers:
        key = b"c0000000-0000-4000-8000-%012d" % number
        body = made.body.replace(PROCESS_ID, key)
        while True:
            try:
                producer.produce("raw.veriff", body, key, headers=made.headers)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def whole(
    arguments: list[str], more: dict[str, str], *, again: bool = False
) -> tuple[float, float, float]:
    """CPU microseconds per record, records per second, resident MB.

    With `again`, the measured rounds repeat the deliveries of the first.
    """
    os.sched_setaffinity(0, PROCESSORS[:1])  # this process and Kafka, which inherits it
    with temporary_kafka() as kafka, tempfile.TemporaryDirectory() as folder:
        cluster = Cluster({"bootstrap.servers": kafka.bootstrap})
        wanted = wanted_topics(sorted(PROVIDERS), "", overrides=single_copy())
        cluster.apply(plan(wanted, {}), grow=False, say=lambda _text: None)
        admin = free_port()
        environ = {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "CONSUMER_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "CONSUMER_SINGLE_COPY": "1",
            "EVENT_KEY": EVENT_KEY,
            "SUBJECT_KEY": SUBJECT_KEY,
        }
        log = Path(folder) / "consumer.log"
        command = ["consumers", "run", "veriff", *arguments]
        consumer = Process(command, environ | more, admin, log)
        try:
            consumer.wait_ready()
            pid = consumer.popen.pid
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), PROCESSORS[-1:])
            done, rounds = 0, []
            first = RECORDS if again else WARM_UP
            for count in (first, *[RECORDS] * ROUNDS):
                began, cpu = time.perf_counter(), cpu_seconds(pid)
                fill(kafka.bootstrap, range(count) if again else range(done, done + count))
                done += count
                until(lambda done=done: consumer.sum("verihook_records_consumed_total") >= done,
                      "the backlog is worked off", 300)  # fmt: skip
                elapsed = time.perf_counter() - began
                rounds.append(((cpu_seconds(pid) - cpu) / count * 1e6, count / elapsed))
            medians = [statistics.median(column) for column in zip(*rounds[1:], strict=True)]
            return medians[0], medians[1], resident_mb(pid)
        finally:
            consumer.stop()


def steps() -> list[tuple[str, float]]:
    """Microseconds of each step of one record, the best of several runs."""
    made = delivery()
    record = Record(
        topic="raw.veriff", partition=0, offset=0, timestamp=0, key=made.key, value=made.body,
        headers=[*made.headers],
    )  # fmt: skip
    encode = encoder(single_object_prefix())
    fates = Fates("veriff", NORMALIZERS["veriff"], encode, KEYS)
    (statement,) = veriff.normalize(BODY, made.provenance)
    event = event_of(statement, record, made.provenance, KEYS, 1)
    assert isinstance(event, VerificationEvent)
    timed = [
        ("read the raw record's headers", lambda: Provenance.from_headers(record.headers)),
        ("normalize", lambda: veriff.normalize(BODY, made.provenance)),
        ("complete the event (two keyed hashes)",
         lambda: event_of(statement, record, made.provenance, KEYS, 1)),
        ("encode", lambda: encode(event)),
        ("encode with fastavro, for comparison", lambda: reference_bytes(event)),
        ("decide: all of it", lambda: fates.decide(record)),
    ]  # fmt: skip
    found = [
        (name, min(timeit.repeat(run, number=5000, repeat=7)) / 5000 * 1e6) for name, run in timed
    ]
    batch = [(record, fates.decide(record), []) for _ in range(BATCH)]
    return [*found, ("count it: every metric", cost("veriff", batch))]


def main() -> None:
    """Print the tables."""
    print(
        f"consumer, {len(BODY):,}-byte Veriff decision; python {platform.python_version()}, "
        f"msgspec {version('msgspec')}, fastavro {version('fastavro')}, "
        f"confluent-kafka {version('confluent-kafka')} (librdkafka "
        f"{confluent_kafka.libversion()[0]}), Apache Kafka 4.3.1"
    )
    for name, microseconds in steps():
        print(f"{name:40}{microseconds:8.1f} us")
    ways = [(name, *way, False) for name, way in WAYS.items()]
    ways.append((DUPLICATES, *WAYS["at least once, with dedup"], True))
    print("consume, decide, produce, commit, while the topic is filled beside it:")
    for name, arguments, environ, again in ways:
        cpu, rate, memory = whole(arguments, environ, again=again)
        print(
            f"{name:40}{cpu:8.1f} us of CPU per record, {rate:,.0f} records per second, "
            f"resident {memory:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
