"""The whole pipeline on this machine: `make run`.

Kafka, topics, gateway, one consumer per provider, and what watches them: the canary and the
exporter. Every fixture sent as its provider would send it; what became of each, for a person to
read or (`--once`) for a machine to check.
"""

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.json import JSON
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from consumers.codec import decode
from consumers.event import VerificationEvent
from consumers.ledger import read_entry
from consumers.tail import COLUMNS, table_row
from deploy.child import CannotRun, shown
from deploy.endpoints import (
    DemoEndpoint,
    endpoint_for,
)
from deploy.pipeline import LOGS, PREFIX, TICK_SECONDS, Pipeline, alone
from gateway.delivery import dead_topic, ledger_topic, output_topic
from gateway.process import ConfigurationError
from gateway.providers import PROVIDERS
from gateway.send import RUN_FILE, Fixture, fixtures, post, signed

_BYTES_ON_A_SCREEN = 1200
_EVENTS_SECONDS = 60.0
_SETTLE_SECONDS = 1.0
"""How long to look for an event nobody expects after the last expected one."""
_STORED, _BUSY = 200, 503
_ATTEMPTS = 5
EXIT_INTERRUPTED = 130
_WIDTH_OF_A_PIPE = 150

# What depends on a run's keys, on where the raw record lies or on when it came: an event of
# this run and the expected one of a fixture need not agree on it.
_OF_THE_RUN = frozenset(
    {"event_id", "subject_ref", "subject_key_id", "received_at"}
    | {"raw_topic", "raw_partition", "raw_offset", "mapping_revision"}
)
_TIMES_OF_RECEIPT = frozenset({"received", "delivery"})


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A fixture, where it goes, and the events it should become."""

    endpoint: DemoEndpoint
    fixture: Fixture
    events: list[dict[str, Any]]


def comparable(event: Mapping[str, Any]) -> str:
    """Give what must agree between an event and the expected one, as text that can be compared."""
    kept = {name: value for name, value in event.items() if name not in _OF_THE_RUN}
    if kept.get("occurred_at_source") in _TIMES_OF_RECEIPT:
        del kept["occurred_at"], kept["occurred_at_source"]
    return json.dumps(kept, sort_keys=True)


class Tally:
    """Which expected events have come, and which events came that nobody expected.

    Somebody may send a fixture of their own accord before its turn: its event comes once.
    """

    def __init__(self) -> None:
        self._awaited: Counter[str] = Counter()
        self._unexpected: Counter[str] = Counter()
        self._names: dict[str, str] = {}
        self._kinds: dict[str, str] = {}
        self.arrived = 0

    def expect(self, sent: Sent) -> None:
        """Wait for a sent fixture's events."""
        for event in sent.events:
            key = comparable({**event, "endpoint": sent.endpoint.name})
            self._names[key] = f"{sent.fixture.provider} {sent.fixture.case}"
            if self._unexpected[key] > 0:
                self._unexpected[key] -= 1
            else:
                self._awaited[key] += 1

    def arrive(self, event: Mapping[str, Any]) -> None:
        """Tick an event off."""
        self.arrived += 1
        key = comparable(event)
        if self._awaited[key] > 0:
            self._awaited[key] -= 1
        else:
            self._unexpected[key] += 1
            self._kinds[key] = f"{event['provider']} {event['native_type']}"

    @property
    def unexpected(self) -> list[str]:
        """What came and was not expected, one entry per event."""
        return _each(self._unexpected, self._kinds)

    @property
    def missing(self) -> list[str]:
        """The fixtures whose events have not all come, one entry per event."""
        return _each(self._awaited, self._names)


def _each(counts: Mapping[str, int], names: Mapping[str, str]) -> list[str]:
    return sorted(names[key] for key, count in counts.items() for _ in range(count))


