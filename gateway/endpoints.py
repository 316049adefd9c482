"""The endpoints and their secrets: the default set-up, the endpoints file, reload on change."""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import msgspec

from gateway.process import ConfigurationError, checked_secret, read_secret_file
from gateway.providers import EVERY, PROVIDERS, Provider
from gateway.receive import Endpoint
from gateway.signatures import Key

_KEY_ID = re.compile(r"[a-z0-9-]{1,32}", re.ASCII)
_ENDPOINT_NAME = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)
# 128 bits or more: 22 characters of base64url, or 32 hex digits
_PATH_TOKEN = re.compile(r"(?![0-9a-fA-F]{22,31}$)[A-Za-z0-9_-]{22,256}", re.ASCII)


class Endpoints(msgspec.Struct, frozen=True):
    """Every configured endpoint by name, and the files it was read from.

    `retires` says when keys are to be taken away, by endpoint and key id, where that is known.
    """

    by_name: Mapping[str, Endpoint]
    files: tuple[Path, ...]
    retires: Mapping[tuple[str, str], datetime] = {}

    def changed_since(self, seen: Mapping[Path, float]) -> bool:
        """Tell whether a file was written (or vanished) since `modified` looked."""
        return self.modified() != dict(seen)

    def modified(self) -> dict[Path, float]:
        """Give each file's time of modification, 0 for one that is not there."""
        times: dict[Path, float] = {}
        for path in self.files:
            try:
                times[path] = path.stat().st_mtime
            except OSError:
                times[path] = 0.0
        return times


