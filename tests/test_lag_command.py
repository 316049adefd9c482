"""Lag from outside: its arithmetic, how it is told, and what the broker says of dead consumers."""

import json
import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest
from confluent_kafka import Consumer

from consumers import passport
from consumers.lag_table import duration, lag_lines
from consumers.offsets import (
    NOTHING,
    Checkpoint,
    GroupLag,
    failing,
    needs_somebody,
    position,
)
from consumers.outside import lag
from consumers.passport import Passport
from deploy.child import free_port
from gateway.process import ConfigurationError
from tests.deployment import ROOT, deployment, until
from tests.test_audit import PASSPORT, Topics
from tests.test_consumers_cli import consumers
from tests.test_pipeline import numbered

NOW = 1_700_000_000.0
PASSED = Passport(mapping_revision=4, last_record_at=int(NOW * 1000) - 5_000)


# -- the arithmetic, without Kafka --


def test_nothing_waits():
    """0 seconds only where the end of the log says so."""
    found = position(0, Checkpoint(7, PASSED), 0, 7, None, NOW)
    assert (found.records, found.seconds, found.lost) == (0, 0.0, 0)
    assert (found.mapping_revision, found.last_record_at) == (4, PASSED.last_record_at)


def test_what_waits_has_an_age():
    """The first record at or after the committed offset; a clock ahead of ours is 0."""
    waiting = int(NOW * 1000) - 90_000
    assert position(0, Checkpoint(7, None), 0, 10, waiting, NOW).seconds == 90
    assert position(0, Checkpoint(7, None), 0, 10, waiting + 200_000, NOW).seconds == 0


def test_what_is_not_known_is_absent():
    """Neither 0 records nor 0 seconds is said where nobody answered."""
    found = position(0, Checkpoint(7, None), None, None, None, NOW)
    assert (found.records, found.seconds) == (None, None)
    unread = position(0, Checkpoint(7, None), 0, 9, None, NOW)
    assert (unread.records, unread.seconds) == (2, None)


def test_offsets_without_a_record_are_no_lag():
    """Markers, aborted and compacted records: once they were looked through, nothing waits."""
    only_markers = position(0, Checkpoint(7, None), 0, 9, NOTHING, NOW)
    assert (only_markers.records, only_markers.seconds) == (0, 0.0)
    lost_too = position(0, Checkpoint(7, None), 30, 33, NOTHING, NOW)
    assert (lost_too.records, lost_too.seconds, lost_too.lost) == (23, None, 23)


def test_a_log_that_ends_before_the_commit_has_no_lag():
    """Cut off, restored or another cluster's: nobody knows what waits, and it is never 0."""
    found = position(0, Checkpoint(500, PASSED), 0, 10, None, NOW)
    assert (found.records, found.seconds, found.lost) == (None, None, 0)
    assert found.beyond
    assert not position(0, Checkpoint(10, PASSED), 0, 10, None, NOW).beyond
    assert not position(0, Checkpoint(500, PASSED), None, None, None, NOW).beyond


def test_without_a_commit_everything_waits():
    """From the log's start on; nothing was lost, since nothing was promised."""
    found = position(0, None, 30, 50, int(NOW * 1000) - 1_000, NOW)
    assert (found.committed, found.records, found.seconds, found.lost) == (None, 20, 1.0, 0)


def test_what_retention_deleted_unread_is_told():
    """A committed offset below the log's start."""
    assert position(0, Checkpoint(7, None), 30, 50, None, NOW).lost == 23


def group(*positions, members=1, state="stable"):
    return GroupLag(
        provider="p", topic="raw.p", group="normalize.p", state=state, members=members,
        positions=positions,
    )  # fmt: skip


def test_the_first_line_says_it_all():
    """How late, and whether anybody works on it."""
    done = position(0, Checkpoint(7, PASSED), 0, 7, None, NOW)
    late = position(1, Checkpoint(7, None), 0, 2_007, int((NOW - 3_700) * 1000), NOW)
    unknown = position(2, Checkpoint(7, None), None, None, None, NOW)
    never = position(3, None, 0, 4, int((NOW - 5) * 1000), NOW)

    def headline(*positions, **more):
        return lag_lines(group(*positions, **more), NOW)[0]

    assert headline(done) == "p: nothing waits; 1 member in normalize.p (stable)"
    assert headline(done, late, members=0, state="empty") == (
        "p: 2,000 records behind, the oldest waits 1 h 1 min; NOBODY is in normalize.p"
    )
    assert headline(done, late, unknown, members=2).startswith(
        "p: at least 2,000 records behind (some partitions did not answer), the oldest waits"
    )
    assert headline(never, members=None) == (
        "p: nothing was ever committed; nobody says who is in normalize.p"
    )


