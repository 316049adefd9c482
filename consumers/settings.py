"""A consumer's environment as one frozen Struct, checked before the first client is built."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from consumers.codec import confluent_prefix, schema_text, single_object_prefix
from consumers.identity import Keys
from consumers.registry import schema_id
from gateway.delivery import output_topic
from gateway.kafka import client_config, topic_prefix
from gateway.process import Address, ConfigurationError, log_level, read_secret_file

LEAST_KEY_BYTES = 32
DEFAULT_ADMIN = "127.0.0.1:9465"
MOST_DEDUP_DAYS = 400
SPARE_DAYS = 2
"""For which what was seen is kept beyond the window: a record is handled later than it came."""

AT_LEAST_ONCE: Final = "at-least-once"
EXACTLY_ONCE: Final = "exactly-once"

Absent = TypeVar("Absent", bound=int | None)


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
    slot: int | None
    """The slot of a process that delivers exactly once; None where delivery is at least once."""
    dedup_days: int | None
    """Days for which duplicates are told, 0 for none; None is what the provider needs."""
    state_folder: Path | None
    """Where what was seen is kept between starts; None reads it from Kafka at each start."""
    rebuild_seconds: float
    """How long a partition may wait until it is known what was seen in it."""
    stall: bool
    log_level: str


def load_settings(
    environ: Mapping[str, str],
    *,
    demo: bool = False,
    delivery: str = "",
    slot: int | None = None,
    stall: bool = True,
) -> Settings:
    """Read the environment. Raises ConfigurationError naming the variable and what it should be.

    `delivery` and `slot` win over their variables.
    """
    prefix = topic_prefix(environ)
    return Settings(
        admin_listen=Address.parse(
            environ.get("CONSUMER_ADMIN_LISTEN", DEFAULT_ADMIN), "CONSUMER_ADMIN_LISTEN"
        ),
        topic_prefix=prefix,
        kafka=client_config(environ),
        keys=load_keys(environ, demo=demo),
        prefix=framing(environ, output_topic(prefix)),
        continue_over_gaps=_choice(
            environ, "CONSUMER_RETENTION_GAP", {"stop": False, "continue": True}
        ),
        single_copy=_choice(environ, "CONSUMER_SINGLE_COPY", {"0": False, "1": True}),
        slot=_slot(environ, delivery, slot),
        dedup_days=load_dedup_days(environ),
        state_folder=_folder(environ, "CONSUMER_STATE_DIR"),
        rebuild_seconds=float(_whole(environ, "CONSUMER_REBUILD_SECONDS", 300, (1, 86_400))),
        stall=stall,
        log_level=log_level(environ),
    )


def load_dedup_days(environ: Mapping[str, str]) -> int | None:
    """Read for how many days duplicates are told, 0 for none; None is what the provider needs."""
    return _whole(environ, "CONSUMER_DEDUP_DAYS", None, (0, MOST_DEDUP_DAYS))


def dedup_days(configured: int | None, retried_for_days: int) -> int:
    """Give the days for which a provider's duplicates are told."""
    return retried_for_days + 1 if configured is None else configured


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
            f"or a file named by {file_name}, and keep them (`run --demo` makes some up)"
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


def _slot(environ: Mapping[str, str], delivery: str, slot: int | None) -> int | None:
    """Give the slot where delivery is exactly once, else None."""
    mode = delivery or environ.get("CONSUMER_DELIVERY") or AT_LEAST_ONCE
    if mode not in (AT_LEAST_ONCE, EXACTLY_ONCE):
        name = "--delivery" if delivery else "CONSUMER_DELIVERY"
        raise ConfigurationError(
            f"{name} is {mode!r}; it should be {AT_LEAST_ONCE} or {EXACTLY_ONCE}"
        )
    number = _whole(environ, "CONSUMER_SLOT", None, (0, 9_999)) if slot is None else slot
    if mode == AT_LEAST_ONCE:
        if slot is not None:  # CONSUMER_SLOT may stand in an environment that is shared
            raise ConfigurationError(
                f"--slot {slot} is given and delivery is {AT_LEAST_ONCE}: a slot belongs to "
                f"{EXACTLY_ONCE}; give --delivery {EXACTLY_ONCE} too, or leave the slot out"
            )
        return None
    if number is None:
        raise ConfigurationError(
            f"{EXACTLY_ONCE} needs a slot: give --slot or CONSUMER_SLOT, a number from 0 that no "
            "other process of this group has and that a restarted process keeps (the ordinal of a "
            "StatefulSet)"
        )
    return number


def _whole(
    environ: Mapping[str, str], name: str, default: Absent, bounds: tuple[int, int]
) -> int | Absent:
    text = environ.get(name, "")
    if not text:
        return default
    least, most = bounds
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise ConfigurationError(
            f"{name} is {text!r}; it should be a whole number from {least} to {most}"
        )
    return int(text)


def _folder(environ: Mapping[str, str], name: str) -> Path | None:
    text = environ.get(name, "")
    if not text:
        return None
    folder = Path(text)
    if not folder.is_absolute():
        raise ConfigurationError(f"{name} is {text!r}; it should be an absolute path of a folder")
    return folder
