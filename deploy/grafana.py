"""What a Grafana dashboard is made of, as Python: panels, variables, and a board in Classic JSON.

https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
Every Grafana since 10 imports and provisions it. What is on our boards: deploy/dashboards.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Json = dict[str, Any]

SCHEMA_VERSION = 42
"""The last of the classic model: later changes of Grafana are made to the panels."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 24, 8


def query(expr: str, legend: str = "__auto") -> Json:
    """Ask for a graph."""
    return {"expr": expr, "legendFormat": legend, "range": True, "format": "time_series"}


def now(expr: str, legend: str = "__auto") -> Json:
    """Ask for this moment only: what has gone stays gone, where a graph's last point would not."""
    return {**query(expr, legend), "range": False, "instant": True}


def thresholds(*steps: Any) -> Json:
    """Build colours: the first for everything, then bound, colour, bound, colour."""
    bounds = [None, *steps[1::2]]
    pairs = zip(bounds, steps[0::2], strict=True)
    return {
        "mode": "absolute",
        "steps": [{"color": color, "value": bound} for bound, color in pairs],
    }


def panel(
    kind: str, title: str, description: str, unit: str, targets: Sequence[Json], **more: Any
) -> Json:
    """Build a panel.

    `more` are `width`, `options`, `defaults`, `overrides`, `transformations` and `runbooks`, the
    alerts that are about what it shows.
    """
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"w": more.get("width", 8)},
        "links": [
            {
                "title": f"Runbook: {alert}",
                "url": f"${{runbooks:raw}}/{alert}.md",
                "targetBlank": True,
            }
            for alert in more.get("runbooks", ())
        ],
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, **target}
            for index, target in enumerate(targets)
        ],
        "fieldConfig": {
            "defaults": {"unit": unit, **more.get("defaults", {})},
            "overrides": more.get("overrides", []),
        },
        "options": more.get("options", {}),
        "transformations": more.get("transformations", []),
    }


def graph(title: str, description: str, unit: str, *targets: Json, **more: Any) -> Json:
    """Build a graph over time.

    `percent` stacks it to 100 %, `steps` draw lines at bounds, `empty` is said where nothing is,
    `least` is where the axis begins: at 0, or with None at what is shown.
    """
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 60 if more.get("percent") else 10,
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"mode": "percent" if more.get("percent") else "none", "group": "A"},
        **({"thresholdsStyle": {"mode": "dashed"}} if "steps" in more else {}),
    }
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = {
        "custom": custom,
        "min": more.get("least", 0),
        "noValue": more.get("empty", "no data"),
    }
    if "steps" in more:
        defaults["thresholds"] = thresholds(*more["steps"])
    return panel(
        "timeseries", title, description, unit, targets, defaults=defaults, options=options, **more
    )


def no_number(text: str) -> list[Json]:
    """Say `text` in a colour of its own where there is no number: the base colour is green."""
    nothing = {"text": text, "color": "purple", "index": 0}
    return [{"type": "special", "options": {"match": "null+nan", "result": nothing}}]


def tiles(
    title: str, description: str, unit: str, target: Json, steps: Sequence[Any], **more: Any
) -> Json:
    """Build a stat panel, one tile per series; `steps` are colour, bound, colour, bound, colour."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "value_and_name" if more.get("named") else "value",
    }
    defaults = {
        "thresholds": thresholds(*steps),
        "mappings": no_number(more["empty"]),
        "noValue": more["empty"],
        "min": 0,
    }
    return panel(
        "stat", title, description, unit, [target], defaults=defaults, options=options, **more
    )


def bars(title: str, description: str, unit: str, *targets: Json, **more: Any) -> Json:
    """Build horizontal bars, one per series."""
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "showUnfilled": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    defaults = {"noValue": more.get("empty", "none"), "min": 0}
    if unit == "short":  # an increase is extrapolated, and seldom whole
        defaults["decimals"] = 0
    return panel(
        "bargauge", title, description, unit, targets, defaults=defaults, options=options, **more
    )


def heatmap(title: str, description: str, of_rows: str, target: Json, **more: Any) -> Json:
    """Build a heatmap of a histogram's buckets; `of_rows` is the unit of what was measured."""
    options = {
        "calculate": False,
        "rowsFrame": {"layout": "auto"},
        "yAxis": {"unit": of_rows, "axisPlacement": "left"},
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 32},
        "cellGap": 1,
        "filterValues": {"le": 1e-9},
        "tooltip": {"mode": "single", "yHistogram": False},
        "legend": {"show": True},
    }
    return panel(
        "heatmap",
        title,
        description,
        "short",
        [{**target, "format": "heatmap"}],
        options=options,
        defaults={"noValue": more.get("empty", "no data")},
        **more,
    )


