"""What starts Verihook: the environment, a real Kafka, the topics, the whole pipeline."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from consumers.normalizers import EVERY as EVERY_NORMALIZER
from consumers.normalizers import NORMALIZERS, veriff
from deploy import environment as environment_module
from deploy import kafka as kafka_module
from deploy import local
from deploy import pipeline as pipelines
from deploy.child import CannotRun, Child, free_port, port_or_free, telling_line
from deploy.endpoints import (
    ENDPOINTS,
    DemoEndpoint,
    endpoint_for,
    make_endpoint,
    write_endpoints,
    write_private,
)
from deploy.environment import CannotPrepare, Environment, requirements, stamp
from deploy.kafka import Jars, Kafka, temporary_kafka
from deploy.topics import (
    TOPICS_FILE,
    WHAT_GROWING_COSTS,
    Change,
    Cluster,
    Topic,
    plan,
    single_copy,
    wanted_topics,
)
from gateway.delivery import DEAD_MESSAGE_BYTES, OUTPUT_MESSAGE_BYTES, RAW_MESSAGE_BYTES
from gateway.kafka import Retention, TopicNeeds, topic_problem
from gateway.process import Address, ConfigurationError
from gateway.providers import PROVIDERS
from gateway.send import fixture, fixtures, post, signed
from tests.conftest import EVENT_KEY, SUBJECT_KEY

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60.0
DAY = 86_400_000


def until(holds, what: str):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if answer := holds():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not in time: {what}")


def runs(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# --- the environment


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that needs one package nobody has."""
    project = {"dependencies": ["verihook-has-no-such-package"]}
    lines = ["[project]", *(f"{name} = {json.dumps(value)}" for name, value in project.items())]
    (tmp_path / "pyproject.toml").write_text("\n".join(lines))
    (tmp_path / "constraints.txt").write_text("")
    return tmp_path


def fit(checkout: Path, state: str | None = None) -> Environment:
    """Give the checkout a .venv in the given state, else in the one that fits."""
    made = Environment(checkout)
    made.python.parent.mkdir(parents=True)
    made.python.symlink_to(sys.executable)
    wanted = requirements(tomllib.loads((checkout / "pyproject.toml").read_text()))
    (made.folder / "verihook-state").write_text(stamp(wanted, b"") if state is None else state)
    return made


def test_requirements_are_dependencies_and_both_extras():
    """A checkout installs what the product needs, what runs it locally and what tests it."""
    wanted = requirements(tomllib.loads((ROOT / "pyproject.toml").read_text()))
    names = {text.split(">")[0] for text in wanted}
    assert {"confluent-kafka", "jgo", "pytest"} <= names


def test_stamp_follows_dependencies_and_constraints():
    """An environment is made anew exactly when what it is made of changes."""
    assert stamp(["a"], b"a==1") == stamp(["a"], b"a==1")
    assert len({stamp(["a"], b"a==1"), stamp(["a"], b"a==2"), stamp(["a", "b"], b"a==1")}) == 3


def test_fitting_environment_is_left_alone(checkout, monkeypatch):
    """With nothing changed, preparing starts no program and touches no network."""
    made = fit(checkout)
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    made.prepare()


def test_a_further_extra_is_installed_once(checkout, monkeypatch):
    """What only one command needs is asked for by name, and then stands beside the rest."""
    made = fit(checkout)
    (checkout / "pyproject.toml").write_text(
        (checkout / "pyproject.toml").read_text()
        + '\n[project.optional-dependencies]\nmore = ["a"]\n'
    )
    installed = []
    monkeypatch.setattr(made, "_install", lambda wanted, _log: installed.append(wanted))
    made.prepare("more")
    made.prepare("more")
    made.prepare()
    assert installed == [["a"]]
    with pytest.raises(CannotPrepare, match="there is no extra mor; there are more"):
        made.prepare("mor")


def test_a_half_added_extra_makes_the_environment_anew(checkout, monkeypatch):
    """Pip takes half-written packages for whole ones: everything is installed again."""
    made = fit(checkout)
    (made.folder / "verihook-state-more").write_text("incomplete")
    began = []
    monkeypatch.setattr(made, "_create", lambda _log: began.append("create"))
    monkeypatch.setattr(made, "_install", lambda _wanted, _log: began.append("install"))
    made.prepare()
    assert began == ["create", "install"]


