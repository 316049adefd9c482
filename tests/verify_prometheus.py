"""The real service under the real Prometheus: run by `make verify`, never by `make test`.

Needs promtool and prometheus (Debian package prometheus, 2.42 or newer).
"""

import contextlib
import http.server
import json
import re
import secrets
import shutil
import socket
import subprocess
import threading
import time
from typing import get_args

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from consumers.failures import ErrorKind
from deploy import dashboards
from deploy import rules as our_rules
from deploy.child import free_port
from deploy.endpoints import DemoEndpoint, make_endpoint, write_endpoints
from deploy.monitor import Prometheus, scrape_config
from deploy.pipeline import (
    CANARY_ADMIN_PORT,
    CANARY_CONSUMER_ADMIN_PORT,
    EXPORTER_ADMIN_PORT,
    FIRST_CONSUMER_ADMIN_PORT,
    GATEWAY_ADMIN_PORT,
)
from gateway.delivery import group_id, raw_topic
from gateway.providers import EVERY, PROVIDERS
from gateway.rejections import REASONS
from gateway.send import fixture, fixtures, post, signing_key
from tests.deployment import PATIENCE, deployment, get, until
from tests.test_observability import (
    BOARDS,
    SCRAPE_CONFIG,
    drive,
    everything,
    exporter,
    settled,
)

TEMPO = 60
"""How many times faster than in earnest the rules are evaluated: a month is twelve hours."""
NOT_DRIVEN = {
    "shutting_down": "the process is gone before it could be scraped",
    "kafka_timeout": "wants brokers that are silent",
    "kafka_queue_full": "wants brokers that are silent",
    "unforeseen": "wants a bug of ours",
}
"""Reasons of rejections that this run does not bring about; test_server.py does."""
NOT_FAILED = {"bug": "wants a bug of ours"}
"""Kinds of dead letters that this run does not bring about."""
TWICE = 1.5
"""Two exporters that were added up say twice of what one says; their rounds differ by less."""
QUIET = {
    ("gateway", "Trouble with the brokers", "A"): "no request was sent again",
    ("gateway", "Trouble with the brokers", "B"): "every request was answered",
    ("gateway", "Trouble with the brokers", "C"): "no connection broke",
    ("gateway", "Ready, connected, reloaded", "C"): "nothing was reloaded",
    ("gateway", "Ready, connected, reloaded", "D"): "no reload failed",
    ("normalizer", "Lag in seconds, from outside", "B"): "every lag is known",
    ("normalizer", "Pulse", "B"): "nothing waits",
    ("normalizer", "Unrest", "A"): "the groups may have formed before the first scrape",
    ("normalizer", "Unrest", "B"): "every commit was taken",
    ("normalizer", "Unrest", "C"): "no client was given up",
    ("normalizer", "Unrest", "D"): "no client complained",
    ("normalizer", "Unrest", "E"): "there was room",
    ("normalizer", "Unrest", "F"): "the groups may have formed before the first scrape",
    ("normalizer", "Dedup: unrest", "A"): "nothing waits to be known",
    ("normalizer", "Dedup: unrest", "B"): "everything was known in time",
    ("normalizer", "Dedup: unrest", "C"): "what was seen could be used",
    ("normalizer", "Stalled, lost, beyond the end", "A"): "most records could be read",
    ("normalizer", "Stalled, lost, beyond the end", "B"): "most records could be read",
    ("normalizer", "Stalled, lost, beyond the end", "C"): "nothing was deleted",
    ("normalizer", "Stalled, lost, beyond the end", "D"): "nothing was deleted",
    ("normalizer", "Stalled, lost, beyond the end", "E"): "no log was cut",
}
"""Queries that show only what is not 0: they must give data once 0 is let through."""
LATER = {("overview", "Which alerts fire", "A"): "one fires once the exporter is dead"}
JOBS = ("verihook-canary", "verihook-consumers", "verihook-exporter", "verihook-gateway")
STRICT = DemoEndpoint(
    name="plexy-strict", provider="plexy", options={"text": "timestamped", "stale": "refuse"}
)


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Both programs are there, or the run fails naming the one that is missing."""
    missing = [name for name in ("promtool", "prometheus") if shutil.which(name) is None]
    if missing:
        pytest.fail(f"{' and '.join(missing)} missing: install the Debian package prometheus")


def promtool(*arguments, given=""):
    """Run promtool; fail with what it says."""
    done = subprocess.run(
        ["promtool", *arguments], input=given, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_promtool_accepts_the_scrape_configuration():
    """The file as it is shipped is valid, with the rules it names."""
    said = promtool("check", "config", str(SCRAPE_CONFIG))
    assert said.count("SUCCESS") == 3


def substituted(text: str, provider: str = ".+", source: str = "ours") -> str:
    """A query as Grafana would send it, with every provider or with one."""
    chosen = {
        "$job": f"({'|'.join(JOBS)})", "$provider": provider, "$__rate_interval": "1m",
        "$__range": "5m", "$lag_source": dashboards.LAG_SOURCES[source],
    }  # fmt: skip
    for name, value in chosen.items():
        text = text.replace(name, value)
    return text


def further_endpoints(deployed, folder):
    """The file of endpoints with two more: one that refuses what is stale, one that knows its client."""
    deployed.made[STRICT.name] = make_endpoint(STRICT)
    own = folder / "own"
    own.mkdir()
    file = write_endpoints(deployed.made.values(), own)
    secret = own / "veriff-client.secret"
    secret.write_text("the-secret-of-an-integration")
    file.write_text(
        file.read_text()
        + f"""[[endpoint]]
