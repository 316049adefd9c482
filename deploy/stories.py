"""What `make observe` tells: each story's fault, the alert that must come of it, its graphs."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from deploy.child import ROOT
from deploy.load import Load
from deploy.monitor import Prometheus, Watch
from deploy.pipeline import PREFIX, Pipeline

COLUMNS = 150
_COMMAND_SECONDS = 60.0


class Graph(msgspec.Struct, frozen=True):
    """One graph of a story: queries by the names of their series.

    A query that gives several series is named by the label in braces, such as {group}. `limit` is
    drawn as a dashed line.
    """

    title: str
    unit: str
    queries: Mapping[str, str]
    limit: float | None = None


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """A fault on purpose: what is done, which alert must fire, and what else may.

    `also` are alerts that belong to the same fault by their meaning. `seconds` is how long the
    fault lasts at least; it lasts until the alert fires, `patience` seconds at most. `cause` is
    what the runbook's commands must show while it lasts.
    """

    name: str
    title: str
    done: str
    felt: str
    alert: str
    also: frozenset[str] = frozenset()
    fault: Callable[["Scene"], contextlib.AbstractContextManager[None]]
    seconds: float
    patience: float
    cause: str
    known: Mapping[str, str]
    graphs: Sequence[Graph]


class Scene:
    """Everything that runs while stories are told."""

    def __init__(self, pipeline: Pipeline, load: Load, prometheus: Prometheus) -> None:
        self.pipeline = pipeline
        self.load = load
        self.prometheus = prometheus
        self.watch = Watch(prometheus)

    def until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so; False if it was not within `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pipeline.check()
            if done():
                return True
            time.sleep(0.2)
        return False

    def command(self, line: str) -> str:
        """Run a command as an operator beside the pipeline would; give what it says.

        The default ports in it are those of this run, should they have been busy.
        """
        for port, address in self.pipeline.scraped.items():
            line = line.replace(f"127.0.0.1:{port}/", f"{address}/")
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=ROOT,
            env=self.operator(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        return f"{done.stdout}{done.stderr}".replace(f"{ROOT}/", "").rstrip()

    def operator(self) -> dict[str, str]:
        """Give an operator's environment: the cluster, the prefix, the gateway's endpoints."""
        tools = str(ROOT / ".venv" / "bin")
        return {
            "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
            "HOME": os.environ.get("HOME", ""),
            "KAFKA_BOOTSTRAP_SERVERS": self.pipeline.running.bootstrap,
            "TOPIC_PREFIX": PREFIX,
            "GATEWAY_ENDPOINTS": str(self.pipeline.endpoints_file),
            "COLUMNS": str(COLUMNS),
        }


# -- the faults --


@contextlib.contextmanager
def no_consumer(scene: Scene) -> Iterator[None]:
    """Nobody normalizes Veriff."""
    scene.pipeline.stop_consumer("veriff")
    try:
        yield
    finally:
        scene.pipeline.start_consumer("veriff")


@contextlib.contextmanager
def another_secret(scene: Scene) -> Iterator[None]:
    """Signs pawaPass's deliveries with a secret that the gateway does not have yet."""
    fresh = scene.pipeline.fresh_secret("pawapass")
    scene.load.of["pawapass"].secret = fresh.secret
    try:
        yield
    finally:
        scene.pipeline.add_secret("pawapass", fresh, "new")


@contextlib.contextmanager
def slow_broker(scene: Scene) -> Iterator[None]:
    """Stops Kafka's process for two seconds, lets it run for less than one, and so on."""
    pid = scene.pipeline.running.pids["kafka"]
    over = threading.Event()

    def pulse() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(2.0)
            os.kill(pid, signal.SIGCONT)
            over.wait(0.7)

    thread = threading.Thread(target=pulse, name="slow-broker")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def new_words(scene: Scene) -> Iterator[None]:
    """Has Onfido use a word for a verdict that its documentation did not have."""
    sender = scene.load.of["onfido"]
    before = sender.mood
    sender.mood = lambda body: body.replace(b'"status":"approved"', b'"status":"cleared_by_policy"')
    try:
        yield
    finally:
        sender.mood = before


