"""A broken mapping on the real Kafka: stalled, mended, replayed, audited; each event stands once.

`-s` prints the story as an operator sees it; docs/guarantees.md has one such transcript.
"""

import json
from collections import Counter

import pytest

from consumers.codec import decode
from gateway.delivery import dead_topic, output_topic
from gateway.send import fixture
from tests.deployment import deployment, get, until
from tests.test_stalled import (
    LETTERS,
    MODES,
    PROVIDER,
    REASON,
    STALLED,
    Group,
    command,
    rollout,
    whole,
)

pytestmark = pytest.mark.kafka

DUPLICATES = "verihook_duplicates_total"
SHOWN = (STALLED, LETTERS, "verihook_records_consumed_total", "verihook_consumer_lag_records")


class Provider:
    """Sends deliveries, each about a process of its own, and sends some of them again."""

    def __init__(self, deployed) -> None:
        self._deployed = deployed
        self._template = json.loads(fixture(PROVIDER, "approved").body)
        self.sent: Counter[int] = Counter()

    def send(self, first: int, end: int) -> None:
        """Send deliveries by their numbers; the same number is the same body."""
        for number in range(first, end):
            self._template["notificationId"] = f"f0000000-0000-4000-8000-{number:012d}"
            self._template["data"]["id"] = f"process-{number}"
            assert self._deployed.send(PROVIDER, json.dumps(self._template).encode()).status == 200
            self.sent[number] += 1


class Operator:
    """Types commands and looks at pages, and tells the transcript."""

    def __init__(self, deployed) -> None:
        self._deployed = deployed

    def says(self, text: str) -> None:
        """Tell what happens meanwhile."""
        print(f"\n# {text}")

    def types(self, *arguments: str, tree, code: int = 0) -> str:
        """Run a command to its end; give what it prints."""
        done = command(self._deployed, *arguments, tree=tree)
        print(
            f"\n$ python -m consumers {' '.join(arguments)}\n{done.stdout}(exit {done.returncode})"
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def looks(self, process) -> str:
        """Look at a process' admin address; give what /readyz?verbose says."""
        for page in ("livez", "readyz?verbose"):
            status, text = get(f"{process.admin}/{page}")
            print(f"\nGET {process.admin}/{page}  ->  {status}\n{text}", end="")
        for name, value in process.metrics().items():
            if name.startswith(SHOWN) and value:
                print(f"{name} {value:g}")
        return text


@pytest.mark.parametrize("mode", MODES)
def test_a_broken_mapping_is_stalled_mended_replayed_and_audited(topics, tmp_path, mode):
    """With a provider that sends again all the while: every delivery is one event, proven."""
    made = topics(**{"raw.partitions": 4, "dlq.partitions": 1})
    with deployment(made, tmp_path) as deployed:
        sound, broken, mended = (
            rollout(tmp_path / f"revision-{revision}", revision, broken=revision == 2)
            for revision in (1, 2, 3)
        )
        group, provider, operator = Group(deployed), Provider(deployed), Operator(deployed)

        def stored() -> int:
            return sum(provider.sent.values())

        deployed.gateway()
        operator.says(f"{mode}: all is well at first; 200 deliveries, 50 of them sent twice")
        consumer = deployed.consumer(PROVIDER, *MODES[mode], tree=sound)
        provider.send(0, 200)
        provider.send(0, 50)
        until(lambda: group.committed() == stored(), "everything is handled")
        assert consumer.sum(DUPLICATES) == 50
        assert consumer.stop() == 0

        operator.says("revision 2 is rolled out, and is broken; dead letters rise")
        consumer = deployed.consumer(PROVIDER, *MODES[mode], tree=broken)
        provider.send(200, 240)
        provider.send(200, 220)  # the provider sends some again
        until(lambda: consumer.sum(LETTERS) == 60, "dead letters rise")
        assert consumer.sum(STALLED) == 0, "these are too few to tell"
        provider.send(240, 380)
        provider.send(200, 240)
        until(lambda: consumer.sum(STALLED) == 1, "it stalls")
        until(lambda: consumer.sum(LETTERS) == group.committed() - 250, "and commits")
        dead = int(consumer.sum(LETTERS))
        assert dead >= 100
        provider.send(380, 680)  # the gateway takes deliveries as before
        provider.send(380, 420)
        operator.says("the gateway goes on storing; what an operator sees")
        assert REASON in operator.looks(consumer)
        told = operator.types("lag", PROVIDER, tree=broken, code=1)
        assert f"{stored() - 250 - dead:,} records behind" in told
        assert "stalled: too much of VERIFICATION.STATUS_CHANGE fails" in told
        told = operator.types("replay", PROVIDER, tree=broken)
        assert f"{dead} stay where they are, because they would only die again" in told
        assert consumer.stop() == 0

        operator.says("the mapping is mended, its revision raised to 3, and rolled out")
        consumer = deployed.consumer(PROVIDER, *MODES[mode], tree=mended)
        until(lambda: group.committed() == stored(), "what was not read is handled")
        operator.looks(consumer)
        assert len(whole(deployed, dead_topic(PROVIDER, deployed.prefix))) == dead
        provider.send(200, 210)  # some that died are sent again, before the replay
        until(lambda: group.committed() == stored(), "retries are handled")

        told = operator.types("replay", PROVIDER, tree=mended)
        assert f"Nothing was written. --yes appends {dead} records" in told
        assert group.committed() == stored()
        told = operator.types("replay", PROVIDER, "--yes", tree=mended)
        assert f"{dead} of {dead} records appended" in told
        until(lambda: group.committed() == stored() + dead, "the replay is handled")
        provider.send(220, 240)  # and some after it
        until(lambda: group.committed() == stored() + dead, "retries are handled")
        operator.types("replay", PROVIDER, "--yes", tree=mended)
        operator.types("lag", PROVIDER, tree=mended)

        events = [
            decode(message.value()) for message in whole(deployed, output_topic(deployed.prefix))
        ]
        assert Counter(event.process_ref for event in events) == Counter(
            f"process-{number}" for number in provider.sent
        )
        assert len({event.event_id for event in events}) == len(provider.sent) == 680
        assert Counter(event.mapping_revision for event in events) == {1: 200, 3: 480}
        told = operator.types("audit", PROVIDER, "--exactly-once", tree=mended)
        assert f"Proven: each of {stored() + dead:,} raw records" in told
        assert group.committed() == stored() + dead, "and nothing was appended by the second replay"
        assert consumer.stop() == 0
