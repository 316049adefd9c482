"""A real Prometheus on this machine, with our rules, and what its API says."""

import contextlib
import http.client
import json
import math
import re
import shutil
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from deploy.child import HOST, CannotRun, Child, free_port

SCRAPE_CONFIG = Path(__file__).resolve().parent / "prometheus" / "prometheus.yml"
_READY_SECONDS = 60.0
_POLL_SECONDS = 1.0
_SILENT_SECONDS = 20.0
_FIRST_TARGET = "job_name: verihook-gateway\n    static_configs:\n      - targets:\n"
_TARGET = re.compile(r"^( +- )127\.0\.0\.1:(\d+)(.*)$", re.MULTILINE)


class Alert(msgspec.Struct, frozen=True):
    """One alert as Prometheus has it now; `state` is pending or firing."""

    name: str
    labels: tuple[tuple[str, str], ...]
    state: str
    severity: str

    @property
    def subject(self) -> str:
        """What it is about, in words: the labels beside name and severity."""
        return ", ".join(
            f"{name} {value}"
            for name, value in self.labels
            if name in {"provider", "endpoint", "group", "topic", "field"}
        )


def scrape_config(
    addresses: Mapping[int, str], rules: Path, interval: str, further: Sequence[str] = ()
) -> str:
    """Give the shipped configuration with other addresses, another interval and these rules.

    `addresses` names for each port of the shipped file where the process really listens;
    `further` are scraped beside the gateway.
    """
    text = _TARGET.sub(
        lambda line: f"{line[1]}{addresses[int(line[2])]}{line[3]}",
        SCRAPE_CONFIG.read_text(encoding="utf-8"),
    )
    for setting in ("scrape_interval", "scrape_timeout", "evaluation_interval"):
        text = re.sub(rf"(?m)^( *){setting}: .*$", rf"\g<1>{setting}: {interval}", text)
    targets = "".join(f"          - {address}\n" for address in further)
    text = text.replace(_FIRST_TARGET, _FIRST_TARGET + targets)
    return re.sub(r"(?m)^( +- )rules\.yml$", rf"\g<1>{rules}", text)


class Prometheus:
    """A Prometheus that ends with us; `folder` holds its configuration, data and log."""

    def __init__(self, folder: Path, config: str) -> None:
        if shutil.which("prometheus") is None:
            raise CannotRun("prometheus is missing: install the Debian package prometheus")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "prometheus.yml"
        file.write_text(config, encoding="utf-8")
        self.address = f"{HOST}:{free_port()}"
        self._child = Child(
            "prometheus",
            [
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.address}",
            ],
            folder / "prometheus.log",
        )

    def wait_ready(self) -> None:
        """Wait until it answers queries. Raises CannotRun."""
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end:
            if self._child.exit_code is not None:
                raise CannotRun(self._child.obituary())
            try:
                if self._get("/-/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise CannotRun("prometheus does not get ready; its log says why")

    def close(self) -> None:
        """Stop it."""
        self._child.stop()

    def alerts(self) -> list[Alert]:
        """List what is pending or firing now."""
        found = []
        for one in self.ask("alerts")["alerts"]:
            labels = dict(one["labels"])
            name, severity = labels.pop("alertname"), labels.pop("severity", "")
            found.append(Alert(name, tuple(sorted(labels.items())), one["state"], severity))
        return found

    def value(self, query: str) -> float | None:
        """Give one number; None where the query gives nothing."""
        result = self.ask("query", query=query)["result"]
        return float(result[0]["value"][1]) if result else None

    def values(self, query: str) -> list[float]:
        """Give the number of each series now, but for what is not a number."""
        found = [float(one["value"][1]) for one in self.ask("query", query=query)["result"]]
        return [value for value in found if not math.isnan(value)]

    def series(
        self, query: str, begin: float, end: float, step: float = 1.0
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Give every series of a query between two times (seconds since the epoch)."""
        result = self.ask(
            "query_range", query=query, start=str(begin), end=str(end), step=str(step)
        )["result"]
        return [
            (one["metric"], [(float(at), float(value)) for at, value in one["values"]])
            for one in result
        ]

    def ask(self, path: str, **arguments: str) -> Any:
        """Ask the API; `path` is what comes after its version. Raises CannotRun."""
        status, text = self._get(f"/api/v1/{path}?{urllib.parse.urlencode(arguments)}")
        answer = json.loads(text)
        if status != 200:
            raise CannotRun(f"prometheus refuses {arguments}: {answer.get('error')}")
        return answer["data"]

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


class Change(msgspec.Struct, frozen=True):
    """An alert changed its state: pending, firing, or gone."""

    at: float
    alert: Alert
    state: str


class Watch(threading.Thread):
    """Asks Prometheus for its alerts every second and notes each change."""

    def __init__(self, prometheus: Prometheus) -> None:
        super().__init__(name="watch", daemon=True)
        self.changes: list[Change] = []
        self._prometheus = prometheus
        self._now: dict[tuple[str, tuple[tuple[str, str], ...]], Alert] = {}
        self._answered = time.monotonic()
        self._over = threading.Event()

    def run(self) -> None:
        """Watch until stopped."""
        while not self._over.wait(_POLL_SECONDS):
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError, CannotRun):
                self._look(time.time(), self._prometheus.alerts())
                self._answered = time.monotonic()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()

    def firing(self) -> set[str]:
        """Name the alerts that fire now. Raises CannotRun where Prometheus no longer says."""
        if time.monotonic() - self._answered > _SILENT_SECONDS:
            raise CannotRun("prometheus no longer tells its alerts; its log says why")
        return {one.name for one in list(self._now.values()) if one.state == "firing"}

    def _look(self, at: float, alerts: Sequence[Alert]) -> None:
        now = {(one.name, one.labels): one for one in alerts}
        for key, one in now.items():
            before = self._now.get(key)
            if before is None or before.state != one.state:
                self.changes.append(Change(at, one, one.state))
        for key, one in self._now.items():
            if key not in now:
                self.changes.append(Change(at, one, "gone"))
        self._now = now
