"""The HTTP edge, RSGI on granian, and nothing but HTTP: what to answer is decided elsewhere."""

import asyncio
import hmac
import itertools
import os
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import structlog
from granian.rsgi import HTTPProtocol, ProtocolClosed, ProtocolError, Scope

from gateway.headers import Headers
from gateway.heavy import Elsewhere
from gateway.metrics import UNKNOWN, EndpointMetrics, GatewayMetrics
from gateway.process import Sparing, raised_at
from gateway.receive import Endpoint, receive
from gateway.rejections import (
    BODY_TIMEOUT,
    BODY_TOO_LARGE,
    CLIENT_GONE,
    METHOD_NOT_ALLOWED,
    NOT_READY,
    OVERLOADED,
    SHUTTING_DOWN,
    UNFORESEEN,
    UNKNOWN_ENDPOINT,
    WRONG_PATH_TOKEN,
    Reason,
    Rejection,
)
from gateway.settings import Tuning
from gateway.signatures import Acknowledged

Answer = tuple[int, list[tuple[str, str]], str]

_TEXT = ("content-type", "text/plain; charset=utf-8")
_STORED: Answer = (200, [_TEXT], "stored\n")
_ACKNOWLEDGED: Answer = (200, [_TEXT], "acknowledged\n")
_AT_ONCE = 64 * 1024
"""Declared bodies up to this size are taken in one piece, which costs a third of the loop."""
_WATCH_SECONDS = 0.25
_MOST_NOTES = 100
"""Different lines a minute about what was acknowledged: anybody may send a confirmation."""
_CLOSING = frozenset({BODY_TOO_LARGE.label, BODY_TIMEOUT.label, CLIENT_GONE.label})
"""Refusals after which unread bytes may follow: the connection is closed."""

log = structlog.get_logger()


class Store(Protocol):
    """Where deliveries go: `gateway.publish.Publisher`."""

    def publish(self, delivery: Any) -> Awaitable[None]:
        """Store a delivery; raises Rejection, now or when awaited."""
        ...


