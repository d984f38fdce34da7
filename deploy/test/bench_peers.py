#!/usr/bin/env python3
"""gate64, tayga with nftables masquerade, the kernel's NAT44, the kernel's IPv6 forwarding and a null forwarder on one topology
with one generator: each round measures every one of them once, there and back, and ratios are those within a round. As root.
On veth and few cores rates are the machine's; only ratios mean something."""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from interoperation.bench import PREFIX, Bench  # noqa: E402
from interoperation.network import Failed  # noqa: E402

NULL, GATE64, TAYGA, NAT44 = "null forwarder", "gate64", "tayga and masquerade", "kernel NAT44"
ROUNDS_MIN = 3
# gate64 beside another: at least this much of it (goals of the project).
GOALS = {NULL: 0.95, TAYGA: 3.0, NAT44: 1.0}
GREETINGS = 5
STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(Exception):
    """Told to stop."""


def gate64(net):
    program = net.start_gate64()
    return lambda: net.stop(program)


def null(net):
    mac = {end: net.run("tester", "cat", f"/sys/class/net/{end}/address").strip() for end in ("i0", "r0")}
    log = net.work / "null.log"
    program = net.start("device", log, net.gate64, "bench", "forward", "lan", mac["i0"], "--and", "wan", mac["r0"])
    net.wait_for("it forwards", program, log, lambda: "forwards between" in log.read_text())
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


PEERS = {NULL: ("ipv6", null), GATE64: ("nat64", gate64), TAYGA: ("nat64", tayga), NAT44: ("nat44", masquerade),
         "kernel IPv6 forwarding": ("ipv6", kernel)}


def greet(net, kind):
    """Waits until frames come back both ways: a smallest trial of the tester. A device that says that it is ready may still have
    to learn its neighbours."""
    for _ in range(GREETINGS):
        code, _, errors = net.tester(kind, "rfc8219", "--sessions", "16", "--frame-octets", "84", "--duration", "0.02", "--repeats",
                                     "1", "--resolution", "0.5", "--rate-max", "1000", "--timeout", "0.2", "--loss-tolerance", "0.5")
        if code == 0 or "answers nothing" not in errors:
            break
    if code != 0:
        raise Failed(errors.strip().splitlines()[-1] if errors.strip() else f"the tester ends with {code}")


def measure(net, options, kind, start):
    """Frames per second and direction, and whether the tester was the limit."""
    stop = start(net)
    try:
        greet(net, kind)
        code, said, errors = net.tester(kind, "rfc9693", "--sessions", options.sessions, "--duration", options.seconds,
                                        "--repeats", "1", "--resolution", "0.02", "--rate-max", options.rate_max, "--timeout", "0.2",
                                        "--loss-tolerance", options.loss, "--json", seconds=60 + 40 * options.seconds)
    except subprocess.TimeoutExpired as late:
        raise Failed(f"the tester does not end within {late.timeout:.0f} s") from None
    finally:
        stop()
    if code != 0:
        raise Failed(errors.strip().splitlines()[-1] if errors.strip() else f"the tester ends with {code}")
    result = next(one for one in json.loads(said)["results"] if one["key"] == "throughput")
    return result["median"], result["limited_by_tester"]


def spread(values):
    ordered = sorted(values)
    return statistics.median(ordered), ordered[0], ordered[-1]


def rounds(net, options, done):
    """Adds one dictionary of (rate, limited by the tester) for each round that is whole, while there is time for another."""
    longest = 0
    deadline = time.monotonic() + 60 * options.minutes
    while len(done) < options.rounds and time.monotonic() + longest < deadline:
        began = time.monotonic()
        this = {}
        # There and back, so that what drifts does not favour one of them.
        for name in list(PEERS) if len(done) % 2 == 0 else list(PEERS)[::-1]:
            try:
                this[name] = measure(net, options, *PEERS[name])
            except Failed as fault:
                raise Failed(f"{name}: {fault}") from None
            print(f"round {len(done) + 1}: {name}: {this[name][0]:.0f}", file=sys.stderr, flush=True)
        done.append(this)
        longest = max(longest, time.monotonic() - began)
    if len(done) < min(ROUNDS_MIN, options.rounds):
        raise Failed(f"{len(done)} rounds in {options.minutes:g} minutes are too few for a ratio: raise --minutes, or lower --seconds")


