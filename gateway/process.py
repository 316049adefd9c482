"""What every process needs: logs, secret files, the admin address, signals, exit codes."""

import contextlib
import ctypes
import gc
import logging
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

_PR_SET_PDEATHSIG = 1

VERSION = "0.1.0"

EXIT_FAILED = 1
EXIT_MISUSED = 2

UNREACHABLE_SECONDS = 15.0
"""A process that has reached no broker for so long is not ready."""

LEAST_SECRET_BYTES = 16
"""HMAC works with any key, the empty one included: then anyone could sign."""


class ConfigurationError(Exception):
    """The configuration cannot be used; the text is one sentence that says what to change."""


class Address(msgspec.Struct, frozen=True):
    """A host and port to listen on."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, variable: str) -> "Address":
        """Read host:port, [ipv6]:port or :port. Raises ConfigurationError naming the variable."""
        host, colon, port = text.rpartition(":")
        digits = port.isascii() and port.isdigit() and len(port) <= 5
        if not colon or not digits or int(port) > 65535:
            raise ConfigurationError(
                f"{variable} is {text!r}; it should be host:port, for example 127.0.0.1:8080"
            )
        return cls(host.strip("[]") or "0.0.0.0", int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def read_secret_file(path: str | Path, variable: str) -> str:
    """Read a secret from a file, losing exactly one trailing newline."""
    try:
        # As bytes: text mode would turn every line end within the secret into a newline.
        text = Path(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"{variable} names {path}, which cannot be read: {reason}") from (
            error
        )
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")


def checked_secret(value: str, name: str) -> bytes:
    """Give a secret's bytes; refuse one that is empty or too short, never showing it."""
    try:
        secret = value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{name} is not UTF-8 text") from None
    if len(secret) < LEAST_SECRET_BYTES:
        held = "set but empty" if not secret else f"only {len(secret)} bytes long"
        raise ConfigurationError(
            f"{name} is {held}; a secret needs at least {LEAST_SECRET_BYTES} bytes"
        )
    return secret


def log_level(environ: Mapping[str, str]) -> str:
    """Read LOG_LEVEL."""
    level = environ.get("LOG_LEVEL", "info")
    if level.upper() not in logging.getLevelNamesMapping():
        raise ConfigurationError(
            f"LOG_LEVEL is {level!r}; it should be debug, info, warning or error"
        )
    return level


def raised_at(error: BaseException) -> str:
    """Say where an error was raised; neither its text nor locals, which may hold payload."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "$"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}"


def start_logging(level: str = "info") -> None:
    """Log to stderr: JSON lines, or a human form on a terminal. No payload ever stands in a log."""
    on_terminal = sys.stderr.isatty()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if on_terminal:
        processors.append(structlog.dev.ConsoleRenderer())
    else:
        processors.append(structlog.processors.JSONRenderer(serializer=_json))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _json(value: Any, **_: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


_FURTHER = "further kinds"


class Sparing:
    """Lets one log line of a kind through per interval and counts the ones held back.

    Where kinds hold a sender's words, `most_kinds` bounds how many different ones pass in an
    interval, and so the memory of them; all further ones are one kind together.
    """

    def __init__(self, interval_seconds: float = 10.0, most_kinds: int = 10_000) -> None:
        self._interval = interval_seconds
        self._most_kinds = most_kinds
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def admit(self, kind: str, now: float) -> int | None:
        """Give how many lines of this kind were held back since the last, or None to hold back."""
        last = self._last.get(kind)
        if last is None and len(self._last) >= self._most_kinds:
            self._forget(now)
            if len(self._last) >= self._most_kinds:
                kind = _FURTHER
                last = self._last.get(kind)
        if last is not None and now - last < self._interval:
            self._held[kind] = self._held.get(kind, 0) + 1
            return None
        self._last[kind] = now
        return self._held.pop(kind, 0)

    def _forget(self, now: float) -> None:
        """Forget the kinds whose interval is over."""
        for kind in [kind for kind, last in self._last.items() if now - last >= self._interval]:
            del self._last[kind]
            self._held.pop(kind, None)


class Condition(msgspec.Struct, frozen=True):
    """Whether one condition of readiness holds, and since when; `problem` is empty if it does."""

    name: str
    problem: str
    since: float


class Readiness(Collector):
    """Named conditions of readiness; a process is ready when every one of them holds.

    Each remembers since when it holds or does not, by the wall clock `now`. Is a collector too:
    its admin address exposes the conditions as `verihook_ready`. Any thread may ask or set.
    """

    def __init__(self, *conditions: str, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        since = now()
        self._state = {name: Condition(name, "not yet", since) for name in conditions}

    def set(self, condition: str, problem: str | None = None) -> None:
        """Say that a condition holds (no problem) or what is wrong with it.

        Another problem of a condition that did not hold changes the text, not the time.
        """
        text = problem or ""
        with self._lock:
            before = self._state.get(condition)
            if before is not None and before.problem == text:
                return
            same = before is not None and bool(before.problem) == bool(text)
            since = before.since if before is not None and same else self._now()
            self._state[condition] = Condition(condition, text, since)

    def problems(self) -> dict[str, str]:
        """Give each condition that does not hold, with what is wrong."""
        return {one.name: one.problem for one in self._conditions() if one.problem}

    def lines(self) -> list[str]:
        """Say of each condition whether it holds, or what is wrong, and since when."""
        lines = []
        for one in self._conditions():
            since = datetime.fromtimestamp(one.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            seconds = max(0, int(self._now() - one.since))
            held = f"{one.problem}, since {since} ({seconds} s)" if one.problem else ""
            lines.append(f"{one.name}: {held or f'ok since {since}'}")
        return lines

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Name what is exposed: a registry takes it once."""
        return self.collect()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Give every condition as 1 or 0."""
        family = GaugeMetricFamily(
            "verihook_ready",
            "Whether a condition of readiness holds (1) or not (0); /readyz?verbose on the same "
            "address says what is wrong and since when.",
            labels=("condition",),
        )
        for one in self._conditions():
            family.add_metric((one.name,), 0.0 if one.problem else 1.0)
        return (family,)

    def _conditions(self) -> list[Condition]:
        with self._lock:
            return list(self._state.values())


class Admin:
    """The admin address of one process: /metrics, /livez, /readyz; its own thread.

    /livez never looks at Kafka: a restart does not mend a broker. /readyz says "ready" or "not
    ready"; /readyz?verbose also names every condition and since when it holds or does not.
    /metrics shows the registry and the conditions. `actions` are further POST paths, each
    answering with one line of text; they are called in threads of this address, never two at
    once. A browser may not POST.
    """

    def __init__(
        self,
        address: Address,
        registry: CollectorRegistry,
        readiness: Readiness,
        actions: Mapping[str, Callable[[], str]] | None = None,
    ) -> None:
        try:
            self._server = _AdminServer(address, registry, readiness, actions or {})
        except (OSError, UnicodeError) as error:  # the latter: a host that cannot be encoded
            why = error.strerror if isinstance(error, OSError) else "that is no host"
            raise ConfigurationError(
                f"cannot listen on {address} for metrics and health: {why}; choose a free port of "
                "this machine"
            ) from error
        with contextlib.suppress(ValueError):  # the registry has it already
            registry.register(readiness)
        self.address = Address(address.host, self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="admin", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering; the last thing a process does."""
        self._server.shutdown()
        self._server.server_close()