def table(
    title: str,
    description: str,
    key: str,
    columns: Mapping[str, tuple[str, str, Json | None]],
    **more: Any,
) -> Json:
    """Build a table: a row per value of the label `key`, a column per query.

    A column is its query, its unit and the colours of its numbers.
    """
    targets = [{**now(expr), "format": "table"} for expr, _, _ in columns.values()]
    overrides = []
    for name, (_, unit, colours) in columns.items():
        properties: list[Json] = [{"id": "unit", "value": unit}]
        if unit == "short":
            properties.append({"id": "decimals", "value": 0})
        if colours is not None:
            properties += [
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
                {"id": "thresholds", "value": colours},
            ]
        overrides.append({"matcher": {"id": "byName", "options": name}, "properties": properties})
    # Of a single query Grafana calls the column Value, of several Value #A, Value #B.
    several = [f"Value #{chr(ord('A') + index)}" for index in range(len(columns))]
    names = dict(zip(several if len(columns) > 1 else ["Value"], columns, strict=True))
    transformations: list[Json] = [
        {
            "id": "filterFieldsByName",
            "options": {"include": {"pattern": f"^{key}$|^Value.*$"}},
        }
    ]
    if len(columns) > 1:
        transformations.append(
            {"id": "joinByField", "options": {"byField": key, "mode": "outer"}},
        )
    transformations.append(
        {"id": "organize", "options": {"renameByName": names, "excludeByName": {}}},
    )
    return panel(
        "table",
        title,
        description,
        "short",
        targets,
        overrides=[*overrides, *more.pop("cells", [])],
        defaults={"noValue": more.pop("empty", "")},
        options={
            "showHeader": True,
            "sortBy": [{"displayName": next(iter(columns)), "desc": True}],
        },
        transformations=transformations,
        **more,
    )


def asked_variable(name: str, label: str, values: str, all_of_them: str | None = None) -> Json:
    """Build a variable whose values Prometheus knows; all of them are chosen at first.

    `all_of_them` is the pattern for that; None lists the values.
    """
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "definition": values,
        "query": {"qryType": 1, "query": values, "refId": "PrometheusVariableQueryEditor"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": all_of_them,
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
        "regex": "",
        "hide": 0,
    }


def chosen_variable(name: str, label: str, choices: Mapping[str, str]) -> Json:
    """Build a variable with values of its own, of which one is chosen, the first at first."""
    options = [
        {"text": text, "value": value, "selected": index == 0}
        for index, (text, value) in enumerate(choices.items())
    ]
    return {
        "type": "custom",
        "name": name,
        "label": label,
        "query": ", ".join(f"{text} : {value}" for text, value in choices.items()),
        "multi": False,
        "includeAll": False,
        "current": {name: options[0][name] for name in ("text", "value")},
        "options": options,
        "hide": 0,
    }


def written_variable(name: str, label: str, value: str) -> Json:
    """Build a variable a person may write over."""
    written = {"text": value, "value": value}
    return {
        "type": "textbox",
        "name": name,
        "label": label,
        "query": value,
        "current": written,
        "options": [{**written, "selected": True}],
        "hide": 0,
    }


def source_variable() -> Json:
    """Build the variable that says which Prometheus is asked."""
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "hide": 0,
    }


def board(
    uid: str,
    title: str,
    description: str,
    panels: Iterable[Json],
    variables: Iterable[Json],
    tag: str,
) -> Json:
    """Build a board: each row of panels is as wide as the screen; it links to all of its tag."""
    placed: list[Json] = []
    x = y = 0
    for built in panels:
        place = {"h": HEIGHT, "w": built["gridPos"]["w"], "x": x, "y": y}
        placed.append({"id": len(placed) + 1, **built, "gridPos": place})
        x += place["w"]
        if x == WIDTH:
            x, y = 0, y + HEIGHT
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [tag],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "title": "The other boards",
                "tags": [tag],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "dashboard",
                "tooltip": "",
                "url": "",
            }
        ],
        "templating": {"list": list(variables)},
        "panels": placed,
    }