class _SecretEntry(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    value: str | None = None
    file: str | None = None
    client: str | None = None
    retires: Any = None


class _Configured(msgspec.Struct, frozen=True):
    """An endpoint with the keys it was made of, which its scheme does not give away."""

    endpoint: Endpoint
    keys: Sequence[Key]


class _EndpointEntry(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    provider: str
    environment: str
    secrets: list[_SecretEntry] = []
    secrets_file: str | None = None
    public_keys_file: str | None = None
    path_token: str | None = None
    path_token_file: str | None = None
    options: dict[str, Any] = {}


def load_endpoints(environ: Mapping[str, str]) -> Endpoints:
    """Read the endpoints: GATEWAY_ENDPOINTS if set, else one per provider whose secret is set.

    Raises ConfigurationError with one sentence for anything that cannot be used.
    """
    files: list[Path] = []
    if environ.get("GATEWAY_ENDPOINTS"):
        configured = _from_file(Path(environ["GATEWAY_ENDPOINTS"]), files)
    else:
        configured = _from_environment(environ, files)
    if not configured and environ.get("GATEWAY_ENDPOINTS"):
        raise ConfigurationError(
            f"{environ['GATEWAY_ENDPOINTS']} (GATEWAY_ENDPOINTS) holds no [[endpoint]]; give one"
        )
    if not configured:
        wanted = ", ".join(_variables(provider)[0] for provider in PROVIDERS.values())
        raise ConfigurationError(
            f"no endpoint is configured: set one of {wanted}, or GATEWAY_ENDPOINTS to a file"
        )
    by_name: dict[str, Endpoint] = {}
    retires: dict[tuple[str, str], datetime] = {}
    for one in configured:
        name = one.endpoint.name
        if name in by_name:
            raise ConfigurationError(f"two endpoints are named {name}; names are unique")
        by_name[name] = one.endpoint
        for key in one.keys:
            if key.retires is not None:
                retires[name, key.id] = datetime.fromtimestamp(key.retires, UTC)
    return Endpoints(by_name, tuple(files), retires)


def _variables(provider: Provider) -> tuple[str, ...]:
    """Name the variables that can hold a provider's keys."""
    prefix = provider.name.upper()
    if provider.key_pairs is not None:
        return (_public_keys_variable(prefix),)
    return _secret_variables(prefix)


def _secret_variables(prefix: str) -> tuple[str, ...]:
    return (f"{prefix}_SECRET", f"{prefix}_SECRET_FILE", f"{prefix}_SECRETS_FILE")


def _public_keys_variable(prefix: str) -> str:
    return f"{prefix}_PUBLIC_KEYS_FILE"


def _from_environment(environ: Mapping[str, str], files: list[Path]) -> list[_Configured]:
    endpoints: list[_Configured] = []
    for provider in EVERY.values():
        prefix = provider.name.upper()
        keys = _environment_keys(environ, provider, files)
        if keys is None:
            continue
        variable = f"{prefix}_ENVIRONMENT"
        environment = _environment(environ.get(variable, "production"), variable)
        variable = f"{prefix}_PATH_TOKEN"
        token = _path_token(environ.get(variable), variable)
        endpoint = _endpoint(provider.name, provider, keys, environment, token, {}, prefix)
        endpoints.append(_Configured(endpoint, keys))
    return endpoints


def _environment_keys(
    environ: Mapping[str, str], provider: Provider, files: list[Path]
) -> list[Key] | None:
    prefix, known = provider.name.upper(), _variables(provider)
    for name in (*_secret_variables(prefix), _public_keys_variable(prefix)):
        if name in environ and name not in known:
            raise ConfigurationError(
                f"{name} is set, but {provider.title} has no such thing; unset it, use {known[0]}"
            )
    given = [name for name in known if name in environ]
    if not given:
        return None
    if len(given) > 1:
        raise ConfigurationError(f"{' and '.join(given)} are both set; set one of them")
    name = given[0]
    if name.endswith("_SECRET"):
        return [Key(id="default", value=checked_secret(environ[name], name))]
    path = Path(environ[name])
    files.append(path)
    if name.endswith("_PUBLIC_KEYS_FILE"):
        return _public_keys(provider, path, name)
    if name.endswith("_SECRET_FILE"):
        value = checked_secret(read_secret_file(path, name), f"the secret in {path} ({name})")
        return [Key(id="default", value=value)]
    return _secrets_file(path, name, files)


def _public_keys(provider: Provider, path: Path, where: str) -> list[Key]:
    if provider.key_pairs is None:
        raise ConfigurationError(f"{where}: {provider.title} shares secrets and has no public key")
    text = read_secret_file(path, where)
    try:
        return provider.key_pairs.public_keys(text)
    except ValueError as error:
        raise ConfigurationError(f"{where} ({path}): {error}") from error


def _secrets_file(path: Path, variable: str, files: list[Path]) -> list[Key]:
    tables = _toml(path, variable)
    _known_keys(tables, ("secret",), str(path))
    entries = _converted(tables.get("secret", []), list[_SecretEntry], _SecretEntry, str(path))
    return _secrets(entries, str(path), files)


def _from_file(path: Path, files: list[Path]) -> list[_Configured]:
    files.append(path)
    where = f"GATEWAY_ENDPOINTS ({path})"
    tables = _toml(path, "GATEWAY_ENDPOINTS")
    _known_keys(tables, ("endpoint",), where)
    endpoints: list[_Configured] = []
    used: dict[tuple[str, bytes], _EndpointEntry] = {}
    entries = _converted(tables.get("endpoint", []), list[_EndpointEntry], _EndpointEntry, where)
    for entry in entries:
        here = f"endpoint {entry.name!r} in {path}"
        provider = EVERY.get(entry.provider)
        if provider is None:
            known = _did_you_mean(entry.provider, list(EVERY))
            raise ConfigurationError(f"{here}: there is no provider {entry.provider!r}{known}")
        keys = _entry_keys(entry, provider, here, files)
        _own_secrets(entry, provider, keys, used)
        token = entry.path_token
        if entry.path_token is not None and entry.path_token_file is not None:
            raise ConfigurationError(f"{here}: give path_token or path_token_file, not both")
        if entry.path_token_file is not None:
            files.append(Path(entry.path_token_file))
            token = read_secret_file(entry.path_token_file, f"{here}: path_token_file")
        endpoint = _endpoint(
            entry.name,
            provider,
            keys,
            _environment(entry.environment, f"{here}: environment"),
            _path_token(token, f"{here}: path_token"),
            entry.options,
            here,
        )
        endpoints.append(_Configured(endpoint, keys))
    return endpoints


def _own_secrets(
    entry: _EndpointEntry,
    provider: Provider,
    keys: Sequence[Key],
    used: dict[tuple[str, bytes], _EndpointEntry],
) -> None:
    """Refuse one shared secret in two environments: a sandbox could then speak for production.

    Public keys may be the same for both: Pleenk's pages do not say.
    """
    for key in keys if provider.key_pairs is None else ():
        other = used.setdefault((provider.name, key.value), entry)
        if other.environment != entry.environment:
            raise ConfigurationError(
                f"the endpoints {other.name!r} ({other.environment}) and {entry.name!r} "
                f"({entry.environment}) share a secret; give each environment its own"
            )


def _entry_keys(
    entry: _EndpointEntry, provider: Provider, here: str, files: list[Path]
) -> list[Key]:
    given = [
        name for name in ("secrets", "secrets_file", "public_keys_file") if getattr(entry, name)
    ]
    if len(given) > 1:
        raise ConfigurationError(f"{here}: give {' or '.join(given)}, not both")
    if entry.public_keys_file is not None:
        path = Path(entry.public_keys_file)
        files.append(path)
        return _public_keys(provider, path, f"{here}: public_keys_file")
    if provider.key_pairs is not None:
        raise ConfigurationError(
            f"{here}: {provider.title} signs with a private key of its own; give public_keys_file"
        )
    if entry.secrets_file is not None:
        files.append(Path(entry.secrets_file))
        return _secrets_file(Path(entry.secrets_file), f"{here}: secrets_file", files)
    return _secrets(entry.secrets, here, files)


def _endpoint(
    name: str,
    provider: Provider,
    keys: Sequence[Key],
    environment: str,
    path_token: bytes | None,
    options: Mapping[str, Any],
    where: str,
) -> Endpoint:
    if not _ENDPOINT_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{where}: a name is 1 to 64 of a-z, 0-9 and -; it becomes a path and a metric label"
        )
    if name == "unknown":
        raise ConfigurationError(f"{where}: the name unknown is the label of unknown paths")
    _known_keys(options, list(provider.options), f"{where}: options")
    for option, value in options.items():
        if value not in provider.options[option]:
            known = " or ".join(map(repr, provider.options[option]))
            raise ConfigurationError(f"{where}: option {option} is {value!r}; it should be {known}")
    if not provider.names_client and any(key.client is not None for key in keys):
        raise ConfigurationError(f"{where}: {provider.title} names no client; leave client out")
    with_client = sum(key.client is not None for key in keys)
    if with_client not in {0, len(keys)}:
        raise ConfigurationError(
            f"{where}: either every secret names a client or none does; name the missing ones"
        )
    try:
        scheme = provider.scheme(keys, options)
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    if path_token is None and scheme.path_token_because:
        raise ConfigurationError(
            f"{where}: {provider.title} needs a path token here, because "
            f"{scheme.path_token_because}"
        )
    return Endpoint(
        name=name,
        provider=provider,
        scheme=scheme,
        environment=environment,
        path_token=path_token,
    )


def _environment(text: str, where: str) -> str:
    if text not in {"production", "sandbox"}:
        raise ConfigurationError(f"{where} is {text!r}; it should be production or sandbox")
    return text


def _path_token(text: str | None, where: str) -> bytes | None:
    if text is None:
        return None
    if not _PATH_TOKEN.fullmatch(text):
        raise ConfigurationError(
            f"{where}: a path token is 22 to 256 of A-Z, a-z, 0-9, - and _, at least 32 if they "
            "are hex digits (128 bits or more)"
        )
    return text.encode()


def _secrets(entries: Sequence[_SecretEntry], where: str, files: list[Path]) -> list[Key]:
    if not entries:
        raise ConfigurationError(f"{where} holds no secret; give at least one [[secret]]")
    secrets: list[Key] = []
    for entry in entries:
        here = f"secret {entry.id!r} in {where}"
        if not _KEY_ID.fullmatch(entry.id):
            raise ConfigurationError(f"{here}: an id is 1 to 32 of a-z, 0-9 and -")
        if entry.id in {secret.id for secret in secrets}:
            raise ConfigurationError(f"{here} stands there twice; ids are unique")
        if (entry.value is None) == (entry.file is None):
            raise ConfigurationError(f"{here}: give either a value or a file")
        if entry.client == "":
            raise ConfigurationError(f"{here}: the client is empty; leave it out or name it")
        value = entry.value
        if entry.file is not None:
            files.append(Path(entry.file))
            value = read_secret_file(entry.file, here)
        secrets.append(
            Key(
                id=entry.id,
                value=checked_secret(value or "", here),
                client=entry.client,
                retires=_retires(entry.retires, here),
            )
        )
    return secrets


def _retires(value: Any, where: str) -> float | None:
    """Read a TOML date (the beginning of that day) or a datetime, as seconds since the epoch.

    Without an offset it is in UTC.
    """
    if value is None:
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    try:
        if isinstance(value, datetime):
            aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
            return aware.astimezone(UTC).timestamp()
    except OverflowError:
        pass  # in the first or last hours of the calendar
    raise ConfigurationError(
        f"{where}: retires holds no date; write it without quotes, as 2027-01-31 or "
        "2027-01-31T12:00:00Z"
    )


def _toml(path: Path, variable: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_secret_file(path, variable))
    except tomllib.TOMLDecodeError as error:
        # The error quotes a position, not the text around it.
        raise ConfigurationError(f"{path} is not TOML: {error}") from error


def _converted(value: Any, kind: Any, entry: type[msgspec.Struct], where: str) -> Any:
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                _known_keys(item, entry.__struct_fields__, where)
                for secret in item.get("secrets", []) if entry is _EndpointEntry else []:
                    if isinstance(secret, dict):
                        _known_keys(secret, _SecretEntry.__struct_fields__, where)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def _known_keys(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            meant = _did_you_mean(key, list(known))
            raise ConfigurationError(f"{where}: {key!r} is no key here{meant}")


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known)}" if known else "; there are none"