name = "veriff-client"
provider = "veriff"
environment = "sandbox"
secrets = [{{id = "old", file = "{secret}", client = "ours", retires = 2099-01-31}}]
"""
    )
    return file


def raw_request(url: str, head: str, body: bytes = b"", *, leave: bool = False) -> None:
    """Send what no client library would, and wait until the gateway is done with it."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode() + b"\r\nHost: gateway\r\n\r\n" + body)
        if leave:
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while connection.recv(65_536):
                pass


def refuse_everything(deployed, idle_url: str) -> None:
    """Bring every reason for a rejection about that can be, each as a sender would."""
    url, found = deployed.url, fixture("veriff", "decision-approved")
    veriff, token = f"{url}/webhooks/veriff", deployed.made["plexy-b"].path
    for target, headers, body, status in (
        (veriff, {}, found.body, 401),  # signature_missing
        (veriff, {"x-hmac-signature": "x"}, found.body, 401),  # signature_malformed
        (veriff, {"x-hmac-signature": "0" * 64}, found.body, 401),  # signature_mismatch
        (veriff, {"content-encoding": "gzip"}, found.body, 415),
        (veriff, {"vrf-integration-id": "a" * 4097}, found.body, 431),
        (veriff, {}, b"x" * 300_000, 503),  # overloaded: see GATEWAY_MAX_BODY_BYTES
        (f"{url}/webhooks/nobody", {}, b"{}", 404),
        (f"{url}/webhooks/{token.partition('/')[0]}/wrong", {}, b"{}", 404),
        (f"{url}/webhooks/{deployed.made['treezor'].path}", {}, b"{", 500),  # body_malformed
        (f"{idle_url}/webhooks/veriff", {}, b"{}", 503),  # not_ready
    ):
        assert post(target, headers, body).status == status, target
    assert deployed.send("plexy", b"{}", {"x": "y"}).status == 200
    strict = deployed.made[STRICT.name]
    scheme = EVERY["plexy"].scheme([signing_key(EVERY["plexy"], strict.secret)], STRICT.options)
    proof = scheme.sign(b"{}", time.time() - 3600)
    assert post(f"{url}/webhooks/{strict.path}", proof.headers, proof.body).status == 401
    # The same at the lenient endpoint is stored, and counted as stale.
    lenient = deployed.made["plexy"]
    scheme = EVERY["plexy"].scheme(
        [signing_key(EVERY["plexy"], lenient.secret)],
        {"contract": "A", "text": "timestamped", "stale": "accept"},
    )
    proof = scheme.sign(b"{}", time.time() - 3600)
    assert post(f"{url}/webhooks/{lenient.path}", proof.headers, proof.body).status == 200
    other = {"x-auth-client": "theirs", "x-hmac-signature": "0" * 64}
    assert post(f"{url}/webhooks/veriff-client", other, b"{}").status == 401  # unknown_client
    raw_request(url, "GET /webhooks/veriff HTTP/1.1\r\nConnection: close")
    raw_request(url, "POST /webhooks/veriff HTTP/1.1\r\nContent-Length: 1000000000")
    raw_request(url, "POST /webhooks/veriff HTTP/1.1\r\nContent-Length: 9", b"x")  # body_timeout
    raw_request(url, "POST /webhooks/veriff HTTP/1.1\r\nContent-Length: 9", b"x", leave=True)
    # A topic that takes less than before refuses what the gateway was ready for.
    topic = ConfigResource(
        ConfigResource.Type.TOPIC,
        raw_topic("onfido", deployed.prefix),
        incremental_configs=[
            ConfigEntry("max.message.bytes", "900", incremental_operation=AlterConfigOpType.SET)
        ],
    )
    admin = AdminClient({"bootstrap.servers": deployed.bootstrap})
    for answer in admin.incremental_alter_configs([topic]).values():
        answer.result(30)
    large = json.dumps({"payload": secrets.token_hex(5000)}).encode()  # does not compress
    until(lambda: deployed.send("onfido", large).status == 503, "the topic refuses it")


