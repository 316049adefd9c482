"""The rights that docs/guarantees.md names are enough, on a real Kafka with an authorizer.

Everything runs as a user who may do what the table's line says and nothing else. What somebody
sees who lacks a right is one sentence that names it.
"""

import os
import re
import subprocess
import sys

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from deploy.child import free_port
from deploy.kafka import Kafka
from gateway.process import EXIT_FAILED, EXIT_MISUSED
from gateway.providers import EVERY
from gateway.send import fixture
from tests.conftest import make_topics
from tests.deployment import ROOT, deployment, until

pytestmark = pytest.mark.kafka

PROVIDER, SLOT = "pawapass", "3"
KINDS = {1: ResourceType.TOPIC, 2: ResourceType.GROUP, 3: ResourceType.TRANSACTIONAL_ID}
USERS = {
    "gateway": "gateway",
    "consumer of P": "consumer",
    "the same, exactly-once": "exactly",
    "`consumers lag`": "lag",
    "`consumers export`": "export",
    "`gateway canary`": "canary",
    "`consumers audit`": "audit",
    "`consumers replay`, dry": "replay-dry",
    "`consumers replay --yes`": "replay",
    "`consumers replay --raw`, dry": "replay-raw-dry",
    "`consumers replay --raw --yes`": "replay-raw",
    "`gateway verify`": "verify",
    "`consumers tail`": "tail",
    "`deploy topics plan`": "plan",
}
"""Who a line of the table is about, as a user of the broker."""

NOBODY = "nobody"
HALF = "half"
"""A user who may read and change every topic's configuration, which does not include seeing it."""
AS_MADE = ("--provider", PROVIDER, "--set", "raw.partitions=2", "--set", "dlq.partitions=1")
_CLAUSE = re.compile(r"([A-Z_]+(?:, [A-Z_]+)*) on (all of them|`[^`]+`(?:, `[^`]+`)*)")
Right = tuple[ResourceType, str, str]


def documented() -> dict[str, set[Right]]:
    """Give each user's rights as the table says them: kind, name without prefix, operation."""
    text = (ROOT / "docs" / "guarantees.md").read_text().split("## Rights")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    rights: dict[str, set[Right]] = {}
    above: list[set[Right]] = [set() for _ in range(4)]
    for row in rows:
        cells = [_rights(row[column], above[column], column) for column in KINDS]
        above = [set(), *cells]
        if row[0] in USERS:
            rights[USERS[row[0]]] = set().union(*cells)
    raw = {one for one in rights["gateway"] if one[1] == f"raw.{PROVIDER}"}
    for name in EVERY:  # this gateway has an endpoint for each
        rights["gateway"] |= {(kind, f"raw.{name}", operation) for kind, _, operation in raw}
    return rights


def _rights(cell: str, above: set[Right], column: int) -> set[Right]:
    found = set(above) if cell.startswith(("the same", "also ")) else set()
    for operations, names in _CLAUSE.findall(cell):
        everything = [f"{kind}.P" for kind in ("raw", "dlq", "seen", "ledger")]
        named = re.findall(r"`([^`]+)`", names) or [*everything, "verification.events"]
        for name in named:
            ours = re.sub(r"\bN$", SLOT, re.sub(r"\bP\b", PROVIDER, name))
            found |= {(KINDS[column], ours, operation) for operation in operations.split(", ")}
    return found


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    """A broker that lets a user do only what was granted; anybody on the plain port is its owner."""
    plain, controller, guarded = (free_port() for _ in range(3))
    users = " ".join(f'user_{name}="{name}"' for name in (*USERS.values(), NOBODY, HALF))
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    listeners = f"PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{guarded}"
    properties = {
        "group.min.session.timeout.ms": "1000",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": listeners,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
        "SASL_PLAINTEXT:SASL_PLAINTEXT",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{login} required {users};",
    }
    folder = tmp_path_factory.mktemp("kafka")
    with Kafka(folder, port=plain, properties=properties, heap="384m") as running:
        running.guarded = f"127.0.0.1:{guarded}"
        yield running


