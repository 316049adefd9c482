"""`make observe`: faults on the running pipeline, and whether the alerts tell of them.

The whole pipeline on a real Kafka, a real Prometheus with our rules, a steady load. A quiet
stretch, then the stories; of each it is looked whether the right alert fires and no other, what
the runbook's commands say while it lasts, and that everything clears. What was seen is written to
docs/operations.md, with plots.

The rules are the shipped ones with every time in them divided by TEMPO: nobody can wait for days.
"""

import contextlib
import importlib.util
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from rich.console import Console

from deploy.child import LOCAL, ROOT, CannotRun
from deploy.load import Load
from deploy.monitor import Change, Prometheus, Watch, scrape_config
from deploy.pipeline import PREFIX, Pipeline, alone
from deploy.plots import Bar, Points, Rows, draw
from deploy.rules import text as rules_text
from deploy.stories import COLUMNS, QUIET, STORIES, Scene, Story
from gateway.process import ConfigurationError
from gateway.providers import PROVIDERS

TEMPO = 30
"""An hour of the rules passes in two minutes, a day in 48."""
FOLDER = LOCAL / "observe"
PAGE = ROOT / "docs" / "operations.md"
PLOTS = ROOT / "docs" / "observe"
RUNBOOKS = ROOT / "docs" / "runbooks"

PER_SECOND = 5.0
"""Deliveries of each provider."""
SCRAPE_SECONDS = 1
EXPORTER_SECONDS = 2
CANARY_SECONDS = 2
WARM_UP_SECONDS = 30.0
QUIET_SECONDS = 180.0
BEFORE_SECONDS = 20.0
AFTER_SECONDS = 20.0
CLEAR_SECONDS = 240.0
DRAIN_SECONDS = 900.0
_SHORT_SECONDS = 30.0
"""What took less is told without a plot."""
_TOGETHER_SECONDS = 20.0
_LINES_SHOWN = 16


class Told(msgspec.Struct, kw_only=True):
    """What was seen of a story; times in seconds since the epoch."""

    story: Story | None
    name: str
    title: str
    words: str
    begin: float
    fault: tuple[float, float]
    end: float
    commands: list[tuple[str, str]]
    complaints: list[str]


def observe(environ: Mapping[str, str], only: Sequence[str] = ()) -> int:
    """Tell the stories and write the page; 0 if everything was as it should be."""
    console = Console(highlight=False, width=COLUMNS)
    settings = {
        "GATEWAY_RELOAD_INTERVAL": "1",
        "EXPORTER_INTERVAL": str(EXPORTER_SECONDS),
        "CANARY_INTERVAL": str(CANARY_SECONDS),
    }
    for name in only:
        if name not in {story.name for story in STORIES}:
            known = ", ".join(story.name for story in STORIES)
            raise ConfigurationError(f"there is no story {name}; there are {known}")
    if importlib.util.find_spec("matplotlib") is None:
        raise CannotRun(
            "the plots need matplotlib: start this by `make observe`, which installs it"
        )
    stories = [story for story in STORIES if not only or story.name in only]
    with alone(), Pipeline(environ, console, settings=settings) as pipeline:
        pipeline.start()
        with contextlib.closing(_prometheus(pipeline)) as prometheus:
            prometheus.wait_ready()
            running = pipeline.running
            with Load(PROVIDERS, running.urls, running.secrets, PER_SECOND) as load:
                scene = Scene(pipeline, load, prometheus)
                scene.watch.start()
                told = list(_tell(scene, stories, console))
                scene.watch.stop()
                for one in told:
                    _draw(one, scene)
            complaints = [text for one in told for text in one.complaints]
            if not only:
                PAGE.write_text("\n".join(_page(told, scene.watch)) + "\n", encoding="utf-8")
    for text in complaints:
        console.print(f"not as it should be: {text}", style="red", markup=False)
    if not complaints:
        console.print("every alert fired as it should, and no other", style="bold green")
    return 1 if complaints else 0


def _prometheus(pipeline: Pipeline) -> Prometheus:
    FOLDER.mkdir(parents=True, exist_ok=True)
    rules = FOLDER / "rules.yml"
    rules.write_text(rules_text(tempo=TEMPO), encoding="utf-8")
    data = FOLDER / f"prometheus-{os.getpid()}"
    config = scrape_config(pipeline.scraped, rules, f"{SCRAPE_SECONDS}s")
    return Prometheus(data, config)


