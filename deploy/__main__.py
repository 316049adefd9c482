"""python -m deploy kafka | topics | local | observe."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from consumers.settings import load_dedup_days
from deploy.child import LOCAL, CannotRun, interrupted_by_signals
from deploy.kafka import DEFAULT_PORT, Kafka
from deploy.local import EXIT_INTERRUPTED, run_local
from deploy.observe import observe as observed
from deploy.pipeline import forget
from deploy.topics import (
    KINDS,
    TOPICS_FILE,
    WHAT_GROWING_COSTS,
    Change,
    Cluster,
    plan,
    single_copy,
    wanted_topics,
)
from gateway.kafka import client_config, topic_prefix
from gateway.process import EXIT_FAILED, EXIT_MISUSED, ConfigurationError
from gateway.providers import EVERY

EXIT_DRIFT = 2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Starts Verihook: a real Kafka on this machine, the topics of any cluster, or everything "
    "at once. See also: python -m gateway, python -m consumers, and make help.",
)
topics = typer.Typer(
    no_args_is_help=True,
    help="Topics as code: deploy/topics.toml against the cluster of KAFKA_BOOTSTRAP_SERVERS "
    "(any KAFKA_<KEY> is a librdkafka setting), names under TOPIC_PREFIX.",
)
app.add_typer(topics, name="topics")


@app.command()
def kafka(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where clients connect; 0 takes a free one.")
    ] = DEFAULT_PORT,
    folder: Annotated[
        Path, typer.Option(help="Data, configuration and log; kept between starts.")
    ] = LOCAL / "kafka",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A further line of server.properties."),
    ] = None,
) -> None:
    """Run a single-node Apache Kafka until Ctrl-C; the first start downloads it."""
    properties = dict(_pair(text) for text in setting or [])
    with interrupted_by_signals():
        try:
            with Kafka(
                folder.resolve(),
                port=port,
                properties=properties,
                say=_say,
            ) as node:
                _say(f"Kafka is ready: export KAFKA_BOOTSTRAP_SERVERS={node.bootstrap}")
                _say("Ctrl-C stops it; its data stays")
                while node.child is not None and node.child.exit_code is None:
                    time.sleep(0.2)
                raise CannotRun(node.child.obituary() if node.child else "Kafka is gone")
        except KeyboardInterrupt:
            _say("Kafka stopped")


@app.command()
def local(
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Send every fixture, check that each became its events, then exit."
        ),
    ] = False,
) -> None:
    """Run the whole pipeline on this machine and show it working, until Ctrl-C.

    With KAFKA_BOOTSTRAP_SERVERS set it uses that cluster, under the topic prefix demo.
    """
    with interrupted_by_signals(at_once=forget):
        raise typer.Exit(run_local(os.environ, once=once))


@app.command()
def observe(
    stories: Annotated[
        list[str] | None, typer.Argument(help="Only these stories, and no page is written.")
    ] = None,
) -> None:
    """Break the running pipeline on purpose and look whether the alerts tell of it.

    Half an hour; needs Prometheus, and what `make observe` installs. Writes docs/operations.md.
    Exits 1 where an alert did not fire, did not clear, or fired without a reason.
    """
    with interrupted_by_signals(at_once=forget):
        raise typer.Exit(observed(os.environ, stories or []))


File = Annotated[
    Path, typer.Option(help="What the topics should be.", show_default="deploy/topics.toml")
]
Providers = Annotated[
    list[str] | None,
    typer.Option("--provider", help="Only these; else every registered one, and canary."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KIND.KEY=VALUE", help="Override, e.g. raw.retention.ms=604800000."
    ),
]
Partitions = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of raw topics (seen and ledger follow) and the output; else as in the file."
    ),
]
Replication = Annotated[int | None, typer.Option(min=1, help="Copies; else as in the file.")]
SingleCopy = Annotated[
    bool,
    typer.Option(
        "--single-copy",
        envvar="GATEWAY_SINGLE_COPY",
        help="One copy and min.insync.replicas=1: losing a disk loses acknowledged deliveries.",
    ),
]


@topics.command("plan")
def plan_topics(
    file: File = TOPICS_FILE,
    provider: Providers = None,
    setting: Settings = None,
    partitions: Partitions = None,
    replication: Replication = None,
    single: SingleCopy = False,
) -> None:
    """Show what apply would change; exit code 2 if the cluster differs."""
    _, changes = _planned(file, provider, setting, partitions, replication, single)
    if changes:
        _show(changes)
        raise typer.Exit(EXIT_DRIFT)
    _say("the topics are as they should be")


@topics.command("apply")
def apply_topics(
    file: File = TOPICS_FILE,
    provider: Providers = None,
    setting: Settings = None,
    partitions: Partitions = None,
    replication: Replication = None,
    single: SingleCopy = False,
    grow: Annotated[
        bool, typer.Option("--grow", help="Add partitions too, after reading what that costs.")
    ] = False,
) -> None:
    """Create missing topics and set what differs; exit code 2 if something is left to a person."""
    cluster, changes = _planned(file, provider, setting, partitions, replication, single)
    growing = [change for change in changes if change.kind == "grow"]
    if grow and growing:
        _show(growing)
    left = cluster.apply(changes, grow=grow, say=_say)
    if left:
        _say("left as it is:")
        _show(left)
        raise typer.Exit(EXIT_DRIFT)
    if not changes:
        _say("the topics are as they should be")


def _planned(
    file: Path,
    providers: list[str] | None,
    settings: list[str] | None,
    partitions: int | None,
    replication: int | None,
    single: bool,
) -> tuple[Cluster, list[Change]]:
    for name in providers or []:
        if name not in EVERY:
            raise ConfigurationError(
                f"there is no provider {name}; there are {', '.join(sorted(EVERY))}"
            )
    overrides: list[str] = []
    if replication is not None:
        overrides += [f"{kind}.replication={replication}" for kind in KINDS]
    if single:
        overrides += single_copy(replication or 1)
    if partitions is not None:
        overrides += [f"{kind}.partitions={partitions}" for kind in ("raw", "events")]
    overrides += settings or []
    wanted = wanted_topics(
        providers or EVERY,
        topic_prefix(os.environ),
        file=file,
        overrides=overrides,
        days=load_dedup_days(os.environ),
    )
    cluster = Cluster(client_config(os.environ))
    existing = cluster.existing([topic.name for topic in wanted])
    return cluster, plan(wanted, existing)


def _show(changes: Sequence[Change]) -> None:
    for change in changes:
        _say(f"- {change.text}")
    if any(change.kind == "grow" for change in changes):
        _say(WHAT_GROWING_COSTS)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigurationError(f"--set {text!r}: it should be KEY=VALUE")
    return key, value


def _say(text: str) -> None:
    typer.echo(text)


def main() -> None:
    """Run; what stops us is one sentence."""
    try:
        app()
    except ConfigurationError as error:
        typer.echo(f"deploy: {error}", err=True)
        sys.exit(EXIT_MISUSED)
    except CannotRun as error:
        typer.echo(f"deploy: {error}", err=True)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
