#!/bin/sh
# `gate64 check` accepts the example configuration, as it is and with every key that is commented out put in. $1: gate64
set -eu
cd "$(dirname "$0")/../.."
gate64=$1
namespace=g64-example-$$
work=$(mktemp -d)
trap 'ip netns delete "$namespace" 2>/dev/null || true; rm -rf "$work"' EXIT

# The example's interfaces, so that check finds them.
ip netns add "$namespace"
ip -n "$namespace" link add ens1f0 type veth peer name ens1f1

sed 's/^#\([^ ]\)/\1/' deploy/gate64.toml >"$work/full.toml"
for file in deploy/gate64.toml "$work/full.toml"; do
    if ! ip netns exec "$namespace" "$gate64" check --config "$file" >"$work/out" 2>&1; then
        cat "$work/out"
        echo "gate64 check refuses $file"
        exit 1
    fi
    # A program that says nothing has checked nothing.
    grep -q 64:ff9b "$work/out" || { cat "$work/out"; echo "gate64 check does not print its plan for $file"; exit 1; }
done
echo "example: accepted, also with all $(diff deploy/gate64.toml "$work/full.toml" | grep -c '^>') commented keys"