_REQUESTS = "verihook_webhook_requests_total"
_ANSWERS = 'verihook_webhook_request_duration_seconds_bucket{stored="true"}[10s]'
LAG = Graph(
    "Age of the oldest delivery that is no event yet, from outside",
    "seconds",
    {"{group}": "max by (group) (verihook_group_lag_seconds)"},
    60.0,
)
IN_OUT = Graph(
    "Deliveries stored, and events written",
    "per second",
    {
        "stored": f'sum(rate({_REQUESTS}{{result="stored"}}[10s]))',
        "events": "sum(rate(verihook_events_normalized_total[10s]))",
    },
)
RESULTS = Graph(
    "pawaPass's requests by result",
    "per second",
    {"{result}": f'sum by (result) (rate({_REQUESTS}{{provider="pawapass"}}[10s])) > 0'},
)
ANSWERS = Graph(
    "Time to answer a stored delivery",
    "seconds",
    {
        "p50": f"histogram_quantile(0.5, sum by (le) (rate({_ANSWERS})))",
        "p99": f"histogram_quantile(0.99, sum by (le) (rate({_ANSWERS})))",
    },
    1.0,
)
UNMAPPED = Graph(
    "Words our tables do not know",
    "per second",
    {"{field}": "sum by (field) (rate(verihook_unmapped_values_total[10s])) > 0"},
)
CANARY = Graph(
    "The canary, from its POST to its event",
    "seconds",
    {
        "p99": "histogram_quantile(0.99, "
        "sum by (le) (rate(verihook_canary_end_to_end_seconds_bucket[20s])))"
    },
)
QUIET = (LAG, ANSWERS, IN_OUT)

STORIES = (
    Story(
        name="consumer-stopped",
        title="A consumer is stopped for two minutes",
        done="The process that normalizes Veriff is stopped in order; two minutes later it is "
        "started again.",
        felt="Veriff's deliveries are taken and stored, and become no events: whoever waits for "
        "a verdict of Veriff waits.",
        alert="VerihookFreshnessBurningFast",
        also=frozenset({"VerihookFreshnessBurningSlowly", "VerihookProcessDown"}),
        fault=no_consumer,
        seconds=120.0,
        patience=240.0,
        cause=r"NOBODY is in demo\.normalize\.veriff",
        known={"provider": "veriff"},
        graphs=(LAG, IN_OUT),
    ),
    Story(
        name="secret-rotated",
        title="A provider rotates its secret, and nobody told us",
        done="pawaPass signs with a new secret. When the page has come, the new secret is put "
        "beside the old one in the gateway's file, which takes it over by itself.",
        felt="pawaPass's deliveries are refused with 401. It sends them again for a week, so "
        "nothing is lost if the secret is there by then.",
        alert="VerihookEndpointStoresNothing",
        fault=another_secret,
        seconds=30.0,
        patience=240.0,
        cause=r"signature_mismatch",
        known={"provider": "pawapass", "endpoint": "pawapass"},
        graphs=(RESULTS, LAG),
    ),
    Story(
        name="slow-broker",
        title="The broker is slow",
        done="Kafka's process is stopped for two seconds out of every 2.7.",
        felt="Providers wait seconds for their 200; some will give up and send again.",
        alert="VerihookAcknowledgementBurningFast",
        also=frozenset({"VerihookAcknowledgementBurningSlowly"}),
        fault=slow_broker,
        seconds=60.0,
        patience=240.0,
        cause=r"verihook_kafka_round_trip|verihook_produce_ack_seconds",
        known={"provider": "veriff", "endpoint": "veriff"},
        graphs=(ANSWERS, IN_OUT, CANARY),
    ),
    Story(
        name="new-words",
        title="A provider changes its vocabulary",
        done="Onfido's verdict is no longer `approved` but a word that no table of ours has.",
        felt="Onfido's events go on, with the outcome unknown: whoever counts them sees a gap.",
        alert="VerihookUnmappedValues",
        fault=new_words,
        seconds=60.0,
        patience=240.0,
        cause=r"unmapped|status",
        known={"provider": "onfido", "endpoint": "onfido"},
        graphs=(UNMAPPED, IN_OUT),
    ),
)