@pytest.mark.parametrize("state", ["incomplete", "3.2 " + "0" * 64])
def test_half_made_environment_is_made_anew(checkout, monkeypatch, state):
    """After an interrupted run, or under another Python, nothing of the old .venv is trusted."""
    made = fit(checkout, state)
    leftover = made.folder / "half-written"
    leftover.touch()
    began = []

    def interrupted(command, **_):
        began.append(command[1:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.prepare()
    assert began == [["-m", "venv"]]
    assert not leftover.exists()


def test_changed_dependencies_are_added_to_a_whole_environment(checkout, monkeypatch):
    """A whole environment of this Python is not thrown away for a new dependency."""
    version = "{}.{}".format(*sys.version_info[:2])
    made = fit(checkout, f"{version} {'0' * 64}")
    monkeypatch.setattr(subprocess, "run", None)
    installed = []
    monkeypatch.setattr(
        Environment, "_install", lambda _self, wanted, _log: installed.extend(wanted)
    )
    made.prepare()
    assert installed == ["verihook-has-no-such-package"]
    made.prepare()
    assert len(installed) == 1


def test_python_without_ensurepip_names_the_debian_package(checkout, monkeypatch):
    """A Debian without python3-venv is told to install it."""
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(CannotPrepare, match="python3-venv"):
        Environment(checkout).prepare()


def test_old_python_is_refused_in_one_sentence(monkeypatch, capsys):
    """A Python that is too old is named, with the way out."""
    monkeypatch.setattr(environment_module, "OLDEST_PYTHON", (99, 0))
    assert environment_module.main() == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "make PYTHON=" in said


def test_no_network_at_first_start_is_one_sentence(checkout, monkeypatch):
    """Without a network the person is told so, and where the log is."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(CannotPrepare, match=r"no network.*\.local/environment\.log") as refused:
        Environment(checkout).prepare()
    assert "\n" not in str(refused.value)
    with pytest.raises(CannotPrepare):
        Environment(checkout).prepare()  # and a failed start is not taken for a whole one


# --- children


def test_busy_port_moves_to_a_free_one_and_says_so():
    """A busy default port is no reason not to start."""
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as busy:
        wanted = busy.getsockname()[1]
        found = port_or_free(wanted, "the gateway", said.append)
    assert found != wanted
    assert said == [f"port {wanted} is busy: the gateway listens on {found}"]
    assert port_or_free(found, "the gateway", said.append) == found


def test_child_dies_with_us(tmp_path):
    """A child does not outlive its parent, even one that is killed."""
    program = (
        "import pathlib, sys, time\n"
        "from deploy.child import Child\n"
        "child = Child('sleep', ['sleep', '600'], pathlib.Path(sys.argv[1]))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "log"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        until(lambda: "sleep" in Path(f"/proc/{pid}/comm").read_text(), "the child is its program")
        parent.kill()
    until(lambda: not runs(pid), "the child is gone")


def test_child_has_its_own_session(tmp_path):
    """Ctrl-C reaches us alone: we stop the children in order."""
    child = Child("sleep", ["sleep", "600"], tmp_path / "log")
    assert os.getsid(child.pid) == child.pid
    assert child.stop() == -signal.SIGTERM


def test_child_that_will_not_stop_is_killed(tmp_path):
    """Patience ends: no child can keep us from ending."""
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('x', flush=True)\ntime.sleep(600)"
    child = Child("stubborn", [sys.executable, "-c", program], tmp_path / "log")
    until((tmp_path / "log").read_text, "it ignores SIGTERM by now")
    assert child.stop(patience=0.2) == -signal.SIGKILL


def test_obituary_says_who_how_and_why(tmp_path):
    """A child that ended is named, with its exit code and the line that tells why."""
    program = "import sys; print('an Error: the telling one'); print('at somewhere'); sys.exit(3)"
    child = Child("worker", [sys.executable, "-c", program], tmp_path / "log")
    until(lambda: child.exit_code is not None, "it ended")
    assert child.obituary().startswith(
        "worker ended with exit code 3; its last words: an Error: the telling one (see "
    )


def test_telling_line_falls_back_to_the_last(tmp_path):
    """A log without an error is quoted by its last line, a missing one is said."""
    (tmp_path / "log").write_text("one\ntwo\n\n")
    assert telling_line(tmp_path / "log") == "two"
    assert telling_line(tmp_path / "none") == "it left no log"


# --- Kafka's jars


def test_class_path_is_remembered_as_long_as_the_jars_are_there(tmp_path, monkeypatch):
    """A second start asks nobody; a jar that has vanished is fetched again."""
    jar = tmp_path / "kafka.jar"
    jar.touch()
    resolved: list[list[Path]] = []

    def resolve(_self):
        resolved.append([jar])
        return [jar]

    monkeypatch.setattr(Jars, "_resolved", resolve)
    memory = tmp_path / "memory.json"
    assert Jars(memory).class_path() == [jar]
    assert Jars(memory).class_path() == [jar]
    assert len(resolved) == 1
    jar.unlink()
    Jars(memory).class_path()
    assert len(resolved) == 2


def test_no_network_for_the_jars_is_one_sentence(tmp_path, monkeypatch):
    """Without a network the person is told what is missing, how large it is and what to do."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("M2_REPO", str(tmp_path / "repository"))
    with pytest.raises(CannotRun, match=r"cannot be downloaded \(about 46 MB") as refused:
        Jars(tmp_path / "memory.json").class_path()
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "memory.json").exists()


@pytest.mark.parametrize("damage", ["cut off", "changed"])
def test_damaged_download_leaves_nothing_in_the_cache(tmp_path, monkeypatch, damage):
    """A jar is in the cache whole or not at all: a half one would pass for it for ever."""
    from types import SimpleNamespace

    from jgo.util import http

    def get(url, **_):
        if url.endswith(".sha1"):
            return SimpleNamespace(status_code=200, text="0" * 40)

        def chunks(**_):
            yield b"half of a jar"
            if damage == "cut off":
                raise OSError("connection reset")

        return SimpleNamespace(status_code=200, iter_content=chunks)

    monkeypatch.setattr(http, "get", get)
    artifact = SimpleNamespace(
        cached_path=tmp_path / "kafka.jar",
        filename="kafka.jar",
        component=SimpleNamespace(path_prefix="org/kafka"),
        context=SimpleNamespace(remote_repos={"one": "http://repository"}, timeout=1),
    )
    with pytest.raises((OSError, RuntimeError)):
        Jars(tmp_path / "memory.json")._download(artifact)
    assert list(tmp_path.iterdir()) == []


# --- Kafka


@pytest.mark.kafka
def test_kafka_comes_back_on_the_same_port_with_its_data():
    """A broker stopped or killed and started again has its port, its topics and its records."""
    with temporary_kafka() as node:
        cluster = Cluster({"bootstrap.servers": node.bootstrap})
        wanted = wanted_topics(["veriff"], "back.", overrides=single_copy())
        cluster.apply(plan(wanted, {}), grow=False, say=lambda _text: None)
        topic = wanted[0].name
        producer = Producer({"bootstrap.servers": node.bootstrap, "acks": "all", "log_level": 0})
        producer.produce(topic, b"kept", partition=0)
        assert producer.flush(30) == 0
        address = node.bootstrap
        for end in (node.kill, node.stop):
            pid = node.child.pid
            end()
            assert not runs(pid)
            node.properties["message.max.bytes"] = "2000000"
            node.start()
            assert node.bootstrap == address
        assert "message.max.bytes=2000000" in (node.folder / "server.properties").read_text()
        reader = Consumer({"bootstrap.servers": address, "group.id": "back", "log_level": 0})
        reader.assign([TopicPartition(topic, 0, 0)])
        message = until(lambda: reader.poll(1.0), "the record is there")
        reader.close()
        assert message.value() == b"kept"
        folder, pid = node.folder, node.child.pid
    assert not runs(pid)
    assert not folder.exists()


@pytest.mark.kafka
def test_two_brokers_never_share_a_folder(kafka):
    """A second Kafka on a running one's data is refused in one sentence."""
    with pytest.raises(CannotRun, match="another Kafka already runs on"):
        Kafka(kafka.folder).start()


@pytest.mark.kafka
def test_kafka_that_cannot_start_quotes_its_log(tmp_path):
    """A broker that does not come up is a sentence with the line that tells why."""
    node = Kafka(tmp_path / "kafka", properties={"num.network.threads": "many"})
    with pytest.raises(CannotRun, match=r"num\.network\.threads.*see .*kafka\.log"):
        node.start()
    node.close()


def test_unusable_folder_is_one_sentence(tmp_path, monkeypatch):
    """A folder that cannot be written, or has no room, is named before anything starts."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(Jars, "class_path", lambda _self: [])
    with pytest.raises(CannotRun, match="cannot be written"):
        Kafka(tmp_path / "file" / "kafka").start()
    monkeypatch.setattr(kafka_module, "SPACE_MB", 10**9)
    full = Kafka(tmp_path / "full")
    with pytest.raises(CannotRun, match="MB are free"):
        full.start()
    full.close()


# --- topics


def test_topics_file_keeps_the_promises():
    """What promises rest on is explicit on every topic, and the sizes are one chain."""
    wanted = {topic.name: topic for topic in wanted_topics(["veriff"], "p.")}
    raw, dead, output = (
        wanted[f"p.{name}"] for name in ("raw.veriff", "dlq.veriff", "verification.events")
    )
    for topic in wanted.values():
        assert topic.config["min.insync.replicas"] == "2"
        assert topic.replication == 3
        assert topic.config["message.timestamp.type"] == "LogAppendTime"
        assert topic.config["cleanup.policy"] == "delete"
        assert topic.config["unclean.leader.election.enable"] == "false"
    assert raw.config["max.message.bytes"] == str(RAW_MESSAGE_BYTES)
    assert dead.config["max.message.bytes"] == str(DEAD_MESSAGE_BYTES)
    assert output.config["max.message.bytes"] == str(OUTPUT_MESSAGE_BYTES)
    kept = int(raw.config["retention.ms"]) + int(raw.config["segment.ms"])
    assert kept < 30 * 86_400_000
    assert dead.config["retention.ms"] == raw.config["retention.ms"]


@pytest.mark.parametrize(
    ("tables", "overrides", "kept"),
    [
        ("", [], {"veriff": 14, "plexy": 14}),
        ("", ["raw.retention.ms=259200000"], {"veriff": 3, "plexy": 3}),
        ("", ["raw.retention.ms=1728000000"], {"veriff": 20, "plexy": 20}),
        ("provider.veriff.raw", [], {"veriff": 5, "plexy": 14}),
        ("provider.veriff.dlq", [], {"veriff": 5, "plexy": 14}),
        ("provider.veriff.dlq", ["raw.retention.ms=259200000"], {"veriff": 5, "plexy": 3}),
        ("", ["dlq.retention.ms=86400000"], {"veriff": 1, "plexy": 1}),
        ("provider.veriff.dlq", ["dlq.retention.ms=86400000"], {"veriff": 1, "plexy": 1}),
    ],
)
def test_dead_letters_are_kept_as_long_as_the_raw_topic(tmp_path, tables, overrides, kept):
    """Wherever that is said; not longer, as they hold its personal data, unless it is asked for."""
    file = tmp_path / "topics.toml"
    table = f'\n[{tables}.config]\n"retention.ms" = {5 * DAY}\n' if tables else ""
    file.write_text(TOPICS_FILE.read_text() + table)
    wanted = wanted_topics(["veriff", "plexy"], "", file=file, overrides=overrides)
    found = {topic.name: topic.config["retention.ms"] for topic in wanted}
    assert {name: int(found[f"dlq.{name}"]) / DAY for name in kept} == kept


def test_dead_letters_of_a_file_can_be_kept_for_another_time(tmp_path):
    """What the file says of the dead topic's own retention wins, too."""
    file = tmp_path / "topics.toml"
    table = "[dlq.config]\n"
    file.write_text(TOPICS_FILE.read_text().replace(table, f'{table}"retention.ms" = 7\n'))
    wanted = wanted_topics(["veriff"], "", file=file, overrides=["raw.retention.ms=9"])
    assert {topic.name: topic.config["retention.ms"] for topic in wanted}["dlq.veriff"] == "7"


def test_topics_beside_a_raw_topic_are_partitioned_and_kept_with_it():
    """Seen and ledger: the raw partitions, a segment a day, kept as long as they are needed."""
    wanted = {topic.name: topic for topic in wanted_topics(NORMALIZERS, "p.")}
    assert len(wanted) == 4 * len(NORMALIZERS) + 1
    for name, normalizer in NORMALIZERS.items():
        raw, seen, ledger = (wanted[f"p.{kind}.{name}"] for kind in ("raw", "seen", "ledger"))
        assert raw.partitions == seen.partitions == ledger.partitions
        assert raw.beside == seen.beside == ledger.beside == raw.name
        assert int(seen.config["retention.ms"]) >= (normalizer.RETRIED_FOR_DAYS + 3) * DAY
        assert int(ledger.config["retention.ms"]) >= int(raw.config["retention.ms"]) + 2 * DAY
        for topic in (seen, ledger):
            assert topic.config["max.message.bytes"] == str(1024 * 1024)
            assert topic.config["segment.ms"] == str(DAY)
    assert wanted["p.seen.veriff"].config["retention.ms"] == str(10 * DAY)
    assert wanted["p.ledger.veriff"].config["retention.ms"] == str(16 * DAY)


def test_the_canarys_topics_are_small_whatever_is_said_of_the_others():
    """One partition and a day or three, an output of its own; copies as all topics have."""
    given = [*single_copy(), "raw.partitions=36", "events.partitions=24", "dlq.partitions=6"]
    given += ["raw.retention.ms=-1", "dlq.retention.ms=9", f"events.retention.ms={90 * DAY}"]
    given += ["seen.partitions=36"]
    wanted = {topic.name: topic for topic in wanted_topics(EVERY_NORMALIZER, "p.", overrides=given)}
    kept = {"p.raw.canary": 1, "p.dlq.canary": 1, "p.seen.canary": 3, "p.ledger.canary": 3}
    kept |= {"p.verification.canary": 1}
    assert len(wanted) == 4 * len(NORMALIZERS) + 1 + len(kept)
    for name, days in kept.items():
        topic = wanted[name]
        assert (topic.partitions, topic.replication) == (1, 1), name
        assert topic.config["min.insync.replicas"] == "1"
        assert int(topic.config["retention.ms"]) == days * DAY, name
    assert wanted["p.verification.events"].config["retention.ms"] == str(90 * DAY)
    assert wanted["p.raw.veriff"].partitions == 36
    longer = {topic.name: topic for topic in wanted_topics(["canary"], "", days=30)}
    assert longer["seen.canary"].config["retention.ms"] == str(32 * DAY)


def beside(*overrides: str, **keyed: object) -> list[Topic]:
    """Raw, seen and ledger of Veriff as they should be."""
    names = [f"{kind}.veriff" for kind in ("raw", "seen", "ledger")]
    wanted = {
        topic.name: topic for topic in wanted_topics(["veriff"], "", overrides=overrides, **keyed)
    }
    return [wanted[name] for name in names]


def test_seen_and_ledger_follow_what_is_said_of_the_raw_topic(tmp_path):
    """Partitions always, copies where nothing else is said: from the file, a provider's table, --set."""
    file = tmp_path / "topics.toml"
    text = TOPICS_FILE.read_text() + "\n[provider.veriff.raw]\npartitions = 24\nreplication = 4\n"
    file.write_text(text)
    assert {(topic.partitions, topic.replication) for topic in beside(file=file)} == {(24, 4)}
    given = ["raw.partitions=36", "raw.min.insync.replicas=3"]
    found = {(t.partitions, t.config["min.insync.replicas"]) for t in beside(*given)}
    assert found == {(36, "3")}
    raw, seen, ledger = beside("seen.replication=5", "ledger.min.insync.replicas=1")
    assert (raw.replication, seen.replication, ledger.replication) == (3, 5, 3)
    assert ledger.config["min.insync.replicas"] == "1"
    assert {topic.partitions for topic in beside("seen.partitions=12")} == {12}
    with pytest.raises(ConfigurationError, match=r"seen\.veriff cannot have 7.*raw\.veriff.* 12;"):
        beside("seen.partitions=7")
    file.write_text(text + "[provider.veriff.ledger]\npartitions = 12\n")
    with pytest.raises(ConfigurationError, match=r"ledger\.veriff cannot have 12 .* are 24;"):
        beside(file=file)


@pytest.mark.parametrize(
    ("overrides", "seen_days", "ledger_days"),
    [
        ([], 10, 16),
        ([f"raw.retention.ms={20 * DAY}"], 10, 22),
        (["raw.retention.ms=-1"], 10, None),
        (["raw.retention.ms=1000"], 10, 16),
        ([f"seen.retention.ms={5 * DAY}", f"ledger.retention.ms={DAY}"], 5, 1),
    ],
)
def test_seen_and_ledger_are_kept_long_enough(overrides, seen_days, ledger_days):
    """The ledger as long as the raw topic and longer; what a person says explicitly wins."""
    _, seen, ledger = beside(*overrides)
    days = [int(topic.config["retention.ms"]) / DAY for topic in (seen, ledger)]
    assert days == [seen_days, -1 / DAY if ledger_days is None else ledger_days]


@pytest.mark.parametrize(("retried", "kept"), [(1, 10), (7, 10), (9, 12), (23, 26)])
def test_seen_is_kept_longer_for_a_provider_that_retries_longer(monkeypatch, retried, kept):
    """The window is a day longer than the retries, and two days are to spare."""
    monkeypatch.setattr(veriff, "RETRIED_FOR_DAYS", retried)
    assert int(beside()[1].config["retention.ms"]) == kept * DAY


@pytest.mark.parametrize(("days", "kept"), [(None, 10), (0, 10), (8, 10), (9, 11), (30, 32)])
def test_seen_is_kept_longer_where_duplicates_are_told_for_longer(days, kept):
    """Two days longer than CONSUMER_DEDUP_DAYS, and never shorter than the file says."""
    assert int(beside(days=days)[1].config["retention.ms"]) == kept * DAY


def test_file_from_before_seen_and_ledger_is_told_what_it_lacks(tmp_path):
    """Without their tables the broker's defaults would decide how long is remembered."""
    file = tmp_path / "topics.toml"
    text = TOPICS_FILE.read_text()
    file.write_text(text[: text.index("# seen.<provider>")] + text[text.index("[events]") :])
    with pytest.raises(ConfigurationError, match=r"no table \[seen\]"):
        beside(file=file)


def test_every_option_can_be_overridden(tmp_path):
    """A provider's own table wins over the kind's, and --set wins over both."""
    file = tmp_path / "topics.toml"
    file.write_text(
        TOPICS_FILE.read_text()
        + '\n[provider.treezor.raw]\npartitions = 24\n[provider.treezor.raw.config]\n"retention.ms" = 5\n'
    )
    given = ["raw.segment.ms=7", "events.partitions=1", "dlq.replication=5"]
    wanted = wanted_topics(["treezor", "veriff"], "", file=file, overrides=given)
    topics = {topic.name: topic for topic in wanted}
    assert topics["raw.treezor"].partitions == 24
    assert topics["raw.treezor"].config["retention.ms"] == "5"
    assert topics["raw.veriff"].partitions == 12
    assert topics["raw.veriff"].config["segment.ms"] == "7"
    assert topics["verification.events"].partitions == 1
    assert topics["dlq.veriff"].replication == 5


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("raw", "<kind>.<key>=<value>"),
        ("rwa.partitions=1", "there are raw, dlq, seen, ledger, events"),
        ("raw.retention.ms=long", "milliseconds, or -1 for ever"),
        ("raw.partitions=many", "Expected `int`"),
        ("raw.min.insync.replicas=4", "from 1 to that number"),
        ("raw.replication=1", "from 1 to that number"),
    ],
)
def test_impossible_topics_are_refused(override, says):
    """A topic that could never take a record is refused before a cluster is asked."""
    with pytest.raises(ConfigurationError, match=says):
        wanted_topics(["veriff"], "", overrides=[override])


