"""Fixtures, and how to send one as its provider would: signed afresh, and where to."""

import http.client
import ipaddress
import re
import secrets
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.process import ConfigurationError
from gateway.providers import EVERY, PROVIDERS, Options, Provider
from gateway.signatures import Key

_ROOT = Path(__file__).resolve().parent.parent
FIXTURES = _ROOT / "tests" / "fixtures"
RUN_FILE = _ROOT / ".local" / "run.json"
"""What a running `make run` tells other programs."""
_SECONDS = re.compile(r"[0-9]{1,9}")
"""A Retry-After of ours; a date is of whatever stands before the gateway."""
_MOST_TEXT = 65_536
"""Bytes of an answer that are read; the gateway's is one line."""


Secret = str | Mapping[str, str]
"""What a sender signs with, as .local/run.json holds it: a text, or {"private_key_pem": PEM}."""


class Fixture(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded delivery: the provider's headers and exact body, but for the signature.

    `options` are those of the endpoint it is for; empty for the provider's usual one.
    """

    provider: str
    case: str
    headers: dict[str, str]
    body: bytes
    options: dict[str, str]
    folder: Path


class Answer(msgspec.Struct, frozen=True):
    """What the gateway answered; `retry_after` in seconds."""

    status: int
    text: str
    retry_after: int | None = None


class Unanswered(ConfigurationError):  # noqa: N818 - a state of the other side
    """Nobody answers where a delivery should go."""


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
        chosen = folder / "options.json"
        options = (
            msgspec.json.decode(chosen.read_bytes(), type=dict[str, str]) if chosen.exists() else {}
        )
    except FileNotFoundError as error:
        known = ", ".join(sorted(path.name for path in (FIXTURES / provider).glob("*/")))
        raise ConfigurationError(
            f"{provider} has no fixture {case}; there are {known or 'none'}"
        ) from error
    return Fixture(
        provider=provider, case=case, headers=headers, body=body, options=options, folder=folder
    )


class _Run(msgspec.Struct):
    urls: dict[str, str]
    secrets: dict[str, str | dict[str, str]]


def of_the_run(endpoint: str) -> tuple[str, Secret]:
    """Give the URL of an endpoint of the running `make run`, and what to sign with there.

    Raises ConfigurationError where there is no such endpoint.
    """
    try:
        run = msgspec.json.decode(RUN_FILE.read_bytes(), type=_Run)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{RUN_FILE.name} of `make run` cannot be read") from error
    if endpoint not in run.urls:
        known = ", ".join(run.urls)
        raise ConfigurationError(f"`make run` has no endpoint {endpoint}; there are {known}")
    return run.urls[endpoint], run.secrets[endpoint]


def fresh_secret(provider: Provider) -> tuple[str, Secret]:
    """Make a secret: the text the gateway holds, and what a sender signs with."""
    if provider.key_pairs is None:
        secret = secrets.token_urlsafe(32)
        return secret, secret
    private, public = provider.key_pairs.generate()
    return public, {"private_key_pem": private}


def signing_key(provider: Provider, secret: Secret) -> Key:
    """Give the key a sender signs with. Raises ConfigurationError where it is of another kind."""
    if provider.key_pairs is None:
        if not isinstance(secret, str):
            raise ConfigurationError(f"{provider.title} signs with a shared secret, not a key pair")
        return Key(id="send", value=secret.encode())
    text = secret if isinstance(secret, str) else secret["private_key_pem"]
    try:
        return provider.key_pairs.private_key(text)
    except ValueError as error:
        raise ConfigurationError(f"{provider.title} signs with a private key: {error}") from error


def signed(
    provider: str,
    secret: Secret,
    headers: Mapping[str, str],
    body: bytes,
    options: Options = {},  # noqa: B006 - only read
) -> tuple[dict[str, str], bytes]:
    """Sign a delivery as the provider would, now; give the headers and the body to send."""
    registered = EVERY[provider]
    scheme = registered.scheme([signing_key(registered, secret)], options)
    proof = scheme.sign(body, time.time())
    return {**headers, **proof.headers}, proof.body


def post(url: str, headers: Mapping[str, str], body: bytes, timeout: float = 30.0) -> Answer:
    """POST a delivery, there and nowhere else: a redirect is an answer as any other.

    Raises Unanswered if nobody answers there, ConfigurationError if it is no http or https URL.
    """
    opener = _opener(url)
    try:
        request = urllib.request.Request(url, data=body, headers=dict(headers), method="POST")  # noqa: S310 - _opener has no other scheme
        with opener.open(request, timeout=timeout) as response:
            body = response.read(_MOST_TEXT)
            if response.length and len(body) < _MOST_TEXT:  # which only reading all would notice
                raise http.client.IncompleteRead(body, response.length)
            text = body.decode(errors="replace").strip()
            retry_after = (response.headers.get("Retry-After") or "").strip()
            seconds = int(retry_after) if _SECONDS.fullmatch(retry_after) else None
            return Answer(response.status, text, seconds)
    except http.client.InvalidURL as error:  # a space or a control character in it
        raise _unusable() from error
    except (OSError, http.client.HTTPException) as error:  # refused, reset, or gone in between
        # Without the path, which may hold a path token, and without a password before the host.
        parts = urllib.parse.urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        raise Unanswered(f"{origin} does not answer; is the gateway running there?") from error
    except ValueError as error:  # a host or a path that cannot be encoded
        raise _unusable() from error


def check_url(url: str) -> None:
    """Raise ConfigurationError if `post` could not use this URL."""
    _opener(url)
    if not url.isascii() or not url.isprintable() or " " in url:
        raise _unusable()


def _opener(url: str) -> urllib.request.OpenerDirector:
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise _unusable() from error
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise _unusable()
    # A proxy of the environment is for the way out: it would look for this machine on its own side.
    proxies: dict[str, str] | None = {} if _is_here(host) else None
    # Not build_opener: that one opens files, and follows redirects as a GET with the signature.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.UnknownHandler(),  # for a proxy of another scheme
    ):
        opener.add_handler(handler)
    return opener


def _is_here(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.removesuffix(".") in {"", "localhost"}
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified  # GATEWAY_LISTEN may be 0.0.0.0 or [::]


def _unusable() -> ConfigurationError:
    return ConfigurationError(
        "the URL to send to cannot be used; it should be as http://127.0.0.1:8080/webhooks/veriff"
    )
