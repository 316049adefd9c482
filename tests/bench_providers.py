"""What each provider costs, and what the heavy one does to its neighbours. Run by `make bench`.

First the pure parts per endpoint of the demonstration, on its first fixture: CPU time of the
gateway's `receive()` and of the consumer's `decide()` (normalize, identity, encode). Then latency:
paced Veriff deliveries at a real gateway on a real Kafka, alone and beside Pleenk deliveries,
whose signature is verified in threads; rounds alternate.
"""

import asyncio
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from consumers.codec import encoder, single_object_prefix
from consumers.fate import Fates
from consumers.normalizers import NORMALIZERS
from consumers.records import Record
from deploy.child import free_port
from deploy.endpoints import ENDPOINTS, endpoint_for, make_endpoint, write_endpoints
from deploy.kafka import temporary_kafka
from deploy.topics import Cluster, plan, single_copy, wanted_topics
from gateway.delivery import raw_topic
from gateway.headers import Headers
from gateway.providers import PROVIDERS
from gateway.receive import receive
from gateway.send import fixtures, signed
from tests.conftest import KEYS
from tests.deployment import Process
from tests.senders import SENDERS

NOW = 1_700_000_000.0
ROUNDS, SECONDS, CONNECTIONS = 3, 8.0, 16
VERIFF_PER_SECOND, PLEENK_PER_SECOND = 400, 200


def microseconds(work: Callable[[], object]) -> float:
    """CPU time of one call, the best of five runs."""
    best = float("inf")
    for _ in range(5):
        count, began = 0, time.process_time()
        while (spent := time.process_time() - began) < 0.2:
            work()
            count += 1
        best = min(best, spent / count)
    return best * 1e6


def costs(sender) -> tuple[float, float]:
    """CPU microseconds of receiving a sender's first body, and of deciding its fate."""
    pairs, body = sender.signed(now=NOW)
    endpoint, headers = sender.endpoint(), Headers(pairs)
    name = sender.provider.name
    fates = Fates(name, NORMALIZERS[name], encoder(single_object_prefix()), KEYS)
    made = receive(endpoint, headers, body, NOW, "0" * 32)
    record = Record(
        topic=raw_topic(name), partition=0, offset=0, timestamp=0, key=made.key, value=made.body,
        headers=[*made.headers],
    )  # fmt: skip
    assert fates.decide(record).failure is None
    return (
        microseconds(lambda: receive(endpoint, headers, body, NOW, "0" * 32)),
        microseconds(lambda: fates.decide(record)),
    )


def request_of(made, path: str) -> bytes:
    """A whole signed request of an endpoint's first fixture."""
    known = made.endpoint
    found = next(one for one in fixtures(known.provider) if endpoint_for(one) == known)
    headers, body = signed(known.provider, made.secret, found.headers, found.body, known.options)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def paced(port: int, request: bytes, per_second: float, seconds: list[float]) -> None:
    """Send so many a second over CONNECTIONS; append each one's seconds from its due time."""
    interval = CONNECTIONS / per_second
    began = time.perf_counter()

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        due = began + interval * number / CONNECTIONS
        while due < began + SECONDS:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            await reader.readexactly(len(b"stored\n"))
            seconds.append(time.perf_counter() - due)
            due += interval
        writer.close()

    await asyncio.gather(*map(connection, range(CONNECTIONS)))


def latency(port: int, veriff: bytes, pleenk: bytes | None) -> tuple[float, float]:
    """p50 and p99 of the Veriff deliveries, in milliseconds."""
    mine: list[float] = []

    async def both() -> None:
        traffic = [paced(port, veriff, VERIFF_PER_SECOND, mine)]
        if pleenk is not None:
            traffic.append(paced(port, pleenk, PLEENK_PER_SECOND, []))
        await asyncio.gather(*traffic)

    asyncio.run(both())
    mine.sort()
    return mine[len(mine) // 2] * 1e3, mine[len(mine) * 99 // 100] * 1e3


def main() -> None:
    """Print both tables."""
    print(
        f"CPU per delivery; python {platform.python_version()}, "
        f"cryptography {version('cryptography')}, msgspec {version('msgspec')}"
    )
    print(f"  {'endpoint':20}{'bytes':>7}{'receive us':>12}{'decide us':>12}")
    for sender in SENDERS:
        received, decided = costs(sender)
        print(f"  {sender!s:20}{len(sender.body):7,}{received:12.1f}{decided:12.1f}")
    with temporary_kafka() as kafka, tempfile.TemporaryDirectory() as folder:
        cluster = Cluster({"bootstrap.servers": kafka.bootstrap})
        wanted = wanted_topics(sorted(PROVIDERS), "", overrides=single_copy())
        cluster.apply(plan(wanted, {}), grow=False, say=lambda _text: None)
        made = {one.name: make_endpoint(one) for one in ENDPOINTS}
        port = free_port()
        environ = {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "GATEWAY_ADMIN_LISTEN": f"127.0.0.1:{port + 1}",
            "GATEWAY_SINGLE_COPY": "1",
            "GATEWAY_ENDPOINTS": str(write_endpoints(made.values(), Path(folder))),
        }
        log = Path(folder) / "gateway.log"
        gateway = Process(["gateway", "serve"], environ, port + 1, log)
        try:
            gateway.wait_ready()
            veriff, pleenk = (
                request_of(made[name], f"/webhooks/{made[name].path}")
                for name in ("veriff", "pleenk")
            )
            latency(port, veriff, pleenk)  # warm
            rounds = [
                (latency(port, veriff, None), latency(port, veriff, pleenk)) for _ in range(ROUNDS)
            ]
        finally:
            gateway.stop()
    processors = len(os.sched_getaffinity(0))
    print(
        f"Veriff, {VERIFF_PER_SECOND} a second, on {processors} processors shared with Kafka and "
        f"the client; {ROUNDS} rounds of {SECONDS:.0f} s"
    )
    for index, name in ((0, "alone"), (1, f"beside Pleenk, {PLEENK_PER_SECOND} a second")):
        p50, p99 = (
            statistics.median(column) for column in zip(*(r[index] for r in rounds), strict=True)
        )
        print(f"  {name:30} p50 {p50:6.1f} ms   p99 {p99:6.1f} ms")


if __name__ == "__main__":
    main()