def test_plan_says_every_difference():
    """Missing topics, settings, partitions and copies: each difference is one line."""
    wanted = [
        Topic("new", 2, 1, {"min.insync.replicas": "1"}),
        Topic("fits", 2, 1, {"a": "1"}),
        Topic("set", 2, 1, {"a": "1", "b": "2", "c": "3"}),
        Topic("small", 4, 1, {}),
        Topic("odd", 5, 1, {}),
        Topic("large", 2, 3, {}),
        Topic("thin", 2, 3, {"min.insync.replicas": "2"}),
    ]
    existing = {
        "fits": Topic("fits", 2, 1, {"a": "1", "other": "x"}),
        "set": Topic("set", 2, 1, {"a": "1", "b": "0"}),
        "small": Topic("small", 2, 1, {}),
        "odd": Topic("odd", 2, 1, {}),
        "large": Topic("large", 3, 1, {}),
        "thin": Topic("thin", 2, 1, {"min.insync.replicas": "1"}),
    }
    changes = plan(wanted, existing)
    assert [(change.kind, change.topic.name) for change in changes] == [
        ("create", "new"),
        ("config", "set"),
        ("config", "set"),
        ("grow", "small"),
        ("grow", "odd"),
        ("fixed", "large"),
        ("fixed", "large"),
        ("fixed", "thin"),  # and not to demand more copies of a write than there are
    ]
    assert changes[1].text == "set set b=2 (now: 0)"
    assert changes[2].text == "set set c=3 (now: not set on the topic)"
    assert changes[4].text == "grow odd from 2 to 5 partitions"


