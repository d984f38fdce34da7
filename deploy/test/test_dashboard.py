#!/usr/bin/env python3
"""The Grafana dashboard follows Grafana's schema, and is one that people can read."""

import json
import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".cache" / "python" / "bin" / "python"
if pathlib.Path(sys.prefix) != PYTHON.parents[1]:
    os.execv(PYTHON, [PYTHON, *sys.argv])  # the schema's types are in `make deps`' own place

from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: E402
from grafana_foundation_sdk.cog.plugins import register_default_plugins  # noqa: E402
from grafana_foundation_sdk.models.dashboard import Dashboard  # noqa: E402


def lost(given, kept, path="dashboard"):
    """What a trip through the schema's types loses or changes: keys and values that Grafana does not know."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from lost(value, kept[key], f"{path}.{key}")
            elif value not in (None, [], {}, "", False):
                yield f"{path}.{key} is not in Grafana's schema"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept)):
            yield from lost(one, other, f"{path}[{number}]")
    elif given != kept:
        yield f"{path} is {given!r}, which Grafana's schema reads as {kept!r}"


def overlap(one, other):
    a, b = one["gridPos"], other["gridPos"]
    return a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


def unreadable(dashboard):
    panels = dashboard["panels"]
    if len({panel["id"] for panel in panels}) != len(panels):
        yield "two panels have one id"
    for number, panel in enumerate(panels):
        title = panel["title"]
        if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24:
            yield f"«{title}» is wider than the page"
        for other in panels[:number]:
            if overlap(panel, other):
                yield f"«{title}» lies over «{other['title']}»"
        if panel["type"] == "row":
            continue
        if not panel.get("description", "").endswith("."):
            yield f"«{title}» has no description"
        if not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"«{title}» has no unit"
        for target in panel["targets"]:
            if panel["datasource"]["uid"] != "${datasource}" or target["datasource"]["uid"] != "${datasource}":
                yield f"«{title}» names a data source of its own"
            for metric in re.findall(r"gate64_\w+\{[^}]*", target["expr"]):
                if 'instance=~"$instance"' not in metric:
                    yield f"«{title}» does not follow the choice of gateways: {metric}"


def main():
    register_default_plugins()
    given = json.loads((ROOT / "deploy" / "grafana" / "gate64.json").read_text())
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))
    faults = [*lost(given, kept), *unreadable(given)]
    print("\n".join(faults) or f"dashboard: {len(given['panels'])} panels, as Grafana's schema wants them")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
