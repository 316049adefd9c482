"""The real service under the real Prometheus: run by `make verify`, never by `make test`.

Needs promtool and prometheus (Debian package prometheus, 2.42 or newer).
"""

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import pytest

from deploy.child import free_port
from deploy.local import FIRST_CONSUMER_ADMIN_PORT, GATEWAY_ADMIN_PORT
from gateway.providers import PROVIDERS
from gateway.send import fixtures
from tests.deployment import deployment, get, until
from tests.test_observability import BUILT, SCRAPE_CONFIG, drive, settled, targets

QUIET = {
    ("Gateway: rejections by reason", "B"): "Kafka took everything",
    ("Gateway: keys in use", "B"): "nothing was stale",
    ("Gateway: keys in use", "C"): "nothing was reloaded",
    ("Normalizer: pulse", "B"): "nothing waits",
    ("Normalizer: unrest", "A"): "the group formed before the first scrape",
    ("Normalizer: unrest", "B"): "every commit was taken",
    ("Normalizer: unrest", "C"): "no client was given up",
    ("Normalizer: unrest", "D"): "no client complained",
    ("Normalizer: unrest", "E"): "there was room",
    ("Normalizer: unrest", "F"): "what was seen could be used",
    ("Normalizer: unrest", "G"): "nothing waits to be known",
    ("Normalizer: unrest", "H"): "everything was known in time",
}
"""Queries that show only what is not 0: they must give data once 0 is let through."""
EMPTY = {("Provider by provider", "J"): "nothing was lost to retention, so there is no series"}
LOCAL = re.compile(r"^( +- )127\.0\.0\.1:(\d+)(.*)$", re.MULTILINE)


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
    """The file as it is shipped is valid."""
    assert "SUCCESS" in promtool("check", "config", str(SCRAPE_CONFIG))


def test_every_provider_has_its_line_in_the_scrape_configuration():
    """What `make run` starts is scraped: one target per registered provider."""
    ports = [int(port) for _, port, _ in LOCAL.findall(SCRAPE_CONFIG.read_text())]
    first = FIRST_CONSUMER_ADMIN_PORT
    assert ports == [GATEWAY_ADMIN_PORT, *range(first, first + len(PROVIDERS))]


def scrape_config(addresses: dict[int, str]) -> str:
    """The shipped file, with the addresses of a test and a scrape every second."""
    text = LOCAL.sub(
        lambda line: f"{line[1]}{addresses[int(line[2])]}{line[3]}", SCRAPE_CONFIG.read_text()
    )
    for setting in ("scrape_interval", "scrape_timeout"):
        text, count = re.subn(rf"{setting}: \d+s", f"{setting}: 1s", text)
        assert count == 1
    return text