def planned(wanted: int, **now: int) -> list[tuple[str, str, int]]:
    """What is planned for raw, seen and ledger of Veriff with these numbers of partitions."""
    topics = beside(f"raw.partitions={wanted}")
    existing = {
        topic.name: msgspec.structs.replace(topic, partitions=now[kind])
        for topic in topics
        if (kind := topic.name.partition(".")[0]) in now
    }
    changes = plan(topics, existing)
    return [
        (change.kind, change.topic.name.partition(".")[0], change.topic.partitions)
        for change in changes
    ]


@pytest.mark.parametrize(
    ("wanted", "now", "changes"),
    [
        (4, {}, [("create", "raw", 4), ("create", "seen", 4), ("create", "ledger", 4)]),
        (4, {"raw": 4, "seen": 4, "ledger": 4}, []),
        (8, {"raw": 4, "seen": 4, "ledger": 4},
         [("grow", "raw", 8), ("grow", "seen", 8), ("grow", "ledger", 8)]),
        # refused to the raw topic, so not done to the others
        (6, {"raw": 4, "seen": 4, "ledger": 4}, [("fixed", "raw", 6)]),
        (2, {"raw": 4, "seen": 4, "ledger": 4}, [("fixed", "raw", 2)]),
        # from a version without them
        (4, {"raw": 4}, [("create", "seen", 4), ("create", "ledger", 4)]),
        (8, {"raw": 4, "ledger": 4},
         [("grow", "raw", 8), ("create", "seen", 4), ("grow", "seen", 8), ("grow", "ledger", 8)]),
        (6, {"raw": 4, "ledger": 4}, [("fixed", "raw", 6), ("create", "seen", 4)]),
        # an interrupted growth goes on
        (8, {"raw": 4, "seen": 8, "ledger": 4}, [("grow", "raw", 8), ("grow", "ledger", 8)]),
        (8, {"raw": 4, "seen": 8, "ledger": 8}, [("grow", "raw", 8)]),
        # drift between them
        (4, {"raw": 4, "seen": 3, "ledger": 4}, [("follow", "seen", 4)]),
        (4, {"raw": 4, "seen": 8, "ledger": 4}, [("fixed", "seen", 4)]),
        (8, {"raw": 4, "seen": 1, "ledger": 12},
         [("grow", "raw", 8), ("follow", "seen", 4), ("grow", "seen", 8), ("fixed", "ledger", 8)]),
        (4, {"seen": 2, "ledger": 8},
         [("create", "raw", 4), ("follow", "seen", 4), ("fixed", "ledger", 4)]),
    ],
)  # fmt: skip
def test_raw_seen_and_ledger_grow_together_by_multiples(wanted, now, changes):
    """Whatever is there, seen and ledger end with the raw topic's number and never before it may."""
    assert planned(wanted, **now) == changes


