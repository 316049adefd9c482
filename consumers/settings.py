"""A consumer's environment as one frozen Struct, checked before the first client is built."""

import secrets
from collections.abc import Mapping

import msgspec

from consumers.codec import confluent_prefix, schema_text, single_object_prefix
from consumers.identity import Keys
from consumers.registry import schema_id
from gateway.delivery import output_topic
from gateway.kafka import client_config, topic_prefix
from gateway.process import Address, ConfigurationError, log_level, read_secret_file

LEAST_KEY_BYTES = 32


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a consumer process reads from its environment."""

    admin_listen: Address
    topic_prefix: str
    kafka: dict[str, str]
    keys: Keys
    prefix: bytes
    """What stands before the Avro bytes: the framing."""
    continue_over_gaps: bool
    single_copy: bool
    log_level: str


def load_settings(environ: Mapping[str, str], *, demo: bool = False) -> Settings:
    """Read the environment. Raises ConfigurationError naming the variable and what it should be."""
    prefix = topic_prefix(environ)
    return Settings(
        admin_listen=Address.parse(
            environ.get("CONSUMER_ADMIN_LISTEN", "127.0.0.1:9465"), "CONSUMER_ADMIN_LISTEN"
        ),
        topic_prefix=prefix,
        kafka=client_config(environ),
        keys=load_keys(environ, demo=demo),
        prefix=framing(environ, output_topic(prefix)),
        continue_over_gaps=_choice(
            environ, "CONSUMER_RETENTION_GAP", {"stop": False, "continue": True}
        ),
        single_copy=_choice(environ, "CONSUMER_SINGLE_COPY", {"0": False, "1": True}),
        log_level=log_level(environ),
    )


def load_keys(environ: Mapping[str, str], *, demo: bool = False) -> Keys:
    """Read EVENT_KEY and SUBJECT_KEY (or their _FILE forms); with `demo`, missing ones are made up.

    Events made under different event keys cannot be deduplicated against each other, and
    pseudonyms under different subject keys cannot be joined: so no default, ever, in earnest.
    """
    return Keys(
        event_key=_key(environ, "EVENT_KEY", demo=demo),
        subject_key=_key(environ, "SUBJECT_KEY", demo=demo),
        subject_key_id=environ.get("SUBJECT_KEY_ID", "default"),
    )


def framing(environ: Mapping[str, str], topic: str) -> bytes:
    """Give what stands before the Avro bytes: Confluent framing where a registry is configured."""
    url = environ.get("SCHEMA_REGISTRY_URL")
    if not url:
        return single_object_prefix()
    credentials = environ.get("SCHEMA_REGISTRY_CREDENTIALS")
    if "SCHEMA_REGISTRY_CREDENTIALS_FILE" in environ:
        name = "SCHEMA_REGISTRY_CREDENTIALS_FILE"
        credentials = read_secret_file(environ[name], name)
    return confluent_prefix(schema_id(url, topic, schema_text(), credentials))


def _key(environ: Mapping[str, str], name: str, *, demo: bool) -> bytes:
    file_name = f"{name}_FILE"
    if name in environ and file_name in environ:
        raise ConfigurationError(f"{name} and {file_name} are both set; set one of them")
    if file_name in environ:
        text, shown = read_secret_file(environ[file_name], file_name), file_name
    elif name in environ:
        text, shown = environ[name], name
    elif demo:
        return secrets.token_bytes(LEAST_KEY_BYTES)
    else:
        raise ConfigurationError(
            f"{name} is not set: give {LEAST_KEY_BYTES} or more random bytes as text, in {name} "
            f"or a file named by {file_name}, and keep them (or try things out with --demo)"
        )
    try:
        key = text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{shown} is not UTF-8 text") from None
    if len(key) < LEAST_KEY_BYTES:
        raise ConfigurationError(
            f"{shown} holds {len(key)} bytes; a key needs at least {LEAST_KEY_BYTES}, for "
            "example from `openssl rand -hex 32`"
        )
    return key


def _choice(environ: Mapping[str, str], name: str, choices: Mapping[str, bool]) -> bool:
    default = next(iter(choices))
    text = environ.get(name, default)
    if text not in choices:
        raise ConfigurationError(f"{name} is {text!r}; it should be {' or '.join(choices)}")
    return choices[text]
