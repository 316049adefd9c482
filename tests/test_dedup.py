"""The rule that tells duplicates, and what the seen topic holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.dedup import MOST_ENTRIES, First, SeenFormatError, is_duplicate, pack, unpack

DAY = 86_400
WINDOW = 8 * DAY
FIRST = First(partition=3, offset=100, received_at=1_700_000_000, revision=4)


def here(**changes):
    """A later record of the same partition, an hour after the first."""
    later = {"offset": 200, "received_at": FIRST.received_at + 3600}
    return FIRST._replace(**(later | changes))


def test_a_later_record_that_says_the_same_is_a_duplicate():
    """The ordinary case: a retry of the provider."""
    assert is_duplicate(FIRST, here(), WINDOW, replayed=False)


@pytest.mark.parametrize("offset", [100, 99, 0])
def test_the_same_or_an_earlier_coordinate_always_emits_again(offset):
    """After a crash or a reset of the group nothing may be lost, whatever the memory holds."""
    assert not is_duplicate(FIRST, here(offset=offset), WINDOW, replayed=False)
    assert not is_duplicate(FIRST, here(offset=offset), WINDOW, replayed=True)


@pytest.mark.parametrize("offset", [0, 100, 5000])
def test_another_partition_is_another_earlier_record(offset):
    """What was written before the topic grew lies in a partition whose offsets tell nothing."""
    assert is_duplicate(FIRST, here(partition=15, offset=offset), WINDOW, replayed=False)


def test_the_window_is_measured_between_the_receipts():
    """At the end of the window it is a duplicate still, a second later an event again."""
    at_the_end = here(received_at=FIRST.received_at + WINDOW)
    assert is_duplicate(FIRST, at_the_end, WINDOW, replayed=False)
    after = here(received_at=FIRST.received_at + WINDOW + 1)
    assert not is_duplicate(FIRST, after, WINDOW, replayed=False)
    before = here(received_at=FIRST.received_at - 30 * DAY)  # two gateways' clocks
    assert is_duplicate(FIRST, before, WINDOW, replayed=False)


def test_a_replayed_record_repeats_its_event_once_under_a_newer_revision():
    """A replay after the mapping changed is written; its further copies are duplicates."""
    assert not is_duplicate(FIRST, here(revision=5), WINDOW, replayed=True)
    assert is_duplicate(FIRST, here(revision=4), WINDOW, replayed=True)
    assert is_duplicate(FIRST, here(revision=3), WINDOW, replayed=True)
    assert is_duplicate(FIRST, here(revision=5), WINDOW, replayed=False)


ENTRIES = st.dictionaries(
    st.binary(min_size=16, max_size=16),
    st.builds(
        First,
        partition=st.just(7),
        offset=st.integers(0, 2**64 - 1),
        received_at=st.integers(0, 2**32 - 1),
        revision=st.just(9),
    ),
    max_size=30,
)


@given(ENTRIES, st.integers(1, 65_535))
def test_what_is_packed_is_unpacked(entries, partitions):
    """Every entry comes back, with the partition it stands in and the count of its time."""
    found = {}
    for value in pack(entries, revision=9, partitions=partitions):
        read = unpack(value, 7)
        assert read.partitions == partitions
        found |= read.entries
    assert found == entries


def test_a_record_of_the_seen_topic_never_grows_too_large():
    """More entries than fit are several records; in all they are the same."""
    entries = {number.to_bytes(16, "big"): FIRST for number in range(2 * MOST_ENTRIES + 1)}
    values = pack(entries, revision=4, partitions=12)
    assert len(values) == 3
    assert max(map(len, values)) < 300_000
    assert sum(len(unpack(value, 3).entries) for value in values) == len(entries)
    assert pack({}, revision=4, partitions=12) == []


@given(st.binary(max_size=100))
def test_foreign_bytes_are_refused_by_name(value):
    """Whatever stands on the topic is either ours or refused; never an exception of another kind."""
    try:
        unpack(value, 0)
    except SeenFormatError:
        return
    assert value[:2] == b"s1"


def test_no_topic_has_no_partitions():
    """A count of 0 would be divided by."""
    (value,) = pack({b"i" * 16: FIRST}, revision=4, partitions=12)
    with pytest.raises(SeenFormatError):
        unpack(value[:2] + bytes(2) + value[4:], 3)


@pytest.mark.parametrize("cut", [0, 1, 7, 9, 35])
def test_a_cut_record_is_refused(cut):
    """Half an entry is no entry."""
    (value,) = pack({b"i" * 16: FIRST}, revision=4, partitions=12)
    with pytest.raises(SeenFormatError):
        unpack(value[:cut], 3)
