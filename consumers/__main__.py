"""python -m consumers run | resume | explain | tail | replay | audit | lag | export."""

import enum
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from consumers import exporter, lag_table, offsets, outside
from consumers import tail as tailing
from consumers.audit import audit as audited
from consumers.audit import report_lines
from consumers.choice import Choice, checked
from consumers.contract import Halted
from consumers.evidence import CLOCKS_APART_MS, gather
from consumers.explain import explained, fate_of
from consumers.normalizers import EVERY, NORMALIZERS
from consumers.replay import Replay
from consumers.run import resumed
from consumers.run import run as run_one
from consumers.settings import (
    DEFAULT_ADMIN,
    MOST_DEDUP_DAYS,
    dedup_days,
    load_dedup_days,
    load_keys,
    load_settings,
)
from gateway.delivery import group_id, output_topic, raw_topic
from gateway.kafka import client_config, topic_prefix
from gateway.process import (
    EXIT_FAILED,
    EXIT_MISUSED,
    Address,
    ConfigurationError,
    on_stop_signals,
    start_logging,
)
from gateway.ranges import RangeUnread, wanted

WATCH_SECONDS = 5.0
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


class Authenticity(enum.StrEnum):
    """What a body to explain was proven by."""

    SIGNED = "signed"
    TOKEN = "token"  # noqa: S105 - a word of the event's field
    UNSIGNED = "unsigned"


_LONGEST_GROUP = 1_000

Provider = Annotated[str, typer.Argument(help="One of the registered providers.")]
EventsAsJson = Annotated[
    bool, typer.Option("--json", help="One object per line, the schema's field names.")
]
Since = Annotated[str, typer.Option(help="From this time of Kafka's on: ISO 8601, or 2h, 3d ago.")]
Until = Annotated[str, typer.Option(help="Before this time of Kafka's.")]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # in which a paragraph of a docstring flows
    help="Normalizes raw deliveries into VerificationEvents. See also: python -m gateway, "
    "python -m deploy.",
)


@app.command()
def run(
    provider: Provider,
    demo: Annotated[
        bool, typer.Option("--demo", help="Make up keys that are missing; never in earnest.")
    ] = False,
    delivery: Annotated[
        str, typer.Option(help="at-least-once or exactly-once; else CONSUMER_DELIVERY.")
    ] = "",
    slot: Annotated[
        int | None,
        typer.Option(
            min=0, max=9_999, help="Exactly-once: this process's own number; else CONSUMER_SLOT."
        ),
    ] = None,
    stall: Annotated[
        bool, typer.Option("--stall/--no-stall", help="Stop reading when most records fail.")
    ] = True,
) -> None:
    """Normalize a provider's raw topic until SIGTERM, then finish what was begun and exit 0."""
    _known(provider)
    settings = load_settings(os.environ, demo=demo, delivery=delivery, slot=slot, stall=stall)
    start_logging(settings.log_level)
    run_one(provider, settings)


@app.command()
def resume(
    provider: Provider,
    admin: Annotated[
        str, typer.Option(help="The admin address of its process; else CONSUMER_ADMIN_LISTEN.")
    ] = "",
) -> None:
    """Have a stalled process go on, as it is: what failed until now stays a dead letter."""
    _known(provider)
    name = "--admin" if admin else "CONSUMER_ADMIN_LISTEN"
    text = admin or os.environ.get("CONSUMER_ADMIN_LISTEN", DEFAULT_ADMIN)
    typer.echo(resumed(provider, Address.parse(text, name)))


@app.command()
def explain(
    provider: Provider,
    file: Annotated[Path, typer.Argument(help="A body as the provider sends it; - reads stdin.")],
    as_json: EventsAsJson = False,
    endpoint: Annotated[str, typer.Option(help="The endpoint it came to.")] = "",
    scheme: Annotated[
        str,
        typer.Option(help="The gateway's scheme, where it tells how to read; else what fits."),
    ] = "",
    authenticity: Annotated[
        Authenticity | None,
        typer.Option(help="What it was proven by; else what its scheme would prove."),
    ] = None,
) -> None:
    """Show how a body maps, without Kafka; nothing is verified, ids are made with EVENT_KEY.

    Without keys in the environment, ids and pseudonyms are made up. Exits 1 if the body
    cannot be normalized.
    """
    _known(provider)
    keys = load_keys(os.environ, demo=True)
    try:
        body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    fate = fate_of(
        provider,
        body,
        keys,
        endpoint=endpoint or provider,
        received_at=int(time.time() * 1000),
        scheme=scheme,
        authenticity=authenticity or "",
    )
    for number, event in enumerate(fate.events):
        if as_json:
            typer.echo(tailing.json_line(event))
            continue
        if number:
            typer.echo("")
        for name, text in explained(event):
            typer.echo(f"{name:<22} {text}")
    for statement in fate.statements:
        if statement.unmapped:
            typer.echo(f"not in our tables: {', '.join(statement.unmapped)}", err=True)
    if fate.ignored is not None:
        typer.echo(f"ignored: {fate.ignored.reason} ({fate.ignored.native_type})", err=as_json)
    if fate.failure is not None:
        failure = fate.failure
        typer.echo(
            f"dead letter: {failure.kind} at {failure.path} ({failure.error_class})", err=True
        )
        raise typer.Exit(EXIT_FAILED)