def _three(topic: Topic) -> Topic:
    return msgspec.structs.replace(topic, partitions=3)


def test_drift_between_a_raw_topic_and_those_beside_it_is_told_in_words():
    """Each difference says what is wrong and what to do about it."""
    raw, seen, ledger = beside("raw.partitions=6")

    def said(**now: int) -> str:
        topics = {"raw": raw, "seen": seen, "ledger": ledger}
        existing = {
            topics[kind].name: msgspec.structs.replace(topics[kind], partitions=partitions)
            for kind, partitions in now.items()
        }
        (change,) = plan([raw, seen, ledger], existing)
        return change.text

    assert said(raw=4, seen=4, ledger=4) == (
        "raw.veriff has 4 partitions and cannot grow to 6: duplicates are found again only where "
        "it grows by multiples; ask for 8"
    )
    assert said(raw=6, seen=5, ledger=6) == (
        "give seen.veriff 6 partitions, as many as raw.veriff has (now: 5)"
    )
    more = said(raw=6, seen=6, ledger=12)
    assert more.startswith("ledger.veriff has 12 partitions and raw.veriff has 6")
    assert "let raw.veriff grow to 12, or stop the consumers, delete it" in more
    assert "grow" not in said(raw=6, seen=6, ledger=7)
    changes = plan([raw, seen, ledger], {"raw.veriff": _three(raw), "seen.veriff": _three(seen)})
    assert [change.text for change in changes if change.topic.name == "ledger.veriff"] == [
        "create ledger.veriff: partitions 3, copies 3, min.insync.replicas 2",
        "grow ledger.veriff from 3 to 6 partitions",
    ]
    for word in ("order", "duplicates", "multiples", "lag is 0"):
        assert word in WHAT_GROWING_COSTS


