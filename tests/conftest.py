"""What the tests share: the keys fixtures were made under, and the real Kafka."""

import itertools
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

from consumers.identity import Keys
from deploy.kafka import Kafka, temporary_kafka
from deploy.topics import Cluster, plan, single_copy, wanted_topics
from gateway.providers import BUILT_IN, PROVIDERS

EVENT_KEY = "event-key-of-the-tests-0123456789abcdef"
SUBJECT_KEY = "subject-key-of-the-tests-0123456789abcdef"
KEYS = Keys(
    event_key=EVENT_KEY.encode(), subject_key=SUBJECT_KEY.encode(), subject_key_id="default"
)
RECEIVED_AT = 1_700_000_000_000

settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def keys() -> Keys:
    """The keys under which every events.json was made."""
    return KEYS


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """The real Kafka of this test session; group sessions may be as short as a second."""
    with temporary_kafka({"group.min.session.timeout.ms": "1000"}) as running:
        yield running


def make_topics(servers: str, *, canary: bool = False, **overrides: object) -> SimpleNamespace:
    """Create the topics of a deployment of their own, the canary's only where they are asked for.

    Gives its prefix and addresses.
    """
    prefix = f"t{os.getpid()}-{next(_numbers)}."
    cluster = Cluster({"bootstrap.servers": servers})
    few = {"raw.partitions": 4} | overrides  # topics of 12 partitions take seconds to create
    texts = [*single_copy(), *(f"{kind}={value}" for kind, value in few.items())]
    names = [*PROVIDERS, *(BUILT_IN if canary else ())]
    wanted = wanted_topics(names, prefix, overrides=texts)
    existing = cluster.existing([topic.name for topic in wanted])
    left = cluster.apply(plan(wanted, existing), grow=False, say=lambda _text: None)
    assert not left
    return SimpleNamespace(prefix=prefix, bootstrap=servers, canary=canary)


@pytest.fixture
def topics(kafka: Kafka) -> Callable[..., SimpleNamespace]:
    """Make topics of this test's own, as `make_topics` does, on its Kafka or another one."""
    return lambda bootstrap="", **overrides: make_topics(bootstrap or kafka.bootstrap, **overrides)
