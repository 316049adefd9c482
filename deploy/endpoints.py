"""The endpoints of a demonstration: which there are, their fresh secrets, the gateway's file."""

import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from gateway.delivery import CANARY
from gateway.process import ConfigurationError
from gateway.providers import EVERY, PROVIDERS
from gateway.send import Fixture, Secret, fresh_secret, signing_key


class DemoEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of the demonstration: a row of the gateway's endpoints file."""

    name: str
    provider: str
    options: Mapping[str, str] = {}


ENDPOINTS: Sequence[DemoEndpoint] = (
    *(DemoEndpoint(name=name, provider=name) for name in PROVIDERS),
    DemoEndpoint(name="plexy-b", provider="plexy", options={"contract": "B"}),
    DemoEndpoint(name="treezor-unsigned", provider="treezor", options={"unsigned": "accept"}),
)
"""One per provider, named as the provider; further contracts of a provider are further rows."""

CANARY_ENDPOINT = DemoEndpoint(name=CANARY, provider=CANARY)
"""Where the canary knocks; nobody else is told of it."""


class MadeEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint with its secrets: what the gateway holds, and what a sender signs with.

    `path` is its path under /webhooks, the path token included. `further` are secrets the gateway
    holds besides, by their ids.
    """

    endpoint: DemoEndpoint
    held: str
    secret: Secret
    path_token: str
    further: Mapping[str, str] = {}

    @property
    def path(self) -> str:
        """Where to knock, below /webhooks."""
        return "/".join(filter(None, (self.endpoint.name, self.path_token)))


def endpoint_for(fixture: Fixture) -> DemoEndpoint:
    """Give the endpoint a fixture was made for. Raises ConfigurationError if there is none."""
    for endpoint in ENDPOINTS:
        if (endpoint.provider, endpoint.options) == (fixture.provider, fixture.options):
            return endpoint
    raise ConfigurationError(
        f"{fixture.provider} {fixture.case} is for an endpoint with {fixture.options}, which the "
        "demonstration has not: add it to ENDPOINTS in deploy/endpoints.py"
    )


def make_endpoint(endpoint: DemoEndpoint) -> MadeEndpoint:
    """Make an endpoint's secrets, and a path token where its scheme needs one."""
    provider = EVERY[endpoint.provider]
    held, secret = fresh_secret(provider)
    scheme = provider.scheme([signing_key(provider, secret)], endpoint.options)
    token = secrets.token_urlsafe(32) if scheme.path_token_because else ""
    return MadeEndpoint(endpoint=endpoint, held=held, secret=secret, path_token=token)


def write_endpoints(made: Iterable[MadeEndpoint], folder: Path) -> Path:
    """Write GATEWAY_ENDPOINTS and a file per secret, readable by us alone; give the former."""
    lines: list[str] = []
    for one in made:
        name = one.endpoint.name
        held = {"demo": folder / name, **{key: folder / f"{name}.{key}" for key in one.further}}
        for key, file in held.items():
            write_private(file, one.further.get(key, one.held))
        lines += [
            "[[endpoint]]",
            f"name = {json.dumps(name)}",
            f"provider = {json.dumps(one.endpoint.provider)}",
            'environment = "sandbox"',
        ]
        if EVERY[one.endpoint.provider].key_pairs is not None:
            lines.append(f"public_keys_file = {json.dumps(str(held['demo']))}")
        else:
            entries = ", ".join(
                f"{{id = {json.dumps(key)}, file = {json.dumps(str(file))}}}"
                for key, file in held.items()
            )
            lines.append(f"secrets = [{entries}]")
        if one.path_token:
            lines.append(f"path_token = {json.dumps(one.path_token)}")
        if one.endpoint.options:
            lines.append("[endpoint.options]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in one.endpoint.options.items()]
    file = folder / "endpoints.toml"
    write_private(file, "\n".join(lines) + "\n")
    return file


def write_private(file: Path, text: str) -> None:
    """Write a file that only we can read, whole or not at all: somebody may be reading it."""
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
    part.replace(file)
