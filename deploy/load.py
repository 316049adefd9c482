"""A steady load of signed deliveries at a gateway, and its moods: other secrets, other words."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

from gateway.process import ConfigurationError
from gateway.send import Fixture, Secret, fixture, post, signed

_TIMEOUT_SECONDS = 30.0

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
    """Give the fixture a provider of the load sends. Raises ConfigurationError if it is gone."""
    return fixture(provider, _SENT[provider][0])


def anew(provider: str, body: bytes, number: int) -> bytes:
    """Give the body of a provider's fixture ids of its own: else it would be a duplicate."""
    for token in _SENT[provider][1]:
        digits = f"{number:07d}"[-min(7, len(token) - 1) :]
        body = body.replace(token.encode(), (token[: -len(digits)] + digits).encode())
    return body


class Sender:
    """One provider that sends a delivery every `1 / per_second` seconds, whatever is answered.

    A late answer holds the next delivery back (the provider has one connection), so the rate is
    a limit. `secret` and `mood` may be changed while it sends.
    """

    def __init__(self, fixture: Fixture, url: str, secret: Secret, per_second: float) -> None:
        self.provider = fixture.provider
        self.secret = secret
        self.mood: Mood = as_ever
        self.answers: dict[int, int] = {}
        self._fixture = fixture
        self._url = url
        self._pause = 1.0 / per_second
        self._numbers = itertools.count(int(time.time()))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name=f"sends-{self.provider}")

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            body = anew(self.provider, self._fixture.body, next(self._numbers))
            headers, sent = signed(
                self.provider,
                self.secret,
                self._fixture.headers,
                self.mood(body),
                self._fixture.options,
            )
            status = 0  # nobody answered
            with contextlib.suppress(ConfigurationError):
                status = post(self._url, headers, sent, _TIMEOUT_SECONDS).status
            self.answers[status] = self.answers.get(status, 0) + 1
            due = max(due + self._pause, time.monotonic() - 1.0)  # what was missed is not made up
            self._stop.wait(max(0.0, due - time.monotonic()))


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
