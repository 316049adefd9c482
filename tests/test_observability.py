"""Dashboard, scrape configuration and page of metrics name only what the service exposes."""

import copy
import http.client
import inspect
import json
import re

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as strict_families,
)
from prometheus_client.parser import text_string_to_metric_families as families

from consumers.normalizers import NORMALIZERS
from deploy import dashboard, metrics_page
from deploy.endpoints import ENDPOINTS
from deploy.local import FIRST_CONSUMER_ADMIN_PORT, GATEWAY_ADMIN_PORT
from gateway.providers import PROVIDERS
from gateway.send import fixture, post
from tests.deployment import ROOT, deployment, get, until
from tests.senders import SENDERS

SCRAPE_CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
BUILT = dashboard.dashboard()

SELECTOR = re.compile(r"\b(verihook_\w+|up)\{([^}]*)\}(?:\[([^\]]*)\])?")
WORD = re.compile(r"\bverihook_\w+")
FOREIGN = {"up"}
"""What Prometheus itself says of each target."""
OF_THE_TARGET = {"job", "instance"}
NO_RATE = {
    "verihook_unmapped_values_total": "comes to exist with the first value",
    "verihook_records_ignored_total": "comes to exist with the first record",
    "verihook_records_lost_to_retention_total": "comes to exist with the first loss",
}
NOT_SHOWN = {
    "verihook_reasons_total": "about persons, not about the pipeline",
    "verihook_build_info": "the variable `job` comes from it",
}
UNITS = {"s", "cps", "reqps", "percentunit", "short", "bytes"}
KINDS = {"timeseries", "stat", "table", "bargauge", "heatmap"}
VARIABLES = {"datasource", "job", "provider"}
OF_GRAFANA = {"__rate_interval", "__range"}


def declared() -> dict[str, metrics_page.Metric]:
    """Every series name of both programs, with its metric."""
    metrics = [*metrics_page.gateway_metrics(), *metrics_page.consumer_metrics()]
    return {name: metric for metric in metrics for name in metric.exposed}


def targets(built):
    """Every query with its panel."""
    return [(panel, target) for panel in built["panels"] for target in panel["targets"]]


def complaints(built) -> list[str]:
    """What is wrong with a dashboard: the rules of Grafana's dashboard-linter that matter to us.

    One departs from it: All of `job` is the list of its values, since `up` belongs to everybody.
    """
    return [*_of_the_whole(built), *_of_panels(built), *_of_queries(built)]


