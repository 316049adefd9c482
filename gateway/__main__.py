"""python -m gateway serve | send | check | verify | canary."""

import os
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from gateway import canary as prober
from gateway.delivery import raw_topic
from gateway.endpoints import load_endpoints
from gateway.kafka import client_config, redacted, topic_prefix
from gateway.process import (
    EXIT_FAILED,
    EXIT_MISUSED,
    ConfigurationError,
    on_stop_signals,
    read_secret_file,
    start_logging,
)
from gateway.providers import EVERY, PROVIDERS
from gateway.ranges import RangeUnread, find_ranges, read_ranges, wanted
from gateway.send import RUN_FILE, Secret, fixture, of_the_run, post, signed
from gateway.serve import serve as serve_one
from gateway.serve import serve_several, worker
from gateway.settings import load_settings
from gateway.verify import MOST_SHOWN, Findings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Verifies webhooks and stores their bytes in Kafka. See also: python -m consumers, "
    "python -m deploy.",
)


@app.command()
def serve(
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes on one port.")] = 1,
    worker_index: Annotated[int, typer.Option("--worker", hidden=True)] = 0,
) -> None:
    """Serve webhooks until SIGTERM, then finish what is under way and exit 0."""
    settings = load_settings(os.environ)
    start_logging(settings.log_level)
    if workers > 1:
        load_endpoints(os.environ)
        raise typer.Exit(serve_several(settings, workers))
    if worker_index:
        settings = worker(settings, worker_index)
    uvloop.run(serve_one(settings, os.environ, shares_port=worker_index > 0))


@app.command()
def send(
    provider: Annotated[str, typer.Argument(help="One of the registered providers.")],
    what: Annotated[str, typer.Argument(help="The name of a fixture, or a FILE with a body.")],
    url: Annotated[str, typer.Option(help="Where to, path token included.")] = "",
    secret_file: Annotated[
        Path | None,
        typer.Option(help="File with the secret (else <PROVIDER>_SECRET) or the private key."),
    ] = None,
    endpoint: Annotated[
        str, typer.Option(help="Which endpoint; else the one named as the provider.")
    ] = "",
    option: Annotated[
        list[str] | None,
        typer.Option(help="An option of the endpoint, name=value; a fixture knows its own."),
    ] = None,
) -> None:
    """Sign a fixture (or a file) afresh and send it to a running gateway."""
    if provider not in EVERY:
        raise ConfigurationError(f"there is no provider {provider}; there are {_names()}")
    headers, body, options = {"content-type": "application/json"}, b"", {}
    if Path(what).is_file():
        body = Path(what).read_bytes()
    else:
        found = fixture(provider, what)
        headers, body, options = found.headers, found.body, found.options
    options = options | _options(provider, option or [])
    variable = f"{provider.upper()}_SECRET"
    target = (
        url
        or f"http://{os.environ.get('GATEWAY_LISTEN', '127.0.0.1:8080')}"
        f"/webhooks/{endpoint or provider}"
    )
    secret: Secret
    if secret_file is not None:
        secret = read_secret_file(secret_file, "--secret-file")
    elif EVERY[provider].key_pairs is None and os.environ.get(variable):
        secret = os.environ[variable]
    elif RUN_FILE.exists() and not url:
        if options and not endpoint:
            chosen = ", ".join(f"{name}={value}" for name, value in options.items())
            raise ConfigurationError(f"name the endpoint that has {chosen} with --endpoint")
        target, secret = of_the_run(endpoint or provider)
    else:
        source = f"set {variable}, " if EVERY[provider].key_pairs is None else ""
        raise ConfigurationError(
            f"there is nothing to sign with: {source}give --secret-file, or start `make run` and "
            "leave --url out"
        )
    headers, body = signed(provider, secret, headers, body, options)
    answer = post(target, headers, body)
    typer.echo(f"{answer.status} {answer.text}")
    if answer.status != 200:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def check() -> None:
    """Check the configuration and show it, secrets redacted; Kafka is not asked."""
    settings = load_settings(os.environ)
    endpoints = load_endpoints(os.environ)
    typer.echo(f"webhooks on {settings.listen}, metrics and health on {settings.admin_listen}")
    typer.echo(f"topics with the prefix {settings.topic_prefix!r}")
    for key, value in sorted(redacted(settings.kafka).items()):
        typer.echo(f"kafka {key} = {value}")
    for endpoint in endpoints.by_name.values():
        token = "/<path token>" if endpoint.path_token is not None else ""
        typer.echo(
            f"endpoint /webhooks/{endpoint.name}{token}: {endpoint.provider.title}, "
            f"{endpoint.environment}, {' or '.join(endpoint.scheme.names)}, "
            f"keys {', '.join(endpoint.scheme.key_ids)}"
        )
    for (name, key_id), at in sorted(endpoints.retires.items()):
        past = ", which is past: take it away" if at < datetime.now(UTC) else ""
        typer.echo(f"endpoint /webhooks/{name}: key {key_id} retires {at:%Y-%m-%d %H:%M}Z{past}")


