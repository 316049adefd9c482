"""What the exporter costs with 200 partitions that are all behind. Run by `make bench`.

Real topics on a real Kafka; the scrape goes over HTTP, as Prometheus asks. A round is measured
where every group has moved (one read for each partition) and where none has (no read at all).
"""

import os
import platform
import resource
import statistics
import time
import urllib.request
from importlib.metadata import version

import confluent_kafka
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from consumers.committed import Committed
from consumers.exporter import Exporter, ExporterMetrics, load_settings
from deploy.kafka import temporary_kafka
from gateway.delivery import group_id, raw_topic
from gateway.process import Address, Admin, Readiness
from tests.deployment import until

PROVIDERS = ("onfido", "pawapass", "plexy", "veriff")
PARTITIONS = 50
RECORDS = 20
"""In each partition."""
ROUNDS, SCRAPES = 10, 50
BODY = b"x" * 2_276
LIMIT_MS = 100


def fill(bootstrap: str) -> dict[str, str]:
    """Make the topics and fill them; give the topic of each group."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topics = {group_id(one): raw_topic(one) for one in PROVIDERS}
    for made in admin.create_topics(
        [NewTopic(one, PARTITIONS, 1) for one in topics.values()]
    ).values():
        made.result(60)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50})
    for topic in topics.values():
        until(
            lambda topic=topic: (
                len(admin.list_topics(topic).topics[topic].partitions) == PARTITIONS
            ),
            topic,
        )
        for number in range(PARTITIONS):
            for _ in range(RECORDS):
                producer.produce(topic, BODY, partition=number)
    assert producer.flush(60) == 0
    return topics


def commit(groups: dict[str, Committed], topics: dict[str, str], offset: int) -> None:
    for group, committed in groups.items():
        committed.write({(topics[group], number): offset for number in range(PARTITIONS)}, "")


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rounds(exporter: Exporter, before) -> tuple[float, float, float]:
    """Give the CPU milliseconds, the milliseconds and the reads of a round, as medians."""
    found = []
    for number in range(ROUNDS):
        before(number)
        reads, used, began = exporter.outside.reads, cpu(), time.perf_counter()
        assert exporter.round() == "complete"
        took = time.perf_counter() - began
        found.append(((cpu() - used) * 1e3, took * 1e3, exporter.outside.reads - reads))
    return tuple(statistics.median(one) for one in zip(*found, strict=True))


def main() -> None:
    with temporary_kafka() as kafka:
        topics = fill(kafka.bootstrap)
        config = {"bootstrap.servers": kafka.bootstrap}
        groups = {group: Committed(config, group) for group in topics}
        settings = load_settings({"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap})
        metrics, readiness = ExporterMetrics(settings.interval), Readiness("kafka")
        exporter = Exporter(settings, metrics, readiness)
        admin = Admin(Address("127.0.0.1", 0), metrics.registry, readiness)
        admin.start()
        commit(groups, topics, 1)
        exporter.round()  # connects
        moved = rounds(exporter, lambda number: commit(groups, topics, 2 + number))
        still = rounds(exporter, lambda _: None)
        took = []
        used = cpu()
        for _ in range(SCRAPES):
            began = time.perf_counter()
            with urllib.request.urlopen(f"http://{admin.address}/metrics") as answer:
                page = answer.read()
            took.append((time.perf_counter() - began) * 1e3)
        scrape_cpu = (cpu() - used) * 1e3 / SCRAPES
        samples = page.count(b"\nverihook_group_lag_seconds{")
        admin.close()
        exporter.outside.close()
        for committed in groups.values():
            committed.close()
    print(
        f"exporter, {samples} partitions, all behind; Python {platform.python_version()}, "
        f"confluent-kafka {version('confluent-kafka')}, librdkafka {confluent_kafka.libversion()[0]}, "
        f"{len(os.sched_getaffinity(0))} processors, Kafka on the same"
    )
    for name, (milliseconds, wall, reads) in (
        ("every group moved", moved), ("no group moved", still),
    ):  # fmt: skip
        print(f"  round, {name:<18} {milliseconds:8.1f} ms CPU {wall:8.1f} ms {reads:6.0f} reads")
    print(
        f"  scrape {scrape_cpu:33.1f} ms CPU {statistics.median(took):8.1f} ms median, "
        f"{max(took):.1f} ms at most, {len(page) / 1e3:.0f} kB"
    )
    assert samples == len(PROVIDERS) * PARTITIONS
    assert statistics.median(took) < LIMIT_MS, f"a scrape takes more than {LIMIT_MS} ms"


if __name__ == "__main__":
    main()