def test_a_log_that_ends_before_the_commit_is_told():
    """In the first line, in its row and in a sentence that says what to do."""
    cut = position(0, Checkpoint(500, PASSED), 0, 10, None, NOW)
    done = position(1, Checkpoint(7, PASSED), 0, 7, None, NOW)
    late = position(2, Checkpoint(3, None), 0, 5, int((NOW - 60) * 1000), NOW)
    silent = position(3, Checkpoint(7, None), None, None, None, NOW)
    again = position(4, Checkpoint(2, None), 0, 1, None, NOW)

    def headline(*positions):
        return lag_lines(group(*positions), NOW)[0]

    ends = "p: raw.p[0] ends at 10, before the committed offset 500"
    who = "1 member in normalize.p (stable)"
    assert headline(cut, done) == f"{ends}; {who}"
    assert headline(cut, again) == f"{ends}, and 1 more does so; {who}"
    assert headline(cut, late) == (
        f"{ends}; elsewhere 2 records behind, the oldest waits 1 min 0 s; {who}"
    )
    assert headline(cut, silent) == (
        f"{ends}; elsewhere at least 0 records behind (some partitions did not answer); {who}"
    )
    lines = lag_lines(group(cut, done), NOW)
    assert lines[2].split()[:5] == ["0", "500", "10", "?", "?"]
    assert lines[4] == (
        "  partition 0 ends at 10, before the committed offset 500: the topic was created anew or "
        "cut off; reset the group's offsets to say where to go on"
    )
    assert needs_somebody(group(done, cut))
    assert not needs_somebody(group(done, late, silent))


def test_every_partition_has_its_row():
    """What is unknown is a question mark, what never was is said so."""
    lines = lag_lines(
        group(
            position(0, Checkpoint(1_204, PASSED), 0, 1_204, None, NOW),
            position(1, Checkpoint(7, None), None, None, None, NOW),
            position(11, None, 5, 6, int((NOW - 61) * 1000), NOW),
            position(12, Checkpoint(7, None), 30, 30, None, NOW),
        ),
        NOW,
    )
    assert [line.split() for line in lines[2:6]] == [
        ["0", "1,204", "1,204", "0", "0", "2023-11-14", "22:13:15Z", "(5", "s", "ago)", "4"],
        ["1", "7", "?", "?", "?", "-", "-"],
        ["11", "never", "6", "1", "61", "-", "-"],
        ["12", "7", "30", "23", "?", "-", "-"],
    ]
    assert lines[6] == "  partition 12: retention deleted 23 offsets before they were handled"