def fail_everything(deployed) -> dict[str, int]:
    """Send what becomes a dead letter of each kind; gives how many were stored at whom."""
    found = json.loads(fixture("plexy", "payment-failed").body)
    decision = json.loads(fixture("veriff", "decision-approved").body)
    decision["verification"]["id"] = "x" * 5000
    plexy = [
        found | {"data": 5},  # schema_mismatch
        found | {"type": "brand.new"},  # unknown_type
        found | {"name": "transaction.sale"},  # inconsistent: of the other contract
    ]
    for body in plexy:
        assert deployed.send("plexy", json.dumps(body).encode()).status == 200
    assert deployed.send("veriff", json.dumps(decision).encode()).status == 200  # out_of_range
    return {"plexy": len(plexy), "veriff": 1}


@contextlib.contextmanager
def other_exporters(prefix: str):
    """Give the address of a page that tells lag in the words of kafka_exporter and of KMinion."""
    group = group_id("veriff", prefix)
    page = (
        f'kafka_consumergroup_lag{{consumergroup="{group}",topic="t",partition="3"}} 5\n'
        f'kafka_consumergroup_lag{{consumergroup="{group}",topic="t",partition="4"}} -1\n'
        'kafka_consumergroup_lag{consumergroup="another",topic="t",partition="3"} 9\n'
        "kminion_kafka_consumer_group_topic_partition_lag"
        f'{{group_id="{group}",topic_name="t",partition_id="3"}} 7\n'
    )

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.kafka
def test_every_panel_shows_data_of_the_real_service(topics, tmp_path):
    """The lint of promtool finds nothing to complain of in /metrics, and every panel's query gives data."""
    with deployment(topics(canary=True), tmp_path) as deployed, contextlib.ExitStack() as stack:
        given = {
            "GATEWAY_ENDPOINTS": str(further_endpoints(deployed, tmp_path)),
            "GATEWAY_BODY_TIMEOUT": "1",
            "GATEWAY_MAX_BODY_BYTES": "200000",
        }
        idle, idle_url = idle_gateway(deployed, given)
        gateway = deployed.gateway(**given)
        consumers = {name: deployed.consumer(name, ready=False) for name in PROVIDERS}
        canary = deployed.consumer("canary", ready=False)
        outside, prober = exporter(deployed), deployed.prober()
        for process in (*consumers.values(), canary, prober):
            process.wait_ready()
        processes = [gateway, canary, *consumers.values(), outside, prober]
        ports = [GATEWAY_ADMIN_PORT, CANARY_CONSUMER_ADMIN_PORT]
        ports += [FIRST_CONSUMER_ADMIN_PORT + index for index in range(len(PROVIDERS))]
        ports += [EXPORTER_ADMIN_PORT, CANARY_ADMIN_PORT]
        addresses = {
            port: process.admin.removeprefix("http://")
            for port, process in zip(ports, processes, strict=True)
        }
        processes.append(idle)
        foreign = stack.enter_context(other_exporters(deployed.prefix))
        # The exporter a second time, under another job: as if two measured.
        further = [one.admin.removeprefix("http://") for one in (idle, outside)]
        further.append(foreign)
        rules, config = tmp_path / "rules.yml", tmp_path / "prometheus.yml"
        rules.write_text(our_rules.text(TEMPO))
        config.write_text(scrape_config(addresses, rules, "1s", further))
        promtool("check", "config", str(config))
        prometheus = Prometheus(tmp_path, config.read_text())
        stack.callback(prometheus.close)
        prometheus.wait_ready()
        # A counter's increase shows only from its second scrape on.
        found = "count((count_over_time(up[1m]) > 2) and on (instance) up == 1)"
        until(lambda: prometheus.values(found) == [len(processes) + 2], "three scrapes of each")
        expected = dict.fromkeys(PROVIDERS, 0)
        for sent in fixtures():
            assert deployed.send_fixture(sent).status == 200
            expected[sent.provider] += 1
        again = fixture("veriff", "decision-approved")
        assert deployed.send_fixture(again).status == 200  # a duplicate
        expected["veriff"] += 1 + drive(deployed)
        refuse_everything(deployed, idle_url)
        expected["plexy"] += 2
        for name, count in fail_everything(deployed).items():
            expected[name] += count
        for name, consumer in consumers.items():
            settled(consumer, expected[name])
        # An event of a kind that was never seen is born with its counter: no increase shows it.
        events = "verihook_events_normalized_total"
        born = sum(consumer.sum(events) for consumer in consumers.values())
        until(lambda: sum(prometheus.values(f'{events}{{provider!="canary"}}')) == born, "scraped")
        approved = json.loads(again.body)
        for number in range(3):
            approved["verification"]["id"] = f"another-session-{number}"
            assert deployed.send("veriff", json.dumps(approved).encode()).status == 200
        look_at_every_reason(prometheus)
        for process in processes:
            promtool("check", "metrics", given=get(f"{process.admin}/metrics")[1])
        look_at_every_panel(prometheus)
        look_at_the_variables(prometheus)
        look_at_one_provider(prometheus)
        look_at_two_exporters(prometheus)
        look_at_the_other_sources(prometheus)
        assert all(
            target["health"] == "up" and not target["lastError"]
            for target in prometheus.ask("targets")["activeTargets"]
        )
        assert consumers["veriff"].stop() == 0
        assert deployed.send_fixture(again).status == 200
        look_at_a_dead_consumer(prometheus)
        look_at_one_unknown_partition(prometheus, deployed)
        outside.stop()
        look_at_a_dead_exporter(prometheus)


