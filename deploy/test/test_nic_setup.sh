#!/bin/sh
# The NIC set-up prints its commands for every driver, refuses what it does not know, and works on a real veth pair.
set -eu
cd "$(dirname "$0")/../nic"
namespace=g64-nic-$$
trap 'ip netns delete "$namespace" 2>/dev/null || true' EXIT

for driver in mlx5_core ice i40e ixgbe virtio_net veth; do
    printed=$(./setup.sh --print --driver "$driver" --side both --queues 4 eth0)
    case $printed in
    *"ethtool -L eth0 "*4*) ;;
    *) echo "no queues for $driver: $printed"; exit 1 ;;
    esac
done
for wrong in "--side v6 eth0" "--queues 4 eth0" "--side v5 --queues 4 eth0" "--side v6 --queues 0 eth0" "--side v6 --queues 4"; do
    # shellcheck disable=SC2086 # words
    if ./setup.sh --print --driver veth $wrong >/dev/null 2>&1; then echo "accepted: $wrong"; exit 1; fi
done
if ./setup.sh --print --driver e1000 --side v6 --queues 4 eth0 >/dev/null 2>&1; then echo "accepted an unknown driver"; exit 1; fi

ip netns add "$namespace"
ip -n "$namespace" link add near numrxqueues 2 numtxqueues 2 type veth peer name far numrxqueues 2 numtxqueues 2
ip netns exec "$namespace" ./setup.sh --side both --queues 2 near >/dev/null
offloads=$(ip netns exec "$namespace" ethtool -k near)
for offload in tx-checksumming tcp-segmentation-offload generic-segmentation-offload; do
    echo "$offloads" | grep -q "^$offload: off" || { echo "$offload is still on"; exit 1; }
done
echo "nic: commands for 6 drivers; those for veth run"
