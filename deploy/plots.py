"""Plots of what Prometheus recorded, for docs/operations.md: matplotlib's, not Grafana's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

Points = Sequence[tuple[float, float]]
"""Times (seconds since the epoch) and values."""

_COLOURS = {"critical": "#c4162a", "warning": "#ff9830"}
_PENDING = 0.35


class Rows(msgspec.Struct, frozen=True):
    """One graph: series by their names; `limit` is drawn as a dashed line."""

    title: str
    unit: str
    series: Mapping[str, Points]
    limit: float | None = None


class Bar(msgspec.Struct, frozen=True):
    """An alert's state between two times."""

    name: str
    severity: str
    firing: bool
    begin: float
    end: float


def draw(
    file: Path,
    title: str,
    graphs: Sequence[Rows],
    bars: Sequence[Bar],
    fault: tuple[float, float],
    shown: tuple[float, float],
) -> None:
    """Draw graphs over a time line of alerts; the time of the fault is shaded.

    Times are seconds since the epoch, shown as minutes since `shown` begins.
    """
    import matplotlib as mpl  # noqa: PLC0415 - an extra, for this alone
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.use("Agg")
    begin, end = shown
    names = sorted({bar.name for bar in bars})
    heights = [2.2] * len(graphs) + [0.5 + 0.28 * max(1, len(names))]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    axes = figure.subplots(
        len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False
    )[:, 0]
    for axis, graph in zip(axes, graphs, strict=False):
        for name, points in sorted(graph.series.items()):
            times = [(at - begin) / 60 for at, _ in points]
            axis.plot(times, [value for _, value in points], label=name, linewidth=1.2)
        if graph.limit is not None:
            axis.axhline(graph.limit, linestyle="--", linewidth=0.8, color="grey")
        axis.set_title(graph.title, fontsize=9, loc="left")
        axis.set_ylabel(graph.unit, fontsize=8)
        axis.set_ylim(bottom=0)
        if graph.series:
            axis.legend(fontsize=7, loc="upper left", ncols=3, framealpha=0.6)
    lines = axes[-1]
    for bar in bars:
        lines.barh(
            names.index(bar.name),
            (bar.end - bar.begin) / 60,
            left=(bar.begin - begin) / 60,
            color=_COLOURS.get(bar.severity, "grey"),
            alpha=1.0 if bar.firing else _PENDING,
            height=0.6,
        )
    lines.set_yticks(range(len(names)), names, fontsize=7)
    lines.set_ylim(-0.6, max(1, len(names)) - 0.4)
    lines.set_title(
        "alerts: pale pending, full firing; red pages, orange tickets" if names else "alerts: none",
        fontsize=9,
        loc="left",
    )
    lines.set_xlabel("minutes", fontsize=8)
    for axis in axes:
        axis.set_xlim(0, (end - begin) / 60)
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize=7)
        if fault[1] > fault[0]:
            axis.axvspan((fault[0] - begin) / 60, (fault[1] - begin) / 60, color="grey", alpha=0.15)
    figure.suptitle(f"{title} (a plot of Prometheus' data, not Grafana)", fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=90, metadata={"Software": None})
