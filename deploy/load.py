"""A steady load of signed deliveries at a gateway, and its moods: other secrets, other words."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from gateway.process import ConfigurationError
from gateway.send import Fixture, Secret, fixture, post, signed

_TIMEOUT_SECONDS = 30.0
_AT_ONCE = 64

_SENT: Mapping[str, tuple[str, Sequence[str]]] = {
    "onfido": ("run-approved", ["a0000000-0000-4000-8000-000000000001"]),
    "pawapass": ("approved", ["a1b2c3d4-5678-9012-abcd-ef1234567890", "aB1cD2eF"]),
    "pleenk": ("approve", ["d0000000-0000-4000-8000-000000000101"]),
    "plexy": ("payment-succeeded", ["evt_1234567890", "pay_abc123"]),
    "treezor": ("user-kycreview", ["6461762"]),
    "veriff": ("decision-approved", ["12df6045-3846-3e45-946a-14fa6136d78b"]),
}
"""For each provider a fixture, and the ids in it whose last digits make it another delivery."""

Mood = Callable[[bytes], bytes]
"""What a provider does to the body it would usually send."""


def as_ever(body: bytes) -> bytes:
    """Send what is usually sent."""
    return body


def fixture_of(provider: str) -> Fixture:
    """Give the fixture a provider of the load sends. Raises ConfigurationError if there is none."""
    if provider not in _SENT:
        raise ConfigurationError(
            f"the load does not know what {provider} sends: add a row to _SENT in deploy/load.py"
        )
    return fixture(provider, _SENT[provider][0])


def anew(provider: str, body: bytes, number: int) -> bytes:
    """Give the body of a provider's fixture ids of its own: else it would be a duplicate."""
    for token in _SENT[provider][1]:
        digits = f"{number:07d}"[-min(7, len(token) - 1) :]
        body = body.replace(token.encode(), (token[: -len(digits)] + digits).encode())
    return body


class Sender:
    """One provider that sends a delivery every `1 / per_second` seconds, whatever is answered.

    It does not wait for one answer before it sends the next: a load that did would send least
    while the gateway is slow, and so hide that it is. `secret` and `mood` may be changed while it
    sends.
    """

    def __init__(self, fixture: Fixture, url: str, secret: Secret, per_second: float) -> None:
        self.provider = fixture.provider
        self.secret = secret
        self.mood: Mood = as_ever
        self._fixture = fixture
        self._url = url
        self._pause = 1.0 / per_second
        self._numbers = itertools.count(int(time.time()))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sends-{self.provider}")

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more, and wait for the answers."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        with ThreadPoolExecutor(_AT_ONCE, self._thread.name) as connections:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                connections.submit(self._send)
                due = max(due + self._pause, time.monotonic() - 1.0)  # nor are missed ones made up

    def _send(self) -> None:
        body = anew(self.provider, self._fixture.body, next(self._numbers))
        headers, sent = signed(
            self.provider,
            self.secret,
            self._fixture.headers,
            self.mood(body),
            self._fixture.options,
        )
        with contextlib.suppress(ConfigurationError):  # nobody answers: the metrics tell
            post(self._url, headers, sent, _TIMEOUT_SECONDS)


class Load:
    """A sender for each provider; as a context manager it stops with the block."""

    def __init__(
        self,
        providers: Iterable[str],
        urls: Mapping[str, str],
        secrets: Mapping[str, Secret],
        per_second: float,
    ) -> None:
        self.of = {
            name: Sender(fixture_of(name), urls[name], secrets[name], per_second)
            for name in providers
        }

    def __enter__(self) -> Self:
        for sender in self.of.values():
            sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        for sender in self.of.values():
            sender.stop()
