"""Lag: exact where it is known, a bound where it is not, absent where nobody knows."""

import threading

from consumers.contract import Span
from consumers.lag import FRESH_SECONDS, Lag, LagTracker

P = ("raw.veriff", 0)
NOON = 1_800_000_000.0
HOUR = 3600.0


def span(first, next_offset, stored_at, last_stored_at=None):
    """Records first..next_offset, stored at these times (seconds)."""
    last = stored_at if last_stored_at is None else last_stored_at
    return {
        P: Span(
            first_offset=first,
            first_timestamp=int(stored_at * 1000),
            next_offset=next_offset,
            last_timestamp=int(last * 1000),
            records=next_offset - first,
        )
    }


def owned(start=100):
    lag = LagTracker()
    lag.assigned({P: start})
    return lag


def test_it_is_absent_until_somebody_knows():
    """A fresh assignment has no lag to tell: not 0, not a guess."""
    assert owned().read(NOON)[P] == Lag(None, None)


def test_it_is_zero_only_while_the_end_was_seen_recently():
    """Caught up is said on the strength of an observation younger than five seconds."""
    lag = owned()
    lag.observed({P: 100}, NOON)
    assert lag.read(NOON + FRESH_SECONDS)[P] == Lag(0, 0.0)
    assert lag.read(NOON + FRESH_SECONDS + 0.1)[P] == Lag(None, None)


def test_it_is_the_age_of_the_oldest_record_not_committed():
    """Seconds count from when Kafka stored the oldest record that no commit covers."""
    lag = owned()
    lag.consumed(span(100, 110, NOON, NOON + 3))
    lag.consumed(span(110, 120, NOON + 4))
    assert lag.read(NOON + 10)[P] == Lag(20, 10.0)
    lag.committed({P: 110})
    assert lag.read(NOON + 10)[P] == Lag(10, 6.0)


def test_a_consumed_record_counts_until_the_commit_is_acknowledged():
    """Having read to the end is not being done: only an acknowledged commit ends the lag."""
    lag = owned()
    lag.consumed(span(100, 101, NOON))
    lag.observed({P: 101}, NOON + 30)
    assert lag.read(NOON + 31)[P] == Lag(1, 31.0)
    lag.committed({P: 101})
    assert lag.read(NOON + 31)[P] == Lag(0, 0.0)


def test_one_record_after_an_idle_hour_is_not_an_hour_late():
    """A record that is not read yet is no older than the last moment known to be caught up."""
    lag = owned()
    lag.consumed(span(100, 101, NOON))
    lag.committed({P: 101})
    lag.observed({P: 101}, NOON + HOUR)
    lag.observed({P: 102}, NOON + HOUR + 2)
    assert lag.read(NOON + HOUR + 3)[P] == Lag(1, 3.0)


def test_a_record_not_read_is_no_older_than_the_last_one_committed():
    """Where no end was seen in between, the time of the last committed record is the bound."""
    lag = owned()
    lag.consumed(span(100, 110, NOON, NOON + 5))
    lag.committed({P: 110})
    lag.observed({P: 500}, NOON + 7)
    assert lag.read(NOON + 8)[P] == Lag(390, 3.0)


def test_a_commit_that_reaches_an_end_seen_before_proves_it_was_caught_up_then():
    """What came after the end that was seen came after it was asked for."""
    lag = owned()
    lag.consumed(span(100, 110, NOON))
    lag.observed({P: 110}, NOON + 8)
    lag.committed({P: 110})
    lag.observed({P: 111}, NOON + 10)
    assert lag.read(NOON + 10)[P].seconds == 2.0


def test_a_stuck_worker_grows_older_even_when_the_probe_is_silent():
    """A pending record stays pending however old the observation of the end is."""
    lag = owned()
    lag.observed({P: 100}, NOON)
    lag.observed({P: 101}, NOON + 2)
    assert lag.read(NOON + HOUR)[P] == Lag(None, HOUR)


def test_a_backlog_found_at_the_start_has_records_but_no_age_until_one_is_read():
    """Nothing says how old an unread record is: its seconds are absent, its number is not."""
    lag = owned()
    lag.observed({P: 150}, NOON)
    assert lag.read(NOON)[P] == Lag(50, None)


def test_neither_a_stale_end_nor_a_fast_broker_clock_makes_it_negative():
    """The end may have been seen before the commit, and the broker's clock may be ahead."""
    lag = owned()
    lag.observed({P: 100}, NOON)
    lag.consumed(span(100, 110, NOON + 9))
    assert lag.read(NOON + 1)[P] == Lag(10, 0.0)
    lag.committed({P: 110})
    assert lag.read(NOON + 1)[P] == Lag(0, 0.0)


def test_it_is_absent_for_partitions_that_are_not_ours():
    """Revoked, lost, closed or never assigned: the lag is somebody else's to tell."""
    for end in (
        lambda lag: lag.revoked([P]),
        lambda lag: lag.lost([P]),
        lambda lag: lag.closed(),
    ):
        lag = owned()
        end(lag)
        lag.consumed(span(100, 101, NOON))
        lag.committed({P: 101})
        lag.observed({P: 101}, NOON)
        assert lag.read(NOON) == {}
        assert lag.owned() == []


def test_coming_back_forgets_what_was_known_before():
    """A partition that returns starts from what is committed, with nothing pending."""
    lag = owned()
    lag.consumed(span(100, 110, NOON))
    lag.revoked([P])
    lag.assigned({P: 105})
    lag.observed({P: 107}, NOON)
    assert lag.read(NOON)[P] == Lag(2, None)


def test_loop_probe_and_scraper_can_use_it_at_once():
    """One writer, one probe and one scraper never see it half changed."""
    lag = owned(0)
    wrong = []

    def scrape():
        for _ in range(2_000):
            found = lag.read(NOON + 1).get(P)
            if found and found.seconds is not None and found.seconds > 1.0:
                wrong.append(found)

    def probe():
        for end in range(2_000):
            lag.observed({P: end}, NOON)

    threads = [threading.Thread(target=scrape), threading.Thread(target=probe)]
    for thread in threads:
        thread.start()
    for offset in range(2_000):
        lag.consumed(span(offset, offset + 1, NOON))
        lag.committed({P: offset + 1})
        if offset % 100 == 0:
            lag.revoked([P])
            lag.assigned({P: offset + 1})
    for thread in threads:
        thread.join()
    lag.observed({P: 2_000}, NOON + 1)
    assert wrong == []
    assert lag.read(NOON + 1)[P] == Lag(0, 0.0)
