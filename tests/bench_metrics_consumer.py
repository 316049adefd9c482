"""What a consumer's metrics cost per record, and a scrape of many partitions. Run by `make bench`.

The numbers of the loop come from `tests/bench_consumer.py`: about 40 us of CPU per record.
"""

import logging
import platform
import statistics
import threading
import time
from importlib.metadata import version

import confluent_kafka
import structlog
from prometheus_client import generate_latest

from consumers.attendant import Attendant
from consumers.codec import encoder, single_object_prefix
from consumers.contract import Span
from consumers.fate import Fate, Fates
from consumers.normalizers import NORMALIZERS
from consumers.records import Record
from gateway.process import Readiness
from gateway.send import Fixture, fixtures
from tests.conftest import KEYS
from tests.test_fixtures import raw_record

PER_RECORD_US = 40.0
"""CPU of a whole record, of which the metrics may take a fiftieth."""
ALLOWED_US = PER_RECORD_US / 50
ALLOWED_SCRAPE_MS = 100.0
BATCH, EPOCH, EPOCHS, ROUNDS = 100, 5_000, 10, 7
PARTITIONS = 200
TOPIC = "raw.veriff"
Handled = tuple[Record, Fate, list[tuple[int, int]]]


def meter_of(provider: str) -> Attendant:
    """What a consumer process counts with; it logs nothing here."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    known, group = NORMALIZERS[provider], f"normalize.{provider}"
    meter = Attendant(provider, group, known.NATIVE_TYPES, Readiness("group", "mapping"))
    meter.reads(TOPIC, known.UNMAPPED_FIELDS, known.IGNORED_REASONS)
    return meter


def fated(provider: str, chosen: list[Fixture]) -> list[tuple[Record, Fate]]:
    """Real fates of these fixtures: a batch, which as in the loop stays in a processor's cache."""
    decide = Fates(provider, NORMALIZERS[provider], encoder(single_object_prefix()), KEYS).decide
    records = [raw_record(one) for one in chosen]
    batch = [records[number % len(records)] for number in range(BATCH)]
    return [(one, decide(one)) for one in batch]


def work(meter: Attendant, epoch: list[list[Handled]], first: int) -> int:
    """Tell a meter one epoch, as the loop does; give the next offset."""
    partition = (TOPIC, 0)
    for batch in epoch:
        end = first + len(batch)
        meter.polled()
        meter.consumed({partition: Span(first, 1, end, 2, len(batch))})
        handled = meter.handled
        for record, fate, duplicates in batch:
            handled(record, fate, duplicates)
        first = end
    meter.sealed()
    meter.barrier(0.01)
    meter.committed({partition: first})
    return first


def cost(provider: str, handled: list[Handled]) -> float:
    """Microseconds of CPU per record, the best of several rounds; the empty loop is taken off."""
    epoch = [handled] * (EPOCH // BATCH)
    best = float("inf")
    for _ in range(ROUNDS):
        meter = meter_of(provider)
        meter.assigned({(TOPIC, 0): 0})
        offset = 0
        began = time.process_time()
        for _ in range(EPOCHS):
            offset = work(meter, epoch, offset)
        best = min(best, time.process_time() - began)
    return best / (EPOCHS * EPOCH) * 1e6


def scrape() -> tuple[float, int, float, float]:
    """Time a scrape of PARTITIONS partitions (ms), its size, and how long it held the loop up.

    The third number is the longest step of a loop that works meanwhile, the fourth the same
    without a scrape (both ms; the interpreter changes threads every 5 ms).
    """
    meter = meter_of("veriff")
    meter.assigned({(TOPIC, number): 0 for number in range(PARTITIONS)})
    spans = {(TOPIC, number): Span(0, 1, 10, 2, 10) for number in range(PARTITIONS)}
    for _ in range(20):
        meter.consumed(spans)
    meter.observed({(TOPIC, number): 10_000 for number in range(PARTITIONS)}, time.time())
    approved = [one for one in fixtures("veriff") if one.case == "decision-approved-full"]
    epoch = [[(record, fate, []) for record, fate in fated("veriff", approved)]]
    times = []
    for _ in range(20):
        began = time.perf_counter()
        text = generate_latest(meter.registry)
        times.append(time.perf_counter() - began)

    def longest(stop: threading.Event) -> float:
        worst = 0.0
        while not stop.is_set():
            began = time.perf_counter()
            work(meter, epoch, 0)
            worst = max(worst, time.perf_counter() - began)
        return worst

    steps = []
    for scraping in (True, False):
        stop, found = threading.Event(), []
        loop = threading.Thread(target=lambda: found.append(longest(stop)))  # noqa: B023 - joined
        loop.start()
        for _ in range(20):
            if scraping:
                generate_latest(meter.registry)
            else:
                time.sleep(0.02)
        stop.set()
        loop.join()
        steps.append(found[0] * 1000)
    return statistics.median(times) * 1000, len(text), steps[0], steps[1]


def main() -> None:
    """Print the table."""
    print(
        f"metrics of a consumer; python {platform.python_version()}, prometheus-client "
        f"{version('prometheus-client')}, msgspec {version('msgspec')}, confluent-kafka "
        f"{version('confluent-kafka')} (librdkafka {confluent_kafka.libversion()[0]})"
    )
    print(f"of {PER_RECORD_US:g} us per record at most {ALLOWED_US:g} us are allowed:")
    one = [found for found in fixtures("veriff") if found.case == "decision-approved-full"]
    for name, provider, chosen in (
        ("one Veriff decision", "veriff", one),
        *((f"every fixture of {name}", name, fixtures(name)) for name in sorted(NORMALIZERS)),
    ):
        pairs = fated(provider, chosen)
        events = sum(len(fate.events) for _, fate in pairs) / len(pairs)
        took = cost(provider, [(record, fate, []) for record, fate in pairs])
        print(f"{name:40}{took:8.2f} us, {events:.1f} events per record")
    pairs = fated("veriff", one)
    took = cost("veriff", [(record, fate, [(0, 60)]) for record, fate in pairs])
    print(f"{'every record a duplicate':40}{took:8.2f} us")
    took, size, held, alone = scrape()
    print(
        f"a scrape of {PARTITIONS} partitions takes {took:.1f} ms ({size / 1000:.0f} kB; at most "
        f"{ALLOWED_SCRAPE_MS:g} ms are allowed); 100 records beside it took the loop at most "
        f"{held:.1f} ms, without it {alone:.1f} ms"
    )


if __name__ == "__main__":
    main()