def grant(kafka, prefix: str, rights: dict[str, set[Right]]) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    bindings = [
        AclBinding(
            kind, prefix + name, ResourcePatternType.LITERAL, f"User:{user}", "*",
            AclOperation[operation], AclPermissionType.ALLOW,
        )
        for user, granted in rights.items()
        for kind, name, operation in granted
    ]  # fmt: skip
    for answer in admin.create_acls(bindings).values():
        answer.result(30)
    # The controller has them; the broker hears of them a little later.
    whatever = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY,
        AclPermissionType.ANY,
    )  # fmt: skip

    def known():
        told = admin.describe_acls(whatever).result(30)
        return len({str(one) for one in told if one.name.startswith(prefix)}) >= len(bindings)

    until(known, "the broker knows every right")


class Guarded:
    """A deployment whose programs each log in as a user."""

    def __init__(self, kafka) -> None:
        few = {"raw.partitions": 2, "dlq.partitions": 1}
        self.made = make_topics(kafka.bootstrap, canary=True, **few)
        self.unguarded = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap}
        rights = documented()
        seen = {(kind, name, "DESCRIBE_CONFIGS") for kind, name, _ in rights["plan"]}
        grant(kafka, self.made.prefix, rights | {HALF: seen})
        self.made.bootstrap = kafka.guarded
        self.deployed = None

    def of(self, user: str) -> dict[str, str]:
        return {
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": user,
            "KAFKA_SASL_PASSWORD": user,
        }

    def run(self, user: str, *command: str) -> subprocess.CompletedProcess:
        listening = ("GATEWAY_LISTEN", "GATEWAY_ADMIN_LISTEN", "CONSUMER_ADMIN_LISTEN")
        ports = {name: f"127.0.0.1:{free_port()}" for name in listening}
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, check=False, text=True, timeout=120,
            env=os.environ | self.deployed.environ(**self.of(user), **ports), capture_output=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def guarded(kafka, tmp_path_factory):
    found = Guarded(kafka)
    with deployment(found.made, tmp_path_factory.mktemp("guarded")) as found.deployed:
        yield found


def test_every_line_of_the_table_is_read():
    """The table's lines are known here, and none reads as nothing."""
    rights = documented()
    assert rights.keys() == set(USERS.values())
    assert all(rights.values())
    assert (ResourceType.TOPIC, f"ledger.{PROVIDER}", "WRITE") in rights["exactly"]
    assert (ResourceType.TRANSACTIONAL_ID, f"normalize.{PROVIDER}.{SLOT}", "WRITE") in rights[
        "exactly"
    ]


def test_each_program_does_its_work_with_the_rights_it_is_said_to_need(guarded):
    """Gateway, both ways of delivery, and every command, in the order a delivery meets them."""
    deployed, of = guarded.deployed, guarded.of
    deployed.gateway(**of("gateway"))
    body = fixture(PROVIDER, "approved").body
    assert deployed.send(PROVIDER, b'{"type": "unheard of"}').status == 200
    ways = {"consumer": (), "exactly": ("--delivery", "exactly-once", "--slot", SLOT)}
    for user, how in ways.items():
        consumer = deployed.consumer(PROVIDER, *how, **of(user))
        assert deployed.send(PROVIDER, body.replace(b"a1b2c3d4", b"%08x" % len(user))).status == 200
        until(lambda consumer=consumer: consumer.sum("verihook_events_normalized_total") == 1, user)
        assert consumer.stop() == 0
    commands = {
        "lag": ("consumers", "lag", PROVIDER),
        "audit": ("consumers", "audit", PROVIDER),
        "replay-dry": ("consumers", "replay", PROVIDER),
        "replay": ("consumers", "replay", PROVIDER, "--even-if-dead", "--yes"),
        "replay-raw-dry": ("consumers", "replay", PROVIDER, "--raw", "--since", "1h"),
        "replay-raw": ("consumers", "replay", PROVIDER, "--raw", "--since", "1h", "--all", "--yes"),
        "verify": ("gateway", "verify", PROVIDER),
        "tail": ("consumers", "tail", "--from-beginning", "--seconds", "3"),
        "plan": ("deploy", "topics", "plan", *AS_MADE),
    }
    dry = guarded.run("replay-dry", "consumers", "replay", PROVIDER, "--even-if-dead", "--yes")
    group = f"{guarded.made.prefix}replay.{PROVIDER}"
    assert f"this client may not commit for {group}; grant it Read on the group" in dry.stderr
    assert dry.returncode == EXIT_FAILED
    said = {user: guarded.run(user, *command) for user, command in commands.items()}
    for user, done in said.items():
        assert done.returncode == 0, (user, done.stdout[-2000:], done.stderr[-2000:])
    assert "nothing waits" in said["lag"].stdout
    assert "Proven: each of 3 raw records" in said["audit"].stdout
    assert "1 of 1 records appended" in said["replay"].stdout
    assert "2 of 2 records appended" in said["replay-raw"].stdout
    assert said["tail"].stdout.count("VERIFICATION.STATUS_CHANGE") == 2


