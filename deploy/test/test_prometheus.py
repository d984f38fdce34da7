#!/usr/bin/env python3
"""A real Prometheus scrapes a running gate64 (the lab, with traffic): every expression of the rules and of the
dashboard is understood and finds data, no alert is raised, and the reference lists exactly the metrics there are.
Usage: test_prometheus.py GATE64, as root."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules" / "gate64.rules.yml"
IN_GATEWAY = ["ip", "netns", "exec", "g64-gateway"]
PROMETHEUS = "127.0.0.1:19090"  # inside the gateway's namespace
METRICS = "http://[::1]:9464/metrics"
TRAFFIC = ["curl", "-sS", "-o", "/dev/null", "--max-time", "40", "http://v4only.lab.test/"]
SCRAPES = 12  # seconds, and so samples of every series
TIMES = 3  # before a fault is one
COMPARISON = re.compile(r"^(.*) (?:==|!=|>|<|>=|<=) [0-9.]+$", re.DOTALL)


def output(command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120, **options).stdout


def ask(path, **parameters):
    """Prometheus' HTTP API: the data of its answer, or why there is none."""
    command = [*IN_GATEWAY, "curl", "-sS", "--max-time", "10", "--get", f"http://{PROMETHEUS}/api/v1/{path}"]
    for name, value in parameters.items():
        command += ["--data-urlencode", f"{name}={value}"]
    answer = json.loads(output(command))
    if answer["status"] != "success":
        raise RuntimeError(answer["error"])
    return answer["data"]


def start_prometheus(work):
    for folder in ("rules", "data"):
        (work / folder).mkdir()
    (work / "rules" / RULES.name).write_text(RULES.read_text())
    configuration = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text().replace("15s", "1s")
    (work / "prometheus.yml").write_text(configuration)
    return subprocess.Popen(
        [*IN_GATEWAY, "prometheus", f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/data",
         f"--web.listen-address={PROMETHEUS}", "--log.level=warn"],
        stdout=subprocess.DEVNULL, stderr=(work / "log").open("w"))


def wait_ready(prometheus, work):
    for _ in range(60):
        if prometheus.poll() is not None:
            break
        ready = subprocess.run([*IN_GATEWAY, "curl", "-sf", f"http://{PROMETHEUS}/-/ready"], capture_output=True)
        if ready.returncode == 0:
            return
        time.sleep(0.5)
    raise RuntimeError(f"Prometheus does not start:\n{(work / 'log').read_text()}")


def dashboard_expressions():
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "gate64.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "10s").replace("$instance", ".*")
            yield f"dashboard «{panel['title']}»", expression


def rule_expressions(groups):
    """What each rule measures: of an alert, the side before the comparison, which has a value while all is well."""
    for rule in (rule for group in groups for rule in group["rules"]):
        comparison = COMPARISON.match(rule["query"])
        yield f"rule {rule['name']}", comparison[1] if comparison else rule["query"]


def faults_of_expressions(groups):
    for name, expression in [*dashboard_expressions(), *rule_expressions(groups)]:
        try:
            found = ask("query", query=expression)["result"]
        except RuntimeError as error:
            yield f"{name}: {error}: {expression}"
            continue
        if not found:
            yield f"{name}: finds no data: {expression}"


def faults_of_rules(groups):
    for rule in (rule for group in groups for rule in group["rules"]):
        if rule["health"] != "ok":
            yield f"rule {rule['name']} is {rule['health']}: {rule.get('lastError', '')}"
    for alert in ask("alerts")["alerts"]:
        yield f"alert {alert['labels']['alertname']} is {alert['state']} on a gateway that is well: {alert['labels']}"


def faults_of_metrics(page):
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
    yield from (f"promtool check metrics: {line}" for line in (checked.stdout + checked.stderr).splitlines())
    present = set(re.findall(r"^# TYPE (gate64_\w+) ", page, re.MULTILINE))
    reference = (ROOT / "docs" / "src" / "reference" / "metrics.md").read_text()
    rows = re.findall(r"^\| (`gate64_.*?) \|", reference, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"gate64_\w+", row)}
    yield from (f"{name} is not in docs/src/reference/metrics.md" for name in sorted(present - listed))
    yield from (f"{name} stands in docs/src/reference/metrics.md but is not exported" for name in sorted(listed - present))


def faults(gate64, work):
    prometheus = start_prometheus(work)
    try:
        wait_ready(prometheus, work)
        # On a busy machine scrapes may come late, and a gateway may need a moment until all is well.
        for _ in range(TIMES):
            for _ in range(SCRAPES):
                subprocess.run([gate64, "lab", "exec", "client", "--", *TRAFFIC], check=True, timeout=60)
                time.sleep(1)
            groups = ask("rules")["groups"]
            found = [*faults_of_expressions(groups), *faults_of_rules(groups)]
            if not found:
                break
        yield from found
        yield from faults_of_metrics(output([*IN_GATEWAY, "curl", "-sS", "--max-time", "10", METRICS]))
    finally:
        prometheus.terminate()
        prometheus.wait(timeout=120)


def main():
    gate64 = sys.argv[1]
    subprocess.run([gate64, "lab", "up"], check=True, stdout=subprocess.DEVNULL, timeout=120)
    try:
        with tempfile.TemporaryDirectory() as work:
            found = list(faults(gate64, pathlib.Path(work)))
    finally:
        subprocess.run([gate64, "lab", "down"], check=True, stdout=subprocess.DEVNULL, timeout=60)
    print("\n".join(found) or "prometheus: every expression finds data, every metric is documented")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