class _AdminServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16

    def __init__(
        self,
        address: Address,
        registry: CollectorRegistry,
        readiness: Readiness,
        actions: Mapping[str, Callable[[], str]],
    ) -> None:
        self.registry = registry
        self.readiness = readiness
        self.actions = actions
        self.acting = threading.Lock()
        # One page at a time: many at once would take the interpreter from the loop for long.
        self.writing = threading.Lock()
        super().__init__((address.host, address.port), _Answering)

    def server_bind(self) -> None:
        # The base class asks the resolver for the host's name here, which can hang for seconds.
        # A process that starts again right away finds its port still held by answered scrapes.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name = str(self.server_address[0])
        self.server_port = self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that went away is no event of ours."""


_PAGES = frozenset({"/metrics", "/livez", "/ping", "/readyz", "/ready"})


class _Answering(BaseHTTPRequestHandler):
    server: _AdminServer
    server_version = "verihook"
    sys_version = ""
    timeout = 10

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        match path:
            case "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                with self.server.writing:
                    page = encode(self.server.registry)
                self._answer(200, page, content_type)
            case "/livez" | "/ping":
                self._answer(200, b"live\n")
            case "/readyz" | "/ready":
                problems = self.server.readiness.problems()
                text = "ready\n" if not problems else "not ready\n"
                if "verbose" in query:
                    text += "".join(f"{line}\n" for line in self.server.readiness.lines())
                self._answer(503 if problems else 200, text.encode())
            case _ if path in self.server.actions:
                self._answer(405, b"this is done by POST\n", allow="POST")
            case _:
                self._answer(404, b"try /metrics, /livez or /readyz\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        act = self.server.actions.get(path)
        if act is None and path in _PAGES:
            self._answer(405, b"this is read by GET\n", allow="GET")
        elif act is None:
            known = ", ".join(sorted(self.server.actions)) or "nothing"
            self._answer(404, f"here one can POST to {known}\n".encode())
        elif "Origin" in self.headers:
            # A page that somebody on this machine looks at could do it otherwise.
            self._answer(403, b"no page in a browser may do this\n")
        else:
            with self.server.acting:
                said = act()
            self._answer(200, f"{said}\n".encode())

    def _answer(
        self, code: int, body: bytes, content_type: str = "text/plain", allow: str = ""
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if allow:
            self.send_header("Allow", allow)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Scrapes are not news."""


def on_stop_signals(stop: Callable[[], object]) -> None:
    """Call `stop` at the first SIGTERM or SIGINT; a second one ends the process at once."""
    seen = threading.Event()

    def received(number: int, _frame: object) -> None:
        if seen.is_set():
            # 128 + signal, as a shell reports it; nothing is flushed, the operator insisted.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        seen.set()
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, received)


def end_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies (Linux; elsewhere nothing)."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        return


def settle_memory() -> None:
    """Spare the collector the objects that live as long as the process.

    What one request or record leaves behind is freed by reference counts; with the defaults the
    collector walked everything imported again and again, a fifth of the gateway's CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