class Prometheus:
    """A running Prometheus and its HTTP API."""

    def __init__(self, config: str, folder) -> None:
        file = folder / "prometheus.yml"
        file.write_text(config)
        promtool("check", "config", str(file))
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as out:
            self.popen = subprocess.Popen(
                ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}",
                 f"--web.listen-address={address}"], stdout=out, stderr=out,
            )  # fmt: skip

    def wait_ready(self):
        """Wait until it answers queries."""

        def ready():
            assert self.popen.poll() is None, self.log.read_text()
            return get(f"{self.url}/-/ready")[0] == 200

        until(ready, "Prometheus is ready")
        return self

    def ask(self, path: str, **arguments):
        """Ask the API; fail with its words."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{arguments}: {error.code} {error.read().decode()}")

    def values(self, expr: str) -> list[float]:
        """What a query gives now, but for what is not a number."""
        result = self.ask("query", query=expr)["result"]
        values = [float(series["value"][1]) for series in result]
        return [value for value in values if value == value]  # noqa: PLR0124 - NaN is not itself

    def close(self) -> None:
        """Stop it."""
        self.popen.terminate()
        self.popen.wait(30)


def substituted(text: str, provider: str = ".+") -> str:
    """A query as Grafana would send it, with every provider or with one."""
    chosen = {
        "$job": "(verihook-consumers|verihook-gateway)", "$provider": provider,
        "$__rate_interval": "1m", "$__range": "5m",
    }  # fmt: skip
    for name, value in chosen.items():
        text = text.replace(name, value)
    return text


@pytest.mark.kafka
def test_every_panel_shows_data_of_the_real_service(topics, tmp_path):
    """The lint of promtool finds nothing to complain of in /metrics, and every panel's query gives data."""
    with deployment(topics(), tmp_path) as deployed:
        gateway = deployed.gateway()
        consumers = {name: deployed.consumer(name) for name in PROVIDERS}
        processes = [gateway, *consumers.values()]
        ports = [GATEWAY_ADMIN_PORT]
        ports += [FIRST_CONSUMER_ADMIN_PORT + index for index in range(len(PROVIDERS))]
        addresses = {
            port: process.admin.removeprefix("http://")
            for port, process in zip(ports, processes, strict=True)
        }
        prometheus = Prometheus(scrape_config(addresses), tmp_path)
        try:
            prometheus.wait_ready()
            until(
                lambda: prometheus.values("sum(up)") == [len(processes)],
                "every process is scraped",
            )
            # A counter's increase shows only from its second scrape on.
            found = "count(count_over_time(up[1m]) > 2)"
            until(lambda: prometheus.values(found) == [len(processes)], "three scrapes")
            expected = dict.fromkeys(PROVIDERS, 0)
            for given in fixtures():
                assert deployed.send_fixture(given).status == 200
                expected[given.provider] += 1
            expected["veriff"] += drive(deployed)
            for name, consumer in consumers.items():
                settled(consumer, expected[name])
            for process in processes:
                promtool("check", "metrics", given=get(f"{process.admin}/metrics")[1])
            look_at_every_panel(prometheus)
            look_at_the_variables(prometheus)
            look_at_one_provider(prometheus)
            assert all(
                target["health"] == "up" and not target["lastError"]
                for target in prometheus.ask("targets")["activeTargets"]
            )
            assert consumers["veriff"].stop() == 0
            look_at_a_dead_consumer(prometheus)
        finally:
            prometheus.close()


def look_at_every_panel(prometheus: Prometheus) -> None:
    """Run every query until each has given data; name those that have not."""
    queries = {
        (panel["title"], target["refId"]): substituted(target["expr"])
        for panel, target in targets(BUILT)
    }
    assert set(QUIET) | set(EMPTY) <= set(queries)
    for at in QUIET:
        assert "> 0" in queries[at], at
        queries[at] = queries[at].replace("> 0", ">= 0")
    for at in EMPTY:
        prometheus.values(queries.pop(at))

    def without_data():
        for at, expr in list(queries.items()):
            if prometheus.values(expr):
                del queries[at]
        return not queries

    try:
        until(without_data, "every panel has data", 30)
    except AssertionError as error:
        raise AssertionError("\n".join(f"{at}: {expr}" for at, expr in queries.items())) from error


def look_at_one_provider(prometheus: Prometheus) -> None:
    """With one provider chosen, nothing of another is shown."""
    shown = set()
    for panel, target in targets(BUILT):
        expr = substituted(target["expr"], "veriff")
        for series in prometheus.ask("query", query=expr)["result"]:
            labels = series["metric"]
            assert {labels.get("provider"), labels.get("endpoint")} <= {"veriff", None}, expr
            shown.add(panel["title"])
    assert {BUILT["panels"][0]["title"], "Provider by provider"} <= shown


def look_at_a_dead_consumer(prometheus: Prometheus) -> None:
    """Its provider stays on the first tile, without a number, and a process does not answer."""
    dead = substituted('sum(1 - up{job=~"$job"})')
    until(lambda: prometheus.values(dead) == [1.0], "one process does not answer")
    late = substituted(BUILT["panels"][0]["targets"][0]["expr"])
    tiles = {
        series["metric"]["provider"]: series["value"][1]
        for series in prometheus.ask("query", query=late)["result"]
    }
    assert tiles.pop("veriff") == "NaN"
    assert set(tiles) == set(PROVIDERS) - {"veriff"}
    assert "NaN" not in tiles.values()


def look_at_the_variables(prometheus: Prometheus) -> None:
    """The drop-down lists offer the two jobs and the providers."""
    offered = {}
    for variable in BUILT["templating"]["list"][1:]:
        asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
        selector, label = substituted(asked[1]), asked[2]
        offered[variable["name"]] = prometheus.ask(f"label/{label}/values", **{"match[]": selector})
    assert offered == {
        "job": ["verihook-consumers", "verihook-gateway"],
        "provider": sorted(PROVIDERS),
    }
