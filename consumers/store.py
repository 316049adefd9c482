"""The local store of a partition's seen event ids: a cache on disk of the topic `seen.<provider>`.

RocksDB holds it, because it proves every block and log record by a checksum, and because its own
Bloom filters lie in the data files: an id never seen costs no read, nothing is rebuilt after a
restart, and no filter can belong to other data. docs/performance.md has the measurement.
"""

import fcntl
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from rocksdict import (
    BlockBasedOptions,
    Cache,
    ColumnFamily,
    DBCompactionStyle,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
)

from consumers.dedup import First

DAY = 86_400

_FIRST = struct.Struct(">HQIH")
_STATE = struct.Struct(">2sIqII")
_BUCKET = struct.Struct(">II")
_MARK = struct.Struct(">I")
_NO_MARK = _MARK.pack(0)
_STATE_KEY, _MARK_KEY = b"state", b"mark"  # no id is that short
_FORMAT = b"r1"
_FRESH = -1

_BITS_PER_ID = 10
_BUFFER_FILTER = 0.01
"""The part of a write buffer that is its filter: 10 bits per id when it is flushed."""
_FLUSH_BYTES = 4 << 20
"""What is written between two flushes, by the log's measure: some 110,000 ids."""
_BUFFER_BYTES = 4 * _FLUSH_BYTES
"""Never full before we flush: RocksDB by itself must not begin a second log (see `_flush`)."""

_CACHE = Cache(32 << 20)
"""Blocks that were read lately, for all stores of the process; filters are not in it."""

_OURS = re.compile(
    r"CURRENT|IDENTITY|LOCK|LOG(\.old\.\d+)?|MANIFEST-\d+|OPTIONS-\d+"
    r"|\d+\.(sst|log)|(OPTIONS-)?\d+\.dbtmp|rocksdict-config\.json"
)

_TOLD = (
    ("No space left on device", "is full: free space there"),
    ("Disk quota exceeded", "has reached its quota: free space there, or raise the quota"),
    ("File too large", "may not grow: raise this process's limit on the size of a file"),
    ("Read-only file system", "is read-only: mount it for writing"),
    ("Permission denied", "may not be written by this user: give it the folder"),
    ("Operation not permitted", "may not be written by this user: give it the folder"),
    ("Not a directory", "lies under a file: name another folder"),
    ("Too many open files", "needs more open files: raise this process's limit (ulimit -n)"),
    ("Cannot allocate memory", "needs more memory than there is: give this process more"),
    ("Input/output error", "lies on a disk that fails: look at the system's log, replace the disk"),
)


class StoreCorrupt(Exception):  # noqa: N818 - what is found, and what its owner asks for
    """What lies in the folder cannot be trusted or is not ours to read: wipe it and rebuild."""


class StoreUnusable(Exception):  # noqa: N818 - as StoreCorrupt
    """The folder cannot be used until a person acts; the text is the one sentence they read."""


class StoreHeld(Exception):  # noqa: N818 - as StoreCorrupt
    """Another store has the folder open, in this process or another one."""


