"""Fixtures and how to send one: signed afresh, over HTTP, as its provider would."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.process import ConfigurationError
from gateway.providers import PROVIDERS
from gateway.signatures import Secret

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"


class Fixture(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded delivery: the provider's headers but for the signature, and the exact body."""

    provider: str
    case: str
    headers: dict[str, str]
    body: bytes
    folder: Path


class Answer(msgspec.Struct, frozen=True):
    """What the gateway answered; `retry_after` in seconds."""

    status: int
    text: str
    retry_after: int | None = None


def fixtures(provider: str | None = None) -> list[Fixture]:
    """Give every fixture, or those of one provider, in the order of their names."""
    names = [provider] if provider is not None else sorted(PROVIDERS)
    return [
        fixture(name, folder.name)
        for name in names
        for folder in sorted((FIXTURES / name).iterdir())
        if folder.is_dir()
    ]


def fixture(provider: str, case: str) -> Fixture:
    """Read one fixture. Raises ConfigurationError naming the cases there are."""
    folder = FIXTURES / provider / case
    try:
        headers = msgspec.json.decode((folder / "headers.json").read_bytes(), type=dict[str, str])
        body = (folder / "body.raw").read_bytes()
    except FileNotFoundError as error:
        known = ", ".join(sorted(path.name for path in (FIXTURES / provider).glob("*/")))
        raise ConfigurationError(
            f"{provider} has no fixture {case}; there are {known or 'none'}"
        ) from error
    return Fixture(provider=provider, case=case, headers=headers, body=body, folder=folder)


def signed(
    provider: str, secret: str, headers: Mapping[str, str], body: bytes
) -> tuple[dict[str, str], bytes]:
    """Sign a delivery as the provider would, now; give the headers and the body to send."""
    scheme = PROVIDERS[provider].scheme([Secret(id="send", value=secret.encode())], {})
    proof = scheme.sign(body, time.time())
    return {**headers, **proof.headers}, proof.body


def post(url: str, headers: Mapping[str, str], body: bytes, timeout: float = 30.0) -> Answer:
    """POST a delivery. Raises ConfigurationError if nobody answers there."""
    request = urllib.request.Request(url, data=body, headers=dict(headers), method="POST")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310 - ours
            return Answer(response.status, response.read().decode().strip())
    except urllib.error.HTTPError as error:
        retry_after = error.headers.get("Retry-After")
        text = error.read().decode(errors="replace").strip()
        return Answer(error.code, text, int(retry_after) if retry_after else None)
    except (OSError, http.client.HTTPException) as error:  # refused, reset, or gone in between
        raise ConfigurationError(f"{url} does not answer; is the gateway running there?") from error