def report(options, done, complete):
    """The results as one object."""
    rates = {name: [one[name][0] for one in done] for name in PEERS}
    peers = {}
    for name, own in rates.items():
        median, low, high = spread(own)
        ratio = spread([one / base for one, base in zip(own, rates[NULL])])
        peers[name] = {"rate": {"median": median, "minimum": low, "maximum": high},
                       "to_null": {"median": ratio[0], "minimum": ratio[1], "maximum": ratio[2]},
                       "limited_by_tester": any(one[name][1] for one in done), "rates": own}
    goals = {}
    for name, goal in GOALS.items():
        median, low, high = spread([ours / theirs for ours, theirs in zip(rates[GATE64], rates[name])])
        goals[name] = {"median": median, "minimum": low, "maximum": high, "goal": goal, "met": median >= goal}
    return {"complete": complete, "rounds": len(done), "sessions": options.sessions, "seconds": options.seconds,
            "loss_tolerance": options.loss, "cores": os.cpu_count(), "cpu": cpu(), "kernel": os.uname().release,
            "frame_octets": 84, "interfaces": "veth, AF_XDP in copy mode", "peers": peers, "gate64_to": goals}


def cpu():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def table(all_of_it):
    """The report for people."""
    one = all_of_it
    if not one["complete"]:
        print("INTERRUPTED: what follows are the rounds that were whole.")
    print(f"{one['cpu']}, {one['cores']} cores, Linux {one['kernel']}, {one['interfaces']}\n"
          f"{one['sessions']} sessions, frames of 84 octets (64 on IPv4) both ways, trials of {one['seconds']:g} s that may lose "
          f"{100 * one['loss_tolerance']:g} %, {one['rounds']} rounds, interleaved\n")
    print(f"{'':24} {'frames/s, each direction':>32}   {'to the null forwarder':>26}")
    print(f"{'':24} {'median':>10} {'least':>10} {'most':>10}   {'median':>8} {'least':>8} {'most':>8}")
    for name, peer in one["peers"].items():
        limited = "  limited by the tester" if peer["limited_by_tester"] else ""
        print("{:24} {:10.0f} {:10.0f} {:10.0f}   {:8.2f} {:8.2f} {:8.2f}".format(
            name, *peer["rate"].values(), *peer["to_null"].values()) + limited)
    print()
    for name, goal in one["gate64_to"].items():
        verdict = "ok" if goal["met"] else "MISSED"
        print(f"gate64 to {name}: {goal['median']:.2f} ({goal['minimum']:.2f} to {goal['maximum']:.2f}), goal {goal['goal']:g}: {verdict}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gate64", type=pathlib.Path, help="the program")
    parser.add_argument("--rounds", type=int, default=9, help="at most (9)")
    parser.add_argument("--minutes", type=float, default=7, help="no further round begins that would take longer than this (7)")
    parser.add_argument("--sessions", type=int, default=1000, help="(1000)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a trial (0.5)")
    parser.add_argument("--loss", type=float, default=0.01, help="the part of frames that a trial may lose (0.01)")
    parser.add_argument("--rate-max", type=int, default=600_000, help="highest rate tried (600000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def told_to_stop(number, _frame):
    raise Interrupted(signal.Signals(number).name)


def main():
    options = arguments()
    if os.geteuid() != 0:
        print("bench-peers: network namespaces need root", file=sys.stderr)
        return 4
    # The signals wait until there is something that is to be removed.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    for number in STOP:
        signal.signal(number, told_to_stop)
    work = pathlib.Path(tempfile.mkdtemp())
    net = Bench(str(options.gate64.resolve()), work)
    done, fault = [], None
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
        net.build()
        rounds(net, options, done)
    except (Failed, Interrupted) as error:
        fault = error
    finally:
        # What is to be removed is removed whole.
        for number in STOP:
            signal.signal(number, signal.SIG_IGN)
        net.remove()
        shutil.rmtree(work)
    if isinstance(fault, Failed):
        print(f"bench-peers: {fault}", file=sys.stderr)
        return 1
    if done:
        found = report(options, done, complete=fault is None)
        print(json.dumps(found, indent=2)) if options.json else table(found)
    if fault:
        print(f"bench-peers: interrupted by {fault} after {len(done)} whole rounds", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