class _Calendar:
    """Which bucket of whole days an entry belongs to, and which buckets are still kept.

    About five are alive at a time: an id never seen is asked of each of them.
    """

    def __init__(self, window_seconds: int) -> None:
        self.window = window_seconds
        self.span = -(-(window_seconds + DAY) // (5 * DAY)) * DAY
        self.newest = 0

    def placed(self, first: First, through: int) -> int:
        """Give an entry's bucket; a received_at ahead of the broker's clock counts as that clock.

        So a gateway whose clock is years ahead cannot expire everything else.
        """
        seconds = max(0, min(first.received_at, through // 1000))
        self.newest = max(self.newest, seconds)
        return seconds // self.span

    def keeps(self, bucket: int) -> bool:
        """Say whether a bucket may hold an entry within the window, with a day to spare."""
        return (bucket + 1) * self.span > self.newest - self.window - DAY


class Store:
    """The seen ids of one partition in a folder on disk.

    After a crash of the process it holds all of the last `put` or nothing of it; after a power
    loss, all puts up to some earlier one, as `through` says, or it is told to be corrupt. Any
    call may raise StoreCorrupt or StoreUnusable; the store is then to be closed.
    """

    def __init__(self, folder: Path, db: Rdict, buckets: dict[int, Rdict], state: bytes) -> None:
        _, window, through, newest, flushes = _STATE.unpack_from(state)
        self._folder = folder
        self._db = db
        self._calendar = _Calendar(window)
        self._calendar.newest = newest
        self._through: int = through
        self._buckets = buckets
        self._handles = {
            number: db.get_column_family_handle(str(number)) for number in sorted(buckets)
        }
        self._flushes: int = flushes
        self._marks = dict(_BUCKET.iter_unpack(state[_STATE.size :]))
        self._unflushed = 0
        self._written: set[int] = set()
        self._broken = False

    @classmethod
    def open(cls, folder: Path, window_seconds: int) -> Self:
        """Open a folder, or make it. Raises StoreCorrupt, StoreUnusable and StoreHeld.

        A store made for another window is StoreCorrupt: it may lack what the new one asks for.
        """
        _make(folder)
        with _told(folder):
            names = _bucket_names(folder)
            db = Rdict(str(folder), _options(), {name: _options() for name in names})
        buckets: dict[int, Rdict] = {}
        try:
            with _told(folder):
                if names == ["default"] and db.get(_STATE_KEY) is None:
                    db.put(_STATE_KEY, _STATE.pack(_FORMAT, window_seconds, _FRESH, 0, 0))
                    db.flush()
                state = _checked(db.get(_STATE_KEY), folder, window_seconds)
                for name in names:
                    if name != "default":
                        buckets[int(name)] = db.get_column_family(name)
                store = cls(folder, db, buckets, state)
        except BaseException:
            _close(db, buckets)
            raise
        try:
            store._expire()
            store._prove()
        except BaseException:
            store.close()
            raise
        return store

    @property
    def through(self) -> int | None:
        """Tell up to which broker time (ms) the seen topic is in the store; None if nothing is."""
        return None if self._through == _FRESH else self._through

    @property
    def newest(self) -> int:
        """Tell the newest received_at (seconds) that was put, from which the window counts."""
        return self._calendar.newest

    @property
    def count(self) -> int:
        """Tell about how many ids the store holds; overwritten ones may count twice."""
        with self._trusted():
            return sum(
                bucket.property_int_value("rocksdb.estimate-num-keys") or 0
                for bucket in self._buckets.values()
            )

    def find(self, ids: Sequence[bytes]) -> dict[bytes, First]:
        """Look up ids; what is not in the answer was not put, or has expired."""
        found: dict[bytes, First] = {}
        wanted: list[Any] = sorted(ids)
        with self._trusted():
            for number in sorted(self._buckets, reverse=True):
                values: list[bytes | None] = self._buckets[number].get(wanted) or []
                if values.count(None) == len(values):
                    continue
                for id_, value in zip(wanted, values, strict=True):
                    if value is not None:
                        found[id_] = First._make(_FIRST.unpack(value))
                wanted = [id_ for id_ in wanted if id_ not in found]
        return found

    def put(self, entries: Mapping[bytes, First], through: int) -> None:
        """Keep entries, over what was kept of the same ids, and `through` with them, or nothing.

        `through` is the broker's time in milliseconds up to which the seen topic is applied.
        Whole buckets are dropped once all they can hold is older than window and a day.
        """
        placed = [
            (id_, self._calendar.placed(first, through), _FIRST.pack(*first))
            for id_, first in sorted(entries.items())
        ]
        with self._trusted():
            targets = {bucket: self._target(bucket) for bucket in {one[1] for one in placed}}
            batch = WriteBatch(raw_mode=True)
            for id_, bucket, value in placed:
                handle, newer = targets[bucket]
                if handle is not None:
                    batch.put(id_, value, handle)
                for other in newer:  # `find` asks them first
                    batch.delete(id_, other)
            self._through = through
            batch.put(_STATE_KEY, self._state())
            self._unflushed += batch.size_in_bytes()
            self._db.write(batch)
        self._expire()
        if self._unflushed >= _FLUSH_BYTES:
            self._flush()

    def close(self) -> None:
        """Write everything down and give the folder back; never fails."""
        try:
            if not self._broken and self._unflushed:
                self._flush()
        except (StoreCorrupt, StoreUnusable):
            pass  # what was put is in the log already
        finally:
            self._broken = True
            self._handles.clear()
            _close(self._db, self._buckets)

    def _state(self) -> bytes:
        """Say what the store holds, and by which flush each bucket came to what it is.

        RocksDB proves each of its files, not that none of them is an older one. A bucket that
        lacks its mark, or is not there at all, has lost what was flushed.
        """
        return _STATE.pack(
            _FORMAT, self._calendar.window, self._through, self._calendar.newest, self._flushes
        ) + b"".join(
            _BUCKET.pack(number, self._marks.get(number, 0)) for number in sorted(self._buckets)
        )

    def _prove(self) -> None:
        with self._trusted():
            for number, mark in self._marks.items():
                bucket = self._buckets.get(number)
                if not self._calendar.keeps(number):
                    continue
                if bucket is None or bucket.get(_MARK_KEY, _NO_MARK) != _MARK.pack(mark):
                    raise StoreCorrupt(f"{self._folder} has lost a part of what it held")

    def _flush(self) -> None:
        """Bring everything from the log into the data files, and begin a new log.

        Only here: while it runs, RocksDB has two logs. Cut at the end of a record (by a power
        loss), the older one leaves a hole that RocksDB does not see; so nothing may be written
        until the older one is gone. The lost end of a single log is only an earlier state.
        """
        with self._trusted():
            self._flushes += 1
            flushed = [number for number in self._written if number in self._buckets]
            self._marks.update(dict.fromkeys(flushed, self._flushes))
            batch = WriteBatch(raw_mode=True)
            for number in flushed:
                batch.put(_MARK_KEY, _MARK.pack(self._flushes), self._handles[number])
            batch.put(_STATE_KEY, self._state())
            self._db.write(batch)
            for number in flushed:
                self._buckets[number].flush()
            self._db.flush()
            self._unflushed = 0
            self._written.clear()

    def _target(self, number: int) -> tuple[ColumnFamily | None, list[ColumnFamily]]:
        """Give the bucket to write an entry to, unless it has expired, and all newer ones."""
        if number not in self._buckets and self._calendar.keeps(number):
            self._buckets[number] = self._db.create_column_family(str(number), _options())
            self._handles[number] = self._db.get_column_family_handle(str(number))
        newer = [other for other in self._handles if other > number]
        self._written.update([number, *newer])
        return self._handles.get(number), [self._handles[other] for other in newer]

    def _expire(self) -> None:
        with self._trusted():
            for number in [one for one in self._buckets if not self._calendar.keeps(one)]:
                del self._handles[number]
                self._buckets.pop(number).close()
                self._db.drop_column_family(str(number))

    @contextmanager
    def _trusted(self) -> Iterator[None]:
        """Refuse everything after the first trouble: memory and disk may differ from then on."""
        if self._broken:
            raise StoreUnusable(f"the store {self._folder} is closed: open it again")
        try:
            with _told(self._folder):
                yield
        except BaseException:
            self._broken = True
            raise


class MemoryStore:
    """The same promises as Store, but for the disk: for tests and simulations."""

    def __init__(self, window_seconds: int) -> None:
        self._calendar = _Calendar(window_seconds)
        self._buckets: dict[int, dict[bytes, First]] = {}
        self.through: int | None = None

    @property
    def newest(self) -> int:
        """Tell the newest received_at that was put."""
        return self._calendar.newest

    @property
    def count(self) -> int:
        """Tell how many ids the store holds."""
        return sum(map(len, self._buckets.values()))

    def find(self, ids: Sequence[bytes]) -> dict[bytes, First]:
        """Look up ids, as Store does."""
        return {
            id_: bucket[id_] for bucket in self._buckets.values() for id_ in ids if id_ in bucket
        }

    def put(self, entries: Mapping[bytes, First], through: int) -> None:
        """Keep entries and expire whole buckets, as Store does."""
        for id_, first in entries.items():
            for bucket in self._buckets.values():
                bucket.pop(id_, None)
            self._buckets.setdefault(self._calendar.placed(first, through), {})[id_] = first
        self._buckets = {
            number: bucket
            for number, bucket in self._buckets.items()
            if self._calendar.keeps(number)
        }
        self.through = through

    def close(self) -> None:
        """Do nothing."""


def wipe(folder: Path) -> None:
    """Delete a closed store's files, and nothing else; the folder stays.

    Raises StoreHeld if another process has it open, StoreUnusable if it holds foreign files.
    """
    try:
        _refuse_foreign(folder)
        with (folder / "LOCK").open("a") as lock:
            # RocksDB's own kind of lock. It belongs to the process: never wipe an open store.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # CURRENT first: without it nothing of the rest is taken for a store.
            for path in sorted(folder.iterdir(), key=lambda path: path.name != "CURRENT"):
                if path.name != "LOCK":
                    path.unlink()
    except FileNotFoundError:
        return
    except BlockingIOError as error:
        raise StoreHeld(f"{folder} is open in another process") from error
    except OSError as error:
        raise _meaning(str(error), folder) from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(folder)
    except OSError as error:
        raise _meaning(str(error), folder) from error


def _refuse_foreign(folder: Path) -> None:
    for path in folder.iterdir():
        if not _OURS.fullmatch(path.name) or path.is_dir():
            raise StoreUnusable(
                f"{folder} holds {path.name!r}, which is no file of a store: name another folder"
            )


def _checked(state: bytes | None, folder: Path, window_seconds: int) -> bytes:
    if state is None or state[:2] != _FORMAT:
        raise StoreCorrupt(f"{folder} holds another format than this version's")
    if (window := _STATE.unpack_from(state)[1]) != window_seconds:
        raise StoreCorrupt(f"{folder} was made for a window of {window} seconds")
    return state


def _bucket_names(folder: Path) -> list[str]:
    if not (folder / "CURRENT").exists():
        return ["default"]
    return sorted(Rdict.list_cf(str(folder), _options()))


def _options() -> Options:
    table = BlockBasedOptions()
    table.set_bloom_filter(_BITS_PER_ID, block_based=False)
    table.set_format_version(5)
    table.set_block_cache(_CACHE)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.none())  # ids are random
    options.set_compaction_style(DBCompactionStyle.universal())
    options.set_max_background_jobs(2)
    options.set_write_buffer_size(_BUFFER_BYTES)
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(_BUFFER_FILTER)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 << 20)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def _close(db: Rdict, buckets: dict[int, Rdict]) -> None:
    """Close every handle: one left open keeps the folder locked."""
    for handle in (*buckets.values(), db):
        with suppress(Exception):  # it gives the folder back even when it fails, or was closed
            handle.close()
    buckets.clear()


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Translate what RocksDB says; rocksdict raises all of it as a bare Exception."""
    try:
        yield
    except struct.error as error:
        raise StoreCorrupt(f"{folder} holds an entry of another format") from error
    except OSError as error:
        raise _meaning(str(error), folder) from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise _meaning(str(error), folder) from error


def _meaning(text: str, folder: Path) -> StoreCorrupt | StoreUnusable | StoreHeld:
    """Tell what trouble it is: what no person can cure by an act is cured by a rebuild."""
    if "LOCK" in text and ("lock hold by" in text or "temporarily unavailable" in text):
        return StoreHeld(f"{folder} is open in another process, or twice in this one")
    for said, told in _TOLD:
        if said in text:
            return StoreUnusable(f"the store's folder {folder} {told}")
    return StoreCorrupt(f"{folder}: {text}")