def topics_command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
    return subprocess.run(
        [sys.executable, "-m", "deploy", "topics", *arguments],
        cwd=ROOT,
        env={**kept, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.kafka
def test_topics_are_planned_applied_and_watched_for_drift(kafka):
    """Plan exits 2 until apply has made the topics; growing takes --grow; drift is seen again."""
    environ = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "TOPIC_PREFIX": "drift."}
    small = ["--provider", "veriff", "--single-copy"]

    def command(*arguments: str) -> tuple[int, str]:
        done = topics_command(*arguments, **environ)
        return done.returncode, done.stdout + done.stderr

    code, said = command("plan", *small, "--partitions", "2")
    assert (code, said.count("create drift.")) == (2, 5)
    assert command("apply", *small, "--partitions", "2")[0] == 0
    assert command("plan", *small, "--partitions", "2")[0] == 0
    code, said = command("apply", *small, "--partitions", "4")
    assert (code, "order is lost once" in said) == (2, True)
    cluster = Cluster({"bootstrap.servers": kafka.bootstrap})
    three = [f"drift.{kind}.veriff" for kind in ("raw", "seen", "ledger")]

    def partitions() -> list[int]:
        return [cluster.existing(three)[name].partitions for name in three]

    assert partitions() == [2, 2, 2]
    code, said = command("apply", *small, "--partitions", "3", "--grow")
    assert (code, "cannot grow to 3" in said, partitions()) == (2, True, [2, 2, 2])
    code, said = command("apply", *small, "--partitions", "4", "--grow")
    assert (code, partitions()) == (0, [4, 4, 4])
    order = ["order is lost once", *(f"done: grow {name}" for name in (*three[1:], three[0]))]
    assert [said.index(text) for text in order] == sorted(said.index(text) for text in order)
    code, said = command("plan", *small, "--set", "seen.partitions=2")
    assert (code, said.count("\n"), "leave its number out" in said) == (2, 1, True)
    code, said = command("plan", *small, "--partitions", "4", "--set", "raw.retention.ms=1000")
    assert (code, "set drift.raw.veriff retention.ms=1000 (now: 1209600000)" in said) == (2, True)
    assert command("apply", *small, "--partitions", "4", "--set", "raw.retention.ms=1000")[0] == 0
    assert command("plan", *small, "--partitions", "4", "--set", "raw.retention.ms=1000")[0] == 0
    assert cluster.delete("drift.") == [
        "drift.dlq.veriff",
        "drift.ledger.veriff",
        "drift.raw.veriff",
        "drift.seen.veriff",
        "drift.verification.events",
    ]
    assert cluster.existing(["drift.raw.veriff"]) == {}


class Granted:
    """The topics of Veriff on the real Kafka, and what a consumer of them is told at its start."""

    def __init__(self, bootstrap: str, prefix: str, *overrides: str) -> None:
        self.config = {"bootstrap.servers": bootstrap}
        self.environ = {"KAFKA_BOOTSTRAP_SERVERS": bootstrap, "TOPIC_PREFIX": prefix}
        self.cluster = Cluster(self.config)
        self.overrides = [*single_copy(), "raw.partitions=4", *overrides]
        self.prefix = prefix
        self.apply()

    def apply(self, *overrides: str) -> None:
        """Make the topics what the file and these overrides say."""
        given = [*self.overrides, *overrides]
        wanted = wanted_topics(["veriff"], self.prefix, overrides=given)
        existing = self.cluster.existing([topic.name for topic in wanted])
        self.cluster.apply(plan(wanted, existing), grow=False, say=lambda _text: None)

    def refusal(self, **environ: str) -> str:
        """The one sentence of a consumer that does not start."""
        done = subprocess.run(
            [sys.executable, "-m", "consumers", "run", "veriff", "--demo"],
            cwd=ROOT,
            env={**os.environ, **self.environ, "CONSUMER_SINGLE_COPY": "1"}
            | {"CONSUMER_ADMIN_LISTEN": f"127.0.0.1:{free_port()}", **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr.splitlines()[-1]

    def problem(self, needs: TopicNeeds, kind: str = "seen") -> str | None:
        """What is wrong with one topic."""
        return topic_problem(self.config, {f"{self.prefix}{kind}.veriff": needs})


@pytest.mark.kafka
def test_a_window_that_seen_is_not_kept_for_is_refused_at_the_start(kafka):
    """Else a partition that moves would silently remember less: both numbers and the command."""
    here = Granted(kafka.bootstrap, "kept.")
    said = here.refusal(CONSUMER_DEDUP_DAYS="30")
    assert "kept.seen.veriff is kept for 10 days" in said
    assert "telling duplicates for 30 days (CONSUMER_DEDUP_DAYS) needs 32" in said
    command = "python -m deploy topics apply --set seen.retention.ms=2764800000"
    assert f"`{command}`" in said

    def needs(days: int) -> TopicNeeds:
        kept = Retention(least_ms=days * DAY, purpose="it", setting="seen.retention.ms")
        return TopicNeeds(max_message_bytes=0, min_insync_replicas=1, retention=kept)

    assert here.problem(needs(10)) is None
    assert "is kept for 10 days" in here.problem(needs(11))
    here.apply(command.rpartition(" ")[2])
    assert here.problem(needs(32)) is None
    here.apply("seen.retention.ms=-1")
    assert here.problem(needs(400)) is None
    here.apply("seen.retention.ms=-1", "seen.retention.bytes=1000000")
    assert "seen.veriff has retention.bytes=1000000, by which" in here.problem(needs(1))
    here.cluster.delete("kept.")


@pytest.mark.kafka
@pytest.mark.parametrize("kind", ["ledger", "seen"])
def test_fewer_partitions_beside_a_raw_topic_are_refused_at_the_start(kafka, kind):
    """The books of a partition that is not there could not be written: said before any work."""
    here = Granted(kafka.bootstrap, f"fewer-{kind}.")
    here.cluster.apply(
        [Change("grow", _with_partitions(topic, 8), "")
         for topic in here.cluster.existing([f"{here.prefix}{one}.veriff" for one in ("raw", "seen", "ledger")]).values()
         if kind not in topic.name.split(".")],
        grow=True, say=lambda _text: None,
    )  # fmt: skip
    said = here.refusal()
    assert (
        f"{here.prefix}{kind}.veriff has 4 partition(s) and {here.prefix}raw.veriff has 8" in said
    )
    assert "`python -m deploy topics apply`" in said
    more = TopicNeeds(
        max_message_bytes=0, min_insync_replicas=1, beside=f"{here.prefix}{kind}.veriff"
    )
    assert here.problem(more, "raw") is None  # those beside grow first
    here.cluster.delete(here.prefix)


def _with_partitions(topic: Topic, partitions: int) -> Topic:
    return msgspec.structs.replace(topic, partitions=partitions)


@pytest.mark.kafka
def test_looking_for_topics_never_makes_them(tmp_path):
    """Brokers that create topics by themselves would make them with one copy and their defaults."""
    with temporary_kafka({"auto.create.topics.enable": "true"}) as node:
        made = [make_endpoint(one) for one in ENDPOINTS if one.name == "veriff"]
        environ = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": node.bootstrap,
            "TOPIC_PREFIX": "nobody.",
            "EVENT_KEY": EVENT_KEY,
            "SUBJECT_KEY": SUBJECT_KEY,
            "GATEWAY_ENDPOINTS": str(write_endpoints(made, tmp_path)),
            "GATEWAY_LISTEN": "127.0.0.1:0",
            "GATEWAY_ADMIN_LISTEN": "127.0.0.1:0",
            "CONSUMER_ADMIN_LISTEN": "127.0.0.1:0",
        }
        commands = [
            "consumers run veriff",
            "consumers run veriff --delivery exactly-once --slot 0",
            "consumers lag veriff",
            "consumers audit veriff",
            "consumers replay veriff",
            "consumers replay veriff --raw --since 1h",
            "consumers tail",
            "gateway serve",
            "gateway verify veriff",
            "deploy topics plan",
        ]

        def said(words: str) -> tuple[int, str]:
            done = subprocess.run(
                [sys.executable, "-m", *words.split()], cwd=ROOT, env=environ,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                timeout=PATIENCE, check=False,
            )  # fmt: skip
            return done.returncode, done.stdout

        with ThreadPoolExecutor(len(commands)) as several:
            for words, (code, text) in zip(commands, several.map(said, commands), strict=True):
                assert code in (1, 2), (words, text)
                assert "nobody." in text, (words, text)
        known = Cluster({"bootstrap.servers": node.bootstrap}).admin.list_topics(timeout=30).topics
        assert [name for name in known if name.startswith("nobody.")] == []


@pytest.mark.kafka
def test_broker_default_does_not_stand_in_for_a_promise(kafka):
    """What the broker happens to default to is drift until it is set on the topic itself."""
    cluster = Cluster({"bootstrap.servers": kafka.bootstrap})
    wanted = wanted_topics([], "default.", overrides=single_copy())
    (topic,) = wanted
    bare = msgspec.structs.replace(topic, config={})
    cluster.apply([Change("create", bare, "")], grow=False, say=lambda _text: None)
    told = [change.text for change in plan(wanted, cluster.existing([topic.name]))]
    assert f"set {topic.name} min.insync.replicas=1 (now: not set on the topic)" in told
    cluster.delete("default.")


@pytest.mark.kafka
def test_more_copies_than_brokers_is_one_sentence(kafka):
    """Three copies on one broker are refused with the way out."""
    done = topics_command("apply", KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap, TOPIC_PREFIX="many.")
    assert done.returncode == 1
    assert "the cluster has 1 broker" in done.stderr
    assert "--single-copy" in done.stderr
    assert done.stderr.count("\n") == 1


def test_cluster_that_does_not_answer_is_one_sentence():
    """Waiting for a cluster is bounded and ends with its address."""
    cluster = Cluster({"bootstrap.servers": "127.0.0.1:1"}, answer_seconds=0.5)
    with pytest.raises(CannotRun, match=r"does not answer at 127\.0\.0\.1:1"):
        cluster.existing(["any"])


def test_deleting_needs_a_prefix():
    """Nothing can ask to delete every topic of a cluster."""
    with pytest.raises(ConfigurationError, match="prefix"):
        Cluster({"bootstrap.servers": "127.0.0.1:1"}).delete("")


# --- make run


def sent_fixture(endpoint: str = "veriff", **event: object) -> local.Sent:
    demo = DemoEndpoint(name=endpoint, provider="veriff")
    return local.Sent(endpoint=demo, fixture=fixture("veriff", "decision-approved"), events=[event])


def test_expected_events_are_compared_without_what_belongs_to_a_run():
    """Keys, coordinates and the time of receipt differ between runs; everything else counts."""
    tally = local.Tally()
    said = {
        "provider": "veriff",
        "native_type": "decision",
        "endpoint": "veriff",
        "status": "completed",
    }
    expected = {
        **said,
        "event_id": "a",
        "raw_offset": 0,
        "occurred_at": 1,
        "occurred_at_source": "received",
    }
    tally.expect(sent_fixture(**expected))
    assert tally.missing == ["veriff decision-approved"]
    tally.arrive(
        {
            **said,
            "event_id": "b",
            "raw_offset": 9,
            "occurred_at": 2,
            "occurred_at_source": "received",
        }
    )
    assert (tally.missing, tally.unexpected) == ([], [])


@pytest.mark.parametrize(
    "change", [{"status": "started"}, {"occurred_at": 2}, {"endpoint": "other"}]
)
def test_event_that_differs_is_both_missing_and_unexpected(change):
    """A different event is not taken for the expected one."""
    tally = local.Tally()
    said = {
        "provider": "veriff",
        "native_type": "decision",
        "endpoint": "veriff",
        "status": "completed",
    }
    said |= {"occurred_at": 1, "occurred_at_source": "event"}
    tally.expect(sent_fixture(**said))
    tally.arrive({**said, **change})
    assert (len(tally.missing), len(tally.unexpected)) == (1, 1)


def test_an_event_that_comes_before_its_turn_is_expected():
    """Somebody sent the fixture first: ours is the duplicate, and the event has come."""
    tally = local.Tally()
    said = {"provider": "veriff", "native_type": "decision", "endpoint": "veriff"}
    tally.arrive(said)
    assert tally.unexpected == ["veriff decision"]
    tally.expect(sent_fixture(**said))
    assert (tally.missing, tally.unexpected) == ([], [])


def test_second_event_of_a_kind_is_unexpected():
    """An event that comes twice is noticed."""
    tally = local.Tally()
    said = {"provider": "veriff", "native_type": "decision", "endpoint": "veriff"}
    tally.expect(sent_fixture(**said))
    tally.arrive(said)
    tally.arrive(said)
    assert tally.unexpected == ["veriff decision"]


def test_demonstration_has_an_endpoint_for_every_provider():
    """Every registered provider has the endpoint of its name; two have a second one."""
    names = [endpoint.name for endpoint in ENDPOINTS]
    assert names == [*PROVIDERS, "plexy-b", "treezor-unsigned"]


def test_every_fixture_has_its_endpoint():
    """No fixture was made for options that no endpoint of the demonstration has."""
    found = {endpoint_for(one).name for one in fixtures()}
    assert found == {endpoint.name for endpoint in ENDPOINTS}


class Checkout:
    """A copy of this tree without anything a start makes, and `python -m deploy local` in it."""

    def __init__(self, folder: Path, bootstrap: str) -> None:
        made = (".venv", ".local", ".git", ".hypothesis", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*made))
        self.folder = folder
        self.environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": bootstrap}
        self.run_file = folder / ".local" / "run.json"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "deploy", "local", *arguments],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def running(self, process: subprocess.Popen[str]) -> dict:
        until(lambda: self.run_file.exists() or process.poll() is not None, "it runs")
        assert process.poll() is None, process.communicate()
        return json.loads(self.run_file.read_text())


