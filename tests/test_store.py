"""The local store of seen ids: what it promises, in trouble too. With the real RocksDB."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import Options, Rdict

from consumers import store as module
from consumers.dedup import First
from consumers.store import DAY, MemoryStore, Store, StoreCorrupt, StoreHeld, StoreUnusable, wipe

WEEK = 7 * DAY
NOON = 1_700_000_000 // DAY * DAY + DAY // 2
PUTS, QUARTER = 26, DAY // 4

SETUP = f"sys.path[:0] = {sys.path!r}; sys.dont_write_bytecode = True"


def ids(count: int, seed: int = 0) -> list[bytes]:
    block = random.Random(seed).randbytes(16 * count)
    return [block[start : start + 16] for start in range(0, len(block), 16)]


def entries(number: int, count: int = 200) -> dict[bytes, First]:
    """What the test's put of this number holds: four puts a day."""
    received_at = NOON + number * QUARTER
    return {
        id_: First(3, number * 1_000 + place, received_at, 7)
        for place, id_ in enumerate(ids(count, number))
    }


def through(number: int) -> int:
    return (NOON + number * QUARTER) * 1000


def fill(store: Store | MemoryStore, puts: int = PUTS) -> None:
    for number in range(puts):
        store.put(entries(number), through(number))


def puts_in(store: Store) -> int:
    """How many puts the store says it holds, proven by asking for every entry of every put."""
    count = 0 if store.through is None else (store.through // 1000 - NOON) // QUARTER + 1
    for number in range(PUTS + 1):
        wanted = entries(number)
        assert store.find(list(wanted)) == (wanted if number < count else {}), (number, count)
    return count


def child(code: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {SETUP}\n{code}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def often(monkeypatch) -> None:
    """Flush every few puts, so that a small test meets what a large store meets."""
    monkeypatch.setattr(module, "_FLUSH_BYTES", 30_000)


# What it keeps


def test_a_fresh_store_knows_nothing(folder):
    """A folder that is not there yet becomes a store that holds nothing, not even a time."""
    store = Store.open(folder, WEEK)
    assert (store.find(ids(10)), store.through, store.count) == ({}, None, 0)
    store.close()
    store = Store.open(folder, WEEK)
    assert store.through is None
    store.close()


def test_what_was_put_is_found_again(folder, often):
    """Entries and their time are there at once, and after the store was closed and opened."""
    store = Store.open(folder, WEEK)
    fill(store)
    assert puts_in(store) == PUTS
    store.close()
    store = Store.open(folder, WEEK)
    assert puts_in(store) == PUTS
    assert PUTS * 200 <= store.count < PUTS * 210
    store.close()


def test_a_put_overwrites_whatever_day_it_is_of(folder):
    """The last put of an id counts, in a newer bucket and in an older one, even in one put."""
    store = Store.open(folder, WEEK)
    (id_, other) = ids(2)
    later, earlier = First(1, 5, NOON + 5 * DAY, 1), First(2, 6, NOON, 2)
    now = (NOON + 5 * DAY) * 1000
    for first in (earlier, later, earlier, later):
        store.put({id_: first, other: later}, now)
        assert store.find([id_, other, id_]) == {id_: first, other: later}
    store.close()


@settings(max_examples=15)
@given(data=st.data())
def test_both_stores_answer_as_a_dictionary_would(data):
    """Both stores give the last put of an id while it is in the window, and not much longer."""
    window = data.draw(st.sampled_from([3600, 2 * DAY, WEEK, 30 * DAY]), "window")
    names = ids(12)
    truth: dict[bytes, First] = {}
    times: dict[bytes, int] = {}
    newest = 0
    with tempfile.TemporaryDirectory() as root:
        memory, disk = MemoryStore(window), Store.open(Path(root), window)
        try:
            for _ in range(data.draw(st.integers(1, 8), "puts")):
                put = data.draw(
                    st.dictionaries(
                        st.sampled_from(names),
                        st.builds(
                            First,
                            st.integers(0, 65_535),
                            st.integers(0, 2**64 - 1),
                            st.integers(0, 60).map(lambda days: NOON + days * DAY // 2),
                            st.integers(0, 65_535),
                        ),
                    ),
                    "entries",
                )
                seconds = NOON + data.draw(st.integers(0, 40), "through") * DAY
                for store in (memory, disk):
                    store.put(put, seconds * 1000)
                truth.update(put)
                times.update({id_: min(put[id_].received_at, seconds) for id_ in put})
                newest = max([newest, *times.values()])
                assert disk.find(names) == memory.find(names)
                assert disk.through == memory.through == seconds * 1000
                for id_, first in memory.find(names).items():
                    assert first == truth[id_]
                    assert newest - times[id_] < window + DAY + 7 * DAY
                for id_ in truth:
                    if newest - times[id_] <= window + DAY:
                        assert id_ in memory.find([id_])
                if data.draw(st.booleans(), "reopen"):
                    disk.close()
                    disk = Store.open(Path(root), window)
                    assert disk.find(names) == memory.find(names)
        finally:
            disk.close()


def test_whole_buckets_expire(folder, often):
    """What is older than window, a day and a bucket is gone, from the disk as well."""
    sizes, last = [], 0
    for days in (14, 30):
        store = Store.open(folder, WEEK)
        for number in range(last, 4 * days):
            store.put(entries(number, 500), through(number))
            assert len(store._buckets) <= 6
        last = 4 * days - 1
        store.close()
        sizes.append(sum(path.stat().st_size for path in folder.glob("*.sst")))
    store = Store.open(folder, WEEK)
    for number in range(last + 1):
        found = store.find(ids(500, number))
        if (last - number) * QUARTER <= WEEK + DAY:
            assert len(found) == 500
        if (last - number) * QUARTER > WEEK + DAY + store._calendar.span:
            assert not found
    assert sizes[1] < 1.5 * sizes[0]
    store.close()


def test_an_id_that_comes_too_late_is_not_kept(folder):
    """An entry older than all kept buckets changes nothing but the time."""
    store = Store.open(folder, WEEK)
    store.put(entries(100), through(100))
    store.put(entries(0), through(101))
    assert (store.find(list(entries(0))), store.through) == ({}, through(101))
    assert store.find(list(entries(100))) == entries(100)
    store.close()


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_a_clock_that_is_years_ahead_expires_nothing(folder, kind):
    """A received_at ahead of the broker's time counts as that time, and is found all the same."""
    store = Store.open(folder, WEEK) if kind == "disk" else MemoryStore(WEEK)
    store.put(entries(0), through(0))
    (wrong,) = ids(1, 99)
    store.put({wrong: First(1, 1, 2**32 - 1, 1)}, through(1))
    store.put(entries(2), through(2))
    assert len(store.find([wrong, *entries(0), *entries(2)])) == 401
    store.close()


def test_an_id_never_seen_costs_no_read(folder, often):
    """The filters answer: of 1,000 ids never seen, hardly one makes the store read a block."""
    store = Store.open(folder, WEEK)
    for number in range(PUTS):
        store.put(entries(number, 4_000), through(number))
    store.close()
    store = Store.open(folder, WEEK)
    store.find(ids(10, 10**6))

    def reads() -> int:
        return int(Path("/proc/self/io").read_text().split("syscr:")[1].split()[0])

    before = reads()
    assert not store.find(ids(1_000, 10**7))
    never_seen, before = reads() - before, reads()
    assert len(store.find([id_ for number in range(PUTS) for id_ in ids(40, number)])) == PUTS * 40
    hits = reads() - before
    assert never_seen < 150 < hits, (never_seen, hits)
    store.close()


# Crashes and power losses


def logs_in(folder: Path) -> list[Path]:
    """The logs that hold anything; RocksDB may delete one while we look."""
    logs = []
    for path in folder.glob("*.log"):
        with suppress(FileNotFoundError):
            if path.stat().st_size:
                logs.append(path)
    return logs


WRITER = """
import resource
from pathlib import Path
from consumers import store as module
from consumers.store import Store
from tests.test_store import WEEK, entries, through
module._FLUSH_BYTES = int(sys.argv[2])
store = Store.open(Path(sys.argv[1]), WEEK)
print("open", flush=True)
for number in range(int(sys.argv[3])):
    store.put(entries(number), through(number))
    print(number, flush=True)
"""


@pytest.mark.parametrize("flush_bytes", [1, 30_000, 10**7])
def test_kill_9_leaves_the_last_put_or_the_one_before(folder, flush_bytes):
    """Killed at any moment, the store has every finished put, and the one it was in whole or not."""
    rng = random.Random(flush_bytes)
    for _ in range(4):
        code = f"import sys; {SETUP}\n{WRITER}"
        arguments = [str(folder), str(flush_bytes), str(PUTS)]
        with subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
        ) as writer:
            finished = 0
            last = rng.randrange(PUTS)
            for line in writer.stdout:
                finished += line != "open\n"
                if finished >= last:
                    break
            # spends a moment of unknown length, so that the kill meets it anywhere in a put
            sum(range(rng.randrange(300_000)))
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                finished += line != "open\n"
        store = Store.open(folder, WEEK)
        assert puts_in(store) in {finished, finished + 1}
        store.close()
        wipe(folder)


def test_kill_9_while_a_store_is_made_leaves_a_fresh_one(folder):
    """Killed at any moment of its making, the folder opens, or is told to be corrupt."""
    code = f"import sys; {SETUP}\nprint('x', flush=True)\n{WRITER}"
    rng = random.Random(3)
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(folder), "1", "0"], stdout=subprocess.PIPE, text=True
        ) as writer:
            for _ in range(rng.randrange(2) + 1):
                writer.stdout.readline()
            sum(range(rng.randrange(1_000_000)))
            writer.send_signal(signal.SIGKILL)
        try:
            store = Store.open(folder, WEEK)
        except StoreCorrupt:
            wipe(folder)
            continue
        assert puts_in(store) == 0
        store.close()