@app.command()
def tail(
    as_json: EventsAsJson = False,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Everything the topic still holds, first.")
    ] = False,
    seconds: Annotated[
        float, typer.Option(help="Stop after this time; 0 goes on until Ctrl-C.", min=0)
    ] = 0,
) -> None:
    """Show normalized events as they come."""
    stop = threading.Event()
    on_stop_signals(stop.set)
    end = time.monotonic() + seconds if seconds else None

    def stopping() -> bool:
        return stop.is_set() or (end is not None and time.monotonic() >= end)

    topic = output_topic(topic_prefix(os.environ))
    if not as_json:
        typer.echo(tailing.table_line(tailing.COLUMNS))
    for event in tailing.events(
        client_config(os.environ), topic, from_beginning=from_beginning, stopping=stopping
    ):
        if event is not None:
            row = tailing.table_line(tailing.table_row(event))
            typer.echo(tailing.json_line(event) if as_json else row)


@app.command()
def replay(
    provider: Provider,
    yes: Annotated[bool, typer.Option("--yes", help="Write; else only say what would be.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="A range of the raw topic, after a mapping change.")
    ] = False,
    reason: Annotated[
        list[str] | None, typer.Option(help="Only dead letters of this kind; may be repeated.")
    ] = None,
    error_class: Annotated[
        str, typer.Option("--class", help="Only dead letters of this class of error.")
    ] = "",
    path: Annotated[str, typer.Option(help="Only dead letters with this field's path.")] = "",
    since: Since = "",
    until: Until = "",
    offset: Annotated[
        list[str] | None,
        typer.Option(help="PARTITION:FROM-TO of the topic that is read, TO included."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="With --raw: also those whose events would not change.")
    ] = False,
    even_if_dead: Annotated[
        bool, typer.Option("--even-if-dead", help="Also those that would only die again.")
    ] = False,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Again what this selection replayed before.")
    ] = False,
    rate: Annotated[
        float, typer.Option(help="Records per second at most; 0 is without a limit.", min=0)
    ] = 500,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="With --raw: show every value, ids too.")
    ] = False,
) -> None:
    """Send dead letters, or a range of raw records, through the raw topic once more.

    Says first what would become of them under today's mapping; writes only with --yes. The same
    selection goes on where it stopped. Exits 1 if it did not come to its end. With --raw it
    refuses to write, and exits 2, where EVENT_KEY is not the one the events were made with.
    """
    _known(provider)
    choice = checked(
        Choice(
            asked=wanted(offset or [], since, until, time.time()),
            words=(since, until, *sorted(offset or [])),
            raw=raw,
            reasons=tuple(reason or ()),
            error_class=error_class,
            path=path,
            even_if_dead=even_if_dead,
            everything=everything,
        )
    )
    stop = threading.Event()
    on_stop_signals(stop.set)
    finished = Replay(
        provider,
        client_config(os.environ),
        # Whether letters become events does not rest on keys; comparing events does.
        load_keys(os.environ, demo=not raw),
        topic_prefix(os.environ),
        choice,
        stop=stop,
        say=typer.echo,
    ).run(yes=yes, rate=rate, from_beginning=from_beginning, verbose=verbose)
    if not finished:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def audit(
    provider: Provider,
    since: Since = "",
    until: Until = "",
    offset: Annotated[
        list[str] | None, typer.Option(help="PARTITION:FROM-TO of the raw topic, TO included.")
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="The days dedup looks back: later is an event again. Else CONSUMER_DEDUP_DAYS, "
            "else what the provider needs.",
            min=0,
            max=MOST_DEDUP_DAYS,
        ),
    ] = None,
    exactly_once: Annotated[
        bool, typer.Option("--exactly-once", help="Whatever is written twice is a failure.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One object, every offset named.")
    ] = False,
) -> None:
    """Prove that every raw record had exactly one fate and the output holds what it means.

    Without a range: everything from the raw log's start to the committed offsets. Reads the raw
    records of the range and, from the time of its first one on, the ledger, the events and the
    dead letters. Needs about 30 bytes of memory for a record, 100 for an event, 200 for a
    duplicate, and 300 MB for Kafka's client. An event that came again is told as such only if
    both its records are in the range. Exits 1 if it is not proven.
    """
    _known(provider)
    asked = wanted(offset or [], since, until, time.time())
    prefix = topic_prefix(os.environ)
    if window is None:
        window = dedup_days(load_dedup_days(os.environ), EVERY[provider].RETRIED_FOR_DAYS)

    def say(text: str) -> None:
        typer.echo(text, err=True)

    evidence, retention, unread = gather(client_config(os.environ), provider, prefix, asked, say)
    report = audited(
        raw_topic(provider, prefix),
        group_id(provider, prefix),
        evidence,
        retention=retention,
        unread=unread,
        # Dedup measures by the gateways' clocks, an audit by the brokers'.
        window_seconds=window * 86_400 - CLOCKS_APART_MS // 1000,
        exactly_once=exactly_once,
    )
    if as_json:
        typer.echo(msgspec.json.encode(report))
    else:
        typer.echo("\n".join(report_lines(report)))
    if not report.proven:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def lag(
    providers: Annotated[
        list[str] | None,
        typer.Argument(
            help="Without one, all that have a raw topic. With --watch a number among them is "
            "the seconds between two looks."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object per provider.")] = False,
    group: Annotated[
        list[str] | None,
        typer.Option(help="Any group, on whatever it committed on; may be repeated."),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help=f"Look again every {WATCH_SECONDS:g} s (`--watch 10`) until Ctrl-C."
        ),
    ] = False,
) -> None:
    """Show how far behind each provider is, from outside: no consumer needs to be alive.

    `seconds` is the age of the first record that is not committed; 0 only if none waits. Exits 1
    where a person must act: on a stall, or where a log ends before the committed offset; however
    late a provider is, else 0.
    """
    names, seconds = _watched(providers or []) if watch else (providers or [], 0.0)
    for provider in names:
        _known(provider)
    _named(group or [])
    view = outside.View(
        client_config(os.environ),
        topic_prefix(os.environ),
        providers=names,
        every=() if group else EVERY,
        groups=group or [],
    )
    with closing(view):
        found = view.look(time.time())
        if not watch:
            _show(found, as_json=as_json)
        else:
            found = _watch(view, found, seconds, as_json=as_json)
    if any(map(offsets.needs_somebody, found)):
        raise typer.Exit(EXIT_FAILED)


def _named(groups: Sequence[str]) -> None:
    """Refuse what cannot be a group's name, such as a shell's unset variable: the client aborts."""
    for name in groups:
        if not name:
            raise ConfigurationError("--group is empty; name a group, or leave it out")
        if len(name) > _LONGEST_GROUP or not name.isprintable():  # nor are bytes that are no UTF-8
            raise ConfigurationError(
                f"--group takes a name of up to {_LONGEST_GROUP} printable characters"
            )


def _watched(words: Sequence[str]) -> tuple[list[str], float]:
    """Tell providers from the seconds between two looks: no provider is a number."""
    names = [word for word in words if not word.replace(".", "", 1).isdecimal()]
    numbers = [float(word) for word in words if word not in names]
    if len(numbers) > 1 or not all(0 < number <= 86_400 for number in numbers):
        raise ConfigurationError("--watch takes one number of seconds, above 0, at most a day")
    return names, numbers[0] if numbers else WATCH_SECONDS


def _watch(
    view: outside.View, found: list[offsets.GroupLag], seconds: float, *, as_json: bool
) -> list[offsets.GroupLag]:
    """Show every look until it is time to stop; give the last one that told something."""
    stop = threading.Event()
    on_stop_signals(stop.set)
    said = ""
    while True:
        if sys.stdout.isatty() and not as_json:
            typer.echo(_CLEAR, nl=False)
        if not as_json:
            typer.echo(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}, every {seconds:g} s")
        if said:
            typer.echo(f"consumers: {said}", err=True)
        else:
            _show(found, as_json=as_json)
        if not as_json:
            typer.echo("")
        sys.stdout.flush()
        if stop.wait(seconds):
            return found
        try:
            found, said = view.look(time.time()), ""
        except (ConfigurationError, Halted, RangeUnread) as trouble:
            said = f"{trouble}; trying on"


def _show(found: Sequence[offsets.GroupLag], *, as_json: bool) -> None:
    """Write the lags of one look."""
    now = time.time()
    for number, one in enumerate(found):
        if as_json:
            typer.echo(msgspec.json.encode(one))
            continue
        if number:
            typer.echo("")
        typer.echo("\n".join(lag_table.lag_lines(one, now)))


@app.command()
def export(
    group: Annotated[
        list[str] | None,
        typer.Option(help="A further group, on whatever it committed on; may be repeated."),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(help="Seconds between two rounds; else EXPORTER_INTERVAL, else 15."),
    ] = None,
) -> None:
    """Export the lag of every provider as metrics, from outside, until SIGTERM.

    It tells the truth when every consumer is dead. The metrics stand at EXPORTER_ADMIN_LISTEN.
    """
    _named(group or [])
    settings = exporter.load_settings(os.environ, groups=group or [], interval=interval)
    start_logging(settings.log_level)
    exporter.export(settings)


def _known(provider: str) -> None:
    """Refuse a provider that there is no normalizer for."""
    if provider not in EVERY:
        known = ", ".join(sorted(NORMALIZERS))
        raise ConfigurationError(f"there is no normalizer for {provider}; there are {known}")


def main() -> None:
    """Run; what cannot go on is one sentence, with exit code 1 (failed) or 2 (misused)."""
    try:
        app()
    except ConfigurationError as error:
        typer.echo(f"consumers: {error}", err=True)
        sys.exit(EXIT_MISUSED)
    except (Halted, RangeUnread) as end:
        typer.echo(f"consumers: {end}", err=True)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