@pytest.fixture
def copy(tmp_path: Path, kafka: Kafka):
    return Checkout(tmp_path / "checkout", kafka.bootstrap)


@pytest.mark.kafka
def test_make_run_once_sends_checks_and_leaves_nothing(copy):
    """Every fixture becomes its events: exit code 0, no process, no run.json, no secret left."""
    done = copy.start("--once")
    said, complaints = done.communicate(timeout=120)
    assert done.returncode == 0, said + complaints
    assert "each became exactly the events its fixture expects" in said
    assert complaints == ""
    assert not copy.run_file.exists()
    assert not (copy.folder / ".local" / "secrets").exists()


@pytest.mark.kafka
def test_make_run_once_fails_by_name(copy):
    """A delivery that does not become its events is named, and the exit code is 1."""
    expected = copy.folder / "tests" / "fixtures" / "veriff" / "decision-approved" / "events.json"
    events = json.loads(expected.read_text())
    events[0]["outcome"] = "fail"
    expected.write_text(json.dumps(events))
    done = copy.start("--once")
    said, _ = done.communicate(timeout=120)
    assert done.returncode == 1
    assert "no such event came: veriff decision-approved" in said
    assert "not expected, or different: veriff decision" in said


@pytest.mark.kafka
def test_make_run_can_be_used_and_stops_in_order(copy):
    """run.json tells other programs everything, and one signal ends all of it with exit code 0."""
    process = copy.start()
    running = copy.running(process)
    assert stat.S_IMODE(copy.run_file.stat().st_mode) == 0o600
    assert set(running) == {
        *("bootstrap", "topic_prefix", "urls", "secrets", "metrics", "watch", "pids"),
    }
    assert running["topic_prefix"] == "demo."
    assert set(running["urls"]) == set(running["secrets"]) == {end.name for end in ENDPOINTS}
    assert set(running["metrics"]) == {"gateway", *PROVIDERS}
    assert set(running["watch"]) == {"exporter", "canary", "canary-consumer"}
    assert {*running["metrics"], *running["watch"]} <= set(running["pids"])
    for url in running["watch"].values():
        until(lambda url=url: pipelines._get(url)[0] == 200, f"{url} is served")
    for found in {endpoint_for(one).name: one for one in fixtures()}.values():
        name = endpoint_for(found).name
        secret = running["secrets"][name]
        headers, body = signed(found.provider, secret, found.headers, found.body, found.options)
        assert post(running["urls"][name], headers, body).status == 200
    for words in (["pleenk", "approve"], ["plexy", "transaction-charged", "--endpoint", "plexy-b"]):
        sent = copy.run("gateway", "send", *words)
        assert (sent.returncode, sent.stdout) == (0, "200 stored\n"), sent.stderr
    sent = copy.run("gateway", "send", "plexy", "transaction-charged")
    assert (sent.returncode, sent.stdout) == (2, "")
    assert "--endpoint" in sent.stderr
    sent = copy.run("gateway", "send", "plexy", "payment-failed", "--endpoint", "plexy-c")
    assert "there are" in sent.stderr
    until(lambda: "Ctrl-C stops everything" in process.stdout.readline(), "it shows where to look")
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=120)
    assert (process.returncode, complaints) == (0, "")
    assert not copy.run_file.exists()
    assert not any(runs(pid) for pid in running["pids"].values())


