"""Dashboards, scrape configuration, rules and page of metrics name only what the service exposes."""

import copy
import http.client
import json
import re

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as strict_families,
)
from prometheus_client.parser import text_string_to_metric_families as families

from consumers.normalizers import NORMALIZERS
from deploy import dashboards, metrics_page
from deploy.child import free_port
from deploy.endpoints import ENDPOINTS
from deploy.pipeline import (
    CANARY_ADMIN_PORT,
    CANARY_CONSUMER_ADMIN_PORT,
    EXPORTER_ADMIN_PORT,
    FIRST_CONSUMER_ADMIN_PORT,
    GATEWAY_ADMIN_PORT,
)
from deploy.rules import rules
from gateway.providers import EVERY, PROVIDERS
from gateway.send import fixture, post
from tests.deployment import ROOT, deployment, get, until
from tests.senders import SENDERS

SCRAPE_CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
BOARDS = dashboards.boards()
RULES = [rule for group in rules() for rule in group.rules]
ALERTS = {rule.alert for rule in RULES if rule.alert}
RECORDED = {rule.record for rule in RULES if rule.record}

SELECTOR = re.compile(r"((?:[A-Za-z_:][\w:]*)?)\{([^}]*)\}(?:\[([^\]]*)\])?")
WORD = re.compile(r"(?:\b[a-z_]+:)?\bverihook_[\w:]+")
MATCHER = re.compile(r"(\w+)(?:=~|!=|!~|=)\"")
OF_THE_TARGET = {"job", "instance"}
OF_AN_ALERT = {"alertname", "alertstate", "severity", "provider"}
OF_A_SOURCE = {"group", "consumergroup", "group_id", "topic", "topic_name", "partition", "__name__"}
"""Labels of lag, in the words of each exporter a person can choose."""
UNITS = {"s", "cps", "reqps", "percentunit", "short", "bytes", "none"}
KINDS = {"timeseries", "stat", "table", "bargauge", "heatmap"}
VARIABLES = {"datasource", "job", "provider", "runbooks"}
NOT_EVERYWHERE = {"lag_source"}
OF_GRAFANA = {"__rate_interval", "__range", "__value", "__all"}


def declared() -> dict[str, metrics_page.Metric]:
    """Every series name of all programs, with its metric."""
    metrics = [one for section in metrics_page.sections().values() for one in section]
    return {name: metric for metric in metrics for name in metric.exposed}


def targets(built):
    """Every query with its panel."""
    return [(panel, target) for panel in built["panels"] for target in panel["targets"]]


def everything():
    """Every query of every board with its board's name and its panel."""
    return [(name, *found) for name, built in BOARDS.items() for found in targets(built)]


def complaints(built) -> list[str]:
    """What is wrong with a dashboard: the rules of Grafana's dashboard-linter that matter to us.

    It departs where a series has no job of ours: `up` belongs to everybody, so All of `job` is
    the list of its values; what is recorded, alerts, and another exporter's lag know no job.
    """
    return [*_of_the_whole(built), *_of_panels(built), *_of_queries(built)]