def test_the_store_writes_one_log_at_a_time(folder):
    """After any put at most one log holds anything: of two, the older could lose its end unseen."""
    store = Store.open(folder, WEEK)
    for number in range(PUTS):
        store.put(entries(number, 10_000), through(number))
        assert len(logs_in(folder)) <= 1
    assert len(list(folder.glob("*.sst"))) > 2
    store.close()


def test_a_log_that_lost_its_end_is_an_earlier_state(folder, often, tmp_path):
    """Whatever a power loss leaves of the log, the store opens as it was after an earlier put."""
    child(
        WRITER + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        str(folder),
        "30000",
        str(PUTS),
    )
    (log,) = logs_in(folder)
    size = log.stat().st_size
    held = set()
    for left in [None, *range(0, size, size // 12), size]:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        if left is None:
            (copy / log.name).unlink()
        else:
            os.truncate(copy / log.name, left)
        store = Store.open(copy, WEEK)
        held.add(puts_in(store))
        store.put(entries(max(held)), through(max(held)))
        store.close()
        shutil.rmtree(copy)
    assert max(held) == PUTS > min(held)


# Corruption and foreign folders


def test_a_list_of_files_that_lost_its_end_is_told(folder, tmp_path):
    """A cut MANIFEST names older files: they are an earlier state, or do not fit, and that is told."""
    child(
        WRITER + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        *(str(folder), "30000", str(PUTS)),
    )
    (manifest,) = folder.glob("MANIFEST-*")
    size, told = manifest.stat().st_size, 0
    for left in range(0, size, size // 25):
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        os.truncate(copy / manifest.name, left)
        try:
            store = Store.open(copy, WEEK)
        except StoreCorrupt:
            told += 1
        else:
            puts_in(store)
            store.close()
        shutil.rmtree(copy)
    assert told > 15


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "crashed"])
def test_garbled_cut_and_missing_files_are_told(folder, closed, tmp_path):
    """Harm to any file leaves the right answers, an earlier state, or a store that says so."""
    end = "store.close()" if closed else "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    child(WRITER + end, str(folder), "30000", str(PUTS))
    rng = random.Random(11)
    told = 0
    for path in sorted(folder.iterdir()):
        for harm in ("gone", "cut", "bit", "block"):
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            victim = copy / path.name
            content = bytearray(victim.read_bytes())
            at = rng.randrange(len(content) or 1)
            if harm == "gone":
                victim.unlink()
            elif harm == "cut":
                victim.write_bytes(content[:at])
            elif content:
                content[at] ^= 1 << rng.randrange(8)
                if harm == "block":
                    content[at : at + 64] = rng.randbytes(64)
                victim.write_bytes(content)
            try:
                store = Store.open(copy, WEEK)
                try:
                    puts_in(store)
                finally:
                    store.close()
            except StoreCorrupt:
                told += 1
                wipe(copy)
                store = Store.open(copy, WEEK)
                store.put(entries(0), through(0))
                assert puts_in(store) == 1
                store.close()
            shutil.rmtree(copy)
    assert told > 15


def test_another_window_is_corrupt(folder):
    """A store made for a shorter window lacks what a longer one asks for: it is rebuilt."""
    Store.open(folder, WEEK).close()
    with pytest.raises(StoreCorrupt, match="made for a window of 604800 seconds"):
        Store.open(folder, 2 * WEEK)
    Store.open(folder, WEEK).close()


@pytest.mark.parametrize("key", [b"other", b"state"])
def test_another_programs_rocksdb_is_corrupt(folder, key):
    """A RocksDB of another format is not read."""
    db = Rdict(str(folder), Options(raw_mode=True))
    db.create_column_family("default2", Options(raw_mode=True)).close()
    db[key] = b"r0 something else"
    db.close()
    with pytest.raises(StoreCorrupt, match="another format"):
        Store.open(folder, WEEK)
    wipe(folder)
    Store.open(folder, WEEK).close()


def test_a_foreign_folder_is_neither_used_nor_wiped(folder):
    """A folder with any other file in it is somebody else's: both calls name the file."""
    folder.mkdir()
    (folder / "000001.sst").write_text("")
    (folder / "thesis.txt").write_text("ten years")
    for call in (lambda: Store.open(folder, WEEK), lambda: wipe(folder)):
        with pytest.raises(StoreUnusable, match=r"'thesis\.txt'.*name another folder"):
            call()
    assert (folder / "thesis.txt").read_text() == "ten years"
    assert (folder / "000001.sst").exists()


def test_wiping_what_is_not_there_does_nothing(folder):
    """Nothing to wipe is no trouble."""
    wipe(folder)


# Folders that cannot be used

ONE_PUT = """
from pathlib import Path
from consumers.store import Store, StoreUnusable, StoreHeld, wipe
from tests.test_store import WEEK, entries, through
folder = Path(sys.argv[1])
def tell(call):
    try:
        return call()
    except (StoreUnusable, StoreHeld) as error:
        print(type(error).__name__, error)
"""


def test_a_store_is_held_by_one_process_at_a_time(folder):
    """A second process, and a second store in this one, are told, and may not wipe either."""
    store = Store.open(folder, WEEK)
    with pytest.raises(StoreHeld, match="is open in another process"):
        Store.open(folder, WEEK)
    told = child(
        ONE_PUT + "tell(lambda: Store.open(folder, WEEK)); tell(lambda: wipe(folder))", str(folder)
    )
    assert told.stdout.count("StoreHeld") == 2, told
    store.put(entries(0), through(0))
    assert puts_in(store) == 1
    store.close()
    Store.open(folder, WEEK).close()


def test_a_closed_store_says_so(folder):
    """A closed store refuses every call but close."""
    store = Store.open(folder, WEEK)
    store.close()
    store.close()
    for call in (
        lambda: store.find(ids(1)),
        lambda: store.put({}, 0),
        lambda: store.count,
    ):
        with pytest.raises(StoreUnusable, match="is closed: open it again"):
            call()


FILL = """
import os, resource, signal
from consumers import store as module
module._FLUSH_BYTES = 30_000
store = Store.open(folder, WEEK)
if sys.argv[2] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
done = 0
def on():
    global done
    for number in range(26):
        store.put(entries(number), through(number))
        done = number + 1
tell(on)
print(done)
tell(lambda: store.find([b"0" * 16]))
store.close()
"""


@pytest.mark.parametrize("limit", [5_000, 20_000, 25_000, 33_000])
def test_a_file_that_may_not_grow_stops_the_store_unharmed(folder, limit):
    """Refused at any file, the store says what to do, and opens later with every finished put."""
    told = child(ONE_PUT + FILL, str(folder), str(limit)).stdout.splitlines()
    assert told[0].startswith("StoreUnusable the store's folder"), told
    assert "raise this process's limit on the size of a file" in told[0]
    assert told[2].startswith("StoreUnusable")
    store = Store.open(folder, WEEK)
    assert puts_in(store) in {int(told[1]), int(told[1]) + 1}
    store.close()


def mounted(code: str, mount: str, folder: Path) -> list[str]:
    """Run code where `mount` was done for it alone; skip where that is not allowed."""
    ran = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-ec", f'{mount}\nexec "$@"', "-"),
            *(sys.executable, "-c", f"import sys; {SETUP}\n{ONE_PUT}{code}", str(folder), "0"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "unshare:" in ran.stderr or "mount:" in ran.stderr:
        pytest.skip("needs the right to mount")
    assert not ran.stderr, ran.stderr
    return ran.stdout.splitlines()


def test_a_full_disk_stops_the_store_unharmed(folder):
    """A full disk is told in one sentence; with space again the store opens with every put."""
    folder.mkdir()
    told = mounted(
        FILL
        + """
import subprocess
subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
from tests.test_store import puts_in
store = Store.open(folder, WEEK)
print(puts_in(store) - done)
store.close()
""",
        f"mount -t tmpfs -o size=300k none {folder}",
        folder,
    )
    assert told[0] == f"StoreUnusable the store's folder {folder} is full: free space there"
    assert 0 < int(told[1]) < PUTS
    assert told[3] in {"0", "1"}, told


def test_a_read_only_folder_is_told(folder):
    """A read-only disk is told in one sentence, for a new store and for one that stands."""
    folder.mkdir()
    sentence = f"StoreUnusable the store's folder {folder} is read-only: mount it for writing"
    mount = f"mount --bind {folder} {folder}; mount -o remount,ro,bind {folder}"
    code = "tell(lambda: Store.open(folder, WEEK)); tell(lambda: wipe(folder))"
    assert mounted(code, mount, folder)[0] == sentence
    store = Store.open(folder, WEEK)
    fill(store, 1)
    store.close()
    assert mounted(code, mount, folder) == [sentence, sentence]


def test_a_folder_of_another_user_is_told(folder):
    """A folder that this user may not write is told in one sentence."""
    Store.open(folder, WEEK).close()
    folder.chmod(0o500)
    code = (
        "import os\nif os.getuid() == 0: os.setuid(65534)\ntell(lambda: Store.open(folder, WEEK))"
    )
    told = child(ONE_PUT + code, str(folder))
    folder.chmod(0o700)
    assert "may not be written by this user: give it the folder" in told.stdout, told


def test_a_folder_under_a_file_is_told(folder):
    """A path through a file is told in one sentence."""
    folder.write_text("")
    with pytest.raises(StoreUnusable, match="name another folder"):
        Store.open(folder / "below", WEEK)