def test_a_stall_is_told():
    """Failures of the last minutes, over all partitions, as the commits carry them."""
    minute = int(NOW // 60)

    def one(partition, recent, revision=1):
        passed = Passport(mapping_revision=revision, last_record_at=int(NOW * 1000), recent=recent)
        return position(partition, Checkpoint(1, passed), 0, 1, None, NOW)

    found = group(
        one(0, {"decision": [(minute, 60, 40)], "event": [(minute, 9, 0)]}),
        one(1, {"decision": [(minute - 1, 60, 40), (minute - 60, 99, 99)]}),
    )
    assert failing(found) == [("decision", 120, 80)]
    lines = lag_lines(found, NOW)
    assert lines[-2] == ("  failing: 80 of 120 decision in the 5 minutes before the last commits")
    assert "`python -m consumers resume p --admin HOST:PORT`" in lines[-1]
    assert "CONSUMER_ADMIN_LISTEN" in lines[-1]
    assert needs_somebody(found)
    mended = group(one(0, {"decision": [(minute, 120, 80)]}), one(1, {}, revision=2))
    assert "stalled" not in "\n".join(lag_lines(mended, NOW))
    some = group(one(0, {"decision": [(minute, 60, 1)]}))
    assert "stalled" not in "\n".join(lag_lines(some, NOW))
    assert not needs_somebody(mended)
    assert not needs_somebody(some)


@pytest.mark.parametrize(
    "text",
    [
        '{"mapping_revision":1,"last_record_at":0,"recent":{"t":[[0,' + "9" * 400 + ",1]]}}",
        '{"mapping_revision":1,"last_record_at":0,"recent":{"t":[[0,1e400,1]]}}',
        '{"last_record_at":0,"mapping_revision":' + "9" * 300 + "}",
        '{"mapping_revision":-1,"last_record_at":0}',
        '{"mapping_revision":1,"last_record_at":0,"recent":{"t":[[0,-5,-7]]}}',
    ],
    ids=lambda text: text[:60],
)  # fmt: skip
def test_a_text_that_cannot_be_a_passport_is_none(text):
    """Whoever may commit for a group chooses it: no number in it stops those who look."""
    assert passport.read(text) is None


def test_a_type_that_is_no_word_is_left_out():
    """What could move a terminal's cursor is not shown."""
    text = '{"mapping_revision":1,"last_record_at":600000,"recent":{"\\u001b[2J":[[1,1,1]],"t":[[1,1,1]]}}'
    assert set(passport.read(text).recent) == {"t"}


@pytest.mark.kafka
@pytest.mark.parametrize("name", ["", "x" * 1_001, "a\nb", os.fsdecode(b"\xff")])
@pytest.mark.parametrize("command", ["lag", "export"])
def test_what_can_be_no_group_is_refused(written, command, name):
    """An unset variable of a shell is one sentence, not the client's abort."""
    code, _, err = consumers(command, "--group", name, **written.environ)
    assert code == 2
    assert "--group" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (3_600, "1 h 0 min"), (90_000, "1 d 1 h")],
)
def test_times_are_told_in_two_units(seconds, words):
    """A person at night reads neither 90000 s nor 1.04 d."""
    assert duration(seconds) == words


