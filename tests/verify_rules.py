"""The rules under promtool, Alertmanager's example under amtool: run by `make verify`.

Needs promtool (Debian package prometheus, 2.42 or newer) and amtool (prometheus-alertmanager).
"""

import shutil
import subprocess

import pytest

from deploy.rules import FILE, text

FOLDER = FILE.parent
SCENES = sorted((FOLDER / "tests").glob("*.yml"))
PACKAGES = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}


def run(program, *arguments):
    """Run a program; fail with what it says, or naming the package it is in."""
    if shutil.which(program) is None:
        pytest.fail(f"{program} missing: install the Debian package {PACKAGES[program]}")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_promtool_accepts_the_rules():
    """The file as it is shipped is valid, its templates included."""
    assert "SUCCESS" in run("promtool", "check", "rules", "--lint=all", "--lint-fatal", str(FILE))


@pytest.mark.parametrize("tempo", [12, 30])
def test_promtool_accepts_the_rules_at_another_tempo(tmp_path, tempo):
    """Rehearsed faster they are valid too."""
    file = tmp_path / "rules.yml"
    file.write_text(text(tempo))
    assert "SUCCESS" in run("promtool", "check", "rules", str(file))


@pytest.mark.parametrize("scene", SCENES, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(scene):
    """Every case of the file comes out as it says."""
    assert "SUCCESS" in run("promtool", "test", "rules", str(scene))


def test_amtool_accepts_the_example_for_alertmanager():
    """The file as it is shipped is valid, and has what makes one outage one page."""
    said = run("amtool", "check-config", str(FOLDER / "alertmanager.yml"))
    assert "SUCCESS" in said
    assert "inhibit rules" in said


def test_nothing_of_one_provider_holds_back_what_concerns_all():
    """What inhibits a page is of the same provider or endpoint, or concerns all itself."""
    written = (FOLDER / "alertmanager.yml").read_text().partition("\ninhibit_rules:\n")[2]
    rules = written.split("  - source_matchers: ")[1:]
    assert len(rules) == written.count("target_matchers")
    of_all = ("ExporterMissing", "CanaryMissing", "GatewayMissing")
    for rule in rules:
        source, target = rule.split("target_matchers: ")
        assert not any(name in target for name in of_all), rule
        assert "equal: [" in rule or any(name in source for name in of_all), rule


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=VerihookCanaryMissing", "severity=critical"], "pages"),
        (["alertname=VerihookReloadFailed", "severity=warning"], "tickets"),
    ],
)
def test_pages_and_tickets_go_different_ways(labels, receiver):
    """Critical wakes somebody, warning does not."""
    file = str(FOLDER / "alertmanager.yml")
    said = run("amtool", "config", "routes", "test", f"--config.file={file}", *labels)
    assert said.split()[0] == receiver  # warnings may follow
