"""The stall: when so much fails that going on would only fill the dead letters."""

from collections.abc import Iterable, Mapping

SHARE = 0.5
LEAST_RECORDS = 100
MINUTES = 5

_LEAST_FAILURES = LEAST_RECORDS * SHARE
_MINUTE = 60_000

ROOM = 3_900
"""Bytes of `recent` in a passport, which has 4,096."""
_BYTES_PER_TYPE = 6 + MINUTES * 30
"""Beside the name: a minute takes at most 8 digits, its counts fewer than 9 each."""


class Window:
    """The records of the last minutes of one partition, by native type; the time is Kafka's.

    The newest minute noted is the present: what comes for one too long before it is not counted.
    Given the `recent` of another, it goes on where that one was.
    """

    def __init__(self, recent: Mapping[str, list[tuple[int, int, int]]] | None = None) -> None:
        self._counts: dict[str, dict[int, tuple[int, int]]] = {}
        self.newest = -MINUTES
        self.failures = 0
        for native_type, minutes in (recent or {}).items():
            for minute, records, failures in minutes:
                self._add(native_type, records, failures, minute)

    def note(self, native_type: str, records: int, failures: int, timestamp: int) -> None:
        """Count records of a native type; `timestamp` in milliseconds."""
        self._add(native_type, records, failures, timestamp // _MINUTE)

    def recent(self) -> dict[str, list[tuple[int, int, int]]]:
        """Give the counts as a passport carries them.

        Should it ever hold more types than a passport has room for, those with the fewest
        failures are left out.
        """
        kept = list(self._counts)
        if _room_of(kept) > ROOM:
            kept.sort(key=self._failures_of)
            while _room_of(kept) > ROOM:
                del kept[0]
        return {
            native_type: [
                (minute, records, failures)
                for minute, (records, failures) in self._counts[native_type].items()
            ]
            for native_type in kept
        }

    def since(self, minute: int) -> Iterable[tuple[str, int, int]]:
        """Give the records and the failures of each type and minute, from this minute on."""
        for native_type, minutes in self._counts.items():
            for at, (records, failures) in minutes.items():
                if at >= minute:
                    yield native_type, records, failures

    def _add(self, native_type: str, records: int, failures: int, minute: int) -> None:
        if minute > self.newest:
            self.newest = minute
            self._forget(_first_minute(minute))
        elif minute < _first_minute(self.newest):
            return
        minutes = self._counts.setdefault(native_type, {})
        records_before, failures_before = minutes.get(minute, (0, 0))
        minutes[minute] = (records_before + records, failures_before + failures)
        self.failures += failures

    def _forget(self, first: int) -> None:
        for native_type, minutes in list(self._counts.items()):
            for minute in [minute for minute in minutes if minute < first]:
                self.failures -= minutes.pop(minute)[1]
            if not minutes:
                del self._counts[native_type]

    def _failures_of(self, native_type: str) -> int:
        return sum(failures for _, failures in self._counts[native_type].values())


def stalled(windows: Iterable[Window]) -> str | None:
    """Name the native type that fails too often over all these windows, if one does.

    The newest minute of them all is the present; of several types it is the one that fails most.
    """
    looked_at = list(windows)
    if sum(window.failures for window in looked_at) < _LEAST_FAILURES:
        return None
    first = _first_minute(max(window.newest for window in looked_at))
    counts: dict[str, tuple[int, int]] = {}
    for window in looked_at:
        for native_type, records, failures in window.since(first):
            records_before, failures_before = counts.get(native_type, (0, 0))
            counts[native_type] = (records_before + records, failures_before + failures)
    failing = [
        (failures, native_type)
        for native_type, (records, failures) in counts.items()
        if records >= LEAST_RECORDS and failures >= SHARE * records
    ]
    return max(failing)[1] if failing else None


def _first_minute(newest: int) -> int:
    """Give the first of the minutes that count."""
    return newest - MINUTES + 1


def _room_of(native_types: list[str]) -> int:
    return sum(map(len, native_types)) + _BYTES_PER_TYPE * len(native_types)
