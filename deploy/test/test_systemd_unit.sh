#!/bin/sh
# systemd accepts the units, with the program under test in the place of the installed one. $1: gate64
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for unit in gate64.service gate64-share@.service; do
    # A template is verified by an instance of it.
    instance=$(echo "$unit" | sed 's/@/@lan/')
    sed "s|^ExecStart=/usr/bin/gate64|ExecStart=$1|" "deploy/systemd/$unit" >"$work/$instance"
    complaints=$(systemd-analyze verify "$work/$instance" 2>&1) || { echo "$complaints"; exit 1; }
    [ -z "$complaints" ] || { echo "$complaints"; exit 1; }
done
echo "unit: accepted by $(systemctl --version | head -n 1)"