def run_local(environ: Mapping[str, str], *, once: bool) -> int:
    """Run the demonstration; give the exit code. Raises CannotRun or ConfigurationError.

    KeyboardInterrupt ends it in order: the gateway first, then the consumers, then Kafka.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, _WIDTH_OF_A_PIPE))
    pipeline = Pipeline(environ, console)
    up = False
    try:
        with alone(), pipeline:
            pipeline.start()
            up = True
            with contextlib.closing(Demonstration(pipeline, console)) as demonstration:
                pipeline.tell()  # it listens now: what others send from here on is seen
                agreed = demonstration.run()
                if once:
                    pipeline.await_beat()
                    return 0 if agreed else 1
                demonstration.stay()
    except KeyboardInterrupt:
        return 0 if up and not once else EXIT_INTERRUPTED
    return 0


class DeadLetter(msgspec.Struct, frozen=True):
    """Why a delivery of the demonstration became no event."""

    text: str
    received_at: int


class Duplicates(msgspec.Struct, frozen=True):
    """How many events of a provider were not written again."""

    provider: str
    events: int


class Outputs:
    """What reaches the output, dead and ledger topics from now on, by no group of consumers."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._events = output_topic(PREFIX)
        self._consumer = Consumer(
            {
                **pipeline.client,
                "group.id": f"{PREFIX}run",  # never committed to, so it never comes to exist
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "log_level": 0,
            }
        )
        self._ledgers = {ledger_topic(name, PREFIX): name for name in PROVIDERS}
        dead = [dead_topic(name, PREFIX) for name in PROVIDERS]
        topics = [self._events, *dead, *self._ledgers]
        self._consumer.assign([part for topic in topics for part in self._ends(topic)])

    def _ends(self, topic: str) -> list[TopicPartition]:
        metadata = self._consumer.list_topics(topic, timeout=10).topics[topic]
        ends: list[TopicPartition] = []
        for number in metadata.partitions:
            _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            ends.append(TopicPartition(topic, number, end))
        return ends

    def take(self, seconds: float) -> VerificationEvent | DeadLetter | Duplicates | None:
        """Wait for one record."""
        message = self._consumer.poll(seconds)
        if message is None or message.error() is not None:
            return None
        value = message.value()
        if message.topic() == self._events and value is not None:
            return decode(value)
        provider = self._ledgers.get(message.topic() or "")
        if provider is not None:
            page = read_entry(value, message.partition() or 0)
            return Duplicates(provider, page.duplicates)
        kept: Any = message.headers() or []  # the stub allows forms that librdkafka never gives
        headers = {name: text.decode() for name, text in kept}
        kind, path = headers.get("verihook-error-kind"), headers.get("verihook-error-path")
        received_at = int(headers.get("verihook-received-at", "0"))
        return DeadLetter(f"{message.topic()}: {kind} at {path}", received_at)

    def close(self) -> None:
        """Leave the cluster."""
        self._consumer.close()


