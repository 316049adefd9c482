"""What the metrics cost: a delivery's share of the gateway's CPU, and a scrape. Run by hand.

The calls a stored delivery makes are timed alone, against the CPU of a delivery of a real gateway
on a real Kafka in the same run (tests/bench_gateway.py).
"""

import asyncio
import platform
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable

from prometheus_client import generate_latest

from gateway.metrics import EndpointMetrics, GatewayMetrics, TopicMetrics
from gateway.process import Address, Admin
from gateway.providers import PROVIDERS
from gateway.rejections import REASONS
from gateway.statistics import ClientStatistics
from tests import bench_gateway

ROUNDS, TIMES = 5, 200_000
ENDPOINTS, SCRAPES = 20, 50
ALLOWED = 0.02
"""The share of a delivery's CPU that metrics may cost."""


def delivery(endpoint: EndpointMetrics, topic: TopicMetrics) -> Callable[[], None]:
    """Give a function that does what gateway/server.py and gateway/publish.py do for the metrics."""
    key, stale = ("default", "veriff-hmac-sha256"), False

    def one() -> None:
        endpoint.in_progress.value += 1
        topic.produced.value += 1
        topic.ack_seconds.observe(0.0042)
        endpoint.body_bytes.observe(1480)
        endpoint.key_used[key].value += 1
        if stale:
            endpoint.stale.value += 1
        endpoint.stored.value += 1
        endpoint.stored_seconds.observe(0.0047)
        endpoint.in_progress.value -= 1

    return one


def microseconds(function: Callable[[], object], times: int) -> float:
    """The best of ROUNDS: what else runs on the machine only adds."""
    return min(timeit.repeat(function, number=times, repeat=ROUNDS)) / times * 1e6


def page(metrics: GatewayMetrics) -> None:
    """Fill a page with ENDPOINTS endpoints, as large as a gateway's becomes."""
    for number in range(ENDPOINTS):
        provider = sorted(PROVIDERS)[number % len(PROVIDERS)]
        one = EndpointMetrics(metrics, f"e-{number}", provider, ("old", "new"), ("scheme",))
        for reason in REASONS:
            one.ended(reason.result, reason.status).value += 1
        one.stored_seconds.observe(0.1)
    for provider in PROVIDERS:
        TopicMetrics(metrics, f"raw.{provider}").produced.value += 1


def report_of(brokers: int, partitions: int) -> str:
    """Write a report of librdkafka's, with all that is passed over, of about its real size."""
    window = (
        '{"min":1,"max":9,"avg":5,"sum":50,"stddev":2,"p50":4,"p75":5,"p90":6,"p95":7,"p99":8,'
        '"p99_99":9,"outofrange":0,"hdrsize":11376,"cnt":10}'
    )
    windows = ",".join(
        f'"{name}":{window}' for name in ("rtt", "int_latency", "outbuf_latency", "throttle")
    )
    nodes = ",".join(
        f'"b{n}:9092/{n}":{{"nodeid":{n},"source":"learned","state":"UP","txretries":0,{windows}}}'
        for n in range(brokers)
    )
    each = ",".join(
        f'"{n}":{{"partition":{n},"broker":1,"leader":1,"msgq_cnt":0,"xmit_msgq_cnt":0,"txmsgs":9}}'
        for n in range(partitions)
    )
    topics = f'"raw.veriff":{{"topic":"raw.veriff",{windows},"partitions":{{{each}}}}}'
    return f'{{"msg_cnt":1,"msg_max":100000,"brokers":{{{nodes}}},"topics":{{{topics}}}}}'


async def longest_pause(seconds: float) -> float:
    """The longest the loop was kept from a timer of a millisecond, in milliseconds."""
    longest, end = 0.0, time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - began - 0.001)
    return longest * 1e3


SCRAPER = """
import sys, time, urllib.request
took = []
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    urllib.request.urlopen(sys.argv[1]).read()
    took.append(time.perf_counter() - began)
    time.sleep(0.02)
print(max(took) * 1e3)
"""


async def while_scraped(address: Address) -> tuple[float, float, float]:
    """The loop's longest pause at rest and under scrapes, and the slowest scrape, in ms."""
    quiet = await longest_pause(3.0)
    scraping = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCRAPER, f"http://{address}/metrics", str(SCRAPES)),
        stdout=subprocess.PIPE,
    )
    longest = await longest_pause(3.0)
    said, _ = await scraping.communicate()
    return quiet, longest, float(said)


def main() -> None:
    """Print what metrics cost the gateway."""
    metrics = GatewayMetrics("0", "0")
    page(metrics)
    key = ("default",), ("veriff-hmac-sha256",)
    endpoint = EndpointMetrics(metrics, "veriff", "veriff", *key)
    calls = microseconds(delivery(endpoint, TopicMetrics(metrics, "raw.veriff")), TIMES)
    told = ClientStatistics()
    report = report_of(brokers=6, partitions=200)
    told.take("producer", report)
    assert told.report("producer") is not None
    reading = microseconds(lambda: told.take("producer", report), 200)
    lines = generate_latest(metrics.registry).count(b"\n")
    writing = microseconds(lambda: generate_latest(metrics.registry), 5) / 1e3
    admin = Admin(Address("127.0.0.1", 0), metrics.registry, metrics.readiness)
    admin.start()
    quiet, longest, slowest = asyncio.run(while_scraped(admin.address))
    admin.close()
    with bench_gateway.running() as (gateway, port, _floor, _floor_port):
        found = [bench_gateway.measure(gateway.popen.pid, port)[0] for _ in range(ROUNDS)]
    cpu = statistics.median(found)
    print(f"gateway, python {platform.python_version()}")
    print(
        f"metrics of one stored delivery: {calls:.2f} us of {cpu:.1f} us CPU, {calls / cpu:.1%} "
        f"(allowed {ALLOWED:.0%})"
    )
    print(
        f"a report of librdkafka ({len(report):,} bytes, every 5 s): {reading:.0f} us, "
        f"{reading / 5e6:.4%} of a processor"
    )
    print(
        f"a page of {lines:,} lines ({ENDPOINTS} endpoints): {writing:.1f} ms to write, the slowest "
        f"of {SCRAPES} scrapes {slowest:.0f} ms; the loop's longest pause {longest:.1f} ms "
        f"(at rest {quiet:.1f})"
    )


if __name__ == "__main__":
    main()
