"""python -m consumers run | explain | tail."""

import enum
import os
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from consumers import tail as tailing
from consumers.explain import explained, fate_of
from consumers.normalizers import NORMALIZERS
from consumers.run import run as run_one
from consumers.settings import load_keys, load_settings
from consumers.worker import Halted
from gateway.delivery import output_topic
from gateway.kafka import client_config, topic_prefix
from gateway.process import (
    EXIT_FAILED,
    EXIT_MISUSED,
    ConfigurationError,
    on_stop_signals,
    start_logging,
)


class Authenticity(enum.StrEnum):
    """What a body to explain was proven by."""

    PROVEN = ""
    SIGNED = "signed"
    TOKEN = "token"  # noqa: S105 - a word of the event's field
    UNSIGNED = "unsigned"


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Normalizes raw deliveries into VerificationEvents. See also: python -m gateway, "
    "python -m deploy.",
)


@app.command()
def run(
    provider: Annotated[str, typer.Argument(help="One of the registered providers.")],
    demo: Annotated[
        bool, typer.Option("--demo", help="Make up keys that are missing; never in earnest.")
    ] = False,
) -> None:
    """Normalize a provider's raw topic until SIGTERM, then finish what was begun and exit 0."""
    if provider not in NORMALIZERS:
        known = ", ".join(sorted(NORMALIZERS))
        raise ConfigurationError(f"there is no normalizer for {provider}; there are {known}")
    settings = load_settings(os.environ, demo=demo)
    start_logging(settings.log_level)
    run_one(provider, settings)


@app.command()
def explain(
    provider: Annotated[str, typer.Argument(help="One of the registered providers.")],
    file: Annotated[Path, typer.Argument(help="A body as the provider sends it; - reads stdin.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="One object per line, the schema's field names.")
    ] = False,
    endpoint: Annotated[str, typer.Option(help="The endpoint it came to.")] = "",
    scheme: Annotated[
        str,
        typer.Option(help="The gateway's scheme, where it tells how to read; else what fits."),
    ] = "",
    authenticity: Annotated[
        Authenticity, typer.Option(help="What it was proven by; else what its scheme would prove.")
    ] = Authenticity.PROVEN,
) -> None:
    """Show how a body maps, without Kafka; nothing is verified, ids are made with EVENT_KEY.

    Without keys in the environment, ids and pseudonyms are made up. Exits 1 if the body
    cannot be normalized.
    """
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
        authenticity=authenticity.value,
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
    as_json: Annotated[
        bool, typer.Option("--json", help="One object per line, the schema's field names.")
    ] = False,
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


def main() -> None:
    """Run; what cannot go on is one sentence, with exit code 1 (halted) or 2 (misused)."""
    try:
        app()
    except ConfigurationError as error:
        typer.echo(f"consumers: {error}", err=True)
        sys.exit(EXIT_MISUSED)
    except Halted as end:
        typer.echo(f"consumers: {end}", err=True)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
