"""What the dedup store costs, beside LMDB and SQLite, and what a filter before it would save.

Run by `make bench`; `python -m tests.bench_dedup --ids 60_000_000` is the large run. Each store
is measured in a process of its own. LMDB and rbloom are measured only where they are installed.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from consumers import store
from consumers.dedup import First, pack, unpack
from consumers.store import DAY, Store

BARRIER, BATCH, DAYS, WINDOW = 5_000, 1_000, 8, 7 * DAY
ROUNDS = 100
NOON = 1_700_000_000 // DAY * DAY + DAY // 2
RAW = struct.Struct(">HQIH")


def barrier(number: int) -> list[bytes]:
    """The ids of one barrier; the same for the same number."""
    import random

    block = random.Random(number).randbytes(16 * BARRIER)
    return [block[start : start + 16] for start in range(0, len(block), 16)]


def never_seen(number: int) -> list[bytes]:
    return barrier(10**9 + number)[:BATCH]


class Lmdb:
    """One environment, one table per day, ids sorted before they are written, no fsync."""

    name = "LMDB"

    def __init__(self, folder: Path):
        import lmdb

        self.env = lmdb.open(
            str(folder), map_size=1 << 36, max_dbs=DAYS + 1, sync=False, readahead=False
        )
        self.days = [self.env.open_db(b"%d" % day) for day in range(DAYS)]

    def put(self, day: int, entries: dict[bytes, First], through: int) -> None:
        items = [(id_, RAW.pack(*first)) for id_, first in sorted(entries.items())]
        with self.env.begin(write=True) as txn:
            txn.cursor(self.days[day]).putmulti(items)
            txn.put(b"state", b"%d" % through)

    def find(self, ids, days=range(DAYS)):
        found = {}
        wanted = sorted(ids)
        with self.env.begin() as txn:
            for day in days:
                for id_, value in txn.cursor(self.days[day]).getmulti(wanted):
                    found[id_] = First._make(RAW.unpack(value))
        return found

    def close(self) -> None:
        self.env.close()


class Sqlite:
    """One file, one table WITHOUT ROWID per day, ids sorted, a log that is not synced each time."""

    name = "SQLite"

    def __init__(self, folder: Path):
        self.db = sqlite3.connect(folder / "store", isolation_level=None)
        for pragma in ("journal_mode=wal", "synchronous=normal", "cache_size=-65536"):
            self.db.execute(f"pragma {pragma}")
        for day in range(DAYS):
            self.db.execute(
                f"create table if not exists day{day} (id blob primary key, first blob)"
                " without rowid"
            )
        self.db.execute("create table if not exists state (name primary key, through)")

    def put(self, day: int, entries: dict[bytes, First], through: int) -> None:
        items = [(id_, RAW.pack(*first)) for id_, first in sorted(entries.items())]
        self.db.execute("begin")
        self.db.executemany(f"insert or replace into day{day} values (?, ?)", items)
        self.db.execute("insert or replace into state values ('through', ?)", (through,))
        self.db.execute("commit")

    def find(self, ids, days=range(DAYS)):
        found = {}
        wanted = sorted(ids)
        marks = ",".join("?" * len(wanted))
        for day in days:
            for id_, value in self.db.execute(
                f"select id, first from day{day} where id in ({marks})", wanted
            ):
                found[id_] = First._make(RAW.unpack(value))
        return found

    def close(self) -> None:
        self.db.close()


class Rocks:
    """The store of the project: RocksDB, buckets of two days, its own filters."""

    name = "RocksDB (consumers/store.py)"

    def __init__(self, folder: Path):
        self.store = Store.open(folder, WINDOW)

    def put(self, day: int, entries: dict[bytes, First], through: int) -> None:
        self.store.put(entries, through)

    def find(self, ids, days=()):
        return self.store.find(ids)

    def close(self) -> None:
        self.store.close()


class RocksUnfiltered(Rocks):
    """The same without RocksDB's filters."""

    name = "RocksDB without its filters"

    def __init__(self, folder: Path):
        store._BITS_PER_ID, store._BUFFER_FILTER = 0, 0
        super().__init__(folder)