def _of_the_whole(built):
    variables = {variable["name"]: variable for variable in built["templating"]["list"]}
    if set(variables) - NOT_EVERYWHERE != VARIABLES:
        yield f"variables are {sorted(variables)}"
    source = variables.pop("datasource", {})
    if (source.get("type"), source.get("query")) != ("datasource", "prometheus"):
        yield "the data source is no variable"
    for name, variable in variables.items():
        if variable["type"] != "query":
            if variable["current"]["value"] not in [one["value"] for one in variable["options"]]:
                yield f"variable {name} begins with nothing"
            continue
        if variable["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
            yield f"variable {name} asks a fixed data source"
        if variable["definition"] != variable["query"]["query"]:
            yield f"variable {name} has two definitions"
    text = json.dumps(built)
    used = set(re.findall(r"\$\{?([A-Za-z_]\w*)", text))
    known = {*variables, "datasource"}
    yield from (f"there is no variable {name}" for name in sorted(used - known - OF_GRAFANA))
    yield from (f"variable {name} is not used" for name in sorted(known - used))
    yield from (f"{word} is used" for word in ("topk", "vector(") if word in text)
    if not len(built["panels"]) < 20:
        yield "20 panels or more"
    link = built["links"][0] if built["links"] else {}
    if link.get("tags") != built["tags"] or not (link.get("includeVars") and link.get("keepTime")):
        yield "it does not lead to the other boards"


def _of_panels(built):
    seen, taken = set(), set()
    for panel in built["panels"]:
        title = panel.get("title") or f"panel {panel.get('id')}"
        if panel["type"] not in KINDS:
            yield f"{title}: is a {panel['type']}"
        if not panel.get("title") or panel["title"] in seen or panel["id"] in seen:
            yield f"{title}: no title or id of its own"
        seen |= {panel.get("title"), panel["id"]}
        if len(panel.get("description", "").split()) < 10:
            yield f"{title}: no description that tells what to do"
        units = [panel["fieldConfig"]["defaults"].get("unit")]
        for override in panel["fieldConfig"]["overrides"]:
            units += [item["value"] for item in override["properties"] if item["id"] == "unit"]
        if set(units) - UNITS:
            yield f"{title}: unit {units}"
        if "noValue" not in panel["fieldConfig"]["defaults"]:
            yield f"{title}: says nothing where there is nothing"
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        if cells & taken or at["x"] + at["w"] > 24:
            yield f"{title}: lies over another or over the edge"
        taken |= cells
        for source in (panel, *panel["targets"]):
            if source["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
                yield f"{title}: asks a fixed data source"
        for link in panel["links"]:
            alert = link["title"].removeprefix("Runbook: ")
            if alert not in ALERTS or link["url"] != f"${{runbooks:raw}}/{alert}.md":
                yield f"{title}: there is no runbook {alert}"
    rows = max(y for _, y in taken) + 1
    if len(taken) != 24 * rows:
        yield "there are holes between the panels"


def _of_queries(built):
    known = declared()
    for panel, target in targets(built):
        at, expr = f"{panel['title']} {target['refId']}", target["expr"]
        selectors = SELECTOR.findall(expr)
        names = {name for name, _, _ in selectors}
        if set(WORD.findall(expr)) - names:
            yield f"{at}: a metric without a matcher"
        if expr.count("(") != expr.count(")"):
            yield f"{at}: brackets"
        labels = {"le"} if any(name.endswith("_bucket") for name in names) else set()
        labels |= set(re.findall(r', "(\w+)", "\$1", "', expr))
        for name, matchers, window in selectors:
            of_it, found = _of_a_selector(name, matchers, known)
            yield from (f"{at}: {text}" for text in found)
            labels |= of_it
            if name in known:
                yield from _of_a_rate(at, target, known[name], f"{name}{{{matchers}}}", window)
                if known[name].labels[:1] == ("endpoint",) and "provider" not in known[name].labels:
                    requests = "and on (endpoint) rate(verihook_webhook_requests_total{"
                    if requests not in expr:
                        yield f"{at}: {name} of every provider"
        for clause in re.findall(r"\b(?:by|on|without) \(([^)]*)\)", expr):
            unknown = set(clause.split(", ")) - labels
            if unknown:
                yield f"{at}: groups by {sorted(unknown)}"
        grouped = {part for clause in re.findall(r"\bby \(([^)]*)\)", expr) for part in clause.split(", ")}  # fmt: skip
        if set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - grouped:
            yield f"{at}: the legend names what the query has not"


def _of_a_selector(name, matchers, known):
    """The labels a series has, and what is wrong with how it is selected."""
    found = []
    if name == "ALERTS":
        if 'alertname=~"Verihook.*"' not in matchers or 'provider=~"$provider|"' not in matchers:
            found.append("alerts of everybody")
        return OF_AN_ALERT, found
    if not name:
        if '__name__=~"$lag_source"' not in matchers:
            found.append("a metric without a name")
        found += [
            f"{label} of every provider"
            for label in ("group", "consumergroup", "group_id")
            if f'{label}=~"(.*normalize[.]($provider))?"' not in matchers
        ]
        return OF_A_SOURCE, found
    if ":" in name:
        of_it = set(name.partition(":")[0].split("_"))
        if name not in RECORDED:
            found.append(f"{name} is not recorded")
        if 'provider=~"$provider"' not in matchers:
            found.append(f"{name} of every provider")
        return of_it, found
    if 'job=~"$job"' not in matchers:
        found.append(f"{name} of every job")
    if name == "up":
        return OF_THE_TARGET, found
    if name not in known:
        return OF_THE_TARGET, [*found, f"there is no {name}"]
    of_it = set(known[name].labels)
    unknown = set(MATCHER.findall(matchers)) - of_it - {"job"} - ({"le"} if "_bucket" in name else set())  # fmt: skip
    if unknown:
        found.append(f"{name} has no label {sorted(unknown)}")
    if "provider" in of_it and 'provider=~"$provider"' not in matchers:
        found.append(f"{name} of every provider")
    if {"group", "topic"} & of_it and "($provider)" not in matchers:
        found.append(f"{name} of every provider")
    return of_it | OF_THE_TARGET, found


def _of_a_rate(at, target, metric, selector, window):
    """Counters go through rate or increase, then into an aggregation; gauges at most through deriv."""
    expr = target["expr"]
    if metric.type not in {"counter", "histogram"}:
        if window and (f"deriv({selector}[" not in expr or window != "$__rate_interval"):
            yield f"{at}: rate of the gauge {metric.name}"
        # Between sum or count and the series stands max, or every exporter is counted.
        adds = r"\b(?:sum|count)(?: by \([^)]*\))? \((?:label_replace\(|deriv\(|\()*"
        if metric in metrics_page.sections()["Exporter"] and re.search(
            adds + re.escape(selector), expr
        ):
            yield f"{at}: two exporters count twice in {metric.name}"
        return
    if not re.search(r"\b(rate|increase)\(" + re.escape(selector) + r"\[", expr):
        yield f"{at}: the counter {metric.name} without rate"
    allowed = {"$__rate_interval"} | ({"$__range"} if target.get("instant") else set())
    if window not in allowed:
        yield f"{at}: window {window!r}"
    chooses = f"and on (endpoint) rate({selector}" in expr  # which endpoints are shown, no more
    if not chooses and not re.search(r"\bsum(?: by \([^)]*\))? ?\(", expr):
        yield f"{at}: {metric.name} is not aggregated"


def test_the_dashboard_files_are_what_the_builder_builds():
    """Nobody edits the JSON: `python -m deploy.dashboards` writes it, and nothing lies beside it."""
    built = dashboards.texts()
    assert set(built) == set(dashboards.FOLDER.iterdir())
    for file, text in built.items():
        assert file.read_text() == text, file.name


def test_the_page_of_metrics_is_what_the_definitions_say():
    """Nobody edits the page: `python -m deploy.metrics_page` writes it."""
    assert metrics_page.FILE.read_text() == metrics_page.text()


def test_every_metric_is_explained():
    """Each metric but one has its advice, each advice and each label belongs to a metric."""
    metrics = {metric.name: metric for metric in declared().values()}
    without = {"verihook_reasons_total"}
    assert set(metrics_page.TO_DO) == set(metrics) - without
    explained = set(metrics_page.LABELS) | set(metrics_page.closed_sets())
    assert explained == {label for metric in metrics.values() for label in metric.labels}
    for label, of_metrics in metrics_page.closed_sets().items():
        assert all(label in metrics[name].labels for name in of_metrics)


@pytest.mark.parametrize("board", BOARDS)
def test_a_dashboard_keeps_the_rules(board):
    """Templated, described, with units; every query filtered by job and provider and rated."""
    assert complaints(BOARDS[board]) == []


def _panel(built, title):
    return next(panel for panel in built["panels"] if panel["title"] == title)


FRESH, LATE = "From receipt to event", "How late events are, by provider"
QUEUE, PARTITIONS = "Queue to Kafka, against its limit", "Lag in seconds, from outside"
WRITTEN = "Consumption against production"
BURN, RECORDS = "How fast the budgets burn", "Lag in records, from outside"


def _edit_query(old, new, title=FRESH):
    def edit(built):
        target = _panel(built, title)["targets"][0]
        assert old in target["expr"]
        target["expr"] = target["expr"].replace(old, new)

    return edit


def _edit(change, title=FRESH):
    return lambda built: change(_panel(built, title))


def _edit_variable(name, **more):
    return lambda built: next(
        one for one in built["templating"]["list"] if one["name"] == name
    ).update(more)


@pytest.mark.parametrize(
    ("board", "edit", "complaint"),
    [
        ("overview", _edit_query("[$__rate_interval]", "[5m]"), "window '5m'"),
        ("overview", _edit_query("$__rate_interval", "$__range"), "window '$__range'"),
        ("overview", _edit_query("rate(", "abs("), "without rate"),
        ("overview", _edit_query("sum by (le) ", ""), "is not aggregated"),
        ("overview", _edit_query('job=~"$job", ', ""), "of every job"),
        ("overview", _edit_query(', provider=~"$provider"', ""), "of every provider"),
        ("overview", _edit_query("verihook_end_to_end_seconds", "verihook_end_seconds"), "there is no"),
        ("overview", _edit_query("$provider", "$brovider"), "there is no variable brovider"),
        ("overview", _edit_query("by (le)", "by (le, endpoint)"), "groups by ['endpoint']"),
        ("overview", _edit_query('"$provider"', '"$provider", stage="x"'), "has no label ['stage']"),
        ("overview", _edit_query("sum by", "topk(5, sum by"), "topk"),
        ("overview", _edit_query('provider=~"$provider"', "", BURN), "of every provider"),
        ("overview", _edit_query("ratio_rate1h", "ratio_rate7h", BURN), "is not recorded"),
        ("overview", _edit_query(', provider=~"$provider|"', "", "Which alerts fire"), "alerts of everybody"),
        ("gateway", _edit_query('{job=~"$job"}', "", QUEUE), "without a matcher"),
        ("gateway", _edit_query("(verihook", "(rate(verihook", QUEUE), "brackets"),
        ("gateway", _edit_query('{job=~"$job"}', '{job=~"$job"}[$__rate_interval]', QUEUE), "rate of the gauge"),
        ("normalizer", _edit_query("deriv(", "rate(", WRITTEN), "rate of the gauge"),
        ("normalizer", _edit_query("[$__rate_interval]", "[5m]", WRITTEN), "rate of the gauge"),
        ("normalizer", _edit_query("max by (provider, topic, partition) ", "", WRITTEN), "two exporters"),
        ("normalizer", _edit_query("max by (provider, partition)", "count by (provider, partition)", PARTITIONS), "two exporters"),
        ("gateway", _edit_query("and on (endpoint)", "or on (endpoint)", "Keys in use"), "of every provider"),
        ("normalizer", _edit_query("($provider)", ".+", PARTITIONS), "of every provider"),
        ("normalizer", _edit_query("consumergroup=~", "consumers=~", RECORDS), "consumergroup of every"),
        ("normalizer", _edit_query("__name__=~", "name=~", RECORDS), "without a name"),
        ("normalizer", _edit_variable("lag_source", current={"value": "burrow"}), "begins with nothing"),
        ("overview", _edit(lambda panel: panel.pop("title")), "no title"),
        ("overview", _edit(lambda panel: panel.update(title=LATE)), "no title"),
        ("overview", _edit(lambda panel: panel.update(description="Lag.")), "no description"),
        ("overview", _edit(lambda panel: panel.update(type="graph")), "is a graph"),
        ("overview", _edit(lambda panel: panel.update(datasource="Prometheus")), "fixed data source"),
        ("overview", _edit(lambda panel: panel["fieldConfig"]["defaults"].pop("unit")), "unit"),
        ("overview", _edit(lambda panel: panel["fieldConfig"]["defaults"].pop("noValue")), "says nothing"),
        ("overview", _edit(lambda panel: panel["gridPos"].update(x=1)), "lies over"),
        ("overview", _edit(lambda panel: panel["gridPos"].update(w=5)), "holes"),
        ("overview", _edit(lambda panel: panel["links"].append({"title": "Runbook: X", "url": "X"})), "no runbook X"),
        ("overview", _edit(lambda panel: panel["links"][0].update(url="X"), LATE), "no runbook"),
        ("overview", _edit(lambda panel: panel["targets"][0].update(legendFormat="{{endpoint}}")), "legend"),
        ("overview", lambda built: built["templating"]["list"].pop(), "variables are"),
        ("overview", lambda built: built["links"].pop(), "other boards"),
        ("gateway", lambda built: built["templating"]["list"].append(BOARDS["normalizer"]["templating"]["list"][3]), "lag_source is not used"),
        ("overview", _edit_variable("datasource", type="custom"), "no variable"),
        ("overview", _edit_variable("job", datasource="Prometheus"), "fixed"),
        ("overview", _edit_variable("job", definition="up"), "two definitions"),
        ("normalizer", lambda built: built["panels"].append(built["panels"][0]), "20 panels"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_noticed(board, edit, complaint):
    """Each rule finds the fault it is for."""
    broken = copy.deepcopy(BOARDS[board])
    edit(broken)
    whole = all("title" in panel for panel in broken["panels"])
    found = complaints(broken) if whole else [*_of_panels(broken)]
    assert any(complaint in text for text in found), found


def unwatched(metrics) -> set[str]:
    """Metrics that are neither in a panel nor in an alert."""
    return {
        metric.name
        for metric in metrics
        if not any(metrics_page.panels_showing(metric))
        and not any(metrics_page.alerts_using(name) for name in metric.exposed)
    }


def test_every_metric_is_shown_or_watched():
    """What is measured is in a panel or a rule."""
    assert unwatched(declared().values()) == set()
    new = metrics_page.Metric("verihook_new_total", "counter", (), "Of tomorrow.")
    assert unwatched([new]) == {new.name}


def test_every_alert_is_led_to_from_a_panel():
    """Panels link to the runbooks of what they show, no alert is left out; it names a board of ours."""
    linked = {
        link["title"].removeprefix("Runbook: ")
        for built in BOARDS.values()
        for panel in built["panels"]
        for link in panel["links"]
    }
    assert linked == ALERTS
    named = {rule.annotations["dashboard_url"].rpartition("/")[2] for rule in RULES if rule.alert}
    assert named <= {built["uid"] for built in BOARDS.values()}


def test_the_scrape_configuration_names_what_make_run_starts():
    """Each kind of process under its job, the consumers' ports from the first on without a gap."""
    scraped: dict[str, list[int]] = {}
    for line in SCRAPE_CONFIG.read_text().splitlines():
        if found := re.match(r" +- job_name: (\S+)", line):
            ports = scraped.setdefault(found[1], [])
        elif found := re.match(r" +- 127\.0\.0\.1:(\d+)", line):
            ports.append(int(found[1]))
    first = FIRST_CONSUMER_ADMIN_PORT
    assert scraped == {
        "verihook-gateway": [GATEWAY_ADMIN_PORT],
        "verihook-consumers": [CANARY_CONSUMER_ADMIN_PORT, *range(first, first + len(PROVIDERS))],
        "verihook-exporter": [EXPORTER_ADMIN_PORT],
        "verihook-canary": [CANARY_ADMIN_PORT],
    }
    assert set(WORD.findall(SCRAPE_CONFIG.read_text())) <= set(declared())


def drive(deployed, provider="veriff") -> int:
    """Send one delivery of each fate: stored, unknown word, ignored, poison; and one refused.

    Gives how many were stored.
    """
    found = fixture("veriff", "decision-approved")
    unknown = json.loads(found.body)
    unknown["verification"] |= {"status": "brand_new", "reasonCode": "999"}
    bodies = [found.body, json.dumps(unknown).encode(), b'{"verification": null}', b"{"]
    for body in bodies:
        assert deployed.send(provider, body, found.headers).status == 200
    refused = post(f"{deployed.url}/webhooks/{provider}", found.headers, found.body)
    assert (refused.status, refused.text) == (401, "signature_missing")
    return len(bodies)


def settled(consumer, records: int) -> None:
    """Wait until a consumer has counted and committed so many records."""
    until(
        lambda: (
            consumer.sum("verihook_records_consumed_total") == records
            and consumer.sum("verihook_assigned_partitions") > 0
            and "verihook_consumer_lag_seconds{" in get(f"{consumer.admin}/metrics")[1]
            and consumer.sum("verihook_consumer_lag_records") == 0
        ),
        f"{records} records counted and committed",
    )


def pages(*processes) -> list[str]:
    """What each process exposes."""
    return [get(f"{process.admin}/metrics")[1] for process in processes]


def exporter(deployed):
    """Start the exporter of a deployment and wait until it asked Kafka once."""
    admin = free_port()
    settings = {"EXPORTER_ADMIN_LISTEN": f"127.0.0.1:{admin}", "EXPORTER_INTERVAL": "1"}
    return deployed._start(["consumers", "export"], settings, admin)


@pytest.mark.kafka
def test_the_running_service_exposes_what_dashboards_and_page_name(topics, tmp_path):
    """Every name and label in a query, and every metric on the page, is on the real /metrics."""
    with deployment(topics(canary=True), tmp_path) as deployed:
        processes = {"gateway": deployed.gateway(), "consumer": deployed.consumer("veriff")}
        deployed.consumer("canary")
        processes |= {"exporter": exporter(deployed), "canary": deployed.prober(ready=True)}
        settled(processes["consumer"], drive(deployed))
        outside = processes["exporter"]
        until(lambda: outside.sum("verihook_dead_letters_waiting_records") == 1, "it is counted")
        until(
            lambda: all(
                "verihook_kafka_round_trip_seconds{" in get(f"{processes[name].admin}/metrics")[1]
                for name in ("gateway", "consumer")
            ),
            "the clients' statistics came",
        )
        scraped = {name: list(families(pages(process)[0])) for name, process in processes.items()}
    exposed: dict[str, set[str]] = {}
    for process, of_it in scraped.items():
        names = set()
        for family in of_it:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            names |= {name} if name.startswith("verihook_") else set()
            for series in metrics_page.Metric(name, family.type, (), "").exposed:
                exposed.setdefault(series, set()).update(
                    label
                    for sample in family.samples
                    if sample.name == series
                    for label in sample.labels
                )
        assert names == {metric.name for metric in metrics_page.processes()[process]}, process
    known = declared()
    for _, _, target in everything():
        for name, matchers, _ in SELECTOR.findall(target["expr"]):
            if name in known and exposed[name]:
                used = set(MATCHER.findall(matchers)) - OF_THE_TARGET
                assert used <= exposed[name], (name, used, exposed[name])
    for name, metric in known.items():
        extra = {"le"} if name.endswith("_bucket") else set()
        assert exposed[name] in (set(metric.labels) | extra, set()), name
    silent = {
        name
        for name, labels in exposed.items()
        if name in known and known[name].labels and not labels
    }
    assert silent == {
        "verihook_signature_key_retires_timestamp_seconds",  # no key of the tests retires
    }


EVIL = 'evil"} 1\nverihook_evil_total{x="'


@pytest.mark.kafka
def test_no_sender_writes_on_the_metrics(topics, tmp_path):
    """Names, types and help keep the conventions, and labels their sets, whatever is sent."""
    decision = json.loads(fixture("veriff", "decision-approved").body)
    decision["verification"] |= {
        "status": EVIL, "reasonCode": EVIL, "reason": EVIL, "vendorData": EVIL, "endUserId": EVIL,
        "document": {"type": EVIL, "country": EVIL},
    }  # fmt: skip
    event = json.loads(fixture("veriff", "event-started").body) | {"action": EVIL}
    bodies = [
        decision,
        event,
        {"eventType": EVIL},
        {"type": EVIL},
        {EVIL: EVIL},
        {"action": [EVIL]},
    ]
    with deployment(topics(), tmp_path) as deployed:
        gateway, consumer = deployed.gateway(), deployed.consumer("veriff")
        for body in bodies:
            assert deployed.send("veriff", json.dumps(body).encode()).status == 200
        for path in ("evil", "veriff/evil", "evil%22%7D%201%0Aevil", "%C3%A9vil"):
            assert post(f"{deployed.url}/webhooks/{path}", {}, b"{}").status == 404
        for signature in ("evil", "e" * 64):
            headers = {"x-hmac-signature": signature, "x-auth-client": "evil"}
            assert post(f"{deployed.url}/webhooks/veriff", headers, b"{}").status == 401
        connection = http.client.HTTPConnection(deployed.url.removeprefix("http://"), timeout=30)
        connection.request("EVIL", "/webhooks/veriff")
        assert connection.getresponse().status == 405
        connection.close()
        settled(consumer, len(bodies))
        scraped = pages(gateway, consumer)
        strict = []
        for process in (gateway, consumer):
            address = process.admin.removeprefix("http://")
            connection = http.client.HTTPConnection(address, timeout=30)
            accept = "application/openmetrics-text; version=1.0.0"
            connection.request("GET", "/metrics", headers={"Accept": accept})
            strict += strict_families(connection.getresponse().read().decode())
            connection.close()
        prefix = deployed.prefix
    assert not any("evil" in page.lower() for page in scraped)
    everything = [family for page in scraped for family in families(page)]
    for family in (*everything, *strict):
        assert family.documentation, family.name
        assert family.name.startswith(("verihook_", "process_", "python_")), family.name
        assert not any(sample.name.endswith("_created") for sample in family.samples)
    ours = [family for family in everything if family.name.startswith("verihook_")]
    for family in ours:
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        else:
            assert not family.name.endswith(("_total", "_count", "_sum")), family.name
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_bytes"))
        assert not re.search(
            r"_(ms|millis\w*|minutes?|hours?|days?|kb|mb|k\w+bytes)(_|$)", family.name
        )
        for sample in family.samples:
            for label, value in sample.labels.items():
                where = (sample.name, label, value)
                if label in {"le", "partition"}:
                    float(value)
                elif label in {"version", "librdkafka"}:
                    assert re.fullmatch(r"\d+\.\d+\.\d+", value), where
                elif label == "broker":
                    assert value.isdigit(), where
                elif label == "key_id" and value.startswith("spki-"):
                    assert re.fullmatch(r"spki-[0-9a-f]{12}", value), where
                else:
                    assert value in _closed(sample.name, label, prefix), where
    counted = next(family for family in ours if family.name == "verihook_records_consumed")
    by_type = {sample.labels["native_type"]: sample.value for sample in counted.samples}
    assert by_type["other"] == 3
    assert by_type["decision"] == 1
    assert by_type["event"] == 2  # one of them a dead letter: what it is was still readable


def _closed(name: str, label: str, prefix: str) -> set[str]:
    """Every value a label may have in a deployment of the tests."""
    listed = metrics_page.closed_sets().get(label, {})
    metric = declared()[name].name
    if metric in listed:
        return set(listed[metric])
    match label:
        case "endpoint":
            return {*(known.name for known in ENDPOINTS), "unknown"}
        case "provider":
            return {*EVERY, "unknown"}
        case "stored":
            return {"true", "false"}
        case "client":
            return {"producer", "consumer"}
        case "field":
            return {*NORMALIZERS["veriff"].UNMAPPED_FIELDS, "other"}
        case "reason":
            return {*NORMALIZERS["veriff"].IGNORED_REASONS, "other"}
        case "scheme":
            return {word for sender in SENDERS for word in sender.scheme().names}
        case "code":
            return {str(code) for code in (200, 400, 401, 404, 405, 408, 413, 415, 431, 500, 503)}
        case "key_id":
            return {"demo", "unsigned"}
        case "native_type":
            return {*NORMALIZERS["veriff"].NATIVE_TYPES, "other"}
        case "group":
            return {f"{prefix}normalize.veriff"}
        case "topic":
            return {f"{prefix}raw.{name}" for name in EVERY}
    return set()