def idle_gateway(deployed, given):
    """A gateway that never gets ready, since nobody answers where its Kafka should be."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port, admin = free_port(), free_port()
        settings = {
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "GATEWAY_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{nobody.getsockname()[1]}",
        }
        process = deployed._start(["gateway", "serve"], given | settings, admin, ready=False)
    url = f"http://127.0.0.1:{port}"
    until(lambda: get(f"{url}/webhooks/veriff")[0] == 405, "it listens")
    return process, url


def look_at_every_reason(prometheus: Prometheus) -> None:
    """Every reason there is was brought about, but for those allowed."""
    for metric, wanted in (
        ("verihook_webhook_rejections_total", {one.label for one in REASONS} - set(NOT_DRIVEN)),
        ("verihook_normalize_failures_total", set(get_args(ErrorKind)) - set(NOT_FAILED)),
        ("verihook_produce_errors_total", {"too_large"}),
    ):

        def seen(metric=metric):
            result = prometheus.ask("query", query=f"sum by (reason) ({metric}) > 0")["result"]
            return {series["metric"]["reason"] for series in result}

        until(lambda seen=seen, wanted=wanted: seen() == wanted, f"{sorted(wanted)} in {metric}")


def look_at_every_panel(prometheus: Prometheus) -> None:
    """Run every query until each has given data; name those that have not."""
    queries = {
        (board, panel["title"], target["refId"]): substituted(target["expr"])
        for board, panel, target in everything()
    }
    assert set(QUIET) | set(LATER) <= set(queries)
    for at in QUIET:
        assert "> 0" in queries[at], at
        queries[at] = queries[at].replace("> 0", ">= 0")
    for at in LATER:
        prometheus.ask("query", query=queries.pop(at))

    def without_data():
        for at, expr in list(queries.items()):
            if prometheus.values(expr):
                del queries[at]
        return not queries

    try:
        until(without_data, "every panel has data", 40)
    except AssertionError as error:
        raise AssertionError("\n".join(f"{at}: {expr}" for at, expr in queries.items())) from error


def look_at_one_provider(prometheus: Prometheus) -> None:
    """With one provider chosen, nothing of another is shown."""
    shown = set()
    ours = {"veriff", "veriff-client", "", None}
    for board, panel, target in everything():
        expr = substituted(target["expr"], "veriff")
        for series in prometheus.ask("query", query=expr)["result"]:
            labels = series["metric"]
            assert {labels.get("provider"), labels.get("endpoint")} <= ours, expr
            assert labels.get("topic", "veriff").endswith(".veriff") or "topic" not in labels, expr
            shown.add((board, panel["title"]))
    assert {
        ("overview", "How late events are, by provider"),
        ("overview", "Provider by provider"),
        ("gateway", "Rejections by endpoint and reason"),
        ("normalizer", "Lag in seconds, from outside"),
    } <= shown


def panel_query(board: str, title: str, number: int = 0) -> str:
    """A query of a panel."""
    return next(
        panel["targets"][number]["expr"]
        for panel in BOARDS[board]["panels"]
        if panel["title"] == title
    )


def look_at_two_exporters(prometheus: Prometheus) -> None:
    """What two exporters say of the same thing counts once."""
    both, one = f"({'|'.join(JOBS)})", "verihook-exporter"
    told = "count by (job) (verihook_log_end_offset)"
    assert len(prometheus.values(told)) == 2
    for number in range(2):
        expr = substituted(panel_query("normalizer", "Consumption against production", number))
        assert both in expr
        alone = expr.replace(both, one)

        def flow(asked):
            result = prometheus.ask("query", query=asked)["result"]
            return {told["metric"]["provider"]: float(told["value"][1]) for told in result}

        # The canary goes on sending; of others nothing moves by now.
        until(lambda alone=alone: flow(alone)["canary"] > 0, "the canary's records flow")
        all_told, once_told = flow(expr), flow(alone)
        assert set(all_told) == set(once_told) == set(EVERY)
        assert all_told["canary"] <= TWICE * once_told["canary"]


def look_at_one_unknown_partition(prometheus: Prometheus, deployed) -> None:
    """In time but for a partition nobody knows is not in time; a group set back goes backwards."""
    topic = raw_topic("veriff", deployed.prefix)
    ends = {
        int(series["metric"]["partition"]): int(series["value"][1])
        for series in prometheus.ask(
            "query", query=f'max by (partition) (verihook_log_end_offset{{topic="{topic}"}})'
        )["result"]
    }
    assert len(ends) > 1
    admin = AdminClient({"bootstrap.servers": deployed.bootstrap})

    def committed(offsets):
        partitions = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]
        group = ConsumerGroupTopicPartitions(group_id("veriff", deployed.prefix), partitions)
        for answer in admin.alter_consumer_group_offsets([group]).values():
            answer.result(30)

    first = min(ends)
    committed(ends | {first: ends[first] + 1000})
    until(lambda: lateness(prometheus)["veriff"] == "NaN", "veriff is unknown")
    unknown = substituted(panel_query("normalizer", "Lag in seconds, from outside", 1))
    assert prometheus.values(unknown) == [1.0]
    committed(ends)
    until(lambda: lateness(prometheus)["veriff"] == "0", "veriff is in time")
    committed(dict.fromkeys(ends, 0))
    flow = substituted(panel_query("normalizer", "Consumption against production", 1), "veriff")
    until(lambda: prometheus.values(flow)[0] < 0, "it goes backwards")


def look_at_the_other_sources(prometheus: Prometheus) -> None:
    """Lag in records is shown from whichever exporter is chosen, and of our groups only."""
    expr = panel_query("normalizer", "Lag in records, from outside")
    for source, value in (("kafka_exporter", "5"), ("kminion", "7")):
        (series,) = prometheus.ask("query", query=substituted(expr, source=source))["result"]
        assert series["metric"] == {"provider": "veriff", "partition": "3"}
        assert series["value"][1] == value


def lateness(prometheus: Prometheus) -> dict[str, str]:
    """What the first tile says, by provider."""
    late = substituted(panel_query("overview", "How late events are, by provider"))
    return {
        series["metric"]["provider"]: series["value"][1]
        for series in prometheus.ask("query", query=late)["result"]
    }


def look_at_a_dead_consumer(prometheus: Prometheus) -> None:
    """Its provider is late on the first tile though it says nothing, and a process does not answer."""
    dead = substituted(panel_query("overview", "Processes that do not answer"))
    until(lambda: prometheus.values(dead) == [1.0], "one process does not answer")
    until(lambda: float(lateness(prometheus).get("veriff", "NaN")) > 1, "veriff is late")
    inside = substituted(panel_query("normalizer", "Lag in seconds, from inside"), "veriff")
    assert prometheus.values(inside) == []
    assert set(lateness(prometheus)) == set(EVERY)


def look_at_a_dead_exporter(prometheus: Prometheus) -> None:
    """Nobody knows the lag, so every provider is named without a number, and an alert says so."""
    until(lambda: lateness(prometheus) == dict.fromkeys(EVERY, "NaN"), "every provider is unknown")
    firing = substituted(panel_query("overview", "Which alerts fire"))

    def alerts():
        result = prometheus.ask("query", query=firing)["result"]
        return {series["metric"]["alertname"] for series in result}

    until(lambda: "VerihookExporterMissing" in alerts(), "the alert fires", PATIENCE)
    fires = substituted(panel_query("overview", "Alerts that fire"))
    assert prometheus.values(fires)[0] >= 1


def look_at_the_variables(prometheus: Prometheus) -> None:
    """The drop-down lists offer the four jobs and the providers."""
    offered = {}
    for variable in BOARDS["overview"]["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            selector, label = substituted(asked[1]), asked[2]
            offered[variable["name"]] = prometheus.ask(
                f"label/{label}/values", **{"match[]": selector}
            )
    assert offered == {"job": list(JOBS), "provider": sorted(EVERY)}