class BitPlanes:
    """A filter in pure Python: a byte per position, a bit of it per day, four positions per id.

    The ids are random, so their own bits are the positions: one probe asks all days at once.
    """

    name = "pure Python, a bytearray with a bit per day"

    def __init__(self, ids: int):
        size = 1 << (ids // DAYS * 9 - 1).bit_length()
        self.table, self.mask = bytearray(size), size - 1
        self.fields = struct.Struct("<4I")

    def add(self, day: int, ids) -> None:
        table, mask, bit = self.table, self.mask, 1 << day
        for a, b, c, d in self.fields.iter_unpack(b"".join(ids)):
            table[a & mask] |= bit
            table[b & mask] |= bit
            table[c & mask] |= bit
            table[d & mask] |= bit

    def maybe(self, ids) -> list[bytes]:
        table, mask = self.table, self.mask
        return [
            id_
            for id_, (a, b, c, d) in zip(ids, self.fields.iter_unpack(b"".join(ids)), strict=True)
            if table[a & mask] & table[b & mask] & table[c & mask] & table[d & mask]
        ]


class Rbloom:
    """The library rbloom: a filter per day."""

    name = "rbloom, one per day"

    def __init__(self, ids: int):
        from rbloom import Bloom

        self.days = [Bloom(max(1, ids // DAYS), 0.01) for _ in range(DAYS)]

    def add(self, day: int, ids) -> None:
        self.days[day].update(ids)

    def maybe(self, ids) -> list[bytes]:
        a, b, c, d, e, f, g, h = self.days
        return [
            i for i in ids
            if i in a or i in b or i in c or i in d or i in e or i in f or i in g or i in h
        ]  # fmt: skip


STORES = {"rocks": Rocks, "unfiltered": RocksUnfiltered, "lmdb": Lmdb, "sqlite": Sqlite}
FILTERS = {"planes": BitPlanes, "rbloom": Rbloom}
NEEDS = {"lmdb": "lmdb", "rbloom": "rbloom"}


class Stopwatch:
    """Wall and CPU microseconds per piece; the CPU time is that of all threads."""

    def __init__(self):
        self.wall = self.cpu = 0.0

    def __enter__(self):
        self.started = time.perf_counter(), time.process_time()

    def __exit__(self, *_):
        self.wall += time.perf_counter() - self.started[0]
        self.cpu += time.process_time() - self.started[1]

    def per(self, pieces: int) -> str:
        return f"{self.wall / pieces * 1e6:.1f} / {self.cpu / pieces * 1e6:.1f}"


def anonymous_mb() -> float:
    """Memory of this process that is no file's: what a limit on a container counts for sure."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise AssertionError("this kernel does not tell RssAnon")


def entries_of(number: int, day: int) -> tuple[dict[bytes, First], int]:
    received_at = NOON + day * DAY
    first = First(3, number, received_at, 1)
    return dict.fromkeys(barrier(number), first), received_at * 1000


def settle() -> None:
    """Let background work end, so that a look-up is not charged for the writes before it."""
    while True:
        before = time.process_time()
        time.sleep(0.5)
        if time.process_time() - before < 0.05:
            return


def measure(kind: str, ids: int, folder: Path) -> dict[str, str]:
    empty = anonymous_mb()
    measured = STORES[kind](folder)
    barriers = max(DAYS, ids // BARRIER)
    ids = barriers * BARRIER
    insert = Stopwatch()
    for number in range(barriers):
        entries, through = entries_of(number, number * DAYS // barriers)
        with insert:
            measured.put(number * DAYS // barriers, entries, through)
    settle()
    measured.close()
    size = sum(path.stat().st_size for path in folder.iterdir())
    opened = Stopwatch()
    with opened:
        measured = STORES[kind](folder)
        measured.find(never_seen(-1))
    seen = never = None
    for _ in range(2):  # the first pass warms the caches
        seen, never = Stopwatch(), Stopwatch()
        step = max(1, barriers // ROUNDS)
        for number in range(ROUNDS):
            wanted = never_seen(number)
            with never:
                assert not measured.find(wanted)
            wanted = [
                id_
                for part in range(5)
                for id_ in barrier((number * step + part * barriers // 5) % barriers)[
                    part * 200 : part * 200 + 200
                ]
            ]
            with seen:
                found = measured.find(wanted)
            assert len(found) == len(set(wanted))
    memory = anonymous_mb() - empty
    measured.close()
    return {
        "insert": insert.per(ids),
        "never seen": never.per(ROUNDS * BATCH),
        "hit": seen.per(ROUNDS * BATCH),
        "bytes per id": f"{size / ids:.0f}",
        "memory, MB": f"{memory:.0f}",
        "open, s": f"{opened.wall:.2f}",
    }


def measure_filter(kind: str, ids: int, _: Path) -> dict[str, str]:
    empty = anonymous_mb()
    barriers = max(DAYS, ids // BARRIER)
    filter_ = FILTERS[kind](barriers * BARRIER)
    add, probe, passed = Stopwatch(), Stopwatch(), 0
    for number in range(barriers):
        ids_ = barrier(number)
        with add:
            filter_.add(number * DAYS // barriers, ids_)
    for number in range(ROUNDS):
        wanted = never_seen(number)
        with probe:
            maybe = filter_.maybe(wanted)
        passed += len(maybe)
        assert len(filter_.maybe(barrier(number % barriers))) == BARRIER
    return {
        "add": add.per(barriers * BARRIER),
        "probe": probe.per(ROUNDS * BATCH),
        "false positives": f"{passed / (ROUNDS * BATCH):.1%}",
        "memory, MB": f"{anonymous_mb() - empty:.0f}",
    }


def rebuild(kind: str, ids: int, folder: Path) -> dict[str, str]:
    """An empty store filled from records of the seen topic that are in memory already."""
    barriers = max(DAYS, ids // BARRIER)
    records = [
        pack(entries_of(number, number * DAYS // barriers)[0], revision=1, partitions=12)[0]
        for number in range(barriers)
    ]
    watch = Stopwatch()
    with watch:
        measured = STORES[kind](folder)
        for number, record in enumerate(records):
            day = number * DAYS // barriers
            measured.put(day, unpack(record, 3).entries, (NOON + day * DAY) * 1000)
        measured.close()
    return {"rebuild, s": f"{watch.wall:.1f}", "rebuild, CPU s": f"{watch.cpu:.1f}"}


WHAT = {"measure": measure, "measure_filter": measure_filter, "rebuild": rebuild}


def apart(what: str, kind: str, ids: int, root: Path) -> dict[str, str]:
    """Measure in a process of its own, in a folder that is gone afterwards."""
    folder = root / kind
    folder.mkdir()
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "tests.bench_dedup", "--one", what, kind, str(ids), str(folder)],
            check=True,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    finally:
        shutil.rmtree(folder)
    return json.loads(ran.stdout)


def table(title: str, rows: dict[str, dict[str, str]]) -> None:
    columns = list(next(iter(rows.values())))
    print(f"\n| {title} | {' | '.join(columns)} |")
    print(f"| --- |{' ---: |' * len(columns)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(row[column] for column in columns)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=lambda text: int(text.replace("_", "")), default=1_000_000)
    parser.add_argument("--rebuild", type=lambda text: int(text.replace("_", "")), default=None)
    parser.add_argument("--folder", type=Path, help="where the stores are written")
    parser.add_argument("--only", nargs="*", default=[*STORES, *FILTERS], help="which of them")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, kind, ids, folder = options.one
        print(json.dumps(WHAT[what](kind, int(ids), Path(folder))))
        return
    here = [
        kind
        for kind in options.only
        if kind not in NEEDS or importlib.util.find_spec(NEEDS[kind]) is not None
    ]
    print(f"{options.ids:,} ids in {DAYS} days, written {BARRIER:,} at a time, asked {BATCH:,}")
    versions = [f"{name} {version(name)}" for name in ("rocksdict", *NEEDS.values()) if name in (
        "rocksdict", *here)]  # fmt: skip
    print(f"{', '.join(versions)}, SQLite {sqlite3.sqlite_version}, {platform.machine()},", end=" ")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; a pair is wall / CPU, us")
    for kind in options.only:
        if kind not in here:
            print(f"{kind} is not installed: left out")
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        stores = {
            STORES[kind].name: apart("measure", kind, options.ids, Path(root))
            | apart("rebuild", kind, options.rebuild or options.ids // 10, Path(root))
            for kind in here
            if kind in STORES
        }
        if stores:
            table("store", stores)
        filters = {
            FILTERS[kind].name: apart("measure_filter", kind, options.ids, Path(root))
            for kind in here
            if kind in FILTERS
        }
        if filters:
            table("filter", filters)


if __name__ == "__main__":
    main()
