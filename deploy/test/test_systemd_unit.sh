#!/bin/sh
# systemd accepts the unit, with the program under test in the place of the installed one. $1: gate64
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed "s|^ExecStart=/usr/bin/gate64|ExecStart=$1|" deploy/systemd/gate64.service >"$work/gate64.service"
complaints=$(systemd-analyze verify "$work/gate64.service" 2>&1) || { echo "$complaints"; exit 1; }
[ -z "$complaints" ] || { echo "$complaints"; exit 1; }
echo "unit: accepted by $(systemctl --version | head -n 1)"
