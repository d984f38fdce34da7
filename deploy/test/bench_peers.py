#!/usr/bin/env python3
"""gate64, tayga with nftables masquerade, the kernel's NAT44, the kernel's IPv6 forwarding and a null forwarder on one topology
with one generator: each round measures every one of them once, and ratios are those within a round.
Usage: bench_peers.py GATE64 [ROUNDS], as root. On veth and few cores rates are the machine's; only ratios mean something."""

import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from interoperation.bench import PREFIX, Bench  # noqa: E402
from interoperation.network import Failed, wait_until  # noqa: E402

SESSIONS = os.environ.get("SESSIONS", "1000")
SECONDS = os.environ.get("SECONDS_EACH", "1")
NULL = "null forwarder"


def gate64(net):
    program = net.start_gate64()
    return lambda: net.stop(program)


def null(net):
    mac = {end: net.run("tester", "cat", f"/sys/class/net/{end}/address").strip() for end in ("i0", "r0")}
    program = net.start("device", net.work / "null.log", net.gate64, "bench", "forward", "lan", mac["i0"], "--and", "wan", mac["r0"])
    wait_until("the null forwarder runs", lambda: "forwards between" in (net.work / "null.log").read_text())
    return lambda: net.stop(program)


def kernel(net):
    net.forwarding(True)
    return lambda: net.forwarding(False)


def masquerade(net):
    net.forwarding(True)
    net.run("device", "nft", "table ip n {\nchain p {\ntype nat hook postrouting priority 100\noif wan masquerade\n}\n}\n")

    def stop():
        net.run("device", "nft", "flush", "ruleset")
        net.forwarding(False)
    return stop


def tayga(net):
    stop_masquerade = masquerade(net)
    data = net.work / "tayga"
    data.mkdir(exist_ok=True)
    config = net.work / "tayga.conf"
    config.write_text(f"tun-device nat64\nipv4-addr 10.64.0.1\nipv6-addr 2001:db8:3::1\nprefix {PREFIX}\n"
                      f"dynamic-pool 10.64.0.0/16\ndata-dir {data}\n")
    net.run("device", "tayga", "--mktun", "-c", config)
    net.ip("device", "link set nat64 up", "-4 route add 10.64.0.0/16 dev nat64", f"-6 route add {PREFIX} dev nat64")
    program = net.start("device", net.work / "tayga.log", "tayga", "--nodetach", "-c", config)

    def stop():
        net.stop(program)
        net.run("device", "tayga", "--rmtun", "-c", config)
        shutil.rmtree(data)
        stop_masquerade()
    return stop


PEERS = [(NULL, "ipv6", null), ("gate64", "nat64", gate64), ("tayga and masquerade", "nat64", tayga),
         ("kernel NAT44", "nat44", masquerade), ("kernel IPv6 forwarding", "ipv6", kernel)]


def measure(net, kind, start):
    """Frames per second and direction."""
    stop = start(net)
    try:
        time.sleep(0.5)
        code, said, errors = net.tester(kind, "rfc9693", "--sessions", SESSIONS, "--duration", SECONDS, "--repeats", "1",
                                        "--resolution", "0.05", "--rate-max", "1000000", "--timeout", "0.2", "--loss-tolerance", "0.01",
                                        "--json", seconds=300)
    finally:
        stop()
    if code != 0:
        raise Failed(errors.strip().splitlines()[-1] if errors.strip() else f"the tester ends with {code}")
    result = next(one for one in json.loads(said)["results"] if one["key"] == "throughput")
    return result["median"], result["limited_by_tester"]


def spread(values):
    ordered = sorted(values)
    return statistics.median(ordered), ordered[0], ordered[-1]


def table(rates, by_tester):
    print(f"{'':24} {'frames/s, each direction':>38}   {'to the null forwarder':>26}")
    print(f"{'':24} {'median':>12} {'least':>12} {'most':>12}   {'median':>8} {'least':>8} {'most':>8}")
    for name, _, _ in PEERS:
        if not rates[name]:
            continue
        row = "{:24} {:12.0f} {:12.0f} {:12.0f}".format(name, *spread(rates[name]))
        pairs = [one / base for one, base in zip(rates[name], rates[NULL]) if base]
        print(row, "  {:8.2f} {:8.2f} {:8.2f}".format(*spread(pairs)), "  limited by the tester" if by_tester[name] else "")
    for other in ("tayga and masquerade", "kernel NAT44"):
        if rates[other] and rates["gate64"]:
            ratio = [ours / theirs for ours, theirs in zip(rates["gate64"], rates[other])]
            print("gate64 to {}: {:.2f} ({:.2f} to {:.2f})".format(other, *spread(ratio)))


def main():
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    work = pathlib.Path(tempfile.mkdtemp())
    net = Bench(str(pathlib.Path(sys.argv[1]).resolve()), work)
    rates = {name: [] for name, _, _ in PEERS}
    by_tester = dict.fromkeys(rates, False)
    try:
        net.build()
        for number in range(rounds):
            # There and back, so that what drifts does not favour one of them.
            for name, kind, start in PEERS if number % 2 == 0 else PEERS[::-1]:
                rate, limited = measure(net, kind, start)
                rates[name].append(rate)
                by_tester[name] |= limited
                print(f"round {number + 1} of {rounds}: {name}: {rate:.0f}", file=sys.stderr, flush=True)
    except Failed as fault:
        print(f"bench-peers: {name}: {fault}", file=sys.stderr)
        return 1
    finally:
        net.remove()
        shutil.rmtree(work)
    print(f"{SESSIONS} sessions, frames of 84 octets (64 on IPv4), trials of {SECONDS} s that may lose 1 %, {rounds} rounds, "
          f"{os.cpu_count()} cores, Linux {os.uname().release}, veth in copy mode")
    table(rates, by_tester)
    return 0


if __name__ == "__main__":
    sys.exit(main())
