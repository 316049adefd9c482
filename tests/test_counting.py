"""Hot counters: exposed as the library would expose them, without its price at each observation."""

import math
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.openmetrics import exposition

from gateway.counting import Counts, Distribution, Distributions, Levels

disable_created_metrics()  # as every process of ours does
BOUNDS = (0.005, 0.5, 1.0, 2.5, 256)


def pages(registry):
    """What a scraper reads in both of its formats."""
    return generate_latest(registry), exposition.generate_latest(registry)


@given(
    st.lists(
        st.one_of(
            st.sampled_from(BOUNDS),
            st.integers(0, 300),
            st.floats(0, 300, allow_nan=False),
        )
    )
)
def test_a_distribution_is_exposed_as_the_librarys_histogram(values):
    """Same buckets, names of bounds, count and sum, also for values that lie on a bound."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    series = Distributions("took_seconds", "Time.", ("a",), BOUNDS, ours).of("x")
    histogram = Histogram("took_seconds", "Time.", ("a",), buckets=BOUNDS, registry=theirs)
    child = histogram.labels("x")
    for value in values:
        series.observe(value)
        child.observe(value)
    assert pages(ours) == pages(theirs)


@given(st.lists(st.floats(0, 300)))
def test_many_observations_at_once_are_the_same_as_one_by_one(values):
    """A batch is counted as its values are; the sum may differ by rounding alone."""
    together, apart = Distribution(BOUNDS), Distribution(BOUNDS)
    together.observe_all(values)
    for value in values:
        apart.observe(value)
    assert together.read()[0] == apart.read()[0]
    assert math.isclose(together.read()[1], apart.read()[1], abs_tol=1e-9)


@pytest.mark.parametrize(("made", "known"), [(Counts, Counter), (Levels, Gauge)])
def test_numbers_are_exposed_as_the_librarys(made, known):
    """Same page for the same additions, a series that was never added to included."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    name = "seen_total" if made is Counts else "seen"
    numbers = made(name, "Seen.", ("a", "b"), ours)
    library = known(name, "Seen.", ("a", "b"), registry=theirs)
    for labels, count in ((("x", "1"), 3), (("y", 'a"\\\n'), 0)):
        numbers.of(*labels).value += count
        library.labels(*labels).inc(count)
    assert pages(ours) == pages(theirs)


def test_a_level_falls_again():
    """What is under way now: up, down, and 0 at rest."""
    registry = CollectorRegistry()
    level = Levels("under_way", "Now.", (), registry).of()
    level.value += 2
    level.value -= 1
    assert registry.get_sample_value("under_way") == 1
    level.value -= 1
    assert registry.get_sample_value("under_way") == 0


def test_the_same_labels_are_the_same_series():
    """After a reload an endpoint goes on counting where it was."""
    registry = CollectorRegistry()
    counts = Counts("seen_total", "Seen.", ("a",), registry)
    seconds = Distributions("took_seconds", "Time.", ("a",), BOUNDS, registry)
    assert counts.of("x") is counts.of("x")
    assert seconds.of("x") is seconds.of("x")
    assert counts.of("x") is not counts.of("y")


@pytest.mark.parametrize("labels", [(), ("x",), ("x", "y", "z")])
def test_labels_are_counted(labels):
    """Too few or too many label values are an error of the program, seen at once."""
    registry = CollectorRegistry()
    for made in (
        Counts("seen_total", "Seen.", ("a", "b"), registry),
        Levels("under_way", "Now.", ("a", "b"), registry),
        Distributions("took_seconds", "Time.", ("a", "b"), BOUNDS, registry),
    ):
        with pytest.raises(ValueError, match="has the labels a, b"):
            made.of(*labels)


@pytest.mark.parametrize("bounds", [(1.0, 0.5), (1.0, 1.0)])
def test_bounds_ascend(bounds):
    """A bound out of order would lose observations."""
    with pytest.raises(ValueError, match="do not ascend"):
        Distributions("took_seconds", "Time.", (), bounds, CollectorRegistry())


@pytest.fixture
def restless():
    """Let threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_a_scrape_while_series_are_born_is_whole(restless):
    """New series come from the loop's thread while the admin's thread collects."""
    registry = CollectorRegistry()
    counts = Counts("seen_total", "Seen.", ("a",), registry)
    seconds = Distributions("took_seconds", "Time.", ("a",), BOUNDS, registry)
    done = threading.Event()

    def grow():
        for number in range(5_000):
            counts.of(str(number)).value += 1
            seconds.of(str(number % 500)).observe(number)
        done.set()

    writer = threading.Thread(target=grow)
    writer.start()
    while not done.is_set():
        for family in registry.collect():
            for sample in family.samples:
                assert sample.value >= 0
    writer.join()
    assert len(next(iter(counts.collect())).samples) == 5_000