class Demonstration:
    """Sends the fixtures, shows what becomes of them and keeps the books."""

    def __init__(self, pipeline: Pipeline, console: Console) -> None:
        self._pipeline = pipeline
        self._console = console
        self._outputs = Outputs(pipeline)
        self._tally = Tally()
        self._dead: list[str] = []
        self._refused: list[str] = []
        self._sent = 0
        self._began = int(time.time() * 1000)
        self._widths: list[int] = []

    def run(self) -> bool:
        """Send everything and tell whether every delivery became exactly its events."""
        deliveries = [
            Sent(endpoint=endpoint_for(fixture), fixture=fixture, events=_expected(fixture))
            for fixture in fixtures()
        ]
        if not deliveries:
            raise CannotRun("there are no fixtures to send under tests/fixtures")
        first = min(deliveries, key=_unfit_to_show)
        others = [sent for sent in deliveries if sent is not first]
        self._send(first)
        event = self._show_first(first.fixture)
        self._begin_table(deliveries)
        if event is not None:
            self._row(event)
        for sent in others:
            self._send(sent)
            self._drain(0)
        self._await_events()
        return self._verdict()

    def stay(self) -> None:
        """Show every further event until interrupted or something ends."""
        self._where_to_look()
        while True:
            self._drain(TICK_SECONDS)
            self._pipeline.check()

    def close(self) -> None:
        """Stop reading what comes out."""
        self._outputs.close()

    def _send(self, sent: Sent) -> None:
        fixture, running = sent.fixture, self._pipeline.running
        secret = running.secrets[sent.endpoint.name]
        for _ in range(_ATTEMPTS):
            headers, body = signed(
                fixture.provider, secret, fixture.headers, fixture.body, fixture.options
            )
            try:
                answer = post(running.urls[sent.endpoint.name], headers, body)
            except ConfigurationError:
                # Nobody answers: most likely the gateway has just ended.
                time.sleep(TICK_SECONDS)
                self._pipeline.check()
                raise
            if answer.status != _BUSY:
                break
            time.sleep(min(answer.retry_after or 1, 2))
            self._pipeline.check()
        self._sent += 1
        if answer.status == _STORED:
            self._tally.expect(sent)
        else:
            self._refused.append(
                f"{fixture.provider} {fixture.case}: {answer.status} {answer.text}"
            )

    def _take(self, seconds: float) -> VerificationEvent | None:
        taken = self._outputs.take(seconds)
        match taken:
            # On a cluster that is not ours, a former run may have left deliveries unread.
            case VerificationEvent() if taken.received_at >= self._began:
                self._tally.arrive(msgspec.to_builtins(taken))
                return taken
            case DeadLetter() if taken.received_at >= self._began:
                self._dead.append(taken.text)
            case Duplicates() if taken.events:
                times = "once" if taken.events == 1 else f"{taken.events} times"
                text = f"{taken.provider}: said before, {times}: counted, and not written again"
                self._console.print(text, style="dim")
        return None

    def _drain(self, seconds: float) -> None:
        """Show what is there, waiting so long for the first."""
        while (event := self._take(seconds)) is not None:
            self._row(event)
            seconds = 0

    def _show_first(self, fixture: Fixture) -> VerificationEvent | None:
        """Show the body that was sent beside the event it became."""
        deadline = time.monotonic() + _EVENTS_SECONDS
        event = None
        while event is None and not self._dead and not self._refused:
            if time.monotonic() > deadline:
                break
            event = self._take(TICK_SECONDS)
            self._pipeline.check()
        if event is None:
            return None
        told = {name: value for name, value in msgspec.to_builtins(event).items() if value}
        pair = Table.grid(expand=True)
        pair.add_column(ratio=1)
        pair.add_column(ratio=1)
        pair.add_row(
            Panel(
                JSON(fixture.body.decode(errors="replace")),
                title=f"what {PROVIDERS[fixture.provider].title} sent ({fixture.case})",
            ),
            Panel(JSON(json.dumps(told)), title=f"the event on {output_topic(PREFIX)}"),
        )
        self._console.print(pair)
        return event

    def _begin_table(self, deliveries: Sequence[Sent]) -> None:
        """Print the heads of the columns, as wide as what is expected under them."""
        rows = [
            table_row(msgspec.convert(event, VerificationEvent))
            for sent in deliveries
            for event in sent.events
        ]
        self._widths = [max(map(len, cells)) for cells in zip(COLUMNS, *rows, strict=True)]
        self._console.print()
        self._line(COLUMNS, style="bold")

    def _row(self, event: VerificationEvent) -> None:
        self._line(table_row(event))

    def _line(self, cells: Sequence[str], style: str = "") -> None:
        padded = [cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)]
        text = Text("  ".join(padded).rstrip(), style=style)
        # A terminal shows the left part of a row; a file keeps all of it.
        cut = self._console.is_terminal
        self._console.print(text, no_wrap=True, overflow="ellipsis" if cut else "ignore", crop=cut)

    def _await_events(self) -> None:
        """Wait for what is expected, then a little for what is not."""
        deadline = time.monotonic() + _EVENTS_SECONDS
        while self._tally.missing and time.monotonic() < deadline:
            # What became a dead letter or something else will not become what is missing too.
            if len(self._dead) + len(self._tally.unexpected) >= len(self._tally.missing):
                break
            self._drain(TICK_SECONDS)
            self._pipeline.check()
        settled = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < settled:
            self._drain(TICK_SECONDS)
            self._pipeline.check()

    def _verdict(self) -> bool:
        """Say how it went, every difference by name."""
        complaints = [
            *(f"refused: {text}" for text in self._refused),
            *(f"no such event came: {text}" for text in self._tally.missing),
            *(f"not expected, or different: {text}" for text in self._tally.unexpected),
            *(f"dead letter: {text}" for text in self._dead),
        ]
        self._console.print()
        for complaint in complaints:
            self._console.print(complaint, markup=False, style="red")
        events = self._tally.arrived
        if complaints:
            self._console.print(
                f"{self._sent} deliveries sent, {events} events came, {len(complaints)} differences"
                f" from what the fixtures expect; the logs are in {shown(LOGS)}",
                style="bold red",
            )
            return False
        self._console.print(
            f"{self._sent} deliveries sent, each became exactly the events its fixture expects: "
            f"{events} events in all",
            style="bold green",
        )
        return True

    def _where_to_look(self) -> None:
        running = self._pipeline.running
        python = shown(Path(sys.executable))
        cluster = f"KAFKA_BOOTSTRAP_SERVERS={running.bootstrap} TOPIC_PREFIX={PREFIX}"
        provider, case = "veriff", "decision-declined-under-18"
        body = f"tests/fixtures/{provider}/{case}/body.raw"
        topics = f"{PREFIX}raw.<provider>, {PREFIX}dlq.<provider>, {output_topic(PREFIX)}"
        lines = [
            "",
            "where to look",
            *(f"  metrics of {name}: {url}" for name, url in running.metrics.items()),
            *(f"  metrics of the {name}: {url}" for name, url in running.watch.items()),
            f"  topics on {running.bootstrap}: {topics}",
            f"  logs: {shown(LOGS)}; addresses and secrets for programs: {shown(RUN_FILE)}",
            "what to try next, in another terminal",
            f"  {python} -m gateway send {provider} {case}    (again: a duplicate)",
            f"  sed s/a0000000/b0000000/ {body} > .local/another.json",
            f"  {python} -m gateway send {provider} .local/another.json    (a new one)",
            f"  {python} -m consumers explain {provider} {body}",
            f"  {cluster} {python} -m consumers tail",
            f"  {cluster} {python} -m consumers lag {provider}",
            f"  {cluster} {python} -m consumers audit {provider}",
            "Ctrl-C stops everything",
        ]
        for line in lines:
            self._console.print(line, markup=False, soft_wrap=True)


def _unfit_to_show(sent: Sent) -> tuple[bool, bool, bool, int]:
    """Rank deliveries: one event with a reasoned verdict, of a body that fits on a screen."""
    reasoned = [event for event in sent.events if event["outcome"] == "fail"]
    too_long = len(sent.fixture.body) > _BYTES_ON_A_SCREEN
    said = sum(bool(value) for event in sent.events for value in event.values())
    return len(sent.events) != 1, too_long, not reasoned, -said


def _expected(fixture: Fixture) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = msgspec.json.decode(
        (fixture.folder / "events.json").read_bytes()
    )
    return events