def _tell(scene: Scene, stories: Sequence[Story], console: Console) -> Iterator[Told]:
    console.print(f"warming up for {WARM_UP_SECONDS:.0f} s, then a quiet stretch")
    time.sleep(WARM_UP_SECONDS)
    yield _quiet(scene, console)
    for story in stories:
        yield _told(scene, story, console)
    console.print("waiting until every alert is gone")
    begin = time.time()
    cleared = scene.until(lambda: not scene.watch.firing(), DRAIN_SECONDS)
    left = [] if cleared else [f"at the end still fire {', '.join(sorted(scene.watch.firing()))}"]
    yield Told(
        story=None,
        name="clear",
        title="All clear",
        words="The load goes on, nothing is broken, and it is waited until no alert is left: a "
        "ticket of a slow burn looks back over hours, and ends last.",
        begin=begin,
        fault=(begin, begin),
        end=time.time(),
        commands=[],
        complaints=left,
    )


def _quiet(scene: Scene, console: Console) -> Told:
    begin = time.time()
    seen: set[str] = set()

    def noticed() -> bool:
        seen.update(scene.watch.firing())
        return False

    scene.until(noticed, QUIET_SECONDS)
    console.print(f"quiet stretch: {', '.join(sorted(seen)) or 'no alert'}")
    complaints = [f"{name} fired in the quiet stretch" for name in sorted(seen)]
    return Told(
        story=None,
        name="quiet",
        title="A quiet stretch",
        words="Load, and nothing broken.",
        begin=begin,
        fault=(begin, begin),
        end=time.time(),
        commands=[],
        complaints=complaints,
    )


def _told(scene: Scene, story: Story, console: Console) -> Told:
    console.print(f"{story.title}: {story.done}", markup=False)
    # What an earlier story left behind, such as a slow burn, is not this one's.
    left = scene.watch.firing()
    begin = time.time()
    seen: set[str] = set()
    complaints: list[str] = []
    commands: list[tuple[str, str]] = []

    def fires() -> bool:
        seen.update(scene.watch.firing())
        return story.alert in seen

    time.sleep(BEFORE_SECONDS)
    with story.fault(scene):
        broken = time.time()
        fired = scene.until(fires, story.patience)
        if fired:
            console.print(f"  {story.alert} fires after {time.time() - broken:.0f} s")
        else:
            complaints.append(f"{story.name}: {story.alert} did not fire")
        commands = [(line, scene.command(line)) for line in runbook(story)]
        scene.until(lambda: fires() and time.time() - broken >= story.seconds, story.seconds)
    mended = time.time()
    if not any(re.search(story.cause, said) for _, said in commands):
        complaints.append(f"{story.name}: no command of the runbook names the cause")

    def cleared() -> bool:
        fires()
        return story.alert not in scene.watch.firing()

    if fired and scene.until(cleared, CLEAR_SECONDS):
        console.print(f"  clear {time.time() - mended:.0f} s after it was mended")
    elif fired:
        complaints.append(f"{story.name}: {story.alert} did not clear")
    time.sleep(AFTER_SECONDS)
    fires()
    others = seen - left - {story.alert} - story.also
    complaints += [f"{story.name}: {name} fired too" for name in sorted(others)]
    return Told(
        story=story,
        name=story.name,
        title=story.title,
        words=f"{story.done} {story.felt}",
        begin=begin,
        fault=(broken, mended),
        end=time.time(),
        commands=commands,
        complaints=complaints,
    )


_FIRST = re.compile(r"## First three commands\n(.*?)(?=\n## |\Z)", re.DOTALL)
_BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def runbook(story: Story) -> list[str]:
    """Read the first commands of an alert's runbook, with the story's own names in them."""
    section = _FIRST.search((RUNBOOKS / f"{story.alert}.md").read_text(encoding="utf-8"))
    lines = "\n".join(_BLOCK.findall(section[1] if section else "")).splitlines()
    commands = [line for line in lines if line.strip() and not line.startswith("#")]
    for name, value in story.known.items():
        commands = [line.replace(f"<{name}>", value) for line in commands]
    return commands


def _bars(changes: Sequence[Change], begin: float, end: float) -> list[Bar]:
    """Give the alerts' states between two times, for a plot."""
    opened: dict[tuple[str, tuple[tuple[str, str], ...]], Change] = {}
    bars = []

    def shut(change: Change, at: float) -> None:
        if at > begin and change.at < end:
            name = change.alert.name.removeprefix("Verihook")
            subject = change.alert.subject
            bars.append(
                Bar(
                    f"{name} ({subject})" if subject else name,
                    change.alert.severity,
                    change.state == "firing",
                    max(begin, change.at),
                    min(end, at),
                )
            )

    for change in changes:
        key = (change.alert.name, change.alert.labels)
        before = opened.pop(key, None)
        if before is not None:
            shut(before, change.at)
        if change.state != "gone":
            opened[key] = change
    for change in opened.values():
        shut(change, end)
    return bars


