#!/bin/sh
# Sets a NIC up for gate64: queues, offloads and which fields its hash takes. Run it before gate64 starts, once for each
# interface; after a reboot again. docs/src/operator/nic.md says why, and where each command is documented.
set -eu

usage() {
    cat >&2 <<'TEXT'
usage: setup.sh [--print] [--driver NAME] --side v6|v4|both --queues N INTERFACE
  --side     what the interface carries: the IPv6 clients, the IPv4 Internet, or both
  --queues   RX queues, and so workers; the same number on every interface
  --print    print the commands and run nothing
  --driver   take this driver instead of asking the interface
drivers: mlx5_core ice i40e ixgbe virtio_net veth
TEXT
    exit 2
}

print_only=
driver=
side=
queues=
while [ $# -gt 1 ]; do
    case $1 in
    --print) print_only=1 ;;
    --driver) driver=$2 && shift ;;
    --side) side=$2 && shift ;;
    --queues) queues=$2 && shift ;;
    *) usage ;;
    esac
    shift
done
[ $# -eq 1 ] || usage
interface=$1
case $interface in -*) usage ;; esac
case $side in v6 | v4 | both) ;; *) usage ;; esac
case $queues in '' | 0 | *[!0-9]*) usage ;; esac
[ -n "$driver" ] || driver=$(ethtool -i "$interface" | sed -n 's/^driver: //p')

run() {
    echo "$*"
    [ -n "$print_only" ] || "$@"
}

# Hash IPv6 on the source alone and IPv4 on the destination alone, so that all of an address's packets come to one queue.
hash_on_one_address() {
    if [ "$side" != v4 ]; then
        run ethtool -N "$interface" rx-flow-hash tcp6 s
        run ethtool -N "$interface" rx-flow-hash udp6 s
    fi
    if [ "$side" != v6 ]; then
        run ethtool -N "$interface" rx-flow-hash tcp4 d
        run ethtool -N "$interface" rx-flow-hash udp4 d
    fi
}

# Hash UDP on its ports too, where the hash cannot be told to take one address.
hash_on_ports() {
    [ "$side" = v4 ] || run ethtool -N "$interface" rx-flow-hash udp6 sdfn
    [ "$side" = v6 ] || run ethtool -N "$interface" rx-flow-hash udp4 sdfn
}

case $driver in
mlx5_core | ice | i40e | ixgbe)
    run ethtool -L "$interface" combined "$queues"
    run ethtool -X "$interface" equal "$queues"
    # XDP refuses LRO; a tag that the NIC takes off never reaches gate64.
    run ethtool -K "$interface" lro off rxvlan off
    if [ "$driver" = ixgbe ]; then hash_on_ports; else hash_on_one_address; fi
    ;;
virtio_net)
    run ethtool -L "$interface" combined "$queues"
    # The host may not merge packets, and has to compute checksums.
    run ethtool -K "$interface" lro off
    ;;
veth)
    run ethtool -L "$interface" rx "$queues" tx "$queues"
    # Checksums and segments that this end leaves to an offload would reach the other end undone.
    run ethtool -K "$interface" tx off tso off gso off
    ;;
*)
    echo "setup.sh: no recipe for the driver «$driver» of $interface: set the number of queues with ethtool -L, turn LRO off, and see docs/src/operator/nic.md" >&2
    exit 1
    ;;
esac
