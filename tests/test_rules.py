"""The rules: the file is what Python builds, and holds to what metrics, runbooks and people need."""

import re
from collections.abc import Iterator

import pytest

from consumers.normalizers import NORMALIZERS
from deploy.metrics_page import closed_sets, processes
from deploy.rules import FILE, WINDOWS, Rule, milliseconds, rules, shortened, text
from tests.deployment import ROOT

RULES: list[Rule] = [rule for group in rules() for rule in group.rules]
ALERTS: dict[str, Rule] = {rule.alert: rule for rule in RULES if rule.alert}
RECORDED: dict[str, Rule] = {rule.record: rule for rule in RULES if rule.record}
RUNBOOKS = ROOT / "docs" / "runbooks"
TESTS = FILE.parent / "tests"
SCRAPE_MILLISECONDS = 15_000
HEADINGS = [
    "What users feel",
    "First three commands",
    "Causes, most likely first",
    "How to know that it is over",
]
EXPOSED = {
    name: {*metric.labels, *(["le"] if name.endswith("_bucket") else [])}
    for metrics in processes().values()
    for metric in metrics
    for name in metric.exposed
}
SELECTOR = re.compile(r"\b(verihook_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
RANGE = re.compile(r"\b(?:rate|increase)\(\s*verihook_\w+(?:\{[^}]*\})?\[(\w+)\]")
TEMPLATED = re.compile(r"\{\{ \$labels\.(\w+) \}\}")


def ours(expr: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Give every selector of a metric of ours in an expression, with its matchers."""
    for found in SELECTOR.finditer(re.sub(r"\b\w+:verihook_\w+:\w+", "", expr)):
        yield found[1], MATCHER.findall(found[2] or "")


def test_the_file_is_what_python_builds():
    """`python -m deploy.rules` writes it; nobody edits it."""
    assert FILE.read_text(encoding="utf-8") == text()


def test_recording_rules_and_alerts_are_those_that_others_rely_on():
    """Dashboards, runbooks and Alertmanager name them."""
    ratios = {
        f"provider:verihook_{objective}_errors:ratio_rate{window}"
        for objective in ("availability", "acknowledgement", "freshness")
        for window in WINDOWS
    }
    counts = {f"provider:verihook_answerable_requests:increase{window}" for window in WINDOWS}
    assert {*ratios, *counts, "provider:verihook_group_lag_seconds:max"} <= set(RECORDED)
    assert len(RECORDED) + len(ALERTS) == len(RULES)
    assert {name for name, rule in ALERTS.items() if rule.labels["severity"] == "critical"} == {
        "VerihookAvailabilityBurningFast",
        "VerihookAcknowledgementBurningFast",
        "VerihookFreshnessBurningFast",
        "VerihookLagNearRetention",
        "VerihookEndpointStoresNothing",
        "VerihookConsumerStalled",
        "VerihookExporterMissing",
        "VerihookCanaryMissing",
        "VerihookGatewayMissing",
        "VerihookRecordsLost",
        "VerihookOffsetBeyondEnd",
    }


@pytest.mark.parametrize("rule", ALERTS.values(), ids=lambda rule: rule.alert)
def test_an_alert_keeps_the_conventions_of_mixins(rule):
    """Its name begins with the project, it says how bad it is, what is so, and what to do."""
    assert re.fullmatch(r"Verihook([A-Z][a-z]+)+", rule.alert)
    assert rule.labels["severity"] in {"critical", "warning"}
    assert rule.wait
    assert set(rule.annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert "{{" not in rule.annotations["summary"]
    assert rule.annotations["summary"].endswith(".")
    assert "$value" in rule.annotations["description"]
    assert rule.annotations["runbook_url"] == f"docs/runbooks/{rule.alert}.md"
    assert re.fullmatch(r"/d/verihook-\w+", rule.annotations["dashboard_url"])


@pytest.mark.parametrize("rule", ALERTS.values(), ids=lambda rule: rule.alert)
def test_an_alert_names_whom_it_concerns_and_no_label_changes_with_the_value(rule):
    """A value in a label would make a new alert of every change."""
    assert not any("{{" in value for value in rule.labels.values())
    named = set(TEMPLATED.findall(rule.annotations["description"]))
    if rule.alert not in {f"Verihook{whom}Missing" for whom in ("Exporter", "Canary", "Gateway")}:
        assert named & {"provider", "endpoint", "instance"}
    for label in named:
        # Kept by an aggregation of the alert, or of the recorded series it reads.
        reads = re.findall(r"\w+:verihook_\w+:\w+", rule.expr)
        exprs = [rule.expr, *(RECORDED[name].expr for name in reads)]
        kept = [by for expr in exprs for by in re.findall(r"(?:by|group_left) \(([^)]*)\)", expr)]
        assert any(label in by.split(", ") for by in kept) or any(
            label in name.split(":")[0] for name in reads
        ), label


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.alert or rule.record)
def test_a_rule_reads_only_what_exists(rule):
    """Every series is exposed by a process with those labels, or recorded by a rule before."""
    for name in re.findall(r"\w+:verihook_\w+:\w+", rule.expr):
        assert name in RECORDED
    assert re.search(r'verihook_|\bup\{job=~"verihook-', rule.expr)
    for name, matchers in ours(rule.expr):
        assert name in EXPOSED, name
        for label, _, _ in matchers:
            assert label in EXPOSED[name], (name, label)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.alert or rule.record)
def test_a_matcher_asks_for_values_that_exist(rule):
    """A misspelt result or reason would select nothing for ever."""
    closed = closed_sets()
    for name, matchers in ours(rule.expr):
        for label, how, values in matchers:
            known = closed.get(label, {}).get(name)
            for value in values.split("|") if known else ():
                assert value in known, (name, label, value)
            if how == "=" and label == "le":
                assert values == "1.0"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.alert or rule.record)
def test_a_rule_avoids_what_makes_alerts_flap(rule):
    """Whatever is asked for by absent() waits, windows hold two scrapes, nothing is ranked."""
    assert not re.search(r"\b(topk|bottomk)\b", rule.expr)
    assert "absent" not in rule.expr or milliseconds(rule.wait) >= 4 * SCRAPE_MILLISECONDS
    for window in RANGE.findall(rule.expr):
        assert milliseconds(window) >= 2 * SCRAPE_MILLISECONDS
    # A counter is read by rate or increase, or by whether it is there at all.
    for found in re.finditer(r"verihook_\w+_total\b", rule.expr):
        before = rule.expr[: found.start()]
        assert before.endswith(("increase(", "rate(")) or re.search(
            r"(group by \([^)]*\) \(|\bunless |label_replace\(\(|\blast_over_time\(|\band on \([^)]*\)\n)$",
            before,
        ), found[0]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.alert or rule.record)
def test_a_rule_is_readable_by_prometheus_2_42(rule):
    """No quoted names, no experimental functions; at most a screen's width of indentation."""
    assert not re.search(r'\{\s*"', rule.expr)
    assert not re.search(r"\b(limitk|limit_ratio|mad_over_time|sort_by_label|info)\b", rule.expr)
    assert "\t" not in rule.expr
    assert '"' not in rule.record


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_a_case_in_which_it_fires(name):
    """Promtool runs them in `make verify`; each names all that fires, so nothing else does."""
    cases = "".join(file.read_text() for file in TESTS.glob("*.yml"))
    assert f'labels: \'ALERTS{{alertname="{name}", alertstate="firing"' in cases


@pytest.mark.parametrize("file", sorted(TESTS.glob("*.yml")), ids=lambda file: file.stem)
def test_cases_are_evaluated_in_the_order_of_the_groups(file):
    """Promtool takes groups in any order unless it is told: a record could come after its alert."""
    order = ", ".join(group.name for group in rules())
    assert f"group_eval_order: [{order}]\n" in file.read_text()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.alert or rule.record)
def test_no_endpoint_can_turn_a_rule_off_for_the_others(rule):
    """A join that meets two series of one endpoint fails as a whole: no rule rests on one."""
    assert not re.search(r"\bgroup_(left|right)\b", rule.expr)
    assert not re.search(r"[-+*/<>=] on \((?!provider\))", rule.expr)


def test_objectives_leave_the_canary_out():
    """It is no user: nothing of a provider's objective is computed from it."""
    for name, rule in RECORDED.items():
        if name.startswith("provider:") and name != "provider:verihook_group_lag_seconds:max":
            for series, matchers in ours(rule.expr):
                if "provider" in EXPOSED[series]:
                    assert ("provider", "!~", "canary|unknown") in matchers, name
            if "provider:verihook_group_lag_seconds:max" in rule.expr:
                assert 'group_lag_seconds:max{provider!="canary"}' in rule.expr


@pytest.mark.parametrize(
    ("duration", "tempo", "expected"),
    [
        ("1h", 1, "1h"),
        ("30d", 1, "30d"),
        ("1w", 1, "1w"),
        ("1h", 12, "5m"),
        ("5m", 12, "25s"),
        ("1d", 12, "2h"),
        ("1w", 12, "14h"),
        ("30s", 12, "2500ms"),
        ("15m", 12, "75s"),
    ],
)
def test_a_duration_is_divided_by_the_tempo(duration, tempo, expected):
    """In the largest unit that tells it exactly; at tempo 1 as it was written."""
    assert shortened(duration, tempo) == expected


def test_another_tempo_changes_every_duration_and_nothing_else():
    """Names, counts, objectives and the bound of 60 s stay."""
    duration = re.compile(r"(?<=[\[: ])(\d+)(ms|[smhdw])(?=[\]:) ]|$)")
    for before, after in zip(RULES, (r for g in rules(12) for r in g.rules), strict=True):
        assert (before.record, before.alert, before.labels) == (
            after.record,
            after.alert,
            after.labels,
        )
        shorter = duration.sub(lambda found: shortened(found[0], 12), before.expr)
        in_seconds = re.sub(
            r"([<>]) (300|172800)\b", lambda found: f"{found[1]} {int(found[2]) / 12:g}", shorter
        )
        assert in_seconds == after.expr
        assert after.wait == (shortened(before.wait, 12) if before.wait else "")
        assert after.keep == (shortened(before.keep, 12) if before.keep else "")
    late = next(rule for group in rules(12) for rule in group.rules if "late_minute" in rule.record)
    assert "> bool 60" in late.expr


def test_addresses_of_runbooks_and_boards_are_the_operators():
    """Both stand before what is shipped."""
    written = text(runbooks="https://docs.example/run/", dashboards="https://grafana.example/d/")
    assert '"https://docs.example/run/VerihookConsumerStalled.md"' in written
    assert '"https://grafana.example/d/verihook-normalizer"' in written


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    """And the list of them names each with its severity."""
    assert {file.stem for file in RUNBOOKS.glob("*.md")} == {*ALERTS, "README"}
    listed = (RUNBOOKS / "README.md").read_text()
    for name, rule in ALERTS.items():
        kind = "page" if rule.labels["severity"] == "critical" else "ticket"
        assert f"| [{name}]({name}.md) | {kind} | " in listed


@pytest.mark.parametrize("name", ALERTS)
def test_a_runbook_answers_the_four_questions(name):
    """In the same order everywhere, with three commands that need little to be filled in."""
    book = (RUNBOOKS / f"{name}.md").read_text()
    assert book.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", book, re.MULTILINE) == HEADINGS
    commands = re.search(r"## First three commands\n\n```\n(.*?)\n```\n", book, re.DOTALL)
    assert commands is not None
    lines = commands[1].splitlines()
    assert len(lines) == 3
    named = set(re.findall(r"<([a-z-]+)>", commands[1]))
    assert named <= {"provider", "endpoint", "consumer"}
    for label in named & {"provider", "endpoint"}:
        assert label in ALERTS[name].expr
    for metric in re.findall(r"(?<!:)\bverihook_\w+", book):
        stem = metric.removesuffix("_")
        assert any(known.startswith(stem) for known in EXPOSED), metric


@pytest.mark.parametrize("name", [*ALERTS, "README"])
def test_a_runbook_runs_commands_that_exist(name):
    """`python -m` of ours with a command of it."""
    book = (RUNBOOKS / f"{name}.md").read_text()
    for package, command in re.findall(r"python -m (\w+)(?: ([a-z]+))?", book):
        source = (ROOT / package / "__main__.py").read_text()
        assert re.search(rf"def {command}\(|name=\"{command}\"|{command} = typer", source), command
    for provider in re.findall(r"\bconsumers lag (\w+)", book):
        assert provider in {*NORMALIZERS, "canary"}