def test_who_watches_does_so_with_the_rights_it_is_said_to_need(guarded):
    """The exporter's rounds are complete, and the canary's beats are seen."""
    deployed, of = guarded.deployed, guarded.of
    deployed.gateway(**of("gateway"))
    deployed.consumer("canary", **guarded.unguarded)
    deployed.prober(ready=True, **of("canary"))
    admin = free_port()
    listen = {"EXPORTER_ADMIN_LISTEN": f"127.0.0.1:{admin}", "EXPORTER_INTERVAL": "1"}
    exporter = deployed._start(["consumers", "export"], listen | of("export"), admin)
    rounds = "verihook_export_rounds_total"
    until(lambda: exporter.sum(rounds, '"complete"') >= 2, "complete rounds")
    assert exporter.sum(rounds, '"partial"') == 0
    raw = f"{guarded.made.prefix}raw.{PROVIDER}"
    assert exporter.sum("verihook_topic_retention_seconds", f'"{raw}"') > 0


@pytest.mark.parametrize(
    ("user", "command", "code", "sentence"),
    [
        (NOBODY, ("consumers", "lag", PROVIDER), EXIT_MISUSED,
         "this client may not read {raw}; grant it Read on the topic"),
        (NOBODY, ("consumers", "lag"), EXIT_MISUSED,
         "there is no topic {prefix}raw.<provider> that this client may see"),
        ("verify", ("consumers", "lag", PROVIDER), EXIT_FAILED,
         "this client may not see what {group} committed; grant it Describe on the group"),
        ("lag", ("consumers", "audit", PROVIDER), EXIT_MISUSED,
         "this client may not read {ledger}; grant it Read on the topic"),
        (NOBODY, ("consumers", "replay", PROVIDER), EXIT_MISUSED,
         "this client may not read {raw}; grant it Read on the topic"),
        (NOBODY, ("consumers", "tail", "--seconds", "3"), EXIT_MISUSED,
         "this client may not read {events}; grant it Read on the topic"),
        (NOBODY, ("gateway", "verify", PROVIDER), EXIT_MISUSED,
         "this client may not read {raw}; grant it Read on the topic"),
        (NOBODY, ("consumers", "run", PROVIDER), EXIT_MISUSED,
         "this client may not describe the configuration of {raw}; grant it DescribeConfigs"),
        (NOBODY, ("deploy", "topics", "plan"), EXIT_FAILED,
         "this client is not authorised; it needs"),
        (HALF, ("deploy", "topics", "plan", *AS_MADE), EXIT_FAILED,
         "{raw} exists, but this client may not see it; grant it Describe on the topic"),
        (HALF, ("consumers", "run", PROVIDER), EXIT_MISUSED,
         "this client may not see {raw}; grant it Describe on the topic"),
        (NOBODY, ("gateway", "serve"), EXIT_MISUSED,
         "this client may not describe the configuration of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_who_lacks_a_right_reads_which(guarded, user, command, code, sentence):
    """One sentence that names the right, and never that something is not there which is."""
    prefix = guarded.made.prefix
    done = guarded.run(user, *command)
    expected = sentence.format(
        prefix=prefix, raw=f"{prefix}raw.{PROVIDER}", ledger=f"{prefix}ledger.{PROVIDER}",
        events=f"{prefix}verification.events",
        group=f"{prefix}normalize.{PROVIDER}",
    )  # fmt: skip
    assert expected in done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr
