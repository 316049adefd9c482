"""How far a replay came: what it remembers in Kafka, and how two at once notice each other."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from consumers.committed import Committed
from consumers.contract import Halted
from consumers.records import Partition
from gateway.ranges import Range

ALIVE_SECONDS = 30.0
"""How long the last sign of a replay says that it is still at work."""

State = Literal["running", "stopped", "finished"]


class Stand(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside a committed offset of a replay; `at` in seconds since the epoch."""

    selection: str
    run: str
    state: State
    at: int


def replay_group(provider: str, prefix: str = "") -> str:
    """Name the group whose committed offsets say how far a provider's replays came."""
    return f"{prefix}replay.{provider}"


class Progress:
    """How far a replay came: committed offsets of a group of its own, on the topic it reads.

    Raises Halted as Committed does. `others` is the topic from which this provider's other
    replays read.
    """

    def __init__(self, committed: Committed, topic: str, others: str, selection: str) -> None:
        self._committed = committed
        self._topic = topic
        self._others = others
        self._selection = selection
        self._run = secrets.token_hex(4)

    def left(self, ranges: Sequence[Range]) -> list[Range]:
        """Give what is left of these ranges by this selection's progress."""
        stands = self._committed.read([self._topic])
        left = []
        for one in ranges:
            offset, text = stands.get((self._topic, one.partition), (0, ""))
            stand = _stand(text)
            begun = stand is not None and stand.selection == self._selection
            first = max(one.first, offset) if begun else one.first
            if first < one.end:
                left.append(Range(one.partition, first, one.end))
        return left

    def nobody_else(self, now: float) -> None:
        """Raise Halted if another replay of this provider shows signs of life."""
        for _, text in self._committed.read([self._topic, self._others]).values():
            stand = _stand(text)
            if stand is None or stand.state != "running":
                continue
            since = now - stand.at
            if since < ALIVE_SECONDS:
                raise Halted(
                    f"another replay into the same topic was at work {max(0.0, since):.0f} s ago; "
                    f"let it end, or if it was killed, try again {ALIVE_SECONDS:.0f} s after its "
                    "last sign"
                )

    def begin(self, offsets: Mapping[int, int], now: float) -> None:
        """Say that this replay is at work, and where it begins in each partition."""
        self._write(offsets, "running", now)

    def reach(self, offsets: Mapping[int, int], now: float, state: State = "running") -> None:
        """Remember what was acknowledged; raise Halted if another replay has taken over."""
        stands = self._committed.read([self._topic])
        for number in offsets:
            stand = _stand(stands.get((self._topic, number), (0, ""))[1])
            if stand is None or stand.run != self._run:
                raise Halted(
                    "another replay into the same topic has begun; this one stops, and what both "
                    "sent are duplicates"
                )
        self._write(offsets, state, now)

    def _write(self, offsets: Mapping[int, int], state: State, now: float) -> None:
        stand = Stand(selection=self._selection, run=self._run, state=state, at=int(now))
        self._committed.write(
            {(self._topic, number): offset for number, offset in offsets.items()},
            msgspec.json.encode(stand).decode(),
        )


def passed(committed: Mapping[Partition, tuple[int, str]]) -> dict[Partition, int]:
    """Give how far replays came in each partition, from what their group committed.

    Any replay that wrote counts, whatever it chose: the letters that it left out, and those
    before its range, are passed with the others, because one offset for each partition is all
    that is remembered. One that begins earlier takes back what the one before it had passed.
    Offsets that no replay wrote do not count.
    """
    return {
        partition: offset
        for partition, (offset, text) in committed.items()
        if _stand(text) is not None
    }


def _stand(text: str | None) -> Stand | None:
    try:
        return msgspec.json.decode(text or "", type=Stand)
    except msgspec.MsgspecError:
        return None