@app.command()
def verify(
    provider: Annotated[str, typer.Argument(help="One of the registered providers.")],
    endpoint: Annotated[str, typer.Option(help="Only deliveries to this endpoint.")] = "",
    since: Annotated[
        str, typer.Option(help="From this time of Kafka's on: ISO 8601, or 2h, 3d ago.")
    ] = "",
    until: Annotated[str, typer.Option(help="Before this time of Kafka's.")] = "",
    offset: Annotated[
        list[str] | None, typer.Option(help="PARTITION:FROM-TO of the raw topic, TO included.")
    ] = None,
    show: Annotated[
        int, typer.Option(help="How many that no longer hold to name.", min=0)
    ] = MOST_SHOWN,
) -> None:
    """Verify kept deliveries of the raw topic again, with the secrets that are configured now.

    Exits 1 if one of them no longer holds, or if nothing was verified.
    """
    if provider not in EVERY:
        raise ConfigurationError(f"there is no provider {provider}; there are {_names()}")
    endpoints = load_endpoints(os.environ).by_name
    if endpoint and endpoint not in endpoints:
        raise ConfigurationError(
            f"there is no endpoint {endpoint}; there are {', '.join(sorted(endpoints))}"
        )
    config = client_config(os.environ)
    topic = raw_topic(provider, topic_prefix(os.environ))
    ranges = find_ranges(config, topic, wanted(offset or [], since, until, time.time()))
    stop = threading.Event()
    on_stop_signals(stop.set)
    findings = Findings(show)
    try:
        for messages in read_ranges(config, topic, ranges, stop.is_set):
            findings.take(provider, messages, endpoints, endpoint)
    except RangeUnread as end:
        typer.echo(f"gateway: {end}", err=True)
        raise typer.Exit(EXIT_FAILED) from end
    for line in findings.lines(topic):
        typer.echo(line)
    if stop.is_set():
        typer.echo("stopped before the end")
    why_nothing = "" if stop.is_set() else findings.why_nothing(endpoint)
    if why_nothing:
        typer.echo(f"nothing was verified: {why_nothing}", err=True)
    if findings.broken or why_nothing or stop.is_set():
        raise typer.Exit(EXIT_FAILED)


def _options(provider: str, texts: list[str]) -> dict[str, str]:
    options = dict(text.partition("=")[::2] for text in texts)
    known = EVERY[provider].options
    for name, value in options.items():
        if value not in known.get(name, ()):
            choices = "; ".join(f"{name}={'|'.join(values)}" for name, values in known.items())
            raise ConfigurationError(
                f"--option {name}={value}: {provider} has {choices or 'no options'}"
            )
    return options


def _names() -> str:
    return ", ".join(sorted(PROVIDERS))


@app.command()
def canary() -> None:
    """Send a signed beat every CANARY_INTERVAL seconds and measure it to its event, until SIGTERM.

    It goes to CANARY_URL, which is best the public address, signed with CANARY_SECRET. A beat
    whose event is not read within CANARY_TIMEOUT seconds is lost.
    """
    settings = prober.load_settings(os.environ)
    start_logging(settings.log_level)
    prober.run(settings)


def main() -> None:
    """Run; a configuration that cannot be used is one sentence and exit code 2."""
    try:
        app()
    except ConfigurationError as error:
        typer.echo(f"gateway: {error}", err=True)
        sys.exit(EXIT_MISUSED)


if __name__ == "__main__":
    main()
