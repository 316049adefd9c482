"""Whoever sends: every endpoint of the demonstration, with keys of the tests."""

from functools import cache

import msgspec

from deploy.endpoints import ENDPOINTS, DemoEndpoint, endpoint_for
from gateway.providers import PROVIDERS, Provider
from gateway.receive import Endpoint
from gateway.send import Fixture, fixtures
from gateway.signatures import Scheme
from tests.sample_keys import held, sending

PATH_TOKEN = b"path-token-of-the-tests-0123456789"


class Sender(msgspec.Struct, frozen=True):
    """A provider as it sends to one endpoint."""

    known: DemoEndpoint

    def __str__(self) -> str:
        return self.known.name

    @property
    def provider(self) -> Provider:
        """The provider's registration."""
        return PROVIDERS[self.known.provider]

    @property
    def body(self) -> bytes:
        """A body this provider would send there: the first fixture's that is not ignored."""
        return _first_body(self.known.name)

    def scheme(self, *numbers: int) -> Scheme:
        """Verify with the keys of these numbers; number 1 without any."""
        keys = [held(self.provider.name, number) for number in numbers or (1,)]
        return self.provider.scheme(keys, self.known.options)

    def signed(
        self, body: bytes | None = None, *, number: int = 1, now: float = 1_700_000_000.0
    ) -> tuple[list[tuple[str, str]], bytes]:
        """Give the header pairs and the body as this provider would send them."""
        scheme = self.provider.scheme([sending(self.provider.name, number)], self.known.options)
        proof = scheme.sign(self.body if body is None else body, now)
        return list(proof.headers.items()), proof.body

    def endpoint(self, number: int = 1) -> Endpoint:
        """Build the endpoint this sender knocks at."""
        scheme = self.scheme(number)
        return Endpoint(
            name=self.known.name,
            provider=self.provider,
            scheme=scheme,
            environment="sandbox",
            path_token=PATH_TOKEN if scheme.path_token_because else None,
        )


@cache
def _first_body(name: str) -> bytes:
    mine = [found for found in fixtures() if endpoint_for(found).name == name]
    ignored = [found for found in mine if _is_ignored(found)]
    return next(found.body for found in mine if found not in ignored)


def _is_ignored(fixture: Fixture) -> bool:
    events = fixture.folder / "events.json"  # which a new fixture has not yet
    return events.exists() and events.read_bytes().strip() == b"[]"


SENDERS = [Sender(known) for known in ENDPOINTS]


def sender(name: str) -> Sender:
    """Give the sender of an endpoint's name."""
    return next(one for one in SENDERS if one.known.name == name)


def sender_of(fixture: Fixture) -> Sender:
    """Give the sender of a fixture."""
    return Sender(endpoint_for(fixture))
