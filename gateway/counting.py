"""Counters, levels and histograms of the hot path: plain numbers of one thread, read at the scrape.

prometheus_client takes a lock and walks the bounds at every observation: for each delivery that
was 4 of 50 us. Here a count is an attribute and an observation one bisection; what is exposed is
made by the library at the scrape, from its metric families.

One thread writes, any may collect: a scrape can miss the observation that is being made and is
never torn beyond that.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Count:
    """One series of a counter: add to `value`, never take away; of a level: do both."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class _Numbers(Collector):
    """Series that are plain `Count`s."""

    _family: type[CounterMetricFamily | GaugeMetricFamily]

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self.name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._series: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def of(self, *labels: str) -> Count:
        """Give the series of these label values, which begins at 0 here; hold on to it."""
        if len(labels) != len(self._labels):
            raise ValueError(f"{self.name} has the labels {', '.join(self._labels)}")
        return self._series.setdefault(labels, Count())

    def forget(self, *first: str) -> None:
        """Expose no series any more whose label values begin so; who holds one may count on."""
        for labels in [labels for labels in self._series if labels[: len(first)] == first]:
            del self._series[labels]

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Give every series as the library exposes it."""
        family = self._family(self.name, self._documentation, labels=self._labels)
        # A copy, made in one step: another thread may be adding a series.
        for labels, count in self._series.copy().items():
            family.add_metric(labels, count.value)
        return (family,)


class Counts(_Numbers):
    """A counter whose series are plain `Count`s; the name ends in _total."""

    _family = CounterMetricFamily


class Levels(_Numbers):
    """A gauge whose series are plain `Count`s that rise and fall."""

    _family = GaugeMetricFamily


class Distribution:
    """One series of a histogram; `bounds` are the upper edges of its buckets, ascending."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count one value; a value on a bound belongs below it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def observe_all(self, values: Sequence[float]) -> None:
        """Count many values at once."""
        counts, bounds = self._counts, self._bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self._total += sum(values)

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Give the cumulative buckets as Prometheus names them, and the sum of all values."""
        counts, total = list(self._counts), self._total
        buckets: list[tuple[str, float]] = []
        so_far = 0
        for bound, count in zip((*map(float, self._bounds), float("inf")), counts, strict=True):
            so_far += count
            name = floatToGoString(bound)  # type: ignore[no-untyped-call]  # untyped in 0.26
            buckets.append((name, so_far))
        return buckets, total


class Distributions(Collector):
    """A histogram whose series are plain `Distribution`s."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        if list(bounds) != sorted(set(bounds)):
            raise ValueError(f"the bounds of {name} do not ascend")
        self.name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._series: dict[tuple[str, ...], Distribution] = {}
        registry.register(self)

    def of(self, *labels: str) -> Distribution:
        """Give the series of these label values, which begins empty here; hold on to it."""
        if len(labels) != len(self._labels):
            raise ValueError(f"{self.name} has the labels {', '.join(self._labels)}")
        return self._series.setdefault(labels, Distribution(self._bounds))

    def forget(self, *first: str) -> None:
        """Expose no series any more whose label values begin so; who holds one may count on."""
        for labels in [labels for labels in self._series if labels[: len(first)] == first]:
            del self._series[labels]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Give every series as the library exposes it."""
        family = HistogramMetricFamily(self.name, self._documentation, labels=self._labels)
        for labels, series in self._series.copy().items():
            buckets, total = series.read()
            family.add_metric(labels, buckets, sum_value=total)
        return (family,)