class Webhooks:
    """The application: POST /webhooks/<endpoint>[/<path token>]."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        store: Store,
        metrics: GatewayMetrics,
        tuning: Tuning,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._tuning = tuning
        self._sparing = Sparing()
        self._notes = Sparing(interval_seconds=60.0, most_kinds=_MOST_NOTES)
        self._in_progress = 0
        self._body_bytes = 0
        self._reading: dict[asyncio.Task[Any] | None, float] = {}
        self._closed: Reason | None = NOT_READY
        self._elsewhere = Elsewhere(tuning.max_in_flight, tuning.deadline)
        self._loop = asyncio.get_running_loop()
        # Delivery ids: 64 random bits of this process, then a count.
        self._process_id = os.urandom(8).hex()
        self._numbers = itertools.count(1)
        self._idle = asyncio.Event()
        self._idle.set()
        self._endpoints: Mapping[str, Endpoint] = {}
        self._of: dict[str, EndpointMetrics] = {}
        self.use(endpoints)

    def use(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Answer for these endpoints from the next request on; nothing is told of others."""
        for name, held in list(self._of.items()):
            endpoint = endpoints.get(name)
            if endpoint is None or endpoint.provider.name != held.provider:
                self._metrics.forget(self._of.pop(name))
        for name, endpoint in endpoints.items():
            self._of[name] = EndpointMetrics(
                self._metrics,
                name,
                endpoint.provider.name,
                endpoint.scheme.key_ids,
                endpoint.scheme.names,
                endpoint.provider.refusal_status,
            )
        self._endpoints = endpoints
        self._elsewhere.keep(endpoints)

    def open(self) -> None:
        """Begin to accept deliveries."""
        self._closed = None

    async def drain(self) -> None:
        """Refuse new deliveries and wait until every request under way has its answer."""
        self._closed = SHUTTING_DOWN
        await self._idle.wait()

    def abandon_bodies(self) -> None:
        """End every request whose body is still awaited."""
        for task in list(self._reading):
            del self._reading[task]
            if task is not None:
                task.cancel()

    async def __rsgi__(self, scope: Scope, proto: HTTPProtocol) -> None:
        """Answer one request, whatever happens."""
        began = time.perf_counter()
        delivery_id = f"{self._process_id}{next(self._numbers):016x}"
        parts = scope.path.split("/")
        name = self._named(parts)
        # Held to the end: a reload meanwhile may drop the endpoint, or the key that verifies.
        metrics = self._of.get(name, self._metrics.of_unknown)
        metrics.in_progress.value += 1
        self._in_progress += 1
        self._idle.clear()
        try:
            answer = await self._answer(scope, parts, proto, delivery_id, metrics)
            status, headers, text = answer
            series = metrics.stored_seconds if answer is _STORED else metrics.other_seconds
            series.observe(time.perf_counter() - began)
            proto.response_str(status, headers, text)
        finally:
            metrics.in_progress.value -= 1
            self._in_progress -= 1
            if not self._in_progress:
                self._idle.set()

    async def _answer(
        self,
        scope: Scope,
        parts: Sequence[str],
        proto: HTTPProtocol,
        delivery_id: str,
        metrics: EndpointMetrics,
    ) -> Answer:
        endpoint: Endpoint | None = None
        try:
            endpoint = self._route(scope, parts)
            answer = await self._accepted(endpoint, scope, proto, delivery_id, metrics)
            ended = metrics.stored if answer is _STORED else metrics.ended("ignored", 200)
            ended.value += 1
        except Rejection as rejection:
            return self._refusal(rejection, endpoint, metrics, delivery_id)
        except Exception as error:  # noqa: BLE001 - the second of two: one request
            self._tell_unforeseen(error, metrics.endpoint, delivery_id)
            return self._refusal(Rejection(UNFORESEEN), endpoint, metrics, delivery_id)
        return answer

    def _route(self, scope: Scope, parts: Sequence[str]) -> Endpoint:
        if len(parts) not in {3, 4} or parts[1] != "webhooks":
            raise Rejection(UNKNOWN_ENDPOINT, "the path is not /webhooks/<endpoint>")
        endpoint = self._endpoints.get(parts[2])
        if endpoint is None:
            raise Rejection(UNKNOWN_ENDPOINT, "no such endpoint is configured")
        token = parts[3] if len(parts) == 4 else None
        if endpoint.path_token is not None:
            given = (token or "").encode("utf-8", "surrogatepass")
            if not hmac.compare_digest(given, endpoint.path_token):
                raise Rejection(WRONG_PATH_TOKEN, "the path token is missing or wrong")
        elif token is not None:
            raise Rejection(UNKNOWN_ENDPOINT, "this endpoint has no path token")
        if scope.method != "POST":
            raise Rejection(METHOD_NOT_ALLOWED, "deliveries are POSTed")
        return endpoint

    async def _accepted(
        self,
        endpoint: Endpoint,
        scope: Scope,
        proto: HTTPProtocol,
        delivery_id: str,
        metrics: EndpointMetrics,
    ) -> Answer:
        if self._closed is not None:
            raise Rejection(self._closed)
        headers = Headers(scope.headers.items(), _names(scope))
        limit = min(endpoint.provider.body_limit, self._tuning.body_limit)
        declared = _declared(headers, limit)
        body = await self._body(proto, declared, limit)
        try:
            now = time.time()
            if endpoint.scheme.is_heavy(body):
                received = await self._elsewhere.run(
                    endpoint.name, partial(receive, endpoint, headers, body, now, delivery_id)
                )
            else:
                received = receive(endpoint, headers, body, now, delivery_id)
            if isinstance(received, Acknowledged):
                self._note(received, endpoint, delivery_id)
                return _ACKNOWLEDGED
            await self._store.publish(received)
        finally:
            self._body_bytes -= len(body)
        metrics.body_bytes.observe(len(body))
        provenance = received.provenance
        metrics.key_used[provenance.key_id, provenance.scheme].value += 1
        if provenance.freshness == "stale":
            metrics.stale.value += 1
        return _STORED

    async def _body(self, proto: HTTPProtocol, declared: int | None, limit: int) -> bytes:
        """Read the body within its limits of size and time.

        granian has no body timeout, and `asyncio.timeout` around every request costs as much as
        verifying it: the watch cancels the few that are late. A body cut off by the client ends
        normally (granian 2.8): only the declared length tells. A cut chunked body cannot be
        told; its signature will not match.
        """
        task = asyncio.current_task(self._loop)  # without the loop it asks the kernel for our pid
        self._reading[task] = time.monotonic()
        try:
            if declared is not None and declared <= _AT_ONCE:
                body = await proto()
                if self._body_bytes + len(body) > self._tuning.max_body_bytes:
                    raise Rejection(OVERLOADED, "too many bytes of bodies are held")
                self._body_bytes += len(body)
            else:
                body = await self._chunks(proto, limit)
        except asyncio.CancelledError as error:
            if task in self._reading:
                raise
            raise Rejection(BODY_TIMEOUT, "the body did not come in time") from error
        except (ProtocolClosed, ProtocolError) as error:
            raise Rejection(CLIENT_GONE, "the client went away") from error
        finally:
            self._reading.pop(task, None)
        if declared is not None and len(body) < declared:
            self._body_bytes -= len(body)
            raise Rejection(CLIENT_GONE, "fewer bytes came than were declared")
        return body

    async def _chunks(self, proto: HTTPProtocol, limit: int) -> bytes:
        """Read a large or chunked body piece by piece, so that no sender chooses our memory."""
        chunks: list[bytes] = []
        held = 0
        whole = False
        try:
            async for chunk in proto:
                held += len(chunk)
                self._body_bytes += len(chunk)
                if held > limit:
                    raise Rejection(BODY_TOO_LARGE, f"more than {limit} bytes came")
                if self._body_bytes > self._tuning.max_body_bytes:
                    raise Rejection(OVERLOADED, "too many bytes of bodies are held")
                chunks.append(chunk)
            whole = True
        finally:
            if not whole:
                self._body_bytes -= held
        return b"".join(chunks)

    async def watch_bodies(self) -> None:
        """End requests whose body does not come in time; runs beside the server."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            oldest = time.monotonic() - self._tuning.body_timeout
            for task, began in list(self._reading.items()):
                if began > oldest:
                    break  # in order of arrival
                del self._reading[task]
                if task is not None:
                    task.cancel()

    def _note(self, acknowledged: Acknowledged, endpoint: Endpoint, delivery_id: str) -> None:
        # Told apart by what they say: to hide the genuine line, a stranger must send _MOST_NOTES
        # different ones within a minute, and is then seen by the count of those held back.
        kind = f"{endpoint.name} {acknowledged.reason} {acknowledged.detail}"
        held = self._notes.admit(kind, time.monotonic())
        if held is not None:
            log.warning(
                "acknowledged",
                endpoint=endpoint.name,
                reason=acknowledged.reason,
                detail=acknowledged.detail,
                delivery_id=delivery_id,
                held_back=held,
            )

    def _tell_unforeseen(self, error: Exception, endpoint: str, delivery_id: str) -> None:
        # The sender learns nothing of it, the log neither its text nor locals.
        name, place = type(error).__name__, raised_at(error)
        held = self._sparing.admit(f"{endpoint} {name} {place}", time.monotonic())
        if held is not None:
            log.error(
                "unforeseen",
                endpoint=endpoint,
                error=name,
                raised_at=place,
                delivery_id=delivery_id,
                held_back=held,
            )

    def _refusal(
        self,
        rejection: Rejection,
        endpoint: Endpoint | None,
        metrics: EndpointMetrics,
        delivery_id: str,
    ) -> Answer:
        reason = rejection.reason
        name = metrics.endpoint
        status = reason.status
        if reason.provider_decides and endpoint is not None:
            status = endpoint.provider.refusal_status or status
        metrics.ended(reason.result, status).value += 1
        metrics.rejections[reason.label].value += 1
        held = self._sparing.admit(f"{name} {reason.label}", time.monotonic())
        if held is not None:
            log.warning(
                "refused",
                endpoint=name,
                reason=reason.label,
                status=status,
                detail=rejection.detail,
                delivery_id=delivery_id,
                held_back=held,
            )
        headers = [_TEXT]
        if status == 503:
            headers.append(("retry-after", str(self._tuning.retry_after)))
        elif status == 405:
            headers.append(("allow", "POST"))
        if reason.label in _CLOSING:
            headers.append(("connection", "close"))
        # Nobody learns from the answer whether the endpoint or the path token was wrong.
        text = "not found" if status == 404 else reason.label
        return status, headers, f"{text}\n"

    def _named(self, parts: Sequence[str]) -> str:
        """Give the endpoint a path names, if it is one of ours, for the counters."""
        ours = len(parts) > 2 and parts[1] == "webhooks" and parts[2] in self._endpoints
        return parts[2] if ours else UNKNOWN


def _names(scope: Scope) -> Iterator[str]:
    """List the header names only if somebody asks: few requests need them."""
    yield from scope.headers.keys()


def _declared(headers: Headers, limit: int) -> int | None:
    """Read Content-Length; None for a chunked body. Raises Rejection if it is over the limit."""
    text = headers.get("content-length")
    if not text or headers.get("transfer-encoding"):
        return None  # with both, chunked wins (RFC 9112, 6.3), and granian closes afterwards
    declared = int(text)
    if declared > limit:
        raise Rejection(BODY_TOO_LARGE, f"{declared} bytes are declared, {limit} are taken")
    return declared
