#!/bin/sh
# promtool accepts the scrape configuration and the rules, and every alert fires on its fault and on no other.
set -eu
cd "$(dirname "$0")/../prometheus"
promtool check config prometheus.yml
promtool test rules rules/gate64.test.yml

# The guide lists exactly the alerts that there are, with their severities.
listed=$(sed -n 's/^| `\(Gate64[A-Za-z]*\)` | \([a-z]*\) |.*/\1 \2/p' ../../docs/src/operator/monitor.md | sort)
present=$(awk '/- alert:/ {name = $3} /severity:/ {gsub(/[{}]/, ""); print name, $3}' rules/gate64.rules.yml | sort)
if [ "$listed" != "$present" ]; then
    echo "docs/src/operator/monitor.md lists other alerts than the rules have:"
    printf '%s\n' "$listed" >"${TMPDIR:-/tmp}/alerts.$$"
    printf '%s\n' "$present" | diff "${TMPDIR:-/tmp}/alerts.$$" - || true
    rm -f "${TMPDIR:-/tmp}/alerts.$$"
    exit 1
fi
# … and a test for each.
printf '%s\n' "$present" | while read -r alert _; do
    grep -q "alertname[=:] *\"\{0,1\}$alert" rules/gate64.test.yml || { echo "rules/gate64.test.yml has no test of $alert"; exit 1; }
done
echo "rules: $(printf '%s\n' "$present" | wc -l) alerts, each tested and listed in the guide"
