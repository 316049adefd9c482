"""The stall: what share of what fails stops a consumer, and that a restart forgets nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.normalizers import NORMALIZERS
from consumers.passport import MOST_BYTES, Passport, read, written
from consumers.records import OTHER
from consumers.stall import MINUTES, Window, stalled

MINUTE = 60_000
NOW = 1_700_000_040_000
"""The beginning of a minute."""


def window(*notes):
    """A window of notes: type, records, failures, minutes ago."""
    made = Window()
    for native_type, records, failures, ago in notes:
        made.note(native_type, records, failures, NOW - ago * MINUTE)
    return made


@pytest.mark.parametrize(
    ("records", "failures", "stalls"),
    [(100, 50, True), (100, 49, False), (99, 99, False), (101, 50, False), (1_000_000, 500_000, True)],
)  # fmt: skip
def test_half_of_a_hundred_stalls(records, failures, stalls):
    """At half or more failures of at least a hundred records of a native type, and not before."""
    assert stalled([window(("a", records, failures, 0))]) == ("a" if stalls else None)


def test_types_do_not_dilute_each_other():
    """A rare type that always fails stalls beside a frequent one that never does."""
    assert stalled([window(("good", 100_000, 0, 0), ("bad", 100, 100, 0))]) == "bad"
    assert stalled([window(("a", 60, 60, 0), ("b", 60, 60, 0))]) is None


def test_partitions_are_summed():
    """A hundred records over all partitions are a hundred records."""
    parts = [window(("a", 10, 5, 0)) for _ in range(10)]
    assert stalled(parts) == "a"
    assert stalled(parts[:-1]) is None


def test_of_several_types_the_one_that_fails_most_is_named():
    """The answer does not depend on the order of anything."""
    notes = [("a", 100, 90, 0), ("b", 200, 190, 0), ("c", 200, 190, 0)]
    assert stalled([window(*notes)]) == stalled([window(*reversed(notes))]) == "c"


def test_five_minutes_count_and_the_sixth_does_not():
    """What failed five minutes ago is over, by Kafka's time."""
    assert stalled([window(("a", 100, 100, MINUTES - 1), ("b", 1, 0, 0))]) == "a"
    assert stalled([window(("a", 100, 100, MINUTES), ("b", 1, 0, 0))]) is None
    assert stalled([window(("a", 100, 100, MINUTES)), window(("b", 1, 0, 0))]) is None


def test_success_in_the_meantime_ends_it():
    """Enough records that succeed bring the share below a half."""
    assert stalled([window(("a", 100, 100, 2), ("a", 100, 0, 0))]) == "a"
    assert stalled([window(("a", 100, 100, 2), ("a", 101, 0, 0))]) is None


def test_time_that_goes_back_a_little_is_counted():
    """A record of a minute before the newest belongs to that minute; one of long ago to none."""
    late = window(("a", 1, 0, 0), ("a", 99, 99, 3))
    assert stalled([late]) == "a"
    too_late = window(("a", 1, 0, 0), ("a", 99, 99, 5))
    assert stalled([too_late]) is None
    assert too_late.recent() == {"a": [(NOW // MINUTE, 1, 0)]}


def test_nothing_is_no_stall():
    """No partition, no record, no failure."""
    assert stalled([]) is None
    assert stalled([Window()]) is None
    assert stalled([window(("a", 1_000, 0, 0))]) is None


counts = st.integers(0, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))
notes = st.tuples(
    st.integers(0, 2), st.sampled_from(["a", "b", OTHER]), counts, st.integers(0, 12 * MINUTE)
)


@given(st.lists(st.tuples(notes, st.booleans()), max_size=40))
def test_a_restart_forgets_nothing(steps):
    """Windows restored from their passports at any time decide as ones never interrupted."""
    uninterrupted = [Window() for _ in range(3)]
    restored = [Window() for _ in range(3)]
    for (partition, native_type, (records, failures), at), restarts in steps:
        if restarts:
            texts = [
                written(
                    Passport(
                        mapping_revision=1, last_record_at=NOW + 12 * MINUTE, recent=one.recent()
                    )
                )
                for one in restored
            ]
            restored = [Window(read(text).recent) for text in texts]
        for windows in (uninterrupted, restored):
            windows[partition].note(native_type, records, failures, NOW + at)
        assert [one.recent() for one in restored] == [one.recent() for one in uninterrupted]
        assert stalled(restored) == stalled(uninterrupted)


@given(st.lists(notes, max_size=60))
def test_a_window_is_the_plain_sum_of_its_minutes(given_notes):
    """Decided as by looking at every note again: the cheap way gives the same answer."""
    windows = [Window() for _ in range(3)]
    newest, kept = [None] * 3, []
    for partition, native_type, (records, failures), at in given_notes:
        windows[partition].note(native_type, records, failures, NOW + at)
        minute = (NOW + at) // MINUTE
        newest[partition] = max(newest[partition] or minute, minute)
        if minute > newest[partition] - MINUTES:  # else it came too late
            kept.append((native_type, minute, records, failures))
    present = max((minute for minute in newest if minute is not None), default=0)
    failing = []
    for name in ("a", "b", OTHER):
        of = [
            (r, f) for found, minute, r, f in kept if found == name and minute > present - MINUTES
        ]
        records, failures = sum(r for r, _ in of), sum(f for _, f in of)
        if records >= 100 and 2 * failures >= records:
            failing.append((failures, name))
    assert stalled(windows) == (max(failing)[1] if failing else None)


@pytest.mark.parametrize("provider", NORMALIZERS)
def test_every_type_of_a_provider_fits_into_a_passport(provider):
    """Five full minutes of every native type travel with an offset, and nothing is left out."""
    types = {*NORMALIZERS[provider].NATIVE_TYPES, OTHER}
    full = window(*[(name, 9_999_999, 9_999_999, ago) for name in types for ago in range(MINUTES)])
    passport = Passport(mapping_revision=9999, last_record_at=NOW, recent=full.recent())
    text = written(passport)
    assert len(text) <= MOST_BYTES
    assert read(text).recent == full.recent()
    assert set(full.recent()) == types


def test_a_window_of_more_types_than_a_passport_holds_keeps_those_that_fail():
    """Whatever is noted, the passport is not given up: the types that fail least are left out."""
    numbers = [*range(30, 60), *range(30)]
    many = window(*[(f"type-{n}", 100, n, ago) for n in numbers for ago in range(MINUTES)])
    passport = Passport(mapping_revision=1, last_record_at=NOW, recent=many.recent())
    found = read(written(passport)).recent
    assert 20 < len(found) < 60
    assert set(found) == {f"type-{n}" for n in range(60 - len(found), 60)}


def test_a_window_does_not_grow_with_time():
    """Types that are not seen any more are forgotten."""
    long = Window()
    for minute in range(10_000):
        long.note(f"type-{minute}", 1, 1, NOW + minute * MINUTE)
    assert set(long.recent()) == {f"type-{minute}" for minute in range(9_995, 10_000)}
    assert long.failures == MINUTES
