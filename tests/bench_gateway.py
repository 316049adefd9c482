"""What a delivery costs the gateway: CPU, throughput, latency, memory. Run by `make bench`.

One real gateway process on a real Kafka, the gateway on one processor and everything else on
another; the floor is granian with the same signature check and no Kafka. Machines are noisy:
the rounds alternate, medians are shown, and the ratio to the floor is the figure to compare.
"""

import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import confluent_kafka

from deploy.child import free_port
from deploy.kafka import temporary_kafka
from deploy.topics import Cluster, plan, single_copy, wanted_topics
from gateway.providers import PROVIDERS
from gateway.send import fixture, signed
from tests.deployment import ROOT, Process

SECRET = "a secret of the benchmark, long enough"
BODY = fixture("veriff", "decision-approved-full").body
ROUNDS, DELIVERIES, CONNECTIONS = 5, 20_000, 256

FLOOR = """
import asyncio, hmac, os, sys
from granian.constants import HTTPModes
from granian.server.embed import Server
class Floor:
    async def __rsgi__(self, scope, proto):
        body = await proto()
        given = bytes.fromhex(dict(scope.headers.items())["x-hmac-signature"])
        assert hmac.compare_digest(hmac.digest(sys.argv[2].encode(), body, "sha256"), given)
        proto.response_str(200, [("content-type", "text/plain")], "stored\\n")
server = Server(Floor(), "127.0.0.1", int(sys.argv[1]), http=HTTPModes.http1, websockets=False,
                backlog=4096, backpressure=4096, log_enabled=False)
asyncio.run(server.serve())
"""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


async def load(port: int) -> list[float]:
    """Send DELIVERIES over CONNECTIONS; give each one's seconds."""
    headers, body = signed("veriff", SECRET, {"Content-Type": "application/json"}, BODY)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = (
        f"POST /webhooks/veriff HTTP/1.1\r\nHost: bench\r\n{head}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    seconds: list[float] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(DELIVERIES // CONNECTIONS):
            began = time.perf_counter()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            await reader.readexactly(len(b"stored\n"))
            seconds.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return seconds


def measure(pid: int, port: int) -> tuple[float, float, float, float]:
    """CPU microseconds per delivery, deliveries per second, p50 and p99 in milliseconds."""
    began, cpu = time.perf_counter(), cpu_seconds(pid)
    seconds = sorted(asyncio.run(load(port)))
    spent, elapsed = cpu_seconds(pid) - cpu, time.perf_counter() - began
    count = len(seconds)
    return (
        spent / count * 1e6,
        count / elapsed,
        seconds[count // 2] * 1e3,
        seconds[count * 99 // 100] * 1e3,
    )


@contextmanager
def running() -> Iterator[tuple[Process, int, subprocess.Popen[bytes], int]]:
    """Give a warm gateway and the floor, each with its port, on a processor of their own."""
    processors = sorted(os.sched_getaffinity(0))
    others, ours = processors[:1], processors[-1:]
    os.sched_setaffinity(0, others)  # this client and Kafka, which inherits it
    with temporary_kafka() as kafka, tempfile.TemporaryDirectory() as folder:
        cluster = Cluster({"bootstrap.servers": kafka.bootstrap})
        wanted = wanted_topics(sorted(PROVIDERS), "", overrides=single_copy())
        cluster.apply(plan(wanted, {}), grow=False, say=lambda _text: None)
        port = free_port()
        floor_port, admin = port + 1, port + 2
        environ = {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "GATEWAY_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "GATEWAY_SINGLE_COPY": "1",
            "VERIFF_SECRET": SECRET,
        }
        gateway = Process(["gateway", "serve"], environ, admin, Path(folder) / "gateway.log")
        floor = subprocess.Popen([sys.executable, "-c", FLOOR, str(floor_port), SECRET], cwd=ROOT)
        try:
            gateway.wait_ready()
            for pid in (gateway.popen.pid, floor.pid):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    os.sched_setaffinity(int(thread.name), ours)
            measure(gateway.popen.pid, port)  # warm
            measure(floor.pid, floor_port)
            yield gateway, port, floor, floor_port
        finally:
            gateway.stop()
            floor.kill()
            floor.wait()
            os.sched_setaffinity(0, processors)


def main() -> None:
    """Print the table."""
    with running() as (gateway, port, floor, floor_port):
        rounds = [
            (measure(floor.pid, floor_port), measure(gateway.popen.pid, port))
            for _ in range(ROUNDS)
        ]
        memory = resident_mb(gateway.popen.pid)
    print(
        f"gateway, {len(BODY):,}-byte body, {CONNECTIONS} connections, {ROUNDS} rounds of "
        f"{DELIVERIES:,}; python {platform.python_version()}, granian {version('granian')}, "
        f"confluent-kafka {version('confluent-kafka')} (librdkafka "
        f"{confluent_kafka.libversion()[0]}), Apache Kafka 4.3.1"
    )
    print(f"{'':24}{'CPU us':>8}{'per s':>9}{'p50 ms':>8}{'p99 ms':>8}")
    for name, index in (("floor: HTTP and HMAC", 0), ("gateway: stored in Kafka", 1)):
        median = [
            statistics.median(column) for column in zip(*(r[index] for r in rounds), strict=True)
        ]
        print(f"{name:24}{median[0]:8.1f}{median[1]:9,.0f}{median[2]:8.1f}{median[3]:8.1f}")
    ratio = statistics.median(ours[0] / floor[0] for floor, ours in rounds)
    print(f"CPU of gateway / floor: {ratio:.2f}; resident {memory:.0f} MB")


if __name__ == "__main__":
    main()