def _of_the_whole(built):
    variables = {variable["name"]: variable for variable in built["templating"]["list"]}
    if set(variables) != VARIABLES:
        yield f"variables are {sorted(variables)}"
    source = variables.pop("datasource", {})
    if (source.get("type"), source.get("query")) != ("datasource", "prometheus"):
        yield "the data source is no variable"
    for name, variable in variables.items():
        if variable["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
            yield f"variable {name} asks a fixed data source"
        if variable["definition"] != variable["query"]["query"]:
            yield f"variable {name} has two definitions"
    text = json.dumps(built)
    used = set(re.findall(r"\$\{?([A-Za-z_]\w*)", text))
    yield from (f"there is no variable {name}" for name in sorted(used - VARIABLES - OF_GRAFANA - {"__all"}))  # fmt: skip
    yield from (f"variable {name} is not used" for name in sorted(VARIABLES - used))
    yield from (f"{word} is used" for word in ("topk", "vector(") if word in text)
    if not len(built["panels"]) < 20:
        yield "20 panels or more"


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
        labels |= set(re.findall(r'label_replace\(.*?, "(\w+)", "\$1"', expr))
        for name, matchers, window in selectors:
            if 'job=~"$job"' not in matchers:
                yield f"{at}: {name} of every job"
            labels |= OF_THE_TARGET
            if name in FOREIGN:
                continue
            if name not in known:
                yield f"{at}: there is no {name}"
                continue
            metric = known[name]
            labels |= set(metric.labels)
            unknown = set(re.findall(r"(\w+)(?:=~|!=|=)", matchers)) - {*metric.labels, "job"}
            if unknown:
                yield f"{at}: {name} has no label {sorted(unknown)}"
            if "provider" in metric.labels and 'provider=~"$provider"' not in matchers:
                yield f"{at}: {name} of every provider"
            if "group" in metric.labels and "($provider)" not in matchers:
                yield f"{at}: {name} of every provider"
            yield from _of_a_rate(at, target, metric, f"{name}{{{matchers}}}", window)
        for clause in re.findall(r"\b(?:by|on|without) \(([^)]*)\)", expr):
            unknown = set(clause.split(", ")) - labels
            if unknown:
                yield f"{at}: groups by {sorted(unknown)}"
        grouped = {part for clause in re.findall(r"\bby \(([^)]*)\)", expr) for part in clause.split(", ")}  # fmt: skip
        if set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - grouped:
            yield f"{at}: the legend names what the query has not"


def _of_a_rate(at, target, metric, selector, window):
    """Counters go through rate or increase, then into an aggregation; gauges do neither."""
    expr, counts = target["expr"], metric.type in {"counter", "histogram"}
    if not counts:
        if window:
            yield f"{at}: rate of the gauge {metric.name}"
        return
    if metric.name in NO_RATE:
        return
    if not re.search(r"\b(rate|increase)\(" + re.escape(selector) + r"\[", expr):
        yield f"{at}: the counter {metric.name} without rate"
    allowed = {"$__rate_interval"} | ({"$__range"} if target.get("instant") else set())
    if window not in allowed:
        yield f"{at}: window {window!r}"
    if not re.search(r"\bsum(?: by \([^)]*\))? ?\(", expr):
        yield f"{at}: {metric.name} is not aggregated"


def test_the_dashboard_file_is_what_the_builder_builds():
    """Nobody edits the JSON: `python deploy/dashboard.py` writes it."""
    assert dashboard.FILE.read_text() == dashboard.text()


def test_the_page_of_metrics_is_what_the_definitions_say():
    """Nobody edits the page: `python -m deploy.metrics_page` writes it."""
    assert metrics_page.FILE.read_text() == metrics_page.text()


def test_every_metric_is_explained():
    """Each advice and each label on the page belongs to a metric; each label is explained."""
    metrics = {metric.name: metric for metric in declared().values()}
    assert set(metrics_page.TO_DO) <= set(metrics)
    explained = set(metrics_page.LABELS) | set(metrics_page.closed_sets())
    assert explained == {label for metric in metrics.values() for label in metric.labels}
    for label, of_metrics in metrics_page.closed_sets().items():
        assert all(label in metrics[name].labels for name in of_metrics)


def test_the_dashboard_keeps_the_rules():
    """Templated, described, with units; every query filtered by job and provider and rated."""
    assert complaints(BUILT) == []


def _edit_query(old, new, panel=1):
    def edit(built):
        target = built["panels"][panel]["targets"][0]
        assert old in target["expr"]
        target["expr"] = target["expr"].replace(old, new)

    return edit


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (_edit_query("[$__rate_interval]", "[5m]"), "window '5m'"),
        (_edit_query("$__rate_interval", "$__range"), "window '$__range'"),
        (_edit_query("rate(", "abs("), "without rate"),
        (_edit_query("sum by (le) ", ""), "is not aggregated"),
        (_edit_query('job=~"$job", ', ""), "of every job"),
        (_edit_query(', provider=~"$provider"', ""), "of every provider"),
        (_edit_query("verihook_end_to_end_seconds", "verihook_end_seconds"), "there is no"),
        (_edit_query("$provider", "$brovider"), "there is no variable brovider"),
        (_edit_query("by (le)", "by (le, endpoint)"), "groups by ['endpoint']"),
        (_edit_query('"$provider"', '"$provider", stage="x"'), "has no label ['stage']"),
        (_edit_query("sum by", "topk(5, sum by"), "topk"),
        (_edit_query('{job=~"$job"}', "", panel=10), "without a matcher"),
        (_edit_query("sum(verihook_webhook_requests_in_progress", "sum(rate(verihook_webhook_requests_in_progress", panel=10), "brackets"),
        (_edit_query('in_progress{job=~"$job"}', 'in_progress{job=~"$job"}[$__rate_interval]', panel=10), "rate of the gauge"),
        (_edit_query("($provider)", ".+", panel=12), "of every provider"),
        (lambda built: built["panels"][0].pop("title"), "no title"),
        (lambda built: built["panels"][0].update(title=built["panels"][1]["title"]), "no title"),
        (lambda built: built["panels"][0].update(description="Lag."), "no description"),
        (lambda built: built["panels"][0].update(type="graph"), "is a graph"),
        (lambda built: built["panels"][0].update(datasource="Prometheus"), "fixed data source"),
        (lambda built: built["panels"][0]["fieldConfig"]["defaults"].pop("unit"), "unit"),
        (lambda built: built["panels"][0]["fieldConfig"]["defaults"].pop("noValue"), "says nothing"),
        (lambda built: built["panels"][0]["gridPos"].update(x=1), "lies over"),
        (lambda built: built["panels"][0]["gridPos"].update(w=5), "holes"),
        (lambda built: built["panels"][1]["targets"][0].update(legendFormat="{{endpoint}}"), "legend"),
        (lambda built: built["templating"]["list"].pop(), "variables are"),
        (lambda built: built["templating"]["list"][0].update(type="custom"), "no variable"),
        (lambda built: built["templating"]["list"][1].update(datasource="Prometheus"), "fixed"),
        (lambda built: built["panels"].append(built["panels"][0]), "20 panels"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_noticed(edit, complaint):
    """Each rule finds the fault it is for."""
    broken = copy.deepcopy(BUILT)
    edit(broken)
    found = complaints(broken) if "title" in broken["panels"][0] else [*_of_panels(broken)]
    assert any(complaint in text for text in found), found


def test_every_metric_is_on_the_dashboard():
    """What is measured is shown, but for a few with a reason."""
    shown = {name for _, target in targets(BUILT) for name in WORD.findall(target["expr"])}
    known = declared()
    assert {metric.name for metric in known.values()} - {known[name].name for name in shown} == set(
        NOT_SHOWN
    )


def test_the_scrape_configuration_names_what_make_run_starts():
    """The gateway's default port, then the consumers' from the first on, without a gap."""
    ports = [int(port) for port in re.findall(r"- 127\.0\.0\.1:(\d+)", SCRAPE_CONFIG.read_text())]
    assert ports[0] == GATEWAY_ADMIN_PORT
    first = FIRST_CONSUMER_ADMIN_PORT
    assert ports[1:] == list(range(first, first + len(ports) - 1))
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


@pytest.mark.kafka
def test_the_running_service_exposes_what_dashboard_and_page_name(topics, tmp_path):
    """Every name and label in a query, and every metric on the page, is on the real /metrics."""
    with deployment(topics(), tmp_path) as deployed:
        gateway, consumer = deployed.gateway(), deployed.consumer("veriff")
        settled(consumer, drive(deployed))
        scraped = [family for page in pages(gateway, consumer) for family in families(page)]
    known = declared()
    exposed = {}
    for family in scraped:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        metric = metrics_page.Metric(name, family.type, (), family.documentation)
        for series in metric.exposed:
            exposed.setdefault(series, set()).update(
                label for sample in family.samples if sample.name == series for label in sample.labels
            )  # fmt: skip
    assert set(known) == {name for name in exposed if name.startswith("verihook_")}
    for _, target in targets(BUILT):
        for name, matchers, _ in SELECTOR.findall(target["expr"]):
            if name in FOREIGN:
                continue
            assert name in exposed, name
            used = set(re.findall(r"(\w+)(?:=~|!=|=)", matchers)) - OF_THE_TARGET
            # Without a loss of data there is no series, and the labels are those declared.
            labels = exposed[name] or set(known[name].labels)
            assert used <= labels, (name, used, labels)
    for name, metric in known.items():
        extra = {"le"} if name.endswith("_bucket") else set()
        assert exposed[name] in (set(metric.labels) | extra, set()), name
    silent = {name for name, labels in exposed.items() if not labels and known.get(name) and known[name].labels}  # fmt: skip
    assert silent == {"verihook_records_lost_to_retention_total"}


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
    mappings = inspect.getsource(NORMALIZERS["veriff"])
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
                elif label == "field":
                    assert f'"{value}"' in mappings, where
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
            return {*PROVIDERS, "unknown"}
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
            return {f"{prefix}raw.veriff"}
    return set()
