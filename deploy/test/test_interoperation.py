#!/usr/bin/env python3
"""gate64 between real kernels and programs of other origins: path MTU discovery, pings in fragments, a STUN client's verdict,
traceroutes, simultaneous opens and FTP. Usage: test_interoperation.py GATE64, as root."""

import os
import pathlib
import shutil
import sys
import tempfile
import time

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".cache" / "python" / "bin" / "python"
if pathlib.Path(sys.prefix) != PYTHON.parents[1]:
    os.execv(PYTHON, [str(PYTHON), *sys.argv])  # make deps put scapy and pyftpdlib there

from interoperation import path_mtu, programs, simultaneous_open  # noqa: E402
from interoperation.network import Failed  # noqa: E402
from interoperation.topology import Topology  # noqa: E402

CHECKS = [
    ("path MTU, IPv6 sender, narrow IPv4 link behind a router", path_mtu.from6_beyond),
    ("path MTU, IPv4 sender, narrow IPv6 link behind a router", path_mtu.from4_beyond),
    ("path MTU, IPv6 sender, gate64's IPv4 link is narrow", path_mtu.from6_own),
    ("path MTU, IPv4 sender, gate64's IPv6 link is narrow", path_mtu.from4_own),
    ("ping of 65000 octets from IPv6", programs.large_ping6),
    ("ping of 65000 octets from IPv4", programs.large_ping4),
    ("traceroute by UDP", lambda net: programs.traceroute(net, "-U")),
    ("traceroute by TCP", lambda net: programs.traceroute(net, "-T")),
    ("traceroute by ICMP", lambda net: programs.traceroute(net, "-I")),
    ("simultaneous open between IPv6 and IPv4", simultaneous_open.over_the_families),
    ("simultaneous open between two IPv6 hosts by hairpin", simultaneous_open.by_hairpin),
    ("FTP by EPSV", programs.ftp),
    ("STUN: endpoint-independent mapping", programs.stun_mapping),
    ("STUN: endpoint-independent filtering", lambda net: programs.stun_filtering(net, "Endpoint Independent")),
]
CHECKS_FILTERING = [
    ("STUN: address-dependent filtering when so configured", lambda net: programs.stun_filtering(net, "Address Dependent")),
]
CHECKS_UNCLAMPED = [
    ("path MTU, IPv6 sender, gate64's IPv4 link is narrow, MSS not clamped", lambda net: path_mtu.from6_own(net, clamped=False)),
    ("path MTU, IPv4 sender, gate64's IPv6 link is narrow, MSS not clamped", lambda net: path_mtu.from4_own(net, clamped=False)),
]


RUNS = [  # lines in [nat64], and what is checked with them
    ("", CHECKS),
    ('filtering = "address-dependent"', CHECKS_FILTERING),
    ('mss_clamp = "off"', CHECKS_UNCLAMPED),
]


def report(net, name, check):
    start = time.monotonic()
    try:
        found, passed = check(net), True
    except (Failed, OSError) as fault:
        found, passed = fault, False
    print(f"{'ok   ' if passed else 'FAIL '} {name} ({found}; {time.monotonic() - start:.1f} s)", flush=True)
    return passed


def main():
    work = pathlib.Path(tempfile.mkdtemp())
    net = Topology(str(pathlib.Path(sys.argv[1]).resolve()), work)
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    passed = []
    try:
        net.build()
        programs.start_servers(net)
        for nat64, checks in RUNS:
            net.start_gateway(nat64)
            passed += [report(net, name, check) for name, check in checks if wanted in name]
        if not all(passed):
            print((work / "gate64.log").read_text(), net.run("gate", net.gate64, "show", "drops", "--socket", work / "gate64.sock"))
    finally:
        net.remove()
        shutil.rmtree(work)
    print(f"interoperation: {sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if passed and all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
