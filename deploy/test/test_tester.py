#!/usr/bin/env python3
"""`gate64 bench` over interfaces against devices that are right, silent, wrong and absent: what it reports and how it ends. No
rate is judged here. Usage: test_tester.py GATE64, as root."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from interoperation.bench import Bench  # noqa: E402
from interoperation.network import Failed  # noqa: E402

SMALL = ("--quick", "--duration", "0.2", "--repeats", "1", "--resolution", "0.5", "--rate-max", "2000", "--timeout", "3",
         "--loss-tolerance", "0.5")
SESSIONS = ("--sessions", "50")


def expect(code, said, errors, wanted_code, *parts):
    if code != wanted_code or not all(part in errors for part in parts):
        raise Failed(f"ends with {code} instead of {wanted_code}, and says {errors.strip()!r} instead of {parts}")
    if code != 0 and said:
        raise Failed(f"fails, and prints a result: {said}")


def measures(net):
    page = net.work / "report.html"
    code, said, errors = net.tester("nat64", "rfc8219", *SMALL, *SESSIONS, "--frame-octets", "84,1518", "--json", "--html", page)
    expect(code, "", errors, 0, "frames of 1518 octets: frame loss rate")
    report = json.loads(said)
    keys = {(one["key"], one["frame_octets"]) for one in report["results"]}
    for key in ("throughput", "latency_typical", "latency_worst_case", "packet_delay_variation"):
        if not {(key, 84), (key, 1518)} <= keys:
            raise Failed(f"{key} is missing in {sorted(keys)}")
    if not report["complete"] or any(one["median"] <= 0 for one in report["results"]):
        raise Failed(f"the report is not whole: {said}")
    if "veth" not in report["surroundings"]["initiator"] or page.read_text().count("<svg") < 3:
        raise Failed("the report does not name the driver, or its page lacks plots")
    return f"{len(report['results'])} values"


def sessions(net):
    """With a --clear that does nothing, which the tester cannot know."""
    code, said, errors = net.tester("nat64", "rfc9693", *SMALL, *SESSIONS, "--clear", "true", "--json")
    expect(code, "", errors, 0, "50 sessions: tear-down")
    found = {one["key"] for one in json.loads(said)["results"]}
    wanted = {"connection_establishment_rate", "throughput", "connection_tear_down_rate"}
    if found != wanted:
        raise Failed(f"measures {found} instead of {wanted}")
    code, said, errors = net.tester("nat64", "rfc9693", *SMALL, *SESSIONS, "--clear", "echo no such thing >&2; false")
    expect(code, said, errors, 1, "cannot empty the device's session table", "no such thing")
    return ", ".join(sorted(found))


def echoes(net):
    """ICMP, popular flows, and a device whose workers are said to be set."""
    code, said, errors = net.tester("nat64", "rfc9693", *SMALL, *SESSIONS, "--protocol", "icmp", "--popularity", "zipf", "--workers", "1,2",
                                    "--set-workers", "test -n \"$WORKERS\"", "--json")
    expect(code, "", errors, 0, "2 workers: throughput")
    found = [(one["key"], one["workers"]) for one in json.loads(said)["results"]]
    if found != [("throughput", None), *((key, n) for n in (1, 2) for key in ("throughput", "relative_scale_up"))]:
        raise Failed(f"measures {found}")
    code, said, errors = net.tester("nat64", "rfc9693", *SMALL, *SESSIONS, "--workers", "2", "--set-workers", "echo too many >&2; false")
    expect(code, said, errors, 1, "cannot set the number of the device's workers", "too many")
    return f"{len(found)} values"


def interrupted(net):
    words = [net.gate64, "bench", "rfc8219", *SESSIONS, "--rate-max", "1000", "--frame-octets", "84",
             "--pref64", "2001:db8:64::/96", "--initiator", "i0", "--initiator-via", "2001:db8:1::1", "--responder", "r0",
             "--responder-via", "198.51.100.1"]
    # `ip netns exec` becomes the program, so the signal reaches it.
    program = subprocess.Popen(net.command("tester", *words), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = program.stderr.readline()
    if "throughput" not in first:
        raise Failed(f"measures nothing: {first}{program.stderr.read()}")
    program.send_signal(signal.SIGINT)
    said, errors = program.communicate(timeout=60)
    if program.returncode != 1 or "INTERRUPTED" not in said or "not complete" not in errors:
        raise Failed(f"ends with {program.returncode}: {said} {errors}")
    return "INTERRUPTED, exit code 1"


def silent(net):
    code, said, errors = net.tester("nat64", "rfc8219", *SMALL, *SESSIONS)
    expect(code, said, errors, 1, "the device answers nothing")
    return errors.strip().splitlines()[-1]


def wrong(net):
    """A router that is a NAT66 in truth."""
    net.forwarding(True)
    rules = "table ip6 n {\nchain p {\ntype nat hook postrouting priority 100\noif wan masquerade\n}\n}\n"
    net.run("device", "nft", rules)
    code, said, errors = net.tester("ipv6", "rfc8219", *SMALL, *SESSIONS)
    net.run("device", "nft", "flush", "ruleset")
    net.forwarding(False)
    expect(code, said, errors, 1, "the device answers wrongly", "a router made a frame from")
    return errors.strip().splitlines()[-1]


def absent(net):
    net.ip("device", "link set lan down")
    # The kernel may still know the neighbour of the checks before.
    net.ip("tester", "neighbour flush dev i0")
    code, said, errors = net.tester("nat64", "rfc8219", *SMALL, *SESSIONS)
    net.ip("device", "link set lan up")
    expect(code, said, errors, 5, "2001:db8:1::1 on i0")
    return errors.strip().splitlines()[-1]


def main():
    work = pathlib.Path(tempfile.mkdtemp())
    net = Bench(str(pathlib.Path(sys.argv[1]).resolve()), work)
    failed = 0
    try:
        net.build()
        gateway = net.start_gate64()
        for check in (measures, sessions, echoes, interrupted, silent, wrong, absent):
            if check is silent:
                net.stop(gateway)
            start = time.monotonic()
            try:
                found, word = check(net), "ok   "
            except Failed as fault:
                found, word, failed = fault, "FAIL ", failed + 1
            print(f"{word} tester: {check.__name__} ({found}; {time.monotonic() - start:.1f} s)", flush=True)
    finally:
        net.remove()
        shutil.rmtree(work)
    return failed


if __name__ == "__main__":
    sys.exit(main())