def _draw(told: Told, scene: Scene) -> None:
    if told.end - told.begin < _SHORT_SECONDS:
        return
    graphs = []
    for graph in told.story.graphs if told.story else QUIET:
        series: dict[str, Points] = {}
        for named, query in graph.queries.items():
            for labels, points in scene.prometheus.series(query, told.begin, told.end):
                series[named.format(**labels).removeprefix(f"{PREFIX}normalize.")] = points
        graphs.append(Rows(graph.title, graph.unit, series, graph.limit))
    bars = _bars(scene.watch.changes, told.begin, told.end)
    draw(PLOTS / f"{told.name}.png", told.title, graphs, bars, told.fault, (told.begin, told.end))


def _page(told: Sequence[Told], watch: Watch) -> Iterator[str]:
    yield "# Operations: what the alerts tell when something breaks"
    yield ""
    yield (
        "Written by `make observe`, which starts the whole pipeline on a real Kafka and a real "
        "Prometheus with our rules, sends "
        f"{PER_SECOND:g} deliveries a second of each of {len(PROVIDERS)} providers, and breaks "
        f"something. Every time in the rules is divided by {TEMPO} for it: an hour passes in "
        f"{3600 / TEMPO:g} seconds; thresholds are the shipped ones. Times below are real seconds "
        "after the fault began. The pictures are plots of Prometheus' data, not Grafana; the "
        "shaded stretch is the fault."
    )
    for one in told:
        yield from _section(one, watch)


def _section(told: Told, watch: Watch) -> Iterator[str]:
    yield ""
    yield f"## {told.title}"
    yield ""
    yield told.words
    if told.end - told.begin >= _SHORT_SECONDS:
        yield ""
        yield f"![plot](observe/{told.name}.png)"
    yield ""
    changes = [one for one in watch.changes if told.begin <= one.at <= told.end]
    if changes:
        yield "| after | alert | about | state |"
        yield "| --- | --- | --- | --- |"
        for first, alert, state, subjects in sorted(_together(changes)):
            runs = f"[{alert}](runbooks/{alert}.md)"
            yield f"| {first - told.fault[0]:.0f} s | {runs} | {'; '.join(subjects)} | {state} |"
    else:
        yield f"In {told.end - told.begin:.0f} s no alert, not even a pending one."
    story = told.story
    if story is None and changes:
        yield ""
        yield f"After {told.end - told.begin:.0f} s no alert was left."
    if story is not None:
        yield ""
        yield (
            f"The fault lasted {told.fault[1] - told.fault[0]:.0f} s. The first commands of "
            f"[{story.alert}](runbooks/{story.alert}.md), run while it lasted:"
        )
        for line, said in told.commands:
            yield ""
            yield "```"
            yield f"$ {line}"
            yield from shortened(said)
            yield "```"
    for text in told.complaints:
        yield ""
        yield f"**Not as it should be: {text}.**"


def _together(changes: Sequence[Change]) -> Iterator[tuple[float, str, str, list[str]]]:
    """Give changes of one alert to one state as one, with when the first was and all subjects."""
    found: dict[tuple[str, str], tuple[float, list[str]]] = {}
    for one in changes:
        key = (one.alert.name, {"gone": "over"}.get(one.state, one.state))
        if key in found and one.at - found[key][0] > _TOGETHER_SECONDS:
            first, subjects = found.pop(key)
            yield first, *key, subjects
        _, subjects = found.setdefault(key, (one.at, []))
        if one.alert.subject and one.alert.subject not in subjects:
            subjects.append(one.alert.subject)
    for key, (first, subjects) in found.items():
        yield first, *key, subjects


def shortened(text: str) -> Iterator[str]:
    """Give the first lines of an output, each no wider than a page."""
    lines = text.splitlines()
    for line in lines[:_LINES_SHOWN]:
        yield line if len(line) <= COLUMNS else f"{line[: COLUMNS - 3]}..."
    if len(lines) > _LINES_SHOWN:
        yield f"... ({len(lines) - _LINES_SHOWN} more lines)"