@pytest.mark.parametrize("command", ["lag", "audit"])
def test_an_unreachable_cluster_is_one_sentence(command):
    """It says that Kafka does not answer, and where."""
    arguments = ["veriff"] if command == "audit" else []
    code, _, err = consumers(command, *arguments, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert code == 2
    assert err.splitlines()[-1] == "consumers: Kafka does not answer at 127.0.0.1:1"
    code, _, err = consumers(command, "verif", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert code == 2
    assert "there is no normalizer for verif" in err


# -- on the real Kafka --


@pytest.fixture
def written(topics):
    return Topics(topics())


@pytest.mark.kafka
def test_lag_is_read_with_every_consumer_dead(written):
    """Committed, end, passport and the age of what waits, from the broker alone."""
    written.send(0, 5)
    written.commit(0, 2)
    written.send(1, 3)
    written.commit(1, 3, "somebody else's words")
    before = time.time()
    found = lag(written.config, "veriff", written.prefix, before + 100)
    assert (found.members, found.state) == (0, "empty")
    first, second, third = found.positions[:3]
    assert (first.committed, first.end, first.records) == (2, 5, 3)
    assert 90 < first.seconds < 160
    assert (first.mapping_revision, first.last_record_at) == (4, PASSPORT.last_record_at)
    assert (second.records, second.seconds, second.mapping_revision) == (0, 0.0, None)
    assert (third.committed, third.records, third.seconds) == (None, 0, 0.0)


@pytest.mark.kafka
def test_lag_over_what_is_not_there(written):
    """Offsets that retention deleted are told; a group that never was has no members."""
    written.send(0, 5)
    found = lag(written.config, "veriff", written.prefix, time.time())
    assert (found.begun, found.members) == (False, 0)
    written.commit(0, 1)
    written.delete_before(written.raw, 0, 3)
    found = lag(written.config, "veriff", written.prefix, time.time())
    assert (found.positions[0].lost, found.positions[0].records) == (2, 4)
    assert found.positions[0].seconds is not None
    with pytest.raises(ConfigurationError, match="there is no topic"):
        lag(written.config, "nobody", written.prefix, time.time())


@pytest.mark.kafka
def test_lag_counts_who_is_alive(written):
    """A member that polls is one."""
    member = Consumer({**written.config, "group.id": written.group})
    member.subscribe([written.raw])
    while not member.assignment():
        member.poll(0.1)
    found = lag(written.config, "veriff", written.prefix, time.time())
    member.close()
    assert (found.members, found.state) == (1, "stable")


@pytest.mark.kafka
def test_the_lag_command_shows_every_provider(written):
    """As a table, and as one JSON object per provider; exit 0 however late they are."""
    written.send(0, 5)
    written.commit(0, 2)
    code, out, _ = consumers("lag", **written.environ)
    assert code == 0
    assert "veriff: 3 records behind, the oldest waits" in out
    assert "NOBODY is in" in out
    assert "plexy: nothing was ever committed" in out
    code, out, _ = consumers("lag", "veriff", "--json", **written.environ)
    (line,) = out.splitlines()
    assert msgspec.json.decode(line, type=GroupLag).positions[0].records == 3
    environ = {**written.environ, "TOPIC_PREFIX": "nobody."}
    code, _, err = consumers("lag", **environ)
    assert code == 2
    assert "there is no topic nobody.raw." in err


@pytest.mark.kafka
def test_where_somebody_must_act_the_lag_command_exits_1(written):
    """For a stall and for a log cut off, as a table and as JSON, whatever the others are."""
    written.send(0, 10)
    written.commit(0, 500)
    code, out, err = consumers("lag", "veriff", "plexy", **written.environ)
    assert (code, err) == (1, "")
    assert f"veriff: {written.raw}[0] ends at 10, before the committed offset 500; " in out
    assert "plexy: nothing was ever committed" in out
    minute = int(time.time() // 60)
    failed = Passport(
        mapping_revision=4, last_record_at=minute * 60_000, recent={"t": [(minute, 120, 80)]}
    )
    written.commit(0, 10, passport.written(failed))
    code, out, _ = consumers("lag", "veriff", "--json", **written.environ)
    assert code == 1
    assert msgspec.json.decode(out, type=GroupLag).positions[0].records == 0
    code, out, _ = consumers("lag", "veriff", **written.environ)
    assert code == 1
    assert "stalled: too much of t fails" in out
    assert consumers("lag", "plexy", **written.environ)[0] == 0


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", [(), ("--delivery", "exactly-once", "--slot", "0")])
def test_a_consumers_own_work_is_proven(topics, tmp_path, delivery):
    """Gateway and consumer as processes, killed once: audit and lag say what they did."""
    with deployment(topics(), tmp_path) as deployed:
        deployed.gateway()
        short = {"KAFKA_SESSION_TIMEOUT_MS": "1500", "KAFKA_HEARTBEAT_INTERVAL_MS": "300"}
        environ = deployed.environ()

        def start():
            admin = free_port()
            listen = {"CONSUMER_ADMIN_LISTEN": f"127.0.0.1:{admin}"}
            command = ["consumers", "run", "veriff", *delivery]
            return deployed._start(command, short | listen, admin)

        consumer = start()
        for number, body in enumerate(numbered(300)):
            assert deployed.send("veriff", body).status == 200
            if number == 150:
                consumer.kill()
                consumer = start()
        deployed.send("veriff", b'{"eventType": "unheard of"}')
        deployed.send("veriff", next(numbered(1)))

        def caught_up():
            _, out, _ = consumers("lag", "veriff", **environ)
            return "veriff: nothing waits; 1 member" in out

        until(caught_up, "everything is committed")
        consumer.stop()
        code, out, _ = consumers("audit", "veriff", **environ)
        assert code == 0, out
        assert "Proven: each of 302 raw records" in out
        code, out, _ = consumers("lag", "veriff", "--json", **environ)
        positions = json.loads(out)["positions"]
        assert any(one["last_record_at"] for one in positions)
        assert {one["records"] for one in positions} == {0}


@pytest.mark.kafka
def test_lag_is_watched_until_it_is_stopped(written, tmp_path):
    """On a pipe a block for each look, any group by its name; Ctrl-C ends it with the last answer."""
    written.send(0, 5)
    written.commit(0, 2)
    command = [sys.executable, "-m", "consumers", "lag", "--watch", "0.2", "--group"]
    with (tmp_path / "out").open("w+") as out:
        watching = subprocess.Popen(
            [*command, written.group], cwd=ROOT, env={**os.environ, **written.environ}, stdout=out
        )
        said = f"{written.group} on {written.raw}: 3 records behind, the oldest waits"
        until(lambda: (tmp_path / "out").read_text().count(said) > 2, "three looks")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0
    assert "\x1b" not in (tmp_path / "out").read_text()
    code, out, _ = consumers("lag", "--group", f"{written.prefix}no-such-group", **written.environ)
    assert code == 0
    assert out.startswith(f"{written.prefix}no-such-group: nothing was ever committed; ")
    code, _, err = consumers("lag", "veriff", "--watch", "0", **written.environ)
    assert code == 2
    assert "--watch takes one number of seconds" in err
