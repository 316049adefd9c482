"""What `make observe` tells: its stories name real alerts and runbooks, and the page is whole."""

import http.client
import re
import threading

import pytest

from deploy import monitor
from deploy.child import CannotRun
from deploy.observe import PAGE, PLOTS, runbook, shortened
from deploy.stories import QUIET, STORIES
from tests.deployment import ROOT
from tests.test_rules import ALERTS


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_a_story_names_an_alert_and_runs_its_runbook(story):
    """Three commands or more, with nothing left to fill in."""
    assert {story.alert, *story.also} <= set(ALERTS)
    commands = runbook(story)
    assert len(commands) >= 3
    for command in commands:
        assert not re.search(r"<[a-z-]+>", command), command


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_the_page_tells_the_story(story):
    """With its picture, the alert that fired, and nothing that was not as it should be."""
    page = PAGE.read_text()
    told = page.partition(f"## {story.title}\n")[2].partition("\n## ")[0]
    assert f"](observe/{story.name}.png)" in told
    assert (PLOTS / f"{story.name}.png").stat().st_size > 10_000
    assert f"[{story.alert}](runbooks/{story.alert}.md)" in told
    assert "| firing |" in told
    assert re.search(story.cause, told)


def test_the_page_holds_no_complaint_and_no_path_of_a_machine():
    """It was written by a run in which everything was as it should be."""
    page = PAGE.read_text()
    assert "Not as it should be" not in page
    assert str(ROOT) not in page
    assert "](observe/quiet.png)" in page


def test_graphs_ask_for_something():
    """Each graph has a query, and names each series by it or by one of its labels."""
    for graph in (*QUIET, *(graph for story in STORIES for graph in story.graphs)):
        assert graph.queries
        for name, query in graph.queries.items():
            for label in re.findall(r"\{(\w+)\}", name):
                assert re.search(rf"by \([^)]*\b{label}\b", query), (graph.title, label)


class Told:
    """A Prometheus that answers what it is given, then fails."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = threading.Event()

    def alerts(self):
        if not self.answers:
            self.asked.set()
            raise http.client.IncompleteRead(b"")
        return self.answers.pop(0)


def test_every_change_of_an_alert_is_noted_and_silence_is_no_quiet(monkeypatch):
    """Pending, firing, gone; an answer cut short ends nothing, and a long silence is told."""
    monkeypatch.setattr(monitor, "_POLL_SECONDS", 0.01)
    labels = (("provider", "veriff"),)
    pending, firing = (
        monitor.Alert("VerihookX", labels, state, "critical") for state in ("pending", "firing")
    )
    told = Told([pending], [firing], [firing], [])
    watch = monitor.Watch(told)
    watch.start()
    assert told.asked.wait(30)
    assert [one.state for one in watch.changes] == ["pending", "firing", "gone"]
    assert watch.firing() == set()
    monkeypatch.setattr(monitor, "_SILENT_SECONDS", -1.0)
    with pytest.raises(CannotRun, match="no longer tells its alerts"):
        watch.firing()
    watch.stop()
    assert not watch.is_alive()


def test_long_outputs_are_shortened():
    """The first lines, no wider than the page, and how many more there were."""
    lines = list(shortened("\n".join(["x" * 200] * 20)))
    assert len(lines) == 17
    assert lines[0].endswith("...")
    assert lines[-1] == "... (4 more lines)"