@pytest.mark.kafka
def test_child_that_dies_brings_everything_down_by_name(copy):
    """A process killed by somebody else is named, and nothing of the others is left."""
    process = copy.start()
    running = copy.running(process)
    # Not a consumer: its group would keep its place for 45 s, and the next test would wait.
    os.kill(running["pids"]["gateway"], signal.SIGKILL)
    said, complaints = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "gateway was killed by SIGKILL; its last words: " in complaints
    assert "Traceback" not in complaints
    assert not any(runs(pid) for pid in running["pids"].values())


@pytest.mark.kafka
def test_reader_that_goes_away_ends_make_run_without_a_traceback(copy):
    """`make run | head` stops everything quietly."""
    process = copy.start()
    running = copy.running(process)
    process.stdout.close()
    with process.stderr:
        complaints = process.stderr.read()
    process.wait(120)
    assert "Traceback" not in complaints
    assert not any(runs(pid) for pid in running["pids"].values())


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """A pipeline that keeps nothing in this checkout, and has topics of its own."""
    from rich.console import Console

    for name, place in {"RUN_FILE": "run.json", "SECRETS": "secrets", "LOGS": "logs"}.items():
        monkeypatch.setattr(pipelines, name, tmp_path / place)
    monkeypatch.setattr(pipelines, "PREFIX", "handled.")

    def made(bootstrap: str = "127.0.0.1:1", **settings: str) -> pipelines.Pipeline:
        environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": bootstrap}
        return pipelines.Pipeline(environ, Console(quiet=True), settings=settings)

    return made


@pytest.mark.kafka
def test_a_program_can_handle_the_pipeline(kafka, pipeline):
    """It sets variables, takes a consumer away and back, rotates a secret, and knows every address."""
    given = {"GATEWAY_RELOAD_INTERVAL": "0.2", "CANARY_INTERVAL": "1"}
    with pipeline(kafka.bootstrap, **given) as running:
        running.start()
        scraped = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
        assert all(f" 127.0.0.1:{port}" in scraped for port in running.scraped)
        assert len(running.scraped) == len(PROVIDERS) + 4
        first = running.running.pids["veriff"]
        running.stop_consumer("veriff")
        assert not runs(first)
        assert "veriff" not in running.running.pids
        running.check()
        running.start_consumer("veriff")
        assert pipelines._get(running.running.metrics["veriff"])[0] == 200
        assert running.running.pids["veriff"] != first

        url, old = (table["pawapass"] for table in (running.running.urls, running.running.secrets))
        fresh = running.fresh_secret("pawapass")

        def answer(secret) -> int:
            return post(url, *signed("pawapass", secret, {}, b'{"data":{"id":"1"}}')).status

        assert (answer(old), answer(fresh.secret)) == (200, 401)
        running.add_secret("pawapass", fresh, "new")
        until(lambda: answer(fresh.secret) == 200, "the gateway has the further secret")
        assert answer(old) == 200
        assert '"new"' in running.endpoints_file.read_text()
        running.await_beat()
        pids = list(running.running.pids.values())
    assert not any(runs(pid) for pid in pids)
    Cluster({"bootstrap.servers": kafka.bootstrap}).delete("handled.")


def test_a_beat_that_does_not_come_is_named(pipeline, monkeypatch):
    """`make run ARGS=--once` fails saying whose beat it was and where to look."""
    running = pipeline()
    admin = Address("127.0.0.1", free_port())
    running._programs["canary"] = pipelines._Program("canary", [], {}, admin)
    monkeypatch.setattr(pipelines, "_BEAT_SECONDS", 0.1)
    with pytest.raises(CannotRun, match="no beat of the canary was seen after"):
        running.await_beat()


def test_second_make_run_in_a_checkout_is_refused(tmp_path, monkeypatch):
    """Two runs would overwrite each other's run.json: the second is told of the first."""
    monkeypatch.setattr(pipelines, "LOCAL", tmp_path / ".local")
    with pipelines.alone(), pytest.raises(CannotRun, match=str(os.getpid())), pipelines.alone():
        pass


def test_surrounding_settings_do_not_reach_the_demonstration(monkeypatch):
    """What the shell holds for a real deployment is not mixed into the demonstration."""
    from rich.console import Console

    given = {"CANARY_URL": "/real", "EXPORTER_ADMIN_LISTEN": "/real"}
    given |= {"GATEWAY_ENDPOINTS": "/real", "EVENT_KEY_FILE": "/real", "SCHEMA_REGISTRY_URL": "x"}
    given |= {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "PATH": "/bin"}
    pipeline = pipelines.Pipeline(given, Console(quiet=True))
    assert pipeline._cluster() == {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "PATH": "/bin"}


def test_private_files_are_private_from_the_first_byte(tmp_path):
    """A secret is never readable by others, not even where a file of that name stood open."""
    file = tmp_path / "run.json"
    file.write_text("old")
    file.chmod(0o644)
    write_private(file, "secret")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("secret", 0o600)


def test_every_wait_for_a_page_is_bounded():
    """A process that does not answer yet is status 0, not an exception."""
    assert pipelines._get(f"http://127.0.0.1:{free_port()}/readyz") == (0, "")
