"""The gateway's environment as one frozen Struct, checked before the first socket opens."""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.kafka import client_config, topic_prefix
from gateway.process import Address, ConfigurationError, log_level

# What Kubernetes injects into every pod when a Service is named gateway.
_INJECTED = re.compile(r"GATEWAY_(PORT|SERVICE_HOST|SERVICE_PORT|PORT_.*|SERVICE_PORT_.*)")

Positive = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=300)]


class Tuning(msgspec.Struct, frozen=True, kw_only=True, rename="upper"):
    """The GATEWAY_* numbers. Sizes in bytes, times in seconds."""

    deadline: Seconds = 5.0
    """From a verified delivery to Kafka's answer, and before that the wait for a heavy
    verification; beyond either the provider gets 503."""
    body_limit: Annotated[int, Meta(ge=1024, le=900 * 1024)] = 900 * 1024
    """Largest body; the size chain in delivery.py rests on its maximum."""
    body_timeout: Seconds = 10.0
    header_timeout: Seconds = 5.0
    retry_after: Positive = 5
    """Retry-After of a 503, in seconds."""
    max_in_flight: Positive = 4096
    """Verified deliveries waiting for Kafka; of each endpoint also those to be verified in its
    thread."""
    max_body_bytes: Annotated[int, Meta(ge=1, le=1 << 40)] = 256 * 1024 * 1024
    """Bytes of bodies held at one time, counted as received."""
    linger_ms: Annotated[int, Meta(ge=0, le=100)] = 2
    reload_interval: Seconds = 5.0
    """How often the endpoints' files are looked at for changes."""
    drain_delay: Annotated[float, Meta(ge=0, le=300)] = 0.0
    """From SIGTERM until deliveries are refused: not ready, and still taking them, while a balancer
    notices. Longer than its probes need; 0 where nothing stands before the gateway."""
    drain_timeout: Seconds = 20.0
    single_copy: Annotated[int, Meta(ge=0, le=1)] = 0
    """1 allows topics with min.insync.replicas=1: an acknowledged delivery has one copy."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the gateway process reads from its environment but the endpoints."""

    listen: Address
    admin_listen: Address
    topic_prefix: str
    kafka: dict[str, str]
    tuning: Tuning
    log_level: str


_OTHERS = ("GATEWAY_LISTEN", "GATEWAY_ADMIN_LISTEN", "GATEWAY_ENDPOINTS")


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the environment. Raises ConfigurationError naming the variable and what it should be."""
    names = {f"GATEWAY_{field.encode_name}": field for field in msgspec.structs.fields(Tuning)}
    values: dict[str, str] = {}
    for variable, text in environ.items():
        if not variable.startswith("GATEWAY_") or variable in _OTHERS:
            continue
        if variable not in names:
            if _INJECTED.fullmatch(variable):
                continue
            close = difflib.get_close_matches(variable, [*names, *_OTHERS], n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise ConfigurationError(f"{variable} is no setting of the gateway{meant}")
        values[names[variable].encode_name] = text
        try:
            msgspec.convert({names[variable].encode_name: text}, Tuning, strict=False)
        except msgspec.ValidationError as error:
            wanted = str(error).partition(" - at ")[0].partition(", got ")[0].lower()
            wanted = wanted.replace("`float`", "a number").replace("`int`", "a whole number")
            raise ConfigurationError(f"{variable} is {text!r}; {wanted}") from error
    return Settings(
        listen=Address.parse(environ.get("GATEWAY_LISTEN", "127.0.0.1:8080"), "GATEWAY_LISTEN"),
        admin_listen=Address.parse(
            environ.get("GATEWAY_ADMIN_LISTEN", "127.0.0.1:9464"), "GATEWAY_ADMIN_LISTEN"
        ),
        topic_prefix=topic_prefix(environ),
        kafka=client_config(environ),
        tuning=msgspec.convert(values, Tuning, strict=False),
        log_level=log_level(environ),
    )
